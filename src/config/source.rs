//! `source.json`: where the database is and what of it may be read.
//!
//! The doc comments of [`Source`] are the documentation of the file: `schemas/source.schema.json` and every message about
//! a wrong key come from them. Keys are OLake's, except those marked "Ours". An absent key means what OLake does.
//! [`Source::resolve`] turns the file into [`ConnectOptions`] once; after that nothing is validated again.

use super::connection_string;
use super::keywords::{self, Keywords, NO_EFFECT, ssl_mode};
use super::seconds::Seconds;
use super::shape::{Findings, is_empty};
use super::ssh::SshConfig;
use super::update_method::UpdateMethod;
use crate::error::{Error, Result};
use crate::postgres::connect::{ConnectOptions, Host, SslMode};
use crate::postgres::replica::Replicas;
use crate::postgres::scope::Scope;
use crate::sync::capture;
use crate::sync::pace::Pace;
use crate::types::Wire;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use writers::Secret;

/// A PostgreSQL database to read. Either `url`, or `host` (or `hosts`) with the keys beside it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-not-built" = [
    "skip_user_types", "on_unknown_table", "key_fallback", "service_schema", "batch"
]))]
pub struct Source {
    /// Host name or address of the server; a value that starts with `/` is the directory of its Unix socket.
    pub host: Option<String>,
    /// Port of the server. Default 5432.
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Ours: several servers as `host`, `host:port`, `[address]:port` or a socket directory; the first that is a primary is used. Instead of `host`.
    pub hosts: Vec<String>,
    /// Ours: standbys of the server, spelled like `hosts`. A run takes its snapshot on the first of them that has replayed what the primary had written when it began, and reads everything there; where it is cancelled by a conflict with recovery, it tries again and keeps what it has. The primary may be the last of them, to be read when no standby can be. Behind a pooler each needs an address of its own.
    pub replica_hosts: Vec<String>,
    /// Ours: how long to wait for each of `replica_hosts` to catch up. Default 60 s.
    pub replica_wait_s: Option<Seconds>,
    /// Ours: the whole connection as `postgres://user:password@host:port/database?sslmode=…`, or as libpq's keywords `host=… dbname=…`. Instead of host, port, database and username; the password may stand in `password`, where it needs no percent-encoding.
    pub url: Option<Secret>,
    /// Name of the database. Default: the user's name, as in psql.
    pub database: Option<String>,
    /// Database user.
    pub username: Option<String>,
    /// Password of the user.
    pub password: Option<Secret>,
    /// Further connection parameters under libpq's names (`sslmode`, `connect_timeout`, `application_name`, …); any other name is set as a run-time parameter of each session (`search_path`, `work_mem`, …).
    pub jdbc_url_params: BTreeMap<String, Secret>,
    /// TLS. Absent: `disable`, or `prefer` with `url`.
    pub ssl: Option<Ssl>,
    /// Change data capture: streams whose `sync_mode` is `cdc` or `strict_cdc` are followed through this slot. With `replication_slot` the source is meant for it.
    pub update_method: Option<UpdateMethod>,
    /// Connections to the source, all together: one holds the exported snapshot, the others read. Default 3, also for values below 1; two are the least that a sync works with.
    #[schemars(range(max = 1000))]
    pub max_threads: Option<i64>,
    /// How many times an operation is tried again after a transient error. Default 0.
    pub retry_count: Option<i64>,
    /// SSH server through which the database is reached. Absent, or without a host: none.
    pub ssh_config: Option<SshConfig>,
    /// Schemas to look at. Absent or empty: all.
    pub schemas: Vec<String>,
    /// Ours: tables to look at, as `schema.table`, `schema.*` or `schema.prefix*`. Absent or empty: all.
    pub include_tables: Vec<String>,
    /// Ours: tables to leave out, in the same spelling; wins over `include_tables`.
    pub exclude_tables: Vec<String>,
    /// Ours: `true` discovers views and selects them, `false` leaves them out. Absent: they are listed, but not selected.
    pub include_views: Option<bool>,
    /// Ours: discover materialized views. Default true.
    pub include_materialized_views: Option<bool>,
    /// Ours: discover foreign tables. Default true.
    pub include_foreign_tables: Option<bool>,
    /// Ours: read a partitioned table as one stream, and do not list its partitions.
    pub collapse_partitions: bool,
    /// Ours: for one host, limit for connecting, TLS and login together; the same again for the SSH server of `ssh_config`. Default 30 s; 0: none.
    pub connect_timeout_s: Option<Seconds>,
    /// Ours: `statement_timeout` of every session. Default 0: none.
    pub statement_timeout_s: Option<Seconds>,
    /// Ours: `lock_timeout` of every session: how long to wait for a table that another session has locked exclusively. Default 60 s; 0: for ever.
    pub lock_timeout_s: Option<Seconds>,
    /// Ours: how tables are copied.
    pub backfill: Backfill,
    /// Ours: how streams with `sync_mode` `incremental` are read.
    pub incremental: Incremental,
    /// Ours, for discover: tables whose streams it writes as incremental.
    pub incremental_tables: Vec<IncrementalTable>,
    /// Ours: how fast tables are read.
    pub rate_limit: RateLimit,
    /// Ours: name of the sessions in `pg_stat_activity`. Default `lakeward`.
    pub application_name: Option<String>,

