//! Positions in the write-ahead log and the server's clock, as numbers with a meaning.
//!
//! Promises: a position is written as PostgreSQL 10 to 18 writes it and read as any version writes it. Knows nothing about what lies there.

use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Microseconds from 1970-01-01 to 2000-01-01.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A log sequence number: a byte position in the write-ahead log (manual, "pg_lsn Type").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(into = "String", try_from = "String")]
#[schemars(with = "String")]
pub struct Lsn(pub u64);

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

impl TryFrom<String> for Lsn {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl fmt::Display for Lsn {
    /// `16/B374D848`: two halves in hexadecimal, without padding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    /// Takes one to eight hexadecimal digits on either side of the slash, as the server's own input does. The error is one of
    /// configuration; where the text comes from elsewhere, the caller says so with [`Error::for_kind`].
    fn from_str(text: &str) -> Result<Self> {
        let halves = text.split_once('/').and_then(|(high, low)| Some((half(high)?, half(low)?)));
        let (high, low) = halves.ok_or_else(|| {
            let found = text.chars().take(40).collect::<String>();
            Error::config(format!("`{}` is not a position in the write-ahead log", found.escape_debug()))
                .hint("a position is two hexadecimal numbers of up to eight digits with a slash between them, such as 16/B374D848")
        })?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

/// `from_str_radix` alone would also take a sign.
fn half(digits: &str) -> Option<u32> {
    let valid = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// A moment by the server's clock: microseconds since 2000-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

impl PgTime {
    /// Microseconds since 1970-01-01 00:00 UTC; the last 30 of the 292 000 years that 64 bits hold become the end.
    pub fn unix_micros(self) -> i64 {
        self.0.saturating_add(EPOCH_MICROS)
    }

    /// The other way; the first 30 years become the beginning.
    pub fn from_unix_micros(micros: i64) -> Self {
        Self(micros.saturating_sub(EPOCH_MICROS))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn positions_are_written_as_the_server_writes_them() {
        for (number, text) in [(0, "0/0"), (0x16_B374_D848, "16/B374D848"), (0x1_0000_0000, "1/0"), (u64::MAX, "FFFFFFFF/FFFFFFFF")] {
            assert_eq!(Lsn(number).to_string(), text);
            assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(number));
        }
        assert_eq!("0/0155A3f0".parse::<Lsn>().unwrap(), Lsn(0x155_A3F0));
        assert_eq!("00000001/00000002".parse::<Lsn>().unwrap(), Lsn(0x1_0000_0002));
        assert!(Lsn(0x0F_FFFF_FFFF) < "10/0".parse().unwrap());
    }

    #[test]
    fn what_is_no_position_is_named() {
        for text in ["", "/", "0", "0/", "/0", "0/0/0", "+1/0", "0/-1", " 0/0", "0/0 ", "0x1/0", "123456789/0", "0/123456789", "g/0", "é/0"]
        {
            let error = text.parse::<Lsn>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
            assert!(error.advice().is_some());
        }
        assert!("\u{1b}[2J".parse::<Lsn>().unwrap_err().to_string().contains("u{1b}"));
    }

    #[test]
    fn time_moves_to_the_unix_epoch() {
        assert_eq!(PgTime(0).unix_micros(), 946_684_800_000_000);
        assert_eq!(PgTime::from_unix_micros(0).unix_micros(), 0);
        assert_eq!(PgTime(i64::MAX).unix_micros(), i64::MAX);
        assert_eq!(PgTime::from_unix_micros(i64::MIN), PgTime(i64::MIN));
    }
}
