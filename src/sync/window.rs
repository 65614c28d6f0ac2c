//! Changes of several streams on their way into parts, between one commit and the next.
//!
//! Each stream has a builder of batches and, from its first change on, a part that is being staged by a task of its own. Promises: a stream
//! that fails leaves the others alone; memory is that of the batches under construction, and of what was sent, from the pool. Does not
//! know what a transaction is.

use super::StreamRun;
use super::backfill::BatchLimits;
use super::capture_plan::CapturePlan;
use crate::capture::judge::Judge;
use crate::capture::pgoutput::{Cell, Old, Relation, Tuple};
use crate::capture::rows::{Op, Origin, Place, Rows, schema_of};
use crate::error::{Error, Result};
use crate::state::captured::Captured;
use arrow::array::{BooleanArray, RecordBatch, new_null_array};
use arrow::buffer::BooleanBuffer;
use futures::StreamExt;
use futures::future::Either;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;
use writers::{Commit, GONE, PartName, Table};

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
    /// Which of them are wanted, if not all.
    judge: Option<Judge>,
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
    /// The transaction that has truncated the table since the last commit.
    pub truncated: Option<u32>,
    windows: u32,
    /// Whether a range of the table was copied since the last commit.
    pub copied: bool,
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
        let mut rows = Rows::new(&stream.plan.id, &plan.columns, &plan.origins, schema_of(&plan.columns));
        rows.await_rows(captured.is_copying() && plan.tells_before);
        // The first range of a copy takes the place of what was there.
        let replaces = captured.is_copying() && captured.written.is_none();
        Self {
            stream,
            judge: plan.judge.clone(),
            plan,
            captured,
            rows,
            shape: 0,
            key: Vec::new(),
            blind: None,
            staging: None,
            changes: 0,
            replaces,
            truncated: None,
            windows: 0,
            copied: false,
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
        if let Some(judge) = &mut self.judge {
            judge.relate(relation);
        }
        let place = |name: &String| relation.columns.iter().position(|column| column.name == *name);
        let places: Option<Vec<usize>> = self.plan.key.iter().map(place).collect();
        let known = |at: &usize| relation.columns[*at].key;
        self.blind = match &places {
            Some(places) if places.iter().all(known) => None,
            _ => Some(format!("the replica identity does not have the key ({})", self.plan.key.join(", "))),
        };
        self.key = places.unwrap_or_default();
    }

    /// What of it can be read as text only.
    pub fn needs_text(&self) -> impl Iterator<Item = String> {
        let id = &self.stream.plan.id;
        let parts = self.plan.columns.iter().zip(&self.plan.origins);
        parts.filter_map(move |(column, origin)| match origin {
            Origin::Column(name) if !column.binary => Some(format!("{name} ({}) of {id}", column.declared)),
            Origin::Data(_) | Origin::OlakeId(_) => Some(format!("{} of {id}, which is made of texts", column.name)),
            _ => None,
        })
    }

    /// A new row.
    pub fn insert(&mut self, new: Tuple<'_>, place: &mut Place) -> Result<()> {
        match &self.judge {
            Some(judge) if !judge.keeps(new, None)? => Ok(()),
            _ => self.put(Op::Create, new, None, place),
        }
    }

    /// Whether the key of a row has changed. What was not sent has not changed.
    fn differs(&self, old: Tuple<'_>, new: Tuple<'_>) -> bool {
        let is_other = |at: &usize| {
            let cell = new.cells().nth(*at);
            cell != Some(Cell::Unchanged) && cell != old.cells().nth(*at)
        };
        self.key.iter().any(is_other)
    }

    /// A changed row. One whose key has changed is another row: the old one goes. So does one that the filter does not keep any more; one that it
    /// had not kept is new.
    pub fn update(&mut self, old: Option<Old<'_>>, new: Tuple<'_>, place: &mut Place) -> Result<()> {
        self.sighted()?;
        let (kept, was_kept) = match &self.judge {
            None => (true, true),
            Some(judge) => {
                let kept = judge.keeps(new, old)?;
                (kept, judge.kept_before(old, kept)? != Some(false))
            }
        };
        let moved = match old {
            // The identity has changed, or is so large that it is sent whenever the row is. In a log it says which row this was.
            Some(Old::Key(old)) => (!self.plan.applies || self.differs(old, new)).then_some(old),
            Some(Old::Full(old)) => self.differs(old, new).then_some(old),
            None => None,
        };
        match (was_kept, kept, moved) {
            (false, false, _) => Ok(()),
            (false, true, _) => self.put(Op::Create, new, old, place),
            (true, false, _) => match old {
                Some(Old::Key(old) | Old::Full(old)) => self.put(Op::Delete, old, None, place),
                None => self.count(place, |rows, place| rows.push_identity(Op::Delete, new, place)),
            },
            (true, true, None) => self.put(Op::Update, new, old, place),
            // The new row comes directly behind the old one.
            (true, true, Some(gone)) => {
                self.put(Op::Delete, gone, None, place)?;
                self.put(Op::Move, new, old, place)
            }
        }
    }

    /// A row that is gone. One that the filter had not kept was not there.
    pub fn delete(&mut self, old: Old<'_>, place: &mut Place) -> Result<()> {
        self.sighted()?;
        if let Some(judge) = &self.judge
            && judge.kept(old)? == Some(false)
        {
            return Ok(());
        }
        let (Old::Key(old) | Old::Full(old)) = old;
        self.put(Op::Delete, old, None, place)
    }

    /// All rows are gone: those of the destination, and what this window has.
    pub fn truncate(&mut self, place: &mut Place, transaction: Option<u32>) -> Result<()> {
        self.truncated = transaction;
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
        self.copied = false;
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

    fn put(&mut self, op: Op, row: Tuple<'_>, old: Option<Old<'_>>, place: &mut Place) -> Result<()> {
        self.count(place, |rows, place| rows.push(op, row, old, place))
    }

    /// Adds a row, which is a change of its own.
    fn count(&mut self, place: &mut Place, push: impl FnOnce(&mut Rows, Place) -> Result<()>) -> Result<()> {
        push(&mut self.rows, *place)?;
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

    /// Takes rows of a copy, which come before all changes of this window.
    pub async fn copy(&mut self, batch: RecordBatch) -> Result<()> {
        let rows = batch.num_rows();
        let mut columns = batch.columns().to_vec();
        for plan in self.plan.columns.iter().skip(columns.len()) {
            columns.push(match plan.name.as_str() {
                GONE => Arc::new(BooleanArray::new(BooleanBuffer::new_unset(rows), None)),
                _ => new_null_array(plan.field.data_type(), rows),
            });
        }
        let batch = RecordBatch::try_new(schema_of(&self.plan.columns), columns)
            .map_err(|e| Error::bug(format!("rows of {} as changes: {e}", self.stream.plan.id)))?;
        self.changes += rows as u64;
        self.send(batch).await
    }

    /// How many ranges are left to copy, after the one that was copied since the last commit.
    pub fn left(&self) -> usize {
        self.captured.left.len() - usize::from(self.copied)
    }

    /// Notes whether a row that the table does not have is yet to come.
    pub fn await_rows(&mut self) {
        self.rows.await_rows(self.captured.is_copying() && self.plan.tells_before);
    }

    /// Gives up what was copied in this window.
    pub fn give_back(&mut self) {
        self.staging = None;
        self.changes = 0;
        self.copied = false;
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
        self.send(batch).await
    }

    async fn send(&mut self, batch: RecordBatch) -> Result<()> {
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
