//! `clear-destination`: removes the chosen streams' tables, and what the state says of them.

use super::{Flags, files, sync};
use crate::error::{Error, Result};
use crate::state::file::StateFile;
use writers::Destination as _;

/// Removes the destination tables of every chosen stream, then forgets them in the state.
pub async fn run(flags: &Flags) -> Result<()> {
    files::required(&flags.destination, "destination", "destination.json")?;
    files::required(&flags.catalog, "streams", "the catalog that names the streams")?;
    let destination = super::read_destination(flags).await?;
    let chosen = super::read_chosen(flags, Some(&destination))?;
    let destination = sync::open_destination(&destination, sync::Share::for_check()).await?;
    let file = StateFile::lock(&files::state_output(flags))?;
    let mut state = crate::state::file::load(&files::state(flags))?.unwrap_or_default();
    for stream in &chosen {
        // State first: a state that claims rows which are gone would lose them, the reverse only reads them again.
        state.forget(&stream.stream.namespace, &stream.stream.name);
    }
    file.save(&state)?;
    for stream in &chosen {
        let id = format!("{}.{}", stream.stream.namespace, stream.stream.name);
        destination
            .drop_table(&stream.destination_database, &stream.destination_table)
            .await
            .map_err(|e| Error::from(e).doing(format!("remove the destination of {id}")))?;
        tracing::info!("{id}: removed {}.{}", stream.destination_database, stream.destination_table);
    }
    Ok(())
}
