//! The folder names that the values of a column stand for, and the rows that share them.
//!
//! Works a column at a time: each row gets a small number, each number one text, so that a value's text
//! is formatted once per run of equal values. Promises calendar fields that are right for every instant
//! an `i64` can hold, before 1970 and beyond the year 262142. Pure; knows nothing of the grammar.

use crate::error::{Error, Kind, Result};
use crate::naming;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Date32Type, Date64Type, Int64Type, TimeUnit};
use arrow::datatypes::{TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{Datelike, Days, NaiveDate, Utc};
use std::collections::HashMap;
use std::fmt::Write;

const MICROS_PER_DAY: i64 = 86_400_000_000;
/// The Gregorian calendar, weekdays included, repeats after so many days, which are 400 years.
const DAYS_PER_ERA: i64 = 146_097;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The value itself, as text.
    Value,
    /// `2024`
    Year,
    /// `01` to `12`
    Month,
    /// ISO week, `01` to `53`
    Week,
    /// Day of the month, `01` to `31`
    Day,
    /// `00` to `23`
    Hour,
    /// `2024-02`
    ToMonth,
    /// `2024-02-29`
    ToDay,
    /// `2024-02-29-13`
    ToHour,
}

/// An instant as its day and its time of day: microseconds alone would overflow for distant seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instant {
    /// Days since 1970.
    day: i64,
    /// Microseconds since midnight.
    micros: i64,
}

impl Instant {
    fn of(count: i64, per_day: i64) -> Self {
        let (day, within) = (count.div_euclid(per_day), count.rem_euclid(per_day));
        let micros = if per_day > MICROS_PER_DAY { within / (per_day / MICROS_PER_DAY) } else { within * (MICROS_PER_DAY / per_day) };
        Self { day, micros }
    }
}

impl Form {
    /// Reads a granularity, in any case; empty means the value itself.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_uppercase().as_str() {
            "" => Self::Value,
            "YYYY" => Self::Year,
            "MM" => Self::Month,
            "WW" => Self::Week,
            "DD" => Self::Day,
            "HH" => Self::Hour,
            _ => return None,
        })
    }

    /// Appends this form of an instant, given in microseconds since 1970 UTC.
    pub(crate) fn write_instant(self, micros: i64, out: &mut String) {
        self.write(Instant::of(micros, MICROS_PER_DAY), false, out);
    }

    fn write(self, at: Instant, date_only: bool, out: &mut String) {
        let (year, date) = calendar(at.day);
        let hour = at.micros / 3_600_000_000;
        let written = match self {
            Self::Year => write!(out, "{year:04}"),
            Self::Month => write!(out, "{:02}", date.month()),
            Self::Week => write!(out, "{:02}", date.iso_week().week()),
            Self::Day => write!(out, "{:02}", date.day()),
            Self::Hour => write!(out, "{hour:02}"),
            Self::ToMonth => write!(out, "{year:04}-{:02}", date.month()),
            Self::ToDay => write!(out, "{year:04}-{:02}-{:02}", date.month(), date.day()),
            Self::ToHour => write!(out, "{year:04}-{:02}-{:02}-{hour:02}", date.month(), date.day()),
            Self::Value if date_only => write!(out, "{year:04}-{:02}-{:02}", date.month(), date.day()),
            Self::Value => {
                let (minute, second, fraction) = (at.micros / 60_000_000 % 60, at.micros / 1_000_000 % 60, at.micros % 1_000_000);
                write!(out, "{year:04}-{:02}-{:02} {hour:02}:{minute:02}:{second:02}", date.month(), date.day())
                    .and_then(|()| if fraction == 0 { Ok(()) } else { write!(out, ".{fraction:06}") })
            }
        };
        written.expect("a String takes everything");
    }

    /// Whether two instants have the same form for certain; cheap, and asked for every row.
    fn same(self, a: Instant, b: Instant) -> bool {
        match self {
            Self::Value => a == b,
            Self::Hour => a.micros / 3_600_000_000 == b.micros / 3_600_000_000,
            Self::ToHour => a.day == b.day && a.micros / 3_600_000_000 == b.micros / 3_600_000_000,
            Self::Year | Self::Month | Self::Week | Self::Day | Self::ToMonth | Self::ToDay => a.day == b.day,
        }
    }
}

