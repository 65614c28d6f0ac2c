//! NUMERIC as it is on the wire: base-10000 digits, exactly.
//!
//! The form is that of `numeric_send` (PostgreSQL source, `utils/adt/numeric.c`): four 16-bit words (number of digits,
//! weight of the first digit, sign, display scale), then the digits. The value is Σ digitᵢ · 10000^(weight − i); the
//! display scale only says how many places are printed. Nothing here rounds, except [`Numeric::float`], whose
//! purpose that is.

use super::{Fault, Nearest, Step, shorten};

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// Largest display scale that the header can carry (`NUMERIC_DSCALE_MASK`).
const DISPLAY_SCALE_MAX: u16 = 0x3FFF;

/// Decimal digits in one digit on the wire.
const DIGITS: i32 = 4;

pub(super) const POWERS_OF_TEN: [i128; 39] = {
    let mut powers = [1_i128; 39];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// One value, still in the receive buffer.
#[derive(Clone, Copy)]
pub(crate) struct Numeric<'a> {
    weight: i16,
    sign: u16,
    display_scale: u16,
    /// Big-endian, two bytes each.
    digits: &'a [[u8; 2]],
}

/// A decimal type: how many digits, how many of them after the point.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) precision: u8,
    pub(crate) scale: u8,
}

impl<'a> Numeric<'a> {
    /// Checks the header and that the digits have the length that it says. Each digit is checked where it is read.
    #[inline]
    pub(crate) fn parse(field: &'a [u8]) -> Step<Self> {
        let Some((header, digits)) = field.split_first_chunk::<8>() else { return Err(short(field.len())) };
        let [n0, n1, w0, w1, s0, s1, d0, d1] = *header;
        let (count, display_scale) = (u16::from_be_bytes([n0, n1]), u16::from_be_bytes([d0, d1]));
        let (digits, rest) = digits.as_chunks::<2>();
        if digits.len() != usize::from(count) || !rest.is_empty() || display_scale > DISPLAY_SCALE_MAX {
            return Err(Fault::malformed(format!("a numeric of {} bytes claims {count} digits and scale {display_scale}", field.len())));
        }
        Ok(Self { weight: i16::from_be_bytes([w0, w1]), sign: u16::from_be_bytes([s0, s1]), display_scale, digits })
    }

    /// The value times 10^scale. An error when it has more digits than `shape`, on either side of the point, or is
    /// not a number.
    #[inline]
    pub(crate) fn decimal(&self, shape: Shape) -> Step<i128> {
        let negative = match self.sign {
            0 => false,
            NEGATIVE => true,
            _ => return Err(self.unfit(shape)),
        };
        let magnitude = match self.magnitude(shape.scale)? {
            Some(magnitude) if magnitude < POWERS_OF_TEN[usize::from(shape.precision).min(38)] => magnitude,
            _ => return Err(self.unfit(shape)),
        };
        Ok(if negative { -magnitude } else { magnitude })
    }

    /// |value| · 10^scale; `None` when that is not a whole number or beyond 38 digits.
    #[inline]
    fn magnitude(&self, scale: u8) -> Step<Option<i128>> {
        // Power of ten that the last digit must be multiplied by.
        let exponent = self.exponent() + i32::from(scale);
        if self.digits.len() > 4 || !(-3..=22).contains(&exponent) {
            return self.magnitude_of_many(exponent);
        }
        // Four digits are below 10^16: 64 bits hold them, and 128 bits hold them times 10^22.
        let value = self.head()?;
        let (whole, rest) = match exponent {
            -1 => (value / 10, value % 10),
            -2 => (value / 100, value % 100),
            -3 => (value / 1000, value % 1000),
            _ => return Ok(Some(i128::from(value) * POWERS_OF_TEN[exponent.unsigned_abs() as usize])),
        };
        Ok((rest == 0).then_some(i128::from(whole)))
    }

