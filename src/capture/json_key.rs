//! A key of the objects in a json column, as a column of its own: what `->`, `->>` and a cast make of it on the server.
//!
//! Promises: pure; of several keys of one name the last counts; what is no object, has no such key, or has `null` there, is NULL (but `null` as json);
//! a text that the server reads and this does not is an error, never another value. The text is one that the server has taken for json: what is
//! not asked for is walked over, not checked. Nothing recurses.

use super::json_cast::{Cast, cast};
use crate::values::plain::versioned_text;
use crate::values::{Fault, Step, not_a};

/// What of a json column becomes a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The json column's name in the source.
    pub column: String,
    /// The key.
    pub key: String,
    /// What becomes of its value.
    pub want: Want,
    /// Whether the column is jsonb, which the binary form of a value tells.
    pub jsonb: bool,
}

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// It stays json (`->`).
    Json,
    /// Its text (`->>`).
    Text,
    /// Its text, cast.
    Cast(Cast),
}

/// A value for a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    /// As the type's output function prints it.
    Text(&'a [u8]),
    /// As its send function writes it.
    Binary(&'a [u8]),
}

impl Key {
    /// Of a json value in its text form, or (`binary`) its binary one. `text` is what the value may be written to.
    pub(super) fn value<'v>(&self, json: &'v [u8], binary: bool, text: &'v mut Vec<u8>) -> Step<Value<'v>> {
        text.clear();
        let json = match binary && self.jsonb {
            true => {
                // The version is checked, and what follows it is the text.
                versioned_text(json.get(..1).unwrap_or_default(), text)?;
                json.get(1..).unwrap_or_default()
            }
            false => json,
        };
        let Some(raw) = find(json, self.key.as_bytes())? else { return Ok(Value::Null) };
        if self.want == Want::Json {
            return Ok(Value::Text(raw));
        }
        if raw == b"null" {
            return Ok(Value::Null);
        }
        let is_string = raw.first() == Some(&b'"');
        let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
        match self.want {
            Want::Json | Want::Text if !is_string => Ok(Value::Text(raw)),
            Want::Json | Want::Text => {
                unescape(inner, text)?;
                Ok(Value::Text(text))
            }
            Want::Cast(to) => {
                let mut own = Vec::new();
                if is_string {
                    unescape(inner, &mut own)?;
                }
                match cast(to, if is_string { &own } else { raw }, text)? {
                    true => Ok(Value::Binary(text)),
                    false => Ok(Value::Text(text)),
                }
            }
        }
    }
}

/// The value of a key, as it is written.
fn find<'j>(json: &'j [u8], key: &[u8]) -> Step<Option<&'j [u8]>> {
    let mut scan = Scan { json, rest: json };
    scan.blanks();
    if !scan.take(b'{') {
        return Ok(None);
    }
    let mut found = None;
    scan.blanks();
    if scan.take(b'}') {
        return Ok(None);
    }
    loop {
        scan.blanks();
        let name = scan.string()?;
        scan.blanks();
        if !scan.take(b':') {
            return Err(scan.malformed());
        }
        scan.blanks();
        let value = scan.value()?;
        if is_key(name, key)? {
            found = Some(value);
        }
        scan.blanks();
        if scan.take(b'}') {
            return Ok(found);
        }
        if !scan.take(b',') {
            return Err(scan.malformed());
        }
    }
}

fn is_key(name: &[u8], key: &[u8]) -> Step<bool> {
    if !name.contains(&b'\\') {
        return Ok(name == key);
    }
    let mut text = Vec::new();
    unescape(name, &mut text)?;
    Ok(text == key)
}

/// Walks over a json text.
struct Scan<'j> {
    json: &'j [u8],
    rest: &'j [u8],
}

impl<'j> Scan<'j> {
    fn blanks(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn take(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// What stands between the quotes.
    fn string(&mut self) -> Step<&'j [u8]> {
        let from = self.rest;
        if !self.take(b'"') {
            return Err(self.malformed());
        }
        while let Some(at) = self.rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
            let is_end = self.rest.get(at) == Some(&b'"');
            // What follows a backslash is no end.
            self.rest = self.rest.get(at + if is_end { 1 } else { 2 }..).unwrap_or_default();
            if is_end {
                let length = from.len() - self.rest.len();
                return Ok(from.get(1..length - 1).unwrap_or_default());
            }
        }
        Err(self.malformed())
    }

    /// A value of any kind.
    fn value(&mut self) -> Step<&'j [u8]> {
        let from = self.rest;
        let mut depth = 0_usize;
        loop {
            match self.rest.first() {
                Some(b'"') => drop(self.string()?),
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.rest = self.rest.get(1..).unwrap_or_default();
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.rest = self.rest.get(1..).unwrap_or_default();
                }
                Some(b',' | b':') if depth > 0 => self.rest = self.rest.get(1..).unwrap_or_default(),
                Some(byte) if depth > 0 && byte.is_ascii_whitespace() => self.blanks(),
                _ => {
                    let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
                    let length = self.rest.iter().take_while(|byte| word(byte)).count();
                    if length == 0 {
                        return Err(self.malformed());
                    }
                    self.rest = self.rest.get(length..).unwrap_or_default();
                }
            }
            if depth == 0 {
                return Ok(from.get(..from.len() - self.rest.len()).unwrap_or_default());
            }
        }
    }

    #[cold]
    fn malformed(&self) -> Box<Fault> {
        not_a("json", self.json)
    }
}

/// Appends what a string stands for, which is between its quotes (`json_lex_string`).
fn unescape(raw: &[u8], out: &mut Vec<u8>) -> Step {
    let mut rest = raw;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        let letter = rest.get(at + 1).copied().unwrap_or_default();
        rest = rest.get(at + 2..).unwrap_or_default();
        out.push(match letter {
            b'"' | b'\\' | b'/' => letter,
            b'b' => 0x08,
            b'f' => 0x0C,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let character = character(&mut rest, raw)?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            _ => return Err(not_a("a json string", raw)),
        });
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// The character of an escape, whose digits `rest` begins with, or of two of them.
fn character(rest: &mut &[u8], raw: &[u8]) -> Step<char> {
    let mut unit = |prefix: &[u8]| {
        let digits = rest.strip_prefix(prefix)?;
        let (four, after) = digits.split_first_chunk::<4>()?;
        let value = four.iter().try_fold(0_u32, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))?;
        *rest = after;
        Some(value)
    };
    let first = unit(b"");
    let value = match first {
        Some(high @ 0xD800..=0xDBFF) => match unit(b"\\u") {
            Some(low @ 0xDC00..=0xDFFF) => Some(0x1_0000 + ((high & 0x3FF) << 10 | (low & 0x3FF))),
            _ => None,
        },
        other => other,
    };
    match value.and_then(char::from_u32) {
        Some('\0') => Err(Fault::unfit("\\u0000", "not a character that a text of PostgreSQL can have")),
        Some(character) => Ok(character),
        None => Err(not_a("a json string", raw)),
    }
}

#[cfg(test)]
#[path = "json_key_tests.rs"]
mod tests;
