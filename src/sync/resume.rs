//! What is left to read: the plan of every table, less the chunks of an earlier run that still hold.

use super::keeper::Keeper;
use super::settle::Mark;
use super::{OPEN_AT_ONCE, StreamRun};
use crate::error::{Error, Result};
use crate::postgres::catalog::{Access, Leaf, TableInfo};
use crate::postgres::chunk::{self, Chunk};
use crate::postgres::connect;
use crate::postgres::exported::Exported;
use crate::state::progress::{Load, StagedChunk, gaps, verify_query};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uuid::Uuid;
use writers::{Part, Stats, Table};

/// What one stream of an attempt has to do.
#[derive(Debug)]
pub struct Work<P> {
    /// Names the load in the destination's staging area.
    pub generation: String,
    /// Which attempt at the load this is; part of the names of its parts.
    pub attempt: u32,
    /// Parts kept from before.
    pub kept: Vec<P>,
    /// Chunks to read.
    pub chunks: Vec<Chunk>,
    /// Everything is already committed and still true, and this is what it holds: nothing to do.
    pub done: Option<Stats>,
}

/// Decides for every stream what to keep and what to read, and records the loads in the state.
pub async fn prepare<T: Table>(
    streams: &[Arc<StreamRun<T>>],
    exported: &Exported,
    keeper: &Keeper,
    chunk_bytes: u64,
) -> Result<Vec<Work<T::Part>>> {
    // Looking at chunks of an earlier run takes turns on one session; beginning a load only waits for the destination.
    let is_new = |stream: &&Arc<StreamRun<T>>| keeper.read(|state| !state.lakeward.loads.contains_key(&stream.plan.id));
    let doing = |stream: &StreamRun<T>| format!("prepare {}", stream.plan.id);
    let begin = async |stream: &Arc<StreamRun<T>>| {
        let work = start(stream, &mut *stream.table.lock().await, keeper, chunk_bytes, exported).await;
        work.map(|work| (stream.plan.id.clone(), work)).map_err(|e| e.doing(doing(stream)))
    };
    let mut begun: HashMap<String, Work<T::Part>> =
        futures::stream::iter(streams.iter().filter(is_new)).map(begin).buffer_unordered(OPEN_AT_ONCE).try_collect().await?;
    let mut all = Vec::with_capacity(streams.len());
    for stream in streams {
        let work = match begun.remove(&stream.plan.id) {
            Some(work) => work,
            None => prepare_stream(stream, exported, keeper, chunk_bytes).await.map_err(|e| e.doing(doing(stream)))?,
        };
        let meter = &stream.meter;
        meter.restart();
        meter.chunks_kept.store(work.kept.len() as u64, Relaxed);
        meter.chunks_done.store(work.kept.len() as u64, Relaxed);
        meter.chunks_planned.store((work.kept.len() + work.chunks.len()) as u64, Relaxed);
        if work.done.is_some() || !work.kept.is_empty() {
            tracing::info!("{}: {} chunks of an earlier run still hold, {} to read", stream.plan.id, work.kept.len(), work.chunks.len());
        }
        all.push(work);
    }
    Ok(all)
}

async fn prepare_stream<T: Table>(stream: &StreamRun<T>, exported: &Exported, keeper: &Keeper, chunk_bytes: u64) -> Result<Work<T::Part>> {
    let mut table = stream.table.lock().await;
    let id = &stream.plan.id;
    let mut load = keeper.read(|state| state.lakeward.loads.get(id).cloned());
    if let Some(found) = &mut load {
        // The token wins. A run may have committed these chunks and died before it could say so; or somebody else has
        // replaced or removed the table since, or this is another destination, and then the chunks are of no use.
        let committed = table.committed().and_then(Mark::read).is_some_and(|mark| mark.load == found.generation);
        if found.committed && !committed {
            tracing::info!("{id}: the destination does not have what the interrupted run committed; loading it from the start");
            load = None;
        } else {
            found.committed = committed;
        }
    }
    if load.as_ref().is_some_and(|l| l.fingerprint != stream.plan.fingerprint) {
        tracing::info!("{id}: the table or its settings changed since the interrupted run; loading it from the start");
        load = None;
    }
    let held = match &load {
        Some(load) => still_true(stream, load, exported).await?,
        None => Vec::new(),
    };
    if let Some(load) = &load
        && load.committed
    {
        if held.len() == load.chunks.len() && covers_all(&stream.info, &held) {
            table.adopt(Vec::new()).await?;
            let mut stats = Stats::default();
            for part in parts::<T::Part>(id, &held)? {
                stats += part.stats();
            }
            return Ok(Work { generation: load.generation.clone(), attempt: 0, kept: Vec::new(), chunks: Vec::new(), done: Some(stats) });
        }
        // Committed, but the table has changed since: it is loaded anew, so that all tables show one instant.
        return start(stream, &mut table, keeper, chunk_bytes, exported).await;
    }
    let Some(mut load) = load else { return start(stream, &mut table, keeper, chunk_bytes, exported).await };
    let adopted = table.adopt(parts(id, &held)?).await?;
    let mut kept = Vec::new();
    load.chunks.clear();
    load.attempt += 1;
    for (mut chunk, part) in held.into_iter().zip(adopted) {
        if let Some(part) = part {
            chunk.read_at = exported.moment.clone();
            load.chunks.push(chunk);
            kept.push(part);
        }
    }
    let chunks = remaining(&stream.info, &load.chunks, exported, chunk_bytes);
    let (generation, attempt) = (load.generation.clone(), load.attempt);
    keeper.commit(|state| {
        // An empty list would tell OLake that the table is loaded; it is not before it is committed.
        let left = match chunks.is_empty() {
            true => vec![json!({"min": "'(0,0)'", "max": "'(4294967295,0)'"})],
            false => chunks.iter().map(olake_form).collect(),
        };
        state.set_chunks(&stream.info.namespace, &stream.info.name, left);
        state.lakeward.loads.insert(id.clone(), load);
    })?;
    Ok(Work { generation, attempt, kept, chunks, done: None })
}

