//! Which relations discover looks at: schemas, patterns, kinds.
//!
//! Pure. A pattern is `schema.table`, or `table` for a table of `public`, or `*` for all; `*` stands for any characters in either
//! part. Names are taken as they are, without folding to lower case; double quotes keep `.`, `*` and `"` (doubled) literal.

use crate::error::{Error, Result};

/// The part of a database that discover lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Schemas by name; empty means all but the system's.
    pub schemas: Vec<String>,
    /// Patterns of relations; empty means all.
    pub include: Vec<String>,
    /// Patterns of relations that are left out; wins over `include`.
    pub exclude: Vec<String>,
    /// List views.
    pub views: bool,
    /// List materialized views.
    pub materialized_views: bool,
    /// List foreign tables.
    pub foreign_tables: bool,
    /// List a partitioned or inherited parent once, with everything beneath it, instead of parent and children side by side.
    pub collapse_partitions: bool,
}

/// A pattern that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    namespace: Vec<Piece>,
    name: Vec<Piece>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Any,
    Char(char),
}

impl Pattern {
    /// Reads one pattern.
    ///
    /// # Errors
    /// An empty part, more than two parts, a quote that is not closed.
    pub fn parse(text: &str) -> Result<Self> {
        let faulty = |fault: &str| {
            Error::config(format!("the pattern {text:?} {fault}"))
                .hint("accepted are schema.table, table (in public), schema.*, schema.prefix*, *; quote names that hold a dot or a star")
        };
        let mut parts: Vec<Vec<Piece>> = vec![Vec::new()];
        let mut quoted = false;
        let mut characters = text.trim().chars().peekable();
        while let Some(c) = characters.next() {
            let piece = match (c, quoted) {
                ('"', true) if characters.next_if_eq(&'"').is_some() => Piece::Char('"'),
                ('"', _) => {
                    quoted = !quoted;
                    continue;
                }
                ('.', false) => {
                    parts.push(Vec::new());
                    continue;
                }
                ('*', false) => Piece::Any,
                (c, _) => Piece::Char(c),
            };
            if let Some(part) = parts.last_mut() {
                part.push(piece);
            }
        }
        if quoted {
            return Err(faulty("has a double quote that is not closed"));
        }
        if parts.iter().any(Vec::is_empty) {
            return Err(faulty("has an empty part"));
        }
        let public = || "public".chars().map(Piece::Char).collect();
        let (namespace, name) = match <[Vec<Piece>; 2]>::try_from(parts) {
            Ok([namespace, name]) => (namespace, name),
            Err(parts) => match <[Vec<Piece>; 1]>::try_from(parts) {
                Ok([name]) if name == [Piece::Any] => (name.clone(), name),
                Ok([name]) => (public(), name),
                Err(_) => return Err(faulty("has more than two parts")),
            },
        };
        Ok(Self { text: text.to_owned(), namespace, name })
    }

    /// Whether the pattern covers a relation.
    pub fn matches(&self, namespace: &str, name: &str) -> bool {
        matches(&self.namespace, namespace) && matches(&self.name, name)
    }

    /// The one relation that is meant, when the pattern has no star.
    pub fn exact(&self) -> Option<(String, String)> {
        let literal = |pieces: &[Piece]| {
            pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Any => None,
                    Piece::Char(c) => Some(*c),
                })
                .collect::<Option<String>>()
        };
        Some((literal(&self.namespace)?, literal(&self.name)?))
    }
}

/// Greedy match that steps back to the last star only; linear in practice, quadratic at worst.
fn matches(pattern: &[Piece], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Piece::Char(c)) if *c == text[t] => (p, t) = (p + 1, t + 1),
            Some(Piece::Any) => {
                star = Some((p, t));
                p += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|piece| *piece == Piece::Any)
}

/// The patterns of a [`Scope`], read.
#[derive(Clone, Debug)]
pub struct Patterns {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Patterns {
    /// Reads the patterns of `scope`.
    ///
    /// # Errors
    /// The first faulty pattern.
    pub fn parse(scope: &Scope) -> Result<Self> {
        let read = |key: &str, patterns: &[String]| {
            patterns
                .iter()
                .enumerate()
                .map(|(at, text)| Pattern::parse(text).map_err(|error| error.doing(format!("{key}[{at}]"))))
                .collect::<Result<Vec<_>>>()
        };
        Ok(Self { include: read("include", &scope.include)?, exclude: read("exclude", &scope.exclude)? })
    }

