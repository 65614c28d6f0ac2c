//! Change data capture: tables are loaded once, then followed through a slot; what lands is what the database has.

use super::types::{CUSTOM, EXACT, create};
use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same_iceberg, duckdb};
use crate::support::wait_until;
use serde_json::{Value, json};
use std::time::Duration;

/// A job whose streams are all followed, into Iceberg with these keys, or into Parquet.
pub fn job(database: &Database, slot: &str, iceberg: Option<Value>) -> Job {
    following(Job::new(database), slot, iceberg)
}

/// As [`job`], of a job that is there.
pub fn following(job: Job, slot: &str, iceberg: Option<Value>) -> Job {
    job.edit("source.json", |source| {
        source["update_method"] = json!({"replication_slot": slot, "publication": format!("{slot}_pub"), "create_if_missing": true});
    });
    job.discover();
    follow(&job);
    if let Some(keys) = iceberg {
        let mut writer = json!({"catalog_type": "filesystem", "iceberg_s3_path": job.lake()});
        for (key, value) in keys.as_object().expect("an object") {
            writer[key] = value.clone();
        }
        job.write("destination.json", &json!({"type": "ICEBERG", "writer": writer}));
    }
    job
}

/// Has all streams of the catalog followed.
pub fn follow(job: &Job) {
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("a list") {
            entry["stream"]["sync_mode"] = json!("cdc");
        }
    });
}

/// Runs SQL while a run follows, and waits until it has copied these streams again.
pub fn until_copied_again(job: &Job, database: &Database, streams: &[&str], sql: &str) {
    let loads = || streams.iter().map(|stream| job.read("state.json")["lakeward"]["captures"][stream]["load"].clone()).collect::<Vec<_>>();
    let before = loads();
    database.sql(sql);
    wait_until("the tables are copied again", 180, || loads().iter().zip(&before).all(|(now, before)| now != before));
}

fn commits(job: &Job, stream: &str) -> usize {
    let folder = job.table_folder(&job.lake(), stream).join("metadata");
    let version = std::fs::read_to_string(folder.join("version-hint.text")).expect("a hint");
    let metadata: Value =
        serde_json::from_slice(&std::fs::read(folder.join(format!("v{version}.metadata.json"))).expect("metadata")).expect("JSON");
    metadata["snapshots"].as_array().map_or(0, Vec::len)
}

/// Rows that come, change and go, keys that change, transactions that are rolled back as a whole or in part.
fn changes_are_applied(name: &str, keys: Value) {
    let database = Server::shared().database(name);
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text, n numeric(10,2)); INSERT INTO t SELECT i, 'v' || i, i FROM generate_series(1, 1000) i;
         CREATE TABLE moving (part text, id bigint, at timestamptz, PRIMARY KEY (part, id));
         INSERT INTO moving SELECT 'p' || i % 3, i, '2024-01-01Z'::timestamptz + i * interval '1 hour' FROM generate_series(1, 100) i;
         CREATE TABLE still (id int PRIMARY KEY)",
    );
    let job = job(&database, name, Some(keys));
    job.edit("streams.json", |file| {
        for stream in file["selected_streams"]["public"].as_array_mut().expect("a list") {
            if stream["stream_name"] == "moving" {
                stream["partition_regex"] = json!("/{part, identity}/{at, day}");
            }
        }
    });
    job.sync().succeeded();
    for stream in ["public.t", "public.moving"] {
        assert_same_iceberg(&job, &database, stream);
    }
    for round in 1..=3 {
        database.sql(&format!(
            "INSERT INTO t SELECT 1000 * {round} + i, 'new', NULL FROM generate_series(1, 50) i;
             UPDATE t SET v = v || '.{round}' WHERE id % 7 = {round}; DELETE FROM t WHERE id % 11 = {round};
             UPDATE t SET id = -id WHERE id % 13 = {round};
             BEGIN; DELETE FROM t; ROLLBACK;
             BEGIN; INSERT INTO t VALUES (-{round}0000, 'kept', 1); SAVEPOINT s; DELETE FROM t WHERE id > 0; ROLLBACK TO s; UPDATE t SET n = 0 WHERE id = 500; COMMIT;
             BEGIN; INSERT INTO t VALUES (77777, 'short', 1); UPDATE t SET v = 'life' WHERE id = 77777; DELETE FROM t WHERE id = 77777; COMMIT;
             UPDATE moving SET part = 'p' || (id + {round}) % 3, at = at + interval '1 day' WHERE id % 4 = {round} % 4"
        ));
        job.resume().succeeded();
        for stream in ["public.t", "public.moving"] {
            assert_same_iceberg(&job, &database, stream);
        }
        // Nothing new is no reason for a snapshot.
        let before = commits(&job, "public.t");
        job.resume().succeeded();
        assert_eq!(commits(&job, "public.t"), before);
    }
    assert_eq!(commits(&job, "public.still"), 1);
    // The slot has been told.
    let end = database.sql("SELECT pg_current_wal_insert_lsn()");
    job.resume().succeeded();
    let told =
        database.sql(&format!("SELECT confirmed_flush_lsn >= '{}' FROM pg_replication_slots WHERE slot_name = '{name}'", end.trim()));
    assert_eq!(told.trim(), "t");
    let state = job.read("state.json");
    assert!(state["global"]["state"]["lsn"].as_str().is_some_and(|lsn| lsn.contains('/')), "{state}");
}

