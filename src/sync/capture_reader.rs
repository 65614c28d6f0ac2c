//! Transactions of the log become changes of the streams that they concern.
//!
//! Promises: a change goes to the follower of its table, unless the stream has it already; a stream that fails leaves the others alone.
//! What a message alone does not tell, the shape of a table or whose partition it is, becomes a question, and is answered by
//! [`super::capture_shapes`] before anything is committed. Knows no connection.

use super::StreamRun;
use super::backfill::BatchLimits;
use super::capture_pending::{Pending, Replaying, Taken};
use super::capture_ranges::Recent;
use super::capture_settle::{agree, change, concerns};
use super::capture_shapes::{Doubt, Reading, Trouble, reading};
use super::keeper::Keeper;
use super::meter::Phase;
use super::window::Follower;
use crate::capture::pgoutput::{Message, Parser, Relation};
use crate::capture::rows::Place;
use crate::config::update_method::OnTruncate;
use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::Lsn;
use crate::postgres::replication::{Protocol, Streaming};
use crate::state::captured::Captured;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use writers::Table;

/// A window ends with the transaction in which this many changes …
const WINDOW_CHANGES: u64 = 4_000_000;
/// … or bytes of them were seen.
const WINDOW_BYTES: u64 = 1 << 30;
/// The shortest time to wait for the server's word.
const WAIT_MIN: Duration = Duration::from_millis(50);

/// Reads transactions.
pub struct Reader<T: Table> {
    /// The streams.
    pub followers: Vec<Follower<T>>,
    /// Where the last transaction ended that was read whole.
    pub reached: Lsn,
    /// A position after everything that the plans knew.
    pub planned_before: Lsn,
    /// Whether all tables are committed at one instant.
    pub together: bool,
    /// What was read since the last commit.
    pub(super) window: Window,
    /// Bytes and rows of the batches under construction, all together: a sum over all followers for every change would cost more than the change.
    pub(super) building: (usize, usize),
    /// Followers by the relations that changes name: the table, and its partitions.
    pub(super) relations: HashMap<u32, usize>,
    pub(super) on_truncate: OnTruncate,
    parser: Parser,
    /// Whether values come in binary form, where their types have one.
    binary: bool,
    /// Whether a column has had another type: only text says what its values were.
    wants_text: bool,
    /// Transactions whose outcome is not known.
    pub(super) pending: Pending,
    /// One of them that is being read again.
    pub(super) replaying: Option<Replaying>,
    pub(super) transaction: Option<Transaction>,
    /// While tables are copied.
    pub(super) recent: Recent,
    /// Whether some table is not copied to its end.
    pub(super) copying: bool,
    /// Where the log has to be read to before the ranges that were copied since the last commit are whole.
    pub(super) high: Option<Lsn>,
    /// What relations look like, in the names that their followers know.
    shapes: HashMap<u32, Relation>,
    /// Relations whose shape the plan does not explain and that no change has named yet.
    doubts: HashMap<u32, Doubt>,
    /// The same of those that a change has named: the catalog has to be asked.
    pub(super) questions: Vec<Doubt>,
    /// What the catalog looked like from afar when the shapes of all tables were looked at last.
    pub(super) trace: Vec<(i64, Option<i64>)>,
    /// Whether it is known of all tables which partitions were truncated before they were planned.
    pub(super) has_found_emptied: bool,
    /// Followers by relations of their name that are other tables.
    namesakes: HashMap<u32, usize>,
    /// Relations that are not known, which may be partitions that have come since; each is asked about once.
    pub(super) strangers: Vec<Relation>,
    asked: HashSet<u32>,
}

/// What changes belong to.
pub(super) struct Transaction {
    pub(super) xid: u32,
    pub(super) place: Place,
}

/// Between two commits.
pub(super) struct Window {
    begun: Instant,
    changes: u64,
    bytes: u64,
    /// Where the last one ended.
    from: Lsn,
    /// When the last transaction in it was committed, microseconds since 2000.
    pub(super) newest: Option<i64>,
}

impl Window {
    pub(super) fn new(from: Lsn) -> Self {
        Self { begun: Instant::now(), changes: 0, bytes: 0, from, newest: None }
    }
}

