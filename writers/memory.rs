//! A destination that keeps its tables in memory: the reference implementation of the contract, the
//! double for tests of an engine, and the example to read before writing a destination.
//!
//! Clones share their tables, so a clone is what the same place looks like to the next process.

use crate::{Commit, Destination, Error, Kind, Part, PartName, Result, Stats, Table, TableSpec, Token};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{Stream, TryStreamExt};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tables in memory.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    tables: Arc<Mutex<Tables>>,
}

/// By database and name.
type Tables = HashMap<(String, String), Arc<Mutex<Stored>>>;

/// One open table.
#[derive(Debug)]
pub struct MemoryTable {
    stored: Arc<Mutex<Stored>>,
    /// As of the last commit: `committed` lends it out, which a lock could not.
    token: Option<Token>,
    /// How many columns are written.
    columns: usize,
    batches: SchemaRef,
    label: String,
}

/// A staged part: it names what the table keeps for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPart {
    name: PartName,
    stats: Stats,
}

#[derive(Debug, Default)]
struct Stored {
    visible: Vec<RecordBatch>,
    token: Option<Token>,
    staged: HashMap<PartName, Vec<RecordBatch>>,
    /// Whether a [`MemoryTable`] has it open: one writer at a time.
    open: bool,
}

impl Memory {
    /// No tables yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The visible rows of a table; `None` when it does not exist or was never committed.
    pub fn rows(&self, database: &str, name: &str) -> Option<Vec<RecordBatch>> {
        let stored = lock(&self.tables).get(&key(database, name))?.clone();
        let stored = lock(&stored);
        stored.token.as_ref().map(|_| stored.visible.clone())
    }

    /// The parts that are staged for a table.
    pub fn staged(&self, database: &str, name: &str) -> Vec<PartName> {
        let stored = lock(&self.tables).get(&key(database, name)).cloned();
        stored.map(|stored| lock(&stored).staged.keys().cloned().collect()).unwrap_or_default()
    }
}

impl Destination for Memory {
    type Table = MemoryTable;

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn open(&self, spec: &TableSpec) -> Result<MemoryTable> {
        let label = format!("{}.{}", spec.database, spec.name);
        let stored = lock(&self.tables).entry(key(&spec.database, &spec.name)).or_default().clone();
        let token = {
            let mut stored = lock(&stored);
            if stored.open {
                return Err(Error::new(Kind::Conflict, format!("another run is writing {label}")));
            }
            stored.open = true;
            stored.token.clone()
        };
        Ok(MemoryTable { stored, token, columns: spec.schema.fields().len(), batches: spec.batches(), label })
    }

    async fn drop_table(&self, database: &str, name: &str) -> Result<()> {
        lock(&self.tables).remove(&key(database, name));
        Ok(())
    }
}

impl Table for MemoryTable {
    type Part = MemoryPart;

    fn committed(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    fn stage<S, E>(&self, name: PartName, batches: S) -> impl Future<Output = Result<MemoryPart, E>> + Send + 'static + use<S, E>
    where
        S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (stored, schema, columns, label) = (self.stored.clone(), self.batches.clone(), self.columns, self.label.clone());
        async move {
            let batches: Vec<RecordBatch> = batches.try_collect().await?;
            if batches.iter().any(|batch| batch.schema() != schema) {
                return Err(Error::new(Kind::Bug, format!("a batch of part {name} does not have the schema of {label}")).into());
            }
            let written: Vec<usize> = (0..columns).collect();
            let batches = batches.iter().map(|batch| batch.project(&written)).collect::<std::result::Result<Vec<_>, _>>();
            let batches = batches.map_err(|e| Error::new(Kind::Bug, "cannot leave out columns").because(e))?;
            let stats = Stats {
                rows: batches.iter().map(|b| b.num_rows() as u64).sum(),
                files: 0,
                bytes: batches.iter().map(|b| b.get_array_memory_size() as u64).sum(),
            };
            lock(&stored).staged.insert(name.clone(), batches);
            Ok(MemoryPart { name, stats })
        }
    }

    async fn adopt(&mut self, remembered: Vec<MemoryPart>) -> Result<Vec<Option<MemoryPart>>> {
        let mut stored = lock(&self.stored);
        let kept: Vec<_> = remembered.into_iter().map(|part| stored.staged.contains_key(&part.name).then_some(part)).collect();
        let wanted: HashSet<_> = kept.iter().flatten().map(|part| &part.name).collect();
        stored.staged.retain(|name, _| wanted.contains(name));
        Ok(kept)
    }

    async fn commit(&mut self, parts: Vec<MemoryPart>, token: Token, how: Commit) -> Result<()> {
        let mut stored = lock(&self.stored);
        if stored.token.as_ref() == Some(&token) {
            parts.iter().for_each(|part| drop(stored.staged.remove(&part.name)));
            return Ok(());
        }
        // Everything that can fail comes before anything that shows.
        if let Some(lost) = parts.iter().find(|part| !stored.staged.contains_key(&part.name)) {
            return Err(Error::new(Kind::Conflict, format!("part {} of {} is not staged any more", lost.name, self.label)));
        }
        if how == Commit::Replace {
            stored.visible.clear();
        }
        for part in parts {
            let batches = stored.staged.remove(&part.name).unwrap_or_default();
            stored.visible.extend(batches);
        }
        stored.token = Some(token.clone());
        self.token = Some(token);
        Ok(())
    }
}

impl Drop for MemoryTable {
    fn drop(&mut self) {
        lock(&self.stored).open = false;
    }
}

impl Part for MemoryPart {
    fn stats(&self) -> Stats {
        self.stats
    }
}

fn key(database: &str, name: &str) -> (String, String) {
    (database.to_owned(), name.to_owned())
}

/// A panic of another test thread does not make the tables unusable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Subject, all, ids};

    #[tokio::test]
    async fn memory_keeps_the_promises() {
        let memory = Memory::new();
        let (fresh, rows, left) = (memory.clone(), memory.clone(), memory);
        all(&Subject {
            fresh: Box::new(move || Box::pin(std::future::ready(fresh.clone()))),
            dying: None,
            rows: Box::new(move |spec| {
                let found = rows.rows(&spec.database, &spec.name).map(|batches| ids(&batches));
                Box::pin(std::future::ready(found))
            }),
            leftovers: Box::new(move |spec| {
                let names = left.staged(&spec.database, &spec.name).iter().map(ToString::to_string).collect();
                Box::pin(std::future::ready(names))
            }),
            replaces_in_one_step: true,
            decides_in_one_step: false,
        })
        .await;
    }
}