#[test]
fn changes_are_applied_by_key() {
    changes_are_applied("capequality", json!({}));
}

#[test]
fn changes_are_applied_by_position() {
    changes_are_applied("capposition", json!({"delete_files": "position"}));
}

/// Values are the same whether they come with the copy or out of the log.
#[test]
fn captured_values_of_every_type_are_those_of_a_copy() {
    let database = Server::shared().database("captypes");
    database.sql(&format!("{CUSTOM} {}; CREATE TABLE kept AS TABLE t; DELETE FROM t", create(EXACT)));
    let job = job(&database, "captypes", Some(json!({})));
    job.select(&["public.t"]);
    job.sync().succeeded();
    database.sql("INSERT INTO t TABLE kept");
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
}

/// Transactions that are open, or commit, while the first load takes its snapshot are neither lost nor doubled, in a log that would show it.
#[test]
fn the_copy_and_the_log_meet() {
    let database = Server::shared().database("capmeet");
    database.sql("CREATE TABLE t (id bigserial PRIMARY KEY, x text)");
    let job = job(&database, "capmeet", None);
    let (mut open, mut nested) = (database.session(), database.session());
    let mut writers = Vec::new();
    for number in 0..4 {
        let mut session = database.session();
        writers.push(std::thread::spawn(move || {
            for round in 0..150 {
                session.sql(&format!(
                    "BEGIN; INSERT INTO t (x) VALUES ('{number}.{round}'); SAVEPOINT s; INSERT INTO t (x) VALUES ('s'); RELEASE s; COMMIT"
                ));
                std::thread::sleep(Duration::from_millis(3));
            }
        }));
    }
    // The slot waits for those that are open when it is made, so it is made first.
    job.sync().succeeded();
    open.sql("BEGIN; INSERT INTO t (x) VALUES ('open')");
    nested.sql("BEGIN; SAVEPOINT s; INSERT INTO t (x) VALUES ('nested')");
    // Anew, with the slot that is there.
    job.sync().succeeded();
    open.sql("COMMIT");
    nested.sql("ROLLBACK TO s; COMMIT");
    for writer in writers {
        writer.join().expect("a writer");
    }
    job.resume().succeeded();
    let expected: i64 = database.sql("SELECT count(*) FROM t").trim().parse().expect("a number");
    let seen = duckdb(
        &job.files("public.t"),
        "SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE _op_type NOT IN ('r', 'c')) FROM $files",
    );
    assert_eq!(seen, json!([[expected, expected, 0]]));
}

