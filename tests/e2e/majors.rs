//! A full refresh of a small schema, and all values of the regression tables, on every major of PostgreSQL from 12 to 18.

use crate::families::{SETTINGS, Values, accepted, create};
use crate::support::lakeward::Job;
use crate::support::literals::regression::{self, EXTENSIONS, NESTED, NEWER, NUMBERS, PLACES, TEXTS, TIMES};
use crate::support::majors::{MAJORS, programs};
use crate::support::postgres::Server;
use crate::support::readback::{assert_same, assert_same_cells};
use crate::support::skip;
use serde_json::json;

const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('happy', 'sad');
    CREATE TABLE plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, ok bool, n int, price numeric(12,2), exact numeric, x text, raw bytea, day date,
                        at timestamptz, local timestamp, clock time, u uuid, j jsonb, m mood, tags text[], ns int[], net inet, r float4, d float8);
    INSERT INTO plain (ok, n, price, exact, x, raw, day, at, local, clock, u, j, m, tags, ns, net, r, d)
    SELECT i % 2 = 0, i, i / 7.0, i / 7.0, 'row ' || i, decode(md5(i::text), 'hex'), '2024-01-01'::date + i % 1000, '2024-01-01Z'::timestamptz + i * interval '1.000001 s',
           '2024-01-01'::timestamp + i * interval '1.000001 s', '12:00'::time + i * interval '1 s', md5(i::text)::uuid, jsonb_build_object('i', i),
           CASE WHEN i % 3 = 0 THEN 'happy' ELSE 'sad' END::mood, ARRAY['a', NULL, 'c' || i], ARRAY[i, NULL], '10.0.0.1', i / 3.0, i / 3.0
    FROM generate_series(1, 5000) i;
    CREATE TABLE parts (id int, at date) PARTITION BY RANGE (at);
    CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2024-07-01');
    CREATE TABLE parts_b PARTITION OF parts FOR VALUES FROM ('2024-07-01') TO ('2025-01-01');
    INSERT INTO parts SELECT i, '2024-01-01'::date + i % 366 FROM generate_series(1, 3000) i;
    CREATE TABLE nokey (x text); INSERT INTO nokey VALUES ('same'), ('same'), (NULL);
    CREATE TABLE nothing (id int);";

/// Runs a test against a server of each major that can be had.
fn on_every_major(test: impl Fn(u32, &Server)) {
    let mut skipped = Vec::new();
    for (major, version) in MAJORS {
        match programs(major, version) {
            Ok(programs) => test(major, &Server::start(&programs)),
            Err(why) => skipped.push(format!("{major} ({why})")),
        }
    }
    if !skipped.is_empty() {
        assert!(std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: majors {}", skipped.join("; "));
        skip(&format!("majors {}", skipped.join("; ")));
    }
}

#[test]
fn a_full_refresh_on_every_major() {
    on_every_major(|major, server| {
        let database = server.database("majors");
        assert_eq!(database.sql("SHOW server_version_num").parse::<u32>().expect("a version") / 10_000, major);
        database.sql(SCHEMA);
        let job = Job::new(&database);
        // SCRAM over TCP as well: its details differ between majors.
        job.write("source.json", &database.source_tcp("postgres", crate::support::postgres::PASSWORD));
        job.run(&["check", "--config", "source.json"]).succeeded();
        job.discover();
        job.select(&["public.plain", "public.parts", "public.nokey", "public.nothing"]);
        job.sync().succeeded();
        assert_eq!(assert_same(&job, &database, "public.plain").rows, 5000, "PostgreSQL {major}");
        assert_eq!(assert_same(&job, &database, "public.parts").rows, 3000, "PostgreSQL {major}");
        assert_eq!(assert_same(&job, &database, "public.nokey").rows, 3, "PostgreSQL {major}");
        job.assert_no_leftovers();
    });
}

/// Of each type and value as much as a major has.
#[test]
fn the_regression_values_on_every_major() {
    on_every_major(|major, server| {
        let database = server.database("majorvalues");
        let mut families = [NUMBERS, TEXTS, TIMES, PLACES, NESTED, NEWER].concat();
        for (extension, of_it) in EXTENSIONS {
            if database.extension(extension) {
                families.extend_from_slice(of_it);
            }
        }
        database.sql(regression::SCHEMA);
        let accepted = accepted(&database, &families);
        let count = |families: &[Values]| families.iter().map(|(_, values)| values.len()).sum::<usize>();
        let all: Vec<Values> = families.iter().map(|(t, v)| (*t, v.to_vec())).collect();
        eprintln!("PostgreSQL {major}: {} of {} types, {} of {} values", accepted.len(), all.len(), count(&accepted), count(&all));
        database.sql(&format!("{SETTINGS} {}", create("t", &accepted)));
        let jobs = ["binary", "text"].map(|format| {
            let job = Job::new(&database);
            job.edit("source.json", |source| source["backfill"] = json!({"wire_format": format}));
            job.discover();
            job.select(&["public.t"]);
            job.sync().succeeded();
            assert_same(&job, &database, "public.t");
            job
        });
        assert_same_cells(&jobs[0].files("public.t"), &jobs[1].files("public.t"), "id");
    });
}
