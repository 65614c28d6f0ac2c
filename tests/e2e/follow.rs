//! `sync --follow`: runs that do not end by themselves.

use super::capture::job;
use crate::support::lakeward::{Job, Running, exit, published};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same_iceberg, count, duckdb};
use crate::support::s3::ObjectStore;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Longer than anything here takes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn start(job: &Job, state: bool) -> Running {
    let mut arguments = if state { Job::RESUME.to_vec() } else { Job::SYNC.to_vec() };
    arguments.extend(["--follow", "--commit-interval", "300ms"]);
    job.start(&arguments)
}

/// The run must be going on; it is asked to stop and must come to a good end.
#[track_caller]
fn stop(mut running: Running) -> String {
    assert!(!running.is_over(), "the run has ended: {}", running.finish().stderr);
    running.signal("TERM");
    running.finish().succeeded().stderr
}

fn lsn(state: &Value, stream: &str) -> String {
    state["lakeward"]["captures"][stream]["lsn"].as_str().unwrap_or_default().to_owned()
}

/// Waits until a stream has been followed to where the log ends now.
pub fn caught_up(job: &Job, database: &Database, stream: &str) {
    let end = database.sql("SELECT pg_current_wal_insert_lsn()").trim().to_owned();
    until(&format!("{stream} at {end}"), || {
        let reached = if job.path("state.json").exists() { lsn(&job.read("state.json"), stream) } else { String::new() };
        !reached.is_empty() && database.sql(&format!("SELECT '{reached}'::pg_lsn >= '{end}'::pg_lsn")).trim() == "t"
    });
}

/// Changes arrive while the run goes on, the slot is told, and a signal ends it well.
#[test]
fn changes_arrive_until_a_signal_comes() {
    let database = Server::shared().database("followone");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 100) i; CREATE TABLE other (id int)");
    let job = job(&database, "followone", Some(json!({})));
    job.select(&["public.t"]);
    let running = start(&job, false);
    caught_up(&job, &database, "public.t");
    for round in 0..3 {
        database.sql(&format!("INSERT INTO t VALUES (1000 + {round}, 'new'); UPDATE t SET v = v || '{round}' WHERE id % 3 = {round}; DELETE FROM t WHERE id = {round} + 50"));
        caught_up(&job, &database, "public.t");
        assert_same_iceberg(&job, &database, "public.t");
    }
    // Nothing of ours changes, and the slot moves nevertheless.
    database.sql("INSERT INTO other SELECT generate_series(1, 10000)");
    caught_up(&job, &database, "public.t");
    let end = database.sql("SELECT pg_current_wal_insert_lsn()").trim().to_owned();
    database.sql("INSERT INTO other SELECT generate_series(1, 10000)");
    until("the slot", || {
        database.sql(&format!("SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = 'followone'")).trim()
            == "t"
    });
    // Nor does another database of the server hold it back.
    let busy = Server::shared().database("followbusy");
    busy.sql("CREATE TABLE b AS SELECT generate_series(1, 100000) i");
    let end = busy.sql("SELECT pg_current_wal_insert_lsn()").trim().to_owned();
    busy.sql("UPDATE b SET i = -i");
    until("the slot, while another database writes", || {
        database.sql(&format!("SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = 'followone'")).trim()
            == "t"
    });
    // What was committed just before the signal is not left for the next run.
    database.sql("INSERT INTO t VALUES (5000, 'last')");
    std::thread::sleep(Duration::from_millis(100));
    let said = stop(running);
    assert!(said.contains("stopping"), "{said}");
    assert_same_iceberg(&job, &database, "public.t");
    job.resume().succeeded();
}

