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
use crate::state::captured::{Captured, Seen};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use writers::{Commit, Joint, Part as _, Table, Token};

/// Tables that are committed at the same time: a disk or an object store answers each request after some time, but many at once.
const COMMITS_AT_ONCE: usize = 16;

/// What our tokens say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The load (see [`crate::state::progress::Load`]).
    pub load: String,
    /// WAL position of the exported snapshot; of a commit of changes, the end of the last transaction in it.
    pub lsn: String,
    /// Whether it is a commit of changes that follow the load.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changes: bool,
    /// Ranges of the table that are still to be copied after it ([`Captured::left`]).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
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

/// A mark as it is stored for a stream whose changes are followed: it says all that the state says, so that the state can be written again from it
/// ([`crate::repair`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// What every token says.
    #[serde(flatten)]
    pub mark: Mark,
    /// The table's OID; empty in other tokens.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub table: String,
    /// What the filter asks of rows; empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// What the first load has seen, as long as the stream has not passed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

impl Stamp {
    /// What is stored with the parts of a settlement.
    fn of(plan: &StreamPlan, mark: &Mark, state: &State) -> Self {
        let (table, filter, seen) = match &plan.capture {
            Some(capture) => (plan.spec.source.clone(), capture.filter.clone(), unpassed(&plan.id, mark, state)),
            None => (String::new(), String::new(), None),
        };
        Self { mark: mark.clone(), table, filter, seen }
    }

    /// As stored in the destination.
    pub fn token(&self) -> Token {
        serde_json::to_string(self).map_or_else(|_| self.mark.token(), Token)
    }

    /// What a token says, if it is one of ours.
    pub fn read(token: &Token) -> Option<Self> {
        serde_json::from_str(&token.0).ok()
    }
}

/// What the first load of a stream has seen, if that still matters after this commit.
fn unpassed(id: &str, mark: &Mark, state: &State) -> Option<Seen> {
    let ours = &state.lakeward;
    if !mark.changes {
        return ours.loads.get(id).and_then(|load| load.seen.clone());
    }
    let passed = |seen: &Seen| mark.lsn.parse().is_ok_and(|position| seen.is_passed(position));
    ours.captures.get(id).and_then(|captured| captured.seen.clone()).filter(|seen| !passed(seen))
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
    /// Whether the parts take rows away, which their statistics do not tell.
    pub takes_away: bool,
}

impl<T: Table> Settlement<'_, T> {
    /// Nothing new is no reason for a commit: every scheduled run would leave one.
    fn is_idle(&self) -> bool {
        self.how == Commit::Append && !self.takes_away && self.parts.iter().all(|part| part.stats().rows == 0)
    }
}

/// Settles the loads of several tables, which share the saves: what a commit costs is waiting, and a thousand small tables
/// would wait one after another. Each is a commit of its own, unless the destination commits them `together`. The outcomes are in the
/// order of the group; what is committed is saved, whatever became of the others: `note` says it in the state (`true`: the destination was
/// written to).
pub async fn settle<T: Table>(
    group: Vec<Settlement<'_, T>>,
    together: bool,
    keeper: &Keeper,
    note: impl Fn(&mut State, &StreamPlan, bool),
) -> Result<Vec<Result<()>>> {
    keeper.flush()?;
    let plans: Vec<&StreamPlan> = group.iter().map(|settlement| settlement.plan).collect();
    let token = |settlement: &Settlement<'_, T>| keeper.read(|state| Stamp::of(settlement.plan, &settlement.mark, state).token());
    let tokens: Vec<Token> = group.iter().map(token).collect();
    let group: Vec<_> = group.into_iter().zip(tokens).collect();
    let outcomes = if together { commit_together(group).await } else { commit_each(group).await };
    keeper.commit(|state| {
        for (plan, outcome) in plans.iter().zip(&outcomes) {
            if let Ok(written) = outcome {
                note(state, plan, *written);
            }
        }
    })?;
    Ok(outcomes.into_iter().map(|outcome| outcome.map(drop)).collect())
}

