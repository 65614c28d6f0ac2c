//! A table in a local warehouse, and commits of changes to it.

use super::super::super::catalog::filesystem::Filesystem;
use super::super::super::catalog::{Catalog, Loaded, TableName};
use super::super::super::io::Files;
use super::super::super::properties::Properties;
use super::super::super::snapshot::{BySpec, Change, Gone, Producer};
use super::super::super::stage::IcebergPart;
use super::super::super::{Iceberg, IcebergConfig, IcebergTable, datafile, schema};
use super::super::{KeyIndex, Places, deletion_vectors, position_deletes, summary};
use crate::parquet::Resources;
use crate::parquet::encode::EncodeOptions;
use crate::storage::StoreOptions;
use crate::{Commit, Destination, Error, PartName, Table, TableSpec, Token};
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use chrono::DateTime;
use iceberg::spec::{FormatVersion, MAIN_BRANCH, NestedFieldRef, SnapshotReference, SnapshotRetention};
use iceberg::{TableRequirement, TableUpdate};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// Keys and values.
pub(super) type Rows = Vec<(i64, String)>;

/// A table with the columns `id` and `name`, in a folder of its own.
pub(super) struct Lake {
    folder: TempDir,
    catalog: Catalog,
    table: TableName,
    opened: IcebergTable,
    /// The table as it is.
    pub(super) loaded: Loaded,
    number: u32,
}

