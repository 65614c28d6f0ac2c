//! The value families of PostgreSQL's own regression tables and documentation arrive exactly, in both COPY formats.

use crate::support::lakeward::{Job, exit};
use crate::support::literals::regression::{EXTENSIONS, Family, NESTED, NUMBERS, PLACES, SCHEMA, TEXTS, TIMES};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same, assert_same_as, assert_same_cells, duckdb};
use serde_json::{Value, json};

/// A column type and values of it.
pub type Values = (&'static str, Vec<&'static str>);

/// What a server accepts of families that were written for all.
pub fn accepted(database: &Database, families: &[Family]) -> Vec<Values> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let asked = families
        .iter()
        .enumerate()
        .flat_map(|(i, (t, values))| values.iter().enumerate().map(move |(k, v)| format!("({i}, {k}, {}, {})", quoted(v), quoted(t))));
    let asked: Vec<String> = asked.collect();
    let answer = database.sql(&format!(
        "CREATE FUNCTION accepts(value text, type text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
             EXECUTE format('SELECT %L::%s', value, type); RETURN true; EXCEPTION WHEN OTHERS THEN RETURN false;
         END $$;
         {SETTINGS} SELECT json_build_array(i, k) FROM (VALUES {}) v(i, k, value, type) WHERE accepts(value, type) ORDER BY i, k",
        asked.join(", ")
    ));
    let mut accepted: Vec<Values> = families.iter().map(|(t, _)| (*t, Vec::new())).collect();
    for line in answer.lines() {
        let (i, k): (usize, usize) = serde_json::from_str(line).expect("a family and a value");
        accepted[i].1.push(families[i].1[k]);
    }
    accepted.retain(|(_, values)| !values.is_empty());
    accepted
}

/// A table with one column per type. Row k holds the k-th value of each type, NULL where there are fewer; the last row is NULL throughout.
pub fn create(table: &str, families: &[Values]) -> String {
    let columns: String = families.iter().enumerate().map(|(i, (t, _))| format!(", c{i} {t}")).collect();
    let longest = families.iter().map(|(_, values)| values.len()).max().expect("families");
    let value = |v: Option<&&'static str>| v.map_or("NULL".to_owned(), |v| format!("'{}'", v.replace('\'', "''")));
    let row = |k: usize| families.iter().map(|(t, v)| format!(", {}::{t}", value(v.get(k)))).collect::<String>();
    let rows: Vec<String> = (0..=longest).map(|k| format!("({k}{})", row(k))).collect();
    format!("CREATE TABLE {table} (id int PRIMARY KEY{columns}); INSERT INTO {table} VALUES {};", rows.join(",\n"))
}

/// The settings in which a regression test's input is read.
pub const SETTINGS: &str = "SET timezone = 'America/Los_Angeles'; SET xmloption = content;";

/// Settings that change how values are printed.
const UNUSUAL: [&str; 8] = [
    "datestyle = German, DMY",
    "intervalstyle = sql_standard",
    "timezone = ''Asia/Kathmandu''",
    "extra_float_digits = -5",
    "bytea_output = escape",
    "xmlbinary = hex",
    "array_nulls = off",
    "standard_conforming_strings = off",
];

fn job(database: &Database, format: &str) -> Job {
    let job = Job::new(database);
    job.edit("source.json", |source| source["backfill"] = json!({"wire_format": format}));
    job.discover();
    job
}

