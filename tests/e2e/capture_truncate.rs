//! TRUNCATE of tables that are followed, and of single partitions, of which the log says nothing or not enough.

use super::capture::{job, until_copied_again};
use crate::support::lakeward::{Job, exit};
use crate::support::postgres::Server;
use crate::support::readback::{assert_all_same_iceberg, assert_same_iceberg, duckdb};
use serde_json::{Value, json};
use std::time::Duration;

/// TRUNCATE takes away what was there, and not what comes after it, in the same transaction and in others.
fn truncated_tables_are_empty(name: &str, keys: Value) {
    let database = Server::shared().database(name);
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 100) i;
         CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1), (2);
         CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10); CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
         INSERT INTO parted SELECT i, 'p' FROM generate_series(1, 19) i",
    );
    let job = job(&database, name, Some(keys));
    job.select(&["public.t", "public.other", "public.parted"]);
    // By its partitions: the server says that one of them was truncated, and not which rows were its own.
    database.sql(&format!("CREATE PUBLICATION {name}_pub FOR TABLE t, other, parted"));
    job.sync().succeeded();
    let check = || {
        let said = job.resume().succeeded().stderr;
        assert_all_same_iceberg(&job, &database, &["public.t", "public.other", "public.parted"]);
        said
    };
    database.sql("UPDATE t SET v = 'gone' WHERE id < 50; TRUNCATE t, other; INSERT INTO t VALUES (1, 'new'), (200, 'newer'); UPDATE t SET v = 'newest' WHERE id = 200");
    assert!(!check().contains("copied again"));
    database.sql("BEGIN; INSERT INTO t VALUES (3, 'x'); TRUNCATE t; INSERT INTO t VALUES (4, 'y'); COMMIT; BEGIN; TRUNCATE other; ROLLBACK; TRUNCATE parted; INSERT INTO parted VALUES (5, 'again')");
    assert!(!check().contains("copied again"));
    database.sql("TRUNCATE other; TRUNCATE t; INSERT INTO t VALUES (8, 'w'); UPDATE parted SET id = 15 WHERE id = 5; CREATE TABLE parted_3 PARTITION OF parted FOR VALUES FROM (20) TO (30); INSERT INTO parted VALUES (25, 'late'); UPDATE parted SET v = 'later' WHERE id = 25");
    assert!(!check().contains("copied again"));
    database.sql("TRUNCATE parted_2; INSERT INTO t VALUES (9, 'z')");
    assert!(check().contains("parted_2\" was truncated"));
}

#[test]
fn truncated_tables_are_empty_with_deletes_by_key() {
    truncated_tables_are_empty("captrunckey", json!({}));
}

#[test]
fn truncated_tables_are_empty_with_deletes_by_position() {
    truncated_tables_are_empty("captruncpos", json!({"delete_files": "position"}));
}

/// `on_truncate`.
#[test]
fn a_truncate_does_what_it_is_told() {
    let database = Server::shared().database("captruncpolicy");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);");
    let job = job(&database, "captruncpolicy", Some(json!({})));
    job.select(&["public.t"]);
    let policy = |word: &str| job.edit("source.json", |source| source["update_method"]["on_truncate"] = json!(word));
    policy("ignore");
    job.sync().succeeded();
    database.sql("TRUNCATE t; INSERT INTO t VALUES (2)");
    let said = job.resume().succeeded().stderr;
    assert!(said.contains("is ignored"), "{said}");
    database.sql("INSERT INTO t VALUES (1)");
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    policy("fail");
    database.sql("TRUNCATE t");
    job.resume().failed(exit::SCHEMA, &["public.t", "on_truncate is fail"]);
    policy("apply");
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    policy("maybe");
    job.resume().failed(exit::CONFIG, &["on_truncate", "ignore"]);
}

const PARTED: &str = "CREATE TABLE p (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
     CREATE TABLE p_0 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
     CREATE TABLE p_1_0 PARTITION OF p_1 FOR VALUES FROM (0) TO (50); CREATE TABLE p_1_1 PARTITION OF p_1 FOR VALUES FROM (50) TO (1000);
     INSERT INTO p SELECT i, i % 20, 'v' FROM generate_series(1, 100) i; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)";

