//! Tables that are copied in ranges of their key while they are followed (`backfill.mode` `watermark`).

use super::capture::job;
use crate::support::dice::Dice;
use crate::support::lakeward::{Job, Running, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same_iceberg, duckdb};
use serde_json::{Value, json};
use std::time::Duration;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, n numeric, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
     INSERT INTO t SELECT i * 3, 'v' || i, i, repeat('b', i % 3 * 1500) FROM generate_series(1, 20000) i;
     CREATE TABLE pair (a text, b bigint, x text, PRIMARY KEY (a, b)); INSERT INTO pair SELECT 'k' || i % 7, i, 'x' FROM generate_series(1, 9000) i;
     CREATE TABLE parted (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
     CREATE TABLE parted_0 PARTITION OF parted FOR VALUES FROM (0) TO (10); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (10) TO (20);
     INSERT INTO parted SELECT i, i % 20, 'p' FROM generate_series(1, 6000) i;
     CREATE TABLE keyless (v text); INSERT INTO keyless SELECT 'k' || i FROM generate_series(1, 100) i; ANALYZE";

/// A job that copies in ranges of about 1000 rows.
fn ranges(database: &Database, slot: &str, iceberg: Option<Value>) -> Job {
    let job = job(database, slot, iceberg);
    job.edit("source.json", |source| source["backfill"] = json!({"mode": "watermark", "chunk_rows": 1000}));
    job
}

/// What happens to `t` and `pair` beside the copy, wherever the copy is.
fn work(dice: &mut Dice) -> String {
    let (id, other) = (dice.below(60_000), dice.below(60_000));
    match dice.below(8) {
        0 => format!("INSERT INTO t VALUES ({id}, 'new', 1, repeat('n', 3000)) ON CONFLICT (id) DO UPDATE SET v = 'again'"),
        1 => format!("UPDATE t SET v = left(v, 30) || '+' WHERE id BETWEEN {id} AND {id} + 300"),
        2 => format!("DELETE FROM t WHERE id BETWEEN {id} AND {id} + 60"),
        3 => format!(
            "UPDATE t SET id = 100000 + {other}, big = 'moved' WHERE id = (SELECT min(id) FROM t WHERE id > {id}) AND NOT EXISTS (SELECT FROM t WHERE id = 100000 + {other})"
        ),
        4 => format!("BEGIN; DELETE FROM t WHERE id < {id}; ROLLBACK"),
        5 => format!("UPDATE pair SET a = 'k' || ({id} % 7), x = 'moved' WHERE b % 100 = {}", other % 100),
        6 => format!("UPDATE parted SET day = (day + 7) % 20 WHERE id % 50 = {}", id % 50),
        _ => format!(
            "BEGIN; UPDATE t SET n = n + 1 WHERE id % 40 = {}; SAVEPOINT s; UPDATE t SET v = 'void'; ROLLBACK TO s; COMMIT",
            id % 40
        ),
    }
}

/// Writes to the database from another session until it is dropped.
struct Load(std::sync::Arc<std::sync::atomic::AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Load {
    fn start(database: &Database, mut dice: Dice) -> Self {
        let ends = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (mut session, told) = (database.session(), ends.clone());
        let writer = std::thread::spawn(move || {
            while !told.load(std::sync::atomic::Ordering::Relaxed) {
                session.sql(&work(&mut dice));
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self(ends, Some(writer))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Some(writer) = self.1.take() {
            writer.join().expect("the load");
        }
    }
}

const STREAMS: [&str; 4] = ["public.t", "public.pair", "public.parted", "public.keyless"];

/// Ranges whose rows change, move and go before, while and after they are copied, with runs that are killed anywhere.
fn a_copy_beside_a_load(name: &str, keys: Value) {
    let mut dice = Dice::new(Dice::seed());
    let database = Server::shared().database(name);
    database.sql(TABLES);
    let job = ranges(&database, name, Some(keys));
    let load = Load::start(&database, Dice::new(dice.seeded() ^ 1));
    let mut kills = 0;
    for _ in 0..6 {
        let running = job.start(if job.path("state.json").exists() { &Job::RESUME } else { &Job::SYNC });
        std::thread::sleep(Duration::from_millis(700 + dice.below(2500) as u64));
        kills += usize::from(running.kill().code.is_none());
    }
    assert!(kills > 0, "nothing was killed");
    let first = job.run(if job.path("state.json").exists() { &Job::RESUME } else { &Job::SYNC }).succeeded();
    assert!(first.stderr.contains("it has no primary key to cut it by"), "{}", first.stderr);
    drop(load);
    job.resume().succeeded();
    for stream in STREAMS {
        assert_same_iceberg(&job, &database, stream);
    }
    let state = job.read("state.json");
    assert!(state["lakeward"]["captures"]["public.t"].get("left").is_none(), "{state}");
}

#[test]
fn a_copy_beside_a_load_ends_in_the_same_table() {
    a_copy_beside_a_load("caprange", json!({}));
}

#[test]
fn a_copy_beside_a_load_ends_in_the_same_table_by_position() {
    a_copy_beside_a_load("caprangepos", json!({"delete_files": "position"}));
}

/// The slot moves on while the table is copied, the copy goes on where a signal has stopped it, and no transaction is held open.
#[test]
fn a_copy_beside_changes_holds_nothing_back() {
    let database = Server::shared().database("caprangeslot");
    database.sql(TABLES);
    let job = ranges(&database, "caprangeslot", Some(json!({})));
    job.edit("source.json", |source| source["backfill"]["chunk_rows"] = json!(400));
    job.select(&["public.t"]);
    let arguments = [&Job::SYNC[..], &Job::FOLLOW].concat();
    let running = job.start(&arguments);
    let confirmed = || {
        database.sql("SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = 'caprangeslot'").trim().parse::<u64>()
    };
    let left = || {
        job.path("state.json")
            .exists()
            .then(|| job.read("state.json")["lakeward"]["captures"]["public.t"]["left"].as_array().map_or(0, Vec::len))
    };
    let mut positions = Vec::new();
    let begun = std::time::Instant::now();
    while positions.len() < 3 && begun.elapsed() < Duration::from_secs(120) {
        database.sql("UPDATE t SET n = n + 1 WHERE id = 30");
        std::thread::sleep(Duration::from_millis(100));
        if let (Ok(position), Some(1..)) = (confirmed(), left())
            && positions.last() != Some(&position)
        {
            positions.push(position);
        }
    }
    assert_eq!(positions.len(), 3, "the slot stood still");
    running.signal("TERM");
    let outcome = running.finish();
    assert!([Some(exit::INTERRUPTED), Some(exit::DONE)].contains(&outcome.code), "{}", outcome.stderr);
    job.resume().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
    // Another copy takes the place of the first.
    database.sql("DELETE FROM t WHERE id % 2 = 0");
    let mut again = Job::RESUME.to_vec();
    again.extend(["--reload", "public.t"]);
    job.run(&again).succeeded();
    assert_same_iceberg(&job, &database, "public.t");
}

/// The columns change and all rows go while the copy is under way.
#[test]
fn tables_change_while_they_are_copied_in_ranges() {
    let database = Server::shared().database("caprangeddl");
    database.sql(TABLES);
    let job = ranges(&database, "caprangeddl", Some(json!({})));
    job.select(&["public.t", "public.pair"]);
    let running = job.start(&Job::SYNC);
    std::thread::sleep(Duration::from_millis(1500));
    running.kill();
    database.sql(
        "UPDATE t SET v = 'before' WHERE id % 9 = 0; ALTER TABLE t ADD late int; ALTER TABLE t RENAME n TO amount; UPDATE t SET late = id WHERE id % 12 = 0;
         TRUNCATE pair; INSERT INTO pair VALUES ('after', 1, 'x')",
    );
    job.run(&["discover", "--config", "source.json", "--streams", "streams.json"]).succeeded();
    super::capture::follow(&job);
    job.run(if job.path("state.json").exists() { &Job::RESUME } else { &Job::SYNC }).succeeded();
    for stream in ["public.t", "public.pair"] {
        assert_same_iceberg(&job, &database, stream);
    }
}

/// A change log that was begun beside its copy folds to the table, and has each copied row once.
#[test]
fn a_change_log_is_copied_beside_its_changes() {
    let mut dice = Dice::new(Dice::seed());
    let database = Server::shared().database("caprangelog");
    database.sql(TABLES);
    let job = ranges(&database, "caprangelog", None);
    job.select(&["public.t"]);
    let load = Load::start(&database, Dice::new(dice.seeded() ^ 1));
    for _ in 0..4 {
        let running = job.start(if job.path("state.json").exists() { &Job::RESUME } else { &Job::SYNC });
        std::thread::sleep(Duration::from_millis(700 + dice.below(2000) as u64));
        running.kill();
    }
    job.run(if job.path("state.json").exists() { &Job::RESUME } else { &Job::SYNC }).succeeded();
    drop(load);
    job.resume().succeeded();
    let files = job.files("public.t");
    let doubled = duckdb(&files, "SELECT count(*) FROM (SELECT id FROM $files WHERE _op_type = 'r' GROUP BY id HAVING count(*) > 1)");
    assert_eq!(doubled, json!([[0]]), "seed {}", dice.seeded());
    let fold = "SELECT id, v, n FROM (SELECT * FROM $files QUALIFY row_number() OVER (PARTITION BY id ORDER BY _cdc_order DESC) = 1) WHERE _op_type <> 'd' ORDER BY id";
    let rows = database.sql("SELECT coalesce(json_agg(json_build_array(id, v, n::text) ORDER BY id), '[]') FROM t");
    let expected: Value = serde_json::from_str(rows.trim()).expect("JSON");
    assert_eq!(duckdb(&files, fold), expected, "seed {}", dice.seeded());
}

/// What the state has of `public.t`.
fn captured(job: &Job) -> Value {
    match job.path("state.json").exists() {
        true => job.read("state.json")["lakeward"]["captures"]["public.t"].clone(),
        false => Value::Null,
    }
}

/// How many ranges of it are left.
fn left(job: &Job) -> usize {
    captured(job)["left"].as_array().map_or(0, Vec::len)
}

fn wait_until(job: &Job, reached: impl Fn(usize) -> bool) {
    let begun = std::time::Instant::now();
    while !reached(left(job)) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} ranges are left", left(job));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A change log of `t` that is copied in ranges until `stop` has seen enough; then the state becomes what `amend` makes of it, and the next run must copy
/// the rest and nothing else.
fn copied_once(name: &str, stop: impl FnOnce(&Job, Running), amend: impl FnOnce(&Job)) {
    let database = Server::shared().database(name);
    database.sql(TABLES);
    let job = ranges(&database, name, None);
    job.select(&["public.t"]);
    let arguments = [&Job::SYNC[..], &Job::FOLLOW].concat();
    stop(&job, job.start(&arguments));
    amend(&job);
    assert!(left(&job) > 0, "nothing is left to copy");
    job.resume().succeeded();
    assert!(captured(&job).get("left").is_none());
    job.resume().succeeded();
    let counts = duckdb(&job.files("public.t"), "SELECT count(*), count(DISTINCT id) FROM $files WHERE _op_type = 'r'");
    assert_eq!(counts, json!([[20000, 20000]]));
}

/// A run that dies between its commit and its save: the token says what is left, and the state file is behind.
#[test]
fn ranges_that_the_state_does_not_know_of_are_not_copied_twice() {
    let old = std::cell::RefCell::new(Vec::new());
    let stop = |job: &Job, running: Running| {
        wait_until(job, |left| (1..19).contains(&left));
        old.replace(std::fs::read(job.path("state.json")).expect("a state"));
        let then = left(job);
        wait_until(job, |left| left < then.saturating_sub(2));
        running.kill();
    };
    copied_once("caprangeold", stop, |job| std::fs::write(job.path("state.json"), &*old.borrow()).expect("write"));
}

/// A range that is committed at a position that the state had reached before, without having written there.
#[test]
fn a_range_at_a_position_that_was_known_is_not_copied_twice() {
    let before = std::cell::RefCell::new(Value::Null);
    let stop = |job: &Job, running: Running| {
        wait_until(job, |left| left > 1);
        before.replace(captured(job)["left"].clone());
        let then = left(job);
        wait_until(job, |left| left < then);
        running.signal("TERM");
        running.finish();
    };
    let amend = |job: &Job| {
        job.edit("state.json", |state| {
            let captured = &mut state["lakeward"]["captures"]["public.t"];
            captured["left"] = before.take();
            captured["written"] = Value::Null;
        });
    };
    copied_once("caprangesame", stop, amend);
}

/// With a filter, a row that the destination does not have may be one that comes into the filter, and no copy would bring it.
#[test]
fn a_filter_that_the_log_does_not_answer_has_the_table_copied_at_once() {
    let database = Server::shared().database("caprangefilter");
    database.sql(&format!("{TABLES}; ALTER TABLE t ADD k int; UPDATE t SET k = id"));
    let job = ranges(&database, "caprangefilter", Some(json!({})));
    job.select(&["public.t"]);
    job.edit("streams.json", |file| file["selected_streams"]["public"][0]["filter"] = json!("k > 10"));
    let said = job.sync().succeeded().stderr;
    assert!(said.contains("it is copied in one snapshot") && !said.contains("ranges of its key"), "{said}");
    job.edit("streams.json", |file| file["selected_streams"]["public"][0]["filter"] = json!("id > 10"));
    let mut again = Job::RESUME.to_vec();
    again.extend(["--reload", "public.t"]);
    let said = job.run(&again).succeeded().stderr;
    assert!(said.contains("ranges of its key"), "{said}");
    database.sql("UPDATE t SET v = 'w' WHERE id % 7 = 0; CREATE VIEW wanted AS SELECT * FROM t WHERE id > 10");
    job.resume().succeeded();
    crate::support::readback::assert_same_iceberg_as(&job, &database, "public.t", "public.wanted");
}
