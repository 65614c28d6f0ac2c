//! What a server sends before anything is decoded: messages of the protocol and what is in them, answers of a slot that is polled, certificates.
//! Whatever comes, it is understood or refused as the server's mistake, in memory that does not depend on what a length says.

use super::checks::{ONE_DECODE_BYTES, Outcome};
use lakeward::error::{Error, Kind, Result};
use lakeward::postgres::certificate::{Certificate, name_matches};
use lakeward::postgres::frame::{Body, Buffer, Report, command_rows, text_row};
use lakeward::postgres::lsn::Lsn;
use lakeward::postgres::replication_stream::Received;
use lakeward::postgres::slot_peek::Sieve;

/// The first byte says what it is: messages, cut into pieces of its other bits; rows of a polled slot, each behind two bytes of length; a certificate.
pub fn server(input: &[u8]) -> Outcome {
    let Some((choice, bytes)) = input.split_first() else { return Outcome::NOTHING };
    let bound = ONE_DECODE_BYTES + 16 * input.len();
    let decoded = match choice & 3 {
        0 | 1 => messages(bytes, 1 + usize::from(choice >> 2)),
        2 => rows(bytes),
        _ => certificate(bytes),
    };
    Outcome { decoded, bound }
}

fn messages(bytes: &[u8], piece: usize) -> bool {
    let mut buffer = Buffer::new(64);
    let (mut understood, mut rest) = (0, bytes);
    loop {
        match buffer.message() {
            Ok(Some((header, body))) => {
                assert_eq!(body.len(), header.body);
                understood += usize::from(refused(message(header.tag, body)).is_none());
                let length = header.message_bytes();
                buffer.consume(length);
            }
            Ok(None) if rest.is_empty() => break,
            Ok(None) => {
                let room = buffer.room();
                let n = piece.min(rest.len()).min(room.len());
                room[..n].copy_from_slice(&rest[..n]);
                buffer.filled(n);
                rest = &rest[n..];
            }
            Err(error) => {
                refused::<()>(Err(error));
                break;
            }
        }
    }
    understood > 0
}

fn message(tag: u8, body: &[u8]) -> Result<()> {
    match tag {
        b'E' | b'N' => Report::parse(body).map(drop),
        b'D' => text_row(body).map(drop),
        b'C' => command_rows(body).map(drop),
        b'd' => Received::parse(body).map(drop),
        b'S' => Body(body).cstr().map(drop),
        _ => Ok(()),
    }
}

fn rows(mut rest: &[u8]) -> bool {
    let mut sieve = Sieve::new(Lsn(1 << 20));
    sieve.begin();
    let mut taken = 0;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (payload, after) = after.split_at(after.len().min(usize::from(u16::from_be_bytes(*length))));
        rest = after;
        let before = sieve.reached();
        match sieve.take("slot", payload) {
            Ok(row) => taken += usize::from(row.is_some()),
            // A slot that has moved is told as what it is.
            Err(error) if error.kind() == Kind::State => {}
            Err(error) => {
                refused::<()>(Err(error));
                assert_eq!(sieve.reached(), before);
            }
        }
        assert!(sieve.reached() >= before);
    }
    taken > 0
}

fn certificate(der: &[u8]) -> bool {
    let Some(found) = Certificate::parse(der) else { return false };
    let _ = found.signature_hash();
    assert!(found.public_key.len() <= der.len());
    found.common_name.is_none_or(|name| name.starts_with("*.") || name.ends_with('.') || name_matches(name, name))
}

fn refused<T>(result: Result<T>) -> Option<Error> {
    let error = result.err()?;
    assert_eq!(error.kind(), Kind::Source, "{error}");
    assert!(!error.to_string().is_empty());
    Some(error)
}
