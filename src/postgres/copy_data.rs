//! CopyData messages in the receive buffer, and how their payloads are handed out in place: for COPY and for replication.
//!
//! Promises: each payload once, in order, without copying it; the buffer grows beyond its usual size only for a payload
//! that [`Payloads::allow`] has permitted, and shrinks back after it. Does not know what the payloads mean.

use super::frame::{BUFFER_BYTES, HEADER_BYTES, Header};
use super::wire::Connection;
use crate::error::Result;

/// What a sink says after a payload: nothing (`()`), or whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Hand over the next payload.
    More,
    /// Return to the caller; the next payload stays in the buffer.
    Enough,
}

impl From<()> for Flow {
    fn from((): ()) -> Self {
        Self::More
    }
}

/// Why handing over stopped.
pub(super) enum Stop {
    /// The sink has enough for now.
    Enough,
    /// The rest of a message is missing.
    Incomplete,
    /// A payload of this many bytes, which needs permission.
    Large(usize),
    /// A message other than CopyData, complete.
    Control(Header),
}

/// Hands out payloads.
#[derive(Default)]
pub(super) struct Payloads {
    allowed: usize,
    /// Bytes of a message that nobody wants and that have not arrived yet.
    unwanted: usize,
}

impl Payloads {
    /// Permits one payload of up to `bytes`; afterwards the buffer shrinks back.
    pub(super) fn allow(&mut self, bytes: usize) {
        self.allowed = bytes;
    }

    /// Throws away the payload of `bytes` that was announced as [`Stop::Large`], as it arrives.
    pub(super) fn pass_over(&mut self, bytes: usize) {
        self.unwanted = bytes + HEADER_BYTES;
    }

    /// Hands every complete payload in the buffer to `sink`; `handed` says whether there was one. An error of `sink` comes
    /// back at once; its payload counts as handed over. After an error of the protocol the connection is broken.
    pub(super) fn hand_over<F: Into<Flow>>(
        &mut self,
        connection: &mut Connection,
        sink: &mut impl FnMut(&[u8]) -> Result<F>,
        handed: &mut bool,
    ) -> Result<Stop> {
        if self.unwanted > 0 {
            let arrived = self.unwanted.min(connection.buffer.unread().len());
            connection.buffer.consume(arrived);
            self.unwanted -= arrived;
        }
        if self.unwanted > 0 {
            return Ok(Stop::Incomplete);
        }
        let unread = connection.buffer.unread();
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
        let buffer = &mut connection.buffer;
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
            Err((error, true)) => Err(connection.broken(error)),
            Err((error, false)) => Err(error),
        }
    }
}
