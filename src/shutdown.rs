//! Signals: the first abandons what is open and leaves a resumable state, the second stops at once.

use tokio::signal::unix::{SignalKind, signal};

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