/// A column that comes, one that is renamed, one that goes, a wider type, a default for the rows that are there: the run goes on.
#[test]
fn tables_change_while_they_are_followed() {
    let database = Server::shared().database("followshape");
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text, n int, gone text); INSERT INTO t SELECT i, 'v', i, 'g' FROM generate_series(1, 50) i;
         CREATE TABLE still (id int PRIMARY KEY, v text); INSERT INTO still VALUES (1, 'x')",
    );
    let job = job(&database, "followshape", Some(json!({})));
    let running = start(&job, false);
    caught_up(&job, &database, "public.t");
    let step = |sql: &str| {
        database.sql(sql);
        caught_up(&job, &database, "public.t");
        caught_up(&job, &database, "public.still");
        // For the readers' sake; the run has read its catalog long ago.
        std::fs::remove_file(job.path("streams.json")).expect("remove");
        job.discover();
        for stream in ["public.t", "public.still"] {
            assert_same_iceberg(&job, &database, stream);
        }
    };
    step(
        "UPDATE t SET v = 'before' WHERE id < 10; ALTER TABLE t ADD x numeric(10,2); INSERT INTO t VALUES (100, 'new', 1, 'g', 1.5); UPDATE still SET v = 'y'",
    );
    step(
        "BEGIN; UPDATE t SET v = 'old name' WHERE id < 5; ALTER TABLE t RENAME v TO w; UPDATE t SET w = 'new name' WHERE id BETWEEN 5 AND 7; COMMIT; UPDATE t SET w = w || '+' WHERE id = 8; INSERT INTO still VALUES (2, 'z')",
    );
    step("UPDATE t SET n = 5 WHERE id = 9; ALTER TABLE t ALTER n TYPE bigint; UPDATE t SET n = 5000000000 WHERE id = 10");
    step("ALTER TABLE t ADD filled text DEFAULT 'd'; UPDATE t SET w = 'after' WHERE id = 11; DELETE FROM t WHERE id = 12");
    // Two columns change their names; the changes before and after it have the same names.
    step(
        "UPDATE t SET w = 'w', filled = 'f' WHERE id = 13; ALTER TABLE t RENAME w TO tmp; ALTER TABLE t RENAME filled TO w; ALTER TABLE t RENAME tmp TO filled; UPDATE t SET w = 'f', filled = 'w' WHERE id = 14",
    );
    database.sql(
        "UPDATE t SET gone = 'h' WHERE id = 15; ALTER TABLE t DROP gone; UPDATE t SET n = 1 WHERE id = 16; UPDATE still SET v = 'last'",
    );
    caught_up(&job, &database, "public.t");
    let said = stop(running);
    assert!(said.contains("has got other columns"), "{said}");
    assert_same_iceberg(&job, &database, "public.still");
}

/// What cannot be followed stops its table, and the others go on; at the end the run says so.
#[test]
fn a_table_that_fails_leaves_the_others_going() {
    let database = Server::shared().database("followfail");
    database.sql("CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY, v int); INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1); CREATE TABLE c (id int PRIMARY KEY)");
    let job = job(&database, "followfail", Some(json!({})));
    let running = start(&job, false);
    caught_up(&job, &database, "public.a");
    database.sql("ALTER TABLE a ALTER v TYPE text USING 'no number ' || v; INSERT INTO a VALUES (2, 'two'); INSERT INTO b VALUES (2, 2); DROP TABLE c");
    caught_up(&job, &database, "public.b");
    assert_same_iceberg(&job, &database, "public.b");
    database.sql("INSERT INTO b VALUES (3, 3)");
    caught_up(&job, &database, "public.b");
    assert_same_iceberg(&job, &database, "public.b");
    running.signal("INT");
    running.finish().failed(exit::SCHEMA, &["public.a"]);
}

/// The server restarts, connections are cut, a run is killed: the run goes on by itself, or the next one does.
#[test]
fn outages_are_outlived() {
    let server = Server::own();
    let database = server.database("followout");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 1000) i");
    let job = job(&database, "followout", Some(json!({})));
    job.edit("source.json", |source| source["retry_count"] = json!(0));
    let running = start(&job, false);
    caught_up(&job, &database, "public.t");
    database.sql("UPDATE t SET v = 'cut' WHERE id < 100; SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL AND database = current_database(); UPDATE t SET v = v || '+' WHERE id < 50");
    caught_up(&job, &database, "public.t");
    assert_same_iceberg(&job, &database, "public.t");
    for how in ["restart -m fast", "restart -m immediate"] {
        database.sql("UPDATE t SET v = v || 'r' WHERE id % 10 = 0");
        server.control(how);
        database.sql("DELETE FROM t WHERE id IN (SELECT id FROM t ORDER BY id LIMIT 10)");
        caught_up(&job, &database, "public.t");
        assert_same_iceberg(&job, &database, "public.t");
    }
    database.sql("UPDATE t SET v = 'killed' WHERE id % 7 = 0");
    running.kill();
    let running = start(&job, true);
    caught_up(&job, &database, "public.t");
    stop(running);
    assert_same_iceberg(&job, &database, "public.t");
}

