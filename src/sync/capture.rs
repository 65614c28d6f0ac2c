//! Changes out of the log: from where each stream has been followed to where the log ended when this began.
//!
//! ```text
//! slot     find it, or create it, before the exported snapshot of the first loads               (capture_open)
//! follow   read transactions; changes of each stream go to a part of its own                    (window)
//! settle   at the end of a transaction: commit → save → acknowledge, then the next window
//! ```
//!
//! A first load and the log meet without a gap and without an overlap: transactions that the load's snapshot shows are left out
//! ([`crate::state::captured`]), whatever their place in the log. What a stream already has by its token is left out too, so the log is read from the stream
//! that is furthest behind. The slot is told of a position when every stream of the state has it, on the disk.

use super::StreamRun;
use super::backfill::BatchLimits;
use super::keeper::Keeper;
use super::meter::Phase;
use super::plan::StreamPlan;
use super::settle::{Mark, Settlement, settle};
use super::window::Follower;
use crate::capture::pgoutput::{Message, Parser, Relation};
use crate::capture::rows::Place;
use crate::capture::slot_judgement::OnSlotLag;
use crate::error::{Error, Kind, Result, Retry};
use crate::postgres::connect::{self, ConnectOptions};
use crate::postgres::copy::Flow;
use crate::postgres::exported;
use crate::postgres::lsn::Lsn;
use crate::postgres::quote;
use crate::postgres::replication::{Protocol, Replication, StartOptions, Streaming};
use crate::postgres::replication_stream::{Event, Received, ReplicationStream};
use crate::state::State;
use crate::state::captured::Captured;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use writers::{Part as _, Stats, Table};

/// Memory per byte of a large message: itself, its values, their pages and their compressed form.
const LARGE_FACTOR: usize = 5;
/// A window ends with the transaction in which this many changes …
const WINDOW_CHANGES: u64 = 4_000_000;
/// … or bytes of them were seen, …
const WINDOW_BYTES: u64 = 1 << 30;
/// … or that ends so long after the last one: what was read is kept, should the run be killed.
const WINDOW_TIME: Duration = Duration::from_secs(60);
/// How often the server is asked how far it has read, while it says nothing.
const ASK: Duration = Duration::from_millis(50);
/// Silence after which the server counts as gone; it may be busy with a large transaction of other tables.
const SILENCE: Duration = Duration::from_secs(600);
/// How long the server may take to end the stream.
const END: Duration = Duration::from_secs(60);

/// The slot, and what it is read through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Replication slot.
    pub slot: String,
    /// Publication.
    pub publication: String,
    /// Whether either is made if it is missing.
    pub create_if_missing: bool,
    /// Whether what the publication lacks is added to it.
    pub sync_publication: bool,
    /// Bytes of log that the slot may hold back; `None` means any.
    pub max_slot_lag_bytes: Option<u64>,
    /// What to do when it holds back more.
    pub on_slot_lag: OnSlotLag,
}

/// What a run of `follow` works with.
pub struct Ground<'a> {
    /// How to connect.
    pub options: &'a ConnectOptions,
    /// The slot.
    pub terms: &'a Terms,
    /// The state.
    pub keeper: &'a Keeper,
    /// Batches and their memory.
    pub limits: &'a BatchLimits,
}

/// Follows the changes of these streams, whose first loads are committed.
pub async fn follow<T: Table>(streams: &[Arc<StreamRun<T>>], ground: Ground<'_>) -> Result<()> {
    let mut reader = Reader::new(streams, &ground).await?;
    if reader.followers.is_empty() {
        return Ok(());
    }
    let target = end_of_log(ground.options).await?;
    let from = reader.followers.iter().map(|follower| follower.captured.lsn).min().unwrap_or_default();
    let mut replication = Replication::connect(ground.options).await?;
    let status_interval = replication.status_interval().await?;
    let options = StartOptions {
        slot: ground.terms.slot.clone(),
        from,
        publications: vec![ground.terms.publication.clone()],
        // Values as text: what every type has, and what a column reads that has been another type's meanwhile.
        protocol: Protocol { version: 1, binary: false, streaming: Streaming::Off, two_phase: false, messages: false },
        status_interval,
        timeout: SILENCE,
    };
    let mut stream = replication.start(&options).await?;
    reader.check_start(stream.confirmed(), &ground.terms.slot)?;
    tracing::info!("changes are read from {} to {target}", from.max(stream.confirmed()));
    let outcome = reader.run(&mut stream, target, &ground).await;
    // What was acknowledged reaches the server, whatever became of the rest.
    let ended = stream.finish(END).await;
    outcome?;
    match ended {
        Ok(session) => session.close().await,
        Err(error) => tracing::warn!("{error}; the next run tells the server again how far it may forget"),
    }
    Ok(())
}

