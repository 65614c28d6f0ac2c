//! Which files a command reads and writes, by OLake's rules: beside `--config`, or beside `--destination` without one.

use super::Flags;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The folder of the config files.
pub fn folder(flags: &Flags) -> PathBuf {
    if flags.no_save {
        return std::env::temp_dir();
    }
    let file = flags.config.as_deref().or(flags.destination.as_deref());
    match file.and_then(Path::parent) {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Where discover writes its catalog, and where a sync looks for it when `--catalog` is not given.
pub fn streams(flags: &Flags) -> PathBuf {
    match (&flags.catalog, flags.no_save) {
        (Some(path), false) => path.clone(),
        _ => folder(flags).join("streams.json"),
    }
}

/// Where a sync writes its state.
pub fn state(flags: &Flags) -> PathBuf {
    match (&flags.state, flags.no_save) {
        (Some(path), false) => path.clone(),
        _ => folder(flags).join("state.json"),
    }
}

/// Where a sync writes its statistics.
pub fn stats(flags: &Flags) -> PathBuf {
    folder(flags).join("stats.json")
}

/// A flag that this command cannot do without.
pub fn required<'f>(flag: &'f Option<PathBuf>, name: &str, what: &str) -> Result<&'f Path> {
    flag.as_deref().ok_or_else(|| Error::config(format!("--{name} is missing")).hint(format!("give {what} with --{name} FILE")))
}
