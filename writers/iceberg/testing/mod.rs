//! What tests of several catalogs need: PyIceberg as a second writer and reader, a private PostgreSQL, ports, skipping.

use super::io::Files;
use super::{Iceberg, IcebergConfig};
use crate::conformance::Subject;
use crate::storage::StoreOptions;
use crate::{Commit, Destination, Error, PartName, Result, Table, TableSpec, Token};
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use futures::FutureExt;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Says that something was not tested, unless everything has to be.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: {why}");
    eprintln!("not tested: {why}");
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address").port()
}

/// Waits until somebody listens.
pub(crate) fn wait_for(port: u16, child: &mut Child, patience: Duration) {
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < patience, "nobody listens on port {port}");
        assert!(child.try_wait().expect("a child").is_none(), "the server has ended");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<_> = self.0.wait();
    }
}

/// Where `build.sh` keeps the tools of tests.
pub(crate) fn cache() -> PathBuf {
    match std::env::var_os("LAKEWARD_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/lakeward"),
    }
}

/// The Python that has the readers.
pub(crate) fn python() -> PathBuf {
    std::env::var_os("LAKEWARD_PYTHON").map_or_else(|| cache().join("venv/bin/python"), PathBuf::from)
}

/// Whether that Python has a module; if not, the test is skipped.
pub(crate) fn has(module: &str) -> bool {
    let found = Command::new(python()).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        skip(&format!("{} cannot import {module}", python().display()));
    }
    found
}

/// PyIceberg in a process of its own, with one catalog open.
#[derive(Clone)]
pub(crate) struct Peer(Arc<Mutex<Pipes>>);

