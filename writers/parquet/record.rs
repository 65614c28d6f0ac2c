//! The two small files that carry the truth about a table: the record of a commit and the manifest.
//!
//! Both are versioned JSON. What is read back is doubted: a version that is not known, a field that
//! is missing, a path that leaves its folder make a [`Kind::Corrupt`] error that names the file.
//! Does no I/O.

use super::stage::StagedFile;
use crate::storage::parse;
use crate::{Commit, Error, Kind, Result, Token};
use arrow::datatypes::Schema;
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Version of both files. Raise it when an older program would misread a new file.
const VERSION: u32 = 1;

/// A decided commit: `commits/<seq>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub version: u32,
    /// Number of the commit, from 1, without gaps.
    pub seq: u64,
    /// The run that decided it: tells it from another commit with the same number.
    pub id: String,
    pub token: Token,
    pub how: Commit,
    /// When it was decided, RFC 3339.
    pub time: String,
    /// [`fingerprint`] of the columns of its files.
    pub schema: String,
    /// Its columns: name and Arrow type. Records of versions before 0.2 have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// What becomes visible.
    pub files: Vec<StagedFile>,
    /// What a replacement removes from an object store, below the table's folder. Listed when the
    /// commit is decided, so that completing it late never removes files of a later commit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// What is visible: `table.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub version: u32,
    /// Number of the last completed commit.
    pub seq: u64,
    pub token: Token,
    pub time: String,
    pub schema: String,
    /// The columns of all files: name and Arrow type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// The files that make up the table, by path.
    pub files: Vec<File>,
}

/// A visible file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct File {
    /// Path below the table's folder.
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
}

impl Record {
    /// A commit without files, to be decided now.
    pub(super) fn new(seq: u64, token: Token, how: Commit, schema: &Schema) -> Self {
        let time = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let (id, files, remove) = (String::new(), Vec::new(), Vec::new());
        Self { version: VERSION, seq, id, token, how, time, schema: fingerprint(schema), columns: columns(schema), files, remove }
    }

    /// The table after this commit.
    pub(super) fn manifest(&self, before: Option<&Manifest>) -> Manifest {
        let before = before.filter(|_| self.how == Commit::Append);
        let added = self.files.iter().map(|f| File { path: f.target.clone(), rows: f.rows, bytes: f.bytes });
        let kept = before.map(|m| m.files.clone()).unwrap_or_default();
        let mut columns = before.map(|m| m.columns.clone()).unwrap_or_default();
        columns.extend(self.columns.clone());
        let mut files: Vec<File> = kept.into_iter().chain(added).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let Self { seq, token, time, schema, .. } = self.clone();
        Manifest { version: VERSION, seq, token, time, schema, columns, files }
    }

    /// Reads a record back. `shown` is the file's name for people.
    pub(super) fn read(data: &[u8], seq: u64, staging: &str, shown: &str) -> Result<Self> {
        let record: Self = read(data, shown)?;
        if record.seq != seq {
            return Err(corrupt(shown, format!("it says that it is commit {}", record.seq)));
        }
        for file in &record.files {
            relative(&file.target, shown)?;
            relative(&file.staged, shown)?;
            if !file.staged.strip_prefix(staging).is_some_and(|rest| rest.starts_with('/')) {
                return Err(corrupt(shown, format!("it publishes `{}`, which was never staged for this table", file.staged)));
            }
        }
        record.remove.iter().try_for_each(|path| relative(path, shown))?;
        Ok(record)
    }

    pub(super) fn to_bytes(&self) -> Result<Bytes> {
        to_bytes(self)
    }
}

impl Manifest {
    /// Reads a manifest back.
    pub(super) fn read(data: &[u8], shown: &str) -> Result<Self> {
        let manifest: Self = read(data, shown)?;
        manifest.files.iter().try_for_each(|file| relative(&file.path, shown))?;
        Ok(manifest)
    }

    pub(super) fn to_bytes(&self) -> Result<Bytes> {
        to_bytes(self)
    }
}

/// What is made of a record's bytes; what is written again is read again.
#[cfg(feature = "faults")]
pub(crate) fn parse_record(bytes: &[u8]) -> Result<()> {
    let seq = serde_json::from_slice::<serde_json::Value>(bytes).ok().and_then(|value| value["seq"].as_u64()).unwrap_or(1);
    let staging = "_lakeward/shop/orders/staging";
    let record = Record::read(bytes, seq, staging, "a record")?;
    assert_eq!(Record::read(&record.to_bytes()?, seq, staging, "a record again")?, record);
    parse_manifest(&record.manifest(None).to_bytes()?)
}

/// What is made of a manifest's bytes; what is written again is read again.
#[cfg(feature = "faults")]
pub(crate) fn parse_manifest(bytes: &[u8]) -> Result<()> {
    let manifest = Manifest::read(bytes, "a manifest")?;
    assert_eq!(Manifest::read(&manifest.to_bytes()?, "a manifest again")?, manifest);
    Ok(())
}

/// The version is looked at before anything else: a newer file may have any shape.
fn read<T: DeserializeOwned>(data: &[u8], shown: &str) -> Result<T> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let broken = |e: serde_json::Error| corrupt(shown, format!("it is not what this program writes ({e})"));
    let Versioned { version } = serde_json::from_slice(data).map_err(broken)?;
    if version != VERSION {
        return Err(Error::new(Kind::Corrupt, format!("{shown} has version {version}, this program reads version {VERSION}"))
            .hint("use the version of the program that wrote it; nothing was changed"));
    }
    serde_json::from_slice(data).map_err(broken)
}

