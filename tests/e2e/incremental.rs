//! Incremental streams: every row once, whatever its cursor value and whenever its transaction commits.

use crate::support::dice::Dice;
use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same, assert_same_as, count, duckdb};
use serde_json::{Value, json};
use std::time::Duration;

/// A job whose streams are incremental by the given cursors.
pub fn job(database: &Database, cursors: &[(&str, &str)]) -> Job {
    let job = Job::new(database);
    job.discover();
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("a list") {
            let stream = &mut entry["stream"];
            let id = format!("{}.{}", stream["namespace"].as_str().unwrap_or_default(), stream["name"].as_str().unwrap_or_default());
            if let Some((_, cursor)) = cursors.iter().find(|(stream, _)| *stream == id) {
                stream["sync_mode"] = json!("incremental");
                stream["cursor_field"] = json!(cursor);
            }
        }
    });
    job.select(&cursors.iter().map(|(stream, _)| *stream).collect::<Vec<_>>());
    job
}

fn commits(job: &Job, stream: &str) -> usize {
    job.files(stream).len()
}

/// Transactions that are open while a run takes its snapshot commit afterwards, with values below the greatest: plainly, in a savepoint,
/// and having begun without writing. And later rows can have an equal value.
#[test]
fn late_commits_are_read_once() {
    let database = Server::shared().database("late");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now()); CREATE INDEX ON t (at)");
    let (mut plain, mut nested, mut reader, mut undone) = (database.session(), database.session(), database.session(), database.session());
    plain.sql("BEGIN; INSERT INTO t VALUES (1)");
    nested.sql("BEGIN; SAVEPOINT a; INSERT INTO t VALUES (2); RELEASE a; SAVEPOINT b; INSERT INTO t VALUES (3)");
    reader.sql("BEGIN; SELECT now()");
    undone.sql("BEGIN; INSERT INTO t VALUES (4)");
    // Committed while the others are open, among them one with a savepoint of its own.
    database.sql("INSERT INTO t VALUES (10); BEGIN; SAVEPOINT s; INSERT INTO t VALUES (11); RELEASE s; COMMIT");

    let job = job(&database, &[("public.t", "at")]);
    job.sync().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 2);
    plain.sql("COMMIT");
    reader.sql("INSERT INTO t VALUES (5)");
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 3);
    nested.sql("INSERT INTO t VALUES (6); COMMIT");
    reader.sql("INSERT INTO t VALUES (7); COMMIT");
    undone.sql("ROLLBACK");
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 8);
    let before = commits(&job, "public.t");
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 8);
    assert_eq!(commits(&job, "public.t"), before, "a run without news wrote a file");
    // A tie with the greatest value, on a quiet server.
    database.sql("INSERT INTO t SELECT 100, max(at) FROM t");
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 9);
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 9);
}

