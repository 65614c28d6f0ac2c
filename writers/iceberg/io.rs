//! Files by URI: where Iceberg's metadata says that something is, on whatever store that is.
//!
//! `s3://bucket/key` (also `s3a`, `s3n`), `gs://bucket/key` (also `gcs`), `abfss://container@account.host/key` (also `abfs`, `wasb`, `wasbs`, `az`),
//! `file:///path`, `file:/path` and a plain absolute path. Stores are opened once per bucket and shared. A URI is taken as it
//! stands, as Iceberg's own libraries do: `%20` in it is three characters of the name. Knows no tables.

use crate::storage::{Storage, StoreOptions, Upload, parse};
use crate::{Error, Kind, Result, Retry};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage as IcebergStorage, StorageConfig,
    StorageFactory,
};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Every store that the tables of a catalog may lie on. Cloning shares the connections.
#[derive(Clone)]
pub(crate) struct Files(Arc<Stores>);

struct Stores {
    options: StoreOptions,
    /// By scheme and authority.
    open: Mutex<HashMap<String, Storage>>,
    #[cfg(test)]
    fail_after: Option<Storage>,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Files")
    }
}

impl Files {
    /// Nothing is opened yet.
    pub(crate) fn new(options: StoreOptions) -> Self {
        Self(Arc::new(Stores {
            options,
            open: Mutex::default(),
            #[cfg(test)]
            fail_after: None,
        }))
    }

    /// Local files, whose writing operations fail after the first `count` of them.
    #[cfg(test)]
    pub(crate) fn failing_after(count: usize) -> Self {
        let dying = Storage::local("/").failing_after(count);
        Self(Arc::new(Stores { options: StoreOptions::default(), open: Mutex::default(), fail_after: Some(dying) }))
    }

    /// The store that holds `uri`, and the path there.
    pub(crate) fn place(&self, uri: &str) -> Result<(Storage, Path)> {
        let Uri { scheme, authority, key } = Uri::split(uri)?;
        let path = parse(key).map_err(|e| e.doing(format!("find {uri}")))?;
        #[cfg(test)]
        if let Some(dying) = &self.0.fail_after {
            return Ok((dying.clone(), path));
        }
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{scheme:?}:{authority}");
        let storage = match open.get(&name) {
            Some(storage) => storage.clone(),
            None => {
                let storage = match scheme {
                    Scheme::Local => Storage::local("/"),
                    Scheme::S3 => self.0.options.s3_bucket(authority)?,
                    Scheme::Gcs => self.0.options.gcs.bucket(authority)?,
                    Scheme::Azure => self.0.options.azure.container(authority)?,
                };
                open.insert(name, storage.clone());
                storage
            }
        };
        Ok((storage, path))
    }

    /// A whole file; `None` when there is none.
    pub(crate) async fn get(&self, uri: &str) -> Result<Option<Bytes>> {
        let (storage, path) = self.place(uri)?;
        storage.get(&path).await
    }

    /// A whole file that has to be there.
    pub(crate) async fn expect(&self, uri: &str) -> Result<Bytes> {
        self.get(uri).await?.ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("{uri} is missing"))
                .hint("the table's metadata names it: restore it, or point the catalog at an older metadata file")
        })
    }

    /// Writes a file in place of what is there.
    pub(crate) async fn put(&self, uri: &str, data: Bytes) -> Result<()> {
        let (storage, path) = self.place(uri)?;
        storage.put(&path, data).await
    }

    /// Removes files; those that are not there are fine.
    pub(crate) async fn delete(&self, uris: &[String]) -> Result<()> {
        let mut by_store: HashMap<String, (Storage, Vec<Path>)> = HashMap::new();
        for uri in uris {
            let (storage, path) = self.place(uri)?;
            by_store.entry(storage.show("")).or_insert_with(|| (storage, Vec::new())).1.push(path);
        }
        for (storage, paths) in by_store.into_values() {
            storage.delete(paths).await?;
        }
        Ok(())
    }

    /// What Iceberg's library reads and writes with.
    pub(crate) fn io(&self) -> FileIO {
        FileIOBuilder::new(Arc::new(Adapter { files: Some(self.clone()) })).build()
    }
}

/// What a URI consists of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Uri<'a> {
    /// Kind of store.
    pub(crate) scheme: Scheme,
    /// Bucket, or container with its account's host; empty for local files.
    pub(crate) authority: &'a str,
    /// Path within, without a leading slash.
    pub(crate) key: &'a str,
}

/// Kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// This machine.
    Local,
    /// S3, and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure's blobs, by whichever of its names.
    Azure,
}

impl<'a> Uri<'a> {
    /// Takes a URI apart.
    pub(crate) fn split(uri: &'a str) -> Result<Self> {
        let Some((scheme, rest)) = uri.split_once(':') else { return Self::local(uri, uri) };
        let bucket = |scheme, example: &str| match rest.strip_prefix("//").and_then(|rest| rest.split_once('/').or(Some((rest, "")))) {
            Some((authority, key)) if !authority.is_empty() && !authority.starts_with('@') => {
                Ok(Self { scheme, authority, key: key.trim_matches('/') })
            }
            _ => Err(Error::new(Kind::Config, format!("{uri:?} names no bucket")).hint(format!("write {example}"))),
        };
        match scheme {
            "s3" | "s3a" | "s3n" => bucket(Scheme::S3, "s3://bucket/path"),
            "gs" | "gcs" => bucket(Scheme::Gcs, "gs://bucket/path"),
            "abfss" | "abfs" | "wasbs" | "wasb" | "az" => bucket(Scheme::Azure, "abfss://container@account.dfs.core.windows.net/path"),
            "file" => Self::local(uri, rest.strip_prefix("//").unwrap_or(rest)),
            _ if uri.starts_with('/') => Self::local(uri, uri),
            _ => {
                let message =
                    format!("{uri:?} is on a store of another kind, accepted: s3://, gs://, abfss://, file:// and absolute paths");
                Err(Error::new(Kind::Config, message))
            }
        }
    }

    fn local(uri: &str, path: &'a str) -> Result<Self> {
        match path.strip_prefix('/') {
            Some(key) => Ok(Self { scheme: Scheme::Local, authority: "", key: key.trim_matches('/') }),
            None => Err(Error::new(Kind::Config, format!("{uri:?} is not an absolute path")).hint("write file:///path, or /path")),
        }
    }
}

/// Our stores, as Iceberg's library wants them.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Adapter {
    #[serde(skip)]
    files: Option<Files>,
}

impl Adapter {
    fn place(&self, uri: &str) -> iceberg::Result<(Storage, Path)> {
        // A connection does not survive being serialised, which nothing here does.
        let files =
            self.files.as_ref().ok_or_else(|| iceberg::Error::new(iceberg::ErrorKind::Unexpected, "a store without a connection"))?;
        files.place(uri).map_err(outward)
    }
}

#[typetag::serde(name = "LakewardStorageFactory")]
impl StorageFactory for Adapter {
    fn build(&self, _: &StorageConfig) -> iceberg::Result<Arc<dyn IcebergStorage>> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
#[typetag::serde(name = "LakewardStorage")]
impl IcebergStorage for Adapter {
    async fn exists(&self, uri: &str) -> iceberg::Result<bool> {
        let (storage, path) = self.place(uri)?;
        Ok(storage.size(&path).await.map_err(outward)?.is_some())
    }

    async fn metadata(&self, uri: &str) -> iceberg::Result<FileMetadata> {
        let (storage, path) = self.place(uri)?;
        let size = storage.size(&path).await.map_err(outward)?;
        size.map(|size| FileMetadata { size }).ok_or_else(|| missing(uri))
    }

    async fn read(&self, uri: &str) -> iceberg::Result<Bytes> {
        let (storage, path) = self.place(uri)?;
        storage.get(&path).await.map_err(outward)?.ok_or_else(|| missing(uri))
    }

    async fn reader(&self, uri: &str) -> iceberg::Result<Box<dyn FileRead>> {
        let (storage, path) = self.place(uri)?;
        Ok(Box::new(Reader { storage, path }))
    }

    async fn write(&self, uri: &str, data: Bytes) -> iceberg::Result<()> {
        let (storage, path) = self.place(uri)?;
        storage.put(&path, data).await.map_err(outward)
    }

    async fn writer(&self, uri: &str) -> iceberg::Result<Box<dyn FileWrite>> {
        let (storage, path) = self.place(uri)?;
        Ok(Box::new(Writer(Some(storage.upload(&path).await.map_err(outward)?))))
    }