/// The year of a day since 1970, and a day of the same month, weekday and ISO week in the years
/// 1970..2370: dates that `chrono` cannot hold (Postgres goes on to the year 294276) are no exception.
fn calendar(day: i64) -> (i64, NaiveDate) {
    let within = day.rem_euclid(DAYS_PER_ERA).unsigned_abs();
    let date = NaiveDate::from_ymd_opt(1970, 1, 1).and_then(|first| first.checked_add_days(Days::new(within))).expect("before 2370");
    (i64::from(date.year()) + 400 * day.div_euclid(DAYS_PER_ERA), date)
}

/// Whether values of this type are text.
pub(crate) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Whether values of this type are points on the calendar.
pub(crate) fn is_instant(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Date64 | DataType::Timestamp(_, _))
}

/// The escaped text of every row of one column: a number per row, a text per number.
pub(crate) struct Labels {
    of_row: Vec<u32>,
    texts: Vec<String>,
}

impl Labels {
    /// The labels of `column` in the given form; rows without a value get `default`, which is escaped already.
    pub(crate) fn of(column: &ArrayRef, form: Form, default: &str) -> Result<Self> {
        let mut labels = Builder::new(column.len(), default);
        match column.data_type() {
            data_type if is_instant(data_type) => labels.instants(column, form),
            DataType::Int64 if form != Form::Value => labels.instants(column, form),
            data_type if is_text(data_type) => labels.text(column, form)?,
            DataType::FixedSizeBinary(_) => labels.uuids(column),
            _ => labels.plain(column)?,
        }
        Ok(labels.labels)
    }

    /// The text of a row.
    pub(crate) fn text(&self, row: u32) -> &str {
        &self.texts[self.of_row[row as usize] as usize]
    }
}

struct Builder<'a> {
    labels: Labels,
    numbers: HashMap<String, u32>,
    default: &'a str,
    escaped: String,
}

impl<'a> Builder<'a> {
    fn new(rows: usize, default: &'a str) -> Self {
        let labels = Labels { of_row: Vec::with_capacity(rows), texts: Vec::new() };
        Self { labels, numbers: HashMap::new(), default, escaped: String::new() }
    }

    /// Gives the next row this value; an empty one counts as none.
    fn push(&mut self, value: &str) {
        self.escaped.clear();
        if value.is_empty() {
            self.escaped.push_str(self.default);
        } else {
            naming::escape(value, &mut self.escaped);
        }
        let number = match self.numbers.get(&self.escaped) {
            Some(number) => *number,
            None => {
                let number = u32::try_from(self.labels.texts.len()).expect("a batch has fewer than 2^32 rows");
                self.labels.texts.push(self.escaped.clone());
                self.numbers.insert(self.escaped.clone(), number);
                number
            }
        };
        self.labels.of_row.push(number);
    }

    /// Gives the next row what the row before has.
    fn repeat(&mut self) {
        let last = *self.labels.of_row.last().expect("only called after a first row");
        self.labels.of_row.push(last);
    }

