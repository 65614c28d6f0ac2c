//! What the output plugin `pgoutput` says: its messages as values that borrow from the payload.
//!
//! Promises: everything that a message carries is here, nothing is interpreted. Knows no bytes; `pgoutput` reads them.

use super::tuple::Tuple;
use crate::postgres::lsn::{Lsn, PgTime};

/// One message. `xid` is the (sub)transaction of a change within a stream, and `None` outside of streams, where Begin has told it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant tells of its fields")]
pub enum Message<'a> {
    /// `B`: a transaction that has been committed begins; `lsn` is where its commit record starts.
    Begin { lsn: Lsn, time: PgTime, xid: u32 },
    /// `C`: its end; `lsn` is that of Begin, `end_lsn` is behind the commit record: what may be acknowledged.
    Commit { lsn: Lsn, end_lsn: Lsn, time: PgTime },
    /// `O`: the transaction was replayed from elsewhere, where its commit is at `lsn`; follows Begin or Stream Start.
    Origin { lsn: Lsn, name: &'a [u8] },
    /// `R`: what a relation looks like from here on.
    Relation { xid: Option<u32>, relation: Relation },
    /// `Y`: the name of a type that is not built in; for a domain, that of its base type.
    Type { xid: Option<u32>, oid: u32, namespace: &'a [u8], name: &'a [u8] },
    /// `M`: written by `pg_logical_emit_message`; one that is not transactional comes outside of transactions and streams.
    Logical { xid: Option<u32>, transactional: bool, lsn: Lsn, prefix: &'a [u8], content: &'a [u8] },
    /// `I`: a new row.
    Insert { xid: Option<u32>, relation: u32, new: Tuple<'a> },
    /// `U`: a changed row; `old` is there if the key has changed or the replica identity is full.
    Update { xid: Option<u32>, relation: u32, old: Option<Old<'a>>, new: Tuple<'a> },
    /// `D`: a row is gone.
    Delete { xid: Option<u32>, relation: u32, old: Old<'a> },
    /// `T`: all rows of these relations are gone.
    Truncate { xid: Option<u32>, cascade: bool, restart_identity: bool, relations: RelationIds<'a> },
    /// `S`: a part of a transaction that is still open; `first` says that none came before.
    StreamStart { xid: u32, first: bool },
    /// `E`: the end of the part.
    StreamStop,
    /// `c`: a streamed transaction is committed.
    StreamCommit { xid: u32, lsn: Lsn, end_lsn: Lsn, time: PgTime },
    /// `A`: what `subxid` has streamed is void: a subtransaction of `xid`, or all of it if they are equal. `at` comes with
    /// `streaming 'parallel'` only.
    StreamAbort { xid: u32, subxid: u32, at: Option<(Lsn, PgTime)> },
    /// `b`: a transaction that has been prepared begins.
    BeginPrepare(Prepared<'a>),
    /// `P`: its end.
    Prepare(Prepared<'a>),
    /// `p`: a streamed transaction is prepared.
    StreamPrepare(Prepared<'a>),
    /// `K`: a prepared transaction is committed; `lsn`, `end_lsn` and `time` are those of the commit.
    CommitPrepared(Prepared<'a>),
    /// `r`: a prepared transaction is rolled back. `prepare_end_lsn` is the `end_lsn` of its Prepare.
    RollbackPrepared { prepare_end_lsn: Lsn, end_lsn: Lsn, prepare_time: PgTime, time: PgTime, xid: u32, gid: &'a [u8] },
}

/// Where and when a transaction was prepared (or committed after that), and the name the user gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared<'a> {
    /// Start of the record.
    pub lsn: Lsn,
    /// End of the record.
    pub end_lsn: Lsn,
    /// When it was written.
    pub time: PgTime,
    /// The transaction.
    pub xid: u32,
    /// Its name, in the client's encoding.
    pub gid: &'a [u8],
}

/// The row before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// `K`: columns of the replica identity; all others are NULL, whatever they hold.
    Key(Tuple<'a>),
    /// `O`: the whole row.
    Full(Tuple<'a>),
}

/// A relation as the publication shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// What changes refer to.
    pub oid: u32,
    /// Its schema.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which columns old rows have.
    pub replica_identity: ReplicaIdentity,
    /// The published columns, in the order of the values in rows.
    pub columns: Vec<RelationColumn>,
}

/// A column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Its name.
    pub name: String,
    /// Whether it is part of the replica identity; with a full one, every column is.
    pub key: bool,
    /// Its type.
    pub type_oid: u32,
    /// `atttypmod`; -1 is none.
    pub typmod: i32,
}

/// `REPLICA IDENTITY` of a table (`pg_class.relreplident`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default,
    /// No columns: neither updates nor deletes can be published.
    Nothing,
    /// All columns.
    Full,
    /// A unique index.
    Index,
}

/// The relations of a Truncate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationIds<'a>(pub(super) &'a [[u8; 4]]);

impl<'a> RelationIds<'a> {
    /// The oids, in the server's order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.0.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}
