//! One REST catalog as its clients see it: what it says of itself, its addresses, requests that are admitted.

use super::auth::Auth;
use super::vended::{Grants, Properties, StorageCredential};
use crate::iceberg::catalog::TableName;
use crate::iceberg::catalog::http::{Answer, Call, Http};
use crate::{Error, Kind, Result};
use iceberg::spec::TableMetadata;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OnceCell;

/// What stands for itself within a path (RFC 3986, "unreserved").
const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Asks for credentials of a table's store.
const DELEGATION: (&str, &str) = ("x-iceberg-access-delegation", "vended-credentials");

/// A connection to a catalog.
#[derive(Debug)]
pub(crate) struct Client {
    /// Address, without a slash at its end.
    pub(crate) url: Url,
    /// Which of the server's catalogs.
    pub(crate) warehouse: Option<String>,
    /// Who asks.
    pub(crate) auth: Auth,
    /// What every request carries beside that.
    pub(crate) headers: Vec<(String, String)>,
    /// The client.
    pub(crate) http: Http,
    /// What the server said of itself.
    pub(crate) described: OnceCell<Described>,
}

/// What a server says of itself: `GET /v1/config`.
#[derive(Debug, Default)]
pub(crate) struct Described {
    base: String,
    /// What holds where nobody says anything else.
    pub(super) defaults: Properties,
    /// What holds whatever anybody else says.
    pub(super) overrides: Properties,
    endpoints: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ConfigAnswer {
    #[serde(default)]
    defaults: Properties,
    #[serde(default)]
    overrides: Properties,
    endpoints: Option<Vec<String>>,
}

/// A table as a server describes it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TableAnswer {
    /// Absent for a table that is only being made.
    pub(super) metadata_location: Option<String>,
    /// Its metadata.
    pub(super) metadata: TableMetadata,
    config: Option<Properties>,
    storage_credentials: Option<Vec<StorageCredential>>,
}

