//! Where files are kept: a folder on a local disk, or a prefix of a bucket on S3, Google Cloud Storage or Azure.
//!
//! Promises: a file appears whole or not at all, and what was reported as written is still there
//! after a power cut; memory per open upload is bounded; disk work never blocks the async threads;
//! an error says what the user can do and never holds a credential. Knows nothing of tables,
//! Parquet or commits.

mod cloud;
mod credentials;
mod disk;
mod options;
mod s3;
mod trouble;
mod upload;

pub(crate) use cloud::{AzureOptions, GcsOptions};
pub(crate) use options::StoreOptions;
pub use s3::{S3Credentials, S3Options};
pub use upload::Upload;

pub(crate) use credentials::default_region;
pub(crate) use disk::Lock;
pub(crate) use s3::AwsCredentials;
pub(crate) use trouble::explain;

use crate::{Error, Kind, Result, faults};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Requests of one batch operation (copies, for instance) that are under way at a time: enough to
/// hide the latency of a store, few enough not to be throttled.
const REQUESTS_MAX: usize = 8;

/// Writers that race for one key when a store's conditional puts are probed.
const PROBE_RACERS: usize = 8;

/// S3 copies at most 5 GiB in one request.
pub(crate) const COPY_BYTES_MAX: u64 = 5 << 30;

/// A folder or bucket prefix; paths given to it are below that root. Cloning shares it.
#[derive(Clone)]
pub struct Storage {
    place: Place,
    /// How the root is shown: `/data/lake` or `s3://bucket/prefix`.
    root: Arc<str>,
    /// The store's address where it is not Amazon's, for messages.
    endpoint: Option<Arc<str>>,
    conditional: Arc<OnceCell<bool>>,
    fuse: Fuse,
}

#[derive(Clone)]
enum Place {
    Disk(Arc<PathBuf>),
    Bucket(Arc<dyn ObjectStore>),
}

/// One stored file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Path below the store's root.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// When it was last written, by the clock of the store, in milliseconds since 1970.
    pub modified_ms: i64,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Storage({})", self.root)
    }
}

impl Storage {
    /// A folder on a local disk. It is created when something is first written.
    pub fn local(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        // Absolute, so that a later change of the working directory cannot split a table in two.
        let root = std::path::absolute(&root).unwrap_or(root);
        let shown = root.display().to_string().into();
        Self { place: Place::Disk(Arc::new(root)), root: shown, endpoint: None, conditional: Arc::default(), fuse: Fuse::default() }
    }

    /// A prefix of an S3 bucket. Nothing is sent yet.
    pub fn s3(options: S3Options) -> Result<Self> {
        let root = options.url().into();
        let endpoint = options.endpoint.as_deref().map(Into::into);
        Ok(Self { place: Place::Bucket(s3::connect(options)?), root, endpoint, conditional: Arc::default(), fuse: Fuse::default() })
    }

    /// A bucket of any kind, shown as `root`.
    fn bucket(store: Arc<dyn ObjectStore>, root: String, endpoint: Option<&str>) -> Self {
        let endpoint = endpoint.map(Into::into);
        Self { place: Place::Bucket(store), root: root.into(), endpoint, conditional: Arc::default(), fuse: Fuse::default() }
    }

    /// A folder or prefix of this place, as a place of its own.
    pub(crate) fn below(&self, folder: &Path) -> Self {
        if folder.is_root() {
            return self.clone();
        }
        let place = match &self.place {
            Place::Disk(root) => Place::Disk(Arc::new(disk::below(root, folder))),
            Place::Bucket(store) => Place::Bucket(Arc::new(PrefixStore::new(store.clone(), folder.clone()))),
        };
        Self { place, root: self.show(folder.as_ref()).into(), conditional: Arc::default(), ..self.clone() }
    }

