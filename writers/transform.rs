//! Iceberg's partition transforms: what becomes of a value, exactly as the specification has it ("Partition Transforms",
//! "Appendix B: 32-bit Hash Requirements").
//!
//! Pure: arrays in, values out. Knows neither folders nor manifests.

use crate::error::{Error, Kind, Result};
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, StringArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType,
};
use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

/// A partition transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transform {
    /// The value.
    Identity,
    /// Years since 1970.
    Year,
    /// Months since 1970-01.
    Month,
    /// Days since 1970-01-01.
    Day,
    /// Hours since 1970-01-01 00:00.
    Hour,
    /// A hash of the value, modulo N.
    Bucket(u32),
    /// The value cut to a width.
    Truncate(u32),
    /// Always NULL.
    Void,
}

impl Transform {
    /// Reads a transform's name, in any case; a parameter stands in brackets.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let parameter = |name: &str| {
            let inner = text.strip_prefix(name)?.trim_start().strip_prefix('[')?.strip_suffix(']')?;
            // The specification's parameters are positive 32-bit numbers.
            inner.trim().parse::<u32>().ok().filter(|n| (1..=i32::MAX as u32).contains(n))
        };
        Some(match text.as_str() {
            "identity" => Self::Identity,
            "year" | "years" => Self::Year,
            "month" | "months" => Self::Month,
            "day" | "days" | "date" => Self::Day,
            "hour" | "hours" => Self::Hour,
            "void" => Self::Void,
            _ => match (parameter("bucket"), parameter("truncate")) {
                (Some(buckets), _) => Self::Bucket(buckets),
                (_, Some(width)) => Self::Truncate(width),
                _ => return None,
            },
        })
    }

    /// Whether values of this type can be transformed.
    pub(crate) fn takes(self, data_type: &DataType) -> bool {
        use DataType::{
            Binary, Boolean, Date32, Decimal128, FixedSizeBinary, Float32, Float64, Int16, Int32, Int64, Time64, Timestamp, Utf8,
        };
        let micros = matches!(data_type, Timestamp(TimeUnit::Microsecond, _));
        let whole = matches!(data_type, Int16 | Int32 | Int64 | Decimal128(..));
        match self {
            Self::Void => true,
            Self::Identity => {
                whole || micros || matches!(data_type, Boolean | Float32 | Float64 | Date32 | Time64(_) | Utf8 | FixedSizeBinary(16))
            }
            Self::Year | Self::Month | Self::Day => micros || *data_type == Date32,
            Self::Hour => micros,
            Self::Bucket(_) => {
                whole || micros || matches!(data_type, Date32 | Time64(TimeUnit::Microsecond) | Utf8 | Binary | FixedSizeBinary(16))
            }
            Self::Truncate(_) => whole || *data_type == Utf8,
        }
    }

    /// What the partition field of a column is called, as Iceberg's own libraries call it.
    pub(crate) fn field_name(self, column: &str) -> String {
        let suffix = match self {
            Self::Identity => return column.to_owned(),
            Self::Year => "year",
            Self::Month => "month",
            Self::Day => "day",
            Self::Hour => "hour",
            Self::Bucket(_) => "bucket",
            Self::Truncate(_) => "trunc",
            Self::Void => "null",
        };
        format!("{column}_{suffix}")
    }
}

impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::Year => f.write_str("year"),
            Self::Month => f.write_str("month"),
            Self::Day => f.write_str("day"),
            Self::Hour => f.write_str("hour"),
            Self::Bucket(buckets) => write!(f, "bucket[{buckets}]"),
            Self::Truncate(width) => write!(f, "truncate[{width}]"),
            Self::Void => f.write_str("void"),
        }
    }
}

