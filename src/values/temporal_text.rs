//! Dates and times in their text form, with the same results as the binary form gives, and printers from the binary form.
//!
//! The text is what `date_out`, `time_out`, `timestamp_out` and `timestamptz_out` print in the ISO date style, in any time zone.
//! The printers print what they do in the time zone UTC. The calendar is the proleptic Gregorian one, counted in 64 bits: a
//! server's dates reach from 4714-11-24 BC to 5874897-12-31.

use super::calendar::{civil, days_since_1970};
use super::temporal::{DAY_MICROS, EPOCH_DAYS, no_time, not_finite, since_1970, start_of_day, too_far};
use super::{Fault, Nearest, Step, exact_bytes, not_a, take};

const SECOND_MICROS: i64 = 1_000_000;

/// As many seconds as a time zone can be off, plus one (`TZDISP_LIMIT`).
const ZONE_LIMIT: i32 = 16 * 3600;

/// Days since 1970-01-01.
pub(crate) fn date_text(field: &[u8]) -> Step<i32> {
    infinite(field, "date")?;
    let days = whole(field, date).ok_or_else(|| not_a("a date", field))?;
    if let Ok(days) = i32::try_from(days) {
        return Ok(days);
    }
    match i32::try_from(days - i64::from(EPOCH_DAYS)) {
        Ok(days) => Err(too_far(days, "days", "2147483647 days since 1970")),
        Err(_) => Err(not_a("a date", field)),
    }
}

/// The start of a date, in µs since 1970-01-01 00:00.
pub(crate) fn midnight_text(field: &[u8]) -> Step<i64> {
    start_of_day(date_text(field)?)
}

/// µs since midnight.
pub(crate) fn time_text(field: &[u8]) -> Step<i64> {
    if field == b"24:00:00" {
        return Err(no_time());
    }
    whole(field, |rest, bc| if bc { None } else { time(rest) }).ok_or_else(|| not_a("a time", field))
}

/// µs since 1970-01-01 00:00, of a timestamp with or without time zone.
pub(crate) fn timestamp_text(field: &[u8]) -> Step<i64> {
    since_1970(micros_text(field)?)
}

/// The same since PostgreSQL's epoch, from which all of its timestamps are within 64 bits.
pub(crate) fn micros_text(field: &[u8]) -> Step<i64> {
    infinite(field, "timestamp")?;
    let micros = whole(field, |rest, bc| {
        let days = date(rest, bc)? - i64::from(EPOCH_DAYS);
        *rest = rest.strip_prefix(b" ")?;
        let (time, zone) = (time(rest)?, zone(rest)?);
        // Days have up to 9 digits of years, whose microseconds need more than 64 bits.
        i64::try_from(i128::from(days) * i128::from(DAY_MICROS) + i128::from(time - zone)).ok()
    });
    micros.ok_or_else(|| not_a("a timestamp", field))
}

/// Appends a date as `date_out` prints what `date_send` sent.
pub(crate) fn print_date(field: &[u8], out: &mut Vec<u8>) -> Step {
    match i32::from_be_bytes(exact_bytes(field)?) {
        i32::MIN => out.extend_from_slice(b"-infinity"),
        i32::MAX => out.extend_from_slice(b"infinity"),
        days => {
            let (year, month, day) = civil(i64::from(days) + i64::from(EPOCH_DAYS));
            put_date(year, month, day, out);
            put_era(year, out);
        }
    }
    Ok(())
}

/// Appends a time as `time_out` prints what `time_send` sent.
pub(crate) fn print_time(field: &[u8], out: &mut Vec<u8>) -> Step {
    put_time_of_day(i64::from_be_bytes(exact_bytes(field)?), out)
}

/// Appends a time with time zone as `timetz_out` prints what `timetz_send` sent: µs since midnight, then seconds west of UTC.
pub(crate) fn print_timetz(field: &[u8], out: &mut Vec<u8>) -> Step {
    let mut rest = field;
    let micros = i64::from_be_bytes(take(&mut rest, "a time with time zone")?);
    let west = i32::from_be_bytes(exact_bytes(rest)?);
    if west <= -ZONE_LIMIT || west >= ZONE_LIMIT {
        return Err(Fault::malformed(format!("a time with a time zone of {west} seconds")));
    }
    put_time_of_day(micros, out)?;
    out.push(if west <= 0 { b'+' } else { b'-' });
    let seconds = i64::from(west.abs());
    put_number(seconds / 3600, 2, out);
    if seconds % 3600 != 0 {
        out.push(b':');
        put_number(seconds / 60 % 60, 2, out);
    }
    if seconds % 60 != 0 {
        out.push(b':');
        put_number(seconds % 60, 2, out);
    }
    Ok(())
}

