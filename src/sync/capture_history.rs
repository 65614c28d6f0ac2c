//! Whether the server still has what the destination has, after a standby has taken its place.
//!
//! A standby that takes over begins a timeline of its own, where its log ended. What only the old primary had is gone: changes beyond that
//! place, unless the old primary held them back (`synchronized_standby_slots`), and what a copy has read, which nothing holds back. On the new timeline, positions
//! and transaction ids beyond that place are given again, to others. Promises: nothing is passed over because something else once had its position
//! or its transaction id; a table of which the destination has what is gone is copied again, and a change log stops.

use super::capture::{Ended, Ground};
use super::capture_reader::Reader;
use crate::error::{Error, Result};
use crate::postgres::changes::Way;
use crate::postgres::connect;
use crate::postgres::exported;
use crate::postgres::lsn::Lsn;
use crate::postgres::replication::Replication;
use crate::state::captured::Captured;
use writers::Table;

/// The timelines that a server has come from, each with where it was left; `None` if the server does not tell.
struct Past(Option<Vec<(u32, Lsn)>>);

impl Past {
    /// Where the log of a timeline ends for this server; `None` if that is not known.
    fn end(&self, timeline: u32) -> Option<Lsn> {
        let branches = self.0.as_ref()?;
        // One that it has not come from has nothing of it.
        Some(branches.iter().find(|(branch, _)| *branch == timeline).map_or(Lsn::default(), |(_, end)| *end))
    }

