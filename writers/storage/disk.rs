//! A local disk, by plain system calls. Everything here blocks: [`blocking`] takes it off the
//! async threads.
//!
//! A write is durable when its file and the folder that names it are synced; folders that had to be
//! created are synced into their parents.

use super::{Entry, Fuse};
use crate::{Error, Kind, Result};
use bytes::Bytes;
use object_store::path::Path as StorePath;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Runs `work` on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(Kind::Bug, "a disk operation did not finish").because(error)),
    }
}

/// The file behind a path of the store. A store path has no `.` or `..`, so it stays below the root.
pub(super) fn below(root: &Path, path: &StorePath) -> PathBuf {
    root.join(path.as_ref())
}

/// A file that is being written under another name, and is removed unless it gets its own.
pub(super) struct TempFile {
    pub(super) file: File,
    temporary: PathBuf,
    target: PathBuf,
    placed: bool,
}

impl TempFile {
    /// Creates the file beside `target`, with the folders it needs.
    pub(super) fn create(target: &Path) -> Result<Self> {
        let mut name = std::ffi::OsString::from(".");
        // The name must fit where the target's own just fits, so it does not grow with it.
        name.push(uuid::Uuid::new_v4().simple().to_string());
        name.push(".tmp");
        let temporary = target.with_file_name(name);
        // A folder that was empty may be tidied away just before it is used.
        let mut tries = 0;
        let file = loop {
            make_folder(parent(target)?)?;
            match File::create_new(&temporary) {
                // As long as it is locked, nobody takes it for that of a dead process.
                Ok(file) if is_mine(&file) => break file,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::NotFound && tries < 3 => tries += 1,
                Err(e) => return Err(trouble(e, "create", target)),
            }
        };
        Ok(Self { file, temporary, target: target.to_owned(), placed: false })
    }

    /// Appends to the file.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<()> {
        self.file.write_all(data).map_err(|e| trouble(e, "write", &self.target))
    }

    /// Gives the file its name, in place of an older one.
    pub(super) fn replace(mut self) -> Result<()> {
        self.file.sync_all().map_err(|e| trouble(e, "write", &self.target))?;
        fs::rename(&self.temporary, &self.target).map_err(|e| trouble(e, "write", &self.target))?;
        self.placed = true;
        sync_folder(parent(&self.target)?)
    }

    /// Gives the file its name unless that is taken; says whether it did. A hard link shows the
    /// whole content at once and refuses a name in use; the temporary name goes afterwards.
    fn create_named(self) -> Result<bool> {
        self.file.sync_all().map_err(|e| trouble(e, "write", &self.target))?;
        let made = match fs::hard_link(&self.temporary, &self.target) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
            // No hard links here (FAT, some network shares): a rename that refuses to replace.
            Err(link) => match renameat_with(CWD, &self.temporary, CWD, &self.target, RenameFlags::NOREPLACE) {
                Ok(()) => true,
                Err(rustix::io::Errno::EXIST) => false,
                Err(_) => return Err(trouble(link, "create", &self.target)),
            },
        };
        sync_folder(parent(&self.target)?)?;
        Ok(made)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.placed {
            // Best effort: what stays is removed by the next run.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Locks a new file; false if somebody has taken it for one that nobody writes. File systems without locks let nobody find that.
fn is_mine(file: &File) -> bool {
    flock(file, FlockOperation::LockShared).is_err() || file.metadata().is_ok_and(|about| about.nlink() > 0)
}

/// Removes files below `folder` that processes were writing when they died.
pub(super) fn remove_abandoned(folder: &Path) -> Result<()> {
    for entry in list(folder, folder)? {
        let path = folder.join(&entry.path);
        if !path.file_name().and_then(|name| name.to_str()).is_some_and(is_temporary) {
            continue;
        }
        // One that is gone has got its name, or was removed.
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Whether a file name is one that [`TempFile`] gives.
pub(super) fn is_temporary(name: &str) -> bool {
    name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp")).is_some_and(|n| n.len() == 32 && n.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Writes `data` in place of what is at `file`.
pub(super) fn replace(file: &Path, data: &[u8]) -> Result<()> {
    let mut temporary = TempFile::create(file)?;
    temporary.write(data)?;
    temporary.replace()
}

/// Writes `data` unless something is at `file`; says whether it did.
pub(super) fn create(file: &Path, data: &[u8]) -> Result<bool> {
    let mut temporary = TempFile::create(file)?;
    temporary.write(data)?;
    temporary.create_named()
}

/// The content of a file, if it is there.
pub(super) fn read(file: &Path) -> Result<Option<Bytes>> {
    match fs::read(file) {
        Ok(data) => Ok(Some(data.into())),
        Err(e) if absent(&e) => Ok(None),
        Err(e) => Err(trouble(e, "read", file)),
    }
}

/// The bytes of `range`.
pub(super) fn read_range(file: &Path, range: Range<u64>) -> Result<Bytes> {
    let read = || {
        let mut data = vec![0; usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)];
        File::open(file)?.read_exact_at(&mut data, range.start)?;
        Ok(data)
    };
    read().map(Bytes::from).map_err(|e| trouble(e, "read", file))
}

/// The size of a file, if it is there.
pub(super) fn size(file: &Path) -> Result<Option<u64>> {
    match fs::metadata(file) {
        Ok(found) => Ok(Some(found.len())),
        Err(e) if absent(&e) => Ok(None),
        Err(e) => Err(trouble(e, "look at", file)),
    }
}

/// Everything below `folder` that is not a folder.
pub(super) fn list(root: &Path, folder: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let items = match fs::read_dir(&folder) {
            Ok(items) => items,
            Err(e) if absent(&e) => continue,
            Err(e) => return Err(trouble(e, "list", &folder)),
        };
        for item in items {
            let item = item.map_err(|e| trouble(e, "list", &folder))?;
            let path = item.path();
            let about = match item.metadata() {
                Ok(about) => about,
                Err(e) if absent(&e) => continue,
                Err(e) => return Err(trouble(e, "look at", &path)),
            };
            if about.is_dir() {
                open.push(path);
                continue;
            }
            let relative = path.strip_prefix(root).unwrap_or(&path);
            let modified_ms = about.mtime().saturating_mul(1000).saturating_add(about.mtime_nsec() / 1_000_000);
            entries.push(Entry { path: relative.to_string_lossy().into_owned(), bytes: about.len(), modified_ms });
        }
    }
    Ok(entries)
}

/// Removes a file, if it is there.
pub(super) fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(e) if !absent(&e) => Err(trouble(e, "remove", file)),
        _ => Ok(()),
    }
}

