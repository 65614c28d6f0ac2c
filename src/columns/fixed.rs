//! Columns of values that all take the same room: numbers, dates, booleans, uuids.

use super::{Column, Finished, Maker, Nulls, with_slack};
use crate::values::plain::uuid_text;
use crate::values::{Fault, Nearest, Step, exact_bytes, not_a};
use arrow::array::types::ArrowPrimitiveType;
use arrow::array::{ArrayRef, BooleanArray, BooleanBufferBuilder, FixedSizeBinaryArray, PrimitiveArray};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::DataType;
use std::sync::Arc;

/// What becomes of a value that the column's type has no place for (NaN in a decimal, an infinite date).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnSpecial<N> {
    /// It is an error.
    Refuse,
    /// It becomes NULL.
    Null,
    /// It becomes the nearest of the type's values.
    Clamp {
        /// For what lies below all of them.
        lowest: N,
        /// For what lies above all of them.
        highest: N,
    },
}

/// A column of `T`; `binary` and `text` turn a field of that form into one value.
pub(crate) fn primitive<T: ArrowPrimitiveType>(
    data_type: DataType,
    binary: impl Fn(&[u8]) -> Step<T::Native> + Copy + Send + Sync + 'static,
    text: impl Fn(&[u8]) -> Step<T::Native> + Copy + Send + Sync + 'static,
    special: OnSpecial<T::Native>,
) -> Maker {
    Arc::new(move || {
        let (values, nulls) = (Vec::new(), Nulls::default());
        Box::new(Primitive::<T, _, _> { binary, text, special, data_type: data_type.clone(), values, nulls, last: 0 })
    })
}

struct Primitive<T: ArrowPrimitiveType, B, X> {
    binary: B,
    text: X,
    special: OnSpecial<T::Native>,
    data_type: DataType,
    values: Vec<T::Native>,
    nulls: Nulls,
    last: usize,
}

impl<T: ArrowPrimitiveType, B, X> Primitive<T, B, X> {
    /// The exceptional end of reading a value.
    #[cold]
    fn special(&mut self, fault: Box<Fault>) -> Step {
        let Fault::Special { nearest, .. } = *fault else { return Err(fault) };
        match (self.special, nearest) {
            (OnSpecial::Null, _) => {
                self.nulls.push(self.values.len());
                self.values.push(T::Native::default());
            }
            (OnSpecial::Clamp { lowest, .. }, Nearest::Lowest) => self.values.push(lowest),
            (OnSpecial::Clamp { highest, .. }, Nearest::Highest) => self.values.push(highest),
            (OnSpecial::Refuse, _) | (OnSpecial::Clamp { .. }, Nearest::Nothing) => return Err(fault),
        }
        Ok(())
    }
}

impl<T, B, X> Column for Primitive<T, B, X>
where
    T: ArrowPrimitiveType,
    B: Fn(&[u8]) -> Step<T::Native> + Send,
    X: Fn(&[u8]) -> Step<T::Native> + Send,
{
    fn push(&mut self, field: &[u8], _held: &mut usize) -> Step {
        match (self.binary)(field) {
            Ok(value) => {
                self.values.push(value);
                Ok(())
            }
            Err(fault) => self.special(fault),
        }
    }

    fn push_text(&mut self, field: &[u8], _held: &mut usize) -> Step {
        match (self.text)(field) {
            Ok(value) => {
                self.values.push(value);
                Ok(())
            }
            Err(fault) => self.special(fault),
        }
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

/// A column of booleans; one byte on the wire, 0 or 1 (`boolsend`), or a letter (`boolout`; a cast spells it out).
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

    fn push_text(&mut self, field: &[u8], _held: &mut usize) -> Step {
        match field {
            b"f" | b"false" => self.values.append(false),
            b"t" | b"true" => self.values.append(true),
            _ => return Err(not_a("a boolean", field)),
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

    fn push_text(&mut self, field: &[u8], _held: &mut usize) -> Step {
        self.values.push(uuid_text(field)?);
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
