//! `destination.json`: where the tables go.
//!
//! `{"type": …, "writer": {…}}` as OLake has it. The type is accepted in any case; each writer's keys are typed beside the
//! writer itself. A type that is not built yet is parsed, so that its file can be checked, and refused when it is to be used.

use super::iceberg::IcebergConfig;
use super::shape::Findings;
use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use writers::parquet::ParquetConfig;

/// A place for tables.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "writer")]
pub enum Destination {
    /// Parquet files in a directory or in an S3 bucket.
    #[serde(rename = "PARQUET")]
    Parquet(Box<ParquetConfig>),
    /// Apache Iceberg tables. Not built yet in this version: the file can be checked, not used.
    #[serde(rename = "ICEBERG")]
    Iceberg(Box<IcebergConfig>),
}

impl Destination {
    /// The writer's configuration, if the writer exists and can work with it.
    ///
    /// # Errors
    /// [`Kind::Config`](crate::error::Kind::Config) for a destination that is not built yet, and for what the writer's
    /// own validation finds.
    pub fn resolve(&self) -> Result<&ParquetConfig> {
        match self {
            Self::Parquet(config) => {
                config.validate()?;
                Ok(config)
            }
            Self::Iceberg(_) => Err(Error::config("`type`: the ICEBERG destination is not built yet in this version, accepted: PARQUET")
                .hint("write Parquet files: {\"type\": \"PARQUET\", \"writer\": {\"local_path\": \"…\"}}")),
        }
    }
}

/// Types that are planned but unknown to this version, so that the message can say so.
const NOT_BUILT: [&str; 3] = ["POSTGRES", "CLICKHOUSE", "STDOUT"];

/// Brings the document into the form that [`Destination`] reads: `type` first and in upper case.
pub(super) fn normalise(value: Value, findings: &mut Findings) -> Value {
    let Value::Object(mut map) = value else { return value };
    if map.contains_key("dst") && map.contains_key("src") {
        let kind = map["dst"]["type"].as_str().unwrap_or_default();
        let ours = match kind {
            "ch" => "the CLICKHOUSE destination",
            "pg" => "the POSTGRES destination",
            "stdout" => "the STDOUT destination",
            _ => "this destination of a transfer file",
        };
        findings.not_built("dst", ours);
        return Value::Object(map);
    }
    let Some(kind) = map.shift_remove("type") else { return Value::Object(map) };
    let kind = match kind {
        Value::String(text) => Value::String(text.trim().to_uppercase()),
        other => other,
    };
    if kind.as_str().is_some_and(|kind| NOT_BUILT.contains(&kind)) {
        findings.not_built("type", &format!("the {} destination", kind.as_str().unwrap_or_default()));
    }
    let mut ordered = Map::new();
    ordered.insert("type".to_owned(), kind);
    ordered.append(&mut map);
    Value::Object(ordered)
}