impl<T: Table> Reader<T> {
    /// For the streams that are followed and have not failed.
    pub async fn new(streams: &[Arc<StreamRun<T>>], keeper: &Keeper, on_truncate: OnTruncate) -> Result<Self> {
        let mut followers = Vec::new();
        let mut relations = HashMap::new();
        let mut together = false;
        for stream in streams.iter().filter(|stream| stream.meter.failure().is_none()) {
            let Some(plan) = stream.plan.capture.clone() else { continue };
            let table = stream.table.lock().await;
            together = table.commits_together();
            let captured = keeper.read(|state| state.lakeward.captures.get(&stream.plan.id).cloned());
            let captured = captured.ok_or_else(|| Error::bug(format!("{} is followed without a first load", stream.plan.id)))?;
            if !captured.table.is_empty() && captured.table != stream.plan.spec.source {
                drop(table);
                stream.meter.fail(
                    Error::schema(format!("{} was dropped and made again since it was loaded", stream.plan.id))
                        .hint("load the table anew: clear-destination for this stream, then sync"),
                );
                continue;
            }
            let captured =
                agree(&stream.plan, captured, &*table).map_err(|e| e.doing(format!("state file {}", keeper.path().display())))?;
            // Not only here: a run in which this stream has no changes saves how far it is, and the next one compares with that.
            keeper.change(|state| change(state, &stream.plan, |known| known.clone_from(&captured)))?;
            table.check_append().map_err(|e| Error::from(e).doing(format!("add changes to {}", stream.plan.id)))?;
            drop(table);
            for oid in stream.info.leaves.iter().map(|leaf| leaf.oid).chain([stream.info.oid]) {
                relations.insert(oid, followers.len());
            }
            stream.meter.enter(Phase::Reading);
            stream.meter.chunks_planned.fetch_add(captured.left.len() as u64, Relaxed);
            followers.push(Follower::new(stream.clone(), plan, captured));
        }
        let copying = followers.iter().any(|follower| follower.captured.is_copying());
        Ok(Self {
            followers,
            reached: Lsn::default(),
            planned_before: Lsn::default(),
            together,
            window: Window::new(Lsn::default()),
            building: (0, 0),
            relations,
            on_truncate,
            parser: Parser::new(false),
            binary: false,
            wants_text: false,
            pending: Pending::default(),
            replaying: None,
            transaction: None,
            recent: Recent::default(),
            copying,
            high: None,
            shapes: HashMap::new(),
            doubts: HashMap::new(),
            questions: Vec::new(),
            trace: Vec::new(),
            has_found_emptied: false,
            namesakes: HashMap::new(),
            strangers: Vec::new(),
            asked: HashSet::new(),
        })
    }

    /// The messages that follow come in this form.
    pub fn expect(&mut self, protocol: &Protocol) {
        self.parser = Parser::new(protocol.streaming == Streaming::Parallel);
        self.binary = protocol.binary;
    }

    /// What has to come as text; nothing if all can be read in binary form.
    pub fn needs_text(&self) -> Vec<String> {
        self.followers.iter().flat_map(Follower::needs_text).collect()
    }

    /// Whether the stream has to be read again, with values as text.
    pub fn wants_text(&self) -> bool {
        self.wants_text
    }

    /// The slot must not have forgotten what a stream still needs.
    pub fn check_start(&mut self, confirmed: Lsn, slot: &str) -> Result<()> {
        self.reached = confirmed;
        self.window = Window::new(confirmed);
        for follower in &self.followers {
            let Captured { lsn, seen, .. } = &follower.captured;
            // What the first load shows counts as read; a stream without one begins where the slot does.
            let lost = match seen {
                Some(seen) => seen.is_passed(confirmed),
                None => *lsn != Lsn::default(),
            };
            if *lsn < confirmed && lost {
                return Err(Error::state(format!(
                    "{}: the destination has its changes up to {lsn}, and the slot {slot} has forgotten everything before {confirmed}: somebody else has read it, or moved it",
                    follower.stream.plan.id
                ))
                .hint("changes may be lost: load the table anew (clear-destination for this stream, then sync), and let nobody else use the slot"));
            }
        }
        Ok(())
    }

