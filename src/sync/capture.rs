//! Changes out of the log: from where each stream has been followed to where the log ended when this began, or without end.
//!
//! ```text
//! slot     find it, or create it, before the exported snapshot of the first loads               (capture_open)
//! follow   read transactions; changes of each stream go to a part of its own                    (capture_reader, window)
//! shapes   what a relation's columns are called now; a table that has changed since it was planned begins the run anew   (capture_shapes)
//! settle   at the end of a transaction: commit → save → acknowledge, then the next window       (capture_settle)
//! ```
//!
//! A first load and the log meet without a gap and without an overlap: transactions that the load's snapshot shows are left out
//! ([`crate::state::captured`]), whatever their place in the log. What a stream already has by its token is left out too, so the log is read from the stream
//! that is furthest behind. The slot is told of a position when every stream of the state has it, on the disk.

use super::StreamRun;
use super::backfill::BatchLimits;
use super::capture_open::drop_lagging;
use super::capture_pending::Replayed;
use super::capture_ranges::Recent;
use super::capture_reader::Reader;
use super::capture_watch::watch;
use super::keeper::Keeper;
use crate::capture::slot;
use crate::capture::slot_judgement::OnSlotLag;
use crate::config::update_method::{OnDetach, OnTruncate};
use crate::error::{Error, Kind, Result};
use crate::postgres::changes::{Changes, Way};
use crate::postgres::connect::{self, ConnectOptions};
use crate::postgres::copy::Flow;
use crate::postgres::exported::{self, Exported, Relations};
use crate::postgres::lsn::Lsn;
use crate::postgres::replication::{Protocol, StartOptions, Streaming, protocol_for};
use crate::postgres::replication_stream::{Event, Received};
use crate::shutdown::Stop;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use writers::Table;

/// Memory per byte of a large message: itself, its values, their pages and their compressed form.
const LARGE_FACTOR: usize = 5;
/// A window of a run with an end ends with the transaction that ends so long after the last one: what was read is kept, should the run be killed.
const WINDOW_TIME: Duration = Duration::from_secs(60);
/// How often the server is asked how far it has read, while it says nothing and the end has not been reached.
const ASK: Duration = Duration::from_millis(50);
/// The same of a run without end, at most.
const ASK_IDLE: Duration = Duration::from_secs(10);
/// A server that asks for our position, while it shuts down again and again, gets one that is so old at most.
const HURRY: Duration = Duration::from_secs(1);
/// How often a run without end looks at the partitions of its tables.
const LOOK: Duration = Duration::from_secs(30);
/// Silence after which the server counts as gone; it may be busy with a large transaction of other tables.
const SILENCE: Duration = Duration::from_secs(600);
/// Between two words to the server of how far we are, at most.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// How long the server may take to end the stream.
const END: Duration = Duration::from_secs(60);
/// How long a transaction that is being read may still take when a stop is asked for.
const LAST: Duration = Duration::from_secs(20);
/// SQLSTATE `undefined_function`: "no binary output function available for type".
const NO_FUNCTION: &str = "42883";
/// How long a slot that a session has just given up may still count as in use.
const IN_USE: Duration = Duration::from_secs(60);

/// The slot, and what it is read through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Replication slot.
    pub slot: String,
    /// Publication.
    pub publication: String,
    /// Whether either is made if it is missing.
    pub create_if_missing: bool,
    /// Between two signs of life that a run without end writes into the log; zero means none.
    pub heartbeat: Duration,
    /// How the slot is read.
    pub way: Way,
    /// What a partition does that goes.
    pub on_detach: OnDetach,
    /// What a TRUNCATE does.
    pub on_truncate: OnTruncate,
    /// Whether a slot that is made is kept by standbys too.
    pub failover: bool,
    /// Whether what the publication lacks is added to it.
    pub sync_publication: bool,
    /// Bytes of log that the slot may hold back; `None` means any.
    pub max_slot_lag_bytes: Option<u64>,
    /// What to do when it holds back more.
    pub on_slot_lag: OnSlotLag,
}

