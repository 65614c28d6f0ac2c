//! PostgreSQL's types, and how each becomes a column.
//!
//! ```text
//! PgType ─▶ table: its block ─▶ route into the wanted ColumnType ─▶ ColumnPlan: what the query says, which column reads it
//! ```
//!
//! [`pg_type`] is what the catalog says of a type. `table` finds its block among the families (`numbers`, `texts`, `bytes`, `times`,
//! `systems`, `shapes`, `nested`); a block names the functions of `values` that read its wire forms and the column of
//! `columns` that they fill. A type is looked up once per column, here; decoding runs the closure that was found. A
//! conversion that could lose something is refused, but for those that OLake documents and its catalogs ask for by name: `number`
//! for numeric, `timestamp` for what has no zone.

mod block;
mod bytes;
mod formats;
mod nested;
mod numbers;
mod olake_id;
pub mod page;
#[cfg(test)]
pub(crate) mod payload;
pub mod pg_type;
mod shapes;
pub mod special;
mod systems;
mod table;
mod texts;
mod times;

use crate::columns::{AsText, Column, Maker};
use crate::config::column_type::{ColumnType, DECIMAL_DIGITS_MAX, PLAIN_NAMES};
use crate::error::{Error, Result};
use crate::postgres::catalog::ColumnInfo;
use arrow::datatypes::Field;
pub use olake_id::plan_olake_id;
use pg_type::{PgType, TypeKind};
use special::SpecialValues;
use std::fmt;
use table::{exact, route};

/// The form in which values come from the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// What send functions write. A value without a binary form that we can read comes as text all the same: the query casts it.
    #[default]
    Binary,
    /// What output functions print.
    Text,
}

/// How one column is read and decoded.
#[derive(Clone)]
pub struct ColumnPlan {
    /// Name in the destination.
    pub name: String,
    /// Name in the source.
    pub source: String,
    /// The source type as `format_type` prints it, for people.
    pub declared: String,
    /// The destination type.
    pub wanted: ColumnType,
    /// The Arrow field: destination name, type, extension type. Always nullable, see [`ColumnType::field`].
    pub field: Field,
    /// Whether the column is part of the row's key, which errors name.
    pub key: bool,
    /// Whether its binary form can be read.
    pub binary: bool,
    /// What the query has to say for the column to get its text.
    as_text: Select,
    column: Maker,
}

impl ColumnPlan {
    /// What a query says for this column.
    pub fn select(&self, wire: Wire) -> Select {
        if wire == Wire::Text || self.binary { Select::Plain } else { self.as_text }
    }

    /// A fresh column for values in this form.
    pub(crate) fn column(&self, wire: Wire) -> Box<dyn Column> {
        let column = (self.column)();
        if wire == Wire::Text || self.binary { column } else { Box::new(AsText(column)) }
    }
}

/// What a query says for a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// The column itself.
    Plain,
    /// Its text as the output function prints it, which is what logical replication sends. A cast to text can differ:
    /// `inet '10.0.0.1'` casts to `10.0.0.1/32`, `char(5)` loses its blanks, an extension may have declared any cast it likes.
    Output,
    /// The same for a composite type, of which `IS NOT NULL` says that none of its attributes is NULL.
    OutputOfRow,
}

impl Select {
    /// The expression; `column` is the column's name, quoted.
    pub fn expression(self, column: &str) -> String {
        match self {
            Self::Plain => column.to_owned(),
            Self::Output => format!("CASE WHEN {column} IS NOT NULL THEN pg_catalog.format('%s', {column}) END"),
            Self::OutputOfRow => format!("CASE WHEN pg_catalog.num_nulls({column}) = 0 THEN pg_catalog.format('%s', {column}) END"),
        }
    }
}

/// OIDs and names of the types that are known by them. A type of an extension has the OID 0 here: every database gives it another.
pub fn known_types() -> impl Iterator<Item = (u32, &'static str)> {
    table::blocks().flat_map(|block| block.types).copied()
}

/// The exact type that `discover` writes for a column: no value is altered by it.
pub fn exact_type(ty: &PgType) -> ColumnType {
    exact(ty)
}

/// Plans a column of the wanted type, or of the one that the policy makes of it. An error names the column, both types, and the
/// types that are possible.
pub fn plan_column(column: &ColumnInfo, destination_name: &str, wanted: &ColumnType, special: SpecialValues) -> Result<ColumnPlan> {
    let wanted = &special.effective(&column.ty, wanted);
    let Some(route) = route(&column.ty, wanted, special) else { return Err(impossible(column, wanted)) };
    Ok(ColumnPlan {
        name: destination_name.to_owned(),
        source: column.name.clone(),
        declared: column.declared.clone(),
        wanted: wanted.clone(),
        field: wanted.field(destination_name),
        key: false,
        binary: route.binary,
        as_text: if matches!(column.ty.kind, TypeKind::Composite(_)) { Select::OutputOfRow } else { Select::Output },
        column: route.column,
    })
}

