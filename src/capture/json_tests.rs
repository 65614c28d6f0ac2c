use super::*;
use crate::types::payload::{array_of, base, column, composite, extension, range_over};
use crate::values::samples::damaged;

fn bool_() -> PgType {
    base(16, "bool", -1)
}

fn int4() -> PgType {
    base(23, "int4", -1)
}

fn text() -> PgType {
    base(25, "text", -1)
}

fn hstore() -> PgType {
    PgType { json_cast: true, ..extension("hstore") }
}

fn complex() -> PgType {
    composite(&[("r", base(701, "float8", -1)), ("the \"label\"", text()), ("at", array_of(base(1184, "timestamptz", -1)))])
}

fn made(ty: PgType, appearance: Appearance, cell: &str) -> Step<String> {
    let member = Member::new(&column("x", ty), appearance, false).expect("a member");
    let mut out = Vec::new();
    object(&[member], |_| Cell::Text(cell.as_bytes()), false, &mut out).map_err(|(_, fault)| fault)?;
    let out = String::from_utf8(out).expect("UTF-8");
    Ok(out.strip_prefix("{\"x\":").and_then(|rest| rest.strip_suffix('}')).expect("an object").to_owned())
}

#[track_caller]
fn check(ty: &PgType, appearance: Appearance, values: &[(&str, &str)]) {
    for (cell, expected) in values {
        assert_eq!(made(ty.clone(), appearance, cell).expect("JSON"), *expected, "{} {cell:?}", ty.name);
    }
}

