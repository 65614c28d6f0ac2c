//! The value families of PostgreSQL's own regression tables and documentation arrive exactly, in both COPY formats.

use crate::support::lakeward::{Job, exit};
use crate::support::literals::regression::{EXTENSIONS, Family, NESTED, NUMBERS, PLACES, SCHEMA, TEXTS, TIMES};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same, assert_same_as, assert_same_cells};
use serde_json::json;

/// A table with one column per type. Row k holds the k-th value of each type, NULL where there are fewer; the last row is NULL throughout.
fn create(table: &str, families: &[Family]) -> String {
    let columns: String = families.iter().enumerate().map(|(i, (t, _))| format!(", c{i} {t}")).collect();
    let longest = families.iter().map(|(_, values)| values.len()).max().expect("families");
    let value = |v: Option<&&str>| v.map_or("NULL".to_owned(), |v| format!("'{}'", v.replace('\'', "''")));
    let row = |k: usize| families.iter().map(|(t, v)| format!(", {}::{t}", value(v.get(k)))).collect::<String>();
    let rows: Vec<String> = (0..=longest).map(|k| format!("({k}{})", row(k))).collect();
    format!("CREATE TABLE {table} (id int PRIMARY KEY{columns}); INSERT INTO {table} VALUES {};", rows.join(",\n"))
}

/// The settings in which a regression test's input is read.
const SETTINGS: &str = "SET timezone = 'America/Los_Angeles'; SET xmloption = content;";

fn job(database: &Database, format: &str) -> Job {
    let job = Job::new(database);
    job.edit("source.json", |source| source["copy_format"] = json!(format));
    job.discover();
    job
}

#[test]
fn the_regression_tables_arrive_exactly_in_both_copy_formats() {
    let database = Server::shared().database("families");
    let mut tables = vec![
        ("numbers", NUMBERS.to_vec()),
        ("texts", TEXTS.to_vec()),
        ("times", TIMES.to_vec()),
        ("places", PLACES.to_vec()),
        ("nested", NESTED.to_vec()),
    ];
    let mut extensions = Vec::new();
    for (extension, families) in EXTENSIONS {
        if database.extension(extension) {
            extensions.extend_from_slice(families);
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
    /// A job of a table with all values, under a policy.
    fn job(&self, database: &Database, format: &str, policy: &str) -> Job {
        let job = job(database, format);
        job.select(&["public.t"]);
        job.edit("streams.json", |file| {
            let entry = &mut file["selected_streams"]["public"][0];
            entry["special_values"] = json!({"x": policy});
            if let Some(catalog) = self.catalog {
                entry["column_types"] = json!({"x": catalog});
            }
        });
        job
    }

    fn expected(&self, policy: &str) -> Option<(&'static str, String)> {
        let kind = if self.catalog.is_some() { "numeric(20,6)" } else { self.source };
        let (kind, sql) = match policy {
            "null" => (kind, format!("CASE WHEN NOT ({}) THEN $ END", self.is_special)),
            "clamp" => (kind, self.clamped?.to_owned()),
            "string" => ("text", "$::text".to_owned()),
            _ => return None,
        };
        Some((kind, sql.replace('$', "x")))
    }
}

#[test]
fn values_without_a_place_follow_the_policy_of_their_column() {
    for special in SPECIAL {
        let database = Server::shared().database("special");
        let values: Vec<&str> = special.usual.iter().chain(special.special).copied().collect();
        let rows: Vec<String> = values.iter().enumerate().map(|(i, v)| format!("({}, '{v}')", i + 100)).collect();
        let t = special.source;
        database.sql(&format!("CREATE TABLE t (id int PRIMARY KEY, x {t}); INSERT INTO t VALUES {}, (99, NULL)", rows.join(", ")));
        for format in ["binary", "text"] {
            for policy in ["null", "clamp", "string", "error"] {
                let job = special.job(&database, format, policy);
                let outcome = job.sync();
                let Some((kind, sql)) = special.expected(policy) else {
                    // The first row that is special is named with its key, and with the value as the server shows it.
                    let first = special.usual.len() + 100;
                    let value = database.sql(&format!("SELECT x FROM t WHERE id = {first}"));
                    outcome.failed(exit::SCHEMA, &["public.t", "`x`", &value, &format!("id = {first}"), "special_values"]);
                    assert!(job.files("public.t").is_empty(), "{t} {policy}: something was published");
                    job.assert_no_leftovers();
                    continue;
                };
                outcome.succeeded();
                database.sql(&format!(
                    "DROP TABLE IF EXISTS expected; CREATE TABLE expected (id int, x {kind}); INSERT INTO expected SELECT id, {sql} FROM t"
                ));
                assert_same_as(&job, &database, "public.t", "public.expected");
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
        job_with(format, "error").sync().failed(exit::SCHEMA, &["public.t", "`days`", "infinity", "id = 7"]);
    }
}
