//! Followed streams with a filter, and with flattened json: a row out of the log is kept where the server keeps it in a copy, whatever came before; and a
//! key's value is the one that it has in a copy.

use super::capture::job;
use crate::support::lakeward::{Job, exit};
use crate::support::postgres::Database;
use crate::support::postgres::Server;
use crate::support::readback::{assert_same_iceberg_as, duckdb, python};
use serde_json::{Value, json};

/// Sets a key of a chosen stream.
fn choose(job: &Job, table: &str, key: &str, value: Value) {
    job.edit("streams.json", |file| {
        for stream in file["selected_streams"]["public"].as_array_mut().expect("a list") {
            if stream["stream_name"] == table {
                stream[key] = value.clone();
            }
        }
    });
}

fn filter(job: &Job, table: &str, text: &str) {
    choose(job, table, "filter", json!(text));
}

/// What happened after the copy, in its order.
fn log(job: &Job, stream: &str, columns: &str) -> Value {
    duckdb(
        &job.files(stream),
        &format!("SELECT {columns}, _op_type, _unchanged_columns FROM $files WHERE _op_type <> 'r' ORDER BY _cdc_order"),
    )
}

/// Rows enter, change and leave, with and without the row before in the log, by conditions on several columns and on the key.
fn rows_enter_and_leave(name: &str, keys: Value) {
    let database = Server::shared().database(name);
    database.sql(
        "CREATE TABLE plain (id int PRIMARY KEY, n numeric(10,2), state varchar(5), at timestamptz, v text);
         INSERT INTO plain SELECT i, CASE WHEN i % 10 > 0 THEN i END, CASE i % 3 WHEN 0 THEN 'on' WHEN 1 THEN 'off' END, '2024-01-01Z'::timestamptz + i * interval '1 hour', 'v' || i
             FROM generate_series(1, 400) i;
         CREATE TABLE whole (id int PRIMARY KEY, word text, f float8, big text); ALTER TABLE whole ALTER big SET STORAGE EXTERNAL; ALTER TABLE whole REPLICA IDENTITY FULL;
         INSERT INTO whole SELECT i, CASE i % 4 WHEN 0 THEN 'keep' WHEN 1 THEN 'Keep' WHEN 2 THEN 'keep ' END, CASE WHEN i % 7 = 0 THEN 'NaN'::float8 ELSE i END, repeat(md5(i::text), 200) FROM generate_series(1, 100) i;
         CREATE TABLE keyed (part int, id int, v text, PRIMARY KEY (part, id)); INSERT INTO keyed SELECT i % 5, i, 'v' FROM generate_series(1, 200) i;
         CREATE VIEW plain_wanted AS SELECT * FROM plain WHERE n >= 100 OR state = 'on';
         CREATE VIEW whole_wanted AS SELECT * FROM whole WHERE word = 'keep' OR f > 95; CREATE VIEW keyed_wanted AS SELECT * FROM keyed WHERE part < 2 AND part <> 0",
    );
    let job = job(&database, name, Some(keys));
    job.select(&["public.plain", "public.whole", "public.keyed"]);
    filter(&job, "plain", "n >= 100 or state = \"on\"");
    filter(&job, "whole", "word = \"keep\" or f > 95");
    choose(
        &job,
        "keyed",
        "filter_config",
        json!({"logical_operator": "And", "conditions": [{"column": "part", "operator": "<", "value": 2}, {"column": "part", "operator": "!=", "value": 0}]}),
    );
    let check = || {
        for table in ["plain", "whole", "keyed"] {
            let seen = assert_same_iceberg_as(&job, &database, &format!("public.{table}"), &format!("public.{table}_wanted"));
            assert!(seen.rows > 5, "{table} has {} rows", seen.rows);
        }
    };
    job.sync().succeeded();
    check();
    for round in 1..=3 {
        database.sql(&format!(
            "UPDATE plain SET n = n + 60 WHERE id % 7 = {round}; UPDATE plain SET n = 1 WHERE id % 11 = {round}; UPDATE plain SET n = NULL, state = NULL WHERE id % 13 = {round};
             UPDATE plain SET state = CASE WHEN state = 'on' THEN 'off' ELSE 'on' END WHERE id % 5 = {round}; UPDATE plain SET v = v || '.{round}' WHERE id % 3 = {round} % 3;
             UPDATE plain SET id = -id WHERE id % 17 = {round}; UPDATE plain SET id = id + 10000, n = 500 - n WHERE id % 19 = {round}; DELETE FROM plain WHERE id % 23 = {round};
             INSERT INTO plain SELECT 1000 * {round} + i, i * 10, CASE WHEN i < 5 THEN 'on' END, now(), 'new' FROM generate_series(1, 20) i;
             BEGIN; UPDATE plain SET n = 0, state = 'off'; ROLLBACK;
             UPDATE whole SET word = 'keep' WHERE id % 9 = {round}; UPDATE whole SET word = 'gone', f = 0 WHERE id % 8 = {round}; UPDATE whole SET f = CASE WHEN f = 'NaN' THEN 1 ELSE -f END WHERE id % 5 = {round};
             UPDATE whole SET id = -id WHERE id % 6 = {round}; UPDATE whole SET id = id + 1000, word = CASE WHEN word = 'keep' THEN 'x' ELSE 'keep' END WHERE id % 10 = {round}; DELETE FROM whole WHERE id % 15 = {round};
             UPDATE whole SET word = 'out' WHERE id = 40; UPDATE whole SET word = 'keep' WHERE id = 40;
             UPDATE keyed SET part = (part + 1) % 5 WHERE id % 4 = {round}; UPDATE keyed SET v = 'w{round}' WHERE id % 3 = {round} % 3; DELETE FROM keyed WHERE id % 29 = {round}"
        ));
        job.resume().succeeded();
        check();
    }
}

