//! Partition expressions: from a batch to the folders its rows belong in.
//!
//! The grammar is OLake's for Parquet: any text with placeholders `{column, 'default', granularity}`,
//! for example `/year={created_at,,YYYY}/m={created_at,,MM}`. The granularity is `YYYY`, `MM`, `WW`
//! (ISO week), `DD`, `HH`, in UTC, or nothing for the value itself; the column `now()` is the time of
//! ingest. A row without a value (NULL, empty text, text that holds no timestamp where one is needed)
//! goes to the default, or to `default_<column>`.
//!
//! Unlike OLake, a malformed placeholder is an error and not an empty name, and values are escaped, so
//! that a `/` in a value makes no folder. Pure: knows no files, and not how partitions are written.

use super::labels::{Form, Groups, Labels, Rows, is_instant, is_text};
use crate::error::{Error, Kind, Result};
use crate::naming;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use chrono::{DateTime, Utc};

/// A parsed `partition_regex`, bound to the columns of one schema.
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
}

impl PartitionExpression {
    /// Reads an expression. `None` when it names no folder (empty, or only slashes).
    pub(crate) fn parse(regex: &str, schema: &Schema) -> Result<Option<Self>> {
        let mut folders: Vec<Vec<Piece>> = vec![Vec::new()];
        let mut rest = regex.trim();
        while let Some(c) = rest.chars().next() {
            if c == '{' {
                let end = closing_brace(rest)
                    .ok_or_else(|| malformed(regex, format!("placeholder `{rest}` has no closing brace")).hint(GRAMMAR))?;
                folders.last_mut().expect("never empty").push(placeholder(regex, &rest[..=end], schema)?);
                rest = &rest[end + 1..];
                continue;
            }
            rest = &rest[c.len_utf8()..];
            match (c, folders.last_mut().expect("never empty")) {
                ('/', _) => folders.push(Vec::new()),
                ('}' | '\\' | '\0'..='\x1f' | '\x7f', _) => {
                    return Err(malformed(regex, format!("{c:?} outside of a placeholder")).hint(GRAMMAR));
                }
                (_, folder) => match folder.last_mut() {
                    Some(Piece::Literal(text)) => text.push(c),
                    _ => folder.push(Piece::Literal(c.into())),
                },
            }
        }
        folders.retain(|folder| !folder.is_empty());
        for folder in &folders {
            if let [Piece::Literal(text)] = folder.as_slice()
                && (text == "." || text == "..")
            {
                return Err(malformed(regex, format!("`{text}` cannot be the name of a folder")));
            }
        }
        Ok(if folders.is_empty() { None } else { Some(Self { folders }) })
    }

