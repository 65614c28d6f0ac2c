//! What a run without end does beside reading: signs of life in the log, and a look at what the slot holds back.
//!
//! An idle database in a busy server needs none: the server's own word of how far it has read moves the slot. They are for servers whose
//! log does not move at all for hours (a host that counts its age), and for watching that changes arrive. Nothing is created in the source.

use super::capture::Terms;
use super::capture_open::check_lag;
use crate::capture::slot_judgement::OnSlotLag;
use crate::error::{Error, Result};
use crate::postgres::connect::{self, ConnectOptions, Session};
use std::convert::Infallible;
use std::time::Duration;

/// How often a slot is looked at that is not to hold back too much, and one of which it is only to be said.
const LAG: Duration = Duration::from_secs(10);
const LAG_SAID: Duration = Duration::from_secs(600);

/// Runs until something stands in the way.
pub async fn watch(options: &ConnectOptions, terms: &Terms) -> Error {
    let (Err(error) | Ok(error)) = tokio::try_join!(beat(options, terms), lag(options, terms)).map(|(never, _)| match never {});
    error
}

async fn lag(options: &ConnectOptions, terms: &Terms) -> Result<Infallible> {
    loop {
        tokio::time::sleep(if terms.on_slot_lag == OnSlotLag::Warn { LAG_SAID } else { LAG }).await;
        let session = connect::session(options).await?;
        check_lag(&session, terms).await?;
        session.close().await;
    }
}

async fn beat(options: &ConnectOptions, terms: &Terms) -> Result<Infallible> {
    if terms.heartbeat.is_zero() {
        return std::future::pending().await;
    }
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