/// Where the log ends on the disk, with all that anybody can see.
async fn end_of_log(options: &ConnectOptions) -> Result<Lsn> {
    let session = connect::session(options).await?;
    let inserted: String = session.row("SELECT pg_current_wal_insert_lsn()::text").await?.get(0);
    exported::flushed(&session, &inserted).await?;
    let flushed: String = session.row("SELECT pg_current_wal_flush_lsn()::text").await?.get(0);
    session.close().await;
    flushed.parse().map_err(|e: Error| e.for_kind(Kind::Source))
}

/// Reads transactions.
struct Reader<T: Table> {
    followers: Vec<Follower<T>>,
    /// Followers by the relations that changes name: the table, and its partitions.
    relations: HashMap<u32, usize>,
    parser: Parser,
    transaction: Option<Transaction>,
    together: bool,
    /// Where the last transaction ended that was read whole.
    reached: Lsn,
    /// What relations look like.
    shapes: HashMap<u32, Relation>,
    /// Columns that no follower knows, of which the catalog has to be asked.
    strange: Vec<Strange>,
    /// The same, of followers that have not got a change in this shape.
    suspects: HashMap<usize, Strange>,
    /// Followers by relations of their name that are other tables.
    namesakes: HashMap<u32, usize>,
    /// Relations that are not known, which may be partitions that have come since; each is asked about once.
    strangers: Vec<Relation>,
    asked: HashSet<u32>,
    /// Bytes and rows of the batches under construction, all together: a sum over all followers for every change would cost more than the change.
    building: (usize, usize),
    window: Window,
}

/// A relation with columns that its follower does not know.
struct Strange {
    follower: usize,
    names: Vec<String>,
    /// Columns that the follower writes, and the relation does not have.
    missing: Vec<String>,
}

struct Transaction {
    xid: u32,
    place: Place,
}

struct Window {
    begun: Instant,
    changes: u64,
    bytes: u64,
}

impl Window {
    fn new() -> Self {
        Self { begun: Instant::now(), changes: 0, bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.changes >= WINDOW_CHANGES || self.bytes >= WINDOW_BYTES || (self.changes > 0 && self.begun.elapsed() >= WINDOW_TIME)
    }
}

impl<T: Table> Reader<T> {
    async fn new(streams: &[Arc<StreamRun<T>>], ground: &Ground<'_>) -> Result<Self> {
        let mut followers = Vec::new();
        let mut relations = HashMap::new();
        let mut together = false;
        for stream in streams.iter().filter(|stream| stream.meter.failure().is_none()) {
            let Some(plan) = stream.plan.capture.clone() else { continue };
            let table = stream.table.lock().await;
            together = table.commits_together();
            let captured = ground.keeper.read(|state| state.lakeward.captures.get(&stream.plan.id).cloned());
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
                agree(&stream.plan, captured, &*table).map_err(|e| e.doing(format!("state file {}", ground.keeper.path().display())))?;
            table.check_append().map_err(|e| Error::from(e).doing(format!("add changes to {}", stream.plan.id)))?;
            drop(table);
            for oid in stream.info.leaves.iter().map(|leaf| leaf.oid).chain([stream.info.oid]) {
                relations.insert(oid, followers.len());
            }
            stream.meter.enter(Phase::Reading);
            followers.push(Follower::new(stream.clone(), plan, captured));
        }
        Ok(Self {
            followers,
            relations,
            parser: Parser::new(false),
            transaction: None,
            together,
            reached: Lsn::default(),
            shapes: HashMap::new(),
            strange: Vec::new(),
            suspects: HashMap::new(),
            namesakes: HashMap::new(),
            strangers: Vec::new(),
            asked: HashSet::new(),
            building: (0, 0),
            window: Window::new(),
        })
    }

