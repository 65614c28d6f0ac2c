//! `docs/types.md`, made from the blocks: what it says is what the decoder does. Examples and results of policies are decoded, not
//! written; the prose around the tables is in `page/`.

use super::formats::{arrow, iceberg, parquet};
use super::pg_type::{Attribute, PgType, TypeKind};
use super::special::SpecialValues;
use super::table::{block, blocks, exact, route};
use crate::columns::show::displayable;
use crate::config::column_type::{ColumnType, DECIMAL_DIGITS_MAX, PLAIN_NAMES, TimestampName};
use crate::values::Fault;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::fmt::Write;

/// Names of SQL, where those of the catalog are others.
const SQL_NAMES: [(&str, &str); 10] = [
    ("bool", "boolean"),
    ("int2", "smallint"),
    ("int4", "integer"),
    ("int8", "bigint"),
    ("float4", "real"),
    ("float8", "double precision"),
    ("varchar", "varchar(n)"),
    ("bpchar", "char(n)"),
    ("char", "\"char\""),
    ("varbit", "bit varying"),
];

/// A row of the table: the types' names, and the one whose block is shown.
struct Sample {
    names: String,
    ty: PgType,
    /// Instead of the block's examples.
    examples: Option<&'static [&'static str]>,
}

/// The page, in Markdown.
pub fn page() -> String {
    let mut page = include_str!("page/intro.md").to_owned();
    page.push_str("| PostgreSQL | Catalog type | Arrow | Parquet | Iceberg | Examples | Also possible |\n|---|---|---|---|---|---|---|\n");
    let samples = samples();
    for Sample { names, ty, examples } in &samples {
        let wanted = exact(ty);
        let examples = examples.unwrap_or(block(ty).examples).iter().map(|text| example(ty, &wanted, text));
        let cells = [
            names.clone(),
            code(&wanted.to_string()),
            arrow(&wanted),
            parquet(&wanted),
            iceberg(&wanted),
            examples.collect::<Vec<_>>().join("<br>"),
            others(ty, &wanted).join(", "),
        ];
        row(&mut page, &cells);
    }
    page.push_str("\n## Remarks\n\n");
    for same in samples.chunk_by(|a, b| block(&a.ty).remark == block(&b.ty).remark) {
        let Some(first) = same.first() else { continue };
        let remark = block(&first.ty).remark;
        // Rows of one block need no other name than the first.
        let names = same.iter().filter(|sample| std::ptr::eq(*sample, first) || !std::ptr::eq(block(&sample.ty), block(&first.ty)));
        let names: Vec<&str> = names.map(|sample| sample.names.as_str()).collect();
        if !remark.is_empty() {
            let _ = writeln!(page, "- **{}**: {remark}", names.join(", "));
        }
    }
    page.push_str(
        "\n## What each policy makes of special values\n\nOf a column of the first type that is read into the second.\n\n\
         | PostgreSQL | Read as | Value | `error` | `null` | `clamp` | `string` |\n|---|---|---|---|---|---|---|\n",
    );
    for (name, ty, wanted, values) in policies() {
        for value in values {
            let results =
                SpecialValues::ALL.map(|policy| decoded(&ty, &wanted, policy, value).map_or("error".to_owned(), |shown| code(&shown)));
            let [error, null, clamp, string] = results;
            row(&mut page, &[code(name), code(&wanted.to_string()), code(value), error, null, clamp, string]);
        }
    }
    page.push_str(include_str!("page/limits.md"));
    page
}

