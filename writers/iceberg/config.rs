//! The `writer` object of `{"type": "ICEBERG", "writer": {…}}`, both generations of OLake's keys: as written, and as meant.
//!
//! Nothing looks at the keys after [`IcebergConfig::settings`] and [`IcebergConfig::catalog`].

mod remote;

use super::catalog::Catalog;
use super::catalog::filesystem::Filesystem;
use super::catalog::hive::Hive;
use super::catalog::sql::{Sql, Url};
use super::io::Files;
use super::properties::{EXPIRE, KEPT, KEPT_USUALLY};
use crate::storage::{AzureOptions, GcsOptions, S3Credentials, S3Options, StoreOptions, default_region};
use crate::{Error, Kind, Result, Secret};
use iceberg::spec::FormatVersion;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// Catalog and storage of Apache Iceberg tables.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IcebergConfig {
    /// Kind of catalog: `filesystem` (nothing else to install), `glue`, `jdbc`, `hive`, `rest`, `lakekeeper`, `nessie`, `s3tables`, `unity`, `polaris`, `biglake`.
    pub catalog_type: Option<String>,
    /// Name of the catalog in a database that holds several (`jdbc`); `olake_iceberg` if it is not given.
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
    /// Whether an `s3_endpoint` that says neither http:// nor https:// is reached with TLS; absent: it is not.
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
    /// Database of a `jdbc` catalog: `jdbc:sqlite:PATH` or `jdbc:postgresql://host:port/database?user=…&password=…&sslmode=…`; also
    /// accepted: sslrootcert, currentSchema, ApplicationName, connectTimeout, and several hosts with commas between them.
    pub jdbc_url: Option<Secret>,
    /// User of the database of a `jdbc` catalog.
    pub jdbc_username: Option<String>,
    /// Password of the database of a `jdbc` catalog.
    pub jdbc_password: Option<Secret>,
    /// Hive metastore: `thrift://host:port`, or several with commas between them, of which the first that answers is used.
    pub hive_uri: Option<String>,
    /// Connections to the Hive metastore.
    #[schemars(extend("x-no-effect" = "one connection is enough, because commits wait for each other anyway"))]
    pub hive_clients: Option<Value>,
    /// SASL (Kerberos) to the Hive metastore; true is refused.
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
    /// Key of a Google service account, as the JSON text that Google hands out: for tables on `gs://` too.
    pub gcp_service_account_json: Option<Secret>,
    /// What Google is asked for, separated by commas; empty is the cloud platform.
    pub gcp_auth_scopes: Option<String>,
    /// Google project that requests are billed to.
    pub gcp_project_id: Option<String>,
    /// Address of a store that speaks Google Cloud Storage's protocol, `http(s)://host:port`.
    pub gcs_endpoint: Option<String>,
    /// Azure storage account, for URIs that name none (`az://container/path`).
    pub azure_account_name: Option<String>,
    /// Key of the Azure storage account.
    pub azure_account_key: Option<Secret>,
    /// Shared access signature for Azure storage.
    pub azure_sas_token: Option<Secret>,
    /// Id of an application of Azure's directory; with `azure_client_secret` and `azure_tenant_id`.
    pub azure_client_id: Option<String>,
    /// The application's secret.
    pub azure_client_secret: Option<Secret>,
    /// Directory (tenant) of the application.
    pub azure_tenant_id: Option<String>,
    /// Address of a store that speaks Azure's protocol, `http(s)://host:port[/account]`.
    pub azure_endpoint: Option<String>,
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
    /// What takes rows away: `equality` (the default: by key, cheap to write), `position` (cheap to read, format version 2) or
    /// `deletion_vector` (cheap to read, format version 3).
    pub delete_files: DeleteFiles,
    /// Folder for indexes of keys, which `position` and `deletion_vector` need to find rows; they are made again when they are lost.
    /// Absent: `lakeward/index` in the user's cache folder.
    pub index_path: Option<String>,
    /// Whether all tables of a run change in one commit, so that readers see them at one instant. Absent: where the (REST) catalog offers
    /// it. `true`: it is demanded. `false`: each table is committed as soon as it is complete.
    pub multi_table_commit: Option<bool>,
    /// Properties of new tables, as Iceberg names them (`write.target-file-size-bytes`, …).
    pub table_properties: BTreeMap<String, String>,
}

