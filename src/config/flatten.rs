//! `flatten` of a chosen stream: which json columns give their first level to columns of their own.
//!
//! Pure. Two forms: `{"payload": {"id": "integer", "kind": "string"}}` names the keys and their types; `{"payload": "*"}` means every key
//! that the column's values have when the run begins, each as text.

use super::column_type::ColumnType;
use super::streams::StreamMetadata;
use crate::error::{Context, Error, Result};
use serde_json::Value;

/// A json column to flatten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flatten {
    /// Name in the source.
    pub source: String,
    /// Name in the destination, with which the names of the columns begin.
    pub destination: String,
    /// The keys; `None` until they are known.
    pub keys: Option<Vec<(String, ColumnType)>>,
}

/// Reads what a stream says. `destination` gives a column's name in the destination, or refuses it.
///
/// # Errors
/// Another form, an unknown column, a type that a json value cannot become.
pub fn parse(metadata: &StreamMetadata, destination: impl Fn(&str) -> Result<String>) -> Result<Vec<Flatten>> {
    let one = |(name, value): (&String, &Value)| {
        let keys = match value {
            Value::String(text) if text == "*" => None,
            Value::Object(keys) if !keys.is_empty() => {
                Some(keys.iter().map(|(key, ty)| Ok((key.clone(), json_type(ty).doing(|| key)?))).collect::<Result<_>>()?)
            }
            other => {
                return Err(Error::config(format!("found {other}, accepted are \"*\" and an object of keys and their types"))
                    .hint(r#"write {"payload": {"id": "integer", "kind": "string"}}, or {"payload": "*"} for all keys as text"#));
            }
        };
        Ok(Flatten { source: name.clone(), destination: destination(name)?, keys })
    };
    metadata.flatten.iter().map(|entry| one(entry).doing(|| entry.0)).collect()
}

/// The types that a value in a json object can become.
fn json_type(name: &Value) -> Result<ColumnType> {
    let refuse = || {
        Error::config(format!("found the type {name}, which a json value cannot become")).hint(
            "accepted are string, json, boolean, int16, integer_small, integer, number_small, number, decimal(p,s), date, time, \
             timestamp, timestamptz, local_timestamp and uuid",
        )
    };
    let ty: ColumnType = name.as_str().ok_or_else(refuse)?.parse()?;
    match ty {
        ColumnType::Binary
        | ColumnType::Interval
        | ColumnType::Wkb
        | ColumnType::Text(_)
        | ColumnType::List(_)
        | ColumnType::Struct(_)
        | ColumnType::Map => Err(refuse()),
        ty => Ok(ty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Vec<Flatten>> {
        let metadata = StreamMetadata { flatten: serde_json::from_value(value).expect("an object"), ..StreamMetadata::default() };
        parse(&metadata, |name| if name == "nope" { Err(Error::config("unknown column")) } else { Ok(name.to_uppercase()) })
    }

    #[test]
    fn both_forms() {
        let found = read(json!({"a": "*", "b": {"id": "integer", "amount": "decimal(10,2)"}})).expect("valid");
        assert_eq!(found[0], Flatten { source: "a".into(), destination: "A".into(), keys: None });
        let keys = vec![("id".to_owned(), ColumnType::Int64), ("amount".to_owned(), ColumnType::Decimal { precision: 10, scale: 2 })];
        assert_eq!(found[1].keys, Some(keys));
        assert!(read(json!({})).expect("nothing").is_empty());
    }

    #[test]
    fn mistakes_name_their_place() {
        for (value, expected) in [
            (json!({"a": true}), "a: found true"),
            (json!({"a": {}}), "a: found {}"),
            (json!({"a": ["x"]}), "a: found [\"x\"]"),
            (json!({"a": {"k": "list<string>"}}), "a: k: found the type \"list<string>\""),
            (json!({"a": {"k": 1}}), "a: k: found the type 1"),
            (json!({"nope": "*"}), "nope: unknown column"),
        ] {
            let error = read(value).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
