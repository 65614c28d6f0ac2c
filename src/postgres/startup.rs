//! Logging in: start-up message and authentication of our own client (manual, "Start-up" and "SASL
//! Authentication"), and the settings that every session of either client gets.
//!
//! Poolers refuse start-up parameters that they do not know. So only the ones that all know are sent
//! there, and the rest follows as one query.

use super::connect::ConnectOptions;
use super::frame::{Body, garbage};
use super::wire::{Connection, Mode};
use super::{quote, sqlstate, tls};
use crate::error::{Error, Result};
use bytes::BytesMut;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use std::io;
use std::time::Duration;

/// How values become text, so that the same row gives the same text in every database. (`client_encoding`
/// is part of the start-up message.) Doubles are exact with 3 on every version.
const TEXT_SETTINGS: [(&str, &str); 5] =
    [("DateStyle", "ISO"), ("IntervalStyle", "postgres"), ("TimeZone", "UTC"), ("extra_float_digits", "3"), ("bytea_output", "hex")];

/// How soon the server notices that we are gone, where the network has swallowed the news; Linux alone would take two hours.
const KEEPALIVES: [(&str, &str); 3] = [("tcp_keepalives_idle", "60"), ("tcp_keepalives_interval", "15"), ("tcp_keepalives_count", "4")];

/// How long settings hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// For the transaction that they are sent in.
    Transaction,
    /// For the session, when it is served by the process that was named at login. If not, there is a pooler between, and
    /// for the query only: its server connections serve others after us.
    Session(i32),
    /// For a session in replication mode: a pooler that lets one through gives it a server connection of its own.
    Walsender,
}

/// The query that gives a session of `version` (as 150018) its settings; its first two columns say whether there is a
/// pooler, and whether the server is a standby. With `unchecked` text comes as it is stored, which a server without an encoding
/// (SQL_ASCII) would else refuse to send where it is not UTF-8, and the error would not say which row it is in; who reads it
/// has to look.
pub fn settings(options: &ConnectOptions, version: u32, hold: Hold, unchecked: bool) -> String {
    let mut all: Vec<(&str, String)> = TEXT_SETTINGS.map(|(name, value)| (name, value.to_owned())).into();
    if unchecked {
        all.push(("client_encoding", "SQL_ASCII".to_owned()));
    }
    all.push(("statement_timeout", milliseconds(options.statement_timeout)));
    all.push(("lock_timeout", milliseconds(options.lock_timeout)));
    // Idle sessions and long transactions are how a consistent copy is made.
    all.push(("idle_in_transaction_session_timeout", "0".to_owned()));
    if version >= 140_000 {
        all.push(("idle_session_timeout", "0".to_owned()));
    }
    if version >= 170_000 {
        all.push(("transaction_timeout", "0".to_owned()));
    }
    // What is left of a client that has vanished (its snapshot, which keeps vacuum from its work) goes in minutes, not hours.
    all.extend(KEEPALIVES.map(|(name, value)| (name, value.to_owned())));
    if version >= 120_000 {
        // A reader that waits, for its rate or its memory, takes nothing for longer than an administrator may think healthy.
        all.push(("tcp_user_timeout", "0".to_owned()));
    }
    all.extend(options.parameters.iter().filter(|(name, _)| !is_startup(name)).map(|(name, value)| (name.as_str(), value.clone())));
    let (pooled, local) = match hold {
        Hold::Transaction => ("NULL".to_owned(), "true".to_owned()),
        Hold::Walsender => ("false".to_owned(), "false".to_owned()),
        Hold::Session(process) => (format!("pg_backend_pid() <> {process}"), format!("pg_backend_pid() <> {process}")),
    };
    let mut calls: Vec<String> =
        all.iter().map(|(name, value)| format!("set_config({}, {}, {local})", quote::literal(name), quote::literal(value))).collect();
    if version >= 140_000 {
        // Other systems refuse it.
        let value = "CASE WHEN version() LIKE '%linux%' THEN '10s' ELSE '0' END";
        calls.push(format!("set_config('client_connection_check_interval', {value}, {local})"));
    }
    format!("SELECT {pooled}, pg_is_in_recovery(), {}", calls.join(", "))
}

/// The limits alone, for a transaction that must not take its snapshot yet, which a query would do.
pub fn limits(options: &ConnectOptions) -> String {
    let (statement, lock) = (milliseconds(options.statement_timeout), milliseconds(options.lock_timeout));
    format!("SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock}")
}

fn milliseconds(time: Duration) -> String {
    time.as_millis().min(i32::MAX as u128).to_string()
}

/// `options` is libpq's way to set what can only be set at start-up; it has no meaning later.
fn is_startup(name: &str) -> bool {
    name == "options"
}

/// The value of the `options` start-up parameter.
pub fn startup_options(options: &ConnectOptions) -> Option<&str> {
    options.parameters.iter().find(|(name, _)| is_startup(name)).map(|(_, value)| value.as_str())
}

/// The password to offer; an empty one counts as none, as in libpq.
pub fn password(options: &ConnectOptions) -> Option<&str> {
    options.password.as_ref().map(|secret| secret.expose()).filter(|password| !password.is_empty())
}

/// `server_version` as a number: "15.18 (Debian …)" → 150018, "9.6.24" → 90624; 0 if it is none.
pub fn version_number(text: &str) -> u32 {
    let mut parts = text.split('.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..digits].parse::<u32>().unwrap_or(0).min(9_999)
    });
    let mut next = || parts.next().unwrap_or(0);
    match next() {
        major @ 10.. => major * 10_000 + next(),
        major => major * 10_000 + next() * 100 + next(),
    }
}

