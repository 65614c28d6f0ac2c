//! `--memory-limit` is kept by the process as a whole.

use crate::support::lakeward::Job;
use crate::support::postgres::Server;
use crate::support::readback::{count, duckdb};
use std::time::Duration;

/// 500 MB through 128 MiB.
#[test]
fn a_table_larger_than_the_limit() {
    const LIMIT_MIB: u64 = 128;
    let database = Server::shared().database("memory");
    // Rows of very different sizes: many small ones, some of 100 kB, a few of 8 MB.
    database.sql(
        "CREATE TABLE t (id int, x text, y numeric(20,4), z text); ALTER TABLE t ALTER z SET STORAGE EXTERNAL;
         INSERT INTO t SELECT i, md5(i::text), i / 3.0, md5(i::text) FROM generate_series(1, 2500000) i;
         INSERT INTO t SELECT -i, NULL, i, repeat(md5(i::text), 3200) FROM generate_series(1, 2000) i;
         INSERT INTO t SELECT -i, NULL, i, repeat(md5(i::text), 250000) FROM generate_series(3001, 3005) i;",
    );
    let size: u64 = database.sql("SELECT pg_table_size('t')").parse().expect("a size");
    assert!(size > 450_000_000, "the table has only {size} bytes");
    let job = Job::new(&database);
    assert_stays_below(&job, LIMIT_MIB);
    assert_eq!(count(&job.files("public.t")), 2_502_005);
}

/// A number of 16 bytes on the wire can be 131 kB of text.
#[test]
fn values_that_grow_when_they_are_decoded() {
    let database = Server::shared().database("growing");
    database.sql("CREATE TABLE t (id int, x numeric); INSERT INTO t SELECT i, '1e131000' FROM generate_series(1, 10000) i");
    let job = Job::new(&database);
    assert_stays_below(&job, 200);
    assert_eq!(count(&job.files("public.t")), 10_000);
}

/// Rows of 100 MB: each needs several times its size while it is under way, so readers wait for each other.
#[test]
fn rows_of_100_mb() {
    let database = Server::shared().database("hundred");
    // Bytes that do not compress, and a text that does; small rows around them, in two tables that are read at the same time.
    database.sql(
        "CREATE TABLE noise (x bytea); ALTER TABLE noise ALTER x SET STORAGE EXTERNAL;
         INSERT INTO noise SELECT string_agg(decode(md5(i::text), 'hex'), '') FROM generate_series(1, 1250000) i;
         CREATE TABLE a (id int, x bytea, y text); ALTER TABLE a ALTER x SET STORAGE EXTERNAL;
         INSERT INTO a SELECT i, NULL, md5(i::text) FROM generate_series(1, 1000) i;
         INSERT INTO a SELECT -i, x || x || x || x || x, 'large' FROM noise, generate_series(1, 3) i;
         CREATE TABLE b (id int, x text);
         INSERT INTO b SELECT i, CASE WHEN i % 100 = 0 THEN repeat(md5(i::text), 3125000) ELSE 'small' END FROM generate_series(1, 300) i;",
    );
    let job = Job::new(&database);
    job.discover();
    job.select(&["public.a", "public.b"]);
    run_below(&job, 5, 1024, || {});
    let sizes = |stream: &str, of: &str| duckdb(&job.files(stream), &format!("SELECT count(*), sum({of})::bigint FROM $files")).to_string();
    assert_eq!(sizes("public.a", "octet_length(x)"), "[[1003,300000000]]");
    assert_eq!(sizes("public.b", "length(x)"), "[[300,300001485]]");
}

/// As many columns as a table can have: each has an encoder.
#[test]
fn a_table_of_1600_columns() {
    let database = Server::shared().database("broad");
    database.sql(
        "CREATE TABLE kinds (k int, type text, value text);
         INSERT INTO kinds VALUES (0, 'int', 'i'), (1, 'bool', 'i % 2 = 0'), (2, 'text', 'chr(65 + i % 26)'), (3, 'date', 'date ''2024-01-01'' + i % 1000');
         SELECT format('CREATE TABLE t (%s)', string_agg(format('c%s %s', n, type), ', ' ORDER BY n)) FROM generate_series(1, 1600) n, kinds WHERE k = n % 4 \\gexec
         SELECT format('INSERT INTO t SELECT %s FROM generate_series(1, 12000) i', string_agg(value, ', ' ORDER BY n)) FROM generate_series(1, 1600) n, kinds
             WHERE k = n % 4 \\gexec",
    );
    let job = Job::new(&database);
    job.discover();
    job.select(&["public.t"]);
    run_below(&job, 5, 256, || {});
    assert_eq!(count(&job.files("public.t")), 12_000);
}

/// 64 connections, whose batches and encoders could fill the limit several times over.
#[test]
fn sixty_four_connections() {
    let database = Server::shared().database("connections");
    database.sql(
        // Slices of bytes that do not compress, 480 MB in all.
        "CREATE TABLE noise (x bytea); ALTER TABLE noise ALTER x SET STORAGE EXTERNAL;
         INSERT INTO noise SELECT string_agg(decode(md5(i::text), 'hex'), '') FROM generate_series(1, 500000) i;
         CREATE TABLE t (id int, x bytea) PARTITION BY HASH (id);
         SELECT format('CREATE TABLE leaf_%s PARTITION OF t FOR VALUES WITH (MODULUS 64, REMAINDER %s)', k, k) FROM generate_series(0, 63) k \\gexec
         INSERT INTO t SELECT i, substr(x, 1 + i * 631, 40000) FROM generate_series(1, 12000) i, noise",
    );
    let job = Job::new(&database);
    job.edit("source.json", |source| source["collapse_partitions"] = true.into());
    job.discover();
    job.select(&["public.t"]);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name ILIKE '%lakeward%'";
    let mut most: u32 = 0;
    run_below(&job, 64, 1024, || most = most.max(database.sql(sessions).parse().expect("a number")));
    assert_eq!(count(&job.files("public.t")), 12_000);
    assert!(most > 60, "only {most} of 64 connections were used");
    // In less memory fewer of them read.
    assert!(run_below(&job, 64, 150, || {}).contains("allows"));
    assert_eq!(count(&job.files("public.t")), 12_000);
}

fn assert_stays_below(job: &Job, limit_mib: u64) {
    job.discover();
    run_below(job, 5, limit_mib, || {});
}

/// Syncs with so many connections and panics if the process is ever larger than the limit. `meanwhile` is called again and again; what the run
/// said is returned.
fn run_below(job: &Job, connections: u64, limit_mib: u64, mut meanwhile: impl FnMut()) -> String {
    job.edit("source.json", |source| source["max_threads"] = connections.into());
    let limit = format!("{limit_mib}MiB");
    let mut arguments = Job::SYNC.to_vec();
    arguments.extend(["--memory-limit", &limit]);
    let mut run = job.start(&arguments);
    let mut peak = 0;
    while !run.is_over() {
        peak = run.peak_memory_kib().unwrap_or(peak);
        meanwhile();
        std::thread::sleep(Duration::from_millis(20));
    }
    let outcome = run.finish().succeeded();
    assert!(peak > 0, "the run was over before it could be looked at");
    eprintln!("{} MiB resident with a limit of {limit_mib} MiB", peak / 1024);
    assert!(peak <= limit_mib * 1024, "{} MiB resident with a limit of {limit_mib} MiB", peak / 1024);
    outcome.stderr
}
