//! What is left to read: the plan of every table, less the chunks of an earlier run that still hold.

use super::advance::{self, Aim};
use super::keeper::Keeper;
use super::plan::StreamPlan;
use super::settle::{self, Mark, Stamp};
use super::{OPEN_AT_ONCE, StreamRun, split};
use crate::chunks::{Chunk, pages};
use crate::error::{Error, Result};
use crate::postgres::catalog::{Access, Leaf, TableInfo};
use crate::postgres::connect;
use crate::postgres::exported::Exported;
use crate::state::captured::{Captured, Seen};
use crate::state::progress::{Load, StagedChunk, gaps, verify_query};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uuid::Uuid;
use writers::{Commit, Part, Stats, Table};

/// What one stream of an attempt has to do.
#[derive(Debug)]
pub struct Work<P> {
    /// What is read, and what becomes of it.
    pub aim: Aim,
    /// Names the load in the destination's staging area.
    pub generation: String,
    /// Which attempt at the load this is; part of the names of its parts.
    pub attempt: u32,
    /// Parts kept from before.
    pub kept: Vec<P>,
    /// Chunks to read, neighbours beside each other.
    pub chunks: Vec<Chunk>,
    /// Everything is already committed and still true, and this is what it holds: nothing to do.
    pub done: Option<Stats>,
}

/// What the streams of an attempt have in common.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// The instant.
    pub exported: &'a Exported,
    /// The state.
    pub keeper: &'a Keeper,
    /// How chunks are made.
    pub terms: split::Terms,
    /// See [`super::advance::is_quiet`].
    pub quiet: bool,
}

/// Decides for every stream what to keep and what to read, and records the loads in the state.
pub async fn prepare<T: Table>(streams: &[Arc<StreamRun<T>>], ground: Ground<'_>) -> Result<Vec<Work<T::Part>>> {
    let mut aims = aims(streams, ground).await?;
    // Looking at chunks of an earlier run takes turns on one session; beginning a load only waits for the destination.
    let is_new = |stream: &&Arc<StreamRun<T>>| ground.keeper.read(|state| !state.lakeward.loads.contains_key(&stream.plan.id));
    let begin = async |(stream, aim): (&Arc<StreamRun<T>>, Option<Aim>)| {
        let work = start(stream, &mut *stream.table.lock().await, aim, ground).await;
        work.map(|work| (stream.plan.id.clone(), work)).map_err(|e| e.doing(doing(stream)))
    };
    let new: Vec<_> = streams.iter().filter(is_new).map(|stream| (stream, aims.remove(&stream.plan.id))).collect();
    let mut begun: HashMap<String, Work<T::Part>> =
        futures::stream::iter(new).map(begin).buffer_unordered(OPEN_AT_ONCE).try_collect().await?;
    let mut all = Vec::with_capacity(streams.len());
    for stream in streams {
        let work = match begun.remove(&stream.plan.id) {
            Some(work) => work,
            None => go_on(stream, aims.remove(&stream.plan.id), ground).await.map_err(|e| e.doing(doing(stream)))?,
        };
        let meter = &stream.meter;
        meter.restart();
        meter.chunks_kept.store(work.kept.len() as u64, Relaxed);
        meter.chunks_done.store(work.kept.len() as u64, Relaxed);
        meter.chunks_planned.store((work.kept.len() + work.chunks.len()) as u64, Relaxed);
        let follows = stream.plan.capture.is_some() && work.done.is_some();
        if !follows && (work.done.is_some() || !work.kept.is_empty()) {
            tracing::info!(
                "{}: {} parts of an earlier run still hold, {} chunks to read",
                stream.plan.id,
                work.kept.len(),
                work.chunks.len()
            );
        }
        all.push(work);
    }
    Ok(all)
}

fn doing<T: Table>(stream: &StreamRun<T>) -> String {
    format!("prepare {}", stream.plan.id)
}

