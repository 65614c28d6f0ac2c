//! `--memory-limit` is kept by the process as a whole.

use crate::support::lakeward::Job;
use crate::support::postgres::Server;
use crate::support::readback::count;
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

fn assert_stays_below(job: &Job, limit_mib: u64) {
    job.edit("source.json", |source| source["max_threads"] = 5.into());
    job.discover();
    let limit = format!("{limit_mib}MiB");
    let mut arguments = Job::SYNC.to_vec();
    arguments.extend(["--memory-limit", &limit]);
    let mut run = job.start(&arguments);
    let mut peak = 0;
    while !run.is_over() {
        peak = run.peak_memory_kib().unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(20));
    }
    run.finish().succeeded();
    assert!(peak > 0, "the run was over before it could be looked at");
    assert!(peak <= limit_mib * 1024, "{} MiB resident with a limit of {limit_mib} MiB", peak / 1024);
}
