//! Opening sessions: hosts, TLS, authentication, session settings. One implementation for both clients.

use crate::config::secret::Secret;
use std::path::PathBuf;
use std::time::Duration;

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
    /// For one host: TCP connect, TLS and login together.
    pub connect_timeout: Duration,
    /// `statement_timeout` of every session; zero means none.
    pub statement_timeout: Duration,
    /// `lock_timeout` of every session; zero means none.
    pub lock_timeout: Duration,
    /// Further run-time parameters, sent at start-up.
    pub parameters: Vec<(String, String)>,
}
