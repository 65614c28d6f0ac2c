//! Opening sessions: hosts, TLS, authentication, session settings. One implementation for both clients.

use super::sign_of_life::Silence;
use super::startup::{self, Hold};
use super::transport::Keepalive;
use super::transport::{self, Encryption, Failure, Stream};
use super::tunnel::{Lane, SshConnection, Tunnel};
use super::wire::Mode;
use super::{pooler, tls, wire};
use crate::error::{Error, Result, Retry};
use futures::future::BoxFuture;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::AsyncMessage;
use writers::Secret;

pub use super::sqlstate::sql_error;
use super::sqlstate::{checked, lost};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Host name or address, and port.
    Tcp(String, u16),
    /// Directory of the Unix socket, and the port in the socket's name.
    Unix(PathBuf, u16),
}

/// libpq's six sslmodes (manual, section "SSL Support").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// Plain first, TLS if the server insists.
    Allow,
    /// TLS if the server offers it.
    Prefer,
    /// TLS, certificate not verified (verified as `verify-ca` when a CA is given, as libpq does).
    Require,
    /// TLS, certificate chain verified.
    VerifyCa,
    /// TLS, chain and host name verified.
    VerifyFull,
}

/// TLS settings; certificates are PEM text.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// How hard to insist.
    pub mode: SslMode,
    /// CA certificates; `None` means the operating system's.
    pub server_ca: Option<String>,
    /// Client certificate chain.
    pub client_cert: Option<String>,
    /// Client key.
    pub client_key: Option<Secret>,
}

/// Everything needed to open a session; resolved once from `source.json`.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Tried in order; with more than one, the first that is a primary is used.
    pub hosts: Vec<Host>,
    /// Database name.
    pub database: String,
    /// User name.
    pub user: String,
    /// Password, if there is one.
    pub password: Option<Secret>,
    /// TLS.
    pub tls: TlsOptions,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// For one host: TCP connect, TLS and login together; as long again for the SSH connection, where it has to be opened.
    pub connect_timeout: Duration,
    /// `statement_timeout` of every session; zero means none.
    pub statement_timeout: Duration,
    /// `lock_timeout` of every session; zero means none.
    pub lock_timeout: Duration,
    /// When a silent server counts as gone.
    pub keepalive: Keepalive,
    /// The way to all hosts, if they cannot be reached from here.
    pub tunnel: Option<Tunnel>,
    /// Further run-time parameters, set after login (`options` at start-up).
    pub parameters: Vec<(String, String)>,
}

/// Ordinary SQL: `tokio-postgres` over our transport. Dropping it ends the session.
pub struct Session {
    /// The client.
    pub client: tokio_postgres::Client,
    version: u32,
    pooled: bool,
    ended: Arc<OnceLock<Error>>,
    silence: Arc<Silence>,
    task: JoinHandle<()>,
}

/// Opens a session for ordinary SQL. Behind a pooler it is one transaction, which begins here.
pub async fn session(options: &ConnectOptions) -> Result<Session> {
    first_host(options, Lane::Shared, |options, host, ssh| Box::pin(open_session(options, host, ssh))).await
}

/// Opens a session of our own client, for COPY.
pub async fn wire(options: &ConnectOptions) -> Result<wire::Connection> {
    first_host(options, Lane::Own, |options, host, ssh| Box::pin(open_wire(options, host, ssh))).await
}

/// Opens a session of our own client in replication mode.
pub(super) async fn walsender(options: &ConnectOptions) -> Result<wire::Connection> {
    first_host(options, Lane::Own, |options, host, ssh| Box::pin(open_walsender(options, host, ssh))).await
}

impl Session {
    /// The server's version as a number, 150018 for 15.18.
    pub fn server_version(&self) -> u32 {
        self.version
    }

    /// [`sql_error`], and where the connection is gone, why.
    pub fn error(&self, e: &tokio_postgres::Error) -> Error {
        match self.ended.get() {
            Some(reason) if e.is_closed() => {
                let error = lost(&format!("the connection was lost: {reason}"));
                if let Some(code) = reason.code() { error.sqlstate(code) } else { error }
            }
            _ => sql_error(e),
        }
    }

