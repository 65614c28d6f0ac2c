//! libpq's connection keywords, given one by one, become [`ConnectOptions`].
//!
//! Every way to describe a connection (the parts of `source.json`, a URL, `host=…` pairs, `jdbc_url_params`) ends here, so
//! that a keyword means the same everywhere. Meaning and names are libpq's (manual, section "Parameter Key Words"); a name
//! that libpq does not have is a run-time parameter of the session, as in pgx. Promises to quote no value of a keyword that
//! may be secret. Reads certificate files; does not connect.

use super::seconds::parse_duration;
use super::suggest::closest;
use crate::error::{Error, Result};
use crate::postgres::connect::{ConnectOptions, Host, SslMode, TlsOptions};
use crate::postgres::transport::Keepalive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use writers::Secret;

/// A forgotten ALTER TABLE in another session must not hold a run up for ever without a word.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// The accepted words of `sslmode`.
pub(super) const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Keywords that have a field of their own below.
const KNOWN: [&str; 23] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "connect_timeout",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "application_name",
    "target_session_attrs",
    "channel_binding",
    "gssencmode",
    "client_encoding",
    "options",
    "passfile",
    "service",
];

/// Accepted and without effect, with the reason; also the settings of the pool and statement cache that pgx knows.
pub(super) const NO_EFFECT: &[(&str, &str)] = &[
    ("keepalives", "keep-alive probes are always on"),
    ("tcp_user_timeout", "it follows from the intervals of the keep-alive probes"),
    ("fallback_application_name", "`application_name` always has a value"),
    ("sslcompression", "TLS compression is never used"),
    ("sslsni", "the server name is always sent"),
    ("krbsrvname", "GSSAPI is not used"),
    ("gsslib", "GSSAPI is not used"),
    ("load_balance_hosts", "hosts are tried in order"),
    ("default_query_exec_mode", "it is a setting of another client library"),
    ("statement_cache_capacity", "it is a setting of another client library"),
    ("description_cache_capacity", "it is a setting of another client library"),
    ("pool_max_conns", "`max_threads` bounds the connections"),
    ("pool_min_conns", "`max_threads` bounds the connections"),
    ("pool_max_conn_lifetime", "connections live as long as their work"),
    ("pool_max_conn_idle_time", "connections live as long as their work"),
    ("pool_health_check_period", "connections live as long as their work"),
];

/// Refused: ignoring them would connect otherwise than asked, or less safely.
const NOT_BUILT: &[&str] =
    &["hostaddr", "passfile", "service", "servicefile", "sslpassword", "sslcrl", "sslcrldir", "require_auth", "requirepeer", "replication"];

/// The keywords seen so far.
#[derive(Default)]
pub(super) struct Keywords {
    hosts: Vec<String>,
    ports: Vec<String>,
    user: Option<String>,
    password: Option<Secret>,
    database: Option<String>,
    mode: Option<SslMode>,
    server_ca: Option<String>,
    client_cert: Option<String>,
    client_key: Option<Secret>,
    any_session: bool,
    application_name: Option<String>,
    connect_timeout: Option<Duration>,
    statement_timeout: Option<Duration>,
    lock_timeout: Option<Duration>,
    keepalive: Keepalive,
    parameters: Vec<(String, String)>,
}

