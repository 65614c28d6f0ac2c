//! Whether the stream's filter keeps a row of the log: the answer that the server gives for a row in a copy.
//!
//! Promises: pure; NULL is neither kept nor refused by a comparison, as in SQL; a comparison is exact, and both wire forms of a value compare alike; a value that was not sent
//! is an error, never a guess. How values of each type compare is the business of [`super::comparable`]; which filters can be judged at all is that of
//! [`crate::sync`].

use super::comparable::{Kind, Value};
use super::message::{Old, Relation, ReplicaIdentity};
use super::tuple::{Cell, Tuple};
use crate::error::{Error, Result};
use crate::values::Fault;
use std::cmp::Ordering;

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`
    Different,
    /// `<`
    Less,
    /// `>`
    Greater,
    /// `<=`
    AtMost,
    /// `>=`
    AtLeast,
}

impl Operator {
    /// As a filter writes it.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "=" => Self::Equal,
            "!=" => Self::Different,
            "<" => Self::Less,
            ">" => Self::Greater,
            "<=" => Self::AtMost,
            ">=" => Self::AtLeast,
            _ => return None,
        })
    }

    /// Whether it asks for an order, and not only whether two values are the same.
    pub fn is_of_order(self) -> bool {
        !matches!(self, Self::Equal | Self::Different)
    }

    fn holds(self, found: Ordering) -> bool {
        match self {
            Self::Equal => found.is_eq(),
            Self::Different => found.is_ne(),
            Self::Less => found.is_lt(),
            Self::Greater => found.is_gt(),
            Self::AtMost => found.is_le(),
            Self::AtLeast => found.is_ge(),
        }
    }
}

/// What a condition asks of a value.
#[derive(Clone, Debug)]
pub enum Test {
    /// `IS NULL`, or `IS NOT NULL`.
    Null(bool),
    /// A comparison with a value of the column's type.
    Compare {
        /// How.
        operator: Operator,
        /// How values of the type are read.
        kind: Kind,
        /// The value.
        literal: Value<'static>,
    },
}

/// A condition on one column.
#[derive(Clone, Debug)]
pub struct Condition {
    /// The column's name.
    pub column: String,
    /// What is asked of it.
    pub test: Test,
}

/// A filter that can be judged.
#[derive(Clone, Debug)]
pub struct Judge {
    /// The stream, for messages.
    id: String,
    conditions: Vec<Condition>,
    /// Whether one condition is enough.
    any: bool,
    /// Where the values of each condition are in the rows of the relation as it is now.
    places: Vec<Option<usize>>,
    /// Which columns of the relation are logged with every change of a row: its identity.
    identity: Vec<bool>,
}

impl Judge {
    /// Of the stream `id`. With `any` one condition is enough.
    pub fn new(id: &str, conditions: Vec<Condition>, any: bool) -> Self {
        Self { id: id.to_owned(), conditions, any, places: Vec::new(), identity: Vec::new() }
    }

    /// The columns that it judges by.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().map(|condition| condition.column.as_str())
    }

    /// The rows that follow are of this shape.
    pub fn relate(&mut self, relation: &Relation) {
        let place = |condition: &Condition| relation.columns.iter().position(|column| column.name == condition.column);
        self.places = self.conditions.iter().map(place).collect();
        // A full identity comes with the whole row before. Where that of a partitioned table is full and its partitions' are not, changes that are
        // sent under its name do not come with it, and what they do come with is not told.
        let is_full = relation.replica_identity == ReplicaIdentity::Full;
        self.identity = relation.columns.iter().map(|column| column.key && !is_full).collect();
    }

    /// Whether a row is kept. What was not sent with it is taken from the row before, as far as the log has that.
    ///
    /// # Errors
    /// A value that neither has, or that is none of its type.
    pub fn keeps(&self, new: Tuple<'_>, old: Option<Old<'_>>) -> Result<bool> {
        let new: Vec<Cell<'_>> = new.cells().collect();
        let older: Option<Vec<Cell<'_>>> = old.map(|(Old::Key(old) | Old::Full(old))| old.cells().collect());
        let full = matches!(old, Some(Old::Full(_)));
        self.judge(|at| match (new.get(at), &older) {
            (Some(Cell::Unchanged), Some(older)) if full || self.is_identity(at) => older.get(at).copied(),
            (cell, _) => cell.copied(),
        })
    }

    /// Whether the row before an update was kept; `None` if the log does not tell. `kept` is the answer for the row after it.
    ///
    /// # Errors
    /// As [`Self::keeps`].
    pub fn kept_before(&self, old: Option<Old<'_>>, kept: bool) -> Result<Option<bool>> {
        match old {
            // The identity is sent when it changes.
            None => Ok(self.is_of_identity().then_some(kept)),
            Some(old) => self.kept(old),
        }
    }

    /// Whether a row was kept that is gone; `None` if the log does not tell.
    ///
    /// # Errors
    /// As [`Self::keeps`].
    pub fn kept(&self, old: Old<'_>) -> Result<Option<bool>> {
        match old {
            Old::Full(old) => self.keeps(old, None).map(Some),
            Old::Key(old) if self.is_of_identity() => self.keeps(old, None).map(Some),
            Old::Key(_) => Ok(None),
        }
    }

    /// Whether the identity has all columns that it judges by.
    fn is_of_identity(&self) -> bool {
        self.places.iter().all(|place| place.is_some_and(|at| self.is_identity(at)))
    }

    fn is_identity(&self, at: usize) -> bool {
        self.identity.get(at).copied().unwrap_or_default()
    }

    fn judge<'c>(&self, cell: impl Fn(usize) -> Option<Cell<'c>>) -> Result<bool> {
        // Of three values, as in SQL: neither true nor false is NULL.
        let (mut all, mut one) = (true, false);
        for (condition, place) in self.conditions.iter().zip(&self.places) {
            let found = place.and_then(&cell).ok_or_else(|| {
                Error::schema(format!(
                    "{}: the filter names column {:?}, and the log has a change from when the table had no such column",
                    self.id, condition.column
                ))
                .hint(format!("load the table anew: sync --reload {}", self.id))
            })?;
            let holds = condition.holds(found).map_err(|trouble| self.explain(condition, trouble))?;
            all &= holds == Some(true);
            one |= holds == Some(true);
        }
        Ok(if self.any { one } else { all })
    }

    #[cold]
    fn explain(&self, condition: &Condition, trouble: Trouble) -> Error {
        let at = format!("{}: the filter asks for column {:?}", self.id, condition.column);
        match trouble {
            Trouble::Unsent => Error::schema(format!("{at}, whose value is not in the log: it is large, and the UPDATE did not touch it"))
                .hint(full(&self.id)),
            Trouble::Fault(fault) => match *fault {
                Fault::Bug(what) => Error::bug(format!("{at}: {what}")),
                Fault::Malformed(what) => Error::source_db(format!("{at}: {what}")),
                Fault::Unfit { value, why } | Fault::Special { value, why, .. } => Error::schema(format!("{at}: {value} is {why}"))
                    .hint(format!("run sync again; if that does not help, load the table anew: sync --reload {}", self.id)),
                Fault::Encoding => Error::source_db(format!("{at}: the text is not UTF-8")),
            },
        }
    }
}

/// What to do where the log lacks a value that the filter needs.
pub fn full(id: &str) -> String {
    format!(
        "ALTER TABLE {id} REPLICA IDENTITY FULL has the server log such values from then on; then load the table anew: sync --reload {id}"
    )
}

enum Trouble {
    Unsent,
    Fault(Box<Fault>),
}

impl Condition {
    /// `None` is what SQL calls unknown.
    fn holds(&self, cell: Cell<'_>) -> std::result::Result<Option<bool>, Trouble> {
        match (&self.test, cell) {
            // What is stored apart from its row is not NULL.
            (Test::Null(wanted), cell) => Ok(Some((cell == Cell::Null) == *wanted)),
            (Test::Compare { .. }, Cell::Unchanged) => Err(Trouble::Unsent),
            (Test::Compare { .. }, Cell::Null) => Ok(None),
            (Test::Compare { operator, kind, literal }, Cell::Text(text)) => {
                Ok(Some(operator.holds(kind.text(text).map_err(Trouble::Fault)?.compare(literal))))
            }
            (Test::Compare { operator, kind, literal }, Cell::Binary(field)) => {
                Ok(Some(operator.holds(kind.binary(field).map_err(Trouble::Fault)?.compare(literal))))
            }
        }
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
