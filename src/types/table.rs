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
        TypeKind::Enum => &ENUM,
        TypeKind::Array { .. } => &ARRAY,
        TypeKind::Composite(_) => &COMPOSITE,
        TypeKind::Range(_) => &RANGE,
        TypeKind::Multirange(_) => &MULTIRANGE,
        TypeKind::Other => &OTHER,
        TypeKind::Base => {
            let named =
                |(oid, name): &(u32, &str)| if *oid == 0 { ty.namespace != "pg_catalog" && *name == ty.name } else { *oid == ty.oid };
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
    use super::super::payload::base;
    use super::*;

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
            let namespace = if *oid == 0 { "public" } else { "pg_catalog" };
            let ty = PgType { namespace: namespace.to_owned(), ..base(*oid, name, -1) };
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
        let mood = PgType { kind: TypeKind::Enum, ..own };
        assert!(route(&mood, &ColumnType::String, SpecialValues::Error).is_some_and(|route| route.binary));
    }
}
