//! A private PostgreSQL for the tests of this folder, and certificates made by the `openssl` program.
//!
//! The server runs as a child process under a user other than root, in a temporary directory that goes
//! with it. Tests share one while any of them holds it.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::connect::{ConnectOptions, Host, SslMode, TlsOptions};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use std::{fs, net, thread};
use tempfile::TempDir;
use writers::Secret;

/// Who may come in how; the name of a user says what it is for. `host` lines name 127.0.0.1 only.
fn hba(programs: &Path) -> String {
    let mut lines = vec!["local all all trust".to_owned()];
    for (kind, user, method) in [
        ("host", "postgres", "trust"),
        ("host", "scram_user", "scram-sha-256"),
        ("host", "md5_user", "md5"),
        ("host", "clear_user", "password"),
        ("hostssl", "tls_only", "scram-sha-256"),
        ("hostnossl", "plain_only", "scram-sha-256"),
        ("hostssl", "cert_user", "cert"),
        ("host", "gss_user", "gss"),
    ] {
        // What is not Debian's has been built without it, and refuses its name.
        if method != "gss" || programs.starts_with("/usr/lib") {
            lines.push(format!("{kind} all {user} 127.0.0.1/32 {method}"));
        }
    }
    lines.join("\n") + "\n"
}

/// The password of every user.
pub const PASSWORD: &str = "pass word'\"\\ü";

/// A running server.
pub struct Server {
    directory: TempDir,
    port: u16,
    process: Child,
    authority: Authority,
}

impl Server {
    /// The shared server, started if nobody holds it.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::own());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// One for a test alone, which may stop it.
    pub fn own() -> Self {
        Self::start(&server_programs())
    }

    /// One of each other major that the end-to-end tests have fetched (`./build.sh e2e`): the version, and the server.
    pub fn majors() -> impl Iterator<Item = (u32, Self)> {
        let found = (10..30).filter_map(|major| Some((major, embedded(major)?)));
        found.map(|(major, programs)| (major, Self::start(&programs)))
    }