/// What takes rows away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeleteFiles {
    /// Equality delete files: keys. Nothing has to be looked up; readers pay.
    #[default]
    Equality,
    /// Position delete files.
    Position,
    /// Deletion vectors.
    DeletionVector,
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
    /// What takes rows away.
    pub(crate) delete_files: DeleteFiles,
    /// Folder for indexes of keys.
    pub(crate) index_path: PathBuf,
    /// Whether all tables of a run change in one commit; `None`: where it is offered.
    pub(crate) multi_table_commit: Option<bool>,
}

/// What `catalog_type` may be.
const KINDS: &str = "filesystem, jdbc, rest, glue, s3tables, hive, lakekeeper, nessie, unity, polaris, biglake";

/// How often a request that failed for a passing reason is sent again: about a minute's worth.
pub(crate) const RETRIES: usize = 8;

impl IcebergConfig {
    /// Checks everything that can be checked without a connection.
    pub fn validate(&self) -> Result<()> {
        let application = [self.azure_client_id.is_some(), self.azure_client_secret.is_some(), self.azure_tenant_id.is_some()];
        if application.contains(&true) && self.azure().application.is_none() {
            return Err(wrong("of `azure_client_id`, `azure_client_secret` and `azure_tenant_id` one is given without the others")
                .hint("give all three, or none"));
        }
        if self.azure_account_key.is_some() && self.azure_sas_token.is_some() {
            return Err(wrong("`azure_account_key` and `azure_sas_token` are both given").hint("remove one of them"));
        }
        match self.kind() {
            "jdbc" => {
                self.jdbc_url()?;
                self.warehouse()?;
            }
            "hive" => {
                Hive::new(self.hive_uri()?, None, Files::new(StoreOptions::default()))?;
            }
            kind if KINDS.split(", ").any(|known| known == kind) => {}
            other => return Err(wrong(format!("`catalog_type` is {other:?}, accepted: {KINDS}"))),
        }
        if self.multi_table_commit == Some(true) && matches!(self.kind(), "filesystem" | "jdbc" | "hive" | "glue") {
            return Err(wrong(format!(
                "`multi_table_commit` is true, and catalogs of the kind {:?} commit each table by itself",
                self.kind()
            ))
            .hint("leave it out, or use a REST catalog that offers commits of several tables"));
        }
        self.settings()?;
        self.check_remote()
    }

    /// Namespace of tables that name none.
    pub fn namespace(&self) -> Option<&str> {
        first(&[&self.iceberg_db, &self.database])
    }

    /// The size that a file of a large table should have, below the one at which it is closed: what is left over beyond that would
    /// be a file of its own.
    pub fn file_bytes_wanted(&self) -> u64 {
        let most = self.table_properties.get("write.target-file-size-bytes").and_then(|text| text.parse().ok()).unwrap_or(512 << 20);
        (most / 4 * 3).min(256 << 20)
    }

