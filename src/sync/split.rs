//! How one stream is cut into chunks: decides between pages and keys, and asks the server for what it takes to decide.

use super::advance::Aim;
use super::plan::StreamPlan;
use crate::chunks::keys::{self, Key, Sample, Size};
use crate::chunks::{Chunk, pages};
use crate::error::Result;
use crate::postgres::catalog::{Access, RelationKind, TableInfo};
use crate::postgres::connect;
use serde_json::Value;
use std::collections::HashSet;
use tokio_postgres::{Client, SimpleQueryMessage};
use writers::Commit;

/// Rows of a chunk where nothing tells how many bytes a row has.
const ROWS_TOGETHER: u64 = 500_000;

/// How chunks are made.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// `server_version_num`.
    pub server_version: u32,
    /// Size of a chunk, heap and TOAST.
    pub target_bytes: u64,
    /// Rows of a chunk, if the source file says so.
    pub chunk_rows: Option<u64>,
}

impl Terms {
    fn size(self) -> Size {
        Size { bytes: self.target_bytes, rows: self.chunk_rows.unwrap_or(ROWS_TOGETHER) }
    }

    /// The same in terms of this table.
    pub fn of(self, table: &TableInfo) -> Self {
        match (self.chunk_rows, table.bytes, table.estimated_rows) {
            (Some(wanted), Some(bytes), Some(rows)) if rows > 0 => {
                let target_bytes = u128::from(bytes) * u128::from(wanted) / u128::from(rows);
                Self { target_bytes: u64::try_from(target_bytes).unwrap_or(u64::MAX).max(1), ..self }
            }
            _ => self,
        }
    }
}

/// The chunks of a stream, in order, of about `target_bytes` each.
///
/// # Errors
/// A failing sample; it is a query like those that read, so what makes it fail would make them fail too.
pub async fn chunks(client: &Client, plan: &StreamPlan, table: &TableInfo, aim: &Aim, terms: Terms) -> Result<Vec<Chunk>> {
    let terms = terms.of(table);
    if aim.how == Commit::Append
        && let Some(chunks) = by_index(client, plan, table, aim, terms).await?
    {
        return Ok(chunks);
    }
    let Some(key) = key_for(plan, table, terms) else { return Ok(pages::plan(table, terms.server_version, terms.target_bytes)) };
    let mut chunks = Vec::new();
    for whole in pages::plan(table, terms.server_version, u64::MAX) {
        chunks.extend(cut(client, plan, table, whole, &key, aim, terms).await?);
    }
    Ok(chunks)
}

/// The key to cut by: what the catalog file asks for; else the primary key where pages do not help.
fn key_for(plan: &StreamPlan, table: &TableInfo, terms: Terms) -> Option<Key> {
    if plan.key.is_some() {
        return plan.key.clone();
    }
    let paged = terms.server_version >= pages::TID_RANGE_SCAN && table.access != Access::Whole;
    let large = table.bytes.is_some_and(|bytes| bytes > terms.target_bytes);
    (!paged && large && !table.primary_key.is_empty()).then(|| Key { columns: table.primary_key.clone(), nullable: false })
}

async fn cut(
    client: &Client,
    plan: &StreamPlan,
    table: &TableInfo,
    whole: Chunk,
    key: &Key,
    aim: &Aim,
    terms: Terms,
) -> Result<Vec<Chunk>> {
    let heaps: Vec<_> = table.leaves.iter().filter(|leaf| whole.tree || leaf.oid == whole.oid).collect();
    let sampled = !heaps.is_empty() && heaps.iter().all(|leaf| !leaf.foreign) && table.kind != RelationKind::View;
    let pages = sampled.then(|| heaps.iter().map(|leaf| leaf.pages).sum::<u64>());
    let size = terms.size();
    let Some(sample) = Sample::of(&whole, key, aim.filter.as_deref(), pages, size) else { return Ok(vec![whole]) };
    let by_pages = pages.filter(|_| !whole.tree && terms.server_version >= pages::TID_RANGE_SCAN && table.access == Access::Leaves);
    let mut chunks = Vec::new();
    for (chunk, pieces) in take(client, plan, &whole, key, &sample).await? {
        if pieces == 1 || by_pages.is_none_or(|pages| pages < pieces) {
            chunks.push(chunk);
            continue;
        }
        let query = keys::pages_query(&chunk, aim.filter.as_deref(), pieces);
        let rows = client
            .query_typed(&query, &[])
            .await
            .map_err(|e| connect::sql_error(&e).doing(format!("look for a frequent key of {}", plan.id)))?;
        let starts: Vec<u64> = rows.iter().filter_map(|row| u64::try_from(row.get::<_, i64>(0)).ok()).collect();
        chunks.extend(keys::by_pages(&chunk, pieces, &starts));
    }
    Ok(chunks)
}