    /// The reason of a failure: that the session is over, where it is, because whatever follows from that is no reason.
    pub fn cause(&self, error: Error) -> Error {
        match self.ended.get() {
            Some(reason) if error.retry() == Retry::Again => lost(&format!("the connection was lost: {reason}")),
            _ => error,
        }
    }

    /// Why the session is over, if it is.
    pub fn ended(&self) -> Option<&Error> {
        self.ended.get()
    }

    /// Runs statements that give no rows.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.map_err(|e| self.error(&e))
    }

    /// The one row of a query. No statement is named: a pooler may not know the name when it comes back to it.
    pub async fn row(&self, sql: &str) -> Result<tokio_postgres::Row> {
        self.client.query_typed_one(sql, &[]).await.map_err(|e| self.error(&e))
    }

    /// Behind a pooler, ends the transaction that [`session`] has begun: the caller begins one of its own.
    pub async fn leave_transaction(&self) -> Result<()> {
        if self.pooled { self.execute("ROLLBACK").await } else { Ok(()) }
    }

    /// Says goodbye and waits until that is sent.
    pub async fn close(self) {
        drop(self.client);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.task).await;
    }
}

type Open<T> = for<'a> fn(&'a ConnectOptions, &'a Host, Option<&'a Arc<SshConnection>>) -> BoxFuture<'a, Result<T>>;
type Login<T> = for<'a> fn(Stream, &'a ConnectOptions, &'a Host) -> BoxFuture<'a, Result<T>>;

/// Tries the hosts in order.
async fn first_host<T>(options: &ConnectOptions, lane: Lane, open: Open<T>) -> Result<T> {
    let ssh = match &options.tunnel {
        Some(tunnel) => Some(tunnel.connection(lane, options.keepalive, options.connect_timeout).await?),
        None => None,
    };
    let mut failures = Vec::new();
    for host in &options.hosts {
        match within(options.connect_timeout, open(options, host, ssh.as_ref())).await {
            Ok(opened) => return Ok(opened),
            Err(error) => failures.push(error.doing(format!("connect to {host}"))),
        }
    }
    if let (Some(tunnel), Some(ssh)) = (&options.tunnel, &ssh)
        && failures.iter().any(|e| e.retry() == Retry::Again)
    {
        tunnel.distrust(ssh).await;
    }
    if failures.len() > 1 {
        let reasons: Vec<String> = failures.iter().map(Error::to_string).collect();
        let error = Error::source_db(format!("none of the hosts is a usable primary: {}", reasons.join("; ")));
        let error = if failures.iter().any(|e| e.retry() == Retry::Again) { error.transient() } else { error };
        return Err(match failures.iter().find_map(Error::advice) {
            Some(advice) => error.hint(advice),
            None => error,
        });
    }
    Err(failures.pop().unwrap_or_else(|| Error::config("no host is given")))
}

/// Limits `work` to `timeout`; zero means no limit.
pub(super) async fn within<T>(timeout: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    if timeout.is_zero() {
        return work.await;
    }
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        Err(lost(&format!("no answer within {timeout:?}")).hint("check host, port and firewalls, or raise connect_timeout"))
    })
}

/// When `timeout` from now ends; `None` if it does not.
pub(super) fn deadline(timeout: Duration) -> Option<Instant> {
    (!timeout.is_zero()).then(|| Instant::now() + timeout)
}

/// libpq's sslmodes: which attempts to make, and when a refusal is worth a second one.
async fn by_sslmode<T>(options: &ConnectOptions, host: &Host, ssh: Option<&Arc<SshConnection>>, login: Login<T>) -> Result<T> {
    let attempt = async |encryption| attempt(options, host, ssh, encryption, login).await;
    let unix = matches!(host, Host::Unix(..));
    let (first, second) = match options.tls.mode {
        SslMode::Allow if !unix => (Encryption::Plain, Encryption::Required),
        SslMode::Prefer if !unix => (Encryption::Offered, Encryption::Plain),
        SslMode::Disable | SslMode::Allow | SslMode::Prefer => {
            return attempt(Encryption::Plain).await.map_err(Denied::error);
        }
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
            return attempt(Encryption::Required).await.map_err(Denied::error);
        }
    };
    let denied = match attempt(first).await {
        Err(denied) if denied.other_encryption_may_help(second) => denied,
        other => return other.map_err(Denied::error),
    };
    match attempt(second).await {
        // The same door, closed twice: the first answer says more.
        Err(Denied { failed: Failed::Open(Failure::Tls(_)), .. }) => Err(denied.error()),
        Err(again) if again.is_refusal() => Err(denied.error()),
        other => other.map_err(Denied::error),
    }
}

