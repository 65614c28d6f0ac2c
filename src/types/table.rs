//! The table of types: how PostgreSQL's types become columns.
//!
//! One block per type says which destination type fits it exactly, into which others it may go without loss, and how
//! its wire form (the type's send function in PostgreSQL's `utils/adt`) is read. A type that is not in the table
//! travels as text, exactly as its output function prints it. Knows nothing of rows and streams.

use super::Select;
use crate::columns::list::list;
use crate::columns::{self as column, Maker};
use crate::config::column_type::{ColumnType, DECIMAL_DIGITS_MAX};
use crate::postgres::catalog::{PgType, TypeKind};
use crate::values::numeric::{Numeric, Shape};
use crate::values::temporal::{date, midnight, time, timestamp};
use crate::values::{Fault, Step, exact_bytes};
use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use std::sync::Arc;

/// How a source type gets into a destination type.
pub(crate) struct Route {
    pub(crate) select: Select,
    pub(crate) column: Maker,
}

/// The way from a type into `wanted`; `None` where there is none without loss.
pub(crate) fn route(ty: &PgType, wanted: &ColumnType) -> Option<Route> {
    (entry(ty).read)(ty, wanted)
}

/// The destination type that alters no value.
pub(crate) fn exact(ty: &PgType) -> ColumnType {
    (entry(ty).exact)(ty)
}

fn plain(column: Maker) -> Option<Route> {
    Some(Route { select: Select::Plain, column })
}

/// The route of text read by `select`, if it is text that is wanted.
fn as_text(wanted: &ColumnType, select: Select) -> Option<Route> {
    wanted.is_text().then(|| Route { select, column: column::text() })
}

/// A plain column of `T`.
fn fixed<T: ArrowPrimitiveType>(
    wanted: &ColumnType,
    read: impl Fn(&[u8]) -> Step<T::Native> + Copy + Send + Sync + 'static,
) -> Option<Route> {
    plain(column::primitive::<T>(wanted.arrow(), read))
}

/// What is known of one source type.
struct Entry {
    /// OIDs (`pg_type.dat`) and names of the built-in types that this block is about; empty for kinds of types.
    types: &'static [(u32, &'static str)],
    exact: fn(&PgType) -> ColumnType,
    read: fn(&PgType, &ColumnType) -> Option<Route>,
}

/// Finds the block of a type.
fn entry(ty: &PgType) -> &'static Entry {
    if ty.element.is_some() {
        return &ARRAY;
    }
    match ty.kind {
        TypeKind::Enum => &ENUM,
        TypeKind::Base => match TABLE.iter().find(|entry| entry.types.iter().any(|(oid, _)| *oid == ty.oid)) {
            Some(entry) => entry,
            None if ty.name == "citext" => &CITEXT,
            None => &OTHER,
        },
        TypeKind::Composite | TypeKind::Range | TypeKind::Other => &OTHER,
    }
}