/// Removes a folder and all in it, if it is there.
pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if !absent(&e) => Err(trouble(e, "remove", folder)),
        _ => Ok(()),
    }
}

/// Removes folders that hold nothing, innermost first, `folder` included.
pub(super) fn remove_empty_folders(folder: &Path) -> Result<()> {
    let items = match fs::read_dir(folder) {
        Ok(items) => items,
        Err(e) if absent(&e) => return Ok(()),
        Err(e) => return Err(trouble(e, "list", folder)),
    };
    for item in items {
        let item = item.map_err(|e| trouble(e, "list", folder))?;
        if item.file_type().is_ok_and(|t| t.is_dir()) {
            remove_empty_folders(&item.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(e) if !absent(&e) && e.kind() != ErrorKind::DirectoryNotEmpty => Err(trouble(e, "remove", folder)),
        _ => Ok(()),
    }
}

/// Renames of many files, and the folders that must be synced for them to last.
#[derive(Default)]
pub(super) struct Folders(BTreeSet<PathBuf>);

impl Folders {
    /// Moves a file to a name that must be free.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        let folder = parent(to)?;
        if !self.0.contains(folder) {
            make_folder(folder)?;
            self.0.insert(folder.to_owned());
        }
        self.0.insert(parent(from)?.to_owned());
        rename_free(from, to)
    }

    /// Makes the renames last.
    pub(super) fn sync(self) -> Result<()> {
        self.0.iter().try_for_each(|folder| sync_folder(folder))
    }
}

fn rename_free(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        // File systems without this flag: look first. The lock keeps other runs away.
        Err(e) if unsupported(e) => {}
        Err(e) => return Err(trouble(e.into(), "create", to)),
    }
    if fs::symlink_metadata(to).is_ok() {
        return Err(trouble(ErrorKind::AlreadyExists.into(), "create", to));
    }
    fs::rename(from, to).map_err(|e| trouble(e, "create", to))
}

/// Puts `new` in the place of `table`. See [`super::Storage::exchange`].
pub(super) fn exchange(new: &Path, table: &Path, aside: &Path, fuse: &Fuse) -> Result<()> {
    make_folder(parent(table)?)?;
    fuse.burn("storage.exchange")?;
    if fs::symlink_metadata(table).is_err_and(|e| absent(&e)) {
        rename_free(new, table)?;
    } else {
        match renameat_with(CWD, new, CWD, table, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(e) if unsupported(e) => rename_around(new, table, aside, fuse)?,
            Err(e) => return Err(trouble(e.into(), "replace", table)),
        }
    }
    fuse.burn("storage.exchange.done")?;
    sync_folder(parent(new)?)?;
    sync_folder(parent(table)?)
}

/// For file systems that cannot exchange: readers find nothing between the two renames.
fn rename_around(new: &Path, table: &Path, aside: &Path, fuse: &Fuse) -> Result<()> {
    fs::rename(table, aside).map_err(|e| trouble(e, "move away", table))?;
    fuse.burn("storage.exchange.between")?;
    rename_free(new, table)
}

fn unsupported(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// Creates `folder` with its parents; returns those that were missing, outermost first.
fn make_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    let mut at = folder;
    while !at.is_dir() {
        missing.push(at.to_owned());
        match at.parent() {
            Some(up) => at = up,
            None => break,
        }
    }
    missing.reverse();
    for folder in &missing {
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                return Err(trouble(ErrorKind::NotADirectory.into(), "create folder", folder));
            }
            Err(e) => return Err(trouble(e, "create folder", folder)),
        }
        sync_folder(parent(folder)?)?;
    }
    Ok(missing)
}