/// All rows: one for each block of named types, or more where the exact type depends on what is declared; then one for each kind of
/// type that is made of others.
fn samples() -> Vec<Sample> {
    let sample = |names: &str, ty: PgType| Sample { names: names.to_owned(), ty, examples: None };
    let mut samples = Vec::new();
    for block in blocks() {
        let Some((oid, name)) = block.types.first() else { continue };
        let ty = named(*oid, name);
        let names = block.types.iter().map(|(_, name)| code(sql_name(name))).collect::<Vec<_>>().join(", ");
        match *name {
            "numeric" => {
                samples.push(sample("`numeric(12,2)`", numeric_12_2()));
                let examples = Some(&["12.30", "NaN", "-Infinity"][..]);
                samples.push(Sample { examples, ..sample("`numeric` without a precision, or with more than 38 digits", ty) });
            }
            "money" => samples.push(sample("`money` with two places", PgType { typmod: 2, ..ty })),
            "geometry" => {
                // PostGIS: the type in bits 2 to 7, the reference system above.
                samples.push(sample("`geometry(Point,4326)`, `geography`", PgType { typmod: 4326 << 8 | 1 << 2, ..ty.clone() }));
                samples.push(sample("`geometry` without a declared reference system", ty));
            }
            _ => samples.push(sample(&names, ty)),
        }
    }
    let int4 = || named(23, "int4");
    let array = |dimensions| PgType { kind: TypeKind::Array { element: Box::new(int4()), dimensions }, ..own("_int4") };
    let range = || PgType { kind: TypeKind::Range(Box::new(int4())), ..own("int4range") };
    let attributes = [("amount", numeric_12_2()), ("note", named(25, "text"))];
    let attributes = attributes.map(|(name, ty)| Attribute { number: 0, name: name.to_owned(), ty }).into();
    samples.extend([
        sample("enums", PgType { kind: TypeKind::Enum(Vec::new()), ..own("mood") }),
        sample("arrays, here `integer[]`", array(1)),
        Sample { examples: Some(&["{{1,2},{3,4}}"]), ..sample("arrays, here `integer[][]`", array(2)) },
        sample(
            "composite types, here `(amount numeric(12,2), note text)`",
            PgType { kind: TypeKind::Composite(attributes), ..own("pair") },
        ),
        sample("ranges, here `int4range`", range()),
        sample("multiranges, here `int4multirange`", PgType { kind: TypeKind::Multirange(Box::new(range())), ..own("int4multirange") }),
        Sample { examples: Some(&["(1, 2)"]), ..sample("any other type, here `cube`", own("cube")) },
    ]);
    samples
}

