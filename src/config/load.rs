//! From a path to a typed value: read, parse as JSON or YAML, expand, translate, compare with the schema, deserialize.
//!
//! Promises: a mistake names the file, the place in it, what was found and what is accepted, and all mistakes of a file
//! come at once; no message holds a secret or the result of an expansion. Nothing is read twice and nothing is written.
//! Does not know what the keys mean: that is the business of the type that is loaded. An encrypted file is decrypted by the
//! caller, between [`Text::read`] and [`Text::load`], because that may need a connection.

use super::dialect::{self, Translated};
use super::encryption;
use super::expand::{Lookup, expand_all};
use super::shape::{Findings, Shape};
use super::{destination, source};
use crate::error::{Context, Error, Result};
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;
use std::io;
use std::path::Path;

/// Which of the user's files is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// `source.json`.
    Source,
    /// `destination.json`.
    Destination,
    /// `streams.json`.
    Streams,
    /// `state.json`.
    State,
}

impl FileKind {
    /// Keys whose values are taken as they stand. What `discover` and `sync` write comes from the database, where a
    /// column, a comment or a cursor value may well hold `${`.
    fn literal(self) -> &'static [&'static str] {
        match self {
            Self::Source | Self::Destination => &[],
            Self::Streams => &[
                "name",
                "namespace",
                "description",
                "type_schema",
                "stream_name",
                "columns",
                "chunk_column",
                "cursor_field",
                "source_defined_primary_key",
                "available_cursor_fields",
            ],
            Self::State => &["global", "streams"],
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Streams => "streams",
            Self::State => "state",
        })
    }
}

/// A value and what the user should be told about its file.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The value.
    pub value: T,
    /// Keys without effect and, if lenient, unknown keys: to be logged once.
    pub notes: Vec<String>,
}

/// Reads a file with the environment of this process.
pub fn load<T: DeserializeOwned + JsonSchema>(path: &Path, kind: FileKind, lenient: bool) -> Result<Loaded<T>> {
    load_with(path, kind, lenient, &Lookup::process())
}

/// Reads a file; `lookup` answers `${…}`.
pub fn load_with<T: DeserializeOwned + JsonSchema>(path: &Path, kind: FileKind, lenient: bool, lookup: &Lookup<'_>) -> Result<Loaded<T>> {
    Text::read(path).and_then(|text| text.load(kind, lenient, lookup)).doing(|| format!("read {kind} file {}", path.display()))
}

/// What stands in a file, or in what was decrypted from it.
pub struct Text {
    text: String,
    /// The file is called `.yaml`.
    yaml: bool,
    decrypted: bool,
}

