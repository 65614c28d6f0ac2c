//! Keys of several files, read side by side.
//!
//! Promises that a file that was not read to its end is an error, whatever became of the task that read it. Chunks of different files
//! come in any order; those of one file in theirs.

use super::hash::KeyHash;
use super::keys::KeyReader;
use crate::{Error, Kind, Result};
use futures::{StreamExt, TryStreamExt, stream};
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Files that are read at a time: enough to hide a store's latency.
const FILES_AT_ONCE: usize = 4;
/// Chunks that wait: two for each file.
const CHUNKS: usize = 2 * FILES_AT_ONCE;

/// A file to be read.
#[derive(Debug)]
pub(super) struct Source {
    /// Tells its chunks from others.
    pub(super) number: u32,
    /// URI.
    pub(super) path: String,
    /// How many rows it has to have.
    pub(super) rows: Option<u64>,
}

/// Keys of rows that follow each other.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The file's.
    pub(super) number: u32,
    /// Number of the first row.
    pub(super) first: u32,
    /// Their hashes.
    pub(super) hashes: Vec<Option<KeyHash>>,
}

/// Files that are being read. Dropping it ends that.
pub(super) struct Reading {
    chunks: Receiver<Result<Option<Chunk>>>,
    /// Files that have not come to their end.
    left: usize,
}

impl Reading {
    /// Begins.
    pub(super) fn begin(reader: Arc<KeyReader>, sources: Vec<Source>) -> Self {
        let (sender, chunks) = channel(CHUNKS);
        let left = sources.len();
        tokio::spawn(async move {
            let tasks = sources.into_iter().map(|source| {
                let (reader, sender) = (reader.clone(), sender.clone());
                async move {
                    if sender.is_closed() {
                        return;
                    }
                    let read = tokio::spawn(read(reader, source, sender.clone())).await;
                    let end = match read {
                        Ok(read) => read.map(|()| None),
                        Err(error) => Err(Error::new(Kind::Bug, "a file was not read to its end").because(error)),
                    };
                    // Who does not listen any more has failed for another reason.
                    let _: Result<(), _> = sender.send(end).await;
                }
            });
            stream::iter(tasks).buffer_unordered(FILES_AT_ONCE).collect::<()>().await;
        });
        Self { chunks, left }
    }

    /// The next keys; `None` when all files were read to their ends.
    pub(super) async fn next(&mut self) -> Result<Option<Chunk>> {
        while self.left > 0 {
            match self.chunks.recv().await {
                Some(Ok(Some(chunk))) => return Ok(Some(chunk)),
                Some(Ok(None)) => self.left -= 1,
                Some(Err(error)) => return Err(error),
                None => return Err(Error::new(Kind::Bug, "files were not read to their ends")),
            }
        }
        Ok(None)
    }
}

async fn read(reader: Arc<KeyReader>, source: Source, sender: Sender<Result<Option<Chunk>>>) -> Result<()> {
    let Source { number, path, rows: wanted } = source;
    let other = |rows: u64, wanted: u64| {
        Error::new(Kind::Corrupt, format!("{path} has {rows} rows, and the table's metadata says {wanted}"))
            .hint("restore the file, or point the catalog at an older metadata file")
    };
    let (rows, hashes) = reader.read(&path).await?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted != rows) {
        return Err(other(rows, wanted));
    }
    if u32::try_from(rows).is_err() {
        return Err(Error::new(Kind::Schema, format!("{path} has {rows} rows, accepted: 4294967295"))
            .hint("rewrite it as smaller files, or set delete_files to equality"));
    }
    let mut hashes = pin!(hashes);
    let mut first: u32 = 0;
    while let Some(hashes) = hashes.try_next().await? {
        let next = u32::try_from(hashes.len()).ok().and_then(|more| first.checked_add(more));
        let next = next.filter(|next| u64::from(*next) <= rows).ok_or_else(|| other(rows + 1, rows))?;
        if sender.send(Ok(Some(Chunk { number, first, hashes }))).await.is_err() {
            return Ok(());
        }
        first = next;
    }
    if u64::from(first) == rows { Ok(()) } else { Err(other(first.into(), rows)) }
}
