//! How fast rows may come: `rate_limit` of `source.json`.
//!
//! One [`Pace`] is shared by all readers. A reader says what it has read and waits until that much was allowed; while it
//! waits it does not read, the buffers between fill up, and the server's COPY stands still. Each limit is a bucket that fills
//! with time; it is kept as the instant until which everything read so far is paid for, so that nothing has to tick.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What a pause may save up: enough for a timer that rings late, too little for a burst that anybody would notice.
const SAVED: Duration = Duration::from_millis(100);

/// The longest that one booking may reach: a row of a gigabyte at a byte per second does not have to be right.
const FAR: Duration = Duration::from_secs(86_400);

/// The limits of a run.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<[Limit]>);

#[derive(Debug)]
struct Limit {
    what: What,
    per_second: u64,
    paid_until: Mutex<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Rows,
    Bytes,
}

impl Pace {
    /// So many rows and so many bytes per second; 0 means any number.
    pub fn new(rows_per_second: u64, bytes_per_second: u64) -> Self {
        let limit = |what, per_second| Limit { what, per_second, paid_until: Mutex::new(Instant::now()) };
        let limits = [limit(What::Rows, rows_per_second), limit(What::Bytes, bytes_per_second)];
        Self(limits.into_iter().filter(|limit| limit.per_second > 0).collect())
    }

    /// Waits until what has just been read was allowed.
    pub async fn spend(&self, rows: u64, bytes: u64) {
        if self.0.is_empty() {
            return;
        }
        let now = Instant::now();
        let allowed = self.book(rows, bytes, now);
        if allowed > now {
            sleep_until(allowed).await;
        }
    }

    /// When everything read so far, this included, will have been allowed.
    fn book(&self, rows: u64, bytes: u64, now: Instant) -> Instant {
        self.0.iter().map(|limit| limit.book(rows, bytes, now)).max().unwrap_or(now)
    }
}

impl Limit {
    fn book(&self, rows: u64, bytes: u64, now: Instant) -> Instant {
        let amount = if self.what == What::Rows { rows } else { bytes };
        let cost = Duration::try_from_secs_f64(amount as f64 / self.per_second as f64).unwrap_or(FAR).min(FAR);
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paid_until = (*paid_until).max(now.checked_sub(SAVED).unwrap_or(now)) + cost;
        *paid_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `steps` times so many rows and bytes, by `readers` at once, on a clock of its own; gives the seconds it takes.
    fn seconds(pace: &Pace, start: Instant, readers: usize, (rows, bytes): (u64, u64), steps: u64) -> f64 {
        let mut clocks = vec![start; readers];
        for _ in 0..steps {
            let next = clocks.iter_mut().min().expect("a reader");
            *next = pace.book(rows, bytes, *next).max(*next);
        }
        clocks.into_iter().max().expect("a reader").duration_since(start).as_secs_f64()
    }

    #[test]
    fn the_slower_limit_decides_however_many_readers() {
        let check = |limits: (u64, u64), readers, step, steps, expected: f64| {
            let took = seconds(&Pace::new(limits.0, limits.1), Instant::now(), readers, step, steps);
            assert!((took - expected).abs() <= expected * 0.02 + 0.1, "{limits:?}: {took} s instead of {expected} s");
        };
        check((0, 0), 3, (1_000_000, 1 << 30), 900, 0.0);
        check((1000, 0), 1, (10, 1 << 20), 500, 5.0);
        check((1000, 0), 4, (10, 1 << 20), 500, 5.0);
        check((0, 1 << 20), 3, (1, 64 << 10), 96, 6.0);
        check((1000, 1 << 20), 2, (100, 64 << 10), 100, 10.0);
        // Steps of whole seconds, and some that no timer could measure.
        check((10, 0), 2, (50, 1), 4, 20.0);
        check((10_000_000, 0), 2, (1, 1), 2_000_000, 0.2);
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let later = Instant::now() + Duration::from_secs(60);
        let took = seconds(&Pace::new(100, 0), later, 1, (10, 0), 50);
        assert!((4.8..5.1).contains(&took), "{took}");
        assert!(seconds(&Pace::new(1, 0), later, 1, (u64::MAX, 0), 3) <= 4.0 * FAR.as_secs_f64(), "nothing overflows");
    }

    #[tokio::test]
    async fn who_is_too_early_sleeps() {
        let started = Instant::now();
        Pace::new(1000, 0).spend(300, 0).await;
        assert!(started.elapsed() >= Duration::from_millis(150), "{:?}", started.elapsed());
    }
}
