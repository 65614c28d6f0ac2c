//! What the source file says of slot and publication: how much log may be held back, what is added, what goes when nothing is followed any more.

use super::capture::job;
use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::assert_same_iceberg;
use serde_json::{Value, json};

/// Sets keys of `update_method`.
fn method(job: &Job, keys: &Value) {
    job.edit("source.json", |source| {
        source["update_method"].as_object_mut().expect("an object").extend(keys.as_object().expect("keys").clone());
    });
}

fn slots(database: &Database, name: &str) -> String {
    database.sql(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'"))
}

/// `max_slot_lag_bytes`, `on_slot_lag`.
#[test]
fn a_slot_that_holds_back_too_much() {
    let database = Server::shared().database("termlag");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let job = job(&database, "termlag", Some(json!({})));
    // The slot is being made: there is nothing that it could hold back.
    method(&job, &json!({"max_slot_lag_bytes": 1_000_000, "on_slot_lag": "stop"}));
    job.sync().succeeded();
    database.sql("INSERT INTO t VALUES (2); SELECT pg_logical_emit_message(false, 'x', repeat('x', 3000000))");
    job.resume().failed(exit::SOURCE, &["slot_lag", "max_slot_lag_bytes (976.5 kB)", "no data is lost", "on_slot_lag: warn"]);
    method(&job, &json!({"on_slot_lag": "warn"}));
    let warned = job.resume().succeeded();
    assert!(warned.stderr.contains("[slot_lag]"), "{}", warned.stderr);
    assert_same_iceberg(&job, &database, "public.t");
    database.sql("INSERT INTO t VALUES (3); SELECT pg_logical_emit_message(false, 'x', repeat('x', 3000000))");
    for unlimited in [json!(0), json!(null)] {
        method(&job, &json!({"max_slot_lag_bytes": unlimited, "on_slot_lag": "drop_slot"}));
        let quiet = job.resume().succeeded();
        assert!(!quiet.stderr.contains("slot_lag"), "{}", quiet.stderr);
    }
    database.sql("INSERT INTO t VALUES (4); SELECT pg_logical_emit_message(false, 'x', repeat('x', 3000000))");
    method(&job, &json!({"max_slot_lag_bytes": 1_000_000}));
    job.resume().failed(exit::STATE, &["slot_lag", "it was dropped", "clear-destination"]);
    assert_eq!(slots(&database, "termlag"), "0");
    // It stays an error until the table is loaded anew.
    job.resume().failed(exit::STATE, &["slot_lost_with_position"]);
    clear(&job).succeeded();
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
}

fn clear(job: &Job) -> crate::support::lakeward::Outcome {
    let files = ["--streams", "streams.json", "--destination", "destination.json", "--state", "state.json"];
    job.run(&[&["clear-destination", "--config", "source.json"][..], &files].concat())
}
