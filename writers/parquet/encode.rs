//! Encodes batches into the bytes of one Parquet file, columns in parallel.
//!
//! Promises that the writers of a row group hold at most `row_group_bytes` plus what one batch adds,
//! and that a file holds exactly the rows it was given, with the types of its Arrow schema. Computes and
//! allocates, but does no I/O: whoever drives it carries the bytes away. Call it on a rayon pool: the
//! columns of a batch are then spread over that pool.

use super::flat::{FlatColumn, Pieces};
use super::layout::Layout;
use crate::error::{Error, Kind, Result};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{FieldRef, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use rayon::prelude::*;
use std::io::Write;
use std::sync::Arc;

/// How the pages of a file are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Snappy.
    Snappy,
    /// Zstandard, level 1 to 22.
    Zstd(i32),
}

/// How files are cut and compressed.
#[derive(Clone, Debug)]
pub struct EncodeOptions {
    /// Compression of every page.
    pub compression: Compression,
    /// Bytes that the open row groups of one part may hold in memory; reaching it closes the largest.
    pub row_group_bytes: usize,
    /// Rows after which a row group is closed.
    pub row_group_rows: usize,
    /// Size at which a file is finished and the next begun. A file may exceed it by what one batch adds.
    pub file_bytes_max: u64,
    /// Whether whole numbers may be stored as deltas (DELTA_BINARY_PACKED), which are smaller and faster than plain numbers
    /// but a younger part of the format: of the engines in use, Iceberg's vectorized reader for Spark learnt it last.
    pub deltas: bool,
    /// Files of one part that are open at once (one per partition path); one more finishes the one that
    /// was written to longest ago.
    pub open_files_max: usize,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            compression: Compression::Zstd(1),
            row_group_bytes: 64 << 20,
            row_group_rows: 1 << 20,
            file_bytes_max: 512 << 20,
            deltas: true,
            open_files_max: 32,
        }
    }
}

/// A file has at most 2^15 row groups; stay below.
const ROW_GROUPS_MAX: usize = 30_000;
/// What the footer keeps in memory per column and row group, roughly: statistics and page indexes.
const FOOTER_BYTES_PER_CHUNK: usize = 2048;
/// Encoded bytes leave in pieces of this size, so that none is copied as a whole row group grows. Small enough for the allocator
/// to use the room again.
const SEGMENT_BYTES: usize = 512 << 10;

/// One Parquet file being encoded.
pub(crate) struct Encoder {
    schema: SchemaRef,
    options: EncodeOptions,
    layout: Layout,
    file: SerializedFileWriter<Segments>,
    columns: ArrowRowGroupWriterFactory,
    /// The row group being filled: what each field is encoded by. Empty between row groups.
    group: Vec<Column>,
    group_rows: usize,
    rows: u64,
}

impl Encoder {
    /// Begins a file that shares the bound with `files - 1` others; `first` (its first batch, if any)
    /// tells which columns are worth a dictionary.
    pub(crate) fn new(schema: SchemaRef, options: EncodeOptions, files: usize, first: Option<&RecordBatch>) -> Result<Self> {
        let parquet = ArrowSchemaConverter::new()
            .convert(&schema)
            .map_err(|e| Error::new(Kind::Schema, "the table has a column that Parquet cannot hold").because(e))?;
        if parquet.num_columns() == 0 {
            return Err(Error::new(Kind::Schema, "a table without columns cannot be stored as Parquet").hint("select at least one column"));
        }
        let layout = Layout::of(&parquet, &options, files.max(1), first);
        let properties = Arc::new(layout.properties(&schema, &parquet, &options)?);
        let file = SerializedFileWriter::new(Segments::default(), parquet.root_schema_ptr(), properties).map_err(broken)?;
        let columns = ArrowRowGroupWriterFactory::new(&file, schema.clone());
        Ok(Self { schema, options, layout, file, columns, group: Vec::new(), group_rows: 0, rows: 0 })
    }

    /// Adds the rows of `batch`, which has the file's schema; closes the row group whenever it is full.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut offset = 0;
        while offset < batch.num_rows() {
            let room = self.options.row_group_rows.max(1) - self.group_rows;
            let rows = room.min(batch.num_rows() - offset);
            self.encode(&batch.slice(offset, rows))?;
            offset += rows;
            if self.group_rows >= self.options.row_group_rows || self.memory() >= self.options.row_group_bytes {
                self.close_row_group()?;
            }
        }
        Ok(())
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.group.is_empty() {
            self.group = self.open_row_group()?;
        }
        self.group
            .par_iter_mut()
            .zip(batch.columns().par_iter())
            .zip(self.schema.fields().par_iter())
            // Columns differ a lot in cost: let idle threads take single ones.
            .with_max_len(1)
            .try_for_each(|((column, array), field)| column.write(field, array))?;
        self.group_rows += batch.num_rows();
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    fn open_row_group(&self) -> Result<Vec<Column>> {
        let leaves = self.columns.create_column_writers(self.file.flushed_row_groups().len()).map_err(broken)?;
        let schema = self.file.schema_descr();
        let mut leaves = leaves.into_iter().enumerate().peekable();
        let mut group = Vec::with_capacity(self.schema.fields().len());
        for (root, field) in self.schema.fields().iter().enumerate() {
            let mut writers = Vec::with_capacity(1);
            let first = leaves.peek().map_or(0, |(leaf, _)| *leaf);
            while let Some((_, writer)) = leaves.next_if(|(leaf, _)| schema.get_column_root_idx(*leaf) == root) {
                writers.push(writer);
            }
            let (scheme, limits) = self.layout.flat(first);
            let flat = FlatColumn::new(field.data_type(), schema.column(first), self.options.compression, scheme, limits);
            group.push(flat.map_or(Column::Nested { first, writers }, |column| Column::Flat(Box::new(column))));
        }
        Ok(group)
    }

