//! The promises of [`Destination`] and [`Table`], as functions that panic when one is broken.
//!
//! A writer passes [`all`] with a [`Subject`] that says how to reach it and how to look at what it
//! stored with eyes that are not its own. Every promise uses tables of its own, so one place serves
//! them all. Does not know any writer.

#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a broken promise is a panic")]

use crate::{Commit, Destination, Error, Kind, PartName, Result, Table, TableSpec, Token};
use arrow::array::{Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use std::sync::Arc;

/// A place under test.
pub struct Subject<D: Destination> {
    /// The place as a new process would open it.
    pub fresh: Box<dyn Fn() -> BoxFuture<'static, D> + Send + Sync>,
    /// The same, whose operations that write fail for ever after the first so many: what a process
    /// does that is killed there. `None` when the destination changes in one step.
    pub dying: Option<Box<dyn Fn(usize) -> BoxFuture<'static, D> + Send + Sync>>,
    /// The visible values of [`spec`]'s column, as an independent reader finds them; `None` when there is nothing to read.
    pub rows: Box<dyn Fn(TableSpec) -> BoxFuture<'static, Option<Vec<i64>>> + Send + Sync>,
    /// Names of everything that is stored for the table and is neither visible nor the writer's bookkeeping of what is.
    pub leftovers: Box<dyn Fn(TableSpec) -> BoxFuture<'static, Vec<String>> + Send + Sync>,
    /// Whether that reader sees a replacement in one step, even while it is going on.
    pub replaces_in_one_step: bool,
    /// Whether a single write decides a commit and completes it, so that nobody can die in between.
    pub decides_in_one_step: bool,
}

/// Every promise, one after the other.
pub async fn all<D: Destination>(subject: &Subject<D>) {
    all_but_strange_names(subject).await;
    names_do_not_collide(subject).await;
}

/// The promises that a destination keeps too which does not take every name.
pub async fn all_but_strange_names<D: Destination>(subject: &Subject<D>) {
    checking_leaves_no_trace(subject).await;
    nothing_is_visible_before_the_commit(subject).await;
    a_commit_shows_all_parts_and_the_token(subject).await;
    committing_twice_is_committing_once(subject).await;
    old_rows_stay_until_their_replacement_is_committed(subject).await;
    an_abandoned_stage_leaves_nothing(subject).await;
    staging_a_name_again_replaces_the_part(subject).await;
    adopting_keeps_what_is_whole_and_removes_the_rest(subject).await;
    of_two_writers_one_is_told(subject).await;
    an_empty_table_is_readable(subject).await;
    a_commit_without_rows_moves_the_token(subject).await;
    columns_that_only_partition_are_not_written(subject).await;
    dropping_a_table_removes_everything(subject).await;
    a_crash_leaves_the_old_or_the_new(subject, Commit::Append).await;
    a_crash_leaves_the_old_or_the_new(subject, Commit::Replace).await;
}

/// The table of a promise: one column `id`.
pub fn spec(name: &str) -> TableSpec {
    TableSpec { database: "conformance".into(), name: name.into(), schema: schema(), ..TableSpec::default() }
}

/// The values of the column `id`, sorted.
pub fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    let mut ids = Vec::new();
    for batch in batches {
        let column = batch.column_by_name("id").expect("the column `id`");
        let column = column.as_any().downcast_ref::<Int64Array>().expect("64-bit integers");
        assert_eq!(column.null_count(), 0, "no NULL was written");
        ids.extend(column.values().iter().copied());
    }
    ids.sort_unstable();
    ids
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]))
}

fn part(generation: &str, sequence: u32) -> PartName {
    PartName { generation: generation.into(), sequence }
}

fn token(text: &str) -> Token {
    Token(text.into())
}

/// One batch per value, so that a part has several.
fn values(values: &[i64]) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    let batch = |v: &i64| RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(vec![*v]))]).expect("a batch");
    stream::iter(values.iter().map(batch).map(Ok).collect::<Vec<_>>())
}

async fn stage<T: Table>(table: &T, generation: &str, sequence: u32, rows: &[i64]) -> T::Part {
    table.stage(part(generation, sequence), values(rows)).await.expect("stage")
}

