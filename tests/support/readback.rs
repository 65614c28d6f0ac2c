//! Compares what landed with what `psql` says, through pyarrow and DuckDB.
//!
//! Both sides bring each value into a canonical form that loses nothing (`canonical.rs`, `readback.py`); then rows are compared as
//! multisets.
//! The one thing taken from Lakeward is the name that a column has in the destination.

use super::canonical::{Column, columns, list};
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

/// As [`assert_same`], for a table of an Iceberg warehouse at the job's lake, which DuckDB and PyIceberg read (the latter only as long as nothing
/// is deleted by key, which it refuses to read).
#[track_caller]
pub fn assert_same_iceberg(job: &Job, database: &Database, stream: &str) -> Seen {
    assert_all_same_iceberg(job, database, &[stream]).remove(0)
}

/// As [`assert_same_iceberg`] for several streams, which the readers are started for only once.
#[track_caller]
pub fn assert_all_same_iceberg(job: &Job, database: &Database, streams: &[&str]) -> Vec<Seen> {
    assert_all_same_in_lakes(job, database, streams, |stream| json!(job.table_folder(&job.lake(), stream)))
}

/// As [`assert_all_same_iceberg`], for tables that are elsewhere: a lake for each stream, as `lakes.py` describes it.
#[track_caller]
pub fn assert_all_same_in_lakes(job: &Job, database: &Database, streams: &[&str], lake: impl Fn(&str) -> Value) -> Vec<Seen> {
    let comparison = |stream: &&str| {
        let described = job.stream(stream);
        let part = |key: &str| described[key].as_str().unwrap_or_else(|| panic!("{stream} has no {key}"));
        let mut comparison = Comparison::new(job, database, stream, &[], (part("namespace"), part("name")));
        comparison.question["iceberg"] = lake(stream);
        comparison
    };
    judge(&streams.iter().map(comparison).collect::<Vec<_>>())
}

/// As [`assert_same_iceberg`], for a table that is meant to hold what another relation (`namespace.name`) of the database holds.
#[track_caller]
pub fn assert_same_iceberg_as(job: &Job, database: &Database, stream: &str, expected: &str) -> Seen {
    let mut comparison = Comparison::new(job, database, stream, &[], expected.split_once('.').expect("namespace.name"));
    comparison.question["iceberg"] = json!(job.table_folder(&job.lake(), stream));
    judge(&[comparison]).remove(0)
}

/// As [`assert_same_iceberg_as`] for several pairs of stream and relation, which the readers are started for only once.
#[track_caller]
pub fn assert_all_same_iceberg_as(job: &Job, database: &Database, pairs: &[(String, String)]) {
    let comparison = |(stream, expected): &(String, String)| {
        let mut comparison = Comparison::new(job, database, stream, &[], expected.split_once('.').expect("namespace.name"));
        comparison.question["iceberg"] = json!(job.table_folder(&job.lake(), stream));
        comparison
    };
    judge(&pairs.iter().map(comparison).collect::<Vec<_>>());
}

/// As [`assert_same`], for a table that is meant to hold what another relation (`namespace.name`) of the database holds.
#[track_caller]
pub fn assert_same_as(job: &Job, database: &Database, stream: &str, expected: &str) -> Seen {
    let (namespace, name) = expected.split_once('.').expect("namespace.name");
    compare(job, database, stream, &job.files(stream), (namespace, name))
}

/// As [`assert_same_as`] for several pairs of stream and relation, which the readers are started for only once.
#[track_caller]
pub fn assert_all_same_as(job: &Job, database: &Database, pairs: &[(String, String)]) {
    let comparisons: Vec<_> = pairs
        .iter()
        .map(|(stream, expected)| {
            Comparison::new(job, database, stream, &job.files(stream), expected.split_once('.').expect("namespace.name"))
        })
        .collect();
    judge(&comparisons);
}

#[track_caller]
fn assert_same_files(job: &Job, database: &Database, stream: &str, files: &[PathBuf]) -> Seen {
    let described = job.stream(stream);
    let part = |key: &str| described[key].as_str().unwrap_or_else(|| panic!("{stream} has no {key}"));
    compare(job, database, stream, files, (part("namespace"), part("name")))
}

