//! What the end-to-end tests stand on: real servers, the real binary, and readers that we did not write.
//!
//! Nothing in here knows how Lakeward works inside; it knows its command line, its files and its exit codes.

pub mod canonical;
pub mod damage;
pub mod dice;
pub mod lakeward;
pub mod literals;
pub mod majors;
pub mod moto;
pub mod pooler;
pub mod postgres;
pub mod proxy;
pub mod readback;
pub mod rustberg;
pub mod s3;
pub mod ssh;

use std::path::{Path, PathBuf};

/// Where downloaded tools are kept between runs (the same place as `build.sh`).
pub fn cache() -> PathBuf {
    let set = std::env::var_os("LAKEWARD_CACHE").map(PathBuf::from);
    set.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").expect("HOME is set")).join(".cache/lakeward"))
}

/// Says why a test did not run, so that nobody takes its silence for success.
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Polls until `done` says yes; panics with `what` after `seconds`.
pub fn wait_until(what: &str, seconds: u64, mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    while !done() {
        assert!(std::time::Instant::now() < end, "waited {seconds} s in vain until {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A port of 127.0.0.1 where nobody listens.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("find a free port").port()
}
