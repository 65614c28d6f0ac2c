//! The comparison that the other chapters stand on: it accepts what is equal and sees every kind of difference.

use crate::support::lakeward::Job;
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same, assert_same_cells, python};
use serde_json::json;
use std::panic::catch_unwind;

const TABLE: &str = "CREATE TABLE t (id int, x text, n numeric(5,2), d float8, at timestamptz, day date, raw bytea, u uuid, tags text[], days date[]);
    INSERT INTO t VALUES
        (1, E'a\\n\"ü\"', 1.50, 0.1, '2024-01-01 00:00:00.000001Z', '0001-01-01', '\\x00ff', '00000000-0000-0000-0000-000000000001', '{a,NULL,\"b,c\"}', '{2024-01-01}'),
        (2, NULL, NULL, 'NaN', NULL, NULL, NULL, NULL, NULL, NULL),
        (2, NULL, NULL, 'NaN', NULL, NULL, NULL, NULL, NULL, NULL),
        (3, '', -0.01, '-0', '1969-12-31 23:59:59.999999Z', '1969-12-31', '', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '{}', '{}')";

/// Writes the same rows with pyarrow; `change` may alter the list of rows or the schema.
fn job_with_file(database: &Database, change: &str) -> Job {
    let script = format!(
        r#"
import json, sys, datetime as dt, decimal, pyarrow as pa, pyarrow.parquet as pq
path = json.load(sys.stdin)
utc = dt.timezone.utc
days = lambda *ds: [d.toordinal() - dt.date(1970, 1, 1).toordinal() for d in ds]
us = lambda t: (t - dt.datetime(1970, 1, 1, tzinfo=utc)) // dt.timedelta(microseconds=1)
schema = pa.schema([("id", pa.int32()), ("x", pa.string()), ("n", pa.decimal128(5, 2)), ("d", pa.float64()), ("at", pa.timestamp("us", "UTC")),
                    ("day", pa.date32()), ("raw", pa.binary()), ("u", pa.binary(16)), ("tags", pa.list_(pa.string())), ("days", pa.list_(pa.date32()))])
nothing = [2, None, None, float("nan")] + [None] * 6
rows = [[1, 'a\n"ü"', decimal.Decimal("1.50"), 0.1, us(dt.datetime(2024, 1, 1, 0, 0, 0, 1, utc)), days(dt.date(1, 1, 1))[0], b"\x00\xff", bytes(15) + b"\x01",
         ["a", None, "b,c"], days(dt.date(2024, 1, 1))],
        nothing, list(nothing),
        [3, "", decimal.Decimal("-0.01"), -0.0, -1, -1, b"", b"\xff" * 16, [], []]]
{change}
pq.write_table(pa.table([pa.array([r[i] for r in rows], f.type) for i, f in enumerate(schema)], schema), path)
print("null")
"#
    );
    job_by(database, &["id", "x", "n", "d", "at", "day", "raw", "u", "tags", "days"], &script)
}

/// A job whose only file is written by a script.
fn job_by(database: &Database, columns: &[&str], script: &str) -> Job {
    let job = Job::new(database);
    let properties: serde_json::Map<_, _> = columns.iter().map(|c| ((*c).to_owned(), json!({"type": ["string"]}))).collect();
    job.write(
        "streams.json",
        &json!({"streams": [{"stream": {"name": "t", "namespace": "public", "type_schema": {"properties": properties},
                "destination_database": "postgres_x:public", "destination_table": "t"}}]}),
    );
    let folder = job.table_folder(&job.lake(), "public.t");
    std::fs::create_dir_all(&folder).expect("make the table's folder");
    python(script, &json!(folder.join("one.parquet")));
    job
}

