//! What a chosen stream becomes: columns, expressions to select, Arrow schema, destination. Pure: values in, values out.

use super::advance::Aim;
use super::capture_plan::{self, CapturePlan};
use super::flatten::Flattened;
use super::increment::CursorField;
use super::olake_columns::{OlakeColumn, instant, olake_column, synthetic};
use super::{flatten, row_json};
use crate::capture::json::Member;
use crate::capture::retype;
use crate::capture::rows::Origin;
use crate::chunks::keys::Key;
use crate::config::column_type::ColumnType;
use crate::config::naming;
use crate::config::selection::{self, Chosen, ChosenColumn, OLAKE_COLUMNS, OLAKE_ID};
use crate::config::source::Incremental;
use crate::config::streams::SyncMode;
use crate::error::{Error, Result};
use crate::postgres::catalog::{ColumnInfo, TableInfo};
use crate::postgres::quote;
use crate::state::captured::{Heaps, KnownColumn};
use crate::types::pg_type::PgType;
use crate::types::special::SpecialValues;
use crate::types::{self, ColumnPlan, Wire};
use arrow::datatypes::{Schema, SchemaRef};
use chrono::{DateTime, Utc};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use writers::{ColumnNote, Commit, SortKey, TableSpec};

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
    select: Vec<String>,
    /// The same for rows that an incremental run adds to those of the first: OLake's columns tell them apart.
    select_added: Vec<String>,
    /// Condition pushed into every query.
    pub filter: Option<String>,
    /// Key by whose values the table is to be cut, if the catalog file names one.
    pub key: Option<Key>,
    /// What tells new rows from old ones, if the stream is incremental.
    pub cursor: Option<CursorField>,
    /// Whether rows that an incremental run adds take the place of those with the same key.
    pub upserts: bool,
    /// How its changes are written, if they are followed.
    pub capture: Option<CapturePlan>,
    /// The table in the destination.
    pub spec: TableSpec,
    /// The table's columns by their numbers.
    pub numbers: BTreeMap<i16, KnownColumn>,
    /// Its partitions that have rows, by OID.
    pub partitions: BTreeSet<u32>,
    /// The files of its heaps.
    pub heaps: Heaps,
    /// Changes when staged chunks of another plan are of no use for this one.
    pub fingerprint: String,
    /// Things the user should know: columns left out.
    pub notes: Vec<String>,
}

impl StreamPlan {
    /// The SELECT list of a load with this aim.
    pub fn select(&self, aim: &Aim) -> Cow<'_, [String]> {
        match (aim.how, &aim.first_load) {
            (Commit::Replace, _) => Cow::Borrowed(&self.select),
            (Commit::Append, None) => Cow::Borrowed(&self.select_added),
            (Commit::Append, Some(first)) => {
                let both = |(first_read, added): (&String, &String)| match first_read == added {
                    true => added.clone(),
                    false => format!("CASE WHEN {first} THEN {first_read} ELSE {added} END"),
                };
                self.select.iter().zip(&self.select_added).map(both).collect()
            }
        }
    }

    /// Whether changes have to come with a column of the table: it is written, by itself or in the row as JSON, or the filter asks for it.
    pub fn needs(&self, column: &str) -> bool {
        self.capture.iter().flat_map(CapturePlan::source_columns).any(|name| name == column)
    }

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
    /// Whether the destination can replace single rows.
    pub replaces_rows: bool,
    /// Whether tables that are followed are copied in ranges, meanwhile (`backfill.mode` `watermark`).
    pub by_ranges: bool,
}

/// Plans a stream. `now` is the time of ingestion, one for the whole run.
pub fn plan(chosen: Chosen, table: &TableInfo, now: DateTime<Utc>, terms: &Terms) -> Result<StreamPlan> {
    let id = id_of(table);
    plan_stream(chosen, table, now, terms).map_err(|e| e.doing(format!("plan {id}")))
}

