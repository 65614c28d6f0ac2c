//! How changes become true, and how far every stream is: commit → save, and what the slot may forget then.

use super::capture::{Course, Ground, Until};
use super::capture_reader::{Reader, Window};
use super::plan::StreamPlan;
use super::settle::{Mark, Settlement, settle};
use super::window::Follower;
use crate::chunks::Chunk;
use crate::error::{Error, Kind, Result, Retry};
use crate::postgres::lsn::{Lsn, PgTime};
use crate::state::State;
use crate::state::captured::Captured;
use chrono::Utc;
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use writers::{Commit, Part as _, Stats, Table};

impl<T: Table> Reader<T> {
    /// Commits what was read, and saves how far every stream is.
    pub async fn settle(&mut self, ground: &Ground, course: &Course) -> Result<()> {
        self.flush(&ground.limits).await?;
        let position = self.reached;
        let mut parts = Vec::with_capacity(self.followers.len());
        for follower in &mut self.followers {
            let part = match follower.part().await {
                Ok(part) => part,
                Err(error) => {
                    concerns(follower, error)?;
                    None
                }
            };
            parts.push(part.filter(|_| !follower.has_failed()));
        }
        let mut group = Vec::new();
        let mut indexes = Vec::new();
        let mut stats = Vec::new();
        for (index, (follower, part)) in self.followers.iter().zip(parts).enumerate().filter(|(_, (follower, _))| !follower.has_failed()) {
            let plan: &StreamPlan = &follower.stream.plan;
            let parts: Vec<_> = part.into_iter().collect();
            stats.push(parts.iter().fold(Stats::default(), |mut sum, part| {
                sum += part.stats();
                sum
            }));
            let mark = Mark { load: follower.captured.load.clone(), lsn: position.to_string(), changes: true, left: follower.left() };
            let takes_away = follower.changes > 0;
            group.push(Settlement { plan, table: &follower.stream.table, parts, how: follower.how(), mark, takes_away });
            indexes.push(index);
        }
        let knows = position >= self.planned_before;
        let own = |follower: &Follower<T>| (follower.stream.plan.id.clone(), (follower.left(), follower.truncated));
        let owns: HashMap<String, (usize, Option<u32>)> = self.followers.iter().map(own).collect();
        let note = |state: &mut State, plan: &StreamPlan, written| {
            let (left, truncated) = owns.get(&plan.id).copied().unwrap_or_default();
            advance(state, plan, Advance { position, written, knows, left, truncated, acknowledges: course.acknowledges })
        };
        let outcomes = settle(group, self.together, &ground.keeper, note).await?;
        let (mut changes, mut streams) = (0, 0);
        for ((index, outcome), stats) in indexes.into_iter().zip(outcomes).zip(stats) {
            let follower = &mut self.followers[index];
            if let Err(error) = outcome {
                concerns(follower, error)?;
                continue;
            }
            let (copied, left, replaced) = (follower.copied, follower.left(), follower.how() == Commit::Replace);
            let (own, truncated) = (follower.settled(), follower.truncated.take());
            let advance = Advance { position, written: own > 0 || replaced, knows, left, truncated, acknowledges: false };
            pass(&mut follower.captured, &follower.stream.plan, advance);
            follower.await_rows();
            if copied {
                let id = &follower.stream.plan.id;
                follower.stream.meter.chunks_done.fetch_add(1, Relaxed);
                tracing::info!("{id}: {own} rows of a range and its changes up to {position}; {left} ranges are left");
            }
            if own > 0 {
                (changes, streams) = (changes + own, streams + 1);
                let meter = &follower.stream.meter;
                let mut sum = meter.stats();
                sum += stats;
                meter.committed(sum);
                match course.until {
                    Until::End => tracing::info!("{}: {own} changes up to {position}", follower.stream.plan.id),
                    Until::Told { .. } => tracing::debug!("{}: {own} changes up to {position}", follower.stream.plan.id),
                }
            }
        }
        if changes > 0 && matches!(course.until, Until::Told { .. }) {
            let age = self.window.newest.map_or(0, |newest| (Utc::now().timestamp_micros() - PgTime(newest).unix_micros()).max(0));
            tracing::info!("{changes} changes of {streams} streams up to {position}, the last of them {:.1} s ago", age as f64 / 1e6);
        }
        if knows {
            ground.form.trust();
        }
        self.high = None;
        self.look_for_ranges();
        self.window = Window::new(position);
        Ok(())
    }
}

/// An error of one stream leaves the others alone, if trying again does not help it; any other ends the attempt.
pub fn concerns<T: Table>(follower: &mut Follower<T>, error: Error) -> Result<()> {
    if error.retry() == Retry::Again || error.kind() == Kind::Bug {
        return Err(error);
    }
    follower.fail(error);
    Ok(())
}