    fn instants(&mut self, column: &ArrayRef, form: Form) {
        const SECONDS: i64 = 86_400;
        let date_only = matches!(column.data_type(), DataType::Date32 | DataType::Date64);
        let at: Box<dyn Fn(usize) -> Instant + '_> = match column.data_type() {
            DataType::Date32 => {
                let days = column.as_primitive::<Date32Type>();
                Box::new(|row| Instant { day: i64::from(days.value(row)), micros: 0 })
            }
            DataType::Date64 => {
                let millis = column.as_primitive::<Date64Type>();
                Box::new(|row| Instant::of(millis.value(row), SECONDS * 1_000))
            }
            DataType::Int64 => {
                let seconds = column.as_primitive::<Int64Type>();
                Box::new(|row| Instant::of(seconds.value(row), SECONDS))
            }
            DataType::Timestamp(TimeUnit::Second, _) => {
                let seconds = column.as_primitive::<TimestampSecondType>();
                Box::new(|row| Instant::of(seconds.value(row), SECONDS))
            }
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                let millis = column.as_primitive::<TimestampMillisecondType>();
                Box::new(|row| Instant::of(millis.value(row), SECONDS * 1_000))
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                let micros = column.as_primitive::<TimestampMicrosecondType>();
                Box::new(|row| Instant::of(micros.value(row), MICROS_PER_DAY))
            }
            _ => {
                let nanos = column.as_primitive::<TimestampNanosecondType>();
                Box::new(|row| Instant::of(nanos.value(row), SECONDS * 1_000_000_000))
            }
        };
        let mut text = String::new();
        let mut before: Option<Option<Instant>> = None;
        for row in 0..column.len() {
            let instant = column.is_valid(row).then(|| at(row));
            match (before, instant) {
                (Some(Some(a)), Some(b)) if form.same(a, b) => self.repeat(),
                (Some(None), None) => self.repeat(),
                _ => {
                    text.clear();
                    if let Some(instant) = instant {
                        form.write(instant, date_only, &mut text);
                    }
                    self.push(&text);
                }
            }
            before = Some(instant);
        }
    }

    fn text(&mut self, column: &ArrayRef, form: Form) -> Result<()> {
        let column = match column.data_type() {
            DataType::LargeUtf8 => column.clone(),
            _ => cast(column, &DataType::LargeUtf8).map_err(unreadable)?,
        };
        let mut text = String::new();
        let mut before = None;
        for value in column.as_string::<i64>() {
            if before == Some(value) {
                self.repeat();
                continue;
            }
            before = Some(value);
            match (value, form) {
                (None, _) => self.push(""),
                (Some(value), Form::Value) => self.push(value),
                (Some(value), form) => {
                    text.clear();
                    if let Ok(at) = string_to_datetime(&Utc, value) {
                        form.write_instant(at.timestamp_micros(), &mut text);
                    }
                    self.push(&text);
                }
            }
        }
        Ok(())
    }

    fn uuids(&mut self, column: &ArrayRef) {
        for value in column.as_fixed_size_binary() {
            match value.and_then(|bytes| uuid::Uuid::from_slice(bytes).ok()) {
                Some(uuid) => self.push(uuid.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer())),
                None => self.push(""),
            }
        }
    }

    fn plain(&mut self, column: &ArrayRef) -> Result<()> {
        let options = FormatOptions::default();
        let formatter = ArrayFormatter::try_new(column.as_ref(), &options).map_err(unreadable)?;
        let mut text = String::new();
        for row in 0..column.len() {
            text.clear();
            formatter.value(row).write(&mut text).map_err(unreadable)?;
            self.push(&text);
        }
        Ok(())
    }
}

fn unreadable(e: arrow::error::ArrowError) -> Error {
    Error::new(Kind::Bug, "cannot read a partition's value").because(e)
}

/// The rows of a batch that belong to one folder, in their order.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    /// Every row.
    All,
    /// `length` neighbouring rows from `offset`.
    Run {
        /// First row.
        offset: usize,
        /// Number of rows.
        length: usize,
    },
    /// Rows by their index.
    Picked(UInt32Array),
}

impl Rows {
    /// These rows of `batch`; copies only what is not contiguous.
    pub(crate) fn of(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        match self {
            Self::All => Ok(batch.clone()),
            Self::Run { offset, length } => Ok(batch.slice(*offset, *length)),
            Self::Picked(indices) => {
                take_record_batch(batch, indices).map_err(|e| Error::new(Kind::Bug, "cannot pick the rows of a partition").because(e))
            }
        }
    }

