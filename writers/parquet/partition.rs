//! Partition expressions: from a batch to the folders its rows belong in.
//!
//! Both dialects of [`crate::partition`]. A `{column, 'default', granularity}` is a text in a folder's name, for example
//! `/year={created_at,,YYYY}/m={created_at,,MM}`; the granularity is `YYYY`, `MM`, `WW` (ISO week), `DD`, `HH`, in UTC, or nothing
//! for the value itself; whole numbers of 64 bits are seconds since 1970. The column `now()` is the time of ingest. A row without a value (NULL, empty
//! text, text that holds no timestamp where one is needed) goes to the default, or to `default_<column>`. A `{column, transform}` is a
//! folder `<field>=<value>` as Iceberg and Hive name it: `/created_at_day=2024-02-29`, NULL as `__HIVE_DEFAULT_PARTITION__`.
//!
//! Unlike OLake, a malformed placeholder is an error and not an empty name, and values are escaped, so
//! that a `/` in a value makes no folder. Pure: knows no files, and not how partitions are written.

use super::labels::{Form, Groups, Labels, Rows, is_instant, is_text};
use crate::TableSpec;
use crate::error::Result;
use crate::naming;
use crate::partition::{GRAMMAR, NOW, Placeholder, Token, What, malformed, parse};
use crate::transform::{Transform, bucket, truncate};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, FieldRef};
use chrono::{DateTime, Utc};
use std::sync::Arc;

/// What Hive calls the folder of rows without a value.
const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// A parsed `partition_regex`, bound to the columns of one table.
#[derive(Clone, Debug)]
pub(crate) struct PartitionExpression {
    folders: Vec<Vec<Piece>>,
}

/// A part of a folder's name.
#[derive(Clone, Debug)]
enum Piece {
    Literal(String),
    Now(Form),
    Column { index: usize, default: String, form: Form },
    Field { index: usize, transform: Transform },
}

impl PartitionExpression {
    /// Reads the expression of `spec`. `None` when it names no folder (empty, or only slashes).
    pub(crate) fn parse(spec: &TableSpec) -> Result<Option<Self>> {
        let regex = spec.partition_regex.as_str();
        let mut folders: Vec<Vec<Piece>> = vec![Vec::new()];
        for token in parse(regex)? {
            let folder = folders.last_mut().expect("never empty");
            match token {
                Token::Slash => folders.push(Vec::new()),
                Token::Literal(text) => folder.push(Piece::Literal(text)),
                Token::Placeholder(placeholder) => bind(spec, &placeholder, folder)?,
            }
        }
        folders.retain(|folder| !folder.is_empty());
        for folder in &folders {
            if let [Piece::Literal(text)] = folder.as_slice()
                && (text == "." || text == "..")
            {
                return Err(malformed(regex, format!("`{text}` cannot be the name of a folder")));
            }
            if folder.iter().filter(|piece| matches!(piece, Piece::Field { .. })).count() > 0 && !is_field(folder) {
                return Err(malformed(regex, "a {column, transform} stands beside something else in a folder's name")
                    .hint("it is a folder of its own: put a / before and after it"));
            }
        }
        Ok(if folders.is_empty() { None } else { Some(Self { folders }) })
    }

    /// The folders that the rows of `batch` belong in: relative paths, escaped, each once, with its
    /// rows. `now` is the time of ingest. The batch has the columns of the table that the expression was parsed for.
    pub(crate) fn paths(&self, batch: &RecordBatch, now: DateTime<Utc>) -> Result<Vec<(String, Rows)>> {
        let mut columns = Vec::new();
        let mut groups = Groups::whole(batch.num_rows());
        for piece in self.folders.iter().flatten() {
            let (index, labels) = match piece {
                Piece::Column { index, default, form } => (*index, Labels::of(batch.column(*index), *form, default)),
                Piece::Field { index, transform } => (*index, field(batch.column(*index), *transform)),
                Piece::Literal(_) | Piece::Now(_) => continue,
            };
            let labels = labels.map_err(|e| e.doing(format!("read partition column {}", batch.schema_ref().field(index).name())))?;
            groups.refine(&labels);
            columns.push(labels);
        }
        let paths: Vec<String> = groups.first_rows().iter().map(|row| self.path(&columns, *row, now)).collect();
        Ok(groups.into_rows(paths))
    }

