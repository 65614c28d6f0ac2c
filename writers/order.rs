//! Rows in an order: how it is written, and sorting a part in bounded memory.
//!
//! Batches are kept until there is more than the bound; then they are sorted and go to disk as a run, and the runs are merged at the end. Rows
//! that are equal stay in the order that they came in. Does not know where the rows go.

use crate::error::{Error, Kind, Result};
use crate::spill::{Spill, Spilt};
use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{SortOptions, concat_batches, interleave_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc::channel;

/// A column that rows are sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortKey {
    /// Its name.
    pub column: String,
    /// Largest first.
    pub descending: bool,
    /// NULLs before everything else.
    pub nulls_first: bool,
}

/// How it is written, for messages.
const GRAMMAR: &str = "columns with commas between them, each followed by nothing, ASC or DESC, and NULLS FIRST or NULLS LAST";

/// Reads a sort order: `created_at desc, "Order Id" nulls last`. As in Iceberg's engines, NULLs come first where small values do, unless it is said
/// otherwise. Empty means none.
///
/// # Errors
/// [`Kind::Config`] for what is no such list.
pub fn sort_keys(text: &str) -> Result<Vec<SortKey>> {
    let wrong = |what: String| Error::new(Kind::Config, format!("sort_order {text:?}: {what}, accepted: {GRAMMAR}"));
    let mut keys: Vec<SortKey> = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (column, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or_else(|| wrong("a quote is not closed".to_owned()))?,
            None => rest.split_at(rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len())),
        };
        let (said, after) = behind.split_once(',').map_or((behind, None), |(said, after)| (said, Some(after.trim())));
        let words: Vec<String> = said.split_whitespace().map(str::to_ascii_lowercase).collect();
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        let descending = match words.first() {
            Some(&"desc") => true,
            Some(&"asc") => false,
            _ => {
                words.insert(0, "asc");
                false
            }
        };
        let nulls_first = match words[1..] {
            [] => !descending,
            ["nulls", "first"] => true,
            ["nulls", "last"] => false,
            _ => return Err(wrong(format!("found {:?} after {column:?}", said.trim()))),
        };
        if column.is_empty() || after == Some("") {
            return Err(wrong("a column is missing".to_owned()));
        }
        if keys.iter().any(|key| key.column == column) {
            return Err(wrong(format!("{column:?} is there twice")));
        }
        keys.push(SortKey { column: column.to_owned(), descending, nulls_first });
        rest = after.unwrap_or_default();
    }
    Ok(keys)
}

/// An order of the rows of batches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    keys: Vec<(usize, SortOptions)>,
    /// Bytes of rows that are kept in memory.
    bound: usize,
}

impl Order {
    /// Finds the columns.
    ///
    /// # Errors
    /// [`Kind::Config`] for a column that is not there, or has parts.
    pub(crate) fn new(keys: &[SortKey], schema: &Schema, bound: usize) -> Result<Self> {
        let find = |key: &SortKey| {
            let names = || schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
            let index = schema.index_of(&key.column).map_err(|_| {
                Error::new(Kind::Config, format!("sort_order names {:?}, and the columns are {}", key.column, names()))
                    .hint("name a column that is written")
            })?;
            let data_type = schema.field(index).data_type();
            if data_type.is_nested() {
                let message = format!("sort_order names {:?}, which is a {data_type}: rows are sorted by single values", key.column);
                return Err(Error::new(Kind::Config, message));
            }
            Ok((index, SortOptions { descending: key.descending, nulls_first: key.nulls_first }))
        };
        Ok(Self { keys: keys.iter().map(find).collect::<Result<_>>()?, bound })
    }
}

/// The rows of `batches`, sorted. Without an order they pass as they come.
pub(crate) fn sorted<S, E>(order: Order, batches: S) -> impl Stream<Item = Result<RecordBatch, E>> + Send + 'static
where
    S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
    E: From<Error> + Send + 'static,
{
    if order.keys.is_empty() {
        return batches.left_stream();
    }
    stream::once(async move {
        let mut batches = Box::pin(batches);
        let mut sorting: Option<Sorting> = None;
        while let Some(batch) = batches.try_next().await? {
            let (order, taken) = (order.clone(), sorting.take());
            let pushed = blocking(move || {
                let mut sorting = match taken {
                    Some(sorting) => sorting,
                    None => Sorting::new(batch.schema(), order, &std::env::temp_dir())?,
                };
                sorting.push(&batch)?;
                Ok(sorting)
            });
            sorting = Some(pushed.await?);
        }
        let Some(sorting) = sorting else { return Ok::<_, E>(stream::empty().left_stream()) };
        // One on its way while the next is made.
        let (give, mut given) = channel::<Result<RecordBatch>>(1);
        tokio::task::spawn_blocking(move || {
            let abandoned = || Error::new(Kind::Bug, "sorted rows were abandoned");
            let finished = sorting.finish(|batch| give.blocking_send(Ok(batch)).map_err(|_| abandoned()));
            if let Err(error) = finished {
                // Nobody waits for it who has gone.
                let _ = give.blocking_send(Err(error));
            }
        });
        Ok(stream::poll_fn(move |context| given.poll_recv(context)).map_err(E::from).right_stream())
    })
    .try_flatten()
    .right_stream()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::new(Kind::Bug, "rows could not be sorted").because(e)))
}

