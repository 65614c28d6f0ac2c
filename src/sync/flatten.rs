//! Level-1 flattening: keys of json objects as columns. The expressions are pure; [`find_keys`] asks the server for keys that the
//! catalog file leaves open.

use super::olake_columns::synthetic;
use crate::capture::json_cast::Cast;
use crate::capture::json_key::{Key, Want};
use crate::config::column_type::ColumnType;
use crate::config::flatten::Flatten;
use crate::config::naming;
use crate::config::selection::{self, Chosen};
use crate::error::{Error, Result};
use crate::postgres::catalog::{ColumnInfo, TableInfo};
use crate::postgres::connect::Session;
use crate::postgres::quote;
use crate::types::special::SpecialValues;
use crate::types::{ColumnPlan, plan_column};

/// More keys than this are no schema: the keys are data.
const KEYS_MAX: usize = 1000;

/// A column that a key becomes.
pub struct Flattened {
    /// How it is decoded.
    pub plan: ColumnPlan,
    /// What a copy selects.
    pub expression: String,
    /// The same of a change.
    pub key: Key,
}

/// The columns that the keys of a json column become. Where a value is no object, or has no such key, the column is NULL.
///
/// # Errors
/// A column that is gone, or is not json.
pub fn columns(flatten: &Flatten, table: &TableInfo, use_source_column_names: bool) -> Result<Vec<Flattened>> {
    let column = json_column(flatten, table)?;
    let name = quote::identifier(&column.name);
    let plan = |(key, ty): &(String, ColumnType)| {
        let destination = naming::column(&format!("{}_{key}", flatten.destination), "", use_source_column_names);
        let (oid, cast) = pg_type(ty, &column.ty.name);
        let want = want(ty);
        let literal = quote::literal(key);
        let expression = match want {
            Want::Json => format!("({name} -> {literal})"),
            Want::Text => format!("({name} ->> {literal})"),
            Want::Cast(_) => format!("(({name} ->> {literal})::pg_catalog.{})", quote::identifier(cast)),
        };
        let plan = plan_column(&synthetic(&destination, oid, cast), &destination, ty, SpecialValues::Error)?;
        let key = Key { column: column.name.clone(), key: key.clone(), want, jsonb: column.ty.name == "jsonb" };
        Ok(Flattened { plan, expression, key })
    };
    flatten.keys.iter().flatten().map(plan).collect()
}

/// Fills in the keys that the catalog file leaves open: those that the values have now. Reads the column from end to end.
pub async fn find_keys(session: &Session, chosen: &mut Chosen, table: &TableInfo) -> Result<()> {
    let filter = selection::where_clause(chosen, table)?;
    for flatten in chosen.flatten.iter_mut().filter(|flatten| flatten.keys.is_none()) {
        let sql = keys_query(json_column(flatten, table)?, table, filter.as_deref());
        let doing = |e: Error| e.doing(format!("look for the keys of {:?} of {}.{}", flatten.source, table.namespace, table.name));
        let rows = session.client.query_typed(&sql, &[]).await.map_err(|e| doing(session.error(&e)))?;
        if rows.len() > KEYS_MAX {
            return Err(doing(Error::schema(format!("the objects have more than {KEYS_MAX} different keys")))
                .hint("name the keys that are to become columns: \"flatten\": {\"column\": {\"key\": \"string\"}}"));
        }
        flatten.keys = Some(rows.iter().map(|row| (row.get(0), ColumnType::String)).collect());
    }
    Ok(())
}

fn keys_query(column: &ColumnInfo, table: &TableInfo, filter: Option<&str>) -> String {
    let (name, json) = (quote::identifier(&column.name), &column.ty.name);
    let from = quote::qualified(&table.namespace, &table.name);
    let filter = filter.map(|filter| format!(" AND ({filter})")).unwrap_or_default();
    format!(
        "SELECT DISTINCT {json}_object_keys(object) COLLATE \"C\" AS key FROM (SELECT CASE WHEN {json}_typeof({name}) = 'object' THEN {name} END \
         AS object FROM {from} WHERE {name} IS NOT NULL{filter}) objects ORDER BY 1 LIMIT {}",
        KEYS_MAX + 1
    )
}

