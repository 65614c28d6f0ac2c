//! A column of texts or strings of bytes being encoded.

use super::bits;
use super::bounds::Bound;
use super::chunk::{Chunk, Content, PageBounds, Pieces};
use super::dictionary::Texts as Dictionary;
use super::{Limits, Scheme, too_many_distinct};
use crate::error::Result;
use arrow::buffer::NullBuffer;
use parquet::basic::Encoding;
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::file::statistics::{Statistics, ValueStatistics};
use std::ops::Range;

/// Values that are looked at together.
const STEP: usize = 2048;
/// Short values are copied in pieces of this size, of which the rest is overwritten by what follows.
const STRIDE: usize = 32;
/// Bytes before each value.
const LENGTH: usize = size_of::<u32>();

/// The column.
pub(super) struct Texts {
    chunk: Chunk,
    limits: Limits,
    utf8: bool,
    dictionary: Option<Dictionary>,
    /// Indices of the page being filled, when there is a dictionary.
    indices: Vec<u32>,
    /// When there is none: its values behind their lengths, and which of them are the smallest and the largest.
    page: Vec<u8>,
    extremes: Option<Extremes>,
    /// Bytes of its values without their lengths.
    value_bytes: usize,
    bounds: Option<(Bound, Bound)>,
    /// Bounds of the last page that had any.
    last: Option<(Bound, Bound)>,
}

/// Where the smallest and the largest value of a page are, and how they begin.
struct Extremes {
    low: Range<usize>,
    low_key: u64,
    high: Range<usize>,
    high_key: u64,
}

impl Texts {
    pub(super) fn new(chunk: Chunk, scheme: Scheme, limits: Limits, utf8: bool) -> Self {
        let dictionary = (scheme == Scheme::Dictionary).then(Dictionary::new);
        let (indices, page) = (Vec::new(), Vec::new());
        Self { chunk, limits, utf8, dictionary, indices, page, extremes: None, value_bytes: 0, bounds: None, last: None }
    }

    pub(super) fn held(&self) -> usize {
        let page = self.indices.capacity() * size_of::<u32>() + self.page.capacity();
        self.chunk.held() + page + self.dictionary.as_ref().map_or(0, Dictionary::held)
    }

    pub(super) fn encoded(&self) -> usize {
        self.chunk.encoded() + self.dictionary.as_ref().map_or(0, |dictionary| dictionary.page.len()) + self.indices.len() + self.page.len()
    }

    /// Appends the values of `data` that begin and end at `offsets`, of which those that `nulls` marks are NULL.
    pub(super) fn write(&mut self, offsets: &[i32], data: &[u8], nulls: Option<&NullBuffer>) -> Result<()> {
        let mut at = 0;
        while at + 1 < offsets.len() {
            let most = STEP.min(offsets.len() - 1 - at).min(self.limits.page_rows - self.chunk.page_rows());
            let rows = self.fitting(&offsets[at..=at + most]);
            let (step, valid) = (&offsets[at..=at + rows], nulls.map(|nulls| nulls.slice(at, rows)));
            let valid = valid.filter(|valid| valid.null_count() > 0);
            let range = |row: usize| step[row] as usize..step[row + 1] as usize;
            let before = self.indices.len();
            let fits = match &valid {
                _ if self.dictionary.is_none() => false,
                None => self.look_up((0..rows).map(|row| &data[range(row)])),
                Some(valid) => self.look_up(valid.valid_indices().map(|row| &data[range(row)])),
            };
            if !fits {
                if self.dictionary.is_some() {
                    self.indices.truncate(before);
                    self.give_up_dictionary()?;
                }
                match &valid {
                    None => {
                        self.append(data, step[0] as usize..step[rows] as usize, step.windows(2).map(|pair| (pair[1] - pair[0]) as usize))
                    }
                    Some(valid) => valid.valid_indices().for_each(|row| {
                        let range = range(row);
                        self.append(data, range.clone(), std::iter::once(range.len()));
                    }),
                }
            }
            self.chunk.add_rows(rows, valid.as_ref());
            at += rows;
            if self.chunk.page_rows() >= self.limits.page_rows || self.page.len() >= self.limits.page_bytes {
                self.end_page()?;
            }
        }
        Ok(())
    }

    /// How many of the values between `offsets` go into the page: all, or those up to the one that fills it.
    fn fitting(&self, offsets: &[i32]) -> usize {
        let room = offsets[0] as usize + self.limits.page_bytes.saturating_sub(self.page.len());
        offsets[1..].partition_point(|end| (*end as usize) < room).min(offsets.len() - 2) + 1
    }

