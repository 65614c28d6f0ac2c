//! `_olake_id`: the text by which OLake knows a row, made of the row's key in exactly OLake's way.
//!
//! The query sends the key's values as one array of texts ([`expression`]), which becomes one column: of a key of one column the
//! value; of several the MD5 of their values in the order of their names, each followed by `|`, in hexadecimal; of a row without a
//! key the same over all its columns. How a value is printed depends on its type ([`crate::values::olake`]).

use super::pg_type::{PgType, TypeKind};
use super::{ColumnPlan, Select};
use crate::columns::variable::text;
use crate::columns::{Column, Finished};
use crate::config::column_type::ColumnType;
use crate::postgres::catalog::ColumnInfo;
use crate::postgres::quote;
use crate::values::literal::array_text;
use crate::values::olake::{NULL, boolean, bytes, date, double, single, timestamp};
use crate::values::parts::array_binary;
use crate::values::{Fault, Step};
use md5::{Digest as _, Md5};
use std::sync::Arc;

/// Appends OLake's text of a value to the server's.
type Print = fn(&[u8], &mut Vec<u8>) -> Step;

/// Plans the column over the columns of the key, which are put in the order of their names; with the expression to select.
pub fn plan_olake_id(name: &str, key: &[&ColumnInfo]) -> (ColumnPlan, String) {
    let mut key = key.to_vec();
    key.sort_by(|a, b| a.name.cmp(&b.name));
    let texts: Vec<String> = key.iter().map(|column| of_output(column)).collect();
    let prints: Arc<[Option<Print>]> = key.iter().map(|column| print_of(&column.ty)).collect();
    let plan = ColumnPlan {
        name: name.to_owned(),
        source: name.to_owned(),
        declared: "text[]".to_owned(),
        wanted: ColumnType::String,
        field: ColumnType::String.field(name),
        key: false,
        binary: true,
        as_text: Select::Plain,
        column: Arc::new(move || Box::new(OlakeId { prints: prints.clone(), made: Vec::new(), ids: text()() })),
    };
    (plan, format!("ARRAY[{}]::pg_catalog.text[]", texts.join(", ")))
}

/// The text of a column as its output function prints it.
fn of_output(column: &ColumnInfo) -> String {
    let select = if matches!(column.ty.kind, TypeKind::Composite(_)) { Select::OutputOfRow } else { Select::Output };
    select.expression(&quote::identifier(&column.name))
}

/// How OLake prints a type's values, where it is not as the server does.
fn print_of(ty: &PgType) -> Option<Print> {
    if ty.kind != TypeKind::Base || ty.namespace != "pg_catalog" {
        return None;
    }
    Some(match ty.name.as_str() {
        "bool" => boolean,
        "float4" => single,
        "float8" | "numeric" => double,
        "date" => date,
        "timestamp" | "timestamptz" => timestamp,
        "bytea" => bytes,
        _ => return None,
    })
}

/// The column under construction.
struct OlakeId {
    /// One for each value of the key.
    prints: Arc<[Option<Print>]>,
    /// What the id of the row is made of.
    made: Vec<u8>,
    ids: Box<dyn Column>,
}

impl OlakeId {
    /// Adds a value of the key.
    fn add(&mut self, at: usize, value: Option<&[u8]>) -> Step {
        match (value, self.prints.get(at)) {
            (_, None) => return Err(Fault::malformed("the key of a row has more values than columns")),
            (None, _) => self.made.extend_from_slice(NULL),
            (Some(value), Some(None)) => self.made.extend_from_slice(value),
            (Some(value), Some(Some(print))) => print(value, &mut self.made)?,
        }
        if self.prints.len() > 1 {
            self.made.push(b'|');
        }
        Ok(())
    }

    fn push_key(&mut self, held: &mut usize, split: impl FnOnce(&mut dyn FnMut(Option<&[u8]>) -> Step) -> Step) -> Step {
        self.made.clear();
        let mut values = 0;
        split(&mut |value| {
            self.add(values, value)?;
            values += 1;
            Ok(())
        })?;
        match values {
            _ if values != self.prints.len() => Err(Fault::malformed(format!("the key of a row has {values} values"))),
            1 if std::str::from_utf8(&self.made).is_err() => {
                Err(Fault::unfit(quoted(&self.made), "not text, and OLake's id of a row with this key is that text"))
            }
            1 => self.ids.push(&self.made, held),
            _ => {
                let digest = Md5::digest(&self.made);
                let hexadecimal: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                self.ids.push(hexadecimal.as_bytes(), held)
            }
        }
    }
}

