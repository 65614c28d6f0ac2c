//! What a refusal by PostgreSQL means: who must act, whether trying again helps, what to do.
//!
//! One table from SQLSTATE (manual, appendix "PostgreSQL Error Codes") to our [`Error`], for both clients.

use super::frame::Report;
use super::tls;
use crate::error::{Error, Result};
use std::error::Error as _;
use std::io;

/// The error for a server report from our own client.
pub fn report_error(report: &Report) -> Error {
    error(&report.code, &report.message, report.detail.as_deref(), report.hint.as_deref())
}

/// The error for an error of `tokio-postgres`: what the server said, or a lost connection (transient).
pub fn sql_error(e: &tokio_postgres::Error) -> Error {
    if let Some(db) = e.as_db_error() {
        return error(db.code().code(), db.message(), db.detail(), db.hint());
    }
    if e.is_closed() {
        return lost("the server closed the connection");
    }
    match e.source() {
        Some(source) => match source.downcast_ref::<io::Error>() {
            Some(io) => io_error(io),
            None if source.to_string() == "password missing" => no_password(),
            // Display of a tokio-postgres error repeats its source where it has one.
            None => Error::source_db(e.to_string()),
        },
        None => Error::source_db(e.to_string()),
    }
}

/// The error for a failed read or write on an open connection.
pub fn io_error(e: &io::Error) -> Error {
    if let Some(tls) = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls::handshake_error(tls);
    }
    match e.kind() {
        io::ErrorKind::UnexpectedEof => lost("the server closed the connection"),
        _ => lost(&format!("the connection was lost ({e})")),
    }
}

/// The server asks for a password, and there is none.
pub fn no_password() -> Error {
    Error::source_db("the server asks for a password and none is configured").hint("set `password` in the source file")
}

/// Transient: the connection is gone.
pub fn lost(message: &str) -> Error {
    Error::source_db(message).transient()
}

/// Turns the error of `tokio-postgres` in a result into ours.
pub fn checked<T>(result: Result<T, tokio_postgres::Error>) -> Result<T> {
    result.map_err(|e| sql_error(&e))
}

fn error(code: &str, message: &str, detail: Option<&str>, hint: Option<&str>) -> Error {
    let text = match detail {
        Some(detail) => format!("{message} ({detail})"),
        None => message.to_owned(),
    };
    let mut error = Error::source_db(text).sqlstate(code);
    if is_transient(code) {
        error = error.transient();
    }
    match advice(code, message).or(hint) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Whether the same operation may succeed later without anybody doing anything.
fn is_transient(code: &str) -> bool {
    matches!(
        code,
        "57P01" | "57P02" | "57P03" | "57P05" // shutdown, crash of another backend, starting up, idle session
            | "25P03" // idle in transaction for too long
            | "40001" | "40P01" // serialization failure and recovery conflict, deadlock
            | "55P03" // lock not available within lock_timeout
    ) || matches!(code.get(..2), Some("08" | "53")) // connection; resources, connections above all
}

fn advice(code: &str, message: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" => "check user and password in the source file",
        "28000" if message.contains("no encryption") || message.contains("SSL off") => {
            "the server refuses this user without TLS: set sslmode to `require` or `verify-full`, or change pg_hba.conf"
        }
        "28000" if message.contains("pg_hba.conf") => {
            "let this user in from this address: pg_hba.conf on the server decides who may connect, and how"
        }
        "28000" => "check the user: it must exist, be allowed to log in, and present the certificate that pg_hba.conf asks for",
        "3D000" => "check the database name in the source file: the server has no database of that name",
        "42501" => "grant the privilege: GRANT USAGE ON SCHEMA … TO the user, and GRANT SELECT ON the table TO the user",
        "42P01" => "the table was dropped or renamed since the catalog was written: run discover again",
        "42703" => "the column was dropped or renamed since the catalog was written: run discover again",
        "53300" => "lower max_threads in the source file, or raise max_connections on the server",
        "57P03" => "the server is starting or stopping: try again shortly",
        "57014" if message.contains("statement timeout") => {
            "raise statement_timeout_s in the source file (0: none), or have smaller queries with backfill.chunk_rows"
        }
        "55P03" => "another session holds a lock on the table: try again, or raise lock_timeout_s",
        "25006" => "the server is a read-only standby: give the address of the primary",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Retry;

    #[test]
    fn codes_decide_on_retry_and_advice() {
        let check = |code: &str, message: &str, retry: Retry, hint: &str| {
            let error = error(code, message, None, None);
            assert_eq!(error.retry(), retry, "{code}");
            assert_eq!(error.code(), Some(code));
            assert!(error.advice().unwrap_or("").contains(hint), "{code}: {:?}", error.advice());
        };
        check("28P01", "", Retry::Never, "user and password");
        check("28000", "no pg_hba.conf entry for host \"1.2.3.4\", user \"u\", database \"d\", no encryption", Retry::Never, "sslmode");
        check("28000", "no pg_hba.conf entry for host \"1.2.3.4\", SSL encryption", Retry::Never, "pg_hba.conf");
        check("28000", "role \"x\" does not exist", Retry::Never, "exist");
        check("3D000", "", Retry::Never, "database name");
        check("42501", "", Retry::Never, "GRANT SELECT");
        check("42P01", "", Retry::Never, "discover");
        check("53300", "", Retry::Again, "max_threads");
        check("57014", "canceling statement due to statement timeout", Retry::Never, "statement_timeout");
        check("57014", "canceling statement due to user request", Retry::Never, "");
        for code in ["57P01", "57P02", "57P03", "08006", "08003", "40001", "40P01", "53200", "55P03"] {
            check(code, "", Retry::Again, "");
        }
        for code in ["57P04", "XX000", "22012", "", "é", "0"] {
            check(code, "", Retry::Never, "");
        }
    }

    #[test]
    fn the_servers_own_hint_is_kept_where_we_have_none() {
        let error = error("22012", "division by zero", Some("row 7"), Some("do not"));
        assert_eq!((error.to_string().as_str(), error.advice()), ("division by zero (row 7)", Some("do not")));
    }
}
