//! Stages changes: files with the rows that stay, and files with the keys of all rows that they take the place of.
//!
//! What the keys become (equality deletes, position deletes, deletion vectors) is decided when they are committed. Promises that a part has
//! each key once, in bounded memory. Does not know commits.

use super::recall::Recall;
use super::stage::{self, StagedFile, Stager};
use crate::coalesce::{Coalescer, Kept, Last};
use crate::error::{Error, Kind, Result};
use crate::table::PartName;
use arrow::array::RecordBatch;
use futures::{Stream, TryStreamExt};
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, channel};

/// What staging changes needs beside the stager of rows.
#[derive(Clone)]
pub(crate) struct ChangeStager {
    /// For files with rows.
    pub(crate) rows: Arc<Stager>,
    /// For files with keys.
    pub(crate) keys: Arc<Stager>,
    /// Places of the key's columns in a batch.
    pub(crate) key: Vec<usize>,
    /// Bytes of changes that are kept in memory.
    pub(crate) bound: usize,
}

/// Stages `batches`; gives the files with rows and those with keys.
pub(super) async fn stage<S, E>(
    stager: ChangeStager,
    recall: Recall,
    name: PartName,
    batches: S,
) -> Result<(Vec<StagedFile>, Vec<StagedFile>), E>
where
    S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
    E: From<Error> + Send + 'static,
{
    let mut coalescer: Option<Coalescer> = None;
    let mut batches = Box::pin(batches);
    while let Some(batch) = batches.try_next().await? {
        let (ChangeStager { key, bound, .. }, taken) = (stager.clone(), coalescer.take());
        coalescer = Some(
            blocking(move || {
                let mut coalescer = match taken {
                    Some(coalescer) => coalescer,
                    None => Coalescer::new(batch.schema(), key, bound, &std::env::temp_dir())?,
                };
                coalescer.push(&batch)?;
                Ok(coalescer)
            })
            .await?,
        );
    }
    let Some(coalescer) = coalescer else { return Ok((Vec::new(), Vec::new())) };
    // One on its way while the next is made.
    let ((rows, rows_of), (keys, keys_of)) = (channel::<Result<(RecordBatch, Option<Kept>)>>(1), channel(1));
    let whole = stream(rows_of).and_then(move |(rows, kept)| {
        let recall = recall.clone();
        async move {
            match kept {
                Some(kept) => recall.fill(rows, kept).await,
                None => Ok(rows),
            }
        }
    });
    let give = blocking(move || {
        let abandoned = || Error::new(Kind::Bug, "the files of changes were abandoned");
        coalescer.finish(|last| {
            let Last { keys: key_columns, rows: row_columns, kept } = last;
            keys.blocking_send(Ok(key_columns)).map_err(|_| abandoned())?;
            if row_columns.num_rows() > 0 {
                rows.blocking_send(Ok((row_columns, kept))).map_err(|_| abandoned())?;
            }
            Ok(())
        })
    });
    let (given, staged_rows, staged_keys) = tokio::join!(
        give,
        stage::stage(stager.rows.clone(), name.clone(), whole),
        stage::stage(stager.keys.clone(), name, stream(keys_of))
    );
    // The writers know best why nothing was taken any more.
    let (staged_rows, staged_keys) = (staged_rows?, staged_keys?);
    given?;
    Ok((staged_rows, staged_keys))
}

fn stream<T: Send + 'static>(receiver: Receiver<Result<T>>) -> impl Stream<Item = Result<T>> + Send + 'static {
    futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(Kind::Bug, "changes could not be sorted out").because(error)),
    }
}
