//! Noesis' PostgreSQL connector: nearly our own keys, and a `mode` that names one table.

use super::dialect::{Action, Draft, Table, items, qualified};
use Action::{Is, Nothing, Via};
use serde_json::{Map, Value};

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
            "incremental" => {
                draft.findings.not_built(&here, "an incremental read (`sync_mode: incremental` with `cursor_field` in streams.json)");
            }
            _ => draft.unknown_word(&here, "fullTable"),
        }
    }
}
