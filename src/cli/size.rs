//! Sizes as people write them.

use std::str::FromStr;

/// A number of bytes: `536870912`, `512MiB`, `512MB`, `1.5G`. Units with `i`, and single letters, are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let scale: f64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kib" => 1024.0,
            "kb" => 1e3,
            "m" | "mib" => 1024f64.powi(2),
            "mb" => 1e6,
            "g" | "gib" => 1024f64.powi(3),
            "gb" => 1e9,
            "t" | "tib" => 1024f64.powi(4),
            "tb" => 1e12,
            other => return Err(format!("unknown unit {other:?}; accepted are B, KiB, MiB, GiB, TiB, kB, MB, GB, TB")),
        };
        let number: f64 = number.parse().map_err(|_| "expected a number and a unit, for example 512MiB".to_owned())?;
        let bytes = number * scale;
        if !(1.0..=9e18).contains(&bytes) {
            return Err("expected a size between 1 byte and 8 EiB".to_owned());
        }
        Ok(Self(bytes as u64))
    }
}

/// Bytes with a unit that keeps three digits: `999 B`, `1.23 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{bytes} B"),
        (_, value) if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
        (_, value) if value < 100.0 => format!("{value:.1} {}", UNITS[unit]),
        (_, value) => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A count with thousands separated: `6,001,215`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(text.parse().ok(), expected.map(ByteSize), "{text}");
        check("1", Some(1));
        check("512MiB", Some(512 << 20));
        check("1.5g", Some(3 << 29));
        check("2 GB", Some(2_000_000_000));
        check("", None);
        check("0", None);
        check("-1", None);
        check("12 parsecs", None);
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1 << 30), "1.00 GiB");
        assert_eq!(count(6001215), "6,001,215");
        assert_eq!(count(12), "12");
    }
}
