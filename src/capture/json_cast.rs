//! Texts out of json objects that are cast: what the server's input functions read.
//!
//! Promises: pure; what is read gives the value that the server gives. Times are read in the forms of ISO 8601 that programs write into json, and
//! numbers without the newer ways of writing them (`0x10`, `1_000`); any other text is an error, although the server may read it.

use crate::values::temporal_text::{date_text, micros_text, time_text};
use crate::values::{Fault, Step, shorten};

/// A type to cast to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// `bool`.
    Boolean,
    /// `int2`, `int4`, `int8`, `float4`, `float8`.
    Number,
    /// `numeric`.
    Numeric,
    /// `date`.
    Date,
    /// `time`.
    Time,
    /// `timestamp`: a time zone means nothing.
    Timestamp,
    /// `timestamptz`, in UTC where there is no time zone.
    Timestamptz,
    /// `uuid`.
    Uuid,
}

/// Digits of a number that its exponent may add.
const EXPONENT_MAX: i64 = 10_000;

/// Writes the value to `out`; says whether in its binary form.
pub(super) fn cast(to: Cast, text: &[u8], out: &mut Vec<u8>) -> Step<bool> {
    // As `isspace` in the C locale.
    let text = trimmed(text);
    match to {
        Cast::Boolean => out.extend_from_slice(if boolean(text)? { b"t" } else { b"f" }),
        Cast::Number => out.extend_from_slice(text),
        Cast::Numeric => numeric(text, out)?,
        Cast::Uuid => uuid(text, out)?,
        Cast::Date | Cast::Timestamp | Cast::Timestamptz if is_infinite(text) => out.extend(text.iter().map(u8::to_ascii_lowercase)),
        Cast::Date => out.extend_from_slice(date(text)?),
        Cast::Time => {
            let time = time_of_day(text).ok_or_else(|| unread("a time", TIME, text))?;
            let micros = time_text(&time.clock).map_err(|_| unread("a time", TIME, text))? + time.micros;
            out.extend_from_slice(&micros.to_be_bytes());
            return Ok(true);
        }
        Cast::Timestamp | Cast::Timestamptz => {
            let micros = timestamp(text, to == Cast::Timestamptz).ok_or_else(|| unread("a timestamp", TIMESTAMP, text))?;
            out.extend_from_slice(&micros.to_be_bytes());
            return Ok(true);
        }
    }
    Ok(false)
}

const DATE: &str = "2024-02-29, alone or before a time";
const TIME: &str = "12:34:56.789, with or without seconds and a time zone";
const TIMESTAMP: &str = "2024-02-29T12:34:56.789Z, with T or a blank, with or without seconds and a time zone";

#[cold]
fn unread(what: &str, accepted: &str, text: &[u8]) -> Box<Fault> {
    let shown = shorten(&String::from_utf8_lossy(text));
    Fault::unfit(format!("{shown:?}"), format!("not {what} in a form that is read out of the log: {accepted}"))
}

fn trimmed(text: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0x09..=0x0D);
    let from = text.iter().position(|byte| !is_blank(byte)).unwrap_or(text.len());
    let to = text.iter().rposition(|byte| !is_blank(byte)).map_or(from, |last| last + 1);
    text.get(from..to).unwrap_or_default()
}

/// `parse_bool`: a word or the beginning of one, as long as it is the beginning of no other.
fn boolean(text: &[u8]) -> Step<bool> {
    let begins = |word: &[u8]| !text.is_empty() && word.get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text));
    match text {
        b"1" => Ok(true),
        b"0" => Ok(false),
        _ if begins(b"true") || begins(b"yes") || (text.len() > 1 && begins(b"on")) => Ok(true),
        _ if begins(b"false") || begins(b"no") || (text.len() > 1 && begins(b"off")) => Ok(false),
        _ => Err(unread("a boolean", "true or false", text)),
    }
}

/// Writes a number without an exponent.
fn numeric(text: &[u8], out: &mut Vec<u8>) -> Step {
    let malformed = || unread("a number", "-12.5 or 1.25e3", text);
    let unsigned = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    let sign: &[u8] = if text.starts_with(b"-") { b"-" } else { b"" };
    for (name, shown) in [("nan", "NaN"), ("infinity", "Infinity"), ("inf", "Infinity")] {
        if unsigned.eq_ignore_ascii_case(name.as_bytes()) && (name != "nan" || unsigned.len() == text.len()) {
            out.extend_from_slice(sign);
            out.extend_from_slice(shown.as_bytes());
            return Ok(());
        }
    }
    let (digits, exponent) = match unsigned.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        None => (unsigned, 0_i64),
        Some(at) => {
            let exponent = std::str::from_utf8(unsigned.get(at + 1..).unwrap_or_default()).ok().and_then(|text| text.parse().ok());
            (unsigned.get(..at).unwrap_or_default(), exponent.filter(|value: &i64| value.abs() <= EXPONENT_MAX).ok_or_else(malformed)?)
        }
    };
    let point = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
    let all: Vec<u8> = digits.iter().enumerate().filter(|(at, _)| *at != point).map(|(_, digit)| *digit).collect();
    if all.is_empty() || !all.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    let point = i64::try_from(point).unwrap_or(i64::MAX).saturating_add(exponent);
    out.extend_from_slice(sign);
    match usize::try_from(point) {
        Ok(point) if point >= all.len() => {
            out.extend_from_slice(&all);
            out.resize(out.len() + point - all.len(), b'0');
        }
        Ok(point) => {
            let (whole, fraction) = all.split_at(point);
            out.extend_from_slice(if whole.is_empty() { b"0" } else { whole });
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
        Err(_) => {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + usize::try_from(-point).unwrap_or_default(), b'0');
            out.extend_from_slice(&all);
        }
    }
    Ok(())
}

