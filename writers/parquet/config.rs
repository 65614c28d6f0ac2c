//! The `writer` object of a PARQUET destination.

use schemars::JsonSchema;
use serde::Deserialize;

/// Keys of the `writer` object.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ParquetConfig {
    /// Local directory.
    pub local_path: Option<String>,
    /// Bucket.
    pub s3_bucket: Option<String>,
    /// Region.
    pub s3_region: Option<String>,
    /// Access key.
    pub s3_access_key: Option<String>,
    /// Secret key.
    pub s3_secret_key: Option<String>,
    /// Session token.
    pub s3_session_token: Option<String>,
    /// Profile.
    pub s3_profile: Option<String>,
    /// Prefix in the bucket.
    pub s3_path: Option<String>,
    /// Endpoint.
    pub s3_endpoint: Option<String>,
    /// Path style.
    pub s3_path_style: Option<bool>,
    /// Megabytes.
    pub max_file_size_mb: Option<f64>,
    /// Compression.
    pub compression: Option<String>,
    /// Level.
    pub compression_level: Option<i64>,
    /// Columns or one JSON column.
    pub normalization: Option<bool>,
}
