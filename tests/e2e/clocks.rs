//! Clocks that are wrong: runs on a machine whose time jumps forward and back by days and years leave what runs with the right time leave.

use super::capture;
use crate::support::lakeward::{Job, Outcome};
use crate::support::postgres::Server;
use crate::support::readback::{assert_same, assert_same_iceberg};
use crate::support::skip;
use crate::support::witness::Witness;
use serde_json::{Value, json};
use std::process::Command;

/// What the clock of each run says; the last one is right again.
const CLOCKS: [&str; 7] = ["+0d", "+400d", "-400d", "+401d", "+0d", "-30y", "+0d"];

/// A run that goes on from what there is, on a machine with this clock.
fn run_at(job: &Job, clock: &str) -> Outcome {
    let arguments: &[&str] = if job.path("state.json").exists() { &Job::RESUME } else { &Job::SYNC };
    let mut faketime = Command::new("faketime");
    faketime.args(["-f", clock]);
    let mut command = job.command_under(faketime, arguments);
    // Timers have a clock of their own, which nobody sets.
    Outcome::from(command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").output().expect("run faketime"))
}

fn has_faketime() -> bool {
    let there = Command::new("faketime").arg("--version").output().is_ok();
    if !there {
        assert!(std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: no faketime is installed");
        skip("no faketime is installed");
    }
    there
}

/// Runs with each clock, each after something has changed: rows, and the shape of the table.
fn jumps(mode: &str, destination: Option<Value>) {
    if !has_faketime() {
        return;
    }
    let kind = destination.as_ref().map_or("parquet", |writer| if writer["jdbc_url"].is_null() { "folders" } else { "sql" });
    let name = format!("clocks_{mode}_{kind}");
    let database = Server::shared().database(&name);
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 50) i");
    let job = if mode == "cdc" { capture::job(&database, &name, None) } else { Job::new(&database) };
    job.discover();
    job.edit("streams.json", |file| {
        file["streams"][0]["stream"]["sync_mode"] = json!(mode);
        if mode == "incremental" {
            file["streams"][0]["stream"]["cursor_field"] = json!("id");
        }
    });
    if let Some(mut writer) = destination.clone() {
        writer["iceberg_s3_path"] = json!(job.lake());
        if kind == "sql" {
            writer["jdbc_url"] = json!(format!("jdbc:sqlite:{}", job.path("catalog.db").display()));
        }
        job.write("destination.json", &json!({"type": "ICEBERG", "writer": writer}));
    }
    for (number, clock) in CLOCKS.into_iter().enumerate() {
        let outcome = run_at(&job, clock);
        assert_eq!(outcome.code, Some(0), "{name}, run {number} at {clock}: {}", outcome.stderr);
        let id = 100 + number;
        database.sql(&format!("INSERT INTO t (id, v) VALUES ({id}, '{clock}')"));
        // A change of a table's metadata without a row.
        if number == 2 && destination.is_some() {
            database.sql("ALTER TABLE t ADD w int");
        }
    }
    job.resume().succeeded();
    // The new column is known to the catalog too.
    std::fs::remove_file(job.path("streams.json")).expect("remove");
    job.discover();
    // Rows have only come: a log of changes holds each of them once, too.
    match kind {
        "folders" => drop(assert_same_iceberg(&job, &database, "public.t")),
        "parquet" => drop(assert_same(&job, &database, "public.t")),
        _ => {
            let found =
                Witness::start().ask(&json!({"sqlite": [job.path("catalog.db"), "t"], "query": "SELECT id, v FROM $table ORDER BY id"}));
            let expected = database.sql("SELECT json_agg(json_build_array(id, v) ORDER BY id) FROM t");
            assert_eq!(found.expect("rows"), serde_json::from_str::<Value>(&expected).expect("JSON"));
        }
    }
}

#[test]
fn clocks_may_jump_with_parquet() {
    for mode in ["full_refresh", "incremental", "cdc"] {
        jumps(mode, None);
    }
}

#[test]
fn clocks_may_jump_with_iceberg() {
    for mode in ["full_refresh", "incremental", "cdc"] {
        jumps(mode, Some(json!({"catalog_type": "filesystem"})));
    }
    jumps("cdc", Some(json!({"catalog_type": "jdbc", "jdbc_url": "sqlite"})));
}
