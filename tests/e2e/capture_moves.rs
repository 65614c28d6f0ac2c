//! Rows whose keys change while their large values (TOAST) do not: the values are not in the log, and go along with the row.

use super::capture::job;
use crate::support::lakeward::{Job, exit};
use crate::support::postgres::Server;
use crate::support::readback::{assert_all_same_iceberg, assert_same_iceberg, python};
use serde_json::{Value, json};

/// Values of 10 kB that do not become smaller.
const RANDOM: &str = "CREATE FUNCTION random_text(seed text) RETURNS text IMMUTABLE LANGUAGE sql AS
    $$ SELECT string_agg(md5(seed || i), '') FROM generate_series(1, 313) i $$;";

/// What is done before each run.
const ROUNDS: &[&str] = &[
    // A key changes, and nothing else; beside a value, beside one of the large ones.
    "UPDATE t SET id = 101 WHERE id = 1; UPDATE t SET id = 102, v = 'too' WHERE id = 2; UPDATE t SET id = 103, doc = '{}' WHERE id = 3;
     UPDATE t SET id = 104, big = NULL WHERE id = 4",
    // Before and after other changes, of which some leave the large values as they are.
    "UPDATE t SET v = 'before' WHERE id = 101; UPDATE t SET id = 105 WHERE id = 101; UPDATE t SET v = 'after' WHERE id = 105;
     UPDATE t SET big = random_text('new') WHERE id = 5; UPDATE t SET v = 'w' WHERE id = 5; UPDATE t SET id = 106 WHERE id = 5; UPDATE t SET v = 'x' WHERE id = 106;
     INSERT INTO t SELECT 107, 'fresh', random_text('fresh'), NULL; UPDATE t SET id = 108 WHERE id = 107; UPDATE t SET id = 109, v = 'gone' WHERE id = 6; DELETE FROM t WHERE id = 109",
    // From key to key, in one transaction and in several.
    "BEGIN; UPDATE t SET id = 201 WHERE id = 105; UPDATE t SET v = 'chain' WHERE id = 201; UPDATE t SET id = 202 WHERE id = 201; UPDATE t SET id = 203 WHERE id = 202; COMMIT;
     UPDATE t SET id = 211 WHERE id = 7; UPDATE t SET id = 212, doc = '[]' WHERE id = 211; UPDATE t SET v = 'on' WHERE id = 212; UPDATE t SET id = 213 WHERE id = 212",
    // The old key comes again, and moves too; the first row comes back.
    "UPDATE t SET id = 301 WHERE id = 8; INSERT INTO t SELECT 8, 'second', random_text('second'), '{}'; UPDATE t SET v = 'second!' WHERE id = 8; UPDATE t SET id = 302 WHERE id = 8;
     UPDATE t SET id = 8, v = 'home' WHERE id = 301; UPDATE t SET id = 303 WHERE id = 302; INSERT INTO t VALUES (301, 'third', 'small', NULL); UPDATE t SET id = 302 WHERE id = 301",
    // Two rows change places, over a third key.
    "UPDATE t SET id = -1 WHERE id = 9; UPDATE t SET id = 9 WHERE id = 10; UPDATE t SET id = 10 WHERE id = -1",
    "BEGIN; UPDATE t SET id = -1 WHERE id = 9; UPDATE t SET id = 9 WHERE id = 10; UPDATE t SET id = 10 WHERE id = -1; UPDATE t SET v = 'other' WHERE id IN (9, 10); COMMIT;
     UPDATE t SET id = 400 + id WHERE id BETWEEN 11 AND 20; UPDATE t SET id = id - 400 WHERE id BETWEEN 411 AND 415; UPDATE t SET id = id + 1 WHERE id IN (415, 20, 420)",
];

/// `UPDATE t` of the rounds, for a key of two columns.
fn composite(sql: &str) -> String {
    let sql = sql.replace("UPDATE t", "UPDATE pair").replace("INTO t", "INTO pair").replace("FROM t ", "FROM pair ");
    // What is inserted has the first column too.
    sql.replace("INTO pair SELECT ", "INTO pair SELECT 'é', ")
        .replace("INTO pair VALUES (", "INTO pair VALUES ('é', ")
        .replace("SET id = 2", "SET part = 'z' || part, id = 2")
}

fn rows_move(name: &str, keys: Value) {
    let database = Server::shared().database(name);
    database.sql(&format!(
        "{RANDOM} CREATE TABLE t (id int PRIMARY KEY, v text, big text, doc jsonb);
         CREATE TABLE pair (part text, id int, v text, big text, doc jsonb, PRIMARY KEY (part, id));
         INSERT INTO t SELECT i, 'v' || i, random_text('t' || i), jsonb_build_object('x', random_text('d' || i)) FROM generate_series(1, 30) i;
         INSERT INTO pair SELECT 'p' || id % 3, t.* FROM t;
         CREATE TABLE named (LIKE pair INCLUDING ALL); INSERT INTO named TABLE pair;
         CREATE TABLE bulk (id int PRIMARY KEY, big text); INSERT INTO bulk SELECT i, random_text(i::text) FROM generate_series(1, 3000) i"
    ));
    let job = job(&database, name, Some(keys));
    job.edit("streams.json", |file| {
        for stream in file["selected_streams"]["public"].as_array_mut().expect("a list") {
            if stream["stream_name"] == "pair" {
                stream["partition_regex"] = json!("/{v, identity}/{id, bucket[3]}");
            }
        }
    });
    with_column(&job, "named", "_olake_id");
    job.sync().succeeded();
    for sql in ROUNDS {
        let pair = composite(sql);
        database.sql(&format!("{sql}; {pair}; {}", pair.replace("pair", "named")));
        job.resume().succeeded();
        assert_all_same_iceberg(&job, &database, &["public.t", "public.pair", "public.named"]);
    }
    for sql in [
        "UPDATE bulk SET id = id + 100000",
        "UPDATE bulk SET id = -id; UPDATE bulk SET id = 1 - id WHERE id % 2 = 0; UPDATE bulk SET big = 'new' WHERE id % 7 = 0",
    ] {
        database.sql(sql);
        job.resume().succeeded();
        assert_same_iceberg(&job, &database, "public.bulk");
    }
}