static TABLE: &[Entry] = &[
    // Boolean.
    Entry {
        types: &[(16, "bool")],
        exact: |_| ColumnType::Boolean,
        read: |_, wanted| match wanted {
            ColumnType::Boolean => plain(column::boolean()),
            _ => as_text(wanted, Select::Output),
        },
    },
    // Integers, big-endian.
    Entry {
        types: &[(21, "int2")],
        exact: |_| ColumnType::Int16,
        read: |_, wanted| match wanted {
            ColumnType::Int16 => fixed::<Int16Type>(wanted, int2),
            ColumnType::Int32 => fixed::<Int32Type>(wanted, |b| int2(b).map(i32::from)),
            ColumnType::Int64 => fixed::<Int64Type>(wanted, |b| int2(b).map(i64::from)),
            ColumnType::Float32 => fixed::<Float32Type>(wanted, |b| int2(b).map(f32::from)),
            ColumnType::Float64 => fixed::<Float64Type>(wanted, |b| int2(b).map(f64::from)),
            _ => whole_decimal(wanted, 5, |b| int2(b).map(i64::from)).or_else(|| as_text(wanted, Select::Text)),
        },
    },
    Entry {
        types: &[(23, "int4")],
        exact: |_| ColumnType::Int32,
        read: |_, wanted| match wanted {
            ColumnType::Int32 => fixed::<Int32Type>(wanted, int4),
            ColumnType::Int64 => fixed::<Int64Type>(wanted, |b| int4(b).map(i64::from)),
            ColumnType::Float64 => fixed::<Float64Type>(wanted, |b| int4(b).map(f64::from)),
            _ => whole_decimal(wanted, 10, |b| int4(b).map(i64::from)).or_else(|| as_text(wanted, Select::Text)),
        },
    },
    Entry {
        types: &[(20, "int8")],
        exact: |_| ColumnType::Int64,
        read: |_, wanted| match wanted {
            ColumnType::Int64 => fixed::<Int64Type>(wanted, int8),
            _ => whole_decimal(wanted, 19, int8).or_else(|| as_text(wanted, Select::Text)),
        },
    },
    // Object identifiers: unsigned, so that 32 signed bits do not hold them.
    Entry {
        types: &[(26, "oid")],
        exact: |_| ColumnType::Int64,
        read: |_, wanted| match wanted {
            ColumnType::Int64 => fixed::<Int64Type>(wanted, oid),
            _ => whole_decimal(wanted, 10, oid).or_else(|| as_text(wanted, Select::Text)),
        },
    },
    // Floating point: bits as they are, negative zero and NaN included.
    Entry {
        types: &[(700, "float4")],
        exact: |_| ColumnType::Float32,
        read: |_, wanted| match wanted {
            ColumnType::Float32 => fixed::<Float32Type>(wanted, |b| Ok(f32::from_be_bytes(exact_bytes(b)?))),
            ColumnType::Float64 => fixed::<Float64Type>(wanted, |b| Ok(f64::from(f32::from_be_bytes(exact_bytes(b)?)))),
            _ => as_text(wanted, Select::Text),
        },
    },
    Entry {
        types: &[(701, "float8")],
        exact: |_| ColumnType::Float64,
        read: |_, wanted| match wanted {
            ColumnType::Float64 => fixed::<Float64Type>(wanted, |b| Ok(f64::from_be_bytes(exact_bytes(b)?))),
            _ => as_text(wanted, Select::Text),
        },
    },
    // Decimals. Those that 38 digits cannot hold are text, digit for digit as the server prints them.
    Entry {
        types: &[(1700, "numeric")],
        exact: |ty| match declared_shape(ty.typmod) {
            Some(Shape { precision, scale }) => ColumnType::Decimal { precision, scale },
            None => ColumnType::String,
        },
        read: |ty, wanted| match *wanted {
            ColumnType::Decimal { precision, scale } => {
                let shape = Shape { precision, scale };
                // Where no decimal holds every value, one may be named; a value that does not fit is then an error.
                let fits = declared_shape(ty.typmod)
                    .is_none_or(|has| scale >= has.scale && precision.saturating_sub(scale) >= has.precision - has.scale);
                fits.then(|| fixed::<Decimal128Type>(wanted, move |b| Numeric::parse(b)?.decimal(shape)))?
            }
            ColumnType::Float64 => fixed::<Float64Type>(wanted, |b| Numeric::parse(b)?.float()),
            _ if wanted.is_text() => plain(column::text_from(|b, out| Numeric::parse(b)?.print(out))),
            _ => None,
        },
    },
    // Text: the characters themselves, in the client's encoding. `bpchar` keeps its blanks, which a cast would drop,
    // and `xml` leaves out the encoding that it was declared with, as the output function does.
    Entry {
        types: &[(25, "text"), (1043, "varchar"), (1042, "bpchar"), (19, "name"), (142, "xml")],
        exact: |_| ColumnType::String,
        read: |_, wanted| match wanted {
            ColumnType::Binary => plain(column::binary()),
            _ => text(wanted),
        },
    },
    // One byte of any value, zero included, which is not always a character; its text is.
    Entry { types: &[(18, "char")], exact: |_| ColumnType::String, read: |_, wanted| as_text(wanted, Select::Text) },
    Entry {
        types: &[(17, "bytea")],
        exact: |_| ColumnType::Binary,
        read: |_, wanted| match wanted {
            ColumnType::Binary => plain(column::binary()),
            _ => as_text(wanted, Select::Text),
        },
    },
    // JSON: text in both; `jsonb_send` puts a version byte before it.
    Entry {
        types: &[(114, "json")],
        exact: |_| ColumnType::Json,
        read: |_, wanted| match wanted {
            ColumnType::Json => plain(column::text()),
            _ => text(wanted),
        },
    },
    Entry {
        types: &[(3802, "jsonb")],
        exact: |_| ColumnType::Json,
        read: |_, wanted| (*wanted == ColumnType::Json || wanted.is_text()).then(|| plain(column::text_from(jsonb)))?,
    },
    Entry {
        types: &[(2950, "uuid")],
        exact: |_| ColumnType::Uuid,
        read: |_, wanted| match wanted {
            ColumnType::Uuid => plain(column::uuid()),
            _ => as_text(wanted, Select::Text),
        },
    },
    // Dates: days since 2000-01-01.
    Entry {
        types: &[(1082, "date")],
        exact: |_| ColumnType::Date,
        read: |_, wanted| match wanted {
            ColumnType::Date => fixed::<Date32Type>(wanted, date),
            ColumnType::LocalTimestamp | ColumnType::Timestamp(_) => fixed::<TimestampMicrosecondType>(wanted, midnight),
            _ => as_text(wanted, Select::Text),
        },
    },
    // Times of day: µs since midnight.
    Entry {
        types: &[(1083, "time")],
        exact: |_| ColumnType::Time,
        read: |_, wanted| match wanted {
            ColumnType::Time => fixed::<Time64MicrosecondType>(wanted, time),
            _ => as_text(wanted, Select::Text),
        },
    },
    // Timestamps: µs since 2000-01-01 00:00, of a wall clock or in UTC.
    Entry {
        types: &[(1114, "timestamp")],
        exact: |_| ColumnType::LocalTimestamp,
        read: |_, wanted| match wanted {
            ColumnType::LocalTimestamp | ColumnType::Timestamp(_) => fixed::<TimestampMicrosecondType>(wanted, timestamp),
            _ => as_text(wanted, Select::Text),
        },
    },
    Entry {
        types: &[(1184, "timestamptz")],
        exact: |_| ColumnType::Timestamptz,
        read: |_, wanted| match wanted {
            ColumnType::Timestamptz | ColumnType::Timestamp(_) => fixed::<TimestampMicrosecondType>(wanted, timestamp),
            _ => as_text(wanted, Select::Text),
        },
    },
];

