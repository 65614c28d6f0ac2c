//! Keys are found and their rows go, on tables in a local warehouse.

mod lake;
mod measure;
mod model;
mod readers;

use super::*;
use crate::Kind;
use iceberg::TableUpdate;
use iceberg::spec::FormatVersion;
use lake::{Lake, Rows};
use std::path::Path;
use tempfile::TempDir;

fn rows(ids: std::ops::Range<i64>) -> Rows {
    ids.map(|id| (id, format!("row {id}"))).collect()
}

#[tokio::test]
async fn a_key_that_changes_often_is_at_one_place() {
    for version in [2, 3] {
        let mut lake = Lake::new(version, "").await;
        lake.append(rows(0..100)).await;
        let mut index = lake.index().await;
        for _ in 0..20 {
            let places = lake.upsert(&mut index, rows(10..20), &[]).await;
            assert_eq!((places.rows(), places.files.len()), (10, 1));
        }
        let (runs, records) = index.size();
        assert!(runs <= 12 && records == 290, "{runs} runs, {records} records");
    }
}

#[tokio::test]
async fn what_is_not_known_to_supersede_hides_nothing() {
    let mut lake = Lake::new(2, "").await;
    lake.append(rows(0..10)).await;
    lake.append(rows(5..15)).await;
    let mut index = lake.index().await;
    let keys = lake.keys(&[4, 7]).await;
    let places = index.find(&lake.loaded, &[keys]).await.expect("found");
    assert_eq!((places.rows(), places.files.len()), (3, 2));
}

#[tokio::test]
async fn a_second_process_has_a_folder_of_its_own() {
    let mut lake = Lake::new(2, "").await;
    lake.append(rows(0..10)).await;
    let mut first = lake.index().await;
    let mut second = lake.index().await;
    first.catch_up(&lake.loaded).await.expect("first");
    second.catch_up(&lake.loaded).await.expect("second");
    assert_ne!(first.folder(), second.folder());
    let private = second.folder().to_owned();
    drop(second);
    assert!(!private.exists());
    let shared = first.folder().to_owned();
    drop(first);
    let again = lake.index().await;
    assert_eq!((again.folder(), again.size()), (shared.as_path(), (1, 10)));
}

#[tokio::test]
async fn an_index_of_other_keys_is_made_again() {
    let mut lake = Lake::new(2, "").await;
    lake.append(rows(0..10)).await;
    lake.index().await.catch_up(&lake.loaded).await.expect("by id");
    let name = lake.field("name");
    let mut by_name = KeyIndex::open(&lake.indexes(), &lake.loaded, &[name]).await.expect("by name");
    assert_eq!(by_name.size(), (0, 0));
    by_name.catch_up(&lake.loaded).await.expect("by name");
    assert_eq!(by_name.size(), (1, 10));
    drop(by_name);
    assert_eq!(lake.index().await.size(), (0, 0));
}

#[tokio::test]
async fn position_deletes_of_an_upgraded_table_are_not_mixed_with_vectors() {
    let mut lake = Lake::new(2, "").await;
    lake.append(rows(0..10)).await;
    let mut index = lake.index().await;
    lake.upsert(&mut index, rows(2..4), &[]).await;
    lake.update(vec![TableUpdate::UpgradeFormatVersion { format_version: FormatVersion::V3 }]).await;
    let keys = lake.keys(&[1]).await;
    let error = index.find(&lake.loaded, &[keys]).await.expect_err("refused");
    assert!(error.kind() == Kind::Schema && error.to_string().contains("1 position delete files"), "{error}");
}

#[tokio::test]
async fn damage_of_the_table_names_the_file() {
    let mut lake = Lake::new(3, "").await;
    lake.append(rows(0..10)).await;
    let mut index = lake.index().await;
    lake.upsert(&mut index, rows(2..4), &[]).await;
    let puffin = lake.files(|name| Path::new(name).extension().is_some_and(|e| e == "puffin")).pop().expect("a puffin file");
    let whole = std::fs::read(&puffin).expect("read");
    let keys = lake.keys(&[5]).await;
    for damaged in [whole[..20].to_vec(), {
        let mut data = whole.clone();
        data[16] ^= 1;
        data
    }] {
        std::fs::write(&puffin, damaged).expect("damage");
        let error = index.find(&lake.loaded, std::slice::from_ref(&keys)).await.expect_err("damaged");
        assert!(error.kind() == Kind::Corrupt && error.to_string().contains(".puffin"), "{error}");
    }
    std::fs::write(&puffin, whole).expect("repair");
    assert_eq!(index.find(&lake.loaded, std::slice::from_ref(&keys)).await.expect("found").rows(), 1);

    drop(index);
    std::fs::remove_dir_all(lake.indexes()).expect("lose the index");
    for file in lake.files(|name| name.ends_with(".parquet") && !name.contains("keys")) {
        let whole = std::fs::read(&file).expect("read");
        for damaged in [Some(&whole[..whole.len() / 2]), None] {
            match damaged {
                Some(data) => std::fs::write(&file, data).expect("damage"),
                None => std::fs::remove_file(&file).expect("remove"),
            }
            let error = lake.index().await.catch_up(&lake.loaded).await.expect_err("damaged");
            let name = file.file_name().and_then(|name| name.to_str()).expect("name");
            assert!(error.kind() == Kind::Corrupt && error.to_string().contains(name), "{error}");
        }
        std::fs::write(&file, whole).expect("repair");
    }
    lake.index().await.catch_up(&lake.loaded).await.expect("whole again");
}

#[tokio::test]
async fn position_delete_files_are_cut_and_tell_what_they_hold() {
    let mut lake = Lake::new(2, "/{id, bucket[2]}").await;
    lake.append(rows(0..50)).await;
    lake.append(rows(50..100)).await;
    let mut index = lake.index().await;
    let keys = lake.keys(&(0..100).collect::<Vec<_>>()).await;
    let places = index.find(&lake.loaded, &[keys]).await.expect("found");
    assert_eq!((places.rows(), places.files.len()), (100, 4));
    let folder = TempDir::new().expect("folder");
    let uri = format!("file://{}", folder.path().display());
    for (file_bytes_max, count) in [(1 << 20, 2), (1, 4)] {
        let options = crate::parquet::encode::EncodeOptions { file_bytes_max, ..Default::default() };
        let (written, _) = position_deletes(&lake.loaded, &places, &uri, "x", &options).await.expect("written");
        let written: Vec<_> = written.into_values().flatten().collect();
        assert_eq!(written.len(), count);
        assert_eq!(written.iter().map(iceberg::spec::DataFile::record_count).sum::<u64>(), 100);
        for file in &written {
            let path = file.file_path().strip_prefix("file://").expect("local");
            assert_eq!(std::fs::metadata(path).expect("size").len(), file.file_size_in_bytes());
            assert_eq!(file.referenced_data_file().is_some(), count == 4);
        }
    }
}
