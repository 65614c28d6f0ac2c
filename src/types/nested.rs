//! Blocks of types that are made of others: arrays, composite types, ranges, multiranges, hstore.
//!
//! A part has its own block; whether the whole can be read in binary depends on all of its parts.

use super::block::{Block, Route, both, server_text};
use super::pg_type::{Attribute, PgType, TypeKind};
use super::special::SpecialValues;
use super::table::{exact, route};
use crate::columns::list::{Cut, SplitList, list};
use crate::columns::map::map;
use crate::columns::record::record;
use crate::config::column_type::ColumnType;
use crate::values::literal::{array_text, composite_text, hstore_text, int_vector_text, multirange_text, range_text};
use crate::values::parts::{composite_binary, hstore_binary, multirange_binary, range_binary};
use arrow::datatypes::{DataType, Fields};
use std::sync::Arc;

/// Arrays, as lists as deep as the column declares dimensions.
pub(crate) static ARRAY: Block = Block {
    types: &[],
    exact: |ty| match &ty.kind {
        TypeKind::Array { element, dimensions } => (0..*dimensions).fold(exact(element), |inner, _| ColumnType::List(Box::new(inner))),
        _ => ColumnType::String,
    },
    read: |ty, wanted, special| match &ty.kind {
        TypeKind::Array { element, .. } if matches!(wanted, ColumnType::List(_)) => array(ty, element, wanted, special),
        _ => server_text(wanted),
    },
    examples: &["{1,NULL,3}"],
    remark: "A list of what the elements are, nested as deep as the column is declared (`int[][]` is a list of lists). PostgreSQL does not \
             hold values to that: a value of another depth is an error that names the row's key; name the depth that the values have \
             in `column_types` (`list<list<integer>>`), or `string`. An empty array fits any depth. Where the numbering starts (`[0:2]={…}`) \
             is not kept.",
};

/// Composite types, as structs.
pub(crate) static COMPOSITE: Block = Block {
    types: &[],
    exact: |ty| match &ty.kind {
        TypeKind::Composite(attributes) if !attributes.is_empty() => {
            ColumnType::Struct(attributes.iter().map(|attribute| (attribute.name.clone(), exact(&attribute.ty))).collect())
        }
        _ => ColumnType::String,
    },
    read: |ty, wanted, special| match &ty.kind {
        TypeKind::Composite(attributes) if matches!(wanted, ColumnType::Struct(_)) => composite(attributes, wanted, special),
        _ => server_text(wanted),
    },
    examples: &["(1.5,\"a \"\"b\"\"\")"],
    remark: "A struct with the type's attributes. One whose attributes are all NULL is a struct of NULLs, not NULL.",
};

/// Ranges, as structs.
pub(crate) static RANGE: Block = Block {
    types: &[],
    exact: |ty| match &ty.kind {
        TypeKind::Range(bound) => range_of(&exact(bound)),
        _ => ColumnType::String,
    },
    read: |ty, wanted, special| match &ty.kind {
        TypeKind::Range(bound) if matches!(wanted, ColumnType::Struct(_)) => range(bound, wanted, special),
        _ => server_text(wanted),
    },
    examples: &["[1,10)", "(,6)", "empty"],
    remark: "A missing bound is NULL. An empty range has no bounds and `empty` is true. As `string` it is what the server prints.",
};

/// Multiranges, as lists of their ranges.
pub(crate) static MULTIRANGE: Block = Block {
    types: &[],
    exact: |ty| match &ty.kind {
        TypeKind::Multirange(range) => ColumnType::List(Box::new(exact(range))),
        _ => ColumnType::String,
    },
    read: |ty, wanted, special| match (&ty.kind, wanted) {
        (TypeKind::Multirange(range), ColumnType::List(inner)) => {
            let Route { binary, column } = route(range, inner, special)?;
            let fields = vec![Arc::new(inner.field("element"))];
            Some(Route {
                binary,
                column: list(fields, column, inner.to_string(), Cut::By(Arc::new(multirange_binary)), Arc::new(multirange_text)),
            })
        }
        _ => server_text(wanted),
    },
    examples: &["{[1,3),[5,8)}"],
    remark: "A list of ranges.",
};

