//! PostgreSQL's arrays as list columns.
//!
//! Arrays are declared without dimensions, so that a value with more than one can be in any array column; it is an
//! error then, never flattened. Where an array's numbering starts (its lower bound, almost always 1) is not kept.

use super::{Column, Finished, Maker, Nulls, with_slack};
use crate::values::{Fault, Step};
use arrow::array::{ArrayRef, ListArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::FieldRef;
use std::sync::Arc;

/// A column of one-dimensional arrays whose elements go into `element`.
pub(crate) fn list(field: FieldRef, element: Maker) -> Maker {
    Arc::new(move || Box::new(List { field: field.clone(), elements: element(), offsets: vec![0], nulls: Nulls::default(), last: 0 }))
}

struct List {
    field: FieldRef,
    elements: Box<dyn Column>,
    offsets: Vec<i32>,
    nulls: Nulls,
    last: usize,
}

impl Column for List {
    fn push(&mut self, field: &[u8], held: &mut usize) -> Step {
        let mut rest = field;
        let count = dimensions(&mut rest)?;
        // Each element has at least its length on the wire.
        if count > rest.len() / 4 {
            return Err(Fault::malformed(format!("an array claims {count} elements in {} bytes", rest.len())));
        }
        let start = self.offsets.last().copied().unwrap_or(0);
        let Some(end) = i32::try_from(count).ok().and_then(|count| start.checked_add(count)) else { return Err(Fault::full()) };
        for _ in 0..count {
            match int(&mut rest)? {
                -1 => self.elements.push_null(),
                len => {
                    let len = usize::try_from(len).map_err(|_| Fault::malformed(format!("an array element has the length {len}")))?;
                    let Some((value, after)) = rest.split_at_checked(len) else { return Err(cut_off(len, rest.len())) };
                    self.elements.push(value, held)?;
                    rest = after;
                }
            }
        }
        if !rest.is_empty() {
            return Err(Fault::malformed(format!("an array is followed by {} bytes that are not part of it", rest.len())));
        }
        self.offsets.push(end);
        *held += count * self.elements.width();
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
        self.offsets.reserve_exact(with_slack(self.last));
        self.elements.reserve();
    }

    fn finish(&mut self) -> Finished {
        self.last = self.offsets.len() - 1;
        let nulls = self.nulls.finish(self.last);
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        let elements = self.elements.finish().map_err(|(element, fault)| {
            let row = offsets.partition_point(|start| usize::try_from(*start).is_ok_and(|start| start <= element));
            (row.saturating_sub(1), fault)
        })?;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        ListArray::try_new(self.field.clone(), offsets, elements, nulls)
            .map_or_else(|e| Err((0, Fault::bug(e))), |array| Ok(Arc::new(array) as ArrayRef))
    }
}

/// Reads an array's header (`array_send`): dimensions, whether there are NULLs, the element's type, and for each
/// dimension its length and lower bound. Returns the number of elements.
///
/// The element's type is not compared with the catalog's: for an array of a domain it is the domain's, while the
/// catalog's is the base type.
fn dimensions(rest: &mut &[u8]) -> Step<usize> {
    let count = int(rest)?;
    let nulls = int(rest)?;
    let _element_type = int(rest)?;
    if !matches!(nulls, 0 | 1) {
        return Err(Fault::malformed(format!("an array has the flags {nulls:#x}")));
    }
    match count {
        0 => Ok(0),
        1 => {
            let len = int(rest)?;
            let _lower_bound = int(rest)?;
            usize::try_from(len).map_err(|_| Fault::malformed(format!("an array has the length {len}")))
        }
        // `MAXDIM` in PostgreSQL's `c.h`.
        2..=6 => {
            let mut lengths = Vec::with_capacity(6);
            for _ in 0..count {
                lengths.push(int(rest)?.to_string());
                int(rest)?;
            }
            Err(Fault::unfit(format!("an array of {}", lengths.join(" × ")), "not one-dimensional"))
        }
        _ => Err(Fault::malformed(format!("an array has {count} dimensions"))),
    }
}

fn int(rest: &mut &[u8]) -> Step<i32> {
    let Some((bytes, after)) = rest.split_first_chunk::<4>() else { return Err(cut_off(4, rest.len())) };
    *rest = after;
    Ok(i32::from_be_bytes(*bytes))
}

#[cold]
fn cut_off(needed: usize, found: usize) -> Box<Fault> {
    Fault::malformed(format!("an array ends early: {needed} bytes are expected, {found} are left"))
}

#[cfg(test)]
mod tests {
    use crate::error::{Kind, Result};
    use crate::types::payload::{array, array_of, base, decode};
    use arrow::array::types::Int32Type;
    use arrow::array::{ArrayRef, AsArray, ListArray};

    fn ints(field: Vec<u8>) -> Result<ArrayRef> {
        decode(array_of(base(23, "int4", -1)), "list<integer_small>", vec![Some(field)])
    }

    fn int(value: i32) -> Option<Vec<u8>> {
        Some(value.to_be_bytes().to_vec())
    }

    #[test]
    fn null_empty_and_lists_with_nulls_are_three_things() {
        let rows = vec![Some(array(&[int(1), None, int(-3)], 1)), None, Some(array(&[], 1)), Some(array(&[None], 0))];
        let found = decode(array_of(base(23, "int4", -1)), "list<integer_small>", rows).expect("decode");
        let expected =
            ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None, Some(-3)]), None, Some(vec![]), Some(vec![None])]);
        assert_eq!(format!("{:?}", found.as_list::<i32>()), format!("{expected:?}").replace("\"item\"", "\"element\""));
    }

    #[test]
    fn lists_of_text_and_of_widened_integers() {
        let rows = vec![Some(array(&[Some(b"a".to_vec()), Some(vec![])], 1)), Some(array(&[Some("é".into())], 1))];
        let found = decode(array_of(base(25, "text", -1)), "list<string>", rows).expect("decode");
        let found: Vec<Vec<_>> = found
            .as_list::<i32>()
            .iter()
            .flatten()
            .map(|list| list.as_string::<i32>().iter().map(|s| s.map(str::to_owned)).collect())
            .collect();
        assert_eq!(found, [vec![Some("a".to_owned()), Some(String::new())], vec![Some("é".to_owned())]]);
        let found = decode(array_of(base(23, "int4", -1)), "list<integer>", vec![Some(array(&[int(i32::MIN)], 1))]).expect("decode");
        assert_eq!(found.as_list::<i32>().value(0).as_primitive::<arrow::array::types::Int64Type>().value(0), i64::from(i32::MIN));
    }

    #[test]
    fn two_dimensions_are_refused_with_the_way_out() {
        let mut field = Vec::new();
        for word in [2_i32, 0, 23, 2, 1, 1, 1] {
            field.extend(word.to_be_bytes());
        }
        for _ in 0..2 {
            field.extend([0, 0, 0, 4, 0, 0, 0, 9]);
        }
        let error = ints(field).expect_err("two dimensions");
        assert_eq!(error.kind(), Kind::Schema);
        assert!(
            error.to_string().contains("column `c` of public.t, row 1 of its chunk: an array of 2 × 1 is not one-dimensional"),
            "{error}"
        );
        assert!(error.advice().is_some_and(|hint| hint.contains("`string`")));
    }

    #[test]
    fn malformed_arrays_are_errors() {
        let good = array(&[int(1), int(2)], 1);
        for cut in 0..good.len() {
            assert_eq!(ints(good[..cut].to_vec()).expect_err("cut").kind(), Kind::Source);
        }
        let with = |at: usize, word: i32| {
            let mut field = good.clone();
            field[at..at + 4].copy_from_slice(&word.to_be_bytes());
            field
        };
        let cases = [
            with(0, 7),
            with(0, -1),
            with(4, 2),
            with(12, i32::MAX),
            with(12, -1),
            with(12, 1),
            with(20, -2),
            with(20, i32::MAX),
            with(20, 3),
        ];
        for field in cases {
            assert_eq!(ints(field.clone()).expect_err("malformed").kind(), Kind::Source, "{field:?}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_found_in_its_row() {
        let rows = vec![
            Some(array(&[Some(b"a".to_vec())], 1)),
            None,
            Some(array(&[], 1)),
            Some(array(&[Some(b"b".to_vec()), Some(vec![0xFF])], 1)),
        ];
        let error = decode(array_of(base(25, "text", -1)), "list<string>", rows).expect_err("not UTF-8");
        assert!(error.to_string().contains("row 4"), "{error}");
    }
}
