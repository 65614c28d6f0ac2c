//! A kernel that says no: the calls by which a run changes files fail, or kill it, wherever they stand (`strace` counts for each thread). The run says so or carries on, and the next one
//! leaves what the database has.
//!
//! See `inject` in strace's manual. The calls are those that nobody but the destination, the state and the index of keys need.

use super::capture;
use crate::support::dice::Dice;
use crate::support::lakeward::{Job, Outcome, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_all_same_iceberg, assert_same};
use crate::support::skip;
use serde_json::json;
use std::process::Command;

/// Calls, with the errors that they have.
const CALLS: [(&str, &[&str]); 6] = [
    ("fsync", &["EIO", "ENOSPC"]),
    ("fdatasync", &["EIO"]),
    ("rename,renameat,renameat2", &["EIO", "ENOSPC", "EACCES"]),
    ("link,linkat", &["EIO", "EMLINK"]),
    ("unlink,unlinkat,rmdir", &["EIO", "EACCES"]),
    ("mkdir,mkdirat", &["ENOSPC", "EACCES"]),
];

fn has_strace() -> bool {
    let there = Command::new("strace").arg("-V").output().is_ok();
    assert!(there || std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: no strace is installed");
    // Some machines let nobody look on.
    let may = there && Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success());
    if !may {
        skip("no strace is installed, or it may not be used here");
    }
    may
}

/// A run whose `number`-th call of one of these does not go through; `None` once there are not so many.
fn run(job: &Job, calls: &str, number: usize, what: &str) -> Option<Outcome> {
    let trace = job.path("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{what}:when={number}"), "-o"]).arg(&trace);
    let arguments: &[&str] = if job.path("state.json").exists() { &Job::RESUME } else { &Job::SYNC };
    let mut command = job.command_under(strace, arguments);
    let outcome = Outcome::from(command.output().expect("run strace"));
    let trace = std::fs::read_to_string(trace).expect("read the trace");
    let happened = if what.contains("KILL") { trace.contains("killed by SIGKILL") } else { trace.contains("(INJECTED)") };
    happened.then_some(outcome)
}

/// Every call of every kind is refused, or with a few of each: first, last, and some between.
fn refused(job: &Job, database: &Database, change: &str, same: impl Fn()) {
    let (mut dice, exhaustive) = (Dice::new(Dice::seed()), std::env::var_os("LAKEWARD_EXHAUSTIVE").is_some());
    eprintln!("LAKEWARD_SEED={}", dice.seeded());
    job.sync().succeeded();
    let mut happened = 0;
    for (calls, errors) in CALLS {
        let mut number = 1;
        loop {
            let what = if dice.one_in(2) { "signal=KILL".to_owned() } else { format!("error={}", dice.pick(errors)) };
            database.sql(change);
            let Some(outcome) = run(job, calls, number, &what) else { break };
            happened += 1;
            // Where nothing hangs on the call, the run goes on.
            let fine = [None, Some(exit::DONE), Some(exit::SOURCE), Some(exit::DESTINATION), Some(exit::STATE)].contains(&outcome.code);
            assert!(fine && !outcome.stderr.contains("panicked"), "{calls} {number} {what}: code {:?}: {}", outcome.code, outcome.stderr);
            job.resume().succeeded();
            if dice.one_in(4) {
                same();
            }
            number += if exhaustive { 1 } else { 1 + dice.below(6) };
        }
        same();
    }
    assert!(happened > 5, "{happened} calls");
    eprintln!("{happened} calls did not go through");
}

#[test]
fn a_kernel_that_says_no_to_parquet() {
    if !has_strace() {
        return;
    }
    let database = Server::shared().database("syscallsparquet");
    database.sql("CREATE TABLE t (id bigserial PRIMARY KEY, part int, v text); INSERT INTO t (part, v) SELECT i % 3, 'v' || i FROM generate_series(1, 100) i");
    let job = Job::new(&database);
    job.discover();
    job.edit("streams.json", |file| file["selected_streams"]["public"][0]["partition_regex"] = json!("/{part, identity}"));
    refused(&job, &database, "INSERT INTO t (part, v) SELECT i % 3, 'new' FROM generate_series(1, 10) i", || {
        assert_same(&job, &database, "public.t");
    });
}

#[test]
fn a_kernel_that_says_no_to_iceberg() {
    if !has_strace() {
        return;
    }
    let database = Server::shared().database("syscallsiceberg");
    database.sql(
        "CREATE TABLE t (id bigserial PRIMARY KEY, v text); INSERT INTO t (v) SELECT 'v' || i FROM generate_series(1, 100) i; CREATE TABLE u (id int PRIMARY KEY, v text)",
    );
    let job = capture::job(&database, "syscallsiceberg", Some(json!({"delete_files": "position"})));
    let change = "INSERT INTO t (v) SELECT 'new' FROM generate_series(1, 5); UPDATE t SET v = v || '+' WHERE id % 7 = 0; INSERT INTO u SELECT count(*), 'u' FROM u; UPDATE u SET v = v || '.' WHERE id % 5 = 0; DELETE FROM t WHERE id % 50 = 1";
    refused(&job, &database, change, || drop(assert_all_same_iceberg(&job, &database, &["public.t", "public.u"])));
}