/// How a stream has come further.
#[derive(Clone, Copy)]
struct Advance {
    position: Lsn,
    /// Whether the destination was written to.
    written: bool,
    /// Whether the log up to here knows the columns by the names of the plan.
    knows: bool,
    /// Ranges of the table that are still to be copied.
    left: usize,
    /// The transaction of a TRUNCATE that was applied.
    truncated: Option<u32>,
    /// Whether the slot is told.
    acknowledges: bool,
}

fn pass(captured: &mut Captured, plan: &StreamPlan, Advance { position, written, knows, left, truncated, .. }: Advance) {
    captured.leave(left);
    // A stream that is ahead of the one that is furthest behind stays where it is: what comes until there, it has.
    captured.lsn = captured.lsn.max(position);
    captured.seen = captured.seen.take().filter(|seen| !seen.is_passed(position));
    if written {
        captured.written = Some(position);
    }
    captured.truncated = truncated.or(captured.truncated);
    if knows {
        captured.reshape(&plan.numbers);
        captured.partitions.clone_from(&plan.partitions);
        captured.heaps = Some(plan.heaps.clone());
    }
}

/// Notes how far a stream is.
fn advance(state: &mut State, plan: &StreamPlan, advance: Advance) {
    change(state, plan, |captured| pass(captured, plan, advance));
    if advance.acknowledges {
        let position = safe(state);
        state.set_position(position);
    }
}

/// Changes what the state has of a stream; the list of what is left to copy, as OLake reads it, goes with it.
pub fn change(state: &mut State, plan: &StreamPlan, change: impl FnOnce(&mut Captured)) {
    let Some(captured) = state.lakeward.captures.get_mut(&plan.id) else { return };
    let before = captured.left.len();
    change(captured);
    if captured.left.len() == before {
        return;
    }
    let left: Vec<_> = captured.left.iter().map(Chunk::olake_form).collect();
    let (namespace, name) = (&plan.chosen.stream.namespace, &plan.chosen.stream.name);
    match left.is_empty() {
        true => state.complete(namespace, name),
        false => state.set_chunks(namespace, name, left),
    }
}

impl<T: Table> Reader<T> {
    /// What the slot may forget.
    pub fn forgettable(&self, ground: &Ground) -> Lsn {
        let safe = ground.keeper.read(safe);
        self.pending.holds().map_or(safe, |held| safe.min(held))
    }
}

/// What every stream has.
pub fn safe(state: &State) -> Lsn {
    state.lakeward.captures.values().map(|captured| captured.lsn).min().unwrap_or_default()
}

/// The state with what the destination's token says: a run may have committed and died before it could save that. The destination must
/// have what the state says was written last.
pub fn agree<T: Table>(plan: &StreamPlan, mut captured: Captured, table: &T) -> Result<Captured> {
    let mark = table.committed().map(|token| Mark::read(token).ok_or_else(|| token.0.clone()));
    let told = match (&mark, captured.written) {
        (Some(Ok(mark)), written) if mark.load == captured.load && mark.changes => {
            let position: Lsn = mark.lsn.parse().map_err(|e: Error| e.for_kind(Kind::State).doing("read the destination's token"))?;
            // A range is committed where its changes have been already, when there are no new ones.
            if position >= captured.lsn {
                (captured.lsn, captured.written) = (position, Some(position));
                captured.leave(mark.left);
                return Ok(captured);
            }
            if Some(position) == written {
                return Ok(captured);
            }
            format!("its last changes end at {position}")
        }
        (Some(Ok(mark)), None) if mark.load == captured.load => return Ok(captured),
        (_, None) if !plan.capture.as_ref().is_some_and(|capture| capture.loads) => return Ok(captured),
        // Nothing of it is there yet.
        (_, None) if captured.is_copying() => return Ok(captured),
        (Some(Ok(mark)), _) => format!("its last commit is load {}", mark.load),
        (Some(Err(token)), _) => format!("its last commit is {token}"),
        (None, _) => "it has no commit of this table".to_owned(),
    };
    let said =
        captured.written.map_or_else(|| format!("load {}", captured.load), |lsn| format!("changes up to {lsn} on load {}", captured.load));
    Err(Error::state(format!(
        "{}: the state file says that {said} were committed last, but of the destination {told}: adding to it would lose rows or double them",
        plan.id
    ))
    .hint("name the state file that belongs to this destination, or load the table anew: clear-destination for this stream (or `lakeward state repair`, which only leaves it out of the state), then sync"))
}