/// Appends a timestamp as `timestamp_out` prints what `timestamp_send` sent.
pub(crate) fn print_timestamp(field: &[u8], out: &mut Vec<u8>) -> Step {
    put_timestamp(field, b"", out)
}

/// Appends a timestamp with time zone as `timestamptz_out` prints, in UTC, what `timestamptz_send` sent.
pub(crate) fn print_timestamptz(field: &[u8], out: &mut Vec<u8>) -> Step {
    put_timestamp(field, b"+00", out)
}

fn infinite(field: &[u8], what: &str) -> Step {
    match field {
        b"infinity" => Err(not_finite(Nearest::Highest, what)),
        b"-infinity" => Err(not_finite(Nearest::Lowest, what)),
        _ => Ok(()),
    }
}

/// Reads a value to its end, past which there is only the mark of years before our era.
fn whole(field: &[u8], read: impl FnOnce(&mut &[u8], bool) -> Option<i64>) -> Option<i64> {
    let before = field.strip_suffix(b" BC");
    let mut rest = before.unwrap_or(field);
    read(&mut rest, before.is_some()).filter(|_| rest.is_empty())
}

/// `YYYY-MM-DD`, as days since 1970-01-01.
fn date(rest: &mut &[u8], bc: bool) -> Option<i64> {
    let year = number(rest, 4, 9).filter(|year| *year > 0)?;
    *rest = rest.strip_prefix(b"-")?;
    let month = number(rest, 2, 2)?;
    *rest = rest.strip_prefix(b"-")?;
    let day = number(rest, 2, 2)?;
    // The year before 1 AD is 1 BC.
    let year = if bc { 1 - year } else { year };
    let days = days_since_1970(year, month, day);
    (civil(days) == (year, month, day)).then_some(days)
}

/// `HH:MM:SS` with up to six places behind a point, as µs since midnight.
fn time(rest: &mut &[u8]) -> Option<i64> {
    let hours = number(rest, 2, 2).filter(|hours| *hours < 24)?;
    *rest = rest.strip_prefix(b":")?;
    let minutes = number(rest, 2, 2).filter(|minutes| *minutes < 60)?;
    *rest = rest.strip_prefix(b":")?;
    Some((hours * 60 + minutes) * 60 * SECOND_MICROS + seconds(rest)?)
}

/// `SS` with up to six places behind a point, as µs.
pub(super) fn seconds(rest: &mut &[u8]) -> Option<i64> {
    let seconds = number(rest, 2, 2).filter(|seconds| *seconds < 60)?;
    let Some(after) = rest.strip_prefix(b".") else { return Some(seconds * SECOND_MICROS) };
    *rest = after;
    let fraction = number(rest, 1, 6)?;
    // One to six digits have been read.
    let places = u32::try_from(after.len().checked_sub(rest.len())?).ok()?;
    Some(seconds * SECOND_MICROS + fraction * 10_i64.checked_pow(6_u32.checked_sub(places)?)?)
}

/// `+HH`, `+HH:MM` or `+HH:MM:SS`, as µs east of UTC; 0 when there is nothing.
fn zone(rest: &mut &[u8]) -> Option<i64> {
    let (sign, mut after) = match rest.split_first() {
        Some((b'+', after)) => (1, after),
        Some((b'-', after)) => (-1, after),
        _ => return Some(0),
    };
    let mut offset = number(&mut after, 2, 2)? * 3600;
    for unit in [60, 1] {
        let Some(more) = after.strip_prefix(b":") else { break };
        after = more;
        offset += number(&mut after, 2, 2).filter(|n| *n < 60)? * unit;
    }
    *rest = after;
    Some(sign * offset * SECOND_MICROS)
}

/// A number of `least` to `most` digits, of which there are 18 at most.
pub(super) fn number(rest: &mut &[u8], least: usize, most: usize) -> Option<i64> {
    let len = rest.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, after) = rest.split_at_checked(len).filter(|_| len >= least)?;
    *rest = after;
    Some(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit.wrapping_sub(b'0'))))
}

