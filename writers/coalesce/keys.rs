//! A set of keys, in one piece of memory.

use super::too_many;
use crate::error::Result;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::hash::BuildHasher;

/// Keys, each once, numbered in the order in which they came. The hashes are seeded at random: nobody can choose keys that have one hash.
#[derive(Default)]
pub(super) struct Keys {
    hasher: RandomState,
    /// One behind the other …
    bytes: Vec<u8>,
    /// … and where each ends.
    ends: Vec<usize>,
    numbers: HashTable<u32>,
}

impl Keys {
    /// The number of a key, if it is there.
    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        let is_it = |number: &u32| at(&self.bytes, &self.ends, *number) == key;
        self.numbers.find(self.hasher.hash_one(key), is_it).map(|number| *number as usize)
    }

    /// Adds a key unless it is there; its number, and whether it is new.
    pub(super) fn insert(&mut self, key: &[u8]) -> Result<(usize, bool)> {
        let Self { hasher, bytes, ends, numbers } = self;
        let is_it = |number: &u32| at(bytes, ends, *number) == key;
        let entry = numbers.entry(hasher.hash_one(key), is_it, |number| hasher.hash_one(at(bytes, ends, *number)));
        match entry {
            Entry::Occupied(number) => Ok((*number.get() as usize, false)),
            Entry::Vacant(place) => {
                let number = ends.len();
                place.insert(u32::try_from(number).map_err(|_| too_many())?);
                bytes.extend_from_slice(key);
                ends.push(bytes.len());
                Ok((number, true))
            }
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

fn at<'k>(bytes: &'k [u8], ends: &[usize], number: u32) -> &'k [u8] {
    let number = number as usize;
    let begin = number.checked_sub(1).map_or(0, |before| ends[before]);
    &bytes[begin..ends[number]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_number() {
        let mut keys = Keys::default();
        let texts: Vec<String> = (0..5000).map(|n| "k".repeat(n % 7) + &(n % 1000).to_string()).collect();
        let mut distinct = texts.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let mut known = std::collections::HashMap::new();
        for text in &texts {
            let (number, is_new) = keys.insert(text.as_bytes()).expect("insert");
            assert_eq!(is_new, known.insert(text, number).is_none(), "{text}");
            assert_eq!(keys.find(text.as_bytes()), Some(number));
            assert_eq!(known[text], number);
        }
        assert_eq!(known.len(), distinct.len());
        assert_eq!((keys.insert(b"").expect("insert"), keys.insert(b"").expect("insert")), ((known.len(), true), (known.len(), false)));
        assert_eq!(keys.find(b"other"), None);
    }
}
