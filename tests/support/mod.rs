//! What the end-to-end tests stand on: real servers, the real binary, and readers that we did not write.
//!
//! Nothing in here knows how Lakeward works inside; it knows its command line, its files and its exit codes.

pub mod canonical;
pub mod damage;
pub mod dice;
pub mod disk;
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
pub mod seaweed;
pub mod ssh;
pub mod witness;
pub mod workload;

use std::path::{Path, PathBuf};

/// Every secret that a test gives to Lakeward. Whatever a run of any test prints, and what it leaves in its folder, is searched for them.
pub const PLANTED: [&str; 6] = [postgres::PASSWORD, s3::SECRET_KEY, moto::SECRET_KEY, ssh::PASSWORD, "hunter2", "open sesame"];

/// Panics if there is a planted secret in what `place` has.
#[track_caller]
pub fn assert_no_secret(place: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for secret in PLANTED {
        // As it is, and as it is in an address.
        for form in [secret.to_owned(), secret.replace(' ', "%20"), secret.replace(' ', "+")] {
            let lines = || text.lines().filter(|line| line.contains(&form)).take(3).collect::<Vec<_>>();
            assert!(!text.contains(&form), "the secret {form:?} is in {place}: {:?}", lines());
        }
    }
}

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
    free_ports::<1>()[0]
}

/// Several of them, each another one.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held: [std::net::TcpListener; N] = std::array::from_fn(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("find a free port"));
    held.map(|listener| listener.local_addr().expect("the address").port())
}
