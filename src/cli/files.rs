//! Which files a command reads and writes, by OLake's rules: beside `--config`, or beside `--destination` without one. And what to do
//! about a mistake in one of them.

use super::Flags;
use crate::config::FileKind;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The folder of the config files.
pub fn folder(flags: &Flags) -> PathBuf {
    let file = flags.config.as_deref().or(flags.destination.as_deref());
    match file.and_then(Path::parent) {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Where a file is written: as named, else beside the config; with `--no-save` in a temporary folder of this process.
fn output(flags: &Flags, named: Option<&PathBuf>, name: &str) -> PathBuf {
    match (flags.no_save, named) {
        (true, _) => std::env::temp_dir().join(format!("lakeward-{}", std::process::id())).join(name),
        (false, Some(path)) => path.clone(),
        (false, None) => folder(flags).join(name),
    }
}

/// The catalog that a command reads.
pub fn streams(flags: &Flags) -> PathBuf {
    flags.catalog.clone().unwrap_or_else(|| folder(flags).join("streams.json"))
}

/// Where discover writes its catalog.
pub fn streams_output(flags: &Flags) -> PathBuf {
    output(flags, flags.catalog.as_ref(), "streams.json")
}

/// Where discover writes how two catalogs differ: beside the first of them.
pub fn difference_output(flags: &Flags, first: &Path) -> PathBuf {
    output(flags, Some(&first.with_file_name("difference_streams.json")), "difference_streams.json")
}

/// The state that clear-destination edits.
pub fn state(flags: &Flags) -> PathBuf {
    flags.state.clone().unwrap_or_else(|| folder(flags).join("state.json"))
}

/// Where a state is written.
pub fn state_output(flags: &Flags) -> PathBuf {
    output(flags, flags.state.as_ref(), "state.json")
}

/// Where a sync writes its statistics.
pub fn stats_output(flags: &Flags) -> PathBuf {
    output(flags, None, "stats.json")
}

/// Where log files are written, each run's in a folder of its own.
pub fn logs_output(flags: &Flags) -> PathBuf {
    output(flags, None, "logs")
}

/// A flag that this command cannot do without.
pub fn required<'f>(flag: &'f Option<PathBuf>, name: &str, what: &str) -> Result<&'f Path> {
    flag.as_deref().ok_or_else(|| Error::config(format!("--{name} is missing")).hint(format!("give {what} with --{name} FILE")))
}

/// Names the file that an error is about, and what to do where the error does not know it.
pub fn about(error: Error, kind: FileKind, path: &Path) -> Error {
    advised(error.doing(format!("{kind} file {}", path.display())), kind)
}

/// Adds what to do about a mistake in a file where the error itself does not know it.
pub fn advised(error: Error, kind: FileKind) -> Error {
    if error.advice().is_some() {
        return error;
    }
    error.hint(match kind {
        FileKind::Source => "correct the file; `lakeward spec` prints every key with what it takes",
        FileKind::Destination => "correct the file; `lakeward spec --destination-type parquet` prints every key with what it takes",
        FileKind::Streams => "correct the file, or remove it and let discover write it again",
        FileKind::State => {
            "restore the file from a copy, have `lakeward state repair` write it anew as far as the destination proves it, or run without --state to load the tables again"
        }
    })
}
