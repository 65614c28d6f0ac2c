//! `COPY … TO STDOUT`: the payloads of CopyData messages, as slices of the receive buffer.
//!
//! Promises: each payload once, in order; memory is the connection's buffer plus what [`CopyOut::allow`]
//! granted; [`Event::Done`] only after the server has confirmed the end of the command. Reading may be
//! given up at any await without losing bytes. It does not know what the payloads mean.

use super::copy_data::{Payloads, Stop};
use super::frame::{Header, command_rows};
use super::startup::unexpected;
use super::wire::Connection;
use crate::error::{Error, Result};

pub use super::copy_data::Flow;

/// From here on a COPY counts as long, and bytes may gather before they are read.
const LONG_COPY_BYTES: u64 = 1 << 20;

/// A running COPY. Dropped before [`Event::Done`] or an error, it leaves the connection unusable.
pub struct CopyOut<'a> {
    connection: &'a mut Connection,
    copying: Copying,
}

/// What a running COPY is without its connection, for a caller that keeps the two itself. The connection must be the one that
/// it was begun on, at each call.
pub(super) struct Copying {
    binary: bool,
    columns: u16,
    payloads: Payloads,
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

impl<'a> CopyOut<'a> {
    pub(super) fn new(connection: &'a mut Connection, copying: Copying) -> Self {
        Self { connection, copying }
    }

    /// Whether the format is binary.
    pub fn is_binary(&self) -> bool {
        self.copying.binary
    }

    /// Number of columns.
    pub fn columns(&self) -> u16 {
        self.copying.columns
    }

    /// Permits one payload of up to `bytes`; afterwards the buffer shrinks back.
    pub fn allow(&mut self, bytes: usize) {
        self.copying.allow(bytes);
    }

    /// Waits for bytes from the server and hands every complete payload in the buffer to `sink`, in order,
    /// without copying it. An error of `sink` comes back at once; its payload counts as handed over.
    pub async fn read<F: Into<Flow>>(&mut self, sink: &mut impl FnMut(&[u8]) -> Result<F>) -> Result<Event> {
        self.copying.read(self.connection, sink).await
    }
}

impl Copying {
    pub(super) fn new(binary: bool, columns: u16) -> Self {
        Self { binary, columns, payloads: Payloads::default(), received: 0, rows: None, failure: None }
    }

    /// As [`CopyOut::allow`].
    pub(super) fn allow(&mut self, bytes: usize) {
        self.payloads.allow(bytes);
    }

    /// Throws away the payload of `bytes` that was announced as [`Event::Large`], as it arrives.
    pub(super) fn pass_over(&mut self, bytes: usize) {
        self.payloads.pass_over(bytes);
    }

    /// As [`CopyOut::read`].
    pub(super) async fn read<F: Into<Flow>>(
        &mut self,
        connection: &mut Connection,
        sink: &mut impl FnMut(&[u8]) -> Result<F>,
    ) -> Result<Event> {
        let mut handed = false;
        loop {
            match self.payloads.hand_over(connection, sink, &mut handed)? {
                Stop::Control(header) => {
                    if let Some(done) = self.control(connection, header)? {
                        return Ok(done);
                    }
                }
                _ if handed => return Ok(Event::Data),
                Stop::Large(bytes) => return Ok(Event::Large(bytes)),
                // Enough comes only after a payload.
                Stop::Enough | Stop::Incomplete => {
                    // An error the server reported before it hung up is the better reason.
                    let filled = connection.fill().await;
                    self.received += filled.map_err(|lost| self.failure.take().unwrap_or(lost))? as u64;
                    if self.received > LONG_COPY_BYTES {
                        connection.gather(true);
                    }
                }
            }
        }
    }

    /// Takes the control message at the front of the buffer; `Some` when the command has ended.
    fn control(&mut self, connection: &mut Connection, header: Header) -> Result<Option<Event>> {
        let Some(body) = connection.take(header)? else { return Ok(None) };
        match header.tag {
            b'c' => {}
            // The first one is COPY's; statements that follow it in the same query add theirs.
            b'C' => {
                let rows = command_rows(&body).map_err(|error| connection.broken(error))?;
                self.rows.get_or_insert(rows);
            }
            b'E' => {
                let error = connection.reported(&body)?;
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
