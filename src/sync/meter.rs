//! Counters of a run: the engine adds, whoever wants to show progress reads. No output here.

use crate::error::{Error, Kind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use writers::Stats;

/// What a stream is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Nothing read yet.
    Waiting = 0,
    /// Chunks are being read.
    Reading = 1,
    /// Everything is staged; the commit is under way.
    Committing = 2,
    /// Committed.
    Done = 3,
    /// Failed; the reason is in [`Meter::failure`].
    Failed = 4,
}

/// Counters of one stream. All amounts are of this run, except where the name says otherwise.
#[derive(Debug)]
pub struct Meter {
    /// Stream id, `namespace.name`.
    pub id: String,
    /// Planner's estimate of all rows, 0 when unknown.
    pub rows_estimated: AtomicU64,
    /// Rows decoded.
    pub rows_read: AtomicU64,
    /// Bytes of COPY data received.
    pub bytes_read: AtomicU64,
    /// Chunks planned, those kept from an earlier run included.
    pub chunks_planned: AtomicU64,
    /// Chunks staged or kept.
    pub chunks_done: AtomicU64,
    /// Chunks kept from an earlier run.
    pub chunks_kept: AtomicU64,
    phase: AtomicU8,
    outcome: Mutex<Outcome>,
}

#[derive(Debug, Default)]
struct Outcome {
    started: Option<Instant>,
    ended: Option<Instant>,
    committed: Stats,
    failure: Option<Error>,
}

impl Meter {
    /// A stream that waits.
    pub fn new(id: &str) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            rows_estimated: AtomicU64::new(0),
            rows_read: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            chunks_planned: AtomicU64::new(0),
            chunks_done: AtomicU64::new(0),
            chunks_kept: AtomicU64::new(0),
            phase: AtomicU8::new(Phase::Waiting as u8),
            outcome: Mutex::default(),
        })
    }

    /// What the stream is doing.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Waiting,
            1 => Phase::Reading,
            2 => Phase::Committing,
            3 => Phase::Done,
            _ => Phase::Failed,
        }
    }

    /// Enters a phase; the clock starts with the first chunk and stops with the last phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
        let mut outcome = self.lock();
        match phase {
            Phase::Waiting => {}
            Phase::Reading | Phase::Committing => {
                outcome.started.get_or_insert_with(Instant::now);
            }
            Phase::Done | Phase::Failed => outcome.ended = Some(Instant::now()),
        }
    }

    /// Records what the commit made visible.
    pub fn committed(&self, stats: Stats) {
        self.lock().committed = stats;
        self.enter(Phase::Done);
    }

    /// Records why the stream failed.
    pub fn fail(&self, reason: Error) {
        self.lock().failure = Some(reason);
        self.enter(Phase::Failed);
    }

    /// What the commit made visible.
    pub fn stats(&self) -> Stats {
        self.lock().committed
    }

    /// Why the stream failed: who must act, what happened, what to do.
    pub fn failure(&self) -> Option<(Kind, String, Option<String>)> {
        self.lock().failure.as_ref().map(|e| (e.kind(), e.to_string(), e.advice().map(str::to_owned)))
    }

    /// Time from the first chunk to the commit, or to now.
    pub fn elapsed(&self) -> Duration {
        let outcome = self.lock();
        match (outcome.started, outcome.ended) {
            (Some(started), Some(ended)) => ended.saturating_duration_since(started),
            (Some(started), None) => started.elapsed(),
            _ => Duration::ZERO,
        }
    }

    /// Starts counting again, for a table that is loaded anew within the run.
    pub fn restart(&self) {
        for counter in [&self.rows_read, &self.bytes_read, &self.chunks_planned, &self.chunks_done, &self.chunks_kept] {
            counter.store(0, Relaxed);
        }
        *self.lock() = Outcome::default();
        self.enter(Phase::Waiting);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
