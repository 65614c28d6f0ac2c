//! `preview`: the first rows of the chosen streams as they are in the destination.

use super::{Flags, files, sync};
use crate::error::{Error, Result};
use arrow::array::{ArrayData, RecordBatch, make_array};
use arrow::datatypes::{DataType, Field};
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
    let chosen = sync::restrict(super::read_chosen(flags, &files::streams(flags))?, &only)?;
    let destination = sync::open_destination(&super::read_destination(flags)?, sync::Share::for_check()).await?;
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

/// The same values with the zone `UTC` written as `+00:00`: Arrow prints zones by name only with a zone database.
fn printable(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(|column| Ok(make_array(relabel(column.to_data())?)));
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    RecordBatch::try_from_iter_with_nullable(
        batch.schema().fields().iter().zip(columns).map(|(field, column)| (field.name(), column, true)),
    )
}

fn relabel(data: ArrayData) -> Result<ArrayData, ArrowError> {
    let children = data.child_data().iter().cloned().map(relabel).collect::<Result<Vec<_>, _>>()?;
    let ty = offset_zones(data.data_type());
    data.into_builder().data_type(ty).child_data(children).build()
}

fn offset_zones(ty: &DataType) -> DataType {
    match ty {
        DataType::Timestamp(unit, Some(zone)) if zone.as_ref() == "UTC" => DataType::Timestamp(*unit, Some("+00:00".into())),
        DataType::List(element) => {
            let element = Field::new(element.name(), offset_zones(element.data_type()), element.is_nullable());
            DataType::List(element.into())
        }
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|field| Field::new(field.name(), offset_zones(field.data_type()), field.is_nullable())).collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array as _, ListArray, TimestampMicrosecondArray};
    use arrow::datatypes::TimestampMicrosecondType;
    use std::sync::Arc;

    #[test]
    fn instants_are_printed_in_utc() {
        let instants = TimestampMicrosecondArray::from(vec![Some(0), None]).with_timezone("UTC");
        let lists = ListArray::from_iter_primitive::<TimestampMicrosecondType, _, _>([Some(vec![Some(1)]), None]);
        let field = Arc::new(Field::new("element", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into())), true));
        let lists = ListArray::new(
            field,
            lists.offsets().clone(),
            Arc::new(lists.values().as_any().downcast_ref::<TimestampMicrosecondArray>().expect("timestamps").clone().with_timezone("UTC")),
            lists.nulls().cloned(),
        );
        let batch = RecordBatch::try_from_iter([("t", Arc::new(instants) as _), ("l", Arc::new(lists) as _)]).expect("batch");
        let text = arrow::util::pretty::pretty_format_batches(&[printable(&batch).expect("printable")]).expect("print").to_string();
        assert!(text.contains("1970-01-01T00:00:00Z") && text.contains("[1970-01-01T00:00:00.000001Z]"), "{text}");
    }
}
