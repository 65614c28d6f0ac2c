//! AWS Glue: a table's parameters say which metadata file is the current one, and Glue swaps them only if the table is still the
//! version that was looked at.
//!
//! Speaks Glue's JSON protocol itself. Parameters that others have set stay. Location of new tables: `<database's location>/<table>`, or
//! `<warehouse>/<database>.db/<table>`.

mod columns;

use super::http::{Answer, Call, Http};
use super::pointer::{self, created, updated};
use super::sigv4::Signer;
use super::{CommitError, Creation, Loaded, TableName};
use crate::iceberg::io::Files;
use crate::{Error, Kind, Result, Retry};
use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};
use reqwest::{Method, Url};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Table parameter: which metadata file is the current one.
const LOCATION: &str = "metadata_location";
/// Table parameter: which one was so before.
const PREVIOUS: &str = "previous_metadata_location";
/// Table parameter: what kind of table this is.
const KIND: &str = "table_type";

/// A catalog of Glue.
#[derive(Debug)]
pub(crate) struct Glue {
    /// Address of the service.
    pub(crate) url: Url,
    /// Signs for `glue`.
    pub(crate) signer: Signer,
    /// Catalog id, where it is not that of the account.
    pub(crate) catalog_id: Option<String>,
    /// Warehouse, a URI; it may be missing if every database has a location.
    pub(crate) warehouse: Option<String>,
    /// Database of tables that name none; a check looks at it.
    pub(crate) namespace: String,
    /// Stores.
    pub(crate) files: Files,
    /// The client.
    pub(crate) http: Http,
}

impl Glue {
    /// One call. `once`: it is not sent again while it is unknown what became of it.
    async fn call(&self, action: &str, mut body: Value, once: bool) -> Result<Answer> {
        if let Some(id) = &self.catalog_id {
            body["CatalogId"] = json!(id);
        }
        let call = Call::new(Method::POST, self.url.clone())
            .header("x-amz-target", format!("AWSGlue.{action}"))
            .body("application/x-amz-json-1.1", body.to_string());
        match once {
            true => self.http.careful(&call, Some(&self.signer)).await,
            false => self.http.patient(&call, Some(&self.signer)).await,
        }
    }

    pub(super) async fn check(&self) -> Result<()> {
        let answer = self.call("GetDatabases", json!({"MaxResults": 1}), false).await?;
        if !answer.is_ok() {
            return Err(failed(&answer, "list databases"));
        }
        let place = match self.namespace.is_empty() {
            true => None,
            false => self.database(&self.namespace).await?.flatten(),
        };
        if let Some(uri) = place.as_ref().or(self.warehouse.as_ref()) {
            let (storage, path) = self.files.place(uri)?;
            storage.below(&path).check().await?;
        }
        Ok(())
    }

    /// The location of a database, if it has one; `None` when there is no such database.
    async fn database(&self, name: &str) -> Result<Option<Option<String>>> {
        let answer = self.call("GetDatabase", json!({"Name": name}), false).await?;
        if answer.is_error("EntityNotFoundException") {
            return Ok(None);
        }
        if !answer.is_ok() {
            return Err(failed(&answer, &format!("look at database {name:?}")));
        }
        let body: Value = answer.json()?;
        let uri = body["Database"]["LocationUri"].as_str().map(|uri| uri.trim_end_matches('/')).filter(|uri| !uri.is_empty());
        Ok(Some(uri.map(str::to_owned)))
    }

    /// A table as Glue has it.
    async fn table(&self, table: &TableName) -> Result<Option<Value>> {
        fit(table)?;
        let answer = self.call("GetTable", json!({"DatabaseName": table.namespace, "Name": table.name}), false).await?;
        if answer.is_error("EntityNotFoundException") {
            return Ok(None);
        }
        if !answer.is_ok() {
            return Err(failed(&answer, &format!("look at table {table}")));
        }
        Ok(Some(answer.json::<Value>()?["Table"].take()))
    }

