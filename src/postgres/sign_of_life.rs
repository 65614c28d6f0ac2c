//! Whether a server that says nothing still works for us.
//!
//! The kernel's keep-alive probes find a peer that is gone, but not what swallows everything and answers the probes itself: a proxy or a firewall that
//! has lost the server behind it. So a session that has waited for an answer for as long as `keepalives_idle` asks the server, through another
//! session, what it does for the first one. A server that works is waited for, however long it takes. A replication stream, which has been asked for a sign
//! of life, is looked after in the same way ([`Task::Stream`]). Behind a pooler nobody can tell which process works for whom, and nothing is asked.

use super::connect::{self, ConnectOptions};
use super::sqlstate::lost;
use crate::error::{Error, Result};
use futures::future::BoxFuture;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// ReadyForQuery without its last byte, the status of the transaction (manual, "Message Formats").
const READY: [u8; 5] = [b'Z', 0, 0, 0, 5];

/// How long the server may take at least to say what it does, login and all.
const ANSWER_MIN: Duration = Duration::from_secs(5);

/// What a process is to be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// A statement.
    Statement,
    /// A replication stream. Its process is always at it; one that waits for log has nothing else to do, and would have answered.
    Stream,
}

/// Since when a session has been waiting for an answer.
#[derive(Debug, Default)]
pub(super) struct Silence {
    state: Mutex<State>,
    /// The server's process; not known behind a pooler.
    process: OnceLock<i32>,
}

#[derive(Debug, Default)]
struct State {
    /// When something was last sent or heard; `None` when nothing is to come.
    since: Option<Instant>,
    /// The last bytes that were heard.
    tail: [u8; 6],
}

impl Silence {
    /// From now on the session may be asked after.
    pub(super) fn serve(&self, process: i32) {
        let _ = self.process.set(process);
    }

    /// Bytes were sent.
    pub(super) fn sent(&self) {
        self.lock().since = Some(Instant::now());
    }

    /// Bytes have come; the last answer is complete when they end with ReadyForQuery.
    pub(super) fn heard(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let tail = bytes.len().min(state.tail.len());
        state.tail.rotate_left(tail);
        let kept = state.tail.len() - tail;
        state.tail[kept..].copy_from_slice(&bytes[bytes.len() - tail..]);
        if state.since.is_some() {
            state.since = (!state.tail.starts_with(&READY)).then(Instant::now);
        }
    }

    fn since(&self) -> Option<Instant> {
        self.lock().since
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes back when the session waits for something that does not come.
    pub(super) async fn broken(&self, options: &ConnectOptions) -> Error {
        let patience = patience(options);
        loop {
            let waited = self.since().map_or(Duration::ZERO, |since| since.elapsed());
            if waited < patience {
                tokio::time::sleep((patience - waited).max(Duration::from_millis(10))).await;
                continue;
            }
            let (before, Some(process)) = (self.since(), self.process.get()) else {
                tokio::time::sleep(patience).await;
                continue;
            };
            match given_up(options, *process, Task::Statement, || self.since() == before).await {
                Some(error) => return error,
                None => tokio::time::sleep(patience).await,
            }
        }
    }
}

/// Silence after which a session is asked after.
pub(super) fn patience(options: &ConnectOptions) -> Duration {
    options.keepalive.idle.max(Duration::from_secs(1))
}

/// Why nothing more is to be expected of `process`, if that is so; nobody knows better as long as `silent`. Twice, because an answer may be on its way.
pub(super) async fn given_up(options: &ConnectOptions, process: i32, task: Task, silent: impl Fn() -> bool) -> Option<Error> {
    let waited = patience(options).as_secs_f64();
    // Logging in may take its time; a session that is served must not be given up for that.
    let limit = options.keepalive.answer().max(options.connect_timeout).max(ANSWER_MIN);
    for last in [false, true] {
        let found = match tokio::time::timeout(limit, is_at_work(options.clone(), process, task)).await {
            Ok(found) => found,
            Err(_) => Err(lost("it does not answer")),
        };
        let why = match found {
            Ok(true) => return None,
            Ok(false) => "the server does not work on it any more".to_owned(),
            // It lives, and lets nobody in.
            Err(error) if error.code().is_some() => return None,
            Err(error) => format!("the server cannot be asked: {error}"),
        };
        if last {
            return silent().then(|| lost(&format!("no answer for {waited} s, and {why}")));
        }
        tokio::time::sleep(options.keepalive.interval.max(Duration::from_millis(500))).await;
        if !silent() {
            return None;
        }
    }
    None
}

/// Whether the server works on something that `process` was told to do. Owns all that it needs, because a session looks after itself with another one.
fn is_at_work(options: ConnectOptions, process: i32, task: Task) -> BoxFuture<'static, Result<bool>> {
    Box::pin(async move {
        let session = connect::session(&options).await?;
        // What others do may be hidden, but not from those of the same role.
        let works = match task {
            Task::Statement => "coalesce(state, 'active') NOT LIKE 'idle%'",
            // The spelling of the second is another one from PostgreSQL 17 on.
            Task::Stream => "lower(coalesce(wait_event, '')) NOT IN ('walsendermain', 'walsenderwaitforwal')",
        };
        let query = format!("SELECT coalesce(bool_or({works}), false) FROM pg_stat_activity WHERE pid = {process}");
        let row = session.row(&query).await?;
        session.close().await;
        Ok(row.get(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_ready_for_query() {
        let silence = Silence::default();
        silence.heard(b"S\0\0\0\x09a\0b\0");
        assert_eq!(silence.since(), None);
        for cut in 0..6 {
            silence.sent();
            silence.heard(b"D\0\0\0\x06\0\0");
            assert!(silence.since().is_some());
            let end = b"C\0\0\0\x05xZ\0\0\0\x05I";
            let (first, second) = end.split_at(end.len() - cut);
            silence.heard(first);
            assert_eq!(silence.since().is_none(), cut == 0);
            silence.heard(second);
            assert_eq!(silence.since(), None, "{cut}");
        }
    }
}
