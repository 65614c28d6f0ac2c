//! What a stream is to read now: everything, or what is new since the last run. Compares the state with the destination and asks the
//! server what the next run will have to know.

use super::StreamRun;
use super::increment::{CursorField, comparable};
use super::keeper::Keeper;
use super::plan::StreamPlan;
use super::settle::Mark;
use crate::error::{Error, Kind, Result};
use crate::postgres::catalog::TableInfo;
use crate::postgres::connect::{self, ConnectOptions};
use crate::postgres::exported::Exported;
use crate::state::State;
use crate::state::cursor::{Cursor, unsettled};
use crate::state::olake::{self, OlakeChunk, Progress};
use crate::state::progress::Moment;
use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat};
use serde_json::Value;
use std::collections::BTreeMap;
use writers::{Commit, Table};

/// More transactions than this in a cursor are worth a word: something has been open for long.
const SEEN_MANY: usize = 100_000;

/// What one load of a stream reads, and what becomes of it.
#[derive(Clone, Debug)]
pub struct Aim {
    /// Whether the rows take the place of those in the destination.
    pub how: Commit,
    /// The condition of every query.
    pub filter: Option<String>,
    /// For an incremental stream: how far it has been read when the load is committed.
    pub next: Option<Cursor>,
    /// Of the rows that are added, those that belong to a first load that OLake has not finished.
    pub first_load: Option<String>,
    /// What the load is based on: chunks that were staged for another basis are of no use.
    pub basis: String,
}

impl Aim {
    /// Everything.
    pub fn everything(filter: Option<String>) -> Self {
        Self { how: Commit::Replace, filter, next: None, first_load: None, basis: String::new() }
    }
}

/// Where the last run has left a stream.
#[derive(Debug)]
enum Last {
    /// Nothing is known: a first run.
    Never,
    /// Our own word.
    Ours(Box<Cursor>),
    /// Values without a snapshot, and perhaps chunks that are still unread, from OLake's part of the state.
    Olake(Progress),
}

/// What `stream` is to read in the exported snapshot. `quiet` says that no transaction was open that could still write.
///
/// # Errors
/// A state that contradicts the destination: appending would lose rows or double them.
pub async fn aim<T: Table>(stream: &StreamRun<T>, table: &T, exported: &Exported, keeper: &Keeper, quiet: bool) -> Result<Aim> {
    let plan = &stream.plan;
    let Some(field) = &plan.cursor else { return Ok(Aim::everything(plan.filter.clone())) };
    let aim = go_on(stream, table, field, exported, keeper, quiet).await;
    aim.map_err(|e| if e.kind() == Kind::State { e.doing(format!("state file {}", keeper.path().display())) } else { e })
}

async fn go_on<T: Table>(
    stream: &StreamRun<T>,
    table: &T,
    field: &CursorField,
    exported: &Exported,
    keeper: &Keeper,
    quiet: bool,
) -> Result<Aim> {
    let plan = &stream.plan;
    let last = keeper.read(|state| last(state, field, &stream.info))?;
    if let Last::Ours(cursor) = &last {
        agree(plan, cursor, table)?;
    }
    if !matches!(last, Last::Never) {
        table.check_append().map_err(|e| Error::from(e).doing(format!("add to {}", plan.id)))?;
    }
    let mut aim = towards(plan, field, &stream.info, last, &exported.moment, exported.server_version)?;
    aim.next = Some(next(plan, field, &stream.info, exported, &aim, quiet).await?);
    Ok(aim)
}

/// The same for looking only: what would be read by a run at `now`.
pub fn outlook(plan: &StreamPlan, info: &TableInfo, state: &State, now: &Moment, server_version: u32) -> Result<Aim> {
    match &plan.cursor {
        Some(field) => towards(plan, field, info, last(state, field, info)?, now, server_version),
        None => Ok(Aim::everything(plan.filter.clone())),
    }
}

fn last(state: &State, field: &CursorField, info: &TableInfo) -> Result<Last> {
    let ours = state.lakeward.cursors.get(&format!("{}.{}", info.namespace, info.name)).filter(|ours| ours.field == field.text);
    if let Some(ours) = ours {
        consistent(ours, field, info)?;
    }
    let columns: Vec<&str> = field.columns.iter().map(|column| column.name.as_str()).collect();
    let olake = Progress::of(state, &info.namespace, &info.name, &columns)?;
    let said = |value: &Option<Value>| value.as_ref().and_then(olake::text);
    Ok(match (ours, olake) {
        // If OLake has gone on since, its word is the newer one.
        (Some(ours), olake) if olake.as_ref().is_none_or(|olake| olake.values.first() == Some(&said(&ours.shown))) => {
            Last::Ours(Box::new(ours.clone()))
        }
        (_, Some(olake)) => Last::Olake(olake),
        _ => Last::Never,
    })
}

