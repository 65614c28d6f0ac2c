//! Our own client: one connection, one command at a time, one receive buffer.
//!
//! It exists because rows arrive here by the hundred million: [`Connection::copy_out`] hands out slices of
//! the receive buffer, where `tokio-postgres` allocates for each row and passes it through a queue.
//! It knows no types and no tables.

use super::connect::{ConnectOptions, Host, TlsOptions, within};
use super::copy::{CopyOut, Copying};
use super::duplex::{Duplex, Writer};
use super::frame::{self, BUFFER_BYTES, Body, Buffer, HEADER_BYTES, Header, Report, garbage};
use super::sign_of_life::Task;
use super::startup::{self, Hold, unexpected};
use super::transport::{self, Encryption, Keepalive, Stream};
use super::tunnel::{Lane, Tunnel};
use super::{connect, sign_of_life, sqlstate};
use crate::error::{Context, Error, Result};
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::CertificateDer;
use std::collections::HashMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Text results are for small answers; tables travel by COPY.
const RESULT_BYTES_MAX: usize = 64 << 20;

/// A session of our own client.
pub struct Connection {
    stream: Duplex,
    pub(super) buffer: Buffer,
    state: State,
    parameters: HashMap<String, String>,
    pid: i32,
    key: i32,
    mode: Mode,
    host: Host,
    tls: TlsOptions,
    tunnel: Option<Tunnel>,
    keepalive: Keepalive,
    timeout: Duration,
    options: Box<ConnectOptions>,
    /// The server's process, if it may be asked after.
    process: Option<i32>,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// SQL.
    Sql,
    /// Replication commands, and SQL too (manual, "Streaming Replication Protocol": `replication=database`).
    Replication,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The server waits for a command.
    Idle,
    /// A command was sent and its ReadyForQuery has not been read.
    Busy,
    /// The stream has ended or is out of step.
    Closed,
}

impl Connection {
    /// Logs in over an open stream.
    pub(super) async fn login(stream: Stream, options: &ConnectOptions, host: &Host, mode: Mode) -> Result<Self> {
        let mut connection = Self {
            stream: Duplex::new(stream),
            buffer: Buffer::new(BUFFER_BYTES),
            state: State::Busy,
            parameters: HashMap::new(),
            pid: 0,
            key: 0,
            mode,
            host: host.clone(),
            tls: options.tls.clone(),
            tunnel: options.tunnel.clone(),
            keepalive: options.keepalive,
            timeout: options.connect_timeout,
            options: Box::new(options.clone()),
            process: None,
        };
        startup::login(&mut connection, options, mode).await?;
        connection.state = State::Idle;
        Ok(connection)
    }

    /// Runs one or more statements and returns the rows of the last one that has rows, as text.
    pub async fn simple(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.query(sql).await?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut failure = None;
        loop {
            match self.next_in_command(&mut failure).await? {
                (b'T', _) => rows.clear(),
                (b'D', body) if failure.is_none() => {
                    bytes += body.len();
                    if bytes > RESULT_BYTES_MAX {
                        failure = Some(Error::source_db(format!("the answer is larger than {} MiB", RESULT_BYTES_MAX >> 20)));
                        rows = Vec::new();
                    } else {
                        match frame::text_row(&body) {
                            Ok(row) => rows.push(row),
                            Err(error) => failure = Some(error),
                        }
                    }
                }
                (b'D' | b'C' | b'I', _) => {}
                (b'Z', _) => return self.ready(failure).map(|()| rows),
                (tag, _) => return Err(self.broken(unexpected(tag, "in the answer to a query"))),
            }
        }
    }