    /// Whether the last transaction was read to its end.
    pub fn is_between_transactions(&self) -> bool {
        self.transaction.is_none()
    }

    /// Whether every stream has failed.
    pub fn has_nobody(&self) -> bool {
        self.followers.iter().all(Follower::has_failed)
    }

    /// Every stream that has not failed has what was wanted.
    pub fn done(&self) {
        for meter in self.followers.iter().filter(|follower| !follower.has_failed()).map(|follower| &follower.stream.meter) {
            meter.committed(meter.stats());
        }
    }

    /// Whether something has to be asked before the next commit.
    pub fn has_questions(&self) -> bool {
        self.wants_text || !self.questions.is_empty() || !self.strangers.is_empty()
    }

    /// Whether the batches under construction are large enough, all together.
    pub fn is_full(&self, limits: &BatchLimits) -> bool {
        let (bytes, rows) = self.building;
        bytes >= limits.batch_bytes || rows >= limits.batch_rows
    }

    /// Whether it is time for a commit: of changes, or of nothing but the position.
    pub fn is_due(&self, interval: Duration) -> bool {
        if let Some(high) = self.high {
            return self.reached >= high;
        }
        if self.has_caught_up_to_copy() && self.window.changes > 0 {
            return true;
        }
        let Window { begun, changes, bytes, from, .. } = &self.window;
        *changes >= WINDOW_CHANGES || *bytes >= WINDOW_BYTES || ((*changes > 0 || self.reached > *from) && begun.elapsed() >= interval)
    }

    /// How long there is nothing to do, unless something comes.
    pub fn patience(&self, interval: Duration) -> Duration {
        interval.saturating_sub(self.window.begun.elapsed()).max(WAIT_MIN)
    }

    /// The server has sent everything that was committed before `position`.
    pub fn pass(&mut self, position: Lsn) {
        if self.transaction.is_some() {
            return;
        }
        self.reached = self.reached.max(position);
        if self.window.changes == 0 && self.reached == self.window.from {
            // Nothing has happened: the next commit is an interval away.
            self.window.begun = Instant::now();
        }
    }

    /// Takes one message.
    pub fn take(&mut self, payload: &[u8]) -> Result<()> {
        let message = self.parser.parse(payload)?;
        match self.pending.take(&message, payload)? {
            Taken::Not => self.apply(message, payload.len()),
            Taken::Kept => Ok(()),
            Taken::Committed(committed) => self.replay_from(committed),
        }
    }

    /// Takes a message of `bytes` that is of a committed transaction.
    pub(super) fn apply(&mut self, message: Message<'_>, bytes: usize) -> Result<()> {
        match message {
            Message::Begin { lsn, time, xid } => {
                self.transaction = Some(Transaction { xid, place: Place { commit: lsn, time, sequence: 0 } });
            }
            Message::Commit { end_lsn, .. } => {
                self.ended(end_lsn);
            }
            Message::Relation { relation, .. } => self.relate(&relation)?,
            Message::Insert { relation, new, .. } => self.change(relation, bytes, |follower, place| follower.insert(new, place))?,
            Message::Update { relation, old, new, .. } => {
                self.change(relation, bytes, |follower, place| follower.update(old, new, place))?;
            }
            Message::Delete { relation, old, .. } => self.change(relation, bytes, |follower, place| follower.delete(old, place))?,
            Message::Truncate { relations, .. } => self.truncate(&relations.iter().collect())?,
            Message::Origin { .. } | Message::Type { .. } | Message::Logical { .. } => {}
            _ => return Err(Error::bug("a part of a transaction without an outcome was not kept")),
        }
        Ok(())
    }

    /// A transaction has been read to its end.
    pub(super) fn ended(&mut self, end_lsn: Lsn) {
        if let Some(transaction) = self.transaction.take()
            && self.copying
        {
            self.recent.note(transaction.xid, transaction.place.commit);
        }
        self.reached = self.reached.max(end_lsn);
    }

    /// Whether nothing was read since the last commit.
    pub(super) fn is_fresh(&self) -> bool {
        self.is_between_transactions() && self.window.changes == 0
    }

    /// The transaction that is being read.
    pub(super) fn transaction(&self) -> Option<u32> {
        self.transaction.as_ref().map(|transaction| transaction.xid)
    }

