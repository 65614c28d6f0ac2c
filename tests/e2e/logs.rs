//! `--log-files`: OLake's log file, where OLake puts it, with what stderr has and a little more.

use crate::support::lakeward::{Job, exit, files_under};
use crate::support::postgres::{Database, Server};
use chrono::NaiveDateTime;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn database() -> Database {
    let database = Server::shared().database("logs");
    database.sql("CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders SELECT i, 'note' FROM generate_series(1, 100) i");
    database
}

/// Runs with a log file, and gives its lines. What was logged before is removed.
#[track_caller]
fn lines(job: &Job, arguments: &[&str]) -> (crate::support::lakeward::Outcome, Vec<Value>) {
    let _ = std::fs::remove_dir_all(job.path("logs"));
    let outcome = job.run(&[arguments, &["--log-files"]].concat());
    (outcome, read(&job.path("logs")))
}

/// The lines of the only log below `logs`, each in OLake's form.
#[track_caller]
fn read(logs: &Path) -> Vec<Value> {
    let files = files_under(logs);
    let [file] = &files[..] else { panic!("not one log file: {files:?}") };
    let inside: Vec<_> = file.strip_prefix(logs).expect("below logs").iter().map(|part| part.to_str().expect("a name")).collect();
    let [run, "olake.log"] = inside[..] else { panic!("{inside:?}") };
    assert!(NaiveDateTime::parse_from_str(run, "sync_%Y-%m-%d_%H-%M-%S").is_ok(), "{run}");
    let text = std::fs::read_to_string(file).expect("read the log");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    for line in &lines {
        assert!(["debug", "info", "warn", "error"].contains(&line["level"].as_str().expect("level")), "{line}");
        let time = line["time"].as_str().expect("time");
        let time = NaiveDateTime::parse_from_str(time, "%Y-%m-%dT%H:%M:%SZ").unwrap_or_else(|e| panic!("{time}: {e}"));
        assert!((chrono::Utc::now().naive_utc() - time).num_seconds() < 600, "{line}");
        assert!(line["message"].is_string() || line["message"]["type"].is_string(), "{line}");
    }
    lines
}

fn messages(lines: &[Value]) -> Vec<String> {
    lines.iter().map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_sync_leaves_its_log_and_its_summary() {
    let job = Job::new(&database());
    job.run(&["discover", "--config", "source.json"]).succeeded();
    job.edit("streams.json", |file| file["streams"][0]["stream"]["sync_mode"] = json!("full_refresh"));
    job.sync().succeeded();
    assert!(!job.path("logs").exists(), "nobody asked for a log");

    // The same lines, whatever is shown on stderr.
    let (text, as_text) = lines(&job, &Job::SYNC);
    let (json, as_json) = lines(&job, &[&Job::SYNC[..], &["--log-format", "json"]].concat());
    assert!(text.succeeded().stderr.contains("public.orders"));
    let stderr = json.succeeded().stderr;
    assert!(stderr.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{stderr}");
    assert_eq!(stderr.matches("\"summary\"").count(), 1, "{stderr}");
    assert_eq!(as_text.len(), as_json.len(), "{as_text:?}\n{as_json:?}");
    for lines in [as_text, as_json] {
        let summaries: Vec<_> = lines.iter().filter(|line| line.get("streams").is_some()).collect();
        let [summary] = summaries[..] else { panic!("not one summary: {lines:?}") };
        assert_eq!((&summary["streams"][0]["stream"], &summary["streams"][0]["rows"]), (&json!("public.orders"), &json!(100)));
        assert!(summary["message"].as_str().is_some_and(|text| text.contains("public.orders") && text.contains("total")), "{summary}");
        assert!(messages(&lines).iter().any(|message| message.contains("exported snapshot")), "{lines:?}");
    }
}

#[test]
fn every_command_has_one() {
    let job = Job::new(&database());
    let check = |arguments: &[&str], message: &str| {
        let (outcome, lines) = lines(&job, arguments);
        let printed = outcome.succeeded().messages().pop().expect("a message");
        assert_eq!(printed["type"], message);
        assert!(lines.iter().any(|line| line["message"] == printed), "{arguments:?}: {lines:?}");
    };
    check(&["spec"], "SPEC");
    check(&["check", "--config", "source.json"], "CONNECTION_STATUS");
    check(&["check", "--destination", "destination.json"], "CONNECTION_STATUS");
    check(&["discover", "--config", "source.json"], "CATALOG");
    job.edit("streams.json", |file| file["streams"][0]["stream"]["sync_mode"] = json!("full_refresh"));
    job.sync().succeeded();
    lines(&job, &["preview", "--destination", "destination.json", "--streams", "streams.json"]).0.succeeded();
    let (_, lines) = lines(&job, &["clear-destination", "--destination", "destination.json", "--streams", "streams.json"]);
    assert!(messages(&lines).iter().any(|message| message.contains("removed")), "{lines:?}");
}

#[test]
fn a_failure_is_there_with_what_to_do_and_without_a_secret() {
    let job = Job::new(&database());
    job.edit("source.json", |source| {
        source["database"] = json!("nowhere");
        source["password"] = json!("hunter2");
    });
    let (outcome, lines) = lines(&job, &["discover", "--config", "source.json", "--log-level", "trace"]);
    outcome.failed(exit::SOURCE, &["nowhere"]);
    let errors: Vec<Value> = lines.iter().filter(|line| line["level"] == "error").cloned().collect();
    let errors = messages(&errors);
    assert!(errors.len() == 2 && errors[0].contains("nowhere") && errors[1].starts_with("what to do: "), "{errors:?}");
    assert!(!Value::from(lines).to_string().contains("hunter2"));
}

#[test]
fn no_save_takes_it_to_the_temporary_folder() {
    let job = Job::new(&database());
    let temporary: PathBuf = job.path("tmp");
    std::fs::create_dir(&temporary).expect("make a temporary folder");
    let mut command = job.command(&["discover", "--config", "source.json", "--no-save", "--log-files"]);
    assert!(command.env("TMPDIR", &temporary).output().expect("run lakeward").status.success());
    assert!(!job.path("logs").exists());
    let own = std::fs::read_dir(&temporary).expect("list it").map(|entry| entry.expect("an entry").path()).next().expect("a folder");
    assert!(read(&own.join("logs")).iter().any(|line| line["message"]["type"] == "CATALOG"));
}

#[test]
fn a_log_that_cannot_be_written_stops_the_run_before_it_begins() {
    let job = Job::new(&database());
    std::fs::write(job.path("logs"), "not a folder").expect("stand in the way");
    let outcome = job.run(&["discover", "--config", "source.json", "--log-files"]);
    let outcome = outcome.failed(exit::STATE, &["write log files to", "logs/sync_", "what to do", "--log-files"]);
    assert!(outcome.stdout.is_empty() && !job.path("streams.json").exists());
}
