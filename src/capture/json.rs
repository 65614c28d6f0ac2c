//! A row as one JSON object, made here of what the log has of it: byte for byte what `row_to_json` makes of the same row in a copy.
//!
//! Promises: the object is valid JSON whatever the values are, with the chosen columns in their order; a value of a type whose JSON only the
//! server can make is refused before the run. The forms are those of `utils/adt/json.c` (`datum_to_json`). Knows no batches and no
//! transactions; which appearance a column has is the business of [`crate::sync`].

use super::tuple::Cell;
use crate::error::{Error, Result};
use crate::postgres::catalog::ColumnInfo;
use crate::types::pg_type::{Attribute, PgType, TypeKind};
use crate::values::literal::{array_text, composite_text, hstore_text, int_vector_text};
use crate::values::parts::Dimensions;
use crate::values::temporal_text::{print_timestamp, timestamp_text};
use crate::values::{Fault, Parts, Step, not_a};

/// OIDs below are not given to types that anybody has made, domains included (`FirstGenbkiObjectId`).
const ASSIGNED_BY_HAND: u32 = 10_000;
const JSON: u32 = 114;
const JSONB: u32 = 3802;
/// From 1970 to PostgreSQL's epoch, in microseconds.
const EPOCH_MICROS: i64 = 10_957 * 86_400_000_000;

/// How the values of a column appear in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appearance {
    /// What `to_json` makes of them.
    Value,
    /// A string: what the output function prints.
    Text,
    /// Of a date, timestamp or timestamptz: RFC 3339 in UTC with as many digits as there are; the output where it has no such form.
    Instant,
}

/// A member of the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The column's name in the source, which is the key.
    pub name: String,
    /// Whether the column is part of the table's primary key.
    pub key: bool,
    /// The key as JSON has it, with the colon.
    label: Vec<u8>,
    form: Form,
    /// The log has values from a time when the column had another type, which are not JSON.
    stale: bool,
}

/// How a value becomes JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// A string of the text.
    Text,
    Boolean,
    /// As it stands if it is a number to JSON, else a string.
    Number,
    /// JSON already.
    Raw,
    /// ISO 8601, with the time zone if there is one.
    Timestamp,
    /// RFC 3339 of a date.
    MidnightUtc,
    /// RFC 3339 of a timestamp.
    InstantUtc,
    /// An object of strings, as `hstore_to_json` makes it.
    Hstore,
    Array {
        element: Box<Form>,
        delimiter: u8,
    },
    /// `int2vector` and `oidvector`.
    Vector(Box<Form>),
    /// Members with their labels.
    Composite(Vec<(Vec<u8>, Form)>),
}

impl Member {
    /// For a column; `key` says whether it is part of the primary key.
    ///
    /// # Errors
    /// A type for which a function is the cast to json, which only the server can call. That of `hstore` is known.
    pub fn new(column: &ColumnInfo, appearance: Appearance, key: bool) -> Result<Self> {
        let form = match (appearance, column.ty.oid) {
            (Appearance::Text, _) => Form::Text,
            (Appearance::Instant, 1082) => Form::MidnightUtc,
            (Appearance::Instant, _) => Form::InstantUtc,
            (Appearance::Value, _) => form_of(&column.ty).map_err(|ty| {
                let (name, declared) = (&column.name, &column.declared);
                Error::schema(format!(
                    "column `{name}` of type {declared}: a function casts {}.{} to json, and values out of the log cannot be given to it",
                    ty.namespace, ty.name
                ))
                .hint(format!(
                    "set the column's type in the type_schema to \"string\" (the text then), leave {name} out of selected_columns, or set \
                     \"normalization\": true for this stream"
                ))
            })?,
        };
        Ok(Self { name: column.name.clone(), key, label: label(&column.name), form, stale: false })
    }

    /// The values that follow are of this type. Only what would not be JSON any more is of interest: the text of a column that is json today.
    pub fn relate(&mut self, type_oid: u32) {
        self.stale = self.form == Form::Raw && type_oid < ASSIGNED_BY_HAND && !matches!(type_oid, JSON | JSONB);
    }

    fn value(&self, text: &[u8], out: &mut Vec<u8>) -> Step {
        if self.stale { Form::Text.put(text, out) } else { self.form.put(text, out) }
    }
}

