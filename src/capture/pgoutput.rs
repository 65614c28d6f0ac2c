//! Messages of the output plugin `pgoutput` (manual, "Logical Replication Message Formats"), protocol versions 1 to 4.
//!
//! Promises: a message is taken whole or refused with its name; nothing is allocated for the changes of rows, and nothing sent
//! causes a panic. Knows one message at a time, and of what came before only whether a stream is open: that a change lies within
//! a transaction, and that its columns are those of the relation, is for others to check.

pub use super::message::{Message, Old, Prepared, Relation, RelationColumn, RelationIds, ReplicaIdentity};
pub use super::tuple::{Cell, Cells, Tuple};
use super::tuple::{counted, shown};
use crate::error::{Context, Error, Result};
use crate::postgres::frame::{Body, garbage};
use crate::postgres::lsn::{Lsn, PgTime};

const NAME_HINT: &str =
    "a database with the encoding SQL_ASCII converts nothing: rename what is called so, or leave its table out of the publication";

const VERSION_HINT: &str = "pgoutput of PostgreSQL 10 to 18 is understood; check the server's version, and the slot's plugin";

/// Parses the messages of one replication connection in their order.
#[derive(Clone, Debug)]
pub struct Parser {
    /// Between Stream Start and Stream Stop.
    streaming: bool,
    /// Whether `streaming 'parallel'` was asked for.
    parallel: bool,
}

impl Parser {
    /// At the start of replication. `parallel` says whether the option `streaming` is `parallel` (protocol version 4).
    pub fn new(parallel: bool) -> Self {
        Self { streaming: false, parallel }
    }

    /// For messages that were kept, all of them from within a stream or none of them.
    pub fn midway(streaming: bool) -> Self {
        Self { streaming, parallel: false }
    }

    /// Whether a stream is open: between Stream Start and Stream Stop.
    pub fn in_stream(&self) -> bool {
        self.streaming
    }

    /// Parses `payload`, what an XLogData message carries behind its header, or one row's `data` of
    /// `pg_logical_slot_get_binary_changes`. An error is one of the source and permanent; it leaves the parser as it was.
    pub fn parse<'a>(&mut self, payload: &'a [u8]) -> Result<Message<'a>> {
        let Some((&kind, body)) = payload.split_first() else { return Err(understood(garbage("an empty pgoutput message"))) };
        let message = self.whole(kind, Body(body)).map_err(understood).doing(|| format!("read the pgoutput message {}", name_of(kind)))?;
        match message {
            Message::StreamStart { .. } => self.streaming = true,
            Message::StreamStop => self.streaming = false,
            _ => {}
        }
        Ok(message)
    }

    fn whole<'a>(&self, kind: u8, mut body: Body<'a>) -> Result<Message<'a>> {
        let message = self.message(kind, &mut body)?;
        match body.0.len() {
            0 => Ok(message),
            n => Err(garbage(format!("{n} more bytes after its end"))),
        }
    }

    #[inline]
    fn message<'a>(&self, kind: u8, body: &mut Body<'a>) -> Result<Message<'a>> {
        match kind {
            b'I' | b'U' | b'D' | b'T' | b'R' | b'Y' | b'M' => {
                let xid = if self.streaming { Some(xid(body)?) } else { None };
                change(kind, xid, body)
            }
            b'O' => Ok(Message::Origin { lsn: lsn(body)?, name: body.cstr()? }),
            b'E' if self.streaming => Ok(Message::StreamStop),
            b'E' => Err(garbage("it outside of a stream")),
            b'B' | b'C' | b'S' | b'c' | b'A' | b'b' | b'P' | b'p' | b'K' | b'r' if self.streaming => Err(garbage("it within a stream")),
            b'A' => Ok(Message::StreamAbort {
                xid: xid(body)?,
                subxid: xid(body)?,
                at: if self.parallel { Some((lsn(body)?, time(body)?)) } else { None },
            }),
            _ => boundary(kind, body),
        }
    }
}

