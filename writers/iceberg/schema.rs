//! Columns: from Arrow's types to Iceberg's, to the Arrow types of the files, and values from the one to the other.
//!
//! Pure. Which columns a table has, and what becomes of one that is not as it was, is [`super::evolve`]'s.

use crate::{Error, Kind, Result};
use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, StructType, Type};
use std::sync::Arc;

/// Metadata key of a Parquet column's Iceberg id, as the `parquet` crate reads it.
const FIELD_ID: &str = "PARQUET:field_id";
/// Metadata key of Arrow's extension types.
const EXTENSION: &str = "ARROW:extension:name";
/// The extension that makes 16 bytes a UUID.
const UUID: &str = "arrow.uuid";

/// Gives out field ids, each once.
#[derive(Debug)]
pub(crate) struct Ids(pub(crate) i32);

impl Ids {
    /// The id after the last one.
    pub(crate) fn next(&mut self) -> i32 {
        self.0 += 1;
        self.0
    }
}

/// Iceberg's type for an Arrow field; nested fields get new ids.
///
/// # Errors
/// [`Kind::Schema`] for a type that Iceberg does not have.
pub(crate) fn iceberg_type(field: &Field, ids: &mut Ids) -> Result<Type> {
    use DataType::{
        Binary, Boolean, Date32, Decimal128, FixedSizeBinary, Float32, Float64, Int8, Int16, Int32, Int64, List, Map, Struct, Time64,
        Timestamp, UInt8, UInt16, UInt32, Utf8,
    };
    let primitive = match field.data_type() {
        Boolean => PrimitiveType::Boolean,
        Int8 | Int16 | Int32 | UInt8 | UInt16 => PrimitiveType::Int,
        Int64 | UInt32 => PrimitiveType::Long,
        Float32 => PrimitiveType::Float,
        Float64 => PrimitiveType::Double,
        Decimal128(precision, scale @ 0..) => {
            PrimitiveType::Decimal { precision: u32::from(*precision), scale: u32::from(scale.unsigned_abs()) }
        }
        Date32 => PrimitiveType::Date,
        Time64(TimeUnit::Microsecond) => PrimitiveType::Time,
        Timestamp(TimeUnit::Microsecond, None) => PrimitiveType::Timestamp,
        Timestamp(TimeUnit::Microsecond, Some(_)) => PrimitiveType::Timestamptz,
        Utf8 => PrimitiveType::String,
        Binary => PrimitiveType::Binary,
        FixedSizeBinary(16) if field.metadata().get(EXTENSION).is_some_and(|name| name == UUID) => PrimitiveType::Uuid,
        FixedSizeBinary(bytes) => PrimitiveType::Fixed(u64::from(bytes.unsigned_abs())),
        List(element) => {
            let id = ids.next();
            return Ok(Type::List(ListType::new(Arc::new(NestedField::list_element(
                id,
                iceberg_type(element, ids)?,
                !element.is_nullable(),
            )))));
        }
        Map(entries, _) => {
            let Struct(fields) = entries.data_type() else { return Err(unsupported(field)) };
            let [key, value] = &fields[..] else { return Err(unsupported(field)) };
            let (key_id, value_id) = (ids.next(), ids.next());
            return Ok(Type::Map(MapType::new(
                Arc::new(NestedField::map_key_element(key_id, iceberg_type(key, ids)?)),
                Arc::new(NestedField::map_value_element(value_id, iceberg_type(value, ids)?, !value.is_nullable())),
            )));
        }
        Struct(fields) => {
            // All ids of a level come before those of the levels below, as in Iceberg's own libraries.
            let own: Vec<i32> = fields.iter().map(|_| ids.next()).collect();
            let nested = |(id, field): (i32, &FieldRef)| -> Result<NestedFieldRef> {
                Ok(Arc::new(NestedField::new(id, field.name(), iceberg_type(field, ids)?, !field.is_nullable())))
            };
            return Ok(Type::Struct(StructType::new(own.into_iter().zip(fields).map(nested).collect::<Result<_>>()?)));
        }
        _ => return Err(unsupported(field)),
    };
    Ok(Type::Primitive(primitive))
}

