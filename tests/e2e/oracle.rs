//! A hundred thousand random values of every type, about one in four an edge, arrive exactly in both COPY formats.
//!
//! What the columns should hold is PostgreSQL's own word (`canonical.rs`), and the two formats must give the same files to the bit.
//! `LAKEWARD_SEED=n ./build.sh test --test e2e oracle` repeats a run; `LAKEWARD_SCALE=n` makes it n times as long.

use crate::support::dice::Dice;
use crate::support::lakeward::Job;
use crate::support::literals::nested::{self, array, dimensions, multirange, range};
use crate::support::literals::{Make, numbers, other, strings, times};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same_as, assert_same_cells};
use serde_json::json;
use std::io::Write as _;

/// A column of a random table.
struct Column {
    /// Its type in the source.
    source: &'static str,
    make: Make,
    /// With a policy for special values, or a type of its own in the catalog: what is expected instead (`$` is the column).
    expected: Option<Expected>,
}

struct Expected {
    policy: Option<&'static str>,
    catalog: Option<&'static str>,
    /// The type whose kind the values then have, and SQL for them.
    kind: &'static str,
    sql: &'static str,
}

fn plain(source: &'static str, make: Make) -> Column {
    Column { source, make, expected: None }
}

fn policy(source: &'static str, policy: &'static str, make: Make, kind: &'static str, sql: &'static str) -> Column {
    Column { source, make, expected: Some(Expected { policy: Some(policy), catalog: None, kind, sql }) }
}

fn catalog(
    source: &'static str,
    catalog: &'static str,
    policy: Option<&'static str>,
    make: Make,
    kind: &'static str,
    sql: &'static str,
) -> Column {
    Column { source, make, expected: Some(Expected { policy, catalog: Some(catalog), kind, sql }) }
}

const SCHEMA: &str = r#"
    CREATE SCHEMA "odd schema"; CREATE TABLE "odd schema"."odd ""table" (id int);
    CREATE TYPE mood AS ENUM ('happy', 'very sad', 'q"uote', E'back\\slash', 'com,ma', 'NULL', '{}', '日本 🦀');
    CREATE DOMAIN percentage AS int CHECK (value BETWEEN 0 AND 100);
    CREATE DOMAIN price AS numeric(12,2);
    CREATE DOMAIN costly AS price CHECK (value IS DISTINCT FROM 0.5);
    CREATE DOMAIN numbers AS int[];
    CREATE DOMAIN grid AS int[][];
    CREATE TYPE inner_part AS (n int, "odd name" text, f float8, day date, amount numeric(12,2));
    CREATE TYPE outer_part AS (label text, one inner_part, many inner_part[], m mood, grid int[][], span int4range, raw bytea, at timestamptz);
    CREATE DOMAIN checked AS inner_part CHECK ((value).n IS DISTINCT FROM 1234567);
    CREATE TYPE textrange AS RANGE (subtype = text, collation = "C");
    CREATE TYPE floatrange AS RANGE (subtype = float8, subtype_diff = float8mi);
    CREATE DOMAIN span AS int4range;"#;

