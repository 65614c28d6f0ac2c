//! Test support: values and COPY streams in the form that PostgreSQL's send functions give them, and what a block has to make of
//! them.

use super::pg_type::{Attribute, PgType, TypeKind};
use super::special::SpecialValues;
use super::{ColumnPlan, Select, Wire, exact_type, plan_column};
use crate::columns::show::displayable;
use crate::config::column_type::{ColumnType, PLAIN_NAMES};
use crate::error::{Kind, Result};
use crate::postgres::catalog::ColumnInfo;
use crate::postgres::decode::Decoder;
use crate::values::samples::hex;
use arrow::array::{Array, ArrayRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// A field of a row; `None` is NULL.
pub(crate) type Field = Option<Vec<u8>>;

/// A built-in base type.
pub(crate) fn base(oid: u32, name: &str, typmod: i32) -> PgType {
    PgType { typmod, ..PgType::built_in(oid, name) }
}

/// A base type of an extension.
pub(crate) fn extension(name: &str) -> PgType {
    PgType { oid: 90_000, ..PgType::of_extension(name) }
}

/// A composite type.
pub(crate) fn composite(attributes: &[(&str, PgType)]) -> PgType {
    let attributes = attributes.iter().map(|(name, ty)| Attribute { number: 0, name: (*name).to_owned(), ty: ty.clone() }).collect();
    PgType { kind: TypeKind::Composite(attributes), ..extension("pair") }
}

/// The range type over `bound`.
pub(crate) fn range_over(bound: PgType) -> PgType {
    PgType { kind: TypeKind::Range(Box::new(bound)), ..base(3904, "int4range", -1) }
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
    ColumnInfo { attnum: 1, not_null: true, ..ColumnInfo::of_type(name, ty) }
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

/// A COPY in text as the server cuts it: a message for each line.
pub(crate) fn lines(rows: &[Vec<Field>]) -> Vec<Vec<u8>> {
    let escaped = |field: &Field| match field {
        None => b"\\N".to_vec(),
        Some(bytes) => bytes.iter().flat_map(|byte| escape(*byte)).collect(),
    };
    rows.iter().map(|row| [row.iter().map(escaped).collect::<Vec<_>>().join(&b'\t'), b"\n".to_vec()].concat()).collect()
}

fn escape(byte: u8) -> Vec<u8> {
    match byte {
        b'\n' => b"\\n".to_vec(),
        b'\t' => b"\\t".to_vec(),
        b'\\' => b"\\\\".to_vec(),
        other => vec![other],
    }
}

/// One column decoded from a whole stream in binary.
pub(crate) fn decode(ty: PgType, wanted: &str, fields: Vec<Field>) -> Result<ArrayRef> {
    read(&planned(&ty, wanted, SpecialValues::Error)?, Wire::Binary, fields)
}

/// The plan of a column `c`.
pub(crate) fn planned(ty: &PgType, wanted: &str, special: SpecialValues) -> Result<ColumnPlan> {
    plan_column(&column("c", ty.clone()), "c", &wanted.parse()?, special)
}

/// One column decoded from a whole stream.
pub(crate) fn read(plan: &ColumnPlan, wire: Wire, fields: Vec<Field>) -> Result<ArrayRef> {
    let rows: Vec<_> = fields.into_iter().map(|field| vec![field]).collect();
    let mut decoder = Decoder::new(std::slice::from_ref(plan), "public.t", wire);
    for message in if wire == Wire::Binary { messages(&rows) } else { lines(&rows) } {
        decoder.push(&message)?;
    }
    let batch = decoder.finish_batch()?;
    decoder.finish()?;
    Ok(batch.column(0).clone())
}

/// What Arrow shows of each row, with `∅` for NULL.
pub(crate) fn shown(array: &ArrayRef) -> Vec<String> {
    let options = FormatOptions::new().with_null("∅");
    let array = displayable(array).expect("a type that can be shown");
    let formatter = ArrayFormatter::try_new(&array, &options).expect("a type that can be shown");
    (0..array.len()).map(|row| formatter.value(row).to_string()).collect()
}

/// Both forms of each value (the binary one in hexadecimal, as the server's send function gives it, and the server's text) are
/// read into the wanted type, give the same array bit for bit, and are shown as the third of each row says.
pub(crate) fn check(ty: PgType, wanted: &str, rows: &[(&str, &str, &str)]) {
    check_under(SpecialValues::Error, ty, wanted, rows);
}

/// [`check`] with a policy.
pub(crate) fn check_under(special: SpecialValues, ty: PgType, wanted: &str, rows: &[(&str, &str, &str)]) {
    let plan = planned(&ty, wanted, special).unwrap_or_else(|error| panic!("{} to {wanted}: {error}", ty.name));
    assert!(plan.binary && plan.select(Wire::Binary) == Select::Plain, "{} to {wanted} is not read in binary", ty.name);
    let expected: Vec<&str> = rows.iter().map(|(_, _, shown)| *shown).chain(["∅"]).collect();
    let binary = rows.iter().map(|(binary, _, _)| Some(hex(binary))).chain([None]).collect();
    let text = rows.iter().map(|(_, text, _)| Some(text.as_bytes().to_vec())).chain([None]).collect();
    let [binary, text] = [(Wire::Binary, binary), (Wire::Text, text)].map(|(wire, fields)| {
        let found = read(&plan, wire, fields).unwrap_or_else(|error| panic!("{} to {wanted}, {wire:?}: {error}", ty.name));
        assert_eq!(shown(&found), expected, "{} to {wanted}, {wire:?}", ty.name);
        assert_eq!(found.data_type(), &plan.wanted.arrow());
        assert!(found.is_null(rows.len()) && (rows.is_empty() || expected[0] == "∅" || found.is_valid(0)));
        found
    });
    // Tells bits apart where comparing values would not: negative zero, NaN.
    assert_eq!(binary.to_data(), text.to_data(), "{} to {wanted}", ty.name);
}

/// The type is read into the wanted one from the server's text only, for which the query asks.
pub(crate) fn check_text(ty: PgType, wanted: &str, rows: &[(&str, &str)]) {
    let plan = planned(&ty, wanted, SpecialValues::Error).unwrap_or_else(|error| panic!("{} to {wanted}: {error}", ty.name));
    let select = if matches!(ty.kind, TypeKind::Composite(_)) { Select::OutputOfRow } else { Select::Output };
    assert!(!plan.binary, "{} to {wanted} is read in binary", ty.name);
    assert_eq!((plan.select(Wire::Binary), plan.select(Wire::Text)), (select, Select::Plain), "{} to {wanted}", ty.name);
    let expected: Vec<&str> = rows.iter().map(|(_, shown)| *shown).chain(["∅"]).collect();
    for wire in [Wire::Binary, Wire::Text] {
        let fields = rows.iter().map(|(text, _)| Some(text.as_bytes().to_vec())).chain([None]).collect();
        let found = read(&plan, wire, fields).unwrap_or_else(|error| panic!("{} to {wanted}, {wire:?}: {error}", ty.name));
        assert_eq!(shown(&found), expected, "{} to {wanted}, {wire:?}", ty.name);
        assert_eq!(found.data_type(), &plan.wanted.arrow());
    }
}

/// Each value, in both forms, is an error about the table's shape that says the third of its row.
pub(crate) fn fails(special: SpecialValues, ty: PgType, wanted: &str, rows: &[(&str, &str, &str)]) {
    let plan = planned(&ty, wanted, special).unwrap_or_else(|error| panic!("{} to {wanted}: {error}", ty.name));
    assert!(plan.binary, "{} to {wanted} is not read in binary", ty.name);
    for (binary, text, part) in rows {
        for (wire, field) in [(Wire::Binary, hex(binary)), (Wire::Text, text.as_bytes().to_vec())] {
            let error = read(&plan, wire, vec![Some(field)]).expect_err(text);
            assert_eq!(error.kind(), Kind::Schema, "{text}, {wire:?}: {error}");
            assert!(error.to_string().contains(part), "{text}, {wire:?}: {error}");
        }
    }
}

/// The exact type has this name, and values can be read into it.
pub(crate) fn exactly(ty: PgType, name: &str) {
    assert_eq!(exact_type(&ty).to_string(), name, "{}", ty.name);
    assert!(planned(&ty, name, SpecialValues::Error).is_ok(), "{} into its exact type", ty.name);
}

/// Of all types without parameters, these are possible, and the four names of text.
pub(crate) fn accepts(ty: &PgType, names: &[&str]) {
    let possible = |ty: &ColumnType| !matches!(ty, ColumnType::String | ColumnType::Text(_));
    let found = PLAIN_NAMES.iter().filter(|(_, wanted)| possible(wanted)).map(|(name, _)| *name);
    let found: Vec<&str> = found.filter(|name| planned(ty, name, SpecialValues::Error).is_ok()).collect();
    assert_eq!(found, names, "{}", ty.name);
    for text in ["string", "array", "object", "unknown"] {
        assert!(planned(ty, text, SpecialValues::Error).is_ok(), "{} to {text}", ty.name);
    }
}

/// Each of these types is refused.
pub(crate) fn refuses(ty: &PgType, names: &[&str]) {
    for wanted in names {
        let Err(error) = planned(ty, wanted, SpecialValues::Error) else { panic!("{} to {wanted} is possible", ty.name) };
        assert_eq!(error.kind(), Kind::Schema);
    }
}
