//! Tables as rows of a database: `iceberg_tables` and `iceberg_namespace_properties`, as Iceberg's JdbcCatalog and PyIceberg's SqlCatalog
//! have them, so that all of them can use one catalog at the same time.
//!
//! The commit is one `UPDATE` that changes the row only if it still points to the metadata file that was loaded. The tables are created
//! in their newest form (V1, with a column `iceberg_type`) if they are not there; older ones (V0) are used as they are and never changed.
//! Does not know how a database is reached: [`Sqlite`] and [`Postgres`] do.

mod postgres;
mod sqlite;
mod tls;
mod url;

use super::pointer::{self, created, updated};
use super::{CommitError, Creation, Loaded, TableName};
use crate::iceberg::io::Files;
use crate::parquet::folders::segment;
use crate::{Error, Kind, Result};
use iceberg::{TableRequirement, TableUpdate};
use postgres::Postgres;
use sqlite::Sqlite;
use std::sync::{Arc, OnceLock};
pub(crate) use url::Url;
use uuid::Uuid;

/// What the catalog's tables are made with, and whether somebody else made them meanwhile does not matter.
const TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS iceberg_tables (catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL, \
     table_name VARCHAR(255) NOT NULL, metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000), \
     iceberg_type VARCHAR(5), PRIMARY KEY (catalog_name, table_namespace, table_name))",
    "CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (catalog_name VARCHAR(255) NOT NULL, namespace VARCHAR(255) NOT NULL, \
     property_key VARCHAR(255) NOT NULL, property_value VARCHAR(1000), PRIMARY KEY (catalog_name, namespace, property_key))",
];

/// One row of `iceberg_tables`.
const ROW: &str = "catalog_name = $1 AND table_namespace = $2 AND table_name = $3";

/// A catalog in a database.
#[derive(Debug)]
pub(crate) struct Sql {
    database: Database,
    /// Which catalog of the database.
    name: String,
    /// URI, without a slash at its end.
    warehouse: String,
    files: Files,
    /// Whether `iceberg_tables` has the column `iceberg_type`; not known as long as there is no such table.
    typed: OnceLock<bool>,
}

#[derive(Debug)]
enum Database {
    Sqlite(Sqlite),
    Postgres(Box<Postgres>),
}

/// Rows of texts.
type Rows = Vec<Vec<Option<String>>>;

/// Why a statement has not done what it should.
#[derive(Debug)]
enum Failure {
    /// There is a row with this key.
    Taken(Error),
    /// Others were in the way. It did not happen, and may if it is tried again.
    Busy(Error),
    /// The database did not say.
    Lost(Error),
    /// It did not happen, and trying again gives the same answer.
    Refused(Error),
}

impl Failure {
    fn error(self) -> Error {
        match self {
            Self::Taken(error) | Self::Refused(error) => error,
            Self::Busy(error) | Self::Lost(error) => error.transient(),
        }
    }
}

impl Database {
    /// Runs one statement; gives the number of rows that it changed. Parameters `$1`, `$2`, … stand in this order in it.
    async fn execute(&self, sql: &str, params: &[&str]) -> Result<u64, Failure> {
        match self {
            Self::Sqlite(database) => database.execute(sql, params).await,
            Self::Postgres(database) => database.execute(sql, params).await,
        }
    }

    async fn query(&self, sql: &str, params: &[&str]) -> Result<Rows, Failure> {
        match self {
            Self::Sqlite(database) => database.query(sql, params).await,
            Self::Postgres(database) => database.query(sql, params).await,
        }
    }

    /// Names of a table's columns; none when there is no such table.
    async fn columns(&self, table: &str) -> Result<Vec<String>, Failure> {
        let sql = match self {
            Self::Sqlite(_) => "SELECT name FROM pragma_table_info($1)",
            Self::Postgres(_) => {
                "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"
            }
        };
        Ok(self.query(sql, &[table]).await?.into_iter().flatten().flatten().collect())
    }

    /// Tries what commits will do, and undoes it.
    async fn trial(&self, statements: &[String]) -> Result<(), Failure> {
        match self {
            Self::Sqlite(database) => database.trial(statements).await,
            Self::Postgres(database) => database.trial(statements).await,
        }
    }
}