/// The log of changes, folded by any reader, is the table.
#[test]
fn a_change_log_says_what_happened() {
    let database = Server::shared().database("caplog");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL; INSERT INTO t SELECT i, 'v' || i, repeat(md5(i::text), 500) FROM generate_series(1, 20) i");
    let job = job(&database, "caplog", None);
    job.sync().succeeded();
    database.sql("UPDATE t SET v = 'changed' WHERE id = 1; BEGIN; UPDATE t SET big = 'small' WHERE id = 2; DELETE FROM t WHERE id = 3; COMMIT; UPDATE t SET id = 40 WHERE id = 4");
    job.resume().succeeded();
    database.sql("INSERT INTO t VALUES (3, 'again', NULL); TRUNCATE t");
    job.resume().succeeded();
    let log = duckdb(
        &job.files("public.t"),
        "SELECT id, _op_type, v, length(big), _unchanged_columns FROM $files WHERE _op_type <> 'r' ORDER BY _cdc_order",
    );
    let expected = json!([
        [1, "u", "changed", null, "big"],
        [2, "u", "v2", 5, null],
        [3, "d", null, null, null],
        [4, "d", null, null, null],
        [40, "c", "v4", null, "big"],
        [3, "c", "again", null, null],
        [null, "t", null, null, null],
    ]);
    assert_eq!(log, expected);
    let kept = duckdb(
        &job.files("public.t"),
        "SELECT count(*), count(_cdc_lsn), max(_cdc_order), min(year(_cdc_timestamp)) FROM $files WHERE _op_type = 'r'",
    );
    assert_eq!(kept, json!([[20, 0, "0000000000000000-00000000", 1970]]));
    let order = duckdb(
        &job.files("public.t"),
        "SELECT count(DISTINCT _cdc_order), bool_and(year(_cdc_timestamp) > 2000) FROM $files WHERE _op_type <> 'r'",
    );
    assert_eq!(order, json!([[7, true]]));
}

/// A key that changes takes the old row away, whatever the replica identity is.
#[test]
fn a_change_log_says_that_a_row_has_another_key() {
    let database = Server::shared().database("caplogmove");
    let tables = ["usual", "whole"];
    for table in tables {
        database.sql(&format!("CREATE TABLE {table} (id int PRIMARY KEY, v text); INSERT INTO {table} VALUES (1, 'a'), (2, 'b')"));
    }
    database.sql("ALTER TABLE whole REPLICA IDENTITY FULL");
    let job = job(&database, "caplogmove", None);
    job.sync().succeeded();
    for table in tables {
        database.sql(&format!("UPDATE {table} SET id = 10 WHERE id = 1; UPDATE {table} SET v = 'c' WHERE id = 2"));
    }
    job.resume().succeeded();
    for table in tables {
        let log = duckdb(
            &job.files(&format!("public.{table}")),
            "SELECT _op_type, id, CASE WHEN _op_type <> 'd' THEN v END FROM $files WHERE _op_type <> 'r' ORDER BY _cdc_order",
        );
        assert_eq!(log, json!([["d", 1, null], ["c", 10, "a"], ["u", 2, "c"]]), "{table}");
    }
}

