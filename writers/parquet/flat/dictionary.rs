//! The distinct values of a column chunk, numbered in the order in which they came.
//!
//! One table of open places: values go in by the thousand, and most of them are there already. Whoever chooses the values
//! of a column can make them meet in one place; then the dictionary is full before its time, and the column is written
//! without one from there on.

use super::number::Number;

/// Places at first; four times as many, again and again, as values come.
const PLACES_MIN: usize = 256;
/// Places looked at before a value is taken for one that does not belong here. With half of the places empty, a hash that
/// is any good needs a few.
const PROBES_MAX: usize = 64;

/// Whole numbers that lie so close together have a place each, and need no hash.
const WINDOW_MAX: usize = 1 << 19;

/// Distinct numbers.
pub(super) struct Numbers<N> {
    pub(super) values: Vec<N>,
    /// Index of a value plus one; 0 where there is none.
    places: Vec<u32>,
    /// The same for values from `base` on, one after the other.
    window: Vec<u32>,
    base: u64,
}

impl<N: Number> Numbers<N> {
    pub(super) fn new() -> Self {
        Self { values: Vec::new(), places: vec![0; PLACES_MIN], window: Vec::new(), base: 0 }
    }

    /// Memory held.
    pub(super) fn held(&self) -> usize {
        self.values.capacity() * size_of::<N>() + (self.places.capacity() + self.window.capacity()) * size_of::<u32>()
    }

    /// The first values lie between these. The window may have as many places as a dictionary of `bytes` bytes has values.
    pub(super) fn expect(&mut self, low: N, high: N, bytes: usize) {
        let (low, span) = (low.hash_bits(), high.hash_bits().wrapping_sub(low.hash_bits()));
        // More of them will lie around these.
        if N::IS_WHOLE && self.values.is_empty() && span < (bytes / size_of::<N>()).min(WINDOW_MAX) as u64 {
            let margin = span / 2 + 64;
            self.base = low.wrapping_sub(margin);
            self.window = vec![0; (span + 2 * margin) as usize];
        }
    }

    /// Appends the indices of values, of which new ones are added; `false` when the table has become too slow.
    pub(super) fn index_all(&mut self, values: &[N], indices: &mut Vec<u32>) -> bool {
        indices.reserve(values.len());
        for value in values {
            match self.index(*value) {
                Some(index) => indices.push(index),
                None => return false,
            }
        }
        true
    }

    #[inline]
    fn index(&mut self, value: N) -> Option<u32> {
        if let Some(place) = self.window.get_mut(value.hash_bits().wrapping_sub(self.base) as usize) {
            if *place == 0 {
                self.values.push(value);
                *place = u32::try_from(self.values.len()).ok()?;
            }
            return Some(*place - 1);
        }
        let mask = self.places.len() - 1;
        let hash = spread(value.hash_bits());
        for probe in 0..PROBES_MAX {
            let place = (hash as usize).wrapping_add(probe) & mask;
            match self.places[place] {
                0 => return self.add(value, place),
                index => {
                    if self.values[index as usize - 1].is(value) {
                        return Some(index - 1);
                    }
                }
            }
        }
        None
    }

    #[cold]
    fn add(&mut self, value: N, place: usize) -> Option<u32> {
        let index = u32::try_from(self.values.len()).ok()?;
        self.values.push(value);
        self.places[place] = index + 1;
        if self.values.len() * 2 > self.places.len() {
            let hashes = self.values.iter().map(|value| spread(value.hash_bits()));
            self.places = spread_out(hashes, self.places.len() * 4)?;
        }
        Some(index)
    }
}

/// Distinct texts or strings of bytes.
pub(crate) struct Texts {
    /// The values as the dictionary's page has them: each behind its length.
    pub(super) page: Vec<u8>,
    /// Where each value is in it.
    entries: Vec<Entry>,
    places: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    len: u32,
    hash: u64,
}

