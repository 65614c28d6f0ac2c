//! One error for the program: who must act, whether trying again helps, what was being done.
//!
//! Leaf modules raise it with [`Error::config`], [`Error::source_db`] and so on; callers add context
//! with [`Context::doing`] ("read chunk 12 of public.orders"), and the phrases read as one sentence.
//! Exit codes and hints that follow from the kind live in `cli::exit`, nowhere else.

use std::fmt;

/// A result whose error is the program's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file or flag given by the user is wrong.
    Config,
    /// PostgreSQL refused, failed, or sent what it should not.
    Source,
    /// The destination refused or failed.
    Destination,
    /// The state file contradicts the source, the destination or another run.
    State,
    /// A table's shape does not fit what the catalog or the destination says.
    Schema,
    /// Stopped by a signal; the same command with `--state` goes on.
    Interrupted,
    /// A mistake in this program.
    Bug,
}

/// Whether the same operation may succeed when it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Transient: a lost connection, a server that is starting.
    Again,
    /// Trying again gives the same answer.
    Never,
}

/// The program's error.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    retry: Retry,
    message: String,
    doing: Vec<String>,
    hint: Option<String>,
    /// PostgreSQL's five-character code, where the server raised the error.
    sqlstate: Option<String>,
}

impl Error {
    /// A permanent error of `kind`; `message` is lower case, without a full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, retry: Retry::Never, message: message.into(), doing: Vec::new(), hint: None, sqlstate: None }))
    }

    /// A file or flag given by the user is wrong.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// PostgreSQL refused or failed.
    pub fn source_db(message: impl Into<String>) -> Self {
        Self::new(Kind::Source, message)
    }

    /// The state file contradicts something.
    pub fn state(message: impl Into<String>) -> Self {
        Self::new(Kind::State, message)
    }

    /// A table's shape does not fit.
    pub fn schema(message: impl Into<String>) -> Self {
        Self::new(Kind::Schema, message)
    }

    /// A mistake in this program.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, message)
    }

    /// Marks the error as transient.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.0.retry = Retry::Again;
        self
    }

    /// Adds what was being done; the outermost phrase is added last.
    #[must_use]
    pub fn doing(mut self, what: impl Into<String>) -> Self {
        self.0.doing.push(what.into());
        self
    }

    /// Says what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same error, when it turns out who must act.
    #[must_use]
    pub fn for_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Keeps the server's SQLSTATE.
    #[must_use]
    pub fn sqlstate(mut self, code: impl Into<String>) -> Self {
        self.0.sqlstate = Some(code.into());
        self
    }

    /// Who must act.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whether to try again.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// What the user can do.
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Whether the server could not make sense of a value: it is not of the column's type, or the type has no such comparison.
    pub fn is_about_a_value(&self) -> bool {
        self.code().is_some_and(|code| code.starts_with("22") || code == "42883")
    }

    /// PostgreSQL's error code (appendix "PostgreSQL Error Codes" of its manual), if the server raised it.
    pub fn code(&self) -> Option<&str> {
        self.0.sqlstate.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for what in self.0.doing.iter().rev() {
            write!(f, "{what}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}: {self}", self.0.kind, self.0.retry)
    }
}

impl std::error::Error for Error {}

impl From<writers::Error> for Error {
    fn from(error: writers::Error) -> Self {
        let kind = match error.kind() {
            writers::Kind::Config => Kind::Config,
            writers::Kind::Storage | writers::Kind::Corrupt => Kind::Destination,
            writers::Kind::Conflict => Kind::State,
            writers::Kind::Schema => Kind::Schema,
            writers::Kind::Bug => Kind::Bug,
        };
        let mut inner = Self::new(kind, error.to_string());
        if error.retry() == writers::Retry::Again {
            inner = inner.transient();
        }
        match error.advice() {
            Some(advice) => inner.hint(advice),
            None => inner,
        }
    }
}

/// Adds context to the error of a result.
pub trait Context<T> {
    /// Says what was being done: verb and object.
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.into().doing(what()))
    }
}
