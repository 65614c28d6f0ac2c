//! Floating-point numbers as text: the digits that PostgreSQL 12 and later print (`float8out`, `float4out`), and back.
//!
//! Both this and Rust's own printing give the shortest decimal that reads back as the same number, and of those the nearest. They
//! differ where that decimal lies exactly between two numbers: reading rounds it to the even one, so Rust takes it for that one,
//! while PostgreSQL (`common/d2s.c`, `acceptBounds`) does not and prints more digits: 1e23 is `9.999999999999999e+22`. And of two
//! decimals that are equally near, PostgreSQL takes the one that ends in an even digit. Rust's digits are corrected in these cases.

use super::{Step, not_a};
use std::fmt::{Arguments, LowerExp};
use std::io::Write;
use std::str::FromStr;

/// From this power of ten on, numbers are printed with an exponent: `DBL_DIG` and `FLT_DIG`.
const F64_FIXED: i32 = 15;
const F32_FIXED: i32 = 6;

/// A finite number above zero, `mantissa` · 2^`exponent`.
#[derive(Clone, Copy)]
struct Binary {
    mantissa: u64,
    exponent: i32,
    /// The next number below is half as far away as the next above: the mantissa is the lowest for this exponent.
    nearer_below: bool,
}

/// `digits` · 10^`exponent`.
#[derive(Clone, Copy)]
struct Decimal {
    digits: u64,
    exponent: i32,
}

/// Appends `value` as `float8out` prints it.
pub(crate) fn print_f64(value: f64, out: &mut Vec<u8>) {
    if let Some(value) = special(value, out) {
        let (fraction, exponent) = (value.to_bits() & ((1 << 52) - 1), (value.to_bits() >> 52) as i32);
        let decimal = shortest(value, Binary::new(fraction, exponent, 52, 1023), out);
        decimal.print(F64_FIXED, out);
    }
}

/// Appends `value` as `float4out` prints it.
pub(crate) fn print_f32(value: f32, out: &mut Vec<u8>) {
    // Widening keeps what kind of number it is; its digits are those of the narrow one.
    if special(f64::from(value), out).is_some() {
        let value = value.abs();
        let (fraction, exponent) = (u64::from(value.to_bits() & ((1 << 23) - 1)), (value.to_bits() >> 23) as i32);
        let decimal = shortest(value, Binary::new(fraction, exponent, 23, 127), out);
        decimal.print(F32_FIXED, out);
    }
}

/// Reads what `float8out` prints, of any version.
pub(crate) fn parse_f64(field: &[u8]) -> Step<f64> {
    parse(field, f64::is_infinite)
}

/// Reads what `float4out` prints, of any version.
pub(crate) fn parse_f32(field: &[u8]) -> Step<f32> {
    parse(field, f32::is_infinite)
}

fn parse<T: FromStr + Copy>(field: &[u8], is_infinite: fn(T) -> bool) -> Step<T> {
    let named = matches!(field, b"NaN" | b"Infinity" | b"-Infinity");
    if !named && !field.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
        return Err(not_a("a floating-point number", field));
    }
    match std::str::from_utf8(field).ok().and_then(|text| text.parse::<T>().ok()) {
        Some(value) if named || !is_infinite(value) => Ok(value),
        _ => Err(not_a("a floating-point number", field)),
    }
}

/// Prints the sign, and all of a number that has no digits; of others the magnitude is left to print.
fn special(value: f64, out: &mut Vec<u8>) -> Option<f64> {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
        return None;
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    if value.is_infinite() {
        out.extend_from_slice(b"Infinity");
    } else if value == 0.0 {
        out.push(b'0');
    } else {
        return Some(value.abs());
    }
    None
}

