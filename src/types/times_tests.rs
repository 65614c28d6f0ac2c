//! Binary forms and texts were taken from PostgreSQL 15 (`encode(date_send(x), 'hex')`, `x::text`); those of infinite intervals,
//! which came with 17, follow its source (`INTERVAL_IS_NOEND`).

use super::super::payload::{accepts, base, check, check_under, exactly, fails, planned, read, refuses};
use super::super::pg_type::PgType;
use super::super::special::SpecialValues;
use super::super::{Wire, plan_column};
use crate::values::samples::hex;
use arrow::array::AsArray;
use arrow::array::types::{Date32Type, TimestampMicrosecondType};

const OLAKE: [&str; 4] = ["timestamp", "timestamp_milli", "timestamp_micro", "timestamp_nano"];
const INTERVAL: &str = "struct<months:integer_small,days:integer_small,microseconds:integer>";

/// What each policy makes of special values: each (binary, text, what `clamp` makes of it).
fn specials(ty: &dyn Fn() -> PgType, wanted: &str, rows: &[(&str, &str, &str)]) {
    for (binary, text, clamped) in rows {
        fails(SpecialValues::Error, ty(), wanted, &[(binary, text, &format!("column `c` of public.t, row 1 of its chunk: {text} is "))]);
        check_under(SpecialValues::Null, ty(), wanted, &[(binary, text, "∅")]);
        check_under(SpecialValues::Clamp, ty(), wanted, &[(binary, text, clamped)]);
        check_under(SpecialValues::String, ty(), wanted, &[(binary, text, text)]);
    }
}

#[test]
fn dates() {
    let ty = || base(1082, "date", -1);
    exactly(ty(), "date");
    accepts(&ty(), &["date", "local_timestamp", "timestamp", "timestamp_milli", "timestamp_micro", "timestamp_nano"]);
    let rows = [
        ("00002279", "2024-02-29", "2024-02-29"),
        ("fff49d7b", "0044-03-15 BC", "-0043-03-15"),
        ("ffda97a7", "4714-11-24 BC", "-4713-11-24"),
        ("ffffd533", "1970-01-01", "1970-01-01"),
        ("002c95d3", "9999-12-31", "9999-12-31"),
    ];
    check(ty(), "date", &rows);
    check(ty(), "string", &rows.map(|(binary, text, _)| (binary, text, text)));
    check(
        ty(),
        "local_timestamp",
        &[("00002279", "2024-02-29", "2024-02-29T00:00:00"), ("fff49d7b", "0044-03-15 BC", "-0043-03-15T00:00:00")],
    );
    for olake in OLAKE {
        check(ty(), olake, &[("00002279", "2024-02-29", "2024-02-29T00:00:00Z")]);
    }
    specials(&ty, "date", &[("7fffffff", "infinity", "9999-12-31"), ("80000000", "-infinity", "0001-01-01")]);
    for (wanted, [highest, lowest]) in [
        ("local_timestamp", ["9999-12-31T23:59:59.999999", "0001-01-01T00:00:00"]),
        ("timestamp", ["9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z"]),
    ] {
        specials(&ty, wanted, &[("7fffffff", "infinity", highest), ("80000000", "-infinity", lowest)]);
    }
    check_under(SpecialValues::String, ty(), "timestamp", &[("00002279", "2024-02-29", "2024-02-29")]);
    // The last day is a date, further than what Arrow can show, and beyond the microseconds of a timestamp.
    for (wire, field) in [(Wire::Binary, hex("7fda970c")), (Wire::Text, b"5874897-12-31".to_vec())] {
        let plan = planned(&ty(), "date", SpecialValues::Error).expect("plan");
        let found = read(&plan, wire, vec![Some(field)]).expect("a date");
        assert_eq!(found.as_primitive::<Date32Type>().value(0), 2_145_042_905);
    }
    let last = [("7fda970c", "5874897-12-31", "beyond")];
    fails(SpecialValues::Error, ty(), "local_timestamp", &last);
    check_under(SpecialValues::Clamp, ty(), "timestamp", &[("7fda970c", "5874897-12-31", "9999-12-31T23:59:59.999999Z")]);
}

