//! Changes looked at backwards: which row of a key is the last, and what it takes from the rows before it.

use super::keys::Keys;
use super::{AWAITS, Coalescer, KEPT, Kept, Last, MOVED, broken, nothing_before, too_many};
use crate::error::{Error, Kind, Result};
use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::util::display::array_value_to_string;
use std::collections::HashMap;

/// Rows that are put together before they are given.
const PATCHED: usize = 1024;

/// What has been met of a division.
pub(super) struct Met<'c> {
    changes: &'c Coalescer,
    /// The division; `None` if there are none.
    division: Option<usize>,
    keys: Keys,
    /// Rows that leave columns as they are, by the numbers of the keys of the rows that have the values.
    waiting: HashMap<usize, Waiting>,
    /// Rows that had to wait, and are whole.
    patched: Vec<Waiting>,
}

impl<'c> Met<'c> {
    /// Nothing yet.
    pub(super) fn new(changes: &'c Coalescer, division: Option<usize>) -> Self {
        Self { changes, division, keys: Keys::default(), waiting: HashMap::new(), patched: Vec::new() }
    }

    /// Gives the rows of a batch whose keys have not been met, looking from its end. Those that leave columns as they are wait for the rows
    /// before them.
    pub(super) fn look_at(&mut self, batch: &RecordBatch, give: &mut impl FnMut(Last) -> Result<()>) -> Result<()> {
        let keys = self.changes.keys(batch)?;
        let (kept, gone) = (self.changes.kept(batch), self.changes.gone(batch));
        let mut last = Vec::new();
        // What waits for a row that was another one, between that row and the one before it, which tells its key.
        let mut moved: Option<Waiting> = None;
        for row in (0..batch.num_rows()).rev() {
            let key = keys.row(row);
            let key = key.data();
            let leaves = kept.filter(|kept| kept.is_valid(row)).map(|kept| Leaves::read(kept.value(row))).transpose()?;
            let is_gone = gone.is_some_and(|gone| gone.value(row));
            if moved.is_some() && gone.is_some() && !is_gone {
                return Err(nothing_before());
            }
            let mut moves = None;
            let (number, is_new) = self.keys.insert(key)?;
            if !is_new && let Some(mut waiting) = self.waiting.remove(&number) {
                if is_gone || moved.is_some() {
                    return Err(self.twice(batch, row));
                }
                waiting.patch(batch, row, leaves.as_ref())?;
                match leaves {
                    _ if waiting.kept.is_empty() => self.patched.push(waiting),
                    Some(Leaves { moved: true, .. }) => moves = Some(waiting),
                    _ => drop(self.waiting.insert(number, waiting)),
                }
            } else if is_new && self.counts(key) {
                match leaves {
                    None => last.push(u32::try_from(row).map_err(|_| too_many())?),
                    Some(_) if is_gone => return Err(Error::new(Kind::Bug, format!("{KEPT}: a row goes and stays as it is"))),
                    Some(leaves) => {
                        let row = alone(batch, row)?;
                        let waiting = Waiting { under: self.parts(&row)?.0, row, kept: leaves.columns, awaits: leaves.awaits };
                        match leaves.moved {
                            true => moves = Some(waiting),
                            false => drop(self.waiting.insert(number, waiting)),
                        }
                    }
                }
            }
            // The row that goes has nothing to give, those before it have.
            if let Some(mut waiting) = std::mem::replace(&mut moved, moves) {
                waiting.under = alone(&batch.project(&self.changes.key).map_err(broken)?, row)?;
                self.waiting.insert(number, waiting);
            }
        }
        if moved.is_some() {
            return Err(nothing_before());
        }
        if self.patched.len() >= PATCHED {
            let patched = std::mem::take(&mut self.patched);
            self.give_rows(patched, give)?;
        }
        if last.is_empty() {
            return Ok(());
        }
        last.reverse();
        let picked = take_record_batch(batch, &UInt32Array::from(last)).map_err(broken)?;
        let (keys, mut rows) = self.parts(&picked)?;
        if let Some(gone) = self.changes.gone(&picked).filter(|gone| gone.true_count() > 0) {
            let stays = arrow::compute::not(gone).map_err(broken)?;
            rows = arrow::compute::filter_record_batch(&rows, &stays).map_err(broken)?;
        }
        give(Last { keys, rows, kept: None })
    }

    /// Gives the rows that have waited.
    pub(super) fn give_waiting(mut self, give: &mut impl FnMut(Last) -> Result<()>) -> Result<()> {
        let patched = std::mem::take(&mut self.patched);
        self.give_rows(patched, give)?;
        let waiting = self.waiting.drain().map(|(_, waiting)| waiting).collect();
        self.give_rows(waiting, give)
    }

