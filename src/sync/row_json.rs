//! The column `data` of a stream without `normalization`: a row as one JSON object. Pure.
//!
//! The types in the catalog decide how a value appears, as they do for columns. Of OLake's types, `timestamp` gives text in RFC 3339 and UTC
//! and `string` gives text, also for json and arrays; our own types give what `row_to_json` makes of a value: numbers with all their
//! digits, json and lists as they are.

use crate::capture::json::Appearance;
use crate::config::column_type::ColumnType;
use crate::postgres::catalog::ColumnInfo;
use crate::postgres::quote;
use crate::types::Select;
use crate::types::pg_type::TypeKind;

/// The expression for a row of these columns and their destination types; keys are the names in the source.
pub fn expression<'c>(columns: impl Iterator<Item = (&'c ColumnInfo, &'c ColumnType)>) -> String {
    let columns: Vec<String> = columns.map(|(column, wanted)| item(column, wanted)).collect();
    match columns.is_empty() {
        true => "'{}'::json".to_owned(),
        // With the star it is the row, also where a column is called like it.
        false => format!("(SELECT row_to_json(row_of_stream.*) FROM (SELECT {}) row_of_stream)", columns.join(", ")),
    }
}

/// How a column with this destination type appears in the object.
pub fn appearance(column: &ColumnInfo, wanted: &ColumnType) -> Appearance {
    match wanted {
        ColumnType::Timestamp(_) if matches!(built_in(column), "date" | "timestamp" | "timestamptz") => Appearance::Instant,
        wanted if wanted.is_text() => Appearance::Text,
        _ => Appearance::Value,
    }
}

/// The name of the column's type if PostgreSQL brings it.
fn built_in(column: &ColumnInfo) -> &str {
    if column.ty.namespace == "pg_catalog" { &column.ty.name } else { "" }
}

fn item(column: &ColumnInfo, wanted: &ColumnType) -> String {
    let name = quote::identifier(&column.name);
    let value = match (appearance(column, wanted), built_in(column)) {
        // Not `to_char`, which reads a timestamp and has not all dates.
        (Appearance::Instant, "date") => rfc3339(&name, &format!("{name}::text || 'T00:00:00Z'")),
        (Appearance::Instant, "timestamp") => rfc3339(&name, &to_the_microsecond(&name)),
        (Appearance::Instant, _) => rfc3339(&name, &to_the_microsecond(&format!("({name} AT TIME ZONE 'UTC')"))),
        // These are text in JSON anyway.
        (Appearance::Text, "text" | "varchar" | "bpchar" | "name" | "uuid") | (Appearance::Value, _) => return name,
        (Appearance::Text, _) => {
            let select = if matches!(column.ty.kind, TypeKind::Composite(_)) { Select::OutputOfRow } else { Select::Output };
            select.expression(&name)
        }
    };
    format!("{value} AS {name}")
}

/// What has no form in RFC 3339 stays as the server prints it.
fn rfc3339(name: &str, formatted: &str) -> String {
    format!("CASE WHEN isfinite({name}) AND {name} >= '0001-01-01' THEN {formatted} ELSE {name}::text END")
}

/// As many digits of a second as there are.
fn to_the_microsecond(value: &str) -> String {
    format!("to_char({value}, 'YYYY-MM-DD\"T\"HH24:MI:SS') || rtrim(rtrim(to_char({value}, '.US'), '0'), '.') || 'Z'")
}