#[test]
fn the_regression_tables_arrive_exactly_in_both_wire_formats() {
    let database = Server::shared().database("families");
    let all = |families: &[Family]| families.iter().map(|(t, values)| (*t, values.to_vec())).collect::<Vec<Values>>();
    let mut tables =
        vec![("numbers", all(NUMBERS)), ("texts", all(TEXTS)), ("times", all(TIMES)), ("places", all(PLACES)), ("nested", all(NESTED))];
    let mut extensions = Vec::new();
    for (extension, families) in EXTENSIONS {
        if database.extension(extension) {
            extensions.extend(all(families));
        }
    }
    if !extensions.is_empty() {
        tables.push(("extensions", extensions));
    }
    let create: String = tables.iter().map(|(table, families)| create(table, families)).collect();
    database.sql(&format!("{SCHEMA} {SETTINGS} {create}"));
    let jobs = ["binary", "text"].map(|format| job(&database, format));
    for job in &jobs {
        job.sync().succeeded();
    }
    for (table, _) in &tables {
        let stream = format!("public.{table}");
        for job in &jobs {
            assert_same(job, &database, &stream);
        }
        assert_same_cells(&jobs[0].files(&stream), &jobs[1].files(&stream), "id");
    }
    // Whatever the database's settings make of the server's texts.
    database
        .sql(&format!("DO $$ BEGIN {} END $$", UNUSUAL.map(|s| format!("EXECUTE 'ALTER DATABASE {} SET {s}';", database.name)).concat()));
    for format in ["binary", "text"] {
        let job = job(&database, format);
        job.sync().succeeded();
        for (table, _) in &tables {
            let stream = format!("public.{table}");
            assert_same_cells(&jobs[0].files(&stream), &job.files(&stream), "id");
        }
    }
}

/// Types whose values may have no place: the catalog's type if it is not the usual one, values that are special, values that are
/// not, and SQL (with `$` for the column) for what clamping gives; none where a value stays an error.
struct Special {
    source: &'static str,
    catalog: Option<&'static str>,
    special: &'static [&'static str],
    usual: &'static [&'static str],
    clamped: Option<&'static str>,
    /// SQL that tells special values.
    is_special: &'static str,
}

const SPECIAL: &[Special] = &[
    Special {
        source: "date",
        catalog: None,
        special: &["infinity", "-infinity"],
        usual: &["1957-04-09", "4714-11-24 BC", "5874897-12-31"],
        clamped: Some("CASE $ WHEN 'infinity' THEN '9999-12-31' WHEN '-infinity' THEN '0001-01-01' ELSE $ END"),
        is_special: "NOT isfinite($)",
    },
    Special {
        source: "timestamp",
        catalog: None,
        special: &["infinity", "-infinity", "294276-12-31 23:59:59.999999", "294247-01-10 04:00:54.775808"],
        usual: &["1997-02-10 17:32:01", "4714-11-24 00:00:00 BC", "294247-01-10 04:00:54.775807"],
        clamped: Some(
            "CASE WHEN $ > '294247-01-10 04:00:54.775807' THEN '9999-12-31 23:59:59.999999' WHEN $ = '-infinity' THEN '0001-01-01' ELSE $ END",
        ),
        is_special: "NOT isfinite($) OR $ > '294247-01-10 04:00:54.775807'",
    },
    Special {
        source: "timestamptz",
        catalog: None,
        special: &["infinity", "-infinity", "294276-12-31 23:59:59.999999Z", "294247-01-10 04:00:54.775808Z"],
        usual: &["1997-02-10 17:32:01Z", "4714-11-24 00:00:00Z BC", "294247-01-10 04:00:54.775807Z"],
        clamped: Some(
            "CASE WHEN $ > '294247-01-10 04:00:54.775807Z' THEN '9999-12-31 23:59:59.999999Z' WHEN $ = '-infinity' THEN '0001-01-01Z' ELSE $ END",
        ),
        is_special: "NOT isfinite($) OR $ > '294247-01-10 04:00:54.775807Z'",
    },
    Special {
        source: "time",
        catalog: None,
        special: &["24:00:00", "23:59:60", "23:59:59.9999999"],
        usual: &["00:00", "23:59:59.999999"],
        clamped: Some("CASE $ WHEN '24:00' THEN '23:59:59.999999' ELSE $ END"),
        is_special: "$ = '24:00'",
    },
    Special {
        source: "numeric(4,4)",
        catalog: None,
        special: &["NaN"],
        usual: &["0.1", "-0.9999"],
        clamped: None,
        is_special: "$ = 'NaN'",
    },
    Special {
        source: "numeric",
        catalog: Some("decimal(20,6)"),
        special: &["Infinity", "-Infinity"],
        usual: &["0", "-34338492.215397", "99999999999999.999999"],
        clamped: Some("CASE $ WHEN 'Infinity' THEN 99999999999999.999999 WHEN '-Infinity' THEN -99999999999999.999999 ELSE $ END"),
        is_special: "$ IN ('Infinity', '-Infinity')",
    },
];

