//! The index of a table's keys: opening, catching up with the table, finding.
//!
//! Its folder holds runs ([`super::run`]) and one file that names them and says which snapshot they stand for, written last and replaced in
//! one step: what it does not name does not count. Promises: memory is bounded by [`BATCH_RECORDS`], whatever the table's size; a folder
//! that another process holds is not touched; damage of any kind costs the work of making the index again. Does not know the keys' values.

use super::super::catalog::Loaded;
use super::hash::{Hasher, KeyHash};
use super::keys::KeyReader;
use super::known::{Known, LiveFile};
use super::reading::{Reading, Source};
use super::run::{self, Record, Run, Trouble, unwritten};
use super::{FilePlaces, Places, ids, vector};
use crate::storage::{Lock, Storage, parse};
use crate::{Error, Kind, Result};
use arrow::array::ArrayRef;
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{FormatVersion, NestedFieldRef};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Of what the folder's files look like.
const VERSION: u32 = 1;
/// The file that says what the others are.
const HEAD: &str = "index.json";
/// Held by the process that uses the folder.
const LOCK: &str = "lock";
/// Records, or keys, that are sorted in memory at a time: 24 MiB.
pub(super) const BATCH_RECORDS: usize = 1 << 20;
/// More runs than this are merged; each is looked at for every lookup.
const RUNS_MAX: usize = 12;
/// Deletion vectors that are read at a time.
const VECTORS_AT_ONCE: usize = 8;
/// A folder that a process has left behind is removed at this age.
const PRIVATE_AGE: Duration = Duration::from_secs(3600);

/// Where the rows of a table are, by key. One process uses it at a time.
#[derive(Debug)]
pub(crate) struct KeyIndex {
    folder: Folder,
    table: Uuid,
    hasher: Hasher,
    known: Known,
    runs: Vec<Run>,
}

/// What [`HEAD`] says, behind the CRC of the line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    table: String,
    layout: String,
    secret: [u8; 16],
    known: Known,
    runs: Vec<Run>,
}

impl KeyIndex {
    /// The index of the table `base` for this key, in a folder below `root`; another one where a process holds that. Nothing is read of
    /// the table yet. The key's fields have the types that the table has now, or will have by the commit: with others, open it again.
    pub(crate) async fn open(root: &Path, base: &Loaded, key: &[NestedFieldRef]) -> Result<Self> {
        let doing = |e: Error| e.doing("open the index of keys");
        let table = base.metadata.uuid();
        let folder = Folder::take(root, table).await.map_err(doing)?;
        let hasher = Hasher::new(key, None).map_err(doing)?;
        let mut index = Self { folder, table, hasher, known: Known::default(), runs: Vec::new() };
        let path = index.folder.path.join(HEAD);
        match blocking(move || Ok(read_head(&path))).await? {
            Ok(Some(head)) => match index.fits(&head) {
                Ok(()) => {
                    index.hasher = Hasher::new(key, Some(head.secret))?;
                    (index.known, index.runs) = (head.known, head.runs);
                }
                Err(why) => tracing::info!("the index of keys in {} is made again: {why}", index.folder.path.display()),
            },
            Ok(None) => {}
            Err(why) => tracing::info!("the index of keys in {} is made again: {why}", index.folder.path.display()),
        }
        Ok(index)
    }

    fn fits(&self, head: &Head) -> Result<(), String> {
        let layout = self.hasher.layout();
        if head.version != VERSION {
            return Err(format!("it has version {}, not {VERSION}", head.version));
        }
        if head.table != self.table.to_string() {
            return Err(format!("it is of the table {}", head.table));
        }
        if head.layout != layout {
            return Err(format!("it is of keys {}, not {layout}", head.layout));
        }
        Ok(())
    }

