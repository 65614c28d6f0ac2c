//! Staging into a folder of the local file system, read back with the parquet reader.

use super::super::encode::{Compression, EncodeOptions};
use super::super::roll::{OpenPart, on_pool};
use super::*;
use crate::TableSpec;
use arrow::array::{Array, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use bytes::Bytes;
use futures::stream;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tempfile::TempDir;

/// An error that is not a writer's, to see that it comes out as it went in.
#[derive(Debug)]
enum Failure {
    Source(&'static str),
    Writer(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Writer(e)
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("city", DataType::Utf8, true)]))
}

/// Rows `from..from + count`; the city is `city(id)`.
fn batch(from: i64, count: i64, city: impl Fn(i64) -> Option<String>) -> RecordBatch {
    let ids = Int64Array::from_iter_values(from..from + count);
    let cities = StringArray::from_iter((from..from + count).map(city));
    RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(cities)]).expect("batch")
}

fn name() -> PartName {
    PartName { generation: "g1".into(), sequence: 4 }
}

fn stager(folder: &TempDir, regex: &str, options: EncodeOptions) -> Arc<Stager> {
    let spec = TableSpec { schema: schema(), partition_regex: regex.into(), ..TableSpec::default() };
    let sorter = ByFolder {
        storage: Storage::local(folder.path()),
        staging: Path::from("shop/.staging/orders"),
        columns: 2,
        partition: PartitionExpression::parse(&spec).expect("expression"),
        now: DateTime::UNIX_EPOCH,
    };
    Arc::new(Stager {
        sorter,
        schema: schema(),
        batches: schema(),
        order: crate::order::Order::default(),
        options,
        pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("pool")),
        label: "shop.orders".into(),
    })
}

async fn stage_all(stager: Arc<Stager>, batches: Vec<RecordBatch>) -> ParquetPart {
    // Spawned, because callers spawn it.
    let staging = stage::<_, Failure>(stager, name(), stream::iter(batches.into_iter().map(Ok)));
    tokio::spawn(staging).await.expect("join").expect("stage")
}

fn read(folder: &TempDir, file: &StagedFile) -> Vec<(i64, Option<String>)> {
    let path = folder.path().join(&file.staged);
    assert_eq!(std::fs::metadata(&path).expect("staged file").len(), file.bytes);
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).expect("open")).expect("footer").build();
    let mut rows = Vec::new();
    for batch in reader.expect("reader") {
        let batch = batch.expect("batch");
        let cities = batch.column(1).as_string::<i32>();
        let ids = batch.column(0).as_primitive::<Int64Type>();
        rows.extend((0..batch.num_rows()).map(|i| (ids.value(i), cities.is_valid(i).then(|| cities.value(i).to_owned()))));
    }
    assert_eq!(rows.len() as u64, file.rows);
    rows
}

fn files_below(folder: &std::path::Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.expect("entry").path()).flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn rows_come_back_in_order_with_their_counts() {
    let folder = TempDir::new().expect("folder");
    let city = |id: i64| (id % 3 != 0).then(|| format!("city {id}"));
    let batches = vec![batch(0, 1000, city), batch(1000, 0, city), batch(1000, 7, city)];
    let part = stage_all(stager(&folder, "", EncodeOptions::default()), batches).await;
    assert_eq!((part.rows, part.files.len(), part.stats().rows), (1007, 1, 1007));
    assert_eq!(part.files[0].staged, "shop/.staging/orders/g1-00004-000.parquet.staged");
    assert_eq!(part.files[0].target, "g1-00004-000.parquet");
    assert_eq!(part.stats().bytes, part.files[0].bytes);
    assert_eq!(read(&folder, &part.files[0]), (0..1007).map(|id| (id, city(id))).collect::<Vec<_>>());
    let again: ParquetPart = serde_json::from_str(&serde_json::to_string(&part).expect("json")).expect("part");
    assert_eq!(again, part);
}