    /// OLake's, dead.
    #[schemars(extend("x-no-effect" = "batches are sized by bytes"))]
    reader_batch_size: Option<Value>,
    /// OLake's, dead.
    #[schemars(extend("x-no-effect" = "batches are sized by bytes"))]
    batch_size: Option<Value>,
    /// OLake's, dead.
    #[schemars(extend("x-no-effect" = "the `sync_mode` of each stream decides"))]
    default_mode: Option<Value>,
    /// OLake's, dead.
    #[schemars(extend("x-no-effect" = "tables are split by physical position"))]
    split_column: Option<Value>,
    /// OLake's, dead.
    #[serde(rename = "split-region")]
    #[schemars(extend("x-no-effect" = "it means nothing for PostgreSQL"))]
    split_region: Option<Value>,
    /// OLake's, dead.
    #[serde(rename = "type")]
    #[schemars(extend("x-no-effect" = "the source is always PostgreSQL"))]
    kind: Option<Value>,
    /// OLake's, dead.
    #[schemars(extend("x-no-effect" = "it means nothing for PostgreSQL"))]
    aws_region: Option<Value>,
}

/// How tables are copied.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-not-built" = ["target_part_bytes", "max_parts_per_table", "split_columns", "lag_guard"]))]
pub struct Backfill {
    /// How a table is copied that is followed afterwards. `exported`, the default: in one snapshot, which is held until the copy is complete. `watermark`: in ranges of its primary key, each in a short snapshot of its own, while its changes are applied, for tables too large to hold a snapshot open; the slot moves on meanwhile, and until the copy is complete the destination shows a part of the table. A table without a primary key is copied in one snapshot all the same.
    pub mode: BackfillMode,
    /// The form in which values are read. `text` costs more and is for servers whose types cannot send binary; the values are the same, bit for bit. `auto`, the default, is binary, and text for the columns that have no other form.
    #[schemars(extend("enum" = ["auto", "binary", "text"]))]
    pub wire_format: Option<String>,
    /// Rows that one query reads, by the planner's estimate; each is a file then. Absent: chunks are sized by bytes, and as many are read into one file as make a good one.
    #[schemars(range(min = 1))]
    pub chunk_rows: Option<u64>,
    /// Age of the exported snapshot at which a run stops, with exit code 8: while it is held, the server cannot remove rows that died since. What is staged is kept, and the same command with `--state` goes on with a new snapshot. Default 0: none; there is a warning after 6 hours.
    pub max_snapshot_age_s: Option<Seconds>,
}

/// How a table is copied that is followed afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackfillMode {
    /// In one snapshot.
    #[default]
    Exported,
    /// In ranges of its primary key, while its changes are applied.
    Watermark,
}

/// How streams with `sync_mode` `incremental` are read.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Incremental {
    /// What becomes of rows whose cursor columns are all NULL.
    pub null_cursor: NullCursor,
    /// For cursors that are timestamps or dates: rows that were committed late are looked for among values up to this many seconds older than the greatest one read, where an index on the cursor helps. Default 0: among all rows, whenever a transaction was open as the last run took its snapshot; that reads the whole table on the server. Views and foreign tables, whose rows do not tell who wrote them, are read again that far back.
    pub lag_seconds: u64,
}

