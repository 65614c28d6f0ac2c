//! Changes of several streams on their way into parts, between one commit and the next.
//!
//! Each stream has a builder of batches and, from its first change on, a part that is being staged by a task of its own. Promises: a stream
//! that fails leaves the others alone; memory is that of the batches under construction, and of what was sent, from the pool. Does not
//! know what a transaction is.

use super::StreamRun;
use super::backfill::BatchLimits;
use super::capture_plan::CapturePlan;
use crate::capture::pgoutput::{Old, Relation, Tuple};
use crate::capture::rows::{Op, Origin, Place, Rows, schema_of};
use crate::error::{Error, Result};
use crate::state::captured::Captured;
use arrow::array::RecordBatch;
use futures::StreamExt;
use futures::future::Either;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;
use writers::{Commit, PartName, Table};

/// Batches between the builder and the writer.
const QUEUE: usize = 1;

/// A stream that is followed.
pub struct Follower<T: Table> {
    /// The stream.
    pub stream: Arc<StreamRun<T>>,
    /// How its changes are written.
    pub plan: CapturePlan,
    /// How far it has come.
    pub captured: Captured,
    rows: Rows,
    /// The relation whose shape the rows have.
    pub shape: u32,
    /// Places of the key's columns in the rows of the relation.
    key: Vec<usize>,
    /// Why updates and deletes cannot be applied, if they cannot.
    blind: Option<String>,
    staging: Option<Staging<T::Part>>,
    /// Changes since the last commit.
    pub changes: u64,
    /// Whether what was there before the last commit is gone.
    replaces: bool,
    windows: u32,
}

struct Staging<P> {
    batches: Sender<Result<RecordBatch>>,
    part: JoinHandle<Result<P>>,
}

impl<P> Drop for Staging<P> {
    fn drop(&mut self) {
        self.part.abort();
    }
}

impl<T: Table> Follower<T> {
    /// Nothing is built yet.
    pub fn new(stream: Arc<StreamRun<T>>, plan: CapturePlan, captured: Captured) -> Self {
        let rows = Rows::new(&stream.plan.id, &plan.columns, &plan.origins, schema_of(&plan.columns));
        Self {
            stream,
            plan,
            captured,
            rows,
            shape: 0,
            key: Vec::new(),
            blind: None,
            staging: None,
            changes: 0,
            replaces: false,
            windows: 0,
        }
    }

    /// Whether it has failed, and is left alone.
    pub fn has_failed(&self) -> bool {
        self.stream.meter.failure().is_some()
    }

    /// The rows that follow are of this shape.
    pub fn relate(&mut self, relation: &Relation) {
        self.shape = relation.oid;
        self.rows.relate(relation);
        let place = |name: &String| relation.columns.iter().position(|column| column.name == *name);
        let places: Option<Vec<usize>> = self.plan.key.iter().map(place).collect();
        let known = |at: &usize| relation.columns[*at].key;
        self.blind = match &places {
            Some(places) if places.iter().all(known) => None,
            _ => Some(format!("the replica identity does not have the key ({})", self.plan.key.join(", "))),
        };
        self.key = places.unwrap_or_default();
    }

    /// Columns of the source that are written, and that a relation does not have.
    pub fn missing(&self, relation: &Relation) -> Vec<String> {
        let has = |name: &&String| relation.columns.iter().any(|column| column.name == **name);
        let written = self.plan.origins.iter().filter_map(|origin| if let Origin::Column(name) = origin { Some(name) } else { None });
        written.filter(|name| !has(name)).cloned().collect()
    }

    /// A new row.
    pub fn insert(&mut self, new: Tuple<'_>, place: &mut Place) -> Result<()> {
        self.put(Op::Create, new, None, place)
    }

    /// A changed row. One whose key has changed is another row: the old one goes.
    pub fn update(&mut self, old: Option<Old<'_>>, new: Tuple<'_>, place: &mut Place) -> Result<()> {
        self.sighted()?;
        match old {
            None => self.put(Op::Update, new, None, place),
            Some(Old::Key(old)) => {
                self.put(Op::Delete, old, None, place)?;
                self.put(Op::Create, new, None, place)
            }
            Some(Old::Full(old)) => {
                let differs = |at: &usize| old.cells().nth(*at) != new.cells().nth(*at);
                match self.key.iter().any(differs) {
                    true => {
                        self.put(Op::Delete, old, None, place)?;
                        self.put(Op::Create, new, Some(old), place)
                    }
                    false => self.put(Op::Update, new, Some(old), place),
                }
            }
        }
    }