    /// The slot must not have forgotten what a stream still needs.
    fn check_start(&mut self, confirmed: Lsn, slot: &str) -> Result<()> {
        self.reached = confirmed;
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

    async fn run(&mut self, stream: &mut ReplicationStream, target: Lsn, ground: &Ground<'_>) -> Result<()> {
        let acknowledger = stream.acknowledger();
        loop {
            let (mut end, mut asked) = (None, None);
            let mut sink = |received: Received<'_>| match received {
                Received::Data { payload, .. } => {
                    end = self.take(payload)?;
                    let stop = end.is_some() || self.is_full(ground.limits) || !self.strange.is_empty() || !self.strangers.is_empty();
                    Ok(if stop { Flow::Enough } else { Flow::More })
                }
                Received::Keepalive { position, .. } => {
                    asked = Some(position);
                    Ok(Flow::Enough)
                }
            };
            let event = match tokio::time::timeout(ASK, stream.read(&mut sink)).await {
                Ok(event) => event?,
                Err(_) => {
                    acknowledger.ask();
                    continue;
                }
            };
            match event {
                Event::Data => {}
                Event::Large(bytes) => {
                    self.flush(ground.limits).await?;
                    // Given back at once: what comes of the message is paid for when it is a batch.
                    drop(ground.limits.memory.reserve(bytes.saturating_mul(LARGE_FACTOR)).await?);
                    stream.allow(bytes);
                }
                Event::Done => return Err(Error::source_db("the server ended the replication stream").transient()),
            }
            self.look(ground.options).await?;
            if self.is_full(ground.limits) {
                self.flush(ground.limits).await?;
            }
            if let Some(position) = end.or(asked.filter(|_| self.transaction.is_none())) {
                self.reached = self.reached.max(position);
                if self.reached >= target || self.window.is_full() {
                    self.settle(ground).await?;
                    acknowledger.flushed(ground.keeper.read(safe));
                    acknowledger.tell();
                }
                if self.reached >= target {
                    return Ok(());
                }
            }
        }
    }

    /// Whether the batches under construction are large enough, all together.
    fn is_full(&self, limits: &BatchLimits) -> bool {
        let (bytes, rows) = self.building;
        bytes >= limits.batch_bytes || rows >= limits.batch_rows
    }

    /// Takes one message; gives where a transaction ended.
    fn take(&mut self, payload: &[u8]) -> Result<Option<Lsn>> {
        let message = self.parser.parse(payload)?;
        match message {
            Message::Begin { lsn, time, xid } => {
                self.transaction = Some(Transaction { xid, place: Place { commit: lsn, time, sequence: 0 } });
            }
            Message::Commit { end_lsn, .. } => {
                self.transaction = None;
                return Ok(Some(end_lsn));
            }
            Message::Relation { relation, .. } => self.relate(&relation)?,
            Message::Insert { relation, new, .. } => self.change(relation, payload.len(), |follower, place| follower.insert(new, place))?,
            Message::Update { relation, old, new, .. } => {
                self.change(relation, payload.len(), |follower, place| follower.update(old, new, place))?;
            }
            Message::Delete { relation, old, .. } => self.change(relation, payload.len(), |follower, place| follower.delete(old, place))?,
            Message::Truncate { relations, .. } => self.truncate(&relations.iter().collect())?,
            Message::Origin { .. } | Message::Type { .. } | Message::Logical { .. } => {}
            _ => return Err(Error::source_db("the server sent a part of a transaction that is still open, which was not asked for")),
        }
        Ok(None)
    }

    /// All rows of these relations go. Of a table that is followed by its partitions, all of them have to be among them.
    fn truncate(&mut self, relations: &HashSet<u32>) -> Result<()> {
        let named: BTreeSet<usize> = relations.iter().filter_map(|oid| self.relations.get(oid).copied()).collect();
        for index in named {
            let info = &self.followers[index].stream.info;
            let oid = info.oid;
            let whole = relations.contains(&oid) || info.leaves.iter().all(|leaf| relations.contains(&leaf.oid));
            let one = relations.iter().copied().find(|oid| self.relations.get(oid) == Some(&index)).unwrap_or(oid);
            self.change(one, 0, |follower, place| match whole {
                true => follower.truncate(place),
                false => Err(Error::schema(format!(
                    "{}: some of its partitions were truncated in the transaction committed at {}, and which rows were theirs is not known",
                    follower.stream.plan.id, place.commit
                ))
                .hint("load the table anew: clear-destination for this stream, then sync")),
            })?;
        }
        Ok(())
    }

