//! Statements, and answers made by hand.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::error::Kind;
use crate::postgres::replication::tests::options;

fn statements(version: u32) -> Statements {
    let mut options = options("p", 130_000);
    options.slot = "it's".to_owned();
    options.publications = ["Plain", "q\"'\\"].map(str::to_owned).into();
    Statements::new(&options, "SELECT 1".to_owned(), version).unwrap()
}

#[test]
fn names_stay_inside_their_quotes() {
    let arguments = r#"'proto_version', '1', 'publication_names', E'"Plain","q""''\\"'"#;
    let peek = statements(180_000).peek(Lsn(0x1_0000_00AB), Some(7));
    assert!(peek.contains(&format!("pg_logical_slot_peek_binary_changes('it''s', '1/AB', 7, {arguments})")), "{peek}");
    assert!(statements(180_000).peek(Lsn(1), None).contains("'0/1', NULL, "));
}

#[test]
fn only_whole_transactions_can_be_asked_for() {
    for change in [
        |protocol: &mut Protocol| protocol.streaming = Streaming::On,
        |protocol: &mut Protocol| protocol.two_phase = true,
        |protocol: &mut Protocol| protocol.messages = true,
    ] {
        let mut options = options("p", 130_000);
        change(&mut options.protocol);
        assert_eq!(Statements::new(&options, String::new(), 150_000).err().unwrap().kind(), Kind::Bug);
    }
}

#[test]
fn servers_that_lose_catalog_rows_are_not_told_to_advance() {
    for (version, exactly) in [
        (0, false),
        (100_023, false),
        (120_022, false),
        (130_020, false),
        (130_021, true),
        (150_012, false),
        (150_018, true),
        (170_004, false),
        (170_005, true),
        (190_000, true),
    ] {
        let advance = statements(version).advance(Lsn(1));
        assert_eq!(advance.contains("pg_replication_slot_advance"), exactly, "{version}: {advance}");
        assert_ne!(advance.contains("pg_logical_slot_get_binary_changes"), exactly, "{version}: {advance}");
    }
}

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

fn row(position: u64, message: &[u8], confirmed: u64) -> Vec<u8> {
    let mut row = vec![0, 3];
    for field in [&position.to_be_bytes()[..], message, &confirmed.to_be_bytes()] {
        row.extend((field.len() as i32).to_be_bytes());
        row.extend(field);
    }
    row
}

fn begin(commit: u64) -> Vec<u8> {
    [b"B", &commit.to_be_bytes()[..], &[0; 12]].concat()
}

fn commit(commit: u64, end: u64) -> Vec<u8> {
    [b"C\0", &commit.to_be_bytes()[..], &end.to_be_bytes(), &[0; 8]].concat()
}

/// Tags of the messages that are new in an answer.
fn new(sieve: &mut Sieve, answer: &[Vec<u8>]) -> String {
    sieve.begin();
    let taken = answer.iter().enumerate().map(|(index, row)| {
        let payload = if index == 0 { [HEADER, row].concat() } else { row.clone() };
        sieve.take("s", &payload).unwrap().map(|row| char::from(row.message[0]))
    });
    taken.collect::<Vec<_>>().into_iter().flatten().collect()
}

#[test]
fn a_transaction_is_old_by_where_its_commit_begins() {
    let first = [row(100, &begin(150), 90), row(110, b"I", 90), row(160, &commit(150, 160), 90)];
    // Begun before the first one was committed; its commit record follows at once.
    let second = [row(105, &begin(160), 90), row(106, b"U", 90), row(170, &commit(160, 170), 90)];
    let trailer = [vec![0xff, 0xff]];
    let mut sieve = Sieve::new(Lsn(90));
    assert_eq!(new(&mut sieve, &[&first[..], &trailer].concat()), "BIC");
    assert_eq!((sieve.reached(), sieve.rows()), (Lsn(160), 3));
    let both = [&first[..], &second, &trailer].concat();
    assert_eq!(new(&mut sieve, &both), "BUC");
    assert_eq!((sieve.reached(), sieve.rows()), (Lsn(170), 6));
    assert_eq!(new(&mut sieve, &both), "");
    // What the caller has from an earlier run.
    assert_eq!(new(&mut Sieve::new(Lsn(151)), &both), "BUC");
    assert_eq!(new(&mut Sieve::new(Lsn(150)), &both), "BICBUC");
    // The end of the log lay within the second one's commit record, which was read.
    assert_eq!(new(&mut Sieve::new(Lsn(165)), &both), "");
}

#[test]
fn a_slot_that_somebody_has_moved_is_noticed() {
    let mut sieve = Sieve::new(Lsn(90));
    sieve.begin();
    let error = sieve.take("s", &[HEADER, &row(100, &begin(150), 91)].concat()).unwrap_err();
    assert!(error.kind() == Kind::State && error.to_string().contains("0/5B") && error.to_string().contains("0/5A"), "{error}");
    // Nothing else was there, or the slot has been dropped since.
    let nothing = |confirmed: &[u8]| [HEADER, b"\0\x03\xff\xff\xff\xff\xff\xff\xff\xff", confirmed].concat();
    for (confirmed, is_good) in
        [(&b"\0\0\0\x08\0\0\0\0\0\0\0\x5b"[..], false), (b"\0\0\0\x08\0\0\0\0\0\0\0\x5a", true), (b"\xff\xff\xff\xff", true)]
    {
        sieve.begin();
        assert_eq!(sieve.take("s", &nothing(confirmed)).is_ok(), is_good);
    }
}

#[test]
fn answers_that_are_none_are_refused() {
    let good = row(100, &begin(150), 1);
    let mut sieve = Sieve::new(Lsn(90));
    assert_eq!(sieve.take("s", HEADER).unwrap(), None);
    assert!(sieve.take("s", &good).unwrap().is_some());
    for length in 0..good.len() {
        assert!(sieve.take("s", &good[..length]).is_err(), "{length}");
    }
    for bad in [&b"\0\x02\0\0\0\0"[..], b"\0\x03\xff\xff\xff\xfe", b"\0\x03\0\0\0\x02\0\0\0\0\0\0\xff\xff\xff\xff"] {
        assert!(sieve.take("s", bad).is_err(), "{}", bad.escape_ascii());
    }
    let header = |change: fn(&mut Vec<u8>)| {
        let mut header = [HEADER, &good].concat();
        change(&mut header);
        Sieve::new(Lsn(90)).take("s", &header).is_ok()
    };
    assert!(header(|_| {}));
    assert!(!header(|header| header[0] = b'Q'));
    assert!(!header(|header| header[15] = 0x80));
    assert!(!header(|header| header[15] = 1));
}
