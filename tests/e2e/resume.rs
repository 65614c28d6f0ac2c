//! Killed at any moment, then the same command with `--state`: no row lost or doubled, nothing read twice, nothing left over.

use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same, count};
use crate::support::wait_until;
use std::time::Duration;

/// How often the server was asked to copy out of a relation.
fn copies_of(database: &Database, relation: &str) -> usize {
    let name = format!("\"{relation}\"");
    database.log_lines().iter().filter(|line| line.contains("COPY") && line.contains(&name)).count()
}

/// Six ordinary leaves and one that is held back by a gate; each leaf is at least one chunk.
fn leaves(label: &str) -> Database {
    let database = Server::shared().database(label);
    database.sql(&format!(
        "ALTER DATABASE {} SET log_statement = 'all';
         CREATE TABLE t (id int NOT NULL, x text, v regdictionary) PARTITION BY RANGE (id);
         SELECT format('CREATE TABLE leaf_%s PARTITION OF t FOR VALUES FROM (%s) TO (%s)', k, k * 10000, (k + 1) * 10000) FROM generate_series(0, 6) k \\gexec
         INSERT INTO t SELECT i, md5(i::text), CASE WHEN i = 65000 THEN 'simple'::regdictionary END FROM generate_series(0, 69999) i;",
        database.name
    ));
    database
}

#[test]
fn finished_chunks_are_not_read_again() {
    let database = leaves("chunks");
    let gate = database.gate();
    let job = Job::new(&database);
    job.discover();
    job.select(&["public.t"]);
    let run = job.start(&Job::SYNC);
    gate.wait_for_reader();
    wait_until("finished chunks are in state.json", 30, || job.path("state.json").exists());
    // Time for the last finished chunk to be recorded: what is recorded is the program's own business, when is not.
    std::thread::sleep(Duration::from_secs(1));
    let killed = run.kill();
    assert_eq!(killed.code, None, "it ended by itself: {}", killed.stderr);
    assert!(job.files("public.t").is_empty(), "rows became visible before the table was complete");
    let before: Vec<usize> = (0..7).map(|k| copies_of(&database, &format!("leaf_{k}"))).collect();
    assert!(before[..6].iter().all(|&n| n >= 1), "not every leaf was read before the kill: {before:?}");
    gate.open();

    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 70_000);
    let after: Vec<usize> = (0..7).map(|k| copies_of(&database, &format!("leaf_{k}"))).collect();
    assert_eq!(before[..6], after[..6], "finished chunks were read again");
    assert!(after[6] > before[6], "the unfinished chunk was not read again");
    job.assert_no_leftovers();
}

/// A full refresh that was killed leaves the rows of the last one readable.
#[test]
fn the_old_rows_stay_readable_until_the_new_ones_are_complete() {
    let database = leaves("oldrows");
    let job = Job::new(&database);
    job.discover();
    job.select(&["public.t"]);
    let gate = database.gate();
    gate.open();
    job.sync().succeeded();
    let old = job.files("public.t");
    assert_eq!(count(&old), 70_000);

    let locks = |which: &str| database.sql(&format!("SELECT count(*) FROM pg_locks WHERE relation = 'pg_ts_dict'::regclass AND {which}"));
    let mut holder = database.psql();
    holder.args(["-c", "BEGIN; LOCK TABLE pg_catalog.pg_ts_dict IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600)"]);
    let mut holder = holder.stdout(std::process::Stdio::null()).spawn().expect("hold the gate");
    wait_until("the gate is closed", 20, || locks("granted") != "0");
    database.sql("DELETE FROM t WHERE id < 30000");
    let run = job.start(&Job::SYNC);
    wait_until("a reader stands before the gate", 60, || locks("NOT granted") != "0");
    assert_eq!(job.files("public.t"), old, "the old files changed while the new ones were incomplete");
    run.kill();
    assert_eq!(count(&job.files("public.t")), 70_000);
    database.sql("SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE datname = current_database() AND relation = 'pg_ts_dict'::regclass AND granted");
    let _ = holder.wait();

    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 40_000);
    job.assert_no_leftovers();
}

/// Kills at moments spread over the whole run, each followed by a resume, until one comes through.
#[test]
fn killed_again_and_again() {
    let database = Server::shared().database("killed");
    database.sql(
        "CREATE TABLE big (id bigint PRIMARY KEY, x text, n numeric(12,2)); INSERT INTO big SELECT i, md5(i::text), i / 7.0 FROM generate_series(1, 400000) i;
         CREATE TABLE empty (id int); CREATE TABLE small (id int PRIMARY KEY); INSERT INTO small SELECT generate_series(1, 100);
         CREATE TABLE middle (id int, x text); INSERT INTO middle SELECT i, repeat('x', 100) FROM generate_series(1, 50000) i",
    );
    let job = Job::new(&database);
    job.discover();
    let began = std::time::Instant::now();
    job.sync().succeeded();
    let whole = began.elapsed();
    let check = |round: u32| {
        for stream in ["public.big", "public.small", "public.middle"] {
            let files = job.files(stream);
            let rows: u64 = database.sql(&format!("SELECT count(*) FROM {stream}")).parse().expect("a count");
            assert_eq!(count(&files), rows, "{stream} after kill {round}");
        }
    };
    let rounds = 12;
    let mut arguments: &[&str] = &Job::SYNC;
    for round in 0..rounds {
        let run = job.start(arguments);
        std::thread::sleep(whole * (round + 1) / (rounds + 1));
        run.kill();
        // At every moment a reader sees a whole table: the one before or the one after.
        check(round);
        arguments = if job.path("state.json").exists() { &Job::RESUME } else { &Job::SYNC };
    }
    job.run(arguments).succeeded();
    for stream in ["public.big", "public.small", "public.middle"] {
        assert_same(&job, &database, stream);
    }
    assert_eq!(count(&job.files("public.empty")), 0);
    job.assert_no_leftovers();
}

