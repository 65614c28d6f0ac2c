//! Tables of every shape arrive whole, or are refused before anything is written.

use crate::support::lakeward::{Job, exit, files_under};
use crate::support::postgres::Server;
use crate::support::readback::{assert_same, count, duckdb};
use serde_json::json;

#[test]
fn a_table_of_zero_rows() {
    let database = Server::shared().database("zero");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, x text)");
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    assert_eq!(count(&job.files("public.t")), 0);
    job.assert_no_leftovers();
}

#[test]
fn a_table_that_becomes_empty_is_empty_in_the_destination_too() {
    let database = Server::shared().database("emptied");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)");
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 1000);
    database.sql("DELETE FROM t");
    job.sync().succeeded();
    assert_eq!(count(&job.files("public.t")), 0);
    job.assert_no_leftovers();
}

#[test]
fn a_table_of_one_row() {
    let database = Server::shared().database("one");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t VALUES (1, NULL)");
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 1);
}

#[test]
fn no_primary_key_and_equal_rows() {
    let database = Server::shared().database("nokey");
    database.sql("CREATE TABLE t (x text, y int); INSERT INTO t SELECT 'same', i % 3 FROM generate_series(1, 10000) i");
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 10_000);
}

#[test]
fn a_table_of_1600_columns() {
    let database = Server::shared().database("wide");
    let columns: Vec<String> = (1..=1600).map(|i| format!("c{i} int")).collect();
    let values: Vec<String> = (1..=1600).map(|i| if i % 7 == 0 { "NULL".to_owned() } else { format!("g * {i}") }).collect();
    database.sql(&format!(
        "CREATE TABLE t ({}); INSERT INTO t SELECT {} FROM generate_series(1, 50) g",
        columns.join(","),
        values.join(",")
    ));
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 50);
}

#[test]
fn a_table_without_columns_does_not_stop_the_others() {
    let database = Server::shared().database("nocols");
    database.sql("CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    let job = Job::new(&database);
    job.discover();
    job.select(&["public.t"]);
    job.sync().succeeded();
    assert_same(&job, &database, "public.t");
}

#[test]
fn names_that_need_quotes() {
    let database = Server::shared().database("names");
    let long_table = "t".repeat(63);
    let long_column = "ü".repeat(31); // 62 bytes
    database.sql(&format!(
        r#"CREATE SCHEMA "My Schema";
           CREATE TABLE "My Schema"."Order Lines" ("Id" int PRIMARY KEY, "Unit Price (EUR)" numeric(10,2), "select" text, "a""b" text, "a'b" text, "$1" text, "%s" text);
           INSERT INTO "My Schema"."Order Lines" SELECT i, i / 4.0, 'x', 'quote', 'apostrophe', 'dollar', 'percent' FROM generate_series(1, 500) i;
           CREATE TABLE "Übersicht_日本" ("größe" int, "{long_column}" text); INSERT INTO "Übersicht_日本" VALUES (1, 'ä'), (2, '語');
           CREATE TABLE {long_table} (id int); INSERT INTO {long_table} VALUES (63);
           CREATE TABLE "semi;colon--" (id int); INSERT INTO "semi;colon--" VALUES (1);
           CREATE TABLE "dots.and/slashes" (id int); INSERT INTO "dots.and/slashes" VALUES (2);"#
    ));
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    for stream in [
        "My Schema.Order Lines",
        "public.Übersicht_日本",
        &format!("public.{long_table}"),
        "public.semi;colon--",
        "public.dots.and/slashes",
    ] {
        assert_same(&job, &database, stream);
    }
}

/// Tables whose names become the same in the destination: refused, or told apart, never merged.
#[test]
fn tables_that_collide_after_normalisation() {
    let database = Server::shared().database("collide");
    database.sql(
        r#"CREATE TABLE "Orders" (id int); INSERT INTO "Orders" VALUES (1), (2); CREATE TABLE orders (id int); INSERT INTO orders VALUES (3);
           CREATE TABLE "or-ders" (id int); INSERT INTO "or-ders" VALUES (4); CREATE TABLE or_ders (id int); INSERT INTO or_ders VALUES (5);"#,
    );
    let job = Job::new(&database);
    let found = job.run(&["discover", "--config", "source.json"]);
    if found.code == Some(exit::DONE) && job.path("streams.json").exists() {
        job.discover();
        let outcome = job.sync();
        if outcome.code == Some(exit::DONE) {
            for stream in ["public.Orders", "public.orders", "public.or-ders", "public.or_ders"] {
                assert_same(&job, &database, stream);
            }
            return;
        }
        refused_before_writing(&job, outcome.code, &outcome.stderr);
    } else {
        refused_before_writing(&job, found.code, &found.stderr);
    }
}

/// Tables that a user points at the same destination table are refused as well.
#[test]
fn streams_sent_to_one_destination_table_are_refused() {
    let database = Server::shared().database("sametarget");
    database.sql("CREATE TABLE a (id int); INSERT INTO a VALUES (1); CREATE TABLE b (id int); INSERT INTO b VALUES (2)");
    let job = Job::new(&database);
    job.discover();
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("streams") {
            entry["stream"]["destination_table"] = json!("everything");
        }
    });
    let outcome = job.sync();
    refused_before_writing(&job, outcome.code, &outcome.stderr);
}

