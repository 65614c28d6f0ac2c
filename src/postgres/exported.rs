//! The exported snapshot: one instant of the database that every reader of a run sees.
//!
//! A coordinator session locks the chosen tables in ACCESS SHARE mode (as `pg_dump` does: nobody can truncate, rewrite or
//! drop them meanwhile, everybody can read and write), then takes the snapshot and exports it. The order matters: a
//! snapshot taken before the locks could be older than a truncation, which is not versioned. Readers adopt the snapshot
//! with `SET TRANSACTION SNAPSHOT` and then no longer need the coordinator.

use super::catalog::{Access, RelationKind, TableInfo};
use super::connect::{self, ConnectOptions, Session};
use super::quote;
use super::startup::{self, Hold};
use super::transport::Keepalive;
use super::wire::Connection;
use crate::error::{Error, Kind, Result, Retry};
use crate::state::captured::Seen;
use crate::state::progress::Moment;
use std::time::{Duration, Instant};

/// Tables per LOCK statement, because one statement naming thousands is slow to parse and hard to read in a log.
const LOCKS_PER_STATEMENT: usize = 200;
/// How long to wait for asynchronous commits to reach the disk beyond what the server promises, and in all if it does not say.
const FLUSH_MARGIN: Duration = Duration::from_millis(400);
const FLUSH_WAIT: Duration = Duration::from_secs(3);
/// Between two looks at the snapshot's age and its session.
const WATCH: Duration = Duration::from_millis(200);
/// From this age on a snapshot is worth a warning: the server cannot clean up behind it.
const OLD: Duration = Duration::from_secs(6 * 3600);

/// What has to be held still while a snapshot is read.
#[derive(Clone, Debug, Default)]
pub struct Relations {
    /// Tables, partitioned parents included: locked before the snapshot.
    pub tables: Vec<(String, String)>,
    /// Views: what they read is locked before the snapshot, where the server allows it.
    pub views: Vec<(String, String)>,
    /// Relations that LOCK TABLE refuses (materialized views, tables of which this user may read some columns only), with a
    /// column that may be read: locked by a query, which is after the snapshot, and compared with what they were before.
    pub others: Vec<(String, String, Option<String>)>,
}

impl Relations {
    /// Adds a table; `column` is one that may be read.
    pub fn add(&mut self, info: &TableInfo, column: Option<&str>) {
        let name = (info.namespace.clone(), info.name.clone());
        match info.kind {
            RelationKind::Table | RelationKind::Partitioned if info.access != Access::Whole => self.tables.push(name),
            RelationKind::View => self.views.push(name),
            RelationKind::Foreign => {}
            _ => self.others.push((name.0, name.1, column.map(str::to_owned))),
        }
    }
}

/// An exported snapshot, valid until it is dropped or its session is lost.
pub struct Exported {
    session: Session,
    /// The name that readers adopt.
    pub name: String,
    /// The instant.
    pub moment: Moment,
    /// Transactions between `xmin` and `xmax` that were open.
    pub open: Vec<u64>,
    /// `server_version_num`, e.g. 150018.
    pub server_version: u32,
    keepalive: Keepalive,
    taken: Instant,
    /// The age at which a run stops; zero means none.
    age_max: Duration,
}