impl Texts {
    pub(crate) fn new() -> Self {
        Self { page: Vec::new(), entries: Vec::new(), places: vec![0; PLACES_MIN] }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Memory held.
    pub(super) fn held(&self) -> usize {
        self.page.capacity() + self.entries.capacity() * size_of::<Entry>() + self.places.capacity() * size_of::<u32>()
    }

    pub(super) fn get(&self, index: u32) -> &[u8] {
        let Entry { start, len, .. } = self.entries[index as usize];
        &self.page[start as usize..][..len as usize]
    }

    /// The index of a value. One that is new is added, unless the page is larger than `limit` then; `None` also when the
    /// table has become too slow.
    #[inline]
    pub(crate) fn index(&mut self, value: &[u8], limit: usize) -> Option<u32> {
        let mask = self.places.len() - 1;
        let hash = hash_of(value);
        for probe in 0..PROBES_MAX {
            let place = (hash as usize).wrapping_add(probe) & mask;
            match self.places[place] {
                0 => return self.add(value, hash, place, limit),
                index => {
                    let entry = self.entries[index as usize - 1];
                    if entry.hash == hash && entry.len as usize == value.len() && self.get(index - 1) == value {
                        return Some(index - 1);
                    }
                }
            }
        }
        None
    }

    #[cold]
    fn add(&mut self, value: &[u8], hash: u64, place: usize, limit: usize) -> Option<u32> {
        if self.page.len() + size_of::<u32>() + value.len() > limit {
            return None;
        }
        let index = u32::try_from(self.entries.len()).ok()?;
        let len = u32::try_from(value.len()).ok()?;
        let start = u32::try_from(self.page.len() + size_of::<u32>()).ok()?;
        start.checked_add(len)?;
        self.page.extend_from_slice(&len.to_le_bytes());
        self.page.extend_from_slice(value);
        self.entries.push(Entry { start, len, hash });
        self.places[place] = index + 1;
        if self.entries.len() * 2 > self.places.len() {
            self.places = spread_out(self.entries.iter().map(|entry| entry.hash), self.places.len() * 4)?;
        }
        Some(index)
    }
}

/// A larger table for values with these hashes.
fn spread_out(hashes: impl Iterator<Item = u64>, size: usize) -> Option<Vec<u32>> {
    let mut places = vec![0; size];
    for (index, hash) in (1..).zip(hashes) {
        let free = (0..PROBES_MAX).map(|probe| (hash as usize).wrapping_add(probe) & (size - 1)).find(|place| places[*place] == 0)?;
        places[free] = index;
    }
    Some(places)
}

/// Multiplies into 128 bits and folds the halves: every bit of the result depends on every bit that goes in.
#[inline]
fn spread(bits: u64) -> u64 {
    let product = u128::from(bits ^ 0xA076_1D64_78BD_642F) * u128::from(bits.rotate_left(32) ^ 0xE703_7ED1_A0B4_28DB);
    (product as u64) ^ ((product >> 64) as u64)
}

#[inline]
fn hash_of(value: &[u8]) -> u64 {
    let len = value.len() as u64;
    let fold = |a: u64, b: u64| {
        let product = u128::from(a ^ 0xA076_1D64_78BD_642F) * u128::from(b ^ 0xE703_7ED1_A0B4_28DB);
        (product as u64) ^ ((product >> 64) as u64)
    };
    let wide = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if let (Some(head), Some(tail)) = (value.first_chunk::<8>(), value.last_chunk::<8>()) {
        let mut hash = len;
        for sixteen in value.as_chunks::<16>().0 {
            hash = fold(hash ^ wide(sixteen.first_chunk()), wide(sixteen.last_chunk()));
        }
        return fold(hash ^ u64::from_le_bytes(*head), u64::from_le_bytes(*tail) ^ len);
    }
    let short = if let (Some(head), Some(tail)) = (value.first_chunk::<4>(), value.last_chunk::<4>()) {
        u64::from(u32::from_le_bytes(*head)) << 32 | u64::from(u32::from_le_bytes(*tail))
    } else {
        value.iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
    };
    fold(short, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_within_a_window_and_outside_of_it_have_one_numbering() {
        let values: Vec<i32> = (0..20_000).map(|i| i * 7919 % 1009 - 500).chain([i32::MIN, i32::MAX, 70_000, -70_000]).collect();
        let mut numbers = Numbers::new();
        numbers.expect(-20, 300, 1 << 20);
        assert!(!numbers.window.is_empty() && numbers.window.len() < 2000);
        let mut indices = Vec::new();
        assert!(numbers.index_all(&values, &mut indices));
        assert_eq!(indices.iter().map(|index| numbers.values[*index as usize]).collect::<Vec<_>>(), values);
        assert_eq!(numbers.values.len(), 1009 + 4);
        let mut far = Numbers::new();
        far.expect(0_i64, i64::MAX, 1 << 20);
        assert!(far.window.is_empty(), "no window is that wide");
        far.expect(0, 1000, 4000);
        assert!(far.window.is_empty(), "there is no room for so many values");
    }

    #[test]
    fn equal_texts_have_one_number_and_others_another() {
        let mut texts = Texts::new();
        // Texts that are alike at the start, in the middle, at the end, of every length around the steps of the hash.
        let words: Vec<String> = (0..40)
            .flat_map(|len| {
                (0..20).map(move |i: usize| {
                    let mut word = vec![b'x'; len];
                    if len > 0 {
                        word[i * 7 % len] = b'a' + i as u8;
                    }
                    String::from_utf8(word).expect("ascii")
                })
            })
            .collect();
        let mut distinct = std::collections::HashMap::new();
        for word in words.iter().chain(&words) {
            let next = distinct.len() as u32;
            let expected = *distinct.entry(word.clone()).or_insert(next);
            assert_eq!(texts.index(word.as_bytes(), 1 << 20), Some(expected), "{word}");
            assert_eq!(texts.get(expected), word.as_bytes());
        }
        assert_eq!(texts.len(), distinct.len());
        let page: Vec<u8> = (0..texts.len() as u32)
            .flat_map(|index| [&(texts.get(index).len() as u32).to_le_bytes()[..], texts.get(index)].concat())
            .collect();
        assert_eq!(page, texts.page);
    }

    #[test]
    fn equal_numbers_have_one_number_and_zeros_of_either_sign_two() {
        let mut numbers = Numbers::<i64>::new();
        for round in 0..2 {
            for i in 0..5000_i64 {
                assert_eq!(numbers.index(i << 40), Some(i as u32), "{round}");
            }
        }
        let mut floats = Numbers::<f64>::new();
        let values = [0.0, -0.0, f64::NAN, 1.0, -0.0, f64::NAN, 0.0];
        assert_eq!(values.map(|value| floats.index(value)), [0, 1, 2, 3, 1, 2, 0].map(Some));
    }
}
