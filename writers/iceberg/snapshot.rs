//! A snapshot out of what is there and what a commit changes.
//!
//! Manifests of new files are written once, whatever becomes of the first attempt: their entries take the sequence number of the snapshot
//! that is committed in the end. Only the manifest list is written anew. Does not know catalogs.

use super::catalog::{Loaded, pointer};
use super::io::inward;
use super::manifest::{Manifests, current};
use super::properties::Properties;
use crate::{Error, Kind, Result};
use iceberg::spec::{
    DataFile, FormatVersion, ManifestContentType, ManifestFile, ManifestListWriter, Operation, Snapshot, SnapshotSummaryCollector, Summary,
    TableMetadata,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// What becomes of the files that are there.
#[derive(Clone, Debug, Default)]
pub(crate) enum Gone {
    /// They stay.
    #[default]
    Nothing,
    /// All of them go.
    Everything,
    /// Delete files go that others take the place of: location, and place within it.
    Deletes(HashSet<(String, Option<i64>)>),
}

/// New files, by the partition spec that they were written with.
pub(crate) type BySpec = BTreeMap<i32, Vec<DataFile>>;

/// A change to a table's files.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Files with rows.
    pub(crate) data: BySpec,
    /// Files that take rows away.
    pub(crate) deletes: BySpec,
    /// What goes.
    pub(crate) gone: Gone,
    /// What the summary says beside counts.
    pub(crate) summary: HashMap<String, String>,
}

/// Makes snapshots of one change until one is committed.
pub(crate) struct Producer {
    /// The snapshot's id, the same for every attempt.
    pub(crate) id: i64,
    /// Names of what was written.
    pub(crate) manifests: Manifests,
    change: Change,
    added: Option<Vec<ManifestFile>>,
    /// What the last manifest list names, and the list.
    listed: HashSet<String>,
    /// Whether the last one leaves out a file that was there.
    removes: bool,
}

impl Producer {
    /// For a change of the table as it will be (`future`).
    pub(crate) fn new(base: &Loaded, future: &TableMetadata, change: Change) -> Self {
        let id = (Uuid::new_v4().as_u64_pair().0 >> 1).cast_signed();
        let manifests = Manifests::new(&base.files, pointer::folder(future), id, future.format_version());
        Self { id, manifests, change, added: None, listed: HashSet::new(), removes: false }
    }

    /// The snapshot that follows `base`; `future` has the schema and the spec of the commit.
    pub(crate) async fn snapshot(&mut self, base: &Loaded, future: &TableMetadata, properties: &Properties) -> Result<Snapshot> {
        let mut summary = SnapshotSummaryCollector::default();
        let (schema, spec) = (future.current_schema(), future.default_partition_spec());
        for file in self.change.data.values().chain(self.change.deletes.values()).flatten() {
            summary.add_file(file, schema.clone(), spec.clone());
        }
        let mut list = self.kept(base, &mut summary).await?;
        list.extend(self.added(future).await?);
        let list = self.merge(future, list, properties).await?;
        let sequence = base.metadata.next_sequence_number();
        let parent = base.metadata.current_snapshot_id();
        let location = self.manifests.list();
        let writing = |e: iceberg::Error| inward(&e, Kind::Storage, "write the manifest list");
        let output = base.files.io().new_output(&location).map_err(writing)?.writer().await.map_err(writing)?;
        let mut writer = match future.format_version() {
            FormatVersion::V3 => ManifestListWriter::v3(output, self.id, parent, sequence, Some(base.metadata.next_row_id())),
            _ => ManifestListWriter::v2(output, self.id, parent, sequence),
        };
        self.listed = list.iter().map(|manifest| manifest.manifest_path.clone()).chain([location.clone()]).collect();
        writer.add_manifests(list.into_iter()).map_err(writing)?;
        let next_row = writer.next_row_id();
        writer.close().await.map_err(writing)?;

        let mut said = self.change.summary.clone();
        said.extend(summary.build());
        totals(&mut said, base.metadata.current_snapshot().map(|snapshot| snapshot.summary()));
        let snapshot = Snapshot::builder()
            .with_manifest_list(location)
            .with_snapshot_id(self.id)
            .with_parent_snapshot_id(parent)
            .with_sequence_number(sequence)
            .with_summary(Summary { operation: self.operation(), additional_properties: said })
            .with_schema_id(schema.schema_id())
            .with_timestamp_ms(now_ms().max(base.metadata.last_updated_ms()));
        Ok(match next_row {
            Some(next) => snapshot.with_row_range(base.metadata.next_row_id(), next - base.metadata.next_row_id()).build(),
            None => snapshot.build(),
        })
    }

    /// Takes rows away by other files than before, because the table has moved on.
    pub(crate) fn take_away(&mut self, deletes: BySpec, gone: Gone) {
        // Those of an attempt that failed are removed with its manifests.
        let before = std::mem::replace(&mut self.change.deletes, deletes);
        self.manifests.written.extend(before.values().flatten().map(|file| file.file_path().to_owned()));
        self.change.gone = gone;
        self.added = None;
    }

    /// After a commit: removes what earlier attempts have written. Failing to is no failure of the commit.
    pub(crate) async fn tidy(&mut self, base: &Loaded) {
        let listed = std::mem::take(&mut self.listed);
        self.manifests.written.retain(|written| !listed.contains(written));
        self.abandon(base).await;
    }

    /// After a commit that certainly did not happen: removes what was written for it.
    pub(crate) async fn abandon(&mut self, base: &Loaded) {
        if let Err(error) = base.files.delete(&std::mem::take(&mut self.manifests.written)).await {
            tracing::warn!("{error}; manifests of attempts to commit stay behind");
        }
    }

