//! Whether to let bytes gather in the kernel before they are read, for a stream without end.
//!
//! While the reader catches up, one wake-up for 256 KiB is far cheaper than one for each 8 KiB that the server sends. When
//! it has caught up, a commit must be seen at once, and a socket that gathers is asked 100 times a second for what lies below
//! its mark. What reads bring tells the two apart, where the server does not: a position says how much log there is, not how
//! much of it concerns us.
//!
//! It knows no socket. The last read alone says too little: through TLS it brings one record of 16 KiB, however much there is.

use super::transport::LOW_WATER_WAIT;
use std::time::Duration;

/// So much without a pause, and bytes may gather. Less than COPY waits for: a server that decodes pauses now and then.
const LONG_RUN_BYTES: usize = 256 << 10;
/// Less than this between two waits, and gathering has ended: 6 MB/s, for which nobody needs to save wake-ups.
const BURST_BYTES: usize = 64 << 10;
/// A wait from which on the reads before and after it count apart. Shorter than the kernel's patience, longer than the
/// time that it takes to give up the processor.
const PAUSE: Duration = Duration::from_millis(5);
/// Nothing at all for so long, and gathering has ended.
pub const SILENCE: Duration = LOW_WATER_WAIT.saturating_mul(2);

/// What the reads so far say.
#[derive(Debug, Default)]
pub struct Gathering {
    on: bool,
    /// Bytes since the last pause.
    burst: usize,
}

impl Gathering {
    /// Whether bytes gather.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// A read brought `bytes` after it had waited for `waited`; gives the new setting where it changes.
    pub fn after(&mut self, bytes: usize, waited: Duration) -> Option<bool> {
        let was = self.on;
        if waited >= PAUSE {
            self.on &= self.burst >= BURST_BYTES;
            self.burst = 0;
        }
        self.burst = self.burst.saturating_add(bytes);
        self.on |= self.burst >= LONG_RUN_BYTES;
        (self.on != was).then_some(self.on)
    }

    /// Nothing has come for [`SILENCE`].
    pub fn stop(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(gathering: &mut Gathering, bytes: usize, waited_ms: u64) -> Option<bool> {
        gathering.after(bytes, Duration::from_millis(waited_ms))
    }

    #[test]
    fn a_long_run_gathers_and_a_trickle_does_not() {
        let mut gathering = Gathering::default();
        for _ in 0..31 {
            assert_eq!(read(&mut gathering, 8192, 1), None);
        }
        assert_eq!(read(&mut gathering, 8192, 1), Some(true));
        // 256 KiB, by TLS records, again and again; the kernel's patience ends now and then.
        for _ in 0..100 {
            assert_eq!(read(&mut gathering, 16384, 10), None);
            assert!((0..15).all(|_| read(&mut gathering, 16384, 0).is_none()));
        }
        // The rest, and then one commit.
        assert_eq!(read(&mut gathering, 16384, 10), None);
        assert_eq!(read(&mut gathering, 200, 10), Some(false));
        for _ in 0..100_000 {
            assert_eq!(read(&mut gathering, 200, 6), None);
        }
    }

    #[test]
    fn silence_ends_it() {
        let mut gathering = Gathering::default();
        assert_eq!(read(&mut gathering, 1 << 20, 0), Some(true));
        gathering.stop();
        assert!(!gathering.is_on());
        assert_eq!(read(&mut gathering, 1 << 17, 0), None);
    }
}
