//! `sync --dry-run`: the plan, chunk by chunk, with the queries that would run. Nothing is written.

use crate::error::Result;
use crate::postgres::catalog::TableInfo;
use crate::postgres::chunk;
use crate::postgres::connect::{self, ConnectOptions};
use crate::sync::chunk_bytes;
use crate::sync::plan::StreamPlan;
use serde_json::json;

/// Prints one JSON object per stream.
pub async fn print(options: &ConnectOptions, plans: &[(StreamPlan, TableInfo)], readers: usize) -> Result<()> {
    let chunk_bytes = chunk_bytes(plans.iter().map(|(_, table)| table), readers);
    let session = connect::session(options).await?;
    let version = session.server_version();
    for (plan, table) in plans {
        let chunks: Vec<_> = chunk::plan(table, version, chunk_bytes)
            .iter()
            .map(|c| json!({"estimated_rows": c.estimated_rows, "estimated_bytes": c.estimated_bytes, "query": chunk::query(&plan.select, c, plan.filter.as_deref(), plan.wire)}))
            .collect();
        let columns: Vec<_> = plan.schema.fields().iter().map(|f| json!({"name": f.name(), "type": f.data_type().to_string()})).collect();
        super::print(&json!({
            "stream": plan.id, "destination": format!("{}.{}", plan.spec.database, plan.spec.name), "columns": columns, "chunks": chunks,
        }));
    }
    Ok(())
}
