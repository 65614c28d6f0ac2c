//! The changes of a slot by SQL functions, asked for again and again: for poolers and hosts that do not let replication through.
//!
//! Promises: what [`super::replication_stream`] promises of its payloads, in the same order and the same bytes (values as text
//! look as they do there), but that the plugin describes a relation again after each poll; each transaction once; memory is the
//! connection's buffer plus what [`PollStream::allow`] granted. Reading may be given up at any await. A change that somebody
//! else has taken out of the slot meanwhile is noticed. Nothing is expected of the session between two statements, so a pooler
//! in transaction mode will do. It acknowledges nothing by itself.
//!
//! What it costs is the server's: it decodes everything from the slot's confirmed position for each poll, and keeps the answer
//! (in memory up to `work_mem`, then in temporary files) before it sends the first row of it. So a poll asks for as many new rows
//! as there are old ones, at least: then all polls together decode no row more than about twice, however late it is
//! acknowledged. It stops between transactions only: a transaction is one answer, however large.
//!
//! While an answer is read a transaction is open on the server, which keeps vacuum from its work as any other does. While the server decodes it says nothing, so silence does not count against it: that the connection is gone is for TCP to
//! find out ([`ConnectOptions::keepalive`]).

use super::connect::{self, ConnectOptions};
use super::copy::{self, Copying};
use super::copy_data::Flow;
use super::frame::garbage;
use super::lsn::Lsn;
use super::quote;
use super::replication::{StartOptions, explain, needs};
use super::replication_status::{Acknowledger, Progress};
use super::replication_stream::{Event, Received};
use super::slot_peek::{Sieve, Statements, moved};
use super::sqlstate::lost;
use super::wire::{CancelToken, Connection};
use crate::error::{Context, Error, Kind, Result};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two tries to move a slot that is in use: a poll that was given up may still run on the server.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// From here on it is somebody else's.
const IN_USE: Duration = Duration::from_secs(15);
/// From here on it is worth a word that a slot is still not created.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// From the end of a poll that has brought everything to the next one.
    pub interval: Duration,
    /// New changes to ask for at once, at least one. A poll brings more where transactions are larger, and where much has not
    /// been acknowledged.
    pub rows: u32,
}

/// A slot that is polled. Dropping it ends the session, but not at once what the server is doing for it: [`PollStream::finish`]
/// does that too.
pub struct PollStream {
    connect: ConnectOptions,
    slot: String,
    statements: Arc<Statements>,
    cancel: CancelToken,
    progress: Arc<Progress>,
    confirmed: Lsn,
    rhythm: Rhythm,
    sieve: Sieve,
    /// Changes between the slot's position and what has been handed over, as far as is known.
    old: u64,
    /// What was committed before it has been asked for and was handed over.
    complete: Lsn,
    phase: Phase,
}