#[test]
fn rows_enter_and_leave_with_deletes_by_key() {
    rows_enter_and_leave("capfilterkey", json!({}));
}

#[test]
fn rows_enter_and_leave_with_deletion_vectors() {
    rows_enter_and_leave("capfilterdv", json!({"delete_files": "deletion_vector"}));
}

/// A log says of a row that leaves that it is gone, and of one that is known to enter that it is new.
#[test]
fn a_log_tells_of_wanted_rows_alone() {
    let database = Server::shared().database("capfilterlog");
    let columns = "(id int, n int, big text, PRIMARY KEY (id))";
    database.sql(&format!(
        "CREATE TABLE bare {columns}; CREATE TABLE whole {columns}; ALTER TABLE whole REPLICA IDENTITY FULL; CREATE TABLE keyed (id int, n int, big text, PRIMARY KEY (id, n));
         DO $$ DECLARE t text; BEGIN FOREACH t IN ARRAY ARRAY['bare', 'whole', 'keyed'] LOOP
             EXECUTE format('ALTER TABLE %I ALTER big SET STORAGE EXTERNAL', t);
             EXECUTE format('INSERT INTO %I SELECT i, i * 10, CASE WHEN i = 5 THEN repeat(''x'', 5000) END FROM generate_series(1, 9) i', t);
         END LOOP; END $$"
    ));
    let job = job(&database, "capfilterlog", None);
    for table in ["bare", "whole", "keyed"] {
        filter(&job, table, "n > 30");
    }
    job.sync().succeeded();
    let copied = duckdb(&job.files("public.bare"), "SELECT id FROM $files ORDER BY id");
    assert_eq!(copied, json!([[4], [5], [6], [7], [8], [9]]));
    for table in ["bare", "whole", "keyed"] {
        database.sql(&format!(
            "UPDATE {table} SET n = 11 WHERE id = 1; UPDATE {table} SET n = 50 WHERE id = 1; UPDATE {table} SET n = 12 WHERE id = 4; UPDATE {table} SET n = 51 WHERE id = 5;
             UPDATE {table} SET n = NULL WHERE id = 6 AND '{table}' <> 'keyed'; DELETE FROM {table} WHERE id = 2; DELETE FROM {table} WHERE id = 7;
             UPDATE {table} SET id = 80 WHERE id = 8; UPDATE {table} SET id = 90, n = 1 WHERE id = 9; UPDATE {table} SET id = 30, n = 60 WHERE id = 3;
             INSERT INTO {table} VALUES (100, 31, 'new'), (101, 30, 'not wanted')"
        ));
    }
    job.resume().succeeded();
    let of = |table: &str| log(&job, &format!("public.{table}"), "id, n, length(big)");
    // Of a row before nothing is known but its key.
    let bare = json!([
        [1, null, null, "d", null],
        [1, 50, null, "u", null],
        [4, null, null, "d", null],
        [5, 51, null, "u", "big"],
        [6, null, null, "d", null],
        [2, null, null, "d", null],
        [7, null, null, "d", null],
        [8, null, null, "d", null],
        [80, 80, null, "c", null],
        [9, null, null, "d", null],
        [3, null, null, "d", null],
        [30, 60, null, "c", null],
        [100, 31, 3, "c", null],
    ]);
    assert_eq!(of("bare"), bare);
    // All of it is known.
    let whole = json!([
        [1, 50, null, "c", null],
        [4, 40, null, "d", null],
        [5, 51, 5000, "u", null],
        [6, 60, null, "d", null],
        [7, 70, null, "d", null],
        [8, 80, null, "d", null],
        [80, 80, null, "c", null],
        [9, 90, null, "d", null],
        [30, 60, null, "c", null],
        [100, 31, 3, "c", null],
    ]);
    assert_eq!(of("whole"), whole);
    // All that the filter asks for.
    let keyed = json!([
        [1, 50, null, "c", null],
        [4, 40, null, "d", null],
        [5, 50, null, "d", null],
        [5, 51, null, "c", "big"],
        [7, 70, null, "d", null],
        [8, 80, null, "d", null],
        [80, 80, null, "c", null],
        [9, 90, null, "d", null],
        [30, 60, null, "c", null],
        [100, 31, 3, "c", null],
    ]);
    assert_eq!(of("keyed"), keyed);
}

