//! A replication slot, as the server describes it.
//!
//! Promises: one query for PostgreSQL 10 to 18, which any user may ask, on primaries and standbys. Does not know what is wanted of the
//! slot; `slot_judgement` does.

use super::server::{READABLE, lsn};
use crate::error::Result;
use crate::postgres::connect::Session;
use crate::postgres::lsn::Lsn;
use crate::postgres::quote;
use std::fmt;
use tokio_postgres::types::Type;

/// Why a slot is of no use any more (`pg_replication_slots.invalidation_reason`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// The log that it needs is gone: it held back more than `max_slot_wal_keep_size`. Since 13.
    WalRemoved,
    /// Vacuum on the primary has removed catalog rows that a standby's slot needs. Since 16.
    RowsRemoved,
    /// The primary's `wal_level` was lowered. Since 16.
    WalLevelInsufficient,
    /// Nothing has read it for `idle_replication_slot_timeout`. Since 18.
    IdleTimeout,
    /// Rows or `wal_level`: 16 says only that it conflicts with recovery.
    Conflict,
    /// A reason that a later version has brought.
    Other(String),
}

/// How much of its log a slot still has (`wal_status`; since 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    /// Within `max_wal_size`.
    Reserved,
    /// More than that, and kept.
    Extended,
    /// Not kept any more; the next checkpoint may remove it.
    Unreserved,
    /// Gone.
    Lost,
}

/// The process that reads a slot. What the user may not see is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// Process on the server.
    pub pid: i32,
    /// Role that it runs as.
    pub user: Option<String>,
    /// Name that the client gives itself.
    pub application: Option<String>,
    /// Address and port of the client; `None` as well for a Unix socket.
    pub client: Option<String>,
    /// Since when it has been connected, in the server's time zone.
    pub since: Option<String>,
}

/// A row of `pg_replication_slots`, and who reads the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Name; unique on the server, whatever the database.
    pub name: String,
    /// Output plugin; `None` for a physical slot, and empty for a moment while a logical one is being created.
    pub plugin: Option<String>,
    /// A logical slot, not a physical one.
    pub logical: bool,
    /// Database of a logical slot.
    pub database: Option<String>,
    /// Ends with the session that has created it.
    pub temporary: bool,
    /// Who reads it, if anybody does.
    pub reader: Option<Reader>,
    /// Log from here on is kept. `None` while it is being created, and of most invalidated slots.
    pub restart_lsn: Option<Lsn>,
    /// Everything that was committed before has been acknowledged. `None` while it is being created.
    pub confirmed_flush: Option<Lsn>,
    /// How much of its log it still has; `None` before 13, or without `restart_lsn`.
    pub wal_status: Option<WalStatus>,
    /// Bytes of log that can still be written before it may become [`WalStatus::Lost`]; `None` without a limit. Negative where it
    /// is only a matter of the next checkpoint.
    pub safe_wal_size: Option<i64>,
    /// Why it is of no use any more.
    pub invalidation: Option<Invalidation>,
    /// Prepared transactions are sent when they are prepared. Since 14.
    pub two_phase: bool,
    /// Kept in step on standbys. Since 17.
    pub failover: bool,
    /// The copy of a primary's slot. Since 17; stays true after the standby was promoted.
    pub synced: bool,
    /// Bytes of log that the slot holds back: from `restart_lsn` to what can be read now.
    pub lag_bytes: Option<u64>,
    /// Bytes of log that are not acknowledged: from `confirmed_flush` to what can be read now.
    pub unread_bytes: Option<u64>,
}

/// Looks for the slot of that name.
///
/// # Errors
/// A failing query; an answer that cannot be read.
pub async fn find(session: &Session, name: &str) -> Result<Option<SlotInfo>> {
    // Columns that came after version 10 are taken from the row as JSON, where a missing one is NULL: two_phase (14), conflicting (16) …
    let sql = format!(
        "SELECT s.slot_name::text, s.plugin::text, s.slot_type = 'logical', s.database::text, s.temporary, s.active_pid, \
            s.restart_lsn::text, s.confirmed_flush_lsn::text, j.row->>'wal_status', (j.row->>'safe_wal_size')::int8, \
            j.row->>'invalidation_reason', COALESCE((j.row->>'conflicting')::bool, false), \
            COALESCE((j.row->>'two_phase')::bool, false), COALESCE((j.row->>'failover')::bool, false), \
            COALESCE((j.row->>'synced')::bool, false), ({READABLE})::text, \
            a.usename::text, a.application_name, pg_catalog.host(a.client_addr), a.client_port, \
            pg_catalog.to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS TZ') \
        FROM pg_catalog.pg_replication_slots s \
        CROSS JOIN LATERAL (SELECT pg_catalog.to_jsonb(s)) j (row) \
        LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid \
        WHERE s.slot_name = $1"
    );
    let asked = session.client.query_typed(&sql, &[(&name, Type::TEXT)]).await;
    let rows = asked.map_err(|e| session.error(&e).doing(format!("look for replication slot {}", quote::identifier(name))))?;
    rows.first().map(slot).transpose()
}

