//! Blink's pipeline file: `service`, `source`, `processors`, `sink`; or a part of it.
//!
//! Its `stream_schema` lists the tables to read and spells out their columns; the tables become `include_tables`, the
//! columns come from the server.

use super::dialect::{Action, Draft, Table, items};
use Action::{Is, NotBuilt, Nothing, Via};
use serde_json::{Map, Value};

/// Keys of `source.config`.
const CONFIG: &Table = &[
    ("user", Is("username")),
    ("schema", Via(|draft, at, value| draft.put("schemas", at, Value::Array(items(value))))),
    ("slot_name", Is("update_method.replication_slot")),
    ("ssl_required", Via(ssl_required)),
    ("stream_snapshot", Via(stream_snapshot)),
    ("snapshot_batch_size", Nothing("batches are sized by bytes")),
    ("snapshot_memory_safety_factor", Nothing("memory has a limit of its own, `--memory-limit`")),
    ("tables_schema", Nothing("columns come from the server")),
];

/// Keys around the source.
const PIPELINE: &Table = &[
    ("processors", NotBuilt("a processor")),
    ("secrets", NotBuilt("a secret store")),
    ("sink", Nothing("the destination has a file of its own, `--destination`")),
];

/// Keys of `service`.
const SERVICE: &Table = &[
    ("id", Nothing("a run is known by its files")),
    ("pipeline_id", Nothing("a run is known by its files")),
    ("reload_on_restart", Nothing("it has none there either")),
    ("enable_influx", Nothing("metrics are not sent anywhere")),
    ("influx", Nothing("metrics are not sent anywhere")),
    ("enable_etcd_registry", Nothing("it has none there either")),
    ("etcd", Nothing("it has none there either")),
    ("offset_storage_uri", Nothing("progress is kept in state.json")),
];

/// A pipeline has a driver, or a hand-written schema.
pub(super) fn is_blink(map: &Map<String, Value>) -> bool {
    let holds = |section: &str, key: &str| map.get(section).and_then(|section| section.get(key)).is_some();
    holds("source", "driver") || holds("source", "stream_schema") || holds("service", "stream_schema") || map.contains_key("stream_schema")
}

/// Translates a pipeline file or one of its parts.
pub(super) fn pipeline(draft: &mut Draft<'_>, mut map: Map<String, Value>) {
    let schema = map.get("source").and_then(|source| source["config"]["schema"].as_str()).unwrap_or("public").to_owned();
    if let Some(streams) = map.shift_remove("stream_schema") {
        stream_schema(draft, "stream_schema", streams, &schema);
    }
    if let Some(Value::Object(mut service)) = map.shift_remove("service") {
        if let Some(streams) = service.shift_remove("stream_schema") {
            stream_schema(draft, "service.stream_schema", streams, &schema);
        }
        draft.apply(SERVICE, service, "service");
    }
    if let Some(Value::Object(mut source)) = map.shift_remove("source") {
        match source.shift_remove("driver").as_ref().and_then(Value::as_str) {
            Some("postgres_cdc") => {}
            Some("postgres_incremental") => draft.findings.not_built("source.driver", "an incremental read"),
            _ => draft.unknown_word("source.driver", "postgres_cdc"),
        }
        if let Some(streams) = source.shift_remove("stream_schema") {
            stream_schema(draft, "source.stream_schema", streams, &schema);
        }
        if let Some(Value::Object(config)) = source.shift_remove("config") {
            draft.apply(CONFIG, config, "source.config");
        }
        draft.apply(&[], source, "source");
    }
    draft.apply(PIPELINE, map, "");
}

fn stream_schema(draft: &mut Draft<'_>, at: &str, value: Value, schema: &str) {
    let mut tables = Vec::new();
    let mut columns = false;
    for (index, entry) in items(value).into_iter().enumerate() {
        columns |= entry.get("columns").is_some();
        match entry["stream"].as_str() {
            Some(name) => tables.push(Value::String(format!("{schema}.{name}"))),
            None => draft.findings.problems.push(format!("`{at}[{index}].stream`: found nothing, accepted: the name of a table")),
        }
    }
    draft.extend("include_tables", at, tables);
    if columns {
        draft
            .findings
            .no_effect(&format!("{at}[].columns"), "columns come from the server; choose them with `selected_columns` in streams.json");
    }
}

fn ssl_required(draft: &mut Draft<'_>, at: &str, value: Value) {
    match value {
        Value::Bool(true) => draft.require_mode("require"),
        Value::Bool(false) => {}
        _ => draft.unknown_word(at, "true or false"),
    }
}

fn stream_snapshot(draft: &mut Draft<'_>, at: &str, value: Value) {
    match value {
        Value::Bool(true) => {}
        Value::Bool(false) => draft.findings.not_built(at, "following changes without a first read"),
        _ => draft.unknown_word(at, "true"),
    }
}
