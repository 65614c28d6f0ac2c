//! The keys of a Parquet file's rows, in the order of the rows.
//!
//! Only the key's columns are read, a row group at a time. Columns are found by field id; in a file that has no ids (written before the
//! table was one of Iceberg's) by the names that the table's name mapping gives, or else by their own. Does not know what keys are for.

use super::hash::{Hasher, KeyHash};
use crate::guard::{Guarded, guarded_future};
use crate::iceberg::io::Files;
use crate::storage::Storage;
use crate::{Error, Kind, Result};
use arrow::array::ArrayRef;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, try_join_all};
use futures::{Stream, StreamExt};
use iceberg::spec::{NameMapping, NestedFieldRef, TableMetadata};
use object_store::path::Path;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::schema::types::SchemaDescriptor;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Table property: names of columns in files without field ids.
const NAME_MAPPING: &str = "schema.name-mapping.default";
/// Bytes of a file's end that are read at once: most footers are smaller.
const FOOTER_BYTES: usize = 64 << 10;
const BATCH_ROWS: usize = 8192;

/// Reads keys of files of one table.
#[derive(Debug)]
pub(super) struct KeyReader {
    files: Files,
    hasher: Hasher,
    /// Names of the key's columns in files without ids, by id.
    names: HashMap<i32, Vec<String>>,
}

impl KeyReader {
    /// For files of this table.
    pub(super) fn new(files: &Files, metadata: &TableMetadata, hasher: Hasher) -> Result<Self> {
        let mut names: HashMap<i32, Vec<String>> = HashMap::new();
        if let Some(text) = metadata.properties().get(NAME_MAPPING) {
            let mapping: NameMapping = serde_json::from_str(text).map_err(|e| {
                Error::new(Kind::Config, format!("table property {NAME_MAPPING} is no name mapping"))
                    .because(e)
                    .hint("correct the property with the engine that owns the table")
            })?;
            names = mapping.fields().iter().filter_map(|field| Some((field.field_id()?, field.names().to_vec()))).collect();
        }
        for field in &hasher.key {
            names.entry(field.id).or_insert_with(|| vec![field.name.clone()]);
        }
        Ok(Self { files: files.clone(), hasher, names })
    }

    /// How many rows the file has, and the hashes of their keys, some thousands at a time; `None` where a part of the key is NULL.
    pub(super) async fn read(
        self: Arc<Self>,
        uri: &str,
    ) -> Result<(u64, impl Stream<Item = Result<Vec<Option<KeyHash>>>> + Send + 'static + use<>)> {
        let source = Source::open(&self.files, uri).await?;
        let uri: Arc<str> = uri.into();
        // Types that another writer has noted for Arrow say nothing about the table.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let doing = |e: Error| e.doing(format!("read {uri}"));
        let builder = guarded_future(ParquetRecordBatchStreamBuilder::new_with_options(source, options)).await.map_err(doing)?;
        let builder = builder.map_err(|e| unreadable(e, &uri))?;
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or_default();
        let columns = self.columns(builder.parquet_schema(), &uri)?;
        let mask = ProjectionMask::leaves(builder.parquet_schema(), columns.iter().flatten().copied());
        // Batches have their columns in the file's order.
        let mut order: Vec<usize> = columns.iter().flatten().copied().collect();
        order.sort_unstable();
        let places: Option<Vec<usize>> = columns.iter().map(|column| order.iter().position(|other| Some(*other) == *column)).collect();
        let batches = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|e| unreadable(e, &uri))?;
        let hashes = Guarded::new(batches).map(move |batch| {
            let batch = batch.map_err(|e| e.doing(format!("read {uri}")))?.map_err(|e| unreadable(e, &uri))?;
            // What a file does not have is NULL.
            let Some(places) = &places else { return Ok(vec![None; batch.num_rows()]) };
            let columns: Vec<ArrayRef> = places.iter().map(|place| batch.column(*place).clone()).collect();
            self.hasher.hashes(&columns).map_err(|e| e.doing(format!("read the keys of {uri}")))
        });
        Ok((rows, hashes))
    }

    /// Where the file has the key's columns.
    fn columns(&self, schema: &SchemaDescriptor, uri: &str) -> Result<Vec<Option<usize>>> {
        let has_ids = schema.root_schema().get_fields().iter().any(|field| field.get_basic_info().has_id());
        self.hasher.key.iter().map(|field| self.column(schema, field, has_ids, uri)).collect()
    }

    fn column(&self, schema: &SchemaDescriptor, field: &NestedFieldRef, has_ids: bool, uri: &str) -> Result<Option<usize>> {
        let unknown = |why: &str| {
            Error::new(Kind::Schema, format!("{uri} has no column for the key column {:?}, and {why}", field.name))
                .hint("rewrite the file with the engine that owns the table, or set delete_files to equality")
        };
        let names = self.names.get(&field.id).map(Vec::as_slice).unwrap_or_default();
        let found = schema.columns().iter().position(|column| {
            let info = column.self_type().get_basic_info();
            let here = column.path().parts().len() == 1;
            here && if has_ids { info.has_id() && info.id() == field.id } else { names.iter().any(|name| name == info.name()) }
        });
        match found {
            Some(column) => Ok(Some(column)),
            None if !has_ids => Err(unknown("its columns have no ids")),
            None if field.initial_default.is_some() => Err(unknown("the column has a default")),
            None => Ok(None),
        }
    }
}

/// A file on its store, as Parquet's reader wants it.
pub(super) struct Source {
    storage: Storage,
    path: Path,
    size: u64,
}

impl Source {
    /// A file that the table's metadata names.
    pub(super) async fn open(files: &Files, uri: &str) -> Result<Self> {
        let (storage, path) = files.place(uri)?;
        let size = storage.size(&path).await?.ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("{uri} is missing"))
                .hint("the table's metadata names it: restore it, or point the catalog at an older metadata file")
        })?;
        Ok(Self { storage, path, size })
    }
}

impl AsyncFileReader for Source {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { self.storage.get_range(&self.path, range).await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        let (storage, path) = (self.storage.clone(), self.path.clone());
        async move {
            // As many as the key has columns.
            let reads = ranges.into_iter().map(|range| storage.get_range(&path, range));
            try_join_all(reads).await.map_err(|e| ParquetError::External(Box::new(e)))
        }
        .boxed()
    }

    fn get_metadata<'a>(&'a mut self, _: Option<&'a ArrowReaderOptions>) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
            reader.load_and_finish(self, size).await.map(Arc::new)
        }
        .boxed()
    }
}

/// What Parquet's reader has to say of a file: our store's error if it is one.
pub(super) fn unreadable(error: ParquetError, uri: &str) -> Error {
    let other: Box<dyn std::error::Error + Send + Sync> = match error {
        ParquetError::External(cause) => match cause.downcast::<Error>() {
            Ok(ours) => return ours.doing(format!("read {uri}")),
            Err(cause) => cause,
        },
        error => error.into(),
    };
    Error::new(Kind::Corrupt, format!("{uri} cannot be read as Parquet"))
        .because(other)
        .hint("restore the file, or point the catalog at an older metadata file")
}
