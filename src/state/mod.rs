//! `state.json`: our memory of what the destination already has, and of chunks that are read but not yet committed.
//!
//! The outer shape is OLake's (`type`, `version`, `global`, `streams`), so that either program can read the file; what
//! OLake has no place for stands under the key `lakeward`. Entries of streams that this run does not touch are kept as
//! they are. The destination's token is the truth; this file can be lost without losing a row, only time.

pub mod cursor;
pub mod file;
pub mod progress;

use crate::error::{Error, Result};
use cursor::Cursor;
use progress::Load;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Newest version of OLake's part that we read, and the one we write (`constants/state_version.go` there).
pub const OLAKE_VERSION: u64 = 7;
/// Version of the part under `lakeward`.
pub const VERSION: u64 = 1;

/// The file as a whole.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct State {
    /// `STREAM` or `GLOBAL`: how OLake judges that a backfill is done. Kept as found.
    #[serde(rename = "type", default = "stream_kind")]
    pub kind: String,
    /// OLake's state version, 0 to 7; absent means 0.
    #[serde(default)]
    pub version: u64,
    /// OLake's position in the log, kept as found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global: Option<Value>,
    /// OLake's progress per stream.
    #[serde(default)]
    pub streams: Vec<StreamState>,
    /// Our progress.
    #[serde(default)]
    pub lakeward: Ours,
}

/// OLake's progress of one stream.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StreamState {
    /// Table name.
    pub stream: String,
    /// Schema name.
    #[serde(default)]
    pub namespace: String,
    /// Always empty in OLake's files.
    #[serde(default)]
    pub sync_mode: String,
    /// `chunks` still to do, and cursor values by column name.
    #[serde(default)]
    pub state: Map<String, Value>,
}

/// What OLake's shape has no place for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Ours {
    /// Version of this object.
    pub version: u64,
    /// Loads that are not finished, by stream id (`namespace.name`).
    #[serde(default)]
    pub loads: BTreeMap<String, Load>,
    /// How far incremental streams have been read, by stream id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: BTreeMap<String, Cursor>,
}

impl Default for Ours {
    fn default() -> Self {
        Self { version: VERSION, loads: BTreeMap::new(), cursors: BTreeMap::new() }
    }
}

fn stream_kind() -> String {
    "STREAM".to_owned()
}

impl Default for State {
    fn default() -> Self {
        Self { kind: stream_kind(), version: OLAKE_VERSION, global: None, streams: Vec::new(), lakeward: Ours::default() }
    }
}

impl State {
    /// Refuses what a newer program wrote, and what cannot be a state file.
    pub fn validate(&self) -> Result<()> {
        if !matches!(self.kind.as_str(), "STREAM" | "GLOBAL" | "MIXED") {
            return Err(Error::state(format!("type: found {:?}, accepted are STREAM and GLOBAL", self.kind)));
        }
        if self.version > OLAKE_VERSION {
            return Err(Error::state(format!("version: found {}, this program reads 0 to {OLAKE_VERSION}", self.version))
                .hint("the file was written by a newer program; use that one, or start without --state"));
        }
        if self.lakeward.version > VERSION {
            return Err(Error::state(format!("lakeward.version: found {}, this program reads up to {VERSION}", self.lakeward.version))
                .hint("the file was written by a newer Lakeward; use that one, or start without --state"));
        }
        Ok(())
    }

    /// Sets OLake's list of chunks still to do; an empty list says that the table is loaded.
    pub fn set_chunks(&mut self, namespace: &str, name: &str, chunks: Vec<Value>) {
        self.stream(namespace, name).insert("chunks".to_owned(), Value::Array(chunks));
    }

    /// Sets OLake's cursor value of a column; `None` removes it.
    pub fn set_cursor(&mut self, namespace: &str, name: &str, column: &str, value: Option<Value>) {
        let state = self.stream(namespace, name);
        match value {
            Some(value) => state.insert(column.to_owned(), value),
            None => state.remove(column),
        };
    }