/// A table that discover writes as an incremental stream. What an existing `streams.json` says of it stays.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct IncrementalTable {
    /// `schema.table`.
    pub table: String,
    /// `cursor_field` of the stream: `primary` or `primary:secondary`.
    pub cursor_field: String,
    /// Only rows with a greater primary value are wanted at all; becomes the stream's filter.
    #[serde(default)]
    pub since: Option<String>,
}

/// What becomes of rows without a cursor value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NullCursor {
    /// Read when they are new or changed (of a view or foreign table: in the first run only). The default.
    #[default]
    NewRows,
    /// Read in the first run only, as OLake does.
    FirstRun,
    /// All of them read in every run.
    ReadEachRun,
    /// Never read.
    Skip,
}

/// How fast tables are read, by all connections together. What is not read waits on the server.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RateLimit {
    /// Rows per second. Default 0: as fast as they come.
    pub rows_per_second: u64,
    /// Bytes per second, as the server sends them. Default 0: as fast as they come.
    pub bytes_per_second: u64,
}

/// TLS. Certificates are PEM text or the path of a PEM file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Ssl {
    /// How hard to insist, in libpq's words. The `verify-` modes trust `server_ca`, or without it the certificates of the operating system.
    #[schemars(extend("enum" = super::keywords::SSL_MODES))]
    pub mode: String,
    /// Certificates of the authorities that may have signed the server's.
    #[serde(default)]
    pub server_ca: Option<String>,
    /// Client certificate.
    #[serde(default)]
    pub client_cert: Option<String>,
    /// Key of the client certificate.
    #[serde(default)]
    pub client_key: Option<Secret>,
}

impl Source {
    /// Connections to the source at any time.
    pub fn connections(&self) -> usize {
        match self.max_threads {
            Some(threads @ 1..=1000) => usize::try_from(threads).unwrap_or(3),
            Some(1001..) => 1000,
            _ => 3,
        }
    }

    /// Connections that read: all but the one that holds the exported snapshot, which would lose it with the locks if a COPY failed on it.
    pub fn readers(&self) -> usize {
        self.connections().saturating_sub(1).max(1)
    }

    /// How many times to try again after a transient error.
    pub fn retries(&self) -> u32 {
        u32::try_from(self.retry_count.unwrap_or(0).max(0)).unwrap_or(u32::MAX)
    }

    /// Whether the source is meant for change data capture, by OLake's rule.
    pub fn wants_cdc(&self) -> bool {
        self.update_method.as_ref().is_some_and(|method| method.replication_slot.is_some())
    }

    /// The time between two commits of a run without end.
    pub fn commit_interval(&self) -> Duration {
        self.update_method.as_ref().map_or_else(UpdateMethod::default, UpdateMethod::clone).commit_interval()
    }

    /// The slot, if there is one.
    ///
    /// # Errors
    /// An empty name of the slot, or none of the publication; keys that contradict each other.
    pub fn capture(&self) -> Result<Option<capture::Terms>> {
        self.update_method.as_ref().filter(|_| self.wants_cdc()).map(UpdateMethod::terms).transpose()
    }

    /// Everything that a session needs. Reads certificate files; does not connect.
    ///
    /// # Errors
    /// [`Kind::Config`](crate::error::Kind::Config), naming the key, for what cannot be used to connect.
    pub fn resolve(&self) -> Result<ConnectOptions> {
        self.refuse_blanks()?;
        let replicas = self.replicas()?;
        let mut keywords = Keywords::default();
        let default_mode = match &self.url {
            Some(url) => {
                self.refuse_parts_beside_url()?;
                let pairs = connection_string::parse(url.expose()).map_err(|problem| Error::config(format!("`url`: {problem}")))?;
                for (keyword, value) in pairs {
                    keywords.set("url", &keyword, &value)?;
                }
                if let Some(password) = &self.password {
                    keywords.set("password", "password", password.expose())?;
                }
                SslMode::Prefer
            }
            None => {
                self.set_parts(&mut keywords)?;
                SslMode::Disable
            }
        };
        for (name, value) in &self.jdbc_url_params {
            keywords.set("jdbc_url_params", name, value.expose())?;
        }
        if let Some(ssl) = &self.ssl {
            let mode = ssl_mode(&ssl.mode).ok_or_else(|| Error::config("`ssl.mode`: found an unknown word"))?;
            keywords.ssl_mode("ssl.mode", mode)?;
            keywords.certificates(ssl.server_ca.as_deref(), ssl.client_cert.as_deref(), ssl.client_key.as_ref())?;
        }
        if let Some(name) = &self.application_name {
            keywords.set("application_name", "application_name", name)?;
        }
        let seconds = |limit: Option<Seconds>| limit.map(|Seconds(limit)| limit);
        keywords.timeouts(seconds(self.connect_timeout_s), seconds(self.statement_timeout_s), seconds(self.lock_timeout_s));
        let mut options = keywords.finish(default_mode)?;
        options.tunnel = match &self.ssh_config {
            Some(ssh) => ssh.resolve()?,
            None => None,
        };
        if options.tunnel.is_some() {
            refuse_sockets("host", &options.hosts)?;
            refuse_sockets("replica_hosts", &replicas.hosts)?;
        }
        Ok(options)
    }

