//! The Parquet destination on an object store; the objects are read back as the plain files that the store keeps.

use crate::support::lakeward::{Job, files_under};
use crate::support::postgres::Server;
use crate::support::readback::{assert_same_in, count};
use crate::support::s3::ObjectStore;

#[test]
fn a_full_refresh_to_s3_and_another_one() {
    let store = ObjectStore::start();
    let database = Server::shared().database("s3");
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, x text, at timestamptz DEFAULT now()); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 20000) i;
         CREATE TABLE empty (id int)",
    );
    let job = Job::new(&database);
    job.write_destination(store.writer());
    job.run(&["check", "--destination", "destination.json"]).succeeded();
    assert!(files_under(&store.files_root()).is_empty(), "check left something behind");
    job.discover();
    job.sync().succeeded();
    assert_eq!(assert_same_in(&store.files_root(), &job, &database, "public.t").rows, 20_000);

    database.sql("DELETE FROM t WHERE id % 2 = 0; UPDATE t SET x = 'new' WHERE id % 3 = 0");
    job.sync().succeeded();
    assert_eq!(assert_same_in(&store.files_root(), &job, &database, "public.t").rows, 10_000);
    let parquet: Vec<_> = files_under(&store.files_root()).into_iter().filter(|p| p.extension().is_some_and(|e| e == "parquet")).collect();
    assert_eq!(count(&parquet), 10_000, "staged or replaced objects are left: {parquet:?}");
}

#[test]
fn killed_and_resumed_on_s3() {
    let store = ObjectStore::start();
    let database = Server::shared().database("s3kill");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 200000) i");
    let job = Job::new(&database);
    job.write_destination(store.writer());
    job.discover();
    let began = std::time::Instant::now();
    job.sync().succeeded();
    let whole = began.elapsed();
    let mut arguments: &[&str] = &Job::SYNC;
    for round in 0..6 {
        let run = job.start(arguments);
        std::thread::sleep(whole * (round + 1) / 7);
        run.kill();
        // Here a reader of the prefix may see old and new objects together; the next run must bring that to an end.
        arguments = if job.path("state.json").exists() { &Job::RESUME } else { &Job::SYNC };
    }
    job.run(arguments).succeeded();
    assert_eq!(assert_same_in(&store.files_root(), &job, &database, "public.t").rows, 200_000);
    let staged: Vec<_> = files_under(&store.files_root()).into_iter().filter(|p| p.to_string_lossy().contains(".staged")).collect();
    assert!(staged.is_empty(), "left in the bucket: {staged:?}");
}

#[test]
fn clear_destination_removes_the_table_and_nothing_else() {
    let store = ObjectStore::start();
    let database = Server::shared().database("s3clear");
    database.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE TABLE other (id int); INSERT INTO other VALUES (2)");
    let job = Job::new(&database);
    job.write_destination(store.writer());
    job.discover();
    job.sync().succeeded();
    job.select(&["public.t"]);
    job.run(&["clear-destination", "--destination", "destination.json", "--streams", "streams.json"]).succeeded();
    assert!(files_under(&job.table_folder(&store.files_root(), "public.t")).is_empty());
    assert_eq!(assert_same_in(&store.files_root(), &job, &database, "public.other").rows, 1);
}
