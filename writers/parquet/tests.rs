//! The promises on a local disk, on S3 and on stores that cannot be trusted; and what a ledger does
//! with damaged files.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::conformance::{Subject, all, ids, spec};
use crate::storage::parse;
use crate::storage::tests::{Fault, Faulty, S3Server};
use bytes::Bytes;
use futures::stream;
use std::path::{Path, PathBuf};

fn parquet(storage: &Storage) -> Parquet {
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap());
    let resources = Resources { pool, row_group_bytes: 1 << 20, now: Utc::now() };
    Parquet::at(storage.clone(), storage.clone(), EncodeOptions::default(), resources)
}

/// Every file below `folder`, by path relative to it, with folders that are empty.
fn walk(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        let Ok(items) = std::fs::read_dir(&at) else { continue };
        for item in items {
            let path = item.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push((path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned(), path));
            }
        }
    }
    found.sort();
    found
}

fn read_ids(data: Bytes) -> Vec<i64> {
    let reader = ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(data).unwrap().build().unwrap();
    ids(&reader.map(|batch| batch.unwrap()).collect::<Vec<_>>())
}

/// The rows of all Parquet files of a folder, as a glob would find them.
fn visible(files: impl Iterator<Item = (String, Bytes)>) -> Option<Vec<i64>> {
    let mut found: Option<Vec<i64>> = None;
    for (_, data) in files.filter(|(path, _)| path.ends_with(".parquet")) {
        found.get_or_insert_default().extend(read_ids(data));
    }
    if let Some(ids) = &mut found {
        ids.sort_unstable();
    }
    found
}

fn bookkeeping(path: &str) -> bool {
    path == "lock" || path == "table.json" || (path.starts_with("commits/") && path.ends_with(".json"))
}

/// A subject whose files lie below `root` on this disk, whoever put them there.
fn on_disk(storage: &Storage, root: PathBuf, replaces_in_one_step: bool) -> Subject<Parquet> {
    let (healthy, dying, left) = (storage.clone(), storage.clone(), root.clone());
    Subject {
        fresh: Box::new(move || Box::pin(std::future::ready(parquet(&healthy)))),
        dying: Some(Box::new(move |writes| Box::pin(std::future::ready(parquet(&dying.failing_after(writes)))))),
        rows: Box::new(move |spec| {
            let folder = root.join(Folders::of(&spec.database, &spec.name).unwrap().table.as_ref());
            let files = walk(&folder).into_iter().map(|(name, path)| (name, std::fs::read(path).unwrap().into()));
            Box::pin(std::future::ready(visible(files)))
        }),
        leftovers: Box::new(move |spec| {
            let folders = Folders::of(&spec.database, &spec.name).unwrap();
            let private = walk(&left.join(folders.private.as_ref())).into_iter().map(|f| f.0).filter(|f| !bookkeeping(f));
            let strange = walk(&left.join(folders.table.as_ref())).into_iter().map(|f| f.0).filter(|f| !f.ends_with(".parquet"));
            let top = std::fs::read_dir(left.join("_lakeward"))
                .into_iter()
                .flatten()
                .map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
            Box::pin(std::future::ready(private.chain(strange).chain(top.filter(|name| name != "conformance")).collect()))
        }),
        replaces_in_one_step,
        decides_in_one_step: false,
    }
}

/// A subject that is looked at through its storage.
fn in_store(storage: &Storage) -> Subject<Parquet> {
    let (rows, left) = (storage.clone(), storage.clone());
    let subject = on_disk(storage, PathBuf::new(), false);
    Subject {
        rows: Box::new(move |spec| {
            let storage = rows.clone();
            Box::pin(async move {
                let mut files = Vec::new();
                for entry in storage.list(&Folders::of(&spec.database, &spec.name).unwrap().table).await.unwrap() {
                    let data = storage.get(&parse(&entry.path).unwrap()).await.unwrap().unwrap();
                    files.push((entry.path, data));
                }
                visible(files.into_iter())
            })
        }),
        leftovers: Box::new(move |spec| {
            let storage = left.clone();
            Box::pin(async move {
                let private = Folders::of(&spec.database, &spec.name).unwrap().private;
                let entries = storage.list(&private).await.unwrap();
                entries.iter().map(|e| folders::relative(&e.path, &private).unwrap().to_owned()).filter(|f| !bookkeeping(f)).collect()
            })
        }),
        ..subject
    }
}

