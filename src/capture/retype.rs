//! Which changes of a column's type leave the values that are there as they are.
//!
//! `ALTER TABLE … ALTER … TYPE` writes the rows anew without a word in the log; a label of an enum or an attribute of a composite type changes without a row
//! being written at all. Promises: where a value of the new type may be another, or have another text, than the value of the old type that it was made of by
//! the assignment cast, the change is not taken for one that keeps values; nor is one of a column that kept its type, or got one that is stored alike, while
//! the rows were written anew. What `USING` makes of values that get a wider form (integer to bigint) is not known to anybody afterwards. Pure.

use crate::postgres::catalog::{ColumnInfo, TableInfo};
use crate::state::captured::KnownColumn;
use crate::types::pg_type::TypeKind;
use std::collections::BTreeMap;

/// A type as the log names it: `pg_attribute.atttypid` and `atttypmod`.
type Logged = (u32, i32);

/// What may have altered values.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// The column has another type.
    Type,
    /// The column was altered, and the rows were written anew: `USING`, or another generation expression, may have made other values.
    Values,
    /// A label has this name now.
    Label(String),
    /// A composite type has other attributes.
    Attributes,
}

/// The columns of a table by number, as they are to be remembered.
pub fn known(table: &TableInfo) -> BTreeMap<i16, KnownColumn> {
    table.columns.iter().map(|column| (column.attnum, remember(column))).collect()
}

fn remember(column: &ColumnInfo) -> KnownColumn {
    let mut known =
        KnownColumn { name: column.name.clone(), data_type: Some(column.logged), version: Some(column.version), ..KnownColumn::default() };
    for part in column.ty.walk() {
        match &part.kind {
            TypeKind::Enum(labels) => known.labels.extend(labels.iter().map(|label| (label.oid, label.name.clone()))),
            TypeKind::Composite(attributes) => known.attributes.extend(attributes.iter().map(|attribute| {
                format!("{}.{} {} {},{}", part.oid, attribute.number, attribute.name, attribute.ty.oid, attribute.ty.typmod)
            })),
            _ => {}
        }
    }
    known
}

/// What may have altered the values of a column that was known. Labels and attributes that are new are not in any row of before, but a row that was logged
/// without an attribute cannot be read with it. `rewritten`: the rows have been written anew, which not every change of a type asks for: then the type was
/// yet another one in between.
pub fn change(before: &KnownColumn, column: &ColumnInfo, rewritten: bool) -> Option<Change> {
    // An older release did not write it.
    let then = before.data_type?;
    let was_another = rewritten && then != column.logged && !is_always_rewritten(then.0);
    if was_another || !keeps_values(then, column.logged) {
        return Some(Change::Type);
    }
    let now = remember(column);
    let renamed = before.labels.iter().find_map(|(oid, label)| now.labels.get(oid).filter(|now| *now != label));
    let computed = rewritten && then == column.logged && before.version.is_some_and(|version| version != column.version);
    match renamed {
        Some(label) => Some(Change::Label(label.clone())),
        None if before.attributes != now.attributes => Some(Change::Attributes),
        None => computed.then_some(Change::Values),
    }
}

/// Whether the values of a column were written anew in a wider type: the same ones, if `USING` has not made others, which nobody can tell.
pub fn was_widened(before: &KnownColumn, column: &ColumnInfo) -> bool {
    before.data_type.is_some_and(|then| then != column.logged && is_always_rewritten(then.0) && keeps_values(then, column.logged))
}

const INT2: u32 = 21;
const INT4: u32 = 23;
const INT8: u32 = 20;
const TEXT: u32 = 25;
const VARCHAR: u32 = 1043;
const VARBIT: u32 = 1562;
const NUMERIC: u32 = 1700;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const TIME: u32 = 1083;
const TIMETZ: u32 = 1266;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;