/// What each stream is to read, by stream, before anything is changed: a state that contradicts the source or the destination is
/// refused, and is left as it is. Not for a stream that is yet to be settled.
async fn aims<T: Table>(streams: &[Arc<StreamRun<T>>], ground: Ground<'_>) -> Result<HashMap<String, Aim>> {
    let aim = async |stream: &Arc<StreamRun<T>>| {
        let table = stream.table.lock().await;
        let load = ground.keeper.read(|state| state.lakeward.loads.get(&stream.plan.id).cloned());
        if load.is_some_and(|load| load.cursor.is_some() && is_committed(&*table, &load)) {
            return Ok(None);
        }
        let aim = advance::aim(stream, &*table, ground.exported, ground.keeper, ground.quiet).await;
        aim.map(|aim| Some((stream.plan.id.clone(), aim))).map_err(|e| e.doing(doing(stream)))
    };
    let aims: Vec<_> = futures::stream::iter(streams).map(aim).buffer_unordered(OPEN_AT_ONCE).try_collect().await?;
    Ok(aims.into_iter().flatten().collect())
}

/// Whether the destination's last commit is this load.
fn is_committed<T: Table>(table: &T, load: &Load) -> bool {
    table.committed().and_then(Mark::read).is_some_and(|mark| mark.load == load.generation)
}

/// Takes up the load that an earlier run or attempt has left.
async fn go_on<T: Table>(stream: &StreamRun<T>, aim: Option<Aim>, ground: Ground<'_>) -> Result<Work<T::Part>> {
    let Ground { exported, keeper, .. } = ground;
    let mut table = stream.table.lock().await;
    let id = &stream.plan.id;
    let Some(mut load) = keeper.read(|state| state.lakeward.loads.get(id).cloned()) else {
        return start(stream, &mut table, aim, ground).await;
    };
    // The token wins. A run may have committed these chunks and died before it could say so; or somebody else has
    // replaced or removed the table since, or this is another destination, and then the chunks are of no use.
    let committed = is_committed(&*table, &load);
    if committed && load.cursor.is_some() {
        keeper.commit(|state| settle::committed(state, &stream.plan, true))?;
        return start(stream, &mut table, None, ground).await;
    }
    let judged = table.committed().and_then(Stamp::read).is_some_and(|stamp| stamp.filter == filter_of(&stream.plan));
    if committed && load.seen.is_some() && stream.plan.capture.is_some() && judged {
        keeper.commit(|state| settle::committed(state, &stream.plan, true))?;
        return follow(stream, &mut table).await;
    }
    let aim = match aim {
        Some(aim) => aim,
        None => advance::aim(stream, &*table, exported, keeper, ground.quiet).await?,
    };
    if load.committed && !committed {
        tracing::info!("{id}: the destination does not have what the interrupted run committed; loading it from the start");
        return start(stream, &mut table, Some(aim), ground).await;
    }
    if load.fingerprint != fingerprint(stream, &aim) {
        tracing::info!("{id}: the table or its settings changed since the interrupted run; loading it from the start");
        return start(stream, &mut table, Some(aim), ground).await;
    }
    let held = still_true(stream, &load, aim.filter.as_deref(), exported).await?;
    if committed {
        if held.len() == load.chunks.len() && covers_all(&stream.info, &load, &held) {
            table.adopt(Vec::new()).await?;
            let mut stats = Stats::default();
            for part in parts::<T::Part>(id, &held)? {
                stats += part.stats();
            }
            let (kept, chunks) = (Vec::new(), Vec::new());
            return Ok(Work { aim, generation: load.generation, attempt: 0, kept, chunks, done: Some(stats) });
        }
        // Committed, but the table has changed since: it is loaded anew, so that all tables show one instant.
        return start(stream, &mut table, Some(aim), ground).await;
    }
    let adopted: Vec<_> = table.adopt(parts(id, &held)?).await?.into_iter().flatten().collect();
    let values = adopted.iter().map(value).collect::<Result<HashSet<_>>>()?;
    let (kept, lost): (Vec<_>, Vec<_>) = load.chunks.into_iter().partition(|chunk| values.contains(&chunk.part.to_string()));
    load.chunks = kept.into_iter().map(|chunk| StagedChunk { read_at: exported.moment.clone(), ..chunk }).collect();
    load.attempt += 1;
    load.cursor.clone_from(&aim.next);
    load.seen = seen(stream, exported);
    let chunks = match remaining(stream, &mut load, lost, ground)? {
        Some(chunks) => chunks,
        None => return start(stream, &mut table, Some(aim), ground).await,
    };
    let (generation, attempt) = (load.generation.clone(), load.attempt);
    keeper.commit(|state| {
        if aim.how == Commit::Replace && stream.plan.cursor.is_none() {
            // An empty list would tell OLake that the table is loaded; it is not before it is committed.
            let left = match chunks.is_empty() {
                true => vec![json!({"min": "'(0,0)'", "max": "'(4294967295,0)'"})],
                false => chunks.iter().map(Chunk::olake_form).collect(),
            };
            state.set_chunks(&stream.info.namespace, &stream.info.name, left);
        }
        state.lakeward.loads.insert(id.clone(), load);
    })?;
    Ok(Work { aim, generation, attempt, kept: adopted, chunks, done: None })
}

