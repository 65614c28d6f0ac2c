//! What becomes of values that a destination type has no place for: NaN and infinities in a decimal, infinite dates, 24:00.

use super::pg_type::{PgType, TypeKind};
use crate::columns::fixed::OnSpecial;
use crate::config::column_type::ColumnType;
use crate::error::{Error, Result};
use std::fmt;

/// The policy of a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpecialValues {
    /// The run of the table stops; the error names the row's key. What an absent key means.
    #[default]
    Error,
    /// NULL.
    Null,
    /// The nearest value that the type and its readers know; NaN, to which none is near, stays an error.
    Clamp,
    /// The column is carried as the server prints it, so that every value has a place.
    String,
}

impl SpecialValues {
    /// All of them, in the order in which messages list them.
    pub const ALL: [Self; 4] = [Self::Error, Self::Null, Self::Clamp, Self::String];

    /// The name in `streams.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Null => "null",
            Self::Clamp => "clamp",
            Self::String => "string",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(|| {
            let accepted = Self::ALL.map(|policy| format!("\"{policy}\"")).join(", ");
            Error::config(format!("unknown policy {name:?} for special values, accepted are {accepted}"))
        })
    }

    /// The policy as a column of numbers carries it out.
    pub(crate) fn on<N>(self, lowest: N, highest: N) -> OnSpecial<N> {
        match self {
            Self::Error | Self::String => OnSpecial::Refuse,
            Self::Null => OnSpecial::Null,
            Self::Clamp => OnSpecial::Clamp { lowest, highest },
        }
    }

    /// The type that a column has under this policy: with `string`, text takes the place of every type that a special value of
    /// its source would have no place in.
    pub(crate) fn effective(self, ty: &PgType, wanted: &ColumnType) -> ColumnType {
        if self == Self::String { with_text(ty, wanted) } else { wanted.clone() }
    }
}

fn with_text(ty: &PgType, wanted: &ColumnType) -> ColumnType {
    match (&ty.kind, wanted) {
        (TypeKind::Array { element: part, .. } | TypeKind::Multirange(part), ColumnType::List(inner)) => {
            // A list of lists is one array of two dimensions.
            let part = if matches!((&ty.kind, &**inner), (TypeKind::Array { .. }, ColumnType::List(_))) && part.parts().is_empty() {
                ty
            } else {
                part
            };
            ColumnType::List(Box::new(with_text(part, inner)))
        }
        (TypeKind::Composite(attributes), ColumnType::Struct(parts)) => ColumnType::Struct(
            parts.iter().zip(attributes).map(|((name, wanted), attribute)| (name.clone(), with_text(&attribute.ty, wanted))).collect(),
        ),
        (TypeKind::Range(bound), ColumnType::Struct(parts)) => {
            ColumnType::Struct(parts.iter().map(|(name, wanted)| (name.clone(), with_text(bound, wanted))).collect())
        }
        (TypeKind::Base, wanted) if has_special(ty, wanted) => ColumnType::String,
        _ => wanted.clone(),
    }
}

/// Whether values of a base type can be special in `wanted`.
fn has_special(ty: &PgType, wanted: &ColumnType) -> bool {
    match ty.name.as_str() {
        "numeric" => matches!(wanted, ColumnType::Decimal { .. }),
        "date" | "time" | "timestamp" | "timestamptz" => matches!(
            wanted,
            ColumnType::Date | ColumnType::Time | ColumnType::LocalTimestamp | ColumnType::Timestamptz | ColumnType::Timestamp(_)
        ),
        // The struct of months, days and microseconds has no infinity.
        "interval" => matches!(wanted, ColumnType::Struct(_)),
        _ => false,
    }
}

impl fmt::Display for SpecialValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::{array_of, base, numeric_type};
    use super::*;

    #[test]
    fn text_takes_the_place_of_types_with_special_values_only() {
        let range = PgType { kind: TypeKind::Range(Box::new(base(1082, "date", -1))), ..base(3912, "daterange", -1) };
        for (ty, wanted, expected) in [
            (base(1082, "date", -1), "date", "string"),
            (base(1082, "date", -1), "timestamp", "string"),
            (numeric_type(10, 2), "decimal(10,2)", "string"),
            (numeric_type(10, 2), "number", "number"),
            (base(790, "money", 2), "decimal(19,2)", "decimal(19,2)"),
            (base(20, "int8", -1), "decimal(19,0)", "decimal(19,0)"),
            (array_of(base(1083, "time", -1)), "list<time>", "list<string>"),
            (array_of(base(1083, "time", -1)), "list<list<time>>", "list<list<string>>"),
            (range, "struct<lower:date,upper:date,lower_inclusive:boolean>", "struct<lower:string,upper:string,lower_inclusive:boolean>"),
        ] {
            let wanted = wanted.parse().expect("type");
            assert_eq!(SpecialValues::String.effective(&ty, &wanted).to_string(), expected, "{}", ty.name);
            assert_eq!(SpecialValues::Null.effective(&ty, &wanted), wanted);
        }
    }

    #[test]
    fn names_read_back() {
        for policy in SpecialValues::ALL {
            assert_eq!(SpecialValues::parse(policy.name()).expect("policy"), policy);
        }
        assert!(SpecialValues::parse("ignore").is_err());
    }
}
