//! Arrays as people read them.

use arrow::array::{Array, ArrayData, ArrayRef, make_array};
use arrow::datatypes::{DataType, Field};
use arrow::error::ArrowError;

/// The same values with the zone `UTC` written as `+00:00`: Arrow prints zones by name only with a zone database.
pub(crate) fn displayable(array: &dyn Array) -> Result<ArrayRef, ArrowError> {
    relabel(array.to_data()).map(make_array)
}

fn relabel(data: ArrayData) -> Result<ArrayData, ArrowError> {
    let children = data.child_data().iter().cloned().map(relabel).collect::<Result<Vec<_>, _>>()?;
    let ty = offset_zones(data.data_type());
    data.into_builder().data_type(ty).child_data(children).build()
}

fn offset_zones(ty: &DataType) -> DataType {
    match ty {
        DataType::Timestamp(unit, Some(zone)) if zone.as_ref() == "UTC" => DataType::Timestamp(*unit, Some("+00:00".into())),
        DataType::List(element) => {
            let element = Field::new(element.name(), offset_zones(element.data_type()), element.is_nullable());
            DataType::List(element.into())
        }
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|field| Field::new(field.name(), offset_zones(field.data_type()), field.is_nullable())).collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ListArray, TimestampMicrosecondArray};
    use arrow::datatypes::{TimeUnit, TimestampMicrosecondType};
    use arrow::util::display::array_value_to_string;
    use std::sync::Arc;

    #[test]
    fn instants_are_shown_in_utc() {
        let instants = TimestampMicrosecondArray::from(vec![Some(0), None]).with_timezone("UTC");
        let lists = ListArray::from_iter_primitive::<TimestampMicrosecondType, _, _>([Some(vec![Some(1)]), None]);
        let field = Arc::new(Field::new("element", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true));
        let lists = ListArray::new(
            field,
            lists.offsets().clone(),
            Arc::new(lists.values().as_any().downcast_ref::<TimestampMicrosecondArray>().expect("timestamps").clone().with_timezone("UTC")),
            lists.nulls().cloned(),
        );
        let shown = |array: &dyn Array| array_value_to_string(&displayable(array).expect("an array"), 0).expect("shown");
        assert_eq!((shown(&instants), shown(&lists)), ("1970-01-01T00:00:00Z".into(), "[1970-01-01T00:00:00.000001Z]".into()));
    }
}
