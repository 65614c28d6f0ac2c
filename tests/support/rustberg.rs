//! rustberg: a REST catalog that commits several tables together, as a child of the test process.

use super::readback::python;
use super::{cache, free_port, skip, wait_until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running server; stopped when dropped.
pub struct Rustberg {
    endpoint: String,
    process: Child,
}

impl Rustberg {
    /// A server with its tables below `warehouse`; `None` where it is not installed: it takes long to compile, and `./build.sh interop` does.
    pub fn start(warehouse: &Path) -> Option<Self> {
        let program = std::env::var_os("LAKEWARD_RUSTBERG").map_or_else(|| cache().join("tools/bin/rustberg"), PathBuf::from);
        if !program.exists() {
            skip("there is no rustberg; ./build.sh interop compiles it");
            return None;
        }
        let port = free_port();
        // It must not outlive a test process that is killed.
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=KILL").arg(program);
        command.args([
            "--dev",
            "--no-auth",
            "--insecure-http",
            "--host",
            "127.0.0.1",
            "--catalog-url",
            "memory://",
            "-p",
            &port.to_string(),
        ]);
        command.args(["-w", &format!("file://{}", warehouse.display())]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start rustberg");
        let server = Self { endpoint: format!("http://127.0.0.1:{port}"), process };
        wait_until("rustberg listens", 60, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(server)
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The `id` column of each table in `namespace` as PyIceberg reads it, sorted; `null` for a table that has no snapshot.
    #[track_caller]
    pub fn ids(&self, namespace: &str) -> Value {
        let script = "
import json, sys
from pyiceberg.catalog import load_catalog
job = json.load(sys.stdin)
catalog = load_catalog('lake', type='rest', uri=job['uri'])
def ids(name):
    table = catalog.load_table(name)
    return table.current_snapshot() and sorted(table.scan().to_arrow()['id'].to_pylist())
print(json.dumps({name[-1]: ids(name) for name in catalog.list_tables(job['namespace'])}))";
        python(script, &json!({"uri": self.endpoint, "namespace": namespace}))
    }
}

impl Drop for Rustberg {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
