//! The promises of what reads the messages of logical replication: nothing panics, what is refused is an error of the source that names the
//! message and leaves the parser as it was, what is accepted can be walked to its end and is refused with a byte more or less.

use super::checks::{ONE_DECODE_BYTES, Outcome};
use lakeward::capture::pgoutput::{Cell, Message, Old, Parser, Tuple};
use lakeward::error::{Kind, Retry};

/// The input of [`pgoutput`] for a recording: messages, each behind its length as four big-endian bytes.
pub fn pgoutput_input(parallel: bool, recording: &[u8]) -> Vec<u8> {
    let (mut input, mut rest) = (vec![u8::from(parallel)], recording);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length);
        let (message, after) = after.split_at(length as usize);
        input.extend((length as u16).to_be_bytes());
        input.extend(message);
        rest = after;
    }
    input
}

/// The first byte chooses the parser: bit 0 is `streaming 'parallel'`, bit 1 starts within a stream. Then come messages, each behind its
/// length as two big-endian bytes; the last one may be cut short.
pub fn pgoutput(input: &[u8]) -> Outcome {
    let Some((&choice, mut rest)) = input.split_first() else { return Outcome::NOTHING };
    let mut parser = Parser::new(choice & 1 != 0);
    if choice & 2 != 0 {
        assert!(parser.parse(b"S\0\0\0\x01\x01").is_ok());
    }
    let mut accepted = 0;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (payload, after) = after.split_at(after.len().min(usize::from(u16::from_be_bytes(*length))));
        rest = after;
        let before = parser.clone();
        match parser.parse(payload) {
            Ok(message) => {
                walk(&message, payload);
                // The state changes at the two ends of a stream only.
                let expected = match message {
                    Message::StreamStart { .. } => true,
                    Message::StreamStop => false,
                    _ => before.in_stream(),
                };
                assert_eq!(parser.in_stream(), expected);
                assert!(before.clone().parse(&[payload, &[0]].concat()).is_err(), "a byte more");
                assert!(before.clone().parse(&payload[..payload.len() - 1]).is_err(), "a byte less");
                accepted += 1;
            }
            Err(error) => {
                assert_eq!((error.kind(), error.retry()), (Kind::Source, Retry::Never));
                assert!(error.to_string().contains("pgoutput message") && error.advice().is_some());
                assert_eq!(parser.in_stream(), before.in_stream());
            }
        }
    }
    Outcome { decoded: accepted > 0, bound: ONE_DECODE_BYTES + 4 * input.len() }
}

/// What a message gives out is no more than what came in.
fn walk(message: &Message<'_>, payload: &[u8]) {
    match message {
        Message::Insert { new, .. } => row(*new, payload),
        Message::Update { old, new, .. } => {
            if let Some(Old::Key(old) | Old::Full(old)) = old {
                row(*old, payload);
                assert_eq!(old.columns(), new.columns());
            }
            row(*new, payload);
        }
        Message::Delete { old: Old::Key(old) | Old::Full(old), .. } => row(*old, payload),
        Message::Truncate { relations, .. } => assert!(relations.iter().count() * 4 < payload.len()),
        Message::Relation { relation, .. } => assert!(relation.columns.len() * 10 < payload.len()),
        _ => {}
    }
}

fn row(tuple: Tuple<'_>, payload: &[u8]) {
    let cells = tuple.cells();
    assert_eq!(cells.len(), tuple.columns());
    let bytes = |cell| match cell {
        Cell::Null | Cell::Unchanged => 1,
        Cell::Text(value) | Cell::Binary(value) => 5 + value.len(),
    };
    let sizes: Vec<usize> = cells.map(bytes).collect();
    assert_eq!(sizes.len(), tuple.columns(), "the walk ended early");
    assert_eq!(sizes.iter().sum::<usize>(), tuple.size());
    assert!(tuple.size() < payload.len());
}