/// What following works with.
#[derive(Clone)]
pub struct Ground {
    /// How to connect.
    pub options: ConnectOptions,
    /// The slot.
    pub terms: Terms,
    /// The state.
    pub keeper: Arc<Keeper>,
    /// Batches and their memory.
    pub limits: BatchLimits,
    /// In which form values are asked for.
    pub form: Arc<Form>,
}

/// Why values are asked for as text, where their types have a binary form that could be read.
#[derive(Debug, Default)]
pub struct Form {
    /// The server cannot send them: a type's send function fails, or that of its elements is missing.
    refused: AtomicBool,
    /// A column has had another type in what comes next.
    doubted: AtomicBool,
}

impl Form {
    fn may_be_binary(&self) -> bool {
        !self.refused.load(Relaxed) && !self.doubted.load(Relaxed)
    }

    /// Notes whether an error says that the server cannot send some type in binary form.
    fn is_refused(&self, error: &Error) -> bool {
        let is_refused = error.code() == Some(NO_FUNCTION);
        if is_refused {
            tracing::info!("{error}: values are asked for as text from here on");
            self.refused.store(true, Relaxed);
        }
        is_refused
    }

    /// The columns have their types from here on.
    pub(super) fn trust(&self) {
        self.doubted.store(false, Relaxed);
    }
}

/// When reading the log ends.
#[derive(Clone, Debug)]
pub enum Until {
    /// Where the log ends when reading begins.
    End,
    /// When told. What was read is committed each `interval`.
    Told {
        /// Who tells.
        stop: Stop,
        /// Between two commits.
        interval: Duration,
    },
}

/// How to follow.
#[derive(Clone, Debug)]
pub struct Course {
    /// Its end.
    pub until: Until,
    /// Whether the slot may forget what every stream has. Not while a stream is still being loaded: it will need what was logged meanwhile.
    pub acknowledges: bool,
}

impl Course {
    /// Between two commits.
    fn interval(&self) -> Duration {
        match self.until {
            Until::End => WINDOW_TIME,
            Until::Told { interval, .. } => interval,
        }
    }
}

/// Why following has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was wanted is committed.
    Complete,
    /// The run is to begin anew, with tables that are planned and opened again: one has another shape than it was planned with, or what the
    /// destination has is not certain. What was read since the last commit is read again.
    Anew,
}

/// Follows the changes of these streams, whose first loads are committed.
pub async fn follow<T: Table>(streams: Vec<Arc<StreamRun<T>>>, ground: Ground, course: Course) -> Result<Ended> {
    let mut reader = Reader::new(&streams, &ground.keeper, ground.terms.on_truncate).await?;
    if reader.followers.is_empty() {
        return Ok(Ended::Complete);
    }
    if reader.check_history(&ground).await? == Ended::Anew {
        return Ok(Ended::Anew);
    }
    let Log { end: target, version, two_phase } = log(&ground).await?;
    reader.planned_before = target;
    let least = reader.followers.iter().map(|follower| follower.captured.lsn).min().unwrap_or_default();
    // The slot waits for prepared transactions, which begin before that.
    let from = if two_phase { Lsn::default() } else { least };
    let needs_text = reader.needs_text();
    let protocol = protocol(ground.terms.way, version, two_phase, needs_text.is_empty() && ground.form.may_be_binary());
    let form = if protocol.binary { "in binary form" } else { "as text" };
    let because = if needs_text.is_empty() { String::new() } else { format!(" because of {}", needs_text.join(", ")) };
    tracing::debug!("values come {form}{because}; protocol {}", protocol.version);
    reader.expect(&protocol);
    if reader.copying {
        reader.recent = Recent::since(Exported::take(&ground.options, &Relations::default()).await?.seen());
    }
    let refuses_binary = |error: &Error| protocol.binary && ground.form.is_refused(error);
    let mut stream = match start(&ground, from, protocol.clone()).await {
        Err(error) if refuses_binary(&error) => return Ok(Ended::Anew),
        started => started?,
    };
    reader.check_start(stream.confirmed(), &ground.terms.slot)?;
    let from = from.max(stream.confirmed());
    match &course.until {
        Until::End => tracing::info!("changes are read from {from} to {target}"),
        Until::Told { interval, .. } => tracing::info!("changes are followed from {from}, committed each {} s", interval.as_secs_f64()),
    }
    let outcome = match course.until {
        Until::End => read(&mut reader, &mut stream, Some(target), &ground, &course).await,
        Until::Told { .. } => tokio::select! {
            outcome = read(&mut reader, &mut stream, None, &ground, &course) => outcome,
            error = watch(&ground.options, &ground.terms) => Err(error),
        },
    };
    // What was acknowledged reaches the server, whatever became of the rest.
    let ended = stream.finish(END).await;
    if outcome.is_err() && matches!(course.until, Until::Told { .. }) {
        // Not as long as it is being read.
        drop_lagging(&ground.options, &ground.terms).await?;
    }
    let outcome = match outcome {
        Err(error) if refuses_binary(&error) => Ended::Anew,
        outcome => outcome?,
    };
    if reader.wants_text() {
        ground.form.doubted.store(true, Relaxed);
    }
    if outcome == Ended::Complete {
        reader.done();
    }
    if let Err(error) = ended {
        tracing::warn!("{error}; the next run tells the server again how far it may forget");
    }
    Ok(outcome)
}

