//! What the columns of a relation in the log are called now.
//!
//! A relation is described as it was when its changes were made; the plan knows the table as it was when the run began. Promises: a value
//! goes to the column that it belongs to, by its number (`attnum`), or its table stops; a table that has changed since it was planned makes the run plan anew.
//! Numbers are not in the log. But its columns come in their order, and the state has the names that the numbers had as far as the stream has been read.

use super::StreamRun;
use super::capture::Ended;
use super::capture_reader::Reader;
use super::unseen::told;
use crate::capture::partitions;
use crate::capture::pgoutput::Relation;
use crate::capture::rows::Origin;
use crate::config::source::OnDetach;
use crate::error::{Error, Result, Retry};
use crate::postgres::catalog::{self, ColumnInfo, TableInfo};
use crate::postgres::connect::{self, ConnectOptions, Session};
use crate::state::captured::KnownColumn;
use std::collections::{BTreeMap, HashSet};
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
    /// What went wrong with its first change.
    pub failure: Option<Error>,
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
    let written = stream.plan.capture.iter().flat_map(|plan| &plan.origins).flat_map(|origin| match origin {
        Origin::Column(name) => vec![name.as_str()],
        Origin::Data(members) => members.iter().map(|member| member.name.as_str()).collect(),
        _ => Vec::new(),
    });
    read(relation, &stream.info, &written.collect(), known)
}

fn read(relation: &Relation, table: &TableInfo, written: &HashSet<&str>, known: &BTreeMap<i16, KnownColumn>) -> Reading {
    let number = |name: &str| table.columns.iter().find(|column| column.name == name).map(|column| column.attnum);
    // A partition's columns may be in an order of their own; they always have the names of the table's.
    let is_ordered = |numbers: &[Option<i16>]| relation.oid != table.oid || numbers.iter().flatten().is_sorted_by(|a, b| a < b);
    let numbers: Vec<Option<i16>> = relation.columns.iter().map(|column| number(&column.name)).collect();
    if numbers.iter().all(Option::is_some) && is_ordered(&numbers) {
        let same = |column: &ColumnInfo, (oid, typmod): (u32, i32)| column.ty.oid == oid && column.ty.typmod == typmod;
        let told = |name: &str| relation.columns.iter().find(|column| column.name == name).map(|column| (column.type_oid, column.typmod));
        let retyped = table.columns.iter().any(|column| told(&column.name).is_some_and(|told| !same(column, told)));
        return Reading { shape: relation.clone(), doubt: retyped.then(Trouble::default) };
    }
    let mut shape = relation.clone();
    let mut strange = Vec::new();
    let mut numbers = Vec::new();
    for column in &mut shape.columns {
        let then = known.iter().find(|(_, known)| !known.gone && known.name == column.name).map(|(number, _)| *number);
        let since = number(&column.name).filter(|number| !known.contains_key(number));
        match (then, since) {
            (Some(then), _) => {
                let now = table.columns.iter().find(|now| now.attnum == then);
                column.name = now.map(|now| now.name.clone()).unwrap_or_default();
                numbers.push(Some(then));
            }
            (None, Some(since)) => numbers.push(Some(since)),
            (None, None) => {
                strange.push(std::mem::take(&mut column.name));
                numbers.push(None);
            }
        }
    }
    let has = |name: &str| shape.columns.iter().any(|column| column.name == name);
    let missing = table.columns.iter().map(|column| column.name.clone()).filter(|name| written.contains(&**name) && !has(name)).collect();
    let disordered = !is_ordered(&numbers);
    Reading { shape, doubt: Some(Trouble { strange, missing, disordered, failure: None }) }
}

/// Whether a table is as it was when it was planned, as far as the log can tell: the numbers, names and types of its columns.
async fn is_as_planned(session: &Session, planned: &TableInfo) -> Result<bool> {
    let name = (planned.namespace.clone(), planned.name.clone());
    let found = match catalog::load_tables(&session.client, &[name], false).await {
        Ok(found) => found,
        Err(error) if error.retry() == Retry::Never => return Ok(false),
        Err(error) => return Err(error),
    };
    let columns = |table: &TableInfo| -> Vec<_> {
        table.columns.iter().map(|column| (column.attnum, column.name.clone(), column.declared.clone())).collect()
    };
    Ok(found.iter().any(|found| found.oid == planned.oid && columns(found) == columns(planned)))
}

impl<T: Table> Reader<T> {
    /// Asks the catalog what the log does not tell.
    pub async fn answer(&mut self, options: &ConnectOptions) -> Result<Ended> {
        let session = connect::session(options).await?;
        self.find_partitions(&session).await?;
        for Doubt { follower, trouble } in std::mem::take(&mut self.questions) {
            let follower = &mut self.followers[follower];
            if follower.has_failed() {
                continue;
            }
            let id = follower.stream.plan.id.clone();
            if !is_as_planned(&session, &follower.stream.info).await? {
                tracing::info!("{id} has got other columns");
                session.close().await;
                return Ok(Ended::Reshaped);
            }
            if let Some(failure) = trouble.failure {
                follower.fail(failure);
            } else if trouble.disordered || (!trouble.strange.is_empty() && !trouble.missing.is_empty()) {
                follower.fail(renamed(&id, &trouble));
            }
        }
        session.close().await;
        Ok(Ended::Complete)
    }

    /// Whether partitions have come or gone in a way that the log does not tell.
    pub async fn has_unseen_partitions(&mut self, options: &ConnectOptions, on_detach: OnDetach) -> Result<bool> {
        let parted = self.followers.iter().filter(|follower| !follower.has_failed() && !follower.captured.partitions.is_empty());
        let parted: Vec<_> = parted.map(|follower| (follower.stream.info.oid, follower.captured.partitions.clone())).collect();
        if parted.is_empty() {
            return Ok(false);
        }
        let session = connect::session(options).await?;
        for (table, known) in parted {
            if told(&partitions::moves(&session, table, &known).await?, on_detach).is_some() {
                session.close().await;
                return Ok(true);
            }
        }
        session.close().await;
        Ok(false)
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
    let what = match trouble.disordered {
        true => "its columns were in another order".to_owned(),
        false => format!("it had the columns {} and not {}", trouble.strange.join(", "), trouble.missing.join(", ")),
    };
    Error::schema(format!("{id}: the log has changes from when {what}: renamed columns cannot be told from others"))
        .hint("load the table anew: clear-destination for this stream, then sync; between two renames, let a sync come to its end")
}

#[cfg(test)]
#[path = "capture_shapes_tests.rs"]
mod tests;