/// The bucket of each row, below `buckets`; NULL stays NULL.
pub(crate) fn bucket(column: &ArrayRef, buckets: u32) -> Result<PrimitiveArray<Int32Type>> {
    let of = |hash: u32| ((hash & 0x7FFF_FFFF) % buckets).cast_signed();
    let long = |value: i64| hash(&value.to_le_bytes()).map(of);
    let bytes = |value: &[u8]| hash(value).map(of);
    match column.data_type() {
        DataType::Int16 => each::<Int16Type>(column, |value| long(value.into())),
        DataType::Int32 => each::<Int32Type>(column, |value| long(value.into())),
        DataType::Int64 => each::<Int64Type>(column, long),
        DataType::Date32 => each::<Date32Type>(column, |value| long(value.into())),
        DataType::Time64(TimeUnit::Microsecond) => each::<Time64MicrosecondType>(column, long),
        DataType::Timestamp(TimeUnit::Microsecond, _) => each::<TimestampMicrosecondType>(column, long),
        DataType::Decimal128(..) => each::<Decimal128Type>(column, |value| bytes(minimal(&value.to_be_bytes()))),
        DataType::Utf8 => column.as_string::<i32>().iter().map(|value| value.map(|v| bytes(v.as_bytes())).transpose()).collect(),
        DataType::Binary => column.as_binary::<i32>().iter().map(|value| value.map(bytes).transpose()).collect(),
        DataType::FixedSizeBinary(_) => column.as_fixed_size_binary().iter().map(|value| value.map(bytes).transpose()).collect(),
        other => Err(Error::new(Kind::Bug, format!("no bucket for a column of type {other}"))),
    }
}

/// The column cut to `width`: numbers to the multiple of it below them, text to its first characters.
pub(crate) fn truncate(column: &ArrayRef, width: u32) -> Result<ArrayRef> {
    // Near the end of the type's range there is no multiple below; the specification's own arithmetic wraps there.
    fn cut<T: ArrowPrimitiveType>(column: &ArrayRef, cut: impl Fn(T::Native) -> T::Native) -> ArrayRef {
        Arc::new(column.as_primitive::<T>().unary::<_, T>(cut).with_data_type(column.data_type().clone()))
    }
    let long = i64::from(width);
    Ok(match column.data_type() {
        DataType::Int16 => cut::<Int16Type>(column, |v| (i64::from(v) - i64::from(v).rem_euclid(long)) as i16),
        DataType::Int32 => cut::<Int32Type>(column, |v| (i64::from(v) - i64::from(v).rem_euclid(long)) as i32),
        DataType::Int64 => cut::<Int64Type>(column, |v| v.wrapping_sub(v.rem_euclid(long))),
        DataType::Decimal128(..) => cut::<Decimal128Type>(column, |v| v.wrapping_sub(v.rem_euclid(i128::from(width)))),
        DataType::Utf8 => {
            let first = |text: &str| match text.char_indices().nth(width as usize) {
                Some((end, _)) => text[..end].to_owned(),
                None => text.to_owned(),
            };
            Arc::new(column.as_string::<i32>().iter().map(|value| value.map(first)).collect::<StringArray>())
        }
        other => return Err(Error::new(Kind::Bug, format!("a column of type {other} cannot be truncated"))),
    })
}

