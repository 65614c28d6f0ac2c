//! The URL of a catalog's database, in the forms that JDBC, PostgreSQL's own library and SQLAlchemy have for it. Pure.
//!
//! What it holds is a secret as a whole: no error repeats any of it but the names of parameters.

use crate::{Error, Kind, Result, Secret};
use percent_encoding::percent_decode_str;
use std::path::PathBuf;
use std::time::Duration;

/// What is accepted, for messages.
const FORMS: &str = "accepted: jdbc:sqlite:/path/catalog.db, jdbc:postgresql://host:port/database";

/// Parameters that are accepted, for messages.
const PARAMETERS: &str = "user, password, host, port, sslmode, ssl, sslrootcert, currentSchema, ApplicationName, connectTimeout";

/// Which database.
#[derive(Debug)]
pub(crate) enum Url {
    /// A file, by its absolute path.
    Sqlite(PathBuf),
    /// A server.
    Postgres(Box<Server>),
}

/// A PostgreSQL server, or several of which one takes writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    /// Name, address or folder of a Unix socket, and port.
    pub(super) hosts: Vec<(String, u16)>,
    pub(super) database: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) encryption: Encryption,
    /// PEM file of the CAs that the server's certificate must come from.
    pub(super) roots: Option<PathBuf>,
    /// `search_path`.
    pub(super) schema: Option<String>,
    pub(super) application: Option<String>,
    pub(super) connect_timeout: Option<Duration>,
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encryption {
    Disable,
    /// If the server can.
    #[default]
    Prefer,
    /// Without looking at the certificate, unless CAs are given.
    Require,
    VerifyCa,
    VerifyFull,
}

impl Url {
    /// Takes `jdbc_url` apart; user and password can stand beside it.
    pub(crate) fn parse(url: &Secret, user: Option<&str>, password: Option<&Secret>) -> Result<Self> {
        let text = url.expose().trim();
        let (text, jdbc) = text.strip_prefix("jdbc:").map_or((text, false), |rest| (rest, true));
        let (scheme, rest) = text.split_once(':').ok_or_else(|| wrong(format!("`jdbc_url` is no URL, {FORMS}")))?;
        let kind = scheme.split('+').next().unwrap_or_default();
        match kind {
            "sqlite" => sqlite(rest, jdbc).map(Url::Sqlite),
            "postgresql" | "postgres" => {
                let mut server = Server::parse(rest)?;
                one_of("jdbc_username", "user", &mut server.user, user.map(str::to_owned))?;
                one_of("jdbc_password", "password", &mut server.password, password.cloned())?;
                Ok(Self::Postgres(Box::new(server)))
            }
            _ => Err(wrong(format!("`jdbc_url` is for a database that is not built in, {FORMS}"))),
        }
    }
}

/// What may be said in two places must be the same there.
fn one_of<T: PartialEq>(key: &str, parameter: &str, inside: &mut Option<T>, beside: Option<T>) -> Result<()> {
    match (inside.as_ref(), beside) {
        (_, None) => Ok(()),
        (Some(inside), Some(beside)) if *inside != beside => {
            Err(wrong(format!("`{key}` and the parameter {parameter} of `jdbc_url` differ")).hint("write one of them"))
        }
        (_, Some(beside)) => {
            *inside = Some(beside);
            Ok(())
        }
    }
}

fn sqlite(rest: &str, jdbc: bool) -> Result<PathBuf> {
    // SQLAlchemy writes three slashes before a path: `sqlite:////tmp/x` is /tmp/x, and with three of them it is a relative one.
    let path = match rest.strip_prefix("///") {
        Some(path) if !jdbc && path.starts_with('/') => path,
        Some(_) if !jdbc => {
            return Err(wrong("`jdbc_url` sqlite:///path is a relative path to some programs and an absolute one to others")
                .hint("write jdbc:sqlite:/absolute/path or jdbc:sqlite:relative/path"));
        }
        _ => rest,
    };
    if path.is_empty() || path.starts_with(":memory:") || path.starts_with("file:") {
        return Err(wrong(format!("`jdbc_url` names no file, {FORMS}")));
    }
    if path.contains('?') {
        return Err(wrong("`jdbc_url` has parameters, and SQLite takes none here").hint("write jdbc:sqlite:/path/catalog.db"));
    }
    std::path::absolute(path).map_err(|e| wrong("`jdbc_url` names no path").because(e))
}