/// Writes a uuid as `uuid_out` does; `uuid_in` reads it in braces, and with a hyphen behind any four digits.
fn uuid(text: &[u8], out: &mut Vec<u8>) -> Step {
    let malformed = || unread("a uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", text);
    let mut rest = match text {
        [b'{', inner @ .., b'}'] => inner,
        other => other,
    };
    for byte in 0..16 {
        let (pair, after) = rest.split_first_chunk::<2>().ok_or_else(malformed)?;
        if !pair.iter().all(u8::is_ascii_hexdigit) {
            return Err(malformed());
        }
        if matches!(byte, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend(pair.iter().map(u8::to_ascii_lowercase));
        rest = after;
        if byte % 2 == 1 && byte < 15 {
            rest = rest.strip_prefix(b"-").unwrap_or(rest);
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(malformed()) }
}

fn is_infinite(text: &[u8]) -> bool {
    text.strip_prefix(b"-").unwrap_or(text).eq_ignore_ascii_case(b"infinity")
}

/// The date of a text that may go on with a time.
fn date(text: &[u8]) -> Step<&[u8]> {
    let (date, rest) = text.split_at_checked(10).ok_or_else(|| unread("a date", DATE, text))?;
    if date_text(date).is_err() || !(rest.is_empty() || timestamp(text, true).is_some()) {
        return Err(unread("a date", DATE, text));
    }
    Ok(date)
}

/// Microseconds since PostgreSQL's epoch.
fn timestamp(text: &[u8], zoned: bool) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let mut whole = date.to_vec();
    if rest.is_empty() {
        whole.extend_from_slice(b" 00:00:00");
        return micros_text(&whole).ok();
    }
    let time = time_of_day(rest.strip_prefix(b"T").or_else(|| rest.strip_prefix(b" "))?)?;
    whole.push(b' ');
    whole.extend_from_slice(&time.clock);
    // Read in any case, so that what is none is found.
    let read = |zone: &[u8]| micros_text(&[&whole[..], zone].concat()).ok();
    let (with, without) = (read(&time.zone)?, read(b"")?);
    Some(if zoned { with } else { without } + time.micros)
}

/// A time of day, taken apart.
struct Time {
    /// `HH:MM:SS`.
    clock: Vec<u8>,
    /// What stands behind the point, rounded as the server rounds it.
    micros: i64,
    /// `±HH[:MM[:SS]]`; empty without.
    zone: Vec<u8>,
}

fn time_of_day(text: &[u8]) -> Option<Time> {
    let (clock, mut rest) = text.split_at_checked(5)?;
    let mut clock = clock.to_vec();
    let mut micros = 0;
    match rest.strip_prefix(b":") {
        None => clock.extend_from_slice(b":00"),
        Some(after) => {
            let (seconds, after) = after.split_at_checked(2)?;
            clock.push(b':');
            clock.extend_from_slice(seconds);
            rest = after;
            if let Some(after) = after.strip_prefix(b".") {
                let length = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let (digits, after) = after.split_at_checked(length).filter(|(digits, _)| !digits.is_empty())?;
                // `ParseFractionalSecond`.
                let fraction: f64 = format!("0.{}", String::from_utf8_lossy(digits)).parse().ok()?;
                micros = (fraction * 1e6).round_ties_even() as i64;
                rest = after;
            }
        }
    }
    let zone = match rest {
        b"" => Vec::new(),
        b"Z" => b"+00".to_vec(),
        [b'+' | b'-', a, b, c, d] if [a, b, c, d].iter().all(|byte| byte.is_ascii_digit()) => vec![rest[0], *a, *b, b':', *c, *d],
        [b'+' | b'-', ..] => rest.to_vec(),
        _ => return None,
    };
    // What is no time zone, whoever reads the whole finds.
    micros_text(&[b"2000-01-01 00:00:00", &zone[..]].concat()).ok()?;
    Some(Time { clock, micros, zone })
}