/// Rows that a batch has at most, of those that are made and of those on disk.
const BATCH_ROWS: usize = 4096;
/// A batch is such a part of what is kept in memory: that many runs can be merged within it.
const BATCHES: usize = 64;

/// Collects rows.
struct Sorting {
    schema: SchemaRef,
    order: Order,
    converter: RowConverter,
    held: Vec<RecordBatch>,
    held_bytes: usize,
    spill: PathBuf,
    runs: Vec<Spilt>,
}

impl Sorting {
    fn new(schema: SchemaRef, order: Order, spill: &Path) -> Result<Self> {
        let field = |(index, options): &(usize, SortOptions)| SortField::new_with_options(kind(&schema, *index), *options);
        let converter = RowConverter::new(order.keys.iter().map(field).collect()).map_err(broken)?;
        Ok(Self { schema, order, converter, held: Vec::new(), held_bytes: 0, spill: spill.to_owned(), runs: Vec::new() })
    }

    fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        // A copy, because what the batch was cut from belongs to the reader's memory.
        let own = concat_batches(&self.schema, [batch]).map_err(broken)?;
        self.held_bytes += own.get_array_memory_size();
        self.held.push(own);
        if self.held_bytes > self.order.bound {
            self.spill()?;
        }
        Ok(())
    }

    fn keys(&self, batch: &RecordBatch) -> Result<Rows> {
        let columns: Vec<ArrayRef> = self.order.keys.iter().map(|(index, _)| batch.column(*index).clone()).collect();
        self.converter.convert_columns(&columns).map_err(broken)
    }

    /// What is held, sorted, in pieces.
    fn take_sorted(&mut self, mut give: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        let whole = concat_batches(&self.schema, &std::mem::take(&mut self.held)).map_err(broken)?;
        self.held_bytes = 0;
        let keys = self.keys(&whole)?;
        let rows = u32::try_from(whole.num_rows()).map_err(|_| Error::new(Kind::Bug, "too many rows to sort at once"))?;
        let mut places: Vec<u32> = (0..rows).collect();
        places.sort_by(|a, b| keys.row(*a as usize).cmp(&keys.row(*b as usize)));
        // Long rows make small batches.
        let piece_rows = (self.order.bound / BATCHES) / (whole.get_array_memory_size() / whole.num_rows().max(1)).max(1);
        for piece in places.chunks(piece_rows.clamp(1, BATCH_ROWS)) {
            give(take_record_batch(&whole, &UInt32Array::from(piece.to_vec())).map_err(broken)?)?;
        }
        Ok(())
    }

    fn spill(&mut self) -> Result<()> {
        let mut file = Spill::new(&self.spill, &self.schema)?;
        self.take_sorted(|batch| file.write(&batch))?;
        self.runs.push(file.read()?);
        Ok(())
    }

    /// Gives all rows, sorted, in pieces.
    fn finish(mut self, mut give: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        if self.runs.is_empty() {
            return self.take_sorted(give);
        }
        if !self.held.is_empty() {
            self.spill()?;
        }
        let open = |file| Run { file, batch: RecordBatch::new_empty(self.schema.clone()), keys: None, at: 0 };
        let mut runs: Vec<Run> = std::mem::take(&mut self.runs).into_iter().map(open).collect();
        let mut heads = BinaryHeap::new();
        for (number, run) in runs.iter_mut().enumerate() {
            heads.extend(run.next(&self)?.map(|key| Reverse((key, number))));
        }
        let mut picked: Vec<(usize, usize)> = Vec::with_capacity(BATCH_ROWS);
        while let Some(Reverse((_, number))) = heads.pop() {
            picked.push((number, runs[number].at));
            let last_of_batch = runs[number].is_at_end();
            if last_of_batch || picked.len() == BATCH_ROWS {
                let batches: Vec<&RecordBatch> = runs.iter().map(|run| &run.batch).collect();
                give(interleave_record_batch(&batches, &picked).map_err(broken)?)?;
                picked.clear();
            }
            heads.extend(runs[number].next(&self)?.map(|key| Reverse((key, number))));
        }
        Ok(())
    }
}

