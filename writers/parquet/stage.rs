//! Drains a stream of batches into staged files.
//!
//! One batch is encoded on the thread pool while the next is being read, never more. Rows go to one
//! open file per partition path. Promises that no file gets its final name here, that memory stays
//! within `row_group_bytes` plus one batch, and that an error of the stream comes out as it went in.
//! Leaves the files of a failed or dropped part where they are staged: whoever adopts parts removes
//! them. Does not know how files are published.

use super::encode::{EncodeOptions, Encoder};
use super::labels::Rows;
use super::partition::PartitionExpression;
use crate::error::{Error, Kind, Result};
use crate::naming;
use crate::storage::{Storage, Upload};
use crate::table::{Part, PartName, Stats};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{Stream, TryStreamExt, future};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;

/// What staging into one table needs.
pub(crate) struct Stager {
    /// Where files go.
    pub(crate) storage: Storage,
    /// Folder of this table's staged files.
    pub(crate) staging: Path,
    /// Schema of every file.
    pub(crate) schema: SchemaRef,
    /// Schema of every batch: the same, and the columns that only partition.
    pub(crate) batches: SchemaRef,
    /// How rows are divided into folders.
    pub(crate) partition: Option<PartitionExpression>,
    /// How files are cut and compressed.
    pub(crate) options: EncodeOptions,
    /// Encoding happens here, never on the threads that wait for sockets.
    pub(crate) pool: Arc<rayon::ThreadPool>,
    /// The table's name in errors: "shop.orders".
    pub(crate) label: String,
    /// When the run began, for `now()` in partition expressions: one instant for all parts.
    pub(crate) now: DateTime<Utc>,
}

/// Staged files with rows of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParquetPart {
    /// Name of the part.
    pub name: PartName,
    /// Its files; none when it has no rows.
    pub files: Vec<StagedFile>,
    /// Rows of all files.
    pub rows: u64,
}

/// A complete file that waits for its commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// Where it is, below the root of the store.
    pub staged: String,
    /// Where it belongs, below the table's folder: partition path and final name. Escaped already, to be
    /// read with [`Path::parse`] (`Path::from` would escape the percent signs again).
    pub target: String,
    /// Rows.
    pub rows: u64,
    /// Bytes as stored.
    pub bytes: u64,
}

impl Part for ParquetPart {
    fn stats(&self) -> Stats {
        Stats { rows: self.rows, files: self.files.len() as u64, bytes: self.files.iter().map(|file| file.bytes).sum() }
    }
}

/// Stages `batches` as the part `name`; see [`Table::stage`](crate::Table::stage).
pub(crate) async fn stage<S, E>(stager: Arc<Stager>, name: PartName, batches: S) -> Result<ParquetPart, E>
where
    S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
    E: From<Error> + Send + 'static,
{
    let mut batches = Box::pin(batches);
    let mut part = OpenPart::new(stager, name);
    let mut current = batches.try_next().await?;
    while let Some(batch) = current {
        // The write is polled first: it hands its work to the pool before this thread decodes.
        let write = async { part.write(batch).await.map_err(|e| E::from(part.explain(e))) };
        ((), current) = future::try_join(write, batches.try_next()).await?;
    }
    match part.finish().await {
        Ok(done) => Ok(done),
        Err(e) => Err(E::from(part.explain(e))),
    }
}

/// Stages one file without rows, so that a table without rows can still be read with its columns.
pub(crate) async fn empty_file(stager: Arc<Stager>, name: PartName) -> Result<ParquetPart> {
    let mut part = OpenPart::new(stager, name);
    part.begin(String::new());
    match part.finish().await {
        Ok(done) => Ok(done),
        Err(e) => Err(part.explain(e)),
    }
}

/// A part that is being written.
struct OpenPart {
    stager: Arc<Stager>,
    name: PartName,
    /// The least recently written file first.
    open: Vec<OpenFile>,
    done: Vec<StagedFile>,
    begun: u32,
}