    /// As [`Self::magnitude`], for any number of digits.
    #[cold]
    fn magnitude_of_many(&self, mut exponent: i32) -> Step<Option<i128>> {
        let mut digits = self.digits;
        // Digits wholly behind the last place of the scale must be zero.
        while exponent <= -DIGITS
            && let Some((last, head)) = digits.split_last()
        {
            if digit(*last)? != 0 {
                return Ok(None);
            }
            (digits, exponent) = (head, exponent + DIGITS);
        }
        // The last digit may reach behind that place in part; it is divided before it is added, so that 38 digits
        // never need more than 128 bits on the way.
        let Some((last, head)) = digits.split_last() else { return Ok(Some(0)) };
        let mut value = Some(0_i128);
        for pair in head {
            let digit = i128::from(digit(*pair)?);
            value = value.and_then(|v| v.checked_mul(10_000)?.checked_add(digit));
        }
        let last = i128::from(digit(*last)?);
        if exponent >= 0 {
            let power = POWERS_OF_TEN.get(exponent.unsigned_abs() as usize).copied();
            let value = value.and_then(|v| v.checked_mul(10_000)?.checked_add(last));
            // Zero has no digits on the wire, but a leading zero digit is not worth refusing.
            return Ok(value.and_then(|v| if v == 0 { Some(0) } else { v.checked_mul(power?) }));
        }
        let below = POWERS_OF_TEN[exponent.unsigned_abs() as usize];
        if last % below != 0 {
            return Ok(None);
        }
        Ok(value.and_then(|v| v.checked_mul(10_000 / below)?.checked_add(last / below)))
    }

    /// The nearest double; NaN and infinities as they are. An error when the value is beyond the range of doubles.
    pub(crate) fn float(&self) -> Step<f64> {
        let negative = match self.sign {
            0 => false,
            NEGATIVE => true,
            NAN => return Ok(f64::NAN),
            INFINITY => return Ok(f64::INFINITY),
            NEGATIVE_INFINITY => return Ok(f64::NEG_INFINITY),
            other => return Err(unknown_sign(other)),
        };
        let exponent = self.exponent();
        if self.digits.len() <= 4 && (-22..=22).contains(&exponent) {
            let value = self.head()?;
            // Both operands are exact doubles, so the one operation rounds correctly.
            if value <= 1 << 53 {
                let power = POWERS_OF_TEN[exponent.unsigned_abs() as usize] as f64;
                let value = if exponent < 0 { value as f64 / power } else { value as f64 * power };
                return Ok(if negative { -value } else { value });
            }
        }
        let mut text = Vec::new();
        self.print(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(Fault::unfit(shorten(&text), "beyond the range of a double")),
        }
    }

    /// Appends the value as `numeric_out` prints it: all digits, as many places as the display scale says.
    pub(crate) fn print(&self, out: &mut Vec<u8>) -> Step {
        match self.sign {
            0 => {}
            NEGATIVE => out.push(b'-'),
            NAN => {
                out.extend_from_slice(b"NaN");
                return Ok(());
            }
            INFINITY => {
                out.extend_from_slice(b"Infinity");
                return Ok(());
            }
            NEGATIVE_INFINITY => {
                out.extend_from_slice(b"-Infinity");
                return Ok(());
            }
            other => return Err(unknown_sign(other)),
        }
        let weight = i32::from(self.weight);
        let start = out.len();
        for place in 0..=weight {
            let four = self.four(place)?;
            let skip = if out.len() == start { four.iter().take_while(|d| **d == b'0').count() } else { 0 };
            out.extend_from_slice(&four[skip..]);
        }
        if out.len() == start {
            out.push(b'0');
        }
        if self.display_scale > 0 {
            out.push(b'.');
            let end = out.len() + usize::from(self.display_scale);
            // Negative places are the zeros between the point and the first digit.
            let mut place = weight + 1;
            while out.len() < end {
                out.extend_from_slice(&self.four(place)?);
                place += 1;
            }
            out.truncate(end);
        }
        Ok(())
    }

    /// The power of ten that the last digit stands for.
    #[inline]
    fn exponent(&self) -> i32 {
        // At most 65,535 digits and a weight of 16 bits: far inside 32 bits.
        DIGITS * (i32::from(self.weight) - self.digits.len() as i32 + 1)
    }

    /// Up to four digits as one number.
    #[inline]
    fn head(&self) -> Step<u64> {
        let mut value = 0_u64;
        for pair in self.digits {
            value = value * 10_000 + u64::from(digit(*pair)?);
        }
        Ok(value)
    }

    /// The digit at `place`, 0 being the first, as four characters; zeros where there is none.
    fn four(&self, place: i32) -> Step<[u8; 4]> {
        let stored = usize::try_from(place).ok().and_then(|place| self.digits.get(place));
        let value = stored.map_or(Ok(0), |pair| digit(*pair))?;
        Ok([value / 1000, value / 100 % 10, value / 10 % 10, value % 10].map(|d| b'0' + d as u8))
    }

