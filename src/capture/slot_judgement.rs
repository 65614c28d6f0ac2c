//! Whether a slot can be used: what the server says of it, held against what the run wants and what the destination has.
//!
//! Promises: pure; nothing is created, dropped or advanced here. A run is let through only where no change can be missing: the slot
//! must not have acknowledged what the destination does not have. Does not know how positions are saved.

use super::finding::{Finding, RELOAD, Weight, bytes};
use super::server::{Needs, ServerSettings, prerequisites, with_setting};
use super::slot::{SlotInfo, WalStatus, drop_sql, is_valid_name};
use super::slot_refusals::{invalid_name, missing, named, span, unfinished, unusable};
use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::Lsn;
use schemars::JsonSchema;
use serde::Deserialize;

/// What to do when a slot holds back more log than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnSlotLag {
    /// Say so. The default.
    #[default]
    Warn,
    /// End the run with an error.
    Stop,
    /// Drop the slot, and end the run with an error: the server's disk is worth more than the pipeline. The streams have to be loaded anew.
    DropSlot,
}

/// What a run wants of its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `replication_slot`.
    pub name: String,
    /// Output plugin that is understood: `pgoutput`.
    pub plugin: String,
    /// Database that the tables are in.
    pub database: String,
    /// Prepared transactions are understood before they are committed, should the slot send them so.
    pub two_phase: bool,
    /// Up to where the destination has everything, by its token or our state; `None` on a first run.
    pub saved: Option<Lsn>,
    /// The slot is created if it is not there and nothing has been saved.
    pub create_if_missing: bool,
    /// Changes come over a replication connection, not by SQL (`capture: poll`).
    pub wal_sender: bool,
    /// Bytes of log that the slot may hold back; `None` means any.
    pub max_slot_lag_bytes: Option<u64>,
    /// What to do when it holds back more.
    pub on_slot_lag: OnSlotLag,
}

/// What a run does with its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Create it: there is none, and nothing to go on from.
    Create {
        /// To be shown.
        warnings: Vec<Finding>,
    },
    /// Read it.
    Use {
        /// Where START_REPLICATION begins: the saved position, or on a first run what the slot has confirmed.
        start: Lsn,
        /// To be shown.
        warnings: Vec<Finding>,
    },
    /// Drop it, and end the run with this: it holds back too much log, and `on_slot_lag` is `drop_slot`.
    Drop {
        /// The error, once the slot is gone.
        because: Finding,
    },
}

/// Judges a slot (`None`: there is none of that name).
///
/// # Errors
/// The first of what stands in the way; the codes are stable: `slot_missing`, `slot_lost_with_position`, `slot_invalidated`,
/// `slot_in_use`, `slot_physical`, `slot_of_other_database`, `slot_wrong_plugin`, `slot_temporary`, `slot_synced`, `slot_unfinished`,
/// `slot_two_phase`, `slot_ahead_of_position`, `position_beyond_server`, `standby_behind`, `slot_lag`, `slot_name_invalid`, and those
/// of [`prerequisites`].
pub fn judge(slot: Option<&SlotInfo>, server: &ServerSettings, wanted: &Wanted) -> Result<Verdict> {
    verdict(slot, server, wanted).map_err(Error::from)
}

