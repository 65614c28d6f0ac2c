//! Standby status updates: what the server is told of our progress, on a clock of its own (manual, "Streaming Replication
//! Protocol").
//!
//! A task of its own sends them, so that the server does not give us up (`wal_sender_timeout`) while the reader works or
//! waits for memory. Promises: no position goes backwards; nothing is told as flushed that was not acknowledged, nor that the
//! reader has not been handed; a server that says nothing is asked for a sign of life, and given up where it does not work for us any more
//! (`sign_of_life`). Knows no payloads.

use super::connect::ConnectOptions;
use super::duplex::Writer;
use super::lsn::Lsn;
use super::sign_of_life::{self, Task};
use super::sqlstate::{io_error, lost};
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Between two updates. A server that shuts down asks again as soon as it has an answer, until all is acknowledged.
const GAP: Duration = Duration::from_millis(20);
/// A reader that looks up for less than this has not ceased to wait.
const GLANCE: Duration = Duration::from_secs(1);
/// Longer than anybody waits.
const FAR: Duration = Duration::from_secs(365 * 86_400);
/// From 1970 to 2000, where PostgreSQL's clock begins.
const EPOCH: Duration = Duration::from_secs(946_684_800);

/// Tells the server how far we are. Clones speak for the same stream, and may outlive it. The server of a slot that is polled
/// ([`super::slot_poll`]) is told before the next poll and at the end, and no sooner.
#[derive(Clone)]
pub struct Acknowledger(Arc<Progress>);

impl Acknowledger {
    /// Everything before `position` is durable on our side: the server may forget it. Goes out with the next update.
    /// A position that the stream has not reached counts as the one that it has reached.
    pub fn flushed(&self, position: Lsn) {
        let reached = position.min(self.0.written());
        let mut state = self.0.lock();
        if reached > state.floor {
            state.flushed = state.flushed.max(reached);
        }
    }

    /// Everything before `position` can be seen by readers. For the server's statistics and `synchronous_commit = remote_apply`.
    pub fn applied(&self, position: Lsn) {
        let reached = position.min(self.0.written());
        let mut state = self.0.lock();
        state.applied = state.applied.max(reached);
    }

    /// Sends an update at once.
    pub fn tell(&self) {
        self.0.tell();
    }

    /// Asks the server how far it has read; a keepalive brings the answer.
    pub fn ask(&self) {
        self.0.lock().wanted = true;
        self.0.tell();
    }
}

/// What the reader and the sender know of each other.
pub(super) struct Progress {
    /// The position up to which the reader has been handed everything.
    written: AtomicU64,
    state: Mutex<State>,
    wake: Notify,
    /// That the reader has waited in vain.
    doomed: Notify,
    /// Silence after which the server counts as gone; zero means never.
    timeout: Duration,
}

struct State {
    /// What the slot has confirmed already: some servers let it go backwards.
    floor: Lsn,
    flushed: Lsn,
    applied: Lsn,
    heard: Instant,
    /// When the server was asked for an answer that has not come.
    asked: Option<Instant>,
    /// Since when an answer is to come, whatever it was asked for.
    awaited: Option<Instant>,
    /// Since when the reader has been waiting for bytes, and until when.
    waiting: Option<(Instant, Instant)>,
    /// Since when an update is on its way to the kernel, or to the SSH connection.
    sending: Option<Instant>,
    /// Whether the next update asks for an answer, for its own sake.
    wanted: bool,
    finishing: bool,
    failure: Option<Error>,
}

impl Progress {
    /// At the start of a stream at `from`, of a slot that has confirmed `floor`.
    pub(super) fn new(from: Lsn, floor: Lsn, timeout: Duration) -> Arc<Self> {
        let (flushed, applied) = (Lsn::default(), Lsn::default());
        let heard = Instant::now();
        let state = State {
            floor,
            flushed,
            applied,
            heard,
            asked: None,
            awaited: None,
            waiting: None,
            sending: None,
            wanted: false,
            finishing: false,
            failure: None,
        };
        let (written, wake, doomed) = (AtomicU64::new(from.max(floor).0), Notify::new(), Notify::new());
        Arc::new(Self { written, state: Mutex::new(state), wake, doomed, timeout })
    }

    pub(super) fn acknowledger(self: &Arc<Self>) -> Acknowledger {
        Acknowledger(self.clone())
    }

    /// The reader is handed what ends at `position`.
    pub(super) fn reach(&self, position: Lsn) {
        self.written.fetch_max(position.0, Ordering::Relaxed);
    }

    /// What was acknowledged; zero if nothing was beyond what the slot had confirmed at the start.
    pub(super) fn acknowledged(&self) -> Lsn {
        self.lock().flushed
    }

