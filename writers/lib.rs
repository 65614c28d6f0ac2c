//! Destinations for Arrow batches.
//!
//! This crate knows Arrow, files and catalogs, and has never heard of PostgreSQL. A writer takes
//! streams of [`RecordBatch`]es, turns each into a *part* that no reader
//! can see, and later makes any number of parts visible together with a *token*, or none of them.
//!
//! ```text
//! batches ──▶ table.stage ──▶ part ─┐
//! batches ──▶ table.stage ──▶ part ─┴▶ table.commit(parts, token)
//! ```
//!
//! # Write your own in an hour
//!
//! Implement [`Destination`] and [`Table`], with [`memory`] as the model (it is the reference
//! implementation and the test double), then add one line to the list in `conformance`: every
//! promise written on a method below is a function there.

mod any;
mod coalesce;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
pub mod faults;
mod guard;
pub mod iceberg;
pub mod memory;
mod naming;
mod order;
pub mod parquet;
#[cfg(feature = "faults")]
pub mod parsers;
mod partition;
mod secret;
mod spill;
mod storage;
mod table;
mod transform;

pub use any::{AnyDestination, AnyPart, AnyTable};
pub use coalesce::{AWAITS, GONE, KEPT, MOVED, change_schema};
pub use error::{Error, Kind, Result, Retry};
pub use guard::is_guarded;
pub use order::{SortKey, sort_keys};
pub use partition::partition_columns;
pub use secret::Secret;
pub use table::{ColumnNote, Commit, Joint, Part, PartName, Stats, TableSpec, Token};

use arrow::array::RecordBatch;
use futures::Stream;
use std::future::Future;

/// A place that holds tables: a directory of Parquet files, an Iceberg catalog, a test.
pub trait Destination: Send + Sync + 'static {
    /// A table of this destination.
    type Table: Table;

    /// Finds out now what would otherwise fail after an hour: credentials, permissions, space to
    /// write. Leaves nothing behind.
    fn check(&self) -> impl Future<Output = Result<()>> + Send;

    /// Opens a table for writing, creating what is needed. Finishes a commit that a dead run had
    /// decided but not completed. Refuses, before anything is written, a table that cannot take
    /// `spec`. Does not remove staged parts: that is [`Table::adopt`]'s work.
    fn open(&self, spec: &TableSpec) -> impl Future<Output = Result<Self::Table>> + Send;

    /// Removes a table with all its files, staged ones included. A table that is not there is fine.
    fn drop_table(&self, database: &str, name: &str) -> impl Future<Output = Result<()>> + Send;
}

/// One open table. Many parts may be staged at once; one commit happens at a time.
///
/// ```
/// use arrow::array::{Int64Array, RecordBatch};
/// use arrow::datatypes::{DataType, Field, Schema};
/// use std::sync::Arc;
/// use writers::{Commit, Destination, PartName, Table, TableSpec, Token, memory::Memory};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> writers::Result<()> {
/// let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
/// let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![1, 2, 3]))]).expect("one column");
///
/// let lake = Memory::new();
/// let spec = TableSpec { database: "shop".into(), name: "orders".into(), schema, ..TableSpec::default() };
/// let mut orders = lake.open(&spec).await?;
///
/// // Nobody sees the part before the commit; the next run would find it with `adopt`.
/// let name = PartName { generation: "load1".into(), sequence: 0 };
/// let part = orders.stage(name, futures::stream::iter([Ok::<_, writers::Error>(batch.clone())])).await?;
/// assert_eq!(lake.rows("shop", "orders"), None);
///
/// orders.commit(vec![part], Token("load1".into()), Commit::Replace).await?;
/// assert_eq!(lake.rows("shop", "orders"), Some(vec![batch]));
/// assert_eq!(orders.committed(), Some(&Token("load1".into())));
/// # Ok(())
/// # }
/// ```
pub trait Table: Send + Sync + 'static {
    /// Staged output. Small: it names files, it does not hold them.
    type Part: Part;

    /// The token that readers can already rely on; `None` for a table never committed.
    fn committed(&self) -> Option<&Token>;

    /// Refuses, before anything is staged, a schema that cannot be added to the rows that are there ([`Commit::Append`]).
    fn check_append(&self) -> Result<()> {
        Ok(())
    }

    /// Drains `batches` into a part that nobody can see. Borrows nothing, so it can be spawned.
    /// Dropping the future abandons the part. Staging the same name again replaces the earlier
    /// part of that name. An empty stream gives a part without rows.
    fn stage<S, E>(&self, name: PartName, batches: S) -> impl Future<Output = Result<Self::Part, E>> + Send + 'static + use<Self, S, E>
    where
        S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
        E: From<Error> + Send + 'static;

    /// Whether [`Table::stage_changes`] works here; if not, why not.
    fn check_changes(&self) -> Result<()> {
        Err(Error::new(Kind::Config, "this destination takes no changes of rows, only new ones"))
    }

    /// Drains changes into a part: each row takes the place of the rows that have its key ([`TableSpec::key`]), in whichever partition they
    /// are, once the part is committed with [`Commit::Append`] (with [`Commit::Replace`], of all rows). The last row of a key counts. Batches have the columns of other batches
    /// and may have two more, in this order: [`GONE`], a row for which it is true only takes away; and [`KEPT`], columns of the row that stay as they are in the row
    /// that has its key, or in the one that it was before its key changed ([`MOVED`]); if it may be absent, [`AWAITS`] says so. Parts of one commit have no key in common.
    /// The statistics of the part are those of the rows that stay.
    fn stage_changes<S, E>(
        &self,
        name: PartName,
        batches: S,
    ) -> impl Future<Output = Result<Self::Part, E>> + Send + 'static + use<Self, S, E>
    where
        S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
        E: From<Error> + Send + 'static,
    {
        drop((name, batches));
        let refused = self.check_changes().err().unwrap_or_else(|| Error::new(Kind::Bug, "changes cannot be staged here"));
        std::future::ready(Err(E::from(refused)))
    }

    /// Of parts remembered from a run that died, keeps those that are still whole, in the order
    /// given (`None` for the others), and removes everything else that is staged for this table.
    fn adopt(&mut self, remembered: Vec<Self::Part>) -> impl Future<Output = Result<Vec<Option<Self::Part>>>> + Send;

    /// Makes `parts` and `token` visible together, or neither. Committing a token that is already
    /// there does nothing. Dropping the future may leave the commit decided but not completed;
    /// then the next [`Destination::open`] completes it.
    fn commit(&mut self, parts: Vec<Self::Part>, token: Token, how: Commit) -> impl Future<Output = Result<()>> + Send;

    /// Whether [`Table::commit_together`] makes several tables visible at one instant. Whoever asks then waits with the commits of a run
    /// until all its tables are staged.
    fn commits_together(&self) -> bool {
        false
    }

    /// [`Table::commit`] of several tables of one destination. The outcomes are in the order of the group. A table that cannot be
    /// committed for a reason of its own is left out. Where [`Table::commits_together`] is false, each is a commit of its own.
    fn commit_together(group: Vec<Joint<'_, Self>>) -> impl Future<Output = Vec<Result<()>>> + Send
    where
        Self: Sized,
    {
        async move {
            let mut outcomes = Vec::with_capacity(group.len());
            for Joint { table, parts, token, how } in group {
                outcomes.push(table.commit(parts, token, how).await);
            }
            outcomes
        }
    }
}