/// What the server says before it is read.
struct Log {
    /// Where it ends on the disk, with all that anybody can see.
    end: Lsn,
    /// The server's version.
    version: u32,
    /// Whether the slot gives transactions when they are prepared.
    two_phase: bool,
}

async fn log(ground: &Ground) -> Result<Log> {
    let session = connect::session(&ground.options).await?;
    let version = session.server_version();
    let two_phase = slot::find(&session, &ground.terms.slot).await?.is_some_and(|slot| slot.two_phase);
    let inserted: String = session.row("SELECT pg_current_wal_insert_lsn()::text").await?.get(0);
    exported::flushed(&session, &inserted).await?;
    let end = flush_position(&session.client).await?;
    session.close().await;
    Ok(Log { end, version, two_phase })
}

/// Up to where the log is on the disk, and can be read.
pub(super) async fn flush_position(client: &Client) -> Result<Lsn> {
    let row = client.query_typed_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.map_err(|e| connect::sql_error(&e))?;
    row.get::<_, &str>(0).parse().map_err(|e: Error| e.for_kind(Kind::Source))
}

/// The best that a server of this version can do. By SQL, transactions come when they are committed.
fn protocol(way: Way, version: u32, two_phase: bool, binary: bool) -> Protocol {
    let best = protocol_for(version);
    let binary = binary && best.binary;
    match way {
        Way::Stream => Protocol { binary, two_phase: two_phase && version >= 150_000, ..best },
        Way::Poll(_) => Protocol { binary, streaming: Streaming::Off, ..best },
    }
}

