//! The files that a user gives, and the small texts inside of them: whatever stands there, it is understood or refused with a message.

use super::checks::{ONE_DECODE_BYTES, Outcome};
use lakeward::config::expand::Lookup;
use lakeward::config::load::Text;
use lakeward::config::selection::choose;
use lakeward::config::streams::StreamsFile;
use lakeward::config::{Destination, FileKind, Source};
use lakeward::error::{Error, Kind};
use lakeward::postgres::lsn::Lsn;
use lakeward::state::file::{Content, understand};

/// The first byte says which file it is, and whether it is called `.yaml`; the rest is what stands in it.
pub fn files(input: &[u8]) -> Outcome {
    let Some((choice, bytes)) = input.split_first() else { return Outcome::NOTHING };
    let (yaml, bytes) = (choice & 8 != 0, bytes.to_vec());
    // A schema that is compared with, and every key as a value of its own.
    let bound = 16 * ONE_DECODE_BYTES + bytes.len() * 4096;
    // Nothing of this process is looked at.
    let lookup = Lookup { variable: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
    let read = match choice & 7 {
        0 | 1 => Text::of(bytes, yaml)
            .and_then(|text| text.load::<Source>(FileKind::Source, choice & 1 == 1, &lookup))
            .and_then(|loaded| loaded.value.resolve().map(drop)),
        2 => Text::of(bytes, yaml)
            .and_then(|text| text.load::<Destination>(FileKind::Destination, false, &lookup))
            .and_then(|loaded| loaded.value.validate().map(drop)),
        3 | 4 => Text::of(bytes, yaml)
            .and_then(|text| text.load::<StreamsFile>(FileKind::Streams, choice & 1 == 0, &lookup))
            .and_then(|loaded| choose(&loaded.value, None).map(drop)),
        5 => understand(Ok(String::from_utf8_lossy(&bytes).into_owned())).and_then(|content| match content {
            Content::Damaged(error) => Err(error),
            Content::Whole(state) => {
                // What is saved is read again, and is the same.
                let saved = serde_json::to_string(&state).expect("a state is JSON");
                let Ok(Content::Whole(again)) = understand(Ok(saved.clone())) else { panic!("what was saved is refused: {saved}") };
                assert_eq!(serde_json::to_string(&again).expect("a state is JSON"), saved);
                Ok(())
            }
            Content::Missing => Ok(()),
        }),
        6 => String::from_utf8_lossy(&bytes).parse::<Lsn>().map(|lsn| {
            assert_eq!(lsn.to_string().parse::<Lsn>().ok(), Some(lsn));
        }),
        _ => writers::partition_columns(&String::from_utf8_lossy(&bytes)).map(drop).map_err(Error::from),
    };
    let decoded = match read {
        Ok(()) => true,
        Err(error) => {
            assert!(matches!(error.kind(), Kind::Config | Kind::State | Kind::Source | Kind::Schema), "{:?}: {error}", error.kind());
            assert!(!error.to_string().is_empty());
            false
        }
    };
    Outcome { decoded, bound }
}
