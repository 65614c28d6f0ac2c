//! The names of column types: read and printed.
//!
//! Promises: a name that parses prints back unchanged but for spaces, and the other way round; nesting has a bound.

use super::column_type::{ColumnType, DECIMAL_DIGITS_MAX, PLAIN_NAMES};
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Lists and structs may be nested so deep: more than any type that PostgreSQL lets one declare needs.
const DEPTH_MAX: usize = 64;

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::List(element) => write!(f, "list<{element}>"),
            Self::Struct(parts) => {
                f.write_str("struct<")?;
                for (at, (name, ty)) in parts.iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    match is_plain(name) {
                        true => write!(f, "{comma}{name}:{ty}")?,
                        false => write!(f, "{comma}\"{}\":{ty}", name.replace('"', "\"\""))?,
                    }
                }
                f.write_str(">")
            }
            plain => match PLAIN_NAMES.iter().find(|(_, ty)| ty == plain) {
                Some((name, _)) => f.write_str(name),
                None => Err(fmt::Error),
            },
        }
    }
}

/// Whether the name of a struct's part needs no quotes.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}

impl FromStr for ColumnType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parser = Parser { whole: text, rest: text.trim() };
        let ty = parser.ty(0)?;
        match parser.rest {
            "" => Ok(ty),
            rest => Err(parser.wrong(&format!("`{rest}` follows the type"))),
        }
    }
}

/// What is left of a name.
struct Parser<'a> {
    whole: &'a str,
    rest: &'a str,
}

impl Parser<'_> {
    fn ty(&mut self, depth: usize) -> Result<ColumnType> {
        if depth > DEPTH_MAX {
            return Err(self.wrong(&format!("it is nested more than {DEPTH_MAX} levels deep")));
        }
        if self.take("list<") {
            let element = self.ty(depth + 1)?;
            self.expect(">")?;
            return Ok(ColumnType::List(Box::new(element)));
        }
        if self.take("struct<") {
            return self.parts(depth);
        }
        if self.take("map<") {
            let (key, _, value) = (self.ty(depth + 1)?, self.expect(",")?, self.ty(depth + 1)?);
            self.expect(">")?;
            return match (key, value) {
                (ColumnType::String, ColumnType::String) => Ok(ColumnType::Map),
                (key, value) => Err(self.wrong(&format!("map<{key},{value}> is not known, map<string,string> is"))),
            };
        }
        if self.take("decimal(") {
            let (digits, rest) = self.rest.split_once(')').unwrap_or(("", self.rest));
            let decimal = decimal(digits).ok_or_else(|| {
                Error::config(format!("`{}` is not a decimal type", self.whole))
                    .hint(format!("write decimal(p,s) with 1 to {DECIMAL_DIGITS_MAX} digits p, of which s follow the point"))
            })?;
            self.rest = rest.trim_start();
            return Ok(decimal);
        }
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        PLAIN_NAMES.iter().find(|(plain, _)| *plain == name).map(|(_, ty)| ty.clone()).ok_or_else(|| unknown(name))
    }

    /// The parts of a struct, and its end.
    fn parts(&mut self, depth: usize) -> Result<ColumnType> {
        let mut parts: Vec<(String, ColumnType)> = Vec::new();
        loop {
            let name = self.name()?;
            if parts.iter().any(|(taken, _)| *taken == name) {
                return Err(self.wrong(&format!("the part `{name}` is there twice")));
            }
            self.expect(":")?;
            parts.push((name, self.ty(depth + 1)?));
            if self.take(">") {
                return Ok(ColumnType::Struct(parts));
            }
            self.expect(",")?;
        }
    }

    /// The name of a part: letters, digits and `_`, or anything in double quotes, where a quote is doubled.
    fn name(&mut self) -> Result<String> {
        if let Some(mut quoted) = self.rest.strip_prefix('"') {
            let mut name = String::new();
            while let Some((part, rest)) = quoted.split_once('"') {
                name.push_str(part);
                match rest.strip_prefix('"') {
                    Some(after) => {
                        name.push('"');
                        quoted = after;
                    }
                    None => {
                        self.rest = rest.trim_start();
                        return Ok(name);
                    }
                }
            }
            return Err(self.wrong("a quote is not closed"));
        }
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() {
            return Err(self.wrong("a part has no name"));
        }
        self.rest = rest.trim_start();
        Ok(name.to_owned())
    }

    fn take(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest.trim_start();
        true
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        match self.take(token) {
            true => Ok(()),
            false if self.rest.is_empty() => Err(self.wrong(&format!("it ends where `{token}` is expected"))),
            false => Err(self.wrong(&format!("`{token}` is expected before `{}`", self.rest))),
        }
    }

    fn wrong(&self, what: &str) -> Error {
        Error::config(format!("`{}` is not a column type: {what}", self.whole))
            .hint("nested types are written list<T>, struct<name:T,other:T> and map<string,string>")
    }
}

