//! SSH: byte streams to hosts that only a bastion can reach. It stands below `transport`, which puts TLS and the protocol on top.
//!
//! Sessions for ordinary SQL share one SSH connection; each reader of our own client has one of its own. `russh` stops reading a
//! whole connection while one of its channels is not being read, and opens a channel's window again when bytes arrive, not when
//! they are taken. Readers do pause (memory, rate limit): on a common connection one of them would hold up the others, which may
//! hold the memory it waits for, and the session that answers for the snapshot. Apart they also use more than one core to decrypt.

mod channel;
mod host_key;
mod login;
mod private_key;

pub use channel::Channel;
pub use host_key::HostKeys;
pub use private_key::{PrivateKey, Unusable, read as read_private_key};

use super::connect::Host;
use super::sqlstate::lost;
use super::transport::{self, Keepalive, Unreached};
use crate::error::{Error, Result};
use russh::client::{self, DisconnectReason};
use russh::{ChannelId, ChannelOpenFailure, Preferred, cipher};
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::io::BufReader;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use writers::Secret;

/// Bytes that the bastion may send before we have answered: a second at 64 Mbit/s, or 60 ms of round trip at 1 Gbit/s. It may hold as many
/// for each reader.
const WINDOW_BYTES: u32 = 8 << 20;

/// The largest packet that OpenSSH sends on a forwarded connection.
const PACKET_BYTES: u32 = 32 << 10;

/// Packets that wait for their reader: 1 MiB.
const PACKETS_WAITING: usize = 32;

/// russh asks for the four bytes of a length and then for the packet.
const READ_BYTES: usize = 64 << 10;

/// Logins under way at a time. An OpenSSH server begins to turn connections away at ten (MaxStartups).
const LOGINS: usize = 4;

/// Fast ones first: AES is in the processor of both sides, ChaCha20 with OpenSSH's Poly1305 is not.
const CIPHERS: &[cipher::Name] =
    &[cipher::AES_256_GCM, cipher::AES_128_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR, cipher::AES_192_CTR, cipher::AES_128_CTR];

/// An SSH server that forwards connections, and how to log in there.
pub struct Bastion {
    /// Host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User.
    pub user: String,
    /// For the methods `password` and `keyboard-interactive`.
    pub password: Option<Secret>,
    /// For the method `publickey`, which is tried first.
    pub key: Option<Arc<PrivateKey>>,
    /// Which keys the server may have.
    pub host_keys: HostKeys,
}

/// Who shares an SSH connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// All sessions whose answers are read at once.
    Shared,
    /// Nobody: this session's reader may pause.
    Own,
}

/// The way through one bastion. Cloning shares its connections; `Debug` shows no secret.
#[derive(Clone)]
pub struct Tunnel(Arc<Inner>);

struct Inner {
    bastion: Arc<Bastion>,
    shared: tokio::sync::Mutex<Option<Arc<SshConnection>>>,
    logins: Semaphore,
}

/// One SSH connection. It ends with the last channel that goes through it.
pub struct SshConnection {
    handle: client::Handle<Observer>,
    seen: Arc<Seen>,
}

/// What the server has told in passing.
#[derive(Default)]
struct Seen {
    /// Why the connection is over.
    ended: OnceLock<Error>,
    /// The server's words for the last channel that it did not open.
    refusal: Mutex<Option<String>>,
}

/// Listens to what a connection reports.
struct Observer {
    bastion: Arc<Bastion>,
    seen: Arc<Seen>,
}

impl Tunnel {
    /// A tunnel that is opened when it is needed.
    pub fn new(bastion: Bastion) -> Self {
        Self(Arc::new(Inner { bastion: Arc::new(bastion), shared: tokio::sync::Mutex::default(), logins: Semaphore::new(LOGINS) }))
    }

