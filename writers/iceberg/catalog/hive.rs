//! Tables of a Hive Metastore, as Iceberg's HiveCatalog keeps them: an external table whose parameters name the metadata file.
//!
//! The commit holds the table's exclusive lock while it looks whether the parameter is still what was loaded and changes it; the
//! metastore is told what to expect as well, and newer ones (Hive 4) check that by themselves. The lock is held for two calls, is kept
//! alive while it is waited for, and is given back whatever happens; that of a dead process ends by the metastore's own timeout. Where a call
//! that changes the table is not answered, the table is looked at before the lock is given back. The table property
//! `engine.hive.lock-enabled` = `false` does without locks, for metastores that check. Does not know Thrift: [`client`] does.

mod client;
mod columns;
mod thrift;

use super::pointer::{self, created, updated};
use super::{CommitError, Creation, Loaded, TableName};
use crate::iceberg::io::Files;
use crate::parquet::folders::segment;
use crate::{Error, Kind, Result};
use client::{Client, Failure, Lock};
use columns::columns;
use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thrift::{LIST, STRING, STRUCT, Struct, Value};
use uuid::Uuid;

/// How long a lock is waited for: longer than metastores keep that of a dead process (five minutes).
const LOCK_PATIENCE: Duration = Duration::from_secs(400);
/// How often a lost answer is looked for before the lock is given back.
const LOOKS: u32 = 10;
/// Longest value that all metastores store.
const PARAMETER_BYTES_MAX: usize = 4000;
/// Table property: whether commits lock.
const LOCKS: &str = "engine.hive.lock-enabled";

const LOCATION: &str = "metadata_location";
const PREVIOUS: &str = "previous_metadata_location";

/// A metastore.
#[derive(Debug)]
pub(crate) struct Hive {
    client: Client,
    /// Where databases are put that have to be created; without it, the metastore decides.
    warehouse: Option<String>,
    files: Files,
}

/// Hive's `Table`, by field.
mod field {
    pub(super) const NAME: i16 = 1;
    pub(super) const DATABASE: i16 = 2;
    pub(super) const STORAGE: i16 = 7;
    pub(super) const PARAMETERS: i16 = 9;
}

type Parameters = BTreeMap<String, String>;