impl Lake {
    /// An empty table.
    pub(super) async fn new(version: u8, partition_regex: &str) -> Self {
        let folder = TempDir::new().expect("folder");
        let uri = format!("file://{}", folder.path().join("lake").display());
        let catalog = Catalog::Filesystem(Arc::new(Filesystem::new(&uri, Files::new(StoreOptions::default()))));
        let config = IcebergConfig { format_version: Some(version), ..IcebergConfig::default() };
        let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("pool"));
        let resources = Resources { pool, row_group_bytes: 4 << 20, now: DateTime::UNIX_EPOCH };
        let lake = Iceberg::at(catalog.clone(), config.settings().expect("settings"), resources);
        let columns = vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)];
        let spec = TableSpec {
            database: "d".into(),
            name: "t".into(),
            schema: Arc::new(Schema::new(columns)),
            key: vec!["id".into()],
            partition_regex: partition_regex.into(),
            ..TableSpec::default()
        };
        let opened = lake.open(&spec).await.expect("open");
        let table = TableName { namespace: "d".into(), name: "t".into() };
        let loaded = catalog.load(&table).await.expect("load").expect("a table");
        let mut lake = Self { folder, catalog, table, opened, loaded, number: 0 };
        // The first commit makes the partitions.
        lake.opened.commit(Vec::new(), Token("first".into()), Commit::Append).await.expect("commit");
        lake.reload().await;
        lake
    }

    async fn reload(&mut self) {
        self.loaded = self.catalog.load(&self.table).await.expect("load").expect("a table");
    }

    /// Where indexes are.
    pub(super) fn indexes(&self) -> PathBuf {
        self.folder.path().join("indexes")
    }

    /// A column.
    pub(super) fn field(&self, name: &str) -> NestedFieldRef {
        self.loaded.metadata.current_schema().field_by_name(name).expect("a column").clone()
    }

    /// The index of `id`.
    pub(super) async fn index(&self) -> KeyIndex {
        KeyIndex::open(&self.indexes(), &self.loaded, &[self.field("id")]).await.expect("open the index")
    }

    /// The table's metadata file.
    pub(super) fn metadata(&self) -> String {
        self.loaded.metadata_location.clone()
    }

    /// Files in the table's folder for data.
    pub(super) fn files(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let root = self.loaded.metadata.location().strip_prefix("file://").expect("local");
        let (mut found, mut open) = (Vec::new(), vec![PathBuf::from(root).join("data")]);
        while let Some(folder) = open.pop() {
            for path in std::fs::read_dir(folder).expect("folder").map(|item| item.expect("item").path()) {
                match path.is_dir() {
                    true => open.push(path),
                    false if wanted(path.file_name().and_then(|name| name.to_str()).expect("name")) => found.push(path),
                    false => {}
                }
            }
        }
        found.sort();
        found
    }

    /// Stages rows.
    pub(super) async fn stage(&mut self, rows: &[(i64, String)]) -> IcebergPart {
        self.number += 1;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.1))),
        ];
        let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), columns).expect("batch");
        let name = PartName { generation: "g".into(), sequence: self.number };
        self.opened.stage(name, futures::stream::iter([Ok::<_, Error>(batch)])).await.expect("stage")
    }

    /// Data files for rows.
    pub(super) async fn data(&mut self, rows: &[(i64, String)]) -> BySpec {
        let mut data = BySpec::new();
        if rows.is_empty() {
            return data;
        }
        for file in self.stage(rows).await.files {
            let described = datafile::data(&file, &self.loaded.metadata, false).expect("describe");
            data.entry(described_spec(&self.loaded)).or_default().push(described);
        }
        data
    }

    /// A file of keys.
    pub(super) async fn keys(&mut self, ids: &[i64]) -> String {
        self.number += 1;
        let field = schema::file_field(&self.field("id")).expect("field");
        let schema = Arc::new(Schema::new(vec![field]));
        let column: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
        let batch = RecordBatch::try_new(schema.clone(), vec![column]).expect("batch");
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).expect("writer");
        writer.write(&batch).expect("write");
        writer.close().expect("close");
        let uri = format!("{}/data/keys-{}.parquet", self.loaded.metadata.location(), self.number);
        self.loaded.files.put(&uri, bytes.into()).await.expect("put");
        uri
    }

    /// Commits a change.
    pub(super) async fn commit(&mut self, change: Change) {
        let future = self.loaded.metadata.clone();
        let mut producer = Producer::new(&self.loaded, &future, change);
        let properties = Properties::of(future.properties()).expect("properties");
        let snapshot = Box::pin(producer.snapshot(&self.loaded, &future, &properties)).await.expect("snapshot");
        let reference = SnapshotReference::new(producer.id, SnapshotRetention::branch(None, None, None));
        self.update(vec![
            TableUpdate::AddSnapshot { snapshot },
            TableUpdate::SetSnapshotRef { ref_name: MAIN_BRANCH.to_owned(), reference },
        ])
        .await;
    }

    /// Changes the table's metadata.
    pub(super) async fn update(&mut self, updates: Vec<TableUpdate>) {
        let requirements: Vec<TableRequirement> = Vec::new();
        let committed = self.catalog.commit(&self.table, &self.loaded, requirements, updates).await;
        self.loaded = committed.expect("commit");
    }

    /// Makes an older snapshot the current one.
    pub(super) async fn roll_back(&mut self, snapshot: i64) {
        let reference = SnapshotReference::new(snapshot, SnapshotRetention::branch(None, None, None));
        self.update(vec![TableUpdate::SetSnapshotRef { ref_name: MAIN_BRANCH.to_owned(), reference }]).await;
    }

    /// Commits rows without taking others away.
    pub(super) async fn append(&mut self, rows: Rows) {
        let data = self.data(&rows).await;
        self.commit(Change { data, ..Change::default() }).await;
    }

    /// Commits rows in place of all that are there.
    pub(super) async fn replace(&mut self, rows: Rows) {
        let data = self.data(&rows).await;
        self.commit(Change { data, gone: Gone::Everything, ..Change::default() }).await;
    }

    /// Commits rows in place of those with the same keys, and takes away those with the keys `removed`.
    pub(super) async fn upsert(&mut self, index: &mut KeyIndex, rows: Rows, removed: &[i64]) -> Places {
        let data = self.data(&rows).await;
        let touched: Vec<i64> = rows.iter().map(|row| row.0).chain(removed.iter().copied()).collect();
        let keys = self.keys(&touched).await;
        let keys = [keys];
        let places = index.find(&self.loaded, &keys).await.expect("find");
        let again = index.find(&self.loaded, &keys).await.expect("find");
        let (folder, name) = (format!("{}/data", self.loaded.metadata.location()), format!("{:05}", self.number));
        let (deletes, gone) = match self.loaded.metadata.format_version() {
            FormatVersion::V3 => deletion_vectors(&self.loaded, places, &folder, &name).await.expect("vectors"),
            _ => position_deletes(&self.loaded, &places, &folder, &name, &EncodeOptions::default()).await.expect("deletes"),
        };
        let summary = [summary(&[self.field("id")])].into();
        self.commit(Change { data, deletes, gone, summary }).await;
        again
    }
}

fn described_spec(loaded: &Loaded) -> i32 {
    loaded.metadata.default_partition_spec_id()
}

/// The keys of a file's rows, in their order.
pub(super) fn ids(path: &str) -> Vec<i64> {
    let file = std::fs::File::open(path.strip_prefix("file://").expect("local")).expect("a file");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("parquet").build().expect("reader");
    let mut ids = Vec::new();
    for batch in reader {
        ids.extend(batch.expect("batch").column(0).as_primitive::<Int64Type>().values().iter().copied());
    }
    ids
}
