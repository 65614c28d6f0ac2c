//! Columns of single rows of data files, by where the rows are.
//!
//! Only the columns that are asked for are read, and only the pages that hold the rows. Columns are found by field id. Does not know why.

use super::Places;
use super::keys::{Source, unreadable};
use crate::guard::guarded_future;
use crate::iceberg::io::Files;
use crate::{Error, Kind, Result};
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::file::metadata::PageIndexPolicy;
use std::sync::Arc;

/// Rows that are read from one file, and the sequence number of the snapshot that added it.
pub(crate) struct Found {
    /// The columns that were asked for.
    pub(crate) batch: RecordBatch,
    /// The sequence number.
    pub(crate) added: i64,
}

/// Reads the columns `ids` of these rows, as `schema` says that they are.
pub(crate) async fn read_rows(files: &Files, places: &Places, ids: &[i32], schema: &SchemaRef) -> Result<Vec<Found>> {
    guarded_future(read(files, places, ids, schema)).await.map_err(|e| e.doing("read rows of the table"))?
}

async fn read(files: &Files, places: &Places, ids: &[i32], schema: &SchemaRef) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for file in &places.files {
        let source = Source::open(files, &file.path).await?;
        let failed = |e| unreadable(e, &file.path);
        // Types that another writer has noted for Arrow say nothing about the table.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_page_index_policy(PageIndexPolicy::Optional);
        let builder = ParquetRecordBatchStreamBuilder::new_with_options(source, options).await.map_err(failed)?;
        let fields = builder.parquet_schema().root_schema().get_fields();
        if !fields.iter().any(|field| field.get_basic_info().has_id()) {
            return Err(Error::new(Kind::Schema, format!("the columns of {} have no ids", file.path))
                .hint("rewrite the file with the engine that owns the table, or set REPLICA IDENTITY FULL in the source"));
        }
        let place = |id: &i32| fields.iter().position(|field| field.get_basic_info().has_id() && field.get_basic_info().id() == *id);
        let columns: Vec<Option<usize>> = ids.iter().map(place).collect();
        // Batches have their columns in the file's order.
        let mut order: Vec<usize> = columns.iter().flatten().copied().collect();
        order.sort_unstable();
        let mask = ProjectionMask::roots(builder.parquet_schema(), order.iter().copied());
        let builder = builder.with_projection(mask).with_row_selection(selection(&file.positions));
        let mut batches = builder.build().map_err(failed)?;
        while let Some(batch) = batches.try_next().await.map_err(failed)? {
            let mut arrays: Vec<ArrayRef> = Vec::with_capacity(ids.len());
            for (column, field) in columns.iter().zip(schema.fields()) {
                let at = column.and_then(|column| order.iter().position(|other| *other == column));
                arrays.push(match at {
                    Some(at) => cast(batch.column(at), field.data_type()).map_err(|e| {
                        Error::new(
                            Kind::Schema,
                            format!("column {:?} of {} cannot be read as {}", field.name(), file.path, field.data_type()),
                        )
                        .because(e)
                    })?,
                    // What a file does not have is NULL.
                    None => new_null_array(field.data_type(), batch.num_rows()),
                });
            }
            let bug = |e| Error::new(Kind::Bug, "cannot put rows together").because(e);
            found.push(Found { batch: RecordBatch::try_new(Arc::clone(schema), arrays).map_err(bug)?, added: file.added });
        }
    }
    Ok(found)
}

/// Rows at these positions, which are sorted.
fn selection(positions: &[u32]) -> RowSelection {
    let mut selectors = Vec::new();
    let mut next = 0_usize;
    for position in positions.iter().map(|position| *position as usize) {
        if position > next {
            selectors.push(RowSelector::skip(position - next));
        }
        selectors.push(RowSelector::select(1));
        next = position + 1;
    }
    selectors.into()
}