    /// Starts `COPY … TO STDOUT`. Statements before it in `sql` are run; their rows are ignored.
    pub async fn copy_out(&mut self, sql: &str) -> Result<CopyOut<'_>> {
        let copying = self.begin_copy(sql).await?;
        Ok(CopyOut::new(self, copying))
    }

    /// The same, for a caller that keeps the connection itself.
    pub(super) async fn begin_copy(&mut self, sql: &str) -> Result<Copying> {
        self.query(sql).await?;
        let mut failure = None;
        loop {
            match self.next_in_command(&mut failure).await? {
                (b'H', body) => {
                    let mut body = Body(&body);
                    let (format, columns) = match body.u8().and_then(|format| Ok((format, body.u16()?))) {
                        Ok(found) => found,
                        Err(error) => return Err(self.broken(error)),
                    };
                    return Ok(Copying::new(format == 1, columns));
                }
                (b'T' | b'D' | b'C' | b'I', _) => {}
                (b'Z', _) => return Err(self.ready(failure).err().unwrap_or_else(|| Error::bug("the statement is no COPY … TO STDOUT"))),
                (tag, _) => return Err(self.broken(unexpected(tag, "in the answer to COPY … TO STDOUT"))),
            }
        }
    }

    /// A parameter that the server reported, such as `server_version` or `TimeZone`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The query that gives this session its settings for the transaction, or until it ends; see `startup::settings`.
    pub fn settings(&self, options: &ConnectOptions, local: bool) -> String {
        let hold = match self.mode {
            _ if local => Hold::Transaction,
            Mode::Sql => Hold::Session(self.pid),
            Mode::Replication => Hold::Walsender,
        };
        startup::settings(options, self.server_version(), hold, self.parameter("server_encoding") == Some("SQL_ASCII"))
    }

    /// The server's version as a number, 150018 for 15.18; 0 if the server told none.
    pub fn server_version(&self) -> u32 {
        startup::version_number(self.parameter("server_version").unwrap_or(""))
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// From now on the server may be asked after this process.
    pub(super) fn serve(&mut self, process: Option<i32>) {
        self.process = process;
    }

    /// How the server is asked after the session's process, if it may be.
    pub(super) fn asked_after(&self) -> Option<(ConnectOptions, i32)> {
        Some((ConnectOptions::clone(&self.options), self.process?))
    }

    /// The process that serves this session, as in `pg_stat_activity`.
    pub fn backend_pid(&self) -> i32 {
        self.pid
    }

    /// Whether the stream is encrypted.
    pub fn is_tls(&self) -> bool {
        self.stream.lock().is_tls()
    }

    /// Can stop this session's command from another task.
    pub fn cancel_token(&self) -> CancelToken {
        let encryption = if self.is_tls() { Encryption::Required } else { Encryption::Plain };
        let (host, tls) = (self.host.clone(), self.tls.clone());
        CancelToken {
            host,
            tls,
            tunnel: self.tunnel.clone(),
            encryption,
            keepalive: self.keepalive,
            timeout: self.timeout,
            pid: self.pid,
            key: self.key,
        }
    }

    /// Says goodbye, so that the server does not log a lost connection. Dropping is enough otherwise.
    pub async fn close(mut self) {
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        if self.state == State::Idle && self.send(&out).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }

    /// The certificate that the server presented.
    pub(super) fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.stream.lock().certificate().cloned()
    }

    /// Starts or stops to let bytes gather before a read returns.
    pub(super) fn gather(&mut self, on: bool) {
        self.stream.lock().gather(on);
    }

    /// The sending side, for another task; meanwhile nothing may be sent from here.
    pub(super) fn writer(&self) -> Writer {
        self.stream.writer()
    }

    pub(super) fn set_key(&mut self, body: &mut Body<'_>) -> Result<()> {
        (self.pid, self.key) = (body.i32()?, body.i32()?);
        Ok(())
    }

    /// The command has ended; its result is `failure`, if there was one.
    pub(super) fn ready(&mut self, failure: Option<Error>) -> Result<()> {
        self.state = State::Idle;
        self.buffer.resize(BUFFER_BYTES);
        failure.map_or(Ok(()), Err)
    }

    /// Nothing more can be done with this connection.
    pub(super) fn broken(&mut self, error: Error) -> Error {
        self.state = State::Closed;
        error
    }

    pub(super) async fn query(&mut self, sql: &str) -> Result<()> {
        match self.state {
            State::Idle => {}
            State::Busy => return Err(Error::bug("the connection is still busy with a command that was given up")),
            State::Closed => return Err(sqlstate::lost("the connection is closed")),
        }
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out).map_err(|_| Error::config("a query holds a NUL byte, which PostgreSQL cannot take"))?;
        self.state = State::Busy;
        self.send(&out).await
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match self.stream.write_all(bytes).await {
            Ok(()) => self.stream.flush().await,
            error => error,
        };
        // A server that ends a session says why before it hangs up, and that is the better message.
        match written {
            Err(e) if !matches!(e.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset) => {
                Err(self.broken(sqlstate::io_error(&e)))
            }
            _ => Ok(()),
        }
    }

    /// Waits for bytes and appends them to the buffer.
    pub(super) async fn fill(&mut self) -> Result<usize> {
        match self.stream.read(self.buffer.room()).await {
            Ok(0) => Err(self.broken(sqlstate::lost("the server closed the connection"))),
            Ok(n) => {
                self.buffer.filled(n);
                Ok(n)
            }
            Err(e) => Err(self.broken(sqlstate::io_error(&e))),
        }
    }

    /// [`Connection::fill`] while an answer is to come: a server that says nothing is asked after ([`sign_of_life`]).
    async fn fill_soon(&mut self) -> Result<usize> {
        let Some(process) = self.process else { return self.fill().await };
        loop {
            match tokio::time::timeout(sign_of_life::patience(&self.options), self.fill()).await {
                Ok(filled) => return filled,
                Err(_) => {
                    // What has come meanwhile waits in the socket: one more look, then.
                    if let Some(error) = sign_of_life::given_up(&self.options, process, Task::Statement, || true).await {
                        let last = tokio::time::timeout(Duration::from_millis(10), self.fill()).await;
                        return last.unwrap_or_else(|_| Err(self.broken(error)));
                    }
                }
            }
        }
    }

    /// The next message outside of COPY; errors end the call.
    pub(super) async fn next(&mut self) -> Result<(u8, Vec<u8>)> {
        loop {
            let message = match self.buffer.message() {
                Ok(Some((header, body))) => Some((header, body.to_vec())),
                Ok(None) => None,
                Err(error) => return Err(self.broken(error)),
            };
            let Some((header, body)) = message else {
                // Row data that nobody asked for must not fill the memory.
                if let Ok(Some(header)) = Header::parse(self.buffer.unread())
                    && header.body > RESULT_BYTES_MAX
                {
                    return Err(self.broken(Error::source_db(format!("the answer is larger than {} MiB", RESULT_BYTES_MAX >> 20))));
                }
                self.fill_soon().await?;
                continue;
            };
            self.buffer.consume(header.message_bytes());
            if self.aside(header.tag, &body)? {
                continue;
            }
            if header.tag == b'E' {
                return Err(self.reported(&body)?);
            }
            return Ok((header.tag, body));
        }
    }

    /// The next message of a command. An error of the statement goes to `failure`: the server still sends
    /// ReadyForQuery, and the session lives on.
    pub(super) async fn next_in_command(&mut self, failure: &mut Option<Error>) -> Result<(u8, Vec<u8>)> {
        loop {
            match self.next().await {
                Err(error) if self.state == State::Busy => {
                    failure.get_or_insert(error);
                }
                other => return other.map_err(|lost| failure.take().unwrap_or(lost)),
            }
        }
    }

    /// Takes a complete message off the front of the buffer; `None` if it is one that may come at any time.
    pub(super) fn take(&mut self, header: Header) -> Result<Option<Vec<u8>>> {
        let body = self.buffer.unread().get(HEADER_BYTES..header.message_bytes()).unwrap_or_default().to_vec();
        self.buffer.consume(header.message_bytes());
        Ok(if self.aside(header.tag, &body)? { None } else { Some(body) })
    }

    /// The error in an ErrorResponse. One that ends the session comes as the error of this call.
    pub(super) fn reported(&mut self, body: &[u8]) -> Result<Error> {
        let report = Report::parse(body).map_err(|error| self.broken(error))?;
        let error = sqlstate::report_error(&report);
        if report.is_fatal() { Err(self.broken(error)) } else { Ok(error) }
    }

    /// Takes messages that may come at any time: notices, parameters, notifications.
    pub(super) fn aside(&mut self, tag: u8, body: &[u8]) -> Result<bool> {
        match tag {
            b'N' => {
                let report = Report::parse(body).map_err(|error| self.broken(error))?;
                notice(&report.severity, &report.message);
            }
            b'S' => {
                let mut body = Body(body);
                let pair = body.cstr().and_then(|name| Ok((name, body.cstr()?)));
                let (name, value) = pair.map_err(|error| self.broken(error))?;
                // Servers report a dozen; more is somebody filling our memory.
                if self.parameters.len() < 256 {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    self.parameters.insert(text(name), text(value));
                }
            }
            b'A' => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Passes on what the server remarks.
pub(super) fn notice(severity: &str, message: &str) {
    if severity == "WARNING" { tracing::warn!("postgres: {message}") } else { tracing::debug!("postgres: {severity}: {message}") }
}

/// Stops the command of a session (manual, "Canceling Requests in Progress").
#[derive(Clone)]
pub struct CancelToken {
    host: Host,
    tls: TlsOptions,
    tunnel: Option<Tunnel>,
    encryption: Encryption,
    keepalive: Keepalive,
    timeout: Duration,
    pid: i32,
    key: i32,
}

impl CancelToken {
    /// Asks the server to stop whatever the session is doing; its command then ends with SQLSTATE 57014.
    /// Comes back when the server has taken the request, which says nothing about its effect.
    pub async fn cancel(&self) -> Result<()> {
        within(self.timeout, self.send()).await.doing(|| format!("cancel a query at {}", self.host))
    }

    async fn send(&self) -> Result<()> {
        let ssh = match &self.tunnel {
            Some(tunnel) => Some(tunnel.connection(Lane::Shared, self.keepalive, self.timeout).await?),
            None => None,
        };
        let deadline = connect::deadline(self.timeout);
        let mut stream = transport::open(&self.host, ssh.as_ref(), self.encryption, &self.tls, self.keepalive, deadline).await?;
        let mut out = BytesMut::new();
        frontend::cancel_request(self.pid, self.key, &mut out);
        let io = |e: std::io::Error| sqlstate::io_error(&e);
        stream.write_all(&out).await.map_err(io)?;
        stream.flush().await.map_err(io)?;
        // The server answers by hanging up, with or without a TLS farewell.
        match stream.read(&mut [0]).await {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => Err(garbage("an answer to a cancel request")),
        }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