/// One of its files.
struct OpenFile {
    folder: String,
    staged: Path,
    target: String,
    /// `None` before the first rows, and while the pool has it.
    encoder: Option<Box<Encoder>>,
    /// Begun with the first bytes, so that a small file holds no connection while it waits.
    upload: Option<Upload>,
    memory: usize,
    rows: u64,
    sent: u64,
}

impl OpenPart {
    fn new(stager: Arc<Stager>, name: PartName) -> Self {
        Self { stager, name, open: Vec::new(), done: Vec::new(), begun: 0 }
    }

    fn explain(&self, e: Error) -> Error {
        e.doing(format!("stage part {} of {}", self.name, self.stager.label))
    }

    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        check_schema(&self.stager.batches, batch.schema_ref())?;
        for (folder, rows) in self.stager.route(&batch).await? {
            let mut file = self.file_for(folder).await?;
            let full = self.stager.feed(&mut file, batch.clone(), rows).await?;
            if full {
                self.complete(file).await?;
            } else {
                self.open.push(file);
                self.bound_memory().await?;
            }
        }
        Ok(())
    }

    /// Takes the open file of a folder out of the list, or begins one.
    async fn file_for(&mut self, folder: String) -> Result<OpenFile> {
        if let Some(place) = self.open.iter().position(|file| file.folder == folder) {
            return Ok(self.open.remove(place));
        }
        while self.open.len() >= self.stager.options.open_files_max.max(1) {
            let oldest = self.open.remove(0);
            self.complete(oldest).await?;
        }
        self.begin(folder);
        Ok(self.open.pop().expect("just begun"))
    }

    fn begin(&mut self, folder: String) {
        let name = naming::file_name(&self.name, self.begun);
        self.begun += 1;
        let staged = self.stager.staging.clone().join(naming::staged_name(&name));
        let target = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        self.open.push(OpenFile { folder, staged, target, encoder: None, upload: None, memory: 0, rows: 0, sent: 0 });
    }

    /// Closes the largest row group until all of them are within the bound together.
    async fn bound_memory(&mut self) -> Result<()> {
        while self.open.iter().map(|file| file.memory).sum::<usize>() >= self.stager.options.row_group_bytes {
            let Some(largest) = (0..self.open.len()).max_by_key(|i| self.open[*i].memory) else { break };
            let Some(mut encoder) = self.open[largest].encoder.take() else { break };
            encoder = on_pool(&self.stager.pool, move || encoder.close_row_group().map(|()| encoder)).await?;
            let bytes = encoder.take();
            let mut file = self.open.remove(largest);
            file.memory = 0;
            file.encoder = Some(encoder);
            self.stager.send(&mut file, bytes).await?;
            self.open.insert(largest, file);
        }
        Ok(())
    }

    /// Ends a file and makes it durable under its staged name.
    async fn complete(&mut self, mut file: OpenFile) -> Result<()> {
        let stager = self.stager.clone();
        let encoder = file.encoder.take();
        let rest = on_pool(&self.stager.pool, move || match encoder {
            Some(encoder) => encoder.finish(),
            None => stager.encoder(None)?.finish(),
        })
        .await?;
        self.stager.send(&mut file, rest).await?;
        let upload = file.upload.take().ok_or_else(|| Error::new(Kind::Bug, "a file without a footer"))?;
        let bytes = upload.finish().await?;
        if bytes != file.sent {
            return Err(Error::new(Kind::Corrupt, format!("{} has {bytes} bytes, {} were written", file.staged, file.sent)));
        }
        self.done.push(StagedFile { staged: file.staged.to_string(), target: file.target, rows: file.rows, bytes });
        Ok(())
    }

    async fn finish(&mut self) -> Result<ParquetPart> {
        while !self.open.is_empty() {
            let file = self.open.remove(0);
            self.complete(file).await?;
        }
        let mut files = std::mem::take(&mut self.done);
        files.sort_by(|a, b| (a.staged.len(), &a.staged).cmp(&(b.staged.len(), &b.staged)));
        Ok(ParquetPart { name: self.name.clone(), rows: files.iter().map(|file| file.rows).sum(), files })
    }
}

