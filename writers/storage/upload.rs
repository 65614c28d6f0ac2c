//! Writing one file of any length with bounded memory.
//!
//! To a disk: under a temporary name beside the target, then synced and renamed. To an object store:
//! one put when it is small, else a multipart upload. An upload that is dropped leaves nothing.

use super::disk::{self, TempFile};
use super::{Fuse, trouble};
use crate::{Error, Kind, Result, faults};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Bytes gathered before a disk is asked to write: a hop to another thread should be worth it.
const DISK_WRITE_BYTES: usize = 1 << 20;

/// Size of a part. All parts but the last have it, because some stores insist on equal parts;
/// with S3's limit of 10,000 parts it allows files of 78 GiB.
const PART_BYTES: usize = 8 << 20;

/// Parts under way at a time: one is sent while the next fills. With the part being gathered this
/// bounds an upload to three parts of memory.
const PARTS_IN_FLIGHT: usize = 2;

/// A file being written. [`Upload::finish`] makes it appear; dropping it abandons it.
pub struct Upload {
    sink: Sink,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    bytes: u64,
    shown: String,
    fuse: Fuse,
}

enum Sink {
    /// The file is away while a blocking task writes to it, and for good after a failure.
    Disk(Option<TempFile>),
    Store(StoreSink),
}

struct StoreSink {
    store: Arc<dyn ObjectStore>,
    path: Path,
    multipart: Option<Box<dyn MultipartUpload>>,
    parts: JoinSet<object_store::Result<()>>,
}

impl Upload {
    pub(super) fn to_disk(file: TempFile, shown: String, fuse: Fuse) -> Self {
        Self::new(Sink::Disk(Some(file)), shown, fuse)
    }

    pub(super) fn to_store(store: Arc<dyn ObjectStore>, path: Path, shown: String, fuse: Fuse) -> Self {
        Self::new(Sink::Store(StoreSink { store, path, multipart: None, parts: JoinSet::new() }), shown, fuse)
    }

    fn new(sink: Sink, shown: String, fuse: Fuse) -> Self {
        Self { sink, gathered: Vec::new(), gathered_bytes: 0, bytes: 0, shown, fuse }
    }

    /// Appends `data`. Waits while too much of what came before is still under way.
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.bytes += data.len() as u64;
        self.gathered_bytes += data.len();
        self.gathered.push(data);
        match &mut self.sink {
            Sink::Disk(_) if self.gathered_bytes >= DISK_WRITE_BYTES => self.flush_to_disk().await,
            Sink::Disk(_) => Ok(()),
            Sink::Store(sink) => {
                while self.gathered_bytes >= PART_BYTES {
                    let part = take(&mut self.gathered, PART_BYTES);
                    self.gathered_bytes -= PART_BYTES;
                    self.fuse.reach("storage.part").await?;
                    sink.send(part).await.map_err(|e| trouble::explain(e, &format!("write {}", self.shown), &self.shown))?;
                }
                Ok(())
            }
        }
    }

    /// Makes the file appear under its name, durably; returns its size.
    pub async fn finish(mut self) -> Result<u64> {
        self.fuse.reach("storage.finish").await?;
        self.flush_to_disk().await?;
        if let Sink::Disk(file) = &mut self.sink {
            let file = file.take();
            self.fuse.reach("storage.finish.written").await?;
            disk::blocking(move || file.map_or(Ok(()), TempFile::replace)).await?;
        }
        let rest = std::mem::take(&mut self.gathered).into_iter().collect::<PutPayload>();
        if let Sink::Store(sink) = &mut self.sink {
            sink.finish(rest).await.map_err(|e| trouble::explain(e, &format!("write {}", self.shown), &self.shown))?;
        }
        faults::reach("storage.finish.done").await?;
        Ok(self.bytes)
    }

    /// Writes what was gathered. The file travels into the blocking task and back, so that it is
    /// removed whichever of the two is dropped last.
    async fn flush_to_disk(&mut self) -> Result<()> {
        let Sink::Disk(file) = &mut self.sink else { return Ok(()) };
        let Some(mut open) = file.take() else {
            return Err(Error::new(Kind::Bug, "an upload was used after it had failed").doing(format!("write {}", self.shown)));
        };
        let gathered = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        let written = disk::blocking(move || {
            gathered.iter().try_for_each(|piece| open.write(piece))?;
            Ok(open)
        });
        *file = Some(written.await?);
        Ok(())
    }
}

impl StoreSink {
    async fn send(&mut self, part: PutPayload) -> object_store::Result<()> {
        while self.parts.len() >= PARTS_IN_FLIGHT {
            self.join_one().await?;
        }
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            None => self.multipart.insert(self.store.put_multipart(&self.path).await?),
        };
        self.parts.spawn(multipart.put_part(part));
        Ok(())
    }

    async fn join_one(&mut self) -> object_store::Result<()> {
        match self.parts.join_next().await {
            Some(joined) => joined?,
            None => Ok(()),
        }
    }

    async fn finish(&mut self, rest: PutPayload) -> object_store::Result<()> {
        if self.multipart.is_none() {
            return self.store.put(&self.path, rest).await.map(drop);
        }
        if rest.content_length() > 0 {
            self.send(rest).await?;
        }
        while !self.parts.is_empty() {
            self.join_one().await?;
        }
        if let Some(multipart) = &mut self.multipart {
            multipart.complete().await?;
        }
        self.multipart = None;
        Ok(())
    }
}

impl Drop for StoreSink {
    fn drop(&mut self) {
        let Some(mut multipart) = self.multipart.take() else { return };
        self.parts.abort_all();
        let path = self.path.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if multipart.abort().await.is_err() {
                    tracing::warn!(
                        "the unfinished upload of {path} could not be aborted: the bucket's lifecycle rule for multipart uploads removes it"
                    );
                }
            });
        }
    }
}

/// Takes exactly `bytes` from the front of `gathered`, which has at least as many.
fn take(gathered: &mut Vec<Bytes>, mut bytes: usize) -> PutPayload {
    let mut taken = Vec::new();
    let mut whole = 0;
    for piece in gathered.iter_mut() {
        if piece.len() > bytes {
            if bytes > 0 {
                taken.push(piece.split_to(bytes));
            }
            break;
        }
        bytes -= piece.len();
        taken.push(piece.clone());
        whole += 1;
    }
    gathered.drain(..whole);
    taken.into_iter().collect()
}
