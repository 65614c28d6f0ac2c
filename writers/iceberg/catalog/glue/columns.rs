//! Columns of an Iceberg table as AWS Glue shows them, as Iceberg's own catalog for Glue writes them. Pure.

use iceberg::spec::{NestedField, PrimitiveType, TableMetadata, Type};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Glue takes no more of a comment.
const COMMENT_CHARS_MAX: usize = 255;
/// Glue takes no more of a type.
const TYPE_CHARS_MAX: usize = 131_072;

/// The columns of the current schema, then those that only older schemas have.
pub(super) fn columns(metadata: &TableMetadata) -> Vec<Value> {
    let (mut seen, mut columns) = (HashSet::new(), Vec::new());
    let current = metadata.current_schema();
    let older = metadata.schemas_iter().filter(|schema| schema.schema_id() != current.schema_id());
    for (schema, is_current) in [(current, true)].into_iter().chain(older.map(|schema| (schema, false))) {
        for field in schema.as_struct().fields() {
            if seen.insert(field.name.clone()) {
                columns.push(column(field, is_current));
            }
        }
    }
    columns
}

fn column(field: &NestedField, is_current: bool) -> Value {
    let parameters = json!({
        "iceberg.field.id": field.id.to_string(),
        "iceberg.field.optional": (!field.required).to_string(),
        "iceberg.field.current": is_current.to_string(),
    });
    let mut column = json!({"Name": field.name, "Type": type_name(&field.field_type), "Parameters": parameters});
    if let Some(doc) = &field.doc {
        column["Comment"] = json!(doc.chars().take(COMMENT_CHARS_MAX).collect::<String>());
    }
    column
}

/// The name of a type, as Hive has it. One that is too long is cut at its outermost level: readers look at Iceberg's metadata.
fn type_name(field_type: &Type) -> String {
    let name = full_name(field_type);
    match (name.len() > TYPE_CHARS_MAX, field_type) {
        (false, _) => name,
        (true, Type::Struct(_)) => "struct<>".to_owned(),
        (true, Type::List(_)) => "array<string>".to_owned(),
        (true, _) => "map<string,string>".to_owned(),
    }
}

fn full_name(field_type: &Type) -> String {
    match field_type {
        Type::Primitive(primitive) => primitive_name(primitive),
        Type::Struct(fields) => {
            let fields: Vec<String> = fields.fields().iter().map(|f| format!("{}:{}", f.name, full_name(&f.field_type))).collect();
            format!("struct<{}>", fields.join(","))
        }
        Type::List(list) => format!("array<{}>", full_name(&list.element_field.field_type)),
        Type::Map(map) => format!("map<{},{}>", full_name(&map.key_field.field_type), full_name(&map.value_field.field_type)),
    }
}

fn primitive_name(primitive: &PrimitiveType) -> String {
    match primitive {
        PrimitiveType::Long => "bigint".to_owned(),
        PrimitiveType::Time | PrimitiveType::String | PrimitiveType::Uuid => "string".to_owned(),
        PrimitiveType::Timestamp | PrimitiveType::Timestamptz | PrimitiveType::TimestampNs | PrimitiveType::TimestamptzNs => {
            "timestamp".to_owned()
        }
        PrimitiveType::Fixed(_) | PrimitiveType::Binary => "binary".to_owned(),
        PrimitiveType::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceberg::spec::{ListType, StructType};
    use std::sync::Arc;

    #[test]
    fn types_are_those_of_hive() {
        let primitive = |primitive| Arc::new(NestedField::optional(2, "at", Type::Primitive(primitive)));
        let fields = StructType::new(vec![primitive(PrimitiveType::Timestamptz), primitive(PrimitiveType::Long)]);
        let element = NestedField::list_element(1, Type::Struct(fields), false);
        assert_eq!(type_name(&Type::List(ListType::new(Arc::new(element)))), "array<struct<at:timestamp,at:bigint>>");
        let names: Vec<String> = [
            PrimitiveType::Int,
            PrimitiveType::Boolean,
            PrimitiveType::Double,
            PrimitiveType::Decimal { precision: 9, scale: 2 },
            PrimitiveType::Date,
        ]
        .iter()
        .map(primitive_name)
        .collect();
        assert_eq!(names, ["int", "boolean", "double", "decimal(9,2)", "date"]);
    }
}
