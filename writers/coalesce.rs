//! Changes → one row per key: the last one counts.
//!
//! Batches are kept until there is more than the bound, then they go to disk, divided by a hash of their keys. At the end each division
//! is read backwards: of a key only the first row that is met is kept, so that memory holds keys and never rows. Does not know where
//! the rows go.

use crate::error::{Error, Kind, Result};
use crate::spill::Spill;
use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of a batch's last column that says (boolean) whether the row is taken away. Without it no row is.
pub const GONE: &str = "_lakeward_gone";

/// Divisions on disk: as much memory as the keys of one of them take is enough.
const DIVISIONS: usize = 64;
/// Rows that are gathered before they are written to a division.
const GATHERED_BYTES: usize = 64 << 10;

/// What the rows of a batch come to.
#[derive(Debug)]
pub(crate) struct Last {
    /// Key columns of every key, once.
    pub(crate) keys: RecordBatch,
    /// Rows that stay, without [`GONE`].
    pub(crate) rows: RecordBatch,
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
            hasher: RandomState::new(),
            divisions: Vec::new(),
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
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); DIVISIONS];
        for (row, key) in (0u32..).zip(keys.iter()) {
            let hash = self.hasher.hash_one(key.data());
            rows[usize::try_from(hash % DIVISIONS as u64).unwrap_or(0)].push(row);
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

    /// Gives the last row of each key, in pieces; memory holds the keys of one division at a time.
    pub(crate) fn finish(mut self, mut give: impl FnMut(Last) -> Result<()>) -> Result<()> {
        let mut seen = HashSet::new();
        for batch in std::mem::take(&mut self.held).iter().rev() {
            self.give(batch, &mut seen, &mut give)?;
        }
        for mut division in std::mem::take(&mut self.divisions) {
            division.write(&self.schema, &self.spill)?;
            let Some(file) = division.file.take() else { continue };
            let mut seen = HashSet::new();
            let mut file = file.read()?;
            for index in (0..file.len()).rev() {
                file.seek(index)?;
                let Some(batch) = file.next()? else { return Err(Error::new(Kind::Bug, "a batch that was written is missing")) };
                self.give(&batch, &mut seen, &mut give)?;
            }
        }
        Ok(())
    }

    /// Gives the rows of a batch whose keys have not been seen, looking from its end.
    fn give(&self, batch: &RecordBatch, seen: &mut HashSet<Box<[u8]>>, give: &mut impl FnMut(Last) -> Result<()>) -> Result<()> {
        let keys = self.keys(batch)?;
        let mut last = Vec::new();
        for row in (0..batch.num_rows()).rev() {
            if seen.insert(keys.row(row).data().into()) {
                last.push(u32::try_from(row).map_err(|_| Error::new(Kind::Bug, "a batch of too many rows"))?);
            }
        }
        if last.is_empty() {
            return Ok(());
        }
        last.reverse();
        let picked = take_record_batch(batch, &UInt32Array::from(last)).map_err(broken)?;
        let keys = picked.project(&self.key).map_err(broken)?;
        let columns = self.schema.fields().len();
        let gone = self.schema.fields().last().filter(|field| is_gone(field.name(), field.data_type()));
        let rows = match gone {
            None => picked,
            Some(_) => {
                let stays = arrow::compute::not(picked.column(columns - 1).as_boolean()).map_err(broken)?;
                let rows = picked.project(&(0..columns - 1).collect::<Vec<_>>()).map_err(broken)?;
                if stays.true_count() == rows.num_rows() {
                    rows
                } else {
                    arrow::compute::filter_record_batch(&rows, &stays).map_err(broken)?
                }
            }
        };
        give(Last { keys, rows })
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

/// Whether a column is [`GONE`].
pub(crate) fn is_gone(name: &str, data_type: &DataType) -> bool {
    name == GONE && *data_type == DataType::Boolean
}

/// The schema of changes: `schema`, and [`GONE`].
pub fn change_schema(schema: &SchemaRef) -> SchemaRef {
    let gone = Arc::new(arrow::datatypes::Field::new(GONE, DataType::Boolean, false));
    Arc::new(arrow::datatypes::Schema::new(schema.fields().iter().cloned().chain([gone]).collect::<Vec<_>>()))
}

fn broken(e: arrow::error::ArrowError) -> Error {
    Error::new(Kind::Bug, "cannot compare keys").because(e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BooleanArray, Int64Array, StringArray};
    use arrow::datatypes::{Field, Int64Type, Schema};
    use std::collections::BTreeMap;

    fn schema() -> SchemaRef {
        change_schema(&Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("v", DataType::Utf8, true)])))
    }

    /// What is left of `changes` (key, value, gone) that come in batches of three.
    fn left(changes: &[(i64, String, bool)], bound: usize) -> (BTreeMap<i64, String>, Vec<i64>) {
        let spill = tempfile::tempdir().expect("folder");
        let mut coalescer = Coalescer::new(schema(), vec![0], bound, spill.path()).expect("coalescer");
        for changes in changes.chunks(3) {
            let ids = Int64Array::from_iter_values(changes.iter().map(|c| c.0));
            let values = StringArray::from_iter_values(changes.iter().map(|c| &c.1));
            let gone = BooleanArray::from_iter(changes.iter().map(|c| Some(c.2)));
            coalescer
                .push(&RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(values), Arc::new(gone)]).expect("batch"))
                .expect("push");
        }
        let (mut rows, mut keys) = (BTreeMap::new(), Vec::new());
        coalescer
            .finish(|last| {
                keys.extend(last.keys.column(0).as_primitive::<Int64Type>().values());
                for (id, value) in
                    last.rows.column(0).as_primitive::<Int64Type>().values().iter().zip(last.rows.column(1).as_string::<i32>())
                {
                    assert!(rows.insert(*id, value.expect("value").to_owned()).is_none(), "{id} comes once");
                }
                assert_eq!(last.rows.num_columns(), 2);
                Ok(())
            })
            .expect("finish");
        assert_eq!(std::fs::read_dir(spill.path()).expect("folder").count(), 0, "nothing stays");
        keys.sort_unstable();
        (rows, keys)
    }

    #[test]
    fn the_last_change_of_a_key_counts_in_memory_and_on_disk() {
        let changes: Vec<_> = (0..5000_i64).map(|n| (n * 7919 % 613, format!("v{n}"), n * 31 % 5 == 0)).collect();
        let mut model = BTreeMap::new();
        for (key, value, gone) in &changes {
            model.insert(*key, (!gone).then(|| value.clone()));
        }
        let expected: BTreeMap<_, _> = model.iter().filter_map(|(key, value)| Some((*key, value.clone()?))).collect();
        for bound in [usize::MAX, 1000, 0] {
            let (rows, keys) = left(&changes, bound);
            assert_eq!(rows, expected, "bound {bound}");
            assert_eq!(keys, model.keys().copied().collect::<Vec<_>>(), "bound {bound}");
        }
    }
}