    /// Whether a relation is wanted: covered by an include (or there is none) and by no exclude.
    pub fn wants(&self, namespace: &str, name: &str) -> bool {
        (self.include.is_empty() || self.include.iter().any(|pattern| pattern.matches(namespace, name)))
            && !self.exclude.iter().any(|pattern| pattern.matches(namespace, name))
    }

    /// The includes that name one relation which no exclude takes away again: (pattern as written, namespace, name).
    pub fn named(&self) -> impl Iterator<Item = (&str, String, String)> {
        self.include
            .iter()
            .filter_map(|pattern| pattern.exact().map(|(namespace, name)| (pattern.text.as_str(), namespace, name)))
            .filter(|(_, namespace, name)| self.wants(namespace, name))
    }
}

/// The candidate that `wanted` was probably meant to be, if one is close.
pub fn closest(wanted: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    /// Below this likeness a suggestion is noise.
    const LIKENESS_MIN: f64 = 0.6;
    let lower = wanted.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::normalized_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, candidate)| *likeness >= LIKENESS_MIN && candidate != wanted)
        // Of equals the first in order of name, so that messages are stable.
        .max_by(|(a, x), (b, y)| a.total_cmp(b).then_with(|| y.cmp(x)))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn patterns_cover() {
        for (pattern, namespace, name, expected) in [
            ("orders", "public", "orders", true),
            ("orders", "sales", "orders", false),
            ("Orders", "public", "orders", false),
            ("sales.orders", "sales", "orders", true),
            ("sales.*", "sales", "x.y", true),
            ("sales.*", "sales2", "x", false),
            ("sales.or*", "sales", "orders", true),
            ("sales.or*", "sales", "or", true),
            ("sales.or*", "sales", "o", false),
            ("*", "any", "thing", true),
            ("*.orders", "any", "orders", true),
            ("log_*", "public", "log_1", true),
            ("s.a*b*c", "s", "aXbYbZc", true),
            ("s.a*b*c", "s", "aXbYbZ", false),
            (r#""My Schema"."a.b""#, "My Schema", "a.b", true),
            (r#"s."a*""#, "s", "ab", false),
            (r#"s."a*""#, "s", "a*", true),
            (r#"s."a""b""#, "s", "a\"b", true),
            (r#"s."pre "*"#, "s", "pre x", true),
            ("s.日*", "s", "日本", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(namespace, name), expected, "{pattern} {namespace}.{name}");
        }
    }

    #[test]
    fn faulty_patterns() {
        for (pattern, expected) in [
            ("", "empty part"),
            ("a.", "empty part"),
            (".b", "empty part"),
            ("a.b.c", "more than two"),
            ("a.\"b", "not closed"),
            ("\"\"", "empty"),
        ] {
            let error = Pattern::parse(pattern).unwrap_err().to_string();
            assert!(error.contains(expected), "{pattern}: {error}");
        }
    }

    #[test]
    fn exclude_wins() {
        let scope = Scope {
            include: vec!["orders".into(), "sales.*".into(), "gone".into()],
            exclude: vec!["sales.tmp_*".into(), "gone".into()],
            ..Scope::default()
        };
        let patterns = Patterns::parse(&scope).unwrap();
        assert!(patterns.wants("public", "orders") && patterns.wants("sales", "x"));
        assert!(!patterns.wants("sales", "tmp_1") && !patterns.wants("public", "gone") && !patterns.wants("public", "x"));
        assert_eq!(patterns.named().collect::<Vec<_>>(), [("orders", "public".to_owned(), "orders".to_owned())]);
        assert!(Patterns::parse(&Scope::default()).unwrap().wants("a", "b"));
        let error = Patterns::parse(&Scope { exclude: vec!["a".into(), "a..b".into()], ..Scope::default() }).unwrap_err();
        assert!(error.to_string().starts_with("exclude[1]: the pattern"), "{error}");
    }

    #[test]
    fn suggestions() {
        let names = || ["public.orders", "public.order_items", "sales.orders"].map(str::to_owned);
        assert_eq!(closest("public.oders", names()).as_deref(), Some("public.orders"));
        assert_eq!(closest("public.Orders", names()).as_deref(), Some("public.orders"));
        assert_eq!(closest("x.y", names()), None);
        assert_eq!(closest("aab", ["aad", "aac"].map(str::to_owned)).as_deref(), Some("aac"));
    }
}