/// What could not be judged exactly stops the run before anything is read, with what mends it.
#[test]
fn what_cannot_be_judged_is_refused() {
    let database = Server::shared().database("capfilterno");
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, word text, short varchar(5), long varchar(20), amount numeric, span interval, doc jsonb, at timestamptz, made int GENERATED ALWAYS AS (id * 2) STORED, c text COLLATE \"C\");
         INSERT INTO t VALUES (1, 'a', 'b', 'c', 1, '1 day', '{}', now())",
    );
    let job = job(&database, "capfilterno", Some(json!({"delete_files": "position"})));
    let refused = |text: &str, words: &[&str]| {
        filter(&job, "t", text);
        job.sync().failed(exit::CONFIG, &[&["public.t"], words].concat());
        assert!(!job.lake().exists(), "something was written");
    };
    let full = "ALTER TABLE \"public\".\"t\" REPLICA IDENTITY FULL";
    refused("word = \"a\"", &["\"word\"", "can be large", full, "ALTER COLUMN \"word\" SET STORAGE PLAIN"]);
    refused("long = \"a\"", &["\"long\"", "can be large", full]);
    refused("amount > 1", &["\"amount\"", "can be large", full]);
    refused("span > \"1 day\"", &["\"span\"", "interval", "ALTER PUBLICATION"]);
    refused("at > \"yesterday\"", &["\"at\"", "another time in every run"]);
    refused("at > \"no date\"", &["try the filter"]);
    refused("made = 2", &["\"made\"", "generated"]);
    job.edit("streams.json", |file| {
        file["streams"][0]["stream"]["type_schema"]["properties"]["_op_type"] = json!({"type": ["null", "string"], "olake_column": true});
        file["selected_streams"]["public"][0]["selected_columns"]["columns"].as_array_mut().expect("names").push(json!("_op_type"));
    });
    refused("short = \"b\"", &["delete_mode soft", full, "delete_mode to hard"]);
    choose(&job, "t", "delete_mode", json!("hard"));
    database.sql("ALTER TABLE t REPLICA IDENTITY FULL");
    refused("doc = \"{}\"", &["\"doc\"", "jsonb"]);
    refused("word > \"a\"", &["\"word\"", "collation C", "ALTER PUBLICATION"]);
    filter(&job, "t", "c > \"a\" or word = \"a\"");
    job.sync().succeeded();
    database
        .sql("SELECT pg_drop_replication_slot('capfilterno'); DROP PUBLICATION capfilterno_pub; ALTER TABLE t REPLICA IDENTITY DEFAULT");
    filter(&job, "t", "doc != null");
    job.sync().succeeded();
}