/// The parts of a cursor must say the same: a value that something else has changed would lose rows or double them.
fn consistent(cursor: &Cursor, field: &CursorField, info: &TableInfo) -> Result<()> {
    let id = format!("{}.{}", info.namespace, info.name);
    let damaged = |what: String| {
        Err(Error::state(format!("lakeward.cursors.{id}: {what}"))
            .hint("restore the file from a copy, or load the table anew: clear-destination for this stream, then sync"))
    };
    if cursor.values.len() != field.columns.len() {
        return damaged(format!("found {} values for the cursor_field {:?}", cursor.values.len(), field.text));
    }
    // The column may have had another type when the value was shown.
    let shown_as = |value: &str, ty: &&str| olake_value(value, ty);
    for (value, shown) in cursor.values.iter().zip([&cursor.shown, &cursor.shown_second]) {
        if let (Some(value), Some(shown)) = (value, shown)
            && !SHOWN_AS.iter().any(|ty| shown_as(value, ty) == *shown)
        {
            return damaged(format!("values says {value} and shown says {shown}: one of them was changed by something else"));
        }
    }
    Ok(())
}

/// The destination must hold what the state says was written last.
fn agree<T: Table>(plan: &StreamPlan, cursor: &Cursor, table: &T) -> Result<()> {
    let found = table.committed().map(|token| Mark::read(token).map_or_else(|| token.0.clone(), |mark| mark.load));
    if found.as_deref() == Some(&cursor.load) || cursor.load.is_empty() {
        return Ok(());
    }
    let found = found.map_or_else(|| "it has no commit of this table".to_owned(), |load| format!("its last commit is load {load}"));
    Err(Error::state(format!(
        "{}: the state file says that load {} was committed last, but in the destination {found}: adding to it would lose rows or double them",
        plan.id, cursor.load
    ))
    .hint("name the state file that belongs to this destination, or load the table anew: clear-destination for this stream (or `lakeward state repair`, which only leaves it out of the state), then sync"))
}

fn towards(plan: &StreamPlan, field: &CursorField, info: &TableInfo, last: Last, now: &Moment, server_version: u32) -> Result<Aim> {
    let filtered = |condition: Option<String>| match (&plan.filter, condition) {
        (Some(filter), Some(condition)) => Some(format!("({filter}) AND ({condition})")),
        (filter, condition) => condition.or_else(|| filter.clone()),
    };
    let (cursor, late, unread) = match last {
        Last::Never => {
            let basis = format!("first {}", field.text);
            return Ok(Aim { how: Commit::Replace, filter: filtered(field.first_run()), next: None, first_load: None, basis });
        }
        Last::Ours(cursor) => {
            let late = match comparable(&cursor, now, info) {
                _ if !field.versions => None,
                Ok(()) => Some(cursor.late(now)),
                Err(reason) => {
                    tracing::warn!(
                        "{}: {reason}; rows committed after the last run with a {} up to {} cannot be told from those already read, and are \
                         not read. If there can be such rows, clear the table (clear-destination) and sync it anew",
                        plan.id,
                        field.text,
                        cursor.values.first().and_then(Option::as_deref).unwrap_or("NULL"),
                    );
                    None
                }
            };
            (*cursor, late, None)
        }
        Last::Olake(progress) => {
            let unread = unread(plan, field, &progress)?;
            (as_olake_left_it(plan, field, progress.values), None, unread)
        }
    };
    let condition = field.since(&cursor, late.as_deref(), server_version);
    let basis = format!("since {} {} {:?} {unread:?}", cursor.load, cursor.read_at.lsn, cursor.values);
    let condition = match &unread {
        Some(unread) => format!("{unread} OR {condition}"),
        None => condition,
    };
    // For now the new cursor is the old one: the greatest values are asked for above it.
    Ok(Aim { how: Commit::Append, filter: filtered(Some(condition)), next: Some(cursor), first_load: unread, basis })
}