impl Text {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let yaml = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml");
        Ok(Self { text: read(path)?, yaml, decrypted: false })
    }

    /// What stands in a file whose bytes are at hand.
    pub fn of(bytes: Vec<u8>, yaml: bool) -> Result<Self> {
        Ok(Self { text: decode(bytes)?, yaml, decrypted: false })
    }

    /// The bytes that an encrypted file holds.
    pub fn encrypted(&self) -> Result<Vec<u8>> {
        match parse(&self.text, self.yaml)? {
            Value::String(text) => encryption::bytes(&text),
            _ => Err(Error::config("a key is given, and the file is not encrypted: it does not hold a single string")
                .hint("encrypt it with `lakeward encrypt`, or leave out --encryption-key and LAKEWARD_ENCRYPTION_KEY")),
        }
    }

    /// What the file says once it is decrypted.
    pub fn decrypted(self, bytes: Vec<u8>) -> Result<Self> {
        // Where the bytes stop being text is a place that nobody can look at.
        let text = String::from_utf8(bytes).map_err(|_| {
            Error::config("the file was decrypted, and what came out is not UTF-8 text")
                .hint("encrypt the configuration itself, as UTF-8, with `lakeward encrypt`")
        })?;
        if text.trim().is_empty() {
            return Err(Error::config("the file was decrypted, and what came out is empty"));
        }
        Ok(Self { text, decrypted: true, ..self })
    }

    /// The text, if it is one that a file of `kind` can hold. Nothing in it is expanded or compared with a schema.
    pub fn plain(self, kind: FileKind) -> Result<String> {
        let value = parse(&self.text, self.yaml)?;
        if value.is_string() {
            return Err(Error::config("the file holds a single string: it seems to be encrypted already"));
        }
        refuse_wrong_file(&value, kind)?;
        Ok(self.text)
    }

    /// The value that the text stands for.
    pub fn load<T: DeserializeOwned + JsonSchema>(&self, kind: FileKind, lenient: bool, lookup: &Lookup<'_>) -> Result<Loaded<T>> {
        let value = parse(&self.text, self.yaml)?;
        if value.is_string() {
            return Err(self.single_string(kind));
        }
        interpret(value, kind, lenient, lookup)
    }

    fn single_string(&self, kind: FileKind) -> Error {
        match kind {
            _ if self.decrypted => Error::config("the file was decrypted, and what came out is a single string, not an object with keys")
                .hint("it may have been encrypted twice, or with quotes around it; encrypt the original"),
            FileKind::Source | FileKind::Destination => {
                Error::config("the file holds a single string: it is encrypted, and no key is given")
                    .hint("give the key with --encryption-key, or in the environment as LAKEWARD_ENCRYPTION_KEY")
            }
            FileKind::Streams | FileKind::State => Error::config("the file holds a single string, accepted: an object with keys")
                .hint("only source and destination files can be encrypted"),
        }
    }
}

/// The text of a file, which is UTF-8 and not empty.
pub(crate) fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::config("there is no such file"),
        io::ErrorKind::IsADirectory => Error::config("this is a directory, not a file"),
        io::ErrorKind::PermissionDenied => Error::config("no permission to read it"),
        _ => Error::config(format!("cannot be read: {error}")),
    })?;
    decode(bytes)
}

fn decode(bytes: Vec<u8>) -> Result<String> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err(Error::config("the text is encoded as UTF-16, accepted: UTF-8").hint("save the file as UTF-8"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::config(format!("line {line}: byte {at} of the file is not valid UTF-8")).hint("save the file as UTF-8")
    })?;
    let text = text.strip_prefix('\u{FEFF}').map(str::to_owned).unwrap_or(text);
    if text.trim().is_empty() {
        return Err(Error::config("the file is empty"));
    }
    Ok(text)
}

/// JSON if it starts like JSON, else YAML. In a file called `.yaml` braces may also open YAML's own flow style.
fn parse(text: &str, yaml: bool) -> Result<Value> {
    let looks_like_json = text.trim_start().starts_with(['{', '[', '"']);
    if looks_like_json {
        match parse_json(text) {
            Err(_) if yaml => {}
            outcome => return outcome,
        }
    }
    parse_yaml(text)
}

/// JSON in which no key occurs twice.
pub(crate) fn parse_json(text: &str) -> Result<Value> {
    serde_json::from_str::<Strict>(text).map(|value| value.0).map_err(|error| json_mistake(&error))
}

fn parse_yaml(text: &str) -> Result<Value> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options::<Strict>(text, options).map(|value| value.0).map_err(|error| yaml_mistake(&error))
}

/// A JSON or YAML text inside another file.
pub(super) fn parse_inner(text: &str) -> Result<Value, String> {
    parse(text, false).map_err(|error| error.to_string())
}

fn json_mistake(error: &serde_json::Error) -> Error {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    Error::config(format!("line {}, column {}: {what}", error.line(), error.column()))
}

fn yaml_mistake(error: &serde_saphyr::Error) -> Error {
    // The parser's own words can quote the text that it stumbled over, and that may be a password.
    let place = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column())).unwrap_or_default();
    let what = match error.without_snippet() {
        serde_saphyr::Error::Message { msg, .. } if msg.starts_with(TWICE) => msg.clone(),
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => format!("{TWICE} `{key}`"),
        serde_saphyr::Error::Eof { .. } => "the text ends too early".to_owned(),
        serde_saphyr::Error::MultipleDocuments { .. } => "more than one document, accepted: one".to_owned(),
        _ => "not valid YAML".to_owned(),
    };
    Error::config(format!("{place}{what}"))
}