    /// Brings the index to the current snapshot of `base`, whatever it was before.
    pub(crate) async fn catch_up(&mut self, base: &Loaded) -> Result<()> {
        let doing = |e: Error| e.doing("bring the index of keys up to date");
        if base.metadata.uuid() != self.table {
            return Err(doing(Error::new(Kind::Bug, "the index is of another table")));
        }
        match self.advance(base).await {
            Ok(()) => Ok(()),
            Err(Trouble::Failed(error)) => Err(doing(error)),
            Err(Trouble::Damaged(why)) => self.make_again(base, &why).await.map_err(doing),
        }
    }

    async fn make_again(&mut self, base: &Loaded, why: &str) -> Result<()> {
        tracing::info!("the index of keys is damaged ({why}) and is made again");
        self.hasher = Hasher::new(&self.hasher.key, None)?;
        (self.known, self.runs) = (Known::default(), Vec::new());
        match self.advance(base).await {
            Ok(()) => Ok(()),
            Err(Trouble::Failed(error)) => Err(error),
            Err(Trouble::Damaged(why)) => Err(damaged_again(&why)),
        }
    }

    async fn advance(&mut self, base: &Loaded) -> Result<(), Trouble> {
        if self.known.snapshot == base.metadata.current_snapshot_id() {
            return Ok(());
        }
        let (known, new) = self.known.advanced(base, &ids(&self.hasher.key)).await?;
        let reader = Arc::new(KeyReader::new(&base.files, &base.metadata, self.hasher.clone())?);
        let mut builder = Builder { folder: self.folder.path.clone(), files: known.files.clone(), runs: self.runs.clone() };
        builder.add(reader, &new).await?;
        builder.collect(known.rows()).await?;
        self.save(known, builder.runs).await?;
        Ok(())
    }