struct Denied {
    failed: Failed,
    /// Whether the login went over TLS.
    encrypted: bool,
}

enum Failed {
    Open(Failure),
    Login(Error),
}

impl Denied {
    fn error(self) -> Error {
        match self.failed {
            Failed::Open(failure) => failure.into(),
            Failed::Login(error) => error,
        }
    }

    /// The server lets nobody in this way, whatever the password: 28000 from pg_hba.conf, 08P01 from pgBouncer.
    fn is_refusal(&self) -> bool {
        matches!(&self.failed, Failed::Login(error) if matches!(error.code(), Some("28000" | "08P01")))
    }

    fn other_encryption_may_help(&self, other: Encryption) -> bool {
        match &self.failed {
            Failed::Open(Failure::Tls(_)) => true,
            Failed::Open(Failure::Reach(_)) => false,
            Failed::Login(_) => self.is_refusal() && self.encrypted != (other == Encryption::Required),
        }
    }
}

async fn attempt<T>(
    options: &ConnectOptions,
    host: &Host,
    ssh: Option<&Arc<SshConnection>>,
    encryption: Encryption,
    login: Login<T>,
) -> Result<T, Denied> {
    let opened = transport::open(host, ssh, encryption, &options.tls, options.keepalive, deadline(options.connect_timeout)).await;
    let stream = opened.map_err(|failure| Denied { failed: Failed::Open(failure), encrypted: false })?;
    let encrypted = stream.is_tls();
    login(stream, options, host).await.map_err(|error| Denied { failed: Failed::Login(error), encrypted })
}

async fn open_wire(options: &ConnectOptions, host: &Host, ssh: Option<&Arc<SshConnection>>) -> Result<wire::Connection> {
    prepare(by_sslmode(options, host, ssh, |s, o, h| Box::pin(wire::Connection::login(s, o, h, Mode::Sql))).await?, options).await
}

async fn open_walsender(options: &ConnectOptions, host: &Host, ssh: Option<&Arc<SshConnection>>) -> Result<wire::Connection> {
    prepare(by_sslmode(options, host, ssh, |s, o, h| Box::pin(wire::Connection::login(s, o, h, Mode::Replication))).await?, options).await
}

/// Gives a new session its settings.
async fn prepare(mut connection: wire::Connection, options: &ConnectOptions) -> Result<wire::Connection> {
    let rows = connection.simple(&connection.settings(options, false)).await.map_err(|e| e.doing("set session parameters"))?;
    let standby = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
    primary(options, standby)?;
    let pooled = rows.first().and_then(|row| row.first()).and_then(Option::as_deref) == Some("t");
    if connection.mode() == Mode::Replication {
        // A pooler gives it a server connection of its own, and a number that is not that one's.
        let rows = connection.simple("SELECT pg_backend_pid()").await.map_err(|e| e.doing("ask for the process"))?;
        connection.serve(rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok()));
    } else if !pooled {
        connection.serve(Some(connection.backend_pid()));
    }
    Ok(connection)
}