impl Server {
    /// `//[user[:password]@]host[:port][,host[:port]…][/database][?parameters]`, or `database` alone.
    fn parse(rest: &str) -> Result<Self> {
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
            None => ("", rest.trim_start_matches('/')),
        };
        let mut server = Self::default();
        if !database.is_empty() {
            server.database = Some(decoded(database)?);
        }
        let hosts = match authority.rsplit_once('@') {
            Some((login, hosts)) => {
                let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
                server.user = Some(decoded(user)?);
                server.password = password.map(decoded).transpose()?.map(Secret::new);
                hosts
            }
            None => authority,
        };
        let mut port = None;
        for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let value = decoded(value)?;
            match name {
                "user" => server.user = Some(value),
                "password" => server.password = Some(Secret::new(value)),
                "host" => server.hosts.push((value, 0)),
                "port" => port = Some(number(name, &value)?),
                "sslmode" => server.encryption = Encryption::parse(&value)?,
                "ssl" if value == "true" => server.encryption = server.encryption.max_with(Encryption::VerifyFull),
                "ssl" if value == "false" => {}
                "sslrootcert" => server.roots = Some(value.into()),
                "currentSchema" => server.schema = Some(value),
                "ApplicationName" | "application_name" => server.application = Some(value),
                "connectTimeout" | "connect_timeout" | "loginTimeout" => {
                    server.connect_timeout = Some(Duration::from_secs(number::<u16>(name, &value)?.into()));
                }
                _ => return Err(wrong(format!("`jdbc_url` has the parameter {name:?}, accepted: {PARAMETERS}"))),
            }
        }
        let port = port.unwrap_or(5432);
        server.hosts.iter_mut().for_each(|host| host.1 = port);
        for host in hosts.split(',').filter(|host| !host.is_empty()) {
            server.hosts.push(one_host(host, port)?);
        }
        if server.hosts.is_empty() {
            server.hosts.push(("localhost".into(), port));
        }
        Ok(server)
    }
}

fn one_host(text: &str, port: u16) -> Result<(String, u16)> {
    let (host, rest) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = rest.map_or(Ok(port), |port| number("port", port))?;
    Ok((decoded(host)?, port))
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| wrong(format!("`jdbc_url` has a {name} that is no number in its range")))
}

fn decoded(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| wrong("`jdbc_url` has %-escapes that are no UTF-8 text"))?;
    Ok(decoded.into_owned())
}

impl Encryption {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "disable" => Self::Disable,
            "prefer" | "allow" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return Err(wrong("`jdbc_url` has an unknown sslmode, accepted: disable, prefer, require, verify-ca, verify-full")),
        })
    }

    /// `sslmode` wins over `ssl`, wherever it stands.
    fn max_with(self, other: Self) -> Self {
        if self == Self::default() { other } else { self }
    }
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Url> {
        Url::parse(&Secret::new(url), None, None)
    }

    fn server(url: &str) -> Server {
        match parse(url).expect(url) {
            Url::Postgres(server) => *server,
            Url::Sqlite(_) => panic!("{url}"),
        }
    }

    #[test]
    fn urls_of_catalog_databases() {
        for url in ["jdbc:sqlite:/tmp/c.db", "sqlite:/tmp/c.db", "sqlite:////tmp/c.db", "jdbc:sqlite:///tmp/c.db"] {
            let Url::Sqlite(file) = parse(url).expect(url) else { panic!("{url}") };
            assert_eq!(file.components().collect::<PathBuf>(), PathBuf::from("/tmp/c.db"), "{url}");
        }
        let full = server("jdbc:postgresql://a:1,[::1]:2,c/db?user=u&password=p%26q&sslmode=verify-ca&sslrootcert=/ca&currentSchema=s");
        assert_eq!(full.hosts, [("a".to_owned(), 1), ("::1".to_owned(), 2), ("c".to_owned(), 5432)]);
        assert_eq!((full.database.as_deref(), full.user.as_deref(), full.schema.as_deref()), (Some("db"), Some("u"), Some("s")));
        assert_eq!(full.password.as_ref().map(Secret::expose), Some("p&q"));
        assert_eq!(full.encryption, Encryption::VerifyCa);
        let libpq = server("postgresql+psycopg2://u:p%40@h/db?host=/run/x&port=6000&ssl=true");
        assert_eq!(libpq.hosts, [("/run/x".to_owned(), 6000), ("h".to_owned(), 6000)]);
        assert_eq!(libpq.password.as_ref().map(Secret::expose), Some("p@"));
        assert_eq!(libpq.encryption, Encryption::VerifyFull);
        assert_eq!(server("jdbc:postgresql:db").hosts, [("localhost".to_owned(), 5432)]);
    }

    #[test]
    fn wrong_urls_are_refused_without_repeating_them() {
        let wrong = [
            "",
            "jdbc:mysql://h/hunter2",
            "jdbc:sqlite::memory:",
            "sqlite:///hunter2",
            "jdbc:sqlite:/x?mode=hunter2",
            "jdbc:sqlite:",
            "jdbc:postgresql://h:99999/hunter2",
            "jdbc:postgresql://h/d?password=hunter2&colour=hunter2",
            "jdbc:postgresql://h/d?sslmode=hunter2",
            "jdbc:postgresql://h/%FF",
            "hunter2",
        ];
        for url in wrong {
            let error = parse(url).expect_err(url);
            assert!(!format!("{error} {:?}", error.advice()).contains("hunter2"), "{error}");
            assert_eq!(error.kind(), Kind::Config);
        }
        let two = Url::parse(&Secret::new("postgresql://u:p@h/d"), Some("other"), None).expect_err("two users");
        assert!(two.to_string().contains("jdbc_username"), "{two}");
    }
}
