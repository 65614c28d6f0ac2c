//! Files that stand in a destination: whatever is in them, a writer understands it or says that the file is damaged.

use super::checks::{ONE_DECODE_BYTES, Outcome};
use writers::Kind;
use writers::parsers::File;

/// The first byte says which file it is, the rest is what stands in it.
pub fn lake(input: &[u8]) -> Outcome {
    let Some((choice, bytes)) = input.split_first() else { return Outcome::NOTHING };
    let file = File::ALL[usize::from(*choice) % File::ALL.len()];
    let decoded = match file.read(bytes) {
        Ok(()) => true,
        Err(error) => {
            assert!(matches!(error.kind(), Kind::Corrupt | Kind::Config), "{:?}: {error}", error.kind());
            assert!(!error.to_string().is_empty());
            false
        }
    };
    // Packed and unpacked, and as values of JSON; of Avro, a length may ask for so many values before it is held against what is there.
    let asked = if matches!(file, File::Manifest | File::ManifestList) { 2 << 30 } else { bytes.len() * 8192 };
    Outcome { decoded, bound: 64 * ONE_DECODE_BYTES + asked }
}
