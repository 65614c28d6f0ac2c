//! What the source file says of slot and publication: how much log may be held back, what is added, what goes when nothing is followed any more.

use super::capture::{follow, job};
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

/// Discovers again, with what has come since, and follows it all.
fn rediscover(job: &Job) {
    std::fs::remove_file(job.path("streams.json")).expect("remove");
    job.discover();
    follow(job);
}

/// `sync_publication`.
#[test]
fn what_the_publication_lacks_is_added() {
    let database = Server::shared().database("termsync");
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text); INSERT INTO t VALUES (1, 'a', 'b'); CREATE TABLE theirs (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY);
         CREATE PUBLICATION termsync_pub FOR TABLE other, t (id, a) WHERE (id < 1000000)",
    );
    let job = job(&database, "termsync", Some(json!({})));
    job.select(&["public.t"]);
    job.sync().failed(exit::SOURCE, &["columns_missing", "\"b\""]);
    method(&job, &json!({"sync_publication": true}));
    job.sync().succeeded();
    let published = || {
        database.sql("SELECT string_agg(tablename || array_to_string(attnames, '+') || COALESCE(rowfilter, ''), ' ' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = 'termsync_pub'")
    };
    assert_eq!(published(), "otherid tid+a+b(id < 1000000)", "what others have put there stays");
    database.sql("UPDATE t SET b = 'c'");
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");

    // A table that comes later, while a transaction is open that has written to it: before the table is published, and after.
    database.sql("CREATE TABLE late (id int PRIMARY KEY, v text); INSERT INTO late VALUES (1, 'before')");
    rediscover(&job);
    job.select(&["public.t", "public.late"]);
    method(&job, &json!({"sync_publication": false}));
    job.resume().failed(exit::SOURCE, &["not_published", "sync_publication", "ALTER PUBLICATION"]);
    method(&job, &json!({"sync_publication": true}));
    let mut open = database.session();
    open.sql("BEGIN; INSERT INTO late VALUES (2, 'open')");
    let running = job.start(&Job::RESUME);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(published(), "otherid tid+a+b(id < 1000000)", "not while the transaction is open");
    open.sql("INSERT INTO late VALUES (3, 'open'); COMMIT");
    database.sql("INSERT INTO late VALUES (4, 'after'); UPDATE late SET v = 'changed' WHERE id = 2");
    let outcome = running.finish().succeeded();
    assert!(outcome.stderr.contains("was added to publication termsync_pub"), "{}", outcome.stderr);
    database.sql("INSERT INTO late VALUES (5, 'later'); DELETE FROM late WHERE id = 3");
    job.resume().succeeded();
    for stream in ["public.t", "public.late"] {
        assert_same_iceberg(&job, &database, stream);
    }

    // What is followed and was taken out has lost changes.
    database.sql("ALTER PUBLICATION termsync_pub DROP TABLE late; INSERT INTO late VALUES (6, 'lost')");
    job.resume().failed(exit::STATE, &["public.late", "published_too_late", "clear-destination"]);
    assert!(!published().contains("late"));
    let streams = job.read("streams.json");
    job.select(&["public.late"]);
    clear(&job).succeeded();
    job.write("streams.json", &streams);
    job.resume().succeeded();
    assert!(published().contains("late"));
    for stream in ["public.t", "public.late"] {
        assert_same_iceberg(&job, &database, stream);
    }

    // FOR ALL TABLES has them all.
    database.sql("DROP PUBLICATION termsync_pub; CREATE PUBLICATION termsync_pub FOR ALL TABLES; CREATE TABLE newest (id int PRIMARY KEY); INSERT INTO newest VALUES (1)");
    rediscover(&job);
    job.select(&["public.newest"]);
    job.sync().succeeded();
    assert_same_iceberg(&job, &database, "public.newest");
}

/// Who may not add is told the statement, and nothing is changed.
#[test]
fn adding_to_a_publication_takes_rights() {
    let database = Server::shared().database("termrights");
    database.sql(
        "CREATE ROLE termrights LOGIN REPLICATION; CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE own (id int PRIMARY KEY); ALTER TABLE own OWNER TO termrights;
         GRANT SELECT ON t TO termrights; CREATE PUBLICATION termrights_pub; SELECT pg_create_logical_replication_slot('termrights', 'pgoutput')",
    );
    let job = job(&database, "termrights", Some(json!({})));
    job.edit("source.json", |source| source["username"] = json!("termrights"));
    method(&job, &json!({"sync_publication": true, "create_if_missing": false}));
    let words = [
        "publication_not_allowed",
        "it belongs to \"postgres\"",
        "table public.t belongs to",
        "ALTER PUBLICATION \"termrights_pub\" ADD TABLE \"public\".\"t\"",
    ];
    job.sync().failed(exit::SOURCE, &words);
    database.sql("ALTER PUBLICATION termrights_pub OWNER TO termrights");
    job.select(&["public.own"]);
    job.sync().succeeded();
    assert_eq!(database.sql("SELECT tablename FROM pg_publication_tables WHERE pubname = 'termrights_pub'"), "own");
    database.sql("SELECT pg_drop_replication_slot('termrights'); DROP OWNED BY termrights; DROP ROLE termrights");
}

fn clear(job: &Job) -> crate::support::lakeward::Outcome {
    let files = ["--streams", "streams.json", "--destination", "destination.json", "--state", "state.json"];
    job.run(&[&["clear-destination", "--config", "source.json"][..], &files].concat())
}
