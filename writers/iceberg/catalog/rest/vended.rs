//! Stores as a REST catalog says that they are reached: addresses, and credentials that it gives for one table and for some time.
//!
//! What the server says of a table wins over what is configured; its defaults do not. Credentials are renewed before they end, while
//! files are being written with them.

use super::client::Client;
use crate::iceberg::catalog::TableName;
use crate::iceberg::config::RETRIES;
use crate::storage::{S3Credentials, S3Options, StoreOptions};
use crate::{Error, Kind, Result, Secret};
use futures::future::BoxFuture;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use object_store::azure::AzureCredential;
use object_store::gcp::GcpCredential;
use reqwest::Url;
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
const GCS_KEYS: [&str; 2] = ["gcs.oauth2.token", "gcs.oauth2.token-expires-at"];
/// Each is followed by a point and the account, or its host.
const AZURE_KEYS: [&str; 2] = ["adls.sas-token", "adls.sas-token-expires-at-ms"];

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
    let changes = |key: &str| {
        KEYS.contains(&key) || GCS_KEYS.contains(&key) || AZURE_KEYS.iter().any(|kind| key.strip_prefix(kind).is_some_and(is_suffix))
    };
    properties.iter().filter(|(key, _)| !changes(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn is_suffix(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('.')
}

/// Keys, and when they end.
#[derive(Clone)]
pub(super) struct Keys {
    credential: Credential,
    expires: Option<SystemTime>,
}

/// For each kind of store.
#[derive(Clone)]
enum Credential {
    S3(Arc<AwsCredential>),
    Gcs(Arc<GcpCredential>),
    Azure(Arc<AzureCredential>),
}

impl Keys {
    /// Those among the properties that open `location`.
    pub(super) fn of(properties: &Properties, location: &str) -> Option<Self> {
        let text = |key: &str| properties.get(key).filter(|text| !text.is_empty()).cloned();
        let instant = |ms: Option<String>| UNIX_EPOCH.checked_add(Duration::from_millis(ms?.parse().ok()?));
        match location.split_once("://").map_or("", |(scheme, _)| scheme) {
            "gs" | "gcs" => {
                let credential = Credential::Gcs(Arc::new(GcpCredential { bearer: text(GCS_KEYS[0])? }));
                Some(Self { credential, expires: instant(text(GCS_KEYS[1])) })
            }
            "abfs" | "abfss" | "wasb" | "wasbs" | "az" => {
                let suffix = account(properties, location)?;
                let [token, expires] = AZURE_KEYS.map(|kind| text(&format!("{kind}{suffix}")));
                let credential = Credential::Azure(Arc::new(AzureCredential::SASToken(signature(&token?)?)));
                Some(Self { credential, expires: instant(expires) })
            }
            _ => {
                let credential = AwsCredential { key_id: text(KEYS[0])?, secret_key: text(KEYS[1])?, token: text(KEYS[2]) };
                Some(Self { credential: Credential::S3(Arc::new(credential)), expires: instant(text(KEYS[3])) })
            }
        }
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

    /// Has the stores ask here.
    pub(super) async fn give(self: &Arc<Self>, options: &mut StoreOptions) {
        let credential = self.keys.lock().await.credential.clone();
        match credential {
            Credential::S3(_) => {
                let pick = |given| if let Credential::S3(credential) = given { Some(credential) } else { None };
                if let Some(s3) = &mut options.s3 {
                    s3.credentials = S3Credentials::Given(Arc::new(Giver { vended: self.clone(), pick }));
                }
            }
            Credential::Gcs(_) => {
                let pick = |given| if let Credential::Gcs(credential) = given { Some(credential) } else { None };
                options.gcs.given = Some(Arc::new(Giver { vended: self.clone(), pick }));
            }
            Credential::Azure(_) => {
                let pick = |given| if let Credential::Azure(credential) = given { Some(credential) } else { None };
                options.azure.given = Some(Arc::new(Giver { vended: self.clone(), pick }));
            }
        }
    }

    async fn credential(&self) -> object_store::Result<Credential> {
        let mut keys = self.keys.lock().await;
        let now = SystemTime::now();
        if keys.last(now + RENEW_BEFORE) {
            return Ok(keys.credential.clone());
        }
        match self.fresh().await {
            Ok(Some(fresh)) => {
                *keys = fresh;
                Ok(keys.credential.clone())
            }
            Err(error) if !keys.last(now) => Err(object_store::Error::Generic { store: "vended", source: Box::new(error) }),
            other => {
                let why = other.err().map_or("the catalog gives none any more".to_owned(), |error| error.to_string());
                tracing::warn!("the credentials for {} could not be renewed yet, using the ones that were given before: {why}", self.table);
                Ok(keys.credential.clone())
            }
        }
    }

    async fn fresh(&self) -> Result<Option<Keys>> {
        let grants = self.client.credentials(&self.table, self.refresh.as_deref()).await?;
        Ok(Keys::of(&grants.at(&self.location), &self.location))
    }
}

/// The same for one kind of store.
struct Giver<C> {
    vended: Arc<Vended>,
    pick: fn(Credential) -> Option<Arc<C>>,
}

impl<C> fmt::Debug for Giver<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.vended.fmt(f)
    }
}

impl<C: fmt::Debug + Send + Sync + 'static> CredentialProvider for Giver<C> {
    type Credential = C;

    // The trait is written with `async_trait`; this is the signature that it stands for.
    fn get_credential<'life0, 'async_trait>(&'life0 self) -> BoxFuture<'async_trait, object_store::Result<Arc<C>>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let other = || Error::new(Kind::Storage, "the catalog gives credentials for another kind of store than before");
            let given = (self.pick)(self.vended.credential().await?);
            given.ok_or_else(|| object_store::Error::Generic { store: "vended", source: Box::new(other()) })
        })
    }
}

