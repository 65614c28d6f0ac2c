//! Dates and times as they are on the wire, moved to the epoch that everyone else counts from.
//!
//! Values that the destination cannot say (infinity, 24:00:00, years beyond 64 bits of microseconds) are errors, never
//! altered. The forms are those of `date_send`, `time_send` and `timestamp_send`.

use super::column::{Fault, Step, exact_bytes};
use std::fmt::Display;

/// From PostgreSQL's epoch, 2000-01-01, to 1970-01-01.
const EPOCH_DAYS: i32 = 10_957;
const DAY_MICROS: i64 = 86_400_000_000;
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * DAY_MICROS;

/// Days since 1970-01-01.
pub(super) fn date(field: &[u8]) -> Step<i32> {
    let days = finite(i32::from_be_bytes(exact_bytes(field)?), i32::MIN, i32::MAX, "date")?;
    match days.checked_add(EPOCH_DAYS) {
        Some(days) => Ok(days),
        None => Err(too_far(days, "days", "2147483647 days since 1970")),
    }
}

/// The start of a date, in µs since 1970-01-01 00:00.
pub(super) fn midnight(field: &[u8]) -> Step<i64> {
    let days = date(field)?;
    match i64::from(days).checked_mul(DAY_MICROS) {
        Some(micros) => Ok(micros),
        None => Err(too_far(days - EPOCH_DAYS, "days", "what 64 bits of microseconds since 1970 reach")),
    }
}

/// µs since 1970-01-01 00:00.
pub(super) fn timestamp(field: &[u8]) -> Step<i64> {
    let micros = finite(i64::from_be_bytes(exact_bytes(field)?), i64::MIN, i64::MAX, "timestamp")?;
    match micros.checked_add(EPOCH_MICROS) {
        Some(micros) => Ok(micros),
        None => Err(too_far(micros, "microseconds", "294247-01-10, what 64 bits of microseconds since 1970 reach")),
    }
}

/// µs since midnight. 24:00:00 is a time of day in PostgreSQL; elsewhere it reads as 00:00 or not at all.
pub(super) fn time(field: &[u8]) -> Step<i64> {
    match i64::from_be_bytes(exact_bytes(field)?) {
        micros @ 0..DAY_MICROS => Ok(micros),
        DAY_MICROS => Err(Fault::unfit("24:00:00", "not a time of day that other systems know")),
        micros => Err(Fault::malformed(format!("a time of {micros} microseconds since midnight"))),
    }
}

/// Takes out the two values that stand for −infinity and infinity.
fn finite<T: Eq>(value: T, negative: T, positive: T, what: &str) -> Step<T> {
    if value == negative {
        return Err(Fault::unfit("-infinity", format!("not a {what} that other systems know")));
    }
    if value == positive {
        return Err(Fault::unfit("infinity", format!("not a {what} that other systems know")));
    }
    Ok(value)
}

#[cold]
fn too_far(value: impl Display, unit: &str, limit: &str) -> Box<Fault> {
    Fault::unfit(format!("{value} {unit} after 2000-01-01"), format!("beyond {limit}"))
}