/// Large values that an UPDATE does not touch are not in the log: they stay as they are, whether the row was there before, came or was changed in
/// the same run, or moved to another partition.
fn large_values_stay(name: &str, keys: Value) {
    let database = Server::shared().database(name);
    let columns = "(id int PRIMARY KEY, v text, big text, doc jsonb, tags text[], raw bytea)";
    database.sql(&format!(
        "CREATE TABLE big {columns}; CREATE TABLE parts {columns}; CREATE TABLE whole {columns}; ALTER TABLE whole REPLICA IDENTITY FULL;
         DO $$ DECLARE t text; c text; BEGIN FOREACH t IN ARRAY ARRAY['big', 'parts', 'whole'] LOOP
             FOREACH c IN ARRAY ARRAY['big', 'doc', 'tags', 'raw'] LOOP EXECUTE format('ALTER TABLE %I ALTER %I SET STORAGE EXTERNAL', t, c); END LOOP;
             EXECUTE format('INSERT INTO %I SELECT i, ''v'' || i %% 3, repeat(md5(i::text), 200), jsonb_build_object(''x'', repeat(md5(i::text), 100)), ARRAY[repeat(i::text, 3000), NULL], decode(repeat(md5(i::text), 100), ''hex'') FROM generate_series(1, 60) i', t);
         END LOOP; END $$"
    ));
    let job = job(&database, name, Some(keys));
    job.edit("streams.json", |file| {
        for stream in file["selected_streams"]["public"].as_array_mut().expect("a list") {
            if stream["stream_name"] == "parts" {
                stream["partition_regex"] = json!("/{v, identity}");
            }
        }
    });
    job.sync().succeeded();
    for round in 1..=3 {
        for table in ["big", "parts", "whole"] {
            database.sql(&format!(
                "UPDATE {table} SET v = 'w{round}' WHERE id % 4 = {round};
                 UPDATE {table} SET v = v || '+' WHERE id % 5 = {round}; UPDATE {table} SET raw = NULL WHERE id = {round}; UPDATE {table} SET v = 'last' WHERE id = {round};
                 INSERT INTO {table} SELECT 100 * {round}, 'new', repeat('n', 5000), NULL, NULL, '\\x00'; UPDATE {table} SET v = 'newer' WHERE id = 100 * {round};
                 UPDATE {table} SET big = repeat('b', 4000 + {round}) WHERE id = 20; UPDATE {table} SET v = 'small' WHERE id = 20;
                 DELETE FROM {table} WHERE id = 30 + {round}; UPDATE {table} SET big = 'short' WHERE id = 40 + {round}"
            ));
        }
        database.sql("UPDATE whole SET id = -id WHERE id % 9 = 0");
        job.resume().succeeded();
        for stream in ["public.big", "public.parts", "public.whole"] {
            assert_same_iceberg(&job, &database, stream);
        }
    }
}

#[test]
fn large_values_stay_with_deletes_by_key() {
    large_values_stay("captoastkey", json!({}));
}

#[test]
fn large_values_stay_with_deletion_vectors() {
    large_values_stay("captoastdv", json!({"delete_files": "deletion_vector"}));
}

/// Deleted rows stay, marked, where the catalog has OLake's column for it and says nothing else.
#[test]
fn deleted_rows_stay_where_they_are_meant_to() {
    let database = Server::shared().database("capsoft");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 4) i");
    let job = job(&database, "capsoft", Some(json!({"delete_files": "position"})));
    let marked = |mode: Option<&str>| {
        job.edit("streams.json", |file| {
            file["streams"][0]["stream"]["type_schema"]["properties"]["_op_type"] =
                json!({"type": ["null", "string"], "olake_column": true});
            let selected = &mut file["selected_streams"]["public"][0];
            selected["selected_columns"]["columns"] = json!(["id", "v", "_op_type"]);
            if let Some(mode) = mode {
                selected["delete_mode"] = json!(mode);
            }
        });
    };
    let rows = || {
        job.run(&["preview", "--destination", "destination.json", "--streams", "streams.json", "--stream", "public.t", "--rows", "100"])
            .succeeded()
            .stdout
    };
    marked(None);
    job.sync().succeeded();
    database.sql("DELETE FROM t WHERE id = 2; UPDATE t SET v = 'w' WHERE id = 3; INSERT INTO t VALUES (5, 'n')");
    job.resume().succeeded();
    let seen = rows();
    let count = |op: &str| seen.matches(&format!("| {op} ")).count();
    assert_eq!((count("r"), count("d"), count("u"), count("c")), (2, 1, 1, 1), "{seen}");
    marked(Some("hard"));
    database.sql("DELETE FROM t WHERE id = 3");
    job.resume().succeeded();
    let seen = rows();
    let count = |op: &str| seen.matches(&format!("| {op} ")).count();
    assert_eq!((count("r"), count("d"), count("u"), count("c")), (2, 1, 0, 1), "{seen}");
}