fn put_timestamp(field: &[u8], zone: &[u8], out: &mut Vec<u8>) -> Step {
    match i64::from_be_bytes(exact_bytes(field)?) {
        i64::MIN => out.extend_from_slice(b"-infinity"),
        i64::MAX => out.extend_from_slice(b"infinity"),
        micros => {
            let (year, month, day) = civil(micros.div_euclid(DAY_MICROS) + i64::from(EPOCH_DAYS));
            put_date(year, month, day, out);
            out.push(b' ');
            put_time_of_day(micros.rem_euclid(DAY_MICROS), out)?;
            out.extend_from_slice(zone);
            put_era(year, out);
        }
    }
    Ok(())
}

fn put_date(year: i64, month: i64, day: i64, out: &mut Vec<u8>) {
    put_number(if year > 0 { year } else { 1 - year }, 4, out);
    out.push(b'-');
    put_number(month, 2, out);
    out.push(b'-');
    put_number(day, 2, out);
}

fn put_era(year: i64, out: &mut Vec<u8>) {
    if year <= 0 {
        out.extend_from_slice(b" BC");
    }
}

fn put_time_of_day(micros: i64, out: &mut Vec<u8>) -> Step {
    if !(0..=DAY_MICROS).contains(&micros) {
        return Err(Fault::malformed(format!("a time of {micros} microseconds since midnight")));
    }
    let minutes = micros / (60 * SECOND_MICROS);
    put_number(minutes / 60, 2, out);
    out.push(b':');
    put_number(minutes % 60, 2, out);
    out.push(b':');
    put_seconds(micros.unsigned_abs() % (60 * SECOND_MICROS.unsigned_abs()), 2, out);
    Ok(())
}

/// Seconds with at least `width` digits, and as many places behind a point as they need (`AppendSeconds`).
pub(super) fn put_seconds(micros: u64, width: usize, out: &mut Vec<u8>) {
    let second = SECOND_MICROS.unsigned_abs();
    out.extend_from_slice(format!("{:0width$}", micros / second).as_bytes());
    if !micros.is_multiple_of(second) {
        let places = format!(".{:06}", micros % second);
        out.extend_from_slice(places.trim_end_matches('0').as_bytes());
    }
}

