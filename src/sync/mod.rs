//! The story of a sync.
//!
//! ```text
//! prepare    what is chosen × what is there → plans; open every destination table; refuse now what would fail later
//! attempt    export a snapshot → check the chunks kept from before → read the rest, all tables over one pool → settle
//! follow     changes from the log, from where each table was left or first loaded → settle
//! ```
//!
//! A transient failure (a lost connection, a restarting server) ends an attempt; the next one takes a new snapshot and
//! keeps what is provably the same in it (see [`crate::state::progress`]), so that at the end every table shows the
//! instant of one snapshot. A failure of one table leaves the others alone and is reported at the end.

pub mod advance;
pub mod backfill;
pub mod capture;
pub mod capture_open;
pub mod capture_plan;
mod flatten;
pub mod increment;
pub mod keeper;
pub mod meter;
mod olake_columns;
pub mod pace;
pub mod plan;
pub mod pool;
pub mod resume;
mod row_json;
pub mod schedule;
pub mod settle;
pub mod split;
pub mod window;

use crate::config::selection::Chosen;
use crate::error::{Error, Kind, Result, Retry};
use crate::memory::Memory;
use crate::postgres::catalog::{self, Access, RelationKind, TableInfo};
use crate::postgres::connect::{self, ConnectOptions};
use crate::postgres::exported::{Exported, Relations};
use crate::postgres::replica::{self, Replicas};
use backfill::BatchLimits;
use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _};
use keeper::Keeper;
use meter::Meter;
use pace::Pace;
use plan::{StreamPlan, Terms};
use resume::Ground;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use writers::{Destination, Table};

/// Tables that are opened at the same time: an object store answers each request after some time, but many at once.
const OPEN_AT_ONCE: usize = 16;

/// How hard a run may work.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Connections that read; one more holds the exported snapshot.
    pub readers: usize,
    /// Attempts after the first, when a failure is transient.
    pub retries: u32,
    /// Age of the exported snapshot at which the run stops; zero means none.
    pub max_snapshot_age: Duration,
    /// Standbys to read from.
    pub replicas: Replicas,
    /// Whether a parent of plain inheritance is read with its children.
    pub collapse_partitions: bool,
    /// The pool of batches.
    pub memory: Memory,
    /// How fast rows may come.
    pub pace: Pace,
    /// A batch is cut at this size.
    pub batch_bytes: usize,
    /// A batch holds at most this many rows.
    pub batch_rows: usize,
    /// Rows of a chunk, if the source file says so.
    pub chunk_rows: Option<u64>,
    /// Size of a file that is neither dust nor a burden; 0 for a file from every chunk.
    pub file_bytes: u64,
    /// The slot, for streams whose changes are followed.
    pub capture: Option<capture::Terms>,
}

/// A stream of the run with its open table in the destination.
pub struct StreamRun<T: Table> {
    /// What to read and how.
    pub plan: StreamPlan,
    /// The table as it is in the source; refreshed at each attempt.
    pub info: TableInfo,
    /// The table in the destination.
    pub table: tokio::sync::Mutex<T>,
    /// Counters.
    pub meter: Arc<Meter>,
}

/// Everything a run needs, checked: from here on nothing is refused for its configuration.
pub struct Run<D: Destination> {
    options: ConnectOptions,
    effort: Effort,
    keeper: Keeper,
    streams: Vec<Arc<StreamRun<D::Table>>>,
}

/// Bytes of heap that one chunk should cover: a file of some size, a query of some seconds; and for a run of few gigabytes
/// small enough that the last reader at work does not work alone for long.
pub fn chunk_bytes<'t>(tables: impl Iterator<Item = &'t TableInfo>, readers: usize) -> u64 {
    const CHUNKS_PER_READER: u64 = 8;
    let total: u64 = tables.filter_map(|table| table.bytes).sum();
    (total / (CHUNKS_PER_READER * readers.max(1) as u64)).clamp(64 << 20, 256 << 20)
}