    /// Makes `known` and `runs` what the index is.
    async fn save(&mut self, known: Known, runs: Vec<Run>) -> Result<()> {
        let head = Head {
            version: VERSION,
            table: self.table.to_string(),
            layout: self.hasher.layout(),
            secret: self.hasher.secret(),
            known,
            runs,
        };
        let folder = self.folder.path.clone();
        let head = blocking(move || {
            let json = serde_json::to_string(&head).map_err(|e| Error::new(Kind::Bug, "cannot write the index of keys").because(e))?;
            let (path, temporary) = (folder.join(HEAD), folder.join(format!("{HEAD}.tmp")));
            let written = fs::write(&temporary, format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())));
            written.and_then(|()| fs::rename(&temporary, &path)).map_err(|e| unwritten(e, &path))?;
            sweep(&folder, &head.runs);
            Ok(head)
        })
        .await?;
        (self.known, self.runs) = (head.known, head.runs);
        Ok(())
    }

    /// The live rows of `base` that have one of the keys in these Parquet files, which have the key's columns. Catches up first.
    ///
    /// # Errors
    /// [`Kind::Schema`] for a table of format version 3 that still has position delete files of version 2.
    pub(crate) async fn find(&mut self, base: &Loaded, key_files: &[String]) -> Result<Places> {
        self.catch_up(base).await?;
        let doing = |e: Error| e.doing("find the rows of keys");
        let left = self.known.position_delete_files();
        if base.metadata.format_version() >= FormatVersion::V3 && left > 0 {
            return Err(doing(
                Error::new(
                    Kind::Schema,
                    format!("the table has {left} position delete files of format version 2, which deletion vectors have to replace"),
                )
                .hint("rewrite its data files or its position delete files with the engine that owns the table, or set delete_files to equality"),
            ));
        }
        let found = match self.look_up(base, key_files).await {
            Err(Trouble::Damaged(why)) => {
                self.make_again(base, &why).await.map_err(doing)?;
                self.look_up(base, key_files).await
            }
            found => found,
        };
        let found = found.map_err(|trouble| match trouble {
            Trouble::Failed(error) => doing(error),
            Trouble::Damaged(why) => doing(damaged_again(&why)),
        })?;
        self.places(base, found).await.map_err(doing)
    }

    /// The same for keys in memory: the columns of the key, in its order. Of each key the row is in the file that was added last.
    pub(crate) async fn find_keys(&mut self, base: &Loaded, keys: &[ArrayRef]) -> Result<Places> {
        self.catch_up(base).await?;
        let doing = |e: Error| e.doing("find the rows of keys");
        for again in [true, false] {
            let hashes: Vec<KeyHash> = self.hasher.hashes(keys).map_err(doing)?.into_iter().flatten().collect();
            let (folder, runs, files) = (self.folder.path.clone(), self.runs.clone(), self.known.files.clone());
            match blocking(move || Ok(candidates(&folder, runs, &files, hashes))).await.map_err(doing)? {
                Ok(found) => {
                    let mut by_file: HashMap<u32, Vec<u32>> = HashMap::new();
                    for (file, position) in found {
                        by_file.entry(file).or_default().push(position);
                    }
                    return self.places(base, by_file).await.map_err(doing);
                }
                Err(Trouble::Damaged(why)) if again => self.make_again(base, &why).await.map_err(doing)?,
                Err(Trouble::Damaged(why)) => return Err(doing(damaged_again(&why))),
                Err(Trouble::Failed(error)) => return Err(doing(error)),
            }
        }
        Err(doing(Error::new(Kind::Bug, "the index was not looked at")))
    }

    async fn look_up(&self, base: &Loaded, key_files: &[String]) -> Result<HashMap<u32, Vec<u32>>, Trouble> {
        let mut found = HashMap::new();
        if self.runs.is_empty() {
            return Ok(found);
        }
        let reader = Arc::new(KeyReader::new(&base.files, &base.metadata, self.hasher.clone())?);
        let sources = key_files.iter().map(|path| Source { number: 0, path: path.clone(), rows: None });
        let mut reading = Reading::begin(reader, sources.collect());
        let mut keys = Vec::new();
        loop {
            let chunk = reading.next().await?;
            let ended = chunk.is_none();
            keys.extend(chunk.into_iter().flat_map(|chunk| chunk.hashes).flatten());
            if !keys.is_empty() && (ended || keys.len() >= BATCH_RECORDS) {
                let (folder, runs, files) = (self.folder.path.clone(), self.runs.clone(), self.known.files.clone());
                let batch = std::mem::take(&mut keys);
                for (file, position) in blocking(move || Ok(candidates(&folder, runs, &files, batch))).await?? {
                    found.entry(file).or_insert_with(Vec::new).push(position);
                }
            }
            if ended {
                return Ok(found);
            }
        }
    }

    /// Describes what was found, without rows that a deletion vector has deleted already.
    async fn places(&self, base: &Loaded, found: HashMap<u32, Vec<u32>>) -> Result<Places> {
        let vectors = self.known.vectors()?;
        // Owned, so that the futures below borrow nothing of each other.
        let owned = |(number, positions)| {
            let file: &LiveFile = self.known.files.get(&number)?;
            Some((file.clone(), vectors.get(file.path.as_str()).map(|vector| (*vector).clone()), positions))
        };
        let found: Vec<_> = found.into_iter().filter_map(owned).collect();
        let described = stream::iter(found.into_iter().map(|(file, vector, mut positions): (LiveFile, _, Vec<u32>)| {
            let files = base.files.clone();
            async move {
                positions.sort_unstable();
                positions.dedup();
                let vector = match vector {
                    Some(vector) => Some(vector.read(vector::load(&files, &vector).await?)),
                    None => None,
                };
                if let Some(vector) = &vector {
                    positions.retain(|position| !vector.positions.contains(u64::from(*position)));
                }
                Ok::<_, Error>(FilePlaces {
                    path: file.path.clone(),
                    spec: file.spec,
                    partition: file.partition(),
                    added: file.added,
                    positions,
                    vector,
                })
            }
        }));
        let mut files: Vec<FilePlaces> = described.buffer_unordered(VECTORS_AT_ONCE).try_collect().await?;
        files.retain(|file| !file.positions.is_empty());
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(Places { files })
    }
}

