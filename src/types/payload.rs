//! Test support: values and COPY streams in the form that PostgreSQL's send functions give them.

use super::Wire;
use super::pg_type::{PgType, TypeKind};
use super::plan_column;
use super::special::SpecialValues;
use crate::error::Result;
use crate::postgres::catalog::ColumnInfo;
use crate::postgres::decode::Decoder;
use arrow::array::ArrayRef;

/// A field of a row; `None` is NULL.
pub(crate) type Field = Option<Vec<u8>>;

/// A built-in base type.
pub(crate) fn base(oid: u32, name: &str, typmod: i32) -> PgType {
    PgType { typmod, ..PgType::built_in(oid, name) }
}

/// The array type of `element`.
pub(crate) fn array_of(element: PgType) -> PgType {
    let namespace = element.namespace.clone();
    let name = format!("_{}", element.name);
    PgType { namespace, kind: TypeKind::Array { element: Box::new(element), dimensions: 1 }, ..PgType::built_in(1, &name) }
}

/// The type `numeric(precision,scale)`.
pub(crate) fn numeric_type(precision: i32, scale: i32) -> PgType {
    base(1700, "numeric", ((precision << 16) | (scale & 0x7FF)) + 4)
}

pub(crate) fn column(name: &str, ty: PgType) -> ColumnInfo {
    ColumnInfo {
        name: name.to_owned(),
        attnum: 1,
        declared: ty.name.clone(),
        ty,
        not_null: true,
        generated: false,
        identity: false,
        comment: None,
    }
}

/// The messages of a COPY as the server cuts them: the header goes with the first row, the trailer alone.
pub(crate) fn messages(rows: &[Vec<Field>]) -> Vec<Vec<u8>> {
    let mut header = b"PGCOPY\n\xff\r\n\0".to_vec();
    header.extend([0; 8]);
    let mut messages = Vec::new();
    for row in rows {
        let mut message = std::mem::take(&mut header);
        message.extend(i16::try_from(row.len()).expect("columns").to_be_bytes());
        row.iter().for_each(|field| put(&mut message, field));
        messages.push(message);
    }
    header.extend((-1_i16).to_be_bytes());
    messages.push(header);
    messages
}

fn put(out: &mut Vec<u8>, field: &Field) {
    match field {
        Some(bytes) => {
            out.extend(i32::try_from(bytes.len()).expect("length").to_be_bytes());
            out.extend(bytes);
        }
        None => out.extend((-1_i32).to_be_bytes()),
    }
}

/// `array_send` of a one-dimensional array with the given lower bound; an empty one has no dimensions.
pub(crate) fn array(elements: &[Field], lower_bound: i32) -> Vec<u8> {
    let mut out = Vec::new();
    let dimensions = i32::from(!elements.is_empty());
    let nulls = i32::from(elements.iter().any(Option::is_none));
    for word in [dimensions, nulls, 23] {
        out.extend(word.to_be_bytes());
    }
    if dimensions == 1 {
        out.extend(i32::try_from(elements.len()).expect("length").to_be_bytes());
        out.extend(lower_bound.to_be_bytes());
    }
    elements.iter().for_each(|element| put(&mut out, element));
    out
}

/// `numeric_send` of a value as `numeric_out` prints it.
pub(crate) fn numeric(text: &str) -> Vec<u8> {
    match text {
        "NaN" => return words(0, 0, 0xC000, 0, &[]),
        "Infinity" => return words(0, 0, 0xD000, 0x20, &[]),
        "-Infinity" => return words(0, 0, 0xF000, 0x20, &[]),
        _ => {}
    }
    let (sign, unsigned) = text.strip_prefix('-').map_or((0, text), |rest| (0x4000, rest));
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let scale = u16::try_from(fraction.len()).expect("scale");
    let whole = format!("{whole:0>width$}", width = whole.len().div_ceil(4) * 4);
    let fraction = format!("{fraction:0<width$}", width = fraction.len().div_ceil(4) * 4);
    let mut weight = i16::try_from(whole.len() / 4).expect("weight") - 1;
    let all = whole + &fraction;
    let mut digits: Vec<u16> = (0..all.len() / 4).map(|i| all[i * 4..i * 4 + 4].parse().expect("digits")).collect();
    while digits.first() == Some(&0) {
        digits.remove(0);
        weight -= 1;
    }
    while digits.last() == Some(&0) {
        digits.pop();
    }
    match digits.is_empty() {
        true => words(0, 0, 0, scale, &[]),
        false => words(u16::try_from(digits.len()).expect("count"), weight, sign, scale, &digits),
    }
}

/// A numeric from its parts, right or wrong.
pub(crate) fn words(count: u16, weight: i16, sign: u16, scale: u16, digits: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(count.to_be_bytes());
    out.extend(weight.to_be_bytes());
    [sign, scale].iter().chain(digits).for_each(|word| out.extend(word.to_be_bytes()));
    out
}

/// A small deterministic generator (xorshift64*), so that a failure repeats.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).expect("31 bits") % n
    }
}

/// One column decoded from a whole stream in binary.
pub(crate) fn decode(ty: PgType, wanted: &str, fields: Vec<Field>) -> Result<ArrayRef> {
    let plan = plan_column(&column("c", ty), "c", &wanted.parse()?, SpecialValues::Error)?;
    let mut decoder = Decoder::new(&[plan], "public.t", Wire::Binary);
    for message in messages(&fields.into_iter().map(|field| vec![field]).collect::<Vec<_>>()) {
        decoder.push(&message)?;
    }
    let batch = decoder.finish_batch()?;
    decoder.finish()?;
    Ok(batch.column(0).clone())
}
