//! The table of types: how PostgreSQL's types become columns.
//!
//! One block per type says which destination type fits it exactly, into which others it may go without loss, and how
//! both of its wire forms are read. A type that is not in the table travels as text, exactly as its output function
//! prints it. Knows nothing of rows and streams.

use super::block::{Block, Route, server_text};
use super::nested::{ARRAY, COMPOSITE, MULTIRANGE, RANGE};
use super::pg_type::{PgType, TypeKind};
use super::special::SpecialValues;
use super::texts::ENUM;
use super::{bytes, nested, numbers, shapes, systems, texts, times};
use crate::config::column_type::ColumnType;

/// The way from a type into `wanted`; `None` where there is none without loss.
pub(crate) fn route(ty: &PgType, wanted: &ColumnType, special: SpecialValues) -> Option<Route> {
    let route = (block(ty).read)(ty, wanted, special)?;
    Some(Route { binary: route.binary && ty.sends, ..route })
}

/// The destination type that alters no value.
pub(crate) fn exact(ty: &PgType) -> ColumnType {
    (block(ty).exact)(ty)
}

/// All blocks of named types, in the order of the documentation.
pub(crate) fn blocks() -> impl Iterator<Item = &'static Block> {
    [numbers::BLOCKS, texts::BLOCKS, bytes::BLOCKS, times::BLOCKS, systems::BLOCKS, shapes::BLOCKS, nested::BLOCKS].into_iter().flatten()
}

/// The block of a type.
pub(crate) fn block(ty: &PgType) -> &'static Block {
    match ty.kind {
        TypeKind::Enum(_) => &ENUM,
        TypeKind::Array { .. } => &ARRAY,
        TypeKind::Composite(_) => &COMPOSITE,
        TypeKind::Range(_) => &RANGE,
        TypeKind::Multirange(_) => &MULTIRANGE,
        TypeKind::Other => &OTHER,
        TypeKind::Base => {
            let named = |(oid, name): &(u32, &str)| if *oid == 0 { ty.extension && *name == ty.name } else { *oid == ty.oid };
            blocks().find(|block| block.types.iter().any(named)).unwrap_or(&OTHER)
        }
    }
}

/// Everything else: text.
pub(crate) static OTHER: Block = Block {
    types: &[],
    exact: |_| ColumnType::String,
    read: |_, wanted, _| server_text(wanted),
    examples: &[],
    remark: "What the server prints.",
};

#[cfg(test)]
mod tests {
    use super::super::payload::{array_of, base, composite, extension, numeric_type, range_over};
    use super::*;
    use crate::columns::Column;
    use crate::config::column_type::PLAIN_NAMES;
    use crate::values::samples::{damaged, hex};

    #[test]
    fn oids_are_those_of_the_server() {
        for (oid, name) in blocks().flat_map(|block| block.types).filter(|(oid, _)| *oid != 0) {
            // Types that are younger than the client library's list are held against a server by the end-to-end tests.
            let Some(ty) = tokio_postgres::types::Type::from_oid(*oid) else { continue };
            assert_eq!(ty.name(), *name);
        }
    }

    #[test]
    fn a_type_has_one_block() {
        let all: Vec<_> = blocks().flat_map(|block| block.types).collect();
        for (at, ty) in all.iter().enumerate() {
            assert!(!all[..at].contains(ty), "{ty:?}");
        }
    }

    #[test]
    fn every_type_can_be_text_and_what_it_is_exactly() {
        for (oid, name) in blocks().flat_map(|block| block.types) {
            let ty = if *oid == 0 { extension(name) } else { base(*oid, name, -1) };
            for wanted in ["string", "unknown", "array", "object"] {
                assert!(route(&ty, &wanted.parse().expect("type"), SpecialValues::Error).is_some(), "{name} to {wanted}");
            }
            assert!(route(&ty, &exact(&ty), SpecialValues::Error).is_some(), "{name} to {}", exact(&ty));
        }
    }

