//! `sync`: reads the four files, prepares the run, watches it, and says what landed.

use super::log::Screen;
use super::report::Report;
use super::{Flags, files};
use crate::config::destination::Destination;
use crate::config::load::FileKind;
use crate::config::seconds::Seconds;
use crate::config::selection::Chosen;
use crate::config::source::{BackfillMode, Source};
use crate::config::streams::Stream;
use crate::error::{Error, Kind, Result};
use crate::memory::Memory;
use crate::postgres::catalog::TableInfo;
use crate::shutdown::{self, Stopper};
use crate::state::file::StateFile;
use crate::sync::adapt::known;
use crate::sync::backfill::OVERSHOOT;
use crate::sync::capture::{Ended, Terms};
use crate::sync::capture_plan::is_captured;
use crate::sync::keeper::Keeper;
use crate::sync::plan::{self, StreamPlan};
use crate::sync::{Effort, Endless, Planner, Run};
use chrono::Utc;
use clap::Args;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use writers::AnyDestination;
use writers::iceberg::Iceberg;
use writers::parquet::{Parquet, Resources};

/// Flags of `sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Only these streams of the catalog's selection: namespace.name, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Print what would be read, as JSON, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not end: follow the changes of streams with change data capture until a signal says to stop
    #[arg(long, conflicts_with = "dry_run")]
    pub follow: bool,
    /// With --follow, seconds between two commits: 1, 500ms …; instead of update_method.commit_interval_s
    #[arg(long, value_name = "SECONDS", requires = "follow", value_parser = interval)]
    pub commit_interval: Option<Duration>,
    /// Copy these streams again, whatever the state says of them, and go on with the others: namespace.name, separated by commas; without names those of --only
    #[arg(long, value_name = "NAMES", value_delimiter = ',', num_args = 0..)]
    pub reload: Option<Vec<String>>,
}

/// What the process needs besides batches, encoders and receive buffers.
const BASE_BYTES: usize = 40 << 20;
/// Receive buffer of a reader, and its share of small things.
const READER_BYTES: usize = 2 << 20;
/// Least memory that a reader with its encoder can work in.
const READER_MIN: usize = 12 << 20;

/// Sizes of a batch: large enough for the work per batch to vanish, small enough to stay in a processor's cache by columns,
/// and for the allocator to give the same buffers out again: larger ones come as fresh pages, which the kernel has to clear.
const BATCH_MIN: usize = 256 << 10;
const BATCH_MAX: usize = 2 << 20;

/// How long a run without end may take for its last commit when a signal asks to stop.
const LAST_COMMIT: Duration = Duration::from_secs(60);

/// How the memory limit is divided.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Connections that read.
    pub readers: usize,
    /// Encoded bytes that one part may hold before it closes a row group.
    pub row_group_bytes: usize,
    /// Pool of batches.
    pub pool_bytes: usize,
    /// A batch is cut at this size.
    pub batch_bytes: usize,
}

impl Share {
    /// Divides `limit` bytes among `readers`; fewer read when that is too little for all.
    ///
    /// An eighth of what is left after the base is kept free: allocators and the kernel round up.
    pub fn of(limit: u64, readers: usize) -> Result<Self> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let usable = limit.saturating_sub(BASE_BYTES) / 8 * 7;
        if usable < READER_MIN {
            let least = (BASE_BYTES + READER_MIN * 8 / 7).div_ceil(1 << 20);
            return Err(Error::config(format!("--memory-limit: found {} MiB, at least {least} MiB are needed", limit >> 20)));
        }
        let readers = readers.clamp(1, usable / READER_MIN);
        let each = usable / readers - READER_BYTES;
        let row_group_bytes = (each / 3).clamp(2 << 20, 64 << 20);
        let pool_bytes = usable - readers * (READER_BYTES + row_group_bytes);
        // Four batches per reader: one under construction, one in the queue, one about to be encoded, one being encoded.
        let batch_bytes = (pool_bytes / readers / 4).saturating_sub(OVERSHOOT).min(2 * BATCH_MAX) / 2;
        let batch_bytes = batch_bytes.max(BATCH_MIN);
        Ok(Self { readers, row_group_bytes, pool_bytes, batch_bytes })
    }

    /// For commands that write next to nothing.
    pub fn for_check() -> Self {
        Self { readers: 1, row_group_bytes: 4 << 20, pool_bytes: 8 << 20, batch_bytes: 1 << 20 }
    }
}

/// Opens the destination that the file names.
pub async fn open_destination(destination: &Destination, share: Share) -> Result<AnyDestination> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("encode-{i}")).build();
    let pool = Arc::new(pool.map_err(|e| Error::bug(format!("start the encoding threads: {e}")))?);
    let resources = Resources { pool, row_group_bytes: share.row_group_bytes, now: Utc::now() };
    Ok(match destination {
        Destination::Parquet(config) => AnyDestination::Parquet(Parquet::open(config, resources).await?),
        Destination::Iceberg(config) => AnyDestination::Iceberg(Iceberg::open(config, resources).await?),
    })
}

