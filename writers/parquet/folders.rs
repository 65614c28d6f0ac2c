//! Where a table's files are, below the root of the store. Does no I/O.
//!
//! ```text
//! <database>/<table>/…                     what readers see, and nothing else
//! _lakeward/<database>/<table>/lock        held by the run that writes (local disks)
//! _lakeward/<database>/<table>/table.json  the manifest
//! _lakeward/<database>/<table>/commits/    records: <seq, 20 digits>.json
//! _lakeward/<database>/<table>/staging/    staged files: ….staged
//! _lakeward/<database>/<table>/next-<seq>  the new folder of a replacement (local disks)
//! _lakeward/<database>/<table>/old-<seq>   the old one, where folders cannot be exchanged
//! ```

use crate::naming;
use crate::storage::{Entry, PRIVATE, parse};
use crate::{Error, Kind, Result};
use object_store::path::Path;

/// Longest folder name: file systems allow 255 bytes.
const SEGMENT_BYTES_MAX: usize = 255;

/// Names of strange files that an error repeats.
const NAMED_MAX: usize = 3;

/// The folders of one table.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    /// What readers see.
    pub table: Path,
    /// Everything else.
    pub private: Path,
}

/// What a file in `commits/` is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommitFile {
    /// The record of this commit.
    Record(u64),
    /// Somebody's intent to decide this commit.
    Intent(u64),
    /// Not ours.
    Other,
}

impl Folders {
    /// The folders of a table. Different tables never share one.
    pub(super) fn of(database: &str, table: &str) -> Result<Self> {
        let below = format!("{}/{}", segment(database)?, segment(table)?);
        Ok(Self { table: parse(&below)?, private: parse(&format!("{PRIVATE}/{below}"))? })
    }

    fn private(&self, name: &str) -> Result<Path> {
        parse(&format!("{}/{name}", self.private))
    }

    pub(super) fn lock(&self) -> Result<Path> {
        self.private("lock")
    }

    pub(super) fn manifest(&self) -> Result<Path> {
        self.private("table.json")
    }

    pub(super) fn staging(&self) -> Result<Path> {
        self.private("staging")
    }

    pub(super) fn commits(&self) -> Result<Path> {
        self.private("commits")
    }

    pub(super) fn record(&self, seq: u64) -> Result<Path> {
        self.private(&format!("commits/{seq:020}.json"))
    }

    pub(super) fn intent(&self, seq: u64, id: &str) -> Result<Path> {
        self.private(&format!("commits/{seq:020}.{id}.intent"))
    }

    pub(super) fn next(&self, seq: u64) -> Result<Path> {
        self.private(&format!("next-{seq:020}"))
    }

    pub(super) fn old(&self, seq: u64) -> Result<Path> {
        self.private(&format!("old-{seq:020}"))
    }

    /// A path below the table's folder as a path below the root.
    pub(super) fn target(&self, relative: &str) -> Result<Path> {
        parse(&format!("{}/{relative}", self.table))
    }
}

/// A path below `folder` relative to it.
pub(super) fn relative<'a>(path: &'a str, folder: &Path) -> Option<&'a str> {
    path.strip_prefix(folder.as_ref())?.strip_prefix('/')
}

/// What a path below `commits/` is.
pub(super) fn commit_file(name: &str) -> CommitFile {
    let seq = |digits: &str| (digits.len() == 20).then(|| digits.parse().ok()).flatten();
    match name.split('.').collect::<Vec<_>>()[..] {
        [digits, "json"] => seq(digits).map_or(CommitFile::Other, CommitFile::Record),
        [digits, _, "intent"] => seq(digits).map_or(CommitFile::Other, CommitFile::Intent),
        _ => CommitFile::Other,
    }
}

