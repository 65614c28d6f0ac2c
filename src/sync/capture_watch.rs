//! What a run without end does beside reading: signs of life in the log.
//!
//! An idle database in a busy server needs none: the server's own word of how far it has read moves the slot. They are for servers whose
//! log does not move at all for hours (a host that counts its age), and for watching that changes arrive. Nothing is created in the source.

use super::capture::Terms;
use crate::error::{Error, Result};
use crate::postgres::connect::{self, ConnectOptions, Session};

/// Runs until something stands in the way.
pub async fn watch(options: &ConnectOptions, terms: &Terms) -> Error {
    if terms.heartbeat.is_zero() {
        return std::future::pending().await;
    }
    match beat(options, terms).await {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

async fn beat(options: &ConnectOptions, terms: &Terms) -> Result<std::convert::Infallible> {
    let session: Session = connect::session(options).await?;
    session.leave_transaction().await?;
    loop {
        tokio::time::sleep(terms.heartbeat).await;
        // Of a transaction: its commit brings the log to the disk, where it can be read.
        session
            .execute("SELECT pg_catalog.pg_logical_emit_message(true, 'lakeward', '')")
            .await
            .map_err(|e| e.doing("write a sign of life (heartbeat_s) into the log"))?;
    }
}
