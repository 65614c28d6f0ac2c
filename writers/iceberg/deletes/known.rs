//! What the index knows of a table: which data files are alive and what the manifests say. Advanced from snapshot to snapshot.
//!
//! Manifests never change, so each is read once. A data file that is gone is forgotten, number and all; one that comes back, after a
//! rollback for instance, is a new one.

use super::super::catalog::Loaded;
use super::super::manifest::{alive, current};
use super::{CHANGES, OldVector};
use crate::{Error, Kind, Result};
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{
    DataContentType, DataFileFormat, Literal, ManifestContentType, ManifestEntryRef, ManifestFile, PrimitiveLiteral, Struct, TableMetadata,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Manifests that are read at a time.
const MANIFESTS_AT_ONCE: usize = 4;

/// The table at one snapshot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Known {
    /// Which snapshot.
    pub(super) snapshot: Option<i64>,
    /// Data files that are alive, by the numbers that records name them by.
    #[serde(with = "shared")]
    pub(super) files: Arc<BTreeMap<u32, LiveFile>>,
    /// The number that the next file gets. None is used twice.
    next: u32,
    /// Numbers of the files that each data manifest has.
    data: HashMap<String, Vec<u32>>,
    /// What each delete manifest has.
    deletes: HashMap<String, Deletes>,
}

/// A data file that is alive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LiveFile {
    /// Its location, as the table names it.
    pub(super) path: String,
    /// Its partition spec.
    pub(super) spec: i32,
    partition: Vec<Option<Value>>,
    /// Its rows.
    pub(super) rows: u64,
    /// Sequence number of the snapshot that added it, which may be younger than its rows.
    pub(super) added: i64,
    /// Whether that snapshot removed all older rows of the keys of its rows.
    pub(super) supersedes: bool,
}

impl LiveFile {
    /// Its partition.
    pub(super) fn partition(&self) -> Struct {
        Struct::from_iter(self.partition.iter().map(|value| value.as_ref().map(Value::literal)))
    }
}

/// What a delete manifest has.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Deletes {
    vectors: Vec<VectorRef>,
    /// Files of deleted positions that are no vectors.
    positions: usize,
}

/// Where a deletion vector is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct VectorRef {
    /// The data file whose rows it deletes.
    pub(super) data: String,
    /// The Puffin file.
    pub(super) puffin: String,
    /// Where in it.
    pub(super) offset: i64,
    /// Its length there.
    pub(super) bytes: i64,
    /// How many rows it deletes.
    pub(super) rows: u64,
}

impl Known {
    /// The table at the current snapshot of `base`, and the numbers of the files that are new since, oldest first. `key` is what
    /// the summary of a snapshot says that supersedes.
    pub(super) async fn advanced(&self, base: &Loaded, key: &str) -> Result<(Self, Vec<u32>)> {
        let manifests = current(&base.files, &base.metadata).await?;
        let mut next = self.clone();
        next.snapshot = base.metadata.current_snapshot_id();
        let names: HashSet<&str> = manifests.iter().map(|manifest| manifest.manifest_path.as_str()).collect();
        next.data.retain(|path, _| names.contains(path.as_str()));
        next.deletes.retain(|path, _| names.contains(path.as_str()));
        let is_known = |manifest: &&ManifestFile| {
            self.data.contains_key(&manifest.manifest_path) || self.deletes.contains_key(&manifest.manifest_path)
        };
        let unseen: Vec<ManifestFile> = manifests.iter().filter(|manifest| !is_known(manifest)).cloned().collect();
        // Files of all manifests before, because a manifest may be written again while its files stay.
        let numbers: HashMap<(&str, i64), u32> =
            self.files.iter().map(|(number, file)| ((file.path.as_str(), file.added), *number)).collect();
        let mut files = self.files.clone();
        let mut new = Vec::new();
        let mut read = stream::iter(unseen.into_iter().map(|manifest| {
            let files = base.files.clone();
            async move {
                let entries = alive(&files, &manifest).await?;
                Ok::<_, Error>((manifest, entries))
            }
        }))
        .buffer_unordered(MANIFESTS_AT_ONCE);
        while let Some((manifest, entries)) = read.try_next().await? {
            let path = manifest.manifest_path.clone();
            if manifest.content == ManifestContentType::Deletes {
                next.deletes.insert(path, Deletes::of(&entries)?);
                continue;
            }
            let mut held = Vec::with_capacity(entries.len());
            for entry in &entries {
                let file = LiveFile::of(entry, &manifest, &base.metadata, key)?;
                if let Some(number) = numbers.get(&(file.path.as_str(), file.added)) {
                    held.push(*number);
                    continue;
                }
                let number = next.next;
                next.next = number.checked_add(1).ok_or_else(|| Error::new(Kind::Bug, "the index has used up its numbers"))?;
                new.push((file.added, number));
                Arc::make_mut(&mut files).insert(number, file);
                held.push(number);
            }
            next.data.insert(path, held);
        }
        let held: HashSet<u32> = next.data.values().flatten().copied().collect();
        if held.len() != files.len() {
            Arc::make_mut(&mut files).retain(|number, _| held.contains(number));
        }
        next.files = files;
        new.sort_unstable();
        Ok((next, new.into_iter().map(|(_, number)| number).collect()))
    }

