//! The COPY (FORMAT binary) stream becomes record batches.
//!
//! The stream (manual, "COPY", section "Binary Format") is a header, rows of length-prefixed fields, and a trailer.
//! Promises: every length is checked before it is used; a stream that breaks off, goes on after its end or does not
//! have the columns that were asked for is an error; rows come out whole and in order. Knows nothing of sockets, of
//! queries, or of when a batch is large enough: the caller asks [`Decoder::bytes`] and takes it.

use crate::columns::Column;
use crate::error::{Error, Result};
use crate::types::ColumnPlan;
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
const NULL: i32 = -1;
const END: i16 = -1;
/// A carry buffer larger than this is given back when it is empty.
const CARRY_KEPT_BYTES: usize = 1 << 20;

/// Decodes one COPY stream. A decoder that returned an error is done; further calls are errors too.
pub struct Decoder {
    table: String,
    schema: SchemaRef,
    names: Vec<String>,
    columns: Vec<Box<dyn Column>>,
    phase: Phase,
    /// A row, or a header, of which the rest has not come yet.
    carry: Vec<u8>,
    /// Where the current row's fields are, one for each column.
    fields: Vec<FieldAt>,
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
    Header,
    /// Bytes of the header's extension still to be skipped.
    Extension(usize),
    Rows,
    Ended,
}

