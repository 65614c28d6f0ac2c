//! Partitions: from `partition_regex` to a partition spec, and from a batch to the tuples its rows belong to. Pure.

use crate::naming;
use crate::parquet::labels::Rows;
use crate::parquet::partition;
use crate::partition::{NOW, Placeholder, Token, What, malformed, parse};
use crate::transform::{Transform, bucket, since_1970, truncate};
use crate::{Error, Kind, Result, TableSpec};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow::row::{RowConverter, SortField};
use iceberg::spec::{
    Literal, PartitionSpec, Schema, StructType, TableMetadata, Transform as IcebergTransform, UnboundPartitionField, UnboundPartitionSpec,
};
use std::collections::HashMap;
use std::sync::Arc;

/// The column that stands for the time of ingest.
const INGESTED: &str = "_olake_timestamp";

/// A partition field that the catalog file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedField {
    /// Name of the column.
    pub(crate) column: String,
    /// Its transform.
    pub(crate) transform: Transform,
}

/// The fields that `spec.partition_regex` asks for. Both grammars are understood: a text placeholder with a granularity is the transform of
/// that granularity. What stands around placeholders is for folders and has no meaning here.
pub(crate) fn wanted(spec: &TableSpec) -> Result<Vec<WantedField>> {
    let mut fields: Vec<WantedField> = Vec::new();
    for token in parse(&spec.partition_regex)? {
        let Token::Placeholder(placeholder) = token else { continue };
        let transform = transform(spec, &placeholder)?;
        let column = column(spec, &placeholder)?;
        let data_type = column.data_type();
        if !transform.takes(data_type) {
            let message = format!("placeholder `{}`: a column of type {data_type} cannot take the transform {transform}", placeholder.text);
            return Err(malformed(&spec.partition_regex, message).hint("name another column, or another transform"));
        }
        let field = WantedField { column: column.name().clone(), transform };
        // Of several parts of one time the finest says it all, and Iceberg allows only one.
        match fields
            .iter_mut()
            .find(|other| other.column == field.column && (other.transform == transform || both_of_time(other.transform, transform)))
        {
            Some(other) if fineness(other.transform) < fineness(transform) => other.transform = transform,
            Some(_) => {}
            None => fields.push(field),
        }
    }
    Ok(fields)
}

fn transform(spec: &TableSpec, placeholder: &Placeholder) -> Result<Transform> {
    let What::Text { granularity, .. } = &placeholder.what else {
        let What::Field(transform) = placeholder.what else { unreachable!("one or the other") };
        return Ok(transform);
    };
    Ok(match granularity.to_ascii_uppercase().as_str() {
        "" => Transform::Identity,
        "YYYY" => Transform::Year,
        "MM" => Transform::Month,
        "DD" => Transform::Day,
        "HH" => Transform::Hour,
        other => {
            return Err(malformed(
                &spec.partition_regex,
                format!("placeholder `{}`: Iceberg has no transform for {other:?}", placeholder.text),
            )
            .hint("partition by {column, year}, {column, month}, {column, day} or {column, hour}"));
        }
    })
}

fn column<'s>(spec: &'s TableSpec, placeholder: &Placeholder) -> Result<&'s Field> {
    let name = match placeholder.column.as_str() {
        NOW => INGESTED,
        name => spec.partition_names.get(name).map_or(name, String::as_str),
    };
    let mut fields = spec.schema.fields().iter().chain(&spec.partition_only);
    fields.find(|field| field.name() == name).map(AsRef::as_ref).ok_or_else(|| {
        let text = &placeholder.text;
        malformed(&spec.partition_regex, format!("placeholder `{text}` names a column that the table does not have"))
            .hint(format!("now() is the column {INGESTED}; select the column, or name another one"))
    })
}

fn fineness(transform: Transform) -> u8 {
    match transform {
        Transform::Year => 1,
        Transform::Month => 2,
        Transform::Day => 3,
        Transform::Hour => 4,
        _ => 0,
    }
}

fn both_of_time(a: Transform, b: Transform) -> bool {
    fineness(a) > 0 && fineness(b) > 0
}

/// The spec with these fields. A field whose name is that of a column which it is not, or of another field, gets another.
pub(crate) fn unbound(fields: &[WantedField], schema: &Schema) -> Result<UnboundPartitionSpec> {
    let mut builder = UnboundPartitionSpec::builder();
    let mut names: Vec<String> = Vec::new();
    for field in fields {
        let source =
            schema.field_id_by_name(&field.column).ok_or_else(|| Error::new(Kind::Bug, format!("no field for {}", field.column)))?;
        let mut name = avro_name(&field.transform.field_name(&field.column));
        let is_its_own = |name: &str| field.transform == Transform::Identity && name == field.column;
        while names.contains(&name) || schema.field_id_by_name(&name).is_some() && !is_its_own(&name) {
            name.push('_');
        }
        names.push(name.clone());
        let built = UnboundPartitionField::builder().source_id(source).name(name).transform(outward(field.transform)).build();
        let invalid = |e: iceberg::Error| Error::new(Kind::Config, format!("the partition fields do not go together: {}", e.message()));
        builder = builder.add_partition_fields([built]).map_err(invalid)?;
    }
    Ok(builder.build())
}