impl TableAnswer {
    /// How its store is reached.
    pub(super) fn grants(&mut self) -> Grants {
        Grants { config: self.config.take().unwrap_or_default(), credentials: self.storage_credentials.take().unwrap_or_default() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct CredentialsAnswer {
    storage_credentials: Vec<StorageCredential>,
}

impl Described {
    /// Whether the server has said that it offers this, or says nothing of what it offers.
    pub(super) fn may(&self, endpoint: &str) -> bool {
        self.endpoints.as_ref().is_none_or(|all| all.iter().any(|one| one == endpoint))
    }

    /// Whether the server has said that it offers this.
    pub(super) fn offers(&self, endpoint: &str) -> bool {
        self.endpoints.is_some() && self.may(endpoint)
    }
}

impl Client {
    /// What the server says of itself; it is asked once.
    pub(super) async fn described(&self) -> Result<&Described> {
        self.described.get_or_try_init(|| async { Box::pin(self.describe()).await.map_err(|e| e.doing(format!("ask {}", self.url))) }).await
    }

    async fn describe(&self) -> Result<Described> {
        let mut url = self.address(&format!("{}/v1/config", self.url.as_str().trim_end_matches('/')))?;
        if let Some(warehouse) = &self.warehouse {
            url.query_pairs_mut().append_pair("warehouse", warehouse);
        }
        let answer = self.send(&Call::new(Method::GET, url), false).await?;
        let said: ConfigAnswer = match answer.status {
            _ if answer.is_ok() => {
                answer.json().map_err(|e| e.hint("look at `rest_catalog_url`: what answers there is no Iceberg REST catalog"))?
            }
            404 if answer.said().0.is_none() => {
                return Err(answer.error().hint("look at `rest_catalog_url`: it is the part before /v1/config"));
            }
            400 | 404 => return Err(answer.error().hint("look at `iceberg_s3_path`: here it is the name of a warehouse on the server")),
            _ => return Err(answer.error()),
        };
        let value = |key: &str| said.overrides.get(key).or(said.defaults.get(key)).map(|text| text.trim_matches('/'));
        let uri = value("uri").unwrap_or(self.url.as_str()).trim_end_matches('/');
        let prefix = value("prefix").filter(|prefix| !prefix.is_empty());
        let base = prefix.map_or(format!("{uri}/v1"), |prefix| format!("{uri}/v1/{prefix}"));
        Ok(Described { base, defaults: said.defaults, overrides: said.overrides, endpoints: said.endpoints })
    }

    fn address(&self, text: &str) -> Result<Url> {
        Url::parse(text).map_err(|e| Error::new(Kind::Config, format!("the catalog's address {text:?} is none: {e}")))
    }

    /// The address of what these segments name.
    pub(super) async fn at(&self, segments: &[&str]) -> Result<Url> {
        let mut text = self.described().await?.base.clone();
        for segment in segments {
            if matches!(*segment, "" | "." | "..") {
                return Err(Error::new(Kind::Config, format!("{segment:?} cannot be a name in a REST catalog"))
                    .hint("give the stream another destination database or table name"));
            }
            text.push('/');
            text.extend(utf8_percent_encode(segment, &UNRESERVED));
        }
        self.address(&text)
    }

    /// The address of a table.
    pub(super) async fn table(&self, table: &TableName) -> Result<Url> {
        self.at(&["namespaces", &table.namespace, "tables", &table.name]).await
    }

    /// Sends a request, with another token if the server does not take the first one. One that is `once` is not sent again while it is
    /// unknown what became of it.
    pub(super) async fn send(&self, call: &Call, once: bool) -> Result<Answer> {
        let mut call = call.clone().header("accept", "application/json");
        call.headers.extend(self.headers.clone());
        let mut second = false;
        loop {
            let (admitted, signer) = self.auth.admit(&self.http, call.clone()).await?;
            let answer = match once {
                true => self.http.careful(&admitted, signer).await?,
                false => self.http.patient(&admitted, signer).await?,
            };
            if second || !matches!(answer.status, 401 | 419) || !self.auth.refused(&admitted).await {
                return Ok(answer);
            }
            second = true;
        }
    }

    /// A table, with credentials for its store.
    pub(super) async fn load(&self, table: &TableName) -> Result<Option<TableAnswer>> {
        let answer = self.send(&Call::new(Method::GET, self.table(table).await?).header(DELEGATION.0, DELEGATION.1), false).await?;
        match answer.status {
            404 => Ok(None),
            _ if answer.is_ok() => Ok(Some(answer.json()?)),
            _ => Err(answer.error()),
        }
    }

    /// Asks for a table to be made. `Err` within is what the server answered instead.
    pub(super) async fn make(&self, namespace: &str, body: &Value) -> Result<Result<TableAnswer, Answer>> {
        let url = self.at(&["namespaces", namespace, "tables"]).await?;
        let answer = self.send(&Call::new(Method::POST, url).header(DELEGATION.0, DELEGATION.1).json(body), false).await?;
        Ok(if answer.is_ok() { Ok(answer.json()?) } else { Err(answer) })
    }

    /// Fresh credentials for the store of a table; `refresh` is where the server said that they are.
    pub(super) async fn credentials(&self, table: &TableName, refresh: Option<&str>) -> Result<Grants> {
        let described = self.described().await?;
        let url = match refresh {
            Some(text) if text.contains("://") => Some(self.address(text)?),
            Some(path) => Some(self.address(&format!("{}/{}", self.url.as_str().trim_end_matches('/'), path.trim_start_matches('/')))?),
            None if described.offers("GET /v1/{prefix}/namespaces/{namespace}/tables/{table}/credentials") => {
                Some(self.at(&["namespaces", &table.namespace, "tables", &table.name, "credentials"]).await?)
            }
            None => None,
        };
        if let Some(url) = url {
            let answer = self.send(&Call::new(Method::GET, url).header(DELEGATION.0, DELEGATION.1), false).await?;
            if !answer.is_ok() {
                return Err(answer.error());
            }
            let CredentialsAnswer { storage_credentials: credentials } = answer.json()?;
            return Ok(Grants { config: Properties::new(), credentials });
        }
        let loaded = self.load(table).await?;
        let mut loaded =
            loaded.ok_or_else(|| Error::new(Kind::Conflict, format!("{table} is gone, and the credentials for it with it")))?;
        Ok(loaded.grants())
    }
}
