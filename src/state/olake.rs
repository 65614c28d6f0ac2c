//! What OLake's part of a state file says of an incremental stream. Pure: values in, SQL out.
//!
//! OLake saves the greatest cursor values before a first load, then the chunks that are still to be read, and takes each off the list when
//! its rows are in the destination. An empty list says that the load is complete (in a file of type `GLOBAL`, the list of streams does).

use super::{RESTORE, State, StreamState};
use crate::error::{Context, Error, Result};
use crate::postgres::quote;
use serde_json::Value;

/// How far OLake has read a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The values of the cursor's columns; of the first there is one.
    pub values: Vec<Option<String>>,
    /// Chunks of the first load that are still to be read.
    pub chunks: Vec<OlakeChunk>,
}

/// A chunk as OLake has it.
#[derive(Clone, Debug, PartialEq)]
pub enum OlakeChunk {
    /// `{"min": "'(0,0)'", "max": "'(262144,0)'"}`: tuple ids from the one to the other, without it.
    Tuples(String, String),
    /// `{"min": 1, "max": 10001}`: values of `chunk_column`; none means no bound.
    Values(Option<String>, Option<String>),
}

impl Progress {
    /// What `state` says; `None` if OLake has not begun with the stream, or not with this cursor.
    ///
    /// # Errors
    /// Chunks in no known form.
    pub fn of(state: &State, namespace: &str, name: &str, cursor: &[&str]) -> Result<Option<Self>> {
        let Some(stream) = state.streams.iter().find(|s| s.stream == name && s.namespace == namespace) else { return Ok(None) };
        let value = |column: &&str| stream.state.get(*column).and_then(text);
        let values: Vec<Option<String>> = cursor.iter().map(value).collect();
        let listed = stream.state.get("chunks").filter(|chunks| !chunks.is_null());
        let chunks = chunks(stream)?;
        let complete = match state.kind.as_str() {
            "GLOBAL" => state.is_global(namespace, name) || listed.is_some_and(|_| chunks.is_empty()),
            _ => listed.is_some_and(|_| chunks.is_empty()),
        };
        if values.first().is_none_or(Option::is_none) || (!complete && chunks.is_empty()) {
            return Ok(None);
        }
        Ok(Some(Self { values, chunks: if complete { Vec::new() } else { chunks } }))
    }

    /// The condition for rows of the chunks that are still to be read; `None` if there are none. `key` is the stream's `chunk_column`.
    ///
    /// # Errors
    /// Chunks by value without a column that they are about.
    pub fn unread(&self, key: Option<&str>) -> Result<Option<String>> {
        let conditions = self.chunks.iter().map(|chunk| chunk.condition(key)).collect::<Result<Vec<_>>>()?;
        Ok((!conditions.is_empty()).then(|| format!("({})", conditions.join(" OR "))))
    }
}

/// The chunks of a stream that are still to be read; none where the file has no list.
///
/// # Errors
/// Chunks in no known form.
pub fn chunks(stream: &StreamState) -> Result<Vec<OlakeChunk>> {
    let place = || format!("streams: {}.{}: chunks", stream.namespace, stream.stream);
    match stream.state.get("chunks") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(chunks)) => {
            let read = |(at, chunk)| OlakeChunk::read(chunk).doing(|| format!("{}[{at}]", place()));
            chunks.iter().enumerate().map(read).collect()
        }
        Some(other) => Err(refused(other)).doing(place),
    }
}

impl OlakeChunk {
    fn read(chunk: &Value) -> Result<Self> {
        let bound = |name: &str| match chunk.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => text(value).map(Some).ok_or_else(|| refused(chunk)),
        };
        if !chunk.is_object() {
            return Err(refused(chunk));
        }
        let (min, max) = (bound("min")?, bound("max")?);
        match (min.as_deref().and_then(tuple), max.as_deref().and_then(tuple)) {
            (Some(min), Some(max)) => Ok(Self::Tuples(min, max)),
            (None, None) => Ok(Self::Values(min, max)),
            _ => Err(refused(chunk)),
        }
    }

    fn condition(&self, key: Option<&str>) -> Result<String> {
        let (column, min, max) = match (self, key) {
            (Self::Tuples(min, max), _) => ("ctid".to_owned(), Some(min), Some(max)),
            (Self::Values(min, max), Some(key)) => (quote::identifier(key), min.as_ref(), max.as_ref()),
            (Self::Values(..), None) => {
                return Err(Error::state("OLake has left chunks by the values of a column, and the catalog file does not say of which")
                    .hint(
                        "set \"chunk_column\" of the stream to the column that OLake had, or run clear-destination for it and load it anew",
                    ));
            }
        };
        let side = |operator: &str, bound: Option<&String>| bound.map(|bound| format!("{column} {operator} {}", quote::literal(bound)));
        let sides: Vec<String> = side(">=", min).into_iter().chain(side("<", max)).collect();
        Ok(if sides.is_empty() { "true".to_owned() } else { format!("({})", sides.join(" AND ")) })
    }
}