impl Sql {
    /// Nothing is looked at yet.
    pub(crate) fn new(url: Url, name: &str, warehouse: &str, files: Files) -> Result<Self> {
        let database = match url {
            Url::Sqlite(file) => Database::Sqlite(Sqlite::new(file)),
            Url::Postgres(server) => Database::Postgres(Box::new(Postgres::new(*server)?)),
        };
        Ok(Self { database, name: name.to_owned(), warehouse: warehouse.trim_end_matches('/').to_owned(), files, typed: OnceLock::new() })
    }

    pub(super) async fn check(&self) -> Result<()> {
        let mut statements: Vec<String> = TABLES.map(str::to_owned).into();
        statements.push("UPDATE iceberg_tables SET metadata_location = metadata_location WHERE 1 = 0".into());
        statements.push("DELETE FROM iceberg_tables WHERE 1 = 0".into());
        statements.push(
            "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) \
             SELECT catalog_name, namespace, property_key, property_value FROM iceberg_namespace_properties WHERE 1 = 0"
                .into(),
        );
        self.database.trial(&statements).await.map_err(|e| e.error().doing("try the catalog's tables"))?;
        let (storage, path) = self.files.place(&self.warehouse)?;
        storage.below(&path).check_files().await
    }

    /// Whether `iceberg_tables` has types; `None` when there is no such table.
    async fn typed(&self) -> Result<Option<bool>> {
        if let Some(typed) = self.typed.get() {
            return Ok(Some(*typed));
        }
        let columns = self.database.columns("iceberg_tables").await.map_err(Failure::error)?;
        if columns.is_empty() {
            return Ok(None);
        }
        let typed = columns.iter().any(|column| column == "iceberg_type");
        Ok(Some(*self.typed.get_or_init(|| typed)))
    }

    /// The tables of the catalog, made if need be; gives whether they have types.
    async fn prepare(&self) -> Result<bool> {
        let properties = self.database.columns("iceberg_namespace_properties").await.map_err(Failure::error)?;
        if let (Some(typed), false) = (self.typed().await?, properties.is_empty()) {
            return Ok(typed);
        }
        for sql in TABLES {
            match self.database.execute(sql, &[]).await {
                // Two at once: PostgreSQL tells one of them that it exists.
                Ok(_) | Err(Failure::Taken(_)) => {}
                Err(other) => return Err(other.error().doing("create the catalog's tables")),
            }
        }
        let missing = || Error::new(Kind::Storage, "the table iceberg_tables was created and is not there");
        self.typed().await?.ok_or_else(missing)
    }