    /// What does not concern the catalog.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let format_version = match (self.format_version, self.delete_files) {
            (None | Some(3), DeleteFiles::DeletionVector) => FormatVersion::V3,
            (Some(2), DeleteFiles::DeletionVector) => {
                return Err(wrong("`delete_files` is deletion_vector, and format version 2 has none")
                    .hint("set `format_version` to 3, or leave it out"));
            }
            (Some(3), DeleteFiles::Position) => {
                return Err(wrong("`delete_files` is position, and format version 3 allows no new position delete files")
                    .hint("set `delete_files` to deletion_vector"));
            }
            (None | Some(2), _) => FormatVersion::V2,
            (Some(3), _) => FormatVersion::V3,
            (Some(other), _) => return Err(wrong(format!("`format_version` is {other}, accepted: 2, 3"))),
        };
        // Without these, every commit would leave a metadata file and a snapshot for ever.
        let kept = KEPT_USUALLY.to_string();
        let usual = [
            ("write.format.default", "parquet"),
            ("write.metadata.delete-after-commit.enabled", "true"),
            ("write.metadata.previous-versions-max", "100"),
            (EXPIRE, "true"),
            (KEPT, kept.as_str()),
        ];
        let mut properties: HashMap<String, String> = usual.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        properties.extend(self.table_properties.clone());
        Ok(Settings {
            namespace: self.namespace().unwrap_or_default().to_owned(),
            identifiers: !self.no_identifier_fields.unwrap_or(self.kind() == "unity"),
            properties,
            format_version,
            delete_files: self.delete_files,
            index_path: first(&[&self.index_path]).map_or_else(cache, PathBuf::from),
            multi_table_commit: self.multi_table_commit,
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
            "jdbc" => {
                let url = self.jdbc_url()?;
                let name = first(&[&self.catalog_name]).unwrap_or("olake_iceberg");
                Ok(Catalog::Sql(Arc::new(Sql::new(url, name, &self.warehouse()?, files)?)))
            }
            "hive" => {
                let warehouse = first(&[&self.iceberg_s3_path, &self.s3_path]).map(|_| self.warehouse()).transpose()?;
                Ok(Catalog::Hive(Arc::new(Hive::new(self.hive_uri()?, warehouse.as_deref(), files)?)))
            }
            other => Err(wrong(format!("`catalog_type` is {other:?}, accepted: {KINDS}"))),
        }
    }

    fn jdbc_url(&self) -> Result<Url> {
        let empty = || wrong("`jdbc_url` is empty").hint("write jdbc:sqlite:/path/catalog.db or jdbc:postgresql://host:port/database");
        let url = self.jdbc_url.as_ref().filter(|url| !url.is_empty()).ok_or_else(empty)?;
        Url::parse(url, first(&[&self.jdbc_username]), self.jdbc_password.as_ref().filter(|password| !password.is_empty()))
    }

    fn hive_uri(&self) -> Result<&str> {
        if self.hive_sasl_enabled == Some(true) {
            return Err(wrong("`hive_sasl_enabled` is true, and SASL (Kerberos) to a Hive metastore is not supported")
                .hint("set it to false and let the metastore accept connections without SASL, or use another catalog"));
        }
        first(&[&self.hive_uri]).ok_or_else(|| wrong("`hive_uri` is empty").hint("write thrift://host:9083"))
    }

    /// Whether catalog and tables are on this machine's disks.
    fn is_local(&self) -> bool {
        matches!(self.kind(), "filesystem" | "jdbc" | "hive") && self.warehouse().is_ok_and(|warehouse| warehouse.starts_with("file:"))
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

    pub(super) fn gcs(&self) -> GcsOptions {
        let service_account = given(&self.gcp_service_account_json);
        GcsOptions { service_account, endpoint: endpoint(&self.gcs_endpoint), given: None, retries: RETRIES }
    }

    pub(super) fn azure(&self) -> AzureOptions {
        let application = match (first(&[&self.azure_client_id]), given(&self.azure_client_secret), first(&[&self.azure_tenant_id])) {
            (Some(id), Some(secret), Some(tenant)) => Some((id.to_owned(), secret, tenant.to_owned())),
            _ => None,
        };
        AzureOptions {
            account: first(&[&self.azure_account_name]).map(str::to_owned),
            account_key: given(&self.azure_account_key),
            sas_token: given(&self.azure_sas_token),
            application,
            authority: endpoint(&std::env::var("AZURE_AUTHORITY_HOST").ok()),
            endpoint: endpoint(&self.azure_endpoint),
            given: None,
            retries: RETRIES,
        }
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
        let scheme = if self.s3_use_ssl == Some(true) { "https" } else { "http" };
        let endpoint = endpoint(&self.s3_endpoint).map(|endpoint| match endpoint.contains("://") {
            true => endpoint,
            false => format!("{scheme}://{endpoint}"),
        });
        let credentials = self.aws_credentials();
        let region = match first(&[&self.aws_region]) {
            Some(region) => Some(region.to_owned()),
            // Nobody asks for a region who writes to a disk.
            None if self.is_local() => None,
            None if endpoint.is_some() => Some("us-east-1".to_owned()),
            None => default_region(first(&[&self.aws_profile])).await,
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
        StoreOptions { s3, gcs: self.gcs(), azure: self.azure() }
    }
}

/// Where indexes go that have no folder named.
fn cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))).unwrap_or_else(std::env::temp_dir);
    folder.join("lakeward/index")
}

