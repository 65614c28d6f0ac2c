//! What goes wrong is said in one sentence with the right exit code, and harms neither destination nor state.

use crate::support::disk::SmallDisk;
use crate::support::free_port;
use crate::support::lakeward::{Job, exit, files_under};
use crate::support::postgres::{Database, PASSWORD, Server};
use crate::support::readback::{assert_same, count};
use crate::support::s3::ObjectStore;
use serde_json::json;

/// A job that has succeeded once, so that there is something to harm.
fn synced(label: &str) -> (Database, Job) {
    let database = Server::shared().database(label);
    database.sql("CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 1000) i");
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    (database, job)
}

/// Runs a sync that must fail, and checks that files and state are as they were.
#[track_caller]
fn harmless(job: &Job, code: i32, words: &[&str]) {
    let before = (job.files("public.t"), std::fs::read(job.path("state.json")).ok());
    let outcome = job.resume().failed(code, words);
    assert_no_secret(&outcome.stderr);
    assert_eq!(job.files("public.t"), before.0, "the destination was harmed");
    assert_eq!(count(&before.0), 1000);
    assert_eq!(std::fs::read(job.path("state.json")).ok(), before.1, "the state was harmed");
    job.assert_no_leftovers();
}

#[track_caller]
fn assert_no_secret(text: &str) {
    for secret in [PASSWORD, "wrong password", crate::support::s3::SECRET_KEY] {
        assert!(!text.contains(secret), "a secret is in the output: {text}");
    }
}

#[test]
fn wrong_password() {
    let (database, job) = synced("password");
    job.write("source.json", &database.source_tcp("postgres", "wrong password"));
    let outcome = job.run(&["check", "--config", "source.json"]).failed(exit::SOURCE, &["password", "postgres"]);
    assert_no_secret(&outcome.stderr);
    assert_no_secret(&outcome.stdout);
    let message = outcome.messages().pop().expect("a message");
    assert_eq!(message["type"], "CONNECTION_STATUS");
    assert_eq!(message["connectionStatus"]["status"], "FAILED");
    assert!(message["connectionStatus"]["message"].as_str().is_some_and(|m| m.contains("password")), "{message}");
    harmless(&job, exit::SOURCE, &["password"]);
    // And the right one is let in over TCP.
    job.write("source.json", &database.source_tcp("postgres", PASSWORD));
    job.run(&["check", "--config", "source.json"]).succeeded();
}

#[test]
fn no_such_host_port_database_or_role() {
    let (database, job) = synced("nohost");
    let mut source = database.source_tcp("postgres", PASSWORD);
    source["host"] = json!("no-such-host.invalid");
    job.write("source.json", &source);
    harmless(&job, exit::SOURCE, &["no-such-host.invalid"]);

    let mut source = database.source_tcp("postgres", PASSWORD);
    let free = free_port();
    source["port"] = json!(free);
    job.write("source.json", &source);
    harmless(&job, exit::SOURCE, &["127.0.0.1", &free.to_string(), "refused"]);

    let mut source = database.source();
    source["database"] = json!("no_such_database");
    job.write("source.json", &source);
    harmless(&job, exit::SOURCE, &["no_such_database"]);

    let mut source = database.source();
    source["username"] = json!("no_such_role");
    job.write("source.json", &source);
    harmless(&job, exit::SOURCE, &["no_such_role"]);
}

