//! Random changes, against a model that knows where every row is.

use super::lake::{Lake, Rows, ids};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Where rows are.
type Place = (String, u32);

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn keys(&mut self, most: u64) -> BTreeSet<i64> {
        let count = 1 + self.below(most);
        (0..count).map(|_| self.below(400).cast_signed()).collect()
    }
}

fn with_values(keys: &BTreeSet<i64>, step: usize) -> Rows {
    keys.iter().map(|key| (*key, format!("{key} at {step}"))).collect()
}

/// What the table holds: the live places of each key.
#[derive(Clone, Default)]
struct Model {
    live: BTreeMap<i64, HashSet<Place>>,
    files: HashSet<String>,
}

impl Model {
    /// After a commit that added these files.
    fn added(&mut self, files: impl IntoIterator<Item = String>) {
        for path in files {
            for (position, id) in (0..).zip(ids(&path)) {
                self.live.entry(id).or_default().insert((path.clone(), position));
            }
            self.files.insert(path);
        }
    }
}

async fn run(version: u8, partition: &str, seed: u64) {
    let mut random = Random(seed);
    let mut lake = Lake::new(version, partition).await;
    let mut index = lake.index().await;
    let mut model = Model::default();
    let mut past: Vec<(i64, Model)> = Vec::new();
    for step in 0..60 {
        let before: HashSet<String> = named(&lake).await;
        match random.below(12) {
            0 | 1 => {
                let keys = random.keys(60);
                lake.append(with_values(&keys, step)).await;
            }
            2 => {
                let keys = random.keys(200);
                lake.replace(with_values(&keys, step)).await;
                model = Model::default();
            }
            3 if !past.is_empty() => {
                let back = usize::try_from(random.below(past.len() as u64)).expect("small");
                let (snapshot, then) = past[back].clone();
                lake.roll_back(snapshot).await;
                model = then;
                index.catch_up(&lake.loaded).await.expect("catch up");
                continue;
            }
            _ => {
                let keys = random.keys(40);
                let removed: Vec<i64> = random.keys(10).into_iter().filter(|key| !keys.contains(key)).collect();
                let places = lake.upsert(&mut index, with_values(&keys, step), &removed).await;
                let found: BTreeSet<Place> =
                    places.files.iter().flat_map(|file| file.positions.iter().map(|position| (file.path.clone(), *position))).collect();
                let touched: Vec<i64> = keys.iter().copied().chain(removed).collect();
                let wanted: BTreeSet<Place> = touched.iter().filter_map(|key| model.live.get(key)).flatten().cloned().collect();
                if version == 3 {
                    assert_eq!(found, wanted, "seed {seed}, step {step}");
                }
                assert!(found.is_superset(&wanted), "seed {seed}, step {step}: {:?}", wanted.difference(&found));
                for (path, position) in found.difference(&wanted) {
                    assert!(model.files.contains(path), "{path} is gone");
                    assert!(touched.contains(&ids(path)[*position as usize]), "a row of another key");
                }
                touched.iter().for_each(|key| drop(model.live.remove(key)));
            }
        }
        model.added(named(&lake).await.difference(&before).cloned());
        past.push((lake.loaded.metadata.current_snapshot_id().expect("a snapshot"), model.clone()));
        match random.below(8) {
            0 => {
                drop(index);
                index = lake.index().await;
            }
            1 => damage(&mut random, index.folder()),
            2 => {
                damage(&mut random, index.folder());
                drop(index);
                index = lake.index().await;
            }
            _ => {}
        }
    }
}

/// Data files that are alive.
async fn named(lake: &Lake) -> HashSet<String> {
    use super::super::super::manifest::{alive, current};
    let mut named = HashSet::new();
    for manifest in current(&lake.loaded.files, &lake.loaded.metadata).await.expect("manifests") {
        for entry in alive(&lake.loaded.files, &manifest).await.expect("entries") {
            if entry.content_type() == iceberg::spec::DataContentType::Data {
                named.insert(entry.file_path().to_owned());
            }
        }
    }
    named
}

/// Removes, cuts or changes one of the index's files.
fn damage(random: &mut Random, folder: &std::path::Path) {
    let files = std::fs::read_dir(folder).expect("folder").map(|item| item.expect("item").path());
    let files: Vec<_> = files.filter(|path| path.file_name().is_some_and(|name| name != "lock")).collect();
    if files.is_empty() {
        return;
    }
    let file = &files[usize::try_from(random.below(files.len() as u64)).expect("small")];
    let mut data = std::fs::read(file).expect("read");
    match random.below(3) {
        0 => std::fs::remove_file(file).expect("remove"),
        1 => std::fs::write(file, &data[..data.len() / 2]).expect("cut"),
        _ => {
            let at = usize::try_from(random.below(data.len() as u64)).expect("small");
            data[at] ^= 4;
            std::fs::write(file, data).expect("change");
        }
    }
}

#[tokio::test]
async fn position_deletes_hit_every_row_of_their_keys() {
    run(2, "", 11).await;
    run(2, "/{id, bucket[3]}", 12).await;
}

#[tokio::test]
async fn deletion_vectors_hit_exactly_the_rows_of_their_keys() {
    run(3, "", 21).await;
    run(3, "/{id, bucket[3]}", 22).await;
}