/// `'(12,0)'`, with its quotes, as `(12,0)`.
fn tuple(text: &str) -> Option<String> {
    let inner = text.strip_prefix("'(")?.strip_suffix(")'")?;
    let (page, item) = inner.split_once(',')?;
    let (page, item) = (page.trim().parse::<u32>().ok()?, item.trim().parse::<u16>().ok()?);
    Some(format!("({page},{item})"))
}

/// A JSON scalar as PostgreSQL reads it. OLake carries whole numbers as floats.
pub fn text(value: &Value) -> Option<String> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => match number.as_f64().filter(|value| number.is_f64() && value.fract() == 0.0 && value.abs() <= EXACT) {
            Some(whole) => Some((whole as i64).to_string()),
            None => Some(number.to_string()),
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn refused(found: &Value) -> Error {
    let shown: String = found.to_string().chars().take(80).collect();
    Error::state(format!("found {shown}, accepted are {{\"min\": \"'(0,0)'\", \"max\": \"'(9,0)'\"}} and {{\"min\": 1, \"max\": 9}}"))
        .hint(RESTORE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn progress(kind: &str, global: &Value, entry: &Value) -> Result<Option<Progress>> {
        let file = json!({"type": kind, "version": 3, "global": global, "streams": [{"stream": "t", "namespace": "s", "sync_mode": "", "state": entry}]});
        Progress::of(&serde_json::from_value(file).expect("a state"), "s", "t", &["at", "id"])
    }

    #[test]
    fn a_load_is_complete_by_its_list_or_by_the_global_one() {
        let values = vec![Some("2024".to_owned()), Some("7".to_owned())];
        let whole = |chunks: &[OlakeChunk]| Some(Progress { values: values.clone(), chunks: chunks.to_vec() });
        let none = json!(null);
        let entry = |chunks: Value| json!({"at": "2024", "id": 7.0, "chunks": chunks});
        let left = OlakeChunk::Tuples("(3,0)".into(), "(4294967295,0)".into());
        let tuples = json!([{"min": "'(3,0)'", "max": "'(4294967295,0)'"}]);
        assert_eq!(progress("STREAM", &none, &entry(json!([]))).expect("valid"), whole(&[]));
        assert_eq!(progress("STREAM", &none, &entry(tuples.clone())).expect("valid"), whole(std::slice::from_ref(&left)));
        assert_eq!(progress("STREAM", &none, &json!({"at": "2024"})).expect("valid"), None, "chunks were never made");
        assert_eq!(progress("STREAM", &none, &json!({"chunks": []})).expect("valid"), None, "another cursor");
        let elsewhere = json!({"streams": [{"stream": "t", "namespace": "other", "state": {"at": "2024", "chunks": []}}]});
        assert_eq!(Progress::of(&serde_json::from_value(elsewhere).expect("a state"), "s", "t", &["at"]).expect("valid"), None);
        let global = json!({"state": {}, "streams": ["s.t"]});
        assert_eq!(progress("GLOBAL", &global, &entry(none.clone())).expect("valid"), whole(&[]));
        assert_eq!(progress("GLOBAL", &global, &entry(tuples)).expect("valid"), whole(&[]));
        assert_eq!(progress("GLOBAL", &json!({"streams": []}), &entry(none.clone())).expect("valid"), None);
    }

    #[test]
    fn what_is_unread_is_a_condition() {
        let unread = |chunks: Value, key: Option<&str>| {
            let found = progress("STREAM", &Value::Null, &json!({"at": 1, "chunks": chunks})).expect("valid").expect("begun");
            found.unread(key).map(Option::unwrap_or_default)
        };
        assert_eq!(
            unread(json!([{"min": "'(0,0)'", "max": "'(5,0)'"}, {"min": "'(9,0)'", "max": "'(12,0)'"}]), None).expect("pages"),
            "((ctid >= '(0,0)' AND ctid < '(5,0)') OR (ctid >= '(9,0)' AND ctid < '(12,0)'))"
        );
        assert_eq!(
            unread(json!([{"min": null, "max": 10.0}, {"min": "x'y", "max": null}]), Some("k")).expect("values"),
            r#"(("k" < '10') OR ("k" >= 'x''y'))"#
        );
        assert!(unread(json!([{"min": 1, "max": 2}]), None).is_err());
        assert_eq!(unread(json!([]), None).expect("nothing"), "");
    }

    #[test]
    fn damaged_chunks_are_refused_with_their_place() {
        for chunks in [
            json!("all"),
            json!([7]),
            json!([{"min": [1]}]),
            json!([{"min": "'(0,0)'", "max": 7}]),
            json!([{"min": "'(0,0)'", "max": "'(x,0)'"}]),
        ] {
            let error = progress("STREAM", &Value::Null, &json!({"at": 1, "chunks": chunks})).expect_err("damaged").to_string();
            assert!(error.contains("streams: s.t: chunks") && error.contains("accepted are"), "{error}");
        }
    }
}