#[tokio::test]
async fn a_local_folder_keeps_the_promises() {
    let folder = tempfile::tempdir().unwrap();
    all(&on_disk(&Storage::local(folder.path()), folder.path().to_owned(), true)).await;
}

#[tokio::test]
async fn a_bucket_keeps_the_promises() {
    let server = S3Server::start().await;
    let root = server.folder.path().join("lake/some/prefix");
    // This server checks "if absent" without atomicity, which the probe finds out; so a commit that
    // was killed between intent and record would wait for a quarter of an hour. Here it is believed.
    let storage = Storage::s3(server.options()).unwrap();
    storage.trust_conditional_puts();
    all(&on_disk(&storage, root, false)).await;
}

#[tokio::test]
async fn stores_without_conditional_writes_keep_the_promises() {
    all(&in_store(&Faulty::aged_store(Fault::Overwrites))).await;
    all(&in_store(&Faulty::aged_store(Fault::Races))).await;
}

#[tokio::test]
async fn a_store_with_conditional_writes_keeps_the_promises() {
    all(&in_store(&Storage::of(Arc::new(object_store::memory::InMemory::new())))).await;
}

#[tokio::test]
async fn of_racing_writers_at_most_one_decides() {
    for round in 0..50 {
        for storage in
            [Faulty::store(Fault::Overwrites), Faulty::store(Fault::Races), Storage::of(Arc::new(object_store::memory::InMemory::new()))]
        {
            drop(table_with_part(&storage, "t").await);
            let mut tables = Vec::new();
            for writer in 0..3 {
                let table = parquet(&storage).open(&spec("t")).await.unwrap();
                let part = staged(&table, &format!("g{writer}"), 10 + writer).await;
                tables.push((table, part));
            }
            let attempts = tables.iter_mut().enumerate().map(|(writer, (table, part))| async move {
                // Different interleavings of the same requests.
                for _ in 0..(round * (writer + 3)) % 11 {
                    tokio::task::yield_now().await;
                }
                table.commit(vec![part.clone()], Token(format!("w{writer}")), Commit::Append).await
            });
            let results = futures::future::join_all(attempts).await;
            let winners: Vec<i64> = (10..).zip(&results).filter(|(_, r)| r.is_ok()).map(|(id, _)| id).collect();
            assert!(winners.len() <= 1, "{results:?}");
            assert!(results.iter().all(|r| r.as_ref().map_or_else(|e| e.kind() == Kind::Conflict, |()| true)), "{results:?}");
            let found = (in_store(&storage).rows)(spec("t")).await.unwrap();
            assert_eq!(found, [vec![1], winners].concat());
        }
    }
}

#[tokio::test]
async fn a_fresh_intent_is_a_conflict_that_says_how_long() {
    let storage = Faulty::store(Fault::Overwrites);
    let (mut table, second) = table_with_part(&storage, "t").await;
    let intent = Folders::of("conformance", "t").unwrap().intent(2, "other").unwrap();
    storage.put(&intent, Bytes::new()).await.unwrap();
    let error = table.commit(vec![second.clone()], Token("b".into()), Commit::Append).await.unwrap_err();
    assert!(error.kind() == Kind::Conflict && error.advice().unwrap().contains("15 minutes"), "{error}");
    storage.delete(vec![intent]).await.unwrap();
    table.commit(vec![second], Token("b".into()), Commit::Append).await.unwrap();
}

/// The store goes away after each number of writes, and the run opens the table again: its own intent is nobody else's.
#[tokio::test]
async fn an_intent_of_this_run_is_no_conflict() {
    let (mut voids, mut open) = (0, 0);
    for writes in 0..8 {
        let storage = Faulty::store(Fault::Overwrites);
        drop(table_with_part(&storage, "t").await);
        let destination = parquet(&storage);
        let mut table = destination.open(&spec("t")).await.unwrap();
        let lost = staged(&table, "g2", 2).await;
        table.ledger.swap_storage(storage.failing_after(writes));
        let answer = table.commit(vec![lost], Token("b".into()), Commit::Append).await;
        drop(table);
        let private = storage.list(&Folders::of("conformance", "t").unwrap().private).await.unwrap();
        let is_left = private.iter().any(|entry| entry.path.ends_with(".intent"));

        let mut table = destination.open(&spec("t")).await.unwrap();
        let part = staged(&table, "g3", 2).await;
        match table.commit(vec![part], Token("b".into()), Commit::Append).await {
            Ok(()) => {
                voids += usize::from(is_left && answer.is_err());
                assert_eq!((in_store(&storage).rows)(spec("t")).await.unwrap(), [1, 2], "after {writes} writes");
            }
            Err(error) => {
                assert!(error.kind() == Kind::Storage && error.retry() == crate::Retry::Again, "after {writes} writes: {error}");
                open += 1;
            }
        }
    }
    assert!(voids > 0 && open > 0, "{voids} {open}");
}

