//! The state of a running sync: changed in memory, saved soon, and saved at once where correctness asks for it.
//!
//! A chunk whose record is lost is only read again, so those saves may be late and are bundled; the saves around a commit
//! are not (see `settle`).

use crate::error::Result;
use crate::state::State;
use crate::state::file::StateFile;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A save may take at most this share of the time (1/20), so that a large state does not slow a run of many chunks.
const SHARE: u32 = 20;

/// The state and its file.
#[derive(Debug)]
pub struct Keeper {
    file: StateFile,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    dirty: bool,
    saved: Instant,
    cost: Duration,
}

impl Keeper {
    /// Takes over a state that was loaded (or is new).
    pub fn new(file: StateFile, state: State) -> Self {
        Self { file, inner: Mutex::new(Inner { state, dirty: false, saved: Instant::now(), cost: Duration::ZERO }) }
    }

    /// Where the state is kept.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Looks at the state.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock().state)
    }

    /// Changes the state, and saves it unless that was done a moment ago; [`Keeper::flush`] saves the rest.
    pub fn change(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut inner = self.lock();
        change(&mut inner.state);
        inner.dirty = true;
        match inner.saved.elapsed() >= inner.cost * SHARE {
            true => self.save(&mut inner),
            false => Ok(()),
        }
    }

    /// Whether saving now keeps to its share of the time.
    pub fn is_rested(&self) -> bool {
        let inner = self.lock();
        inner.saved.elapsed() >= inner.cost * SHARE
    }

    /// Changes the state and saves it before it returns.
    pub fn commit(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut inner = self.lock();
        change(&mut inner.state);
        self.save(&mut inner)
    }

    /// Saves what is not saved.
    pub fn flush(&self) -> Result<()> {
        let mut inner = self.lock();
        match inner.dirty {
            true => self.save(&mut inner),
            false => Ok(()),
        }
    }

    fn save(&self, inner: &mut Inner) -> Result<()> {
        let started = Instant::now();
        self.file.save(&inner.state)?;
        inner.cost = started.elapsed();
        inner.saved = Instant::now();
        inner.dirty = false;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
