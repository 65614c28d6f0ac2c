//! Stores as a REST catalog says that they are reached: addresses, and credentials that it gives for one table and for some time.
//!
//! What the server says of a table wins over what is configured; its defaults do not. Credentials are renewed before they end, while
//! files are being written with them. Only S3's are known here.

use super::client::Client;
use crate::Secret;
use crate::iceberg::catalog::TableName;
use crate::iceberg::config::RETRIES;
use crate::storage::{S3Credentials, S3Options, StoreOptions};
use futures::future::BoxFuture;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;

/// Properties, as Iceberg names them.
pub(super) type Properties = BTreeMap<String, String>;

/// Credentials are renewed this long before they end, so that a request signed now is still good when it arrives.
const RENEW_BEFORE: Duration = Duration::from_secs(5 * 60);

/// Properties that are secret or change with every answer.
const KEYS: [&str; 4] = ["s3.access-key-id", "s3.secret-access-key", "s3.session-token", "s3.session-token-expires-at-ms"];

/// Credentials for what lies below a prefix.
#[derive(Clone, Deserialize)]
pub(super) struct StorageCredential {
    prefix: String,
    config: Properties,
}

/// What a server gives with a table.
pub(super) struct Grants {
    /// For all of the table.
    pub(super) config: Properties,
    /// For places.
    pub(super) credentials: Vec<StorageCredential>,
}

impl Grants {
    /// What holds at a location: what was said of the longest prefix of it, before what was said of the table.
    pub(super) fn at(&self, location: &str) -> Properties {
        let fitting = self.credentials.iter().filter(|one| location.starts_with(&one.prefix));
        let mut properties = self.config.clone();
        if let Some(best) = fitting.max_by_key(|one| one.prefix.len()) {
            properties.extend(best.config.clone());
        }
        properties
    }
}

/// The properties without keys: as long as they are the same, the same connections serve.
pub(super) fn shape(properties: &Properties) -> Properties {
    properties.iter().filter(|(key, _)| !KEYS.contains(&key.as_str())).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Keys, and when they end.
#[derive(Clone)]
pub(super) struct Keys {
    credential: Arc<AwsCredential>,
    expires: Option<SystemTime>,
}

impl Keys {
    /// Those among the properties.
    pub(super) fn of(properties: &Properties) -> Option<Self> {
        let text = |key: &str| properties.get(key).filter(|text| !text.is_empty()).cloned();
        let [key_id, secret_key] = [text(KEYS[0])?, text(KEYS[1])?];
        let expires = text(KEYS[3]).and_then(|ms| ms.parse().ok()).and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
        Some(Self { credential: Arc::new(AwsCredential { key_id, secret_key, token: text(KEYS[2]) }), expires })
    }

    fn last(&self, until: SystemTime) -> bool {
        self.expires.is_none_or(|expires| expires > until)
    }
}

/// Who gives the keys of one table's store.
pub(super) struct Vended {
    client: Arc<Client>,
    table: TableName,
    location: String,
    refresh: Option<String>,
    keys: Mutex<Keys>,
}

impl fmt::Debug for Vended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vended({})", self.table)
    }
}

impl Vended {
    /// Begins with the keys that came with the table.
    pub(super) fn new(client: Arc<Client>, table: TableName, location: String, properties: &Properties, keys: Keys) -> Self {
        let refresh = properties.get("client.refresh-credentials-endpoint").cloned();
        Self { client, table, location, refresh, keys: Mutex::new(keys) }
    }

    /// Newer keys have come with the table.
    pub(super) async fn take(&self, keys: Keys) {
        *self.keys.lock().await = keys;
    }

    async fn credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut keys = self.keys.lock().await;
        let now = SystemTime::now();
        if keys.last(now + RENEW_BEFORE) {
            return Ok(keys.credential.clone());
        }
        match self.client.credentials(&self.table, self.refresh.as_deref()).await.map(|grants| Keys::of(&grants.at(&self.location))) {
            Ok(Some(fresh)) => {
                *keys = fresh;
                Ok(keys.credential.clone())
            }
            Err(error) if !keys.last(now) => Err(object_store::Error::Generic { store: "S3", source: Box::new(error) }),
            other => {
                let why = other.err().map_or("the catalog gives none any more".to_owned(), |error| error.to_string());
                tracing::warn!("the credentials for {} could not be renewed yet, using the ones that were given before: {why}", self.table);
                Ok(keys.credential.clone())
            }
        }
    }
}

