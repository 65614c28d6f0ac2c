//! SSH servers before a database: a real OpenSSH as a child of the test process, and for logins by password, which OpenSSH
//! compares with the passwords of the machine, a small one inside the process.

use super::postgres::is_root;
use super::{free_port, skip, wait_until};
use russh::keys::{Algorithm, PrivateKey};
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Response, Session};
use russh::{Channel, MethodKind, MethodSet};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

const SSHD: &str = "/usr/sbin/sshd";

/// A running sshd that lets the current user in with the key `user`. Killed when dropped, with all its connections.
pub struct Bastion {
    /// Its port on 127.0.0.1.
    pub port: u16,
    home: TempDir,
    process: Child,
}

impl Bastion {
    /// A server with further lines for its configuration; `None` where there is no OpenSSH and none is required.
    pub fn start(lines: &str) -> Option<Self> {
        if !Path::new(SSHD).exists() {
            assert!(std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: no OpenSSH server is installed");
            skip("no OpenSSH server is installed");
            return None;
        }
        let home = tempfile::Builder::new().prefix("lakeward-ssh-").tempdir_in("/var/tmp").expect("make the server's home");
        let port = free_port();
        let at = home.path().display();
        // What stands first counts.
        let settings = format!(
            "{lines}\nPort {port}\nListenAddress 127.0.0.1\nHostKey {at}/host_ed25519\nHostKey {at}/host_rsa\nAuthorizedKeysFile {at}/authorized_keys\n\
             StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             LogLevel VERBOSE\n"
        );
        fs::write(home.path().join("sshd_config"), settings).expect("write the server's settings");
        for name in ["host_ed25519", "user"] {
            make_key(home.path(), name, &["-t", "ed25519"], "");
        }
        make_key(home.path(), "host_rsa", &["-t", "rsa", "-b", "2048"], "");
        if is_root() {
            fs::create_dir_all("/run/sshd").expect("make sshd's empty directory");
        }
        let process = launch(home.path());
        let bastion = Self { port, home, process };
        bastion.let_in("user");
        bastion.wait();
        Some(bastion)
    }

    /// Makes a key pair in the server's home and gives the path of the private half.
    pub fn key(&self, name: &str, options: &[&str], passphrase: &str) -> PathBuf {
        make_key(self.home.path(), name, options, passphrase);
        self.home.path().join(name)
    }

    /// Lets the owner of a key in.
    pub fn let_in(&self, name: &str) {
        let line = fs::read_to_string(self.home.path().join(format!("{name}.pub"))).expect("read a public key");
        let path = self.home.path().join("authorized_keys");
        let before = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, before + &line).expect("write authorized_keys");
    }

    /// `ssh_config` with the key `user`, and the server's own key pinned.
    pub fn config(&self) -> Value {
        json!({
            "host": "127.0.0.1", "port": self.port, "username": user(), "private_key": self.home.path().join("user"),
            "host_key": self.host_key("ed25519"),
        })
    }

    /// The line of a host key: `ed25519` or `rsa`.
    pub fn host_key(&self, kind: &str) -> String {
        fs::read_to_string(self.home.path().join(format!("host_{kind}.pub"))).expect("read the host key").trim().to_owned()
    }

    /// Its fingerprint, as `ssh-keygen` prints it.
    pub fn fingerprint(&self, kind: &str) -> String {
        let output = Command::new("ssh-keygen").arg("-lf").arg(self.home.path().join(format!("host_{kind}.pub"))).output();
        let text = String::from_utf8(output.expect("run ssh-keygen").stdout).expect("text");
        text.split(' ').nth(1).expect("a fingerprint").to_owned()
    }

