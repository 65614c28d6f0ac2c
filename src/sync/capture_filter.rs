//! The filter of a stream that is followed: what the server has to say before changes can be judged by it, and what cannot be.
//!
//! Promises: what could not be judged exactly is refused before anything is read, with what to do. The server is asked for the text of each value, for
//! collations, the labels of enums and replica identities; judging ([`crate::capture::judge`]) needs nobody.

use super::capture_plan::is_soft;
use super::plan::StreamPlan;
use crate::capture::comparable::Kind;
use crate::capture::judge::{Condition, Judge, Operator, Test, full};
use crate::capture::table::{self, CaptureTable, Generated, ReplicaIdentity};
use crate::config::filter::{self, Filter};
use crate::error::{Error, Result};
use crate::postgres::catalog::{ColumnInfo, TableInfo};
use crate::postgres::connect::Session;
use crate::postgres::quote;
use crate::types::pg_type::{PgType, TypeKind};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type;

/// The collation that means that of the database (`DEFAULT_COLLATION_OID`).
const DATABASE: u32 = 100;

/// What the server says of a column's texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Collation {
    /// Whether equal texts are equal bytes.
    deterministic: bool,
    /// Whether texts are in the order of their bytes.
    plain: bool,
}

/// Plans how changes of a stream are judged, if it is followed and has a filter.
///
/// # Errors
/// A comparison that is not exact without the server; a table whose log lacks what the filter asks for; a failing query.
pub async fn prepare(session: &Session, plan: &mut StreamPlan, table: &TableInfo) -> Result<()> {
    let (Some(capture), Some(filter)) = (&mut plan.capture, &plan.chosen.filter) else { return Ok(()) };
    let doing = |e: Error| e.doing(format!("plan the filter of {}", plan.id));
    let collations = collations(session, table, filter).await.map_err(doing)?;
    let mut conditions = Vec::new();
    let mut shown = Vec::new();
    for (condition, collation) in filter.conditions().iter().zip(collations) {
        let column = table.columns.iter().find(|column| column.name == condition.column);
        let column = column.ok_or_else(|| doing(Error::bug(format!("the filter's column {:?} is gone", condition.column))))?;
        let test = test(session, condition, column, collation).await.map_err(doing)?;
        shown.push(show(condition, column, &test));
        conditions.push(Condition { column: condition.column.clone(), test });
    }
    let found = table::load(session, &[table.oid]).await.map_err(doing)?;
    let written: Vec<String> = capture.source_columns().map(str::to_owned).collect();
    for found in &found {
        let log = Log { table: found, columns: &table.columns, sends_generated: session.server_version() >= 180_000 };
        let keeps_deleted = capture.applies && is_soft(&plan.chosen);
        let note = check(&plan.id, &conditions, &written, &log, capture.applies, keeps_deleted).map_err(doing)?;
        capture.tells_before &= note.is_none();
        plan.notes.extend(note);
    }
    if capture.by_ranges && !capture.tells_before {
        capture.by_ranges = false;
        plan.notes.push("whether a row comes into the filter or is yet to be copied the log does not tell: it is copied in one snapshot, whatever backfill.mode says".to_owned());
    }
    capture.filter = shown.join(if filter.is_any() { " or " } else { " and " });
    capture.judge = Some(Judge::new(&plan.id, conditions, filter.is_any()));
    Ok(())
}

/// A condition as the state keeps it: the same as long as it means the same, whatever its column is called.
fn show(condition: &filter::Condition, column: &ColumnInfo, test: &Test) -> String {
    let ty = match test {
        Test::Null(_) => "",
        Test::Compare { kind, .. } => match kind {
            Kind::Integer => "integer",
            Kind::Text => "text",
            _ => &column.ty.name,
        },
    };
    format!("{} {} {ty} {:?}", column.attnum, condition.operator, condition.value)
}

async fn test(session: &Session, condition: &filter::Condition, column: &ColumnInfo, collation: Collation) -> Result<Test> {
    let (Some(value), Some(operator)) = (&condition.value, Operator::parse(condition.operator)) else {
        return Ok(Test::Null(condition.operator == "="));
    };
    let kind = kind_of(&column.ty);
    let kind = kind.ok_or_else(|| refuse(column, format!("is of type {}, whose values only the server can compare", column.declared)))?;
    if matches!(kind, Kind::Text | Kind::Padded) {
        if !collation.deterministic {
            return Err(refuse(column, "has a collation by which different texts can be equal"));
        }
        if operator.is_of_order() && !collation.plain {
            return Err(refuse(
                column,
                format!(
                    "is text that is not sorted by its bytes (collation C), so whether it is {} a value only the server can tell",
                    condition.operator
                ),
            ));
        }
    }
    if matches!(kind, Kind::Date | Kind::Time | Kind::Timestamp) && is_relative(value) {
        return Err(Error::config(format!(
            "the filter compares column {:?} with {value:?}, which means another time in every run: rows would cease to be wanted without a change in the log",
            column.name
        ))
        .hint("write a date"));
    }
    let text = text_of(session, &filter::literal(value, column)).await?;
    let literal = kind.text(text.as_bytes()).map_err(|fault| Error::bug(format!("the server's text {text:?} of {value:?}: {fault:?}")))?;
    let literal = literal.into_owned();
    Ok(Test::Compare { operator, kind, literal })
}

