//! `${NAME}`, `${NAME:-default}` and `${file:PATH}` in string values.
//!
//! Promises: every string is expanded once and the result is never scanned again, so that a password may contain `${`;
//! `$${` stands for a literal `${`, any other `$` for itself; a variable that is not set and has no default is a
//! problem that names it. `:-` works as in the shell: the default also replaces an empty value. Keys are never expanded.
//! Does not know which file it works for, nor what the values mean.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Where names are looked up; a test brings its own.
pub struct Lookup<'a> {
    /// Environment variables.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Text files, for `${file:PATH}`; relative to the working directory, as every path in a configuration is.
    pub file: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl Lookup<'static> {
    /// The environment and the files of this process.
    pub fn process() -> Self {
        Self { variable: &|name| std::env::var(name).ok(), file: &|path| std::fs::read_to_string(path) }
    }
}

/// What an expansion left behind besides the values.
#[derive(Default)]
pub(super) struct Expanded {
    /// JSON path of each value that changed → the text as it stands in the file. Messages quote this, never the result:
    /// what comes out of the environment may be a secret.
    pub written: BTreeMap<String, String>,
    /// `path: problem`, in the order of the file.
    pub problems: Vec<String>,
}

/// Expands every string below `value`, except under keys named in `literal`.
pub(super) fn expand_all(value: &mut Value, literal: &[&str], lookup: &Lookup<'_>) -> Expanded {
    let mut done = Expanded::default();
    walk(value, "", literal, lookup, &mut done);
    done
}

fn walk(value: &mut Value, at: &str, literal: &[&str], lookup: &Lookup<'_>, done: &mut Expanded) {
    match value {
        Value::String(text) => match expand(text, lookup) {
            Ok(None) => {}
            Ok(Some(result)) => {
                done.written.insert(at.to_owned(), std::mem::replace(text, result));
            }
            Err(problem) => done.problems.push(format!("`{at}`: {problem}")),
        },
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, &format!("{at}[{index}]"), literal, lookup, done);
            }
        }
        Value::Object(map) => {
            for (key, item) in map.iter_mut().filter(|(key, _)| !literal.contains(&key.as_str())) {
                walk(item, &join(at, key), literal, lookup, done);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The path of `key` inside the object at `at`.
pub(super) fn join(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

/// Expands one string; `None` when there is nothing to expand.
fn expand(text: &str, lookup: &Lookup<'_>) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let end = after.find('}').ok_or("`${` without its `}`; write `$${` for a literal `${`")?;
            out.push_str(&reference(&after[..end], lookup)?);
            rest = &after[end + 1..];
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Ok(Some(out))
}

/// The value of what stands between `${` and `}`.
fn reference(inner: &str, lookup: &Lookup<'_>) -> Result<String, String> {
    if let Some(path) = inner.strip_prefix("file:") {
        let text = (lookup.file)(Path::new(path)).map_err(|error| format!("cannot read file `{path}`: {error}"))?;
        return Ok(without_newline(text));
    }
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let named = |c: char| c == '_' || c.is_ascii_alphanumeric();
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(named) {
        return Err("`${…}` takes `NAME`, `NAME:-default` or `file:PATH`; write `$${` for a literal `${`".to_owned());
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(format!("the default of `${{{name}:-…}}` holds another `${{`, which is not expanded"));
    }
    match ((lookup.variable)(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!("environment variable `{name}` is not set; set it, or write `${{{name}:-default}}`")),
    }
}

/// Editors and `echo` end a file with a newline that is no part of the secret in it.
fn without_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn lookup() -> Lookup<'static> {
        Lookup {
            variable: &|name| match name {
                "USER_1" => Some("ann".to_owned()),
                "EMPTY" => Some(String::new()),
                "TRAP" => Some("${USER_1}".to_owned()),
                _ => None,
            },
            file: &|path| match path.to_str() {
                Some("/run/secrets/pw") => Ok("s3cret\n\n".to_owned()),
                Some("dos.txt") => Ok("line\r\n".to_owned()),
                _ => Err(io::Error::from(io::ErrorKind::NotFound)),
            },
        }
    }

    #[test]
    fn references_are_replaced() {
        let check =
            |text: &str, expected: &str| assert_eq!(expand(text, &lookup()).unwrap().as_deref().unwrap_or(text), expected, "{text}");
        check("plain", "plain");
        check("${USER_1}", "ann");
        check("a-${USER_1}-b-${USER_1}", "a-ann-b-ann");
        check("${MISSING:-fallback}", "fallback");
        check("${MISSING:-}", "");
        check("${EMPTY:-fallback}", "fallback");
        check("${EMPTY}", "");
        check("${USER_1:-fallback}", "ann");
        check("${TRAP}", "${USER_1}");
        check("$${USER_1}", "${USER_1}");
        check("$$${USER_1}", "$${USER_1}");
        check("cost: $5, pa$$word, $", "cost: $5, pa$$word, $");
        check("${USER_1}$", "ann$");
        check("${file:/run/secrets/pw}", "s3cret\n");
        check("${file:dos.txt}", "line");
        check("${MISSING:-ü}ß", "üß");
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expected: &str| {
            let problem = expand(text, &lookup()).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        };
        check("${MISSING}", "`MISSING` is not set");
        check("${USER_1", "without its `}`");
        check("${}", "takes `NAME`");
        check("${a b}", "takes `NAME`");
        check("${1A}", "takes `NAME`");
        check("${A:-${B}}", "another `${`");
        check("${file:/nowhere}", "cannot read file `/nowhere`");
    }

    #[test]
    fn whole_documents_keep_what_was_written_and_skip_literal_keys() {
        let mut value = json!({"a": ["x", "${USER_1}"], "b": {"name": "${MISSING}", "port": "${MISSING}"}});
        let done = expand_all(&mut value, &["name"], &lookup());
        assert_eq!(value["a"][1], "ann");
        assert_eq!(value["b"]["name"], "${MISSING}");
        assert_eq!(done.written.get("a[1]").unwrap(), "${USER_1}");
        assert_eq!(done.problems.len(), 1);
        assert!(done.problems[0].starts_with("`b.port`: environment variable `MISSING`"), "{}", done.problems[0]);
    }
}