/// Takes a sample.
async fn take(client: &Client, plan: &StreamPlan, whole: &Chunk, key: &Key, sample: &Sample) -> Result<Vec<(Chunk, u64)>> {
    let rows =
        client.query_typed(&sample.query, &[]).await.map_err(|e| connect::sql_error(&e).doing(format!("sample the key of {}", plan.id)))?;
    let looked_at = rows.first().map_or(0, |row| row.get::<_, i64>(0));
    // A part of a composite key is never NULL, and rows without a key are not looked at.
    let quantiles: Vec<Vec<String>> = rows.iter().map(|row| (1..=key.columns.len()).map(|at| row.get(at)).collect()).collect();
    Ok(sample.cut(whole, key, u64::try_from(looked_at).unwrap_or(0), &quantiles))
}

/// The chunks of an increment. What an index finds is one query, or several by ranges of the cursor when there is much; what the server
/// would look through from end to end is cut by pages, leaf by leaf.
async fn by_index(client: &Client, plan: &StreamPlan, table: &TableInfo, aim: &Aim, terms: Terms) -> Result<Option<Vec<Chunk>>> {
    let mut whole = pages::whole(table);
    let filter = aim.filter.as_deref().unwrap_or("true");
    let explain = format!("EXPLAIN (VERBOSE, FORMAT JSON) SELECT {} {} WHERE {filter}", plan.select(aim).join(", "), whole.source());
    let messages =
        client.simple_query(&explain).await.map_err(|e| connect::sql_error(&e).doing(format!("plan what is new in {}", plan.id)))?;
    let text: String =
        messages.iter().filter_map(|message| if let SimpleQueryMessage::Row(row) = message { row.get(0) } else { None }).collect();
    let explained: Value = serde_json::from_str(&text).unwrap_or_default();
    let root = &explained[0]["Plan"];
    let rows = root["Plan Rows"].as_f64().unwrap_or(0.0).max(0.0) as u64;
    let width = root["Plan Width"].as_u64().unwrap_or(100).max(1);
    (whole.estimated_rows, whole.estimated_bytes) = (Some(rows), rows.saturating_mul(width));

    let mut scanned = HashSet::new();
    collect_scanned(root, &mut scanned);
    if !scanned.is_empty() && table.access == Access::Leaves {
        let is_scanned = |chunk: &Chunk| scanned.contains(&(chunk.namespace.as_str(), chunk.relation.as_str()));
        if plan.key.is_some() || pages::plan(table, terms.server_version, u64::MAX).iter().all(is_scanned) {
            return Ok(None);
        }
        let mut chunks = pages::plan(table, terms.server_version, terms.target_bytes);
        chunks.retain(is_scanned);
        for leaf in pages::plan(table, terms.server_version, u64::MAX).into_iter().filter(|leaf| !is_scanned(leaf)) {
            chunks.push(Chunk { estimated_rows: None, estimated_bytes: 0, ..leaf });
        }
        return Ok(Some(chunks));
    }
    let column = plan.cursor.as_ref().and_then(|field| field.columns.first());
    let key = column.map(|column| Key { columns: vec![column.name.clone()], nullable: column.nullable });
    let size = terms.size();
    let sample = key.filter(|_| rows > size.rows).and_then(|key| Some((Sample::of(&whole, &key, aim.filter.as_deref(), None, size)?, key)));
    Ok(Some(match sample {
        Some((sample, key)) => take(client, plan, &whole, &key, &sample).await?.into_iter().map(|(chunk, _)| chunk).collect(),
        None => vec![whole],
    }))
}

/// The relations that a plan reads from end to end.
fn collect_scanned<'p>(node: &'p Value, found: &mut HashSet<(&'p str, &'p str)>) {
    if node["Node Type"] == "Seq Scan"
        && let (Some(schema), Some(name)) = (node["Schema"].as_str(), node["Relation Name"].as_str())
    {
        found.insert((schema, name));
    }
    for inner in node["Plans"].as_array().into_iter().flatten() {
        collect_scanned(inner, found);
    }
}