/// Adds a column of OLake's to one table.
fn with_column(job: &Job, table: &str, name: &str) {
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("a list") {
            if entry["stream"]["name"] == table {
                entry["stream"]["type_schema"]["properties"][name] = json!({"type": ["null", "string"], "olake_column": true});
            }
        }
        for stream in file["selected_streams"]["public"].as_array_mut().expect("a list") {
            if stream["stream_name"] == table {
                stream["selected_columns"]["columns"].as_array_mut().expect("names").push(json!(name));
            }
        }
    });
}

#[test]
fn rows_move_with_deletes_by_key() {
    rows_move("capmovekey", json!({}));
}

#[test]
fn rows_move_with_deletes_by_position() {
    rows_move("capmovepos", json!({"delete_files": "position"}));
}

#[test]
fn rows_move_with_deletion_vectors() {
    rows_move("capmovedv", json!({"delete_files": "deletion_vector"}));
}

/// The row that was stays, marked; what is there of it is not what the row has that it became.
#[test]
fn rows_move_where_old_ones_stay() {
    let database = Server::shared().database("capmovesoft");
    database.sql(&format!(
        "{RANDOM} CREATE TABLE t (id int PRIMARY KEY, v text, big text, doc jsonb);
         INSERT INTO t SELECT i, 'v' || i, random_text('t' || i), jsonb_build_object('x', random_text('d' || i)) FROM generate_series(1, 30) i"
    ));
    let job = job(&database, "capmovesoft", Some(json!({"delete_files": "position"})));
    with_column(&job, "t", "_op_type");
    job.sync().succeeded();
    for sql in ROUNDS {
        database.sql(sql);
        job.resume().succeeded();
        let (alive, marked) = by_mark(&job, "t");
        let expected: Value =
            serde_json::from_str(&database.sql("SELECT json_agg(json_build_array(id, v, md5(big), doc->>'x') ORDER BY id) FROM t"))
                .expect("JSON");
        assert_eq!(alive, expected, "{sql}");
        assert!(marked > 0);
    }
}

/// Rows that are alive, by id, and how many others there are.
fn by_mark(job: &Job, table: &str) -> (Value, u64) {
    let script = "
import hashlib, json, sys
from pyiceberg.table import StaticTable
folder = json.load(sys.stdin) + '/metadata'
version = open(folder + '/version-hint.text').read().strip()
rows = StaticTable.from_metadata(f'file://{folder}/v{version}.metadata.json').scan().to_arrow().to_pylist()
ids = [row['id'] for row in rows]
assert len(ids) == len(set(ids)), f'an id comes twice: {sorted(ids)}'
def shown(row):
    big, doc = row['big'], row['doc'] and json.loads(row['doc'])
    return [row['id'], row['v'], big and hashlib.md5(big.encode()).hexdigest(), doc.get('x') if isinstance(doc, dict) else None]
alive = sorted((shown(row) for row in rows if row['_op_type'] != 'd'), key=lambda row: row[0])
print(json.dumps([alive, len(rows) - len(alive)]))";
    let seen = python(script, &json!(job.table_folder(&job.lake(), &format!("public.{table}"))));
    (seen[0].clone(), seen[1].as_u64().expect("a number"))
}

/// A value that nobody has is an error, with the key under which it was looked for, and stops only its table.
#[test]
fn a_row_that_was_never_there_cannot_move() {
    let database = Server::shared().database("capmovenone");
    database.sql(&format!(
        "{RANDOM} CREATE TABLE big (id int PRIMARY KEY, v text, big text); CREATE TABLE t (id int PRIMARY KEY);
         INSERT INTO big SELECT i, 'v', random_text(i::text) FROM generate_series(1, 3) i"
    ));
    let job = job(&database, "capmovenone", Some(json!({})));
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("a list") {
            entry["stream"]["sync_mode"] = json!("strict_cdc");
        }
    });
    job.sync().succeeded();
    database.sql("UPDATE big SET v = 'w' WHERE id = 2; UPDATE big SET id = 10 WHERE id = 2; INSERT INTO t VALUES (1)");
    let failed = job.resume().failed(exit::STATE, &["public.big", "the row with id = 2 was changed", "load the table anew"]);
    assert!(!failed.stderr.contains("public.t failed"), "{}", failed.stderr);
    assert_same_iceberg(&job, &database, "public.t");
}

/// Two rows may have one key within a statement: what the log says of it does not tell them apart.
#[test]
fn keys_that_may_be_doubled_meanwhile_are_refused_where_rows_are_replaced() {
    let database = Server::shared().database("capdeferrable");
    database.sql("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v text); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    database.sql("CREATE PUBLICATION capdeferrable_pub FOR TABLE t");
    let job = job(&database, "capdeferrable", Some(json!({})));
    job.sync().failed(exit::SOURCE, &["[key_deferrable]", "append_mode"]);
    job.edit("streams.json", |file| file["selected_streams"]["public"][0]["append_mode"] = json!(true));
    job.sync().succeeded();
    database.sql("UPDATE t SET id = id + 1");
    job.resume().succeeded();
    assert_eq!(database.sql("SELECT count(*) FROM t").trim(), "2");
}
