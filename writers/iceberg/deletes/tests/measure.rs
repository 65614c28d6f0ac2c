//! How long the index takes, to be run by hand:
//! `cargo test --release -p writers --lib measure_the_index -- --ignored --nocapture`.

#![expect(clippy::print_stderr, reason = "that is what it is for")]

use super::lake::Lake;
use std::time::Instant;

/// Keys in the table, unless `KEYS` says another number of millions.
const MILLIONS: i64 = 10;

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).expect("number").parse::<u64>().expect("number") / 1024
}

/// Makes the peak what is resident now.
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("clear the peak");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, and prints what it measures"]
async fn measure_the_index() {
    let millions = std::env::var("KEYS").ok().and_then(|text| text.parse().ok()).unwrap_or(MILLIONS);
    let mut lake = Lake::new(2, "").await;
    for million in 0..millions {
        lake.append((million * 1_000_000..(million + 1) * 1_000_000).map(|id| (id, String::new())).collect()).await;
    }
    let mut index = lake.index().await;
    forget_peak();
    let (begun, before) = (Instant::now(), peak_mib());
    index.catch_up(&lake.loaded).await.expect("catch up");
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!(
        "rebuild of {millions} M keys: {seconds:.2} s, {:.2} s per million; peak {} MiB over {before}",
        seconds / millions as f64,
        peak_mib() - before
    );
    eprintln!("index: {:?} runs and records, {} MiB", index.size(), folder_mib(index.folder()));
    let mut number = 1_u64;
    for count in [1000, 100_000] {
        let mut random = || {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((number >> 20) % (millions * 1_000_000_i64).cast_unsigned()).cast_signed()
        };
        let ids: Vec<i64> = (0..count).map(|_| random()).collect();
        let keys = lake.keys(&ids).await;
        for _ in 0..2 {
            forget_peak();
            let (begun, before) = (Instant::now(), peak_mib());
            let places = index.find(&lake.loaded, std::slice::from_ref(&keys)).await.expect("find");
            eprintln!(
                "{count} keys: {} found, {:.1} ms, peak {} MiB over {before}",
                places.rows(),
                begun.elapsed().as_secs_f64() * 1e3,
                peak_mib() - before
            );
        }
    }
    let begun = Instant::now();
    drop(index);
    let index = lake.index().await;
    eprintln!("opening it again: {:.1} ms, {:?}", begun.elapsed().as_secs_f64() * 1e3, index.size());
}

fn folder_mib(folder: &std::path::Path) -> u64 {
    let sizes = std::fs::read_dir(folder).expect("folder").map(|item| item.expect("item").metadata().expect("metadata").len());
    sizes.sum::<u64>() >> 20
}
