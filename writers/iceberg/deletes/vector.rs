//! Deletion vectors: rows to be gone, as bitmaps in Puffin files (specification, "Deletion Vectors"; Puffin's, "deletion-vector-v1").
//!
//! A data file has at most one vector, so a new one has what the old one had, and takes its place. Each vector has a Puffin file of its own,
//! though a file may hold many: DuckDB 1.5 knows a vector by its file alone, and takes the first one of a file for all of them. Does not know
//! which rows are to go.

use super::super::catalog::Loaded;
use super::super::io::Files;
use super::super::snapshot::{BySpec, Gone};
use super::known::VectorRef;
use super::{FilePlaces, Places};
use crate::{Error, Kind, Result};
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, FormatVersion};
use roaring::RoaringTreemap;
use serde_json::json;
use std::collections::HashSet;

/// What a vector begins with, behind its length.
const MAGIC: [u8; 4] = [0xD1, 0xD3, 0x39, 0x64];
/// What a Puffin file and its footer begin with, and what it ends with.
const PUFFIN: &[u8; 4] = b"PFA1";
/// The column that a vector is about: `_pos`.
const ROW_POSITION: i32 = i32::MAX - 2;
/// Files that are written at a time.
const FILES_AT_ONCE: usize = 8;
/// The length of a vector has 32 bits.
const BYTES_MAX: i64 = i32::MAX as i64;

/// Writes the places as deletion vectors, in Puffin files `<folder>/deletes-<number>-<name>.puffin`, and says which vectors they take the
/// place of. When that fails, files that were written stay behind.
///
/// # Errors
/// [`Kind::Bug`] for a table that takes none.
pub(crate) async fn deletion_vectors(base: &Loaded, places: Places, folder: &str, name: &str) -> Result<(BySpec, Gone)> {
    if base.metadata.format_version() < FormatVersion::V3 {
        return Err(Error::new(Kind::Bug, "only tables of format version 3 take deletion vectors"));
    }
    let old = places.files.iter().filter_map(|file| file.vector.as_ref());
    let gone: HashSet<_> = old.map(|old| (old.puffin.clone(), Some(old.offset))).collect();
    let writing = (0..).zip(places.files).map(|(number, file): (u32, _)| {
        let location = format!("{folder}/deletes-{number:05}-{name}.puffin");
        async move {
            let spec = file.spec;
            let written = write(&base.files, &location, file).await;
            written.map(|described| (spec, described)).map_err(|e| e.doing(format!("write {location}")))
        }
    });
    let mut writing = stream::iter(writing).buffered(FILES_AT_ONCE);
    let mut written = BySpec::new();
    while let Some((spec, described)) = writing.try_next().await? {
        written.entry(spec).or_default().push(described);
    }
    Ok((written, if gone.is_empty() { Gone::Nothing } else { Gone::Deletes(gone) }))
}

async fn write(files: &Files, location: &str, file: FilePlaces) -> Result<DataFile> {
    let mut positions = file.vector.map(|old| old.positions).unwrap_or_default();
    positions.extend(file.positions.iter().map(|position| u64::from(*position)));
    positions.optimize();
    let (rows, blob) = (positions.len(), encode(&positions)?);
    let (offset, length) = (PUFFIN.len(), blob.len());
    let puffin = puffin(&file.path, rows, &blob)?;
    let bytes = puffin.len() as u64;
    files.put(location, puffin.into()).await?;
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::PositionDeletes)
        .file_path(location.to_owned())
        .file_format(DataFileFormat::Puffin)
        .partition(file.partition)
        .partition_spec_id(file.spec)
        .record_count(rows)
        .file_size_in_bytes(bytes)
        .referenced_data_file(Some(file.path))
        .content_offset(i64::try_from(offset).ok())
        .content_size_in_bytes(i64::try_from(length).ok());
    builder.build().map_err(|e| Error::new(Kind::Bug, "cannot describe a deletion vector").because(e))
}

