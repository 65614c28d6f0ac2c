//! Stages parts: files below the table's staging folder, and where each belongs once it is committed.
//!
//! Rows go to one open file per partition path. Promises that no file gets its final name here. Leaves the files of a failed or
//! dropped part where they are staged: whoever adopts parts removes them. Does not know how files are published.

use super::labels::Rows;
use super::partition::PartitionExpression;
use super::roll::{self, Rolled, Roller, Sorter};
use crate::error::{Error, Kind, Result};
use crate::naming;
use crate::storage::Storage;
use crate::table::{Part, PartName, Stats};
use arrow::array::RecordBatch;
use chrono::{DateTime, Utc};
use futures::Stream;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Sorts rows into the folders of a partition expression.
pub(crate) struct ByFolder {
    /// Where files go.
    pub(crate) storage: Storage,
    /// Folder of this table's staged files.
    pub(crate) staging: Path,
    /// How many of a batch's columns are written: the first so many.
    pub(crate) columns: usize,
    /// How rows are divided into folders.
    pub(crate) partition: Option<PartitionExpression>,
    /// When the run began, for `now()` in partition expressions: one instant for all parts.
    pub(crate) now: DateTime<Utc>,
}

/// What staging into one table needs.
pub(crate) type Stager = Roller<ByFolder>;

impl Sorter for ByFolder {
    /// The folder, escaped; empty without a partition expression.
    type Group = String;

    fn divides(&self) -> bool {
        self.partition.is_some()
    }

    fn route(&self, batch: &RecordBatch) -> Result<Vec<(String, Rows)>> {
        match &self.partition {
            Some(expression) => expression.paths(batch, self.now),
            None => Ok(vec![(String::new(), Rows::All)]),
        }
    }

    fn written(&self, batch: RecordBatch) -> Result<RecordBatch> {
        if self.columns == batch.num_columns() {
            return Ok(batch);
        }
        let columns: Vec<usize> = (0..self.columns).collect();
        batch.project(&columns).map_err(|e| Error::new(Kind::Bug, "cannot leave out the columns that only partition").because(e))
    }

    fn place(&self, _: &String, part: &PartName, number: u32) -> Result<(Storage, Path)> {
        let staged = naming::staged_name(&naming::file_name(part, number));
        Ok((self.storage.clone(), self.staging.clone().join(staged)))
    }
}

/// Staged files with rows of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParquetPart {
    /// Name of the part.
    pub name: PartName,
    /// Its files; none when it has no rows.
    pub files: Vec<StagedFile>,
    /// Rows of all files.
    pub rows: u64,
}

/// A complete file that waits for its commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// Where it is, below the root of the store.
    pub staged: String,
    /// Where it belongs, below the table's folder: partition path and final name. Escaped already, to be
    /// read with [`Path::parse`] (`Path::from` would escape the percent signs again).
    pub target: String,
    /// Rows.
    pub rows: u64,
    /// Bytes as stored.
    pub bytes: u64,
}

impl Part for ParquetPart {
    fn stats(&self) -> Stats {
        Stats { rows: self.rows, files: self.files.len() as u64, bytes: self.files.iter().map(|file| file.bytes).sum() }
    }
}

/// Stages `batches` as the part `name`; see [`Table::stage`](crate::Table::stage).
pub(crate) async fn stage<S, E>(stager: Arc<Stager>, name: PartName, batches: S) -> Result<ParquetPart, E>
where
    S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
    E: From<Error> + Send + 'static,
{
    let files = roll::roll(stager, name.clone(), batches).await?;
    Ok(part(name, files))
}

/// Stages one file without rows, so that a table without rows can still be read with its columns.
pub(crate) async fn empty_file(stager: Arc<Stager>, name: PartName) -> Result<ParquetPart> {
    let files = roll::empty_file(stager, name.clone(), String::new()).await?;
    Ok(part(name, files))
}

fn part(name: PartName, files: Vec<Rolled<String>>) -> ParquetPart {
    let staged = |file: Rolled<String>| {
        let own = naming::file_name(&name, file.number);
        let target = if file.group.is_empty() { own } else { format!("{}/{own}", file.group) };
        StagedFile { staged: file.path.to_string(), target, rows: file.rows, bytes: file.bytes }
    };
    let files: Vec<StagedFile> = files.into_iter().map(staged).collect();
    ParquetPart { rows: files.iter().map(|file| file.rows).sum(), name, files }
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