/// The condition for the rows of a first load that OLake has not finished.
fn unread(plan: &StreamPlan, field: &CursorField, progress: &Progress) -> Result<Option<String>> {
    let key = plan.key.as_ref().and_then(|key| key.columns.first());
    let unread = progress.unread(key.map(String::as_str)).map_err(|e| e.doing(format!("go on with {}", plan.id)))?;
    if unread.is_some() && !field.versions && progress.chunks.iter().any(|chunk| matches!(chunk, OlakeChunk::Tuples(..))) {
        return Err(Error::state(format!("{}: OLake has left chunks by physical position, and this relation has none", plan.id))
            .hint("run clear-destination for the stream and load it anew"));
    }
    if unread.is_some() {
        tracing::warn!(
            "{}: going on with the {} chunks that OLake has left of a first load. OLake read the others at other moments; if rows were updated or \
             deleted meanwhile, clear the table (clear-destination) and load it anew",
            plan.id,
            progress.chunks.len()
        );
    }
    Ok(unread)
}

/// A cursor without a snapshot.
fn as_olake_left_it(plan: &StreamPlan, field: &CursorField, values: Vec<Option<String>>) -> Cursor {
    let shown: Vec<_> = values.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
    tracing::info!("{}: going on from {} = {}, as OLake left it", plan.id, field.text, shown.join(", "));
    Cursor {
        field: field.text.clone(),
        values,
        shown: None,
        shown_second: None,
        load: String::new(),
        read_at: Moment { system: String::new(), timeline: 0, database: 0, xmin: 0, xmax: 0, lsn: String::new(), durable: false },
        quiet: true,
        seen: Vec::new(),
        heaps: BTreeMap::new(),
    }
}

/// How far the stream has been read when `aim` is reached.
async fn next(plan: &StreamPlan, field: &CursorField, info: &TableInfo, exported: &Exported, aim: &Aim, quiet: bool) -> Result<Cursor> {
    let client = exported.client();
    let explain = |e: tokio_postgres::Error| {
        let error = connect::sql_error(&e);
        let error = match aim.next.is_some() && error.is_about_a_value() {
            true => error
                .for_kind(Kind::State)
                .hint("restore the file from a copy, or load the table anew: clear-destination for this stream, then sync"),
            false => error,
        };
        error.doing(format!("look at the cursor of {}", plan.id))
    };
    let whole = crate::chunks::pages::whole(info);
    let last = aim.next.as_ref();
    let row = client.query_typed_one(&field.greatest(&whole.source(), plan.filter.as_deref(), last), &[]).await.map_err(explain)?;
    let values = (0..field.columns.len()).map(|at| row.get::<_, Option<String>>(at).or_else(|| last?.values.get(at)?.clone()));
    let values: Vec<Option<String>> = values.collect();
    let type_of = |name: &str| info.columns.iter().find(|found| found.name == name).map_or("", |found| found.ty.name.as_str());
    let shown = |at: usize| Some(olake_value(values.get(at)?.as_deref()?, type_of(&field.columns.get(at)?.name)));
    let (first, second) = (shown(0), shown(1));

    let mut seen = Vec::new();
    if let Some(unsettled) = unsettled(&exported.moment).filter(|_| field.versions) {
        let filter = aim.filter.as_ref().map(|filter| format!("({filter}) AND ")).unwrap_or_default();
        let query = format!("SELECT DISTINCT xmin::text::bigint {} WHERE {filter}{unsettled}", whole.source());
        for row in client.query_typed(&query, &[]).await.map_err(explain)? {
            seen.push(u32::try_from(row.get::<_, i64>(0)).map_err(|_| Error::source_db("a transaction id of more than 32 bits"))?);
        }
        seen.extend(last.into_iter().flat_map(|last| last.still_unsettled(&exported.moment)));
        seen.sort_unstable();
        seen.dedup();
        if seen.len() > SEEN_MANY {
            tracing::warn!(
                "{}: a transaction has been open for {} others of this table; the state file remembers them",
                plan.id,
                seen.len()
            );
        }
    }
    Ok(Cursor {
        field: field.text.clone(),
        shown: first,
        shown_second: second,
        values,
        // The load's name is put in when it is committed.
        load: last.map(|last| last.load.clone()).unwrap_or_default(),
        read_at: exported.moment.clone(),
        quiet: quiet && seen.is_empty(),
        seen,
        heaps: info.leaves.iter().map(|leaf| (leaf.oid, leaf.filenode)).collect(),
    })
}

/// Types whose values OLake shows each in a way of its own; the last stands for all others.
const SHOWN_AS: [&str; 5] = ["timestamp", "timestamptz", "date", "int8", "text"];