fn plan_stream(chosen: Chosen, table: &TableInfo, now: DateTime<Utc>, terms: &Terms) -> Result<StreamPlan> {
    let Terms { wire, incremental, replaces_rows, by_ranges } = *terms;
    refuse_what_is_not_built(&chosen)?;
    let mut notes = chosen.notes.clone();
    let mut query = Query { wire, ..Query::default() };
    let Source { columns: sources, olake_columns } = source_columns(&chosen, table, &mut notes)?;
    let normalised = chosen.metadata.normalization == Some(true);
    let captured = capture_plan::is_captured(&chosen);
    if normalised {
        for planned in &sources {
            query.push_source(planned, &planned.name, table)?;
        }
        for flatten in &chosen.flatten {
            for Flattened { plan, expression, key } in flatten::columns(flatten, table, chosen.metadata.use_source_column_names)? {
                query.push(plan, [&expression, &expression]);
                query.from(Some(Origin::Key(key)));
            }
        }
    } else {
        let json = row_json::expression(sources.iter().map(|planned| (planned.column, &planned.wanted)));
        let data = types::plan_column(&synthetic("data", 114, "json"), "data", &ColumnType::Json, SpecialValues::Error)?;
        query.push(data, [&json, &json]);
        if captured {
            let member = |planned: &Planned<'_>| {
                let key = table.primary_key.contains(&planned.column.name);
                Member::new(planned.column, row_json::appearance(planned.column, &planned.wanted), key)
            };
            query.from(Some(Origin::Data(sources.iter().map(member).collect::<Result<_>>()?)));
        }
    }
    let row_key = destination_key(table, normalised, &sources, &olake_columns);
    let applies = captured && replaces_rows && !chosen.metadata.append_mode && !row_key.is_empty();
    let more = if captured && !applies { capture_plan::log_columns(&chosen) } else { Vec::new() };
    for name in olake_columns.iter().map(String::as_str).chain(more) {
        let OlakeColumn { plan, expressions: [first, added] } = olake_column(name, &chosen, table, now)?;
        query.push(plan, [&first, &added]);
        query.from(capture_plan::olake_origin(name, &chosen, table, now));
    }
    if captured && !applies {
        for (column, first, origin) in capture_plan::own_log_columns()? {
            query.push(column, [first, first]);
            query.from(Some(origin));
        }
    }
    let names = query.columns.iter().map(|column| (column.source.as_str(), column.name.as_str()));
    naming::distinct_columns(&chosen.stream.id(), names)?;
    let schema = query.schema();
    let partition_names = partition_columns(&chosen, table, &sources, &schema, &mut query)?;
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
        partition_regex: chosen.metadata.partition_regex.clone(),
        partition_only: query.schema().fields().iter().skip(schema.fields().len()).cloned().collect(),
        partition_names,
        key: row_key,
        // A row of which only the key is left has no other values, and one that says that all are gone has none.
        notes: notes_of(normalised, &sources, &query.columns, captured && (!applies || capture_plan::is_soft(&chosen))),
        source: table.oid.to_string(),
        sort_order: sort_order(&chosen, &sources, &schema)?,
        writer: id_of(table),
        schema,
    };
    let capture = match captured {
        true => {
            capture_plan::check(&chosen, table)?;
            if replaces_rows && !applies && !chosen.metadata.append_mode {
                notes.push("it has no key among its columns, so its changes are written as a log: a row for each".to_owned());
            }
            let row_key = if applies { &spec.key[..] } else { &[] };
            let mut plan = capture_plan::plan(&chosen, table, row_key, &query.columns, query.origins()?)?;
            plan.by_ranges = by_ranges && plan.loads && !table.primary_key.is_empty();
            if by_ranges && plan.loads && !plan.by_ranges {
                notes.push("it has no primary key to cut it by: it is copied in one snapshot, whatever backfill.mode says".to_owned());
            }
            Some(plan)
        }
        false => None,
    };
    let wants_upserts = cursor.is_some() && replaces_rows && !chosen.metadata.append_mode;
    let upserts = wants_upserts && !spec.key.is_empty();
    if wants_upserts && !upserts {
        notes.push("it has no key among its columns, so changed rows are added beside their older versions".to_owned());
    }
    // The time of ingestion is another one in every run, and may be.
    let instant = instant(now);
    let expressions: Vec<_> = query.select.iter().map(String::as_str).filter(|expression| *expression != instant).collect();
    let fingerprint = fingerprint(table, &spec, &expressions, filter.as_deref());
    Ok(StreamPlan {
        id: id_of(table),
        // Rows must not move from a range that is yet to be read into one that has been: of what identifies them that is known.
        key: match &capture {
            Some(CapturePlan { by_ranges: true, .. }) => Some(Key { columns: table.primary_key.clone(), nullable: false }),
            _ => key(&chosen, table)?,
        },
        numbers: retype::known(table),
        heaps: Heaps { files: table.leaves.iter().map(|leaf| (leaf.oid, leaf.filenode)).collect(), horizon: 0 },
        partitions: table.leaves.iter().map(|leaf| leaf.oid).filter(|oid| *oid != table.oid).collect(),
        cursor,
        upserts,
        capture,
        chosen,
        wire,
        columns: query.columns,
        select: query.select,
        select_added: query.select_added,
        filter,
        spec,
        fingerprint,
        notes,
    })
}

