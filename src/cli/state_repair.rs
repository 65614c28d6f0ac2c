//! `state repair`: holds the state file against what the destination has, and writes what that proves.
//!
//! Source and destination are only read. What cannot be proved is left out, so that the next sync loads it anew; the old file stays beside.

use super::state::RepairArgs;
use super::{Flags, files, sync};
use crate::capture::slot;
use crate::config::selection::Chosen;
use crate::config::streams::SyncMode;
use crate::error::{Error, Result};
use crate::postgres::connect::{self, ConnectOptions, Session};
use crate::repair::{self, Source, Verdict};
use crate::state::State;
use crate::state::file::{self, Content, StateFile};
use crate::sync::capture_plan::is_captured;
use std::path::Path;
use tokio_postgres::types::Type;
use writers::{AnyDestination, Token};

/// What is asked while streams are judged.
struct Ground<'a> {
    destination: &'a AnyDestination,
    options: &'a ConnectOptions,
    slot: Option<String>,
    /// Opened when something has to be proved.
    session: Option<Session>,
}

/// Repairs the state of the chosen streams.
pub async fn run(flags: &Flags, args: &RepairArgs) -> Result<()> {
    files::required(&flags.config, "config", "source.json")?;
    files::required(&flags.destination, "destination", "destination.json")?;
    files::required(&flags.catalog, "streams", "the catalog that names the streams")?;
    let (source, options) = super::read_source(flags).await?;
    let destination = super::read_destination(flags).await?;
    let chosen = super::read_chosen(flags, Some(&destination))?;
    let path = files::state(flags);
    // Looking disturbs no run that is going on.
    let lock = (!args.dry_run).then(|| StateFile::lock(&path)).transpose()?;
    let (mut state, mut changed) = match file::look(&path)? {
        Content::Whole(state) => (*state, false),
        Content::Missing => {
            super::print(&format_args!("{}: there is no such file", path.display()));
            (State::default(), false)
        }
        Content::Damaged(error) => {
            super::print(&format_args!("{error}; nothing of it is used"));
            (State::default(), true)
        }
    };
    let destination = sync::open_destination(&destination, sync::Share::for_check()).await?;
    let slot = source.capture()?.map(|terms| terms.slot);
    let mut ground = Ground { destination: &destination, options: &options, slot, session: None };
    for stream in &chosen {
        let id = stream.stream.id();
        match repaired(&mut state, stream, &mut ground).await.map_err(|e| e.doing(format!("repair the state of {id}")))? {
            Repair::Nothing => {}
            Repair::Agrees => super::print(&format_args!("{id}: agrees with the destination")),
            Repair::Changed(how) => {
                changed = true;
                super::print(&format_args!("{id}: {how}"));
            }
            Repair::LeftOut { why, removed } => {
                changed |= removed;
                super::print(&format_args!(
                    "{id}: left out: {why}. The next sync with --state loads it anew (clear-destination removes it first)"
                ));
            }
        }
    }
    if let Some(session) = ground.session {
        session.close().await;
    }
    // Told to the slot is what all have.
    if changed && let Some(position) = state.lakeward.captures.values().map(|captured| captured.lsn).min() {
        state.set_position(position);
    }
    match lock {
        _ if !changed => super::print(&format_args!("nothing to repair")),
        None => super::print(&format_args!("nothing is written: --dry-run")),
        Some(file) => {
            let kept = keep(&path)?;
            file.save(&state)?;
            let kept = kept.map(|kept| format!("; the old file is {}", kept.display())).unwrap_or_default();
            super::print(&format_args!("{} is written{kept}", path.display()));
        }
    }
    Ok(())
}

/// What has become of one stream.
enum Repair {
    /// It needs no state.
    Nothing,
    Agrees,
    Changed(String),
    LeftOut {
        why: String,
        /// The state had an entry.
        removed: bool,
    },
}