/// Values that a float, or a text of fewer digits, would not tell apart.
#[test]
fn the_state_is_exact() {
    let database = Server::shared().database("exact");
    let tables = [
        ("big", "bigint", "9007199254740992 + i", "9007199254740993 + 1000"),
        ("num", "numeric", "12345678901234567890.0000000000000000001 + i", "12345678901234567890.0000000000000000002 + 1000"),
        (
            "micro",
            "timestamptz",
            "'2024-01-01 00:00:00.000001Z'::timestamptz + i * interval '1 us'",
            "'2024-01-01 00:00:00.001002Z'::timestamptz",
        ),
        ("local", "timestamp", "'2024-01-01 00:00:00.000001'::timestamp + i * interval '1 us'", "'2024-01-01 00:00:00.001002'::timestamp"),
        ("day", "date", "'0044-03-15 BC'::date + i", "'0044-03-15 BC'::date + 1001"),
        ("word", "text", "'é''\\' || lpad(i::text, 5, '0')", "'é''\\01001'"),
        ("ident", "uuid", "lpad(i::text, 32, '0')::uuid", "lpad('1001', 32, '0')::uuid"),
        ("single", "float4", "(i * 0.1)::float4", "(1001 * 0.1)::float4"),
        ("name", "varchar(10)", "'k' || lpad(i::text, 6, '0')", "'k001001'"),
    ];
    for (name, ty, value, _) in tables {
        database.sql(&format!(
            "CREATE TABLE {name} (c {ty} NOT NULL, i int); INSERT INTO {name} SELECT {value}, i FROM generate_series(1, 1000) i"
        ));
    }
    let streams: Vec<_> = tables.iter().map(|(name, ..)| format!("public.{name}")).collect();
    let job = job(&database, &streams.iter().map(|stream| (stream.as_str(), "c")).collect::<Vec<_>>());
    job.sync().succeeded();
    for round in 0..2 {
        for (name, _, _, next) in tables {
            // The next possible value, and one equal to the greatest.
            database.sql(&format!(
                "INSERT INTO {name} SELECT max(c::text)::text::{ty}, -{round} FROM (SELECT c FROM {name} ORDER BY c DESC LIMIT 1) m",
                ty = tables.iter().find(|t| t.0 == name).map_or("", |t| t.1)
            ));
            if round == 0 {
                database.sql(&format!("INSERT INTO {name} SELECT {next}, -10"));
            }
        }
        job.resume().succeeded();
        for stream in &streams {
            assert_same(&job, &database, stream);
        }
    }
    let state = job.read("state.json");
    let of = |name: &str| {
        let found = state["streams"].as_array().expect("streams").iter().find(|s| s["stream"] == name).expect("the stream");
        found["state"]["c"].clone()
    };
    assert_eq!(of("big"), json!(9_007_199_254_741_993_i64));
    assert_eq!(of("micro"), json!("2024-01-01T00:00:00.001002000Z"));
    job.assert_no_leftovers();
}

#[test]
fn an_updated_row_comes_again_and_an_old_one_does_not() {
    let database = Server::shared().database("updates");
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v int, updated int); INSERT INTO t SELECT i, i, i FROM generate_series(1, 1000) i;
         CREATE TABLE seen AS SELECT * FROM t",
    );
    let job = job(&database, &[("public.t", "updated")]);
    job.sync().succeeded();
    database.sql("UPDATE t SET v = -v, updated = updated + 5000 WHERE id % 10 = 0; INSERT INTO seen SELECT * FROM t WHERE updated > 1000; DELETE FROM t WHERE id = 5");
    job.resume().succeeded();
    assert_eq!(assert_same_as(&job, &database, "public.t", "public.seen").rows, 1100);
}

#[test]
fn rows_without_a_cursor_value_follow_the_policy() {
    let database = Server::shared().database("nulls");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, at int, made int)");
    for (policy, cursor, expected) in [
        (json!(null), "at", [3, 5, 5]),
        (json!("new_rows"), "at", [3, 5, 5]),
        (json!("first_run"), "at", [3, 4, 4]),
        (json!("read_each_run"), "at", [3, 6, 8]),
        (json!("skip"), "at", [2, 3, 3]),
        // Rows without `at` are compared by `made`.
        (json!("new_rows"), "at:made", [3, 5, 5]),
    ] {
        database.sql("TRUNCATE t; INSERT INTO t VALUES (1, 10, 1), (2, 20, 2), (3, NULL, NULL)");
        let job = job(&database, &[("public.t", cursor)]);
        job.edit("source.json", |file| file["incremental"] = json!({"null_cursor": policy}));
        if policy.is_null() {
            job.edit("source.json", |file| file.as_object_mut().map(|file| file.remove("incremental")).map_or((), drop));
        }
        let mut found = Vec::new();
        job.sync().succeeded();
        found.push(count(&job.files("public.t")));
        database.sql("INSERT INTO t VALUES (4, 30, 3), (5, NULL, NULL)");
        job.resume().succeeded();
        found.push(count(&job.files("public.t")));
        job.resume().succeeded();
        found.push(count(&job.files("public.t")));
        assert_eq!(found, expected, "{policy} {cursor}");
    }
}

#[test]
fn a_secondary_cursor_serves_rows_without_the_first() {
    let database = Server::shared().database("secondary");
    database.sql(
        "CREATE TABLE t (id int, updated timestamp, created timestamp);
         INSERT INTO t SELECT i, CASE WHEN i % 2 = 0 THEN '2024-02-01'::timestamp + i * interval '1 s' END, '2024-01-01'::timestamp + i * interval '1 s' FROM generate_series(1, 100) i",
    );
    let job = job(&database, &[("public.t", "updated:created")]);
    job.sync().succeeded();
    assert_same(&job, &database, "public.t");
    database.sql("INSERT INTO t VALUES (200, NULL, '2024-01-02'), (201, '2024-03-01', '2023-01-01'), (202, NULL, '2024-01-01 00:01:39')");
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 103);
    job.resume().succeeded();
    assert_eq!(count(&job.files("public.t")), 103);
}