/// A name that Avro takes, in which manifests are written: letters, digits and `_`, the first of them no digit ("Names" in Avro's
/// specification). Others are replaced as Iceberg's own library does it.
fn avro_name(name: &str) -> String {
    let mut result = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            'A'..='Z' | 'a'..='z' | '_' => result.push(c),
            '0'..='9' if !result.is_empty() => result.push(c),
            '0'..='9' => result.extend(['_', c]),
            // By units of UTF-16, as there.
            other => {
                let mut units = [0; 2];
                other.encode_utf16(&mut units).iter().for_each(|unit| result.push_str(&format!("_x{unit:X}")));
            }
        }
    }
    result
}

/// Refuses a table that somebody has partitioned by fields with names that manifests cannot be written with here.
pub(crate) fn check_names(metadata: &TableMetadata) -> Result<()> {
    let names = metadata.partition_specs_iter().flat_map(|spec| spec.fields()).map(|field| field.name.as_str());
    match names.into_iter().find(|name| avro_name(name) != *name) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Schema,
            format!(
                "the table has the partition field {name:?}; accepted are names of letters, digits and _, of which the first is no digit"
            ),
        )
        .hint("rename the partition field with the engine that owns the table, or write into another table")),
    }
}

/// Whether the spec has just these fields.
pub(crate) fn is(spec: &PartitionSpec, fields: &[WantedField], schema: &Schema) -> bool {
    let same = |(has, wanted): (&iceberg::spec::PartitionField, &WantedField)| {
        schema.field_id_by_name(&wanted.column) == Some(has.source_id) && has.transform == outward(wanted.transform)
    };
    spec.fields().len() == fields.len() && spec.fields().iter().zip(fields).all(same)
}

fn outward(transform: Transform) -> IcebergTransform {
    match transform {
        Transform::Identity => IcebergTransform::Identity,
        Transform::Year => IcebergTransform::Year,
        Transform::Month => IcebergTransform::Month,
        Transform::Day => IcebergTransform::Day,
        Transform::Hour => IcebergTransform::Hour,
        Transform::Bucket(buckets) => IcebergTransform::Bucket(buckets),
        Transform::Truncate(width) => IcebergTransform::Truncate(width),
        Transform::Void => IcebergTransform::Void,
    }
}

fn inward(transform: &IcebergTransform) -> Result<Transform> {
    Ok(match transform {
        IcebergTransform::Identity => Transform::Identity,
        IcebergTransform::Year => Transform::Year,
        IcebergTransform::Month => Transform::Month,
        IcebergTransform::Day => Transform::Day,
        IcebergTransform::Hour => Transform::Hour,
        IcebergTransform::Bucket(buckets) => Transform::Bucket(*buckets),
        IcebergTransform::Truncate(width) => Transform::Truncate(*width),
        IcebergTransform::Void => Transform::Void,
        IcebergTransform::Unknown => {
            return Err(Error::new(Kind::Schema, "the table is partitioned by a transform that this program does not know")
                .hint("give the table another partition spec, or load into a new table"));
        }
    })
}

/// A partition's values, in the order of its spec's fields.
pub(crate) type Tuple = Vec<Option<Literal>>;

/// Divides batches of a table's file schema by a partition spec.
#[derive(Debug)]
pub(crate) struct Partitioner {
    fields: Vec<BoundField>,
    /// Types of the tuple's values.
    pub(crate) types: StructType,
}

#[derive(Debug)]
struct BoundField {
    name: String,
    /// The column in the batch; `None` where nobody writes it any more.
    column: Option<usize>,
    transform: Transform,
}

/// One partition of a batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Partition {
    /// Its values.
    pub(crate) tuple: Tuple,
    /// The folder that its files go to; empty for an unpartitioned table.
    pub(crate) folder: String,
}

impl Partitioner {
    /// For batches whose columns are the fields `written` of `schema`.
    pub(crate) fn new(spec: &PartitionSpec, schema: &Schema, written: &[i32]) -> Result<Self> {
        let types = spec
            .partition_type(schema)
            .map_err(|e| Error::new(Kind::Corrupt, format!("the partition spec does not fit the schema: {}", e.message())))?;
        let bind = |field: &iceberg::spec::PartitionField| -> Result<BoundField> {
            let column = written.iter().position(|id| *id == field.source_id);
            Ok(BoundField { name: field.name.clone(), column, transform: inward(&field.transform)? })
        };
        Ok(Self { fields: spec.fields().iter().map(bind).collect::<Result<_>>()?, types })
    }