/// A commit takes effect, and its answer is lost with everything that is asked after it: when the store is back the run finds the commit, and
/// does not make it again.
#[test]
fn a_commit_whose_answer_is_lost_is_not_made_twice() {
    let store = ObjectStore::start();
    let database = Server::shared().database("followlost");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0)");
    let job = job(&database, "followlost", None);
    job.write_destination(store.writer());
    let running = start(&job, false);
    caught_up(&job, &database, "public.t");
    store.fail_at_the_next_commit();
    database.sql("INSERT INTO t SELECT generate_series(1, 10)");
    until("the commit", || store.is_down());
    // Longer than a request is sent again.
    std::thread::sleep(Duration::from_secs(75));
    database.sql("INSERT INTO t SELECT generate_series(11, 20)");
    store.recover();
    caught_up(&job, &database, "public.t");
    let said = stop(running);
    assert!(said.contains("attempt 1 in 1 s"), "the answer was not lost: {said}");
    let files = published(&job.table_folder(&store.files_root(), "public.t"));
    assert_eq!(duckdb(&files, "SELECT count(*), count(DISTINCT id) FROM $files"), json!([[21, 21]]));
}

/// Streams that have been loaded are followed while another one is still being copied, and the slot keeps what that one will need.
#[test]
fn streams_are_followed_while_others_are_copied() {
    let database = Server::shared().database("followbeside");
    database.sql("CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (1, 'x'); CREATE TABLE b (id int PRIMARY KEY, v text, g regdictionary);
                  INSERT INTO b SELECT i, 'b', 'simple' FROM generate_series(1, 1000) i; CREATE PUBLICATION followbeside_pub FOR TABLE a, b");
    let job = job(&database, "followbeside", Some(json!({})));
    let all = job.read("streams.json");
    job.select(&["public.a"]);
    job.sync().succeeded();
    job.write("streams.json", &all);
    let confirmed = || database.sql("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'followbeside'");
    let before = confirmed();
    let gate = database.gate();
    let running = start(&job, true);
    gate.wait_for_reader();
    for round in 0..3 {
        database.sql(&format!("INSERT INTO a VALUES (10 + {round}, 'y')"));
        caught_up(&job, &database, "public.a");
        assert_same_iceberg(&job, &database, "public.a");
    }
    // What is being copied will need the log from here on.
    assert_eq!(confirmed(), before);
    database.sql("UPDATE b SET v = 'after the copy began' WHERE id % 5 = 0; DELETE FROM b WHERE id = 1; INSERT INTO a VALUES (20, 'z')");
    gate.open();
    for stream in ["public.a", "public.b"] {
        caught_up(&job, &database, stream);
        assert_same_iceberg(&job, &database, stream);
    }
    stop(running);
    assert_ne!(confirmed(), before);
}

/// A stream that is ahead of another one, which had failed, does not get again what it has, however often there is a commit meanwhile.
#[test]
fn streams_at_different_positions_get_each_change_once() {
    let database = Server::shared().database("followahead");
    database.sql("CREATE TABLE a (id int); CREATE TABLE b (id int); CREATE PUBLICATION followahead_pub FOR TABLE a, b");
    let job = job(&database, "followahead", None);
    let policy = |word: &str| job.edit("source.json", |source| source["update_method"]["on_truncate"] = json!(word));
    policy("fail");
    job.sync().succeeded();
    database.sql("TRUNCATE b");
    let mut session = database.session();
    (0..60).for_each(|i| drop(session.sql(&format!("INSERT INTO a VALUES ({i}); INSERT INTO b VALUES ({i})"))));
    job.resume().failed(exit::SCHEMA, &["public.b", "on_truncate is fail"]);
    let state = job.read("state.json");
    assert_ne!(lsn(&state, "public.a"), lsn(&state, "public.b"));
    policy("apply");
    let running = job.start(&[&Job::RESUME[..], &["--follow", "--commit-interval", "1ms"]].concat());
    caught_up(&job, &database, "public.b");
    stop(running);
    for stream in ["public.a", "public.b"] {
        let found = duckdb(&job.files(stream), "SELECT count(*), count(DISTINCT id) FROM $files WHERE _op_type = 'c'");
        assert_eq!(found, json!([[60, 60]]), "{stream}");
    }
}

/// One stream is copied again, the others go on.
#[test]
fn a_stream_is_copied_again() {
    let database = Server::shared().database("followreload");
    database.sql("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text); INSERT INTO a VALUES (1, 'x'); INSERT INTO b VALUES (1, 'x')");
    let job = job(&database, "followreload", Some(json!({})));
    job.sync().succeeded();
    // A change that the log does not have.
    database.sql("ALTER PUBLICATION followreload_pub DROP TABLE a; UPDATE a SET v = 'unseen'; ALTER PUBLICATION followreload_pub ADD TABLE a; UPDATE b SET v = 'y'");
    let with = |more: &[&str]| job.run(&[&Job::RESUME[..], more].concat());
    with(&["--reload"]).failed(exit::CONFIG, &["--reload", "namespace.name"]);
    with(&["--reload", "public.c"]).failed(exit::CONFIG, &["public.c"]);
    let before = job.read("state.json")["lakeward"]["captures"]["public.b"]["load"].clone();
    with(&["--reload", "public.a"]).succeeded();
    assert_eq!(job.read("state.json")["lakeward"]["captures"]["public.b"]["load"], before);
    for stream in ["public.a", "public.b"] {
        assert_same_iceberg(&job, &database, stream);
    }
    database.sql("UPDATE a SET v = 'z'");
    with(&["--only", "public.a", "--reload"]).succeeded();
    assert_same_iceberg(&job, &database, "public.a");
}

/// `on_slot_lag` stop, while the run goes on: a transaction that stays open keeps the server from forgetting anything.
#[test]
fn a_slot_that_holds_back_too_much_meanwhile() {
    let server = Server::own();
    let database = server.database("followlag");
    database.sql("CREATE TABLE t (id int PRIMARY KEY)");
    let job = job(&database, "followlag", Some(json!({})));
    job.edit("source.json", |source| {
        source["update_method"]["max_slot_lag_bytes"] = json!(20_000_000);
        source["update_method"]["on_slot_lag"] = json!("stop");
    });
    let running = start(&job, false);
    caught_up(&job, &database, "public.t");
    let mut open = database.session();
    open.sql("BEGIN; INSERT INTO t VALUES (1)");
    database.sql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)) IS NULL FROM generate_series(1, 40); CHECKPOINT");
    running.finish().failed(exit::SOURCE, &["slot_lag", "max_slot_lag_bytes"]);
}

