//! Values of the log that can be compared with one another, as PostgreSQL's operators compare them.
//!
//! Promises: nothing is rounded; both wire forms give the same value; bytes from outside never panic. Text is compared byte by byte: whether that is
//! the order of its collation is decided before. The orders are those of `utils/adt`: NaN is greater than every number and equal to itself,
//! infinite dates lie beyond all others, bytes that end early come first.

use crate::values::float::{parse_f32, parse_f64};
use crate::values::numeric::Numeric;
use crate::values::plain::{bytea_text, parse_int, uuid_text};
use crate::values::temporal_text::{date_text, micros_text, time_text};
use crate::values::{Fault, Nearest, Step, exact_bytes, not_a, shorten};
use std::borrow::Cow;
use std::cmp::Ordering;

/// From PostgreSQL's epoch to 1970, in days.
const EPOCH_DAYS: i64 = 10_957;
const DAY_MICROS: i64 = 86_400_000_000;

/// A type, as far as comparing its values goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `int2`, `int4`, `int8`.
    Integer,
    /// `float4`.
    Single,
    /// `float8`.
    Double,
    /// `numeric`.
    Numeric,
    /// `bool`.
    Boolean,
    /// `date`.
    Date,
    /// `time`.
    Time,
    /// `timestamp` and `timestamptz`, read in UTC.
    Timestamp,
    /// `uuid`.
    Uuid,
    /// `bytea`.
    Bytes,
    /// `text`, `varchar`, `name`.
    Text,
    /// `char(n)`, whose trailing blanks mean nothing.
    Padded,
    /// An enum: its labels in their order.
    Enum(Vec<String>),
}

/// A value; those of one kind can be compared.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Whole numbers, and what counts as such: truth, days, microseconds, the place of a label.
    Whole(i64),
    /// Of either width.
    Float(f64),
    /// Of any precision.
    Numeric(Decimal),
    /// What is compared byte by byte.
    Bytes(Cow<'a, [u8]>),
}

/// A number of any precision, or what numeric has beside numbers.
#[derive(Clone, Debug)]
pub struct Decimal {
    class: Class,
    /// Digits before the point, without zeros in front.
    whole: Vec<u8>,
    /// Digits behind it, without zeros at the end.
    fraction: Vec<u8>,
}

/// In their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    NegativeInfinity,
    Negative,
    /// Zero too.
    Positive,
    Infinity,
    NaN,
}

impl Kind {
    /// What its output function has printed.
    pub(crate) fn text<'a>(&self, text: &'a [u8]) -> Step<Value<'a>> {
        Ok(match self {
            Self::Integer => Value::Whole(parse_int(text, "an integer")?),
            Self::Single => Value::Float(f64::from(parse_f32(text)?)),
            Self::Double => Value::Float(parse_f64(text)?),
            Self::Numeric => Value::Numeric(Decimal::parse(text)?),
            Self::Boolean => Value::Whole(match text {
                b"t" | b"true" => 1,
                b"f" | b"false" => 0,
                _ => return Err(not_a("a boolean", text)),
            }),
            Self::Date => Value::Whole(endless(date_text(text).map(|days| i64::from(days) - EPOCH_DAYS))?),
            Self::Time if text == b"24:00:00" => Value::Whole(DAY_MICROS),
            Self::Time => Value::Whole(time_text(text)?),
            Self::Timestamp => Value::Whole(endless(micros_text(text))?),
            Self::Uuid => Value::Bytes(Cow::Owned(uuid_text(text)?.to_vec())),
            Self::Bytes => {
                let mut bytes = Vec::new();
                bytea_text(text, &mut bytes)?;
                Value::Bytes(Cow::Owned(bytes))
            }
            Self::Text => Value::Bytes(Cow::Borrowed(text)),
            Self::Padded => Value::Bytes(Cow::Borrowed(unpadded(text))),
            Self::Enum(labels) => match labels.iter().position(|label| label.as_bytes() == text) {
                Some(place) => Value::Whole(place as i64),
                None => {
                    let label = shorten(&String::from_utf8_lossy(text));
                    return Err(Fault::unfit(format!("{label:?}"), "none of the labels that its type had when the run began"));
                }
            },
        })
    }

    /// What its send function has written.
    pub(crate) fn binary<'a>(&self, field: &'a [u8]) -> Step<Value<'a>> {
        Ok(match self {
            Self::Integer => Value::Whole(match field.len() {
                2 => i64::from(i16::from_be_bytes(exact_bytes(field)?)),
                4 => i64::from(i32::from_be_bytes(exact_bytes(field)?)),
                _ => i64::from_be_bytes(exact_bytes(field)?),
            }),
            Self::Single => Value::Float(f64::from(f32::from_be_bytes(exact_bytes(field)?))),
            Self::Double => Value::Float(f64::from_be_bytes(exact_bytes(field)?)),
            Self::Numeric => {
                let mut text = Vec::new();
                Numeric::parse(field)?.print(&mut text)?;
                Value::Numeric(Decimal::parse(&text)?)
            }
            Self::Boolean => match exact_bytes(field)? {
                [truth @ 0..=1] => Value::Whole(i64::from(truth)),
                [other] => return Err(Fault::malformed(format!("a boolean has the value {other}"))),
            },
            Self::Date => Value::Whole(match i32::from_be_bytes(exact_bytes(field)?) {
                i32::MIN => i64::MIN,
                i32::MAX => i64::MAX,
                days => i64::from(days),
            }),
            Self::Time | Self::Timestamp => Value::Whole(i64::from_be_bytes(exact_bytes(field)?)),
            Self::Uuid => Value::Bytes(Cow::Owned(exact_bytes::<16>(field)?.to_vec())),
            Self::Bytes => Value::Bytes(Cow::Borrowed(field)),
            // The same bytes.
            Self::Text | Self::Padded | Self::Enum(_) => return self.text(field),
        })
    }
}

