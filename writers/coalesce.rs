//! Changes → one row per key: the last one counts.
//!
//! Batches are kept until there is more than the bound, then they go to disk, divided by a hash of their keys. At the end each division
//! is read backwards ([`met`]): of a key only the first row that is met is kept, so that memory holds keys and never rows (but for those that
//! leave columns as they are). Does not know where the rows go.
//!
//! A row may leave columns as they are ([`KEPT`]): their values are those of the row before it, which is the row of that key, or the one that it
//! was under another key ([`MOVED`]). Where that one is among the changes too, they are taken from there; where not, the row still says so when
//! it is given, and under which key the values are.
//!
//! A row that was another one goes to the division of that one, and so does everything that happens to its key from then on. What happened to the
//! key before is in another division and ended with a row that went: of a key only the division counts that it belongs to in the end.

mod keys;
mod met;
#[cfg(test)]
mod tests;

use crate::error::{Error, Kind, Result};
use crate::spill::Spill;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use foldhash::quality::RandomState;
use keys::Keys;
use met::Met;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of a batch's last column that says (boolean) whether the row is taken away. Without it no row is.
pub const GONE: &str = "_lakeward_gone";

/// Name of a batch's last column, behind [`GONE`], that says which columns of the row stay as they are: their places in the batch, separated by
/// commas, behind [`MOVED`] or [`AWAITS`] where that applies; NULL for none. (What the row has there is NULL.)
pub const KEPT: &str = "_lakeward_kept";

/// First character of what [`KEPT`] says of a row that had another key before: the row directly before it in the batch takes away the row that it
/// was, by its key, and that one's values stay.
pub const MOVED: char = '^';

/// First character of what [`KEPT`] says of a row that the table may not have yet, because it is still being filled: then the change is left out, and the
/// row comes later, as it is then.
pub const AWAITS: char = '?';

/// Divisions on disk: as much memory as the keys of one of them take is enough.
const DIVISIONS: usize = 64;
/// Rows that are gathered before they are written to a division.
const GATHERED_BYTES: usize = 64 << 10;

/// What the rows of a batch come to.
#[derive(Debug)]
pub(crate) struct Last {
    /// Key columns of every key, once.
    pub(crate) keys: RecordBatch,
    /// Rows that stay, without [`GONE`], and without [`KEPT`].
    pub(crate) rows: RecordBatch,
    /// What these rows leave as it is; `None` if none of them does.
    pub(crate) kept: Option<Kept>,
}

/// What rows leave as it is.
#[derive(Debug)]
pub(crate) struct Kept {
    /// For each row the columns; none for a row that is whole.
    pub(crate) columns: Vec<Vec<usize>>,
    /// For each row the key columns of the row that has the values: its own, or that of the row that it was.
    pub(crate) under: RecordBatch,
    /// For each row whether it is left out if that one is not there.
    pub(crate) awaits: Vec<bool>,
}

/// Collects changes.
pub(crate) struct Coalescer {
    /// Of a batch.
    schema: SchemaRef,
    key: Vec<usize>,
    bound: usize,
    spill: PathBuf,
    converter: RowConverter,
    held: Vec<RecordBatch>,
    held_bytes: usize,
    hasher: RandomState,
    divisions: Vec<Division>,
    /// Keys whose rows were rows of other keys, and the divisions where these belong.
    moved: Keys,
    moved_to: Vec<usize>,
}

struct Division {
    gathered: Vec<RecordBatch>,
    gathered_bytes: usize,
    file: Option<Spill>,
}

impl Coalescer {
    /// For batches of `schema`, whose columns `key` identify a row; up to `bound` bytes are kept in memory, more goes below `spill`.
    pub(crate) fn new(schema: SchemaRef, key: Vec<usize>, bound: usize, spill: &Path) -> Result<Self> {
        let sort = key.iter().map(|index| SortField::new(schema.field(*index).data_type().clone())).collect();
        let converter = RowConverter::new(sort).map_err(broken)?;
        Ok(Self {
            schema,
            key,
            bound,
            spill: spill.to_owned(),
            converter,
            held: Vec::new(),
            held_bytes: 0,
            hasher: RandomState::default(),
            divisions: Vec::new(),
            moved: Keys::default(),
            moved_to: Vec::new(),
        })
    }

