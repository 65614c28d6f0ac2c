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

/// Gives `read` everything that a sample becomes when it is cut anywhere or when one byte of it is another one.
pub(crate) fn damaged(sample: &[u8], mut read: impl FnMut(&[u8])) {
    (0..sample.len()).for_each(|len| read(&sample[..len]));
    let mut random = Random(0x0dd_ba11);
    for at in 0..sample.len() {
        let mut bytes = sample.to_vec();
        for other in [0, 1, 0x7F, 0x80, 0xFF, b'"', b'\\', b',', b'{', b'}', b'0', b'9', b'-', random.below(256) as u8] {
            bytes[at] = other;
            read(&bytes);
        }
    }
}