    async fn delete(&self, uri: &str) -> iceberg::Result<()> {
        let (storage, path) = self.place(uri)?;
        storage.delete(vec![path]).await.map_err(outward)
    }

    async fn delete_prefix(&self, uri: &str) -> iceberg::Result<()> {
        let (storage, path) = self.place(uri)?;
        storage.remove_folder(&path).await.map_err(outward)
    }

    async fn delete_stream(&self, mut uris: BoxStream<'static, String>) -> iceberg::Result<()> {
        while let Some(uri) = uris.next().await {
            self.delete(&uri).await?;
        }
        Ok(())
    }

    fn new_input(&self, uri: &str) -> iceberg::Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), uri.to_owned()))
    }

    fn new_output(&self, uri: &str) -> iceberg::Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), uri.to_owned()))
    }
}

struct Reader {
    storage: Storage,
    path: Path,
}

#[async_trait]
impl FileRead for Reader {
    async fn read(&self, range: Range<u64>) -> iceberg::Result<Bytes> {
        self.storage.get_range(&self.path, range).await.map_err(outward)
    }
}

struct Writer(Option<Upload>);

#[async_trait]
impl FileWrite for Writer {
    async fn write(&mut self, data: Bytes) -> iceberg::Result<()> {
        match &mut self.0 {
            Some(upload) => upload.write(data).await.map_err(outward),
            None => Err(closed()),
        }
    }

    async fn close(&mut self) -> iceberg::Result<()> {
        let upload = self.0.take().ok_or_else(closed)?;
        upload.finish().await.map(drop).map_err(outward)
    }
}

fn closed() -> iceberg::Error {
    iceberg::Error::new(iceberg::ErrorKind::Unexpected, "the file is closed already")
}

fn missing(uri: &str) -> iceberg::Error {
    outward(Error::new(Kind::Corrupt, format!("{uri} is missing")))
}

/// Our error on its way through Iceberg's library; [`inward`] finds it again.
fn outward(error: Error) -> iceberg::Error {
    iceberg::Error::new(iceberg::ErrorKind::Unexpected, "a store failed").with_source(error)
}

/// An error of Iceberg's library: what failed beneath it if that was a store of ours, else `kind`.
pub(crate) fn inward(error: &iceberg::Error, kind: Kind, doing: &str) -> Error {
    let ours = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>());
    match ours {
        Some(ours) => {
            let mut again = Error::new(ours.kind(), ours.to_string()).doing(doing);
            if let Some(hint) = ours.advice() {
                again = again.hint(hint);
            }
            if ours.retry() == Retry::Again { again.transient() } else { again }
        }
        None => Error::new(kind, error.message().to_owned()).doing(doing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_taken_apart() {
        let split = |uri| Uri::split(uri).map(|u| (u.scheme, u.authority, u.key));
        assert_eq!(split("s3://b/a/c%20d").expect("s3"), (Scheme::S3, "b", "a/c%20d"));
        assert_eq!(split("s3a://b").expect("s3a"), (Scheme::S3, "b", ""));
        assert_eq!(split("file:///tmp/x").expect("file"), (Scheme::Local, "", "tmp/x"));
        assert_eq!(split("file:/tmp/x").expect("file"), (Scheme::Local, "", "tmp/x"));
        assert_eq!(split("/tmp/a:b/").expect("path"), (Scheme::Local, "", "tmp/a:b"));
        assert_eq!(split("gs://b/a").expect("gs"), (Scheme::Gcs, "b", "a"));
        assert_eq!(split("abfss://c@a.dfs.core.windows.net/k/l").expect("abfss"), (Scheme::Azure, "c@a.dfs.core.windows.net", "k/l"));
        assert_eq!(split("az://c/k").expect("az"), (Scheme::Azure, "c", "k"));
        for wrong in ["s3://", "s3:///x", "gs://", "abfss://@a.b/c", "tmp/x", "file://tmp/x", "ftp://x/y"] {
            assert!(Uri::split(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn an_error_of_a_store_comes_back_as_it_was() {
        let files = Files::failing_after(0);
        let error = files.io().new_output("/tmp/nowhere/x").expect("output").write(Bytes::from_static(b"x")).await.expect_err("fails");
        let error = inward(&error, Kind::Bug, "write a manifest");
        assert!(error.kind() == Kind::Storage && error.to_string().contains("write a manifest"), "{error}");
    }
}