/// A Puffin file with one vector.
fn puffin(data_file: &str, rows: u64, blob: &[u8]) -> Result<Vec<u8>> {
    let footer = json!({
        "blobs": [{
            "type": iceberg::puffin::DELETION_VECTOR_V1,
            "fields": [ROW_POSITION],
            "snapshot-id": -1,
            "sequence-number": -1,
            "offset": PUFFIN.len(),
            "length": blob.len(),
            "properties": { "referenced-data-file": data_file, "cardinality": rows.to_string() },
        }],
        "properties": { "created-by": concat!("Lakeward ", env!("CARGO_PKG_VERSION")) },
    });
    let footer = footer.to_string();
    let length = i32::try_from(footer.len()).map_err(|e| Error::new(Kind::Bug, "the name of a data file is too long").because(e))?;
    let mut bytes = Vec::with_capacity(blob.len() + footer.len() + 20);
    bytes.extend_from_slice(PUFFIN);
    bytes.extend_from_slice(blob);
    bytes.extend_from_slice(PUFFIN);
    bytes.extend_from_slice(footer.as_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    // No flags: the footer is not compressed.
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(PUFFIN);
    Ok(bytes)
}

/// Reads a vector that the table names.
pub(super) async fn load(files: &Files, vector: &VectorRef) -> Result<RoaringTreemap> {
    let damaged = |why: &str| {
        Error::new(
            Kind::Corrupt,
            format!("the deletion vector of {} at {} in {} cannot be read: {why}", vector.data, vector.offset, vector.puffin),
        )
        .hint("restore the file, or point the catalog at an older metadata file")
    };
    let (Ok(begin), Ok(length @ 0..)) = (u64::try_from(vector.offset), u64::try_from(vector.bytes)) else {
        return Err(damaged("its place is none"));
    };
    if vector.bytes > BYTES_MAX {
        return Err(damaged("it is too long"));
    }
    let (storage, path) = files.place(&vector.puffin)?;
    let end = begin.saturating_add(length);
    let data = match storage.get_range(&path, begin..end).await {
        Ok(data) => data,
        Err(error) => {
            return match storage.size(&path).await? {
                None => Err(damaged("the file is missing")),
                Some(bytes) if bytes < end => Err(damaged("the file is cut off")),
                Some(_) => Err(error.doing(format!("read a deletion vector in {}", vector.puffin))),
            };
        }
    };
    let positions = decode(&data).map_err(|why| damaged(&why))?;
    if positions.len() != vector.rows {
        return Err(damaged(&format!("it has {} positions, and the table's metadata says {}", positions.len(), vector.rows)));
    }
    Ok(positions)
}

/// The bytes of a vector: length, magic, bitmap, CRC.
fn encode(positions: &RoaringTreemap) -> Result<Vec<u8>> {
    let bug = |e: Box<dyn std::error::Error + Send + Sync>| Error::new(Kind::Bug, "cannot write a deletion vector").because(e);
    let body = MAGIC.len() + positions.serialized_size();
    let mut bytes = Vec::with_capacity(body + 8);
    bytes.extend_from_slice(&i32::try_from(body).map_err(|e| bug(e.into()))?.to_be_bytes());
    bytes.extend_from_slice(&MAGIC);
    positions.serialize_into(&mut bytes).map_err(|e| bug(e.into()))?;
    bytes.extend_from_slice(&crc32fast::hash(&bytes[4..]).to_be_bytes());
    Ok(bytes)
}

/// What is made of a vector's bitmap, as if its length and its checksum were right.
#[cfg(feature = "faults")]
pub(crate) fn parse(bitmap: &[u8]) -> Result<(), String> {
    let body = [&MAGIC, bitmap].concat();
    let length = u32::try_from(body.len()).map_err(|e| e.to_string())?;
    let vector = decode(&[&length.to_be_bytes()[..], &body, &crc32fast::hash(&body).to_be_bytes()].concat())?;
    let again = encode(&vector).map_err(|e| e.to_string())?;
    assert_eq!(decode(&again).as_ref(), Ok(&vector), "what was written is not read again");
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<RoaringTreemap, String> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or("it is cut off")?;
    let (body, crc) = rest.split_last_chunk::<4>().ok_or("it is cut off")?;
    if u32::from_be_bytes(*length) as usize != body.len() {
        return Err(format!("it has {} bytes and says {}", body.len(), u32::from_be_bytes(*length)));
    }
    if u32::from_be_bytes(*crc) != crc32fast::hash(body) {
        return Err("its checksum is wrong".to_owned());
    }
    let bitmap = body.strip_prefix(&MAGIC).ok_or("it is of another kind")?;
    RoaringTreemap::deserialize_from(bitmap).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_back_as_they_were() {
        for positions in [vec![], vec![0], vec![1, 3, 1 << 33], (0..100_000).collect(), (0..70_000).map(|n| n * 7).collect::<Vec<u64>>()] {
            let mut vector = RoaringTreemap::from_sorted_iter(positions.iter().copied()).expect("sorted");
            assert_eq!(decode(&encode(&vector).expect("encode")).expect("decode"), vector);
            vector.optimize();
            assert_eq!(decode(&encode(&vector).expect("encode")).expect("decode"), vector);
        }
    }

    #[test]
    fn a_vector_has_the_bytes_of_the_specification() {
        let vector = RoaringTreemap::from_iter([1, 4]);
        let bytes = encode(&vector).expect("encode");
        // Length of magic and bitmap; magic; one bitmap of the key 0: cookie without runs, one container of two values 1 and 4.
        let wanted = [
            &[0, 0, 0, 36, 0xD1, 0xD3, 0x39, 0x64, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0x3A, 0x30, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 16, 0, 0, 0, 1, 0, 4, 0],
        ]
        .concat();
        assert_eq!(bytes[..40], wanted);
        assert_eq!(bytes.len(), 44);
    }

    #[test]
    fn damage_is_told() {
        let whole = encode(&RoaringTreemap::from_iter([1, 70_000, 1 << 40])).expect("encode");
        for cut in 0..whole.len() {
            decode(&whole[..cut]).expect_err("cut off");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            decode(&flipped).expect_err("flipped");
        }
        // A checksum that is right does not make a bitmap.
        for end in 4..whole.len() - 4 {
            let mut body = whole[4..end].to_vec();
            body.push(0xFF);
            let bytes = [&(body.len() as u32).to_be_bytes()[..], &body, &crc32fast::hash(&body).to_be_bytes()].concat();
            let _: Result<RoaringTreemap, String> = decode(&bytes);
        }
    }
}
