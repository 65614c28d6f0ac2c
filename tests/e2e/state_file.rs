//! `state show` and `state repair`: what the state says is shown, and what the destination proves is written anew.

use super::capture::job;
use crate::support::lakeward::{Job, Outcome, exit, files_under};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same_iceberg, duckdb};
use serde_json::{Value, json};

const FILES: [&str; 8] =
    ["--config", "source.json", "--streams", "streams.json", "--destination", "destination.json", "--state", "state.json"];

fn repair(job: &Job, more: &[&str]) -> Outcome {
    job.run(&[&["state", "repair"], &FILES[..], more].concat())
}

/// Everything in the destination, byte for byte.
fn lake(job: &Job) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    files_under(&job.lake()).into_iter().map(|path| (path.clone(), std::fs::read(path).expect("read"))).collect()
}

fn slot(database: &Database, name: &str) -> String {
    database.sql(&format!("SELECT confirmed_flush_lsn, restart_lsn, active FROM pg_replication_slots WHERE slot_name = '{name}'"))
}

/// `state show`, and `--json`.
#[test]
fn what_the_state_says_is_shown() {
    let database = Server::shared().database("stateshow");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE cursor (id int PRIMARY KEY); CREATE TABLE whole (id int); INSERT INTO t VALUES (1); INSERT INTO cursor VALUES (7); INSERT INTO whole VALUES (1)");
    let job = job(&database, "stateshow", Some(json!({})));
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("a list") {
            match entry["stream"]["name"].as_str() {
                Some("cursor") => {
                    entry["stream"]["sync_mode"] = json!("incremental");
                    entry["stream"]["cursor_field"] = json!("id");
                }
                Some("whole") => entry["stream"]["sync_mode"] = json!("full_refresh"),
                _ => {}
            }
        }
    });
    job.run(&["state", "show"]).failed(exit::STATE, &["state.json", "no such file", "state repair"]);
    job.sync().succeeded();
    database.sql("INSERT INTO t VALUES (2)");
    job.resume().succeeded();
    let state = job.read("state.json");
    let shown = job.run(&["state", "show", "--state", "state.json", "--json"]).succeeded();
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let captured = &state["lakeward"]["captures"]["public.t"];
    let streams = shown["streams"].as_array().expect("a list");
    let of = |name: &str| streams.iter().find(|stream| stream["stream"] == name).unwrap_or_else(|| panic!("{name} is not in {shown}"));
    let t = of("public.t");
    assert_eq!(
        (&t["mode"], &t["load"], &t["lsn"], &t["written"]),
        (&json!("cdc"), &captured["load"], &captured["lsn"], &captured["written"])
    );
    assert_eq!((&of("public.cursor")["mode"], &of("public.cursor")["cursor"]["values"]), (&json!("incremental"), &json!(["7"])));
    assert_eq!((&of("public.whole")["mode"], &of("public.whole")["chunks_left"]), (&json!("full_refresh"), &json!(0)));
    assert_eq!((&shown["position"], &shown["slot"]), (&state["global"]["state"]["lsn"], &Value::Null));
    // With the source, how far the slot is behind.
    // In a transaction, whose end has the log written: how much of it the server counts is what it has written.
    database.sql("SELECT pg_logical_emit_message(true, 'x', repeat('x', 3000000))");
    let with = |more: &[&str]| job.run(&[&["state", "show", "--config", "source.json"], more].concat()).succeeded();
    let slot: Value = serde_json::from_str(&with(&["--json"]).stdout).expect("JSON");
    assert!(slot["slot"]["held_bytes"].as_u64().is_some_and(|held| held > 2_000_000), "{slot}");
    let text = with(&[]).stdout;
    for words in ["public.t", "cdc", "changes up to", "id read up to 7", "slot stateshow may forget everything before", "MB"] {
        assert!(text.contains(words), "{words} is not in:\n{text}");
    }
    // A server that is away hides the slot only.
    job.edit("source.json", |source| source["host"] = json!("/nowhere"));
    let away = with(&[]);
    assert!(away.stdout.contains("public.t") && away.stderr.contains("the slot is not shown"), "{}", away.stderr);
}

