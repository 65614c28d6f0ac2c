//! End to end: the real binary between real servers and readers that we did not write.
//!
//! `./build.sh test` prepares what is needed (a PostgreSQL server, pyarrow, DuckDB) and runs it all;
//! `./build.sh test --test e2e resume` runs one chapter.

#![allow(missing_docs, reason = "a test binary")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod support;

#[path = "e2e/capture.rs"]
mod capture;
#[path = "e2e/capture_chaos.rs"]
mod capture_chaos;
#[path = "e2e/capture_filter.rs"]
mod capture_filter;
#[path = "e2e/capture_json.rs"]
mod capture_json;
#[path = "e2e/capture_large.rs"]
mod capture_large;
#[path = "e2e/capture_moves.rs"]
mod capture_moves;
#[path = "e2e/capture_ranges.rs"]
mod capture_ranges;
#[path = "e2e/capture_terms.rs"]
mod capture_terms;
#[path = "e2e/capture_truncate.rs"]
mod capture_truncate;
#[path = "e2e/capture_types.rs"]
mod capture_types;
#[path = "e2e/chaos.rs"]
mod chaos;
#[path = "e2e/chaos_log.rs"]
mod chaos_log;
#[path = "e2e/clocks.rs"]
mod clocks;
#[path = "e2e/commands.rs"]
mod commands;
#[path = "e2e/consistency.rs"]
mod consistency;
#[path = "e2e/crashes.rs"]
mod crashes;
#[path = "e2e/damaged.rs"]
mod damaged;
#[path = "e2e/damaged_lake.rs"]
mod damaged_lake;
#[path = "e2e/encryption.rs"]
mod encryption;
#[path = "e2e/failures.rs"]
mod failures;
#[path = "e2e/families.rs"]
mod families;
#[path = "e2e/follow.rs"]
mod follow;
#[path = "e2e/foreign.rs"]
mod foreign;
#[path = "e2e/foreign_decoding.rs"]
mod foreign_decoding;
#[path = "e2e/gentle.rs"]
mod gentle;
#[path = "e2e/iceberg.rs"]
mod iceberg;
#[path = "e2e/incremental.rs"]
mod incremental;
#[path = "e2e/keys.rs"]
mod keys;
#[path = "e2e/keys_act.rs"]
mod keys_act;
#[path = "e2e/kills.rs"]
mod kills;
#[path = "e2e/logs.rs"]
mod logs;
#[path = "e2e/majors.rs"]
mod majors;
#[path = "e2e/memory.rs"]
mod memory;
#[path = "e2e/network.rs"]
mod network;
#[path = "e2e/object_store.rs"]
mod object_store;
#[path = "e2e/olake.rs"]
mod olake;
#[path = "e2e/oracle.rs"]
mod oracle;
#[path = "e2e/pooler.rs"]
mod pooler;
#[path = "e2e/readers.rs"]
mod readers;
#[path = "e2e/refusals.rs"]
mod refusals;
#[path = "e2e/replica.rs"]
mod replica;
#[path = "e2e/resume.rs"]
mod resume;
#[path = "e2e/seeds.rs"]
mod seeds;
#[path = "e2e/state_file.rs"]
mod state_file;
#[path = "e2e/stats.rs"]
mod stats;
#[path = "e2e/syscalls.rs"]
mod syscalls;
#[path = "e2e/tables.rs"]
mod tables;
#[path = "e2e/takeover.rs"]
mod takeover;
#[path = "e2e/together.rs"]
mod together;
#[path = "e2e/tunnel.rs"]
mod tunnel;
#[path = "e2e/types.rs"]
mod types;

/// What searches all output for secrets would find one.
#[test]
fn planted_secrets_are_found() {
    for secret in support::PLANTED {
        for said in [format!("before {secret} after"), format!("postgres://u:{}@host", secret.replace(' ', "%20"))] {
            assert!(std::panic::catch_unwind(|| support::assert_no_secret("here", said.as_bytes())).is_err(), "{said}");
        }
    }
    support::assert_no_secret("here", b"nothing of the kind");
}

/// A chapter that is written but not listed above would never run.
#[test]
fn every_chapter_is_listed() {
    let listed = include_str!("e2e.rs");
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e")).expect("list the chapters") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        assert!(listed.contains(&format!("\"e2e/{name}\"")), "tests/e2e/{name} is not listed in tests/e2e.rs");
    }
}
