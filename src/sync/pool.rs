//! The readers: one pool of connections over the chunks of all tables, biggest first.
//!
//! A reader takes the next chunk, whichever table it belongs to, so that one huge table among a thousand small ones keeps
//! every connection busy to the end. Tables whose last chunk is staged are settled together, while the readers go on: those that
//! become complete during a settlement make up the next. Where the destination can show several tables at one instant, they are settled
//! when all of them are complete.

use super::advance::Aim;
use super::backfill::{BatchLimits, read_chunk};
use super::keeper::Keeper;
use super::meter::Phase;
use super::resume::{Work, staged};
use super::schedule::{Board, Job};
use super::settle::{Mark, Settlement, committed, settle};
use super::{Effort, StreamRun};
use crate::chunks;
use crate::error::{Error, Kind, Result, Retry};
use crate::postgres::connect::ConnectOptions;
use crate::postgres::exported::{self, Exported};
use crate::postgres::wire::Connection;
use crate::state::progress::Moment;
use arrow::array::RecordBatch;
use futures::StreamExt;
use futures::future::Either;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::JoinSet;
use writers::{Commit, Part, Stats, Table};

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
    aims: Vec<Aim>,
    /// Whether all tables are committed at one instant.
    together: bool,
    board: Mutex<Board<T::Part>>,
}

/// Reads all chunks of `work` and settles every table.
pub async fn run<T: Table>(
    options: &ConnectOptions,
    exported: &Exported,
    streams: &[Arc<StreamRun<T>>],
    mut work: Vec<Work<T::Part>>,
    limits: &BatchLimits,
    keeper: &Keeper,
    effort: &Effort,
) -> Result<()> {
    let mut aims = Vec::with_capacity(work.len());
    let mut ready = Vec::new();
    for (index, (work, stream)) in work.iter_mut().zip(streams).enumerate() {
        aims.push(work.aim.clone());
        match work.done.take() {
            Some(stats) => stream.meter.committed(stats),
            None if work.chunks.is_empty() => ready.push(index),
            None => {}
        }
    }
    let together = match streams.first() {
        Some(stream) => stream.table.lock().await.commits_together(),
        None => false,
    };
    let board = Board::new(work, effort.readers, effort.file_bytes);
    let shared = Arc::new(Shared {
        options: options.clone(),
        snapshot: exported.name.clone(),
        moment: exported.moment.clone(),
        limits: limits.clone(),
        streams: streams.to_vec(),
        aims,
        together,
        board: Mutex::new(board),
    });
    let readers = effort.readers.min(shared.lock().chunks_left());
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
    let mut watch = pin!(exported.watch());
    loop {
        let staged = tasks.is_empty() && finished.is_empty();
        // With thousands of tables each save takes its time: those that become complete meanwhile share it.
        let now = if shared.together { staged } else { keeper.is_rested() || tasks.is_empty() };
        if settling.is_none() && !complete.is_empty() && now {
            *settling = Some(Box::pin(settle_streams(shared, std::mem::take(&mut complete), exported, keeper)));
        }
        tokio::select! {
            biased;
            outcome = async { settling.as_mut().expect("guarded").await }, if settling.is_some() => {
                *settling = None;
                outcome?;
            }
            reason = &mut watch, if !tasks.is_empty() => return Err(reason),
            Some(event) = finished.recv() => complete.extend(on_staged(shared, event, exported, keeper)?),
            joined = tasks.join_next(), if !tasks.is_empty() => match joined {
                Some(Ok(outcome)) => outcome?,
                Some(Err(panic)) => return Err(Error::bug(format!("a reader stopped: {panic}"))),
                None => {}
            },
            () = tokio::time::sleep(Duration::from_millis(200)), if !tasks.is_empty() || !complete.is_empty() => {
                keeper.flush()?;
            }
            else => return Ok(()),
        }
    }
}

fn add(mut sum: Stats, more: Stats) -> Stats {
    sum += more;
    sum
}

impl<T: Table> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Board<T::Part>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job that has been staged.
struct StagedJob<P> {
    job: Job,
    part: P,
    /// Rows of each piece.
    rows: Vec<u64>,
}

