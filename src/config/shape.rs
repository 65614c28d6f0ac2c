//! Compares a value with the JSON schema of the type that it is about to become.
//!
//! Finds every mistake in one pass and says for each where it is, what was found and what is accepted: unknown keys
//! (with a suggestion), wrong types, numbers out of range, unknown words, missing keys. On the way it makes the value
//! fit: text becomes a number or a boolean where the schema wants one (after `${PORT}` everything is text), and `null`
//! becomes an absent key. A value that may be a secret is never quoted.
//!
//! The schemas come from our own structs; four extension keys steer this check and are visible in `schemas/`:
//! `x-no-effect` on a property (accepted for compatibility, reported once, with the reason), `x-not-built` on a property
//! (refused unless empty) or, as a list of names, on an object (keys of features to come), and `x-accepted` (the words
//! for a message). Does not know files, nor what any key means.

use super::expand::join;
use super::schema::{accepted, coerce, fits, tag_of, types_of, within, words_of};
use super::suggest::closest;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What reading a file brought up besides its value.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Mistakes: any of them refuses the file.
    pub problems: Vec<String>,
    /// Things that the user should be told once.
    pub notes: Vec<String>,
    /// An unknown key was met, so `--lenient` would help.
    pub unknown: bool,
}

impl Findings {
    /// Notes that a key is accepted and does nothing.
    pub fn no_effect(&mut self, key: &str, reason: &str) {
        self.notes.push(format!("`{key}` is accepted for compatibility, has no effect: {reason}"));
    }

    /// Refuses a key whose feature does not exist yet.
    pub fn not_built(&mut self, key: &str, what: &str) {
        self.problems.push(format!("`{key}`: {what} is not built yet in this version"));
    }
}

/// One comparison of a document with its schema.
pub(super) struct Shape<'a> {
    /// The schema's root, for `$ref`.
    pub root: &'a Value,
    /// Unknown keys become notes.
    pub lenient: bool,
    /// Path → text as written in the file, for values that were expanded.
    pub written: &'a BTreeMap<String, String>,
    /// Our path → path in the user's file, where a foreign file was translated.
    pub origins: &'a BTreeMap<String, String>,
    /// Names of the foreign dialect, worth suggesting at the top level.
    pub dialect_keys: &'a [&'static str],
    /// Results.
    pub findings: &'a mut Findings,
}

impl<'a> Shape<'a> {
    /// Checks `value` against the root.
    pub fn check_root(&mut self, value: &mut Value) {
        let root = self.root;
        self.check(root, value, "");
    }

