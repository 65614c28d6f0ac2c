//! The readers of what stands in the files of a destination, for those who damage them: fuzz targets, and the test of their corpus (`tests/fuzz`).
//! Only with the feature `faults`. Does no I/O.

use crate::iceberg::{catalog, deletes, manifest};
use crate::parquet::record;
use crate::{Error, Kind, Result};
use ::iceberg::spec::FormatVersion;

/// A kind of file.
#[derive(Clone, Copy, Debug)]
pub enum File {
    /// A decided commit of a Parquet table.
    Record,
    /// What a Parquet table has.
    Table,
    /// The metadata of an Iceberg table, packed or not.
    Metadata,
    /// The list of manifests of a snapshot.
    ManifestList,
    /// A manifest.
    Manifest,
    /// The bitmap of a deletion vector.
    Vector,
    /// The head of an index of keys.
    Index,
}

impl File {
    /// All kinds.
    pub const ALL: [Self; 7] = [Self::Record, Self::Table, Self::Metadata, Self::ManifestList, Self::Manifest, Self::Vector, Self::Index];

    /// Reads the file as the writers do, as if its checksum were right where it has one.
    ///
    /// # Errors
    /// [`Kind::Corrupt`]: it is not what a writer writes.
    pub fn read(self, bytes: &[u8]) -> Result<()> {
        let corrupt = |why: String| Error::new(Kind::Corrupt, why);
        match self {
            Self::Record => record::parse_record(bytes),
            Self::Table => record::parse_manifest(bytes),
            Self::Metadata => catalog::pointer::decode(bytes).map(drop).map_err(corrupt),
            Self::ManifestList => {
                manifest::parse_list(bytes, FormatVersion::V3).or_else(|_| manifest::parse_list(bytes, FormatVersion::V2))
            }
            Self::Manifest => manifest::parse(bytes),
            Self::Vector => deletes::parse_vector(bytes).map_err(corrupt),
            Self::Index => deletes::parse_head(bytes).map_err(corrupt),
        }
    }
}
