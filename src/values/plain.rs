//! Small types that need a few lines each: bits, identifiers, positions, and the text forms of what other modules read in binary.
//!
//! Each function names the function of PostgreSQL's source (`utils/adt`) that gave the bytes.

use super::{Fault, Step, exact_bytes, not_a, take, take_i32};
use std::io::Write;
use std::str::FromStr;
use uuid::Uuid;

/// Appends a bit or varbit (`varbit_send`: how many bits, then the bytes that hold them) as `varbit_out` prints it.
pub(crate) fn bits(field: &[u8], out: &mut Vec<u8>) -> Step {
    let mut bytes = field;
    let claimed = take_i32(&mut bytes, "a bit string")?;
    match usize::try_from(claimed) {
        Ok(count) if bytes.len() == count.div_ceil(8) => {
            let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| b'0' + (byte >> at & 1)));
            out.extend(bits.take(count));
            Ok(())
        }
        _ => Err(Fault::malformed(format!("a bit string of {} bytes claims {claimed} bits", field.len()))),
    }
}

/// Appends the bytes that `byteaout` printed, in either of its formats.
pub(crate) fn bytea_text(field: &[u8], out: &mut Vec<u8>) -> Step {
    if let Some(digits) = field.strip_prefix(b"\\x") {
        return hex_bytes(digits, out);
    }
    let malformed = || not_a("a bytea", field);
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            out.push(*byte);
        } else if let Some(after) = rest.strip_prefix(b"\\") {
            out.push(b'\\');
            rest = after;
        } else {
            let (digits, after) = rest.split_first_chunk().ok_or_else(malformed)?;
            out.push(octal(*digits).ok_or_else(malformed)?);
            rest = after;
        }
    }
    Ok(())
}

/// Appends the bytes that pairs of hexadecimal digits stand for.
pub(crate) fn hex_bytes(field: &[u8], out: &mut Vec<u8>) -> Step {
    let (pairs, odd) = field.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(not_a("a sequence of hexadecimal digits", field));
    }
    out.reserve(pairs.len());
    for [high, low] in pairs {
        let (Some(high), Some(low)) = (nibble(*high), nibble(*low)) else {
            return Err(not_a("a sequence of hexadecimal digits", field));
        };
        out.push(high << 4 | low);
    }
    Ok(())
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// A uuid as `uuid_out` prints it.
pub(crate) fn uuid_text(field: &[u8]) -> Step<[u8; 16]> {
    // Of the forms that the crate reads, only the one with hyphens has 36 characters.
    match Uuid::try_parse_ascii(field) {
        Ok(uuid) if field.len() == 36 => Ok(uuid.into_bytes()),
        _ => Err(not_a("a uuid", field)),
    }
}

/// Appends a tid (`tidsend`: block and offset) as `tidout` prints it.
pub(crate) fn tid(field: &[u8], out: &mut Vec<u8>) -> Step {
    let [b0, b1, b2, b3, o0, o1] = exact_bytes(field)?;
    let _ = write!(out, "({},{})", u32::from_be_bytes([b0, b1, b2, b3]), u16::from_be_bytes([o0, o1]));
    Ok(())
}

/// Appends a pg_lsn (`pg_lsn_send`) as `pg_lsn_out` prints it.
pub(crate) fn pg_lsn(field: &[u8], out: &mut Vec<u8>) -> Step {
    let lsn = u64::from_be_bytes(exact_bytes(field)?);
    let _ = write!(out, "{:X}/{:X}", lsn >> 32, lsn as u32);
    Ok(())
}

/// Appends a pg_snapshot or txid_snapshot (`pg_snapshot_send`: how many transactions are in progress, the bounds, the transactions)
/// as `pg_snapshot_out` prints it.
pub(crate) fn snapshot(field: &[u8], out: &mut Vec<u8>) -> Step {
    let mut rest = field;
    let count = take_i32(&mut rest, "a snapshot")?;
    let [lowest, next] = [take(&mut rest, "a snapshot")?, take(&mut rest, "a snapshot")?].map(u64::from_be_bytes);
    let (running, odd) = rest.as_chunks::<8>();
    if usize::try_from(count) != Ok(running.len()) || !odd.is_empty() {
        return Err(Fault::malformed(format!("a snapshot of {} bytes claims {count} transactions", field.len())));
    }
    let _ = write!(out, "{lowest}:{next}:");
    for (i, transaction) in running.iter().enumerate() {
        let _ = write!(out, "{}{}", if i == 0 { "" } else { "," }, u64::from_be_bytes(*transaction));
    }
    Ok(())
}