impl Keywords {
    /// Takes one keyword; `at` is where it stands, for messages.
    pub fn set(&mut self, at: &str, keyword: &str, value: &str) -> Result<()> {
        let wrong = |what: &str| Err(Error::config(format!("`{at}`: {keyword}: {what}")));
        if value.contains('\0') {
            return wrong("holds a zero byte");
        }
        if NOT_BUILT.contains(&keyword) {
            return wrong("is not built yet in this version");
        }
        if NO_EFFECT.iter().any(|(name, _)| *name == keyword) {
            return Ok(());
        }
        let text = || Some(value.to_owned());
        match keyword {
            "host" if !self.hosts.is_empty() => return Err(twice(at, keyword)),
            "port" if !self.ports.is_empty() => return Err(twice(at, keyword)),
            "host" => self.hosts = value.split(',').map(str::to_owned).collect(),
            "port" => self.ports = value.split(',').map(str::to_owned).collect(),
            "user" => once(at, keyword, &mut self.user, text())?,
            "password" if value.is_empty() => {}
            "password" => once(at, keyword, &mut self.password, Some(Secret::new(value)))?,
            "dbname" => once(at, keyword, &mut self.database, text())?,
            "sslmode" => match ssl_mode(value) {
                Some(mode) => self.ssl_mode(at, mode)?,
                None => {
                    let meant = closest(value, SSL_MODES).map(|mode| format!("; did you mean `{mode}`?")).unwrap_or_default();
                    return wrong(&format!("found an unknown word, accepted: {}{meant}", SSL_MODES.join(", ")));
                }
            },
            "sslrootcert" if value == "system" => {}
            "sslrootcert" => self.server_ca = pem(&format!("{at}.{keyword}"), value)?,
            "sslcert" => self.client_cert = pem(&format!("{at}.{keyword}"), value)?,
            "sslkey" => self.client_key = pem(&format!("{at}.{keyword}"), value)?.map(Secret::new),
            "connect_timeout" => match parse_duration(value, Duration::from_secs(1)) {
                Some(limit) => self.connect_timeout = Some(limit),
                None => return wrong("accepted: seconds"),
            },
            "statement_timeout" | "lock_timeout" => {
                let Some(limit) = parse_duration(value, Duration::from_millis(1)) else {
                    return wrong("accepted: milliseconds, or a number with a unit such as 30s");
                };
                let place = if keyword == "lock_timeout" { &mut self.lock_timeout } else { &mut self.statement_timeout };
                *place = Some(limit);
            }
            "keepalives_idle" | "keepalives_interval" | "keepalives_count" => {
                // As in libpq, 0 means what the system does; here that is the default.
                let Some(number) = value.trim().parse::<u32>().ok().filter(|number| *number <= 32_767) else {
                    return wrong("accepted: a whole number up to 32767");
                };
                let seconds = Duration::from_secs(number.into());
                match keyword {
                    _ if number == 0 => {}
                    "keepalives_idle" => self.keepalive.idle = seconds,
                    "keepalives_interval" => self.keepalive.interval = seconds,
                    _ => self.keepalive.count = number,
                }
            }
            "application_name" => self.application_name = text(),
            "target_session_attrs" => match value {
                "read-write" | "primary" => {}
                "any" => self.any_session = true,
                _ => return wrong("accepted: any (with one host), read-write, primary"),
            },
            "channel_binding" | "gssencmode" if value == "require" => return wrong("`require` is not built yet in this version"),
            "channel_binding" | "gssencmode" => {}
            "client_encoding" if matches!(value.to_lowercase().replace('-', "").as_str(), "utf8" | "auto" | "unicode") => {}
            "client_encoding" => return wrong("accepted: UTF8"),
            // Poolers refuse `options`; what only sets parameters can be set later.
            "options" => match command_line_settings(value) {
                Some(settings) => self.parameters.extend(settings),
                None => self.parameters.push((keyword.to_owned(), value.to_owned())),
            },
            other => {
                if let Some(name) = closest(other, KNOWN) {
                    return Err(Error::config(format!("`{at}`: unknown parameter `{other}`; did you mean `{name}`?")));
                }
                self.parameters.push((other.to_owned(), value.to_owned()));
            }
        }
        Ok(())
    }

    /// Sets the mode; the same mode in two places is fine, two different ones contradict each other.
    pub fn ssl_mode(&mut self, at: &str, mode: SslMode) -> Result<()> {
        match self.mode.replace(mode) {
            Some(before) if before != mode => {
                Err(Error::config(format!("`{at}`: another sslmode than the one given elsewhere in this file")))
            }
            _ => Ok(()),
        }
    }

    /// Adds one host; `port` is empty for the default.
    pub fn host(&mut self, host: &str, port: &str) {
        self.hosts.push(host.to_owned());
        self.ports.push(port.to_owned());
    }

    /// Values of `source.json` itself, which win over those of a connection string.
    pub fn timeouts(&mut self, connect: Option<Duration>, statement: Option<Duration>, lock: Option<Duration>) {
        self.connect_timeout = connect.or(self.connect_timeout);
        self.statement_timeout = statement.or(self.statement_timeout);
        self.lock_timeout = lock.or(self.lock_timeout);
    }