    /// Any other object store, for tests that make one misbehave.
    #[cfg(test)]
    pub(crate) fn of(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            place: Place::Bucket(store),
            root: "test://store".into(),
            endpoint: None,
            conditional: Arc::default(),
            fuse: Fuse::default(),
        }
    }

    /// The same place, whose writing operations fail after the first `count` of them.
    #[cfg(test)]
    pub(crate) fn failing_after(&self, count: usize) -> Self {
        Self { fuse: Fuse(Some(Arc::new(std::sync::atomic::AtomicUsize::new(count)))), ..self.clone() }
    }

    /// Takes create-if-absent for safe, whatever a probe would find.
    #[cfg(test)]
    pub(crate) fn trust_conditional_puts(&self) {
        self.conditional.set(true).expect("nobody has probed");
    }

    /// The local root; `None` for an object store.
    pub fn local_root(&self) -> Option<&std::path::Path> {
        match &self.place {
            Place::Disk(root) => Some(root),
            Place::Bucket(_) => None,
        }
    }

    /// How a path is shown to people.
    pub fn show(&self, path: &str) -> String {
        if path.is_empty() { self.root.to_string() } else { format!("{}/{path}", self.root.trim_end_matches('/')) }
    }

    /// Starts writing a file. It appears when [`Upload::finish`] returns, in place of an older one.
    pub async fn upload(&self, path: &Path) -> Result<Upload> {
        self.fuse.reach("storage.upload").await?;
        let shown = self.show(path.as_ref());
        match &self.place {
            Place::Disk(root) => {
                let target = disk::below(root, path);
                let file = disk::blocking(move || disk::TempFile::create(&target)).await?;
                Ok(Upload::to_disk(file, shown, self.fuse.clone()))
            }
            Place::Bucket(store) => Ok(Upload::to_store(store.clone(), path.clone(), shown, self.fuse.clone())),
        }
    }

    /// A whole file; `None` when there is none. For small files: records, manifests.
    pub(crate) async fn get(&self, path: &Path) -> Result<Option<Bytes>> {
        faults::reach("storage.get").await?;
        let found = match &self.place {
            Place::Disk(root) => {
                let file = disk::below(root, path);
                disk::blocking(move || disk::read(&file)).await
            }
            Place::Bucket(store) => {
                let found = match store.get(path).await {
                    Ok(found) => found.bytes().await,
                    Err(error) => Err(error),
                };
                match found {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(error) if trouble::absent(&error) => Ok(None),
                    Err(error) => Err(self.trouble(error, "read", path)),
                }
            }
        };
        Ok(found?.map(|bytes| faults::bytes("storage.get.bytes", bytes)))
    }

    /// A range of a file's bytes, which must lie within it.
    pub(crate) async fn get_range(&self, path: &Path, range: Range<u64>) -> Result<Bytes> {
        faults::reach("storage.get_range").await?;
        let found = match &self.place {
            Place::Disk(root) => {
                let file = disk::below(root, path);
                disk::blocking(move || disk::read_range(&file, range)).await
            }
            Place::Bucket(store) => store.get_range(path, range).await.map_err(|e| self.trouble(e, "read", path)),
        };
        Ok(faults::bytes("storage.get_range.bytes", found?))
    }

    /// The size of a file; `None` when there is none.
    pub(crate) async fn size(&self, path: &Path) -> Result<Option<u64>> {
        faults::reach("storage.size").await?;
        match &self.place {
            Place::Disk(root) => {
                let file = disk::below(root, path);
                disk::blocking(move || disk::size(&file)).await
            }
            Place::Bucket(store) => match store.head(path).await {
                Ok(found) => Ok(Some(found.size)),
                Err(error) if trouble::absent(&error) => Ok(None),
                Err(error) => Err(self.trouble(error, "look at", path)),
            },
        }
    }

    /// Writes a file in place of what is there; readers see the old or the new one.
    pub(crate) async fn put(&self, path: &Path, data: Bytes) -> Result<()> {
        self.fuse.reach("storage.put").await?;
        match &self.place {
            Place::Disk(root) => {
                let file = disk::below(root, path);
                disk::blocking(move || disk::replace(&file, &data)).await?;
            }
            Place::Bucket(store) => {
                store.put(path, PutPayload::from_bytes(data)).await.map_err(|e| self.trouble(e, "write", path))?;
            }
        }
        faults::reach("storage.put.done").await
    }

    /// Whether this is where S3 Tables keeps a table: nobody can list or remove files there, and the service removes by itself what
    /// belongs to none.
    fn is_table_bucket(&self) -> bool {
        self.root.strip_prefix("s3://").and_then(|rest| rest.split('/').next()).is_some_and(|bucket| bucket.ends_with("--table-s3"))
    }

    /// Writes a file unless one is there; says whether it was written. Only as good as the store:
    /// see [`Storage::conditional_puts_are_safe`].
    pub(crate) async fn put_if_absent(&self, path: &Path, data: Bytes) -> Result<bool> {
        self.fuse.reach("storage.create").await?;
        let made = match &self.place {
            Place::Disk(root) => {
                let file = disk::below(root, path);
                disk::blocking(move || disk::create(&file, &data)).await
            }
            Place::Bucket(store) => {
                match store.put_opts(path, PutPayload::from_bytes(data.clone()), PutMode::Create.into()).await {
                    Ok(_) => Ok(true),
                    // A request that was answered too late is sent again by the client, and then
                    // meets its own first attempt.
                    Err(object_store::Error::AlreadyExists { .. }) => Ok(self.get(path).await?.is_some_and(|found| found == data)),
                    Err(error) => Err(self.trouble(error, "create", path)),
                }
            }
        };
        let made = made?;
        faults::reach("storage.create.done").await?;
        Ok(made)
    }

    /// All files below `folder`, by path. A folder that is not there has none.
    pub(crate) async fn list(&self, folder: &Path) -> Result<Vec<Entry>> {
        if self.is_table_bucket() {
            return Ok(Vec::new());
        }
        faults::reach("storage.list").await?;
        let mut entries = match &self.place {
            Place::Disk(root) => {
                let (root, from) = (root.clone(), disk::below(root, folder));
                disk::blocking(move || disk::list(&root, &from)).await?
            }
            Place::Bucket(store) => {
                let objects = store.list(Some(folder)).map_ok(|object| Entry {
                    path: object.location.to_string(),
                    bytes: object.size,
                    modified_ms: object.last_modified.timestamp_millis(),
                });
                objects.try_collect::<Vec<_>>().await.map_err(|e| self.trouble(e, "list", folder))?
            }
        };
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// Removes files; those that are not there are fine.
    pub(crate) async fn delete(&self, paths: Vec<Path>) -> Result<()> {
        if paths.is_empty() || self.is_table_bucket() {
            return Ok(());
        }
        match &self.place {
            Place::Disk(root) => {
                let (root, fuse) = (root.clone(), self.fuse.clone());
                disk::blocking(move || {
                    for path in &paths {
                        fuse.burn("storage.delete")?;
                        disk::remove(&disk::below(&root, path))?;
                    }
                    faults::step("storage.delete.done")
                })
                .await
            }
            Place::Bucket(store) => {
                let (mut locations, fuse) = (Vec::new(), &self.fuse);
                let mut spent = Ok(());
                for path in paths {
                    spent = fuse.reach("storage.delete").await;
                    if spent.is_err() {
                        break;
                    }
                    locations.push(Ok(path));
                }
                let mut deleted = store.delete_stream(futures::stream::iter(locations).boxed());
                while let Some(result) = deleted.next().await {
                    match result {
                        Ok(_) => {}
                        Err(error) if trouble::absent(&error) => {}
                        Err(error) => return Err(explain(error, "remove files", &self.root)),
                    }
                }
                faults::reach("storage.delete.done").await?;
                spent
            }
        }
    }

    /// Removes a folder with everything in it; one that is not there is fine.
    pub(crate) async fn remove_folder(&self, folder: &Path) -> Result<()> {
        match &self.place {
            Place::Disk(root) => {
                self.fuse.reach("storage.remove_folder").await?;
                let folder = disk::below(root, folder);
                disk::blocking(move || disk::remove_folder(&folder)).await?;
                faults::reach("storage.remove_folder.done").await
            }
            Place::Bucket(_) => {
                let entries = self.list(folder).await?;
                self.delete(parse_all(entries.iter().map(|e| e.path.as_str()))?).await
            }
        }
    }

    /// Removes the folders below `folder` that hold nothing, and itself when it is empty too.
    /// Object stores have no folders.
    pub(crate) async fn remove_empty_folders(&self, folder: &Path) -> Result<()> {
        let Place::Disk(root) = &self.place else { return Ok(()) };
        self.fuse.reach("storage.remove_empty_folders").await?;
        let folder = disk::below(root, folder);
        disk::blocking(move || disk::remove_empty_folders(&folder)).await
    }

    /// Removes files below `folder` that processes were writing when they died. Object stores show no such files.
    pub(crate) async fn remove_abandoned(&self, folder: &Path) -> Result<()> {
        let Place::Disk(root) = &self.place else { return Ok(()) };
        self.fuse.reach("storage.remove_abandoned").await?;
        let folder = disk::below(root, folder);
        disk::blocking(move || disk::remove_abandoned(&folder)).await
    }

    /// Moves files on a local disk. A file that is in the way is an error. Durable on return.
    pub(crate) async fn rename_all(&self, moves: Vec<(Path, Path)>) -> Result<()> {
        let root = self.disk()?;
        let fuse = self.fuse.clone();
        disk::blocking(move || {
            let mut folders = disk::Folders::default();
            for (from, to) in &moves {
                fuse.burn("storage.rename")?;
                folders.rename(&disk::below(&root, from), &disk::below(&root, to))?;
            }
            fuse.burn("storage.rename.done")?;
            folders.sync()
        })
        .await
    }

    /// Copies objects inside the store; what is in the way is replaced.
    pub(crate) async fn copy_all(&self, copies: Vec<(Path, Path)>) -> Result<()> {
        let Place::Bucket(store) = &self.place else { return Err(Error::new(Kind::Bug, "copies are for object stores")) };
        futures::stream::iter(copies.into_iter().map(Ok))
            .try_for_each_concurrent(REQUESTS_MAX, |(from, to)| async move {
                self.fuse.reach("storage.copy").await?;
                store.copy(&from, &to).await.map_err(|e| self.trouble(e, "copy", &from))?;
                faults::reach("storage.copy.done").await
            })
            .await
    }

    /// Puts the folder `new` in the place of `table`; what was there, if anything, is then in `new`
    /// or in `aside`. One atomic step where the file system can do it. Durable on return.
    pub(crate) async fn exchange(&self, new: &Path, table: &Path, aside: &Path) -> Result<()> {
        let root = self.disk()?;
        let [new, table, aside] = [new, table, aside].map(|p| disk::below(&root, p));
        let fuse = self.fuse.clone();
        disk::blocking(move || disk::exchange(&new, &table, &aside, &fuse)).await
    }

    /// Takes the lock file at `path` on a local disk; an object store has none to take.
    pub(crate) async fn lock(&self, path: &Path) -> Result<Option<Lock>> {
        let Place::Disk(root) = &self.place else { return Ok(None) };
        let file = disk::below(root, path);
        disk::blocking(move || Lock::take(&file)).await.map(Some)
    }

    /// Whether create-if-absent really refuses to overwrite, and lets exactly one of several
    /// racing writers win. Found out once, by trying: some stores check without atomicity, and
    /// some answer 200 and overwrite.
    pub(crate) async fn conditional_puts_are_safe(&self) -> Result<bool> {
        if matches!(self.place, Place::Disk(_)) {
            return Ok(true);
        }
        let probe = async {
            let path = parse(&format!("{}/probe-{}", PRIVATE, uuid::Uuid::new_v4()))?;
            let verdict = self.probe(&path).await;
            let removed = self.delete(vec![path]).await;
            let safe = verdict?;
            removed?;
            if !safe {
                tracing::warn!(
                    "{} does not honour conditional writes: commits are decided by intents and listing, see the writer's documentation",
                    self.root
                );
            }
            Ok(safe)
        };
        self.conditional.get_or_try_init(|| probe).await.copied()
    }

    async fn probe(&self, path: &Path) -> Result<bool> {
        let Place::Bucket(store) = &self.place else { return Ok(true) };
        let attempt = |n: usize| async move {
            match store.put_opts(path, PutPayload::from(format!("{n}")), PutMode::Create.into()).await {
                Ok(_) => Ok(Some(true)),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(Some(false)),
                Err(error) if trouble::unsupported(&error) => Ok(None),
                Err(error) => Err(self.trouble(error, "create", path)),
            }
        };
        let race = futures::future::try_join_all((0..PROBE_RACERS).map(attempt)).await?;
        if race.contains(&None) || race.iter().filter(|won| **won == Some(true)).count() > 1 {
            return Ok(false);
        }
        // Nobody won when every racer was told of a conflict: then this one must.
        let existed = race.contains(&Some(true));
        let after = attempt(PROBE_RACERS).await?;
        Ok(if existed { after == Some(false) } else { after == Some(true) && attempt(PROBE_RACERS + 1).await? == Some(false) })
    }

    /// Tries every operation that a sync will need, and leaves nothing behind.
    pub(crate) async fn check(&self) -> Result<()> {
        self.check_files().await?;
        self.conditional_puts_are_safe().await.map(drop)
    }

    /// [`Storage::check`] for those who need no conditional puts.
    pub(crate) async fn check_files(&self) -> Result<()> {
        if let Place::Disk(root) = &self.place {
            let root = root.clone();
            return disk::blocking(move || disk::check(&root)).await;
        }
        let name = format!("{PRIVATE}/check-{}", uuid::Uuid::new_v4());
        let (first, second) = (parse(&name)?, parse(&format!("{name}-copy"))?);
        let data = Bytes::from_static(b"this object may be removed");
        // First, because it tells a missing bucket from a missing permission.
        self.list(&parse(&name)?).await?;
        self.put(&first, data.clone()).await?;
        if self.get(&first).await?.as_ref() != Some(&data) {
            return Err(Error::new(Kind::Storage, format!("{} does not give back what was written to it", self.root)));
        }
        self.copy_all(vec![(first.clone(), second.clone())]).await?;
        self.delete(vec![first, second]).await
    }

    /// Whether a path is that of a small write that was cut off.
    pub(crate) fn is_temporary(path: &str) -> bool {
        disk::is_temporary(path.rsplit('/').next().unwrap_or(path))
    }

    fn disk(&self) -> Result<Arc<PathBuf>> {
        match &self.place {
            Place::Disk(root) => Ok(root.clone()),
            Place::Bucket(_) => Err(Error::new(Kind::Bug, "this step is for local disks")),
        }
    }

    fn trouble(&self, error: object_store::Error, verb: &str, path: &Path) -> Error {
        let doing = match self.endpoint.as_deref() {
            Some(endpoint) => format!("{verb} {} at {endpoint}", self.show(path.as_ref())),
            None => format!("{verb} {}", self.show(path.as_ref())),
        };
        explain(error, &doing, &self.root)
    }
}