/// Appends the object of a row to `out`. `cell` gives a column's value by its number. A value that was not sent is left out of the object
/// if `partial`, else an error. An error comes with the number of the column.
pub(super) fn object<'a>(
    members: &[Member],
    cell: impl Fn(usize) -> Cell<'a>,
    partial: bool,
    out: &mut Vec<u8>,
) -> Result<(), (usize, Box<Fault>)> {
    out.push(b'{');
    let mut first = true;
    for (number, member) in members.iter().enumerate() {
        let cell = cell(number);
        if cell == Cell::Unchanged && partial {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        out.extend_from_slice(&member.label);
        match cell {
            Cell::Null => out.extend_from_slice(b"null"),
            Cell::Text(text) => member.value(text, out).map_err(|fault| (number, fault))?,
            Cell::Unchanged => return Err((number, unsent())),
            Cell::Binary(_) => return Err((number, Fault::malformed("a value in binary form, which was not asked for"))),
        }
    }
    out.push(b'}');
    Ok(())
}

/// A value that is not in the log.
#[cold]
pub(super) fn unsent() -> Box<Fault> {
    Fault::unfit("what the row has", "not in the log: it is large, and the UPDATE did not touch it")
}

/// `json_categorize_type`; the type whose cast stands in the way if it is an error.
fn form_of<'t>(ty: &'t PgType) -> std::result::Result<Form, &'t PgType> {
    Ok(match &ty.kind {
        TypeKind::Array { element, .. } => {
            let (element, delimiter) = (Box::new(form_of(element)?), element.delimiter);
            match ty.name.as_str() {
                "int2vector" | "oidvector" => Form::Vector(element),
                _ => Form::Array { element, delimiter },
            }
        }
        TypeKind::Composite(attributes) => {
            let member = |attribute: &'t Attribute| Ok((label(&attribute.name), form_of(&attribute.ty)?));
            Form::Composite(attributes.iter().map(member).collect::<std::result::Result<_, _>>()?)
        }
        TypeKind::Base if ty.extension && ty.name == "hstore" && ty.json_cast => Form::Hstore,
        _ if ty.json_cast => return Err(ty),
        TypeKind::Base => match ty.oid {
            16 => Form::Boolean,
            20 | 21 | 23 | 700 | 701 | 1700 => Form::Number,
            JSON | JSONB => Form::Raw,
            1114 | 1184 => Form::Timestamp,
            // A date's text is in ISO 8601 already.
            _ => Form::Text,
        },
        TypeKind::Enum(_) | TypeKind::Range(_) | TypeKind::Multirange(_) | TypeKind::Other => Form::Text,
    })
}

impl Form {
    /// Appends the value whose output function has printed `text`.
    fn put(&self, text: &[u8], out: &mut Vec<u8>) -> Step {
        match self {
            Self::Text => string(text, out),
            Self::Boolean => out.extend_from_slice(match text {
                b"t" => b"true",
                b"f" => b"false",
                _ => return Err(not_a("a boolean", text)),
            }),
            Self::Number if is_number(text) => out.extend_from_slice(text),
            Self::Number => string(text, out),
            Self::Raw => out.extend_from_slice(text),
            Self::Timestamp => return timestamp(text, out),
            Self::MidnightUtc if has_instant(text) => return midnight(text, out),
            Self::InstantUtc if has_instant(text) => return instant(text, out),
            Self::MidnightUtc | Self::InstantUtc => string(text, out),
            Self::Hstore => return hstore(text, out),
            Self::Array { element, delimiter } => return list(element, out, |parts| array_text(text, *delimiter, parts)),
            Self::Vector(element) => return list(element, out, |parts| int_vector_text(text, parts)),
            Self::Composite(members) => return composite(members, text, out),
        }
        Ok(())
    }

    fn put_part(&self, part: Option<&[u8]>, out: &mut Vec<u8>) -> Step {
        match part {
            Some(text) => self.put(text, out),
            None => {
                out.extend_from_slice(b"null");
                Ok(())
            }
        }
    }
}

/// A key with its colon.
fn label(name: &str) -> Vec<u8> {
    let mut label = Vec::with_capacity(name.len() + 3);
    string(name.as_bytes(), &mut label);
    label.push(b':');
    label
}

/// A string (`escape_json`).
fn string(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte < b' ' || matches!(byte, b'"' | b'\\')) {
        let (plain, from) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, after)) = from.split_first() else { break };
        match byte {
            0x08 => out.extend_from_slice(b"\\b"),
            0x0C => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            _ => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// A string of parts that need no escapes.
fn quoted(parts: &[&[u8]], out: &mut Vec<u8>) {
    out.push(b'"');
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.push(b'"');
}

/// Whether JSON takes it for a number: NaN and infinity are none.
fn is_number(text: &[u8]) -> bool {
    let digits = |rest: &mut &[u8]| {
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        *rest = rest.get(count..).unwrap_or_default();
        count
    };
    let mut rest = text.strip_prefix(b"-").unwrap_or(text);
    let zero = rest.first() == Some(&b'0');
    let whole = digits(&mut rest);
    if whole == 0 || zero && whole > 1 {
        return false;
    }
    if let Some(after) = rest.strip_prefix(b".") {
        rest = after;
        if digits(&mut rest) == 0 {
            return false;
        }
    }
    if let Some(after) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        rest = after.strip_prefix(b"-").or_else(|| after.strip_prefix(b"+")).unwrap_or(after);
        if digits(&mut rest) == 0 {
            return false;
        }
    }
    rest.is_empty()
}