    fn relate(&mut self, relation: &Relation) -> Result<()> {
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
        // Said once, and meant for all changes that name it: those of several partitions come in any order.
        self.shapes.insert(relation.oid, relation.clone());
        let follower = &mut self.followers[index];
        follower.relate(relation);
        let known = |name: &str| follower.stream.info.columns.iter().any(|column| column.name == name);
        let strange: Vec<String> = relation.columns.iter().map(|column| column.name.clone()).filter(|name| !known(name)).collect();
        let missing = follower.missing(relation);
        self.suspects.remove(&index);
        if !strange.is_empty() && (follower.stream.plan.chosen.takes_new_columns || !missing.is_empty()) {
            self.suspects.insert(index, Strange { follower: index, names: strange, missing });
        }
        Ok(())
    }

    /// Columns that were not there when the run was planned: gone since (their values are of no use), or new.
    async fn look(&mut self, options: &ConnectOptions) -> Result<()> {
        for relation in std::mem::take(&mut self.strangers) {
            let session = connect::session(options).await?;
            let query = format!(
                "WITH RECURSIVE above(oid) AS (SELECT inhparent FROM pg_inherits WHERE inhrelid = {oid} UNION SELECT inhparent FROM pg_inherits, above \
                 WHERE inhrelid = above.oid) SELECT oid FROM above JOIN pg_class c USING (oid) WHERE relkind = 'p'",
                oid = relation.oid
            );
            let above = session.client.query(&query, &[]).await.map_err(|e| session.error(&e).doing("look for partitions"))?;
            session.close().await;
            let parent = above.iter().map(|row| row.get::<_, u32>(0)).find_map(|oid| self.relations.get(&oid).copied());
            if let Some(index) = parent {
                tracing::info!("{}.{} is a partition of {} now", relation.namespace, relation.name, self.followers[index].stream.plan.id);
                self.relations.insert(relation.oid, index);
                self.relate(&relation)?;
            }
        }
        for Strange { follower, names, missing } in std::mem::take(&mut self.strange) {
            let follower = &mut self.followers[follower];
            let session = connect::session(options).await?;
            let list: Vec<_> = names.iter().map(|name| quote::literal(name)).collect();
            let query = format!(
                "SELECT count(*) FROM pg_attribute WHERE attrelid = {} AND attnum > 0 AND NOT attisdropped AND attname IN ({})",
                follower.stream.info.oid,
                list.join(", ")
            );
            let new: i64 = session.row(&query).await?.get(0);
            session.close().await;
            let id = follower.stream.plan.id.clone();
            if follower.has_failed() {
            } else if new > 0 {
                follower.fail(Error::schema(format!("{id} has got new columns while the sync was running")).hint("start the sync again"));
            } else if !missing.is_empty() {
                // One may be the other under its older name.
                let (old, new) = (names.join(", "), missing.join(", "));
                let message = format!(
                    "{id}: the log has changes from when it had the columns {old} and not {new}: renamed ones cannot be told from others"
                );
                follower.fail(Error::schema(message).hint(
                    "load the table anew: clear-destination for this stream, then sync; before a rename, sync until nothing is left",
                ));
            }
        }
        Ok(())
    }

    /// Gives a change to the stream that it belongs to, unless the stream has it.
    fn change(&mut self, relation: u32, bytes: usize, apply: impl FnOnce(&mut Follower<T>, &mut Place) -> Result<()>) -> Result<()> {
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
        self.strange.extend(self.suspects.remove(&index));
        let before = (follower.bytes(), follower.rows());
        let outcome = apply(follower, &mut transaction.place);
        self.building.0 += follower.bytes().saturating_sub(before.0);
        self.building.1 += follower.rows().saturating_sub(before.1);
        if let Err(error) = outcome {
            if matches!(error.kind(), Kind::Bug) {
                return Err(error);
            }
            follower.fail(error);
            return Ok(());
        }
        self.window.changes += 1;
        self.window.bytes += bytes as u64;
        Ok(())
    }

    async fn flush(&mut self, limits: &BatchLimits) -> Result<()> {
        for follower in self.followers.iter_mut().filter(|follower| !follower.has_failed()) {
            if let Err(error) = follower.flush(limits).await {
                concerns(follower, error)?;
            }
        }
        self.building = (0, 0);
        Ok(())
    }

