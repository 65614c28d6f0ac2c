//! `destination.json`: where the tables go.
//!
//! `{"type": …, "writer": {…}}` as OLake has it. The type is accepted in any case; each writer's keys are typed beside the
//! writer itself. A type that is not built yet is parsed, so that its file can be checked, and refused when it is to be used.

use super::shape::Findings;
use crate::error::Result;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use writers::iceberg::IcebergConfig;
use writers::parquet::ParquetConfig;

/// A place for tables.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "writer")]
pub enum Destination {
    /// Parquet files in a directory or in an S3 bucket.
    #[serde(rename = "PARQUET")]
    Parquet(Box<ParquetConfig>),
    /// Apache Iceberg tables.
    #[serde(rename = "ICEBERG")]
    Iceberg(Box<IcebergConfig>),
}

impl Destination {
    /// Checks everything that can be checked without a connection.
    ///
    /// # Errors
    /// [`Kind::Config`](crate::error::Kind::Config) for what the writer's own validation finds.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Parquet(config) => config.validate()?,
            Self::Iceberg(config) => config.validate()?,
        }
        Ok(())
    }

    /// The database of streams that name none.
    pub fn database(&self) -> Option<&str> {
        match self {
            Self::Parquet(_) => None,
            Self::Iceberg(config) => config.namespace(),
        }
    }

    /// Whether streams that say nothing about it become typed columns.
    pub fn normalization(&self) -> Option<bool> {
        match self {
            Self::Parquet(config) => config.normalization,
            Self::Iceberg(config) => config.normalization,
        }
    }

    /// The size that a file of a large table should have.
    pub fn file_bytes_wanted(&self) -> u64 {
        match self {
            Self::Parquet(config) => config.file_bytes_wanted(),
            Self::Iceberg(config) => config.file_bytes_wanted(),
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
