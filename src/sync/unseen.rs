//! What became of followed tables without a word in the log: such a table is copied again, or stops.
//!
//! A column with a default has values in rows that nobody has changed, one that gets another type has other values; a partition that is attached brings rows, one that is detached takes
//! them away. Where rows are replaced by key the table is copied again, in one commit; a change log would lose its history, so it stops; what became of a
//! column it only says.

use super::StreamRun;
use super::capture::Terms;
use super::run::Run;
use crate::capture::partitions::{self, Moves};
use crate::capture::retype::{self, Change};
use crate::config::update_method::OnDetach;
use crate::error::{Error, Result};
use crate::postgres::catalog::{ColumnInfo, RelationKind};
use crate::postgres::connect;
use crate::state::captured::{Captured, KnownColumn};
use writers::{Destination, Table};

impl<D: Destination> Run<D> {
    /// Looks for it, in all tables that are followed.
    pub(super) async fn find_unseen(&self, terms: &Terms) -> Result<()> {
        for stream in &self.streams {
            let captured = self.keeper.read(|state| match state.is_followed(&stream.plan.id) {
                true => state.lakeward.captures.get(&stream.plan.id).cloned(),
                false => None,
            });
            let Some(captured) = captured.filter(|_| stream.meter.failure().is_none()) else { continue };
            let Some(capture) = &stream.plan.capture else { continue };
            if captured.filter != capture.filter {
                stream.meter.fail(other_filter(&stream.plan.id));
                continue;
            }
            let applies = capture.applies;
            let mut what = column(stream, &captured);
            if let Some(what) = what.take_if(|_| !applies) {
                tracing::warn!("{}: {what}: rows that nobody changes stay in its change log as they were", stream.plan.id);
            }
            let what = match what {
                Some(what) => Some(what),
                None => self.partitions(stream, &captured, terms).await?,
            };
            let (Some(what), id) = (what, &stream.plan.id) else { continue };
            if applies {
                tracing::warn!("{id}: {what}: the table is copied again");
                self.keeper.commit(|state| state.reload(&stream.info.namespace, &stream.info.name))?;
            } else {
                let error = Error::schema(format!("{id}: {what}"));
                stream.meter.fail(error.hint("its change log can only begin anew: sync --reload"));
            }
        }
        Ok(())
    }

    /// What happened to the partitions of a table, where it matters.
    async fn partitions(&self, stream: &StreamRun<D::Table>, captured: &Captured, terms: &Terms) -> Result<Option<String>> {
        let is_known = captured.heaps.is_some() || !captured.partitions.is_empty();
        if stream.info.kind != RelationKind::Partitioned || !is_known || captured.partitions == stream.plan.partitions {
            return Ok(None);
        }
        let session = connect::session(&self.options).await?;
        let moves = partitions::moves(&session, stream.info.oid, &captured.partitions).await?;
        session.close().await;
        if moves.gone > 0 && terms.on_detach == OnDetach::Keep {
            tracing::warn!(
                "{}: {} partitions were detached or dropped; their rows stay (on_detach: reload copies the table again)",
                stream.plan.id,
                moves.gone
            );
        }
        Ok(told(&moves, terms.on_detach))
    }
}

/// Rows that the filter of the first load has left out are not in the log, nor is it told which of the others are to go.
fn other_filter(id: &str) -> Error {
    let what = "the filter is another one than when the table was loaded, or the type of its column has changed";
    Error::config(format!("{id}: {what}: which of its rows are wanted now, the log does not tell"))
        .hint(format!("load the table anew: sync --reload {id}; or set the filter as it was"))
}

/// What partitions have done that the log does not have.
pub(super) fn told(moves: &Moves, on_detach: OnDetach) -> Option<String> {
    if !moves.attached.is_empty() {
        return Some(format!("the partition {} was attached with rows, which the log does not have", moves.attached.join(", ")));
    }
    (moves.gone > 0 && on_detach == OnDetach::Reload).then(|| format!("{} partitions were detached or dropped", moves.gone))
}

/// What a change of its type has made of a column's values.
fn altered(known: &KnownColumn, column: &ColumnInfo, rewritten: bool) -> Option<String> {
    let (name, ty) = (&column.name, &column.declared);
    Some(match retype::change(known, column, rewritten)? {
        Change::Type => {
            format!("the column {name} has another type now ({ty}), and the log does not have what became of the values that were there")
        }
        Change::Values => {
            format!("the column {name} was altered and the rows were written anew, and the log does not have which values they have now")
        }
        Change::Label(label) => format!("a label of the type of {name} ({ty}) is called {label:?} now, without a word in the log"),
        Change::Attributes => format!(
            "the type of {name} ({ty}) has other attributes now, and the log does not have what became of the values that were there"
        ),
    })
}

/// A column that is written, and has values in rows that were there which the log does not tell.
fn column<T: Table>(stream: &StreamRun<T>, captured: &Captured) -> Option<String> {
    let what = |column: &ColumnInfo| match captured.columns.get(&column.attnum) {
        None if column.filled && !captured.columns.is_empty() => {
            Some(format!("the column {} came with a value for the rows that were there, which the log does not have", column.name))
        }
        Some(known) => {
            let heaps = captured.heaps.as_ref();
            let rewritten = heaps.is_some_and(|heaps| heaps.changed(&stream.plan.heaps).next().is_some());
            if retype::was_widened(known, column) {
                let (id, name, ty) = (&stream.plan.id, &column.name, &column.declared);
                tracing::info!(
                    "{id}: the column {name} is {ty} now; if USING has made other values, load the table anew: sync --reload {id}"
                );
            }
            altered(known, column, rewritten)
        }
        None => None,
    };
    stream.info.columns.iter().filter(|column| stream.plan.needs(&column.name)).find_map(what)
}