impl fmt::Debug for ColumnPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} → {} {}", self.source, self.declared, self.name, self.wanted)
    }
}

fn impossible(column: &ColumnInfo, wanted: &ColumnType) -> Error {
    let exact = exact_type(&column.ty);
    let possible_as = |ty: &ColumnType| route(&column.ty, ty, SpecialValues::Error).is_some();
    let others = PLAIN_NAMES.iter().map(|(_, ty)| ty).filter(|ty| **ty != exact && possible_as(ty));
    let mut possible: Vec<String> = std::iter::once(&exact).chain(others).map(|ty| format!("`{ty}`")).collect();
    if possible_as(&ColumnType::Decimal { precision: DECIMAL_DIGITS_MAX, scale: 0 }) || matches!(exact, ColumnType::Decimal { .. }) {
        possible.push("a `decimal(p,s)` that holds every value".to_owned());
    }
    Error::schema(format!("column `{}` of type {} cannot become `{wanted}` without loss", column.name, column.declared))
        .hint(format!("set the column's type in streams.json to one of {}", possible.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::payload::{array_of, base, column, numeric_type};
    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_would_lose_something_is_refused_with_the_ways_out() {
        for (ty, wanted, advice) in [
            (base(20, "int8", -1), "int16", "`integer`, `string`"),
            (base(20, "int8", -1), "number", "decimal(p,s)"),
            (base(20, "int8", -1), "decimal(18,0)", "decimal(p,s)"),
            (base(23, "int4", -1), "number_small", "`integer`"),
            (base(26, "oid", -1), "integer_small", "`integer`"),
            (base(701, "float8", -1), "number_small", "`number`"),
            (numeric_type(10, 4), "decimal(5,2)", "`decimal(10,4)`"),
            (numeric_type(10, 4), "decimal(10,5)", "`number`"),
            (numeric_type(10, 4), "decimal(12,3)", "`decimal(10,4)`"),
            (numeric_type(10, 0), "integer_small", "`decimal(10,0)`"),
            (base(1114, "timestamp", -1), "timestamptz", "`local_timestamp`, `string`, `timestamp`"),
            (base(1184, "timestamptz", -1), "local_timestamp", "`timestamptz`"),
            (base(1184, "timestamptz", -1), "date", "`timestamptz`"),
            (base(25, "text", -1), "json", "`string`, `binary`"),
            (base(17, "bytea", -1), "uuid", "`binary`"),
            (base(1186, "interval", -1), "time", "`interval`, `string`"),
            (array_of(base(23, "int4", -1)), "list<int16>", "`list<integer_small>`, `string`"),
            (array_of(base(23, "int4", -1)), "integer", "`list<integer_small>`"),
        ] {
            let name = ty.name.clone();
            let error =
                plan_column(&column("amount", ty), "amount", &wanted.parse().expect("type"), SpecialValues::Error).expect_err(wanted);
            assert_eq!(error.kind(), Kind::Schema);
            for part in ["`amount`", &name, wanted] {
                assert!(error.to_string().contains(part), "{error}");
            }
            assert!(error.advice().is_some_and(|hint| hint.contains(advice)), "{name} to {wanted}: {:?}", error.advice());
        }
    }

    #[test]
    fn a_plan_has_the_destination_name_and_stays_nullable() {
        let plan = plan_column(&column("Id", base(2950, "uuid", -1)), "id", &ColumnType::Uuid, SpecialValues::Error).expect("plan");
        assert_eq!(plan.field, ColumnType::Uuid.field("id"));
        assert!(plan.field.is_nullable());
        assert_eq!((plan.name.as_str(), plan.source.as_str()), ("id", "Id"));
    }

    #[test]
    fn expressions_name_what_they_use_by_schema() {
        assert_eq!(Select::Plain.expression("\"a\""), "\"a\"");
        assert_eq!(Select::Output.expression("\"a\""), "CASE WHEN \"a\" IS NOT NULL THEN pg_catalog.format('%s', \"a\") END");
        let row = "CASE WHEN pg_catalog.num_nulls(\"a\") = 0 THEN pg_catalog.format('%s', \"a\") END";
        assert_eq!(Select::OutputOfRow.expression("\"a\""), row);
    }
}
