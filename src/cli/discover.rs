//! `discover`: the database's tables as `streams.json`.

use super::{Flags, files};
use crate::config::merge;
use crate::config::streams::StreamsFile;
use crate::discover::{self, DiscoverOptions};
use crate::error::{Context, Error, Result};
use crate::postgres::{catalog, connect};
use crate::state::file::write_atomically;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// OLake's limit when `--timeout` is not given.
const TIMEOUT_SECONDS: u64 = 300;

/// Prints the catalog and writes it to a file, merged with the file that is there.
pub async fn run(flags: &Flags) -> Result<()> {
    if let Some(second) = &flags.difference {
        return difference(flags, second);
    }
    let seconds = u64::try_from(flags.timeout).unwrap_or(TIMEOUT_SECONDS);
    let work = Box::pin(discover(flags));
    tokio::time::timeout(Duration::from_secs(seconds), work).await.unwrap_or_else(|_| {
        Err(Error::source_db(format!("discover took longer than {seconds} s"))
            .hint("give more time with --timeout SECONDS, or fewer schemas in source.json"))
    })
}

async fn discover(flags: &Flags) -> Result<()> {
    let (source, options) = super::read_source(flags).await?;
    let session = connect::session(&options).await?;
    let found = catalog::load(&session.client, &source.scope()).await.map_err(|e| session.cause(e))?;
    for (table, reason) in &found.skipped {
        tracing::warn!("{table} is left out: {reason}");
    }
    for warning in &found.warnings {
        tracing::warn!("{warning}");
    }
    for table in found.tables.iter().filter(|table| table.columns.is_empty()) {
        tracing::warn!("{}.{} has no columns: it is listed, and not chosen", table.namespace, table.name);
    }
    if found.tables.is_empty() {
        return Err(Error::source_db(format!("no tables found in database {:?}", options.database))
            .hint("check schemas, include_tables and exclude_tables in source.json, and that the user may read the tables (GRANT SELECT, GRANT USAGE ON SCHEMA)"));
    }
    let cdc_configured = source.wants_cdc();
    let fresh = discover::to_streams(
        &found,
        &DiscoverOptions {
            database_prefix: flags.destination_database_prefix.clone(),
            cdc_configured,
            incremental: source.incremental_tables.clone(),
            select_views: source.include_views == Some(true),
            ..DiscoverOptions::default()
        },
    )?;
    let (existing, path) = (files::streams(flags), files::streams_output(flags));
    let merged = match existing.exists() {
        true => merge::merge(&super::read_streams(flags, &existing)?, fresh.clone()),
        false => fresh.clone(),
    };
    write(&path, &merged)?;
    tracing::info!("{} streams written to {}", merged.streams.len(), path.display());
    super::message(&json!({"type": "CATALOG", "catalog": fresh}));
    Ok(())
}

/// Compares two catalogs, without a database.
fn difference(flags: &Flags, second: &Path) -> Result<()> {
    let first = files::required(&flags.catalog, "streams", "the catalog to compare with")?;
    let difference = merge::difference(&super::read_streams(flags, first)?, &super::read_streams(flags, second)?);
    let path = files::difference_output(flags, first);
    write(&path, &difference)?;
    tracing::info!("{} streams differ; written to {}", difference.streams.len(), path.display());
    super::message(&json!({"type": "CATALOG", "catalog": difference}));
    Ok(())
}

fn write(path: &Path, streams: &StreamsFile) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(streams).map_err(|e| Error::bug(format!("serialise the catalog: {e}")))?;
    text.push(b'\n');
    write_atomically(path, &text).doing(|| "save the catalog")
}
