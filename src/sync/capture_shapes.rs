//! What the columns of a relation in the log are called now.
//!
//! A relation is described as it was when its changes were made; the plan knows the table as it was when the run began. Promises: a value
//! goes to the column that it belongs to, by its number (`attnum`), or its table stops; a table that has changed since it was planned makes the run plan anew.
//! Numbers are not in the log. But its columns come in their order, and the state has the names that the numbers had as far as the stream has been read.

use super::StreamRun;
use super::capture::{Ended, Ground};
use super::capture_plan::CapturePlan;
use super::capture_reader::Reader;
use super::unseen::told;
use crate::capture::partitions::{self, Told};
use crate::capture::pgoutput::{Relation, RelationColumn};
use crate::capture::retype;
use crate::config::update_method::OnDetach;
use crate::error::{Error, Result, Retry};
use crate::postgres::catalog::{self, ColumnInfo, TableInfo};
use crate::postgres::connect::{self, ConnectOptions, Session};
use crate::state::captured::KnownColumn;
use std::collections::{BTreeMap, HashSet};
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use writers::Table;

/// A relation that the plan does not explain.
#[derive(Debug)]
pub struct Doubt {
    /// Whose it is.
    pub follower: usize,
    /// Why.
    pub trouble: Trouble,
}

/// What is strange about a relation.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Columns of which nothing is known.
    pub strange: Vec<String>,
    /// Columns that are written, and that it does not have: one of the strange ones may be one of them, under another name.
    pub missing: Vec<String>,
    /// Whether its columns are in an order that they do not have.
    pub disordered: bool,
    /// Whether a column that was known is not among them.
    pub lost: bool,
    /// What went wrong with its first change.
    pub failure: Option<Error>,
}

impl Trouble {
    /// Whether values would go to the wrong column, or nowhere.
    fn is_hopeless(&self) -> bool {
        self.disordered || self.lost || (!self.strange.is_empty() && !self.missing.is_empty())
    }
}

/// A relation as it is understood.
#[derive(Debug)]
pub struct Reading {
    /// With the names of now; a column that is gone has none.
    pub shape: Relation,
    /// Whether the catalog has to be asked, once one of its changes is wanted.
    pub doubt: Option<Trouble>,
}

/// Reads a relation, knowing the table as it is, and the names that its columns had as far as the stream has been followed (`known`, by number).
pub fn reading<T: Table>(relation: &Relation, stream: &StreamRun<T>, known: &BTreeMap<i16, KnownColumn>) -> Reading {
    let written = stream.plan.capture.iter().flat_map(CapturePlan::source_columns);
    read(relation, &stream.info, &written.collect(), known)
}

fn read(relation: &Relation, table: &TableInfo, written: &HashSet<&str>, known: &BTreeMap<i16, KnownColumn>) -> Reading {
    let own = relation.oid == table.oid;
    let now = |number: i16| table.columns.iter().find(|column| column.attnum == number);
    let number_now = |name: &str| table.columns.iter().find(|column| column.name == name).map(|column| column.attnum);
    let number_then = |name: &str| known.iter().find(|(_, known)| !known.gone && known.name == name).map(|(number, _)| *number);
    let by_older_names = |name: &str| number_then(name).or_else(|| number_now(name).filter(|number| !known.contains_key(number)));
    // What is written, and was there when the stream was read last, is in every shape since then.
    let lost = |numbers: &[Option<i16>]| {
        table.columns.iter().any(|column| {
            let is_known = known.get(&column.attnum).is_some_and(|known| !known.gone);
            is_known && written.contains(&*column.name) && !numbers.contains(&Some(column.attnum))
        })
    };
    // A partition's columns may be in an order of their own; they always have the names of the table's.
    let fits = |numbers: &[Option<i16>]| {
        numbers.iter().all(Option::is_some) && (!own || numbers.iter().flatten().is_sorted_by(|a, b| a < b)) && !lost(numbers)
    };
    let numbers = |find: &dyn Fn(&str) -> Option<i16>| relation.columns.iter().map(|column| find(&column.name)).collect::<Vec<_>>();
    let latest = numbers(&number_now);
    if fits(&latest) {
        let told = |number: i16| latest.iter().position(|found| *found == Some(number)).map(|at| &relation.columns[at]);
        let is_other = |column: &ColumnInfo| told(column.attnum).is_some_and(|told| (told.type_oid, told.typmod) != column.logged);
        let retyped = table.columns.iter().any(is_other);
        return Reading { shape: relation.clone(), doubt: retyped.then(Trouble::default) };
    }
    let older = numbers(&by_older_names);
    let by_place = own.then(|| by_place(relation.columns.len(), table, known)).flatten().filter(|numbers| {
        // Names that mean something mean the same.
        let agrees = |(at, column): (usize, &RelationColumn)| {
            [number_then(&column.name), number_now(&column.name)].iter().flatten().any(|found| numbers[at] == Some(*found))
        };
        let is_named = |column: &RelationColumn| number_then(&column.name).or(number_now(&column.name)).is_some();
        relation.columns.iter().enumerate().filter(|(_, column)| is_named(column)).all(agrees)
    });
    let found = if fits(&older) { older } else { by_place.unwrap_or(older) };
    let mut shape = relation.clone();
    let mut strange = Vec::new();
    for (column, number) in shape.columns.iter_mut().zip(&found) {
        let name = number.and_then(now).map(|now| now.name.clone()).unwrap_or_default();
        let then = std::mem::replace(&mut column.name, name);
        if number.is_none() {
            strange.push(then);
        }
    }
    let has = |name: &str| shape.columns.iter().any(|column| column.name == name);
    let missing = table.columns.iter().map(|column| column.name.clone()).filter(|name| written.contains(&**name) && !has(name)).collect();
    let disordered = own && !found.iter().flatten().is_sorted_by(|a, b| a < b);
    Reading { shape, doubt: Some(Trouble { strange, missing, disordered, lost: lost(&found), failure: None }) }
}

