//! Connection poolers between us and the server: how one is recognised, and what is different behind it.
//!
//! A pooler in transaction mode (pgBouncer, Odyssey, PgCat, Supavisor, RDS Proxy …) lends a server connection for one
//! transaction. What is set for a session stays on that server connection, where it harms whoever borrows it next, and
//! the next transaction of ours may be on another one. So behind a pooler everything happens in transactions, settings
//! are local to them, and no statement has a name. Readers and the holder of the exported snapshot are in one
//! transaction each from beginning to end, so they keep their server connections as they would without a pooler.
//!
//! A pooler is recognised by the process that serves a session: the server names it at login, and a pooler, which has
//! not chosen a connection yet, puts a number of its own there. In session mode this finds a pooler too; what is done
//! differently does no harm there.

use super::connect::{Carrier, Established};
use crate::error::Error;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::io::AsyncReadExt as _;

/// The process that the server named at login, 0 if it named none. `tokio-postgres` shows it only in a request to cancel,
/// so one is written to memory (manual, "Message Formats", CancelRequest).
pub(super) async fn process_at_login(client: &tokio_postgres::Client) -> i32 {
    let (ours, mut theirs) = tokio::io::duplex(64);
    let mut request = [0; 16];
    let written = client.cancel_token().cancel_query_raw(ours, Established).await;
    match (written, theirs.read_exact(&mut request).await) {
        (Ok(()), Ok(_)) => i32::from_be_bytes([request[8], request[9], request[10], request[11]]),
        _ => 0,
    }
}

impl tokio_postgres::tls::TlsStream for Carrier<tokio::io::DuplexStream> {
    fn channel_binding(&self) -> tokio_postgres::tls::ChannelBinding {
        tokio_postgres::tls::ChannelBinding::none()
    }
}

/// Says once that there is a pooler.
pub(super) fn tell() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Relaxed) {
        tracing::info!(
            "a connection pooler stands before the server; a run keeps up to `max_threads` of its server connections, one transaction on each"
        );
    }
}

/// What the refusal of a transaction means.
pub(super) fn explain(error: Error) -> Error {
    let text = error.to_string();
    if text.contains("statement pooling") {
        return Error::source_db(format!("the connection pooler lends its connections for single statements: {text}")).hint(
            "set pool_mode = transaction (or session) for this database in the pooler's configuration, or connect to the server itself",
        );
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Retry;

    #[test]
    fn statement_mode_is_refused_for_good() {
        let said = Error::source_db("transaction blocks not allowed in statement pooling mode").sqlstate("08P01").transient();
        let error = explain(said);
        assert_eq!(error.retry(), Retry::Never);
        assert!(error.advice().is_some_and(|advice| advice.contains("pool_mode = transaction")));
        assert_eq!(explain(Error::source_db("something else").transient()).retry(), Retry::Again);
    }
}
