//! Tests of the message parser: every truncation, hostile lengths, random bytes.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// xorshift: the same bytes in every run.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    }
}

fn filled(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::new(16);
    for byte in bytes {
        buffer.room()[0] = *byte;
        buffer.filled(1);
    }
    buffer
}

#[test]
fn lengths_are_checked_before_anything_is_believed() {
    let check = |bytes: &[u8], expected: Option<usize>| {
        assert_eq!(Header::parse(bytes).ok().flatten().map(|h| h.body), expected, "{bytes:?}");
    };
    check(b"Z\0\0\0\x05", Some(1));
    check(b"Z\0\0\0\x04", Some(0));
    check(b"Z\0\0\0\x03", None);
    check(b"Z\0\0\0\0", None);
    check(b"Z\xff\xff\xff\xff", None);
    check(b"Z\x7f\xff\xff\xff", None);
    check(b"d\x40\0\0\x04", Some(1 << 30));
    check(b"d\x40\0\0\x05", None);
    check(b"E\x04\0\0\x05", None);
    check(b"HTTP/", None);
    assert!(Header::parse(b"HTTP/").unwrap_err().advice().is_some());
    assert_eq!(Header::parse(b"Z\0\0\0").unwrap(), None);
}

#[test]
fn messages_come_out_in_order_however_they_arrive() {
    let mut bytes = message(b'd', b"one");
    bytes.extend(message(b'd', &[7; 100]));
    bytes.extend(message(b'c', b""));
    let mut buffer = Buffer::new(8);
    let mut found = Vec::new();
    for piece in bytes.chunks(3) {
        let room = buffer.room();
        let n = piece.len().min(room.len());
        room[..n].copy_from_slice(&piece[..n]);
        buffer.filled(n);
        for byte in &piece[n..] {
            buffer.room()[0] = *byte;
            buffer.filled(1);
        }
        while let Some((header, body)) = buffer.message().unwrap() {
            found.push((header.tag, body.to_vec()));
            buffer.consume(header.message_bytes());
        }
    }
    assert_eq!(found, vec![(b'd', b"one".to_vec()), (b'd', vec![7; 100]), (b'c', vec![])]);
    assert!(buffer.unread().is_empty());
    assert!(buffer.capacity() < 300);
    buffer.resize(32);
    assert_eq!(buffer.capacity(), 32);
}

#[test]
fn a_resize_keeps_what_is_unread() {
    let mut buffer = filled(b"0123456789");
    buffer.consume(4);
    buffer.resize(100);
    assert_eq!((buffer.unread(), buffer.capacity()), (&b"456789"[..], 100));
    buffer.resize(1);
    assert_eq!((buffer.unread(), buffer.capacity()), (&b"456789"[..], 6));
    assert_eq!(buffer.room().len(), 6);
}

#[test]
fn a_report_is_read_field_by_field() {
    let body = b"SFEHLER\0VERROR\0C42P01\0Mno table\0Ddetail\0Hhint\0Fparse.c\0Xfuture\0\0";
    let report = Report::parse(body).unwrap();
    let expected = Report {
        severity: "ERROR".into(),
        code: "42P01".into(),
        message: "no table".into(),
        detail: Some("detail".into()),
        hint: Some("hint".into()),
    };
    assert_eq!(report, expected);
    assert!(!report.is_fatal());
    assert!(Report::parse(b"SFATAL\0\0").unwrap().is_fatal());
    for end in 0..body.len() {
        assert!(Report::parse(&body[..end]).is_err(), "truncated at {end}");
    }
}

#[test]
fn rows_tell_null_from_empty_and_refuse_what_is_not_text() {
    let body = b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0";
    assert_eq!(text_row(body).unwrap(), vec![Some("a".to_owned()), None, Some(String::new())]);
    for end in 0..body.len() {
        assert!(text_row(&body[..end]).is_err(), "truncated at {end}");
    }
    assert!(text_row(b"\0\x01\xff\xff\xff\xfe").is_err());
    assert!(text_row(b"\0\x01\x7f\xff\xff\xff").is_err());
    assert!(text_row(b"\0\x01\0\0\0\x01\xff").unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn command_tags_end_with_a_count() {
    let check = |tag: &[u8], expected| assert_eq!(command_rows(tag).ok(), expected);
    check(b"COPY 12\0", Some(12));
    check(b"SET\0", Some(0));
    check(b"INSERT 0 7\0", Some(7));
    check(b"COPY 99999999999999999999999\0", Some(0));
    check(b"COPY 1", None);
}

#[test]
fn random_bytes_never_panic() {
    let mut next = random(20);
    let tags = b"dDENTSRKZCcHGWAI123nstvx\0";
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> = (0..next() % 60).map(|_| if next().is_multiple_of(3) { 0 } else { next() as u8 }).collect();
        let _ = (Report::parse(&bytes), text_row(&bytes), command_rows(&bytes));
        if let Some(first) = bytes.first_mut() {
            *first = tags[next() as usize % tags.len()];
        }
        let mut buffer = filled(&bytes);
        while let Ok(Some((header, body))) = buffer.message() {
            let _ = (Report::parse(body), text_row(body), command_rows(body));
            buffer.consume(header.message_bytes());
        }
    }
}
