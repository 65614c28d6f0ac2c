//! Changes of one stream become record batches.
//!
//! Promises: a change is one row (a changed key two: the old one goes, and directly behind it the new one comes), in the order of the log; values
//! are those that a copy of the table would have given; a value that was not sent is a value of an earlier row, a name in [`UNCHANGED`], or an
//! error, and never NULL. Does not know transactions, connections or destinations.

use super::json::{Member, object, unsent};
use super::json_key::{Key, Value};
use super::message::{Old, Relation, ReplicaIdentity};
pub use super::place::Place;
use super::place::order;
use super::tuple::{Cell, Tuple};
use crate::columns::Column;
use crate::columns::explain::{explain, key_text};
use crate::error::{Error, Result};
use crate::postgres::lsn::Lsn;
use crate::types::{ColumnPlan, Wire};
use crate::values::{Fault, Step, shorten};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use std::sync::Arc;
use writers::{AWAITS, MOVED};

/// Column of a change log: names of the columns whose values were not sent, separated by commas.
pub const UNCHANGED: &str = "_unchanged_columns";
/// Column of a change log: sorts the changes of a stream as they happened.
pub const ORDER: &str = "_cdc_order";

/// Where the value of a column comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A column of the table.
    Column(String),
    /// A key of a json column.
    Key(Key),
    /// The row as one JSON object of these columns.
    Data(Vec<Member>),
    /// `_op_type`.
    Op,
    /// `_cdc_lsn`.
    Position,
    /// `_cdc_timestamp`.
    Time,
    /// `_olake_timestamp`, microseconds since 2000.
    Ingested(i64),
    /// `_olake_id`, made of these columns.
    OlakeId(Vec<String>),
    /// [`ORDER`].
    Order,
    /// [`UNCHANGED`].
    Unchanged,
    /// Whether the row goes.
    Gone,
    /// Places of the columns that stay as they are in the row that is there, or in the one that the row was before its key changed.
    Kept,
}

/// What a change does to a row, in OLake's letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new row.
    Create,
    /// A new row that was another one before its key changed: the one that the change before this one takes away.
    Move,
    /// A row has other values.
    Update,
    /// A row is gone.
    Delete,
    /// All rows are gone.
    Truncate,
}

impl Op {
    fn letter(self) -> &'static [u8] {
        match self {
            Self::Create | Self::Move => b"c",
            Self::Update => b"u",
            Self::Delete => b"d",
            Self::Truncate => b"t",
        }
    }
}

/// A column of the table within the rows of a relation as it is now.
#[derive(Clone, Copy, Debug)]
enum Found {
    At(usize),
    /// The relation had no such column then.
    Nowhere,
}

/// Builds the batches of one stream.
pub struct Rows {
    id: String,
    plans: Vec<ColumnPlan>,
    origins: Vec<Origin>,
    schema: SchemaRef,
    columns: Vec<Box<dyn Column>>,
    /// For each column, where its values are in the rows of the current relation; of an id or an object, for each part.
    found: Vec<Vec<Found>>,
    /// Names of the current relation's columns.
    names: Vec<String>,
    /// For each of these, whether it is part of the replica identity.
    identity: Vec<bool>,
    /// Whether columns that were not sent are named in the row.
    logs: bool,
    /// Whether columns that were not sent stay as they are in the row that is there.
    keeps: bool,
    /// Whether that row may be yet to come.
    awaits: bool,
    rows: usize,
    fixed: usize,
    held: usize,
    text: Vec<u8>,
    /// The member of an object that could not be made.
    culprit: usize,
    /// The position of the last row's transaction, and how it is written.
    position: (Lsn, String),
}

impl Rows {
    /// For columns with their origins, which are as many.
    pub fn new(id: &str, plans: &[ColumnPlan], origins: &[Origin], schema: SchemaRef) -> Self {
        let columns: Vec<_> = plans.iter().map(|plan| plan.column(Wire::Text)).collect();
        Self {
            id: id.to_owned(),
            plans: plans.to_vec(),
            origins: origins.to_vec(),
            schema,
            fixed: columns.iter().map(|column| column.width()).sum(),
            columns,
            found: Vec::new(),
            names: Vec::new(),
            identity: Vec::new(),
            logs: origins.contains(&Origin::Unchanged),
            keeps: origins.contains(&Origin::Kept),
            awaits: false,
            rows: 0,
            held: 0,
            text: Vec::new(),
            culprit: 0,
            position: (Lsn::default(), Lsn::default().to_string()),
        }
    }

