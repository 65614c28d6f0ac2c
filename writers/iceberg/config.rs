//! The `writer` object of `{"type": "ICEBERG", "writer": {…}}`, both generations of OLake's keys: as written, and as meant.
//!
//! Nothing looks at the keys after [`IcebergConfig::settings`] and [`IcebergConfig::catalog`].

mod remote;

use super::catalog::Catalog;
use super::catalog::filesystem::Filesystem;
use super::io::Files;
use crate::storage::{S3Credentials, S3Options, StoreOptions, default_region};
use crate::{Error, Kind, Result, Secret};
use iceberg::spec::FormatVersion;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Catalog and storage of Apache Iceberg tables.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IcebergConfig {
    /// Kind of catalog: `filesystem` (nothing else to install), `glue`, `jdbc`, `hive`, `rest`, `lakekeeper`, `nessie`, `s3tables`, `unity`, `polaris`, `biglake`.
    pub catalog_type: Option<String>,
    /// Name of the catalog.
    pub catalog_name: Option<String>,
    /// Warehouse: a path, a warehouse name, a table bucket's ARN or a catalog's name.
    pub iceberg_s3_path: Option<String>,
    /// Namespace of tables that name none.
    pub iceberg_db: Option<String>,
    /// AWS region.
    pub aws_region: Option<String>,
    /// AWS access key.
    pub aws_access_key: Option<Secret>,
    /// AWS secret key.
    pub aws_secret_key: Option<Secret>,
    /// AWS session token.
    pub aws_session_token: Option<Secret>,
    /// AWS profile.
    pub aws_profile: Option<String>,
    /// Endpoint of an S3-compatible store.
    pub s3_endpoint: Option<String>,
    /// TLS to the store.
    pub s3_use_ssl: Option<bool>,
    /// Bucket name in the path.
    pub s3_path_style: Option<bool>,
    /// Create tables without identifier fields.
    pub no_identifier_fields: Option<bool>,
    /// Use the `glue_` keys below; without it they have no effect.
    pub glue_additional_config: Option<bool>,
    /// Endpoint of Glue.
    pub glue_endpoint: Option<String>,
    /// Access key for Glue.
    pub glue_access_key: Option<Secret>,
    /// Secret key for Glue.
    pub glue_secret_key: Option<Secret>,
    /// Region of Glue.
    pub glue_region: Option<String>,
    /// Catalog id of Glue.
    pub glue_catalog_id: Option<String>,
    /// URL of the database of a `jdbc` catalog.
    pub jdbc_url: Option<Secret>,
    /// User of the database of a `jdbc` catalog.
    pub jdbc_username: Option<String>,
    /// Password of the database of a `jdbc` catalog.
    pub jdbc_password: Option<Secret>,
    /// URI of a Hive metastore.
    pub hive_uri: Option<String>,
    /// Connections to the Hive metastore.
    pub hive_clients: Option<i64>,
    /// SASL to the Hive metastore.
    pub hive_sasl_enabled: Option<bool>,
    /// URL of a REST catalog: what stands before `/v1/config`.
    pub rest_catalog_url: Option<String>,
    /// How a REST catalog is asked: `none`, `token`, `oauth2`, `sigv4`, `google`. Empty: as the other keys suggest.
    pub rest_auth_type: Option<String>,
    /// Bearer token.
    pub token: Option<Secret>,
    /// OAuth2 client credential: `client-id:client-secret`, or a secret alone.
    pub credential: Option<Secret>,
    /// OAuth2 scope; empty is `catalog`.
    pub scope: Option<String>,
    /// Where OAuth2 tokens are given; empty is `<rest_catalog_url>/v1/oauth/tokens`.
    pub oauth2_uri: Option<String>,
    /// Sign requests with AWS SigV4.
    pub rest_signing_v_4: Option<bool>,
    /// Service name for SigV4; empty is `execute-api`.
    pub rest_signing_name: Option<String>,
    /// Region for SigV4; empty is `aws_region`.
    pub rest_signing_region: Option<String>,
    /// Key file of a Google service account, as text.
    pub gcp_service_account_json: Option<Secret>,
    /// What Google is asked for, separated by commas; empty is the cloud platform.
    pub gcp_auth_scopes: Option<String>,
    /// Google project that requests are billed to.
    pub gcp_project_id: Option<String>,
    /// OLake's Arrow path.
    #[schemars(extend("x-no-effect" = "rows always travel as Arrow"))]
    pub arrow_writes: Option<bool>,
    /// Columns (true) or one JSON column (false); a stream's own setting wins.
    pub normalization: Option<bool>,
    /// `iceberg_s3_path` as older files have it.
    pub s3_path: Option<String>,
    /// `iceberg_db` as older files have it.
    pub database: Option<String>,
    /// OLake's, dead.
    #[schemars(extend("x-no-effect" = "there is no second process"))]
    pub grpc_port: Option<Value>,
    /// OLake's, dead.
    #[schemars(extend("x-no-effect" = "there is no second process"))]
    pub server_host: Option<Value>,
    /// OLake's.
    #[schemars(extend("x-no-effect" = "there is no second process"))]
    pub sink_jar_path: Option<Value>,
    /// OLake's.
    #[schemars(extend("x-no-effect" = "there is no second process"))]
    pub sink_rpc_server_host: Option<Value>,
    /// OLake's.
    #[schemars(extend("x-no-effect" = "there is no second process"))]
    pub sink_rpc_server_port: Option<Value>,
    /// Format version of new tables, 2 (the default) or 3.
    pub format_version: Option<u8>,
    /// Properties of new tables, as Iceberg names them (`write.target-file-size-bytes`, …).
    pub table_properties: BTreeMap<String, String>,
}

