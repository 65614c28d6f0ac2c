//! An S3 bucket, by the `object_store` client.

use super::credentials::Chain;
use crate::{Error, Kind, Result, Secret};
use object_store::aws::{AmazonS3Builder, AwsCredential};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, CredentialProvider, ObjectStore, RetryConfig, StaticCredentialProvider};
use std::sync::Arc;
use std::time::Duration;

/// How a bucket is reached. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// Name of the bucket.
    pub bucket: String,
    /// Its region. Stores that have none accept any.
    pub region: String,
    /// Prefix of all keys, without slashes at its ends; may be empty.
    pub prefix: String,
    /// `http(s)://host[:port]` of a store that is not AWS.
    pub endpoint: Option<String>,
    /// Bucket in the path (`true`) or in the host name of a request.
    pub path_style: bool,
    /// Who asks.
    pub credentials: S3Credentials,
    /// How often a request that failed for a passing reason is sent again.
    pub retries: usize,
}

/// Where the credentials come from.
#[derive(Clone, Debug)]
pub enum S3Credentials {
    /// Written in the configuration.
    Keys {
        /// Access key id.
        access: Secret,
        /// Secret key.
        secret: Secret,
        /// Session token of temporary credentials; may be empty.
        session: Secret,
    },
    /// The places that AWS tools look at, in their order: environment, shared files (with this
    /// profile), web identity, container, instance.
    Chain {
        /// Profile of the shared files; `None` is the default one.
        profile: Option<String>,
    },
    /// Whoever gives them says when they end, and is asked again.
    Given(AwsCredentials),
}

/// Who gives credentials to those who sign.
pub(crate) type AwsCredentials = Arc<dyn CredentialProvider<Credential = AwsCredential>>;

impl S3Credentials {
    /// Who gives them.
    pub(crate) fn provider(&self, region: &str) -> AwsCredentials {
        match self {
            Self::Keys { access, secret, session } => {
                let token = (!session.is_empty()).then(|| session.expose().to_owned());
                let keys = AwsCredential { key_id: access.expose().to_owned(), secret_key: secret.expose().to_owned(), token };
                Arc::new(StaticCredentialProvider::new(keys))
            }
            Self::Chain { profile } => Arc::new(Chain::new(profile.clone(), region.to_owned())),
            Self::Given(provider) => provider.clone(),
        }
    }
}

impl S3Options {
    pub(super) fn url(&self) -> String {
        match self.prefix.as_str() {
            "" => format!("s3://{}", self.bucket),
            prefix => format!("s3://{}/{prefix}", self.bucket),
        }
    }
}

/// When requests are sent again.
pub(super) fn retry(retries: usize) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(15), base: 2.0 },
        max_retries: retries,
        retry_timeout: Duration::from_secs(180),
    }
}

/// How long requests may take: time for a part on a slow line, or for the store to copy the largest file.
pub(super) fn client(plain: bool) -> ClientOptions {
    ClientOptions::new().with_allow_http(plain).with_connect_timeout(Duration::from_secs(10)).with_timeout(Duration::from_secs(180))
}

/// A client for the prefix. Sends nothing.
pub(super) fn connect(options: S3Options) -> Result<Arc<dyn ObjectStore>> {
    let plain = options.endpoint.as_deref().is_some_and(|e| e.starts_with("http://"));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&options.bucket)
        .with_region(&options.region)
        .with_client_options(client(plain))
        .with_retry(retry(options.retries))
        .with_virtual_hosted_style_request(!options.path_style);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(match endpoint.split_once("://") {
            // In virtual-hosted style the client wants the bucket's own host.
            Some((scheme, host)) if !options.path_style => format!("{scheme}://{}.{host}", options.bucket),
            _ => endpoint.clone(),
        });
    }
    builder = builder.with_credentials(options.credentials.provider(&options.region));
    let store = builder.build().map_err(|e| {
        Error::new(Kind::Config, format!("the S3 options do not fit together: {e}"))
            .hint("look at `s3_bucket`, `s3_region` and `s3_endpoint`")
    })?;
    let prefix = Path::parse(&options.prefix).map_err(|e| Error::new(Kind::Config, format!("`s3_path` is not a key prefix: {e}")))?;
    Ok(if prefix.is_root() { Arc::new(store) } else { Arc::new(PrefixStore::new(store, prefix)) })
}
