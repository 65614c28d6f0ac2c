//! Intervals: months, days and microseconds, which PostgreSQL keeps apart since their lengths differ.
//!
//! The forms are those of `interval_send` and of `interval_out` in the style `postgres`. What is printed is what `EncodeInterval`
//! (PostgreSQL source, `utils/adt/datetime.c`) prints. PostgreSQL 17 gives the extremes of all three fields the meaning of
//! infinity; older servers never get there by themselves, so that the meaning is the same for all.

use super::temporal_text::{number, put_seconds, seconds};
use super::{Fault, Nearest, Parts, Step, not_a, nothing_left, take, take_i32};

const MINUTE_MICROS: i64 = 60_000_000;
const HOUR_MICROS: i64 = 3_600_000_000;

/// One interval. The signs of its fields are independent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) months: i32,
    pub(crate) days: i32,
    pub(crate) micros: i64,
}

impl Interval {
    const INFINITE: Self = Self { months: i32::MAX, days: i32::MAX, micros: i64::MAX };
    const NEGATIVE_INFINITE: Self = Self { months: i32::MIN, days: i32::MIN, micros: i64::MIN };

    /// From the binary form: microseconds, days, months.
    pub(crate) fn parse(field: &[u8]) -> Step<Self> {
        const WHAT: &str = "an interval";
        let mut rest = field;
        let micros = i64::from_be_bytes(take(&mut rest, WHAT)?);
        let (days, months) = (take_i32(&mut rest, WHAT)?, take_i32(&mut rest, WHAT)?);
        nothing_left(rest, WHAT)?;
        Ok(Self { months, days, micros })
    }

    /// From the text form in the style `postgres`: `1 year 2 mons -3 days +04:05:06.789`.
    pub(crate) fn from_text(field: &[u8]) -> Step<Self> {
        match field {
            b"infinity" => Ok(Self::INFINITE),
            b"-infinity" => Ok(Self::NEGATIVE_INFINITE),
            _ => read(field).ok_or_else(|| not_a("an interval", field)),
        }
    }

    /// Appends the interval in the style `iso_8601`; `infinity` and `-infinity` as they are.
    pub(crate) fn print_iso(&self, out: &mut Vec<u8>) {
        if let Some(infinite) = self.infinite() {
            return out.extend_from_slice(infinite.as_bytes());
        }
        if (self.months, self.days, self.micros) == (0, 0, 0) {
            return out.extend_from_slice(b"PT0S");
        }
        out.push(b'P');
        put_unit(i64::from(self.months / 12), 'Y', out);
        put_unit(i64::from(self.months % 12), 'M', out);
        put_unit(i64::from(self.days), 'D', out);
        if self.micros != 0 {
            out.push(b'T');
        }
        put_unit(self.micros / HOUR_MICROS, 'H', out);
        put_unit(self.micros % HOUR_MICROS / MINUTE_MICROS, 'M', out);
        let seconds = self.micros % MINUTE_MICROS;
        if seconds != 0 {
            out.extend_from_slice(if seconds < 0 { b"-" } else { b"" });
            put_seconds(seconds.unsigned_abs(), 1, out);
            out.push(b'S');
        }
    }

    /// Appends the interval in the style `postgres`; `infinity` and `-infinity` as they are.
    pub(crate) fn print_postgres(&self, out: &mut Vec<u8>) {
        if let Some(infinite) = self.infinite() {
            return out.extend_from_slice(infinite.as_bytes());
        }
        let (mut first, mut after_negative) = (true, false);
        for (value, unit) in [(self.months / 12, "year"), (self.months % 12, "mon"), (self.days, "day")] {
            if value != 0 {
                let (space, plural) = (if first { "" } else { " " }, if value == 1 { "" } else { "s" });
                let plus = if after_negative && value > 0 { "+" } else { "" };
                out.extend_from_slice(format!("{space}{plus}{value} {unit}{plural}").as_bytes());
                (first, after_negative) = (false, value < 0);
            }
        }
        if first || self.micros != 0 {
            let sign = if self.micros < 0 {
                "-"
            } else if after_negative {
                "+"
            } else {
                ""
            };
            let minutes = self.micros.unsigned_abs() / MINUTE_MICROS.unsigned_abs();
            let space = if first { "" } else { " " };
            out.extend_from_slice(format!("{space}{sign}{:02}:{:02}:", minutes / 60, minutes % 60).as_bytes());
            put_seconds(self.micros.unsigned_abs() % MINUTE_MICROS.unsigned_abs(), 2, out);
        }
    }

