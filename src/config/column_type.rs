//! The destination type of a column, as `streams.json` names it.
//!
//! Promises: each type maps to exactly one Arrow type. Its name is read and printed in `type_name`. Knows nothing
//! of the source: which conversions a source type allows is decided in `types`.

use arrow::datatypes::{DataType, Field, TimeUnit};
use std::collections::HashMap;
use std::sync::Arc;

/// Keys and names of Arrow's canonical extension types (Arrow columnar format, "Canonical Extension Types").
const EXTENSION_NAME: &str = "ARROW:extension:name";
const EXTENSION_METADATA: &str = "ARROW:extension:metadata";

/// Most digits of a decimal: what 128 bits hold.
pub const DECIMAL_DIGITS_MAX: u8 = 38;

/// The destination type of a column. Names in quotes are those of `streams.json`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// "boolean".
    Boolean,
    /// "int16", ours.
    Int16,
    /// "integer_small".
    Int32,
    /// "integer".
    Int64,
    /// "number_small".
    Float32,
    /// "number".
    Float64,
    /// "decimal(p,s)", ours: 1 ≤ p ≤ 38, 0 ≤ s ≤ p.
    Decimal {
        /// All digits.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// "string".
    String,
    /// "binary", ours.
    Binary,
    /// "date", ours: days since 1970-01-01.
    Date,
    /// "time", ours: µs since midnight, without a zone.
    Time,
    /// "local_timestamp", ours: µs since 1970-01-01 00:00 on a wall clock of unknown zone.
    LocalTimestamp,
    /// "timestamptz", ours: µs since 1970-01-01 00:00 UTC. Only an instant may become one.
    Timestamptz,
    /// OLake's timestamps: an instant in µs, whatever the spelling; times without a zone are taken as UTC.
    Timestamp(TimestampName),
    /// "uuid", ours.
    Uuid,
    /// "json", ours: the text as the server sent it.
    Json,
    /// OLake's names for text that holds more than a scalar.
    Text(TextName),
    /// "interval", ours: text in ISO 8601 (`P1Y2M3DT4H5M6.789S`), signs by field.
    Interval,
    /// "wkb", ours: a geometry as ISO WKB, without its reference system.
    Wkb,
    /// `list<T>`, ours.
    List(Box<ColumnType>),
    /// `struct<name:T,…>`, ours; a name with other characters than letters, digits and `_` stands in double quotes.
    Struct(Vec<(String, ColumnType)>),
    /// `map<string,string>`, ours; values may be NULL.
    Map,
}

/// How OLake spelled a timestamp. All mean the same here; the spelling is kept so that a file is not rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimestampName {
    /// "timestamp".
    Plain,
    /// "timestamp_milli".
    Milli,
    /// "timestamp_micro".
    Micro,
    /// "timestamp_nano".
    Nano,
}

/// How OLake named a column that it carries as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextName {
    /// "array".
    Array,
    /// "object".
    Object,
    /// "unknown".
    Unknown,
}

/// Names without parameters, in the order in which they are offered to people.
pub const PLAIN_NAMES: [(&str, ColumnType); 24] = [
    ("boolean", ColumnType::Boolean),
    ("int16", ColumnType::Int16),
    ("integer_small", ColumnType::Int32),
    ("integer", ColumnType::Int64),
    ("number_small", ColumnType::Float32),
    ("number", ColumnType::Float64),
    ("string", ColumnType::String),
    ("binary", ColumnType::Binary),
    ("date", ColumnType::Date),
    ("time", ColumnType::Time),
    ("local_timestamp", ColumnType::LocalTimestamp),
    ("timestamptz", ColumnType::Timestamptz),
    ("timestamp", ColumnType::Timestamp(TimestampName::Plain)),
    ("timestamp_milli", ColumnType::Timestamp(TimestampName::Milli)),
    ("timestamp_micro", ColumnType::Timestamp(TimestampName::Micro)),
    ("timestamp_nano", ColumnType::Timestamp(TimestampName::Nano)),
    ("uuid", ColumnType::Uuid),
    ("json", ColumnType::Json),
    ("interval", ColumnType::Interval),
    ("wkb", ColumnType::Wkb),
    ("map<string,string>", ColumnType::Map),
    ("array", ColumnType::Text(TextName::Array)),
    ("object", ColumnType::Text(TextName::Object)),
    ("unknown", ColumnType::Text(TextName::Unknown)),
];

