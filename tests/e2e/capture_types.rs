//! Columns that get another type while their table is followed. The rows are written anew on the server without a word in the log.

use super::capture::{job, until_copied_again};
use crate::support::lakeward::{Job, exit};
use crate::support::majors::newest;
use crate::support::postgres::Server;
use crate::support::readback::{assert_all_same_iceberg, assert_same_iceberg, assert_same_iceberg_as, duckdb};
use serde_json::json;
use std::time::Duration;

/// A change of a type that cannot be followed stops its table, in a run that begins after it as well.
#[test]
fn a_type_that_cannot_be_followed_stops_its_table_only() {
    let database = Server::shared().database("captype");
    database.sql("CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY); INSERT INTO a VALUES (1, 1)");
    let job = job(&database, "captype", Some(json!({})));
    job.sync().succeeded();
    database.sql("ALTER TABLE a ALTER v TYPE text USING 'x' || v; INSERT INTO a VALUES (2, 'y'); INSERT INTO b VALUES (1)");
    let failed = job.resume().failed(exit::SCHEMA, &["public.a"]);
    assert!(failed.stderr.contains("stream public.a failed"), "{}", failed.stderr);
    assert_same_iceberg(&job, &database, "public.b");
    database.sql("DROP TABLE c; INSERT INTO b VALUES (2)");
    job.resume().failed(exit::SCHEMA, &["2 of 3 streams failed", "public.c"]);
    assert_same_iceberg(&job, &database, "public.b");
}

/// Where the rows that are there have other values after a change of type, as the cast makes them, the table is copied again; where it is wider, it is
/// not.
#[test]
fn values_that_a_change_of_type_alters_are_copied_again() {
    let database = Server::shared().database("capretype");
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, a text, n int, d double precision, c numeric(12,2), at timestamp, s varchar(20), w int, u varchar(5), l bigint);
         INSERT INTO t SELECT i, '0' || i, i, i / 7.0, i / 7.0, '2024-01-01 10:00:00'::timestamp + i * interval '7 hours', repeat('s', 9), i, 'u' || i, i FROM generate_series(1, 50) i",
    );
    let job = job(&database, "capretype", Some(json!({})));
    job.sync().succeeded();
    // The destination's columns have the types that they began with.
    database.sql("CREATE VIEW expected AS SELECT * FROM t");
    let check = |change: &str, expected: &str, copied: bool| {
        database.sql(&format!("DROP VIEW expected; ALTER TABLE t {change}; CREATE VIEW expected AS SELECT {expected} FROM t"));
        for more in ["", "INSERT INTO t (id, n) SELECT max(id) + 1, 5 FROM t; UPDATE t SET w = w + 1 WHERE id % 5 = 0"] {
            database.sql(more);
            let said = job.resume().succeeded().stderr;
            assert_eq!(said.contains("copied again"), copied && more.is_empty(), "{change}: {said}");
            assert_same_iceberg_as(&job, &database, "public.t", "public.expected");
        }
    };
    check("ALTER w TYPE bigint", "*", false);
    check("ALTER u TYPE text, ALTER c TYPE numeric(14,2)", "*", false);
    check("ALTER s TYPE varchar(3) USING left(s, 3)", "*", true);
    // Shorter, and longer than before, between two runs.
    check("ALTER s TYPE varchar(2) USING left(s, 2), ALTER u TYPE text; ALTER TABLE t ALTER s TYPE varchar(50)", "*", true);
    check("ALTER s TYPE varchar(60)", "*", false);
    check("ALTER a TYPE int USING a::int", "id, a::text, n, d, c, at, s, w, u, l", true);
    check("ALTER d TYPE real, ALTER l TYPE int", "id, a::text, n, d::double precision, c, at, s, w, u, l::bigint", true);
    check("ALTER at TYPE date", "id, a::text, n, d::double precision, c, at::timestamp, s, w, u, l::bigint", true);
    // While the table is followed without end, and in the middle of a transaction.
    let arguments = [&Job::RESUME[..], &Job::FOLLOW].concat();
    let running = job.start(&arguments);
    until_copied_again(
        &job,
        &database,
        &["public.t"],
        "DROP VIEW expected; BEGIN; UPDATE t SET u = ' ' || u || '.5' WHERE id % 2 = 0; ALTER TABLE t ALTER c TYPE int; UPDATE t SET n = 8 WHERE id % 3 = 0; COMMIT;
         CREATE VIEW expected AS SELECT id, a::text, n, d::double precision, c::numeric(14,2), at::timestamp, s, w, u, l::bigint FROM t",
    );
    running.signal("TERM");
    let said = running.finish().succeeded().stderr;
    assert!(said.contains("copied again"), "{said}");
    assert_same_iceberg_as(&job, &database, "public.t", "public.expected");
}

