//! Compares what landed with what `psql` says, through pyarrow and DuckDB.
//!
//! Both sides bring each value into a canonical text that loses nothing (see `readback.py`); then rows are compared as multisets.
//! The one thing taken from Lakeward is the name that a column has in the destination.

use super::lakeward::{Job, published};
use super::postgres::Database;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the readers saw.
#[derive(Debug)]
pub struct Seen {
    /// Rows, as pyarrow counts them.
    pub rows: u64,
    /// Arrow type of each column, as pyarrow names it.
    pub schema: Value,
}

/// A column in the source: name, and how its values are made comparable.
struct Column {
    name: String,
    /// The kind in `readback.py`.
    kind: String,
    /// SQL that gives the canonical text.
    text: String,
}

/// Panics unless the stream's files hold exactly the rows that the source's table holds now.
#[track_caller]
pub fn assert_same(job: &Job, database: &Database, stream: &str) -> Seen {
    assert_same_files(job, database, stream, &job.files(stream))
}

/// As [`assert_same`], for a destination rooted elsewhere.
#[track_caller]
pub fn assert_same_in(root: &Path, job: &Job, database: &Database, stream: &str) -> Seen {
    assert_same_files(job, database, stream, &published(&job.table_folder(root, stream)))
}

#[track_caller]
fn assert_same_files(job: &Job, database: &Database, stream: &str, files: &[PathBuf]) -> Seen {
    let described = job.stream(stream);
    let (namespace, name) = (described["namespace"].as_str().expect("namespace"), described["name"].as_str().expect("name"));
    let columns = columns(database, namespace, name);
    assert_ne!(columns.len(), 0, "{stream} has no columns in the source");
    let texts: Vec<&str> = columns.iter().map(|c| c.text.as_str()).collect();
    let sql = format!(
        "SET extra_float_digits = 1; SELECT to_json(ARRAY[{}]::text[]) FROM {}.{};",
        texts.join(","),
        ident(namespace),
        ident(name)
    );
    let expected = tempfile::NamedTempFile::new().expect("make a file for the expected rows");
    let rows = database.sql(&sql);
    expected.as_file().write_all(rows.as_bytes()).expect("write the expected rows");

    let in_destination = |c: &Column| {
        let property = &described["type_schema"]["properties"][&c.name];
        assert!(property.is_object(), "column {} of {stream} is not in streams.json", c.name);
        json!({"name": property["destination_column_name"].as_str().unwrap_or(&c.name), "kind": c.kind})
    };
    let columns: Vec<Value> = columns.iter().map(in_destination).collect();
    let answer = python(include_str!("readback.py"), &json!({"files": files, "columns": columns, "expected": expected.path()}));
    let problems = answer["problems"].as_array().expect("problems");
    assert!(problems.is_empty(), "{stream} differs from the source: {problems:#?}\nfiles: {files:?}\nschema: {}", answer["schema"]);
    Seen { rows: answer["rows"].as_u64().expect("rows"), schema: answer["schema"].clone() }
}

/// Number of rows in files, as pyarrow reads it from their footers.
#[track_caller]
pub fn count(files: &[PathBuf]) -> u64 {
    let script = "import json,sys,pyarrow.parquet as pq; print(sum(pq.ParquetFile(f).metadata.num_rows for f in json.load(sys.stdin)))";
    python(script, &json!(files)).as_u64().expect("a number")
}

/// The result of a DuckDB query as a list of rows; `$files` stands for a `read_parquet` of `files`.
#[track_caller]
pub fn duckdb(files: &[PathBuf], query: &str) -> Value {
    let script = "
import duckdb, json, sys
job = json.load(sys.stdin)
print(json.dumps(duckdb.sql(job['query'].replace('$files', 'read_parquet($1)'), params=[job['files']]).fetchall(), default=str))";
    python(script, &json!({"files": files, "query": query}))
}

