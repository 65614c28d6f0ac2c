//! How the columns of one file are laid out: pages, dictionaries, and what they cost in memory.
//!
//! A column writer of the `parquet` crate keeps three things that are not encoded bytes: a hash table
//! while it builds a dictionary, the page being filled, and a zstd context (half a megabyte and more)
//! once it has compressed its first page. For a table of 1,600 columns these are larger than the bound
//! on a whole row group, so they are decided here, from the number of columns and the bound.
//! Pure: knows schemas and batches, no files.

use super::encode::{Compression, EncodeOptions};
use super::flat::{Distinct, Limits, Scheme, bits};
use crate::error::{Error, Kind, Result};
use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, TimeUnit};
use parquet::arrow::add_encoded_arrow_schema_to_metadata;
use parquet::arrow::arrow_writer::ArrowColumnWriter;
use parquet::basic::ZstdLevel;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::{ColumnPath, SchemaDescriptor};

/// Readers such as parquet-mr parse this to know which bugs a file may have: "name version number".
const CREATED_BY: &str = concat!("lakeward version ", env!("CARGO_PKG_VERSION"));

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A column whose dictionary grows beyond this is written plainly.
const DICTIONARY_BYTES_MAX: usize = MIB;
/// What a dictionary of numbers costs before its first value (a hash table of 8,192 places), rounded up.
const DICTIONARY_BYTES_EMPTY: usize = 128 * KIB;
const PAGE_BYTES: usize = MIB;
const PAGE_ROWS: usize = 20_000;
/// With late compression a page is a whole column of the row group, but never larger than this.
const LATE_PAGE_BYTES: usize = 8 * MIB;
/// Values after which a column looks whether its page is full. More are faster (by some 5 % from 1024 to 4096)
/// and make pages overshoot further, which matters when values are large.
const STEP_ROWS: usize = 4096;
const STEP_ROWS_LARGE: usize = 512;
/// Average bytes of a row from which its values count as large.
const LARGE_ROW_BYTES: usize = 4 * KIB;
/// How many values of the first batch are looked at, per column.
const SAMPLE: usize = 4096;

/// The decisions for one file.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Rows after which a page is compressed.
    page_rows: usize,
    /// Encoded bytes after which a page is compressed.
    page_bytes: usize,
    /// Rows after which a page's size is looked at.
    step_rows: usize,
    /// What one column's compression context occupies once it has compressed a page.
    context_bytes: usize,
    /// Largest dictionary, and whether columns of fixed width may have one at all.
    dictionary_bytes: usize,
    dictionary_of_numbers: bool,
    /// By leaf: what values are stored as.
    schemes: Vec<Scheme>,
    /// Whether numbers may be stored as deltas.
    deltas: bool,
}

impl Layout {
    /// Decides for a file with the leaves of `parquet`, of which up to `files` are open at once and share
    /// `options.row_group_bytes`. `first` is the first batch of the file, if there is one.
    pub(crate) fn of(parquet: &SchemaDescriptor, options: &EncodeOptions, files: usize, first: Option<&RecordBatch>) -> Self {
        let leaves = parquet.num_columns().max(1);
        let share = options.row_group_bytes / leaves;
        let context_bytes = options.compression.context_bytes();
        // When the contexts would take half of the bound, pages are compressed only as the row group
        // closes, one context per thread at a time. Row groups are then bounded by uncompressed bytes.
        let late = context_bytes.saturating_mul(leaves).saturating_mul(files) > options.row_group_bytes / 2;
        // Where numbers cannot be deltas, the alternative to a dictionary is the dearest to compress.
        let dictionary_bytes = match options.deltas {
            true => (share / 4).min(DICTIONARY_BYTES_MAX),
            false => (share / 2).min(2 * DICTIONARY_BYTES_MAX),
        };
        let large = first.is_some_and(|batch| batch.get_array_memory_size() / batch.num_rows().max(1) >= LARGE_ROW_BYTES);
        let mut layout = Self {
            page_rows: if late { usize::MAX } else { PAGE_ROWS },
            page_bytes: if late { LATE_PAGE_BYTES } else { PAGE_BYTES },
            step_rows: if large { STEP_ROWS_LARGE } else { STEP_ROWS },
            context_bytes,
            dictionary_bytes,
            dictionary_of_numbers: share / files >= 4 * DICTIONARY_BYTES_EMPTY,
            schemes: Vec::with_capacity(leaves),
            deltas: options.deltas,
        };
        layout.schemes = (0..parquet.num_columns())
            .map(|leaf| {
                let (column, root) = (parquet.column(leaf), parquet.get_column_root_idx(leaf));
                let variable = column.physical_type() == parquet::basic::Type::BYTE_ARRAY;
                let limit = if variable || layout.dictionary_of_numbers { dictionary_bytes } else { 0 };
                match first.and_then(|batch| batch.columns().get(root)) {
                    Some(array) => scheme(array, limit, options.deltas),
                    None if limit > 0 => Scheme::Dictionary,
                    None => Scheme::Plain,
                }
            })
            .collect();
        layout
    }

