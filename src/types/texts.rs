//! Blocks: text of all kinds, and JSON.

use super::block::{Block, both, printed, same_text};
use crate::columns::variable::{self, binary, text_from, verbatim};
use crate::config::column_type::ColumnType;
use crate::values::plain::{char, char_text, versioned_text};

pub(crate) static BLOCKS: &[Block] = &[
    // The characters themselves, in the client's encoding. `bpchar` keeps its blanks, which a cast would drop, and `xml`
    // leaves out the encoding that it was declared with, as the output function does.
    Block {
        types: &[(25, "text"), (1043, "varchar"), (1042, "bpchar"), (19, "name"), (142, "xml"), (1790, "refcursor")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| match wanted {
            ColumnType::Binary => both(binary(|field, out| verbatim(field, out))),
            _ => same_text(wanted),
        },
        examples: &["naïve 🦀"],
        remark: "`char(n)` keeps its blanks. `binary` carries the bytes unchecked, for databases in SQL_ASCII.",
    },
    // One byte of any value, zero included, which is not always a character.
    Block {
        types: &[(18, "char")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| wanted.is_text().then(|| both(text_from(char, char_text)))?,
        examples: &["x"],
        remark: "The internal type of one byte; bytes above 127 are printed in octal (`\\377`), as PostgreSQL 16 does.",
    },
    // The extensions' texts, sent as text is.
    Block {
        types: &[(0, "citext")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| same_text(wanted),
        examples: &["MiXed"],
        remark: "",
    },
    Block {
        types: &[(0, "ltree"), (0, "lquery"), (0, "ltxtquery"), (4072, "jsonpath")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| printed(wanted, versioned_text),
        examples: &["Top.Science"],
        remark: "",
    },
    // JSON: text in both; `jsonb_send` puts a version byte before it.
    Block {
        types: &[(114, "json")],
        exact: |_| ColumnType::Json,
        read: |_, wanted, _| match wanted {
            ColumnType::Json => both(variable::text()),
            _ => same_text(wanted),
        },
        examples: &[r#"{"a":  1, "a": 2}"#],
        remark: "The text as it was stored, spaces and duplicate keys included.",
    },
    Block {
        types: &[(3802, "jsonb")],
        exact: |_| ColumnType::Json,
        read: |_, wanted, _| match wanted {
            ColumnType::Json => both(text_from(versioned_text, |field, out| verbatim(field, out))),
            _ => printed(wanted, versioned_text),
        },
        examples: &[r#"{"a": 1.50}"#],
        remark: "The text that the server makes of it; numbers keep all digits.",
    },
];

/// Enums: the label (`enum_send`).
pub(crate) static ENUM: Block = Block {
    types: &[],
    exact: |_| ColumnType::String,
    read: |_, wanted, _| same_text(wanted),
    examples: &["very sad"],
    remark: "The label.",
};