fn unsupported(field: &Field) -> Error {
    Error::new(Kind::Schema, format!("column {:?} has the type {}, which Iceberg does not have", field.name(), field.data_type()))
        .hint("give the column another type in the catalog file (column_types), for instance string")
}

/// The field of a file that holds `field`, with the ids by which readers find columns.
///
/// # Errors
/// [`Kind::Schema`] for types that are newer than this writer.
pub(crate) fn file_field(field: &NestedField) -> Result<Field> {
    named(field, &field.name)
}

fn named(field: &NestedField, name: &str) -> Result<Field> {
    let mut metadata = std::collections::HashMap::from([(FIELD_ID.to_owned(), field.id.to_string())]);
    let data_type = match field.field_type.as_ref() {
        Type::Primitive(primitive) => {
            if *primitive == PrimitiveType::Uuid {
                metadata.insert(EXTENSION.to_owned(), UUID.to_owned());
            }
            file_type(primitive).ok_or_else(|| {
                Error::new(
                    Kind::Schema,
                    format!("column {:?} of the table has the type {primitive}, which this program does not write", field.name),
                )
            })?
        }
        Type::List(list) => DataType::List(Arc::new(named(&list.element_field, "element")?)),
        Type::Map(map) => {
            let fields = [named(&map.key_field, "key")?, named(&map.value_field, "value")?];
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(fields.into_iter().collect()), false)), false)
        }
        Type::Struct(fields) => DataType::Struct(fields.fields().iter().map(|field| file_field(field)).collect::<Result<Fields>>()?),
    };
    Ok(Field::new(name, data_type, !field.required).with_metadata(metadata))
}

fn file_type(primitive: &PrimitiveType) -> Option<DataType> {
    Some(match primitive {
        PrimitiveType::Boolean => DataType::Boolean,
        PrimitiveType::Int => DataType::Int32,
        PrimitiveType::Long => DataType::Int64,
        PrimitiveType::Float => DataType::Float32,
        PrimitiveType::Double => DataType::Float64,
        PrimitiveType::Decimal { precision, scale } => DataType::Decimal128(u8::try_from(*precision).ok()?, i8::try_from(*scale).ok()?),
        PrimitiveType::Date => DataType::Date32,
        PrimitiveType::Time => DataType::Time64(TimeUnit::Microsecond),
        PrimitiveType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        PrimitiveType::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        PrimitiveType::String => DataType::Utf8,
        PrimitiveType::Binary => DataType::Binary,
        PrimitiveType::Uuid => DataType::FixedSizeBinary(16),
        PrimitiveType::Fixed(bytes) => DataType::FixedSizeBinary(i32::try_from(*bytes).ok()?),
        _ => return None,
    })
}

/// The values of `array` as `target` has them. What cannot be converted without loss is an error, never a NULL.
pub(crate) fn convert(array: &ArrayRef, target: &Field) -> Result<ArrayRef> {
    if array.data_type() == target.data_type() {
        return Ok(array.clone());
    }
    let nulls = || array.nulls().cloned();
    let rebuilt = |e: arrow::error::ArrowError| Error::new(Kind::Bug, format!("cannot rebuild column {:?}", target.name())).because(e);
    match (array.data_type(), target.data_type()) {
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let values = convert(list.values(), element)?;
            Ok(Arc::new(ListArray::try_new(element.clone(), list.offsets().clone(), values, nulls()).map_err(rebuilt)?))
        }
        (DataType::Struct(_), DataType::Struct(fields)) => Ok(Arc::new(convert_struct(array.as_struct(), fields, target)?)),
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let map = array.as_map();
            let DataType::Struct(fields) = entries.data_type() else { return Err(Error::new(Kind::Bug, "a map without entries")) };
            let keys_and_values = [convert(map.keys(), &fields[0])?, convert(map.values(), &fields[1])?];
            let pairs = StructArray::try_new(fields.clone(), keys_and_values.into(), None).map_err(rebuilt)?;
            Ok(Arc::new(MapArray::try_new(entries.clone(), map.offsets().clone(), pairs, nulls(), *sorted).map_err(rebuilt)?))
        }
        (DataType::Timestamp(TimeUnit::Microsecond, Some(_)), DataType::Timestamp(TimeUnit::Microsecond, Some(zone))) => {
            let instants = array.as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
            Ok(Arc::new(instants.clone().with_timezone(zone.clone())))
        }
        (_, wanted) => {
            // `safe` would turn what does not fit into NULL.
            let cast = cast_with_options(array, wanted, &CastOptions { safe: false, ..CastOptions::default() });
            cast.map_err(|e| {
                Error::new(Kind::Schema, format!("column {:?} holds a value that its type {wanted} does not take", target.name()))
                    .because(e)
            })
        }
    }
}

