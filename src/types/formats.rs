//! What a column type is called in Arrow, Parquet and Iceberg. Names for people: the files themselves are typed by Arrow's type, and
//! tests hold what is said here against the converter that writes them.

use crate::config::column_type::ColumnType;
use arrow::datatypes::{DataType, TimeUnit};

/// The Arrow type, and the extension type if it has one.
pub(crate) fn arrow(ty: &ColumnType) -> String {
    let name = arrow_name(&ty.arrow());
    match ty.field("").metadata().get("ARROW:extension:name") {
        Some(extension) => format!("{name} (`{extension}`)"),
        None => name,
    }
}

fn arrow_name(ty: &DataType) -> String {
    match ty {
        DataType::Timestamp(TimeUnit::Microsecond, zone) => format!("Timestamp(µs, {})", zone.as_deref().unwrap_or("no zone")),
        DataType::Time64(TimeUnit::Microsecond) => "Time64(µs)".to_owned(),
        DataType::List(element) => format!("List of {}", arrow_name(element.data_type())),
        DataType::Struct(fields) => format!("Struct of {}", list(fields.iter().map(|field| arrow_name(field.data_type())))),
        DataType::Map(..) => "Map of Utf8 to Utf8".to_owned(),
        other => other.to_string().replace(", ", ","),
    }
}

/// The physical and the logical type in a Parquet file.
pub(crate) fn parquet(ty: &ColumnType) -> String {
    match ty {
        ColumnType::Boolean => "BOOLEAN".to_owned(),
        ColumnType::Int16 => "INT32, INT(16, signed)".to_owned(),
        ColumnType::Int32 => "INT32".to_owned(),
        ColumnType::Int64 => "INT64".to_owned(),
        ColumnType::Float32 => "FLOAT".to_owned(),
        ColumnType::Float64 => "DOUBLE".to_owned(),
        ColumnType::Decimal { precision, scale } => {
            let physical = match precision {
                2..10 => "INT32".to_owned(),
                // A single digit too, as the converter has it.
                ..19 => "INT64".to_owned(),
                _ => format!("FIXED_LEN_BYTE_ARRAY({})", decimal_bytes(*precision)),
            };
            format!("{physical}, DECIMAL({precision},{scale})")
        }
        ColumnType::String | ColumnType::Text(_) | ColumnType::Interval => "BYTE_ARRAY, STRING".to_owned(),
        ColumnType::Json => "BYTE_ARRAY, JSON".to_owned(),
        ColumnType::Binary | ColumnType::Wkb => "BYTE_ARRAY".to_owned(),
        ColumnType::Date => "INT32, DATE".to_owned(),
        ColumnType::Time => "INT64, TIME(MICROS, local)".to_owned(),
        ColumnType::LocalTimestamp => "INT64, TIMESTAMP(MICROS, local)".to_owned(),
        ColumnType::Timestamptz | ColumnType::Timestamp(_) => "INT64, TIMESTAMP(MICROS, UTC)".to_owned(),
        ColumnType::Uuid => "FIXED_LEN_BYTE_ARRAY(16), UUID".to_owned(),
        ColumnType::List(element) => format!("LIST of {}", parquet(element)),
        ColumnType::Struct(parts) => format!("group of {}", list(parts.iter().map(|(_, part)| parquet(part)))),
        ColumnType::Map => "MAP of BYTE_ARRAY, STRING to BYTE_ARRAY, STRING".to_owned(),
    }
}

/// The bytes that hold every decimal of so many digits, and its sign.
fn decimal_bytes(digits: u8) -> u32 {
    let all = 10_u128.checked_pow(u32::from(digits)).unwrap_or(u128::MAX);
    (1..=16).find(|bytes| all <= 1_u128 << (8 * bytes - 1)).unwrap_or(16)
}

/// The Iceberg type that holds the column (specification, "Primitive Types", "Nested Types").
pub(crate) fn iceberg(ty: &ColumnType) -> String {
    match ty {
        ColumnType::Boolean => "boolean".to_owned(),
        ColumnType::Int16 | ColumnType::Int32 => "int".to_owned(),
        ColumnType::Int64 => "long".to_owned(),
        ColumnType::Float32 => "float".to_owned(),
        ColumnType::Float64 => "double".to_owned(),
        ColumnType::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
        ColumnType::String | ColumnType::Text(_) | ColumnType::Json | ColumnType::Interval => "string".to_owned(),
        ColumnType::Binary | ColumnType::Wkb => "binary".to_owned(),
        ColumnType::Date => "date".to_owned(),
        ColumnType::Time => "time".to_owned(),
        ColumnType::LocalTimestamp => "timestamp".to_owned(),
        ColumnType::Timestamptz | ColumnType::Timestamp(_) => "timestamptz".to_owned(),
        ColumnType::Uuid => "uuid".to_owned(),
        ColumnType::List(element) => format!("list of {}", iceberg(element)),
        ColumnType::Struct(parts) => format!("struct of {}", list(parts.iter().map(|(_, part)| iceberg(part)))),
        ColumnType::Map => "map of string to string".to_owned(),
    }
}