    /// Removes OLake's cursor values.
    pub fn forget_cursors(&mut self, namespace: &str, name: &str) {
        self.stream(namespace, name).retain(|key, _| key == "chunks");
    }

    /// OLake's cursor value of a column, if the table has been loaded: an empty list of chunks says that.
    pub fn olake_cursor(&self, namespace: &str, name: &str, column: &str) -> Option<&Value> {
        let state = &self.streams.iter().find(|s| s.stream == name && s.namespace == namespace)?.state;
        let loaded = state.get("chunks").and_then(Value::as_array).is_some_and(Vec::is_empty);
        state.get(column).filter(|value| loaded && !value.is_null())
    }

    /// OLake's progress of a stream, begun if there is none.
    fn stream(&mut self, namespace: &str, name: &str) -> &mut Map<String, Value> {
        let found = self.streams.iter().position(|s| s.stream == name && s.namespace == namespace);
        let index = found.unwrap_or_else(|| {
            self.streams.push(StreamState {
                stream: name.to_owned(),
                namespace: namespace.to_owned(),
                sync_mode: String::new(),
                state: Map::new(),
            });
            self.streams.len() - 1
        });
        &mut self.streams[index].state
    }

    /// Takes one chunk off OLake's list of chunks still to do; the last one stays until the table is committed, because an
    /// empty list says that it is loaded. Leaves of a partitioned table have equal chunks: only one of them is taken off.
    pub fn remove_chunk(&mut self, namespace: &str, name: &str, chunk: &Value) {
        let stream = self.streams.iter_mut().find(|s| s.stream == name && s.namespace == namespace);
        let Some(Value::Array(chunks)) = stream.and_then(|s| s.state.get_mut("chunks")) else { return };
        if chunks.len() > 1
            && let Some(place) = chunks.iter().position(|found| found == chunk)
        {
            chunks.remove(place);
        }
    }

    /// Forgets a stream: OLake's entry, its membership in `global.streams`, and an unfinished load of ours.
    pub fn forget(&mut self, namespace: &str, name: &str) {
        let id = format!("{namespace}.{name}");
        self.streams.retain(|s| !(s.stream == name && s.namespace == namespace));
        self.lakeward.loads.remove(&id);
        self.lakeward.cursors.remove(&id);
        if let Some(Value::Array(ids)) = self.global.as_mut().and_then(|g| g.get_mut("streams")) {
            ids.retain(|found| found.as_str() != Some(&id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn olake_files_load_and_keep_what_is_not_ours() {
        let text = json!({"type":"GLOBAL","global":{"state":{"lsn":"5F4/A400B6D7"},"streams":["public.table_1"]},
            "streams":[{"stream":"table_1","namespace":"public","sync_mode":"","state":{"chunks":[]}}]});
        let mut state: State = serde_json::from_value(text).expect("load");
        state.validate().expect("valid");
        assert_eq!(state.version, 0);
        state.set_chunks("public", "b", vec![]);
        let out = serde_json::to_value(&state).expect("save");
        assert_eq!(out["global"]["state"]["lsn"], "5F4/A400B6D7");
        assert_eq!(out["streams"][1]["state"], json!({"chunks":[]}));
        state.forget("public", "table_1");
        assert_eq!(state.global, Some(json!({"state":{"lsn":"5F4/A400B6D7"},"streams":[]})));
        assert_eq!(state.streams.len(), 1);
    }

    #[test]
    fn newer_files_are_refused_politely() {
        for (text, place) in [
            (json!({"type":"STREAM","version":8}), "version: found 8"),
            (json!({"type":"STREAM","lakeward":{"version":2}}), "lakeward.version"),
            (json!({"type":"NONSENSE"}), "type: found"),
        ] {
            let state: State = serde_json::from_value(text).expect("shape");
            let error = state.validate().expect_err("refuse");
            assert!(error.to_string().contains(place), "{error}");
        }
    }
}