async fn reader<T: Table>(shared: &Shared<T>, done: &Sender<StagedJob<T::Part>>) -> Result<()> {
    let mut connection = None;
    loop {
        // Not in the condition: the lock would be held through the body.
        let next = shared.lock().next_job();
        let Some(job) = next else { break };
        let stream = &shared.streams[job.stream];
        stream.meter.enter(Phase::Reading);
        let mut tries = 0;
        let outcome = loop {
            match stage_job(shared, stream, &job, &mut connection).await {
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
                shared.lock().abandon(job.stream);
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

/// Reads a job into a staged part; gives the rows of each piece. On an error the connection is spent and is left out of `connection`.
async fn stage_job<T: Table>(
    shared: &Shared<T>,
    stream: &StreamRun<T>,
    job: &Job,
    connection: &mut Option<Connection>,
) -> Result<(T::Part, Vec<u64>)> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => exported::adopt(&shared.options, &shared.snapshot, &shared.moment).await?,
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(QUEUE);
    let batches = futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) });
    let table = stream.table.lock().await;
    let staging = match shared.aims[job.stream].how == Commit::Append && stream.plan.upserts {
        true => Either::Left(table.stage_changes(job.name.clone(), batches.boxed())),
        false => Either::Right(table.stage(job.name.clone(), batches.boxed())),
    };
    drop(table);
    let reading = async {
        let outcome = read_pieces(shared, stream, job, &mut open, &sender).await;
        if outcome.is_err() {
            // The writer must not take the end of the batches for the end of the job.
            let _: Result<_, _> = sender.send(Err(Error::source_db("the chunk was not read to its end"))).await;
        }
        drop(sender);
        outcome
    };
    let (rows, part) = tokio::join!(reading, staging);
    let what = |doing: &str| format!("{doing} {} of {}", job.describe(), stream.plan.id);
    let (rows, part) = match (rows, part) {
        (Err(reading), _) => return Err(reading),
        (_, Err(writing)) => return Err(writing.doing(what("stage"))),
        (Ok(rows), Ok(part)) => (rows, part),
    };
    let read: u64 = rows.iter().sum();
    // Of rows with one key the last one is left.
    if part.stats().rows != read && !(stream.plan.upserts && part.stats().rows < read) {
        return Err(Error::bug(format!("{read} rows were read and {} were staged", part.stats().rows)).doing(what("read")));
    }
    *connection = Some(open);
    Ok((part, rows))
}

async fn read_pieces<T: Table>(
    shared: &Shared<T>,
    stream: &StreamRun<T>,
    job: &Job,
    connection: &mut Connection,
    batches: &Sender<Result<RecordBatch>>,
) -> Result<Vec<u64>> {
    let aim = &shared.aims[job.stream];
    let plan = &stream.plan;
    let select = plan.select(aim);
    let mut rows = Vec::with_capacity(job.pieces.len());
    for piece in &job.pieces {
        let sql = chunks::query(&select, piece, aim.filter.as_deref(), plan.wire);
        let read = read_chunk(connection, &sql, plan, &shared.limits, &stream.meter, batches).await;
        rows.push(read.map_err(|e| e.doing(format!("read {} of {}", piece.describe(), plan.id)))?);
    }
    Ok(rows)
}

/// Records a staged job; returns its stream if that was the last one.
fn on_staged<T: Table>(shared: &Shared<T>, event: StagedJob<T::Part>, exported: &Exported, keeper: &Keeper) -> Result<Option<usize>> {
    let StagedJob { job, part, rows } = event;
    let stream = &shared.streams[job.stream];
    let mut records = Vec::with_capacity(job.pieces.len());
    for (piece, rows) in job.pieces.iter().zip(&rows) {
        records.extend(staged(&stream.info, piece, *rows, exported, &part)?);
    }
    tracing::debug!("{}: {} staged, {} rows", stream.plan.id, job.describe(), rows.iter().sum::<u64>());
    stream.meter.chunks_done.fetch_add(job.planned.len() as u64, Relaxed);
    let replaces = shared.aims[job.stream].how == Commit::Replace;
    keeper.change(|state| {
        if let Some(load) = state.lakeward.loads.get_mut(&stream.plan.id) {
            // A part that could not be checked later is read again as a whole.
            if records.len() == job.pieces.len() {
                load.chunks.extend(records);
                load.left.retain(|chunk| !job.planned.contains(chunk));
            }
        }
        for chunk in job.planned.iter().filter(|_| replaces) {
            state.remove_chunk(&stream.info.namespace, &stream.info.name, &chunk.olake_form());
        }
    })?;
    Ok(shared.lock().staged(&job, part).then_some(job.stream))
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
        let (parts, generation) = shared.lock().take(*index);
        stats.push(parts.iter().fold(Stats::default(), |sum, part| add(sum, part.stats())));
        let mark = Mark { load: generation, lsn: shared.moment.lsn.clone(), changes: false, left: 0 };
        group.push(Settlement { plan: &stream.plan, table: &stream.table, parts, how: shared.aims[*index].how, mark, takes_away: false });
    }
    let outcomes = settle(group, shared.together, keeper, committed).await?;
    let mut failure = None;
    for ((index, stats), outcome) in indexes.into_iter().zip(stats).zip(outcomes) {
        let stream = &shared.streams[index];
        match outcome {
            Ok(()) => {
                stream.meter.committed(stats);
                tracing::info!("{}: {} rows in {} files, {} bytes", stream.plan.id, stats.rows, stats.files, stats.bytes);
            }
            Err(error) if concerns_one_table(&error) => {
                tracing::error!("{error}");
                stream.meter.fail(error);
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(()), Err)
}
