//! Columns of key-value pairs of text, as maps.

use super::{Column, Finished, Maker, Nulls, push_part, row_of, variable, with_slack};
use crate::values::{Fault, Parts, Step};
use arrow::array::{ArrayRef, MapArray, StructArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, FieldRef};
use std::sync::Arc;

/// Hands over key, value, key, value, and so on; returns the number of pairs.
pub(crate) type SplitPairs = fn(&[u8], &mut Parts<'_>) -> Step<usize>;

/// A column of maps from text to text. `entries` is the field of the pairs.
pub(crate) fn map(entries: FieldRef, binary: SplitPairs, text: SplitPairs) -> Maker {
    Arc::new(move || {
        let (keys, values) = (variable::text()(), variable::text()());
        Box::new(Pairs { entries: entries.clone(), binary, text, keys, values, offsets: vec![0], nulls: Nulls::default(), last: 0 })
    })
}

struct Pairs {
    entries: FieldRef,
    binary: SplitPairs,
    text: SplitPairs,
    keys: Box<dyn Column>,
    values: Box<dyn Column>,
    offsets: Vec<i32>,
    nulls: Nulls,
    last: usize,
}

impl Pairs {
    fn push_pairs(&mut self, field: &[u8], is_text: bool, held: &mut usize) -> Step {
        let split = if is_text { self.text } else { self.binary };
        let (keys, values, mut is_key) = (&mut self.keys, &mut self.values, true);
        let pairs = split(field, &mut |part| {
            is_key = !is_key;
            match (!is_key, part) {
                (true, None) => Err(Fault::malformed("a key of a map is NULL")),
                (true, part) => push_part(keys.as_mut(), part, is_text, held),
                (false, part) => push_part(values.as_mut(), part, is_text, held),
            }
        })?;
        let start = self.offsets.last().copied().unwrap_or(0);
        let Some(end) = i32::try_from(pairs).ok().and_then(|pairs| start.checked_add(pairs)) else { return Err(Fault::full()) };
        self.offsets.push(end);
        *held += pairs * (self.keys.width() + self.values.width());
        Ok(())
    }
}

impl Column for Pairs {
    fn push(&mut self, field: &[u8], held: &mut usize) -> Step {
        self.push_pairs(field, false, held)
    }

    fn push_text(&mut self, field: &[u8], held: &mut usize) -> Step {
        self.push_pairs(field, true, held)
    }

    fn push_null(&mut self) {
        self.nulls.push(self.offsets.len() - 1);
        self.offsets.push(self.offsets.last().copied().unwrap_or(0));
    }

    fn width(&self) -> usize {
        size_of::<i32>()
    }

    fn reserve(&mut self) {
        self.offsets.reserve_exact(with_slack(self.last));
        self.keys.reserve();
        self.values.reserve();
    }

    fn finish(&mut self) -> Finished {
        self.last = self.offsets.len() - 1;
        let nulls = self.nulls.finish(self.last);
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        let in_row = |(pair, fault): (usize, Box<Fault>)| (row_of(&offsets, pair), fault);
        let keys = self.keys.finish().map_err(in_row)?;
        let values = self.values.finish().map_err(in_row)?;
        let DataType::Struct(fields) = self.entries.data_type() else { return Err((0, Fault::bug("the entries of a map are no structs"))) };
        let bug = |e| (0, Fault::bug(e));
        let entries = StructArray::try_new(fields.clone(), vec![keys, values], None).map_err(bug)?;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let array = MapArray::try_new(self.entries.clone(), offsets, entries, nulls, false).map_err(bug)?;
        Ok(Arc::new(array) as ArrayRef)
    }
}