fn id_of(table: &TableInfo) -> String {
    format!("{}.{}", table.namespace, table.name)
}

/// The columns of the destination that identify a row: those of the primary key where all of them are written, else OLake's id.
fn destination_key(table: &TableInfo, normalised: bool, sources: &[Planned<'_>], olake_columns: &[String]) -> Vec<String> {
    let written =
        |key: &String| sources.iter().find(|planned| normalised && planned.column.name == *key).map(|planned| planned.name.clone());
    let key: Option<Vec<String>> = table.primary_key.iter().map(written).collect();
    match key {
        Some(key) if !key.is_empty() => key,
        // Without a key of its own, equal rows of a table have equal ids.
        Some(_) | None if !table.primary_key.is_empty() && olake_columns.iter().any(|name| name == OLAKE_ID) => vec![OLAKE_ID.to_owned()],
        _ => Vec::new(),
    }
}

/// What the database says of the columns that are written.
fn notes_of(normalised: bool, sources: &[Planned<'_>], written: &[ColumnPlan], partial: bool) -> BTreeMap<String, ColumnNote> {
    let note = |plan: &ColumnPlan| {
        let note = match sources.iter().find(|planned| normalised && planned.name == plan.name) {
            Some(Planned { column, special, .. }) => ColumnNote {
                doc: column.comment.clone(),
                number: u32::try_from(column.attnum).ok(),
                // A value that the destination's type does not have can become NULL.
                required: column.not_null && *special != SpecialValues::Null && !partial,
            },
            None => ColumnNote { required: plan.name == OLAKE_ID, ..ColumnNote::default() },
        };
        (plan.name.clone(), note)
    };
    written.iter().map(note).collect()
}

/// What is selected, and how it is decoded, under construction.
#[derive(Default)]
struct Query {
    wire: Wire,
    columns: Vec<ColumnPlan>,
    select: Vec<String>,
    select_added: Vec<String>,
    /// Where each column's values are in a change; `None` for what only a query can say.
    origins: Vec<Option<Origin>>,
}

impl Query {
    /// Adds a column with its expressions: of a first read, and of one that adds rows.
    fn push(&mut self, column: ColumnPlan, [first, added]: [&str; 2]) {
        self.select.push(column.select(self.wire).expression(first));
        self.select_added.push(column.select(self.wire).expression(added));
        self.columns.push(column);
        self.origins.push(None);
    }

    /// Says where the values of the last column are in a change.
    fn from(&mut self, origin: Option<Origin>) {
        if let Some(last) = self.origins.last_mut() {
            *last = origin;
        }
    }

    /// Where the values are in a change.
    fn origins(&self) -> Result<Vec<Origin>> {
        let known = |(origin, column): (&Option<Origin>, &ColumnPlan)| {
            origin.clone().ok_or_else(|| Error::config(format!("column {:?} cannot be captured", column.name)))
        };
        self.origins.iter().zip(&self.columns).map(known).collect()
    }

    fn push_source(&mut self, planned: &Planned<'_>, name: &str, table: &TableInfo) -> Result<()> {
        let Planned { column, wanted, special, .. } = planned;
        let mut plan = types::plan_column(column, name, wanted, *special)?;
        plan.key = table.primary_key.contains(&column.name);
        let expression = quote::identifier(&column.name);
        self.push(plan, [&expression, &expression]);
        self.from(Some(Origin::Column(column.name.clone())));
        Ok(())
    }

    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(|column| column.field.clone()).collect::<Vec<_>>()))
    }
}

