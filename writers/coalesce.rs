//! Changes → one row per key: the last one counts.
//!
//! Batches are kept until there is more than the bound, then they go to disk, divided by a hash of their keys. At the end each division
//! is read backwards: of a key only the first row that is met is kept, so that memory holds keys and never rows. Does not know where
//! the rows go.
//!
//! A row may leave columns as they are ([`KEPT`]): their values are those of the row of that key before it. Where that one is among the
//! changes too, they are taken from there; where not, the row still says so when it is given.

use crate::error::{Error, Kind, Result};
use crate::spill::Spill;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of a batch's last column that says (boolean) whether the row is taken away. Without it no row is.
pub const GONE: &str = "_lakeward_gone";

/// Name of a batch's last column, behind [`GONE`], that says which columns of the row stay as they are: their places in the batch, separated by
/// commas; NULL for none. (What the row has there is NULL.)
pub const KEPT: &str = "_lakeward_kept";

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
    /// Of each of these rows, the columns that stay as they are; empty where no row has any.
    pub(crate) kept: Vec<Vec<usize>>,
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
        let mut met = Met::default();
        for batch in std::mem::take(&mut self.held).iter().rev() {
            self.give(batch, &mut met, &mut give)?;
        }
        self.give_patched(&mut met, &mut give)?;
        for mut division in std::mem::take(&mut self.divisions) {
            division.write(&self.schema, &self.spill)?;
            let Some(file) = division.file.take() else { continue };
            let mut met = Met::default();
            let mut file = file.read()?;
            for index in (0..file.len()).rev() {
                file.seek(index)?;
                let Some(batch) = file.next()? else { return Err(Error::new(Kind::Bug, "a batch that was written is missing")) };
                self.give(&batch, &mut met, &mut give)?;
            }
            self.give_patched(&mut met, &mut give)?;
        }
        Ok(())
    }

    /// Gives the rows of a batch whose keys have not been met, looking from its end. Those that leave columns as they are wait for the rows
    /// before them.
    fn give(&self, batch: &RecordBatch, met: &mut Met, give: &mut impl FnMut(Last) -> Result<()>) -> Result<()> {
        let keys = self.keys(batch)?;
        let kept = self.place(KEPT, &DataType::Utf8).map(|at| batch.column(at).as_string::<i32>());
        let gone = self.place(GONE, &DataType::Boolean).map(|at| batch.column(at).as_boolean());
        let mut last = Vec::new();
        for row in (0..batch.num_rows()).rev() {
            let (key, leaves) = (keys.row(row), kept.filter(|kept| kept.is_valid(row)).map(|kept| kept.value(row)));
            let number = || u32::try_from(row).map_err(|_| Error::new(Kind::Bug, "a batch of too many rows"));
            if let Some(waiting) = met.waiting.get_mut(key.data()) {
                let is_gone = gone.is_some_and(|gone| gone.value(row));
                if waiting.patch(batch, row, leaves, is_gone)?
                    && let Some(done) = met.waiting.remove(key.data())
                {
                    met.patched.push(done);
                }
            } else if met.seen.insert(key.data().into()) {
                match leaves {
                    None => last.push(number()?),
                    Some(leaves) => {
                        let alone = take_record_batch(batch, &UInt32Array::from(vec![number()?])).map_err(broken)?;
                        met.waiting.insert(key.data().into(), Waiting { row: alone, kept: places(leaves)? });
                    }
                }
            }
        }
        if met.patched.len() >= PATCHED {
            self.give_rows(std::mem::take(&mut met.patched), give)?;
        }
        if last.is_empty() {
            return Ok(());
        }
        last.reverse();
        self.give_picked(take_record_batch(batch, &UInt32Array::from(last)).map_err(broken)?, Vec::new(), give)
    }

    /// Gives the rows that have waited.
    fn give_patched(&self, met: &mut Met, give: &mut impl FnMut(Last) -> Result<()>) -> Result<()> {
        self.give_rows(std::mem::take(&mut met.patched), give)?;
        self.give_rows(met.waiting.drain().map(|(_, waiting)| waiting).collect(), give)
    }

    fn give_rows(&self, rows: Vec<Waiting>, give: &mut impl FnMut(Last) -> Result<()>) -> Result<()> {
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let some: Vec<Waiting> = rows.by_ref().take(PATCHED).collect();
            let batch = concat_batches(&self.schema, some.iter().map(|waiting| &waiting.row)).map_err(broken)?;
            self.give_picked(batch, some.into_iter().map(|waiting| waiting.kept).collect(), give)?;
        }
        Ok(())
    }

    fn give_picked(&self, picked: RecordBatch, kept: Vec<Vec<usize>>, give: &mut impl FnMut(Last) -> Result<()>) -> Result<()> {
        let keys = picked.project(&self.key).map_err(broken)?;
        let gone = self.place(GONE, &DataType::Boolean);
        let columns = self.schema.fields().len() - usize::from(gone.is_some()) - usize::from(self.place(KEPT, &DataType::Utf8).is_some());
        let rows = picked.project(&(0..columns).collect::<Vec<_>>()).map_err(broken)?;
        let kept = if kept.iter().all(Vec::is_empty) { Vec::new() } else { kept };
        let Some(gone) = gone.map(|at| picked.column(at).as_boolean()).filter(|gone| gone.true_count() > 0) else {
            return give(Last { keys, rows, kept });
        };
        let stays = arrow::compute::not(gone).map_err(broken)?;
        let rows = arrow::compute::filter_record_batch(&rows, &stays).map_err(broken)?;
        let kept = kept.into_iter().zip(gone.iter()).filter(|(_, gone)| *gone != Some(true)).map(|(kept, _)| kept).collect();
        give(Last { keys, rows, kept })
    }

    /// Where a column of ours is, at the end of a batch.
    fn place(&self, name: &str, data_type: &DataType) -> Option<usize> {
        let last = self.schema.fields().len().saturating_sub(2)..self.schema.fields().len();
        last.into_iter().find(|at| self.schema.field(*at).name() == name && self.schema.field(*at).data_type() == data_type)
    }
}

