//! S3 Tables: buckets that hold tables, and an API that keeps each table's metadata location and swaps it if a version token still holds.
//!
//! Speaks the service's own API; its Iceberg REST endpoint is [`super::rest`]'s. The service chooses where a table is, and removes what
//! belongs to none by itself.

use super::http::{Answer, Call, Http};
use super::pointer::{self, created, updated};
use super::sigv4::Signer;
use super::{CommitError, Creation, Loaded, TableName};
use crate::iceberg::io::Files;
use crate::{Error, Kind, Result};
use iceberg::{TableRequirement, TableUpdate};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// A table bucket.
#[derive(Debug)]
pub(crate) struct S3Tables {
    /// Address of the service.
    pub(crate) url: Url,
    /// Signs for `s3tables`.
    pub(crate) signer: Signer,
    /// ARN of the bucket.
    pub(crate) arn: String,
    /// Stores.
    pub(crate) files: Files,
    /// The client.
    pub(crate) http: Http,
}

/// What the service says of a table.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pointer {
    version_token: String,
    /// Missing until the table has been given a first one.
    metadata_location: Option<String>,
    warehouse_location: String,
}

impl S3Tables {
    fn at(&self, segments: &[&str]) -> Result<Url> {
        let mut text = self.url.as_str().trim_end_matches('/').to_owned();
        for segment in segments {
            text.push('/');
            text.extend(utf8_percent_encode(segment, NON_ALPHANUMERIC).map(|part| part.replace("%5F", "_").replace("%2D", "-")));
        }
        Url::parse(&text).map_err(|e| Error::new(Kind::Config, format!("the address {text:?} of S3 Tables is none: {e}")))
    }

    fn table(&self, table: &TableName, rest: &[&str]) -> Result<Url> {
        fit(table)?;
        let segments = ["tables", &self.arn, &table.namespace, &table.name];
        self.at(&segments.into_iter().chain(rest.iter().copied()).collect::<Vec<_>>())
    }

    async fn patient(&self, call: Call) -> Result<Answer> {
        self.http.patient(&call, Some(&self.signer)).await
    }

    pub(super) async fn check(&self) -> Result<()> {
        let answer = self.patient(Call::new(Method::GET, self.at(&["namespaces", &self.arn])?)).await?;
        match answer.status {
            _ if answer.is_ok() => Ok(()),
            404 => Err(failed(&answer, "list namespaces").hint("look at `iceberg_s3_path`: it is the ARN of a table bucket")),
            _ => Err(failed(&answer, "list namespaces")),
        }
    }

    async fn pointer(&self, table: &TableName) -> Result<Option<Pointer>> {
        let answer = self.patient(Call::new(Method::GET, self.table(table, &["metadata-location"])?)).await?;
        match answer.status {
            404 => Ok(None),
            _ if answer.is_ok() => Ok(Some(answer.json()?)),
            _ => Err(failed(&answer, &format!("look at table {table}"))),
        }
    }

