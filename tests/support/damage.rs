//! A job that has synced once, to be damaged: what was there before, and whether it is still there.

use super::lakeward::{Job, Outcome, exit, files_under};
use super::postgres::{Database, Server};
use super::readback::python;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Contents that no file of the user has.
pub const UNREADABLE: [(&str, &[u8]); 8] = [
    ("nothing", b""),
    ("blanks", b" \n\t\n"),
    ("binary rubbish", b"\x00\x01\x02\xff\xfe\x80PK\x03\x04\x00\x00"),
    ("Latin-1", b"{\"type\": \"caf\xe9\"}"),
    ("a number", b"42"),
    ("a text", b"\"c2VjcmV0\""),
    ("null", b"null"),
    ("deep nesting", &[b'['; 100_000]),
];

/// `text` cut at twelve places and after each of its lines.
pub fn cuts(text: &str) -> Vec<&str> {
    let mut ends: Vec<usize> = (0..12).map(|twelfth| text.floor_char_boundary(text.len() * twelfth / 12)).collect();
    ends.extend(text.match_indices('\n').map(|(at, _)| at));
    ends.sort_unstable();
    ends.dedup();
    ends.into_iter().filter(|end| *end < text.trim_end().len()).map(|end| &text[..end]).collect()
}

/// JSON pointers of all values in `value`, but not of the whole.
pub fn places(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect(),
        Value::Object(map) => map.iter().map(|(key, item)| (key.replace('~', "~0").replace('/', "~1"), item)).collect(),
        _ => Vec::new(),
    };
    let mut found = Vec::new();
    for (key, child) in children {
        found.push(format!("/{key}"));
        found.extend(places(child).into_iter().map(|place| format!("/{key}{place}")));
    }
    found
}

/// One value of each kind, none of which stands in a file of [`Synced`].
pub fn replacements() -> [Value; 6] {
    [json!(["damaged"]), json!({"damaged": 1}), json!(-5), json!(99_999_999_999_999_999_u64), json!(true), json!("damaged")]
}

/// A job with one incremental stream and one that is read anew each time, after its first sync. The source has had new rows since.
pub struct Synced {
    /// The job.
    pub job: Job,
    database: Database,
    before: BTreeMap<PathBuf, Vec<u8>>,
    /// The file that is damaged now, as it was written.
    damaged: RefCell<(PathBuf, Vec<u8>)>,
    /// Lakes that runs with a damaged file have left, and what was damaged.
    kept: RefCell<Vec<(PathBuf, String)>>,
}

