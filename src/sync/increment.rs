//! What an incremental run reads, as conditions in SQL. Pure; [`super::advance`] asks the server what they need to know.
//!
//! A row is read by the first run that can see its row version, if
//!
//! * its cursor value is greater than all that were read before, or
//! * it is *late* (see [`crate::state::cursor`]): committed after the last snapshot with a value up to the greatest.
//!
//! `primary:secondary` compares rows without a primary value by their secondary one, as OLake does. A value without an order of its
//! own (NULL in all cursor columns, NaN, an infinity) is never "greater": such rows are read when their row version is late.

use crate::config::source::NullCursor;
use crate::error::{Error, Result};
use crate::postgres::catalog::{Access, ColumnInfo, RelationKind, TableInfo};
use crate::postgres::quote;
use crate::state::cursor::Cursor;
use crate::state::progress::Moment;

/// Infinities of numeric exist from PostgreSQL 14 on.
const NUMERIC_INFINITY: u32 = 140_000;

/// `cursor_field` of a stream, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorField {
    /// As the catalog file has it.
    pub text: String,
    /// One column or two.
    pub columns: Vec<CursorColumn>,
    /// Whether rows carry the transaction that wrote them: tables do, views and foreign tables do not, and a materialized view
    /// is written anew with every refresh.
    pub versions: bool,
    /// What becomes of rows without a cursor value.
    pub nulls: NullCursor,
    /// How far back late rows are looked for, in seconds; for cursors that are times. 0: everywhere.
    pub lag_seconds: u64,
}

/// A column of the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorColumn {
    /// Name.
    pub name: String,
    /// Whether it can be NULL.
    pub nullable: bool,
    /// What values it can have beside ordinary ones.
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// With the name of its type.
    Time(&'static str),
    Float,
    Numeric,
}

impl CursorField {
    /// Resolves `text` against the table.
    ///
    /// # Errors
    /// No column, more than two, one that the table does not have or that appears twice.
    pub fn resolve(text: &str, table: &TableInfo, nulls: NullCursor, lag_seconds: u64) -> Result<Self> {
        let whole = table.columns.iter().any(|column| column.name == text);
        let names: Vec<&str> = if whole { vec![text] } else { text.split(':').collect() };
        if text.is_empty() || names.len() > 2 || names.iter().any(|name| name.is_empty()) || (names.len() == 2 && names[0] == names[1]) {
            return Err(Error::config(format!("cursor_field {text:?}: accepted are \"column\" and \"column:fallback\""))
                .hint("set \"cursor_field\" of the stream in streams.json; available_cursor_fields lists columns that can serve"));
        }
        let columns = names.into_iter().map(|name| {
            let column = table.columns.iter().find(|column| column.name == name);
            column.map(CursorColumn::of).ok_or_else(|| {
                Error::schema(format!("cursor_field {text:?}: the table has no column {name:?} any more"))
                    .hint("run discover again, or name another column")
            })
        });
        let versions = matches!(table.kind, RelationKind::Table | RelationKind::Partitioned)
            && table.access != Access::Whole
            && table.leaves.iter().all(|leaf| !leaf.foreign);
        Ok(Self { text: text.to_owned(), columns: columns.collect::<Result<_>>()?, versions, nulls, lag_seconds })
    }

    /// What a first run leaves out: `None` for nothing.
    pub fn first_run(&self) -> Option<String> {
        let present: Vec<_> = self.columns.iter().map(|column| format!("{} IS NOT NULL", column.sql())).collect();
        (self.nulls == NullCursor::Skip && self.nullable()).then(|| present.join(" OR "))
    }

    /// What is new since `last`. `late` is [`Cursor::late`], `None` where row versions tell nothing.
    pub fn since(&self, last: &Cursor, late: Option<&str>, server_version: u32) -> String {
        let mut arms = Vec::new();
        let mut without = Vec::new();
        for (column, value) in self.columns.iter().zip(&last.values) {
            let arm = column.since(value.as_deref(), late, last.quiet, self.lag_seconds, server_version);
            arms.push(and(without.iter().cloned().chain([arm])));
            without.push(format!("{} IS NULL", column.sql()));
        }
        match (self.nulls, late) {
            _ if !self.nullable() => {}
            (NullCursor::ReadEachRun, _) => arms.push(and(without)),
            (NullCursor::NewRows, Some(late)) => arms.push(and(without.into_iter().chain([late.to_owned()]))),
            (NullCursor::NewRows, None) | (NullCursor::FirstRun | NullCursor::Skip, _) => {}
        }
        arms.join(" OR ")
    }

    /// The query for the greatest values, above `last` where there is one: one row, a text or NULL for each column.
    pub fn greatest(&self, source: &str, filter: Option<&str>, last: Option<&Cursor>) -> String {
        let mut without = Vec::new();
        let mut parts = Vec::new();
        for (at, column) in self.columns.iter().enumerate() {
            let name = column.sql();
            let mut conditions = without.clone();
            conditions.push(format!("{name} IS NOT NULL"));
            conditions.extend(column.finite());
            if let Some(value) = last.and_then(|last| last.values.get(at)?.as_deref()) {
                conditions.push(format!("{name} > {}", quote::literal(value)));
            }
            conditions.extend(filter.map(|filter| format!("({filter})")));
            // In two steps: ORDER BY would take a text of the column's name for the column.
            let inner = format!("SELECT {name} AS value {source} WHERE {} ORDER BY {name} DESC LIMIT 1", conditions.join(" AND "));
            parts.push(format!("(SELECT value::text FROM ({inner}) greatest)"));
            without.push(format!("{name} IS NULL"));
        }
        format!("SELECT {}", parts.join(", "))
    }

