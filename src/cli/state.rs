//! `state`: what the state file says, for people and for programs, and (`repair`) what the destination proves of it.

use super::{Flags, files, state_repair};
use crate::capture::finding::bytes;
use crate::capture::slot::{self, SlotInfo};
use crate::error::{Error, Result};
use crate::postgres::connect;
use crate::state::{State, olake};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What `state` is to do.
#[derive(Debug, Args)]
pub struct StateArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what the state file says of each stream; with --config also how far the slot is behind
    Show(ShowArgs),
    /// Write the state anew where the destination proves how far streams were followed. Source and destination are only read
    Repair(RepairArgs),
}

/// Flags of `state show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Flags of `state repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Print what would change, and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs `state show` or `state repair`.
pub async fn run(flags: &Flags, args: &StateArgs) -> Result<()> {
    match &args.command {
        Command::Show(args) => show(flags, args).await,
        Command::Repair(args) => Box::pin(state_repair::run(flags, args)).await,
    }
}

async fn show(flags: &Flags, args: &ShowArgs) -> Result<()> {
    let path = files::state(flags);
    let Some(state) = crate::state::file::load(&path)? else {
        return Err(Error::state(format!("state file {}: there is no such file", path.display()))
            .hint("name it with --state; a file that is lost, `lakeward state repair` writes anew as far as the destination proves it"));
    };
    let slot = slot_of(flags).await?;
    let streams = streams(&state)?;
    if args.json {
        let position = state.global.as_ref().and_then(|global| global["state"]["lsn"].as_str());
        super::print(&json!({"file": path, "position": position, "streams": streams, "slot": slot.as_ref().map(slot_json)}));
        return Ok(());
    }
    let width = |key: &str| streams.iter().filter_map(|stream| stream[key].as_str()).map(|text| text.chars().count()).max().unwrap_or(0);
    let (names, modes) = (width("stream"), width("mode"));
    for stream in &streams {
        let word = |key: &str| stream[key].as_str().unwrap_or_default();
        super::print(&format_args!("{:names$}  {:modes$}  {}", word("stream"), word("mode"), said(stream)));
    }
    if streams.is_empty() {
        super::print(&format_args!("{}: no stream has been read yet", path.display()));
    }
    if let Some(told) = state.global.as_ref().and_then(|global| global["state"]["lsn"].as_str()) {
        super::print(&format_args!("every followed stream has its changes up to {told}"));
    }
    if let Some(slot) = &slot {
        super::print(&format_args!("{}", slot_line(slot)));
    }
    Ok(())
}

/// What the state says of each stream, in the order of their names.
fn streams(state: &State) -> Result<Vec<Value>> {
    let ours = &state.lakeward;
    let of_olake = state.streams.iter().map(|stream| format!("{}.{}", stream.namespace, stream.stream));
    let ids: BTreeSet<String> =
        of_olake.chain(ours.loads.keys().cloned()).chain(ours.cursors.keys().cloned()).chain(ours.captures.keys().cloned()).collect();
    ids.into_iter().map(|id| stream(state, &id)).collect()
}

fn stream(state: &State, id: &str) -> Result<Value> {
    let ours = &state.lakeward;
    let (load, cursor, captured) = (ours.loads.get(id), ours.cursors.get(id), ours.captures.get(id));
    let listed = state.streams.iter().find(|stream| format!("{}.{}", stream.namespace, stream.stream) == id);
    let chunks = listed.map(olake::chunks).transpose()?.filter(|_| listed.is_some_and(|stream| stream.state.contains_key("chunks")));
    let other = listed.is_some_and(|stream| stream.state.keys().any(|key| key != "chunks"));
    let mode = match load {
        _ if captured.is_some() || load.is_some_and(|load| load.seen.is_some()) => "cdc",
        _ if cursor.is_some() || other || load.is_some_and(|load| load.cursor.is_some()) => "incremental",
        _ => "full_refresh",
    };
    let mut said = json!({"stream": id, "mode": mode});
    if let Some(load) = load {
        said["loading"] = json!({"load": load.generation, "committed": load.committed, "chunks_staged": load.chunks.len()});
    }
    if let Some(chunks) = chunks {
        said["chunks_left"] = json!(chunks.len());
    }
    if let Some(cursor) = cursor {
        said["load"] = json!(cursor.load);
        said["cursor"] = json!({"field": cursor.field, "values": cursor.values, "read_at": cursor.read_at.lsn});
    } else if let Some(listed) = listed.filter(|_| other) {
        let values: serde_json::Map<_, _> =
            listed.state.iter().filter(|(key, _)| *key != "chunks").map(|(k, v)| (k.clone(), v.clone())).collect();
        said["olake_cursor"] = Value::Object(values);
    }
    if let Some(captured) = captured {
        said["load"] = json!(captured.load);
        said["lsn"] = json!(captured.lsn);
        said["written"] = json!(captured.written);
        said["after_first_load"] = json!(captured.seen.as_ref().map(|seen| &seen.moment.lsn));
    }
    Ok(said)
}

