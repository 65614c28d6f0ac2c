//! The `writer` object of `{"type": "PARQUET", "writer": {…}}`: as written, and as meant.
//!
//! Key names and the choice between disk and S3 are OLake's. [`ParquetConfig::resolve`] turns what
//! was written into a [`Place`] and encoding options once; nothing looks at the keys after that.
//! Unknown keys are not noticed here: the program compares with the schema, and can then suggest.

use super::encode::{Compression as Codec, EncodeOptions};
use crate::storage::{COPY_BYTES_MAX, S3Credentials, S3Options};
use crate::{Error, Kind, Result, Secret};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;

const MIB: f64 = 1_048_576.0;

/// Size of a file when `max_file_size_mb` is absent or 0.
const FILE_MB_DEFAULT: f64 = 512.0;
/// Size of a file that readers like.
const FILE_MB_WANTED: f64 = 256.0;

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

/// Where the files go.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A folder.
    Local(PathBuf),
    /// A bucket. An empty region is still to be found out.
    S3(S3Options),
}

/// How often a request that failed for a passing reason is sent again: about a minute's worth.
const RETRIES: usize = 8;

impl ParquetConfig {
    /// Checks everything that can be checked without a connection.
    pub fn validate(&self) -> Result<()> {
        self.resolve().map(drop)
    }

    /// What was written, as it is meant.
    pub(crate) fn resolve(&self) -> Result<(Place, EncodeOptions)> {
        let place = self.place()?;
        let options =
            EncodeOptions { compression: self.codec()?, file_bytes_max: self.file_bytes_max(&place)?, ..EncodeOptions::default() };
        Ok((place, options))
    }

    /// The size that a file of a large table should have, below the one at which it is closed: what is left over beyond that would
    /// be a file of its own.
    pub fn file_bytes_wanted(&self) -> u64 {
        let most = if self.max_file_size_mb > 0.0 { self.max_file_size_mb } else { FILE_MB_DEFAULT };
        ((most * 0.75).min(FILE_MB_WANTED) * MIB) as u64
    }

    fn place(&self) -> Result<Place> {
        let [local, bucket, region] = [&self.local_path, &self.s3_bucket, &self.s3_region].map(|s| s.trim());
        match (bucket.is_empty(), region.is_empty(), local.is_empty()) {
            (false, false, _) | (false, true, true) => self.s3(bucket, region).map(Place::S3),
            (true, _, true) => Err(wrong("the writer has neither `local_path` nor `s3_bucket`")
                .hint("set `local_path` to write to a folder, or `s3_bucket` and `s3_region` to write to S3")),
            (_, _, false) => {
                if !bucket.is_empty() {
                    tracing::warn!("`s3_bucket` is ignored: `s3_region` is empty and `local_path` is set, so files go to {local}");
                }
                Ok(Place::Local(local.into()))
            }
        }
    }

    fn s3(&self, bucket: &str, region: &str) -> Result<S3Options> {
        if bucket.contains(['/', ':']) {
            return Err(wrong(format!("`s3_bucket` is {bucket:?}, which is not the name of a bucket"))
                .hint("give the bare name, and the rest in `s3_path`"));
        }
        let endpoint = self.endpoint()?;
        let region = if region.is_empty() && endpoint.is_some() { "us-east-1" } else { region };
        Ok(S3Options {
            bucket: bucket.to_owned(),
            region: region.to_owned(),
            prefix: prefix(&self.s3_path, bucket)?,
            // A certificate for *.s3.amazonaws.com does not cover a bucket name with dots.
            path_style: self.s3_path_style.unwrap_or(endpoint.is_some() || bucket.contains('.')),
            endpoint,
            credentials: self.credentials(),
            retries: RETRIES,
        })
    }

    fn endpoint(&self) -> Result<Option<String>> {
        let endpoint = self.s3_endpoint.trim().trim_end_matches('/');
        if endpoint.is_empty() {
            return Ok(None);
        }
        // The address is shown in errors, so it must not carry a password; nor is it repeated here.
        let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        match host {
            None => Err(wrong("`s3_endpoint` does not begin with http:// or https://").hint("write it like http://localhost:9000")),
            Some(host) if host.contains('@') => {
                Err(wrong("`s3_endpoint` holds a user name").hint("give the keys in `s3_access_key` and `s3_secret_key`"))
            }
            Some(host) if host.is_empty() || host.contains(['?', '#', ' ']) => Err(wrong("`s3_endpoint` is not the address of a host")),
            Some(_) => Ok(Some(endpoint.to_owned())),
        }
    }

