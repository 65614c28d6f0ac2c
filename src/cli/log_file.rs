//! `--log-files`: the log as OLake's file, `logs/sync_<time>/olake.log`, whatever is shown on stderr.
//!
//! A line is one JSON object with `level`, `time` and `message` as OLake writes them, and what else an event holds. A file that
//! would pass 100 MB is put aside and compressed, and five such are kept. Promises: a line is whole; a disk that is full in the middle
//! of a run is said once and does not end it. Does not know what is logged: what must not be seen is kept out of events.

use crate::error::{Error, Kind, Result};
use chrono::Utc;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value};
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Target of events that are only for the file: on stderr the same is said in another form, or on stdout.
pub const FILE_ONLY: &str = "lakeward::file";
/// Target of events that are not for the file.
pub const STDERR_ONLY: &str = "lakeward::stderr";

/// OLake's limits.
const FILE_BYTES_MAX: u64 = 100 << 20;
const OLDER_KEPT: usize = 5;

/// A log file. Cloning shares it.
#[derive(Clone, Debug)]
pub struct LogFile(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    /// The older file that is being compressed.
    compressing: Option<JoinHandle<()>>,
    /// A failure was told.
    told: bool,
}

impl LogFile {
    /// Opens `<logs>/sync_<now>/olake.log`.
    pub fn create(logs: &Path) -> Result<Self> {
        let folder = logs.join(Utc::now().format("sync_%Y-%m-%d_%H-%M-%S").to_string());
        Self::open(&folder.join("olake.log"), FILE_BYTES_MAX).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::StorageFull => "free some disk space, or leave out --log-files",
                _ => "let this process write there, choose another folder for the configuration, or leave out --log-files",
            };
            Error::new(Kind::State, format!("write log files to {}: {error}", folder.display())).hint(hint)
        })
    }

    fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self(Arc::new(Mutex::new(State { path: path.to_owned(), file, bytes, bytes_max, compressing: None, told: false }))))
    }

    fn write(&self, line: &[u8]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = state.write(line)
            && !std::mem::replace(&mut state.told, true)
        {
            // Not an event: it would come back here. Nobody is left to tell if stderr is gone as well.
            let _ = writeln!(io::stderr(), "the log file {} cannot be written: {error}", state.path.display());
        }
    }

    /// Waits until what was put aside is compressed.
    pub fn close(&self) {
        let thread = self.0.lock().unwrap_or_else(PoisonError::into_inner).compressing.take();
        // A panic in there has been told by the thread itself.
        let _ = thread.map(JoinHandle::join);
    }
}

impl State {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        // One at a time: who logs 100 MB faster than they are compressed waits.
        if let Some(before) = self.compressing.take() {
            let _ = before.join();
        }
        let older = self.path.with_file_name(format!("olake-{}.log", Utc::now().format("%Y-%m-%dT%H-%M-%S%.6f")));
        fs::rename(&self.path, &older)?;
        self.file = append(&self.path)?;
        self.bytes = 0;
        self.compressing = Some(std::thread::spawn(move || {
            if let Err(error) = compress(&older).and_then(|()| forget(&older)) {
                let _ = writeln!(io::stderr(), "the older log file {} is left as it is: {error}", older.display());
            }
        }));
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Replaces a file by its compressed form.
fn compress(path: &Path) -> io::Result<()> {
    let (temporary, compressed) = (path.with_extension("log.gz.tmp"), path.with_extension("log.gz"));
    let mut encoder = GzEncoder::new(File::create(&temporary)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::rename(&temporary, &compressed)?;
    fs::remove_file(path)
}

/// Removes the oldest files beside this one.
fn forget(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let mut older: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).filter(|path| is_older(path)).collect();
    // Their names hold the time.
    older.sort();
    let surplus = older.len().saturating_sub(OLDER_KEPT);
    older.iter().take(surplus).try_for_each(fs::remove_file)
}

fn is_older(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("olake-") && name.ends_with(".log.gz"))
}

