//! Relations of the log beside tables that have changed since.

use super::*;
use crate::capture::pgoutput::{RelationColumn, ReplicaIdentity};

/// A relation with these columns, of the type that test tables have.
fn relation(names: &[&str]) -> Relation {
    let column = |name: &&str| RelationColumn { name: (*name).to_owned(), key: false, type_oid: 0, typmod: -1 };
    Relation {
        oid: 0,
        namespace: "public".into(),
        name: "t".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: names.iter().map(column).collect(),
    }
}

/// A table whose columns have these numbers.
fn table(columns: &[(i16, &str)]) -> TableInfo {
    let names: Vec<(&str, &str)> = columns.iter().map(|(_, name)| (*name, "text")).collect();
    let mut table = TableInfo::of_columns(&names);
    for (column, (number, _)) in table.columns.iter_mut().zip(columns) {
        column.attnum = *number;
    }
    table.oid = 0;
    table
}

/// What the columns of a relation are called, and whether they are in doubt for good.
fn names(then: &[&str], now: &[(i16, &str)], known: &[(i16, &str)]) -> (Vec<String>, bool) {
    let known = known.iter().map(|(number, name)| (*number, KnownColumn { name: (*name).to_owned(), ..KnownColumn::default() })).collect();
    let written = now.iter().map(|(_, name)| *name).collect();
    let Reading { shape, doubt } = read(&relation(then), &table(now), &written, &known);
    let lost = doubt.is_some_and(|trouble| trouble.is_hopeless());
    (shape.columns.into_iter().map(|column| column.name).collect(), lost)
}

#[test]
fn columns_keep_their_numbers_under_other_names() {
    let check = |then: &[&str], now: &[(i16, &str)], known: &[(i16, &str)], expected: &[&str]| {
        assert_eq!(
            names(then, now, known),
            (expected.iter().map(|name| (*name).to_owned()).collect(), false),
            "{then:?} {now:?} {known:?}"
        );
    };
    let known = [(1, "id"), (2, "a"), (3, "b")];
    check(&["id", "a", "b"], &known, &known, &["id", "a", "b"]);
    // Renamed; and named as another one was.
    check(&["id", "a", "b"], &[(1, "id"), (2, "x"), (3, "b")], &known, &["id", "x", "b"]);
    check(&["id", "a", "b"], &[(1, "id"), (2, "b"), (3, "c")], &known, &["id", "b", "c"]);
    check(&["id", "a", "b"], &[(1, "id"), (2, "b"), (3, "a")], &known, &["id", "b", "a"]);
    // Gone, and one that has come with its name.
    check(&["id", "a", "b"], &[(1, "id"), (3, "b"), (4, "a")], &known, &["id", "", "b"]);
    check(&["id", "b", "a"], &[(1, "id"), (3, "b"), (4, "a")], &known, &["id", "b", "a"]);
    // One has come and another has gone, in either order.
    check(&["id", "a", "b"], &[(1, "id"), (3, "b"), (4, "n")], &known, &["id", "", "b"]);
    check(&["id", "a", "b", "n"], &[(1, "id"), (3, "b"), (4, "n")], &known, &["id", "", "b", "n"]);
    // One that came and went since.
    check(&["id", "a", "b", "short"], &known, &known, &["id", "a", "b", ""]);
    // Renamed several times, while others came: where it stands tells which it is.
    check(&["id", "between", "b"], &[(1, "id"), (2, "z"), (3, "b"), (4, "n")], &known, &["id", "z", "b"]);
    check(&["id", "between", "b", "m"], &[(1, "id"), (2, "z"), (3, "b"), (4, "n"), (5, "o")], &known, &["id", "z", "b", "n"]);
}

#[test]
fn what_cannot_be_told_is_in_doubt() {
    let known = [(1, "id"), (2, "a"), (3, "b")];
    // Renamed twice, and another one dropped, nobody knows when.
    assert!(names(&["id", "between"], &[(1, "id"), (2, "z")], &known).1);
    assert!(names(&["id", "between", "b"], &[(1, "id"), (2, "z"), (3, "b"), (5, "n")], &known).1);
    // A name at another place than it has; one that another column has now.
    assert!(names(&["id", "x", "b"], &[(1, "id"), (2, "z"), (3, "b"), (4, "x")], &known).1);
    assert!(names(&["id", "b", "a"], &[(1, "id"), (2, "z"), (3, "y")], &known).1);
    // An older state file knows no names.
    assert!(names(&["id", "a"], &[(1, "id"), (2, "z")], &[]).1);
    assert!(names(&["id", "a", "b"], &[(1, "id"), (2, "b"), (3, "a")], &[]).1);
    assert!(!names(&["id", "a"], &[(1, "id"), (2, "a"), (3, "n")], &[]).1);
}

#[test]
fn partitions_have_an_order_of_their_own() {
    let mut leaf = relation(&["b", "a", "id"]);
    leaf.oid = 7;
    let columns = [(1, "id"), (2, "a"), (3, "b")];
    let reading = read(&leaf, &table(&columns), &HashSet::from(["id", "a", "b"]), &BTreeMap::new());
    assert!(reading.doubt.is_none_or(|trouble| !trouble.disordered && trouble.strange.is_empty()));
    assert_eq!(reading.shape, leaf);
}