/// Whether RFC 3339 has a form for a date or time: it is finite, and of our era.
fn has_instant(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit) && !text.ends_with(b" BC")
}

/// The parts of a timestamp's text: date, time, zone (empty if there is none), and the mark of the years before our era.
fn timestamp_parts(text: &[u8]) -> Step<[&[u8]; 4]> {
    let (rest, era) = text.split_at(text.len() - if text.ends_with(b" BC") { 3 } else { 0 });
    let malformed = || not_a("a timestamp", text);
    let plain =
        |part: &[u8]| !part.is_empty() && part.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b':' | b'.'));
    let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
    let (date, time) = (&rest[..space], &rest[space + 1..]);
    let (time, zone) = time.split_at(time.iter().position(|byte| matches!(byte, b'+' | b'-')).unwrap_or(time.len()));
    if plain(date) && plain(time) && (zone.is_empty() || plain(zone)) { Ok([date, time, zone, era]) } else { Err(malformed()) }
}

/// As `JsonEncodeDateTime`: a T between date and time, and minutes in the zone.
fn timestamp(text: &[u8], out: &mut Vec<u8>) -> Step {
    if matches!(text, b"infinity" | b"-infinity") {
        string(text, out);
        return Ok(());
    }
    let [date, time, zone, era] = timestamp_parts(text)?;
    let minutes: &[u8] = if zone.len() == 3 { b":00" } else { b"" };
    quoted(&[date, b"T", time, zone, minutes, era], out);
    Ok(())
}

/// RFC 3339 of the start of a day.
fn midnight(text: &[u8], out: &mut Vec<u8>) -> Step {
    if !text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') {
        return Err(not_a("a date", text));
    }
    quoted(&[text, b"T00:00:00Z"], out);
    Ok(())
}

/// RFC 3339 of a timestamp, in UTC.
fn instant(text: &[u8], out: &mut Vec<u8>) -> Step {
    let [date, time, zone, _] = timestamp_parts(text)?;
    if matches!(zone, b"" | b"+00") {
        quoted(&[date, b"T", time, b"Z"], out);
        return Ok(());
    }
    // The session has a time zone of the user's choice.
    let mut utc = Vec::new();
    print_timestamp(&(timestamp_text(text)? - EPOCH_MICROS).to_be_bytes(), &mut utc)?;
    if has_instant(&utc) {
        return instant(&utc, out);
    }
    string(text, out);
    Ok(())
}

fn hstore(text: &[u8], out: &mut Vec<u8>) -> Step {
    out.push(b'{');
    let mut parts = 0_usize;
    hstore_text(text, &mut |part| {
        let is_key = parts.is_multiple_of(2);
        if !is_key {
            out.extend_from_slice(b": ");
        } else if parts > 0 {
            out.extend_from_slice(b", ");
        }
        parts += 1;
        Form::Text.put_part(part, out)
    })?;
    out.push(b'}');
    Ok(())
}

/// An array, as deep as its value is.
fn list(element: &Form, out: &mut Vec<u8>, split: impl FnOnce(&mut Parts<'_>) -> Step<Dimensions>) -> Step {
    let start = out.len();
    out.push(b'[');
    let mut ends = Vec::new();
    let dimensions = split(&mut |part| {
        if !ends.is_empty() {
            out.push(b',');
        }
        element.put_part(part, out)?;
        ends.push(out.len());
        Ok(())
    })?;
    out.push(b']');
    let lengths = dimensions.lengths();
    if lengths.len() < 2 {
        return Ok(());
    }
    // How many elements there are within one of each depth.
    let sizes: Vec<usize> = (0..lengths.len()).map(|depth| lengths[depth..].iter().product::<usize>().max(1)).collect();
    let flat = out.split_off(start);
    let (mut from, ends) = (1, ends.into_iter().map(|end| end - start));
    for (number, end) in ends.enumerate() {
        if number > 0 {
            out.push(b',');
        }
        let brackets = |at: usize| sizes.iter().filter(|size| at.is_multiple_of(**size)).count();
        out.resize(out.len() + brackets(number), b'[');
        out.extend_from_slice(flat.get(from..end).unwrap_or_default());
        out.resize(out.len() + brackets(number + 1), b']');
        // Behind the comma.
        from = end + 1;
    }
    Ok(())
}

fn composite(members: &[(Vec<u8>, Form)], text: &[u8], out: &mut Vec<u8>) -> Step {
    out.push(b'{');
    let mut rest = members.iter();
    composite_text(text, members.len(), &mut |part| {
        let Some((label, form)) = rest.next() else { return Err(Fault::malformed("a composite has more columns than its type")) };
        if rest.len() + 1 < members.len() {
            out.push(b',');
        }
        out.extend_from_slice(label);
        form.put_part(part, out)
    })?;
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
