//! Every damage to the recorded messages, and messages made by hand that the protocol does not allow.

use super::*;
use crate::error::{Kind, Retry};

/// Walks over everything that a message gives out.
fn walk(message: &Message<'_>) {
    let tuple = |tuple: &Tuple<'_>| assert_eq!(tuple.cells().count(), tuple.columns());
    let old = |old: &Old<'_>| match old {
        Old::Key(old) | Old::Full(old) => tuple(old),
    };
    match message {
        Message::Insert { new, .. } => tuple(new),
        Message::Update { old: before, new, .. } => {
            before.iter().for_each(old);
            tuple(new);
        }
        Message::Delete { old: before, .. } => old(before),
        Message::Truncate { relations, .. } => assert_eq!(relations.iter().count(), relations.iter().len()),
        _ => {}
    }
}

/// Each message with the parser as it was before it.
fn each(mut check: impl FnMut(&Parser, &[u8])) {
    for recording in Recording::all() {
        recording.parsed().iter().for_each(|(before, payload, _)| check(before, payload));
    }
}

/// The error must say what it is about and blame the source.
fn refused(parser: &Parser, payload: &[u8]) -> String {
    let (mut parser, before) = (parser.clone(), parser.in_stream());
    let error = parser.parse(payload).expect_err(&format!("{payload:02x?}"));
    assert_eq!((error.kind(), error.retry()), (Kind::Source, Retry::Never));
    assert!(error.advice().is_some_and(|advice| advice.contains("pgoutput") || advice.contains("SQL_ASCII")));
    assert_eq!(parser.in_stream(), before);
    error.to_string()
}

#[test]
fn every_truncation_is_an_error() {
    each(|parser, payload| {
        for end in 0..payload.len() {
            refused(parser, &payload[..end]);
        }
    });
}

#[test]
fn bytes_after_the_end_are_an_error() {
    each(|parser, payload| {
        for garbage in [b"\0".as_slice(), b"N", b"n", b"\xff\xff\xff\xff", b"t\0\0\0\x01a", payload] {
            let error = refused(parser, &[payload, garbage].concat());
            assert!(error.contains(" more bytes after its end") || payload[0] == b'T', "{error}");
        }
    });
}

#[test]
fn no_changed_byte_is_a_panic() {
    let (mut taken, mut refused) = (0, 0);
    each(|parser, payload| {
        let mut payload = payload.to_vec();
        for at in 0..payload.len() {
            let was = payload[at];
            for byte in [0, 0xff, was ^ 1, b't'] {
                payload[at] = byte;
                match parser.clone().parse(&payload) {
                    Ok(message) => {
                        walk(&message);
                        taken += 1;
                    }
                    Err(error) => {
                        assert!(!error.to_string().is_empty());
                        refused += 1;
                    }
                }
            }
            payload[at] = was;
        }
    });
    assert!(taken > 50_000 && refused > 10_000, "{taken} {refused}");
}

#[test]
fn the_place_in_the_stream_counts() {
    let start = [b"S".as_slice(), &7_u32.to_be_bytes(), &[1]].concat();
    let mut parser = Parser::new(false);
    assert_eq!(
        refused(&parser, b"E"),
        "read the pgoutput message Stream Stop (E): the server sent it outside of a stream, which the protocol does not allow here"
    );
    assert_eq!(parser.parse(&start).unwrap(), Message::StreamStart { xid: 7, first: true });
    assert!(refused(&parser, &start).contains("Stream Start (S): the server sent it within a stream"));
    for (name, recorded) in [("v3-two-phase-text", 15), ("v4-parallel-binary", 18)] {
        let recording = Recording::read(recorded, name);
        for kind in b"BCcAbPpKr" {
            let payload = recording.messages.iter().find(|m| m[0] == *kind).unwrap();
            assert!(refused(&parser, payload).contains("it within a stream"));
        }
    }
    assert_eq!(parser.parse(b"E").unwrap(), Message::StreamStop);
    refused(&parser, b"E");

    // The transaction of a change is told only within a stream.
    let insert = [b"I".as_slice(), &5_u32.to_be_bytes(), b"N\0\0"].concat();
    let streamed = [b"I".as_slice(), &7_u32.to_be_bytes(), &5_u32.to_be_bytes(), b"N\0\0"].concat();
    assert!(matches!(parser.parse(&insert).unwrap(), Message::Insert { xid: None, relation: 5, .. }));
    refused(&parser, &streamed);
    parser.parse(&start).unwrap();
    assert!(matches!(parser.parse(&streamed).unwrap(), Message::Insert { xid: Some(7), relation: 5, .. }));
    refused(&parser, &insert);
}