/// Infinities and NaN have no value above them; rows that have them, and others after them, must not be lost.
#[test]
fn values_that_have_no_order_of_their_own() {
    let database = Server::shared().database("infinite");
    database.sql(
        "CREATE TABLE a (i int, c timestamptz); INSERT INTO a VALUES (1, '2024-01-01Z'), (2, 'infinity'), (3, '-infinity');
         CREATE TABLE b (i int, c float8); INSERT INTO b VALUES (1, 1), (2, 'NaN'), (3, 'Infinity'), (4, '-Infinity');
         CREATE TABLE c (i int, c numeric); INSERT INTO c VALUES (1, 1), (2, 'NaN')",
    );
    let job = job(&database, &[("public.a", "c"), ("public.b", "c"), ("public.c", "c")]);
    job.edit("streams.json", |file| {
        for chosen in file["selected_streams"]["public"].as_array_mut().expect("a list") {
            chosen["special_values"] = json!({"*": "string"});
        }
    });
    let check = |rows: [u64; 3]| {
        for (stream, rows) in ["public.a", "public.b", "public.c"].iter().zip(rows) {
            assert_eq!(count(&job.files(stream)), rows, "{stream}");
        }
    };
    job.sync().succeeded();
    check([3, 4, 2]);
    job.resume().succeeded();
    check([3, 4, 2]);
    database.sql(
        "INSERT INTO a VALUES (4, '2024-01-02Z'), (5, 'infinity'), (6, '-infinity'); INSERT INTO b VALUES (5, 2), (6, 'NaN'), (7, '-Infinity'); INSERT INTO c VALUES (3, 2), (4, 'NaN')",
    );
    job.resume().succeeded();
    check([6, 7, 4]);
    job.resume().succeeded();
    check([6, 7, 4]);
}

#[test]
fn a_state_of_olakes_is_gone_on_from() {
    let database = Server::shared().database("handover");
    database.sql("CREATE TABLE t (id int, updated_at timestamptz); INSERT INTO t SELECT i, '2024-01-01Z'::timestamptz + i * interval '1 day' FROM generate_series(-9, 10) i");
    let job = job(&database, &[("public.t", "updated_at")]);
    job.write(
        "state.json",
        &json!({"type": "STREAM", "version": 7, "streams": [{"stream": "t", "namespace": "public", "sync_mode": "",
                "state": {"chunks": [], "updated_at": "2024-01-01T00:00:00.000000000Z"}}]}),
    );
    job.resume().succeeded();
    assert_eq!(count(&job.files("public.t")), 10);
    database.sql("INSERT INTO t VALUES (11, '2024-02-01Z')");
    job.resume().succeeded();
    assert_eq!(count(&job.files("public.t")), 11);
    // OLake has gone on with the file in between.
    database.sql("INSERT INTO t VALUES (12, '2024-03-01Z'), (13, '2024-04-01Z')");
    job.edit("state.json", |state| state["streams"][0]["state"]["updated_at"] = json!("2024-03-01T00:00:00.000000000Z"));
    job.resume().succeeded();
    assert_eq!(count(&job.files("public.t")), 12);
}