    /// The same decisions in the terms of the `parquet` crate.
    pub(crate) fn properties(&self, schema: &Schema, parquet: &SchemaDescriptor, options: &EncodeOptions) -> Result<WriterProperties> {
        let mut builder = WriterProperties::builder()
            .set_created_by(CREATED_BY.to_owned())
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_compression(options.compression.codec()?)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_data_page_row_count_limit(self.page_rows)
            .set_data_page_size_limit(self.page_bytes)
            .set_write_batch_size(self.step_rows)
            .set_dictionary_page_size_limit(self.dictionary_bytes);
        for (leaf, _) in self.schemes.iter().enumerate().filter(|(_, scheme)| **scheme != Scheme::Dictionary) {
            builder = builder.set_column_dictionary_enabled(ColumnPath::new(parquet.column(leaf).path().parts().to_vec()), false);
        }
        let mut properties = builder.build();
        add_encoded_arrow_schema_to_metadata(schema, &mut properties);
        Ok(properties)
    }

    /// What a flat leaf is stored as. Its pages are compressed as they become full: its writer has no context of its own.
    pub(crate) fn flat(&self, leaf: usize) -> (Scheme, Limits) {
        let scheme = self.schemes.get(leaf).copied().unwrap_or(Scheme::Plain);
        let limits = Limits { page_rows: PAGE_ROWS, page_bytes: PAGE_BYTES, dictionary_bytes: self.dictionary_bytes, deltas: self.deltas };
        (scheme, limits)
    }

    /// Bytes that the writer of leaf `leaf` holds, never too few: `memory_size` leaves out the pages that
    /// wait for their dictionary, `get_estimated_total_bytes` leaves out the hash table, so that their sum
    /// counts all of a column with a dictionary, and its values twice at most.
    pub(crate) fn held(&self, leaf: usize, writer: &ArrowColumnWriter, rows: usize) -> usize {
        let (memory, encoded) = (writer.memory_size(), writer.get_estimated_total_bytes());
        let context = if rows >= self.page_rows || encoded >= self.page_bytes { self.context_bytes } else { 0 };
        memory + context + if self.schemes.get(leaf).is_some_and(|scheme| *scheme != Scheme::Dictionary) { 0 } else { encoded }
    }
}

impl Compression {
    pub(super) fn codec(self) -> Result<parquet::basic::Compression> {
        Ok(match self {
            Self::None => parquet::basic::Compression::UNCOMPRESSED,
            Self::Snappy => parquet::basic::Compression::SNAPPY,
            Self::Zstd(level) => parquet::basic::Compression::ZSTD(
                ZstdLevel::try_new(level)
                    .map_err(|_| Error::new(Kind::Config, format!("zstd level {level} is not one of 1 to 22")).hint("1 is the fastest"))?,
            ),
        })
    }

