//! Blocks: dates, times of day, timestamps, intervals.

use super::block::{Block, Route, both, printed};
use super::nested::same_parts;
use super::special::SpecialValues;
use crate::columns::fixed::primitive;
use crate::columns::record::record;
use crate::columns::variable::text_from;
use crate::config::column_type::ColumnType;
use crate::values::Step;
use crate::values::interval::{Interval, interval_parts_binary, interval_parts_text};
use crate::values::temporal::{date, midnight, time, timestamp};
use crate::values::temporal_text::{
    date_text, midnight_text, print_date, print_time, print_timestamp, print_timestamptz, print_timetz, time_text, timestamp_text,
};
use arrow::array::types::{Date32Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType};
use arrow::datatypes::DataType;
use std::sync::Arc;

/// What infinite dates are clamped to, in days since 1970: 0001-01-01 and 9999-12-31, the span that other systems share.
const DAYS: (i32, i32) = (-719_162, 2_932_896);
/// The same for timestamps, in µs since 1970: 0001-01-01 00:00:00 and 9999-12-31 23:59:59.999999.
const MICROS: (i64, i64) = (-62_135_596_800_000_000, 253_402_300_799_999_999);
/// 00:00:00 and 23:59:59.999999.
const OF_DAY: (i64, i64) = (0, 86_399_999_999);

pub(crate) static BLOCKS: &[Block] = &[
    // Days since 2000-01-01.
    Block {
        types: &[(1082, "date")],
        exact: |_| ColumnType::Date,
        read: |_, wanted, special| match wanted {
            ColumnType::Date => both(primitive::<Date32Type>(DataType::Date32, date, date_text, special.on(DAYS.0, DAYS.1))),
            ColumnType::LocalTimestamp | ColumnType::Timestamp(_) => instants(wanted, midnight, midnight_text, special),
            _ => printed(wanted, print_date),
        },
        examples: &["2024-02-29", "0044-03-15 BC", "infinity"],
        remark: "From 4714-11-24 BC to 5874897-12-31, proleptic Gregorian. Infinite dates have no place: `special_values` decides.",
    },
    // µs since midnight.
    Block {
        types: &[(1083, "time")],
        exact: |_| ColumnType::Time,
        read: |_, wanted, special| match wanted {
            ColumnType::Time => {
                let on_special = special.on(OF_DAY.0, OF_DAY.1);
                both(primitive::<Time64MicrosecondType>(wanted.arrow(), time, time_text, on_special))
            }
            _ => printed(wanted, print_time),
        },
        examples: &["12:34:56.789", "24:00:00"],
        remark: "24:00:00 is no time of day elsewhere: `special_values` decides.",
    },
    Block {
        types: &[(1266, "timetz")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| printed(wanted, print_timetz),
        examples: &["12:34:56.789+05:30"],
        remark: "Text, with the zone that it was entered with.",
    },
    // µs since 2000-01-01 00:00, of a wall clock or in UTC.
    Block {
        types: &[(1114, "timestamp")],
        exact: |_| ColumnType::LocalTimestamp,
        read: |_, wanted, special| match wanted {
            ColumnType::LocalTimestamp | ColumnType::Timestamp(_) => instants(wanted, timestamp, timestamp_text, special),
            _ => printed(wanted, print_timestamp),
        },
        examples: &["2024-02-29 12:34:56.789012", "infinity"],
        remark: "A wall clock without a zone, never shifted; `timestamp` takes it as UTC, as OLake does. From 4714 BC to 294247-01-10; \
                 infinity and the 29 years beyond have no place: `special_values` decides.",
    },
    Block {
        types: &[(1184, "timestamptz")],
        exact: |_| ColumnType::Timestamptz,
        read: |_, wanted, special| match wanted {
            ColumnType::Timestamptz | ColumnType::Timestamp(_) => instants(wanted, timestamp, timestamp_text, special),
            _ => printed(wanted, print_timestamptz),
        },
        examples: &["2024-02-29 12:34:56.789012+00", "-infinity"],
        remark: "An instant, in UTC. Limits and infinities as for timestamp.",
    },
    Block {
        types: &[(1186, "interval")],
        exact: |_| ColumnType::Interval,
        read: |_, wanted, special| match wanted {
            ColumnType::Interval => both(text_from(
                |field, out| Interval::parse(field).map(|interval| interval.print_iso(out)),
                |field, out| Interval::from_text(field).map(|interval| interval.print_iso(out)),
            )),
            ColumnType::Struct(_) => months_days_micros(wanted, special),
            _ => wanted.is_text().then(|| {
                both(text_from(
                    |field, out| Interval::parse(field).map(|interval| interval.print_postgres(out)),
                    |field, out| Interval::from_text(field).map(|interval| interval.print_postgres(out)),
                ))
            })?,
        },
        examples: &["1 year 2 mons 3 days 04:05:06.789", "-1 days +00:00:01"],
        remark: "Text in ISO 8601, with a sign for each field. As `string` it is PostgreSQL's own text; \
                 `struct<months:integer_small,days:integer_small,microseconds:integer>` is how it is stored.",
    },
];

/// A column of instants.
fn instants(
    wanted: &ColumnType,
    binary: impl Fn(&[u8]) -> Step<i64> + Copy + Send + Sync + 'static,
    text: impl Fn(&[u8]) -> Step<i64> + Copy + Send + Sync + 'static,
    special: SpecialValues,
) -> Option<Route> {
    both(primitive::<TimestampMicrosecondType>(wanted.arrow(), binary, text, special.on(MICROS.0, MICROS.1)))
}

/// An interval as it is stored. An infinite one has no place there.
fn months_days_micros(wanted: &ColumnType, special: SpecialValues) -> Option<Route> {
    use super::block::whole;
    let int4 = ColumnType::Int32;
    let parts = [("months", int4.clone()), ("days", int4.clone()), ("microseconds", ColumnType::Int64)];
    let fields = same_parts(wanted, &parts)?;
    let i4 = |field: &[u8]| crate::values::exact_bytes(field).map(i32::from_be_bytes);
    let i8 = |field: &[u8]| crate::values::exact_bytes(field).map(i64::from_be_bytes);
    let columns = vec![
        whole::<i32, Int32Type>(&int4, i4, |n| n)?.column,
        whole::<i32, Int32Type>(&int4, i4, |n| n)?.column,
        whole::<i64, Int64Type>(&ColumnType::Int64, i8, |n| n)?.column,
    ];
    both(record(fields, columns, Arc::new(interval_parts_binary), Arc::new(interval_parts_text), special == SpecialValues::Null))
}

#[cfg(test)]
#[path = "times_tests.rs"]
mod tests;