/// A struct's fields are found by name; one that the rows do not have is NULL.
fn convert_struct(rows: &StructArray, fields: &Fields, target: &Field) -> Result<StructArray> {
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        columns.push(match rows.column_by_name(field.name()) {
            Some(column) => convert(column, field)?,
            None if field.is_nullable() => arrow::array::new_null_array(field.data_type(), rows.len()),
            None => {
                return Err(Error::new(
                    Kind::Schema,
                    format!("field {:?} of column {:?} is required by the table and missing", field.name(), target.name()),
                ));
            }
        });
    }
    StructArray::try_new(fields.clone(), columns, rows.nulls().cloned())
        .map_err(|e| Error::new(Kind::Schema, format!("column {:?} holds NULL where the table requires a value", target.name())).because(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int16Array, Int32Array, Int64Array, StringArray};
    use arrow::datatypes::Int32Type;

    #[test]
    fn types_of_every_depth_get_ids_of_their_own() {
        let inner = Fields::from(vec![Field::new("a", DataType::Int16, false), Field::new("b", DataType::Utf8, true)]);
        let list = DataType::List(Arc::new(Field::new("item", DataType::Struct(inner), true)));
        let mut ids = Ids(7);
        let built = iceberg_type(&Field::new("x", list.clone(), true), &mut ids).expect("type");
        assert_eq!(ids.0, 10);
        let field = NestedField::optional(7, "x", built);
        let file = file_field(&field).expect("field");
        let DataType::List(element) = file.data_type() else { panic!("a list") };
        assert_eq!((element.name().as_str(), element.metadata()[FIELD_ID].as_str()), ("element", "8"));
        let rows: ArrayRef = {
            let structs = StructArray::from(vec![
                (Arc::new(Field::new("a", DataType::Int16, false)), Arc::new(Int16Array::from(vec![1, 2])) as ArrayRef),
                (Arc::new(Field::new("b", DataType::Utf8, true)), Arc::new(StringArray::from(vec![Some("x"), None])) as ArrayRef),
            ]);
            let DataType::List(item) = list else { unreachable!() };
            Arc::new(ListArray::new(item, arrow::buffer::OffsetBuffer::from_lengths([2]), Arc::new(structs), None))
        };
        let converted = convert(&rows, &file).expect("converted");
        assert_eq!(converted.data_type(), file.data_type());
        let structs = converted.as_list::<i32>().values().as_struct().clone();
        assert_eq!(structs.column(0).as_primitive::<Int32Type>(), &Int32Array::from(vec![1, 2]));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let long: ArrayRef = Arc::new(Int64Array::from(vec![1 << 40]));
        let error = convert(&long, &Field::new("n", DataType::Int32, true)).expect_err("too large");
        assert!(error.kind() == Kind::Schema && error.to_string().contains("\"n\""), "{error}");
    }

    #[test]
    fn a_type_that_iceberg_does_not_have_is_named() {
        let error = iceberg_type(&Field::new("d", DataType::Duration(TimeUnit::Second), true), &mut Ids(0)).expect_err("none");
        assert!(error.to_string().contains("\"d\""), "{error}");
    }
}
