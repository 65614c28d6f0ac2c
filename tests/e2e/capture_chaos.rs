//! Random workloads, with runs that are killed at any moment: what lands in the end is what the database has.

use super::capture::{follow, job};
use crate::support::dice::Dice;
use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same_iceberg, duckdb};
use serde_json::{Value, json};
use std::time::Duration;

const TABLES: &str = "CREATE TABLE a (id int PRIMARY KEY, v text, n numeric, at timestamptz DEFAULT now(), big text); ALTER TABLE a ALTER big SET STORAGE EXTERNAL;
     CREATE TABLE b (k1 int, k2 text, x jsonb, PRIMARY KEY (k1, k2)); ALTER TABLE b REPLICA IDENTITY FULL;
     INSERT INTO a SELECT i, 'v' || i, i, now(), repeat('x', i % 4 * 1000) FROM generate_series(1, 2000) i;
     INSERT INTO b SELECT i, 'k' || i % 5, jsonb_build_object('i', i) FROM generate_series(1, 500) i";

/// What one transaction does, between BEGIN and its end.
fn work(dice: &mut Dice) -> String {
    let mut sql = String::new();
    for _ in 0..=dice.below(6) {
        let (id, other) = (dice.below(2500), dice.below(2500));
        sql += &match dice.below(8) {
            0 | 1 => {
                format!("INSERT INTO a (id, v, n) VALUES ({id}, 'n{other}', {other}.5) ON CONFLICT (id) DO UPDATE SET v = a.v || '+';")
            }
            2 => format!("UPDATE a SET n = {other}, v = left(v, 50) || 'u' WHERE id % 50 = {};", id % 50),
            3 => format!("DELETE FROM a WHERE id = {id};"),
            4 => format!(
                "UPDATE a SET id = {other} + 5000, big = 'moved' WHERE id = {id} AND NOT EXISTS (SELECT FROM a WHERE id = {other} + 5000);"
            ),
            5 => format!("UPDATE b SET x = x || '{{\"u\": {other}}}' WHERE k1 = {};", id % 500),
            6 => format!("INSERT INTO b VALUES ({id}, 'k{}', '{{}}') ON CONFLICT DO NOTHING;", other % 5),
            _ => format!(
                "SAVEPOINT s; DELETE FROM b WHERE k1 % 10 = {}; {};",
                id % 10,
                if dice.one_in(2) { "ROLLBACK TO s" } else { "RELEASE s" }
            ),
        };
    }
    sql
}

fn transaction(dice: &mut Dice) -> String {
    format!("BEGIN; {} {}", work(dice), if dice.one_in(5) { "ROLLBACK" } else { "COMMIT" })
}

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
            arguments.extend(["--follow", "--commit-interval", "200ms"]);
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
    let job = job(&database, "capchaos", Some(json!({"delete_files": "position"})));
    run_through(&job, &database, &mut dice, 12, |dice, _| (0..40).map(|_| transaction(dice)).collect());
    for stream in ["public.a", "public.b"] {
        assert_same_iceberg(&job, &database, stream);
    }
}

/// A change log, folded by a reader, is the table. (`a.big` apart: what an UPDATE does not touch is in an older row.)
#[test]
fn a_random_workload_with_kills_folds_to_the_same_table() {
    let mut dice = Dice::new(Dice::seed());
    let database = Server::shared().database("capfold");
    database.sql(TABLES);
    let job = job(&database, "capfold", None);
    run_through(&job, &database, &mut dice, 9, |dice, round| {
        let mut all: Vec<String> = (0..30).map(|_| transaction(dice)).collect();
        if round % 4 == 3 {
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
}

/// Tables whose shape changes all the time: columns come with and without defaults, go, get other names and wider types; partitions come, with rows
/// or without; transactions are prepared and decided later; tables are emptied.
#[test]
fn a_random_workload_with_changing_tables() {
    let mut dice = Dice::new(Dice::seed());
    let database = Server::shared().database("capddl");
    database.sql(TABLES);
    database.sql("CREATE TABLE p (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day); CREATE TABLE p_0 PARTITION OF p FOR VALUES FROM (0) TO (10);
                  ALTER TABLE a ADD narrow int, ADD called text");
    let job = job(&database, "capddl", Some(json!({})));
    // From here on the columns' numbers are known.
    job.sync().succeeded();
    let (mut number, mut prepared) = (0, None::<String>);
    let mut called = "called".to_owned();
    run_through(&job, &database, &mut dice, 12, |dice, _| {
        let mut all = Vec::new();
        for _ in 0..4 {
            all.extend((0..4).map(|_| transaction(dice)));
            number += 1;
            let kind = dice.below(8);
            // What is prepared holds its locks.
            if let Some(name) = prepared.take_if(|_| matches!(kind, 1 | 4..) || dice.one_in(2)) {
                all.push(format!("{} PREPARED '{name}'", if dice.one_in(3) { "ROLLBACK" } else { "COMMIT" }));
            }
            all.push(match kind {
                        0 => format!("ALTER TABLE a ADD c{number} int; UPDATE a SET c{number} = {number} WHERE id % 3 = 0"),
                        1 => format!("ALTER TABLE b ADD d{number} text DEFAULT 'd{number}'; UPDATE b SET d{number} = NULL WHERE k1 % 3 = 0"),
                        2 => {
                            let new = format!("called_{number}");
                            let sql = format!("UPDATE a SET {called} = 'before' WHERE id % 7 = 1; ALTER TABLE a RENAME {called} TO {new}; UPDATE a SET {new} = {new} || ' after' WHERE id % 7 = 1 AND id % 2 = 0");
                            called = new;
                            sql
                        }
                        3 => format!("ALTER TABLE a ALTER narrow TYPE {}; UPDATE a SET narrow = id WHERE id % 5 = 0", if number > 20 { "bigint" } else { "int" }),
                        4 => format!("CREATE TABLE p_{number} PARTITION OF p FOR VALUES FROM ({number}0) TO ({number}9); INSERT INTO p SELECT i, {number}0 + i % 9, 'in {number}' FROM generate_series(1, 50) i"),
                        5 => format!(
                            "CREATE TABLE q_{number} (LIKE p INCLUDING ALL); INSERT INTO q_{number} SELECT i, {number}1, 'attached' FROM generate_series(1, 9) i; ALTER TABLE p ATTACH PARTITION q_{number} FOR VALUES FROM ({number}0) TO ({number}9); UPDATE p SET v = v || '+' WHERE id % 4 = 0"
                        ),
                        6 => {
                            prepared = Some(format!("g{number}"));
                            format!("BEGIN; UPDATE p SET v = v || 'g' WHERE id % 3 = 0; INSERT INTO b VALUES ({number} + 100000, 'g', '{{}}'); PREPARE TRANSACTION 'g{number}'")
                        }
                        _ => "TRUNCATE b".to_owned(),
            });
        }
        all.extend(prepared.take().map(|name| format!("COMMIT PREPARED '{name}'")));
        all
    });
    std::fs::remove_file(job.path("streams.json")).expect("remove");
    job.discover();
    follow(&job);
    for stream in ["public.a", "public.b", "public.p"] {
        assert_same_iceberg(&job, &database, stream);
    }
}