/// Enums: the label (`enum_send`).
static ENUM: Entry = Entry { types: &[], exact: |_| ColumnType::String, read: |_, wanted| text(wanted) };

/// The extension's case-insensitive text: sent as text is. Its OID differs from database to database.
static CITEXT: Entry = Entry { types: &[], exact: |_| ColumnType::String, read: |_, wanted| text(wanted) };

/// Arrays of the types above, as lists: elements by their own block. Their dimensions are not declared in PostgreSQL,
/// so that a value with more than one is found only when it comes, and is an error then.
static ARRAY: Entry = Entry {
    types: &[],
    exact: |ty| match element(ty) {
        Some(element) if !std::ptr::eq(entry(&element), &OTHER) => ColumnType::List(Box::new(exact(&element))),
        _ => ColumnType::String,
    },
    read: |ty, wanted| {
        let ColumnType::List(wanted_element) = wanted else { return as_text(wanted, Select::Text) };
        let element = element(ty)?;
        let route = route(&element, wanted_element)?;
        let select = match route.select {
            Select::Plain => Select::Plain,
            // `box` separates its elements by `;`, an extension's type by what it likes: not to be read as text[].
            _ if element.namespace == "pg_catalog" && element.name != "box" => Select::TextArray,
            _ => return None,
        };
        Some(Route { select, column: list(Arc::new(wanted_element.field("element")), route.column) })
    },
};