#[test]
fn asked_to_stop_it_leaves_a_resumable_state() {
    for signal in ["TERM", "INT"] {
        let database = leaves("asked");
        let gate = database.gate();
        let job = Job::new(&database);
        job.discover();
        job.select(&["public.t"]);
        let run = job.start(&Job::SYNC);
        gate.wait_for_reader();
        run.signal(signal);
        run.finish().failed(exit::INTERRUPTED, &["--state"]);
        gate.open();
        job.resume().succeeded();
        assert_eq!(assert_same(&job, &database, "public.t").rows, 70_000);
        job.assert_no_leftovers();
    }
}

/// A resume with nothing left to do changes nothing.
#[test]
fn a_sync_from_a_finished_state_gives_the_same_rows() {
    let database = leaves("finished");
    database.gate().open();
    let job = Job::new(&database);
    job.discover();
    job.select(&["public.t"]);
    job.sync().succeeded();
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 70_000);
    job.assert_no_leftovers();
}

#[test]
fn two_runs_at_once_are_refused() {
    let database = leaves("two");
    let gate = database.gate();
    let job = Job::new(&database);
    job.discover();
    job.select(&["public.t"]);
    let first = job.start(&Job::SYNC);
    gate.wait_for_reader();
    job.sync().failed(exit::STATE, &["another"]);
    gate.open();
    first.finish().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 70_000);
}

/// The server goes away in the middle: an error of the source, and the next run goes on.
#[test]
fn a_server_that_cuts_the_connection() {
    let database = leaves("cut");
    let gate = database.gate();
    let job = Job::new(&database);
    job.discover();
    job.select(&["public.t"]);
    let mut run = job.start(&Job::SYNC);
    gate.wait_for_reader();
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND application_name ILIKE '%lakeward%'";
    // It may try again; a table that changes under its feet is then read anew, so it may also succeed in the end.
    for _ in 0..3 {
        if !run.is_over() {
            database.sql(cut);
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    gate.open();
    let outcome = run.finish();
    if outcome.code != Some(exit::DONE) {
        outcome.failed(exit::SOURCE, &[]);
        job.resume().succeeded();
    }
    assert_eq!(assert_same(&job, &database, "public.t").rows, 70_000);
    job.assert_no_leftovers();
}

/// With the session that holds the snapshot go the locks: a table that is truncated then must not arrive empty.
#[test]
fn the_holder_of_the_snapshot_dies_and_a_table_is_rewritten() {
    for retries in [0, 2] {
        let database = leaves("holder");
        database.sql("CREATE TABLE later (id int); INSERT INTO later SELECT generate_series(1, 1000)");
        let gate = database.gate();
        let job = Job::new(&database);
        job.edit("source.json", |source| {
            source["max_threads"] = 1.into();
            source["retry_count"] = retries.into();
        });
        job.discover();
        job.select(&["public.t", "public.later"]);
        let run = job.start(&Job::SYNC);
        gate.wait_for_reader();
        let holder = "datname = current_database() AND application_name ILIKE '%lakeward%' AND state = 'idle in transaction' AND wait_event = 'ClientRead'";
        database.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {holder}"));
        database.sql("SET lock_timeout = '20s'; TRUNCATE later; INSERT INTO later SELECT generate_series(1, 1500)");
        gate.open();
        let outcome = run.finish();
        match retries {
            0 => {
                outcome.failed(exit::SOURCE, &["snapshot"]);
                job.resume().succeeded();
            }
            _ => {
                outcome.succeeded();
            }
        }
        assert_eq!(assert_same(&job, &database, "public.later").rows, 1500);
        assert_eq!(assert_same(&job, &database, "public.t").rows, 70_000);
        job.assert_no_leftovers();
    }
}

/// What the state says of a commit counts for nothing against what the destination has.
#[test]
fn a_commit_that_the_destination_does_not_have_is_done_again() {
    let database = Server::shared().database("elsewhere");
    database.sql("CREATE TABLE good (id int); INSERT INTO good SELECT generate_series(1, 500); CREATE TABLE bad (x date); INSERT INTO bad VALUES ('infinity')");
    let job = Job::new(&database);
    job.discover();
    assert_ne!(job.sync().code, Some(exit::DONE));
    assert_eq!(count(&job.files("public.good")), 500);
    database.sql("UPDATE bad SET x = '2024-01-01'");
    // The lake is lost, or another one is named.
    std::fs::remove_dir_all(job.lake()).expect("lose the lake");
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.good").rows, 500);
    assert_eq!(assert_same(&job, &database, "public.bad").rows, 1);
}

/// A label of an enum can be renamed without a row changing: chunks of before are of no use then.
#[test]
fn a_label_renamed_between_kill_and_resume() {
    let database = leaves("label");
    database.sql("CREATE TYPE mood AS ENUM ('happy', 'sad'); ALTER TABLE t ADD m mood DEFAULT 'happy'");
    let gate = database.gate();
    let job = Job::new(&database);
    job.discover();
    job.select(&["public.t"]);
    let run = job.start(&Job::SYNC);
    gate.wait_for_reader();
    std::thread::sleep(Duration::from_secs(1));
    run.kill();
    database.sql("ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'");
    gate.open();
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 70_000);
}