    fn credentials(&self) -> S3Credentials {
        let profile = self.s3_profile.trim();
        match (self.s3_access_key.is_empty(), self.s3_secret_key.is_empty()) {
            (false, false) => S3Credentials::Keys {
                access: Secret::new(self.s3_access_key.expose().trim()),
                secret: Secret::new(self.s3_secret_key.expose().trim()),
                session: self.s3_session_token.clone(),
            },
            (access, secret) => {
                if access != secret {
                    let missing = if access { "s3_access_key" } else { "s3_secret_key" };
                    tracing::warn!("`{missing}` is empty, so the other key is ignored and credentials come from the environment");
                }
                S3Credentials::Chain { profile: (!profile.is_empty()).then(|| profile.to_owned()) }
            }
        }
    }

    fn codec(&self) -> Result<Codec> {
        match (self.compression, self.compression_level) {
            (Compression::Zstd, None) => Ok(Codec::Zstd(1)),
            (Compression::Zstd, Some(level @ 1..=22)) => Ok(Codec::Zstd(level)),
            (Compression::Zstd, Some(level)) => Err(wrong(format!("`compression_level` is {level}, zstd has 1 to 22"))),
            (Compression::Snappy, None) => Ok(Codec::Snappy),
            (Compression::None, None) => Ok(Codec::None),
            (_, Some(_)) => Err(wrong("`compression_level` is for zstd only").hint("remove it, or set `compression` to zstd")),
        }
    }

    fn file_bytes_max(&self, place: &Place) -> Result<u64> {
        let mb = if self.max_file_size_mb == 0.0 { FILE_MB_DEFAULT } else { self.max_file_size_mb };
        // One request copies a file into place on S3, and a file passes its mark by up to a row group.
        let most = match place {
            Place::S3(_) => COPY_BYTES_MAX as f64 / MIB * 0.8,
            Place::Local(_) => 1024.0 * 1024.0,
        };
        if !(mb > 0.0 && mb <= most) {
            return Err(wrong(format!("`max_file_size_mb` is {mb}, which is not between 0 and {most}")));
        }
        Ok((mb * MIB).max(1.0) as u64)
    }
}

