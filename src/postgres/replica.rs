//! Reading from a standby: `replica_hosts`.
//!
//! A snapshot is local to its server, so the whole backfill of an attempt is read from one replica: the exported snapshot is
//! taken there, the locks are held there (ACCESS SHARE is allowed on a standby), the readers connect there. The primary is
//! asked for one thing, how far its log had got when the attempt began; the replica is used once it has replayed that, and
//! then shows every transaction that was committed before.
//!
//! What a standby does to its readers is cancel them, when the primary's vacuum or an exclusive lock there collides with
//! what they read ("conflict with recovery", SQLSTATE 40001). Such an attempt is made again, whatever `retry_count` says, and
//! goes on with the chunks that it has.

use super::connect::{self, ConnectOptions, Host, Session};
use super::exported::identify;
use super::quote;
use crate::error::{Error, Result, Retry};
use crate::state::progress::Moment;
use std::time::{Duration, Instant};

/// Further attempts after a conflict with recovery.
const CONFLICTS: u32 = 5;
/// Between two looks at how far a replica has got.
const POLL: Duration = Duration::from_millis(200);
/// Between two words about it.
const TELL: Duration = Duration::from_secs(5);
/// How long to wait for asynchronous commits to reach the primary's disk; `wal_writer_delay` is 200 ms unless changed.
const FLUSH_WAIT: Duration = Duration::from_secs(3);

/// The replicas that may be read.
#[derive(Clone, Debug, Default)]
pub struct Replicas {
    /// Tried in order; the primary itself may be among them.
    pub hosts: Vec<Host>,
    /// How long to wait for one to catch up.
    pub patience: Duration,
}

/// Where this attempt reads: the first replica that has what the primary has, or without replicas what `options` say.
pub async fn choose(options: &ConnectOptions, replicas: &Replicas) -> Result<ConnectOptions> {
    if replicas.hosts.is_empty() {
        return Ok(options.clone());
    }
    let primary = position(options).await.map_err(|e| e.doing("ask the primary for its position"))?;
    let mut failures: Vec<Error> = Vec::new();
    for host in &replicas.hosts {
        let there = ConnectOptions { hosts: vec![host.clone()], ..options.clone() };
        match caught_up(&there, host, &primary, replicas.patience).await {
            Ok(()) => {
                tracing::info!("reading from {host}, which has replayed the primary's log to {}", primary.lsn);
                return Ok(there);
            }
            Err(error) => failures.push(error),
        }
        if let Some(failure) = failures.last().filter(|_| failures.len() < replicas.hosts.len()) {
            tracing::warn!("{failure}; trying the next of replica_hosts");
        }
    }
    let reasons: Vec<String> = failures.iter().map(Error::to_string).collect();
    let error = Error::source_db(format!("none of replica_hosts can be read: {}", reasons.join("; ")))
        .hint("to read from the primary when no replica can be read, name it as the last of replica_hosts");
    Err(if failures.iter().any(|failure| failure.retry() == Retry::Again) { error.transient() } else { error })
}

/// How far the primary's log is on its disk, with everything in it that is committed now.
async fn position(options: &ConnectOptions) -> Result<Moment> {
    let session = connect::session(options).await?;
    session.leave_transaction().await?;
    let mut primary = identify(&session).await?;
    if primary.durable {
        return Err(Error::config("`replica_hosts`: found a standby as the host beside it, accepted: a primary")
            .hint("to read from a standby alone, name it as `host` and leave replica_hosts away"));
    }
    let inserted: String = session.row("SELECT pg_current_wal_insert_lsn()::text").await?.get(0);
    let query = format!("SELECT flushed::text, flushed >= {}::pg_lsn FROM pg_current_wal_flush_lsn() flushed", quote::literal(&inserted));
    let started = Instant::now();
    // A standby gets what is on disk. What is not by then belongs to transactions that are still open.
    loop {
        let row = session.row(&query).await?;
        primary.lsn = row.get(0);
        if row.get(1) || started.elapsed() > FLUSH_WAIT {
            session.close().await;
            return Ok(primary);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the server has replayed the primary's log up to its position.
async fn caught_up(options: &ConnectOptions, host: &Host, primary: &Moment, patience: Duration) -> Result<()> {
    let session = connect::session(options).await?;
    session.leave_transaction().await?;
    let (started, mut told) = (Instant::now(), Instant::now());
    loop {
        let found = identify(&session).await.map_err(|e| e.doing(format!("ask {host} for its position")))?;
        if !found.system.is_empty() && !primary.system.is_empty() && found.system != primary.system {
            return Err(Error::config(format!("`replica_hosts`: {host} belongs to another cluster of servers than the primary"))
                .hint("name physical standbys of the server in `host`"));
        }
        let behind = behind(&session, primary).await.map_err(|e| e.doing(format!("ask {host} for its position")))?;
        // Positions of another history cannot be compared. A standby learns of a new one with its next restart point.
        let same_history = found.timeline == primary.timeline || found.timeline == 0 || primary.timeline == 0;
        if same_history && behind <= 0 {
            session.close().await;
            return Ok(());
        }
        let distance = match same_history {
            true => format!("{behind} bytes of log behind the primary"),
            false => format!("on timeline {}, and the primary is on {}", found.timeline, primary.timeline),
        };
        if started.elapsed() >= patience {
            return Err(Error::source_db(format!("{host} is {distance}, after {} s", patience.as_secs_f64())).transient());
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            tracing::info!("waiting for {host}: it is {distance}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Bytes of log between the primary's position and what this server has replayed (or, being the primary, written).
async fn behind(session: &Session, primary: &Moment) -> Result<i64> {
    let query = format!(
        "SELECT pg_wal_lsn_diff({}::pg_lsn, coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, '0/0'))::bigint",
        quote::literal(&primary.lsn)
    );
    Ok(session.row(&query).await?.get(0))
}

/// Attempts that an error deserves whatever the configuration says. In a transaction that only reads a snapshot, a serialization
/// failure is a conflict with recovery, in whatever language the server says so.
pub fn attempts(error: &Error) -> u32 {
    if is_conflict(error) { CONFLICTS } else { 0 }
}

/// Adds what can be done about an error of a standby, if it is one.
pub fn advise(error: Error) -> Error {
    if !is_conflict(&error) {
        return error;
    }
    error.hint("set hot_standby_feedback = on at the replica, or raise its max_standby_streaming_delay; what is staged is kept, the same command with --state goes on")
}

fn is_conflict(error: &Error) -> bool {
    matches!(error.code(), Some("40001" | "40P01")) || error.to_string().contains("conflict with recovery")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_told_from_other_errors() {
        let check = |error: Error, expected: bool| {
            assert_eq!(attempts(&error) > 0, expected, "{error}");
            assert_eq!(advise(error).advice().is_some_and(|advice| advice.contains("hot_standby_feedback")), expected);
        };
        check(Error::source_db("canceling statement due to conflict with recovery").sqlstate("40001"), true);
        check(Error::source_db("annulation de la requête").sqlstate("40001"), true);
        check(Error::source_db("terminating connection due to conflict with recovery").sqlstate("57P01"), true);
        check(Error::source_db("terminating connection due to administrator command").sqlstate("57P01"), false);
        check(Error::source_db("the connection was lost").transient(), false);
    }
}
