//! The binary under test, run in a folder of its own with the four files.

use super::disk::SmallDisk;
use super::postgres::Database;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Exit codes, as README lists them.
pub mod exit {
    /// Done.
    pub const DONE: i32 = 0;
    /// Wrong usage.
    pub const USAGE: i32 = 2;
    /// A configuration file is wrong.
    pub const CONFIG: i32 = 3;
    /// The source refused or failed.
    pub const SOURCE: i32 = 4;
    /// The destination refused or failed.
    pub const DESTINATION: i32 = 5;
    /// State conflict, or another run is going on.
    pub const STATE: i32 = 6;
    /// Schema conflict.
    pub const SCHEMA: i32 = 7;
    /// Interrupted, resumable.
    pub const INTERRUPTED: i32 = 8;
}

/// A folder with `source.json`, `destination.json`, `streams.json`, `state.json` and, for a local destination, `lake/`.
pub struct Job {
    /// Unmounted before the folder goes.
    disk: Option<SmallDisk>,
    folder: TempDir,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output: data.
    pub stdout: String,
    /// Standard error: talk.
    pub stderr: String,
}

/// A run that is going on. Killed when dropped.
pub struct Running {
    child: Option<Child>,
}

impl Job {
    /// A job from `database` to a local folder.
    pub fn new(database: &Database) -> Self {
        Self::begun(database, false)
    }

    /// As [`Job::new`], on a disk of its own, where this machine lets us mount one.
    pub fn on_small_disk(database: &Database) -> Self {
        Self::begun(database, true)
    }

    fn begun(database: &Database, on_small_disk: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("lakeward-job-").tempdir().expect("make the job's folder");
        let disk = on_small_disk.then(|| SmallDisk::mount(folder.path())).flatten();
        let job = Self { disk, folder };
        job.write("source.json", &database.source());
        job.write_destination(json!({"local_path": job.lake()}));
        job
    }

    /// The disk that it is on, if it has one of its own.
    pub fn disk(&self) -> Option<&SmallDisk> {
        self.disk.as_ref()
    }

    /// A file of the job.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The destination's root.
    pub fn lake(&self) -> PathBuf {
        self.path("lake")
    }

    /// Writes a JSON file.
    pub fn write(&self, name: &str, value: &Value) {
        fs::write(self.path(name), format!("{value:#}\n")).expect("write a file of the job");
    }

    /// Reads a JSON file.
    #[track_caller]
    pub fn read(&self, name: &str) -> Value {
        let text = fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("read {name}: {e}"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name} is not JSON: {e}\n{text}"))
    }