    /// Commits what was read, and saves how far every stream is.
    async fn settle(&mut self, ground: &Ground<'_>) -> Result<()> {
        self.flush(ground.limits).await?;
        let position = self.reached;
        let mut parts = Vec::with_capacity(self.followers.len());
        for follower in &mut self.followers {
            let part = match follower.part().await {
                Ok(part) => part,
                Err(error) => {
                    concerns(follower, error)?;
                    None
                }
            };
            parts.push(part.filter(|_| !follower.has_failed()));
        }
        let mut group = Vec::new();
        let mut indexes = Vec::new();
        let mut stats = Vec::new();
        for (index, (follower, part)) in self.followers.iter().zip(parts).enumerate().filter(|(_, (follower, _))| !follower.has_failed()) {
            let plan: &StreamPlan = &follower.stream.plan;
            let parts: Vec<_> = part.into_iter().collect();
            stats.push(parts.iter().fold(Stats::default(), |mut sum, part| {
                sum += part.stats();
                sum
            }));
            let mark = Mark { load: follower.captured.load.clone(), lsn: position.to_string(), changes: true };
            let takes_away = follower.changes > 0;
            group.push(Settlement { plan, table: &follower.stream.table, parts, how: follower.how(), mark, takes_away });
            indexes.push(index);
        }
        let outcomes = settle(group, self.together, ground.keeper, |state, plan, written| advance(state, plan, position, written)).await?;
        for ((index, outcome), stats) in indexes.into_iter().zip(outcomes).zip(stats) {
            let follower = &mut self.followers[index];
            if let Err(error) = outcome {
                concerns(follower, error)?;
                continue;
            }
            let changes = follower.settled();
            follower.captured.lsn = position;
            follower.captured.seen = follower.captured.seen.take().filter(|seen| !seen.is_passed(position));
            if changes > 0 {
                follower.captured.written = Some(position);
                let meter = &follower.stream.meter;
                let mut sum = meter.stats();
                sum += stats;
                meter.committed(sum);
                tracing::info!("{}: {changes} changes up to {position}", follower.stream.plan.id);
            }
        }
        self.window = Window::new();
        Ok(())
    }
}

/// An error of one stream leaves the others alone, if trying again does not help it; any other ends the attempt.
fn concerns<T: Table>(follower: &mut Follower<T>, error: Error) -> Result<()> {
    if error.retry() == Retry::Again || error.kind() == Kind::Bug {
        return Err(error);
    }
    follower.fail(error);
    Ok(())
}

/// Notes how far a stream is.
fn advance(state: &mut State, plan: &StreamPlan, position: Lsn, written: bool) {
    if let Some(captured) = state.lakeward.captures.get_mut(&plan.id) {
        captured.lsn = position;
        captured.seen = captured.seen.take().filter(|seen| !seen.is_passed(position));
        if written {
            captured.written = Some(position);
        }
    }
    let position = safe(state);
    state.set_position(position);
}

/// What the slot may forget: what every stream has.
fn safe(state: &State) -> Lsn {
    state.lakeward.captures.values().map(|captured| captured.lsn).min().unwrap_or_default()
}

/// The state with what the destination's token says: a run may have committed and died before it could save that. The destination must
/// have what the state says was written last.
fn agree<T: Table>(plan: &StreamPlan, mut captured: Captured, table: &T) -> Result<Captured> {
    let mark = table.committed().map(|token| Mark::read(token).ok_or_else(|| token.0.clone()));
    let told = match (&mark, captured.written) {
        (Some(Ok(mark)), written) if mark.load == captured.load && mark.changes => {
            let position: Lsn = mark.lsn.parse().map_err(|e: Error| e.for_kind(Kind::State).doing("read the destination's token"))?;
            if position > captured.lsn {
                (captured.lsn, captured.written) = (position, Some(position));
                return Ok(captured);
            }
            if Some(position) == written {
                return Ok(captured);
            }
            format!("its last changes end at {position}")
        }
        (Some(Ok(mark)), None) if mark.load == captured.load => return Ok(captured),
        (_, None) if !plan.capture.as_ref().is_some_and(|capture| capture.loads) => return Ok(captured),
        (Some(Ok(mark)), _) => format!("its last commit is load {}", mark.load),
        (Some(Err(token)), _) => format!("its last commit is {token}"),
        (None, _) => "it has no commit of this table".to_owned(),
    };
    let said =
        captured.written.map_or_else(|| format!("load {}", captured.load), |lsn| format!("changes up to {lsn} on load {}", captured.load));
    Err(Error::state(format!(
        "{}: the state file says that {said} were committed last, but of the destination {told}: adding to it would lose rows or double them",
        plan.id
    ))
    .hint("name the state file that belongs to this destination, or load the table anew: clear-destination for this stream, then sync"))
}