/// Begins to stream. The server may not have noticed yet that the session before this one has ended.
async fn start(ground: &Ground, from: Lsn, protocol: Protocol) -> Result<Changes> {
    let begun = Instant::now();
    loop {
        let options = StartOptions {
            slot: ground.terms.slot.clone(),
            from,
            publications: vec![ground.terms.publication.clone()],
            protocol: protocol.clone(),
            status_interval: STATUS_INTERVAL,
            timeout: SILENCE,
        };
        match ground.terms.way.open(&ground.options, &options).await {
            Err(error) if error.code() == Some("55006") && begun.elapsed() < IN_USE => {
                tracing::debug!("{error}");
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            started => return started,
        }
    }
}

/// Reads up to `target`, or until told.
async fn read<T: Table>(
    reader: &mut Reader<T>,
    stream: &mut Changes,
    target: Option<Lsn>,
    ground: &Ground,
    course: &Course,
) -> Result<Ended> {
    let acknowledger = stream.acknowledger();
    let interval = course.interval();
    let has_arrived = |reader: &Reader<T>| target.is_some_and(|target| reader.reached >= target) && !reader.copying;
    let mut stopping = None;
    let mut hurried = false;
    let mut looked = Instant::now();
    loop {
        if reader.wants_rows() && stopping.is_none() {
            tokio::select! {
                ended = reader.copy_ranges(ground) => if ended? == Ended::Anew {
                    return Ok(Ended::Anew);
                },
                () = told(course) => reader.give_back(),
            }
        }
        let patience = match target {
            Some(_) => ASK,
            None if reader.high.is_some() => ASK,
            None if hurried => HURRY,
            None => reader.patience(interval).min(ASK_IDLE),
        };
        let replays = reader.is_replaying();
        let mut sink = |received: Received<'_>| match received {
            Received::Data { payload, .. } => {
                reader.take(payload)?;
                let over = stopping.is_some() || has_arrived(reader) || reader.is_due(interval);
                let pause = (reader.is_between_transactions() && over)
                    || reader.has_questions()
                    || reader.is_replaying()
                    || reader.is_full(&ground.limits);
                Ok(if pause { Flow::Enough } else { Flow::More })
            }
            Received::Keepalive { position, asked, .. } => {
                reader.pass(position);
                hurried |= asked;
                Ok(Flow::Enough)
            }
        };
        let event = if replays {
            match reader.replay(&ground.limits)? {
                Replayed::Some => None,
                Replayed::Large(bytes) => Some(Event::Large(bytes)),
            }
        } else {
            tokio::select! {
                biased;
                event = stream.read(&mut sink) => Some(event?),
                () = told(course), if stopping.is_none() => None,
                () = tokio::time::sleep(patience) => {
                    acknowledger.ask();
                    None
                }
            }
        };
        match event {
            Some(Event::Data) | None => {}
            Some(Event::Large(bytes)) => {
                reader.flush(&ground.limits).await?;
                // Given back at once: what comes of the message is paid for when it is a batch.
                drop(ground.limits.memory.reserve(bytes.saturating_mul(LARGE_FACTOR)).await?);
                if replays { reader.allow(bytes) } else { stream.allow(bytes) }
            }
            Some(Event::Done) => return Err(Error::source_db("the server ended the replication stream").transient()),
        }
        // Not left to the branch above: it is not asked as long as there is something to read.
        if stopping.is_none() && is_told(course) {
            stopping = Some(Instant::now());
        }
        if reader.has_questions() && reader.answer(ground).await? == Ended::Anew {
            return Ok(Ended::Anew);
        }
        if reader.is_full(&ground.limits) {
            reader.flush(&ground.limits).await?;
        }
        if reader.is_between_transactions() {
            if reader.find_emptied(ground).await? == Ended::Anew {
                return Ok(Ended::Anew);
            }
            let arrived = has_arrived(reader);
            // A range that was copied is whole when the log has been read that far.
            let is_half = reader.high.is_some_and(|high| reader.reached < high);
            if is_half && stopping.is_some() {
                reader.give_back();
                return Ok(Ended::Complete);
            }
            if arrived || stopping.is_some() || reader.is_due(interval) || (hurried && reader.is_due(interval.min(HURRY))) {
                hurried = false;
                reader.settle(ground, course).await?;
                if course.acknowledges {
                    writers::faults::reach("source.acknowledge").await?;
                    acknowledger.flushed(reader.forgettable(ground));
                    acknowledger.tell();
                    writers::faults::reach("source.acknowledge.done").await?;
                }
            }
            if has_arrived(reader) || stopping.is_some() || reader.has_nobody() {
                return Ok(Ended::Complete);
            }
            if target.is_none() && looked.elapsed() >= LOOK {
                looked = Instant::now();
                if reader.has_unseen_partitions(&ground.options, ground.terms.on_detach).await? {
                    return Ok(Ended::Anew);
                }
                match reader.has_unseen_shapes(&ground.options).await {
                    Ok(true) => {
                        tracing::info!("a table that nobody has written to since has got other columns, or their types have changed");
                        return Ok(Ended::Anew);
                    }
                    Ok(false) => {}
                    // The stream goes on, which is what matters.
                    Err(error) => tracing::warn!("{error}; looked at again in {} s", LOOK.as_secs()),
                }
            }
        } else if stopping.is_some_and(|since: Instant| since.elapsed() >= LAST) {
            tracing::info!("stopped within a transaction; it is read again by the next run");
            return Ok(Ended::Complete);
        }
    }
}

async fn told(course: &Course) {
    match &course.until {
        Until::End => std::future::pending().await,
        Until::Told { stop, .. } => stop.told().await,
    }
}

fn is_told(course: &Course) -> bool {
    matches!(&course.until, Until::Told { stop, .. } if stop.is_told())
}
