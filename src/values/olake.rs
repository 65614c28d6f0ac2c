//! Values as OLake prints them where it makes a row's `_olake_id`: what its Go program holds, in that language's default format.
//!
//! Each function takes the text that the server's output function printed, in the session settings of [`crate::postgres`]. Only
//! kinds of values whose two texts differ have a function here; for all others OLake's text is the server's.

use super::calendar::{civil, days_since_1970};
use super::float::{parse_f32, parse_f64};
use super::plain::bytea_text;
use super::temporal_text::{midnight_text, timestamp_text};
use super::{Fault, Step, not_a};
use std::fmt::{Display, LowerExp};
use std::io::Write as _;

/// NULL.
pub(crate) const NULL: &[u8] = b"<nil>";

/// The last year that OLake lets a time have.
const YEAR_MAX: i64 = 9999;
const DAY_MICROS: i64 = 86_400_000_000;

/// `bool`.
pub(crate) fn boolean(text: &[u8], out: &mut Vec<u8>) -> Step {
    out.extend_from_slice(match text {
        b"t" => b"true",
        b"f" => b"false",
        _ => return Err(not_a("a boolean", text)),
    });
    Ok(())
}

/// `float8`, and `numeric`, which OLake holds as one.
pub(crate) fn double(text: &[u8], out: &mut Vec<u8>) -> Step {
    // All that `numeric` has and `float8` has not: more digits, and magnitudes that round to infinity.
    let value = parse_f64(text).or_else(|fault| match std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()) {
        Some(value) => Ok(value),
        None => Err(fault),
    })?;
    number(value, value.is_finite(), value.is_nan(), value.is_sign_negative(), out)
}

/// `float4`.
pub(crate) fn single(text: &[u8], out: &mut Vec<u8>) -> Step {
    let value = parse_f32(text)?;
    number(value, value.is_finite(), value.is_nan(), value.is_sign_negative(), out)
}

/// The shortest digits that tell a number from its neighbours, with an exponent below 10⁻⁴ and from 10⁶ on (Go's verb `%v`, which is `%g`).
fn number(value: impl Display + LowerExp, finite: bool, nan: bool, negative: bool, out: &mut Vec<u8>) -> Step {
    const EXPONENTS: std::ops::RangeInclusive<i32> = -4..=5;
    if !finite {
        out.extend_from_slice(if nan {
            b"NaN"
        } else if negative {
            b"-Inf"
        } else {
            b"+Inf"
        });
        return Ok(());
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').ok_or_else(|| Fault::bug("a number without an exponent"))?;
    let exponent: i32 = exponent.parse().map_err(Fault::bug)?;
    let written = match mantissa {
        "0" | "-0" => write!(out, "{mantissa}"),
        _ if EXPONENTS.contains(&exponent) => write!(out, "{value}"),
        _ => write!(out, "{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    };
    written.map_err(Fault::bug)
}

/// `date`, which OLake holds as its first moment.
pub(crate) fn date(text: &[u8], out: &mut Vec<u8>) -> Step {
    if infinite(text, out) {
        return Ok(());
    }
    moment(midnight_text(text)?, out)
}

/// `timestamp` and `timestamptz`.
pub(crate) fn timestamp(text: &[u8], out: &mut Vec<u8>) -> Step {
    if infinite(text, out) {
        return Ok(());
    }
    moment(timestamp_text(text)?, out)
}

/// OLake has no text for these: its sync fails. Ours is the server's.
fn infinite(text: &[u8], out: &mut Vec<u8>) -> bool {
    let is = matches!(text, b"infinity" | b"-infinity");
    if is {
        out.extend_from_slice(text);
    }
    is
}

/// `2006-01-02 15:04:05.678 +0000 UTC`. A year before 1 becomes the start of 1970, a year beyond 9999 becomes 9999.
fn moment(micros: i64, out: &mut Vec<u8>) -> Step {
    let (mut days, within) = (micros.div_euclid(DAY_MICROS), micros.rem_euclid(DAY_MICROS));
    let mut within = within;
    match civil(days) {
        (..1, ..) => (days, within) = (0, 0),
        // 29 February becomes 1 March, as 9999 has none.
        (year, month, day) if year > YEAR_MAX => days = days_since_1970(YEAR_MAX, month, day),
        _ => {}
    }
    let (year, month, day) = civil(days);
    let (seconds, fraction) = (within / 1_000_000, within % 1_000_000);
    let written = write!(out, "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    written.map_err(Fault::bug)?;
    if fraction > 0 {
        let digits = format!("{fraction:06}");
        write!(out, ".{}", digits.trim_end_matches('0')).map_err(Fault::bug)?;
    }
    out.extend_from_slice(b" +0000 UTC");
    Ok(())
}

/// `bytea`: the bytes themselves.
pub(crate) fn bytes(text: &[u8], out: &mut Vec<u8>) -> Step {
    bytea_text(text, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(print: fn(&[u8], &mut Vec<u8>) -> Step, cases: &[(&str, &str)]) {
        for (text, expected) in cases {
            let mut out = Vec::new();
            print(text.as_bytes(), &mut out).expect(text);
            assert_eq!(String::from_utf8_lossy(&out), *expected, "{text}");
        }
    }

    // What Go 1.26 printed for these values with fmt.Print.

    #[test]
    fn numbers() {
        let doubles = [
            ("0", "0"),
            ("-0", "-0"),
            ("1.50", "1.5"),
            ("-0.0001", "-0.0001"),
            ("0.00001", "1e-05"),
            ("123456", "123456"),
            ("1234567", "1.234567e+06"),
            ("123456789", "1.23456789e+08"),
            ("100000", "100000"),
            ("1000000", "1e+06"),
            ("1e+20", "1e+20"),
            ("1e22", "1e+22"),
            ("0.3333333333333333", "0.3333333333333333"),
            ("0.33333333333333333333333333333", "0.3333333333333333"),
            ("5e-324", "5e-324"),
            ("1.7976931348623157e+308", "1.7976931348623157e+308"),
            ("NaN", "NaN"),
            ("Infinity", "+Inf"),
            ("-Infinity", "-Inf"),
        ];
        check(double, &doubles);
        check(single, &[("1.1", "1.1"), ("1.6777216e+07", "1.6777216e+07"), ("3.4028235e+38", "3.4028235e+38"), ("1e-45", "1e-45")]);
        assert!(double(b"many", &mut Vec::new()).is_err());
    }

    #[test]
    fn times() {
        let timestamps = [
            ("2024-01-02 03:04:05.678", "2024-01-02 03:04:05.678 +0000 UTC"),
            ("2024-01-02 05:34:05.678+02:30", "2024-01-02 03:04:05.678 +0000 UTC"),
            ("0099-01-02 00:00:00.000001", "0099-01-02 00:00:00.000001 +0000 UTC"),
            ("1969-12-31 23:59:59.5+00", "1969-12-31 23:59:59.5 +0000 UTC"),
            ("10000-02-29 01:00:00", "9999-03-01 01:00:00 +0000 UTC"),
            ("0044-03-15 12:00:00 BC", "1970-01-01 00:00:00 +0000 UTC"),
            ("infinity", "infinity"),
        ];
        check(timestamp, &timestamps);
        check(date, &[("2024-02-29", "2024-02-29 00:00:00 +0000 UTC"), ("-infinity", "-infinity")]);
    }

    #[test]
    fn flags_and_bytes() {
        check(boolean, &[("t", "true"), ("f", "false")]);
        check(bytes, &[("\\x6162", "ab")]);
        assert!(boolean(b"true", &mut Vec::new()).is_err());
    }
}
