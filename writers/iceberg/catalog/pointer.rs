//! What catalogs that keep a pointer to a metadata file have in common: making the next file and writing it.
//!
//! Pure but for the writing. Does not know how a pointer is swapped.

use super::{CommitError, Creation, Loaded, clock};
use crate::guard::guarded;
use crate::iceberg::io::{Files, inward};
use crate::{Error, Kind, Result};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use iceberg::spec::{TableMetadata, TableMetadataBuilder};
use iceberg::{TableCreation, TableRequirement, TableUpdate};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::Arc;
use uuid::Uuid;

/// Table property: how metadata files are compressed (`none`, `gzip`).
const COMPRESSION: &str = "write.metadata.compression-codec";
/// Table property: whether metadata files that the log has lost are removed.
const DELETE_AFTER_COMMIT: &str = "write.metadata.delete-after-commit.enabled";
/// Table property: another folder for metadata files.
const METADATA_PATH: &str = "write.metadata.path";

/// What a packed metadata file may become.
const BYTES_MAX: u64 = 1 << 30;

/// Reads a metadata file, compressed or not.
pub(crate) async fn read(files: &Files, location: &str) -> Result<TableMetadata> {
    let data = files.expect(location).await.map_err(|e| e.doing("read table metadata"))?;
    decode(&data).map_err(|why| {
        Error::new(Kind::Corrupt, format!("{location} is not table metadata that can be read: {why}"))
            .hint("restore the file, or point the catalog at an older metadata file")
    })
}