/// Much that is new is read in parallel: by ranges of the cursor with an index on it, by pages without.
#[test]
fn a_large_increment_is_cut_into_chunks() {
    let database = Server::shared().database("large");
    database.sql(
        "CREATE TABLE indexed (id bigint PRIMARY KEY, x text) PARTITION BY RANGE (id);
         CREATE TABLE indexed_1 PARTITION OF indexed FOR VALUES FROM (0) TO (100000);
         CREATE TABLE indexed_2 PARTITION OF indexed FOR VALUES FROM (100000) TO (1000000);
         CREATE TABLE scanned (id bigint, x text);
         INSERT INTO indexed SELECT i, md5(i::text) FROM generate_series(1, 90000) i; INSERT INTO scanned SELECT * FROM indexed; ANALYZE",
    );
    let job = job(&database, &[("public.indexed", "id"), ("public.scanned", "id")]);
    job.edit("source.json", |file| {
        file["backfill"] = json!({"chunk_rows": 10_000});
        // So that a small table is read through its index at all.
        file["jdbc_url_params"] = json!({"enable_seqscan": "off"});
    });
    job.sync().succeeded();
    database.sql("INSERT INTO indexed SELECT i, md5(i::text) FROM generate_series(90001, 160000) i; INSERT INTO scanned SELECT * FROM indexed WHERE id > 90000; ANALYZE");
    let outcome = job.run(&[&Job::RESUME[..], &["--dry-run"]].concat()).succeeded();
    for plan in outcome.messages() {
        let chunks: Vec<_> =
            plan["chunks"].as_array().expect("chunks").iter().map(|c| c["query"].as_str().unwrap_or_default().to_owned()).collect();
        assert!(chunks.len() >= 5, "{plan:#}");
        assert_eq!(plan["rows"], "append");
        assert_eq!(chunks[1].contains("ctid"), plan["stream"] == "public.scanned", "{chunks:#?}");
    }
    job.resume().succeeded();
    for stream in ["public.indexed", "public.scanned"] {
        assert_eq!(assert_same(&job, &database, stream).rows, 160_000);
    }
}

/// Killed at any moment, also between the destination's commit and the state's, with a table that grows all the time.
#[test]
fn killed_again_and_again() {
    let database = Server::shared().database("killed");
    database.sql("CREATE TABLE t (id bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), x text); INSERT INTO t (x) SELECT md5(i::text) FROM generate_series(1, 20000) i");
    let job = job(&database, &[("public.t", "at")]);
    job.sync().succeeded();
    let began = std::time::Instant::now();
    database.sql("INSERT INTO t (x) SELECT md5(i::text) FROM generate_series(1, 20000) i");
    job.resume().succeeded();
    let whole = began.elapsed();
    for round in 0..12_u32 {
        let mut open = database.session();
        open.sql("BEGIN; INSERT INTO t (x) VALUES ('open')");
        database.sql("INSERT INTO t (x) SELECT md5(i::text) FROM generate_series(1, 20000) i");
        let run = job.start(&Job::RESUME);
        std::thread::sleep(whole * (round + 1) / 13);
        run.kill();
        open.sql("COMMIT");
    }
    job.resume().succeeded();
    assert_same(&job, &database, "public.t");
    job.resume().succeeded();
    assert_same(&job, &database, "public.t");
    job.assert_no_leftovers();
}

/// The process dies after the destination's commit and before the state says so: the state is put back to what it was.
#[test]
fn the_token_wins_over_the_state() {
    let database = Server::shared().database("token");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)");
    let job = job(&database, &[("public.t", "id")]);
    job.sync().succeeded();
    let old = job.read("state.json");
    database.sql("INSERT INTO t SELECT generate_series(101, 200)");
    job.resume().succeeded();
    assert_same(&job, &database, "public.t");
    let before = job.files("public.t");
    // An old state with a new destination would add the rows once more; it is refused, and nothing changes.
    job.write("state.json", &old);
    job.resume().failed(exit::STATE, &["public.t", "clear-destination"]);
    assert_eq!(job.files("public.t"), before);
    // So is a state whose destination has been cleared.
    let lake = job.lake();
    std::fs::remove_dir_all(&lake).expect("remove the lake");
    job.resume().failed(exit::STATE, &["public.t", "no commit"]);
    // From the start it goes.
    job.sync().succeeded();
    assert_same(&job, &database, "public.t");
}