fn parameters(table: &Struct) -> Parameters {
    let Some(Value::Map(_, _, pairs)) = table.get(field::PARAMETERS) else { return Parameters::new() };
    let text = |value: &Value| match value {
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    pairs.iter().filter_map(|(key, value)| Some((text(key)?, text(value)?))).collect()
}

/// The parameters of a table with this metadata; `before` what it had, `old` whose metadata that was.
fn describe(before: Parameters, old: Option<&TableMetadata>, new: &TableMetadata, location: &str) -> Parameters {
    let mut after = before;
    for gone in old.into_iter().flat_map(|old| old.properties().keys()).filter(|key| !new.properties().contains_key(*key)) {
        after.remove(gone);
    }
    // Tokens are for us alone, and what is too long would make the whole change fail.
    let told = new.properties().iter().filter(|(key, value)| !key.starts_with("lakeward.") && value.len() <= PARAMETER_BYTES_MAX);
    after.extend(told.map(|(key, value)| (key.clone(), value.clone())));
    let summary = new.current_snapshot().map(|snapshot| &snapshot.summary().additional_properties);
    for (key, name) in [("total-data-files", "numFiles"), ("total-records", "numRows"), ("total-files-size", "totalSize")] {
        if let Some(value) = summary.and_then(|summary| summary.get(key)) {
            after.insert(name.to_owned(), value.clone());
        }
    }
    if let Some(previous) = after.insert(LOCATION.to_owned(), location.to_owned()) {
        after.insert(PREVIOUS.to_owned(), previous);
    }
    after.extend([("table_type", "ICEBERG"), ("EXTERNAL", "TRUE")].map(|(key, value)| (key.to_owned(), value.to_owned())));
    after.insert("uuid".to_owned(), new.uuid().to_string());
    after
}

fn texts(parameters: &Parameters) -> Value {
    Value::texts(parameters.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

impl Hive {
    /// Nothing is connected yet.
    pub(crate) fn new(uri: &str, warehouse: Option<&str>, files: Files) -> Result<Self> {
        let warehouse = warehouse.map(|warehouse| warehouse.trim_end_matches('/').to_owned());
        Ok(Self { client: Client::new(uri)?, warehouse, files })
    }

    pub(super) async fn check(&self) -> Result<()> {
        self.client.get_database("default").await.map_err(Failure::error)?;
        if let Some(warehouse) = &self.warehouse {
            let (storage, path) = self.files.place(warehouse)?;
            storage.below(&path).check_files().await?;
        }
        Ok(())
    }

    pub(super) async fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        let Some(found) = self.get(table).await? else { return Ok(None) };
        let metadata_location = location_of(table, &found)?;
        let metadata = pointer::read(&self.files, &metadata_location).await?;
        Ok(Some(Loaded { metadata: Arc::new(metadata), metadata_location, version: None, files: self.files.clone() }))
    }

    async fn get(&self, table: &TableName) -> Result<Option<Struct>> {
        for name in [&table.namespace, &table.name] {
            // The metastore would make them small letters, and two tables one.
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
                return Err(Error::new(
                    Kind::Config,
                    format!("{name:?} cannot be a name in Hive: found in {table}, accepted: a-z, 0-9 and _"),
                )
                .hint("give the stream another destination database or table name"));
            }
        }
        self.client.get_table(&table.namespace, &table.name).await.map_err(Failure::error)
    }

    pub(super) async fn create(&self, table: &TableName, creation: Creation) -> Result<Loaded> {
        let location = self.new_location(table).await?;
        let metadata = created(&table.name, &location, creation)?;
        let file = pointer::write_next(&self.files, &metadata, None).await?;
        let mut zones = true;
        loop {
            let described = describe(Parameters::new(), None, &metadata, &file);
            match self.client.create_table(new_table(table, &metadata, &described, zones)).await {
                Ok(true) => {
                    return Ok(Loaded { metadata: Arc::new(metadata), metadata_location: file, version: None, files: self.files.clone() });
                }
                // What is refused may be a type that Hive 2 does not know.
                Err(Failure::Thrown(..)) if zones => zones = false,
                done => {
                    let doubt = matches!(done, Err(Failure::Lost(_)));
                    let found = self.load(table).await?;
                    if !doubt && found.as_ref().is_none_or(|found| found.metadata_location != file) {
                        pointer::discard(&self.files, file).await;
                    }
                    let error =
                        done.err().map_or_else(|| Error::new(Kind::Conflict, "it was there, and is not").transient(), Failure::error);
                    return found.ok_or_else(|| error.doing("create the table"));
                }
            }
        }
    }

    /// Where a new table is to be: below its database, in a folder that holds nothing yet.
    async fn new_location(&self, table: &TableName) -> Result<String> {
        let database = match self.client.get_database(&table.namespace).await.map_err(Failure::error)? {
            Some(database) => database,
            None => {
                let mut fields = Struct::new([(1, Value::text(&table.namespace)), (4, Value::texts([]))]);
                if let Some(warehouse) = &self.warehouse {
                    fields.set(3, Value::text(format!("{warehouse}/{}.db", segment(&table.namespace)?)));
                }
                self.client.create_database(fields).await.map_err(|e| e.error().doing("create the database"))?;
                let lost = || Error::new(Kind::Conflict, "the database was created and is not there").transient();
                self.client.get_database(&table.namespace).await.map_err(Failure::error)?.ok_or_else(lost)?
            }
        };
        let folder = match (database.text(3).filter(|uri| !uri.is_empty()), &self.warehouse) {
            (Some(uri), _) => uri.trim_end_matches('/').to_owned(),
            (None, Some(warehouse)) => format!("{warehouse}/{}.db", segment(&table.namespace)?),
            (None, None) => {
                return Err(Error::new(Kind::Config, format!("the database {} has no place in the metastore", table.namespace))
                    .hint("set `iceberg_s3_path`, the folder of new databases"));
            }
        };
        let location = format!("{folder}/{}", segment(&table.name)?);
        let (storage, path) = self.files.place(&format!("{location}/metadata"))?;
        match storage.list(&path).await?.is_empty() {
            true => Ok(location),
            // Of a table that was renamed, or of one that was dropped without its files.
            false => Ok(format!("{location}-{}", Uuid::new_v4().simple())),
        }
    }

    pub(super) async fn commit(
        &self,
        table: &TableName,
        base: &Loaded,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> Result<Loaded, CommitError> {
        let metadata = updated(base, &requirements, updates)?;
        let file = pointer::write_next(&self.files, &metadata, Some(&base.metadata_location)).await?;
        let locks = metadata.properties().get(LOCKS).is_none_or(|value| !value.eq_ignore_ascii_case("false"));
        let swapped = match self.lock(table, locks).await {
            Ok(lock) => {
                let swapped = self.swap(table, base, &metadata, &file).await;
                self.unlock(lock).await;
                swapped
            }
            Err(error) => Err(error),
        };
        match swapped {
            Ok(()) => {
                pointer::tidy(&self.files, &base.metadata, &metadata).await;
                Ok(pointer::loaded(base, metadata, file, None))
            }
            // The file must stay: it may be the current one.
            Err(doubt @ CommitError::Unknown(_)) => Err(doubt),
            Err(failed) => {
                pointer::discard(&self.files, file).await;
                Err(failed)
            }
        }
    }

    /// Waits for the table's lock.
    async fn lock(&self, table: &TableName, wanted: bool) -> Result<Option<i64>, CommitError> {
        if !wanted {
            return Ok(None);
        }
        let failed = |e: Failure| {
            match e.error().doing("lock the table") {
            error if error.retry() == crate::Retry::Again => CommitError::Conflict(error),
            error => CommitError::Failed(error.hint(
                "let the metastore have tables of transactions and locks, or set the table property engine.hive.lock-enabled to false if it is of Hive 4",
            )),
        }
        };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let user = std::env::var("USER").unwrap_or_else(|_| "lakeward".into());
        let (lock, mut state) = self.client.lock(&table.namespace, &table.name, &user, host.trim()).await.map_err(failed)?;
        let begun = Instant::now();
        let mut pause = Duration::from_millis(50);
        while state == Lock::Waiting && begun.elapsed() < LOCK_PATIENCE {
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_secs(5));
            state = match self.client.check_lock(lock).await {
                Ok(state) => state,
                Err(error) => {
                    self.unlock(Some(lock)).await;
                    return Err(failed(error));
                }
            };
        }
        if state == Lock::Acquired {
            return Ok(Some(lock));
        }
        self.unlock(Some(lock)).await;
        let message = format!("{table} is locked by others in the metastore for {} seconds", begun.elapsed().as_secs());
        Err(CommitError::Conflict(Error::new(Kind::Conflict, message).transient()))
    }

    async fn unlock(&self, lock: Option<i64>) {
        if let Some(lock) = lock
            && let Err(error) = self.client.unlock(lock).await
        {
            tracing::warn!("{}; the table's lock ends by the metastore's own timeout", error.error());
        }
    }

    /// Lets the table point to another metadata file. Under its lock.
    async fn swap(&self, table: &TableName, base: &Loaded, metadata: &TableMetadata, file: &str) -> Result<(), CommitError> {
        let conflict = || {
            let message = format!("somebody else has committed to {table} meanwhile");
            CommitError::Conflict(Error::new(Kind::Conflict, message).transient())
        };
        let before = self.get(table).await.map_err(passing)?.ok_or_else(conflict)?;
        if location_of(table, &before)? != base.metadata_location {
            return Err(conflict());
        }
        let described = describe(parameters(&before), Some(&base.metadata), metadata, file);
        let mut same = before.clone();
        same.set(field::PARAMETERS, texts(&described));
        let mut changed = same.clone();
        if base.metadata.current_schema_id() != metadata.current_schema_id()
            && let Some(mut storage) = before.inner(field::STORAGE).cloned()
        {
            let zoned = format!("{:?}", storage.get(1)).contains("with local time zone");
            storage.set(1, columns(metadata.current_schema(), zoned));
            changed.set(field::STORAGE, Value::Struct(storage));
        }
        let expected = [
            ("expected_parameter_key", LOCATION),
            ("expected_parameter_value", base.metadata_location.as_str()),
            ("DO_NOT_UPDATE_STATS", "true"),
        ];
        let mut attempts = vec![same.clone()];
        if changed != same {
            // Metastores refuse some changes of columns; they matter to nobody who reads Iceberg.
            attempts.push(changed);
        }
        let mut refused = None;
        while let Some(next) = attempts.pop() {
            match self.client.alter_table(&table.namespace, &table.name, next, Value::texts(expected)).await {
                Ok(()) => return Ok(()),
                Err(Failure::Apart(error)) => return Err(CommitError::Conflict(error)),
                Err(Failure::Unknown(error)) => return Err(CommitError::Failed(error)),
                Err(Failure::Thrown(_, error)) => {
                    tracing::debug!("{error}");
                    refused = Some((error, false));
                }
                Err(Failure::Lost(error)) => refused = Some((error, true)),
            }
            // It may have been done all the same.
            match self.looked(table, &base.metadata_location, file, refused.as_ref().is_some_and(|refused| refused.1)).await {
                Some(true) => return Ok(()),
                Some(false) => return Err(conflict()),
                None => {}
            }
            if let Some((error, true)) = refused {
                return Err(CommitError::Unknown(error.transient()));
            }
        }
        let bug = || Error::new(Kind::Bug, "nothing was attempted");
        Err(CommitError::Failed(refused.map_or_else(bug, |refused| refused.0).hint("look at the metastore's log")))
    }

    /// What the table points to after an answer that was an error: our file (`true`), somebody else's (`false`), or the old one. An
    /// answer that was `lost` may still come true for a while.
    async fn looked(&self, table: &TableName, old: &str, new: &str, lost: bool) -> Option<bool> {
        for look in 0..if lost { LOOKS } else { 1 } {
            if look > 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            match self.get(table).await.and_then(|found| found.map(|found| location_of(table, &found)).transpose()) {
                Ok(Some(location)) if location == new => return Some(true),
                Ok(Some(location)) if location == old => {}
                Ok(_) => return Some(false),
                Err(error) => tracing::debug!("{error}"),
            }
        }
        None
    }

    pub(super) async fn drop_table(&self, table: &TableName) -> Result<()> {
        let Some(loaded) = self.load(table).await? else { return Ok(()) };
        self.client.drop_table(&table.namespace, &table.name).await.map_err(Failure::error)?;
        pointer::remove(&self.files, self.warehouse.as_deref().unwrap_or_default(), &loaded.metadata).await
    }
}

/// Nothing was changed yet.
fn passing(error: Error) -> CommitError {
    if error.retry() == crate::Retry::Again { CommitError::Conflict(error) } else { CommitError::Failed(error) }
}

/// The metadata file that a table points to.
fn location_of(table: &TableName, found: &Struct) -> Result<String> {
    let parameters = parameters(found);
    if !parameters.get("table_type").is_some_and(|kind| kind.eq_ignore_ascii_case("iceberg")) {
        return Err(Error::new(Kind::Conflict, format!("{table} is there in Hive, and is no Iceberg table"))
            .hint("rename it or drop it, or write the stream to another name"));
    }
    parameters.get(LOCATION).cloned().ok_or_else(|| {
        Error::new(Kind::Corrupt, format!("{table} names no metadata file in the metastore"))
            .hint("set the table's parameter metadata_location to the URI of its newest metadata file")
    })
}

fn new_table(table: &TableName, metadata: &TableMetadata, described: &Parameters, zones: bool) -> Struct {
    let now = i32::try_from(chrono::Utc::now().timestamp()).unwrap_or(i32::MAX);
    let serde = Struct::new([(2, Value::text("org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe")), (3, Value::texts([]))]);
    let storage = Struct::new([
        (1, columns(metadata.current_schema(), zones)),
        (2, Value::text(metadata.location())),
        (3, Value::text("org.apache.hadoop.mapred.FileInputFormat")),
        (4, Value::text("org.apache.hadoop.mapred.FileOutputFormat")),
        (5, Value::Bool(false)),
        (6, Value::I32(0)),
        (7, Value::Struct(serde)),
        (8, Value::List(LIST, STRING, Vec::new())),
        (9, Value::List(LIST, STRUCT, Vec::new())),
        (10, Value::texts([])),
    ]);
    Struct::new([
        (field::NAME, Value::text(&table.name)),
        (field::DATABASE, Value::text(&table.namespace)),
        (3, Value::text(std::env::var("USER").unwrap_or_else(|_| "lakeward".into()))),
        (4, Value::I32(now)),
        (5, Value::I32(now)),
        (6, Value::I32(i32::MAX)),
        (field::STORAGE, Value::Struct(storage)),
        (8, Value::List(LIST, STRUCT, Vec::new())),
        (field::PARAMETERS, texts(described)),
        (12, Value::text("EXTERNAL_TABLE")),
    ])
}

#[cfg(test)]
mod tests;