    /// The folders that the rows of `batch` belong in: relative paths, escaped, each once, with its
    /// rows. `now` is the time of ingest. The batch has the schema that the expression was parsed with.
    pub(crate) fn paths(&self, batch: &RecordBatch, now: DateTime<Utc>) -> Result<Vec<(String, Rows)>> {
        let mut columns = Vec::new();
        let mut groups = Groups::whole(batch.num_rows());
        for piece in self.folders.iter().flatten() {
            if let Piece::Column { index, default, form } = piece {
                let labels = Labels::of(batch.column(*index), *form, default)
                    .map_err(|e| e.doing(format!("read partition column {}", batch.schema_ref().field(*index).name())))?;
                groups.refine(&labels);
                columns.push(labels);
            }
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
                    Piece::Column { .. } => name.push_str(columns.next().expect("labels for each column piece").text(row)),
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

const GRAMMAR: &str =
    "a placeholder is {column, 'default', granularity}, with both commas; the granularity is YYYY, MM, WW, DD, HH or nothing";

fn malformed(regex: &str, what: String) -> Error {
    Error::new(Kind::Config, format!("partition_regex {regex:?}: {what}"))
}

/// Byte position of the brace that closes the placeholder `text` begins with; quotes protect braces.
fn closing_brace(text: &str) -> Option<usize> {
    let mut quoted = false;
    text.char_indices().find_map(|(position, c)| {
        quoted ^= c == '\'';
        (c == '}' && !quoted).then_some(position)
    })
}

/// Reads `{column, 'default', granularity}`.
fn placeholder(regex: &str, text: &str, schema: &Schema) -> Result<Piece> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in text[1..text.len() - 1].chars() {
        match c {
            '\'' => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            _ => parts.last_mut().expect("never empty").push(c),
        }
    }
    let [name, default, granularity] = parts.as_slice() else {
        return Err(malformed(regex, format!("placeholder `{text}` has {} parts instead of 3", parts.len())).hint(GRAMMAR));
    };
    let (name, default, granularity) = (name.trim(), default.trim(), granularity.trim());
    let form = Form::parse(granularity)
        .ok_or_else(|| malformed(regex, format!("placeholder `{text}` has the granularity {granularity:?}")).hint(GRAMMAR))?;
    if name == "now()" {
        return Ok(Piece::Now(form));
    }
    let Ok(index) = schema.index_of(name) else {
        let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        return Err(malformed(regex, format!("placeholder `{text}` names a column that the table does not have"))
            .hint(format!("its columns are {}; now() is the time of ingest", columns.join(", "))));
    };
    let data_type = schema.field(index).data_type();
    let fits = match form {
        Form::Value => is_text(data_type) || is_instant(data_type) || is_plain(data_type),
        _ => is_text(data_type) || is_instant(data_type),
    };
    if !fits {
        let (what, accepted) = match form {
            Form::Value => ("partition", "a number, a boolean, text, a date, a time, a timestamp or a uuid"),
            _ => ("take a granularity", "a date, a timestamp, or text that holds one"),
        };
        return Err(malformed(regex, format!("placeholder `{text}`: a column of type {data_type} cannot {what}"))
            .hint(format!("name a column that is {accepted}")));
    }
    let default = if default.is_empty() { format!("default_{name}") } else { default.to_owned() };
    let mut escaped = String::new();
    naming::escape(&default, &mut escaped);
    Ok(Piece::Column { index, default: escaped, form })
}

/// Types whose display form is unambiguous.
fn is_plain(data_type: &DataType) -> bool {
    use DataType::{Boolean, FixedSizeBinary, Time32, Time64};
    data_type.is_numeric() || matches!(data_type, Boolean | Time32(_) | Time64(_) | FixedSizeBinary(16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Date32Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Int32Type, TimeUnit};
    use std::sync::Arc;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).expect("batch")
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
        let expression = PartitionExpression::parse(regex, batch.schema_ref()).expect(regex).expect("names folders");
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
    fn nothing_named_is_no_partition() {
        for regex in ["", "  ", "/", "//"] {
            assert!(PartitionExpression::parse(regex, &Schema::empty()).expect(regex).is_none());
        }
    }

    #[test]
    fn mistakes_are_named() {
        let list = Field::new_list_field(DataType::Int64, true);
        let schema = Schema::new(vec![
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
            Field::new("n", DataType::Int64, true),
            Field::new("tags", DataType::List(Arc::new(list)), true),
            Field::new("blob", DataType::Binary, true),
        ]);
        let check = |regex: &str, expected: &str| {
            let error = PartitionExpression::parse(regex, &schema).expect_err(regex);
            assert_eq!(error.kind(), Kind::Config);
            let text = format!("{error}; {}", error.advice().unwrap_or_default());
            assert!(text.contains(expected), "{regex}: {text}");
        };
        check("{at}", "`{at}` has 1 parts instead of 3");
        check("/{at, YYYY}", "`{at, YYYY}` has 2 parts");
        check("{at,,DAY}", "granularity \"DAY\"");
        check("{at,,YYYY", "no closing brace");
        check("a}", "outside of a placeholder");
        check("a\\b", "outside of a placeholder");
        check("{created,,YYYY}", "its columns are at, n, tags, blob; now()");
        check("{n,,YYYY}", "a column of type Int64 cannot take a granularity");
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
                assert!(PartitionExpression::parse(&regex, b.schema_ref()).is_err(), "{name}");
            } else {
                check(&regex, &b, &[(expected, &[0])]);
            }
        }
    }
}
