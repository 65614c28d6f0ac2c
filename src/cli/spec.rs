//! `spec`: the JSON schema of a config file, as a message of OLake's shape.

use super::Flags;
use crate::config;
use crate::error::{Error, Result};
use serde_json::json;

/// Prints the schema of source.json, or of a destination's file.
pub fn run(flags: &Flags) -> Result<()> {
    let wanted = match flags.destination_type.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "not-set") => "source",
        Some("parquet" | "iceberg") => "destination",
        Some(other) => return Err(Error::config(format!("--destination-type: found {other:?}, accepted are parquet and iceberg"))),
    };
    let schema = config::schemas().into_iter().find(|(name, _)| *name == wanted).map(|(_, schema)| schema);
    let schema = schema.ok_or_else(|| Error::bug(format!("no schema named {wanted}")))?;
    super::message(&json!({"type": "SPEC", "spec": {"jsonschema": schema, "uischema": "{}"}}));
    Ok(())
}