    fn give_rows(&self, rows: Vec<Waiting>, give: &mut impl FnMut(Last) -> Result<()>) -> Result<()> {
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let some: Vec<Waiting> = rows.by_ref().take(PATCHED).collect();
            let batch = concat_batches(&self.changes.schema, some.iter().map(|waiting| &waiting.row)).map_err(broken)?;
            let (keys, rows) = self.parts(&batch)?;
            let kept = match some.iter().all(|waiting| waiting.kept.is_empty()) {
                true => None,
                false => {
                    let under = concat_batches(&keys.schema(), some.iter().map(|waiting| &waiting.under)).map_err(broken)?;
                    let awaits = some.iter().map(|waiting| waiting.awaits).collect();
                    Some(Kept { columns: some.into_iter().map(|waiting| waiting.kept).collect(), under, awaits })
                }
            };
            give(Last { keys, rows, kept })?;
        }
        Ok(())
    }

    /// Keys, and rows, of rows of a batch.
    fn parts(&self, picked: &RecordBatch) -> Result<(RecordBatch, RecordBatch)> {
        Ok((picked.project(&self.changes.key).map_err(broken)?, picked.project(&self.changes.columns()).map_err(broken)?))
    }

    /// Whether the rows of a key that are here are the last of it.
    fn counts(&self, key: &[u8]) -> bool {
        self.division.is_none_or(|division| self.changes.moved.is_empty() || self.changes.division(key) == division)
    }

    /// A row whose values a later one keeps is gone.
    #[cold]
    fn twice(&self, batch: &RecordBatch, row: usize) -> Error {
        let shown = |at: &usize| {
            let value = array_value_to_string(batch.column(*at), row).unwrap_or_default();
            format!("{} = {value}", self.changes.schema.field(*at).name())
        };
        let key: Vec<String> = self.changes.key.iter().map(shown).collect();
        Error::new(
            Kind::Conflict,
            format!("the row with {} was changed after it was gone, and leaves values as they were: a filter has let it go and wants it again, or the source has several rows with this key", key.join(", ")),
        )
        .hint("ALTER TABLE … REPLICA IDENTITY FULL has large values logged that are not touched, then load the table anew (sync --reload); or identify rows by columns that are unique in the source")
    }
}

/// What [`KEPT`] says of a row.
struct Leaves {
    columns: Vec<usize>,
    moved: bool,
    awaits: bool,
}

impl Leaves {
    fn read(text: &str) -> Result<Self> {
        let (moved, awaits) = (text.starts_with(MOVED), text.starts_with(AWAITS));
        let places = text.trim_start_matches([MOVED, AWAITS]);
        let columns: Option<Vec<usize>> = places.split(',').map(|place| place.parse().ok()).collect();
        let bad = || {
            Error::new(Kind::Bug, format!("{KEPT}: found {text:?}, accepted: places separated by commas, {MOVED} or {AWAITS} before them"))
        };
        Ok(Self { columns: columns.ok_or_else(bad)?, moved, awaits })
    }
}

/// A row, and the columns whose values are those of the row before it.
struct Waiting {
    row: RecordBatch,
    kept: Vec<usize>,
    /// Key columns of the row before it.
    under: RecordBatch,
    /// Whether that one may be yet to come ([`AWAITS`]).
    awaits: bool,
}

impl Waiting {
    /// Takes the values that the row before has.
    fn patch(&mut self, batch: &RecordBatch, row: usize, leaves: Option<&Leaves>) -> Result<()> {
        let is_left = |at: &usize| leaves.is_some_and(|leaves| leaves.columns.contains(at));
        let index = UInt32Array::from(vec![u32::try_from(row).map_err(|_| too_many())?]);
        let mut columns = self.row.columns().to_vec();
        for at in self.kept.iter().filter(|at| !is_left(at)) {
            let value = batch.columns().get(*at).ok_or_else(|| Error::new(Kind::Bug, format!("{KEPT}: there is no column {at}")))?;
            columns[*at] = arrow::compute::take(value, &index, None).map_err(broken)?;
        }
        self.kept.retain(is_left);
        self.awaits &= leaves.is_some_and(|leaves| leaves.awaits);
        self.row = RecordBatch::try_new(self.row.schema(), columns).map_err(broken)?;
        Ok(())
    }
}

/// One row as a batch that holds nothing else.
fn alone(batch: &RecordBatch, row: usize) -> Result<RecordBatch> {
    take_record_batch(batch, &UInt32Array::from(vec![u32::try_from(row).map_err(|_| too_many())?])).map_err(broken)
}
