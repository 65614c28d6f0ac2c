//! AWS credentials and region from the places where AWS tools look for them.
//!
//! `aws-config` knows those places: environment, shared files with profiles, web identity (IRSA),
//! container and instance roles. This is the adapter to the object store's client: it remembers
//! what it was given and asks again before it expires.

use crate::{Error, Kind};
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use futures::future::BoxFuture;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;

/// Credentials are renewed this long before they expire, so that a request signed now is still
/// good when it arrives, retries included.
const RENEW_BEFORE: Duration = Duration::from_secs(5 * 60);

/// The cryptography that the rest of the program uses too.
const RING: Provider = Provider::Rustls(CryptoMode::Ring);

/// The chain of places, with what it last gave.
pub(super) struct Chain {
    profile: Option<String>,
    region: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    chain: Option<DefaultCredentialsChain>,
    current: Option<Current>,
}

struct Current {
    credential: Arc<AwsCredential>,
    expires: Option<SystemTime>,
}

impl Chain {
    pub(super) fn new(profile: Option<String>, region: String) -> Self {
        Self { profile, region, state: Mutex::default() }
    }

    async fn credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // One request at a time asks; the others wait for its answer.
        let mut state = self.state.lock().await;
        let now = SystemTime::now();
        if let Some(current) = &state.current
            && current.lasts(now + RENEW_BEFORE)
        {
            return Ok(current.credential.clone());
        }
        if state.chain.is_none() {
            let mut builder =
                DefaultCredentialsChain::builder().configure(provider_config()).region(aws_config::Region::new(self.region.clone()));
            if let Some(profile) = &self.profile {
                builder = builder.profile_name(profile);
            }
            state.chain = Some(builder.build().await);
        }
        let Some(chain) = &state.chain else { return Err(NoCredentials::error("no chain".into())) };
        match chain.provide_credentials().await {
            Ok(given) => {
                let credential = Arc::new(AwsCredential {
                    key_id: given.access_key_id().to_owned(),
                    secret_key: given.secret_access_key().to_owned(),
                    token: given.session_token().map(str::to_owned),
                });
                state.current = Some(Current { credential: credential.clone(), expires: given.expiry() });
                Ok(credential)
            }
            Err(error) => match &state.current {
                Some(current) if current.lasts(now) => {
                    tracing::warn!("AWS credentials could not be renewed yet, using the ones that still hold: {}", reason(&error));
                    Ok(current.credential.clone())
                }
                _ => Err(NoCredentials::error(reason(&error))),
            },
        }
    }
}

impl Current {
    fn lasts(&self, until: SystemTime) -> bool {
        self.expires.is_none_or(|expires| expires > until)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain(profile {:?})", self.profile)
    }
}

impl CredentialProvider for Chain {
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

/// No place had credentials, or the one that had could not hand them out.
#[derive(Debug)]
pub(super) struct NoCredentials {
    reason: String,
}

impl NoCredentials {
    fn error(reason: String) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: Box::new(Self { reason }) }
    }

    pub(super) fn explain(&self) -> Error {
        Error::new(Kind::Storage, self.to_string()).hint(
            "set `s3_access_key` and `s3_secret_key` (Iceberg: `aws_access_key`, `aws_secret_key`), or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile (`s3_profile`, `aws_profile`), or give this machine a role",
        )
    }
}

impl fmt::Display for NoCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no AWS credentials could be found: {}", self.reason)
    }
}

impl std::error::Error for NoCredentials {}

/// The region that environment, profile or instance name.
pub(crate) async fn default_region(profile: Option<&str>) -> Option<String> {
    let mut loader = aws_config::defaults(aws_config::BehaviorVersion::v2026_01_12())
        .http_client(Builder::new().tls_provider(RING).build_https())
        .no_credentials();
    if let Some(profile) = profile {
        loader = loader.profile_name(profile);
    }
    loader.load().await.region().map(|region| region.as_ref().to_owned())
}

fn provider_config() -> ProviderConfig {
    ProviderConfig::default().with_http_client(Builder::new().tls_provider(RING).build_https())
}

/// The kind of failure in the chain's own words. Its sources can quote files and answers that hold
/// secrets, so they stay out.
fn reason(error: &aws_credential_types::provider::error::CredentialsError) -> String {
    error.to_string()
}
