//! Every type arrives exactly: pyarrow and DuckDB see what psql sees.

use crate::support::lakeward::{Job, exit};
use crate::support::postgres::Server;
use crate::support::readback::{assert_same, duckdb};
use serde_json::{Value, json};

/// Column type in the source, Arrow type in the files as pyarrow names it, and values in SQL. NULL is added to each.
const EXACT: &[(&str, &str, &[&str])] = &[
    ("bool", "bool", &["true", "false"]),
    ("oid", "int64", &["0", "4294967295"]),
    ("int2", "int16", &["0", "-32768", "32767"]),
    ("int4", "int32", &["0", "-2147483648", "2147483647"]),
    ("int8", "int64", &["0", "-9223372036854775808", "9223372036854775807", "9007199254740993"]),
    ("float4", "float", &["0", "'-0'", "1.1", "'1e-45'", "3.4028235e38", "'NaN'", "'Infinity'", "'-Infinity'"]),
    ("float8", "double", &["0", "'-0'", "0.1", "'5e-324'", "1.7976931348623157e308", "'NaN'", "'Infinity'", "'-Infinity'"]),
    ("numeric(12,2)", "decimal128(12, 2)", &["0", "9999999999.99", "-9999999999.99", "0.01", "-0.01", "10000"]),
    ("numeric(38,10)", "decimal128(38, 10)", &["9999999999999999999999999999.9999999999", "-0.0000000001", "100000000"]),
    ("numeric(5,0)", "decimal128(5, 0)", &["99999", "-1", "10000"]),
    ("numeric", "string", &["0", "1e100", "-0.000000000000000000000000000001", "123456789012345678901234567890.123456789", "1.500"]),
    ("numeric(60,5)", "string", &["1e50", "-1.5"]),
    ("text", "string", &["''", "'plain'", r"E'tab\tnew\nline\\'", "'日本語 🦀 é'", "repeat('long ', 10000)"]),
    ("varchar(10)", "string", &["'ab'", "'ten chars!'"]),
    ("char(5)", "string", &["'ab'", "'abcde'"]),
    (r#""char""#, "string", &["'x'"]),
    ("name", "string", &["'a name'"]),
    ("bytea", "binary", &["''", r"'\x00ff80'", r"'\x'", "decode(repeat('ab', 5000), 'hex')"]),
    ("date", "date32[day]", &["'1970-01-01'", "'0001-01-01'", "'9999-12-31'", "'2000-02-29'", "'1969-12-31'"]),
    ("time", "time64[us]", &["'00:00'", "'23:59:59.999999'", "'12:34:56.789'"]),
    (
        "timestamp",
        "timestamp[us]",
        &["'1970-01-01'", "'2024-02-29 12:34:56.789012'", "'0001-01-01'", "'9999-12-31 23:59:59.999999'", "'1969-12-31 23:59:59.999999'"],
    ),
    (
        "timestamptz",
        "timestamp[us, tz=UTC]",
        &[
            "'1970-01-01 00:00Z'",
            "'2024-10-27 02:30:00.000001+02'",
            "'1883-11-18 12:03:57+00'",
            "'0001-01-01 00:00Z'",
            "'9999-12-31 23:59:59.999999Z'",
        ],
    ),
    (
        "uuid",
        "extension<arrow.uuid>",
        &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "'0192f0c1-2345-7abc-8def-0123456789ab'"],
    ),
    ("json", "extension<arrow.json>", &[r#"'{"a":  1, "a": 2, "b": [1, null]}'"#, "'\"ü\"'", "'null'"]),
    ("jsonb", "extension<arrow.json>", &[r#"'{"b": 1, "a": {"c": [1.50, true]}}'"#, "'null'", "'12345678901234567890.5'"]),
    ("mood", "string", &["'happy'", "'very sad'"]),
    ("percentage", "int32", &["0", "100"]),
    ("price", "decimal128(8, 2)", &["0.99", "123456.78"]),
    ("int2[]", "list<element: int16>", &["'{}'", "'{1,NULL,-32768}'"]),
    ("int4[]", "list<element: int32>", &["'{}'", "'{1,NULL,3}'", "'{NULL}'"]),
    ("int8[]", "list<element: int64>", &["'{9223372036854775807}'"]),
    ("float8[]", "list<element: double>", &["'{0.1,NaN,-Infinity}'"]),
    ("bool[]", "list<element: bool>", &["'{t,f,NULL}'"]),
    ("text[]", "list<element: string>", &["'{}'", r#"'{"a","b,c","\"q\"",NULL,"NULL",""}'"#]),
    ("numeric(10,3)[]", "list<element: decimal128(10, 3)>", &["'{1.5,NULL,-0.001}'"]),
    ("date[]", "list<element: date32[day]>", &["'{2024-01-01,NULL}'"]),
    ("timestamptz[]", "list<element: timestamp[us, tz=UTC]>", &["'{\"2024-01-01 00:00:00.000001Z\"}'"]),
    ("uuid[]", "list<element: extension<arrow.uuid>>", &["'{00000000-0000-0000-0000-000000000001,NULL}'"]),
    ("bytea[]", "list<element: binary>", &[r#"'{"\\x00ff",NULL}'"#]),
];

/// Types without a decoder of their own: they travel as the server's text.
const AS_TEXT: &[(&str, &[&str])] = &[
    ("inet", &["'10.0.0.1'", "'10.0.0.0/8'", "'::1'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("timetz", &["'12:34:56.789+05:30'"]),
    ("bit(5)", &["'10101'"]),
    ("varbit", &["''", "'1'"]),
    ("money", &["12.34", "-1000000"]),
    ("xml", &["'<a b=\"c\">text</a>'"]),
    ("point", &["'(1.5,-2)'"]),
    ("box", &["'(1,1),(0,0)'"]),
    ("path", &["'[(0,0),(1,1)]'"]),
    ("polygon", &["'((0,0),(1,1),(1,0))'"]),
    ("circle", &["'<(0,0),2>'"]),
    ("tsvector", &["'a:1 b:2'"]),
    ("tsquery", &["'a & b'"]),
    ("int4range", &["'[1,10)'", "'empty'", "'[,5)'"]),
    ("tstzrange", &["'[\"2024-01-01 00:00Z\",)'"]),
    ("pg_lsn", &["'16/B374D848'"]),
    ("regclass", &["'pg_class'"]),
    ("complex", &["ROW(1.5, 'a \"b\"')"]),
    ("jsonpath", &["'$.a'"]),
];

/// A table with one column per type. Row k holds the k-th value of each type (or NULL when it has fewer); the last row is NULL throughout.
fn create(types: &[(&str, &[&str])]) -> String {
    let columns: Vec<String> = types.iter().enumerate().map(|(i, (t, _))| format!("c{i} {t}")).collect();
    let longest = types.iter().map(|(_, values)| values.len()).max().expect("types");
    let row =
        |k: usize| types.iter().map(|(t, v)| v.get(k).map_or("NULL".to_owned(), |v| format!("({v})::{t}"))).collect::<Vec<_>>().join(", ");
    let rows: Vec<String> = (0..=longest).map(|k| format!("({k}, {})", row(k))).collect();
    format!("CREATE TABLE t (id int PRIMARY KEY, {}); INSERT INTO t VALUES {};", columns.join(", "), rows.join(",\n"))
}

const CUSTOM: &str = "CREATE TYPE mood AS ENUM ('happy', 'very sad'); CREATE DOMAIN percentage AS int CHECK (value BETWEEN 0 AND 100);
    CREATE DOMAIN price AS numeric(8,2); CREATE TYPE complex AS (r float8, label text);";

#[test]
fn exact_types() {
    let database = Server::shared().database("exact");
    let table: Vec<(&str, &[&str])> = EXACT.iter().map(|&(t, _, v)| (t, v)).collect();
    database.sql(&format!("{CUSTOM} {}", create(&table)));
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    let seen = assert_same(&job, &database, "public.t");
    let mut wrong = Vec::new();
    for (i, (source, expected, _)) in EXACT.iter().enumerate() {
        let found = seen.schema[format!("c{i}")].as_str().unwrap_or("absent");
        // The name of a list's field is the writer's own business.
        let found = found.replace("list<item: ", "list<element: ");
        if found != *expected {
            wrong.push(format!("{source} arrived as {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn other_types_travel_as_text_and_never_stop_a_run() {
    let database = Server::shared().database("astext");
    database.sql(&format!("{CUSTOM} {}", create(AS_TEXT)));
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    let seen = assert_same(&job, &database, "public.t");
    for (i, (source, _)) in AS_TEXT.iter().enumerate() {
        assert_eq!(seen.schema[format!("c{i}")], "string", "{source}");
    }
}

/// psql's text of an interval depends on a setting; every form must mean the same to the server.
#[test]
fn intervals_mean_the_same() {
    let database = Server::shared().database("intervals");
    database.sql(
        "CREATE TABLE t (id int, i interval); INSERT INTO t VALUES (1, '1 year 2 months 3 days 04:05:06.789'), (2, '-1 day +00:00:01'), (3, '0'), (4, NULL), (5, '25:00:00')",
    );
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    let rows = duckdb(&job.files("public.t"), "SELECT id, i::text FROM $files WHERE i IS NOT NULL ORDER BY id");
    for row in rows.as_array().expect("rows") {
        let (id, text) = (&row[0], row[1].as_str().expect("text"));
        assert_eq!(
            database.sql(&format!("SELECT i = '{text}'::interval AND i::text = '{text}'::interval::text FROM t WHERE id = {id}")),
            "t",
            "{text}"
        );
    }
    assert_eq!(rows.as_array().map(Vec::len), Some(4));
}

/// What has no place in the destination's type stops the run with the row named; nothing is invented.
#[test]
fn values_without_a_place_are_errors() {
    for (kind, value) in [("date", "'infinity'"), ("timestamptz", "'-infinity'"), ("numeric(6,2)", "'NaN'")] {
        let database = Server::shared().database("noplace");
        database.sql(&format!("CREATE TABLE t (id int PRIMARY KEY, x {kind}); INSERT INTO t VALUES (1, NULL), (2, {value})"));
        let job = Job::new(&database);
        job.discover();
        let outcome = job.sync();
        assert_ne!(outcome.code, Some(exit::DONE), "{kind} {value}");
        assert!(outcome.stderr.contains('x'), "the column is not named: {}", outcome.stderr);
        assert!(job.files("public.t").is_empty(), "{kind} {value}: something was published");
    }
}

/// A catalog as OLake writes it gives OLake's columns.
#[test]
fn the_types_of_an_olake_catalog_are_honoured() {
    let database = Server::shared().database("olaketypes");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, amount numeric(12,2), day date, at timestamp, n int2); INSERT INTO t VALUES (1, 12.34, '2024-02-29', '2024-02-29 01:02:03.000004', 7)");
    let job = Job::new(&database);
    job.discover();
    job.edit("streams.json", |file| {
        let properties = &mut file["streams"][0]["stream"]["type_schema"]["properties"];
        for (column, name) in [("amount", "number"), ("day", "timestamp"), ("at", "timestamp"), ("n", "integer_small")] {
            properties[column]["type"] = json!(["null", name]);
        }
    });
    job.sync().succeeded();
    let files = job.files("public.t");
    let types: Value = duckdb(&files, "SELECT typeof(amount), typeof(day), typeof(\"at\"), typeof(n) FROM $files");
    assert_eq!(types, json!([["DOUBLE", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITH TIME ZONE", "INTEGER"]]));
    let values = duckdb(&files, "SELECT amount, epoch_us(day), epoch_us(\"at\"), n FROM $files");
    assert_eq!(values, json!([[12.34, 1_709_164_800_000_000_i64, 1_709_168_523_000_004_i64, 7]]));
}
