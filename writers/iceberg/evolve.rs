//! What a table's schema has to become, so that it takes the columns that are to be written. Pure.
//!
//! A field id stands for one column of the source for ever. Columns are found by the number that the source gave them, where the table
//! says which that was, else by name. New columns are added as optional, types are widened where the specification allows it
//! ("Schema Evolution"), a renamed column keeps its id, and a column that is gone stays, optional, and is NULL from then on. A column
//! that was dropped and made again is another column: the old one keeps its values under another name. Anything else is refused.

use super::schema::{Ids, iceberg_type};
use crate::table::ColumnNote;
use crate::{Error, Kind, Result};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, TimeUnit};
use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// The columns that are to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// In their order.
    pub(crate) columns: &'a ArrowSchema,
    /// Those that identify a row.
    pub(crate) key: &'a [String],
    /// What the source says of them.
    pub(crate) notes: &'a BTreeMap<String, ColumnNote>,
    /// Whether the key becomes the table's identifier fields.
    pub(crate) identifiers: bool,
}

/// Which column of the source a field id stands for: number in the source → field id.
pub(crate) type Origins = BTreeMap<u32, i32>;

/// What has to be done.
#[derive(Debug)]
pub(crate) struct Evolution {
    /// The schema that takes the columns, if that is another one than the table has.
    pub(crate) schema: Option<Schema>,
    /// The field that each wanted column goes to.
    pub(crate) fields: Vec<NestedFieldRef>,
    /// What is known of origins then.
    pub(crate) origins: Origins,
    /// What a person should know.
    pub(crate) notes: Vec<String>,
}

/// The schema of a new table.
pub(crate) fn fresh(wanted: &Wanted<'_>) -> Result<Schema> {
    let empty = Schema::builder().build().map_err(|e| invalid(&e))?;
    let evolution = evolve(&empty, 0, &Origins::new(), wanted)?;
    Ok(evolution.schema.unwrap_or(empty))
}

/// Compares the table's schema, whose last id ever is `last_id`, with the wanted columns.
///
/// # Errors
/// [`Kind::Schema`] for a column that the table cannot take without losing something.
pub(crate) fn evolve(current: &Schema, last_id: i32, origins: &Origins, wanted: &Wanted<'_>) -> Result<Evolution> {
    let mut ids = Ids(last_id);
    let mut fields: Vec<NestedField> = current.as_struct().fields().iter().map(|field| NestedField::clone(field)).collect();
    let (known, mut origins, mut notes) = (fields.len(), origins.clone(), Vec::new());
    origins.retain(|_, id| fields.iter().any(|field| field.id == *id));
    let mut places = Vec::with_capacity(wanted.columns.fields().len());
    for column in wanted.columns.fields() {
        let place = find(&fields[..known], &origins, column.name(), wanted.notes.get(column.name()));
        places.push(match place {
            Some(place) if !places.contains(&place) => place,
            _ => {
                // Top-level ids come first, in the order of the columns; those of nested fields follow.
                fields.push(NestedField::optional(ids.next(), column.name(), Type::Primitive(PrimitiveType::Boolean)));
                fields.len() - 1
            }
        });
    }
    let created = known == 0;
    for (place, column) in places.iter().zip(wanted.columns.fields()) {
        let field = &mut fields[*place];
        if *place >= known {
            *field.field_type = iceberg_type(column, &mut ids)?;
            // The rows that are there have no value for it.
            field.required = created && required(column, wanted);
        } else {
            let merged = merge(&field.field_type, column, &mut ids);
            *field.field_type = merged.map_err(|why| refused(field, column, &why))?;
            field.required &= required(column, wanted);
        }
        let note = wanted.notes.get(column.name());
        if let Some(doc) = note.and_then(|note| note.doc.as_ref()) {
            field.doc = Some(doc.clone());
        }
        if let Some(number) = note.and_then(|note| note.number) {
            origins.insert(number, field.id);
        }
    }
    rename(&mut fields, &places, wanted.columns, &mut notes);
    for (place, field) in fields.iter_mut().enumerate().take(known) {
        // Nobody gives it a value any more.
        field.required &= places.contains(&place);
    }
    let fields: Vec<NestedFieldRef> = fields.into_iter().map(Arc::new).collect();
    let identifiers = identifiers(current, &fields, wanted);
    let same = current.as_struct().fields() == fields && current.identifier_field_ids().collect::<HashSet<_>>() == identifiers;
    let schema = match same {
        true => None,
        false => {
            let builder = Schema::builder().with_fields(fields.clone()).with_identifier_field_ids(identifiers);
            Some(builder.build().map_err(|e| invalid(&e))?)
        }
    };
    Ok(Evolution { schema, fields: places.into_iter().map(|place| fields[place].clone()).collect(), origins, notes })
}