async fn repaired(state: &mut State, stream: &Chosen, ground: &mut Ground<'_>) -> Result<Repair> {
    let id = stream.stream.id();
    let followed = is_captured(stream);
    if !followed && stream.sync_mode != SyncMode::Incremental {
        return Ok(Repair::Nothing);
    }
    let token = ground.destination.token(&stream.destination_database, &stream.destination_table, &id).await?;
    if !followed {
        return Ok(by_cursor(state, stream, token.as_ref()));
    }
    let captured = state.lakeward.captures.get(&id).cloned();
    if captured.is_none() && state.lakeward.loads.contains_key(&id) {
        // A first load that is not settled: a sync goes on with it, or takes it as committed.
        return Ok(Repair::Agrees);
    }
    let loads = stream.sync_mode == SyncMode::Cdc;
    let verdict = match repair::agreement(captured.as_ref(), token.as_ref(), loads) {
        Some(verdict) => verdict,
        None if token.is_none() => repair::rebuilt(None, &Source { forgotten: None, table: None }),
        None => repair::rebuilt(token.as_ref(), &ground.source(stream).await?),
    };
    let (namespace, name) = (&stream.stream.namespace, &stream.stream.name);
    Ok(match verdict {
        Verdict::Agrees => Repair::Agrees,
        Verdict::LeftOut(why) => {
            state.forget(namespace, name);
            Repair::LeftOut { why, removed: captured.is_some() }
        }
        Verdict::Becomes(entry) => {
            let has = match entry.written {
                Some(lsn) => format!("load {} with changes up to {lsn}", entry.load),
                None => format!("load {}", entry.load),
            };
            let how = match &captured {
                Some(before) if before.load == entry.load => {
                    format!("set from changes up to {} to what the destination has: {has}", before.lsn)
                }
                Some(before) => format!("set from load {} to what the destination has: {has}", before.load),
                None => format!("rebuilt from what the destination has: {has}"),
            };
            state.lakeward.loads.remove(&id);
            state.lakeward.cursors.remove(&id);
            state.forget_cursors(namespace, name);
            state.complete(namespace, name);
            state.lakeward.captures.insert(id, *entry);
            Repair::Changed(how)
        }
    })
}

/// A stream that is read by a cursor: the token names the load, not the cursor's value.
fn by_cursor(state: &mut State, stream: &Chosen, token: Option<&Token>) -> Repair {
    let id = stream.stream.id();
    let settling = state.lakeward.loads.get(&id).filter(|load| load.cursor.is_some()).map(|load| load.generation.as_str());
    let (namespace, name) = (&stream.stream.namespace, &stream.stream.name);
    match state.lakeward.cursors.get(&id).map(|cursor| repair::incremental(cursor, settling, token)) {
        Some(None) => Repair::Agrees,
        Some(Some(why)) => {
            state.forget(namespace, name);
            Repair::LeftOut { why, removed: true }
        }
        // Begun, or OLake's.
        None if settling.is_some() || state.streams.iter().any(|s| s.namespace == *namespace && s.stream == *name) => Repair::Agrees,
        None if token.is_none() => Repair::Nothing,
        None => Repair::LeftOut { why: "how far its cursor was read is in no token".to_owned(), removed: false },
    }
}

impl Ground<'_> {
    /// What the source says of the slot and of a table.
    async fn source(&mut self, stream: &Chosen) -> Result<Source> {
        let session = match self.session.take() {
            Some(session) => session,
            None => connect::session(self.options).await?,
        };
        let asked = ask(&session, self.slot.as_deref(), stream).await;
        self.session = Some(session);
        asked
    }
}

async fn ask(session: &Session, slot: Option<&str>, stream: &Chosen) -> Result<Source> {
    let found = match slot {
        Some(name) => slot::find(session, name).await?,
        None => None,
    };
    let usable = found.filter(|slot| slot.logical && slot.invalidation.is_none());
    let sql = "SELECT c.oid::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";
    let names = [(&stream.stream.namespace as &(dyn tokio_postgres::types::ToSql + Sync), Type::TEXT), (&stream.stream.name, Type::TEXT)];
    let rows = session.client.query_typed(sql, &names).await.map_err(|e| session.error(&e).doing("look for the table"))?;
    Ok(Source { forgotten: usable.and_then(|slot| slot.confirmed_flush), table: rows.first().map(|row| row.get(0)) })
}

/// Copies the old file beside it, over no other one; where that is. `None` if there is no old file.
fn keep(path: &Path) -> Result<Option<std::path::PathBuf>> {
    let io =
        |e: std::io::Error| Error::state(format!("keep {} beside it: {e}", path.display())).hint("make room, or copy the file yourself");
    if !path.try_exists().map_err(io)? {
        return Ok(None);
    }
    let named = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(if number == 1 { ".before-repair".to_owned() } else { format!(".before-repair-{number}") });
        std::path::PathBuf::from(name)
    };
    let free = (1..).map(named).find(|kept| !kept.exists()).ok_or_else(|| Error::bug("no name is free"))?;
    std::fs::copy(path, &free).map_err(io)?;
    Ok(Some(free))
}