#[test]
fn views_and_changes_of_mode() {
    let database = Server::shared().database("modes");
    database
        .sql("CREATE TABLE t (id int, at int); INSERT INTO t SELECT i, i FROM generate_series(1, 100) i; CREATE VIEW v AS SELECT * FROM t");
    let view = job(&database, &[("public.t", "at")]);
    view.edit("streams.json", |file| {
        file["selected_streams"]["public"] =
            json!([{"stream_name": "v", "partition_regex": "", "normalization": true, "use_source_column_names": true}]);
        let stream = file["streams"].as_array_mut().expect("a list").iter_mut().find(|e| e["stream"]["name"] == "v").expect("the view");
        stream["stream"]["sync_mode"] = json!("incremental");
        stream["stream"]["cursor_field"] = json!("at");
    });
    let outcome = view.sync().succeeded();
    assert!(outcome.stderr.contains("committed late"), "{}", outcome.stderr);
    database.sql("INSERT INTO t SELECT i, i FROM generate_series(101, 150) i");
    view.resume().succeeded();
    assert_eq!(assert_same(&view, &database, "public.v").rows, 150);

    // A full refresh in between makes the old cursor worthless.
    let job = job(&database, &[("public.t", "at")]);
    job.sync().succeeded();
    let mode = |mode: &str| job.edit("streams.json", |file| set_mode(file, mode));
    mode("full_refresh");
    database.sql("INSERT INTO t SELECT i, i FROM generate_series(151, 200) i");
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 200);
    mode("incremental");
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 200);
    database.sql("INSERT INTO t VALUES (201, 201)");
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 201);
    // Another cursor has no past.
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("a list") {
            entry["stream"]["cursor_field"] = json!("id");
        }
    });
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 201);
}

fn set_mode(file: &mut Value, mode: &str) {
    for entry in file["streams"].as_array_mut().expect("a list") {
        entry["stream"]["sync_mode"] = json!(mode);
    }
}

#[test]
fn a_cursor_that_cannot_be_one_is_refused() {
    let database = Server::shared().database("nocursor");
    database.sql("CREATE TABLE t (id int, j json)");
    for (cursor, code, words) in [
        ("", exit::CONFIG, vec!["cursor_field"]),
        ("id:j:id", exit::CONFIG, vec!["cursor_field"]),
        ("id:", exit::CONFIG, vec!["cursor_field"]),
        ("nope", exit::CONFIG, vec!["nope"]),
        ("j", exit::CONFIG, vec!["cursor_field", "json"]),
    ] {
        job(&database, &[("public.t", cursor)]).sync().failed(code, &words);
    }
}

/// The values of one cursor say nothing about another: the table is read again, and nothing is there twice.
#[test]
fn another_cursor_begins_anew() {
    let database = Server::shared().database("othercursor");
    database.sql("CREATE TABLE t (a int, b int); INSERT INTO t SELECT i, i * 10 FROM generate_series(1, 5) i");
    let job = job(&database, &[("public.t", "a")]);
    job.sync().succeeded();
    job.edit("streams.json", |file| file["streams"][0]["stream"]["cursor_field"] = json!("b"));
    job.resume().succeeded();
    assert_eq!(count(&job.files("public.t")), 5);
    assert_eq!(job.read("state.json")["lakeward"]["cursors"]["public.t"]["values"], json!(["50"]));
}

/// OLake's columns tell rows of the first run from those that came later.
#[test]
fn olakes_columns_say_how_a_row_came() {
    let database = Server::shared().database("optypes");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let job = job(&database, &[("public.t", "id")]);
    job.edit("streams.json", |file| {
        let properties = &mut file["streams"][0]["stream"]["type_schema"]["properties"];
        properties["_op_type"] = json!({"type": ["null", "string"], "destination_column_name": "_op_type", "olake_column": true});
        properties["_cdc_timestamp"] =
            json!({"type": ["null", "timestamp_micro"], "destination_column_name": "_cdc_timestamp", "olake_column": true});
        if let Some(columns) = file["selected_streams"]["public"][0]["selected_columns"]["columns"].as_array_mut() {
            columns.extend([json!("_op_type"), json!("_cdc_timestamp")]);
        }
    });
    job.sync().succeeded();
    database.sql("INSERT INTO t VALUES (2)");
    std::thread::sleep(Duration::from_millis(10));
    job.resume().succeeded();
    let rows = duckdb(&job.files("public.t"), "SELECT id, _op_type, _cdc_timestamp IS NULL FROM $files ORDER BY id");
    // Only rows that a stream with change capture was begun with have the start of 1970 here.
    assert_eq!(rows, json!([[1, "r", true], [2, "u", true]]));
}