fn scalars() -> Vec<Column> {
    let types: [(&str, Make); 57] = [
        ("bool", numbers::boolean),
        ("int2", numbers::int2),
        ("int4", numbers::int4),
        ("int8", numbers::int8),
        ("oid", numbers::unsigned4),
        ("xid", numbers::unsigned4),
        ("cid", numbers::unsigned4),
        ("xid8", numbers::unsigned8),
        ("float4", numbers::float4),
        ("float8", numbers::float8),
        ("numeric(5,0)", numbers::numeric_5_0),
        ("numeric(12,2)", numbers::numeric_12_2),
        ("numeric(18,4)", numbers::numeric_18_4),
        ("numeric(38,10)", numbers::numeric_38_10),
        ("numeric(38,0)", numbers::numeric_38_0),
        ("numeric(38,38)", numbers::numeric_38_38),
        ("numeric(60,20)", numbers::numeric_60_20),
        ("numeric", numbers::numeric),
        ("money", numbers::money),
        ("text", strings::text),
        ("varchar(20)", strings::name),
        ("char(5)", strings::short),
        ("name", strings::name),
        (r#""char""#, strings::char1),
        ("xml", strings::xml),
        ("mood", strings::mood),
        ("json", strings::json),
        ("jsonb", strings::jsonb),
        ("jsonpath", strings::jsonpath),
        ("bytea", strings::bytea),
        ("uuid", strings::uuid),
        ("bit(9)", numbers::bit_9),
        ("varbit", numbers::varbit),
        ("date", times::date),
        ("time", times::time),
        ("timetz", times::timetz),
        ("timestamp", times::timestamp),
        ("timestamptz", times::timestamptz),
        ("interval", times::interval),
        ("inet", other::inet),
        ("cidr", other::cidr),
        ("macaddr", other::macaddr),
        ("macaddr8", other::macaddr8),
        ("point", numbers::point),
        ("line", numbers::line),
        ("lseg", numbers::lseg),
        ("box", numbers::rectangle),
        ("path", numbers::path),
        ("polygon", numbers::polygon),
        ("circle", numbers::circle),
        ("tsvector", strings::tsvector),
        ("tsquery", strings::tsquery),
        ("pg_lsn", other::lsn),
        ("tid", other::tid),
        ("txid_snapshot", other::snapshot),
        ("pg_snapshot", other::snapshot),
        ("aclitem", other::aclitem),
    ];
    types.into_iter().map(|(source, make)| plain(source, make)).collect()
}

fn names() -> Vec<Column> {
    let types: [(&str, Make); 12] = [
        ("regclass", other::regclass),
        ("regtype", other::regtype),
        ("regproc", other::regproc),
        ("regprocedure", other::regprocedure),
        ("regoper", other::regoper),
        ("regoperator", other::regoperator),
        ("regnamespace", other::regnamespace),
        ("regrole", other::regrole),
        ("regconfig", other::regconfig),
        ("regdictionary", other::regdictionary),
        ("regtype[]", |d| array(d, other::regtype)),
        ("aclitem[]", |d| array(d, other::aclitem)),
    ];
    types.into_iter().map(|(source, make)| plain(source, make)).collect()
}

fn nested_types(database: &Database) -> Vec<Column> {
    let mut types: Vec<(&'static str, Make)> = vec![
        ("bool[]", |d| array(d, numbers::boolean)),
        ("int2[]", |d| array(d, numbers::int2)),
        ("int4[]", |d| array(d, numbers::int4)),
        ("int8[]", |d| array(d, numbers::int8)),
        ("float4[]", |d| array(d, numbers::float4)),
        ("float8[]", |d| array(d, numbers::float8)),
        ("numeric(10,3)[]", |d| array(d, numbers::numeric_10_3)),
        ("numeric[]", |d| array(d, numbers::numeric)),
        ("text[]", |d| array(d, strings::text)),
        ("char(5)[]", |d| array(d, strings::short)),
        (r#""char"[]"#, |d| array(d, strings::char1)),
        ("bytea[]", |d| array(d, strings::bytea)),
        ("uuid[]", |d| array(d, strings::uuid)),
        ("date[]", |d| array(d, times::date)),
        ("time[]", |d| array(d, times::time)),
        ("timestamp[]", |d| array(d, times::timestamp)),
        ("timestamptz[]", |d| array(d, times::timestamptz)),
        ("interval[]", |d| array(d, times::interval)),
        ("json[]", |d| array(d, strings::json)),
        ("jsonb[]", |d| array(d, strings::jsonb)),
        ("mood[]", |d| array(d, strings::mood)),
        ("inet[]", |d| array(d, other::inet)),
        ("varbit[]", |d| array(d, numbers::varbit)),
        ("tsvector[]", |d| array(d, strings::tsvector)),
        // The only type with a delimiter of its own.
        ("box[]", |d| dimensions(d, 1, numbers::rectangle, ";")),
        ("int4[][]", |d| dimensions(d, 2, numbers::int4, ",")),
        ("text[][][]", |d| dimensions(d, 3, strings::text, ",")),
        ("float8[][]", |d| dimensions(d, 2, numbers::float8, ",")),
        ("int4range", |d| range(d, nested::int4s)),
        ("int8range", |d| range(d, nested::int8s)),
        ("numrange", |d| range(d, nested::numerics)),
        ("daterange", |d| range(d, nested::dates)),
        ("tsrange", |d| range(d, nested::timestamps)),
        ("tstzrange", |d| range(d, nested::timestamps)),
        ("textrange", |d| range(d, nested::texts)),
        ("floatrange", |d| range(d, nested::floats)),
        ("int4multirange", |d| multirange(d, nested::int4s)),
        ("nummultirange", |d| multirange(d, nested::numerics)),
        ("tstzmultirange", |d| multirange(d, nested::timestamps)),
        ("datemultirange", |d| multirange(d, nested::dates)),
        ("textmultirange", |d| multirange(d, nested::texts)),
        ("int4range[]", |d| array(d, |d| range(d, nested::int4s))),
        ("textrange[]", |d| array(d, |d| range(d, nested::texts))),
        ("int4multirange[]", |d| array(d, |d| multirange(d, nested::int4s))),
        ("inner_part", nested::inner_part),
        ("outer_part", nested::outer_part),
        ("inner_part[]", |d| array(d, nested::inner_part)),
        ("outer_part[]", |d| array(d, nested::outer_part)),
        ("inner_part[][]", |d| dimensions(d, 2, nested::inner_part, ",")),
        ("percentage", numbers::percentage),
        ("costly", numbers::numeric_5_0),
        ("percentage[]", |d| array(d, numbers::percentage)),
        ("numbers", |d| array(d, numbers::int4)),
        ("grid", |d| dimensions(d, 2, numbers::int4, ",")),
        ("numbers[]", |d| array(d, |d| array(d, numbers::int4))),
        ("checked", nested::inner_part),
        ("checked[]", |d| array(d, nested::inner_part)),
        ("span", |d| range(d, nested::int4s)),
    ];
    if database.extension("hstore") {
        types.extend::<[(&str, Make); 2]>([("hstore", nested::hstore), ("hstore[]", |d| array(d, nested::hstore))]);
    }
    if database.extension("citext") {
        types.extend::<[(&str, Make); 2]>([("citext", strings::text), ("citext[]", |d| array(d, strings::text))]);
    }
    if database.extension("ltree") {
        types.extend::<[(&str, Make); 2]>([("ltree", strings::ltree), ("ltree[]", |d| array(d, strings::ltree))]);
    }
    if database.extension("vector") {
        types.push(("vector(3)", |d| format!("[{}]", d.join(3, 3, ",", |d| (d.integer(-1000, 1000) as f32 / 7.0).to_string()))));
    }
    if database.extension("postgis") {
        types.push(("geometry(Point,4326)", |d| format!("SRID=4326;POINT({} {})", d.integer(-180, 180), d.integer(-90, 90))));
    }
    types.into_iter().map(|(source, make)| plain(source, make)).collect()
}

const IN_64_BITS: &str = "'294247-01-10 04:00:54.775807+00'";

/// Columns whose values have no place in the destination's type now and then.
fn special() -> Vec<Column> {
    let finite = "CASE WHEN isfinite($) THEN $ END";
    let nearest = "CASE $ WHEN 'infinity' THEN '9999-12-31' WHEN '-infinity' THEN '0001-01-01' ELSE $ END";
    let held = "CASE WHEN $ <= '294247-01-10 04:00:54.775807+00' AND isfinite($) THEN $ END";
    let near = "CASE WHEN $ > '294247-01-10 04:00:54.775807+00' THEN '9999-12-31 23:59:59.999999+00' WHEN $ = '-infinity' THEN '0001-01-01 00:00+00' ELSE $ END";
    assert!(held.contains(IN_64_BITS) && near.contains(IN_64_BITS));
    let wide: Make = |d| d.edge(&["Infinity", "-Infinity"], numbers::numeric_18_4);
    vec![
        policy("date", "null", times::date_or_infinite, "date", finite),
        policy("date", "clamp", times::date_or_infinite, "date", nearest),
        policy("date", "string", times::date_or_infinite, "text", "$::text"),
        policy("timestamp", "null", times::timestamp_or_none, "timestamp", held),
        policy("timestamp", "clamp", times::timestamp_or_none, "timestamp", near),
        policy("timestamp", "string", times::timestamp_or_none, "text", "$::text"),
        policy("timestamptz", "null", times::timestamp_or_none, "timestamptz", held),
        policy("timestamptz", "clamp", times::timestamp_or_none, "timestamptz", near),
        policy("timestamptz", "string", times::timestamp_or_none, "text", "$::text"),
        policy("time", "null", times::time_or_24, "time", "nullif($, '24:00')"),
        policy("time", "clamp", times::time_or_24, "time", "CASE $ WHEN '24:00' THEN '23:59:59.999999' ELSE $ END"),
        policy("time", "string", times::time_or_24, "text", "$::text"),
        policy("numeric(10,3)", "null", |d| d.edge(&["NaN"], numbers::numeric_10_3), "numeric(10,3)", "nullif($, 'NaN')"),
        policy("numeric(10,3)", "string", |d| d.edge(&["NaN"], numbers::numeric_10_3), "text", "$::text"),
        policy("numeric(10,3)", "clamp", numbers::numeric_10_3, "numeric(10,3)", "$"),
        catalog("numeric", "decimal(18,4)", Some("null"), wide, "numeric(18,4)", "CASE WHEN $ NOT IN ('Infinity', '-Infinity') THEN $ END"),
        catalog(
            "numeric",
            "decimal(18,4)",
            Some("clamp"),
            wide,
            "numeric(18,4)",
            "CASE $ WHEN 'Infinity' THEN 99999999999999.9999 WHEN '-Infinity' THEN -99999999999999.9999 ELSE $ END",
        ),
        catalog("numeric", "decimal(18,4)", None, numbers::numeric_18_4, "numeric(18,4)", "$"),
        policy(
            "date[]",
            "null",
            |d| array(d, times::date_or_infinite),
            "date[]",
            "CASE WHEN $ IS NOT NULL THEN ARRAY(SELECT CASE WHEN isfinite(e) THEN e END FROM unnest($) WITH ORDINALITY u(e, o) ORDER BY o) END",
        ),
        policy(
            "timestamptz[]",
            "clamp",
            |d| array(d, times::timestamp_or_none),
            "timestamptz[]",
            "CASE WHEN $ IS NOT NULL THEN ARRAY(SELECT CASE WHEN e > '294247-01-10 04:00:54.775807+00' THEN '9999-12-31 23:59:59.999999+00' \
             WHEN e = '-infinity' THEN '0001-01-01 00:00+00' ELSE e END FROM unnest($) WITH ORDINALITY u(e, o) ORDER BY o) END",
        ),
    ]
}

/// Escapes a value for COPY's text format.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
}

/// Creates a table of random rows, and beside it, as `expected.…`, what should arrive of it.
fn load(database: &Database, dice: &mut Dice, table: &str, columns: &[Column], rows: usize) {
    let define = |kind: fn(&Column) -> &str| columns.iter().enumerate().map(|(i, c)| format!(", c{i} {}", kind(c))).collect::<String>();
    let expected = define(|c| c.expected.as_ref().map_or(c.source, |e| e.kind));
    let value = |i: usize, c: &Column| c.expected.as_ref().map_or("$", |e| e.sql).replace('$', &format!("c{i}"));
    let values: String = columns.iter().enumerate().map(|(i, c)| format!(", {}", value(i, c))).collect();
    let mut sql = format!(
        "CREATE TABLE {table} (id int PRIMARY KEY{}); CREATE TABLE expected.{table} (id int{expected});\nCOPY {table} FROM STDIN;\n",
        define(|c| c.source)
    );
    for id in 0..rows {
        sql += &id.to_string();
        for column in columns {
            sql += "\t";
            sql += &if dice.one_in(10) { "\\N".to_owned() } else { escaped(&(column.make)(dice)) };
        }
        sql += "\n";
    }
    sql += &format!("\\.\nINSERT INTO expected.{table} SELECT id{values} FROM {table};");
    database.sql(&sql);
}

/// A job that reads the tables in one COPY format, under the policies and types of their columns.
fn job(database: &Database, format: &str, tables: &[(&str, Vec<Column>)]) -> Job {
    let job = Job::new(database);
    job.edit("source.json", |source| source["backfill"] = json!({"wire_format": format}));
    job.discover();
    job.select(
        &tables.iter().map(|(table, _)| format!("public.{table}")).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>(),
    );
    job.edit("streams.json", |file| {
        for entry in file["selected_streams"]["public"].as_array_mut().expect("a list of streams") {
            let (_, columns) = tables.iter().find(|(table, _)| entry["stream_name"] == *table).expect("one of the tables");
            for (i, expected) in columns.iter().enumerate().filter_map(|(i, c)| Some((i, c.expected.as_ref()?))) {
                if let Some(policy) = expected.policy {
                    entry["special_values"][format!("c{i}")] = json!(policy);
                }
                if let Some(catalog) = expected.catalog {
                    entry["column_types"][format!("c{i}")] = json!(catalog);
                }
            }
        }
    });
    job.sync().succeeded();
    job
}

/// Says the seed when the test ends, also when it ends badly.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        let end = if std::thread::panicking() { "failed" } else { "passed" };
        // Not eprintln!, which the test harness keeps to itself when the test passes.
        let _ = writeln!(std::io::stderr(), "the oracle {end} with LAKEWARD_SEED={}", self.0);
    }
}

