//! Followed streams whose rows are one JSON column: the bytes out of the log are those that the server makes in a copy.

use super::capture::job;
use super::types::{CUSTOM, EXACT, Exact, create};
use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{duckdb, python};
use serde_json::{Value, json};

/// Types whose JSON is made of the JSON of others, and values that only text and JSON carry.
const NESTED: &[Exact] = &[
    ("deep", "", "", &[r#"ROW('{"(1.5,\"a \\\"\\\"\",)",NULL}', ARRAY[ROW(NULL, 'x', '{}')]::complex[], ARRAY['{"k": [1]}'::jsonb])"#]),
    ("deep[]", "", "", &["ARRAY[[ROW(NULL, NULL, NULL), NULL]]::deep[]"]),
    ("wrapped", "", "", &["ROW(1, 'é', NULL)"]),
    ("ints[]", "", "", &["ARRAY['{1,2}'::ints, NULL, '{{3}}']"]),
    ("int2vector", "", "", &["''", "'1 -2'"]),
    ("oidvector", "", "", &["'7 8'"]),
    ("box[]", "", "", &["'{(1,1),(0,0);(3,3),(2,2)}'"]),
    ("text[]", "", "", &[r"E'{\b\f\x01,\x1f\x7f,\u2028}'", r#"'[2:3][0:0]={{/},{"\\"}}'"#]),
    ("date", "", "", &["'infinity'", "'-infinity'"]),
    ("date[]", "", "", &["'{infinity,0044-03-15 BC}'"]),
    ("timestamp", "", "", &["'infinity'", "'0044-03-15 01:02:03.45 BC'", "'294276-12-31 23:59:59.999999'"]),
    ("timestamp[]", "", "", &["'{-infinity,2024-01-01 00:00:00.1}'"]),
    ("timestamptz", "", "", &["'-infinity'", "'0044-03-15 01:02:03.45Z BC'", "'0001-01-01 00:00Z'", "'12345-01-01 00:00:00.120Z'"]),
    ("numeric", "", "", &["'NaN'", "'1e-20'", "'1.10'"]),
    ("numeric(10,3)[]", "", "", &["'{NaN,1.5}'"]),
    ("moment", "", "", &["'2024-02-29 01:02:03Z'"]),
    ("json[]", "", "", &[r#"ARRAY['{"a":  1}'::json, 'null']"#]),
    ("tstzrange[]", "", "", &[r#"ARRAY['["2024-01-01 00:00Z",)'::tstzrange]"#]),
];

const NESTED_TYPES: &str = "CREATE TYPE deep AS (\"a \"\"b\"\" é\" complex[], c complex[], j jsonb[]); CREATE DOMAIN wrapped AS complex;
    CREATE DOMAIN ints AS int[]; CREATE DOMAIN moment AS timestamptz;";

const OF_EXTENSIONS: &[(&str, Exact)] = &[
    ("hstore", ("hstore", "", "", &["''", r#"'a=>1, b=>NULL, "c \"d\""=>"\\ é"'"#])),
    ("hstore", ("hstore[]", "", "", &[r#"ARRAY['a=>1', NULL]::hstore[]"#])),
    ("citext", ("citext", "", "", &["'Aa'"])),
    ("ltree", ("ltree", "", "", &["'Top.Science'"])),
    ("cube", ("cube", "", "", &["'(1,2)'"])),
    ("vector", ("vector(3)", "", "", &["'[1,2.5,-3]'"])),
];

/// Turns normalisation off for all streams.
fn as_json(job: &Job) {
    job.edit("streams.json", |file| {
        for stream in file["selected_streams"]["public"].as_array_mut().expect("a list") {
            stream["normalization"] = json!(false);
        }
    });
}

/// Gives every column the type that OLake has for it: instants, numbers, and texts for all else.
fn with_olake_types(job: &Job) {
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("a list") {
            for property in entry["stream"]["type_schema"]["properties"].as_object_mut().expect("columns").values_mut() {
                let exact = property["type"].as_array().and_then(|types| types.last()).and_then(Value::as_str).expect("a type").to_owned();
                let olake = match exact.as_str() {
                    "boolean" | "integer" | "integer_small" | "number" | "number_small" => &exact,
                    "int16" => "integer_small",
                    "date" | "local_timestamp" | "timestamptz" => "timestamp",
                    exact if exact.starts_with("decimal") => "number",
                    exact if exact.starts_with("list") => "array",
                    "json" => "object",
                    _ => "string",
                };
                property["type"] = json!(["null", olake]);
            }
        }
    });
}

fn data(job: &Job, stream: &str, condition: &str) -> Vec<String> {
    let query = format!("SELECT data::VARCHAR FROM $files WHERE {condition} ORDER BY (data->>'id')::INT");
    let rows = duckdb(&job.files(stream), &query);
    rows.as_array().expect("rows").iter().map(|row| row[0].as_str().expect("a text").to_owned()).collect()
}

#[track_caller]
fn captured_rows_are_those_of_a_copy(label: &str, edit: impl Fn(&Job)) -> Vec<String> {
    let database = Server::shared().database(label);
    let mut types: Vec<Exact> = EXACT.iter().chain(NESTED).copied().collect();
    let mut installed = Vec::new();
    for (extension, ty) in OF_EXTENSIONS {
        if installed.contains(extension) || database.extension(extension) {
            installed.push(extension);
            types.push(*ty);
        }
    }
    database.sql(&format!(
        "{CUSTOM} {NESTED_TYPES} {}; CREATE TABLE kept AS TABLE t; DELETE FROM t; ALTER TABLE t REPLICA IDENTITY FULL",
        create(&types)
    ));
    let job = job(&database, label, None);
    as_json(&job);
    edit(&job);
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("a list") {
            if entry["stream"]["name"] == "kept" {
                entry["stream"]["sync_mode"] = json!("full_refresh");
            }
        }
    });
    job.sync().succeeded();
    database.sql("INSERT INTO t TABLE kept; UPDATE t SET id = id");
    job.resume().succeeded();
    let copied = data(&job, "public.kept", "true");
    for op in ["c", "u"] {
        let captured = data(&job, "public.t", &format!("_op_type = '{op}'"));
        assert_eq!(captured.len(), copied.len());
        for (captured, copied) in captured.iter().zip(&copied) {
            let differs = captured.bytes().zip(copied.bytes()).position(|(one, other)| one != other).unwrap_or_default();
            let from = differs.saturating_sub(60);
            let part = |text: &str| String::from_utf8_lossy(&text.as_bytes()[from..text.len().min(differs + 60)]).into_owned();
            assert!(captured == copied, "{op}: …{}…, not …{}…", part(captured), part(copied));
        }
    }
    copied
}

#[test]
fn captured_rows_are_those_of_a_copy_in_the_exact_catalog() {
    captured_rows_are_those_of_a_copy("capjson", |_| ());
}

#[test]
fn captured_rows_are_those_of_a_copy_in_olakes_catalog() {
    let rows = captured_rows_are_those_of_a_copy("capjsonolake", with_olake_types);
    assert!(rows.iter().any(|row| row.contains("\"2024-02-29T12:34:56.789012Z\"")) && rows[0].contains("\"{}\""), "{}", rows[0]);
}

/// A log has the keys that were sent, and names of the others.
#[test]
fn a_log_of_rows_as_json_says_what_was_not_sent() {
    let database = Server::shared().database("capjsonlog");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL; INSERT INTO t SELECT i, 'v' || i, repeat(md5(i::text), 500) FROM generate_series(1, 4) i");
    let job = job(&database, "capjsonlog", None);
    as_json(&job);
    job.sync().succeeded();
    database.sql("UPDATE t SET v = 'a \"b\"' WHERE id = 1; UPDATE t SET big = NULL WHERE id = 2; DELETE FROM t WHERE id = 3; UPDATE t SET id = 40 WHERE id = 4; INSERT INTO t VALUES (5, 'x')");
    job.resume().succeeded();
    let log = duckdb(
        &job.files("public.t"),
        "SELECT _op_type, data::VARCHAR, _unchanged_columns FROM $files WHERE _op_type <> 'r' ORDER BY _cdc_order",
    );
    let expected = json!([
        ["u", r#"{"id":1,"v":"a \"b\""}"#, "big"],
        ["u", r#"{"id":2,"v":"v2","big":null}"#, null],
        ["d", r#"{"id":3,"v":null,"big":null}"#, null],
        ["d", r#"{"id":4,"v":null,"big":null}"#, null],
        ["c", r#"{"id":40,"v":"v4"}"#, "big"],
        ["c", r#"{"id":5,"v":"x","big":null}"#, null],
    ]);
    assert_eq!(log, expected);
}

/// Adds a column of OLake's.
fn with_column(job: &Job, name: &str) {
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("a list") {
            entry["stream"]["type_schema"]["properties"][name] = json!({"type": ["null", "string"], "olake_column": true});
        }
        for stream in file["selected_streams"]["public"].as_array_mut().expect("a list") {
            stream["selected_columns"]["columns"].as_array_mut().expect("names").push(json!(name));
        }
    });
}

/// The columns `data` and `_op_type` (if there) of a table, sorted.
#[track_caller]
fn rows(job: &Job, table: &str) -> Value {
    let script = "
import json, sys
from pyiceberg.table import StaticTable
folder = json.load(sys.stdin) + '/metadata'
version = open(folder + '/version-hint.text').read().strip()
rows = StaticTable.from_metadata(f'file://{folder}/v{version}.metadata.json').scan().to_arrow()
data = rows['data'].to_pylist()
print(json.dumps(sorted(zip(data, rows['_op_type'].to_pylist()) if '_op_type' in rows.column_names else data)))";
    python(script, &json!(job.table_folder(&job.lake(), &format!("public.{table}"))))
}

/// Panics unless the table holds the rows of the source as JSON.
#[track_caller]
fn assert_rows(job: &Job, database: &Database, table: &str) {
    let query = format!("SELECT json_agg(data ORDER BY data COLLATE \"C\") FROM (SELECT row_to_json(t)::text AS data FROM {table} t) s");
    let expected: Value = serde_json::from_str(&database.sql(&query)).expect("JSON");
    assert_eq!(rows(job, table), expected, "{table}");
}

/// Rows are replaced by OLake's id, of keys of one column and of several.
#[test]
fn rows_as_json_are_replaced() {
    let database = Server::shared().database("capjsonrows");
    database.sql(
        "CREATE TABLE one (id int PRIMARY KEY, v text, big text); ALTER TABLE one ALTER big SET STORAGE EXTERNAL;
         INSERT INTO one SELECT i, 'v' || i, CASE WHEN i = 7 THEN repeat('x', 9000) END FROM generate_series(1, 200) i;
         CREATE TABLE two (b timestamptz, a text, n numeric(10,4), PRIMARY KEY (a, b));
         INSERT INTO two SELECT '2024-01-01Z'::timestamptz + i * interval '1 hour', 'a' || i % 3, i / 3.0 FROM generate_series(1, 100) i;
         CREATE TABLE whole (LIKE one INCLUDING ALL); ALTER TABLE whole REPLICA IDENTITY FULL; INSERT INTO whole TABLE one",
    );
    let job = job(&database, "capjsonrows", Some(json!({"delete_files": "position"})));
    as_json(&job);
    with_column(&job, "_olake_id");
    job.sync().succeeded();
    for table in ["one", "two", "whole"] {
        assert_rows(&job, &database, table);
    }
    for round in 1..=2 {
        database.sql(&format!(
            "INSERT INTO one SELECT 1000 * {round} + i, 'new', NULL FROM generate_series(1, 50) i; UPDATE one SET v = v || '.{round}' WHERE id % 9 = {round};
             DELETE FROM one WHERE id % 11 = {round}; UPDATE one SET id = -id WHERE id % 13 = {round};
             UPDATE two SET n = n + 1 WHERE a = 'a{round}'; UPDATE two SET b = b + interval '{round} years' WHERE n < 3; DELETE FROM two WHERE n > 30;
             UPDATE whole SET v = 'w{round}' WHERE id <= 10; DELETE FROM whole WHERE id = 10 + {round}; UPDATE whole SET id = -id WHERE id = 7"
        ));
        job.resume().succeeded();
        for table in ["one", "two", "whole"] {
            assert_rows(&job, &database, table);
        }
    }
    database.sql("UPDATE one SET v = 'w' WHERE id = 7; UPDATE two SET n = 0");
    job.resume().failed(exit::SCHEMA, &["public.one", "column `big`", "id = 7", "REPLICA IDENTITY FULL"]);
    assert_rows(&job, &database, "two");
}

/// Of a deleted row that stays there is what the log has of it.
#[test]
fn deleted_rows_as_json_keep_their_key() {
    let database = Server::shared().database("capjsonsoft");
    database.sql("CREATE TABLE t (v text, id int PRIMARY KEY); INSERT INTO t VALUES ('a', 1), ('b', 2)");
    let job = job(&database, "capjsonsoft", Some(json!({"delete_files": "position"})));
    as_json(&job);
    with_column(&job, "_olake_id");
    with_column(&job, "_op_type");
    job.sync().succeeded();
    database.sql("DELETE FROM t WHERE id = 2; UPDATE t SET v = 'c' WHERE id = 1");
    job.resume().succeeded();
    let seen = rows(&job, "t");
    let (kept, gone) = (json!([r#"{"v":"c","id":1}"#, "u"]), json!([r#"{"v":null,"id":2}"#, "d"]));
    assert!(seen.as_array().is_some_and(|rows| rows.len() == 2 && rows.contains(&kept) && rows.contains(&gone)), "{seen}");
}

/// The id of a row is made of what the catalog names, which the log has to have of rows that go.
#[test]
fn an_id_of_other_columns_than_the_key_needs_a_full_identity() {
    let database = Server::shared().database("capjsonid");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')");
    let job = job(&database, "capjsonid", Some(json!({"delete_files": "position"})));
    as_json(&job);
    with_column(&job, "_olake_id");
    job.edit("streams.json", |file| file["streams"][0]["stream"]["source_defined_primary_key"] = json!(["id", "v"]));
    job.sync().succeeded();
    database.sql("DELETE FROM t WHERE id = 2");
    job.resume().failed(exit::SCHEMA, &["public.t", "does not have the key (id, v)", "REPLICA IDENTITY"]);
    job.run(&["clear-destination", "--config", "source.json", "--streams", "streams.json", "--destination", "destination.json"])
        .succeeded();
    database.sql("ALTER TABLE t REPLICA IDENTITY FULL");
    job.sync().succeeded();
    database.sql("DELETE FROM t WHERE id = 1; UPDATE t SET v = 'd' WHERE id = 3");
    job.resume().succeeded();
    assert_rows(&job, &database, "t");
}

/// A type whose JSON is the work of a function stops the stream before anything is read, but for text.
#[test]
fn a_type_with_its_own_cast_to_json_is_refused() {
    let database = Server::shared().database("capjsoncast");
    database.sql(
        "CREATE TYPE mood AS ENUM ('happy'); CREATE FUNCTION mood_json(mood) RETURNS json IMMUTABLE LANGUAGE sql AS $$ SELECT '{\"mood\": 1}'::json $$;
         CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood); CREATE TABLE t (id int PRIMARY KEY, m mood[]); INSERT INTO t VALUES (1, '{happy}')",
    );
    let job = job(&database, "capjsoncast", None);
    as_json(&job);
    job.sync().failed(exit::SCHEMA, &["public.t", "column `m`", "mood", "json", "\"string\""]);
    assert!(!job.lake().exists(), "something was written");
    job.edit("streams.json", |file| {
        file["streams"][0]["stream"]["type_schema"]["properties"]["m"]["type"] = json!(["null", "string"]);
    });
    job.sync().succeeded();
    database.sql("INSERT INTO t VALUES (2, '{happy}')");
    job.resume().succeeded();
    assert_eq!(data(&job, "public.t", "true"), [r#"{"id":1,"m":"{happy}"}"#, r#"{"id":2,"m":"{happy}"}"#]);
}
