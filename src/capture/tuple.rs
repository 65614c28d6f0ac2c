//! Rows within the messages of `pgoutput` (manual, "TupleData"), of protocol versions 1 to 4.
//!
//! Promises: a row is checked once, then its values are walked over without errors and without allocation. Knows no types.

use crate::error::{Error, Result};
use crate::postgres::frame::{Body, garbage};

/// The values of a row, one for each column of the relation: found to be well-formed when it was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    pub(super) columns: u16,
    bytes: &'a [u8],
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// `n`: NULL, or not part of the key in a row of which only the key is sent.
    Null,
    /// `u`: stored out of line (TOAST) and not touched by the update.
    Unchanged,
    /// `t`: as the type's output function writes it.
    Text(&'a [u8]),
    /// `b`: as the type's send function writes it.
    Binary(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// How many values there are.
    pub fn columns(self) -> usize {
        usize::from(self.columns)
    }

    /// Bytes of the values with their headers.
    pub fn size(self) -> usize {
        self.bytes.len()
    }

    /// The values in the order of the columns.
    pub fn cells(self) -> Cells<'a> {
        Cells(self)
    }

    /// Takes the number of values and the values, and checks that all are there.
    pub(super) fn parse(body: &mut Body<'a>) -> Result<Self> {
        let columns = body.u16()?;
        let bytes = body.0;
        let mut rest = bytes;
        for _ in 0..columns {
            rest = first_cell(rest).ok_or_else(|| explain(rest))?.1;
        }
        body.0 = rest;
        Ok(Self { columns, bytes: &bytes[..bytes.len() - rest.len()] })
    }
}

/// Walks over the values of a [`Tuple`].
#[derive(Clone, Debug)]
pub struct Cells<'a>(Tuple<'a>);

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        let left = self.0.columns.checked_sub(1)?;
        // Every value was taken once before, so this does not end the walk early.
        let (cell, bytes) = first_cell(self.0.bytes)?;
        self.0 = Tuple { columns: left, bytes };
        Some(cell)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl ExactSizeIterator for Cells<'_> {
    fn len(&self) -> usize {
        self.0.columns()
    }
}

/// The first value of `bytes` and what follows it; `None` if there is no whole one.
#[inline]
fn first_cell(bytes: &[u8]) -> Option<(Cell<'_>, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    match kind {
        b'n' => Some((Cell::Null, rest)),
        b'u' => Some((Cell::Unchanged, rest)),
        b't' | b'b' => {
            let (&length, rest) = rest.split_first_chunk()?;
            let (value, rest) = rest.split_at_checked(usize::try_from(i32::from_be_bytes(length)).ok()?)?;
            Some((if kind == b't' { Cell::Text(value) } else { Cell::Binary(value) }, rest))
        }
        _ => None,
    }
}

/// Why [`first_cell`] found none.
#[cold]
fn explain(bytes: &[u8]) -> Error {
    let mut body = Body(bytes);
    let kind = match body.u8() {
        Ok(kind) => kind,
        Err(error) => return error,
    };
    match kind {
        b't' | b'b' => counted(&mut body).err().unwrap_or_else(|| garbage("a value without end")),
        _ => garbage(format!("a value of kind {}, where n, u, t and b are known", shown(kind))),
    }
}

/// Bytes behind their length.
pub(super) fn counted<'a>(body: &mut Body<'a>) -> Result<&'a [u8]> {
    let length = body.i32()?;
    match usize::try_from(length) {
        Ok(length) if length <= body.0.len() => body.take(length),
        _ => Err(garbage(format!("a length of {length} with {} bytes left", body.0.len()))),
    }
}

/// A byte as errors show it.
pub(super) fn shown(byte: u8) -> String {
    if byte.is_ascii_graphic() { char::from(byte).to_string() } else { format!("0x{byte:02x}") }
}