/// The decimal that PostgreSQL prints for `value`, a positive number. `scratch` is left as it was.
fn shortest<T: LowerExp + FromStr + PartialEq + Copy>(value: T, binary: Binary, scratch: &mut Vec<u8>) -> Decimal {
    let decimal = Decimal::of(format_args!("{value:e}"), scratch);
    if !binary.is_bounded_by(decimal) {
        return match binary.nearest_even(decimal) {
            // Below a power of two (2^-24), the one that is as near may read as another number.
            Some(even) if even.reads_as(value) => even,
            _ => decimal,
        };
    }
    // 17 digits tell all numbers apart, so the loop ends with an answer.
    for places in decimal.len()..17 {
        let longer = Decimal::of(format_args!("{value:.places$e}"), scratch);
        if longer.reads_as(value) && !binary.is_bounded_by(longer) {
            return longer;
        }
    }
    decimal
}

impl Binary {
    /// From the two fields of the IEEE format, the width of the first and the bias of the second.
    fn new(fraction: u64, exponent: i32, width: u32, bias: i32) -> Self {
        let (mantissa, exponent) = if exponent == 0 { (fraction, 1) } else { (fraction | 1 << width, exponent) };
        Self { mantissa, exponent: exponent - bias - width as i32, nearer_below: fraction == 0 && exponent > 1 }
    }

    /// Whether the decimal lies halfway to one of the two neighbours.
    fn is_bounded_by(self, decimal: Decimal) -> bool {
        let Ok(power) = u32::try_from(decimal.exponent) else { return false };
        // An odd mantissa's bounds read as its neighbours. Bounds have at most 55 bits, so none is a multiple of 5^24. With
        // digits behind the point they have more of them than are ever printed.
        if !self.mantissa.is_multiple_of(2) || power > 23 {
            return false;
        }
        // Both sides as an odd number times a power of two.
        let odd = u128::from(decimal.digits) * 5_u128.pow(power);
        let zeros = odd.trailing_zeros();
        let (odd, twos) = (odd >> zeros, i64::from(power) + i64::from(zeros));
        let is = |mantissa: u64, exponent: i32| odd == u128::from(mantissa) && twos == i64::from(exponent);
        let below = if self.nearer_below {
            is(4 * self.mantissa - 1, self.exponent - 2)
        } else {
            is((2 * self.mantissa).saturating_sub(1), self.exponent - 1)
        };
        below || is(2 * self.mantissa + 1, self.exponent - 1)
    }

    /// The next decimal, when the number lies halfway to it and it is even, while this one is not.
    fn nearest_even(self, decimal: Decimal) -> Option<Decimal> {
        let places = decimal.exponent.unsigned_abs();
        let zeros = self.mantissa.trailing_zeros();
        // Twice the number, in units of the last digit, has to be odd. 5^27 is beyond what 17 digits are a multiple of.
        let is_odd = i64::from(zeros) + i64::from(self.exponent) + 1 + i64::from(places) == 0;
        if decimal.exponent > 0 || places > 27 || !is_odd || decimal.digits.is_multiple_of(2) {
            return None;
        }
        let twice = u128::from(self.mantissa >> zeros) * 5_u128.pow(places);
        let digits = match u128::from(decimal.digits) * 2 {
            above if above == twice + 1 => decimal.digits - 1,
            below if below + 1 == twice => decimal.digits + 1,
            _ => return None,
        };
        Some(Decimal { digits, ..decimal })
    }
}

impl Decimal {
    /// From what `{:e}` prints of a positive number.
    fn of(printed: Arguments<'_>, scratch: &mut Vec<u8>) -> Self {
        let start = scratch.len();
        // Writing to memory does not fail.
        let _ = scratch.write_fmt(printed);
        let mut parts = scratch.get(start..).unwrap_or_default().splitn(2, |byte| *byte == b'e');
        let mantissa = parts.next().unwrap_or_default();
        let power = parts.next().and_then(|power| std::str::from_utf8(power).ok()?.parse::<i32>().ok()).unwrap_or_default();
        let digits = mantissa.iter().filter(|byte| byte.is_ascii_digit()).fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        // All but the first digit and the point are places.
        let exponent = power - mantissa.len().saturating_sub(2) as i32;
        scratch.truncate(start);
        Self { digits, exponent }
    }

