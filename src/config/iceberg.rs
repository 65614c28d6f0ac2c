//! The `writer` object of an ICEBERG destination, both generations of OLake's keys.
//!
//! Parsed and checked like every file of the user; no writer reads it yet.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use writers::Secret;

/// Catalog and storage of Apache Iceberg tables.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IcebergConfig {
    /// Kind of catalog: `glue`, `jdbc`, `hive`, `rest`, `lakekeeper`, `nessie`, `s3tables`, `unity`, `polaris`, `biglake`.
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
    /// Use the `glue_` keys below.
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
    /// URL of a REST catalog.
    pub rest_catalog_url: Option<String>,
    /// Authentication of a REST catalog.
    pub rest_auth_type: Option<String>,
    /// Bearer token.
    pub token: Option<Secret>,
    /// OAuth2 client credential.
    pub credential: Option<Secret>,
    /// OAuth2 scope.
    pub scope: Option<String>,
    /// OAuth2 token endpoint.
    pub oauth2_uri: Option<String>,
    /// Sign requests with AWS SigV4.
    pub rest_signing_v_4: Option<bool>,
    /// Service name for SigV4.
    pub rest_signing_name: Option<String>,
    /// Region for SigV4.
    pub rest_signing_region: Option<String>,
    /// Google service account.
    pub gcp_service_account_json: Option<Secret>,
    /// Google authentication scopes.
    pub gcp_auth_scopes: Option<String>,
    /// Google project.
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
}