/// Columns whose types do not have all of these values.
fn policies() -> Vec<(&'static str, PgType, ColumnType, &'static [&'static str])> {
    let dates = || PgType { kind: TypeKind::Array { element: Box::new(named(1082, "date")), dimensions: 1 }, ..own("_date") };
    let interval = named(1186, "interval");
    let parts = [("months", ColumnType::Int32), ("days", ColumnType::Int32), ("microseconds", ColumnType::Int64)];
    let parts = ColumnType::Struct(parts.map(|(name, ty)| (name.to_owned(), ty)).into());
    let small = ColumnType::Decimal { precision: 5, scale: 0 };
    let infinities = &["infinity", "-infinity"][..];
    let timestamps = &["infinity", "-infinity", "294276-12-31 23:59:59"][..];
    let olake = ColumnType::Timestamp(TimestampName::Plain);
    vec![
        ("numeric(12,2)", numeric_12_2(), exact(&numeric_12_2()), &["NaN", "Infinity", "-Infinity"]),
        ("numeric", named(1700, "numeric"), small, &["Infinity", "123456"]),
        ("date", named(1082, "date"), ColumnType::Date, infinities),
        ("date", named(1082, "date"), olake, infinities),
        ("time", named(1083, "time"), ColumnType::Time, &["24:00:00"]),
        ("timestamp", named(1114, "timestamp"), ColumnType::LocalTimestamp, timestamps),
        ("timestamptz", named(1184, "timestamptz"), ColumnType::Timestamptz, infinities),
        ("interval", interval, parts, infinities),
        ("date[]", dates(), exact(&dates()), &["{2024-02-29,infinity}"]),
    ]
}

fn named(oid: u32, name: &str) -> PgType {
    if oid == 0 { own(name) } else { PgType::built_in(oid, name) }
}

/// A type that is not PostgreSQL's own.
fn own(name: &str) -> PgType {
    PgType::of_extension(name)
}

fn numeric_12_2() -> PgType {
    PgType { typmod: (12 << 16 | 2) + 4, ..PgType::built_in(1700, "numeric") }
}

fn sql_name(name: &'static str) -> &'static str {
    SQL_NAMES.iter().find(|(catalog, _)| *catalog == name).map_or(name, |(_, sql)| sql)
}

/// The server's text and how it arrives.
fn example(ty: &PgType, wanted: &ColumnType, text: &str) -> String {
    match decoded(ty, wanted, SpecialValues::Error, text) {
        Ok(shown) if shown == text => code(text),
        Ok(shown) => format!("{} → {}", code(text), code(&shown)),
        Err(fault) if matches!(*fault, Fault::Special { .. }) => format!("{} *by policy*", code(text)),
        Err(fault) => format!("{} {fault:?}", code(text)),
    }
}

/// A value as it arrives, shown as Arrow shows it.
fn decoded(ty: &PgType, wanted: &ColumnType, special: SpecialValues, text: &str) -> Result<String, Box<Fault>> {
    let wanted = special.effective(ty, wanted);
    let Some(route) = route(ty, &wanted, special) else { return Err(Fault::bug(format!("{wanted} is not possible"))) };
    let mut column = (route.column)();
    column.push_text(text.as_bytes(), &mut 0)?;
    let array = column.finish().map_err(|(_, fault)| fault)?;
    let array = displayable(&array).map_err(Fault::bug)?;
    let options = FormatOptions::new().with_null("NULL");
    let formatter = ArrayFormatter::try_new(&array, &options).map_err(Fault::bug)?;
    Ok(formatter.value(0).to_string())
}

/// The other types that a type can be read into.
fn others(ty: &PgType, exact: &ColumnType) -> Vec<String> {
    let possible = |wanted: &ColumnType| wanted != exact && route(ty, wanted, SpecialValues::Error).is_some();
    let again = |wanted: &ColumnType| match wanted {
        ColumnType::Text(_) => true,
        ColumnType::Timestamp(name) => *name != TimestampName::Plain,
        _ => false,
    };
    let plain = PLAIN_NAMES.iter().filter(|(_, wanted)| !again(wanted) && possible(wanted)).map(|(name, _)| code(name));
    let decimal = |precision| ColumnType::Decimal { precision, scale: 0 };
    let smallest = (1..=DECIMAL_DIGITS_MAX).find(|precision| route(ty, &decimal(*precision), SpecialValues::Error).is_some());
    let decimals = match (exact, smallest) {
        (ColumnType::Decimal { .. }, _) => Some("larger decimals".to_owned()),
        (_, Some(1)) => Some("any `decimal(p,s)`, value by value".to_owned()),
        (_, Some(precision)) => Some(format!("`decimal({precision},0)` and larger")),
        (_, None) => None,
    };
    plain.chain(decimals).collect()
}

/// A code span, fit for a cell of a table.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

fn row(page: &mut String, cells: &[String]) {
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_has_a_row_and_every_example_can_be_read() {
        let samples = samples();
        for block in blocks() {
            assert!(samples.iter().any(|sample| std::ptr::eq(super::block(&sample.ty), block)), "{:?}", block.types);
        }
        for Sample { names, ty, examples } in &samples {
            let examples = examples.unwrap_or(block(ty).examples);
            assert!(!examples.is_empty(), "{names}");
            for text in examples {
                let found = decoded(ty, &exact(ty), SpecialValues::Error, text).map_err(|fault| *fault);
                assert!(matches!(found, Ok(_) | Err(Fault::Special { .. })), "{names}: {text}: {found:?}");
                // As the server prints it, the text is itself when it is carried as text.
                assert_eq!(decoded(ty, &ColumnType::String, SpecialValues::Error, text).ok().as_deref(), Some(*text), "{names}");
            }
        }
    }

    #[test]
    fn a_policy_changes_something_for_every_value_but_those_that_never_fit() {
        for (name, ty, wanted, values) in policies() {
            for value in values {
                assert!(decoded(&ty, &wanted, SpecialValues::Error, value).is_err(), "{name}: {value}");
                assert!(decoded(&ty, &wanted, SpecialValues::String, value).is_ok(), "{name}: {value}");
                assert_eq!(decoded(&ty, &wanted, SpecialValues::Null, value).is_ok(), *value != "123456", "{name}: {value}");
            }
        }
    }
}