fn parts<P: Part>(id: &str, chunks: &[StagedChunk]) -> Result<Vec<P>> {
    let read = |chunk: &StagedChunk| serde_json::from_value(chunk.part.clone());
    chunks.iter().map(read).collect::<Result<_, _>>().map_err(|e| Error::state(format!("lakeward.loads.{id}: a staged part: {e}")))
}

/// Begins a load: a new generation, everything staged earlier is removed.
async fn start<T: Table>(
    stream: &StreamRun<T>,
    table: &mut T,
    keeper: &Keeper,
    chunk_bytes: u64,
    exported: &Exported,
) -> Result<Work<T::Part>> {
    table.adopt(Vec::new()).await?;
    let generation = Uuid::now_v7().simple().to_string();
    let chunks = chunk::plan(&stream.info, exported.server_version, chunk_bytes);
    // Not saved at once: a load that is not known after a crash is only begun again.
    keeper.change(|state| {
        let load = Load {
            generation: generation.clone(),
            fingerprint: stream.plan.fingerprint.clone(),
            attempt: 0,
            chunks: Vec::new(),
            committed: false,
        };
        state.set_chunks(&stream.info.namespace, &stream.info.name, chunks.iter().map(olake_form).collect());
        state.lakeward.loads.insert(stream.plan.id.clone(), load);
    })?;
    Ok(Work { generation, attempt: 0, kept: Vec::new(), chunks, done: None })
}

/// The staged chunks whose rows are the same at the new snapshot.
async fn still_true<T: Table>(stream: &StreamRun<T>, load: &Load, exported: &Exported) -> Result<Vec<StagedChunk>> {
    let leaves: HashMap<u32, &Leaf> = stream.info.leaves.iter().map(|l| (l.oid, l)).collect();
    let mut held = Vec::new();
    for chunk in &load.chunks {
        let same_heap = leaves
            .get(&chunk.oid)
            .is_some_and(|l| l.filenode == chunk.filenode && l.name == chunk.relation && l.namespace == chunk.namespace);
        if same_heap && chunk.read_at.continues(&exported.moment) && unchanged(chunk, stream.plan.filter.as_deref(), exported).await? {
            held.push(chunk.clone());
        }
    }
    Ok(held)
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
            tracing::warn!("{}.{}: {}; the chunk is read again", chunk.namespace, chunk.relation, connect::sql_error(&error));
            Ok(false)
        }
    }
}

fn covers_all(table: &TableInfo, chunks: &[StagedChunk]) -> bool {
    !table.leaves.is_empty() && table.leaves.iter().all(|leaf| gaps(&covered(leaf, chunks)).is_empty())
}

fn covered(leaf: &Leaf, chunks: &[StagedChunk]) -> Vec<(u64, Option<u64>)> {
    chunks.iter().filter(|c| c.oid == leaf.oid).map(|c| (c.from_page, c.to_page)).collect()
}

/// What the kept chunks leave uncovered, cut into chunks. Without kept chunks this is the ordinary plan.
fn remaining(table: &TableInfo, kept: &[StagedChunk], exported: &Exported, chunk_bytes: u64) -> Vec<Chunk> {
    if kept.is_empty() {
        return chunk::plan(table, exported.server_version, chunk_bytes);
    }
    let mut chunks = Vec::new();
    for leaf in &table.leaves {
        for (from, to) in gaps(&covered(leaf, kept)) {
            chunks.extend(chunk::split(leaf, from, to, exported.server_version, chunk_bytes));
        }
    }
    chunks
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
    Ok(Some(StagedChunk {
        namespace: chunk.namespace.clone(),
        relation: chunk.relation.clone(),
        oid: chunk.oid,
        filenode: chunk.filenode,
        from_page: chunk.from_page,
        to_page: chunk.to_page,
        rows,
        read_at: exported.moment.clone(),
        part,
    }))
}

/// A chunk as OLake's state has it.
pub fn olake_form(chunk: &Chunk) -> Value {
    let (min, max) = chunk.olake_bounds();
    json!({"min": min, "max": max})
}