#[test]
fn times_of_day() {
    let ty = || base(1083, "time", -1);
    exactly(ty(), "time");
    accepts(&ty(), &["time"]);
    let rows = [
        ("0000000000000000", "00:00:00", "00:00:00"),
        ("0000000a8be62608", "12:34:56.789", "12:34:56.789"),
        ("000000141dd75fff", "23:59:59.999999", "23:59:59.999999"),
    ];
    check(ty(), "time", &rows);
    check(ty(), "string", &rows);
    specials(&ty, "time", &[("000000141dd76000", "24:00:00", "23:59:59.999999")]);

    let zoned = || base(1266, "timetz", -1);
    exactly(zoned(), "string");
    accepts(&zoned(), &[]);
    let texts = [("0000000a8be62608ffffb2a8", "12:34:56.789+05:30"), ("000000141dd760000000e0ff", "24:00:00-15:59:59")];
    check(zoned(), "string", &texts.map(|(binary, text)| (binary, text, text)));
}

#[test]
fn timestamps() {
    let ty = || base(1114, "timestamp", -1);
    let (plus, minus) = ("7fffffffffffffff", "8000000000000000");
    exactly(ty(), "local_timestamp");
    accepts(&ty(), &["local_timestamp", "timestamp", "timestamp_milli", "timestamp_micro", "timestamp_nano"]);
    refuses(&ty(), &["timestamptz", "date"]);
    let rows = [
        ("0002b58341728614", "2024-02-29 12:34:56.789012", "2024-02-29T12:34:56.789012"),
        ("fffca2fec4c81fff", "1969-12-31 23:59:59.999999", "1969-12-31T23:59:59.999999"),
        ("fd0f7cc1411fa000", "4714-11-24 00:00:00 BC", "-4713-11-24T00:00:00"),
    ];
    check(ty(), "local_timestamp", &rows);
    check(ty(), "string", &rows.map(|(binary, text, _)| (binary, text, text)));
    for olake in OLAKE {
        check(ty(), olake, &[("0002b58341728614", "2024-02-29 12:34:56.789012", "2024-02-29T12:34:56.789012Z")]);
    }
    specials(&ty, "local_timestamp", &[(plus, "infinity", "9999-12-31T23:59:59.999999"), (minus, "-infinity", "0001-01-01T00:00:00")]);
    specials(&ty, "timestamp", &[(plus, "infinity", "9999-12-31T23:59:59.999999Z"), (minus, "-infinity", "0001-01-01T00:00:00Z")]);
    // 29 years at the end have no room; the last microsecond before them has.
    let beyond = ("7fffff5bb3b29fff", "294276-12-31 23:59:59.999999");
    fails(SpecialValues::Error, ty(), "local_timestamp", &[(beyond.0, beyond.1, "beyond 294247-01-10")]);
    check_under(SpecialValues::Null, ty(), "local_timestamp", &[(beyond.0, beyond.1, "∅")]);
    check_under(SpecialValues::Clamp, ty(), "local_timestamp", &[(beyond.0, beyond.1, "9999-12-31T23:59:59.999999")]);
    check_under(SpecialValues::String, ty(), "local_timestamp", &[(beyond.0, beyond.1, beyond.1)]);
    for (wire, field) in [(Wire::Binary, hex("7ffca2fec4c81fff")), (Wire::Text, b"294247-01-10 04:00:54.775807".to_vec())] {
        let plan = planned(&ty(), "local_timestamp", SpecialValues::Error).expect("plan");
        let found = read(&plan, wire, vec![Some(field)]).expect("a timestamp");
        assert_eq!(found.as_primitive::<TimestampMicrosecondType>().value(0), i64::MAX);
    }
}

#[test]
fn instants() {
    let ty = || base(1184, "timestamptz", -1);
    exactly(ty(), "timestamptz");
    accepts(&ty(), &["timestamptz", "timestamp", "timestamp_milli", "timestamp_micro", "timestamp_nano"]);
    refuses(&ty(), &["local_timestamp", "date", "time"]);
    let rows = [
        ("0002b581944b3e14", "2024-02-29 10:34:56.789012+00", "2024-02-29T10:34:56.789012Z"),
        ("fffca2fec4c82000", "1970-01-01 00:00:00+00", "1970-01-01T00:00:00Z"),
    ];
    for wanted in ["timestamptz", "timestamp", "timestamp_milli", "timestamp_micro", "timestamp_nano"] {
        check(ty(), wanted, &rows);
    }
    check(ty(), "string", &rows.map(|(binary, text, _)| (binary, text, text)));
    specials(
        &ty,
        "timestamptz",
        &[("7fffffffffffffff", "infinity", "9999-12-31T23:59:59.999999Z"), ("8000000000000000", "-infinity", "0001-01-01T00:00:00Z")],
    );
}

