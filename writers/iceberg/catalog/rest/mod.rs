//! Catalogs that speak Iceberg's REST protocol: Polaris, Lakekeeper, Nessie, Unity, Gravitino, BigLake, AWS' endpoints and others.
//!
//! The server keeps the metadata, decides commits, of one table or of several, and says how a table's files are reached. Namespaces have
//! one level.

pub(crate) mod auth;
mod client;
mod vended;

use super::http::{Answer, Call, Http};
use super::{CommitError, Creation, Loaded, TableName};
use crate::iceberg::io::Files;
use crate::iceberg::publish::Request;
use crate::storage::{PRIVATE, StoreOptions};
use crate::{Error, Kind, Result};
use auth::Auth;
use bytes::Bytes;
use client::{Client, TableAnswer};
use iceberg::spec::{FormatVersion, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Mutex, OnceCell};
use uuid::Uuid;
use vended::{Grants, Keys, Properties, Vended};

/// A REST catalog.
#[derive(Debug)]
pub(crate) struct Rest {
    client: Arc<Client>,
    /// A namespace that a check tries to work in, if it is there.
    namespace: String,
    /// How stores are reached as far as the configuration says.
    stores: StoreOptions,
    /// Connections to the stores of tables.
    reached: Mutex<HashMap<TableName, Reached>>,
    #[cfg(test)]
    given: Option<Files>,
}

/// What a REST catalog is configured with.
pub(crate) struct RestOptions {
    /// Address: what stands before `/v1/config`.
    pub(crate) url: Url,
    /// Which of the server's catalogs, where it has several.
    pub(crate) warehouse: Option<String>,
    /// Who asks.
    pub(crate) auth: Auth,
    /// Headers of every request.
    pub(crate) headers: Vec<(String, String)>,
    /// Namespace of tables that name none; may be empty.
    pub(crate) namespace: String,
    /// How stores are reached.
    pub(crate) stores: StoreOptions,
}

#[derive(Debug)]
struct Reached {
    shape: Properties,
    vended: Option<Arc<Vended>>,
    files: Files,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct CommitAnswer {
    metadata_location: String,
    metadata: TableMetadata,
}

impl Rest {
    /// Nothing is sent yet.
    pub(crate) fn new(options: RestOptions) -> Result<Self> {
        let RestOptions { url, warehouse, auth, headers, namespace, stores } = options;
        let client = Arc::new(Client { url, warehouse, auth, headers, http: Http::new()?, described: OnceCell::new() });
        Ok(Self {
            client,
            namespace,
            stores,
            reached: Mutex::default(),
            #[cfg(test)]
            given: None,
        })
    }

    /// With stores that misbehave.
    #[cfg(test)]
    pub(crate) fn misbehave(&mut self, files: Files) {
        self.given = Some(files);
    }

    pub(super) async fn check(&self) -> Result<()> {
        let answer = self.client.send(&Call::new(Method::GET, self.client.at(&["namespaces"]).await?), false).await?;
        if !answer.is_ok() {
            return Err(answer.error().doing("list namespaces"));
        }
        if !self.namespace.is_empty() {
            Box::pin(self.rehearse()).await.map_err(|e| e.doing(format!("try to write to the namespace {:?}", self.namespace)))?;
        }
        Ok(())
    }

