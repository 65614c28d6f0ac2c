//! The grammar of partition expressions: what `partition_regex` says, before anybody asks which columns there are.
//!
//! Two dialects, both OLake's, may stand in one expression:
//!
//! * `{column, 'default', granularity}` stands for a text anywhere in a folder's name (OLake's for Parquet);
//! * `{column, transform}` is a partition field with one of Iceberg's transforms (OLake's for Iceberg).
//!
//! Pure. What a placeholder does to rows is the business of the writer that reads the expression.

use crate::error::{Error, Kind, Result};
use crate::transform::Transform;

/// What an expression consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// `/`
    Slash,
    /// Anything outside of a placeholder.
    Literal(String),
    /// A placeholder.
    Placeholder(Placeholder),
}

/// `{…}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placeholder {
    /// As written, with its braces.
    pub(crate) text: String,
    /// The column; `now()` is the time of ingest.
    pub(crate) column: String,
    /// What becomes of its value.
    pub(crate) what: What,
}

/// What becomes of a column's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A text; `default` (may be empty) where there is no value.
    Text {
        /// As written, without quotes.
        default: String,
        /// As written.
        granularity: String,
    },
    /// A partition field.
    Field(Transform),
}

/// The name of the time of ingest.
pub(crate) const NOW: &str = "now()";

pub(crate) const GRAMMAR: &str = "a placeholder is {column, 'default', granularity}, where the granularity is YYYY, MM, WW, DD, HH or nothing, or \
                                  {column, transform}, where the transform is identity, year, month, day, hour, bucket[N], truncate[N] or void";

/// An error in `expression`.
pub(crate) fn malformed(expression: &str, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Config, format!("partition_regex {expression:?}: {what}"))
}

/// The columns that an expression names, in their order, each once; without `now()`.
///
/// # Errors
/// An expression that is not one.
pub fn partition_columns(expression: &str) -> Result<Vec<String>> {
    let mut columns: Vec<String> = Vec::new();
    for token in parse(expression)? {
        if let Token::Placeholder(Placeholder { column, .. }) = token
            && column != NOW
            && !columns.contains(&column)
        {
            columns.push(column);
        }
    }
    Ok(columns)
}

/// Cuts an expression into its tokens; neighbouring characters are one literal.
pub(crate) fn parse(expression: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim();
    while let Some(c) = rest.chars().next() {
        if c == '{' {
            let end = closing_brace(rest)
                .ok_or_else(|| malformed(expression, format!("placeholder `{rest}` has no closing brace")).hint(GRAMMAR))?;
            tokens.push(Token::Placeholder(placeholder(expression, &rest[..=end])?));
            rest = &rest[end + 1..];
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match (c, tokens.last_mut()) {
            ('/', _) => tokens.push(Token::Slash),
            ('}' | '\\' | '\0'..='\x1f' | '\x7f', _) => {
                return Err(malformed(expression, format!("{c:?} outside of a placeholder")).hint(GRAMMAR));
            }
            (_, Some(Token::Literal(text))) => text.push(c),
            _ => tokens.push(Token::Literal(c.into())),
        }
    }
    Ok(tokens)
}

/// Byte position of the brace that closes the placeholder `text` begins with; quotes protect braces.
fn closing_brace(text: &str) -> Option<usize> {
    let mut quoted = false;
    text.char_indices().find_map(|(position, c)| {
        quoted ^= c == '\'';
        (c == '}' && !quoted).then_some(position)
    })
}

fn placeholder(expression: &str, text: &str) -> Result<Placeholder> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in text[1..text.len() - 1].chars() {
        match c {
            '\'' => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            _ => parts.last_mut().expect("never empty").push(c),
        }
    }
    let parts: Vec<&str> = parts.iter().map(|part| part.trim()).collect();
    let (column, what) = match parts[..] {
        [column, default, granularity] => (column, What::Text { default: default.to_owned(), granularity: granularity.to_owned() }),
        [column, transform] => match Transform::parse(transform) {
            Some(transform) => (column, What::Field(transform)),
            None => return Err(malformed(expression, format!("placeholder `{text}` has the transform {transform:?}")).hint(GRAMMAR)),
        },
        _ => return Err(malformed(expression, format!("placeholder `{text}` has {} parts instead of 3 or 2", parts.len())).hint(GRAMMAR)),
    };
    if column.is_empty() {
        return Err(malformed(expression, format!("placeholder `{text}` names no column")).hint(GRAMMAR));
    }
    Ok(Placeholder { text: text.to_owned(), column: column.to_owned(), what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_named_once_and_the_time_of_ingest_is_none() {
        let columns = |expression: &str| partition_columns(expression).expect(expression);
        assert_eq!(columns("/year={at,,YYYY}/{ at , day }/{'id', bucket[16]}/{now(),,DD}"), ["at", "id"]);
        assert!(columns("").is_empty() && columns("/all/").is_empty());
        assert_eq!(columns("{'odd, name}', 'x', }"), ["odd, name}"]);
    }

    #[test]
    fn what_is_not_the_grammar_is_refused() {
        for (expression, expected) in [
            ("{a}", "1 parts"),
            ("{a,b,c,d}", "4 parts"),
            ("{a, sideways}", "transform \"sideways\""),
            ("{a, bucket[0]}", "transform \"bucket[0]\""),
            ("{,,}", "names no column"),
            ("{a,,", "no closing brace"),
            ("a}", "outside of a placeholder"),
        ] {
            let error = partition_columns(expression).expect_err(expression);
            assert!(error.kind() == Kind::Config && error.to_string().contains(expected), "{expression}: {error}");
        }
    }
}