    fn operation(&self) -> Operation {
        match (self.removes, self.change.data.is_empty(), self.change.deletes.is_empty()) {
            (false, _, true) => Operation::Append,
            (_, true, false) => Operation::Delete,
            _ => Operation::Overwrite,
        }
    }

    /// The manifests of `base` without what goes.
    async fn kept(&mut self, base: &Loaded, summary: &mut SnapshotSummaryCollector) -> Result<Vec<ManifestFile>> {
        let mut kept = Vec::new();
        let mut removes = false;
        for manifest in current(&base.files, &base.metadata).await? {
            let spec =
                base.metadata.partition_spec_by_id(manifest.partition_spec_id).unwrap_or(base.metadata.default_partition_spec()).clone();
            let taken = |file: &DataFile| {
                removes = true;
                summary.remove_file(file, base.metadata.current_schema().clone(), spec.clone());
            };
            match &self.change.gone {
                Gone::Nothing => kept.push(manifest),
                Gone::Everything => {
                    if has_alive(&manifest) {
                        kept.extend(self.manifests.without(&base.metadata, &manifest, |_| true, taken).await?);
                    }
                }
                Gone::Deletes(gone) => {
                    let goes = |file: &DataFile| gone.contains(&(file.file_path().to_owned(), file.content_offset()));
                    let changed = match manifest.content {
                        ManifestContentType::Deletes => self.manifests.without(&base.metadata, &manifest, goes, taken).await?,
                        ManifestContentType::Data => None,
                    };
                    kept.push(changed.unwrap_or(manifest));
                }
            }
        }
        // What holds nothing but what was deleted by an earlier snapshot says nothing about this one.
        kept.retain(|manifest| has_alive(manifest) || manifest.added_snapshot_id == self.id);
        self.removes = removes;
        Ok(kept)
    }

    async fn added(&mut self, future: &TableMetadata) -> Result<Vec<ManifestFile>> {
        if let Some(added) = &self.added {
            return Ok(added.clone());
        }
        let mut added = Vec::new();
        for (content, by_spec) in [(ManifestContentType::Data, &self.change.data), (ManifestContentType::Deletes, &self.change.deletes)] {
            for (spec, files) in by_spec {
                let spec = future.partition_spec_by_id(*spec).ok_or_else(|| Error::new(Kind::Bug, format!("no partition spec {spec}")))?;
                added.push(self.manifests.added(content, future.current_schema(), spec, files).await?);
            }
        }
        self.added = Some(added.clone());
        Ok(added)
    }

    /// Merges small manifests once there are many of them, as Iceberg's own "merge append" does (`commit.manifest.*`).
    async fn merge(&mut self, future: &TableMetadata, list: Vec<ManifestFile>, properties: &Properties) -> Result<Vec<ManifestFile>> {
        if !properties.merges_manifests {
            return Ok(list);
        }
        let mut groups: BTreeMap<(bool, i32), Vec<ManifestFile>> = BTreeMap::new();
        let mut result = Vec::with_capacity(list.len());
        for manifest in list {
            // The new one stays as it is, so that an attempt that fails costs no merged manifest; and marks of deletion are this snapshot's.
            if manifest.added_snapshot_id == self.id || manifest.manifest_length >= properties.manifest_bytes {
                result.push(manifest);
            } else {
                groups.entry((manifest.content == ManifestContentType::Data, manifest.partition_spec_id)).or_default().push(manifest);
            }
        }
        for group in groups.into_values() {
            if group.len() < properties.manifests_to_merge {
                result.extend(group);
                continue;
            }
            let mut bin: Vec<&ManifestFile> = Vec::new();
            let mut bytes = 0;
            for manifest in &group {
                if bytes + manifest.manifest_length > properties.manifest_bytes && !bin.is_empty() {
                    result.push(self.merge_bin(future, &bin).await?);
                    (bin, bytes) = (Vec::new(), 0);
                }
                bin.push(manifest);
                bytes += manifest.manifest_length;
            }
            result.push(self.merge_bin(future, &bin).await?);
        }
        Ok(result)
    }

    async fn merge_bin(&mut self, future: &TableMetadata, bin: &[&ManifestFile]) -> Result<ManifestFile> {
        match bin {
            [one] => Ok((*one).clone()),
            several => self.manifests.merged(future, several).await,
        }
    }
}

fn has_alive(manifest: &ManifestFile) -> bool {
    // Counts that are missing may be anything.
    manifest.added_files_count.unwrap_or(1) + manifest.existing_files_count.unwrap_or(1) > 0
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Adds the running totals of the specification's "Optional Snapshot Summary Fields".
fn totals(said: &mut HashMap<String, String>, before: Option<&Summary>) {
    const TOTALS: [(&str, &str, &str); 6] = [
        ("total-data-files", "added-data-files", "deleted-data-files"),
        ("total-delete-files", "added-delete-files", "removed-delete-files"),
        ("total-records", "added-records", "deleted-records"),
        ("total-files-size", "added-files-size", "removed-files-size"),
        ("total-position-deletes", "added-position-deletes", "removed-position-deletes"),
        ("total-equality-deletes", "added-equality-deletes", "removed-equality-deletes"),
    ];
    for (total, added, removed) in TOTALS {
        let number = |key: &str| said.get(key).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        let change = number(added) - number(removed);
        let so_far = match before {
            None => Some(0),
            // Who wrote the last snapshot may have left it out; a wrong total is worse than none.
            Some(summary) => summary.additional_properties.get(total).and_then(|text| text.parse::<i64>().ok()),
        };
        if let Some(so_far) = so_far {
            said.insert(total.to_owned(), (so_far + change).max(0).to_string());
        }
    }
}