    #[cold]
    fn unfit(&self, shape: Shape) -> Box<Fault> {
        let mut text = Vec::new();
        match self.print(&mut text) {
            Ok(()) => {
                let value = shorten(&String::from_utf8_lossy(&text));
                let nearest = match self.sign {
                    0 | NEGATIVE => return too_many_digits(value, shape),
                    INFINITY => Nearest::Highest,
                    NEGATIVE_INFINITY => Nearest::Lowest,
                    _ => Nearest::Nothing,
                };
                special(value, nearest)
            }
            Err(fault) => fault,
        }
    }
}

#[inline]
fn digit(pair: [u8; 2]) -> Step<u16> {
    match u16::from_be_bytes(pair) {
        value @ 0..=9999 => Ok(value),
        value => Err(bad_digit(value)),
    }
}

#[cold]
pub(super) fn too_many_digits(value: String, shape: Shape) -> Box<Fault> {
    Fault::unfit(value, format!("not a number of {} digits with {} after the point", shape.precision, shape.scale))
}

#[cold]
pub(super) fn special(value: String, nearest: Nearest) -> Box<Fault> {
    Fault::special(value, "not a number that a decimal can hold", nearest)
}

#[cold]
fn bad_digit(value: u16) -> Box<Fault> {
    Fault::malformed(format!("a numeric has the base-10000 digit {value}"))
}

#[cold]
fn short(found: usize) -> Box<Fault> {
    Fault::malformed(format!("a numeric has {found} bytes, at least 8 are expected"))
}