#[test]
fn intervals() {
    let ty = || base(1186, "interval", -1);
    exactly(ty(), "interval");
    accepts(&ty(), &["interval"]);
    refuses(&ty(), &["struct<months:integer,days:integer_small,microseconds:integer>", "struct<days:integer_small>"]);
    let rows = [
        (
            "000000036c97ca88fffffffd0000000e",
            "1 year 2 mons -3 days +04:05:06.789",
            "P1Y2M-3DT4H5M6.789S",
            "{months: 14, days: -3, microseconds: 14706789000}",
        ),
        ("00000000000f4240ffffffff00000000", "-1 days +00:00:01", "P-1DT1S", "{months: 0, days: -1, microseconds: 1000000}"),
        ("00000000000000000000000000000000", "00:00:00", "PT0S", "{months: 0, days: 0, microseconds: 0}"),
        ("0000000000000000000000007fffffff", "178956970 years 7 mons", "P178956970Y7M", "{months: 2147483647, days: 0, microseconds: 0}"),
    ];
    check(ty(), "interval", &rows.map(|(binary, text, iso, _)| (binary, text, iso)));
    check(ty(), "string", &rows.map(|(binary, text, _, _)| (binary, text, text)));
    check(ty(), INTERVAL, &rows.map(|(binary, text, _, parts)| (binary, text, parts)));
    let infinite = [("7fffffffffffffff7fffffff7fffffff", "infinity"), ("80000000000000008000000080000000", "-infinity")];
    for wanted in ["interval", "string"] {
        check(ty(), wanted, &infinite.map(|(binary, text)| (binary, text, text)));
    }
    for (binary, text) in infinite {
        fails(SpecialValues::Error, ty(), INTERVAL, &[(binary, text, text)]);
        fails(SpecialValues::Clamp, ty(), INTERVAL, &[(binary, text, text)]);
        check_under(SpecialValues::Null, ty(), INTERVAL, &[(binary, text, "∅")]);
        check_under(SpecialValues::String, ty(), INTERVAL, &[(binary, text, text)]);
    }
}

#[test]
fn parts_follow_the_policy_too() {
    use super::super::payload::{array_of, column, range_over};
    let dates = "00000001000000000000043a00000002000000010000000400002279000000047fffffff";
    let text = "{2024-02-29,infinity}";
    let list = || array_of(base(1082, "date", -1));
    fails(SpecialValues::Error, list(), "list<date>", &[(dates, text, "infinity")]);
    check_under(SpecialValues::Null, list(), "list<date>", &[(dates, text, "[2024-02-29, ∅]")]);
    check_under(SpecialValues::Clamp, list(), "list<date>", &[(dates, text, "[2024-02-29, 9999-12-31]")]);
    check_under(SpecialValues::String, list(), "list<date>", &[(dates, text, "[2024-02-29, infinity]")]);
    let range = || range_over(base(1082, "date", -1));
    let wanted = "struct<lower:date,upper:date,lower_inclusive:boolean,upper_inclusive:boolean,empty:boolean>";
    let (binary, text) = ("02000000040000223e000000047fffffff", "[2024-01-01,infinity)");
    let with = |upper: &str| format!("{{lower: 2024-01-01, upper: {upper}, lower_inclusive: true, upper_inclusive: false, empty: false}}");
    fails(SpecialValues::Error, range(), wanted, &[(binary, text, "infinity")]);
    check_under(SpecialValues::Clamp, range(), wanted, &[(binary, text, &with("9999-12-31"))]);
    check_under(SpecialValues::String, range(), wanted, &[(binary, text, &with("infinity"))]);
    let plan = plan_column(&column("c", range()), "c", &wanted.parse().expect("type"), SpecialValues::String).expect("plan");
    assert!(plan.wanted.to_string().starts_with("struct<lower:string,upper:string,"));
}
