//! Reading a slot by SQL: what the server is asked, and which rows of its answer are new. Pure.
//!
//! `pg_logical_slot_peek_binary_changes` decodes from the slot's confirmed position each time (manual, "Replication Management
//! Functions"), so what was handed over and is not acknowledged comes again. Transactions come in the order of their commits, and
//! Begin says where the commit record lies: a transaction is old exactly if that is before the end of the last one that was
//! handed over.
//!
//! The function stops at the first record that ends at or behind its limit, so everything that was committed before the limit is
//! in its answer, and nothing else. Nobody else can use the slot while the function runs, but between two calls anybody can, and
//! who moves the slot takes changes away without a trace: so each row says where the slot is.

use super::frame::{Body, garbage};
use super::lsn::Lsn;
use super::quote;
use super::replication::{Protocol, StartOptions, Streaming};
use crate::error::{Error, Result};

/// What the header of binary COPY begins with (manual, COPY, "Binary Format").
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Where the log ends: what is on the disk, or on a standby what is replayed.
const END: &str = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END";
/// The server's clock as the protocol gives it, in microseconds since 2000.
const CLOCK: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint - 946684800000000";

/// The statements for one slot. Each needs nothing of the session that it runs in: a pooler may give it any.
pub(super) struct Statements {
    /// Sets for the transaction what decides how values look, and that no statement is too slow.
    settings: String,
    slot: String,
    /// Names and values for the plugin.
    parameters: String,
    version: u32,
}

impl Statements {
    /// For what `options` names; only changes of whole transactions can be asked for.
    pub(super) fn new(options: &StartOptions, settings: String, version: u32) -> Result<Self> {
        let Protocol { version: protocol, binary, streaming, two_phase, messages } = &options.protocol;
        if *streaming != Streaming::Off || *two_phase || *messages {
            return Err(Error::bug("a slot that is polled gives transactions when they are committed, and nothing else"));
        }
        let publications: Vec<_> = options.publications.iter().map(|name| quote::identifier(name)).collect();
        let mut parameters = vec!["proto_version".to_owned(), protocol.to_string()];
        parameters.extend(["publication_names".to_owned(), publications.join(",")]);
        if *binary {
            parameters.extend(["binary".to_owned(), "true".to_owned()]);
        }
        let parameters: Vec<_> = parameters.iter().map(|text| quote::literal(text)).collect();
        Ok(Self { settings, slot: quote::literal(&options.slot), parameters: parameters.join(", "), version })
    }

    /// Where the slot is (no row: there is none), where the log ends, the clock.
    pub(super) fn status(&self) -> String {
        format!("SELECT confirmed_flush_lsn, {END}, {CLOCK} FROM pg_replication_slots WHERE slot_name = {}", self.slot)
    }

    /// Fails for whatever would make a peek fail, but looks at one record only.
    pub(super) fn check(&self) -> String {
        let Self { settings, slot, parameters, .. } = self;
        format!("{settings}; SELECT count(*) FROM pg_logical_slot_peek_binary_changes({slot}, '0/1', 1, {parameters})")
    }

    /// Changes of what was committed before `end`, at least `rows` of them if there are so many; and where the slot is, which is
    /// looked at after the changes were taken. Without a change there is one row without one.
    pub(super) fn peek(&self, end: Lsn, rows: Option<u32>) -> String {
        let Self { settings, slot, parameters, .. } = self;
        let rows = rows.map_or_else(|| "NULL".to_owned(), |rows| rows.to_string());
        format!(
            "{settings}; COPY (SELECT lsn, data, (SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = {slot}) FROM (VALUES (0)) one \
             LEFT JOIN pg_logical_slot_peek_binary_changes({slot}, '{end}', {rows}, {parameters}) ON true) TO STDOUT (FORMAT binary)"
        )
    }

    /// Lets the server forget what was committed before `position`.
    pub(super) fn advance(&self, position: Lsn) -> String {
        let Self { settings, slot, parameters, .. } = self;
        match self.advances_exactly() {
            true => format!("{settings}; SELECT end_lsn FROM pg_replication_slot_advance({slot}, '{position}')"),
            false => {
                format!("{settings}; SELECT count(*) FROM pg_logical_slot_get_binary_changes({slot}, '{position}', NULL, {parameters})")
            }
        }
    }

    /// Whether the slot is moved by `pg_replication_slot_advance`. Until the fix of April 2025 ("Fix xmin advancement during
    /// fast_forward decoding") that let vacuum remove catalog rows that the slot still needed, so older servers decode the
    /// changes a second time, to nowhere; then the slot is at the end of the record that `position` lies in.
    pub(super) fn advances_exactly(&self) -> bool {
        match self.version / 10_000 {
            ..13 => false,
            13 => self.version >= 130_021,
            14 => self.version >= 140_018,
            15 => self.version >= 150_013,
            16 => self.version >= 160_009,
            17 => self.version >= 170_005,
            18.. => true,
        }
    }
}

