//! A real pgBouncer before a server, as a child of the test process.

use super::postgres::{Database, unprivileged};
use super::{free_port, skip, wait_until};
use std::fs;
use std::os::unix::fs::chown;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A running pooler; stopped when dropped.
pub struct Pooler {
    /// Its port on 127.0.0.1.
    pub port: u16,
    process: Child,
    _home: TempDir,
}

impl Pooler {
    /// A pooler for `database` that lends at most `size` server connections per `mode` (`session`, `transaction`, `statement`);
    /// `None` where there is no pgBouncer and none is required.
    pub fn start(database: &Database, mode: &str, size: usize) -> Option<Self> {
        // Debian has it where an ordinary user's PATH does not lead.
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"]
            .into_iter()
            .find(|path| fs::exists(path).is_ok_and(|is| is));
        let Some(program) = program else {
            assert!(std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: no pgbouncer is installed");
            skip("no pgbouncer is installed");
            return None;
        };
        let home = tempfile::Builder::new().prefix("lakeward-pool-").tempdir_in("/var/tmp").expect("make the pooler's home");
        let port = free_port();
        let file = home.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]\n* = host={} port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {mode}\ndefault_pool_size = {size}\nlogfile = {}\n",
            database.home.display(),
            database.port,
            home.path().join("log").display()
        );
        fs::write(&file, settings).expect("write the pooler's settings");
        let mut command = match unprivileged() {
            Some((uid, gid)) => {
                chown(home.path(), Some(uid), Some(gid)).expect("give the home to the pooler's user");
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups", "--pdeathsig=KILL", program]);
                command
            }
            None => Command::new(program),
        };
        let process = command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start pgbouncer");
        let pooler = Self { port, process, _home: home };
        wait_until("pgbouncer listens", 20, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(pooler)
    }

    /// The database as it is reached through the pooler.
    pub fn before(&self, database: &Database) -> Database {
        Database { home: "127.0.0.1".into(), port: self.port, name: database.name.clone() }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
