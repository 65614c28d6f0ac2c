//! The steps in which [`super::literal`] reads a value: quotes, escapes, brackets and braces.
//!
//! Every step moves forward or fails, and nothing recurses, so that no value takes longer than its length.

use super::parts::Dimensions;
use super::{Fault, Parts, Step, not_a};

/// A part without its quotes and escapes.
pub(super) struct Part<'a> {
    pub(super) bytes: &'a [u8],
    /// Something in it was quoted or escaped, so that it is neither NULL nor absent.
    pub(super) quoted: bool,
}

/// A value that is being read.
pub(super) struct Literal<'a> {
    field: &'a [u8],
    pub(super) rest: &'a [u8],
    /// What it should be ("an array").
    what: &'static str,
    /// Inside quotes, two quotes are one.
    pub(super) doubled: bool,
    /// A part that had escapes.
    scratch: Vec<u8>,
}

impl<'a> Literal<'a> {
    pub(super) fn new(field: &'a [u8], what: &'static str) -> Self {
        Self { field, rest: field, what, doubled: false, scratch: Vec::new() }
    }

    pub(super) fn malformed(&self) -> Box<Fault> {
        not_a(self.what, self.field)
    }

    /// Steps over `byte` if it is next.
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let after = self.rest.strip_prefix(&[byte]);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    /// Steps over `text`, which must be next.
    pub(super) fn expect(&mut self, text: &[u8]) -> Step {
        self.rest = self.rest.strip_prefix(text).ok_or_else(|| self.malformed())?;
        Ok(())
    }

    /// Steps over one of two bytes; says whether it was the first.
    pub(super) fn either(&mut self, first: u8, second: u8) -> Step<bool> {
        if self.eat(first) {
            return Ok(true);
        }
        self.expect(&[second])?;
        Ok(false)
    }

    pub(super) fn end(&self) -> Step {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }

    fn next(&mut self) -> Step<u8> {
        let (byte, after) = self.rest.split_first().ok_or_else(|| self.malformed())?;
        self.rest = after;
        Ok(*byte)
    }

