//! How far an incremental stream has been read: the greatest cursor values, and which transactions were already visible. Pure values.
//!
//! A cursor value alone does not say what has been read: a transaction that was open when a run took its snapshot commits later, with a
//! value below the greatest one; and later rows can have an equal value. So the snapshot is remembered as well. A row with a value up to
//! the greatest is *late*, and read by the next run, exactly if its row version belongs to a transaction that the snapshot did not show:
//!
//! * its `xmin` is not below the snapshot's oldest open transaction, and
//! * it is not one of the transactions from that one on of which the run has read rows ([`Cursor::seen`]).
//!
//! The second part is a list and not the snapshot's own list of open transactions, because that one leaves out subtransactions
//! (savepoints), whose ids are those that rows carry.

use super::progress::Moment;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// How far a stream has been read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cursor {
    /// `cursor_field` of the catalog: `primary` or `primary:secondary`.
    pub field: String,
    /// The greatest value of each column as PostgreSQL prints it, exact; `null` when none was found.
    pub values: Vec<Option<String>>,
    /// The first value as OLake's part of the state has it: if that says something else, OLake has gone on since.
    #[serde(default)]
    pub shown: Option<Value>,
    /// The second value in the same form, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown_second: Option<Value>,
    /// The load that the destination committed last.
    pub load: String,
    /// When it was read.
    pub read_at: Moment,
    /// No transaction that could write was open in the snapshot or when it was taken: only equal values can be late.
    #[serde(default)]
    pub quiet: bool,
    /// Transactions not below `read_at.xmin` whose rows have been read (the ids that rows carry, 32 bits).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<u32>,
    /// `pg_relation_filenode` of each heap by its OID: a heap that was rewritten since may have given its rows new transactions.
    #[serde(default)]
    pub heaps: BTreeMap<u32, u32>,
}

impl Cursor {
    /// Of the transactions whose rows have been read, those that a cursor taken at `now` has to remember as well: a transaction that is
    /// open for several runs keeps them from becoming old.
    pub fn still_unsettled(&self, now: &Moment) -> impl Iterator<Item = u32> {
        let (base, window) = (now.xmin % (1 << 32), now.xmax.saturating_sub(now.xmin));
        self.seen.iter().copied().filter(move |id| (u64::from(*id) + (1 << 32) - base) % (1 << 32) < window)
    }

    /// A condition in SQL: the row version belongs to a transaction whose rows had not been read. `now` is the moment of the snapshot
    /// that the condition is asked in, and continues ours ([`Moment::continues`]).
    ///
    /// `xmin` is a 32-bit id without its epoch and is compared by its distance from ours, modulo 2³² (manual, "Transactions and
    /// Identifiers"). Ids below 3 are permanent: frozen before 9.4.
    pub fn late(&self, now: &Moment) -> String {
        let base = self.read_at.xmin % (1 << 32);
        let reach = now.xmax.saturating_sub(self.read_at.xmin);
        let window = self.read_at.xmax.saturating_sub(self.read_at.xmin);
        if reach == 0 {
            return "false".to_owned();
        }
        let distance = distance(base);
        let seen = match (&self.seen[..], window) {
            ([], _) | (_, 0) => String::new(),
            (seen, _) => {
                let ids: Vec<_> = seen.iter().map(u32::to_string).collect();
                format!(" AND ({distance} >= {window} OR xmin::text::bigint <> ALL ('{{{}}}'::bigint[]))", ids.join(","))
            }
        };
        format!("(xmin::text::bigint >= 3 AND {distance} < {reach}{seen})")
    }
}

/// Transactions of the relation's rows at or after the oldest one open in the snapshot of `now`, as a condition; `None` when there can be
/// none, because nothing was open.
pub fn unsettled(now: &Moment) -> Option<String> {
    let window = now.xmax.saturating_sub(now.xmin);
    (window > 0).then(|| format!("(xmin::text::bigint >= 3 AND {} < {window})", distance(now.xmin % (1 << 32))))
}

fn distance(base: u64) -> String {
    format!("(xmin::text::bigint - {base} + 4294967296) % 4294967296")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(xmin: u64, xmax: u64) -> Moment {
        Moment { system: "1".into(), timeline: 1, database: 5, xmin, xmax, lsn: "0/1".into(), durable: true }
    }

    fn cursor(xmin: u64, xmax: u64, seen: &[u32]) -> Cursor {
        Cursor {
            field: "id".into(),
            values: vec![Some("7".into())],
            shown: None,
            shown_second: None,
            load: "l".into(),
            read_at: moment(xmin, xmax),
            quiet: false,
            seen: seen.to_vec(),
            heaps: BTreeMap::new(),
        }
    }

    #[test]
    fn late_is_what_the_snapshot_did_not_show() {
        assert_eq!(cursor(100, 100, &[]).late(&moment(100, 100)), "false");
        let d = "(xmin::text::bigint - 100 + 4294967296) % 4294967296";
        assert_eq!(cursor(100, 100, &[]).late(&moment(120, 130)), format!("(xmin::text::bigint >= 3 AND {d} < 30)"));
        assert_eq!(
            cursor((1 << 32) + 100, (1 << 32) + 110, &[101, 105]).late(&moment((1 << 32) + 120, (1 << 32) + 130)),
            format!("(xmin::text::bigint >= 3 AND {d} < 30 AND ({d} >= 10 OR xmin::text::bigint <> ALL ('{{101,105}}'::bigint[])))")
        );
    }

    #[test]
    fn what_was_read_is_remembered_while_it_is_not_old() {
        let left = |xmin, xmax| cursor(100, 110, &[101, 105, 109]).still_unsettled(&moment(xmin, xmax)).collect::<Vec<_>>();
        assert_eq!(left(100, 200), [101, 105, 109]);
        assert_eq!(left(105, 200), [105, 109]);
        assert!(left(110, 200).is_empty());
        assert_eq!(cursor(1, 1, &[u32::MAX, 5]).still_unsettled(&moment((1 << 32) - 2, (1 << 32) + 5)).collect::<Vec<_>>(), [u32::MAX]);
    }

    #[test]
    fn nothing_is_unsettled_in_a_quiet_snapshot() {
        assert_eq!(unsettled(&moment(100, 100)), None);
        assert!(unsettled(&moment(100, 105)).is_some_and(|sql| sql.ends_with("< 5)")));
    }
}