/// Values that `USING`, or another generation expression, has made: of a column that kept its type.
#[test]
fn values_that_are_computed_anew_are_copied_again() {
    let Some(bin) = newest() else { return };
    let server = Server::start(&bin);
    let database = server.database("caprecompute");
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int, s varchar(20), g int GENERATED ALWAYS AS (id * 2) STORED) WITH (autovacuum_enabled = off);
         CREATE TABLE p (id int, day int, n int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE p_0 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (10) TO (20);
         INSERT INTO t SELECT i, i, 's' || i FROM generate_series(1, 50) i; INSERT INTO p SELECT i, i, i FROM generate_series(1, 19) i",
    );
    let job = job(&database, "caprecompute", Some(json!({})));
    job.sync().succeeded();
    let check = |change: &str, copied: &[&str]| {
        database.sql(change);
        for more in [
            "",
            "INSERT INTO t (id, n) SELECT max(id) + 1, 5 FROM t; UPDATE t SET s = 'x' WHERE id % 9 = 0; UPDATE p SET n = 0 WHERE id = 3",
        ] {
            database.sql(more);
            let said = job.resume().succeeded().stderr;
            for stream in ["public.t", "public.p"] {
                let again = said.lines().any(|line| line.contains(stream) && line.contains("copied again"));
                assert_eq!(again, copied.contains(&stream) && more.is_empty(), "{change}: {stream}: {said}");
            }
            assert_all_same_iceberg(&job, &database, &["public.t", "public.p"]);
        }
    };
    check("ALTER TABLE t ALTER n TYPE int USING n * 10", &["public.t"]);
    check("VACUUM FULL t", &[]);
    check("ALTER TABLE t ALTER n SET DEFAULT 4; ALTER TABLE t ALTER s SET STATISTICS 50", &[]);
    check("ALTER TABLE t ALTER s TYPE varchar(30) USING upper(s)", &["public.t"]);
    check("ALTER TABLE t ALTER g SET EXPRESSION AS (id * 3)", &["public.t"]);
    check("ALTER TABLE p ALTER n TYPE int USING -n", &["public.p"]);
    check("CLUSTER t USING t_pkey; VACUUM FULL p", &[]);
    // While the table is followed without end, and nobody writes to it.
    let running = job.start(&[&Job::RESUME[..], &Job::FOLLOW].concat());
    std::thread::sleep(Duration::from_secs(2));
    until_copied_again(&job, &database, &["public.t"], "ALTER TABLE t ALTER n TYPE int USING n + 1");
    running.signal("TERM");
    let said = running.finish().succeeded().stderr;
    assert!(said.contains("the column n was altered"), "{said}");
    assert_all_same_iceberg(&job, &database, &["public.t", "public.p"]);
    // Whether USING has had a part in a wider form, nobody can tell.
    database.sql("ALTER TABLE t ALTER n TYPE bigint");
    let said = job.resume().succeeded().stderr;
    assert!(said.contains("the column n is bigint now") && said.contains("sync --reload public.t"), "{said}");
    assert!(!job.resume().succeeded().stderr.contains("bigint"));
}