    /// Adds changes, in their order.
    pub(crate) fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if !self.divisions.is_empty() {
            return self.divide(batch);
        }
        // A copy, because what the batch was cut from belongs to the reader's memory.
        let own = concat_batches(&self.schema, [batch]).map_err(broken)?;
        self.held_bytes += own.get_array_memory_size();
        self.held.push(own);
        if self.held_bytes > self.bound {
            self.divisions = (0..DIVISIONS).map(|_| Division { gathered: Vec::new(), gathered_bytes: 0, file: None }).collect();
            for batch in std::mem::take(&mut self.held) {
                self.divide(&batch)?;
            }
        }
        Ok(())
    }

    fn keys(&self, batch: &RecordBatch) -> Result<Rows> {
        let columns: Vec<ArrayRef> = self.key.iter().map(|index| batch.column(*index).clone()).collect();
        self.converter.convert_columns(&columns).map_err(broken)
    }

    fn divide(&mut self, batch: &RecordBatch) -> Result<()> {
        let keys = self.keys(batch)?;
        let kept = self.kept(batch);
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); DIVISIONS];
        let mut before = None;
        for (row, key) in keys.iter().enumerate() {
            let mut division = self.division(key.data());
            if kept.is_some_and(|kept| kept.is_valid(row) && kept.value(row).starts_with(MOVED)) {
                let origin = before.ok_or_else(nothing_before)?;
                if origin != division {
                    division = origin;
                    match self.moved.insert(key.data())? {
                        (_, true) => self.moved_to.push(origin),
                        (number, false) => self.moved_to[number] = origin,
                    }
                }
            }
            rows[division].push(u32::try_from(row).map_err(|_| too_many())?);
            before = Some(division);
        }
        for (number, rows) in rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let part = take_record_batch(batch, &UInt32Array::from(rows)).map_err(broken)?;
            let division = &mut self.divisions[number];
            division.gathered_bytes += part.get_array_memory_size();
            division.gathered.push(part);
            if division.gathered_bytes >= GATHERED_BYTES {
                division.write(&self.schema, &self.spill)?;
            }
        }
        Ok(())
    }

    /// Where a key belongs, as far as the changes have come.
    fn division(&self, key: &[u8]) -> usize {
        let moved = if self.moved.is_empty() { None } else { self.moved.find(key) };
        match moved {
            Some(number) => self.moved_to[number],
            None => usize::try_from(self.hasher.hash_one(key) % DIVISIONS as u64).unwrap_or(0),
        }
    }

    /// Gives the last row of each key, in pieces; memory holds the keys of one division at a time, and those that have moved.
    pub(crate) fn finish(mut self, mut give: impl FnMut(Last) -> Result<()>) -> Result<()> {
        let mut met = Met::new(&self, None);
        for batch in self.held.iter().rev() {
            met.look_at(batch, &mut give)?;
        }
        met.give_waiting(&mut give)?;
        let divisions = std::mem::take(&mut self.divisions);
        for (number, mut division) in divisions.into_iter().enumerate() {
            division.write(&self.schema, &self.spill)?;
            let Some(file) = division.file.take() else { continue };
            let mut met = Met::new(&self, Some(number));
            let mut file = file.read()?;
            for index in (0..file.len()).rev() {
                file.seek(index)?;
                let Some(batch) = file.next()? else { return Err(Error::new(Kind::Bug, "a batch that was written is missing")) };
                met.look_at(&batch, &mut give)?;
            }
            met.give_waiting(&mut give)?;
        }
        Ok(())
    }

    /// The columns of rows that do not say what becomes of them.
    fn columns(&self) -> Vec<usize> {
        let ours = [self.place(GONE, &DataType::Boolean), self.place(KEPT, &DataType::Utf8)].into_iter().flatten().count();
        (0..self.schema.fields().len() - ours).collect()
    }

    fn kept<'b>(&self, batch: &'b RecordBatch) -> Option<&'b StringArray> {
        self.place(KEPT, &DataType::Utf8).map(|at| batch.column(at).as_string::<i32>())
    }

    fn gone<'b>(&self, batch: &'b RecordBatch) -> Option<&'b BooleanArray> {
        self.place(GONE, &DataType::Boolean).map(|at| batch.column(at).as_boolean())
    }

    /// Where a column of ours is, at the end of a batch.
    fn place(&self, name: &str, data_type: &DataType) -> Option<usize> {
        let last = self.schema.fields().len().saturating_sub(2)..self.schema.fields().len();
        last.into_iter().find(|at| self.schema.field(*at).name() == name && self.schema.field(*at).data_type() == data_type)
    }
}

impl Division {
    fn write(&mut self, schema: &SchemaRef, spill: &Path) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let batch = concat_batches(schema, &std::mem::take(&mut self.gathered)).map_err(broken)?;
        self.gathered_bytes = 0;
        match &mut self.file {
            Some(file) => file.write(&batch),
            None => self.file.insert(Spill::new(spill, schema)?).write(&batch),
        }
    }
}

/// The schema of changes: `schema`, and [`GONE`].
pub fn change_schema(schema: &SchemaRef) -> SchemaRef {
    let gone = Arc::new(arrow::datatypes::Field::new(GONE, DataType::Boolean, false));
    Arc::new(arrow::datatypes::Schema::new(schema.fields().iter().cloned().chain([gone]).collect::<Vec<_>>()))
}

fn broken(e: arrow::error::ArrowError) -> Error {
    Error::new(Kind::Bug, "cannot compare keys").because(e)
}

fn too_many() -> Error {
    Error::new(Kind::Bug, "a batch of too many rows")
}

fn nothing_before() -> Error {
    Error::new(Kind::Bug, format!("{KEPT}: a row is said to have been the one before it, which does not go, or is not there"))
}
