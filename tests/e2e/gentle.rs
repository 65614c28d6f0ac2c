//! What a run asks of the server, beside the rows: few connections, no more speed than allowed, limits that hold.

use crate::support::lakeward::Job;
use crate::support::postgres::{Database, Server};
use crate::support::readback::assert_same;
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
