//! The contract, on a local warehouse.

use super::catalog::filesystem::Filesystem;
use super::io::Files;
use super::manifest::{alive, current};
use super::testing::subject;
use super::*;
use crate::conformance::{self, ids};
use chrono::DateTime;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

pub(super) fn resources() -> Resources {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("pool");
    Resources { pool: Arc::new(pool), row_group_bytes: 4 << 20, now: DateTime::UNIX_EPOCH }
}

fn warehouse(root: &Path, files: Files) -> Iceberg {
    let uri = format!("file://{}", root.display());
    let catalog = Catalog::Filesystem(Arc::new(Filesystem::new(&uri, files)));
    Iceberg::at(catalog, IcebergConfig::default().settings().expect("settings"), resources())
}

/// The data files of the current snapshot.
async fn data_files(lake: &Iceberg, spec: &TableSpec) -> Option<Vec<PathBuf>> {
    let loaded = lake.catalog.load(&lake.name(&spec.database, &spec.name)).await.expect("load")?;
    let mut files = Vec::new();
    for manifest in current(&loaded.files, &loaded.metadata).await.expect("manifests") {
        for entry in alive(&loaded.files, &manifest).await.expect("entries") {
            files.push(PathBuf::from(entry.file_path().strip_prefix("file:").expect("local")));
        }
    }
    Some(files)
}

pub(super) async fn rows(lake: &Iceberg, spec: TableSpec) -> Option<Vec<i64>> {
    let mut batches = Vec::new();
    for file in data_files(lake, &spec).await? {
        let file = std::fs::File::open(&file).expect("a file that a snapshot names");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("parquet").build().expect("reader");
        batches.extend(reader.map(|batch| batch.expect("batch")));
    }
    Some(ids(&batches))
}

/// Files that no snapshot of the table names, the older ones included.
pub(super) async fn leftovers(lake: &Iceberg, root: PathBuf, spec: TableSpec) -> Vec<String> {
    let mut named = Vec::new();
    if let Some(loaded) = lake.catalog.load(&lake.name(&spec.database, &spec.name)).await.expect("load") {
        for snapshot in loaded.metadata.snapshots() {
            for manifest in manifest::of(&loaded.files, &loaded.metadata, snapshot).await.expect("manifests") {
                for entry in alive(&loaded.files, &manifest).await.expect("entries") {
                    named.push(PathBuf::from(entry.file_path().strip_prefix("file:").expect("local")));
                }
            }
        }
    }
    let folder = root
        .join(crate::parquet::folders::segment(&spec.database).expect("name"))
        .join(crate::parquet::folders::segment(&spec.name).expect("name"));
    let mut left = Vec::new();
    let mut open = vec![folder.clone()];
    while let Some(folder) = open.pop() {
        for item in std::fs::read_dir(&folder).into_iter().flatten().map(|item| item.expect("item").path()) {
            let metadata = item.parent().is_some_and(|parent| parent.ends_with("metadata"));
            if item.is_dir() {
                open.push(item);
            } else if !metadata && !named.contains(&item) {
                left.push(item.display().to_string());
            }
        }
    }
    left
}

#[tokio::test]
async fn the_contract_is_kept() {
    let folder = TempDir::new().expect("folder");
    let root = folder.path().to_owned();
    let subject = subject(folder.path(), Arc::new(move |files| warehouse(&root, files)));
    conformance::all(&subject).await;
}