#[track_caller]
fn compare(job: &Job, database: &Database, stream: &str, files: &[PathBuf], expected: (&str, &str)) -> Seen {
    judge(&[Comparison::new(job, database, stream, files, expected)]).remove(0)
}

/// What the readers are asked about one stream.
struct Comparison {
    stream: String,
    question: Value,
    /// The expected rows.
    _expected: tempfile::NamedTempFile,
}

impl Comparison {
    #[track_caller]
    fn new(job: &Job, database: &Database, stream: &str, files: &[PathBuf], (namespace, name): (&str, &str)) -> Self {
        let described = job.stream(stream);
        let columns = columns(database, namespace, name);
        assert_ne!(columns.len(), 0, "{namespace}.{name} has no columns in the source");
        let forms: Vec<String> = columns.iter().map(|c| c.form.clone()).collect();
        // COPY, because psql's own output leaves some characters out (U+10FFFF). Canonical rows hold no control characters, so the quotes
        // never come.
        let sql = format!(
            "SET jit = off; SET extra_float_digits = 1; SET intervalstyle = iso_8601;
             COPY (SELECT {} FROM {}.{} AS \"#\") TO STDOUT (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02');",
            list(&forms),
            ident(namespace),
            ident(name)
        );
        let expected = tempfile::NamedTempFile::new().expect("make a file for the expected rows");
        expected.as_file().write_all(database.sql(&sql).as_bytes()).expect("write the expected rows");

        let in_destination = |c: &Column| {
            let property = &described["type_schema"]["properties"][&c.name];
            assert!(property.is_object(), "column {} of {stream} is not in streams.json", c.name);
            json!({"name": property["destination_column_name"].as_str().unwrap_or(&c.name), "kind": c.kind})
        };
        let columns: Vec<Value> = columns.iter().map(in_destination).collect();
        let question = json!({"files": files, "columns": columns, "expected": expected.path()});
        Self { stream: stream.to_owned(), question, _expected: expected }
    }
}

#[track_caller]
fn judge(comparisons: &[Comparison]) -> Vec<Seen> {
    let questions: Vec<_> = comparisons.iter().map(|c| &c.question).collect();
    let answers = python(include_str!("readback.py"), &json!(questions));
    let mut seen = Vec::new();
    for (answer, Comparison { stream, question, .. }) in answers.as_array().expect("answers").iter().zip(comparisons) {
        let problems = answer["problems"].as_array().expect("problems");
        let (files, schema) = (&question["files"], &answer["schema"]);
        assert!(problems.is_empty(), "{stream} differs from the source: {problems:#?}\nfiles: {files}\nschema: {schema}");
        seen.push(Seen { rows: answer["rows"].as_u64().expect("rows"), schema: schema.clone() });
    }
    seen
}

/// Panics unless two sets of files hold the same cells under the same schema, sorted by a column.
#[track_caller]
pub fn assert_same_cells(left: &[PathBuf], right: &[PathBuf], key: &str) {
    let problems = python(include_str!("cells.py"), &json!({"left": left, "right": right, "key": key}));
    assert_eq!(problems, json!([]), "{left:?} and {right:?} differ");
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
duckdb.sql('SET enable_progress_bar = false')
print(json.dumps(duckdb.sql(job['query'].replace('$files', 'read_parquet($1)'), params=[job['files']]).fetchall(), default=str))";
    python(script, &json!({"files": files, "query": query}))
}

/// Runs a script of the readers' environment with JSON in and JSON out.
#[track_caller]
pub fn python(script: &str, input: &Value) -> Value {
    let program = python_program();
    let mut command = Command::new(&program);
    command.args(["-B", "-c", script]).env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support"));
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|e| panic!("start {}: {e}; ./build.sh test prepares it", program.display()));
    child.stdin.take().expect("python has a standard input").write_all(input.to_string().as_bytes()).expect("write to python");
    let output = child.wait_with_output().expect("run python");
    assert!(output.status.success(), "python failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("python prints JSON")
}

/// The Python that has the readers.
pub fn python_program() -> PathBuf {
    std::env::var_os("LAKEWARD_PYTHON").map_or_else(|| super::cache().join("venv/bin/python"), PathBuf::from)
}

/// Quotes a name for SQL.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
