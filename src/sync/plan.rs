//! What a chosen stream becomes: columns, expressions to select, Arrow schema, destination. Pure: values in, values out.

use super::increment::CursorField;
use crate::chunks::keys::Key;
use crate::config::column_type::ColumnType;
use crate::config::naming;
use crate::config::selection::{self, Chosen};
use crate::config::source::Incremental;
use crate::config::streams::SyncMode;
use crate::error::{Error, Result};
use crate::postgres::catalog::{ColumnInfo, TableInfo};
use crate::postgres::quote;
use crate::types::pg_type::PgType;
use crate::types::special::SpecialValues;
use crate::types::{self, ColumnPlan, Wire};
use arrow::datatypes::{Schema, SchemaRef};
use chrono::{DateTime, SecondsFormat, Utc};
use std::collections::HashSet;
use std::sync::Arc;
use writers::TableSpec;

/// One stream of a run, ready to be read and written.
#[derive(Clone, Debug)]
pub struct StreamPlan {
    /// `namespace.name`, as in the catalog and the state file.
    pub id: String,
    /// What the user chose.
    pub chosen: Chosen,
    /// The form in which values come.
    pub wire: Wire,
    /// How each selected expression is decoded, in order.
    pub columns: Vec<ColumnPlan>,
    /// The expressions of the SELECT list, in the same order.
    pub select: Vec<String>,
    /// The same for rows that an incremental run adds to those of the first: OLake's columns tell them apart.
    pub select_added: Vec<String>,
    /// Condition pushed into every query.
    pub filter: Option<String>,
    /// Key by whose values the table is to be cut, if the catalog file names one.
    pub key: Option<Key>,
    /// What tells new rows from old ones, if the stream is incremental.
    pub cursor: Option<CursorField>,
    /// Columns in the destination.
    pub schema: SchemaRef,
    /// The table in the destination.
    pub spec: TableSpec,
    /// Changes when staged chunks of another plan are of no use for this one.
    pub fingerprint: String,
    /// Things the user should know: columns left out.
    pub notes: Vec<String>,
}

impl StreamPlan {
    /// A query of the stream's form that reads no row.
    pub fn probe(&self, table: &TableInfo) -> String {
        let filter = self.filter.as_deref().unwrap_or("true");
        let cursor = self.cursor.iter().flat_map(|field| &field.columns).map(|column| &column.name);
        let order: Vec<_> = self.key.iter().flat_map(|key| &key.columns).chain(cursor).map(|name| quote::identifier(name)).collect();
        let order = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) };
        let from = quote::qualified(&table.namespace, &table.name);
        format!("SELECT {} FROM {from} WHERE {filter}{order} LIMIT 0", self.select.join(", "))
    }
}

/// What the source file says about reading every stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// The form in which values are to come.
    pub wire: Wire,
    /// How incremental streams are read.
    pub incremental: Incremental,
}

/// Plans a stream. `now` is the time of ingestion, one for the whole run.
pub fn plan(chosen: Chosen, table: &TableInfo, now: DateTime<Utc>, terms: &Terms) -> Result<StreamPlan> {
    let id = format!("{}.{}", table.namespace, table.name);
    plan_stream(chosen, table, now, terms).map_err(|e| e.doing(format!("plan {id}")))
}