    /// The standbys to read from.
    ///
    /// # Errors
    /// [`Kind::Config`](crate::error::Kind::Config) for an entry that names no host.
    pub fn replicas(&self) -> Result<Replicas> {
        let port = self.port.map(|port| port.to_string()).unwrap_or_default();
        let host = |entry: &String| {
            let (host, own_port) = split_port(entry);
            keywords::one_host(host, own_port.unwrap_or(&port)).map_err(|e| e.doing("read `replica_hosts`"))
        };
        let patience = self.replica_wait_s.map_or(Duration::from_secs(60), |Seconds(wait)| wait);
        Ok(Replicas { hosts: self.replica_hosts.iter().map(host).collect::<Result<_>>()?, patience })
    }

    /// The form in which tables are read.
    pub fn wire(&self) -> Wire {
        if self.backfill.wire_format.as_deref() == Some("text") { Wire::Text } else { Wire::Binary }
    }

    /// Age of the exported snapshot at which a run stops; zero means none.
    pub fn max_snapshot_age(&self) -> Duration {
        self.backfill.max_snapshot_age_s.map_or(Duration::ZERO, |Seconds(age)| age)
    }

    /// How fast tables are read.
    pub fn pace(&self) -> Pace {
        Pace::new(self.rate_limit.rows_per_second, self.rate_limit.bytes_per_second)
    }

    /// What discover looks at.
    pub fn scope(&self) -> Scope {
        Scope {
            schemas: self.schemas.clone(),
            include: self.include_tables.clone(),
            exclude: self.exclude_tables.clone(),
            views: self.include_views.unwrap_or(true),
            materialized_views: self.include_materialized_views.unwrap_or(true),
            foreign_tables: self.include_foreign_tables.unwrap_or(true),
            collapse_partitions: self.collapse_partitions,
        }
    }

    fn set_parts(&self, keywords: &mut Keywords) -> Result<()> {
        let port = self.port.map(|port| port.to_string()).unwrap_or_default();
        match (&self.host, &self.hosts[..]) {
            (Some(_), [_, ..]) => return Err(Error::config("`hosts`: found beside `host`, accepted: one of the two")),
            (Some(host), []) => keywords.host(host, &port),
            (None, several) => {
                for entry in several {
                    let (host, own_port) = split_port(entry);
                    keywords.host(host, own_port.unwrap_or(&port));
                }
            }
        }
        for (keyword, value) in [("dbname", &self.database), ("user", &self.username)] {
            if let Some(value) = value {
                keywords.set(if keyword == "user" { "username" } else { "database" }, keyword, value)?;
            }
        }
        if let Some(password) = &self.password {
            keywords.set("password", "password", password.expose())?;
        }
        Ok(())
    }

    fn refuse_parts_beside_url(&self) -> Result<()> {
        let beside = [
            ("host", self.host.is_some()),
            ("port", self.port.is_some()),
            ("hosts", !self.hosts.is_empty()),
            ("database", self.database.is_some()),
            ("username", self.username.is_some()),
        ];
        match beside.iter().find(|(_, present)| *present) {
            Some((key, _)) => Err(Error::config(format!("`{key}`: found beside `url`, accepted: either `url` or the single keys"))),
            None => Ok(()),
        }
    }

    fn refuse_blanks(&self) -> Result<()> {
        for (key, names) in [
            ("schemas", &self.schemas),
            ("include_tables", &self.include_tables),
            ("exclude_tables", &self.exclude_tables),
            ("hosts", &self.hosts),
            ("replica_hosts", &self.replica_hosts),
        ] {
            if let Some(index) = names.iter().position(|name| name.trim().is_empty()) {
                return Err(
                    Error::config(format!("`{key}[{index}]`: found an empty name, accepted: a name")).hint("remove the empty entry")
                );
            }
        }
        Ok(())
    }
}