    pub(super) async fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        let Some(entry) = self.table(table).await? else { return Ok(None) };
        let location = current(table, &entry)?.to_owned();
        let metadata = pointer::read(&self.files, &location).await?;
        Ok(Some(self.loaded(metadata, location, &entry)))
    }

    fn loaded(&self, metadata: TableMetadata, metadata_location: String, entry: &Value) -> Loaded {
        let version = entry["VersionId"].as_str().map(str::to_owned);
        Loaded { metadata: Arc::new(metadata), metadata_location, version, files: self.files.clone() }
    }

    pub(super) async fn create(&self, table: &TableName, creation: Creation) -> Result<Loaded> {
        fit(table)?;
        let folder = match self.database(&table.namespace).await? {
            Some(folder) => folder,
            None => {
                let input = json!({"DatabaseInput": {"Name": table.namespace}});
                let answer = self.call("CreateDatabase", input, false).await?;
                if !answer.is_ok() && !answer.is_error("AlreadyExistsException") {
                    return Err(failed(&answer, &format!("create database {:?}", table.namespace)));
                }
                None
            }
        };
        let location = match (folder, &self.warehouse) {
            (Some(folder), _) => format!("{folder}/{}", table.name),
            (None, Some(warehouse)) => format!("{warehouse}/{}.db/{}", table.namespace, table.name),
            (None, None) => {
                return Err(Error::new(Kind::Config, format!("nothing says where the files of {table} are to be"))
                    .hint("set `iceberg_s3_path` to s3://bucket/path, or give the database a location"));
            }
        };
        let metadata = created(&table.name, &location, creation)?;
        let written = pointer::write_next(&self.files, &metadata, None).await?;
        let input = json!({"DatabaseName": table.namespace, "TableInput": input(table, &Value::Null, &metadata, &written, None)});
        let answer = self.call("CreateTable", input, false).await?;
        if answer.is_ok() {
            return Ok(Loaded { metadata: Arc::new(metadata), metadata_location: written, version: None, files: self.files.clone() });
        }
        if answer.is_error("AlreadyExistsException") {
            let loaded = self.load(table).await?;
            let loaded = loaded.ok_or_else(|| failed(&answer, "create the table"))?;
            // It is ours where an answer to the first attempt was lost.
            if loaded.metadata_location != written {
                self.forget(written).await;
            }
            return Ok(loaded);
        }
        if answer.status < 500 {
            self.forget(written).await;
        }
        Err(failed(&answer, "create the table"))
    }

    /// Removes a metadata file that nobody knows of.
    async fn forget(&self, written: String) {
        if let Err(error) = self.files.delete(&[written]).await {
            tracing::warn!("{error}; a metadata file that is no table's stays behind");
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
        let gone = || Error::new(Kind::Conflict, format!("table {table} was dropped while it was being written"));
        // Nothing has been asked for yet: what passes is worth another look.
        let looked = self.table(table).await;
        let looked = looked.map_err(|e| if e.retry() == Retry::Again { CommitError::Unknown(e) } else { CommitError::Failed(e) });
        let entry = looked?.ok_or_else(gone)?;
        if current(table, &entry)? != base.metadata_location {
            return Err(moved_on(table));
        }
        let written = pointer::write_next(&self.files, &metadata, Some(&base.metadata_location)).await?;
        let mut request = json!({
            "DatabaseName": table.namespace,
            "TableInput": input(table, &entry, &metadata, &written, Some(&base.metadata_location)),
            // Each version that Glue archives counts against a quota, and Iceberg keeps its own.
            "SkipArchive": true,
        });
        if let Some(version) = entry["VersionId"].as_str() {
            request["VersionId"] = json!(version);
        }
        let answer = self.call("UpdateTable", request, true).await.map_err(CommitError::Unknown)?;
        if answer.is_ok() {
            pointer::tidy(&self.files, &base.metadata, &metadata).await;
            return Ok(pointer::loaded(base, metadata, written, None));
        }
        if answer.status >= 500 || answer.is_error("OperationTimeoutException") || answer.is_error("InternalServiceException") {
            return Err(CommitError::Unknown(failed(&answer, "update the table")));
        }
        self.forget(written).await;
        if answer.is_error("ConcurrentModificationException") || answer.is_error("VersionMismatchException") {
            return Err(moved_on(table));
        }
        Err(CommitError::Failed(failed(&answer, "update the table")))
    }

    pub(super) async fn drop_table(&self, table: &TableName) -> Result<()> {
        let Some(entry) = self.table(table).await? else { return Ok(()) };
        let location = current(table, &entry)?;
        // The folder is where the metadata says; a table whose metadata is lost is dropped all the same.
        let folder = match pointer::read(&self.files, location).await {
            Ok(metadata) => Some(metadata.location().to_owned()),
            Err(error) => {
                tracing::warn!("{error}; the files of {table} stay");
                None
            }
        };
        let answer = self.call("DeleteTable", json!({"DatabaseName": table.namespace, "Name": table.name}), false).await?;
        if !answer.is_ok() && !answer.is_error("EntityNotFoundException") {
            return Err(failed(&answer, "delete the table"));
        }
        match folder {
            Some(folder) => {
                let (storage, path) = self.files.place(&folder)?;
                storage.remove_folder(&path).await
            }
            None => Ok(()),
        }
    }
}