    /// Whether there is more than one partition.
    pub(crate) fn divides(&self) -> bool {
        !self.fields.is_empty()
    }

    /// The partitions of a batch that has rows, with their rows.
    pub(crate) fn split(&self, batch: &RecordBatch) -> Result<Vec<(Partition, Rows)>> {
        if self.fields.is_empty() {
            return Ok(vec![(Partition { tuple: Vec::new(), folder: String::new() }, Rows::All)]);
        }
        let values: Vec<Option<ArrayRef>> = self.fields.iter().map(|field| field.values(batch)).collect::<Result<_>>()?;
        let mut groups: Vec<(usize, Vec<u32>)> = Vec::new();
        let there: Vec<ArrayRef> = values.iter().flatten().cloned().collect();
        if there.is_empty() {
            return Ok(vec![(self.partition(batch, &values, 0)?, Rows::All)]);
        }
        let broken = |e: arrow::error::ArrowError| Error::new(Kind::Bug, "cannot compare the values of partitions").because(e);
        let converter = RowConverter::new(there.iter().map(|array| SortField::new(array.data_type().clone())).collect()).map_err(broken)?;
        let rows = converter.convert_columns(&there).map_err(broken)?;
        let mut places: HashMap<&[u8], usize> = HashMap::new();
        let mut last: Option<(&[u8], usize)> = None;
        for row in 0..batch.num_rows() {
            let key = rows.row(row).data();
            let place = match last {
                Some((before, place)) if before == key => place,
                _ => *places.entry(key).or_insert_with(|| {
                    groups.push((row, Vec::new()));
                    groups.len() - 1
                }),
            };
            last = Some((key, place));
            groups[place].1.push(u32::try_from(row).map_err(|_| Error::new(Kind::Bug, "a batch of too many rows"))?);
        }
        if let [(first, _)] = groups[..] {
            return Ok(vec![(self.partition(batch, &values, first)?, Rows::All)]);
        }
        groups
            .into_iter()
            .map(|(first, rows)| Ok((self.partition(batch, &values, first)?, Rows::Picked(UInt32Array::from(rows)))))
            .collect()
    }

    fn partition(&self, batch: &RecordBatch, values: &[Option<ArrayRef>], row: usize) -> Result<Partition> {
        let tuple = values.iter().map(|array| array.as_ref().map_or(Ok(None), |array| literal(array, row))).collect::<Result<_>>()?;
        let mut folder = String::new();
        for field in self.fields.iter().filter(|field| field.transform != Transform::Void) {
            let mut name = String::new();
            naming::escape(&field.name, &mut name);
            name.push('=');
            match field.column {
                Some(column) => name.push_str(partition::field(&batch.column(column).slice(row, 1), field.transform)?.text(0)),
                None => name.push_str("null"),
            }
            if !folder.is_empty() {
                folder.push('/');
            }
            folder.push_str(&naming::seal_segment(name, true));
        }
        Ok(Partition { tuple, folder })
    }
}

impl BoundField {
    fn values(&self, batch: &RecordBatch) -> Result<Option<ArrayRef>> {
        let Some(column) = self.column.map(|column| batch.column(column)) else { return Ok(None) };
        Ok(match self.transform {
            Transform::Void => None,
            Transform::Identity => Some(column.clone()),
            Transform::Bucket(buckets) => Some(Arc::new(bucket(column, buckets)?)),
            Transform::Truncate(width) => Some(truncate(column, width)?),
            time => Some(since_1970(column, time)?),
        })
    }
}