/// The digits between the parentheses of `decimal(p,s)`.
fn decimal(inner: &str) -> Option<ColumnType> {
    let (precision, scale) = inner.split_once(',')?;
    let (precision, scale): (u8, u8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    let fits = (1..=DECIMAL_DIGITS_MAX).contains(&precision) && scale <= precision;
    fits.then_some(ColumnType::Decimal { precision, scale })
}

fn unknown(name: &str) -> Error {
    let names = PLAIN_NAMES.iter().map(|(plain, _)| *plain).chain(["decimal(p,s)", "list<T>", "struct<name:T,…>"]);
    let all = names.clone().collect::<Vec<_>>().join(", ");
    let near = names.map(|plain| (strsim::damerau_levenshtein(plain, name), plain)).min().filter(|(distance, _)| *distance <= 3);
    let hint = match near {
        Some((_, plain)) => format!("did you mean `{plain}`? accepted are: {all}"),
        None => format!("accepted are: {all}"),
    };
    Error::config(format!("unknown column type `{name}`")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_names_print_back() {
        for name in [
            "list<list<decimal(12,2)>>",
            "struct<a:integer,b_2:list<struct<x:number,y:number>>>",
            "struct<\"a b\":string,\"\"\"\":uuid,\"a,b:>\":json,größe:map<string,string>>",
            "list<map<string,string>>",
        ] {
            assert_eq!(name.parse::<ColumnType>().expect(name).to_string(), name);
        }
        assert_eq!(
            " struct< a : integer , b : list< string > > ".parse::<ColumnType>().expect("spaces").to_string(),
            "struct<a:integer,b:list<string>>"
        );
    }

    #[test]
    fn nesting_has_a_bound() {
        let deep = |n: usize| format!("{}string{}", "list<".repeat(n), ">".repeat(n));
        assert!(deep(60).parse::<ColumnType>().is_ok());
        assert!(deep(100_000).parse::<ColumnType>().is_err());
    }

    #[test]
    fn spaces_around_digits_are_forgiven() {
        assert_eq!("decimal(12, 2)".parse::<ColumnType>().expect("decimal"), ColumnType::Decimal { precision: 12, scale: 2 });
    }

    #[test]
    fn wrong_names_are_refused_with_advice() {
        for (name, advice) in [
            ("decimal(39,2)", "1 to 38"),
            ("decimal(0,0)", "1 to 38"),
            ("decimal(5,6)", "1 to 38"),
            ("decimal(5)", "1 to 38"),
            ("decimal(5,-2)", "1 to 38"),
            ("list<strin>", "did you mean `string`"),
            ("list<string", "list<T>"),
            ("list<string>>", "list<T>"),
            ("struct<>", "list<T>"),
            ("struct<a:integer,a:string>", "list<T>"),
            ("struct<a integer>", "list<T>"),
            ("struct<\"a:integer>", "list<T>"),
            ("map<string,integer>", "map<string,string>"),
            ("", "accepted are"),
            ("int8", "decimal(p,s)"),
            ("timestmap", "did you mean `timestamp`"),
        ] {
            let error = name.parse::<ColumnType>().expect_err(name);
            assert_eq!(error.kind(), crate::error::Kind::Config);
            assert!(error.advice().is_some_and(|hint| hint.contains(advice)), "{name}: {:?}", error.advice());
        }
    }
}
