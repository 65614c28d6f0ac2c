//! `sync --dry-run`: the plan, chunk by chunk, with the queries that would run. Nothing is written.

use crate::chunks;
use crate::error::Result;
use crate::postgres::catalog::TableInfo;
use crate::postgres::connect::ConnectOptions;
use crate::postgres::exported::{Exported, Relations};
use crate::state::State;
use crate::sync::plan::StreamPlan;
use crate::sync::{advance, chunk_bytes, split};
use serde_json::json;

/// Prints one JSON object per stream.
pub async fn print(
    options: &ConnectOptions,
    plans: &[(StreamPlan, TableInfo)],
    state: &State,
    readers: usize,
    chunk_rows: Option<u64>,
) -> Result<()> {
    let target_bytes = chunk_bytes(plans.iter().map(|(_, table)| table), readers);
    // Nothing is locked: looking must not stand in anybody's way.
    let exported = Exported::take(options, &Relations::default()).await?;
    let terms = split::Terms { server_version: exported.server_version, target_bytes, chunk_rows };
    for (plan, table) in plans {
        let aim = advance::outlook(plan, table, state, &exported.moment, exported.server_version)?;
        let select = plan.select(&aim);
        let chunks: Vec<_> = split::chunks(exported.client(), plan, table, &aim, terms)
            .await?
            .iter()
            .map(|c| json!({"estimated_rows": c.estimated_rows, "estimated_bytes": c.estimated_bytes, "query": chunks::query(&select, c, aim.filter.as_deref(), plan.wire)}))
            .collect();
        let columns: Vec<_> =
            plan.spec.schema.fields().iter().map(|f| json!({"name": f.name(), "type": f.data_type().to_string()})).collect();
        super::print(&json!({
            "stream": plan.id, "destination": format!("{}.{}", plan.spec.database, plan.spec.name), "rows": aim.how, "columns": columns, "chunks": chunks,
        }));
    }
    Ok(())
}
