//! Signals: the first asks to stop, and what is not finished is left resumable; the second stops at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Exit status after a second signal, as shells report a process that SIGINT killed.
const STOPPED: i32 = 130;

/// Completes at the first SIGINT or SIGTERM. From then on another one ends the process at once: everything that matters
/// is already on disk, which `kill -9` at any moment also relies on.
pub async fn requested() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        // Without handlers the default action of the signals applies, which is safe.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(STOPPED);
    });
}

/// Tells whoever listens to stop.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// What somebody listens to who works until told to stop. Clones hear the same word.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Both ends.
pub fn stopping() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Says it.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether it has been said.
    pub fn is_told(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for it: for ever, where nobody is left to say it.
    pub async fn told(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|told| *told).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