    /// The bytes before the first that `ends` holds for; that one, which must be there, stays.
    fn until(&mut self, ends: impl Fn(u8) -> bool) -> Step<&'a [u8]> {
        let at = self.rest.iter().position(|byte| ends(*byte));
        let (before, after) = at.and_then(|at| self.rest.split_at_checked(at)).ok_or_else(|| self.malformed())?;
        self.rest = after;
        Ok(before)
    }

    /// One part, quoted or not, up to one of the bytes in `ends`, which stays.
    pub(super) fn part(&mut self, ends: &[u8]) -> Step<Part<'_>> {
        if self.eat(b'"') {
            return Ok(Part { bytes: self.quoted()?, quoted: true });
        }
        self.scratch.clear();
        loop {
            let before = self.until(|byte| matches!(byte, b'"' | b'\\') || ends.contains(&byte))?;
            match self.rest.first() {
                Some(b'"') => return Err(self.malformed()),
                Some(b'\\') => self.unescape(before)?,
                _ if self.scratch.is_empty() => return Ok(Part { bytes: before, quoted: false }),
                _ => {
                    self.scratch.extend_from_slice(before);
                    return Ok(Part { bytes: &self.scratch, quoted: true });
                }
            }
        }
    }

    /// What is between quotes, the first of which has been read.
    pub(super) fn quoted(&mut self) -> Step<&[u8]> {
        self.scratch.clear();
        loop {
            let before = self.until(|byte| matches!(byte, b'"' | b'\\'))?;
            if self.rest.starts_with(b"\\") || self.doubled && self.rest.starts_with(b"\"\"") {
                self.unescape(before)?;
                continue;
            }
            self.next()?;
            if self.scratch.is_empty() {
                return Ok(before);
            }
            self.scratch.extend_from_slice(before);
            return Ok(&self.scratch);
        }
    }

    /// Keeps `before` and the byte behind the one that is next, a backslash or a quote.
    fn unescape(&mut self, before: &[u8]) -> Step {
        self.next()?;
        let byte = self.next()?;
        self.scratch.extend_from_slice(before);
        self.scratch.push(byte);
        Ok(())
    }

    /// Hands over a bound of a range; says whether there is one.
    pub(super) fn bound(&mut self, parts: &mut Parts<'_>) -> Step<bool> {
        let part = self.part(b",])")?;
        let has = part.quoted || !part.bytes.is_empty();
        parts(if has { Some(part.bytes) } else { None })?;
        Ok(has)
    }

    /// A range as it is written. Only its end is looked for: a closing bracket outside of quotes.
    pub(super) fn range(&mut self) -> Step<&'a [u8]> {
        let start = self.rest;
        self.either(b'[', b'(')?;
        loop {
            self.until(|byte| matches!(byte, b'"' | b'\\' | b']' | b')'))?;
            match self.next()? {
                // Two quotes that are one leave the quotes and enter them again.
                b'"' => self.skip_quoted()?,
                b'\\' => drop(self.next()?),
                _ => break,
            }
        }
        start.get(..start.len().saturating_sub(self.rest.len())).ok_or_else(|| self.malformed())
    }

    fn skip_quoted(&mut self) -> Step {
        loop {
            self.until(|byte| matches!(byte, b'"' | b'\\'))?;
            if self.next()? == b'"' {
                return Ok(());
            }
            self.next()?;
        }
    }

    /// The bounds in front of an array whose numbering does not start at 1: `[0:2][5:5]=`. Only how many they span is kept.
    pub(super) fn bounds(&mut self) -> Step<Option<Dimensions>> {
        let mut found = Dimensions::EMPTY;
        while self.eat(b'[') {
            let (lower, _) = (self.bound_number(b':')?, self.expect(b":")?);
            let (upper, _) = (self.bound_number(b']')?, self.expect(b"]")?);
            // Both are of 32 bits.
            let len = usize::try_from(upper - lower + 1).map_err(|_| self.malformed())?;
            found.push(len).ok_or_else(|| self.malformed())?;
        }
        if found == Dimensions::EMPTY {
            return Ok(None);
        }
        self.expect(b"=")?;
        Ok(Some(found))
    }

    fn bound_number(&mut self, end: u8) -> Step<i64> {
        let text = self.until(|byte| byte == end)?;
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i32>().ok());
        number.map(i64::from).ok_or_else(|| self.malformed())
    }
}

/// The nesting of an array's braces: what is inside must be of one length and at one depth.
#[derive(Default)]
pub(super) struct Shape {
    pub(super) depth: usize,
    /// The depth at which elements are, once there was one.
    elements_at: Option<usize>,
    /// How many there are so far at each depth that is open.
    counts: [usize; 6],
    /// How many there were where it was closed.
    lengths: [Option<usize>; 6],
}

impl Shape {
    pub(super) fn open(&mut self) -> Option<()> {
        if self.elements_at.is_some_and(|depth| self.depth >= depth) {
            return None;
        }
        *self.counts.get_mut(self.depth)? = 0;
        self.depth += 1;
        Some(())
    }

    pub(super) fn element(&mut self) -> Option<()> {
        if *self.elements_at.get_or_insert(self.depth) != self.depth {
            return None;
        }
        *self.counts.get_mut(self.depth.checked_sub(1)?)? += 1;
        Some(())
    }

    pub(super) fn close(&mut self) -> Option<()> {
        self.depth = self.depth.checked_sub(1)?;
        let count = *self.counts.get(self.depth)?;
        if *self.lengths.get_mut(self.depth)?.get_or_insert(count) != count {
            return None;
        }
        if let Some(outer) = self.depth.checked_sub(1) {
            *self.counts.get_mut(outer)? += 1;
        }
        Some(())
    }

    pub(super) fn dimensions(&self) -> Option<Dimensions> {
        let mut found = Dimensions::EMPTY;
        self.lengths.iter().flatten().try_for_each(|len| found.push(*len))?;
        Some(found)
    }
}
