//! Binary forms and texts were taken from PostgreSQL 15 (`encode(array_send(x), 'hex')`, `x::text`).

use super::super::payload::{
    accepts, array_of, base, check, check_text, column, composite, decode, exactly, extension, fails, numeric_type, planned, range_over,
    refuses,
};
use super::super::pg_type::{PgType, TypeKind};
use super::super::special::SpecialValues;
use super::super::{Select, Wire, plan_column};
use crate::config::column_type::ColumnType;
use crate::error::Kind;

const TWO_BY_TWO: &str =
    "000000020000000000000017000000020000000100000002000000010000000400000001000000040000000200000004000000030000000400000004";
const THREE_DEEP: &str = "0000000300000001000000170000000100000001000000020000000100000001000000010000000400000001ffffffff";

fn int4() -> PgType {
    base(23, "int4", -1)
}

/// An array that is declared with so many dimensions.
fn deep(element: PgType, dimensions: usize) -> PgType {
    PgType { kind: TypeKind::Array { element: Box::new(element.clone()), dimensions }, ..array_of(element) }
}

fn multirange_of(range: PgType) -> PgType {
    PgType { kind: TypeKind::Multirange(Box::new(range)), ..base(4451, "int4multirange", -1) }
}

#[test]
fn arrays_are_lists_of_what_their_elements_are() {
    let mood = PgType { kind: TypeKind::Enum(Vec::new()), ..extension("mood") };
    for (ty, name) in [
        (array_of(int4()), "list<integer_small>"),
        (deep(int4(), 3), "list<list<list<integer_small>>>"),
        (array_of(base(3802, "jsonb", -1)), "list<json>"),
        (array_of(base(1700, "numeric", -1)), "list<string>"),
        (array_of(numeric_type(10, 2)), "list<decimal(10,2)>"),
        (array_of(mood), "list<string>"),
        (array_of(base(18, "char", -1)), "list<string>"),
        (array_of(base(869, "inet", -1)), "list<string>"),
        (array_of(base(2205, "regclass", -1)), "list<string>"),
        (array_of(base(1186, "interval", -1)), "list<interval>"),
        (array_of(array_of(int4())), "list<list<integer_small>>"),
        (array_of(extension("vector")), "list<list<number_small>>"),
        (array_of(extension("hstore")), "list<map<string,string>>"),
        (array_of(composite(&[])), "list<string>"),
    ] {
        exactly(ty.clone(), name);
        accepts(&ty, &[]);
        check_text(ty, "array", &[("{x}", "{x}")]);
    }
}