/// Partitions with their columns in another order, whose changes come in turns.
#[test]
fn changes_of_partitions_of_different_shapes() {
    let database = Server::shared().database("capshapes");
    database.sql(
        "CREATE TABLE p (id int, a text, b text, PRIMARY KEY (id)) PARTITION BY RANGE (id); CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE TABLE p_2 (b text, a text, gone int, id int NOT NULL PRIMARY KEY); ALTER TABLE p_2 DROP gone; ALTER TABLE p ATTACH PARTITION p_2 FOR VALUES FROM (10) TO (20);
         CREATE PUBLICATION capshapes_pub FOR TABLE p",
    );
    let job = job(&database, "capshapes", Some(json!({})));
    job.select(&["public.p"]);
    job.sync().succeeded();
    database.sql("INSERT INTO p VALUES (1, 'a1', 'b1'), (11, 'a11', 'b11'), (2, 'a2', 'b2'), (12, 'a12', 'b12'); UPDATE p SET a = a || '+' WHERE id IN (1, 11); DELETE FROM p WHERE id IN (2, 12); UPDATE p SET id = 15 WHERE id = 1");
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.p");
}

/// A change log would lose its history if it were copied again: it stops instead, and goes on when it is told to begin anew. A column that is
/// gone is not named among those that an UPDATE did not touch.
#[test]
fn a_change_log_stops_where_the_log_says_nothing() {
    let database = Server::shared().database("caplogstop");
    database.sql(
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10); INSERT INTO p VALUES (1, 'a');
         CREATE TABLE t (id int PRIMARY KEY, v text, gone text); ALTER TABLE t ALTER gone SET STORAGE EXTERNAL; INSERT INTO t VALUES (1, 'a', repeat('g', 9000))",
    );
    let job = job(&database, "caplogstop", None);
    job.select(&["public.p", "public.t"]);
    job.sync().succeeded();
    database.sql(
        "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (11, 'unseen'); ALTER TABLE p ATTACH PARTITION a FOR VALUES FROM (10) TO (20); INSERT INTO p VALUES (2, 'b');
         UPDATE t SET v = 'b'; ALTER TABLE t DROP gone",
    );
    for _ in 0..2 {
        job.resume().failed(exit::SCHEMA, &["public.p", "attached with rows", "--reload"]);
        assert_eq!(duckdb(&job.files("public.p"), "SELECT id, _op_type FROM $files"), json!([[1, "r"]]));
    }
    let changes = "SELECT v, _unchanged_columns FROM $files WHERE _op_type = 'u'";
    assert_eq!(duckdb(&job.files("public.t"), changes), json!([["b", null]]));
    job.run(&[&Job::RESUME[..], &["--reload", "public.p"]].concat()).succeeded();
    assert_eq!(duckdb(&job.files("public.p"), "SELECT id, _op_type FROM $files ORDER BY id"), json!([[1, "r"], [2, "r"], [11, "r"]]));
}