    #[test]
    fn a_type_of_the_users_own_with_a_known_name_is_not_taken_for_it() {
        let own = PgType { namespace: "public".into(), ..base(90_000, "inet", -1) };
        assert_eq!(exact(&own).to_string(), "string");
        assert!(route(&own, &ColumnType::String, SpecialValues::Error).is_some_and(|route| !route.binary));
        let citext = PgType { extension: false, ..extension("citext") };
        assert!(route(&citext, &ColumnType::String, SpecialValues::Error).is_some_and(|route| !route.binary));
        let mood = PgType { kind: TypeKind::Enum(Vec::new()), ..own };
        assert!(route(&mood, &ColumnType::String, SpecialValues::Error).is_some_and(|route| route.binary));
    }

    /// One binary value of each layout, as a server sent them.
    const SAMPLES: [&str; 22] = [
        "01",
        "7fff",
        "80000000",
        "7fffffffffffffff",
        "0002000000000002000c0bb8",
        "00000000d0000020",
        "6e61c3af766520f09fa680",
        "017b2261223a20317d",
        "0192f0c123457abc8def0123456789ab",
        "00000009aa80",
        "0101000020e6100000000000000000f03f0000000000000040",
        "0000000a8be62608ffffb2a8",
        "000000036c97ca88fffffffd0000000e",
        "0340001020010db8000000000000000000000001",
        "00000003666174000001c002697427730000007261740000010003",
        "00000006020202030201010000636174000100007261740001000066617400",
        "00000003000000000000000a0000000000000014000000000000000a000000000000000e000000000000000f",
        "3ff0000000000000400000000000000040080000000000004010000000000000",
        "0000000002000000000000000000000000000000003ff00000000000003ff0000000000000",
        "000300003f80000040200000c0400000",
        "000000020000000473697a65ffffffff00000005636f6c6f7200000003726564",
        "00000001000000010000001700000003000000010000000400000001ffffffff0000000400000003",
    ];

    /// The blocks' types, and one of each kind that is made of others.
    fn all_types() -> Vec<(PgType, &'static [&'static str])> {
        let own = |oid: u32, name: &str| if oid == 0 { extension(name) } else { base(oid, name, -1) };
        let named = blocks().flat_map(|block| block.types.iter().map(move |(oid, name)| (own(*oid, name), block.examples)));
        let int4 = || base(23, "int4", -1);
        let range = || range_over(int4());
        let nested = [
            PgType { kind: TypeKind::Enum(Vec::new()), ..extension("mood") },
            numeric_type(12, 2),
            array_of(int4()),
            array_of(array_of(base(25, "text", -1))),
            composite(&[("n", int4()), ("t", base(25, "text", -1)), ("d", array_of(base(1082, "date", -1)))]),
            range(),
            PgType { kind: TypeKind::Multirange(Box::new(range())), ..base(4451, "int4multirange", -1) },
            array_of(composite(&[("h", extension("hstore")), ("r", range())])),
        ];
        named.chain(nested.map(|ty| (ty.clone(), block(&ty).examples))).collect()
    }

    #[test]
    fn damage_never_panics_whatever_type_it_is_read_as() {
        let finished = |mut column: Box<dyn Column>| {
            column.push_null();
            assert_eq!(column.finish().map_or(2, |array| array.len()), 2);
        };
        for (ty, examples) in all_types() {
            // The four names of OLake's timestamps and the three of its texts are one type each.
            let plain = PLAIN_NAMES.iter().map(|(_, wanted)| wanted.clone());
            let plain = plain.filter(|wanted| !matches!(wanted, ColumnType::Text(_) | ColumnType::Timestamp(_)));
            for route in plain.chain([exact(&ty)]).filter_map(|wanted| route(&ty, &wanted, SpecialValues::Clamp)) {
                for sample in SAMPLES {
                    damaged(&hex(sample), |field| {
                        let mut column = (route.column)();
                        if column.push(field, &mut 0).is_ok() {
                            finished(column);
                        }
                    });
                }
                for example in examples {
                    damaged(example.as_bytes(), |field| {
                        let mut column = (route.column)();
                        if column.push_text(field, &mut 0).is_ok() {
                            finished(column);
                        }
                    });
                }
            }
        }
    }
}