/// A name as a folder name; different names give different folders.
pub(crate) fn segment(name: &str) -> Result<String> {
    // A bare `%` and a leading `%5F` cannot come from escaping another name.
    let escaped = match name {
        "" => "%".to_owned(),
        PRIVATE => format!("%5F{}", &PRIVATE[1..]),
        name => {
            // A hidden folder would not be seen by `*`; and this takes care of `.` and `..`.
            let mut out = String::new();
            let rest = name.strip_prefix('.').inspect(|_| out.push_str("%2E")).unwrap_or(name);
            naming::escape(rest, &mut out);
            out
        }
    };
    if escaped.len() > SEGMENT_BYTES_MAX {
        return Err(Error::new(
            Kind::Config,
            format!("`{name}` is too long for the name of a folder: {} bytes, {SEGMENT_BYTES_MAX} are possible", escaped.len()),
        )
        .hint("give the stream a shorter destination database or table name"));
    }
    Ok(escaped)
}

/// Refuses a table folder that holds what no writer of Parquet leaves there: it is somebody's, and
/// a replacement would remove it.
pub(super) fn refuse_foreign(files: &[Entry], table: &Path, shown: &str) -> Result<()> {
    let foreign: Vec<_> = files.iter().filter_map(|f| relative(&f.path, table)).filter(|f| !may_be_ours(f)).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let named = foreign.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    let more = if foreign.len() > NAMED_MAX { format!(" and {} more", foreign.len() - NAMED_MAX) } else { String::new() };
    Err(Error::new(Kind::Config, format!("the table's folder {shown} holds files that are not Parquet data: {named}{more}"))
        .hint("move them away, or choose another destination folder, database or table name; nothing was written"))
}

fn may_be_ours(relative: &str) -> bool {
    let name = relative.rsplit('/').next().unwrap_or(relative);
    let hidden = relative.split('/').any(|part| part.starts_with('.'));
    hidden || name.ends_with(".parquet") || name.ends_with(".crc") || name == "_SUCCESS"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_folders_of_their_own() {
        let check = |name: &str, expected: &str| assert_eq!(segment(name).expect("a folder"), expected, "{name:?}");
        check("orders", "orders");
        check("", "%");
        check(".", "%2E");
        check("..", "%2E.");
        check(".hidden", "%2Ehidden");
        check("%2E", "%252E");
        check("%", "%25");
        check("a/b", "a%2Fb");
        check("_lakeward", "%5Flakeward");
        check("%5Flakeward", "%255Flakeward");
        check("Größe", "Größe");
        check("a..b", "a..b");
        assert_eq!(segment(&"x".repeat(256)).expect_err("too long").kind(), Kind::Config);
    }

    #[test]
    fn paths_are_those_of_the_documentation() {
        let folders = Folders::of("shop", "a/b").expect("folders");
        assert_eq!(folders.table.as_ref(), "shop/a%2Fb");
        assert_eq!(folders.record(7).expect("path").as_ref(), "_lakeward/shop/a%2Fb/commits/00000000000000000007.json");
        let intent = folders.intent(7, "abc").expect("path");
        assert_eq!(commit_file(relative(intent.as_ref(), &folders.commits().expect("path")).expect("below")), CommitFile::Intent(7));
        assert_eq!(commit_file("00000000000000000007.json"), CommitFile::Record(7));
        assert_eq!(commit_file("7.json"), CommitFile::Other);
        assert_eq!(commit_file("99999999999999999999.json"), CommitFile::Other);
    }

    #[test]
    fn somebody_elses_files_are_named() {
        let files =
            |names: &[&str]| -> Vec<Entry> { names.iter().map(|n| Entry { path: format!("d/t/{n}"), bytes: 1, modified_ms: 0 }).collect() };
        let table = parse("d/t").expect("path");
        let fine = files(&["a.parquet", "p=1/b.parquet", "_SUCCESS", "p=1/.b.parquet.crc", "x.crc", ".DS_Store", ".git/config"]);
        refuse_foreign(&fine, &table, "/d/t").expect("nothing strange");
        let error =
            refuse_foreign(&files(&["a.parquet", "b.csv", "c.doc", "_delta_log/0.json", "z.txt"]), &table, "/x/d/t").expect_err("strange");
        assert_eq!(
            error.to_string(),
            "the table's folder /x/d/t holds files that are not Parquet data: b.csv, c.doc, _delta_log/0.json and 1 more"
        );
    }
}