/// One value as Iceberg's library has it.
fn literal(array: &ArrayRef, row: usize) -> Result<Option<Literal>> {
    if array.is_null(row) {
        return Ok(None);
    }
    Ok(Some(match array.data_type() {
        DataType::Boolean => Literal::bool(array.as_boolean().value(row)),
        DataType::Int32 => Literal::int(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => Literal::long(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => Literal::float(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => Literal::double(array.as_primitive::<Float64Type>().value(row)),
        DataType::Date32 => Literal::date(array.as_primitive::<Date32Type>().value(row)),
        DataType::Time64(_) => Literal::time(array.as_primitive::<Time64MicrosecondType>().value(row)),
        DataType::Timestamp(_, zone) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            if zone.is_some() { Literal::timestamptz(micros) } else { Literal::timestamp(micros) }
        }
        DataType::Decimal128(..) => Literal::decimal(array.as_primitive::<Decimal128Type>().value(row)),
        DataType::Utf8 => Literal::string(array.as_string::<i32>().value(row)),
        DataType::Binary => Literal::binary(array.as_binary::<i32>().value(row).to_vec()),
        DataType::FixedSizeBinary(16) => Literal::uuid(
            uuid::Uuid::from_slice(array.as_fixed_size_binary().value(row))
                .map_err(|e| Error::new(Kind::Bug, "16 bytes are a UUID").because(e))?,
        ),
        DataType::FixedSizeBinary(_) => Literal::fixed(array.as_fixed_size_binary().value(row).to_vec()),
        other => return Err(Error::new(Kind::Bug, format!("no partition value of type {other}"))),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Schema as ArrowSchema, TimeUnit};
    use iceberg::spec::{NestedField, PrimitiveType, Type};

    fn spec(regex: &str) -> TableSpec {
        let at = Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true);
        let schema = ArrowSchema::new(vec![Field::new("id", DataType::Int64, false), Field::new("city", DataType::Utf8, true), at]);
        TableSpec { schema: Arc::new(schema), partition_regex: regex.into(), ..TableSpec::default() }
    }

    #[test]
    fn names_of_partition_fields_are_those_that_avro_takes() {
        let names = ["a_1", "na me", "1st", "größe", "😀", ""].map(avro_name);
        assert_eq!(names, ["a_1", "na_x20me", "_1st", "gr_xF6_xDFe", "_xD83D_xDE00", ""]);
        let column = |id: i32, name: &str| NestedField::optional(id, name, Type::Primitive(PrimitiveType::String)).into();
        let schema = Schema::builder().with_fields([column(1, "a b"), column(2, "a_x20b"), column(3, "c")]).build().expect("schema");
        let field = |column: &str, transform| WantedField { column: column.to_owned(), transform };
        let wanted = [field("a b", Transform::Identity), field("a_x20b", Transform::Identity), field("c", Transform::Identity)];
        let spec = unbound(&wanted, &schema).expect("spec");
        let names: Vec<&str> = spec.fields().iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["a_x20b_", "a_x20b", "c"]);
    }

    #[test]
    fn expressions_become_fields() {
        let fields =
            |regex| wanted(&spec(regex)).map(|fields| fields.iter().map(|f| format!("{} {}", f.column, f.transform)).collect::<Vec<_>>());
        assert_eq!(fields("/{at, day}/{id, bucket[16]}").expect("fields"), ["at day", "id bucket[16]"]);
        assert_eq!(fields("/y={at,,YYYY}/m={at,,MM}/d={at,,DD}/{city,x,}").expect("fields"), ["at day", "city identity"]);
        assert!(fields("").expect("none").is_empty());
        for wrong in ["{city, day}", "{at,,WW}", "{nothing, day}", "{now(), day}"] {
            assert_eq!(fields(wrong).expect_err(wrong).kind(), Kind::Config);
        }
    }

    #[test]
    fn rows_are_divided_by_their_tuples() {
        let schema = Schema::builder()
            .with_fields([
                Arc::new(NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long))),
                Arc::new(NestedField::optional(2, "city", Type::Primitive(PrimitiveType::String))),
                Arc::new(NestedField::optional(3, "at", Type::Primitive(PrimitiveType::Timestamp))),
            ])
            .build()
            .expect("schema");
        let table = spec("/{at, day}/{city, truncate[1]}");
        let bound = unbound(&wanted(&table).expect("fields"), &schema).expect("spec").bind(schema.clone()).expect("bound");
        let partitioner = Partitioner::new(&bound, &schema, &[1, 2, 3]).expect("partitioner");
        let batch = RecordBatch::try_new(
            table.schema.clone(),
            vec![
                Arc::new(Int64Array::from(vec![1, 2, 3, 4])),
                Arc::new(StringArray::from(vec![Some("ab"), Some("ac"), None, Some("ad")])),
                Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), Some(-2), Some(0), None])),
            ],
        )
        .expect("batch");
        let parts = partitioner.split(&batch).expect("split");
        let shown: Vec<_> = parts.iter().map(|(p, rows)| (p.folder.as_str(), rows.of(&batch).expect("rows").num_rows())).collect();
        assert_eq!(
            shown,
            [
                ("at_day=1969-12-31/city_trunc=a", 2),
                ("at_day=1970-01-01/city_trunc=__HIVE_DEFAULT_PARTITION__", 1),
                ("at_day=__HIVE_DEFAULT_PARTITION__/city_trunc=a", 1)
            ]
        );
        assert_eq!(parts[0].0.tuple, [Some(Literal::date(-1)), Some(Literal::string("a"))]);
    }
}
