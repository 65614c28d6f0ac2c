//! From the catalog file to the streams that a sync works on: what is chosen, and where each column goes.
//!
//! Pure. Everything the file alone can get wrong is an error here, before anything is read or written: nothing is skipped with a
//! warning, as OLake does, because a table that is silently missing is found out too late. It does not know the database: that a
//! table or column still exists is checked against [`crate::postgres::catalog::load_tables`].

use super::column_type::ColumnType;
use super::filter::Filter;
use super::flatten::{self, Flatten};
use super::naming;
use super::streams::{Property, SelectedColumns, Stream, StreamMetadata, StreamsFile, SyncMode};
use crate::error::{Context, Error, Result};
use crate::postgres::catalog::TableInfo;
use crate::postgres::scope::closest;
use crate::types::special::SpecialValues;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The column in which OLake keeps what identifies a row.
pub const OLAKE_ID: &str = "_olake_id";

/// The columns that OLake adds to a table.
pub const OLAKE_COLUMNS: [&str; 5] = [OLAKE_ID, "_olake_timestamp", "_op_type", "_cdc_timestamp", "_cdc_lsn"];

/// A stream of this sync.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The stream as the catalog has it.
    pub stream: Stream,
    /// How it is to be written.
    pub metadata: StreamMetadata,
    /// Chosen source columns, in the catalog's order.
    pub columns: Vec<ChosenColumn>,
    /// The others, which may still say to which partition a row belongs.
    pub unselected: Vec<ChosenColumn>,
    /// Columns whose first level of json keys becomes columns.
    pub flatten: Vec<Flatten>,
    /// Chosen columns that OLake adds (`_olake_timestamp` …), in the catalog's order; the engine fills or refuses them.
    pub olake_columns: Vec<String>,
    /// The policy for special values of columns that are not listed.
    pub special_default: SpecialValues,
    /// Whether columns that the catalog does not list are taken as well.
    pub takes_new_columns: bool,
    /// Database in the destination.
    pub destination_database: String,
    /// Table in the destination.
    pub destination_table: String,
    /// How the stream is kept up to date.
    pub sync_mode: SyncMode,
    /// Which rows are wanted; `None` means all.
    pub filter: Option<Filter>,
    /// What the user should know of how the file was understood.
    pub notes: Vec<String>,
}

/// A column of a chosen stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenColumn {
    /// Name in the source.
    pub source: String,
    /// Name in the destination.
    pub destination: String,
    /// Names of destination types as the catalog has them, `"null"` included; or the one that `column_types` says.
    pub types: Vec<String>,
    /// What becomes of values that the type has no place for.
    pub special: SpecialValues,
}

/// The filter of `chosen` as an SQL condition for `table`.
///
/// # Errors
/// A column that the table no longer has.
pub fn where_clause(chosen: &Chosen, table: &TableInfo) -> Result<Option<String>> {
    chosen.filter.as_ref().map(|filter| filter.to_sql(&table.columns)).transpose().doing(|| format!("filter {}", chosen.stream.id()))
}

/// The chosen streams of `file`, ordered by namespace and name.
///
/// Without `selected_streams` every stream is chosen with the metadata that absent keys mean. `fallback_database` is the
/// destination's own default, used where a stream names no database. Errors name the place in the file; the caller adds its path.
///
/// # Errors
/// An empty selection; a chosen stream or column that is not in `streams`; streams or columns listed twice; an unknown mode; a
/// filter that cannot be read; two streams or columns with one name in the destination.
pub fn choose(file: &StreamsFile, fallback_database: Option<&str>) -> Result<Vec<Chosen>> {
    let streams = index(file)?;
    let mut chosen = Vec::new();
    for (id, (metadata, place)) in selected(file)? {
        let Some((stream, at)) = streams.get(&id) else {
            let (namespace, name) = id;
            let error = Error::config(format!("{place}: stream {namespace}.{name} is chosen but not listed in \"streams\""));
            let known = streams.keys().map(|(namespace, name)| format!("{namespace}.{name}"));
            return Err(match closest(&format!("{namespace}.{name}"), known) {
                Some(near) => error.hint(format!("did you mean {near}? discover lists what the database has")),
                None => error.hint("discover lists what the database has"),
            });
        };
        chosen.push(choose_one(stream, &metadata, &place, *at, fallback_database)?);
    }
    if chosen.is_empty() {
        return Err(Error::config("no stream is chosen").hint("list streams under \"selected_streams\", or remove that key to choose all"));
    }
    check_tables(&chosen)?;
    Ok(chosen)
}

type Id<'a> = (&'a str, &'a str);