/// The arrays of these types (`pg_type.dat`), whose modifiers are those of their elements.
const ARRAYS: [(u32, u32); 13] = [
    (1005, INT2),
    (1007, INT4),
    (1016, INT8),
    (1009, TEXT),
    (1015, VARCHAR),
    (1563, VARBIT),
    (1231, NUMERIC),
    (1021, FLOAT4),
    (1022, FLOAT8),
    (1183, TIME),
    (1270, TIMETZ),
    (1115, TIMESTAMP),
    (1185, TIMESTAMPTZ),
];

/// Whether every value of the type `before` is the same value of the type `now`.
fn keeps_values(before: Logged, now: Logged) -> bool {
    let array = |oid: u32| ARRAYS.iter().find(|(array, _)| *array == oid).map(|(_, element)| *element);
    match (array(before.0), array(now.0)) {
        (Some(then), Some(element)) => keeps((then, before.1), (element, now.1)),
        _ => keeps(before, now),
    }
}

/// Whether a wider type has another form on the disk.
fn is_always_rewritten(then: u32) -> bool {
    matches!(then, INT2 | INT4 | FLOAT4) || ARRAYS.iter().any(|(array, _)| *array == then)
}

fn keeps((then, before): Logged, (now, after): Logged) -> bool {
    // No modifier is no limit.
    let grows = after == -1 || (before != -1 && before <= after);
    match (then, now) {
        _ if (then, before) == (now, after) => true,
        (INT2, INT4 | INT8) | (INT4, INT8) | (FLOAT4, FLOAT8) | (VARCHAR, TEXT) => true,
        (TEXT, VARCHAR) => after == -1,
        (VARCHAR, VARCHAR) | (VARBIT, VARBIT) => grows,
        (TIME, TIME) | (TIMETZ, TIMETZ) | (TIMESTAMP, TIMESTAMP) | (TIMESTAMPTZ, TIMESTAMPTZ) => grows,
        // `(precision << 16 | scale) + 4`. More digits before the point; with others behind it a value has another text.
        (NUMERIC, NUMERIC) => after == -1 || (before != -1 && (before - 4) & 0xffff == (after - 4) & 0xffff && before <= after),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::pg_type::{Attribute, Label, PgType};

    const NONE: i32 = -1;

    #[test]
    fn labels_and_attributes_are_told_by_their_numbers() {
        let label = |oid, name: &str| Label { oid, name: name.to_owned() };
        let mood = |labels: &[(u32, &str)]| PgType {
            kind: TypeKind::Enum(labels.iter().map(|(oid, name)| label(*oid, name)).collect()),
            ..PgType::of_extension("mood")
        };
        let of = |ty: PgType| ColumnInfo { ty, ..TableInfo::of_columns(&[("v", "x")]).columns.remove(0) };
        let before = remember(&of(mood(&[(1, "sad"), (2, "ok")])));
        assert_eq!(change(&before, &of(mood(&[(3, "bad"), (1, "sad"), (2, "ok")])), false), None);
        assert_eq!(change(&before, &of(mood(&[(1, "blue"), (2, "ok"), (3, "sad")])), false), Some(Change::Label("blue".into())));
        let array = |ty: PgType| PgType { kind: TypeKind::Array { element: Box::new(ty), dimensions: 1 }, ..PgType::of_extension("_mood") };
        let before = remember(&of(array(mood(&[(1, "sad")]))));
        assert_eq!(change(&before, &of(array(mood(&[(1, "blue")]))), false), Some(Change::Label("blue".into())));

        let pair = |attributes: &[(i16, &str)]| {
            let attribute =
                |(number, name): &(i16, &str)| Attribute { number: *number, name: (*name).to_owned(), ty: PgType::built_in(23, "int4") };
            PgType { kind: TypeKind::Composite(attributes.iter().map(attribute).collect()), ..PgType::of_extension("pair") }
        };
        let before = remember(&of(pair(&[(1, "a"), (2, "b")])));
        assert_eq!(change(&before, &of(pair(&[(1, "a"), (2, "b")])), false), None);
        for other in [&[(1, "a")][..], &[(1, "a"), (3, "b")], &[(1, "a"), (2, "c")], &[(1, "a"), (2, "b"), (3, "c")]] {
            assert_eq!(change(&before, &of(pair(other)), false), Some(Change::Attributes), "{other:?}");
        }
        assert_eq!(change(&KnownColumn::default(), &of(pair(&[])), false), None);
    }

    fn numeric(precision: i32, scale: i32) -> Logged {
        (NUMERIC, (precision << 16 | scale) + 4)
    }

    #[test]
    fn a_type_that_came_and_went_is_seen_by_the_heap() {
        let of = |logged| ColumnInfo { logged, ..TableInfo::of_columns(&[("v", "x")]).columns.remove(0) };
        let before = remember(&of((VARCHAR, 11)));
        assert_eq!(change(&before, &of((VARCHAR, 24)), false), None);
        assert_eq!(change(&before, &of((VARCHAR, 24)), true), Some(Change::Type));
        // VACUUM FULL; `USING` that has made other values of the same type; SET NOT NULL.
        assert_eq!(change(&before, &of((VARCHAR, 11)), true), None);
        let altered = ColumnInfo { version: 7, ..of((VARCHAR, 11)) };
        assert_eq!(change(&before, &altered, true), Some(Change::Values));
        assert_eq!(change(&before, &altered, false), None);
        assert_eq!(change(&KnownColumn { version: None, ..before.clone() }, &altered, true), None);
        let (narrow, wide) = (remember(&of((INT4, NONE))), of((INT8, NONE)));
        assert_eq!(change(&narrow, &wide, true), None);
        assert!(was_widened(&narrow, &wide) && !was_widened(&before, &of((VARCHAR, 24))) && !was_widened(&narrow, &of((INT4, NONE))));
    }

    #[test]
    fn wider_types_keep_values() {
        for (before, now) in [
            ((INT4, NONE), (INT4, NONE)),
            ((INT2, NONE), (INT8, NONE)),
            ((FLOAT4, NONE), (FLOAT8, NONE)),
            ((VARCHAR, 14), (VARCHAR, 24)),
            ((VARCHAR, 14), (VARCHAR, NONE)),
            ((VARCHAR, 14), (TEXT, NONE)),
            ((TEXT, NONE), (VARCHAR, NONE)),
            (numeric(10, 2), numeric(12, 2)),
            (numeric(10, 2), (NUMERIC, NONE)),
            ((TIMESTAMP, 3), (TIMESTAMP, NONE)),
            ((1007, NONE), (1016, NONE)),
            ((1015, 14), (1009, NONE)),
        ] {
            assert!(keeps_values(before, now), "{before:?} to {now:?}");
        }
    }

    #[test]
    fn others_may_have_changed_them() {
        const JSONB: u32 = 3802;
        for (before, now) in [
            ((INT8, NONE), (INT4, NONE)),
            ((FLOAT8, NONE), (FLOAT4, NONE)),
            ((TEXT, NONE), (INT4, NONE)),
            ((TEXT, NONE), (JSONB, NONE)),
            ((TEXT, NONE), (VARCHAR, 14)),
            ((VARCHAR, 24), (VARCHAR, 14)),
            ((VARCHAR, NONE), (VARCHAR, 14)),
            ((NUMERIC, NONE), numeric(10, 2)),
            (numeric(12, 2), numeric(10, 2)),
            (numeric(10, 2), numeric(12, 3)),
            (numeric(10, 2), (INT4, NONE)),
            ((TIMESTAMP, NONE), (TIMESTAMP, 3)),
            ((TIMESTAMP, NONE), (TIMESTAMPTZ, NONE)),
            ((TIMESTAMP, NONE), (1082, NONE)),
            ((1042, 9), (1042, 14)),
            ((1016, NONE), (1007, NONE)),
            ((INT4, NONE), (1007, NONE)),
            ((50_000, NONE), (50_001, NONE)),
        ] {
            assert!(!keeps_values(before, now), "{before:?} to {now:?}");
        }
    }
}
