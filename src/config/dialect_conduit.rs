//! The source keys of Conduit's PostgreSQL connector, flat as its configuration is.

use super::dialect::{Action, Draft, Table, qualified};
use Action::{Is, Nothing, Via};
use serde_json::Value;

/// All keys; `url` is ours too and does not tell the dialect.
pub(super) const SOURCE: &Table = &[
    ("tables", Via(tables)),
    ("table", Via(tables)),
    ("snapshotMode", Via(snapshot_mode)),
    ("cdcMode", Via(cdc_mode)),
    ("logrepl.publicationName", Is("update_method.publication")),
    ("logrepl.slotName", Via(slot)),
    ("logrepl.autoCleanup", Nothing("slots and publications are not dropped")),
    ("logrepl.withAvroSchema", Nothing("the destination carries the schema")),
    ("snapshot.fetchSize", Nothing("batches are sized by bytes")),
    ("sdk.*", Nothing("it is a setting of another runtime")),
];

/// A comma-separated list; `*` means all tables of schema `public`, and so does a bare name.
fn tables(draft: &mut Draft<'_>, at: &str, value: Value) {
    let names = match value {
        Value::String(list) => list.split(',').map(|name| Value::from(name.trim())).collect(),
        Value::Array(names) => names,
        other => vec![other],
    };
    draft.put("include_tables", at, Value::Array(qualified(names, "public")));
}

/// Conduit makes the slot, and the publication with the tables, where they are missing.
fn slot(draft: &mut Draft<'_>, at: &str, value: Value) {
    draft.put("update_method.replication_slot", at, value);
    draft.put("update_method.create_if_missing", at, Value::Bool(true));
}

fn snapshot_mode(draft: &mut Draft<'_>, at: &str, value: Value) {
    match value.as_str() {
        Some("initial" | "") => {}
        Some("never") => draft.findings.not_built(at, "following changes without a first read"),
        _ => draft.unknown_word(at, "initial"),
    }
}

fn cdc_mode(draft: &mut Draft<'_>, at: &str, value: Value) {
    match value.as_str() {
        Some("auto" | "logrepl" | "") => draft.findings.no_effect(at, "the `sync_mode` of each stream decides"),
        Some("long_polling") => draft.findings.not_built(at, "`long_polling`"),
        _ => draft.unknown_word(at, "auto, logrepl"),
    }
}