#[tokio::test]
async fn no_rows_are_no_file_unless_one_is_asked_for() {
    let folder = TempDir::new().expect("folder");
    for regex in ["", "{city,,}"] {
        let stager = stager(&folder, regex, EncodeOptions::default());
        for batches in [vec![], vec![batch(0, 0, |_| None)]] {
            let part = stage_all(stager.clone(), batches).await;
            assert_eq!((part.rows, part.files.len()), (0, 0));
        }
        assert!(files_below(folder.path()).is_empty());
    }
    let part = empty_file(stager(&folder, "{city,,}", EncodeOptions::default()), name()).await.expect("empty file");
    assert_eq!((part.rows, part.files.len(), part.files[0].target.as_str()), (0, 1, "g1-00004-000.parquet"));
    assert!(read(&folder, &part.files[0]).is_empty());
}

#[tokio::test]
async fn files_roll_at_their_size() {
    let folder = TempDir::new().expect("folder");
    let limit = 200_000;
    let options = EncodeOptions { file_bytes_max: limit, compression: Compression::None, ..EncodeOptions::default() };
    let city = |id: i64| Some(format!("{:032x}", (id as u128).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C834)));
    let batches = (0..40).map(|i| batch(i * 1000, 1000, city)).collect();
    let part = stage_all(stager(&folder, "", options), batches).await;
    assert!(part.files.len() >= 5, "{} files", part.files.len());
    assert!(part.files.iter().all(|file| file.bytes < limit + 60_000), "{:?}", part.files);
    let names: BTreeSet<&str> = part.files.iter().map(|file| file.target.as_str()).collect();
    assert_eq!(names.len(), part.files.len(), "each file has its own name");
    let rows: Vec<_> = part.files.iter().flat_map(|file| read(&folder, file)).collect();
    assert_eq!(rows, (0..40_000).map(|id| (id, city(id))).collect::<Vec<_>>());
}

#[tokio::test]
async fn partitions_hold_their_rows_and_nothing_leaves_its_folder() {
    let folder = TempDir::new().expect("folder");
    let cities = ["Łódź", "a/b", "../../etc", "", "_x", "50%"];
    let city = move |id: i64| cities.get(id as usize % 7).map(|city| (*city).to_owned());
    let options = EncodeOptions { open_files_max: 3, ..EncodeOptions::default() };
    let part = stage_all(stager(&folder, "/city={city,none,}/p", options), (0..6).map(|i| batch(i * 50, 50, city)).collect()).await;
    assert_eq!(part.rows, 300);
    let mut found: BTreeMap<String, Vec<(i64, Option<String>)>> = BTreeMap::new();
    for file in &part.files {
        let (folder_of, file_name) = file.target.rsplit_once('/').expect("a folder");
        assert!(file_name.starts_with("g1-00004-"));
        assert!(Path::parse(&file.target).is_ok(), "{}", file.target);
        found.entry(folder_of.to_owned()).or_default().extend(read(&folder, file));
    }
    let mut expected: BTreeMap<String, Vec<(i64, Option<String>)>> = BTreeMap::new();
    let folders = ["Łódź", "a%2Fb", "..%2F..%2Fetc", "none", "_x", "50%25", "none"];
    for id in 0..300_i64 {
        expected.entry(format!("city={}/p", folders[id as usize % 7])).or_default().push((id, city(id)));
    }
    assert_eq!(found, expected);
    assert!(part.files.len() > 6, "three files at once: the others were finished and begun again");
}

#[tokio::test]
async fn open_partitions_share_the_bound() {
    let folder = TempDir::new().expect("folder");
    let bound = 2 << 20;
    let options = EncodeOptions { row_group_bytes: bound, ..EncodeOptions::default() };
    let stager = stager(&folder, "{city,,}", options);
    let mut part = OpenPart::new(stager, name());
    for i in 0..60 {
        part.write(batch(i * 8000, 8000, |id| Some(format!("{}", id % 10)))).await.expect("write");
        let held = part.held();
        assert!(held < bound, "{held} held");
    }
    let files = part.finish().await.expect("finish");
    assert_eq!((files.iter().map(|file| file.rows).sum::<u64>(), files.len()), (480_000, 10));
}

#[tokio::test]
async fn an_error_of_the_stream_passes_untouched_and_leaves_nothing_visible() {
    let folder = TempDir::new().expect("folder");
    let options = EncodeOptions { file_bytes_max: 1, ..EncodeOptions::default() };
    let city = |_| Some("x".to_owned());
    let batches = stream::iter([Ok(batch(0, 10, city)), Ok(batch(10, 10, city)), Err(Failure::Source("the server went away"))]);
    let outcome = stage(stager(&folder, "", options), name(), batches).await;
    assert!(matches!(outcome, Err(Failure::Source("the server went away"))), "{outcome:?}");
    assert!(files_below(folder.path()).iter().all(|path| path.extension().is_some_and(|e| e == "staged")));
}