#[test]
fn missing_privilege() {
    let (database, job) = synced("privilege");
    let role = format!("reader_{}", database.name);
    database.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'reads'; REVOKE ALL ON t FROM PUBLIC; CREATE TABLE readable (id int); GRANT SELECT ON readable TO {role}"));
    job.write("source.json", &database.source_tcp(&role, "reads"));
    harmless(&job, exit::SOURCE, &["privilege", "public.t", "GRANT SELECT"]);
    // Discover offers only what can be read.
    std::fs::remove_file(job.path("streams.json")).expect("forget the catalog");
    let streams = job.discover().to_string();
    assert!(streams.contains("readable"), "{streams}");
    assert!(!streams.contains(r#""name":"t""#), "{streams}");
}

#[test]
fn a_dropped_table() {
    let (database, job) = synced("droppedtable");
    database.sql("DROP TABLE t");
    let before = job.files("public.t");
    let outcome = job.sync();
    assert!(matches!(outcome.code, Some(exit::SOURCE | exit::SCHEMA)), "{outcome:?}");
    assert!(outcome.stderr.contains("public.t") || outcome.stderr.contains("\"t\""), "{}", outcome.stderr);
    assert_eq!(job.files("public.t"), before);
    assert_eq!(count(&before), 1000);
}

/// A real full disk: a tmpfs of 4 MB, already holding a table.
#[test]
fn disk_full() {
    let (database, job) = synced("diskfull");
    let lake = job.lake();
    std::fs::remove_dir_all(&lake).expect("start with an empty lake");
    std::fs::create_dir(&lake).expect("make the mount point");
    let _ = std::fs::remove_file(job.path("state.json"));
    let Some(disk) = SmallDisk::mount(&lake) else { return };
    disk.leave_kib(4096);
    job.sync().succeeded();
    let mut last = String::new();
    // md5 does not compress: about 20 MB.
    database
        .sql("CREATE TABLE keep AS TABLE t; INSERT INTO t SELECT i, md5(i::text) || md5((-i)::text) FROM generate_series(1001, 400000) i");
    for _ in 0..2 {
        let before = job.files("public.t");
        last = job.resume().failed(exit::DESTINATION, &["space"]).stderr;
        assert_eq!(job.files("public.t"), before);
        assert_eq!(count(&before), 1000, "the old rows are no longer readable");
    }
    // With room again, the same command goes through.
    database.sql("DELETE FROM t WHERE id > 1000");
    let after = job.sync();
    assert_eq!(after.code, Some(exit::DONE), "after the disk was full ({last}): {}", after.stderr);
    assert_same(&job, &database, "public.t");
}

#[test]
fn a_destination_that_may_not_be_written() {
    let (_, job) = synced("readonly");
    // A file where the folder should be: not even root can write there.
    std::fs::write(job.path("file"), "").expect("make a file");
    job.write_destination(json!({"local_path": job.path("file").join("lake")}));
    job.run(&["check", "--destination", "destination.json"]).failed(exit::DESTINATION, &["file"]);
    job.sync().failed(exit::DESTINATION, &["file"]);
}

#[test]
fn bucket_refused() {
    let (_, job) = synced("bucket");
    let store = ObjectStore::start();
    for (key, value, word) in [
        ("s3_secret_key", "wrong password", "lake"),
        ("s3_bucket", "no-such-bucket", "no-such-bucket"),
        ("s3_access_key", "NOBODY", "lake"),
    ] {
        let mut writer = store.writer();
        writer[key] = json!(value);
        job.write_destination(writer);
        for arguments in [&["check", "--destination", "destination.json"][..], &Job::SYNC] {
            let outcome = job.run(arguments).failed(exit::DESTINATION, &[word]);
            assert_no_secret(&outcome.stderr);
            assert_no_secret(&outcome.stdout);
        }
    }
    assert!(files_under(&store.files_root()).is_empty(), "something was written to the refused bucket");
}

#[test]
fn an_object_store_that_is_not_there() {
    let (_, job) = synced("nostore");
    let mut writer = ObjectStore::start().writer(); // dropped: nobody listens there any more
    writer["s3_endpoint"] = json!(format!("http://127.0.0.1:{}", free_port()));
    job.write_destination(writer);
    job.sync().failed(exit::DESTINATION, &["127.0.0.1"]);
}

#[test]
fn a_state_of_a_newer_version_is_refused_and_kept() {
    let (_, job) = synced("newer");
    job.write("state.json", &json!({"type": "STREAM", "version": 9999, "streams": []}));
    let before = std::fs::read(job.path("state.json")).expect("the state");
    job.resume().failed(exit::STATE, &["9999"]);
    assert_eq!(std::fs::read(job.path("state.json")).expect("the state"), before);
}

#[test]
fn configuration_mistakes_are_named() {
    let (database, job) = synced("mistakes");
    job.edit("source.json", |source| {
        source["max_thread"] = source["max_threads"].take();
        source.as_object_mut().expect("an object").remove("max_threads");
    });
    job.run(&["check", "--config", "source.json", "--config-only"]).failed(exit::CONFIG, &["source.json", "max_thread", "max_threads"]);
    std::fs::write(job.path("source.json"), "{\"host\": ").expect("write");
    job.run(&["check", "--config", "source.json", "--config-only"]).failed(exit::CONFIG, &["source.json"]);
    job.run(&["check", "--config", "absent.json"]).failed(exit::CONFIG, &["absent.json"]);
    job.write("source.json", &database.source());
    job.edit("streams.json", |file| file["streams"][0]["stream"]["type_schema"]["properties"]["id"]["type"] = json!(["int128"]));
    job.sync().failed(exit::CONFIG, &["int128", "id"]);
    job.run(&["sync", "--config", "source.json", "--no-such-flag"]).failed(exit::USAGE, &["--no-such-flag"]);
}