/// Runs a sync.
pub async fn run(flags: &Flags, args: &SyncArgs, screen: &Screen) -> Result<()> {
    files::required(&flags.config, "config", "source.json")?;
    files::required(&flags.destination, "destination", "destination.json")?;
    let (source, options) = super::read_source(flags).await?;
    let destination = super::read_destination(flags).await?;
    let chosen = super::read_chosen(flags, Some(&destination))?;
    let followed: Vec<String> = chosen.iter().filter(|chosen| is_captured(chosen)).map(|chosen| chosen.stream.id()).collect();
    let mut chosen = restrict(chosen, &args.only)?;
    for stream in &mut chosen {
        stream.metadata.normalization = stream.metadata.normalization.or(destination.normalization());
        if stream.metadata.append_mode && matches!(destination, Destination::Parquet(_)) {
            stream.notes.push("append_mode has no effect: rows are deleted from no table of Parquet files".to_owned());
        }
    }
    let limit = memory_limit(flags);
    let share = Share::of(limit, source.readers())?;
    if share.readers < source.readers() {
        tracing::warn!("--memory-limit allows {} readers instead of the {} of max_threads", share.readers, source.readers());
    }
    if source.connections() == 1 {
        tracing::info!("max_threads is 1, and two connections are the least: one reads, one holds the snapshot");
    }
    // As in OLake, a state file is read only when it is named. It is read before anything else is touched.
    let file = (!args.dry_run).then(|| StateFile::lock(&files::state_output(flags))).transpose()?;
    let mut state = flags.state.as_deref().map(crate::state::file::load).transpose()?.flatten().unwrap_or_default();
    // The slot would keep the log for it for ever.
    state.lakeward.captures.retain(|id, _| {
        let stays = followed.contains(id);
        if !stays {
            tracing::warn!("{id} is not followed any more; should it be chosen again, it is loaded anew");
        }
        stays
    });
    for stream in reloaded(&chosen, args)? {
        state.reload(&stream.namespace, &stream.name);
    }
    let catalog = files::streams(flags);
    let of_catalog = |error: Error| match error.kind() {
        Kind::Config | Kind::Schema => files::about(error, FileKind::Streams, &catalog),
        _ => error,
    };
    let terms = plan::Terms {
        wire: source.wire(),
        incremental: source.incremental,
        replaces_rows: matches!(destination, Destination::Iceberg(_)),
        by_ranges: source.backfill.mode == BackfillMode::Watermark,
    };
    let planner = Planner { options: options.clone(), collapse_partitions: source.scope().collapse_partitions, terms };
    // A table that is followed may have changed in a way that only concerns its own stream.
    let alone = |id: &str| chosen.len() > 1 && state.is_followed(id);
    let (plans, failures) = unless_stopped(planner.plan(&chosen, &known(&state), &alone)).await.map_err(of_catalog)?;
    for (plan, _) in &plans {
        for note in &plan.notes {
            tracing::warn!("{}: {note}", plan.id);
        }
    }
    let Some(file) = file else {
        return super::dry_run::print(&options, &plans, &state, share.readers, source.backfill.chunk_rows).await;
    };
    let file_bytes = destination.file_bytes_wanted();
    let destination = open_destination(&destination, share).await?;
    let state_path = file.path().to_owned();
    let (stopper, stop) = shutdown::stopping();
    let interval = args.commit_interval.unwrap_or(source.commit_interval());
    let effort = Effort {
        readers: share.readers,
        retries: source.retries(),
        replicas: source.replicas()?,
        max_snapshot_age: source.max_snapshot_age(),
        collapse_partitions: planner.collapse_partitions,
        memory: Memory::new(share.pool_bytes),
        pace: source.pace(),
        batch_bytes: share.batch_bytes,
        batch_rows: flags.destination_buffer_size.map_or(usize::MAX, NonZeroUsize::get),
        chunk_rows: source.backfill.chunk_rows,
        capture: capture_of(&source, &plans)?,
        endless: args.follow.then_some(Endless { interval, stop }),
        file_bytes: if source.backfill.chunk_rows.is_some() { 0 } else { file_bytes },
    };
    if args.follow && effort.capture.is_none() {
        return Err(Error::config("--follow: no stream of the catalog has the sync_mode cdc or strict_cdc, so there is nothing to follow"));
    }
    let memory = effort.memory.clone();
    let mut run = unless_stopped(Run::prepare(options.clone(), effort, Keeper::new(file, state), &destination, (plans, failures)))
        .await
        .map_err(of_catalog)?;
    let mut report = Report::new(screen, run.meters(), files::stats_output(flags), share.readers);
    let plan_anew = async |known| planner.plan(&chosen, &known, &|_| true).await;
    let whole = async {
        while run.load().await? == Ended::Anew {
            run.anew(&destination, plan_anew).await?;
        }
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = whole => outcome,
        () = memory.watch(limit) => Ok(()),
        () = report.watch() => Ok(()),
        () = stopped_hard(args.follow.then_some(&stopper)) => Err(stopped()),
    };
    let saved = run.save();
    report.finish();
    // The first failure is the one to tell; what cannot be saved after it only means that more is read again.
    let outcome = match (outcome, saved) {
        (Err(error), Err(unsaved)) => {
            tracing::warn!("{unsaved}");
            Err(error)
        }
        (outcome, saved) => outcome.and(saved),
    };
    outcome.map_err(|error| match error.advice() {
        None => {
            let hint = format!("run the same command with --state {} to go on with what is done", state_path.display());
            error.hint(hint)
        }
        Some(_) => error,
    })
}