/// Rows that are put together before they are given.
const PATCHED: usize = 1024;

/// What has been met of a division.
#[derive(Default)]
struct Met {
    seen: HashSet<Box<[u8]>>,
    /// Rows that leave columns as they are, by their keys.
    waiting: HashMap<Box<[u8]>, Waiting>,
    /// Rows that had to wait, and are whole.
    patched: Vec<Waiting>,
}

/// A row, and the columns whose values are those of the row before it.
struct Waiting {
    row: RecordBatch,
    kept: Vec<usize>,
}

impl Waiting {
    /// Takes values from the row before; says whether nothing is missing any more.
    fn patch(&mut self, batch: &RecordBatch, row: usize, leaves: Option<&str>, is_gone: bool) -> Result<bool> {
        if is_gone {
            return Err(Error::new(Kind::Bug, "a row that was gone has columns that stay as they are"));
        }
        let older = leaves.map(places).transpose()?.unwrap_or_default();
        let index = UInt32Array::from(vec![u32::try_from(row).map_err(|_| Error::new(Kind::Bug, "a batch of too many rows"))?]);
        let mut columns = self.row.columns().to_vec();
        for at in self.kept.iter().filter(|at| !older.contains(at)) {
            let value = batch.columns().get(*at).ok_or_else(|| Error::new(Kind::Bug, format!("{KEPT}: there is no column {at}")))?;
            columns[*at] = arrow::compute::take(value, &index, None).map_err(broken)?;
        }
        self.kept.retain(|at| older.contains(at));
        self.row = RecordBatch::try_new(self.row.schema(), columns).map_err(broken)?;
        Ok(self.kept.is_empty())
    }
}

/// What [`KEPT`] says.
fn places(text: &str) -> Result<Vec<usize>> {
    let places: Option<Vec<usize>> = text.split(',').map(|place| place.parse().ok()).collect();
    places.ok_or_else(|| Error::new(Kind::Bug, format!("{KEPT}: found {text:?}, accepted: places separated by commas")))
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

    /// id 1 is whole, then left, then left again; id 2 is left of what is not among the changes; id 3 was left, and is whole in the end.
    #[test]
    fn what_stays_as_it_is_comes_from_the_change_before() {
        let fields =
            [Field::new("id", DataType::Int64, false), Field::new("a", DataType::Utf8, true), Field::new("b", DataType::Utf8, true)];
        let kept = Field::new(KEPT, DataType::Utf8, true);
        let schema = Arc::new(Schema::new([&fields[..], &[Field::new(GONE, DataType::Boolean, false), kept]].concat()));
        let text = |values: &[Option<&str>]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
        let batch = RecordBatch::try_new(
            schema.clone(),
            vec![
                Arc::new(Int64Array::from(vec![1, 2, 1, 3, 1, 3, 4])),
                text(&[Some("a1"), Some("a2"), None, None, Some("a1+"), Some("a3"), Some("a4")]),
                text(&[Some("b1"), None, Some("b1+"), Some("b3"), None, Some("b3+"), Some("b4")]),
                Arc::new(BooleanArray::from(vec![false, false, false, false, false, false, true])),
                text(&[None, Some("2"), Some("1"), Some("1"), Some("2"), None, None]),
            ],
        )
        .expect("batch");
        for bound in [usize::MAX, 0] {
            let spill = tempfile::tempdir().expect("folder");
            let mut coalescer = Coalescer::new(schema.clone(), vec![0], bound, spill.path()).expect("coalescer");
            for row in 0..batch.num_rows() {
                coalescer.push(&batch.slice(row, 1)).expect("push");
            }
            let mut found = BTreeMap::new();
            coalescer
                .finish(|Last { rows, kept, .. }| {
                    let column = |at: usize| rows.column(at).as_string::<i32>().iter().map(|v| v.map(str::to_owned)).collect::<Vec<_>>();
                    for (row, id) in rows.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
                        found.insert(*id, (column(1)[row].clone(), column(2)[row].clone(), kept.get(row).cloned().unwrap_or_default()));
                    }
                    Ok(())
                })
                .expect("finish");
            let some = |text: &str| Some(text.to_owned());
            let expected = BTreeMap::from([
                (1, (some("a1+"), some("b1+"), vec![])),
                (2, (some("a2"), None, vec![2])),
                (3, (some("a3"), some("b3+"), vec![])),
            ]);
            assert_eq!(found, expected, "bound {bound}");
        }
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