    /// Has a table prepared that is never made, and writes a file where it would be.
    async fn rehearse(&self) -> Result<()> {
        let name = TableName { namespace: self.namespace.clone(), name: format!("lakeward_check_{}", Uuid::new_v4().simple()) };
        let schema = json!({"type": "struct", "schema-id": 0, "fields": [{"id": 1, "name": "id", "required": false, "type": "long"}]});
        let body = json!({"name": name.name, "schema": schema, "stage-create": true});
        let prepared = match self.client.make(&name.namespace, &body).await? {
            Ok(prepared) => prepared,
            // The namespace is made with the first table, and not every server prepares tables.
            Err(answer) if matches!(answer.status, 404 | 405 | 406 | 501) => return Ok(()),
            Err(answer) if answer.status == 400 && answer.said().1.contains("stage") => return Ok(()),
            Err(answer) => return Err(answer.error()),
        };
        // A server that does not know staging has made the table.
        let made = prepared.metadata_location.is_some() && self.client.load(&name).await?.is_some();
        let loaded = self.loaded(&name, prepared).await?;
        let probe = format!("{}/{PRIVATE}/check", loaded.metadata.location().trim_end_matches('/'));
        let written = loaded.files.put(&probe, Bytes::from_static(b"this file may be removed")).await;
        let removed = loaded.files.delete(&[probe]).await;
        self.reached.lock().await.remove(&name);
        if made {
            self.drop_table(&name).await?;
        }
        written.and(removed)
    }

    pub(super) async fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        match Box::pin(self.client.load(table)).await? {
            Some(answer) => Ok(Some(self.loaded(table, answer).await?)),
            None => Ok(None),
        }
    }

    async fn loaded(&self, table: &TableName, mut answer: TableAnswer) -> Result<Loaded> {
        let grants = answer.grants();
        let files = self.files(table, &answer.metadata, &grants).await?;
        Ok(Loaded {
            metadata: Arc::new(answer.metadata),
            metadata_location: answer.metadata_location.unwrap_or_default(),
            version: None,
            files,
        })
    }

    /// The stores of a table, with the credentials that came with it.
    async fn files(&self, table: &TableName, metadata: &TableMetadata, grants: &Grants) -> Result<Files> {
        #[cfg(test)]
        if let Some(files) = &self.given {
            return Ok(files.clone());
        }
        let described = self.client.described().await?;
        let properties = grants.at(metadata.location());
        let (shape, keys) = (vended::shape(&properties), Keys::of(&properties, metadata.location()));
        let mut reached = self.reached.lock().await;
        if let Some(known) = reached.get(table)
            && known.shape == shape
            && known.vended.is_some() == keys.is_some()
        {
            if let (Some(vended), Some(keys)) = (&known.vended, keys) {
                vended.take(keys).await;
            }
            return Ok(known.files.clone());
        }
        let mut stores = self.stores.clone();
        vended::apply(&mut stores, &described.defaults, false);
        vended::apply(&mut stores, &described.overrides, true);
        vended::apply(&mut stores, &properties, true);
        let vended = keys.map(|keys| {
            let location = metadata.location().to_owned();
            Arc::new(Vended::new(self.client.clone(), table.clone(), location, &properties, keys))
        });
        if let Some(vended) = &vended {
            vended.give(&mut stores).await;
        } else if properties.get("s3.remote-signing-enabled").is_some_and(|text| text == "true") {
            tracing::warn!(
                "the catalog wants to sign each request to the store of {table}, which is not built: the configured keys are used"
            );
        }
        let files = Files::new(stores);
        reached.insert(table.clone(), Reached { shape, vended, files: files.clone() });
        Ok(files)
    }

    pub(super) async fn create(&self, table: &TableName, creation: Creation) -> Result<Loaded> {
        let Creation { schema, mut properties, format_version } = creation;
        let version = if format_version == FormatVersion::V3 { "3" } else { "2" };
        properties.insert("format-version".to_owned(), version.to_owned());
        let body = json!({"name": table.name, "schema": schema, "properties": properties, "stage-create": false});
        let mut answer = self.client.make(&table.namespace, &body).await?;
        if let Err(refused) = &answer
            && refused.status == 404
        {
            self.create_namespace(&table.namespace).await?;
            answer = self.client.make(&table.namespace, &body).await?;
        }
        match answer {
            Ok(made) => self.loaded(table, made).await,
            // Somebody else was faster, or an answer to the first attempt was lost.
            Err(refused) if refused.status == 409 => self.load(table).await?.ok_or_else(|| {
                refused.error().doing("create the table").hint("a view, or what is left of a table that was dropped, has this name")
            }),
            Err(refused) => Err(refused.error().doing("create the table")),
        }
    }

