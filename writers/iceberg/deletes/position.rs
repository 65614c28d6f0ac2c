//! Position delete files: rows to be gone, as (data file, position), in Parquet (specification, "Position Delete Files").

use super::super::catalog::Loaded;
use super::super::io::Files;
use super::super::snapshot::{BySpec, Gone};
use super::{FilePlaces, Places};
use crate::parquet::encode::{Compression, EncodeOptions};
use crate::storage::Upload;
use crate::{Error, Kind, Result};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use iceberg::metadata_columns::{
    RESERVED_COL_NAME_DELETE_FILE_PATH, RESERVED_COL_NAME_DELETE_FILE_POS, RESERVED_FIELD_ID_DELETE_FILE_PATH,
    RESERVED_FIELD_ID_DELETE_FILE_POS,
};
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, FormatVersion, Struct};
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use std::collections::HashMap;
use std::sync::Arc;

const PATH: i32 = RESERVED_FIELD_ID_DELETE_FILE_PATH;
const POS: i32 = RESERVED_FIELD_ID_DELETE_FILE_POS;
/// Rows that are handed to the encoder at once.
const BATCH_ROWS: usize = 64 << 10;

/// Writes the places as position delete files, at least one for each partition, named `<folder>/deletes-<number>-<name>.parquet`. When that
/// fails, files that were written stay behind.
///
/// # Errors
/// [`Kind::Bug`] for a table that takes no such files.
pub(crate) async fn position_deletes(
    base: &Loaded,
    places: &Places,
    folder: &str,
    name: &str,
    options: &EncodeOptions,
) -> Result<(BySpec, Gone)> {
    if base.metadata.format_version() != FormatVersion::V2 {
        return Err(Error::new(Kind::Bug, "only tables of format version 2 take new position delete files"));
    }
    let mut partitions: HashMap<(i32, &Struct), Vec<&FilePlaces>> = HashMap::new();
    for file in &places.files {
        partitions.entry((file.spec, &file.partition)).or_default().push(file);
    }
    let mut partitions: Vec<_> = partitions.into_iter().collect();
    // For the names' sake: the same places give the same files.
    partitions.sort_by(|(_, a), (_, b)| a[0].path.cmp(&b[0].path));
    let mut written = BySpec::new();
    let mut number = 0;
    for ((spec, partition), mut files) in partitions {
        // Delete files are sorted by path; the places are, but only by chance of who made them.
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let described = written.entry(spec).or_default();
        let mut rest = files.as_slice();
        while !rest.is_empty() {
            let mut file = DeleteFile::begin(&base.files, format!("{folder}/deletes-{number:03}-{name}.parquet"), options).await?;
            number += 1;
            let mut count = 0;
            for places in rest {
                file.write(places).await?;
                count += 1;
                if file.bytes() >= options.file_bytes_max {
                    break;
                }
            }
            let (these, others) = rest.split_at(count);
            described.push(file.finish(spec, partition, these).await.map_err(|e| e.doing("write position deletes"))?);
            rest = others;
        }
    }
    Ok((written, Gone::Nothing))
}

struct DeleteFile {
    location: String,
    schema: SchemaRef,
    writer: AsyncArrowWriter<Output>,
    rows: u64,
}

impl DeleteFile {
    async fn begin(files: &Files, location: String, options: &EncodeOptions) -> Result<Self> {
        let (storage, path) = files.place(&location)?;
        let column = |name: &str, data_type, id: i32| {
            Field::new(name, data_type, false).with_metadata(HashMap::from([("PARQUET:field_id".to_owned(), id.to_string())]))
        };
        let schema = Arc::new(Schema::new(vec![
            column(RESERVED_COL_NAME_DELETE_FILE_PATH, DataType::Utf8, PATH),
            column(RESERVED_COL_NAME_DELETE_FILE_POS, DataType::Int64, POS),
        ]));
        let compression = match options.compression {
            Compression::None => Codec::UNCOMPRESSED,
            Compression::Snappy => Codec::SNAPPY,
            Compression::Zstd(level) => Codec::ZSTD(ZstdLevel::try_new(level).unwrap_or_default()),
        };
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_max_row_group_row_count(Some(options.row_group_rows.max(1)))
            .set_column_dictionary_enabled(RESERVED_COL_NAME_DELETE_FILE_POS.into(), false)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            // Readers skip row groups by whole paths.
            .set_statistics_truncate_length(None)
            .build();
        let output = Output(Some(storage.upload(&path).await?));
        let writer = AsyncArrowWriter::try_new(output, schema.clone(), Some(properties)).map_err(|e| unwritten(e, &location))?;
        Ok(Self { location, schema, writer, rows: 0 })
    }