    /// An open connection to the bastion; `limit` is for reaching it and logging in there.
    pub async fn connection(&self, lane: Lane, keepalive: Keepalive, limit: Duration) -> Result<Arc<SshConnection>> {
        if lane == Lane::Own {
            return self.open(keepalive, limit).await;
        }
        let mut shared = self.0.shared.lock().await;
        if let Some(ssh) = shared.as_ref().filter(|ssh| !ssh.handle.is_closed()) {
            return Ok(ssh.clone());
        }
        let ssh = self.open(keepalive, limit).await?;
        *shared = Some(ssh.clone());
        Ok(ssh)
    }

    /// Has the next session open a new SSH connection instead of this one, which may be dead without anybody knowing it yet.
    pub async fn distrust(&self, ssh: &Arc<SshConnection>) {
        let mut shared = self.0.shared.lock().await;
        if shared.as_ref().is_some_and(|open| Arc::ptr_eq(open, ssh)) {
            *shared = None;
        }
    }

    async fn open(&self, keepalive: Keepalive, limit: Duration) -> Result<Arc<SshConnection>> {
        let Inner { bastion, logins, .. } = &*self.0;
        let _turn = logins.acquire().await.map_err(|_| Error::bug("the logins of a tunnel were closed"))?;
        let opening = Box::pin(SshConnection::open(bastion.clone(), keepalive, Instant::now() + limit));
        let opened = tokio::time::timeout(limit, opening).await.unwrap_or_else(|_| Err(timed_out(limit)));
        opened.map_err(|error| error.doing(format!("open the SSH tunnel through {bastion}")))
    }
}

impl SshConnection {
    async fn open(bastion: Arc<Bastion>, keepalive: Keepalive, deadline: Instant) -> Result<Arc<Self>> {
        let stream = transport::dial(&bastion.host, bastion.port, keepalive, Some(deadline)).await.map_err(unreached)?;
        let seen = Arc::new(Seen::default());
        let observer = Observer { bastion: bastion.clone(), seen: seen.clone() };
        let stream = BufReader::with_capacity(READ_BYTES, stream);
        let mut handle = client::connect_stream(settings(&bastion, keepalive), stream, observer).await?;
        login::login(&mut handle, &bastion, &seen).await?;
        Ok(Arc::new(Self { handle, seen }))
    }

    /// A stream to a host as the bastion knows it.
    pub async fn channel(self: &Arc<Self>, host: &str, port: u16) -> Result<Channel> {
        match self.handle.channel_open_direct_tcpip(host, port.into(), "127.0.0.1", 0).await {
            Ok(channel) => Ok(Channel::new(channel, self.clone())),
            Err(russh::Error::ChannelOpenFailure(reason)) => {
                // The words follow the news in the same breath.
                tokio::time::sleep(Duration::from_millis(5)).await;
                let words = self.seen.refusal.lock().ok().and_then(|mut words| words.take()).unwrap_or_default();
                Err(not_opened(&reason, &words, &Host::Tcp(host.to_owned(), port)))
            }
            Err(_) if self.handle.is_closed() => Err(lost(&self.seen.why_ended())),
            Err(error) => Err(error.into()),
        }
    }
}

impl Seen {
    /// Why a connection that has been closed is over. The reason comes after the news, when the socket is shut down.
    async fn end(&self) -> Option<&Error> {
        for _ in 0..100 {
            if self.ended.get().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.ended.get()
    }

    /// Why the connection is over.
    fn why_ended(&self) -> String {
        let why = self.ended.get().map_or_else(|| "the connection has ended".to_owned(), Error::to_string);
        format!("the SSH tunnel was lost: {why}")
    }
}

impl client::Handler for Observer {
    type Error = Error;