/// A table with one commit, and a part staged for the next.
async fn table_with_part(storage: &Storage, name: &str) -> (ParquetTable, ParquetPart) {
    let mut table = parquet(storage).open(&spec(name)).await.unwrap();
    let first = staged(&table, "g1", 1).await;
    table.commit(vec![first], Token("a".into()), Commit::Replace).await.unwrap();
    let second = staged(&table, "g2", 2).await;
    (table, second)
}

async fn staged(table: &ParquetTable, generation: &str, id: i64) -> ParquetPart {
    let column = Arc::new(arrow::array::Int64Array::from(vec![id]));
    let batch = RecordBatch::try_new(spec("").schema, vec![column]).unwrap();
    let name = PartName { generation: generation.into(), sequence: 0 };
    table.stage(name, stream::iter([Ok::<_, Error>(batch)])).await.unwrap()
}

fn snapshot(root: &Path) -> Vec<(String, Vec<u8>)> {
    walk(root).into_iter().map(|(name, path)| (name, std::fs::read(path).unwrap())).collect()
}

#[tokio::test]
async fn damaged_bookkeeping_is_named_and_nothing_is_changed() {
    let check = async |damage: fn(&Path), part: &str| {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::local(folder.path());
        let (mut table, second) = table_with_part(&storage, "t").await;
        table.commit(vec![second], Token("b".into()), Commit::Append).await.unwrap();
        staged(&table, "g3", 3).await;
        drop(table);
        damage(folder.path());
        let before = snapshot(folder.path());
        let error = parquet(&storage).open(&spec("t")).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(part) && error.advice().is_some(), "{part}: {error}");
        assert_eq!(snapshot(folder.path()), before, "{error}");
    };
    let private = "_lakeward/conformance/t";
    assert_eq!(Folders::of("conformance", "t").unwrap().private.as_ref(), private);
    check(|root| std::fs::write(root.join("_lakeward/conformance/t/table.json"), "{\"versi").unwrap(), "table.json is damaged").await;
    check(|root| std::fs::write(root.join("_lakeward/conformance/t/table.json"), "{\"version\": 2}").unwrap(), "table.json has version 2")
        .await;
    check(
        |root| {
            let private = root.join("_lakeward/conformance/t");
            std::fs::remove_file(private.join("table.json")).unwrap();
            std::fs::remove_file(private.join("commits/00000000000000000001.json")).unwrap();
        },
        "the last commit it knows is 0, and the next record is that of commit 2",
    )
    .await;
    check(|root| std::fs::write(root.join("_lakeward/conformance/t/commits/00000000000000000003.json"), "").unwrap(), "3.json is damaged")
        .await;
    check(
        |root| {
            let commits = root.join("_lakeward/conformance/t/commits");
            std::fs::copy(commits.join("00000000000000000002.json"), commits.join("00000000000000000004.json")).map(drop).unwrap();
        },
        "the next record is that of commit 4",
    )
    .await;
    check(|root| std::fs::remove_file(&walk(&root.join("conformance/t"))[0].1).unwrap(), "is missing").await;
    check(|root| std::fs::write(&walk(&root.join("conformance/t"))[1].1, "short").unwrap(), "has 5 bytes").await;
}

#[tokio::test]
async fn a_decided_commit_whose_parts_are_gone_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::local(folder.path());
    let (table, second) = table_with_part(&storage, "t").await;
    drop(table);
    // Decided, as a run that dies right after it leaves it.
    let folders = Folders::of("conformance", "t").unwrap();
    let mut record = record::Record::new(2, Token("b".into()), Commit::Append, &spec("t").schema);
    record.files = second.files.clone();
    storage.put(&folders.record(2).unwrap(), record.to_bytes().unwrap()).await.unwrap();
    storage.delete(vec![parse(&second.files[0].staged).unwrap()]).await.unwrap();
    let before = snapshot(folder.path());
    let error = parquet(&storage).open(&spec("t")).await.map(drop).unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.to_string().contains("neither staged nor published"), "{error}");
    assert_eq!(snapshot(folder.path()), before);
}