fn slot(row: &tokio_postgres::Row) -> Result<SlotInfo> {
    let (restart_lsn, confirmed_flush) = (lsn(row.get(6))?, lsn(row.get(7))?);
    let readable = lsn(row.get(15))?;
    let wal_status = row.get::<_, Option<&str>>(8).and_then(wal_status);
    let invalidation = match (row.get(10), row.get(11)) {
        (Some(reason), _) => Some(invalidation(reason)),
        // 16 calls every invalidated logical slot conflicting; only those whose log is gone have no restart_lsn.
        (None, true) if restart_lsn.is_some() => Some(Invalidation::Conflict),
        // Before 16 there is no other reason.
        (None, _) => (wal_status == Some(WalStatus::Lost)).then_some(Invalidation::WalRemoved),
    };
    let reader = row.get::<_, Option<i32>>(5).map(|pid| Reader {
        pid,
        user: row.get(16),
        application: row.get::<_, Option<String>>(17).filter(|name| !name.is_empty()),
        client: row.get::<_, Option<&str>>(18).map(|host| match row.get::<_, Option<i32>>(19) {
            Some(port) if host.contains(':') => format!("[{host}]:{port}"),
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }),
        since: row.get(20),
    });
    let bytes_since = |from: Option<Lsn>| Some(readable?.0.saturating_sub(from?.0));
    Ok(SlotInfo {
        name: row.get(0),
        plugin: row.get(1),
        logical: row.get(2),
        database: row.get(3),
        temporary: row.get(4),
        reader,
        restart_lsn,
        confirmed_flush,
        wal_status,
        safe_wal_size: row.get(9),
        invalidation,
        two_phase: row.get(12),
        failover: row.get(13),
        synced: row.get(14),
        lag_bytes: bytes_since(restart_lsn),
        unread_bytes: bytes_since(confirmed_flush),
    })
}

/// A word of a later version says nothing that is known here.
fn wal_status(word: &str) -> Option<WalStatus> {
    match word {
        "reserved" => Some(WalStatus::Reserved),
        "extended" => Some(WalStatus::Extended),
        "unreserved" => Some(WalStatus::Unreserved),
        "lost" => Some(WalStatus::Lost),
        _ => None,
    }
}

fn invalidation(word: &str) -> Invalidation {
    match word {
        "wal_removed" => Invalidation::WalRemoved,
        "rows_removed" => Invalidation::RowsRemoved,
        "wal_level_insufficient" => Invalidation::WalLevelInsufficient,
        "idle_timeout" => Invalidation::IdleTimeout,
        other => Invalidation::Other(other.to_owned()),
    }
}

/// Creates a logical slot, as an administrator would by hand.
pub fn create_sql(name: &str, plugin: &str) -> String {
    format!("SELECT pg_create_logical_replication_slot({}, {})", quote::literal(name), quote::literal(plugin))
}

/// Drops a slot.
pub fn drop_sql(name: &str) -> String {
    format!("SELECT pg_drop_replication_slot({})", quote::literal(name))
}

/// Whether the server takes it as the name of a slot: lower-case letters, digits and underscores, up to 63 (manual, "Replication Slots").
pub fn is_valid_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

impl fmt::Display for Reader {
    /// `process 4711 (user "lake", application "x", from 10.0.0.1:5000, since 2026-01-01 00:00:00 UTC)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        let quoted = |label: &str, value: &Option<String>| value.as_ref().map(|value| format!("{label} {value:?}"));
        let plain = |label: &str, value: &Option<String>| value.as_ref().map(|value| format!("{label} {value}"));
        let known: Vec<String> = [
            quoted("user", &self.user),
            quoted("application", &self.application),
            plain("from", &self.client),
            plain("since", &self.since),
        ]
        .into_iter()
        .flatten()
        .collect();
        if known.is_empty() { Ok(()) } else { write!(f, " ({})", known.join(", ")) }
    }
}

/// A slot with which all is well, for tests.
#[cfg(test)]
impl SlotInfo {
    pub(crate) fn fine() -> Self {
        Self {
            name: "mine".into(),
            plugin: Some("pgoutput".into()),
            logical: true,
            database: Some("shop".into()),
            temporary: false,
            reader: None,
            restart_lsn: Some(Lsn(0x1000)),
            confirmed_flush: Some(Lsn(0x2000)),
            wal_status: Some(WalStatus::Reserved),
            safe_wal_size: None,
            invalidation: None,
            two_phase: false,
            failover: false,
            synced: false,
            lag_bytes: Some(0x1000),
            unread_bytes: Some(0),
        }
    }
}

#[cfg(test)]
#[path = "slot_standby_tests.rs"]
mod standby_tests;
#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
