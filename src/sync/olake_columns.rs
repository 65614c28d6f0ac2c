//! The columns that OLake adds to a table, as expressions of a query. Pure.

use crate::config::selection::Chosen;
use crate::config::streams::SyncMode;
use crate::error::{Error, Result};
use crate::postgres::catalog::{ColumnInfo, TableInfo};
use crate::types::pg_type::PgType;
use crate::types::special::SpecialValues;
use crate::types::{ColumnPlan, plan_column, plan_olake_id};
use chrono::{DateTime, SecondsFormat, Utc};

/// One of OLake's columns.
pub struct OlakeColumn {
    /// How it is decoded.
    pub plan: ColumnPlan,
    /// What a first read selects for it, and what one selects that adds rows to those of the first.
    pub expressions: [String; 2],
}

/// The column `name` of `chosen`. `now` is the time of ingestion, one for the whole run.
///
/// `_op_type` is `r` for rows of a first read and `u` for rows that an incremental run adds. `_cdc_timestamp` is the start of 1970 in rows that
/// a stream with change capture was begun with, and NULL in streams without; both are OLake's.
///
/// # Errors
/// A key column of the catalog that the table does not have.
pub fn olake_column(name: &str, chosen: &Chosen, table: &TableInfo, now: DateTime<Utc>) -> Result<OlakeColumn> {
    let (ty, expressions) = match name {
        "_olake_id" => {
            let (plan, expression) = plan_olake_id(name, &key(chosen, table)?);
            return Ok(OlakeColumn { plan, expressions: [expression.clone(), expression] });
        }
        "_olake_timestamp" => ((1184, "timestamptz"), [instant(now), instant(now)]),
        "_op_type" => ((25, "text"), ["'r'::text", "'u'::text"].map(str::to_owned)),
        "_cdc_timestamp" => {
            let first = if chosen.sync_mode == SyncMode::Cdc { "'1970-01-01T00:00:00Z'::timestamptz" } else { "NULL::timestamptz" };
            ((1184, "timestamptz"), [first, "NULL::timestamptz"].map(str::to_owned))
        }
        "_cdc_lsn" => ((25, "text"), ["NULL::text", "NULL::text"].map(str::to_owned)),
        other => {
            return Err(Error::config(format!("olake_column {other:?} is not known"))
                .hint("known are _olake_id, _olake_timestamp, _op_type, _cdc_timestamp and _cdc_lsn"));
        }
    };
    let column = synthetic(name, ty.0, ty.1);
    let wanted = crate::types::exact_type(&column.ty);
    Ok(OlakeColumn { plan: plan_column(&column, name, &wanted, SpecialValues::Error)?, expressions })
}

/// The time of ingestion.
pub fn instant(now: DateTime<Utc>) -> String {
    format!("'{}'::timestamptz", now.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// A column that no table has.
pub fn synthetic(name: &str, oid: u32, type_name: &str) -> ColumnInfo {
    ColumnInfo::of_type(name, PgType::built_in(oid, type_name))
}

/// The columns that tell the rows apart: the catalog's key, or without one all columns.
fn key<'t>(chosen: &Chosen, table: &'t TableInfo) -> Result<Vec<&'t ColumnInfo>> {
    let names = &chosen.stream.source_defined_primary_key;
    if names.is_empty() {
        return Ok(table.columns.iter().collect());
    }
    let find = |name: &String| {
        table.columns.iter().find(|column| column.name == *name).ok_or_else(|| {
            Error::schema(format!("source_defined_primary_key names column {name:?}, which the table does not have"))
                .hint("run discover again, or correct the key; _olake_id is made of it")
        })
    };
    names.iter().map(find).collect()
}
