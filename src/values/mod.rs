//! PostgreSQL's values as they are on the wire, in both forms: binary (what a type's send function writes) and text (what its
//! output function prints).
//!
//! Functions from bytes to a value, to text, or to the parts of a value. Each says which function of PostgreSQL's source gave the
//! bytes. Promises: bytes from outside never panic, never recurse deeper than a type does, and never make anything allocate that
//! is much larger than themselves. Knows no columns, no Arrow and no tables; [`crate::types`] says which function reads which type.

mod calendar;
pub(crate) mod float;
pub(crate) mod geometric;
pub(crate) mod interval;
pub(crate) mod literal;
pub(crate) mod network;
pub(crate) mod numeric;
pub(crate) mod numeric_text;
pub(crate) mod olake;
pub(crate) mod parts;
pub(crate) mod plain;
#[cfg(test)]
pub(crate) mod samples;
mod scan;
pub(crate) mod search;
pub(crate) mod temporal;
pub(crate) mod temporal_text;
pub(crate) mod wkb;

use std::fmt::Display;

/// Why a value cannot be read into the destination type. The decoder adds table, column and row.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The bytes do not have the form that PostgreSQL gives them.
    Malformed(String),
    /// A good value that the destination type has no room for: always an error.
    Unfit {
        /// The value as people write it.
        value: String,
        /// Why it does not fit, to follow "is".
        why: String,
    },
    /// A good value outside the destination type's kind of values, such as NaN or an infinite date: the stream's policy decides.
    Special {
        /// The value as people write it.
        value: String,
        /// Why it does not fit, to follow "is".
        why: String,
        /// Which of the type's values is nearest.
        nearest: Nearest,
    },
    /// Text that is not UTF-8.
    Encoding,
    /// The caller let the batch grow beyond what 32-bit offsets reach, or Arrow refused what we built.
    Bug(String),
}

/// The value nearest to one that a type cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nearest {
    /// The lowest.
    Lowest,
    /// The highest.
    Highest,
    /// None is nearer than the others (NaN).
    Nothing,
}

/// The result of reading one value. Boxed, because the good case has to fit a register.
pub(crate) type Step<T = ()> = Result<T, Box<Fault>>;

/// Receives the parts of a value in their order; `None` is NULL.
pub(crate) type Parts<'a> = dyn FnMut(Option<&[u8]>) -> Step + 'a;

impl Fault {
    #[cold]
    pub(crate) fn malformed(what: impl Into<String>) -> Box<Self> {
        Box::new(Self::Malformed(what.into()))
    }

    #[cold]
    pub(crate) fn unfit(value: impl Into<String>, why: impl Into<String>) -> Box<Self> {
        Box::new(Self::Unfit { value: value.into(), why: why.into() })
    }

    #[cold]
    pub(crate) fn special(value: impl Into<String>, why: impl Into<String>, nearest: Nearest) -> Box<Self> {
        Box::new(Self::Special { value: value.into(), why: why.into(), nearest })
    }

    #[cold]
    pub(crate) fn bug(what: impl Display) -> Box<Self> {
        Box::new(Self::Bug(what.to_string()))
    }

    #[cold]
    pub(crate) fn full() -> Box<Self> {
        Self::unfit("what this row adds", "more than the 2 GiB that one column of a batch can hold")
    }
}

/// The field as an array, or an error that says how long it should have been.
#[inline]
pub(crate) fn exact_bytes<const N: usize>(field: &[u8]) -> Step<[u8; N]> {
    match field.try_into() {
        Ok(array) => Ok(array),
        Err(_) => Err(wrong_length(N, field.len())),
    }
}

#[cold]
fn wrong_length(expected: usize, found: usize) -> Box<Fault> {
    Fault::malformed(format!("{expected} bytes are expected, {found} were sent"))
}

/// Takes `N` bytes from the front of `rest`; `what` is named when they are not there ("an array").
#[inline]
pub(crate) fn take<const N: usize>(rest: &mut &[u8], what: &str) -> Step<[u8; N]> {
    let Some((bytes, after)) = rest.split_first_chunk::<N>() else { return Err(cut_off(what, N, rest.len())) };
    *rest = after;
    Ok(*bytes)
}

/// Takes `len` bytes from the front of `rest`.
#[inline]
pub(crate) fn take_slice<'a>(rest: &mut &'a [u8], len: usize, what: &str) -> Step<&'a [u8]> {
    let Some((bytes, after)) = rest.split_at_checked(len) else { return Err(cut_off(what, len, rest.len())) };
    *rest = after;
    Ok(bytes)
}

/// Takes a big-endian 32-bit number.
#[inline]
pub(crate) fn take_i32(rest: &mut &[u8], what: &str) -> Step<i32> {
    Ok(i32::from_be_bytes(take(rest, what)?))
}

/// Nothing may be left.
#[inline]
pub(crate) fn nothing_left(rest: &[u8], what: &str) -> Step {
    if rest.is_empty() {
        Ok(())
    } else {
        Err(Fault::malformed(format!("{what} is followed by {} bytes that are not part of it", rest.len())))
    }
}

#[cold]
fn cut_off(what: &str, needed: usize, found: usize) -> Box<Fault> {
    Fault::malformed(format!("{what} ends early: {needed} bytes are expected, {found} are left"))
}

/// A value of 100,000 characters has no place in an error message.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
        None => text.to_owned(),
    }
}

/// A malformed text, as the error shows it; `what` is what it should have been ("a date").
#[cold]
pub(crate) fn not_a(what: &str, field: &[u8]) -> Box<Fault> {
    Fault::malformed(format!("{:?} is not {what}", shorten(&String::from_utf8_lossy(field))))
}
