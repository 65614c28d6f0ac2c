//! Snapshots that are not kept any longer: which they are, and which files go with them.
//!
//! A table that wants it (`lakeward.expire-snapshots`) keeps its newest snapshots, and those that are younger than
//! `history.expire.max-snapshot-age-ms`. The others leave in the commit that adds a snapshot, so that metadata does not grow with every
//! commit; then their files are removed, but for what a snapshot that stays can reach. What other branches and tags reach stays.

use super::catalog::Loaded;
use super::manifest::{all, of};
use super::properties::Properties;
use super::token::{ancestors, ancestors_of};
use crate::{Error, Kind, Result};
use iceberg::TableUpdate;
use iceberg::spec::{MAIN_BRANCH, ManifestFile, SnapshotRef, SnapshotReference, SnapshotRetention, TableMetadata};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Snapshots that leave a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expired {
    /// The oldest of those that lead to the current one.
    line: Vec<SnapshotRef>,
    /// Those that nothing leads to: rolled back, published under another id, or held by a tag once.
    strays: Vec<SnapshotRef>,
}

/// The branches and tags of a table.
///
/// # Errors
/// [`Kind::Bug`]: metadata that was read can be written.
pub(crate) fn references(metadata: &TableMetadata) -> Result<HashMap<String, SnapshotReference>> {
    // The library keeps them to itself, but for this.
    let read = serde_json::to_value(metadata).and_then(|mut json| serde_json::from_value(json["refs"].take()));
    let read: Option<_> = read.map_err(|e| Error::new(Kind::Bug, "cannot read a table's branches").because(e))?;
    Ok(read.unwrap_or_default())
}

impl Expired {
    /// Those that go when a snapshot is added at `now` (milliseconds since 1970). They go by the tenth, so that most commits have nothing to remove.
    pub(crate) fn of(metadata: &TableMetadata, references: &HashMap<String, SnapshotReference>, properties: &Properties, now: i64) -> Self {
        if !properties.expires {
            return Self::default();
        }
        let line: Vec<&SnapshotRef> = ancestors(metadata).collect();
        // The one that is added is one of them.
        let kept = properties.snapshots_kept.max(1) - 1;
        let old = |snapshot: &SnapshotRef| snapshot.timestamp_ms() < now.saturating_sub(properties.snapshot_age_ms);
        let first = line.iter().skip(kept).position(|snapshot| old(snapshot)).map_or(line.len(), |at| kept + at);
        if line.len() - first.min(line.len()) <= kept / 10 {
            return Self::default();
        }
        let held = held(metadata, references);
        let in_line: HashSet<i64> = line.iter().map(|snapshot| snapshot.snapshot_id()).collect();
        let oldest = line[..first].last().map_or(now, |snapshot| snapshot.timestamp_ms());
        let goes = |snapshot: &&SnapshotRef| !held.contains(&snapshot.snapshot_id());
        let is_stray =
            |snapshot: &&SnapshotRef| !in_line.contains(&snapshot.snapshot_id()) && old(snapshot) && snapshot.timestamp_ms() < oldest;
        Self {
            line: line[first..].iter().copied().filter(goes).cloned().collect(),
            strays: metadata.snapshots().filter(is_stray).filter(goes).cloned().collect(),
        }
    }

    fn all(&self) -> impl Iterator<Item = &SnapshotRef> {
        self.line.iter().chain(&self.strays)
    }

    /// What a commit has to say.
    pub(crate) fn updates(&self, metadata: &TableMetadata) -> Vec<TableUpdate> {
        let ids: Vec<i64> = self.all().map(|snapshot| snapshot.snapshot_id()).collect();
        if ids.is_empty() {
            return Vec::new();
        }
        let mut updates = Vec::new();
        for id in &ids {
            if metadata.statistics_for_snapshot(*id).is_some() {
                updates.push(TableUpdate::RemoveStatistics { snapshot_id: *id });
            }
            if metadata.partition_statistics_for_snapshot(*id).is_some() {
                updates.push(TableUpdate::RemovePartitionStatistics { snapshot_id: *id });
            }
        }
        updates.push(TableUpdate::RemoveSnapshots { snapshot_ids: ids });
        updates
    }