/// Everything else: text. The cast to text of a built-in type is its output function (but for `inet`); an extension
/// may have declared any cast it likes.
static OTHER: Entry = Entry {
    types: &[],
    exact: |_| ColumnType::String,
    read: |ty, wanted| {
        let own_cast = ty.kind == TypeKind::Base && (ty.namespace != "pg_catalog" || ty.name == "inet");
        as_text(wanted, if own_cast { Select::Output } else { Select::Text })
    },
};

/// An array's element, with the array's type modifier, which is the elements': `numeric(12,2)[]`. Arrays of arrays do
/// not exist, but for a domain over an array.
fn element(ty: &PgType) -> Option<PgType> {
    let mut element = ty.element.as_deref()?.clone();
    if element.typmod == -1 {
        element.typmod = ty.typmod;
    }
    element.element.is_none().then_some(element)
}

/// Plain text.
fn text(wanted: &ColumnType) -> Option<Route> {
    wanted.is_text().then(|| plain(column::text()))?
}

fn jsonb(field: &[u8], out: &mut Vec<u8>) -> Step {
    match field.split_first() {
        Some((1, text)) => {
            out.extend_from_slice(text);
            Ok(())
        }
        Some((version, _)) => Err(Fault::malformed(format!("a jsonb value has the version {version}, 1 is known"))),
        None => Err(Fault::malformed("a jsonb value has no bytes")),
    }
}

fn int2(field: &[u8]) -> Step<i16> {
    Ok(i16::from_be_bytes(exact_bytes(field)?))
}

fn int4(field: &[u8]) -> Step<i32> {
    Ok(i32::from_be_bytes(exact_bytes(field)?))
}

fn int8(field: &[u8]) -> Step<i64> {
    Ok(i64::from_be_bytes(exact_bytes(field)?))
}

fn oid(field: &[u8]) -> Step<i64> {
    Ok(i64::from(u32::from_be_bytes(exact_bytes(field)?)))
}

/// The route of integers of up to `digits` digits into a decimal with room for all of them.
fn whole_decimal(wanted: &ColumnType, digits: u8, read: impl Fn(&[u8]) -> Step<i64> + Copy + Send + Sync + 'static) -> Option<Route> {
    let ColumnType::Decimal { precision, scale } = *wanted else { return None };
    let power = 10_i128.checked_pow(u32::from(scale))?;
    // 10^scale has at most 38 − digits zeros here: the product stays below 10^38.
    (precision.saturating_sub(scale) >= digits).then(|| fixed::<Decimal128Type>(wanted, move |b| Ok(i128::from(read(b)?) * power)))?
}

/// The smallest decimal that holds every value of a declared numeric; `None` when it is undeclared or needs more than
/// 38 digits. Since PostgreSQL 15 the scale may be negative (`numeric(5,-2)`: seven digits, the last two zero) or
/// larger than the precision (`numeric(3,5)`: 0.00ddd).
fn declared_shape(typmod: i32) -> Option<Shape> {
    // `numeric_typmod_precision` and `numeric_typmod_scale`: the scale is 11 bits, signed.
    let packed = typmod.checked_sub(4).filter(|packed| *packed >= 0)?;
    let precision = packed >> 16 & 0xFFFF;
    let scale = ((packed & 0x7FF) ^ 1024) - 1024;
    let (precision, scale) = if scale < 0 { (precision - scale, 0) } else { (precision.max(scale), scale) };
    let (precision, scale) = (u8::try_from(precision).ok()?, u8::try_from(scale).ok()?);
    (1..=DECIMAL_DIGITS_MAX).contains(&precision).then_some(Shape { precision, scale })
}

