//! What Iceberg keeps of a data file's columns: sizes, counts and bounds, out of the footer that was just written. Pure.
//!
//! Bounds follow the table's metrics modes (`write.metadata.metrics.default`, `…column.<name>`): by default the first 16 characters of
//! a text. Lists and maps have no bounds, as in Iceberg's own libraries.

use crate::{Error, Kind, Result};
use iceberg::spec::{NestedField, PrimitiveType, Schema, Type};
use parquet::basic::Type as Physical;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

/// Table property: metrics mode of columns that name none.
const DEFAULT: &str = "write.metadata.metrics.default";
/// Prefix of the table properties that name a column's mode.
const COLUMN: &str = "write.metadata.metrics.column.";
/// Table property: how many columns have metrics when no mode is named.
const INFERRED: &str = "write.metadata.metrics.max-inferred-column-defaults";

/// What is kept of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    None,
    Counts,
    Truncate(usize),
    Full,
}

impl Mode {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        Some(match text.as_str() {
            "none" => Self::None,
            "counts" => Self::Counts,
            "full" => Self::Full,
            other => Self::Truncate(other.strip_prefix("truncate(")?.strip_suffix(')')?.trim().parse().ok().filter(|n| *n > 0)?),
        })
    }
}

/// The modes of a table's columns, by field id.
#[derive(Clone, Debug)]
pub(crate) struct Modes(HashMap<i32, (Mode, PrimitiveType)>);

impl Modes {
    /// What the table's properties say.
    pub(crate) fn of(schema: &Schema, properties: &HashMap<String, String>) -> Result<Self> {
        let read = |key: &str| -> Result<Option<Mode>> {
            let Some(text) = properties.get(key) else { return Ok(None) };
            let wrong =
                || Error::new(Kind::Config, format!("table property {key}: found {text:?}, accepted: none, counts, truncate(N), full"));
            Mode::parse(text).map(Some).ok_or_else(wrong)
        };
        let default = read(DEFAULT)?;
        let inferred: usize = properties.get(INFERRED).and_then(|text| text.parse().ok()).unwrap_or(100);
        let mut leaves = Vec::new();
        for field in schema.as_struct().fields() {
            collect(field, &field.name, &mut leaves);
        }
        let mut modes = HashMap::new();
        for (place, (id, name, primitive)) in leaves.into_iter().enumerate() {
            let usual = default.unwrap_or(if place < inferred { Mode::Truncate(16) } else { Mode::None });
            modes.insert(id, (read(&format!("{COLUMN}{name}"))?.unwrap_or(usual), primitive));
        }
        Ok(Self(modes))
    }
}

/// The leaves that can have bounds.
fn collect(field: &NestedField, name: &str, leaves: &mut Vec<(i32, String, PrimitiveType)>) {
    match field.field_type.as_ref() {
        Type::Primitive(primitive) => leaves.push((field.id, name.to_owned(), primitive.clone())),
        Type::Struct(fields) => fields.fields().iter().for_each(|field| collect(field, &format!("{name}.{}", field.name), leaves)),
        Type::List(_) | Type::Map(_) => {}
    }
}

/// A file's metrics, by field id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Metrics {
    /// Bytes of a column.
    pub(crate) sizes: BTreeMap<i32, u64>,
    /// Values, NULL included.
    pub(crate) values: BTreeMap<i32, u64>,
    /// NULLs.
    pub(crate) nulls: BTreeMap<i32, u64>,
    /// Bounds from below, as the specification's "Binary single-value serialization" has them, in hexadecimal.
    pub(crate) lower: BTreeMap<i32, String>,
    /// Bounds from above.
    pub(crate) upper: BTreeMap<i32, String>,
    /// Where row groups begin.
    pub(crate) splits: Vec<i64>,
}

