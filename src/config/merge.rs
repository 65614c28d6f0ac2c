//! A fresh catalog and the one the user has edited: what is kept ([`merge`]), and what differs ([`difference`]).
//!
//! Pure. The rules are OLake's, with one more: the type and the name that a column has in the destination stay as the old file has
//! them for as long as the column has the same type in the source. A file that OLake wrote keeps OLake's types in this way, and an
//! edited type stays edited; where the source's type changed, the new one is taken. (OLake takes the new schema in all cases.)

use super::naming;
use super::selection::OLAKE_COLUMNS;
use super::streams::{Property, SelectedColumns, Stream, StreamEntry, StreamMetadata, StreamsFile, TypeSchema};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

type Id = (String, String);

fn id(stream: &Stream) -> Id {
    (stream.namespace.clone(), stream.name.clone())
}

/// `new`, fresh from discover, with the user's choices of `old`.
///
/// - A chosen stream stays chosen, with its settings, while the table exists; new tables are listed but not chosen. An `old` without
///   `selected_streams` chooses all, and still does.
/// - Chosen columns stay chosen while they exist; new columns join them if `sync_new_columns` says so. An empty list means all.
/// - `sync_mode`, `cursor_field`, destination names and primary key stay as they were where they were set.
/// - New streams get the database prefix of the old ones (or their one database), if all agree on it.
pub fn merge(old: &StreamsFile, new: StreamsFile) -> StreamsFile {
    let old_streams: BTreeMap<Id, &Stream> = old.streams.iter().map(|entry| (id(&entry.stream), &entry.stream)).collect();
    let database = common_database(old);
    let streams: Vec<StreamEntry> = new
        .streams
        .into_iter()
        .map(|StreamEntry { mut stream }| {
            match (old_streams.get(&id(&stream)), &database) {
                (Some(old), _) => keep(old, &mut stream),
                (None, Some(Database::Prefix(prefix))) => {
                    stream.destination_database = format!("{prefix}:{}", naming::reformat(&stream.namespace));
                }
                (None, Some(Database::One(database))) => stream.destination_database.clone_from(database),
                (None, None) => {}
            }
            StreamEntry { stream }
        })
        .collect();

    let new_streams: BTreeMap<Id, &Stream> = streams.iter().map(|entry| (id(&entry.stream), &entry.stream)).collect();
    let selected_streams = old.selected_streams.as_ref().map(|selected| {
        let mut kept = BTreeMap::new();
        for (namespace, chosen) in selected {
            let chosen: Vec<StreamMetadata> = chosen
                .iter()
                .filter_map(|metadata| {
                    let id = (namespace.clone(), metadata.stream_name.clone());
                    let stream = new_streams.get(&id)?;
                    let selected_columns = Some(columns(metadata, old_streams.get(&id).copied(), stream));
                    let exists = |name: &String| name == "*" || stream.type_schema.properties.contains_key(name);
                    let mut kept = StreamMetadata { selected_columns, ..metadata.clone() };
                    kept.column_types.retain(|name, _| exists(name));
                    kept.special_values.retain(|name, _| exists(name));
                    kept.flatten.retain(|name, _| exists(name));
                    Some(kept)
                })
                .collect();
            if !chosen.is_empty() {
                kept.insert(namespace.clone(), chosen);
            }
        }
        kept
    });
    StreamsFile { selected_streams, streams }
}

/// Where all old streams go, if there is a rule to it.
enum Database {
    /// `<prefix>:<schema>`.
    Prefix(String),
    /// One for all.
    One(String),
}

fn common_database(old: &StreamsFile) -> Option<Database> {
    let databases: BTreeSet<&str> = old.streams.iter().map(|entry| entry.stream.destination_database.as_str()).collect();
    let prefixes: BTreeSet<Option<&str>> = databases.iter().map(|database| database.split_once(':').map(|(prefix, _)| prefix)).collect();
    match (prefixes.len(), prefixes.first().copied().flatten(), databases.len(), databases.first()) {
        (1, Some(prefix), _, _) => Some(Database::Prefix(prefix.to_owned())),
        (_, _, 1, Some(database)) if !database.is_empty() => Some(Database::One((*database).to_owned())),
        _ => None,
    }
}

/// Carries the old stream's settings over.
fn keep(old: &Stream, new: &mut Stream) {
    for (old, new) in [
        (&old.sync_mode, &mut new.sync_mode),
        (&old.cursor_field, &mut new.cursor_field),
        (&old.destination_database, &mut new.destination_database),
        (&old.destination_table, &mut new.destination_table),
        (&old.additional_properties, &mut new.additional_properties),
    ] {
        if !old.is_empty() {
            new.clone_from(old);
        }
    }
    if !old.source_defined_primary_key.is_empty() {
        new.source_defined_primary_key.clone_from(&old.source_defined_primary_key);
    }
    keep_properties(&old.type_schema, &mut new.type_schema);
}