/// The rows that another filter wants are not in the log.
#[test]
fn another_filter_takes_another_copy() {
    let database = Server::shared().database("capfilterother");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, n int, v text); INSERT INTO t SELECT i, i, 'v' FROM generate_series(1, 20) i; CREATE TABLE other (id int PRIMARY KEY); CREATE VIEW t_wanted AS SELECT * FROM t WHERE n > 15");
    let job = job(&database, "capfilterother", Some(json!({})));
    job.select(&["public.t", "public.other"]);
    filter(&job, "t", "n > 10");
    job.sync().succeeded();
    let state = job.read("state.json");
    assert_eq!(state["lakeward"]["captures"]["public.t"]["filter"], json!("2 > integer Some(\"10\")"));
    database.sql("UPDATE t SET n = n + 1; INSERT INTO other VALUES (1)");
    for text in ["n > 15", ""] {
        filter(&job, "t", text);
        job.resume().failed(exit::CONFIG, &["public.t", "the filter is another one", "sync --reload public.t"]);
        assert_same_iceberg_as(&job, &database, "public.other", "public.other");
    }
    // As it was; the type that is wider now is of no matter.
    database.sql("DROP VIEW t_wanted; ALTER TABLE t ALTER n TYPE bigint; CREATE VIEW t_wanted AS SELECT * FROM t WHERE n > 15");
    filter(&job, "t", "n > 10");
    job.resume().succeeded();
    filter(&job, "t", "n > 15");
    let all =
        ["sync", "--config", "source.json", "--streams", "streams.json", "--destination", "destination.json", "--state", "state.json"];
    job.run(&[&all[..], &["--reload", "public.t"]].concat()).succeeded();
    assert_same_iceberg_as(&job, &database, "public.t", "public.t_wanted");
    database.sql("UPDATE t SET n = n - 3; INSERT INTO t VALUES (100, 99)");
    job.resume().succeeded();
    assert_same_iceberg_as(&job, &database, "public.t", "public.t_wanted");
}

/// The filter follows its column to its new name, and changes from before are judged by the same values.
#[test]
fn a_filter_follows_a_column_that_is_renamed() {
    let database = Server::shared().database("capfiltername");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, n int, m int); INSERT INTO t SELECT i, i, -i FROM generate_series(1, 9) i");
    let job = job(&database, "capfiltername", None);
    filter(&job, "t", "n > 5");
    job.sync().succeeded();
    database.sql(
        "UPDATE t SET n = 10 WHERE id = 1; ALTER TABLE t RENAME n TO amount; UPDATE t SET amount = 11 WHERE id = 2; UPDATE t SET amount = 0 WHERE id = 9;
         UPDATE t SET m = 99 WHERE id = 3; INSERT INTO t VALUES (10, 6, 0), (11, 5, 0)",
    );
    let said = job.resume().succeeded().stderr;
    assert!(said.contains("column \"n\" of the filter is called \"amount\" now"), "{said}");
    let expected = json!([[1, "u", null], [2, "u", null], [9, "d", null], [3, "d", null], [10, "c", null]]);
    assert_eq!(log(&job, "public.t", "id"), expected);
    // Another column has its name now: the filter asks for that one, and not for what it asked for.
    database.sql("ALTER TABLE t RENAME m TO n; ALTER TABLE t RENAME amount TO m");
    job.resume().failed(exit::CONFIG, &["public.t", "the filter is another one"]);
    database.sql("ALTER TABLE t RENAME m TO amount; ALTER TABLE t RENAME n TO m; UPDATE t SET amount = 8 WHERE id = 4");
    job.resume().succeeded();
    database.sql("ALTER TABLE t DROP amount");
    job.resume().failed(exit::SCHEMA, &["public.t", "the filter names column \"n\", which the table does not have"]);
}

