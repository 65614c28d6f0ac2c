//! What the changes of a stream become: which columns, from where, and what they do to the rows that are there. Pure.

use super::olake_columns::synthetic;
use crate::capture::json_key::Key;
use crate::capture::judge::Judge;
use crate::capture::rows::{ORDER, Origin, UNCHANGED};
use crate::config::column_type::ColumnType;
use crate::config::selection::{Chosen, OLAKE_ID};
use crate::config::streams::{DeleteMode, SyncMode};
use crate::error::{Error, Result};
use crate::postgres::catalog::{RelationKind, TableInfo};
use crate::postgres::lsn::PgTime;
use crate::types::special::SpecialValues;
use crate::types::{ColumnPlan, plan_column};
use chrono::{DateTime, Utc};
use writers::{GONE, KEPT};

/// How the changes of a stream are written.
#[derive(Clone, Debug)]
pub struct CapturePlan {
    /// Columns of a batch of changes; where they are applied, [`GONE`] (if rows go) and [`KEPT`] are the last.
    pub columns: Vec<ColumnPlan>,
    /// Where each comes from.
    pub origins: Vec<Origin>,
    /// Whether a change takes the place of the row that has its key; if not, it is a row of its own (a change log).
    pub applies: bool,
    /// Whether there is a first load.
    pub loads: bool,
    /// Whether it is read in ranges of the primary key, each in a snapshot of its own, while the stream is followed.
    pub by_ranges: bool,
    /// The columns of the source that tell one row from another: those that the key is made of, where changes are applied, or the primary key.
    pub key: Vec<String>,
    /// Which rows are wanted; `None` means all. [`super::capture_filter`] fills it in.
    pub judge: Option<Judge>,
    /// What that asks for, as the state keeps it; empty for all rows.
    pub filter: String,
    /// Whether the log tells of every row if it was wanted before it changed. If not, one that the destination does not have may be new to the filter, or
    /// yet to be copied.
    pub tells_before: bool,
}

impl CapturePlan {
    /// The columns of the table that changes have to come with.
    pub fn source_columns(&self) -> impl Iterator<Item = &str> {
        let written = self.origins.iter().flat_map(|origin| match origin {
            Origin::Column(name) | Origin::Key(Key { column: name, .. }) => vec![name.as_str()],
            Origin::Data(members) => members.iter().map(|member| member.name.as_str()).collect(),
            _ => Vec::new(),
        });
        written.chain(self.judge.iter().flat_map(Judge::columns))
    }
}

/// Whether a stream follows changes.
pub fn is_captured(chosen: &Chosen) -> bool {
    matches!(chosen.sync_mode, SyncMode::Cdc | SyncMode::StrictCdc)
}

/// Whether deleted rows of a stream stay where rows can be replaced.
pub fn is_soft(chosen: &Chosen) -> bool {
    let marked = chosen.olake_columns.iter().any(|name| name == "_op_type");
    chosen.metadata.delete_mode.map_or(marked, |mode| mode == DeleteMode::Soft)
}

/// Refuses what changes cannot be captured of.
pub fn check(chosen: &Chosen, table: &TableInfo) -> Result<()> {
    let refuse = |what: &str, mend: &str| Err(Error::config(format!("sync_mode {:?}: {what}", chosen.stream.sync_mode)).hint(mend));
    if !matches!(table.kind, RelationKind::Table | RelationKind::Partitioned) {
        return refuse("only tables can be followed, and this is none", "set \"sync_mode\": \"full_refresh\" for this stream");
    }
    if chosen.metadata.delete_mode == Some(DeleteMode::Soft) && !chosen.olake_columns.iter().any(|name| name == "_op_type") {
        return refuse(
            "delete_mode is soft, and there is no column _op_type to mark rows with",
            "add _op_type to the columns, or set delete_mode to hard",
        );
    }
    Ok(())
}

/// The columns that a change log has beside the table's, as names with the expressions of a first load; those that the catalog chooses are left out.
pub fn log_columns(chosen: &Chosen) -> Vec<&'static str> {
    ["_op_type", "_cdc_timestamp", "_cdc_lsn"]
        .into_iter()
        .filter(|name| !chosen.olake_columns.iter().any(|chosen| chosen == name))
        .collect()
}

/// The columns of a change log that OLake does not have: how each is decoded, and what a first load selects.
pub fn own_log_columns() -> Result<[(ColumnPlan, &'static str, Origin); 2]> {
    let text = |name: &str| plan_column(&synthetic(name, 25, "text"), name, &ColumnType::String, SpecialValues::Error);
    Ok([(text(ORDER)?, "'0000000000000000-00000000'::text", Origin::Order), (text(UNCHANGED)?, "NULL::text", Origin::Unchanged)])
}

/// Where a column that OLake adds comes from.
pub fn olake_origin(name: &str, chosen: &Chosen, table: &TableInfo, now: DateTime<Utc>) -> Option<Origin> {
    Some(match name {
        OLAKE_ID => {
            let chosen = &chosen.stream.source_defined_primary_key;
            let all = || table.columns.iter().map(|column| column.name.clone()).collect();
            let mut names: Vec<String> = if chosen.is_empty() { all() } else { chosen.clone() };
            names.sort();
            Origin::OlakeId(names)
        }
        "_olake_timestamp" => Origin::Ingested(PgTime::from_unix_micros(now.timestamp_micros()).0),
        "_op_type" => Origin::Op,
        "_cdc_timestamp" => Origin::Time,
        "_cdc_lsn" => Origin::Position,
        _ => return None,
    })
}

/// Puts it together. `columns` and `origins` are those of a batch of the first load, `row_key` names those of them that identify a row: none if
/// changes are not applied.
pub fn plan(chosen: &Chosen, table: &TableInfo, row_key: &[String], columns: &[ColumnPlan], origins: Vec<Origin>) -> Result<CapturePlan> {
    let applies = !row_key.is_empty();
    let made_of = |(column, origin): (&ColumnPlan, &Origin)| match origin {
        _ if !row_key.contains(&column.name) => Vec::new(),
        Origin::Column(name) => vec![name.clone()],
        Origin::OlakeId(names) => names.clone(),
        _ => Vec::new(),
    };
    let key = match applies {
        true => columns.iter().zip(&origins).flat_map(made_of).collect(),
        false => table.primary_key.clone(),
    };
    let (mut columns, mut origins) = (columns.to_vec(), origins);
    // A row that stays, marked, is a row like any other.
    if applies && !is_soft(chosen) {
        columns.push(plan_column(&synthetic(GONE, 16, "bool"), GONE, &ColumnType::Boolean, SpecialValues::Error)?);
        origins.push(Origin::Gone);
    }
    if applies {
        columns.push(plan_column(&synthetic(KEPT, 25, "text"), KEPT, &ColumnType::String, SpecialValues::Error)?);
        origins.push(Origin::Kept);
    }
    Ok(CapturePlan {
        columns,
        origins,
        applies,
        loads: chosen.sync_mode == SyncMode::Cdc,
        by_ranges: false,
        key,
        judge: None,
        filter: String::new(),
        tells_before: true,
    })
}
