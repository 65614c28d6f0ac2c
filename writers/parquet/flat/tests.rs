//! Flat columns against the general encoder: the same values come back, and both say the same of them.

use crate::parquet::encode::{Compression, EncodeOptions, Encoder};
use arrow::array::{
    Array, ArrayRef, BinaryArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int16Array, Int32Array,
    Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Encoding, Type};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::WriterProperties;
use std::sync::Arc;

const ROWS: usize = 70_000;

/// Numbers that look random, the same every time.
fn noise(row: usize, salt: u64) -> u64 {
    let mut state = (row as u64 ^ salt << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for shift in [29, 32, 27] {
        state = (state ^ state >> shift).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    }
    state
}

/// Few values at first, so that a dictionary is begun; then all different, so that it is given up.
fn turns(row: usize) -> u64 {
    if row < 45_000 { noise(row, 1) % 50 } else { noise(row, 2) }
}

/// Whether a row has a value.
type Keep = fn(usize) -> bool;

/// Columns of every type, with each way to store it, without NULLs, with some, with nothing but NULLs over whole pages.
fn columns() -> Vec<(String, ArrayRef)> {
    let keeps: [(&str, Keep); 3] =
        [("all", |_| true), ("some", |row| !row.is_multiple_of(7)), ("late", |row| row > 41_000 && noise(row, 9).is_multiple_of(3))];
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (name, keep) in keeps {
        let rows = move |of: fn(usize) -> u64| (0..ROWS).map(move |row| keep(row).then(|| of(row)));
        let random = rows(|row| noise(row, 3));
        let decimal = |precision: u8, modulus: i128, of: fn(usize) -> u64| -> ArrayRef {
            let values = rows(of).map(|value| value.map(|value| (i128::from(value as i64) * i128::from(value)) % modulus));
            Arc::new(Decimal128Array::from_iter(values).with_precision_and_scale(precision, 2).expect("decimal"))
        };
        let floats = |of: fn(usize) -> u64| {
            rows(of).map(|value| {
                value.map(|value| match value % 11 {
                    0 => f64::NAN,
                    1 => -0.0,
                    _ => value as i64 as f64 / 1e12,
                })
            })
        };
        let text = |of: fn(usize) -> u64| rows(of).map(|value| value.map(|value| "ü語".repeat(value as usize % 40) + &value.to_string()));
        let arrays: Vec<(&str, ArrayRef)> = vec![
            ("int16", Arc::new(Int16Array::from_iter(rows(turns).map(|v| v.map(|v| v as i16))))),
            ("int32", Arc::new(Int32Array::from_iter(random.clone().map(|v| v.map(|v| v as i32))))),
            ("serial", Arc::new(Int64Array::from_iter(rows(|row| row as u64).map(|v| v.map(|v| v as i64))))),
            ("falling", Arc::new(Int64Array::from_iter(rows(|row| row as u64).map(|v| v.map(|v| -(v as i64)))))),
            ("int64", Arc::new(Int64Array::from_iter(random.clone().map(|v| v.map(|v| v as i64))))),
            ("turning", Arc::new(Int64Array::from_iter(rows(turns).map(|v| v.map(|v| v as i64))))),
            ("date", Arc::new(Date32Array::from_iter(rows(|row| noise(row, 4) % 2500).map(|v| v.map(|v| v as i32))))),
            ("instant", Arc::new(TimestampMicrosecondArray::from_iter(random.clone().map(|v| v.map(|v| v as i64))).with_timezone("UTC"))),
            ("float", Arc::new(Float32Array::from_iter(floats(turns).map(|v| v.map(|v| v as f32))))),
            ("double", Arc::new(Float64Array::from_iter(floats(|row| noise(row, 5))))),
            ("nan", Arc::new(Float64Array::from_iter(rows(turns).map(|v| v.map(|_| f64::NAN))))),
            ("decimal9", decimal(9, 1_000_000_000, turns)),
            ("decimal18", decimal(18, 1_000_000_000_000_000_000, |row| noise(row, 6))),
            ("decimal30", decimal(30, 1_000_000_000_000_000_000_000_000_000_000, |row| noise(row, 7))),
            ("text", Arc::new(StringArray::from_iter(text(|row| noise(row, 8))))),
            // Their first eight bytes do not tell them apart.
            ("paths", Arc::new(StringArray::from_iter(random.clone().map(|v| v.map(|v| format!("/one/way/{v}")))))),
            ("words", Arc::new(StringArray::from_iter(text(turns)))),
            ("bytes", Arc::new(BinaryArray::from_iter(random.clone().map(|v| v.map(|v| v.to_be_bytes().repeat(v as usize % 20)))))),
            ("uuid", {
                let values = random.map(|value| value.map(|value| [value.to_be_bytes(), [0xFF; 8]].concat()));
                Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 16).expect("uuid"))
            }),
        ];
        columns.extend(arrays.into_iter().map(|(ty, array)| (format!("{ty}_{name}"), array)));
    }
    columns
}

fn read(file: &Bytes) -> (RecordBatch, Arc<ParquetMetaData>) {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options).expect("footer");
    let (schema, metadata) = (builder.schema().clone(), builder.metadata().clone());
    let batches: Vec<RecordBatch> = builder.build().expect("reader").map(|b| b.expect("batch")).collect();
    (arrow::compute::concat_batches(&schema, &batches).expect("concat"), metadata)
}