/// [`judge`], with the finding as it is.
pub fn verdict(slot: Option<&SlotInfo>, server: &ServerSettings, wanted: &Wanted) -> Result<Verdict, Finding> {
    let creates = slot.is_none() && wanted.create_if_missing && wanted.saved.is_none();
    let found = prerequisites(server, Needs { slot: creates, wal_sender: wanted.wal_sender });
    let (stops, mut warnings): (Vec<_>, Vec<_>) = found.into_iter().partition(|finding| finding.weight == Weight::Stop);
    // What may pass by itself is told last: what does not would only be found by the next attempt.
    let (passing, lasting): (Vec<_>, Vec<_>) = stops.into_iter().partition(|finding| finding.passing);
    if let Some(finding) = lasting.into_iter().next().or_else(|| position_beyond_server(server, wanted)) {
        return Err(finding);
    }
    let Some(slot) = slot else {
        if !creates {
            return Err(missing(server, wanted));
        }
        if !is_valid_name(&wanted.name) {
            return Err(invalid_name(wanted));
        }
        warnings.extend(idle_timeout(server, wanted));
        warnings.extend(standby_waits(server));
        return passing.into_iter().next().map_or(Ok(Verdict::Create { warnings }), Err);
    };
    if let Some(finding) = unusable(slot, server, wanted) {
        return Err(finding);
    }
    let Some(confirmed) = slot.confirmed_flush else { return Err(unfinished(slot)) };
    if let Some(saved) = wanted.saved.filter(|saved| *saved < confirmed) {
        return Err(ahead(slot, confirmed, saved));
    }
    if let Some(finding) = lag(slot, wanted.max_slot_lag_bytes, wanted.on_slot_lag, wanted.saved) {
        match wanted.on_slot_lag {
            OnSlotLag::Warn => warnings.push(finding),
            OnSlotLag::Stop => return Err(finding),
            OnSlotLag::DropSlot => return Ok(Verdict::Drop { because: finding }),
        }
    }
    warnings.extend(running_out(slot, server));
    warnings.extend(idle_timeout(server, wanted));
    let start = wanted.saved.unwrap_or(confirmed);
    passing.into_iter().next().map_or(Ok(Verdict::Use { start, warnings }), Err)
}

/// The destination has what this server never wrote.
fn position_beyond_server(server: &ServerSettings, wanted: &Wanted) -> Option<Finding> {
    let saved = wanted.saved.filter(|saved| *saved > server.inserted)?;
    let end = server.inserted;
    if server.in_recovery {
        return Some(
            Finding::stop(
                "standby_behind",
                format!("the destination has changes up to {saved}, and this standby has replayed only up to {end}; no data is lost"),
            )
            .remedy("wait until the standby has caught up, and check that host is the server that was read before")
            .passing(),
        );
    }
    Some(
        Finding::stop(
            "position_beyond_server",
            format!(
                "the destination has changes up to {saved}, and the server's log ends at {end}: this is another server than before, or one that was restored or promoted without its last changes; \
                 the destination may have rows that this server does not have"
            ),
        )
        .of(Kind::State)
        .remedy("check host, port and database in the source file; if this is the server that shall be read from now on")
        .then(RELOAD),
    )
}

/// What was acknowledged is never sent again.
fn ahead(slot: &SlotInfo, confirmed: Lsn, saved: Lsn) -> Finding {
    let name = named(&slot.name);
    let between = bytes(confirmed.0.saturating_sub(saved.0));
    Finding::stop(
        "slot_ahead_of_position",
        format!(
            "{name} has acknowledged everything up to {confirmed}, and the destination has changes only up to {saved}: what was changed between them ({between} of log) is never sent again and would be missing at the destination"
        ),
    )
    .of(Kind::State)
    .remedy(
        "this happens when state or destination were set back (an old state file, a restored backup), or when something else has read or advanced the slot, or dropped and created it again. \
         If there is a newer state file for this destination, use it; if something else reads the slot, give this run one of its own",
    )
    .then(format!("{RELOAD}, unless the newer state file has helped"))
}

