//! The crash matrix: a run dies at every step that it takes, in every mode, with every destination; the next run ends as if nothing had happened.
//!
//! Nothing here knows the steps. For each mode and destination a run that is left alone says which steps it reaches, and how often
//! (`writers/faults.rs`); then one run after another dies at one of them, the first or the last time that it is reached (with LAKEWARD_EXHAUSTIVE
//! set, at every time), another one goes on, and a reader that is not ours compares. The database changes before, and, every other
//! time, between death and resumption. With LAKEWARD_PROOF=FOLDER the counts are written there; `./build.sh proof` makes a table of them.

use super::capture;
use crate::support::lakeward::{Job, Outcome, exit, files_under, published};
use crate::support::postgres::{Database, Server};
use crate::support::s3::ObjectStore;
use crate::support::seaweed::Seaweed;
use crate::support::wait_until;
use crate::support::witness::Witness;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

/// What the run does that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A table is replaced.
    FullRefresh,
    /// New rows are appended.
    Incremental,
    /// Tables are copied and their changes followed from there.
    Load,
    /// Changes are applied.
    Changes,
    /// Changes are applied to a table that gets a new column.
    Evolution,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Files on a disk.
    Parquet,
    /// Files in an object store that knows conditional writes; without, a death between intent and record has the next run wait (`writers/parquet/docs.md`).
    ParquetS3,
    /// Tables in folders, position deletes.
    Iceberg,
    /// Tables of an SQL catalog, equality deletes.
    IcebergSql,
    /// Tables of a REST catalog in an object store, position deletes.
    IcebergRest,
}

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text, n int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
    INSERT INTO t SELECT i, 'v' || i, i, repeat('x', 2500) FROM generate_series(1, 40) i;
    CREATE TABLE u (id int PRIMARY KEY, v text); INSERT INTO u SELECT i, 'u' FROM generate_series(1, 5) i;
    CREATE TABLE audit (of text, op text, id int);
    CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'UPDATE' AND new.id = old.id THEN INSERT INTO audit VALUES (TG_TABLE_NAME, 'u', new.id); RETURN new; END IF;
        IF TG_OP <> 'INSERT' THEN INSERT INTO audit VALUES (TG_TABLE_NAME, 'd', old.id); END IF;
        IF TG_OP <> 'DELETE' THEN INSERT INTO audit VALUES (TG_TABLE_NAME, 'c', new.id); END IF;
        RETURN new; END $$;
    CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION audited();
    CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON u FOR EACH ROW EXECUTE FUNCTION audited()";

/// One mode with one destination.
struct Case {
    mode: Mode,
    target: Target,
    name: String,
    database: Database,
    job: Job,
    store: Option<ObjectStore>,
    witness: RefCell<Witness>,
    /// Times that the database was changed.
    changes: usize,
    /// Times that a run was disturbed.
    disturbed: usize,
}

impl Case {
    fn new(mode: Mode, target: Target, label: &str) -> Self {
        let name = format!("{mode:?}_{target:?}{label}").to_lowercase();
        let database = Server::shared().database(&name);
        database.sql(TABLES);
        let store = (target == Target::ParquetS3).then(ObjectStore::conditional);
        let job = match mode {
            Mode::FullRefresh | Mode::Incremental => Job::new(&database),
            Mode::Load | Mode::Changes | Mode::Evolution => capture::job(&database, &name, None),
        };
        job.edit("source.json", |source| source["exclude_tables"] = json!(["public.audit"]));
        job.discover();
        let sync_mode = match mode {
            Mode::FullRefresh => "full_refresh",
            Mode::Incremental => "incremental",
            Mode::Load | Mode::Changes | Mode::Evolution => "cdc",
        };
        job.edit("streams.json", |file| {
            for entry in file["streams"].as_array_mut().expect("a list") {
                entry["stream"]["sync_mode"] = json!(sync_mode);
                if mode == Mode::Incremental {
                    entry["stream"]["cursor_field"] = json!("id");
                }
            }
        });
        let case = Self { mode, target, name, database, job, store, witness: RefCell::new(Witness::start()), changes: 0, disturbed: 0 };
        case.write_destination();
        case
    }