    async fn check_server_key(&mut self, offered: &russh::keys::PublicKeyOrCertificate) -> Result<bool> {
        static TOLD: AtomicBool = AtomicBool::new(false);
        let (key, bastion) = (offered.public_key(), &self.bastion);
        if bastion.host_keys.accept_any() {
            if !TOLD.swap(true, Relaxed) {
                let fingerprint = host_key::fingerprint(&key);
                tracing::warn!(
                    "nobody has verified the SSH server {}: its host key is {fingerprint} ({}); to accept no other, set \"host_key\": \
                     \"{fingerprint}\" in `ssh_config`, once you know that it is the right one",
                    bastion.address(),
                    key.algorithm()
                );
            }
            return Ok(true);
        }
        bastion.host_keys.judge(&key, &bastion.address()).map(|()| true)
    }

    async fn channel_open_failure(
        &mut self,
        _: ChannelId,
        _: ChannelOpenFailure,
        description: &str,
        _: &str,
        _: &mut client::Session,
    ) -> Result<()> {
        if let Ok(mut words) = self.seen.refusal.lock() {
            *words = Some(printable(description));
        }
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Error>) -> Result<()> {
        let why = match reason {
            DisconnectReason::ReceivedDisconnect(info) => lost(&format!("the server says: {}", printable(&info.message))),
            DisconnectReason::Error(error) => error,
        };
        tracing::debug!("an SSH connection ended: {why}");
        let _ = self.seen.ended.set(why);
        Ok(())
    }
}

fn settings(bastion: &Bastion, keepalive: Keepalive) -> Arc<client::Config> {
    let preferred = Preferred { cipher: Cow::Borrowed(CIPHERS), key: Cow::Owned(bastion.host_keys.algorithms()), ..Preferred::DEFAULT };
    Arc::new(client::Config {
        client_id: russh::SshId::Standard(Cow::Borrowed(concat!("SSH-2.0-lakeward_", env!("CARGO_PKG_VERSION")))),
        window_size: WINDOW_BYTES,
        maximum_packet_size: PACKET_BYTES,
        channel_buffer_size: PACKETS_WAITING,
        // It counts questions only, so an idle connection is asked from the beginning.
        keepalive_interval: Some(keepalive.interval),
        keepalive_max: usize::try_from(keepalive.count).unwrap_or(usize::MAX),
        preferred,
        ..client::Config::default()
    })
}

fn unreached(failure: Unreached) -> Error {
    const CHECK: &str = "check `ssh_config.host` and `ssh_config.port`, that the SSH server runs there, and firewalls between";
    match failure {
        Unreached::Name(e) => {
            let error = Error::source_db(format!("the name of the SSH server cannot be resolved ({e})")).hint("check `ssh_config.host`");
            if transport::resolves_later(&e) { error.transient() } else { error }
        }
        Unreached::NoAddress => Error::source_db("the name of the SSH server has no address").hint("check `ssh_config.host`"),
        Unreached::Connect(e) => {
            let what = match e.kind() {
                io::ErrorKind::ConnectionRefused => "the SSH server cannot be reached: the connection was refused".to_owned(),
                io::ErrorKind::TimedOut => "the SSH server cannot be reached: no answer in time".to_owned(),
                _ => format!("the SSH server cannot be reached ({e})"),
            };
            lost(&what).hint(CHECK)
        }
    }
}

fn timed_out(limit: Duration) -> Error {
    lost(&format!("the SSH server has not let us in within {limit:?}"))
        .hint("check that `ssh_config.port` is the port of an SSH server, and its load, or raise connect_timeout_s")
}

fn not_opened(reason: &ChannelOpenFailure, words: &str, to: &Host) -> Error {
    let words = if words.is_empty() { reason.description() } else { words };
    match reason {
        ChannelOpenFailure::AdministrativelyProhibited => Error::source_db(format!(
            "the SSH server refuses to forward connections to {to} (administratively prohibited: {words})"
        ))
        .hint("allow it in the SSH server's sshd_config: AllowTcpForwarding yes (or local), PermitOpen any or with this host and port"),
        ChannelOpenFailure::ConnectFailed => lost(&format!("the SSH server cannot reach {to} ({words})"))
            .hint("check host and port of the database as the SSH server sees them, that the database runs, and its listen_addresses"),
        other => lost(&format!("the SSH server opens no connection to {to} ({}: {words})", other.description()))
            .hint("the SSH server's log tells more"),
    }
}

/// Words of a server that need not be what it says it is: one short line.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect::<String>().trim().to_owned()
}

