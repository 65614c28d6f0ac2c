//! Binary forms and texts were taken from PostgreSQL 15 (`encode(numeric_send(x), 'hex')`, `x::text`).

use super::super::payload::{accepts, base, check, check_text, check_under, decode, exactly, fails, numeric, numeric_type, refuses};
use super::super::pg_type::PgType;
use super::super::special::SpecialValues;

#[test]
fn booleans() {
    let ty = || base(16, "bool", -1);
    exactly(ty(), "boolean");
    accepts(&ty(), &["boolean"]);
    check(ty(), "boolean", &[("01", "t", "true"), ("00", "f", "false")]);
    check(ty(), "string", &[("01", "t", "t"), ("00", "f", "f")]);
    for wanted in ["boolean", "string"] {
        for field in [vec![2], vec![], vec![0, 0]] {
            assert!(decode(ty(), wanted, vec![Some(field)]).is_err(), "{wanted}");
        }
    }
}

#[test]
fn integers() {
    let int2 = || base(21, "int2", -1);
    let ends = [("8000", "-32768", "-32768"), ("7fff", "32767", "32767"), ("0000", "0", "0")];
    let floats = [("8000", "-32768", "-32768.0"), ("7fff", "32767", "32767.0"), ("0000", "0", "0.0")];
    exactly(int2(), "int16");
    accepts(&int2(), &["int16", "integer_small", "integer", "number_small", "number"]);
    for wanted in ["int16", "integer_small", "integer", "decimal(5,0)", "string"] {
        check(int2(), wanted, &ends);
    }
    for wanted in ["number_small", "number"] {
        check(int2(), wanted, &floats);
    }
    check(int2(), "decimal(7,2)", &[("8000", "-32768", "-32768.00")]);
    refuses(&int2(), &["decimal(4,0)", "decimal(6,2)", "list<int16>"]);

    let int4 = || base(23, "int4", -1);
    let ends = [("80000000", "-2147483648", "-2147483648"), ("7fffffff", "2147483647", "2147483647"), ("ffffffff", "-1", "-1")];
    exactly(int4(), "integer_small");
    accepts(&int4(), &["integer_small", "integer", "number"]);
    for wanted in ["integer_small", "integer", "decimal(10,0)", "string"] {
        check(int4(), wanted, &ends);
    }
    check(int4(), "number", &[("80000000", "-2147483648", "-2147483648.0"), ("7fffffff", "2147483647", "2147483647.0")]);
    refuses(&int4(), &["decimal(9,0)"]);

    let int8 = || base(20, "int8", -1);
    let (lowest, highest) = ("-9223372036854775808", "9223372036854775807");
    let ends = [
        ("8000000000000000", lowest, lowest),
        ("7fffffffffffffff", highest, highest),
        ("0020000000000001", "9007199254740993", "9007199254740993"),
    ];
    exactly(int8(), "integer");
    accepts(&int8(), &["integer"]);
    for wanted in ["integer", "decimal(19,0)", "string"] {
        check(int8(), wanted, &ends);
    }
    let scaled = "-9223372036854775808.0000000000000000000";
    check(int8(), "decimal(38,19)", &[("8000000000000000", lowest, scaled)]);
    refuses(&int8(), &["decimal(18,0)", "decimal(38,20)"]);
}

#[test]
fn identifiers() {
    for (oid, name) in [(26, "oid"), (28, "xid"), (29, "cid")] {
        let ty = || base(oid, name, -1);
        exactly(ty(), "integer");
        accepts(&ty(), &["integer"]);
        for wanted in ["integer", "decimal(10,0)", "string"] {
            check(ty(), wanted, &[("00000000", "0", "0"), ("ffffffff", "4294967295", "4294967295")]);
        }
        refuses(&ty(), &["decimal(9,0)"]);
    }
    let xid8 = || base(5069, "xid8", -1);
    let rows = [("ffffffffffffffff", "18446744073709551615", "18446744073709551615"), ("0000000000000000", "0", "0")];
    exactly(xid8(), "decimal(20,0)");
    accepts(&xid8(), &[]);
    check(xid8(), "decimal(20,0)", &rows);
    check(xid8(), "string", &rows);
    check(xid8(), "decimal(22,2)", &[("ffffffffffffffff", "18446744073709551615", "18446744073709551615.00")]);
    refuses(&xid8(), &["decimal(19,0)", "decimal(20,1)"]);
}

