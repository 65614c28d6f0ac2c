//! Keys and flags that act, each in the one place where one sees that they do. (`tests/keys` says which test stands for which key.)

use crate::support::lakeward::{Job, exit, files_under};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same, count, duckdb, python};
use serde_json::{Value, json};
use std::path::Path;

fn table(label: &str) -> Database {
    let database = Server::shared().database(label);
    database.sql("CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 1000) i");
    database
}

/// The first chosen stream of schema `public`, with these keys as well.
fn choose(job: &Job, keys: &Value) {
    job.edit("streams.json", |file| {
        let chosen = file["selected_streams"]["public"][0].as_object_mut().expect("a stream");
        chosen.extend(keys.as_object().expect("keys").clone());
    });
}

fn names(list: &Value) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (namespace, streams) in list.as_object().expect("an object") {
        names.extend(
            streams.as_array().expect("a list").iter().map(|s| format!("{namespace}.{}", s["stream_name"].as_str().unwrap_or_default())),
        );
    }
    names.sort();
    names
}

fn listed(job: &Job) -> Vec<String> {
    let file = job.read("streams.json");
    let name = |e: &Value| {
        format!("{}.{}", e["stream"]["namespace"].as_str().unwrap_or_default(), e["stream"]["name"].as_str().unwrap_or_default())
    };
    let mut names: Vec<String> = file["streams"].as_array().expect("a list").iter().map(name).collect();
    names.sort();
    names
}

/// `schemas`, `include_tables`, `exclude_tables`, `include_views`, `include_materialized_views`, `include_foreign_tables`,
/// `collapse_partitions`, `incremental_tables`.
#[test]
fn discover_looks_at_what_the_source_says() {
    let database = Server::shared().database("scope");
    database.sql(
        "CREATE TABLE a (id int); CREATE TABLE b (id int); CREATE SCHEMA crm; CREATE TABLE crm.leads (id int); CREATE VIEW v AS SELECT 1 AS id;
         CREATE MATERIALIZED VIEW m AS SELECT 1 AS id; CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER far FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE f (id int) SERVER far; CREATE TABLE parted (id int) PARTITION BY RANGE (id);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (9)",
    );
    let all = ["crm.leads", "public.a", "public.b", "public.f", "public.m", "public.parted", "public.parted_1", "public.v"];
    let check = |keys: Value, left_out: &[&str]| {
        let job = Job::new(&database);
        job.edit("source.json", |source| source.as_object_mut().expect("an object").extend(keys.as_object().expect("keys").clone()));
        job.run(&["discover", "--config", "source.json"]).succeeded();
        let expected: Vec<&str> = all.into_iter().filter(|name| !left_out.contains(name)).collect();
        assert_eq!(listed(&job), expected, "{keys}");
        job
    };
    let job = check(json!({}), &[]);
    let selected = |job: &Job| names(&job.read("streams.json")["selected_streams"]);
    assert!(!selected(&job).contains(&"public.v".to_owned()), "a view is listed and not chosen");
    check(json!({"schemas": ["crm"]}), &all[1..]);
    check(json!({"include_tables": ["public.a", "crm.*"]}), &all[2..]);
    check(json!({"exclude_tables": ["public.a", "crm.*"]}), &["public.a", "crm.leads"]);
    check(json!({"include_views": false}), &["public.v"]);
    assert!(selected(&check(json!({"include_views": true}), &[])).contains(&"public.v".to_owned()));
    check(json!({"include_materialized_views": false}), &["public.m"]);
    check(json!({"include_foreign_tables": false}), &["public.f"]);
    check(json!({"collapse_partitions": true}), &["public.parted_1"]);

    let job = check(json!({"incremental_tables": [{"table": "public.b", "cursor_field": "id", "since": "7"}]}), &[]);
    let stream = job.stream("public.b");
    assert_eq!((&stream["sync_mode"], &stream["cursor_field"]), (&json!("incremental"), &json!("id")));
    let chosen = job.read("streams.json")["selected_streams"]["public"][1].clone();
    assert_eq!(chosen["filter_config"]["conditions"], json!([{"column": "id", "operator": ">", "value": "7"}]), "{chosen}");
}