impl ColumnType {
    /// The Arrow type of the column. Exactly one for each variant.
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, i8::try_from(*scale).unwrap_or(i8::MAX)),
            Self::String | Self::Json | Self::Interval | Self::Text(_) => DataType::Utf8,
            Self::Binary | Self::Wkb => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::LocalTimestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Timestamptz | Self::Timestamp(_) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Uuid => DataType::FixedSizeBinary(16),
            Self::List(element) => DataType::List(Arc::new(element.field("element"))),
            Self::Struct(parts) => DataType::Struct(parts.iter().map(|(name, ty)| ty.field(name)).collect()),
            Self::Map => {
                let pair = [Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)];
                DataType::Map(Arc::new(Field::new("entries", DataType::Struct(pair.into_iter().collect()), false)), false)
            }
        }
    }

    /// A field of this type. Always nullable, NOT NULL in the source or not: a column may lose its constraint later,
    /// and files with and without the flag would then not be one table.
    pub fn field(&self, name: &str) -> Field {
        Field::new(name, self.arrow(), true).with_metadata(self.metadata())
    }

    /// Names the extension type where Arrow's own types do not say enough.
    fn metadata(&self) -> HashMap<String, String> {
        let pairs: &[(&str, &str)] = match self {
            Self::Uuid => &[(EXTENSION_NAME, "arrow.uuid")],
            // The specification asks for metadata that is present and empty.
            Self::Json => &[(EXTENSION_NAME, "arrow.json"), (EXTENSION_METADATA, "")],
            // GeoArrow's name for it (specification, "Extension names").
            Self::Wkb => &[(EXTENSION_NAME, "geoarrow.wkb"), (EXTENSION_METADATA, "{}")],
            _ => &[],
        };
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// Whether the column is plain text in the destination, under whichever name.
    pub fn is_text(&self) -> bool {
        matches!(self, Self::String | Self::Text(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, ty: ColumnType, arrow: DataType) {
        assert_eq!(name.parse::<ColumnType>().expect(name), ty);
        assert_eq!(ty.to_string(), name);
        assert_eq!(ty.arrow(), arrow, "{name}");
    }

    #[test]
    fn every_name_prints_back() {
        for (name, ty) in PLAIN_NAMES {
            check(name, ty.clone(), ty.arrow());
            let list = ColumnType::List(Box::new(ty));
            check(&format!("list<{name}>"), list.clone(), list.arrow());
        }
    }

    #[test]
    fn names_have_the_arrow_types_that_the_contract_says() {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let local = DataType::Timestamp(TimeUnit::Microsecond, None);
        check("integer_small", ColumnType::Int32, DataType::Int32);
        check("integer", ColumnType::Int64, DataType::Int64);
        check("number_small", ColumnType::Float32, DataType::Float32);
        check("timestamp", ColumnType::Timestamp(TimestampName::Plain), utc.clone());
        check("timestamp_nano", ColumnType::Timestamp(TimestampName::Nano), utc.clone());
        check("timestamptz", ColumnType::Timestamptz, utc);
        check("local_timestamp", ColumnType::LocalTimestamp, local);
        check("object", ColumnType::Text(TextName::Object), DataType::Utf8);
        check("uuid", ColumnType::Uuid, DataType::FixedSizeBinary(16));
        check("decimal(38,38)", ColumnType::Decimal { precision: 38, scale: 38 }, DataType::Decimal128(38, 38));
        let element = Field::new("element", DataType::Decimal128(12, 2), true);
        check(
            "list<decimal(12,2)>",
            ColumnType::List(Box::new(ColumnType::Decimal { precision: 12, scale: 2 })),
            DataType::List(Arc::new(element)),
        );
    }

    #[test]
    fn extension_types_are_named_in_the_field() {
        let json = ColumnType::Json.field("j");
        assert_eq!(json.metadata().get(EXTENSION_NAME).map(String::as_str), Some("arrow.json"));
        assert_eq!(json.metadata().get(EXTENSION_METADATA).map(String::as_str), Some(""));
        let uuid = ColumnType::Uuid.field("u");
        assert_eq!(uuid.metadata().get(EXTENSION_NAME).map(String::as_str), Some("arrow.uuid"));
        assert!(ColumnType::String.field("s").metadata().is_empty());
    }
}