async fn open_session(options: &ConnectOptions, host: &Host, ssh: Option<&Arc<SshConnection>>) -> Result<Session> {
    let mut session = by_sslmode(options, host, ssh, |s, o, _| Box::pin(login_session(s, o))).await?;
    let process = pooler::process_at_login(&session.client).await;
    let sql = startup::settings(options, session.version, Hold::Session(process), false);
    let answer = checked(session.client.simple_query(&sql).await).map_err(|e| e.doing("set session parameters"))?;
    let row = answer.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    primary(options, row.and_then(|row| row.get(1)))?;
    session.pooled = row.and_then(|row| row.get(0)) == Some("t");
    if session.pooled {
        pooler::tell();
        session.execute("BEGIN READ ONLY").await.map_err(pooler::explain)?;
        let sql = startup::settings(options, session.version, Hold::Transaction, false);
        session.execute(&sql).await.map_err(|e| e.doing("set session parameters"))?;
    } else if process != 0 {
        session.silence.serve(process);
    }
    Ok(session)
}

/// With several hosts, only a primary will do.
fn primary(options: &ConnectOptions, in_recovery: Option<&str>) -> Result<()> {
    match in_recovery {
        _ if options.hosts.len() < 2 => Ok(()),
        Some("f") => Ok(()),
        _ => Err(Error::source_db("the server is a standby").hint("name a host that is a primary")),
    }
}

async fn login_session(stream: Stream, options: &ConnectOptions) -> Result<Session> {
    let mut config = tokio_postgres::Config::new();
    config.user(&options.user).dbname(&options.database).application_name(&options.application_name);
    if let Some(password) = startup::password(options) {
        config.password(password);
    }
    if let Some(value) = startup::startup_options(options) {
        config.options(value);
    }
    // "TLS without asking for it": the stream is what it is, and login learns the channel binding from it.
    config.ssl_mode(tokio_postgres::config::SslMode::Require).ssl_negotiation(tokio_postgres::config::SslNegotiation::Direct);
    let silence = Arc::new(Silence::default());
    let stream = Heard { stream, silence: silence.clone() };
    let (client, mut connection) = checked(config.connect_raw(stream, Established).await)?;
    let version = startup::version_number(connection.parameter("server_version").unwrap_or(""));
    let ended = Arc::new(OnceLock::new());
    let task = tokio::spawn({
        let (ended, silence, options) = (ended.clone(), silence.clone(), options.clone());
        async move {
            let mut broken = std::pin::pin!(silence.broken(&options));
            loop {
                let message = tokio::select! {
                    biased;
                    message = std::future::poll_fn(|cx| connection.poll_message(cx)) => message,
                    error = &mut broken => {
                        tracing::debug!("a database session is given up: {error}");
                        let _ = ended.set(error);
                        break;
                    }
                };
                let Some(message) = message else { break };
                match message {
                    Ok(AsyncMessage::Notice(report)) => wire::notice(report.severity(), report.message()),
                    Ok(_) => {}
                    Err(e) => {
                        let error = sql_error(&e);
                        tracing::debug!("a database session ended: {error}");
                        // Before the connection is dropped, which is when waiting queries learn of it.
                        let _ = ended.set(error);
                        break;
                    }
                }
            }
        }
    });
    Ok(Session { client, version, pooled: false, ended, silence, task })
}

/// A stream that notes when something is sent and heard.
struct Heard {
    stream: Stream,
    silence: Arc<Silence>,
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.silence.heard(&buf.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.silence.sent();
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Tells `tokio-postgres` that encryption has been taken care of.
pub(super) struct Established;

/// Our stream, as `tokio-postgres` wants to see it.
pub(super) struct Carrier<S>(S);

impl<S> tokio_postgres::tls::TlsConnect<S> for Established
where
    Carrier<S>: tokio_postgres::tls::TlsStream + Unpin,
{
    type Stream = Carrier<S>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Carrier<S>, Self::Error>>;

    fn connect(self, stream: S) -> Self::Future {
        std::future::ready(Ok(Carrier(stream)))
    }
}

impl tokio_postgres::tls::TlsStream for Carrier<Heard> {
    fn channel_binding(&self) -> tokio_postgres::tls::ChannelBinding {
        match self.0.stream.certificate().and_then(tls::channel_binding) {
            Some(data) => tokio_postgres::tls::ChannelBinding::tls_server_end_point(data),
            None => tokio_postgres::tls::ChannelBinding::none(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Carrier<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Carrier<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name, port) if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Tcp(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(directory, port) => write!(f, "{}/.s.PGSQL.{port}", directory.display()),
        }
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
