//! A publication gets what the chosen tables need: the tables that it does not have, and the columns that its column lists leave out.
//!
//! Promises: nothing is taken out of it, what others have asked for (row filters) stays, and each table is added while no transaction that has written to
//! it is open. That matters because the server decodes each change with the catalog of its time: of a transaction that began to
//! write before, the changes from then are not sent, and a copy that is read before it commits does not show them either.
//! Does not know slots, nor how far a stream has been followed.

use super::publication::{ChosenTable, PublicationInfo};
use super::table::Generated;
use crate::error::{Error, Result};
use crate::postgres::connect::Session;
use crate::postgres::quote::identifier;
use std::time::{Duration, Instant};

/// How long a table's lock is waited for at a time, in milliseconds. Others that want to write wait behind us; and a deadlock with
/// them has to end before the server looks for one (`deadlock_timeout`, 1 s), because that could end theirs.
const PATIENCE_MS: u32 = 500;
/// Between two attempts, so that others write.
const PAUSE: Duration = Duration::from_secs(2);

/// What is added with one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// OID of the table.
    pub table: u32,
    /// Its name as SQL.
    pub member: String,
    /// The statements, without semicolons.
    pub sql: Vec<String>,
}

/// What has to be added; nothing if the publication has everything. What no publication can have is left out.
pub fn steps(publication: &PublicationInfo, tables: &[ChosenTable]) -> Vec<Step> {
    let name = identifier(&publication.name);
    let missing = |chosen: &&ChosenTable| chosen.is_publishable(publication.version) && !publication.covers(&chosen.table);
    let add = |chosen: &ChosenTable| Step {
        table: chosen.table.relation.oid,
        member: chosen.sql(),
        sql: vec![format!("ALTER PUBLICATION {name} ADD TABLE {}", chosen.sql())],
    };
    let longer = tables.iter().filter_map(|chosen| longer_list(publication, chosen));
    tables.iter().filter(missing).map(add).chain(longer).collect()
}

/// A column list that has to be longer, which a publication has only for tables that are named in it.
fn longer_list(publication: &PublicationInfo, chosen: &ChosenTable) -> Option<Step> {
    let relation = &chosen.table.relation;
    let published = publication.published(&relation.namespace, &relation.name)?;
    let columns = published.columns.as_ref().filter(|_| publication.members.contains(&relation.oid))?;
    let plain = |column: &&String| chosen.table.columns.iter().any(|each| each.name == **column && each.generated == Generated::No);
    let absent: Vec<&String> = chosen.columns.iter().filter(plain).filter(|column| !columns.contains(column)).collect();
    if absent.is_empty() {
        return None;
    }
    let (name, member) = (identifier(&publication.name), chosen.sql());
    let columns: Vec<String> = columns.iter().chain(absent).map(|column| identifier(column)).collect();
    let filter = published.row_filter.as_ref().map(|filter| format!(" WHERE ({filter})")).unwrap_or_default();
    let sql = vec![
        format!("ALTER PUBLICATION {name} DROP TABLE {member}"),
        format!("ALTER PUBLICATION {name} ADD TABLE {member} ({}){filter}", columns.join(", ")),
    ];
    Some(Step { table: relation.oid, member, sql })
}

/// Adds it all, one transaction after another. `patience` is how long one table may be written to without a moment between; zero means for ever.
///
/// # Errors
/// A table that is written to all the time (transient), with the statements; what the server refuses.
pub async fn apply(session: &Session, publication: &str, steps: &[Step], patience: Duration) -> Result<()> {
    for step in steps {
        let begun = Instant::now();
        let mut told = false;
        while let Err(error) = transaction(session, step).await {
            // lock_not_available, deadlock_detected
            if !matches!(error.code(), Some("55P03" | "40P01")) {
                return Err(advised(error, publication, step));
            }
            if !patience.is_zero() && begun.elapsed() >= patience {
                let what = format!("{} is being written to by a transaction that is older, and does not end", step.member);
                return Err(advised(Error::source_db(what).transient(), publication, step));
            }
            if !told {
                tracing::info!("{} is added to publication {publication} when no transaction is open that has written to it", step.member);
                told = true;
            }
            tokio::time::sleep(PAUSE).await;
        }
        tracing::info!("{} was added to publication {publication}", step.member);
    }
    Ok(())
}

fn advised(error: Error, publication: &str, step: &Step) -> Error {
    let sql = step.sql.join("; ");
    error
        .doing(format!("add {} to publication {publication}", step.member))
        .hint(format!("try again when it is quiet, or run it yourself as owner of both, while nothing writes: BEGIN; {sql}; COMMIT;"))
}

async fn transaction(session: &Session, step: &Step) -> Result<()> {
    let work = async {
        session.execute("BEGIN").await?;
        session.execute(&format!("SET LOCAL lock_timeout = {PATIENCE_MS}")).await?;
        session.execute(&format!("LOCK TABLE {} IN SHARE MODE", step.member)).await?;
        for sql in &step.sql {
            session.execute(sql).await?;
        }
        session.execute("COMMIT").await
    };
    match work.await {
        Ok(()) => Ok(()),
        Err(error) => {
            // The first error is the one to tell; a session that is gone has nothing to roll back.
            let _ = session.execute("ROLLBACK").await;
            Err(error)
        }
    }
}
