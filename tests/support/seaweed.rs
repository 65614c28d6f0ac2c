//! SeaweedFS: a REST catalog and the object store of its tables, as a child of the test process.

use super::{cache, free_ports, wait_until};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// A running server, which admits everybody; stopped when dropped, or when the test process ends.
pub struct Seaweed {
    catalog: String,
    store: String,
    /// Of the command line.
    arguments: Vec<String>,
    process: Mutex<Child>,
    data: PathBuf,
    /// Removes the data when its standard input ends, which it does with the test process.
    _sweeper: Child,
}

impl Seaweed {
    /// One for all tests of the process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Seaweed> = OnceLock::new();
        // It ends with the thread that has started it (PR_SET_PDEATHSIG).
        let start = || {
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                tell.send(Self::start()).expect("tell of SeaweedFS");
                loop {
                    std::thread::park();
                }
            });
            told.recv().expect("SeaweedFS")
        };
        SHARED.get_or_init(start)
    }

    /// One for one test alone, which may kill it.
    pub fn start() -> Self {
        let data = tempfile::Builder::new().prefix("lakeward-weed-").tempdir().expect("make the store's folder").keep();
        let mut sweeper = Command::new("sh");
        sweeper.args(["-c", "cat; sleep 1; rm -rf \"$1\"", "sweeper"]).arg(&data).stdin(Stdio::piped());
        let mut arguments = vec!["mini".to_owned(), format!("-dir={}", data.display())];
        arguments.extend(
            ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false", "-tableBucket=lake", "-s3.port.lance=0"]
                .map(str::to_owned),
        );
        let names = ["s3.port.iceberg", "s3.port", "master.port", "volume.port", "filer.port", "admin.port"];
        let names = names.into_iter().chain(["s3.port.grpc", "master.port.grpc", "volume.port.grpc", "filer.port.grpc", "admin.port.grpc"]);
        let ports = free_ports::<11>();
        arguments.extend(names.zip(ports).map(|(name, port)| format!("-{name}={port}")));
        let [catalog, store, ..] = ports;
        let [catalog, store] = [catalog, store].map(|port| format!("http://127.0.0.1:{port}"));
        arguments.push(format!("-s3.externalUrl={store}"));
        let process = Mutex::new(spawn(&arguments, &data));
        let server = Self { catalog, store, arguments, process, data, _sweeper: sweeper.spawn().expect("start sh") };
        server.wait();
        server
    }

    /// It dies (SIGKILL).
    pub fn die(&self) {
        let mut process = self.process.lock().expect("the process");
        process.kill().expect("kill SeaweedFS");
        process.wait().expect("wait for SeaweedFS");
    }

    /// It does nothing until it is revived.
    pub fn halt(&self) {
        self.signal("STOP");
    }

    /// Goes on if it was halted; starts again if it has died.
    pub fn revive(&self) {
        self.signal("CONT");
        let mut process = self.process.lock().expect("the process");
        if process.try_wait().expect("look at SeaweedFS").is_some() {
            *process = spawn(&self.arguments, &self.data);
            drop(process);
            self.wait();
        }
    }

    fn signal(&self, name: &str) {
        let id = self.process.lock().expect("the process").id();
        // One that is dead hears nothing.
        let _ = Command::new("kill").args(["-s", name, &id.to_string()]).stderr(Stdio::null()).status();
    }

    fn wait(&self) {
        // The bucket comes last.
        wait_until("SeaweedFS has its bucket", 120, || self.answers("/v1/lake/namespaces"));
    }

    /// Whether the catalog has an answer to a request.
    fn answers(&self, path: &str) -> bool {
        let address = self.catalog.trim_start_matches("http://");
        let ask = || -> std::io::Result<String> {
            let mut socket = TcpStream::connect(address)?;
            write!(socket, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
    }

    /// The keys of a destination's `writer`.
    pub fn writer(&self) -> Value {
        json!({
            "catalog_type": "rest", "rest_catalog_url": self.catalog, "iceberg_s3_path": "s3://lake",
            "s3_endpoint": self.store, "aws_region": "us-east-1", "aws_access_key": "any", "aws_secret_key": "key",
        })
    }

    /// A table as readers find it (`lakes.py`).
    pub fn lake(&self, namespace: &str, table: &str) -> Value {
        let catalog = json!({
            "type": "rest", "auth": {"type": "noop"}, "uri": self.catalog, "warehouse": "s3://lake", "s3.endpoint": self.store, "s3.region": "us-east-1",
            "s3.access-key-id": "any", "s3.secret-access-key": "key",
        });
        json!({"catalog": catalog, "table": format!("{namespace}.{table}")})
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        self.die();
    }
}

fn spawn(arguments: &[String], data: &Path) -> Child {
    let program = std::env::var_os("LAKEWARD_SEAWEEDFS").map_or_else(|| cache().join("venv/bin/weed"), PathBuf::from);
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=KILL").arg(&program).args(arguments).current_dir(data);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|e| panic!("start {}: {e}; ./build.sh test installs it", program.display()))
}
