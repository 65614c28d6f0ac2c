//! Random workloads, with runs that are killed at any moment: what lands in the end is what the database has.

use super::capture::{follow, job};
use crate::support::dice::Dice;
use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same_iceberg, duckdb, python};
use crate::support::workload::{Shapes, TABLES, transaction};
use serde_json::{Value, json};
use std::time::Duration;

/// Runs syncs while `workload` of each round goes on in another session; two of three runs are killed.
fn run_through(job: &Job, database: &Database, dice: &mut Dice, rounds: usize, mut workload: impl FnMut(&mut Dice, usize) -> Vec<String>) {
    let seed = dice.seeded();
    let mut first = !job.path("state.json").exists();
    for round in 0..rounds {
        let mut session = database.session();
        let sql = workload(dice, round);
        let writer = std::thread::spawn(move || sql.iter().for_each(|sql| drop(session.sql(sql))));
        let endless = !first && dice.one_in(3);
        let mut arguments = if first { Job::SYNC.to_vec() } else { Job::RESUME.to_vec() };
        if endless {
            arguments.extend(Job::FOLLOW);
        }
        let running = job.start(&arguments);
        std::thread::sleep(Duration::from_millis(if endless { 1500 } else { 0 } + dice.below(900) as u64));
        let ends = round % 3 == 2;
        if ends && endless {
            running.signal("TERM");
        }
        let outcome = if ends { running.finish() } else { running.kill() };
        writer.join().expect("the workload");
        // A run that is killed before it has a state begins anew, and so does the next.
        first = first && !job.path("state.json").exists();
        // Told to stop while a table is being copied again, it says that it has not come to an end.
        let good = outcome.code == Some(exit::DONE) || (endless && outcome.code == Some(exit::INTERRUPTED));
        assert!(!ends || good, "seed {seed}: {}", outcome.stderr);
    }
    job.run(if first { &Job::SYNC } else { &Job::RESUME }).succeeded();
}

#[test]
fn a_random_workload_with_kills_ends_in_the_same_table() {
    let mut dice = Dice::new(Dice::seed());
    let database = Server::shared().database("capchaos");
    database.sql(TABLES);
    streams_large_transactions(&database);
    let job = job(&database, "capchaos", Some(json!({"delete_files": "position"})));
    run_through(&job, &database, &mut dice, 12, |dice, _| (0..40).map(|_| transaction(dice)).collect());
    for stream in ["public.a", "public.b"] {
        assert_same_iceberg(&job, &database, stream);
    }
}

/// Has the server send transactions of this database before they end, once they are larger than the least that can be set.
fn streams_large_transactions(database: &Database) {
    database.sql(&format!("ALTER DATABASE {} SET logical_decoding_work_mem = '64kB'", database.sql("SELECT current_database()").trim()));
}

/// What a reader makes of a log in which large values are missing: those of the row before, which is that of the key, or the one that the row was
/// under another key.
const FOLD: &str = "
import json, sys
import pyarrow as pa, pyarrow.parquet as pq
log = pa.concat_tables(pq.read_table(file) for file in json.load(sys.stdin)).to_pylist()
table, last, gone = {}, None, None
for row in sorted(log, key=lambda row: row['_cdc_order']):
    kept = row['_unchanged_columns']
    if kept and row['_op_type'] == 'c':
        commit, sequence = last['_cdc_order'].split('-')
        assert last['_op_type'] == 'd' and row['_cdc_order'] == f'{commit}-{int(sequence, 16) + 1:08X}', (last, row)
    before = gone if row['_op_type'] == 'c' else table.get(row['id'])
    if row['_op_type'] == 'd':
        gone = table.pop(row['id'])
    else:
        table[row['id']] = row | {name: before[name] for name in kept.split(',')} if kept else row
    last = row
print(json.dumps([[id, row['big']] for id, row in sorted(table.items())]))";

/// A change log, folded by a reader, is the table.
#[test]
fn a_random_workload_with_kills_folds_to_the_same_table() {
    let mut dice = Dice::new(Dice::seed());
    let database = Server::shared().database("capfold");
    database.sql(TABLES);
    let job = job(&database, "capfold", None);
    run_through(&job, &database, &mut dice, 9, |dice, round| {
        let mut all: Vec<String> = (0..30).map(|_| transaction(dice)).collect();
        if round == 3 {
            all.insert(20, "TRUNCATE b".into());
        }
        all
    });
    for (stream, key, columns, expected) in
        [("public.a", "id", "id, v, n", "id, v, n::text"), ("public.b", "k1, k2", "k1, k2, x", "k1, k2, x::text")]
    {
        let fold = format!(
            "SELECT {columns} FROM (SELECT * FROM $files WHERE _cdc_order > coalesce((SELECT max(_cdc_order) FROM $files WHERE _op_type = 't'), '')
             QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY _cdc_order DESC) = 1) WHERE _op_type <> 'd' ORDER BY {key}"
        );
        let (_, table) = stream.split_once('.').expect("a name");
        let rows = database.sql(
            &format!("SELECT coalesce(json_agg(json_build_array({expected}) ORDER BY {key} COLLATE \"C\"), '[]') FROM {table}")
                .replace("id COLLATE \"C\"", "id"),
        );
        let expected: Value = serde_json::from_str(rows.trim()).expect("JSON");
        assert_eq!(duckdb(&job.files(stream), &fold), expected, "{stream}, seed {}", dice.seeded());
    }
    let expected: Value =
        serde_json::from_str(&database.sql("SELECT json_agg(json_build_array(id, big) ORDER BY id) FROM a")).expect("JSON");
    assert_eq!(python(FOLD, &json!(job.files("public.a"))), expected, "seed {}", dice.seeded());
}

/// Tables whose shape changes all the time: columns come with and without defaults, go, get other names and wider types; partitions come, with rows
/// or without, and go; transactions are prepared and decided later; tables are emptied.
#[test]
fn a_random_workload_with_changing_tables() {
    let mut dice = Dice::new(Dice::seed());
    let database = Server::shared().database("capddl");
    database.sql(TABLES);
    streams_large_transactions(&database);
    // Half of the time transactions come when they are prepared.
    let two_phase = dice.one_in(2);
    database.sql(&format!("SELECT pg_create_logical_replication_slot('capddl', 'pgoutput', false, {two_phase}); CREATE PUBLICATION capddl_pub FOR TABLE a, b, p"));
    let job = job(&database, "capddl", Some(json!({})));
    job.edit("source.json", |source| source["update_method"]["on_detach"] = json!("reload"));
    // From here on the columns' numbers are known.
    job.sync().succeeded();
    let mut shapes = Shapes::new("capddl");
    run_through(&job, &database, &mut dice, 12, |dice, _| {
        let mut all = Vec::new();
        for _ in 0..4 {
            all.extend((0..4).map(|_| transaction(dice)));
            all.extend(shapes.next(dice));
            // Their rows name their own table, so nothing is taken for the parent's once they are gone.
            shapes.seen();
        }
        all.extend(shapes.decide(dice));
        all
    });
    std::fs::remove_file(job.path("streams.json")).expect("remove");
    job.discover();
    follow(&job);
    for stream in ["public.a", "public.b", "public.p"] {
        assert_same_iceberg(&job, &database, stream);
    }
}