/// Plans all streams against the source. Nothing is written.
pub async fn plan_streams(
    options: &ConnectOptions,
    chosen: Vec<Chosen>,
    collapse: bool,
    now: DateTime<Utc>,
    terms: &Terms,
) -> Result<Vec<(StreamPlan, TableInfo)>> {
    let session = connect::session(options).await?;
    let names: Vec<_> = chosen.iter().map(|c| (c.stream.namespace.clone(), c.stream.name.clone())).collect();
    let tables = catalog::load_tables(&session.client, &names, collapse).await?;
    let labels = catalog::enum_labels(&session.client).await?;
    let mut plans = Vec::with_capacity(tables.len());
    for (mut chosen, table) in chosen.into_iter().zip(tables) {
        flatten::find_keys(&session, &mut chosen, &table).await?;
        let mut plan = plan::plan(chosen, &table, now, terms)?;
        plan.fingerprint.push_str(&format!("|{}|{}", options.user, enum_labels(&table, &labels)));
        if plan.filter.is_some() || plan.key.is_some() || plan.cursor.is_some() {
            // A literal that the column's type does not take is found now, not after an hour of other tables.
            let probe = plan.probe(&table);
            session
                .client
                .batch_execute(&probe)
                .await
                .map_err(|e| unusable(session.error(&e)).doing(format!("try the filter, chunk_column and cursor_field of {}", plan.id)))?;
        }
        plans.push((plan, table));
    }
    // Gone before the next one comes: `max_threads` counts this session too.
    session.close().await;
    Ok(plans)
}

/// What the server does not understand in a probe comes from the catalog file.
fn unusable(error: Error) -> Error {
    match error.is_about_a_value() {
        true => error.for_kind(Kind::Config).hint("write a value of the column's type, or name a column that can be sorted"),
        false => error,
    }
}

/// The labels of the enums that a table's columns use: a label can be renamed without a row changing.
fn enum_labels(table: &TableInfo, labels: &HashMap<u32, String>) -> String {
    let types = table.columns.iter().flat_map(|c| c.ty.walk());
    types.filter_map(|ty| labels.get(&ty.oid)).map(String::as_str).collect::<Vec<_>>().join(";")
}

impl<D: Destination> Run<D> {
    /// Opens every table in the destination.
    pub async fn prepare(
        options: ConnectOptions,
        effort: Effort,
        keeper: Keeper,
        destination: &D,
        plans: Vec<(StreamPlan, TableInfo)>,
    ) -> Result<Self> {
        let open = async |(plan, info): (StreamPlan, TableInfo)| -> Result<_> {
            let table =
                destination.open(&plan.spec).await.map_err(|e| Error::from(e).doing(format!("open the destination of {}", plan.id)))?;
            if plan.upserts || plan.capture.as_ref().is_some_and(|capture| capture.applies) {
                table.check_changes().map_err(|e| Error::from(e).doing(format!("plan {}", plan.id)))?;
            }
            let meter = Meter::new(&plan.id);
            meter.rows_estimated.store(info.estimated_rows.unwrap_or(0), Relaxed);
            Ok(Arc::new(StreamRun { plan, info, table: tokio::sync::Mutex::new(table), meter }))
        };
        let streams = futures::stream::iter(plans).map(open).buffered(OPEN_AT_ONCE).try_collect().await?;
        Ok(Self { options, effort, keeper, streams })
    }

    /// The counters of every stream, in the order of the catalog.
    pub fn meters(&self) -> Vec<Arc<Meter>> {
        self.streams.iter().map(|s| s.meter.clone()).collect()
    }

    /// Saves what the state file does not have yet.
    pub fn save(&self) -> Result<()> {
        self.keeper.flush()
    }

