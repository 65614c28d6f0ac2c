//! Blocks: network addresses, text search, and what PostgreSQL says of itself.

use super::block::{Block, printed, server_text};
use crate::config::column_type::ColumnType;
use crate::values::network::{inet, macaddr, macaddr8};
use crate::values::plain::{pg_lsn, snapshot, tid};
use crate::values::search::{tsquery, tsvector};

pub(crate) static BLOCKS: &[Block] = &[
    Block {
        types: &[(869, "inet"), (650, "cidr")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| printed(wanted, inet),
        examples: &["10.0.0.0/8", "::ffff:1.2.3.4"],
        remark: "",
    },
    Block {
        types: &[(829, "macaddr")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| printed(wanted, macaddr),
        examples: &["08:00:2b:01:02:03"],
        remark: "",
    },
    Block {
        types: &[(774, "macaddr8")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| printed(wanted, macaddr8),
        examples: &["08:00:2b:01:02:03:04:05"],
        remark: "",
    },
    Block {
        types: &[(3614, "tsvector")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| printed(wanted, tsvector),
        examples: &["'fat':2A 'rat':3"],
        remark: "",
    },
    Block {
        types: &[(3615, "tsquery")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| printed(wanted, tsquery),
        examples: &["'fat' & ( 'rat' | !'cat' )"],
        remark: "",
    },
    Block {
        types: &[(3220, "pg_lsn")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| printed(wanted, pg_lsn),
        examples: &["16/B374D848"],
        remark: "",
    },
    Block {
        types: &[(27, "tid")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| printed(wanted, tid),
        examples: &["(0,1)"],
        remark: "",
    },
    Block {
        types: &[(2970, "txid_snapshot"), (5038, "pg_snapshot")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| printed(wanted, snapshot),
        examples: &["10:20:10,14,15"],
        remark: "",
    },
    // Their binary form is a number that only the server can turn into the name.
    Block {
        types: &[
            (24, "regproc"),
            (2202, "regprocedure"),
            (2203, "regoper"),
            (2204, "regoperator"),
            (2205, "regclass"),
            (2206, "regtype"),
            (4096, "regrole"),
            (4089, "regnamespace"),
            (3734, "regconfig"),
            (3769, "regdictionary"),
            (4191, "regcollation"),
        ],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| server_text(wanted),
        examples: &["pg_class"],
        remark: "The name, as the server prints it at that moment.",
    },
];

#[cfg(test)]
mod tests {
    use super::super::payload::{accepts, base, check, check_text, exactly, extension};
    use super::super::pg_type::{PgType, TypeKind};

    #[test]
    fn what_is_text_is_printed_as_the_server_prints_it() {
        // select encode(inet_send(x), 'hex'), format('%s', x), and so on, on PostgreSQL 15.
        let snapshot = "00000003000000000000000a0000000000000014000000000000000a000000000000000e000000000000000f";
        for (oid, name, binary, text) in [
            (869, "inet", "020800040a000000", "10.0.0.0/8"),
            (869, "inet", "022000040a000001", "10.0.0.1"),
            (869, "inet", "0380001000000000000000000000ffff01020304", "::ffff:1.2.3.4"),
            (869, "inet", "0340001020010db8000000000000000000000001", "2001:db8::1/64"),
            (650, "cidr", "022001040a000001", "10.0.0.1/32"),
            (650, "cidr", "0320011020010db8000000000000000000000000", "2001:db8::/32"),
            (829, "macaddr", "08002b010203", "08:00:2b:01:02:03"),
            (774, "macaddr8", "08002b0102030405", "08:00:2b:01:02:03:04:05"),
            (3614, "tsvector", "00000003666174000001c002697427730000007261740000010003", "'fat':2A 'it''s' 'rat':3"),
            (3615, "tsquery", "00000006020202030201010000636174000100007261740001000066617400", "'fat' & ( 'rat' | !'cat' )"),
            (3615, "tsquery", "000000030204000101080162000100006100", "'a' <-> 'b':*A"),
            (3220, "pg_lsn", "00000016b374d848", "16/B374D848"),
            (27, "tid", "000000000001", "(0,1)"),
            (2970, "txid_snapshot", snapshot, "10:20:10,14,15"),
            (5038, "pg_snapshot", snapshot, "10:20:10,14,15"),
        ] {
            exactly(base(oid, name, -1), "string");
            accepts(&base(oid, name, -1), &[]);
            check(base(oid, name, -1), "string", &[(binary, text, text)]);
        }
    }

    #[test]
    fn names_come_as_text_only() {
        for (oid, name) in super::BLOCKS.iter().flat_map(|block| block.types).filter(|(_, name)| name.starts_with("reg")) {
            exactly(base(*oid, name, -1), "string");
            accepts(&base(*oid, name, -1), &[]);
            check_text(base(*oid, name, -1), "string", &[("pg_class", "pg_class"), ("-", "-")]);
        }
    }

    #[test]
    fn what_has_no_block_comes_as_text_only() {
        let pseudo = PgType { kind: TypeKind::Other, ..extension("own") };
        for ty in [extension("cube"), base(1033, "aclitem", -1), pseudo, PgType { sends: false, ..extension("cube") }] {
            exactly(ty.clone(), "string");
            accepts(&ty, &[]);
            check_text(ty, "unknown", &[("(1, 2)", "(1, 2)"), ("", "")]);
        }
        // One that is known, on a server that does not send it.
        check_text(PgType { sends: false, ..base(869, "inet", -1) }, "string", &[("10.0.0.1", "10.0.0.1")]);
    }
}