/// Keys of several kinds, at their ends, and names that have to be quoted; and a label that an enum gets meanwhile.
#[test]
fn keys_and_names_of_every_kind() {
    let database = Server::shared().database("capkeys");
    database.sql(
        r#"CREATE TYPE mood AS ENUM ('ok');
         CREATE TABLE "Größe ""x"" €" ("Key of 1" bigint PRIMARY KEY, "Ünïcode, named" text, "select" mood);
         INSERT INTO "Größe ""x"" €" VALUES (-9223372036854775808, 'low', 'ok'), (-1, 'minus', 'ok'), (0, 'zero', NULL), (9223372036854775807, 'high', 'ok');
         CREATE TABLE by_uuid (id uuid PRIMARY KEY, v text); INSERT INTO by_uuid SELECT md5(i::text)::uuid, 'v' FROM generate_series(1, 20) i;
         CREATE TABLE by_text (id text, at timestamptz, part smallint, v text, PRIMARY KEY (part, id, at));
         INSERT INTO by_text SELECT 'ключ ' || i, '2024-03-31 00:30+01'::timestamptz + i * interval '30 min', -i, 'v' FROM generate_series(1, 20) i"#,
    );
    let job = job(&database, "capkeys", Some(json!({})));
    job.sync().succeeded();
    database.sql(r#"ALTER TYPE mood ADD VALUE 'new' BEFORE 'ok';"#);
    database.sql(
        r#"UPDATE "Größe ""x"" €" SET "select" = 'new', "Ünïcode, named" = '"quoted", \ and ''more''' WHERE "Key of 1" IN (0, 9223372036854775807);
         DELETE FROM "Größe ""x"" €" WHERE "Key of 1" = -9223372036854775808; UPDATE "Größe ""x"" €" SET "Key of 1" = -9223372036854775808 WHERE "Key of 1" = -1;
         UPDATE by_uuid SET id = md5(v || id)::uuid WHERE id::text < '8'; DELETE FROM by_uuid WHERE id::text > 'e';
         UPDATE by_text SET at = at + interval '1 hour', v = '' WHERE part % 3 = 0; DELETE FROM by_text WHERE id = 'ключ 7'; UPDATE by_text SET id = id || '!', part = 7 WHERE part = -8"#,
    );
    job.resume().succeeded();
    for stream in [r#"public.Größe "x" €"#, "public.by_uuid", "public.by_text"] {
        assert_same_iceberg(&job, &database, stream);
    }
}

/// Partitions that bring rows or take them away, of which the log says nothing; and those that are created as partitions, whose rows are all in the log.
#[test]
fn partitions_come_and_go() {
    let database = Server::shared().database("capparts");
    database.sql(
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10); INSERT INTO p VALUES (1, 'a');
         CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (10) TO (20); INSERT INTO p VALUES (11, 'b')",
    );
    let job = job(&database, "capparts", Some(json!({})));
    job.select(&["public.p"]);
    job.sync().succeeded();
    let check = |sql: &str, copied: bool| {
        database.sql(sql);
        let said = job.resume().succeeded().stderr;
        assert_eq!(said.contains("copied again"), copied, "{sql}: {said}");
        assert_same_iceberg(&job, &database, "public.p");
    };
    check("CREATE TABLE p_3 PARTITION OF p FOR VALUES FROM (20) TO (30); INSERT INTO p VALUES (21, 'c'), (2, 'd')", false);
    check(
        "BEGIN; CREATE TABLE p_4 PARTITION OF p FOR VALUES FROM (30) TO (40) PARTITION BY RANGE (id); CREATE TABLE p_41 PARTITION OF p_4 FOR VALUES FROM (30) TO (35); INSERT INTO p VALUES (31, 'e'); COMMIT; UPDATE p SET v = 'f' WHERE id = 31",
        false,
    );
    check(
        "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (41, 'g'); ALTER TABLE p ATTACH PARTITION a FOR VALUES FROM (40) TO (50); INSERT INTO p VALUES (42, 'h')",
        true,
    );
    check(
        "BEGIN; CREATE TABLE b (LIKE p INCLUDING ALL); INSERT INTO b VALUES (51, 'i'); ALTER TABLE p ATTACH PARTITION b FOR VALUES FROM (50) TO (60); COMMIT; INSERT INTO p VALUES (52, 'j')",
        true,
    );
    check(
        "BEGIN; CREATE TABLE c (LIKE p INCLUDING ALL); ALTER TABLE p ATTACH PARTITION c FOR VALUES FROM (60) TO (70); COMMIT; INSERT INTO p VALUES (61, 'k')",
        false,
    );
    // Rows of a partition that goes stay, unless they are not meant to.
    database.sql("ALTER TABLE p DETACH PARTITION p_2; DROP TABLE p_3; INSERT INTO p VALUES (3, 'l')");
    let said = job.resume().succeeded().stderr;
    assert!(said.contains("2 partitions were detached or dropped"), "{said}");
    let said = job.resume().succeeded().stderr;
    assert!(!said.contains("detached"), "said once: {said}");
    job.edit("source.json", |source| source["update_method"]["on_detach"] = json!("reload"));
    check("ALTER TABLE p DETACH PARTITION b", true);
    check("UPDATE p SET v = 'last'", false);
}