async fn open<D: Destination>(subject: &Subject<D>, name: &str) -> D::Table {
    (subject.fresh)().await.open(&spec(name)).await.expect("open")
}

async fn rows<D: Destination>(subject: &Subject<D>, name: &str) -> Vec<i64> {
    (subject.rows)(spec(name)).await.unwrap_or_default()
}

async fn leftovers<D: Destination>(subject: &Subject<D>, name: &str) -> Vec<String> {
    (subject.leftovers)(spec(name)).await
}

/// A table with the rows 1 and 2 and the token `a`.
async fn prepared<D: Destination>(subject: &Subject<D>, name: &str) -> D::Table {
    let mut table = open(subject, name).await;
    let parts = vec![stage(&table, "g1", 0, &[1, 2]).await];
    table.commit(parts, token("a"), Commit::Replace).await.expect("commit");
    table
}

/// [`Destination::check`]: leaves nothing behind.
pub async fn checking_leaves_no_trace<D: Destination>(subject: &Subject<D>) {
    (subject.fresh)().await.check().await.expect("check");
    assert_eq!(leftovers(subject, "checked").await, Vec::<String>::new());
}

/// [`Table::stage`]: a part that nobody can see.
pub async fn nothing_is_visible_before_the_commit<D: Destination>(subject: &Subject<D>) {
    let name = "invisible";
    let table = open(subject, name).await;
    let staged = stage(&table, "g1", 0, &[1, 2, 3]).await;
    assert_eq!(crate::Part::stats(&staged).rows, 3);
    assert_eq!(rows(subject, name).await, Vec::<i64>::new());
    assert_eq!(table.committed(), None);
    drop(table);
    assert_eq!(open(subject, name).await.committed(), None);
    assert_eq!(rows(subject, name).await, Vec::<i64>::new());
}

/// [`Table::commit`]: parts and token together, for this run and the next.
pub async fn a_commit_shows_all_parts_and_the_token<D: Destination>(subject: &Subject<D>) {
    let name = "visible";
    let mut table = prepared(subject, name).await;
    assert_eq!(table.committed(), Some(&token("a")));
    let parts = vec![stage(&table, "g2", 0, &[3]).await, stage(&table, "g2", 1, &[]).await, stage(&table, "g2", 2, &[4, 5]).await];
    table.commit(parts, token("b"), Commit::Append).await.expect("commit");
    assert_eq!(rows(subject, name).await, [1, 2, 3, 4, 5]);
    assert_eq!(leftovers(subject, name).await, Vec::<String>::new());
    drop(table);
    assert_eq!(open(subject, name).await.committed(), Some(&token("b")));
    assert_eq!(rows(subject, name).await, [1, 2, 3, 4, 5]);
}

/// [`Table::commit`]: a token that is already there does nothing.
pub async fn committing_twice_is_committing_once<D: Destination>(subject: &Subject<D>) {
    let name = "twice";
    let mut table = prepared(subject, name).await;
    let parts = vec![stage(&table, "g2", 0, &[3]).await];
    table.commit(parts.clone(), token("b"), Commit::Append).await.expect("commit");
    table.commit(parts, token("b"), Commit::Append).await.expect("commit again");
    drop(table);
    let mut table = open(subject, name).await;
    let parts = vec![stage(&table, "g2", 0, &[3]).await];
    table.commit(parts, token("b"), Commit::Append).await.expect("commit in another run");
    assert_eq!(rows(subject, name).await, [1, 2, 3]);
    assert_eq!(leftovers(subject, name).await, Vec::<String>::new());
}

/// [`Commit::Replace`].
pub async fn old_rows_stay_until_their_replacement_is_committed<D: Destination>(subject: &Subject<D>) {
    let name = "replaced";
    let mut table = prepared(subject, name).await;
    let parts = vec![stage(&table, "g2", 0, &[7]).await, stage(&table, "g2", 1, &[8, 9]).await];
    assert_eq!(rows(subject, name).await, [1, 2]);
    table.commit(parts, token("b"), Commit::Replace).await.expect("commit");
    assert_eq!(rows(subject, name).await, [7, 8, 9]);
    assert_eq!(leftovers(subject, name).await, Vec::<String>::new());
}