    fn check(&mut self, schema: &'a Value, value: &mut Value, at: &str) {
        let schema = self.resolved(schema);
        let branches = ["anyOf", "oneOf"].into_iter().find_map(|key| schema[key].as_array());
        if let Some(branches) = branches {
            return self.check_branches(branches, value, at);
        }
        let types = types_of(schema);
        coerce(&types, value);
        if !types.is_empty() && !types.iter().any(|wanted| fits(wanted, value)) {
            return self.mistaken(schema, value, at);
        }
        match value {
            Value::Object(map) => self.check_object(schema, map, at),
            Value::Array(items) => {
                let Some(item_schema) = schema.get("items") else { return };
                for (index, item) in items.iter_mut().enumerate() {
                    self.check(item_schema, item, &format!("{at}[{index}]"));
                }
            }
            Value::String(_) | Value::Number(_) => {
                if !within(schema, value) {
                    self.mistaken(schema, value, at);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Enums: lists of words, objects told apart by a constant, or types told apart by their JSON type.
    fn check_branches(&mut self, branches: &'a [Value], value: &mut Value, at: &str) {
        let branches: Vec<&Value> = branches.iter().map(|branch| self.resolved(branch)).filter(|b| b["type"] != "null").collect();
        if let [only] = branches[..] {
            return self.check(only, value, at);
        }
        let words = words_of(&branches);
        if !words.is_empty() {
            if !value.as_str().is_some_and(|text| words.contains(&text)) {
                let found = self.found(&Value::Null, value, at);
                self.problem(at, &found, &words.join(", "), suggestion(value, &words));
            }
            return;
        }
        if let Some((tag, accepted)) = tag_of(&branches) {
            match branches.iter().find(|branch| Some(&branch["properties"][&tag]["const"]) == value.get(&tag)) {
                Some(branch) => self.check(branch, value, at),
                None if value.is_object() => {
                    let chosen = value.get(&tag).unwrap_or(&Value::Null);
                    let found = self.found(&Value::Null, chosen, at);
                    self.problem(&join(at, &tag), &found, &accepted.join(", "), suggestion(chosen, &accepted));
                }
                None => {
                    let found = self.found(&Value::Null, value, at);
                    self.problem(at, &found, "an object", None);
                }
            }
            return;
        }
        // Anything else is left to the types themselves, unless the JSON type decides.
        if let Some(branch) = branches.iter().find(|branch| types_of(branch).iter().any(|wanted| fits(wanted, value))) {
            self.check(branch, value, at);
        }
    }

    fn check_object(&mut self, schema: &'a Value, map: &mut Map<String, Value>, at: &str) {
        let properties = schema["properties"].as_object();
        let additional = schema.get("additionalProperties");
        let mut meant = Vec::new();
        for key in map.keys().cloned().collect::<Vec<_>>() {
            let here = join(at, &key);
            if let Some(property) = properties.and_then(|known| known.get(&key)) {
                if map[&key].is_null() {
                    map.shift_remove(&key);
                    continue;
                }
                self.report_property(property, &map[&key], &here);
                self.check(property, &mut map[&key], &here);
                continue;
            }
            match additional {
                Some(any) if any.is_object() => self.check(any, &mut map[&key], &here),
                Some(Value::Bool(true)) => {}
                None if properties.is_none() => {}
                _ => {
                    meant.extend(self.unknown_key(schema, &key, &map[&key], at));
                    map.shift_remove(&key);
                }
            }
        }
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            // A mistyped key has been reported already.
            if !map.contains_key(key) && !meant.contains(&key) {
                let accepted = accepted(self.resolved(&schema["properties"][key]));
                self.problem(&join(at, key), "nothing", &accepted, None);
            }
        }
    }

    fn report_property(&mut self, property: &Value, value: &Value, at: &str) {
        let shown = self.shown(at);
        if let Some(reason) = property["x-no-effect"].as_str() {
            self.findings.no_effect(&shown, reason);
        }
        if let Some(what) = property["x-not-built"].as_str()
            && !is_empty(value)
        {
            self.findings.not_built(&shown, what);
        }
    }

    /// Reports a key that the object does not have; gives the key that was probably meant, if that is a mistake.
    fn unknown_key(&mut self, schema: &'a Value, key: &str, value: &Value, at: &str) -> Option<&'a str> {
        let shown = self.shown(&join(at, key));
        let planned = schema["x-not-built"].as_array().into_iter().flatten().any(|name| name == key);
        if planned && !is_empty(value) {
            self.findings.not_built(&shown, "this option");
            return None;
        }
        if planned {
            self.findings.no_effect(&shown, "it is empty");
            return None;
        }
        let properties = || schema["properties"].as_object().into_iter().flatten();
        let foreign = if at.is_empty() { self.dialect_keys } else { &[] };
        let meant = closest(key, foreign.iter().copied().chain(properties().map(|(name, _)| name.as_str())));
        let help = match meant {
            Some(name) => format!("did you mean `{name}`?"),
            None => {
                let live = properties().filter(|(_, property)| property.get("x-no-effect").is_none()).map(|(name, _)| name.as_str());
                format!("accepted here: {}", live.chain(foreign.iter().copied()).collect::<Vec<_>>().join(", "))
            }
        };
        if self.lenient {
            self.findings.notes.push(format!("`{shown}`: unknown key, ignored; {help}"));
            return None;
        }
        self.findings.unknown = true;
        self.findings.problems.push(format!("`{shown}`: unknown key; {help}"));
        meant
    }

    fn mistaken(&mut self, schema: &Value, value: &Value, at: &str) {
        let words: Vec<&str> = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut wanted = accepted(schema);
        if wanted == "text" && (value.is_number() || value.is_boolean()) {
            wanted.push_str(" (put it in quotes)");
        }
        let found = self.found(schema, value, at);
        self.problem(at, &found, &wanted, suggestion(value, &words));
    }

    fn problem(&mut self, at: &str, found: &str, accepted: &str, meant: Option<&str>) {
        let place = if at.is_empty() { "the file".to_owned() } else { format!("`{}`", self.shown(at)) };
        let meant = meant.map(|word| format!("; did you mean `{word}`?")).unwrap_or_default();
        self.findings.problems.push(format!("{place}: found {found}, accepted: {accepted}{meant}"));
    }

    /// What stands in the file at `at`, in words that give no secret away.
    fn found(&self, schema: &Value, value: &Value, at: &str) -> String {
        let kind = match value {
            Value::Null => return "nothing".to_owned(),
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "text",
            Value::Array(_) => return "a list".to_owned(),
            Value::Object(_) => return "an object".to_owned(),
        };
        if schema["writeOnly"] == true || sounds_secret(at) || self.origins.get(at).is_some_and(|origin| sounds_secret(origin)) {
            return kind.to_owned();
        }
        let written = self.written.get(at).or_else(|| self.written.get(&self.shown(at)));
        let (text, note) = match (written, value) {
            (Some(written), _) => (format!("{written:?}"), " (its value is not quoted here)"),
            (None, value) => (value.to_string(), ""),
        };
        let short: String = text.chars().take(60).collect();
        let dots = if short.len() < text.len() { "…" } else { "" };
        format!("{short}{dots}{note}")
    }

    /// The path as the user wrote it.
    fn shown(&self, at: &str) -> String {
        let mut end = at.len();
        loop {
            if let Some(origin) = self.origins.get(&at[..end]) {
                return format!("{origin}{}", &at[end..]);
            }
            match at[..end].rfind(['.', '[']) {
                Some(shorter) => end = shorter,
                None => return at.to_owned(),
            }
        }
    }

    fn resolved(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        // Our schemas have no cycle of bare references; the bound only keeps a mistake there from hanging.
        for _ in 0..16 {
            let Some(pointer) = schema["$ref"].as_str().and_then(|target| target.strip_prefix('#')) else { break };
            let Some(target) = self.root.pointer(pointer) else { break };
            schema = target;
        }
        schema
    }
}

/// `null`, `false`, zero, and everything without content: a feature that is switched off.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
    }
}

fn suggestion<'w>(value: &Value, words: &[&'w str]) -> Option<&'w str> {
    closest(value.as_str()?, words.iter().copied())
}

