//! Iceberg tables on the embedded catalog, as DuckDB and PyIceberg read them.

use super::incremental::job as incremental_job;
use super::types::{CUSTOM, EXACT, create};
use crate::support::dice::Dice;
use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same_iceberg, python};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// The job, writing to a warehouse in its lake; `keys` are further keys of the writer.
fn to_iceberg(job: &Job, keys: &Value) {
    let mut writer = json!({"catalog_type": "filesystem", "iceberg_s3_path": job.lake()});
    for (key, value) in keys.as_object().expect("an object") {
        writer[key] = value.clone();
    }
    job.write("destination.json", &json!({"type": "ICEBERG", "writer": writer}));
}

/// The newest metadata of a table.
fn metadata(job: &Job, stream: &str) -> Value {
    let folder = job.table_folder(&job.lake(), stream).join("metadata");
    let version = std::fs::read_to_string(folder.join("version-hint.text")).expect("a hint");
    serde_json::from_slice(&std::fs::read(folder.join(format!("v{version}.metadata.json"))).expect("metadata")).expect("JSON")
}

/// What a snapshot's summary says under each of these keys.
fn summary(snapshot: &Value, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| snapshot["summary"][key].as_str().unwrap_or("-").to_owned()).collect()
}

/// Rows of a query about each snapshot of a table; `$snapshot` stands for the table then.
fn at_every_snapshot(folder: &Path, query: &str) -> Value {
    let script = "
import duckdb, glob, importlib, json, os, sys
job = json.load(sys.stdin)
for name in ('avro', 'httpfs', 'iceberg'):
    module = os.path.dirname(importlib.import_module(f'duckdb_extension_{name}').__file__)
    duckdb.sql(f\"LOAD '{glob.glob(module + '/extensions/*/*.duckdb_extension')[0]}'\")
duckdb.sql('SET enable_progress_bar = false')
ids = [row[0] for row in duckdb.sql('SELECT snapshot_id FROM iceberg_snapshots($1) ORDER BY sequence_number', params=[job['folder']]).fetchall()]
ask = lambda i: duckdb.sql(job['query'].replace('$snapshot', f\"iceberg_scan('{job['folder']}', snapshot_from_id = {i}::UBIGINT)\")).fetchall()
print(json.dumps([ask(i) for i in ids], default=str))";
    python(script, &json!({"folder": folder, "query": query}))
}

#[test]
fn every_type_arrives_in_an_iceberg_table() {
    let database = Server::shared().database("icetypes");
    database.sql(&format!("{CUSTOM} {}", create(EXACT)));
    let job = Job::new(&database);
    job.discover();
    to_iceberg(&job, &json!({}));
    job.sync().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    // Again: one commit takes the place of everything.
    database.sql("DELETE FROM t WHERE id = 0");
    job.sync().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    let metadata = metadata(&job, "public.t");
    let snapshots = metadata["snapshots"].as_array().expect("snapshots");
    assert_eq!(snapshots.len(), 2);
    let operation =
        |number: i64| &snapshots.iter().find(|snapshot| snapshot["sequence-number"] == number).expect("a snapshot")["summary"]["operation"];
    assert_eq!((operation(1), operation(2)), (&json!("append"), &json!("overwrite")));
    assert_eq!(metadata["schemas"][0]["identifier-field-ids"], json!([1]));
}

/// A table that rows of move between partitions, with rows changed, added, and changed back, under each kind of delete.
fn upserts(name: &str, keys: &Value) {
    let database = Server::shared().database(name);
    database.sql(
        "CREATE TABLE t (id int, part text, v text, updated int, PRIMARY KEY (part, id)); INSERT INTO t SELECT i, 'p' || i % 3, 'v' || i, i FROM generate_series(1, 3000) i;
         CREATE TABLE moving (id bigint PRIMARY KEY, city text, at timestamptz, updated int);
         INSERT INTO moving SELECT i, 'c' || i % 4, '1969-12-30Z'::timestamptz + i * interval '1 hour', i FROM generate_series(1, 200) i",
    );
    let job = incremental_job(&database, &[("public.t", "updated"), ("public.moving", "updated")]);
    job.edit("streams.json", |file| {
        for stream in file["selected_streams"]["public"].as_array_mut().expect("a list") {
            if stream["stream_name"] == "moving" {
                stream["partition_regex"] = json!("/{city, identity}/{at, day}/{id, bucket[4]}");
            }
        }
    });
    to_iceberg(&job, keys);
    job.sync().succeeded();
    for round in 1..=4 {
        database.sql(&format!(
            "UPDATE t SET v = v || '.{round}', updated = 100000 * {round} + id WHERE id % 10 = {round}; INSERT INTO t SELECT i, 'new', 'n', 100000 * {round} + i FROM generate_series(1, 5) i ON CONFLICT (part, id) DO UPDATE SET v = t.v || '+', updated = excluded.updated;
             UPDATE moving SET city = 'c' || (id + {round}) % 4, at = at + interval '3 days', updated = 100000 * {round} + id WHERE id % 3 = {round} % 3"
        ));
        job.resume().succeeded();
        assert_same_iceberg(&job, &database, "public.t");
        assert_same_iceberg(&job, &database, "public.moving");
    }
    // Nothing new is no reason for a snapshot, nor for anything that the next run would have to look at.
    for _ in 0..2 {
        job.resume().succeeded();
        assert!(!job.table_folder(&job.lake(), "public.t").join("_lakeward").exists(), "a marker is left");
    }
    assert_eq!(metadata(&job, "public.t")["snapshots"].as_array().map(Vec::len), Some(5));
}

#[test]
fn changed_rows_take_the_place_of_older_ones_by_key() {
    upserts("iceequality", &json!({"delete_files": "equality"}));
}

#[test]
fn changed_rows_take_the_place_of_older_ones_by_position() {
    upserts("iceposition", &json!({"delete_files": "position"}));
}

#[test]
fn changed_rows_take_the_place_of_older_ones_by_deletion_vector() {
    let folder = tempfile::tempdir().expect("folder");
    upserts("icevector", &json!({"delete_files": "deletion_vector", "index_path": folder.path()}));
    assert_eq!(std::fs::read_dir(folder.path()).expect("the indexes").count(), 2, "each table has its index where it was wanted");
}

/// A table that is made anew in the source is another one, and takes the place of what is there; the user is told.
#[test]
fn a_table_of_another_table_s_rows_is_replaced_and_said() {
    let database = Server::shared().database("iceanew");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 9)");
    let job = Job::new(&database);
    job.discover();
    to_iceberg(&job, &json!({}));
    assert!(!job.sync().succeeded().stderr.contains("another table"));
    database.sql("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 3)");
    let told = job.sync().succeeded().stderr;
    assert!(told.contains("was written from another table before"), "{told}");
    assert_same_iceberg(&job, &database, "public.t");
}

#[test]
fn append_mode_keeps_every_version() {
    let database = Server::shared().database("iceappend");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, updated int); INSERT INTO t SELECT i, i FROM generate_series(1, 100) i");
    let job = incremental_job(&database, &[("public.t", "updated")]);
    job.edit("streams.json", |file| file["selected_streams"]["public"][0]["append_mode"] = json!(true));
    to_iceberg(&job, &json!({}));
    job.sync().succeeded();
    database.sql("UPDATE t SET updated = 1000 WHERE id <= 10");
    job.resume().succeeded();
    let rows = at_every_snapshot(&job.table_folder(&job.lake(), "public.t"), "SELECT count(*), count(DISTINCT id) FROM $snapshot");
    assert_eq!(rows, json!([[[100, 100]], [[110, 100]]]));
}

/// Columns come, go, are widened and renamed, with rows read before and after each; each snapshot is what it was.
#[test]
fn a_table_evolves_with_its_source() {
    let database = Server::shared().database("iceevolve");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, a int, b real, n numeric(6,2), gone text, updated int); INSERT INTO t SELECT i, i, i / 4.0, i / 100.0, 'g' || i, i FROM generate_series(1, 20) i");
    let changes = [
        "ALTER TABLE t ADD c text",
        "ALTER TABLE t ALTER a TYPE bigint",
        "ALTER TABLE t ALTER b TYPE float8",
        "ALTER TABLE t ALTER n TYPE numeric(20,2)",
        "ALTER TABLE t RENAME c TO label",
        "ALTER TABLE t DROP gone",
        "ALTER TABLE t ADD gone int",
        "ALTER TABLE t ADD d date",
        "ALTER TABLE t ADD tags text[]",
        "ALTER TABLE t RENAME a TO swap; ALTER TABLE t RENAME label TO a; ALTER TABLE t RENAME swap TO label",
        "ALTER TABLE t ALTER n TYPE numeric(38,2)",
        "ALTER TABLE t ADD u uuid",
        "ALTER TABLE t DROP tags",
        "ALTER TABLE t ADD j jsonb",
        "ALTER TABLE t RENAME d TO \"the day\"",
        "COMMENT ON COLUMN t.id IS 'who'",
        "ALTER TABLE t ADD x1 int",
        "ALTER TABLE t ALTER x1 TYPE bigint",
        "ALTER TABLE t DROP x1",
        "ALTER TABLE t ADD x1 boolean",
    ];
    let prepare = || {
        let job = incremental_job(&database, &[("public.t", "updated")]);
        to_iceberg(&job, &json!({}));
        job
    };
    let job = prepare();
    job.sync().succeeded();
    let count = |round: usize| 20 + round;
    for (round, change) in changes.iter().enumerate() {
        database.sql(&format!(
            "{change}; INSERT INTO t (id, updated) VALUES ({0}, 1000 * {1} + 500); UPDATE t SET updated = 1000 * {1} + id WHERE id <= 20",
            100 + round,
            1 + round
        ));
        // The catalog file is written again; the state and the table go on.
        let (streams, state) = (job.read("streams.json"), job.read("state.json"));
        job.run(&["discover", "--config", "source.json", "--streams", "streams.json"]).succeeded();
        job.edit("streams.json", |file| {
            for entry in file["streams"].as_array_mut().expect("a list") {
                entry["stream"]["sync_mode"] = json!("incremental");
                entry["stream"]["cursor_field"] = json!("updated");
            }
            file["selected_streams"]["public"][0]["partition_regex"] = streams["selected_streams"]["public"][0]["partition_regex"].clone();
        });
        job.write("state.json", &state);
        job.resume().succeeded();
        assert_same_iceberg(&job, &database, "public.t");
    }
    let rows = at_every_snapshot(&job.table_folder(&job.lake(), "public.t"), "SELECT count(*), count(DISTINCT id) FROM $snapshot");
    let expected: Vec<Value> = (0..=changes.len()).map(|round| json!([[count(round), count(round)]])).collect();
    assert_eq!(rows, json!(expected));
    // Field ids are never given twice, and what the source says of a column is there.
    let metadata = metadata(&job, "public.t");
    let fields = metadata["schemas"]
        .as_array()
        .expect("schemas")
        .iter()
        .find(|schema| schema["schema-id"] == metadata["current-schema-id"])
        .expect("the current one")["fields"]
        .as_array()
        .expect("fields")
        .clone();
    let field = |name: &str| fields.iter().find(|field| field["name"] == name).unwrap_or_else(|| panic!("no {name} in {fields:?}"));
    assert_eq!((&field("id")["id"], &field("id")["doc"], &field("label")["id"]), (&json!(1), &json!("who"), &json!(2)));
    assert!(fields.iter().any(|field| field["name"].as_str().is_some_and(|name| name.starts_with("gone_dropped_"))), "{fields:?}");
}

