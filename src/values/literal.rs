//! The parts of a value that holds others, from its text form.
//!
//! Each function reads what one output function prints, no more: the input functions know more ways to write the same. Parts are
//! handed over without their quotes and escapes, as slices of the value where nothing was escaped. The parts of a value that
//! turns out to be malformed have been handed over in part. [`super::parts`] does the same for the binary form.

use super::parts::Dimensions;
use super::scan::{Literal, Shape};
use super::{Fault, Parts, Step, not_a};

/// The elements of an array, in row-major order (`array_out`); `delimiter` is the element type's, a comma for all but `box`.
pub(crate) fn array_text(field: &[u8], delimiter: u8, parts: &mut Parts<'_>) -> Step<Dimensions> {
    let mut literal = Literal::new(field, "an array");
    let claimed = literal.bounds()?;
    if literal.rest == b"{}" && claimed.is_none() {
        return Ok(Dimensions::EMPTY);
    }
    let mut shape = Shape::default();
    loop {
        while literal.eat(b'{') {
            shape.open().ok_or_else(|| literal.malformed())?;
        }
        shape.element().ok_or_else(|| literal.malformed())?;
        let part = literal.part(&[delimiter, b'{', b'}'])?;
        let null = !part.quoted && part.bytes.eq_ignore_ascii_case(b"NULL");
        if part.bytes.is_empty() && !part.quoted {
            return Err(literal.malformed());
        }
        parts(if null { None } else { Some(part.bytes) })?;
        while literal.eat(b'}') {
            shape.close().ok_or_else(|| literal.malformed())?;
        }
        if shape.depth == 0 {
            break;
        }
        literal.expect(&[delimiter])?;
    }
    literal.end()?;
    let found = shape.dimensions().ok_or_else(|| literal.malformed())?;
    if claimed.is_some_and(|claimed| claimed != found) { Err(literal.malformed()) } else { Ok(found) }
}

/// The elements of an `int2vector` or `oidvector`: `1 2 3` (`int2vectorout`, `oidvectorout`).
pub(crate) fn int_vector_text(field: &[u8], parts: &mut Parts<'_>) -> Step<Dimensions> {
    if field.is_empty() {
        return Ok(Dimensions::EMPTY);
    }
    separated(field, field, b' ', "a list of numbers", parts)
}

/// The elements of a pgvector `vector` or `halfvec`: `[1,2.5,3]` (`vector_out`, `halfvec_out`).
pub(crate) fn vector_text(field: &[u8], parts: &mut Parts<'_>) -> Step<Dimensions> {
    const WHAT: &str = "a vector";
    let inside = field.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")).ok_or_else(|| not_a(WHAT, field))?;
    if inside.is_empty() { Ok(Dimensions::EMPTY) } else { separated(field, inside, b',', WHAT, parts) }
}

/// The ranges of a multirange, each as `range_out` prints it (`multirange_out`).
pub(crate) fn multirange_text(field: &[u8], parts: &mut Parts<'_>) -> Step<Dimensions> {
    let mut literal = Literal::new(field, "a multirange");
    literal.expect(b"{")?;
    let mut ranges = 0;
    if !literal.eat(b'}') {
        loop {
            parts(Some(literal.range()?))?;
            ranges += 1;
            if literal.eat(b'}') {
                break;
            }
            literal.expect(b",")?;
        }
    }
    literal.end()?;
    Ok(Dimensions::one(ranges))
}

/// The columns of a composite (`record_out`). `columns` says how many there are: `()` is both a composite without columns and one
/// whose only column is NULL.
pub(crate) fn composite_text(field: &[u8], columns: usize, parts: &mut Parts<'_>) -> Step {
    let mut literal = Literal::new(field, "a composite");
    literal.doubled = true;
    literal.expect(b"(")?;
    for column in 0..columns {
        if column > 0 && !literal.eat(b',') {
            return Err(Fault::malformed(format!("a composite of {column} columns has {columns} in the catalog")));
        }
        let part = literal.part(b",)")?;
        let null = part.bytes.is_empty() && !part.quoted;
        parts(if null { None } else { Some(part.bytes) })?;
    }
    if literal.eat(b',') {
        return Err(Fault::malformed(format!("a composite has more than the {columns} columns in the catalog")));
    }
    literal.expect(b")")?;
    literal.end()
}

