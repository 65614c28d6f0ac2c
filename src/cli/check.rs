//! `check`: finds out now what would otherwise fail later.

use super::{Flags, sync};
use crate::config::Source;
use crate::error::{Error, Result};
use crate::postgres::connect::ConnectOptions;
use crate::postgres::{catalog, connect};
use crate::sync::capture_check::inspect;
use crate::sync::capture_plan::is_captured;
use clap::Args;
use serde_json::json;
use writers::Destination as _;

/// Flags of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Only read and validate the files; connect to nothing
    #[arg(long)]
    pub config_only: bool,
}

/// Checks the destination when one is given, else the source, and reports in OLake's message.
pub async fn run(flags: &Flags, args: &CheckArgs) -> Result<()> {
    let outcome = check(flags, args).await;
    let status = match &outcome {
        Ok(()) => json!({"status": "SUCCEEDED"}),
        Err(error) => {
            let advice = error.advice().map(|advice| format!("; what to do: {advice}")).unwrap_or_default();
            json!({"status": "FAILED", "message": format!("{error}{advice}")})
        }
    };
    super::message(&json!({"type": "CONNECTION_STATUS", "connectionStatus": status}));
    outcome
}

/// Slot and publication, of a source that is meant for change data capture; with a catalog, whether its streams can be followed.
async fn check_capture(flags: &Flags, source: &Source, options: &ConnectOptions) -> Result<()> {
    let Some(terms) = source.capture()? else { return Ok(()) };
    let chosen = match &flags.catalog {
        Some(_) => super::read_chosen(flags, None)?.into_iter().filter(is_captured).collect(),
        None => Vec::new(),
    };
    inspect(options, &terms, &chosen, source.scope().collapse_partitions).await
}

async fn check(flags: &Flags, args: &CheckArgs) -> Result<()> {
    if flags.config.is_none() && flags.destination.is_none() {
        return Err(Error::config("nothing to check: neither --config nor --destination is given")
            .hint("give source.json with --config, destination.json with --destination, or both"));
    }
    if flags.config.is_some() {
        let (source, options) = super::read_source(flags).await?;
        if !args.config_only {
            let session = connect::session(&options).await?;
            let found = catalog::load(&session.client, &source.scope()).await.map_err(|e| session.cause(e))?;
            for (table, reason) in &found.skipped {
                tracing::warn!("{table} cannot be read: {reason}");
            }
            for warning in &found.warnings {
                tracing::warn!("{warning}");
            }
            tracing::info!("source: {} tables can be read", found.tables.len());
            session.close().await;
            check_capture(flags, &source, &options).await?;
        }
    }
    if flags.destination.is_some() {
        let destination = super::read_destination(flags).await?;
        if !args.config_only {
            sync::open_destination(&destination, sync::Share::for_check()).await?.check().await?;
            tracing::info!("destination: can be written");
        }
    }
    if args.config_only && flags.catalog.is_some() {
        super::read_chosen(flags, None)?;
    }
    Ok(())
}