fn keep_properties(old: &TypeSchema, new: &mut TypeSchema) {
    for (name, value) in &old.properties {
        // What cannot be read is not worth keeping: discover's word replaces it.
        let Ok(before) = Property::deserialize(value) else { continue };
        if before.olake_column && !new.properties.contains_key(name) {
            new.properties.insert(name.clone(), value.clone());
        } else if let Some(Ok(mut now)) = new.properties.get(name).map(Property::deserialize) {
            // Only our files know the source's type; in OLake's it is taken to be unchanged, and sync says if it is not.
            let same_source = before.source_type.is_empty() || before.source_type == now.source_type;
            let types: Vec<String> = before.types.iter().filter(|ty| *ty != "null").cloned().collect();
            if same_source && !types.is_empty() {
                now.types.retain(|ty| ty == "null");
                now.types.extend(types);
            }
            if !before.destination_column_name.is_empty() {
                now.destination_column_name = before.destination_column_name;
            }
            if let Ok(value) = serde_json::to_value(now) {
                new.properties.insert(name.clone(), value);
            }
        }
    }
}

fn columns(metadata: &StreamMetadata, old: Option<&Stream>, new: &Stream) -> SelectedColumns {
    let properties = &new.type_schema.properties;
    let all = || properties.keys().cloned().collect();
    let Some(before) = metadata.selected_columns.as_ref().filter(|selected| !selected.columns.is_empty()) else {
        let sync_new_columns = metadata.selected_columns.as_ref().is_none_or(|selected| selected.sync_new_columns);
        return SelectedColumns { columns: all(), sync_new_columns };
    };
    let was_known = |name: &str| old.is_some_and(|old| old.type_schema.properties.contains_key(name));
    let is_olake = |value: &Value| value.get("olake_column").and_then(Value::as_bool).unwrap_or(false);
    let kept = before.columns.iter().filter(|name| properties.contains_key(*name) || OLAKE_COLUMNS.contains(&name.as_str()));
    let mut columns: Vec<String> = kept.cloned().collect();
    for (name, value) in properties {
        if (is_olake(value) || (before.sync_new_columns && !was_known(name))) && !columns.contains(name) {
            columns.push(name.clone());
        }
    }
    SelectedColumns { columns, sync_new_columns: before.sync_new_columns }
}

/// The chosen streams of `new` that are not in `old` or differ from it in what the destination holds: definitions as in `new`, under
/// the OLD destination names. It is what clear-destination has to clear before `new` is synced.
pub fn difference(old: &StreamsFile, new: &StreamsFile) -> StreamsFile {
    let before = chosen(old);
    let mut selected: BTreeMap<String, Vec<StreamMetadata>> = BTreeMap::new();
    let mut streams = Vec::new();
    for (metadata, stream) in chosen(new).into_values() {
        let mut stream = stream.clone();
        if let Some((old_metadata, old)) = before.get(&id(&stream)) {
            if !differs(old_metadata, old, &metadata, &stream) {
                continue;
            }
            stream.destination_database.clone_from(&old.destination_database);
            stream.destination_table.clone_from(&old.destination_table);
        }
        selected.entry(stream.namespace.clone()).or_default().push(metadata);
        streams.push(StreamEntry { stream });
    }
    StreamsFile { selected_streams: Some(selected), streams }
}

/// Chosen streams that are listed, by id.
fn chosen(file: &StreamsFile) -> BTreeMap<Id, (StreamMetadata, &Stream)> {
    let streams = file.streams.iter().map(|entry| (id(&entry.stream), &entry.stream));
    let Some(selected) = &file.selected_streams else {
        return streams
            .map(|(id, stream)| (id, (StreamMetadata { stream_name: stream.name.clone(), ..StreamMetadata::default() }, stream)))
            .collect();
    };
    let streams: BTreeMap<Id, &Stream> = streams.collect();
    let selected = selected.iter().flat_map(|(namespace, chosen)| chosen.iter().map(move |metadata| (namespace, metadata)));
    selected
        .filter_map(|(namespace, metadata)| {
            let (id, stream) = streams.get_key_value(&(namespace.clone(), metadata.stream_name.clone()))?;
            Some((id.clone(), (metadata.clone(), *stream)))
        })
        .collect()
}