pub(crate) fn decode(data: &[u8]) -> Result<TableMetadata, String> {
    let mut plain = Vec::new();
    let json = match data {
        [0x1F, 0x8B, ..] => {
            GzDecoder::new(data).take(BYTES_MAX + 1).read_to_end(&mut plain).map_err(|e| e.to_string())?;
            if plain.len() as u64 > BYTES_MAX {
                return Err(format!("unpacked it is larger than {} MiB", BYTES_MAX >> 20));
            }
            &plain
        }
        _ => data,
    };
    guarded(|| serde_json::from_slice(json)).map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// The bytes of a metadata file, and what stands before `.metadata.json` in its name.
pub(crate) fn encode(metadata: &TableMetadata) -> Result<(Bytes, &'static str)> {
    let bug = |e: Box<dyn std::error::Error + Send + Sync>| Error::new(Kind::Bug, "cannot write table metadata").because(e);
    let json = serde_json::to_vec(metadata).map_err(|e| bug(e.into()))?;
    match metadata.properties().get(COMPRESSION).map(|codec| codec.to_ascii_lowercase()).as_deref() {
        None | Some("none" | "") => Ok((json.into(), "")),
        Some("gzip") => {
            let mut packed = GzEncoder::new(Vec::new(), Compression::default());
            packed.write_all(&json).map_err(|e| bug(e.into()))?;
            Ok((packed.finish().map_err(|e| bug(e.into()))?.into(), ".gz"))
        }
        Some(other) => Err(Error::new(Kind::Config, format!("table property {COMPRESSION}: found {other:?}, accepted: none, gzip"))),
    }
}

/// The metadata of a new table at `location`.
pub(crate) fn created(name: &str, location: &str, creation: Creation) -> Result<TableMetadata> {
    let Creation { schema, properties, format_version } = creation;
    let creation = TableCreation::builder()
        .name(name.to_owned())
        .location(location.to_owned())
        .schema(schema)
        .properties(properties)
        .format_version(format_version)
        .build();
    let built = TableMetadataBuilder::from_table_creation(creation).and_then(TableMetadataBuilder::build);
    Ok(built.map_err(|e| inward(&e, Kind::Schema, "create the table"))?.metadata)
}

/// `base` with the updates, if it meets the requirements.
pub(crate) fn updated(base: &Loaded, requirements: &[TableRequirement], updates: Vec<TableUpdate>) -> Result<TableMetadata, CommitError> {
    for requirement in requirements {
        requirement.check(Some(&base.metadata)).map_err(|e| CommitError::Conflict(inward(&e, Kind::Conflict, "check the table")))?;
    }
    let bug = |e: serde_json::Error| CommitError::Failed(Error::new(Kind::Bug, "cannot set the times of table metadata").because(e));
    let now = chrono::Utc::now().timestamp_millis();
    let ahead = base.metadata.last_updated_ms() > now;
    let current = if ahead { clock::set_back(&base.metadata, now).map_err(bug)? } else { TableMetadata::clone(&base.metadata) };
    let mut builder = current.into_builder(Some(base.metadata_location.clone()));
    let invalid = |e: iceberg::Error| CommitError::Failed(inward(&e, Kind::Schema, "change the table's metadata"));
    for update in updates {
        builder = update.apply(builder).map_err(invalid)?;
    }
    let changed = builder.build().map_err(invalid)?.metadata;
    if ahead { clock::set_forward(&changed, &base.metadata).map_err(bug) } else { Ok(changed) }
}

/// The folder of a table's metadata files.
pub(crate) fn folder(metadata: &TableMetadata) -> String {
    match metadata.properties().get(METADATA_PATH) {
        Some(path) => path.trim_end_matches('/').to_owned(),
        None => format!("{}/metadata", metadata.location().trim_end_matches('/')),
    }
}

/// Writes `metadata` under a name that nobody else uses: `<folder>/<version>-<uuid>.metadata.json`, one version after `previous`.
pub(crate) async fn write_next(files: &Files, metadata: &TableMetadata, previous: Option<&str>) -> Result<String> {
    let (data, suffix) = encode(metadata)?;
    let version = previous.and_then(version_of).map_or(0, |version| version + 1);
    let location = format!("{}/{version:05}-{}{suffix}.metadata.json", folder(metadata), Uuid::new_v4());
    files.put(&location, data).await.map_err(|e| e.doing("write table metadata"))?;
    Ok(location)
}

/// The number that a metadata file's name begins with.
fn version_of(location: &str) -> Option<u64> {
    let name = location.rsplit('/').next()?;
    name.split_once('-')?.0.parse().ok()
}

/// Removes the metadata files that a commit has taken out of the log, if the table wants that. Failing to is no failure of the commit.
pub(crate) async fn tidy(files: &Files, before: &TableMetadata, after: &TableMetadata) {
    if after.properties().get(DELETE_AFTER_COMMIT).map(String::as_str) != Some("true") {
        return;
    }
    let kept: HashSet<&str> = after.metadata_log().iter().map(|entry| entry.metadata_file.as_str()).collect();
    let lost = before.metadata_log().iter().map(|entry| entry.metadata_file.clone()).filter(|file| !kept.contains(file.as_str()));
    if let Err(error) = files.delete(&lost.collect::<Vec<_>>()).await {
        tracing::warn!("{error}; old metadata files stay");
    }
}

/// Removes a metadata file that nothing has come to point to. Failing to is no failure of what was done.
pub(crate) async fn discard(files: &Files, location: String) {
    if let Err(error) = files.delete(&[location]).await {
        tracing::warn!("{error}; a metadata file that nothing points to stays");
    }
}

/// Removes the folder of a table that the catalog has forgotten; but not if that folder is more than the table's.
pub(crate) async fn remove(files: &Files, warehouse: &str, metadata: &TableMetadata) -> Result<()> {
    let location = metadata.location().trim_end_matches('/');
    let (storage, path) = files.place(location)?;
    if path.is_root() || format!("{}/", warehouse.trim_end_matches('/')).starts_with(&format!("{location}/")) {
        tracing::warn!("{location} is not the folder of one table: its files stay");
        return Ok(());
    }
    storage.remove_folder(&path).await
}

/// A committed table.
pub(crate) fn loaded(base: &Loaded, metadata: TableMetadata, metadata_location: String, version: Option<String>) -> Loaded {
    Loaded { metadata: Arc::new(metadata), metadata_location, version, files: base.files.clone() }
}
