//! Columns of text and of bytes.

use super::{Column, Finished, Maker, Nulls, with_slack};
use crate::values::{Fault, Step};
use arrow::array::{ArrayRef, BinaryArray, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use std::sync::Arc;

/// Appends what a field stands for to the column's bytes.
pub(crate) type Write = fn(&[u8], &mut Vec<u8>) -> Step;

/// The field itself.
#[inline]
pub(crate) fn verbatim(field: &[u8], out: &mut Vec<u8>) -> Step {
    append(field, out);
    Ok(())
}

/// Appends `field`. Most are short, and a call to copy one costs more than the copy: pieces of a known size, which may
/// overlap, are moved without a call.
#[inline]
fn append(field: &[u8], out: &mut Vec<u8>) {
    const LONGEST: usize = 32;
    if field.len() > LONGEST {
        out.extend_from_slice(field);
        return;
    }
    let (start, end) = (out.len(), out.len() + field.len());
    out.extend_from_slice(&[0; LONGEST]);
    if let Some(room) = out.get_mut(start..end) {
        let _ =
            ends::<16>(field, room) || ends::<8>(field, room) || ends::<4>(field, room) || ends::<2>(field, room) || ends::<1>(field, room);
    }
    out.truncate(end);
}

/// Copies the first and the last `N` bytes of `from`, which may overlap, if there are `N`; that is all of it up to `2 * N`.
#[inline]
fn ends<const N: usize>(from: &[u8], into: &mut [u8]) -> bool {
    let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) else { return false };
    if let Some(room) = into.first_chunk_mut::<N>() {
        *room = *first;
    }
    if let Some(room) = into.last_chunk_mut::<N>() {
        *room = *last;
    }
    true
}

/// A text column whose fields are the text, in both forms.
pub(crate) fn text() -> Maker {
    variable(true, verbatim, verbatim)
}

/// A text column; `binary` and `text` append the text of a field of that form.
pub(crate) fn text_from(binary: impl Fn(&[u8], &mut Vec<u8>) -> Step + Copy + Send + Sync + 'static, text: Write) -> Maker {
    variable(true, binary, text)
}

/// A binary column whose fields are the bytes in the binary form.
pub(crate) fn binary(text: Write) -> Maker {
    variable(false, verbatim, text)
}

/// A binary column; `binary` and `text` append the bytes of a field of that form.
pub(crate) fn binary_from(binary: Write, text: Write) -> Maker {
    variable(false, binary, text)
}

/// `binary` is a type parameter because plain text is where most bytes of most tables are.
fn variable(utf8: bool, binary: impl Fn(&[u8], &mut Vec<u8>) -> Step + Copy + Send + Sync + 'static, text: Write) -> Maker {
    Arc::new(move || {
        let (data, offsets, nulls) = (Vec::new(), vec![0], Nulls::default());
        Box::new(Variable { binary, text, utf8, data, offsets, nulls, last_bytes: 0, last_rows: 0 })
    })
}

struct Variable<F> {
    binary: F,
    text: Write,
    utf8: bool,
    data: Vec<u8>,
    /// One more than there are rows: where each begins, and where the last ends.
    offsets: Vec<i32>,
    nulls: Nulls,
    last_bytes: usize,
    last_rows: usize,
}

impl<F> Variable<F> {
    /// Ends the value that begins at `before`.
    #[inline]
    fn end(&mut self, before: usize, held: &mut usize) -> Step {
        let end = self.data.len();
        let Ok(offset) = i32::try_from(end) else { return Err(Fault::full()) };
        self.offsets.push(offset);
        *held += end - before;
        Ok(())
    }
}

impl<F: Fn(&[u8], &mut Vec<u8>) -> Step + Send> Column for Variable<F> {
    fn push(&mut self, field: &[u8], held: &mut usize) -> Step {
        let before = self.data.len();
        (self.binary)(field, &mut self.data)?;
        self.end(before, held)
    }

    fn push_text(&mut self, field: &[u8], held: &mut usize) -> Step {
        let before = self.data.len();
        (self.text)(field, &mut self.data)?;
        self.end(before, held)
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