/// A slot that was moved before the first changes were read.
#[test]
fn a_slot_that_moves_after_the_first_load_is_refused() {
    let database = Server::shared().database("capmoved");
    database.sql("CREATE TABLE t (id int PRIMARY KEY)");
    let job = job(&database, "capmoved", Some(json!({})));
    job.sync().succeeded();
    // As a run leaves it that was killed between its first load and the log.
    job.edit("state.json", |state| {
        let captured = &mut state["lakeward"]["captures"]["public.t"];
        let moment = json!({"system": "1", "timeline": 1, "database": 1, "xmin": 3, "xmax": 3, "lsn": captured["lsn"], "durable": true});
        captured["lsn"] = json!("0/0");
        captured["seen"] = json!({"moment": moment, "open": []});
    });
    database.sql("INSERT INTO t VALUES (1); SELECT pg_replication_slot_advance('capmoved', pg_current_wal_lsn())");
    job.resume().failed(exit::STATE, &["public.t", "has forgotten", "clear-destination"]);
}

/// Changes from before a rename are not written without their values.
#[test]
fn changes_under_an_older_name_are_not_lost() {
    let database = Server::shared().database("caprename");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text, gone int); INSERT INTO t VALUES (1, 'a', 1)");
    let job = job(&database, "caprename", Some(json!({})));
    job.sync().succeeded();
    // One that has gone and another that has come are told apart by their numbers.
    database.sql("UPDATE t SET v = 'b'; ALTER TABLE t DROP gone; ALTER TABLE t ADD n int; UPDATE t SET n = 7");
    let again = || {
        std::fs::remove_file(job.path("streams.json")).expect("remove");
        job.discover();
        follow(&job);
    };
    let clear = || {
        let arguments = [
            "clear-destination",
            "--config",
            "source.json",
            "--streams",
            "streams.json",
            "--destination",
            "destination.json",
            "--state",
            "state.json",
        ];
        job.run(&arguments).succeeded();
    };
    again();
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    database.sql("UPDATE t SET v = 'c'; ALTER TABLE t RENAME v TO w; UPDATE t SET n = 8");
    again();
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    // Twice since the last run: its place tells that it is the same.
    database.sql("ALTER TABLE t RENAME w TO between; UPDATE t SET between = 'd'; ALTER TABLE t RENAME between TO w2; UPDATE t SET n = 9");
    again();
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    // And another one was dropped, nobody knows when.
    database.sql("ALTER TABLE t ADD m int; ALTER TABLE t RENAME w2 TO between; UPDATE t SET between = 'd'; ALTER TABLE t RENAME between TO w2; UPDATE t SET n = 9; ALTER TABLE t DROP m; ALTER TABLE t ADD o int");
    again();
    job.resume().failed(exit::SCHEMA, &["public.t", "between", "clear-destination"]);
    clear();
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    database.sql("ALTER TABLE t RENAME w2 TO w");
    // What was read before the rename is no harm either.
    database.sql("ALTER TABLE t RENAME w TO x");
    again();
    database.sql("UPDATE t SET x = 'd'; INSERT INTO t VALUES (2, 'e', 9)");
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    // Another table of the name: its publication does not have it, and its rows are others.
    database.sql("INSERT INTO t VALUES (3, 'f', 9); DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, x text, n int, o int); INSERT INTO t VALUES (1, 'g', 1)");
    job.resume().failed(exit::SOURCE, &["public.t", "ALTER PUBLICATION"]);
    database.sql("ALTER PUBLICATION caprename_pub ADD TABLE t; INSERT INTO t VALUES (4, 'h', 1)");
    job.resume().failed(exit::SCHEMA, &["public.t", "dropped and made again"]);
    clear();
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
}

