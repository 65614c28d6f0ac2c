//! Columns of values with named parts, as structs: composite types, ranges, points.

use super::{Column, Finished, Maker, Nulls, push_part};
use crate::values::{Fault, Parts, Step};
use arrow::array::{ArrayRef, StructArray};
use arrow::datatypes::Fields;
use std::sync::Arc;

/// Cuts a value into its parts.
pub(crate) type Split = Arc<dyn Fn(&[u8], &mut Parts<'_>) -> Step + Send + Sync>;

/// A column of structs: `binary` and `text` cut a value of that form into as many parts as there are `fields`, each of
/// which goes into its column. With `special_is_null` a value that cannot be cut because it is special becomes NULL.
pub(crate) fn record(fields: Fields, columns: Vec<Maker>, binary: Split, text: Split, special_is_null: bool) -> Maker {
    Arc::new(move || {
        let columns = columns.iter().map(|column| column()).collect();
        let (fields, binary, text) = (fields.clone(), binary.clone(), text.clone());
        Box::new(Record { fields, columns, binary, text, special_is_null, rows: 0, nulls: Nulls::default() })
    })
}

struct Record {
    fields: Fields,
    columns: Vec<Box<dyn Column>>,
    binary: Split,
    text: Split,
    special_is_null: bool,
    rows: usize,
    nulls: Nulls,
}

impl Record {
    fn push_parts(&mut self, field: &[u8], is_text: bool, held: &mut usize) -> Step {
        let split = if is_text { &self.text } else { &self.binary };
        let (columns, mut at) = (&mut self.columns, 0);
        let expected = columns.len();
        let result = split(field, &mut |part| {
            let Some(column) = columns.get_mut(at) else { return Err(wrong_number(expected, at + 1)) };
            at += 1;
            push_part(column.as_mut(), part, is_text, held)
        });
        match result {
            Err(fault) if self.special_is_null && at == 0 && matches!(*fault, Fault::Special { .. }) => {
                self.push_null();
                return Ok(());
            }
            other => other?,
        }
        if at != expected {
            return Err(wrong_number(expected, at));
        }
        self.rows += 1;
        Ok(())
    }
}

#[cold]
fn wrong_number(expected: usize, found: usize) -> Box<Fault> {
    Fault::malformed(format!("a value of {expected} parts has {found}; was its type changed?"))
}

impl Column for Record {
    fn push(&mut self, field: &[u8], held: &mut usize) -> Step {
        self.push_parts(field, false, held)
    }

    fn push_text(&mut self, field: &[u8], held: &mut usize) -> Step {
        self.push_parts(field, true, held)
    }

    fn push_null(&mut self) {
        self.nulls.push(self.rows);
        self.columns.iter_mut().for_each(|column| column.push_null());
        self.rows += 1;
    }

    fn width(&self) -> usize {
        self.columns.iter().map(|column| column.width()).sum()
    }

    fn reserve(&mut self) {
        self.columns.iter_mut().for_each(|column| column.reserve());
    }

    fn finish(&mut self) -> Finished {
        let rows = std::mem::take(&mut self.rows);
        let nulls = self.nulls.finish(rows);
        let columns = self.columns.iter_mut().map(|column| column.finish()).collect::<Result<Vec<ArrayRef>, _>>()?;
        StructArray::try_new_with_length(self.fields.clone(), columns, nulls, rows)
            .map_or_else(|e| Err((0, Fault::bug(e))), |array| Ok(Arc::new(array) as ArrayRef))
    }
}