/// A range (`range_out`) as five parts: lower and upper bound, each NULL when it is infinite or the range empty, then as `t` or `f`
/// whether the lower bound is in it, whether the upper is, and whether it is empty.
pub(crate) fn range_text(field: &[u8], parts: &mut Parts<'_>) -> Step {
    if field == b"empty" {
        return [None, None, Some(b"f"), Some(b"f"), Some(b"t")].into_iter().try_for_each(|part| parts(part.map(<[u8; 1]>::as_slice)));
    }
    let mut literal = Literal::new(field, "a range");
    literal.doubled = true;
    let lower_inclusive = literal.either(b'[', b'(')?;
    let has_lower = literal.bound(parts)?;
    literal.expect(b",")?;
    let has_upper = literal.bound(parts)?;
    let upper_inclusive = literal.either(b']', b')')?;
    literal.end()?;
    for flag in [has_lower && lower_inclusive, has_upper && upper_inclusive, false] {
        parts(Some(if flag { b"t" } else { b"f" }))?;
    }
    Ok(())
}

/// The keys and values of an `hstore` in turn: key, value, key, value (`hstore_out`). Returns the number of pairs.
pub(crate) fn hstore_text(field: &[u8], parts: &mut Parts<'_>) -> Step<usize> {
    let mut literal = Literal::new(field, "an hstore");
    let mut pairs = 0;
    while !literal.rest.is_empty() {
        if pairs > 0 {
            literal.expect(b", ")?;
        }
        literal.expect(b"\"")?;
        parts(Some(literal.quoted()?))?;
        literal.expect(b"=>")?;
        if literal.eat(b'"') {
            parts(Some(literal.quoted()?))?;
        } else {
            literal.expect(b"NULL")?;
            parts(None)?;
        }
        pairs += 1;
    }
    Ok(pairs)
}