/// A busy table and a quiet one, after some runs; gives the job.
fn followed(name: &str, iceberg: Option<Value>) -> (Database, Job) {
    let database = Server::shared().database(name);
    database.sql("CREATE TABLE busy (id int PRIMARY KEY, v text); INSERT INTO busy SELECT i, 'v' FROM generate_series(1, 100) i; CREATE TABLE quiet (id int PRIMARY KEY); INSERT INTO quiet VALUES (1)");
    let job = job(&database, name, iceberg);
    job.sync().succeeded();
    database.sql("UPDATE busy SET v = 'w' WHERE id < 50; INSERT INTO quiet VALUES (2)");
    job.resume().succeeded();
    database.sql("DELETE FROM busy WHERE id < 10");
    job.resume().succeeded();
    (database, job)
}

/// What is proved is written again, what is not is left out, and nothing else is touched.
fn a_lost_state(name: &str, iceberg: Option<Value>) {
    let (database, job) = followed(name, iceberg);
    let before = job.read("state.json");
    let (lake_before, slot_before) = (lake(&job), slot(&database, name));
    let agrees = repair(&job, &[]).succeeded();
    assert!(agrees.stdout.contains("public.busy: agrees") && agrees.stdout.contains("nothing to repair"), "{}", agrees.stdout);
    assert_eq!(job.read("state.json"), before);

    std::fs::remove_file(job.path("state.json")).expect("remove");
    let told = repair(&job, &["--dry-run"]).succeeded();
    assert!(told.stdout.contains("public.busy: rebuilt") && told.stdout.contains("--dry-run"), "{}", told.stdout);
    assert!(!job.path("state.json").exists());
    let told = repair(&job, &[]).succeeded();
    assert!(told.stdout.contains("public.quiet: left out") && told.stdout.contains("has forgotten everything before"), "{}", told.stdout);
    let after = job.read("state.json");
    // What the columns were called, and which files the rows were in, is in no token.
    let mut expected = before["lakeward"]["captures"]["public.busy"].clone();
    expected.as_object_mut().expect("an object").retain(|key, _| !["columns", "heaps", "timeline"].contains(&key.as_str()));
    assert_eq!(after["lakeward"]["captures"]["public.busy"], expected);
    assert!(after["lakeward"]["captures"].get("public.quiet").is_none(), "{after}");
    assert_eq!((lake(&job), slot(&database, name)), (lake_before, slot_before));

    database.sql("UPDATE busy SET v = 'x' WHERE id > 90; INSERT INTO quiet VALUES (3)");
    job.resume().succeeded();
    let state = job.read("state.json");
    assert_eq!(
        state["lakeward"]["captures"]["public.busy"]["load"], before["lakeward"]["captures"]["public.busy"]["load"],
        "not loaded anew"
    );
    check(&job, &database);

    // Damaged: the old file stays.
    let whole = std::fs::read_to_string(job.path("state.json")).expect("read");
    std::fs::write(job.path("state.json"), &whole[..whole.len() / 2]).expect("write");
    database.sql("UPDATE busy SET v = 'y' WHERE id = 60; INSERT INTO quiet VALUES (4)");
    job.resume().failed(exit::STATE, &["state.json", "lakeward state repair"]);
    let told = repair(&job, &[]).succeeded();
    assert!(told.stdout.contains("nothing of it is used") && told.stdout.contains("state.json.before-repair"), "{}", told.stdout);
    assert_eq!(std::fs::read_to_string(job.path("state.json.before-repair")).expect("read"), whole[..whole.len() / 2]);
    job.resume().succeeded();
    check(&job, &database);
}

/// What is in the destination is what is in the source.
fn check(job: &Job, database: &Database) {
    if job.read("destination.json")["type"] == "ICEBERG" {
        for stream in ["public.busy", "public.quiet"] {
            assert_same_iceberg(job, database, stream);
        }
        return;
    }
    for table in ["busy", "quiet"] {
        let last = "SELECT id, * EXCLUDE (id) FROM $files QUALIFY row_number() OVER (PARTITION BY id ORDER BY _cdc_order DESC) = 1 AND _op_type <> 'd'";
        let rows = duckdb(&job.files(&format!("public.{table}")), &format!("SELECT count(*), sum(id) FROM ({last})"));
        let expected = database.sql(&format!("SELECT json_build_array(json_build_array(count(*), sum(id))) FROM {table}"));
        let expected: Value = serde_json::from_str(&expected).expect("JSON");
        assert_eq!(rows.to_string().replace(".0", ""), expected.to_string(), "{table}");
        let twice = duckdb(&job.files(&format!("public.{table}")), "SELECT count(*) - count(DISTINCT (id, _cdc_order)) FROM $files");
        assert_eq!(twice, json!([[0]]), "{table}: a change is there twice");
    }
}