    async fn write(&mut self, places: &FilePlaces) -> Result<()> {
        for positions in places.positions.chunks(BATCH_ROWS) {
            let paths: ArrayRef = Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&places.path, positions.len())));
            let positions: ArrayRef = Arc::new(Int64Array::from_iter_values(positions.iter().map(|position| i64::from(*position))));
            let batch = RecordBatch::try_new(self.schema.clone(), vec![paths, positions]);
            let batch = batch.map_err(|e| Error::new(Kind::Bug, "cannot make a batch of positions").because(e))?;
            self.writer.write(&batch).await.map_err(|e| unwritten(e, &self.location))?;
        }
        self.rows += places.positions.len() as u64;
        Ok(())
    }

    /// About how large the file is so far.
    fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    async fn finish(mut self, spec: i32, partition: &Struct, places: &[&FilePlaces]) -> Result<DataFile> {
        self.writer.finish().await.map_err(|e| unwritten(e, &self.location))?;
        let bytes = self.writer.bytes_written() as u64;
        let (Some(first), Some(last)) = (places.first(), places.last()) else {
            return Err(Error::new(Kind::Bug, "a delete file without deletes"));
        };
        let positions = || places.iter().flat_map(|file| [file.positions.first(), file.positions.last()]).flatten().copied();
        let (least, greatest) = (positions().min().unwrap_or_default(), positions().max().unwrap_or_default());
        let mut builder = DataFileBuilder::default();
        builder
            .content(DataContentType::PositionDeletes)
            .file_path(self.location)
            .file_format(DataFileFormat::Parquet)
            .partition(partition.clone())
            .partition_spec_id(spec)
            .record_count(self.rows)
            .file_size_in_bytes(bytes)
            .value_counts(HashMap::from([(PATH, self.rows), (POS, self.rows)]))
            .null_value_counts(HashMap::from([(PATH, 0), (POS, 0)]))
            .lower_bounds(HashMap::from([(PATH, Datum::string(&first.path)), (POS, Datum::long(least))]))
            .upper_bounds(HashMap::from([(PATH, Datum::string(&last.path)), (POS, Datum::long(greatest))]))
            .referenced_data_file((places.len() == 1).then(|| first.path.clone()));
        builder.build().map_err(|e| Error::new(Kind::Bug, "cannot describe a position delete file").because(e))
    }
}

/// A file being written, as Parquet's writer wants it.
struct Output(Option<Upload>);

impl AsyncFileWriter for Output {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move {
            let upload = self.0.as_mut().ok_or_else(|| ParquetError::General("the file is closed already".to_owned()))?;
            upload.write(bytes).await.map_err(|e| ParquetError::External(Box::new(e)))
        }
        .boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move {
            let upload = self.0.take().ok_or_else(|| ParquetError::General("the file is closed already".to_owned()))?;
            upload.finish().await.map(drop).map_err(|e| ParquetError::External(Box::new(e)))
        }
        .boxed()
    }
}

fn unwritten(error: ParquetError, location: &str) -> Error {
    let doing = format!("write {location}");
    let other: Box<dyn std::error::Error + Send + Sync> = match error {
        ParquetError::External(cause) => match cause.downcast::<Error>() {
            Ok(ours) => return ours.doing(doing),
            Err(cause) => cause,
        },
        error => error.into(),
    };
    Error::new(Kind::Bug, "cannot encode positions").because(other).doing(doing)
}