    /// Bytes have arrived.
    pub(super) fn heard(&self) {
        let mut state = self.lock();
        (state.heard, state.asked, state.awaited, state.waiting) = (Instant::now(), None, None, None);
    }

    /// The reader waits for bytes, as long as what comes back lives; it may look up now and then.
    pub(super) fn wait(self: &Arc<Self>) -> Waiting {
        let (mut state, now) = (self.lock(), Instant::now());
        let since = state.waiting.filter(|(_, until)| now.saturating_duration_since(*until) < GLANCE).map_or(now, |(since, _)| since);
        state.waiting = Some((since, now + FAR));
        Waiting(self.clone())
    }

    /// Since when the reader has been waiting for an answer that was asked for.
    fn unanswered(&self) -> Option<Instant> {
        let state = self.lock();
        let (since, until) = state.waiting?;
        (until + GLANCE > Instant::now()).then_some(since.max(state.awaited?))
    }

    /// Comes back when the stream is given up, which the reader has to be told.
    pub(super) async fn doom(&self) {
        self.doomed.notified().await;
    }

    /// Gives the stream up when the server does not work for it any more.
    async fn watch(&self, options: &ConnectOptions, process: i32) {
        let patience = sign_of_life::patience(options);
        loop {
            let Some(since) = self.unanswered().filter(|since| since.elapsed() >= patience) else {
                sleep(patience / 4).await;
                continue;
            };
            match sign_of_life::given_up(options, process, Task::Stream, || self.unanswered() == Some(since)).await {
                Some(error) => {
                    self.lock().failure.get_or_insert(error);
                    return self.doomed.notify_one();
                }
                None => sleep(patience).await,
            }
        }
    }

    pub(super) fn tell(&self) {
        self.wake.notify_one();
    }

    /// The next update is the last one, and CopyDone follows it.
    pub(super) fn finish(&self) {
        self.lock().finishing = true;
        self.wake.notify_one();
    }

    /// How long the reader may wait before it has to ask [`Progress::alive`].
    pub(super) fn patience(&self) -> Duration {
        let half = self.timeout / 2;
        match self.lock().asked {
            _ if half.is_zero() => Duration::from_secs(3600),
            Some(asked) => half.saturating_sub(asked.elapsed()).max(Duration::from_millis(1)),
            None => half,
        }
    }

    /// While the reader waits: an error if the server is silent in spite of being asked, or cannot be sent anything.
    pub(super) fn alive(&self) -> Result<()> {
        let mut state = self.lock();
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        match state.asked {
            Some(asked) if asked.elapsed() >= self.timeout / 2 => {
                Err(self.silent("nothing was received from the server", ", though it was asked for a sign of life"))
            }
            _ if !self.timeout.is_zero() && state.sending.is_some_and(|since| since.elapsed() >= self.timeout) => {
                Err(self.silent("the server took nothing that was sent", ""))
            }
            _ => Ok(()),
        }
    }

    fn silent(&self, what: &str, more: &str) -> Error {
        lost(&format!("{what} for {} s{more}", self.timeout.as_secs_f64()))
            .hint("the server or the network between is down, or the server is busy with a very large transaction: try again")
    }

    fn written(&self) -> Lsn {
        Lsn(self.written.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next update, and whether it is the last.
    fn update(&self) -> (Vec<u8>, bool) {
        let mut state = self.lock();
        let half = self.timeout / 2;
        // Once, until something comes: what is sent while nobody reads is answered for each.
        let ask = !half.is_zero() && state.asked.is_none() && state.heard.elapsed() >= half;
        if ask {
            state.asked = Some(Instant::now());
        }
        let ask = std::mem::take(&mut state.wanted) || ask;
        if ask {
            state.awaited.get_or_insert_with(Instant::now);
        }
        let mut message = status(self.written(), state.flushed, state.applied, ask);
        if state.finishing {
            message.extend([b'c', 0, 0, 0, 4]);
        }
        (message, state.finishing)
    }

    /// Sends updates until the last one, each `interval` and when told to.
    async fn send(&self, mut writer: Writer, interval: Duration) {
        // Often enough to ask a silent server in time.
        let half = self.timeout / 2;
        let interval = if half.is_zero() { interval } else { interval.min(half / 2) }.max(GAP);
        loop {
            let (message, last) = self.update();
            let sent = async {
                writer.write_all(&message).await?;
                writer.flush().await
            };
            self.lock().sending = Some(Instant::now());
            let sent = sent.await;
            let now = Instant::now();
            self.lock().sending = None;
            let failure = match sent {
                Ok(()) if last => return,
                Ok(()) => {
                    sleep_until(now + GAP).await;
                    let _ = timeout_at(now + interval, self.wake.notified()).await;
                    continue;
                }
                Err(e) => io_error(&e),
            };
            // The reader learns of it when there is nothing left to read: the server's own words come first.
            tracing::debug!("a status update could not be sent: {failure}");
            self.lock().failure.get_or_insert(failure);
            return;
        }
    }
}

/// That the reader waits.
pub(super) struct Waiting(Arc<Progress>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((_, until)) = &mut self.0.lock().waiting {
            *until = Instant::now();
        }
    }
}

/// The tasks that send, and look after the server; they end when this is dropped.
pub(super) struct Sender {
    sends: JoinHandle<()>,
    watches: Option<JoinHandle<()>>,
}

impl Sender {
    /// `asked_after`: how the server is asked what it does for us, and in which process.
    pub(super) fn start(progress: Arc<Progress>, writer: Writer, interval: Duration, asked_after: Option<(ConnectOptions, i32)>) -> Self {
        let watched = progress.clone();
        let watches = asked_after.map(|(options, process)| tokio::spawn(async move { watched.watch(&options, process).await }));
        Self { sends: tokio::spawn(async move { progress.send(writer, interval).await }), watches }
    }

