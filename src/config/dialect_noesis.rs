//! Noesis' PostgreSQL connector: nearly our own keys, and a `mode` that names one table.

use super::dialect::{Action, Draft, Table, items, qualified};
use Action::{Is, Nothing, Via};
use serde_json::{Map, Value, json};

/// The keys that differ from ours; camel case is what its code reads, snake case what its page says.
pub(super) const SOURCE: &Table = &[
    ("hostname", Is("host")),
    ("sslmode", Is("ssl.mode")),
    ("sslMode", Is("ssl.mode")),
    ("schema", Via(|draft, at, value| draft.put("schemas", at, Value::Array(items(value))))),
    ("connect_timeout", Is("connect_timeout_s")),
    ("connectTimeout", Is("connect_timeout_s")),
    ("statement_timeout", Is("statement_timeout_s")),
    ("statementTimeout", Is("statement_timeout_s")),
    ("max_connections", Is("max_threads")),
    ("idle_timeout", Nothing("connections live as long as their work")),
    ("log_level", Nothing("it says nothing about the source")),
    ("mode", Via(mode)),
];

/// Translates a file; without `sslmode` its default holds, which is `prefer`.
pub(super) fn source(draft: &mut Draft<'_>, map: Map<String, Value>) {
    let connects = map.contains_key("host") || map.contains_key("hostname");
    draft.apply(SOURCE, map, "");
    if connects && !draft.has("ssl") {
        draft.require_mode("prefer");
    }
}

fn mode(draft: &mut Draft<'_>, at: &str, value: Value) {
    let Value::Object(map) = value else { return draft.unknown_word(at, "{\"fullTable\": {\"entity\": …}}") };
    for (name, settings) in map {
        let here = format!("{at}.{name}");
        match name.as_str() {
            "fullTable" => {
                draft.put(
                    "include_tables",
                    &format!("{here}.entity"),
                    Value::Array(qualified(items(settings["entity"].clone()), "public")),
                );
            }
            "incremental" => incremental(draft, &here, &settings),
            _ => draft.unknown_word(&here, "fullTable, incremental"),
        }
    }
}

/// A table by its cursor, from a value on: `{"entity": "users", "cursorField": "updated_at", "cursor": "2023-01-01T00:00:00Z"}`.
fn incremental(draft: &mut Draft<'_>, at: &str, settings: &Value) {
    let tables = qualified(items(settings["entity"].clone()), "public");
    let entries = tables.iter().map(|table| {
        let mut entry = json!({"table": table, "cursor_field": settings["cursorField"]});
        if !settings["cursor"].is_null() {
            entry["since"] = settings["cursor"].clone();
        }
        entry
    });
    let entries = Value::Array(entries.collect());
    draft.put("incremental_tables", at, entries);
    draft.put("include_tables", &format!("{at}.entity"), Value::Array(tables));
}