    /// Ends the row group being filled, if there is one; its bytes are then in [`Self::take`].
    pub(crate) fn close_row_group(&mut self) -> Result<()> {
        if self.group_rows == 0 {
            return Ok(());
        }
        self.group_rows = 0;
        let chunks: Vec<Chunk> =
            std::mem::take(&mut self.group).into_par_iter().with_max_len(1).map(Column::close).collect::<Result<_>>()?;
        let mut group = self.file.next_row_group().map_err(broken)?;
        for chunk in chunks {
            // Each chunk is freed as soon as it is copied: the row group is never in memory twice.
            chunk.append_to(&mut group).map_err(broken)?;
        }
        group.close().map_err(broken)?;
        self.file.inner_mut().cut();
        Ok(())
    }

    /// Takes the bytes that are ready, in their order.
    pub(crate) fn take(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.file.inner_mut().ready)
    }

    /// Ends the file and gives the rest of its bytes, and its footer.
    pub(crate) fn finish(mut self) -> Result<(Vec<Bytes>, ParquetMetaData)> {
        self.close_row_group()?;
        let footer = self.file.finish().map_err(broken)?;
        let segments = self.file.inner_mut();
        segments.cut();
        Ok((std::mem::take(&mut segments.ready), footer))
    }

    /// Bytes held by the row group being filled; zero between row groups.
    pub(crate) fn memory(&self) -> usize {
        self.group.iter().map(|column| column.held(&self.layout, self.group_rows)).sum()
    }

    /// Whether the file is large enough: in bytes, counting the open row group, or in its footer.
    pub(crate) fn is_full(&self) -> bool {
        let open: usize = self.group.iter().map(Column::encoded).sum();
        let groups = self.file.flushed_row_groups().len();
        let footer = groups * self.file.schema_descr().num_columns() * FOOTER_BYTES_PER_CHUNK;
        (self.file.bytes_written() + open) as u64 >= self.options.file_bytes_max
            || groups >= ROW_GROUPS_MAX
            || footer >= self.options.row_group_bytes.max(16 << 20) / 4
    }

    /// Rows so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }
}

/// One field of a row group being filled.
enum Column {
    Flat(Box<FlatColumn>),
    /// The writers of the field's leaves, of which the first is leaf `first` of the schema.
    Nested {
        first: usize,
        writers: Vec<ArrowColumnWriter>,
    },
}

/// One field of a row group that is ended.
enum Chunk {
    Flat(Box<(Pieces, ColumnCloseResult)>),
    Nested(Vec<ArrowColumnChunk>),
}

impl Column {
    fn write(&mut self, field: &FieldRef, array: &ArrayRef) -> Result<()> {
        match self {
            Self::Flat(column) => column.write(array),
            Self::Nested { writers, .. } => {
                let leaves = compute_leaves(field, array).map_err(broken)?;
                writers.iter_mut().zip(&leaves).try_for_each(|(writer, leaf)| writer.write(leaf)).map_err(broken)
            }
        }
    }

    fn held(&self, layout: &Layout, rows: usize) -> usize {
        match self {
            Self::Flat(column) => column.held(),
            Self::Nested { first, writers } => (*first..).zip(writers).map(|(leaf, writer)| layout.held(leaf, writer, rows)).sum(),
        }
    }

    fn encoded(&self) -> usize {
        match self {
            Self::Flat(column) => column.encoded(),
            Self::Nested { writers, .. } => writers.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum(),
        }
    }

    fn close(self) -> Result<Chunk> {
        Ok(match self {
            Self::Flat(column) => Chunk::Flat(Box::new(column.close()?)),
            Self::Nested { writers, .. } => {
                let chunks = writers.into_iter().map(ArrowColumnWriter::close).collect::<Result<_, ParquetError>>();
                Chunk::Nested(chunks.map_err(broken)?)
            }
        })
    }
}

impl Chunk {
    fn append_to<W: Write + Send>(self, group: &mut SerializedRowGroupWriter<'_, W>) -> Result<(), ParquetError> {
        match self {
            Self::Flat(chunk) => {
                let (pieces, close) = *chunk;
                group.append_column(&pieces, close)
            }
            Self::Nested(chunks) => chunks.into_iter().try_for_each(|chunk| chunk.append_to_row_group(group)),
        }
    }
}

pub(super) fn broken(e: ParquetError) -> Error {
    Error::new(Kind::Bug, "cannot encode Parquet").because(e)
}

/// Collects written bytes in pieces that can be carried away.
#[derive(Debug, Default)]
struct Segments {
    ready: Vec<Bytes>,
    open: Vec<u8>,
}

impl Segments {
    fn cut(&mut self) {
        if !self.open.is_empty() {
            // The last piece of a row group may be a small one.
            self.open.shrink_to_fit();
            self.ready.push(std::mem::take(&mut self.open).into());
        }
    }
}

impl Write for Segments {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        if self.open.capacity() == 0 {
            self.open.reserve_exact(SEGMENT_BYTES.max(data.len()));
        }
        self.open.extend_from_slice(data);
        // A piece that would not take another write of this size is full.
        if self.open.len() + data.len() > SEGMENT_BYTES {
            self.cut();
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
