//! Plans of columns: what the query says for a column, and how what comes back is decoded.
//!
//! A column's type is looked up once, here, in `type_table`; decoding runs the closure that was found. A conversion
//! that could lose something is refused, but for those that OLake documents and its catalogs ask for by name:
//! `number` for numeric, `timestamp` for what has no zone.

use super::catalog::{ColumnInfo, PgType};
use super::column::Maker;
use super::type_table::{exact, route};
use crate::config::column_type::{ColumnType, DECIMAL_DIGITS_MAX, PLAIN_NAMES};
use crate::error::{Error, Result};
use arrow::datatypes::Field;
use std::fmt;

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
    pub(super) column: Maker,
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
