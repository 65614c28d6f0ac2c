//! The table of types: how PostgreSQL's types become columns.
//!
//! One block per type says which destination type fits it exactly, into which others it may go without loss, and how
//! its wire form (the type's send function in PostgreSQL's `utils/adt`) is read. A type that is not in the table
//! travels as text, exactly as its output function prints it. Knows nothing of rows and streams.

use super::array::list;
use super::catalog::{PgType, TypeKind};
use super::column::{self, Fault, Maker, Step, exact_bytes};
use super::numeric::{Numeric, Shape};
use super::temporal::{date, midnight, time, timestamp};
use super::types::Select;
use crate::config::column_type::{ColumnType, DECIMAL_DIGITS_MAX};
use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use std::sync::Arc;

/// How a source type gets into a destination type.
pub(super) struct Route {
    pub(super) select: Select,
    pub(super) column: Maker,
}

/// The way from a type into `wanted`; `None` where there is none without loss.
pub(super) fn route(ty: &PgType, wanted: &ColumnType) -> Option<Route> {
    (entry(ty).read)(ty, wanted)
}

/// The destination type that alters no value.
pub(super) fn exact(ty: &PgType) -> ColumnType {
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
