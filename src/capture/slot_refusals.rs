//! Why a slot cannot be read: it is missing, of another kind, invalidated, or in somebody else's hands.
//!
//! Promises: each refusal says what happened, whether changes are lost, and which statements mend it. Pure. Does not know positions
//! beyond naming them; `slot_judgement` compares them.

use super::finding::{Finding, RELOAD, bytes};
use super::server::{ServerSettings, with_setting};
use super::slot::{Invalidation, SlotInfo, WalStatus, create_sql, drop_sql, is_valid_name};
use super::slot_judgement::Wanted;
use crate::error::Kind;
use crate::postgres::quote;
use crate::postgres::scope::closest;
use std::time::Duration;

pub(super) fn named(name: &str) -> String {
    format!("replication slot {}", quote::identifier(name))
}

pub(super) fn missing(server: &ServerSettings, wanted: &Wanted) -> Finding {
    let name = named(&wanted.name);
    let near = closest(&wanted.name, server.slots.iter().map(|(name, _)| name.clone()));
    let near = near.map(|near| format!(" (there is {near:?})")).unwrap_or_default();
    let Some(saved) = wanted.saved else {
        let finding = Finding::stop(
            "slot_missing",
            format!("{name} does not exist{near}; no data is affected: nothing has been captured with it yet"),
        );
        if !is_valid_name(&wanted.name) {
            return invalid_name(wanted);
        }
        return finding
            .remedy(format!(
                "set update_method.create_if_missing to true, or create it in database {}",
                quote::identifier(&wanted.database)
            ))
            .run(create_sql(&wanted.name, &wanted.plugin));
    };
    let finding = Finding::stop(
        "slot_lost_with_position",
        format!(
            "{name} does not exist any more{near}, and the destination has changes up to {saved}: changes that were made after that can no longer be read from the log; \
             the rows are still in the source, but updates, deletes and inserts since then are missing at the destination"
        ),
    )
    .of(Kind::State);
    let cause = "check first that host and database are the right ones: a slot is also missing after a failover to a standby where it was not kept in step, and on a restored or upgraded server. If it was dropped";
    match wanted.create_if_missing {
        true => finding.remedy(cause).then(format!("{RELOAD}, which creates the slot again")),
        false => finding.remedy(cause).run(create_sql(&wanted.name, &wanted.plugin)).then(RELOAD),
    }
}

pub(super) fn invalid_name(wanted: &Wanted) -> Finding {
    Finding::stop(
        "slot_name_invalid",
        format!(
            "`update_method.replication_slot`: found {:?}, accepted: 1 to 63 lower-case letters, digits and underscores",
            wanted.name.chars().take(100).collect::<String>()
        ),
    )
    .of(Kind::Config)
    .remedy("choose another name")
}

/// Why the slot as it is cannot be read at all.
pub(super) fn unusable(slot: &SlotInfo, server: &ServerSettings, wanted: &Wanted) -> Option<Finding> {
    let name = named(&slot.name);
    let another = "name another slot in update_method.replication_slot (one that does not exist is created with create_if_missing)";
    if !slot.logical {
        let what = format!("{name} is a physical slot, which belongs to a standby or a backup; no data is affected");
        return Some(Finding::stop("slot_physical", what).of(Kind::Config).remedy(another));
    }
    if let Some(database) = slot.database.as_ref().filter(|database| **database != wanted.database) {
        let what = format!(
            "{name} belongs to database {}, and the tables are in {}; names of slots are unique on the whole server; no data is affected",
            quote::identifier(database),
            quote::identifier(&wanted.database)
        );
        return Some(Finding::stop("slot_of_other_database", what).of(Kind::Config).remedy(another));
    }
    // Without a plugin it is being created at this moment: it is seen before its maker has said which.
    if let Some(plugin) = slot.plugin.as_ref().filter(|plugin| !plugin.is_empty() && **plugin != wanted.plugin) {
        let what = format!("{name} was created with the output plugin {plugin:?}, accepted: {:?}; no data is affected", wanted.plugin);
        let finding = Finding::stop("slot_wrong_plugin", what).of(Kind::Config);
        let or =
            "a slot's plugin cannot be changed. Where no other consumer needs this one, it can be replaced instead, which loses its place";
        let finding = finding.remedy(format!("{another}; {or}")).run(drop_sql(&slot.name)).run(create_sql(&slot.name, &wanted.plugin));
        return Some(if wanted.saved.is_some() { finding.then(RELOAD) } else { finding });
    }
    if slot.temporary {
        let who = slot.reader.as_ref().map(|reader| format!(", which is {reader}")).unwrap_or_default();
        let what = format!("{name} is temporary: it ends with the session that has created it{who}; no data is affected");
        return Some(Finding::stop("slot_temporary", what).of(Kind::Config).remedy(another));
    }
    if slot.synced && server.in_recovery {
        let what = format!(
            "{name} on this standby is a copy that is kept in step with the primary's, and cannot be read before the standby is promoted; no data is lost"
        );
        return Some(
            Finding::stop("slot_synced", what)
                .of(Kind::Config)
                .remedy("give the address of the primary as host, or name a slot of its own for this standby"),
        );
    }
    if slot.invalidation.is_some() || slot.wal_status == Some(WalStatus::Lost) {
        return Some(invalidated(slot, server, wanted));
    }
    in_use(slot, server).or_else(|| two_phase(slot, wanted))
}