fn plan_stream(chosen: Chosen, table: &TableInfo, now: DateTime<Utc>, terms: &Terms) -> Result<StreamPlan> {
    let Terms { wire, incremental } = *terms;
    refuse_what_is_not_built(&chosen)?;
    let mut notes = Vec::new();
    let mut columns = Vec::new();
    let mut select = Vec::new();
    let mut select_added = Vec::new();
    let mut push =
        |column: &ColumnInfo, name: &str, wanted: &ColumnType, special: SpecialValues, [first, added]: [&str; 2]| -> Result<()> {
            let mut plan = types::plan_column(column, name, wanted, special)?;
            plan.key = table.primary_key.contains(&column.name);
            select.push(plan.select(wire).expression(first));
            select_added.push(plan.select(wire).expression(added));
            columns.push(plan);
            Ok(())
        };
    let chosen_columns = source_columns(&chosen, table, &mut notes)?;
    if chosen.metadata.normalization == Some(true) {
        for Planned { column, name, wanted, special } in &chosen_columns {
            let expression = quote::identifier(&column.name);
            push(column, name, wanted, *special, [&expression, &expression])?;
        }
    } else {
        let row: Vec<_> = chosen_columns.iter().map(|planned| quote::identifier(&planned.column.name)).collect();
        let json = match row.is_empty() {
            true => "'{}'::json".to_owned(),
            false => format!("row_to_json((SELECT row_of_stream FROM (SELECT {}) row_of_stream))", row.join(", ")),
        };
        push(&synthetic("data", 114, "json"), "data", &ColumnType::Json, SpecialValues::Error, [&json, &json])?;
    }
    for name in &chosen.olake_columns {
        let (column, wanted, expression) = olake_column(name, table, now)?;
        let added = match name.as_str() {
            "_op_type" => "'u'::text",
            "_cdc_timestamp" => "NULL::timestamptz",
            _ => &expression,
        };
        push(&column, name, &wanted, SpecialValues::Error, [&expression, added])?;
    }
    let schema = Arc::new(Schema::new(columns.iter().map(|c| c.field.clone()).collect::<Vec<_>>()));
    let filter = selection::where_clause(&chosen, table)?;
    let cursor = cursor(&chosen, table, incremental)?;
    if let Some(field) = cursor.as_ref().filter(|field| !field.versions) {
        notes.push(format!(
            "its rows do not tell which transaction wrote them, so rows that are committed late, with a {} up to the greatest one read, are \
             missed; incremental.lag_seconds in the source file reads rows again that far back",
            field.text
        ));
    }
    let spec = TableSpec {
        database: chosen.destination_database.clone(),
        name: chosen.destination_table.clone(),
        schema: schema.clone(),
        partition_regex: chosen.metadata.partition_regex.clone(),
    };
    // The time of ingestion is another one in every run, and may be.
    let instant = instant(now);
    let expressions: Vec<_> = select.iter().map(String::as_str).filter(|expression| *expression != instant).collect();
    let fingerprint = fingerprint(table, &spec, &expressions, filter.as_deref());
    Ok(StreamPlan {
        id: format!("{}.{}", table.namespace, table.name),
        key: key(&chosen, table)?,
        cursor,
        chosen,
        wire,
        columns,
        select,
        select_added,
        filter,
        schema,
        spec,
        fingerprint,
        notes,
    })
}

fn refuse_what_is_not_built(chosen: &Chosen) -> Result<()> {
    if matches!(chosen.sync_mode, SyncMode::Cdc | SyncMode::StrictCdc) {
        return Err(Error::config(format!("sync_mode {:?} is not built in this version", chosen.stream.sync_mode)).hint(
            "set \"sync_mode\": \"full_refresh\" or \"incremental\" for this stream in streams.json, or take it out of selected_streams",
        ));
    }
    let per_column =
        [("column_types", chosen.metadata.column_types.is_empty()), ("special_values", chosen.metadata.special_values.is_empty())];
    if chosen.metadata.normalization != Some(true)
        && let Some((key, _)) = per_column.iter().find(|(_, empty)| !empty)
    {
        return Err(Error::config(format!(
            "{key} is set, but without \"normalization\" the row becomes one JSON column without types of its own"
        ))
        .hint(format!("set \"normalization\": true for this stream, or remove {key}")));
    }
    Ok(())
}

/// The cursor of an incremental stream.
fn cursor(chosen: &Chosen, table: &TableInfo, incremental: Incremental) -> Result<Option<CursorField>> {
    let Incremental { null_cursor, lag_seconds } = incremental;
    let resolve = || CursorField::resolve(&chosen.stream.cursor_field, table, null_cursor, lag_seconds);
    (chosen.sync_mode == SyncMode::Incremental).then(resolve).transpose()
}

