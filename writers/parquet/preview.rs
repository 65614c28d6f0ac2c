//! The first rows of a table, for looking: read from its smallest files, so that little is fetched.

use crate::guard::guarded;
use crate::storage::{Storage, parse};
use crate::{Error, Kind, Result};
use arrow::array::RecordBatch;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Up to `rows` rows of the Parquet files below `folder`; at most a few batches, each with the schema of its file.
pub(super) async fn preview(storage: &Storage, folder: &Path, rows: usize) -> Result<Vec<RecordBatch>> {
    let mut files = storage.list(folder).await?;
    files.retain(|file| file.path.ends_with(".parquet"));
    files.sort_by_key(|file| file.bytes);
    let mut batches = Vec::new();
    let mut wanted = rows;
    for file in files {
        if wanted == 0 {
            break;
        }
        let Some(bytes) = storage.get(&parse(&file.path)?).await? else { continue };
        let broken = |e: String| Error::new(Kind::Corrupt, format!("{}: not a readable Parquet file: {e}", file.path));
        let read = || {
            let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
            builder.with_limit(wanted).with_batch_size(wanted).build()?.collect::<Result<Vec<_>, _>>().map_err(Into::into)
        };
        let found = guarded(read).and_then(|read: parquet::errors::Result<_>| read.map_err(|e| broken(e.to_string())));
        for batch in found.map_err(|e| e.doing(format!("read {}", file.path)))? {
            wanted = wanted.saturating_sub(batch.num_rows());
            // A table may be empty: its one file still shows the columns.
            if batch.num_rows() > 0 || batches.is_empty() {
                batches.push(batch);
            }
        }
    }
    Ok(batches)
}