#[test]
fn a_table_that_cannot_take_the_columns_is_refused_untouched() {
    let database = Server::shared().database("icerefused");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'x')");
    let job = Job::new(&database);
    job.discover();
    to_iceberg(&job, &json!({}));
    job.sync().succeeded();
    let before = metadata(&job, "public.t");
    database.sql("ALTER TABLE t ALTER a TYPE bytea USING a::bytea");
    job.discover();
    to_iceberg(&job, &json!({}));
    job.sync().failed(exit::SCHEMA, &["\"a\"", "string", "binary"]);
    assert_eq!(metadata(&job, "public.t"), before);
    for (keys, words) in [
        (json!({"format_version": 1}), ["format_version", "2, 3"]),
        (json!({"format_version": 2, "delete_files": "deletion_vector"}), ["delete_files", "deletion_vector"]),
        (json!({"table_properties": {"write.target-file-size-bytes": 12}}), ["table_properties", "text"]),
    ] {
        to_iceberg(&job, &keys);
        job.run(&["check", "--destination", "destination.json"]).failed(exit::CONFIG, &words);
    }
}

/// Killed at random moments, an incremental stream and a full refresh are exact after the next run, and nothing is left of the dead one.
#[test]
fn killed_runs_leave_iceberg_tables_exact() {
    let database = Server::shared().database("icekills");
    database.sql(
        "CREATE TABLE whole (id int PRIMARY KEY, v text); INSERT INTO whole SELECT i, md5(i::text) FROM generate_series(1, 40000) i;
         CREATE TABLE steady (id int PRIMARY KEY, v text, updated int); INSERT INTO steady SELECT i, md5(i::text), i FROM generate_series(1, 20000) i",
    );
    let job = Job::new(&database);
    job.discover();
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("a list").iter_mut().filter(|entry| entry["stream"]["name"] == "steady") {
            entry["stream"]["sync_mode"] = json!("incremental");
            entry["stream"]["cursor_field"] = json!("updated");
        }
    });
    job.edit("source.json", |source| source["max_threads"] = json!(3));
    to_iceberg(&job, &json!({}));
    let mut dice = Dice::new(Dice::seed());
    let begun = std::time::Instant::now();
    job.sync().succeeded();
    let whole = begun.elapsed();
    for round in 0..8 {
        database.sql(&format!("UPDATE steady SET v = v || '{round}', updated = 100000 * (1 + {round}) + id WHERE id % 7 = {round} % 7; UPDATE whole SET v = v || '{round}' WHERE id % 5 = 0"));
        for _ in 0..2 {
            let running = job.start(&Job::RESUME);
            std::thread::sleep(Duration::from_micros(dice.below(whole.as_micros() as usize + 1) as u64));
            running.kill();
        }
        job.resume().succeeded();
        assert_same_iceberg(&job, &database, "public.steady");
        assert_same_iceberg(&job, &database, "public.whole");
    }
    assert_no_leftovers(&job, "public.whole");
    assert_no_leftovers(&job, "public.steady");
}