enum Phase {
    /// Nothing is asked before this moment.
    Resting(Box<Connection>, Instant),
    /// The server is asked, by a future that has the connection so that it can be waited for again.
    Asking(BoxFuture<'static, Result<(Box<Connection>, Answer)>>),
    /// The answer arrives.
    Reading(Box<Connection>, Copying, Asked),
    /// There was an error.
    Over,
}

/// Where things are on the server.
#[derive(Clone, Copy)]
struct Status {
    /// The slot's position; `None` if there is no slot, or no logical one.
    confirmed: Option<Lsn>,
    /// The end of the log.
    end: Lsn,
    /// Its clock.
    clock: i64,
}

/// What a poll starts from.
struct Question {
    acknowledged: Lsn,
    reached: Lsn,
    old: u64,
    complete: Lsn,
    rows: u32,
}

struct Answer {
    status: Status,
    /// `None` if the log has not grown.
    changes: Option<(Copying, Option<u32>)>,
}

struct Asked {
    status: Status,
    /// The most rows after which the server goes on with another transaction; `None` if it never stops for their number.
    limit: Option<u32>,
}

/// Creates a slot for the plugin `pgoutput` without a replication connection; gives the position after which transactions that
/// commit are in it. Waits until the transactions that have written something have ended.
pub async fn create_slot(options: &ConnectOptions, name: &str, failover: bool) -> Result<Lsn> {
    let options = unhurried(options);
    let mut connection = connect::wire(&options).await.doing(|| "open a session to create a replication slot")?;
    let settings = connection.settings(&options, true);
    if failover && connection.server_version() < 170_000 {
        return Err(needs("for failover", 17, connection.server_version()));
    }
    let more = if failover { ", false, false, true" } else { "" };
    let sql = format!("{settings}; SELECT lsn FROM pg_create_logical_replication_slot({}, 'pgoutput'{more})", quote::literal(name));
    let created = {
        let creating = connection.simple(&sql);
        tokio::pin!(creating);
        match tokio::time::timeout(PATIENCE, &mut creating).await {
            Ok(created) => created,
            Err(_) => {
                tracing::warn!("creating the replication slot {name} waits for transactions that are still open on the server");
                creating.await
            }
        }
    };
    let rows = created.map_err(explain).doing(|| format!("create the replication slot {name}"))?;
    connection.close().await;
    position(rows.first().and_then(|row| row.first()))?.ok_or_else(|| garbage("no position of a new slot"))
}

impl PollStream {
    /// Opens a session and looks whether the slot can be read; the first read polls it. Of `options` the status interval and
    /// the timeout have no meaning here, and the protocol must be one that gives whole transactions.
    pub async fn start(connect: &ConnectOptions, options: &StartOptions, rhythm: Rhythm) -> Result<Self> {
        let connect = unhurried(connect);
        let doing = || format!("poll the replication slot {}", options.slot);
        let mut connection = connect::wire(&connect).await.doing(doing)?;
        let statements = Statements::new(options, connection.settings(&connect, true), connection.server_version())?;
        connection.simple(&statements.check()).await.map_err(explain).doing(doing)?;
        let confirmed = status(&mut connection, &statements).await.doing(doing)?.confirmed;
        let confirmed = confirmed.ok_or_else(|| lost("the replication slot has just been dropped")).doing(doing)?;
        Ok(Self {
            slot: options.slot.clone(),
            statements: Arc::new(statements),
            cancel: connection.cancel_token(),
            progress: Progress::new(options.from, confirmed, Duration::ZERO),
            confirmed,
            rhythm,
            sieve: Sieve::new(options.from.max(confirmed)),
            old: 0,
            complete: Lsn::default(),
            phase: Phase::Resting(Box::new(connection), Instant::now()),
            connect,
        })
    }

    /// Says how far we are. It reaches the server before the next poll, and in [`PollStream::finish`]; to tell or to ask makes
    /// nothing happen sooner.
    pub fn acknowledger(&self) -> Acknowledger {
        self.progress.acknowledger()
    }

    /// What the slot had confirmed at the start.
    pub fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// Permits one message of up to `bytes`; afterwards the buffer shrinks back.
    pub fn allow(&mut self, bytes: usize) {
        if let Phase::Reading(_, copying, _) = &mut self.phase {
            copying.allow(bytes);
        }
    }