fn sync_folder(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|f| f.sync_all());
    match synced {
        // Some network file systems cannot sync a folder; there is nothing more to be done there.
        Err(e) if e.kind() == ErrorKind::InvalidInput || e.kind() == ErrorKind::Unsupported => Ok(()),
        other => other.map_err(|e| trouble(e, "sync folder", folder)),
    }
}

fn parent(path: &Path) -> Result<&Path> {
    path.parent().ok_or_else(|| Error::new(Kind::Config, "the root of the file system cannot be a destination"))
}

/// An advisory lock on a file, held until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self> {
        make_folder(parent(path)?)?;
        loop {
            let file =
                File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(|e| trouble(e, "open", path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(Error::new(Kind::Conflict, format!("another run is writing: it holds {}", path.display()))
                        .hint("wait for that run to end; the lock goes with its process"));
                }
                Err(e) => return Err(trouble(e.into(), "lock", path)),
            }
            // The file may have been removed with its table between open and lock: a lock on a
            // file that has no name keeps nobody out.
            let named = fs::metadata(path)
                .is_ok_and(|there| file.metadata().is_ok_and(|mine| (there.dev(), there.ino()) == (mine.dev(), mine.ino())));
            if named {
                return Ok(Self { _file: file });
            }
        }
    }
}

/// Writes and removes a file in `root`, and the folders that it took.
pub(super) fn check(root: &Path) -> Result<()> {
    let made = make_folder(root)?;
    let probe = root.join(format!(".lakeward-check-{}", uuid::Uuid::new_v4().simple()));
    let result = replace(&probe, b"this file may be removed").and_then(|()| remove(&probe));
    for folder in made.iter().rev() {
        let _ = fs::remove_dir(folder);
    }
    result
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// A disk's error in terms of what to do.
pub(super) fn trouble(error: io::Error, verb: &str, path: &Path) -> Error {
    let (message, hint) = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::FileTooLarge => {
            ("the disk is full", "free space there or choose another `local_path`, then run again")
        }
        ErrorKind::QuotaExceeded => ("the disk quota is used up", "raise the quota or choose another `local_path`, then run again"),
        ErrorKind::PermissionDenied => ("permission denied", "let this user write there, or choose another `local_path`"),
        ErrorKind::ReadOnlyFilesystem => ("the file system is read-only", "remount it for writing, or choose another `local_path`"),
        ErrorKind::NotADirectory => ("a part of the path is a file, not a folder", "choose another `local_path` or move that file away"),
        ErrorKind::AlreadyExists => ("something is there already", "move it away, then run again"),
        ErrorKind::InvalidFilename => ("the name is too long for this file system", "choose a shorter destination table or database name"),
        _ => ("the disk refused", ""),
    };
    let built = Error::new(Kind::Storage, message).because(error).doing(format!("{verb} {}", path.display()));
    if hint.is_empty() { built } else { built.hint(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_replacing_a_folder_do_it() {
        let with = |replace: fn(&Path, &Path, &Path, &Fuse) -> Result<()>| {
            let folder = tempfile::tempdir().expect("a folder");
            let [new, table, aside] = ["p/new", "table", "p/aside"].map(|name| folder.path().join(name));
            super::replace(&new.join("x"), b"new").expect("write");
            super::replace(&table.join("x"), b"old").expect("write");
            replace(&new, &table, &aside, &Fuse::default()).expect("replace");
            assert_eq!(read(&table.join("x")).expect("read").expect("there"), "new");
            let old = [&new, &aside].into_iter().filter_map(|f| read(&f.join("x")).expect("read")).collect::<Vec<_>>();
            assert_eq!(old, ["old"]);
        };
        with(exchange);
        with(rename_around);
    }

    #[test]
    fn what_a_dead_process_was_writing_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        replace(&folder.path().join("a/whole"), b"x").expect("write");
        let dead = folder.path().join("a").join(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
        fs::write(&dead, b"half").expect("write");
        let mut alive = TempFile::create(&folder.path().join("a/alive")).expect("create");
        alive.write(b"more").expect("write");
        remove_abandoned(folder.path()).expect("remove");
        assert!(!dead.exists() && folder.path().join("a/whole").exists());
        alive.replace().expect("its name");
        assert_eq!(read(&folder.path().join("a/alive")).expect("read").expect("there"), "more");
    }

    #[test]
    fn a_new_folder_takes_a_free_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let [new, table, aside] = ["new", "d/table", "aside"].map(|name| folder.path().join(name));
        replace(&new.join("x"), b"new").expect("write");
        exchange(&new, &table, &aside, &Fuse::default()).expect("replace");
        assert_eq!(read(&table.join("x")).expect("read").expect("there"), "new");
        assert!(!new.exists() && !aside.exists());
    }
}
