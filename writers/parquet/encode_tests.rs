//! What goes into an encoder comes out of a reader; and how much it holds meanwhile.

use super::*;
use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int16Array,
    Int32Array, Int64Array, ListArray, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Encoding, LogicalType};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use std::collections::HashMap;
use std::slice::from_ref;

fn read(file: &Bytes) -> (RecordBatch, Arc<ParquetMetaData>) {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options).expect("footer");
    let (schema, metadata) = (builder.schema().clone(), builder.metadata().clone());
    let batches: Vec<RecordBatch> = builder.build().expect("reader").map(|b| b.expect("batch")).collect();
    (arrow::compute::concat_batches(&schema, &batches).expect("concat"), metadata)
}

fn encode(batches: &[RecordBatch], schema: &SchemaRef, options: &EncodeOptions) -> Bytes {
    let mut encoder = Encoder::new(schema.clone(), options.clone(), 1, batches.first()).expect("encoder");
    let mut bytes = Vec::new();
    for batch in batches {
        encoder.write(batch).expect("write");
        bytes.extend(encoder.take().concat());
    }
    bytes.extend(encoder.finish().expect("finish").0.concat());
    bytes.into()
}

/// Values of every type that is used, with nulls, extremes and repetitions.
fn scalars() -> Vec<(&'static str, ArrayRef)> {
    let micros = vec![Some(0), None, Some(i64::MIN), Some(i64::MAX), Some(-1)];
    let decimal = |precision: u8, scale, values: Vec<Option<i128>>| {
        Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).expect("decimal"))
    };
    let large = 10_i128.pow(38) - 1;
    let uuid = [Some([0u8; 16]), None, Some([0xff; 16]), Some(*b"0123456789abcdef"), Some([0; 16])];
    vec![
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true), Some(true)]))),
        ("int16", Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX), Some(0), Some(-1)]))),
        ("int32", Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX), Some(0), Some(-1)]))),
        ("int64", Arc::new(Int64Array::from(micros.clone()))),
        ("float32", Arc::new(Float32Array::from(vec![Some(f32::MIN), None, Some(-0.0), Some(f32::INFINITY), Some(1e-45)]))),
        ("float64", Arc::new(Float64Array::from(vec![Some(f64::MAX), None, Some(-0.0), Some(f64::NEG_INFINITY), Some(0.1)]))),
        ("decimal9", decimal(9, 2, vec![Some(999_999_999), None, Some(-999_999_999), Some(0), Some(1)])),
        ("decimal18", decimal(18, 6, vec![Some(999_999_999_999_999_999), None, Some(-1), Some(0), Some(1)])),
        ("decimal38", decimal(38, 10, vec![Some(large), None, Some(-large), Some(0), Some(1)])),
        ("text", Arc::new(StringArray::from(vec![Some(""), None, Some("grüße\0日本"), Some("a"), Some("a")]))),
        ("binary", Arc::new(BinaryArray::from(vec![Some(&b""[..]), None, Some(b"\xff\x00"), Some(b"a"), Some(b"a")]))),
        ("date", Arc::new(Date32Array::from(vec![Some(0), None, Some(-719_528), Some(i32::MAX), Some(i32::MIN)]))),
        ("time", Arc::new(Time64MicrosecondArray::from(vec![Some(0), None, Some(86_399_999_999), Some(1), Some(86_400_000_000)]))),
        ("local_timestamp", Arc::new(TimestampMicrosecondArray::from(micros.clone()))),
        ("timestamptz", Arc::new(TimestampMicrosecondArray::from(micros).with_timezone("UTC"))),
        ("uuid", Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(uuid.into_iter(), 16).expect("uuid"))),
    ]
}

/// Lists of them: one element, NULL, empty, several with a NULL among them.
fn list_of(values: &ArrayRef) -> ArrayRef {
    let offsets = OffsetBuffer::new(vec![0, 1, 1, 1, 4, 5].into());
    let valid = NullBuffer::from(vec![true, false, true, true, true]);
    Arc::new(ListArray::new(Arc::new(Field::new_list_field(values.data_type().clone(), true)), offsets, values.clone(), Some(valid)))
}