/// [`Table::stage`]: dropping the future abandons the part, and so does an error of its stream, which passes through.
pub async fn an_abandoned_stage_leaves_nothing<D: Destination>(subject: &Subject<D>) {
    let name = "abandoned";
    let table = open(subject, name).await;
    let endless = values(&[1, 2]).chain(stream::pending());
    let mut staging = Box::pin(table.stage(part("g1", 0), endless));
    let waited = futures::future::poll_immediate(&mut staging).await;
    assert!(waited.is_none(), "the stream has not ended");
    tokio::time::timeout(std::time::Duration::from_millis(50), &mut staging).await.expect_err("still has not");
    drop(staging);
    let failing = values(&[1, 2]).chain(stream::once(async { Err(Error::new(Kind::Bug, "the source broke")) }));
    let error = table.stage(part("g1", 1), failing).await.expect_err("the stream's error");
    assert!(error.to_string().ends_with("the source broke"), "{error}");
    drop(table);
    let mut table = open(subject, name).await;
    assert_eq!(table.adopt(Vec::new()).await.expect("adopt").len(), 0);
    assert_eq!(leftovers(subject, name).await, Vec::<String>::new());
    assert_eq!(rows(subject, name).await, Vec::<i64>::new());
}

/// [`Table::stage`]: the same name again replaces the earlier part of that name.
pub async fn staging_a_name_again_replaces_the_part<D: Destination>(subject: &Subject<D>) {
    let name = "restaged";
    let mut table = prepared(subject, name).await;
    stage(&table, "g2", 0, &[3, 4]).await;
    let parts = vec![stage(&table, "g2", 0, &[5]).await];
    table.commit(parts, token("b"), Commit::Append).await.expect("commit");
    assert_eq!(rows(subject, name).await, [1, 2, 5]);
}

/// [`Table::adopt`], with parts that went through the state file.
pub async fn adopting_keeps_what_is_whole_and_removes_the_rest<D: Destination>(subject: &Subject<D>) {
    let name = "adopted";
    let mut table = prepared(subject, name).await;
    let (first, gone) = (stage(&table, "g2", 0, &[3]).await, stage(&table, "g2", 1, &[4]).await);
    stage(&table, "g2", 2, &[5]).await;
    let committed = stage(&table, "g2", 3, &[6]).await;
    table.commit(vec![committed.clone()], token("b"), Commit::Append).await.expect("commit");
    drop(table);
    let mut table = open(subject, name).await;
    let kept = table.adopt(vec![first.clone()]).await.expect("adopt");
    assert!(matches!(kept[..], [Some(_)]), "what was remembered is kept: {kept:?}");
    drop(table);
    let mut table = open(subject, name).await;
    let remembered = serde_json::to_string(&[gone, first, committed]).expect("parts can be saved");
    let remembered = serde_json::from_str(&remembered).expect("parts can be loaded");
    let kept = table.adopt(remembered).await.expect("adopt");
    assert!(matches!(kept[..], [None, Some(_), None]), "in the order given, removed and committed ones are gone: {kept:?}");
    table.commit(kept.into_iter().flatten().collect(), token("c"), Commit::Append).await.expect("commit");
    assert_eq!(rows(subject, name).await, [1, 2, 3, 6]);
    assert_eq!(leftovers(subject, name).await, Vec::<String>::new());
}

/// Two writers: one is told, when it opens or when it commits, and no row of its shows.
pub async fn of_two_writers_one_is_told<D: Destination>(subject: &Subject<D>) {
    let name = "contended";
    let mut first = prepared(subject, name).await;
    match (subject.fresh)().await.open(&spec(name)).await {
        Err(error) => assert_eq!(error.kind(), Kind::Conflict, "{error}"),
        Ok(mut second) => {
            let (mine, yours) = (stage(&first, "g2", 0, &[3]).await, stage(&second, "g3", 0, &[4]).await);
            first.commit(vec![mine], token("b"), Commit::Append).await.expect("the first decides");
            let error = second.commit(vec![yours], token("c"), Commit::Append).await.expect_err("the second is late");
            assert_eq!(error.kind(), Kind::Conflict, "{error}");
            assert_eq!(rows(subject, name).await, [1, 2, 3]);
        }
    }
    drop(first);
    open(subject, name).await;
}

