//! Commit → save → acknowledge: the only place where progress becomes true.
//!
//! 1. The destination commits the parts together with the token. From here on the rows are visible and will stay.
//! 2. The state file says so. If the process dies between 1 and 2, the next run finds the token in the destination and
//!    takes the load as committed: the token wins over the state file.
//! 3. The source may forget what it kept for us. (Nothing to do for a backfill.)
//!
//! The staged chunks are saved *before* 1 as well, so that a run that dies between 1 and 2 still knows which rows, read
//! when, the commit holds; without that it would have to load the table again.

use super::keeper::Keeper;
use super::plan::StreamPlan;
use crate::error::{Error, Result};
use crate::state::State;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use writers::{Commit, Part as _, Table, Token};

/// Tables that are committed at the same time: a disk or an object store answers each request after some time, but many at once.
const COMMITS_AT_ONCE: usize = 16;

/// What our tokens say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The load (see [`crate::state::progress::Load`]).
    pub load: String,
    /// WAL position of the exported snapshot.
    pub lsn: String,
}

impl Mark {
    /// As stored in the destination.
    pub fn token(&self) -> Token {
        Token(serde_json::to_string(self).unwrap_or_else(|_| format!("{{\"load\":{:?}}}", self.load)))
    }

    /// What a token says, if it is one of ours.
    pub fn read(token: &Token) -> Option<Self> {
        serde_json::from_str(&token.0).ok()
    }
}

/// A load of one table that is staged to its end.
pub struct Settlement<'a, T: Table> {
    /// The stream.
    pub plan: &'a StreamPlan,
    /// Its table in the destination.
    pub table: &'a Mutex<T>,
    /// All parts of the load.
    pub parts: Vec<T::Part>,
    /// What they do to the rows that are there.
    pub how: Commit,
    /// What the token is to say.
    pub mark: Mark,
}

/// Settles the loads of several tables, which share the saves: what a commit costs is waiting, and a thousand small tables
/// would wait one after another. Each is a commit of its own all the same. The outcomes are in the order of the
/// group; what is committed is saved, whatever became of the others.
pub async fn settle<T: Table>(group: Vec<Settlement<'_, T>>, keeper: &Keeper) -> Result<Vec<Result<()>>> {
    keeper.flush()?;
    let plans: Vec<&StreamPlan> = group.iter().map(|settlement| settlement.plan).collect();
    let commit = async |settlement: Settlement<'_, T>| -> Result<bool> {
        let Settlement { plan, table, parts, how, mark } = settlement;
        // Nothing new is no reason for a commit: every scheduled run would leave one.
        if how == Commit::Append && parts.iter().all(|part| part.stats().rows == 0) {
            return Ok(false);
        }
        let outcome = table.lock().await.commit(parts, mark.token(), how).await;
        outcome.map(|()| true).map_err(|e| Error::from(e).doing(format!("commit {}", plan.id)))
    };
    let outcomes: Vec<_> = futures::stream::iter(group).map(commit).buffered(COMMITS_AT_ONCE).collect().await;
    keeper.commit(|state| {
        for (plan, outcome) in plans.iter().zip(&outcomes) {
            if let Ok(written) = outcome {
                committed(state, plan, *written);
            }
        }
    })?;
    Ok(outcomes.into_iter().map(|outcome| outcome.map(drop)).collect())
}

/// Notes in the state that the load of a stream is committed (`written`: with a commit of the destination). An incremental stream has
/// then been read as far as the load says; any other waits for the run's other tables.
pub fn committed(state: &mut State, plan: &StreamPlan, written: bool) {
    let (id, stream) = (&plan.id, &plan.chosen.stream);
    let Some(load) = state.lakeward.loads.get_mut(id) else { return };
    load.committed = true;
    let Some(mut cursor) = load.cursor.take() else {
        // What an incremental run has read before is gone from the destination.
        state.lakeward.cursors.remove(id);
        state.forget_cursors(&stream.namespace, &stream.name);
        return;
    };
    if written {
        cursor.load.clone_from(&load.generation);
    }
    state.lakeward.loads.remove(id);
    state.complete(&stream.namespace, &stream.name);
    for (column, value) in plan.cursor.iter().flat_map(|field| &field.columns).zip([cursor.shown.clone(), cursor.shown_second.clone()]) {
        state.set_cursor(&stream.namespace, &stream.name, &column.name, value);
    }
    state.lakeward.cursors.insert(id.clone(), cursor);
}