#[cfg(test)]
impl KeyIndex {
    /// Where its files are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// How many runs it has, and records in them.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.runs.len(), self.runs.iter().map(|run| run.records).sum())
    }
}

/// Rows that may have one of these keys: of each key the youngest, and older ones as far as nothing is known to have removed them.
fn candidates(
    folder: &Path,
    mut runs: Vec<Run>,
    files: &BTreeMap<u32, LiveFile>,
    mut keys: Vec<KeyHash>,
) -> Result<Vec<(u32, u32)>, Trouble> {
    keys.sort_unstable();
    keys.dedup();
    let keys: Vec<(KeyHash, u32)> = keys.into_iter().zip(0..).collect();
    // The sequence number from which on rows of a key may be there: that of the youngest file that supersedes.
    let mut since = vec![i64::MIN; keys.len()];
    let mut found = Vec::new();
    runs.sort_by_key(|run| std::cmp::Reverse(run.newest));
    for run in &runs {
        let wanted: Vec<_> = keys.iter().copied().filter(|(_, key)| since[*key as usize] <= run.newest).collect();
        if wanted.is_empty() {
            break;
        }
        run::look_up(folder, run, &wanted, |key, record| {
            let Some(file) = files.get(&record.file) else { return };
            let since = &mut since[key as usize];
            if file.supersedes {
                *since = file.added.max(*since);
            }
            if file.added >= *since {
                found.push((key, file.added, record.file, record.position));
            }
        })?;
    }
    found.retain(|(key, added, ..)| *added >= since[*key as usize]);
    Ok(found.into_iter().map(|(.., file, position)| (file, position)).collect())
}

/// Adds files to the runs, and merges these.
struct Builder {
    folder: PathBuf,
    files: Arc<BTreeMap<u32, LiveFile>>,
    runs: Vec<Run>,
}

impl Builder {
    async fn add(&mut self, reader: Arc<KeyReader>, new: &[u32]) -> Result<(), Trouble> {
        let source = |number: &u32| {
            let file = self.files.get(number)?;
            Some(Source { number: *number, path: file.path.clone(), rows: Some(file.rows) })
        };
        let mut reading = Reading::begin(reader, new.iter().filter_map(source).collect());
        let (mut records, mut newest) = (Vec::new(), i64::MIN);
        while let Some(chunk) = reading.next().await? {
            newest = self.files.get(&chunk.number).map_or(newest, |file| file.added.max(newest));
            let rows = (chunk.first..).zip(&chunk.hashes);
            records.extend(rows.filter_map(|(position, hash)| Some(Record { hash: (*hash)?, file: chunk.number, position })));
            if records.len() >= BATCH_RECORDS {
                self.flush(std::mem::take(&mut records), newest).await?;
                newest = i64::MIN;
            }
        }
        self.flush(records, newest).await
    }

    async fn flush(&mut self, records: Vec<Record>, newest: i64) -> Result<(), Trouble> {
        if records.is_empty() {
            return Ok(());
        }
        let folder = self.folder.clone();
        self.runs.extend(blocking(move || run::write(&folder, records, newest)).await?);
        while self.runs.len() > RUNS_MAX {
            // The smallest ones, and those that are not much larger than what is merged anyway: so a record is written again
            // only a few times, however many runs come.
            self.runs.sort_by_key(|run| run.records);
            let (mut count, mut sum) = (0, 0);
            for run in &self.runs {
                if count >= 2 && run.records > sum {
                    break;
                }
                (count, sum) = (count + 1, sum + run.records);
            }
            self.merge(count).await?;
        }
        Ok(())
    }

    /// Merges the first so many runs.
    async fn merge(&mut self, count: usize) -> Result<(), Trouble> {
        let (folder, files) = (self.folder.clone(), self.files.clone());
        let merged: Vec<Run> = self.runs.drain(..count).collect();
        let merge = move || Ok(run::merge(&folder, &merged, |file| files.contains_key(&file)));
        self.runs.extend(blocking(merge).await??);
        Ok(())
    }

