//! A session in replication mode: the commands around a logical replication slot (manual, "Streaming Replication Protocol").
//!
//! Promises: what the server refuses comes with its SQLSTATE and with advice; what a server of its version does not know is
//! refused before it is asked. It does not know what to do when a slot is missing or in use, and reads no changes: that is
//! [`super::replication_stream`].

use super::connect::{self, ConnectOptions};
use super::lsn::Lsn;
use super::replication_stream::ReplicationStream;
use super::startup::unexpected;
use super::wire::{CancelToken, Connection};
use super::{frame, quote};
use crate::error::{Context, Error, Result};
use std::time::{Duration, Instant};

/// Between two tries to drop a slot that is in use.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// From here on it is worth a word that a slot is still not created.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two status updates at most, whatever the server allows: it is how old its view of our progress is.
const STATUS_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// `wal_sender_timeout` through an SSH tunnel, in place of the server's: an SSH connection whose reader pauses carries nothing in
/// the other direction either, so the server does not hear of us as long as a commit takes, or a wait for memory. (A server
/// before 12 does not let us set it.)
const TUNNEL_TIMEOUT: &str = "SET wal_sender_timeout = '1h'";

/// A session in replication mode, idle.
pub struct Replication {
    connection: Connection,
    /// The server's process has streamed, and cannot do it again: it forgets to clear its mark that the client is done.
    spent: bool,
}

/// Whom we talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The same for a server, its standbys and its physical copies.
    pub system_id: u64,
    /// Grows with each promotion of a standby.
    pub timeline: u32,
    /// The end of what is flushed; on a standby, of what is replayed.
    pub position: Lsn,
    /// The database that the session is in.
    pub database: String,
}

/// A slot to be created, for the plugin `pgoutput`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotOptions {
    /// Lower-case letters, digits and underscores.
    pub name: String,
    /// It goes with the session.
    pub temporary: bool,
    /// Decode prepared transactions when they are prepared (PostgreSQL 15 and later).
    pub two_phase: bool,
    /// Keep it on standbys too (PostgreSQL 17 and later).
    pub failover: bool,
}

/// A slot that has been created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Transactions that commit after it are in the stream, and those before it are in the snapshot.
    pub consistent_point: Lsn,
    /// For `SET TRANSACTION SNAPSHOT` in other sessions. It lives until the next command on this one.
    pub snapshot: String,
}

/// When changes of a transaction are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streaming {
    /// After its commit.
    #[default]
    Off,
    /// Of a large one, before its commit (protocol 2 and later, PostgreSQL 14).
    On,
    /// As `On`; an abort comes with its position and time (protocol 4, PostgreSQL 16).
    Parallel,
}

/// How changes are sent: version and options of the plugin (manual, "Logical Streaming Replication Parameters").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocol {
    /// 1 to 4.
    pub version: u32,
    /// Values in binary form where their type has one (PostgreSQL 14).
    pub binary: bool,
    /// Large transactions.
    pub streaming: Streaming,
    /// Prepared transactions (protocol 3, PostgreSQL 15).
    pub two_phase: bool,
    /// Messages of `pg_logical_emit_message` (PostgreSQL 14).
    pub messages: bool,
}

/// What to read, and how to keep the session alive.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// The slot.
    pub slot: String,
    /// Transactions that commit before it are left out. The server begins no earlier than where the slot has been confirmed.
    pub from: Lsn,
    /// Publications, at least one.
    pub publications: Vec<String>,
    /// How changes are sent.
    pub protocol: Protocol,
    /// Between two status updates; [`Replication::status_interval`] has a good one.
    pub status_interval: Duration,
    /// Silence after which the server counts as gone; zero means never. It is asked for a sign of life after half of it. Servers
    /// before 15 are silent while they skip over a large transaction that changes no published table.
    pub timeout: Duration,
}

/// The best that a server of this version (as 150018) can do, without what the caller has to want: two-phase, messages.
pub fn protocol_for(server_version: u32) -> Protocol {
    let (version, streaming) = match server_version / 10_000 {
        ..14 => (1, Streaming::Off),
        14 => (2, Streaming::On),
        15 => (3, Streaming::On),
        16.. => (4, Streaming::Parallel),
    };
    Protocol { version, binary: version > 1, streaming, two_phase: false, messages: false }
}

impl Replication {
    /// Opens a session. No limits on the time of statements and locks: to create a slot is to wait for other transactions.
    pub async fn connect(options: &ConnectOptions) -> Result<Self> {
        let options = ConnectOptions { statement_timeout: Duration::ZERO, lock_timeout: Duration::ZERO, ..options.clone() };
        let mut connection = connect::walsender(&options).await.map_err(explain).doing(|| "open a replication session")?;
        let chosen = options.parameters.iter().any(|(name, _)| name.eq_ignore_ascii_case("wal_sender_timeout"));
        if options.tunnel.is_some() && connection.server_version() >= 120_000 && !chosen {
            connection.simple(TUNNEL_TIMEOUT).await.doing(|| "open a replication session")?;
        }
        Ok(Self { connection, spent: false })
    }