    /// Logins so far.
    pub fn logins(&self) -> usize {
        self.log().matches("Accepted publickey for").count()
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// Kills the server and all its connections.
    pub fn kill(&mut self) {
        for id in descendants(self.process.id()) {
            let _ = Command::new("kill").args(["-KILL", &id.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts a server that was killed, on the same port.
    pub fn start_again(&mut self) {
        self.process = launch(self.home.path());
        self.wait();
    }

    fn wait(&self) {
        wait_until("sshd listens", 20, || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }
}

impl Drop for Bastion {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(home: &Path) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig=KILL", SSHD, "-D", "-f"]).arg(home.join("sshd_config")).arg("-E").arg(home.join("log"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().expect("start sshd")
}

fn make_key(home: &Path, name: &str, options: &[&str], passphrase: &str) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-C", "test"]).args(options).args(["-N", passphrase, "-f"]).arg(home.join(name));
    assert!(command.stdin(Stdio::null()).status().expect("run ssh-keygen").success(), "make the key {name}");
}

/// The name of the current user.
pub fn user() -> String {
    let output = Command::new("id").arg("-un").output().expect("run id");
    String::from_utf8(output.stdout).expect("a name").trim().to_owned()
}

/// Processes that a process has started, and theirs: each connection has some, in sessions of their own.
fn descendants(of: u32) -> Vec<u32> {
    let parent = |id: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let all = fs::read_dir("/proc").expect("list processes").flatten();
    let pairs: Vec<(u32, u32)> =
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(|id| Some((id, parent(id)?))).collect();
    let mut found = vec![of];
    let mut done = 0;
    while done < found.len() {
        let next = found[done];
        found.extend(pairs.iter().filter(|(_, parent)| *parent == next).map(|(id, _)| *id));
        done += 1;
    }
    found.split_off(1)
}

/// The password of [`PasswordBastion`].
pub const PASSWORD: &str = "opens the bastion";

/// An SSH server that takes a password, by one of the two methods for it. It stops when dropped.
pub struct PasswordBastion {
    /// Its port on 127.0.0.1.
    pub port: u16,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Clone)]
struct Gatekeeper {
    method: MethodKind,
}

impl PasswordBastion {
    /// A server that takes [`PASSWORD`] of any user by `password` or `keyboard-interactive`.
    pub fn start(method: MethodKind) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("start a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("listen");
        let port = listener.local_addr().expect("the address").port();
        let config = Arc::new(russh::server::Config {
            keys: vec![PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).expect("make a host key")],
            methods: MethodSet::from(&[method][..]),
            auth_rejection_time: std::time::Duration::from_millis(10),
            ..Default::default()
        });
        let gatekeeper = Gatekeeper { method };
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (config, gatekeeper) = (config.clone(), gatekeeper.clone());
                tokio::spawn(async move {
                    if let Ok(session) = russh::server::run_stream(config, socket, gatekeeper).await {
                        let _ = session.await;
                    }
                });
            }
        });
        Self { port, _runtime: runtime }
    }

    /// `ssh_config` for it.
    pub fn config(&self) -> Value {
        json!({"host": "127.0.0.1", "port": self.port, "username": "ann", "password": PASSWORD})
    }
}

impl Handler for Gatekeeper {
    type Error = russh::Error;

    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, Self::Error> {
        Ok(if self.method == MethodKind::Password && password == PASSWORD { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_keyboard_interactive<'a>(&'a mut self, _: &str, _: &str, response: Option<Response<'a>>) -> Result<Auth, Self::Error> {
        if self.method != MethodKind::KeyboardInteractive {
            return Ok(Auth::reject());
        }
        let Some(mut answers) = response else {
            let prompts = Cow::Owned(vec![(Cow::Borrowed("Password: "), false)]);
            return Ok(Auth::Partial { name: "".into(), instructions: "".into(), prompts });
        };
        let right = answers.next().is_some_and(|answer| answer == PASSWORD.as_bytes());
        Ok(if right { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Ok(mut database) = tokio::net::TcpStream::connect((host, port as u16)).await {
            reply.accept().await;
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut channel.into_stream(), &mut database).await;
            });
        }
        Ok(())
    }
}