/// A comparison that is not ours to make.
fn refuse(column: &ColumnInfo, why: impl std::fmt::Display) -> Error {
    Error::config(format!("changes cannot be filtered by column {:?}: it {why}", column.name)).hint(
        "compare another column, or remove the filter and have the publication filter (PostgreSQL 15: ALTER PUBLICATION … SET TABLE … WHERE …)",
    )
}

/// `now`, `today` and the like.
fn is_relative(value: &str) -> bool {
    let mut words = value.split(|c: char| !c.is_ascii_alphabetic());
    words.any(|word| ["now", "today", "tomorrow", "yesterday"].iter().any(|relative| word.eq_ignore_ascii_case(relative)))
}

/// How values of a type compare; `None` if only the server knows.
fn kind_of(ty: &PgType) -> Option<Kind> {
    if let TypeKind::Enum(labels) = &ty.kind {
        return Some(Kind::Enum(labels.iter().map(|label| label.name.clone()).collect()));
    }
    if ty.namespace != "pg_catalog" || ty.kind != TypeKind::Base {
        return None;
    }
    Some(match ty.name.as_str() {
        "int2" | "int4" | "int8" => Kind::Integer,
        "float4" => Kind::Single,
        "float8" => Kind::Double,
        "numeric" => Kind::Numeric,
        "bool" => Kind::Boolean,
        "date" => Kind::Date,
        "time" => Kind::Time,
        "timestamp" | "timestamptz" => Kind::Timestamp,
        "uuid" => Kind::Uuid,
        "bytea" => Kind::Bytes,
        "text" | "varchar" | "name" => Kind::Text,
        "bpchar" => Kind::Padded,
        _ => return None,
    })
}

/// What the output function prints of an expression.
async fn text_of(session: &Session, expression: &str) -> Result<String> {
    let answer = session.client.simple_query(&format!("SELECT {expression}")).await.map_err(|e| session.error(&e))?;
    let text = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    text.map(str::to_owned).ok_or_else(|| Error::source_db(format!("the server gave no value for {expression}")))
}

/// The collations of the columns that a filter asks for, in its order.
async fn collations(session: &Session, table: &TableInfo, filter: &Filter) -> Result<Vec<Collation>> {
    let version = session.server_version();
    let deterministic = if version >= 120_000 { "l.collisdeterministic" } else { "true" };
    // Of the provider `builtin` all locales sort by code points, which is the order of bytes.
    let database = if version >= 150_000 { "d.datlocprovider = 'b' OR d.datlocprovider = 'c' AND" } else { "" };
    let sql = format!(
        "SELECT a.attname::text, COALESCE({deterministic}, true), \
            (CASE WHEN a.attcollation = {DATABASE} THEN {database} d.datcollate IN ('C', 'POSIX') \
                  ELSE COALESCE(l.collprovider = 'b' OR l.collprovider = 'c' AND l.collcollate IN ('C', 'POSIX'), true) END) \
            AND pg_catalog.getdatabaseencoding() IN ('UTF8', 'SQL_ASCII') \
         FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation \
         CROSS JOIN pg_catalog.pg_database d \
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND d.datname = pg_catalog.current_database()"
    );
    let rows = session.client.query_typed(&sql, &[(&table.oid, Type::OID)]).await.map_err(|e| session.error(&e))?;
    let of = |condition: &filter::Condition| {
        let row = rows.iter().find(|row| row.get::<_, &str>(0) == condition.column);
        row.map(|row| Collation { deterministic: row.get(1), plain: row.get(2) })
            .ok_or_else(|| Error::schema(format!("the table has no column {:?} any more", condition.column)).hint("run sync again"))
    };
    filter.conditions().iter().map(of).collect()
}

/// A table, as far as its log goes.
struct Log<'t> {
    table: &'t CaptureTable,
    columns: &'t [ColumnInfo],
    /// Whether stored generated columns can be in it.
    sends_generated: bool,
}