    fn infinite(&self) -> Option<&'static str> {
        match *self {
            Self::INFINITE => Some("infinity"),
            Self::NEGATIVE_INFINITE => Some("-infinity"),
            _ => None,
        }
    }

    /// An error for an infinite interval.
    fn finite(self) -> Step<Self> {
        let nearest = match self {
            Self::INFINITE => Nearest::Highest,
            Self::NEGATIVE_INFINITE => Nearest::Lowest,
            _ => return Ok(self),
        };
        Err(Fault::special(self.infinite().unwrap_or_default(), "not an interval that other systems know", nearest))
    }
}

/// The fields of an interval in binary: months (`int4`), days (`int4`), microseconds (`int8`).
pub(crate) fn interval_parts_binary(field: &[u8], parts: &mut Parts<'_>) -> Step {
    let interval = Interval::parse(field)?.finite()?;
    parts(Some(&interval.months.to_be_bytes()))?;
    parts(Some(&interval.days.to_be_bytes()))?;
    parts(Some(&interval.micros.to_be_bytes()))
}

/// The fields of an interval as text: months, days, microseconds.
pub(crate) fn interval_parts_text(field: &[u8], parts: &mut Parts<'_>) -> Step {
    let interval = Interval::from_text(field)?.finite()?;
    for number in [i64::from(interval.months), i64::from(interval.days), interval.micros] {
        parts(Some(number.to_string().as_bytes()))?;
    }
    Ok(())
}

fn put_unit(value: i64, unit: char, out: &mut Vec<u8>) {
    if value != 0 {
        out.extend_from_slice(format!("{value}{unit}").as_bytes());
    }
}

/// Numbers with their units, the largest first, each at most once, then the time.
fn read(field: &[u8]) -> Option<Interval> {
    let mut words = std::str::from_utf8(field).ok()?.split(' ').peekable();
    words.peek()?;
    let mut counts = [0_i64; 3];
    for (count, units) in counts.iter_mut().zip([["year", "years"], ["mon", "mons"], ["day", "days"]]) {
        // The unit says whether the number is this one's.
        let mut ahead = words.clone();
        if let (Some(number), Some(unit)) = (ahead.next(), ahead.next())
            && units.contains(&unit)
        {
            *count = i64::from(number.parse::<i32>().ok()?);
            words = ahead;
        }
    }
    let [years, months, days] = counts;
    let micros = words.next().map_or(Some(0), time)?;
    let months = i32::try_from(years * 12 + months).ok()?;
    words.next().is_none().then_some(Interval { months, days: i32::try_from(days).ok()?, micros })
}