/// What a session that reads says of itself: `application_name`, `jdbc_url_params`, `statement_timeout_s`, `lock_timeout_s`.
#[test]
fn sessions_that_read_have_the_settings_of_the_source() {
    let database = Server::shared().database("settings");
    database.sql(
        "CREATE VIEW v AS SELECT name, current_setting(name) AS value
         FROM unnest(ARRAY['application_name', 'work_mem', 'statement_timeout', 'lock_timeout', 'geqo_seed']) name",
    );
    let job = Job::new(&database);
    job.edit("source.json", |source| {
        let keys = json!({"include_views": true, "application_name": "nightly", "statement_timeout_s": 77, "lock_timeout_s": "3m",
                          "jdbc_url_params": {"work_mem": "7MB", "geqo_seed": "0.5"}});
        source.as_object_mut().expect("an object").extend(keys.as_object().expect("keys").clone());
    });
    job.discover();
    job.sync().succeeded();
    let rows = duckdb(&job.files("public.v"), "SELECT name, value FROM $files ORDER BY name");
    let expected = [
        ["application_name", "nightly"],
        ["geqo_seed", "0.5"],
        ["lock_timeout", "3min"],
        ["statement_timeout", "77s"],
        ["work_mem", "7MB"],
    ];
    assert_eq!(rows, json!(expected));
}

/// `backfill.wire_format`, `backfill.chunk_rows`: seen in the queries, because the rows are the same.
#[test]
fn the_wire_format_and_the_size_of_chunks_are_those_of_the_queries() {
    let database = table("wire");
    // A chunk has some pages at least.
    database.sql("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1001, 30000) i; ANALYZE t");
    let job = Job::new(&database);
    job.discover();
    let queries = |backfill: Value| -> Vec<String> {
        job.edit("source.json", |source| source["backfill"] = backfill);
        let messages = job.run(&[&Job::SYNC[..], &["--dry-run"]].concat()).succeeded().messages();
        messages[0]["chunks"].as_array().expect("chunks").iter().map(|c| c["query"].as_str().expect("a query").to_owned()).collect()
    };
    for (format, wanted) in [("text", "(FORMAT text)"), ("binary", "(FORMAT binary)"), ("auto", "(FORMAT binary)")] {
        let queries = queries(json!({"wire_format": format}));
        assert!(queries.len() == 1 && queries[0].ends_with(wanted), "{format}: {queries:?}");
    }
    assert!(queries(json!({"chunk_rows": 5000})).len() > 2);
}

/// `partition_regex`: folders, with the default for what has no value.
#[test]
fn partitions_are_folders() {
    let database = Server::shared().database("partitions");
    database.sql("CREATE TABLE t (id int, country text, at timestamptz); INSERT INTO t VALUES (1, 'de', '2024-05-06Z'), (2, NULL, '2023-01-01Z'), (3, 'de', '2024-07-08Z')");
    let job = Job::new(&database);
    job.discover();
    choose(&job, &json!({"partition_regex": "/year={at,,YYYY}/{country,'none',}"}));
    job.sync().succeeded();
    let folder = job.table_folder(&job.lake(), "public.t");
    let mut folders: Vec<String> = Vec::new();
    for file in job.files("public.t") {
        let inside = file.strip_prefix(&folder).expect("a file of the table");
        folders.push(inside.parent().unwrap_or(Path::new("")).display().to_string());
    }
    folders.sort();
    folders.dedup();
    assert_eq!(folders, ["year=2023/none", "year=2024/de"]);
    assert_eq!(count(&job.files("public.t")), 3);
}

/// `filter_config`, and which of two filters acts: with `normalization` the structured one.
#[test]
fn structured_filters_choose_rows() {
    let job = Job::new(&table("structured"));
    job.discover();
    let conditions = json!([{"column": "id", "operator": ">", "value": 10}, {"column": "id", "operator": "<=", "value": 15}]);
    choose(&job, &json!({"filter_config": {"logical_operator": "and", "conditions": conditions}}));
    job.sync().succeeded();
    assert_eq!(duckdb(&job.files("public.t"), "SELECT count(*), min(id), max(id) FROM $files"), json!([[5, 11, 15]]));
    choose(&job, &json!({"filter_config": {"logical_operator": "or", "conditions": conditions}}));
    job.sync().succeeded();
    assert_eq!(count(&job.files("public.t")), 1000);
    choose(&job, &json!({"filter": "id = 7", "filter_config": {"logical_operator": "and", "conditions": conditions}}));
    let outcome = job.sync().succeeded();
    assert!(outcome.stderr.contains("filter_config acts, filter does not"), "{}", outcome.stderr);
    assert_eq!(count(&job.files("public.t")), 5);
}

