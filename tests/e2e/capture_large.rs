//! Transactions that the server sends before their outcome is known: large ones, in parts, and prepared ones; and values in binary form.

use super::capture::{follow, job};
use super::types::{CUSTOM, EXACT, Exact, create};
use crate::support::lakeward::{Job, Outcome};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same_iceberg, duckdb};
use serde_json::json;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
     INSERT INTO t SELECT i, 'v' || i, repeat('b', 3000) FROM generate_series(1, 300) i";

/// A database whose transactions are sent in parts as soon as they are larger than 64 kB.
fn database(name: &str) -> Database {
    let database = Server::shared().database(name);
    database.sql(&format!("ALTER DATABASE {} SET logical_decoding_work_mem = '64kB'", database.sql("SELECT current_database()").trim()));
    database.sql(TABLE);
    database
}

/// How many transactions the slot has sent in parts.
fn streamed(database: &Database, slot: &str) -> u64 {
    let sql = format!("SELECT pg_stat_force_next_flush(); SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = '{slot}'");
    database.sql(&sql).lines().last().expect("a row").trim().parse().expect("a number")
}

/// A run that goes on, with everything that it has to say.
fn resume(job: &Job) -> Outcome {
    let mut arguments = Job::RESUME.to_vec();
    arguments.extend(["--log-level", "info,lakeward=debug"]);
    job.run(&arguments).succeeded()
}

#[test]
fn transactions_that_are_sent_in_parts_are_applied_when_they_are_committed() {
    let database = database("caplarge");
    let job = job(&database, "caplarge", Some(json!({})));
    job.sync().succeeded();
    let (mut one, mut two, mut lost) = (database.session(), database.session(), database.session());
    one.sql(
        "BEGIN; INSERT INTO t SELECT i, repeat('one', 30), NULL FROM generate_series(1001, 4000) i; UPDATE t SET v = 'one' WHERE id < 100",
    );
    two.sql("BEGIN; INSERT INTO t SELECT i, repeat('two', 30), NULL FROM generate_series(5001, 9000) i; SAVEPOINT s; DELETE FROM t WHERE id > 200");
    lost.sql("BEGIN; INSERT INTO t SELECT i, repeat('lost', 30), NULL FROM generate_series(20001, 24000) i");
    two.sql("ROLLBACK TO s; SAVEPOINT u; UPDATE t SET v = v || '.two' WHERE id BETWEEN 150 AND 250; SAVEPOINT deep; INSERT INTO t SELECT i, repeat('void', 30), NULL FROM generate_series(30001, 33000) i; ROLLBACK TO deep; RELEASE u");
    database.sql("INSERT INTO t VALUES (-1, 'small', NULL)");
    // None of the three has an outcome.
    resume(&job);
    assert_same_iceberg(&job, &database, "public.t");
    two.sql("UPDATE t SET v = 'again' WHERE id = 5001; COMMIT");
    lost.sql("ROLLBACK");
    one.sql("ALTER TABLE t ADD late int; UPDATE t SET late = id WHERE id BETWEEN 1001 AND 3000");
    one.sql("COMMIT; UPDATE t SET late = -1 WHERE id = 1");
    job.discover();
    follow(&job);
    job.select(&["public.t"]);
    resume(&job);
    assert_same_iceberg(&job, &database, "public.t");
    assert!(streamed(&database, "caplarge") > 0, "the server has not sent anything in parts");
    // Nothing is sent twice, or kept for ever.
    resume(&job);
    assert_same_iceberg(&job, &database, "public.t");
}

/// A slot that gives transactions when they are prepared: what is in them happens when they are committed, however many runs lie between.
#[test]
fn prepared_transactions_are_applied_when_they_are_committed() {
    let database = database("captwo");
    database.sql("SELECT pg_create_logical_replication_slot('captwo', 'pgoutput', false, true); CREATE PUBLICATION captwo_pub FOR TABLE t");
    let job = job(&database, "captwo", Some(json!({})));
    job.sync().succeeded();
    let large = "SELECT i, repeat('large', 30), NULL FROM generate_series";
    database.sql(&format!(
        "BEGIN; INSERT INTO t VALUES (1000, 'small', NULL); UPDATE t SET v = 'prepared' WHERE id = 1; PREPARE TRANSACTION 'captwo small';
         BEGIN; INSERT INTO t {large}(2001, 6000) i; SAVEPOINT s; DELETE FROM t WHERE id > 3000; ROLLBACK TO s; PREPARE TRANSACTION 'captwo large';
         BEGIN; INSERT INTO t {large}(7001, 9000) i; PREPARE TRANSACTION 'captwo void'"
    ));
    let same = |rounds: usize| {
        for _ in 0..rounds {
            resume(&job);
            assert_same_iceberg(&job, &database, "public.t");
        }
    };
    database.sql("INSERT INTO t VALUES (-1, 'between', NULL)");
    same(2);
    database.sql("COMMIT PREPARED 'captwo large'; UPDATE t SET v = 'after' WHERE id = 2001");
    same(2);
    database.sql("ROLLBACK PREPARED 'captwo void'; INSERT INTO t VALUES (-2, 'still', NULL)");
    same(1);
    database.sql("COMMIT PREPARED 'captwo small'");
    same(2);
    // Nothing waits any more.
    database.sql("INSERT INTO t VALUES (-3, 'last', NULL)");
    let end = database.sql("SELECT pg_current_wal_insert_lsn()");
    same(1);
    let told =
        database.sql(&format!("SELECT confirmed_flush_lsn >= '{}' FROM pg_replication_slots WHERE slot_name = 'captwo'", end.trim()));
    assert_eq!(told.trim(), "t");
}

