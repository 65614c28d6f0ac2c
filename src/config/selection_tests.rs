//! What the catalog file chooses, and what it gets wrong.
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
    let with = |metadata: Value| json!({"selected_streams": {"public": [metadata]}, "streams": [stream("orders", &["id", "Id", "note"])]});
    let names = json!({"stream_name": "orders", "use_source_column_names": true});
    let also = |key: &str, value: Value| {
        let mut metadata = names.clone();
        metadata[key] = value;
        metadata
    };
    for (value, expected) in [
        (json!({}), "no stream is chosen"),
        (json!({"selected_streams": {"public": []}, "streams": [stream("a", &["b"])]}), "no stream is chosen"),
        (with(json!({"stream_name": "order"})), "selected_streams.public[0]: stream public.order is chosen but not listed in \"streams\""),
        (with(json!({"stream_name": "orders"})), "streams[0]: columns \"id\" and \"Id\" of stream public.orders are both named \"id\""),
        (
            with(also("selected_columns", json!({"columns": ["id", "nope"]}))),
            "selected_streams.public[0].selected_columns: columns[1]: unknown column \"nope\"",
        ),
        (with(also("selected_columns", json!({"columns": ["id", "id"]}))), "columns[1]: column \"id\" is listed twice"),
        (with(also("selected_columns", json!({"columns": ["_op_type"]}))), "no column of stream public.orders is chosen"),
        (
            with(
                json!({"stream_name": "orders", "use_source_column_names": true, "flatten": {"note": "*"}, "selected_columns": {"columns": ["id"]}}),
            ),
            "selected_streams.public[0].flatten: note: \"*\" takes the keys",
        ),
        (with(also("chunk_column", json!("key"))), "selected_streams.public[0].chunk_column: unknown column \"key\""),
        (with(also("filter", json!("nope = 1"))), "selected_streams.public[0]: the filter names the unknown column \"nope\""),
        (with(also("column_types", json!({"nope": "string"}))), "selected_streams.public[0].column_types.nope: unknown column \"nope\""),
        (with(also("column_types", json!({"note": "strin"}))), "selected_streams.public[0].column_types.note: unknown column type `strin`"),
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
    let file = |second: Value| json!({"selected_streams": {"public": [{"stream_name": "a"}, second]}, "streams": [stream("a", &["b"])]});
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