    /// Loads every stream. Ends with an error when any stream failed; the others are committed nevertheless.
    pub async fn load(&mut self) -> Result<()> {
        let mut attempt = 0;
        loop {
            let outcome = self.attempt().await;
            self.keeper.flush()?;
            match outcome {
                Err(error) if error.retry() == Retry::Again && attempt < self.effort.retries.max(replica::attempts(&error)) => {
                    attempt += 1;
                    let allowed = self.effort.retries.max(replica::attempts(&error));
                    let pause = Duration::from_secs(1 << attempt.min(6));
                    tracing::warn!("{error}; attempt {attempt} of {allowed} in {} s", pause.as_secs());
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(replica::advise(error)),
                Ok(()) => return self.finish(),
            }
        }
    }

    async fn attempt(&mut self) -> Result<()> {
        if let Some(terms) = &self.effort.capture {
            Box::pin(capture_open::open(&self.options, terms, &self.streams, &self.keeper)).await?;
        }
        self.read_all().await?;
        match &self.effort.capture {
            Some(terms) => {
                let limits = &self.limits();
                let ground = capture::Ground { options: &self.options, terms, keeper: &self.keeper, limits };
                Box::pin(capture::follow(&self.streams, ground)).await
            }
            None => Ok(()),
        }
    }

    fn limits(&self) -> BatchLimits {
        let Effort { memory, batch_bytes, batch_rows, pace, .. } = self.effort.clone();
        BatchLimits { memory, batch_bytes, batch_rows, pace }
    }

    /// What does not come from the log.
    async fn read_all(&mut self) -> Result<()> {
        let options = replica::choose(&self.options, &self.effort.replicas).await?;
        let exported = Exported::take(&options, &self.relations()).await?.bounded(self.effort.max_snapshot_age);
        tracing::info!("exported snapshot at {}, shared by {} readers", exported.moment.lsn, self.effort.readers);
        self.read(&options, &exported).await.map_err(|error| exported.cause(error))
    }

    async fn read(&mut self, options: &ConnectOptions, exported: &Exported) -> Result<()> {
        self.refresh(exported).await?;
        let chunk_bytes = chunk_bytes(self.streams.iter().map(|s| &s.info), self.effort.readers);
        let terms = split::Terms { server_version: exported.server_version, target_bytes: chunk_bytes, chunk_rows: self.effort.chunk_rows };
        let incremental = self.streams.iter().any(|stream| stream.plan.cursor.is_some());
        let quiet = incremental && advance::is_quiet(options, exported).await?;
        let ground = Ground { exported, keeper: &self.keeper, terms, quiet };
        let work = resume::prepare(&self.streams, ground).await?;
        pool::run(options, exported, &self.streams, work, &self.limits(), &self.keeper, &self.effort).await
    }

    fn relations(&self) -> Relations {
        let mut relations = Relations::default();
        for StreamRun { info, plan, .. } in self.streams.iter().map(Arc::as_ref) {
            let name = (info.namespace.clone(), info.name.clone());
            match info.kind {
                RelationKind::Table | RelationKind::Partitioned if info.access != Access::Whole => relations.tables.push(name),
                RelationKind::View => relations.views.push(name),
                RelationKind::Foreign => {}
                _ => relations.others.push((name.0, name.1, plan.columns.first().map(|c| c.source.clone()))),
            }
        }
        relations
    }

    /// Reads the tables' shape again, now that it is locked, and refuses to go on with one that has changed since it was planned.
    async fn refresh(&mut self, exported: &Exported) -> Result<()> {
        let names: Vec<_> = self.streams.iter().map(|s| (s.info.namespace.clone(), s.info.name.clone())).collect();
        let tables = catalog::load_tables(exported.client(), &names, self.effort.collapse_partitions).await?;
        for (stream, table) in self.streams.iter_mut().zip(tables) {
            if table.columns != stream.info.columns || table.oid != stream.info.oid {
                return Err(
                    Error::schema(format!("{} was changed while the sync was starting", stream.plan.id)).hint("start the sync again")
                );
            }
            match Arc::get_mut(stream) {
                Some(stream) => stream.info = table,
                None => return Err(Error::bug("a reader of an earlier attempt is still running")),
            }
        }
        Ok(())
    }

    /// Reports failed streams; without any, forgets the loads, which are then all committed and of one instant.
    fn finish(&self) -> Result<()> {
        let failures: Vec<_> = self.streams.iter().filter_map(|s| Some((&s.plan.id, s.meter.failure()?))).collect();
        let Some((id, (kind, reason, hint))) = failures.first() else {
            return self.keeper.commit(|state| {
                for stream in &self.streams {
                    state.lakeward.loads.remove(&stream.plan.id);
                    state.set_chunks(&stream.info.namespace, &stream.info.name, Vec::new());
                }
            });
        };
        let error = Error::new(
            *kind,
            match failures.len() {
                1 => format!("stream {id} failed: {reason}"),
                n => format!("{n} of {} streams failed, {id} first: {reason}", self.streams.len()),
            },
        );
        Err(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }
}