#[cfg(test)]
mod tests {
    use super::super::payload::{Field, array_of, base, decode, numeric, numeric_type};
    use super::*;
    use arrow::array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int16Array,
        Int32Array, Int64Array, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    };

    /// The type decodes into `expected`, whose last row has to be NULL; and its exact type is `exact`, if that is given.
    fn check(ty: PgType, wanted: &str, select: Select, fields: &[&[u8]], expected: impl arrow::array::Array + 'static) {
        let wanted_type: ColumnType = wanted.parse().expect("type");
        let route = route(&ty, &wanted_type).unwrap_or_else(|| panic!("{} to {wanted}", ty.name));
        assert_eq!(route.select, select, "{} to {wanted}", ty.name);
        let fields: Vec<Field> = fields.iter().map(|field| Some(field.to_vec())).chain([None]).collect();
        let found = decode(ty.clone(), wanted, fields).unwrap_or_else(|error| panic!("{} to {wanted}: {error}", ty.name));
        let expected: ArrayRef = Arc::new(expected);
        // Debug tells negative zero and NaN apart from what equals them, or does not.
        assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{} to {wanted}", ty.name);
        assert_eq!(found.data_type(), &wanted_type.arrow());
        assert_eq!(found.null_count(), 1);
    }

    fn exactly(ty: PgType, name: &str) {
        assert_eq!(exact(&ty).to_string(), name, "{}", ty.name);
        assert!(route(&ty, &exact(&ty)).is_some(), "{} into its exact type", ty.name);
    }

    fn strings(values: &[&str]) -> StringArray {
        values.iter().map(|value| Some(*value)).chain([None]).collect()
    }

    #[test]
    fn oids_are_those_of_the_server() {
        for (oid, name) in TABLE.iter().flat_map(|entry| entry.types) {
            let ty = tokio_postgres::types::Type::from_oid(*oid).expect("a built-in type");
            assert_eq!(ty.name(), *name);
        }
    }

    #[test]
    fn every_type_that_is_read_can_be_text() {
        for (oid, name) in TABLE.iter().flat_map(|entry| entry.types) {
            for wanted in ["string", "unknown", "array", "object"] {
                assert!(route(&base(*oid, name, -1), &wanted.parse().expect("type")).is_some(), "{name} to {wanted}");
            }
        }
    }

    #[test]
    fn booleans() {
        let ty = || base(16, "bool", -1);
        exactly(ty(), "boolean");
        check(ty(), "boolean", Select::Plain, &[&[1], &[0]], BooleanArray::from(vec![Some(true), Some(false), None]));
        check(ty(), "string", Select::Output, &[b"t"], strings(&["t"]));
        assert!(decode(ty(), "boolean", vec![Some(vec![2])]).is_err());
    }

    #[test]
    fn integers() {
        let int2 = || base(21, "int2", -1);
        let ends: [&[u8]; 3] = [&i16::MIN.to_be_bytes(), &i16::MAX.to_be_bytes(), &[0, 0]];
        exactly(int2(), "int16");
        check(int2(), "int16", Select::Plain, &ends, Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), Some(0), None]));
        check(int2(), "integer_small", Select::Plain, &ends, Int32Array::from(vec![Some(-32_768), Some(32_767), Some(0), None]));
        check(int2(), "integer", Select::Plain, &ends, Int64Array::from(vec![Some(-32_768), Some(32_767), Some(0), None]));
        check(int2(), "number_small", Select::Plain, &ends, Float32Array::from(vec![Some(-32_768.0), Some(32_767.0), Some(0.0), None]));
        check(int2(), "number", Select::Plain, &ends, Float64Array::from(vec![Some(-32_768.0), Some(32_767.0), Some(0.0), None]));

        let int4 = || base(23, "int4", -1);
        let ends: [&[u8]; 2] = [&i32::MIN.to_be_bytes(), &i32::MAX.to_be_bytes()];
        exactly(int4(), "integer_small");
        check(int4(), "integer_small", Select::Plain, &ends, Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None]));
        check(int4(), "integer", Select::Plain, &ends, Int64Array::from(vec![Some(i32::MIN.into()), Some(i32::MAX.into()), None]));
        check(int4(), "number", Select::Plain, &ends, Float64Array::from(vec![Some(-2_147_483_648.0), Some(2_147_483_647.0), None]));

        let int8 = || base(20, "int8", -1);
        let ends: [&[u8]; 2] = [&i64::MIN.to_be_bytes(), &i64::MAX.to_be_bytes()];
        exactly(int8(), "integer");
        check(int8(), "integer", Select::Plain, &ends, Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None]));
        let scaled = [i128::from(i64::MIN) * 10_i128.pow(19), i128::from(i64::MAX) * 10_i128.pow(19)];
        let scaled = Decimal128Array::from(vec![Some(scaled[0]), Some(scaled[1]), None]);
        check(int8(), "decimal(38,19)", Select::Plain, &ends, scaled.with_precision_and_scale(38, 19).expect("decimal"));

        let oid = || base(26, "oid", -1);
        exactly(oid(), "integer");
        check(oid(), "integer", Select::Plain, &[&[0xFF; 4]], Int64Array::from(vec![Some(4_294_967_295), None]));
    }

    #[test]
    fn floats_keep_their_bits() {
        let float4 = || base(700, "float4", -1);
        let values = [-0.0_f32, f32::NAN, f32::NEG_INFINITY, f32::MIN_POSITIVE / 2.0, 0.1];
        let fields = values.map(f32::to_be_bytes);
        let fields: Vec<&[u8]> = fields.iter().map(<[u8; 4]>::as_slice).collect();
        exactly(float4(), "number_small");
        check(float4(), "number_small", Select::Plain, &fields, values.iter().copied().map(Some).chain([None]).collect::<Float32Array>());
        let wide = values.iter().map(|value| Some(f64::from(*value))).chain([None]).collect::<Float64Array>();
        check(float4(), "number", Select::Plain, &fields, wide);

        let float8 = || base(701, "float8", -1);
        let values = [-0.0_f64, f64::NAN, f64::INFINITY, 5e-324, f64::MAX];
        let fields = values.map(f64::to_be_bytes);
        let fields: Vec<&[u8]> = fields.iter().map(<[u8; 8]>::as_slice).collect();
        exactly(float8(), "number");
        check(float8(), "number", Select::Plain, &fields, values.iter().copied().map(Some).chain([None]).collect::<Float64Array>());
    }

    #[test]
    fn numerics() {
        let decimals = |values: &[i128], precision, scale| {
            let array: Decimal128Array = values.iter().copied().map(Some).chain([None]).collect();
            array.with_precision_and_scale(precision, scale).expect("decimal")
        };
        let fields = [numeric("12.30"), numeric("-0.01"), numeric("0.00"), numeric("9999999999.99")];
        let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
        let values = [1230, -1, 0, 999_999_999_999];
        check(numeric_type(12, 2), "decimal(12,2)", Select::Plain, &fields, decimals(&values, 12, 2));
        check(numeric_type(12, 2), "decimal(14,4)", Select::Plain, &fields, decimals(&values.map(|value| value * 100), 14, 4));
        check(base(1700, "numeric", -1), "decimal(38,9)", Select::Plain, &fields, decimals(&values.map(|value| value * 10_000_000), 38, 9));
        let floats = Float64Array::from(vec![Some(12.3), Some(-0.01), Some(0.0), Some(9_999_999_999.99), None]);
        check(numeric_type(12, 2), "number", Select::Plain, &fields, floats);
        check(numeric_type(12, 2), "string", Select::Plain, &fields, strings(&["12.30", "-0.01", "0.00", "9999999999.99"]));
        check(base(1700, "numeric", -1), "string", Select::Plain, &[&numeric("NaN")], strings(&["NaN"]));
    }

    #[test]
    fn declared_numerics_have_the_smallest_decimal_that_holds_them() {
        for (precision, scale, name) in [
            (12, 2, "decimal(12,2)"),
            (38, 38, "decimal(38,38)"),
            (39, 0, "string"),
            (50, 20, "string"),
            (1000, 1000, "string"),
            (3, 5, "decimal(5,5)"),
            (5, -2, "decimal(7,0)"),
            (30, -8, "decimal(38,0)"),
            (30, -9, "string"),
            (1, -1000, "string"),
            (3, 40, "string"),
        ] {
            exactly(numeric_type(precision, scale), name);
        }
        exactly(base(1700, "numeric", -1), "string");
    }

    #[test]
    fn text_of_all_kinds() {
        for (oid, name) in [(25, "text"), (1043, "varchar"), (1042, "bpchar"), (19, "name"), (142, "xml")] {
            exactly(base(oid, name, -1), "string");
            check(base(oid, name, -1), "string", Select::Plain, &["ü  ".as_bytes(), b"", "日本".as_bytes()], strings(&["ü  ", "", "日本"]));
        }
        check(base(25, "text", -1), "binary", Select::Plain, &[&[0xFF]], BinaryArray::from(vec![Some(&[0xFF_u8][..]), None]));
        exactly(base(18, "char", -1), "string");
        check(base(18, "char", -1), "string", Select::Text, &[b"x"], strings(&["x"]));
        let mood = PgType { kind: TypeKind::Enum, namespace: "public".into(), ..base(90_000, "mood", -1) };
        exactly(mood.clone(), "string");
        check(mood, "string", Select::Plain, &[b"sad"], strings(&["sad"]));
        let citext = PgType { namespace: "public".into(), ..base(90_001, "citext", -1) };
        exactly(citext.clone(), "string");
        check(citext, "string", Select::Plain, &[b"Ab"], strings(&["Ab"]));
    }

    #[test]
    fn bytes_json_and_uuid() {
        let bytea = || base(17, "bytea", -1);
        exactly(bytea(), "binary");
        check(bytea(), "binary", Select::Plain, &[&[0, 0xFF], b""], BinaryArray::from(vec![Some(&[0_u8, 0xFF][..]), Some(&[]), None]));
        check(bytea(), "string", Select::Text, &[b"\\x00ff"], strings(&["\\x00ff"]));

        exactly(base(114, "json", -1), "json");
        check(base(114, "json", -1), "json", Select::Plain, &[b"{ \"a\":1 }"], strings(&["{ \"a\":1 }"]));
        exactly(base(3802, "jsonb", -1), "json");
        check(base(3802, "jsonb", -1), "json", Select::Plain, &[b"\x01{}"], strings(&["{}"]));
        check(base(3802, "jsonb", -1), "string", Select::Plain, &[b"\x01{}"], strings(&["{}"]));
        for malformed in [&b"\x02{}"[..], b""] {
            assert!(decode(base(3802, "jsonb", -1), "json", vec![Some(malformed.to_vec())]).is_err());
        }

        exactly(base(2950, "uuid", -1), "uuid");
        let value: [u8; 16] = std::array::from_fn(|i| i as u8);
        let expected = FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some(value), None].into_iter(), 16).expect("uuid");
        let found = decode(base(2950, "uuid", -1), "uuid", vec![Some(value.to_vec()), None]).expect("decode");
        assert_eq!(found.as_ref(), &expected as &dyn arrow::array::Array);
        assert!(decode(base(2950, "uuid", -1), "uuid", vec![Some(vec![0; 15])]).is_err());
    }

    #[test]
    fn dates_and_times() {
        let zero: &[u8] = &0_i64.to_be_bytes();
        exactly(base(1082, "date", -1), "date");
        check(base(1082, "date", -1), "date", Select::Plain, &[&[0; 4]], Date32Array::from(vec![Some(10_957), None]));
        exactly(base(1083, "time", -1), "time");
        check(base(1083, "time", -1), "time", Select::Plain, &[zero], Time64MicrosecondArray::from(vec![Some(0), None]));
        let epoch = || TimestampMicrosecondArray::from(vec![Some(946_684_800_000_000), None]);
        exactly(base(1114, "timestamp", -1), "local_timestamp");
        check(base(1114, "timestamp", -1), "local_timestamp", Select::Plain, &[zero], epoch());
        exactly(base(1184, "timestamptz", -1), "timestamptz");
        check(base(1184, "timestamptz", -1), "timestamptz", Select::Plain, &[zero], epoch().with_timezone("UTC"));
        for olake in ["timestamp", "timestamp_milli", "timestamp_micro", "timestamp_nano"] {
            check(base(1082, "date", -1), olake, Select::Plain, &[&[0; 4]], epoch().with_timezone("UTC"));
            check(base(1114, "timestamp", -1), olake, Select::Plain, &[zero], epoch().with_timezone("UTC"));
            check(base(1184, "timestamptz", -1), olake, Select::Plain, &[zero], epoch().with_timezone("UTC"));
        }
    }

    #[test]
    fn types_without_a_block_travel_as_text() {
        for (oid, name, select) in [
            (1186, "interval", Select::Text),
            (1266, "timetz", Select::Text),
            (790, "money", Select::Text),
            (600, "point", Select::Text),
            (869, "inet", Select::Output),
            (650, "cidr", Select::Text),
        ] {
            exactly(base(oid, name, -1), "string");
            check(base(oid, name, -1), "string", select, &[b"x"], strings(&["x"]));
        }
        for (kind, select) in [(TypeKind::Base, Select::Output), (TypeKind::Composite, Select::Text), (TypeKind::Range, Select::Text)] {
            let ty = PgType { kind, namespace: "public".into(), ..base(90_002, "own", -1) };
            exactly(ty.clone(), "string");
            check(ty, "unknown", select, &[b"x"], strings(&["x"]));
        }
    }

    #[test]
    fn arrays_are_lists_of_what_their_elements_are() {
        exactly(array_of(base(23, "int4", -1)), "list<integer_small>");
        exactly(array_of(base(3802, "jsonb", -1)), "list<json>");
        exactly(array_of(base(1700, "numeric", -1)), "list<string>");
        exactly(PgType { typmod: numeric_type(10, 2).typmod, ..array_of(base(1700, "numeric", -1)) }, "list<decimal(10,2)>");
        exactly(array_of(PgType { kind: TypeKind::Enum, ..base(90_000, "mood", -1) }), "list<string>");
        exactly(array_of(base(18, "char", -1)), "list<string>");
        exactly(array_of(base(869, "inet", -1)), "string");
        exactly(array_of(array_of(base(23, "int4", -1))), "string");
        let select = |element: PgType, wanted: &str| route(&array_of(element), &wanted.parse().expect("type")).map(|route| route.select);
        assert_eq!(select(base(23, "int4", -1), "list<integer>"), Some(Select::Plain));
        assert_eq!(select(base(23, "int4", -1), "list<string>"), Some(Select::TextArray));
        assert_eq!(select(base(603, "box", -1), "list<string>"), None);
        assert_eq!(select(base(23, "int4", -1), "array"), Some(Select::Text));
        assert_eq!(select(base(20, "int8", -1), "list<int16>"), None);
    }
}
