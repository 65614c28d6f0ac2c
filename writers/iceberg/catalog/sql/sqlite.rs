//! A catalog's database in a file, by SQLite.
//!
//! Each statement opens the file, so that none is held open between commits; others may use it at the same time, from other processes
//! too, as long as the file system can lock. Knows no statements.

use super::{Failure, Rows};
use crate::{Error, Kind};
use rusqlite::{Connection, ErrorCode, OpenFlags, params_from_iter};
use std::path::PathBuf;
use std::time::Duration;

/// How long a statement waits for those of others.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database file.
#[derive(Clone, Debug)]
pub(super) struct Sqlite {
    file: PathBuf,
}

impl Sqlite {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file }
    }

    pub(super) async fn execute(&self, sql: &str, params: &[&str]) -> Result<u64, Failure> {
        let (sql, params) = (sql.to_owned(), owned(params));
        let changed = self.with(true, move |database| database.execute(&sql, params_from_iter(params))).await?;
        Ok(changed.unwrap_or_default() as u64)
    }

    /// A file that is not there has no rows, and does not come to be.
    pub(super) async fn query(&self, sql: &str, params: &[&str]) -> Result<Rows, Failure> {
        let (sql, params) = (sql.to_owned(), owned(params));
        let found = self.with(false, move |database| {
            let mut statement = database.prepare(&sql)?;
            let columns = statement.column_count();
            let rows = statement.query_map(params_from_iter(params), |row| (0..columns).map(|i| row.get(i)).collect())?;
            rows.collect()
        });
        Ok(found.await?.unwrap_or_default())
    }

    pub(super) async fn trial(&self, statements: &[String]) -> Result<(), Failure> {
        let sql = format!("BEGIN IMMEDIATE; {}; ROLLBACK", statements.join("; "));
        let done = self.with(false, move |database| database.execute_batch(&sql)).await?;
        if done.is_none() {
            // There is no file yet, and there shall be none after this: can there be one?
            let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or_else(|| ".".into(), PathBuf::from);
            let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
            rustix::fs::access(&folder, access).map_err(|e| {
                Failure::Refused(
                    Error::new(Kind::Storage, format!("no database can be created in {}", folder.display()))
                        .because(std::io::Error::from(e))
                        .hint("create the folder and make it writable, or correct `jdbc_url`"),
                )
            })?;
        }
        Ok(())
    }

    /// Does something with the database; `None` when there is none and it is not to be created.
    async fn with<T: Send + 'static>(
        &self,
        create: bool,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Option<T>, Failure> {
        let file = self.file.clone();
        let task = tokio::task::spawn_blocking(move || {
            if !create && !file.exists() {
                return Ok(None);
            }
            let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
            let done = Connection::open_with_flags(&file, flags).and_then(|database| {
                database.busy_timeout(PATIENCE)?;
                work(&database)
            });
            done.map(Some).map_err(|error| explain(error, &file.display().to_string()))
        });
        task.await.map_err(|e| Failure::Lost(Error::new(Kind::Bug, "the work on the catalog's database ended early").because(e)))?
    }
}

fn owned(params: &[&str]) -> Vec<String> {
    params.iter().map(|&param| param.to_owned()).collect()
}

fn explain(error: rusqlite::Error, file: &str) -> Failure {
    let code = error.sqlite_error_code();
    let built = |kind, message: String| Error::new(kind, message);
    match code {
        Some(ErrorCode::ConstraintViolation) => {
            Failure::Taken(built(Kind::Conflict, format!("{file}: the row is there already")).because(error))
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Failure::Busy(
            built(Kind::Storage, format!("{file} is locked by another program for more than {} seconds", PATIENCE.as_secs()))
                .hint("end the program that holds a transaction open in it, then run again"),
        ),
        Some(ErrorCode::SystemIoFailure) => Failure::Lost(built(Kind::Storage, format!("{file} cannot be read or written")).because(error)),
        Some(ErrorCode::CannotOpen) => Failure::Refused(
            built(Kind::Storage, format!("{file} cannot be opened"))
                .because(error)
                .hint("create its folder and make file and folder writable, or correct `jdbc_url`"),
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Failure::Refused(
            built(Kind::Storage, format!("{file} cannot be written")).because(error).hint("make the file and its folder writable"),
        ),
        Some(ErrorCode::DiskFull) => {
            Failure::Refused(built(Kind::Storage, format!("no space is left for {file}")).hint("free space, then run again"))
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Failure::Refused(
            built(Kind::Corrupt, format!("{file} is not a sound SQLite database"))
                .because(error)
                .hint("correct `jdbc_url`, or restore the file"),
        ),
        _ => Failure::Refused(built(Kind::Storage, format!("{file}: the database refused a statement")).because(error)),
    }
}
