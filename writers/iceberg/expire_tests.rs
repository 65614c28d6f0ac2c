//! What expires and what stays, on a local warehouse.

use super::super::catalog::{Catalog, Loaded, TableName};
use super::super::manifest::alive;
use super::super::testing::{append, lake, rows, spec};
use super::super::{Iceberg, manifest};
use crate::conformance::ids;
use crate::{Commit, Destination, Table, TableSpec, Token};
use iceberg::TableUpdate;
use iceberg::spec::{SnapshotReference, SnapshotRetention};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

async fn loaded(lake: &Iceberg, spec: &TableSpec) -> Loaded {
    lake.catalog.load(&lake.name(&spec.database, &spec.name)).await.expect("load").expect("a table")
}

/// Files of a folder, however deep.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for path in std::fs::read_dir(folder).expect("folder").map(|item| item.expect("item").path()) {
            match path.is_dir() {
                true => open.push(path),
                false if path.to_string_lossy().ends_with(ending) => found.push(path),
                false => {}
            }
        }
    }
    found
}

/// The rows at each snapshot that is there, read from its files.
async fn history(loaded: &Loaded) -> BTreeMap<i64, Vec<i64>> {
    let mut history = BTreeMap::new();
    for snapshot in loaded.metadata.snapshots() {
        let mut batches = Vec::new();
        for manifest in manifest::of(&loaded.files, &loaded.metadata, snapshot).await.expect("manifests") {
            for entry in alive(&loaded.files, &manifest).await.expect("entries") {
                let data = loaded.files.expect(entry.file_path()).await.expect("a data file");
                let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(data, 1024).expect("parquet");
                batches.extend(reader.map(|batch| batch.expect("batch")));
            }
        }
        history.insert(snapshot.snapshot_id(), ids(&batches));
    }
    history
}

async fn refer(catalog: &Catalog, table: &TableName, base: &Loaded, updates: Vec<TableUpdate>) {
    catalog.commit(table, base, Vec::new(), updates).await.map_err(|_| "a conflict").expect("commit");
}

#[tokio::test]
async fn old_snapshots_expire_and_what_others_need_stays() {
    let folder = TempDir::new().expect("folder");
    let keep = |properties: serde_json::Value| json!({"catalog_type": "filesystem", "iceberg_s3_path": folder.path(), "table_properties": properties});
    let lake = lake(keep(json!({"history.expire.min-snapshots-to-keep": "5", "commit.manifest.min-count-to-merge": "3"}))).await;
    let spec = spec("d", "t", "w");
    let name = lake.name("d", "t");
    let (mut expected, mut seen, mut tagged) = (Vec::new(), BTreeMap::new(), None);
    for number in 0..60_i64 {
        if number % 25 == 24 {
            // Data files that are replaced go with the last snapshot that has them.
            let mut table = lake.open(&spec).await.expect("open");
            table.commit(Vec::new(), Token(format!("replace-{number}")), Commit::Replace).await.expect("replace");
            expected.clear();
        } else {
            append(&lake, &spec, &format!("append-{number}"), &[number]).await.expect("append");
            expected.push(number);
        }
        let now = loaded(&lake, &spec).await;
        let current = now.metadata.current_snapshot_id().expect("a snapshot");
        seen.insert(current, expected.clone());
        for (snapshot, rows) in history(&now).await {
            assert_eq!(rows, seen[&snapshot], "snapshot {snapshot} after commit {number}");
        }
        assert!(now.metadata.snapshots().len() <= 6, "{} snapshots", now.metadata.snapshots().len());
        match number {
            10 => {
                let reference = SnapshotReference::new(current, SnapshotRetention::Tag { max_ref_age_ms: None });
                let update = TableUpdate::SetSnapshotRef { ref_name: "audit".into(), reference };
                refer(&lake.catalog, &name, &now, vec![update]).await;
                tagged = Some(current);
            }
            45 => {
                let tagged = tagged.expect("a tag");
                assert_eq!(history(&now).await[&tagged], seen[&tagged], "what a tag names stays");
                refer(&lake.catalog, &name, &now, vec![TableUpdate::RemoveSnapshotRef { ref_name: "audit".into() }]).await;
            }
            _ => {}
        }
    }
    let now = loaded(&lake, &spec).await;
    assert!(now.metadata.snapshot_by_id(tagged.expect("a tag")).is_none(), "without its tag it expires");
    assert_eq!(rows(&lake, &spec).await, expected);
    let named = |ending: &str| files(folder.path(), ending).len();
    assert!(named(".avro") <= 25, "{} manifests and lists", named(".avro"));
    // 10 that are alive, and those of the snapshots that are left.
    assert!(named(".parquet") <= 10 + 6, "{} data files", named(".parquet"));
}

#[tokio::test]
async fn tables_that_do_not_ask_for_it_keep_all() {
    for properties in [
        json!({"history.expire.min-snapshots-to-keep": "2", "lakeward.expire-snapshots": "false"}),
        json!({"history.expire.min-snapshots-to-keep": "2", "gc.enabled": "false"}),
        json!({"history.expire.min-snapshots-to-keep": "2", "history.expire.max-snapshot-age-ms": "3600000"}),
    ] {
        let folder = TempDir::new().expect("folder");
        let lake = lake(json!({"catalog_type": "filesystem", "iceberg_s3_path": folder.path(), "table_properties": properties})).await;
        let spec = spec("d", "t", "w");
        for number in 0..8_i64 {
            append(&lake, &spec, &format!("append-{number}"), &[number]).await.expect("append");
        }
        assert_eq!(loaded(&lake, &spec).await.metadata.snapshots().len(), 8, "{properties}");
    }
}

/// The name of the next version is free again where old ones are tidied away: who comes late must not take it.
#[tokio::test]
async fn a_commit_on_a_version_that_is_tidied_away_loses_nothing() {
    let folder = TempDir::new().expect("folder");
    let properties = json!({"write.metadata.previous-versions-max": "1"});
    let lake = lake(json!({"catalog_type": "filesystem", "iceberg_s3_path": folder.path(), "table_properties": properties})).await;
    append(&lake, &spec("d", "t", "early"), "first", &[1]).await.expect("append");
    let mut late = lake.open(&spec("d", "t", "late")).await.expect("open");
    for number in 2..8_i64 {
        append(&lake, &spec("d", "t", "others"), &format!("append-{number}"), &[number]).await.expect("append");
    }
    late.commit(Vec::new(), Token("late".into()), Commit::Append).await.expect("commit");
    append(&lake, &spec("d", "t", "others"), "last", &[8]).await.expect("append");
    assert_eq!(rows(&lake, &spec("d", "t", "others")).await, (1..=8).collect::<Vec<_>>());
}
