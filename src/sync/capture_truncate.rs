//! TRUNCATE of tables that are followed: the log says so of a whole table, and of a partition only where it is published by itself, without its rows.
//!
//! Published through their root, partitions are truncated without a word in the log. Promises: once the log has been read up to where the tables
//! were planned, each partition has the file that it had before, or rows of before in another, or was truncated with the whole table; else the table is
//! copied again (a change log, which cannot say which rows are gone, stops).

use super::capture::{Ended, Ground};
use super::capture_reader::Reader;
use super::window::Follower;
use crate::capture::partitions::{self, Told};
use crate::config::update_method::OnTruncate;
use crate::error::{Error, Result};
use crate::postgres::catalog::RelationKind;
use crate::postgres::connect::{self, Session};
use crate::state::captured::{Heaps, KnownColumn};
use std::collections::{BTreeSet, HashSet};
use writers::Table;

impl<T: Table> Follower<T> {
    /// Whether its rows are in partitions.
    pub fn is_parted(&self) -> bool {
        self.stream.info.kind == RelationKind::Partitioned
    }

    /// The files that its partitions had, if they tell anything: rows that ALTER TABLE has written anew are younger than it, too.
    fn files_before(&self) -> Option<Heaps> {
        let before = |number: &i16| self.captured.columns.get(number);
        let is_other = |(number, now): (&i16, &KnownColumn)| before(number).is_some_and(|then| then.version != now.version);
        let was_altered = self.stream.plan.numbers.iter().any(is_other);
        self.captured.heaps.clone().filter(|_| self.is_parted() && !was_altered)
    }
}

impl<T: Table> Reader<T> {
    /// All rows of these relations go. Of a table that is followed by its partitions, all of them have to be among them.
    pub(super) fn truncate(&mut self, relations: &HashSet<u32>) -> Result<()> {
        let (on_truncate, transaction) = (self.on_truncate, self.transaction());
        let named: BTreeSet<usize> = relations.iter().filter_map(|oid| self.relations.get(oid).copied()).collect();
        for index in named {
            let info = &self.followers[index].stream.info;
            let oid = info.oid;
            let whole = relations.contains(&oid) || info.leaves.iter().all(|leaf| relations.contains(&leaf.oid));
            let one = relations.iter().copied().find(|oid| self.relations.get(oid) == Some(&index)).unwrap_or(oid);
            self.change(one, 0, |follower, place| match (on_truncate, whole) {
                (OnTruncate::Ignore, _) => {
                    tracing::warn!("{}: a TRUNCATE, committed at {}, is ignored", follower.stream.plan.id, place.commit);
                    Ok(())
                }
                (OnTruncate::Fail, _) => {
                    Err(refused(&format!("{}: it was truncated in the transaction committed at {}", follower.stream.plan.id, place.commit)))
                }
                (OnTruncate::Apply, true) => follower.truncate(place, transaction),
                (OnTruncate::Apply, false) => Err(Error::schema(format!(
                    "{}: some of its partitions were truncated in the transaction committed at {}, and which rows were theirs is not known",
                    follower.stream.plan.id, place.commit
                ))
                .hint("load the table anew: sync --reload")),
            })?;
        }
        Ok(())
    }

    /// Looks for partitions that were truncated, once the log has been read up to where the tables were planned.
    pub async fn find_emptied(&mut self, ground: &Ground) -> Result<Ended> {
        if self.has_found_emptied || self.reached < self.planned_before {
            return Ok(Ended::Complete);
        }
        let has_others = |follower: &Follower<T>| {
            let now = &follower.stream.plan.heaps;
            // One that is new began with a file of its own number.
            let is_other = |before: &Heaps| now.files.iter().any(|(oid, file)| before.files.get(oid).unwrap_or(oid) != file);
            !follower.has_failed() && follower.files_before().is_some_and(|before| is_other(&before))
        };
        let indexes: Vec<usize> = (0..self.followers.len()).filter(|index| has_others(&self.followers[*index])).collect();
        if !indexes.is_empty() {
            let session = connect::session(&ground.options).await?;
            let mut anew = false;
            for index in indexes {
                anew |= self.copy_emptied_again(index, &session, ground).await?;
            }
            session.close().await;
            if anew {
                return Ok(Ended::Anew);
            }
        }
        self.has_found_emptied = true;
        Ok(Ended::Complete)
    }

    /// Whether a table is to be copied again because partitions were truncated of which the log has not told; where it cannot be, it stops.
    pub(super) async fn copy_emptied_again(&mut self, index: usize, session: &Session, ground: &Ground) -> Result<bool> {
        let follower = &self.followers[index];
        let Some(before) = follower.files_before() else { return Ok(false) };
        // A change log stops for nothing only where nobody can tell better.
        let told = Told { transaction: follower.truncated.or(follower.captured.truncated), or_below: !follower.plan.applies };
        let root = follower.stream.info.oid;
        let emptied = partitions::emptied(session, root, &before, told).await?;
        if emptied.is_empty() {
            return Ok(false);
        }
        let follower = &mut self.followers[index];
        let (id, info) = (&follower.stream.plan.id, &follower.stream.info);
        let what = format!("{id}: the partition {} was truncated, and which rows were its own the log does not have", emptied.join(", "));
        match self.on_truncate {
            OnTruncate::Ignore => tracing::warn!("{what}: they stay (on_truncate)"),
            OnTruncate::Fail => follower.fail(refused(&what)),
            OnTruncate::Apply if follower.plan.applies => {
                tracing::warn!("{what}: the table is copied again");
                ground.keeper.commit(|state| state.reload(&info.namespace, &info.name))?;
                return Ok(true);
            }
            OnTruncate::Apply => {
                let hint = "its change log can only begin anew: sync --reload; set on_truncate to ignore where the rows may stay";
                follower.fail(Error::schema(what).hint(hint));
            }
        }
        Ok(false)
    }
}

fn refused(what: &str) -> Error {
    Error::schema(format!("{what}, and on_truncate is fail"))
        .hint("to go on with an empty table, set on_truncate to apply; or load the table anew: sync --reload")
}