/// Published through its root, of which the log says nothing: the files of the heaps do, and whether a row of before is in them.
#[test]
fn a_partition_that_was_truncated_has_its_table_copied_again() {
    // Transactions that others leave open would make rows count as younger than they are, and VACUUM FULL as a TRUNCATE.
    let server = Server::own();
    let database = server.database("captruncpart");
    database.sql(PARTED);
    let job = job(&database, "captruncpart", Some(json!({})));
    job.sync().succeeded();
    let via_root = database.sql("SELECT pubviaroot FROM pg_publication WHERE pubname = 'captruncpart_pub'");
    assert_eq!(via_root.trim(), "t");
    let check = |sql: &str, truncated: &str| {
        database.sql(sql);
        let said = job.resume().succeeded().stderr;
        assert_eq!(said.contains("copied again"), !truncated.is_empty(), "{sql}: {said}");
        assert!(said.contains(truncated), "{sql}: {said}");
        assert_all_same_iceberg(&job, &database, &["public.p", "public.t"]);
    };
    check("TRUNCATE p_0", "p_0\" was truncated");
    check("INSERT INTO p SELECT i, 5, 'again' FROM generate_series(1, 20) i; UPDATE p SET v = 'w' WHERE id % 3 = 0", "");
    check(
        "TRUNCATE p_1_0; INSERT INTO p SELECT i, 15, 'anew' FROM generate_series(1, 20) i; ANALYZE p; VACUUM p_1_0",
        "p_1_0\" was truncated",
    );
    check("DELETE FROM p WHERE id = 7", "");
    check("TRUNCATE p_1", "\"p_1_0\", \"public\".\"p_1_1\" was truncated");
    check("INSERT INTO p SELECT i, 15, 'more' FROM generate_series(1, 90) i", "");
    // What was read before is of other transactions than what comes now.
    check("VACUUM FULL p_0; CLUSTER p_1_1 USING p_1_1_pkey", "");
    check("BEGIN; DELETE FROM p_0; INSERT INTO p SELECT i, 4, 'x' FROM generate_series(1, 9) i; COMMIT", "");
    // Of the whole table, the log says it.
    check("TRUNCATE p; INSERT INTO p SELECT i, i % 20, 'v' FROM generate_series(1, 50) i; ANALYZE p", "");
    check("UPDATE p SET v = 'later' WHERE id = 5", "");
    check("TRUNCATE p; INSERT INTO p SELECT i, i % 20, 'u' FROM generate_series(1, 50) i; TRUNCATE p_0", "p_0\" was truncated");
    // While the table is followed without end.
    let running = job.start(&[&Job::RESUME[..], &Job::FOLLOW].concat());
    std::thread::sleep(Duration::from_secs(2));
    until_copied_again(&job, &database, &["public.p"], "TRUNCATE p_1_1; INSERT INTO p VALUES (55, 15, 'alone')");
    running.signal("TERM");
    let said = running.finish().succeeded().stderr;
    assert!(said.contains("p_1_1\" was truncated"), "{said}");
    assert_all_same_iceberg(&job, &database, &["public.p", "public.t"]);
    // Its rows stay where that is wanted.
    let policy = |word: &str| job.edit("source.json", |source| source["update_method"]["on_truncate"] = json!(word));
    policy("ignore");
    database.sql("TRUNCATE p_0");
    let said = job.resume().succeeded().stderr;
    assert!(said.contains("they stay (on_truncate)") && !said.contains("copied again"), "{said}");
    assert!(!job.resume().succeeded().stderr.contains("truncated"));
}

/// A change log cannot say which rows are gone.
#[test]
fn a_change_log_stops_where_a_partition_was_truncated() {
    let database = Server::shared().database("captrunclog");
    database.sql(PARTED);
    let job = job(&database, "captrunclog", None);
    job.sync().succeeded();
    database.sql("TRUNCATE p; INSERT INTO p VALUES (1, 1, 'a'), (2, 11, 'b'), (77, 12, 'c')");
    job.resume().succeeded();
    database.sql("UPDATE p SET v = 'd' WHERE id = 2");
    job.resume().succeeded();
    database
        .sql("DO $$ BEGIN TRUNCATE p; INSERT INTO p VALUES (3, 3, 'e'), (12, 13, 'f'); EXCEPTION WHEN division_by_zero THEN NULL; END $$");
    job.resume().succeeded();
    job.resume().succeeded();
    let log = duckdb(&job.files("public.p"), "SELECT _op_type, id, v FROM $files WHERE _op_type <> 'r' ORDER BY _cdc_order");
    assert_eq!(
        log,
        json!([
            ["t", null, null],
            ["c", 1, "a"],
            ["c", 2, "b"],
            ["c", 77, "c"],
            ["u", 2, "d"],
            ["t", null, null],
            ["c", 3, "e"],
            ["c", 12, "f"]
        ])
    );
    database.sql("TRUNCATE p_0; INSERT INTO t VALUES (2)");
    job.resume().failed(exit::SCHEMA, &["public.p", "p_0", "was truncated", "sync --reload"]);
    job.run(&[&Job::RESUME[..], &["--reload", "public.p"]].concat()).succeeded();
    assert_eq!(duckdb(&job.files("public.p"), "SELECT id FROM $files"), json!([[12]]));
}