impl CredentialProvider for Vended {
    type Credential = AwsCredential;

    // The trait is written with `async_trait`; this is the signature that it stands for.
    fn get_credential<'life0, 'async_trait>(&'life0 self) -> BoxFuture<'async_trait, object_store::Result<Arc<AwsCredential>>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.credential())
    }
}

/// Adds what the properties say. Unless they win, they fill gaps only. Keys are left out: see [`Keys`].
pub(super) fn apply(options: &mut StoreOptions, properties: &Properties, wins: bool) {
    let text = |keys: &[&str]| keys.iter().find_map(|key| properties.get(*key)).map(|text| text.trim()).filter(|text| !text.is_empty());
    let (region, endpoint) = (text(&["s3.region", "client.region"]), text(&["s3.endpoint"]));
    let (style, keys) = (text(&["s3.path-style-access"]), Keys::of(properties));
    if region.is_none() && endpoint.is_none() && style.is_none() && keys.is_none() {
        return;
    }
    let configured = options.s3.is_some();
    let s3 = options.s3.get_or_insert_with(|| S3Options {
        bucket: String::new(),
        prefix: String::new(),
        // Stores that are not Amazon's have no regions, and this is what they are called by.
        region: "us-east-1".to_owned(),
        path_style: false,
        endpoint: None,
        credentials: S3Credentials::Chain { profile: None },
        retries: RETRIES,
    });
    if let Some(region) = region.filter(|_| wins || !configured) {
        s3.region = region.to_owned();
    }
    if endpoint.is_some() && (wins || s3.endpoint.is_none()) {
        s3.endpoint = endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_owned());
    }
    if let Some(style) = style.filter(|_| wins || !configured) {
        s3.path_style = style.eq_ignore_ascii_case("true");
    }
    if let Some(keys) = keys
        && (wins || matches!(s3.credentials, S3Credentials::Chain { .. }))
    {
        s3.credentials = S3Credentials::Keys {
            access: Secret::new(&keys.credential.key_id),
            secret: Secret::new(&keys.credential.secret_key),
            session: Secret::new(keys.credential.token.as_deref().unwrap_or_default()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> Properties {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let grant = |prefix: &str, key: &str| StorageCredential { prefix: prefix.into(), config: properties(&[("s3.access-key-id", key)]) };
        let credentials = vec![grant("s3", "all"), grant("s3://b/shop/", "shop"), grant("s3://other/", "other")];
        let grants = Grants { config: properties(&[("s3.region", "r"), ("s3.access-key-id", "table")]), credentials };
        let key = |location| grants.at(location).remove("s3.access-key-id").expect("a key");
        assert_eq!((key("s3://b/shop/t"), key("s3://b/x"), key("gs://b/shop")), ("shop".into(), "all".into(), "table".into()));
        assert_eq!(shape(&grants.at("s3://b/x")), properties(&[("s3.region", "r")]));
    }

    #[test]
    fn what_the_server_insists_on_wins_and_its_defaults_do_not() {
        let mut options = StoreOptions::default();
        apply(&mut options, &properties(&[("s3.endpoint", "http://a/"), ("s3.path-style-access", "true")]), false);
        apply(&mut options, &properties(&[("s3.endpoint", "http://b"), ("s3.region", "x")]), false);
        let s3 = options.s3.as_ref().expect("s3");
        assert_eq!((s3.endpoint.as_deref(), s3.path_style, s3.region.as_str()), (Some("http://a"), true, "us-east-1"));
        apply(&mut options, &properties(&[("s3.endpoint", "http://b"), ("client.region", "x")]), true);
        let s3 = options.s3.as_ref().expect("s3");
        assert_eq!(
            (s3.endpoint.as_deref(), s3.path_style, s3.region.as_str()),
            (Some("http://b"), true, "x"),
            "the server did not speak of the style"
        );
    }
}