    fn write_destination(&self) {
        let iceberg = |more: Value| {
            let mut writer = json!({"iceberg_s3_path": self.job.lake(), "index_path": self.job.path("index")});
            writer.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            self.job.write("destination.json", &json!({"type": "ICEBERG", "writer": writer}));
        };
        match self.target {
            Target::Parquet => {}
            Target::ParquetS3 => self.job.write_destination(self.store.as_ref().expect("a store").writer()),
            Target::Iceberg => iceberg(json!({"catalog_type": "filesystem", "delete_files": "position"})),
            Target::IcebergSql => {
                iceberg(json!({"catalog_type": "jdbc", "jdbc_url": format!("jdbc:sqlite:{}", self.job.path("catalog.db").display())}));
            }
            Target::IcebergRest => iceberg(Seaweed::shared().writer()),
        }
    }

    /// Whether the destination is a log of changes.
    fn is_log(&self) -> bool {
        matches!(self.target, Target::Parquet | Target::ParquetS3) && matches!(self.mode, Mode::Load | Mode::Changes | Mode::Evolution)
    }

    /// Something new in the database.
    fn change(&mut self) {
        self.changes += 1;
        let n = self.changes;
        let new = 1000 + n * 10;
        let rows = format!(
            "INSERT INTO t VALUES ({new}, 'new', {n}, repeat('y', 2500)), ({new} + 1, NULL, NULL, ''); INSERT INTO u VALUES ({new}, '{n}');"
        );
        // A row that goes comes back later: there is always one with a large value that an UPDATE leaves as it is.
        let moves = format!(
            "INSERT INTO t VALUES ({}, 'back', {n}, repeat('x', 2500)) ON CONFLICT DO NOTHING; UPDATE t SET n = {n} WHERE id % 5 = {n} % 5; DELETE FROM t WHERE id = {}; UPDATE t SET id = -id WHERE id = {new} + 1; UPDATE u SET v = '{n}' WHERE id = 3;
             BEGIN; INSERT INTO t (id) VALUES ({new} + 5); SAVEPOINT s; UPDATE t SET n = 0; ROLLBACK TO s; UPDATE t SET v = 'again' WHERE id = {new} + 5; COMMIT;",
            (n + 35) % 40,
            n % 40
        );
        self.database.sql(&match self.mode {
            Mode::Incremental => rows,
            Mode::FullRefresh | Mode::Load | Mode::Changes => rows + &moves,
            Mode::Evolution => {
                format!("{rows} ALTER TABLE t ADD c{n} int; UPDATE t SET c{n} = id WHERE id % 3 = 0; UPDATE u SET v = 'e{n}' WHERE id = 1; {moves}")
            }
        });
    }

