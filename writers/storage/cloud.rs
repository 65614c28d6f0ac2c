//! Buckets of Google Cloud Storage and containers of Azure, by the `object_store` client.
//!
//! Credentials are those of the configuration; without any, those of the environment as the clouds' own tools name it, then those of the
//! machine (workload identity, managed identity, instance).

use super::{Storage, s3};
use crate::{Error, Kind, Result, Secret};
use object_store::azure::{AzureConfigKey, AzureCredentialProvider, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredentialProvider, GoogleCloudStorageBuilder};
use std::sync::Arc;

/// How Google Cloud Storage is reached. `Debug` shows no secret.
#[derive(Clone, Debug, Default)]
pub(crate) struct GcsOptions {
    /// A service account's key, as the JSON text that Google hands out.
    pub(crate) service_account: Option<Secret>,
    /// `http(s)://host[:port]` of a store that is not Google's.
    pub(crate) endpoint: Option<String>,
    /// Who gives tokens, before all of these.
    pub(crate) given: Option<GcpCredentialProvider>,
    /// How often a request that failed for a passing reason is sent again.
    pub(crate) retries: usize,
}

/// How Azure is reached. `Debug` shows no secret.
#[derive(Clone, Debug, Default)]
pub(crate) struct AzureOptions {
    /// The storage account, for URIs that name none.
    pub(crate) account: Option<String>,
    /// One of its two keys.
    pub(crate) account_key: Option<Secret>,
    /// A shared access signature, with or without a question mark before it.
    pub(crate) sas_token: Option<Secret>,
    /// An application's id, secret and directory.
    pub(crate) application: Option<(String, Secret, String)>,
    /// Where the application's tokens come from, if not from Azure's public cloud: what tools know as AZURE_AUTHORITY_HOST.
    pub(crate) authority: Option<String>,
    /// `http(s)://host[:port][/account]` of a store that is not Azure's.
    pub(crate) endpoint: Option<String>,
    /// Who gives signatures, before all of these.
    pub(crate) given: Option<AzureCredentialProvider>,
    /// How often a request that failed for a passing reason is sent again.
    pub(crate) retries: usize,
}

impl GcsOptions {
    /// A whole bucket. Sends nothing.
    pub(crate) fn bucket(&self, bucket: &str) -> Result<Storage> {
        let mut builder = match &self.service_account {
            Some(key) => GoogleCloudStorageBuilder::new().with_service_account_key(key.expose()),
            None => GoogleCloudStorageBuilder::from_env(),
        };
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        if let Some(given) = &self.given {
            builder = builder.with_credentials(given.clone());
        }
        let plain = self.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let store = builder
            .with_bucket_name(bucket)
            .with_client_options(s3::client(plain))
            .with_retry(s3::retry(self.retries))
            .build()
            // Its own words may quote the key.
            .map_err(|_| {
                Error::new(Kind::Config, format!("the credentials for gs://{bucket} cannot be used")).hint(
                    "let `gcp_service_account_json` hold a service account's key as JSON, or GOOGLE_APPLICATION_CREDENTIALS name a file with one",
                )
            })?;
        Ok(Storage::bucket(Arc::new(store), format!("gs://{bucket}"), self.endpoint.as_deref()))
    }
}

impl AzureOptions {
    /// A whole container: `container@account.host`, or `container` of the account that is configured. Sends nothing.
    pub(crate) fn container(&self, authority: &str) -> Result<Storage> {
        let (container, host) = authority.split_once('@').unwrap_or((authority, ""));
        let given = self.given.is_some() || self.account_key.is_some() || self.sas_token.is_some() || self.application.is_some();
        let mut builder = if given { MicrosoftAzureBuilder::new() } else { MicrosoftAzureBuilder::from_env() };
        let named = match host.split_once('.') {
            Some((account, rest)) => {
                // Files are the same ones on both hosts; this is the one that this client speaks to.
                builder = builder.with_endpoint(format!("https://{account}.{}", rest.replacen("dfs.", "blob.", 1)));
                Some(account)
            }
            None => Some(host).filter(|host| !host.is_empty()),
        };
        if let Some(account) = named.or(self.account.as_deref()) {
            builder = builder.with_account(account);
        }
        if builder.get_config_value(&AzureConfigKey::AccountName).is_none() {
            return Err(Error::new(Kind::Config, format!("nothing says in which storage account the container {container:?} is"))
                .hint("write abfss://container@account.dfs.core.windows.net/path, or set `azure_account_name`"));
        }
        if let Some(given) = &self.given {
            builder = builder.with_credentials(given.clone());
        }
        if let Some(key) = &self.account_key {
            builder = builder.with_access_key(key.expose());
        }
        if let Some(token) = &self.sas_token {
            builder = builder.with_config(AzureConfigKey::SasKey, token.expose().trim().trim_start_matches('?'));
        }
        if let Some((id, secret, tenant)) = &self.application {
            builder = builder.with_client_secret_authorization(id, secret.expose(), tenant);
            if let Some(authority) = &self.authority {
                builder = builder.with_authority_host(authority);
            }
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let plain = self.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let store = builder
            .with_container_name(container)
            .with_client_options(s3::client(plain))
            .with_retry(s3::retry(self.retries))
            .build()
            // Its own words may quote the key.
            .map_err(|_| {
                Error::new(Kind::Config, format!("the credentials or the endpoint for abfss://{authority} cannot be used")).hint(
                    "look at `azure_account_key` (base64), `azure_sas_token` and `azure_endpoint`, or at AZURE_STORAGE_… in the environment",
                )
            })?;
        Ok(Storage::bucket(Arc::new(store), format!("abfss://{authority}"), self.endpoint.as_deref()))
    }
}