fn json_column<'t>(flatten: &Flatten, table: &'t TableInfo) -> Result<&'t ColumnInfo> {
    let column = table.columns.iter().find(|column| column.name == flatten.source).ok_or_else(|| {
        Error::schema(format!("flatten names column {:?}, which the table does not have", flatten.source))
            .hint("run discover again, or remove the column from flatten")
    })?;
    if column.ty.namespace == "pg_catalog" && matches!(column.ty.name.as_str(), "json" | "jsonb") {
        return Ok(column);
    }
    Err(Error::schema(format!("flatten names column {:?} of type {}; only json and jsonb have keys", flatten.source, column.declared))
        .hint("remove the column from flatten"))
}

/// What a value is read by, where it comes with a change: as [`pg_type`] says it of a copy.
fn want(ty: &ColumnType) -> Want {
    Want::Cast(match ty {
        ColumnType::Json => return Want::Json,
        ColumnType::Boolean => Cast::Boolean,
        ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64 | ColumnType::Float32 | ColumnType::Float64 => Cast::Number,
        ColumnType::Decimal { .. } => Cast::Numeric,
        ColumnType::Date => Cast::Date,
        ColumnType::Time => Cast::Time,
        ColumnType::LocalTimestamp => Cast::Timestamp,
        ColumnType::Timestamptz | ColumnType::Timestamp(_) => Cast::Timestamptz,
        ColumnType::Uuid => Cast::Uuid,
        _ => return Want::Text,
    })
}

/// The type by which the server reads a value that is to become `ty`.
fn pg_type<'t>(ty: &ColumnType, json: &'t str) -> (u32, &'t str) {
    match ty {
        ColumnType::Boolean => (16, "bool"),
        ColumnType::Int16 => (21, "int2"),
        ColumnType::Int32 => (23, "int4"),
        ColumnType::Int64 => (20, "int8"),
        ColumnType::Float32 => (700, "float4"),
        ColumnType::Float64 => (701, "float8"),
        ColumnType::Decimal { .. } => (1700, "numeric"),
        ColumnType::Date => (1082, "date"),
        ColumnType::Time => (1083, "time"),
        ColumnType::LocalTimestamp => (1114, "timestamp"),
        ColumnType::Timestamptz | ColumnType::Timestamp(_) => (1184, "timestamptz"),
        ColumnType::Uuid => (2950, "uuid"),
        ColumnType::Json => (if json == "jsonb" { 3802 } else { 114 }, json),
        _ => (25, "text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_columns_with_quoted_names() {
        let table = TableInfo::of_columns(&[("Doc", "jsonb"), ("n", "int4")]);
        let keys = vec![("it's".to_owned(), ColumnType::String), ("n".to_owned(), ColumnType::Int64), ("o".to_owned(), ColumnType::Json)];
        let flatten = Flatten { source: "Doc".into(), destination: "doc".into(), keys: Some(keys) };
        let found = columns(&flatten, &table, false).expect("plan");
        let shown: Vec<_> = found.iter().map(|one| (one.plan.name.as_str(), one.expression.as_str())).collect();
        let expected =
            [("doc_it_s", r#"("Doc" ->> 'it''s')"#), ("doc_n", r#"(("Doc" ->> 'n')::pg_catalog."int8")"#), ("doc_o", r#"("Doc" -> 'o')"#)];
        assert_eq!(shown, expected);
        assert!(columns(&Flatten { source: "n".into(), ..flatten.clone() }, &table, false).is_err());
        assert!(columns(&Flatten { source: "gone".into(), ..flatten }, &table, false).is_err());
    }
}
