//! What cannot be carried without a loss stops the run: the message names the row, and nothing is published.

use crate::support::lakeward::{Job, exit};
use crate::support::postgres::Server;
use crate::support::readback::duckdb;
use crate::types::sync_with;
use serde_json::json;

#[test]
fn a_type_that_would_lose_something_is_refused_before_anything_is_read() {
    let database = Server::shared().database("lossy");
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int8, x text, at timestamptz, c point); INSERT INTO t VALUES (1, 1, 'a', now(), '(1,2)')",
    );
    for (column, wanted) in
        [("n", "int16"), ("n", "boolean"), ("x", "integer"), ("at", "local_timestamp"), ("c", "number"), ("n", "nonsense")]
    {
        let (job, outcome) = sync_with(&database, "binary", &json!({"column_types": {column: wanted}}));
        let code = outcome.code.filter(|code| matches!(*code, exit::CONFIG | exit::SCHEMA));
        outcome.failed(code.unwrap_or(exit::SCHEMA), &[column, wanted]);
        assert!(job.files("public.t").is_empty());
    }
    for keys in [
        json!({"column_types": {"nowhere": "string"}}),
        json!({"special_values": {"nowhere": "null"}}),
        json!({"special_values": {"n": "whatever"}}),
    ] {
        let (_, outcome) = sync_with(&database, "binary", &keys);
        outcome.failed(exit::CONFIG, &[if keys.to_string().contains("nowhere") { "nowhere" } else { "whatever" }]);
    }
}

/// No policy makes up for a decimal that is too small: the user chose it.
#[test]
fn a_decimal_overflow_names_the_key_under_every_policy() {
    let database = Server::shared().database("overflow");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, x numeric); INSERT INTO t VALUES (1, 9.99), (4711, 1234.5)");
    for format in ["binary", "text"] {
        for policy in ["error", "null", "clamp"] {
            let (job, outcome) =
                sync_with(&database, format, &json!({"column_types": {"x": "decimal(5,2)"}, "special_values": {"x": policy}}));
            outcome.failed(exit::SCHEMA, &["public.t", "`x`", "1234.5", "id = 4711", "column_types"]);
            assert!(job.files("public.t").is_empty());
        }
        // More places than the decimal has would be rounded.
        let (_, outcome) = sync_with(&database, format, &json!({"column_types": {"x": "decimal(9,0)"}}));
        outcome.failed(exit::SCHEMA, &["public.t", "`x`", "9.99", "id = 1"]);
    }
}

#[test]
fn an_array_of_another_depth_names_the_key_and_the_way_out() {
    let database = Server::shared().database("depth");
    database.sql(
        "CREATE TABLE t (a int, b text, flat int[], deep int[][], PRIMARY KEY (a, b));
         INSERT INTO t VALUES (1, 'x', '{1}', '{{1}}'), (2, 'y', '{}', '{}'), (3, 'the row', '{{1,2},{3,4}}', NULL)",
    );
    for format in ["binary", "text"] {
        let (job, outcome) = sync_with(&database, format, &json!({}));
        outcome.failed(exit::SCHEMA, &["public.t", "`flat`", "a = 3", "b = the row", "column_types", "list<list<integer_small>>"]);
        assert!(job.files("public.t").is_empty());
    }
    database.sql("UPDATE t SET flat = '{1,2}', deep = '{1,2}' WHERE a = 3");
    for format in ["binary", "text"] {
        sync_with(&database, format, &json!({}))
            .1
            .failed(exit::SCHEMA, &["public.t", "`deep`", "a = 3", "column_types", "list<integer_small>"]);
        let (job, outcome) = sync_with(&database, format, &json!({"column_types": {"deep": "string"}}));
        outcome.succeeded();
        let values = duckdb(&job.files("public.t"), "SELECT a, flat, deep FROM $files ORDER BY a");
        assert_eq!(values, json!([[1, [1], "{{1}}"], [2, [], "{}"], [3, [1, 2], "{1,2}"]]));
    }
}

#[test]
fn every_part_of_a_key_is_named() {
    let database = Server::shared().database("keyparts");
    let parts = [
        ("timestamptz", "2024-02-29 01:02:03.5+00", "2024-02-29"),
        ("timestamp", "2024-02-29 01:02:03.5", "2024-02-29"),
        ("date", "0044-03-15 BC", ""),
        ("time", "01:02:03", "01:02:03"),
        ("uuid", "0192f0c1-2345-7abc-8def-0123456789ab", "0192f0c1"),
        ("text", "a key", "a key"),
        ("numeric(6,2)", "-1.50", "-1.50"),
        ("bool", "true", "true"),
        ("int8", "9007199254740993", "9007199254740993"),
        ("bytea", "\\x00ff", "00ff"),
        ("interval", "1 day", "P1D"),
        ("inet", "10.0.0.1", "10.0.0.1"),
    ];
    let list = |of: &dyn Fn(usize, &str, &str) -> String| {
        parts.iter().enumerate().map(|(i, (t, v, _))| of(i, t, v)).collect::<Vec<_>>().join(", ")
    };
    database.sql(&format!(
        "CREATE TABLE t (x numeric, {}, PRIMARY KEY ({})); INSERT INTO t VALUES (12.5, {})",
        list(&|i, t, _| format!("k{i} {t}")),
        list(&|i, _, _| format!("k{i}")),
        list(&|_, _, v| format!("'{v}'"))
    ));
    for format in ["binary", "text"] {
        let (_, outcome) = sync_with(&database, format, &json!({"column_types": {"x": "decimal(2,1)"}}));
        let named: Vec<String> = parts.iter().enumerate().map(|(i, (_, _, shown))| format!("k{i} = {shown}")).collect();
        outcome.failed(exit::SCHEMA, &named.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// A database that does not check its text may hold bytes that are none.
#[test]
fn bytes_that_are_no_text_are_an_error_with_their_place() {
    let database = Server::shared().database_in("SQL_ASCII", "bytes");
    database.sql(
        r"CREATE TABLE t (id int PRIMARY KEY, x text, tags text[]); INSERT INTO t VALUES (1, 'é', '{é}'), (2, E'a\xe9b', NULL);
          CREATE TABLE u (id int PRIMARY KEY, tags text[]); INSERT INTO u VALUES (1, '{a}'), (5, ARRAY[E'\xff'])",
    );
    for format in ["binary", "text"] {
        let (job, outcome) = sync_with(&database, format, &json!({}));
        outcome.failed(exit::SOURCE, &["public.t", "`x`", "row 2", "UTF-8"]);
        assert!(job.files("public.t").is_empty());
        let job = Job::new(&database);
        job.edit("source.json", |source| source["backfill"] = json!({"wire_format": format}));
        job.discover();
        job.select(&["public.u"]);
        job.sync().failed(exit::SOURCE, &["public.u", "`tags`", "row 2", "UTF-8"]);
        assert!(job.files("public.u").is_empty());
        // The way out: the bytes as they are.
        let (job, outcome) = sync_with(&database, format, &json!({"column_types": {"x": "binary"}}));
        outcome.succeeded();
        assert_eq!(duckdb(&job.files("public.t"), "SELECT id, hex(x) FROM $files ORDER BY id"), json!([[1, "C3A9"], [2, "61E962"]]));
    }
}