/// Everything but what `Observer` and `login` raise themselves.
impl From<russh::Error> for Error {
    fn from(error: russh::Error) -> Self {
        use russh::Error as E;
        match error {
            E::IO(e) if e.kind() == io::ErrorKind::UnexpectedEof => lost("the SSH server closed the connection"),
            E::IO(e) => lost(&format!("the connection to the SSH server was lost ({e})")),
            E::HUP | E::Disconnect | E::SendError | E::RecvError => lost("the SSH server closed the connection"),
            E::KeepaliveTimeout | E::InactivityTimeout | E::ConnectionTimeout | E::Elapsed(_) => lost("the SSH server no longer answers"),
            E::Version => Self::source_db("what answers there is no SSH server").hint("check `ssh_config.host` and `ssh_config.port`"),
            E::NoCommonAlgo { kind, theirs, .. } => {
                Self::source_db(format!("the SSH server offers no {kind:?} algorithm that is known here, only {}", theirs.join(", ")))
                    .hint("update the SSH server, or allow a current algorithm in its sshd_config")
            }
            E::NoAuthMethod => Self::source_db("the SSH server takes no further login"),
            E::WrongServerSig => Self::source_db("the SSH server does not have the host key that it shows")
                .hint("somebody may stand between: do not go on before you know why"),
            other => lost(&format!("SSH failed: {other}")).hint("the SSH server's log tells more"),
        }
    }
}

impl Bastion {
    /// Host and port.
    fn address(&self) -> String {
        Host::Tcp(self.host.clone(), self.port).to_string()
    }
}

impl fmt::Display for Bastion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.user, self.address())
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnel({})", self.0.bastion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Retry;

    #[test]
    fn refusals_are_told_apart() {
        let to = Host::Tcp("db".to_owned(), 5432);
        let check = |reason: ChannelOpenFailure, retry: Retry, text: &str, hint: &str| {
            let error = not_opened(&reason, "open failed", &to);
            assert_eq!(error.retry(), retry, "{error}");
            assert!(error.to_string().contains(text) && error.to_string().contains("open failed"), "{error}");
            assert!(error.advice().unwrap_or("").contains(hint), "{error}");
        };
        check(
            ChannelOpenFailure::AdministrativelyProhibited,
            Retry::Never,
            "refuses to forward connections to db:5432",
            "AllowTcpForwarding",
        );
        check(ChannelOpenFailure::ConnectFailed, Retry::Again, "cannot reach db:5432", "as the SSH server sees them");
        check(ChannelOpenFailure::ResourceShortage, Retry::Again, "Resource shortage", "log");
        assert!(not_opened(&ChannelOpenFailure::ConnectFailed, "", &to).to_string().contains("Connect failed"));
    }

    #[test]
    fn a_lost_connection_is_worth_another_attempt_and_a_wrong_server_is_not() {
        let retry = |error: russh::Error| Error::from(error).retry();
        assert_eq!(retry(russh::Error::KeepaliveTimeout), Retry::Again);
        assert_eq!(retry(russh::Error::IO(io::ErrorKind::UnexpectedEof.into())), Retry::Again);
        assert_eq!(retry(russh::Error::Version), Retry::Never);
        assert_eq!(retry(russh::Error::WrongServerSig), Retry::Never);
    }

    #[test]
    fn a_servers_words_stay_on_their_line() {
        assert_eq!(printable("open\r\nfailed\u{1b}[2J "), "openfailed[2J");
        assert_eq!(printable(&"x".repeat(9999)).len(), 200);
    }
}
