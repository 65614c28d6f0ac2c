//! Filters beside what SQL makes of the same conditions.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::super::message::RelationColumn;
use super::*;
use crate::postgres::connect::session;
use crate::postgres::frame::Body;
use crate::postgres::testing::Server;
use crate::values::samples::hex;
use tokio_postgres::SimpleQueryMessage;

/// A row of these cells as it is on the wire; `u` for one that was not sent.
fn wire(cells: &[Option<&str>]) -> Vec<u8> {
    let mut bytes = (cells.len() as u16).to_be_bytes().to_vec();
    for cell in cells {
        match cell {
            None => bytes.push(b'n'),
            Some("u") => bytes.push(b'u'),
            Some(text) => {
                bytes.push(b't');
                bytes.extend((text.len() as i32).to_be_bytes());
                bytes.extend(text.as_bytes());
            }
        }
    }
    bytes
}

fn tuple(bytes: &[u8]) -> Tuple<'_> {
    Tuple::parse(&mut Body(bytes)).unwrap()
}

fn compare(column: &str, operator: Operator, number: i64) -> Condition {
    Condition { column: column.into(), test: Test::Compare { operator, kind: Kind::Integer, literal: Value::Whole(number) } }
}

/// Of a relation with the columns `id`, `a` and `b`, of which those in `identity` are logged with every change.
fn judge(conditions: Vec<Condition>, any: bool, identity: &[&str]) -> Judge {
    let column = |name: &str| RelationColumn { name: name.into(), key: identity.contains(&name), type_oid: 23, typmod: -1 };
    let relation = Relation {
        oid: 1,
        namespace: "public".into(),
        name: "t".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: ["id", "a", "b"].map(column).to_vec(),
    };
    let mut judge = Judge::new("public.t", conditions, any);
    judge.relate(&relation);
    judge
}

#[test]
fn two_conditions_are_joined_as_sql_joins_them() {
    let conditions = || vec![compare("a", Operator::Greater, 1), compare("b", Operator::Equal, 7)];
    let (both, one) = (judge(conditions(), false, &["id"]), judge(conditions(), true, &["id"]));
    for (a, b, expected) in [
        (Some("2"), Some("7"), (true, true)),
        (Some("1"), Some("7"), (false, true)),
        (Some("2"), None, (false, true)),
        (None, Some("8"), (false, false)),
        (None, None, (false, false)),
    ] {
        let row = wire(&[Some("1"), a, b]);
        assert_eq!((both.keeps(tuple(&row), None).unwrap(), one.keeps(tuple(&row), None).unwrap()), expected, "{a:?} {b:?}");
    }
    let nulls = |wanted| judge(vec![Condition { column: "a".into(), test: Test::Null(wanted) }], false, &["id"]);
    let (row, null) = (wire(&[Some("1"), Some("2"), None]), wire(&[Some("1"), None, None]));
    let seen = [(true, &row), (true, &null), (false, &row), (false, &null)].map(|(is, row)| nulls(is).keeps(tuple(row), None).unwrap());
    assert_eq!(seen, [false, true, true, false]);
}

#[test]
fn the_row_before_is_judged_as_far_as_it_is_at_hand() {
    let positive = || vec![compare("a", Operator::Greater, 0)];
    let (bare, of_key) = (judge(positive(), false, &["id"]), judge(positive(), false, &["id", "a"]));
    let (new, key, full) =
        (wire(&[Some("1"), Some("5"), None]), wire(&[Some("1"), Some("-5"), None]), wire(&[Some("1"), Some("-5"), Some("x")]));
    let (key, full) = (Old::Key(tuple(&key)), Old::Full(tuple(&full)));
    assert!(bare.keeps(tuple(&new), None).unwrap());
    // Without the row before it is not known; where the filter asks for the identity alone, it is as it was.
    assert_eq!(bare.kept_before(None, true).unwrap(), None);
    assert_eq!((of_key.kept_before(None, true).unwrap(), of_key.kept_before(None, false).unwrap()), (Some(true), Some(false)));
    assert_eq!((bare.kept(key).unwrap(), of_key.kept(key).unwrap()), (None, Some(false)));
    assert_eq!((bare.kept(full).unwrap(), bare.kept_before(Some(full), true).unwrap()), (Some(false), Some(false)));
}