    /// The deletion vectors that are in force, by data file.
    pub(super) fn vectors(&self) -> Result<HashMap<&str, &VectorRef>> {
        let mut vectors = HashMap::new();
        for vector in self.deletes.values().flat_map(|deletes| &deletes.vectors) {
            if vectors.insert(vector.data.as_str(), vector).is_some() {
                return Err(Error::new(Kind::Corrupt, format!("the data file {} has two deletion vectors", vector.data))
                    .hint("rewrite the data file with the engine that owns the table"));
            }
        }
        Ok(vectors)
    }

    /// How many files of deleted positions there are that are no vectors.
    pub(super) fn position_delete_files(&self) -> usize {
        self.deletes.values().map(|deletes| deletes.positions).sum()
    }

    /// Rows of all files, deleted or not.
    pub(super) fn rows(&self) -> u64 {
        self.files.values().map(|file| file.rows).sum()
    }
}

impl LiveFile {
    fn of(entry: &ManifestEntryRef, manifest: &ManifestFile, metadata: &TableMetadata, key: &str) -> Result<Self> {
        let file = entry.data_file();
        let path = file.file_path();
        if file.file_format() != DataFileFormat::Parquet {
            return Err(Error::new(Kind::Schema, format!("{path} has the format {:?}, accepted: parquet", file.file_format()))
                .hint("rewrite the table as Parquet, or set delete_files to equality"));
        }
        let partition = file.partition().iter().map(|value| value.map(|value| Value::of(value, path)).transpose());
        // A snapshot that has expired may have been of any kind.
        let summary = entry.snapshot_id().and_then(|id| metadata.snapshot_by_id(id)).map(|snapshot| snapshot.summary());
        Ok(Self {
            path: path.to_owned(),
            spec: manifest.partition_spec_id,
            partition: partition.collect::<Result<_>>()?,
            rows: file.record_count(),
            added: entry.file_sequence_number.or(entry.sequence_number()).unwrap_or_default(),
            supersedes: summary.is_some_and(|summary| summary.additional_properties.get(CHANGES).is_some_and(|of| of == key)),
        })
    }
}

impl Deletes {
    fn of(entries: &[ManifestEntryRef]) -> Result<Self> {
        let mut found = Self::default();
        for file in entries.iter().map(|entry| entry.data_file()) {
            if file.content_type() != DataContentType::PositionDeletes {
                continue;
            }
            if file.file_format() != DataFileFormat::Puffin {
                found.positions += 1;
                continue;
            }
            let (data, offset, bytes) = (file.referenced_data_file(), file.content_offset(), file.content_size_in_bytes());
            let (Some(data), Some(offset), Some(bytes)) = (data, offset, bytes) else {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("the table names a deletion vector in {} without saying of which data file or where", file.file_path()),
                )
                .hint("rewrite its data file with the engine that owns the table"));
            };
            found.vectors.push(VectorRef { data, puffin: file.file_path().to_owned(), offset, bytes, rows: file.record_count() });
        }
        Ok(found)
    }
}