    /// Makes the next run one that begins.
    fn begin_anew(&self) {
        let gone = |path: std::path::PathBuf| drop(std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path)));
        for name in ["lake", "state.json", "catalog.db", "index"] {
            gone(self.job.path(name));
        }
        if let Some(store) = &self.store {
            gone(store.files_root());
        }
        // The tables of a catalog that others have tables in are left where they are.
        let elsewhere = format!("{}_{}", self.name, self.changes);
        self.job.edit("streams.json", |file| {
            for entry in file["streams"].as_array_mut().expect("a list") {
                entry["stream"]["destination_database"] = json!(elsewhere);
            }
        });
        self.database.sql(&format!("DROP PUBLICATION IF EXISTS {}_pub", self.name));
        // A process that has died is noticed by the server a moment later.
        wait_until("nobody reads the slot", 20, || {
            self.database
                .run(&format!("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{}'", self.name))
                .is_ok()
        });
    }

    /// A run that goes on from what there is, with an environment.
    fn run(&self, environment: &[(&str, &str)]) -> Outcome {
        let arguments: &[&str] = if self.job.path("state.json").exists() { &Job::RESUME } else { &Job::SYNC };
        Outcome::from(self.job.command(arguments).envs(environment.iter().copied()).output().expect("run lakeward"))
    }

    /// The steps that a run reaches, each with the number of times.
    fn trace(&mut self) -> BTreeMap<String, usize> {
        self.prepare();
        let trace = self.job.path("trace");
        let _ = std::fs::remove_file(&trace);
        self.run(&[("LAKEWARD_FAULTS_TRACE", trace.to_str().expect("UTF-8"))]).succeeded();
        self.compare("left alone");
        let mut steps = BTreeMap::new();
        for step in std::fs::read_to_string(&trace).expect("read the trace").lines() {
            *steps.entry(step.to_owned()).or_default() += 1;
        }
        steps
    }

    fn prepare(&mut self) {
        if self.mode == Mode::Load {
            self.begin_anew();
        }
        self.change();
    }

    /// A run dies at a step, and another one goes on. Says whether it has died.
    fn die_at(&mut self, step: &str, time: usize) -> bool {
        self.prepare();
        let script = format!("{step}#{time}=crash");
        let outcome = self.run(&[("LAKEWARD_FAULTS", &script)]);
        // What runs at the same time is not reached equally often in each run.
        let died = outcome.code.is_none();
        assert!(died || outcome.code == Some(exit::DONE), "{}, {script}: {}", self.name, outcome.stderr);
        self.go_on(&script);
        died
    }

    /// A step of a run fails, with an error that may pass or one that stays; the run ends in order, and another one goes on.
    fn fail_at(&mut self, step: &str, fault: &str) {
        self.prepare();
        let script = format!("{step}#1={fault}");
        let outcome = self.run(&[("LAKEWARD_FAULTS", &script)]);
        let codes = [exit::DONE, exit::SOURCE, exit::DESTINATION];
        // Of damaged bytes, what is wrong with them is told.
        let told = outcome.code == Some(exit::DONE) || step.ends_with(".bytes") || outcome.stderr.contains(step);
        let fine = outcome.code.is_some_and(|code| codes.contains(&code)) && told && !outcome.stderr.contains("panicked");
        assert!(fine, "{}, {script}: code {:?}: {}", self.name, outcome.code, outcome.stderr);
        self.go_on(&script);
    }

    /// A step of a run never ends. Whoever asks twice gets rid of it, and another one goes on.
    fn hang_at(&mut self, step: &str) {
        self.prepare();
        let script = format!("{step}#1=hang");
        let trace = self.job.path("trace");
        let _ = std::fs::remove_file(&trace);
        let mut command = self.job.command(&Job::RESUME);
        command.env("LAKEWARD_FAULTS", &script).env("LAKEWARD_FAULTS_TRACE", &trace);
        let mut running = self.job.start_command(command);
        let reached = || std::fs::read_to_string(&trace).is_ok_and(|steps| steps.lines().any(|name| name == step));
        wait_until("the step is reached", 60, || reached() || running.is_over());
        running.signal_if_running("TERM");
        std::thread::sleep(Duration::from_millis(200));
        running.signal_if_running("TERM");
        let hung = reached();
        let outcome = running.finish_within(Duration::from_secs(20));
        assert!(hung && outcome.code.is_some() && !outcome.stderr.contains("panicked"), "{}, {script}: {}", self.name, outcome.stderr);
        self.go_on(&script);
    }

    fn go_on(&mut self, after: &str) {
        // Every other time, the next run finds nothing more to do than what the dead one has left.
        self.disturbed += 1;
        if self.disturbed.is_multiple_of(2) {
            self.change();
        }
        let outcome = self.run(&[]);
        assert_eq!(outcome.code, Some(exit::DONE), "{}, after {after}: {}", self.name, outcome.stderr);
        self.compare(after);
    }

    fn ask(&self, table: &str, query: &str) -> Value {
        let mut question = match (self.target, &self.store) {
            (Target::Parquet, _) => json!({"files": self.job.files(&format!("public.{table}"))}),
            (Target::ParquetS3, Some(store)) => {
                json!({"files": published(&self.job.table_folder(&store.files_root(), &format!("public.{table}")))})
            }
            (Target::IcebergSql, _) => json!({"sqlite": [self.job.path("catalog.db"), table]}),
            (Target::IcebergRest, _) => {
                let namespace = self.job.stream(&format!("public.{table}"))["destination_database"].clone();
                let namespace = namespace.as_str().expect("a name").replace(':', "_");
                json!({"iceberg": Seaweed::shared().lake(&namespace, table)})
            }
            _ => json!({"iceberg": self.job.table_folder(&self.job.lake(), &format!("public.{table}"))}),
        };
        question["query"] = json!(query);
        self.witness.borrow_mut().ask(&question).unwrap_or_else(|why| panic!("{}: {why}", self.name))
    }

    /// The destination has what the database has, and of a log exactly what happened.
    fn compare(&self, after: &str) {
        for table in ["t", "u"] {
            let list = |sql: &str| -> Value { serde_json::from_str(&self.database.sql(sql)).expect("JSON") };
            let names = list(&format!(
                "SELECT json_agg(attname ORDER BY attnum) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped"
            ));
            let names: Vec<&str> = names.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
            // Of a log, an UPDATE that leaves a large value as it is does not have it.
            let names: Vec<&str> = names.into_iter().filter(|name| !self.is_log() || *name != "big").collect();
            let columns = names.join(", ");
            // A function takes a hundred arguments; there may be more columns.
            let values: Vec<String> = names.iter().map(|name| format!("to_json({name})")).collect();
            let expected = list(&format!("SELECT coalesce(json_agg(ARRAY[{}] ORDER BY id), '[]') FROM {table}", values.join(", ")));
            let query = match self.is_log() {
                false => format!("SELECT {columns} FROM $table ORDER BY id"),
                true => format!(
                    "SELECT {columns} FROM (SELECT * FROM $table QUALIFY row_number() OVER (PARTITION BY id ORDER BY _cdc_order DESC) = 1) WHERE _op_type <> 'd' ORDER BY id"
                ),
            };
            let found = self.ask(table, &query);
            same(&format!("{} after {after}: {table}", self.name), &found, &expected);
            if self.is_log() {
                let twice = self.ask(table, "SELECT id, _op_type, _cdc_order FROM $table GROUP BY ALL HAVING count(*) > 1");
                same(&format!("{} after {after}: of {table} came twice", self.name), &twice, &json!([]));
            }
            if self.is_log() && self.mode != Mode::Load {
                let happened = list(&format!(
                    "SELECT json_agg(json_build_array(op, id) ORDER BY op COLLATE \"C\", id) FROM audit WHERE of = '{table}'"
                ));
                let logged = self.ask(table, "SELECT _op_type, id FROM $table WHERE _op_type <> 'r' ORDER BY _op_type, id");
                same(&format!("{} after {after}: the log of {table}", self.name), &logged, &happened);
            }
        }
    }
}

