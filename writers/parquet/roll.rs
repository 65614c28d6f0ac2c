//! Drains a stream of batches into files, one open file per group of rows.
//!
//! One batch is encoded on the thread pool while the next is being read, never more. Promises that memory stays
//! within `row_group_bytes` plus one batch, and that an error of the stream comes out as it went in.
//! Does not know what a group is, nor what files are called: that is the [`Sorter`]'s.

use super::encode::{EncodeOptions, Encoder};
use super::labels::Rows;
use crate::error::{Error, Kind, Result};
use crate::order::{Order, sorted};
use crate::storage::{Storage, Upload};
use crate::table::PartName;
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use futures::{Stream, TryStreamExt, future};
use object_store::path::Path;
use parquet::file::metadata::ParquetMetaData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Decides which rows share files, what is written of them, and where.
pub(crate) trait Sorter: Send + Sync + 'static {
    /// Rows of equal groups share files.
    type Group: Clone + PartialEq + Send + Sync + 'static;

    /// Whether there can be more than one group.
    fn divides(&self) -> bool;

    /// The groups of a batch that has rows, each once, with its rows. Called on the pool.
    fn route(&self, batch: &RecordBatch) -> Result<Vec<(Self::Group, Rows)>>;

    /// The rows as they are written. Called on the pool.
    fn written(&self, batch: RecordBatch) -> Result<RecordBatch>;

    /// Where the file number `number` of a part goes.
    fn place(&self, group: &Self::Group, part: &PartName, number: u32) -> Result<(Storage, Path)>;
}

/// What rolling into one table's files needs.
pub(crate) struct Roller<S> {
    /// Groups and places.
    pub(crate) sorter: S,
    /// Schema of every file.
    pub(crate) schema: SchemaRef,
    /// Schema of every batch.
    pub(crate) batches: SchemaRef,
    /// The order of the rows of a part, and so of each of its files.
    pub(crate) order: Order,
    /// How files are cut and compressed.
    pub(crate) options: EncodeOptions,
    /// Encoding happens here, never on the threads that wait for sockets.
    pub(crate) pool: Arc<rayon::ThreadPool>,
    /// The table's name in errors: "shop.orders".
    pub(crate) label: String,
}

/// A complete, durable file.
#[derive(Debug)]
pub(crate) struct Rolled<G> {
    /// Which rows it has.
    pub(crate) group: G,
    /// Its number within the part.
    pub(crate) number: u32,
    /// Where it is, in the store that the sorter named.
    pub(crate) path: Path,
    /// Rows.
    pub(crate) rows: u64,
    /// Bytes as stored.
    pub(crate) bytes: u64,
    /// Its footer.
    pub(crate) footer: ParquetMetaData,
}