/// Whether a slot holds back more log than `limit` bytes, whoever reads it. With [`OnSlotLag::DropSlot`] the finding is for when it has
/// been dropped; `saved` is up to where the destination has everything.
pub fn lag(slot: &SlotInfo, limit: Option<u64>, on_slot_lag: OnSlotLag, saved: Option<Lsn>) -> Option<Finding> {
    let limit = limit?;
    let held = slot.lag_bytes.filter(|held| *held > limit)?;
    let what =
        format!("{} holds back {} of log on the server, more than max_slot_lag_bytes ({})", named(&slot.name), bytes(held), bytes(limit));
    if on_slot_lag == OnSlotLag::DropSlot {
        let since = saved.or(slot.confirmed_flush).unwrap_or_default();
        let data = format!(
            "as on_slot_lag says, it was dropped; changes made after {since} can no longer be read, and are missing at the destination"
        );
        return Some(
            Finding::stop("slot_lag", format!("{what}; {data}")).of(Kind::State).remedy("find out why it was not read").then(RELOAD),
        );
    }
    let unread = slot.unread_bytes.unwrap_or(held);
    let finding = match on_slot_lag {
        OnSlotLag::Warn => Finding::warn("slot_lag", format!("{what}; no data is lost, but the server's disk fills")),
        _ => Finding::stop(
            "slot_lag",
            format!("{what}; no data is lost, but the server's disk fills, and the run stops as on_slot_lag says"),
        ),
    };
    // All but a small part is held for a transaction that is still open: reading on does not help.
    if unread < held / 4 {
        return Some(
            finding
                .remedy(format!("only {} of it are unread: the rest is kept for a transaction that has been open for long. Find it and end it", bytes(unread)))
                .run("SELECT pid, usename, state, xact_start, left(query, 80) FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start LIMIT 5")
                .run("SELECT gid, prepared, owner FROM pg_prepared_xacts ORDER BY prepared LIMIT 5"),
        );
    }
    let catch_up = match on_slot_lag {
        OnSlotLag::Warn => "this run catches up; run more often, or with --follow",
        _ => {
            "to catch up, run once with on_slot_lag: warn; to give the changes up and free the disk, drop the slot, and load the cdc streams again in full"
        }
    };
    let finding = finding.remedy(catch_up);
    Some(if finding.weight == Weight::Stop { finding.run(drop_sql(&slot.name)) } else { finding })
}

/// The server is about to remove what the slot needs.
fn running_out(slot: &SlotInfo, server: &ServerSettings) -> Option<Finding> {
    let limit = server.max_slot_wal_keep_size;
    let left = slot.safe_wal_size.map(|left| u64::try_from(left).unwrap_or(0));
    let gone_soon = slot.wal_status == Some(WalStatus::Unreserved);
    let nearly = left.zip(limit).is_some_and(|(left, limit)| left < limit / 5);
    if !gone_soon && !nearly {
        return None;
    }
    let when = match left.filter(|_| !gone_soon) {
        Some(left) => format!("after {} more of log", bytes(left)),
        None => "at the next checkpoint".to_owned(),
    };
    let said = limit.map(|limit| format!(" ({})", bytes(limit))).unwrap_or_default();
    let finding = Finding::warn(
        "slot_running_out",
        format!(
            "{} has nearly used up max_slot_wal_keep_size{said}: {when} the server may remove log that is not read yet, and all cdc streams would have to be loaded again",
            named(&slot.name)
        ),
    );
    let room = format!("{}MB", (limit.unwrap_or(0) >> 20).saturating_mul(4).max(1024));
    Some(with_setting(finding.remedy("let this run finish, and give the slot more room"), server, "max_slot_wal_keep_size", &room))
}

fn idle_timeout(server: &ServerSettings, wanted: &Wanted) -> Option<Finding> {
    let timeout = server.idle_replication_slot_timeout?;
    Some(Finding::warn(
        "slot_idle_timeout",
        format!(
            "the server invalidates {} when nothing reads it for {} (idle_replication_slot_timeout): run more often than that, or with --follow",
            named(&wanted.name),
            span(timeout)
        ),
    ))
}

/// A standby waits for the primary to write down which transactions run there.
fn standby_waits(server: &ServerSettings) -> Option<Finding> {
    server.in_recovery.then(|| {
        Finding::warn(
            "slot_waits_for_primary",
            "creating a slot on a standby waits until the primary logs its running transactions, which an idle one does rarely",
        )
        .remedy("if it takes long, run on the primary")
        .run("SELECT pg_log_standby_snapshot()")
    })
}

#[cfg(test)]
#[path = "slot_judgement_tests.rs"]
mod tests;