struct Pipes {
    _child: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// `None`, with a reason, where it is not installed.
    pub(crate) fn open(catalog: &str, properties: Value) -> Option<Self> {
        if !has("pyiceberg.catalog, pyarrow") {
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("iceberg/testing/peer.py");
        let mut child =
            Command::new(python()).arg("-B").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("PyIceberg starts");
        let (input, output) = (child.stdin.take().expect("input"), BufReader::new(child.stdout.take().expect("output")));
        let peer = Self(Arc::new(Mutex::new(Pipes { _child: Running(child), input, output })));
        peer.ask(json!({"do": "open", "name": catalog, "properties": properties}));
        Some(peer)
    }

    /// What it answers; an error of its own is one of the test.
    pub(crate) fn ask(&self, what: Value) -> Value {
        let mut pipes = self.0.lock().expect("PyIceberg");
        writeln!(pipes.input, "{what}").expect("ask PyIceberg");
        let mut line = String::new();
        pipes.output.read_line(&mut line).expect("an answer of PyIceberg");
        let mut answer: Value = serde_json::from_str(&line).expect("JSON");
        assert!(answer["error"].is_null(), "{what}: {}", answer["error"]);
        answer["ok"].take()
    }

    pub(crate) fn append(&self, table: &str, ids: &[i64]) {
        self.ask(json!({"do": "append", "table": table, "ids": ids}));
    }

    pub(crate) fn rows(&self, table: &str) -> Vec<i64> {
        serde_json::from_value(self.ask(json!({"do": "rows", "table": table}))).expect("numbers")
    }
}

/// A catalog as configured, by keys as a user writes them.
pub(crate) async fn lake(keys: Value) -> Iceberg {
    let config: IcebergConfig = serde_json::from_value(keys).expect("keys");
    config.validate().expect("a configuration that can work");
    Iceberg::open(&config, super::tests::resources()).await.expect("a catalog")
}

/// A table with one column `id`.
pub(crate) fn spec(namespace: &str, name: &str, writer: &str) -> TableSpec {
    TableSpec { database: namespace.into(), writer: writer.into(), ..crate::conformance::spec(name) }
}

/// Appends rows with a token of their own, by a table that is opened for it.
pub(crate) async fn append(lake: &Iceberg, spec: &TableSpec, token: &str, ids: &[i64]) -> Result<()> {
    let mut table = lake.open(spec).await?;
    let batch = RecordBatch::try_new(spec.schema.clone(), vec![Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef]).expect("a batch");
    let part = table.stage(PartName { generation: token.into(), sequence: 0 }, futures::stream::iter([Ok::<_, Error>(batch)])).await?;
    table.commit(vec![part], Token(token.into()), Commit::Append).await
}

/// The rows that our own preview finds.
pub(crate) async fn rows(lake: &Iceberg, spec: &TableSpec) -> Vec<i64> {
    crate::conformance::ids(&lake.preview(&spec.database, &spec.name, 1_000_000).await.expect("preview"))
}

/// A way to open a catalog whose files are given.
pub(crate) type Open = Arc<dyn Fn(Files) -> Iceberg + Send + Sync>;

/// The contract's subject: a catalog with a warehouse in a local folder.
pub(crate) fn subject(root: &Path, open: Open) -> Subject<Iceberg> {
    let root = root.to_owned();
    let plain: Arc<dyn Fn() -> Iceberg + Send + Sync> = {
        let open = open.clone();
        Arc::new(move || open(Files::new(StoreOptions::default())))
    };
    let (fresh, reading, looking) = (plain.clone(), plain.clone(), plain);
    Subject {
        fresh: Box::new(move || {
            let fresh = fresh.clone();
            async move { fresh() }.boxed()
        }),
        dying: Some(Box::new(move |count| {
            let open = open.clone();
            async move { open(Files::failing_after(count)) }.boxed()
        })),
        rows: Box::new(move |spec| {
            let lake = reading();
            async move { super::tests::rows(&lake, spec).await }.boxed()
        }),
        leftovers: Box::new(move |spec| {
            let (lake, root) = (looking(), root.clone());
            async move { super::tests::leftovers(&lake, root, spec).await }.boxed()
        }),
        replaces_in_one_step: true,
        decides_in_one_step: true,
    }
}

/// A PostgreSQL server of the test's own; `None`, with a reason, where there are no programs for it.
pub(crate) struct Server {
    _server: Running,
    folder: TempDir,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start(settings: &[&str]) -> Option<Self> {
        let Some(programs) = programs() else {
            skip("no PostgreSQL server is installed");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("lakeward-pg-").tempdir_in("/tmp").expect("a folder");
        let user = |program: &Path| {
            if !root() {
                return Command::new(program);
            }
            // PostgreSQL refuses to run as root.
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        };
        if root() {
            let owned = Command::new("chown").arg("postgres:").arg(folder.path()).status().expect("chown");
            assert!(owned.success(), "there is no user postgres");
        }
        let data = folder.path().join("data");
        let made = user(&programs.join("initdb"))
            .current_dir("/")
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8"])
            .stdout(Stdio::null())
            .status()
            .expect("initdb");
        assert!(made.success(), "initdb");
        let port = free_port();
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = user(&programs.join("postgres"));
        command.current_dir("/").arg("-D").arg(&data).args([
            "-p",
            &port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
        ]);
        command.arg("-k").arg(folder.path()).stderr(log);
        for setting in settings {
            command.args(["-c", &setting.replace("{}", &folder.path().display().to_string())]);
        }
        let mut server = command.spawn().expect("postgres");
        wait_for(port, &mut server, Duration::from_secs(60));
        // It listens before it takes anybody in.
        let begun = Instant::now();
        let ready = || Command::new(programs.join("pg_isready")).args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]).status();
        while !ready().expect("pg_isready").success() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the server does not get ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { _server: Running(server), folder, port })
    }

    /// The URL of a database, as JDBC writes it.
    pub(crate) fn url(&self, database: &str, more: &str) -> String {
        format!("jdbc:postgresql://127.0.0.1:{}/{database}?user=postgres{more}", self.port)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another connection.
    pub(crate) async fn connect(&self) -> tokio_postgres::Client {
        let config = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        let begun = Instant::now();
        loop {
            match tokio_postgres::connect(&config, tokio_postgres::NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(30), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
}

fn programs() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let major = entry.file_name().to_str()?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .filter(|(_, programs)| programs.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, programs)| programs)
}
