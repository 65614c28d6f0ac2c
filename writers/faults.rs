//! Faults by a script: the n-th time that a step is reached it fails, hangs, is slow, answers with damaged bytes, or ends the process.
//!
//! Steps have names (`storage.put` before it happens, `storage.put.done` when it has taken effect) and stand at every operation on a store or a
//! catalog, and in the engine between the steps of a commit. Only with the feature `faults`, which tests turn on and no release has, does
//! a step look at the script; otherwise it is nothing.
//!
//! The script is in the environment variable `LAKEWARD_FAULTS`: `STEP#N=FAULT`, separated by `;`. `N` counts from 1; `3..` is the third time and
//! every later one. Faults: `fail` (as an outage that may pass), `refuse` (as an error that stays), `crash`, `hang`, `slow:MILLISECONDS`, `cut` and
//! `junk` (for steps that give bytes). `LAKEWARD_FAULTS_TRACE` names a file to which the name of every step that is reached is appended.

#[cfg(not(feature = "faults"))]
use {crate::Result, bytes::Bytes};

/// Reaches a step on a thread that may block.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn step(_name: &'static str) -> Result<()> {
    Ok(())
}

/// Reaches a step in a task.
#[cfg(not(feature = "faults"))]
#[inline]
#[expect(clippy::unused_async, reason = "it waits with the feature only")]
pub async fn reach(_name: &'static str) -> Result<()> {
    Ok(())
}

/// What a step gives that reads.
#[cfg(not(feature = "faults"))]
#[inline]
pub(crate) fn bytes(_name: &'static str, bytes: Bytes) -> Bytes {
    bytes
}

#[cfg(feature = "faults")]
pub(crate) use script::bytes;
#[cfg(feature = "faults")]
pub use script::{reach, step};

#[cfg(feature = "faults")]
#[path = "faults_script.rs"]
mod script;