    /// `ZSTD_sizeof_CCtx` after a page of up to a megabyte, zstd 1.5.
    fn context_bytes(self) -> usize {
        match self {
            Self::None | Self::Snappy => 0,
            Self::Zstd(..=2) => 600 * KIB,
            Self::Zstd(3..=5) => 1300 * KIB,
            Self::Zstd(6..=8) => 3600 * KIB,
            Self::Zstd(9..) => 18 * MIB,
        }
    }
}

/// Guesses from a sample what a column is best stored as, when its dictionary may have `limit` bytes.
///
/// Hashing every value only to give the dictionary up is the dearest thing an encoder can do. Of numbers a dictionary must be
/// clearly smaller than their deltas, which take less time. A wrong guess costs time or bytes, never a value.
fn scheme(array: &ArrayRef, limit: usize, deltas: bool) -> Scheme {
    let dictionary = if limit > 0 { dictionary_bits(array, limit) } else { None };
    let (Some(numbers), Some(width)) = (whole_numbers(array).filter(|_| deltas), array.data_type().primitive_width()) else {
        return if dictionary.is_some() { Scheme::Dictionary } else { Scheme::Plain };
    };
    let delta = bits::delta_bits(&numbers);
    match dictionary {
        Some(bits) if delta * 4 > bits * 5 => Scheme::Dictionary,
        None if numbers.len() < SAMPLE / 16 || delta * 8 > stored_width(array.data_type(), width) * 8 * 7 => Scheme::Plain,
        _ => Scheme::Deltas,
    }
}

/// The first values of a column of whole numbers; `None` for other types.
fn whole_numbers(array: &ArrayRef) -> Option<Vec<i64>> {
    fn of<T: ArrowPrimitiveType>(array: &ArrayRef, convert: impl Fn(T::Native) -> i64) -> Vec<i64> {
        array.as_primitive::<T>().iter().flatten().take(SAMPLE).map(convert).collect()
    }
    Some(match array.data_type() {
        DataType::Int16 => of::<Int16Type>(array, i64::from),
        DataType::Int32 => of::<Int32Type>(array, i64::from),
        DataType::Int64 => of::<Int64Type>(array, |value| value),
        DataType::Date32 => of::<Date32Type>(array, i64::from),
        DataType::Time64(TimeUnit::Microsecond) => of::<Time64MicrosecondType>(array, |value| value),
        DataType::Timestamp(TimeUnit::Microsecond, _) => of::<TimestampMicrosecondType>(array, |value| value),
        DataType::Decimal128(..=18, _) => of::<Decimal128Type>(array, |value| value as i64),
        _ => return None,
    })
}

/// Guesses from a sample how many bits the index of a dictionary has; `None` when the distinct values of the column would not
/// fit in `limit` bytes.
///
/// Of `n` sampled values, `n²/2D` repeat an earlier one when there are `D` distinct values in all. Too small a sample, or a
/// type not looked into, is taken for few values.
fn dictionary_bits(array: &ArrayRef, limit: usize) -> Option<usize> {
    let (seen, distinct, bytes) = match array.data_type() {
        DataType::List(_) => return dictionary_bits(array.as_list::<i32>().values(), limit),
        DataType::LargeList(_) => return dictionary_bits(array.as_list::<i64>().values(), limit),
        DataType::Utf8 => sample(array, |row| array.as_string::<i32>().value(row).as_bytes()),
        DataType::LargeUtf8 => sample(array, |row| array.as_string::<i64>().value(row).as_bytes()),
        DataType::Binary => sample(array, |row| array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => sample(array, |row| array.as_binary::<i64>().value(row)),
        DataType::FixedSizeBinary(_) => sample(array, |row| array.as_fixed_size_binary().value(row)),
        fixed => {
            let Some(width) = fixed.primitive_width() else { return Some(0) };
            let data = array.to_data();
            let Some(buffer) = data.buffers().first() else { return Some(0) };
            let values = buffer.as_slice().get(data.offset() * width..).unwrap_or_default();
            let (seen, distinct, bytes) = sample(array, |row| &values[row * width..(row + 1) * width]);
            (seen, distinct, bytes * stored_width(fixed, width) / width)
        }
    };
    if seen < SAMPLE / 16 {
        return Some(0);
    }
    let repeated = seen - distinct;
    let guess = if distinct <= seen / 2 { 2 * distinct } else { seen * seen / (2 * repeated).max(1) };
    (guess.saturating_mul(bytes / seen) <= limit).then(|| distinct.max(guess / 2).max(2).next_power_of_two().ilog2() as usize)
}

/// Looks at up to [`SAMPLE`] values, evenly spread: how many there were, how many of them distinct, and
/// the bytes of all of them.
fn sample<'a>(array: &ArrayRef, value: impl Fn(usize) -> &'a [u8]) -> (usize, usize, usize) {
    let (mut seen, mut bytes) = (0, 0);
    let mut distinct = Distinct::new();
    for row in (0..array.len()).step_by(array.len().div_ceil(SAMPLE).max(1)).filter(|row| array.is_valid(*row)) {
        let value = value(row);
        seen += 1;
        bytes += value.len();
        distinct.index(value, usize::MAX);
    }
    (seen, distinct.len(), bytes)
}