/// Every data file below the table's folder is named by a snapshot, and no marker of a run is left.
fn assert_no_leftovers(job: &Job, stream: &str) {
    let folder = job.table_folder(&job.lake(), stream);
    let script = "
import json, os, sys
from pyiceberg.table import StaticTable
folder = json.load(sys.stdin)
hint = open(folder + '/metadata/version-hint.text').read().strip()
table = StaticTable.from_metadata(f'file://{folder}/metadata/v{hint}.metadata.json')
named = {path.removeprefix('file://') for path in table.inspect.all_files()['file_path'].to_pylist()}
there = {os.path.join(at, name) for at, _, names in os.walk(folder) for name in names if not at.endswith('/metadata')}
print(json.dumps([sorted(there - named), sorted(named - there)]))";
    assert_eq!(python(script, &json!(folder)), json!([[], []]), "{stream}: files that no snapshot names, and named files that are missing");
}

#[test]
fn streams_of_one_json_column_have_their_partition_columns() {
    let database: Database = Server::shared().database("icejson");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, city text, v numeric); INSERT INTO t SELECT i, 'c' || i % 2, i / 3.0 FROM generate_series(1, 50) i");
    let job = Job::new(&database);
    job.discover();
    job.edit("streams.json", |file| {
        file["selected_streams"]["public"][0]["normalization"] = json!(false);
        file["selected_streams"]["public"][0]["partition_regex"] = json!("/{city, identity}");
    });
    to_iceberg(&job, &json!({}));
    job.sync().succeeded();
    let rows = at_every_snapshot(
        &job.table_folder(&job.lake(), "public.t"),
        "SELECT count(*), count(DISTINCT city), count(DISTINCT data->>'id') FROM $snapshot",
    );
    assert_eq!(rows, json!([[[50, 2, 50]]]));
    let snapshot = metadata(&job, "public.t")["snapshots"][0].clone();
    assert_eq!(summary(&snapshot, &["added-records", "total-records", "added-data-files"]), ["50", "50", "2"]);
}