/// The outcomes say whether the destination was written to.
async fn commit_each<T: Table>(group: Vec<(Settlement<'_, T>, Token)>) -> Vec<Result<bool>> {
    let commit = async |(settlement, token): (Settlement<'_, T>, Token)| -> Result<bool> {
        if settlement.is_idle() {
            return Ok(false);
        }
        let Settlement { plan, table, parts, how, .. } = settlement;
        let outcome = table.lock().await.commit(parts, token, how).await;
        outcome.map(|()| true).map_err(|e| Error::from(e).doing(format!("commit {}", plan.id)))
    };
    futures::stream::iter(group).map(commit).buffered(COMMITS_AT_ONCE).collect().await
}

/// As [`commit_each`], at one instant.
async fn commit_together<T: Table>(group: Vec<(Settlement<'_, T>, Token)>) -> Vec<Result<bool>> {
    let written: Vec<(bool, &StreamPlan)> = group.iter().map(|(settlement, _)| (!settlement.is_idle(), settlement.plan)).collect();
    let busy: Vec<_> = group.into_iter().filter(|(settlement, _)| !settlement.is_idle()).collect();
    let mut tables = Vec::with_capacity(busy.len());
    for (settlement, _) in &busy {
        tables.push(settlement.table.lock().await);
    }
    let joint = |(table, (settlement, token)): (_, (Settlement<'_, T>, Token))| {
        let Settlement { parts, how, .. } = settlement;
        Joint { table, parts, token, how }
    };
    let joint = tables.iter_mut().map(|table| &mut **table).zip(busy).map(joint).collect();
    let mut outcomes = T::commit_together(joint).await.into_iter();
    let outcome = |(written, plan): (bool, &StreamPlan)| match written {
        true => {
            let outcome = outcomes.next().unwrap_or_else(|| Err(writers::Error::new(writers::Kind::Bug, "a commit without an outcome")));
            outcome.map(|()| true).map_err(|e| Error::from(e).doing(format!("commit {}", plan.id)))
        }
        false => Ok(false),
    };
    written.into_iter().map(outcome).collect()
}

/// Notes in the state that the load of a stream is committed (`written`: with a commit of the destination). An incremental stream has
/// then been read as far as the load says, one whose changes are followed has what the load's snapshot shows; any other waits for the
/// run's other tables.
pub fn committed(state: &mut State, plan: &StreamPlan, written: bool) {
    let (id, stream) = (&plan.id, &plan.chosen.stream);
    let Some(load) = state.lakeward.loads.get_mut(id) else { return };
    load.committed = true;
    if let Some(seen) = load.seen.take() {
        let source = &plan.spec.source;
        let mut captured = Captured {
            columns: plan.numbers.clone(),
            partitions: plan.partitions.clone(),
            heaps: Some(plan.heaps.clone()),
            filter: plan.capture.as_ref().map(|capture| capture.filter.clone()).unwrap_or_default(),
            ..Captured::new(load.generation.clone(), source.clone(), Some(seen))
        };
        if let Some(before) = state.lakeward.captures.remove(id).filter(|before| before.table == *source) {
            captured.columns = before.columns;
            captured.reshape(&plan.numbers);
        }
        state.lakeward.loads.remove(id);
        state.lakeward.cursors.remove(id);
        state.forget_cursors(&stream.namespace, &stream.name);
        state.complete(&stream.namespace, &stream.name);
        state.lakeward.captures.insert(id.clone(), captured);
        return;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_keeps_what_the_first_load_has_seen_until_it_is_passed() {
        let seen = json!({"moment": {"system": "1", "timeline": 1, "database": 5, "xmin": 9, "xmax": 9, "lsn": "0/20", "durable": true}, "open": [3]});
        let load = json!({"generation": "g", "fingerprint": "", "chunks": [], "seen": seen});
        let captured = json!({"load": "l", "table": "7", "lsn": "0/5", "seen": seen});
        let file = json!({"lakeward": {"version": 1, "loads": {"s.load": load}, "captures": {"s.t": captured}}});
        let state: State = serde_json::from_value(file).expect("a state");
        let mark = |lsn: &str, changes| Mark { load: "l".into(), lsn: lsn.into(), changes, left: 0 };
        let kept = |id: &str, mark: &Mark| unpassed(id, mark, &state).is_some();
        assert!(kept("s.load", &mark("0/20", false)) && kept("s.t", &mark("0/20", true)));
        assert!(!kept("s.t", &mark("0/21", true)) && !kept("s.t", &mark("0/20", false)) && !kept("s.other", &mark("0/1", true)));
        // What older programs read of it, and of theirs.
        let stamp = Stamp {
            mark: mark("0/20", true),
            table: "7".into(),
            filter: "1 > integer Some(\"5\")".into(),
            seen: unpassed("s.t", &mark("0/20", true), &state),
        };
        assert_eq!((Mark::read(&stamp.token()), Stamp::read(&stamp.token())), (Some(mark("0/20", true)), Some(stamp)));
        let plain = Stamp { mark: mark("0/20", false), table: String::new(), filter: String::new(), seen: None };
        assert_eq!((plain.token(), Stamp::read(&mark("0/20", false).token())), (mark("0/20", false).token(), Some(plain)));
    }
}
