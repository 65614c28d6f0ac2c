//! Row filters of the catalog: OLake's two forms, read once, turned into one SQL condition.
//!
//! Pure. Identifiers and literals are quoted, and each literal is cast to its column's type, so that a filter can compare but
//! never say anything else. Both forms hold at most two conditions, as in OLake.

use super::streams::StreamMetadata;
use crate::error::{Error, Result};
use crate::postgres::catalog::ColumnInfo;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Conditions in one filter, as in OLake.
const CONDITIONS_MAX: usize = 2;

const OPERATORS: [&str; 6] = ["=", "!=", "<", ">", "<=", ">="];

/// A filter that has been read and whose columns exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    conditions: Vec<Condition>,
    logical: &'static str,
}

/// `column operator value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Name in the source.
    pub column: String,
    /// One of six.
    pub operator: &'static str,
    /// `None` is NULL and stands with `=` and `!=` only.
    pub value: Option<String>,
}

impl Filter {
    /// Reads the filter of a chosen stream, with a word for the user if the file says two things. A filter acts whether or not
    /// `normalization` is set. Of two different ones `filter_config` acts with `normalization`, and `filter` without, as in OLake.
    ///
    /// # Errors
    /// A malformed filter, more than two conditions, a column for which `known` is false.
    pub fn parse(metadata: &StreamMetadata, known: impl Fn(&str) -> bool) -> Result<(Option<Self>, Option<String>)> {
        let legacy = match metadata.filter.trim() {
            "" => None,
            text => Some(parse_legacy(text).map_err(|error| error.doing("filter"))?),
        };
        let config = metadata.filter_config.as_ref().filter(|config| !config.is_null()).map(parse_config).transpose()?.flatten();
        let (filter, note) = match (legacy, config) {
            (Some(legacy), Some(config)) if legacy == config => (Some(legacy), None),
            (Some(legacy), Some(config)) => {
                let structured = metadata.normalization == Some(true);
                let (acts, not) = if structured { ("filter_config", "filter") } else { ("filter", "filter_config") };
                let note =
                    format!("both filter and filter_config are set, and they differ: {acts} acts, {not} does not; remove one of them");
                (Some(if structured { config } else { legacy }), Some(note))
            }
            (legacy, config) => (config.or(legacy), None),
        };
        for condition in filter.iter().flat_map(|filter| &filter.conditions) {
            if !known(&condition.column) {
                return Err(Error::config(format!("the filter names the unknown column {:?}", condition.column)));
            }
        }
        Ok((filter, note))
    }

    /// What it asks.
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// Whether one condition is enough.
    pub fn is_any(&self) -> bool {
        self.logical == "OR"
    }

    /// A column has another name by now.
    pub fn rename(&mut self, from: &str, to: &str) {
        self.conditions.iter_mut().filter(|condition| condition.column == from).for_each(|condition| to.clone_into(&mut condition.column));
    }

    /// The condition in SQL, without `WHERE`. `columns` are those of the table as it is now.
    ///
    /// # Errors
    /// A column that the table no longer has.
    pub fn to_sql(&self, columns: &[ColumnInfo]) -> Result<String> {
        let conditions = self
            .conditions
            .iter()
            .map(|condition| {
                let column = columns.iter().find(|column| column.name == condition.column).ok_or_else(|| {
                    Error::schema(format!("the filter names column {:?}, which the table does not have", condition.column))
                        .hint("run discover again, or change the filter")
                })?;
                Ok(condition.to_sql(column))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(conditions.join(&format!(" {} ", self.logical)))
    }
}

impl Condition {
    fn to_sql(&self, column: &ColumnInfo) -> String {
        let name = escape_identifier(&self.column);
        match (&self.value, self.operator) {
            (None, "=") => format!("({name} IS NULL)"),
            (None, _) => format!("({name} IS NOT NULL)"),
            (Some(value), operator) => format!("({name} {operator} {})", literal(value, column)),
        }
    }
}

/// A value of the column's type, in SQL. Without the type's modifier: '10.005' must not be rounded to numeric(12,2) before it is compared.
pub fn literal(value: &str, column: &ColumnInfo) -> String {
    let (namespace, ty) = (escape_identifier(&column.ty.namespace), escape_identifier(&column.ty.name));
    format!("{}::{namespace}.{ty}", escape_literal(value).trim_start())
}

fn operator(text: &str) -> Result<&'static str> {
    OPERATORS.into_iter().find(|operator| *operator == text).ok_or_else(|| {
        Error::config(format!("unknown operator {text:?}, accepted are {}", OPERATORS.map(|operator| format!("{operator:?}")).join(", ")))
    })
}

fn condition(column: String, operator: &'static str, value: Option<String>) -> Result<Condition> {
    if value.is_none() && !matches!(operator, "=" | "!=") {
        return Err(Error::config(format!("null cannot be compared with {operator:?}, accepted are \"=\" and \"!=\"")));
    }
    if value.as_ref().is_some_and(|value| value.contains('\0')) {
        return Err(Error::config("a filter value holds the character NUL, which PostgreSQL has not"));
    }
    Ok(Condition { column, operator, value })
}

fn too_many(found: usize) -> Error {
    Error::config(format!("the filter has {found} conditions, accepted are at most {CONDITIONS_MAX}"))
}

/// `filter_config` as OLake writes it: rows for which its conditions hold.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterConfig {
    /// `and` or `or`, in any case; needed for two conditions.
    #[serde(default)]
    logical_operator: String,
    /// At most two. None means all rows.
    #[serde(default)]
    conditions: Vec<ConfigCondition>,
}

