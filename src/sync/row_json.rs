//! The column `data` of a stream without `normalization`: a row as one JSON object. Pure.
//!
//! The types in the catalog decide how a value appears, as they do for columns. Of OLake's types, `timestamp` gives text in RFC 3339 and UTC
//! and `string` gives text, also for json and arrays; our own types give what `row_to_json` makes of a value: numbers with all their
//! digits, json and lists as they are.

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

fn item(column: &ColumnInfo, wanted: &ColumnType) -> String {
    let name = quote::identifier(&column.name);
    let ty = if column.ty.namespace == "pg_catalog" { column.ty.name.as_str() } else { "" };
    let value = match (wanted, ty) {
        (ColumnType::Timestamp(_), "date") => rfc3339(&name, &format!("to_char({name}, 'YYYY-MM-DD\"T00:00:00Z\"')")),
        (ColumnType::Timestamp(_), "timestamp") => rfc3339(&name, &to_the_microsecond(&name)),
        (ColumnType::Timestamp(_), "timestamptz") => rfc3339(&name, &to_the_microsecond(&format!("({name} AT TIME ZONE 'UTC')"))),
        // These are text in JSON anyway.
        (wanted, "text" | "varchar" | "bpchar" | "name" | "uuid") if wanted.is_text() => return name,
        (wanted, _) if wanted.is_text() => {
            let select = if matches!(column.ty.kind, TypeKind::Composite(_)) { Select::OutputOfRow } else { Select::Output };
            select.expression(&name)
        }
        _ => return name,
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
