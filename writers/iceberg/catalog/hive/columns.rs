//! A table's columns as Hive's metastore wants to see them. Only for looking: Iceberg's own schema decides. Pure.

use super::thrift::{LIST, STRUCT, Struct, Value};
use iceberg::spec::{PrimitiveType, Schema, Type};

/// The columns; `zones`: whether the metastore knows timestamps with a zone, which Hive 2 does not.
pub(super) fn columns(schema: &Schema, zones: bool) -> Value {
    let column = |field: &iceberg::spec::NestedFieldRef| {
        let doc = field.doc.as_deref().unwrap_or_default();
        Value::Struct(Struct::new([
            (1, Value::text(field.name.to_lowercase())),
            (2, Value::text(hive(&field.field_type, zones))),
            (3, Value::text(doc.chars().take(250).collect::<String>())),
        ]))
    };
    Value::List(LIST, STRUCT, schema.as_struct().fields().iter().map(column).collect())
}

fn hive(kind: &Type, zones: bool) -> String {
    match kind {
        Type::Primitive(primitive) => match primitive {
            PrimitiveType::Boolean => "boolean".into(),
            PrimitiveType::Int => "int".into(),
            PrimitiveType::Long => "bigint".into(),
            PrimitiveType::Float => "float".into(),
            PrimitiveType::Double => "double".into(),
            PrimitiveType::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
            PrimitiveType::Date => "date".into(),
            PrimitiveType::Timestamp | PrimitiveType::TimestampNs => "timestamp".into(),
            PrimitiveType::Timestamptz | PrimitiveType::TimestamptzNs if zones => "timestamp with local time zone".into(),
            PrimitiveType::Timestamptz | PrimitiveType::TimestamptzNs => "timestamp".into(),
            PrimitiveType::Time | PrimitiveType::String | PrimitiveType::Uuid => "string".into(),
            PrimitiveType::Fixed(_) | PrimitiveType::Binary => "binary".into(),
        },
        Type::Struct(inner) => {
            let fields: Vec<_> = inner.fields().iter().map(|field| format!("{}:{}", field.name, hive(&field.field_type, zones))).collect();
            format!("struct<{}>", fields.join(","))
        }
        Type::List(inner) => format!("array<{}>", hive(&inner.element_field.field_type, zones)),
        Type::Map(inner) => {
            format!("map<{},{}>", hive(&inner.key_field.field_type, zones), hive(&inner.value_field.field_type, zones))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_as_hive_names_them() {
        let schema = r#"{"type":"struct","schema-id":0,"fields":[
            {"id":1,"name":"At","required":false,"type":"timestamptz","doc":"when"},
            {"id":2,"name":"tags","required":false,"type":{"type":"map","key-id":4,"key":"string","value-id":5,"value-required":false,
             "value":{"type":"list","element-id":6,"element":"decimal(12,2)","element-required":false}}}]}"#;
        let schema: Schema = serde_json::from_str(schema).expect("a schema");
        let Value::List(_, _, found) = columns(&schema, false) else { panic!("a list") };
        let texts: Vec<_> = found
            .iter()
            .map(|column| match column {
                Value::Struct(column) => [1, 2, 3].map(|number| column.text(number).unwrap_or_default()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(texts, [["at", "timestamp", "when"], ["tags", "map<string,array<decimal(12,2)>>", ""]]);
    }
}