/// `s3_path` as a key prefix. A URL is accepted when it names the same bucket.
fn prefix(path: &str, bucket: &str) -> Result<String> {
    let path = path.trim();
    let path = match path.strip_prefix("s3://").or_else(|| path.strip_prefix("s3a://")) {
        Some(url) => {
            let (named, rest) = url.split_once('/').unwrap_or((url, ""));
            if named != bucket {
                return Err(wrong(format!("`s3_path` names the bucket {named:?} and `s3_bucket` names {bucket:?}"))
                    .hint("give `s3_path` as a key prefix without the bucket"));
            }
            rest
        }
        None => path,
    };
    let path = path.trim_matches('/');
    if path.split('/').any(|part| matches!(part, "." | "..")) || (!path.is_empty() && path.split('/').any(str::is_empty)) {
        return Err(wrong(format!("`s3_path` is {path:?}: a key prefix cannot have empty parts, `.` or `..`")));
    }
    Ok(path.to_owned())
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> ParquetConfig {
        serde_json::from_str(json).expect("a config")
    }

    fn refused(json: &str) -> String {
        let error = parse(json).validate().expect_err("refused");
        assert_eq!(error.kind(), Kind::Config);
        error.to_string()
    }

    #[test]
    fn disk_or_s3_is_chosen_as_olake_does() {
        let check = |json: &str, expected: &str| {
            let place = match parse(json).resolve().expect("valid").0 {
                Place::Local(path) => path.display().to_string(),
                Place::S3(o) => format!("{} {} {}", o.bucket, o.region, o.prefix),
            };
            assert_eq!(place, expected, "{json}");
        };
        check(r#"{"normalization": true, "local_path": "./configs/reader"}"#, "./configs/reader");
        check(r#"{"s3_bucket": "b", "s3_region": "eu-west-1", "local_path": "/tmp"}"#, "b eu-west-1 ");
        check(r#"{"s3_bucket": "b", "s3_region": "", "local_path": "/tmp"}"#, "/tmp");
        check(r#"{"s3_bucket": "olake", "s3_region": "", "s3_access_key": "", "s3_secret_key": "", "s3_path": ""}"#, "olake  ");
        check(r#"{"s3_bucket": "b", "s3_endpoint": "http://localhost:9000/"}"#, "b us-east-1 ");
        check(r#"{"s3_bucket": "b", "s3_region": "r", "s3_path": "/a/b/"}"#, "b r a/b");
        check(r#"{"s3_bucket": "b", "s3_region": "r", "s3_path": "s3a://b/a/"}"#, "b r a");
        check(r#"{"s3_bucket": "b", "s3_region": "r", "s3_path": "s3://b"}"#, "b r ");
    }

    #[test]
    fn mistakes_are_named() {
        let check = |json: &str, part: &str| {
            let message = refused(json);
            assert!(message.contains(part), "{message}");
        };
        check("{}", "neither `local_path` nor `s3_bucket`");
        check(r#"{"s3_bucket": "s3://b", "s3_region": "r"}"#, "not the name of a bucket");
        check(r#"{"s3_bucket": "b", "s3_region": "r", "s3_path": "s3://c/x"}"#, "names the bucket \"c\"");
        check(r#"{"s3_bucket": "b", "s3_region": "r", "s3_path": "a/../b"}"#, "`s3_path` is \"a/../b\"");
        check(r#"{"s3_bucket": "b", "s3_region": "r", "s3_path": "a//b"}"#, "empty parts");
        check(r#"{"s3_bucket": "b", "s3_endpoint": "localhost:9000"}"#, "http:// or https://");
        check(r#"{"local_path": "/x", "max_file_size_mb": -1}"#, "`max_file_size_mb` is -1");
        check(r#"{"s3_bucket": "b", "s3_region": "r", "max_file_size_mb": 5000}"#, "between 0 and 4096");
        check(r#"{"local_path": "/x", "compression_level": 23}"#, "1 to 22");
        check(r#"{"local_path": "/x", "compression": "snappy", "compression_level": 3}"#, "zstd only");
        let message = refused(r#"{"s3_bucket": "b", "s3_endpoint": "http://user:hunter2@host"}"#);
        assert!(message.contains("user name") && !message.contains("hunter2"), "{message}");
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let options = |json: &str| parse(json).resolve().expect("valid").1;
        assert_eq!(options(r#"{"local_path": "/x"}"#).file_bytes_max, 512 << 20);
        assert_eq!(options(r#"{"local_path": "/x", "max_file_size_mb": 0.5}"#).file_bytes_max, 512 << 10);
        assert_eq!(options(r#"{"local_path": "/x"}"#).compression, Codec::Zstd(1));
        assert_eq!(options(r#"{"local_path": "/x", "compression": "none"}"#).compression, Codec::None);
        assert_eq!(options(r#"{"local_path": "/x", "compression_level": 9}"#).compression, Codec::Zstd(9));
    }

    #[test]
    fn every_key_of_a_bucket_reaches_the_store() {
        let store = |json: &str| match parse(json).resolve().expect("valid").0 {
            Place::S3(options) => options,
            Place::Local(path) => panic!("{}", path.display()),
        };
        let options = store(
            r#"{"s3_bucket": "b", "s3_region": "r", "s3_path": "p", "s3_endpoint": "http://localhost:9000", "s3_access_key": "AKIA1", "s3_secret_key": "hunter2",
                "s3_session_token": "tok"}"#,
        );
        assert_eq!((options.bucket.as_str(), options.region.as_str(), options.prefix.as_str()), ("b", "r", "p"));
        assert_eq!((options.endpoint.as_deref(), options.path_style), (Some("http://localhost:9000"), true));
        match options.credentials {
            S3Credentials::Keys { access, secret, session } => {
                assert_eq!((access.expose(), secret.expose(), session.expose()), ("AKIA1", "hunter2", "tok"));
            }
            S3Credentials::Chain { .. } | S3Credentials::Given(_) => panic!("the keys were not taken"),
        }
        let options = store(r#"{"s3_bucket": "b", "s3_region": "r", "s3_profile": "work", "s3_path_style": true}"#);
        assert!(matches!(options.credentials, S3Credentials::Chain { profile: Some(name) } if name == "work"));
        assert!(options.path_style);
        let options = store(r#"{"s3_bucket": "b", "s3_endpoint": "http://localhost:9000", "s3_path_style": false}"#);
        assert!(!options.path_style);
    }

    #[test]
    fn no_secret_is_shown() {
        let config = parse(
            r#"{"s3_bucket": "b", "s3_region": "r", "s3_access_key": "AKIA1", "s3_secret_key": "hunter2", "s3_session_token": "tok"}"#,
        );
        let shown = format!("{config:?} {:?}", config.resolve().expect("valid").0);
        assert!(!["AKIA1", "hunter2", "tok\""].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
}