impl Metrics {
    /// The metrics of the file with this footer.
    pub(crate) fn of(footer: &ParquetMetaData, modes: &Modes) -> Self {
        let mut metrics = Self::default();
        let mut bounds: HashMap<i32, Option<Bounds>> = HashMap::new();
        for group in footer.row_groups() {
            if let Some(offset) = group.columns().iter().map(ColumnChunkMetaData::byte_range).map(|(start, _)| start).min() {
                metrics.splits.push(offset.cast_signed());
            }
            for chunk in group.columns() {
                let basic = chunk.column_descr().self_type().get_basic_info();
                if !basic.has_id() {
                    continue;
                }
                let id = basic.id();
                *metrics.sizes.entry(id).or_default() += chunk.compressed_size().unsigned_abs();
                let Some((mode, primitive)) = modes.0.get(&id).filter(|(mode, _)| *mode != Mode::None) else { continue };
                *metrics.values.entry(id).or_default() += chunk.num_values().unsigned_abs();
                let nulls = chunk.statistics().and_then(Statistics::null_count_opt);
                match nulls {
                    Some(nulls) => *metrics.nulls.entry(id).or_default() += nulls,
                    // Not known for one row group is not known for the file.
                    None => {
                        metrics.nulls.remove(&id);
                    }
                }
                if *mode == Mode::Counts || nulls == Some(chunk.num_values().unsigned_abs()) {
                    continue;
                }
                let found = chunk.statistics().and_then(|statistics| Bounds::of(statistics, primitive, chunk.column_type()));
                let merged = match (bounds.remove(&id), found) {
                    (None, found) => found,
                    (Some(Some(before)), Some(found)) => Some(before.with(found)),
                    (Some(_), _) => None,
                };
                bounds.insert(id, merged);
            }
        }
        for (id, Bounds { lower, upper }) in bounds.into_iter().filter_map(|(id, bounds)| Some((id, bounds?))) {
            let length = match modes.0.get(&id) {
                Some((Mode::Truncate(length), _)) => *length,
                _ => usize::MAX,
            };
            let text = matches!(modes.0.get(&id), Some((_, PrimitiveType::String)));
            metrics.lower.insert(id, hex(&lower.cut(length, text)));
            if let Some(upper) = upper.above(length, text) {
                metrics.upper.insert(id, hex(&upper));
            }
        }
        metrics
    }
}

/// The least and the greatest value, or something beyond them.
#[derive(Debug)]
struct Bounds {
    lower: Bound,
    upper: Bound,
}

#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Bound {
    Bool(bool),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    /// Of a decimal: the unscaled value.
    Decimal(i128),
    /// Compared byte by byte.
    Bytes(Vec<u8>),
}

impl Bounds {
    fn of(statistics: &Statistics, primitive: &PrimitiveType, physical: Physical) -> Option<Self> {
        let decimal = matches!(primitive, PrimitiveType::Decimal { .. });
        let (lower, upper) = match statistics {
            Statistics::Boolean(s) => (Bound::Bool(*s.min_opt()?), Bound::Bool(*s.max_opt()?)),
            Statistics::Int32(s) if decimal => (Bound::Decimal((*s.min_opt()?).into()), Bound::Decimal((*s.max_opt()?).into())),
            Statistics::Int64(s) if decimal => (Bound::Decimal((*s.min_opt()?).into()), Bound::Decimal((*s.max_opt()?).into())),
            Statistics::Int32(s) => (Bound::Int(*s.min_opt()?), Bound::Int(*s.max_opt()?)),
            Statistics::Int64(s) => (Bound::Long(*s.min_opt()?), Bound::Long(*s.max_opt()?)),
            Statistics::Float(s) => (Bound::Float(*s.min_opt()?), Bound::Float(*s.max_opt()?)),
            Statistics::Double(s) => (Bound::Double(*s.min_opt()?), Bound::Double(*s.max_opt()?)),
            Statistics::ByteArray(s) if physical == Physical::BYTE_ARRAY => {
                (Bound::Bytes(s.min_opt()?.data().to_vec()), Bound::Bytes(s.max_opt()?.data().to_vec()))
            }
            Statistics::FixedLenByteArray(s) if decimal => {
                (Bound::Decimal(big_endian(s.min_opt()?.data())?), Bound::Decimal(big_endian(s.max_opt()?.data())?))
            }
            Statistics::FixedLenByteArray(s) => (Bound::Bytes(s.min_opt()?.data().to_vec()), Bound::Bytes(s.max_opt()?.data().to_vec())),
            _ => return None,
        };
        // A NaN is not a bound.
        (lower.partial_cmp(&upper).is_some()).then_some(Self { lower, upper })
    }