    /// Whether a row can be without a cursor value.
    pub fn nullable(&self) -> bool {
        self.columns.iter().all(|column| column.nullable)
    }
}

impl CursorColumn {
    fn of(column: &ColumnInfo) -> Self {
        let kind = match column.ty.name.as_str() {
            "timestamp" => Kind::Time("timestamp"),
            "timestamptz" => Kind::Time("timestamptz"),
            "date" => Kind::Time("date"),
            "float4" | "float8" => Kind::Float,
            "numeric" => Kind::Numeric,
            _ => Kind::Plain,
        };
        Self { name: column.name.clone(), nullable: !column.not_null, kind }
    }

    fn sql(&self) -> String {
        quote::identifier(&self.name)
    }

    /// That a value is an ordinary one, where there are others. NULL is taken for one: it is excluded elsewhere.
    fn finite(&self) -> Option<String> {
        match self.kind {
            Kind::Plain => None,
            Kind::Time(_) => Some(format!("isfinite({})", self.sql())),
            Kind::Float | Kind::Numeric => Some(format!("{}::text NOT IN ('NaN', 'Infinity', '-Infinity')", self.sql())),
        }
    }

    fn since(&self, value: Option<&str>, late: Option<&str>, quiet: bool, lag_seconds: u64, server_version: u32) -> String {
        let name = self.sql();
        let Some(value) = value else {
            // No ordinary value was there before: all that are there now are new. The others, if late.
            let new = and([format!("{name} IS NOT NULL")].into_iter().chain(self.finite()));
            return match (self.finite(), late) {
                (Some(_), Some(late)) => format!("({new} OR ({name} IS NOT NULL AND {late}))"),
                _ => new,
            };
        };
        let bound = quote::literal(value);
        let newer = and([format!("{name} > {bound}")].into_iter().chain(self.finite()));
        let looked_back = match self.kind {
            Kind::Time(ty) if lag_seconds > 0 => Some(format!("{name} >= {bound}::pg_catalog.{ty} - interval '{lag_seconds} seconds'")),
            _ => None,
        };
        let Some(late) = late else {
            // Without row versions what is looked back at is read again.
            return looked_back.map_or(newer, |looked_back| and([looked_back].into_iter().chain(self.finite())));
        };
        let either = format!("({newer} OR {late})");
        // A lower bound first, so that an index on the cursor is of use.
        let lowest = looked_back.or_else(|| quiet.then(|| format!("{name} >= {bound}")));
        match lowest {
            None => and([format!("{name} IS NOT NULL"), either]),
            Some(lowest) => match self.least(server_version) {
                // Lies below every bound.
                Some(least) => format!("({lowest} AND {either} OR {name} = '{least}' AND {late})"),
                None => and([lowest, either]),
            },
        }
    }

    /// The least value of the type, when it is not an ordinary one.
    fn least(&self, server_version: u32) -> Option<&'static str> {
        match self.kind {
            Kind::Time(_) => Some("-infinity"),
            Kind::Float => Some("-Infinity"),
            Kind::Numeric if server_version >= NUMERIC_INFINITY => Some("-Infinity"),
            Kind::Numeric | Kind::Plain => None,
        }
    }
}

fn and(conditions: impl IntoIterator<Item = String>) -> String {
    let conditions: Vec<_> = conditions.into_iter().collect();
    if conditions.len() == 1 { conditions.join("") } else { format!("({})", conditions.join(" AND ")) }
}

