//! A catalog's database on a PostgreSQL server: one connection, made when it is first needed and again after it was lost.
//!
//! Statements are sent in one round trip and prepared under no name, which works behind poolers too. Reading is repeated once when the
//! connection turns out to be gone; what changes something never is, and its outcome is then not known. Knows no statements.

use super::tls::Connector;
use super::url::{Encryption, Server};
use super::{Failure, Rows};
use crate::{Error, Kind, Result};
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config};

/// How long one statement may take, waiting for others' included.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long connecting may take, if the URL does not say.
const CONNECT: Duration = Duration::from_secs(30);

/// A server, and a connection to it.
pub(super) struct Postgres {
    config: Config,
    connector: Connector,
    /// Where it is, for messages.
    shown: String,
    client: Mutex<Option<Arc<Client>>>,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Postgres({})", self.shown)
    }
}

impl Postgres {
    /// Nothing is connected yet.
    pub(super) fn new(server: Server) -> Result<Self> {
        let connector = Connector::new(&server)?;
        let socket = server.hosts.iter().all(|(host, _)| host.starts_with('/'));
        let mut config = Config::new();
        for (host, port) in &server.hosts {
            config.host(host).port(*port);
        }
        config
            .user(server.user.clone().or_else(|| std::env::var("USER").ok()).as_deref().unwrap_or("postgres"))
            .application_name(server.application.as_deref().unwrap_or("lakeward"))
            .connect_timeout(server.connect_timeout.unwrap_or(CONNECT))
            .tcp_user_timeout(PATIENCE)
            .keepalives_idle(Duration::from_secs(30))
            .ssl_mode(match server.encryption {
                Encryption::Disable => SslMode::Disable,
                _ if socket => SslMode::Disable,
                Encryption::Prefer => SslMode::Prefer,
                Encryption::Require | Encryption::VerifyCa | Encryption::VerifyFull => SslMode::Require,
            });
        if let Some(database) = &server.database {
            config.dbname(database);
        }
        if let Some(password) = &server.password {
            config.password(password.expose());
        }
        if let Some(schema) = &server.schema {
            // Spaces and backslashes end an option.
            let escaped: String = schema.chars().flat_map(|c| [(c == ' ' || c == '\\').then_some('\\'), Some(c)]).flatten().collect();
            config.options(format!("-c search_path={escaped}"));
        }
        if server.hosts.len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let places: Vec<String> = server.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        let shown = format!("{}/{}", places.join(","), server.database.as_deref().unwrap_or_default());
        Ok(Self { config, connector, shown, client: Mutex::new(None) })
    }

    pub(super) async fn execute(&self, sql: &str, params: &[&str]) -> Result<u64, Failure> {
        let client = self.client().await?;
        let work = async { client.execute_typed(sql, &typed(params)).await };
        self.within(&client, work).await
    }

    pub(super) async fn query(&self, sql: &str, params: &[&str]) -> Result<Rows, Failure> {
        match self.query_once(sql, params).await {
            Err(Failure::Lost(_)) => self.query_once(sql, params).await,
            other => other,
        }
    }

    async fn query_once(&self, sql: &str, params: &[&str]) -> Result<Rows, Failure> {
        let client = self.client().await?;
        let work = async {
            let rows = client.query_typed(sql, &typed(params)).await?;
            rows.iter().map(|row| (0..row.len()).map(|i| row.try_get(i)).collect()).collect()
        };
        self.within(&client, work).await
    }

    pub(super) async fn trial(&self, statements: &[String]) -> Result<(), Failure> {
        let client = self.client().await?;
        let sql = format!("BEGIN; {}; ROLLBACK", statements.join("; "));
        let done = self.within(&client, async { client.batch_execute(&sql).await }).await;
        if done.is_err() {
            // It is within a transaction that failed.
            self.forget(&client).await;
        }
        done
    }

    /// The connection, made if need be.
    async fn client(&self) -> Result<Arc<Client>, Failure> {
        let mut slot = self.client.lock().await;
        if let Some(client) = slot.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let connecting = |e| connection_failed(&e, &self.shown);
        let (client, connection) = self.config.connect(self.connector.clone()).await.map_err(connecting)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("the connection to the catalog's database ended: {error}");
            }
        });
        let client = Arc::new(client);
        *slot = Some(client.clone());
        Ok(client)
    }

    async fn within<T>(&self, client: &Arc<Client>, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Failure> {
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(explain(error, &self.shown)),
            Err(_) => {
                self.forget(client).await;
                let message = format!("{} has not answered for {} seconds", self.shown, PATIENCE.as_secs());
                Err(Failure::Lost(Error::new(Kind::Storage, message).hint("look at the catalog's database, then run again")))
            }
        }
    }

    async fn forget(&self, client: &Arc<Client>) {
        let mut slot = self.client.lock().await;
        if slot.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, client)) {
            *slot = None;
        }
    }
}

fn typed<'p>(params: &'p [&'p str]) -> Vec<(&'p (dyn ToSql + Sync), Type)> {
    params.iter().map(|param| (param as &(dyn ToSql + Sync), Type::TEXT)).collect()
}

/// The whole chain in one line.
fn words(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return error.message().to_owned();
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn connection_failed(error: &tokio_postgres::Error, shown: &str) -> Failure {
    let built = Error::new(Kind::Storage, format!("cannot connect to the catalog's database {shown}: {}", words(error)));
    let Some(code) = error.code() else {
        return Failure::Busy(built.hint("start the server, or correct host, port and sslmode in `jdbc_url`"));
    };
    match *code {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            Failure::Refused(built.hint("correct `jdbc_username` and `jdbc_password`, or the user and password in `jdbc_url`"))
        }
        SqlState::INVALID_CATALOG_NAME => Failure::Refused(built.hint("create the database, or correct its name in `jdbc_url`")),
        _ if code.code().starts_with("28") || code.code().starts_with("42") => Failure::Refused(built),
        _ => Failure::Busy(built),
    }
}

fn explain(error: tokio_postgres::Error, shown: &str) -> Failure {
    let message = format!("the catalog's database {shown}: {}", words(&error));
    let Some(code) = error.code() else {
        return Failure::Lost(Error::new(Kind::Storage, message));
    };
    match code.code() {
        "23505" | "42P07" | "42710" => Failure::Taken(Error::new(Kind::Conflict, message)),
        // Serialisation, deadlock, lock not available, cancelled by a timeout: undone as a whole.
        "40001" | "40P01" | "55P03" | "57014" => Failure::Busy(Error::new(Kind::Storage, message)),
        "42501" => Failure::Refused(Error::new(Kind::Storage, message).hint(
            "grant the user SELECT, INSERT, UPDATE and DELETE on iceberg_tables and iceberg_namespace_properties, or CREATE on the schema",
        )),
        "25006" => Failure::Refused(Error::new(Kind::Storage, message).hint("let `jdbc_url` name a server that takes writes")),
        // Connection, resources, operator, system: it may have happened.
        other if ["08", "53", "57", "58", "XX"].iter().any(|class| other.starts_with(class)) => {
            Failure::Lost(Error::new(Kind::Storage, message))
        }
        _ => Failure::Refused(Error::new(Kind::Storage, message)),
    }
}