    /// Waits for changes and hands every complete message in the buffer to `sink`, in order, without copying it. After a poll
    /// that has brought everything there is a keepalive with the position where the log ended when it began, changes or not.
    /// An error of `sink` comes back at once; its message counts as handed over. After any other error there is nothing more to
    /// read. It never comes back with [`Event::Done`].
    pub async fn read<F: Into<Flow>>(&mut self, sink: &mut impl FnMut(Received<'_>) -> Result<F>) -> Result<Event> {
        loop {
            match &mut self.phase {
                Phase::Resting(_, due) => {
                    tokio::time::sleep_until(*due).await;
                    self.ask();
                }
                Phase::Asking(answer) => match answer.await {
                    Ok((connection, answer)) => {
                        if let Some(status) = self.answered(connection, answer) {
                            return self.all(status, sink);
                        }
                    }
                    Err(error) => {
                        self.phase = Phase::Over;
                        return Err(error.doing(format!("poll the replication slot {}", self.slot)));
                    }
                },
                Phase::Reading(..) => {
                    if let Some(event) = self.rows(sink).await? {
                        return Ok(event);
                    }
                }
                Phase::Over => return Err(lost("the replication slot is not polled any more, after an error")),
            }
        }
    }

    /// Ends it: stops what the server is doing, and moves the slot to the acknowledged position. If a limit in time is reached,
    /// that is a transient error.
    pub async fn finish(self, limit: Duration) -> Result<()> {
        let slot = self.slot.clone();
        let ended = tokio::time::timeout(limit, self.end());
        ended
            .await
            .unwrap_or_else(|_| Err(lost(&format!("the server did not move the slot within {} s", limit.as_secs_f64()))))
            .doing(|| format!("end polling the replication slot {slot}"))
    }

    async fn end(self) -> Result<()> {
        let idle = match self.phase {
            Phase::Resting(connection, _) => Some(connection),
            Phase::Over => None,
            busy => {
                let _ = self.cancel.cancel().await;
                drop(busy);
                None
            }
        };
        let acknowledged = self.progress.acknowledged();
        let mut connection = match idle {
            Some(connection) => connection,
            None if acknowledged == Lsn::default() => return Ok(()),
            None => Box::new(connect::wire(&self.connect).await?),
        };
        let begun = Instant::now();
        loop {
            match advance(&mut connection, &self.statements, acknowledged).await {
                Err(error) if error.code() == Some("55006") && begun.elapsed() < IN_USE => tokio::time::sleep(TRY_AGAIN).await,
                done => {
                    done?;
                    connection.close().await;
                    return Ok(());
                }
            }
        }
    }

    fn ask(&mut self) {
        let Phase::Resting(connection, _) = std::mem::replace(&mut self.phase, Phase::Over) else { return };
        let question = Question {
            acknowledged: self.progress.acknowledged(),
            reached: self.sieve.reached(),
            old: self.old,
            complete: self.complete,
            rows: self.rhythm.rows,
        };
        let (slot, statements) = (self.slot.clone(), self.statements.clone());
        self.phase = Phase::Asking(Box::pin(async move { ask(connection, &slot, &statements, question).await }));
    }

    /// Takes the answer; gives the status if that was all.
    fn answered(&mut self, connection: Box<Connection>, Answer { status, changes }: Answer) -> Option<Status> {
        // Further than what was acknowledged, where the slot is moved by whole records.
        if let Some(confirmed) = status.confirmed.filter(|_| !self.statements.advances_exactly()) {
            self.sieve.reach(confirmed);
        }
        match changes {
            Some((copying, limit)) => {
                self.sieve.begin();
                self.phase = Phase::Reading(connection, copying, Asked { status, limit });
                None
            }
            None => {
                self.phase = Phase::Resting(connection, Instant::now() + self.rhythm.interval);
                Some(status)
            }
        }
    }

    /// Hands over rows that have arrived; `None` if there was none for the caller.
    async fn rows<F: Into<Flow>>(&mut self, sink: &mut impl FnMut(Received<'_>) -> Result<F>) -> Result<Option<Event>> {
        let Phase::Reading(connection, copying, Asked { status, limit }) = &mut self.phase else { return Ok(None) };
        let (status, limit, sieve, progress, slot) = (*status, *limit, &mut self.sieve, &self.progress, &self.slot);
        let (mut handed, mut refused) = (false, false);
        let mut row = |payload: &[u8]| {
            let Some(row) = sieve.take(slot, payload)? else { return Ok(Flow::More) };
            progress.reach(sieve.reached());
            handed = true;
            let received = Received::Data { position: row.position, sent: status.clock, payload: row.message };
            sink(received).map(Into::into).inspect_err(|_| refused = true)
        };
        match copying.read(connection, &mut row).await {
            Ok(copy::Event::Data) => Ok(handed.then_some(Event::Data)),
            Ok(copy::Event::Large(bytes)) if self.sieve.is_old() => {
                copying.pass_over(bytes);
                self.sieve.pass_over();
                Ok(None)
            }
            Ok(copy::Event::Large(bytes)) => Ok(Some(Event::Large(bytes))),
            Ok(copy::Event::Done { .. }) => {
                self.old = self.sieve.rows();
                let cut = limit.is_some_and(|limit| self.old >= u64::from(limit));
                self.rest(if cut { Duration::ZERO } else { self.rhythm.interval });
                if cut { Ok(handed.then_some(Event::Data)) } else { self.all(status, sink).map(Some) }
            }
            Err(error) if refused => Err(error),
            Err(error) => {
                self.phase = Phase::Over;
                Err(explain(error).doing(format!("poll the replication slot {}", self.slot)))
            }
        }
    }

    fn rest(&mut self, time: Duration) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Reading(connection, ..) => Phase::Resting(connection, Instant::now() + time),
            other => other,
        };
    }

