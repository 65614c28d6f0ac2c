//! The values that travel between an engine and a writer. No I/O here.

use crate::order::SortKey;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a table should look like in the destination.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// Destination database (namespace); a folder in a file layout.
    pub database: String,
    /// Table name within the database.
    pub name: String,
    /// Columns, in order. Each batch staged later has exactly these, and after them those of `partition_only`.
    pub schema: SchemaRef,
    /// Partition expression in one of OLake's grammars; empty means none.
    pub partition_regex: String,
    /// Columns that batches carry for the expression alone; they are not written.
    pub partition_only: Vec<FieldRef>,
    /// The columns that identify a row, if any do: of `schema`, and never NULL.
    pub key: Vec<String>,
    /// What the source says of columns, by name. Writers that keep no such thing leave it alone.
    pub notes: BTreeMap<String, ColumnNote>,
    /// Which table of the source it is; numbers of columns mean something within it. Another one of the same name is another.
    pub source: String,
    /// Who writes, where several write one table: tokens are kept for each. Empty means nobody else does.
    pub writer: String,
    /// The order of the rows of a file: columns of `schema`. Empty means that it does not matter.
    pub sort_order: Vec<SortKey>,
    /// Other names that the expression may use, each for a column of `schema` or `partition_only`.
    pub partition_names: BTreeMap<String, String>,
}

impl Default for TableSpec {
    fn default() -> Self {
        Self {
            database: String::new(),
            name: String::new(),
            schema: Arc::new(Schema::empty()),
            partition_regex: String::new(),
            partition_only: Vec::new(),
            key: Vec::new(),
            notes: BTreeMap::new(),
            source: String::new(),
            writer: String::new(),
            sort_order: Vec::new(),
            partition_names: BTreeMap::new(),
        }
    }
}

/// What a source says of a column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnNote {
    /// What it is for.
    pub doc: Option<String>,
    /// Its number in the source, which stays when it is renamed and is never given again.
    pub number: Option<u32>,
    /// The source promises that it is never NULL.
    pub required: bool,
}

impl TableSpec {
    /// The schema of the batches that are staged.
    pub fn batches(&self) -> SchemaRef {
        match self.partition_only.is_empty() {
            true => self.schema.clone(),
            false => Arc::new(Schema::new(self.schema.fields().iter().chain(&self.partition_only).cloned().collect::<Vec<_>>())),
        }
    }
}

/// The name of a part: deterministic, so that staging again after a crash replaces and never adds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PartName {
    /// Identifies one load of one table; letters, digits and `-` only.
    pub generation: String,
    /// Number of the part within the generation.
    pub sequence: u32,
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:05}", self.generation, self.sequence)
    }
}

/// What a part holds, for progress and summaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Rows.
    pub rows: u64,
    /// Files.
    pub files: u64,
    /// Bytes as stored.
    pub bytes: u64,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// Staged output that no reader can see. It is written to the state file, so that it survives the
/// process; forms that were ever written must stay readable.
pub trait Part: Clone + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What the part holds.
    fn stats(&self) -> Stats;
}

/// The progress mark stored with the data. Opaque to the writer; equal tokens are the same commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub String);

/// What a commit does to the rows that are already visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Commit {
    /// Adds to them.
    Append,
    /// Takes their place.
    Replace,
}

/// A commit of one table, to be made together with those of others.
pub struct Joint<'t, T: crate::Table> {
    /// The table.
    pub table: &'t mut T,
    /// What is made visible.
    pub parts: Vec<T::Part>,
    /// The mark stored with it.
    pub token: Token,
    /// What becomes of the rows that are there.
    pub how: Commit,
}