/// Whether a column never holds NULL.
fn required(column: &Field, wanted: &Wanted<'_>) -> bool {
    !column.is_nullable() || wanted.notes.get(column.name()).is_some_and(|note| note.required)
}

/// The field that a column has been written to so far.
fn find(fields: &[NestedField], origins: &Origins, name: &str, note: Option<&ColumnNote>) -> Option<usize> {
    let number = note.and_then(|note| note.number);
    if let Some(id) = number.and_then(|number| origins.get(&number)) {
        return fields.iter().position(|field| field.id == *id);
    }
    let place = fields.iter().position(|field| field.name == name)?;
    // A field of that name which stands for another column of the source is not the same column.
    let taken = number.is_some() && origins.values().any(|id| *id == fields[place].id);
    (!taken).then_some(place)
}

/// Gives the written fields the names of their columns. A field that is not written and has such a name gets another.
fn rename(fields: &mut [NestedField], places: &[usize], columns: &ArrowSchema, notes: &mut Vec<String>) {
    let wanted: HashSet<&str> = columns.fields().iter().map(|column| column.name().as_str()).collect();
    for place in (0..fields.len()).filter(|place| !places.contains(place)) {
        if wanted.contains(fields[place].name.as_str()) {
            let mut name = format!("{}_dropped_{}", fields[place].name, fields[place].id);
            while wanted.contains(name.as_str()) || fields.iter().any(|field| field.name == name) {
                name.push('_');
            }
            notes.push(format!(
                "column {:?} of the source is another one than before: the old values are now called {name:?}",
                fields[place].name
            ));
            fields[place].name = name;
        }
    }
    for (place, column) in places.iter().zip(columns.fields()) {
        if fields[*place].name != *column.name() {
            notes.push(format!("column {:?} is called {:?} now", fields[*place].name, column.name()));
            fields[*place].name.clone_from(column.name());
        }
    }
}

/// The identifier fields: the key where it can be one (specification, "Identifier Field IDs"), else those of before that still can.
fn identifiers(current: &Schema, fields: &[NestedFieldRef], wanted: &Wanted<'_>) -> HashSet<i32> {
    let fits = |field: &NestedFieldRef| {
        let float = matches!(*field.field_type, Type::Primitive(PrimitiveType::Float | PrimitiveType::Double));
        field.required && field.field_type.is_primitive() && !float
    };
    let find = |name: &String| fields.iter().find(|field| field.name == *name && fits(field)).map(|field| field.id);
    match wanted.key.iter().map(find).collect::<Option<HashSet<_>>>() {
        Some(ids) if wanted.identifiers && !ids.is_empty() => ids,
        _ => {
            let kept = |id: &i32| fields.iter().any(|field| field.id == *id && fits(field));
            let before: HashSet<i32> = current.identifier_field_ids().collect();
            if before.iter().all(kept) { before } else { HashSet::new() }
        }
    }
}

/// The type that holds what is there and what `column` brings; `Err` says why there is none.
fn merge(there: &Type, column: &Field, ids: &mut Ids) -> Result<Type, String> {
    match (there, column.data_type()) {
        (Type::Primitive(there), _) if !column.data_type().is_nested() => Ok(Type::Primitive(widen(there, column)?)),
        (Type::List(list), DataType::List(element)) => {
            let required = list.element_field.required && !element.is_nullable();
            let merged = merge(&list.element_field.field_type, element, ids)?;
            Ok(Type::List(ListType::new(Arc::new(NestedField::list_element(list.element_field.id, merged, required)))))
        }
        (Type::Map(map), DataType::Map(entries, _)) => {
            let DataType::Struct(pair) = entries.data_type() else { return Err("its map has no entries".to_owned()) };
            let [key, value] = &pair[..] else { return Err("its map has no entries".to_owned()) };
            // A key's type cannot change.
            let keys = merge(&map.key_field.field_type, key, ids)?;
            let values = merge(&map.value_field.field_type, value, ids)?;
            if keys != *map.key_field.field_type {
                return Err("the keys of a map cannot change".to_owned());
            }
            let required = map.value_field.required && !value.is_nullable();
            Ok(Type::Map(MapType::new(
                map.key_field.clone(),
                Arc::new(NestedField::map_value_element(map.value_field.id, values, required)),
            )))
        }
        (Type::Struct(there), DataType::Struct(fields)) => {
            let mut merged: Vec<NestedField> = there.fields().iter().map(|field| NestedField::clone(field)).collect();
            for field in &mut merged {
                let column = fields.iter().find(|column| *column.name() == field.name);
                field.required &= column.is_some_and(|column| !column.is_nullable());
                if let Some(column) = column {
                    *field.field_type = merge(&field.field_type, column, ids).map_err(|why| format!("field {:?}: {why}", field.name))?;
                }
            }
            for column in fields.iter().filter(|column| there.fields().iter().all(|field| field.name != *column.name())) {
                let id = ids.next();
                let data_type = iceberg_type(column, ids).map_err(|e| e.to_string())?;
                merged.push(NestedField::optional(id, column.name(), data_type));
            }
            Ok(Type::Struct(StructType::new(merged.into_iter().map(Arc::new).collect())))
        }
        (there, column) => Err(format!("the table has {there} and the source {column}")),
    }
}