/// A replacement without rows: the table is there, with its columns and no rows.
pub async fn an_empty_table_is_readable<D: Destination>(subject: &Subject<D>) {
    let name = "empty";
    let mut table = prepared(subject, name).await;
    let parts = vec![stage(&table, "g2", 0, &[]).await];
    table.commit(parts, token("b"), Commit::Replace).await.expect("commit");
    assert_eq!((subject.rows)(spec(name)).await, Some(Vec::new()));
    table.commit(Vec::new(), token("c"), Commit::Replace).await.expect("commit");
    assert_eq!((subject.rows)(spec(name)).await, Some(Vec::new()));
    assert_eq!(leftovers(subject, name).await, Vec::<String>::new());
    let parts = vec![stage(&table, "g3", 0, &[1]).await];
    table.commit(parts, token("d"), Commit::Append).await.expect("commit");
    assert_eq!(rows(subject, name).await, [1]);
}

/// An append without rows: the token moves, the rows stay.
pub async fn a_commit_without_rows_moves_the_token<D: Destination>(subject: &Subject<D>) {
    let name = "idle";
    let mut table = prepared(subject, name).await;
    table.commit(Vec::new(), token("b"), Commit::Append).await.expect("commit");
    drop(table);
    assert_eq!(open(subject, name).await.committed(), Some(&token("b")));
    assert_eq!(rows(subject, name).await, [1, 2]);
}

/// Names that look like paths, or like the escape of another name, are tables of their own.
pub async fn names_do_not_collide<D: Destination>(subject: &Subject<D>) {
    let names = ["a/b", "a%2Fb", "", "%", ".", "..", "%2E", "a b", "Größe", "_lakeward", "../conformance/visible"];
    for (number, name) in (100..).zip(names) {
        let mut table = open(subject, name).await;
        assert_eq!(table.committed(), None, "{name:?} is new");
        let parts = vec![stage(&table, "g1", 0, &[number]).await];
        table.commit(parts, token(name), Commit::Replace).await.expect("commit");
    }
    for (number, name) in (100..).zip(names) {
        assert_eq!(open(subject, name).await.committed(), Some(&token(name)), "{name:?}");
        assert_eq!(rows(subject, name).await, [number], "{name:?}");
    }
}

/// [`TableSpec::partition_only`]: batches carry them, the table does not.
pub async fn columns_that_only_partition_are_not_written<D: Destination>(subject: &Subject<D>) {
    let only = Arc::new(Field::new("only", DataType::Int64, true));
    let spec = TableSpec { partition_only: vec![only], partition_regex: "/{only,,}".into(), ..spec("only") };
    let mut table = (subject.fresh)().await.open(&spec).await.expect("open");
    let column = || Arc::new(Int64Array::from(vec![7, 8]));
    let batch = RecordBatch::try_new(spec.batches(), vec![column(), column()]).expect("a batch");
    let staged = table.stage(part("g1", 0), stream::iter([Ok::<_, Error>(batch)])).await.expect("stage");
    table.commit(vec![staged], token("a"), Commit::Replace).await.expect("commit");
    assert_eq!(rows(subject, "only").await, [7, 8]);
    drop(table);
    // The same table without them: its columns are the same.
    let mut table = open(subject, "only").await;
    table.check_append().expect("no column is missing");
    let parts = vec![stage(&table, "g2", 0, &[9]).await];
    table.commit(parts, token("b"), Commit::Append).await.expect("commit");
    assert_eq!(rows(subject, "only").await, [7, 8, 9]);
}

