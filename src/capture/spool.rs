//! Messages of a transaction whose outcome is not known yet, on the local disk.
//!
//! Promises: what was put in comes out in its order, without what its subtransactions took back; memory is one buffer, however large the transaction.
//! The file has no name: whatever happens to the process, its room is free when it is gone. It is in the folder that the environment
//! variable TMPDIR names. Does not know what the messages mean.

use super::pgoutput::{Message, Parser};
use crate::error::{Error, Kind, Result};
use crate::postgres::frame::garbage;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Seek as _, Write as _};

/// Bytes on their way to the disk, and back.
const BUFFER: usize = 64 << 10;
/// A message beyond this is announced before it is read ([`Next::Large`]).
const LARGE: usize = 1 << 20;

/// A transaction that is being sent.
#[derive(Debug)]
pub struct Spool {
    file: BufWriter<File>,
    messages: u64,
    /// Whether messages name their (sub)transaction, as those of a streamed one do.
    streamed: bool,
    /// Subtransactions that were taken back.
    aborted: HashSet<u32>,
}

/// A transaction that is committed, and read again.
#[derive(Debug)]
pub struct Replay {
    file: BufReader<File>,
    left: u64,
    parser: Parser,
    aborted: HashSet<u32>,
    message: Vec<u8>,
    /// Of the next message, when it is known and the message is not read yet.
    length: Option<usize>,
    allowed: usize,
}

/// What is next of a [`Replay`].
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A message, and how many bytes it had.
    Message(Message<'a>, usize),
    /// It has so many bytes, and is not read until [`Replay::allow`] is called.
    Large(usize),
    /// That was all.
    End,
}

impl Spool {
    /// Nothing yet. `streamed`: the messages are from within a stream.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn new(streamed: bool) -> Result<Self> {
        let file = tempfile::tempfile().map_err(trouble)?;
        Ok(Self { file: BufWriter::with_capacity(BUFFER, file), messages: 0, streamed, aborted: HashSet::new() })
    }

    /// Adds a message.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn push(&mut self, payload: &[u8]) -> Result<()> {
        writers::faults::step("spool.write")?;
        let length = u32::try_from(payload.len()).map_err(|_| garbage("a message of more than 4 GiB"))?;
        self.file.write_all(&length.to_le_bytes()).and_then(|()| self.file.write_all(payload)).map_err(trouble)?;
        self.messages += 1;
        Ok(())
    }

    /// What this subtransaction did, so far, is void.
    pub fn abort(&mut self, subxid: u32) {
        self.aborted.insert(subxid);
    }

    /// Everything, from its beginning.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn read(self) -> Result<Replay> {
        let mut file = self.file.into_inner().map_err(|e| trouble(e.into_error()))?;
        file.rewind().map_err(trouble)?;
        Ok(Replay {
            file: BufReader::with_capacity(BUFFER, file),
            left: self.messages,
            parser: Parser::midway(self.streamed),
            aborted: self.aborted,
            message: Vec::new(),
            length: None,
            allowed: LARGE,
        })
    }
}

impl Replay {
    /// Permits one message of up to `bytes`.
    pub fn allow(&mut self, bytes: usize) {
        self.allowed = self.allowed.max(bytes);
    }

    /// The next message that counts.
    ///
    /// # Errors
    /// The disk fails; a message that is none.
    pub fn read_next(&mut self) -> Result<Next<'_>> {
        loop {
            let length = match self.length.take() {
                Some(length) => length,
                None if self.left == 0 => return Ok(Next::End),
                None => {
                    let mut length = [0; 4];
                    self.file.read_exact(&mut length).map_err(trouble)?;
                    u32::from_le_bytes(length) as usize
                }
            };
            if length > self.allowed {
                self.length = Some(length);
                return Ok(Next::Large(length));
            }
            self.allowed = LARGE;
            self.left -= 1;
            self.message.clear();
            if self.message.capacity() > LARGE && length <= LARGE {
                self.message.shrink_to(LARGE);
            }
            self.message.resize(length, 0);
            self.file.read_exact(&mut self.message).map_err(trouble)?;
            if self.aborted.is_empty() || !self.is_void() {
                break;
            }
        }
        Ok(Next::Message(self.parser.parse(&self.message)?, self.message.len()))
    }

    /// Whether the message is of a subtransaction that was taken back: within a stream, its number is behind the kind (manual, "Logical Replication
    /// Message Formats"; only such messages are kept).
    fn is_void(&self) -> bool {
        let xid = self.message.get(1..5).and_then(|xid| xid.first_chunk()).map(|xid| u32::from_be_bytes(*xid));
        self.parser.in_stream() && xid.is_some_and(|xid| self.aborted.contains(&xid))
    }
}

fn trouble(e: std::io::Error) -> Error {
    let place = std::env::temp_dir();
    Error::new(Kind::Destination, format!("cannot keep the changes of a transaction that is still open in {}: {e}", place.display()))
        .hint("make room there, or name another folder with the environment variable TMPDIR")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// An Insert of one text, as it is within a stream.
    fn insert(xid: u32, text: &[u8]) -> Vec<u8> {
        let mut message = vec![b'I'];
        message.extend(xid.to_be_bytes());
        message.extend(7u32.to_be_bytes());
        message.extend(b"N\0\x01t");
        message.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        message.extend(text);
        message
    }

    /// The lengths of the texts that come out, after what was said of large ones.
    fn drain(mut replay: Replay) -> (Vec<(u32, usize)>, Vec<usize>) {
        let (mut found, mut large) = (Vec::new(), Vec::new());
        loop {
            match replay.read_next().unwrap() {
                Next::Message(Message::Insert { xid, new, .. }, bytes) => {
                    assert_eq!(bytes, new.size() + 12);
                    found.push((xid.unwrap(), new.size() - 5));
                }
                Next::Message(message, _) => panic!("{message:?}"),
                Next::Large(bytes) => {
                    large.push(bytes);
                    replay.allow(bytes);
                }
                Next::End => return (found, large),
            }
        }
    }

    #[test]
    fn what_was_put_in_comes_out_without_what_was_taken_back() {
        let mut spool = Spool::new(true).unwrap();
        let sizes = [0, 3, BUFFER, 2 * LARGE, 5, LARGE - 17, LARGE, 1];
        for (xid, size) in (10..).zip(sizes) {
            spool.push(&insert(xid, &vec![b'x'; size])).unwrap();
        }
        spool.abort(11);
        spool.push(&insert(11, b"it goes on after a savepoint of the same number? never; void all the same")).unwrap();
        spool.abort(17);
        spool.abort(99);
        let (found, large) = drain(spool.read().unwrap());
        assert_eq!(found, [(10, 0), (12, BUFFER), (13, 2 * LARGE), (14, 5), (15, LARGE - 17), (16, LARGE)]);
        assert_eq!(large, [2 * LARGE + 17, LARGE + 17]);
    }

    #[test]
    fn an_empty_one_ends_at_once() {
        assert_eq!(Spool::new(false).unwrap().read().unwrap().read_next().unwrap(), Next::End);
    }
}
