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
use crate::error::Result;
use crate::state::progress::Load;
use serde::{Deserialize, Serialize};
use writers::{Commit, Table, Token};

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

/// Settles one load of one table.
pub async fn settle<T: Table>(table: &mut T, parts: Vec<T::Part>, mark: &Mark, id: &str, keeper: &Keeper) -> Result<()> {
    keeper.flush()?;
    table.commit(parts, mark.token(), Commit::Replace).await?;
    keeper.commit(|state| {
        if let Some(Load { committed, .. }) = state.lakeward.loads.get_mut(id) {
            *committed = true;
        }
    })
}
