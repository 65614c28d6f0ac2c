//! Reading and writing the state file: atomically, and by one run at a time.

use super::{RESTORE, State, refuse_newer};
use crate::config::load::{parse_json, read};
use crate::error::{Context as _, Error, Kind, Result};
use serde_json::Value;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use writers::faults;

/// The state file of a run. Holds a lock (`<file>.lock`) until it is dropped or the process ends.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    _lock: File,
}

impl StateFile {
    /// Takes the lock beside `path`. Another run that holds it is an error.
    pub fn lock(path: &Path) -> Result<Self> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|e| io(parent, "create folder", &e))?;
        let lock_path = with_suffix(path, ".lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path).map_err(|e| io(&lock_path, "open", &e))?;
        match lock.try_lock() {
            Ok(()) => {
                remove_leftovers(parent);
                Ok(Self { path: path.to_owned(), _lock: lock })
            }
            Err(TryLockError::WouldBlock) => Err(Error::state(format!("{}: another run holds this state file", path.display()))
                .hint("wait for the other run to end, or give this one another --state")),
            Err(TryLockError::Error(e)) => Err(io(&lock_path, "lock", &e)),
        }
    }

    /// Where the state is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the state; `None` when there is no file yet.
    pub fn load(&self) -> Result<Option<State>> {
        load(&self.path)
    }

    /// Writes the state: temporary file, fsync, rename, fsync of the folder.
    pub fn save(&self, state: &State) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(state).map_err(|e| Error::bug(format!("serialise the state: {e}")))?;
        text.push(b'\n');
        faults::step("state.save")?;
        write_atomically(&self.path, &text)?;
        Ok(faults::step("state.save.done")?)
    }
}

/// Reads a state file; `None` when there is none. A file that is not a state file is an error, and is left as it is.
pub fn load(path: &Path) -> Result<Option<State>> {
    match look(path)? {
        Content::Missing => Ok(None),
        Content::Whole(state) => Ok(Some(*state)),
        Content::Damaged(error) => Err(error),
    }
}

/// What there is in place of a state file.
#[derive(Debug)]
pub enum Content {
    /// Nothing.
    Missing,
    /// A state.
    Whole(Box<State>),
    /// What was a state, or nothing that anybody would miss.
    Damaged(Error),
}

/// Looks at a state file.
///
/// # Errors
/// What somebody would miss who lost it: a state of a newer program, an object with keys that no state has.
pub fn look(path: &Path) -> Result<Content> {
    if matches!(path.try_exists(), Ok(false)) {
        return Ok(Content::Missing);
    }
    let what = || format!("read state file {}", path.display());
    Ok(match understand(read(path)).doing(what)? {
        Content::Damaged(error) => Content::Damaged(error.doing(what())),
        content => content,
    })
}

/// As [`look`], for the text of a file.
///
/// # Errors
/// As there.
pub fn understand(text: Result<String>) -> Result<Content> {
    let damaged = |why: &str| Error::state(why).hint(RESTORE);
    let mut precious = false;
    let understand = || {
        let text = text.map_err(|error| damaged(&error.to_string()))?;
        let value = parse_json(&text).map_err(|error| damaged(&error.to_string()))?;
        let Value::Object(map) = &value else { return Err(damaged("found no object, accepted: an object with keys")) };
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        precious = true;
        refuse_newer(number(&value["version"]), number(&value["lakeward"]["version"]))?;
        // Any other file of the user would do for a state in which nothing has been read yet, and would then be overwritten.
        if let Some(key) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(damaged(&format!("`{key}`: no key of a state file, accepted: {}", KEYS.join(", ")))
                .hint("check which file is given to which flag, or remove the key"));
        }
        precious = false;
        let state: State =
            serde_path_to_error::deserialize(value).map_err(|error| damaged(&format!("`{}`: {}", error.path(), error.inner())))?;
        state.validate()?;
        Ok(state)
    };
    match understand() {
        Ok(state) => Ok(Content::Whole(Box::new(state))),
        Err(error) if precious => Err(error),
        Err(error) => Ok(Content::Damaged(error)),
    }
}

