//! All tables of a run at one instant, where the catalog can: rustberg, read by PyIceberg.

use super::incremental::job as incremental_job;
use crate::support::lakeward::Job;
use crate::support::postgres::Server;
use crate::support::rustberg::Rustberg;
use serde_json::{Value, json};

fn ids(count: i64) -> Value {
    json!((1..=count).collect::<Vec<_>>())
}

/// A run that is killed while the large table is read has committed none of them; the next one goes on, and commits all.
#[test]
fn tables_of_a_run_change_together() {
    let database = Server::shared().database("together");
    database.sql(
        "CREATE TABLE small (id int PRIMARY KEY, updated int); INSERT INTO small SELECT i, i FROM generate_series(1, 10) i;
         CREATE TABLE other (id int PRIMARY KEY, updated int); INSERT INTO other SELECT i, i FROM generate_series(1, 20) i;
         CREATE TABLE large (id int PRIMARY KEY, updated int, x text);
         INSERT INTO large SELECT i, i, repeat(md5(i::text), 20) FROM generate_series(1, 4000) i; ANALYZE",
    );
    let streams = [("public.small", "updated"), ("public.other", "updated"), ("public.large", "updated")];
    let job: Job = incremental_job(&database, &streams);
    let Some(server) = Rustberg::start(&job.lake()) else { return };
    let writer =
        json!({"catalog_type": "rest", "rest_catalog_url": server.endpoint(), "multi_table_commit": true, "delete_files": "position"});
    job.write("destination.json", &json!({"type": "ICEBERG", "writer": writer}));
    let namespace = job.stream("public.small")["destination_database"].as_str().expect("a name").replace(':', "_");

    job.edit("source.json", |source| source["rate_limit"] = json!({"rows_per_second": 800}));
    let running = job.start(&Job::SYNC);
    std::thread::sleep(std::time::Duration::from_millis(3500));
    let killed = running.kill();
    assert!(!killed.stderr.contains("in one commit"), "{}", killed.stderr);
    assert_eq!(server.ids(&namespace), json!({"large": null, "other": null, "small": null}));
    job.edit("source.json", |source| source["rate_limit"] = json!(null));

    let resumed = job.resume().succeeded();
    assert!(resumed.stderr.contains("3 tables in one commit"), "{}", resumed.stderr);
    assert_eq!(server.ids(&namespace), json!({"large": ids(4000), "other": ids(20), "small": ids(10)}));

    // Of two that have new rows, two are committed.
    database.sql("INSERT INTO small VALUES (11, 11); INSERT INTO other VALUES (21, 21); UPDATE other SET updated = 22 WHERE id = 1");
    let resumed = job.resume().succeeded();
    assert!(resumed.stderr.contains("2 tables in one commit"), "{}", resumed.stderr);
    assert_eq!(server.ids(&namespace), json!({"large": ids(4000), "other": ids(21), "small": ids(11)}));
    job.edit("destination.json", |file| file["writer"]["multi_table_commit"] = json!(false));
    database.sql("INSERT INTO small VALUES (12, 12); INSERT INTO large VALUES (4001, 4001)");
    let alone = job.resume().succeeded();
    assert!(!alone.stderr.contains("in one commit"), "{}", alone.stderr);
    assert_eq!(server.ids(&namespace), json!({"large": ids(4001), "other": ids(21), "small": ids(12)}));
}