    pub(super) async fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        let Some(metadata_location) = self.pointer(table).await? else { return Ok(None) };
        let metadata = pointer::read(&self.files, &metadata_location).await?;
        Ok(Some(Loaded { metadata: Arc::new(metadata), metadata_location, version: None, files: self.files.clone() }))
    }

    /// The metadata file that is the current one.
    async fn pointer(&self, table: &TableName) -> Result<Option<String>> {
        let Some(typed) = self.typed().await? else { return Ok(None) };
        let kind = if typed { "iceberg_type" } else { "NULL" };
        let sql = format!("SELECT metadata_location, {kind} FROM iceberg_tables WHERE {ROW}");
        let rows = self.database.query(&sql, &[&self.name, &table.namespace, &table.name]).await.map_err(Failure::error)?;
        match rows.into_iter().next().as_deref() {
            None => Ok(None),
            Some([_, Some(kind)]) if kind != "TABLE" => {
                Err(Error::new(Kind::Conflict, format!("{table} is not a table in this catalog, but of type {kind}"))
                    .hint("rename it or drop it, or write the stream to another name"))
            }
            Some([Some(location), _]) => Ok(Some(location.clone())),
            Some(_) => Err(Error::new(Kind::Corrupt, format!("the catalog's row of {table} has no metadata_location"))
                .hint("write the URI of its newest metadata file into iceberg_tables, or delete the row")),
        }
    }

    pub(super) async fn create(&self, table: &TableName, creation: Creation) -> Result<Loaded> {
        let typed = self.prepare().await?;
        self.create_namespace(&table.namespace).await?;
        let metadata = created(&table.name, &self.new_location(table).await?, creation)?;
        let location = pointer::write_next(&self.files, &metadata, None).await?;
        let (column, value) = if typed { (", iceberg_type", ", 'TABLE'") } else { ("", "") };
        let sql = format!(
            "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, \
             previous_metadata_location{column}) VALUES ($1, $2, $3, $4, NULL{value})"
        );
        match self.database.execute(&sql, &[&self.name, &table.namespace, &table.name, &location]).await {
            Ok(_) => Ok(Loaded { metadata: Arc::new(metadata), metadata_location: location, version: None, files: self.files.clone() }),
            // Somebody else has, or this did without being told.
            Err(failure) => {
                let doubt = matches!(failure, Failure::Lost(_));
                let found = self.load(table).await?;
                if !doubt && found.as_ref().is_none_or(|found| found.metadata_location != location) {
                    pointer::discard(&self.files, location).await;
                }
                found.ok_or_else(|| failure.error().doing("create the table"))
            }
        }
    }

    async fn create_namespace(&self, namespace: &str) -> Result<()> {
        let sql = "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) \
                   SELECT $1, $2, 'exists', 'true' WHERE NOT EXISTS \
                   (SELECT 1 FROM iceberg_namespace_properties WHERE catalog_name = $3 AND namespace = $4)";
        match self.database.execute(sql, &[&self.name, namespace, &self.name, namespace]).await {
            Ok(_) | Err(Failure::Taken(_)) => Ok(()),
            Err(failure) => Err(failure.error().doing(format!("create the namespace {namespace}"))),
        }
    }

    /// Where a new table is to be: where its namespace says, else in the warehouse; in no folder that another table of the database has,
    /// which it may have taken along when it was renamed.
    async fn new_location(&self, table: &TableName) -> Result<String> {
        let sql = "SELECT property_value FROM iceberg_namespace_properties WHERE catalog_name = $1 AND namespace = $2 \
                   AND property_key = 'location'";
        let rows = self.database.query(sql, &[&self.name, &table.namespace]).await.map_err(Failure::error)?;
        let folder = match rows.into_iter().flatten().flatten().next() {
            Some(folder) => folder.trim_end_matches('/').to_owned(),
            None => format!("{}/{}", self.warehouse, segment(&table.namespace)?),
        };
        let location = format!("{folder}/{}", segment(&table.name)?);
        match self.is_used(&location).await? {
            false => Ok(location),
            true => Ok(format!("{location}-{}", Uuid::new_v4().simple())),
        }
    }

    /// Whether a table has its metadata below `location`.
    async fn is_used(&self, location: &str) -> Result<bool> {
        let below = format!("{}/", location.trim_end_matches('/'));
        let sql = "SELECT table_name FROM iceberg_tables WHERE substr(metadata_location, 1, length($1)) = $2 LIMIT 1";
        Ok(!self.database.query(sql, &[&below, &below]).await.map_err(Failure::error)?.is_empty())
    }

    pub(super) async fn commit(
        &self,
        table: &TableName,
        base: &Loaded,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> Result<Loaded, CommitError> {
        let metadata = updated(base, &requirements, updates)?;
        let location = pointer::write_next(&self.files, &metadata, Some(&base.metadata_location)).await?;
        let old = &base.metadata_location;
        let sql = "UPDATE iceberg_tables SET metadata_location = $1, previous_metadata_location = $2 \
                   WHERE catalog_name = $3 AND table_namespace = $4 AND table_name = $5 AND metadata_location = $6";
        let params = [&location, old, &self.name, &table.namespace, &table.name, old].map(String::as_str);
        let failed = match self.database.execute(sql, &params).await {
            Ok(1..) => {
                pointer::tidy(&self.files, &base.metadata, &metadata).await;
                return Ok(pointer::loaded(base, metadata, location, None));
            }
            Ok(0) => {
                CommitError::Conflict(Error::new(Kind::Conflict, format!("somebody else has committed to {table} meanwhile")).transient())
            }
            Err(Failure::Busy(error)) => CommitError::Conflict(error.transient()),
            // The file must stay: it may be the current one.
            Err(Failure::Lost(error)) => return Err(CommitError::Unknown(error.transient())),
            Err(Failure::Taken(error) | Failure::Refused(error)) => CommitError::Failed(error),
        };
        pointer::discard(&self.files, location).await;
        Err(failed)
    }

    pub(super) async fn drop_table(&self, table: &TableName) -> Result<()> {
        let Some(loaded) = self.load(table).await? else { return Ok(()) };
        let sql = format!("DELETE FROM iceberg_tables WHERE {ROW}");
        self.database.execute(&sql, &[&self.name, &table.namespace, &table.name]).await.map_err(Failure::error)?;
        if self.is_used(loaded.metadata.location()).await? {
            tracing::warn!("{} holds another table too: its files stay", loaded.metadata.location());
            return Ok(());
        }
        pointer::remove(&self.files, &self.warehouse, &loaded.metadata).await
    }
}

#[cfg(test)]
mod tests;