impl VectorRef {
    /// The vector, read.
    pub(super) fn read(&self, positions: roaring::RoaringTreemap) -> OldVector {
        OldVector { puffin: self.puffin.clone(), offset: self.offset, positions }
    }
}

/// A partition's value, as the index keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Value {
    #[serde(rename = "bool")]
    Bool(bool),
    #[serde(rename = "int")]
    Int(i32),
    #[serde(rename = "long")]
    Long(i64),
    /// Its bits.
    #[serde(rename = "float")]
    Float(u32),
    /// Its bits.
    #[serde(rename = "double")]
    Double(u64),
    #[serde(rename = "text")]
    Text(String),
    #[serde(rename = "bytes")]
    Bytes(Vec<u8>),
    #[serde(rename = "decimal")]
    Decimal([u8; 16]),
    #[serde(rename = "uuid")]
    Uuid([u8; 16]),
}

impl Value {
    fn of(literal: &Literal, path: &str) -> Result<Self> {
        let odd = || Error::new(Kind::Corrupt, format!("the partition of {path} has a value that no partition can have"));
        let Literal::Primitive(literal) = literal else { return Err(odd()) };
        Ok(match literal {
            PrimitiveLiteral::Boolean(value) => Self::Bool(*value),
            PrimitiveLiteral::Int(value) => Self::Int(*value),
            PrimitiveLiteral::Long(value) => Self::Long(*value),
            PrimitiveLiteral::Float(value) => Self::Float(value.to_bits()),
            PrimitiveLiteral::Double(value) => Self::Double(value.to_bits()),
            PrimitiveLiteral::String(value) => Self::Text(value.clone()),
            PrimitiveLiteral::Binary(value) => Self::Bytes(value.clone()),
            PrimitiveLiteral::Int128(value) => Self::Decimal(value.to_be_bytes()),
            PrimitiveLiteral::UInt128(value) => Self::Uuid(value.to_be_bytes()),
            PrimitiveLiteral::AboveMax | PrimitiveLiteral::BelowMin => return Err(odd()),
        })
    }

    fn literal(&self) -> Literal {
        match self {
            Self::Bool(value) => Literal::bool(*value),
            Self::Int(value) => Literal::int(*value),
            Self::Long(value) => Literal::long(*value),
            Self::Float(bits) => Literal::float(f32::from_bits(*bits)),
            Self::Double(bits) => Literal::double(f64::from_bits(*bits)),
            Self::Text(value) => Literal::string(value),
            Self::Bytes(value) => Literal::binary(value.clone()),
            Self::Decimal(bytes) => Literal::Primitive(PrimitiveLiteral::Int128(i128::from_be_bytes(*bytes))),
            Self::Uuid(bytes) => Literal::Primitive(PrimitiveLiteral::UInt128(u128::from_be_bytes(*bytes))),
        }
    }
}

/// Serialises what an `Arc` shares.
mod shared {
    use super::{Arc, BTreeMap, Deserialize, LiveFile, Serialize};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(files: &Arc<BTreeMap<u32, LiveFile>>, serializer: S) -> Result<S::Ok, S::Error> {
        files.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<BTreeMap<u32, LiveFile>>, D::Error> {
        BTreeMap::deserialize(deserializer).map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_come_back_as_they_were() {
        let literals = [
            Literal::bool(true),
            Literal::int(-1),
            Literal::long(i64::MIN),
            Literal::float(f32::NEG_INFINITY),
            Literal::double(-0.0),
            Literal::string("é/\""),
            Literal::binary(vec![0, 255]),
            Literal::decimal(-12345),
            Literal::uuid(uuid::Uuid::max()),
        ];
        for literal in literals {
            let text = serde_json::to_string(&Value::of(&literal, "x").expect("value")).expect("text");
            assert_eq!(serde_json::from_str::<Value>(&text).expect("back").literal(), literal, "{text}");
        }
    }
}