impl Special {
    fn values(&self) -> impl Iterator<Item = &'static str> {
        self.usual.iter().chain(self.special).copied()
    }

    /// The type and the SQL of what is expected under a policy; nothing if the policy leaves an error.
    fn expected(&self, policy: &str) -> Option<(&'static str, String)> {
        let kind = if self.catalog.is_some() { "numeric(20,6)" } else { self.source };
        match policy {
            "null" => Some((kind, format!("CASE WHEN NOT ({}) THEN $ END", self.is_special))),
            "clamp" => Some((kind, self.clamped?.to_owned())),
            "string" => Some(("text", "$::text".to_owned())),
            _ => None,
        }
    }
}

/// A job of the table of all special types under these policies.
fn special_job(database: &Database, format: &str, policies: Value) -> Job {
    let job = job(database, format);
    job.select(&["public.t"]);
    let types = SPECIAL.iter().enumerate().filter_map(|(i, s)| Some((format!("x{i}"), json!(s.catalog?))));
    let types: serde_json::Map<String, Value> = types.collect();
    job.edit("streams.json", |file| {
        let entry = &mut file["selected_streams"]["public"][0];
        entry["special_values"] = policies;
        entry["column_types"] = json!(types);
    });
    job
}

/// One table of all types that have special values; row 100 + k holds the k-th of each.
fn special_table() -> Database {
    let database = Server::shared().database("special");
    let columns: String = SPECIAL.iter().enumerate().map(|(i, s)| format!(", x{i} {}", s.source)).collect();
    let value = |s: &Special, k| s.values().nth(k).map_or_else(|| ", NULL".to_owned(), |v| format!(", '{v}'"));
    let rows = (0..8).map(|k| format!("({}{})", 100 + k, SPECIAL.iter().map(|s| value(s, k)).collect::<String>()));
    let rows: Vec<String> = rows.collect();
    database.sql(&format!("CREATE TABLE t (id int PRIMARY KEY{columns}); INSERT INTO t VALUES {}", rows.join(", ")));
    database
}

#[test]
fn values_without_a_place_follow_the_policy_of_their_column() {
    let database = special_table();
    for policy in ["null", "clamp", "string"] {
        // What no policy but null saves is NULL here, and an error below.
        let chosen = |s: &Special| if s.expected(policy).is_some() { policy } else { "null" };
        let expected: Vec<_> = SPECIAL.iter().map(|s| s.expected(chosen(s)).expect("not an error")).collect();
        let kinds: String = expected.iter().enumerate().map(|(i, (kind, _))| format!(", x{i} {kind}")).collect();
        let values: String = expected.iter().enumerate().map(|(i, (_, sql))| format!(", {}", sql.replace('$', &format!("x{i}")))).collect();
        let table = format!("expected_{policy}");
        database.sql(&format!("CREATE TABLE {table} (id int{kinds}); INSERT INTO {table} SELECT id{values} FROM t"));
        let policies: serde_json::Map<String, Value> =
            SPECIAL.iter().enumerate().map(|(i, s)| (format!("x{i}"), json!(chosen(s)))).collect();
        for format in ["binary", "text"] {
            let job = special_job(&database, format, json!(policies));
            job.sync().succeeded();
            assert_same_as(&job, &database, "public.t", &format!("public.{table}"));
        }
    }
}