pub(super) fn in_use(slot: &SlotInfo, server: &ServerSettings) -> Option<Finding> {
    let reader = slot.reader.as_ref()?;
    let finding = Finding::stop(
        "slot_in_use",
        format!(
            "{} is being read by {reader}; no data is lost by waiting, but two readers of one slot take each other's changes",
            named(&slot.name)
        ),
    );
    let timeout = match server.wal_sender_timeout {
        Some(timeout) => format!("after wal_sender_timeout, which is {} s", timeout.as_secs_f64()),
        None => "only when its connection breaks (wal_sender_timeout is 0)".to_owned(),
    };
    Some(
        finding
            .remedy(format!(
                "if that is another run or another consumer, give this one a slot of its own; if it is what is left of a run that has died, the server ends it {timeout}, or you do"
            ))
            .run(format!("SELECT pg_terminate_backend({})", reader.pid))
            .passing(),
    )
}

fn invalidated(slot: &SlotInfo, server: &ServerSettings, wanted: &Wanted) -> Finding {
    let name = named(&slot.name);
    let room = |size: u64| format!("{}MB", (size >> 20).saturating_mul(4).max(1024));
    let (why, word, prevent) = match &slot.invalidation {
        None | Some(Invalidation::WalRemoved) => (
            "it held back more log than max_slot_wal_keep_size allows, and the server has removed what it needs",
            "wal_removed",
            server.max_slot_wal_keep_size.map(|size| ("max_slot_wal_keep_size", room(size))),
        ),
        Some(Invalidation::RowsRemoved) => (
            "vacuum on the primary has removed catalog rows that it needs, as the standby had no hot_standby_feedback or was disconnected",
            "rows_removed",
            Some(("hot_standby_feedback", "on".to_owned())),
        ),
        Some(Invalidation::WalLevelInsufficient) => {
            ("wal_level of the primary was below logical for a time", "wal_level_insufficient", None)
        }
        Some(Invalidation::IdleTimeout) => (
            "nothing has read it for longer than idle_replication_slot_timeout",
            "idle_timeout",
            Some(("idle_replication_slot_timeout", "0".to_owned())),
        ),
        Some(Invalidation::Conflict) => (
            "the standby could not keep what it needs: vacuum on the primary has removed catalog rows, or its wal_level was lowered",
            "conflicting",
            Some(("hot_standby_feedback", "on".to_owned())),
        ),
        Some(Invalidation::Other(reason)) => ("the server has made it invalid", reason.as_str(), None),
    };
    let limit = match (word, server.max_slot_wal_keep_size, server.idle_replication_slot_timeout) {
        ("wal_removed", Some(size), _) => format!(" (it is {} now)", bytes(size)),
        ("idle_timeout", _, Some(timeout)) => format!(" (it is {} now)", span(timeout)),
        _ => String::new(),
    };
    let data = match wanted.saved {
        Some(saved) => format!(
            "the destination has changes up to {saved}; those made after that can no longer be read, and updates, deletes and inserts since then are missing at the destination"
        ),
        None => "nothing has been captured with it yet, so no data is affected".to_owned(),
    };
    let finding = Finding::stop("slot_invalidated", format!("{name} is invalidated ({word}): {why}{limit}; {data}"));
    let finding = if wanted.saved.is_some() { finding.of(Kind::State) } else { finding };
    let finding = finding.remedy("an invalidated slot cannot be repaired; prevent it from happening again, and replace the slot");
    let finding = match prevent {
        Some((name, value)) => with_setting(finding, server, name, &value),
        None => finding,
    };
    let finding = finding.run(drop_sql(&slot.name));
    let finding = if wanted.create_if_missing { finding } else { finding.run(create_sql(&slot.name, &wanted.plugin)) };
    if wanted.saved.is_some() { finding.then(RELOAD) } else { finding }
}

pub(super) fn unfinished(slot: &SlotInfo) -> Finding {
    Finding::stop("slot_unfinished", format!("{} has no confirmed position: its creation has not ended; no data is affected", named(&slot.name)))
        .remedy("creating a slot waits for all transactions that were open when it began: end them or wait; if nobody is creating it any more, replace it")
        .run(drop_sql(&slot.name))
        .passing()
}

/// The server sends prepared transactions of such a slot early, whoever asks (manual, CREATE_REPLICATION_SLOT, TWO_PHASE).
fn two_phase(slot: &SlotInfo, wanted: &Wanted) -> Option<Finding> {
    (slot.two_phase && !wanted.two_phase).then(|| {
        Finding::stop("slot_two_phase", format!("{} was created with two_phase: it sends prepared transactions before they are committed, which cannot be read by SQL (capture: poll); no data is affected", named(&slot.name)))
            .of(Kind::Config)
            .remedy("set capture to stream, or name another slot in update_method.replication_slot; two_phase of a slot cannot be taken back")
    })
}

pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds % 86_400, seconds % 3600, seconds % 60) {
        (0, _, _) => format!("{} d", seconds / 86_400),
        (_, 0, _) => format!("{} h", seconds / 3600),
        (_, _, 0) => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}