/// Appends a "char" (`charsend`) as `charout` prints it since PostgreSQL 15: nothing for zero, octal for what is not ASCII.
pub(crate) fn char(field: &[u8], out: &mut Vec<u8>) -> Step {
    match exact_bytes(field)? {
        [0] => {}
        [byte @ 1..=0x7F] => out.push(byte),
        [byte] => {
            let _ = write!(out, "\\{byte:03o}");
        }
    }
    Ok(())
}

/// Appends a "char" that `charout` of any version printed, in the form that [`char()`] gives it.
pub(crate) fn char_text(field: &[u8], out: &mut Vec<u8>) -> Step {
    match field {
        [] => Ok(()),
        [_] => char(field, out),
        [b'\\', digits @ ..] if exact_bytes(digits).ok().and_then(octal).is_some_and(|byte| byte >= 0x80) => {
            out.extend_from_slice(field);
            Ok(())
        }
        _ => Err(not_a("a \"char\"", field)),
    }
}

/// The number that `cash_out` printed, in the currency's smallest unit. The locale decides on all but the digits and their order.
pub(crate) fn money_text(field: &[u8]) -> Step<i64> {
    let is_negative = field.contains(&b'-') || field.contains(&b'(') || field.windows(3).any(|bytes| bytes == "\u{2212}".as_bytes());
    let mut amount = None;
    for digit in field.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| i64::from(byte - b'0')) {
        // Summed up below zero, where there is room for one more.
        amount = match amount.unwrap_or(0_i64).checked_mul(10).and_then(|amount| amount.checked_sub(digit)) {
            Some(amount) => Some(amount),
            None => return Err(not_a("an amount of money", field)),
        };
    }
    let amount = if is_negative { amount } else { amount.and_then(i64::checked_neg) };
    amount.ok_or_else(|| not_a("an amount of money", field))
}

/// Appends the text behind the version byte that `jsonb_send`, `jsonpath_send` and `ltree_send` begin with.
pub(crate) fn versioned_text(field: &[u8], out: &mut Vec<u8>) -> Step {
    match field {
        [1, text @ ..] => {
            out.extend_from_slice(text);
            Ok(())
        }
        [version, ..] => Err(Fault::malformed(format!("a value has the unknown format version {version}"))),
        [] => Err(Fault::malformed("a value has no format version")),
    }
}

/// A whole number; `what` is what it should be ("an integer").
pub(crate) fn parse_int<T: FromStr>(field: &[u8], what: &str) -> Step<T> {
    std::str::from_utf8(field).ok().and_then(|text| text.parse().ok()).ok_or_else(|| not_a(what, field))
}