/// Sorted rows on disk that are being read.
struct Run {
    file: Spilt,
    batch: RecordBatch,
    keys: Option<Rows>,
    /// The row that is looked at.
    at: usize,
}

impl Run {
    fn is_at_end(&self) -> bool {
        self.at + 1 >= self.batch.num_rows()
    }

    /// Goes to the next row, and gives its key.
    fn next(&mut self, sorting: &Sorting) -> Result<Option<Box<[u8]>>> {
        match &self.keys {
            Some(_) if !self.is_at_end() => self.at += 1,
            _ => {
                let Some(batch) = self.file.next()? else { return Ok(None) };
                self.batch = batch;
                self.keys = Some(sorting.keys(&self.batch)?);
                self.at = 0;
            }
        }
        Ok(self.keys.as_ref().map(|keys| keys.row(self.at).data().into()))
    }
}

fn kind(schema: &Schema, index: usize) -> DataType {
    schema.field(index).data_type().clone()
}

fn broken(e: arrow::error::ArrowError) -> Error {
    Error::new(Kind::Bug, "cannot sort rows").because(e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::{Field, Int64Type};
    use std::sync::Arc;

    #[test]
    fn orders_are_read() {
        let key = |column: &str, descending, nulls_first| SortKey { column: column.to_owned(), descending, nulls_first };
        assert_eq!(sort_keys("").expect("none"), []);
        assert_eq!(
            sort_keys(" a, b DESC,\"c, d\" asc nulls last , e desc NULLS FIRST").expect("keys"),
            [key("a", false, true), key("b", true, false), key("c, d", false, false), key("e", true, true)]
        );
        for wrong in ["a,", ",a", "a b", "a desc asc", "a nulls", "\"a", "a, a", "a desc nulls middle", "\"\""] {
            let error = sort_keys(wrong).expect_err(wrong);
            assert!(error.kind() == Kind::Config && error.to_string().contains("accepted: columns"), "{error}");
        }
        let schema = Schema::new(vec![Field::new_list("tags", Field::new("item", DataType::Utf8, true), true)]);
        for wrong in ["tags", "other"] {
            assert_eq!(Order::new(&sort_keys(wrong).expect("keys"), &schema, 1).expect_err(wrong).kind(), Kind::Config);
        }
    }

    type Row = (Option<i64>, String, i64);

    fn sort(rows: &[Row], bound: usize) -> Vec<Row> {
        let fields = vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8, false),
            Field::new("number", DataType::Int64, false),
            Field::new("more", DataType::Float64, false),
        ];
        let schema = Arc::new(Schema::new(fields));
        let spill = tempfile::tempdir().expect("folder");
        let order = Order::new(&sort_keys("a desc nulls first, b").expect("keys"), &schema, bound).expect("order");
        let mut sorting = Sorting::new(schema.clone(), order, spill.path()).expect("sorting");
        for rows in rows.chunks(7) {
            let columns: Vec<ArrayRef> = vec![
                Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
                Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.1))),
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
                Arc::new(Float64Array::from_iter_values(rows.iter().map(|_| 0.5))),
            ];
            sorting.push(&RecordBatch::try_new(schema.clone(), columns).expect("batch")).expect("push");
        }
        let mut found = Vec::new();
        sorting
            .finish(|batch| {
                let (a, b, number) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>(), batch.column(2));
                let number = number.as_primitive::<Int64Type>();
                found.extend((0..batch.num_rows()).map(|i| (a.iter().nth(i).expect("row"), b.value(i).to_owned(), number.value(i))));
                Ok(())
            })
            .expect("finish");
        assert_eq!(std::fs::read_dir(spill.path()).expect("folder").count(), 0, "nothing stays");
        found
    }

    #[test]
    fn rows_are_sorted_in_memory_and_on_disk() {
        let rows: Vec<Row> = (0..3000_i64).map(|n| ((n % 11 != 0).then_some(n * 7919 % 101 - 50), format!("{}", n * 31 % 17), n)).collect();
        let mut expected = rows.clone();
        expected.sort_by(|x, y| {
            let nulls_first = |row: &Row| row.0.map_or(i64::MIN, |a| -a);
            (nulls_first(x), &x.1).cmp(&(nulls_first(y), &y.1))
        });
        for bound in [usize::MAX, 20_000, 0] {
            assert_eq!(sort(&rows, bound), expected, "bound {bound}");
        }
    }
}
