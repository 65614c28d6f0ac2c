//! Manifests: writing new ones, and writing old ones again without what is gone, or several as one.
//!
//! An entry that is written again keeps its snapshot and its sequence numbers. Does not know snapshots.

use super::io::{Files, inward};
use crate::guard::{guarded, guarded_future};
use crate::{Error, Kind, Result, Retry};
use iceberg::spec::{
    DataFile, DataFileBuilder, FormatVersion, ManifestContentType, ManifestEntryRef, ManifestFile, ManifestStatus, ManifestWriter,
    ManifestWriterBuilder, PartitionSpec, Schema, TableMetadata,
};
use std::sync::Arc;
use uuid::Uuid;

/// What a length in a manifest may ask for, in bytes, in elements of a list or in entries of a map: a damaged one must not ask for all of the memory.
/// Entries take 81 bytes each, in tables whose size is a power of two: one more, and a map asks for 2.5 GiB. Writers put some 64 KiB into a block.
const LENGTH_MAX: usize = 14 << 20;

/// Names and writes the manifests of one commit.
#[derive(Debug)]
pub(crate) struct Manifests {
    files: Files,
    /// Where they go.
    folder: String,
    commit: Uuid,
    snapshot: i64,
    format_version: FormatVersion,
    number: u32,
    /// Everything that was written, to be removed when nothing comes of it.
    pub(crate) written: Vec<String>,
}

impl Manifests {
    /// For the snapshot with this id.
    pub(crate) fn new(files: &Files, folder: String, snapshot: i64, format_version: FormatVersion) -> Self {
        Self { files: files.clone(), folder, commit: Uuid::now_v7(), snapshot, format_version, number: 0, written: Vec::new() }
    }

    /// A name for a manifest list; each attempt has its own.
    pub(crate) fn list(&mut self) -> String {
        self.number += 1;
        let location = format!("{}/snap-{}-{}-{}.avro", self.folder, self.snapshot, self.number, self.commit);
        self.written.push(location.clone());
        location
    }

    fn writer(&mut self, content: ManifestContentType, schema: &Arc<Schema>, spec: &PartitionSpec) -> Result<ManifestWriter> {
        let location = format!("{}/{}-m{}.avro", self.folder, self.commit, self.number);
        self.number += 1;
        let output = self.files.io().new_output(&location).map_err(|e| inward(&e, Kind::Storage, "write a manifest"))?;
        self.written.push(location);
        let builder = ManifestWriterBuilder::new(output, Some(self.snapshot), schema.clone(), spec.clone());
        match (self.format_version, content) {
            (FormatVersion::V2, ManifestContentType::Data) => Ok(builder.build_v2_data()),
            (FormatVersion::V2, ManifestContentType::Deletes) => Ok(builder.build_v2_deletes()),
            (FormatVersion::V3, ManifestContentType::Data) => Ok(builder.build_v3_data()),
            (FormatVersion::V3, ManifestContentType::Deletes) => Ok(builder.build_v3_deletes()),
            (FormatVersion::V1, _) => Err(old_format()),
        }
    }

    /// A manifest of files that come with this snapshot; they have the partition spec `spec`.
    pub(crate) async fn added(
        &mut self,
        content: ManifestContentType,
        schema: &Arc<Schema>,
        spec: &PartitionSpec,
        files: &[DataFile],
    ) -> Result<ManifestFile> {
        let mut writer = self.writer(content, schema, spec)?;
        for file in files {
            // Without a sequence number the entry takes that of the snapshot, whichever it becomes.
            writer.add_file(file.clone(), -1).map_err(|e| inward(&e, Kind::Bug, "write a manifest"))?;
        }
        writer.write_manifest_file().await.map_err(|e| inward(&e, Kind::Storage, "write a manifest"))
    }

    /// `manifest` without the files for which `gone` holds, which are marked as deleted; `None` when it has none of them. What was taken out is
    /// given to `taken`.
    pub(crate) async fn without(
        &mut self,
        metadata: &TableMetadata,
        manifest: &ManifestFile,
        gone: impl Fn(&DataFile) -> bool,
        mut taken: impl FnMut(&DataFile),
    ) -> Result<Option<ManifestFile>> {
        let entries = self.entries(manifest).await?;
        if !entries.iter().any(|entry| gone(entry.data_file())) {
            return Ok(None);
        }
        let (schema, spec) = written_with(metadata, manifest)?;
        let mut writer = self.writer(manifest.content, &schema, &spec)?;
        for entry in entries {
            let (file, sequence) = (entry.data_file().clone(), sequence(&entry)?);
            let added = if gone(&file) {
                taken(&file);
                writer.add_delete_file(file, sequence, entry.file_sequence_number)
            } else {
                writer.add_existing_file(file, entry.snapshot_id.unwrap_or_default(), sequence, entry.file_sequence_number)
            };
            added.map_err(|e| inward(&e, Kind::Corrupt, "write a manifest again"))?;
        }
        writer.write_manifest_file().await.map(Some).map_err(|e| inward(&e, Kind::Storage, "write a manifest again"))
    }