/// Runs a script of the readers' environment with JSON in and JSON out.
#[track_caller]
pub fn python(script: &str, input: &Value) -> Value {
    let program = std::env::var_os("LAKEWARD_PYTHON").map_or_else(|| super::cache().join("venv/bin/python"), PathBuf::from);
    let spawned = Command::new(&program).args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|e| panic!("start {}: {e}; ./build.sh test prepares it", program.display()));
    child.stdin.take().expect("python has a standard input").write_all(input.to_string().as_bytes()).expect("write to python");
    let output = child.wait_with_output().expect("run python");
    assert!(output.status.success(), "python failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("python prints JSON")
}

/// Quotes a name for SQL.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The table's columns with the kind of each, judged from the server's catalog alone.
fn columns(database: &Database, namespace: &str, name: &str) -> Vec<Column> {
    // Domains are followed down to their base; an array is described by its element.
    let sql = format!(
        "WITH RECURSIVE base(attnum, attname, type, typmod) AS (
             SELECT attnum, attname, atttypid, atttypmod FROM pg_attribute
             WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped
           UNION ALL
             SELECT attnum, attname, typbasetype, typtypmod FROM base JOIN pg_type ON oid = type WHERE typtype = 'd')
         SELECT json_build_array(attname, CASE WHEN typcategory = 'A' AND typelem <> 0 THEN typelem::regtype::text ELSE '' END,
                                 CASE WHEN typcategory = 'A' AND typelem <> 0 THEN '' ELSE type::regtype::text END)
         FROM base JOIN pg_type t ON t.oid = type WHERE typtype <> 'd' ORDER BY attnum",
        literal(&format!("{}.{}", ident(namespace), ident(name)))
    );
    let rows = database.sql(&sql);
    let parse = |line: &str| {
        let (name, element, scalar): (String, String, String) = serde_json::from_str(line).expect("a row of the catalog");
        let column = ident(&name);
        let (kind, text) = if element.is_empty() {
            let (kind, text) = scalar_kind(&scalar, &column);
            (kind.to_owned(), text)
        } else {
            let (kind, text) = scalar_kind(&element, "e");
            let list = format!("(SELECT coalesce(json_agg({text} ORDER BY o)::text, '[]') FROM unnest({column}) WITH ORDINALITY u(e, o))");
            (format!("list<{kind}>"), format!("CASE WHEN {column} IS NOT NULL THEN {list} END"))
        };
        Column { name, kind, text }
    };
    rows.lines().map(parse).collect()
}

/// Kind and canonical text of a scalar value; a type that is not listed is expected as the server's own text.
fn scalar_kind(name: &str, value: &str) -> (&'static str, String) {
    match name {
        "smallint" | "integer" | "bigint" => ("int", format!("{value}::text")),
        "boolean" => ("bool", format!("{value}::text")),
        "real" => ("float4", format!("encode(float4send({value}), 'hex')")),
        "double precision" => ("float8", format!("encode(float8send({value}), 'hex')")),
        "numeric" => ("decimal", format!("{value}::text")),
        "bytea" => ("bytes", format!("encode({value}, 'hex')")),
        "uuid" => ("uuid", format!("replace({value}::text, '-', '')")),
        "date" => ("date", format!("({value} - date '1970-01-01')::text")),
        "time without time zone" => ("time", format!("(extract(epoch FROM {value}) * 1000000)::bigint::text")),
        "timestamp without time zone" | "timestamp with time zone" => {
            ("timestamp", format!("(extract(epoch FROM {value}) * 1000000)::bigint::text"))
        }
        // The gate (postgres.rs) puts itself into this cast.
        "txid_snapshot" => ("text", format!("{value}::text")),
        "oid" => ("int", format!("{value}::text")),
        // What psql shows: the output function, where a cast to text may differ (char(5) padded, inet without its /32).
        _ => ("text", format!("CASE WHEN {value} IS NOT NULL THEN format('%s', {value}) END")),
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