#[test]
fn every_type_survives() {
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (name, values) in scalars() {
        columns.push((name.to_owned(), values.clone()));
        columns.push((format!("list_of_{name}"), list_of(&values)));
        columns.push((format!("list_of_list_of_{name}"), list_of(&list_of(&values))));
    }
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).expect("batch");
    for compression in [Compression::Zstd(1), Compression::Snappy, Compression::None] {
        let options = EncodeOptions { compression, ..EncodeOptions::default() };
        // In pieces, with a batch of no rows among them, and with row groups that end within a batch.
        for row_group_rows in [1, 3, 1 << 20] {
            let options = EncodeOptions { row_group_rows, ..options.clone() };
            let file = encode(&[batch.slice(0, 2), batch.slice(2, 0), batch.slice(2, 3)], &batch.schema(), &options);
            let (found, _) = read(&file);
            assert_eq!(found, batch, "{compression:?}, row groups of {row_group_rows}");
        }
    }
}

#[test]
fn nulls_only_and_no_rows_survive() {
    let (names, arrays): (Vec<_>, Vec<_>) = scalars().into_iter().unzip();
    let nulls = names.iter().zip(&arrays).map(|(n, a)| (*n, arrow::array::new_null_array(a.data_type(), 50_000), true));
    let batch = RecordBatch::try_from_iter_with_nullable(nulls).expect("batch");
    assert_eq!(read(&encode(from_ref(&batch), &batch.schema(), &EncodeOptions::default())).0, batch);
    let (found, metadata) = read(&encode(&[], &batch.schema(), &EncodeOptions::default()));
    assert_eq!((found.num_rows(), found.schema(), metadata.num_row_groups()), (0, batch.schema(), 0));
}

#[test]
fn types_ids_and_author_are_in_the_file() {
    let extension = |name: &str| {
        HashMap::from([("ARROW:extension:name".to_owned(), name.to_owned()), ("ARROW:extension:metadata".to_owned(), String::new())])
    };
    let mut uuid = extension("arrow.uuid");
    uuid.remove("ARROW:extension:metadata");
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::FixedSizeBinary(16), false).with_metadata(uuid),
        Field::new("doc", DataType::Utf8, true).with_metadata(extension("arrow.json")),
        Field::new("n", DataType::Int64, true).with_metadata(HashMap::from([("PARQUET:field_id".to_owned(), "7".to_owned())])),
        Field::new("p", DataType::Decimal128(12, 2), true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(FixedSizeBinaryArray::try_from_iter([[1u8; 16]].into_iter()).expect("uuid")),
        Arc::new(StringArray::from(vec!["{}"])),
        Arc::new(Int64Array::from(vec![1])),
        Arc::new(Decimal128Array::from(vec![125]).with_precision_and_scale(12, 2).expect("decimal")),
    ];
    let batch = RecordBatch::try_new(schema.clone(), columns).expect("batch");
    let (found, metadata) = read(&encode(from_ref(&batch), &schema, &EncodeOptions::default()));
    assert_eq!(found, batch, "values, types and field metadata");
    let file = metadata.file_metadata();
    assert_eq!(file.created_by(), Some(concat!("lakeward version ", env!("CARGO_PKG_VERSION"))));
    let parquet = file.schema_descr();
    assert_eq!(parquet.column(0).logical_type_ref(), Some(&LogicalType::Uuid));
    assert_eq!(parquet.column(1).logical_type_ref(), Some(&LogicalType::Json));
    assert_eq!(parquet.column(2).self_type().get_basic_info().id(), 7);
    assert!(matches!(parquet.column(3).logical_type_ref(), Some(LogicalType::Decimal { scale: 2, precision: 12 })));
    assert!(file.key_value_metadata().is_some_and(|pairs| pairs.iter().any(|pair| pair.key == "ARROW:schema")));
    assert!(metadata.column_index().is_some() && metadata.offset_index().is_some());
}

/// Text that compresses badly, numbers, and a column of few values.
fn noise(rows: usize, seed: u64) -> RecordBatch {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("number", Arc::new(Int64Array::from_iter_values((0..rows).map(|_| next() as i64)))),
        ("text", Arc::new(StringArray::from_iter_values((0..rows).map(|_| format!("{:016x}{:016x}", next(), next()))))),
        ("few", Arc::new(UInt32Array::from_iter_values((0..rows).map(|_| (next() % 5) as u32)))),
    ];
    RecordBatch::try_from_iter(columns).expect("batch")
}

