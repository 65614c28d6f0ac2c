//! What can go wrong in a destination, in the terms of who must act.
//!
//! A writer's error carries a [`Kind`], whether trying again can help ([`Retry`]), a chain of
//! "verb + object" phrases that reads as one sentence, and the error beneath it.

use std::fmt;

/// A result whose error is a writer's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What happened, in the terms of who must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The destination's configuration cannot work: a wrong key, a bad partition expression.
    Config,
    /// The destination refused or failed: no permission, disk full, bucket missing, network.
    Storage,
    /// The table that exists cannot take this schema without losing something.
    Schema,
    /// Something else wrote to the table meanwhile, or holds it.
    Conflict,
    /// A file in the destination is not what it should be.
    Corrupt,
    /// A mistake in this program.
    Bug,
}

/// Whether the same operation may succeed when it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Transient: try again after a pause.
    Again,
    /// Trying again gives the same answer.
    Never,
}

/// An error of a destination. Build it with [`Error::new`], add what was being done with
/// [`Error::doing`], and what the user can do with [`Error::hint`].
pub struct Error {
    kind: Kind,
    retry: Retry,
    message: String,
    doing: Vec<String>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A permanent error of `kind`; `message` is lower case, without a full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, retry: Retry::Never, message: message.into(), doing: Vec::new(), hint: None, source: None }
    }

    /// Marks the error as transient.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.retry = Retry::Again;
        self
    }

    /// Adds what was being done, outermost last: `"write part 3 of shop.orders"`.
    #[must_use]
    pub fn doing(mut self, what: impl Into<String>) -> Self {
        self.doing.push(what.into());
        self
    }

    /// Says what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Keeps the error beneath this one.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error for somebody else whom it concerns.
    pub(crate) fn again(&self) -> Self {
        let hint = self.hint.clone();
        Self { kind: self.kind, retry: self.retry, message: self.to_string(), doing: Vec::new(), hint, source: None }
    }

    /// What happened.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether to try again.
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// What the user can do, if the place that raised the error knows.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for what in self.doing.iter().rev() {
            write!(f, "{what}: ")?;
        }
        f.write_str(&self.message)?;
        let mut source = self.source.as_deref().map(|s| s as &dyn std::error::Error);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}: {self}", self.kind, self.retry)
    }
}

impl std::error::Error for Error {}