/// What a load's staged chunks are good for: a load of the same fingerprint.
fn fingerprint<T: Table>(stream: &StreamRun<T>, aim: &Aim) -> String {
    if aim.basis.is_empty() { stream.plan.fingerprint.clone() } else { format!("{}|{}", stream.plan.fingerprint, aim.basis) }
}

fn value<P: Part>(part: &P) -> Result<String> {
    serde_json::to_value(part).map(|value| value.to_string()).map_err(|e| Error::bug(format!("serialise a part: {e}")))
}

/// The parts of staged chunks, each once.
fn parts<P: Part>(id: &str, chunks: &[StagedChunk]) -> Result<Vec<P>> {
    let read = |chunk: &StagedChunk| serde_json::from_value(chunk.part.clone());
    let mut told = HashSet::new();
    chunks
        .iter()
        .filter(|chunk| told.insert(chunk.part.to_string()))
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|e| Error::state(format!("lakeward.loads.{id}: a staged part: {e}")))
}

/// What the filter of a followed stream asks, as the state keeps it.
fn filter_of(plan: &StreamPlan) -> String {
    plan.capture.as_ref().map(|capture| capture.filter.clone()).unwrap_or_default()
}

/// A stream without a first load: what was committed before the slot is read from here is not wanted.
async fn follow_only<T: Table>(stream: &StreamRun<T>, table: &mut T, keeper: &Keeper) -> Result<Work<T::Part>> {
    let load = Uuid::now_v7().simple().to_string();
    let plan = &stream.plan;
    let captured = Captured {
        columns: plan.numbers.clone(),
        partitions: plan.partitions.clone(),
        heaps: Some(plan.heaps.clone()),
        filter: filter_of(plan),
        ..Captured::new(load, plan.spec.source.clone(), None)
    };
    keeper.commit(|state| {
        state.complete(&stream.info.namespace, &stream.info.name);
        state.lakeward.captures.insert(stream.plan.id.clone(), captured);
    })?;
    follow(stream, table).await
}

/// A stream that is copied in ranges while its changes are followed: what is left to copy is noted, and the rest is done between two commits of changes
/// ([`super::capture_ranges`]).
async fn copy_beside<T: Table>(stream: &StreamRun<T>, table: &mut T, ground: Ground<'_>) -> Result<Work<T::Part>> {
    let plan = &stream.plan;
    let aim = Aim::everything(plan.filter.clone());
    let left = split::chunks(ground.exported.client(), plan, &stream.info, &aim, ground.terms).await?;
    let source = &plan.spec.source;
    let mut captured = Captured {
        columns: plan.numbers.clone(),
        filter: filter_of(plan),
        partitions: plan.partitions.clone(),
        heaps: Some(plan.heaps.clone()),
        left,
        ..Captured::new(Uuid::now_v7().simple().to_string(), source.clone(), None)
    };
    tracing::info!("{}: copied in {} ranges of its key, while its changes are followed", plan.id, captured.left.len());
    ground.keeper.commit(|state| {
        if let Some(before) = state.lakeward.captures.remove(&plan.id).filter(|before| before.table == *source) {
            captured.columns = before.columns;
            captured.reshape(&plan.numbers);
        }
        state.lakeward.loads.remove(&plan.id);
        state.lakeward.cursors.remove(&plan.id);
        state.forget_cursors(&stream.info.namespace, &stream.info.name);
        state.set_chunks(&stream.info.namespace, &stream.info.name, captured.left.iter().map(Chunk::olake_form).collect());
        state.lakeward.captures.insert(plan.id.clone(), captured);
    })?;
    follow(stream, table).await
}

