//! The readers: one pool of connections over the chunks of all tables, biggest first.
//!
//! A reader takes the next chunk, whichever table it belongs to, so that one huge table among a thousand small ones keeps
//! every connection busy to the end. Tables whose last chunk is staged are settled together, while the readers go on: those that
//! become complete during a settlement make up the next.

use super::StreamRun;
use super::backfill::{BatchLimits, read_chunk};
use super::keeper::Keeper;
use super::meter::Phase;
use super::resume::{Work, olake_form, staged};
use super::settle::{Mark, Settlement, settle};
use crate::error::{Error, Kind, Result, Retry};
use crate::postgres::chunk::{self, Chunk};
use crate::postgres::connect::{self, ConnectOptions};
use crate::postgres::exported::Exported;
use crate::postgres::quote;
use crate::postgres::wire::Connection;
use crate::state::progress::Moment;
use futures::StreamExt;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use writers::{Part, PartName, Stats, Table};

/// Batches between the decoder and the encoder. One: the decoder works on the next while the encoder works on this.
const QUEUE: usize = 1;
/// Times a reader connects again before the attempt is given up.
const RECONNECTS: u32 = 3;

/// What the readers share.
struct Shared<T: Table> {
    options: ConnectOptions,
    snapshot: String,
    moment: Moment,
    limits: BatchLimits,
    streams: Vec<Arc<StreamRun<T>>>,
    board: Mutex<Board<T::Part>>,
}

/// What is left to do.
struct Board<P> {
    queue: VecDeque<Job>,
    tables: Vec<Pending<P>>,
}

struct Pending<P> {
    generation: String,
    attempt: u32,
    remaining: usize,
    parts: Vec<P>,
    failed: bool,
}

struct Job {
    stream: usize,
    sequence: u32,
    chunk: Chunk,
}

/// Reads all chunks of `work` and settles every table.
pub async fn run<T: Table>(
    options: &ConnectOptions,
    exported: &Exported,
    streams: &[Arc<StreamRun<T>>],
    work: Vec<Work<T::Part>>,
    limits: &BatchLimits,
    keeper: &Keeper,
    readers: usize,
) -> Result<()> {
    let (board, ready) = board(streams, work);
    let shared = Arc::new(Shared {
        options: options.clone(),
        snapshot: exported.name.clone(),
        moment: exported.moment.clone(),
        limits: limits.clone(),
        streams: streams.to_vec(),
        board: Mutex::new(board),
    });
    let readers = readers.min(shared.lock().queue.len());
    // Scoped to this function: when it is dropped (a signal, a failure), the readers are aborted with the set.
    let mut tasks = JoinSet::new();
    let (done, mut finished) = tokio::sync::mpsc::channel(readers.max(1));
    for _ in 0..readers {
        let shared = shared.clone();
        let done = done.clone();
        tasks.spawn(async move { reader(&shared, &done).await });
    }
    drop(done);
    let mut settling = None;
    let outcome = drive(&shared, ready, &mut tasks, &mut finished, &mut settling, exported, keeper).await;
    match settling {
        // A failure of something else does not leave a commit in the middle.
        Some(settling) => outcome.and(settling.await),
        None => outcome,
    }
}

/// A settlement that is under way.
type Settling<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// State and commits are handled here, in one place, while the readers go on with the next chunks.
async fn drive<'a, T: Table>(
    shared: &'a Shared<T>,
    mut complete: Vec<usize>,
    tasks: &mut JoinSet<Result<()>>,
    finished: &mut Receiver<StagedJob<T::Part>>,
    settling: &mut Option<Settling<'a>>,
    exported: &'a Exported,
    keeper: &'a Keeper,
) -> Result<()> {
    loop {
        if settling.is_none() && !complete.is_empty() {
            *settling = Some(Box::pin(settle_streams(shared, std::mem::take(&mut complete), exported, keeper)));
        }
        tokio::select! {
            biased;
            outcome = async { settling.as_mut().expect("guarded").await }, if settling.is_some() => {
                *settling = None;
                outcome?;
            }
            Some(event) = finished.recv() => complete.extend(on_staged(shared, event, exported, keeper)?),
            joined = tasks.join_next(), if !tasks.is_empty() => match joined {
                Some(Ok(outcome)) => outcome?,
                Some(Err(panic)) => return Err(Error::bug(format!("a reader stopped: {panic}"))),
                None => {}
            },
            () = tokio::time::sleep(Duration::from_millis(200)), if !tasks.is_empty() => {
                keeper.flush()?;
                if !exported.seems_alive() {
                    exported.assert_alive().await?;
                }
            }
            else => return Ok(()),
        }
    }
}