    fn with(self, other: Self) -> Self {
        let pick = |a: Bound, b: Bound, wanted: Ordering| if b.partial_cmp(&a) == Some(wanted) { b } else { a };
        Self { lower: pick(self.lower, other.lower, Ordering::Less), upper: pick(self.upper, other.upper, Ordering::Greater) }
    }
}

fn big_endian(bytes: &[u8]) -> Option<i128> {
    let sign = if *bytes.first()? >= 0x80 { 0xFF } else { 0 };
    let mut wide = [sign; 16];
    wide.get_mut(16_usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(i128::from_be_bytes(wide))
}

impl Bound {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Bool(value) => vec![u8::from(value)],
            Self::Int(value) => value.to_le_bytes().to_vec(),
            Self::Long(value) => value.to_le_bytes().to_vec(),
            Self::Float(value) => value.to_le_bytes().to_vec(),
            Self::Double(value) => value.to_le_bytes().to_vec(),
            Self::Decimal(value) => crate::transform::minimal(&value.to_be_bytes()).to_vec(),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// The value cut to `length` characters or bytes: not greater.
    fn cut(self, length: usize, text: bool) -> Vec<u8> {
        let Self::Bytes(bytes) = self else { return self.bytes() };
        let end = end_of(&bytes, length, text);
        bytes[..end].to_vec()
    }

    /// The value cut to `length` characters or bytes, and its last one counted up where something was cut: not less. `None` when
    /// there is nothing above.
    fn above(self, length: usize, text: bool) -> Option<Vec<u8>> {
        let Self::Bytes(bytes) = self else { return Some(self.bytes()) };
        let end = end_of(&bytes, length, text);
        if end == bytes.len() {
            return Some(bytes);
        }
        if !text {
            let mut cut = bytes[..end].to_vec();
            while let Some(last) = cut.pop() {
                if let Some(next) = last.checked_add(1) {
                    cut.push(next);
                    return Some(cut);
                }
            }
            return None;
        }
        let mut cut: Vec<char> = std::str::from_utf8(&bytes[..end]).ok()?.chars().collect();
        while let Some(last) = cut.pop() {
            // The step over the surrogates is the one that `char` knows.
            if let Some(next) = (last..=char::MAX).nth(1) {
                cut.push(next);
                return Some(cut.into_iter().collect::<String>().into_bytes());
            }
        }
        None
    }
}

/// Where `length` characters (of a text) or bytes end.
fn end_of(bytes: &[u8], length: usize, text: bool) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(string) if text => string.char_indices().nth(length).map_or(bytes.len(), |(end, _)| end),
        _ => length.min(bytes.len()),
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes out of hexadecimal.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    (digits.len().is_multiple_of(2))
        .then(|| digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_cut_and_stay_bounds() {
        let text = |t: &str| Bound::Bytes(t.as_bytes().to_vec());
        assert_eq!(text("日本語").cut(2, true), "日本".as_bytes());
        assert_eq!(text("日本語").above(2, true).expect("above"), "日札".as_bytes());
        assert_eq!(text("ab").above(2, true).expect("whole"), b"ab");
        assert_eq!(text("\u{d7ff}x").above(1, true).expect("above"), "\u{e000}".as_bytes());
        assert_eq!(text("a\u{10ffff}b").above(2, true).expect("above"), b"b");
        assert_eq!(text("\u{10ffff}b").above(1, true), None);
        assert_eq!(Bound::Bytes(vec![1, 255, 3]).above(2, false).expect("above"), [2]);
        assert_eq!(Bound::Bytes(vec![255, 255, 3]).above(2, false), None);
        assert_eq!(Bound::Decimal(-129).bytes(), [0xFF, 0x7F]);
        assert_eq!(big_endian(&[0xFF, 0x7F]), Some(-129));
        assert_eq!(unhex(&hex(&[0, 171])), Some(vec![0, 171]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("é"), None);
    }

    #[test]
    fn modes_are_read() {
        assert_eq!(Mode::parse("Truncate(8)"), Some(Mode::Truncate(8)));
        for wrong in ["", "truncate", "truncate(0)", "some"] {
            assert_eq!(Mode::parse(wrong), None, "{wrong}");
        }
    }
}