#[test]
fn a_lost_state_is_written_anew_of_iceberg() {
    a_lost_state("staterepi", Some(json!({})));
}

#[test]
fn a_lost_state_is_written_anew_of_parquet() {
    a_lost_state("staterepp", None);
}

/// States of another time: older than the destination, and of a load that the destination does not have any more.
#[test]
fn a_state_of_another_time_is_set_to_what_the_destination_has() {
    let (database, job) = followed("stateold", Some(json!({})));
    let older = job.read("state.json");
    database.sql("UPDATE busy SET v = 'z' WHERE id = 60; INSERT INTO quiet VALUES (5)");
    job.resume().succeeded();
    let newer = job.read("state.json");
    job.write("state.json", &older);
    let told = repair(&job, &[]).succeeded();
    assert!(told.stdout.contains("public.busy: set from changes up to"), "{}", told.stdout);
    // When the files of the heaps were looked at is in no token: it stays as it was.
    let without_horizon = |mut state: Value| {
        let captures = state["lakeward"]["captures"].as_object_mut().expect("an object");
        captures.values_mut().for_each(|captured| captured["heaps"]["horizon"] = json!(null));
        state["lakeward"]["captures"].clone()
    };
    assert_eq!(without_horizon(job.read("state.json")), without_horizon(newer));
    assert_eq!(job.read("state.json.before-repair"), older);

    // Loaded anew meanwhile: the sync refuses the older file, the repaired one goes on.
    let clear = [&["clear-destination"], &FILES[..]].concat();
    job.run(&clear).succeeded();
    job.resume().succeeded();
    database.sql("UPDATE busy SET v = 'a' WHERE id = 61; INSERT INTO quiet VALUES (6)");
    job.resume().succeeded();
    job.write("state.json", &older);
    job.resume().failed(exit::STATE, &["its last commit is load"]);
    let told = repair(&job, &[]).succeeded();
    assert!(told.stdout.contains("public.busy: set from load"), "{}", told.stdout);
    assert!(job.path("state.json.before-repair-2").exists());
    database.sql("DELETE FROM busy WHERE id = 62; INSERT INTO quiet VALUES (7)");
    job.resume().succeeded();
    check(&job, &database);

    // A table that was made again is not the one of the token; without a slot nothing can be followed.
    std::fs::remove_file(job.path("state.json")).expect("remove");
    database.sql("DROP TABLE busy; CREATE TABLE busy (id int PRIMARY KEY, v text)");
    let told = repair(&job, &["--dry-run"]).succeeded();
    assert!(told.stdout.contains("public.busy: left out: the table was dropped"), "{}", told.stdout);
    database.sql("SELECT pg_drop_replication_slot('stateold')");
    let told = repair(&job, &["--dry-run"]).succeeded();
    assert!(told.stdout.contains("public.quiet: left out: there is no slot"), "{}", told.stdout);
}

/// A stream that is read by a cursor: no token has its value.
#[test]
fn a_cursor_that_contradicts_the_destination_is_left_out() {
    let database = Server::shared().database("statecursor");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let job = Job::new(&database);
    job.discover();
    job.edit("streams.json", |file| {
        file["streams"][0]["stream"]["sync_mode"] = json!("incremental");
        file["streams"][0]["stream"]["cursor_field"] = json!("id");
    });
    job.sync().succeeded();
    let older = job.read("state.json");
    assert!(repair(&job, &[]).succeeded().stdout.contains("public.t: agrees"));
    database.sql("INSERT INTO t VALUES (2)");
    job.resume().succeeded();
    job.write("state.json", &older);
    job.resume().failed(exit::STATE, &["public.t", "lakeward state repair"]);
    let told = repair(&job, &[]).succeeded();
    assert!(told.stdout.contains("public.t: left out"), "{}", told.stdout);
    job.resume().succeeded();
    assert_eq!(duckdb(&job.files("public.t"), "SELECT id FROM $files ORDER BY id"), json!([[1], [2]]));
}