/// A cursor value of a type as OLake writes it: times in UTC with nine digits, numbers as JSON numbers where these are exact, else text.
fn olake_value(text: &str, ty: &str) -> Value {
    const FORMAT: &str = "%Y-%m-%d %H:%M:%S%.f";
    let nanoseconds = |time: NaiveDateTime| time.and_utc().to_rfc3339_opts(SecondsFormat::Nanos, true);
    let time = match ty {
        "timestamp" => NaiveDateTime::parse_from_str(text, FORMAT).ok().map(nanoseconds),
        "timestamptz" => DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").ok().map(|time| nanoseconds(time.naive_utc())),
        "date" => NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|date| date.and_hms_opt(0, 0, 0)).map(nanoseconds),
        "int2" | "int4" | "int8" => return text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from),
        _ => None,
    };
    Value::from(time.unwrap_or_else(|| text.to_owned()))
}

/// Whether no transaction of this database that could still write was open when the snapshot was taken.
///
/// Other transactions show as locks on their virtual ids. One that has begun before the snapshot and ended before the look at the
/// locks is found out by the transaction id that it took: the next free one is then no longer the snapshot's.
pub async fn is_quiet(options: &ConnectOptions, exported: &Exported) -> Result<bool> {
    let Moment { xmin, xmax, database, .. } = exported.moment;
    if xmin != xmax {
        return Ok(false);
    }
    let holder =
        exported.client().query_typed_one("SELECT pg_backend_pid(), pg_is_in_recovery()", &[]).await.map_err(|e| connect::sql_error(&e))?;
    let (holder, standby): (i32, bool) = (holder.get(0), holder.get(1));
    if standby {
        // What is open on the primary cannot be seen from here.
        return Ok(false);
    }
    let session = connect::session(options).await?;
    let others = format!(
        "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'virtualxid' AND a.datid = {database} AND l.pid NOT IN (pg_backend_pid(), {holder}))"
    );
    let others: bool = session.row(&others).await?.get(0);
    let next = session.row("SELECT txid_snapshot_xmax(txid_current_snapshot())").await?;
    let quiet = !others && u64::try_from(next.get::<_, i64>(0)) == Ok(xmax);
    session.close().await;
    Ok(quiet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::NullCursor;
    use serde_json::json;

    #[test]
    fn values_in_olakes_form() {
        for (ty, text, expected) in [
            ("int8", "9007199254740993", json!(9_007_199_254_740_993_i64)),
            ("timestamptz", "2024-01-01 12:00:00.123456+00", json!("2024-01-01T12:00:00.123456000Z")),
            ("timestamptz", "2024-01-01 12:00:00+05:30", json!("2024-01-01T06:30:00.000000000Z")),
            ("timestamp", "2024-01-01 00:00:00", json!("2024-01-01T00:00:00.000000000Z")),
            ("date", "2024-02-29", json!("2024-02-29T00:00:00.000000000Z")),
            ("date", "0044-03-15 BC", json!("0044-03-15 BC")),
            ("numeric", "12345678901234567890.5", json!("12345678901234567890.5")),
            ("text", "é", json!("é")),
        ] {
            assert_eq!(olake_value(text, ty), expected, "{ty} {text}");
        }
    }

    #[test]
    fn a_cursor_whose_parts_disagree_is_refused() {
        let info = TableInfo::of_columns(&[("at", "timestamptz"), ("id", "int8")]);
        let field = CursorField::resolve("at:id", &info, NullCursor::NewRows, 0).expect("a cursor");
        let cursor = |values: &[&str], shown: Value, second: Value| {
            let cursor = json!({"field": "at:id", "values": values, "shown": shown, "shown_second": second, "load": "l",
                "read_at": {"system": "", "timeline": 0, "database": 0, "xmin": 0, "xmax": 0, "lsn": "", "durable": false}});
            consistent(&serde_json::from_value(cursor).expect("a cursor"), &field, &info)
        };
        let at = "2024-01-01 12:00:00.5+00";
        let shown = || json!("2024-01-01T12:00:00.500000000Z");
        cursor(&[at, "7"], shown(), json!(7)).expect("they agree");
        cursor(&["2024-01-01 12:00:00.5", "7"], shown(), json!("7")).expect("as the columns were before their types changed");
        for (values, shown, second) in [
            (&[at, "7"][..], json!("2025-01-01T12:00:00.500000000Z"), json!(7)),
            (&[at, "8"], shown(), json!(7)),
            (&[at], shown(), json!(7)),
        ] {
            let error = cursor(values, shown, second).expect_err("they do not");
            assert!(error.to_string().starts_with("lakeward.cursors.public.t: ") && error.advice().is_some(), "{error}");
        }
    }
}