/// Streams by (namespace, name), each with its place in the list.
fn index(file: &StreamsFile) -> Result<BTreeMap<Id<'_>, (&Stream, usize)>> {
    let mut streams = BTreeMap::new();
    for (at, entry) in file.streams.iter().enumerate() {
        let stream = &entry.stream;
        if let Some((_, first)) = streams.insert((stream.namespace.as_str(), stream.name.as_str()), (stream, at)) {
            return Err(Error::config(format!("streams[{at}]: stream {} is already listed as streams[{first}]", stream.id()))
                .hint("keep one of them"));
        }
    }
    Ok(streams)
}

/// What is chosen, each with its metadata and its place in the file.
fn selected(file: &StreamsFile) -> Result<BTreeMap<Id<'_>, (StreamMetadata, String)>> {
    let Some(selection) = &file.selected_streams else {
        return Ok(file
            .streams
            .iter()
            .enumerate()
            .map(|(at, entry)| {
                let metadata = StreamMetadata { stream_name: entry.stream.name.clone(), ..StreamMetadata::default() };
                ((entry.stream.namespace.as_str(), entry.stream.name.as_str()), (metadata, format!("streams[{at}]")))
            })
            .collect());
    };
    let mut chosen: BTreeMap<Id<'_>, (StreamMetadata, String)> = BTreeMap::new();
    for (namespace, streams) in selection {
        for (at, metadata) in streams.iter().enumerate() {
            let place = format!("selected_streams.{namespace}[{at}]");
            let id = (namespace.as_str(), metadata.stream_name.as_str());
            match chosen.get(&id) {
                // The same words twice say nothing new.
                Some((same, _)) if same == metadata => {}
                Some((_, first)) => {
                    return Err(Error::config(format!(
                        "{place}: stream {namespace}.{} is chosen twice with different settings, first as {first}",
                        metadata.stream_name
                    ))
                    .hint("keep one of them"));
                }
                None => {
                    chosen.insert(id, (metadata.clone(), place));
                }
            }
        }
    }
    Ok(chosen)
}

fn choose_one(stream: &Stream, metadata: &StreamMetadata, place: &str, at: usize, fallback: Option<&str>) -> Result<Chosen> {
    let id = stream.id();
    let properties = properties(stream, at)?;
    let known = |name: &str| properties.iter().any(|(known, property)| *known == name && !property.olake_column);
    let wanted = wanted(metadata, &properties).doing(|| format!("{place}.selected_columns"))?;

    for (name, ty) in &metadata.column_types {
        let at = || format!("{place}.column_types.{name}");
        known_or(name, known, &properties).doing(at)?;
        ty.parse::<ColumnType>().doing(at)?;
    }
    let policies = Policies::parse(metadata, |name| known_or(name, known, &properties)).doing(|| format!("{place}.special_values"))?;

    let destination_of =
        |name: &str, property: &Property| naming::column(name, &property.destination_column_name, metadata.use_source_column_names);
    let mut columns = Vec::new();
    let mut unselected = Vec::new();
    let mut olake_columns = Vec::new();
    for (name, property) in &properties {
        let is_wanted = wanted.as_ref().is_none_or(|wanted| wanted.contains(name));
        if property.olake_column {
            olake_columns.extend(is_wanted.then(|| (*name).to_owned()));
            continue;
        }
        let destination = destination_of(name, property);
        let types = metadata.column_types.get(*name).map_or_else(|| property.types.clone(), |ty| vec![ty.clone()]);
        let column = ChosenColumn { source: (*name).to_owned(), destination, types, special: policies.of(name) };
        if is_wanted { columns.push(column) } else { unselected.push(column) }
    }
    if columns.is_empty() && properties.iter().any(|(_, property)| !property.olake_column) {
        return Err(Error::config(format!("{place}.selected_columns: no column of stream {id} is chosen")));
    }
    let names = columns.iter().map(|column| (column.source.as_str(), column.destination.as_str()));
    naming::distinct_columns(&id, names.chain(olake_columns.iter().map(|name| (name.as_str(), name.as_str()))))
        .doing(|| format!("streams[{at}]"))?;

    let sync_mode = SyncMode::parse(&stream.sync_mode).doing(|| format!("streams[{at}].stream.sync_mode"))?;
    if sync_mode == SyncMode::Incremental {
        for name in stream.cursor_field.split(':').filter(|name| !name.is_empty()) {
            known_or(name, known, &properties).doing(|| format!("streams[{at}].stream.cursor_field"))?;
        }
    }
    for name in metadata.chunk_columns(known) {
        known_or(&name, known, &properties).doing(|| format!("{place}.chunk_column"))?;
    }
    let flatten = flatten::parse(metadata, |name| {
        known_or(name, known, &properties)?;
        let property = properties.iter().find(|(found, _)| *found == name).map(|(_, property)| destination_of(name, property));
        Ok(property.unwrap_or_default())
    });
    let flatten = flatten.doing(|| format!("{place}.flatten"))?;
    if let Some(open) =
        flatten.iter().find(|flatten| flatten.keys.is_none() && unselected.iter().any(|column| column.source == flatten.source))
    {
        let message =
            format!("{}: \"*\" takes the keys that are there when the run begins, and the column itself is not selected", open.source);
        return Err(Error::config(message).hint("select the column as well, so that a key that comes later is not lost, or name the keys"))
            .doing(|| format!("{place}.flatten"));
    }
    let (filter, note) = Filter::parse(metadata, known).doing(|| place)?;
    let (destination_database, destination_table) = naming::destination(stream, fallback);
    naming::check_segment("destination database", &destination_database).doing(|| format!("streams[{at}]"))?;
    naming::check_segment("destination table", &destination_table)
        .doing(|| format!("streams[{at}]"))
        .map_err(|error| error.hint("set \"destination_table\" of the stream"))?;
    Ok(Chosen {
        stream: stream.clone(),
        metadata: metadata.clone(),
        columns,
        unselected,
        flatten,
        olake_columns,
        special_default: policies.others,
        takes_new_columns: metadata.selected_columns.as_ref().is_none_or(|selected| selected.sync_new_columns),
        destination_database,
        destination_table,
        sync_mode,
        filter,
        notes: note.into_iter().collect(),
    })
}