/// A change that has not been handed over before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The log position it belongs to, as in the replication protocol.
    pub position: Lsn,
    /// The plugin's message.
    pub message: &'a [u8],
}

/// Tells new rows from old ones.
#[derive(Debug, Default)]
pub struct Sieve {
    reached: Lsn,
    /// Whether the header of this answer has been read.
    begun: bool,
    /// Within a transaction that has been handed over before.
    old: bool,
    rows: u64,
}

impl Sieve {
    /// Everything that was committed before `reached` is old.
    pub fn new(reached: Lsn) -> Self {
        Self { reached, ..Self::default() }
    }

    /// What was committed before it has been handed over.
    pub fn reached(&self) -> Lsn {
        self.reached
    }

    /// Nothing new lies before `position`.
    pub fn reach(&mut self, position: Lsn) {
        self.reached = self.reached.max(position);
    }

    /// An answer begins.
    pub fn begin(&mut self) {
        (self.begun, self.old, self.rows) = (false, false, 0);
    }

    /// Changes in this answer so far, old and new.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether the rows that follow are old, up to the end of their transaction.
    pub fn is_old(&self) -> bool {
        self.old
    }

    /// A row was not looked at.
    pub fn pass_over(&mut self) {
        self.rows += 1;
    }

    /// Takes a CopyData message, which is one row (manual, "COPY Operations"), the header in front of the first one, or the
    /// trailer; gives the change, if it is new. The slot must not be where nobody has told it to be: that is an error of the state.
    pub fn take<'a>(&mut self, slot: &str, payload: &'a [u8]) -> Result<Option<Row<'a>>> {
        let mut body = Body(payload);
        if !self.begun {
            skip_header(&mut body)?;
            self.begun = true;
            if body.0.is_empty() {
                return Ok(None);
            }
        }
        match body.u16()? {
            0xffff => return Ok(None),
            3 => {}
            found => return Err(garbage(format!("a row of {found} columns"))),
        }
        let (position, message, confirmed) = (lsn(&mut body)?, field(&mut body)?, lsn(&mut body)?);
        if let Some(confirmed) = confirmed.filter(|confirmed| *confirmed > self.reached) {
            return Err(moved(slot, confirmed, self.reached));
        }
        let (Some(position), Some(message)) = (position, message) else { return Ok(None) };
        self.rows += 1;
        // Manual, "Logical Replication Message Formats".
        let mut rest = Body(message);
        match rest.u8()? {
            b'B' => self.old = Lsn(rest.u64()?) < self.reached,
            b'C' => {
                let (_flags, _commit, end) = (rest.u8()?, rest.u64()?, rest.u64()?);
                if std::mem::take(&mut self.old) {
                    return Ok(None);
                }
                self.reach(Lsn(end));
            }
            _ => {}
        }
        Ok((!self.old).then_some(Row { position, message }))
    }
}

/// Somebody else has read from the slot, or moved it.
pub(super) fn moved(slot: &str, confirmed: Lsn, reached: Lsn) -> Error {
    Error::state(format!(
        "the slot {slot} has forgotten everything before {confirmed} while it was read up to {reached}: somebody else has read it, or moved it"
    ))
    .hint("changes may be lost: load the tables anew (clear-destination, then sync), and let nobody else use the slot")
}

fn skip_header(body: &mut Body<'_>) -> Result<()> {
    let rest = body.0.strip_prefix(SIGNATURE).ok_or_else(|| garbage("no header of binary COPY"))?;
    body.0 = rest;
    let (_flags, extension) = (body.i32()?, body.i32()?);
    let rest = usize::try_from(extension).ok().and_then(|length| body.0.get(length..));
    body.0 = rest.ok_or_else(|| garbage("a header of binary COPY with a part missing"))?;
    Ok(())
}

fn field<'a>(body: &mut Body<'a>) -> Result<Option<&'a [u8]>> {
    let length = body.i32()?;
    if length == -1 {
        return Ok(None);
    }
    let split = usize::try_from(length).ok().and_then(|length| body.0.split_at_checked(length));
    let (value, rest) = split.ok_or_else(|| garbage("a row in several pieces"))?;
    body.0 = rest;
    Ok(Some(value))
}

fn lsn(body: &mut Body<'_>) -> Result<Option<Lsn>> {
    let Some(bytes) = field(body)? else { return Ok(None) };
    let bytes = bytes.try_into().map_err(|_| garbage(format!("a position of {} bytes", bytes.len())))?;
    Ok(Some(Lsn(u64::from_be_bytes(bytes))))
}

#[cfg(test)]
#[path = "slot_peek_tests.rs"]
mod tests;