// These borrow the stager and not the part: encoders are not `Sync`, and the future must be `Send`.
impl Stager {
    /// The rows of `batch` by folder.
    async fn route(self: &Arc<Self>, batch: &RecordBatch) -> Result<Vec<(String, Rows)>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        if self.partition.is_none() {
            return Ok(vec![(String::new(), Rows::All)]);
        }
        let (stager, batch) = (self.clone(), batch.clone());
        on_pool(&self.pool, move || match &stager.partition {
            Some(expression) => expression.paths(&batch, stager.now),
            None => Ok(vec![(String::new(), Rows::All)]),
        })
        .await
    }

    /// Encodes rows into a file. Whether the file is then full.
    async fn feed(self: &Arc<Self>, file: &mut OpenFile, batch: RecordBatch, rows: Rows) -> Result<bool> {
        let stager = self.clone();
        let encoder = file.encoder.take();
        let (mut encoder, full) = on_pool(&self.pool, move || {
            let batch = stager.written(rows.of(&batch)?)?;
            let mut encoder = match encoder {
                Some(encoder) => encoder,
                None => stager.encoder(Some(&batch))?,
            };
            encoder.write(&batch)?;
            let full = encoder.is_full();
            Ok((encoder, full))
        })
        .await?;
        let bytes = encoder.take();
        file.memory = encoder.memory();
        file.rows = encoder.rows();
        file.encoder = Some(encoder);
        self.send(file, bytes).await?;
        Ok(full)
    }

    /// Carries bytes to a file's upload, which begins with the first of them.
    async fn send(&self, file: &mut OpenFile, bytes: Vec<Bytes>) -> Result<()> {
        for piece in bytes {
            if file.upload.is_none() {
                file.upload = Some(self.storage.upload(&file.staged).await?);
            }
            if let Some(upload) = &mut file.upload {
                file.sent += piece.len() as u64;
                upload.write(piece).await?;
            }
        }
        Ok(())
    }

    /// The columns that are written.
    fn written(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let columns: Vec<usize> = (0..self.schema.fields().len()).collect();
        if columns.len() == batch.num_columns() {
            return Ok(batch);
        }
        batch.project(&columns).map_err(|e| Error::new(Kind::Bug, "cannot leave out the columns that only partition").because(e))
    }

    fn encoder(&self, first: Option<&RecordBatch>) -> Result<Box<Encoder>> {
        let files = if self.partition.is_some() { self.options.open_files_max } else { 1 };
        Ok(Box::new(Encoder::new(self.schema.clone(), self.options.clone(), files, first)?))
    }
}

/// Runs `job` on the pool without blocking the thread that waits. A panic in it becomes an error: the
/// pool would end the process.
async fn on_pool<T: Send + 'static>(pool: &rayon::ThreadPool, job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    pool.spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err(Error::new(Kind::Bug, "an encoder panicked")));
        // Nobody waits when the part was abandoned.
        let _ = sender.send(outcome);
    });
    receiver.await.unwrap_or_else(|_| Err(Error::new(Kind::Bug, "the encoding pool was shut down")))
}

/// Refuses a batch whose columns are not the table's; metadata may differ.
fn check_schema(table: &SchemaRef, batch: &SchemaRef) -> Result<()> {
    let fits =
        |table: &Schema, batch: &Schema| {
            table.fields().len() == batch.fields().len()
                && table.fields().iter().zip(batch.fields()).all(|(t, b)| {
                    t.name() == b.name() && t.data_type().equals_datatype(b.data_type()) && (t.is_nullable() || !b.is_nullable())
                })
        };
    if Arc::ptr_eq(table, batch) || fits(table, batch) {
        return Ok(());
    }
    Err(Error::new(Kind::Bug, format!("a batch has other columns than its table: {batch:?} instead of {table:?}")))
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
