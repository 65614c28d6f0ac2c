//! Tables cut by the values of a key: no row lost or doubled, whatever the key's type, and chunks of about one size.

use crate::support::lakeward::{Job, exit};
use crate::support::majors::{MAJORS, programs};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same, count};
use crate::support::skip;
use serde_json::{Value, json};

/// A job whose stream `public.t` is cut by `key` into chunks of `rows`.
fn job(database: &Database, key: &str, rows: u64) -> Job {
    let job = Job::new(database);
    job.edit("source.json", |file| file["backfill"] = json!({"chunk_rows": rows}));
    job.discover();
    job.edit("streams.json", |file| {
        for chosen in file["selected_streams"]["public"].as_array_mut().expect("a list") {
            if chosen["stream_name"] == "t" {
                chosen["chunk_column"] = json!(key);
            }
        }
    });
    job.select(&["public.t"]);
    job
}

/// The chunks that a dry run prints, as their queries.
fn planned(job: &Job) -> Vec<String> {
    let outcome = job.run(&[&Job::SYNC[..], &["--dry-run"]].concat()).succeeded();
    let messages = outcome.messages();
    let chunks = messages[0]["chunks"].as_array().expect("chunks");
    chunks.iter().map(|chunk| chunk["query"].as_str().expect("a query").to_owned()).collect()
}

/// The numbers of rows that the planned queries send.
fn sizes(database: &Database, queries: &[String]) -> Vec<u64> {
    let inner = |query: &String| query.trim_start_matches("COPY (").rsplit_once(") TO STDOUT").expect("a COPY").0.to_owned();
    queries.iter().map(|query| database.sql(&format!("SELECT count(*) FROM ({}) q", inner(query))).parse().expect("a count")).collect()
}