#[test]
fn a_full_identity_without_the_row_before_tells_nothing() {
    let mut judge = judge(vec![compare("a", Operator::Greater, 0)], false, &["id", "a", "b"]);
    assert_eq!(judge.kept_before(None, false).unwrap(), Some(false));
    let column = |name: &str| RelationColumn { name: name.into(), key: true, type_oid: 23, typmod: -1 };
    let (namespace, name, columns) = ("public".into(), "t".into(), ["id", "a", "b"].map(column).to_vec());
    judge.relate(&Relation { oid: 1, namespace, name, replica_identity: ReplicaIdentity::Full, columns });
    assert_eq!(judge.kept_before(None, false).unwrap(), None);
    let row = wire(&[Some("1"), Some("-5"), None]);
    assert_eq!((judge.kept(Old::Key(tuple(&row))).unwrap(), judge.kept(Old::Full(tuple(&row))).unwrap()), (None, Some(false)));
}

#[test]
fn a_value_that_was_not_sent_is_taken_from_the_row_before_or_is_an_error() {
    let positive = || vec![compare("a", Operator::Greater, 0)];
    let new = wire(&[Some("1"), Some("u"), None]);
    let old = wire(&[Some("1"), Some("5"), None]);
    let bare = judge(positive(), false, &["id"]);
    assert!(bare.keeps(tuple(&new), Some(Old::Full(tuple(&old)))).unwrap());
    assert!(judge(positive(), false, &["id", "a"]).keeps(tuple(&new), Some(Old::Key(tuple(&old)))).unwrap());
    // What is not of the identity is NULL in a key, whatever it was.
    for old in [None, Some(Old::Key(tuple(&old)))] {
        let error = bare.keeps(tuple(&new), old).unwrap_err();
        assert!(error.to_string().contains("public.t: the filter asks for column \"a\", whose value is not in the log"), "{error}");
        assert!(error.advice().unwrap().contains("REPLICA IDENTITY FULL"));
    }
    let error = judge(vec![compare("gone", Operator::Equal, 1)], false, &["id"]).keeps(tuple(&new), None).unwrap_err();
    assert!(error.to_string().contains("had no such column"), "{error}");
    let nulls = judge(vec![Condition { column: "a".into(), test: Test::Null(true) }], false, &["id"]);
    assert!(!nulls.keeps(tuple(&new), None).unwrap(), "what was not sent is not NULL");
    let garbage = wire(&[Some("1"), Some("five"), None]);
    assert!(bare.keeps(tuple(&garbage), None).unwrap_err().to_string().contains("is not an integer"));
}

/// A type, its send function, and values of it.
type Grid = (&'static str, &'static str, Kind, &'static [&'static str]);

const NUMBERS: &[&str] =
    &["0", "-0.0", "1", "1.0", "1.10", "1.1", "-1", "-1.1", "9.99", "10", "100", "0.001", "0.0010001", "-0.001", "-99", "NaN"];

fn grids() -> Vec<Grid> {
    vec![
        ("int2", "int2send", Kind::Integer, &["0", "1", "-1", "32767", "-32768"]),
        ("int4", "int4send", Kind::Integer, &["0", "9", "10", "-1", "2147483647", "-2147483648"]),
        ("int8", "int8send", Kind::Integer, &["0", "9007199254740993", "9007199254740992", "-9223372036854775808", "9223372036854775807"]),
        ("numeric", "numeric_send", Kind::Numeric, NUMBERS),
        (
            "numeric",
            "numeric_send",
            Kind::Numeric,
            &["1e100", "1e-100", "12345678901234567890123456789.123456789", "12345678901234567890123456789.12345679", "-1e100", "NaN", "0"],
        ),
        (
            "float4",
            "float4send",
            Kind::Single,
            &["0", "-0", "0.1", "0.10000001", "1e38", "-1e-38", "NaN", "Infinity", "-Infinity", "16777216", "16777218"],
        ),
        (
            "float8",
            "float8send",
            Kind::Double,
            &["0", "-0", "0.1", "0.30000000000000004", "0.3", "1e300", "1e-300", "NaN", "Infinity", "-Infinity", "1e23"],
        ),
        ("bool", "boolsend", Kind::Boolean, &["true", "false"]),
        (
            "date",
            "date_send",
            Kind::Date,
            &["2024-02-29", "1999-12-31", "0044-03-15 BC", "4714-11-24 BC", "5874897-12-31", "infinity", "-infinity"],
        ),
        ("time", "time_send", Kind::Time, &["00:00", "23:59:59.999999", "24:00", "12:00:00.5"]),
        (
            "timestamp",
            "timestamp_send",
            Kind::Timestamp,
            &[
                "2024-02-29 12:00",
                "2024-02-29 12:00:00.000001",
                "0044-03-15 BC",
                "294276-12-31 23:59:59.999999",
                "294276-12-31 23:59:59.999998",
                "4714-11-24 BC",
                "infinity",
                "-infinity",
            ],
        ),
        (
            "timestamptz",
            "timestamptz_send",
            Kind::Timestamp,
            &[
                "2024-02-29 12:00+00",
                "2024-02-29 13:00+01",
                "2024-02-29 12:00-05:30",
                "294276-12-31 23:59:59+00",
                "infinity",
                "-infinity",
                "0001-01-01 00:00+00 BC",
            ],
        ),
        (
            "uuid",
            "uuid_send",
            Kind::Uuid,
            &[
                "00000000-0000-0000-0000-000000000000",
                "A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11",
                "a0eebc999c0b4ef8bb6d6bb9bd380a12",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
            ],
        ),
        ("bytea", "byteasend", Kind::Bytes, &["", "\\x00", "\\x0000", "\\xff", "\\x61", "\\x6162", "abc"]),
        ("text COLLATE \"C\"", "textsend", Kind::Text, &["", "a", "A", "a ", "ab", "é", "z", "\u{10000}", "\u{ffff}", "a\u{301}"]),
        ("varchar(9) COLLATE \"C\"", "varcharsend", Kind::Text, &["", "a", "a ", "b"]),
        ("char(5) COLLATE \"C\"", "bpcharsend", Kind::Padded, &["", "a", "a  ", "ab", "A", "a\tb", "é"]),
        ("judge_mood", "enum_send", Kind::Enum(["sad", "ok", "happy", "a"].map(String::from).to_vec()), &["sad", "ok", "happy", "a"]),
    ]
}

