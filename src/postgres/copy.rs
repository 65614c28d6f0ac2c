//! `COPY … TO STDOUT`: the payloads of CopyData messages, as slices of the receive buffer.
//!
//! Promises: each payload once, in order; memory is the connection's buffer plus what [`CopyOut::allow`]
//! granted; [`Event::Done`] only after the server has confirmed the end of the command. Reading may be
//! given up at any await without losing bytes. It does not know what the payloads mean.

use super::frame::{BUFFER_BYTES, HEADER_BYTES, Header, Report, command_rows};
use super::sqlstate;
use super::startup::unexpected;
use super::wire::Connection;
use crate::error::{Error, Result};

/// From here on a COPY counts as long, and bytes may gather before they are read.
const LONG_COPY_BYTES: u64 = 1 << 20;

/// A running COPY. Dropped before [`Event::Done`] or an error, it leaves the connection unusable.
pub struct CopyOut<'a> {
    connection: &'a mut Connection,
    binary: bool,
    columns: u16,
    allowed: usize,
    received: u64,
    rows: Option<u64>,
    failure: Option<Error>,
}

/// What a read has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Complete payloads were handed over.
    Data,
    /// The next payload has this many bytes, and the buffer does not grow to hold it until
    /// [`CopyOut::allow`] is called.
    Large(usize),
    /// CopyDone, CommandComplete and ReadyForQuery were seen; the last payloads may have been handed over
    /// in the same call.
    Done {
        /// Rows, as the server counts them.
        rows: u64,
    },
}

/// What a sink says after a payload: nothing (`()`), or whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Hand over the next payload.
    More,
    /// Return from [`CopyOut::read`]; the next payload stays in the buffer.
    Enough,
}

impl From<()> for Flow {
    fn from((): ()) -> Self {
        Self::More
    }
}

/// Why handing over stopped.
enum Stop {
    /// The sink has enough for now.
    Enough,
    /// The rest of a message is missing.
    Incomplete,
    /// A payload that needs permission.
    Large(usize),
    /// A message other than CopyData, complete.
    Control(Header),
}

impl<'a> CopyOut<'a> {
    pub(super) fn new(connection: &'a mut Connection, binary: bool, columns: u16) -> Self {
        Self { connection, binary, columns, allowed: 0, received: 0, rows: None, failure: None }
    }

    /// Whether the format is binary.
    pub fn is_binary(&self) -> bool {
        self.binary
    }

    /// Number of columns.
    pub fn columns(&self) -> u16 {
        self.columns
    }

    /// Permits one payload of up to `bytes`; afterwards the buffer shrinks back.
    pub fn allow(&mut self, bytes: usize) {
        self.allowed = bytes;
    }

    /// Waits for bytes from the server and hands every complete payload in the buffer to `sink`, in order,
    /// without copying it. An error of `sink` comes back at once; its payload counts as handed over.
    pub async fn read<F: Into<Flow>>(&mut self, sink: &mut impl FnMut(&[u8]) -> Result<F>) -> Result<Event> {
        let mut handed = false;
        loop {
            match self.hand_over(sink, &mut handed)? {
                Stop::Control(header) => {
                    if let Some(done) = self.control(header)? {
                        return Ok(done);
                    }
                }
                _ if handed => return Ok(Event::Data),
                Stop::Large(bytes) => return Ok(Event::Large(bytes)),
                // Enough comes only after a payload.
                Stop::Enough | Stop::Incomplete => {
                    // An error the server reported before it hung up is the better reason.
                    let filled = self.connection.fill().await;
                    self.received += filled.map_err(|lost| self.failure.take().unwrap_or(lost))? as u64;
                    if self.received > LONG_COPY_BYTES {
                        self.connection.gather(true);
                    }
                }
            }
        }
    }

    fn hand_over<F: Into<Flow>>(&mut self, sink: &mut impl FnMut(&[u8]) -> Result<F>, handed: &mut bool) -> Result<Stop> {
        let unread = self.connection.buffer.unread();
        let (mut at, mut shrink) = (0, false);
        let result = loop {
            let header = match Header::parse(&unread[at..]) {
                Ok(Some(header)) => header,
                Ok(None) => break Ok(Stop::Incomplete),
                Err(error) => break Err((error, true)),
            };
            let Some(payload) = unread.get(at + HEADER_BYTES..at + header.message_bytes()) else {
                break Ok(if header.tag == b'd' && header.message_bytes() > BUFFER_BYTES {
                    Stop::Large(header.body)
                } else {
                    Stop::Incomplete
                });
            };
            if header.tag != b'd' {
                break Ok(Stop::Control(header));
            }
            at += header.message_bytes();
            *handed = true;
            if header.message_bytes() > BUFFER_BYTES {
                self.allowed = 0;
                shrink = true;
            }
            match sink(payload).map(Into::into) {
                Ok(Flow::More) => {}
                Ok(Flow::Enough) => break Ok(Stop::Enough),
                Err(error) => break Err((error, false)),
            }
        };
        let buffer = &mut self.connection.buffer;
        buffer.consume(at);
        if shrink {
            buffer.resize(BUFFER_BYTES);
        }
        match result {
            Ok(Stop::Large(bytes)) if bytes <= self.allowed => {
                if buffer.capacity() < bytes + HEADER_BYTES {
                    buffer.resize(bytes + HEADER_BYTES);
                }
                Ok(Stop::Incomplete)
            }
            Ok(stop) => Ok(stop),
            Err((error, true)) => Err(self.connection.broken(error)),
            Err((error, false)) => Err(error),
        }
    }

    /// Takes the control message at the front of the buffer; `Some` when the command has ended.
    fn control(&mut self, header: Header) -> Result<Option<Event>> {
        let connection = &mut *self.connection;
        let body = connection.buffer.unread().get(HEADER_BYTES..header.message_bytes()).unwrap_or_default().to_vec();
        connection.buffer.consume(header.message_bytes());
        if connection.aside(header.tag, &body)? {
            return Ok(None);
        }
        match header.tag {
            b'c' => {}
            // The first one is COPY's; statements that follow it in the same query add theirs.
            b'C' => {
                let rows = command_rows(&body).map_err(|error| connection.broken(error))?;
                self.rows.get_or_insert(rows);
            }
            b'E' => {
                let report = Report::parse(&body).map_err(|error| connection.broken(error))?;
                let error = sqlstate::report_error(&report);
                if report.is_fatal() {
                    return Err(connection.broken(error));
                }
                self.failure.get_or_insert(error);
            }
            b'Z' => {
                connection.gather(false);
                connection.ready(self.failure.take())?;
                return Ok(Some(Event::Done { rows: self.rows.unwrap_or(0) }));
            }
            tag => return Err(connection.broken(unexpected(tag, "in the middle of COPY"))),
        }
        Ok(None)
    }
}

impl Drop for CopyOut<'_> {
    fn drop(&mut self) {
        self.connection.gather(false);
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