#[test]
fn without_a_policy_the_row_is_named_and_nothing_is_published() {
    let database = special_table();
    for (i, special) in SPECIAL.iter().enumerate() {
        let first = 100 + special.usual.len();
        let value = database.sql(&format!("SELECT x{i} FROM t WHERE id = {first}"));
        for format in ["binary", "text"] {
            // Nothing is near to NaN.
            for policy in if special.clamped.is_some() { vec!["error"] } else { vec!["error", "clamp"] } {
                let job = special_job(&database, format, json!({"*": "null", format!("x{i}"): policy}));
                job.sync().failed(exit::SCHEMA, &["public.t", &format!("`x{i}`"), &value, &format!("id = {first}"), "special_values"]);
                assert!(job.files("public.t").is_empty(), "{} {policy}: something was published", special.source);
                job.assert_no_leftovers();
            }
        }
    }
}

/// Elements and bounds are values as well.
#[test]
fn the_policy_reaches_into_arrays_ranges_and_composites() {
    let database = Server::shared().database("deepspecial");
    database.sql(
        "CREATE TYPE event AS (label text, day date, at timestamptz);
         CREATE TABLE t (id int PRIMARY KEY, days date[], span daterange, one event, many event[], spans tstzmultirange);
         INSERT INTO t VALUES (7, '{infinity,2024-01-01,-infinity,NULL}', '[2024-01-01,infinity)', '(a,infinity,-infinity)',
                               '{\"(b,2024-01-01,infinity)\",NULL}', '{(-infinity,2024-01-01 00:00Z),[2024-02-01 00:00Z,2024-03-01 00:00Z)}');
         CREATE TABLE nulls (LIKE t);
         INSERT INTO nulls VALUES (7, '{NULL,2024-01-01,NULL,NULL}', '[2024-01-01,)', '(a,,)', '{\"(b,2024-01-01,)\",NULL}', '{(,2024-01-01 00:00Z),[2024-02-01 00:00Z,2024-03-01 00:00Z)}');
         CREATE TABLE clamps (LIKE t);
         INSERT INTO clamps VALUES (7, '{9999-12-31,2024-01-01,0001-01-01,NULL}', '[2024-01-01,9999-12-31)', '(a,9999-12-31,\"0001-01-01 00:00Z\")',
                               '{\"(b,2024-01-01,\\\"9999-12-31 23:59:59.999999Z\\\")\",NULL}', '{(0001-01-01 00:00Z,2024-01-01 00:00Z),[2024-02-01 00:00Z,2024-03-01 00:00Z)}');",
    );
    let job_with = |format: &str, policy: &str| {
        let job = job(&database, format);
        job.select(&["public.t"]);
        job.edit("streams.json", |file| file["selected_streams"]["public"][0]["special_values"] = json!({"*": policy}));
        job
    };
    for format in ["binary", "text"] {
        for (policy, expected) in [("null", "public.nulls"), ("clamp", "public.clamps")] {
            let job = job_with(format, policy);
            job.sync().succeeded();
            assert_same_as(&job, &database, "public.t", expected);
        }
        // Only the parts that have special values become text.
        let job = job_with(format, "string");
        job.sync().succeeded();
        let values =
            duckdb(&job.files("public.t"), "SELECT days, span.upper, one.label, one.day, typeof(many), spans[1].lower FROM $files");
        let days = json!(["infinity", "2024-01-01", "-infinity", null]);
        assert_eq!(
            values,
            json!([[days, "infinity", "a", "infinity", "STRUCT(\"label\" VARCHAR, \"day\" VARCHAR, \"at\" VARCHAR)[]", "-infinity"]])
        );
        job_with(format, "error").sync().failed(exit::SCHEMA, &["public.t", "`days`", "infinity", "id = 7"]);
    }
}