    /// The path of one row; `columns` are the labels of the column pieces, in their order.
    fn path(&self, columns: &[Labels], row: u32, now: DateTime<Utc>) -> String {
        let mut columns = columns.iter();
        let mut path = String::new();
        for folder in &self.folders {
            let mut name = String::new();
            for piece in folder {
                match piece {
                    Piece::Literal(text) => name.push_str(text),
                    Piece::Column { .. } | Piece::Field { .. } => {
                        name.push_str(columns.next().expect("labels for each column piece").text(row))
                    }
                    Piece::Now(form) => {
                        let mut text = String::new();
                        form.write_instant(now.timestamp_micros(), &mut text);
                        naming::escape(&text, &mut name);
                    }
                }
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(&naming::seal_segment(name, !matches!(folder.first(), Some(Piece::Literal(_)))));
        }
        path
    }
}

/// Whether a folder is one field: the literal `<field>=` and the value.
fn is_field(folder: &[Piece]) -> bool {
    matches!(folder, [Piece::Literal(name), Piece::Field { .. }] if name.ends_with('='))
}

/// Adds to `folder` what a placeholder stands for.
fn bind(spec: &TableSpec, placeholder: &Placeholder, folder: &mut Vec<Piece>) -> Result<()> {
    let Placeholder { text, column, what } = placeholder;
    let regex = spec.partition_regex.as_str();
    match what {
        What::Text { default, granularity } => {
            let form = Form::parse(granularity)
                .ok_or_else(|| malformed(regex, format!("placeholder `{text}` has the granularity {granularity:?}")).hint(GRAMMAR))?;
            if column == NOW {
                folder.push(Piece::Now(form));
                return Ok(());
            }
            let (index, field) = find(spec, placeholder)?;
            refuse_unless(takes(field.data_type(), form), spec, placeholder, field, form == Form::Value)?;
            let default = if default.is_empty() { format!("default_{column}") } else { default.clone() };
            let mut escaped = String::new();
            naming::escape(&default, &mut escaped);
            folder.push(Piece::Column { index, default: escaped, form });
        }
        What::Field(Transform::Void) => {}
        What::Field(transform) => {
            if !folder.is_empty() {
                return Err(malformed(regex, format!("placeholder `{text}` stands beside something else in a folder's name"))
                    .hint("a {column, transform} is a folder of its own: put a / before and after it"));
            }
            let shown = if column == NOW { "now" } else { column };
            let mut name = String::new();
            naming::escape(&transform.field_name(shown), &mut name);
            folder.push(Piece::Literal(naming::seal_segment(name, true) + "="));
            match (column == NOW, form(*transform)) {
                (true, Some(form)) => folder.push(Piece::Now(form)),
                (true, None) => {
                    return Err(malformed(regex, format!("placeholder `{text}`: now() takes year, month, day and hour")).hint(GRAMMAR));
                }
                (false, _) => {
                    let (index, field) = find(spec, placeholder)?;
                    refuse_unless(transform.takes(field.data_type()), spec, placeholder, field, *transform == Transform::Identity)?;
                    folder.push(Piece::Field { index, transform: *transform });
                }
            }
        }
    }
    Ok(())
}

/// The column that a placeholder names, and its place in a batch.
fn find<'s>(spec: &'s TableSpec, placeholder: &Placeholder) -> Result<(usize, &'s FieldRef)> {
    let Placeholder { text, column, .. } = placeholder;
    let fields = || spec.schema.fields().iter().chain(&spec.partition_only);
    let wanted = spec.partition_names.get(column).unwrap_or(column);
    fields().enumerate().find(|(_, field)| field.name() == wanted).ok_or_else(|| {
        let columns: Vec<&str> = fields().map(|f| f.name().as_str()).collect();
        malformed(&spec.partition_regex, format!("placeholder `{text}` names a column that the table does not have"))
            .hint(format!("its columns are {}; now() is the time of ingest", columns.join(", ")))
    })
}

fn refuse_unless(fits: bool, spec: &TableSpec, placeholder: &Placeholder, field: &FieldRef, value: bool) -> Result<()> {
    if fits {
        return Ok(());
    }
    let (text, data_type) = (&placeholder.text, field.data_type());
    let (what, accepted) = match (&placeholder.what, value) {
        (_, true) => ("partition".to_owned(), "a number, a boolean, text, a date, a time, a timestamp or a uuid"),
        (What::Text { .. }, false) => {
            ("take a granularity".to_owned(), "a date, a timestamp, text that holds one, or seconds since 1970 of type integer")
        }
        (What::Field(transform), false) => (
            format!("take the transform {transform}"),
            match transform {
                Transform::Bucket(_) => "a whole number, a decimal, text, bytes, a date, a time, a timestamp or a uuid",
                Transform::Truncate(_) => "a whole number, a decimal or text",
                Transform::Hour => "a timestamp",
                _ => "a date or a timestamp",
            },
        ),
    };
    Err(malformed(&spec.partition_regex, format!("placeholder `{text}`: a column of type {data_type} cannot {what}"))
        .hint(format!("name a column that is {accepted}")))
}

