//! Tests of the parser against what servers of the majors 12 to 18 sent for one workload, and against every damage to that.
//!
//! The workload is in `tests/pgoutput/record.py`, which wrote the recordings beside it: files of messages, each behind its length.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Where the recordings are, by major.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pgoutput");

/// One recording.
struct Recording {
    major: u32,
    name: String,
    messages: Vec<Vec<u8>>,
}

impl Recording {
    fn read(major: u32, name: &str) -> Self {
        let bytes = fs::read(Path::new(CORPUS).join(major.to_string()).join(name)).unwrap();
        let (mut rest, mut messages) = (bytes.as_slice(), Vec::new());
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (message, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            messages.push(message.to_vec());
            rest = after;
        }
        assert!(rest.is_empty());
        Self { major, name: name.to_owned(), messages }
    }

    /// All that are in UTF-8.
    fn all() -> Vec<Self> {
        let richest = |major| match major {
            ..=13 => None,
            14 => Some("v2-streaming-binary"),
            15 => Some("v3-two-phase-text"),
            _ => Some("v4-parallel-binary"),
        };
        let names = (12..=18).flat_map(|major| [Some("v1-text"), richest(major)].into_iter().flatten().map(move |name| (major, name)));
        names.map(|(major, name)| Self::read(major, name)).collect()
    }

    fn parallel(&self) -> bool {
        self.name.contains("parallel")
    }

    /// The parsed messages, each with the parser as it was before.
    fn parsed(&self) -> Vec<(Parser, &[u8], Message<'_>)> {
        let mut parser = Parser::new(self.parallel());
        let one = |payload| {
            let before = parser.clone();
            let message = parser.parse(payload).unwrap_or_else(|e| panic!("{} {}: {e}", self.major, self.name));
            (before, payload, message)
        };
        self.messages.iter().map(Vec::as_slice).map(one).collect()
    }

    /// What happened, one line each. What differs from run to run is left out: relations and types, which are repeated when the
    /// server's caches happen to be emptied, and into how many parts a stream is cut.
    fn trace(&self) -> Vec<String> {
        let mut trace = Trace::default();
        let messages = self.parsed();
        messages.iter().filter_map(|(_, _, message)| trace.line(message)).collect()
    }
}

/// What a reader of the trace knows.
#[derive(Default)]
struct Trace {
    relations: HashMap<u32, Relation>,
    /// The transaction of the open stream.
    stream: Option<u32>,
}