/// Values that nobody has logged stop the stream, and are neither NULL nor guessed.
#[test]
fn large_values_of_a_row_that_enters_are_not_guessed() {
    let database = Server::shared().database("capfilterlarge");
    let columns = "(id int PRIMARY KEY, n int, big text)";
    database.sql(&format!(
        "CREATE TABLE enters {columns}; CREATE TABLE returns {columns}; CREATE TABLE stays {columns};
         DO $$ DECLARE t text; BEGIN FOREACH t IN ARRAY ARRAY['enters', 'returns', 'stays'] LOOP
             EXECUTE format('ALTER TABLE %I ALTER big SET STORAGE EXTERNAL', t);
             EXECUTE format('INSERT INTO %I SELECT i, i, repeat(md5(i::text), 200) FROM generate_series(1, 9) i', t);
             EXECUTE format('CREATE VIEW %I AS SELECT * FROM %I WHERE n > 5', t || '_wanted', t);
         END LOOP; END $$"
    ));
    let job = job(&database, "capfilterlarge", Some(json!({})));
    job.select(&["public.enters", "public.returns", "public.stays"]);
    for table in ["enters", "returns", "stays"] {
        filter(&job, table, "n > 5");
    }
    let said = job.sync().succeeded().stderr;
    assert!(said.contains("public.enters") && said.contains("does not touch its large values (big)"), "{said}");
    database.sql(
        "UPDATE enters SET n = 10 WHERE id = 1; UPDATE returns SET n = 1 WHERE id = 6; UPDATE returns SET n = 10 WHERE id = 6;
         UPDATE stays SET n = 20 WHERE id = 7; UPDATE stays SET n = 0 WHERE id = 8; UPDATE stays SET n = 30, big = 'small' WHERE id = 2",
    );
    job.resume().failed(exit::STATE, &["public.enters", "REPLICA IDENTITY FULL", "public.returns"]);
    assert_same_iceberg_as(&job, &database, "public.stays", "public.stays_wanted");
    database.sql("ALTER TABLE enters REPLICA IDENTITY FULL; ALTER TABLE returns REPLICA IDENTITY FULL");
    let all =
        ["sync", "--config", "source.json", "--streams", "streams.json", "--destination", "destination.json", "--state", "state.json"];
    job.run(&[&all[..], &["--reload", "public.enters", "--reload", "public.returns"]].concat()).succeeded();
    database.sql("UPDATE enters SET n = 10 WHERE id = 2; UPDATE returns SET n = 1 WHERE id = 7; UPDATE returns SET n = 10 WHERE id = 7");
    job.resume().succeeded();
    for table in ["enters", "returns", "stays"] {
        assert_same_iceberg_as(&job, &database, &format!("public.{table}"), &format!("public.{table}_wanted"));
    }
}

/// Deleted rows that stay are those that were wanted.
#[test]
fn rows_that_leave_are_marked() {
    let database = Server::shared().database("capfiltersoft");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, n int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t SELECT i, i FROM generate_series(1, 6) i");
    let job = job(&database, "capfiltersoft", Some(json!({"delete_files": "position"})));
    job.edit("streams.json", |file| {
        file["streams"][0]["stream"]["type_schema"]["properties"]["_op_type"] = json!({"type": ["null", "string"], "olake_column": true});
        file["selected_streams"]["public"][0]["selected_columns"]["columns"].as_array_mut().expect("names").push(json!("_op_type"));
    });
    filter(&job, "t", "n > 3");
    job.sync().succeeded();
    database.sql("UPDATE t SET n = 0 WHERE id IN (1, 5); DELETE FROM t WHERE id IN (2, 6); UPDATE t SET n = 9 WHERE id = 3; INSERT INTO t VALUES (7, 1), (8, 8)");
    job.resume().succeeded();
    let seen = job
        .run(&["preview", "--destination", "destination.json", "--streams", "streams.json", "--stream", "public.t", "--rows", "100"])
        .succeeded()
        .stdout;
    let count = |op: &str| seen.matches(&format!("| {op} ")).count();
    assert_eq!((count("r"), count("d"), count("c"), count("u")), (1, 2, 2, 0), "{seen}");
}