    fn start(bin: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("wire").tempdir().unwrap();
        let root = directory.path();
        let authority = Authority::new();
        let server = authority.issue("localhost", Some("subjectAltName=DNS:localhost"));
        fs::copy(&server.key_path, root.join("server.key")).unwrap();
        fs::write(root.join("server.crt"), &server.pem).unwrap();
        fs::write(root.join("ca.crt"), &authority.pem).unwrap();
        run(Command::new("chmod").args(["600", "server.key"]).current_dir(root));
        if as_root() {
            run(Command::new("chown").args(["-R", "postgres:postgres"]).arg(root));
        }
        run(unprivileged(&bin.join("initdb"))
            .args(["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8", "-D"])
            .arg(root.join("data")));
        fs::write(root.join("data/pg_hba.conf"), hba(bin)).unwrap();
        let port = net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = |name: &str| root.join(name).to_str().unwrap().to_owned();
        let mut command = unprivileged(&bin.join("postgres"));
        command.arg("-D").arg(root.join("data"));
        for (name, value) in [
            ("port", port.to_string()),
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", root.to_str().unwrap().to_owned()),
            ("fsync", "off".to_owned()),
            ("shared_buffers", std::env::var("TEST_SHARED_BUFFERS").unwrap_or_else(|_| "128MB".to_owned())),
            ("wal_level", "logical".to_owned()),
            ("max_wal_senders", "30".to_owned()),
            ("max_replication_slots", "30".to_owned()),
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", file("server.crt")),
            ("ssl_key_file", file("server.key")),
            ("ssl_ca_file", file("ca.crt")),
        ] {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let log = fs::File::create(root.join("log")).unwrap();
        let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = Self { directory, port, process, authority };
        server.create_users();
        server
    }

    /// Waits for the server, and creates the users with `psql`: the clients under test are not trusted yet.
    fn create_users(&self) {
        let quoted = PASSWORD.replace('\'', "''");
        let mut sql = String::new();
        for (user, encryption) in [
            ("scram_user", "scram-sha-256"),
            ("md5_user", "md5"),
            ("clear_user", "md5"),
            ("tls_only", "scram-sha-256"),
            ("plain_only", "scram-sha-256"),
            ("cert_user", "md5"),
            ("gss_user", "md5"),
        ] {
            sql += &format!("SET password_encryption = '{encryption}'; CREATE ROLE {user} LOGIN PASSWORD '{quoted}';");
        }
        for _ in 0..200 {
            let psql = Command::new("psql")
                .args(["-X", "-q", "-U", "postgres", "-d", "postgres", "-h"])
                .arg(self.directory.path())
                .args(["-p", &self.port.to_string(), "-v", "ON_ERROR_STOP=1", "-c", &sql])
                .stderr(Stdio::null())
                .status()
                .unwrap();
            if psql.success() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("the server did not start: {}", fs::read_to_string(self.directory.path().join("log")).unwrap());
    }

    /// Ends the server without waiting for it: at once, as `pg_ctl stop -m immediate` does, or in good order, as `-m fast` does.
    pub fn stop(&self, at_once: bool) {
        let signal = if at_once { "-QUIT" } else { "-INT" };
        run(Command::new("kill").args([signal, &self.process.id().to_string()]));
    }

    /// The certificate authority that signed the server's certificate (which is for `localhost`) and is trusted for clients.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The server's TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The Unix socket.
    pub fn unix(&self) -> Host {
        Host::Unix(self.directory.path().to_owned(), self.port)
    }

    /// 127.0.0.1.
    pub fn tcp(&self) -> Host {
        Host::Tcp("127.0.0.1".to_owned(), self.port)
    }

    /// Options for `user` at `host`, with the right password and without TLS.
    pub fn options(&self, host: Host, user: &str) -> ConnectOptions {
        ConnectOptions {
            hosts: vec![host],
            database: "postgres".to_owned(),
            user: user.to_owned(),
            password: Some(Secret::new(PASSWORD)),
            tls: TlsOptions { mode: SslMode::Disable, server_ca: None, client_cert: None, client_key: None },
            application_name: "lakeward test".to_owned(),
            connect_timeout: Duration::from_secs(20),
            statement_timeout: Duration::ZERO,
            lock_timeout: Duration::ZERO,
            keepalive: super::transport::Keepalive::default(),
            tunnel: None,
            parameters: Vec::new(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGQUIT: at once, the data goes away anyhow. A child killed outright would leave its own children behind.
        let _ = Command::new("kill").args(["-QUIT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

/// Whether OpenSSH's tool is there, which makes keys for the tests of tunnels.
pub fn has_ssh_keygen() -> bool {
    let found = Command::new("ssh-keygen").arg("-l").stdin(Stdio::null()).output().is_ok();
    assert!(found || std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: there is no ssh-keygen");
    found
}

/// A certificate and its key.
pub struct Issued {
    /// PEM text of the certificate.
    pub pem: String,
    /// Its bytes.
    pub der: Vec<u8>,
    /// PEM text of the key.
    pub key: String,
    key_path: PathBuf,
}

/// A certificate authority.
pub struct Authority {
    directory: TempDir,
    /// PEM text of its certificate.
    pub pem: String,
    /// A certificate that vouches for itself.
    pub itself: Issued,
}

impl Authority {
    /// A new authority.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("ca").tempdir().unwrap();
        let itself = self_signed(directory.path(), "Test CA");
        Self { pem: itself.pem.clone(), itself, directory }
    }

    /// Issues a certificate for 30 days. Without `extension` it is one of X.509 version 1.
    pub fn issue(&self, common_name: &str, extension: Option<&str>) -> Issued {
        let root = self.directory.path();
        let name = format!("{common_name}-{}", extension.unwrap_or("v1").replace(['/', '*'], "_"));
        let file = |suffix: &str| root.join(format!("{name}.{suffix}"));
        openssl(
            root,
            &["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", &format!("/O=Test/CN={common_name}")],
        )
        .args(["-keyout"])
        .arg(file("key"))
        .arg("-out")
        .arg(file("csr"))
        .succeed();
        let mut sign = openssl(root, &["x509", "-req", "-days", "30", "-CA", "Test CA.crt", "-CAkey", "Test CA.key", "-CAcreateserial"]);
        sign.arg("-in").arg(file("csr")).arg("-out").arg(file("crt"));
        if let Some(extension) = extension {
            fs::write(file("ext"), extension).unwrap();
            sign.arg("-extfile").arg(file("ext"));
        }
        sign.succeed();
        issued(file("crt"), file("key"))
    }
}

fn self_signed(root: &Path, common_name: &str) -> Issued {
    let file = |suffix: &str| root.join(format!("{common_name}.{suffix}"));
    openssl(
        root,
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
            "-subj",
            &format!("/CN={common_name}"),
        ],
    )
    .arg("-keyout")
    .arg(file("key"))
    .arg("-out")
    .arg(file("crt"))
    .succeed();
    issued(file("crt"), file("key"))
}

fn issued(cert: PathBuf, key: PathBuf) -> Issued {
    let pem = fs::read_to_string(cert).unwrap();
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    Issued { pem, der, key: fs::read_to_string(&key).unwrap(), key_path: key }
}

fn openssl(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments).current_dir(root);
    command
}

trait Succeed {
    fn succeed(&mut self);
}

impl Succeed for Command {
    fn succeed(&mut self) {
        run(self);
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn as_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}

fn unprivileged(program: &Path) -> Command {
    if !as_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program).current_dir("/");
    command
}

/// The newest server that Debian has installed.
fn server_programs() -> PathBuf {
    let mut versions: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").expect("install the package postgresql").map(|e| e.unwrap().path()).collect();
    versions.sort();
    versions.pop().expect("install the package postgresql").join("bin")
}

/// Where the end-to-end tests keep the programs of a major.
fn embedded(major: u32) -> Option<PathBuf> {
    let cache = std::env::var_os("LAKEWARD_CACHE").map_or_else(|| PathBuf::from("/var/cache/lakeward"), PathBuf::from);
    let bin = cache.join(format!("embedded/pg{major}/package/native/bin"));
    bin.join("postgres").exists().then_some(bin)
}
