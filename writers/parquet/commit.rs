//! How parts become visible: decide, then complete.
//!
//! A commit is *decided* when its record exists (`commits/<seq>.json`, written only if absent). It is
//! *completed* when every file has its final name, a replacement's old files are gone and `table.json`
//! says so. Every step of completing can be done again, by this run or, after a crash, by the next
//! [`Ledger::open`]: after "decided" the only way is forward, before it nothing has happened.
//!
//! Promises: the visible files and the token change together for whoever reads the manifest, and on
//! a local disk a replacement is atomic for whoever reads the folder; nothing is changed when a
//! record or manifest is damaged. `docs.md` beside this file is the protocol with its reasons.
//! Does not know how files are written, nor what is in them.

use super::folders::{CommitFile, Folders, commit_file, refuse_foreign, relative};
use super::record::{Manifest, Record, corrupt};
use super::stage::{ParquetPart, StagedFile};
use crate::storage::{COPY_BYTES_MAX, Entry, Lock, Storage, parse, parse_all};
use crate::{Commit, Error, Kind, Result, Token};
use arrow::datatypes::Schema;
use object_store::path::Path;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Completed records that are kept: on a store without locks a run that completes a commit late may
/// put an older manifest over a newer one, and the next run heals it from the records.
const RECORDS_KEPT: u64 = 8;

/// An intent this much older than ours belongs to a dead run: between its intent and its record a
/// writer sends two requests, each given up after three minutes.
const INTENT_STALE_MS: i64 = 15 * 60 * 1000;

/// Intents that this run has written and perhaps not removed, because the store went away: a table that is opened anew by the same run meets them again.
#[derive(Clone, Default)]
pub(super) struct Intents(Arc<Mutex<HashMap<String, Fate>>>);

/// What may still come of an intent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its record was never sent.
    Void,
    /// Its record was sent, and may arrive.
    Open,
}

impl Intents {
    fn note(&self, intent: &Path, fate: Fate) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(intent.to_string(), fate);
    }

    fn forget(&self, intent: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(intent.as_ref());
    }

    fn fate(&self, intent: &str) -> Option<Fate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(intent).copied()
    }
}

/// The commits of one table, held for writing.
pub(super) struct Ledger {
    storage: Storage,
    folders: Folders,
    manifest: Option<Manifest>,
    /// This run, in the records that it writes.
    id: String,
    /// Those of this run.
    intents: Intents,
    /// What the last call of [`Ledger::commit`] tried and may not have finished.
    attempt: Option<Record>,
    _lock: Option<Lock>,
}

impl Ledger {
    /// Takes the table for writing and completes what a dead run had decided.
    pub(super) async fn open(storage: Storage, folders: Folders, intents: Intents) -> Result<Self> {
        // Looked at before the lock creates anything.
        let files = storage.list(&folders.table).await?;
        refuse_foreign(&files, &folders.table, &storage.show(folders.table.as_ref()))?;
        let lock = storage.lock(&folders.lock()?).await?;
        let mut ledger =
            Self { storage, folders, manifest: None, id: uuid::Uuid::new_v4().simple().to_string(), intents, attempt: None, _lock: lock };
        ledger.recover().await?;
        Ok(ledger)
    }

    /// The token of the last commit that was decided, completed or not: what [`Ledger::open`] ends with. Only reads.
    pub(super) async fn token(storage: Storage, folders: Folders) -> Result<Option<Token>> {
        let ledger = Self { storage, folders, manifest: None, id: String::new(), intents: Intents::default(), attempt: None, _lock: None };
        let path = ledger.folders.manifest()?;
        let manifest = match ledger.storage.get(&path).await? {
            Some(data) => Some(Manifest::read(&data, &ledger.storage.show(path.as_ref()))?),
            None => None,
        };
        let private = ledger.storage.list(&ledger.folders.private).await?;
        let last = ledger.read_records(&private, manifest.as_ref().map_or(0, |manifest| manifest.seq)).await?.pop();
        Ok(last.map(|record| record.token).or(manifest.map(|manifest| manifest.token)))
    }

    /// Whether files of this schema can stand beside those that are there.
    pub(super) fn check_append(&self, schema: &Schema, label: &str) -> Result<()> {
        self.manifest.as_ref().map_or(Ok(()), |manifest| manifest.check_append(schema, label))
    }