/// A socket cannot be reached from another machine.
fn refuse_sockets(key: &str, hosts: &[Host]) -> Result<()> {
    match hosts.iter().find(|host| matches!(host, Host::Unix(..))) {
        Some(_) => Err(Error::config(format!(
            "`{key}`: found the directory of a Unix socket beside `ssh_config`, accepted: a host name or address as the SSH server knows it"
        ))
        .hint("for a database on the SSH server itself, name localhost")),
        None => Ok(()),
    }
}

/// `host:port` and `[address]:port`; a bare IPv6 address and a socket directory have no port.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    let entry = entry.trim();
    if let Some((address, rest)) = entry.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        return (address, rest.strip_prefix(':'));
    }
    match entry.split_once(':') {
        Some((host, port)) if !entry.starts_with('/') && !port.contains(':') => (host, Some(port)),
        _ => (entry, None),
    }
}

/// Notes connection parameters that are accepted and do nothing.
pub(super) fn remark(value: &Value, findings: &mut Findings) {
    let mut note = |at: &str, name: &str| {
        if let Some((_, reason)) = NO_EFFECT.iter().find(|(known, _)| *known == name) {
            findings.no_effect(&format!("{at}.{name}"), reason);
        }
    };
    for (name, _) in value["jdbc_url_params"].as_object().into_iter().flatten() {
        note("jdbc_url_params", name);
    }
    for (name, _) in value["url"].as_str().and_then(|url| connection_string::parse(url).ok()).into_iter().flatten() {
        note("url", &name);
    }
    let wait = |key: &str| value["update_method"].get(key).is_some();
    if wait("initial_wait_time") && wait("intial_wait_time") {
        findings.problems.push("`update_method.intial_wait_time`: found beside `initial_wait_time`, accepted: one of the two".to_owned());
    }
    for key in ["initial_wait_time", "intial_wait_time"].into_iter().filter(|key| !is_empty(&value["update_method"][key])) {
        findings.no_effect(&format!("update_method.{key}"), "a run ends where the log ended when it began");
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::capture::slot_judgement::OnSlotLag;
    use crate::postgres::transport::Keepalive;
    use serde_json::json;

    fn source(value: Value) -> Source {
        serde_json::from_value(value).unwrap()
    }

    fn refused(value: Value, expected: &str) {
        let error = source(value).resolve().expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }

    fn tcp(host: &str, port: u16) -> Host {
        Host::Tcp(host.to_owned(), port)
    }

    #[test]
    fn parts_and_their_defaults() {
        let options = source(json!({"host": "h", "username": "ann"})).resolve().unwrap();
        assert_eq!(options.hosts, [tcp("h", 5432)]);
        assert_eq!((options.database.as_str(), options.user.as_str(), options.application_name.as_str()), ("ann", "ann", "lakeward"));
        assert!(options.password.is_none() && options.parameters.is_empty());
        assert_eq!(options.tls.mode, SslMode::Disable);
        assert_eq!(options.connect_timeout, Duration::from_secs(30));
        assert_eq!((options.statement_timeout, options.lock_timeout), (Duration::ZERO, Duration::from_secs(60)));
    }

    #[test]
    fn every_part_of_a_connection_is_taken() {
        const PEM: &str = "-----BEGIN SOMETHING-----\nAA==\n-----END SOMETHING-----";
        let options = source(json!({
            "host": "h", "port": 7, "database": "shop", "username": "ann", "password": "pass", "application_name": "nightly", "connect_timeout_s": 5,
            "statement_timeout_s": 6, "lock_timeout_s": 8, "jdbc_url_params": {"work_mem": "7MB"},
            "ssl": {"mode": "require", "server_ca": PEM, "client_cert": PEM, "client_key": PEM}
        }));
        let options = options.resolve().unwrap();
        assert_eq!(options.hosts, [tcp("h", 7)]);
        assert_eq!((options.database.as_str(), options.user.as_str(), options.application_name.as_str()), ("shop", "ann", "nightly"));
        assert_eq!(options.password.unwrap().expose(), "pass");
        let limits = (options.connect_timeout, options.statement_timeout, options.lock_timeout);
        assert_eq!(limits, (Duration::from_secs(5), Duration::from_secs(6), Duration::from_secs(8)));
        assert_eq!(options.parameters, [("work_mem".to_owned(), "7MB".to_owned())]);
        assert_eq!((options.tls.server_ca.as_deref(), options.tls.client_cert.as_deref()), (Some(PEM), Some(PEM)));
        assert_eq!(options.tls.client_key.unwrap().expose(), PEM);
    }

    #[test]
    fn hosts_in_every_spelling() {
        let check = |value: Value, expected: &[Host]| {
            let mut source = source(value);
            source.username = Some("ann".to_owned());
            assert_eq!(source.resolve().unwrap().hosts, expected);
        };
        check(json!({"host": "/run/postgresql", "port": 6000}), &[Host::Unix("/run/postgresql".into(), 6000)]);
        check(json!({"host": "::1", "port": 6000}), &[tcp("::1", 6000)]);
        check(
            json!({"hosts": ["a", "b:1", "[::1]:2", "[::1]", "::1", "/run"], "port": 9}),
            &[tcp("a", 9), tcp("b", 1), tcp("::1", 2), tcp("::1", 9), tcp("::1", 9), Host::Unix("/run".into(), 9)],
        );
        let url = |url: &str, expected: &[Host]| assert_eq!(source(json!({"url": url})).resolve().unwrap().hosts, expected, "{url}");
        url("postgres://u@a:1,b,c:3/d", &[tcp("a", 1), tcp("b", 5432), tcp("c", 3)]);
        url("postgres://u@a,b/d?port=7", &[tcp("a", 7), tcp("b", 7)]);
        url("postgres://u@%2Frun%2Fpg/d", &[Host::Unix("/run/pg".into(), 5432)]);
        url("postgres://u@/d?host=/run/pg&port=7", &[Host::Unix("/run/pg".into(), 7)]);
        url("host=a,b port=1,2 user=u", &[tcp("a", 1), tcp("b", 2)]);
    }

    #[test]
    fn a_url_says_it_all_and_keys_beside_it_add() {
        let options = source(json!({
            "url": "postgres://ann:p%40ss@h/shop?connect_timeout=5&application_name=x&keepalives_idle=7&keepalives_count=0&search_path=a,b&statement_timeout=1500&options=-c%20geqo%3Doff&keepalives=1",
            "lock_timeout_s": "2m", "connect_timeout_s": 7
        }))
        .resolve()
        .unwrap();
        assert_eq!((options.database.as_str(), options.user.as_str()), ("shop", "ann"));
        assert_eq!(options.password.unwrap().expose(), "p@ss");
        assert_eq!((options.tls.mode, options.application_name.as_str()), (SslMode::Prefer, "x"));
        assert_eq!(options.connect_timeout, Duration::from_secs(7));
        assert_eq!((options.statement_timeout, options.lock_timeout), (Duration::from_millis(1500), Duration::from_secs(120)));
        assert_eq!(options.keepalive, Keepalive { idle: Duration::from_secs(7), ..Keepalive::default() });
        let parameters: Vec<(&str, &str)> = options.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(parameters, [("search_path", "a,b"), ("geqo", "off")]);
        let beside = source(json!({"url": "postgres://ann@h", "password": "p%40ss"})).resolve().unwrap();
        assert_eq!(beside.password.unwrap().expose(), "p%40ss");
    }

    #[test]
    fn sslmode_from_any_place() {
        let check = |value: Value, expected: SslMode| assert_eq!(source(value).resolve().unwrap().tls.mode, expected);
        check(json!({"host": "h", "username": "u", "ssl": {"mode": "verify-full"}}), SslMode::VerifyFull);
        check(json!({"host": "h", "username": "u", "jdbc_url_params": {"sslmode": "require"}}), SslMode::Require);
        check(json!({"host": "h", "username": "u", "ssl": {"mode": "allow"}, "jdbc_url_params": {"sslmode": "allow"}}), SslMode::Allow);
        check(json!({"url": "postgres://u@h?sslmode=verify-ca"}), SslMode::VerifyCa);
        check(json!({"url": "postgres://u@h", "ssl": {"mode": "disable"}}), SslMode::Disable);
        refused(json!({"url": "postgres://u@h?sslmode=require", "ssl": {"mode": "disable"}}), "another sslmode");
    }

    #[test]
    fn certificates_are_text_or_files() {
        const PEM: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, PEM).unwrap();
        let check = |ca: &str, expected: Option<&str>| {
            let value =
                json!({"host": "h", "username": "u", "ssl": {"mode": "verify-ca", "server_ca": ca, "client_cert": "", "client_key": ""}});
            let tls = source(value).resolve().unwrap().tls;
            assert_eq!(tls.server_ca.as_deref(), expected);
            assert!(tls.client_cert.is_none() && tls.client_key.is_none());
        };
        check(PEM, Some(PEM));
        check(&PEM.replace('\n', "\\n"), Some(PEM));
        check(path.to_str().unwrap(), Some(PEM));
        check(" ", None);
        std::fs::write(&path, "secret text").unwrap();
        refused(
            json!({"url": format!("postgres://u@h?sslrootcert={}", path.display())}),
            "`url.sslrootcert`: the file holds no -----BEGIN line",
        );
        refused(json!({"host": "h", "username": "u", "ssl": {"mode": "require", "client_cert": PEM}}), "belong together");
        assert!(source(json!({"url": "postgres://u@h?sslmode=verify-full&sslrootcert=system"})).resolve().unwrap().tls.server_ca.is_none());
    }

    #[test]
    fn contradictions_are_refused() {
        refused(json!({"url": "postgres://u@h", "port": 1}), "`port`: found beside `url`");
        refused(json!({"url": "postgres://u:a@h", "password": "b"}), "`password`: password is given a second time");
        refused(json!({"host": "h", "username": "u", "jdbc_url_params": {"host": "other"}}), "host is given a second time");
        refused(json!({"host": "h", "username": "u", "jdbc_url_params": {"user": "v"}}), "user is given a second time");
        refused(json!({"url": "postgres://u@a,b,c?port=1,2"}), "3 hosts and 2 ports");
        refused(json!({"url": "postgres://u@a,b?target_session_attrs=any"}), "`any` with several hosts");
        refused(json!({"url": "postgres://u@a?target_session_attrs=standby"}), "accepted: any");
        refused(json!({"url": "postgres://u@a:0"}), "`port` of host 1");
        refused(json!({"url": "postgres://u@h?client_encoding=LATIN1"}), "accepted: UTF8");
        refused(json!({"url": "postgres://u@h?passfile=/x"}), "passfile: is not built yet");
        refused(json!({"url": "postgres://u@h?search_path=a%00b"}), "holds a zero byte");
        refused(json!({"host": "", "username": "u"}), "`host`: found nothing");
        refused(json!({"host": "a b", "username": "u"}), "characters that no host name has");
        refused(json!({"host": "h", "username": ""}), "`username`: found nothing");
        refused(json!({"hosts": ["a", " "], "username": "u"}), "`hosts[1]`: found an empty name");
        refused(json!({"host": "h", "username": "u", "exclude_tables": [""]}), "`exclude_tables[0]`");
    }

    #[test]
    fn a_slot_may_hold_back_so_much_and_no_more() {
        let terms = |more: Value| {
            let mut method = json!({"replication_slot": "s", "publication": "p"});
            method.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let terms = source(json!({"update_method": method})).capture().unwrap().unwrap();
            (terms.max_slot_lag_bytes, terms.on_slot_lag)
        };
        assert_eq!(terms(json!({})), (Some(50 << 30), OnSlotLag::Warn));
        assert_eq!(terms(json!({"max_slot_lag_bytes": 0, "on_slot_lag": "stop"})), (None, OnSlotLag::Stop));
        assert_eq!(terms(json!({"max_slot_lag_bytes": 7, "on_slot_lag": "drop_slot"})), (Some(7), OnSlotLag::DropSlot));
    }

    #[test]
    fn counts_fall_back_as_in_olake() {
        let check = |threads: Value, connections: usize, readers: usize| {
            let source = source(json!({"max_threads": threads}));
            assert_eq!((source.connections(), source.readers()), (connections, readers));
        };
        check(Value::Null, 3, 2);
        check(json!(0), 3, 2);
        check(json!(-7), 3, 2);
        check(json!(1), 1, 1);
        check(json!(2), 2, 1);
        check(json!(50), 50, 49);
        check(json!(i64::MAX), 1000, 999);
        assert_eq!(source(json!({"retry_count": -1})).retries(), 0);
        assert_eq!(source(json!({"retry_count": 3})).retries(), 3);
        assert_eq!(source(json!({"retry_count": i64::MAX})).retries(), u32::MAX);
    }
}