/// A stream whose changes are followed from here on: there is nothing to load.
async fn follow<T: Table>(stream: &StreamRun<T>, table: &mut T) -> Result<Work<T::Part>> {
    table.adopt(Vec::new()).await?;
    let aim = Aim::everything(stream.plan.filter.clone());
    Ok(Work { aim, generation: String::new(), attempt: 0, kept: Vec::new(), chunks: Vec::new(), done: Some(Stats::default()) })
}

/// What a load that is read now has seen, where changes will follow it.
fn seen<T: Table>(stream: &StreamRun<T>, exported: &Exported) -> Option<Seen> {
    stream.plan.capture.as_ref().map(|_| exported.seen())
}

/// Begins a load: a new generation, everything staged earlier is removed.
async fn start<T: Table>(stream: &StreamRun<T>, table: &mut T, aim: Option<Aim>, ground: Ground<'_>) -> Result<Work<T::Part>> {
    let Ground { exported, keeper, .. } = ground;
    if stream.plan.capture.is_some()
        && keeper.read(|state| state.lakeward.captures.get(&stream.plan.id).is_some_and(|captured| !captured.reload))
    {
        return follow(stream, table).await;
    }
    if stream.plan.capture.as_ref().is_some_and(|capture| !capture.loads) {
        return follow_only(stream, table, keeper).await;
    }
    if stream.plan.capture.as_ref().is_some_and(|capture| capture.by_ranges) {
        return copy_beside(stream, table, ground).await;
    }
    let aim = match aim {
        Some(aim) => aim,
        None => advance::aim(stream, table, exported, keeper, ground.quiet).await?,
    };
    table.adopt(Vec::new()).await?;
    let generation = Uuid::now_v7().simple().to_string();
    let chunks = split::chunks(exported.client(), &stream.plan, &stream.info, &aim, ground.terms).await?;
    // Not saved at once: a load that is not known after a crash is only begun again.
    keeper.change(|state| {
        let load = Load {
            generation: generation.clone(),
            fingerprint: fingerprint(stream, &aim),
            attempt: 0,
            chunks: Vec::new(),
            left: chunks.iter().filter(|chunk| chunk.keys.is_some()).cloned().collect(),
            cursor: aim.next.clone(),
            seen: seen(stream, exported),
            committed: false,
        };
        let (namespace, name) = (&stream.info.namespace, &stream.info.name);
        match (aim.how, &stream.plan.cursor) {
            (Commit::Replace, None) => state.set_chunks(namespace, name, chunks.iter().map(Chunk::olake_form).collect()),
            // What is staged is not in the destination: OLake, if it goes on from here, has to begin anew.
            (Commit::Replace, Some(_)) => state.forget_olake(namespace, name),
            (Commit::Append, _) => {}
        }
        state.lakeward.loads.insert(stream.plan.id.clone(), load);
    })?;
    Ok(Work { aim, generation, attempt: 0, kept: Vec::new(), chunks, done: None })
}

/// The staged chunks whose rows are the same at the new snapshot; of chunks that share a part all or none.
async fn still_true<T: Table>(stream: &StreamRun<T>, load: &Load, filter: Option<&str>, exported: &Exported) -> Result<Vec<StagedChunk>> {
    let leaves: HashMap<u32, &Leaf> = stream.info.leaves.iter().map(|l| (l.oid, l)).collect();
    let mut spoilt = HashSet::new();
    for staged in &load.chunks {
        let part = staged.part.to_string();
        let chunk = &staged.chunk;
        let same_heap = leaves
            .get(&chunk.oid)
            .is_some_and(|l| l.filenode == chunk.filenode && l.name == chunk.relation && l.namespace == chunk.namespace);
        let holds = !spoilt.contains(&part)
            && same_heap
            && staged.read_at.continues(&exported.moment)
            && unchanged(staged, filter, exported).await?;
        if !holds {
            spoilt.insert(part);
        }
    }
    Ok(load.chunks.iter().filter(|staged| !spoilt.contains(&staged.part.to_string())).cloned().collect())
}