    /// After the commit: removes the files that only these snapshots could reach. Failing to is no failure of the commit.
    pub(crate) async fn clean(&self, before: &TableMetadata, after: &Loaded) {
        // Those that the commit, whichever it was in the end, has taken out.
        let left = |snapshot: &&SnapshotRef| after.metadata.snapshot_by_id(snapshot.snapshot_id()).is_none();
        let line: Vec<&SnapshotRef> = self.line.iter().filter(left).collect();
        let strays: Vec<&SnapshotRef> = self.strays.iter().filter(left).collect();
        let count = line.len() + strays.len();
        if count == 0 {
            return;
        }
        let cleaned = async {
            let unreachable = unreachable(&line, &strays, before, after).await?;
            after.files.delete(&unreachable).await?;
            Ok::<_, Error>(unreachable.len())
        };
        match Box::pin(cleaned).await {
            Ok(files) => tracing::debug!("{count} snapshots have expired, and {files} files with them"),
            Err(error) => tracing::warn!("{error}; files of snapshots that have expired stay behind"),
        }
    }
}

/// The files that only these snapshots can reach.
async fn unreachable(line: &[&SnapshotRef], strays: &[&SnapshotRef], before: &TableMetadata, after: &Loaded) -> Result<Vec<String>> {
    let mut manifests: HashMap<String, ManifestFile> = HashMap::new();
    let mut files: HashSet<String> = HashSet::new();
    let mut unreachable: BTreeSet<String> = BTreeSet::new();
    for (snapshot, is_stray) in line.iter().map(|one| (one, false)).chain(strays.iter().map(|one| (one, true))) {
        // Somebody else may have been removing it as well.
        if after.files.get(snapshot.manifest_list()).await?.is_none() {
            continue;
        }
        unreachable.insert(snapshot.manifest_list().to_owned());
        for manifest in of(&after.files, before, snapshot).await? {
            // Files that a snapshot in line took out: those before it, which had them, are gone as well. Of others, all that they have.
            let took_out = manifest.added_snapshot_id == snapshot.snapshot_id() && manifest.deleted_files_count != Some(0);
            if took_out || is_stray {
                let entries = all(&after.files, &manifest).await?;
                files.extend(entries.iter().filter(|entry| is_stray || !entry.is_alive()).map(|entry| entry.file_path().to_owned()));
            }
            manifests.insert(manifest.manifest_path.clone(), manifest);
        }
    }
    // A snapshot has what its parent has, but for what it took out: of those in line, the oldest has all that the younger ones have of the
    // past, and the current one what a writer has brought back. What a stray one has may be anywhere.
    let in_line: Vec<&SnapshotRef> = ancestors(&after.metadata).collect();
    let ends: HashSet<i64> = in_line.first().into_iter().chain(in_line.last()).map(|snapshot| snapshot.snapshot_id()).collect();
    let middle: HashSet<i64> = in_line.iter().map(|snapshot| snapshot.snapshot_id()).filter(|id| !ends.contains(id)).collect();
    let mut looked: HashSet<String> = HashSet::new();
    for snapshot in after.metadata.snapshots().filter(|snapshot| !strays.is_empty() || !middle.contains(&snapshot.snapshot_id())) {
        for manifest in of(&after.files, &after.metadata, snapshot).await? {
            manifests.remove(&manifest.manifest_path);
            if !files.is_empty() && looked.insert(manifest.manifest_path.clone()) {
                for entry in all(&after.files, &manifest).await?.iter().filter(|entry| entry.is_alive()) {
                    files.remove(entry.file_path());
                }
            }
        }
    }
    unreachable.extend(manifests.into_keys());
    unreachable.extend(files);
    Ok(unreachable.into_iter().collect())
}

/// Snapshots that a tag names, or that a branch other than the main one leads to.
fn held(metadata: &TableMetadata, references: &HashMap<String, SnapshotReference>) -> HashSet<i64> {
    let mut held = HashSet::new();
    for reference in references.iter().filter(|(name, _)| *name != MAIN_BRANCH).map(|(_, reference)| reference) {
        held.insert(reference.snapshot_id);
        if matches!(reference.retention, SnapshotRetention::Branch { .. }) {
            held.extend(ancestors_of(metadata, reference.snapshot_id).map(|snapshot| snapshot.snapshot_id()));
        }
    }
    held
}

#[cfg(test)]
#[path = "expire_tests.rs"]
mod tests;