impl Synced {
    /// Reads and judges the files, and connects to nothing.
    pub const CHECK: [&'static str; 8] =
        ["check", "--config-only", "--config", "source.json", "--destination", "destination.json", "--streams", "streams.json"];

    /// Makes the job.
    pub fn new(label: &str) -> Self {
        let database = Server::shared().database(label);
        database.sql(
            "CREATE TABLE items (id int PRIMARY KEY, name text, at timestamptz NOT NULL DEFAULT now());
             CREATE TABLE places (id int PRIMARY KEY, town text);
             INSERT INTO items SELECT i, 'item ' || i FROM generate_series(1, 300) i; INSERT INTO places SELECT i, 'town ' || i FROM generate_series(1, 50) i",
        );
        let job = Job::new(&database);
        job.discover();
        job.edit("streams.json", |file| {
            let items = &mut file["streams"][0]["stream"];
            assert_eq!(items["name"], "items");
            items["sync_mode"] = json!("incremental");
            items["cursor_field"] = json!("id");
        });
        job.sync().succeeded();
        database.sql("INSERT INTO items SELECT i, 'item ' || i FROM generate_series(301, 320) i; DELETE FROM places WHERE id = 7");
        let before = prints(&job);
        Self { job, database, before, damaged: RefCell::default(), kept: RefCell::default() }
    }

    /// An undamaged file.
    pub fn text(&self, file: &str) -> String {
        String::from_utf8(self.before[&self.job.path(file)].clone()).expect("UTF-8")
    }

    /// Damages one file; all others are as they were.
    pub fn write(&self, file: &str, bytes: &[u8]) {
        for (path, whole) in &self.before {
            if path.extension().is_some_and(|ext| ext == "json") && path.parent() == self.job.path(file).parent() {
                fs::write(path, whole).expect("restore a file");
            }
        }
        fs::write(self.job.path(file), bytes).expect("damage a file");
        *self.damaged.borrow_mut() = (self.job.path(file), bytes.to_vec());
    }

    /// Puts everything back.
    pub fn restore(&self) {
        for path in prints(&self.job).into_keys().filter(|path| !self.before.contains_key(path)) {
            fs::remove_file(path).expect("remove a file");
        }
        for (path, whole) in &self.before {
            fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
            fs::write(path, whole).expect("restore a file");
        }
    }

    /// Runs a sync with the damaged file: it refuses it, or does its work.
    #[track_caller]
    pub fn refuses_or_works(&self, file: &str, what: &str) {
        let outcome = self.job.resume();
        if outcome.code == Some(exit::DONE) { self.keep(outcome, what) } else { self.assert_refused(&outcome, file, what) }
    }

    /// Panics unless the run has refused `file`, named a place, said what to do, and changed nothing.
    #[track_caller]
    pub fn assert_refused(&self, outcome: &Outcome, file: &str, what: &str) {
        let stderr = &outcome.stderr;
        assert!(matches!(outcome.code, Some(exit::CONFIG | exit::STATE | exit::SCHEMA)), "{what}: exit code {:?}\n{stderr}", outcome.code);
        assert!(!stderr.contains("panicked"), "{what}: {stderr}");
        assert!(stderr.contains(file), "{what}: {file} is not named\n{stderr}");
        assert!(stderr.contains("what to do: ") || stderr.contains("did you mean"), "{what}: no remedy\n{stderr}");
        let now = prints(&self.job);
        let (damaged, written) = &*self.damaged.borrow();
        for (path, bytes) in &self.before {
            let expected = if path == damaged { written } else { bytes };
            assert!(now.get(path) == Some(expected), "{what}: {} was rewritten", path.display());
        }
        let more: Vec<_> = now.keys().filter(|path| !self.before.contains_key(*path)).collect();
        assert!(more.is_empty(), "{what}: {more:?}");
    }

    /// The same for one value, whose key the message has to name.
    #[track_caller]
    pub fn assert_refused_at(&self, outcome: &Outcome, file: &str, place: &str, what: &str) {
        self.assert_refused(outcome, file, what);
        let named = |key: &str| key.parse::<usize>().is_err() && outcome.stderr.contains(key);
        assert!(place.split('/').skip(1).any(named), "{what}: no part of {place} is named\n{}", outcome.stderr);
    }

    /// Puts the lake of a successful run aside for [`Self::assert_what_worked`], and everything back to where it was.
    #[track_caller]
    pub fn keep(&self, outcome: Outcome, what: &str) {
        outcome.succeeded();
        let mut kept = self.kept.borrow_mut();
        let target = std::env::temp_dir().join(format!("lakeward-kept-{}-{}-{}", std::process::id(), self.database.name, kept.len()));
        fs::rename(self.job.lake(), &target).expect("put the lake aside");
        kept.push((target, what.to_owned()));
        drop(kept);
        self.restore();
    }

    /// Panics unless every run that succeeded has left the tables as they are in the source, each row once.
    #[track_caller]
    pub fn assert_what_worked(&self) {
        let kept = self.kept.take();
        let ids = |table: &str| -> Value {
            serde_json::from_str(&self.database.sql(&format!("SELECT json_agg(id ORDER BY id) FROM {table}"))).expect("JSON")
        };
        let (items, places) = (ids("items"), ids("places"));
        let roots: Vec<&Path> = kept.iter().map(|(root, _)| root.as_path()).collect();
        let database = format!("postgres_{}_public", self.database.name);
        let found = python(READ, &json!({"roots": roots, "tables": [format!("{database}/items"), format!("{database}/places")]}));
        for ((root, what), tables) in kept.iter().zip(found.as_array().expect("a list")) {
            fs::remove_dir_all(root).expect("remove what was put aside");
            assert!(tables[0] == items, "{what}: items are {}", tables[0]);
            assert!(tables[1] == places, "{what}: places are {}", tables[1]);
        }
    }
}

/// The sorted ids of tables in several lakes.
const READ: &str = "
import json, pathlib, pyarrow.parquet as pq, sys
job = json.load(sys.stdin)
def ids(folder):
    files = [f for f in folder.rglob('*.parquet') if not any(p[0] in '._' for p in f.relative_to(folder).parts)]
    return sorted(i for f in files for i in pq.ParquetFile(f).read(columns=['id'])['id'].to_pylist())
print(json.dumps([[ids(pathlib.Path(root) / table) for table in job['tables']] for root in job['roots']]))";

/// Every file of the job with its bytes, but for what every run writes: the lock of the state file and the statistics.
fn prints(job: &Job) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = job.path("");
    let files =
        files_under(&folder).into_iter().filter(|path| path.extension().is_none_or(|ext| ext != "lock") && !path.ends_with("stats.json"));
    files.map(|path| (path.clone(), fs::read(&path).expect("read a file of the job"))).collect()
}