    async fn create_namespace(&self, namespace: &str) -> Result<()> {
        let url = self.client.at(&["namespaces"]).await?;
        let body = json!({"namespace": [namespace], "properties": {}});
        let answer = self.client.send(&Call::new(Method::POST, url).json(&body), false).await?;
        if answer.is_ok() || answer.status == 409 {
            return Ok(());
        }
        Err(answer.error().doing(format!("create the namespace {namespace:?}")).hint("create it by hand, or allow it"))
    }

    pub(super) async fn commit(
        &self,
        table: &TableName,
        base: &Loaded,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> Result<Loaded, CommitError> {
        let body = change(table, &requirements, &updates);
        let call = Call::new(Method::POST, self.client.table(table).await?).json(&body);
        let answer = Box::pin(self.client.send(&call, true)).await.map_err(CommitError::Unknown)?;
        if !answer.is_ok() {
            return Err(refused(&answer));
        }
        // It happened; but without its metadata nothing can follow it.
        let CommitAnswer { metadata_location, metadata } = answer.json().map_err(CommitError::Unknown)?;
        Ok(Loaded { metadata: Arc::new(metadata), metadata_location, version: None, files: base.files.clone() })
    }

    /// As far as the server has said what it offers.
    pub(super) fn commits_together(&self) -> bool {
        self.client.described.get().is_some_and(|described| described.offers("POST /v1/{prefix}/transactions/commit"))
    }

    /// "commitTransaction": the answer has no body.
    pub(super) async fn commit_together(&self, requests: Vec<(TableName, Request)>) -> Result<(), CommitError> {
        let changes: Vec<_> = requests.iter().map(|(table, request)| change(table, &request.requirements, &request.updates)).collect();
        let call = Call::new(Method::POST, self.client.at(&["transactions", "commit"]).await?).json(&json!({"table-changes": changes}));
        let answer = Box::pin(self.client.send(&call, true)).await.map_err(CommitError::Unknown)?;
        if answer.is_ok() { Ok(()) } else { Err(refused(&answer)) }
    }

    pub(super) async fn drop_table(&self, table: &TableName) -> Result<()> {
        // Without it nobody would know where its staged files are.
        let Some(loaded) = self.load(table).await? else { return Ok(()) };
        let mut url = self.client.table(table).await?;
        let mut purge = async |purge: &str| {
            url.set_query(Some(&format!("purgeRequested={purge}")));
            self.client.send(&Call::new(Method::DELETE, url.clone()), false).await
        };
        let mut answer = purge("true").await?;
        // Servers may keep purging to themselves, or not know it.
        if matches!(answer.status, 400 | 403 | 405 | 406 | 501) {
            answer = purge("false").await?;
        }
        if !answer.is_ok() && answer.status != 404 {
            return Err(answer.error());
        }
        // What no snapshot names, the server does not know; and it may purge later than now, or not at all.
        let location = loaded.metadata.location();
        let removed = match loaded.files.place(location) {
            Ok((storage, path)) => storage.remove_folder(&path).await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!("{error}; what the catalog does not remove of {table} stays at {location}");
        }
        self.reached.lock().await.remove(table);
        Ok(())
    }
}

/// What is asked for of one table.
fn change(table: &TableName, requirements: &[TableRequirement], updates: &[TableUpdate]) -> Value {
    let identifier = json!({"namespace": [table.namespace], "name": table.name});
    json!({"identifier": identifier, "requirements": requirements, "updates": updates})
}

/// Why a commit did not happen, or may not have.
fn refused(answer: &Answer) -> CommitError {
    let error = answer.error();
    match answer.status {
        409 => CommitError::Conflict(Error::new(Kind::Conflict, error.to_string()).transient()),
        408 | 500 | 502..=504 => CommitError::Unknown(error),
        _ => CommitError::Failed(error),
    }
}
