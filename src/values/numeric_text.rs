//! NUMERIC in its text form, with the same results as the binary form gives.
//!
//! The form is that of `numeric_out` (PostgreSQL source, `utils/adt/numeric.c`): a sign, digits, and as many digits behind a point
//! as the display scale says; never an exponent.

use super::numeric::{POWERS_OF_TEN, Shape, special, too_many_digits};
use super::{Fault, Nearest, Step, not_a, shorten};

/// The value times 10^scale, or the fault that [`super::numeric::Numeric::decimal`] has for it.
pub(crate) fn decimal_from_text(field: &[u8], shape: Shape) -> Step<i128> {
    let (negative, whole, fraction) = match parse(field)? {
        Text::Digits { negative, whole, fraction } => (negative, whole, fraction),
        Text::Special(_, nearest) => return Err(special(shorten(&String::from_utf8_lossy(field)), nearest)),
    };
    match magnitude(whole, fraction, shape) {
        Some(magnitude) => Ok(if negative { -magnitude } else { magnitude }),
        None => Err(too_many_digits(shorten(&String::from_utf8_lossy(field)), shape)),
    }
}

/// The nearest double, or the fault that [`super::numeric::Numeric::float`] has for it.
pub(crate) fn float_from_text(field: &[u8]) -> Step<f64> {
    if let Text::Special(value, _) = parse(field)? {
        return Ok(value);
    }
    let text = String::from_utf8_lossy(field);
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(Fault::unfit(shorten(&text), "beyond the range of a double")),
    }
}

enum Text<'a> {
    /// Nothing but digits, at least one before the point.
    Digits {
        negative: bool,
        whole: &'a [u8],
        fraction: &'a [u8],
    },
    Special(f64, Nearest),
}

fn parse(field: &[u8]) -> Step<Text<'_>> {
    match field {
        b"NaN" => return Ok(Text::Special(f64::NAN, Nearest::Nothing)),
        b"Infinity" => return Ok(Text::Special(f64::INFINITY, Nearest::Highest)),
        b"-Infinity" => return Ok(Text::Special(f64::NEG_INFINITY, Nearest::Lowest)),
        _ => {}
    }
    let unsigned = field.strip_prefix(b"-");
    let mut sides = unsigned.unwrap_or(field).splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (sides.next().unwrap_or_default(), sides.next());
    let digits = |side: &[u8]| !side.is_empty() && side.iter().all(u8::is_ascii_digit);
    if !digits(whole) || !fraction.is_none_or(digits) {
        return Err(not_a("a number", field));
    }
    Ok(Text::Digits { negative: unsigned.is_some(), whole, fraction: fraction.unwrap_or_default() })
}

/// |value| · 10^scale; `None` when that has more digits than `shape`, on either side of the point.
fn magnitude(whole: &[u8], fraction: &[u8], shape: Shape) -> Option<i128> {
    let places = fraction.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    let missing = usize::from(shape.scale).checked_sub(places)?;
    let mut value = 0_i128;
    for digit in whole.iter().chain(fraction.iter().take(places)) {
        value = value.checked_mul(10)?.checked_add(i128::from(digit.wrapping_sub(b'0')))?;
    }
    if value != 0 {
        value = value.checked_mul(*POWERS_OF_TEN.get(missing)?)?;
    }
    let limit = POWERS_OF_TEN.get(usize::from(shape.precision).min(38))?;
    (value < *limit).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::numeric::Numeric;
    use crate::values::samples::{damaged, hex};

    #[test]
    fn both_forms_of_what_a_server_sent_give_the_same() {
        // select encode(numeric_send(x), 'hex'), x::text on PostgreSQL 15.
        for (binary, text) in [
            ("0000000000000000", "0"),
            ("000200000000000200011388", "1.50"),
            ("0001fffe4000000503e8", "-0.00001"),
            ("00010005000000000001", "100000000000000000000"),
            ("00000000c0000000", "NaN"),
            ("00000000d0000020", "Infinity"),
            ("00000000f0000020", "-Infinity"),
            ("000800040000000a04d2162e23340d801ed203db198f0834", "12345678901234567890.0987654321"),
            ("0001fff84000001e0064", "-0.000000000000000000000000000001"),
        ] {
            let binary = hex(binary);
            let numeric = Numeric::parse(&binary).expect("a numeric");
            for (precision, scale) in [(38, 0), (38, 10), (38, 38), (5, 5), (3, 2), (1, 0)] {
                let shape = Shape { precision, scale };
                let found = decimal_from_text(text.as_bytes(), shape);
                assert_eq!(format!("{found:?}"), format!("{:?}", numeric.decimal(shape)), "{text} as ({precision},{scale})");
            }
            let (found, expected) = (float_from_text(text.as_bytes()), numeric.float());
            assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_number_is_malformed() {
        for text in ["", "-", ".", "1.", ".5", "+1", "1e5", " 1", "1 ", "1.2.3", "--1", "nan", "inf", "Infinit", "0x1", "１"] {
            let found = decimal_from_text(text.as_bytes(), Shape { precision: 38, scale: 0 }).map_err(|fault| *fault);
            assert!(matches!(found, Err(Fault::Malformed(_))), "{text}: {found:?}");
            assert!(matches!(float_from_text(text.as_bytes()).map_err(|fault| *fault), Err(Fault::Malformed(_))), "{text}");
        }
        for sample in ["-1234567.8900", "Infinity", "NaN", &"9".repeat(45)] {
            damaged(sample.as_bytes(), |field| {
                let _ = decimal_from_text(field, Shape { precision: 38, scale: 4 });
                let _ = float_from_text(field);
            });
        }
    }

    #[test]
    fn more_digits_than_a_double_or_decimal_has_are_unfit() {
        let text = format!("1{}", "0".repeat(309));
        assert!(matches!(float_from_text(text.as_bytes()).map_err(|f| *f), Err(Fault::Unfit { .. })));
        let found = decimal_from_text(text.as_bytes(), Shape { precision: 38, scale: 0 }).map_err(|f| *f);
        assert!(matches!(found, Err(Fault::Unfit { .. })), "{found:?}");
    }
}
