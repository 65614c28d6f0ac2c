//! How stores of each kind are reached, before it is known which buckets there are.

use super::cloud::{AzureOptions, GcsOptions};
use super::{S3Options, Storage};
use crate::{Error, Kind, Result};

/// Access to every kind of store.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreOptions {
    /// S3 and what speaks its protocol; bucket and prefix are filled in for each bucket.
    pub(crate) s3: Option<S3Options>,
    /// Google Cloud Storage.
    pub(crate) gcs: GcsOptions,
    /// Azure.
    pub(crate) azure: AzureOptions,
}

impl StoreOptions {
    /// A whole bucket.
    pub(crate) fn s3_bucket(&self, bucket: &str) -> Result<Storage> {
        let options = self.s3.clone().ok_or_else(|| {
            Error::new(Kind::Config, format!("s3://{bucket} is needed, and nothing says how S3 is reached"))
                .hint("set `aws_region` and the keys beside it")
        })?;
        Storage::s3(S3Options { bucket: bucket.to_owned(), prefix: String::new(), ..options })
    }
}
