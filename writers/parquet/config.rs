//! The `writer` object of a PARQUET destination.

use crate::{Error, Kind, Result, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

/// Where Parquet files go and what they are like.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ParquetConfig {
    /// Folder for the tables: `<local_path>/<database>/<table>/…`. Ignored when `s3_bucket` and `s3_region` are both set.
    pub local_path: String,
    /// Bucket for the tables. Used when `s3_region` is set too, or when there is no `local_path`.
    pub s3_bucket: String,
    /// Region of the bucket. Empty: taken from the environment or the profile (`us-east-1` with an `s3_endpoint`).
    pub s3_region: String,
    /// Access key id. Without both keys, credentials come from the environment, the shared AWS files, web identity, the container or the instance.
    pub s3_access_key: Secret,
    /// Secret access key.
    pub s3_secret_key: Secret,
    /// Session token of temporary keys.
    pub s3_session_token: Secret,
    /// Profile of the shared AWS files; empty is the default profile.
    pub s3_profile: String,
    /// Prefix of all keys in the bucket; `s3://bucket/prefix` and `s3a://bucket/prefix` are understood.
    pub s3_path: String,
    /// `http://` or `https://` address of a store that is not AWS (MinIO, Ceph, R2).
    pub s3_endpoint: String,
    /// Bucket in the path of requests instead of the host name. Absent: yes with an `s3_endpoint`, no without.
    pub s3_path_style: Option<bool>,
    /// Size in MiB at which a file is closed and the next begins; 0 or absent is 512.
    pub max_file_size_mb: f64,
    /// How pages are compressed.
    pub compression: Compression,
    /// Level of `zstd`, 1 (fast, the default) to 22 (small).
    pub compression_level: Option<i32>,
    /// Whether streams that say nothing about it become typed columns (`true`) or one JSON column (`false`).
    pub normalization: Option<bool>,
}

/// Compression of the pages of a Parquet file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Zstandard: small files at high speed.
    #[default]
    Zstd,
    /// Snappy: faster to write, larger files.
    Snappy,
    /// None.
    None,
}

impl ParquetConfig {
    /// Checks everything that can be checked without a connection.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: String| Error::new(Kind::Config, message);
        let [local, bucket] = [&self.local_path, &self.s3_bucket].map(|s| s.trim());
        if local.is_empty() && bucket.is_empty() {
            return Err(wrong("the writer has neither `local_path` nor `s3_bucket`".to_owned())
                .hint("set `local_path` to write to a folder, or `s3_bucket` and `s3_region` to write to S3"));
        }
        if bucket.contains(['/', ':']) {
            return Err(wrong(format!("`s3_bucket` is {bucket:?}, which is not the name of a bucket"))
                .hint("give the bare name, and the rest in `s3_path`"));
        }
        if self.max_file_size_mb < 0.0 {
            return Err(wrong(format!("`max_file_size_mb` is {}, which is not between 0 and 1048576", self.max_file_size_mb)));
        }
        Ok(())
    }
}
