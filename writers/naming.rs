//! Stub: replaced at merge.
use std::fmt::Write;
pub(crate) fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\0'..='\x1f' | '\x7f' | '"' | '#' | '%' | '\'' | '*' | '/' | ':' | '=' | '?' | '\\' | '{' | '}' | '[' | ']' | '^' => {
                write!(out, "%{:02X}", u32::from(c)).expect("a String takes everything");
            }
            _ => out.push(c),
        }
    }
}