#[tokio::test]
async fn a_crash_between_the_two_renames_of_a_replacement_is_healed() {
    // As a run leaves it that died there, on a file system that cannot exchange folders.
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::local(folder.path());
    let (table, second) = table_with_part(&storage, "t").await;
    drop(table);
    let folders = Folders::of("conformance", "t").unwrap();
    let mut record = record::Record::new(2, Token("b".into()), Commit::Replace, &spec("t").schema);
    record.files = second.files.clone();
    storage.put(&folders.record(2).unwrap(), record.to_bytes().unwrap()).await.unwrap();
    let at = |path: object_store::path::Path| folder.path().join(path.as_ref());
    std::fs::create_dir(at(folders.next(2).unwrap())).unwrap();
    std::fs::rename(folder.path().join(&second.files[0].staged), at(folders.next(2).unwrap()).join(&second.files[0].target)).unwrap();
    std::fs::rename(at(folders.table.clone()), at(folders.old(2).unwrap())).unwrap();
    let table = parquet(&storage).open(&spec("t")).await.unwrap();
    assert_eq!(table.committed(), Some(&Token("b".into())));
    let subject = on_disk(&storage, folder.path().to_owned(), true);
    assert_eq!((subject.rows)(spec("t")).await, Some(vec![2]));
    assert_eq!((subject.leftovers)(spec("t")).await, Vec::<String>::new());
}

#[tokio::test]
async fn somebody_elses_folder_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::local(folder.path());
    let precious = folder.path().join("conformance/t/thesis.doc");
    std::fs::create_dir_all(precious.parent().unwrap()).unwrap();
    std::fs::write(&precious, "years of work").unwrap();
    for error in [
        parquet(&storage).open(&spec("t")).await.map(drop).unwrap_err(),
        parquet(&storage).drop_table("conformance", "t").await.unwrap_err(),
    ] {
        assert!(error.kind() == Kind::Config && error.to_string().contains("thesis.doc"), "{error}");
    }
    assert_eq!(walk(folder.path()).len(), 1);
    // One that appears while the run is going on is as safe.
    std::fs::remove_file(&precious).unwrap();
    let (mut table, second) = table_with_part(&storage, "t").await;
    std::fs::write(&precious, "years of work").unwrap();
    let error = table.commit(vec![second], Token("b".into()), Commit::Replace).await.unwrap_err();
    assert!(error.to_string().contains("thesis.doc") && precious.exists(), "{error}");
}

#[tokio::test]
async fn files_of_other_tools_are_replaced_and_survive_an_append() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::local(folder.path());
    let old = folder.path().join("conformance/t/2024-01-01_00-00-00_01HX.parquet");
    std::fs::create_dir_all(old.parent().unwrap()).unwrap();
    std::fs::write(&old, "some other tool's").unwrap();
    let mut table = parquet(&storage).open(&spec("t")).await.unwrap();
    let part = staged(&table, "g0", 1).await;
    table.commit(vec![part], Token("0".into()), Commit::Append).await.unwrap();
    assert!(old.exists());
    drop(table);
    drop(table_with_part(&storage, "t").await);
    assert!(!old.exists());
}

#[tokio::test]
async fn a_target_that_exists_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::local(folder.path());
    let (mut table, second) = table_with_part(&storage, "t").await;
    let taken = folder.path().join("conformance/t").join(&second.files[0].target);
    std::fs::write(&taken, "somebody's").unwrap();
    for how in [Commit::Append, Commit::Replace] {
        let error = table.commit(vec![second.clone()], Token("b".into()), how).await.unwrap_err();
        assert!(error.kind() == Kind::Conflict && error.to_string().contains("is another file"), "{error}");
    }
    assert_eq!(std::fs::read(&taken).unwrap(), b"somebody's");
}

