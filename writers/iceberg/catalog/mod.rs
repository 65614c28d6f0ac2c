//! Catalogs: who knows which metadata file of a table is the current one.
//!
//! Each kind of catalog is a file here. Those that only keep a pointer to a metadata file (all but REST) share [`pointer`]: it writes the
//! file, the catalog swaps the pointer. Promises: a commit happens as a whole or not at all; who lost a race is told
//! ([`CommitError::Conflict`]), and so is who cannot know ([`CommitError::Unknown`]). Does not know what a commit contains.

mod clock;
pub(crate) mod filesystem;
pub(crate) mod glue;
pub(crate) mod google;
pub(crate) mod hive;
pub(crate) mod http;
pub(crate) mod pointer;
pub(crate) mod rest;
pub(crate) mod s3tables;
pub(crate) mod sigv4;
pub(crate) mod sql;

use super::io::Files;
use super::publish::Request;
use crate::{Error, Kind, Result, Retry, faults};
use filesystem::Filesystem;
use glue::Glue;
use hive::Hive;
use iceberg::spec::{FormatVersion, Schema, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};
use rest::Rest;
use s3tables::S3Tables;
use sql::Sql;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Which table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TableName {
    /// Its namespace, of one level.
    pub(crate) namespace: String,
    /// Its name there.
    pub(crate) name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.name)
    }
}

/// A table as the catalog has it now.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// Its metadata.
    pub(crate) metadata: Arc<TableMetadata>,
    /// Where that metadata is stored.
    pub(crate) metadata_location: String,
    /// The catalog's own mark of this version, where it has one beside the location.
    pub(crate) version: Option<String>,
    /// Stores that the table's files can be reached on, with the credentials that the catalog gave for it, if it did.
    pub(crate) files: Files,
}

/// A table to be created: unpartitioned and unsorted; what else it is to be comes with its first commit.
#[derive(Clone, Debug)]
pub(crate) struct Creation {
    /// Its columns; the catalog gives them ids of its own.
    pub(crate) schema: Schema,
    /// Table properties.
    pub(crate) properties: HashMap<String, String>,
    /// Format version, 2 or 3.
    pub(crate) format_version: FormatVersion,
}

/// Why a commit did not happen, or may not have.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// The table has moved on since it was loaded. Load it and try again.
    Conflict(Error),
    /// The catalog did not say (timeout, connection lost, 5xx). Load the table and look.
    Unknown(Error),
    /// It did not happen, and trying again gives the same answer.
    Failed(Error),
}

impl CommitError {
    /// The error of a catalog that could not be asked; what it knows cannot be told if that may pass.
    fn before(error: Error) -> Self {
        if error.retry() == Retry::Again { Self::Unknown(error) } else { Self::Failed(error) }
    }
}

impl From<Error> for CommitError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A catalog of any kind.
#[derive(Clone, Debug)]
pub(crate) enum Catalog {
    /// Folders, as Hadoop's catalog lays them out.
    Filesystem(Arc<Filesystem>),
    /// A Hive Metastore.
    Hive(Arc<Hive>),
    /// Rows of a database.
    Sql(Arc<Sql>),
    /// AWS Glue.
    Glue(Arc<Glue>),
    /// A server that speaks Iceberg's REST protocol.
    Rest(Arc<Rest>),
    /// A table bucket of S3, by its own API.
    S3Tables(Arc<S3Tables>),
}

impl Catalog {
    /// Finds out now what would otherwise fail after an hour. Leaves nothing behind.
    pub(crate) async fn check(&self) -> Result<()> {
        match self {
            Self::Filesystem(catalog) => catalog.check().await,
            Self::Hive(catalog) => catalog.check().await,
            Self::Sql(catalog) => catalog.check().await,
            Self::Glue(catalog) => Box::pin(catalog.check()).await,
            Self::Rest(catalog) => Box::pin(catalog.check()).await,
            Self::S3Tables(catalog) => Box::pin(catalog.check()).await,
        }
    }