#[derive(Clone, Copy)]
struct FieldAt {
    start: usize,
    /// [`NULL`] or the number of bytes.
    len: i32,
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
    pub fn new(plans: &[ColumnPlan], table: &str) -> Self {
        let columns: Vec<_> = plans.iter().map(|plan| (plan.column)()).collect();
        let schema = Schema::new(plans.iter().map(|plan| plan.field.clone()).collect::<Vec<_>>());
        Self {
            table: table.to_owned(),
            schema: Arc::new(schema),
            names: plans.iter().map(|plan| plan.source.clone()).collect(),
            row_bytes: columns.iter().map(|column| column.width()).sum(),
            columns,
            phase: Phase::Header,
            carry: Vec::new(),
            fields: vec![FieldAt { start: 0, len: NULL }; plans.len()],
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
        if !matches!(self.phase, Phase::Ended) {
            let row = self.row_number();
            return Err(Error::source_db(format!("the COPY stream of {} ended before its trailer, at row {row}", self.table)));
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
            let result = match usize::try_from(at.len) {
                Ok(len) => column.push(&rest[at.start..at.start + len], &mut self.held),
                Err(_) => {
                    column.push_null();
                    Ok(())
                }
            };
            if let Err(fault) = result {
                return Err(self.fault(index, self.row_number(), *fault));
            }
        }
        self.rows += 1;
        Ok(())
    }

    fn take_batch(&mut self) -> Result<RecordBatch> {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for index in 0..self.columns.len() {
            match self.columns[index].finish() {
                Ok(array) => arrays.push(array),
                Err((row, fault)) => return Err(self.fault(index, self.taken + row as u64 + 1, *fault)),
            }
        }
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
    fn fault(&self, column: usize, row: u64, fault: Fault) -> Error {
        let name = self.names.get(column).map_or("", String::as_str);
        let place = format!("column `{name}` of {}, row {row} of its chunk", self.table);
        match fault {
            Fault::Malformed(what) => Error::source_db(format!("{place}: the value is malformed: {what}")),
            Fault::Unfit { value, why } | Fault::Special { value, why, .. } => Error::schema(format!("{place}: {value} is {why}"))
                .hint(format!("set the type of `{name}` to `string` in streams.json: every value is then carried as the server prints it")),
            Fault::Encoding => Error::source_db(format!("{place}: the text is not UTF-8")).hint(
                "mend the value, or set the type of a text column to `binary` in streams.json: the bytes are then carried as they are; \
                 databases with the encoding SQL_ASCII do not check text",
            ),
            Fault::Bug(what) => Error::bug(format!("{place}: {what}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::types::payload::{Field, Random, array, array_of, base, column, messages, numeric, numeric_type};
    use crate::types::plan_column;
    use arrow::compute::concat_batches;

    /// A table with a column of each kind of builder.
    fn plans() -> Vec<ColumnPlan> {
        let types = [
            (base(20, "int8", -1), "integer"),
            (base(16, "bool", -1), "boolean"),
            (numeric_type(12, 2), "decimal(12,2)"),
            (base(1700, "numeric", -1), "string"),
            (base(25, "text", -1), "string"),
            (base(17, "bytea", -1), "binary"),
            (base(2950, "uuid", -1), "uuid"),
            (base(3802, "jsonb", -1), "json"),
            (base(1184, "timestamptz", -1), "timestamptz"),
            (base(1082, "date", -1), "date"),
            (array_of(base(25, "text", -1)), "list<string>"),
        ];
        types
            .into_iter()
            .enumerate()
            .map(|(i, (ty, wanted))| {
                let name = format!("c{i}");
                plan_column(&column(&name, ty), &name, &wanted.parse().expect("type")).expect("plan")
            })
            .collect()
    }

    fn rows(count: usize) -> Vec<Vec<Field>> {
        let mut random = Random(7);
        (0..count)
            .map(|i| {
                let fields = [
                    (i as i64).to_be_bytes().to_vec(),
                    vec![(i % 2) as u8],
                    numeric(&format!("{i}.25")),
                    numeric(&format!("-{i}.0001230")),
                    "ä".repeat(i % 5).into_bytes(),
                    vec![i as u8; i % 3],
                    vec![i as u8; 16],
                    format!("\x01[{i}]").into_bytes(),
                    (-(i as i64)).to_be_bytes().to_vec(),
                    (i as i32).to_be_bytes().to_vec(),
                    array(&[Some(b"x".to_vec()), None][..i % 3], 1),
                ];
                fields.into_iter().map(|field| (random.below(4) > 0).then_some(field)).collect()
            })
            .collect()
    }

    fn decode_all(chunks: &[&[u8]], cut_every: usize) -> Result<RecordBatch> {
        let mut decoder = Decoder::new(&plans(), "public.orders");
        let mut batches = Vec::new();
        for chunk in chunks {
            decoder.push(chunk)?;
            if decoder.rows() >= cut_every {
                batches.push(decoder.finish_batch()?);
            }
        }
        batches.push(decoder.finish_batch()?);
        let schema = decoder.schema();
        decoder.finish()?;
        Ok(concat_batches(&schema, &batches).expect("one schema"))
    }

    #[test]
    fn rows_are_the_same_wherever_batches_and_messages_are_cut() {
        let messages = messages(&rows(40));
        let whole = decode_all(&messages.iter().map(Vec::as_slice).collect::<Vec<_>>(), usize::MAX).expect("decode");
        assert_eq!(whole.num_rows(), 40);
        for cut_every in [1, 2, 3, 7, 39, 40] {
            assert_eq!(decode_all(&messages.iter().map(Vec::as_slice).collect::<Vec<_>>(), cut_every).expect("decode"), whole);
        }
        let stream = messages.concat();
        for size in [1, 2, 3, 5, 64, 1000, stream.len()] {
            let chunks: Vec<_> = stream.chunks(size).collect();
            assert_eq!(decode_all(&chunks, 2).expect("decode"), whole, "messages of {size} bytes");
        }
    }

    #[test]
    fn a_message_may_end_at_any_byte() {
        let stream = messages(&rows(6)).concat();
        let whole = decode_all(&[&stream], usize::MAX).expect("decode");
        for at in 0..=stream.len() {
            let (head, tail) = stream.split_at(at);
            assert_eq!(decode_all(&[head, tail], 1).expect("decode"), whole, "cut at {at}");
        }
    }

    #[test]
    fn a_stream_that_breaks_off_is_an_error() {
        let stream = messages(&rows(3)).concat();
        for at in 0..stream.len() {
            let error = decode_all(&[&stream[..at]], usize::MAX).expect_err("not complete");
            assert_eq!(error.kind(), Kind::Source);
            assert!(error.to_string().contains("public.orders"));
        }
    }

    #[test]
    fn a_stream_that_is_not_what_was_asked_for_is_an_error() {
        let good = messages(&rows(2));
        let with = |at: usize, bytes: &[u8]| {
            let mut stream = good.concat();
            stream[at..at + bytes.len()].copy_from_slice(bytes);
            stream
        };
        let first_length = HEADER_BYTES + 2;
        for (stream, message) in [
            (with(0, b"X"), "signature"),
            (with(11, &[0, 1, 0, 0]), "flags 0x10000"),
            (with(15, &[0xFF; 4]), "extension"),
            (with(HEADER_BYTES, &[0, 12]), "row 1 has 12 fields, 11 were asked for"),
            (with(HEADER_BYTES, &[0x80, 0]), "-32768 fields"),
            (with(first_length, &[0x40, 0, 0, 0]), "length 1073741824"),
            (with(first_length, &[0xFF, 0xFF, 0xFF, 0xFE]), "length -2"),
            ([good.concat(), vec![0]].concat(), "1 bytes follow"),
        ] {
            let error = decode_all(&[&stream], usize::MAX).expect_err(message);
            assert_eq!(error.kind(), Kind::Source);
            assert!(error.to_string().contains(message), "{error}");
        }
        // A header extension and harmless flags are skipped.
        let mut extended = good.concat();
        extended[14] = 1;
        extended[18] = 3;
        extended.splice(HEADER_BYTES..HEADER_BYTES, [1, 2, 3]);
        let chunks: Vec<_> = extended.chunks(4).collect();
        assert_eq!(decode_all(&chunks, 1).expect("decode").num_rows(), 2);
    }

    #[test]
    fn a_value_that_cannot_be_carried_is_named_with_its_place() {
        let plan = plan_column(&column("Price", numeric_type(12, 2)), "price", &"decimal(12,2)".parse().expect("type")).expect("plan");
        let mut decoder = Decoder::new(&[plan], "public.orders");
        let messages = messages(&[vec![Some(numeric("1.00"))], vec![None], vec![Some(numeric("NaN"))]]);
        decoder.push(&messages[0]).expect("row 1");
        decoder.finish_batch().expect("batch");
        decoder.push(&messages[1]).expect("row 2");
        let error = decoder.push(&messages[2]).expect_err("NaN");
        assert_eq!(error.to_string(), "column `Price` of public.orders, row 3 of its chunk: NaN is not a number that a decimal can hold");
        assert_eq!(error.kind(), Kind::Schema);
        assert!(error.advice().is_some_and(|hint| hint.contains("`Price` to `string` in streams.json")));
        // Nothing is made of a batch that holds half a row.
        assert_eq!(decoder.finish_batch().expect_err("failed").kind(), Kind::Bug);
        assert_eq!(decoder.push(&messages[1]).expect_err("failed").kind(), Kind::Bug);
        assert!(decoder.finish().is_err());
    }

    #[test]
    fn text_that_is_not_utf8_is_found_in_its_row() {
        let plan = || plan_column(&column("t", base(25, "text", -1)), "t", &"string".parse().expect("type")).expect("plan");
        // The last two are UTF-8 together, and are not apart.
        for (values, row) in [(vec![&b"a"[..], b"", b"\xFFz"], 3), (vec![b"a", b"b\xC3", b"\xA4c"], 2)] {
            let mut decoder = Decoder::new(&[plan()], "public.t");
            let rows: Vec<_> = values.iter().map(|value| vec![Some(value.to_vec())]).collect();
            messages(&rows).iter().for_each(|message| decoder.push(message).expect("push"));
            let error = decoder.finish_batch().expect_err("not UTF-8");
            assert!(error.to_string().contains(&format!("row {row} of its chunk: the text is not UTF-8")), "{error}");
        }
    }

    #[test]
    fn bytes_count_what_the_batch_holds() {
        let text = plan_column(&column("t", base(25, "text", -1)), "t", &"string".parse().expect("type")).expect("plan");
        let int = plan_column(&column("i", base(20, "int8", -1)), "i", &"integer".parse().expect("type")).expect("plan");
        let mut decoder = Decoder::new(&[text, int], "public.t");
        let row = |text: Field| vec![text, Some(vec![0; 8])];
        let messages = messages(&[row(Some(vec![b'x'; 1000])), row(None)]);
        decoder.push(&messages[0]).expect("push");
        assert_eq!((decoder.rows(), decoder.bytes()), (1, 1000 + 4 + 8));
        decoder.push(&messages[1][..5]).expect("push");
        assert_eq!((decoder.rows(), decoder.bytes()), (1, 1012 + 5));
        decoder.push(&messages[1][5..]).expect("push");
        assert_eq!((decoder.rows(), decoder.bytes()), (2, 1012 + 12));
        decoder.finish_batch().expect("batch");
        assert_eq!((decoder.rows(), decoder.bytes()), (0, 0));
    }

    #[test]
    fn rows_that_were_not_taken_are_not_forgotten() {
        let mut decoder = Decoder::new(&plans(), "public.t");
        messages(&rows(1)).iter().for_each(|message| decoder.push(message).expect("push"));
        assert_eq!(decoder.finish().expect_err("a row is left").kind(), Kind::Bug);
    }

    #[test]
    fn a_query_without_columns_still_counts_rows() {
        let mut decoder = Decoder::new(&[], "public.t");
        messages(&[vec![], vec![]]).iter().for_each(|message| decoder.push(message).expect("push"));
        assert_eq!(decoder.finish_batch().expect("batch").num_rows(), 2);
        decoder.finish().expect("complete");
    }

    #[test]
    fn mutated_streams_never_panic_and_never_give_more_rows_than_bytes() {
        let stream = messages(&rows(4)).concat();
        let mut random = Random(0xC0FFEE);
        let (mut decoded, mut refused) = (0, 0);
        for _ in 0..200_000 {
            let mut bytes = stream.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len());
                match random.below(4) {
                    0 => bytes[at] = random.below(256) as u8,
                    1 => bytes[at] ^= 1 << random.below(8),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = [0, 0x7F, 0x80, 0xFF][random.below(4)]),
                }
            }
            let at = random.below(bytes.len());
            match decode_all(&[&bytes[..at], &bytes[at..]], 3) {
                Ok(batch) => {
                    assert!(batch.num_rows() <= bytes.len() / 2);
                    decoded += 1;
                }
                Err(error) => {
                    assert!(matches!(error.kind(), Kind::Source | Kind::Schema), "{error}");
                    refused += 1;
                }
            }
        }
        assert!(decoded > 1000 && refused > 1000, "{decoded} decoded, {refused} refused");
    }
}