/// Of every file, whether its rows are in the order `$order`, and the sort order that the manifest gives it.
fn orders_of_files(folder: &Path) -> Value {
    let script = "
import json, sys
import duckdb
from pyiceberg.table import StaticTable
folder = json.load(sys.stdin)
hint = open(folder + '/metadata/version-hint.text').read().strip()
table = StaticTable.from_metadata(f'file://{folder}/metadata/v{hint}.metadata.json')
files = [task.file for task in table.scan().plan_files()]
def rows(file):
    return duckdb.sql(f\"SELECT city, id FROM read_parquet('{file.file_path.removeprefix('file://')}', file_row_number = true) ORDER BY file_row_number\").fetchall()
def is_sorted(rows):
    return rows == sorted(rows, key=lambda row: (row[0] is None, [-ord(c) for c in row[0] or ''], row[1]))
print(json.dumps([[is_sorted(rows(file)), file.sort_order_id] for file in files]))";
    python(script, &json!(folder))
}

#[test]
fn rows_are_sorted_as_the_stream_says() {
    let database = Server::shared().database("icesorted");
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, \"City\" text, updated int, filler text);
        INSERT INTO t SELECT i, nullif('c' || hashint4(i) % 9, 'c0'), i, repeat(md5(i::text), 4) FROM generate_series(1, 30000) i ORDER BY hashint4(i)",
    );
    let job = incremental_job(&database, &[("public.t", "updated")]);
    job.edit("streams.json", |file| file["selected_streams"]["public"][0]["sort_order"] = json!("\"City\" desc nulls last, id"));
    to_iceberg(&job, &json!({"delete_files": "position"}));
    job.sync().succeeded();
    database.sql("UPDATE t SET updated = 100000 + id WHERE id % 7 = 0");
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    let folder = job.table_folder(&job.lake(), "public.t");
    let files = orders_of_files(&folder);
    assert!(files.as_array().is_some_and(|files| files.len() >= 2 && files.iter().all(|file| *file == json!([true, 1]))), "{files}");
    let order = metadata(&job, "public.t");
    assert_eq!((&order["default-sort-order-id"], order["sort-orders"].as_array().map(Vec::len)), (&json!(1), Some(2)));
    let fields =
        order["sort-orders"].as_array().and_then(|orders| orders.iter().find(|order| order["order-id"] == 1)).expect("order 1")["fields"]
            .clone();
    assert_eq!(
        fields,
        json!([
            {"source-id": 2, "transform": "identity", "direction": "desc", "null-order": "nulls-last"},
            {"source-id": 1, "transform": "identity", "direction": "asc", "null-order": "nulls-first"},
        ])
    );
    job.edit("streams.json", |file| file["selected_streams"]["public"][0]["sort_order"] = json!("town"));
    job.resume().failed(exit::CONFIG, &["sort_order", "\"town\"", "id, City, updated, filler"]);
}