/// `strict_cdc` has no first load.
#[test]
fn strict_capture_begins_with_the_slot() {
    let database = Server::shared().database("capstrict");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let job = job(&database, "capstrict", None);
    job.edit("streams.json", |file| file["streams"][0]["stream"]["sync_mode"] = json!("strict_cdc"));
    job.sync().succeeded();
    database.sql("INSERT INTO t VALUES (2); DELETE FROM t WHERE id = 1");
    job.resume().succeeded();
    assert_eq!(duckdb(&job.files("public.t"), "SELECT id, _op_type FROM $files ORDER BY _cdc_order"), json!([[2, "c"], [1, "d"]]));
}

/// A state that belongs to another destination, a slot that has been moved, and what is not there.
#[test]
fn what_would_lose_changes_is_refused() {
    let database = Server::shared().database("caprefuse");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let job = job(&database, "caprefuse", Some(json!({})));
    job.edit("source.json", |source| source["update_method"]["create_if_missing"] = json!(false));
    job.sync().failed(exit::SOURCE, &["publication", "caprefuse_pub", "CREATE PUBLICATION", "create_if_missing"]);
    job.edit("source.json", |source| source["update_method"]["create_if_missing"] = json!(true));
    job.sync().succeeded();
    database.sql("INSERT INTO t VALUES (2)");
    job.resume().succeeded();
    let state = job.read("state.json");
    // An older state is no harm: the token wins.
    database.sql("INSERT INTO t VALUES (3)");
    job.resume().succeeded();
    job.write("state.json", &state);
    database.sql("INSERT INTO t VALUES (4)");
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    // Somebody has moved the slot.
    database
        .sql("INSERT INTO t VALUES (5); SELECT pg_replication_slot_advance('caprefuse', pg_current_wal_lsn()); INSERT INTO t VALUES (6)");
    job.resume().failed(exit::STATE, &["public.t", "has forgotten", "clear-destination"]);
    // Another destination.
    job.edit("destination.json", |file| file["writer"]["iceberg_s3_path"] = json!(job.path("elsewhere")));
    job.resume().failed(exit::STATE, &["public.t", "it has no commit of this table"]);
}

/// A run dies between its commit and its save; the next one has changes of another table only, and saves that it has come further.
#[test]
fn a_lost_save_is_remembered_by_runs_without_changes() {
    let database = Server::shared().database("caplostsave");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'); CREATE TABLE other (id int PRIMARY KEY)");
    let job = job(&database, "caplostsave", None);
    job.sync().succeeded();
    database.sql("UPDATE t SET v = 'b'");
    let old = job.read("state.json")["lakeward"]["captures"]["public.t"].clone();
    job.resume().succeeded();
    // Of that stream only: the slot has gone on with the other.
    job.edit("state.json", |state| state["lakeward"]["captures"]["public.t"] = old);
    for id in 1..3 {
        database.sql(&format!("INSERT INTO other VALUES ({id})"));
        job.resume().succeeded();
    }
    database.sql("UPDATE t SET v = 'c'");
    job.resume().succeeded();
    let log = duckdb(&job.files("public.t"), "SELECT v FROM $files ORDER BY v");
    assert_eq!(log, json!([["a"], ["b"], ["c"]]));
}