#[test]
fn columns_that_collide_after_normalisation() {
    let database = Server::shared().database("collidecols");
    database.sql(r#"CREATE TABLE t ("A b" int, a_b int, "a-b" int); INSERT INTO t VALUES (1, 2, 3)"#);
    let job = Job::new(&database);
    let found = job.run(&["discover", "--config", "source.json"]);
    if found.code != Some(exit::DONE) {
        return refused_before_writing(&job, found.code, &found.stderr);
    }
    job.discover();
    let outcome = job.sync();
    if outcome.code == Some(exit::DONE) {
        assert_same(&job, &database, "public.t");
    } else {
        refused_before_writing(&job, outcome.code, &outcome.stderr);
    }
}

#[track_caller]
fn refused_before_writing(job: &Job, code: Option<i32>, stderr: &str) {
    assert!(matches!(code, Some(exit::CONFIG | exit::SCHEMA)), "neither done nor refused: {code:?}\n{stderr}");
    let written: Vec<_> = files_under(&job.lake()).into_iter().filter(|p| p.extension().is_some_and(|e| e == "parquet")).collect();
    assert!(written.is_empty(), "refused, but wrote {written:?}");
}

#[test]
fn a_column_dropped_in_the_middle() {
    let database = Server::shared().database("dropped");
    database.sql(
        "CREATE TABLE t (a int, gone text, b int, c text); INSERT INTO t SELECT i, 'old', i * 2, 'c' || i FROM generate_series(1, 1000) i;
         ALTER TABLE t DROP COLUMN gone; ALTER TABLE t ADD COLUMN d int DEFAULT 7; INSERT INTO t SELECT i, i * 2, 'c' || i, NULL FROM generate_series(1001, 2000) i",
    );
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    let seen = assert_same(&job, &database, "public.t");
    assert_eq!(seen.rows, 2000);
    assert!(!seen.schema.to_string().contains("gone"));
    assert!(!seen.schema.to_string().contains("pg.dropped"));
}

/// Between discover and sync: the catalog names a column that is no longer there.
#[test]
fn a_column_dropped_after_discover_is_an_error_and_not_a_null() {
    let database = Server::shared().database("droppedlater");
    database.sql("CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 2)");
    let job = Job::new(&database);
    job.discover();
    database.sql("ALTER TABLE t DROP COLUMN b");
    let outcome = job.sync();
    assert!(matches!(outcome.code, Some(exit::SOURCE | exit::SCHEMA)), "{outcome:?}");
    assert!(job.files("public.t").is_empty());
}

#[test]
fn generated_and_identity_columns() {
    let database = Server::shared().database("generated");
    database.sql(
        "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, serial serial, double int GENERATED ALWAYS AS (n * 2) STORED,
                         label text GENERATED ALWAYS AS ('n' || n) STORED);
         INSERT INTO t (n) SELECT generate_series(1, 3000)",
    );
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 3000);
    assert_eq!(duckdb(&job.files("public.t"), "SELECT sum(double), max(label) FROM $files"), json!([[9003000, "n999"]]));
}

#[test]
fn rows_larger_than_a_page() {
    let database = Server::shared().database("toast");
    database.sql(
        "CREATE TABLE t (id int, big text, bytes bytea); INSERT INTO t SELECT i, repeat(md5(i::text), 4000), decode(repeat(md5(i::text), 3000), 'hex') FROM generate_series(1, 60) i;
         INSERT INTO t SELECT 61, repeat('x', 20000000), NULL; INSERT INTO t VALUES (62, '', '')",
    );
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 62);
}

