//! The changes of a slot as they arrive: the payloads of XLogData messages, as slices of the receive buffer, and keepalives.
//!
//! Promises: each payload once, in order; memory is the connection's buffer plus what [`ReplicationStream::allow`] granted; the
//! server hears of us while nobody reads (through an SSH tunnel it does not, see [`super::replication`]); an error that the server reported comes before the news that it has hung up.
//! Reading may be given up at any await without losing bytes. It does not know what the payloads mean (the plugin does), and
//! acknowledges nothing by itself.
//!
//! Three things here come from the server's side. It sends a keepalive only when it has not heard of us for half of
//! `wal_sender_timeout`, so with our updates on time it may be silent for ever, and has to be asked whether it lives. While it
//! sends a transaction it takes status updates, but acts on CopyDone only after it. And when it shuts down it waits until the
//! flushed position is the end of what it has sent, and asks for it in keepalives: a reader that holds nothing back should
//! acknowledge the position of a keepalive.

use super::copy_data::{Flow, Payloads, Stop};
use super::frame::{Body, Header, garbage};
use super::gathering::{Gathering, SILENCE};
use super::lsn::Lsn;
use super::replication::{Replication, StartOptions, explain};
use super::replication_status::{Acknowledger, Progress, Sender};
use super::sqlstate::lost;
use super::startup::unexpected;
use super::wire::Connection;
use crate::error::{Error, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A running stream. Dropping it ends the session.
pub struct ReplicationStream {
    connection: Connection,
    payloads: Payloads,
    gathering: Gathering,
    progress: Arc<Progress>,
    sender: Sender,
    confirmed: Lsn,
    failure: Option<Error>,
    /// What the server has said about the end.
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing.
    Open,
    /// That the command is complete without CopyDone: it is shutting down.
    Shutdown,
    /// CopyDone.
    Done,
    /// ReadyForQuery, or it is gone.
    Over,
}

/// What the server has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// XLogData: one message of the plugin.
    Data {
        /// The log position it belongs to: of a change, where it lies; of a commit, its end.
        position: Lsn,
        /// The server's clock when it was sent, in microseconds since 2000-01-01 UTC.
        sent: i64,
        /// The message.
        payload: &'a [u8],
    },
    /// A keepalive. If it asks for a reply, that has been seen to.
    Keepalive {
        /// How far the server has read: what was committed before it has been sent.
        position: Lsn,
        /// As above.
        sent: i64,
        /// Whether the server waits for a reply.
        asked: bool,
    },
}

/// What a read has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Complete messages were handed over.
    Data,
    /// The next message has this many bytes, and the buffer does not grow to hold it until [`ReplicationStream::allow`] is called.
    Large(usize),
    /// The server has ended the stream in good order; the last messages may have been handed over in the same call.
    Done,
}

impl<'a> Received<'a> {
    /// Reads the payload of a CopyData message ("Streaming Replication Protocol", XLogData and Primary keepalive message).
    ///
    /// # Errors
    /// [`crate::error::Kind::Source`] for what no server sends.
    pub fn parse(payload: &'a [u8]) -> Result<Self> {
        let mut body = Body(payload);
        match body.u8()? {
            b'w' => {
                // The second position repeats the first: the plugin's messages are not blocks of the log.
                let (position, _, sent) = (body.u64()?, body.u64()?, body.u64()?);
                Ok(Self::Data { position: Lsn(position), sent: sent.cast_signed(), payload: body.0 })
            }
            b'k' => Ok(Self::Keepalive { position: Lsn(body.u64()?), sent: body.u64()?.cast_signed(), asked: body.u8()? != 0 }),
            other => Err(garbage(format!("a replication message of type {}", other.escape_ascii()))),
        }
    }

    fn position(&self) -> Lsn {
        match self {
            Self::Data { position, .. } | Self::Keepalive { position, .. } => *position,
        }
    }
}

impl ReplicationStream {
    pub(super) fn new(connection: Connection, options: &StartOptions, confirmed: Lsn) -> Self {
        let progress = Progress::new(options.from, confirmed, options.timeout);
        let sender = Sender::start(progress.clone(), connection.writer(), options.status_interval, connection.asked_after());
        Self {
            connection,
            payloads: Payloads::default(),
            gathering: Gathering::default(),
            progress,
            sender,
            confirmed,
            failure: None,
            end: End::Open,
        }
    }

    /// Tells the server how far we are.
    pub fn acknowledger(&self) -> Acknowledger {
        self.progress.acknowledger()
    }

    /// What the slot had confirmed when the stream began.
    pub fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// The server's version as a number, 150018 for 15.18.
    pub fn server_version(&self) -> u32 {
        self.connection.server_version()
    }

    /// The process that serves this session, as in `pg_stat_replication`.
    pub fn backend_pid(&self) -> i32 {
        self.connection.backend_pid()
    }

    /// Permits one message of up to `bytes`; afterwards the buffer shrinks back.
    pub fn allow(&mut self, bytes: usize) {
        self.payloads.allow(bytes);
    }

