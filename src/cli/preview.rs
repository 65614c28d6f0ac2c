//! `preview`: the first rows of the chosen streams as they are in the destination.

use super::{Flags, sync};
use crate::columns::show::displayable;
use crate::error::{Error, Result};
use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use clap::Args;

/// Flags of `preview`.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// Only this stream: namespace.name
    #[arg(long, value_name = "NAME")]
    pub stream: Option<String>,
    /// Rows per stream
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rows: usize,
}

/// Prints the rows as tables on stdout.
pub async fn run(flags: &Flags, args: &PreviewArgs) -> Result<()> {
    let only: Vec<_> = args.stream.clone().into_iter().collect();
    let destination = super::read_destination(flags).await?;
    let chosen = sync::restrict(super::read_chosen(flags, Some(&destination))?, &only)?;
    let destination = sync::open_destination(&destination, sync::Share::for_check()).await?;
    for stream in &chosen {
        let id = format!("{}.{}", stream.stream.namespace, stream.stream.name);
        let preview = destination.preview(&stream.destination_database, &stream.destination_table, args.rows).await;
        let batches = preview.map_err(|e| Error::from(e).doing(format!("read {id} back")))?;
        if batches.is_empty() {
            tracing::warn!("{id}: nothing in the destination");
            continue;
        }
        let options = FormatOptions::new().with_null("NULL").with_display_error(true);
        // Batches of different files may differ in their schema after an evolution; each is printed as it is.
        for batch in batches.chunk_by(|a, b| a.schema() == b.schema()) {
            let batch: Vec<_> =
                batch.iter().map(printable).collect::<Result<_, _>>().map_err(|e| Error::bug(format!("print rows of {id}: {e}")))?;
            let table = pretty_format_batches_with_options(&batch, &options).map_err(|e| Error::bug(format!("print rows of {id}: {e}")))?;
            super::print(&format_args!("{id}\n{table}"));
        }
    }
    Ok(())
}

fn printable(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(|column| displayable(column));
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    RecordBatch::try_from_iter_with_nullable(
        batch.schema().fields().iter().zip(columns).map(|(field, column)| (field.name(), column, true)),
    )
}