/// Names with semicolons between them, each run of the same once: `2 × Int32; Utf8`.
fn list(names: impl Iterator<Item = String>) -> String {
    let mut runs: Vec<(usize, String)> = Vec::new();
    for name in names {
        match runs.last_mut() {
            Some((times, last)) if *last == name => *times += 1,
            _ => runs.push((1, name)),
        }
    }
    let runs: Vec<_> = runs.into_iter().map(|(times, name)| if times == 1 { name } else { format!("{times} × {name}") }).collect();
    runs.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::column_type::PLAIN_NAMES;
    use ::parquet::arrow::ArrowSchemaConverter;
    use ::parquet::basic::{LogicalType, TimeUnit as Unit, Type as Physical};
    use ::parquet::schema::types::Type;
    use arrow::datatypes::Schema;

    /// A type of a Parquet schema, named as [`parquet()`] names it.
    fn found(ty: &Type) -> String {
        let zone = |utc: &bool| if *utc { "UTC" } else { "local" };
        let logical = match ty.get_basic_info().logical_type_ref() {
            None => None,
            Some(LogicalType::List) => return format!("LIST of {}", found(&ty.get_fields()[0].get_fields()[0])),
            Some(LogicalType::Map) => {
                let pair = ty.get_fields()[0].get_fields();
                return format!("MAP of {} to {}", found(&pair[0]), found(&pair[1]));
            }
            Some(LogicalType::String) => Some("STRING".to_owned()),
            Some(LogicalType::Json) => Some("JSON".to_owned()),
            Some(LogicalType::Uuid) => Some("UUID".to_owned()),
            Some(LogicalType::Date) => Some("DATE".to_owned()),
            Some(LogicalType::Integer { bit_width, is_signed: true }) => Some(format!("INT({bit_width}, signed)")),
            Some(LogicalType::Decimal { scale, precision }) => Some(format!("DECIMAL({precision},{scale})")),
            Some(LogicalType::Time { is_adjusted_to_u_t_c: utc, unit: Unit::MICROS }) => Some(format!("TIME(MICROS, {})", zone(utc))),
            Some(LogicalType::Timestamp { is_adjusted_to_u_t_c: utc, unit: Unit::MICROS }) => {
                Some(format!("TIMESTAMP(MICROS, {})", zone(utc)))
            }
            Some(other) => panic!("{other:?}"),
        };
        if ty.is_group() {
            return format!("group of {}", list(ty.get_fields().iter().map(|field| found(field))));
        }
        let Type::PrimitiveType { physical_type, type_length, .. } = ty else { panic!("{ty:?}") };
        let physical = match physical_type {
            Physical::FIXED_LEN_BYTE_ARRAY => format!("{physical_type}({type_length})"),
            _ => physical_type.to_string(),
        };
        logical.map_or_else(|| physical.clone(), |logical| format!("{physical}, {logical}"))
    }

    #[test]
    fn parquet_names_are_those_of_the_files() {
        let decimals = (1..=38).map(|precision| ColumnType::Decimal { precision, scale: precision / 2 });
        let all: Vec<ColumnType> = PLAIN_NAMES.iter().map(|(_, ty)| ty.clone()).chain(decimals).collect();
        let parts = all.iter().enumerate().map(|(at, ty)| (format!("p{at}"), ty.clone())).collect();
        let lists = all.iter().map(|ty| ColumnType::List(Box::new(ColumnType::List(Box::new(ty.clone())))));
        for ty in lists.chain(all.iter().cloned()).chain([ColumnType::Struct(parts)]) {
            let schema = ArrowSchemaConverter::new().convert(&Schema::new(vec![ty.field("c")])).expect("schema");
            assert_eq!(parquet(&ty), found(&schema.root_schema().get_fields()[0]), "{ty}");
        }
    }

    #[test]
    fn names_say_what_a_struct_holds() {
        let range: ColumnType = "struct<lower:integer,upper:integer,empty:boolean>".parse().expect("type");
        assert_eq!(arrow(&range), "Struct of 2 × Int64; Boolean");
        assert_eq!(iceberg(&range), "struct of 2 × long; boolean");
        assert_eq!(arrow(&"timestamp".parse().expect("type")), "Timestamp(µs, UTC)");
        assert_eq!(arrow(&ColumnType::Uuid), "FixedSizeBinary(16) (`arrow.uuid`)");
    }
}
