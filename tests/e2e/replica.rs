//! `replica_hosts`: a real standby is read, as new as the primary, through conflicts with its recovery.

use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, PASSWORD, Server};
use crate::support::readback::assert_same;
use crate::support::wait_until;
use serde_json::{Value, json};
use std::time::Duration;

const ROWS: u64 = 30_000;

/// A primary with a table of six leaves, its standby, and a job that names both.
struct Pair {
    primary: Server,
    standby: Server,
    database: Database,
    replica: Database,
    job: Job,
}

fn pair() -> Pair {
    let primary = Server::own();
    let database = primary.database("replicated");
    database.sql(&format!(
        "ALTER DATABASE {} SET log_statement = 'all';
         CREATE TABLE t (id int NOT NULL, x text) PARTITION BY RANGE (id);
         SELECT format('CREATE TABLE leaf_%s PARTITION OF t FOR VALUES FROM (%s) TO (%s)', k, k * 5000, (k + 1) * 5000) FROM generate_series(0, 5) k \\gexec
         INSERT INTO t SELECT i, md5(i::text) FROM generate_series(0, {ROWS} - 1) i;
         CREATE TABLE other AS SELECT i FROM generate_series(1, 1000) i; ALTER TABLE other SET (autovacuum_enabled = off);",
        database.name
    ));
    let standby = primary.standby();
    let replica = standby.same(&database);
    let job = Job::new(&database);
    job.edit("source.json", |source| {
        source["replica_hosts"] = json!([format!("127.0.0.1:{}", replica.port)]);
        source["password"] = json!(PASSWORD);
    });
    job.discover();
    job.select(&["public.t"]);
    Pair { primary, standby, database, replica, job }
}

fn copies(database: &Database) -> usize {
    database.log_lines().iter().filter(|line| line.contains("(FORMAT binary)")).count()
}

fn position(database: &Database) -> String {
    database.sql("SELECT pg_current_wal_flush_lsn()")
}

#[test]
fn the_standby_is_read_once_it_has_what_the_primary_has() {
    let Pair { primary, standby, database, replica, job } = pair();
    replica.sql("SELECT pg_wal_replay_pause()");
    database.sql("UPDATE t SET x = 'new' WHERE id < 100; DELETE FROM t WHERE id = 200");
    // Too far behind, for as long as it is allowed to be.
    job.edit("source.json", |source| source["replica_wait_s"] = json!(1));
    job.sync()
        .failed(exit::SOURCE, &["replica_hosts", &format!("127.0.0.1:{}", replica.port), "behind the primary", "last of replica_hosts"]);
    // Then the next is tried: one that is not there, and the primary itself.
    let nobody = crate::support::free_port();
    let hosts = json!([format!("127.0.0.1:{nobody}"), format!("127.0.0.1:{}", replica.port), database.home]);
    job.edit("source.json", |source| source["replica_hosts"] = hosts);
    job.sync().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, ROWS - 1);
    assert!(copies(&database) > 0 && copies(&replica) == 0, "the standby was read");

    // Or it is waited for.
    database.sql("DELETE FROM t WHERE id = 201");
    let before = copies(&database);
    job.edit("source.json", |source| {
        source["replica_hosts"] = json!([format!("127.0.0.1:{}", replica.port)]);
        source["replica_wait_s"] = json!(30);
    });
    let mut run = job.start(&Job::SYNC);
    std::thread::sleep(Duration::from_secs(2));
    assert!(!run.is_over());
    // What it then replays may cancel the very query that lets it.
    let _ = replica.run("SELECT pg_wal_replay_resume()");
    let outcome = run.finish().succeeded();
    assert!(outcome.stderr.contains(&format!("reading from 127.0.0.1:{}", replica.port)), "{}", outcome.stderr);
    assert_eq!(assert_same(&job, &database, "public.t").rows, ROWS - 2);
    assert_eq!(copies(&database), before, "the primary was read");
    assert!(copies(&replica) >= 6);
    drop((standby, primary));
}

/// What the primary's vacuum does to readers of a standby: they are cancelled, and so is the holder of the snapshot.
#[test]
fn a_conflict_with_recovery_is_only_a_delay() {
    let Pair { database, replica, job, .. } = &pair();
    // Some seconds' work, of which some is done when the conflict comes.
    job.edit("source.json", |source| source["rate_limit"] = json!({"rows_per_second": 6000}));
    let run = job.start(&Job::SYNC);
    wait_until("three leaves are read", 60, || copies(replica) >= 5);
    database.sql("UPDATE t SET x = 'changed' WHERE id IN (7, 29000); DELETE FROM other; VACUUM other");
    let here = position(database);
    wait_until("the standby has replayed that", 30, || replica.sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{here}'")) == "t");
    let outcome = run.finish().succeeded();
    assert!(outcome.stderr.contains("conflict with recovery"), "there was no conflict: {}", outcome.stderr);
    assert!(outcome.stderr.contains("still hold"), "everything was read again: {}", outcome.stderr);
    assert_eq!(assert_same(job, database, "public.t").rows, ROWS);
    assert!(copies(database) == 0, "the primary was read");
    job.assert_no_leftovers();
}

/// A table is truncated on the primary: the standby takes the lock from whoever has it.
#[test]
fn a_truncation_that_the_standby_replays() {
    let Pair { database, replica, job, .. } = &pair();
    job.edit("source.json", |source| source["rate_limit"] = json!({"rows_per_second": 6000}));
    let run = job.start(&Job::SYNC);
    wait_until("three leaves are read", 60, || copies(replica) >= 5);
    database.sql("TRUNCATE leaf_5, leaf_0; INSERT INTO t VALUES (3, 'three')");
    let outcome = run.finish().succeeded();
    assert!(outcome.stderr.contains("conflict with recovery"), "there was no conflict: {}", outcome.stderr);
    assert_eq!(assert_same(job, database, "public.t").rows, 20_001);
    job.assert_no_leftovers();
}

#[test]
fn what_is_no_replica_is_refused() {
    let Pair { database, replica, job, .. } = &pair();
    let stranger = Server::shared().at(&database.name);
    stranger_database(&stranger);
    let through = |host: Value, replicas: Value| {
        job.edit("source.json", |source| (source["host"], source["replica_hosts"]) = (host, replicas));
        job.sync()
    };
    through(json!(database.home), json!([format!("127.0.0.1:{}", stranger.port)])).failed(exit::SOURCE, &["another cluster"]);
    job.edit("source.json", |source| source["port"] = json!(replica.port));
    through(json!(replica.home), json!([format!("127.0.0.1:{}", database.port)])).failed(exit::CONFIG, &["a standby", "replica_hosts"]);
    // A standby alone is read like any server.
    through(json!(replica.home), json!([])).succeeded();
    assert_eq!(assert_same(job, database, "public.t").rows, ROWS);
}

fn stranger_database(stranger: &Database) {
    let there = Server::shared().at("postgres");
    there.sql(&format!("CREATE DATABASE {} TEMPLATE template0", stranger.name));
}