    /// Changes a JSON file.
    #[track_caller]
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = self.read(name);
        change(&mut value);
        self.write(name, &value);
    }

    /// Writes a Parquet destination.
    pub fn write_destination(&self, writer: Value) {
        self.write("destination.json", &json!({"type": "PARQUET", "writer": writer}));
    }

    /// The binary with arguments, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lakeward"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        // A developer's own credentials and settings must not change what a test shows.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|n| n.starts_with("AWS_") || n.starts_with("PG") || n.starts_with("LAKEWARD_")) {
                command.env_remove(name);
            }
        }
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("RUST_BACKTRACE", "0");
        command
    }

    /// [`Job::command`] under another program (`faketime`, `strace`), which takes it as its last arguments.
    pub fn command_under(&self, mut program: Command, arguments: &[&str]) -> Command {
        let lakeward = self.command(arguments);
        program.arg(lakeward.get_program()).args(lakeward.get_args()).current_dir(self.path(""));
        for (name, value) in lakeward.get_envs() {
            match value {
                Some(value) => program.env(name, value),
                None => program.env_remove(name),
            };
        }
        program
    }

    /// Runs the binary with arguments.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::from(self.command(arguments).output().expect("run lakeward"))
    }

    /// `discover`, successful; all streams are set to full refresh. Gives `streams.json`.
    #[track_caller]
    pub fn discover(&self) -> Value {
        self.run(&["discover", "--config", "source.json"]).succeeded();
        self.edit("streams.json", |file| {
            for entry in file["streams"].as_array_mut().expect("streams is a list") {
                entry["stream"]["sync_mode"] = json!("full_refresh");
            }
        });
        self.read("streams.json")
    }

    /// Chooses these streams (`namespace.name`) and no other.
    pub fn select(&self, streams: &[&str]) {
        self.edit("streams.json", |file| {
            for (namespace, chosen) in file["selected_streams"].as_object_mut().expect("selected_streams is an object") {
                let keep = |s: &Value| streams.contains(&format!("{namespace}.{}", s["stream_name"].as_str().unwrap_or_default()).as_str());
                chosen.as_array_mut().expect("a list of streams").retain(keep);
            }
        });
    }

    /// The arguments of a sync without state.
    pub const SYNC: [&str; 7] = ["sync", "--config", "source.json", "--streams", "streams.json", "--destination", "destination.json"];
    /// The arguments of a sync that goes on from `state.json`.
    pub const RESUME: [&str; 9] =
        ["sync", "--config", "source.json", "--streams", "streams.json", "--destination", "destination.json", "--state", "state.json"];

    /// What [`Job::SYNC`] and [`Job::RESUME`] take to go on until a signal comes.
    pub const FOLLOW: [&str; 3] = ["--follow", "--commit-interval", "200ms"];

    /// `sync` from the beginning.
    pub fn sync(&self) -> Outcome {
        self.run(&Self::SYNC)
    }

    /// `sync` that goes on from `state.json`.
    pub fn resume(&self) -> Outcome {
        self.run(&Self::RESUME)
    }

    /// Starts a run and lets it go on.
    pub fn start(&self, arguments: &[&str]) -> Running {
        self.start_command(self.command(arguments))
    }

    /// Starts a command of [`Job::command`] and lets it go on.
    pub fn start_command(&self, mut command: Command) -> Running {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start lakeward");
        Running { child: Some(child) }
    }

    /// The stream's entry in `streams.json`.
    #[track_caller]
    pub fn stream(&self, id: &str) -> Value {
        let file = self.read("streams.json");
        let mut entries = file["streams"].as_array().expect("streams is a list").iter().map(|e| &e["stream"]);
        let is_it =
            |s: &&Value| format!("{}.{}", s["namespace"].as_str().unwrap_or_default(), s["name"].as_str().unwrap_or_default()) == id;
        entries.find(is_it).unwrap_or_else(|| panic!("{id} is not in streams.json")).clone()
    }

    /// The folder of a stream's files in the destination rooted at `root`.
    #[track_caller]
    pub fn table_folder(&self, root: &Path, id: &str) -> PathBuf {
        let stream = self.stream(id);
        let database = stream["destination_database"].as_str().expect("destination_database").replace(':', "_");
        let table = stream["destination_table"].as_str().expect("destination_table");
        // A folder whose name begins with `_` would be hidden from readers, so the writer may escape it.
        let escaped = root.join(&database).join(table.replacen('_', "%5F", 1));
        if table.starts_with('_') && escaped.exists() { escaped } else { root.join(database).join(table) }
    }

    /// The published files of a stream: all `*.parquet` that a reader of its folder would find.
    #[track_caller]
    pub fn files(&self, id: &str) -> Vec<PathBuf> {
        published(&self.table_folder(&self.lake(), id))
    }

    /// Panics if the destination holds anything that an aborted run may leave: staged parts, temporary files.
    #[track_caller]
    pub fn assert_no_leftovers(&self) {
        let left: Vec<_> = files_under(&self.lake()).into_iter().filter(|p| is_leftover(p)).collect();
        assert!(left.is_empty(), "left in the destination: {left:?}");
        let folder = fs::read_dir(self.folder.path()).expect("list the job's folder").map(|e| e.expect("an entry").path());
        let left: Vec<_> = folder.filter(|p| is_leftover(p)).collect();
        assert!(left.is_empty(), "left beside the configuration: {left:?}");
    }
}

