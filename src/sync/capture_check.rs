//! Whether a run could follow, before it is run: slot, publication and rights are looked at, and nothing is created, dropped or changed.

use super::capture::Terms;
use super::capture_open::{judge, may_create, wanted};
use crate::capture::publication::{self, ChosenTable};
use crate::capture::slot_judgement::{Verdict, verdict};
use crate::capture::{server, slot, table};
use crate::config::selection::Chosen;
use crate::error::{Error, Result};
use crate::postgres::catalog;
use crate::postgres::connect::{self, ConnectOptions, Session};
use std::collections::BTreeSet;

/// Finds what would stop a run that follows `chosen`: all that are followed, each with the changes that its kind of stream needs.
///
/// # Errors
/// The first of what stands in the way, with its code and the statement that mends it. A slot that is in use is only a warning: a run may be going on.
pub async fn inspect(options: &ConnectOptions, terms: &Terms, chosen: &[Chosen], collapse: bool) -> Result<()> {
    let session = connect::session(options).await?;
    session.leave_transaction().await?;
    let found = slot::find(&session, &terms.slot).await?;
    let settings = server::settings(&session).await?;
    let warnings = match verdict(found.as_ref(), &settings, &wanted(terms, options, None)) {
        Ok(Verdict::Create { warnings } | Verdict::Use { warnings, .. }) => warnings,
        Ok(Verdict::Drop { because }) => return Err(because.into()),
        Err(finding) if finding.code == "slot_in_use" => vec![finding],
        Err(finding) => return Err(finding.into()),
    };
    warnings.into_iter().for_each(|finding| tracing::warn!("{}", Error::from(finding)));
    let tables = tables(&session, chosen, collapse).await?;
    match publication::find(&session, &terms.publication).await? {
        // What it lacks will be added.
        Some(_) if terms.sync_publication => {}
        Some(publication) => judge(Some(&publication), &tables)?,
        None => may_create(&session, terms, &tables, found.is_some()).await?,
    }
    session.close().await;
    let what = if found.is_some() { "can be read" } else { "will be created by the first sync" };
    tracing::info!("source: the replication slot {} {what}", terms.slot);
    Ok(())
}

/// The tables as the server has them. One that has a key may have its rows replaced, for which updates are needed in full.
async fn tables(session: &Session, chosen: &[Chosen], collapse: bool) -> Result<Vec<ChosenTable>> {
    let names: Vec<_> = chosen.iter().map(|one| (one.stream.namespace.clone(), one.stream.name.clone())).collect();
    let known = catalog::load_tables(&session.client, &names, collapse).await.map_err(|e| session.cause(e))?;
    let oids: Vec<u32> = known.iter().map(|table| table.oid).collect();
    let find = |table: table::CaptureTable| {
        let at = oids.iter().position(|oid| *oid == table.relation.oid)?;
        let has = |name: &String| known[at].columns.iter().any(|column| column.name == *name);
        let asked = chosen[at].filter.iter().flat_map(|filter| filter.conditions()).map(|condition| &condition.column);
        let flattened = chosen[at].flatten.iter().map(|flatten| &flatten.source);
        let wanted = chosen[at].columns.iter().map(|column| &column.source).chain(flattened).chain(asked);
        let columns = wanted.filter(|name| has(name)).cloned().collect::<BTreeSet<String>>().into_iter().collect();
        let needs_updates = !known[at].primary_key.is_empty() && !chosen[at].metadata.append_mode;
        Some(ChosenTable { table, columns, needs_updates })
    };
    Ok(table::load(session, &oids).await?.into_iter().filter_map(find).collect())
}