/// The same as a change log, where a doubled change would show.
#[test]
fn prepared_transactions_are_logged_once() {
    let database = database("captwolog");
    database.sql(
        "SELECT pg_create_logical_replication_slot('captwolog', 'pgoutput', false, true); CREATE PUBLICATION captwolog_pub FOR TABLE t",
    );
    let job = job(&database, "captwolog", None);
    job.sync().succeeded();
    database.sql("BEGIN; INSERT INTO t SELECT i, 'p', NULL FROM generate_series(1001, 3000) i; PREPARE TRANSACTION 'captwolog'");
    for round in 0..3 {
        database.sql(&format!("INSERT INTO t VALUES (-{round}, 'between', NULL)"));
        resume(&job);
    }
    database.sql("COMMIT PREPARED 'captwolog'");
    resume(&job);
    resume(&job);
    let counts = duckdb(&job.files("public.t"), "SELECT count(*), count(DISTINCT id) FROM $files");
    let expected: u64 = database.sql("SELECT count(*) FROM t").trim().parse().expect("a number");
    assert_eq!(counts, json!([[expected, expected]]));
}

/// The values of types that have a binary form come in it, and are those of a copy.
#[test]
fn captured_values_in_binary_form_are_those_of_a_copy() {
    let server = Server::shared();
    let mut types: Vec<Exact> = EXACT.to_vec();
    let mut left_out = Vec::new();
    // The first run tells what is read as text only.
    for name in ["capbinary", "capbinaryonly"] {
        let database = server.database(name);
        database.sql(&format!("{CUSTOM} {}; CREATE TABLE kept AS TABLE t; DELETE FROM t", create(&types)));
        let job = job(&database, name, Some(json!({})));
        job.select(&["public.t"]);
        job.sync().succeeded();
        database.sql("INSERT INTO t TABLE kept; UPDATE t SET id = id + 100");
        let said = resume(&job).stderr;
        assert_same_iceberg(&job, &database, "public.t");
        if name == "capbinaryonly" {
            assert!(said.contains("values come in binary form"), "{said}");
            break;
        }
        let (_, reasons) = said.split_once("values come as text because of ").expect("reasons");
        let is_text_only = |at: usize| reasons.contains(&format!("c{at} ("));
        left_out.extend(types.iter().enumerate().filter(|(at, _)| is_text_only(*at)).map(|(_, (name, ..))| *name));
        types.retain(|(name, ..)| !left_out.contains(name));
    }
    assert!(!left_out.is_empty() && left_out.len() <= 12 && types.len() > 40, "read as text only: {left_out:?}");
}

/// A column that has had another type is read as text, whatever order the runs and the changes come in.
#[test]
fn a_type_that_was_another_is_read_as_text() {
    let database = database("capretyped");
    database.sql("ALTER TABLE t ADD n int, ADD at timestamp; UPDATE t SET n = id, at = '2024-01-02 03:04:05'");
    let job = job(&database, "capretyped", Some(json!({})));
    job.sync().succeeded();
    database.sql(
        "INSERT INTO t VALUES (1001, 'before', NULL, 7, '2024-05-06 07:08:09'); ALTER TABLE t ALTER n TYPE bigint;
         INSERT INTO t VALUES (1002, 'after', NULL, 5000000000, '2024-05-06 07:08:09'); UPDATE t SET n = n + 1 WHERE id < 10",
    );
    let said = resume(&job).stderr;
    assert!(said.contains("values come in binary form") && said.contains("values come as text; protocol"), "{said}");
    assert_same_iceberg(&job, &database, "public.t");
    database.sql("UPDATE t SET n = -n");
    let said = resume(&job).stderr;
    assert!(!said.contains("values come as text"), "{said}");
    assert_same_iceberg(&job, &database, "public.t");
}

/// A type of another table in the publication that the server cannot send in binary form does not stop anything.
#[test]
fn what_cannot_be_sent_in_binary_form_is_sent_as_text() {
    let database = database("capnosend");
    database.sql("CREATE TABLE rights (id int PRIMARY KEY, list aclitem[]); CREATE PUBLICATION capnosend_pub FOR TABLE t, rights");
    let job = job(&database, "capnosend", Some(json!({})));
    job.select(&["public.t"]);
    job.sync().succeeded();
    database.sql("INSERT INTO rights VALUES (1, '{=r/postgres}'); INSERT INTO t VALUES (1001, 'a', NULL)");
    let said = resume(&job).stderr;
    assert!(said.contains("asked for as text from here on"), "{said}");
    assert_same_iceberg(&job, &database, "public.t");
}