/// Random transactions (savepoints, rollbacks, long ones, times taken long before the commit) beside several runs.
#[test]
fn random_transactions_lose_nothing() {
    let database = Server::shared().database("random");
    database.sql("CREATE TABLE t (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), n int); CREATE INDEX ON t (at); CREATE TABLE other (id int)");
    let seed = Dice::seed();
    eprintln!("LAKEWARD_SEED={seed}");
    let mut dice = Dice::new(seed);
    let job = job(&database, &[("public.t", "at")]);
    let mut sessions: Vec<_> = (0..5).map(|_| (database.session(), false)).collect();
    for run in 0..14 {
        for _ in 0..dice.below(40) {
            let (session, open) = &mut sessions[dice.below(5)];
            match (dice.below(10), *open) {
                (0..=4, false) => drop(session.sql("INSERT INTO t (n) SELECT 0 FROM generate_series(1, 3)")),
                (5, false) => drop(session.sql("BEGIN; INSERT INTO other VALUES (1); COMMIT")),
                (_, false) => {
                    session.sql("BEGIN; SELECT now()");
                    *open = true;
                }
                (0..=2, true) => drop(session.sql("INSERT INTO t (n) VALUES (1)")),
                (3, true) => drop(session.sql("SAVEPOINT s; INSERT INTO t (n) VALUES (2); RELEASE s")),
                (4, true) => drop(session.sql("SAVEPOINT s; INSERT INTO t (n) VALUES (3); ROLLBACK TO s; RELEASE s")),
                (5, true) => drop(session.sql("SAVEPOINT s; INSERT INTO t (n, at) SELECT 4, max(at) FROM t HAVING max(at) IS NOT NULL")),
                (6, true) => {
                    session.sql("ROLLBACK");
                    *open = false;
                }
                (_, true) => {
                    session.sql("COMMIT");
                    *open = false;
                }
            }
        }
        if run == 0 { job.sync() } else { job.resume() }.succeeded();
        assert_same(&job, &database, "public.t");
    }
}

/// `lag_seconds` bounds how far back late rows are looked for; rows of a view are read again that far.
#[test]
fn the_look_back_is_bounded() {
    let database = Server::shared().database("lag");
    database.sql(
        "CREATE TABLE t (id int, at timestamptz); INSERT INTO t SELECT i, '2024-01-01Z'::timestamptz + i * interval '1 s' FROM generate_series(1, 100) i;
         CREATE VIEW v AS SELECT * FROM t",
    );
    let job = job(&database, &[("public.t", "at")]);
    job.edit("source.json", |file| file["incremental"] = json!({"lag_seconds": 10}));
    job.sync().succeeded();
    // Later than the run, and older than the greatest value: by 5 seconds, and by 50.
    database.sql("INSERT INTO t VALUES (200, '2024-01-01 00:01:35Z'), (201, '2024-01-01 00:00:50Z')");
    job.resume().succeeded();
    assert_eq!(count(&job.files("public.t")), 101);
    job.resume().succeeded();
    assert_eq!(count(&job.files("public.t")), 101);
    let found = duckdb(&job.files("public.t"), "SELECT count(DISTINCT id), max(id) FROM $files");
    assert_eq!(found, json!([[101, 200]]));
}

/// A new column is added; one whose type has changed is refused before anything is written.
#[test]
fn columns_may_come_but_not_change() {
    let database = Server::shared().database("evolve");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, x int); INSERT INTO t VALUES (1, 1)");
    let job = job(&database, &[("public.t", "id")]);
    job.sync().succeeded();
    database.sql("ALTER TABLE t ADD COLUMN y text; INSERT INTO t VALUES (2, 2, 'two')");
    job.resume().succeeded();
    let rows = duckdb(&job.files("public.t"), "SELECT id, x, y FROM read_parquet($1, union_by_name = true) ORDER BY id");
    assert_eq!(rows, json!([[1, 1, null], [2, 2, "two"]]));
    job.edit("streams.json", |file| file["selected_streams"]["public"][0]["column_types"] = json!({"x": "string"}));
    database.sql("INSERT INTO t VALUES (3, 3, 'three')");
    let before = job.files("public.t");
    job.resume().failed(exit::SCHEMA, &["\"x\"", "Int32", "Utf8", "clear-destination"]);
    assert_eq!(job.files("public.t"), before);
}
