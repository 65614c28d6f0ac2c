//! Values that a change leaves as they are, from the rows that the table has.
//!
//! Only for rows that need it: their keys are looked up in the index of keys, and the columns that are missing are read from the data files.
//! Promises: a value is that of the row that the last commit shows, or there is an error that names the key under which it was looked for.
//! Does not know where changes come from.

use super::catalog::Loaded;
use super::deletes::{KeyIndex, read_rows};
use crate::coalesce::Kept;
use crate::{Error, Kind, Result};
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, interleave, take};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use iceberg::spec::NestedFieldRef;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The index of a table's keys, opened when it is first needed.
pub(super) type SharedIndex = Arc<Mutex<Option<KeyIndex>>>;

/// Finds values again.
#[derive(Clone)]
pub(super) struct Recall {
    /// The table as the changes find it.
    pub(super) loaded: Loaded,
    /// Its index, and where that is.
    pub(super) index: SharedIndex,
    /// Folder for indexes.
    pub(super) index_root: PathBuf,
    /// The field of each column of a batch.
    pub(super) fields: Vec<NestedFieldRef>,
    /// Places of the key's columns in a batch.
    pub(super) key: Vec<usize>,
}

impl Recall {
    /// The rows with the values of the columns that they leave as they are.
    pub(super) async fn fill(&self, rows: RecordBatch, Kept { columns: kept, under, awaits }: Kept) -> Result<RecordBatch> {
        let needy: Vec<u32> = (0..).zip(&kept).filter(|(_, kept)| !kept.is_empty()).map(|(row, _)| row).collect();
        if needy.is_empty() {
            return Ok(rows);
        }
        let picked = UInt32Array::from(needy.clone());
        let keys: Vec<ArrayRef> =
            under.columns().iter().map(|column| take(column, &picked, None)).collect::<Result<_, _>>().map_err(bug)?;
        let mut wanted: Vec<usize> = kept.iter().flatten().copied().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let places = {
            let mut index = self.index.lock().await;
            let mut open = match index.take() {
                Some(open) => open,
                None => {
                    let key: Vec<NestedFieldRef> = self.key.iter().filter_map(|at| self.fields.get(*at).cloned()).collect();
                    KeyIndex::open(&self.index_root, &self.loaded, &key).await?
                }
            };
            let places = open.find_keys(&self.loaded, &keys).await?;
            *index = Some(open);
            places
        };
        let columns: Vec<usize> = self.key.iter().chain(&wanted).copied().collect();
        let ids: Vec<i32> = columns.iter().filter_map(|at| self.fields.get(*at)).map(|field| field.id).collect();
        let schema: SchemaRef = Arc::new(Schema::new(columns.iter().map(|at| rows.schema().field(*at).clone()).collect::<Vec<_>>()));
        let found = read_rows(&self.loaded.files, &places, &ids, &schema).await?;

        let sort = self.key.iter().map(|at| SortField::new(rows.schema().field(*at).data_type().clone())).collect();
        let converter = RowConverter::new(sort).map_err(bug)?;
        // Of each key, the row in the file that was added last: (batch, row, added).
        let mut newest: HashMap<Box<[u8]>, (usize, usize, i64)> = HashMap::new();
        for (number, one) in found.iter().enumerate() {
            let keys = converter.convert_columns(&one.batch.columns()[..self.key.len()]).map_err(bug)?;
            for (row, key) in keys.iter().enumerate() {
                let entry = newest.entry(key.data().into()).or_insert((number, row, one.added));
                if one.added > entry.2 {
                    *entry = (number, row, one.added);
                }
            }
        }
        let asked = converter.convert_columns(&keys).map_err(bug)?;
        let mut absent = Vec::new();
        let mut sources: HashMap<u32, (usize, usize)> = HashMap::new();
        for (row, key) in needy.iter().zip(asked.iter()) {
            match newest.get(key.data()) {
                Some((batch, place, _)) => drop(sources.insert(*row, (*batch + 1, *place))),
                None if awaits.get(*row as usize) == Some(&true) => absent.push(*row as usize),
                None => return Err(self.missing(&under, *row as usize)),
            }
        }
        let mut filled = rows.columns().to_vec();
        for (number, at) in wanted.iter().enumerate() {
            // The rows themselves are the first of the arrays.
            let arrays: Vec<&dyn Array> = std::iter::once(rows.column(*at).as_ref())
                .chain(found.iter().map(|one| one.batch.column(self.key.len() + number).as_ref()))
                .collect();
            let indices: Vec<(usize, usize)> = (0..rows.num_rows())
                .map(|row| match kept.get(row).is_some_and(|kept| kept.contains(at)) {
                    true => u32::try_from(row).ok().and_then(|row| sources.get(&row).copied()).unwrap_or((0, row)),
                    false => (0, row),
                })
                .collect();
            filled[*at] = interleave(&arrays, &indices).map_err(bug)?;
        }
        let filled = RecordBatch::try_new(rows.schema(), filled).map_err(bug)?;
        if absent.is_empty() {
            return Ok(filled);
        }
        let is_there: BooleanArray = (0..filled.num_rows()).map(|row| Some(!absent.contains(&row))).collect();
        filter_record_batch(&filled, &is_there).map_err(bug)
    }

    fn missing(&self, under: &RecordBatch, row: usize) -> Error {
        let shown = |(column, field): (&ArrayRef, &FieldRef)| {
            let value = array_value_to_string(column, row).unwrap_or_default();
            format!("{} = {value}", field.name())
        };
        let key: Vec<String> = under.columns().iter().zip(under.schema_ref().fields()).map(shown).collect();
        Error::new(
            Kind::Conflict,
            format!(
                "the row with {} was changed, and the table does not have it, nor the values that the change leaves as they are",
                key.join(", ")
            ),
        )
        .hint(
            "with a filter, it came by an UPDATE that did not touch its large values: ALTER TABLE … REPLICA IDENTITY FULL has them logged; without one, \
             somebody else has removed it. Either way load the table anew: clear-destination for this stream, then sync",
        )
    }
}

fn bug(e: arrow::error::ArrowError) -> Error {
    Error::new(Kind::Bug, "cannot put rows together").because(e)
}