async fn unchanged(chunk: &StagedChunk, filter: Option<&str>, exported: &Exported) -> Result<bool> {
    let sql = |e: tokio_postgres::Error| connect::sql_error(&e);
    exported.client().batch_execute("SAVEPOINT verify").await.map_err(sql)?;
    match exported.client().query_typed_one(&verify_query(chunk, filter), &[]).await {
        Ok(row) => {
            exported.client().batch_execute("RELEASE verify").await.map_err(sql)?;
            let (rows, unseen): (i64, i64) = (row.get(0), row.get(1));
            Ok(unseen == 0 && u64::try_from(rows) == Ok(chunk.rows))
        }
        Err(error) => {
            // A chunk that cannot be checked is read again.
            exported.client().batch_execute("ROLLBACK TO verify").await.map_err(sql)?;
            let Chunk { namespace, relation, .. } = &chunk.chunk;
            tracing::warn!("{namespace}.{relation}: {}; the chunk is read again", connect::sql_error(&error));
            Ok(false)
        }
    }
}

fn covers_all(table: &TableInfo, load: &Load, held: &[StagedChunk]) -> bool {
    if held.iter().any(|staged| staged.chunk.keys.is_some()) {
        return load.left.is_empty() && same_heaps(table, held.iter().map(|staged| &staged.chunk));
    }
    !table.leaves.is_empty() && table.leaves.iter().all(|leaf| gaps(&covered(leaf, held)).is_empty())
}

/// Whether `chunks` are of exactly the heaps that the table has.
fn same_heaps<'c>(table: &TableInfo, chunks: impl Iterator<Item = &'c Chunk>) -> bool {
    let planned: HashSet<u32> = chunks.map(|chunk| chunk.oid).collect();
    planned == table.leaves.iter().map(|leaf| leaf.oid).collect()
}

fn covered(leaf: &Leaf, chunks: &[StagedChunk]) -> Vec<(u64, Option<u64>)> {
    chunks.iter().map(|staged| &staged.chunk).filter(|c| c.oid == leaf.oid).map(|c| (c.from_page, c.to_page)).collect()
}

/// What the kept chunks leave uncovered, cut into chunks; `None` to begin again. `lost` are staged chunks that are not kept.
fn remaining<T: Table>(stream: &StreamRun<T>, load: &mut Load, lost: Vec<StagedChunk>, ground: Ground<'_>) -> Result<Option<Vec<Chunk>>> {
    if load.chunks.is_empty() {
        return Ok(None);
    }
    let table = &stream.info;
    if load.chunks.iter().all(|staged| staged.chunk.keys.is_none()) {
        let mut chunks = Vec::new();
        for leaf in &table.leaves {
            for (from, to) in gaps(&covered(leaf, &load.chunks)) {
                chunks.extend(pages::split(leaf, from, to, ground.terms.server_version, ground.terms.of(table).target_bytes));
            }
        }
        return Ok(Some(chunks));
    }
    load.left.extend(lost.into_iter().map(|staged| staged.chunk));
    if !same_heaps(table, load.left.iter().chain(load.chunks.iter().map(|staged| &staged.chunk))) {
        return Ok(None);
    }
    for chunk in &mut load.left {
        // The heap may have been rewritten; what is read from now on is of the new one.
        chunk.filenode = table.leaves.iter().find(|leaf| leaf.oid == chunk.oid).map_or(0, |leaf| leaf.filenode);
    }
    Ok(Some(load.left.clone()))
}

/// What a chunk that has just been staged looks like in the state.
pub fn staged<P: Part>(table: &TableInfo, chunk: &Chunk, rows: u64, exported: &Exported, part: &P) -> Result<Option<StagedChunk>> {
    // Relations without a heap of their own (views, foreign tables), those of which row security or privileges show only
    // a part, and virtual columns (PostgreSQL 18: their expression may change without a row changing) cannot be checked later.
    let virtual_columns = exported.server_version >= 180_000 && table.columns.iter().any(|column| column.generated);
    if table.access != Access::Leaves || chunk.tree || chunk.filenode == 0 || virtual_columns {
        return Ok(None);
    }
    let part = serde_json::to_value(part).map_err(|e| Error::bug(format!("serialise a part: {e}")))?;
    Ok(Some(StagedChunk { chunk: chunk.clone(), rows, read_at: exported.moment.clone(), part }))
}
