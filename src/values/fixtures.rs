//! Test support: values as a server sent them, with the text that it printed for them.

use super::Step;

pub(crate) type Printer = fn(&[u8], &mut Vec<u8>) -> Step;

/// The bytes that `encode(..., 'hex')` shows.
pub(crate) fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

pub(crate) fn printed(printer: Printer, field: &[u8]) -> String {
    let mut out = b"before ".to_vec();
    printer(field, &mut out).expect("print");
    let text = String::from_utf8(out).expect("UTF-8");
    text.strip_prefix("before ").expect("what was there stays").to_owned()
}

/// Each field prints as its text, and nothing that is made of it panics or prints much more than it holds.
pub(crate) fn check(printer: Printer, fixtures: &[(&str, &str)]) {
    for (hex, text) in fixtures {
        let field = unhex(hex);
        assert_eq!(printed(printer, &field), *text, "{hex}");
        damage(&field, |damaged| {
            let mut out = Vec::new();
            let _ = printer(damaged, &mut out);
            assert!(out.len() <= 64 + 32 * damaged.len(), "{} bytes from {damaged:?}", out.len());
        });
    }
}

/// Hands over what is left of the field when it is cut off or followed by something, and when each of its bytes is another one.
pub(crate) fn damage(field: &[u8], mut with: impl FnMut(&[u8])) {
    (0..field.len()).for_each(|len| with(&field[..len]));
    for byte in [0, 1, b'\'', b',', b'9', 0xFF] {
        with(&[field, &[byte]].concat());
        for at in 0..field.len() {
            let mut damaged = field.to_vec();
            damaged[at] = byte;
            with(&damaged);
        }
    }
}
