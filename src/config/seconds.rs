//! Durations as people write them: `30`, `"30s"`, `"5m"`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::Value;
use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

/// A time in seconds (`30`, `0.5`) or with a unit (`"500ms"`, `"30s"`, `"5m"`, `"1h"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        parse_duration(&text, Duration::from_secs(1))
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("found no duration, accepted: {SECONDS}")))
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_duration(text, Duration::from_secs(1)).map(Self).ok_or_else(|| format!("expected {SECONDS}"))
    }
}

const SECONDS: &str = "seconds, or a number with a unit such as \"500ms\", \"30s\", \"5m\"";

impl JsonSchema for Seconds {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Seconds".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["number", "string"], "x-accepted": SECONDS})
    }
}

/// `30`, `1.5`, `30s`, `5m`, `1h`, `1d`, `200ms`; a bare number counts `unit`s. At most 1000 days.
pub(super) fn parse_duration(text: &str, unit: Duration) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let factor = match text[digits..].trim() {
        "" => unit.as_secs_f64(),
        "us" => 0.000_001,
        "ms" => 0.001,
        "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    let seconds = text[..digits].parse::<f64>().ok()? * factor;
    // Rounded to whole microseconds, so that 0.1 s is what it says.
    (seconds <= 86_400_000.0).then(|| Duration::from_micros((seconds * 1e6).round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_duration(text, Duration::from_secs(1)), expected.map(Duration::from_millis), "{text}");
        };
        check("30", Some(30_000));
        check("0.1", Some(100));
        check(" 30s ", Some(30_000));
        check("5 min", Some(300_000));
        check("5m", Some(300_000));
        check("500ms", Some(500));
        check("1h", Some(3_600_000));
        check("0", Some(0));
        check("", None);
        check("s", None);
        check("-1", None);
        check("1.2.3s", None);
        check("5 weeks", None);
        check("99999999999999999999", None);
    }
}