#[tokio::test]
async fn dropping_the_future_leaves_no_file_with_a_final_name() {
    let folder = TempDir::new().expect("folder");
    let options = EncodeOptions { file_bytes_max: 1, ..EncodeOptions::default() };
    let endless = stream::iter((0..3).map(|i| Ok::<_, Failure>(batch(i * 10, 10, |_| None)))).chain_pending();
    let staging = stage(stager(&folder, "{city,,}", options), name(), endless);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), staging).await.is_err(), "still waiting for the stream");
    let files = files_below(folder.path());
    assert!(files.iter().all(|path| path.extension().is_some_and(|e| e == "staged")), "{files:?}");
}

/// A stream that, after its items, neither ends nor fails.
trait ChainPending: Stream + Sized {
    fn chain_pending(self) -> stream::Chain<Self, stream::Pending<Self::Item>> {
        futures::StreamExt::chain(self, stream::pending())
    }
}
impl<S: Stream> ChainPending for S {}

#[tokio::test]
async fn staging_again_replaces() {
    let folder = TempDir::new().expect("folder");
    let stager = stager(&folder, "", EncodeOptions::default());
    stage_all(stager.clone(), vec![batch(0, 100, |_| None)]).await;
    let part = stage_all(stager, vec![batch(500, 10, |_| None)]).await;
    assert_eq!(read(&folder, &part.files[0]).len(), 10);
    assert_eq!(files_below(folder.path()).len(), 1);
}

#[tokio::test]
async fn a_batch_of_another_table_is_refused_by_name() {
    let folder = TempDir::new().expect("folder");
    let other = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1])) as arrow::array::ArrayRef)]).expect("batch");
    let outcome = stage::<_, Failure>(stager(&folder, "", EncodeOptions::default()), name(), stream::iter([Ok(other)])).await;
    let Err(Failure::Writer(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.kind(), Kind::Bug);
    assert!(error.to_string().starts_with("stage part g1-00004 of shop.orders: a batch has other columns"), "{error}");
}

#[tokio::test]
async fn one_batch_is_read_ahead_and_no_more() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let folder = TempDir::new().expect("folder");
    let alive = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    /// Counts the batches whose memory is still referenced.
    struct Counted(Vec<u8>, Arc<AtomicUsize>);
    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (seen, highest) = (alive.clone(), most.clone());
    let batches = stream::iter(0..20_i64).map_counted(move |i| {
        highest.fetch_max(seen.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let bytes: Vec<u8> = (i * 1000..(i + 1) * 1000).flat_map(i64::to_le_bytes).collect();
        let buffer = arrow::buffer::Buffer::from(Bytes::from_owner(Counted(bytes, seen.clone())));
        let ids = Int64Array::new(arrow::buffer::ScalarBuffer::new(buffer, 0, 1000), None);
        let cities = arrow::array::new_null_array(&DataType::Utf8, 1000);
        Ok::<_, Failure>(RecordBatch::try_new(schema(), vec![Arc::new(ids), cities]).expect("batch"))
    });
    let part = stage(stager(&folder, "", EncodeOptions::default()), name(), batches).await.expect("stage");
    assert_eq!(part.rows, 20_000);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

/// `StreamExt::map`, without the rest of that trait next to `TryStreamExt`.
trait MapCounted: Stream + Sized {
    fn map_counted<T, F: FnMut(Self::Item) -> T>(self, f: F) -> stream::Map<Self, F> {
        futures::StreamExt::map(self, f)
    }
}
impl<S: Stream> MapCounted for S {}

#[tokio::test]
async fn a_panic_while_encoding_is_an_error() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("pool");
    let outcome: Result<()> = on_pool(&pool, || panic!("broken")).await;
    assert_eq!(outcome.expect_err("panicked").kind(), Kind::Bug);
    assert_eq!(on_pool(&pool, || Ok(1)).await.expect("the pool lives"), 1);
}