/// The key that `chunk_column` names: a column, or several separated by commas.
fn key(chosen: &Chosen, table: &TableInfo) -> Result<Option<Key>> {
    let columns = chosen.metadata.chunk_columns(|name| table.columns.iter().any(|column| column.name == name));
    let nullable = |name: &String| table.columns.iter().find(|column| column.name == *name).is_none_or(|column| !column.not_null);
    match &columns[..] {
        [] => Ok(None),
        [one] => Ok(Some(Key { nullable: nullable(one), columns })),
        several => match several.iter().find(|name| nullable(name)) {
            None => Ok(Some(Key { columns, nullable: false })),
            Some(name) => Err(Error::config(format!("chunk_column {:?}: column {name:?} can be NULL", chosen.metadata.chunk_column))
                .hint("of several columns each must be NOT NULL; name one column, or none: tables are split by their pages then")),
        },
    }
}

/// A source column, and what it becomes.
struct Planned<'t> {
    column: &'t ColumnInfo,
    name: String,
    wanted: ColumnType,
    special: SpecialValues,
}

/// The source columns to read: those of the catalog that are selected, and new ones if the catalog says so.
fn source_columns<'t>(chosen: &Chosen, table: &'t TableInfo, notes: &mut Vec<String>) -> Result<Vec<Planned<'t>>> {
    let mut planned: Vec<Planned<'t>> = Vec::new();
    for column in &chosen.columns {
        let Some(found) = table.columns.iter().find(|c| c.name == column.source) else {
            return Err(Error::schema(format!("column {:?} of the catalog is not in the table any more", column.source))
                .hint("run discover again, or remove the column from the stream's type_schema and selected_columns"));
        };
        let wanted = wanted_type(&column.types, found)?;
        planned.push(Planned { column: found, name: column.destination.clone(), wanted, special: column.special });
    }
    let known: HashSet<&str> = chosen.stream.type_schema.properties.keys().map(String::as_str).collect();
    for column in table.columns.iter().filter(|c| !known.contains(c.name.as_str())) {
        if chosen.takes_new_columns {
            let name = naming::column(&column.name, "", chosen.metadata.use_source_column_names);
            if planned.iter().any(|planned| planned.name == name) {
                return Err(Error::schema(format!(
                    "new column {:?} would be called {name:?} in the destination, and so is another one",
                    column.name
                ))
                .hint("run discover again and give one of them another destination_column_name"));
            }
            notes.push(format!("column {:?} is new since discover and is taken as {}", column.name, types::exact_type(&column.ty)));
            planned.push(Planned { column, name, wanted: types::exact_type(&column.ty), special: chosen.special_default });
        } else {
            notes.push(format!("column {:?} is new since discover and is left out (sync_new_columns is false)", column.name));
        }
    }
    Ok(planned)
}

/// The destination type that the catalog asks for; several names resolve to their common ancestor, as OLake does.
fn wanted_type(names: &[String], column: &ColumnInfo) -> Result<ColumnType> {
    let mut wanted: Option<ColumnType> = None;
    for name in names.iter().filter(|n| n.as_str() != "null") {
        let next: ColumnType = name.parse().map_err(|e: Error| e.doing(format!("read the type of column {:?}", column.name)))?;
        wanted = Some(match wanted {
            None => next,
            Some(first) if first == next => first,
            Some(first) => common(&first, &next),
        });
    }
    Ok(wanted.unwrap_or_else(|| types::exact_type(&column.ty)))
}

/// OLake's type tree: boolean < int32 < int64 < float64, float32 < float64, everything else meets at string.
fn common(a: &ColumnType, b: &ColumnType) -> ColumnType {
    let rank = |t: &ColumnType| match t {
        ColumnType::Boolean => Some(0),
        ColumnType::Int16 => Some(1),
        ColumnType::Int32 => Some(2),
        ColumnType::Int64 => Some(3),
        ColumnType::Float32 => Some(4),
        ColumnType::Float64 => Some(5),
        _ => None,
    };
    match (rank(a), rank(b)) {
        (Some(4), Some(other)) | (Some(other), Some(4)) if other != 4 => ColumnType::Float64,
        (Some(x), Some(y)) => {
            if x >= y {
                a.clone()
            } else {
                b.clone()
            }
        }
        _ => ColumnType::String,
    }
}