fn quoted(bytes: &[u8]) -> String {
    bytes.iter().take(32).fold(String::from("\\x"), |text, byte| text + &format!("{byte:02x}"))
}

impl Column for OlakeId {
    fn push(&mut self, field: &[u8], held: &mut usize) -> Step {
        self.push_key(held, |parts| array_binary(field, parts).map(drop))
    }

    fn push_text(&mut self, field: &[u8], held: &mut usize) -> Step {
        self.push_key(held, |parts| array_text(field, b',', parts).map(drop))
    }

    fn push_null(&mut self) {
        self.ids.push_null();
    }

    fn width(&self) -> usize {
        self.ids.width()
    }

    fn reserve(&mut self) {
        self.ids.reserve();
    }

    fn finish(&mut self) -> Finished {
        self.ids.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Wire;
    use super::super::payload::{base, column};
    use super::*;
    use arrow::array::AsArray;

    fn ids(types: &[(&str, &str)], rows: &[&str]) -> Vec<String> {
        let columns: Vec<ColumnInfo> = types.iter().map(|(name, ty)| column(name, base(1, ty, -1))).collect();
        let (plan, _) = plan_olake_id("_olake_id", &columns.iter().collect::<Vec<_>>());
        let mut column = plan.column(Wire::Text);
        for row in rows {
            column.push_text(row.as_bytes(), &mut 0).expect(row);
        }
        column.finish().expect("array").as_string::<i32>().iter().map(|id| id.expect("id").to_owned()).collect()
    }

    #[test]
    fn one_value_is_the_id() {
        assert_eq!(ids(&[("id", "int8")], &["{42}"]), ["42"]);
        assert_eq!(ids(&[("id", "text")], &[r#"{"a|b"}"#, "{NULL}"]), ["a|b", "<nil>"]);
        assert_eq!(ids(&[("id", "numeric")], &["{1234567.50}"]), ["1.2345675e+06"]);
        assert_eq!(ids(&[("id", "timestamptz")], &[r#"{"2024-01-01 00:00:00+00"}"#]), ["2024-01-01 00:00:00 +0000 UTC"]);
    }

    #[test]
    fn several_are_hashed_in_the_order_of_their_names() {
        // printf '1|x|' | md5sum; printf '<nil>|x|' | md5sum
        let expected = ["6826d722d895aa416b12c49a98fc3fff", "ec973b28fc734fd013b49a06b77b43d4"];
        let (plan, expression) = plan_olake_id("_olake_id", &[&column("b", base(25, "text", -1)), &column("a", base(23, "int4", -1))]);
        assert!(expression.starts_with("ARRAY[CASE WHEN \"a\"") && expression.contains("\"b\""), "{expression}");
        let mut column = plan.column(Wire::Binary);
        for first in [Some("1"), None] {
            let mut field = vec![0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 25, 0, 0, 0, 2, 0, 0, 0, 1];
            for value in [first, Some("x")] {
                field.extend(value.map_or(-1, |value| i32::try_from(value.len()).expect("short")).to_be_bytes());
                field.extend(value.unwrap_or_default().as_bytes());
            }
            column.push(&field, &mut 0).expect("row");
        }
        let array = column.finish().expect("array");
        assert_eq!(array.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_key_of_other_bytes_is_refused_or_hashed() {
        let key = column("id", base(17, "bytea", -1));
        let (plan, _) = plan_olake_id("_olake_id", &[&key]);
        assert!(plan.column(Wire::Text).push_text(br#"{"\\xff00"}"#, &mut 0).is_err());
        assert_eq!(ids(&[("id", "bytea")], &[r#"{"\\x6162"}"#]), ["ab"]);
        assert!(plan.column(Wire::Text).push_text(b"{a,b}", &mut 0).is_err());
    }
}
