//! Run files: records sorted by hash, written once. Blocking; call it off the async threads.
//!
//! A run is a sequence of blocks of 4096 bytes: 170 records of 24 bytes (hash, file, position; little-endian), a CRC of all that
//! the block holds, the number of its records, and its own number. So a block that was damaged, cut off or moved is noticed when
//! it is read, before a wrong place comes out of it. Knows no tables; which files are alive is told by who calls.

use super::hash::KeyHash;
use crate::{Error, Kind};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const RECORD_BYTES: usize = 24;
const BLOCK_BYTES: usize = 4096;
const BLOCK_RECORDS: usize = 170;
/// Blocks that are read at once where a run is read from its beginning to its end.
const SCAN_BLOCKS: u64 = 64;
/// Reading this many blocks one after the other costs what looking for one does.
const BLOCKS_PER_SEARCH: u64 = 8;

/// Where a row with this key hash is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Record {
    /// Hash of the row's key.
    pub(super) hash: KeyHash,
    /// The index's number of the data file.
    pub(super) file: u32,
    /// Number of the row in it, from 0.
    pub(super) position: u32,
}

/// One run, as the index remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// Name of its file.
    pub(super) name: String,
    /// Records in it.
    pub(super) records: u64,
    /// The highest sequence number of a data file in it.
    pub(super) newest: i64,
}

/// Why an index cannot be used.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Its files are not what they were: make it again.
    Damaged(String),
    /// Something else.
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A failure to write.
pub(super) fn unwritten(error: io::Error, path: &Path) -> Error {
    Error::new(Kind::Storage, format!("cannot write the index of keys at {}", path.display()))
        .because(error)
        .hint("make room there, or let its folder be another one; the index is made again when it is lost")
}

struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
    name: String,
    block: Vec<u8>,
    blocks: u64,
    records: u64,
}

impl Writer {
    fn create(folder: &Path) -> Result<Self, Error> {
        let name = format!("{}.run", Uuid::new_v4().simple());
        let path = folder.join(&name);
        let file = File::create(&path).map_err(|e| unwritten(e, &path))?;
        let file = BufWriter::with_capacity(256 << 10, file);
        Ok(Self { file, path, name, block: Vec::with_capacity(BLOCK_BYTES), blocks: 0, records: 0 })
    }

    fn push(&mut self, record: &Record) -> Result<(), Error> {
        self.block.extend_from_slice(&record.hash.0.to_le_bytes());
        self.block.extend_from_slice(&record.hash.1.to_le_bytes());
        self.block.extend_from_slice(&record.file.to_le_bytes());
        self.block.extend_from_slice(&record.position.to_le_bytes());
        self.records += 1;
        if self.block.len() == BLOCK_RECORDS * RECORD_BYTES { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> Result<(), Error> {
        let count = self.block.len() / RECORD_BYTES;
        self.block.resize(BLOCK_RECORDS * RECORD_BYTES, 0);
        self.block.extend_from_slice(&[0; 4]);
        self.block.extend_from_slice(&(count as u32).to_le_bytes());
        self.block.extend_from_slice(&self.blocks.to_le_bytes());
        let crc = checksum(&self.block);
        self.block[BLOCK_RECORDS * RECORD_BYTES..][..4].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all(&self.block).map_err(|e| unwritten(e, &self.path))?;
        self.blocks += 1;
        self.block.clear();
        Ok(())
    }

    /// `None` when there was nothing to write.
    fn finish(mut self, newest: i64) -> Result<Option<Run>, Error> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        self.file.flush().map_err(|e| unwritten(e, &self.path))?;
        if self.records == 0 {
            std::fs::remove_file(&self.path).map_err(|e| unwritten(e, &self.path))?;
            return Ok(None);
        }
        Ok(Some(Run { name: self.name, records: self.records, newest }))
    }
}

/// The CRC of a block, whose own place counts as zero.
fn checksum(block: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&block[..BLOCK_RECORDS * RECORD_BYTES]);
    crc.update(&block[BLOCK_RECORDS * RECORD_BYTES + 4..]);
    crc.finalize()
}

/// Writes records as a run, sorted; `None` when there are none.
pub(super) fn write(folder: &Path, mut records: Vec<Record>, newest: i64) -> Result<Option<Run>, Error> {
    records.sort_unstable();
    let mut writer = Writer::create(folder)?;
    for record in &records {
        writer.push(record)?;
    }
    writer.finish(newest)
}

