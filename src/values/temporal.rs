//! Dates and times as they are on the wire, moved to the epoch that everyone else counts from.
//!
//! Values that the destination cannot say (infinity, 24:00:00, years beyond 64 bits of microseconds) are errors, never
//! altered. The forms are those of `date_send`, `time_send` and `timestamp_send`.

use super::{Fault, Nearest, Step, exact_bytes};
use std::fmt::Display;

/// From PostgreSQL's epoch, 2000-01-01, to 1970-01-01.
pub(super) const EPOCH_DAYS: i32 = 10_957;
pub(super) const DAY_MICROS: i64 = 86_400_000_000;
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * DAY_MICROS;

/// Days since 1970-01-01.
pub(crate) fn date(field: &[u8]) -> Step<i32> {
    let days = finite(i32::from_be_bytes(exact_bytes(field)?), i32::MIN, i32::MAX, "date")?;
    match days.checked_add(EPOCH_DAYS) {
        Some(days) => Ok(days),
        None => Err(too_far(days, "days", "2147483647 days since 1970")),
    }
}

/// The start of a date, in µs since 1970-01-01 00:00.
pub(crate) fn midnight(field: &[u8]) -> Step<i64> {
    start_of_day(date(field)?)
}

/// The start of a day since 1970-01-01, in µs since then.
#[inline]
pub(super) fn start_of_day(days: i32) -> Step<i64> {
    match i64::from(days).checked_mul(DAY_MICROS) {
        Some(micros) => Ok(micros),
        None => Err(too_far(i64::from(days) - i64::from(EPOCH_DAYS), "days", "what 64 bits of microseconds since 1970 reach")),
    }
}

/// µs since 1970-01-01 00:00.
pub(crate) fn timestamp(field: &[u8]) -> Step<i64> {
    let micros = finite(i64::from_be_bytes(exact_bytes(field)?), i64::MIN, i64::MAX, "timestamp")?;
    since_1970(micros)
}

/// From µs since PostgreSQL's epoch to µs since 1970-01-01.
#[inline]
pub(super) fn since_1970(micros: i64) -> Step<i64> {
    match micros.checked_add(EPOCH_MICROS) {
        Some(micros) => Ok(micros),
        None => Err(too_far(micros, "microseconds", "294247-01-10, what 64 bits of microseconds since 1970 reach")),
    }
}

/// µs since midnight. 24:00:00 is a time of day in PostgreSQL; elsewhere it reads as 00:00 or not at all.
pub(crate) fn time(field: &[u8]) -> Step<i64> {
    match i64::from_be_bytes(exact_bytes(field)?) {
        micros @ 0..DAY_MICROS => Ok(micros),
        DAY_MICROS => Err(no_time()),
        micros => Err(Fault::malformed(format!("a time of {micros} microseconds since midnight"))),
    }
}

/// Takes out the two values that stand for −infinity and infinity.
fn finite<T: Eq>(value: T, negative: T, positive: T, what: &str) -> Step<T> {
    if value == negative {
        return Err(not_finite(Nearest::Lowest, what));
    }
    if value == positive {
        return Err(not_finite(Nearest::Highest, what));
    }
    Ok(value)
}

#[cold]
pub(super) fn not_finite(nearest: Nearest, what: &str) -> Box<Fault> {
    let value = if nearest == Nearest::Lowest { "-infinity" } else { "infinity" };
    Fault::special(value, format!("not a {what} that other systems know"), nearest)
}

#[cold]
pub(super) fn no_time() -> Box<Fault> {
    Fault::special("24:00:00", "not a time of day that other systems know", Nearest::Highest)
}

#[cold]
pub(super) fn too_far(value: impl Display, unit: &str, limit: &str) -> Box<Fault> {
    Fault::special(format!("{value} {unit} after 2000-01-01"), format!("beyond {limit}"), Nearest::Highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is expected: a number, or the value that the error names.
    fn check<T: PartialEq + std::fmt::Debug>(found: Step<T>, expected: Result<T, &str>) {
        match (found.map_err(|fault| *fault), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(Fault::Special { value, .. }), Err(expected)) => assert_eq!(value, expected),
            (Err(Fault::Malformed(_)), Err("malformed")) => {}
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }

    #[test]
    fn dates() {
        let day = |days: i32| date(&days.to_be_bytes());
        check(day(0), Ok(10_957)); // 2000-01-01
        check(day(-10_957), Ok(0)); // 1970-01-01
        check(day(-2_451_545), Ok(-2_440_588)); // 4714-11-24 BC, the first
        check(day(-730_120), Ok(-719_163)); // 0001-12-31 BC
        check(day(2_145_031_948), Ok(2_145_042_905)); // 5874897-12-31, the last
        check(day(i32::MAX), Err("infinity"));
        check(day(i32::MIN), Err("-infinity"));
        check(day(i32::MAX - 1), Err("2147483646 days after 2000-01-01"));
        check(date(&[0; 3]), Err("malformed"));
    }

    #[test]
    fn dates_as_timestamps() {
        let start = |days: i32| midnight(&days.to_be_bytes());
        check(start(0), Ok(946_684_800_000_000));
        check(start(-10_958), Ok(-86_400_000_000));
        check(start(2_145_031_948), Err("2145031948 days after 2000-01-01"));
        check(start(i32::MAX), Err("infinity"));
    }

    #[test]
    fn timestamps() {
        let at = |micros: i64| timestamp(&micros.to_be_bytes());
        check(at(0), Ok(946_684_800_000_000));
        check(at(-946_684_800_000_001), Ok(-1));
        check(at(-211_813_488_000_000_000), Ok(-210_866_803_200_000_000)); // 4714-11-24 BC, the first
        check(at(i64::MAX - EPOCH_MICROS), Ok(i64::MAX)); // 294247-01-10 04:00:54.775807
        check(at(i64::MAX - EPOCH_MICROS + 1), Err("9222425352054775808 microseconds after 2000-01-01"));
        check(at(9_223_371_331_199_999_999), Err("9223371331199999999 microseconds after 2000-01-01")); // 294276-12-31, the last
        check(at(i64::MAX), Err("infinity"));
        check(at(i64::MIN), Err("-infinity"));
        check(timestamp(&[0; 9]), Err("malformed"));
    }

    #[test]
    fn times() {
        let of_day = |micros: i64| time(&micros.to_be_bytes());
        check(of_day(0), Ok(0));
        check(of_day(86_399_999_999), Ok(86_399_999_999));
        check(of_day(86_400_000_000), Err("24:00:00"));
        check(of_day(86_400_000_001), Err("malformed"));
        check(of_day(-1), Err("malformed"));
    }
}