/// Each file's partition, computed anew from its rows by PyIceberg; the places where it differs.
fn partitions_that_differ(folder: &Path) -> Value {
    let script = "
import datetime, json, sys
import pyarrow.parquet as pq
from pyiceberg.table import StaticTable
from pyiceberg.utils.datetime import date_to_days, datetime_to_micros
folder = json.load(sys.stdin)
hint = open(folder + '/metadata/version-hint.text').read().strip()
table = StaticTable.from_metadata(f'file://{folder}/metadata/v{hint}.metadata.json')
spec, schema = table.spec(), table.schema()
def internal(value):
    if isinstance(value, datetime.datetime):
        return datetime_to_micros(value)
    if isinstance(value, datetime.date):
        return date_to_days(value)
    return value
wrong, rows = [], 0
for file in [task.file for task in table.scan().plan_files()]:
    for row in pq.read_table(file.file_path.removeprefix('file://'), partitioning=None).to_pylist():
        rows += 1
        for at, field in enumerate(spec.fields):
            source = schema.find_field(field.source_id)
            expected = field.transform.transform(source.field_type)(internal(row[source.name]))
            found = internal(file.partition[at])
            if expected != found:
                wrong.append([field.name, str(row[source.name]), str(expected), str(found)])
print(json.dumps({'transforms': [f'{f.name} {f.transform}' for f in spec.fields], 'rows': rows, 'wrong': wrong[:5]}))";
    python(script, &json!(folder))
}