/// Several runs as one, without the records of files that are not kept; `None` when none is left.
pub(super) fn merge(folder: &Path, runs: &[Run], kept: impl Fn(u32) -> bool) -> Result<Option<Run>, Trouble> {
    let mut cursors = runs.iter().map(|run| Ok(Cursor::new(Reader::open(folder, run)?))).collect::<Result<Vec<_>, Trouble>>()?;
    let mut next = BinaryHeap::with_capacity(cursors.len());
    for (number, cursor) in cursors.iter_mut().enumerate() {
        next.extend(cursor.next()?.map(|record| Reverse((record, number))));
    }
    let mut writer = Writer::create(folder)?;
    while let Some(Reverse((record, number))) = next.pop() {
        if kept(record.file) {
            writer.push(&record)?;
        }
        next.extend(cursors[number].next()?.map(|record| Reverse((record, number))));
    }
    Ok(writer.finish(runs.iter().map(|run| run.newest).max().unwrap_or_default())?)
}

/// An open run.
struct Reader {
    file: File,
    path: PathBuf,
    records: u64,
    blocks: u64,
}

impl Reader {
    fn open(folder: &Path, run: &Run) -> Result<Self, Trouble> {
        let path = folder.join(&run.name);
        let damaged = |why: String| Trouble::Damaged(format!("{}: {why}", path.display()));
        let file = File::open(&path).map_err(|e| damaged(e.to_string()))?;
        let blocks = run.records.div_ceil(BLOCK_RECORDS as u64);
        let bytes = file.metadata().map_err(|e| damaged(e.to_string()))?.len();
        if blocks.checked_mul(BLOCK_BYTES as u64) != Some(bytes) {
            return Err(damaged(format!("{bytes} bytes for {} records", run.records)));
        }
        Ok(Self { file, path, records: run.records, blocks })
    }

    /// Reads `count` blocks from number `first` on, and makes sure that they are what was written.
    fn read(&self, first: u64, count: u64, bytes: &mut Vec<u8>) -> Result<(), Trouble> {
        let damaged = |why: String| Trouble::Damaged(format!("{}: {why}", self.path.display()));
        bytes.resize(usize::try_from(count).unwrap_or(1) * BLOCK_BYTES, 0);
        self.file.read_exact_at(bytes, first * BLOCK_BYTES as u64).map_err(|e| damaged(e.to_string()))?;
        for (number, block) in (first..).zip(bytes.chunks_exact(BLOCK_BYTES)) {
            let end = &block[BLOCK_RECORDS * RECORD_BYTES..];
            let wanted = (self.records - number * BLOCK_RECORDS as u64).min(BLOCK_RECORDS as u64);
            let whole = u32_at(end, 0) == checksum(block) && u64::from(u32_at(end, 4)) == wanted && u64_at(end, 8) == number;
            if !whole {
                return Err(damaged(format!("block {number} is not what was written")));
            }
        }
        Ok(())
    }
}

/// The records of a block, one after the other.
fn records(block: &[u8]) -> std::slice::ChunksExact<'_, u8> {
    let count = (u32_at(block, BLOCK_RECORDS * RECORD_BYTES + 4) as usize).min(BLOCK_RECORDS);
    block[..count * RECORD_BYTES].chunks_exact(RECORD_BYTES)
}

fn hash_of(record: &[u8]) -> KeyHash {
    (u64_at(record, 0), u64_at(record, 8))
}

