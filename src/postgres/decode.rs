//! The COPY stream, binary or text, becomes record batches.
//!
//! In binary (manual, "COPY", section "Binary Format") it is a header, rows of length-prefixed fields, and a trailer; in text
//! it is lines (`copy_line`). Promises: every length is checked before it is used; a stream that breaks off, goes on after its
//! end or does not have the columns that were asked for is an error; rows come out whole and in order; an error about a value
//! names table, column, row and the row's key. Knows nothing of sockets, of queries, or of when a batch is large enough: the
//! caller asks [`Decoder::bytes`] and takes it.

use super::copy_line;
use crate::columns::Column;
use crate::columns::explain::{explain, key_text};
use crate::error::{Error, Result};
use crate::types::{ColumnPlan, Wire};
use crate::values::Fault;
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use std::sync::Arc;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the header's extension.
const HEADER_BYTES: usize = SIGNATURE.len() + 4 + 4;
/// Flags that a reader must understand; the only one ever given out (bit 16, object identifiers) is no longer sent.
const CRITICAL_FLAGS: u32 = 0xFFFF_0000;
/// No value is larger in PostgreSQL (`MaxAllocSize`, 1 GiB − 1).
const FIELD_BYTES_MAX: i32 = 0x3FFF_FFFF;
/// The length that says NULL, and the field count that says the end.
pub(super) const NULL: i32 = -1;
const END: i16 = -1;
/// A buffer for a row larger than this is given back after it.
const CARRY_KEPT_BYTES: usize = 1 << 20;

/// Decodes one COPY stream. A decoder that returned an error is done; further calls are errors too.
pub struct Decoder {
    table: String,
    schema: SchemaRef,
    wire: Wire,
    plans: Vec<ColumnPlan>,
    columns: Vec<Box<dyn Column>>,
    phase: Phase,
    /// A row, or a header, of which the rest has not come yet.
    carry: Vec<u8>,
    /// Where the current row's fields are, one for each column: in the stream, or in `line`.
    fields: Vec<FieldAt>,
    /// The current line of a text stream, with its escapes resolved.
    line: Vec<u8>,
    /// Rows in the batch under construction.
    rows: usize,
    /// Rows in batches already taken.
    taken: u64,
    /// Bytes that each row takes in its columns, whatever the values.
    row_bytes: usize,
    /// Bytes that the rows of this batch take beyond that.
    held: usize,
    failed: bool,
}

#[derive(Clone, Copy)]
enum Phase {
    /// A text stream has no other, until its end.
    Lines,
    Header,
    /// Bytes of the header's extension still to be skipped.
    Extension(usize),
    Rows,
    Ended,
}

/// A field of a row.
#[derive(Clone, Copy)]
pub(super) struct FieldAt {
    pub(super) start: usize,
    /// [`NULL`] or the number of bytes.
    pub(super) len: i32,
}

impl FieldAt {
    /// The field in the bytes that its row was found in.
    #[inline]
    fn of<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        usize::try_from(self.len).ok().map(|len| &bytes[self.start..self.start + len])
    }
}

/// What [`Decoder::scan`] found at the start of its input.
enum Found {
    /// A row of this many bytes.
    Row(usize),
    /// A row that is not all there.
    Part,
    /// The trailer.
    End,
}

impl Decoder {
    /// A decoder for the columns of one query, in the query's order. `table` is for messages: `public.orders`.
    pub fn new(plans: &[ColumnPlan], table: &str, wire: Wire) -> Self {
        let columns: Vec<_> = plans.iter().map(|plan| plan.column(wire)).collect();
        let schema = Schema::new(plans.iter().map(|plan| plan.field.clone()).collect::<Vec<_>>());
        Self {
            table: table.to_owned(),
            schema: Arc::new(schema),
            wire,
            plans: plans.to_vec(),
            row_bytes: columns.iter().map(|column| column.width()).sum(),
            columns,
            phase: if wire == Wire::Text { Phase::Lines } else { Phase::Header },
            carry: Vec::new(),
            fields: vec![FieldAt { start: 0, len: NULL }; plans.len()],
            line: Vec::new(),
            rows: 0,
            taken: 0,
            held: 0,
            failed: false,
        }
    }

    /// Takes the bytes of one CopyData message. A stream may be cut into messages anywhere; a message that is whole
    /// rows, as PostgreSQL sends them, is decoded in place.
    pub fn push(&mut self, payload: &[u8]) -> Result<()> {
        self.refuse_failed()?;
        let result = self.push_bytes(payload);
        self.failed = result.is_err();
        result
    }

    /// Whole rows in the batch under construction.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that the batch under construction takes, with what is kept of a row that is not complete. A caller who
    /// takes the batch before this passes 1 GiB never meets the limit of 32-bit offsets, because no row is larger.
    pub fn bytes(&self) -> usize {
        self.rows * self.row_bytes + self.held + self.carry.len()
    }