    /// The table as it is now; `None` when there is none.
    pub(crate) async fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        faults::reach("catalog.load").await?;
        match self {
            Self::Filesystem(catalog) => catalog.load(table).await,
            Self::Hive(catalog) => catalog.load(table).await,
            Self::Sql(catalog) => catalog.load(table).await,
            Self::Glue(catalog) => Box::pin(catalog.load(table)).await,
            Self::Rest(catalog) => Box::pin(catalog.load(table)).await,
            Self::S3Tables(catalog) => Box::pin(catalog.load(table)).await,
        }
    }

    /// [`Catalog::load`], for who writes it: what readers go by is the newest from then on.
    pub(crate) async fn load_to_write(&self, table: &TableName) -> Result<Option<Loaded>> {
        match self {
            Self::Filesystem(catalog) => {
                faults::reach("catalog.load").await?;
                catalog.load_to_write(table).await
            }
            _ => self.load(table).await,
        }
    }

    /// Creates a table, and its namespace where that is missing. A table that somebody else has created meanwhile is given instead.
    pub(crate) async fn create(&self, table: &TableName, creation: Creation) -> Result<Loaded> {
        faults::reach("catalog.create").await?;
        let created = match self {
            Self::Filesystem(catalog) => catalog.create(table, creation).await,
            Self::Hive(catalog) => catalog.create(table, creation).await,
            Self::Sql(catalog) => catalog.create(table, creation).await,
            Self::Glue(catalog) => Box::pin(catalog.create(table, creation)).await,
            Self::Rest(catalog) => Box::pin(catalog.create(table, creation)).await,
            Self::S3Tables(catalog) => Box::pin(catalog.create(table, creation)).await,
        }?;
        faults::reach("catalog.create.done").await?;
        Ok(created)
    }

    /// Changes the table if it is still `base` and meets the requirements; gives what it is then.
    pub(crate) async fn commit(
        &self,
        table: &TableName,
        base: &Loaded,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> Result<Loaded, CommitError> {
        faults::reach("catalog.commit").await.map_err(CommitError::before)?;
        let committed = match self {
            Self::Filesystem(catalog) => catalog.commit(table, base, requirements, updates).await,
            Self::Hive(catalog) => catalog.commit(table, base, requirements, updates).await,
            Self::Sql(catalog) => catalog.commit(table, base, requirements, updates).await,
            Self::Glue(catalog) => Box::pin(catalog.commit(table, base, requirements, updates)).await,
            Self::Rest(catalog) => Box::pin(catalog.commit(table, base, requirements, updates)).await,
            Self::S3Tables(catalog) => Box::pin(catalog.commit(table, base, requirements, updates)).await,
        }?;
        faults::reach("catalog.commit.done").await.map_err(CommitError::Unknown)?;
        Ok(committed)
    }

    /// Whether [`Catalog::commit_together`] is offered; known once a table has been loaded.
    pub(crate) fn commits_together(&self) -> bool {
        matches!(self, Self::Rest(catalog) if catalog.commits_together())
    }

    /// Changes all of these tables if each meets its requirements, or none.
    pub(crate) async fn commit_together(&self, requests: Vec<(TableName, Request)>) -> Result<(), CommitError> {
        faults::reach("catalog.commit_together").await.map_err(CommitError::before)?;
        match self {
            Self::Rest(catalog) => Box::pin(catalog.commit_together(requests)).await,
            _ => Err(Error::new(Kind::Config, "this kind of catalog commits each table by itself").into()),
        }?;
        faults::reach("catalog.commit_together.done").await.map_err(CommitError::Unknown)
    }

    /// Forgets a table and removes its files; one that is not there is fine.
    pub(crate) async fn drop_table(&self, table: &TableName) -> Result<()> {
        faults::reach("catalog.drop").await?;
        match self {
            Self::Filesystem(catalog) => catalog.drop_table(table).await,
            Self::Hive(catalog) => catalog.drop_table(table).await,
            Self::Sql(catalog) => catalog.drop_table(table).await,
            Self::Glue(catalog) => Box::pin(catalog.drop_table(table)).await,
            Self::Rest(catalog) => Box::pin(catalog.drop_table(table)).await,
            Self::S3Tables(catalog) => Box::pin(catalog.drop_table(table)).await,
        }?;
        faults::reach("catalog.drop.done").await
    }
}

#[cfg(test)]
mod glue_tests;
#[cfg(test)]
pub(crate) mod harness;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod rest_tests;
#[cfg(test)]
mod together_tests;