    /// How many digits it has.
    fn len(self) -> usize {
        self.digits.checked_ilog10().map_or(1, |log| log as usize + 1)
    }

    #[cold]
    fn reads_as<T: FromStr + PartialEq>(self, value: T) -> bool {
        format!("{}e{}", self.digits, self.exponent).parse::<T>().is_ok_and(|read| read == value)
    }

    /// Appends it in the notation of `to_chars` of d2s.c and f2s.c: with an exponent below 10^-4 and from 10^`fixed` on.
    fn print(self, fixed: i32, out: &mut Vec<u8>) {
        let len = self.len();
        let power = self.exponent + len as i32 - 1;
        if (-4..0).contains(&power) {
            out.extend_from_slice(b"0.");
            out.extend((power..-1).map(|_| b'0'));
        }
        let start = out.len();
        let _ = write!(out, "{}", self.digits);
        if (0..fixed).contains(&power) {
            out.extend((0..self.exponent).map(|_| b'0'));
            if self.exponent < 0 {
                out.insert(start + power as usize + 1, b'.');
            }
        } else if !(-4..0).contains(&power) {
            if len > 1 {
                out.insert(start + 1, b'.');
            }
            let _ = write!(out, "e{}{:02}", if power < 0 { '-' } else { '+' }, power.unsigned_abs());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::payload::Random;
    use crate::values::samples::damaged;

    fn printed_f64(value: f64) -> String {
        let mut out = b"scratch".to_vec();
        print_f64(value, &mut out);
        String::from_utf8(out.split_off("scratch".len())).expect("ascii")
    }

    fn printed_f32(value: f32) -> String {
        let mut out = Vec::new();
        print_f32(value, &mut out);
        String::from_utf8(out).expect("ascii")
    }

    #[test]
    fn doubles_print_as_a_server_prints_them() {
        // select encode(float8send(x), 'hex'), x on PostgreSQL 15.
        for (bits, text) in [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "-0"),
            (0x3ff0_0000_0000_0000, "1"),
            (0xbff0_0000_0000_0000, "-1"),
            (0x3fb9_9999_9999_999a, "0.1"),
            (0x3fd3_3333_3333_3334, "0.30000000000000004"),
            (0x3f1a_36e2_eb1c_432d, "0.0001"),
            (0x3f20_2c9d_edbc_309d, "0.0001234"),
            (0x3ee4_f8b5_88e3_68f1, "1e-05"),
            (0x40fe_240c_9fbe_76c9, "123456.789"),
            (0x42d6_bcc4_1e90_0000, "100000000000000"),
            (0x430c_6bf5_2633_fff8, "999999999999999"),
            (0x430c_6bf5_2634_0000, "1e+15"),
            (0x437b_69b4_ba63_0f35, "1.2345678901234568e+17"),
            (0x4480_f0cf_064d_d592, "1e+22"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x0010_0000_0000_0000, "2.2250738585072014e-308"),
            (0x4340_0000_0000_0000, "9.007199254740992e+15"),
            (0x81b0_1297_d23a_b683, "-1.5e-300"),
            (0x3eb0_0000_0000_0000, "9.5367431640625e-07"),
            (0x7ff0_0000_0000_0000, "Infinity"),
            (0xfff0_0000_0000_0000, "-Infinity"),
            // The shortest decimal lies between two numbers.
            (0x44b5_2d02_c7e1_4af6, "9.999999999999999e+22"),
            (0x447c_7e83_209e_90b2, "8.409999999999999e+21"),
            (0x44e7_d2a3_20dd_7455, "9e+23"),
            // The number lies between two decimals, of which both or one read as it.
            (0x3e60_0000_0000_0000, "2.9802322387695312e-08"),
            (0x3e70_0000_0000_0000, "5.960464477539063e-08"),
            (0x3e88_0000_0000_0000, "1.7881393432617188e-07"),
        ] {
            let value = f64::from_bits(bits);
            assert_eq!(printed_f64(value), text);
            assert_eq!(parse_f64(text.as_bytes()).map(f64::to_bits).ok(), Some(bits), "{text}");
        }
        assert_eq!(printed_f64(f64::NAN), "NaN");
        assert_eq!(printed_f64(-f64::NAN), "NaN");
        assert!(parse_f64(b"NaN").expect("NaN").is_nan());
    }

    #[test]
    fn floats_print_as_a_server_prints_them() {
        // select encode(float4send(x), 'hex'), x on PostgreSQL 15.
        for (bits, text) in [
            (0x0000_0000, "0"),
            (0x8000_0000, "-0"),
            (0x3dcc_cccd, "0.1"),
            (0xbfc0_0000, "-1.5"),
            (0x38d1_b717, "0.0001"),
            (0x3727_c5ac, "1e-05"),
            (0x47c3_4f80, "99999"),
            (0x4974_23f0, "999999"),
            (0x4974_2400, "1e+06"),
            (0x4996_b438, "1.234567e+06"),
            (0x4b80_0000, "1.6777216e+07"),
            (0x5015_02f9, "1e+10"),
            (0x7f7f_ffff, "3.4028235e+38"),
            (0x0000_0001, "1e-45"),
            (0x0080_0000, "1.1754944e-38"),
            (0x4c00_0000, "3.3554432e+07"),
            (0x5000_0000, "8.589935e+09"),
            (0x513a_43b7, "5e+10"),
            (0x4f00_0000, "2.1474836e+09"),
            (0x3f7a_e148, "0.98"),
            (0x7f80_0000, "Infinity"),
            (0xff80_0000, "-Infinity"),
        ] {
            let value = f32::from_bits(bits);
            assert_eq!(printed_f32(value), text);
            assert_eq!(parse_f32(text.as_bytes()).map(f32::to_bits).ok(), Some(bits), "{text}");
        }
        assert_eq!(printed_f32(f32::NAN), "NaN");
    }

    #[test]
    fn what_is_printed_reads_as_what_it_was() {
        let mut random = Random(0xF10A7);
        for _ in 0..50_000 {
            let bits = (random.below(1 << 16) as u64) << 48 | (random.below(1 << 24) as u64) << 24 | random.below(1 << 24) as u64;
            let value = f64::from_bits(bits);
            let (text, narrow) = (printed_f64(value), f32::from_bits((bits >> 20) as u32));
            assert!(value.is_nan() || parse_f64(text.as_bytes()).map(f64::to_bits).ok() == Some(bits), "{text}");
            let text = printed_f32(narrow);
            assert!(narrow.is_nan() || parse_f32(text.as_bytes()).map(f32::to_bits).ok() == Some(narrow.to_bits()), "{text}");
        }
    }

    #[test]
    fn text_of_any_server_is_read_and_other_text_is_not() {
        // 17 and 9 digits are what servers below 12 print.
        assert_eq!(parse_f64(b"0.10000000000000001").ok(), Some(0.1));
        assert_eq!(parse_f64(b"9.9999999999999992e+22").ok(), Some(1e23));
        assert_eq!(parse_f32(b"0.100000001").ok(), Some(0.1));
        assert_eq!(parse_f32(b"3.40282347e+38").ok(), Some(f32::MAX));
        for field in ["", "-", "e", "1e", "inf", "nan", "infinity", "+Infinity", "1e999", "-1e999", "0x10", "1 ", "1,5", "\u{660}"] {
            assert!(parse_f64(field.as_bytes()).is_err(), "{field}");
        }
        assert!(parse_f32(b"1e39").is_err());
        assert!(parse_f64(&[0xFF]).is_err());
        damaged(b"-1.7976931348623157e+308", |field| {
            let _ = parse_f64(field);
            let _ = parse_f32(field);
        });
    }
}
