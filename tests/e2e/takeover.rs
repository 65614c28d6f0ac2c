//! A standby takes over: changes are followed through its copy of the slot, and the destination has what it has.
//!
//! What only the old primary had is gone: `synchronized_standby_slots` (PostgreSQL 17 and later) has it never sent, but does not keep a copy from reading it.

use super::capture;
use crate::support::dice::Dice;
use crate::support::lakeward::{Job, exit};
use crate::support::majors::newest;
use crate::support::postgres::{Database, PASSWORD, Server};
use crate::support::proxy::Proxy;
use crate::support::readback::assert_all_same_iceberg;
use crate::support::wait_until;
use crate::support::workload::{TABLES, transaction};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn a_standby_takes_over_while_changes_are_followed() {
    let Some(bin) = newest() else { return };
    let primary = Server::start(&bin);
    let database = primary.database("takeover");
    database.sql(TABLES);
    let standby = primary.successor();
    let proxy = Proxy::start(database.port);
    let job = capture::job(&database, "takeover", Some(json!({"delete_files": "position"})));
    job.edit("source.json", |source| {
        let through = database.source_tcp("postgres", PASSWORD);
        source.as_object_mut().expect("an object").extend(through.as_object().expect("an object").clone());
        source["port"] = json!(proxy.port);
        source["update_method"]["failover_slot"] = json!(true);
    });
    job.sync().succeeded();
    let (current, over) = (Arc::new(Mutex::new(database.clone())), Arc::new(AtomicBool::new(false)));
    let work: Vec<_> = (0..2)
        .map(|_| {
            let (current, over, mut dice) = (current.clone(), over.clone(), Dice::new(Dice::seed()));
            std::thread::spawn(move || {
                let mut done = 0;
                while !over.load(SeqCst) {
                    let database: Database = current.lock().expect("the database").clone();
                    // Nobody is there for a moment.
                    done += usize::from(database.run(&transaction(&mut dice)).is_ok());
                }
                done
            })
        })
        .collect();
    // A copy counts once the slot has moved beyond where it began.
    wait_until("the standby has the slot", 120, || {
        job.resume().succeeded();
        standby.has_slot("takeover")
    });
    let arguments = [&Job::RESUME[..], &Job::FOLLOW].concat();
    let killed = job.start(&arguments);
    std::thread::sleep(Duration::from_millis(1500));
    killed.kill();
    let mut running = job.start(&arguments);
    std::thread::sleep(Duration::from_secs(3));
    primary.control("stop -m immediate");
    standby.promote();
    *current.lock().expect("the database") = standby.same(&database);
    proxy.redirect(standby.same(&database).port);
    std::thread::sleep(Duration::from_secs(5));
    running.signal_if_running("TERM");
    let outcome = running.finish_within(Duration::from_secs(120));
    assert_eq!(outcome.code, Some(exit::DONE), "{}", outcome.stderr);
    over.store(true, SeqCst);
    let done: usize = work.into_iter().map(|thread| thread.join().expect("the work")).sum();
    assert!(done > 20, "{done} transactions");
    job.resume().succeeded();
    assert_all_same_iceberg(&job, &standby.same(&database), &["public.a", "public.b", "public.p"]);
}

/// A primary with a table, and its standby.
struct Pair {
    primary: Server,
    standby: Server,
    database: Database,
    proxy: Proxy,
}

impl Pair {
    fn start(bin: &Path) -> Self {
        let primary = Server::start(bin);
        let database = primary.database("takeover");
        database.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 100) i");
        let standby = primary.successor();
        let proxy = Proxy::start(database.port);
        Self { primary, standby, database, proxy }
    }

    /// A job that follows the table, of whose slot the standby has a copy.
    fn job(&self, slot: &str, iceberg: Option<Value>) -> Job {
        let job = capture::job(&self.database, slot, iceberg);
        job.edit("source.json", |source| {
            let through = self.database.source_tcp("postgres", PASSWORD);
            source.as_object_mut().expect("an object").extend(through.as_object().expect("an object").clone());
            source["port"] = json!(self.proxy.port);
            source["update_method"]["failover_slot"] = json!(true);
        });
        job.sync().succeeded();
        wait_until("the standby has the slot", 120, || {
            self.database.sql("UPDATE t SET v = v WHERE id = 1");
            job.resume().succeeded();
            self.standby.has_slot(slot)
        });
        job
    }

    /// From now on the standby gets nothing more.
    fn leave_behind(&self) {
        self.standby.at("postgres").sql("ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()");
        wait_until("nothing is sent to the standby", 60, || {
            self.primary.at("postgres").sql("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walreceiver'").trim() == "0"
        });
    }

    /// The standby takes over; gives the database there.
    fn take_over(&self) -> Database {
        self.primary.control("stop -m immediate");
        self.standby.promote();
        let database = self.standby.same(&self.database);
        self.proxy.redirect(database.port);
        database
    }
}

/// What only the old primary had, and did not hold back, is gone: a table is copied again, a change log stops.
#[test]
fn changes_that_are_gone_after_a_takeover_are_seen() {
    let Some(bin) = newest() else { return };
    let pair = Pair::start(&bin);
    let (table, log) = (pair.job("takegone", Some(json!({}))), pair.job("takegonelog", None));
    pair.primary.at("postgres").sql("ALTER SYSTEM RESET synchronized_standby_slots; SELECT pg_reload_conf()");
    pair.leave_behind();
    pair.database.sql("INSERT INTO t SELECT i, 'gone' FROM generate_series(101, 150) i; DELETE FROM t WHERE id < 10");
    for job in [&table, &log] {
        job.resume().succeeded();
    }
    let database = pair.take_over();
    database.sql("INSERT INTO t SELECT i, 'new' FROM generate_series(120, 130) i; UPDATE t SET v = 'kept' WHERE id = 20");
    let said = table.resume().succeeded().stderr;
    assert!(said.contains("has those up to") && said.contains("copied again"), "{said}");
    assert_all_same_iceberg(&table, &database, &["public.t"]);
    database.sql("DELETE FROM t WHERE id = 30");
    let said = table.resume().succeeded().stderr;
    assert!(!said.contains("copied again") && !said.contains("timeline"), "{said}");
    assert_all_same_iceberg(&table, &database, &["public.t"]);
    // As long as nothing is done about it.
    for _ in 0..2 {
        log.resume().failed(exit::SCHEMA, &["public.t", "has those up to", "sync --reload", "synchronized_standby_slots"]);
    }
}

/// A copy shows what nothing holds back.
#[test]
fn a_copy_of_what_is_gone_after_a_takeover_is_made_again() {
    let Some(bin) = newest() else { return };
    let pair = Pair::start(&bin);
    let job = pair.job("takecopy", Some(json!({"delete_files": "position"})));
    pair.leave_behind();
    pair.database.sql("INSERT INTO t SELECT i, 'gone' FROM generate_series(101, 150) i; DELETE FROM t WHERE id < 10");
    let mut command = job.command(&[&Job::RESUME[..], &["--reload", "public.t"]].concat());
    command.env("LAKEWARD_FAULTS", "catalog.commit.done#1=crash");
    assert_eq!(command.output().expect("run lakeward").status.code(), None, "it was to die");
    let database = pair.take_over();
    for id in 200..230 {
        database.sql(&format!("INSERT INTO t VALUES ({id}, 'new')"));
    }
    let said = job.resume().succeeded().stderr;
    assert!(said.contains("its copy may show what") && said.contains("copied again"), "{said}");
    assert_all_same_iceberg(&job, &database, &["public.t"]);
}