/// The policies for special values.
struct Policies<'a> {
    named: BTreeMap<&'a str, SpecialValues>,
    others: SpecialValues,
}

impl<'a> Policies<'a> {
    fn parse(metadata: &'a StreamMetadata, known: impl Fn(&str) -> Result<()>) -> Result<Self> {
        let mut policies = Self { named: BTreeMap::new(), others: SpecialValues::default() };
        for (name, policy) in &metadata.special_values {
            let policy = SpecialValues::parse(policy).doing(|| name)?;
            if name == "*" {
                policies.others = policy;
            } else {
                known(name)?;
                policies.named.insert(name, policy);
            }
        }
        Ok(policies)
    }

    fn of(&self, name: &str) -> SpecialValues {
        self.named.get(name).copied().unwrap_or(self.others)
    }
}

/// The columns of a stream as typed values.
fn properties(stream: &Stream, at: usize) -> Result<Vec<(&str, Property)>> {
    let properties = &stream.type_schema.properties;
    properties
        .iter()
        .map(|(name, value)| {
            let place = || format!("streams[{at}].stream.type_schema.properties.{name}");
            let property = Property::deserialize(value).map_err(|error| Error::config(error.to_string())).doing(place)?;
            if property.olake_column && !OLAKE_COLUMNS.contains(&name.as_str()) {
                let message = format!("{name:?} is none of the columns that \"olake_column\" can mark: {}", OLAKE_COLUMNS.join(", "));
                return Err(Error::config(message)).doing(place);
            }
            Ok((name.as_str(), property))
        })
        .collect()
}

/// Names of the chosen columns; `None` means all. An empty list counts as absent, as in OLake.
fn wanted<'a>(metadata: &'a StreamMetadata, properties: &[(&str, Property)]) -> Result<Option<BTreeSet<&'a str>>> {
    let Some(SelectedColumns { columns, .. }) = metadata.selected_columns.as_ref().filter(|selected| !selected.columns.is_empty()) else {
        return Ok(None);
    };
    let mut wanted = BTreeSet::new();
    for (at, name) in columns.iter().enumerate() {
        let place = || format!("columns[{at}]");
        // OLake lists its own columns here also where the schema does not.
        if !OLAKE_COLUMNS.contains(&name.as_str()) {
            known_or(name, |name| properties.iter().any(|(known, _)| *known == name), properties).doing(place)?;
        }
        if !wanted.insert(name.as_str()) {
            return Err(Error::config(format!("column {name:?} is listed twice"))).doing(place);
        }
    }
    Ok(Some(wanted))
}

fn known_or(name: &str, known: impl Fn(&str) -> bool, properties: &[(&str, Property)]) -> Result<()> {
    if known(name) {
        return Ok(());
    }
    let error = Error::config(format!("unknown column {name:?}"));
    Err(match closest(name, properties.iter().map(|(name, _)| (*name).to_owned())) {
        Some(near) => error.hint(format!("did you mean {near:?}? If the column is new, run discover again")),
        None => error.hint("if the column is new, run discover again"),
    })
}

fn check_tables(chosen: &[Chosen]) -> Result<()> {
    let ids: Vec<String> = chosen.iter().map(|chosen| chosen.stream.id()).collect();
    let tables = ids.iter().zip(chosen);
    naming::distinct_tables(
        tables.map(|(id, chosen)| (id.as_str(), chosen.destination_database.as_str(), chosen.destination_table.as_str())),
    )
}

#[cfg(test)]
#[path = "selection_tests.rs"]
mod tests;
