//! Tables that are copied while they are followed, in ranges of their primary key (`backfill.mode` `watermark`).
//!
//! ```text
//! commit at a ─▶ snapshot, which shows all that was read up to a ─▶ rows of a range ─▶ the log up to b, behind the snapshot ─▶ commit at b
//! ```
//!
//! In a commit the rows of a range come before all changes between a and b. Of each key the last one counts: a row that has changed since a is as its
//! last change left it, any other as the snapshot shows it; it does not matter which of the changes the snapshot shows. So nothing has to be written
//! into the source, and no transaction is held open for longer than a range takes. What a change needs of a row that has not been copied yet, its range will bring.
//!
//! (The idea of reading a table in pieces between two positions of the log is that of DBLog, Andreakis and Papapanagiotou 2020, where marks are
//! written into the source's log, and keys are compared in the reader.)

use super::advance::Aim;
use super::backfill::read_chunk;
use super::capture::{Ended, Ground, flush_position};
use super::capture_reader::Reader;
use super::capture_settle::concerns;
use super::capture_shapes::are_as_planned;
use super::window::Follower;
use crate::chunks;
use crate::error::{Error, Result};
use crate::postgres::exported::{self, Exported, Relations};
use crate::postgres::lsn::Lsn;
use crate::state::captured::Seen;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use writers::Table;

/// Between two looks at whether a transaction that was read is visible.
const LOOK: Duration = Duration::from_millis(100);
/// After this time what was copied is committed, though there are tables of which no range was copied.
const ROUND: Duration = Duration::from_secs(10);
/// From here on it is worth a word that one is not.
const LONG: Duration = Duration::from_secs(10);

/// What came of one range.
enum Copied {
    Rows {
        /// Transactions below it have ended.
        xmin: u64,
        /// A position behind everything that the snapshot shows.
        high: Lsn,
    },
    /// The table has other columns than it was planned with.
    Outdated,
}

/// Transactions that have been read and may not be visible yet, with the positions of their commits: a commit is in the log before anybody sees it, and
/// long before where it waits for a synchronous standby.
#[derive(Default)]
pub(super) struct Recent {
    read: HashMap<u32, Lsn>,
    /// What was visible when reading began, which need not be noted.
    begun: Option<Seen>,
}

impl Recent {
    /// Nothing has been read.
    pub(super) fn since(begun: Seen) -> Self {
        Self { read: HashMap::new(), begun: Some(begun) }
    }

    /// A transaction has been read to its end.
    pub(super) fn note(&mut self, xid: u32, commit: Lsn) {
        if self.begun.as_ref().is_none_or(|begun| !begun.shows(xid, commit)) {
            self.read.insert(xid, commit);
        }
    }

    /// Whether a snapshot shows them all.
    fn is_shown(&self, seen: &Seen) -> bool {
        self.read.iter().all(|(xid, commit)| seen.shows(*xid, *commit))
    }

    /// Forgets those that had ended when a snapshot was taken: all later ones show them.
    fn forget(&mut self, xmin: u64) {
        self.read.retain(|xid, _| (xmin as u32).wrapping_sub(*xid).cast_signed() <= 0);
    }
}

impl<T: Table> Reader<T> {
    /// Notes whether some table is not copied to its end.
    pub(super) fn look_for_ranges(&mut self) {
        self.copying = self.followers.iter().any(|follower| follower.captured.is_copying() && !follower.has_failed());
    }

    /// Whether the log has been read to where it ended when this began, and some table is to be copied: not before, because what is copied is not
    /// committed before the log has been read behind it.
    pub(super) fn has_caught_up_to_copy(&self) -> bool {
        self.copying && self.high.is_none() && self.reached >= self.planned_before
    }

    /// Whether a range is to be copied now.
    pub fn wants_rows(&self) -> bool {
        self.has_caught_up_to_copy() && self.is_fresh()
    }

