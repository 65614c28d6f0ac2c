//! `state.json`: our memory of what the destination already has, and of chunks that are read but not yet committed.
//!
//! The outer shape is OLake's (`type`, `version`, `global`, `streams`), so that either program can read the file; what
//! OLake has no place for stands under the key `lakeward`. Entries of streams that this run does not touch are kept as
//! they are. The destination's token is the truth; this file can be lost without losing a row, only time.

pub mod captured;
pub mod cursor;
pub mod file;
pub mod olake;
pub mod progress;

use crate::error::{Error, Result};
use crate::postgres::lsn::Lsn;
use captured::Captured;
use cursor::Cursor;
use progress::Load;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Newest version of OLake's part that we read, and the one we write (`constants/state_version.go` there).
pub const OLAKE_VERSION: u64 = 7;
/// Version of the part under `lakeward`.
pub const VERSION: u64 = 1;

/// What to do about a file that is damaged.
const RESTORE: &str = "restore the file from a copy, have `lakeward state repair` write it anew as far as the destination proves it, or run without --state to load the tables again";

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
    /// How far streams with change data capture have been followed, by stream id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub captures: BTreeMap<String, Captured>,
}

impl Default for Ours {
    fn default() -> Self {
        Self { version: VERSION, loads: BTreeMap::new(), cursors: BTreeMap::new(), captures: BTreeMap::new() }
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

/// Refuses what a newer program wrote, whose shape is not known here: `version` of OLake's part, and of ours.
fn refuse_newer(version: u64, ours: u64) -> Result<()> {
    if version > OLAKE_VERSION {
        return Err(Error::state(format!("version: found {version}, this program reads 0 to {OLAKE_VERSION}"))
            .hint("the file was written by a newer program; use that one, or start without --state"));
    }
    if ours > VERSION {
        return Err(Error::state(format!("lakeward.version: found {ours}, this program reads up to {VERSION}"))
            .hint("the file was written by a newer Lakeward; use that one, or start without --state"));
    }
    Ok(())
}

impl State {
    /// Refuses what a newer program wrote, and what cannot be a state file.
    pub fn validate(&self) -> Result<()> {
        if !matches!(self.kind.as_str(), "STREAM" | "GLOBAL" | "MIXED") {
            return Err(Error::state(format!("type: found {:?}, accepted are STREAM and GLOBAL", self.kind)).hint(RESTORE));
        }
        refuse_newer(self.version, self.lakeward.version)?;
        self.validate_global()?;
        for stream in &self.streams {
            olake::chunks(stream)?;
        }
        Ok(())
    }

    fn validate_global(&self) -> Result<()> {
        let Some(global) = self.global.as_ref().filter(|global| !global.is_null()) else { return Ok(()) };
        let streams = global.get("streams").filter(|streams| !streams.is_null());
        let fault = match streams {
            _ if !global.is_object() => "global: found no object, accepted: {\"state\": {\"lsn\": \"0/1\"}, \"streams\": [\"public.a\"]}",
            Some(streams) if !streams.as_array().is_some_and(|ids| ids.iter().all(Value::is_string)) => {
                "global.streams: found something else, accepted: a list of stream names"
            }
            _ => return Ok(()),
        };
        Err(Error::state(fault).hint(RESTORE))
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

    /// Whether `global.streams` lists a stream.
    pub fn is_global(&self, namespace: &str, name: &str) -> bool {
        let id = format!("{namespace}.{name}");
        let listed = self.global.as_ref().and_then(|global| global.get("streams")).and_then(Value::as_array);
        listed.is_some_and(|ids| ids.iter().any(|found| found.as_str() == Some(&id)))
    }

    /// Says in OLake's terms that a stream's first load is complete.
    pub fn complete(&mut self, namespace: &str, name: &str) {
        self.set_chunks(namespace, name, Vec::new());
        if self.kind == "GLOBAL" && !self.is_global(namespace, name) {
            let global = self.global.get_or_insert_with(|| json!({"state": null}));
            if let Some(global) = global.as_object_mut() {
                let listed = global.entry("streams").or_insert_with(|| json!([]));
                if listed.is_null() {
                    *listed = json!([]);
                }
                if let Some(ids) = listed.as_array_mut() {
                    ids.push(json!(format!("{namespace}.{name}")));
                }
            }
        }
    }

    /// Removes OLake's entry of a stream: for OLake it is then one that was never read.
    pub fn forget_olake(&mut self, namespace: &str, name: &str) {
        self.streams.retain(|s| !(s.stream == name && s.namespace == namespace));
        let id = format!("{namespace}.{name}");
        if let Some(Value::Array(ids)) = self.global.as_mut().and_then(|g| g.get_mut("streams")) {
            ids.retain(|found| found.as_str() != Some(&id));
        }
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
        self.forget_olake(namespace, name);
        self.lakeward.loads.remove(&id);
        self.lakeward.cursors.remove(&id);
        self.lakeward.captures.remove(&id);
    }

    /// Has a stream loaded anew; of one that is followed, what its columns were called is kept.
    pub fn reload(&mut self, namespace: &str, name: &str) {
        let id = format!("{namespace}.{name}");
        let captured = self.lakeward.captures.remove(&id);
        self.forget(namespace, name);
        if let Some(captured) = captured {
            self.lakeward.captures.insert(id, Captured { reload: true, ..captured });
        }
    }

    /// Whether a stream has been loaded, and is followed from there.
    pub fn is_followed(&self, id: &str) -> bool {
        self.lakeward.captures.get(id).is_some_and(|captured| !captured.reload) && !self.lakeward.loads.contains_key(id)
    }

    /// Says in OLake's terms how far the log has been read.
    pub fn set_position(&mut self, lsn: Lsn) {
        let global = self.global.get_or_insert_with(|| json!({}));
        if !global.is_object() {
            *global = json!({});
        }
        global["state"] = json!({"lsn": lsn});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_complete_load_is_told_in_the_terms_of_the_file() {
        let mut state = State { kind: "GLOBAL".into(), global: Some(json!({"state": {"lsn": "0/1"}})), ..State::default() };
        state.complete("s", "t");
        state.complete("s", "t");
        assert_eq!(state.global, Some(json!({"state": {"lsn": "0/1"}, "streams": ["s.t"]})));
        assert_eq!(state.streams[0].state["chunks"], json!([]));
        let mut state = State::default();
        state.complete("s", "t");
        assert_eq!(state.global, None);
    }

    #[test]
    fn newer_files_are_refused_politely() {
        for (text, place) in [
            (json!({"type":"STREAM","version":8}), "version: found 8"),
            (json!({"type":"STREAM","lakeward":{"version":2}}), "lakeward.version"),
            (json!({"type":"NONSENSE"}), "type: found"),
            (json!({"type":"GLOBAL","global":7}), "global: found no object"),
            (json!({"type":"GLOBAL","global":{"streams":"public.a"}}), "global.streams: found something else"),
            (json!({"streams":[{"stream":"a","namespace":"s","state":{"chunks":[7]}}]}), "streams: s.a: chunks[0]: found 7"),
        ] {
            let state: State = serde_json::from_value(text).expect("shape");
            let error = state.validate().expect_err("refuse");
            assert!(error.to_string().contains(place), "{error}");
        }
    }
}
