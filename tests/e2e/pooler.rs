//! Through a real pgBouncer: exact, and the server connections go back as they came.

use crate::capture;
use crate::consistency::{assert_one_instant, bank, transfers};
use crate::follow::caught_up;
use crate::support::lakeward::{Job, exit};
use crate::support::pooler::Pooler;
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same, assert_same_iceberg};
use serde_json::json;
use std::process::Stdio;

const POOL: usize = 4;

/// A job that goes through the pooler, with as many connections as that may lend.
fn job(pooler: &Pooler, database: &Database) -> Job {
    let job = Job::new(database);
    job.edit("source.json", |source| {
        source["host"] = json!("127.0.0.1");
        source["port"] = json!(pooler.port);
        source["max_threads"] = json!(POOL);
    });
    job
}

/// Runs SQL in transactions that are open at the same time, one on every server connection of the pool; gives what each says.
fn on_every_connection(pooled: &Database, sql: &str) -> Vec<String> {
    let start = |_| {
        let mut command = pooled.psql();
        // A start-up parameter that this pgBouncer would refuse.
        command.env_remove("PGOPTIONS").args(["-c", &format!("BEGIN; {sql}; SELECT pg_sleep(1); COMMIT")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start psql")
    };
    let children: Vec<_> = (0..POOL).map(start).collect();
    let said = |child: std::process::Child| {
        let output = child.wait_with_output().expect("run psql");
        assert!(output.status.success(), "psql failed");
        String::from_utf8(output.stdout).expect("psql prints UTF-8").trim().to_owned()
    };
    children.into_iter().map(said).collect()
}

/// What a session of ours changes, as one line.
const SETTINGS: &str = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN ('lock_timeout', 'statement_timeout',
    'idle_in_transaction_session_timeout', 'extra_float_digits', 'bytea_output', 'IntervalStyle', 'geqo', 'tcp_keepalives_idle', 'client_connection_check_interval')";

#[test]
fn transaction_mode() {
    let database = bank("pooled", false);
    database.sql(&format!(
        "ALTER DATABASE {0} SET extra_float_digits = 0; ALTER DATABASE {0} SET bytea_output = escape; ALTER DATABASE {0} SET intervalstyle = iso_8601;
         ALTER DATABASE {0} SET idle_in_transaction_session_timeout = '1500ms'; ALTER DATABASE {0} SET statement_timeout = '60s';
         CREATE TYPE pair AS (x float8, y bytea);
         CREATE TABLE t AS SELECT i, 1.1::float8 / i AS f, sha256(i::text::bytea) AS b, i * interval '1 day 3 seconds' AS v,
                timestamptz '2024-03-01 00:00:00+00' + i * interval '1 hour' AS at FROM generate_series(1, 30000) i",
        database.name
    ));
    let Some(pooler) = Pooler::start(&database, "transaction", POOL) else { return };
    let pooled = pooler.before(&database);
    // Others have named statements as a client library would, and left them behind.
    let names: Vec<String> = (0..40).map(|i| format!("PREPARE s{i} AS SELECT {i}")).collect();
    on_every_connection(&pooled, &names.join("; "));
    let before = on_every_connection(&pooled, SETTINGS);
    let writer = transfers(&database);

    let job = job(&pooler, &database);
    job.edit("source.json", |source| {
        source["jdbc_url_params"] = json!({"options": "-c geqo=off -c work_mem=5MB"});
        source["backfill"] = json!({"wire_format": "text"});
        // Slow enough for the holder of the snapshot to be idle for longer than others may be.
        source["rate_limit"] = json!({"rows_per_second": 10_000});
    });
    job.run(&["check", "--config", "source.json"]).succeeded();
    job.discover();
    let outcome = job.sync();
    drop(writer);
    let outcome = outcome.succeeded();
    assert_eq!(outcome.stderr.matches("connection pooler").count(), 1, "{}", outcome.stderr);
    assert!(assert_one_instant(&job) > 0);
    assert_eq!(assert_same(&job, &database, "public.t").rows, 30_000);
    assert_eq!(on_every_connection(&pooled, SETTINGS), before, "settings were left on connections that others use");
    job.resume().succeeded();
    assert!(assert_one_instant(&job) > 0);
    job.assert_no_leftovers();
}

#[test]
fn session_mode_and_statement_mode() {
    let database = Server::shared().database("modes");
    database.sql("CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 5000) i");
    let Some(pooler) = Pooler::start(&database, "session", POOL) else { return };
    let through = job(&pooler, &database);
    through.discover();
    through.sync().succeeded();
    assert_eq!(assert_same(&through, &database, "public.t").rows, 5000);

    let Some(pooler) = Pooler::start(&database, "statement", POOL) else { return };
    through.edit("source.json", |source| source["port"] = json!(pooler.port));
    for arguments in [&["check", "--config", "source.json"][..], &Job::SYNC] {
        through.run(arguments).failed(exit::SOURCE, &["single statements", "pool_mode = transaction"]);
    }
}

/// `capture` poll: changes are read by SQL, with `poll_interval_ms` and `poll_rows`; a replication connection does not come through.
#[test]
fn changes_come_through_a_pooler() {
    let database = Server::shared().database("pooledlog");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 100) i");
    let Some(pooler) = Pooler::start(&database, "transaction", POOL) else { return };
    let job = capture::job(&database, "pooledlog", Some(json!({})));
    job.edit("source.json", |source| {
        source["host"] = json!("127.0.0.1");
        source["port"] = json!(pooler.port);
    });
    let streamed = job.sync();
    assert_ne!(streamed.code, Some(0), "{}", streamed.stderr);
    assert!(streamed.stderr.contains("\"capture\": \"poll\""), "{}", streamed.stderr);
    job.edit("source.json", |source| source["update_method"]["poll_rows"] = json!(7));
    job.sync().failed(exit::CONFIG, &["poll_rows", "capture"]);
    job.edit("source.json", |source| {
        source["update_method"]["capture"] = json!("poll");
        source["update_method"]["poll_interval_ms"] = json!(50);
    });
    job.sync().succeeded();
    let mut other = database.session();
    for round in 0..3 {
        other.sql("BEGIN; INSERT INTO t VALUES (-1, 'open')");
        database.sql(&format!(
            "UPDATE t SET v = v || '{round}' WHERE id % 3 = {round}; DELETE FROM t WHERE id = 50 + {round}; INSERT INTO t SELECT 1000 * {round} + i, 'n' FROM generate_series(1, 40) i WHERE {round} > 0;
             UPDATE t SET id = -5 - {round} WHERE id = 60 + {round}"
        ));
        job.resume().succeeded();
        assert_same_iceberg(&job, &database, "public.t");
        other.sql("ROLLBACK");
    }
    let follow = job.start(&[&Job::RESUME[..], &["--follow", "--commit-interval", "300ms"]].concat());
    database.sql("INSERT INTO t VALUES (7777, 'followed')");
    caught_up(&job, &database, "public.t");
    follow.signal("TERM");
    follow.finish().succeeded();
    assert_same_iceberg(&job, &database, "public.t");
}