impl<S: Subscriber> Layer<S> for LogFile {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        if meta.target() == STDERR_ONLY {
            return;
        }
        let mut line = Line(Map::new());
        line.0.insert("level".to_owned(), meta.level().as_str().to_ascii_lowercase().into());
        line.0.insert("time".to_owned(), Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string().into());
        line.0.insert("message".to_owned(), "".into());
        event.record(&mut line);
        if meta.target() == FILE_ONLY {
            line.unpack();
        }
        self.write(format!("{}\n", Value::Object(line.0)).as_bytes());
    }
}

/// The line of an event.
struct Line(Map<String, Value>);

impl Line {
    fn set(&mut self, field: &Field, value: Value) {
        match field.name() {
            // What a field of an event is called must not hide the level of its line.
            name @ ("level" | "time") => self.0.insert(format!("event_{name}"), value),
            name => self.0.insert(name.to_owned(), value),
        };
    }

    /// Texts that are JSON objects or lists become them, as in OLake, which logs the messages of stdout that way.
    fn unpack(&mut self) {
        for value in self.0.values_mut() {
            if let Some(json) = value.as_str().filter(|text| text.starts_with(['{', '['])).and_then(|text| serde_json::from_str(text).ok())
            {
                *value = json;
            }
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.set(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;
    use tracing_subscriber::layer::SubscriberExt as _;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn events_become_lines_of_olakes_form() {
        let folder = tempfile::tempdir().unwrap();
        let log = LogFile::create(folder.path()).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            tracing::info!("{} of {}", 1, 2);
            tracing::warn!(rows = 7_u64, ratio = 0.5, good = true, kind = ?Kind::Config, level = "mine", "a \"quoted\"\nline");
            tracing::info!(target: FILE_ONLY, streams = %"[1]", "{}", r#"{"type":"SPEC"}"#);
            tracing::info!("{}", r#"{"type":"SPEC"}"#);
            tracing::info!(target: STDERR_ONLY, "shown");
        });
        let run = names(folder.path()).remove(0);
        assert!(chrono::NaiveDateTime::parse_from_str(&run, "sync_%Y-%m-%d_%H-%M-%S").is_ok(), "{run}");
        let text = fs::read_to_string(folder.path().join(run).join("olake.log")).unwrap();
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &mut lines {
            let time = line.as_object_mut().unwrap().remove("time").unwrap();
            assert!(chrono::NaiveDateTime::parse_from_str(time.as_str().unwrap(), "%Y-%m-%dT%H:%M:%SZ").is_ok(), "{time}");
        }
        let expected = serde_json::json!([
            {"level": "info", "message": "1 of 2"},
            {"level": "warn", "message": "a \"quoted\"\nline", "rows": 7, "ratio": 0.5, "good": true, "kind": "Config", "event_level": "mine"},
            {"level": "info", "message": {"type": "SPEC"}, "streams": [1]},
            {"level": "info", "message": "{\"type\":\"SPEC\"}"},
        ]);
        assert_eq!(Value::from(lines), expected);
    }

    #[test]
    fn full_files_are_put_aside_compressed_and_the_oldest_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("olake.log");
        let log = LogFile::open(&path, 100).unwrap();
        // Two lines fit in a file: 18 lines are one file that grows and eight that are full.
        for number in 0..18 {
            log.write(format!("{number:049}\n").as_bytes());
        }
        log.close();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{:049}\n{:049}\n", 16, 17));
        let older: Vec<_> = names(folder.path()).into_iter().filter(|name| name != "olake.log").collect();
        assert_eq!(older.len(), OLDER_KEPT, "{older:?}");
        for (name, first) in older.iter().zip([6, 8, 10, 12, 14]) {
            assert!(name.starts_with("olake-") && name.ends_with(".log.gz"), "{name}");
            let mut text = String::new();
            GzDecoder::new(File::open(folder.path().join(name)).unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("{first:049}\n{:049}\n", first + 1), "{name}");
        }
        // Another run in the same second goes on in the same file, and a line longer than a file is one.
        let again = LogFile::open(&path, 100).unwrap();
        again.write(&[b'x'; 300]);
        again.close();
        assert_eq!(fs::metadata(&path).unwrap().len(), 300);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("logs"), "").unwrap();
        let error = LogFile::create(&folder.path().join("logs")).unwrap_err();
        assert!(error.kind() == Kind::State && error.to_string().contains("logs/sync_"), "{error}");
        assert!(error.advice().unwrap().contains("--log-files"));
    }
}