/// Sends the start-up message, authenticates, and reads up to the first ReadyForQuery.
pub async fn login(connection: &mut Connection, options: &ConnectOptions, mode: Mode) -> Result<()> {
    let mut parameters = vec![
        ("user", options.user.as_str()),
        ("database", options.database.as_str()),
        ("application_name", options.application_name.as_str()),
        ("client_encoding", "UTF8"),
    ];
    parameters.extend((mode == Mode::Replication).then_some(("replication", "database")));
    parameters.extend(startup_options(options).map(|value| ("options", value)));
    send(connection, |out| frontend::startup_message(parameters.iter().copied(), out)).await?;
    authenticate(connection, options).await?;
    loop {
        match connection.next().await? {
            (b'K', body) => connection.set_key(&mut Body(&body))?,
            (b'Z', _) => return Ok(()),
            (tag, _) => return Err(unexpected(tag, "at login")),
        }
    }
}

async fn authenticate(connection: &mut Connection, options: &ConnectOptions) -> Result<()> {
    let password = || password(options).map(str::as_bytes).ok_or_else(sqlstate::no_password);
    let message = request(connection).await?;
    let mut body = Body(&message);
    match body.i32()? {
        0 => return Ok(()),
        3 => {
            let password = password()?;
            send(connection, |out| frontend::password_message(password, out)).await?;
        }
        5 => {
            let hash = md5_hash(options.user.as_bytes(), password()?, body.array()?);
            send(connection, |out| frontend::password_message(hash.as_bytes(), out)).await?;
        }
        10 => scram(connection, body, password()?).await?,
        other => {
            let method = match other {
                2 => "Kerberos 5",
                7 | 8 => "GSSAPI",
                9 => "SSPI",
                _ => "an unknown method",
            };
            return Err(Error::source_db(format!("the server asks for authentication by {method}, which is not supported"))
                .hint("let this user in with scram-sha-256, md5, password or cert in pg_hba.conf"));
        }
    }
    match Body(&request(connection).await?).i32()? {
        0 => Ok(()),
        other => Err(garbage(format!("authentication request {other}"))),
    }
}

/// SCRAM-SHA-256 (RFC 5802, 7677). Succeeds only when the server has proved that it knows the password too.
async fn scram(connection: &mut Connection, mut body: Body<'_>, password: &[u8]) -> Result<()> {
    let (mut plain, mut plus) = (false, false);
    loop {
        match body.cstr()? {
            b"" => break,
            mechanism if mechanism == sasl::SCRAM_SHA_256.as_bytes() => plain = true,
            mechanism if mechanism == sasl::SCRAM_SHA_256_PLUS.as_bytes() => plus = true,
            _ => {}
        }
    }
    let bound = connection.certificate().as_ref().and_then(tls::channel_binding);
    let (mechanism, binding) = match (plus, plain, bound) {
        (true, _, Some(data)) => (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(data)),
        // We could have: if the server could have too, somebody removed its offer, and the server will notice.
        (false, true, Some(_)) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
        (_, true, None) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        _ => {
            return Err(Error::source_db("the server offers no authentication method that is supported")
                .hint("let this user in with scram-sha-256 in pg_hba.conf"));
        }
    };
    let mut scram = sasl::ScramSha256::new(password, binding);
    send(connection, |out| frontend::sasl_initial_response(mechanism, scram.message(), out)).await?;
    scram.update(&sasl_reply(connection, 11).await?).map_err(not_proved)?;
    send(connection, |out| frontend::sasl_response(scram.message(), out)).await?;
    scram.finish(&sasl_reply(connection, 12).await?).map_err(not_proved)
}

fn not_proved(e: io::Error) -> Error {
    Error::source_db(format!("the server's part of SCRAM authentication is wrong ({e})"))
        .hint("the server may be an impostor: check host, port and sslmode")
}

async fn sasl_reply(connection: &mut Connection, expected: i32) -> Result<Vec<u8>> {
    let message = request(connection).await?;
    let mut body = Body(&message);
    match body.i32()? {
        found if found == expected => Ok(body.0.to_vec()),
        found => Err(garbage(format!("authentication request {found} in the middle of SCRAM"))),
    }
}

/// The next authentication request.
async fn request(connection: &mut Connection) -> Result<Vec<u8>> {
    match connection.next().await? {
        (b'R', body) => Ok(body),
        (tag, _) => Err(unexpected(tag, "at login")),
    }
}

/// Encodes and sends one message. Encoding fails only on strings that hold a NUL byte.
async fn send(connection: &mut Connection, encode: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<()> {
    let mut out = BytesMut::new();
    encode(&mut out).map_err(|e| Error::config(format!("user, password, database or application name cannot be sent ({e})")))?;
    connection.send(&out).await
}

/// A message that has no place here.
pub fn unexpected(tag: u8, place: &str) -> Error {
    garbage(format!("a message of type {} {place}", tag.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_become_numbers() {
        let check = |text, expected| assert_eq!(version_number(text), expected, "{text}");
        check("15.18 (Debian 15.18-0+deb12u1)", 150_018);
        check("18beta1", 180_000);
        check("9.6.24", 90_624);
        check("11.2-YB-2.20", 110_002);
        check("", 0);
        check("x.y", 0);
        check("99999.1", 9_999 * 10_000 + 1);
    }
}
