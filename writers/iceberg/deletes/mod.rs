//! Rows that are to go, by where they are: from keys to places in data files, and from places to delete files.
//!
//! A change of rows names keys. Equality deletes can be committed as they are; position deletes (format version 2) and deletion vectors
//! (version 3) need to know in which file, and where in it, the rows with these keys are. [`KeyIndex`] knows: a local index of key hashes,
//! which is a cache of the committed table and nothing else. It is advanced by one code path, which compares it with a snapshot and reads
//! the key columns of data files that it has not seen; so losing it at any moment costs work, never rows.
//!
//! Promises: every row of the current snapshot that has one of the keys is found. Rows that are gone already may be found again, as long
//! as that does no harm (a position that is deleted twice is deleted once). Does not know how a change is committed, or when.

mod hash;
mod index;
mod keys;
mod known;
mod position;
mod reading;
mod rows;
mod run;
mod vector;

pub(crate) use {index::KeyIndex, position::position_deletes, rows::read_rows, vector::deletion_vectors};
#[cfg(feature = "faults")]
pub(crate) use {index::parse_head, vector::parse as parse_vector};

use iceberg::spec::{NestedFieldRef, Struct};
use roaring::RoaringTreemap;

/// Key of a snapshot's summary: the snapshot removed all older rows of the keys of the rows that it added. The value names the key's columns.
const CHANGES: &str = "lakeward.changes";

/// What the summary of a snapshot has to say that adds rows and removes all older rows that have their keys, by any kind of delete file.
/// Without it nothing is lost, but the index goes on to find the older rows.
pub(crate) fn summary(key: &[NestedFieldRef]) -> (String, String) {
    (CHANGES.to_owned(), ids(key))
}

fn ids(key: &[NestedFieldRef]) -> String {
    let mut ids: Vec<i32> = key.iter().map(|field| field.id).collect();
    ids.sort_unstable();
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

/// Rows by where they are.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// By data file, in the order of their paths; each has at least one row.
    pub(crate) files: Vec<FilePlaces>,
}

impl Places {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// How many rows.
    pub(crate) fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.positions.len() as u64).sum()
    }
}

/// Rows of one data file.
#[derive(Debug)]
pub(crate) struct FilePlaces {
    /// The data file, as the table names it.
    pub(crate) path: String,
    /// Its partition spec.
    pub(crate) spec: i32,
    /// Its partition.
    pub(crate) partition: Struct,
    /// Sequence number of the snapshot that added it.
    pub(crate) added: i64,
    /// Where the rows are, from 0; sorted, each once. None of them is in `vector`.
    pub(crate) positions: Vec<u32>,
    /// The deletion vector that the data file has already.
    pub(crate) vector: Option<OldVector>,
}

/// A deletion vector that is there.
#[derive(Debug)]
pub(crate) struct OldVector {
    /// The Puffin file.
    pub(crate) puffin: String,
    /// Where in it.
    pub(crate) offset: i64,
    /// The positions that it deletes.
    pub(crate) positions: RoaringTreemap,
}

#[cfg(test)]
mod tests;
