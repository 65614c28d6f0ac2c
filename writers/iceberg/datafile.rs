//! Files as manifests describe them. Pure.

use super::metrics::unhex;
use super::stage::StagedFile;
use crate::{Error, Kind, Result};
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, Schema, Struct, TableMetadata, Type};
use std::collections::{BTreeMap, HashMap};

/// A staged file with rows, in the table's default partition spec and, if it is `sorted`, its default sort order.
pub(crate) fn data(file: &StagedFile, future: &TableMetadata, sorted: bool) -> Result<DataFile> {
    let spec = future.default_partition_spec();
    let tuple = file.tuple(future.default_partition_type())?;
    let mut builder = described(file, future.current_schema())?;
    if let Some(order) = i32::try_from(future.default_sort_order_id()).ok().filter(|_| sorted) {
        builder.sort_order_id(order);
    }
    builder.content(DataContentType::Data).partition(Struct::from_iter(tuple)).partition_spec_id(spec.spec_id());
    built(&builder)
}

/// A staged file with keys: rows that have one of them go, wherever they are. It has the spec without partitions.
pub(crate) fn equality_deletes(file: &StagedFile, future: &TableMetadata, unpartitioned: i32, key: &[i32]) -> Result<DataFile> {
    let mut builder = described(file, future.current_schema())?;
    builder
        .content(DataContentType::EqualityDeletes)
        .partition(Struct::empty())
        .partition_spec_id(unpartitioned)
        .equality_ids(Some(key.to_vec()));
    built(&builder)
}

fn described(file: &StagedFile, schema: &Schema) -> Result<DataFileBuilder> {
    let counts = |counts: &BTreeMap<i32, u64>| counts.iter().map(|(id, count)| (*id, *count)).collect::<HashMap<_, _>>();
    let mut builder = DataFileBuilder::default();
    builder
        .file_path(file.location.clone())
        .file_format(DataFileFormat::Parquet)
        .record_count(file.rows)
        .file_size_in_bytes(file.bytes)
        .column_sizes(counts(&file.metrics.sizes))
        .value_counts(counts(&file.metrics.values))
        .null_value_counts(counts(&file.metrics.nulls))
        .lower_bounds(bounds(&file.metrics.lower, schema)?)
        .upper_bounds(bounds(&file.metrics.upper, schema)?)
        .split_offsets(Some(file.metrics.splits.clone()));
    Ok(builder)
}

fn bounds(bounds: &BTreeMap<i32, String>, schema: &Schema) -> Result<HashMap<i32, Datum>> {
    let mut read = HashMap::with_capacity(bounds.len());
    for (id, text) in bounds {
        let Some(Type::Primitive(primitive)) = schema.field_by_id(*id).map(|field| field.field_type.as_ref()) else { continue };
        let bound = unhex(text).and_then(|bytes| Datum::try_from_bytes(&bytes, primitive.clone()).ok());
        read.insert(*id, bound.ok_or_else(|| Error::new(Kind::Corrupt, format!("{text:?} is no bound of column {id}")))?);
    }
    Ok(read)
}

fn built(builder: &DataFileBuilder) -> Result<DataFile> {
    builder.build().map_err(|e| Error::new(Kind::Bug, "cannot describe a file").because(e))
}