/// The first that is written and not empty.
fn first<'c>(texts: &[&'c Option<String>]) -> Option<&'c str> {
    texts.iter().filter_map(|text| text.as_deref()).map(str::trim).find(|text| !text.is_empty())
}

/// A secret that is written and not empty.
fn given(secret: &Option<Secret>) -> Option<Secret> {
    secret.clone().filter(|secret| !secret.is_empty())
}

/// A store's address, without a slash at its end.
fn endpoint(url: &Option<String>) -> Option<String> {
    first(&[url]).map(|url| url.trim_end_matches('/').to_owned())
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(keys: Value) -> IcebergConfig {
        serde_json::from_value(keys).expect("keys")
    }

    #[tokio::test]
    async fn the_keys_say_how_a_store_is_reached() {
        let s3 = |mut keys: Value| async move {
            keys["catalog_type"] = "filesystem".into();
            keys["iceberg_s3_path"] = "s3://bucket/lake".into();
            config(keys).stores().await.s3.expect("S3")
        };
        for (keys, endpoint) in [
            (json!({"s3_endpoint": "localhost:9000"}), "http://localhost:9000"),
            (json!({"s3_endpoint": "localhost:9000/", "s3_use_ssl": true}), "https://localhost:9000"),
            (json!({"s3_endpoint": "https://localhost:9000", "s3_use_ssl": false}), "https://localhost:9000"),
        ] {
            let reached = s3(keys.clone()).await;
            assert_eq!((reached.endpoint.as_deref(), reached.region.as_str()), (Some(endpoint), "us-east-1"), "{keys}");
        }
        let by_profile = s3(json!({"aws_region": "eu-west-1", "aws_profile": "lake"})).await.credentials;
        assert!(matches!(&by_profile, S3Credentials::Chain { profile: Some(name) } if name == "lake"), "{by_profile:?}");
        let keys = json!({"aws_region": "eu-west-1", "aws_access_key": "a", "aws_secret_key": "b", "aws_session_token": "c"});
        let by_keys = s3(keys).await.credentials;
        assert!(matches!(&by_keys, S3Credentials::Keys { session, .. } if session.expose() == "c"), "{by_keys:?}");
    }

    #[test]
    fn the_keys_say_what_tables_are_like() {
        let settings = |keys: Value| config(keys).settings().expect("settings");
        assert_eq!(settings(json!({"database": "older", "iceberg_db": "newer"})).namespace, "newer");
        assert_eq!(settings(json!({"database": "older"})).namespace, "older");
        assert!(settings(json!({})).identifiers && !settings(json!({"no_identifier_fields": true})).identifiers);
        assert!(!settings(json!({"catalog_type": "unity"})).identifiers, "Unity takes none");
        let error = config(json!({"catalog_type": "iceberg"})).validate().expect_err("refused");
        assert!(error.to_string().contains("accepted: filesystem, jdbc"), "{error}");
    }
}