    /// Certificates of the `ssl` object: PEM text or the path of a file.
    pub fn certificates(&mut self, server_ca: Option<&str>, client_cert: Option<&str>, client_key: Option<&Secret>) -> Result<()> {
        if let Some(text) = server_ca {
            self.server_ca = pem("ssl.server_ca", text)?.or(self.server_ca.take());
        }
        if let Some(text) = client_cert {
            self.client_cert = pem("ssl.client_cert", text)?.or(self.client_cert.take());
        }
        if let Some(key) = client_key {
            self.client_key = pem("ssl.client_key", key.expose())?.map(Secret::new).or(self.client_key.take());
        }
        Ok(())
    }

    /// Puts the options together; `default_mode` holds where nothing was said about TLS.
    pub fn finish(self, default_mode: SslMode) -> Result<ConnectOptions> {
        let hosts = hosts(&self.hosts, &self.ports)?;
        if self.any_session && hosts.len() > 1 {
            return Err(Error::config(
                "target_session_attrs: `any` with several hosts is not built yet in this version, accepted: read-write, primary",
            ));
        }
        let Some(user) = self.user.filter(|user| !user.is_empty()) else {
            return Err(Error::config("`username`: found nothing, accepted: the name of a database user"));
        };
        if self.client_cert.is_some() != self.client_key.is_some() {
            return Err(Error::config("`ssl`: `client_cert` and `client_key` belong together, found only one of them"));
        }
        let tls = TlsOptions {
            mode: self.mode.unwrap_or(default_mode),
            server_ca: self.server_ca,
            client_cert: self.client_cert,
            client_key: self.client_key,
        };
        Ok(ConnectOptions {
            hosts,
            database: self.database.filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone()),
            user,
            password: self.password,
            tls,
            application_name: self.application_name.unwrap_or_else(|| "lakeward".to_owned()),
            // Zero means to wait for ever in libpq; a day is as good and needs no second meaning of zero further on.
            connect_timeout: match self.connect_timeout {
                Some(Duration::ZERO) => Duration::from_secs(86_400),
                Some(limit) => limit,
                None => Duration::from_secs(30),
            },
            statement_timeout: self.statement_timeout.unwrap_or_default(),
            lock_timeout: self.lock_timeout.unwrap_or(LOCK_TIMEOUT),
            keepalive: self.keepalive,
            tunnel: None,
            parameters: self.parameters,
        })
    }
}

fn once<T>(at: &str, keyword: &str, place: &mut Option<T>, value: Option<T>) -> Result<()> {
    if place.is_some() {
        return Err(twice(at, keyword));
    }
    *place = value;
    Ok(())
}

fn twice(at: &str, keyword: &str) -> Error {
    Error::config(format!("`{at}`: {keyword} is given a second time"))
}

/// Parameters that can be set at the start of a session and not later.
const START_ONLY: [&str; 5] =
    ["ignore_system_indexes", "post_auth_delay", "local_preload_libraries", "session_preload_libraries", "log_disconnections"];

/// `-c name=value --name=value …` as names and values; `None` if there is anything else in it. A backslash takes the next
/// character as it is (manual, "Start-up", the parameter `options`).
fn command_line_settings(text: &str) -> Option<Vec<(String, String)>> {
    let mut words = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, words.last_mut()) {
            ('\\', Some(word)) => word.extend(characters.next()),
            (space, _) if space.is_ascii_whitespace() => words.push(String::new()),
            (other, Some(word)) => word.push(other),
            (_, None) => {}
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next()?,
            Some(setting) => setting.to_owned(),
            None => return None,
        };
        let (name, value) = setting.split_once('=')?;
        let name = name.replace('-', "_");
        if START_ONLY.contains(&name.as_str()) {
            return None;
        }
        settings.push((name, value.to_owned()));
    }
    Some(settings)
}

/// The mode that a word names.
pub(super) fn ssl_mode(word: &str) -> Option<SslMode> {
    Some(match word {
        "disable" => SslMode::Disable,
        "allow" => SslMode::Allow,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => return None,
    })
}

/// One host with its port, empty for the default.
pub(super) fn one_host(name: &str, port: &str) -> Result<Host> {
    let mut found = hosts(&[name.to_owned()], &[port.to_owned()])?;
    found.pop().ok_or_else(|| Error::config("`host`: found nothing"))
}

