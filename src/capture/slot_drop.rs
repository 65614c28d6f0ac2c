//! A slot goes: because it holds back too much, or because nothing is followed any more.
//!
//! Promises: only a slot of this database with the plugin that is read here is dropped, and none that somebody reads; who that is, is said.
//! Does not judge whether it should go.

use super::finding::Finding;
use super::publication;
use super::server::{self, ServerSettings};
use super::slot::{self, SlotInfo, drop_sql};
use super::slot_refusals::{in_use, named};
use crate::error::{Error, Kind, Result};
use crate::postgres::connect::Session;
use crate::postgres::quote;
use std::time::{Duration, Instant};

/// How long a slot that somebody reads is waited for: the server may not have noticed yet that a run was killed.
pub const IN_USE: Duration = Duration::from_secs(15);
/// How often it is looked at meanwhile.
pub const LOOK: Duration = Duration::from_millis(300);

/// The slot once nobody reads it; `None` if there is none.
///
/// # Errors
/// Codes `slot_in_use`, after [`IN_USE`], and `slot_not_ours`; a failing query.
pub async fn idle(session: &Session, name: &str) -> Result<Option<SlotInfo>> {
    let begun = Instant::now();
    loop {
        let Some(slot) = slot::find(session, name).await? else { return Ok(None) };
        let server = server::settings(session).await?;
        if let Some(finding) = not_ours(&slot, &server) {
            return Err(finding.into());
        }
        match in_use(&slot, &server) {
            None => return Ok(Some(slot)),
            Some(finding) if begun.elapsed() < IN_USE => tracing::debug!("{}", Error::from(finding)),
            Some(finding) => return Err(finding.into()),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Drops a slot; says whether there was one.
///
/// # Errors
/// Those of [`idle`]; what the server refuses.
pub async fn drop_slot(session: &Session, name: &str) -> Result<bool> {
    if idle(session, name).await?.is_none() {
        return Ok(false);
    }
    session.execute(&drop_sql(name)).await.map_err(|e| e.doing(format!("drop the replication slot {}", quote::identifier(name))))?;
    tracing::info!("dropped the replication slot {name}");
    Ok(true)
}

/// Drops a publication that was made by us, unless another slot of the database may be read through it; why it was not dropped.
///
/// # Errors
/// What the server refuses.
pub async fn drop_publication(session: &Session, name: &str) -> Result<Option<String>> {
    if publication::find(session, name).await?.is_none() {
        return Ok(None);
    }
    let by_hand = publication::drop_sql(name);
    if !publication::is_marked(session, name).await? {
        return Ok(Some(format!("publication {name} was not made by Lakeward, or belongs to another user now, and stays ({by_hand})")));
    }
    let sql = "SELECT pg_catalog.string_agg(slot_name, ', ' ORDER BY slot_name) FROM pg_catalog.pg_replication_slots \
               WHERE plugin = 'pgoutput' AND database = pg_catalog.current_database()";
    if let Some(slots) = session.row(sql).await?.get::<_, Option<String>>(0) {
        return Ok(Some(format!("publication {name} stays: slots that may be read through it are there: {slots} ({by_hand})")));
    }
    session.execute(&by_hand).await.map_err(|e| e.doing(format!("drop the publication {}", quote::identifier(name))))?;
    tracing::info!("dropped the publication {name}");
    Ok(None)
}

/// Whoever made such a slot did not make it for us.
fn not_ours(slot: &SlotInfo, server: &ServerSettings) -> Option<Finding> {
    let ours = slot.logical && slot.database.as_ref() == Some(&server.database) && slot.plugin.as_deref() == Some("pgoutput");
    (!ours).then(|| {
        let what = format!("{} is none that was made for pgoutput in database {}, and is not dropped", named(&slot.name), server.database);
        Finding::stop("slot_not_ours", what).of(Kind::Config).remedy("name the right slot in update_method.replication_slot")
    })
}
