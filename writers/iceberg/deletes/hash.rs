//! Keys as 16 bytes: a keyed hash of their values. Pure.
//!
//! Nobody who chooses keys can choose them so that two have one hash, because the hash's own key is random and stays on this machine.

use crate::iceberg::schema::{convert, file_field};
use crate::{Error, Kind, Result};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
use arrow::row::{RowConverter, SortField};
use iceberg::spec::{NestedFieldRef, Type};
use siphasher::sip128::SipHasher24;
use std::sync::Arc;
use uuid::Uuid;

/// A key's hash; hashes are spread evenly, and the first half decides their order first.
pub(super) type KeyHash = (u64, u64);

/// Makes hashes of keys.
#[derive(Clone, Debug)]
pub(super) struct Hasher {
    secret: [u8; 16],
    /// The key's columns.
    pub(super) key: Vec<NestedFieldRef>,
    /// The types that their values are converted to.
    targets: Vec<Field>,
}

impl Hasher {
    /// For keys of these columns. `secret` is that of an index that is there.
    ///
    /// # Errors
    /// [`Kind::Schema`] for a column whose values cannot be compared.
    pub(super) fn new(key: &[NestedFieldRef], secret: Option<[u8; 16]>) -> Result<Self> {
        if key.is_empty() {
            return Err(Error::new(Kind::Bug, "an index of keys needs a key"));
        }
        for field in key {
            if !matches!(field.field_type.as_ref(), Type::Primitive(_)) {
                let message = format!("key column {:?} has the type {}, which no key can have", field.name, field.field_type);
                return Err(Error::new(Kind::Schema, message).hint("choose a key of plain columns"));
            }
        }
        let targets = key.iter().map(|field| file_field(field)).collect::<Result<Vec<_>>>()?;
        Ok(Self { secret: secret.unwrap_or_else(|| *Uuid::new_v4().as_bytes()), key: key.to_vec(), targets })
    }

    /// The secret, to be kept with the hashes.
    pub(super) fn secret(&self) -> [u8; 16] {
        self.secret
    }

    /// Says which bytes go into a hash: hashes that were made with another layout mean nothing.
    pub(super) fn layout(&self) -> String {
        let columns: Vec<String> = self.key.iter().map(|field| format!("{}:{}", field.id, field.field_type)).collect();
        format!("{}|rows of arrow {}", columns.join(","), arrow::ARROW_VERSION)
    }

    /// The hash of each row of these columns, which are the key's, in its order; `None` where a value is NULL.
    pub(super) fn hashes(&self, columns: &[ArrayRef]) -> Result<Vec<Option<KeyHash>>> {
        let bug = |e: arrow::error::ArrowError| Error::new(Kind::Bug, "cannot compare keys").because(e);
        let columns = columns.iter().zip(&self.targets).map(|(column, target)| Ok(plain(&convert(column, target)?)));
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        let converter = RowConverter::new(self.targets.iter().map(|target| SortField::new(target.data_type().clone())).collect());
        let rows = converter.and_then(|converter| converter.convert_columns(&columns)).map_err(bug)?;
        let hasher = SipHasher24::new_with_key(&self.secret);
        let hash = |(number, row): (usize, arrow::row::Row<'_>)| {
            columns.iter().all(|column| column.is_valid(number)).then(|| hasher.hash(row.data()).as_u64())
        };
        Ok(rows.iter().enumerate().map(hash).collect())
    }
}

/// Without the two zeros of floating-point numbers, which are equal.
fn plain(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float32 => Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(|value| value + 0.0)),
        DataType::Float64 => Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(|value| value + 0.0)),
        _ => column.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int32Array, Int64Array, StringArray};
    use iceberg::spec::{NestedField, PrimitiveType};

    #[test]
    fn equal_keys_have_equal_hashes_whatever_type_their_file_has() {
        let key = [
            Arc::new(NestedField::required(1, "a", Type::Primitive(PrimitiveType::Long))),
            Arc::new(NestedField::required(2, "b", Type::Primitive(PrimitiveType::String))),
        ];
        let hasher = Hasher::new(&key, None).expect("hasher");
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), Some("x"), None]));
        let long = hasher.hashes(&[Arc::new(Int64Array::from(vec![7, 8, 7])), text.clone()]).expect("hashes");
        let int = hasher.hashes(&[Arc::new(Int32Array::from(vec![7, 8, 7])), text]).expect("hashes");
        assert_eq!(long, int);
        assert_ne!(long[0], long[1]);
        assert_eq!(long[2], None);
        let again = Hasher::new(&key, Some(hasher.secret())).expect("hasher");
        assert_eq!(
            again.hashes(&[Arc::new(Int64Array::from(vec![7])), Arc::new(StringArray::from(vec!["x"]))]).expect("hashes")[0],
            long[0]
        );
        let other = Hasher::new(&key, None).expect("hasher");
        assert_ne!(
            other.hashes(&[Arc::new(Int64Array::from(vec![7])), Arc::new(StringArray::from(vec!["x"]))]).expect("hashes")[0],
            long[0]
        );
    }

    #[test]
    fn both_zeros_are_one_key() {
        let hasher = Hasher::new(&[Arc::new(NestedField::required(1, "a", Type::Primitive(PrimitiveType::Double)))], None).expect("hasher");
        let hashes = hasher.hashes(&[Arc::new(Float64Array::from(vec![0.0, -0.0, 1.0]))]).expect("hashes");
        assert_eq!(hashes[0], hashes[1]);
        assert_ne!(hashes[0], hashes[2]);
    }
}