/// Hosts with their ports; one port holds for all hosts, none means 5432.
fn hosts(names: &[String], ports: &[String]) -> Result<Vec<Host>> {
    if names.is_empty() || names.iter().all(|name| name.trim().is_empty()) {
        return Err(Error::config("`host`: found nothing, accepted: a host name, an address, or the directory of a Unix socket"));
    }
    if ports.len() > 1 && ports.len() != names.len() {
        return Err(Error::config(format!(
            "found {} hosts and {} ports, accepted: one port for all, or one for each",
            names.len(),
            ports.len()
        )));
    }
    names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let port = match ports.get(index).or_else(|| ports.first().filter(|_| ports.len() == 1)).map_or("", String::as_str) {
                "" => 5432,
                text => text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
                    Error::config(format!(
                        "`port` of host {}: found text that is no port, accepted: a whole number from 1 to 65535",
                        index + 1
                    ))
                })?,
            };
            host(name.trim(), port)
        })
        .collect()
}

fn host(name: &str, port: u16) -> Result<Host> {
    if name.starts_with('/') {
        return Ok(Host::Unix(PathBuf::from(name), port));
    }
    let lower = name.to_lowercase();
    let (wrong, hint) = if lower.starts_with("postgres://") || lower.starts_with("postgresql://") || lower.starts_with("jdbc:") {
        ("a URL", "a whole connection URL belongs in `url`")
    } else if lower.starts_with("http") && name.contains(':') || name.contains("://") {
        ("a URL", "write the bare host name, without http:// and without a path")
    } else if name.is_empty() {
        ("an empty name", "remove the empty entry")
    } else if name.contains(',') {
        ("several names", "list several hosts in `hosts`")
    } else if name.contains(['/', '@', '?', ' ', '\t', '\n']) {
        ("characters that no host name has", "write the bare host name; database, user and port have keys of their own")
    } else if name.matches(':').count() == 1 {
        ("a name with a port", "the port belongs in `port`, or in an entry of `hosts`")
    } else {
        return Ok(Host::Tcp(name.to_owned(), port));
    };
    let accepted = "accepted: a host name, an address, or the directory of a Unix socket";
    Err(Error::config(format!("`host`: found {wrong}, {accepted}")).hint(hint))
}

/// PEM text, or the content of the file that `value` names; nothing if it is blank.
pub(super) fn pem(at: &str, value: &str) -> Result<Option<String>> {
    const BEGIN: &str = "-----BEGIN";
    let text = value.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.contains(BEGIN) {
        // Out of an environment variable the line ends often come as backslash and n.
        return Ok(Some(if text.contains('\n') { text.to_owned() } else { text.replace("\\r", "").replace("\\n", "\n") }));
    }
    // Long or many-lined text is a damaged certificate and not a path, and may be a key: only a path is quoted.
    if text.len() > 1024 || text.contains('\n') {
        return Err(Error::config(format!("`{at}`: found text without {BEGIN}, accepted: PEM text or the path of a PEM file")));
    }
    let accepted = "accepted: PEM text or the path of a PEM file";
    match std::fs::read_to_string(Path::new(text)) {
        Ok(content) if content.contains(BEGIN) => Ok(Some(content)),
        Ok(_) => Err(Error::config(format!("`{at}`: the file holds no {BEGIN} line, {accepted}"))),
        Err(error) => {
            Err(Error::config(format!("`{at}`: found neither PEM text nor a file that can be read ({}), {accepted}", error.kind())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_set_parameters_become_parameters() {
        let check = |text: &str, expected: Option<&[(&str, &str)]>| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            assert_eq!(command_line_settings(text), expected.map(|pairs| pairs.iter().map(owned).collect()), "{text}");
        };
        check("", Some(&[]));
        check("-c geqo=off", Some(&[("geqo", "off")]));
        check(" -cgeqo=off  --work-mem=5MB ", Some(&[("geqo", "off"), ("work_mem", "5MB")]));
        check(r"-c search_path=a\ b,c\\d -c my.own=x=y", Some(&[("search_path", r"a b,c\d"), ("my.own", "x=y")]));
        check("-c", None);
        check("-c geqo", None);
        check("-e", None);
        check("project=one", None);
        check("-c ignore_system_indexes=on", None);
    }
}