/// format('%s', x) and row_to_json on PostgreSQL 15, in UTC.
#[test]
fn values_are_those_of_row_to_json() {
    use Appearance::Value;
    check(&bool_(), Value, &[("t", "true"), ("f", "false")]);
    for number in [int4(), base(20, "int8", -1), base(21, "int2", -1), base(700, "float4", -1), base(701, "float8", -1)] {
        check(&number, Value, &[("0", "0"), ("-7", "-7"), ("1e-45", "1e-45"), ("1.5e+300", "1.5e+300"), ("NaN", "\"NaN\"")]);
    }
    let numeric = base(1700, "numeric", -1);
    check(&numeric, Value, &[("1.50", "1.50"), ("-0.00", "-0.00"), ("-Infinity", "\"-Infinity\""), ("NaN", "\"NaN\"")]);
    for json in [base(114, "json", -1), base(3802, "jsonb", -1)] {
        check(&json, Value, &[("{\"a\":  1, \"a\": 2}", "{\"a\":  1, \"a\": 2}"), ("null", "null")]);
    }
    check(
        &text(),
        Value,
        &[
            ("", r#""""#),
            ("\u{1}\u{8}\t\n\u{b}\u{c}\r\u{1f} \u{7f}", "\"\\u0001\\b\\t\\n\\u000b\\f\\r\\u001f \u{7f}\""),
            (r#"a "b" \ /c"#, r#""a \"b\" \\ /c""#),
            ("é 🦀 \u{2028}", "\"é 🦀 \u{2028}\""),
        ],
    );
    check(&base(17, "bytea", -1), Value, &[("\\x00ff", r#""\\x00ff""#)]);
    check(&base(26, "oid", -1), Value, &[("7", "\"7\"")]);
    check(&base(790, "money", 2), Value, &[("$1.00", "\"$1.00\"")]);
    check(&base(1082, "date", -1), Value, &[("2024-02-29", "\"2024-02-29\""), ("4714-11-24 BC", "\"4714-11-24 BC\"")]);
    check(&base(1083, "time", -1), Value, &[("01:02:03", "\"01:02:03\"")]);
    check(
        &base(1114, "timestamp", -1),
        Value,
        &[
            ("2024-02-29 01:02:03.4", "\"2024-02-29T01:02:03.4\""),
            ("0044-03-15 00:00:00 BC", "\"0044-03-15T00:00:00 BC\""),
            ("infinity", "\"infinity\""),
            ("-infinity", "\"-infinity\""),
        ],
    );
    check(
        &base(1184, "timestamptz", -1),
        Value,
        &[
            ("2024-02-29 01:02:03+00", "\"2024-02-29T01:02:03+00:00\""),
            ("294276-12-31 23:59:59.999999+00", "\"294276-12-31T23:59:59.999999+00:00\""),
            ("0044-03-15 00:00:00.5+00 BC", "\"0044-03-15T00:00:00.5+00:00 BC\""),
            ("2024-02-29 06:32:03+05:30", "\"2024-02-29T06:32:03+05:30\""),
            ("1799-12-31 20:29:08-03:30:52", "\"1799-12-31T20:29:08-03:30:52\""),
            ("infinity", "\"infinity\""),
        ],
    );
    check(&range_over(int4()), Value, &[("[1,10)", "\"[1,10)\"")]);
    check(&PgType { kind: TypeKind::Enum(Vec::new()), ..extension("mood") }, Value, &[("very sad", "\"very sad\"")]);
}

#[test]
fn values_that_hold_others_are_those_of_row_to_json() {
    use Appearance::Value;
    check(
        &array_of(int4()),
        Value,
        &[
            ("{}", "[]"),
            ("{1,NULL,3}", "[1,null,3]"),
            ("[0:1]={7,8}", "[7,8]"),
            ("{{1,2},{3,NULL}}", "[[1,2],[3,null]]"),
            ("{{{1},{2}},{{3},{4}},{{5},{6}}}", "[[[1],[2]],[[3],[4]],[[5],[6]]]"),
            ("[1:1][-2:-2][3:4]={{{1,2}}}", "[[[1,2]]]"),
        ],
    );
    check(&array_of(text()), Value, &[(r#"{"a,b","\"q\"",NULL,"NULL",""}"#, r#"["a,b","\"q\"",null,"NULL",""]"#)]);
    check(&array_of(bool_()), Value, &[("{t,NULL,f}", "[true,null,false]")]);
    check(&array_of(base(701, "float8", -1)), Value, &[("{0.1,NaN}", "[0.1,\"NaN\"]")]);
    check(&array_of(base(3802, "jsonb", -1)), Value, &[(r#"{"{\"a\": [1]}",NULL}"#, r#"[{"a": [1]},null]"#)]);
    let boxes = array_of(PgType { delimiter: b';', ..base(603, "box", -1) });
    check(&boxes, Value, &[("{(1,1),(0,0);(3,3),(2,2)}", r#"["(1,1),(0,0)","(3,3),(2,2)"]"#)]);
    let vector = PgType { name: "int2vector".to_owned(), ..array_of(base(21, "int2", -1)) };
    check(&vector, Value, &[("", "[]"), ("1 -2 3", "[1,-2,3]")]);
    check(
        &complex(),
        Value,
        &[
            (
                r#"(1.5,"a ""b""","{""2024-01-01 00:00:00+00""}")"#,
                r#"{"r":1.5,"the \"label\"":"a \"b\"","at":["2024-01-01T00:00:00+00:00"]}"#,
            ),
            ("(,,)", r#"{"r":null,"the \"label\"":null,"at":null}"#),
        ],
    );
    check(&array_of(complex()), Value, &[(r#"{"(1,,)",NULL}"#, r#"[{"r":1,"the \"label\"":null,"at":null},null]"#)]);
    check(&composite(&[]), Value, &[("()", "{}")]);
    let pairs = r#"{"a": "1", "b \"": null, "": "x\ny"}"#;
    check(&hstore(), Value, &[("", "{}"), ("\"a\"=>\"1\", \"b \\\"\"=>NULL, \"\"=>\"x\ny\"", pairs)]);
    check(&array_of(hstore()), Value, &[(r#"{"\"a\"=>\"1\"",""}"#, r#"[{"a": "1"},{}]"#)]);
}

#[test]
fn other_appearances_are_those_of_the_query() {
    use Appearance::{Instant, Text};
    check(&bool_(), Text, &[("t", "\"t\"")]);
    check(&array_of(int4()), Text, &[("{1,NULL}", "\"{1,NULL}\"")]);
    check(&base(114, "json", -1), Text, &[("{\"a\": 1}", r#""{\"a\": 1}""#)]);
    check(&complex(), Text, &[("(1,\"a \"\"\",)", r#""(1,\"a \"\"\",)""#)]);
    check(
        &base(1082, "date", -1),
        Instant,
        &[
            ("2024-02-29", "\"2024-02-29T00:00:00Z\""),
            ("5874897-12-31", "\"5874897-12-31T00:00:00Z\""),
            ("0044-03-15 BC", "\"0044-03-15 BC\""),
            ("infinity", "\"infinity\""),
        ],
    );
    check(
        &base(1114, "timestamp", -1),
        Instant,
        &[("2024-02-29 01:02:03.45", "\"2024-02-29T01:02:03.45Z\""), ("0044-03-15 00:00:00 BC", "\"0044-03-15 00:00:00 BC\"")],
    );
    check(
        &base(1184, "timestamptz", -1),
        Instant,
        &[
            ("2024-02-29 01:02:03+00", "\"2024-02-29T01:02:03Z\""),
            ("2024-02-29 06:32:03.000001+05:30", "\"2024-02-29T01:02:03.000001Z\""),
            ("-infinity", "\"-infinity\""),
            ("0044-03-15 00:00:00+00 BC", "\"0044-03-15 00:00:00+00 BC\""),
        ],
    );
}

#[test]
fn what_was_not_sent_is_left_out_or_an_error() {
    let members = ["id", "big", "b \"c\""].map(|name| Member::new(&column(name, text()), Appearance::Value, false).expect("a member"));
    let row = [Cell::Text(b"1"), Cell::Unchanged, Cell::Null];
    let mut out = Vec::new();
    object(&members, |at| row[at], true, &mut out).expect("an object");
    assert_eq!(out, br#"{"id":"1","b \"c\"":null}"#);
    let (at, fault) = object(&members, |at| row[at], false, &mut out).expect_err("a value that was not sent");
    assert!(at == 1 && matches!(*fault, Fault::Unfit { .. }), "{fault:?}");
    out.clear();
    object(&members, |_| Cell::Unchanged, true, &mut out).expect("an object");
    object(&[], |_| Cell::Null, true, &mut out).expect("an object");
    assert_eq!(out, b"{}{}");
}

#[test]
fn text_from_before_a_column_was_json_is_a_string() {
    let mut member = Member::new(&column("x", base(114, "json", -1)), Appearance::Value, false).expect("a member");
    for (oid, expected) in [(25, "{\"x\":\"{a\"}"), (114, "{\"x\":{a}"), (3802, "{\"x\":{a}"), (90_000, "{\"x\":{a}")] {
        member.relate(oid);
        let mut out = Vec::new();
        object(std::slice::from_ref(&member), |_| Cell::Text(b"{a"), false, &mut out).expect("an object");
        assert_eq!(String::from_utf8_lossy(&out), expected, "{oid}");
    }
}

#[test]
fn types_that_only_the_server_makes_json_of_are_refused() {
    let geometry = || PgType { json_cast: true, ..extension("geometry") };
    let own = PgType { extension: false, ..hstore() };
    let mood = PgType { kind: TypeKind::Enum(Vec::new()), json_cast: true, ..extension("mood") };
    for ty in [geometry(), array_of(geometry()), composite(&[("n", int4()), ("g", array_of(geometry()))]), own, mood] {
        let error = Member::new(&column("x", ty.clone()), Appearance::Value, false).expect_err("a cast");
        assert!(error.to_string().contains("column `x`") && error.advice().is_some_and(|hint| hint.contains("\"string\"")), "{error}");
        assert!(Member::new(&column("x", ty), Appearance::Text, false).is_ok());
    }
    // What a composite or an array itself is cast with is never called.
    assert!(Member::new(&column("x", PgType { json_cast: true, ..complex() }), Appearance::Value, false).is_ok());
}

#[test]
fn numbers_are_those_of_json() {
    for number in ["0", "-0", "10", "0.5", "1e5", "1E+5", "-1.5e-300"] {
        assert!(is_number(number.as_bytes()), "{number}");
    }
    for other in ["", "-", "01", "-01", ".5", "1.", "1e", "1e+", "+1", "1 ", "0x1", "NaN", "Infinity", "1.5.5", "1_000"] {
        assert!(!is_number(other.as_bytes()), "{other}");
    }
}

#[test]
fn damage_gives_json_or_an_error() {
    let samples = [
        (bool_(), "t"),
        (base(1114, "timestamp", -1), "0044-03-15 00:00:00.5 BC"),
        (base(1184, "timestamptz", -1), "2024-02-29 06:32:03+05:30"),
        (base(1082, "date", -1), "2024-02-29"),
        (base(1700, "numeric", -1), "-1.5e3"),
        (array_of(int4()), "[0:1][1:2]={{1,2},{3,NULL}}"),
        (array_of(complex()), r#"{"(1.5,\"a \"\"b\"\"\",\"{\"\"2024-01-01 00:00:00+00\"\"}\")",NULL}"#),
        (hstore(), r#""a"=>"1", "b"=>NULL"#),
    ];
    for (ty, sample) in samples {
        for appearance in [Appearance::Value, Appearance::Text, Appearance::Instant] {
            let member = [Member::new(&column("x", ty.clone()), appearance, false).expect("a member")];
            damaged(sample.as_bytes(), |field| {
                let mut out = Vec::new();
                // Text is checked elsewhere for being UTF-8.
                if object(&member, |_| Cell::Text(field), false, &mut out).is_ok() && std::str::from_utf8(field).is_ok() {
                    let parsed = serde_json::from_slice::<serde_json::Value>(&out);
                    assert!(parsed.is_ok(), "{} {field:?}: {}", ty.name, String::from_utf8_lossy(&out));
                }
            });
        }
    }
}
