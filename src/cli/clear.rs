//! `clear-destination`: removes the chosen streams' tables, what the state says of them, and the slot when nothing is followed any more.

use super::{Flags, files, sync};
use crate::capture::slot::drop_sql;
use crate::capture::slot_drop;
use crate::error::{Error, Result};
use crate::postgres::connect::{self, ConnectOptions, Session};
use crate::state::State;
use crate::state::file::StateFile;
use crate::sync::capture::Terms;
use crate::sync::capture_plan::is_captured;
use writers::Destination as _;

/// What becomes of the slot that nothing is followed through any more.
enum Slot {
    /// Nothing: another stream needs it, or there never was one.
    Stays,
    /// It stays, which is said with how to drop it.
    Told(String),
    /// It goes.
    Goes(Box<Session>, Terms),
}

/// Removes the destination tables of every chosen stream, then forgets them in the state.
pub async fn run(flags: &Flags) -> Result<()> {
    files::required(&flags.destination, "destination", "destination.json")?;
    files::required(&flags.catalog, "streams", "the catalog that names the streams")?;
    let destination = super::read_destination(flags).await?;
    let chosen = super::read_chosen(flags, Some(&destination))?;
    let destination = sync::open_destination(&destination, sync::Share::for_check()).await?;
    let file = StateFile::lock(&files::state_output(flags))?;
    let found = crate::state::file::load(&files::state(flags))?;
    let known = found.is_some();
    let mut state = found.unwrap_or_default();
    let followed = chosen.iter().any(is_captured) || is_followed(&state);
    for stream in &chosen {
        // State first: a state that claims rows which are gone would lose them, the reverse only reads them again.
        state.forget(&stream.stream.namespace, &stream.stream.name);
    }
    // A slot that is in use is found out before anything is removed.
    let slot = if followed && !is_followed(&state) { Box::pin(slot(flags, known)).await? } else { Slot::Stays };
    file.save(&state)?;
    for stream in &chosen {
        let id = format!("{}.{}", stream.stream.namespace, stream.stream.name);
        destination
            .drop_table(&stream.destination_database, &stream.destination_table)
            .await
            .map_err(|e| Error::from(e).doing(format!("remove the destination of {id}")))?;
        tracing::info!("{id}: removed {}.{}", stream.destination_database, stream.destination_table);
    }
    match slot {
        Slot::Stays => {}
        Slot::Told(what) => tracing::info!("{what}"),
        Slot::Goes(session, terms) => {
            slot_drop::drop_slot(&session, &terms.slot).await?;
            if terms.create_if_missing
                && let Some(stays) = slot_drop::drop_publication(&session, &terms.publication).await?
            {
                tracing::warn!("{stays}");
            }
            session.close().await;
        }
    }
    Ok(())
}

/// Whether a stream is followed, or will be when its first load is committed.
fn is_followed(state: &State) -> bool {
    let ours = &state.lakeward;
    !ours.captures.is_empty() || ours.loads.values().any(|load| load.seen.is_some())
}

/// What is to become of the slot. `known`: there is a state file, which says what else is followed.
async fn slot(flags: &Flags, known: bool) -> Result<Slot> {
    let keeps = "the server keeps the log for its slot until somebody reads or drops it";
    if flags.config.is_none() {
        return Ok(Slot::Told(format!(
            "nothing is followed any more, and {keeps} (with --config, and drop_on_clear in its update_method, it is dropped here)"
        )));
    }
    let (source, options): (_, ConnectOptions) = super::read_source(flags).await?;
    let Some(terms) = source.capture()? else { return Ok(Slot::Stays) };
    let by_hand = format!("{};", drop_sql(&terms.slot));
    if !source.update_method.is_some_and(|method| method.drop_on_clear) {
        return Ok(Slot::Told(format!("nothing is followed any more, and {keeps}: {by_hand} (with drop_on_clear it is dropped here)")));
    }
    if !known {
        return Ok(Slot::Told(format!(
            "the slot stays: without a state file it is not known whether other streams are followed through it. If there are none: {by_hand}"
        )));
    }
    let session = connect::session(&options).await?;
    session.leave_transaction().await?;
    slot_drop::idle(&session, &terms.slot).await?;
    Ok(Slot::Goes(Box::new(session), terms))
}