/// What runs have left in the folder holds no secret: what is written for the user, the log files, the destination.
impl Drop for Job {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let ours = |path: &PathBuf| {
            let inside = path.strip_prefix(self.folder.path()).expect("a file of the folder");
            let first = inside.iter().next().and_then(OsStr::to_str).unwrap_or_default();
            matches!(first, "logs" | "lake") || ["state", "stats", "streams"].iter().any(|name| first.starts_with(name))
        };
        for path in files_under(self.folder.path()).iter().filter(|path| ours(path)) {
            if fs::metadata(path).is_ok_and(|about| about.len() < 1 << 20) {
                super::assert_no_secret(&path.display().to_string(), &fs::read(path).unwrap_or_default());
            }
        }
    }
}

/// The files of a table's folder that a reader takes for data. Names that begin with `_` or `.` are hidden, as every engine has it.
pub fn published(folder: &Path) -> Vec<PathBuf> {
    let visible = |path: &PathBuf| {
        let inside = path.strip_prefix(folder).expect("a file of the folder");
        path.extension().is_some_and(|e| e == "parquet")
            && !inside.iter().any(|part| matches!(part.as_encoded_bytes().first(), Some(b'_' | b'.')))
    };
    files_under(folder).into_iter().filter(visible).collect()
}

/// What a dead run may leave: staged and temporary files, and the folders of a replacement under way.
fn is_leftover(path: &Path) -> bool {
    let mut parts = path.iter().map(|part| part.to_string_lossy());
    parts.any(|part| {
        [".staged", ".tmp", ".part"].iter().any(|mark| part.contains(mark)) || part.starts_with("next-") || part.starts_with("old-")
    })
}

/// All files under a folder, sorted; none if it is not there.
pub fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files_under(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("lakeward prints UTF-8");
        super::assert_no_secret("the standard output", &output.stdout);
        super::assert_no_secret("the standard error", &output.stderr);
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Outcome {
    /// Panics unless the run succeeded, without a word of panic or bug.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(exit::DONE), "the run failed:\n{}\n{}", self.stderr, self.stdout);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// Panics unless the run failed with `code`, explained by one sentence on stderr that holds every one of `words`.
    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "unexpected exit code:\n{}\n{}", self.stderr, self.stdout);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let lower = self.stderr.to_lowercase();
        for word in words {
            assert!(lower.contains(&word.to_lowercase()), "{word:?} is not in the explanation:\n{}", self.stderr);
        }
        self
    }

    /// The messages on stdout: every line is a JSON object.
    #[track_caller]
    pub fn messages(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("stdout holds more than JSON: {e}\n{line}"));
        self.stdout.lines().map(parse).collect()
    }
}

impl Running {
    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("not finished").id()
    }

    /// Has it ended?
    pub fn is_over(&mut self) -> bool {
        self.child.as_mut().expect("not finished").try_wait().expect("ask for the child").is_some()
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(mut self) -> Outcome {
        let mut child = self.child.take().expect("not finished");
        let _ = child.kill();
        Outcome::from(child.wait_with_output().expect("wait for lakeward"))
    }

    /// Sends a signal by name (`TERM`, `INT`).
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(sent.expect("run kill").success());
    }

    /// Sends a signal by name, unless it has ended by itself.
    pub fn signal_if_running(&mut self, name: &str) {
        if !self.is_over() {
            let _ = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).stderr(Stdio::null()).status();
        }
    }

    /// Waits for the end; panics if it does not come.
    #[track_caller]
    pub fn finish_within(self, patience: Duration) -> Outcome {
        let id = self.id().to_string();
        let (over, ended) = std::sync::mpsc::channel::<()>();
        // What it says is read meanwhile, so that it need not wait for that.
        let watch = std::thread::spawn(move || {
            let late = ended.recv_timeout(patience).is_err();
            if late {
                let _ = Command::new("kill").args(["-KILL", &id]).status();
            }
            late
        });
        let outcome = self.finish();
        let _ = over.send(());
        assert!(!watch.join().expect("the watch"), "the run did not end within {patience:?}: {}", outcome.stderr);
        outcome
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Outcome {
        Outcome::from(self.child.take().expect("not finished").wait_with_output().expect("wait for lakeward"))
    }

    /// Largest resident size so far, in KiB; `None` once it has ended.
    pub fn peak_memory_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            match child.wait_with_output() {
                Ok(output) if std::thread::panicking() => eprintln!("the run said:\n{}", String::from_utf8_lossy(&output.stderr)),
                _ => {}
            }
        }
    }
}