impl Trace {
    fn line(&mut self, message: &Message<'_>) -> Option<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some(match message {
            Message::Relation { relation, .. } => {
                self.relations.insert(relation.oid, relation.clone());
                return None;
            }
            Message::Type { .. } => return None,
            Message::Begin { .. } => "begin".to_owned(),
            Message::Commit { .. } => "commit".to_owned(),
            Message::Origin { lsn, name } => format!("origin {lsn} {}", text(name)),
            Message::Logical { xid, transactional, prefix, content, .. } => {
                let place = if *transactional { "inside" } else { "outside" };
                format!("message{} {place} {} {}", self.part(*xid), text(prefix), text(content))
            }
            Message::Insert { xid, relation, new } => format!("insert{} {}", self.part(*xid), self.row(*relation, *new)),
            Message::Update { xid, relation, old, new } => {
                let old = old.map(|old| format!(" was {}", self.old(*relation, old))).unwrap_or_default();
                format!("update{} {}{old}", self.part(*xid), self.row(*relation, *new))
            }
            Message::Delete { xid, relation, old } => format!("delete{} {}", self.part(*xid), self.old(*relation, *old)),
            Message::Truncate { xid, cascade, restart_identity, relations } => {
                let mut line = format!("truncate{}", self.part(*xid));
                relations.iter().for_each(|oid| write!(line, " {}", self.relations[&oid].name).unwrap());
                line + if *cascade { " cascade" } else { "" } + if *restart_identity { " restart" } else { "" }
            }
            Message::StreamStart { xid, first } => {
                assert_eq!(self.stream.replace(*xid), None);
                return first.then(|| "stream".to_owned());
            }
            Message::StreamStop => {
                self.stream = None;
                return None;
            }
            Message::StreamCommit { .. } => "stream commit".to_owned(),
            Message::StreamAbort { xid, subxid, .. } => if xid == subxid { "stream abort" } else { "stream abort part" }.to_owned(),
            Message::BeginPrepare(p) => format!("begin prepare {}", text(p.gid)),
            Message::Prepare(p) => format!("prepare {}", text(p.gid)),
            Message::StreamPrepare(p) => format!("stream prepare {}", text(p.gid)),
            Message::CommitPrepared(p) => format!("commit prepared {}", text(p.gid)),
            Message::RollbackPrepared { gid, .. } => format!("rollback prepared {}", text(gid)),
        })
    }

    /// Whether a change belongs to a subtransaction.
    fn part(&self, xid: Option<u32>) -> &'static str {
        assert_eq!(xid.is_some(), self.stream.is_some());
        if xid == self.stream { "" } else { " part" }
    }

    fn old(&self, relation: u32, old: Old<'_>) -> String {
        match old {
            Old::Key(tuple) => format!("key {}", self.row(relation, tuple)),
            Old::Full(tuple) => format!("full {}", self.row(relation, tuple)),
        }
    }

    fn row(&self, relation: u32, tuple: Tuple<'_>) -> String {
        let relation = &self.relations[&relation];
        assert_eq!(relation.columns.len(), tuple.columns());
        assert_eq!(tuple.cells().len(), tuple.columns());
        let mut out = relation.name.clone();
        for (cell, column) in tuple.cells().zip(&relation.columns) {
            match cell {
                Cell::Null => out += " -",
                Cell::Unchanged => out += " unchanged",
                Cell::Text(value) | Cell::Binary(value) if value.len() > 100 => write!(out, " {} bytes", value.len()).unwrap(),
                Cell::Binary(value) if column.type_oid == 23 => {
                    write!(out, " {}", i32::from_be_bytes(value.try_into().unwrap())).unwrap();
                }
                Cell::Text(value) if column.type_oid == 23 => write!(out, " {}", String::from_utf8_lossy(value)).unwrap(),
                Cell::Text(value) => write!(out, " '{}'", String::from_utf8_lossy(value)).unwrap(),
                Cell::Binary(value) if column.type_oid == 25 => write!(out, " '{}'", String::from_utf8_lossy(value)).unwrap(),
                Cell::Binary(value) => {
                    out += " 0x";
                    value.iter().for_each(|b| write!(out, "{b:02x}").unwrap());
                }
            }
        }
        out
    }
}

/// The lines of `trace.txt` that are for this recording. In front of a line there can be the majors that send it, or words of which
/// the recording's name has one: `[14-18] begin`, `[v1 v2] begin`.
fn expected(recording: &Recording) -> Vec<String> {
    let line = |line: &str| {
        let Some((label, rest)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) else { return Some(line.to_owned()) };
        let is_for = match label.split_once('-') {
            Some((low, high)) => (low.parse().unwrap()..=high.parse().unwrap()).contains(&recording.major),
            None => label.split(' ').any(|word| recording.name.contains(word)),
        };
        is_for.then(|| rest.to_owned())
    };
    fs::read_to_string(Path::new(CORPUS).join("trace.txt")).unwrap().lines().filter_map(line).collect()
}

#[test]
fn every_server_tells_what_the_workload_did() {
    for recording in Recording::all() {
        assert_eq!(recording.trace(), expected(&recording), "{} {}", recording.major, recording.name);
    }
}