    /// The token of the last completed commit.
    pub(super) fn committed(&self) -> Option<&Token> {
        self.manifest.as_ref().map(|m| &m.token)
    }

    /// Number of the last completed commit.
    pub(super) fn seq(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |m| m.seq)
    }

    /// Makes `files` and `token` visible together. See [`crate::Table::commit`].
    pub(super) async fn commit(&mut self, files: Vec<StagedFile>, token: Token, how: Commit, schema: &Schema) -> Result<()> {
        loop {
            self.finish_attempt().await?;
            if self.committed() == Some(&token) {
                // Staged again by a run that did not know; on disk, published files are gone from there.
                return self.storage.delete(parse_all(files.iter().map(|f| f.staged.as_str()))?).await;
            }
            let sight = self.look(self.seq() + 1).await?;
            let record = self.prepare(&sight, &files, &token, how, schema)?;
            self.attempt = Some(record.clone());
            match self.decide(&record).await? {
                None => {
                    self.complete(&record, &sight).await?;
                    self.attempt = None;
                    return Ok(());
                }
                // An earlier attempt of this run whose answer was lost, or the same commit.
                Some(other) if other.id == self.id || other.token == token => self.attempt = Some(other),
                Some(_) => {
                    self.attempt = None;
                    return Err(self.beaten(record.seq));
                }
            }
        }
    }

    /// Of `remembered`, keeps what is still staged whole; removes the rest. See [`crate::Table::adopt`].
    pub(super) async fn adopt(&mut self, remembered: Vec<ParquetPart>) -> Result<Vec<Option<ParquetPart>>> {
        let staging = self.folders.staging()?;
        let staged = self.storage.list(&staging).await?;
        let sizes = sizes(&staged);
        let published: HashSet<&str> = self.manifest.iter().flat_map(|m| &m.files).map(|f| f.path.as_str()).collect();
        let whole = |f: &StagedFile| sizes.get(f.staged.as_str()) == Some(&f.bytes) && !published.contains(f.target.as_str());
        let kept: Vec<_> = remembered.into_iter().map(|part| part.files.iter().all(whole).then_some(part)).collect();
        let wanted: HashSet<&str> = kept.iter().flatten().flat_map(|part| &part.files).map(|f| f.staged.as_str()).collect();
        let unwanted = staged.iter().map(|e| e.path.as_str()).filter(|path| !wanted.contains(path));
        self.storage.delete(parse_all(unwanted)?).await?;
        self.storage.remove_empty_folders(&staging).await?;
        Ok(kept)
    }

    /// Removes a table. Records go first and the manifest second: at whatever step it is
    /// interrupted, what is left opens as a table that was never committed, or as it was.
    pub(super) async fn drop_table(storage: &Storage, folders: &Folders) -> Result<()> {
        let files = storage.list(&folders.table).await?;
        refuse_foreign(&files, &folders.table, &storage.show(folders.table.as_ref()))?;
        let private = storage.list(&folders.private).await?;
        // Nothing is locked where there is no lock file, and none is made to remove nothing.
        let _lock = if private.is_empty() { None } else { storage.lock(&folders.lock()?).await? };
        let commits = folders.commits()?;
        let records = private.iter().filter(|e| relative(&e.path, &commits).is_some()).map(|e| e.path.as_str());
        storage.delete(parse_all(records)?).await?;
        storage.delete(vec![folders.manifest()?]).await?;
        storage.remove_folder(&folders.table).await?;
        storage.remove_folder(&folders.private).await
    }

    /// Goes on with another storage; gives back the one it had.
    #[cfg(test)]
    pub(super) fn swap_storage(&mut self, storage: Storage) -> Storage {
        std::mem::replace(&mut self.storage, storage)
    }

    /// Reads manifest and records, doubts them, completes the last commit if it is not, and removes
    /// what dead runs left behind (staged parts excepted).
    async fn recover(&mut self) -> Result<()> {
        let path = self.folders.manifest()?;
        let mut manifest = match self.storage.get(&path).await? {
            Some(data) => Some(Manifest::read(&data, &self.storage.show(path.as_ref()))?),
            None => None,
        };
        let done = manifest.as_ref().map_or(0, |m| m.seq);
        let private = self.storage.list(&self.folders.private).await?;
        let mut records = self.read_records(&private, done).await?;
        let last = records.pop();
        // Only the last commit can be incomplete: the next one is decided after it was completed.
        for record in &records {
            manifest = Some(record.manifest(manifest.as_ref()));
        }
        let incomplete = last.as_ref().is_some_and(|r| r.seq > done);
        let seq = last.as_ref().map_or(done, |r| r.seq);
        let sight = self.look(seq).await?;
        if let Some(manifest) = &manifest
            && !(incomplete && last.as_ref().is_some_and(|r| r.how == Commit::Replace))
        {
            self.doubt(manifest, &sight)?;
        }
        self.manifest = manifest;
        match last {
            Some(record) if incomplete => {
                tracing::info!("completing commit {} of {}, which an earlier run had decided", record.seq, self.folders.table);
                self.complete(&record, &sight).await?;
            }
            // Completed, but perhaps not tidied.
            Some(record) => self.tidy(&record, Some(&sight)).await?,
            None => {}
        }
        self.remove_leftovers(&private).await
    }

    /// The records from the completed commit `done` on, without a gap.
    async fn read_records(&self, private: &[Entry], done: u64) -> Result<Vec<Record>> {
        let commits = self.folders.commits()?;
        let staging = self.folders.staging()?;
        let names = private.iter().filter_map(|e| relative(&e.path, &commits)).map(commit_file);
        let mut seqs: Vec<u64> = names.filter_map(|f| if let CommitFile::Record(seq) = f { Some(seq) } else { None }).collect();
        seqs.retain(|seq| *seq >= done);
        seqs.sort_unstable();
        let mut records = Vec::new();
        let mut expected = done;
        for seq in seqs {
            if seq != done && seq != expected + 1 {
                let shown = self.storage.show(self.folders.manifest()?.as_ref());
                return Err(corrupt(&shown, format!("the last commit it knows is {done}, and the next record is that of commit {seq}")));
            }
            expected = seq;
            let path = self.folders.record(seq)?;
            let shown = self.storage.show(path.as_ref());
            match self.storage.get(&path).await? {
                Some(data) => records.push(Record::read(&data, seq, staging.as_ref(), &shown)?),
                None => return Err(self.beaten(seq)),
            }
        }
        Ok(records)
    }

    /// Every file of the manifest must be there.
    fn doubt(&self, manifest: &Manifest, sight: &Sight) -> Result<()> {
        let lost: Vec<_> = manifest.files.iter().filter(|f| sight.table.get(&f.path) != Some(&f.bytes)).collect();
        let Some(first) = lost.first() else { return Ok(()) };
        let shown = self.storage.show(self.folders.target(&first.path)?.as_ref());
        let found = match sight.table.get(&first.path) {
            Some(bytes) => format!("{shown} has {bytes} bytes, {} were written", first.bytes),
            None => format!("{shown} is missing"),
        };
        let more = if lost.len() > 1 { format!(" (and {} more files)", lost.len() - 1) } else { String::new() };
        Err(Error::new(Kind::Corrupt, format!("the table's files are not those that were committed: {found}{more}"))
            .hint("restore the files, or clear the table (clear-destination) and sync it again; nothing was changed"))
    }

    /// What an earlier call left unfinished is finished, if it was decided.
    async fn finish_attempt(&mut self) -> Result<()> {
        let Some(attempt) = &self.attempt else { return Ok(()) };
        let path = self.folders.record(attempt.seq)?;
        let staging = self.folders.staging()?;
        if let Some(data) = self.storage.get(&path).await? {
            let stored = Record::read(&data, attempt.seq, staging.as_ref(), &self.storage.show(path.as_ref()))?;
            if stored.id == attempt.id {
                let sight = self.look(stored.seq).await?;
                if stored.seq > self.seq() {
                    self.complete(&stored, &sight).await?;
                } else {
                    self.tidy(&stored, Some(&sight)).await?;
                }
            }
        }
        self.attempt = None;
        Ok(())
    }

    /// Everything that could make completing fail is looked at while nothing is decided.
    fn prepare(&self, sight: &Sight, files: &[StagedFile], token: &Token, how: Commit, schema: &Schema) -> Result<Record> {
        let folder = self.storage.show(self.folders.table.as_ref());
        refuse_foreign(&sight.listed, &self.folders.table, &folder)?;
        let staging = self.folders.staging()?;
        let mut targets = HashSet::new();
        for file in files {
            if relative(&file.staged, &staging).is_none() || !targets.insert(&file.target) {
                return Err(Error::new(Kind::Bug, format!("`{}` is not a staged file of this table, or is committed twice", file.staged)));
            }
            if sight.staged.get(&file.staged) != Some(&file.bytes) {
                let shown = self.storage.show(&file.staged);
                return Err(Error::new(Kind::Conflict, format!("the staged file {shown} is not there any more as it was written")).hint(
                    "another run or a cleaning job removed it: let one run at a time write this table, then run again; nothing was changed",
                ));
            }
            if sight.table.contains_key(&file.target) {
                return Err(Error::new(Kind::Conflict, format!("{folder}/{} exists already and is another file", file.target))
                    .hint("move it away, or clear the table (clear-destination); nothing was changed"));
            }
            if self.storage.local_root().is_none() && file.bytes > COPY_BYTES_MAX {
                return Err(Error::new(
                    Kind::Config,
                    format!("{folder}/{} has more than 5 GiB, which S3 does not copy in one piece", file.target),
                )
                .hint("lower `max_file_size_mb`"));
            }
        }
        let remove = match (how, self.storage.local_root()) {
            (Commit::Replace, None) => sight.table.keys().cloned().collect(),
            _ => Vec::new(),
        };
        let mut record = Record::new(self.seq() + 1, token.clone(), how, schema);
        record.id.clone_from(&self.id);
        record.files = files.to_vec();
        record.remove = remove;
        Ok(record)
    }

    /// Writes the record, unless another one has its number: then gives that one.
    async fn decide(&self, record: &Record) -> Result<Option<Record>> {
        let path = self.folders.record(record.seq)?;
        if self.storage.conditional_puts_are_safe().await? {
            if self.storage.put_if_absent(&path, record.to_bytes()?).await? {
                return Ok(None);
            }
        } else {
            let intent = self.folders.intent(record.seq, &record.id)?;
            self.intents.note(&intent, Fate::Void);
            self.storage.put(&intent, record.id.clone().into()).await?;
            let (free, mut intents) = match self.alone(record).await {
                Ok(Some(stale)) => {
                    self.intents.note(&intent, Fate::Open);
                    (self.storage.put(&path, record.to_bytes()?).await.map(|()| true), stale)
                }
                Ok(None) => (Ok(false), Vec::new()),
                Err(error) => (Err(error), Vec::new()),
            };
            intents.push(intent);
            self.storage.delete(intents.clone()).await?;
            intents.iter().for_each(|intent| self.intents.forget(intent));
            if free? {
                return Ok(None);
            }
        }
        let staging = self.folders.staging()?;
        match self.storage.get(&path).await? {
            Some(data) => Record::read(&data, record.seq, staging.as_ref(), &self.storage.show(path.as_ref())).map(Some),
            None => Err(self.beaten(record.seq)),
        }
    }

    /// For stores that do not honour create-if-absent: with our intent written, is there neither
    /// the record (else `None`) nor somebody else's intent (else a conflict)? Of two writers the one
    /// whose intent is written second sees the other's, so at most one goes on to write the record.
    /// Gives the intents of dead runs and those of ours that nothing can come of, which the record makes superfluous.
    async fn alone(&self, record: &Record) -> Result<Option<Vec<Path>>> {
        let commits = self.folders.commits()?;
        let listed = self.storage.list(&commits).await?;
        let own = self.folders.intent(record.seq, &record.id)?;
        let Some(now) = listed.iter().find(|e| e.path == own.as_ref()).map(|e| e.modified_ms) else {
            return Err(Error::new(
                Kind::Storage,
                format!("{} was written and is not listed: this store cannot take a commit", self.storage.show(own.as_ref())),
            )
            .hint("use a store with conditional writes or consistent listings"));
        };
        let mut stale = Vec::new();
        for entry in &listed {
            match relative(&entry.path, &commits).map(commit_file) {
                Some(CommitFile::Record(seq)) if seq == record.seq => return Ok(None),
                Some(CommitFile::Intent(seq)) if seq == record.seq && entry.path != own.as_ref() => {
                    let fate = self.intents.fate(&entry.path);
                    if fate != Some(Fate::Void) && now - entry.modified_ms < INTENT_STALE_MS {
                        let intent = self.storage.show(&entry.path);
                        return Err(match fate {
                            Some(_) => Error::new(
                                Kind::Storage,
                                format!("commit {} was sent by this run and not answered, and may still arrive: {intent}", record.seq),
                            )
                            .transient()
                            .hint("it is tried again; 15 minutes after it was sent it is taken for lost"),
                            None => self.beaten(record.seq).hint(format!(
                                "let one run at a time write this table, then run again; if that run died, {intent} is ignored 15 minutes after it was written"
                            )),
                        });
                    }
                    stale.push(parse(&entry.path)?);
                }
                _ => {}
            }
        }
        Ok(Some(stale))
    }

    /// Carries out a decided commit. `sight` was taken after the last change of the folders.
    async fn complete(&mut self, record: &Record, sight: &Sight) -> Result<()> {
        let shown = self.storage.show(self.folders.record(record.seq)?.as_ref());
        let todo = sight.todo(record, self.storage.local_root().is_some(), &shown)?;
        let moves = |place: &dyn Fn(&str) -> Result<_>| -> Result<Vec<_>> {
            todo.files.iter().map(|f| Ok((parse(&f.staged)?, place(&f.target)?))).collect()
        };
        let in_place = |target: &str| self.folders.target(target);
        match (self.storage.local_root(), record.how) {
            (None, _) => self.storage.copy_all(moves(&in_place)?).await?,
            (Some(_), Commit::Append) => self.storage.rename_all(moves(&in_place)?).await?,
            (Some(_), Commit::Replace) if todo.exchanged => {}
            (Some(_), Commit::Replace) => {
                let next = self.folders.next(record.seq)?;
                self.storage.rename_all(moves(&|target| parse(&format!("{next}/{target}")))?).await?;
                self.storage.exchange(&next, &self.folders.table, &self.folders.old(record.seq)?).await?;
            }
        }
        let manifest = record.manifest(self.manifest.as_ref());
        self.storage.put(&self.folders.manifest()?, manifest.to_bytes()?).await?;
        self.manifest = Some(manifest);
        self.tidy(record, None).await
    }

    /// Removes what the completed commit made superfluous. Old objects are visible to readers of the
    /// folder, so failing to remove them is an error; the rest can wait for the next run.
    async fn tidy(&self, record: &Record, sight: Option<&Sight>) -> Result<()> {
        let there = |path: &&String| sight.is_none_or(|s| s.table.contains_key(*path));
        let old: Vec<_> = record.remove.iter().filter(there).map(|path| self.folders.target(path)).collect::<Result<_>>()?;
        self.storage.delete(old).await?;
        if let Err(error) = self.tidy_private(record).await {
            tracing::warn!("leftovers of commit {} of {} stay until the next run: {error}", record.seq, self.folders.table);
        }
        Ok(())
    }

    async fn tidy_private(&self, record: &Record) -> Result<()> {
        if self.storage.local_root().is_some() {
            if record.how == Commit::Replace {
                self.storage.remove_folder(&self.folders.next(record.seq)?).await?;
                self.storage.remove_folder(&self.folders.old(record.seq)?).await?;
            }
            self.storage.remove_empty_folders(&self.folders.staging()?).await?;
        } else {
            self.storage.delete(parse_all(record.files.iter().map(|f| f.staged.as_str()))?).await?;
        }
        match record.seq.checked_sub(RECORDS_KEPT) {
            Some(old) if old > 0 => self.storage.delete(vec![self.folders.record(old)?]).await,
            _ => Ok(()),
        }
    }

    /// Removes what no step of [`Ledger::tidy`] reaches any more: old records, intents of commits
    /// that are past, temporary files of small writes, folders of replacements that are past.
    async fn remove_leftovers(&self, private: &[Entry]) -> Result<()> {
        let (commits, staging) = (self.folders.commits()?, self.folders.staging()?);
        let seq = self.seq();
        let superfluous = |entry: &&Entry| match relative(&entry.path, &commits).map(commit_file) {
            Some(CommitFile::Record(old)) => old + RECORDS_KEPT <= seq,
            Some(CommitFile::Intent(past)) => past <= seq,
            // The lock keeps other runs away on a disk; an object store has no temporary files.
            Some(CommitFile::Other) | None => relative(&entry.path, &staging).is_none() && Storage::is_temporary(&entry.path),
        };
        self.storage.delete(parse_all(private.iter().filter(superfluous).map(|e| e.path.as_str()))?).await?;
        let past = |name: &str| {
            ["next-", "old-"].iter().find_map(|p| name.strip_prefix(p)).and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n <= seq)
        };
        let folders = private.iter().filter_map(|e| relative(&e.path, &self.folders.private)?.split('/').next());
        for name in folders.filter(|name| past(name)).collect::<HashSet<_>>() {
            self.storage.remove_folder(&parse(&format!("{}/{name}", self.folders.private))?).await?;
        }
        Ok(())
    }

    async fn look(&self, seq: u64) -> Result<Sight> {
        let listed = self.storage.list(&self.folders.table).await?;
        let staged = self.storage.list(&self.folders.staging()?).await?;
        let next = self.folders.next(seq)?;
        let built = match self.storage.local_root() {
            Some(_) => self.storage.list(&next).await?,
            None => Vec::new(),
        };
        let below =
            |entries: &[Entry], folder| entries.iter().filter_map(|e| Some((relative(&e.path, folder)?.to_owned(), e.bytes))).collect();
        Ok(Sight {
            table: below(&listed, &self.folders.table),
            next: below(&built, &next),
            staged: staged.into_iter().map(|e| (e.path, e.bytes)).collect(),
            listed,
        })
    }

    fn beaten(&self, seq: u64) -> Error {
        Error::new(
            Kind::Conflict,
            format!("another run is writing: it decided commit {seq} of {}", self.storage.show(self.folders.table.as_ref())),
        )
        .hint("let one run at a time write this table, then run again")
    }
}