    /// Adds the indices of `values`. Whether the dictionary has room for all of them; if not, some may have been added.
    fn look_up<'a>(&mut self, values: impl Iterator<Item = &'a [u8]>) -> bool {
        let Some(dictionary) = &mut self.dictionary else { return false };
        let mut bytes = 0;
        for value in values {
            let Some(index) = dictionary.index(value, self.limits.dictionary_bytes) else { return false };
            bytes += value.len();
            self.indices.push(index);
        }
        self.value_bytes += bytes;
        true
    }

    /// Appends the values that lie in `range` of `data` one behind the other and are as long as `lengths` says.
    #[inline]
    fn append(&mut self, data: &[u8], range: Range<usize>, lengths: impl ExactSizeIterator<Item = usize>) {
        let (mut from, mut to) = (range.start, self.page.len());
        self.value_bytes += range.len();
        self.page.resize(to + range.len() + lengths.len() * LENGTH + STRIDE, 0);
        for length in lengths {
            self.page[to..to + LENGTH].copy_from_slice(&(length as u32).to_le_bytes());
            to += LENGTH;
            // With a known size this is a load and a store and no call.
            match (data.get(from..from + STRIDE), &mut self.page[to..to + STRIDE]) {
                (Some(piece), room) if length <= STRIDE => room.copy_from_slice(piece),
                _ => self.page[to..to + length].copy_from_slice(&data[from..from + length]),
            }
            self.compare(to..to + length);
            (from, to) = (from + length, to + length);
        }
        self.page.truncate(to);
    }

    /// Compares a value of the page, behind which there are at least eight bytes, with the extremes.
    #[inline]
    fn compare(&mut self, value: Range<usize>) {
        let key = key(&self.page[value.start..], value.len());
        let Some(extremes) = &mut self.extremes else {
            self.extremes = Some(Extremes { low: value.clone(), low_key: key, high: value, high_key: key });
            return;
        };
        if key < extremes.low_key || key == extremes.low_key && self.page[value.clone()] < self.page[extremes.low.clone()] {
            (extremes.low, extremes.low_key) = (value, key);
        } else if key > extremes.high_key || key == extremes.high_key && self.page[value.clone()] > self.page[extremes.high.clone()] {
            (extremes.high, extremes.high_key) = (value, key);
        }
    }

    /// Ends the page being filled, writes the dictionary, and goes on without one.
    fn give_up_dictionary(&mut self) -> Result<()> {
        if self.chunk.page_rows() > 0 {
            self.end_page()?;
        }
        if let Some(dictionary) = self.dictionary.take().filter(|_| self.chunk.waits()) {
            self.chunk.write_dictionary(dictionary.len(), |out| out.extend_from_slice(&dictionary.page))?;
        }
        self.indices = Vec::new();
        Ok(())
    }

    fn end_page(&mut self) -> Result<()> {
        let bounds = self.page_bounds();
        let page_bounds = bounds.as_ref().map(|(low, high)| PageBounds {
            ascending: self.last.as_ref().is_none_or(|last| last.0.bytes <= low.bytes && last.1.bytes <= high.bytes),
            descending: self.last.as_ref().is_none_or(|last| last.0.bytes >= low.bytes && last.1.bytes >= high.bytes),
            low: low.bytes.clone(),
            high: high.bytes.clone(),
        });
        if let Some((low, high)) = bounds {
            self.bounds = Some(match self.bounds.take() {
                Some((lowest, highest)) => (lowest.lower(&low), highest.higher(&high)),
                None => (low.clone(), high.clone()),
            });
            self.last = Some((low, high));
        }
        let bytes = Some(std::mem::take(&mut self.value_bytes) as i64);
        let Some(dictionary) = &self.dictionary else {
            let page = &self.page;
            self.chunk
                .end_page(Content { encoding: Encoding::PLAIN, dense: false }, page_bounds, bytes, |out| out.extend_from_slice(page))?;
            if self.page.capacity() > 2 * self.limits.page_bytes {
                self.page = Vec::new();
            }
            self.page.clear();
            return Ok(());
        };
        let (distinct, indices) = (dictionary.len(), &self.indices);
        let width = bits::width_of((distinct as u32).saturating_sub(1));
        self.chunk.end_page(Content { encoding: Encoding::RLE_DICTIONARY, dense: false }, page_bounds, bytes, |out| {
            out.push(width as u8);
            bits::hybrid(indices, width, out);
        })?;
        self.indices.clear();
        if too_many_distinct(distinct, self.chunk.values()) {
            self.give_up_dictionary()?;
        }
        Ok(())
    }

    /// The bounds of the page being filled.
    fn page_bounds(&mut self) -> Option<(Bound, Bound)> {
        let Some(dictionary) = &self.dictionary else {
            let Extremes { low, high, .. } = self.extremes.take()?;
            return Some((Bound::below(&self.page[low], self.utf8), Bound::above(&self.page[high], self.utf8)));
        };
        let mut seen = vec![false; dictionary.len()];
        self.indices.iter().for_each(|index| seen[*index as usize] = true);
        let mut values = (0..).zip(seen).filter(|(_, seen)| *seen).map(|(index, _)| dictionary.get(index));
        let first = values.next()?;
        let (low, high) = values.fold((first, first), |(low, high), value| (low.min(value), high.max(value)));
        Some((Bound::below(low, self.utf8), Bound::above(high, self.utf8)))
    }

    pub(super) fn close(mut self) -> Result<(Pieces, ColumnCloseResult)> {
        self.give_up_dictionary()?;
        if self.chunk.page_rows() > 0 {
            self.end_page()?;
        }
        let exact = self.bounds.as_ref().map(|(low, high)| (low.exact, high.exact)).unwrap_or_default();
        let (low, high) = self.bounds.take().map(|(low, high)| (ByteArray::from(low.bytes), ByteArray::from(high.bytes))).unzip();
        let statistics = ValueStatistics::new(low, high, None, Some(self.chunk.nulls()), false)
            .with_backwards_compatible_min_max(self.chunk.descr().sort_order().is_signed())
            .with_min_is_exact(exact.0)
            .with_max_is_exact(exact.1);
        self.chunk.close(Statistics::ByteArray(statistics))
    }
}

/// The first eight bytes of a value that begins at `bytes`, in the order in which values are compared.
#[inline]
fn key(bytes: &[u8], length: usize) -> u64 {
    let head = bytes.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head));
    match length {
        0 => 0,
        1..8 => head & (u64::MAX << (64 - 8 * length)),
        _ => head,
    }
}
