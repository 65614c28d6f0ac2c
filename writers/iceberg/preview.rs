//! The first rows of a table, for looking: data files without the rows that are taken away by position or by key.
//!
//! Iceberg's library reads the files. What it does not read (deletion vectors) is said, not left out.

use super::catalog::Loaded;
use super::io::inward;
use crate::guard::guarded_future;
use crate::{Error, Kind, Result};
use arrow::array::RecordBatch;
use futures::TryStreamExt;
use iceberg::Runtime;
use iceberg::TableIdent;
use iceberg::spec::DataFileFormat;
use iceberg::table::Table;

/// Up to `rows` rows.
pub(super) async fn preview(loaded: &Loaded, rows: usize) -> Result<Vec<RecordBatch>> {
    guarded_future(read(loaded, rows)).await.map_err(|e| e.doing("look at the rows"))?
}

async fn read(loaded: &Loaded, rows: usize) -> Result<Vec<RecordBatch>> {
    let reading = |e: iceberg::Error| inward(&e, Kind::Corrupt, "look at the rows");
    for manifest in super::manifest::current(&loaded.files, &loaded.metadata).await? {
        for entry in super::manifest::alive(&loaded.files, &manifest).await? {
            if entry.file_format() == DataFileFormat::Puffin {
                return Err(Error::new(Kind::Config, "the table has deletion vectors, which preview does not read")
                    .hint("look at it with DuckDB or Spark"));
            }
        }
    }
    let table = Table::builder()
        .metadata(loaded.metadata.clone())
        .metadata_location(loaded.metadata_location.clone())
        .identifier(TableIdent::from_strs(["lakeward", "preview"]).map_err(reading)?)
        .file_io(loaded.files.io())
        .runtime(Runtime::current())
        .build()
        .map_err(reading)?;
    let mut batches = table.scan().build().map_err(reading)?.to_arrow().await.map_err(reading)?;
    let (mut read, mut left) = (Vec::new(), rows);
    while left > 0
        && let Some(batch) = batches.try_next().await.map_err(reading)?
    {
        let batch = batch.slice(0, batch.num_rows().min(left));
        left -= batch.num_rows();
        read.push(batch);
    }
    Ok(read)
}