/// `HH:MM:SS` with a sign, as many hours as there are, and up to six places behind a point.
fn time(word: &str) -> Option<i64> {
    let negative = word.strip_prefix('-');
    let mut rest = negative.or_else(|| word.strip_prefix('+')).unwrap_or(word).as_bytes();
    // 64 bits of microseconds are 2,562,047,788 hours.
    let hours = number(&mut rest, 2, 10)?;
    rest = rest.strip_prefix(b":")?;
    let minutes = number(&mut rest, 2, 2).filter(|minutes| *minutes < 60)?;
    rest = rest.strip_prefix(b":")?;
    let micros = i128::from(hours) * i128::from(HOUR_MICROS) + i128::from(minutes * MINUTE_MICROS + seconds(&mut rest)?);
    let micros = i64::try_from(if negative.is_some() { -micros } else { micros }).ok()?;
    rest.is_empty().then_some(micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::payload::Random;
    use crate::values::samples::{damaged, hex, shown};

    /// select encode(interval_send(x), 'hex'), x::text in the styles postgres and iso_8601 on PostgreSQL 15.
    const INTERVALS: [(&str, &str, &str); 36] = [
        ("00000000000000000000000000000000", "00:00:00", "PT0S"),
        ("000000036c97ca88fffffffd0000000e", "1 year 2 mons -3 days +04:05:06.789", "P1Y2M-3DT4H5M6.789S"),
        ("fffffffc9368357800000003fffffff2", "-1 years -2 mons +3 days -04:05:06.789", "P-1Y-2M3DT-4H-5M-6.789S"),
        ("00000053d1ac10000000000000000000", "100:00:00", "PT100H"),
        ("fffe6bc846cc3cf70000000000000000", "-123456:07:08.000009", "PT-123456H-7M-8.000009S"),
        ("00000000000000000000000000000001", "1 mon", "P1M"),
        ("000000000000000000000000ffffffff", "-1 mons", "P-1M"),
        ("00000000000000000000000100000000", "1 day", "P1D"),
        ("00000000000f4240ffffffff00000000", "-1 days +00:00:01", "P-1DT1S"),
        ("fffffffffff0bdc0ffffffff00000000", "-1 days -00:00:01", "P-1DT-1S"),
        ("0000000000000000ffffffff0000000c", "1 year -1 days", "P1Y-1D"),
        ("000000000000000000000001fffffff4", "-1 years +1 day", "P-1Y1D"),
        ("00000000000f424000000001ffffffff", "-1 mons +1 day 00:00:01", "P-1M1DT1S"),
        ("000000000007a1200000000000000000", "00:00:00.5", "PT0.5S"),
        ("fffffffffff85ee00000000000000000", "-00:00:00.5", "PT-0.5S"),
        ("ffffffffffffffff0000000000000000", "-00:00:00.000001", "PT-0.000001S"),
        ("00000000000000000000000000000018", "2 years", "P2Y"),
        ("0000000000000000000000000000000e", "1 year 2 mons", "P1Y2M"),
        ("000000000000000000000000fffffff2", "-1 years -2 mons", "P-1Y-2M"),
        ("00000000038444c00000000000000000", "00:00:59", "PT59S"),
        ("00000000039387000000000000000000", "00:01:00", "PT1M"),
        ("fffffffebe228a000000000000000000", "-01:30:00", "PT-1H-30M"),
        ("0000000000000000000000007fffffff", "178956970 years 7 mons", "P178956970Y7M"),
        ("00000000000000000000000080000000", "-178956970 years -8 mons", "P-178956970Y-8M"),
        ("00000000000000007fffffff00000000", "2147483647 days", "P2147483647D"),
        ("7fffffffffffffff0000000000000000", "2562047788:00:54.775807", "PT2562047788H54.775807S"),
        ("80000000000000010000000000000000", "-2562047788:00:54.775807", "PT-2562047788H-54.775807S"),
        ("00000000000f42400000000000000001", "1 mon 00:00:01", "P1MT1S"),
        ("0000000000000000ffffffffffffffff", "-1 mons -1 days", "P-1M-1D"),
        ("0000001e2cc310000000000000000000", "36:00:00", "PT36H"),
        ("00000000000f4240000000000000000c", "1 year 00:00:01", "P1YT1S"),
        ("000000036c8bc080fffffffd00000000", "-3 days +04:05:06", "P-3DT4H5M6S"),
        ("00000000000186a0fffffffbfffffff4", "-1 years -5 days +00:00:00.1", "P-1Y-5DT0.1S"),
        ("0000000000000000fffffffb0000000a", "10 mons -5 days", "P10M-5D"),
        ("000000141dd760000000000000000000", "24:00:00", "PT24H"),
        ("ffffffebe2304120000000010000000c", "1 year 1 day -23:59:59.5", "P1Y1DT-23H-59M-59.5S"),
    ];

    fn printed(interval: Interval) -> (String, String) {
        let (mut postgres, mut iso) = (Vec::new(), Vec::new());
        interval.print_postgres(&mut postgres);
        interval.print_iso(&mut iso);
        (String::from_utf8(postgres).expect("ascii"), String::from_utf8(iso).expect("ascii"))
    }

    #[test]
    fn intervals_are_read_and_printed_as_the_server_does() {
        for (binary, postgres, iso) in INTERVALS {
            let interval = Interval::parse(&hex(binary)).expect("an interval");
            assert_eq!(Interval::from_text(postgres.as_bytes()).expect("an interval"), interval, "{postgres}");
            assert_eq!(printed(interval), (postgres.to_owned(), iso.to_owned()));
        }
    }

    #[test]
    fn what_is_printed_is_read() {
        let mut random = Random(0x1d_1e);
        let mut bits = || ((0..3).fold(0_u64, |bits, _| bits << 31 | random.below(1 << 31) as u64)).cast_signed();
        for _ in 0..20_000 {
            let shift = bits() & 63;
            let interval = Interval {
                months: (bits() >> 32 >> (shift & 31)) as i32,
                days: (bits() >> 32 >> (shift & 31)) as i32,
                micros: bits() >> shift,
            };
            let (text, _) = printed(interval);
            assert_eq!(Interval::from_text(text.as_bytes()).expect("an interval"), interval, "{text}");
        }
        let least = Interval { months: i32::MIN, days: i32::MIN + 1, micros: i64::MIN };
        assert_eq!(Interval::from_text(printed(least).0.as_bytes()).expect("an interval"), least);
    }

    #[test]
    fn infinite_intervals_have_no_parts() {
        for (binary, text, nearest) in [
            ("7fffffffffffffff7fffffff7fffffff", "infinity", Nearest::Highest),
            ("80000000000000008000000080000000", "-infinity", Nearest::Lowest),
        ] {
            let interval = Interval::parse(&hex(binary)).expect("an interval");
            assert_eq!(Interval::from_text(text.as_bytes()).expect("an interval"), interval);
            assert_eq!(printed(interval), (text.to_owned(), text.to_owned()));
            for found in
                [shown(|parts| interval_parts_binary(&hex(binary), parts)), shown(|parts| interval_parts_text(text.as_bytes(), parts))]
            {
                match found.map_err(|fault| *fault) {
                    Err(Fault::Special { value, nearest: found, .. }) => assert_eq!((value.as_str(), found), (text, nearest)),
                    found => panic!("{found:?}"),
                }
            }
        }
    }

    #[test]
    fn parts_are_months_days_and_microseconds() {
        let (binary, text) = ("000000036c97ca88fffffffd0000000e", "1 year 2 mons -3 days +04:05:06.789");
        assert_eq!(shown(|parts| interval_parts_binary(&hex(binary), parts)).expect("parts").0, "0000000e|fffffffd|000000036c97ca88");
        assert_eq!(shown(|parts| interval_parts_text(text.as_bytes(), parts)).expect("parts").0, "14|-3|14706789000");
    }

    #[test]
    fn what_is_not_an_interval_is_malformed() {
        let texts = "| |1|1 year |1 years 1 years|1 day 1 year|1 week|one day|1:00:00|00:60:00|00:00:60|00:00|00:00:00.|00:00:00.0000001|\
             00:00:00 1 day|P1D|1 day  00:00:00|--1 days|178956971 years|2147483648 days|2562047788:00:54.775808|99999999999:00:00|\
             --01:00:00|+-01:00:00";
        for text in texts.split('|') {
            let found = Interval::from_text(text.as_bytes()).map_err(|fault| *fault);
            assert!(matches!(found, Err(Fault::Malformed(_))), "{text}: {found:?}");
        }
        assert!(Interval::parse(&[0; 15]).is_err() && Interval::parse(&[0; 17]).is_err());
    }

    #[test]
    fn damage_never_panics() {
        for (binary, text, _) in INTERVALS {
            damaged(text.as_bytes(), |field| drop(shown(|parts| interval_parts_text(field, parts))));
            damaged(&hex(binary), |field| {
                let _ = shown(|parts| interval_parts_binary(field, parts));
                let _ = Interval::parse(field).map(printed);
            });
        }
    }
}