/// The keys that become columns, of every type.
fn keys() -> Value {
    json!({
        "s": "string", "n": "integer", "d": "decimal(20,4)", "f": "number", "b": "boolean", "at": "timestamptz", "on": "date", "o": "json", "u": "uuid",
        "l": "local_timestamp", "t": "time", "é \"q\"": "string"
    })
}

/// Tables with a column that is json, and one that is jsonb, and an UPDATE that touches neither.
const FLAT: &str = r#"
    CREATE TABLE t (id int PRIMARY KEY, v int, doc jsonb, raw json); ALTER TABLE t ALTER doc SET STORAGE EXTERNAL, ALTER raw SET STORAGE EXTERNAL;
    CREATE FUNCTION doc(i int) RETURNS text LANGUAGE sql AS $$ SELECT CASE i % 6
        WHEN 0 THEN format('{"s": "a \"%s\" \u00e9\n", "n": %s, "d": 1.50, "f": 1e-3, "b": true, "at": "2024-02-29T12:34:56.789Z", "on": "2024-02-29", "o": {"x": [1,  2], "s": "}"}}', i, i)
        WHEN 1 THEN format('{"n": "%s", "s": {"k":  1}, "n": " -%s ", "d": "1.5e2", "f": "-2.5", "b": "no", "at": "2024-02-29 12:34+05:30", "o": null, "u": "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}"}', i, i)
        WHEN 2 THEN format('{"s": null, "l": "2024-02-29T01:02:03.123456789Z", "t": "23:59:58.5", "o": "text", "\u00e9 \"q\"": "%s", "big": "%s"}', i, repeat(md5(i::text), 300))
        WHEN 3 THEN '["s", {"s": 1}]' WHEN 4 THEN '{}' END $$;
    INSERT INTO t SELECT i, i, doc(i)::jsonb, doc(i)::json FROM generate_series(1, 60) i"#;

const CHANGES: &str = "
    UPDATE t SET v = -v WHERE id % 2 = 0; UPDATE t SET doc = doc(id + 1)::jsonb, raw = doc(id + 2)::json WHERE id % 5 = 1; UPDATE t SET doc = NULL WHERE id % 7 = 2;
    INSERT INTO t SELECT i, i, doc(i)::jsonb, doc(i)::json FROM generate_series(101, 130) i; UPDATE t SET v = 0 WHERE id > 115; DELETE FROM t WHERE id % 10 = 9;
    UPDATE t SET raw = doc(id + 3)::json WHERE id % 4 = 2; UPDATE t SET v = 7 WHERE id % 4 = 2";

/// All rows of an Iceberg table, by their ids.
fn rows(job: &Job, stream: &str) -> Value {
    let script = "
import json, sys
from pyiceberg.table import StaticTable
folder = json.load(sys.stdin) + '/metadata'
version = open(folder + '/version-hint.text').read().strip()
rows = StaticTable.from_metadata(f'file://{folder}/v{version}.metadata.json').scan().to_arrow().to_pylist()
print(json.dumps(sorted(rows, key=lambda row: row['id']), default=str))";
    python(script, &json!(job.table_folder(&job.lake(), stream)))
}

fn flatten(job: &Job) {
    choose(job, "t", "flatten", json!({"doc": keys(), "raw": keys()}));
}

/// What a copy of the table as it is now has.
fn copied(database: &Database, iceberg: bool) -> Job {
    let job = Job::new(database);
    job.discover();
    if iceberg {
        job.write("destination.json", &json!({"type": "ICEBERG", "writer": {"catalog_type": "filesystem", "iceberg_s3_path": job.lake()}}));
    }
    flatten(&job);
    job.sync().succeeded();
    job
}

/// Rows are those of a copy, large values that an UPDATE has not touched included.
#[test]
fn flattened_rows_are_those_of_a_copy() {
    let database = Server::shared().database("capflat");
    database.sql(FLAT);
    let job = job(&database, "capflat", Some(json!({"delete_files": "position"})));
    flatten(&job);
    job.sync().succeeded();
    assert_eq!(rows(&job, "public.t"), rows(&copied(&database, true), "public.t"));
    database.sql(CHANGES);
    job.resume().succeeded();
    let (seen, expected) = (rows(&job, "public.t"), rows(&copied(&database, true), "public.t"));
    for (seen, expected) in seen.as_array().expect("rows").iter().zip(expected.as_array().expect("rows")) {
        assert_eq!(seen, expected);
    }
    assert_eq!(seen.as_array().map(Vec::len), expected.as_array().map(Vec::len));
    assert!(seen.to_string().contains("a0eebc99") && seen.to_string().contains("01:02:03.123457"), "{seen}");
}

