//! Damaged files in the destination: each is told by its name, with what to do, or made again where it can be; and nothing that was committed changes.
//!
//! A table has been loaded and changed; each file that carries the truth about it is cut, emptied, filled with something else or taken away, and a
//! run follows. `damaged_lake.expected` has what each of these runs says, with names and numbers that differ from run to run left out;
//! `UPDATE_EXPECTED=1` writes it anew. With the file restored, the next run goes on.

use super::capture;
use crate::support::lakeward::{Job, Outcome, exit, files_under};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same, assert_same_iceberg};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const EXPECTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/damaged_lake.expected");

/// After these words comes the reason.
const REASONS: [&str; 3] = ["it is not what this program writes", "is not table metadata that can be read", "cannot be read as Parquet"];

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Half,
    Empty,
    /// Some bytes in the middle are others.
    Bytes,
    /// JSON that is something else.
    Other,
    Gone,
}

const ALL: [Damage; 5] = [Damage::Half, Damage::Empty, Damage::Bytes, Damage::Other, Damage::Gone];

impl Damage {
    fn to(self, whole: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Half => Some(whole[..whole.len() / 2].to_vec()),
            Self::Empty => Some(Vec::new()),
            Self::Bytes => {
                let (mut bytes, middle) = (whole.to_vec(), whole.len() / 2);
                let end = whole.len().min(middle + 8);
                bytes[middle..end].fill(0xEE);
                Some(bytes)
            }
            Self::Other => Some(b"{\"something\": \"else\"}\n".to_vec()),
            Self::Gone => None,
        }
    }
}

struct Case {
    database: Database,
    job: Job,
    iceberg: bool,
    rows: usize,
}

impl Case {
    /// A table that has been loaded, and changed once.
    fn new(name: &str, iceberg: bool) -> Self {
        let database = Server::shared().database(name);
        database.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 500) i");
        let job = match iceberg {
            true => capture::job(&database, name, Some(json!({"delete_files": "position"}))),
            false => Job::new(&database),
        };
        if !iceberg {
            job.discover();
            job.edit("streams.json", |file| {
                file["streams"][0]["stream"]["sync_mode"] = json!("incremental");
                file["streams"][0]["stream"]["cursor_field"] = json!("id");
            });
        } else {
            job.edit("destination.json", |file| file["writer"]["index_path"] = json!(job.path("index")));
        }
        let mut case = Self { database, job, iceberg, rows: 500 };
        case.run().succeeded();
        case.change();
        case.run().succeeded();
        case
    }

    fn run(&self) -> Outcome {
        // What an index of keys remembers need not be read again.
        let _ = std::fs::remove_dir_all(self.job.path("index"));
        let arguments: &[&str] = if self.job.path("state.json").exists() { &Job::RESUME } else { &Job::SYNC };
        self.job.run(arguments)
    }

    fn change(&mut self) {
        self.rows += 1;
        self.database.sql(&format!("INSERT INTO t VALUES ({}, 'new')", self.rows));
        if self.iceberg {
            self.database.sql(&format!("UPDATE t SET v = v || '+' WHERE id % 50 = {}", self.rows % 50));
        }
    }

    fn same(&self) {
        let seen = if self.iceberg {
            assert_same_iceberg(&self.job, &self.database, "public.t")
        } else {
            assert_same(&self.job, &self.database, "public.t")
        };
        assert_eq!(seen.rows, self.rows as u64);
    }

    /// Everything in the destination.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files_under(&self.job.lake()).into_iter().map(|path| (path.clone(), std::fs::read(path).expect("a file"))).collect()
    }

    /// What a run says when `file` is damaged.
    fn says(&mut self, name: &str, file: &Path, damage: Damage) -> String {
        self.change();
        let before = self.contents();
        let whole = before[file].clone();
        match damage.to(&whole) {
            Some(bytes) => std::fs::write(file, bytes).expect("damage"),
            None => std::fs::remove_file(file).expect("remove"),
        }
        let outcome = self.run();
        let what = format!("{name} {damage:?}");
        assert!(outcome.code.is_some() && !outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
        if outcome.code != Some(exit::DONE) {
            for (path, bytes) in before.iter().filter(|(path, _)| *path != file) {
                assert_eq!(std::fs::read(path).ok().as_ref(), Some(bytes), "{what}: {} has changed", path.display());
            }
            assert!(outcome.stderr.contains("what to do: "), "{what}: no advice: {}", outcome.stderr);
            std::fs::write(file, whole).expect("restore");
            let outcome = self.run();
            assert_eq!(outcome.code, Some(exit::DONE), "{what}, restored: {}", outcome.stderr);
        } else if std::fs::read(file).ok() == damage.to(&whole) {
            // A commit that adds does not read what it leaves alone.
            std::fs::write(file, whole).expect("restore");
        }
        self.same();
        let told: Vec<String> = outcome.stderr.lines().filter(|line| line.contains(" ERROR ")).map(|line| self.plain(line)).collect();
        format!("{what}: exit {}{}\n", outcome.code.unwrap_or(-1), told.iter().map(|line| format!("\n    {line}")).collect::<String>())
    }

    /// Without what differs from run to run.
    fn plain(&self, line: &str) -> String {
        let text = line.split_once(" ERROR ").map_or(line, |(_, text)| text);
        let text = text.replace(self.job.path("").to_str().expect("UTF-8"), "JOB/").replace(&self.database.name, "DB");
        // Why a library does not understand it depends on what stands where it was cut.
        let (text, kind) = text.split_once(" kind=").map_or((text.as_str(), None), |(text, kind)| (text, Some(kind)));
        let text = REASONS.iter().find_map(|before| Some(&text[..text.find(before)? + before.len()])).unwrap_or(text);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let mut plain = String::new();
        for word in text.split_inclusive(|c| !is_name(c)) {
            let name = word.trim_end_matches(|c| !is_name(c));
            let digits = name.chars().any(|c| c.is_ascii_digit());
            let number = name.strip_prefix('v').unwrap_or(name);
            let varies = digits
                && (number.len() < name.len() && number.parse::<u32>().is_ok()
                    || name.len() >= 16
                    || name.len() >= 4 && name.chars().all(|c| c.is_ascii_hexdigit()));
            plain += if varies { "N" } else { name };
            plain += &word[name.len()..];
        }
        kind.into_iter().for_each(|kind| plain += &format!(" kind={kind}"));
        plain
    }
}