/// What a transaction consists of.
#[inline]
fn change<'a>(kind: u8, xid: Option<u32>, body: &mut Body<'a>) -> Result<Message<'a>> {
    Ok(match kind {
        b'I' => {
            let relation = u32(body)?;
            match body.u8()? {
                b'N' => Message::Insert { xid, relation, new: Tuple::parse(body)? },
                found => return Err(tuple_kind(found, "N")),
            }
        }
        b'U' => update(xid, body)?,
        b'D' => {
            let relation = u32(body)?;
            let kind = body.u8()?;
            Message::Delete { xid, relation, old: old(kind, body)?.ok_or_else(|| tuple_kind(kind, "K or O"))? }
        }
        b'T' => {
            let count = u32(body)?;
            let options = flags(body, 3)?;
            let (relations, rest) = body.0.as_chunks::<4>();
            if relations.len() != count as usize || !rest.is_empty() {
                return Err(garbage(format!("{} bytes for {count} relations of 4 bytes", body.0.len())));
            }
            body.0 = rest;
            Message::Truncate { xid, cascade: options & 1 != 0, restart_identity: options & 2 != 0, relations: RelationIds(relations) }
        }
        b'R' => Message::Relation { xid, relation: relation(body)? },
        b'Y' => Message::Type { xid, oid: u32(body)?, namespace: namespace(body.cstr()?), name: body.cstr()? },
        _ => {
            let (transactional, lsn, prefix) = (flags(body, 1)? == 1, lsn(body)?, body.cstr()?);
            Message::Logical { xid, transactional, lsn, prefix, content: counted(body)? }
        }
    })
}

/// Where transactions begin and end, and the parts of streamed ones.
fn boundary<'a>(kind: u8, body: &mut Body<'a>) -> Result<Message<'a>> {
    if matches!(kind, b'C' | b'P' | b'p' | b'K' | b'r') {
        flags(body, 0)?;
    }
    Ok(match kind {
        b'B' => Message::Begin { lsn: lsn(body)?, time: time(body)?, xid: xid(body)? },
        b'C' => Message::Commit { lsn: lsn(body)?, end_lsn: lsn(body)?, time: time(body)? },
        b'S' => Message::StreamStart { xid: xid(body)?, first: flags(body, 1)? == 1 },
        b'c' => {
            let xid = xid(body)?;
            flags(body, 0)?;
            Message::StreamCommit { xid, lsn: lsn(body)?, end_lsn: lsn(body)?, time: time(body)? }
        }
        b'b' => Message::BeginPrepare(prepared(body)?),
        b'P' => Message::Prepare(prepared(body)?),
        b'p' => Message::StreamPrepare(prepared(body)?),
        b'K' => Message::CommitPrepared(prepared(body)?),
        b'r' => Message::RollbackPrepared {
            prepare_end_lsn: lsn(body)?,
            end_lsn: lsn(body)?,
            prepare_time: time(body)?,
            time: time(body)?,
            xid: xid(body)?,
            gid: body.cstr()?,
        },
        _ => return Err(garbage("a kind that the protocol versions 1 to 4 do not have")),
    })
}

fn update<'a>(xid: Option<u32>, body: &mut Body<'a>) -> Result<Message<'a>> {
    let relation = u32(body)?;
    let mut kind = body.u8()?;
    let old = old(kind, body)?;
    if old.is_some() {
        kind = body.u8()?;
    }
    if kind != b'N' {
        return Err(tuple_kind(kind, if old.is_some() { "N" } else { "K, O or N" }));
    }
    let new = Tuple::parse(body)?;
    match old {
        Some(Old::Key(old) | Old::Full(old)) if old.columns != new.columns => {
            Err(garbage(format!("{} columns in the old row and {} in the new one", old.columns, new.columns)))
        }
        _ => Ok(Message::Update { xid, relation, old, new }),
    }
}

fn old<'a>(kind: u8, body: &mut Body<'a>) -> Result<Option<Old<'a>>> {
    Ok(match kind {
        b'K' => Some(Old::Key(Tuple::parse(body)?)),
        b'O' => Some(Old::Full(Tuple::parse(body)?)),
        _ => None,
    })
}