    /// Waits for bytes from the server and hands every complete message in the buffer to `sink`, in order, without copying it. An
    /// error of `sink` comes back at once; its message counts as handed over.
    pub async fn read<F: Into<Flow>>(&mut self, sink: &mut impl FnMut(Received<'_>) -> Result<F>) -> Result<Event> {
        let mut handed = false;
        loop {
            match self.hand_over(sink, &mut handed)? {
                Stop::Control(header) => {
                    if self.control(header)? {
                        return Ok(Event::Done);
                    }
                }
                _ if handed => return Ok(Event::Data),
                Stop::Large(bytes) => return Ok(Event::Large(bytes)),
                // Enough comes only after a message.
                Stop::Enough | Stop::Incomplete => self.fill().await?,
            }
        }
    }

    /// Ends the stream: sends the last update, and throws away what comes until the server has ended it too. Then the server
    /// has taken the acknowledged position. It finishes the transaction that it is sending, which may take longer than
    /// `limit`: that is a transient error, and the session is gone. The one that comes back can do everything but stream.
    pub async fn finish(mut self, limit: Duration) -> Result<Replication> {
        let ended = tokio::time::timeout(limit, async {
            self.progress.finish();
            self.discard().await?;
            self.sender.ended().await;
            Ok(())
        });
        ended.await.unwrap_or_else(|_| {
            Err(lost(&format!("the server did not end the stream within {} s: it still sends a transaction", limit.as_secs_f64())))
        })?;
        self.connection.gather(false);
        Ok(Replication::after_stream(self.connection))
    }

    fn hand_over<F: Into<Flow>>(&mut self, sink: &mut impl FnMut(Received<'_>) -> Result<F>, handed: &mut bool) -> Result<Stop> {
        let (mut garbled, progress) = (false, &self.progress);
        let stop = self.payloads.hand_over(
            &mut self.connection,
            &mut |payload| {
                let received = Received::parse(payload).inspect_err(|_| garbled = true)?;
                progress.reach(received.position());
                if let Received::Keepalive { asked: true, .. } = received {
                    progress.tell();
                }
                sink(received).map(Into::into)
            },
            handed,
        );
        match stop {
            Err(error) if garbled => Err(self.connection.broken(error)),
            stop => stop,
        }
    }

    /// Takes the control message at the front of the buffer; says whether the stream is over.
    fn control(&mut self, header: Header) -> Result<bool> {
        let Some(body) = self.connection.take(header)? else { return Ok(false) };
        match header.tag {
            b'c' => {
                self.end = End::Done;
                self.progress.finish();
            }
            b'C' if self.end == End::Open => self.end = End::Shutdown,
            b'C' => {}
            b'E' => {
                // An error of the command; the server takes what we still send for late, and ignores it.
                let error = self.connection.reported(&body).map_err(explain)?;
                self.failure.get_or_insert(explain(error));
            }
            b'Z' => {
                self.end = End::Over;
                self.connection.ready(self.failure.take())?;
                return Ok(true);
            }
            tag => return Err(self.connection.broken(unexpected(tag, "in a replication stream"))),
        }
        Ok(false)
    }

    /// Waits for bytes. A silent server is an error only if it has been asked.
    async fn fill(&mut self) -> Result<()> {
        if self.end == End::Over {
            return Err(lost("the replication stream has ended"));
        }
        let _waiting = self.progress.wait();
        loop {
            let patience = if self.gathering.is_on() { SILENCE } else { self.progress.patience() };
            let began = Instant::now();
            tokio::select! {
                biased;
                filled = self.connection.fill() => {
                    let bytes = filled.map_err(|lost| self.lost(lost))?;
                    self.progress.heard();
                    if let Some(on) = self.gathering.after(bytes, began.elapsed()) {
                        self.connection.gather(on);
                    }
                    return Ok(());
                }
                () = self.progress.doom() => self.progress.alive().map_err(|error| self.connection.broken(error))?,
                () = tokio::time::sleep(patience) => {
                    if self.gathering.is_on() {
                        self.gathering.stop();
                        self.connection.gather(false);
                    } else {
                        self.progress.alive().map_err(|error| self.connection.broken(error))?;
                    }
                }
            }
        }
    }

    /// The best reason for a lost connection.
    fn lost(&mut self, error: Error) -> Error {
        let shutdown = self.end == End::Shutdown;
        self.end = End::Over;
        match self.failure.take() {
            Some(reported) => reported,
            None if shutdown => lost("the server has ended the replication stream: it is shutting down"),
            None => error,
        }
    }

    /// Reads to the end of the stream and keeps nothing, however large a message is.
    async fn discard(&mut self) -> Result<()> {
        loop {
            let (header, available) = (Header::parse(self.connection.buffer.unread()), self.connection.buffer.unread().len());
            match header.map_err(|error| self.connection.broken(error))? {
                Some(header) if header.tag == b'd' => {
                    let mut left = header.message_bytes();
                    loop {
                        let available = self.connection.buffer.unread().len().min(left);
                        self.connection.buffer.consume(available);
                        left -= available;
                        if left == 0 {
                            break;
                        }
                        self.fill().await?;
                    }
                }
                Some(header) if available >= header.message_bytes() => {
                    if self.control(header)? {
                        return Ok(());
                    }
                }
                _ => self.fill().await?,
            }
        }
    }
}

#[cfg(test)]
#[path = "replication_stream_tests.rs"]
mod tests;
