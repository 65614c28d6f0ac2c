//! Quoting names and values for SQL text, where the protocol offers no parameters (COPY, SET, DDL).
//!
//! Every name is quoted, also the harmless ones: one rule, and no list of reserved words that grows with
//! each server version. Neither function can reject anything; a NUL byte, which no PostgreSQL string can
//! hold, is refused later, when the query is encoded.

/// `"name"`, as an SQL identifier (manual 4.1.1).
pub fn identifier(name: &str) -> String {
    enclosed(name, '"')
}

/// `"namespace"."name"`.
pub fn qualified(namespace: &str, name: &str) -> String {
    format!("{}.{}", identifier(namespace), identifier(name))
}

/// `'text'`, as an SQL string constant; with a backslash inside `E'text'`, which means the same
/// whatever `standard_conforming_strings` says (manual 4.1.2.2).
pub fn literal(text: &str) -> String {
    if text.contains('\\') { format!("E{}", enclosed(&text.replace('\\', r"\\"), '\'')) } else { enclosed(text, '\'') }
}

/// `'text'`, as a string in a replication command, whose grammar has no `E'text'` and takes a backslash for itself.
pub fn replication_literal(text: &str) -> String {
    enclosed(text, '\'')
}

fn enclosed(text: &str, mark: char) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(mark);
    for c in text.chars() {
        if c == mark {
            quoted.push(mark);
        }
        quoted.push(c);
    }
    quoted.push(mark);
    quoted
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Names and values chosen to break out of their quotes.
    pub(crate) const HOSTILE: [&str; 12] = [
        "",
        "plain",
        "Weird\"name",
        "it's",
        "\\",
        "\\' OR 1=1 --",
        "'; DROP TABLE t; --",
        "\"; DROP TABLE t; --",
        "E'\\x'",
        "$$body$$",
        "line\nbreak\ttab",
        "naïve 🐘 名前",
    ];

    #[test]
    fn names_and_values_stay_inside_their_quotes() {
        let check = |found: String, expected: &str| assert_eq!(found, expected);
        check(identifier("plain"), r#""plain""#);
        check(identifier("Weird\"name"), r#""Weird""name""#);
        check(identifier("a.b"), r#""a.b""#);
        check(qualified("My Schema", "t\""), r#""My Schema"."t""""#);
        check(literal("it's"), "'it''s'");
        check(literal(""), "''");
        check(literal("a\\b"), r"E'a\\b'");
        check(literal("\\' OR 1=1"), r"E'\\'' OR 1=1'");
        check(replication_literal("\\' OR 1=1"), r"'\'' OR 1=1'");
    }

    #[test]
    fn removing_the_quotes_gives_the_text_back() {
        for text in HOSTILE {
            let name = identifier(text);
            assert_eq!(name[1..name.len() - 1].replace("\"\"", "\""), text);
            let value = literal(text);
            let inner = value.trim_start_matches('E');
            let undoubled = inner[1..inner.len() - 1].replace("''", "'");
            assert_eq!(if value.starts_with('E') { undoubled.replace("\\\\", "\\") } else { undoubled }, text);
        }
    }
}