#[test]
fn an_abort_is_of_the_kind_that_was_asked_for() {
    for (major, name) in [(14, "v2-streaming-binary"), (18, "v4-parallel-binary")] {
        let recording = Recording::read(major, name);
        let abort = recording.messages.iter().find(|m| m[0] == b'A').unwrap();
        let error = refused(&Parser::new(!recording.parallel()), abort);
        let expected = if recording.parallel() { "16 more bytes after its end" } else { "a message that is too short" };
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_unknown_is_named() {
    let parser = Parser::new(false);
    assert!(refused(&parser, b"").contains("an empty pgoutput message"));
    let known = b"BMCORYIUDTSEcAbPKrp";
    for kind in (0..=255).filter(|kind| !known.contains(kind)) {
        let error = refused(&parser, &[kind; 40]);
        assert!(error.contains("message of kind ") && error.contains("a kind that the protocol versions 1 to 4 do not have"), "{error}");
    }
    let check = |parts: &[&[u8]], message: &str, found: &str| {
        let error = refused(&parser, &parts.concat());
        assert!(error.starts_with(&format!("read the pgoutput message {message}: the server sent {found}")), "{error}");
    };
    let oid = &5_u32.to_be_bytes();
    let one = &[0, 1];
    check(&[b"I", oid, b"X"], "Insert (I)", "a row of kind X, where N is expected");
    check(&[b"I", oid, b"N", one, b"\x07"], "Insert (I)", "a value of kind 0x07, where n, u, t and b are known");
    check(&[b"I", oid, b"N", one, b"t", &[0xff; 4]], "Insert (I)", "a length of -1 with 0 bytes left");
    check(&[b"I", oid, b"N", one, b"b", &[0x7f, 0xff, 0xff, 0xff], b"abc"], "Insert (I)", "a length of 2147483647 with 3 bytes left");
    check(&[b"I", oid, b"N", one, b"t", &[0xff, 0, 0, 1], b"a"], "Insert (I)", "a length of -16777215 with 1 bytes left");
    check(&[b"I", oid, b"N", &[0xff, 0xff], b"nnn"], "Insert (I)", "a message that is too short");
    check(&[b"U", oid, b"X"], "Update (U)", "a row of kind X, where K, O or N is expected");
    check(&[b"U", oid, b"K", one, b"n", b"O"], "Update (U)", "a row of kind O, where N is expected");
    check(&[b"U", oid, b"O", one, b"n", b"N", &[0, 2], b"nn"], "Update (U)", "1 columns in the old row and 2 in the new one");
    check(&[b"D", oid, b"N", one, b"n"], "Delete (D)", "a row of kind N, where K or O is expected");
    check(&[b"T", &[0, 0, 0, 2, 4], oid, oid], "Truncate (T)", "flags 0x04, where 0x03 at most are known");
    check(&[b"T", &[0, 0, 0, 2, 0], oid], "Truncate (T)", "4 bytes for 2 relations of 4 bytes");
    check(&[b"T", &[0, 0, 0, 1, 0], oid, b"x"], "Truncate (T)", "5 bytes for 1 relations of 4 bytes");
    check(&[b"T", &[0xff; 4], &[0], oid], "Truncate (T)", "4 bytes for 4294967295 relations of 4 bytes");
    check(&[b"M", &[2]], "Message (M)", "flags 0x02, where 0x01 at most are known");
    check(&[b"C", &[1]], "Commit (C)", "flags 0x01, where 0x00 at most are known");
    check(&[b"R", oid, b"public\0t\0x", &[0, 0]], "Relation (R)", "a replica identity x, where d, n, f and i are known");
    check(&[b"R", oid, b"public\0t\0d", one, &[2]], "Relation (R)", "flags 0x02, where 0x01 at most are known");
    check(&[b"R", oid, b"public\0t"], "Relation (R)", "a string without end");
    check(&[b"B", &[0; 20]], "Begin (B)", "0 for a transaction");
}