/// Parts that need no quotes; `field` is the whole value, for the error.
fn separated(field: &[u8], inside: &[u8], separator: u8, what: &str, parts: &mut Parts<'_>) -> Step<Dimensions> {
    let mut count = 0;
    for part in inside.split(|byte| *byte == separator) {
        if part.is_empty() {
            return Err(not_a(what, field));
        }
        parts(Some(part))?;
        count += 1;
    }
    Ok(Dimensions::one(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::parts::{array_binary, composite_binary, hstore_binary, multirange_binary};
    use crate::values::samples::{damaged, hex, shown};

    /// select encode(array_send(x), 'hex'), x::text on PostgreSQL 15; the parts and the lengths.
    const ARRAYS: [(&str, &str, &str, &[usize]); 7] = [
        ("000000000000000000000019", "{}", "", &[]),
        (
            "0000000100000001000000190000000b00000001000000016100000000000000044e554c4c000000046e756c6cffffffff00000003612262\
             00000003635c64000000037b787d00000003652c66000000032067200000000168",
            r#"{a,"","NULL","null",NULL,"a\"b","c\\d","{x}","e,f"," g ",h}"#,
            r#"a||'NULL'|null|NULL|a"b|c\d|{x}|e,f| g |h"#,
            &[11],
        ),
        (
            "000000020000000000000019000000020000000200000002ffffffff0000000161000000016200000001630000000164",
            "[2:3][-1:0]={{a,b},{c,d}}",
            "a|b|c|d",
            &[2, 2],
        ),
        (
            "0000000200000001000000190000000200000001000000020000000100000003612062ffffffff00000001630000000122",
            r#"{{"a b",NULL},{c,"\""}}"#,
            "a b|NULL|c|\"",
            &[2, 2],
        ),
        (
            "0000000300000000000000190000000200000001000000020000000100000001000000010000000131000000013200000001330000000134",
            "{{{1},{2}},{{3},{4}}}",
            "1|2|3|4",
            &[2, 2, 1],
        ),
        (
            "0000000600000000000000190000000100000000000000010000000100000001000000010000000100000001000000010000000100000001\
             000000050000000178",
            "[0:0][1:1][1:1][1:1][1:1][5:5]={{{{{{x}}}}}}",
            "x",
            &[1; 6],
        ),
        ("0000000100000000000000190000000300000001000000016100000002c3a9000000037d7b2c", "{a,é,\"}{,\"}", "a|é|}{,", &[3]),
    ];

    #[test]
    fn arrays_have_the_same_parts_in_both_forms() {
        for (binary, text, elements, lengths) in ARRAYS {
            let expected = (elements, lengths);
            let (found, dimensions) = shown(|parts| array_binary(&hex(binary), parts)).expect("an array");
            assert_eq!((found.as_str(), dimensions.lengths()), expected, "{binary}");
            let (found, dimensions) = shown(|parts| array_text(text.as_bytes(), b',', parts)).expect("an array");
            assert_eq!((found.as_str(), dimensions.lengths()), expected, "{text}");
        }
    }

    #[test]
    fn arrays_with_other_delimiters_escapes_and_nested_literals() {
        for (text, delimiter, elements) in [
            ("{(1,1),(0,0);(3,3),(2,2)}", b';', "(1,1),(0,0)|(3,3),(2,2)"),
            (r#"{"(1,\"a\"\"\\\\b\",,\"\")",NULL}"#, b',', r#"(1,"a""\\b",,"")|NULL"#),
            (r"{\NULL,a\,b,\\}", b',', r"'NULL'|a,b|\"),
            ("[0:2]={1,NULL,-3}", b',', "1|NULL|-3"),
        ] {
            assert_eq!(shown(|parts| array_text(text.as_bytes(), delimiter, parts)).expect("an array").0, elements, "{text}");
        }
    }

    #[test]
    fn arrays_that_are_not_are_malformed() {
        for text in r#"{ } {a {a, {a,} {,a} a {a}} {a}{b} {{a},b} {a,{b}} {{a,b},{c}} {{},{}} {{}} {"a} {"a"b} {a"b"} {a\
             {"\ {{{{{{{a}}}}}}} [1:2={a,b} [1:2]{a,b} [1:3]={a,b} [2:0]={} [1:0]={} [x:2]={a} [1:2][1:1]={a,b}
             [-2147483648:2147483647]={a} [1:99999999999]={a} {{a}{b}} {a{b}}"#
            .split_whitespace()
        {
            let found = shown(|parts| array_text(text.as_bytes(), b',', parts)).map_err(|fault| *fault);
            assert!(matches!(found, Err(Fault::Malformed(_))), "{text}: {found:?}");
        }
        let deep = "{".repeat(100_000);
        assert!(shown(|parts| array_text(deep.as_bytes(), b',', parts)).is_err());
    }

    /// select encode(record_send(x), 'hex'), x::text on PostgreSQL 15, from types of four, one and no columns of text.
    const COMPOSITES: [(&str, &str, usize, &str); 7] = [
        (
            "0000000400000019000000013100000019000000096220227122205c206300000019ffffffff0000001900000000",
            r#"(1,"b ""q"" \\ c",,"")"#,
            4,
            r#"1|b "q" \ c|NULL|"#,
        ),
        ("0000000400000017ffffffff00000019ffffffff00000019ffffffff00000019ffffffff", "(,,,)", 4, "NULL|NULL|NULL|NULL"),
        (
            "0000000400000019000000022d3500000019000000044e554c4c0000001900000003612c620000001900000003287829",
            r#"(-5,NULL,"a,b","(x)")"#,
            4,
            "-5|'NULL'|a,b|(x)",
        ),
        (
            "00000004000000190000000137000000190000000320732000000019000000012200000019000000015c",
            r#"(7," s ","""","\\")"#,
            4,
            r#"7| s |"|\"#,
        ),
        ("0000000100000019ffffffff", "()", 1, "NULL"),
        ("000000010000001900000000", "(\"\")", 1, ""),
        ("00000000", "()", 0, ""),
    ];

    #[test]
    fn composites_have_the_same_parts_in_both_forms() {
        for (binary, text, columns, expected) in COMPOSITES {
            let found = shown(|parts| composite_binary(&hex(binary), parts)).expect("a composite");
            assert_eq!(found.0, expected, "{binary}");
            let found = shown(|parts| composite_text(text.as_bytes(), columns, parts)).expect("a composite");
            assert_eq!(found.0, expected, "{text}");
        }
        for (text, columns) in [
            ("", 0),
            ("(", 0),
            ("(a)", 0),
            ("(", 1),
            ("(a", 1),
            ("(a)b", 1),
            ("(a,b)", 1),
            ("(a)", 2),
            ("(\"a)", 1),
            ("(\"a\"b)", 1),
            ("(a\\", 1),
        ] {
            let found = shown(|parts| composite_text(text.as_bytes(), columns, parts)).map_err(|fault| *fault);
            assert!(matches!(found, Err(Fault::Malformed(_))), "{text}: {found:?}");
        }
    }

    #[test]
    fn ranges() {
        // select x::text on PostgreSQL 15, from int4range and a range over text.
        for (text, expected) in [
            ("empty", "NULL|NULL|f|f|t"),
            ("[1,5)", "1|5|t|f|f"),
            ("(,5)", "NULL|5|f|f|f"),
            ("[1,)", "1|NULL|t|f|f"),
            ("(,)", "NULL|NULL|f|f|f"),
            ("[a,b]", "a|b|t|t|f"),
            (r#"["","x""y"]"#, "|x\"y|t|t|f"),
            (r#"("a,b","c\\d")"#, r"a,b|c\d|f|f|f"),
            (r#"("(","]"]"#, "(|]|f|t|f"),
            ("(,\" \")", "NULL| |f|f|f"),
            ("[empty,null)", "empty|null|t|f|f"),
        ] {
            assert_eq!(shown(|parts| range_text(text.as_bytes(), parts)).expect("a range").0, expected, "{text}");
        }
        for text in ["", "Empty", "[", "[1", "[1,", "[1,2", "[1,2)x", "1,2)", "[1)", "[1,2,3)", "[\"1,2)", "[1\"2\",3)"] {
            let found = shown(|parts| range_text(text.as_bytes(), parts)).map_err(|fault| *fault);
            assert!(matches!(found, Err(Fault::Malformed(_))), "{text}: {found:?}");
        }
    }

    #[test]
    fn multiranges_have_ranges_as_parts() {
        // select encode(multirange_send(x), 'hex'), x::text on PostgreSQL 15.
        for (binary, text, ranges) in [
            ("00000000", "{}", ""),
            (
                "00000002000000110200000004000000010000000400000003000000110200000004000000050000000400000009",
                "{[1,3),[5,9)}",
                "[1,3)|[5,9)",
            ),
            ("000000020000000908000000040000000100000009120000000400000007", "{(,1),[7,)}", "(,1)|[7,)"),
            ("00000001000000100200000003615d2200000004622c635c", r#"{["a]""","b,c\\")}"#, r#"["a]""","b,c\\")"#),
            ("000000020000000b02000000016100000001620000000c02000000017d000000027e29", r#"{[a,b),[},"~)")}"#, r#"[a,b)|[},"~)")"#),
        ] {
            let (found, dimensions) = shown(|parts| multirange_text(text.as_bytes(), parts)).expect("a multirange");
            assert_eq!(found, ranges);
            assert_eq!(shown(|parts| multirange_binary(&hex(binary), parts)).expect("a multirange").1, dimensions, "{text}");
        }
        for text in ["", "{", "{[1,2)", "{[1,2),", "{[1,2),}", "{}x", "{empty}", "{[\"1,2)}", "{[1,2)[3,4)}"] {
            let found = shown(|parts| multirange_text(text.as_bytes(), parts)).map_err(|fault| *fault);
            assert!(matches!(found, Err(Fault::Malformed(_))), "{text}: {found:?}");
        }
    }

    #[test]
    fn hstores_have_the_same_parts_in_both_forms() {
        // select encode(hstore_send(x), 'hex'), x::text on PostgreSQL 15.
        for (binary, text, expected, pairs) in [
            ("00000000", "", "", 0),
            (
                "00000003000000016100000001310000000162ffffffff000000044e554c4c000000044e554c4c",
                r#""a"=>"1", "b"=>NULL, "NULL"=>"NULL""#,
                "a|1|b|NULL|'NULL'|'NULL'",
                3,
            ),
            ("00000001000000046b22715c000000073d3e2c20227622", r#""k\"q\\"=>"=>, \"v\"""#, r#"k"q\|=>, "v""#, 1),
            ("000000010000000000000000", r#"""=>"""#, "|", 1),
            ("000000020000000178000000046e756c6c00000002c3a900000002c3bc", r#""x"=>"null", "é"=>"ü""#, "x|null|é|ü", 2),
        ] {
            assert_eq!(shown(|parts| hstore_binary(&hex(binary), parts)).expect("an hstore"), (expected.to_owned(), pairs));
            assert_eq!(shown(|parts| hstore_text(text.as_bytes(), parts)).expect("an hstore"), (expected.to_owned(), pairs));
        }
        for text in ["a", "\"a", "\"a\"", "\"a\"=>", "\"a\"=>b", "\"a\"=>\"b", "\"a\"=>\"b\",", "\"a\"=>\"b\", ", "NULL=>\"a\""] {
            let found = shown(|parts| hstore_text(text.as_bytes(), parts)).map_err(|fault| *fault);
            assert!(matches!(found, Err(Fault::Malformed(_))), "{text}: {found:?}");
        }
    }

    #[test]
    fn vectors_of_either_kind() {
        let (found, dimensions) = shown(|parts| int_vector_text(b"1 2 -3", parts)).expect("an int2vector");
        assert_eq!((found.as_str(), dimensions.lengths()), ("1|2|-3", &[3][..]));
        assert_eq!(int_vector_text(b"", &mut |_| Ok(())).expect("empty"), Dimensions::EMPTY);
        let (found, dimensions) = shown(|parts| vector_text(b"[1,2.5,-3e-05]", parts)).expect("a vector");
        assert_eq!((found.as_str(), dimensions.lengths()), ("1|2.5|-3e-05", &[3][..]));
        assert!(int_vector_text(b"1  2", &mut |_| Ok(())).is_err());
        for text in ["", "[", "]", "[1", "1]", "[1,]", "[,]"] {
            assert!(vector_text(text.as_bytes(), &mut |_| Ok(())).is_err(), "{text}");
        }
    }

    #[test]
    fn damage_never_panics() {
        let composites = COMPOSITES.map(|(_, text, _, _)| text);
        let others = [r#"("a,b","c\\d")"#, r#"{["a]""","b,c\\")}"#, r#""k\"q\\"=>"=>, \"v\"", "b"=>NULL"#, "[1,2.5,-3e-05]", "1 2 -3"];
        for sample in ARRAYS.map(|(_, text, _, _)| text).into_iter().chain(composites).chain(others) {
            damaged(sample.as_bytes(), |field| {
                let _ = shown(|parts| array_text(field, b',', parts));
                let _ = shown(|parts| composite_text(field, 4, parts));
                let _ = shown(|parts| range_text(field, parts));
                let _ = shown(|parts| multirange_text(field, parts));
                let _ = shown(|parts| hstore_text(field, parts));
                let _ = shown(|parts| vector_text(field, parts));
                let _ = shown(|parts| int_vector_text(field, parts));
            });
        }
    }
}
