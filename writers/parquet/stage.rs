//! Stub: one file per part, encoded in memory. Replaced at merge.
use super::encode::EncodeOptions;
use super::partition::PartitionExpression;
use crate::storage::{Storage, parse};
use crate::{Error, Kind, Part, PartName, Result, Stats};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{Stream, TryStreamExt};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[expect(dead_code, reason = "stub")]
pub(crate) struct Stager {
    pub storage: Storage,
    pub staging: Path,
    pub schema: SchemaRef,
    pub partition: Option<PartitionExpression>,
    pub options: EncodeOptions,
    pub pool: Arc<rayon::ThreadPool>,
    pub label: String,
}
/// Stub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParquetPart {
    /// Stub.
    pub name: PartName,
    /// Stub.
    pub files: Vec<StagedFile>,
    /// Stub.
    pub rows: u64,
}
/// Stub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// Stub.
    pub staged: String,
    /// Stub.
    pub target: String,
    /// Stub.
    pub rows: u64,
    /// Stub.
    pub bytes: u64,
}
impl Part for ParquetPart {
    fn stats(&self) -> Stats {
        Stats { rows: self.rows, files: self.files.len() as u64, bytes: self.files.iter().map(|f| f.bytes).sum() }
    }
}
pub(crate) async fn stage<S, E>(stager: Arc<Stager>, name: PartName, batches: S) -> Result<ParquetPart, E>
where
    S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
    E: From<Error> + Send + 'static,
{
    let mut batches = std::pin::pin!(batches);
    let mut all = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        all.push(batch);
    }
    if all.iter().all(|b| b.num_rows() == 0) {
        return Ok(ParquetPart { name, files: Vec::new(), rows: 0 });
    }
    Ok(write(&stager, name, &all).await?)
}
pub(crate) async fn empty_file(stager: Arc<Stager>, name: PartName) -> Result<ParquetPart> {
    write(&stager, name, &[]).await
}
async fn write(stager: &Stager, name: PartName, batches: &[RecordBatch]) -> Result<ParquetPart> {
    let mut bytes = Vec::new();
    let bug = |e: parquet::errors::ParquetError| Error::new(Kind::Bug, e.to_string());
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, stager.schema.clone(), None).map_err(bug)?;
    for batch in batches {
        writer.write(batch).map_err(bug)?;
    }
    writer.close().map_err(bug)?;
    let rows = batches.iter().map(|b| b.num_rows() as u64).sum();
    let target = format!("{name}-000.parquet");
    let staged = format!("{}/{}/{target}.staged", stager.staging, name.generation);
    let mut upload = stager.storage.upload(&parse(&staged)?).await?;
    upload.write(bytes.into()).await?;
    let bytes = upload.finish().await?;
    Ok(ParquetPart { name, files: vec![StagedFile { staged, target, rows, bytes }], rows })
}