/// The folder below the root that holds everything which readers do not look at.
pub(crate) const PRIVATE: &str = "_lakeward";

/// A path below the root, taken as it stands: nothing is escaped, `.` and `..` are refused.
pub(crate) fn parse(path: &str) -> Result<Path> {
    Path::parse(path).map_err(|e| Error::new(Kind::Corrupt, format!("`{path}` is not a path below the root")).because(e))
}

/// [`parse`] for many.
pub(crate) fn parse_all<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Vec<Path>> {
    paths.into_iter().map(parse).collect()
}

/// Every writing step passes here: it may fail by a script of faults, and in the tests of this crate after so many steps of one store.
#[derive(Clone, Default)]
pub(crate) struct Fuse(#[cfg(test)] Option<Arc<std::sync::atomic::AtomicUsize>>);

impl Fuse {
    /// Reaches a step on a thread that may block.
    pub(crate) fn burn(&self, step: &'static str) -> Result<()> {
        self.spend()?;
        faults::step(step)
    }

    /// Reaches a step in a task.
    pub(crate) async fn reach(&self, step: &'static str) -> Result<()> {
        self.spend()?;
        faults::reach(step).await
    }

    /// Passes, or fails once the steps that were allowed are used up.
    #[cfg(test)]
    fn spend(&self) -> Result<()> {
        use std::sync::atomic::Ordering::SeqCst;
        let Some(left) = &self.0 else { return Ok(()) };
        left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1))
            .map_err(|_| Error::new(Kind::Storage, "the process was killed here (by a test)"))?;
        Ok(())
    }

    #[cfg(not(test))]
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "it fails in tests only")]
    fn spend(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
