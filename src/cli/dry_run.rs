//! `sync --dry-run`: the plan, chunk by chunk, with the queries that would run. Nothing is written.

use super::print_json;
use crate::error::Result;
use crate::postgres::catalog::TableInfo;
use crate::postgres::chunk;
use crate::postgres::connect::{self, ConnectOptions};
use crate::sync::plan::StreamPlan;
use serde_json::json;

/// Prints one JSON object per stream.
pub async fn print(options: &ConnectOptions, plans: &[(StreamPlan, TableInfo)], chunk_bytes: u64) -> Result<()> {
    let session = connect::session(options).await?;
    let row = session.client.query_one("SELECT current_setting('server_version_num')::int", &[]).await.map_err(|e| connect::sql_error(&e))?;
    let version = u32::try_from(row.get::<_, i32>(0)).unwrap_or(0);
    for (plan, table) in plans {
        let chunks: Vec<_> = chunk::plan(table, version, chunk_bytes)
            .iter()
            .map(|c| json!({"estimated_rows": c.estimated_rows, "estimated_bytes": c.estimated_bytes, "query": chunk::query(&plan.select, c, plan.filter.as_deref())}))
            .collect();
        let columns: Vec<_> = plan.schema.fields().iter().map(|f| json!({"name": f.name(), "type": f.data_type().to_string()})).collect();
        print_json(&json!({
            "stream": plan.id, "destination": format!("{}.{}", plan.spec.database, plan.spec.name), "columns": columns, "chunks": chunks,
        }));
    }
    Ok(())
}
