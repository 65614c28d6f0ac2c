//! Columns of values with many parts of one type, as lists: arrays, multiranges, vectors.
//!
//! PostgreSQL declares arrays without a number of dimensions that it would hold to, so that any value can have any; a
//! list has the depth that its type says, and a value of another depth is an error, never flattened or wrapped. An empty
//! array has no dimensions and fits any depth. Where an array's numbering starts (its lower bound, almost always 1) is
//! not kept.

use super::{Column, Finished, Maker, Nulls, push_part, row_of, with_slack};
use crate::values::parts::{Dimensions, array_binary, array_elements, one_dimension};
use crate::values::{Fault, Parts, Step};
use arrow::array::{ArrayRef, ListArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::FieldRef;
use std::sync::Arc;

/// Cuts a value into its elements, in row-major order, and says how they are arranged.
pub(crate) type SplitList = Arc<dyn Fn(&[u8], &mut Parts<'_>) -> Step<Dimensions> + Send + Sync>;

/// How the binary form is cut into elements.
#[derive(Clone)]
pub(crate) enum Cut {
    /// As `array_send` writes it. Known to the column, because calls through pointers cost more than most elements.
    Array,
    /// By a function.
    By(SplitList),
}

/// A column of lists whose innermost elements go into `element`, a type of this `name`. `fields` are those of the lists'
/// elements, the outermost first: as many as there are dimensions.
pub(crate) fn list(fields: Vec<FieldRef>, element: Maker, name: String, binary: Cut, text: SplitList) -> Maker {
    Arc::new(move || {
        Box::new(List {
            levels: fields.iter().map(|field| Level { field: field.clone(), offsets: vec![0], last: 0 }).collect(),
            elements: element(),
            name: name.clone(),
            binary: binary.clone(),
            text: text.clone(),
            nulls: Nulls::default(),
        })
    })
}

struct List {
    /// The outermost first.
    levels: Vec<Level>,
    elements: Box<dyn Column>,
    /// Of the elements' type, for messages.
    name: String,
    binary: Cut,
    text: SplitList,
    nulls: Nulls,
}

/// One dimension.
struct Level {
    field: FieldRef,
    /// Where each list begins in the next level, and where the last ends.
    offsets: Vec<i32>,
    last: usize,
}

impl Level {
    fn end(&self) -> i32 {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Appends `lists` lists of `len` elements each.
    fn append(&mut self, lists: usize, len: usize) -> Step {
        let len = i32::try_from(len).map_err(|_| Fault::full())?;
        for _ in 0..lists {
            let Some(end) = self.end().checked_add(len) else { return Err(Fault::full()) };
            self.offsets.push(end);
        }
        Ok(())
    }
}

impl List {
    /// Arranges the `count` elements of a value that have just been appended.
    fn arrange(&mut self, dimensions: &Dimensions, count: usize, held: &mut usize) -> Step {
        *held += count * self.elements.width();
        let lengths = dimensions.lengths();
        if lengths.is_empty() {
            return self.levels.first_mut().map_or(Ok(()), |outermost| outermost.append(1, 0));
        }
        if lengths.len() != self.levels.len() {
            return Err(self.wrong_depth(lengths));
        }
        if lengths.iter().try_fold(1_usize, |all, len| all.checked_mul(*len)) != Some(count) || count == 0 {
            return Err(Fault::malformed(format!("an array of {} has {count} elements", by(lengths))));
        }
        let mut lists = 1;
        for (depth, (level, len)) in self.levels.iter_mut().zip(lengths).enumerate() {
            level.append(lists, *len)?;
            // The outermost list is in the column's width.
            *held += if depth == 0 { 0 } else { lists * size_of::<i32>() };
            lists *= len;
        }
        Ok(())
    }

    #[cold]
    fn wrong_depth(&self, lengths: &[usize]) -> Box<Fault> {
        let many = |n: usize| if n == 1 { "one dimension".to_owned() } else { format!("{n} dimensions") };
        Fault::unfit(
            format!("an array of {}", by(lengths)),
            format!(
                "not of {}; for arrays of {} name the type {}{}{} in \"column_types\"",
                many(self.levels.len()),
                many(lengths.len()),
                "list<".repeat(lengths.len()),
                self.name,
                ">".repeat(lengths.len())
            ),
        )
    }
}

fn by(lengths: &[usize]) -> String {
    lengths.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ")
}

impl Column for List {
    fn push(&mut self, field: &[u8], held: &mut usize) -> Step {
        let (elements, mut count) = (self.elements.as_mut(), 0_usize);
        if matches!(self.binary, Cut::Array)
            && let [level] = self.levels.as_mut_slice()
            && let Some((len, rest)) = one_dimension(field)
        {
            array_elements(len, rest, &mut |part: Option<&[u8]>| push_part(elements, part, false, held))?;
            *held += len * elements.width();
            return level.append(1, len);
        }
        let mut part = |part: Option<&[u8]>| {
            count += 1;
            push_part(elements, part, false, held)
        };
        let dimensions = match &self.binary {
            Cut::Array => array_binary(field, &mut part)?,
            Cut::By(split) => split(field, &mut part)?,
        };
        self.arrange(&dimensions, count, held)
    }

    fn push_text(&mut self, field: &[u8], held: &mut usize) -> Step {
        let (elements, mut count) = (self.elements.as_mut(), 0_usize);
        let dimensions = (self.text)(field, &mut |part| {
            count += 1;
            push_part(elements, part, true, held)
        })?;
        self.arrange(&dimensions, count, held)
    }

    fn push_null(&mut self) {
        let Some(outermost) = self.levels.first_mut() else { return };
        self.nulls.push(outermost.offsets.len() - 1);
        outermost.offsets.push(outermost.end());
    }

    fn width(&self) -> usize {
        size_of::<i32>()
    }

    fn reserve(&mut self) {
        self.levels.iter_mut().for_each(|level| level.offsets.reserve_exact(with_slack(level.last)));
        self.elements.reserve();
    }

    fn finish(&mut self) -> Finished {
        let rows = self.levels.first().map_or(0, |outermost| outermost.offsets.len() - 1);
        let nulls = self.nulls.finish(rows);
        let offsets: Vec<Vec<i32>> = self
            .levels
            .iter_mut()
            .map(|level| {
                level.last = level.offsets.len() - 1;
                std::mem::replace(&mut level.offsets, vec![0])
            })
            .collect();
        let mut array = self.elements.finish().map_err(|(element, fault)| {
            let row = offsets.iter().rev().fold(element, |element, offsets| row_of(offsets, element));
            (row, fault)
        })?;
        for (depth, (level, offsets)) in self.levels.iter().zip(offsets).enumerate().rev() {
            let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
            let nulls = if depth == 0 { nulls.clone() } else { None };
            let list = ListArray::try_new(level.field.clone(), offsets, array, nulls).map_err(|e| (0, Fault::bug(e)))?;
            array = Arc::new(list) as ArrayRef;
        }
        Ok(array)
    }
}

#[cfg(test)]
mod tests {
    use crate::error::{Kind, Result};
    use crate::postgres::decode::Decoder;
    use crate::types::payload::{array, array_of, base, column, decode, messages};
    use crate::types::pg_type::{PgType, TypeKind};
    use crate::types::special::SpecialValues;
    use crate::types::{Wire, plan_column};
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
    fn what_lists_hold_is_counted_once() {
        let words = |words: &[i32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let three = words(&[1, 0, 23, 3, 1, 4, 7, 4, 8, 4, 9]);
        let four = words(&[2, 0, 23, 2, 1, 2, 1, 4, 6, 4, 7, 4, 8, 4, 9]);
        // An offset for each list, and the numbers.
        for (wanted, dimensions, field, text, expected) in [
            ("list<integer_small>", 1, three, "{7,8,9}", 4 + 3 * 4),
            ("list<list<integer_small>>", 2, four, "{{6,7},{8,9}}", 4 + 2 * 4 + 4 * 4),
        ] {
            let ty =
                PgType { kind: TypeKind::Array { element: Box::new(base(23, "int4", -1)), dimensions }, ..array_of(base(23, "int4", -1)) };
            let plan = plan_column(&column("c", ty), "c", &wanted.parse().expect("type"), SpecialValues::Error).expect("plan");
            let mut decoder = Decoder::new(std::slice::from_ref(&plan), "public.t", Wire::Binary);
            decoder.push(&messages(&[vec![Some(field)]])[0]).expect("push");
            assert_eq!(decoder.bytes(), expected, "{wanted}");
            let mut decoder = Decoder::new(&[plan], "public.t", Wire::Text);
            decoder.push(format!("{text}\n").as_bytes()).expect("push");
            assert_eq!(decoder.bytes(), expected, "{wanted}");
        }
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
            error.to_string().contains("column `c` of public.t, row 1 of its chunk: an array of 2 × 1 is not of one dimension"),
            "{error}"
        );
        assert!(error.advice().is_some_and(|hint| hint.contains("\"string\"")));
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