#[cold]
fn unknown_sign(sign: u16) -> Box<Fault> {
    Fault::malformed(format!("a numeric has the unknown sign {sign:#06x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::payload::{Random, numeric, words};
    use crate::values::numeric_text::{decimal_from_text, float_from_text};

    fn printed(field: &[u8]) -> String {
        let mut out = Vec::new();
        Numeric::parse(field).and_then(|n| n.print(&mut out)).expect("print");
        String::from_utf8(out).expect("ascii")
    }

    fn decimal(field: &[u8], precision: u8, scale: u8) -> Step<i128> {
        Numeric::parse(field)?.decimal(Shape { precision, scale })
    }

    #[test]
    fn wire_forms_taken_from_a_server_print_as_it_prints_them() {
        // select encode(numeric_send(x), 'hex'), x::text on PostgreSQL 15.
        for (count, weight, sign, scale, digits, text) in [
            (0, 0, 0, 0, &[][..], "0"),
            (0, 0, 0, 2, &[], "0.00"),
            (1, 1, 0, 0, &[1], "10000"),
            (1, -1, 0, 4, &[1], "0.0001"),
            (2, 0, 0x4000, 4, &[123, 4500], "-123.4500"),
            (1, -3, 0, 12, &[7], "0.000000000007"),
            (1, -3, 0, 11, &[70], "0.00000000007"),
            (2, 2, 0, 0, &[1, 2], "100020000"),
            (3, 1, 0, 5, &[12, 3456, 7890], "123456.78900"),
            (1, 0, 0, 3, &[5], "5.000"),
            (0, 0, 0xC000, 0, &[], "NaN"),
            (0, 0, 0xD000, 0x20, &[], "Infinity"),
            (0, 0, 0xF000, 0x20, &[], "-Infinity"),
        ] {
            assert_eq!(printed(&words(count, weight, sign, scale, digits)), text);
        }
    }

    #[test]
    fn what_is_printed_is_what_was_sent() {
        let mut random = Random(0x5eed);
        for _ in 0..20_000 {
            let digits = |random: &mut Random, max| {
                let zeros = random.below(3) == 0;
                (0..random.below(max))
                    .map(|_| if zeros && random.below(4) > 0 { '0' } else { char::from(b'0' + random.below(10) as u8) })
                    .collect::<String>()
            };
            let whole = digits(&mut random, 45);
            let whole = match whole.trim_start_matches('0') {
                "" => "0",
                whole => whole,
            };
            let fraction = digits(&mut random, 45);
            let mut text = if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") };
            let is_zero = text.chars().all(|c| matches!(c, '0' | '.'));
            if !is_zero && random.below(2) == 0 {
                text.insert(0, '-');
            }
            let field = numeric(&text);
            assert_eq!(printed(&field), text);

            let float = Numeric::parse(&field).and_then(|n| n.float()).expect("float");
            assert_eq!(float.to_bits(), text.parse::<f64>().expect("f64").to_bits(), "{text}");

            // As a decimal it is the printed digits without the point, padded to the scale, if there is room.
            let scale = random.below(39);
            let precision = (scale + random.below(39 - scale)).max(1);
            let kept = fraction.trim_end_matches('0');
            let expected = (kept.len() <= scale).then(|| format!("{whole}{kept:0<scale$}").trim_start_matches('0').to_owned());
            let expected = expected.filter(|digits| digits.len() <= precision).map(|digits| digits.parse::<i128>().unwrap_or(0));
            let expected = expected.map(|value| if text.starts_with('-') { -value } else { value });
            let found = decimal(&field, precision as u8, scale as u8).ok();
            assert_eq!(found, expected, "{text} as decimal({precision},{scale})");

            // The text form gives the same number, or the same fault.
            let shape = Shape { precision: precision as u8, scale: scale as u8 };
            let (found, expected) = (decimal_from_text(text.as_bytes(), shape), decimal(&field, shape.precision, shape.scale));
            assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{text} as decimal({precision},{scale})");
            let found = float_from_text(text.as_bytes()).expect("float");
            assert_eq!(found.to_bits(), float.to_bits(), "{text}");
        }
    }

    #[test]
    fn decimals_reach_38_digits_on_both_sides() {
        let nines = "9".repeat(38);
        let all: i128 = nines.parse().expect("38 nines");
        for point in [0, 1, 2, 3, 4, 5, 19, 37, 38] {
            let text = format!("-{}{}{}", &nines[point..], if point == 0 { "" } else { "." }, &nines[..point]);
            let text = text.replace("-.", "-0.");
            assert_eq!(decimal(&numeric(&text), 38, point as u8).ok(), Some(-all), "{text}");
        }
        let over = format!("1{}", "0".repeat(38));
        assert!(decimal(&numeric(&over), 38, 0).is_err());
        assert_eq!(decimal(&numeric(&over[..38]), 38, 0).ok(), Some(10_i128.pow(37)));
    }

    #[test]
    fn a_value_that_does_not_fit_is_named() {
        for (text, precision, scale, value) in
            [("123.45", 4, 2, "123.45"), ("0.125", 10, 2, "0.125"), ("NaN", 10, 2, "NaN"), ("-Infinity", 38, 0, "-Infinity")]
        {
            match decimal(&numeric(text), precision, scale).map_err(|fault| *fault) {
                Err(Fault::Unfit { value: found, .. } | Fault::Special { value: found, .. }) => assert_eq!(found, value),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn doubles_keep_what_is_not_a_number_and_refuse_what_is_too_large() {
        let float = |text: &str| Numeric::parse(&numeric(text)).and_then(|n| n.float());
        assert!(float("NaN").expect("NaN").is_nan());
        assert_eq!(float("-Infinity").ok(), Some(f64::NEG_INFINITY));
        assert_eq!(float("0.1").ok(), Some(0.1));
        assert!(matches!(float(&format!("1{}", "0".repeat(309))).map_err(|f| *f), Err(Fault::Unfit { .. })));
    }

    #[test]
    fn malformed_numerics_are_faults() {
        for field in [
            vec![],
            vec![0; 7],
            words(1, 0, 0, 0, &[]),
            words(0, 0, 0, 0, &[1]),
            words(u16::MAX, 0, 0, 0, &[1]),
            words(0, 0, 0, 0x4000, &[]),
            [words(0, 0, 0, 0, &[]), vec![0]].concat(),
        ] {
            assert!(matches!(Numeric::parse(&field).map(|_| ()).map_err(|f| *f), Err(Fault::Malformed(_))), "{field:?}");
        }
        for field in [words(1, 0, 0, 0, &[10_000]), words(0, 0, 0x1234, 0, &[]), words(6, 0, 0, 20, &[1, 1, 1, 1, 1, 0xFFFF])] {
            let mut out = Vec::new();
            assert!(matches!(Numeric::parse(&field).and_then(|n| n.print(&mut out)).map_err(|f| *f), Err(Fault::Malformed(_))));
            assert!(matches!(decimal(&field, 38, 10).map_err(|f| *f), Err(Fault::Malformed(_))));
            assert!(matches!(Numeric::parse(&field).and_then(|n| n.float()).map_err(|f| *f), Err(Fault::Malformed(_))));
        }
    }
}