#[test]
fn every_type_that_can_be_sorted_is_a_key() {
    let database = Server::shared().database("keytypes");
    database.sql(
        "CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd');
         CREATE TABLE t (id int NOT NULL, u uuid, x text COLLATE \"C\", y text, at timestamptz, n numeric, f float8, m mood, b bytea, d date, a int[], net inet,
                         tri int NOT NULL, ch char(10), maybe int);
         INSERT INTO t SELECT i, md5(i::text)::uuid, md5(i::text), chr(945 + i % 20) || '''\\%' || i, '2024-01-01Z'::timestamptz + i * interval '1.000001 s', i / 7.0,
                CASE i % 1000 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' ELSE i / 3.0 END, (ARRAY['a','b','c','d'])[1 + i % 4]::mood, decode(md5(i::text), 'hex'),
                '2024-01-01'::date + i % 700, ARRAY[i % 50, i], ('10.0.' || i % 250 || '.1')::inet, i % 3, 'k' || i % 5000, CASE WHEN i % 4 > 0 THEN i END
         FROM generate_series(1, 20000) i;
         ANALYZE t",
    );
    for key in ["id", "u", "x", "y", "at", "n", "f", "m", "b", "d", "a", "net", "ch", "maybe", "tri,id"] {
        let job = job(&database, key, 4000);
        let chunks = planned(&job);
        assert!(chunks.len() >= 4, "{key}: {chunks:#?}");
        assert_eq!(sizes(&database, &chunks).iter().sum::<u64>(), 20_000, "{key}: {chunks:#?}");
        job.sync().succeeded();
        assert_eq!(assert_same(&job, &database, "public.t").rows, 20_000, "{key}");
        assert!(job.files("public.t").len() >= 4, "{key}");
    }
}

/// Twenty times as many rows in one tenth of the key's range, a gap of a billion, and one value that a third of the rows have.
#[test]
fn a_skewed_key_makes_chunks_of_one_size() {
    let database = Server::shared().database("skew");
    database.sql(
        "CREATE TABLE t (id bigint, x text);
         INSERT INTO t SELECT CASE WHEN i % 22 < 20 THEN i % 1000 ELSE 1000 + i % 9000 END, md5(i::text) FROM generate_series(1, 200000) i;
         INSERT INTO t SELECT 1000000000 + i % 500, md5(i::text) FROM generate_series(1, 20000) i;
         INSERT INTO t SELECT 777, md5(i::text) FROM generate_series(1, 100000) i;
         ANALYZE t",
    );
    let job = job(&database, "id", 16_000);
    let chunks = planned(&job);
    let mut rows = sizes(&database, &chunks);
    assert_eq!(rows.iter().sum::<u64>(), 320_000);
    rows.sort_unstable();
    let (median, most) = (rows[rows.len() / 2], rows[rows.len() - 1]);
    assert!(rows.len() >= 15 && most <= 2 * median, "{rows:?}\n{chunks:#?}");
    job.sync().succeeded();
    assert_eq!(count(&job.files("public.t")), 320_000);
    assert_same(&job, &database, "public.t");
}

#[test]
fn views_partitions_and_rows_without_a_key() {
    let database = Server::shared().database("keyviews");
    database.sql(
        "CREATE TABLE base (id int, at date) PARTITION BY RANGE (at);
         SELECT format('CREATE TABLE base_%s PARTITION OF base FOR VALUES FROM (%L) TO (%L)', m, make_date(2024, m, 1), make_date(2024, m, 1) + interval '1 month')
         FROM generate_series(1, 12) m \\gexec
         INSERT INTO base SELECT CASE WHEN i % 10 > 0 THEN i END, '2024-01-01'::date + i % 366 FROM generate_series(1, 30000) i;
         CREATE VIEW t AS SELECT id, at, id * 2 AS twice FROM base; ANALYZE base",
    );
    let view = job(&database, "id", 5000);
    view.edit("streams.json", |file| {
        file["selected_streams"]["public"] = json!([{"stream_name": "t", "chunk_column": "id", "partition_regex": "", "normalization": true, "use_source_column_names": true}]);
    });
    assert!(planned(&view).len() >= 5, "{:#?}", planned(&view));
    view.sync().succeeded();
    assert_eq!(assert_same(&view, &database, "public.t").rows, 30_000);

    let parted = Job::new(&database);
    parted.edit("source.json", |file| file["backfill"] = json!({"chunk_rows": 1000}));
    parted.discover();
    parted.edit("streams.json", |file| {
        for chosen in file["selected_streams"]["public"].as_array_mut().expect("a list") {
            chosen["chunk_column"] = json!("id");
        }
    });
    parted.select(&["public.base"]);
    parted.sync().succeeded();
    assert_eq!(assert_same(&parted, &database, "public.base").rows, 30_000);
    assert!(parted.files("public.base").len() > 24);
}

/// A run that was killed keeps the bounds of its chunks.
#[test]
fn a_killed_run_goes_on_with_the_same_bounds() {
    let database = Server::shared().database("keykill");
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, x text, v regdictionary);
         INSERT INTO t SELECT i, md5(i::text), CASE WHEN i = 70000 THEN 'simple'::regdictionary END FROM generate_series(1, 80000) i; ANALYZE t",
    );
    let job = job(&database, "id", 8000);
    let gate = database.gate();
    let run = job.start(&Job::SYNC);
    gate.wait_for_reader();
    std::thread::sleep(std::time::Duration::from_secs(1));
    run.kill();
    let load = |job: &Job| job.read("state.json")["lakeward"]["loads"]["public.t"].clone();
    let before = load(&job);
    let staged = before["chunks"].as_array().map_or(0, Vec::len);
    assert!(staged >= 5, "{before:#}");
    assert!(!before["left"].as_array().is_none_or(Vec::is_empty), "{before:#}");
    drop(gate);
    database.sql("UPDATE t SET x = 'changed' WHERE id = 5; INSERT INTO t SELECT i, 'new' FROM generate_series(80001, 80500) i; DELETE FROM t WHERE id = 79999");
    let outcome = job.resume().succeeded();
    assert!(outcome.stderr.contains("still hold"), "{}", outcome.stderr);
    assert_eq!(assert_same(&job, &database, "public.t").rows, 80_499);
    job.assert_no_leftovers();
}

#[test]
fn what_cannot_be_a_key_is_refused() {
    let database = Server::shared().database("nokeys");
    database.sql("CREATE TABLE t (id int, j json, maybe int)");
    for (key, code, words) in [
        ("j", exit::CONFIG, vec!["chunk_column", "public.t", "json"]),
        ("nope", exit::CONFIG, vec!["unknown column", "nope"]),
        ("id,maybe", exit::CONFIG, vec!["can be NULL"]),
    ] {
        job(&database, key, 10).sync().failed(code, &words);
    }
}

/// Before 14 a range of ctid would read the whole table: the primary key is used.
#[test]
fn servers_without_ranges_of_pages_are_cut_by_the_primary_key() {
    let (major, version) = MAJORS[1];
    let programs = match programs(major, version) {
        Ok(programs) => programs,
        Err(why) => {
            assert!(std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: {why}");
            return skip(&why);
        }
    };
    let server = Server::start(&programs);
    let database = server.database("old");
    database.sql(
        "CREATE TABLE t (a int, b text, PRIMARY KEY (b, a)); INSERT INTO t SELECT i, 'k' || i % 97 FROM generate_series(1, 30000) i;
         CREATE TABLE heap (a int); INSERT INTO heap SELECT generate_series(1, 1000); ANALYZE",
    );
    let job = Job::new(&database);
    job.edit("source.json", |file| file["backfill"] = json!({"chunk_rows": 5000}));
    job.discover();
    let outcome = job.run(&[&Job::SYNC[..], &["--dry-run"]].concat()).succeeded();
    let chunks = |stream: &str| -> usize {
        let messages: Vec<Value> = outcome.messages();
        let found = messages.iter().find(|message| message["stream"] == stream).expect("the stream");
        found["chunks"].as_array().expect("chunks").len()
    };
    assert!(chunks("public.t") >= 5, "{}", outcome.stdout);
    assert_eq!(chunks("public.heap"), 1);
    job.sync().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 30_000);
    assert_same(&job, &database, "public.heap");
}
