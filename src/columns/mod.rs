//! Columns under construction: values in their wire form go in one by one, an Arrow array comes out.
//!
//! Promises: a value is appended whole or the batch is given up; bytes from the server never panic and never make
//! anything larger than themselves allocate beforehand. Knows no PostgreSQL types: what a field's bytes mean is a
//! closure from `types`, chosen once per column and compiled into the column's own `push`.

pub(crate) mod list;

use crate::values::{Fault, Step, exact_bytes};
use arrow::array::types::ArrowPrimitiveType;
use arrow::array::{ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, FixedSizeBinaryArray, PrimitiveArray, StringArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use std::sync::Arc;

/// One column under construction.
pub(crate) trait Column: Send {
    /// Appends the value whose wire form is `field`; adds to `held` the bytes it takes beyond [`Self::width`].
    fn push(&mut self, field: &[u8], held: &mut usize) -> Step;

    /// Appends a NULL.
    fn push_null(&mut self);

    /// Bytes that every row takes, NULL or not.
    fn width(&self) -> usize;

    /// Makes room for a batch like the last one. Called before the first row of a batch, not at the end of the last,
    /// so that a reader that waits for its next chunk holds nothing.
    fn reserve(&mut self);

    /// Takes the rows out.
    fn finish(&mut self) -> Finished;
}

/// A finished array, or the row, from 0, that keeps it from being one.
pub(crate) type Finished = Result<ArrayRef, (usize, Box<Fault>)>;

/// Makes one fresh column; a plan holds it, each COPY calls it.
pub(crate) type Maker = Arc<dyn Fn() -> Box<dyn Column> + Send + Sync>;

/// Room for as many as last time and an eighth more.
pub(crate) fn with_slack(last: usize) -> usize {
    last + last / 8
}

/// Which rows are NULL. Costs nothing while there are none: bits are written when a NULL comes, up to its row.
#[derive(Default)]
pub(crate) struct Nulls {
    bits: Option<BooleanBufferBuilder>,
}

impl Nulls {
    pub(crate) fn push(&mut self, row: usize) {
        let bits = self.bits.get_or_insert_with(|| BooleanBufferBuilder::new(1024));
        bits.append_n(row - bits.len(), true);
        bits.append(false);
    }

    pub(crate) fn finish(&mut self, rows: usize) -> Option<NullBuffer> {
        let mut bits = self.bits.take()?;
        bits.append_n(rows - bits.len(), true);
        Some(NullBuffer::new(bits.finish()))
    }
}

/// A column of `T`; `read` turns a field into one value.
pub(crate) fn primitive<T: ArrowPrimitiveType>(
    data_type: DataType,
    read: impl Fn(&[u8]) -> Step<T::Native> + Copy + Send + Sync + 'static,
) -> Maker {
    Arc::new(move || {
        Box::new(Primitive::<T, _> { read, data_type: data_type.clone(), values: Vec::new(), nulls: Nulls::default(), last: 0 })
    })
}

struct Primitive<T: ArrowPrimitiveType, F> {
    read: F,
    data_type: DataType,
    values: Vec<T::Native>,
    nulls: Nulls,
    last: usize,
}

impl<T: ArrowPrimitiveType, F: Fn(&[u8]) -> Step<T::Native> + Send> Column for Primitive<T, F> {
    fn push(&mut self, field: &[u8], _held: &mut usize) -> Step {
        self.values.push((self.read)(field)?);
        Ok(())
    }

    fn push_null(&mut self) {
        self.nulls.push(self.values.len());
        self.values.push(T::Native::default());
    }

    fn width(&self) -> usize {
        size_of::<T::Native>()
    }

    fn reserve(&mut self) {
        self.values.reserve_exact(with_slack(self.last));
    }

    fn finish(&mut self) -> Finished {
        self.last = self.values.len();
        let nulls = self.nulls.finish(self.last);
        let values = ScalarBuffer::from(std::mem::take(&mut self.values));
        let array = PrimitiveArray::<T>::try_new(values, nulls).map_err(|error| (0, Fault::bug(error)))?;
        Ok(Arc::new(array.with_data_type(self.data_type.clone())))
    }
}

/// A column of booleans; one byte on the wire, 0 or 1 (`boolsend`).
pub(crate) fn boolean() -> Maker {
    Arc::new(|| Box::new(Boolean { values: BooleanBufferBuilder::new(0), nulls: Nulls::default(), last: 0 }))
}

struct Boolean {
    values: BooleanBufferBuilder,
    nulls: Nulls,
    last: usize,
}

impl Column for Boolean {
    fn push(&mut self, field: &[u8], _held: &mut usize) -> Step {
        match exact_bytes(field)? {
            [0] => self.values.append(false),
            [1] => self.values.append(true),
            [other] => return Err(Fault::malformed(format!("a boolean has the value {other}"))),
        }
        Ok(())
    }

    fn push_null(&mut self) {
        self.nulls.push(self.values.len());
        self.values.append(false);
    }

    /// A bit, and the bit that says whether it is NULL, rounded up.
    fn width(&self) -> usize {
        1
    }

    fn reserve(&mut self) {
        self.values.reserve(with_slack(self.last));
    }

    fn finish(&mut self) -> Finished {
        self.last = self.values.len();
        let nulls = self.nulls.finish(self.last);
        Ok(Arc::new(BooleanArray::new(self.values.finish(), nulls)))
    }
}

/// A text column whose fields are the text.
pub(crate) fn text() -> Maker {
    variable(true, |field, out| {
        out.extend_from_slice(field);
        Ok(())
    })
}

/// A binary column whose fields are the bytes.
pub(crate) fn binary() -> Maker {
    variable(false, |field, out| {
        out.extend_from_slice(field);
        Ok(())
    })
}

/// A text column; `write` appends a field's text to the column's.
pub(crate) fn text_from(write: impl Fn(&[u8], &mut Vec<u8>) -> Step + Copy + Send + Sync + 'static) -> Maker {
    variable(true, write)
}

fn variable(utf8: bool, write: impl Fn(&[u8], &mut Vec<u8>) -> Step + Copy + Send + Sync + 'static) -> Maker {
    Arc::new(move || {
        Box::new(Variable { write, utf8, data: Vec::new(), offsets: vec![0], nulls: Nulls::default(), last_bytes: 0, last_rows: 0 })
    })
}

struct Variable<F> {
    write: F,
    utf8: bool,
    data: Vec<u8>,
    /// One more than there are rows: where each begins, and where the last ends.
    offsets: Vec<i32>,
    nulls: Nulls,
    last_bytes: usize,
    last_rows: usize,
}

impl<F: Fn(&[u8], &mut Vec<u8>) -> Step + Send> Column for Variable<F> {
    fn push(&mut self, field: &[u8], held: &mut usize) -> Step {
        let before = self.data.len();
        (self.write)(field, &mut self.data)?;
        let end = self.data.len();
        let Ok(offset) = i32::try_from(end) else { return Err(Fault::full()) };
        self.offsets.push(offset);
        *held += end - before;
        Ok(())
    }

    fn push_null(&mut self) {
        self.nulls.push(self.offsets.len() - 1);
        self.offsets.push(self.offsets.last().copied().unwrap_or(0));
    }

    fn width(&self) -> usize {
        size_of::<i32>()
    }

    fn reserve(&mut self) {
        self.data.reserve_exact(with_slack(self.last_bytes));
        self.offsets.reserve_exact(with_slack(self.last_rows));
    }

    fn finish(&mut self) -> Finished {
        (self.last_bytes, self.last_rows) = (self.data.len(), self.offsets.len() - 1);
        let nulls = self.nulls.finish(self.last_rows);
        let data = Buffer::from_vec(std::mem::take(&mut self.data));
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        if self.utf8 && simdutf8::basic::from_utf8(&data).is_err() {
            return Err((not_utf8(&data, &offsets), Box::new(Fault::Encoding)));
        }
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        if !self.utf8 {
            return BinaryArray::try_new(offsets, data, nulls)
                .map_or_else(|e| Err((0, Fault::bug(e))), |array| Ok(Arc::new(array) as ArrayRef));
        }
        // The text as a whole can be UTF-8 while a value is not: half a character at the end of one, the other half
        // at the start of the next. That is the one thing left that can be wrong.
        let starts_inside = |offset: &i32| data.get(*offset as usize).is_some_and(|byte| byte & 0xC0 == 0x80);
        if offsets.iter().any(starts_inside) {
            return Err((not_utf8(&data, &offsets), Box::new(Fault::Encoding)));
        }
        #[expect(unsafe_code, reason = "the safe constructor checks the whole text a second time, more slowly")]
        // SAFETY: `offsets` starts at 0, grows and ends at `data.len()` (it is the lengths of what was appended, added up);
        // `data` is UTF-8 as a whole, and no value starts inside a character, so none ends inside one.
        let array = unsafe { StringArray::new_unchecked(offsets, data, nulls) };
        Ok(Arc::new(array))
    }
}

/// The first row whose text is not UTF-8.
#[cold]
fn not_utf8(data: &[u8], offsets: &[i32]) -> usize {
    let bad = |pair: &[i32]| {
        let range = usize::try_from(pair[0]).ok()?..usize::try_from(pair[1]).ok()?;
        std::str::from_utf8(data.get(range)?).err()
    };
    offsets.windows(2).position(|pair| bad(pair).is_some()).unwrap_or(0)
}

/// A column of 16 bytes per row (`uuid_send`).
pub(crate) fn uuid() -> Maker {
    Arc::new(|| Box::new(Uuid { values: Vec::new(), nulls: Nulls::default(), last: 0 }))
}

struct Uuid {
    values: Vec<[u8; 16]>,
    nulls: Nulls,
    last: usize,
}

impl Column for Uuid {
    fn push(&mut self, field: &[u8], _held: &mut usize) -> Step {
        self.values.push(exact_bytes(field)?);
        Ok(())
    }

    fn push_null(&mut self) {
        self.nulls.push(self.values.len());
        self.values.push([0; 16]);
    }

    fn width(&self) -> usize {
        16
    }

    fn reserve(&mut self) {
        self.values.reserve_exact(with_slack(self.last));
    }

    fn finish(&mut self) -> Finished {
        self.last = self.values.len();
        let nulls = self.nulls.finish(self.last);
        let values = Buffer::from_vec(std::mem::take(&mut self.values).into_flattened());
        FixedSizeBinaryArray::try_new(16, values, nulls).map_or_else(|e| Err((0, Fault::bug(e))), |array| Ok(Arc::new(array) as ArrayRef))
    }
}