    /// The session after a stream.
    pub(super) fn after_stream(connection: Connection) -> Self {
        Self { connection, spent: true }
    }

    /// The server's version as a number, 150018 for 15.18.
    pub fn server_version(&self) -> u32 {
        self.connection.server_version()
    }

    /// The process that serves this session, as in `pg_stat_replication`.
    pub fn backend_pid(&self) -> i32 {
        self.connection.backend_pid()
    }

    /// Can stop this session's command from another task.
    pub fn cancel_token(&self) -> CancelToken {
        self.connection.cancel_token()
    }

    /// Whom we talk to.
    pub async fn identify(&mut self) -> Result<Identity> {
        let row = self.row("IDENTIFY_SYSTEM").await?;
        let [Some(system), Some(timeline), Some(position), Some(database), ..] = &row[..] else { return Err(strange(&row)) };
        let (Ok(system_id), Ok(timeline)) = (system.parse(), timeline.parse()) else { return Err(strange(&row)) };
        Ok(Identity { system_id, timeline, position: position.parse()?, database: database.clone() })
    }

    /// The timelines that the server's one has come from, each with the position at which it was left (manual, "Streaming Replication Protocol",
    /// TIMELINE_HISTORY); none of the first.
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<Vec<(u32, Lsn)>> {
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let row = self.row(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let [_, Some(content)] = &row[..] else { return Err(strange(&row)) };
        branches(content).ok_or_else(|| frame::garbage(format!("the history of timeline {timeline}: {content:?}")))
    }

    /// A third of the server's `wal_sender_timeout`, at most ten seconds.
    pub async fn status_interval(&mut self) -> Result<Duration> {
        let row = self.row("SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'").await?;
        let setting = row.first().and_then(Option::as_deref).and_then(|ms| ms.parse().ok());
        match setting.map(Duration::from_millis) {
            Some(Duration::ZERO) | None => Ok(STATUS_INTERVAL_MAX),
            Some(timeout) => Ok((timeout / 3).min(STATUS_INTERVAL_MAX)),
        }
    }

    /// Creates a slot and exports the snapshot that its stream follows on. Waits until the transactions that have written something
    /// have ended; to give up meanwhile, use [`Replication::cancel_token`], else the slot may come to be later.
    pub async fn create_slot(&mut self, slot: &SlotOptions) -> Result<CreatedSlot> {
        let command = create_command(slot, self.server_version())?;
        let name = &slot.name;
        let creating = self.row(&command);
        tokio::pin!(creating);
        let created = match tokio::time::timeout(PATIENCE, &mut creating).await {
            Ok(created) => created,
            Err(_) => {
                tracing::warn!("creating the replication slot {name} waits for transactions that are still open on the server");
                creating.await
            }
        };
        let row = created.doing(|| format!("create the replication slot {name}"))?;
        let [_, Some(position), Some(snapshot), ..] = &row[..] else { return Err(strange(&row)) };
        Ok(CreatedSlot { consistent_point: position.parse()?, snapshot: snapshot.clone() })
    }

    /// Drops a slot; while it is in use, tries again for as long as `wait`.
    pub async fn drop_slot(&mut self, name: &str, wait: Duration) -> Result<()> {
        let (command, begin) = (format!("DROP_REPLICATION_SLOT {}", quote::identifier(name)), Instant::now());
        loop {
            match self.connection.simple(&command).await {
                Err(error) if error.code() == Some("55006") && begin.elapsed() < wait => tokio::time::sleep(TRY_AGAIN).await,
                done => return done.map(drop).map_err(explain).doing(|| format!("drop the replication slot {name}")),
            }
        }
    }

    /// Starts to read a slot, once in a session. A server before 12 may report an error with its options only at the first read.
    pub async fn start(mut self, options: &StartOptions) -> Result<ReplicationStream> {
        if self.spent {
            return Err(Error::bug("a replication session can stream once"));
        }
        let doing = || format!("read the replication slot {}", options.slot);
        let floor = self.confirmed(&options.slot).await.doing(doing)?;
        self.connection.query(&start_command(options)).await.doing(doing)?;
        let mut failure = None;
        loop {
            match self.connection.next_in_command(&mut failure).await.map_err(explain).doing(doing)? {
                (b'W', _) => return Ok(ReplicationStream::new(self.connection, options, floor)),
                (b'C', _) => {}
                (b'Z', _) => {
                    let ended = self.connection.ready(failure).err();
                    return Err(ended.map_or_else(|| frame::garbage("no stream, and no error"), explain).doing(doing()));
                }
                (tag, _) => return Err(unexpected(tag, "in the answer to START_REPLICATION")),
            }
        }
    }

    /// Says goodbye, so that the server does not log a lost connection. Dropping is enough otherwise.
    pub async fn close(self) {
        self.connection.close().await;
    }

    /// What was acknowledged in earlier sessions; zero if the slot is none of ours, which the server will say better.
    async fn confirmed(&mut self, slot: &str) -> Result<Lsn> {
        let query = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = {}", quote::literal(slot));
        let rows = self.connection.simple(&query).await?;
        rows.first().and_then(|row| row.first()?.as_deref()).map_or(Ok(Lsn::default()), str::parse)
    }

    /// The one row of an answer.
    async fn row(&mut self, command: &str) -> Result<Vec<Option<String>>> {
        let rows = self.connection.simple(command).await.map_err(explain)?;
        rows.into_iter().next().ok_or_else(|| strange(&[]))
    }
}

/// A timeline, where it was left, and why, in each line that is no comment (`readTimeLineHistory` of PostgreSQL).
fn branches(content: &str) -> Option<Vec<(u32, Lsn)>> {
    let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_ascii_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })
        .collect()
}