#[test]
fn random_values_of_every_type_arrive_exactly_in_both_wire_formats() {
    let seed = Seed(Dice::seed());
    let dice = &mut Dice::new(seed.0);
    let database = Server::shared().database("oracle");
    database.sql(&format!("CREATE SCHEMA expected; {SCHEMA}"));
    let tables = [("scalars", scalars()), ("names", names()), ("nested", nested_types(&database)), ("special", special())];
    let scale: usize = std::env::var("LAKEWARD_SCALE").map_or(1, |scale| scale.parse().expect("LAKEWARD_SCALE is a number"));
    let rows = [900, 150, 700, 600].map(|rows| rows * scale);
    let mut count = 0;
    for ((table, columns), rows) in tables.iter().zip(rows) {
        load(&database, dice, table, columns, rows);
        count += columns.len() * rows;
    }
    assert!(count > 100_000, "only {count} values");
    let jobs = ["binary", "text"].map(|format| job(&database, format, &tables));
    for ((table, _), rows) in tables.iter().zip(rows) {
        let stream = format!("public.{table}");
        for job in &jobs {
            assert_eq!(assert_same_as(job, &database, &stream, &format!("expected.{table}")).rows, rows as u64);
        }
        assert_same_cells(&jobs[0].files(&stream), &jobs[1].files(&stream), "id");
    }
}