/// The primitive type that holds both. The table's own where it holds the column's values as they are; else the column's, if the
/// specification allows the promotion ("Primitive Type Promotions" of version 2).
fn widen(there: &PrimitiveType, column: &Field) -> Result<PrimitiveType, String> {
    use PrimitiveType::{Date, Decimal, Double, Float, Int, Long, String as Text, Time, Timestamp, Timestamptz, Uuid};
    let Ok(Type::Primitive(new)) = iceberg_type(column, &mut Ids(0)) else { return Err(format!("Iceberg has no {}", column.data_type())) };
    let digits = |whole: &PrimitiveType| if *whole == Int { 10 } else { 19 };
    Ok(match (there, &new) {
        (there, new) if there == new => new.clone(),
        (Int, Long) | (Float, Double) => new,
        (Long, Int) | (Double, Float | Int) => there.clone(),
        (Decimal { precision, scale }, Decimal { precision: more, scale: same }) if scale == same => {
            if precision >= more {
                there.clone()
            } else {
                new
            }
        }
        // Text takes what has one printed form.
        (Text, Int | Long | PrimitiveType::Boolean | Decimal { .. } | Date | Time | Uuid)
            if column.data_type() != &DataType::FixedSizeBinary(16) =>
        {
            there.clone()
        }
        (Decimal { precision, scale }, whole @ (Int | Long)) if precision - scale >= digits(whole) => there.clone(),
        (Timestamp, Date) => there.clone(),
        (Timestamptz | Timestamp, _) if matches!(column.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) => {
            return Err(format!("the table has {there} and the source {new}: one has a time zone and the other has none"));
        }
        (there, new) => return Err(format!("the table has {there} and the source {new}")),
    })
}

fn refused(field: &NestedField, column: &Field, why: &str) -> Error {
    Error::new(Kind::Schema, format!("column {:?} cannot be written to the table that exists: {why}", column.name())).hint(format!(
        "give the column the table's type ({}) in the catalog file, or another destination_column_name, or load into a new table",
        field.field_type
    ))
}