impl Value<'_> {
    /// Their order. Values of different kinds have none, and are never compared.
    pub(crate) fn compare(&self, other: &Value<'_>) -> Ordering {
        match (self, other) {
            (Self::Whole(a), Value::Whole(b)) => a.cmp(b),
            (Self::Float(a), Value::Float(b)) => {
                // The only numbers that are not comparable are those that are none.
                a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
            }
            (Self::Numeric(a), Value::Numeric(b)) => a.compare(b),
            (Self::Bytes(a), Value::Bytes(b)) => a.cmp(b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Whole(_) => 0,
            Self::Float(_) => 1,
            Self::Numeric(_) => 2,
            Self::Bytes(_) => 3,
        }
    }

    /// One that does not hold on to the bytes that it was read from.
    pub(crate) fn into_owned(self) -> Value<'static> {
        match self {
            Self::Whole(value) => Value::Whole(value),
            Self::Float(value) => Value::Float(value),
            Self::Numeric(value) => Value::Numeric(value),
            Self::Bytes(bytes) => Value::Bytes(Cow::Owned(bytes.into_owned())),
        }
    }
}

impl Decimal {
    /// What `numeric_out` has printed: never with an exponent.
    fn parse(text: &[u8]) -> Step<Self> {
        let special = |class| Ok(Self { class, whole: Vec::new(), fraction: Vec::new() });
        match text {
            b"NaN" => return special(Class::NaN),
            b"Infinity" => return special(Class::Infinity),
            b"-Infinity" => return special(Class::NegativeInfinity),
            _ => {}
        }
        let unsigned = text.strip_prefix(b"-");
        let mut sides = unsigned.unwrap_or(text).splitn(2, |byte| *byte == b'.');
        let (whole, fraction) = (sides.next().unwrap_or_default(), sides.next());
        let digits = |side: &[u8]| !side.is_empty() && side.iter().all(u8::is_ascii_digit);
        if !digits(whole) || !fraction.is_none_or(digits) {
            return Err(not_a("a number", text));
        }
        let fraction = fraction.unwrap_or_default();
        let whole = &whole[whole.iter().take_while(|digit| **digit == b'0').count()..];
        let fraction = &fraction[..fraction.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1)];
        let is_zero = whole.is_empty() && fraction.is_empty();
        let class = if unsigned.is_some() && !is_zero { Class::Negative } else { Class::Positive };
        Ok(Self { class, whole: whole.to_vec(), fraction: fraction.to_vec() })
    }

    fn compare(&self, other: &Self) -> Ordering {
        let size = |a: &Self, b: &Self| {
            // Digits behind the point compare like texts: one that ends early is smaller.
            a.whole.len().cmp(&b.whole.len()).then_with(|| a.whole.cmp(&b.whole)).then_with(|| a.fraction.cmp(&b.fraction))
        };
        self.class.cmp(&other.class).then_with(|| match self.class {
            Class::Negative => size(other, self),
            _ => size(self, other),
        })
    }
}

/// With the ends of the numbers for what is infinite, as PostgreSQL stores it.
fn endless(read: Step<i64>) -> Step<i64> {
    match read.map_err(|fault| *fault) {
        Ok(value) => Ok(value),
        Err(Fault::Special { nearest: Nearest::Lowest, .. }) => Ok(i64::MIN),
        Err(Fault::Special { nearest: Nearest::Highest, .. }) => Ok(i64::MAX),
        Err(fault) => Err(Box::new(fault)),
    }
}

fn unpadded(text: &[u8]) -> &[u8] {
    &text[..text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1)]
}