    /// Everything up to the end of the log has been handed over, and that is said.
    fn all<F: Into<Flow>>(&mut self, status: Status, sink: &mut impl FnMut(Received<'_>) -> Result<F>) -> Result<Event> {
        self.complete = self.complete.max(status.end);
        self.sieve.reach(status.end);
        self.progress.reach(status.end);
        sink(Received::Keepalive { position: status.end, sent: status.clock, asked: false })?;
        Ok(Event::Data)
    }
}

/// No limits on the time of statements and locks: to decode takes as long as it takes.
fn unhurried(options: &ConnectOptions) -> ConnectOptions {
    ConnectOptions { statement_timeout: Duration::ZERO, lock_timeout: Duration::ZERO, ..options.clone() }
}

/// Moves the slot to what was acknowledged, and peeks into what is behind it.
async fn ask(
    mut connection: Box<Connection>,
    slot: &str,
    statements: &Statements,
    question: Question,
) -> Result<(Box<Connection>, Answer)> {
    let Question { acknowledged, reached, old, complete, rows } = question;
    let strange =
        |status: Status| status.confirmed.filter(|confirmed| *confirmed > reached).map(|confirmed| moved(slot, confirmed, reached));
    let mut status = status(&mut connection, statements).await?;
    if let Some(error) = strange(status) {
        return Err(error);
    }
    if let Some(after) = advance_from(&mut connection, statements, status, acknowledged).await? {
        status = after;
        if let Some(error) = strange(status).filter(|_| statements.advances_exactly()) {
            return Err(error);
        }
    }
    // A slot that is gone is for the server to report.
    if status.confirmed.is_some() && status.end <= complete {
        return Ok((connection, Answer { status, changes: None }));
    }
    let old = if status.confirmed >= Some(reached) { 0 } else { old };
    let limit = old.saturating_add(old.max(rows.max(1).into()));
    let limit = i32::try_from(limit).ok().map(i32::cast_unsigned);
    let copying = connection.begin_copy(&statements.peek(status.end, limit)).await.map_err(explain)?;
    Ok((connection, Answer { status, changes: Some((copying, limit)) }))
}

async fn status(connection: &mut Connection, statements: &Statements) -> Result<Status> {
    let rows = connection.simple(&statements.status()).await.map_err(explain)?;
    let Some(row) = rows.first() else { return Ok(Status { confirmed: None, end: Lsn::default(), clock: 0 }) };
    let end = position(row.get(1))?.ok_or_else(|| lost("the server does not say where its log ends"))?;
    let clock = row.get(2).and_then(|clock| clock.as_ref()?.parse().ok()).unwrap_or_default();
    Ok(Status { confirmed: position(row.first())?, end, clock })
}

fn position(text: Option<&Option<String>>) -> Result<Option<Lsn>> {
    text.and_then(Option::as_deref).map(str::parse).transpose().map_err(|error: Error| error.for_kind(Kind::Source))
}

async fn advance(connection: &mut Connection, statements: &Statements, acknowledged: Lsn) -> Result<()> {
    let status = status(connection, statements).await?;
    advance_from(connection, statements, status, acknowledged).await.map(drop)
}

/// Moves the slot forward, never back; gives what came of it, if it had to be moved.
async fn advance_from(connection: &mut Connection, statements: &Statements, before: Status, acknowledged: Lsn) -> Result<Option<Status>> {
    if before.confirmed.is_none_or(|confirmed| confirmed >= acknowledged) {
        return Ok(None);
    }
    connection.simple(&statements.advance(acknowledged)).await.map_err(explain)?;
    status(connection, statements).await.map(Some)
}

#[cfg(test)]
#[path = "slot_poll_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "slot_poll_failure_tests.rs"]
mod failure_tests;