/// Writes `batches` as the files of part `name`, in the order of their numbers.
pub(crate) async fn roll<R, S, E>(roller: Arc<Roller<R>>, name: PartName, batches: S) -> Result<Vec<Rolled<R::Group>>, E>
where
    R: Sorter,
    S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
    E: From<Error> + Send + 'static,
{
    let mut batches = Box::pin(sorted(roller.order.clone(), batches));
    let mut part = OpenPart::new(roller, name);
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

/// Writes one file without rows, so that a table without rows can still be read with its columns.
pub(crate) async fn empty_file<R: Sorter>(roller: Arc<Roller<R>>, name: PartName, group: R::Group) -> Result<Vec<Rolled<R::Group>>> {
    let mut part = OpenPart::new(roller, name);
    part.begin(group)?;
    match part.finish().await {
        Ok(done) => Ok(done),
        Err(e) => Err(part.explain(e)),
    }
}

/// A part that is being written.
pub(super) struct OpenPart<R: Sorter> {
    roller: Arc<Roller<R>>,
    name: PartName,
    /// The least recently written file first.
    open: Vec<OpenFile<R::Group>>,
    done: Vec<Rolled<R::Group>>,
    begun: u32,
}

/// One of its files.
struct OpenFile<G> {
    group: G,
    number: u32,
    storage: Storage,
    path: Path,
    /// `None` before the first rows, and while the pool has it.
    encoder: Option<Box<Encoder>>,
    /// Begun with the first bytes, so that a small file holds no connection while it waits.
    upload: Option<Upload>,
    memory: usize,
    rows: u64,
    sent: u64,
}

impl<R: Sorter> OpenPart<R> {
    pub(super) fn new(roller: Arc<Roller<R>>, name: PartName) -> Self {
        Self { roller, name, open: Vec::new(), done: Vec::new(), begun: 0 }
    }

    fn explain(&self, e: Error) -> Error {
        e.doing(format!("stage part {} of {}", self.name, self.roller.label))
    }

    pub(super) async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        check_schema(&self.roller.batches, batch.schema_ref())?;
        for (group, rows) in self.roller.route(&batch).await? {
            let mut file = self.file_for(group).await?;
            let full = self.roller.feed(&mut file, batch.clone(), rows).await?;
            if full {
                self.complete(file).await?;
            } else {
                self.open.push(file);
                self.bound_memory().await?;
            }
        }
        Ok(())
    }

    /// Takes the open file of a group out of the list, or begins one.
    async fn file_for(&mut self, group: R::Group) -> Result<OpenFile<R::Group>> {
        if let Some(place) = self.open.iter().position(|file| file.group == group) {
            return Ok(self.open.remove(place));
        }
        while self.open.len() >= self.roller.options.open_files_max.max(1) {
            let oldest = self.open.remove(0);
            self.complete(oldest).await?;
        }
        self.begin(group)?;
        Ok(self.open.pop().expect("just begun"))
    }

    fn begin(&mut self, group: R::Group) -> Result<()> {
        let number = self.begun;
        self.begun += 1;
        let (storage, path) = self.roller.sorter.place(&group, &self.name, number)?;
        self.open.push(OpenFile { group, number, storage, path, encoder: None, upload: None, memory: 0, rows: 0, sent: 0 });
        Ok(())
    }

    /// Bytes that the open row groups hold together.
    pub(super) fn held(&self) -> usize {
        self.open.iter().map(|file| file.memory).sum()
    }

    /// Closes the largest row group until all of them are within the bound together.
    async fn bound_memory(&mut self) -> Result<()> {
        while self.held() >= self.roller.options.row_group_bytes {
            let Some(largest) = (0..self.open.len()).max_by_key(|i| self.open[*i].memory) else { break };
            let Some(mut encoder) = self.open[largest].encoder.take() else { break };
            encoder = on_pool(&self.roller.pool, move || encoder.close_row_group().map(|()| encoder)).await?;
            let bytes = encoder.take();
            let mut file = self.open.remove(largest);
            file.memory = 0;
            file.encoder = Some(encoder);
            self.roller.send(&mut file, bytes).await?;
            self.open.insert(largest, file);
        }
        Ok(())
    }

    /// Ends a file and makes it durable.
    async fn complete(&mut self, mut file: OpenFile<R::Group>) -> Result<()> {
        let roller = self.roller.clone();
        let encoder = file.encoder.take();
        let (rest, footer) = on_pool(&self.roller.pool, move || match encoder {
            Some(encoder) => encoder.finish(),
            None => roller.encoder(None)?.finish(),
        })
        .await?;
        self.roller.send(&mut file, rest).await?;
        let upload = file.upload.take().ok_or_else(|| Error::new(Kind::Bug, "a file without a footer"))?;
        let bytes = upload.finish().await?;
        if bytes != file.sent {
            return Err(Error::new(Kind::Corrupt, format!("{} has {bytes} bytes, {} were written", file.path, file.sent)));
        }
        self.done.push(Rolled { group: file.group, number: file.number, path: file.path, rows: file.rows, bytes, footer });
        Ok(())
    }

    pub(super) async fn finish(&mut self) -> Result<Vec<Rolled<R::Group>>> {
        while !self.open.is_empty() {
            let file = self.open.remove(0);
            self.complete(file).await?;
        }
        let mut files = std::mem::take(&mut self.done);
        files.sort_by_key(|file| file.number);
        Ok(files)
    }
}

// These borrow the roller and not the part: encoders are not `Sync`, and the future must be `Send`.
impl<R: Sorter> Roller<R> {
    /// The rows of `batch` by group.
    async fn route(self: &Arc<Self>, batch: &RecordBatch) -> Result<Vec<(R::Group, Rows)>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        if !self.sorter.divides() {
            return self.sorter.route(batch);
        }
        let (roller, batch) = (self.clone(), batch.clone());
        on_pool(&self.pool, move || roller.sorter.route(&batch)).await
    }

    /// Encodes rows into a file. Whether the file is then full.
    async fn feed(self: &Arc<Self>, file: &mut OpenFile<R::Group>, batch: RecordBatch, rows: Rows) -> Result<bool> {
        let roller = self.clone();
        let encoder = file.encoder.take();
        let (mut encoder, full) = on_pool(&self.pool, move || {
            let batch = roller.sorter.written(rows.of(&batch)?)?;
            let mut encoder = match encoder {
                Some(encoder) => encoder,
                None => roller.encoder(Some(&batch))?,
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
    async fn send(&self, file: &mut OpenFile<R::Group>, bytes: Vec<Bytes>) -> Result<()> {
        for piece in bytes {
            if file.upload.is_none() {
                file.upload = Some(file.storage.upload(&file.path).await?);
            }
            if let Some(upload) = &mut file.upload {
                file.sent += piece.len() as u64;
                upload.write(piece).await?;
            }
        }
        Ok(())
    }

    fn encoder(&self, first: Option<&RecordBatch>) -> Result<Box<Encoder>> {
        let files = if self.sorter.divides() { self.options.open_files_max } else { 1 };
        Ok(Box::new(Encoder::new(self.schema.clone(), self.options.clone(), files, first)?))
    }
}

/// Runs `job` on the pool without blocking the thread that waits. A panic in it becomes an error: the
/// pool would end the process.
pub(super) async fn on_pool<T: Send + 'static>(pool: &rayon::ThreadPool, job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
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