/// What is configured beside the catalog.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Namespace of tables that name none.
    pub(crate) namespace: String,
    /// Whether keys become identifier fields.
    pub(crate) identifiers: bool,
    /// Properties of new tables.
    pub(crate) properties: HashMap<String, String>,
    /// Format version of new tables.
    pub(crate) format_version: FormatVersion,
}

/// How often a request that failed for a passing reason is sent again: about a minute's worth.
pub(crate) const RETRIES: usize = 8;

impl IcebergConfig {
    /// Checks everything that can be checked without a connection.
    pub fn validate(&self) -> Result<()> {
        self.settings()?;
        self.check_remote()
    }

    /// The size that a file of a large table should have, below the one at which it is closed: what is left over beyond that would
    /// be a file of its own.
    pub fn file_bytes_wanted(&self) -> u64 {
        let most = self.table_properties.get("write.target-file-size-bytes").and_then(|text| text.parse().ok()).unwrap_or(512 << 20);
        (most / 4 * 3).min(256 << 20)
    }

    /// What does not concern the catalog.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let format_version = match self.format_version {
            None | Some(2) => FormatVersion::V2,
            Some(3) => FormatVersion::V3,
            Some(other) => return Err(wrong(format!("`format_version` is {other}, accepted: 2, 3"))),
        };
        // Without these, every commit would leave a metadata file for ever.
        let usual = [
            ("write.format.default", "parquet"),
            ("write.metadata.delete-after-commit.enabled", "true"),
            ("write.metadata.previous-versions-max", "100"),
        ];
        let mut properties: HashMap<String, String> = usual.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        properties.extend(self.table_properties.clone());
        Ok(Settings {
            namespace: first(&[&self.iceberg_db, &self.database]).unwrap_or_default().to_owned(),
            identifiers: !self.no_identifier_fields.unwrap_or(self.kind() == "unity"),
            properties,
            format_version,
        })
    }

    /// The catalog. AWS is asked for the region at most.
    pub(crate) async fn catalog(&self) -> Result<Catalog> {
        let stores = self.stores().await;
        if let Some(remote) = Box::pin(self.remote(stores.clone())).await? {
            return Ok(remote);
        }
        let files = Files::new(stores);
        match self.kind() {
            "filesystem" => Ok(Catalog::Filesystem(Arc::new(Filesystem::new(&self.warehouse()?, files)))),
            other => Err(wrong(format!("`catalog_type` {other:?} is not built yet in this version, accepted: filesystem"))),
        }
    }

    fn kind(&self) -> &str {
        self.catalog_type.as_deref().map_or("glue", str::trim)
    }

    /// `iceberg_s3_path` as a URI.
    fn warehouse(&self) -> Result<String> {
        let path = first(&[&self.iceberg_s3_path, &self.s3_path]).ok_or_else(|| {
            wrong("`iceberg_s3_path` is empty: it is the folder of the tables").hint("write file:///path, /path or s3://bucket/path")
        })?;
        if path.contains("://") || path.starts_with("file:") {
            return Ok(path.trim_end_matches('/').to_owned());
        }
        // Absolute, so that a later change of the working directory cannot split a table in two.
        let absolute = std::path::absolute(path).map_err(|e| wrong(format!("`iceberg_s3_path` {path:?} is no path")).because(e))?;
        Ok(format!("file://{}", absolute.display()).trim_end_matches('/').to_owned())
    }

    /// Who asks AWS.
    fn aws_credentials(&self) -> S3Credentials {
        match (self.aws_access_key.as_ref(), self.aws_secret_key.as_ref()) {
            (Some(access), Some(secret)) if !access.is_empty() && !secret.is_empty() => S3Credentials::Keys {
                access: access.clone(),
                secret: secret.clone(),
                session: self.aws_session_token.clone().unwrap_or_default(),
            },
            _ => S3Credentials::Chain { profile: first(&[&self.aws_profile]).map(str::to_owned) },
        }
    }

    /// How stores are reached.
    async fn stores(&self) -> StoreOptions {
        let endpoint = self
            .s3_endpoint
            .as_deref()
            .map(|endpoint| endpoint.trim().trim_end_matches('/').to_owned())
            .filter(|endpoint| !endpoint.is_empty());
        let credentials = self.aws_credentials();
        let region = match first(&[&self.aws_region]) {
            Some(region) => Some(region.to_owned()),
            None => default_region(first(&[&self.aws_profile])).await.or(endpoint.is_some().then(|| "us-east-1".to_owned())),
        };
        let s3 = region.map(|region| S3Options {
            bucket: String::new(),
            prefix: String::new(),
            region,
            path_style: self.s3_path_style.unwrap_or(endpoint.is_some()),
            endpoint,
            credentials,
            retries: RETRIES,
        });
        StoreOptions { s3 }
    }
}

/// The first that is written and not empty.
fn first<'c>(texts: &[&'c Option<String>]) -> Option<&'c str> {
    texts.iter().filter_map(|text| text.as_deref()).map(str::trim).find(|text| !text.is_empty())
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Config, message)
}