/// Bytes of a value in a Parquet dictionary, where small decimals are integers.
fn stored_width(data_type: &DataType, width: usize) -> usize {
    match data_type {
        DataType::Decimal128(..=9, _) => 4,
        DataType::Decimal128(..=18, _) => 8,
        _ => width.max(4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, Int64Array, StringArray};
    use arrow::datatypes::Field;
    use parquet::arrow::ArrowSchemaConverter;
    use std::sync::Arc;

    #[test]
    fn dictionaries_are_tried_where_they_fit() {
        let check = |name: &str, array: ArrayRef, expected: bool| assert_eq!(dictionary_bits(&array, MIB).is_some(), expected, "{name}");
        let scatter = |i: i64, distinct: i64| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) >> 20).rem_euclid(distinct);
        let of = |distinct: i64| Arc::new(Int64Array::from_iter_values((0..60_000).map(|i| scatter(i, distinct))));
        check("constant", of(1), true);
        check("10k", of(10_000), true);
        check("10M", of(10_000_000), false);
        check("serial", Arc::new(Int64Array::from_iter_values(0..60_000)), false);
        check("few rows", Arc::new(Int64Array::from_iter_values(0..100)), true);
        check("nulls", Arc::new(Int64Array::new_null(60_000)), true);
        check("slice of a constant", Arc::new(of(1).slice(30_000, 20_000)), true);
        let words = |distinct: i64| {
            Arc::new(StringArray::from_iter_values((0..60_000).map(|i| format!("some longer text {}", scatter(i, distinct)))))
        };
        check("words", words(500), true);
        check("comments", words(1_000_000), false);
        let prices = Decimal128Array::from_iter_values((0..60_000).map(|i| i128::from(scatter(i, 900_000))));
        check("prices", Arc::new(prices.with_precision_and_scale(15, 2).expect("decimal")), false);
    }

    #[test]
    fn wide_tables_compress_late_and_build_no_hash_tables() {
        let layout = |columns: usize, files: usize| {
            let fields: Vec<Field> = (0..columns).map(|i| Field::new(format!("c{i}"), DataType::Int64, true)).collect();
            let parquet = ArrowSchemaConverter::new().convert(&Schema::new(fields)).expect("schema");
            Layout::of(&parquet, &EncodeOptions { row_group_bytes: 64 * MIB, ..EncodeOptions::default() }, files, None)
        };
        let narrow = layout(16, 1);
        assert_eq!((narrow.page_rows, narrow.page_bytes, narrow.dictionary_bytes), (PAGE_ROWS, PAGE_BYTES, MIB));
        assert!(narrow.schemes.iter().all(|scheme| *scheme == Scheme::Dictionary));
        let wide = layout(1600, 1);
        assert_eq!((wide.page_rows, wide.page_bytes), (usize::MAX, LATE_PAGE_BYTES));
        assert!(wide.schemes.iter().all(|scheme| *scheme == Scheme::Plain));
        assert_eq!(layout(16, 32).page_rows, usize::MAX, "the contexts of many open files add up");
    }
}