#[test]
fn floats_keep_their_bits() {
    let float4 = || base(700, "float4", -1);
    exactly(float4(), "number_small");
    accepts(&float4(), &["number_small", "number"]);
    refuses(&float4(), &["decimal(38,10)"]);
    let rows = [
        ("80000000", "-0", "-0.0"),
        ("7fc00000", "NaN", "NaN"),
        ("ff800000", "-Infinity", "-inf"),
        ("00000001", "1e-45", "1e-45"),
        ("3dcccccd", "0.1", "0.1"),
        ("7f7fffff", "3.4028235e+38", "3.4028235e38"),
    ];
    check(float4(), "number_small", &rows);
    let wide = [("80000000", "-0", "-0.0"), ("3dcccccd", "0.1", "0.10000000149011612"), ("00000001", "1e-45", "1.401298464324817e-45")];
    check(float4(), "number", &wide);
    let texts = rows.map(|(binary, text, _)| (binary, text, text));
    check(float4(), "string", &texts);
    // As servers before 12 print it with extra_float_digits = 3.
    check(float4(), "string", &[("3dcccccd", "0.100000001", "0.1"), ("58635fa9", "1e+15", "1e+15")]);

    let float8 = || base(701, "float8", -1);
    exactly(float8(), "number");
    accepts(&float8(), &["number"]);
    let rows = [
        ("8000000000000000", "-0", "-0.0"),
        ("7ff8000000000000", "NaN", "NaN"),
        ("7ff0000000000000", "Infinity", "inf"),
        ("0000000000000001", "5e-324", "5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308", "1.7976931348623157e308"),
        ("3fb999999999999a", "0.1", "0.1"),
        ("40fe240c9fbe76c9", "123456.789", "123456.789"),
    ];
    check(float8(), "number", &rows);
    check(float8(), "string", &rows.map(|(binary, text, _)| (binary, text, text)));
    check(float8(), "string", &[("3fb999999999999a", "0.10000000000000001", "0.1"), ("4341c37937e08000", "1e+16", "1e+16")]);
}

#[test]
fn numerics() {
    let twelve = || numeric_type(12, 2);
    let rows = [
        ("0002000000000002000c0bb8", "12.30", "12.30"),
        ("0001ffff400000020064", "-0.01", "-0.01"),
        ("0000000000000002", "0.00", "0.00"),
        ("00040002000000020063270f270f26ac", "9999999999.99", "9999999999.99"),
    ];
    exactly(twelve(), "decimal(12,2)");
    accepts(&twelve(), &["number"]);
    refuses(&twelve(), &["decimal(12,1)", "decimal(12,3)", "decimal(11,2)"]);
    check(twelve(), "decimal(12,2)", &rows);
    check(twelve(), "string", &rows);
    check(twelve(), "decimal(38,9)", &[("0002000000000002000c0bb8", "12.30", "12.300000000")]);
    let floats = [("0002000000000002000c0bb8", "12.30", "12.3"), ("0001ffff400000020064", "-0.01", "-0.01")];
    check(twelve(), "number", &floats);

    let any = || base(1700, "numeric", -1);
    let long = "123456789012345678901234567890.123456789";
    let binary = "000b000700000009000c0d801ed204d2162e23340d801ed204d2162e2328";
    exactly(any(), "string");
    accepts(&any(), &["number"]);
    check(any(), "decimal(14,4)", &[("0002000000000002000c0bb8", "12.30", "12.3000"), ("0000000000000004", "0.0000", "0.0000")]);
    let special = [("00000000c0000000", "NaN"), ("00000000d0000020", "Infinity"), ("00000000f0000020", "-Infinity")];
    check(any(), "string", &special.map(|(binary, text)| (binary, text, text)));
    check(any(), "string", &[(binary, long, long), ("0001fffb400000140001", "-0.00000000000000000001", "-0.00000000000000000001")]);
    check(any(), "number", &[(binary, long, "1.2345678901234568e29")]);
    let [nan, plus, minus] = special;
    check(any(), "number", &[(nan.0, nan.1, "NaN"), (plus.0, plus.1, "inf"), (minus.0, minus.1, "-inf")]);
    // A decimal that was named is a promise about the values, which no policy bends.
    for policy in [SpecialValues::Error, SpecialValues::Null, SpecialValues::Clamp] {
        fails(policy, any(), "decimal(38,9)", &[(binary, long, "column `c` of public.t, row 1")]);
        fails(policy, any(), "decimal(3,1)", &[("0001ffff400000020064", "-0.01", "-0.01")]);
    }
}

