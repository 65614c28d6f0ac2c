//! The names of destination types in `streams.json`, and the Arrow type of each.

use std::fmt;

/// A stub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnType(pub String);

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