/// The same for people.
fn said(stream: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut parts = Vec::new();
    if stream["loading"].is_object() {
        let loading = &stream["loading"];
        let what = if loading["committed"] == json!(true) { "committed, waits for the other tables" } else { "is being loaded" };
        parts.push(format!("load {} {what}, {} chunks staged", text(&loading["load"]), loading["chunks_staged"]));
    }
    if let Some(load) = stream["load"].as_str().filter(|load| !load.is_empty()) {
        parts.push(format!("load {load}"));
    }
    match stream["chunks_left"].as_u64() {
        Some(0) if parts.is_empty() => parts.push("loaded".to_owned()),
        Some(0) | None => {}
        Some(left) => parts.push(format!("{left} chunks left")),
    }
    if let Some(cursor) = stream["cursor"].as_object() {
        let values: Vec<String> = cursor["values"].as_array().into_iter().flatten().map(&text).collect();
        parts.push(format!("{} read up to {}", text(&cursor["field"]), values.join(", ")));
    }
    for (column, value) in stream["olake_cursor"].as_object().into_iter().flatten() {
        parts.push(format!("{column} read up to {}", text(value)));
    }
    if stream.get("lsn").is_some() {
        parts.push(match stream["after_first_load"].as_str() {
            Some(snapshot) => format!("changes up to {}, beside a first load at {snapshot}", text(&stream["lsn"])),
            None => format!("changes up to {}", text(&stream["lsn"])),
        });
        if let Some(written) = stream["written"].as_str() {
            parts.push(format!("the last ones written at {written}"));
        }
    }
    if parts.is_empty() { "nothing is committed yet".to_owned() } else { parts.join(", ") }
}

/// The slot of `--config`, if there is one and the server can be reached.
async fn slot_of(flags: &Flags) -> Result<Option<SlotInfo>> {
    if flags.config.is_none() {
        return Ok(None);
    }
    let (source, options) = super::read_source(flags).await?;
    let Some(terms) = source.capture()? else { return Ok(None) };
    let look = async {
        let session = connect::session(&options).await?;
        let found = slot::find(&session, &terms.slot).await?;
        session.close().await;
        Ok::<_, Error>(found)
    };
    match look.await {
        Ok(None) => tracing::warn!("there is no replication slot {}", terms.slot),
        Ok(found) => return Ok(found),
        Err(error) => tracing::warn!("the slot is not shown: {error}"),
    }
    Ok(None)
}

fn slot_json(slot: &SlotInfo) -> Value {
    json!({
        "name": slot.name, "forgotten_before": slot.confirmed_flush, "kept_from": slot.restart_lsn, "held_bytes": slot.lag_bytes,
        "unread_bytes": slot.unread_bytes, "reader": slot.reader.as_ref().map(ToString::to_string), "usable": slot.invalidation.is_none(),
    })
}

fn slot_line(slot: &SlotInfo) -> String {
    let mut line = format!("slot {}", slot.name);
    if let Some(confirmed) = slot.confirmed_flush {
        line += &format!(" may forget everything before {confirmed}");
    }
    if let (Some(held), Some(unread)) = (slot.lag_bytes, slot.unread_bytes) {
        line += &format!(", holds back {} of log, of which {} are unread", bytes(held), bytes(unread));
    }
    if let Some(reader) = &slot.reader {
        line += &format!(", is read by {reader}");
    }
    if slot.invalidation.is_some() {
        line += ", is invalidated and of no use any more";
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_entry_is_said() {
        let moment = json!({"system": "1", "timeline": 1, "database": 5, "xmin": 9, "xmax": 9, "lsn": "0/5", "durable": true});
        let file = json!({"type": "STREAM", "version": 7, "streams": [
            {"namespace": "s", "stream": "done", "state": {"chunks": []}},
            {"namespace": "s", "stream": "left", "state": {"chunks": [{"min": "'(0,0)'", "max": "'(9,0)'"}]}},
            {"namespace": "s", "stream": "olake", "state": {"chunks": [], "at": "2024"}},
        ], "lakeward": {"version": 1,
            "loads": {"s.left": {"generation": "g", "fingerprint": "", "chunks": []}},
            "cursors": {"s.cursor": {"field": "id", "values": ["7"], "load": "c", "read_at": moment}},
            "captures": {"s.followed": {"load": "f", "table": "7", "lsn": "0/20", "written": "0/10"},
                         "s.begun": {"load": "b", "lsn": "0/0", "seen": {"moment": moment}}}}});
        let state: State = serde_json::from_value(file).expect("a state");
        let told: Vec<String> = streams(&state)
            .expect("streams")
            .iter()
            .map(|stream| {
                format!(
                    "{} {}: {}",
                    stream["stream"].as_str().unwrap_or_default(),
                    stream["mode"].as_str().unwrap_or_default(),
                    said(stream)
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                "s.begun cdc: load b, changes up to 0/0, beside a first load at 0/5",
                "s.cursor incremental: load c, id read up to 7",
                "s.done full_refresh: loaded",
                "s.followed cdc: load f, changes up to 0/20, the last ones written at 0/10",
                "s.left full_refresh: load g is being loaded, 0 chunks staged, 1 chunks left",
                "s.olake incremental: loaded, at read up to 2024",
            ]
        );
    }
}