/// Three octal digits.
fn octal(digits: [u8; 3]) -> Option<u8> {
    let [high, middle, low] = digits.map(|digit| digit.wrapping_sub(b'0'));
    (high < 4 && middle < 8 && low < 8).then_some(high << 6 | middle << 3 | low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::samples::{Printer, check, damaged, hex, printed};

    #[test]
    fn wire_forms_taken_from_a_server_print_as_it_prints_them() {
        // select encode(varbit_send(x), 'hex'), x on PostgreSQL 15, and so on.
        check(
            bits,
            &[
                ("00000000", ""),
                ("0000000180", "1"),
                ("0000000100", "0"),
                ("00000008aa", "10101010"),
                ("00000009f080", "111100001"),
                ("000000100001", "0000000000000001"),
                ("00000003a0", "101"),
                ("0000000baaa0", "10101010101"),
            ],
        );
        check(tid, &[("000000000000", "(0,0)"), ("ffffffffffff", "(4294967295,65535)"), ("000000070001", "(7,1)")]);
        check(
            pg_lsn,
            &[
                ("0000000000000000", "0/0"),
                ("00000016b374d848", "16/B374D848"),
                ("ffffffffffffffff", "FFFFFFFF/FFFFFFFF"),
                ("0000000a00000000", "A/0"),
            ],
        );
        check(
            snapshot,
            &[
                ("00000000000000000000000a000000000000000a", "10:10:"),
                ("00000003000000000000000a0000000000000014000000000000000a000000000000000e0000000000000013", "10:20:10,14,19"),
                ("0000000100000000000000017fffffffffffffff0000000000000001", "1:9223372036854775807:1"),
            ],
        );
        check(char, &[("00", ""), ("61", "a"), ("5c", r"\"), ("20", " "), ("7f", "\x7f"), ("c3", r"\303")]);
        check(versioned_text, &[("017b2261223a205b312c202278225d7d", r#"{"a": [1, "x"]}"#), ("01242e2261225b2a5d", r#"$."a"[*]"#)]);
    }

    #[test]
    fn malformed_values_are_faults() {
        for (printer, binary) in [
            (bits as Printer, ""),
            (bits, "00000001"),
            (bits, "00000001ffff"),
            (bits, "ffffffff"),
            (bits, "7fffffffff"),
            (tid, "0000000000"),
            (pg_lsn, "000000000000000000"),
            (snapshot, "00000001000000000000000a0000000000000014"),
            (snapshot, "ffffffff000000000000000a0000000000000014"),
            (snapshot, "00000000000000000000000a"),
            (char, ""),
            (char, "6161"),
            (versioned_text, ""),
            (versioned_text, "027b7d"),
        ] {
            assert!(matches!(printer(&hex(binary), &mut Vec::new()).map_err(|f| *f), Err(Fault::Malformed(_))), "{binary}");
        }
    }

    #[test]
    fn bytes_are_read_in_both_formats() {
        // select x, encode(x, 'hex') with bytea_output = 'escape' and 'hex' on PostgreSQL 15.
        for (text, bytes) in [
            ("", ""),
            (r"\000\377\\'", "00ff5c27"),
            (r"\\x", "5c78"),
            (r"ab\303\251", "6162c3a9"),
            (r"\012\177", "0a7f"),
            (r"\x", ""),
            (r"\x00ff5c27", "00ff5c27"),
            (r"\x5C78", "5c78"),
        ] {
            let mut out = Vec::new();
            bytea_text(text.as_bytes(), &mut out).expect("bytes");
            assert_eq!(out, hex(bytes), "{text}");
            damaged(text.as_bytes(), |field| {
                let _ = bytea_text(field, &mut Vec::new());
            });
        }
        for text in [r"\", r"a\1", r"\400", r"\008", r"\01", r"\x0", r"\x0g", r"\x 00"] {
            assert!(bytea_text(text.as_bytes(), &mut Vec::new()).is_err(), "{text}");
        }
    }

    #[test]
    fn uuids_are_read_from_the_form_that_is_printed() {
        let text = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        assert_eq!(uuid_text(text.as_bytes()).expect("uuid").to_vec(), hex(&text.replace('-', "")));
        for text in
            ["", "a0eebc999c0b4ef8bb6d6bb9bd380a11", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380ag1"]
        {
            assert!(uuid_text(text.as_bytes()).is_err(), "{text}");
        }
        damaged(text.as_bytes(), |field| {
            let _ = uuid_text(field);
        });
    }

    #[test]
    fn chars_of_all_versions_become_the_same() {
        for (field, text) in [(&b""[..], ""), (b"\0", ""), (b"a", "a"), (b"\\", "\\"), (b"\\303", "\\303"), (b"\xC3", "\\303")] {
            assert_eq!(printed(char_text, field), text);
        }
        for field in [&b"ab"[..], b"\\12", b"\\177", b"\\400", b"\\389", b"\\2000", b"\xC3\xA9"] {
            assert!(char_text(field, &mut Vec::new()).is_err(), "{field:?}");
        }
    }

    #[test]
    fn money_of_any_locale_is_read() {
        for (text, amount) in [
            ("$0.00", 0),
            ("$1,234.56", 123_456),
            ("-$0.05", -5),
            ("($1.00)", -100),
            ("1.234,56 €", 123_456),
            ("\u{2212}12\u{202f}345 kr", -12_345),
            ("￥1,234", 1234),
            ("$92,233,720,368,547,758.07", i64::MAX),
            ("-$92,233,720,368,547,758.08", i64::MIN),
        ] {
            assert_eq!(money_text(text.as_bytes()).ok(), Some(amount), "{text}");
        }
        for text in ["", "$", "-", "$92,233,720,368,547,758.08", "-$92,233,720,368,547,758.09", "99999999999999999999999"] {
            assert!(money_text(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_named_when_they_are_none() {
        assert_eq!(parse_int::<i32>(b"-12", "an integer").ok(), Some(-12));
        assert_eq!(parse_int::<u32>(b"4294967295", "an oid").ok(), Some(u32::MAX));
        for field in [&b""[..], b"1.5", b"4294967296", b" 1", &[0xFF]] {
            match parse_int::<u32>(field, "an oid").map_err(|fault| *fault) {
                Err(Fault::Malformed(what)) => assert!(what.ends_with(" is not an oid"), "{what}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
