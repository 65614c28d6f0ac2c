//! Before the log is read: the publication and the slot are found, judged, and made where they are missing and may be made.
//!
//! The publication comes first: changes that are logged before it is there cannot be read with it. What stands in the way is told before
//! anything is read, with the statement that mends it. Does not read changes.

use super::StreamRun;
use super::capture::{Ended, Terms};
use super::keeper::Keeper;
use crate::capture::finding::Weight;
use crate::capture::publication::{self, ChosenTable, PublicationInfo};
use crate::capture::slot_drop::{self, IN_USE, LOOK};
use crate::capture::slot_judgement::{OnSlotLag, Verdict, Wanted, lag, verdict};
use crate::capture::{publication_check, publication_rights, publication_sync, server, slot, table};
use crate::error::{Error, Result};
use crate::postgres::changes::Way;
use crate::postgres::connect::{self, ConnectOptions, Session};
use crate::postgres::lsn::Lsn;
use std::sync::Arc;
use std::time::{Duration, Instant};
use writers::{Table, faults};

/// Findings that are none here: partitions are known as well as their parents.
const NO_MATTER: [&str; 2] = ["published_by_partition", "truncate_missing"];

/// Sees to it that the publication and the slot are there and fit. A table that has other columns than it was planned with is to be planned anew.
pub async fn open<T: Table>(options: &ConnectOptions, terms: &Terms, streams: &[Arc<StreamRun<T>>], keeper: &Keeper) -> Result<Ended> {
    let session = connect::session(options).await?;
    session.leave_transaction().await?;
    let slot_is_there = slot::find(&session, &terms.slot).await?.is_some();
    let tables = chosen(&session, streams).await?;
    let found = publication(&session, terms, &tables, slot_is_there).await?;
    let found = match found {
        Some(found) if terms.sync_publication => Some(complete(&session, found, &tables, streams, keeper, options.lock_timeout).await?),
        found => found,
    };
    if let Err(error) = judge(found.as_ref(), &tables) {
        // Of a column that has another name by now, the publication has the new one.
        return if is_outdated(&chosen(&session, streams).await?) { Ok(Ended::Anew) } else { Err(error) };
    }
    // What was saved is compared with the slot when each stream's token is known.
    let known =
        keeper.read(|state| streams.iter().filter_map(|stream| state.lakeward.captures.get(&stream.plan.id)).map(|one| one.lsn).max());
    let creates = take_slot(&session, terms, options, known.filter(|_| !slot_is_there)).await?;
    session.close().await;
    if creates {
        faults::reach("source.slot").await?;
        let position = terms.way.create_slot(options, &terms.slot, terms.failover).await?;
        faults::reach("source.slot.done").await?;
        tracing::info!("created the replication slot {} at {position}", terms.slot);
    }
    Ok(Ended::Complete)
}

/// Whether a column that was planned is not there.
fn is_outdated(tables: &[ChosenTable]) -> bool {
    let has = |table: &ChosenTable, name: &String| table.table.columns.iter().any(|column| column.name == *name);
    tables.iter().any(|table| table.columns.iter().any(|name| !has(table, name)))
}

/// The tables that are followed, as the server has them.
async fn chosen<T: Table>(session: &Session, streams: &[Arc<StreamRun<T>>]) -> Result<Vec<ChosenTable>> {
    let followed: Vec<_> = streams.iter().filter_map(|stream| Some((stream, stream.plan.capture.as_ref()?))).collect();
    let oids: Vec<u32> = followed.iter().map(|(stream, _)| stream.info.oid).collect();
    let tables = table::load(session, &oids).await?;
    let mut chosen = Vec::with_capacity(tables.len());
    for table in tables {
        let Some((_, plan)) = followed.iter().find(|(stream, _)| stream.info.oid == table.relation.oid) else { continue };
        let mut columns: Vec<String> = Vec::new();
        for name in plan.source_columns() {
            if !columns.iter().any(|known| known == name) {
                columns.push(name.to_owned());
            }
        }
        chosen.push(ChosenTable { table, columns, needs_updates: plan.applies });
    }
    Ok(chosen)
}

/// Whether a publication that is not there may be made.
pub(super) async fn may_create(session: &Session, terms: &Terms, tables: &[ChosenTable], slot_is_there: bool) -> Result<()> {
    let (name, version) = (&terms.publication, session.server_version());
    if !terms.create_if_missing || slot_is_there {
        return Err(publication_rights::missing(name, tables, version, slot_is_there).into());
    }
    let finding = publication_rights::may_create(name, tables, version, &publication::rights(session).await?);
    finding.map_or(Ok(()), |finding| Err(finding.into()))
}

/// The publication, if it was there; it is made if it may be.
async fn publication(session: &Session, terms: &Terms, tables: &[ChosenTable], slot_is_there: bool) -> Result<Option<PublicationInfo>> {
    let name = &terms.publication;
    let version = session.server_version();
    if let Some(found) = publication::find(session, name).await? {
        return Ok(Some(found));
    }
    may_create(session, terms, tables, slot_is_there).await?;
    session
        .execute(&publication::create_marked_sql(name, tables, version))
        .await
        .map_err(|e| e.doing(format!("create the publication {name}")))?;
    faults::reach("source.publication.done").await?;
    tracing::info!("created the publication {name}");
    Ok(None)
}

