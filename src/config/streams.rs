//! `streams.json`: which tables exist, which are chosen, and what they should become.
//!
//! The shape is OLake's; keys that are ours are marked so. Maps keep a stable order, so that the same database always
//! gives the same bytes.

use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// The file as a whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct StreamsFile {
    /// Chosen streams by namespace. Absent means all streams are chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected_streams: Option<BTreeMap<String, Vec<StreamMetadata>>>,
    /// All streams known.
    #[serde(default)]
    pub streams: Vec<StreamEntry>,
}

/// One element of `streams`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StreamEntry {
    /// The stream itself.
    pub stream: Stream,
}

/// How a chosen stream is to be written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StreamMetadata {
    /// Column by whose values the backfill is cut into chunks, of any type that can be sorted; ours: several, separated by commas, each NOT NULL. Absent: tables are cut by their pages, which needs no column.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chunk_column: String,
    /// How rows are divided into folders or partitions, empty means not: OLake's `/year={created_at,,YYYY}/{country,'none',}` (column, default, granularity) or its `/{created_at, day}/{id, bucket[16]}` (column, Iceberg's transform). A column is named as in the source or as in the destination, and need not be selected.
    #[serde(default)]
    pub partition_regex: String,
    /// Ours: the order of the rows in files, `created_at desc, id nulls last`; columns as in the source or as in the destination. Readers then skip more of what they do not look for; a part is sorted on the disk (`TMPDIR`) as it is written. In Iceberg it becomes the table's sort order.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sort_order: String,
    /// Name of the stream.
    pub stream_name: String,
    /// Never write deletes (Iceberg).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub append_mode: bool,
    /// Ours, for streams with change data capture into a destination that replaces rows: `hard` removes deleted rows, `soft` keeps them with `_op_type` `d`. Absent: `soft` if `_op_type` is among the chosen columns, as in OLake, else `hard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_mode: Option<DeleteMode>,
    /// Columns (true) or one JSON column `data` (false). Absent: what the destination's `normalization` says, else false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalization: Option<bool>,
    /// Keep column names as they are (true) or reformat them to `[a-z0-9_]` (false).
    #[serde(default)]
    pub use_source_column_names: bool,
    /// Legacy filter: `column op value [and|or column op value]`. As in OLake it gives way to a `filter_config` with conditions if `normalization` is set, and else goes before it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// Structured filter: `{"logical_operator": "and", "conditions": [{"column": "id", "operator": ">", "value": 7}]}`, one condition or two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<super::filter::FilterConfig>")]
    pub filter_config: Option<Value>,
    /// Chosen columns; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected_columns: Option<SelectedColumns>,
    /// Ours: destination types of single columns, over what `type_schema` says: `{"amount": "decimal(20,4)"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub column_types: BTreeMap<String, String>,
    /// Ours: what becomes of values that a destination type has no place for (NaN and infinities in a decimal, infinite dates and timestamps, 24:00), by column, `*` for all others: `error`, `null`, `clamp` or `string`. Absent: `error`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub special_values: BTreeMap<String, String>,
    /// Ours: json columns whose first level becomes columns, beside the column itself: `{"payload": {"id": "integer", "kind": "string"}}` makes `payload_id` and `payload_kind`; `{"payload": "*"}` takes every key that is there when the run begins, as text, for which the column is read from end to end first. What is nested deeper becomes JSON text.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub flatten: Map<String, Value>,
}

impl StreamMetadata {
    /// The columns of `chunk_column`; a name with a comma is taken as a whole if it is `known`.
    pub fn chunk_columns(&self, known: impl Fn(&str) -> bool) -> Vec<String> {
        let text = self.chunk_column.as_str();
        match text {
            "" => Vec::new(),
            _ if known(text) => vec![text.to_owned()],
            _ => text.split(',').map(|name| name.trim().to_owned()).collect(),
        }
    }
}

/// What becomes of rows that are deleted in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeleteMode {
    /// They go.
    Hard,
    /// They stay, marked.
    Soft,
}

/// Chosen columns of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SelectedColumns {
    /// Names in the source.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Take columns that appear later as well.
    #[serde(default)]
    pub sync_new_columns: bool,
}

/// A table of the source and what it should become.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Stream {
    /// Table name.
    pub name: String,
    /// Schema name.
    #[serde(default)]
    pub namespace: String,
    /// Columns and their destination types.
    #[serde(default)]
    pub type_schema: TypeSchema,
    /// Modes that make sense for this table.
    #[serde(default)]
    pub supported_sync_modes: Vec<String>,
    /// Primary key columns.
    #[serde(default)]
    pub source_defined_primary_key: Vec<String>,
    /// Columns that can serve as a cursor.
    #[serde(default)]
    pub available_cursor_fields: Vec<String>,
    /// Unused by OLake; kept.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub additional_properties: String,
    /// `primary` or `primary:secondary`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cursor_field: String,
    /// `full_refresh`, `incremental`, `cdc`, `strict_cdc`; empty means `full_refresh`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sync_mode: String,
    /// Destination database.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub destination_database: String,
    /// Destination table.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub destination_table: String,
    /// Defaults for a stream that is chosen later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_stream_properties: Option<DefaultStreamProperties>,
    /// Ours, informational: `table`, `partitioned`, `view`, `materialized_view`, `foreign`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Ours, informational: the table's comment.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Ours, informational: the planner's row estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_rows: Option<u64>,
    /// Ours, informational: heap and TOAST bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_bytes: Option<u64>,
}

impl Stream {
    /// `namespace.name`, as state and messages name the stream.
    pub fn id(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }
}

/// How a stream is kept up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// Reads the table anew each time; the result takes the place of what was there.
    FullRefresh,
    /// Reads what lies above the cursor of the last run.
    Incremental,
    /// Backfill once, then changes.
    Cdc,
    /// Changes only.
    StrictCdc,
}

impl SyncMode {
    /// All modes, in the order in which the catalog lists them.
    pub const ALL: [Self; 4] = [Self::FullRefresh, Self::Incremental, Self::Cdc, Self::StrictCdc];

    /// The mode's name in the catalog.
    pub fn name(self) -> &'static str {
        match self {
            Self::FullRefresh => "full_refresh",
            Self::Incremental => "incremental",
            Self::Cdc => "cdc",
            Self::StrictCdc => "strict_cdc",
        }
    }

    /// Reads `sync_mode`; empty means `full_refresh`.
    pub fn parse(name: &str) -> Result<Self> {
        if name.is_empty() {
            return Ok(Self::FullRefresh);
        }
        Self::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| {
            let accepted = Self::ALL.map(|mode| format!("\"{mode}\"")).join(", ");
            Error::config(format!("unknown sync_mode {name:?}, accepted are {accepted}"))
        })
    }
}

impl fmt::Display for SyncMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Defaults for a stream that is chosen later.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct DefaultStreamProperties {
    /// See [`StreamMetadata::normalization`].
    #[serde(default)]
    pub normalization: bool,
    /// See [`StreamMetadata::append_mode`].
    #[serde(default)]
    pub append_mode: bool,
}

/// Columns by name, in the table's order.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct TypeSchema {
    /// Columns by name, in their order.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Property>")]
    pub properties: Map<String, Value>,
}

/// One column in the catalog.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Property {
    /// Destination type names, `"null"` first for nullable columns.
    #[serde(rename = "type", default)]
    pub types: Vec<String>,
    /// Name in the destination.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub destination_column_name: String,
    /// A column that OLake adds (`_olake_id` …).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub olake_column: bool,
    /// Ours, informational: the type in the source, as PostgreSQL prints it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_type: String,
    /// Ours, informational: the column's comment.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}