fn interpret<T: DeserializeOwned + JsonSchema>(mut value: Value, kind: FileKind, lenient: bool, lookup: &Lookup<'_>) -> Result<Loaded<T>> {
    refuse_wrong_file(&value, kind)?;
    let mut findings = Findings::default();
    dialect::unpack(&mut value);
    let mut expanded = expand_all(&mut value, kind.literal(), lookup);
    if !expanded.problems.is_empty() {
        findings.problems.append(&mut expanded.problems);
        return Err(refusal(findings));
    }
    let mut document = match kind {
        FileKind::Source => dialect::translate(value, &mut findings),
        FileKind::Destination => Translated::unchanged(destination::normalise(value, &mut findings)),
        FileKind::Streams | FileKind::State => Translated::unchanged(value),
    };
    if !findings.problems.is_empty() {
        return Err(refusal(findings));
    }
    let schema = schemars::schema_for!(T).to_value();
    Shape {
        root: &schema,
        lenient,
        written: &expanded.written,
        origins: &document.origins,
        dialect_keys: &document.keys,
        findings: &mut findings,
    }
    .check_root(&mut document.value);
    // Single keys first: what they contradict is only worth saying about keys that are right.
    if kind == FileKind::Source && findings.problems.is_empty() {
        source::remark(&document.value, &mut findings);
    }
    if !findings.problems.is_empty() {
        return Err(refusal(findings));
    }
    let value = serde_path_to_error::deserialize(document.value).map_err(|error| {
        let path = error.path().to_string();
        Error::config(format!("`{path}`: {}", without_quotes(&error.inner().to_string())))
    })?;
    Ok(Loaded { value, notes: findings.notes })
}

/// serde's "invalid type: string "…", expected …" quotes the value, which may be a secret: the quoted part is left out.
fn without_quotes(message: &str) -> String {
    match (message.find('"'), message.rfind("\", expected")) {
        (Some(open), Some(close)) if open < close => format!("{}…{}", &message[..open], &message[close + 1..]),
        _ => message.to_owned(),
    }
}

fn refusal(findings: Findings) -> Error {
    let message = match &findings.problems[..] {
        [one] => one.clone(),
        several => format!("{} mistakes:\n  {}", several.len(), several.join("\n  ")),
    };
    let error = Error::config(message);
    if findings.unknown { error.hint("correct the name, or ignore unknown keys with --lenient") } else { error }
}

/// Swapped files are the commonest mistake of all, and a list of unknown keys would be a poor answer to it.
fn refuse_wrong_file(value: &Value, kind: FileKind) -> Result<()> {
    let Some(map) = value.as_object() else {
        let found = if value.is_array() { "a list" } else { "a single value" };
        return Err(Error::config(format!("found {found}, accepted: an object with keys")));
    };
    let has = |key: &str| map.contains_key(key);
    let seems = if has("writer") {
        FileKind::Destination
    } else if has("selected_streams")
        || (has("streams") && !has("global") && map["streams"].get(0).is_some_and(|s| s.get("stream").is_some_and(Value::is_object)))
    {
        FileKind::Streams
    } else if has("host") && (has("database") || has("username")) {
        FileKind::Source
    } else {
        return Ok(());
    };
    // A foreign file may describe source and destination together.
    if seems == kind || has("src") || has("source") {
        return Ok(());
    }
    Err(Error::config(format!("this looks like a {seems} file, not like a {kind} file")).hint("check which file is given to which flag"))
}

const TWICE: &str = "the same key twice:";

/// Any JSON or YAML value, except that a key that occurs twice is an error: the second would silently win.
struct Strict(Value);

impl<'de> serde::Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(serde::de::Error::custom(format!("{TWICE} `{key}`")));
            }
            let Strict(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