/// The keys that a state file may have.
const KEYS: [&str; 5] = ["type", "version", "global", "streams", "lakeward"];

/// Replaces `path` by `text` so that a reader, or a crash, sees the old content or the new one.
pub fn write_atomically(path: &Path, text: &[u8]) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = with_suffix(path, &format!(".{}.tmp", std::process::id()));
    let written = (|| {
        fs::create_dir_all(parent)?;
        let mut file = File::create(&temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(parent)?.sync_all()
    })();
    written.map_err(|e| {
        // The error that matters is the first one; a leftover is overwritten by the next save.
        let _ = fs::remove_file(&temporary);
        io(path, "write", &e)
    })
}

/// Removes temporary files that killed runs have left in the folder: `<name>.json.<process>.tmp` of processes that are gone.
/// A file that cannot be removed does no harm.
fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_suffix(".tmp")?.rsplit_once(".json.")?.1.parse::<u32>().ok());
        if process.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn io(path: &Path, doing: &str, error: &std::io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "give the user of this process the right to write there, or choose another folder with --state",
        ErrorKind::StorageFull => "free some disk space",
        ErrorKind::ReadOnlyFilesystem => "choose a folder on a writable file system with --state",
        _ => "check the path",
    };
    Error::new(Kind::State, format!("{doing} {}: {error}", path.display())).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saves_are_read_back_and_leave_no_temporary() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("sub/state.json");
        let file = StateFile::lock(&path).expect("lock");
        assert!(file.load().expect("load").is_none());
        let mut state = State::default();
        state.set_chunks("public", "a", vec![]);
        file.save(&state).expect("save");
        assert_eq!(file.load().expect("load").expect("there").streams.len(), 1);
        let names: Vec<_> = fs::read_dir(path.parent().expect("parent")).expect("dir").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn what_killed_runs_left_is_removed() {
        let dir = tempfile::tempdir().expect("dir");
        let mine = format!("state.json.{}.tmp", std::process::id());
        for name in ["state.json.4294967294.tmp", "stats.json.4294967294.tmp", &mine, "other.tmp", "notes.json.old.tmp"] {
            fs::write(dir.path().join(name), "").expect("write");
        }
        let _file = StateFile::lock(&dir.path().join("state.json")).expect("lock");
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).expect("dir").map(|e| e.expect("entry").file_name().into_string().expect("name")).collect();
        left.sort();
        assert_eq!(left, ["notes.json.old.tmp", "other.tmp", &mine, "state.json.lock"]);
    }

    #[test]
    fn two_runs_cannot_hold_one_file() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("state.json");
        let held = StateFile::lock(&path).expect("lock");
        assert_eq!(StateFile::lock(&path).expect_err("second").kind(), Kind::State);
        drop(held);
        StateFile::lock(&path).expect("free again");
    }

    #[test]
    fn a_damaged_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("state.json");
        for (text, place) in [
            ("", "empty"),
            ("{\"type\":", "line 1, column 8"),
            ("[]", "no object"),
            ("{\"type\":\"STREAM\",\"version\":99}", "version: found 99"),
            ("{\"type\":\"STREAM\",\"type\":\"GLOBAL\"}", "twice: `type`"),
            ("{\"host\":\"h\",\"database\":\"d\"}", "`host`: no key of a state file"),
            ("{\"streams\":[{\"stream\":\"t\",\"state\":{}},{\"stream\":[]}]}", "`streams[1].stream`"),
            ("{\"lakeward\":{\"version\":1,\"cursors\":{\"s.t\":{\"field\":7}}}}", "`lakeward.cursors.s.t.field`"),
        ] {
            fs::write(&path, text).expect("write");
            let error = load(&path).expect_err(text);
            assert_eq!(error.kind(), Kind::State);
            assert!(error.to_string().contains(place) && error.advice().is_some(), "{text}: {error}");
            assert_eq!(fs::read_to_string(&path).expect("read"), text);
            // What may be written over is no file of a newer program, and none of another kind.
            let precious = ["version: found 99", "no key of a state file"].iter().any(|mark| place.contains(mark));
            assert_eq!(look(&path).is_err(), precious, "{text}");
        }
    }
}