    /// The schema of every batch.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Takes the rows so far, possibly none. A row of which a part has come goes into the next batch.
    pub fn finish_batch(&mut self) -> Result<RecordBatch> {
        self.refuse_failed()?;
        let result = self.take_batch();
        self.failed = result.is_err();
        result
    }

    /// Ends the stream. An error if it was not complete, or if rows of it were not taken.
    pub fn finish(self) -> Result<()> {
        self.refuse_failed()?;
        // A text stream has no trailer; the server says how many rows it sent.
        let complete = matches!(self.phase, Phase::Ended) || (matches!(self.phase, Phase::Lines) && self.carry.is_empty());
        if !complete {
            let row = self.row_number();
            return Err(Error::source_db(format!("the COPY stream of {} ended early, at row {row}", self.table)));
        }
        if self.rows > 0 {
            return Err(Error::bug(format!("{} decoded rows of {} were not taken", self.rows, self.table)));
        }
        Ok(())
    }

    fn refuse_failed(&self) -> Result<()> {
        match self.failed {
            true => Err(Error::bug(format!("the decoder of {} was used after it failed", self.table))),
            false => Ok(()),
        }
    }

    fn push_bytes(&mut self, payload: &[u8]) -> Result<()> {
        if self.carry.is_empty() {
            let used = self.decode(payload)?;
            self.carry.extend_from_slice(&payload[used..]);
            return Ok(());
        }
        let mut carry = std::mem::take(&mut self.carry);
        carry.extend_from_slice(payload);
        let used = self.decode(&carry)?;
        carry.drain(..used);
        if !carry.is_empty() || carry.capacity() <= CARRY_KEPT_BYTES {
            self.carry = carry;
        }
        Ok(())
    }