fn decoded(record: &[u8]) -> Record {
    Record { hash: hash_of(record), file: u32_at(record, 16), position: u32_at(record, 20) }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// Reads a run from its beginning to its end.
struct Cursor {
    reader: Reader,
    next_block: u64,
    bytes: Vec<u8>,
    records: Vec<Record>,
    at: usize,
}

impl Cursor {
    fn new(reader: Reader) -> Self {
        Self { reader, next_block: 0, bytes: Vec::new(), records: Vec::new(), at: 0 }
    }

    fn next(&mut self) -> Result<Option<Record>, Trouble> {
        if self.at == self.records.len() {
            self.records.clear();
            self.at = 0;
            let count = SCAN_BLOCKS.min(self.reader.blocks - self.next_block);
            if count == 0 {
                return Ok(None);
            }
            self.reader.read(self.next_block, count, &mut self.bytes)?;
            self.records.extend(self.bytes.chunks_exact(BLOCK_BYTES).flat_map(records).map(decoded));
            self.next_block += count;
        }
        let record = self.records.get(self.at).copied();
        self.at += 1;
        Ok(record)
    }
}

/// Gives `found` every record of the run that has one of these hashes, with the number beside the hash. `keys` are sorted, each hash once.
pub(super) fn look_up(folder: &Path, run: &Run, keys: &[(KeyHash, u32)], found: impl FnMut(u32, Record)) -> Result<(), Trouble> {
    let reader = Reader::open(folder, run)?;
    if keys.len() as u64 >= reader.blocks / BLOCKS_PER_SEARCH { scan(&reader, keys, found) } else { search(&reader, keys, found) }
}

fn scan(reader: &Reader, mut keys: &[(KeyHash, u32)], mut found: impl FnMut(u32, Record)) -> Result<(), Trouble> {
    let mut bytes = Vec::new();
    let mut first = 0;
    while first < reader.blocks && !keys.is_empty() {
        let count = SCAN_BLOCKS.min(reader.blocks - first);
        reader.read(first, count, &mut bytes)?;
        for block in bytes.chunks_exact(BLOCK_BYTES) {
            // Most blocks have none of a few keys.
            let Some(last) = records(block).next_back().map(hash_of) else { continue };
            for record in records(block) {
                let Some((key, _)) = keys.first().filter(|(key, _)| *key <= last) else { break };
                let hash = hash_of(record);
                if hash < *key {
                    continue;
                }
                while let [(key, _), rest @ ..] = keys
                    && *key < hash
                {
                    keys = rest;
                }
                if let Some((_, number)) = keys.first().filter(|(key, _)| *key == hash) {
                    found(*number, decoded(record));
                }
            }
        }
        first += count;
    }
    Ok(())
}

/// Hashes are spread evenly, so the place of one is known within a few blocks.
fn search(reader: &Reader, keys: &[(KeyHash, u32)], mut found: impl FnMut(u32, Record)) -> Result<(), Trouble> {
    let mut bytes = Vec::new();
    let mut loaded = None;
    let mut load = |number: u64, bytes: &mut Vec<u8>| {
        if loaded != Some(number) {
            loaded = None;
            reader.read(number, 1, bytes)?;
            loaded = Some(number);
        }
        Ok::<_, Trouble>(())
    };
    let mut least = 0;
    for (hash, number) in keys {
        // The first block whose last hash is not less: it is in `low..=high`.
        let (mut low, mut high) = (least, reader.blocks);
        let blocks_until = |distance: u64| u64::try_from((u128::from(distance) * u128::from(reader.blocks)) >> 64).unwrap_or(u64::MAX);
        let (mut guess, mut steps) = (blocks_until(hash.0), 0);
        while low < high {
            guess = guess.clamp(low, high - 1);
            load(guess, &mut bytes)?;
            let mut ends = records(&bytes).map(hash_of);
            let Some(first) = ends.next() else { break };
            let last = ends.next_back().unwrap_or(first);
            if last < *hash {
                low = guess + 1;
                guess = guess.saturating_add(blocks_until(hash.0 - last.0));
            } else if first < *hash {
                (low, high) = (guess, guess);
            } else {
                high = guess;
                guess = guess.saturating_sub(blocks_until(first.0 - hash.0));
            }
            steps += 1;
            if steps > 8 {
                guess = low.midpoint(high);
            }
        }
        least = low;
        let mut block = low;
        while block < reader.blocks {
            load(block, &mut bytes)?;
            let mut rest = records(&bytes).skip_while(|record| hash_of(record) < *hash).peekable();
            let mut any = false;
            while let Some(record) = rest.next_if(|record| hash_of(record) == *hash) {
                found(*number, decoded(record));
                any = true;
            }
            // More of them may be in the next block only if this one ends with them.
            if !any || rest.peek().is_some() {
                break;
            }
            block += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use siphasher::sip128::SipHasher24;
    use tempfile::TempDir;

    fn hash(number: u64) -> KeyHash {
        SipHasher24::new_with_keys(1, 2).hash(&number.to_le_bytes()).as_u64()
    }

    fn sorted(numbers: impl Iterator<Item = u64>) -> Vec<(KeyHash, u32)> {
        let mut keys: Vec<_> = numbers.map(|number| (hash(number), u32::try_from(number).expect("small"))).collect();
        keys.sort_unstable();
        keys
    }

    fn found(folder: &Path, run: &Run, keys: &[(KeyHash, u32)], scans: bool) -> Vec<(u32, u32, u32)> {
        let mut all = Vec::new();
        let reader = Reader::open(folder, run).expect("open");
        let each = |number, record: Record| all.push((number, record.file, record.position));
        if scans { scan(&reader, keys, each) } else { search(&reader, keys, each) }.expect("lookup");
        all.sort_unstable();
        all
    }

    #[test]
    fn runs_of_every_size_give_what_was_put_in() {
        let folder = TempDir::new().expect("folder");
        assert_eq!(write(folder.path(), Vec::new(), 1).expect("nothing"), None);
        for size in [1, 2, 169, 170, 171, 340, 341, 5000, 60_000] {
            // Every third number is there, some of them many times, across blocks.
            let copies = |number: u64| if number.is_multiple_of(600) { 200 } else { 1 };
            let records: Vec<Record> = (0_u64..size)
                .filter(|number| number.is_multiple_of(3))
                .flat_map(|number| {
                    let position = u32::try_from(number).expect("small");
                    (0..copies(number)).map(move |file| Record { hash: hash(number), file, position })
                })
                .collect();
            let run = write(folder.path(), records, 7).expect("write").expect("a run");
            for step in [1, 7, 1001] {
                let keys = sorted((0..size + 10).step_by(step));
                let mut wanted: Vec<_> = keys
                    .iter()
                    .filter(|(_, number)| number % 3 == 0 && u64::from(*number) < size)
                    .flat_map(|(_, number)| (0..copies(u64::from(*number))).map(|file| (*number, file, *number)))
                    .collect();
                wanted.sort_unstable();
                assert_eq!(found(folder.path(), &run, &keys, false), wanted, "search, {size} by {step}");
                assert_eq!(found(folder.path(), &run, &keys, true), wanted, "scan, {size} by {step}");
            }
        }
    }

    #[test]
    fn hashes_that_are_not_spread_are_found_all_the_same() {
        let folder = TempDir::new().expect("folder");
        let records: Vec<Record> =
            (0..20_000).map(|number| Record { hash: (u64::from(number) / 3, u64::from(number)), file: 0, position: number }).collect();
        let run = write(folder.path(), records, 7).expect("write").expect("a run");
        let keys: Vec<_> = (0..20_000).step_by(37).map(|number| ((u64::from(number) / 3, u64::from(number)), number)).collect();
        assert_eq!(found(folder.path(), &run, &keys, false).len(), keys.len());
    }

    #[test]
    fn merging_drops_what_is_not_kept() {
        let folder = TempDir::new().expect("folder");
        let run = |file: u32, range: std::ops::Range<u32>| {
            let records = range.map(|position| Record { hash: hash(position.into()), file, position }).collect();
            write(folder.path(), records, file.into()).expect("write").expect("a run")
        };
        let runs = [run(1, 0..1000), run(2, 500..1500), run(3, 0..10)];
        let merged = merge(folder.path(), &runs, |file| file != 2).expect("merge").expect("a run");
        assert_eq!((merged.records, merged.newest), (1010, 3));
        assert_eq!(found(folder.path(), &merged, &sorted(5..6), true), [(5, 1, 5), (5, 3, 5)]);
        assert!(merge(folder.path(), &runs, |_| false).expect("merge").is_none());
    }

    #[test]
    fn damage_of_any_kind_is_noticed() {
        let folder = TempDir::new().expect("folder");
        let records = (0..1000).map(|position| Record { hash: hash(position.into()), file: 1, position }).collect();
        let run = write(folder.path(), records, 1).expect("write").expect("a run");
        let path = folder.path().join(&run.name);
        let whole = std::fs::read(&path).expect("read");
        let keys = sorted(0..1000);
        let mut moved = whole.clone();
        moved.copy_within(0..BLOCK_BYTES, BLOCK_BYTES);
        let mut flipped = whole.clone();
        flipped[5000] ^= 1;
        for damaged in [whole[..whole.len() - 1].to_vec(), Vec::new(), moved, flipped] {
            std::fs::write(&path, damaged).expect("damage");
            assert!(matches!(look_up(folder.path(), &run, &keys, |_, _| {}), Err(Trouble::Damaged(_))));
        }
        std::fs::remove_file(&path).expect("remove");
        assert!(matches!(look_up(folder.path(), &run, &keys, |_, _| {}), Err(Trouble::Damaged(_))));
    }
}