/// Finds the columns that `partition_regex` names under the names that the user may know them by, and adds those that the destination
/// does not get. What is found nowhere is left to the writer, which says what there is.
fn partition_columns(
    chosen: &Chosen,
    table: &TableInfo,
    sources: &[Planned<'_>],
    written: &Schema,
    query: &mut Query,
) -> Result<BTreeMap<String, String>> {
    let normalised = chosen.metadata.normalization == Some(true);
    let mut names = BTreeMap::new();
    for name in writers::partition_columns(&chosen.metadata.partition_regex)? {
        // Without normalisation a column of the table called `data` is meant, and not the row.
        if written.index_of(&name).is_ok() && (normalised || name != "data") {
            continue;
        }
        let reformatted = naming::reformat(&name);
        let found = |planned: &&Planned<'_>| planned.column.name == name || planned.name == name || planned.name == reformatted;
        if let Some(planned) = sources.iter().find(found).filter(|_| normalised) {
            names.insert(name, planned.name.clone());
            continue;
        }
        let unselected = unselected(chosen, table)?;
        if let Some(planned) = sources.iter().chain(&unselected).find(found) {
            let own = format!("{name} (partition)");
            query.push_source(planned, &own, table)?;
            names.insert(name, own);
        }
    }
    Ok(names)
}

/// The columns of `sort_order` under the names that they are written with.
fn sort_order(chosen: &Chosen, sources: &[Planned<'_>], written: &Schema) -> Result<Vec<SortKey>> {
    let mut keys = writers::sort_keys(&chosen.metadata.sort_order)?;
    let normalised = chosen.metadata.normalization == Some(true);
    for key in keys.iter_mut().filter(|key| written.index_of(&key.column).is_err()) {
        let found = sources.iter().find(|planned| normalised && planned.column.name == key.column);
        let names = || written.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        let found = found.ok_or_else(|| {
            Error::config(format!("sort_order names {:?}, and the columns that are written are {}", key.column, names()))
                .hint("name one of them in \"sort_order\"")
        })?;
        key.column.clone_from(&found.name);
    }
    Ok(keys)
}

fn refuse_what_is_not_built(chosen: &Chosen) -> Result<()> {
    let per_column = [
        ("column_types", chosen.metadata.column_types.is_empty()),
        ("special_values", chosen.metadata.special_values.is_empty()),
        ("flatten", chosen.metadata.flatten.is_empty()),
    ];
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

/// What the catalog chooses of a table.
struct Source<'t> {
    columns: Vec<Planned<'t>>,
    olake_columns: Vec<String>,
}

/// The source columns to read: those of the catalog that are selected, and new ones if the catalog says so. A name of OLake's that the
/// table does not have is OLake's column also where the file does not mark it, as older ones did not.
fn source_columns<'t>(chosen: &Chosen, table: &'t TableInfo, notes: &mut Vec<String>) -> Result<Source<'t>> {
    let mut planned: Vec<Planned<'t>> = Vec::new();
    let mut olake_columns = chosen.olake_columns.clone();
    for column in &chosen.columns {
        match plan_of(column, table)? {
            Some(found) => planned.push(found),
            None if OLAKE_COLUMNS.contains(&column.source.as_str()) => olake_columns.push(column.source.clone()),
            None => {
                return Err(Error::schema(format!("column {:?} of the catalog is not in the table any more", column.source))
                    .hint("run discover again, or remove the column from the stream's type_schema and selected_columns"));
            }
        }
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
    Ok(Source { columns: planned, olake_columns })
}

/// The columns of the table that are not written.
fn unselected<'t>(chosen: &Chosen, table: &'t TableInfo) -> Result<Vec<Planned<'t>>> {
    chosen.unselected.iter().filter_map(|column| plan_of(column, table).transpose()).collect()
}

/// A column of the catalog as it is in the table, if it is there.
fn plan_of<'t>(column: &ChosenColumn, table: &'t TableInfo) -> Result<Option<Planned<'t>>> {
    let Some(found) = table.columns.iter().find(|c| c.name == column.source) else { return Ok(None) };
    let wanted = wanted_type(&column.types, found)?;
    Ok(Some(Planned { column: found, name: column.destination.clone(), wanted, special: column.special }))
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
    let sorted = spec.sort_order.iter().map(|key| format!("|{key:?}"));
    parts.join("|") + &sorted.collect::<String>()
}