    /// The rows that follow are of this shape.
    pub fn relate(&mut self, relation: &Relation) {
        let find = |name: &String| relation.columns.iter().position(|column| column.name == *name).map_or(Found::Nowhere, Found::At);
        let of = |origin: &Origin| match origin {
            Origin::Column(name) | Origin::Key(Key { column: name, .. }) => vec![find(name)],
            Origin::OlakeId(names) => names.iter().map(find).collect(),
            Origin::Data(members) => members.iter().map(|member| find(&member.name)).collect(),
            _ => Vec::new(),
        };
        self.found = self.origins.iter().map(of).collect();
        for (origin, found) in self.origins.iter_mut().zip(&self.found) {
            let Origin::Data(members) = origin else { continue };
            for (member, found) in members.iter_mut().zip(found) {
                if let Found::At(at) = found {
                    member.relate(relation.columns[*at].type_oid);
                }
            }
        }
        self.names = relation.columns.iter().map(|column| column.name.clone()).collect();
        // With a full identity every column is said to be of it; then what tells rows apart is the key.
        let is_full = relation.replica_identity == ReplicaIdentity::Full;
        let is_key = |name: &String| {
            self.origins.iter().zip(&self.plans).any(|(origin, plan)| match origin {
                Origin::Column(column) => plan.key && column == name,
                Origin::OlakeId(names) => names.contains(name),
                Origin::Data(members) => members.iter().any(|member| member.key && member.name == *name),
                _ => false,
            })
        };
        self.identity = relation.columns.iter().map(|column| if is_full { is_key(&column.name) } else { column.key }).collect();
    }

    /// Whether the table is still being filled: a row that leaves columns as they are may be one that is yet to come.
    pub fn await_rows(&mut self, awaits: bool) {
        self.awaits = awaits;
    }