/// A log has the same values, and says of which columns it has none. The filter may ask for what is not written.
#[test]
fn a_log_has_the_values_of_keys() {
    let database = Server::shared().database("capflatlog");
    database.sql(FLAT);
    let job = job(&database, "capflatlog", None);
    flatten(&job);
    filter(&job, "t", "v >= 0 or v < -10");
    choose(&job, "t", "selected_columns", json!({"columns": ["id", "doc"], "sync_new_columns": false}));
    job.sync().succeeded();
    database.sql("UPDATE t SET v = 5 WHERE id = 2; UPDATE t SET doc = doc(0)::jsonb, v = 6 WHERE id = 2; DELETE FROM t WHERE id = 1; UPDATE t SET v = -1 WHERE id = 4; INSERT INTO t VALUES (200, 1, doc(8)::jsonb, doc(7)::json), (201, -5, '{}', '{}')");
    job.resume().succeeded();
    let described = duckdb(
        &job.files("public.t"),
        "SELECT column_name FROM (DESCRIBE SELECT * FROM $files) WHERE column_name LIKE '%_q_' OR column_name = 'v'",
    );
    let quoted = described[0][0].as_str().expect("a column of doc").replace('"', "\"\"");
    assert_eq!(described.as_array().map(Vec::len), Some(2), "{described}");
    let seen = log(&job, "public.t", &format!("id, doc_n, raw_n, \"{quoted}\", doc_d::VARCHAR"));
    let row = &seen[0];
    assert_eq!((&row[0], &row[1], &row[5]), (&json!(2), &Value::Null, &json!("u")), "{seen}");
    let unchanged: Vec<&str> = row[6].as_str().expect("names").split(',').collect();
    assert!(["doc", "raw", "doc_s", "raw_at"].iter().all(|name| unchanged.contains(name)) && !unchanged.contains(&"v"), "{seen}");
    assert_eq!(seen[1].as_array().map(|row| row[..6].to_vec()), json!([2, 0, null, null, "1.5000", "u"]).as_array().cloned(), "{seen}");
    let rest =
        json!([[1, null, null, null, null, "d", null], [4, null, null, null, null, "d", null], [200, null, -7, "8", null, "c", null]]);
    assert_eq!(json!(seen.as_array().expect("rows")[2..]), rest);
    // A value that the server reads, and that is not read out of the log, is not guessed.
    database.sql("UPDATE t SET doc = '{\"on\": \"2024-02-29\", \"n\": 1.5}' WHERE id = 3");
    job.resume().failed(exit::SOURCE, &["public.t", "doc_n", "\"n\": \"string\""]);
}

/// Keys that are there when a run begins become columns.
#[test]
fn keys_that_come_later_are_columns_from_the_next_run_on() {
    let database = Server::shared().database("capflatkeys");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, doc jsonb); INSERT INTO t VALUES (1, '{\"a\": 1}')");
    let job = job(&database, "capflatkeys", Some(json!({"delete_files": "position"})));
    choose(&job, "t", "flatten", json!({"doc": "*"}));
    job.sync().succeeded();
    database.sql("INSERT INTO t VALUES (2, '{\"a\": \"x\", \"b\": true}'); ALTER TABLE t RENAME doc TO document; UPDATE t SET document = '{\"b\": null, \"c\": 3}' WHERE id = 1");
    job.resume().succeeded();
    let seen = rows(&job, "public.t");
    let of = |at: usize| ["doc_a", "doc_b", "doc_c"].map(|name| seen[at][name].clone());
    assert_eq!((of(0), of(1)), ([Value::Null, Value::Null, json!("3")], [json!("x"), json!("true"), Value::Null]), "{seen}");
}
