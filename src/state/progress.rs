//! A load under way: which chunks are staged, and at which moment of the database they were read. Pure values.
//!
//! A full refresh must show the table at one instant. Chunks staged by a run that died were read in an exported
//! snapshot that died with it; the next run has another one. A staged chunk may be kept exactly when the rows of its
//! page range are provably the same in both snapshots:
//!
//! * the heap file is the same (`filenode`), so that pages mean the same rows;
//! * the server's history is the same ([`Moment::continues`]), so that transaction ids mean the same transactions;
//! * no row visible now has an `xmin` at or after the oldest transaction open in the old snapshot, so that every row
//!   visible now was visible then (rows never move, and an update writes a new version with a new `xmin`);
//! * the number of rows is the same, so that none has gone.
//!
//! [`verify_query`] asks the server for the two numbers; nothing is transferred again.

use super::captured::Seen;
use super::cursor::Cursor;
use crate::chunks::{Chunk, where_all};
use crate::postgres::lsn::Lsn;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An instant of a database: an MVCC snapshot and the history that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Moment {
    /// `pg_control_system().system_identifier`; empty when the server does not tell.
    pub system: String,
    /// Timeline of the WAL.
    pub timeline: u32,
    /// `pg_database.oid`.
    pub database: u32,
    /// Oldest transaction still open in the snapshot, 64 bits (`pg_snapshot_xmin`).
    pub xmin: u64,
    /// First transaction id not yet assigned (`pg_snapshot_xmax`).
    pub xmax: u64,
    /// WAL position when the snapshot was taken.
    pub lsn: String,
    /// Every transaction visible in the snapshot was flushed to disk: a crash of the server cannot undo it.
    pub durable: bool,
}

impl Moment {
    /// Whether `later` belongs to the same history, so that transaction ids can be compared with this one's.
    /// False after a fail-over (transactions we saw may be gone), on a standby that is behind, for another database, or after
    /// two billion transactions. What it cannot see is a server restored from an older copy of its disk.
    pub fn continues(&self, later: &Self) -> bool {
        let known = !self.system.is_empty() && self.timeline != 0;
        let lsn = |moment: &Self| moment.lsn.parse::<Lsn>().ok();
        let in_order = lsn(self).zip(lsn(later)).is_some_and(|(earlier, later)| earlier <= later);
        self.durable
            && known
            && in_order
            && self.system == later.system
            && self.timeline == later.timeline
            && self.database == later.database
            && later.xmax >= self.xmin
            && later.xmax - self.xmin < 1 << 31
    }
}

/// An unfinished load of one stream.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Load {
    /// Name of the load in the destination's staging area.
    pub generation: String,
    /// What was asked for: columns, types, filter, destination. Staged chunks are of use only for the same.
    pub fingerprint: String,
    /// Counts the attempts, so that no two of them give files the same name.
    #[serde(default)]
    pub attempt: u32,
    /// Chunks that are staged.
    pub chunks: Vec<StagedChunk>,
    /// Chunks by key that are not staged: their bounds came from a sample, and cannot be found again. Chunks by pages are not here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<Chunk>,
    /// For an incremental stream: how far it has been read when this load is committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
    /// For a stream with change data capture: from where it is followed when this load is committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// Set when the load is committed and waits for the run's other tables: the chunks then say what was committed.
    #[serde(default)]
    pub committed: bool,
}

/// A chunk that was read and staged.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StagedChunk {
    /// What it covers.
    #[serde(flatten)]
    pub chunk: Chunk,
    /// Rows read.
    pub rows: u64,
    /// When it was read.
    pub read_at: Moment,
    /// The destination's part; chunks that were read into one part have it in common.
    pub part: Value,
}

/// The statement that decides whether a staged chunk still holds exactly what its page range holds now: one row,
/// `(rows, rows that the old snapshot may not have seen)`. `filter` is the stream's, if it has one.
///
/// `xmin` is a 32-bit id without its epoch; it is compared with the old snapshot's oldest open transaction modulo 2³²
/// (manual, section "Transactions and Identifiers"). Ids below 3 are permanent. An old row whose id happens to fall into
/// the window only makes the chunk be read again.
pub fn verify_query(staged: &StagedChunk, filter: Option<&str>) -> String {
    let base = staged.read_at.xmin % (1 << 32);
    format!(
        "SELECT count(*), count(*) FILTER (WHERE xmin::text::bigint >= 3 AND (xmin::text::bigint - {base} + 4294967296) % 4294967296 < 2147483648) {}{}",
        staged.chunk.source(),
        where_all(&staged.chunk.conditions(filter))
    )
}

/// Page ranges of a heap that are not covered, in order. `covered` may be in any order; `None` as an end means to the
/// end of the heap, and so does it in the result.
pub fn gaps(covered: &[(u64, Option<u64>)]) -> Vec<(u64, Option<u64>)> {
    let mut covered = covered.to_vec();
    covered.sort_unstable();
    let mut at = 0;
    let mut gaps = Vec::new();
    for (from, to) in covered {
        if from > at {
            gaps.push((at, Some(from)));
        }
        match to {
            Some(to) => at = at.max(to),
            None => return gaps,
        }
    }
    gaps.push((at, None));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_left() {
        let check = |covered: &[(u64, Option<u64>)], expected: &[(u64, Option<u64>)]| assert_eq!(gaps(covered), expected);
        check(&[], &[(0, None)]);
        check(&[(0, None)], &[]);
        check(&[(10, Some(20)), (0, Some(5))], &[(5, Some(10)), (20, None)]);
        check(&[(5, None)], &[(0, Some(5))]);
        check(&[(0, Some(5)), (5, Some(9)), (20, None)], &[(9, Some(20))]);
    }

    fn moment() -> Moment {
        Moment { system: "1".into(), timeline: 1, database: 5, xmin: 1000, xmax: 1010, lsn: "0/1".into(), durable: true }
    }

    #[test]
    fn transaction_ids_are_compared_only_within_one_history() {
        let now = Moment { xmin: 2000, xmax: 2000, ..moment() };
        assert!(moment().continues(&now));
        assert!(!moment().continues(&Moment { timeline: 2, ..now.clone() }));
        assert!(!moment().continues(&Moment { database: 6, ..now.clone() }));
        assert!(!moment().continues(&Moment { system: "2".into(), ..now.clone() }));
        assert!(!moment().continues(&Moment { xmax: 1000 + (1 << 31), ..now.clone() }));
        assert!(!moment().continues(&Moment { xmax: 999, ..now.clone() }));
        assert!(!Moment { durable: false, ..moment() }.continues(&now));
        assert!(Moment { lsn: "0/FFFFFFFF".into(), ..moment() }.continues(&Moment { lsn: "1/0".into(), ..now.clone() }));
        assert!(!Moment { lsn: "1/0".into(), ..moment() }.continues(&now), "a standby that is behind");
        let unknown = Moment { timeline: 0, ..moment() };
        assert!(!unknown.continues(&Moment { timeline: 0, ..now }));
    }
}