impl Log<'_> {
    fn is_generated(&self, name: &String) -> bool {
        self.table.columns.iter().filter(|column| column.name == *name).any(|column| match column.generated {
            Generated::No => false,
            Generated::Stored => !self.sends_generated,
            Generated::Virtual => true,
        })
    }

    /// Whether a value can be so large that it is stored apart from its row.
    fn can_be_large(&self, name: &String) -> bool {
        let is_toastable = self.table.columns.iter().any(|column| column.name == *name && column.toastable);
        is_toastable && !self.columns.iter().any(|column| column.name == *name && is_short(&column.ty))
    }
}

/// Whether no value takes more than 24 bytes with its header, of which none is stored apart from its row (`toast_tuple_find_biggest_attribute`).
fn is_short(ty: &PgType) -> bool {
    let modifier = ty.typmod - 4;
    match (ty.namespace.as_str(), ty.name.as_str()) {
        _ if modifier < 0 => false,
        // Four digits in two bytes, and eight bytes of headers; characters of four bytes, and four bytes of header.
        ("pg_catalog", "numeric") => modifier >> 16 <= 27,
        ("pg_catalog", "varchar" | "bpchar") => modifier <= 5,
        _ => false,
    }
}

/// Whether the log has what the filter asks for; gives what the user should know. `applies`: changes replace rows; `keeps_deleted`: and deleted
/// ones stay there.
fn check(
    id: &str,
    conditions: &[Condition],
    written: &[String],
    log: &Log<'_>,
    applies: bool,
    keeps_deleted: bool,
) -> Result<Option<String>> {
    let names = || conditions.iter().map(|condition| &condition.column);
    if let Some(name) = names().find(|name| log.is_generated(name)) {
        return Err(Error::config(format!("the filter names column {name:?}, which is generated, and so is not in the log"))
            .hint("compare the columns that it is made of"));
    }
    let table = log.table;
    let lacks = |wanted: &dyn Fn(&table::Identity) -> bool| table.logged().find(|relation| !wanted(&relation.identity));
    let is_full = |identity: &table::Identity| identity.setting == ReplicaIdentity::Full;
    let alter = |relation: &table::Relation| full(&quote::qualified(&relation.namespace, &relation.name));
    // Of a value that is not in the log it is known that it is not NULL.
    let compared = conditions.iter().filter(|condition| matches!(condition.test, Test::Compare { .. })).map(|condition| &condition.column);
    for name in compared.filter(|name| log.can_be_large(name)) {
        if let Some(relation) = lacks(&|identity| is_full(identity) || identity.columns.contains(name)) {
            return Err(Error::config(format!(
                "the filter names column {name:?}, whose values can be large: those that an UPDATE does not touch are not in the log of {}.{}, and the row could not be judged",
                relation.namespace, relation.name
            ))
            .hint(format!(
                "{}; or, if all its values are short, ALTER TABLE {} ALTER COLUMN {} SET STORAGE PLAIN keeps them in the row",
                alter(relation),
                quote::qualified(&relation.namespace, &relation.name),
                quote::identifier(name)
            )));
        }
    }
    let told = |identity: &table::Identity| is_full(identity) || names().all(|name| identity.columns.contains(name));
    let Some(relation) = lacks(&told) else { return Ok(None) };
    if keeps_deleted {
        return Err(Error::config(format!(
            "deleted rows stay (delete_mode soft), and the log of {}.{} does not tell which rows the filter has kept: others would appear as deleted",
            relation.namespace, relation.name
        ))
        .hint(format!("{}; or set delete_mode to hard", alter(relation))));
    }
    let large: Vec<&str> = written.iter().filter(|name| log.can_be_large(name)).map(String::as_str).collect();
    if large.is_empty() {
        return Ok(None);
    }
    let what = match applies {
        true => "stops the stream, because such values are not in the log",
        false => "appears in the log without them",
    };
    Ok(Some(format!(
        "a row that comes into the filter by an UPDATE that does not touch its large values ({}) {what}; ALTER TABLE {id} REPLICA IDENTITY FULL has them logged",
        large.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_mean_another_time_in_every_run_are_found() {
        for value in ["now", "Today", "yesterday 12:00", "TOMORROW"] {
            assert!(is_relative(value), "{value}");
        }
        for value in ["2024-01-01", "infinity", "epoch", "January 1, 2024", "Nowember"] {
            assert!(!is_relative(value), "{value}");
        }
    }

    #[test]
    fn types_that_only_the_server_compares_have_no_kind() {
        assert_eq!(kind_of(&PgType::built_in(23, "int4")), Some(Kind::Integer));
        for name in ["interval", "timetz", "inet", "jsonb", "money", "bit", "char"] {
            assert_eq!(kind_of(&PgType::built_in(0, name)), None, "{name}");
        }
        assert_eq!(kind_of(&PgType::of_extension("citext")), None);
        assert_eq!(kind_of(&PgType { namespace: "public".into(), ..PgType::built_in(0, "text") }), None);
    }
}