fn strange(row: &[Option<String>]) -> Error {
    frame::garbage(format!("an answer of {} columns", row.len()))
}

/// A slot that a server of this version does not have.
pub(super) fn needs(what: &str, major: u32, version: u32) -> Error {
    let found = version / 10_000;
    Error::config(format!("a replication slot {what} needs PostgreSQL {major} or later, and the server is PostgreSQL {found}"))
}

fn create_command(slot: &SlotOptions, version: u32) -> Result<String> {
    if slot.two_phase && version < 150_000 {
        return Err(needs("for two-phase commit", 15, version));
    }
    if slot.failover && version < 170_000 {
        return Err(needs("for failover", 17, version));
    }
    let mut options = if version < 150_000 { "EXPORT_SNAPSHOT" } else { "(SNAPSHOT 'export'" }.to_owned();
    for (wanted, option) in [(slot.two_phase, ", TWO_PHASE true"), (slot.failover, ", FAILOVER true")] {
        if wanted {
            options += option;
        }
    }
    if version >= 150_000 {
        options.push(')');
    }
    let temporary = if slot.temporary { " TEMPORARY" } else { "" };
    Ok(format!("CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput {options}", quote::identifier(&slot.name)))
}

fn start_command(options: &StartOptions) -> String {
    let Protocol { version, binary, streaming, two_phase, messages } = &options.protocol;
    let publications: Vec<_> = options.publications.iter().map(|name| quote::identifier(name)).collect();
    let mut parameters = vec![("proto_version", version.to_string()), ("publication_names", publications.join(","))];
    // Servers refuse names that they do not know, so what is off is not mentioned.
    for (name, on) in [("binary", *binary), ("two_phase", *two_phase), ("messages", *messages)] {
        if on {
            parameters.push((name, "true".to_owned()));
        }
    }
    match streaming {
        Streaming::Off => {}
        Streaming::On => parameters.push(("streaming", "on".to_owned())),
        Streaming::Parallel => parameters.push(("streaming", "parallel".to_owned())),
    }
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| format!("{name} {}", quote::replication_literal(value))).collect();
    let slot = quote::identifier(&options.slot);
    format!("START_REPLICATION SLOT {slot} LOGICAL {} ({})", options.from, parameters.join(", "))
}

/// Adds what to do about a refusal, where replication has its own reasons for it.
pub(super) fn explain(error: Error) -> Error {
    let text = error.to_string();
    let hint = match error.code() {
        Some("42501") => "let the user replicate: ALTER ROLE … REPLICATION (on Amazon RDS: GRANT rds_replication TO …)",
        Some("55000") if text.contains("wal_level") => "set wal_level = logical on the server and restart it",
        Some("53400") if text.contains("slots") => "drop slots that nobody needs, or raise max_replication_slots on the server",
        Some("53300") if text.contains("max_wal_senders") => "raise max_wal_senders on the server, or stop other readers of its log",
        Some("0A000") if text.contains("recovery") => {
            "give the address of the primary as host: a standby can be read from PostgreSQL 16 on"
        }
        Some("55006") => "another session reads the slot, perhaps a run that has not ended: pg_replication_slots shows its process",
        Some("42601" | "08P01") if text.contains("syntax error") || text.contains("replication") => {
            "replication needs a direct connection to the server: a pooler between must know replication (PgBouncer 1.23 and later). Without, set \"capture\": \"poll\" in update_method: the slot is then read by SQL"
        }
        _ => return error,
    };
    error.hint(hint)
}

#[cfg(test)]
#[path = "replication_tests.rs"]
pub(super) mod tests;
