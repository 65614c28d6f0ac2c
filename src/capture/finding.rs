//! What stands in the way of capturing changes, or will: one thing found, what it means for the data, what mends it.
//!
//! Promises: each kind of finding has a code that stays the same between versions, and whoever reads the message at night learns
//! what is so, whether rows are at stake, and which statements to run where. Does not know who looked, nor at what.

use crate::error::{Error, Kind};
use std::fmt;

/// How a user loads tables again from the beginning; the end of every remedy for lost changes.
pub const RELOAD: &str = "load the cdc streams again in full: clear-destination for them, and sync";

/// Statements that a message shows; the rest is counted.
const STATEMENTS_SHOWN: usize = 10;

/// Whether a run may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// The run goes on; the user should know.
    Warn,
    /// A run would fail, harm the source or leave the destination wrong.
    Stop,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable word for programs and searches, such as `slot_missing`.
    pub code: &'static str,
    /// Whether a run may go on.
    pub weight: Weight,
    /// Who must act.
    pub kind: Kind,
    /// Whether it may pass by itself.
    pub passing: bool,
    /// What is so, and what that means for the data; lower case, without a full stop.
    pub message: String,
    /// What to do, in words; may be empty where the statements say all.
    pub remedy: String,
    /// Statements that mend it, in this order, each with its semicolon. Run on the source.
    pub sql: Vec<String>,
    /// What to do after the statements, in words; may be empty.
    pub then: String,
}

impl Finding {
    /// A run cannot go on; the source has to change.
    pub fn stop(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            weight: Weight::Stop,
            kind: Kind::Source,
            passing: false,
            message: message.into(),
            remedy: String::new(),
            sql: Vec::new(),
            then: String::new(),
        }
    }

    /// A run goes on.
    pub fn warn(code: &'static str, message: impl Into<String>) -> Self {
        Self { weight: Weight::Warn, ..Self::stop(code, message) }
    }

    /// Says what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Adds a statement, given without its semicolon.
    #[must_use]
    pub fn run(mut self, sql: impl Into<String>) -> Self {
        self.sql.push(sql.into() + ";");
        self
    }

    /// Adds statements, given without semicolons.
    #[must_use]
    pub fn run_all(mut self, sql: impl IntoIterator<Item = String>) -> Self {
        self.sql.extend(sql.into_iter().map(|sql| sql + ";"));
        self
    }

    /// Says what to do after the statements.
    #[must_use]
    pub fn then(mut self, then: impl Into<String>) -> Self {
        self.then = then.into();
        self
    }

    /// Who must act, if it is not the source's administrator.
    #[must_use]
    pub fn of(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// It may pass by itself.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.passing = true;
        self
    }

    /// What to do, with the statements: words first, or the statements alone.
    pub fn advice(&self) -> Option<String> {
        let mut sql = self.sql.iter().take(STATEMENTS_SHOWN).map(String::as_str).collect::<Vec<_>>().join(" ");
        if let Some(more) = self.sql.len().checked_sub(STATEMENTS_SHOWN).filter(|more| *more > 0) {
            sql += &format!(" (and {more} more like these)");
        }
        let advice = match (self.remedy.as_str(), sql.as_str()) {
            ("", "") => String::new(),
            ("", sql) => format!("run {sql}"),
            (remedy, "") => remedy.to_owned(),
            (remedy, sql) => format!("{remedy}: {sql}"),
        };
        match (advice.as_str(), self.then.as_str()) {
            ("", "") => None,
            (advice, "") => Some(advice.to_owned()),
            ("", then) => Some(then.to_owned()),
            (advice, then) => Some(format!("{advice}{} then {then}", if self.sql.is_empty() { "," } else { "" })),
        }
    }
}

impl fmt::Display for Finding {
    /// The message and the code: `… [slot_missing]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}

impl From<Finding> for Error {
    fn from(finding: Finding) -> Self {
        let error = Self::new(finding.kind, finding.to_string());
        let error = if finding.passing { error.transient() } else { error };
        match finding.advice() {
            Some(advice) => error.hint(advice),
            None => error,
        }
    }
}

/// A number of bytes as people say it: `512 bytes`, `3.2 MB`, in powers of 1024 as the server counts.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let mut tenths = u128::from(count) * 10;
    let mut said = format!("{count} bytes");
    for unit in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        said = format!("{}.{} {unit}", tenths / 10, tenths % 10);
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Retry;

    #[test]
    fn a_finding_becomes_an_error_that_says_everything() {
        let finding = Finding::stop("slot_missing", "there is none").remedy("create it").run("SELECT 1").run("SELECT 2").then("wait");
        let error = Error::from(finding.clone());
        assert_eq!(error.to_string(), "there is none [slot_missing]");
        assert_eq!((error.kind(), error.retry()), (Kind::Source, Retry::Never));
        assert_eq!(error.advice(), Some("create it: SELECT 1; SELECT 2; then wait"));
        let error = Error::from(finding.of(Kind::State).passing());
        assert_eq!((error.kind(), error.retry()), (Kind::State, Retry::Again));
    }

    #[test]
    fn advice_is_as_long_as_it_can_be_read() {
        assert_eq!(Finding::warn("x", "y").advice(), None);
        assert_eq!(Finding::warn("x", "y").run("A").advice().as_deref(), Some("run A;"));
        assert_eq!(Finding::warn("x", "y").remedy("wait").advice().as_deref(), Some("wait"));
        assert_eq!(Finding::warn("x", "y").remedy("wait").then("go").advice().as_deref(), Some("wait, then go"));
        let many = Finding::warn("x", "y").run_all((0..12).map(|n| format!("S{n}")));
        assert!(many.advice().is_some_and(|advice| advice.ends_with("S9; (and 2 more like these)")), "{:?}", many.advice());
        assert_eq!(many.sql.len(), 12);
    }

    #[test]
    fn bytes_are_said_as_people_say_them() {
        for (count, said) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 kB"),
            (1536, "1.5 kB"),
            (1_048_575, "1023.9 kB"),
            (1_048_576, "1.0 MB"),
            (10 * (1 << 30), "10.0 GB"),
            (u64::MAX, "16383.9 PB"),
        ] {
            assert_eq!(bytes(count), said);
        }
    }
}