    /// What of a stream the server does not have. `timeline`: that of its positions.
    fn lost(&self, captured: &Captured, timeline: u32, now: u32) -> Option<Lost> {
        if let Some(seen) = &captured.seen
            && seen.moment.timeline != now
            && seen.moment.timeline != 0
        {
            let ends = self.end(seen.moment.timeline);
            let is_within = ends.zip(seen.moment.lsn.parse::<Lsn>().ok()).is_some_and(|(end, taken)| taken <= end);
            if !is_within {
                return Some(Lost::Copy);
            }
        }
        let end = self.end(timeline).filter(|_| timeline != now)?;
        (captured.lsn > end).then_some(Lost::Changes { read: captured.lsn, end })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Lost {
    /// What its copy has read.
    Copy,
    /// Changes.
    Changes { read: Lsn, end: Lsn },
}

impl<T: Table> Reader<T> {
    /// Looks for it, and notes on whose log each stream's position is from here on.
    pub async fn check_history(&mut self, ground: &Ground) -> Result<Ended> {
        let session = connect::session(&ground.options).await?;
        // What may be refused is asked outside of a transaction, which a refusal would end.
        session.leave_transaction().await?;
        let now = exported::identify(&session).await?.timeline;
        session.close().await;
        // Not every server lets everybody ask.
        if now == 0 || self.followers.iter().all(|follower| is_of(&follower.captured, now)) {
            return Ok(Ended::Complete);
        }
        let is_another = |captured: &Captured| {
            captured.timeline.is_some_and(|timeline| timeline != now)
                || captured.seen.as_ref().is_some_and(|seen| seen.moment.timeline != now)
        };
        let mut past = Past(None);
        if self.followers.iter().any(|follower| is_another(&follower.captured)) {
            tracing::info!("the server is on timeline {now}: a standby has taken the place of the one that was read before");
            past = self::past(ground, now).await?;
        }
        let (mut reloads, mut known) = (Vec::new(), Vec::new());
        for follower in self.followers.iter_mut().filter(|follower| !follower.has_failed()) {
            let id = follower.stream.plan.id.clone();
            let lost = past.lost(&follower.captured, follower.captured.timeline.unwrap_or(now), now);
            let what = match &lost {
                None => {
                    follower.captured.timeline = Some(now);
                    known.push(id);
                    continue;
                }
                Some(Lost::Copy) => "its copy may show what the server that has taken over does not have".to_owned(),
                Some(Lost::Changes { read, end }) => {
                    format!("the destination has changes up to {read}, and the server that has taken over has those up to {end} only")
                }
            };
            if follower.plan.applies || lost == Some(Lost::Copy) {
                tracing::warn!("{id}: {what}: the table is copied again");
                reloads.push((follower.stream.info.namespace.clone(), follower.stream.info.name.clone()));
            } else {
                follower.fail(Error::schema(format!("{id}: {what}")).hint(
                    "its change log can only begin anew: sync --reload; synchronized_standby_slots of the primary keeps this from happening",
                ));
            }
        }
        let ended = if reloads.is_empty() { Ended::Complete } else { Ended::Anew };
        ground.keeper.commit(|state| {
            for (namespace, name) in reloads {
                state.reload(&namespace, &name);
            }
            for id in known {
                state.lakeward.captures.entry(id).and_modify(|captured| captured.timeline = Some(now));
            }
        })?;
        Ok(ended)
    }
}

/// Whether all of a stream is of this timeline.
fn is_of(captured: &Captured, now: u32) -> bool {
    captured.timeline == Some(now) && captured.seen.as_ref().is_none_or(|seen| seen.moment.timeline == now)
}

/// What the server has come from.
async fn past(ground: &Ground, timeline: u32) -> Result<Past> {
    let asked = async {
        let mut session = Replication::connect(&ground.options).await?;
        session.timeline_history(timeline).await
    };
    match (asked.await, ground.terms.way) {
        (Ok(branches), _) => Ok(Past(Some(branches))),
        (Err(error), Way::Stream) => Err(error.doing("ask where the server's timeline began")),
        (Err(error), Way::Poll(_)) => {
            tracing::warn!(
                "{error}; where the server's timeline began is not known: changes that only the old primary had may stay in the destination"
            );
            Ok(Past(None))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::captured::Seen;
    use crate::state::progress::Moment;

    fn captured(lsn: u64, seen: Option<(u32, u64)>) -> Captured {
        let seen = seen.map(|(timeline, lsn)| Seen {
            moment: Moment { system: "1".into(), timeline, database: 5, xmin: 9, xmax: 9, lsn: Lsn(lsn).to_string(), durable: true },
            open: Vec::new(),
        });
        Captured { lsn: Lsn(lsn), ..Captured::new("load".into(), "1".into(), seen) }
    }

    #[test]
    fn what_lies_beyond_the_end_of_a_timeline_is_gone() {
        // Timeline 3 came of 2 at 0x300, and that of 1 at 0x200.
        let past = Past(Some(vec![(1, Lsn(0x200)), (2, Lsn(0x300))]));
        assert_eq!(past.lost(&captured(0x250, None), 2, 3), None);
        assert_eq!(past.lost(&captured(0x300, None), 2, 3), None);
        assert_eq!(past.lost(&captured(0x301, None), 2, 3), Some(Lost::Changes { read: Lsn(0x301), end: Lsn(0x300) }));
        assert_eq!(past.lost(&captured(0x250, None), 1, 3), Some(Lost::Changes { read: Lsn(0x250), end: Lsn(0x200) }));
        assert_eq!(past.lost(&captured(0x900, None), 3, 3), None);
        // One that split off elsewhere.
        assert!(past.lost(&captured(0x100, None), 4, 3).is_some());
        // Of a copy, what its snapshot shows.
        assert_eq!(past.lost(&captured(0, Some((2, 0x300))), 3, 3), None);
        assert_eq!(past.lost(&captured(0, Some((2, 0x301))), 3, 3), Some(Lost::Copy));
        assert_eq!(past.lost(&captured(0, Some((3, 0x400))), 3, 3), None);
        // Nobody knows.
        let unknown = Past(None);
        assert_eq!(unknown.lost(&captured(0x900, None), 2, 3), None);
        assert_eq!(unknown.lost(&captured(0, Some((2, 1))), 2, 3), Some(Lost::Copy));
    }
}