/// A change log has what the rows were: nothing of it is taken back, and the run says what it does not have.
#[test]
fn a_change_log_says_that_values_were_altered() {
    let database = Server::shared().database("capretypelog");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, '{\"a\":1}')");
    let job = job(&database, "capretypelog", None);
    job.sync().succeeded();
    database.sql("ALTER TABLE t ALTER v TYPE jsonb USING v::jsonb; INSERT INTO t VALUES (2, '[]'); ALTER TABLE t ADD w int DEFAULT 5");
    let said = job.resume().succeeded().stderr;
    assert!(said.contains("the column v has another type now (jsonb)"), "{said}");
    assert!(!job.resume().succeeded().stderr.contains("another type"));
    let rows = duckdb(&job.files("public.t"), "SELECT _op_type, v::text FROM $files ORDER BY _cdc_order");
    assert_eq!(rows, json!([["r", "{\"a\":1}"], ["c", "[]"]]));
}

/// A label that gets another name, and a composite type that gets other attributes: no row is written, and every row reads otherwise.
#[test]
fn values_whose_type_has_changed_inside_are_copied_again() {
    let database = Server::shared().database("capinside");
    database.sql(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE basket AS (apples int, pears int, content mood);
         CREATE TABLE t (id int PRIMARY KEY, m mood, list mood[], b basket); ALTER TABLE t ALTER list SET NOT NULL;
         CREATE TABLE quiet (id int PRIMARY KEY, m mood);
         INSERT INTO t SELECT i, (ARRAY['sad', 'ok'])[i % 2 + 1]::mood, ARRAY['sad', NULL]::mood[], ROW(i, 2 * i, 'ok'::mood)::basket FROM generate_series(1, 20) i;
         INSERT INTO quiet VALUES (1, 'sad')",
    );
    let job = job(&database, "capinside", Some(json!({})));
    job.sync().succeeded();
    let check = |change: &str, copied: bool| {
        database.sql(change);
        database.sql("INSERT INTO t (id, list) SELECT max(id) + 1, '{}' FROM t; UPDATE t SET m = NULL WHERE id = 3");
        let said = job.resume().succeeded().stderr;
        assert_eq!(said.contains("copied again"), copied, "{change}: {said}");
        assert_all_same_iceberg(&job, &database, &["public.t", "public.quiet"]);
    };
    check("ALTER TYPE mood ADD VALUE 'good' BEFORE 'ok'; UPDATE t SET m = 'good' WHERE id = 5", false);
    check("UPDATE t SET m = 'sad' WHERE id = 6; ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'", true);
    check(
        "UPDATE t SET b.apples = 7 WHERE id = 7; ALTER TYPE basket ADD ATTRIBUTE plums text; UPDATE t SET b.plums = 'two' WHERE id = 8",
        true,
    );
    // A run without end sees it by itself, of a table that nobody writes to, too; and values of a shape that it does not know yet.
    let arguments = [&Job::RESUME[..], &Job::FOLLOW].concat();
    let running = job.start(&arguments);
    std::thread::sleep(Duration::from_secs(2));
    let change = "ALTER TYPE basket ADD ATTRIBUTE nuts int; UPDATE t SET b.nuts = 4 WHERE id = 11";
    until_copied_again(&job, &database, &["public.t"], change);
    until_copied_again(&job, &database, &["public.t", "public.quiet"], "ALTER TYPE mood RENAME VALUE 'blue' TO 'gloomy'");
    running.signal("TERM");
    let said = running.finish().succeeded().stderr;
    assert!(said.matches("copied again").count() >= 3, "{said}");
    assert_all_same_iceberg(&job, &database, &["public.t", "public.quiet"]);

    // What is gone stays in the destination, and is NULL.
    database.sql(
        "UPDATE t SET b.pears = 9 WHERE id = 9; ALTER TYPE basket RENAME ATTRIBUTE plums TO kiwis; UPDATE t SET b.kiwis = 'green' WHERE id = 10;
         CREATE TYPE basket_there AS (apples int, pears int, content mood, plums text, nuts int, kiwis text);
         CREATE VIEW expected AS SELECT id, m, list, CASE WHEN b::text IS NOT NULL THEN ROW((b).apples, (b).pears, (b).content, NULL, (b).nuts, (b).kiwis)::basket_there END AS b FROM t",
    );
    job.resume().succeeded();
    assert_same_iceberg_as(&job, &database, "public.t", "public.expected");
}