impl Exported {
    /// Locks what `relations` names and exports a snapshot.
    pub async fn take(options: &ConnectOptions, relations: &Relations) -> Result<Self> {
        let session = connect::session(options).await?;
        let server_version = session.server_version();
        // What may be refused is asked outside of a transaction, which a refusal would end.
        session.leave_transaction().await?;
        let execute = async |sql: &str| session.execute(sql).await;
        let mut moment = identify(&session).await?;
        if moment.durable {
            // Before the snapshot: replay goes on while it is taken, and it must not be thought newer than it is.
            moment.lsn = session.row("SELECT coalesce(pg_last_wal_replay_lsn(), '0/0')::text").await?.get(0);
        }
        let before = heaps(&session, &relations.others).await?;
        execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {}", startup::limits(options))).await?;
        for tables in relations.tables.chunks(LOCKS_PER_STATEMENT) {
            let names: Vec<_> = tables.iter().map(|(namespace, name)| quote::qualified(namespace, name)).collect();
            execute(&format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "))).await.map_err(explain_lock)?;
        }
        for (namespace, name) in &relations.views {
            let view = quote::qualified(namespace, name);
            let locked = execute(&format!("SAVEPOINT view; LOCK TABLE {view} IN ACCESS SHARE MODE; RELEASE view")).await;
            if let Err(error) = locked {
                execute("ROLLBACK TO view").await?;
                tracing::warn!(
                    "{view}: its tables cannot be locked ({error}); if one of them is truncated meanwhile, rows will be missing"
                );
            }
        }
        let position = match moment.durable {
            true => quote::literal(&moment.lsn),
            false => "pg_current_wal_insert_lsn()".to_owned(),
        };
        let query = format!(
            "SELECT pg_export_snapshot(), txid_snapshot_xmin(txid_current_snapshot()), txid_snapshot_xmax(txid_current_snapshot()), {position}::text, ARRAY(SELECT txid_snapshot_xip(txid_current_snapshot()))"
        );
        let row = session.row(&query).await?;
        let number = |index: usize| u64::try_from(row.get::<_, i64>(index)).map_err(|_| Error::source_db("a negative transaction id"));
        let name: String = row.get(0);
        (moment.xmin, moment.xmax, moment.lsn) = (number(1)?, number(2)?, row.get(3));
        let open = row.get::<_, Vec<i64>>(4).into_iter().map(i64::cast_unsigned).collect();
        // Behind a pooler, what was set for the session was set for another server connection.
        execute(&startup::settings(options, server_version, Hold::Transaction, false)).await?;
        for (namespace, name, column) in &relations.others {
            let column = column.as_deref().map(quote::identifier).unwrap_or_default();
            execute(&format!("SELECT {column} FROM {} LIMIT 0", quote::qualified(namespace, name))).await.map_err(explain_lock)?;
        }
        if heaps(&session, &relations.others).await? != before {
            return Err(Error::source_db("a table or materialized view was rewritten while the snapshot was taken").transient());
        }
        writers::faults::reach("source.snapshot").await?;
        moment.durable = moment.durable || flushed(&session, &moment.lsn).await?;
        let (keepalive, taken, age_max) = (options.keepalive, Instant::now(), Duration::ZERO);
        Ok(Self { session, name, moment, open, server_version, keepalive, taken, age_max })
    }

    /// Bounds its age; zero means no bound.
    #[must_use]
    pub fn bounded(mut self, age_max: Duration) -> Self {
        self.age_max = age_max;
        self
    }

    /// Whether the session still lives: with it go the locks, and then a truncation could empty a table under its readers.
    /// Behind a network that swallows everything the answer never comes, so it is not waited for without end.
    pub async fn assert_alive(&self) -> Result<()> {
        let limit = self.keepalive.answer();
        let asked = tokio::time::timeout(limit, self.session.execute("SELECT")).await;
        asked
            .unwrap_or_else(|_| Err(Error::source_db(format!("no answer for {} s", limit.as_secs_f64())).transient()))
            .map_err(|reason| lost(&reason))
    }

    /// Looks after the snapshot while it is read, and comes back with the reason to stop. Asking now and then also keeps those
    /// between from forgetting a connection on which nothing else is said.
    pub async fn watch(&self) -> Error {
        let (mut asked, mut warned) = (Instant::now(), false);
        loop {
            tokio::time::sleep(WATCH).await;
            let age = self.taken.elapsed();
            if !self.age_max.is_zero() && age > self.age_max {
                let (age, limit) = (age.as_secs(), self.age_max.as_secs_f64());
                return Error::new(
                    Kind::Interrupted,
                    format!("the exported snapshot is {age} s old, backfill.max_snapshot_age_s allows {limit}; what is staged is kept"),
                );
            }
            if age > OLD && !std::mem::replace(&mut warned, true) {
                tracing::warn!(
                    "the exported snapshot is {} hours old, and the server keeps all dead rows since then; backfill.max_snapshot_age_s stops a run that can be resumed",
                    age.as_secs() / 3600
                );
            }
            if self.session.client.is_closed() || asked.elapsed() > self.keepalive.idle {
                if let Err(error) = self.assert_alive().await {
                    return error;
                }
                asked = Instant::now();
            }
        }
    }

    /// The reason of a failure: that this session is gone, where it is, because whatever follows from that is no reason.
    pub fn cause(&self, error: Error) -> Error {
        match self.session.ended() {
            Some(reason) if error.retry() == Retry::Again => lost(reason),
            _ => error,
        }
    }

    /// The session that holds the snapshot, for catalog queries that must see the same instant.
    pub fn client(&self) -> &tokio_postgres::Client {
        &self.session.client
    }

    /// Which transactions it shows.
    pub fn seen(&self) -> Seen {
        Seen { moment: self.moment.clone(), open: self.open.clone() }
    }
}

fn lost(reason: &Error) -> Error {
    let error = Error::source_db(format!("the session that holds the exported snapshot was lost: {reason}")).transient();
    if let Some(code) = reason.code() { error.sqlstate(code) } else { error }
}

/// Which history the server writes; `durable` is set for a standby, which shows only what is on its disk.
pub async fn identify(session: &Session) -> Result<Moment> {
    // Not every managed server lets everybody ask; an unknown system only means that staged chunks are not reused.
    let system = match session.row("SELECT system_identifier::text FROM pg_control_system()").await {
        Ok(row) => row.get::<_, String>(0),
        Err(_) => String::new(),
    };
    let query = "SELECT pg_is_in_recovery(), oid FROM pg_database WHERE datname = current_database()";
    let row = session.row(query).await?;
    let (standby, database): (bool, u32) = (row.get(0), row.get(1));
    let timeline = match standby {
        // Of the last restart point, and of the pages that are on disk.
        true => "SELECT greatest(timeline_id, min_recovery_end_timeline)::bigint FROM pg_control_checkpoint(), pg_control_recovery()",
        false => "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint",
    };
    let timeline = session.row(timeline).await.map_or(0, |row| row.get::<_, i64>(0));
    let timeline = u32::try_from(timeline).unwrap_or(0);
    Ok(Moment { system, timeline, database, xmin: 0, xmax: 0, lsn: String::new(), durable: standby })
}

/// The files that hold the relations now.
async fn heaps(session: &Session, relations: &[(String, String, Option<String>)]) -> Result<Vec<Option<u32>>> {
    let mut found = Vec::with_capacity(relations.len());
    for (namespace, name, _) in relations {
        let query = format!("SELECT pg_relation_filenode({}::regclass)", quote::literal(&quote::qualified(namespace, name)));
        found.push(session.row(&query).await?.get(0));
    }
    Ok(found)
}

/// A session that sees what an exported snapshot shows, for as long as its transaction lasts.
///
/// # Errors
/// Transient if the session that exported it is gone: a new attempt takes a new snapshot.
pub async fn adopt(options: &ConnectOptions, name: &str, moment: &Moment) -> Result<Connection> {
    let mut connection = connect::wire(options).await?;
    connection.simple("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let adopt = format!("SET TRANSACTION SNAPSHOT {}", quote::literal(name));
    connection.simple(&adopt).await.map_err(|error| match error.code() {
        // Undefined object, or invalid value.
        Some("42704" | "22023" | "55000") => error.transient().doing("adopt the exported snapshot"),
        _ => error.doing("adopt the exported snapshot"),
    })?;
    // Behind a pooler, what was set for the session was set for another server connection.
    connection.simple(&connection.settings(options, true)).await?;
    // A server that has restarted gives the same names to other snapshots.
    let seen = connection.simple("SELECT txid_snapshot_xmin(txid_current_snapshot()), txid_snapshot_xmax(txid_current_snapshot())").await?;
    let expected = [moment.xmin, moment.xmax].map(|id| Some(id.to_string()));
    if seen.first().map(Vec::as_slice) != Some(&expected) {
        return Err(Error::source_db("the exported snapshot is gone, and another has its name").transient());
    }
    Ok(connection)
}

/// Waits until a crash of the server cannot take back a transaction that the snapshot shows; false if that is not known.
///
/// That is so when the log is on disk up to `lsn`. It need not get there: what a transaction that is still open has written stays in
/// memory while the server has nothing else to do. But a commit that is visible is on disk already, or is an asynchronous one, which
/// the WAL writer flushes within three times `wal_writer_delay` (manual, "Asynchronous Commit").
pub async fn flushed(session: &Session, lsn: &str) -> Result<bool> {
    let started = Instant::now();
    let query = format!(
        "SELECT pg_current_wal_flush_lsn() >= {}::pg_lsn, (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_writer_delay')",
        quote::literal(lsn)
    );
    loop {
        let row = session.row(&query).await?;
        let delay = row.get::<_, Option<i64>>(1).and_then(|delay| u64::try_from(delay).ok());
        // A little more: the writer wakes up late on a busy machine.
        let surely = delay.map(|delay| Duration::from_millis(3 * delay) + FLUSH_MARGIN);
        if row.get(0) || surely.is_some_and(|surely| started.elapsed() > surely) {
            return Ok(true);
        }
        if surely.is_none() && started.elapsed() > FLUSH_WAIT {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn explain_lock(error: Error) -> Error {
    match error.code() {
        Some("53200") => error.hint("raise max_locks_per_transaction on the server, or sync fewer tables in one run"),
        Some("55P03") => {
            error.hint("another session holds an exclusive lock on a table (ALTER, TRUNCATE, VACUUM FULL); try again when it has ended")
        }
        Some("42P01") => error.hint("the table has been dropped or renamed; run discover again, or take it out of selected_streams"),
        Some("42501") => error.hint("GRANT SELECT ON the table TO this user (and USAGE ON its schema), or take it out of selected_streams"),
        _ => error,
    }
    .doing("lock the tables against changes of their shape")
}