    /// Decodes what is complete at the start of `input`, and returns how many bytes that was.
    fn decode(&mut self, input: &[u8]) -> Result<usize> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            match self.phase {
                Phase::Lines => match rest.iter().position(|byte| *byte == b'\n') {
                    Some(end) => {
                        self.line(&rest[..end])?;
                        at += end + 1;
                    }
                    None => return Ok(at),
                },
                Phase::Header => {
                    let Some((header, _)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(at) };
                    self.phase = Phase::Extension(self.header(header)?);
                    at += HEADER_BYTES;
                }
                Phase::Extension(left) => {
                    let skipped = left.min(rest.len());
                    at += skipped;
                    if skipped < left {
                        self.phase = Phase::Extension(left - skipped);
                        return Ok(at);
                    }
                    self.phase = Phase::Rows;
                }
                Phase::Rows => match self.scan(rest)? {
                    Found::Row(len) => {
                        self.row(rest)?;
                        at += len;
                    }
                    Found::Part => return Ok(at),
                    Found::End => {
                        self.phase = Phase::Ended;
                        at += size_of::<i16>();
                    }
                },
                Phase::Ended if rest.is_empty() => return Ok(at),
                Phase::Ended => return Err(self.malformed(format!("{} bytes follow the trailer", rest.len()))),
            }
        }
    }

    /// Checks the header and returns the length of its extension.
    fn header(&self, header: &[u8; HEADER_BYTES]) -> Result<usize> {
        let (signature, numbers) = header.split_at(SIGNATURE.len());
        if signature != SIGNATURE {
            return Err(self.malformed("it does not start with the signature of the binary format"));
        }
        let word = |i: usize| numbers.get(i..i + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        if word(0) & CRITICAL_FLAGS != 0 {
            return Err(self.malformed(format!("its header has the unknown flags {:#x}", word(0))));
        }
        match i32::try_from(word(4)) {
            Ok(len) => Ok(len.unsigned_abs() as usize),
            Err(_) => Err(self.malformed(format!("its header extension has the length {:#x}", word(4)))),
        }
    }

    /// Finds the fields of the row at the start of `rest`. Two passes over a row, first where and then what, cost
    /// less than one: the second does not wait for one length to know where to find the next.
    #[inline]
    fn scan(&mut self, rest: &[u8]) -> Result<Found> {
        let Some((count, _)) = rest.split_first_chunk::<2>() else { return Ok(Found::Part) };
        let count = i16::from_be_bytes(*count);
        if usize::try_from(count) != Ok(self.columns.len()) {
            return match count {
                END => Ok(Found::End),
                _ => Err(self.malformed(format!("row {} has {count} fields, {} were asked for", self.row_number(), self.columns.len()))),
            };
        }
        let mut at = size_of::<i16>();
        for field in &mut self.fields {
            let Some((len, _)) = rest.get(at..).and_then(|rest| rest.split_first_chunk::<4>()) else { return Ok(Found::Part) };
            let len = i32::from_be_bytes(*len);
            at += size_of::<i32>();
            *field = FieldAt { start: at, len };
            match len {
                0..=FIELD_BYTES_MAX => at += len.unsigned_abs() as usize,
                NULL => {}
                _ => return Err(self.malformed(format!("row {} has a field of length {len}", self.row_number()))),
            }
        }
        Ok(if at <= rest.len() { Found::Row(at) } else { Found::Part })
    }

    /// Appends the row whose fields were found in `rest`.
    #[inline]
    fn row(&mut self, rest: &[u8]) -> Result<()> {
        if self.rows == 0 {
            self.columns.iter_mut().for_each(|column| column.reserve());
        }
        for (index, (column, at)) in self.columns.iter_mut().zip(&self.fields).enumerate() {
            let result = match at.of(rest) {
                Some(field) => column.push(field, &mut self.held),
                None => {
                    column.push_null();
                    Ok(())
                }
            };
            if let Err(fault) = result {
                return Err(self.fault(index, self.row_number(), &self.key_of(rest), *fault));
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Appends a line of a text stream, without its end.
    fn line(&mut self, line: &[u8]) -> Result<()> {
        if line == copy_line::END {
            self.phase = Phase::Ended;
            return Ok(());
        }
        if let Err(what) = copy_line::split(line, &mut self.line, &mut self.fields) {
            return Err(self.malformed(format!("row {}: {what}", self.row_number())));
        }
        if self.rows == 0 {
            self.columns.iter_mut().for_each(|column| column.reserve());
        }
        for (index, (column, at)) in self.columns.iter_mut().zip(&self.fields).enumerate() {
            let result = match at.of(&self.line) {
                Some(field) => column.push_text(field, &mut self.held),
                None => {
                    column.push_null();
                    Ok(())
                }
            };
            if let Err(fault) = result {
                return Err(self.fault(index, self.row_number(), &self.key_of(&self.line), *fault));
            }
        }
        self.rows += 1;
        if self.line.capacity() > CARRY_KEPT_BYTES {
            self.line = Vec::new();
        }
        Ok(())
    }

    /// The key of the row whose fields are in `bytes`, for people: ` (id = 7)`; nothing without a key.
    #[cold]
    fn key_of(&self, bytes: &[u8]) -> String {
        let parts = self.plans.iter().zip(&self.fields).filter(|(plan, _)| plan.key).map(|(plan, at)| {
            let mut column = plan.column(self.wire);
            let field = at.of(bytes)?;
            let pushed = if self.wire == Wire::Text { column.push_text(field, &mut 0) } else { column.push(field, &mut 0) };
            pushed.ok()?;
            Some((plan.source.as_str(), column.finish().ok()?, 0))
        });
        key_text(parts)
    }

    /// The key of a row of the batch that is being taken, of which these columns are finished.
    #[cold]
    fn key_in(&self, arrays: &[Result<ArrayRef, (usize, Box<Fault>)>], row: usize) -> String {
        let parts = self.plans.iter().zip(arrays).filter(|(plan, _)| plan.key);
        key_text(parts.map(|(plan, array)| Some((plan.source.as_str(), array.as_ref().ok()?.clone(), row))))
    }

    fn take_batch(&mut self) -> Result<RecordBatch> {
        let finished: Vec<_> = self.columns.iter_mut().map(|column| column.finish()).collect();
        if let Some(index) = finished.iter().position(Result::is_err) {
            let row = finished[index].as_ref().err().map_or(0, |(row, _)| *row);
            let (key, number) = (self.key_in(&finished, row), self.taken + row as u64 + 1);
            let fault = finished.into_iter().nth(index).and_then(Result::err).map_or(Fault::Encoding, |(_, fault)| *fault);
            return Err(self.fault(index, number, &key, fault));
        }
        let arrays: Vec<ArrayRef> = finished.into_iter().flatten().collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.taken += self.rows as u64;
        (self.rows, self.held) = (0, 0);
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map_err(|error| Error::bug(format!("make a batch of {}: {error}", self.table)))
    }

    /// The row being read, counted from 1 over the whole stream.
    fn row_number(&self) -> u64 {
        self.taken + self.rows as u64 + 1
    }

    #[cold]
    fn malformed(&self, what: impl std::fmt::Display) -> Error {
        Error::source_db(format!("the COPY stream of {} is malformed: {what}", self.table))
    }

    #[cold]
    fn fault(&self, column: usize, row: u64, key: &str, fault: Fault) -> Error {
        let name = self.plans.get(column).map_or("", |plan| plan.source.as_str());
        explain(&format!("column `{name}` of {}, row {row} of its chunk{key}", self.table), name, fault)
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
