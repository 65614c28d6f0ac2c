//! Test support: samples taken from a server, and what can be done to them.

use super::{Parts, Step};
use crate::types::payload::Random;

/// Bytes as `encode(…, 'hex')` prints them.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex digits")).collect()
}

/// What a function hands over, one part after the other: `a|NULL|'NULL'`. Bytes that are not printable are shown as hex.
pub(crate) fn shown<T>(read: impl FnOnce(&mut Parts<'_>) -> Step<T>) -> Step<(String, T)> {
    let mut found = Vec::new();
    let returned = read(&mut |part| {
        found.push(match part.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => "NULL".to_owned(),
            Some((_, Ok("NULL"))) => "'NULL'".to_owned(),
            Some((_, Ok(text))) if !text.contains(|c: char| c < ' ') => text.to_owned(),
            Some((bytes, _)) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        });
        Ok(())
    })?;
    Ok((found.join("|"), returned))
}

/// Gives `read` everything that a sample becomes when it is cut anywhere, is followed by something, or when one byte of it is
/// another one.
pub(crate) fn damaged(sample: &[u8], mut read: impl FnMut(&[u8])) {
    (0..sample.len()).for_each(|len| read(&sample[..len]));
    [0, 1, b',', b'9', 0xFF].into_iter().for_each(|byte| read(&[sample, &[byte]].concat()));
    let mut random = Random(0x0dd_ba11);
    for at in 0..sample.len() {
        let mut bytes = sample.to_vec();
        for other in [0, 1, 0x7F, 0x80, 0xFF, b'"', b'\'', b'\\', b',', b'{', b'}', b'0', b'9', b'-', random.below(256) as u8] {
            bytes[at] = other;
            read(&bytes);
        }
    }
}

/// Appends what a type's output function prints for a binary field.
pub(crate) type Printer = fn(&[u8], &mut Vec<u8>) -> Step;

/// What a printer appends; what was there stays.
pub(crate) fn printed(printer: Printer, field: &[u8]) -> String {
    let mut out = b"before ".to_vec();
    printer(field, &mut out).expect("print");
    let text = String::from_utf8(out).expect("UTF-8");
    text.strip_prefix("before ").expect("what was there stays").to_owned()
}

/// Each field prints as its text, and nothing that is made of it panics or prints much more than it holds.
pub(crate) fn check(printer: Printer, fixtures: &[(&str, &str)]) {
    for (binary, text) in fixtures {
        let field = hex(binary);
        assert_eq!(printed(printer, &field), *text, "{binary}");
        damaged(&field, |bytes| {
            let mut out = Vec::new();
            let _ = printer(bytes, &mut out);
            assert!(out.len() <= 64 + 32 * bytes.len(), "{} bytes from {bytes:?}", out.len());
        });
    }
}
