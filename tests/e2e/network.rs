//! What networks and servers do to a run that is under way: connections are reset, go silent, servers restart or are
//! replaced. The end is exact each time.

use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, PASSWORD, Server};
use crate::support::proxy::Proxy;
use crate::support::readback::assert_same;
use crate::support::wait_until;
use serde_json::json;
use std::time::{Duration, Instant};

const ROWS: u64 = 40_000;

/// A table of eight leaves, 12 MB on the wire.
fn leaves(database: &Database) {
    database.sql(&format!(
        "CREATE TABLE t (id int NOT NULL, x text) PARTITION BY RANGE (id);
         SELECT format('CREATE TABLE leaf_%s PARTITION OF t FOR VALUES FROM (%s) TO (%s)', k, k * 5000, (k + 1) * 5000) FROM generate_series(0, 7) k \\gexec
         INSERT INTO t SELECT i, repeat(md5(i::text), 9) FROM generate_series(0, {ROWS} - 1) i; CHECKPOINT"
    ));
}

/// A job over TCP to `ports` of 127.0.0.1 that takes some seconds.
fn job(database: &Database, ports: &[u16], retries: u32) -> Job {
    let job = Job::new(database);
    job.write("source.json", &database.source_tcp("postgres", PASSWORD));
    job.edit("source.json", |source| {
        source.as_object_mut().expect("an object").remove("host");
        source["hosts"] = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        source["retry_count"] = json!(retries);
        source["rate_limit"] = json!({"rows_per_second": 10_000});
    });
    job.discover();
    job.select(&["public.t"]);
    job
}

fn staged(job: &Job) -> bool {
    std::fs::read_to_string(job.path("state.json")).is_ok_and(|state| state.matches("\"part\"").count() >= 3)
}

#[test]
fn a_connection_is_reset_in_the_middle_of_a_table() {
    let database = Server::shared().database("reset");
    leaves(&database);
    let proxy = Proxy::start(database.port);
    let job = job(&database, &[proxy.port], 0);
    job.edit("source.json", |source| source["rate_limit"] = json!({}));
    proxy.reset_after(2_000_000);
    let outcome = job.sync().succeeded();
    assert_eq!(proxy.resets(), 1);
    assert!(outcome.stderr.contains("connecting again (1 of"), "{}", outcome.stderr);
    assert_eq!(assert_same(&job, &database, "public.t").rows, ROWS);
    job.assert_no_leftovers();
}

/// Nothing comes, nothing is refused, and no keep-alive probe of the kernel finds anything wrong.
#[test]
fn a_network_that_falls_silent() {
    let database = Server::shared().database("silent");
    leaves(&database);
    let proxy = Proxy::start(database.port);
    let job = job(&database, &[proxy.port], 0);
    job.edit("source.json", |source| {
        source["jdbc_url_params"] = json!({"keepalives_idle": "2", "keepalives_interval": "1", "keepalives_count": "3"})
    });
    let cut_in_the_middle = || {
        let _ = std::fs::remove_file(job.path("state.json"));
        let run = job.start(&Job::SYNC);
        wait_until("some chunks are staged", 60, || staged(&job));
        proxy.cut();
        (run, Instant::now())
    };
    let (run, cut) = cut_in_the_middle();
    let outcome = run.finish().failed(exit::SOURCE, &["no answer for 3 s", "snapshot", "--state"]);
    assert!(cut.elapsed() < Duration::from_secs(20), "{:?}: {}", cut.elapsed(), outcome.stderr);
    let resumed = job.resume().succeeded();
    assert!(resumed.stderr.contains("still hold"), "{}", resumed.stderr);
    assert_eq!(assert_same(&job, &database, "public.t").rows, ROWS);
    // With a second attempt allowed, the run gets there by itself.
    job.edit("source.json", |source| source["retry_count"] = json!(1));
    let (run, _) = cut_in_the_middle();
    run.finish().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, ROWS);
    job.assert_no_leftovers();
}

/// A session that waits for an answer in a network that swallows everything: as long as the server works it is waited for, and no longer.
#[test]
fn an_answer_that_does_not_come() {
    let database = Server::shared().database("unanswered");
    leaves(&database);
    let proxy = Proxy::start(database.port);
    let job = job(&database, &[proxy.port], 0);
    job.edit("source.json", |source| {
        source["jdbc_url_params"] = json!({"keepalives_idle": "1", "keepalives_interval": "1", "keepalives_count": "3"});
        source["lock_timeout_s"] = json!(60);
    });
    let mut holder = database.session();
    holder.sql("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
    let mut run = job.start(&Job::SYNC);
    wait_until("the run waits for the lock", 20, || {
        database
            .sql("SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE NOT granted AND datname = current_database()")
            != "0"
    });
    std::thread::sleep(Duration::from_secs(4));
    assert!(!run.is_over(), "a server that works is waited for");
    proxy.cut();
    std::thread::sleep(Duration::from_secs(4));
    assert!(!run.is_over(), "a server that works is waited for, though it cannot be heard");
    holder.sql("COMMIT");
    run.finish_within(Duration::from_secs(20)).failed(exit::SOURCE, &["no answer for 1 s", "does not work on it any more"]);
    job.sync().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, ROWS);
}

#[test]
fn a_server_that_restarts() {
    let server = Server::own();
    let database = server.database("restart");
    leaves(&database);
    for mode in ["fast", "immediate"] {
        let job = job(&database, &[database.port], 4);
        let run = job.start(&Job::SYNC);
        wait_until("some chunks are staged", 60, || staged(&job));
        server.control(&format!("restart -m {mode}"));
        database.sql("UPDATE t SET x = 'changed after the restart' WHERE id % 5000 = 1");
        let outcome = run.finish().succeeded();
        assert!(outcome.stderr.contains("attempt 1 of 4"), "{mode}: {}", outcome.stderr);
        assert_eq!(assert_same(&job, &database, "public.t").rows, ROWS);
        job.assert_no_leftovers();
    }
}

/// The primary is lost for good, with what it had told nobody; the standby takes over.
#[test]
fn a_standby_that_is_promoted() {
    let primary = Server::own();
    let database = primary.database("failover");
    leaves(&database);
    let standby = primary.standby();
    let successor = standby.same(&database);
    let job = job(&database, &[database.port, successor.port], 4);
    let run = job.start(&Job::SYNC);
    wait_until("some chunks are staged", 60, || staged(&job));
    primary.control("stop -m immediate");
    standby.control("promote");
    successor.sql("DELETE FROM t WHERE id = 4; UPDATE t SET x = 'of the new primary' WHERE id = 5");
    run.finish().succeeded();
    assert_eq!(assert_same(&job, &successor, "public.t").rows, ROWS - 1);
    job.assert_no_leftovers();
}