fn differs(old_metadata: &StreamMetadata, old: &Stream, metadata: &StreamMetadata, stream: &Stream) -> bool {
    let written = |metadata: &StreamMetadata| {
        (
            metadata.normalization.unwrap_or(false),
            metadata.partition_regex.clone(),
            metadata.sort_order.clone(),
            metadata.filter.clone(),
            metadata.filter_config.clone(),
            metadata.append_mode,
            metadata.use_source_column_names,
            metadata.column_types.clone(),
            metadata.special_values.clone(),
            metadata.flatten.clone(),
        )
    };
    let placed = |stream: &Stream| (stream.sync_mode.clone(), stream.destination_database.clone(), stream.destination_table.clone());
    written(old_metadata) != written(metadata)
        || placed(old) != placed(stream)
        || (stream.sync_mode == "incremental" && old.cursor_field != stream.cursor_field)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> StreamsFile {
        serde_json::from_value(value).unwrap()
    }

    fn stream(name: &str, properties: Value, more: Value) -> Value {
        let mut stream = json!({"name": name, "namespace": "Public", "type_schema": {"properties": properties},
            "sync_mode": "full_refresh", "destination_database": "postgres_shop:public", "destination_table": name});
        for (key, value) in more.as_object().unwrap() {
            stream[key] = value.clone();
        }
        json!({"stream": stream})
    }

    fn types(file: &StreamsFile, column: &str) -> Value {
        file.streams[0].stream.type_schema.properties[column]["type"].clone()
    }

    #[test]
    fn choices_stay_and_new_tables_are_not_chosen() {
        let column = || json!({"id": {"type": ["integer"], "source_type": "bigint"}});
        let old = parse(json!({
            "selected_streams": {"Public": [{"stream_name": "a", "partition_regex": "/{id,,}", "append_mode": true}, {"stream_name": "gone"}], "Old": [{"stream_name": "x"}]},
            "streams": [stream("a", column(), json!({"sync_mode": "incremental", "cursor_field": "id", "destination_table": "mine", "additional_properties": "kept",
                "source_defined_primary_key": ["id"], "destination_database": "lake:public"})), stream("gone", column(), json!({"destination_database": "lake:public"}))]}));
        let new = parse(json!({"selected_streams": {"Public": [{"stream_name": "a"}, {"stream_name": "b"}]},
            "streams": [stream("a", column(), json!({"estimated_rows": 7})), stream("b", column(), json!({}))]}));
        let merged = merge(&old, new);
        let selected = merged.selected_streams.as_ref().unwrap();
        assert_eq!(selected.len(), 1);
        assert_eq!(selected["Public"].len(), 1);
        assert_eq!((selected["Public"][0].partition_regex.as_str(), selected["Public"][0].append_mode), ("/{id,,}", true));
        let a = &merged.streams[0].stream;
        assert_eq!((a.sync_mode.as_str(), a.cursor_field.as_str(), a.destination_table.as_str()), ("incremental", "id", "mine"));
        assert_eq!((a.source_defined_primary_key.join(","), a.estimated_rows), ("id".to_owned(), Some(7)));
        assert_eq!((a.destination_database.as_str(), a.additional_properties.as_str()), ("lake:public", "kept"));
        assert_eq!(merged.streams[1].stream.destination_database, "lake:public", "the old prefix, the reformatted schema");
    }

    #[test]
    fn without_a_selection_everything_stays_chosen() {
        let old = parse(json!({"streams": [stream("a", json!({}), json!({"destination_database": "one"}))]}));
        let new = parse(json!({"selected_streams": {}, "streams": [stream("a", json!({}), json!({})), stream("b", json!({}), json!({}))]}));
        let merged = merge(&old, new);
        assert!(merged.selected_streams.is_none());
        assert_eq!(merged.streams[1].stream.destination_database, "one");
    }

    #[test]
    fn new_streams_keep_their_database_when_the_old_ones_disagree() {
        let old = parse(
            json!({"streams": [stream("a", json!({}), json!({"destination_database": "x:s"})), stream("b", json!({}), json!({"destination_database": "y"}))]}),
        );
        let merged = merge(&old, parse(json!({"streams": [stream("c", json!({}), json!({}))]})));
        assert_eq!(merged.streams[0].stream.destination_database, "postgres_shop:public");
    }

    #[test]
    fn columns_follow_the_old_selection() {
        let column = || json!({"type": ["string"], "source_type": "text"});
        let new = || parse(json!({"streams": [stream("a", json!({"a": column(), "b": column(), "fresh": column()}), json!({}))]}));
        let merged = |selected: Value| {
            let old = parse(json!({"selected_streams": {"Public": [{"stream_name": "a", "selected_columns": selected}]},
                "streams": [stream("a", json!({"a": column(), "b": column(), "gone": column(), "_op_type": {"type": ["string"], "olake_column": true}}), json!({}))]}));
            let file = merge(&old, new());
            let selected = file.selected_streams.unwrap()["Public"][0].selected_columns.clone().unwrap();
            format!("{} {}", selected.columns.join(","), selected.sync_new_columns)
        };
        assert_eq!(merged(json!({"columns": ["gone", "b"], "sync_new_columns": true})), "b,fresh,_op_type true");
        assert_eq!(merged(json!({"columns": ["b"], "sync_new_columns": false})), "b,_op_type false");
        assert_eq!(merged(Value::Null), "a,b,fresh,_op_type true");
        assert_eq!(merged(json!({"columns": [], "sync_new_columns": false})), "a,b,fresh,_op_type false");
    }

    #[test]
    fn a_type_stays_while_the_source_has_the_same() {
        let merged = |before: Value, now: Value| {
            let old = parse(json!({"streams": [stream("a", json!({"x": before}), json!({}))]}));
            merge(&old, parse(json!({"streams": [stream("a", json!({"x": now}), json!({}))]})))
        };
        let now = || json!({"type": ["null", "decimal(12,2)"], "destination_column_name": "x", "source_type": "numeric(12,2)"});
        let edited = merged(json!({"type": ["string"], "destination_column_name": "y", "source_type": "numeric(12,2)"}), now());
        assert_eq!(types(&edited, "x"), json!(["null", "string"]));
        assert_eq!(edited.streams[0].stream.type_schema.properties["x"]["destination_column_name"], "y");
        assert_eq!(types(&merged(json!({"type": ["string"], "source_type": "integer"}), now()), "x"), json!(["null", "decimal(12,2)"]));
        assert_eq!(types(&merged(json!({"type": ["null", "number"]}), now()), "x"), json!(["null", "number"]), "written by OLake");
        assert_eq!(types(&merged(json!({"type": []}), now()), "x"), json!(["null", "decimal(12,2)"]));
    }

    #[test]
    fn merging_a_file_with_itself_changes_nothing() {
        let file = || {
            parse(json!({"selected_streams": {"Public": [{"stream_name": "a", "normalization": true,
                "selected_columns": {"columns": ["b", "a"], "sync_new_columns": true}}]},
                "streams": [stream("a", json!({"a": {"type": ["string"], "source_type": "text"}, "b": {"type": ["null", "date"], "source_type": "date"}}), json!({}))]}))
        };
        let text = |file: &StreamsFile| serde_json::to_string(file).unwrap();
        assert_eq!(text(&merge(&file(), file())), text(&file()));
    }

    #[test]
    fn every_setting_of_what_is_written_makes_a_difference() {
        let file = |keys: Value| {
            let mut metadata = json!({"stream_name": "a"});
            metadata.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            parse(json!({"selected_streams": {"Public": [metadata]}, "streams": [stream("a", json!({}), json!({}))]}))
        };
        for keys in [
            json!({"normalization": true}),
            json!({"partition_regex": "/{x,,}"}),
            json!({"sort_order": "x"}),
            json!({"filter": "x > 1"}),
            json!({"filter_config": {"conditions": []}}),
            json!({"append_mode": true}),
            json!({"use_source_column_names": true}),
            json!({"column_types": {"x": "string"}}),
            json!({"special_values": {"x": "null"}}),
            json!({"flatten": {"x": "*"}}),
        ] {
            assert_eq!(difference(&file(json!({})), &file(keys.clone())).streams.len(), 1, "{keys}");
            assert_eq!(difference(&file(keys.clone()), &file(keys.clone())).streams.len(), 0, "{keys}");
        }
    }

    #[test]
    fn differences_are_new_definitions_under_old_names() {
        let file = |mode: &str, table: &str, regex: &str, cursor: &str| {
            parse(json!({"selected_streams": {"Public": [{"stream_name": "a", "partition_regex": regex}]},
                "streams": [stream("a", json!({}), json!({"sync_mode": mode, "destination_table": table, "cursor_field": cursor})), stream("b", json!({}), json!({}))]}))
        };
        let found = |new: &StreamsFile| {
            let delta = difference(&file("full_refresh", "a", "", "x"), new);
            assert_eq!(delta.streams.len(), delta.selected_streams.unwrap().values().flatten().count());
            delta.streams.first().map(|entry| (entry.stream.sync_mode.clone(), entry.stream.destination_table.clone()))
        };
        assert_eq!(found(&file("full_refresh", "a", "", "x")), None);
        assert_eq!(found(&file("full_refresh", "a", "", "y")), None, "no cursor in use");
        assert_eq!(found(&file("cdc", "z", "", "x")), Some(("cdc".into(), "a".into())));
        assert_eq!(found(&file("full_refresh", "a", "/{x,,}", "x")), Some(("full_refresh".into(), "a".into())));
        let all = parse(json!({"streams": [stream("b", json!({}), json!({"destination_table": "new"}))]}));
        assert_eq!(found(&all), Some(("full_refresh".into(), "new".into())), "chosen only now");
    }
}
