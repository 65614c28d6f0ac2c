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

pub mod adapt;
pub mod advance;
pub mod backfill;
pub mod capture;
pub mod capture_check;
pub mod capture_filter;
mod capture_history;
pub mod capture_open;
pub mod capture_pending;
pub mod capture_plan;
mod capture_ranges;
pub mod capture_reader;
pub mod capture_settle;
pub mod capture_shapes;
mod capture_truncate;
mod capture_watch;
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
mod run;
pub mod schedule;
pub mod settle;
pub mod split;
mod unseen;
pub mod window;

pub use run::{Planned, Run};

use crate::config::selection::Chosen;
use crate::error::{Error, Kind, Result, Retry};
use crate::memory::Memory;
use crate::postgres::catalog::{self, TableInfo};
use crate::postgres::connect::{self, ConnectOptions};
use crate::postgres::quote;
use crate::postgres::replica::Replicas;
use crate::shutdown::Stop;
use crate::types::pg_type::{PgType, TypeKind};
use adapt::Known;
use chrono::Utc;
use meter::Meter;
use pace::Pace;
use plan::{StreamPlan, Terms};
use std::sync::Arc;
use std::time::Duration;
use writers::Table;

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
    /// How to go on when everything is read; `None` to end then.
    pub endless: Option<Endless>,
}

/// How a run goes on without end.
#[derive(Clone, Debug)]
pub struct Endless {
    /// Between two commits of changes.
    pub interval: Duration,
    /// Who ends it.
    pub stop: Stop,
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

/// Bytes of heap that one chunk should cover: a file of some size, a query of some seconds; and for a run of few gigabytes
/// small enough that the last reader at work does not work alone for long.
pub fn chunk_bytes<'t>(tables: impl Iterator<Item = &'t TableInfo>, readers: usize) -> u64 {
    const CHUNKS_PER_READER: u64 = 8;
    let total: u64 = tables.filter_map(|table| table.bytes).sum();
    (total / (CHUNKS_PER_READER * readers.max(1) as u64)).clamp(64 << 20, 256 << 20)
}

/// Plans streams against the source. Nothing is written.
pub struct Planner {
    /// How to connect.
    pub options: ConnectOptions,
    /// Whether a parent of plain inheritance is read with its children.
    pub collapse_partitions: bool,
    /// What all streams have in common.
    pub terms: Terms,
}

impl Planner {
    /// Plans all streams. `known` are the columns of those that are followed; one that cannot be planned, and may fail `alone`, leaves the others
    /// alone.
    pub async fn plan(&self, chosen: &[Chosen], known: &Known, alone: &dyn Fn(&str) -> bool) -> Result<Planned> {
        match self.plan_all(chosen, known).await {
            Err(error) if error.retry() == Retry::Never && chosen.iter().any(|one| alone(&one.stream.id())) => {}
            outcome => return outcome.map(|plans| (plans, Vec::new())),
        }
        let (mut plans, mut failures) = (Vec::new(), Vec::new());
        for one in chosen {
            let id = one.stream.id();
            match self.plan_all(std::slice::from_ref(one), known).await {
                Ok(planned) => plans.extend(planned),
                Err(error) if error.retry() == Retry::Never && alone(&id) => failures.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        match failures.pop() {
            Some((_, error)) if plans.is_empty() => Err(error),
            last => {
                failures.extend(last);
                Ok((plans, failures))
            }
        }
    }

    async fn plan_all(&self, chosen: &[Chosen], known: &Known) -> Result<Vec<(StreamPlan, TableInfo)>> {
        let now = Utc::now();
        let session = connect::session(&self.options).await?;
        let names: Vec<_> = chosen.iter().map(|c| (c.stream.namespace.clone(), c.stream.name.clone())).collect();
        // Before the tables are looked at: what is written from here on is younger.
        let horizon = session.row("SELECT txid_snapshot_xmin(txid_current_snapshot())").await?.get(0);
        let tables = catalog::load_tables(&session.client, &names, self.collapse_partitions).await.map_err(|e| session.cause(e))?;
        let mut plans = Vec::with_capacity(tables.len());
        for (chosen, table) in chosen.iter().zip(tables) {
            let mut chosen = chosen.clone();
            if let Some(known) = known.get(&chosen.stream.id()) {
                adapt::adapt(&mut chosen, &table, known);
            }
            flatten::find_keys(&session, &mut chosen, &table).await?;
            let mut plan = plan::plan(chosen, &table, now, &self.terms)?;
            plan.heaps.horizon = horizon;
            plan.fingerprint.push_str(&format!("|{}|{}", self.options.user, enum_labels(&table)));
            if plan.filter.is_some() || plan.key.is_some() || plan.cursor.is_some() {
                // A literal that the column's type does not take is found now, not after an hour of other tables.
                let probe = plan.probe(&table);
                session.client.batch_execute(&probe).await.map_err(|e| {
                    unusable(session.error(&e)).doing(format!("try the filter, chunk_column and cursor_field of {}", plan.id))
                })?;
            }
            capture_filter::prepare(&session, &mut plan, &table).await?;
            plans.push((plan, table));
        }
        // Gone before the next one comes: `max_threads` counts this session too.
        session.close().await;
        Ok(plans)
    }
}

/// What the server does not understand in a probe comes from the catalog file.
fn unusable(error: Error) -> Error {
    match error.is_about_a_value() {
        true => error.for_kind(Kind::Config).hint("write a value of the column's type, or name a column that can be sorted"),
        false => error,
    }
}

/// The labels of the enums that a table's columns use: a label can be renamed without a row changing.
fn enum_labels(table: &TableInfo) -> String {
    let types = table.columns.iter().flat_map(|column| column.ty.walk());
    let labels = |ty: &PgType| match &ty.kind {
        TypeKind::Enum(labels) => labels.iter().map(|label| quote::literal(&label.name)).collect::<Vec<_>>().join(","),
        _ => String::new(),
    };
    types.map(labels).filter(|labels| !labels.is_empty()).collect::<Vec<_>>().join(";")
}
