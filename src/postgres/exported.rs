//! The exported snapshot: one instant of the database that every reader of a run sees.
//!
//! A coordinator session locks the chosen tables in ACCESS SHARE mode (as `pg_dump` does: nobody can truncate, rewrite or
//! drop them meanwhile, everybody can read and write), then takes the snapshot and exports it. The order matters: a
//! snapshot taken before the locks could be older than a truncation, which is not versioned. Readers adopt the snapshot
//! with `SET TRANSACTION SNAPSHOT` and then no longer need the coordinator.

use super::connect::{self, ConnectOptions, Session};
use super::quote;
use crate::error::{Error, Result};
use crate::state::progress::Moment;
use std::time::{Duration, Instant};

/// Tables per LOCK statement, because one statement naming thousands is slow to parse and hard to read in a log.
const LOCKS_PER_STATEMENT: usize = 200;
/// How long to wait for asynchronous commits to reach the disk; `wal_writer_delay` is 200 ms unless changed.
const FLUSH_WAIT: Duration = Duration::from_secs(3);

/// An exported snapshot, valid until it is dropped or its session is lost.
pub struct Exported {
    session: Session,
    /// The name that readers adopt.
    pub name: String,
    /// The instant.
    pub moment: Moment,
    /// `server_version_num`, e.g. 150018.
    pub server_version: u32,
}

impl Exported {
    /// Locks `tables` (namespace, name; only relations that LOCK TABLE accepts) and exports a snapshot. `unlockable` ones
    /// (materialized views) are locked by a query instead, which is after the snapshot: the caller must check that their
    /// heap is still the one it knew before.
    pub async fn take(options: &ConnectOptions, tables: &[(&str, &str)], unlockable: &[(&str, &str)]) -> Result<Self> {
        let session = connect::session(options).await?;
        let client = &session.client;
        let sql = |e: tokio_postgres::Error| session.error(&e);
        // Not every managed server lets everybody ask; an unknown system only means that staged chunks are not reused.
        let system = match client.query_one("SELECT system_identifier::text FROM pg_control_system()", &[]).await {
            Ok(row) => row.get::<_, String>(0),
            Err(_) => String::new(),
        };
        let standby: bool = client.query_one("SELECT pg_is_in_recovery()", &[]).await.map_err(sql)?.get(0);
        let timeline = match standby {
            true => "SELECT timeline_id::bigint FROM pg_control_checkpoint()",
            false => "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint",
        };
        let timeline = client.query_one(timeline, &[]).await.map_or(0, |row| row.get::<_, i64>(0));
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(sql)?;
        for tables in tables.chunks(LOCKS_PER_STATEMENT) {
            let names: Vec<_> = tables.iter().map(|(namespace, name)| quote::qualified(namespace, name)).collect();
            let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
            client.batch_execute(&lock).await.map_err(sql).map_err(explain_lock)?;
        }
        let position = match standby {
            true => "pg_last_wal_replay_lsn()",
            false => "pg_current_wal_insert_lsn()",
        };
        let query = format!(
            "SELECT pg_export_snapshot(), txid_snapshot_xmin(txid_current_snapshot()), txid_snapshot_xmax(txid_current_snapshot()), \
             {position}::text, (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        let row = client.query_one(&query, &[]).await.map_err(sql)?;
        let number = |index: usize| u64::try_from(row.get::<_, i64>(index)).map_err(|_| Error::source_db("a negative transaction id"));
        let mut moment = Moment {
            system,
            timeline: u32::try_from(timeline).unwrap_or(0),
            database: row.get(4),
            xmin: number(1)?,
            xmax: number(2)?,
            lsn: row.get(3),
            durable: standby,
        };
        let name: String = row.get(0);
        for (namespace, name) in unlockable {
            let touch = format!("SELECT FROM {} LIMIT 0", quote::qualified(namespace, name));
            client.batch_execute(&touch).await.map_err(sql).map_err(explain_lock)?;
        }
        if !standby {
            moment.durable = flushed(&session, &moment.lsn).await?;
        }
        let server_version = session.server_version();
        Ok(Self { session, name, moment, server_version })
    }

    /// The session that holds the snapshot, for catalog queries that must see the same instant.
    pub fn client(&self) -> &tokio_postgres::Client {
        &self.session.client
    }
}

/// Whether the log is on disk up to `lsn` (waits a little for asynchronous commits). Only then can a crash of the server not
/// take back a transaction that the snapshot shows.
async fn flushed(session: &Session, lsn: &str) -> Result<bool> {
    let started = Instant::now();
    let query = format!("SELECT pg_current_wal_flush_lsn() >= {}::pg_lsn", quote::literal(lsn));
    loop {
        let row = session.client.query_one(&query, &[]).await.map_err(|e| session.error(&e))?;
        if row.get(0) || started.elapsed() > FLUSH_WAIT {
            return Ok(row.get(0));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn explain_lock(error: Error) -> Error {
    match error.code() {
        Some("53200") => error.hint("raise max_locks_per_transaction on the server, or sync fewer tables in one run"),
        Some("55P03") => {
            error.hint("another session holds an exclusive lock on a table (ALTER, TRUNCATE, VACUUM FULL); try again when it has ended")
        }
        Some("42P01") => error.hint("the table has been dropped or renamed; run discover again, or take it out of selected_streams"),
        Some("42501") => error.hint("GRANT SELECT ON the table TO this user (and USAGE ON its schema), or take it out of selected_streams"),
        _ => error,
    }
    .doing("lock the tables against changes of their shape")
}
