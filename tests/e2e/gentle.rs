//! What a run asks of the server, beside the rows: few connections, no more speed than allowed, limits that hold.

use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::assert_same;
use crate::support::wait_until;
use serde_json::json;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::Instant;

/// Counts our sessions in `pg_stat_activity`, every few milliseconds, in a session of its own.
struct Watch(Child);

impl Watch {
    fn start(database: &Database) -> Self {
        let mut psql = database.psql().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start psql");
        let mut input = psql.stdin.take().expect("psql has a standard input");
        writeln!(
            input,
            "DO $$ DECLARE now int; most int := 0; BEGIN
                WHILE NOT EXISTS (SELECT FROM pg_class WHERE relname = 'finished') LOOP
                    COMMIT;
                    PERFORM pg_stat_clear_snapshot();
                    SELECT count(*) INTO now FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'lakeward';
                    most := greatest(most, now);
                    PERFORM pg_sleep(0.002);
                END LOOP;
                PERFORM set_config('watch.most', most::text, false);
            END $$;
            SELECT current_setting('watch.most');"
        )
        .expect("tell psql what to watch");
        Self(psql)
    }

    /// The most sessions at one time.
    fn most(mut self, database: &Database) -> u32 {
        database.sql("CREATE TABLE finished ()");
        let mut text = String::new();
        self.0.stdout.take().expect("psql has a standard output").read_to_string(&mut text).expect("hear from psql");
        self.0.wait().expect("wait for psql");
        database.sql("DROP TABLE finished");
        text.trim().parse().unwrap_or_else(|_| panic!("psql said {text:?}"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// `max_threads` bounds the connections of a run, the one that holds the snapshot included; two are the least.
#[test]
fn connections_are_counted_all_together() {
    let database = Server::shared().database("connections");
    for table in 0..12 {
        database.sql(&format!("CREATE TABLE t{table} AS SELECT i, md5(i::text) AS x FROM generate_series(1, 20000) i"));
    }
    let job = Job::new(&database);
    for (max_threads, expected) in [(1, 2), (2, 2), (5, 5)] {
        job.edit("source.json", |source| source["max_threads"] = max_threads.into());
        let watch = Watch::start(&database);
        job.run(&["check", "--config", "source.json"]).succeeded();
        job.discover();
        let outcome = job.sync().succeeded();
        assert_eq!(watch.most(&database), expected, "with max_threads {max_threads}");
        assert_eq!(outcome.stderr.contains("two connections are the least"), max_threads == 1, "{}", outcome.stderr);
    }
    assert_eq!(assert_same(&job, &database, "public.t3").rows, 20_000);
}

/// A limit on the rate holds over all readers together, and the run is not slower than it has to be.
#[test]
fn rows_and_bytes_come_no_faster_than_allowed() {
    let database = Server::shared().database("pace");
    for table in ["a", "b", "c"] {
        database.sql(&format!("CREATE TABLE {table} AS SELECT i, repeat(md5(i::text), 8) AS x FROM generate_series(1, 20000) i"));
    }
    let job = Job::new(&database);
    job.discover();
    let timed = |limit: serde_json::Value| {
        job.edit("source.json", |source| source["rate_limit"] = limit);
        job.edit("source.json", |source| source["max_threads"] = 4.into());
        let started = Instant::now();
        job.sync().succeeded();
        started.elapsed().as_secs_f64()
    };
    let free = timed(json!({}));
    assert!(free < 2.0, "{free} s without a limit");
    // 60,000 rows; of the wire, each has 2 bytes, 4 + 4 of the number and 4 + 256 of the text.
    for limit in [json!({"rows_per_second": 15_000}), json!({"bytes_per_second": 4_050_000, "rows_per_second": 50_000})] {
        let took = timed(limit.clone());
        assert!((3.6..4.4 + free).contains(&took), "{limit}: {took} s instead of 4");
    }
    assert_eq!(assert_same(&job, &database, "public.c").rows, 20_000);
}

/// A snapshot that is too old ends the run, and what was done is done.
#[test]
fn a_snapshot_is_held_no_longer_than_allowed() {
    let database = Server::shared().database("age");
    database.sql(
        "CREATE TABLE t (id int NOT NULL, x text) PARTITION BY RANGE (id);
         SELECT format('CREATE TABLE leaf_%s PARTITION OF t FOR VALUES FROM (%s) TO (%s)', k, k * 5000, (k + 1) * 5000) FROM generate_series(0, 7) k \\gexec
         INSERT INTO t SELECT i, md5(i::text) FROM generate_series(0, 39999) i; CHECKPOINT",
    );
    let job = Job::new(&database);
    job.discover();
    job.select(&["public.t"]);
    job.edit("source.json", |source| {
        source["rate_limit"] = json!({"rows_per_second": 8000});
        source["backfill"] = json!({"max_snapshot_age_s": 3});
    });
    let started = Instant::now();
    job.sync().failed(exit::INTERRUPTED, &["snapshot", "max_snapshot_age_s", "3", "kept", "--state"]);
    assert!(started.elapsed().as_secs_f64() < 4.8, "{:?}", started.elapsed());
    assert!(job.files("public.t").is_empty());
    // In the time that was too short for all there is enough for the rest.
    let resumed = job.resume().succeeded();
    assert!(resumed.stderr.contains("still hold"), "{}", resumed.stderr);
    assert_eq!(assert_same(&job, &database, "public.t").rows, 40_000);
    job.assert_no_leftovers();
}

#[test]
fn statements_and_locks_have_limits() {
    let database = Server::shared().database("limits");
    database.sql(
        "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i;
         CREATE VIEW slow AS SELECT i, (SELECT count(*) FROM pg_sleep(0.02 + 0 * i)) AS n FROM generate_series(1, 2000) i",
    );
    let job = Job::new(&database);
    job.edit("source.json", |source| {
        source["include_views"] = json!(true);
        source["statement_timeout_s"] = json!(2);
        source["lock_timeout_s"] = json!(0.5);
    });
    job.discover();
    let started = Instant::now();
    job.sync().failed(exit::SOURCE, &["public.slow", "statement timeout", "statement_timeout_s"]);
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
    assert_eq!(assert_same(&job, &database, "public.t").rows, 1000);

    job.select(&["public.t"]);
    let mut holder = database.psql().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start psql");
    let mut input = holder.stdin.take().expect("psql has a standard input");
    writeln!(input, "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE;").expect("lock");
    wait_until("the table is locked", 20, || {
        database.sql("SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 't'::regclass") == "1"
    });
    let started = Instant::now();
    job.sync().failed(exit::SOURCE, &["lock timeout", "exclusive lock"]);
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    drop(input);
    holder.wait().expect("wait for psql");
    job.sync().succeeded();
}

/// Limits that an administrator has set for everybody do not end a run whose transactions are idle by design.
#[test]
fn idle_limits_of_the_server_do_not_apply() {
    let database = Server::shared().database("idle");
    database.sql(&format!(
        "ALTER DATABASE {0} SET idle_in_transaction_session_timeout = '500ms'; ALTER DATABASE {0} SET idle_session_timeout = '500ms';
         ALTER DATABASE {0} SET statement_timeout = '500ms';
         CREATE TABLE t AS SELECT i, repeat(md5(i::text), 100) AS x FROM generate_series(1, 20000) i",
        database.name
    ));
    let job = Job::new(&database);
    job.edit("source.json", |source| source["rate_limit"] = json!({"rows_per_second": 8000}));
    job.discover();
    job.sync().succeeded();
    // What psql is to look at takes longer than the limit, on a busy machine.
    database.sql(&format!("ALTER DATABASE {} RESET ALL", database.name));
    assert_eq!(assert_same(&job, &database, "public.t").rows, 20_000);
}
