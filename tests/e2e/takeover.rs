//! A standby takes over: changes are followed through its copy of the slot, and the destination has what it has.
//!
//! What only the old primary had is gone, and was never sent: `synchronized_standby_slots` holds it back (PostgreSQL 17 and later).

use super::capture;
use crate::support::dice::Dice;
use crate::support::lakeward::{Job, exit};
use crate::support::majors::newest;
use crate::support::postgres::{Database, PASSWORD, Server};
use crate::support::proxy::Proxy;
use crate::support::readback::assert_all_same_iceberg;
use crate::support::wait_until;
use crate::support::workload::{TABLES, transaction};
use serde_json::json;
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