#[test]
fn relations_and_types_are_what_was_created() {
    for recording in Recording::all() {
        let (mut relations, mut types) = (HashMap::new(), HashMap::new());
        for (_, _, message) in recording.parsed() {
            match message {
                Message::Relation { relation, .. } => {
                    relations.entry(relation.name.clone()).or_insert(relation);
                }
                Message::Type { oid, namespace, name, .. } => {
                    types.insert(oid, format!("{}.{}", namespace.escape_ascii(), name.escape_ascii()));
                }
                _ => {}
            }
        }
        let plain = &relations["plain"];
        assert_eq!((plain.namespace.as_str(), plain.replica_identity), ("public", ReplicaIdentity::Default));
        let column = |name: &str, key, type_oid, typmod| RelationColumn { name: name.to_owned(), key, type_oid, typmod };
        let [mood, score, pair] = [2, 3, 4].map(|at| plain.columns[at].type_oid);
        let columns = [
            column("id", true, 23, -1),
            column("v", false, 25, -1),
            column("m", false, mood, -1),
            column("s", false, score, -1),
            column("p", false, pair, -1),
            column("n", false, 1700, (12 << 16 | 2) + 4),
            column("at", false, 1184, -1),
            column("raw", false, 17, -1),
        ];
        assert_eq!(plain.columns, columns);
        assert_eq!([mood, score, pair].map(|oid| types[&oid].as_str()), ["public.mood", "pg_catalog.int4", "public.pair"]);

        let keys = |name: &str| relations[name].columns.iter().map(|column| column.key).collect::<Vec<_>>();
        for (name, replica_identity, key) in [
            ("full_ri", ReplicaIdentity::Full, vec![true; 3]),
            ("index_ri", ReplicaIdentity::Index, vec![true, false, false]),
            ("nothing_ri", ReplicaIdentity::Nothing, vec![false; 2]),
            ("no_columns", ReplicaIdentity::Default, vec![]),
        ] {
            assert_eq!((relations[name].replica_identity, keys(name)), (replica_identity, key), "{name}");
        }
        assert_eq!(relations["na\u{ef}ve \"t\""].namespace, "Gr\u{f6}\u{df}e");
        assert_eq!(relations["na\u{ef}ve \"t\""].columns[1].name, "sp ace");
        assert_eq!(relations["in_catalog"].namespace, "pg_catalog");
    }
}

#[test]
fn positions_and_times_agree() {
    for recording in Recording::all() {
        let (mut begun, mut prepared, mut last) = (None, HashMap::new(), Lsn(0));
        let mut ends = |start: Lsn, end: Lsn| {
            assert!(last <= start && start < end, "{last} {start} {end}");
            last = end;
        };
        for (_, _, message) in recording.parsed() {
            match message {
                Message::Begin { lsn, time, .. } => begun = Some((lsn, time)),
                Message::Commit { lsn, end_lsn, time } => {
                    assert_eq!(begun.take(), Some((lsn, time)));
                    ends(lsn, end_lsn);
                    // 2024 to 2100: the time of a transaction from elsewhere is that of its commit there.
                    assert!((1_704_067_200_000_000..4_102_444_800_000_000).contains(&time.unix_micros()));
                }
                Message::BeginPrepare(p) => {
                    prepared.insert(p.gid.to_owned(), p);
                }
                Message::Prepare(p) => {
                    assert_eq!(prepared[p.gid], p);
                    ends(p.lsn, p.end_lsn);
                }
                Message::StreamPrepare(p) => {
                    prepared.insert(p.gid.to_owned(), p);
                    ends(p.lsn, p.end_lsn);
                }
                Message::StreamCommit { lsn, end_lsn, .. } => ends(lsn, end_lsn),
                Message::CommitPrepared(p) => {
                    assert_eq!(prepared[p.gid].xid, p.xid);
                    ends(p.lsn, p.end_lsn);
                }
                Message::RollbackPrepared { prepare_end_lsn, end_lsn, prepare_time, time, xid, gid } => {
                    let p = &prepared[gid];
                    assert_eq!((p.end_lsn, p.time, p.xid), (prepare_end_lsn, prepare_time, xid));
                    assert!(prepare_end_lsn < end_lsn && prepare_time <= time);
                }
                Message::StreamAbort { at, .. } => assert_eq!(at.is_some(), recording.parallel()),
                _ => {}
            }
        }
    }
}

#[test]
fn names_in_other_encodings() {
    let latin = Recording::read(15, "v1-latin1");
    assert_eq!(latin.trace(), ["begin", "insert t\u{e9} 1 '\u{e9}'", "commit"]);

    let ascii = Recording::read(15, "v1-sql_ascii");
    let mut parser = Parser::new(false);
    let results: Vec<_> = ascii.messages.iter().map(|payload| parser.parse(payload)).collect();
    assert_eq!(results.len(), 4);
    let error = results[1].as_ref().unwrap_err();
    assert_eq!(error.to_string(), r#"read the pgoutput message Relation (R): the name "t\xe9" is not UTF-8"#);
    assert!(error.advice().unwrap().contains("SQL_ASCII"));
    let Message::Insert { new, .. } = results[2].as_ref().unwrap() else { panic!("{:?}", results[2]) };
    assert_eq!(new.cells().collect::<Vec<_>>(), [Cell::Text(b"1"), Cell::Text(b"\xe9")]);
}

#[path = "pgoutput_damage_tests.rs"]
mod damage;