    /// Notes what a relation looks like from here on.
    pub(super) fn relate(&mut self, relation: &Relation) -> Result<()> {
        let Some(index) = self.relations.get(&relation.oid).copied() else {
            let named = |follower: &&Follower<T>| {
                let info = &follower.stream.info;
                info.namespace == relation.namespace && info.name == relation.name && !follower.has_failed()
            };
            if let Some(index) = self.followers.iter().position(|follower| named(&follower)) {
                // Of no matter as long as its changes are from before the load.
                self.namesakes.insert(relation.oid, index);
            } else if self.asked.insert(relation.oid) {
                self.strangers.push(relation.clone());
            }
            return Ok(());
        };
        let follower = &mut self.followers[index];
        let Reading { shape, doubt } = reading(relation, &follower.stream, &follower.captured.columns);
        follower.relate(&shape);
        // Said once, and meant for all changes that name it: those of several partitions come in any order.
        self.shapes.insert(relation.oid, shape);
        match doubt {
            Some(trouble) => self.doubts.insert(relation.oid, Doubt { follower: index, trouble }),
            None => self.doubts.remove(&relation.oid),
        };
        Ok(())
    }

    /// Gives a change to the stream that it belongs to, unless the stream has it.
    pub(super) fn change(
        &mut self,
        relation: u32,
        bytes: usize,
        apply: impl FnOnce(&mut Follower<T>, &mut Place) -> Result<()>,
    ) -> Result<()> {
        let Some(transaction) = &mut self.transaction else {
            return Err(Error::source_db("the server sent a change outside of a transaction"));
        };
        let namesake = self.namesakes.get(&relation).copied();
        let Some(index) = self.relations.get(&relation).copied().or(namesake) else { return Ok(()) };
        let follower = &mut self.followers[index];
        let commit = transaction.place.commit;
        // Commits come in the order of the log: what the snapshot was is not asked again.
        follower.captured.seen.take_if(|seen| seen.is_passed(commit));
        let Captured { lsn, seen, .. } = &follower.captured;
        let has = commit < *lsn || seen.as_ref().is_some_and(|seen| seen.shows(transaction.xid, commit));
        if has || follower.has_failed() {
            return Ok(());
        }
        if namesake.is_some() {
            let id = follower.stream.plan.id.clone();
            follower.fail(
                Error::schema(format!("{id} was dropped and made again: the log has changes of another table with its name"))
                    .hint("load the table anew: clear-destination for this stream, then sync"),
            );
            return Ok(());
        }
        if follower.shape != relation
            && let Some(shape) = self.shapes.get(&relation)
        {
            follower.relate(shape);
        }
        if !self.doubts.is_empty()
            && let Some(doubt) = self.doubts.remove(&relation)
        {
            if self.binary {
                // Eight bytes are a number, or another one, or a time.
                self.wants_text = true;
                return Ok(());
            }
            self.questions.push(doubt);
        }
        let before = (follower.bytes(), follower.rows());
        let outcome = apply(follower, &mut transaction.place);
        self.building.0 += follower.bytes().saturating_sub(before.0);
        self.building.1 += follower.rows().saturating_sub(before.1);
        if let Err(error) = outcome {
            if matches!(error.kind(), Kind::Bug) {
                return Err(error);
            }
            // A value that does not fit may be one of a table that has another shape by now.
            match self.questions.iter_mut().find(|doubt| doubt.follower == index) {
                Some(doubt) => drop(doubt.trouble.failure.get_or_insert(error)),
                None => {
                    let trouble = Trouble { failure: Some(error), ..Trouble::default() };
                    self.questions.push(Doubt { follower: index, trouble });
                }
            }
            return Ok(());
        }
        self.window.changes += 1;
        self.window.bytes += bytes as u64;
        self.window.newest = Some(transaction.place.time.0);
        Ok(())
    }

    /// Hands the rows so far to the writers.
    pub async fn flush(&mut self, limits: &BatchLimits) -> Result<()> {
        for follower in self.followers.iter_mut().filter(|follower| !follower.has_failed()) {
            if let Err(error) = follower.flush(limits).await {
                concerns(follower, error)?;
            }
        }
        self.building = (0, 0);
        Ok(())
    }
}