/// Glue folds names to lower case: two tables would become one.
fn fit(table: &TableName) -> Result<()> {
    let fits = |name: &str| (1..=255).contains(&name.len()) && !name.chars().any(|c| c.is_uppercase() || c.is_control());
    match [&table.namespace, &table.name].into_iter().find(|name| !fits(name)) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Config,
            format!("{name:?} cannot be a name in AWS Glue, accepted: up to 255 bytes without upper-case letters"),
        )
        .hint("give the stream another destination database or table name")),
    }
}

/// The current metadata file of an entry.
fn current<'e>(table: &TableName, entry: &'e Value) -> Result<&'e str> {
    let parameter = |key: &str| entry["Parameters"][key].as_str();
    let kind = parameter(KIND);
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("iceberg")) {
        return Err(Error::new(
            Kind::Config,
            format!("{table} is in AWS Glue, and is no Iceberg table: its parameter {KIND} is {:?}", kind.unwrap_or_default()),
        )
        .hint("drop it there, or give the stream another destination database or table name"));
    }
    parameter(LOCATION).ok_or_else(|| {
        Error::new(Kind::Corrupt, format!("{table} in AWS Glue has no parameter {LOCATION}"))
            .hint("set it to the newest metadata file of the table, or drop the table there")
    })
}

/// What Glue is to keep of a table; `entry` is what it keeps now.
fn input(table: &TableName, entry: &Value, metadata: &TableMetadata, location: &str, previous: Option<&str>) -> Value {
    let mut parameters: Map<String, Value> = entry["Parameters"].as_object().cloned().unwrap_or_default();
    parameters.insert(KIND.to_owned(), json!("ICEBERG"));
    parameters.insert(LOCATION.to_owned(), json!(location));
    if let Some(previous) = previous {
        parameters.insert(PREVIOUS.to_owned(), json!(previous));
    }
    let mut input = json!({
        "Name": table.name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": parameters,
        "StorageDescriptor": {"Columns": columns::columns(metadata), "Location": metadata.location()},
    });
    for kept in ["Description", "Owner", "Retention"] {
        if !entry[kept].is_null() {
            input[kept] = entry[kept].clone();
        }
    }
    input
}

fn moved_on(table: &TableName) -> CommitError {
    CommitError::Conflict(Error::new(Kind::Conflict, format!("table {table} was committed to by somebody else")).transient())
}

/// Glue's errors, with what can be done. Its statuses say little: most are 400.
fn failed(answer: &Answer, doing: &str) -> Error {
    let error = answer.error().doing(format!("{doing} in AWS Glue"));
    match answer.said().0.as_deref() {
        Some("AccessDeniedException") => error.hint(
            "allow these credentials glue:GetDatabase, glue:GetDatabases, glue:CreateDatabase, glue:GetTable, glue:CreateTable, glue:UpdateTable and glue:DeleteTable",
        ),
        Some("UnrecognizedClientException" | "InvalidSignatureException" | "ExpiredTokenException" | "IncompleteSignatureException") => {
            error.hint("look at `aws_access_key` and `aws_secret_key` (or the `glue_` keys), and at this machine's clock")
        }
        _ => error,
    }
}