fn relation(body: &mut Body<'_>) -> Result<Relation> {
    let oid = u32(body)?;
    let (namespace, name) = (text(namespace(body.cstr()?))?, text(body.cstr()?)?);
    let replica_identity = match body.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        found => return Err(garbage(format!("a replica identity {}, where d, n, f and i are known", shown(found)))),
    };
    let columns = (0..body.u16()?)
        .map(|_| {
            let (key, name) = (flags(body, 1)? == 1, text(body.cstr()?)?);
            Ok(RelationColumn { name, key, type_oid: u32(body)?, typmod: body.i32()? })
        })
        .collect::<Result<_>>()?;
    Ok(Relation { oid, namespace, name, replica_identity, columns })
}

fn prepared<'a>(body: &mut Body<'a>) -> Result<Prepared<'a>> {
    Ok(Prepared { lsn: lsn(body)?, end_lsn: lsn(body)?, time: time(body)?, xid: xid(body)?, gid: body.cstr()? })
}

/// A byte in which only the bits of `known` are defined.
fn flags(body: &mut Body<'_>, known: u8) -> Result<u8> {
    match body.u8()? {
        found if found & !known == 0 => Ok(found),
        found => Err(garbage(format!("flags 0x{found:02x}, where 0x{known:02x} at most are known"))),
    }
}

fn u32(body: &mut Body<'_>) -> Result<u32> {
    Ok(u32::from_be_bytes(body.array()?))
}

/// The server never sends 0, but that is what other fields give that are taken for one.
fn xid(body: &mut Body<'_>) -> Result<u32> {
    match u32(body)? {
        0 => Err(garbage("0 for a transaction")),
        xid => Ok(xid),
    }
}

fn lsn(body: &mut Body<'_>) -> Result<Lsn> {
    Ok(Lsn(u64::from_be_bytes(body.array()?)))
}

fn time(body: &mut Body<'_>) -> Result<PgTime> {
    Ok(PgTime(i64::from_be_bytes(body.array()?)))
}

/// The server leaves out the name of this one.
fn namespace(name: &[u8]) -> &[u8] {
    if name.is_empty() { b"pg_catalog" } else { name }
}

/// Names are kept and shown, so they must be text. The connection's encoding is UTF-8, and only a database without one sends other bytes.
fn text(name: &[u8]) -> Result<String> {
    String::from_utf8(name.to_vec())
        .map_err(|_| Error::source_db(format!("the name \"{}\" is not UTF-8", name.escape_ascii())).hint(NAME_HINT))
}

#[cold]
fn tuple_kind(found: u8, known: &str) -> Error {
    garbage(format!("a row of kind {}, where {known} is expected", shown(found)))
}

/// Says what to do about a message that is refused, where the error does not say better.
#[cold]
fn understood(error: Error) -> Error {
    if error.advice() == Some(NAME_HINT) { error } else { error.hint(VERSION_HINT) }
}

/// The manual's name of a message and its letter.
fn name_of(kind: u8) -> String {
    let name = match kind {
        b'B' => "Begin",
        b'C' => "Commit",
        b'O' => "Origin",
        b'R' => "Relation",
        b'Y' => "Type",
        b'M' => "Message",
        b'I' => "Insert",
        b'U' => "Update",
        b'D' => "Delete",
        b'T' => "Truncate",
        b'S' => "Stream Start",
        b'E' => "Stream Stop",
        b'c' => "Stream Commit",
        b'A' => "Stream Abort",
        b'b' => "Begin Prepare",
        b'P' => "Prepare",
        b'K' => "Commit Prepared",
        b'r' => "Rollback Prepared",
        b'p' => "Stream Prepare",
        _ => return format!("of kind {}", shown(kind)),
    };
    format!("{name} ({})", char::from(kind))
}

#[cfg(test)]
#[path = "pgoutput_tests.rs"]
mod tests;
