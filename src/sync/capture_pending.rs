//! Transactions that come before their outcome is known: large ones that are streamed, and prepared ones.
//!
//! They are kept on the local disk ([`Spool`]) and read again when they are committed, which is when they happened. Promises: a transaction that
//! is rolled back leaves nothing; a prepared one that waits for its end holds the slot back, because the server sends it once only.
//! (Manual, "Streaming of Large Transactions for Logical Decoding", "Two-phase Commit Support for Logical Decoding".)

use super::backfill::BatchLimits;
use super::capture_reader::{Reader, Transaction};
use crate::capture::pgoutput::{Message, Prepared};
use crate::capture::rows::Place;
use crate::capture::spool::{Next, Replay, Spool};
use crate::error::{Error, Result};
use crate::postgres::lsn::{Lsn, PgTime};
use std::collections::HashMap;
use writers::Table;

/// Transactions without an outcome.
#[derive(Default)]
pub struct Pending {
    /// Streamed, by transaction.
    streamed: HashMap<u32, Spool>,
    /// Whose part is being sent.
    current: Option<u32>,
    /// Being sent as a whole, which is prepared.
    preparing: Option<Spool>,
    /// Prepared: the position that the slot must not pass, and the changes.
    prepared: HashMap<u32, (Lsn, Spool)>,
}

/// What became of a message.
pub enum Taken {
    /// Nothing: it is of a transaction that is committed.
    Not,
    /// It is kept, or was one about what is kept.
    Kept,
    /// A transaction that was kept is committed.
    Committed(Committed),
}

/// A transaction whose changes are to be read again.
pub struct Committed {
    xid: u32,
    /// Start of the commit record.
    lsn: Lsn,
    end_lsn: Lsn,
    time: PgTime,
    /// None if the server has sent them to somebody before, when the transaction was prepared.
    changes: Option<Spool>,
}

/// A transaction that is being read again.
pub(super) struct Replaying {
    changes: Replay,
    end_lsn: Lsn,
}

/// What reading again has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replayed {
    /// There is more, or there was no more.
    Some,
    /// The next change is so large: see [`Reader::allow`].
    Large(usize),
}

impl Pending {
    /// Takes what concerns such transactions.
    ///
    /// # Errors
    /// The disk is full, or fails; a part of a transaction whose beginning never came.
    pub fn take(&mut self, message: &Message<'_>, payload: &[u8]) -> Result<Taken> {
        match *message {
            // What follows relies on it too, unlike within a stream.
            Message::Relation { .. } if self.current.is_none() => {
                if let Some(spool) = &mut self.preparing {
                    spool.push(payload)?;
                }
                return Ok(Taken::Not);
            }
            Message::Insert { .. }
            | Message::Update { .. }
            | Message::Delete { .. }
            | Message::Truncate { .. }
            | Message::Relation { .. } => match self.receiving() {
                Some(spool) => spool.push(payload)?,
                None => return Ok(Taken::Not),
            },
            Message::StreamStart { xid, first } => {
                self.current = Some(xid);
                if first {
                    self.streamed.insert(xid, Spool::new(true)?);
                } else if !self.streamed.contains_key(&xid) {
                    return Err(Error::source_db(format!("the server went on with transaction {xid}, whose beginning it had not sent")));
                }
            }
            Message::StreamStop => self.current = None,
            Message::StreamAbort { xid, subxid, .. } if xid == subxid => drop(self.streamed.remove(&xid)),
            Message::StreamAbort { xid, subxid, .. } => {
                if let Some(spool) = self.streamed.get_mut(&xid) {
                    spool.abort(subxid);
                }
            }
            Message::StreamCommit { xid, lsn, end_lsn, time } => {
                let changes = Some(self.streamed.remove(&xid).ok_or_else(|| unknown(xid))?);
                return Ok(Taken::Committed(Committed { xid, lsn, end_lsn, time, changes }));
            }
            Message::BeginPrepare(_) => self.preparing = Some(Spool::new(false)?),
            Message::Prepare(Prepared { xid, lsn, .. }) => {
                let changes = self.preparing.take().ok_or_else(|| unknown(xid))?;
                self.prepared.insert(xid, (lsn, changes));
            }
            Message::StreamPrepare(Prepared { xid, lsn, .. }) => {
                let changes = self.streamed.remove(&xid).ok_or_else(|| unknown(xid))?;
                self.prepared.insert(xid, (lsn, changes));
            }
            Message::CommitPrepared(Prepared { xid, lsn, end_lsn, time, .. }) => {
                let changes = self.prepared.remove(&xid).map(|(_, changes)| changes);
                return Ok(Taken::Committed(Committed { xid, lsn, end_lsn, time, changes }));
            }
            Message::RollbackPrepared { xid, .. } => drop(self.prepared.remove(&xid)),
            Message::Begin { .. } | Message::Commit { .. } | Message::Origin { .. } | Message::Type { .. } | Message::Logical { .. } => {
                return Ok(Taken::Not);
            }
        }
        Ok(Taken::Kept)
    }

