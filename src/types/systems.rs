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