/// Shows where two lists differ, and not all of them.
fn same(what: &str, found: &Value, expected: &Value) {
    if found == expected {
        return;
    }
    let (found, expected) = (found.as_array().expect("rows"), expected.as_array().expect("rows"));
    let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).take(5).collect();
    let surplus: Vec<_> = found.iter().filter(|row| !expected.contains(row)).take(5).collect();
    panic!("{what}: {} rows for {}; missing {missing:?}, too many {surplus:?}", found.len(), expected.len());
}

/// A case of which a first run has come to its end, and the steps of the next.
fn begun(mode: Mode, target: Target, label: &str) -> (Case, BTreeMap<String, usize>) {
    let mut case = Case::new(mode, target, label);
    if matches!(mode, Mode::Changes | Mode::Evolution | Mode::Incremental) {
        case.run(&[]).succeeded();
        // Rows that were copied are not in the log as changes.
        case.database.sql("TRUNCATE audit");
    }
    let steps = case.trace();
    assert!(steps.len() > 5, "{}: {steps:?}", case.name);
    (case, steps)
}

fn all_crashes(mode: Mode, target: Target) {
    let (mut case, steps) = begun(mode, target, "");
    let exhaustive = std::env::var_os("LAKEWARD_EXHAUSTIVE").is_some();
    let mut cells = Vec::new();
    for (number, (step, times)) in steps.iter().enumerate() {
        // Neighbours in the matrix take turns.
        let first = (number + mode as usize + target as usize).is_multiple_of(2);
        let mut at: Vec<usize> = if exhaustive { (1..=*times).collect() } else { vec![if first { 1 } else { *times }] };
        let mut died = at.iter().filter(|time| case.die_at(step, **time)).count();
        // What runs at the same time is not reached equally often in each run: a last time may not come, the first does.
        if died == 0 && at != [1] {
            at.push(1);
            died = usize::from(case.die_at(step, 1));
        }
        // Tables are made by the first run only.
        if died == 0 && mode == Mode::FullRefresh {
            case.begin_anew();
            at.push(1);
            died = usize::from(case.die_at(step, 1));
        }
        cells.push(json!({"step": step, "reached": times, "tried": at.len(), "died": died}));
    }
    let left: Vec<_> = files_under(&case.job.lake()).into_iter().filter(|path| path.to_string_lossy().contains(".tmp")).collect();
    assert!(left.is_empty(), "{}: left in the destination: {left:?}", case.name);
    let died = cells.iter().filter_map(|cell| cell["died"].as_u64()).sum::<u64>();
    // Some steps depend on which of two tables is first, or are those of a first run; that hardly anything dies would prove nothing.
    let alive: Vec<_> = cells.iter().filter(|cell| cell["died"] == 0).collect();
    assert!(alive.len() * 5 <= cells.len(), "{}: nothing dies at {alive:?}", case.name);
    eprintln!("{}: {died} runs died at {} steps; nothing at {alive:?}", case.name, cells.len());
    if let Some(folder) = std::env::var_os("LAKEWARD_PROOF") {
        let file = std::path::Path::new(&folder).join(format!("crashes-{}.json", case.name));
        let report = json!({"mode": format!("{mode:?}"), "target": format!("{target:?}"), "cells": cells});
        std::fs::write(file, report.to_string()).expect("write the report");
    }
}

