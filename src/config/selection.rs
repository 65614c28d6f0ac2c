//! From the catalog file to the streams that a sync works on: what is chosen, and where each column goes.
//!
//! Pure. Everything the file alone can get wrong is an error here, before anything is read or written: nothing is skipped with a
//! warning, as OLake does, because a table that is silently missing is found out too late. It does not know the database: that a
//! table or column still exists is checked against [`crate::postgres::catalog::load_tables`].

use super::column_type::ColumnType;
use super::filter::Filter;
use super::naming;
use super::streams::{Property, SelectedColumns, Stream, StreamMetadata, StreamsFile, SyncMode};
use crate::error::{Context, Error, Result};
use crate::postgres::catalog::TableInfo;
use crate::postgres::scope::closest;
use crate::types::special::SpecialValues;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The columns that OLake adds to a table.
pub const OLAKE_COLUMNS: [&str; 5] = ["_olake_id", "_olake_timestamp", "_op_type", "_cdc_timestamp", "_cdc_lsn"];

/// A stream of this sync.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The stream as the catalog has it.
    pub stream: Stream,
    /// How it is to be written.
    pub metadata: StreamMetadata,
    /// Chosen source columns, in the catalog's order.
    pub columns: Vec<ChosenColumn>,
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

    let mut columns = Vec::new();
    let mut olake_columns = Vec::new();
    for (name, property) in &properties {
        if wanted.as_ref().is_some_and(|wanted| !wanted.contains(name)) {
            continue;
        }
        if property.olake_column {
            olake_columns.push((*name).to_owned());
        } else {
            let destination = naming::column(name, &property.destination_column_name, metadata.use_source_column_names);
            let types = metadata.column_types.get(*name).map_or_else(|| property.types.clone(), |ty| vec![ty.clone()]);
            columns.push(ChosenColumn { source: (*name).to_owned(), destination, types, special: policies.of(name) });
        }
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
    let filter = Filter::parse(metadata, known).doing(|| place)?;
    let (destination_database, destination_table) = naming::destination(stream, fallback);
    naming::check_segment("destination database", &destination_database).doing(|| format!("streams[{at}]"))?;
    naming::check_segment("destination table", &destination_table)
        .doing(|| format!("streams[{at}]"))
        .map_err(|error| error.hint("set \"destination_table\" of the stream"))?;
    Ok(Chosen {
        stream: stream.clone(),
        metadata: metadata.clone(),
        columns,
        olake_columns,
        special_default: policies.others,
        takes_new_columns: metadata.selected_columns.as_ref().is_none_or(|selected| selected.sync_new_columns),
        destination_database,
        destination_table,
        sync_mode,
        filter,
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
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use serde_json::{Value, json};

    fn parse(value: Value) -> StreamsFile {
        serde_json::from_value(value).unwrap()
    }

    fn stream(name: &str, columns: &[&str]) -> Value {
        let properties: serde_json::Map<_, _> =
            columns.iter().map(|column| ((*column).to_owned(), json!({"type": ["null", "string"]}))).collect();
        json!({"stream": {"name": name, "namespace": "public", "type_schema": {"properties": properties}}})
    }

    fn fault(value: Value) -> String {
        choose(&parse(value), None).unwrap_err().to_string()
    }

    #[test]
    fn without_a_selection_all_streams_are_chosen_as_absent_keys_mean() {
        let file = parse(json!({"streams": [stream("b", &["Id"]), stream("a", &["id", "x y"])]}));
        let chosen = choose(&file, Some("lake")).unwrap();
        assert_eq!(chosen.iter().map(|chosen| chosen.stream.id()).collect::<Vec<_>>(), ["public.a", "public.b"]);
        assert_eq!(chosen[1].columns[0].destination, "id");
        assert_eq!(chosen[0].columns[1].destination, "x_y");
        assert_eq!((chosen[0].destination_database.as_str(), chosen[0].destination_table.as_str()), ("lake", "a"));
        assert_eq!(chosen[0].sync_mode, SyncMode::FullRefresh);
        assert!(chosen[0].takes_new_columns && chosen[0].metadata.normalization.is_none());
    }

    #[test]
    fn columns_keep_the_order_of_the_table() {
        let mut value = json!({"selected_streams": {"public": [{"stream_name": "a", "use_source_column_names": true,
            "selected_columns": {"columns": ["_op_type", "C", "a"], "sync_new_columns": false}}]}, "streams": [stream("a", &["a", "b", "C"])]});
        value["streams"][0]["stream"]["type_schema"]["properties"]["_op_type"] = json!({"type": ["null", "string"], "olake_column": true});
        value["streams"][0]["stream"]["type_schema"]["properties"]["_olake_id"] = json!({"type": ["null", "string"], "olake_column": true});
        let chosen = choose(&parse(value), None).unwrap().remove(0);
        assert_eq!(chosen.columns.iter().map(|column| column.destination.as_str()).collect::<Vec<_>>(), ["a", "C"]);
        assert_eq!(chosen.columns[0].types, ["null", "string"]);
        assert_eq!(chosen.olake_columns, ["_op_type"]);
        assert!(!chosen.takes_new_columns);
    }

    #[test]
    fn an_empty_list_of_columns_means_all() {
        let file = json!({"selected_streams": {"public": [{"stream_name": "a", "selected_columns": {"columns": [], "sync_new_columns": true}}]},
            "streams": [stream("a", &["a", "b"])]});
        assert_eq!(choose(&parse(file), None).unwrap()[0].columns.len(), 2);
    }

    #[test]
    fn a_table_without_columns_is_a_table() {
        assert!(choose(&parse(json!({"streams": [stream("a", &[])]})), None).unwrap()[0].columns.is_empty());
    }

    #[test]
    fn faults_name_their_place() {
        let with =
            |metadata: Value| json!({"selected_streams": {"public": [metadata]}, "streams": [stream("orders", &["id", "Id", "note"])]});
        let names = json!({"stream_name": "orders", "use_source_column_names": true});
        let also = |key: &str, value: Value| {
            let mut metadata = names.clone();
            metadata[key] = value;
            metadata
        };
        for (value, expected) in [
            (json!({}), "no stream is chosen"),
            (json!({"selected_streams": {"public": []}, "streams": [stream("a", &["b"])]}), "no stream is chosen"),
            (
                with(json!({"stream_name": "order"})),
                "selected_streams.public[0]: stream public.order is chosen but not listed in \"streams\"",
            ),
            (with(json!({"stream_name": "orders"})), "streams[0]: columns \"id\" and \"Id\" of stream public.orders are both named \"id\""),
            (
                with(also("selected_columns", json!({"columns": ["id", "nope"]}))),
                "selected_streams.public[0].selected_columns: columns[1]: unknown column \"nope\"",
            ),
            (with(also("selected_columns", json!({"columns": ["id", "id"]}))), "columns[1]: column \"id\" is listed twice"),
            (with(also("selected_columns", json!({"columns": ["_op_type"]}))), "no column of stream public.orders is chosen"),
            (with(also("chunk_column", json!("key"))), "selected_streams.public[0].chunk_column: unknown column \"key\""),
            (with(also("filter", json!("nope = 1"))), "selected_streams.public[0]: the filter names the unknown column \"nope\""),
            (
                with(also("column_types", json!({"nope": "string"}))),
                "selected_streams.public[0].column_types.nope: unknown column \"nope\"",
            ),
            (
                with(also("column_types", json!({"note": "strin"}))),
                "selected_streams.public[0].column_types.note: unknown column type `strin`",
            ),
            (with(also("special_values", json!({"nope": "null"}))), "selected_streams.public[0].special_values: unknown column \"nope\""),
            (
                with(also("special_values", json!({"*": "ignore"}))),
                "selected_streams.public[0].special_values: *: unknown policy \"ignore\" for special values",
            ),
            (json!({"streams": [stream("a", &["b"]), stream("a", &["b"])]}), "streams[1]: stream public.a is already listed as streams[0]"),
            (json!({"streams": [stream("a", &["b"]), stream("A", &["b"])]}), "would both be written to"),
            (json!({"streams": [stream("a/b", &["b"])]}), "streams[0]: destination table \"a/b\" cannot be a folder name"),
        ] {
            let error = fault(value);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn types_and_policies_of_columns() {
        let metadata = json!({"stream_name": "a", "column_types": {"b": "decimal(9,2)"}, "special_values": {"*": "null", "c": "clamp"}});
        let file = json!({"selected_streams": {"public": [metadata]}, "streams": [stream("a", &["b", "c", "d"])]});
        let chosen = choose(&parse(file), None).unwrap().remove(0);
        let columns: Vec<_> = chosen.columns.iter().map(|c| (c.types.join("|"), c.special)).collect();
        let expected = [("decimal(9,2)", SpecialValues::Null), ("null|string", SpecialValues::Clamp), ("null|string", SpecialValues::Null)];
        assert_eq!(columns, expected.map(|(types, special)| (types.to_owned(), special)));
        assert_eq!(chosen.special_default, SpecialValues::Null);
    }

    #[test]
    fn the_same_choice_twice_is_one_and_a_contradiction_is_refused() {
        let file =
            |second: Value| json!({"selected_streams": {"public": [{"stream_name": "a"}, second]}, "streams": [stream("a", &["b"])]});
        assert_eq!(choose(&parse(file(json!({"stream_name": "a"}))), None).unwrap().len(), 1);
        let error = fault(file(json!({"stream_name": "a", "append_mode": true})));
        assert!(error.contains("selected_streams.public[1]: stream public.a is chosen twice"), "{error}");
    }

    #[test]
    fn modes_cursors_and_properties_are_checked() {
        let with = |key: &str, value: Value| {
            let mut entry = stream("a", &["b"]);
            entry["stream"][key] = value;
            json!({"streams": [entry]})
        };
        let error = fault(with("sync_mode", json!("full")));
        assert!(error.starts_with("streams[0].stream.sync_mode: unknown sync_mode \"full\", accepted are \"full_refresh\""), "{error}");
        let mut value = with("sync_mode", json!("incremental"));
        value["streams"][0]["stream"]["cursor_field"] = json!("b:c");
        assert!(fault(value).contains("streams[0].stream.cursor_field: unknown column \"c\""));
        let error = fault(with("type_schema", json!({"properties": {"b": {"type": "string"}}})));
        assert!(error.contains("streams[0].stream.type_schema.properties.b"), "{error}");
        let error = fault(with("type_schema", json!({"properties": {"b": {"type": [], "olake_column": true}}})));
        assert!(error.contains("none of the columns"), "{error}");
    }

    #[test]
    fn a_source_column_may_not_take_the_name_of_an_olake_column() {
        let mut value = json!({"streams": [stream("a", &["_OP_type"])]});
        value["streams"][0]["stream"]["type_schema"]["properties"]["_op_type"] = json!({"type": ["string"], "olake_column": true});
        assert!(fault(value).contains("both named \"_op_type\""));
    }
}
