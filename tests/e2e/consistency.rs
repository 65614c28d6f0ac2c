//! Writes go on during the sync: what lands equals the database at one instant, across all tables.

use crate::support::lakeward::Job;
use crate::support::postgres::{Database, Server};
use crate::support::readback::duckdb;
use crate::support::wait_until;
use std::io::Write;
use std::process::{Child, Stdio};

const ACCOUNTS: u64 = 2000;

/// Two tables of accounts and a ledger. Each transaction moves money from one table to the other and notes it.
pub fn bank(label: &str, last_row_gated: bool) -> Database {
    let database = Server::shared().database(label);
    database.sql(&format!(
        "CREATE TABLE a (id int PRIMARY KEY, balance bigint NOT NULL, v regdictionary);
         CREATE TABLE b (id int PRIMARY KEY, balance bigint NOT NULL, v regdictionary);
         CREATE TABLE ledger (id bigserial PRIMARY KEY, amount bigint NOT NULL);
         INSERT INTO a SELECT i, 1000 FROM generate_series(1, {ACCOUNTS}) i; INSERT INTO b SELECT i, 1000 FROM generate_series(1, {ACCOUNTS}) i;"
    ));
    if last_row_gated {
        database.sql("INSERT INTO b VALUES (0, 0, 'simple')");
    }
    database
}

/// Transfers that go on until this is dropped.
pub struct Transfers {
    database: Database,
    child: Child,
}

impl Drop for Transfers {
    fn drop(&mut self) {
        // A server process that computes does not notice that its client is gone.
        self.database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'DO $$ DECLARE x bigint%'");
        self.child.wait().expect("wait for psql");
    }
}

/// Begins transfers.
pub fn transfers(database: &Database) -> Transfers {
    let mut child = database.psql().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start psql");
    let loop_for_ever = format!(
        "DO $$ DECLARE x bigint; BEGIN FOR i IN 1..100000000 LOOP
             x := 1 + i % 17;
             UPDATE a SET balance = balance - x WHERE id = 1 + (i * 7919::bigint) % {ACCOUNTS};
             UPDATE b SET balance = balance + x WHERE id = 1 + (i * 104729::bigint) % {ACCOUNTS};
             INSERT INTO ledger (amount) VALUES (x);
             COMMIT;
         END LOOP; END $$;"
    );
    child.stdin.take().expect("standard input").write_all(loop_for_ever.as_bytes()).expect("write to psql");
    Transfers { database: database.clone(), child }
}

/// Panics unless the three tables in the destination belong to the same instant. Gives the number of transfers seen.
pub fn assert_one_instant(job: &Job) -> u64 {
    let one =
        |stream: &str, query: &str| duckdb(&job.files(stream), query)[0][0].to_string().trim_matches('"').parse::<i64>().expect("a number");
    let initial = i64::try_from(ACCOUNTS * 1000).expect("fits");
    let moved = one("public.ledger", "SELECT coalesce(sum(amount), 0)::bigint FROM $files");
    assert_eq!(
        one("public.a", "SELECT sum(balance)::bigint FROM $files"),
        initial - moved,
        "table a is of another instant than the ledger"
    );
    assert_eq!(
        one("public.b", "SELECT sum(balance)::bigint FROM $files"),
        initial + moved,
        "table b is of another instant than the ledger"
    );
    assert_eq!(one("public.a", "SELECT count(DISTINCT id) FROM $files"), one("public.a", "SELECT count(*) FROM $files"));
    u64::try_from(one("public.ledger", "SELECT count(*) FROM $files")).expect("a count")
}

fn ledger(database: &Database) -> u64 {
    database.sql("SELECT count(*) FROM ledger").parse().expect("a count")
}

#[test]
fn transfers_between_two_tables_during_the_sync() {
    let database = bank("bank", false);
    let job = Job::new(&database);
    job.discover();
    let writer = transfers(&database);
    wait_until("transfers go on", 20, || ledger(&database) > 50);
    for _ in 0..3 {
        let before = ledger(&database);
        job.sync().succeeded();
        let seen = assert_one_instant(&job);
        assert!(seen >= before, "only {seen} of {before} transfers seen");
        wait_until("transfers go on during the sync", 20, || ledger(&database) > seen);
    }
    drop(writer);
}

/// The sharpest case: one table has been read, the other is still being read while both change.
#[test]
fn transfers_while_one_table_is_held_back() {
    let database = bank("heldback", true);
    let gate = database.gate();
    let job = Job::new(&database);
    job.discover();
    let run = job.start(&Job::SYNC);
    gate.wait_for_reader();
    let before = ledger(&database);
    let writer = transfers(&database);
    wait_until("transfers go on", 20, || ledger(&database) > before + 100);
    drop(writer);
    gate.open();
    run.finish().succeeded();
    assert_eq!(assert_one_instant(&job), before);
}