/// [`Destination::drop_table`].
pub async fn dropping_a_table_removes_everything<D: Destination>(subject: &Subject<D>) {
    let name = "dropped";
    let destination = (subject.fresh)().await;
    destination.drop_table("conformance", name).await.expect("a table that is not there is fine");
    let table = prepared(subject, name).await;
    stage(&table, "g2", 0, &[3]).await;
    drop(table);
    drop(prepared(subject, "dropped2").await);
    destination.drop_table("conformance", name).await.expect("drop");
    assert_eq!((subject.rows)(spec(name)).await, None);
    assert_eq!(leftovers(subject, name).await, Vec::<String>::new());
    assert_eq!(rows(subject, "dropped2").await, [1, 2], "its neighbour is untouched");
    let table = prepared(subject, name).await;
    assert_eq!(table.committed(), Some(&token("a")));
    assert_eq!(rows(subject, name).await, [1, 2]);
}

/// Killed after every single write of open, stage and commit in turn: the next run finds the old
/// table or the new one, cleans up, and can finish.
pub async fn a_crash_leaves_the_old_or_the_new<D: Destination>(subject: &Subject<D>, how: Commit) {
    let Some(dying) = &subject.dying else { return };
    let old = vec![1, 2];
    let new = match how {
        Commit::Append => vec![1, 2, 3, 4, 5],
        Commit::Replace => vec![3, 4, 5],
    };
    let (mut outcomes, mut survived, mut steps) = ((0, 0), 0, 0);
    // What fails while a finished commit is tidied is not reported; so some more steps are tried.
    while survived < 12 {
        assert!(steps < 500, "a commit has fewer steps");
        let name = format!("killed_{how:?}_{steps}").to_lowercase();
        drop(prepared(subject, &name).await);
        let (parts, result) = run_until_killed(&dying(steps).await, &name, how).await;
        survived += i32::from(result.is_ok());
        let context = format!("{how:?} killed after {steps} writes ({result:?})");
        let seen = rows(subject, &name).await;
        if how == Commit::Replace && subject.replaces_in_one_step {
            assert!(seen == old || seen == new, "a reader meanwhile saw {seen:?}: {context}");
        }
        let mut table = open(subject, &name).await;
        let done = table.committed() == Some(&token("b"));
        assert!(done || table.committed() == Some(&token("a")), "{:?}: {context}", table.committed());
        assert!(done || result.is_err(), "what was reported as committed is committed: {context}");
        assert_eq!(rows(subject, &name).await, if done { new.clone() } else { old.clone() }, "{context}");
        outcomes = if done { (outcomes.0, outcomes.1 + 1) } else { (outcomes.0 + 1, outcomes.1) };

        let kept = table.adopt(parts).await.expect("adopt");
        assert!(!done || kept.iter().all(Option::is_none), "published parts are not staged: {context}");
        if done {
            assert_eq!(leftovers(subject, &name).await, Vec::<String>::new(), "{context}");
        } else {
            let mut parts: Vec<_> = kept.into_iter().flatten().collect();
            for (sequence, rows) in [[3].as_slice(), &[4, 5]].iter().enumerate().skip(parts.len()) {
                parts.push(stage(&table, "g2", u32::try_from(sequence).expect("small"), rows).await);
            }
            table.commit(parts, token("b"), how).await.expect("commit");
        }
        assert_eq!(rows(subject, &name).await, new, "{context}");
        assert_eq!(leftovers(subject, &name).await, Vec::<String>::new(), "{context}");
        steps += 1;
    }
    assert!(
        outcomes.0 > 0 && (outcomes.1 > 12 || subject.decides_in_one_step),
        "the kill came before the commit, in it and after it: {outcomes:?}"
    );
}

async fn run_until_killed<D: Destination>(destination: &D, name: &str, how: Commit) -> (Vec<<D::Table as Table>::Part>, Result<()>) {
    let mut parts = Vec::new();
    let mut run = async || {
        let mut table = destination.open(&spec(name)).await?;
        for (sequence, rows) in (0..).zip([[3].as_slice(), &[4, 5]]) {
            parts.push(table.stage(part("g2", sequence), values(rows)).await?);
        }
        table.commit(parts.clone(), token("b"), how).await
    };
    let result = run().await;
    (parts, result)
}