/// Whether the last part of a path names something that should not be quoted, whatever its schema says.
fn sounds_secret(at: &str) -> bool {
    let name = at.rsplit('.').next().unwrap_or(at).to_lowercase();
    ["password", "secret", "token", "credential", "key", "passphrase", "url", "private", "tlsfile"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "host": {"type": ["string", "null"]},
                "port": {"type": ["integer", "null"], "minimum": 1, "maximum": 65535},
                "size": {"type": "number", "minimum": 0},
                "deep": {"anyOf": [{"$ref": "#/$defs/Deep"}, {"type": "null"}]},
                "list": {"type": "array", "items": {"type": "string"}},
                "old": {"x-no-effect": "gone"},
                "free": {"type": "object", "additionalProperties": true},
                "soon": {"type": "string", "x-not-built": "a tunnel"},
                "db_password": {"type": "string"}
            },
            "x-not-built": ["later"],
            "$defs": {"Deep": {"type": "object", "properties": {"on": {"type": "boolean"}, "mode": {"type": "string", "enum": ["slow", "fast"]}}, "required": ["mode"]}}
        })
    }

    fn run(lenient: bool, mut value: Value) -> (Value, Findings) {
        let root = schema();
        let mut findings = Findings::default();
        let written = BTreeMap::from([("size".to_owned(), "${SIZE}".to_owned())]);
        let origins = BTreeMap::from([("deep".to_owned(), "source.Tief".to_owned())]);
        Shape { root: &root, lenient, written: &written, origins: &origins, dialect_keys: &["Hosts"], findings: &mut findings }
            .check_root(&mut value);
        (value, findings)
    }

    #[test]
    fn each_mistake_says_where_what_and_what_else() {
        let check = |value: Value, expected: &str| assert_eq!(run(false, value.clone()).1.problems, [expected], "{value}");
        check(json!({"hst": 1}), "`hst`: unknown key; did you mean `host`?");
        check(json!({"Hostss": 1}), "`Hostss`: unknown key; did you mean `Hosts`?");
        check(json!({"port": 0}), "`port`: found 0, accepted: a whole number from 1 to 65535");
        check(json!({"port": "x1"}), "`port`: found \"x1\", accepted: a whole number from 1 to 65535");
        check(json!({"port": 1.5}), "`port`: found 1.5, accepted: a whole number from 1 to 65535");
        check(json!({"size": "big"}), "`size`: found \"${SIZE}\" (its value is not quoted here), accepted: a number, 0 or more");
        check(json!({"host": 5}), "`host`: found 5, accepted: text (put it in quotes)");
        check(json!({"host": ["a"]}), "`host`: found a list, accepted: text");
        check(json!({"list": "a"}), "`list`: found \"a\", accepted: a list of text");
        check(json!({"list": ["a", {}]}), "`list[1]`: found an object, accepted: text");
        check(json!({"deep": {"mode": "fst"}}), "`source.Tief.mode`: found \"fst\", accepted: slow, fast; did you mean `fast`?");
        check(json!({"deep": {}}), "`source.Tief.mode`: found nothing, accepted: slow, fast");
        check(json!({"db_password": 5}), "`db_password`: found a number, accepted: text (put it in quotes)");
        check(json!({"soon": "x"}), "`soon`: a tunnel is not built yet in this version");
        check(json!({"later": {"a": 1}}), "`later`: this option is not built yet in this version");
        check(json!([]), "the file: found a list, accepted: an object");
    }

    #[test]
    fn values_are_made_to_fit() {
        let check = |value: Value, expected: Value| {
            let (result, findings) = run(false, value);
            assert!(findings.problems.is_empty(), "{findings:?}");
            assert_eq!(result, expected);
        };
        check(json!({"port": "5432"}), json!({"port": 5432}));
        check(json!({"port": 5432.0}), json!({"port": 5432}));
        check(json!({"port": null, "host": null}), json!({}));
        check(json!({"size": "1.5"}), json!({"size": 1.5}));
        check(json!({"deep": {"mode": "fast", "on": "true"}}), json!({"deep": {"mode": "fast", "on": true}}));
        check(json!({"host": "5432"}), json!({"host": "5432"}));
        check(json!({"free": {"a": null, "b": [1]}}), json!({"free": {"a": null, "b": [1]}}));
        check(json!({"soon": ""}), json!({"soon": ""}));
    }

    #[test]
    fn keys_without_effect_are_noted_and_lenient_ignores_unknown_ones() {
        let (value, findings) = run(true, json!({"old": 1, "colour": 2}));
        assert_eq!(value, json!({"old": 1}));
        assert!(findings.problems.is_empty());
        assert_eq!(findings.notes[0], "`old` is accepted for compatibility, has no effect: gone");
        assert!(findings.notes[1].starts_with("`colour`: unknown key, ignored; accepted here: host, port"), "{}", findings.notes[1]);
    }
}