fn all_failures(target: Target) {
    let (mut case, steps) = begun(Mode::Changes, target, "fails");
    case.job.edit("source.json", |source| source["retry_count"] = json!(1));
    for step in steps.keys().filter(|step| !step.ends_with(".bytes")) {
        case.fail_at(step, "fail");
        case.fail_at(step, "refuse");
    }
    // What is read is damaged on its way: nothing is made of it.
    for step in steps.keys().filter(|step| step.ends_with(".bytes")) {
        case.fail_at(step, "cut");
        case.fail_at(step, "junk");
    }
}

#[test]
fn failing_at_every_step_to_parquet() {
    all_failures(Target::ParquetS3);
}

#[test]
fn failing_at_every_step_to_iceberg() {
    all_failures(Target::Iceberg);
}

#[test]
fn hanging_at_every_step() {
    let (mut case, steps) = begun(Mode::Changes, Target::IcebergSql, "hangs");
    for step in steps.keys().filter(|step| !step.ends_with(".bytes")) {
        case.hang_at(step);
    }
}

/// A test for each mode and destination.
macro_rules! matrix {
    ($($name:ident: $mode:ident),*) => {
        $(mod $name {
            use super::{Mode, Target, all_crashes};

            #[test]
            fn dying_at_every_step_to_parquet() {
                all_crashes(Mode::$mode, Target::Parquet);
            }

            #[test]
            fn dying_at_every_step_to_parquet_on_s3() {
                all_crashes(Mode::$mode, Target::ParquetS3);
            }

            #[test]
            fn dying_at_every_step_to_iceberg() {
                all_crashes(Mode::$mode, Target::Iceberg);
            }

            #[test]
            fn dying_at_every_step_to_iceberg_of_an_sql_catalog() {
                all_crashes(Mode::$mode, Target::IcebergSql);
            }

            #[test]
            fn dying_at_every_step_to_iceberg_of_a_rest_catalog() {
                all_crashes(Mode::$mode, Target::IcebergRest);
            }
        })*
    };
}

matrix!(full_refresh: FullRefresh, incremental: Incremental, load: Load, changes: Changes, evolution: Evolution);