/// The queue of all chunks, and the streams that have nothing left to read but are not settled.
fn board<T: Table>(streams: &[Arc<StreamRun<T>>], work: Vec<Work<T::Part>>) -> (Board<T::Part>, Vec<usize>) {
    let mut jobs = Vec::new();
    let mut tables = Vec::new();
    let mut ready = Vec::new();
    for (stream, work) in work.into_iter().enumerate() {
        if let Some(stats) = work.done {
            streams[stream].meter.committed(stats);
        } else if work.chunks.is_empty() {
            ready.push(stream);
        }
        let remaining = work.chunks.len();
        for (index, chunk) in (0..).zip(work.chunks) {
            jobs.push(Job { stream, sequence: index, chunk });
        }
        tables.push(Pending { generation: work.generation, attempt: work.attempt, remaining, parts: work.kept, failed: false });
    }
    jobs.sort_by_key(|job| std::cmp::Reverse(job.chunk.estimated_bytes));
    (Board { queue: jobs.into(), tables }, ready)
}

fn add(mut sum: Stats, more: Stats) -> Stats {
    sum += more;
    sum
}

impl<T: Table> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Board<T::Part>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_job(&self) -> Option<(Job, String)> {
        let mut board = self.lock();
        while let Some(job) = board.queue.pop_front() {
            let table = &board.tables[job.stream];
            if !table.failed {
                // Names of an earlier attempt are not used again: a late upload of it must not replace a file of this one.
                let generation = format!("{}-{}", table.generation, table.attempt);
                return Some((job, generation));
            }
        }
        None
    }
}

/// A chunk that has been staged.
struct StagedJob<P> {
    job: Job,
    part: P,
    rows: u64,
}

async fn reader<T: Table>(shared: &Shared<T>, done: &tokio::sync::mpsc::Sender<StagedJob<T::Part>>) -> Result<()> {
    let mut connection = None;
    while let Some((job, generation)) = shared.next_job() {
        let stream = &shared.streams[job.stream];
        stream.meter.enter(Phase::Reading);
        let mut tries = 0;
        let outcome = loop {
            match stage_chunk(shared, stream, &job, &generation, &mut connection).await {
                Err(error) if error.retry() == Retry::Again && error.kind() == Kind::Source && tries < RECONNECTS => {
                    tries += 1;
                    tracing::warn!("{error}; connecting again ({tries} of {RECONNECTS})");
                    connection = None;
                    tokio::time::sleep(Duration::from_millis(250 << tries)).await;
                }
                outcome => break outcome,
            }
        };
        match outcome {
            Ok((part, rows)) => {
                if done.send(StagedJob { job, part, rows }).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) if concerns_one_table(&error) => {
                connection = None;
                shared.lock().tables[job.stream].failed = true;
                tracing::error!("{error}");
                stream.meter.fail(error);
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(mut connection) = connection {
        // The read-only transaction has nothing to lose; ending it politely keeps the server's log quiet.
        let _: Result<_> = connection.simple("COMMIT").await;
    }
    Ok(())
}

/// Errors in a table's data, shape or permissions leave the other tables alone.
fn concerns_one_table(error: &Error) -> bool {
    error.retry() == Retry::Never && matches!(error.kind(), Kind::Source | Kind::Schema | Kind::Config)
}

/// Reads one chunk into a staged part. On an error the connection is spent and is left out of `connection`.
async fn stage_chunk<T: Table>(
    shared: &Shared<T>,
    stream: &StreamRun<T>,
    job: &Job,
    generation: &str,
    connection: &mut Option<Connection>,
) -> Result<(T::Part, u64)> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => adopt_snapshot(shared).await?,
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(QUEUE);
    let batches = futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) });
    let name = PartName { generation: generation.to_owned(), sequence: job.sequence };
    let staging = stream.table.lock().await.stage(name, batches.boxed());
    let sql = chunk::query(&stream.plan.select, &job.chunk, stream.plan.filter.as_deref(), stream.plan.wire);
    let what = || format!("read {} of {}", describe(&job.chunk), stream.plan.id);
    let reading = async {
        let outcome = read_chunk(&mut open, &sql, &stream.plan, &shared.limits, &stream.meter, &sender).await;
        match outcome {
            Ok(rows) => {
                drop(sender);
                Ok(rows)
            }
            Err(error) => {
                // The writer must not take the end of the batches for the end of the chunk.
                let _: Result<_, _> = sender.send(Err(Error::source_db("the chunk was not read to its end"))).await;
                drop(sender);
                Err(error.doing(what()))
            }
        }
    };
    let (rows, part) = tokio::join!(reading, staging);
    let (rows, part) = match (rows, part) {
        (Err(reading), _) => return Err(reading),
        (_, Err(writing)) => return Err(writing.doing(format!("stage {} of {}", describe(&job.chunk), stream.plan.id))),
        (Ok(rows), Ok(part)) => (rows, part),
    };
    if part.stats().rows != rows {
        return Err(Error::bug(format!("{rows} rows were read and {} were staged", part.stats().rows)).doing(what()));
    }
    *connection = Some(open);
    Ok((part, rows))
}

