//! Stub: local files only, until the real storage is merged.
use crate::error::{Error, Kind, Result};
use object_store::path::Path;
use std::path::PathBuf;
use tokio::io::AsyncWriteExt;

/// Stub of the store below a root folder.
#[derive(Clone, Debug)]
pub struct Storage {
    root: PathBuf,
}

/// Stub of a file that nobody can see until it is finished.
#[derive(Debug)]
pub struct Upload {
    file: tokio::fs::File,
    hidden: PathBuf,
    place: PathBuf,
    bytes: u64,
    done: bool,
}

fn failed(e: std::io::Error) -> Error {
    Error::new(Kind::Storage, e.to_string())
}

impl Storage {
    /// Stub.
    pub fn local(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Stub.
    pub async fn upload(&self, path: &Path) -> Result<Upload> {
        let place = self.root.join(path.as_ref());
        let hidden = place.with_extension("uploading");
        tokio::fs::create_dir_all(place.parent().unwrap_or(&self.root)).await.map_err(failed)?;
        let file = tokio::fs::File::create(&hidden).await.map_err(failed)?;
        Ok(Upload { file, hidden, place, bytes: 0, done: false })
    }
}

impl Upload {
    /// Stub.
    pub async fn write(&mut self, data: bytes::Bytes) -> Result<()> {
        self.bytes += data.len() as u64;
        self.file.write_all(&data).await.map_err(failed)
    }

    /// Stub.
    pub async fn finish(mut self) -> Result<u64> {
        self.file.flush().await.map_err(failed)?;
        self.file.sync_all().await.map_err(failed)?;
        tokio::fs::rename(&self.hidden, &self.place).await.map_err(failed)?;
        self.done = true;
        Ok(self.bytes)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.hidden);
        }
    }
}