#[test]
fn partitioned_inherited_and_unlogged_tables_and_views() {
    let database = Server::shared().database("relations");
    database.sql(
        "CREATE TABLE p (id int, at date) PARTITION BY RANGE (at);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY HASH (id);
         CREATE TABLE p2a PARTITION OF p2 FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE p2b PARTITION OF p2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO p SELECT i, '2024-01-01'::date + i % 700 FROM generate_series(1, 5000) i;
         CREATE TABLE parent (id int); CREATE TABLE child (more text) INHERITS (parent); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 'x');
         CREATE UNLOGGED TABLE u (id int); INSERT INTO u VALUES (1);
         CREATE VIEW v AS SELECT id * 10 AS ten FROM p; CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM p",
    );
    let job = Job::new(&database);
    job.edit("source.json", |source| {
        source["include_views"] = json!(true);
        source["include_materialized_views"] = json!(true);
    });
    job.discover();
    job.select(&["public.p", "public.u", "public.v", "public.m"]);
    job.sync().succeeded();
    assert_eq!(assert_same(&job, &database, "public.p").rows, 5000);
    assert_eq!(assert_same(&job, &database, "public.v").rows, 5000);
    assert_same(&job, &database, "public.u");
    assert_same(&job, &database, "public.m");
}

/// A full refresh replaces: rows changed, added and deleted meanwhile are right, and the old files are gone.
#[test]
fn a_second_full_refresh_replaces_the_first() {
    let database = Server::shared().database("twice");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t SELECT i, 'one' FROM generate_series(1, 5000) i");
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    let first = job.files("public.t");
    database.sql("UPDATE t SET x = 'two' WHERE id % 2 = 0; DELETE FROM t WHERE id % 5 = 0; INSERT INTO t VALUES (9999, 'new')");
    job.sync().succeeded();
    assert_same(&job, &database, "public.t");
    let second = job.files("public.t");
    assert!(first.iter().all(|old| !second.contains(old)), "files of the first refresh are still there: {first:?}");
    job.assert_no_leftovers();
}

#[test]
fn only_chosen_columns_and_rows_are_read() {
    let database = Server::shared().database("chosen");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, keep text, secret text); INSERT INTO t SELECT i, 'k' || i, 'hidden' FROM generate_series(1, 100) i");
    let job = Job::new(&database);
    job.discover();
    job.edit("streams.json", |file| {
        let chosen = &mut file["selected_streams"]["public"][0];
        chosen["selected_columns"] = json!({"columns": ["id", "keep"], "sync_new_columns": false});
        chosen["filter"] = json!("id > 90");
    });
    job.sync().succeeded();
    let files = job.files("public.t");
    assert_eq!(duckdb(&files, "SELECT count(*), min(id), max(keep) FROM $files"), json!([[10, 91, "k99"]]));
    let columns = duckdb(&files, "SELECT column_name FROM (DESCRIBE SELECT * FROM $files)").to_string();
    assert!(!columns.contains("secret"), "{columns}");
    assert!(!database.log_lines().iter().any(|l| l.contains("ERROR")), "{:?}", database.log_lines());
}

/// A stream that says nothing of it follows the destination; one that says something does not.
#[test]
fn normalization_of_the_destination_is_for_streams_that_say_nothing() {
    let database = Server::shared().database("normal");
    database.sql("CREATE TABLE t (id int, x text); INSERT INTO t VALUES (1, 'a'), (2, NULL)");
    let job = Job::new(&database);
    job.discover();
    for (stream, destination, columns) in [
        (None, None, json!(["data"])),
        (None, Some(true), json!(["id", "x"])),
        (Some(false), Some(true), json!(["data"])),
        (Some(true), Some(false), json!(["id", "x"])),
    ] {
        job.edit("streams.json", |file| {
            let chosen = file["selected_streams"]["public"][0].as_object_mut().expect("a stream");
            chosen.remove("normalization");
            chosen.extend(stream.map(|on| ("normalization".to_owned(), json!(on))));
        });
        job.edit("destination.json", |file| file["writer"]["normalization"] = json!(destination));
        job.sync().succeeded();
        let found = duckdb(&job.files("public.t"), "SELECT list(column_name) FROM (DESCRIBE SELECT * FROM $files)");
        assert_eq!(found[0][0], columns, "stream {stream:?}, destination {destination:?}");
    }
    let rows = duckdb(&job.files("public.t"), "SELECT count(*) FROM $files");
    assert_eq!(rows[0][0], json!(2));
}