/// Whether the last run's snapshot can be compared with that of `now`, so that late rows can be told from others; the reason if not.
pub fn comparable(last: &Cursor, now: &Moment, table: &TableInfo) -> Result<(), &'static str> {
    if !last.read_at.continues(now) {
        return Err("the server is not the one of the last run, was restored, or failed over");
    }
    let rewritten = table.leaves.iter().any(|leaf| last.heaps.get(&leaf.oid).is_some_and(|filenode| *filenode != leaf.filenode));
    if rewritten { Err("the table was rewritten (VACUUM FULL, CLUSTER, TRUNCATE or ALTER TABLE)") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn moment(xmin: u64) -> Moment {
        Moment { system: "1".into(), timeline: 1, database: 5, xmin, xmax: xmin, lsn: format!("0/{xmin:X}"), durable: true }
    }

    fn cursor(values: &[Option<&str>], quiet: bool) -> Cursor {
        Cursor {
            field: String::new(),
            values: values.iter().map(|value| value.map(str::to_owned)).collect(),
            shown: None,
            shown_second: None,
            load: String::new(),
            read_at: moment(100),
            quiet,
            seen: Vec::new(),
            heaps: BTreeMap::from([(7, 1)]),
        }
    }

    fn field(text: &str, nulls: NullCursor, lag_seconds: u64) -> CursorField {
        let mut table = TableInfo::of_columns(&[
            ("id", "int8"),
            ("at", "timestamptz"),
            ("made", "date"),
            ("f", "float8"),
            ("n", "numeric"),
            ("a:b", "int4"),
        ]);
        table.columns[0].not_null = true;
        CursorField::resolve(text, &table, nulls, lag_seconds).expect("a cursor")
    }

    #[test]
    fn what_is_new() {
        let since =
            |text, nulls, lag, values: &[Option<&str>], quiet, late| field(text, nulls, lag).since(&cursor(values, quiet), late, 150_000);
        let new = NullCursor::NewRows;
        assert_eq!(since("id", new, 0, &[Some("7")], true, Some("L")), r#"("id" >= '7' AND ("id" > '7' OR L))"#);
        assert_eq!(since("id", new, 0, &[Some("7")], false, Some("L")), r#"("id" IS NOT NULL AND ("id" > '7' OR L))"#);
        assert_eq!(since("id", new, 0, &[Some("7")], true, None), r#""id" > '7'"#);
        assert_eq!(since("id", new, 0, &[None], true, Some("L")), r#""id" IS NOT NULL"#);
        assert_eq!(
            since("at", new, 60, &[Some("T")], false, Some("L")),
            "(\"at\" >= 'T'::pg_catalog.timestamptz - interval '60 seconds' AND ((\"at\" > 'T' AND isfinite(\"at\")) OR L) OR \"at\" = '-infinity' AND L) \
             OR (\"at\" IS NULL AND L)"
        );
        assert_eq!(
            since("at", NullCursor::FirstRun, 60, &[Some("T")], true, None),
            "(\"at\" >= 'T'::pg_catalog.timestamptz - interval '60 seconds' AND isfinite(\"at\"))"
        );
        // Only a numeric of a server that has them can be infinite.
        assert!(field("n", new, 0).since(&cursor(&[Some("1")], true), Some("L"), 150_000).contains("'-Infinity' AND L"));
        assert!(!field("n", new, 0).since(&cursor(&[Some("1")], true), Some("L"), 130_000).contains("= '-Infinity'"));
        assert_eq!(
            since("made:id", new, 0, &[None, Some("7")], true, None),
            r#"("made" IS NOT NULL AND isfinite("made")) OR ("made" IS NULL AND "id" > '7')"#
        );
    }

    #[test]
    fn rows_without_a_value() {
        let arms = |nulls, late| field("a:b", nulls, 0).since(&cursor(&[Some("1")], true), late, 150_000);
        assert!(arms(NullCursor::NewRows, Some("L")).ends_with(r#" OR ("a:b" IS NULL AND L)"#));
        assert!(arms(NullCursor::ReadEachRun, None).ends_with(r#" OR "a:b" IS NULL"#));
        for (nulls, late) in [(NullCursor::NewRows, None), (NullCursor::FirstRun, Some("L")), (NullCursor::Skip, Some("L"))] {
            assert!(!arms(nulls, late).contains("IS NULL"));
        }
        assert_eq!(field("at:made", NullCursor::Skip, 0).first_run().as_deref(), Some(r#""at" IS NOT NULL OR "made" IS NOT NULL"#));
        assert_eq!(field("at:id", NullCursor::Skip, 0).first_run(), None, "one that cannot be NULL");
    }

    #[test]
    fn the_greatest_values() {
        assert_eq!(
            field("made:id", NullCursor::NewRows, 0).greatest("FROM t", Some("x"), Some(&cursor(&[Some("D"), None], true))),
            "SELECT (SELECT value::text FROM (SELECT \"made\" AS value FROM t WHERE \"made\" IS NOT NULL AND isfinite(\"made\") AND \"made\" > 'D' AND (x) \
             ORDER BY \"made\" DESC LIMIT 1) greatest), (SELECT value::text FROM (SELECT \"id\" AS value FROM t WHERE \"made\" IS NULL AND \"id\" IS NOT NULL \
             AND (x) ORDER BY \"id\" DESC LIMIT 1) greatest)"
        );
    }

    #[test]
    fn a_history_that_broke_tells_nothing() {
        let table = TableInfo::of_columns(&[("id", "int8")]);
        let last = cursor(&[Some("1")], true);
        assert!(comparable(&last, &moment(200), &table).is_ok());
        assert!(comparable(&last, &Moment { timeline: 2, ..moment(200) }, &table).is_err());
        let leaf = |filenode| crate::postgres::catalog::Leaf {
            oid: 7,
            namespace: "public".into(),
            name: "t".into(),
            filenode,
            pages: 1,
            bytes: 1,
            estimated_rows: None,
            foreign: false,
        };
        let with = |filenode| TableInfo { leaves: vec![leaf(filenode)], ..table.clone() };
        assert!(comparable(&last, &moment(200), &with(1)).is_ok());
        assert!(comparable(&last, &moment(200), &with(2)).is_err_and(|reason| reason.contains("rewritten")));
    }
}