/// `commit_interval_s` and `heartbeat_s` of the source file act; a run without anything to follow is refused.
#[test]
fn keys_of_an_endless_run() {
    let database = Server::shared().database("followkeys");
    database.sql("CREATE TABLE t (id int PRIMARY KEY)");
    let job = job(&database, "followkeys", None);
    job.edit("source.json", |source| {
        source["update_method"]["commit_interval_s"] = json!("1s");
        source["update_method"]["heartbeat_s"] = json!(0.2);
    });
    let running = job.start(&[&Job::SYNC[..], &["--follow", "--log-format", "json"]].concat());
    caught_up(&job, &database, "public.t");
    database.sql("SELECT pg_create_logical_replication_slot('followkeys_peek', 'test_decoding')");
    let begun = Instant::now();
    let mut writer = database.session();
    let mut written = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        written += 1;
        writer.sql(&format!("INSERT INTO t VALUES ({written})"));
        std::thread::sleep(Duration::from_millis(20));
    }
    caught_up(&job, &database, "public.t");
    let said = stop(running);
    let commits = said.matches("changes of 1 streams").count();
    assert!((2..=8).contains(&commits), "{commits}: {said}");
    assert_eq!(count(&job.files("public.t")), written);
    assert_eq!(duckdb(&job.files("public.t"), "SELECT count(DISTINCT id) FROM $files"), json!([[written]]));
    let beats = database.sql("SELECT count(*) FROM pg_logical_slot_get_changes('followkeys_peek', NULL, NULL) WHERE data LIKE 'message: transactional: 1 prefix: lakeward%'");
    let beats: u32 = beats.trim().parse().expect("a number");
    assert!(beats >= 10, "{beats}");
    database.sql("SELECT pg_drop_replication_slot('followkeys_peek')");
    let other = Job::new(&database);
    other.discover();
    other.run(&[&Job::SYNC[..], &["--follow"]].concat()).failed(exit::CONFIG, &["--follow", "sync_mode"]);
}
