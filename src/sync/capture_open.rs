//! Before the log is read: the publication and the slot are found, judged, and made where they are missing and may be made.
//!
//! The publication comes first: changes that are logged before it is there cannot be read with it. What stands in the way is told before
//! anything is read, with the statement that mends it. Does not read changes.

use super::StreamRun;
use super::capture::Terms;
use super::keeper::Keeper;
use crate::capture::finding::Weight;
use crate::capture::publication::{self, ChosenTable};
use crate::capture::rows::Origin;
use crate::capture::slot_judgement::{OnSlotLag, Verdict, Wanted, verdict};
use crate::capture::{publication_check, publication_rights, server, slot, table};
use crate::error::{Error, Result};
use crate::postgres::changes::Way;
use crate::postgres::connect::{self, ConnectOptions, Session};
use std::sync::Arc;
use std::time::{Duration, Instant};
use writers::Table;

/// How long a slot that somebody reads is waited for: the server may not have noticed yet that a run was killed.
const IN_USE: Duration = Duration::from_secs(15);
/// Findings that are none here: partitions are known as well as their parents.
const NO_MATTER: [&str; 2] = ["published_by_partition", "truncate_missing"];

/// Sees to it that the publication and the slot are there and fit.
pub async fn open<T: Table>(options: &ConnectOptions, terms: &Terms, streams: &[Arc<StreamRun<T>>], keeper: &Keeper) -> Result<()> {
    let session = connect::session(options).await?;
    session.leave_transaction().await?;
    let slot_is_there = slot::find(&session, &terms.slot).await?.is_some();
    let tables = chosen(&session, streams).await?;
    publish(&session, terms, &tables, slot_is_there).await?;
    // What was saved is compared with the slot when each stream's token is known.
    let known =
        keeper.read(|state| streams.iter().filter_map(|stream| state.lakeward.captures.get(&stream.plan.id)).map(|one| one.lsn).max());
    let creates = take_slot(&session, terms, options, known.filter(|_| !slot_is_there)).await?;
    session.close().await;
    if creates {
        let position = terms.way.create_slot(options, &terms.slot).await?;
        tracing::info!("created the replication slot {} at {position}", terms.slot);
    }
    Ok(())
}

/// The tables that are followed, as the server has them.
async fn chosen<T: Table>(session: &Session, streams: &[Arc<StreamRun<T>>]) -> Result<Vec<ChosenTable>> {
    let followed: Vec<_> = streams.iter().filter_map(|stream| Some((stream, stream.plan.capture.as_ref()?))).collect();
    let oids: Vec<u32> = followed.iter().map(|(stream, _)| stream.info.oid).collect();
    let tables = table::load(session, &oids).await?;
    let mut chosen = Vec::with_capacity(tables.len());
    for table in tables {
        let Some((_, plan)) = followed.iter().find(|(stream, _)| stream.info.oid == table.relation.oid) else { continue };
        let column = |origin: &Origin| if let Origin::Column(name) = origin { Some(name.clone()) } else { None };
        chosen.push(ChosenTable { table, columns: plan.origins.iter().filter_map(column).collect(), needs_updates: plan.applies });
    }
    Ok(chosen)
}

async fn publish(session: &Session, terms: &Terms, tables: &[ChosenTable], slot_is_there: bool) -> Result<()> {
    let name = &terms.publication;
    let version = session.server_version();
    let Some(found) = publication::find(session, name).await? else {
        if !terms.create_if_missing || slot_is_there {
            return Err(publication_rights::missing(name, tables, version, slot_is_there).into());
        }
        if let Some(finding) = publication_rights::may_create(name, tables, version, &publication::rights(session).await?) {
            return Err(finding.into());
        }
        session
            .execute(&publication::create_sql(name, tables, version))
            .await
            .map_err(|e| e.doing(format!("create the publication {name}")))?;
        tracing::info!("created the publication {name}");
        return Ok(());
    };
    for problem in publication_check::check(&found, tables) {
        match problem.finding.weight {
            _ if NO_MATTER.contains(&problem.finding.code) => {}
            Weight::Warn => tracing::warn!("{}", Error::from(problem.finding)),
            Weight::Stop => return Err(problem.finding.into()),
        }
    }
    Ok(())
}

/// Says whether the slot has to be made.
async fn take_slot(session: &Session, terms: &Terms, options: &ConnectOptions, saved: Option<crate::postgres::lsn::Lsn>) -> Result<bool> {
    let wanted = Wanted {
        name: terms.slot.clone(),
        plugin: "pgoutput".to_owned(),
        database: options.database.clone(),
        two_phase: false,
        saved,
        create_if_missing: terms.create_if_missing,
        wal_sender: terms.way == Way::Stream,
        max_slot_lag_bytes: None,
        on_slot_lag: OnSlotLag::Warn,
    };
    let begun = Instant::now();
    loop {
        let (settings, found) = (server::settings(session).await?, slot::find(session, &terms.slot).await?);
        let warnings = match verdict(found.as_ref(), &settings, &wanted) {
            Ok(Verdict::Create { warnings }) => {
                warnings.into_iter().for_each(|finding| tracing::warn!("{}", Error::from(finding)));
                return Ok(true);
            }
            Ok(Verdict::Use { warnings, .. }) => warnings,
            Ok(Verdict::Drop { because }) => return Err(because.into()),
            Err(finding) if finding.code == "slot_in_use" && begun.elapsed() < IN_USE => {
                tracing::debug!("{}", Error::from(finding));
                tokio::time::sleep(Duration::from_millis(300)).await;
                continue;
            }
            Err(finding) => return Err(finding.into()),
        };
        warnings.into_iter().for_each(|finding| tracing::warn!("{}", Error::from(finding)));
        return Ok(false);
    }
}