    pub(super) async fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        let Some(Pointer { version_token, metadata_location, .. }) = self.pointer(table).await? else { return Ok(None) };
        // A run that died while it made the table has left it so; creating goes on from there.
        let Some(metadata_location) = metadata_location else { return Ok(None) };
        let metadata = pointer::read(&self.files, &metadata_location).await?;
        Ok(Some(Loaded { metadata: Arc::new(metadata), metadata_location, version: Some(version_token), files: self.files.clone() }))
    }

    pub(super) async fn create(&self, table: &TableName, creation: Creation) -> Result<Loaded> {
        let make = async || {
            let url = self.at(&["tables", &self.arn, &table.namespace])?;
            self.patient(Call::new(Method::PUT, url).json(&json!({"name": table.name, "format": "ICEBERG"}))).await
        };
        fit(table)?;
        let mut answer = make().await?;
        if answer.status == 404 {
            let url = self.at(&["namespaces", &self.arn])?;
            let made = self.patient(Call::new(Method::PUT, url).json(&json!({"namespace": [table.namespace]}))).await?;
            if !made.is_ok() && made.status != 409 {
                return Err(failed(&made, &format!("create the namespace {:?}", table.namespace)));
            }
            answer = make().await?;
        }
        if !answer.is_ok() && answer.status != 409 {
            return Err(failed(&answer, "create the table"));
        }
        let pointer = self.pointer(table).await?;
        let pointer = pointer.ok_or_else(|| Error::new(Kind::Conflict, format!("{table} was dropped while it was being made")))?;
        if pointer.metadata_location.is_none() {
            let metadata = created(&table.name, pointer.warehouse_location.trim_end_matches('/'), creation)?;
            let written = pointer::write_next(&self.files, &metadata, None).await?;
            match self.swap(table, &pointer.version_token, &written).await {
                Ok(_) | Err(CommitError::Conflict(_) | CommitError::Unknown(_)) => {}
                Err(CommitError::Failed(error)) => return Err(error),
            }
        }
        let loaded = self.load(table).await?;
        loaded.ok_or_else(|| Error::new(Kind::Conflict, format!("{table} was dropped while it was being made")))
    }

    /// Points at another metadata file, if nobody else has done so meanwhile; gives the new token.
    async fn swap(&self, table: &TableName, token: &str, location: &str) -> Result<Option<String>, CommitError> {
        let url = self.table(table, &["metadata-location"])?;
        let call = Call::new(Method::PUT, url).json(&json!({"metadataLocation": location, "versionToken": token}));
        let answer = self.http.careful(&call, Some(&self.signer)).await.map_err(CommitError::Unknown)?;
        match answer.status {
            _ if answer.is_ok() => Ok(answer.json::<Swapped>().ok().map(|swapped| swapped.version_token)),
            409 => Err(CommitError::Conflict(
                Error::new(Kind::Conflict, format!("table {table} was committed to by somebody else")).transient(),
            )),
            500.. => Err(CommitError::Unknown(failed(&answer, "update the table"))),
            _ => Err(CommitError::Failed(failed(&answer, "update the table"))),
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
        let token = match &base.version {
            Some(token) => token.clone(),
            // The answer to the last commit did not have it.
            None => {
                let gone = || Error::new(Kind::Conflict, format!("table {table} was dropped while it was being written"));
                let pointer = self.pointer(table).await?.ok_or_else(gone)?;
                if pointer.metadata_location.as_deref() != Some(base.metadata_location.as_str()) {
                    let error = Error::new(Kind::Conflict, format!("table {table} was committed to by somebody else"));
                    return Err(CommitError::Conflict(error.transient()));
                }
                pointer.version_token
            }
        };
        let written = pointer::write_next(&self.files, &metadata, Some(&base.metadata_location)).await?;
        match self.swap(table, &token, &written).await {
            Ok(token) => {
                pointer::tidy(&self.files, &base.metadata, &metadata).await;
                Ok(pointer::loaded(base, metadata, written, token))
            }
            Err(CommitError::Unknown(error)) => Err(CommitError::Unknown(error)),
            Err(other) => {
                if let Err(error) = self.files.delete(&[written]).await {
                    tracing::warn!("{error}; a metadata file that is no table's stays behind");
                }
                Err(other)
            }
        }
    }

    pub(super) async fn drop_table(&self, table: &TableName) -> Result<()> {
        let answer = self.patient(Call::new(Method::DELETE, self.table(table, &[])?)).await?;
        if answer.is_ok() || answer.status == 404 { Ok(()) } else { Err(failed(&answer, "delete the table")) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Swapped {
    version_token: String,
}

/// The service takes small names of plain characters only.
fn fit(table: &TableName) -> Result<()> {
    let plain = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') && !name.starts_with('_');
    let fits = |name: &str| (1..=255).contains(&name.len()) && plain(name);
    match [&table.namespace, &table.name].into_iter().find(|name| !fits(name)) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Config,
            format!("{name:?} cannot be a name in S3 Tables, accepted: lower-case letters, digits and _, not first"),
        )
        .hint("give the stream another destination database or table name")),
    }
}

fn failed(answer: &Answer, doing: &str) -> Error {
    let error = answer.error().doing(format!("{doing} in S3 Tables"));
    match answer.status {
        403 => error.hint(
            "allow these credentials s3tables:GetNamespace, ListNamespaces, CreateNamespace, GetTable, CreateTable, GetTableMetadataLocation, UpdateTableMetadataLocation, GetTableData, PutTableData and DeleteTable on the bucket and its tables",
        ),
        _ => error,
    }
}