    /// The transaction whose changes are being sent, if its outcome is not known.
    fn receiving(&mut self) -> Option<&mut Spool> {
        match self.current {
            Some(xid) => self.streamed.get_mut(&xid),
            None => self.preparing.as_mut(),
        }
    }

    /// What the slot must not pass: a server that has been told of a prepared transaction does not send it again.
    pub fn holds(&self) -> Option<Lsn> {
        self.prepared.values().map(|(lsn, _)| *lsn).min()
    }
}

fn unknown(xid: u32) -> Error {
    Error::source_db(format!("the server ended transaction {xid}, whose changes it had not sent"))
}

impl<T: Table> Reader<T> {
    /// Begins to read a transaction again that has been kept.
    pub(super) fn replay_from(&mut self, committed: Committed) -> Result<()> {
        let Committed { xid, lsn, end_lsn, time, changes } = committed;
        let Some(changes) = changes else {
            self.miss(xid, lsn);
            self.reached = self.reached.max(end_lsn);
            return Ok(());
        };
        self.transaction = Some(Transaction { xid, place: Place { commit: lsn, time, sequence: 0 } });
        self.replaying = Some(Replaying { changes: changes.read()?, end_lsn });
        Ok(())
    }

    /// Whether a transaction is being read again: nothing else is to be read meanwhile.
    pub fn is_replaying(&self) -> bool {
        self.replaying.is_some()
    }

    /// Permits one large change.
    pub fn allow(&mut self, bytes: usize) {
        if let Some(replaying) = &mut self.replaying {
            replaying.changes.allow(bytes);
        }
    }

    /// Reads on, until a batch is full, or something has to be asked, or the transaction has been read to its end.
    pub(super) fn replay(&mut self, limits: &BatchLimits) -> Result<Replayed> {
        let Some(mut replaying) = self.replaying.take() else { return Ok(Replayed::Some) };
        while !self.has_questions() && !self.is_full(limits) {
            match replaying.changes.read_next()? {
                Next::Message(message, bytes) => self.apply(message, bytes)?,
                Next::Large(bytes) => {
                    self.replaying = Some(replaying);
                    return Ok(Replayed::Large(bytes));
                }
                Next::End => {
                    self.ended(replaying.end_lsn);
                    return Ok(Replayed::Some);
                }
            }
        }
        self.replaying = Some(replaying);
        Ok(Replayed::Some)
    }

    /// A transaction was committed that had been prepared before the slot's position: its changes were sent then, to somebody else. Of no matter to a
    /// stream whose copy shows them.
    fn miss(&mut self, xid: u32, commit: Lsn) {
        for follower in self.followers.iter_mut().filter(|follower| !follower.has_failed()) {
            let captured = &follower.captured;
            if commit < captured.lsn || captured.seen.as_ref().is_some_and(|seen| seen.shows(xid, commit)) {
                continue;
            }
            let id = follower.stream.plan.id.clone();
            follower.fail(
                Error::source_db(format!(
                    "{id}: the transaction {xid}, committed at {commit}, was prepared before the position that the slot had confirmed: whether it \
                     has changed this table is not known"
                ))
                .hint("load the table anew (sync --reload); let nobody else use the slot"),
            );
        }
    }
}