/// The sizes of the files in a table's folders at one moment.
struct Sight {
    listed: Vec<Entry>,
    /// Visible, by path below the table's folder.
    table: HashMap<String, u64>,
    /// In the new folder of a replacement, likewise.
    next: HashMap<String, u64>,
    /// Staged, by path below the root.
    staged: HashMap<String, u64>,
}

/// What is left to do for a decided commit.
struct ToDo<'a> {
    /// Files that are still staged only.
    files: Vec<&'a StagedFile>,
    /// The new folder of a replacement is already in place.
    exchanged: bool,
}

impl Sight {
    /// What is left to do; an error when something that is needed is gone.
    fn todo<'a>(&self, record: &'a Record, disk: bool, shown: &str) -> Result<ToDo<'a>> {
        let visible = |f: &StagedFile| self.table.get(&f.target) == Some(&f.bytes);
        if record.how == Commit::Replace && disk && record.files.iter().all(visible) {
            return Ok(ToDo { files: Vec::new(), exchanged: true });
        }
        let mut files = Vec::new();
        for file in &record.files {
            let done = match (disk, record.how) {
                // Its old folder is still in place, so a replacement has nothing visible there yet.
                (true, Commit::Replace) => self.next.get(&file.target) == Some(&file.bytes),
                _ => visible(file),
            };
            match self.staged.get(&file.staged) {
                _ if done => {}
                Some(bytes) if *bytes == file.bytes => files.push(file),
                Some(bytes) => {
                    return Err(corrupt(shown, format!("its staged file {} has {bytes} bytes instead of {}", file.staged, file.bytes)));
                }
                None => return Err(corrupt(shown, format!("its file {} is neither staged nor published", file.target))),
            }
        }
        Ok(ToDo { files, exchanged: false })
    }
}

fn sizes(entries: &[Entry]) -> HashMap<&str, u64> {
    entries.iter().map(|e| (e.path.as_str(), e.bytes)).collect()
}
