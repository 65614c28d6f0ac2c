//! Every type has the Arrow type that the documentation says, or the one that the user says. (`families.rs` and `oracle.rs` have the
//! values, `refusals.rs` what cannot be carried.)

use crate::support::lakeward::{Job, Outcome};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same, assert_same_as, duckdb};
use serde_json::{Value, json};

/// Column type in the source, its name in the catalog, Arrow type in the files as pyarrow names it, and values in SQL. NULL is added
/// to each.
pub const EXACT: &[(&str, &str, &str, &[&str])] = &[
    ("bool", "boolean", "bool", &["true", "false"]),
    ("int2", "int16", "int16", &["0", "-32768", "32767"]),
    ("int4", "integer_small", "int32", &["0", "-2147483648", "2147483647"]),
    ("int8", "integer", "int64", &["0", "-9223372036854775808", "9223372036854775807", "9007199254740993"]),
    ("oid", "integer", "int64", &["0", "4294967295"]),
    ("xid", "integer", "int64", &["'0'", "'4294967295'"]),
    ("cid", "integer", "int64", &["'0'", "'4294967295'"]),
    ("xid8", "decimal(20,0)", "decimal128(20, 0)", &["'0'", "'18446744073709551615'"]),
    ("float4", "number_small", "float", &["0", "'-0'", "1.1", "'1e-45'", "3.4028235e38", "'NaN'", "'Infinity'", "'-Infinity'"]),
    ("float8", "number", "double", &["0", "'-0'", "0.1", "'5e-324'", "1.7976931348623157e308", "'NaN'", "'Infinity'", "'-Infinity'"]),
    ("numeric(12,2)", "decimal(12,2)", "decimal128(12, 2)", &["0", "9999999999.99", "-9999999999.99", "0.01", "-0.01", "10000"]),
    ("numeric(38,10)", "decimal(38,10)", "decimal128(38, 10)", &["9999999999999999999999999999.9999999999", "-0.0000000001", "100000000"]),
    ("numeric(5,0)", "decimal(5,0)", "decimal128(5, 0)", &["99999", "-1", "10000"]),
    ("numeric(3,5)", "decimal(5,5)", "decimal128(5, 5)", &["0.00999", "-0.00001"]),
    ("numeric(5,-2)", "decimal(7,0)", "decimal128(7, 0)", &["9999900", "-100", "149"]),
    (
        "numeric",
        "string",
        "string",
        &["0", "1e100", "-0.000000000000000000000000000001", "123456789012345678901234567890.123456789", "1.500"],
    ),
    ("numeric(60,5)", "string", "string", &["1e50", "-1.5"]),
    ("money", "decimal(19,2)", "decimal128(19, 2)", &["12.34", "-1000000", "'-92233720368547758.08'", "'92233720368547758.07'"]),
    ("text", "string", "string", &["''", "'plain'", r"E'tab\tnew\nline\\'", "'日本語 🦀 é'", "repeat('long ', 10000)"]),
    ("varchar(10)", "string", "string", &["'ab'", "'ten chars!'"]),
    ("char(5)", "string", "string", &["'ab'", "'abcde'"]),
    (r#""char""#, "string", "string", &["'x'", "''"]),
    ("name", "string", "string", &["'a name'"]),
    ("xml", "string", "string", &["'<a b=\"c\">text</a>'"]),
    ("mood", "string", "string", &["'happy'", "'very sad'"]),
    ("json", "json", "extension<arrow.json>", &[r#"'{"a":  1, "a": 2, "b": [1, null]}'"#, "'\"ü\"'", "'null'"]),
    ("jsonb", "json", "extension<arrow.json>", &[r#"'{"b": 1, "a": {"c": [1.50, true]}}'"#, "'null'", "'12345678901234567890.5'"]),
    ("jsonpath", "string", "string", &["'$.a'"]),
    ("bytea", "binary", "binary", &["''", r"'\x00ff80'", r"'\x'", "decode(repeat('ab', 5000), 'hex')"]),
    (
        "uuid",
        "uuid",
        "extension<arrow.uuid>",
        &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "'0192f0c1-2345-7abc-8def-0123456789ab'"],
    ),
    ("bit(5)", "string", "string", &["'10101'"]),
    ("varbit", "string", "string", &["''", "'1'"]),
    ("date", "date", "date32[day]", &["'1970-01-01'", "'0001-01-01'", "'9999-12-31'", "'4714-11-24 BC'", "'5874897-12-31'"]),
    ("time", "time", "time64[us]", &["'00:00'", "'23:59:59.999999'", "'12:34:56.789'"]),
    ("timetz", "string", "string", &["'12:34:56.789+05:30'", "'24:00-15:59:59'"]),
    (
        "timestamp",
        "local_timestamp",
        "timestamp[us]",
        &[
            "'1970-01-01'",
            "'2024-02-29 12:34:56.789012'",
            "'4714-11-24 BC'",
            "'294247-01-10 04:00:54.775807'",
            "'1969-12-31 23:59:59.999999'",
        ],
    ),
    (
        "timestamptz",
        "timestamptz",
        "timestamp[us, tz=UTC]",
        &[
            "'1970-01-01 00:00Z'",
            "'2024-10-27 02:30:00.000001+02'",
            "'1883-11-18 12:03:57+00'",
            "'4714-11-24 00:00Z BC'",
            "'294247-01-10 04:00:54.775807Z'",
        ],
    ),
    ("interval", "interval", "string", &["'1 year 2 months -3 days +04:05:06.789'", "'0'", "'-1 day +00:00:01'", "'25:00:00'"]),
    ("inet", "string", "string", &["'10.0.0.1'", "'10.0.0.0/8'", "'::1'"]),
    ("cidr", "string", "string", &["'10.0.0.0/8'"]),
    ("macaddr", "string", "string", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", "string", "string", &["'08:00:2b:01:02:03:04:05'"]),
    ("point", "string", "string", &["'(1.5,-2)'"]),
    ("line", "string", "string", &["'{1,-2,3.5}'"]),
    ("lseg", "string", "string", &["'[(0,0),(1,1)]'"]),
    ("box", "string", "string", &["'(1,1),(0,0)'"]),
    ("path", "string", "string", &["'[(0,0),(1,1)]'", "'((0,0),(1,1))'"]),
    ("polygon", "string", "string", &["'((0,0),(1,1),(1,0))'"]),
    ("circle", "string", "string", &["'<(0,0),2>'"]),
    ("tsvector", "string", "string", &["'a:1 b:2'"]),
    ("tsquery", "string", "string", &["'a & b'"]),
    ("pg_lsn", "string", "string", &["'16/B374D848'"]),
    ("tid", "string", "string", &["'(4294967295,1)'"]),
    ("txid_snapshot", "string", "string", &["'10:20:10,14,15'"]),
    ("regclass", "string", "string", &["'pg_class'"]),
    ("regtype", "string", "string", &["'timestamptz'"]),
    // No binary form, and unknown to Lakeward.
    ("aclitem", "string", "string", &["'postgres=r/postgres'"]),
    // A base type of the user's own.
    ("label", "string", "string", &["'a \\\\ b'", "''"]),
    ("label[]", "list<string>", "list<element: string>", &[r#"'{a,NULL,"b \\\\ c"}'"#]),
    ("percentage", "integer_small", "int32", &["0", "100"]),
    ("price", "decimal(8,2)", "decimal128(8, 2)", &["0.99", "123456.78"]),
    ("int2[]", "list<int16>", "list<element: int16>", &["'{}'", "'{1,NULL,-32768}'"]),
    ("int4[]", "list<integer_small>", "list<element: int32>", &["'{}'", "'{1,NULL,3}'", "'{NULL}'", "'[5:6]={5,6}'"]),
    ("int8[]", "list<integer>", "list<element: int64>", &["'{9223372036854775807}'"]),
    ("float8[]", "list<number>", "list<element: double>", &["'{0.1,NaN,-Infinity}'"]),
    ("bool[]", "list<boolean>", "list<element: bool>", &["'{t,f,NULL}'"]),
    ("text[]", "list<string>", "list<element: string>", &["'{}'", r#"'{"a","b,c","\"q\"",NULL,"NULL",""}'"#]),
    ("numeric(10,3)[]", "list<decimal(10,3)>", "list<element: decimal128(10, 3)>", &["'{1.5,NULL,-0.001}'"]),
    ("date[]", "list<date>", "list<element: date32[day]>", &["'{2024-01-01,NULL}'"]),
    ("timestamptz[]", "list<timestamptz>", "list<element: timestamp[us, tz=UTC]>", &["'{\"2024-01-01 00:00:00.000001Z\"}'"]),
    ("uuid[]", "list<uuid>", "list<element: extension<arrow.uuid>>", &["'{00000000-0000-0000-0000-000000000001,NULL}'"]),
    ("bytea[]", "list<binary>", "list<element: binary>", &[r#"'{"\\x00ff",NULL}'"#]),
    ("jsonb[]", "list<json>", "list<element: extension<arrow.json>>", &["ARRAY['{\"a\": 1}'::jsonb, NULL]"]),
    ("interval[]", "list<interval>", "list<element: string>", &["'{1 day,NULL}'"]),
    ("mood[]", "list<string>", "list<element: string>", &["'{happy,NULL}'"]),
    (
        "int4[][]",
        "list<list<integer_small>>",
        "list<element: list<element: int32>>",
        &["'{}'", "'{{1,2},{3,NULL}}'", "'[0:0][3:4]={{1,2}}'"],
    ),
    ("text[3][3][3]", "list<list<list<string>>>", "list<element: list<element: list<element: string>>>", &["'{{{a,NULL}}}'"]),
    (
        "int4range",
        "struct<lower:integer_small,upper:integer_small,lower_inclusive:boolean,upper_inclusive:boolean,empty:boolean>",
        "struct<lower: int32, upper: int32, lower_inclusive: bool, upper_inclusive: bool, empty: bool>",
        &["'[1,10)'", "'empty'", "'[,5)'", "'(,)'"],
    ),
    (
        "numrange",
        "struct<lower:string,upper:string,lower_inclusive:boolean,upper_inclusive:boolean,empty:boolean>",
        "struct<lower: string, upper: string, lower_inclusive: bool, upper_inclusive: bool, empty: bool>",
        &["'(1.10,2]'"],
    ),
    (
        "tstzrange",
        "struct<lower:timestamptz,upper:timestamptz,lower_inclusive:boolean,upper_inclusive:boolean,empty:boolean>",
        "struct<lower: timestamp[us, tz=UTC], upper: timestamp[us, tz=UTC], lower_inclusive: bool, upper_inclusive: bool, empty: bool>",
        &["'[\"2024-01-01 00:00Z\",)'"],
    ),
    (
        "int4multirange",
        "list<struct<lower:integer_small,upper:integer_small,lower_inclusive:boolean,upper_inclusive:boolean,empty:boolean>>",
        "list<element: struct<lower: int32, upper: int32, lower_inclusive: bool, upper_inclusive: bool, empty: bool>>",
        &["'{}'", "'{[1,2),[5,)}'"],
    ),
    (
        "complex",
        "struct<r:number,\"the label\":string,at:list<timestamptz>>",
        "struct<r: double, the label: string, at: list<element: timestamp[us, tz=UTC]>>",
        &["ROW(1.5, 'a \"b\"', '{2024-01-01 00:00Z}')", "ROW(NULL, NULL, NULL)"],
    ),
    (
        "complex[]",
        "list<struct<r:number,\"the label\":string,at:list<timestamptz>>>",
        "list<element: struct<r: double, the label: string, at: list<element: timestamp[us, tz=UTC]>>>",
        &["ARRAY[ROW(1.5, 'a', NULL), NULL, ROW(NULL, NULL, NULL)]::complex[]"],
    ),
];

/// Types of extensions; NULL is added to each.
const OF_EXTENSIONS: &[(&str, &str, &str, &str, &[&str])] = &[
    ("hstore", "hstore", "map<string,string>", "map<string, string>", &["''", "'a=>1, b=>NULL'"]),
    ("citext", "citext", "string", "string", &["'Aa'"]),
    ("ltree", "ltree", "string", "string", &["'Top.Science'"]),
    ("cube", "cube", "string", "string", &["'(1,2)'"]),
    ("vector", "vector(3)", "list<number_small>", "list<element: float>", &["'[1,2.5,-3]'"]),
    ("vector", "halfvec(3)", "list<number_small>", "list<element: float>", &["'[1,2.5,-3]'"]),
    ("postgis", "geometry(Point,4326)", "wkb", "binary", &["'SRID=4326;POINT(1 2)'"]),
    ("postgis", "geography", "wkb", "binary", &["'SRID=4326;POINT(1 2)'"]),
];

pub type Exact<'a> = (&'a str, &'a str, &'a str, &'a [&'a str]);

/// A table with one column per type. Row k holds the k-th value of each type (or NULL when it has fewer); the last row is NULL throughout.
pub fn create(types: &[Exact]) -> String {
    let columns: Vec<String> = types.iter().enumerate().map(|(i, (t, ..))| format!("c{i} {t}")).collect();
    let longest = types.iter().map(|(.., values)| values.len()).max().expect("types");
    let row = |k: usize| {
        types.iter().map(|(t, _, _, v)| v.get(k).map_or("NULL".to_owned(), |v| format!("({v})::{t}"))).collect::<Vec<_>>().join(", ")
    };
    let rows: Vec<String> = (0..=longest).map(|k| format!("({k}, {})", row(k))).collect();
    format!("CREATE TABLE t (id int PRIMARY KEY, {}); INSERT INTO t VALUES {};", columns.join(", "), rows.join(",\n"))
}

/// Types that a database makes itself.
pub const CUSTOM: &str = "CREATE TYPE mood AS ENUM ('happy', 'very sad'); CREATE DOMAIN percentage AS int CHECK (value BETWEEN 0 AND 100);
    CREATE DOMAIN price AS numeric(8,2); CREATE TYPE complex AS (r float8, \"the label\" text, at timestamptz[]);
    CREATE TYPE label; CREATE FUNCTION label_in(cstring) RETURNS label LANGUAGE internal IMMUTABLE STRICT AS 'textin';
    CREATE FUNCTION label_out(label) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
    CREATE FUNCTION label_send(label) RETURNS bytea LANGUAGE internal IMMUTABLE STRICT AS 'int4send';
    CREATE TYPE label (INPUT = label_in, OUTPUT = label_out, SEND = label_send, LIKE = text);";

/// Syncs a table of types in one COPY format, and compares names, Arrow types and values.
#[track_caller]
fn assert_exact(database: &Database, types: &[Exact], format: &str) {
    let job = Job::new(database);
    job.edit("source.json", |source| source["backfill"] = json!({"wire_format": format}));
    job.discover();
    job.sync().succeeded();
    let seen = assert_same(&job, database, "public.t");
    let properties = &job.stream("public.t")["type_schema"]["properties"];
    let mut wrong = Vec::new();
    for (i, (source, catalog, arrow, _)) in types.iter().enumerate() {
        let named = &properties[format!("c{i}")]["type"];
        if *named != json!(["null", catalog]) {
            wrong.push(format!("{source} is {named} in the catalog, not {catalog}"));
        }
        let found = seen.schema[format!("c{i}")].as_str().unwrap_or("absent");
        // The name of a list's field is the writer's own business, that of a map's pairs is pyarrow's.
        let found = found.replace("list<item: ", "list<element: ").replace(&format!(" ('c{i}')"), "");
        if found != *arrow {
            wrong.push(format!("{source} arrived as {found}, not {arrow}"));
        }
    }
    assert!(wrong.is_empty(), "{format}: {wrong:#?}");
}

#[test]
fn every_type_has_its_arrow_type() {
    let database = Server::shared().database("exact");
    database.sql(&format!("{CUSTOM} {}", create(EXACT)));
    for format in ["binary", "text"] {
        assert_exact(&database, EXACT, format);
    }
}

#[test]
fn types_of_extensions_have_theirs() {
    let database = Server::shared().database("extensions");
    let mut types: Vec<Exact> = Vec::new();
    let mut installed = Vec::new();
    for (extension, source, catalog, arrow, values) in OF_EXTENSIONS {
        if installed.contains(extension) || database.extension(extension) {
            installed.push(extension);
            types.push((source, catalog, arrow, values));
        }
    }
    if types.is_empty() {
        return;
    }
    database.sql(&create(&types));
    for format in ["binary", "text"] {
        assert_exact(&database, &types, format);
    }
}

/// A column's type and a value, the type in `column_types`, Arrow's name of it, and what is expected: a type of the source and SQL.
type Override = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const OVERRIDES: &[Override] = &[
    ("bool", "true", "string", "string", "text", "CASE WHEN x THEN 't' ELSE 'f' END"),
    ("int2", "7", "integer_small", "int32", "int4", "x"),
    ("int2", "-7", "integer", "int64", "int8", "x"),
    ("int2", "7", "number", "double", "float8", "x"),
    ("int4", "7", "integer", "int64", "int8", "x"),
    ("int4", "7", "decimal(12,2)", "decimal128(12, 2)", "numeric(12,2)", "x"),
    ("int8", "-7", "string", "string", "text", "x"),
    ("float4", "0.1", "number", "double", "float8", "x"),
    ("float8", "1e23", "string", "string", "text", "x"),
    ("numeric(12,2)", "12.30", "decimal(14,4)", "decimal128(14, 4)", "numeric(14,4)", "x"),
    ("numeric(12,2)", "12.30", "number", "double", "float8", "x"),
    ("numeric(12,2)", "12.30", "string", "string", "text", "x"),
    ("numeric", "1.5", "decimal(20,4)", "decimal128(20, 4)", "numeric(20,4)", "x"),
    ("numeric", "'NaN'", "number", "double", "float8", "x"),
    ("money", "-12.34", "string", "string", "text", "x"),
    ("text", "'é'", "binary", "binary", "bytea", "convert_to(x, 'UTF8')"),
    ("uuid", "'0192f0c1-2345-7abc-8def-0123456789ab'", "string", "string", "text", "x"),
    ("jsonb", "'{\"a\":1}'", "string", "string", "text", "x"),
    ("date", "'2024-02-29'", "timestamp", "timestamp[us, tz=UTC]", "timestamptz", "x::timestamp AT TIME ZONE 'UTC'"),
    ("date", "'0044-03-15 BC'", "string", "string", "text", "x"),
    ("timestamp", "'2024-02-29 01:02:03.4'", "timestamp", "timestamp[us, tz=UTC]", "timestamptz", "x AT TIME ZONE 'UTC'"),
    ("timestamp", "'2024-02-29 01:02:03.4'", "string", "string", "text", "x"),
    ("timestamptz", "'2024-02-29 01:02:03.4Z'", "string", "string", "text", "x"),
    ("time", "'24:00'", "string", "string", "text", "x"),
    ("interval", "'1 year 2 months -3 days +04:05:06.789'", "string", "string", "text", "x"),
    (
        "interval",
        "'1 year 2 months -3 days +04:05:06.789'",
        "struct<months:integer_small,days:integer_small,microseconds:integer>",
        "struct<months: int32, days: int32, microseconds: int64>",
        "parts",
        "ROW(14, -3, 14706789000)::parts",
    ),
    ("point", "'(1.5,-0)'", "struct<x:number,y:number>", "struct<x: double, y: double>", "xy", "ROW(x[0], x[1])::xy"),
    ("inet", "'10.0.0.1/8'", "string", "string", "text", "x"),
    ("int4[]", "'{1,NULL}'", "list<integer>", "list<element: int64>", "int8[]", "x"),
    ("int4[]", "'{1,NULL}'", "string", "string", "text", "x"),
    ("int4[]", "'{{1,2},{3,4}}'", "list<list<integer_small>>", "list<element: list<element: int32>>", "int4[][]", "x"),
    ("int4range", "'[1,5)'", "string", "string", "text", "x"),
    ("int4multirange", "'{[1,5)}'", "string", "string", "text", "x"),
    ("xy", "ROW(1, NULL)", "string", "string", "text", "x"),
    ("mood", "'happy'", "string", "string", "text", "x"),
];

#[test]
fn column_types_override_what_discover_found() {
    let database = Server::shared().database("overrides");
    let each = |of: &dyn Fn(usize, &Override) -> String| OVERRIDES.iter().enumerate().map(|(i, o)| of(i, o)).collect::<Vec<_>>().join(", ");
    database.sql(&format!(
        "CREATE TYPE parts AS (months int, days int, microseconds int8); CREATE TYPE xy AS (x float8, y float8);
         CREATE TYPE mood AS ENUM ('happy', 'very sad');
         CREATE TABLE t ({}); INSERT INTO t VALUES ({}); INSERT INTO t DEFAULT VALUES;
         CREATE TABLE expected ({}); INSERT INTO expected SELECT {} FROM t LIMIT 1; INSERT INTO expected DEFAULT VALUES;",
        each(&|i, o| format!("c{i} {}", o.0)),
        each(&|_, o| format!("({})::{}", o.1, o.0)),
        each(&|i, o| format!("c{i} {}", o.4)),
        each(&|i, o| format!("(SELECT {} FROM (SELECT c{i}) s(x))", o.5)),
    ));
    for format in ["binary", "text"] {
        let job = Job::new(&database);
        job.edit("source.json", |source| source["backfill"] = json!({"wire_format": format}));
        job.discover();
        job.select(&["public.t"]);
        let types: serde_json::Map<String, Value> = OVERRIDES.iter().enumerate().map(|(i, o)| (format!("c{i}"), json!(o.2))).collect();
        job.edit("streams.json", |file| file["selected_streams"]["public"][0]["column_types"] = json!(types));
        job.sync().succeeded();
        let seen = assert_same_as(&job, &database, "public.t", "public.expected");
        for (i, (source, _, wanted, arrow, ..)) in OVERRIDES.iter().enumerate() {
            let found = seen.schema[format!("c{i}")].as_str().unwrap_or("absent").replace("list<item: ", "list<element: ");
            assert_eq!(found, *arrow, "{source} as {wanted}, {format}");
        }
    }
}

/// A job of table `t` whose only entry in `selected_streams` has these keys, run in one COPY format.
pub fn sync_with(database: &Database, format: &str, keys: &Value) -> (Job, Outcome) {
    let job = Job::new(database);
    job.edit("source.json", |source| source["backfill"] = json!({"wire_format": format}));
    job.discover();
    job.select(&["public.t"]);
    job.edit("streams.json", |file| {
        let entry = file["selected_streams"]["public"][0].as_object_mut().expect("an entry");
        entry.extend(keys.as_object().expect("keys").clone());
    });
    let outcome = job.sync();
    (job, outcome)
}

#[test]
fn lower_bounds_of_arrays_are_dropped() {
    let database = Server::shared().database("bounds");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, a int[], b text[][]); INSERT INTO t VALUES (1, '[0:2]={7,8,9}', '[-5:-5][2:3]={{a,b}}'), (2, '[9:9]={1}', '{}')");
    for format in ["binary", "text"] {
        let (job, outcome) = sync_with(&database, format, &json!({}));
        outcome.succeeded();
        let values = duckdb(&job.files("public.t"), "SELECT a, b FROM $files ORDER BY id");
        assert_eq!(values, json!([[[7, 8, 9], [["a", "b"]]], [[1], []]]));
    }
}

#[test]
fn text_of_other_encodings_arrives_as_utf_8() {
    for encoding in ["LATIN1", "EUC_JP"] {
        let database = Server::shared().database_in(encoding, "encoding");
        let word = if encoding == "LATIN1" { "é" } else { "日本" };
        let mut types = vec![
            "text",
            "varchar",
            "char(3)",
            "name",
            "json",
            "jsonb",
            "xml",
            "tsvector",
            "jsonpath",
            "word",
            "text[]",
            "pair",
            "textrange",
        ];
        types.extend(["hstore", "citext"].into_iter().filter(|extension| database.extension(extension)));
        let value = |t: &str| match t {
            "json" | "jsonb" => format!(r#"{{"{word}": "{word}"}}"#),
            "xml" => format!("<a>{word}</a>"),
            "tsvector" => format!("{word}:1"),
            "jsonpath" => format!(r#"$."{word}""#),
            "text[]" => format!("{{{word}}}"),
            "pair" => format!("({word},1)"),
            "textrange" => format!("[{word},)"),
            "hstore" => format!("{word}=>{word}, b=>NULL"),
            _ => word.to_owned(),
        };
        let columns: String = types.iter().enumerate().map(|(i, t)| format!(", c{i} {t}")).collect();
        let values: String = types.iter().map(|t| format!(", '{}'", value(t))).collect();
        database.sql(&format!(
            "CREATE TYPE word AS ENUM ('{word}'); CREATE TYPE pair AS (w text, n int); CREATE TYPE textrange AS RANGE (subtype = text);
             CREATE TABLE t (id int PRIMARY KEY{columns}); INSERT INTO t VALUES (1{values})"
        ));
        for format in ["binary", "text"] {
            let (job, outcome) = sync_with(&database, format, &json!({}));
            outcome.succeeded();
            assert_same(&job, &database, "public.t");
        }
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