    /// Drops records of files that are gone once they are the greater part.
    async fn collect(&mut self, rows: u64) -> Result<(), Trouble> {
        let records: u64 = self.runs.iter().map(|run| run.records).sum();
        if rows == 0 {
            self.runs.clear();
        } else if records / 2 > rows + BATCH_RECORDS as u64 {
            self.merge(self.runs.len()).await?;
        }
        Ok(())
    }
}

fn damaged_again(why: &str) -> Error {
    Error::new(Kind::Storage, format!("the index of keys is damaged as soon as it is made: {why}"))
        .hint("look after the disk that it is on, or let its folder be another one")
}

/// `None` when there is none, and why it is of no use when it is damaged.
fn read_head(path: &Path) -> Result<Option<Head>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    head_of(&text).map(Some)
}

fn head_of(text: &str) -> Result<Head, String> {
    let (crc, json) = text.trim_end().split_once(' ').ok_or("it is cut off")?;
    if u32::from_str_radix(crc, 16) != Ok(crc32fast::hash(json.as_bytes())) {
        return Err("its checksum is wrong".to_owned());
    }
    // Of another version, it may say anything.
    serde_json::from_str(json).map_err(|e| e.to_string())
}

/// What is made of the JSON of a head, as if its checksum were right.
#[cfg(feature = "faults")]
pub(crate) fn parse_head(json: &[u8]) -> Result<(), String> {
    let json = String::from_utf8_lossy(json);
    let head = head_of(&format!("{:08x} {json}", crc32fast::hash(json.as_bytes())))?;
    let _ = head.known.vectors();
    head.known.files.values().for_each(|file| drop(file.partition()));
    Ok(())
}

/// Removes runs that do not count. What cannot be removed takes room and does no harm.
fn sweep(folder: &Path, runs: &[Run]) {
    for item in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = item.file_name();
        let is_run = Path::new(&name).extension().is_some_and(|extension| extension == "run");
        if is_run && !runs.iter().any(|run| *run.name == *name) {
            let _: std::io::Result<()> = fs::remove_file(item.path());
        }
    }
}

/// A folder that this process holds.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Whether it goes with this process.
    private: bool,
    _lock: Option<Lock>,
}

impl Folder {
    async fn take(root: &Path, table: Uuid) -> Result<Self> {
        let storage = Storage::local(root);
        let root = storage.local_root().unwrap_or(root).to_owned();
        let lock = |name: &str| parse(&format!("{name}/{LOCK}"));
        let name = table.to_string();
        match storage.lock(&lock(&name)?).await {
            Ok(held) => {
                let (below, of) = (root.clone(), format!("{name}."));
                let removed = move || {
                    remove_left(&below, &of);
                    Ok(())
                };
                blocking(removed).await?;
                Ok(Self { path: root.join(name), private: false, _lock: held })
            }
            Err(error) if error.kind() == Kind::Conflict => {
                let name = format!("{name}.{}", Uuid::new_v4().simple());
                tracing::info!(
                    "another process uses the index of keys; one of this process's own is made in {}",
                    root.join(&name).display()
                );
                let held = storage.lock(&lock(&name)?).await?;
                Ok(Self { path: root.join(name), private: true, _lock: held })
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.private {
            // If that fails, the next process does it.
            let _: std::io::Result<()> = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes private folders of processes that died.
fn remove_left(root: &Path, prefix: &str) {
    for item in fs::read_dir(root).into_iter().flatten().flatten() {
        let is_one = item.file_name().to_str().is_some_and(|name| name.starts_with(prefix));
        let age = item.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|at| at.elapsed().ok());
        if is_one && age.is_some_and(|age| age > PRIVATE_AGE) {
            let lock = fs::File::open(item.path().join(LOCK));
            let is_held = lock.is_ok_and(|lock| rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err());
            if !is_held {
                let _: std::io::Result<()> = fs::remove_dir_all(item.path());
            }
        }
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(Kind::Bug, "work on the index of keys did not finish").because(error)),
    }
}