    /// A row that is gone.
    pub fn delete(&mut self, old: Old<'_>, place: &mut Place) -> Result<()> {
        self.sighted()?;
        let (Old::Key(old) | Old::Full(old)) = old;
        self.put(Op::Delete, old, None, place)
    }

    /// All rows are gone: those of the destination, and what this window has.
    pub fn truncate(&mut self, place: &mut Place) -> Result<()> {
        if self.plan.applies {
            self.rows.clear()?;
            self.staging = None;
            self.replaces = true;
        } else {
            self.rows.push_truncate(*place)?;
        }
        place.sequence += 1;
        self.changes += 1;
        Ok(())
    }

    /// What a commit does to the rows that are there.
    pub fn how(&self) -> Commit {
        if self.replaces { Commit::Replace } else { Commit::Append }
    }

    /// After a commit; gives how many changes were in it.
    pub fn settled(&mut self) -> u64 {
        self.replaces = false;
        std::mem::take(&mut self.changes)
    }

    fn sighted(&self) -> Result<()> {
        match &self.blind {
            Some(why) if self.plan.applies => Err(Error::schema(format!("{}: a row was changed, and {why}", self.stream.plan.id)).hint(format!(
                "ALTER TABLE {} REPLICA IDENTITY DEFAULT (with a primary key) or FULL, then load the table anew: clear-destination for this stream, then sync",
                self.stream.plan.id
            ))),
            _ => Ok(()),
        }
    }

    fn put(&mut self, op: Op, row: Tuple<'_>, old: Option<Tuple<'_>>, place: &mut Place) -> Result<()> {
        self.rows.push(op, row, old, *place)?;
        place.sequence += 1;
        self.changes += 1;
        Ok(())
    }

    /// Bytes of the batch under construction.
    pub fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    /// Rows of the batch under construction.
    pub fn rows(&self) -> usize {
        self.rows.rows()
    }

    /// Hands the rows so far to the writer.
    pub async fn flush(&mut self, limits: &BatchLimits) -> Result<()> {
        if self.rows.rows() == 0 {
            return Ok(());
        }
        let meter = &self.stream.meter;
        meter.rows_read.fetch_add(self.rows.rows() as u64, Relaxed);
        let batch = self.rows.finish_batch()?;
        let bytes = batch.get_array_memory_size();
        meter.bytes_read.fetch_add(bytes as u64, Relaxed);
        let batch = limits.memory.reserve(bytes).await?.attach(batch)?;
        if self.staging.is_none() {
            self.staging = Some(self.begin().await);
        }
        let Some(staging) = &self.staging else { return Ok(()) };
        if staging.batches.send(Ok(batch)).await.is_err() {
            // The writer has given up, and knows why.
            self.part().await?;
            return Err(Error::bug("a writer ended before its changes did"));
        }
        Ok(())
    }

    async fn begin(&mut self) -> Staging<T::Part> {
        self.windows += 1;
        let (sender, receiver) = tokio::sync::mpsc::channel(QUEUE);
        let batches = futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) });
        // Not the name of any other part: an abandoned one may lie there.
        let name = PartName { generation: uuid::Uuid::now_v7().simple().to_string(), sequence: self.windows };
        let table = self.stream.table.lock().await;
        let staging = match self.plan.applies {
            true => Either::Left(table.stage_changes(name, batches.boxed())),
            false => Either::Right(table.stage(name, batches.boxed())),
        };
        Staging { batches: sender, part: tokio::spawn(staging) }
    }

    /// Ends the part and gives it; `None` when nothing was staged.
    pub async fn part(&mut self) -> Result<Option<T::Part>> {
        let Some(mut staging) = self.staging.take() else { return Ok(None) };
        let (closed, _) = tokio::sync::mpsc::channel(1);
        drop(std::mem::replace(&mut staging.batches, closed));
        match (&mut staging.part).await {
            Ok(part) => part.map(Some).map_err(|e| e.doing(format!("stage changes of {}", self.stream.plan.id))),
            Err(panic) => Err(Error::bug(format!("a writer stopped: {panic}"))),
        }
    }

    /// Gives up what is not committed.
    pub fn fail(&mut self, error: Error) {
        tracing::error!("{error}");
        self.stream.meter.fail(error);
        self.staging = None;
    }
}