/// The form of a transform that is about the calendar.
fn form(transform: Transform) -> Option<Form> {
    match transform {
        Transform::Year => Some(Form::Year),
        Transform::Month => Some(Form::ToMonth),
        Transform::Day => Some(Form::ToDay),
        Transform::Hour => Some(Form::ToHour),
        _ => None,
    }
}

/// The values of a partition field, as text.
pub(crate) fn field(column: &ArrayRef, transform: Transform) -> Result<Labels> {
    let form = form(transform).unwrap_or(Form::Value);
    match transform {
        Transform::Bucket(buckets) => Labels::of(&(Arc::new(bucket(column, buckets)?) as ArrayRef), form, HIVE_NULL),
        Transform::Truncate(width) => Labels::of(&truncate(column, width)?, form, HIVE_NULL),
        _ => Labels::of(column, form, HIVE_NULL),
    }
}

fn takes(data_type: &DataType, form: Form) -> bool {
    match form {
        Form::Value => is_text(data_type) || is_instant(data_type) || is_plain(data_type),
        _ => is_text(data_type) || is_instant(data_type) || *data_type == DataType::Int64,
    }
}

/// Types whose display form is unambiguous.
fn is_plain(data_type: &DataType) -> bool {
    use DataType::{Boolean, FixedSizeBinary, Time32, Time64};
    data_type.is_numeric() || matches!(data_type, Boolean | Time32(_) | Time64(_) | FixedSizeBinary(16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use arrow::array::{ArrayRef, Date32Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Int32Type, Schema, TimeUnit};
    use std::sync::Arc;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).expect("batch")
    }

    fn expression(regex: &str, schema: &Schema) -> Result<Option<PartitionExpression>> {
        let schema = Arc::new(schema.clone());
        let spec = TableSpec { schema, partition_regex: regex.into(), ..TableSpec::default() };
        PartitionExpression::parse(&spec)
    }

    fn rows(rows: &Rows, count: usize) -> Vec<u32> {
        match rows {
            Rows::All => (0..count as u32).collect(),
            Rows::Run { offset, length } => (*offset as u32..(offset + length) as u32).collect(),
            Rows::Picked(indices) => indices.values().to_vec(),
        }
    }

    fn check(regex: &str, batch: &RecordBatch, expected: &[(&str, &[u32])]) {
        let now = DateTime::from_timestamp_micros(1_709_210_096_000_000).expect("2024-02-29 12:34:56");
        let expression = expression(regex, batch.schema_ref()).expect(regex).expect("names folders");
        let found = expression.paths(batch, now).expect("paths");
        let found: Vec<(&str, Vec<u32>)> = found.iter().map(|(path, r)| (path.as_str(), rows(r, batch.num_rows()))).collect();
        let expected: Vec<(&str, Vec<u32>)> = expected.iter().map(|(path, r)| (*path, r.to_vec())).collect();
        assert_eq!(found, expected, "{regex}");
    }

    #[test]
    fn rows_go_where_their_values_say() {
        let days = Date32Array::from(vec![Some(0), Some(59), None, Some(0), Some(-1)]);
        let names = StringArray::from(vec![Some("a/b"), Some(""), Some("x"), Some("a/b"), None]);
        let b = batch(vec![("day", Arc::new(days)), ("name", Arc::new(names))]);
        check(
            "/year={day,,YYYY}/m={day,,MM}",
            &b,
            &[("year=1970/m=01", &[0, 3]), ("year=1970/m=03", &[1]), ("year=default_day/m=default_day", &[2]), ("year=1969/m=12", &[4])],
        );
        check("{name, 'none', }", &b, &[("a%2Fb", &[0, 3]), ("none", &[1, 4]), ("x", &[2])]);
        check(
            "{name,,}/{day,'no, day}',}",
            &b,
            &[("a%2Fb/1970-01-01", &[0, 3]), ("default_name/1970-03-01", &[1]), ("x/no, day%7D", &[2]), ("default_name/1969-12-31", &[4])],
        );
        check("all//rows/", &b, &[("all/rows", &[0, 1, 2, 3, 4])]);
        check("{now(),,yyyy}-w{now(),,WW}/{now(),,DD}T{now(),,HH}", &b, &[("2024-w09/29T12", &[0, 1, 2, 3, 4])]);
    }

    #[test]
    fn a_value_and_the_default_may_share_a_folder() {
        let b = batch(vec![("n", Arc::new(StringArray::from(vec![None, Some("default_n"), Some("z")])))]);
        check("{n,,}", &b, &[("default_n", &[0, 1]), ("z", &[2])]);
    }

    #[test]
    fn an_empty_batch_has_no_folder() {
        check("{n,,}", &batch(vec![("n", Arc::new(Int64Array::from(Vec::<i64>::new())))]), &[]);
    }

    #[test]
    fn text_that_holds_timestamps_takes_a_granularity() {
        let text = StringArray::from(vec!["2023-12-31T23:30:00-01:00", "2023-12-31", "soon"]);
        check("{t,,YYYY}", &batch(vec![("t", Arc::new(text))]), &[("2024", &[0]), ("2023", &[1]), ("default_t", &[2])]);
    }

    #[test]
    fn whole_numbers_are_seconds_where_a_granularity_is_asked_for() {
        let seconds = Int64Array::from(vec![Some(0), Some(-1), Some(1_709_210_096), None]);
        check(
            "{t,,YYYY}-{t,,MM}",
            &batch(vec![("t", Arc::new(seconds))]),
            &[("1970-01", &[0]), ("1969-12", &[1]), ("2024-02", &[2]), ("default_t-default_t", &[3])],
        );
    }

    #[test]
    fn partition_fields_are_named_as_iceberg_does() {
        let at = TimestampMicrosecondArray::from(vec![Some(0), Some(-1), None, Some(1_709_210_096_000_000)]).with_timezone("UTC");
        let id = Int64Array::from(vec![Some(34), Some(-1), None, Some(34)]);
        let name = StringArray::from(vec![Some("a/b"), Some("null"), None, Some("a/c")]);
        let b = batch(vec![("at", Arc::new(at)), ("id", Arc::new(id)), ("name", Arc::new(name))]);
        let null = "__HIVE_DEFAULT_PARTITION__";
        check(
            "/{at, year}/{at,month}/{at, day}/{at, hour}",
            &b,
            &[
                ("at_year=1970/at_month=1970-01/at_day=1970-01-01/at_hour=1970-01-01-00", &[0]),
                ("at_year=1969/at_month=1969-12/at_day=1969-12-31/at_hour=1969-12-31-23", &[1]),
                (&format!("at_year={null}/at_month={null}/at_day={null}/at_hour={null}"), &[2]),
                ("at_year=2024/at_month=2024-02/at_day=2024-02-29/at_hour=2024-02-29-12", &[3]),
            ],
        );
        // The hash of 34 is 2017239379.
        check("{id, bucket[16]}", &b, &[("id_bucket=3", &[0, 3]), ("id_bucket=8", &[1]), (&format!("id_bucket={null}"), &[2])]);
        check("/{id, truncate[10]}", &b, &[("id_trunc=30", &[0, 3]), ("id_trunc=-10", &[1]), (&format!("id_trunc={null}"), &[2])]);
        check("/{name, truncate[2]}", &b, &[("name_trunc=a%2F", &[0, 3]), ("name_trunc=nu", &[1]), (&format!("name_trunc={null}"), &[2])]);
        check(
            "/{name, identity}/",
            &b,
            &[("name=a%2Fb", &[0]), ("name=null", &[1]), (&format!("name={null}"), &[2]), ("name=a%2Fc", &[3])],
        );
        check("/{name, void}/{now(), day}", &b, &[("now_day=2024-02-29", &[0, 1, 2, 3])]);
    }

    #[test]
    fn columns_that_are_not_written_partition_as_well() {
        let schema = Arc::new(Schema::new(vec![Field::new("data", DataType::Utf8, true)]));
        let spec = TableSpec {
            schema,
            partition_only: vec![Arc::new(Field::new("made at", DataType::Date32, true))],
            partition_names: [("Made At".to_owned(), "made at".to_owned())].into(),
            partition_regex: "/{Made At,,YYYY}/{made at, month}".into(),
            ..TableSpec::default()
        };
        let b = batch(vec![("data", Arc::new(StringArray::from(vec!["x"]))), ("made at", Arc::new(Date32Array::from(vec![0])))]);
        let found = PartitionExpression::parse(&spec).expect("parse").expect("folders").paths(&b, DateTime::UNIX_EPOCH).expect("paths");
        assert_eq!(found[0].0, "1970/made at_month=1970-01");
    }

    #[test]
    fn nothing_named_is_no_partition() {
        for regex in ["", "  ", "/", "//"] {
            assert!(expression(regex, &Schema::empty()).expect(regex).is_none());
        }
    }

    #[test]
    fn mistakes_are_named() {
        let list = Field::new_list_field(DataType::Int64, true);
        let schema = Schema::new(vec![
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
            Field::new("n", DataType::Int64, true),
            Field::new("small", DataType::Int32, true),
            Field::new("tags", DataType::List(Arc::new(list)), true),
            Field::new("blob", DataType::Binary, true),
        ]);
        let check = |regex: &str, expected: &str| {
            let error = expression(regex, &schema).expect_err(regex);
            assert_eq!(error.kind(), Kind::Config);
            let text = format!("{error}; {}", error.advice().unwrap_or_default());
            assert!(text.contains(expected), "{regex}: {text}");
        };
        check("{at}", "`{at}` has 1 parts instead of 3 or 2");
        check("/{at, YYYY}", "`{at, YYYY}` has the transform \"YYYY\"");
        check("/{n, day}", "a column of type Int64 cannot take the transform day");
        check("/{tags, bucket[4]}", "cannot take the transform bucket[4]");
        check("/x{at, day}", "stands beside something else");
        check("/{at, day}x", "stands beside something else");
        check("/{at, day}{at, hour}", "stands beside something else");
        check("/{now(), bucket[4]}", "now() takes year, month, day and hour");
        check("{at,,DAY}", "granularity \"DAY\"");
        check("{at,,YYYY", "no closing brace");
        check("a}", "outside of a placeholder");
        check("a\\b", "outside of a placeholder");
        check("{created,,YYYY}", "its columns are at, n, small, tags, blob; now()");
        check("{small,,YYYY}", "a column of type Int32 cannot take a granularity");
        check("{tags,,}", "cannot partition");
        check("{blob,,}", "cannot partition");
        check("../{n,,}", "cannot be the name of a folder");
    }

    #[test]
    fn every_unit_and_zone_is_read_in_utc() {
        use arrow::array::{TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray};
        let at = 1_704_067_199_i64; // 2023-12-31 23:59:59
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(TimestampSecondArray::from(vec![at])),
            Arc::new(TimestampMillisecondArray::from(vec![at * 1_000]).with_timezone("+09:00")),
            Arc::new(TimestampMicrosecondArray::from(vec![at * 1_000_000]).with_timezone("UTC")),
            Arc::new(TimestampNanosecondArray::from(vec![at * 1_000_000_000])),
        ];
        for array in arrays {
            check("{t,,YYYY}{t,,MM}{t,,DD}{t,,HH}w{t,,WW}", &batch(vec![("t", array)]), &[("2023123123w52", &[0])]);
        }
    }

    #[test]
    fn values_of_all_kinds_are_written_plainly() {
        use arrow::array::{BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float64Array, StringArray};
        let uuid = FixedSizeBinaryArray::try_from_iter([[0x12u8; 16]].into_iter()).expect("uuid");
        let columns: Vec<(&str, ArrayRef, &str)> = vec![
            ("i", Arc::new(Int64Array::from(vec![-7])), "-7"),
            ("b", Arc::new(BooleanArray::from(vec![true])), "true"),
            ("f", Arc::new(Float64Array::from(vec![1.5])), "1.5"),
            ("d", Arc::new(Decimal128Array::from(vec![1250]).with_precision_and_scale(12, 2).expect("decimal")), "12.50"),
            ("u", Arc::new(uuid), "12121212-1212-1212-1212-121212121212"),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![-1])), "1969-12-31 23%3A59%3A59.999999"),
            ("s", Arc::new(StringArray::from(vec!["_.."])), "%5F.."),
            ("y", Arc::new(arrow::array::DictionaryArray::<Int32Type>::from_iter(["q"])), ""),
        ];
        for (name, array, expected) in columns {
            let regex = format!("{{{name},,}}");
            let b = batch(vec![(name, array)]);
            if expected.is_empty() {
                assert!(expression(&regex, b.schema_ref()).is_err(), "{name}");
            } else {
                check(&regex, &b, &[(expected, &[0])]);
            }
        }
    }
}
