//! Plans of columns: what the query says for a column, and how what comes back is decoded.
//!
//! A column's type is looked up once, here, in `table`; decoding runs the closure that was found. A conversion
//! that could lose something is refused, but for those that OLake documents and its catalogs ask for by name:
//! `number` for numeric, `timestamp` for what has no zone.

#[cfg(test)]
pub(crate) mod payload;
mod table;

use crate::columns::Maker;
use crate::config::column_type::{ColumnType, DECIMAL_DIGITS_MAX, PLAIN_NAMES};
use crate::error::{Error, Result};
use crate::postgres::catalog::{ColumnInfo, PgType};
use arrow::datatypes::Field;
use std::fmt;
use table::{exact, route};

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
    /// What the query says for this column.
    pub select: Select,
    pub(crate) column: Maker,
}

/// What a query says for a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// The column itself, in the type's binary form.
    Plain,
    /// Its text: a cast, which for these types is what their output function prints.
    Text,
    /// Its text, for types whose cast to text is not (or, in an extension, may not be) what their output function
    /// prints: `inet '10.0.0.1'` casts to `10.0.0.1/32`. Logical replication sends what the output function prints.
    Output,
    /// An array of its elements' text.
    TextArray,
}

impl Select {
    /// The expression; `column` is the column's name, quoted.
    pub fn expression(self, column: &str) -> String {
        match self {
            Self::Plain => column.to_owned(),
            Self::Text => format!("{column}::pg_catalog.text"),
            Self::Output => format!("CASE WHEN {column} IS NOT NULL THEN pg_catalog.format('%s', {column}) END"),
            // Through the array's own text, so that the elements' output function is what prints them.
            Self::TextArray => format!("{column}::pg_catalog.text::pg_catalog.text[]"),
        }
    }
}

/// The exact type that `discover` writes for a column: no value is altered by it.
pub fn exact_type(ty: &PgType) -> ColumnType {
    exact(ty)
}

/// Plans a column. An error names the column, both types, and the types that are possible.
pub fn plan_column(column: &ColumnInfo, destination_name: &str, wanted: &ColumnType) -> Result<ColumnPlan> {
    let Some(route) = route(&column.ty, wanted) else { return Err(impossible(column, wanted)) };
    Ok(ColumnPlan {
        name: destination_name.to_owned(),
        source: column.name.clone(),
        declared: column.declared.clone(),
        wanted: wanted.clone(),
        field: wanted.field(destination_name),
        select: route.select,
        column: route.column,
    })
}

impl fmt::Debug for ColumnPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} → {} {} ({:?})", self.source, self.declared, self.name, self.wanted, self.select)
    }
}

fn impossible(column: &ColumnInfo, wanted: &ColumnType) -> Error {
    let exact = exact_type(&column.ty);
    let others = PLAIN_NAMES.iter().map(|(_, ty)| ty).filter(|ty| **ty != exact && route(&column.ty, ty).is_some());
    let mut possible: Vec<String> = std::iter::once(&exact).chain(others).map(|ty| format!("`{ty}`")).collect();
    if route(&column.ty, &ColumnType::Decimal { precision: DECIMAL_DIGITS_MAX, scale: 0 }).is_some()
        || matches!(exact, ColumnType::Decimal { .. })
    {
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
            (base(1186, "interval", -1), "time", "`string`"),
            (array_of(base(23, "int4", -1)), "list<int16>", "`list<integer_small>`, `string`"),
            (array_of(base(23, "int4", -1)), "integer", "`list<integer_small>`"),
        ] {
            let name = ty.name.clone();
            let error = plan_column(&column("amount", ty), "amount", &wanted.parse().expect("type")).expect_err(wanted);
            assert_eq!(error.kind(), Kind::Schema);
            for part in ["`amount`", &name, wanted] {
                assert!(error.to_string().contains(part), "{error}");
            }
            assert!(error.advice().is_some_and(|hint| hint.contains(advice)), "{name} to {wanted}: {:?}", error.advice());
        }
    }

    #[test]
    fn a_plan_has_the_destination_name_and_stays_nullable() {
        let plan = plan_column(&column("Id", base(2950, "uuid", -1)), "id", &ColumnType::Uuid).expect("plan");
        assert_eq!(plan.field, ColumnType::Uuid.field("id"));
        assert!(plan.field.is_nullable());
        assert_eq!((plan.name.as_str(), plan.source.as_str()), ("id", "Id"));
    }

    #[test]
    fn expressions_name_what_they_use_by_schema() {
        assert_eq!(Select::Plain.expression("\"a\""), "\"a\"");
        assert_eq!(Select::Text.expression("\"a\""), "\"a\"::pg_catalog.text");
        assert_eq!(Select::Output.expression("\"a\""), "CASE WHEN \"a\" IS NOT NULL THEN pg_catalog.format('%s', \"a\") END");
        assert_eq!(Select::TextArray.expression("\"a\""), "\"a\"::pg_catalog.text::pg_catalog.text[]");
    }
}