/// One comparison.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConfigCondition {
    /// Name in the source.
    column: String,
    /// `=`, `!=`, `<`, `>`, `<=` or `>=`.
    operator: String,
    /// A text, a number, true or false; null with `=` and `!=`.
    #[serde(default)]
    value: Value,
}

fn parse_config(config: &Value) -> Result<Option<Filter>> {
    let config = FilterConfig::deserialize(config).map_err(|error| Error::config(error.to_string()).doing("filter_config"))?;
    if config.conditions.is_empty() {
        return Ok(None);
    }
    if config.conditions.len() > CONDITIONS_MAX {
        return Err(too_many(config.conditions.len()).doing("filter_config"));
    }
    let logical = match config.logical_operator.to_ascii_lowercase().as_str() {
        "and" => "AND",
        "or" => "OR",
        "" if config.conditions.len() < 2 => "AND",
        other => {
            let message = format!("unknown logical_operator {other:?}, accepted are \"and\", \"or\"");
            return Err(Error::config(message).doing("filter_config"));
        }
    };
    let conditions = config
        .conditions
        .into_iter()
        .enumerate()
        .map(|(at, found)| {
            json_value(&found.value)
                .and_then(|value| condition(found.column, operator(&found.operator)?, value))
                .map_err(|error| error.doing(format!("filter_config.conditions[{at}]")))
        })
        .collect::<Result<_>>()?;
    Ok(Some(Filter { conditions, logical }))
}

/// A JSON scalar as the text that PostgreSQL reads.
fn json_value(value: &Value) -> Result<Option<String>> {
    /// From here on a double no longer tells neighbouring integers apart, so the digits in the file may already be lost.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Null => Ok(None),
        Value::Bool(value) => Ok(Some(value.to_string())),
        Value::String(value) => Ok(Some(value.clone())),
        Value::Number(value) if value.is_f64() && value.as_f64().is_none_or(|value| value.abs() >= EXACT_MAX) => {
            Err(Error::config(format!("the number {value} has more digits than JSON carries exactly")).hint("write it as a string"))
        }
        Value::Number(value) => Ok(Some(value.to_string())),
        Value::Array(_) | Value::Object(_) => {
            Err(Error::config("value is a list or an object, accepted are string, number, boolean, null"))
        }
    }
}

/// `column operator value [and|or column operator value]`.
fn parse_legacy(text: &str) -> Result<Filter> {
    let mut words = Words { rest: text };
    let mut conditions = vec![words.condition()?];
    let mut logical = "AND";
    while let Some(word) = words.next()? {
        logical = match &word {
            Word::Bare(word) if word.eq_ignore_ascii_case("and") => "AND",
            Word::Bare(word) if word.eq_ignore_ascii_case("or") => "OR",
            other => return Err(malformed(format!("{} stands where \"and\", \"or\" or the end was expected", other.show()))),
        };
        conditions.push(words.condition()?);
        if conditions.len() > CONDITIONS_MAX {
            return Err(too_many(conditions.len()));
        }
    }
    Ok(Filter { conditions, logical })
}

fn malformed(message: String) -> Error {
    Error::config(message)
        .hint("a filter is: column operator value [and|or column operator value], e.g. status = \"paid\" and amount >= 10")
}

enum Word<'a> {
    Bare(&'a str),
    Quoted(String),
    Operator(&'a str),
}

impl Word<'_> {
    fn show(&self) -> String {
        match self {
            Self::Bare(word) | Self::Operator(word) => format!("{word:?}"),
            Self::Quoted(word) => format!("the quoted {word:?}"),
        }
    }
}