fn encode(batch: &RecordBatch, options: EncodeOptions) -> Bytes {
    let mut encoder = Encoder::new(batch.schema(), options, 1, Some(&batch.slice(0, 9_000))).expect("encoder");
    let mut at = 0;
    // Batches that end anywhere: slices with offsets, pages that begin in one and end in another.
    for rows in [9_000, 1, 12_345, 20_000, 17, 28_637] {
        encoder.write(&batch.slice(at, rows)).expect("write");
        at += rows;
    }
    assert_eq!(at, ROWS);
    encoder.finish().expect("finish").0.concat().into()
}

/// What both encoders are to say alike.
fn said(metadata: &ParquetMetaData, column: usize) -> String {
    let chunk = metadata.row_group(0).column(column);
    let statistics = chunk.statistics().expect("statistics");
    format!(
        "{:?} {:?} {:?} {} {} {:?} {:?} {:?} {}",
        statistics.min_bytes_opt(),
        statistics.max_bytes_opt(),
        statistics.null_count_opt(),
        statistics.min_is_exact(),
        statistics.max_is_exact(),
        chunk.definition_level_histogram(),
        chunk.unencoded_byte_array_data_bytes(),
        chunk.column_type(),
        chunk.num_values(),
    )
}

#[test]
fn what_is_read_and_what_is_said_is_that_of_the_general_encoder() {
    let columns = columns();
    let batch = RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(n, a)| (n.as_str(), a.clone(), true))).expect("batch");
    let mut general = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(WriterProperties::builder().build())).expect("writer");
    general.write(&batch).expect("write");
    let general = read(&general.into_inner().expect("close").into()).1;
    for (compression, deltas) in [(Compression::Zstd(1), true), (Compression::Snappy, false), (Compression::None, false)] {
        let (found, metadata) = read(&encode(&batch, EncodeOptions { compression, deltas, ..EncodeOptions::default() }));
        for (index, (name, array)) in columns.iter().enumerate() {
            assert_eq!(found.column(index).to_data(), array.to_data(), "{name}, {compression:?}");
            assert_eq!(said(&metadata, index), said(&general, index), "{name}");
            if deltas {
                pages_hold_what_their_index_says(&metadata, index, name, array);
            }
            let has_deltas = metadata.row_group(0).column(index).encodings().any(|e| e == Encoding::DELTA_BINARY_PACKED);
            assert!(deltas || !has_deltas, "{name}");
        }
        let uses = |name: &str, wanted: Encoding| {
            let (index, _) = columns.iter().enumerate().find(|(_, column)| column.0 == name).expect("column");
            metadata.row_group(0).column(index).encodings().any(|encoding| encoding == wanted)
        };
        assert_eq!(uses("serial_all", Encoding::DELTA_BINARY_PACKED), deltas);
        assert!(uses("words_all", Encoding::RLE_DICTIONARY) && uses("words_all", Encoding::PLAIN), "a dictionary is begun and given up");
        assert!(!uses("text_all", Encoding::RLE_DICTIONARY));
    }
}

/// Each page's entry in the index encloses its values, and is the tightest there is.
fn pages_hold_what_their_index_says(metadata: &ParquetMetaData, column: usize, name: &str, array: &ArrayRef) {
    let locations = metadata.offset_index().expect("offsets")[0][column].page_locations();
    let index = &metadata.column_index().expect("index")[0][column];
    if matches!(index, ColumnIndexMetaData::NONE) {
        assert!(name.starts_with("nan") || name.starts_with("float") || name.starts_with("double"), "{name} has no index");
        return;
    }
    for (page, location) in locations.iter().enumerate() {
        let start = location.first_row_index as usize;
        let end = locations.get(page + 1).map_or(ROWS, |next| next.first_row_index as usize);
        let values = array.slice(start, end - start);
        assert_eq!(index.null_count(page), Some(values.null_count() as i64), "{name}, page {page}");
        assert_eq!(index.is_null_page(page), values.null_count() == values.len(), "{name}, page {page}");
        // The general encoder's word for the page alone.
        let one = RecordBatch::try_from_iter_with_nullable([("c", values.clone(), true)]).expect("batch");
        let mut writer = ArrowWriter::try_new(Vec::new(), one.schema(), None).expect("writer");
        writer.write(&one).expect("write");
        let alone = read(&writer.into_inner().expect("close").into()).1;
        let statistics = alone.row_group(0).column(0).statistics().expect("statistics").clone();
        let expected = (statistics.min_bytes_opt().map(<[u8]>::to_vec), statistics.max_bytes_opt().map(<[u8]>::to_vec));
        let found = stored_bounds(index, metadata.row_group(0).column(column).column_type(), page);
        assert_eq!(found, expected, "{name}, page {page}");
    }
}

fn stored_bounds(index: &ColumnIndexMetaData, ty: Type, page: usize) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    macro_rules! plain {
        ($index:expr) => {
            ($index.min_value(page).map(|v| v.to_le_bytes().to_vec()), $index.max_value(page).map(|v| v.to_le_bytes().to_vec()))
        };
    }
    match index {
        ColumnIndexMetaData::INT32(index) => plain!(index),
        ColumnIndexMetaData::INT64(index) => plain!(index),
        ColumnIndexMetaData::FLOAT(index) => plain!(index),
        ColumnIndexMetaData::DOUBLE(index) => plain!(index),
        ColumnIndexMetaData::BYTE_ARRAY(index) | ColumnIndexMetaData::FIXED_LEN_BYTE_ARRAY(index) => {
            (index.min_value(page).map(<[u8]>::to_vec), index.max_value(page).map(<[u8]>::to_vec))
        }
        _ => panic!("no column is of type {ty}"),
    }
}
