//! Table properties that a writer honours (Iceberg's documentation, "Table properties"). Pure.

use crate::parquet::encode::{Compression, EncodeOptions};
use crate::{Error, Kind, Result};
use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

/// What a table's properties say about writing to it.
#[derive(Clone, Debug)]
pub(crate) struct Properties {
    /// `commit.retry.num-retries`.
    pub(crate) retries: u32,
    /// `commit.retry.min-wait-ms`, `commit.retry.max-wait-ms`.
    pub(crate) waits: (Duration, Duration),
    /// `commit.retry.total-timeout-ms`.
    pub(crate) patience: Duration,
    /// `commit.manifest-merge.enabled`.
    pub(crate) merges_manifests: bool,
    /// `commit.manifest.target-size-bytes`.
    pub(crate) manifest_bytes: i64,
    /// `commit.manifest.min-count-to-merge`.
    pub(crate) manifests_to_merge: usize,
    /// `write.data.path`.
    pub(crate) data_path: Option<String>,
    /// `write.object-storage.enabled`.
    pub(crate) hashed_paths: bool,
    /// `write.object-storage.partitioned-paths`.
    pub(crate) partitioned_paths: bool,
    /// `lakeward.expire-snapshots`, unless `gc.enabled` is false.
    pub(crate) expires: bool,
    /// `history.expire.min-snapshots-to-keep`.
    pub(crate) snapshots_kept: usize,
    /// `history.expire.max-snapshot-age-ms`; younger ones are kept however many they are.
    pub(crate) snapshot_age_ms: i64,
    compression: Option<String>,
    compression_level: Option<i32>,
    file_bytes: Option<u64>,
    row_group_bytes: Option<usize>,
    delete_file_bytes: Option<u64>,
}

/// Iceberg's own default is 4, with which ten writers to one table do not all get through.
const RETRIES: u32 = 30;

/// Table property: whether commits let old snapshots expire. Only tables that we create have it.
pub(crate) const EXPIRE: &str = "lakeward.expire-snapshots";
/// Table property: how many snapshots are kept.
pub(crate) const KEPT: &str = "history.expire.min-snapshots-to-keep";
/// Snapshots that are kept where nothing is said: a day at one commit in five minutes, most of a year at one a day.
pub(crate) const KEPT_USUALLY: usize = 300;

impl Properties {
    /// Reads them.
    ///
    /// # Errors
    /// [`Kind::Config`] for a value that is none.
    pub(crate) fn of(properties: &HashMap<String, String>) -> Result<Self> {
        fn read<T: FromStr>(properties: &HashMap<String, String>, key: &str, accepted: &str) -> Result<Option<T>> {
            let Some(text) = properties.get(key) else { return Ok(None) };
            text.trim().to_ascii_lowercase().parse().map(Some).map_err(|_| {
                Error::new(Kind::Config, format!("table property {key}: found {text:?}, accepted: {accepted}"))
                    .hint("correct the property with the engine that owns the table")
            })
        }
        let number = |key| read::<u64>(properties, key, "a number");
        let flag = |key| read::<bool>(properties, key, "true, false");
        let size = |key| number(key).map(|n| n.filter(|n| *n > 0));
        let millis = |key, default| Ok::<_, Error>(Duration::from_millis(number(key)?.unwrap_or(default)));
        Ok(Self {
            retries: read(properties, "commit.retry.num-retries", "a number")?.unwrap_or(RETRIES),
            waits: (millis("commit.retry.min-wait-ms", 100)?, millis("commit.retry.max-wait-ms", 60_000)?),
            patience: millis("commit.retry.total-timeout-ms", 1_800_000)?,
            merges_manifests: flag("commit.manifest-merge.enabled")?.unwrap_or(true),
            manifest_bytes: i64::try_from(size("commit.manifest.target-size-bytes")?.unwrap_or(8 << 20)).unwrap_or(i64::MAX),
            manifests_to_merge: usize::try_from(size("commit.manifest.min-count-to-merge")?.unwrap_or(100)).unwrap_or(usize::MAX).max(2),
            data_path: properties.get("write.data.path").map(|path| path.trim_end_matches('/').to_owned()),
            hashed_paths: flag("write.object-storage.enabled")?.unwrap_or(false),
            partitioned_paths: flag("write.object-storage.partitioned-paths")?.unwrap_or(true),
            expires: flag(EXPIRE)?.unwrap_or(false) && flag("gc.enabled")?.unwrap_or(true),
            snapshots_kept: usize::try_from(number(KEPT)?.unwrap_or(KEPT_USUALLY as u64)).unwrap_or(usize::MAX),
            snapshot_age_ms: i64::try_from(number("history.expire.max-snapshot-age-ms")?.unwrap_or(0)).unwrap_or(i64::MAX),
            compression: properties.get("write.parquet.compression-codec").map(|codec| codec.trim().to_ascii_lowercase()),
            compression_level: read(properties, "write.parquet.compression-level", "a number")?,
            file_bytes: size("write.target-file-size-bytes")?,
            row_group_bytes: size("write.parquet.row-group-size-bytes")?.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            delete_file_bytes: size("write.delete.target-file-size-bytes")?,
        })
    }

    /// How files with rows are encoded; `usual` where the properties say nothing.
    pub(crate) fn encoding(&self, usual: &EncodeOptions) -> EncodeOptions {
        let compression = match (self.compression.as_deref(), self.compression_level) {
            (Some("zstd"), Some(level @ 1..=22)) => Compression::Zstd(level),
            (Some("snappy"), _) => Compression::Snappy,
            (Some("uncompressed" | "none"), _) => Compression::None,
            // Readers take any codec in any file: what is not known here is no reason to stop.
            _ => usual.compression,
        };
        EncodeOptions {
            compression,
            file_bytes_max: self.file_bytes.unwrap_or(usual.file_bytes_max),
            row_group_bytes: self.row_group_bytes.unwrap_or(usize::MAX).min(usual.row_group_bytes),
            ..usual.clone()
        }
    }

    /// How files of deleted keys are encoded.
    pub(crate) fn delete_encoding(&self, usual: &EncodeOptions) -> EncodeOptions {
        EncodeOptions { file_bytes_max: self.delete_file_bytes.unwrap_or(64 << 20), ..self.encoding(usual) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_honoured_and_nonsense_is_refused() {
        let of = |pairs: &[(&str, &str)]| Properties::of(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        let read = of(&[
            ("commit.retry.num-retries", "2"),
            ("write.target-file-size-bytes", "1000"),
            ("write.parquet.compression-codec", "ZSTD"),
            ("write.parquet.compression-level", "7"),
            ("commit.manifest-merge.enabled", "False"),
        ])
        .expect("properties");
        let encoding = read.encoding(&EncodeOptions::default());
        assert_eq!((read.retries, read.merges_manifests), (2, false));
        assert_eq!((encoding.file_bytes_max, encoding.compression), (1000, Compression::Zstd(7)));
        let error = of(&[("commit.retry.num-retries", "many")]).expect_err("no number");
        assert!(error.kind() == Kind::Config && error.to_string().contains("\"many\""), "{error}");
    }
}