/// The youngest file whose path ends so.
fn youngest(job: &Job, folder: &str, end: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = files_under(&job.lake())
        .into_iter()
        .filter(|path| path.to_str().is_some_and(|path| path.contains(folder) && path.ends_with(end)))
        .collect();
    found.sort_by_key(|path| (std::fs::metadata(path).and_then(|data| data.modified()).expect("a time"), path.clone()));
    found.pop().unwrap_or_else(|| panic!("no file of {folder}*{end}"))
}

/// Each file of a table with each damage.
fn all(name: &str, iceberg: bool, files: &[(&str, &str, &str)]) {
    let mut case = Case::new(name, iceberg);
    let mut said = String::new();
    for (kind, folder, end) in files {
        for damage in ALL {
            let file = youngest(&case.job, folder, end);
            said += &case.says(&format!("{name} {kind}"), &file, damage);
        }
    }
    let expected = std::fs::read_to_string(EXPECTED).unwrap_or_default();
    let ours = |line: &str| line.starts_with(&format!("{name} "));
    let mut blocks: Vec<String> = Vec::new();
    for line in expected.lines() {
        match line.starts_with(' ') {
            true => blocks.last_mut().expect("a case first").push_str(&format!("{line}\n")),
            false => blocks.push(format!("{line}\n")),
        }
    }
    let known: String = blocks.iter().filter(|block| ours(block)).cloned().collect();
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        let others: String = blocks.into_iter().filter(|block| !ours(block)).collect();
        std::fs::write(EXPECTED, others + &said).expect("write what is expected");
        return;
    }
    assert_eq!(known, said, "what runs say has changed: look, then UPDATE_EXPECTED=1");
}

#[test]
fn each_damaged_file_of_an_iceberg_table_gets_its_message() {
    let files = [
        ("metadata", "/metadata/v", ".metadata.json"),
        ("hint", "/metadata/version-hint", ".text"),
        ("manifest list", "/metadata/snap-", ".avro"),
        ("manifest", "/metadata/", "-m0.avro"),
        ("data file", "/data/0", ".parquet"),
        ("delete file", "/data/deletes-", ".parquet"),
    ];
    all("damagediceberg", true, &files);
}

#[test]
fn each_damaged_file_of_a_parquet_table_gets_its_message() {
    all("damagedparquet", false, &[("table", "/_lakeward/", "/table.json"), ("record", "/commits/", ".json")]);
}