    /// Several manifests of one content and one partition spec as one.
    pub(crate) async fn merged(&mut self, metadata: &TableMetadata, manifests: &[&ManifestFile]) -> Result<ManifestFile> {
        let first = manifests.first().ok_or_else(|| Error::new(Kind::Bug, "nothing to merge"))?;
        let (schema, spec) = written_with(metadata, first)?;
        let mut writer = self.writer(first.content, &schema, &spec)?;
        for manifest in manifests {
            for entry in self.entries(manifest).await? {
                let (file, sequence) = (entry.data_file().clone(), sequence(&entry)?);
                let existing = writer.add_existing_file(file, entry.snapshot_id.unwrap_or_default(), sequence, entry.file_sequence_number);
                existing.map_err(|e| inward(&e, Kind::Corrupt, "merge manifests"))?;
            }
        }
        writer.write_manifest_file().await.map_err(|e| inward(&e, Kind::Storage, "merge manifests"))
    }

    /// The files that are alive in a manifest, with everything that they inherit.
    async fn entries(&self, manifest: &ManifestFile) -> Result<Vec<ManifestEntryRef>> {
        alive(&self.files, manifest).await
    }
}

/// The entries of a manifest whose files are alive, with everything that they inherit from it.
pub(crate) async fn alive(files: &Files, manifest: &ManifestFile) -> Result<Vec<ManifestEntryRef>> {
    let mut entries = all(files, manifest).await?;
    entries.retain(|entry| entry.is_alive());
    Ok(entries)
}

/// The entries of a manifest, with everything that they inherit from it.
pub(crate) async fn all(files: &Files, manifest: &ManifestFile) -> Result<Vec<ManifestEntryRef>> {
    apache_avro::util::max_allocation_bytes(LENGTH_MAX);
    let path = &manifest.manifest_path;
    let unreadable = |e: Error| damaged(e).doing(format!("read the manifest {path}"));
    let loaded = guarded_future(manifest.load_manifest(&files.io())).await.map_err(unreadable)?;
    let loaded = loaded.map_err(|e| damaged(inward(&e, Kind::Corrupt, &format!("read the manifest {path}"))))?;
    numbered(loaded.into_parts().0, manifest.content, manifest.first_row_id).map_err(unreadable)
}

/// A file that the table's metadata names, and that is not what it was: with the ways out.
fn damaged(error: Error) -> Error {
    match error.advice() {
        None if error.retry() == Retry::Never => {
            error.hint("restore the file, or point the catalog at an older metadata file; nothing was changed")
        }
        _ => error,
    }
}

/// Version 3: files without a first row id follow each other (specification, "First Row ID Inheritance").
fn numbered(entries: Vec<ManifestEntryRef>, content: ManifestContentType, mut next_row: Option<u64>) -> Result<Vec<ManifestEntryRef>> {
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries {
        let inherits =
            content == ManifestContentType::Data && entry.data_file().first_row_id().is_none() && entry.status() != ManifestStatus::Deleted;
        all.push(match next_row {
            Some(first) if inherits => {
                let next = first.checked_add(entry.data_file().record_count());
                next_row = Some(next.ok_or_else(|| Error::new(Kind::Corrupt, "it has more rows than there are numbers"))?);
                let mut entry = iceberg::spec::ManifestEntry::clone(&entry);
                entry.data_file = with_first_row(&entry.data_file, first)?;
                Arc::new(entry)
            }
            _ => entry,
        });
    }
    Ok(all)
}

/// What is made of a manifest's bytes.
#[cfg(feature = "faults")]
pub(crate) fn parse(bytes: &[u8]) -> Result<()> {
    apache_avro::util::max_allocation_bytes(LENGTH_MAX);
    let manifest = guarded(|| iceberg::spec::Manifest::parse_avro(bytes))?.map_err(|e| inward(&e, Kind::Corrupt, "read a manifest"))?;
    let content = *manifest.metadata().content();
    numbered(manifest.into_parts().0, content, Some(1)).map(drop)
}

