//! A connection string, taken apart into libpq's keywords.
//!
//! Reads both of libpq's forms (manual, section "Connection Strings"): `postgres://user:password@host:port,host/database?key=value`
//! and `host=… dbname='…'`. Promises that no problem it reports quotes any part of the string, since a password is in it.
//! Does not know what the keywords mean ([`keywords`](super::keywords) does).

use percent_encoding::percent_decode_str;

/// Keyword and value pairs in the order of the string. Several hosts are one comma-separated `host`, as libpq has it.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        return parse_url(rest);
    }
    if let Some((scheme, _)) = text.split_once("://") {
        let jdbc = if scheme.starts_with("jdbc:") { "; leave out `jdbc:`, and write user and password as user:password@host" } else { "" };
        return Err(format!("another kind of URL, accepted: postgres://… or postgresql://…{jdbc}"));
    }
    if text.contains('=') {
        return parse_pairs(text);
    }
    Err("neither a URL (postgres://user@host/database) nor keywords (host=… dbname=…)".to_owned())
}

fn parse_url(rest: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    // The last @ ends the user part: an unescaped one in a password is a common mistake that libpq also forgives.
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    if !login.is_empty() {
        let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
        pairs.push(("user".to_owned(), decoded(user, "user name")?));
        if let Some(password) = password {
            pairs.push(("password".to_owned(), decoded(password, "password")?));
        }
    }
    if !hosts.is_empty() {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let (name, port) = host_and_port(host)?;
            names.push(decoded(name, "host")?);
            ports.push(port.to_owned());
        }
        pairs.push(("host".to_owned(), names.join(",")));
        if ports.iter().any(|port| !port.is_empty()) {
            pairs.push(("port".to_owned(), ports.join(",")));
        }
    }
    if !database.is_empty() {
        pairs.push(("dbname".to_owned(), decoded(database, "database")?));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("a query parameter without `=`")?;
        pairs.push((decoded(key, "parameter name")?, decoded(value, "parameter value")?));
    }
    Ok(pairs)
}

/// `host`, `host:port`, `[::1]:port`.
fn host_and_port(host: &str) -> Result<(&str, &str), String> {
    if let Some(inner) = host.strip_prefix('[') {
        let (address, rest) = inner.split_once(']').ok_or("an IPv6 address without its `]`")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None if rest.is_empty() => Ok((address, "")),
            None => Err("text between `]` and the port".to_owned()),
        };
    }
    match host.split_once(':') {
        Some((_, port)) if port.contains(':') => Err("an IPv6 address must stand in brackets: [::1]".to_owned()),
        Some(parts) => Ok(parts),
        None => Ok((host, "")),
    }
}

fn decoded(text: &str, what: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let whole = |at: usize| bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if bytes.iter().enumerate().any(|(at, byte)| *byte == b'%' && !whole(at)) {
        return Err(format!("the {what} holds a `%` that is not part of an escape such as %40; write it as %25"));
    }
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| format!("the {what} is not UTF-8 after decoding"))
}

/// `keyword = value` pairs; values with spaces stand in single quotes, a backslash escapes.
fn parse_pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or("a keyword without `=`")?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err("a keyword without `=`; a value with spaces must stand in single quotes".to_owned());
        }
        let (value, after) = pair_value(after.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// The value at the start of `text`, and what follows it.
fn pair_value(text: &str) -> Result<(String, &str), String> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err("a value without its closing quote".to_owned()) } else { Ok((value, "")) }
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let expected: Vec<(String, String)> = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert_eq!(parse(text).as_ref(), Ok(&expected), "{text}");
    }

    #[test]
    fn urls() {
        check("postgres://h", &[("host", "h")]);
        check("postgresql://", &[]);
        check("postgresql:///db?host=/var/run", &[("dbname", "db"), ("host", "/var/run")]);
        check(
            "postgresql://ann:p%40ss%3A%2F@db.example.com:5433/my%20db?sslmode=require&connect_timeout=5",
            &[
                ("user", "ann"),
                ("password", "p@ss:/"),
                ("host", "db.example.com"),
                ("port", "5433"),
                ("dbname", "my db"),
                ("sslmode", "require"),
                ("connect_timeout", "5"),
            ],
        );
        check("postgres://u@a:1,[::1]:2,c/d", &[("user", "u"), ("host", "a,::1,c"), ("port", "1,2,"), ("dbname", "d")]);
        check("postgres://u:p@w@h/d", &[("user", "u"), ("password", "p@w"), ("host", "h"), ("dbname", "d")]);
        check("postgres://%2Frun%2Fpg/d", &[("host", "/run/pg"), ("dbname", "d")]);
        check("postgres://u:@h", &[("user", "u"), ("password", ""), ("host", "h")]);
        check("postgres://h/d?options=-c%20geqo%3Doff&", &[("host", "h"), ("dbname", "d"), ("options", "-c geqo=off")]);
    }

    #[test]
    fn keyword_values() {
        check("host=h dbname=d", &[("host", "h"), ("dbname", "d")]);
        check(" host = h  password = 'it\\'s a \\\\ secret' port=1", &[("host", "h"), ("password", "it's a \\ secret"), ("port", "1")]);
        check("password=a\\ b user=''", &[("password", "a b"), ("user", "")]);
    }

    #[test]
    fn mistakes_never_quote_the_string() {
        let check = |text: &str, expected: &str| {
            let problem = parse(text).expect_err(text);
            assert!(problem.contains(expected), "{text}: {problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        };
        check("hunter2", "neither a URL");
        check("mysql://u:hunter2@h", "another kind of URL");
        check("jdbc:postgresql://h/hunter2", "leave out `jdbc:`");
        check("postgres://u:hunter2%4@h", "the password holds a `%`");
        check("postgres://u:%FFhunter2@h", "not UTF-8");
        check("postgres://u:hunter2@[::1", "without its `]`");
        check("postgres://u:hunter2@[::1]5", "between `]`");
        check("postgres://u:hunter2@::1", "in brackets");
        check("postgres://h?hunter2", "without `=`");
        check("host=h hunter2", "a keyword without `=`");
        check("password='hunter2", "closing quote");
        check("password=x hunter2 y=z", "single quotes");
    }
}