/// The columns that OLake adds to every table, as constants or expressions of the backfill.
fn olake_column(name: &str, table: &TableInfo, now: DateTime<Utc>) -> Result<(ColumnInfo, ColumnType, String)> {
    let timestamp = || (synthetic(name, 1184, "timestamptz"), ColumnType::Timestamptz);
    let text = || (synthetic(name, 25, "text"), ColumnType::String);
    let ((column, wanted), expression): ((ColumnInfo, ColumnType), String) = match name {
        "_olake_timestamp" => (timestamp(), instant(now)),
        "_cdc_timestamp" => (timestamp(), "'1970-01-01T00:00:00Z'::timestamptz".to_owned()),
        "_cdc_lsn" => (text(), "NULL::text".to_owned()),
        "_op_type" => (text(), "'r'::text".to_owned()),
        "_olake_id" => (text(), olake_id(table)?),
        other => {
            return Err(Error::config(format!("olake_column {other:?} is not known"))
                .hint("known are _olake_id, _olake_timestamp, _op_type, _cdc_timestamp and _cdc_lsn"));
        }
    };
    Ok((column, wanted, expression))
}

fn instant(now: DateTime<Utc>) -> String {
    format!("'{}'::timestamptz", now.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// OLake's key: the value of a single key column as text; of several, in alphabetical order, the MD5 of the values joined by `|`.
fn olake_id(table: &TableInfo) -> Result<String> {
    let mut key: Vec<&ColumnInfo> = table.columns.iter().filter(|c| table.primary_key.contains(&c.name)).collect();
    key.sort_by(|a, b| a.name.cmp(&b.name));
    for column in &key {
        let same_text = matches!(column.ty.name.as_str(), "int2" | "int4" | "int8" | "text" | "varchar" | "uuid" | "bool");
        if !same_text {
            return Err(Error::config(format!("_olake_id over a key column of type {} is not built in this version", column.declared))
                .hint("remove _olake_id from the stream's type_schema"));
        }
    }
    let values: Vec<_> = key.iter().map(|c| format!("{}::text", quote::identifier(&c.name))).collect();
    match values.as_slice() {
        [] => Err(Error::config("_olake_id of a table without a primary key is not built in this version")
            .hint("remove _olake_id from the stream's type_schema")),
        [one] => Ok(one.clone()),
        several => Ok(format!("md5(concat_ws('|', {}))", several.join(", "))),
    }
}

fn synthetic(name: &str, oid: u32, type_name: &str) -> ColumnInfo {
    ColumnInfo {
        name: name.to_owned(),
        attnum: 0,
        declared: type_name.to_owned(),
        ty: PgType::built_in(oid, type_name),
        not_null: false,
        generated: false,
        identity: false,
        comment: None,
    }
}

/// Everything that decides the bytes of a staged chunk, as one string. Not a hash: it is compared, and it can be read.
fn fingerprint(table: &TableInfo, spec: &TableSpec, expressions: &[&str], filter: Option<&str>) -> String {
    let fields: Vec<_> = spec.schema.fields().iter().map(|f| format!("{} {}", quote::identifier(f.name()), f.data_type())).collect();
    // A composite type can change without its name; what it is made of decides the bytes.
    let made_of = |ty: &PgType| ty.walk().iter().skip(1).map(|part| format!(" {}:{}", part.oid, part.typmod)).collect::<String>();
    let source: Vec<_> = table.columns.iter().map(|c| format!("{}:{}{}", c.attnum, c.declared, made_of(&c.ty))).collect();
    let parts = [
        "v1".to_owned(),
        table.oid.to_string(),
        format!("{}.{}", spec.database, spec.name),
        fields.join(","),
        source.join(","),
        expressions.join(","),
        spec.partition_regex.clone(),
        filter.unwrap_or_default().to_owned(),
    ];
    parts.join("|")
}