/// Years, months, days or hours since 1970, downwards: what is before 1970 is negative (specification, "Partition Transforms").
/// Days are of type `date`, as the specification suggests, the others whole numbers.
pub(crate) fn since_1970(column: &ArrayRef, transform: Transform) -> Result<ArrayRef> {
    let whole = |values: PrimitiveArray<Int32Type>| Arc::new(values) as ArrayRef;
    let number = |value: i64| {
        i32::try_from(value).map_err(|_| Error::new(Kind::Schema, format!("no partition of {transform} can be given for {value}")))
    };
    let days: PrimitiveArray<Int64Type> = match column.data_type() {
        DataType::Date32 => column.as_primitive::<Date32Type>().unary(i64::from),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            column.as_primitive::<TimestampMicrosecondType>().unary(|micros| micros.div_euclid(MICROS_PER_DAY))
        }
        other => return Err(Error::new(Kind::Bug, format!("a column of type {other} has no {transform}"))),
    };
    Ok(match transform {
        Transform::Year => whole(days.try_unary(|day| number(year_and_month(day).0 - 1970))?),
        Transform::Month => whole(days.try_unary(|day| {
            let (year, month) = year_and_month(day);
            number((year - 1970) * 12 + month - 1)
        })?),
        Transform::Day => Arc::new(days.try_unary::<_, Date32Type, Error>(number)?),
        Transform::Hour => match column.data_type() {
            DataType::Timestamp(..) => {
                whole(column.as_primitive::<TimestampMicrosecondType>().try_unary(|micros| number(micros.div_euclid(MICROS_PER_HOUR)))?)
            }
            other => return Err(Error::new(Kind::Bug, format!("a column of type {other} has no hours"))),
        },
        other => return Err(Error::new(Kind::Bug, format!("{other} is not about time"))),
    })
}

const MICROS_PER_DAY: i64 = 86_400_000_000;
const MICROS_PER_HOUR: i64 = 3_600_000_000;

/// Year and month (1 to 12) of a day since 1970 in the proleptic Gregorian calendar, for all days: the calendar repeats every 400
/// years of 146,097 days, counted here from March 1st, so that the day which some years have is the last.
fn year_and_month(day: i64) -> (i64, i64) {
    let day = day + 719_468;
    let (era, within) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (within - within / 1460 + within / 36_524 - within / 146_096) / 365;
    let of_year = within - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month)
}

fn each<T: ArrowPrimitiveType>(column: &ArrayRef, of: impl Fn(T::Native) -> Result<i32>) -> Result<PrimitiveArray<Int32Type>> {
    column.as_primitive::<T>().iter().map(|value| value.map(&of).transpose()).collect()
}

/// Murmur3, x86 variant, 32 bits, seed 0.
fn hash(bytes: &[u8]) -> Result<u32> {
    murmur3::murmur3_32(&mut Cursor::new(bytes), 0).map_err(|e| Error::new(Kind::Bug, "cannot hash a value").because(e))
}

