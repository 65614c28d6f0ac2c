//! Transferia's `PgSource`, alone or inside a `transfer.yaml`.
//!
//! Meaning as its code has it, not its page: `TLSFile` is the text of a CA and turns on full verification, a bare table
//! name belongs to schema `public`. Its type tells what to do with the tables; only `SNAPSHOT_ONLY` exists here so far.

use super::dialect::{Action, Draft, Table, items, qualified};
use super::load::parse_inner;
use super::shape::is_empty;
use Action::{Is, NotBuilt, Nothing, Via};
use serde_json::{Map, Value};

/// Keys of `PgSource`.
pub(super) const SOURCE: &Table = &[
    ("Host", Via(|draft, at, value| draft.extend("hosts", at, items(value)))),
    ("Hosts", Via(|draft, at, value| draft.extend("hosts", at, items(value)))),
    ("Port", Is("port")),
    ("Database", Is("database")),
    ("User", Is("username")),
    ("Password", Is("password")),
    ("DBTables", Via(|draft, at, value| draft.put("include_tables", at, Value::Array(qualified(items(value), "public"))))),
    ("ExcludedTables", Via(|draft, at, value| draft.put("exclude_tables", at, Value::Array(qualified(items(value), "public"))))),
    ("TLSFile", Via(tls_file)),
    ("EnableTLS", Via(enable_tls)),
    ("SlotID", Is("update_method.replication_slot")),
    ("CollapseInheritTables", Is("collapse_partitions")),
    ("SnapshotDegreeOfParallelism", Via(parallelism)),
    ("UsePolling", Via(|draft, at, value| switched(draft, at, &value, "update_method.capture", "poll"))),
    ("DBLogEnabled", Via(|draft, at, value| switched(draft, at, &value, "backfill.mode", "watermark"))),
    ("BatchSize", Nothing("batches are sized by bytes")),
    ("ChunkSize", Nothing("chunks are sized by bytes")),
    ("DesiredTableSize", Nothing("chunks have a fixed target size")),
    ("ShardingKeyFields", Nothing("tables are split by physical position, which needs no column")),
    ("SnapshotSerializationFormat", Is("backfill.wire_format")),
    ("SlotByteLagLimit", Is("update_method.max_slot_lag_bytes")),
    ("KeeperSchema", Nothing("nothing is created in the source")),
    (
        "IgnoreUserTypes",
        Nothing("columns of user-defined types have types of their own; leave columns out with `selected_columns` in streams.json"),
    ),
    ("IgnoreUnknownTables", Nothing("only the tables in streams.json are read")),
    ("UseFakePrimaryKey", Nothing("a full read needs no key")),
    ("IsHomo", Nothing("the destination is never PostgreSQL's own dump")),
    ("NoHomo", Nothing("the destination is never PostgreSQL's own dump")),
    ("PreSteps", Nothing("they belong to copies from PostgreSQL to PostgreSQL")),
    ("PostSteps", Nothing("they belong to copies from PostgreSQL to PostgreSQL")),
    ("PgDumpCommand", Nothing("pg_dump is not used")),
    ("AutoActivate", Nothing("it has none there either")),
    ("MaxBufferSize", Nothing("it has none there either")),
    ("ExcludeDescendants", Nothing("it has none there either; see `CollapseInheritTables`")),
    ("EmitTimeTypes", Nothing("it has none there either")),
    ("ClusterID", Nothing("it names a cloud's resource")),
    ("ConnectionID", Nothing("it names a cloud's resource")),
    ("SubNetworkID", Nothing("it names a cloud's resource")),
    ("SecurityGroupIDs", Nothing("it names a cloud's resource")),
];

/// Keys around `src` and `dst`.
const TRANSFER: &Table = &[
    ("type", Via(transfer_type)),
    ("src", Via(endpoint)),
    ("dst", Nothing("the destination has a file of its own, `--destination`")),
    ("id", Nothing("a run is known by its files")),
    ("transfername", Nothing("a run is known by its files")),
    ("description", Nothing("it is a remark")),
    ("labels", Nothing("they are remarks")),
    ("type_system_version", Nothing("column types stand in streams.json")),
    ("asyncoperations", Nothing("there is no control plane")),
    ("regular_snapshot", NotBuilt("a repeated run")),
    ("transformation", NotBuilt("a transformation")),
    ("data_objects", NotBuilt("a second selection of tables")),
];

/// A transfer file has a `src` with a type or parameters.
pub(super) fn is_transfer(map: &Map<String, Value>) -> bool {
    map.get("src").is_some_and(Value::is_object)
}

/// Translates a transfer file.
pub(super) fn transfer(draft: &mut Draft<'_>, map: Map<String, Value>) {
    draft.apply(TRANSFER, map, "");
}

fn transfer_type(draft: &mut Draft<'_>, at: &str, value: Value) {
    match value.as_str() {
        Some("SNAPSHOT_ONLY") => {}
        // The slot is made there too.
        Some("SNAPSHOT_AND_INCREMENT") => draft.put("update_method.create_if_missing", at, Value::Bool(true)),
        Some("INCREMENT_ONLY") => {
            draft.put("update_method.create_if_missing", at, Value::Bool(true));
            draft.findings.no_effect(at, "whether a table is copied first, the sync_mode of each stream says: cdc, or strict_cdc");
        }
        _ => draft.unknown_word(at, "SNAPSHOT_ONLY, SNAPSHOT_AND_INCREMENT, INCREMENT_ONLY"),
    }
}

fn endpoint(draft: &mut Draft<'_>, at: &str, value: Value) {
    if value["type"].as_str() != Some("pg") {
        return draft.unknown_word(&format!("{at}.type"), "pg");
    }
    let params = match &value["params"] {
        Value::String(text) => match parse_inner(text) {
            Ok(params) => params,
            Err(problem) => return draft.findings.problems.push(format!("`{at}.params`: {problem}")),
        },
        other => other.clone(),
    };
    let Value::Object(params) = params else {
        return draft.findings.problems.push(format!("`{at}.params`: accepted: an object, or its JSON or YAML text"));
    };
    // Inside a transfer its keys may stand in any case.
    let spelled = params
        .into_iter()
        .map(|(key, value)| match SOURCE.iter().find(|(name, _)| name.eq_ignore_ascii_case(&key)) {
            Some((name, _)) => ((*name).to_owned(), value),
            None => (key, value),
        })
        .collect();
    draft.apply(SOURCE, spelled, &format!("{at}.params"));
}

fn tls_file(draft: &mut Draft<'_>, at: &str, value: Value) {
    if !is_empty(&value) {
        draft.put("ssl.server_ca", at, value);
        draft.require_mode("verify-full");
    }
}

fn enable_tls(draft: &mut Draft<'_>, at: &str, value: Value) {
    match value {
        Value::Bool(true) => draft.require_mode("require"),
        Value::Bool(false) => {}
        _ => draft.unknown_word(at, "true or false"),
    }
}

/// A switch that is a word of ours.
fn switched(draft: &mut Draft<'_>, at: &str, value: &Value, path: &str, word: &str) {
    match value {
        Value::Bool(true) => draft.put(path, at, Value::from(word)),
        Value::Bool(false) => {}
        _ => draft.unknown_word(at, "true or false"),
    }
}

/// One part or none means one reader.
fn parallelism(draft: &mut Draft<'_>, at: &str, value: Value) {
    let parts = match value.as_i64() {
        Some(parts) => Value::from(parts.max(1)),
        None => value,
    };
    draft.put("max_threads", at, parts);
}