#[tokio::test]
async fn every_comparison_is_the_servers() {
    let server = Server::shared();
    let session = session(&server.options(server.unix(), "postgres")).await.unwrap();
    session.execute("DROP TYPE IF EXISTS judge_mood; CREATE TYPE judge_mood AS ENUM ('sad', 'happy', 'a'); ALTER TYPE judge_mood ADD VALUE 'ok' BEFORE 'happy'").await.unwrap();
    let operators = ["=", "!=", "<", ">", "<=", ">="].map(|text| (text, Operator::parse(text).unwrap()));
    let mut compared = 0;
    for (ty, send, kind, values) in grids() {
        let (base, collation) =
            ty.split_once(" COLLATE ").map_or((ty, String::new()), |(base, collation)| (base, format!(" COLLATE {collation}")));
        let rows: Vec<String> = values.iter().map(|value| format!("(E'{}'::{base}{collation})", value.replace('\\', "\\\\"))).collect();
        let asked: Vec<String> = operators.iter().map(|(text, _)| format!("a.x {text} b.x")).collect();
        let sql = format!(
            "WITH v (x) AS (VALUES {}) SELECT a.x, encode({send}(a.x), 'hex'), b.x, {} FROM (TABLE v UNION ALL SELECT NULL) a CROSS JOIN v b",
            rows.join(", "),
            asked.join(", ")
        );
        for message in session.client.simple_query(&sql).await.unwrap() {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let literal = kind.text(row.get(2).unwrap().as_bytes()).unwrap().into_owned();
            let binary = row.get(1).map(hex);
            for (at, (text, operator)) in operators.iter().enumerate() {
                let condition = Condition {
                    column: "x".into(),
                    test: Test::Compare { operator: *operator, kind: kind.clone(), literal: literal.clone() },
                };
                let expected = row.get(3 + at).map(|truth| truth == "t");
                let cells = match (row.get(0), &binary) {
                    (Some(text), Some(binary)) => vec![Cell::Text(text.as_bytes()), Cell::Binary(binary)],
                    _ => vec![Cell::Null],
                };
                for cell in cells {
                    let found = condition.holds(cell).unwrap_or_else(|_| panic!("{ty}: {:?} cannot be read", row.get(0)));
                    assert_eq!(found, expected, "{ty}: {:?} {text} {:?}, of {cell:?}", row.get(0), row.get(2));
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 10_000, "{compared}");
}

#[test]
fn a_label_that_is_new_is_an_error() {
    let kind = Kind::Enum(vec!["a".into()]);
    let test = Test::Compare { operator: Operator::Equal, literal: kind.text(b"a").unwrap().into_owned(), kind };
    let judge = judge(vec![Condition { column: "a".into(), test }], false, &["id"]);
    let row = wire(&[Some("1"), Some("b"), None]);
    let error = judge.keeps(tuple(&row), None).unwrap_err();
    assert!(error.to_string().contains("none of the labels"), "{error}");
    assert!(error.advice().unwrap().contains("run sync again"));
}

#[test]
fn damaged_values_are_errors() {
    for (_, _, kind, values) in grids() {
        for value in values {
            crate::values::samples::damaged(value.as_bytes(), |field| {
                let _ = (kind.text(field), kind.binary(field));
            });
        }
    }
}
