//! Columns without nesting, encoded straight from Arrow's buffers.
//!
//! The general encoder of the `parquet` crate sees each value several times: as a definition level, as an index, in a hash
//! table, once more for the statistics; it has one compression context for each column. For a flat column none of this is
//! needed: levels are one run unless there are NULLs, bounds come from the values while they are in the nearest cache, and
//! what a column is stored as is decided once (`layout`). It halves the time that a table like lineitem takes. Nested
//! columns and rare types go the general way.
//!
//! Promises the same file format: data pages of version 1, bounds of pages and chunk, both indexes, and for every reader the
//! same values and types.

pub(crate) mod bits;
mod bounds;
mod chunk;
mod compress;
mod dictionary;
mod number;
mod numbers;
mod texts;

use super::encode::{Compression, broken};
use crate::error::Result;
use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, TimeUnit};
use chunk::Chunk;
pub(crate) use chunk::Pieces;
pub(crate) use dictionary::Texts as Distinct;
use number::Number;
use numbers::Numbers;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::schema::types::ColumnDescPtr;
use texts::Texts;

/// What the values of a column are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// One after the other.
    Plain,
    /// Whole numbers as differences, in as many bits as a block of them needs.
    Deltas,
    /// As indices of a dictionary, until that grows too large.
    Dictionary,
}

/// Where pages and dictionaries end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Rows of a page.
    pub(crate) page_rows: usize,
    /// Bytes of a page before compression; the last value may exceed it.
    pub(crate) page_bytes: usize,
    /// Bytes of a dictionary.
    pub(crate) dictionary_bytes: usize,
    /// Whether whole numbers may be stored as deltas once a dictionary was given up.
    pub(crate) deltas: bool,
}

/// A dictionary is not worth its while when more than half of the values are new. Looked at after each page.
fn too_many_distinct(distinct: usize, values: usize) -> bool {
    values >= 4096 && distinct > values / 2
}

/// The column chunk of a flat column being filled.
pub(crate) struct FlatColumn(Typed);

/// By what is stored.
enum Typed {
    Int32(Numbers<i32>),
    Int64(Numbers<i64>),
    Float(Numbers<f32>),
    Double(Numbers<f64>),
    Decimal(Numbers<i128>),
    Sixteen(Numbers<u128>),
    Texts(Texts),
}

/// The same for a column of whichever type.
macro_rules! each {
    ($typed:expr, $column:ident => $what:expr) => {
        match $typed {
            Typed::Int32($column) => $what,
            Typed::Int64($column) => $what,
            Typed::Float($column) => $what,
            Typed::Double($column) => $what,
            Typed::Decimal($column) => $what,
            Typed::Sixteen($column) => $what,
            Typed::Texts($column) => $what,
        }
    };
}

impl FlatColumn {
    /// Begins a chunk; `None` for a type that goes the general way.
    pub(crate) fn new(ty: &DataType, descr: ColumnDescPtr, compression: Compression, scheme: Scheme, limits: Limits) -> Option<Self> {
        if descr.max_rep_level() > 0 || descr.max_def_level() > 1 {
            return None;
        }
        let width = usize::try_from(descr.type_length()).unwrap_or(0);
        let chunk = Chunk::new(descr, compression);
        let typed = match ty {
            DataType::Int16 | DataType::Int32 | DataType::Date32 | DataType::Decimal128(..=9, _) => {
                Typed::Int32(Numbers::new(chunk, scheme, limits, 4))
            }
            DataType::Int64
            | DataType::Time64(TimeUnit::Microsecond)
            | DataType::Timestamp(TimeUnit::Microsecond, _)
            | DataType::Decimal128(..=18, _) => Typed::Int64(Numbers::new(chunk, scheme, limits, 8)),
            DataType::Float32 => Typed::Float(Numbers::new(chunk, scheme, limits, 4)),
            DataType::Float64 => Typed::Double(Numbers::new(chunk, scheme, limits, 8)),
            DataType::Decimal128(..) if (1..=16).contains(&width) => Typed::Decimal(Numbers::new(chunk, scheme, limits, width)),
            DataType::FixedSizeBinary(16) if width == 16 => Typed::Sixteen(Numbers::new(chunk, scheme, limits, width)),
            DataType::Utf8 => Typed::Texts(Texts::new(chunk, scheme, limits, true)),
            DataType::Binary => Typed::Texts(Texts::new(chunk, scheme, limits, false)),
            _ => return None,
        };
        Some(Self(typed))
    }

    /// Appends an array of the column's type.
    pub(crate) fn write(&mut self, array: &ArrayRef) -> Result<()> {
        match (&mut self.0, array.data_type()) {
            (Typed::Int32(column), DataType::Int16) => write::<Int16Type, _>(column, array, i32::from),
            (Typed::Int32(column), DataType::Int32) => write::<Int32Type, _>(column, array, |value| value),
            (Typed::Int32(column), DataType::Date32) => write::<Date32Type, _>(column, array, |value| value),
            (Typed::Int32(column), DataType::Decimal128(..)) => write::<Decimal128Type, _>(column, array, |value| value as i32),
            (Typed::Int64(column), DataType::Int64) => write::<Int64Type, _>(column, array, |value| value),
            (Typed::Int64(column), DataType::Time64(_)) => write::<Time64MicrosecondType, _>(column, array, |value| value),
            (Typed::Int64(column), DataType::Timestamp(..)) => write::<TimestampMicrosecondType, _>(column, array, |value| value),
            (Typed::Int64(column), DataType::Decimal128(..)) => write::<Decimal128Type, _>(column, array, |value| value as i64),
            (Typed::Float(column), DataType::Float32) => write::<Float32Type, _>(column, array, |value| value),
            (Typed::Double(column), DataType::Float64) => write::<Float64Type, _>(column, array, |value| value),
            (Typed::Decimal(column), DataType::Decimal128(..)) => write::<Decimal128Type, _>(column, array, |value| value),
            (Typed::Sixteen(column), DataType::FixedSizeBinary(16)) => {
                let array = array.as_fixed_size_binary();
                let (values, _) = array.value_data().as_chunks::<16>();
                column.write(values, array.nulls(), u128::from_be_bytes)
            }
            (Typed::Texts(column), DataType::Utf8) => {
                let array = array.as_string::<i32>();
                column.write(array.value_offsets(), array.value_data(), array.nulls())
            }
            (Typed::Texts(column), DataType::Binary) => {
                let array = array.as_binary::<i32>();
                column.write(array.value_offsets(), array.value_data(), array.nulls())
            }
            (_, found) => Err(broken(ParquetError::General(format!("a column of another type has values of type {found}")))),
        }
    }

    /// Memory held.
    pub(crate) fn held(&self) -> usize {
        each!(&self.0, column => column.held())
    }

    /// Bytes of the chunk so far, about.
    pub(crate) fn encoded(&self) -> usize {
        each!(&self.0, column => column.encoded())
    }

    /// Ends the chunk.
    pub(crate) fn close(self) -> Result<(Pieces, ColumnCloseResult)> {
        each!(self.0, column => column.close())
    }
}

fn write<T: ArrowPrimitiveType, N: Number>(column: &mut Numbers<N>, array: &ArrayRef, convert: impl Fn(T::Native) -> N) -> Result<()> {
    let array = array.as_primitive::<T>();
    column.write(array.values(), array.nulls(), convert)
}

#[cfg(test)]
mod tests;