/// What holds other values, and times that Python's own types end before.
const NESTED: &str = "CREATE TYPE pair AS (a int, b float8);
    CREATE TABLE t (id int, grid int[][], one pair, many pair[], span int4range, spans datemultirange, far timestamp, old date);
    INSERT INTO t VALUES (1, '{{1,2},{3,NULL}}', '(1,NaN)', '{\"(1,-0)\",NULL}', '[1,5)', '{[2024-01-01,2024-02-01)}', '294247-01-10 04:00:54.775807', '4714-11-24 BC'),
                         (2, '{}', '(,)', '{}', 'empty', '{}', '10000-01-01', '5874897-12-31'),
                         (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";

/// Writes the same rows with pyarrow; `change` may alter the list of rows or the schema.
fn job_with_nested(database: &Database, change: &str) -> Job {
    let script = format!(
        r#"
import json, sys, struct, pyarrow as pa, pyarrow.parquet as pq
path = json.load(sys.stdin)
pair = lambda a, b: {{"a": a, "b": b}}
span = lambda lower, upper, lower_inclusive=True, empty=False: {{
    "lower": lower, "upper": upper, "lower_inclusive": lower_inclusive, "upper_inclusive": False, "empty": empty}}
def span_type(of):
    return pa.struct([("lower", of), ("upper", of), ("lower_inclusive", pa.bool_()), ("upper_inclusive", pa.bool_()), ("empty", pa.bool_())])
pairs = pa.struct([("a", pa.int32()), ("b", pa.float64())])
schema = pa.schema([("id", pa.int32()), ("grid", pa.list_(pa.list_(pa.int32()))), ("one", pairs), ("many", pa.list_(pairs)), ("span", span_type(pa.int32())),
                    ("spans", pa.list_(span_type(pa.date32()))), ("far", pa.timestamp("us")), ("old", pa.date32())])
rows = [[1, [[1, 2], [3, None]], pair(1, float("nan")), [pair(1, -0.0), None], span(1, 5), [span(19723, 19754)], 2**63 - 1, -2440588],
        [2, [], pair(None, None), [], span(None, None, False, True), [], 253402300800000000, 2145042905],
        [3] + [None] * 7]
{change}
pq.write_table(pa.table([pa.array([r[i] for r in rows], f.type) for i, f in enumerate(schema)], schema), path)
print("null")
"#
    );
    job_by(database, &["id", "grid", "one", "many", "span", "spans", "far", "old"], &script)
}

#[test]
fn equal_rows_are_equal() {
    let database = Server::shared().database("equal");
    database.sql(TABLE);
    assert_eq!(assert_same(&job_with_file(&database, ""), &database, "public.t").rows, 4);
    let database = Server::shared().database("equalnested");
    database.sql(NESTED);
    assert_eq!(assert_same(&job_with_nested(&database, ""), &database, "public.t").rows, 3);
}

#[test]
fn every_difference_is_seen() {
    let database = Server::shared().database("different");
    database.sql(TABLE);
    for change in [
        "rows.pop()",
        "rows.append(rows[0])",
        "rows[0][0] = 4",
        "rows[0][1] = 'a'",
        "rows[3][1] = None",
        "rows[0][2] = decimal.Decimal('1.51')",
        "rows[0][3] = 0.10000000000000002",
        "rows[3][3] = 0.0",
        "rows[0][4] += 1",
        "rows[0][5] += 1",
        "rows[3][6] = None",
        "rows[0][7] = bytes(16)",
        "rows[0][8] = ['a', 'NULL', 'b,c']",
        "rows[3][8] = None",
        "rows[0][9] = []",
        "schema = schema.set(0, pa.field('id', pa.string())); [r.__setitem__(0, str(r[0])) for r in rows]",
    ] {
        refused(&job_with_file(&database, change), &database, change);
    }
    let database = Server::shared().database("differentnested");
    database.sql(NESTED);
    for change in [
        "rows[0][1] = [[1, 2, 3, None]]",
        "rows[0][1] = [[1], [2], [3], [None]]",
        "rows[0][1][1][1] = 0",
        "rows[1][1] = None",
        "rows[1][1] = [[]]",
        "rows[0][2]['b'] = struct.unpack('>d', bytes.fromhex('fff8000000000000'))[0]",
        "rows[1][2] = None",
        "rows[2][2] = pair(None, None)",
        "rows[0][3][0]['b'] = 0.0",
        "rows[0][3][1] = pair(None, None)",
        "rows[0][3].pop()",
        "rows[0][4]['lower_inclusive'] = False",
        "rows[1][4]['empty'] = False",
        "rows[0][5] = []",
        "rows[0][5][0]['upper'] += 1",
        "rows[0][6] -= 1",
        "rows[1][6] += 1",
        "rows[0][7] += 1",
        "schema = schema.set(2, pa.field('one', pa.struct([('b', pa.float64()), ('a', pa.int32())])))",
    ] {
        refused(&job_with_nested(&database, change), &database, change);
    }
}

#[track_caller]
fn refused(job: &Job, database: &Database, change: &str) {
    assert!(catch_unwind(std::panic::AssertUnwindSafe(|| assert_same(job, database, "public.t"))).is_err(), "not seen: {change}");
}

/// The same files are the same, and a bit is a difference.
#[test]
fn cells_are_compared_to_the_bit() {
    let database = Server::shared().database("cells");
    let one = job_with_nested(&database, "");
    assert_same_cells(&one.files("public.t"), &job_with_nested(&database, "rows.reverse()").files("public.t"), "id");
    for change in ["rows[0][3][0]['b'] = 0.0", "rows[1][2] = None", "rows[1][1] = None", "rows[0][6] -= 1", "rows.pop()"] {
        let other = job_with_nested(&database, change);
        let same = || assert_same_cells(&one.files("public.t"), &other.files("public.t"), "id");
        assert!(catch_unwind(std::panic::AssertUnwindSafe(same)).is_err(), "not seen: {change}");
    }
}