fn put_number(number: i64, width: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{number:0width$}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::payload::Random;
    use crate::values::samples::{damaged, hex};
    use crate::values::temporal;

    type Print = fn(&[u8], &mut Vec<u8>) -> Step;

    fn printed(print: Print, field: &[u8]) -> String {
        let mut out = Vec::new();
        print(field, &mut out).expect("print");
        String::from_utf8(out).expect("ascii")
    }

    /// select encode(…_send(x), 'hex'), x::text on PostgreSQL 15, in UTC.
    const DATES: [(&str, &str); 12] = [
        ("ffda97a7", "4714-11-24 BC"),
        ("fff4dbf8", "0001-12-31 BC"),
        ("fff4dbf9", "0001-01-01"),
        ("ffffffff", "1999-12-31"),
        ("0000003b", "2000-02-29"),
        ("002c95d4", "10000-01-01"),
        ("7fda970c", "5874897-12-31"),
        ("7fffffff", "infinity"),
        ("80000000", "-infinity"),
        ("fff4d511", "0005-02-29 BC"),
        ("fff4dac6", "0001-02-29 BC"),
        ("02222a95", "99999-06-07"),
    ];
    const TIMES: [(&str, &str); 6] = [
        ("0000000000000000", "00:00:00"),
        ("000000141dd76000", "24:00:00"),
        ("000000141dd75fff", "23:59:59.999999"),
        ("0000000a8be4ca60", "12:34:56.7"),
        ("00000000dde878c4", "01:02:03.000004"),
        ("0000000446c40280", "05:06:07.12"),
    ];
    const TIMES_WITH_ZONE: [(&str, &str); 8] = [
        ("0000000a8be62608ffffb2a8", "12:34:56.789+05:30"),
        ("000000000000000000000000", "00:00:00+00"),
        ("000000141dd760000000e0ff", "24:00:00-15:59:59"),
        ("00000000dde878c000007080", "01:02:03-08"),
        ("000000141dd75fffffff1f3c", "23:59:59.999999+15:59"),
        ("00000005fb2f0840ffffffff", "07:08:09+00:00:01"),
        ("00000005fb2f084000000708", "07:08:09-00:30"),
        ("0000000861c46800ffff7360", "10:00:00+10"),
    ];
    const TIMESTAMPS: [(&str, &str); 12] = [
        ("fd0f7cc1411fa000", "4714-11-24 00:00:00 BC"),
        ("ff1fe2ffc59c5fff", "0001-12-31 23:59:59.999999 BC"),
        ("ff1fe2ffc59c6000", "0001-01-01 00:00:00"),
        ("0000000000000000", "2000-01-01 00:00:00"),
        ("ffffffffffffffff", "1999-12-31 23:59:59.999999"),
        ("7fffff5bb3b29fff", "294276-12-31 23:59:59.999999"),
        ("0380e70c6f2b99e0", "10000-01-01 01:02:03.5"),
        ("7fffffffffffffff", "infinity"),
        ("8000000000000000", "-infinity"),
        ("fffca2fec4c82001", "1970-01-01 00:00:00.000001"),
        ("7ffca2fec4c81fff", "294247-01-10 04:00:54.775807"),
        ("7ffca2fec4c82000", "294247-01-10 04:00:54.775808"),
    ];
    const TIMESTAMPS_WITH_ZONE: [(&str, &str); 5] = [
        ("fd0f7cc1411fa000", "4714-11-24 00:00:00+00 BC"),
        ("ff1fe2ffc59c5fff", "0001-12-31 23:59:59.999999+00 BC"),
        ("0002b0ead7f903b0", "2024-01-02 01:04:05.678+00"),
        ("7fffff5bb3b29fff", "294276-12-31 23:59:59.999999+00"),
        ("7fffffffffffffff", "infinity"),
    ];

    #[test]
    fn what_a_server_sent_is_printed_as_it_prints_it() {
        let tables: [(Print, &[(&str, &str)]); 5] = [
            (print_date, &DATES),
            (print_time, &TIMES),
            (print_timetz, &TIMES_WITH_ZONE),
            (print_timestamp, &TIMESTAMPS),
            (print_timestamptz, &TIMESTAMPS_WITH_ZONE),
        ];
        for (print, table) in tables {
            for (binary, text) in table {
                assert_eq!(printed(print, &hex(binary)), *text);
            }
        }
    }

    /// Both forms give the same, be it a value or a fault.
    fn same<T: std::fmt::Debug>(text: Step<T>, binary: Step<T>, what: &str) {
        assert_eq!(format!("{text:?}"), format!("{binary:?}"), "{what}");
    }

    #[test]
    fn both_forms_of_what_a_server_sent_give_the_same() {
        for (binary, text) in DATES {
            same(date_text(text.as_bytes()), temporal::date(&hex(binary)), text);
            same(midnight_text(text.as_bytes()), temporal::midnight(&hex(binary)), text);
        }
        for (binary, text) in TIMES {
            same(time_text(text.as_bytes()), temporal::time(&hex(binary)), text);
        }
        for (binary, text) in TIMESTAMPS.into_iter().chain(TIMESTAMPS_WITH_ZONE) {
            same(timestamp_text(text.as_bytes()), temporal::timestamp(&hex(binary)), text);
        }
    }

    #[test]
    fn timestamps_are_read_in_any_time_zone() {
        // select x::text on PostgreSQL 15, in Asia/Kolkata and America/St_Johns; then the same in UTC.
        for (local, utc) in [
            ("0100-06-01 05:53:28+05:53:28 BC", "0100-06-01 00:00:00 BC"),
            ("2024-01-02 06:34:05.678+05:30", "2024-01-02 01:04:05.678"),
            ("294277-01-01 05:29:59+05:30", "294276-12-31 23:59:59"),
            ("0100-05-31 20:29:08-03:30:52 BC", "0100-06-01 00:00:00 BC"),
            ("1799-12-31 20:29:08-03:30:52", "1800-01-01 00:00:00"),
            ("0001-01-01 04:00:00+05", "0001-12-31 23:00:00 BC"),
        ] {
            same(timestamp_text(local.as_bytes()), timestamp_text(utc.as_bytes()), local);
        }
    }

    #[test]
    fn what_is_printed_is_read_as_what_was_sent() {
        let mut random = Random(0xca1e_0da2);
        let mut bits = || (0..3).fold(0_u64, |bits, _| bits << 31 | random.below(1 << 31) as u64);
        let edges = [0, 1, 2, 3, i64::MAX, i64::MIN].into_iter().flat_map(|edge| (-2..=2).map(move |by| edge.wrapping_add(by)));
        let leap_days = [-4_i64, -1, 0, 1, 4, 100, 400, 1900, 2000, 2100].map(|year| days_since_1970(year, 2, 28));
        let leap_days = leap_days.into_iter().flat_map(|day| day..day + 3).map(|day| (day - i64::from(EPOCH_DAYS)) * DAY_MICROS);
        let samples: Vec<i64> = edges.chain(leap_days).chain((0..20_000).map(|_| bits().cast_signed() >> (bits() % 50))).collect();
        for micros in samples {
            let field = micros.to_be_bytes();
            let text = printed(print_timestamp, &field);
            same(timestamp_text(text.as_bytes()), temporal::timestamp(&field), &text);
            let text = printed(print_timestamptz, &field);
            same(timestamp_text(text.as_bytes()), temporal::timestamp(&field), &text);
            // The upper half of the sample, and days that are in the range of timestamps.
            for days in [(micros >> 32) as i32, micros as i32, (micros / DAY_MICROS) as i32] {
                let field = days.to_be_bytes();
                let text = printed(print_date, &field);
                same(date_text(text.as_bytes()), temporal::date(&field), &text);
                same(midnight_text(text.as_bytes()), temporal::midnight(&field), &text);
            }
            let field = micros.rem_euclid(DAY_MICROS + 1).to_be_bytes();
            let text = printed(print_time, &field);
            same(time_text(text.as_bytes()), temporal::time(&field), &text);
        }
    }

    #[test]
    fn what_is_neither_date_nor_time_is_malformed() {
        let dates = "|2024-02-30|2023-02-29|0000-01-01|999-01-01|2024-1-1|2024-13-01|2024-00-01|2024-01-00|2024-01-01 |\
             2024-01-01 AD|01/02/2024|-2024-01-01|Infinity|1234567890-01-01|2024-01-01 00:00:00";
        let times = "|1:02:03|24:00:01|25:00:00|00:60:00|00:00:60|00:00|00:00:00.|00:00:00.1234567|00:00:00 BC|\
             00:00:00+00|-1:00:00";
        let timestamps = "2024-01-01|2024-01-01T00:00:00|2024-01-01 24:00:00|2024-01-01 00:00:00 +00|2024-01-01 00:00:00+0|\
             2024-01-01 00:00:00+00:|2024-01-01 00:00:00+00:60|2024-01-01 00:00:00+00:00:00:00|\
             2024-01-01 00:00:00 BC+00|300000-01-01 00:00:00|999999999-01-01 00:00:00";
        let malformed = |found: Step<i64>, text: &str| {
            assert!(matches!(found.as_ref().map_err(|fault| &**fault), Err(Fault::Malformed(_))), "{text}: {found:?}");
        };
        dates.split('|').for_each(|text| malformed(date_text(text.as_bytes()).map(i64::from), text));
        times.split('|').for_each(|text| malformed(time_text(text.as_bytes()), text));
        timestamps.split('|').for_each(|text| malformed(timestamp_text(text.as_bytes()), text));
        let mut out = Vec::new();
        assert!(print_date(&[0; 3], &mut out).is_err() && print_timestamp(&[0; 9], &mut out).is_err());
        assert!(print_time(&(DAY_MICROS + 1).to_be_bytes(), &mut out).is_err() && print_timetz(&[0; 11], &mut out).is_err());
        assert!(print_timetz(&hex("00000000000000000000e100"), &mut out).is_err());
        assert!(print_timetz(&hex("000000000000000080000000"), &mut out).is_err());
    }

    #[test]
    fn damage_never_panics() {
        let texts = DATES.iter().chain(&TIMES).chain(&TIMESTAMPS).chain(&TIMESTAMPS_WITH_ZONE);
        for sample in texts.map(|(_, text)| *text).chain(["0100-06-01 05:53:28+05:53:28 BC"]) {
            damaged(sample.as_bytes(), |field| {
                let _ = (date_text(field), midnight_text(field), time_text(field), timestamp_text(field));
            });
        }
        for (sample, _) in DATES.iter().chain(&TIMES_WITH_ZONE).chain(&TIMESTAMPS) {
            damaged(&hex(sample), |field| {
                let mut out = Vec::new();
                let _ = (print_date(field, &mut out), print_time(field, &mut out), print_timetz(field, &mut out));
                let _ = (print_timestamp(field, &mut out), print_timestamptz(field, &mut out));
            });
        }
    }
}
