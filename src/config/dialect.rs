//! Files of other tools, told apart by their keys and translated into our `source.json`.
//!
//! Each tool has a table that says for every key what becomes of it: the same thing under our name, nothing (reported
//! once, with the reason), or a refusal, where going on would give another result than the user asked for. Keys that a
//! table does not list pass through unchanged, so our own keys may stand beside foreign ones, and a typo is found where
//! every typo is found. Pure: values in, values and findings out.

use super::expand::join;
use super::keywords::SSL_MODES;
use super::shape::{Findings, is_empty};
use super::{dialect_blink, dialect_conduit, dialect_noesis, dialect_transferia, load};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What becomes of a foreign key.
pub(super) enum Action {
    /// The same meaning under this path of ours.
    Is(&'static str),
    /// Needs more than a new name.
    Via(fn(&mut Draft<'_>, &str, Value)),
    /// Accepted without effect, for this reason.
    Nothing(&'static str),
    /// Refused when it is switched on; the words name the feature.
    NotBuilt(&'static str),
}

/// Foreign key → action. A name that ends in `*` stands for all keys with that prefix.
pub(super) type Table = [(&'static str, Action)];

/// A document in our terms.
pub(super) struct Translated {
    /// The document.
    pub value: Value,
    /// Our path → the user's path.
    pub origins: BTreeMap<String, String>,
    /// The dialect's own keys, for suggestions.
    pub keys: Vec<&'static str>,
}

impl Translated {
    /// A document that was in our terms from the start.
    pub fn unchanged(value: Value) -> Self {
        Self { value, origins: BTreeMap::new(), keys: Vec::new() }
    }
}

/// Our document in the making.
pub(super) struct Draft<'f> {
    map: Map<String, Value>,
    origins: BTreeMap<String, String>,
    keys: Vec<&'static str>,
    /// Problems and notes.
    pub findings: &'f mut Findings,
}

impl Draft<'_> {
    /// Handles every key of `map`, which stands at `at` in the user's file.
    pub fn apply(&mut self, table: &'static Table, map: Map<String, Value>, at: &str) {
        self.keys.extend(table.iter().map(|(name, _)| *name).filter(|name| !name.ends_with('*')));
        for (key, value) in map {
            let here = join(at, &key);
            match table.iter().find(|(name, _)| matches_name(name, &key)) {
                Some((_, action)) => self.act(action, &here, value),
                None => self.put(&key, &here, value),
            }
        }
    }

    fn act(&mut self, action: &Action, at: &str, value: Value) {
        if value.is_null() {
            return;
        }
        match action {
            // The other tools read an empty string as absent.
            Action::Is(path) if value != "" => self.put(path, at, value),
            Action::Is(_) => {}
            Action::Via(translate) => translate(self, at, value),
            Action::Nothing(reason) => self.findings.no_effect(at, reason),
            Action::NotBuilt(what) => {
                if !is_empty(&value) {
                    self.findings.not_built(at, what);
                }
            }
        }
    }

    /// Sets our `path` (one or two keys deep) from the user's path `at`.
    pub fn put(&mut self, path: &str, at: &str, value: Value) {
        let place = match path.split_once('.') {
            None => self.map.entry(path).or_insert(Value::Null),
            Some((outer, inner)) => {
                match self.map.entry(outer).or_insert_with(|| Value::Object(Map::new())) {
                    Value::Object(map) => map.entry(inner).or_insert(Value::Null),
                    // Not an object: the comparison with the schema will say so.
                    _ => return,
                }
            }
        };
        if place.is_null() {
            *place = value;
            if path != at {
                self.origins.insert(path.to_owned(), at.to_owned());
            }
            return;
        }
        let other = self.origins.get(path).cloned().unwrap_or_else(|| path.to_owned());
        self.findings.problems.push(format!("`{at}`: found beside `{other}`, which means the same, accepted: one of the two"));
    }

    /// Sets `ssl.mode`, unless a stronger one is there.
    pub fn require_mode(&mut self, mode: &str) {
        if let Value::Object(ssl) = self.map.entry("ssl").or_insert_with(|| Value::Object(Map::new())) {
            let strength = |mode: &str| SSL_MODES.iter().position(|known| *known == mode);
            if ssl.get("mode").and_then(Value::as_str).is_none_or(|now| strength(now) < strength(mode)) {
                ssl.insert("mode".to_owned(), Value::from(mode));
            }
        }
    }

    /// Whether our top-level key has been set.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Adds to a list of ours; single texts count as lists of one.
    pub fn extend(&mut self, key: &str, at: &str, items: Vec<Value>) {
        self.origins.entry(key.to_owned()).or_insert_with(|| at.to_owned());
        if let Value::Array(list) = self.map.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
            list.extend(items);
        }
    }

    /// Refuses a value of a closed set of words.
    pub fn unknown_word(&mut self, at: &str, accepted: &str) {
        self.findings.problems.push(format!("`{at}`: found another value, accepted: {accepted}"));
    }
}

fn matches_name(name: &str, key: &str) -> bool {
    match name.strip_suffix('*') {
        Some(prefix) => key.starts_with(prefix),
        None => name == key,
    }
}

/// Whether one of `map`'s keys stands in `table`.
pub(super) fn speaks(table: &Table, map: &Map<String, Value>) -> bool {
    map.keys().any(|key| table.iter().any(|(name, _)| matches_name(name, key)))
}

/// The items of a list, or of a single value.
pub(super) fn items(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        one => vec![one],
    }
}

/// Table names with their schema: a bare name belongs to `schema`.
pub(super) fn qualified(tables: Vec<Value>, schema: &str) -> Vec<Value> {
    tables
        .into_iter()
        .map(|table| match table {
            Value::String(name) if !name.contains('.') && !name.trim().is_empty() => Value::String(format!("{schema}.{}", name.trim())),
            Value::String(name) => Value::String(name.trim().to_owned()),
            other => other,
        })
        .collect()
}

/// Opens documents that are nested as text, before `${…}` is expanded: a password with a quote in it must not be able to
/// break the text open. Text that only becomes valid by expansion is opened later.
pub(super) fn unpack(value: &mut Value) {
    for side in ["src", "dst"] {
        let Some(params) = value.get_mut(side).and_then(|side| side.get_mut("params")) else { continue };
        if let Some(opened) = params.as_str().and_then(|text| load::parse_inner(text).ok()).filter(Value::is_object) {
            *params = opened;
        }
    }
}

/// Our form of a source file, whoever's it was.
pub(super) fn translate(value: Value, findings: &mut Findings) -> Translated {
    let Value::Object(map) = value else { return Translated::unchanged(value) };
    let mut draft = Draft { map: Map::new(), origins: BTreeMap::new(), keys: Vec::new(), findings };
    if dialect_transferia::is_transfer(&map) {
        dialect_transferia::transfer(&mut draft, map);
    } else if speaks(dialect_transferia::SOURCE, &map) {
        draft.apply(dialect_transferia::SOURCE, map, "");
    } else if dialect_blink::is_blink(&map) {
        dialect_blink::pipeline(&mut draft, map);
    } else if speaks(dialect_conduit::SOURCE, &map) {
        draft.apply(dialect_conduit::SOURCE, map, "");
    } else if speaks(dialect_noesis::SOURCE, &map) {
        dialect_noesis::source(&mut draft, map);
    } else {
        return Translated::unchanged(Value::Object(map));
    }
    Translated { value: Value::Object(draft.map), origins: draft.origins, keys: draft.keys }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(file: Value, expected: Value) {
        let mut findings = Findings::default();
        let mut file = file;
        unpack(&mut file);
        let value = translate(file, &mut findings).value;
        assert!(findings.problems.is_empty(), "{findings:?}");
        assert_eq!(value, expected);
    }

    fn refused(file: Value, expected: &str) {
        let mut findings = Findings::default();
        translate(file, &mut findings);
        assert!(findings.problems.iter().any(|problem| problem.contains(expected)), "{expected}: {findings:?}");
    }

    #[test]
    fn our_own_files_stay_as_they_are() {
        let file = json!({"host": "h", "update_method": {"replication_slot": "s"}, "url": "u", "batch_size": 1});
        check(file.clone(), file);
    }

    #[test]
    fn transferia() {
        check(json!({"Host": "a", "Hosts": ["b"], "Port": 1}), json!({"hosts": ["a", "b"], "port": 1}));
        check(
            json!({"Hosts": [], "SlotID": "", "Password": "", "DBTables": ["t", "s.*"]}),
            json!({"hosts": [], "include_tables": ["public.t", "s.*"]}),
        );
        check(json!({"Hosts": ["a"], "EnableTLS": true}), json!({"hosts": ["a"], "ssl": {"mode": "require"}}));
        check(
            json!({"TLSFile": "PEM", "EnableTLS": true, "Hosts": ["a"]}),
            json!({"ssl": {"server_ca": "PEM", "mode": "verify-full"}, "hosts": ["a"]}),
        );
        check(json!({"EnableTLS": true, "TLSFile": "PEM"}), json!({"ssl": {"mode": "verify-full", "server_ca": "PEM"}}));
        check(json!({"SnapshotDegreeOfParallelism": 0, "DBLogEnabled": false}), json!({"max_threads": 1}));
        check(json!({"Host": "a", "max_threads": 7}), json!({"hosts": ["a"], "max_threads": 7}));
        check(
            json!({"type": "SNAPSHOT_ONLY", "src": {"type": "pg", "params": {"hosts": ["a"], "USER": "u"}}}),
            json!({"hosts": ["a"], "username": "u"}),
        );
        check(json!({"src": {"type": "pg", "params": "Host: a\nUser: u\n"}}), json!({"hosts": ["a"], "username": "u"}));
        refused(json!({"src": {"type": "pg", "params": "{"}}), "`src.params`");
        refused(json!({"src": {"type": "pg"}, "transformation": {"transformers": [{}]}}), "a transformation is not built yet");
        check(
            json!({"src": {"type": "pg", "params": {"SlotID": "s", "UsePolling": true, "SlotByteLagLimit": 7}}, "type": "SNAPSHOT_AND_INCREMENT"}),
            json!({"update_method": {"replication_slot": "s", "capture": "poll", "max_slot_lag_bytes": 7, "create_if_missing": true}}),
        );
        check(json!({"Host": "a", "DBLogEnabled": true}), json!({"hosts": ["a"], "backfill": {"mode": "watermark"}}));
        refused(
            json!({"Host": "a", "SnapshotDegreeOfParallelism": 2, "max_threads": 7}),
            "`max_threads`: found beside `SnapshotDegreeOfParallelism`",
        );
    }

    #[test]
    fn conduit() {
        check(json!({"url": "u", "tables": "a, b.c ,*"}), json!({"url": "u", "include_tables": ["public.a", "b.c", "public.*"]}));
        check(
            json!({"url": "u", "table": "a", "sdk.batch.size": 5, "snapshotMode": "initial"}),
            json!({"url": "u", "include_tables": ["public.a"]}),
        );
        refused(json!({"url": "u", "tables": "a", "table": "b"}), "`table`: found beside `tables`");
        refused(json!({"url": "u", "cdcMode": "sometimes"}), "`cdcMode`: found another value");
    }

    #[test]
    fn blink() {
        check(
            json!({"source": {"driver": "postgres_cdc", "config": {"host": "h", "schema": "s", "ssl_required": true}, "stream_schema": [{"stream": "t"}]},
                   "sink": {"driver": "stdout"}, "processors": []}),
            json!({"include_tables": ["s.t"], "host": "h", "schemas": ["s"], "ssl": {"mode": "require"}}),
        );
        refused(json!({"source": {"driver": "mysql_cdc"}}), "`source.driver`");
        refused(json!({"source": {"driver": "postgres_incremental"}}), "an incremental read is not built yet");
        refused(json!({"stream_schema": [{"columns": []}]}), "`stream_schema[0].stream`");
    }

    #[test]
    fn noesis() {
        check(
            json!({"hostname": "h", "sslMode": "require", "schema": "s"}),
            json!({"host": "h", "ssl": {"mode": "require"}, "schemas": ["s"]}),
        );
        check(json!({"host": "h", "schema": "s"}), json!({"host": "h", "schemas": ["s"], "ssl": {"mode": "prefer"}}));
        refused(json!({"mode": "all"}), "`mode`: found another value");
        refused(json!({"mode": {"subgraph": {}}}), "`mode.subgraph`");
    }
}