/// The fewest bytes of a big-endian two's-complement number that hold it.
pub(crate) fn minimal(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [first, second, ..] = rest
        && ((*first == 0 && *second < 0x80) || (*first == 0xFF && *second >= 0x80))
    {
        rest = &rest[1..];
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BinaryArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Int32Array, Int64Array};
    use arrow::array::{Time64MicrosecondArray, TimestampMicrosecondArray};

    #[test]
    fn hashes_are_those_of_the_specification() {
        // Specification, Appendix B, "32-bit Hash Requirements", as bucket numbers of the largest bucket count.
        let decimal = Decimal128Array::from(vec![1420]).with_precision_and_scale(9, 2).expect("decimal");
        let uuid = FixedSizeBinaryArray::try_from_iter(std::iter::once(0xf79c3e09_677c_4bbd_a479_3f349cb785e7_u128.to_be_bytes()));
        let cases: [(ArrayRef, i32); 9] = [
            (Arc::new(Int32Array::from(vec![34])), 2_017_239_379),
            (Arc::new(Int64Array::from(vec![34])), 2_017_239_379),
            (Arc::new(decimal), -500_754_589),
            (Arc::new(Date32Array::from(vec![17_486])), -653_330_422),
            (Arc::new(Time64MicrosecondArray::from(vec![81_068_000_000])), -662_762_989),
            (Arc::new(TimestampMicrosecondArray::from(vec![1_510_871_468_000_000])), -2_047_944_441),
            (Arc::new(StringArray::from(vec!["iceberg"])), 1_210_000_089),
            (Arc::new(uuid.expect("uuid")), 1_488_055_340),
            (Arc::new(BinaryArray::from(vec![&[0, 1, 2, 3][..]])), -188_683_207),
        ];
        for (array, hash) in cases {
            let buckets = i32::MAX as u32;
            let expected = (hash & i32::MAX) % i32::MAX;
            assert_eq!(bucket(&array, buckets).expect("hash").value(0), expected, "{}", array.data_type());
            assert!(Transform::Bucket(16).takes(array.data_type()));
        }
    }

    #[test]
    fn numbers_are_cut_downwards() {
        let cut = |values: Vec<Option<i64>>, width| {
            let array: ArrayRef = Arc::new(Int64Array::from(values));
            truncate(&array, width).expect("cut").as_primitive::<Int64Type>().iter().collect::<Vec<_>>()
        };
        assert_eq!(cut(vec![Some(1), Some(-1), Some(10), None], 10), [Some(0), Some(-10), Some(10), None]);
        let decimal: ArrayRef = Arc::new(Decimal128Array::from(vec![1065, -1065]).with_precision_and_scale(9, 2).expect("decimal"));
        let decimal = truncate(&decimal, 50).expect("cut");
        assert_eq!(decimal.as_primitive::<Decimal128Type>().values(), &[1050, -1100]);
        assert_eq!(*decimal.data_type(), DataType::Decimal128(9, 2));
    }

    #[test]
    fn time_is_counted_downwards() {
        let micros: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0, -1, 1_510_871_468_000_000, i64::MAX, i64::MIN]));
        let of = |transform| {
            let counted = since_1970(&micros.slice(0, 3), transform).expect("transform");
            arrow::compute::cast(&counted, &DataType::Int32).expect("int").as_primitive::<Int32Type>().values().to_vec()
        };
        // 2017-11-16T22:31:08, the specification's example.
        assert_eq!(of(Transform::Year), [0, -1, 47]);
        assert_eq!(of(Transform::Month), [0, -1, 574]);
        assert_eq!(of(Transform::Day), [0, -1, 17_486]);
        assert_eq!(of(Transform::Hour), [0, -1, 419_686]);
        assert_eq!(year_and_month(-719_528), (0, 1));
        assert_eq!(year_and_month(-719_529), (-1, 12));
        assert_eq!(year_and_month(19_782), (2024, 2));
        assert_eq!(year_and_month(106_751_991), (294_247, 1));
        assert!(since_1970(&micros, Transform::Year).is_ok());
        assert!(since_1970(&micros, Transform::Hour).is_err(), "2.5 thousand million hours do not fit an int");
    }

    #[test]
    fn text_is_cut_by_characters() {
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("iceberg"), Some("日本語"), Some("ab"), None]));
        let cut = truncate(&text, 2).expect("cut");
        assert_eq!(cut.as_string::<i32>().iter().collect::<Vec<_>>(), [Some("ic"), Some("日本"), Some("ab"), None]);
    }

    #[test]
    fn names_are_read_and_printed() {
        for name in ["identity", "year", "month", "day", "hour", "bucket[16]", "truncate[3]", "void"] {
            assert_eq!(Transform::parse(name).expect(name).to_string(), name);
        }
        assert_eq!(Transform::parse("Bucket [8]"), Some(Transform::Bucket(8)));
        for name in ["", "bucket", "bucket[]", "bucket[0]", "bucket[-1]", "bucket[99999999999]", "truncate", "week"] {
            assert_eq!(Transform::parse(name), None, "{name}");
        }
        assert_eq!(Transform::Bucket(8).field_name("id"), "id_bucket");
    }

    #[test]
    fn minimal_numbers() {
        let check = |value: i128, expected: &[u8]| assert_eq!(minimal(&value.to_be_bytes()), expected, "{value}");
        check(0, &[0]);
        check(127, &[127]);
        check(128, &[0, 128]);
        check(-1, &[255]);
        check(-128, &[128]);
        check(-129, &[255, 127]);
    }
}
