//! Databases that we did not think of: what PostgreSQL's own regression suite leaves behind, table by table as it is in the database.
//!
//! The suite is not kept here: `LAKEWARD_POSTGRES_SOURCE` names PostgreSQL's source, `./build.sh foreign` fetches what is needed of it.

use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_all_same_as, assert_all_same_iceberg_as, ident};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The folder of the suite, where there is one.
fn suite() -> Option<PathBuf> {
    std::env::var_os("LAKEWARD_POSTGRES_SOURCE").map(|root| PathBuf::from(root).join("src/test/regress"))
}

/// The scripts of a schedule, in order; those that run at the same time there come one after the other.
fn scripts(folder: &Path) -> Vec<String> {
    let schedule = std::fs::read_to_string(folder.join("parallel_schedule")).expect("read the schedule");
    let tests = schedule.lines().filter_map(|line| line.strip_prefix("test:"));
    tests.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// A database in which the whole suite has run. What it provokes by intent, and what needs the suite's own library, fails.
fn regression(server: &Server, folder: &Path) -> Database {
    let database = server.database("regression");
    // The server reads the data by itself, and is somebody else.
    let data = server.folder("regress");
    std::fs::create_dir(data.join("data")).expect("make a folder");
    for entry in std::fs::read_dir(folder.join("data")).expect("list the data") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), data.join("data").join(entry.file_name())).expect("copy the data");
    }
    // As `pg_regress` sets it up.
    database.sql(&format!(
        "ALTER DATABASE {0} SET datestyle TO 'Postgres, MDY'; ALTER DATABASE {0} SET timezone TO 'PST8PDT'; ALTER DATABASE {0} SET lc_messages TO 'C'",
        database.sql("SELECT current_database()")
    ));
    for script in scripts(folder) {
        let file = std::fs::File::open(folder.join("sql").join(format!("{script}.sql"))).expect("open a script");
        let mut psql = database.psql();
        psql.args(["-v", "ON_ERROR_STOP=0"])
            .env("PGTZ", "PST8PDT")
            .env("PG_ABS_SRCDIR", &data)
            .env("PG_LIBDIR", &data)
            .env("PG_DLSUFFIX", ".so");
        psql.env("PG_ABS_BUILDDIR", &data).stdin(file).stdout(Stdio::null()).stderr(Stdio::null());
        psql.status().expect("run psql");
    }
    database
}

/// Tables with a value that has no place in its column's type (an infinite time, NaN among decimals, arrays of other dimensions): told with the row and
/// what to do, as long as nobody has said what to do with such values.
const REFUSED: [(&str, &str); 4] = [
    ("public.arrtest", "is not of 3 dimensions"),
    ("public.num_typemod_test", "NaN is not a number"),
    ("public.timestamp_tbl", "-infinity is not a timestamp"),
    ("public.timestamptz_tbl", "-infinity is not a timestamp"),
];

/// Sends every table of the suite's database through a run, and compares what arrived.
fn all_tables(destination: &Value) {
    let Some(folder) = suite() else { return };
    let server = Server::own();
    let database = regression(&server, &folder);
    let job = Job::new(&database);
    job.write("destination.json", destination);
    let found = job.discover();
    let chosen = found["selected_streams"].as_object().expect("an object");
    let streams = chosen.iter().flat_map(|(namespace, list)| {
        list.as_array().expect("a list").iter().map(move |entry| format!("{namespace}.{}", entry["stream_name"].as_str().expect("text")))
    });
    let streams: Vec<String> = streams.collect();
    assert!(streams.len() > 300, "{} streams", streams.len());
    let outcome = job.sync();
    let parents = database.sql(
        "CREATE SCHEMA own_rows; SELECT format('%s.%s', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
         WHERE relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid)",
    );
    let parents: Vec<String> = parents.lines().map(str::to_owned).filter(|name| streams.contains(name)).collect();
    for name in &parents {
        let (namespace, table) = name.split_once('.').expect("a dot");
        database.sql(&format!(
            "CREATE VIEW own_rows.{} AS SELECT * FROM ONLY {}.{}",
            ident(&name.replace('.', "_")),
            ident(namespace),
            ident(table)
        ));
    }
    assert_eq!(outcome.code, Some(exit::SCHEMA), "{}", outcome.stderr);
    for line in outcome.stderr.lines().filter(|line| line.contains(" ERROR ") && !line.contains("what to do")) {
        assert!(REFUSED.iter().any(|(stream, why)| line.contains(stream) && line.contains(why)), "{line}");
    }
    // A parent of plain inheritance is a stream of its own rows; its children are streams too.
    let own_rows = |stream: &String| match parents.contains(stream) {
        true => (stream.clone(), format!("own_rows.{}", stream.replace('.', "_"))),
        false => (stream.clone(), stream.clone()),
    };
    let pairs: Vec<(String, String)> =
        streams.iter().filter(|name| REFUSED.iter().all(|(refused, _)| name != refused)).map(own_rows).collect();
    match destination["type"] == "ICEBERG" {
        true => assert_all_same_iceberg_as(&job, &database, &pairs),
        false => assert_all_same_as(&job, &database, &pairs),
    }
    eprintln!("{} tables are the same", pairs.len());
    if let Some(proof) = std::env::var_os("LAKEWARD_PROOF") {
        let counts = json!({"found": streams.len(), "same": pairs.len(), "refused": REFUSED.len()});
        std::fs::write(Path::new(&proof).join("regression.json"), counts.to_string()).expect("write the report");
    }
}

#[test]
fn the_regression_database_to_parquet() {
    all_tables(&json!({"type": "PARQUET", "writer": {"local_path": "lake"}}));
}

#[test]
fn the_regression_database_to_iceberg() {
    all_tables(&json!({"type": "ICEBERG", "writer": {"catalog_type": "filesystem", "iceberg_s3_path": "lake"}}));
}
