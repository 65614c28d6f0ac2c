//! Dates, times and intervals over the full range of PostgreSQL.

use super::Dice;

/// 4714-11-24 BC and 5874897-12-31 in days since 1970.
pub const DAYS: (i128, i128) = (-2_440_588, 2_145_042_905);
const DAY: i128 = 86_400_000_000;
/// 4714-11-24 BC and the last microsecond that 64 bits hold, since 1970.
pub const MICROSECONDS: (i128, i128) = (DAYS.0 * DAY, i64::MAX as i128);

/// Date without era, and the era.
fn civil(days: i128) -> (String, &'static str) {
    // Days since 0000-03-01 in the proleptic Gregorian calendar, in eras of 400 years.
    let z = days + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    if year > 0 { (format!("{year:04}-{month:02}-{day:02}"), "") } else { (format!("{:04}-{month:02}-{day:02}", 1 - year), " BC") }
}

/// A time of day from microseconds.
fn clock(us: i128) -> String {
    let seconds = us / 1_000_000;
    format!("{:02}:{:02}:{:02}.{:06}", seconds / 3600, seconds / 60 % 60, seconds % 60, us % 1_000_000)
}

/// A date from days since 1970.
pub fn date_of(days: i128) -> String {
    let (date, era) = civil(days);
    date + era
}

/// A timestamp from microseconds since 1970.
pub fn timestamp_of(us: i128, zone: &str) -> String {
    let (date, era) = civil(us.div_euclid(DAY));
    format!("{date} {}{zone}{era}", clock(us.rem_euclid(DAY)))
}

fn days(d: &mut Dice) -> i128 {
    // The ends, year 1 and the year before, 9999 and 10000, 1970 and 2000.
    let edges = [DAYS.0, DAYS.1, -719_162, -719_163, 2_932_896, 2_932_897, -1, 0, 1, 10_956, 10_957];
    match d.below(4) {
        0 => *d.pick(&edges),
        1 => d.between(DAYS.0, DAYS.1),
        2 => d.between(DAYS.0, 4_000_000),
        _ => d.between(-40_000, 40_000),
    }
}

/// Microseconds since 1970.
pub fn microseconds(d: &mut Dice) -> i128 {
    let fraction = *d.pick(&[0, 1, 999_999, 500_000, 123_456]);
    let us = match d.below(4) {
        0 => return *d.pick(&[MICROSECONDS.0, MICROSECONDS.1, -1, 0, 1, -62_135_596_800_000_000, 253_402_300_799_999_999]),
        1 => d.between(MICROSECONDS.0, MICROSECONDS.1),
        _ => days(d) * DAY + d.between(0, 86_399) * 1_000_000 + fraction,
    };
    us.clamp(MICROSECONDS.0, MICROSECONDS.1)
}

/// date
pub fn date(d: &mut Dice) -> String {
    date_of(days(d))
}

/// date, or what is none
pub fn date_or_infinite(d: &mut Dice) -> String {
    d.edge(&["infinity", "-infinity"], date)
}

/// time
pub fn time(d: &mut Dice) -> String {
    d.edge(&["00:00", "23:59:59.999999", "12:00", "00:00:00.000001"], |d| clock(d.between(0, DAY - 1)))
}

/// time, or its end
pub fn time_or_24(d: &mut Dice) -> String {
    d.edge(&["24:00", "23:59:60"], time)
}

/// timetz
pub fn timetz(d: &mut Dice) -> String {
    let edges = ["24:00+00", "00:00-15:59:59", "23:59:59.999999+15:59:59", "00:00Z", "12:00:00.1+05:30", "12:00-00:30", "12:00+00:00:01"];
    d.edge(&edges, |d| {
        format!("{}{}{}", time(d), *d.pick(&["+", "-"]), clock(d.between(0, 57_599) * 1_000_000).trim_end_matches(".000000"))
    })
}

/// timestamp
pub fn timestamp(d: &mut Dice) -> String {
    timestamp_of(microseconds(d), "")
}

/// timestamptz
pub fn timestamptz(d: &mut Dice) -> String {
    let zone = *d.pick(&["+00", "+05:30", "-09:30", "Z"]);
    // Away from the ends, where a zone would lead beyond them.
    let us = microseconds(d).clamp(MICROSECONDS.0 + DAY, MICROSECONDS.1 - DAY);
    if zone == "Z" { timestamp_of(microseconds(d), "+00") } else { timestamp_of(us, zone) }
}

const NO_TIME: [&str; 6] = [
    "infinity",
    "-infinity",
    "294247-01-10 04:00:54.775808+00",
    "294276-12-31 23:59:59.999999+00",
    "294250-06-01 12:00:00+00",
    "294247-01-10 04:00:54.775807+00",
];

/// timestamp or timestamptz, or what 64 bits of microseconds since 1970 do not hold
pub fn timestamp_or_none(d: &mut Dice) -> String {
    d.edge(&NO_TIME, |d| timestamp_of(microseconds(d), "+00"))
}

/// interval
pub fn interval(d: &mut Dice) -> String {
    let edges = [
        "2147483647 mons",
        "-2147483648 mons",
        "2147483647 days",
        "-2147483648 days",
        "2562047788:00:54.775807",
        "-9223372036854775808 us",
        "0",
        "-1 mons +1 day -00:00:00.000001",
        "1 mons -1 day 00:00:01",
        "-13 mons",
        "-00:00:00.5",
        "1 day -25:00:00",
    ];
    d.edge(&edges, |d| {
        let us = d.integer(-900_000_000_000_000, 900_000_000_000_000);
        let (months, days) = (d.integer(-100_000, 100_000), d.integer(-1_000_000, 1_000_000));
        let mut parts = Vec::new();
        for (part, there) in [(format!("{months} mons"), d.one_in(2)), (format!("{days} days"), d.one_in(2))] {
            parts.extend(there.then_some(part));
        }
        let sign = if us < 0 { "-" } else { "" };
        let seconds = us.abs() / 1_000_000;
        parts.push(format!("{sign}{}:{:02}:{:02}.{:06}", seconds / 3600, seconds / 60 % 60, seconds % 60, us.abs() % 1_000_000));
        parts.join(" ")
    })
}