    /// From ascending indices.
    fn from_indices(indices: Vec<u32>) -> Self {
        match (indices.first(), indices.last()) {
            (Some(first), Some(last)) if (last - first) as usize + 1 == indices.len() => {
                Self::Run { offset: *first as usize, length: indices.len() }
            }
            _ => Self::Picked(indices.into()),
        }
    }
}

/// The rows of a batch, divided more finely with each column.
pub(crate) struct Groups {
    of_row: Vec<u32>,
    first_rows: Vec<u32>,
}

impl Groups {
    /// All rows together.
    pub(crate) fn whole(rows: usize) -> Self {
        Self { of_row: vec![0; rows], first_rows: if rows == 0 { Vec::new() } else { vec![0] } }
    }

    /// Divides every group by the labels of its rows.
    pub(crate) fn refine(&mut self, labels: &Labels) {
        self.first_rows.clear();
        let mut numbers: HashMap<(u32, u32), u32> = HashMap::new();
        let mut before = None;
        for ((row, group), label) in (0u32..).zip(&mut self.of_row).zip(&labels.of_row) {
            let key = (*group, *label);
            *group = match before {
                Some((last, number)) if last == key => number,
                _ => *numbers.entry(key).or_insert_with(|| {
                    self.first_rows.push(row);
                    u32::try_from(self.first_rows.len() - 1).expect("not more groups than rows")
                }),
            };
            before = Some((key, *group));
        }
    }

    /// A row of each group.
    pub(crate) fn first_rows(&self) -> &[u32] {
        &self.first_rows
    }

    /// The rows of each path, where `paths` holds one per group. Groups with the same path become one:
    /// different values may share a name, as NULL and the text "default_x" do.
    pub(crate) fn into_rows(self, paths: Vec<String>) -> Vec<(String, Rows)> {
        let mut places = HashMap::new();
        let mut unique = Vec::new();
        let mut place_of_group = Vec::with_capacity(paths.len());
        for path in paths {
            let place = *places.entry(path).or_insert_with_key(|path: &String| {
                unique.push((path.clone(), Vec::new()));
                unique.len() - 1
            });
            place_of_group.push(place);
        }
        if let [(path, _)] = unique.as_mut_slice() {
            return vec![(std::mem::take(path), Rows::All)];
        }
        for (row, group) in (0u32..).zip(&self.of_row) {
            unique[place_of_group[*group as usize]].1.push(row);
        }
        unique.into_iter().map(|(path, rows)| (path, Rows::from_indices(rows))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar_fields_are_right_everywhere() {
        let check = |day: i64, expected: &str| {
            let mut out = String::new();
            for form in [Form::Year, Form::Month, Form::Day, Form::Week] {
                form.write(Instant { day, micros: 0 }, false, &mut out);
                out.push(' ');
            }
            assert_eq!(out.trim(), expected, "{day}");
        };
        check(0, "1970 01 01 01");
        check(-1, "1969 12 31 01");
        check(18_627, "2020 12 31 53");
        check(18_628, "2021 01 01 53");
        check(19_782, "2024 02 29 09");
        check(-719_528, "0000 01 01 52");
        check(-719_529, "-001 12 31 52");
        check(106_751_991, "294247 01 10 01"); // the last whole day of i64 microseconds
        check(i64::from(i32::MIN), "-5877641 06 23 26");
    }

    #[test]
    fn seconds_do_not_overflow() {
        let at = Instant::of(i64::MAX, 86_400);
        assert_eq!((at.day, at.micros), (i64::MAX / 86_400, i64::MAX % 86_400 * 1_000_000));
        let at = Instant::of(-1, 86_400_000_000_000);
        assert_eq!((at.day, at.micros), (-1, 86_399_999_999));
    }

    #[test]
    fn neighbouring_rows_are_not_copied() {
        assert!(matches!(Rows::from_indices(vec![3, 4, 5]), Rows::Run { offset: 3, length: 3 }));
        assert!(matches!(Rows::from_indices(vec![3, 5]), Rows::Picked(_)));
    }
}