/// What the names of properties of the storage account that `location` is in end with: its host, its name, nothing, or the only one that there is.
fn account(properties: &Properties, location: &str) -> Option<String> {
    let host = Url::parse(location).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let name = host.split('.').next().unwrap_or_default();
    let mut suffixes = properties.keys().filter_map(|key| key.strip_prefix(AZURE_KEYS[0])).filter(|rest| is_suffix(rest));
    let known = [format!(".{host}"), format!(".{name}"), String::new()];
    let known = known.into_iter().find(|suffix| properties.contains_key(&format!("{}{suffix}", AZURE_KEYS[0])));
    known.or_else(|| suffixes.next().filter(|_| suffixes.next().is_none()).map(str::to_owned))
}

/// The pairs of a shared access signature.
fn signature(token: &str) -> Option<Vec<(String, String)>> {
    // A plus in it is a plus, and not a space as in a form.
    let url = Url::parse(&format!("https://host/?{}", token.trim().trim_start_matches('?').replace('+', "%2B"))).ok()?;
    let pairs: Vec<_> = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    pairs.iter().any(|(name, _)| name == "sig").then_some(pairs)
}

/// Adds what the properties say. Unless they win, they fill gaps only. Keys are left out: see [`Keys`].
pub(super) fn apply(options: &mut StoreOptions, properties: &Properties, wins: bool) {
    let text = |keys: &[&str]| keys.iter().find_map(|key| properties.get(*key)).map(|text| text.trim()).filter(|text| !text.is_empty());
    let (region, endpoint) = (text(&["s3.region", "client.region"]), text(&["s3.endpoint"]));
    let (style, keys) = (text(&["s3.path-style-access"]), s3_keys(properties));
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
    if let Some([access, secret, session]) = keys
        && (wins || matches!(s3.credentials, S3Credentials::Chain { .. }))
    {
        s3.credentials = S3Credentials::Keys { access, secret, session };
    }
}

fn s3_keys(properties: &Properties) -> Option<[Secret; 3]> {
    let text = |key: &str| properties.get(key).filter(|text| !text.is_empty()).map(Secret::new);
    Some([text(KEYS[0])?, text(KEYS[1])?, text(KEYS[2]).unwrap_or_default()])
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

    #[test]
    fn each_kind_of_store_has_its_keys() {
        let all = properties(&[
            ("s3.access-key-id", "a"),
            ("s3.secret-access-key", "b"),
            ("gcs.oauth2.token", "bearer"),
            ("gcs.oauth2.token-expires-at", "1000"),
            ("adls.sas-token.lake.dfs.core.windows.net", "?sv=2024&sig=a%2Fb+c%3D"),
            ("adls.sas-token-expires-at-ms.lake.dfs.core.windows.net", "2000"),
            ("adls.sas-token.other", "sv=1&sig=other"),
        ]);
        let at = |location: &str| Keys::of(&all, location).map(|keys| (keys.credential, keys.expires));
        let ms = |ms| Some(UNIX_EPOCH + Duration::from_millis(ms));
        assert!(matches!(at("s3://b/t"), Some((Credential::S3(keys), None)) if keys.key_id == "a" && keys.token.is_none()));
        assert!(matches!(at("gs://b/t"), Some((Credential::Gcs(token), until)) if token.bearer == "bearer" && until == ms(1000)));
        let is_signed = |given: &AzureCredential| matches!(given, AzureCredential::SASToken(pairs) if pairs[1].1 == "a/b+c=");
        let lake = at("abfss://c@lake.dfs.core.windows.net/t");
        assert!(matches!(lake, Some((Credential::Azure(given), until)) if is_signed(&given) && until == ms(2000)));
        assert!(matches!(at("abfss://c@other.dfs.core.windows.net/t"), Some((Credential::Azure(_), None))));
        assert!(at("abfss://c@third.dfs.core.windows.net/t").is_none(), "of two, neither is this account's");
        assert_eq!(shape(&all), Properties::new());
    }
}
