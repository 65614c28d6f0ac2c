//! Backend messages as they lie in the receive buffer (manual, "Message Formats").
//!
//! Promises: nothing the server sends causes a panic or an allocation that the server chose; a buffer
//! grows with bytes that have arrived, or with a length that the caller has allowed. Knows no socket.

use crate::error::{Error, Result};

/// What one connection keeps for receiving; a COPY at speed is drained in reads of up to this size.
pub const BUFFER_BYTES: usize = 512 << 10;

/// Type byte and length word.
pub const HEADER_BYTES: usize = 5;

/// PostgreSQL allocates no value above 1 GiB, so neither a row nor a message can be larger.
const ROW_BYTES_MAX: usize = 1 << 30;

/// Errors, notices and descriptions carry query texts and names, never row data.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Everything else is a few words.
const WORDS_BYTES_MAX: usize = 1 << 20;

/// Type and body length of a message whose body may not have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type byte.
    pub tag: u8,
    /// Bytes of the body, without the length word.
    pub body: usize,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` until five bytes are there.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some((&[tag, a, b, c, d], _)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let max = match tag {
            b'd' | b'D' => ROW_BYTES_MAX,
            b'E' | b'N' | b'T' | b'A' | b'v' => TEXT_BYTES_MAX,
            b'R' | b'S' | b'K' | b'Z' | b'C' | b'I' | b'c' | b'G' | b'H' | b'W' | b'1' | b'2' | b'3' | b'n' | b's' | b't' => {
                WORDS_BYTES_MAX
            }
            _ => return Err(garbage(format!("a message of unknown type 0x{tag:02x}"))),
        };
        match length.checked_sub(4) {
            Some(body) if body <= max => Ok(Some(Self { tag, body })),
            _ => Err(garbage(format!("a message of type {} with length {length}", tag.escape_ascii()))),
        }
    }

    /// Bytes of the whole message.
    pub fn message_bytes(self) -> usize {
        HEADER_BYTES + self.body
    }
}

/// The stream is out of step; nothing after this point can be trusted.
pub fn garbage(found: impl std::fmt::Display) -> Error {
    Error::source_db(format!("the server sent {found}, which the protocol does not allow here"))
        .hint("check that host and port belong to a PostgreSQL server, and what proxies stand in between")
}

/// One growing region of received bytes; `unread` lies between two marks inside it.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer of `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity], start: 0, end: 0 }
    }

    /// Bytes received and not consumed.
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Total bytes held.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets `n` unread bytes.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// The first message, if all of it has arrived. Consume `message_bytes()` of its header afterwards.
    pub fn message(&self) -> Result<Option<(Header, &[u8])>> {
        let unread = self.unread();
        let Some(header) = Header::parse(unread)? else { return Ok(None) };
        Ok(unread.get(HEADER_BYTES..header.message_bytes()).map(|body| (header, body)))
    }

    /// Room to read into. What is left over from the last read is a part of one message: moving it to
    /// the front costs less than a buffer that grows. Only a full buffer doubles.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.bytes.len() {
            self.bytes.resize((self.bytes.len() * 2).max(HEADER_BYTES), 0);
        }
        &mut self.bytes[self.end..]
    }

    /// `n` bytes were read into [`Buffer::room`].
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.bytes.len());
    }

    /// Changes the capacity, but never below what is unread.
    pub fn resize(&mut self, capacity: usize) {
        let capacity = capacity.max(self.end - self.start);
        if capacity != self.bytes.len() {
            // A fresh zeroed block comes as untouched pages; growing in place would write all of it.
            let mut bytes = vec![0; capacity];
            let unread = self.unread();
            bytes[..unread.len()].copy_from_slice(unread);
            (self.end, self.start) = (unread.len(), 0);
            self.bytes = bytes;
        }
    }
}

/// A cursor over the body of a message; running out of bytes is an error.
pub struct Body<'a>(pub &'a [u8]);

impl<'a> Body<'a> {
    /// Takes `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).ok_or_else(|| garbage("a message that is too short"))?;
        self.0 = tail;
        Ok(head)
    }

    /// Takes `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or_else(|| garbage("a message that is too short"))?;
        self.0 = tail;
        Ok(*head)
    }

    /// Takes a byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Takes a big-endian 16-bit number.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Takes a big-endian 32-bit number.
    pub fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// Takes a big-endian 64-bit number.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Takes a string that ends with a NUL byte.
    pub fn cstr(&mut self) -> Result<&'a [u8]> {
        let end = self.0.iter().position(|&b| b == 0).ok_or_else(|| garbage("a string without end"))?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(text)
    }
}

/// The fields of an ErrorResponse or NoticeResponse (manual, "Error and Notice Message Fields").
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// `ERROR`, `FATAL`, `NOTICE` …, not translated where the server tells (9.6 and later).
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// Primary message.
    pub message: String,
    /// Detail.
    pub detail: Option<String>,
    /// Hint.
    pub hint: Option<String>,
}

impl Report {
    /// Reads the fields; unknown ones are skipped, as the manual asks. Texts may be in any encoding
    /// before the session is set up, so they are read leniently.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut body = Body(body);
        let mut report = Self::default();
        loop {
            let field = body.u8()?;
            if field == 0 {
                return Ok(report);
            }
            let text = String::from_utf8_lossy(body.cstr()?).into_owned();
            match field {
                b'V' => report.severity = text,
                b'S' if report.severity.is_empty() => report.severity = text,
                b'C' => report.code = text,
                b'M' => report.message = text,
                b'D' => report.detail = Some(text),
                b'H' => report.hint = Some(text),
                _ => {}
            }
        }
    }

    /// Whether the session ends with this error.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }
}

/// The columns of a DataRow in text format; NULL is `None`.
pub fn text_row(body: &[u8]) -> Result<Vec<Option<String>>> {
    let mut body = Body(body);
    (0..body.u16()?)
        .map(|_| match body.i32()? {
            -1 => Ok(None),
            n => {
                let bytes = body.take(usize::try_from(n).map_err(|_| garbage("a negative length"))?)?;
                let text = std::str::from_utf8(bytes).map_err(|_| Error::source_db("the server sent text that is not UTF-8"))?;
                Ok(Some(text.to_owned()))
            }
        })
        .collect()
}

/// The number at the end of a command tag: `COPY 12` → 12; a tag without one gives 0.
pub fn command_rows(body: &[u8]) -> Result<u64> {
    let tag = String::from_utf8_lossy(Body(body).cstr()?);
    Ok(tag.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
