//! How far a stream with change data capture has been followed. Pure values.

use super::progress::Moment;
use crate::chunks::Chunk;
use crate::postgres::lsn::Lsn;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The progress of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Captured {
    /// The first load, which the changes are applied to.
    pub load: String,
    /// The table's OID: one that is made again with its name is another.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub table: String,
    /// The changes of every transaction whose commit ends here or before are in the destination, or are none of this stream's.
    pub lsn: Lsn,
    /// The timeline of the server's log that `lsn` is of: a standby that takes over begins another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// The position of the destination's last commit of changes; absent when there was none since the first load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Lsn>,
    /// The table's columns by their numbers (`attnum`), as far as the stream has been followed: what is called otherwise in the log since then
    /// has been renamed. Absent where an older release has written it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<i16, KnownColumn>,
    /// What the filter asks of rows, as all that are in the destination have been judged; absent without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// Its partitions that have rows, by OID, as far as the stream has been followed; none of a table without.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub partitions: BTreeSet<u32>,
    /// The files of its heaps, as far as the stream has been followed. Absent where an older release has written it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heaps: Option<Heaps>,
    /// The transaction of the last TRUNCATE of the whole table that the log has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<u32>,
    /// Whether the table is to be loaded again before it is followed further.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reload: bool,
    /// What the first load has seen, as long as the stream has not passed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// Where the table is copied while it is followed (`backfill.mode` `watermark`): ranges of its key that are not copied yet, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<Chunk>,
}

/// The files that a table's rows are in: where one is another, the rows have been written anew, or are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Heaps {
    /// `pg_relation_filenode` of the table, or of its partitions, by OID.
    pub files: BTreeMap<u32, u32>,
    /// No transaction that was open when they were looked at, nor a later one, is older than this (`txid_snapshot_xmin`).
    pub horizon: i64,
}

impl Heaps {
    /// Those of `now` whose file is another one here.
    pub fn changed<'h>(&'h self, now: &'h Self) -> impl Iterator<Item = u32> + 'h {
        let is_other = |oid: &u32, file: &u32| self.files.get(oid).is_some_and(|then| then != file);
        now.files.iter().filter(move |(oid, file)| is_other(oid, file)).map(|(oid, _)| *oid)
    }
}

/// A column, whose number tells it from others for as long as the table is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KnownColumn {
    /// What it is called.
    pub name: String,
    /// What it was called before, since the first load: a catalog may still call it so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<String>,
    /// Whether it has been dropped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// Its type, as the log names it (`atttypid`, `atttypmod`): rows that are there may have other values in another. Absent where an older release has
    /// written it.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub data_type: Option<(u32, i32)>,
    /// `xmin` of its row in `pg_attribute`, another one after whatever has altered the column: together with a heap that was written anew, rows that are there
    /// may have other values. Absent where an older release has written it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The labels of the enums that its values are made of, by `pg_enum.oid`: rows that are there have another text when one gets another name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<u32, String>,
    /// The attributes of the composite types that its values are made of, each with its type's OID, number, name and type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
}

impl Captured {
    /// A stream of which no more than this is known.
    pub fn new(load: String, table: String, seen: Option<Seen>) -> Self {
        let (columns, partitions) = (BTreeMap::new(), BTreeSet::new());
        Self {
            load,
            table,
            lsn: Lsn::default(),
            written: None,
            columns,
            filter: String::new(),
            partitions,
            heaps: None,
            timeline: None,
            truncated: None,
            reload: false,
            seen,
            left: Vec::new(),
        }
    }

    /// Whether the table is still being copied beside its changes.
    pub fn is_copying(&self) -> bool {
        !self.left.is_empty()
    }

    /// No more than so many ranges are left: the others are in the destination.
    pub fn leave(&mut self, ranges: usize) {
        self.left.drain(..self.left.len().saturating_sub(ranges));
    }

    /// The table's columns are these from here on.
    pub fn reshape(&mut self, columns: &BTreeMap<i16, KnownColumn>) {
        for (number, known) in &mut self.columns {
            let Some(now) = columns.get(number) else {
                known.gone = true;
                continue;
            };
            let mut former = std::mem::take(&mut known.former);
            if now.name != known.name {
                former.push(std::mem::take(&mut known.name));
            }
            *known = KnownColumn { former, ..now.clone() };
        }
        for (number, now) in columns {
            self.columns.entry(*number).or_insert_with(|| now.clone());
        }
    }
}

/// The transactions that an exported snapshot shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Seen {
    /// The instant.
    pub moment: Moment,
    /// Transactions between its `xmin` and `xmax` that were open.
    #[serde(default)]
    pub open: Vec<u64>,
}

impl Seen {
    /// Whether the snapshot shows a transaction, whose commit ends at `commit`.
    ///
    /// Visibility is not a matter of positions: a transaction becomes visible some time after its commit is in the log. But a commit that lies
    /// behind the position that was read after the snapshot was taken cannot be in it. `xid` is 32 bits of an id of 64; of all ids with
    /// these bits the one nearest to the snapshot is meant.
    pub fn shows(&self, xid: u32, commit: Lsn) -> bool {
        if self.is_passed(commit) {
            return false;
        }
        let Moment { xmin, xmax, .. } = self.moment;
        let ahead = xid.wrapping_sub(xmax as u32).cast_signed();
        let Some(full) = xmax.checked_add_signed(i64::from(ahead)) else { return false };
        full < xmin || (full < xmax && !self.open.contains(&full))
    }

    /// Whether nothing that ends at `position` or later is shown.
    pub fn is_passed(&self, position: Lsn) -> bool {
        self.moment.lsn.parse::<Lsn>().is_ok_and(|taken| position > taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(xmin: u64, xmax: u64, open: &[u64]) -> Seen {
        let moment = Moment { system: "1".into(), timeline: 1, database: 5, xmin, xmax, lsn: "0/100".into(), durable: true };
        Seen { moment, open: open.to_vec() }
    }

    #[test]
    fn a_snapshot_shows_what_had_ended_and_no_more() {
        let seen = seen(1000, 1005, &[1000, 1003]);
        let shown: Vec<u32> = (990..1010).filter(|xid| seen.shows(*xid, Lsn(0x80))).collect();
        assert_eq!(shown, [990, 991, 992, 993, 994, 995, 996, 997, 998, 999, 1001, 1002, 1004]);
        assert!(seen.shows(999, Lsn(0x100)), "at the very position");
        assert!(!seen.shows(999, Lsn(0x101)), "another transaction with these bits, long after");
    }

    #[test]
    fn ids_are_compared_across_the_wrap() {
        let epoch = 7_u64 << 32;
        let seen = seen(epoch - 2, epoch + 3, &[epoch]);
        let shown: Vec<u32> =
            [u32::MAX - 3, u32::MAX - 1, u32::MAX, 0, 1, 2, 3, 4].into_iter().filter(|xid| seen.shows(*xid, Lsn(1))).collect();
        assert_eq!(shown, [u32::MAX - 3, u32::MAX - 1, u32::MAX, 1, 2]);
    }
}