    /// Rows in the batch under construction.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.rows * self.fixed + self.held
    }

    /// Adds a row. `old` is what was sent of the row before: what was not sent with the row is taken from there.
    pub fn push(&mut self, op: Op, row: Tuple<'_>, old: Option<Old<'_>>, place: Place) -> Result<()> {
        let mut cells = self.cells(row)?;
        if let Some(old) = old {
            let (Old::Key(values) | Old::Full(values)) = old;
            let whole = matches!(old, Old::Full(_));
            for ((cell, old), key) in cells.iter_mut().zip(values.cells()).zip(&self.identity) {
                if *cell == Cell::Unchanged && (whole || *key) {
                    *cell = old;
                }
            }
        }
        self.push_cells(op, &cells, place)
    }

    /// Adds a row of which no more is told than its replica identity.
    pub fn push_identity(&mut self, op: Op, row: Tuple<'_>, place: Place) -> Result<()> {
        let mut cells = self.cells(row)?;
        for (cell, _) in cells.iter_mut().zip(&self.identity).filter(|(_, is_identity)| !**is_identity) {
            *cell = Cell::Null;
        }
        self.push_cells(op, &cells, place)
    }

    fn cells<'r>(&self, row: Tuple<'r>) -> Result<Vec<Cell<'r>>> {
        if row.columns() == self.names.len() {
            return Ok(row.cells().collect());
        }
        let (found, expected) = (row.columns(), self.names.len());
        Err(Error::source_db(format!("{}: a row has {found} values, its relation {expected} columns", self.id)))
    }

    /// Adds a row that says that all are gone.
    pub fn push_truncate(&mut self, place: Place) -> Result<()> {
        let cells = vec![Cell::Null; self.names.len()];
        if self.found.is_empty() {
            self.found = self.origins.iter().map(|_| vec![Found::Nowhere]).collect();
        }
        self.push_cells(Op::Truncate, &cells, place)
    }

    /// Forgets the rows so far.
    pub fn clear(&mut self) -> Result<()> {
        self.finish_batch().map(drop)
    }

    fn push_cells(&mut self, op: Op, cells: &[Cell<'_>], place: Place) -> Result<()> {
        if self.rows == 0 {
            self.columns.iter_mut().for_each(|column| column.reserve());
        }
        for index in 0..self.plans.len() {
            self.put(index, op, cells, place).map_err(|fault| self.fault(index, cells, place, *fault))?;
        }
        self.rows += 1;
        Ok(())
    }

    fn put(&mut self, index: usize, op: Op, cells: &[Cell<'_>], place: Place) -> Step {
        let (column, held) = (&mut self.columns[index], &mut self.held);
        match &self.origins[index] {
            origin @ (Origin::Column(_) | Origin::Key(_)) => {
                let (cell, is_identity) = match self.found[index].first() {
                    Some(Found::At(at)) => (cells[*at], self.identity[*at]),
                    _ => (Cell::Null, false),
                };
                let leaves_values = matches!(op, Op::Update | Op::Move);
                return match (cell, origin) {
                    // What rows are found by is sent with every row, or with what was sent of the one before.
                    (Cell::Unchanged, _) if !(self.logs || (self.keeps && leaves_values && !is_identity)) => Err(unsent()),
                    (Cell::Text(json), Origin::Key(key)) => push(column.as_mut(), key.value(json, false, &mut self.text)?, held),
                    (Cell::Binary(json), Origin::Key(key)) => push(column.as_mut(), key.value(json, true, &mut self.text)?, held),
                    (Cell::Text(value), _) => push(column.as_mut(), Value::Text(value), held),
                    (Cell::Binary(value), _) => push(column.as_mut(), Value::Binary(value), held),
                    (Cell::Null | Cell::Unchanged, _) => push(column.as_mut(), Value::Null, held),
                };
            }
            Origin::Data(members) => {
                self.text.clear();
                let found = &self.found[index];
                let cell = |number: usize| match found.get(number) {
                    Some(Found::At(at)) => cells[*at],
                    _ => Cell::Null,
                };
                object(members, cell, self.origins.contains(&Origin::Unchanged), &mut self.text).map_err(|(number, fault)| {
                    self.culprit = number;
                    fault
                })?;
                return column.push_text(&self.text, held);
            }
            Origin::Op => return column.push_text(op.letter(), held),
            Origin::Position => {
                if self.position.0 != place.commit {
                    self.position = (place.commit, place.commit.to_string());
                }
                return column.push_text(self.position.1.as_bytes(), held);
            }
            Origin::Time => return column.push(&place.time.0.to_be_bytes(), held),
            Origin::Ingested(time) => return column.push(&time.to_be_bytes(), held),
            Origin::Order => return column.push_text(&order(place), held),
            Origin::OlakeId(_) => {
                let is_unsent = |found: &Found| matches!(found, Found::At(at) if cells[*at] == Cell::Unchanged);
                if self.keeps && self.found[index].iter().any(is_unsent) {
                    return Err(unsent());
                }
                self.text.clear();
                array_literal(&self.found[index], cells, &mut self.text);
                return column.push_text(&self.text, held);
            }
            Origin::Unchanged => {
                // A column that is gone by now has no name.
                let is_named = |(name, cell): &(&String, &Cell<'_>)| **cell == Cell::Unchanged && !name.is_empty();
                let mut names: Vec<&str> = self.names.iter().zip(cells).filter(is_named).map(|(name, _)| name.as_str()).collect();
                // What would have been made of them.
                for ((plan, origin), found) in self.plans.iter().zip(&self.origins).zip(&self.found) {
                    if matches!((origin, found.first()), (Origin::Key(_), Some(Found::At(at))) if cells[*at] == Cell::Unchanged) {
                        names.push(&plan.name);
                    }
                }
                match names.is_empty() {
                    true => column.push_null(),
                    false => return column.push_text(names.join(",").as_bytes(), held),
                }
            }
            Origin::Kept => {
                let is_kept = |(origin, found): (&Origin, &Vec<Found>)| matches!((origin, found.first()), (Origin::Column(_) | Origin::Key(_), Some(Found::At(at))) if cells[*at] == Cell::Unchanged);
                let kept = self.origins.iter().zip(&self.found).enumerate().filter(|(_, pair)| is_kept(*pair));
                let kept: Vec<String> = kept.map(|(place, _)| place.to_string()).collect();
                let mark = match op {
                    Op::Move => MOVED.to_string(),
                    _ if self.awaits => AWAITS.to_string(),
                    _ => String::new(),
                };
                match kept.is_empty() {
                    true => column.push_null(),
                    false => return column.push_text((mark + &kept.join(",")).as_bytes(), held),
                }
            }
            Origin::Gone => return column.push(&[u8::from(op == Op::Delete)], held),
        }
        Ok(())
    }

    /// Takes the rows so far.
    pub fn finish_batch(&mut self) -> Result<RecordBatch> {
        let finished: Vec<_> = self.columns.iter_mut().map(|column| column.finish()).collect();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(finished.len());
        for (array, plan) in finished.into_iter().zip(&self.plans) {
            let array = array.map_err(|(row, fault)| {
                explain(&format!("column `{}` of {}, row {} of a batch of changes", plan.source, self.id, row + 1), &plan.source, *fault)
            })?;
            arrays.push(array);
        }
        (self.rows, self.held) = (0, 0);
        RecordBatch::try_new(self.schema.clone(), arrays).map_err(|error| Error::bug(format!("make a batch of {}: {error}", self.id)))
    }

    #[cold]
    fn fault(&self, index: usize, cells: &[Cell<'_>], place: Place, fault: Fault) -> Error {
        let plan = &self.plans[index];
        if let Origin::Data(members) = &self.origins[index] {
            return self.fault_in_object(members, &self.found[index], cells, place, fault);
        }
        let key = key_text(self.plans.iter().zip(&self.found).filter(|(plan, _)| plan.key).map(|(plan, found)| {
            let Some(Found::At(at)) = found.first() else { return None };
            let mut column = plan.column(Wire::Text);
            match cells[*at] {
                Cell::Text(value) => column.push_text(value, &mut 0).ok()?,
                Cell::Binary(value) => column.push(value, &mut 0).ok()?,
                Cell::Null | Cell::Unchanged => return None,
            }
            Some((plan.source.as_str(), column.finish().ok()?, 0))
        }));
        let at = format!("column `{}` of {}, in the transaction committed at {}{key}", plan.source, self.id, place.commit);
        let missing = self.found[index].first().is_some_and(|found| matches!(found, Found::At(at) if cells[*at] == Cell::Unchanged));
        let error = explain(&at, &plan.source, fault);
        match &self.origins[index] {
            _ if missing => error.hint(self.log_it()),
            Origin::Key(Key { column, key, .. }) => {
                error.hint(format!("set \"flatten\": {{\"{column}\": {{\"{key}\": \"string\"}}}} for the stream in streams.json: the text is then carried unread"))
            }
            _ => error,
        }
    }

    #[cold]
    fn fault_in_object(&self, members: &[Member], found: &[Found], cells: &[Cell<'_>], place: Place, fault: Fault) -> Error {
        let cell = |at: usize| match found.get(at) {
            Some(Found::At(at)) => cells.get(*at).copied(),
            _ => None,
        };
        let key = members.iter().enumerate().filter(|(_, member)| member.key).filter_map(|(at, member)| match cell(at) {
            Some(Cell::Text(value)) => Some(format!("{} = {}", member.name, shorten(&String::from_utf8_lossy(value)))),
            _ => None,
        });
        let key: Vec<String> = key.collect();
        let key = if key.is_empty() { String::new() } else { format!(" ({})", key.join(", ")) };
        let name = members.get(self.culprit).map_or("data", |member| member.name.as_str());
        let at = format!("column `{name}` of {}, in the transaction committed at {}{key}", self.id, place.commit);
        let missing = cell(self.culprit) == Some(Cell::Unchanged);
        explain(&at, name, fault).hint(match missing {
            true => self.log_it(),
            false => format!("set the type of {name} in the type_schema to \"string\": the server's text is then carried unread"),
        })
    }

    /// What to do about a value that is not in the log.
    fn log_it(&self) -> String {
        format!(
            "ALTER TABLE {} REPLICA IDENTITY FULL has the server log such values from then on; then load the table anew: \
             clear-destination for this stream, then sync",
            self.id
        )
    }
}

fn push(column: &mut dyn Column, value: Value<'_>, held: &mut usize) -> Step {
    match value {
        Value::Null => {
            column.push_null();
            Ok(())
        }
        Value::Text(text) => column.push_text(text, held),
        Value::Binary(field) => column.push(field, held),
    }
}

/// The texts of these columns as the literal of an array of texts.
fn array_literal(found: &[Found], cells: &[Cell<'_>], text: &mut Vec<u8>) {
    text.push(b'{');
    for (number, found) in found.iter().enumerate() {
        if number > 0 {
            text.push(b',');
        }
        match found {
            Found::At(at) => match cells[*at] {
                Cell::Text(value) | Cell::Binary(value) => {
                    text.push(b'"');
                    for byte in value {
                        if matches!(byte, b'"' | b'\\') {
                            text.push(b'\\');
                        }
                        text.push(*byte);
                    }
                    text.push(b'"');
                }
                Cell::Null | Cell::Unchanged => text.extend_from_slice(b"NULL"),
            },
            Found::Nowhere => text.extend_from_slice(b"NULL"),
        }
    }
    text.push(b'}');
}

/// The schema of batches of these columns.
pub fn schema_of(plans: &[ColumnPlan]) -> SchemaRef {
    Arc::new(arrow::datatypes::Schema::new(plans.iter().map(|plan| plan.field.clone()).collect::<Vec<_>>()))
}
