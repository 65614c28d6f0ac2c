//! The proleptic Gregorian calendar, with years counted through 0 (1 BC) and without an end.
//!
//! PostgreSQL's dates reach further than the calendars of libraries do. Good for any day of 32 bits and any year of nine digits.

/// Days of an era, after which the calendar repeats, and from its start, 0000-03-01, to 1970-01-01.
const ERA_DAYS: i64 = 146_097;
const ERA_START: i64 = 719_468;

/// The day of a date; for a day that its month does not have, another day. Years start in March here, so that the leap day is
/// the last of its year.
pub(super) fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year - ERA_START
}

/// Year, month and day of a day since 1970-01-01.
pub(super) fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + ERA_START;
    let (era, of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_each_others_inverse() {
        for (days, date) in
            [(0, (1970, 1, 1)), (-719_468, (0, 3, 1)), (-719_469, (0, 2, 29)), (11_016, (2000, 2, 29)), (-25_509, (1900, 2, 28))]
        {
            assert_eq!(civil(days), date);
        }
        let all = (-1_000_000..1_000_000).step_by(7).chain((i64::from(i32::MIN)..i64::from(i32::MAX)).step_by(99_991));
        for days in all {
            let (year, month, day) = civil(days);
            assert_eq!(days_since_1970(year, month, day), days, "{year}-{month}-{day}");
        }
    }
}