/// A signal asks to stop. A run without end commits what it has read; it is given some time for it.
async fn stopped_hard(endless: Option<&Stopper>) {
    shutdown::requested().await;
    if let Some(stopper) = endless {
        tracing::info!("stopping: what was read is committed; another signal stops at once");
        stopper.stop();
        tokio::time::sleep(LAST_COMMIT).await;
    }
}

/// The streams of `--reload`.
fn reloaded<'c>(chosen: &'c [Chosen], args: &SyncArgs) -> Result<Vec<&'c Stream>> {
    let Some(names) = &args.reload else { return Ok(Vec::new()) };
    let names = if names.is_empty() { &args.only } else { names };
    if names.is_empty() {
        return Err(Error::config("--reload: found no stream, accepted: namespace.name, several with commas between them")
            .hint("to load everything anew, leave out --state"));
    }
    names
        .iter()
        .map(|name| {
            let found = chosen.iter().map(|chosen| &chosen.stream).find(|stream| stream.id() == *name);
            found.ok_or_else(|| Error::config(format!("--reload: {name:?} is not among the selected streams of the catalog")))
        })
        .collect()
}

/// The slot, if a stream needs it.
fn capture_of(source: &Source, plans: &[(StreamPlan, TableInfo)]) -> Result<Option<Terms>> {
    let Some((plan, _)) = plans.iter().find(|(plan, _)| plan.capture.is_some()) else { return Ok(None) };
    let terms = source.capture()?.ok_or_else(|| {
        Error::config(format!(
            "{}: its sync_mode is {:?}, and the source file names no replication slot",
            plan.id, plan.chosen.stream.sync_mode
        ))
        .hint(
            "set \"update_method\": {\"replication_slot\": …, \"publication\": …} in the source file, or another sync_mode for the stream",
        )
    })?;
    if !source.replica_hosts.is_empty() {
        return Err(Error::config(
            "`replica_hosts`: found beside streams with change data capture, whose first load has to be read where the log is",
        )
        .hint("remove replica_hosts, or sync these streams in a run of their own (--only)"));
    }
    Ok(Some(terms))
}

/// Does what comes before the first row is read, unless a signal asks to stop.
async fn unless_stopped<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        outcome = work => outcome,
        () = shutdown::requested() => Err(stopped()),
    }
}

fn stopped() -> Error {
    Error::new(Kind::Interrupted, "stopped by a signal; what is staged is kept")
}

/// How long a flag means.
fn interval(text: &str) -> Result<Duration, String> {
    text.parse().map(|Seconds(time)| time)
}

/// Keeps the streams named with `--only`.
pub(super) fn restrict(chosen: Vec<Chosen>, only: &[String]) -> Result<Vec<Chosen>> {
    if only.is_empty() {
        return Ok(chosen);
    }
    let id = |c: &Chosen| format!("{}.{}", c.stream.namespace, c.stream.name);
    if let Some(unknown) = only.iter().find(|name| !chosen.iter().any(|c| id(c) == **name)) {
        return Err(Error::config(format!("{unknown:?} is not among the selected streams of the catalog")));
    }
    Ok(chosen.into_iter().filter(|c| only.contains(&id(c))).collect())
}

/// What the process may hold.
pub(super) fn memory_limit(flags: &Flags) -> u64 {
    flags.memory_limit.map_or_else(default_limit, |size| size.0)
}

/// A quarter of the machine's or the cgroup's memory.
fn default_limit() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let meminfo = read("/proc/meminfo").unwrap_or_default();
    let total =
        meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:")).and_then(|l| l.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    let machine = total.map_or(4 << 30, |kb| kb * 1024);
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let cgroup = cgroup.iter().filter_map(|path| read(path)?.trim().parse::<u64>().ok()).min().unwrap_or(u64::MAX);
    machine.min(cgroup) / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_add_up_to_more_than_the_limit() {
        for limit in [64 << 20, 100 << 20, 256 << 20, 1 << 30, 64 << 30_u64] {
            for readers in [1, 2, 3, 16, 64, 1000] {
                let share = Share::of(limit, readers).expect("enough");
                let used = BASE_BYTES + share.readers * (READER_BYTES + share.row_group_bytes) + share.pool_bytes;
                assert!(used as u64 <= limit, "{limit} {readers} {share:?}");
                assert!(share.readers * (2 * share.batch_bytes + OVERSHOOT) <= share.pool_bytes, "{limit} {readers} {share:?}");
            }
        }
        assert!(Share::of(20 << 20, 1).is_err());
    }
}