/// The numbers of a shape's columns by their places: those that were known come first, then the new ones as they came. `None` where some have been
/// dropped, which nobody knows when.
fn by_place(columns: usize, table: &TableInfo, known: &BTreeMap<i16, KnownColumn>) -> Option<Vec<Option<i16>>> {
    let before: Vec<i16> = known.iter().filter(|(_, known)| !known.gone).map(|(number, _)| *number).collect();
    let since: Vec<i16> = table.columns.iter().map(|column| column.attnum).filter(|number| !known.contains_key(number)).collect();
    let stays = before.iter().all(|number| table.columns.iter().any(|column| column.attnum == *number));
    let last = known.keys().last().copied()?;
    let without_gaps = since.iter().zip(last + 1..).all(|(number, expected)| *number == expected);
    let numbers: Vec<Option<i16>> = before.iter().chain(&since).take(columns).map(|number| Some(*number)).collect();
    (stays && without_gaps && columns >= before.len() && numbers.len() == columns).then_some(numbers)
}

/// Whether tables are as they were when they were planned: the numbers, names and types of their columns, and what these types are made of.
pub async fn are_as_planned(client: &Client, planned: &[&TableInfo]) -> Result<bool> {
    let names: Vec<_> = planned.iter().map(|table| (table.namespace.clone(), table.name.clone())).collect();
    let found = match catalog::load_tables(client, &names, false).await {
        Ok(found) => found,
        Err(error) if error.retry() == Retry::Never => return Ok(false),
        Err(error) => return Err(error),
    };
    let is_same = |found: &TableInfo, planned: &TableInfo| found.oid == planned.oid && retype::known(found) == retype::known(planned);
    Ok(planned.iter().all(|planned| found.iter().any(|found| is_same(found, planned))))
}

/// Numbers that are others when a column of the tables, an attribute of a composite type or a label of an enum is another.
const TRACE: &str = "SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat_ws(' ', attrelid, attnum, attname, atttypid, atttypmod, xmin)))::int8 \
    FROM pg_catalog.pg_attribute WHERE attnum > 0 AND NOT attisdropped \
      AND (attrelid = ANY ($1) OR attrelid IN (SELECT oid FROM pg_catalog.pg_class WHERE relkind = 'c')) \
    UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat_ws(' ', oid, enumlabel)))::int8 FROM pg_catalog.pg_enum";

impl<T: Table> Reader<T> {
    /// Asks the catalog what the log does not tell.
    pub async fn answer(&mut self, ground: &Ground) -> Result<Ended> {
        if self.wants_text() {
            return Ok(Ended::Anew);
        }
        let session = connect::session(&ground.options).await?;
        self.find_partitions(&session).await?;
        for Doubt { follower: index, trouble } in std::mem::take(&mut self.questions) {
            let follower = &mut self.followers[index];
            if follower.has_failed() {
                continue;
            }
            let id = follower.stream.plan.id.clone();
            if !are_as_planned(&session.client, &[&follower.stream.info]).await? {
                tracing::info!("{id} has got other columns");
                session.close().await;
                return Ok(Ended::Anew);
            }
            if self.copy_emptied_again(index, &session, ground).await? {
                session.close().await;
                return Ok(Ended::Anew);
            }
            let follower = &mut self.followers[index];
            if follower.has_failed() {
                continue;
            }
            if let Some(failure) = trouble.failure {
                follower.fail(failure);
            } else if trouble.is_hopeless() {
                follower.fail(renamed(&id, &trouble));
            }
        }
        session.close().await;
        Ok(Ended::Complete)
    }