#[test]
fn every_transform_is_what_another_library_computes() {
    let database = Server::shared().database("icetransforms");
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, small int2, big int8, txt text, num numeric(10,2), d date, at timestamptz, ts timestamp, u uuid, b bytea, flag bool);
        INSERT INTO t SELECT i, (i - 20) * 100, (i - 30)::int8 * 1000000007, nullif(repeat(chr(233 + i % 3), i % 4) || 'x', 'x'), (i - 25) * 7.13, '1969-12-20'::date + i * 200 - 4000,
            '1969-12-31 23:00Z'::timestamptz + (i - 30) * interval '57 minutes', '1970-01-01'::timestamp + (i - 30) * interval '13 days 7 hours', md5(i::text)::uuid,
            decode(md5(i::text), 'hex'), i % 2 = 0 FROM generate_series(1, 60) i;
        INSERT INTO t (id) VALUES (0)",
    );
    for (number, (regex, transforms)) in [
        ("/{small, truncate[7]}/{txt, truncate[2]}/{at, hour}/{flag, void}", &["truncate[7]", "truncate[2]", "hour", "void"][..]),
        ("/{big, bucket[5]}/{txt, bucket[3]}/{d, year}/{ts, day}/{flag, identity}", &["bucket[5]", "bucket[3]", "year", "day", "identity"]),
        ("/{num, truncate[50]}/{u, bucket[4]}/{at, month}/{d, bucket[2]}", &["truncate[50]", "bucket[4]", "month", "bucket[2]"]),
        (
            "/{num, bucket[3]}/{b, bucket[2]}/{ts, year}/{d, month}/{at, bucket[2]}",
            &["bucket[3]", "bucket[2]", "year", "month", "bucket[2]"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let job = Job::new(&database);
        job.discover();
        job.edit("streams.json", |file| file["selected_streams"]["public"][0]["partition_regex"] = json!(regex));
        to_iceberg(&job, &json!({"format_version": 2 + number % 2}));
        job.sync().succeeded();
        let found = partitions_that_differ(&job.table_folder(&job.lake(), "public.t"));
        assert_eq!((&found["rows"], &found["wrong"]), (&json!(61), &json!([])), "{regex}: {found}");
        let found: Vec<&str> = found["transforms"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        for (found, expected) in found.iter().zip(transforms) {
            assert!(found.ends_with(&format!(" {expected}")), "{found}, not {expected}");
        }
        assert_same_iceberg(&job, &database, "public.t");
    }
}

/// Names that manifests do not take as they are, and values that mean something in a path.
#[test]
fn partitions_of_any_name_and_value_are_read_back() {
    let database = Server::shared().database("iceodd");
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, \"na me\" text, \"größe\" int, na_x20me text, updated int);
        INSERT INTO t SELECT i, (ARRAY['a/b', 'c d', '100%', 'x%2Fy', 'é', 'q?z#h', 'k=v', '+', '', NULL, E'tab\\there', '..', 'a:b', '\"quo\"'])[i], i % 2, 'x', i
            FROM generate_series(1, 14) i",
    );
    let job = incremental_job(&database, &[("public.t", "updated")]);
    job.edit("streams.json", |file| {
        file["selected_streams"]["public"][0]["partition_regex"] = json!("/{na me, identity}/{größe, bucket[2]}/{na_x20me, identity}");
    });
    to_iceberg(&job, &json!({"delete_files": "position"}));
    job.sync().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    database.sql("UPDATE t SET updated = updated + 100, \"größe\" = \"größe\" + 1 WHERE id % 3 <> 0");
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
}

/// A run may have died between a commit and the hint of the newest version, by which many readers go.
#[test]
fn a_hint_that_has_stayed_behind_is_mended_by_the_next_run() {
    let database = Server::shared().database("hint");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let job = super::capture::job(&database, "hint", Some(json!({})));
    job.sync().succeeded();
    database.sql("INSERT INTO t VALUES (2)");
    job.resume().succeeded();
    let hint = job.table_folder(&job.lake(), "public.t").join("metadata/version-hint.text");
    let newest: u64 = std::fs::read_to_string(&hint).expect("a hint").trim().parse().expect("a number");
    for text in [(newest - 1).to_string(), String::new(), "x".to_owned()] {
        std::fs::write(&hint, text).expect("write the hint");
        // There is nothing to commit.
        job.resume().succeeded();
        assert_same_iceberg(&job, &database, "public.t");
    }
    std::fs::remove_file(&hint).expect("remove the hint");
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
}