#[test]
fn memory_stays_within_the_bound_and_one_batch() {
    let bound = 4 << 20;
    let options = EncodeOptions { row_group_bytes: bound, ..EncodeOptions::default() };
    let first = noise(5_000, 1);
    let mut encoder = Encoder::new(first.schema(), options, 1, Some(&first)).expect("encoder");
    let batch_bytes = first.get_array_memory_size();
    let contexts = 3 * (600 << 10);
    let (mut carried, mut rows) = (0, 0);
    for seed in 1..120 {
        let before = encoder.memory();
        // The inside of `write`, to see the peak before a row group closes.
        encoder.encode(&noise(5_000, seed)).expect("encode");
        let peak = encoder.memory();
        assert!(peak <= before + 2 * batch_bytes + contexts, "a batch of {batch_bytes} took {before} to {peak}");
        encoder.write(&noise(5_000, seed)).expect("write");
        assert!(encoder.memory() < bound);
        rows += 10_000;
        carried += encoder.take().iter().map(Bytes::len).sum::<usize>();
    }
    assert!(carried > 2 * bound, "{carried} bytes left before the end: row groups are carried away as they close");
    encoder.close_row_group().expect("close");
    assert_eq!((encoder.memory(), encoder.rows()), (0, rows));
}

#[test]
fn row_groups_end_at_their_bytes_and_rows() {
    let batches: Vec<RecordBatch> = (1..60).map(|seed| noise(5_000, seed)).collect();
    let schema = batches[0].schema();
    let (_, metadata) = read(&encode(&batches, &schema, &EncodeOptions { row_group_bytes: 4 << 20, ..EncodeOptions::default() }));
    let sizes: Vec<i64> = metadata.row_groups().iter().map(|group| group.compressed_size()).collect();
    assert!(sizes.len() > 2 && sizes.iter().all(|size| *size < 5 << 20), "{sizes:?}");
    let (_, metadata) = read(&encode(&batches, &schema, &EncodeOptions { row_group_rows: 12_000, ..EncodeOptions::default() }));
    let rows: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert!(rows[..rows.len() - 1].iter().all(|rows| *rows == 12_000), "{rows:?}");
    assert_eq!(rows.iter().sum::<i64>(), 59 * 5_000);
}

#[test]
fn dictionaries_are_only_where_they_pay() {
    let batch = noise(50_000, 3);
    let (_, metadata) = read(&encode(from_ref(&batch), &batch.schema(), &EncodeOptions::default()));
    let dictionary = |column: usize| metadata.row_group(0).column(column).encodings().any(|e| e == Encoding::RLE_DICTIONARY);
    assert_eq!([dictionary(0), dictionary(1), dictionary(2)], [false, false, true]);
}

#[test]
fn sixteen_hundred_columns_stay_within_the_bound() {
    let bound = 8 << 20;
    let rows = 500;
    let columns = (0..1600).map(|i| {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..rows).map(|r| (r % 3 != 0).then_some(r * i))));
        let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|r| format!("{}", r * i % 7))));
        (format!("c{i}"), if i % 2 == 0 { numbers } else { text }, true)
    });
    let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("batch");
    let options = EncodeOptions { row_group_bytes: bound, ..EncodeOptions::default() };
    let mut encoder = Encoder::new(batch.schema(), options.clone(), 1, Some(&batch)).expect("encoder");
    encoder.write(&batch).expect("write");
    assert!(encoder.memory() > 0, "one batch does not fill a row group: {}", encoder.memory());
    for _ in 0..4 {
        encoder.write(&batch).expect("write");
        assert!(encoder.memory() < bound);
    }
    let (found, metadata) = read(&encode(&vec![batch.clone(); 5], &batch.schema(), &options));
    assert_eq!(found, arrow::compute::concat_batches(&batch.schema(), &vec![batch; 5]).expect("concat"));
    assert!(metadata.num_row_groups() <= 5, "{}", metadata.num_row_groups());
}

#[test]
fn a_table_without_columns_is_refused() {
    let error = Encoder::new(Arc::new(Schema::empty()), EncodeOptions::default(), 1, None).map(|_| ()).expect_err("no columns");
    assert_eq!(error.kind(), Kind::Schema);
    let options = EncodeOptions { compression: Compression::Zstd(23), ..EncodeOptions::default() };
    let error = Encoder::new(noise(1, 1).schema(), options, 1, None).map(|_| ()).expect_err("level");
    assert!(error.to_string().contains("zstd level 23 is not one of 1 to 22"), "{error}");
}