#[test]
fn elements_are_read_as_they_would_be_alone() {
    let ints = "00000001000000010000001700000003000000010000000400000001ffffffff0000000400000003";
    for wanted in ["list<integer_small>", "list<integer>", "list<string>", "list<decimal(10,0)>"] {
        check(array_of(int4()), wanted, &[(ints, "{1,NULL,3}", "[1, ∅, 3]")]);
    }
    let texts =
        "00000001000000010000001900000007000000010000000161ffffffff000000044e554c4c0000000000000003612c62000000067b2271225c7d00000002c3bc";
    let printed = r#"{a,NULL,"NULL","","a,b","{\"q\"\\}",ü}"#;
    check(array_of(base(25, "text", -1)), "list<string>", &[(texts, printed, r#"[a, ∅, NULL, , a,b, {"q"\}, ü]"#)]);
    for (element, wanted, binary, text, shown) in [
        (
            numeric_type(5, 2),
            "list<decimal(5,2)>",
            "0000000100000001000006a400000002000000010000000c000200000000000200011388ffffffff",
            "{1.50,NULL}",
            "[1.50, ∅]",
        ),
        (
            base(17, "bytea", -1),
            "list<binary>",
            "00000001000000010000001100000002000000010000000200ffffffffff",
            r#"{"\\x00ff",NULL}"#,
            "[00ff, ∅]",
        ),
        (
            base(1186, "interval", -1),
            "list<interval>",
            "0000000100000000000004a20000000200000001000000100000000000000000000000010000000000000010000000000000000000000000ffffffff",
            r#"{"1 day","-1 mons"}"#,
            "[P1D, P-1M]",
        ),
        (
            base(1114, "timestamp", -1),
            "list<local_timestamp>",
            "00000001000000010000045a0000000200000001000000080002b58341667c00ffffffff",
            r#"{"2024-02-29 12:34:56",NULL}"#,
            "[2024-02-29T12:34:56, ∅]",
        ),
        (
            base(3802, "jsonb", -1),
            "list<json>",
            "000000010000000100000eda000000020000000100000009017b2261223a20317dffffffff",
            r#"{"{\"a\": 1}",NULL}"#,
            r#"[{"a": 1}, ∅]"#,
        ),
        (
            PgType { kind: TypeKind::Enum(Vec::new()), ..extension("mood") },
            "list<string>",
            "000000010000000100004c9c0000000200000001000000087665727920736164ffffffff",
            r#"{"very sad",NULL}"#,
            "[very sad, ∅]",
        ),
    ] {
        check(array_of(element), wanted, &[(binary, text, shown)]);
    }
    // Boxes hold commas; what stands between them is a semicolon.
    let boxes = "00000001000000000000025b000000020000000100000020400800000000000040100000000000003ff000000000000040000000000000000000\
                 00203ff00000000000003ff000000000000000000000000000000000000000000000";
    let rectangle = PgType { delimiter: b';', ..base(603, "box", -1) };
    check(array_of(rectangle), "list<string>", &[(boxes, "{(3,4),(1,2);(1,1),(0,0)}", "[(3,4),(1,2), (1,1),(0,0)]")]);
    check_text(array_of(base(2205, "regclass", -1)), "list<string>", &[("{pg_class,NULL}", "[pg_class, ∅]")]);
}

#[test]
fn lists_are_as_deep_as_the_type_says() {
    let empty = ("000000000000000000000017", "{}", "[]");
    let from_zero = ("000000010000000000000017000000020000000000000004000000070000000400000008", "[0:1]={7,8}", "[7, 8]");
    check(array_of(int4()), "list<integer_small>", &[empty, from_zero]);
    check(deep(int4(), 2), "list<list<integer_small>>", &[(TWO_BY_TWO, "{{1,2},{3,4}}", "[[1, 2], [3, 4]]"), empty]);
    check(deep(int4(), 3), "list<list<list<integer>>>", &[(THREE_DEEP, "{{{1},{NULL}}}", "[[[1], [∅]]]"), empty]);
    // Declared or not: what the values are counts.
    check(array_of(int4()), "list<list<integer>>", &[(TWO_BY_TWO, "{{1,2},{3,4}}", "[[1, 2], [3, 4]]")]);
    check(deep(int4(), 2), "list<integer>", &[from_zero]);
    for (ty, wanted, binary, text, part) in [
        (array_of(int4()), "list<integer>", TWO_BY_TWO, "{{1,2},{3,4}}", "an array of 2 × 2 is not of one dimension"),
        (deep(int4(), 2), "list<list<integer>>", THREE_DEEP, "{{{1},{NULL}}}", "an array of 1 × 2 × 1 is not of 2 dimensions"),
        (deep(int4(), 2), "list<list<integer>>", from_zero.0, from_zero.1, "an array of 2 is not of 2 dimensions"),
    ] {
        for policy in SpecialValues::ALL {
            fails(policy, ty.clone(), wanted, &[(binary, text, part)]);
        }
    }
    refuses(&array_of(int4()), &["list<int16>", "list<list<int16>>", "list<json>", "map<string,string>", "struct<a:integer>"]);
}

#[test]
fn lists_of_arrays_that_a_domain_hides() {
    let ints = array_of(array_of(int4()));
    let binary = "000000010000000100004cb30000000400000001000000240000000100000000000000170000000200000001000000040000000100000004\
                  000000020000000c000000000000000000000017ffffffff000000180000000100000001000000170000000100000001ffffffff";
    let text = r#"{"{1,2}","{}",NULL,"{NULL}"}"#;
    check(ints.clone(), "list<list<integer_small>>", &[(binary, text, "[[1, 2], [], ∅, [∅]]")]);
    check_text(ints.clone(), "list<string>", &[(text, "[{1,2}, {}, ∅, {NULL}]")]);
    refuses(&ints, &["list<integer>"]);
    let posint = "000000010000000000004cb5000000020000000100000004000000010000000400000002";
    check(array_of(int4()), "list<integer_small>", &[(posint, "{1,2}", "[1, 2]")]);
    // With the policy `string`, the elements of the inner arrays are what becomes text.
    let ty = array_of(array_of(base(1082, "date", -1)));
    let plan = plan_column(&column("c", ty), "c", &"list<list<date>>".parse().expect("type"), SpecialValues::String).expect("plan");
    assert_eq!(plan.wanted.to_string(), "list<list<string>>");
}

#[test]
fn vectors_of_integers_are_arrays_printed_in_another_way() {
    let vector = |name: &str, element: PgType| PgType { name: name.to_owned(), ..array_of(element) };
    let two = || vector("int2vector", base(21, "int2", -1));
    exactly(two(), "list<int16>");
    let numbers = "0000000100000000000000150000000300000000000000020001000000020002000000020003";
    check(two(), "list<int16>", &[(numbers, "1 2 3", "[1, 2, 3]"), ("0000000100000000000000150000000000000000", "", "[]")]);
    let oids = "00000001000000000000001a0000000200000000000000040000000100000004ffffffff";
    check(vector("oidvector", base(26, "oid", -1)), "list<integer>", &[(oids, "1 4294967295", "[1, 4294967295]")]);
}

#[test]
fn composite_types_are_structs() {
    let pair = || composite(&[("n", int4()), ("a b", base(25, "text", -1))]);
    exactly(pair(), "struct<n:integer_small,\"a b\":string>");
    accepts(&pair(), &[]);
    check(
        pair(),
        "struct<n:integer_small,\"a b\":string>",
        &[
            ("0000000200000017000000040000000100000019000000056120226222", r#"(1,"a ""b""")"#, r#"{n: 1, a b: a "b"}"#),
            ("0000000200000017ffffffff00000019ffffffff", "(,)", "{n: ∅, a b: ∅}"),
            ("000000020000001700000004fffffffb0000001900000000", r#"(-5,"")"#, "{n: -5, a b: }"),
            ("0000000200000017ffffffff0000001900000003782c79", r#"(,"x,y")"#, "{n: ∅, a b: x,y}"),
        ],
    );
    check(
        pair(),
        "struct<n:integer,\"a b\":binary>",
        &[("000000020000001700000004fffffffb000000190000000161", "(-5,a)", "{n: -5, a b: 61}")],
    );
    check_text(pair(), "string", &[("(,)", "(,)")]);
    refuses(
        &pair(),
        &["struct<n:integer>", "struct<\"a b\":string,n:integer>", "struct<m:integer,\"a b\":string>", "struct<n:int16,\"a b\":string>"],
    );

    let one = || composite(&[("x", numeric_type(5, 2))]);
    exactly(one(), "struct<x:decimal(5,2)>");
    let rows = [("00000001000006a40000000c000200000000000200011388", "(1.50)", "{x: 1.50}"), ("00000001000006a4ffffffff", "()", "{x: ∅}")];
    check(one(), "struct<x:decimal(5,2)>", &rows);

    exactly(composite(&[]), "string");
    check_text(composite(&[]), "string", &[("()", "()")]);

    // What was read has other attributes than the catalog said.
    for (binary, ty) in [("00000001000006a4ffffffff", pair()), ("0000000200000017ffffffff00000019ffffffff", one())] {
        let wanted = super::exact(&ty).to_string();
        let field = crate::values::samples::hex(binary);
        let error = decode(ty, &wanted, vec![Some(field)]).expect_err("another number of attributes");
        assert!(error.kind() == Kind::Source && error.to_string().contains("was its type changed?"), "{error}");
    }
}

#[test]
fn an_attribute_without_a_binary_form_makes_all_of_it_text() {
    let odd = || composite(&[("a", int4()), ("c", base(2205, "regclass", -1))]);
    exactly(odd(), "struct<a:integer_small,c:string>");
    check_text(odd(), "struct<a:integer_small,c:string>", &[("(7,pg_class)", "{a: 7, c: pg_class}"), ("(,)", "{a: ∅, c: ∅}")]);
    let unknown = composite(&[("a", int4()), ("c", extension("cube"))]);
    check_text(unknown.clone(), "struct<a:integer,c:string>", &[(r#"(7,"(1, 2)")"#, "{a: 7, c: (1, 2)}")]);
    let plan = planned(&unknown, "struct<a:integer,c:string>", SpecialValues::Error).expect("plan");
    assert_eq!((plan.binary, plan.select(Wire::Binary)), (false, Select::OutputOfRow));
    check_text(array_of(odd()), "list<struct<a:integer_small,c:string>>", &[(r#"{"(7,pg_class)",NULL}"#, "[{a: 7, c: pg_class}, ∅]")]);
    check_text(PgType { sends: false, ..array_of(int4()) }, "list<integer>", &[("{1,NULL}", "[1, ∅]")]);
}

#[test]
fn types_are_nested_in_each_other() {
    let pair = || composite(&[("n", int4()), ("a b", base(25, "text", -1))]);
    let pairs = "000000010000000100004ca500000003000000010000001900000002000000170000000400000001000000190000000161ffffffff0000001700\
                 00000200000017ffffffff0000001900000003782079";
    check(
        array_of(pair()),
        "list<struct<n:integer_small,\"a b\":string>>",
        &[(pairs, r#"{"(1,a)",NULL,"(,\"x y\")"}"#, "[{n: 1, a b: a}, ∅, {n: ∅, a b: x y}]")],
    );
    let deep = composite(&[("id", int4()), ("tags", array_of(base(25, "text", -1))), ("p", pair())]);
    let wanted = "struct<id:integer_small,tags:list<string>,p:struct<n:integer_small,\"a b\":string>>";
    exactly(deep.clone(), wanted);
    let full = "00000003000000170000000400000001000003f1000000240000000100000001000000190000000300000001000000016100000003622063ffffff\
                ff00004ca50000001b000000020000001700000004000000020000001900000003712278";
    let part = "00000003000000170000000400000002000003f10000000c00000000000000000000001900004ca5ffffffff";
    let rows = [
        (full, r#"(1,"{a,""b c"",NULL}","(2,""q""""x"")")"#, r#"{id: 1, tags: [a, b c, ∅], p: {n: 2, a b: q"x}}"#),
        (part, "(2,{},)", "{id: 2, tags: [], p: ∅}"),
    ];
    check(deep.clone(), wanted, &rows);
    // An array of composites, each with an array, each of whose elements is text with quotes.
    let list = array_of(deep);
    let framed = format!("00000001 00000000 00004ca5 00000001 00000001 {:08x} {part}", part.len() / 2).replace(' ', "");
    check(list, &format!("list<{wanted}>"), &[(&framed, r#"{"(2,{},)"}"#, "[{id: 2, tags: [], p: ∅}]")]);
}

#[test]
fn ranges_are_structs_and_multiranges_lists_of_them() {
    let range = || range_over(int4());
    let of = |bound: &str| format!("struct<lower:{bound},upper:{bound},lower_inclusive:boolean,upper_inclusive:boolean,empty:boolean>");
    let shown = |lower: &str, upper: &str, flags: [bool; 3]| {
        let [first, last, empty] = flags;
        format!("{{lower: {lower}, upper: {upper}, lower_inclusive: {first}, upper_inclusive: {last}, empty: {empty}}}")
    };
    exactly(range(), &of("integer_small"));
    accepts(&range(), &[]);
    refuses(&range(), &[&of("int16"), &of("integer").replace("empty", "void"), "struct<lower:integer,upper:integer>"]);
    let rows = [
        ("020000000400000001000000040000000a", "[1,10)", shown("1", "10", [true, false, false])),
        ("080000000400000005", "(,5)", shown("∅", "5", [false, false, false])),
        ("01", "empty", shown("∅", "∅", [false, false, true])),
        ("18", "(,)", shown("∅", "∅", [false, false, false])),
        ("120000000400000003", "[3,)", shown("3", "∅", [true, false, false])),
    ];
    let rows = rows.each_ref().map(|(binary, text, shown)| (*binary, *text, shown.as_str()));
    for bound in ["integer_small", "integer", "string"] {
        check(range(), &of(bound), &rows);
    }
    check_text(range(), "string", &[("[1,10)", "[1,10)"), ("empty", "empty")]);

    let numbers = [
        ("060000000c0002000000000001000113880000000c000200000000000200021388", "[1.5,2.50]", shown("1.5", "2.50", [true, true, false])),
        ("000000000a000100000000000000010000000a00010000000000000002", "(1,2)", shown("1", "2", [false, false, false])),
    ];
    exactly(range_over(base(1700, "numeric", -1)), &of("string"));
    check(
        range_over(base(1700, "numeric", -1)),
        &of("string"),
        &numbers.each_ref().map(|(binary, text, shown)| (*binary, *text, shown.as_str())),
    );
    let days = shown("2024-01-01T00:00:00", "2024-01-02T00:00:00", [true, false, false]);
    let binary = "02000000080002b0d5d4e94000000000080002b0e9f2c0a000";
    let text = r#"["2024-01-01 00:00:00","2024-01-02 00:00:00")"#;
    check(range_over(base(1114, "timestamp", -1)), &of("local_timestamp"), &[(binary, text, &days)]);

    let many = || multirange_of(range());
    let [first, second, open] =
        [("1", "3", true), ("5", "8", true), ("∅", "3", false)].map(|(lower, upper, first)| shown(lower, upper, [first, false, false]));
    exactly(many(), &format!("list<{}>", of("integer_small")));
    accepts(&many(), &[]);
    check(
        many(),
        &format!("list<{}>", of("integer")),
        &[
            (
                "00000002000000110200000004000000010000000400000003000000110200000004000000050000000400000008",
                "{[1,3),[5,8)}",
                &format!("[{first}, {second}]"),
            ),
            ("00000000", "{}", "[]"),
            ("0000000100000009080000000400000003", "{(,3)}", &format!("[{open}]")),
        ],
    );
    check_text(many(), "string", &[("{[1,3),[5,8)}", "{[1,3),[5,8)}")]);
    let ranges = "000000010000000100000f400000000300000001000000110200000004000000010000000400000003ffffffff0000000101";
    let empty = shown("∅", "∅", [false, false, true]);
    check(
        array_of(range()),
        &format!("list<{}>", of("integer_small")),
        &[(ranges, r#"{"[1,3)",NULL,empty}"#, &format!("[{first}, ∅, {empty}]"))],
    );
}

#[test]
fn hstores_are_maps() {
    let ty = || extension("hstore");
    exactly(ty(), "map<string,string>");
    accepts(&ty(), &["map<string,string>"]);
    check(
        ty(),
        "map<string,string>",
        &[
            (
                "000000020000000473697a65ffffffff00000005636f6c6f7200000003726564",
                r#""size"=>NULL, "color"=>"red""#,
                "{size: ∅, color: red}",
            ),
            ("00000000", "", "{}"),
            ("000000020000000161000000044e554c4c0000000322715c00000000", r#""a"=>"NULL", "\"q\\"=>"""#, r#"{a: NULL, "q\: }"#),
        ],
    );
    check_text(ty(), "string", &[(r#""a"=>"1""#, r#""a"=>"1""#)]);
    let list = "000000010000000100004aa100000002000000010000000e0000000100000001610000000131ffffffff";
    check(array_of(ty()), "list<map<string,string>>", &[(list, r#"{"\"a\"=>\"1\"",NULL}"#, "[{a: 1}, ∅]")]);
    assert_eq!(super::exact(&base(90_000, "hstore", -1)), ColumnType::String);
}
