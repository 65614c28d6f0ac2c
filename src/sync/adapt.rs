//! A catalog beside a table that has changed since: columns of followed streams are found by their numbers, which the state has. Pure.
//!
//! Promises: nothing that the user has chosen is left out without a note. A stream that is not followed is none of its business: what its
//! catalog names and the table does not have is an error there.

use crate::config::naming;
use crate::config::selection::{Chosen, ChosenColumn};
use crate::config::streams::Property;
use crate::postgres::catalog::{ColumnInfo, TableInfo};
use crate::state::State;
use crate::state::captured::KnownColumn;
use crate::types;
use std::collections::BTreeMap;

/// The columns of followed streams by stream id, and by number.
pub type Known = BTreeMap<String, BTreeMap<i16, KnownColumn>>;

/// What a state knows.
pub fn known(state: &State) -> Known {
    state.lakeward.captures.iter().map(|(id, captured)| (id.clone(), captured.columns.clone())).collect()
}

/// What a column of the catalog is now.
enum Now<'t> {
    Same(&'t ColumnInfo),
    Renamed(&'t ColumnInfo),
    Gone,
    Unknown,
}

/// Brings what the catalog says of the columns up to what the table is.
pub fn adapt(chosen: &mut Chosen, table: &TableInfo, known: &BTreeMap<i16, KnownColumn>) {
    let mut columns = std::mem::take(&mut chosen.columns);
    columns.retain_mut(|column| adapt_one(column, chosen, table, known));
    chosen.columns = columns;
    let mut unselected = std::mem::take(&mut chosen.unselected);
    unselected.retain_mut(|column| adapt_one(column, chosen, table, known));
    chosen.unselected = unselected;
    // The columns of the destination that the keys have become keep their names.
    for flatten in &mut chosen.flatten {
        if let Now::Renamed(renamed) = now(&flatten.source, table, known) {
            flatten.source.clone_from(&renamed.name);
        }
    }
    if let Some(filter) = &mut chosen.filter {
        let names: Vec<String> = filter.conditions().iter().map(|condition| condition.column.clone()).collect();
        for name in names {
            if let Now::Renamed(renamed) = now(&name, table, known) {
                chosen.notes.push(format!("column {name:?} of the filter is called {:?} now", renamed.name));
                filter.rename(&name, &renamed.name);
            }
        }
    }
}

/// Says whether the column is still there.
fn adapt_one(column: &mut ChosenColumn, chosen: &mut Chosen, table: &TableInfo, known: &BTreeMap<i16, KnownColumn>) -> bool {
    let now = match now(&column.source, table, known) {
        Now::Same(now) => now,
        Now::Renamed(now) => {
            chosen.notes.push(format!("column {:?} of the catalog is called {:?} now", column.source, now.name));
            let properties = &mut chosen.stream.type_schema.properties;
            if let Some(property) = properties.get(&column.source).cloned() {
                properties.insert(now.name.clone(), property);
            }
            let own = |name: &str| naming::column(name, "", chosen.metadata.use_source_column_names);
            if column.destination == own(&column.source) {
                column.destination = own(&now.name);
            }
            if let Some(ty) = chosen.metadata.column_types.get(&column.source).cloned() {
                chosen.metadata.column_types.insert(now.name.clone(), ty);
            }
            column.source.clone_from(&now.name);
            now
        }
        Now::Gone => {
            chosen.notes.push(format!("column {:?} of the catalog has been dropped: what was copied of it stays", column.source));
            return false;
        }
        Now::Unknown => return true,
    };
    // A type that discover has written is that of the column as it was.
    let property = chosen.stream.type_schema.properties.get(&column.source);
    let then = property.and_then(|value| serde_json::from_value::<Property>(value.clone()).ok()).map(|property| property.source_type);
    let is_other = then.is_some_and(|then| !then.is_empty() && then != now.declared);
    // So are the attributes in it, whose type keeps its name.
    let exact = types::exact_type(&now.ty).to_string();
    let has_others = column.types.iter().any(|ty| ty.contains("struct<") && *ty != exact);
    if (is_other || has_others) && !chosen.metadata.column_types.contains_key(&column.source) {
        column.types.clear();
    }
    true
}

fn now<'t>(name: &str, table: &'t TableInfo, known: &BTreeMap<i16, KnownColumn>) -> Now<'t> {
    if let Some(same) = table.columns.iter().find(|column| column.name == name) {
        return Now::Same(same);
    }
    let is_it = |known: &KnownColumn| known.name == name || known.former.iter().any(|former| former == name);
    // The latest to have had the name.
    let Some((number, _)) = known.iter().rev().find(|(_, known)| is_it(known)) else { return Now::Unknown };
    table.columns.iter().find(|column| column.attnum == *number).map_or(Now::Gone, Now::Renamed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::captured::Captured;

    #[test]
    fn columns_are_found_by_their_numbers() {
        let names = |list: &[(i16, &str)]| {
            list.iter()
                .map(|(number, name)| (*number, KnownColumn { name: (*name).to_owned(), ..KnownColumn::default() }))
                .collect::<BTreeMap<_, _>>()
        };
        let mut captured =
            Captured { columns: names(&[(1, "a"), (2, "b"), (3, "c")]), ..Captured::new(String::new(), String::new(), None) };
        captured.reshape(&names(&[(1, "a"), (2, "x"), (3, "c")]));
        captured.reshape(&names(&[(1, "a"), (2, "y")]));
        let table = TableInfo::of_columns(&[("a", "int4"), ("y", "int4")]);
        let found = |name: &str| match now(name, &table, &captured.columns) {
            Now::Same(column) | Now::Renamed(column) => column.name.clone(),
            Now::Gone => "gone".to_owned(),
            Now::Unknown => "unknown".to_owned(),
        };
        assert_eq!(["a", "b", "x", "y", "c", "z"].map(found), ["a", "y", "y", "y", "gone", "unknown"]);
    }
}
