//! The contract, on a local warehouse.

use super::catalog::filesystem::Filesystem;
use super::io::Files;
use super::manifest::{alive, current};
use super::stage::StagedFile;
use super::testing::subject;
use super::*;
use crate::conformance::{self, ids};
use crate::storage::StoreOptions;
use crate::{Commit, Error, GONE, KEPT, PartName, Table, Token};
use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::array_value_to_string;
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

/// What a change leaves as it is comes from the table's own rows: under the row's key, or under the one that it had before.
#[tokio::test]
async fn what_is_kept_is_found_under_the_key_that_a_row_had() {
    let folder = TempDir::new().expect("folder");
    let uri = format!("file://{}", folder.path().join("lake").display());
    let catalog = Catalog::Filesystem(Arc::new(Filesystem::new(&uri, Files::new(StoreOptions::default()))));
    let index_path = Some(folder.path().join("index").display().to_string());
    let config = IcebergConfig { index_path, ..IcebergConfig::default() };
    let lake = Iceberg::at(catalog, config.settings().expect("settings"), resources());
    let fields = vec![
        Field::new("part", DataType::Utf8, false),
        Field::new("id", DataType::Int64, false),
        Field::new("a", DataType::Utf8, true),
        Field::new("b", DataType::Utf8, true),
    ];
    let spec = TableSpec {
        database: "d".into(),
        name: "t".into(),
        schema: Arc::new(Schema::new(fields.clone())),
        key: vec!["id".into(), "part".into()],
        ..TableSpec::default()
    };
    let mut table = lake.open(&spec).await.expect("open");
    let text = |values: &[Option<&str>]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    let rows: Vec<ArrayRef> = vec![
        text(&[Some("p"), Some("p"), Some("q")]),
        Arc::new(Int64Array::from(vec![1, 2, 1])),
        text(&[Some("a1"), Some("a2"), Some("a1 of q")]),
        text(&[Some("b1"), Some("b2"), Some("b1 of q")]),
    ];
    let batch = RecordBatch::try_new(spec.schema.clone(), rows).expect("batch");
    let name = |sequence| PartName { generation: "g".into(), sequence };
    let part = table.stage(name(1), futures::stream::iter([Ok::<_, Error>(batch)])).await.expect("stage");
    table.commit(vec![part], Token("first".into()), Commit::Append).await.expect("commit");

    // (p, 1) and (p, 2) change places over (p, 0); (q, 1) stays where it is.
    let ours = [Field::new(GONE, DataType::Boolean, false), Field::new(KEPT, DataType::Utf8, true)];
    let schema = Arc::new(Schema::new([fields, ours.to_vec()].concat()));
    type Row<'a> = (&'a str, i64, Option<&'a str>, bool, Option<&'a str>);
    let changes = |rows: &[Row<'_>]| {
        let columns: Vec<ArrayRef> = vec![
            text(&rows.iter().map(|row| Some(row.0)).collect::<Vec<_>>()),
            Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
            text(&rows.iter().map(|row| row.2).collect::<Vec<_>>()),
            text(&vec![None; rows.len()]),
            Arc::new(rows.iter().map(|row| Some(row.3)).collect::<BooleanArray>()),
            text(&rows.iter().map(|row| row.4).collect::<Vec<_>>()),
        ];
        futures::stream::iter([Ok::<_, Error>(RecordBatch::try_new(schema.clone(), columns).expect("batch"))])
    };
    let swap = changes(&[
        ("q", 1, Some("new"), false, Some("3")),
        ("p", 1, None, true, None),
        ("p", 0, None, false, Some("^2,3")),
        ("p", 2, None, true, None),
        ("p", 1, Some("moved"), false, Some("^3")),
        ("p", 0, None, true, None),
        ("p", 2, None, false, Some("^2,3")),
    ]);
    let part = table.stage_changes(name(2), swap).await.expect("stage");
    let mut found = Vec::new();
    for StagedFile { location, .. } in &part.files {
        let file = std::fs::File::open(location.strip_prefix("file://").expect("local")).expect("a file");
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).expect("parquet").build().expect("reader") {
            let batch = batch.expect("batch");
            for row in 0..batch.num_rows() {
                found.push([0, 1, 2, 3].map(|at| array_value_to_string(batch.column(at), row).expect("text")).join(" "));
            }
        }
    }
    found.sort_unstable();
    assert_eq!(found, ["p 1 moved b2", "p 2 a1 b1", "q 1 new b1 of q"]);
    table.commit(vec![part], Token("second".into()), Commit::Append).await.expect("commit");

    let astray = changes(&[("p", 7, None, true, None), ("p", 8, None, false, Some("^2"))]);
    let error = table.stage_changes(name(3), astray).await.expect_err("an error");
    assert!(error.to_string().contains("the row with id = 7, part = p was changed"), "{error}");
}