/// `flatten`, by name and for every key.
#[test]
fn json_keys_become_columns() {
    let database = Server::shared().database("jsonkeys");
    database.sql(r#"CREATE TABLE t (id int, payload jsonb, more jsonb); INSERT INTO t VALUES (1, '{"n": 5, "kind": "a"}', '{"z": true}'), (2, NULL, '{"y": [1]}')"#);
    let job = Job::new(&database);
    job.discover();
    choose(&job, &json!({"flatten": {"payload": {"n": "integer", "kind": "string"}, "more": "*"}}));
    job.sync().succeeded();
    let rows = duckdb(&job.files("public.t"), "SELECT id, payload_n, payload_kind, more_y, more_z FROM $files ORDER BY id");
    assert_eq!(rows, json!([[1, 5, "a", null, "true"], [2, null, null, "[1]", null]]));
}

/// `destination_database`, `destination_table`, `destination_column_name`, `use_source_column_names`, `stream_name`.
#[test]
fn names_in_the_destination_are_those_of_the_catalog() {
    let database = Server::shared().database("names");
    database.sql("CREATE TABLE t (\"Id\" int, \"Long Name\" int, c int); INSERT INTO t VALUES (1, 2, 3)");
    let job = Job::new(&database);
    job.discover();
    job.edit("streams.json", |file| {
        let stream = &mut file["streams"][0]["stream"];
        stream["destination_database"] = json!("mart:eu");
        stream["destination_table"] = json!("facts");
        stream["type_schema"]["properties"]["c"]["destination_column_name"] = json!("renamed");
    });
    let columns = || {
        let files = job.files("public.t");
        assert!(files.iter().all(|file| file.starts_with(job.lake().join("mart_eu/facts"))), "{files:?}");
        duckdb(&files, "SELECT list(column_name) FROM (DESCRIBE SELECT * FROM $files)")[0][0].clone()
    };
    job.sync().succeeded();
    assert_eq!(columns(), json!(["Id", "Long Name", "renamed"]));
    choose(&job, &json!({"use_source_column_names": false}));
    job.sync().succeeded();
    assert_eq!(columns(), json!(["id", "long_name", "renamed"]));
}

/// `selected_columns.sync_new_columns`: a column that is younger than the catalog.
#[test]
fn new_columns_are_taken_or_left() {
    let database = table("younger");
    let job = Job::new(&database);
    job.discover();
    database.sql("ALTER TABLE t ADD COLUMN young int");
    for (taken, columns) in [(false, json!(["id", "x"])), (true, json!(["id", "x", "young"]))] {
        choose(&job, &json!({"selected_columns": {"columns": ["id", "x"], "sync_new_columns": taken}}));
        let outcome = job.sync().succeeded();
        assert!(outcome.stderr.contains("\"young\" is new since discover"), "{}", outcome.stderr);
        assert_eq!(duckdb(&job.files("public.t"), "SELECT list(column_name) FROM (DESCRIBE SELECT * FROM $files)")[0][0], columns);
    }
}

/// `source_defined_primary_key` and `olake_column`: OLake's id of a row is made of the key.
#[test]
fn olakes_id_follows_the_primary_key() {
    let job = Job::new(&table("olakeid"));
    job.discover();
    choose(&job, &json!({"selected_columns": {"columns": ["id", "_olake_id"], "sync_new_columns": false}}));
    let ids = |key: &str| {
        job.edit("streams.json", |file| {
            let stream = &mut file["streams"][0]["stream"];
            stream["source_defined_primary_key"] = json!([key]);
            stream["type_schema"]["properties"]["_olake_id"] = json!({"type": ["null", "string"], "olake_column": true});
        });
        job.sync().succeeded();
        let rows = duckdb(&job.files("public.t"), "SELECT count(DISTINCT _olake_id), min(_olake_id), count(id) FROM $files");
        assert_eq!((&rows[0][0], &rows[0][2]), (&json!(1000), &json!(1000)), "{rows}");
        rows[0][1].clone()
    };
    assert_ne!(ids("id"), ids("x"));
}

/// `append_mode`, and OLake's waiting for a first change: said not to act.
#[test]
fn what_does_not_act_here_is_said() {
    let job = Job::new(&table("elsewhere"));
    job.edit("source.json", |source| source["update_method"] = json!({"type": "CDC", "intial_wait_time": 10}));
    job.discover();
    choose(&job, &json!({"append_mode": true}));
    let outcome = job.sync().succeeded();
    for key in ["append_mode", "`update_method.type`", "`update_method.intial_wait_time`"] {
        assert!(outcome.stderr.contains(key), "{key}: {}", outcome.stderr);
    }
    assert_eq!(outcome.stderr.matches("has no effect").count(), 3, "{}", outcome.stderr);
}

/// `max_file_size_mb`, `compression`, `compression_level`, as pyarrow reads the files.
#[test]
fn files_are_as_the_destination_says() {
    let database = Server::shared().database("files");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t SELECT i, md5(i::text) || md5((i / 7)::text) FROM generate_series(1, 60000) i");
    let job = Job::new(&database);
    job.discover();
    let sync = |keys: Value| {
        let mut writer = json!({"local_path": job.lake()});
        writer.as_object_mut().expect("an object").extend(keys.as_object().expect("keys").clone());
        job.write_destination(writer);
        job.sync().succeeded();
        let files = job.files("public.t");
        let script = "
import json, sys, pyarrow.parquet as pq
groups = [g for f in json.load(sys.stdin) for m in [pq.ParquetFile(f).metadata] for g in [m.row_group(i) for i in range(m.num_row_groups)]]
print(json.dumps([sorted({g.column(1).compression for g in groups}), sum(g.column(1).total_compressed_size for g in groups)]))";
        let found = python(script, &json!(files));
        (files.len(), found[0].clone(), found[1].as_u64().expect("bytes"))
    };
    let (files, codec, plain) = sync(json!({"compression": "none"}));
    assert_eq!((files, codec), (1, json!(["UNCOMPRESSED"])));
    let (_, codec, snappy) = sync(json!({"compression": "snappy"}));
    assert_eq!(codec, json!(["SNAPPY"]));
    let (_, codec, fast) = sync(json!({}));
    assert_eq!(codec, json!(["ZSTD"]));
    let (_, _, small) = sync(json!({"compression_level": 19}));
    assert!(small < fast && fast < plain && snappy < plain, "{small} {fast} {snappy} {plain}");
    let (files, ..) = sync(json!({"max_file_size_mb": 0.25}));
    assert!(files > 1, "{files} files");
    assert_same(&job, &database, "public.t");
}

/// `--only`, and what is not chosen.
#[test]
fn only_some_of_the_chosen_streams() {
    let database = table("only");
    database.sql("CREATE TABLE u (id int); CREATE TABLE w (id int)");
    let job = Job::new(&database);
    job.discover();
    job.run(&[&Job::SYNC[..], &["--only", "public.u,public.w"]].concat()).succeeded();
    let synced = |stream: &str| job.table_folder(&job.lake(), stream).exists();
    assert_eq!(["public.t", "public.u", "public.w"].map(synced), [false, true, true]);
    job.run(&[&Job::SYNC[..], &["--only", "public.x"]].concat()).failed(exit::CONFIG, &["public.x", "selected"]);
}

/// `--dry-run` writes nothing at all.
#[test]
fn a_dry_run_writes_nothing() {
    let job = Job::new(&table("dry"));
    job.discover();
    let before = files_under(&job.path(""));
    let messages = job.run(&[&Job::SYNC[..], &["--dry-run"]].concat()).succeeded().messages();
    assert_eq!((messages.len(), &messages[0]["stream"]), (1, &json!("public.t")));
    assert_eq!(files_under(&job.path("")), before);
}

/// `--lenient`, `--log-level`, and the flags of OLake that do nothing here.
#[test]
fn unknown_keys_and_levels_of_the_log() {
    let job = Job::new(&table("lenient"));
    job.edit("source.json", |source| source["colour"] = json!("blue"));
    let check = ["check", "--config", "source.json"];
    job.run(&check).failed(exit::CONFIG, &["`colour`", "unknown key", "--lenient"]);
    let outcome = job.run(&[&check[..], &["--lenient"]].concat()).succeeded();
    assert!(outcome.stderr.contains("`colour`: unknown key, ignored"), "{}", outcome.stderr);
    let outcome = job.run(&[&check[..], &["--lenient", "--log-level", "error"]].concat()).succeeded();
    assert_eq!(outcome.stderr, "");
    let outcome =
        job.run(&[&check[..], &["--lenient", "--max-discover-threads", "50", "--destination-buffer-size", "7"]].concat()).succeeded();
    assert!(outcome.stderr.contains("--max-discover-threads is accepted for compatibility, has no effect"), "{}", outcome.stderr);
}

/// `--timeout`: discover waits for a lock no longer than that.
#[test]
fn discover_has_a_limit() {
    let database = table("limit");
    let mut other = database.session();
    other.sql("BEGIN; LOCK TABLE pg_catalog.pg_class IN ACCESS EXCLUSIVE MODE");
    let job = Job::new(&database);
    let started = std::time::Instant::now();
    let outcome = job.run(&["discover", "--config", "source.json", "--timeout", "2"]);
    outcome.failed(exit::SOURCE, &["longer than 2 s", "--timeout"]);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

/// `--difference`, `--destination-database-prefix`.
#[test]
fn catalogs_are_compared_and_prefixed() {
    let job = Job::new(&table("difference"));
    job.run(&["discover", "--config", "source.json", "--destination-database-prefix", "raw"]).succeeded();
    let stream = job.stream("public.t");
    assert!(stream["destination_database"].as_str().is_some_and(|name| name.starts_with("raw_difference_")), "{stream}");

    let mut second = job.read("streams.json");
    second["selected_streams"]["public"][0]["append_mode"] = json!(true);
    job.write("second.json", &second);
    let difference = |second: &str| {
        let outcome = job.run(&["discover", "--streams", "streams.json", "--difference", second]).succeeded();
        let message = outcome.messages().pop().expect("a message");
        assert_eq!(message["catalog"], job.read("difference_streams.json"));
        names(&message["catalog"]["selected_streams"])
    };
    assert_eq!(difference("second.json"), ["public.t"]);
    assert!(difference("streams.json").is_empty());
}

/// `--memory-limit`: what is too little says how much is needed; `--destination-type` chooses a schema.
#[test]
fn limits_and_schemas() {
    let job = Job::new(&table("flags"));
    job.discover();
    job.run(&[&Job::SYNC[..], &["--memory-limit", "20MiB"]].concat()).failed(exit::CONFIG, &["--memory-limit", "20 MiB", "at least"]);
    assert!(!job.path("state.json").exists());
    let source = job.run(&["spec"]).succeeded().stdout;
    let destination = job.run(&["spec", "--destination-type", "parquet"]).succeeded().stdout;
    assert!(source.contains("max_threads") && !destination.contains("max_threads") && destination.contains("local_path"));
    job.run(&["spec", "--destination-type", "paper"]).failed(exit::CONFIG, &["--destination-type", "paper", "parquet"]);
}

/// `--stream` and `--rows` of preview.
#[test]
fn a_preview_of_one_stream() {
    let database = table("peek");
    database.sql("CREATE TABLE other (id int); INSERT INTO other VALUES (1)");
    let job = Job::new(&database);
    job.discover();
    job.sync().succeeded();
    let preview = ["preview", "--destination", "destination.json", "--streams", "streams.json"];
    let lines = |more: &[&str]| job.run(&[&preview[..], more].concat()).succeeded().stdout;
    assert!(lines(&[]).contains("public.other"));
    let one = lines(&["--stream", "public.t", "--rows", "3"]);
    assert!(!one.contains("public.other") && one.matches("\n| ").count() == 4, "{one}");
}