/// What is made of the bytes of a manifest list.
#[cfg(feature = "faults")]
pub(crate) fn parse_list(bytes: &[u8], version: FormatVersion) -> Result<()> {
    apache_avro::util::max_allocation_bytes(LENGTH_MAX);
    let list = guarded(|| iceberg::spec::ManifestList::parse_with_version(bytes, version))?;
    list.map(drop).map_err(|e| inward(&e, Kind::Corrupt, "read a manifest list"))
}

/// All manifests of the current snapshot.
pub(crate) async fn current(files: &Files, metadata: &TableMetadata) -> Result<Vec<ManifestFile>> {
    let Some(snapshot) = metadata.current_snapshot() else { return Ok(Vec::new()) };
    of(files, metadata, snapshot).await
}

/// All manifests of a snapshot.
pub(crate) async fn of(files: &Files, metadata: &TableMetadata, snapshot: &iceberg::spec::Snapshot) -> Result<Vec<ManifestFile>> {
    let location = snapshot.manifest_list();
    let data = files.expect(location).await.map_err(|e| e.doing("read the manifest list"))?;
    apache_avro::util::max_allocation_bytes(LENGTH_MAX);
    let list = guarded(|| iceberg::spec::ManifestList::parse_with_version(&data, metadata.format_version()))
        .map_err(|e| damaged(e).doing(format!("read the manifest list {location}")))?;
    Ok(list.map_err(|e| damaged(inward(&e, Kind::Corrupt, &format!("read the manifest list {location}"))))?.entries().to_vec())
}

fn sequence(entry: &ManifestEntryRef) -> Result<i64> {
    entry
        .sequence_number()
        .ok_or_else(|| Error::new(Kind::Corrupt, format!("the manifest entry of {} has no sequence number", entry.file_path())))
}

/// The partition spec of a manifest, and a schema that has its source columns.
fn written_with(metadata: &TableMetadata, manifest: &ManifestFile) -> Result<(Arc<Schema>, Arc<PartitionSpec>)> {
    let spec = metadata.partition_spec_by_id(manifest.partition_spec_id).cloned();
    let spec = spec.ok_or_else(|| {
        Error::new(
            Kind::Corrupt,
            format!("{} names the partition spec {}, which the table does not have", manifest.manifest_path, manifest.partition_spec_id),
        )
    })?;
    let current = metadata.current_schema();
    let has_all = |schema: &Arc<Schema>| spec.fields().iter().all(|field| schema.field_by_id(field.source_id).is_some());
    // A column that an old spec needs may be gone from the current schema.
    let schema = if has_all(current) { Some(current) } else { metadata.schemas_iter().find(|schema| has_all(schema)) };
    Ok((schema.unwrap_or(current).clone(), spec))
}

fn with_first_row(file: &DataFile, first: u64) -> Result<DataFile> {
    let mut builder = DataFileBuilder::default();
    builder
        .content(file.content_type())
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(file.partition().clone())
        .record_count(file.record_count())
        .file_size_in_bytes(file.file_size_in_bytes())
        .column_sizes(file.column_sizes().clone())
        .value_counts(file.value_counts().clone())
        .null_value_counts(file.null_value_counts().clone())
        .nan_value_counts(file.nan_value_counts().clone())
        .lower_bounds(file.lower_bounds().clone())
        .upper_bounds(file.upper_bounds().clone())
        .key_metadata(file.key_metadata().map(<[u8]>::to_vec))
        .split_offsets(file.split_offsets().map(<[i64]>::to_vec))
        .equality_ids(file.equality_ids())
        .first_row_id(Some(first.cast_signed()))
        // A manifest's files have the manifest's spec, whatever is said here.
        .partition_spec_id(0)
        .referenced_data_file(file.referenced_data_file())
        .content_offset(file.content_offset())
        .content_size_in_bytes(file.content_size_in_bytes());
    if let Some(order) = file.sort_order_id() {
        builder.sort_order_id(order);
    }
    builder.build().map_err(|e| Error::new(Kind::Bug, "cannot describe a file again").because(e))
}

fn old_format() -> Error {
    Error::new(Kind::Schema, "the table has format version 1, which takes no row-level deletes and is not written")
        .hint("upgrade the table to format version 2 first: set its property format-version to 2 with the engine that owns it")
}