    /// Waits until the last update is sent, or none can be.
    pub(super) async fn ended(&mut self) {
        let _ = (&mut self.sends).await;
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.sends.abort();
        self.watches.iter().for_each(JoinHandle::abort);
    }
}

/// A CopyData message with a standby status update.
fn status(written: Lsn, flushed: Lsn, applied: Lsn, reply: bool) -> Vec<u8> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH + EPOCH).unwrap_or_default().as_micros() as u64;
    let mut message = Vec::with_capacity(48);
    message.extend([b'd', 0, 0, 0, 38, b'r']);
    for word in [written.0, flushed.0, applied.0, clock] {
        message.extend(word.to_be_bytes());
    }
    message.push(u8::from(reply));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// written, flushed, applied of the next update.
    fn told(progress: &Progress) -> [u64; 3] {
        let (message, _) = progress.update();
        assert_eq!((&message[..6], message.len()), (&[b'd', 0, 0, 0, 38, b'r'][..], 39));
        [0, 1, 2].map(|i| u64::from_be_bytes(*message[6 + 8 * i..].first_chunk().expect("a word")))
    }

    #[tokio::test]
    async fn positions_only_grow_and_never_beyond_what_was_handed_over() {
        let progress = Progress::new(Lsn(100), Lsn(90), Duration::ZERO);
        let acknowledger = progress.acknowledger();
        assert_eq!(told(&progress), [100, 0, 0]);
        // The slot has that: to tell it would move the slot of an older server back.
        acknowledger.flushed(Lsn(90));
        assert_eq!(told(&progress), [100, 0, 0]);
        acknowledger.flushed(Lsn(200));
        acknowledger.clone().applied(Lsn(95));
        assert_eq!(told(&progress), [100, 100, 95]);
        progress.reach(Lsn(300));
        progress.reach(Lsn(250));
        for position in [210, 205, 100] {
            acknowledger.flushed(Lsn(position));
            acknowledger.applied(Lsn(position));
        }
        assert_eq!(told(&progress), [300, 210, 210]);
    }

    #[test]
    fn a_silent_server_is_asked_once_and_then_counts_as_gone() {
        let progress = Progress::new(Lsn(1), Lsn(1), Duration::from_secs(10));
        let asks = || progress.update().0.last() == Some(&1);
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).expect("a machine that runs for a minute");
        progress.lock().heard = ago(4);
        assert!(!asks());
        progress.lock().heard = ago(6);
        assert!(asks() && !asks());
        assert!(progress.alive().is_ok());
        let patience = progress.patience();
        assert!(patience > Duration::from_secs(4) && patience <= Duration::from_secs(5), "{patience:?}");
        progress.heard();
        // Nobody has asked: it may have had no reason to speak.
        progress.lock().heard = ago(20);
        assert!(progress.alive().is_ok());
        assert!(asks());
        progress.lock().asked = Some(ago(5));
        let error = progress.alive().expect_err("silence");
        assert!(
            error.to_string().contains("asked") && error.to_string().contains("10 s") && error.retry() == crate::error::Retry::Again,
            "{error}"
        );
    }

    #[test]
    fn a_server_that_takes_nothing_counts_as_gone() {
        let progress = Progress::new(Lsn(1), Lsn(1), Duration::from_secs(10));
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        progress.lock().sending = ago(9);
        assert!(progress.alive().is_ok());
        progress.lock().sending = ago(10);
        assert!(progress.alive().expect_err("stuck").to_string().contains("took nothing"));
    }

    #[tokio::test]
    async fn the_last_update_ends_the_stream() {
        let progress = Progress::new(Lsn(1), Lsn(1), Duration::ZERO);
        progress.finish();
        let (message, last) = progress.update();
        assert!(last && message.ends_with(&[b'c', 0, 0, 0, 4]) && message.len() == 44);
    }
}
