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
    // What other databases of a server write holds the slot back as well.
    let server = Server::own();
    let database = server.database("termlag");
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

/// `drop_on_clear`.
#[test]
fn the_slot_goes_when_nothing_is_followed_any_more() {
    let database = Server::shared().database("termclear");
    database.sql(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)",
    );
    let job = job(&database, "termclear", Some(json!({})));
    job.sync().succeeded();
    let publications = || database.sql("SELECT string_agg(pubname, ' ') FROM pg_publication");
    // Not asked for: it is said what stays.
    let told = clear(&job).succeeded();
    assert!(told.stderr.contains("pg_drop_replication_slot('termclear')"), "{}", told.stderr);
    assert_eq!(slots(&database, "termclear"), "1");
    job.resume().succeeded();
    method(&job, &json!({"drop_on_clear": true}));
    let streams = job.read("streams.json");
    job.select(&["public.a"]);
    let told = clear(&job).succeeded();
    assert_eq!(slots(&database, "termclear"), "1", "b is still followed");
    assert!(!told.stderr.contains("nothing is followed"), "{}", told.stderr);
    // Somebody reads it: nothing is removed.
    job.write("streams.json", &streams);
    job.resume().succeeded();
    let mut reader = std::process::Command::new("pg_recvlogical")
        .args([
            "-h",
            database.home.to_str().expect("a path"),
            "-p",
            &database.port.to_string(),
            "-U",
            "postgres",
            "-d",
            &database.name,
            "-S",
            "termclear",
        ])
        .args(["--start", "-f", "-", "-o", "proto_version=1", "-o", "publication_names=termclear_pub"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("start pg_recvlogical");
    let active = || database.sql("SELECT active FROM pg_replication_slots WHERE slot_name = 'termclear'") == "t";
    while !active() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    clear(&job).failed(exit::SOURCE, &["slot_in_use", "pg_recvlogical"]);
    reader.kill().expect("kill");
    reader.wait().expect("wait");
    assert_same_iceberg(&job, &database, "public.a");
    // Without a state file nobody knows what else it is for.
    std::fs::rename(job.path("state.json"), job.path("state.old")).expect("rename");
    let told = clear(&job).succeeded();
    assert!(told.stderr.contains("without a state file"), "{}", told.stderr);
    assert_eq!(slots(&database, "termclear"), "1");
    std::fs::rename(job.path("state.old"), job.path("state.json")).expect("rename");
    clear(&job).succeeded();
    assert_eq!((slots(&database, "termclear").as_str(), publications().as_str()), ("0", ""));
    clear(&job).succeeded();

    // A publication that somebody else has made stays, and one that another slot may be read through.
    database.sql("CREATE PUBLICATION termclear_pub FOR TABLE a, b");
    job.sync().succeeded();
    let told = clear(&job).succeeded();
    assert!(told.stderr.contains("was not made by Lakeward"), "{}", told.stderr);
    assert_eq!((slots(&database, "termclear").as_str(), publications().as_str()), ("0", "termclear_pub"));
    database.sql("DROP PUBLICATION termclear_pub");
    job.sync().succeeded();
    database.sql("SELECT pg_create_logical_replication_slot('termclear_other', 'pgoutput')");
    let told = clear(&job).succeeded();
    assert!(told.stderr.contains("termclear_other"), "{}", told.stderr);
    assert_eq!((slots(&database, "termclear").as_str(), publications().as_str()), ("0", "termclear_pub"));
    database.sql("SELECT pg_drop_replication_slot('termclear_other')");
}

fn clear(job: &Job) -> crate::support::lakeward::Outcome {
    let files = ["--streams", "streams.json", "--destination", "destination.json", "--state", "state.json"];
    job.run(&[&["clear-destination", "--config", "source.json"][..], &files].concat())
}

/// `check` finds what a run would stumble over, and changes nothing.
#[test]
fn check_looks_at_slot_and_publication() {
    let database = Server::shared().database("termcheck");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE bare (id int, v text); CREATE ROLE termcheck LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO termcheck");
    let job = job(&database, "termcheck", Some(json!({})));
    let check = |more: &[&str]| job.run(&[&["check", "--config", "source.json"], more].concat());
    check(&["--streams", "streams.json"]).succeeded();
    assert_eq!(slots(&database, "termcheck"), "0", "nothing is created");
    method(&job, &json!({"create_if_missing": false}));
    check(&[]).failed(exit::SOURCE, &["slot_missing", "pg_create_logical_replication_slot"]);
    database.sql("SELECT pg_create_logical_replication_slot('termcheck', 'pgoutput')");
    check(&[]).failed(exit::SOURCE, &["termcheck_pub", "CREATE PUBLICATION"]);
    database.sql("CREATE PUBLICATION termcheck_pub FOR TABLE t");
    check(&[]).succeeded();
    check(&["--streams", "streams.json"]).failed(exit::SOURCE, &["public.bare", "ALTER PUBLICATION"]);
    job.select(&["public.t"]);
    check(&["--streams", "streams.json"]).succeeded();
    database.sql("ALTER TABLE t REPLICA IDENTITY NOTHING");
    check(&["--streams", "streams.json"]).failed(exit::SOURCE, &["public.t", "REPLICA IDENTITY"]);
    database.sql("ALTER TABLE t REPLICA IDENTITY DEFAULT; SELECT pg_drop_replication_slot('termcheck'); SELECT pg_create_logical_replication_slot('termcheck', 'test_decoding')");
    check(&[]).failed(exit::CONFIG, &["slot_wrong_plugin", "test_decoding"]);
    database.sql("SELECT pg_drop_replication_slot('termcheck')");
    job.edit("source.json", |source| source["username"] = json!("termcheck"));
    method(&job, &json!({"create_if_missing": true}));
    check(&[]).failed(exit::SOURCE, &["REPLICATION"]);
}

/// `failover_slot`, which servers before 17 do not have.
#[test]
fn a_slot_for_failover() {
    let database = Server::shared().database("termfail");
    database.sql("CREATE TABLE t (id int PRIMARY KEY)");
    let job = job(&database, "termfail", Some(json!({})));
    method(&job, &json!({"failover_slot": true}));
    let has_it = database.sql("SELECT current_setting('server_version_num')::int >= 170000").trim() == "t";
    if has_it {
        job.sync().succeeded();
        assert_eq!(database.sql("SELECT failover FROM pg_replication_slots WHERE slot_name = 'termfail'").trim(), "t");
    } else {
        job.sync().failed(exit::CONFIG, &["for failover", "17"]);
        assert_eq!(slots(&database, "termfail"), "0");
    }
}