pub(crate) static BLOCKS: &[Block] = &[Block {
    types: &[(0, "hstore")],
    exact: |_| ColumnType::Map,
    read: |_, wanted, _| match wanted {
        ColumnType::Map => {
            let DataType::Map(entries, _) = wanted.arrow() else { return None };
            both(map(entries, hstore_binary, hstore_text))
        }
        _ => server_text(wanted),
    },
    examples: &["\"color\"=>\"red\", \"size\"=>NULL"],
    remark: "A value may be NULL.",
}];

fn array(ty: &PgType, element: &PgType, wanted: &ColumnType, special: SpecialValues) -> Option<Route> {
    // A list of lists is one array of two dimensions, unless the elements are lists themselves (vectors, domains over arrays).
    let (mut fields, mut at) = (Vec::new(), wanted);
    while let ColumnType::List(inner) = at {
        fields.push(Arc::new(inner.field("element")));
        if let Some(Route { binary, column }) = route(element, inner, special) {
            let delimiter = element.delimiter;
            let text: SplitList = match ty.name.as_str() {
                "int2vector" | "oidvector" => Arc::new(int_vector_text),
                _ => Arc::new(move |field, parts| array_text(field, delimiter, parts)),
            };
            return Some(Route { binary, column: list(fields, column, inner.to_string(), Cut::Array, text) });
        }
        at = inner;
    }
    None
}

fn composite(attributes: &[Attribute], wanted: &ColumnType, special: SpecialValues) -> Option<Route> {
    let ColumnType::Struct(parts) = wanted else { return None };
    let same_names = parts.len() == attributes.len() && parts.iter().zip(attributes).all(|((name, _), a)| *name == a.name);
    if !same_names {
        return None;
    }
    let routes: Vec<Route> = parts.iter().zip(attributes).map(|((_, wanted), a)| route(&a.ty, wanted, special)).collect::<Option<_>>()?;
    let binary = routes.iter().all(|route| route.binary);
    let columns: Vec<_> = routes.into_iter().map(|route| route.column).collect();
    let count = columns.len();
    let text = Arc::new(move |field: &[u8], parts: &mut crate::values::Parts<'_>| composite_text(field, count, parts));
    Some(Route { binary, column: record(fields_of(wanted)?, columns, Arc::new(composite_binary), text, false) })
}

fn range(bound: &PgType, wanted: &ColumnType, special: SpecialValues) -> Option<Route> {
    let ColumnType::Struct(parts) = wanted else { return None };
    let (_, wanted_bound) = parts.first()?;
    if *wanted != range_of(wanted_bound) {
        return None;
    }
    let bounds = || route(bound, wanted_bound, special);
    let flag = crate::columns::fixed::boolean;
    let Route { binary, column: lower } = bounds()?;
    let columns = vec![lower, bounds()?.column, flag(), flag(), flag()];
    Some(Route { binary, column: record(fields_of(wanted)?, columns, Arc::new(range_binary), Arc::new(range_text), false) })
}

/// The struct of a range with bounds of this type.
fn range_of(bound: &ColumnType) -> ColumnType {
    let flag = ColumnType::Boolean;
    let parts = [("lower", bound), ("upper", bound), ("lower_inclusive", &flag), ("upper_inclusive", &flag), ("empty", &flag)];
    ColumnType::Struct(parts.map(|(name, ty)| (name.to_owned(), ty.clone())).into())
}

fn fields_of(wanted: &ColumnType) -> Option<Fields> {
    match wanted.arrow() {
        DataType::Struct(fields) => Some(fields),
        _ => None,
    }
}

/// The fields of `wanted`, if it is the struct of exactly these parts.
pub(crate) fn same_parts(wanted: &ColumnType, parts: &[(&str, ColumnType)]) -> Option<Fields> {
    let ColumnType::Struct(found) = wanted else { return None };
    let same = !parts.is_empty() && found.iter().map(|(name, ty)| (name.as_str(), ty)).eq(parts.iter().map(|(name, ty)| (*name, ty)));
    same.then(|| fields_of(wanted))?
}

#[cfg(test)]
#[path = "nested_tests.rs"]
mod tests;
