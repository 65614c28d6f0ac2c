//! A commit on its way: what the catalog is asked, and what becomes of its answer.
//!
//! The same change is offered again, on whatever the table has become meanwhile, until it is there, until it cannot be, or until
//! patience ends (`commit.retry.*`). An answer that does not say what happened is followed by a look. Several tables may be on their way
//! together: see [`super::together`].

use super::IcebergTable;
use super::catalog::{CommitError, Loaded};
use super::deletes::{KeyIndex, deletion_vectors, position_deletes};
use super::expire::{Expired, references};
use super::snapshot::{BySpec, Change, Gone, Producer, now_ms};
use super::target::Target;
use super::token;
use crate::{Error, Kind, Result, Retry, Token};
use iceberg::spec::{FormatVersion, MAIN_BRANCH, SnapshotReference, SnapshotRetention, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a catalog is asked for.
pub(crate) struct Request {
    /// What has to be so.
    pub(crate) requirements: Vec<TableRequirement>,
    /// What is to be changed then.
    pub(crate) updates: Vec<TableUpdate>,
}

/// A change that is being committed.
pub(super) struct Publication {
    producer: Producer,
    /// Files with keys of rows that are to go by their places.
    keys: Vec<String>,
    /// Without one it is a fence.
    token: Option<Token>,
    /// The table as it was first.
    since: Arc<TableMetadata>,
    begun: Instant,
    attempt: u32,
    /// The snapshot in which the keys were looked for.
    located: Option<Option<i64>>,
    /// What the last request was made for, and what goes with it.
    asked: Option<(Arc<TableMetadata>, Expired)>,
}

impl Publication {
    /// Nothing is asked yet.
    pub(super) fn new(table: &IcebergTable, change: Change, keys: Vec<String>, token: Option<Token>) -> Self {
        Self {
            producer: Producer::new(&table.loaded, &table.target.future, change),
            keys,
            token,
            since: table.loaded.metadata.clone(),
            begun: Instant::now(),
            attempt: 0,
            located: None,
            asked: None,
        }
    }

    /// What to ask for, of the table as it was last seen.
    pub(super) async fn request(&mut self, table: &mut IcebergTable) -> Result<Request> {
        let base = table.loaded.metadata.clone();
        let parent = base.current_snapshot_id();
        if !self.keys.is_empty() && self.located != Some(parent) {
            let name = format!("{}-{}-{}", self.producer.id, self.attempt, table.session.id);
            let (deletes, gone) = locate(table, &self.keys, &name).await?;
            self.producer.take_away(deletes, gone);
            self.located = Some(parent);
        }
        let snapshot = self.producer.snapshot(&table.loaded, &table.target.future, &table.properties).await?;
        let references = references(&base)?;
        let expired = Expired::of(&base, &references, &table.properties, now_ms());
        let (mut updates, mut requirements) = (table.target.updates.clone(), table.target.requirements.clone());
        requirements.push(TableRequirement::UuidMatch { uuid: base.uuid() });
        requirements.push(TableRequirement::RefSnapshotIdMatch { r#ref: MAIN_BRANCH.to_owned(), snapshot_id: parent });
        let properties = match &self.token {
            Some(token) => token::properties(&table.spec.writer, token, self.producer.id),
            None => token::fence_properties(&table.spec.writer, &table.session.id),
        };
        updates.push(TableUpdate::SetProperties { updates: properties });
        updates.push(TableUpdate::AddSnapshot { snapshot });
        let retention = references.get(MAIN_BRANCH).map_or(SnapshotRetention::branch(None, None, None), |main| main.retention.clone());
        let reference = SnapshotReference::new(self.producer.id, retention);
        updates.push(TableUpdate::SetSnapshotRef { ref_name: MAIN_BRANCH.to_owned(), reference });
        updates.extend(expired.updates(&base));
        self.asked = Some((base, expired));
        Ok(Request { requirements, updates })
    }

    /// Takes the answer to the last request: `true` when the change is committed, `false` when it is to be asked for again.
    pub(super) async fn answered(&mut self, table: &mut IcebergTable, outcome: Result<Loaded, CommitError>) -> Result<bool> {
        let (error, doubt) = match outcome {
            Ok(loaded) => {
                self.arrived(table, loaded).await?;
                return Ok(true);
            }
            Err(CommitError::Failed(error)) => {
                self.producer.abandon(&table.loaded).await;
                return Err(error);
            }
            Err(CommitError::Conflict(error)) => (error, false),
            Err(CommitError::Unknown(error)) => (error, true),
        };
        self.attempt += 1;
        let tired = self.attempt > table.properties.retries || self.begun.elapsed() > table.properties.patience;
        tracing::debug!("{}: attempt {} to commit: {error}", table.label, self.attempt);
        tokio::time::sleep(self.pause(table)).await;
        match self.look(table).await {
            Ok(true) => Ok(true),
            Ok(false) if !tired => Ok(false),
            // What may have been committed keeps its manifests.
            Ok(false) if doubt => {
                Err(error.doing("commit, without learning whether it happened").hint("run again: what was committed is found there"))
            }
            Ok(false) => {
                self.producer.abandon(&table.loaded).await;
                let message = format!("others commit to the table all the time; given up after {} attempts: {error}", self.attempt);
                Err(Error::new(Kind::Conflict, message).transient().hint("run again, or raise the table property commit.retry.num-retries"))
            }
            Err(error) if error.retry() == Retry::Again && !tired => {
                tracing::warn!("{error}; trying again");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Loads the table again: `true` if our snapshot is there after all.
    async fn look(&mut self, table: &mut IcebergTable) -> Result<bool> {
        let uuid = table.loaded.metadata.uuid();
        let now = table.catalog.load_to_write(&table.name).await?.filter(|now| now.metadata.uuid() == uuid);
        let now = now.ok_or_else(|| Error::new(Kind::Conflict, "the table was dropped or made again while it was being written"))?;
        if self.is_in(&now) {
            self.arrived(table, now).await?;
            return Ok(true);
        }
        let lost = |message: &str| Err(Error::new(Kind::Conflict, message).hint("let one run at a time write a stream, and run again"));
        if token::fenced(&self.since, &now.metadata, &table.spec.writer, &table.session.id) {
            return lost("another run of the same stream has begun, and has taken this one for dead");
        }
        if self.token.is_some() && token::committed(&now.metadata, &table.spec.writer) != table.committed {
            return lost("another run of the same stream has committed meanwhile");
        }
        let target = Target::of(&now, &table.spec, table.identifiers)?;
        if target.layout != table.target.layout {
            return lost("the table's columns or partitions were changed while it was being written");
        }
        table.target = Arc::new(target);
        table.loaded = now;
        Ok(false)
    }

    /// Whether the change is in a table.
    pub(super) fn is_in(&self, loaded: &Loaded) -> bool {
        loaded.metadata.snapshot_by_id(self.producer.id).is_some()
    }

    async fn arrived(&mut self, table: &mut IcebergTable, loaded: Loaded) -> Result<()> {
        table.loaded = loaded;
        self.producer.tidy(&table.loaded).await;
        table.target = Arc::new(Target::of(&table.loaded, &table.spec, table.identifiers)?);
        table.committed = token::committed(&table.loaded.metadata, &table.spec.writer);
        if let Some((base, expired)) = self.asked.take() {
            expired.clean(&base, &table.loaded).await;
        }
        Ok(())
    }

    /// Longer each time, and not the same for all who wait.
    fn pause(&self, table: &IcebergTable) -> Duration {
        let (least, most) = table.properties.waits;
        let full = least.saturating_mul(1 << self.attempt.min(8)).min(most);
        full.mul_f64(0.5 + 0.5 * f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0)
    }
}

/// Delete files for the rows that have one of these keys, wherever they are now.
async fn locate(table: &mut IcebergTable, keys: &[String], name: &str) -> Result<(BySpec, Gone)> {
    let places = {
        let mut index = table.index.lock().await;
        let mut open = match index.take() {
            Some(open) => open,
            None => KeyIndex::open(&table.index_root, &table.loaded, &table.key()?).await?,
        };
        let places = open.find(&table.loaded, keys).await?;
        *index = Some(open);
        places
    };
    if places.is_empty() {
        return Ok((BySpec::new(), Gone::Nothing));
    }
    tracing::debug!("{}: {} rows in {} files are taken away", table.label, places.rows(), places.files.len());
    let folder = &table.stager.sorter.data;
    match table.loaded.metadata.format_version() {
        FormatVersion::V3 => deletion_vectors(&table.loaded, places, folder, name).await,
        _ => position_deletes(&table.loaded, &places, folder, name, &table.stager.options).await,
    }
}