    /// Whether partitions have come or gone, or lost their rows, in a way that the log may not tell.
    pub async fn has_unseen_partitions(&mut self, options: &ConnectOptions, on_detach: OnDetach) -> Result<bool> {
        let parted = self.followers.iter().filter(|follower| !follower.has_failed() && follower.is_parted());
        let parted = parted.map(|follower| (follower.stream.info.oid, &follower.stream.plan, follower.captured.truncated));
        let parted: Vec<_> = parted.map(|(root, plan, truncated)| (root, plan.partitions.clone(), plan.heaps.clone(), truncated)).collect();
        if parted.is_empty() {
            return Ok(false);
        }
        let session = connect::session(options).await?;
        let mut unseen = false;
        for (root, known, heaps, truncated) in parted {
            unseen = unseen || told(&partitions::moves(&session, root, &known).await?, on_detach).is_some();
            let told = Told { transaction: truncated, or_below: false };
            unseen = unseen || !partitions::emptied(&session, root, &heaps, told).await?.is_empty();
        }
        session.close().await;
        Ok(unseen)
    }

    /// Whether tables have changed of which no change has told so: nobody writes to them, or a label of an enum has got another name.
    pub async fn has_unseen_shapes(&mut self, options: &ConnectOptions) -> Result<bool> {
        let followed: Vec<_> =
            self.followers.iter().filter(|follower| !follower.has_failed()).map(|follower| &follower.stream.info).collect();
        let oids: Vec<u32> = followed.iter().map(|table| table.oid).collect();
        let session = connect::session(options).await?;
        let found = session.client.query_typed(TRACE, &[(&oids, Type::OID_ARRAY)]).await;
        let found = found.map_err(|e| session.error(&e).doing("look whether tables have changed"))?;
        let trace: Vec<(i64, Option<i64>)> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
        // What the catalog says in full costs more.
        let unseen = self.trace != trace && !are_as_planned(&session.client, &followed).await?;
        session.close().await;
        self.trace = trace;
        Ok(unseen)
    }

    /// Relations that are partitions of a table that is followed.
    async fn find_partitions(&mut self, session: &Session) -> Result<()> {
        for relation in std::mem::take(&mut self.strangers) {
            let query = format!(
                "WITH RECURSIVE above(oid) AS (SELECT inhparent FROM pg_inherits WHERE inhrelid = {oid} UNION SELECT inhparent FROM pg_inherits, above \
                 WHERE inhrelid = above.oid) SELECT oid FROM above JOIN pg_class c USING (oid) WHERE relkind = 'p'",
                oid = relation.oid
            );
            let above = session.client.query(&query, &[]).await.map_err(|e| session.error(&e).doing("look for partitions"))?;
            let parent = above.iter().map(|row| row.get::<_, u32>(0)).find_map(|oid| self.relations.get(&oid).copied());
            if let Some(index) = parent {
                tracing::info!("{}.{} is a partition of {} now", relation.namespace, relation.name, self.followers[index].stream.plan.id);
                self.relations.insert(relation.oid, index);
                self.relate(&relation)?;
            }
        }
        Ok(())
    }
}

/// One column may be another under its older name.
fn renamed(id: &str, trouble: &Trouble) -> Error {
    let (strange, missing) = (trouble.strange.join(", "), trouble.missing.join(", "));
    let what = match trouble {
        Trouble { disordered: true, .. } => {
            "from when its columns were in another order: renamed columns cannot be told from others".to_owned()
        }
        _ if strange.is_empty() => format!("without the columns {missing}: they had another name, or the publication does not send them"),
        _ => format!(
            "from when it had the columns {strange}, which are not known, and not {missing}: renamed columns cannot be told from others"
        ),
    };
    Error::schema(format!("{id}: the log has changes {what}"))
        .hint("load the table anew: clear-destination for this stream, then sync; between two renames, let a sync come to its end")
}

#[cfg(test)]
#[path = "capture_shapes_tests.rs"]
mod tests;