fn to_bytes(value: &impl Serialize) -> Result<Bytes> {
    let mut data = serde_json::to_vec_pretty(value).map_err(|e| Error::new(Kind::Bug, "encode a record").because(e))?;
    data.push(b'\n');
    Ok(data.into())
}

fn relative(path: &str, shown: &str) -> Result<()> {
    match parse(path) {
        // `parse` also trims slashes; a path that it changes is not one that was written here.
        Ok(parsed) if !path.is_empty() && parsed.as_ref() == path => Ok(()),
        _ => Err(corrupt(shown, format!("it names `{path}`, which is not a path below its folder"))),
    }
}

/// A damaged file, with the two ways out.
pub(super) fn corrupt(shown: &str, found: impl std::fmt::Display) -> Error {
    Error::new(Kind::Corrupt, format!("{shown} is damaged: {found}"))
        .hint("restore the file from a backup, or clear the table (clear-destination) and sync it again; nothing was changed")
}

/// Name and Arrow type of each column.
fn columns(schema: &Schema) -> BTreeMap<String, String> {
    schema.fields().iter().map(|field| (field.name().clone(), field.data_type().to_string())).collect()
}

impl Manifest {
    /// Refuses a schema whose files could not be read together with those that are there. A column more or less is fine: readers
    /// take it for NULL where it is missing.
    pub(super) fn check_append(&self, schema: &Schema, label: &str) -> Result<()> {
        let clash = columns(schema)
            .into_iter()
            .find_map(|(name, wanted)| Some((self.columns.get(&name).filter(|found| **found != wanted)?, name, wanted)));
        let Some((found, name, wanted)) = clash else { return Ok(()) };
        Err(Error::new(
            Kind::Schema,
            format!("column {name:?} of {label} has the type {found} in the files that are there, and would be added as {wanted}"),
        )
        .hint("give the column its former type (`column_types` of the stream), or clear the table (clear-destination) and sync it anew"))
    }
}

/// Columns with equal names, types, order and nullability have equal fingerprints. For people who
/// compare commits; nothing is decided by it. FNV-1a, 64 bits.
pub(super) fn fingerprint(schema: &Schema) -> String {
    let mut text = String::new();
    for field in schema.fields() {
        // Lengths keep a name that contains the separators from imitating two columns.
        writeln!(text, "{} {} {} {}", field.name().len(), field.name(), field.data_type(), field.is_nullable())
            .expect("a String takes everything");
    }
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field};

    fn record() -> Record {
        let file = StagedFile { staged: "_lakeward/d/t/staging/g/a.staged".into(), target: "p=1/a.parquet".into(), rows: 2, bytes: 3 };
        let record = Record::new(7, Token("t".into()), Commit::Append, &Schema::empty());
        Record { id: "run".into(), files: vec![file], remove: vec!["old.parquet".into()], ..record }
    }

    fn reread(change: impl FnOnce(&mut serde_json::Value)) -> Result<Record> {
        let mut json = serde_json::to_value(record()).expect("json");
        change(&mut json);
        Record::read(json.to_string().as_bytes(), 7, "_lakeward/d/t/staging", "7.json")
    }

    #[test]
    fn a_record_reads_back() {
        let record = record();
        assert_eq!(Record::read(&record.to_bytes().expect("bytes"), 7, "_lakeward/d/t/staging", "x").expect("read"), record);
    }

    #[test]
    fn damage_is_told_and_names_the_file() {
        let check = |change: fn(&mut serde_json::Value), part: &str| {
            let error = reread(change).expect_err("damaged");
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.to_string().contains("7.json") && error.to_string().contains(part), "{error}");
            assert!(error.advice().is_some());
        };
        check(|j| j["version"] = 2.into(), "version 2");
        check(|j| j["seq"] = 8.into(), "commit 8");
        check(|j| drop(j.as_object_mut().map(|o| o.remove("token"))), "token");
        check(|j| j["files"][0]["target"] = "../../etc/passwd".into(), "not a path below");
        check(|j| j["files"][0]["target"] = "/etc/passwd".into(), "not a path below");
        check(|j| j["files"][0]["staged"] = "shop/orders/a.parquet".into(), "never staged");
        check(|j| j["remove"][0] = "".into(), "not a path below");
        let truncated = &record().to_bytes().expect("bytes")[..40];
        assert_eq!(Record::read(truncated, 7, "s", "7.json").expect_err("truncated").kind(), Kind::Corrupt);
    }

    #[test]
    fn append_adds_to_the_manifest_and_replace_starts_anew() {
        let first = record().manifest(None);
        let second = Record { seq: 8, files: vec![StagedFile { target: "b.parquet".into(), ..record().files[0].clone() }], ..record() };
        let paths = |m: Manifest| m.files.into_iter().map(|f| f.path).collect::<Vec<_>>();
        assert_eq!(paths(second.manifest(Some(&first))), ["b.parquet", "p=1/a.parquet"]);
        assert_eq!(paths(Record { how: Commit::Replace, ..second }.manifest(Some(&first))), ["b.parquet"]);
    }

    #[test]
    fn fingerprints_tell_schemas_apart() {
        let of = |fields: &[(&str, DataType, bool)]| {
            fingerprint(&Schema::new(fields.iter().map(|(n, t, null)| Field::new(*n, t.clone(), *null)).collect::<Vec<_>>()))
        };
        let base = of(&[("a", DataType::Int64, true)]);
        assert_ne!(base, of(&[("a", DataType::Int32, true)]));
        assert_ne!(base, of(&[("a", DataType::Int64, false)]));
        assert_ne!(base, of(&[("b", DataType::Int64, true)]));
        assert_eq!(of(&[]), "cbf29ce484222325");
    }
}