    /// Copies the next range of every table that has any left, one after the other, as far as there is time.
    pub async fn copy_ranges(&mut self, ground: &Ground) -> Result<Ended> {
        let copying = |follower: &&mut Follower<T>| follower.captured.is_copying() && !follower.has_failed();
        let begun = Instant::now();
        let mut shown = None;
        for follower in self.followers.iter_mut().filter(copying) {
            match copy(follower, ground, &self.recent).await {
                Ok(Copied::Rows { xmin, high }) => {
                    let (least, highest) = shown.unwrap_or((xmin, high));
                    shown = Some((xmin.min(least), high.max(highest)));
                }
                Ok(Copied::Outdated) => {
                    tracing::info!("{} has got other columns", follower.stream.plan.id);
                    return Ok(Ended::Anew);
                }
                Err(error) => concerns(follower, error)?,
            }
            if begun.elapsed() >= ROUND {
                break;
            }
        }
        if let Some((xmin, high)) = shown {
            self.high = Some(high);
            self.recent.forget(xmin);
        }
        self.look_for_ranges();
        Ok(Ended::Complete)
    }

    /// Gives up the ranges that were copied since the last commit.
    pub fn give_back(&mut self) {
        self.followers.iter_mut().for_each(Follower::give_back);
        self.high = None;
    }
}

/// Copies the next range of a table, which is locked meanwhile.
async fn copy<T: Table>(follower: &mut Follower<T>, ground: &Ground, recent: &Recent) -> Result<Copied> {
    let stream = follower.stream.clone();
    let plan = &stream.plan;
    let Some(range) = follower.captured.left.first().cloned() else { return Err(Error::bug("no range is left to copy")) };
    let doing = |error: Error| error.doing(format!("copy {} of {}", range.describe(), plan.id));
    let mut relations = Relations::default();
    relations.add(&stream.info, None);
    let exported = visible(ground, &relations, recent, &plan.id).await.map_err(doing)?;
    if !are_as_planned(exported.client(), &[&stream.info]).await.map_err(doing)? {
        return Ok(Copied::Outdated);
    }
    let high = flush_position(exported.client()).await.map_err(doing)?;
    let mut connection = exported::adopt(&ground.options, &exported.name, &exported.moment).await.map_err(doing)?;
    let aim = Aim::everything(plan.filter.clone());
    let sql = chunks::query(&plan.select(&aim), &range, aim.filter.as_deref(), plan.wire);
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let reading = async {
        let rows = read_chunk(&mut connection, &sql, plan, &ground.limits, &stream.meter, &sender).await;
        drop(sender);
        rows
    };
    let taking = async {
        while let Some(batch) = receiver.recv().await {
            follower.copy(batch?).await?;
        }
        Ok::<_, Error>(())
    };
    let (read, taken) = tokio::join!(reading, taking);
    taken.and(read).map_err(doing)?;
    follower.copied = true;
    connection.close().await;
    Ok(Copied::Rows { xmin: exported.moment.xmin, high })
}

/// A snapshot that shows all that was read.
async fn visible(ground: &Ground, relations: &Relations, recent: &Recent, id: &str) -> Result<Exported> {
    let begun = Instant::now();
    let mut is_told = false;
    loop {
        let exported = Exported::take(&ground.options, relations).await?;
        if recent.is_shown(&exported.seen()) {
            return Ok(exported);
        }
        drop(exported);
        if begun.elapsed() > LONG && !is_told {
            is_told = true;
            tracing::warn!("{id}: a transaction is in the log and not visible yet: a synchronous standby may be away");
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::progress::Moment;

    fn seen(xmin: u64, xmax: u64, open: &[u64], lsn: u64) -> Seen {
        let lsn = Lsn(lsn).to_string();
        let moment = Moment { system: "1".into(), timeline: 1, database: 5, xmin, xmax, lsn, durable: true };
        Seen { moment, open: open.to_vec() }
    }

    #[test]
    fn what_was_read_has_to_be_visible() {
        // 11 was open, and 13 had not begun, when reading began.
        let mut recent = Recent::since(seen(11, 13, &[11], 0x100));
        for (xid, commit) in [(9, 0x80), (12, 0x90), (11, 0xA0), (13, 0x200)] {
            recent.note(xid, Lsn(commit));
        }
        assert_eq!(recent.read.len(), 2, "{:?}", recent.read);
        assert!(!recent.is_shown(&seen(11, 14, &[11], 0x300)), "11 waits");
        assert!(!recent.is_shown(&seen(13, 14, &[13], 0x300)), "13 waits");
        assert!(recent.is_shown(&seen(14, 14, &[], 0x300)));
        recent.forget(13);
        assert_eq!(recent.read.into_keys().collect::<Vec<_>>(), [13]);
    }
}
