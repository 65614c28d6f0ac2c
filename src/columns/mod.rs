//! Columns under construction: values in their wire form go in one by one, an Arrow array comes out.
//!
//! Promises: a value is appended whole or the batch is given up; bytes from the server never panic and never make
//! anything larger than themselves allocate beforehand; both wire forms of a value give the same element. Knows no
//! PostgreSQL types: what a field's bytes mean is a closure from `types`, chosen once per column and compiled into
//! the column's own `push`.

pub(crate) mod explain;
pub(crate) mod fixed;
pub(crate) mod list;
pub(crate) mod map;
pub(crate) mod record;
pub(crate) mod show;
pub(crate) mod variable;

use crate::values::{Fault, Step};
use arrow::array::{ArrayRef, BooleanBufferBuilder};
use arrow::buffer::NullBuffer;
use std::sync::Arc;

/// One column under construction.
pub(crate) trait Column: Send {
    /// Appends the value whose binary form is `field`; adds to `held` the bytes it takes beyond [`Self::width`].
    fn push(&mut self, field: &[u8], held: &mut usize) -> Step;

    /// Appends the value whose text form is `field`.
    fn push_text(&mut self, field: &[u8], held: &mut usize) -> Step;

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

/// A column whose values always come as text, whatever the rest of the row comes as: the query casts them.
pub(crate) struct AsText(pub(crate) Box<dyn Column>);

impl Column for AsText {
    fn push(&mut self, field: &[u8], held: &mut usize) -> Step {
        self.0.push_text(field, held)
    }

    fn push_text(&mut self, field: &[u8], held: &mut usize) -> Step {
        self.0.push_text(field, held)
    }

    fn push_null(&mut self) {
        self.0.push_null();
    }

    fn width(&self) -> usize {
        self.0.width()
    }

    fn reserve(&mut self) {
        self.0.reserve();
    }

    fn finish(&mut self) -> Finished {
        self.0.finish()
    }
}

/// Appends a part of a value (an element, an attribute), in the form that the whole has.
pub(crate) fn push_part(column: &mut dyn Column, part: Option<&[u8]>, text: bool, held: &mut usize) -> Step {
    match part {
        Some(part) if text => column.push_text(part, held),
        Some(part) => column.push(part, held),
        None => {
            column.push_null();
            Ok(())
        }
    }
}

/// The row that holds an element, of rows that begin at `offsets`.
pub(crate) fn row_of(offsets: &[i32], element: usize) -> usize {
    offsets.partition_point(|start| usize::try_from(*start).is_ok_and(|start| start <= element)).saturating_sub(1)
}

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