fn invalid(e: &iceberg::Error) -> Error {
    Error::new(Kind::Schema, format!("the columns do not make up an Iceberg schema: {}", e.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(list: &[(&str, DataType, bool)]) -> ArrowSchema {
        ArrowSchema::new(list.iter().map(|(name, ty, null)| Field::new(*name, ty.clone(), *null)).collect::<Vec<_>>())
    }

    fn notes(list: &[(&str, u32)]) -> BTreeMap<String, ColumnNote> {
        list.iter().map(|(name, number)| ((*name).to_owned(), ColumnNote { number: Some(*number), ..ColumnNote::default() })).collect()
    }

    fn step(
        current: &Schema,
        last: i32,
        origins: &Origins,
        columns: &ArrowSchema,
        notes: &BTreeMap<String, ColumnNote>,
    ) -> Result<Evolution> {
        evolve(current, last, origins, &Wanted { columns, key: &["id".to_owned()], notes, identifiers: true })
    }

    fn shape(schema: &Schema) -> Vec<String> {
        let show = |f: &NestedFieldRef| format!("{} {} {}{}", f.id, f.name, f.field_type, if f.required { "!" } else { "" });
        schema.as_struct().fields().iter().map(show).collect()
    }

    #[test]
    fn a_table_lives_through_changes_with_its_ids() {
        let first = columns(&[("id", DataType::Int32, false), ("a", DataType::Float32, true), ("b", DataType::Utf8, false)]);
        let noted = notes(&[("id", 1), ("a", 2), ("b", 3)]);
        let empty = Schema::builder().build().expect("empty");
        let made = step(&empty, 0, &Origins::new(), &first, &noted).expect("create");
        let schema = made.schema.expect("new");
        assert_eq!(shape(&schema), ["1 id int!", "2 a float", "3 b string!"]);
        assert_eq!(schema.identifier_field_ids().collect::<Vec<_>>(), [1]);
        assert!(step(&schema, 3, &made.origins, &first, &noted).expect("same").schema.is_none());
        // id is widened, a is called c, b is gone, and another column is called a.
        let next = columns(&[("id", DataType::Int64, false), ("c", DataType::Float64, true), ("a", DataType::Boolean, true)]);
        let noted = notes(&[("id", 1), ("c", 2), ("a", 4)]);
        let changed = step(&schema, 3, &made.origins, &next, &noted).expect("evolve");
        let schema = changed.schema.expect("changed");
        assert_eq!(shape(&schema), ["1 id long!", "2 c double", "3 b string", "4 a boolean"]);
        assert_eq!(changed.fields.iter().map(|f| f.id).collect::<Vec<_>>(), [1, 2, 4]);
        // a is dropped and made again.
        let noted = notes(&[("id", 1), ("c", 2), ("a", 5)]);
        let changed = step(&schema, 4, &changed.origins, &next, &noted).expect("evolve");
        assert_eq!(shape(&changed.schema.expect("changed"))[3..], ["4 a_dropped_4 boolean", "5 a boolean"]);
        assert_eq!(changed.notes.len(), 1);
    }

    #[test]
    fn names_can_be_exchanged() {
        let first = columns(&[("id", DataType::Int32, false), ("a", DataType::Utf8, true), ("b", DataType::Utf8, true)]);
        let schema = fresh(&Wanted { columns: &first, key: &[], notes: &BTreeMap::new(), identifiers: true }).expect("create");
        let origins = Origins::from([(1, 1), (2, 2), (3, 3)]);
        let changed = step(&schema, 3, &origins, &first, &notes(&[("id", 1), ("a", 3), ("b", 2)])).expect("evolve");
        assert_eq!(shape(&changed.schema.expect("changed")), ["1 id int!", "2 b string", "3 a string"]);
        assert_eq!(changed.fields.iter().map(|f| f.id).collect::<Vec<_>>(), [1, 3, 2]);
    }

    #[test]
    fn an_existing_table_wins_where_it_can() {
        let there = columns(&[("id", DataType::Int64, true), ("n", DataType::Decimal128(20, 2), true), ("t", DataType::Utf8, true)]);
        let schema = fresh(&Wanted { columns: &there, key: &[], notes: &BTreeMap::new(), identifiers: true }).expect("create");
        let narrower = columns(&[("id", DataType::Int32, true), ("n", DataType::Decimal128(9, 2), true), ("t", DataType::Int64, true)]);
        assert!(step(&schema, 3, &Origins::new(), &narrower, &BTreeMap::new()).expect("fits").schema.is_none());
        for wrong in [("id", DataType::Utf8), ("n", DataType::Decimal128(20, 3)), ("t", DataType::Binary), ("id", DataType::Float64)] {
            let column = columns(&[(wrong.0, wrong.1.clone(), true)]);
            let error = step(&schema, 3, &Origins::new(), &column, &BTreeMap::new()).expect_err(wrong.0);
            assert!(error.kind() == Kind::Schema && error.advice().is_some(), "{error}");
        }
    }

    #[test]
    fn nested_fields_are_added_and_widened() {
        let of = |fields: Vec<Field>| columns(&[("s", DataType::Struct(fields.into()), true)]);
        let first = of(vec![Field::new("x", DataType::Int32, true)]);
        let schema = fresh(&Wanted { columns: &first, key: &[], notes: &BTreeMap::new(), identifiers: true }).expect("create");
        let next = of(vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Utf8, true)]);
        let changed = step(&schema, 2, &Origins::new(), &next, &BTreeMap::new()).expect("evolve").schema.expect("changed");
        let Type::Struct(fields) = changed.as_struct().fields()[0].field_type.as_ref() else { panic!("a struct") };
        assert_eq!(fields.fields().iter().map(|f| (f.id, f.name.as_str())).collect::<Vec<_>>(), [(2, "x"), (3, "y")]);
    }
}
