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
use crate::error::{Error, Result};
use crate::state::progress::Load;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use writers::{Commit, Table, Token};

/// Tables that are committed at the same time: a disk or an object store answers each request after some time, but many at once.
const COMMITS_AT_ONCE: usize = 16;

/// What our tokens say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The load (see [`Load::generation`]).
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
    /// Name of the stream, as in the state.
    pub id: &'a str,
    /// Its table in the destination.
    pub table: &'a Mutex<T>,
    /// All parts of the load.
    pub parts: Vec<T::Part>,
    /// What the token is to say.
    pub mark: Mark,
}

/// Settles the loads of several tables, which share the saves: what a commit costs is waiting, and a thousand small tables
/// would wait one after another. Each is a commit of its own all the same. The outcomes are in the order of the
/// group; what is committed is saved, whatever became of the others.
pub async fn settle<T: Table>(group: Vec<Settlement<'_, T>>, keeper: &Keeper) -> Result<Vec<Result<()>>> {
    keeper.flush()?;
    let commit = async |settlement: Settlement<'_, T>| -> (String, Result<()>) {
        let Settlement { id, table, parts, mark } = settlement;
        let outcome = table.lock().await.commit(parts, mark.token(), Commit::Replace).await;
        (id.to_owned(), outcome.map_err(|e| Error::from(e).doing(format!("commit {id}"))))
    };
    let outcomes: Vec<_> = futures::stream::iter(group).map(commit).buffered(COMMITS_AT_ONCE).collect().await;
    keeper.commit(|state| {
        for (id, _) in outcomes.iter().filter(|(_, outcome)| outcome.is_ok()) {
            if let Some(Load { committed, .. }) = state.lakeward.loads.get_mut(id) {
                *committed = true;
            }
        }
    })?;
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}