#[tokio::test]
async fn a_commit_that_failed_halfway_is_finished_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::local(folder.path());
    for steps in 0..40 {
        let name = format!("t{steps}");
        let (table, _) = table_with_part(&storage, &name).await;
        drop(table);
        // The first commit fails somewhere; the same table then goes on, its disk being well again.
        let mut table = parquet(&storage).open(&spec(&name)).await.unwrap();
        let (b, c) = (staged(&table, "g2", 2).await, staged(&table, "g3", 3).await);
        let healthy = table.ledger.swap_storage(storage.failing_after(steps));
        let result = table.commit(vec![b.clone()], Token("b".into()), Commit::Append).await;
        table.ledger.swap_storage(healthy);
        let failed = result.is_err();
        if failed && steps % 2 == 0 {
            table.commit(vec![b], Token("b".into()), Commit::Append).await.unwrap();
        }
        table.commit(vec![c], Token("c".into()), Commit::Append).await.unwrap();
        let found = visible(snapshot(&folder.path().join("conformance").join(&name)).into_iter().map(|(n, d)| (n, d.into()))).unwrap();
        let decided = found.contains(&2);
        assert!(decided || (failed && steps % 2 == 1), "after {steps} writes: {found:?}");
        assert_eq!(found, if decided { vec![1, 2, 3] } else { vec![1, 3] });
        drop(table);
        assert_eq!(parquet(&storage).open(&spec(&name)).await.unwrap().committed(), Some(&Token("c".into())));
    }
}

/// Wherever a commit has died: what a look says is what the next writer finds, and looking changes nothing.
#[tokio::test]
async fn a_token_is_told_as_the_next_to_open_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::local(folder.path());
    assert_eq!(parquet(&storage).token("conformance", "none").await.unwrap(), None);
    let mut seen = Vec::new();
    for steps in 0..40 {
        let name = format!("t{steps}");
        let (table, second) = table_with_part(&storage, &name).await;
        drop(table);
        let mut table = parquet(&storage).open(&spec(&name)).await.unwrap();
        table.ledger.swap_storage(storage.failing_after(steps));
        let _ = table.commit(vec![second], Token("b".into()), Commit::Append).await;
        drop(table);
        let before = snapshot(folder.path());
        let told = parquet(&storage).token("conformance", &name).await.unwrap();
        assert_eq!(snapshot(folder.path()), before, "after {steps} writes");
        assert_eq!(parquet(&storage).open(&spec(&name)).await.unwrap().committed(), told.as_ref(), "after {steps} writes");
        seen.push(told);
    }
    assert!(["a", "b"].into_iter().all(|token| seen.contains(&Some(Token(token.into())))), "{seen:?}");
}

#[tokio::test]
async fn an_older_manifest_over_a_newer_one_heals() {
    let storage = Faulty::store(Fault::Overwrites);
    let manifest = Folders::of("conformance", "t").unwrap().manifest().unwrap();
    let (mut table, second) = table_with_part(&storage, "t").await;
    let old = storage.get(&manifest).await.unwrap().unwrap();
    table.commit(vec![second], Token("b".into()), Commit::Append).await.unwrap();
    let third = staged(&table, "g3", 3).await;
    table.commit(vec![third], Token("c".into()), Commit::Append).await.unwrap();
    let new = storage.get(&manifest).await.unwrap().unwrap();
    storage.put(&manifest, old).await.unwrap();
    assert_eq!(parquet(&storage).open(&spec("t")).await.unwrap().committed(), Some(&Token("c".into())));
    assert_eq!(storage.get(&manifest).await.unwrap().unwrap(), new);
    storage.delete(vec![manifest.clone()]).await.unwrap();
    drop(parquet(&storage).open(&spec("t")).await.unwrap());
    assert_eq!(storage.get(&manifest).await.unwrap().unwrap(), new, "and so does a lost one, while every record is there");
}

#[tokio::test]
async fn old_records_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::local(folder.path());
    let (mut table, _) = table_with_part(&storage, "t").await;
    for n in 0..20 {
        table.commit(Vec::new(), Token(n.to_string()), Commit::Append).await.unwrap();
    }
    assert_eq!(walk(&folder.path().join("_lakeward/conformance/t/commits")).len(), 8);
}

#[tokio::test]
async fn a_destination_opens_from_its_configuration() {
    let server = S3Server::start().await;
    let json = serde_json::json!({
        "s3_bucket": "lake", "s3_region": "us-east-1", "s3_endpoint": server.endpoint, "s3_path": "/p/",
        "s3_access_key": crate::storage::tests::ACCESS, "s3_secret_key": crate::storage::tests::SECRET,
    });
    let resources = parquet(&Storage::local("/nowhere")).resources;
    let destination = Parquet::open(&serde_json::from_value(json).unwrap(), resources).await.unwrap();
    destination.check().await.unwrap();
    let mut table = destination.open(&spec("t")).await.unwrap();
    let part = staged(&table, "g1", 1).await;
    table.commit(vec![part], Token("a".into()), Commit::Replace).await.unwrap();
    assert_eq!(walk(&server.folder.path().join("lake/p/conformance/t")).len(), 1);
}