#[test]
fn numbers_that_no_decimal_holds_follow_the_policy() {
    let ty = || numeric_type(5, 2);
    let (nan, plus, minus) = (("00000000c0000000", "NaN"), ("00000000d0000020", "Infinity"), ("00000000f0000020", "-Infinity"));
    for (binary, text) in [nan, plus, minus] {
        fails(SpecialValues::Error, ty(), "decimal(5,2)", &[(binary, text, text)]);
        check_under(SpecialValues::Null, ty(), "decimal(5,2)", &[(binary, text, "∅")]);
        check_under(SpecialValues::String, ty(), "decimal(5,2)", &[(binary, text, text)]);
    }
    check_under(SpecialValues::Clamp, ty(), "decimal(5,2)", &[(plus.0, plus.1, "999.99"), (minus.0, minus.1, "-999.99")]);
    fails(SpecialValues::Clamp, ty(), "decimal(5,2)", &[(nan.0, nan.1, "NaN")]);
    let highest = "99999999999999999999999999999999999999";
    check_under(SpecialValues::Clamp, base(1700, "numeric", -1), "decimal(38,0)", &[(plus.0, plus.1, highest)]);
}

#[test]
fn declared_numerics_have_the_smallest_decimal_that_holds_them() {
    for (precision, scale, name) in [
        (12, 2, "decimal(12,2)"),
        (38, 38, "decimal(38,38)"),
        (39, 0, "string"),
        (50, 20, "string"),
        (1000, 1000, "string"),
        (3, 5, "decimal(5,5)"),
        (5, -2, "decimal(7,0)"),
        (30, -8, "decimal(38,0)"),
        (30, -9, "string"),
        (1, -1000, "string"),
        (3, 40, "string"),
    ] {
        exactly(numeric_type(precision, scale), name);
    }
    let field = |text: &str| numeric(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    check(numeric_type(5, -2), "decimal(7,0)", &[(&field("1234500"), "1234500", "1234500")]);
    check(numeric_type(3, 5), "decimal(5,5)", &[(&field("0.00123"), "0.00123", "0.00123")]);
}

#[test]
fn money_has_as_many_places_as_the_database_says() {
    let money = |places: i32| PgType { typmod: places, ..base(790, "money", -1) };
    for (places, exact) in [(-1, "decimal(19,2)"), (0, "decimal(19,0)"), (2, "decimal(19,2)"), (3, "decimal(19,3)")] {
        exactly(money(places), exact);
        accepts(&money(places), &[]);
    }
    let rows = [
        ("8000000000000000", "-$92,233,720,368,547,758.08", "-92233720368547758.08"),
        ("7fffffffffffffff", "$92,233,720,368,547,758.07", "92233720368547758.07"),
        ("0000000000000000", "$0.00", "0.00"),
        ("000000000001e240", "$1,234.56", "1234.56"),
    ];
    check(money(2), "decimal(19,2)", &rows);
    check(money(2), "decimal(21,4)", &[("000000000001e240", "$1,234.56", "1234.5600")]);
    check(money(0), "decimal(19,0)", &[("00000000000004d3", "¥1,235", "1235"), ("fffffffffffffb2d", "-¥1,235", "-1235")]);
    check(money(3), "decimal(19,3)", &[("000000000012d687", "د.ت. 1 234,567", "1234.567")]);
    check_text(money(2), "string", &[("$1,234.56", "$1,234.56"), ("(1.234,56 €)", "(1.234,56 €)")]);
    refuses(&money(2), &["decimal(19,1)", "decimal(18,2)", "decimal(20,4)"]);
}