/// Splits a legacy filter into words.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn condition(&mut self) -> Result<Condition> {
        let column = match self.next()? {
            Some(Word::Bare(word)) => word.to_owned(),
            Some(Word::Quoted(word)) => word,
            Some(Word::Operator(word)) => return Err(malformed(format!("{word:?} stands where a column was expected"))),
            None => return Err(malformed("the filter ends where a column was expected".into())),
        };
        let operator = match self.next()? {
            Some(Word::Operator(word)) => operator(word)?,
            Some(other) => return Err(malformed(format!("{} stands where an operator was expected", other.show()))),
            None => return Err(malformed("the filter ends where an operator was expected".into())),
        };
        let value = match self.next()? {
            Some(Word::Bare(word)) if word.eq_ignore_ascii_case("null") => None,
            Some(Word::Bare(word)) => Some(word.to_owned()),
            Some(Word::Quoted(word)) => Some(word),
            Some(Word::Operator(word)) => return Err(malformed(format!("{word:?} stands where a value was expected"))),
            None => return Err(malformed("the filter ends where a value was expected".into())),
        };
        condition(column, operator, value)
    }

    fn next(&mut self) -> Result<Option<Word<'a>>> {
        self.rest = self.rest.trim_start();
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        if first == '"' {
            return self.quoted().map(Some);
        }
        let is_operator = |c: char| matches!(c, '=' | '!' | '<' | '>');
        let is_bare = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-' | ':' | '$');
        let (length, word): (usize, fn(&'a str) -> Word<'a>) = if is_operator(first) {
            (self.rest.find(|c| !is_operator(c)).unwrap_or(self.rest.len()), Word::Operator)
        } else if is_bare(first) {
            (self.rest.find(|c| !is_bare(c)).unwrap_or(self.rest.len()), Word::Bare)
        } else {
            return Err(malformed(format!("the filter holds {first:?} outside of double quotes")));
        };
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(Some(word(text)))
    }

    /// A word in double quotes; a doubled quote stands for one.
    fn quoted(&mut self) -> Result<Word<'a>> {
        let mut word = String::new();
        let mut characters = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = characters.next() {
            if c != '"' {
                word.push(c);
            } else if characters.next_if(|(_, next)| *next == '"').is_some() {
                word.push('"');
            } else {
                self.rest = &self.rest[at + 1..];
                return Ok(Word::Quoted(word));
            }
        }
        Err(malformed("a double quote is not closed".into()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::types::pg_type::PgType;
    use serde_json::json;

    fn columns() -> Vec<ColumnInfo> {
        let column = |name: &str, ty: &str, typmod: i32| ColumnInfo::of_type(name, PgType { typmod, ..PgType::built_in(0, ty) });
        vec![column("id", "int4", -1), column("amount", "numeric", 786_438), column("Order \"No\"", "text", -1)]
    }

    fn sql(metadata: &StreamMetadata) -> Result<Option<String>> {
        let columns = columns();
        let (filter, _) = Filter::parse(metadata, |name| columns.iter().any(|column| column.name == name))?;
        filter.map(|filter| filter.to_sql(&columns)).transpose()
    }

    fn legacy(filter: &str) -> Result<Option<String>> {
        sql(&StreamMetadata { filter: filter.into(), ..StreamMetadata::default() })
    }

    fn config(config: Value) -> Result<Option<String>> {
        sql(&StreamMetadata { filter_config: Some(config), ..StreamMetadata::default() })
    }

    #[test]
    fn legacy_filters() {
        for (filter, expected) in [
            ("id = 1", r#"("id" = '1'::"pg_catalog"."int4")"#),
            ("id>=-5", r#"("id" >= '-5'::"pg_catalog"."int4")"#),
            ("amount < 10.5 AND id != null", r#"("amount" < '10.5'::"pg_catalog"."numeric") AND ("id" IS NOT NULL)"#),
            ("id = NULL or id = 3", r#"("id" IS NULL) OR ("id" = '3'::"pg_catalog"."int4")"#),
            (r#""Order ""No""" = "null""#, r#"("Order ""No""" = 'null'::"pg_catalog"."text")"#),
            (r#""Order ""No""" = "O'Brien; --""#, r#"("Order ""No""" = 'O''Brien; --'::"pg_catalog"."text")"#),
            (r#""Order ""No""" = "a\b""#, r#"("Order ""No""" = E'a\\b'::"pg_catalog"."text")"#),
            (r#""Order ""No""" = """#, r#"("Order ""No""" = ''::"pg_catalog"."text")"#),
        ] {
            assert_eq!(legacy(filter).unwrap().unwrap(), expected, "{filter}");
        }
        assert_eq!(legacy("  ").unwrap(), None);
    }

    #[test]
    fn legacy_faults() {
        for (filter, expected) in [
            ("nope = 1", "unknown column \"nope\""),
            ("id", "ends where an operator"),
            ("id =", "ends where a value"),
            ("id 1", "stands where an operator"),
            ("id == 1", "unknown operator \"==\""),
            ("id <> 1", "unknown operator \"<>\""),
            ("id = = 1", "unknown operator"),
            ("id < null", "null cannot be compared"),
            ("id = 1 and", "ends where a column"),
            ("id = 1 id = 2", "where \"and\", \"or\" or the end"),
            ("id = 1 and id = 2 or id = 3", "3 conditions"),
            ("id = 1; drop table x", "outside of double quotes"),
            ("id = 'x'", "outside of double quotes"),
            ("id = \"x", "not closed"),
        ] {
            let error = legacy(filter).unwrap_err().to_string();
            // `= =` is read as two words; the value is then an operator.
            let expected = if filter == "id = = 1" { "stands where a value" } else { expected };
            assert!(error.contains(expected), "{filter}: {error}");
        }
    }

    #[test]
    fn structured_filters() {
        let one =
            |operator: &str, value: Value| config(json!({"conditions": [{"column": "amount", "operator": operator, "value": value}]}));
        for (operator, value, expected) in [
            ("=", json!("x'y"), r#"("amount" = 'x''y'::"pg_catalog"."numeric")"#),
            (">", json!(10), r#"("amount" > '10'::"pg_catalog"."numeric")"#),
            ("<=", json!(0.1), r#"("amount" <= '0.1'::"pg_catalog"."numeric")"#),
            ("=", json!(18_446_744_073_709_551_615_u64), r#"("amount" = '18446744073709551615'::"pg_catalog"."numeric")"#),
            ("=", json!(true), r#"("amount" = 'true'::"pg_catalog"."numeric")"#),
            ("=", Value::Null, r#"("amount" IS NULL)"#),
        ] {
            assert_eq!(one(operator, value).unwrap().unwrap(), expected);
        }
        assert!(one("=", json!([1])).is_err());
        assert!(one(">", Value::Null).is_err());
        assert!(one("like", json!("x")).is_err());
        assert!(one("=", json!(1e300)).is_err(), "digits that are already lost");

        let two = config(json!({"logical_operator": "OR", "conditions": [
            {"column": "id", "operator": "=", "value": 1}, {"column": "amount", "operator": "<", "value": 2}]}));
        assert_eq!(two.unwrap().unwrap(), r#"("id" = '1'::"pg_catalog"."int4") OR ("amount" < '2'::"pg_catalog"."numeric")"#);
        let condition = json!({"column": "id", "operator": "=", "value": 1});
        assert!(config(json!({"conditions": [condition, condition]})).is_err(), "which of and, or?");
        assert!(config(json!({"logical_operator": "and", "conditions": [condition, condition, condition]})).is_err());
        assert!(config(json!({"conditions": [], "more": 1})).is_err());
        assert_eq!(config(json!({"conditions": []})).unwrap(), None);
        assert_eq!(config(Value::Null).unwrap(), None);
    }

    #[test]
    fn of_two_filters_one_acts_and_the_user_is_told() {
        let both = |normalization: Option<bool>, config: Value| {
            let metadata =
                StreamMetadata { filter: "id = 1".into(), filter_config: Some(config), normalization, ..StreamMetadata::default() };
            let (filter, note) = Filter::parse(&metadata, |_| true).unwrap();
            (filter.unwrap().to_sql(&columns()).unwrap(), note.is_some())
        };
        let condition = |value: Value| json!({"conditions": [{"column": "id", "operator": "=", "value": value}]});
        let sql = |value: u8| format!(r#"("id" = '{value}'::"pg_catalog"."int4")"#);
        assert_eq!(both(Some(true), condition(json!(2))), (sql(2), true));
        assert_eq!(both(Some(false), condition(json!(2))), (sql(1), true));
        assert_eq!(both(None, condition(json!("1"))), (sql(1), false), "they say the same");
        assert_eq!(both(Some(true), json!({"conditions": []})), (sql(1), false));
    }

    #[test]
    fn a_column_that_is_gone_is_a_schema_error() {
        let metadata = StreamMetadata { filter: "id = 1".into(), ..StreamMetadata::default() };
        let filter = Filter::parse(&metadata, |_| true).unwrap().0.unwrap();
        assert_eq!(filter.to_sql(&[]).unwrap_err().kind(), crate::error::Kind::Schema);
    }
}
