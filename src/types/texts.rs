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
            ColumnType::Binary => both(binary(verbatim)),
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
        remark: "The internal type of one byte; bytes above 127 are printed in octal (`\\377`), as PostgreSQL has done since 15.",
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
            ColumnType::Json => both(text_from(versioned_text, verbatim)),
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

#[cfg(test)]
mod tests {
    use super::super::payload::{accepts, base, check, decode, exactly, extension};
    use super::super::pg_type::{PgType, TypeKind};
    use crate::error::Kind;

    // Binary forms and texts were taken from PostgreSQL 15.

    #[test]
    fn text_of_all_kinds() {
        for (oid, name) in [(25, "text"), (1043, "varchar"), (1042, "bpchar"), (19, "name"), (142, "xml"), (1790, "refcursor")] {
            let ty = || base(oid, name, -1);
            exactly(ty(), "string");
            accepts(&ty(), &["binary"]);
            let rows = [("6e61c3af766520f09fa680", "naïve 🦀", "naïve 🦀"), ("", "", ""), ("c3bc2020", "ü  ", "ü  ")];
            for wanted in ["string", "array", "object", "unknown"] {
                check(ty(), wanted, &rows);
            }
            check(ty(), "binary", &[("c3bc2020", "ü  ", "c3bc2020"), ("", "", "")]);
            check(ty(), "string", &[("610a09085c", "a\n\t\u{8}\\", "a\n\t\u{8}\\"), ("5c4e", "\\N", "\\N")]);
        }
        let error = decode(base(25, "text", -1), "string", vec![Some(vec![0xFF])]).expect_err("not UTF-8");
        assert!(error.kind() == Kind::Source && error.to_string().contains("not UTF-8"), "{error}");
        assert!(decode(base(25, "text", -1), "binary", vec![Some(vec![0xFF])]).is_ok());
    }

    #[test]
    fn the_type_of_one_byte() {
        let ty = || base(18, "char", -1);
        exactly(ty(), "string");
        accepts(&ty(), &[]);
        check(ty(), "string", &[("78", "x", "x"), ("00", "", ""), ("c3", "\\303", "\\303"), ("5c", "\\", "\\")]);
    }

    #[test]
    fn labels_and_texts_of_extensions() {
        let mood = || PgType { kind: TypeKind::Enum(Vec::new()), ..extension("mood") };
        exactly(mood(), "string");
        accepts(&mood(), &[]);
        check(mood(), "string", &[("7665727920736164", "very sad", "very sad"), ("6772c3b6c39f6572", "größer", "größer")]);
        exactly(extension("citext"), "string");
        accepts(&extension("citext"), &[]);
        check(extension("citext"), "string", &[("4d69586564", "MiXed", "MiXed")]);
        for (ty, binary, text) in [
            (extension("ltree"), "01546f702e536369656e6365", "Top.Science"),
            (extension("lquery"), "01546f702e2a7b312c327d", "Top.*{1,2}"),
            (extension("ltxtquery"), "0141202620422a", "A & B*"),
            (base(4072, "jsonpath", -1), "01242e2261225b2a5d", "$.\"a\"[*]"),
        ] {
            exactly(ty.clone(), "string");
            accepts(&ty, &[]);
            check(ty, "string", &[(binary, text, text)]);
        }
    }

    #[test]
    fn json_is_the_text_that_was_stored() {
        let texts = [r#"{"a":  1, "a": 2}"#, "null"];
        let rows = [("7b2261223a2020312c202261223a20327d", texts[0], texts[0]), ("6e756c6c", texts[1], texts[1])];
        let binary = [
            ("017b2261223a205b6e756c6c2c2022c3bc225d2c202262223a20312e35307d", r#"{"a": [null, "ü"], "b": 1.50}"#),
            ("01227822", "\"x\""),
            ("01313030", "100"),
        ];
        for wanted in ["json", "string", "object"] {
            check(base(114, "json", -1), wanted, &rows);
            check(base(3802, "jsonb", -1), wanted, &binary.map(|(binary, text)| (binary, text, text)));
        }
        for (oid, name) in [(114, "json"), (3802, "jsonb")] {
            exactly(base(oid, name, -1), "json");
            accepts(&base(oid, name, -1), &["json"]);
        }
        for malformed in [&b"\x02{}"[..], b""] {
            let error = decode(base(3802, "jsonb", -1), "json", vec![Some(malformed.to_vec())]).expect_err("malformed");
            assert_eq!(error.kind(), Kind::Source);
        }
    }
}
