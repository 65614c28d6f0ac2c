//! A stub of the table of types.

use crate::config::column_type::ColumnType;
use crate::postgres::catalog::PgType;

/// The exact destination type of `ty`.
pub fn exact_type(ty: &PgType) -> ColumnType {
    ColumnType(match (ty.name.as_str(), ty.typmod) {
        ("int2", _) => "int16".into(),
        ("int4", _) => "integer_small".into(),
        ("int8", _) => "integer".into(),
        ("numeric", typmod) if typmod >= 4 => format!("decimal({},{})", ((typmod - 4) >> 16) & 0xffff, (typmod - 4) & 0x7ff),
        ("timestamptz", _) => "timestamptz".into(),
        ("date", _) => "date".into(),
        _ => match &ty.element {
            Some(element) => format!("list<{}>", exact_type(element)),
            None => "string".into(),
        },
    })
}