async fn adopt_snapshot<T: Table>(shared: &Shared<T>) -> Result<Connection> {
    let mut connection = connect::wire(&shared.options).await?;
    connection.simple("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let adopt = format!("SET TRANSACTION SNAPSHOT {}", quote::literal(&shared.snapshot));
    connection.simple(&adopt).await.map_err(|error| match error.code() {
        // Undefined object, or invalid value: the session that exported it is gone. A new attempt takes a new snapshot.
        Some("42704" | "22023" | "55000") => error.transient().doing("adopt the exported snapshot"),
        _ => error.doing("adopt the exported snapshot"),
    })?;
    // Behind a pooler, what was set for the session was set for another server connection.
    connection.simple(&connection.settings(&shared.options, true)).await?;
    // A server that has restarted gives the same names to other snapshots.
    let seen = connection.simple("SELECT txid_snapshot_xmin(txid_current_snapshot()), txid_snapshot_xmax(txid_current_snapshot())").await?;
    let expected = [shared.moment.xmin, shared.moment.xmax].map(|id| Some(id.to_string()));
    if seen.first().map(Vec::as_slice) != Some(&expected) {
        return Err(Error::source_db("the exported snapshot is gone, and another has its name").transient());
    }
    Ok(connection)
}

fn describe(chunk: &Chunk) -> String {
    match (chunk.from_page, chunk.to_page) {
        (0, None) => "all pages".to_owned(),
        (from, Some(to)) => format!("pages {from}..{to}"),
        (from, None) => format!("pages {from}.."),
    }
}

/// Records a staged chunk; returns its stream if that was the last one.
fn on_staged<T: Table>(shared: &Shared<T>, event: StagedJob<T::Part>, exported: &Exported, keeper: &Keeper) -> Result<Option<usize>> {
    let stream = &shared.streams[event.job.stream];
    let record = staged(&stream.info, &event.job.chunk, event.rows, exported, &event.part)?;
    tracing::debug!("{}: {} staged, {} rows", stream.plan.id, describe(&event.job.chunk), event.rows);
    stream.meter.chunks_done.fetch_add(1, Relaxed);
    let olake = olake_form(&event.job.chunk);
    keeper.change(|state| {
        if let (Some(load), Some(record)) = (state.lakeward.loads.get_mut(&stream.plan.id), record) {
            load.chunks.push(record);
        }
        state.remove_chunk(&stream.info.namespace, &stream.info.name, &olake);
    })?;
    let mut board = shared.lock();
    let table = &mut board.tables[event.job.stream];
    table.parts.push(event.part);
    table.remaining -= 1;
    Ok((table.remaining == 0 && !table.failed).then_some(event.job.stream))
}

async fn settle_streams<T: Table>(shared: &Shared<T>, indexes: Vec<usize>, exported: &Exported, keeper: &Keeper) -> Result<()> {
    // The locks have held for every chunk of these tables if they hold now; without them a chunk may have been truncated
    // or rewritten away before its reader came to it.
    exported.assert_alive().await?;
    let mut group = Vec::with_capacity(indexes.len());
    let mut stats = Vec::with_capacity(indexes.len());
    for index in &indexes {
        let stream = &shared.streams[*index];
        stream.meter.enter(Phase::Committing);
        let (parts, generation) = {
            let mut board = shared.lock();
            let table = &mut board.tables[*index];
            (std::mem::take(&mut table.parts), table.generation.clone())
        };
        stats.push(parts.iter().fold(Stats::default(), |sum, part| add(sum, part.stats())));
        let mark = Mark { load: generation, lsn: shared.moment.lsn.clone() };
        group.push(Settlement { id: &stream.plan.id, table: &stream.table, parts, mark });
    }
    let outcomes = settle(group, keeper).await?;
    for ((index, stats), _) in indexes.into_iter().zip(stats).zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()) {
        let stream = &shared.streams[index];
        stream.meter.committed(stats);
        tracing::info!("{}: {} rows in {} files, {} bytes", stream.plan.id, stats.rows, stats.files, stats.bytes);
    }
    outcomes.into_iter().collect()
}
