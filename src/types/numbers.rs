//! Blocks: booleans, integers, identifiers, floating point, decimals, money.

use super::block::{Block, both, fixed, only_text, printed, put, whole, whole_decimal};
use super::pg_type::PgType;
use crate::columns::fixed::{boolean, primitive};
use crate::columns::variable::{self, text_from, verbatim};
use crate::config::column_type::{ColumnType, DECIMAL_DIGITS_MAX};
use crate::values::float::{parse_f32, parse_f64, print_f32, print_f64};
use crate::values::numeric::{Numeric, Shape};
use crate::values::numeric_text::{decimal_from_text, float_from_text};
use crate::values::plain::{money_text, parse_int};
use crate::values::{Fault, Step, exact_bytes};
use arrow::array::types::{Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type};

pub(crate) static BLOCKS: &[Block] = &[
    Block {
        types: &[(16, "bool")],
        exact: |_| ColumnType::Boolean,
        read: |_, wanted, _| match wanted {
            ColumnType::Boolean => both(boolean()),
            _ => printed(wanted, |field, out| match exact_bytes(field)? {
                [0] => verbatim(b"f", out),
                [1] => verbatim(b"t", out),
                [other] => Err(Fault::malformed(format!("a boolean has the value {other}"))),
            }),
        },
        examples: &["t"],
        remark: "",
    },
    // Integers: big-endian.
    Block {
        types: &[(21, "int2")],
        exact: |_| ColumnType::Int16,
        read: |_, wanted, _| match wanted {
            ColumnType::Int16 => whole::<i16, Int16Type>(wanted, int2, |n| n),
            ColumnType::Int32 => whole::<i16, Int32Type>(wanted, int2, i32::from),
            ColumnType::Int64 => whole::<i16, Int64Type>(wanted, int2, i64::from),
            ColumnType::Float32 => whole::<i16, Float32Type>(wanted, int2, f32::from),
            ColumnType::Float64 => whole::<i16, Float64Type>(wanted, int2, f64::from),
            _ => whole_decimal(wanted, 5, 0, int2, |field| parse_int(field, "an int2"))
                .or_else(|| printed(wanted, |field, out| put(int2(field)?, out))),
        },
        examples: &["-32768"],
        remark: "`smallserial` is this type.",
    },
    Block {
        types: &[(23, "int4")],
        exact: |_| ColumnType::Int32,
        read: |_, wanted, _| match wanted {
            ColumnType::Int32 => whole::<i32, Int32Type>(wanted, int4, |n| n),
            ColumnType::Int64 => whole::<i32, Int64Type>(wanted, int4, i64::from),
            ColumnType::Float64 => whole::<i32, Float64Type>(wanted, int4, f64::from),
            _ => whole_decimal(wanted, 10, 0, int4, |field| parse_int(field, "an int4"))
                .or_else(|| printed(wanted, |field, out| put(int4(field)?, out))),
        },
        examples: &["2147483647"],
        remark: "`serial` is this type.",
    },
    Block {
        types: &[(20, "int8")],
        exact: |_| ColumnType::Int64,
        read: |_, wanted, _| match wanted {
            ColumnType::Int64 => whole::<i64, Int64Type>(wanted, int8, |n| n),
            _ => whole_decimal(wanted, 19, 0, int8, |field| parse_int(field, "an int8"))
                .or_else(|| printed(wanted, |field, out| put(int8(field)?, out))),
        },
        examples: &["9007199254740993"],
        remark: "`bigserial` is this type.",
    },
    // Identifiers: unsigned, so that 32 signed bits do not hold them.
    Block {
        types: &[(26, "oid"), (28, "xid"), (29, "cid")],
        exact: |_| ColumnType::Int64,
        read: |_, wanted, _| match wanted {
            ColumnType::Int64 => whole::<u32, Int64Type>(wanted, uint4, i64::from),
            _ => whole_decimal(wanted, 10, 0, uint4, |field| parse_int(field, "an oid"))
                .or_else(|| printed(wanted, |field, out| put(uint4(field)?, out))),
        },
        examples: &["4294967295"],
        remark: "32 bits without a sign.",
    },
    Block {
        types: &[(5069, "xid8")],
        exact: |_| ColumnType::Decimal { precision: 20, scale: 0 },
        read: |_, wanted, _| {
            whole_decimal(wanted, 20, 0, uint8, |field| parse_int(field, "an xid8"))
                .or_else(|| printed(wanted, |field, out| put(uint8(field)?, out)))
        },
        examples: &["18446744073709551615"],
        remark: "64 bits without a sign.",
    },
    // Floating point: bits as they are, negative zero and NaN included.
    Block {
        types: &[(700, "float4")],
        exact: |_| ColumnType::Float32,
        read: |_, wanted, _| match wanted {
            ColumnType::Float32 => fixed::<Float32Type>(wanted, float4, parse_f32),
            ColumnType::Float64 => fixed::<Float64Type>(wanted, |b| float4(b).map(f64::from), |b| parse_f32(b).map(f64::from)),
            _ if wanted.is_text() => both(text_from(
                |field, out| {
                    print_f32(float4(field)?, out);
                    Ok(())
                },
                // Servers before 12 print more digits than it takes.
                |field, out| {
                    print_f32(parse_f32(field)?, out);
                    Ok(())
                },
            )),
            _ => None,
        },
        examples: &["1.1", "NaN"],
        remark: "Bit for bit, with NaN, infinities and negative zero.",
    },
    Block {
        types: &[(701, "float8")],
        exact: |_| ColumnType::Float64,
        read: |_, wanted, _| match wanted {
            ColumnType::Float64 => fixed::<Float64Type>(wanted, float8, parse_f64),
            _ if wanted.is_text() => both(text_from(
                |field, out| {
                    print_f64(float8(field)?, out);
                    Ok(())
                },
                |field, out| {
                    print_f64(parse_f64(field)?, out);
                    Ok(())
                },
            )),
            _ => None,
        },
        examples: &["0.1", "-Infinity"],
        remark: "Bit for bit, with NaN, infinities and negative zero.",
    },
    // Decimals. Those that 38 digits cannot hold are text, digit for digit as the server prints them.
    Block {
        types: &[(1700, "numeric")],
        exact: |ty| match declared_shape(ty.typmod) {
            Some(Shape { precision, scale }) => ColumnType::Decimal { precision, scale },
            None => ColumnType::String,
        },
        read: |ty, wanted, special| match *wanted {
            ColumnType::Decimal { precision, scale } => {
                let shape = Shape { precision, scale };
                // Where no decimal holds every value, one may be named; a value that does not fit is then an error.
                let fits = declared_shape(ty.typmod)
                    .is_none_or(|has| scale >= has.scale && precision.saturating_sub(scale) >= has.precision - has.scale);
                let highest = 10_i128.checked_pow(u32::from(precision))? - 1;
                let column = || {
                    let binary = move |b: &[u8]| Numeric::parse(b)?.decimal(shape);
                    let text = move |b: &[u8]| decimal_from_text(b, shape);
                    primitive::<Decimal128Type>(wanted.arrow(), binary, text, special.on(-highest, highest))
                };
                fits.then(|| both(column()))?
            }
            ColumnType::Float64 => fixed::<Float64Type>(wanted, |b| Numeric::parse(b)?.float(), float_from_text),
            _ => wanted.is_text().then(|| both(text_from(|b, out| Numeric::parse(b)?.print(out), verbatim)))?,
        },
        examples: &["12.30", "NaN"],
        remark: "`numeric(p,s)` of up to 38 digits is the decimal with room for every value. Without a precision, or with more digits, \
                 it is text, digit for digit; `column_types` can name a `decimal(p,s)` instead, and a value that does not fit is then an \
                 error that names the row's key. `number` is the nearest double, as OLake writes it. NaN and infinities have no place \
                 in a decimal: `special_values` decides.",
    },
    // A whole number of the smallest unit (`cash_send`); how many of them make one is the database's choice.
    Block {
        types: &[(790, "money")],
        exact: |ty| ColumnType::Decimal { precision: 19, scale: money_places(ty) },
        read: |ty, wanted, _| {
            whole_decimal(wanted, 19, money_places(ty), int8, money_text)
                .or_else(|| wanted.is_text().then(|| only_text(variable::text()))?)
        },
        examples: &["$1,234.56"],
        remark: "The amount without its locale; as many places as the database's `lc_monetary` has. As `string` it is what the server prints.",
    },
];

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

fn money_places(ty: &PgType) -> u8 {
    u8::try_from(ty.typmod).unwrap_or(2).min(19)
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

fn uint4(field: &[u8]) -> Step<u32> {
    Ok(u32::from_be_bytes(exact_bytes(field)?))
}

fn uint8(field: &[u8]) -> Step<u64> {
    Ok(u64::from_be_bytes(exact_bytes(field)?))
}

fn float4(field: &[u8]) -> Step<f32> {
    Ok(f32::from_be_bytes(exact_bytes(field)?))
}

fn float8(field: &[u8]) -> Step<f64> {
    Ok(f64::from_be_bytes(exact_bytes(field)?))
}

#[cfg(test)]
#[path = "numbers_tests.rs"]
mod tests;