/// The publication with what it lacked. A stream that has been followed already is refused instead: what was changed before is not sent.
async fn complete<T: Table>(
    session: &Session,
    found: PublicationInfo,
    tables: &[ChosenTable],
    streams: &[Arc<StreamRun<T>>],
    keeper: &Keeper,
    patience: Duration,
) -> Result<PublicationInfo> {
    let steps = publication_sync::steps(&found, tables);
    if steps.is_empty() {
        return Ok(found);
    }
    let lacking = |oid: u32| steps.iter().any(|step| step.table == oid);
    let concerned: Vec<_> = streams.iter().filter(|stream| lacking(stream.info.oid)).collect();
    let followed = |stream: &&&Arc<StreamRun<T>>| {
        keeper.read(|state| state.lakeward.captures.get(&stream.plan.id).is_some_and(|captured| !captured.reload))
    };
    if let Some(late) = concerned.iter().find(followed)
        && let Some(table) = tables.iter().find(|table| table.table.relation.oid == late.info.oid)
    {
        return Err(publication_rights::too_late(&found, table).into());
    }
    if let Some(finding) = publication_rights::may_alter(&found, tables, &publication::rights(session).await?) {
        return Err(finding.into());
    }
    // A load that was begun before would be followed from its own snapshot, should the destination have it.
    keeper.commit(|state| concerned.iter().for_each(|stream| drop(state.lakeward.loads.remove(&stream.plan.id))))?;
    publication_sync::apply(session, &found.name, &steps, patience).await?;
    faults::reach("source.publication.done").await?;
    Ok(publication::find(session, &found.name).await?.unwrap_or(found))
}

/// What stands in the way of reading through the publication; one that was made a moment ago fits.
pub(super) fn judge(found: Option<&PublicationInfo>, tables: &[ChosenTable]) -> Result<()> {
    for problem in found.map(|found| publication_check::check(found, tables)).unwrap_or_default() {
        match problem.finding.weight {
            _ if NO_MATTER.contains(&problem.finding.code) => {}
            Weight::Warn => tracing::warn!("{}", Error::from(problem.finding)),
            Weight::Stop => return Err(problem.finding.into()),
        }
    }
    Ok(())
}

/// What a slot has to be.
pub(super) fn wanted(terms: &Terms, options: &ConnectOptions, saved: Option<Lsn>) -> Wanted {
    Wanted {
        name: terms.slot.clone(),
        plugin: "pgoutput".to_owned(),
        database: options.database.clone(),
        two_phase: terms.way == Way::Stream,
        saved,
        create_if_missing: terms.create_if_missing,
        wal_sender: terms.way == Way::Stream,
        max_slot_lag_bytes: terms.max_slot_lag_bytes,
        on_slot_lag: terms.on_slot_lag,
    }
}

/// Says whether the slot has to be made.
async fn take_slot(session: &Session, terms: &Terms, options: &ConnectOptions, saved: Option<Lsn>) -> Result<bool> {
    let wanted = wanted(terms, options, saved);
    let begun = Instant::now();
    loop {
        let (settings, found) = (server::settings(session).await?, slot::find(session, &terms.slot).await?);
        let warnings = match verdict(found.as_ref(), &settings, &wanted) {
            Ok(Verdict::Create { warnings }) => {
                warnings.into_iter().for_each(|finding| tracing::warn!("{}", Error::from(finding)));
                return Ok(true);
            }
            Ok(Verdict::Use { warnings, .. }) => warnings,
            Ok(Verdict::Drop { because }) => {
                slot_drop::drop_slot(session, &terms.slot).await?;
                return Err(because.into());
            }
            Err(finding) if finding.code == "slot_in_use" && begun.elapsed() < IN_USE => {
                tracing::debug!("{}", Error::from(finding));
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(finding) => return Err(finding.into()),
        };
        warnings.into_iter().for_each(|finding| tracing::warn!("{}", Error::from(finding)));
        return Ok(false);
    }
}

/// For a run that reads the slot itself and goes on doing so: whether the slot still holds back no more log than it may. With `drop_slot`, whoever
/// is told the error ends the stream and calls [`drop_lagging`], because a slot that is read cannot be dropped. A slot that is gone is
/// no matter here: its stream says so.
///
/// # Errors
/// Code `slot_lag`, unless `on_slot_lag` is `warn`; a failing query.
pub async fn check_lag(session: &Session, terms: &Terms) -> Result<()> {
    let Some(found) = slot::find(session, &terms.slot).await? else { return Ok(()) };
    let told = match terms.on_slot_lag {
        OnSlotLag::Warn => OnSlotLag::Warn,
        OnSlotLag::Stop | OnSlotLag::DropSlot => OnSlotLag::Stop,
    };
    match lag(&found, terms.max_slot_lag_bytes, told, None) {
        Some(finding) if finding.weight == Weight::Stop => Err(finding.into()),
        Some(finding) => {
            tracing::warn!("{}", Error::from(finding));
            Ok(())
        }
        None => Ok(()),
    }
}

/// Drops the slot if it holds back too much and `on_slot_lag` is `drop_slot`; waits until nobody reads it.
///
/// # Errors
/// Code `slot_lag` once it is dropped; what [`slot_drop::drop_slot`] gives.
pub async fn drop_lagging(options: &ConnectOptions, terms: &Terms) -> Result<()> {
    if terms.on_slot_lag != OnSlotLag::DropSlot {
        return Ok(());
    }
    let session = connect::session(options).await?;
    session.leave_transaction().await?;
    let found = slot_drop::idle(&session, &terms.slot).await?;
    let Some(finding) = found.and_then(|slot| lag(&slot, terms.max_slot_lag_bytes, terms.on_slot_lag, None)) else { return Ok(()) };
    slot_drop::drop_slot(&session, &terms.slot).await?;
    session.close().await;
    Err(finding.into())
}

#[cfg(test)]
#[path = "capture_open_tests.rs"]
mod tests;
