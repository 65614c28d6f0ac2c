//! A column of values of fixed width being encoded.

use super::bits;
use super::chunk::{Chunk, Content, PageBounds, Pieces};
use super::dictionary::Numbers as Dictionary;
use super::number::{Number, both};
use super::{Limits, Scheme, too_many_distinct};
use crate::error::Result;
use arrow::buffer::NullBuffer;
use parquet::basic::Encoding;
use parquet::column::writer::ColumnCloseResult;

/// Values that are looked at together: they stay in the nearest cache from one step of the work to the next.
const STEP: usize = 2048;

/// The column.
pub(super) struct Numbers<N> {
    chunk: Chunk,
    limits: Limits,
    /// Bytes of a stored value.
    width: usize,
    deltas: bool,
    dictionary: Option<Dictionary<N>>,
    /// Indices of the page being filled, when there is a dictionary.
    indices: Vec<u32>,
    /// Its values, when there is none; with one, those of the step.
    values: Vec<N>,
    page_bounds: Option<(N, N)>,
    bounds: Option<(N, N)>,
    /// Bounds of the last page that had any.
    last: Option<(N, N)>,
}

impl<N: Number> Numbers<N> {
    pub(super) fn new(chunk: Chunk, scheme: Scheme, limits: Limits, width: usize) -> Self {
        let dictionary = (scheme == Scheme::Dictionary).then(Dictionary::new);
        let deltas = N::IS_WHOLE && scheme == Scheme::Deltas;
        let (indices, values) = (Vec::new(), Vec::new());
        Self { chunk, limits, width, deltas, dictionary, indices, values, page_bounds: None, bounds: None, last: None }
    }

    pub(super) fn held(&self) -> usize {
        let page = self.indices.capacity() * size_of::<u32>() + self.values.capacity() * size_of::<N>();
        self.chunk.held() + page + self.dictionary.as_ref().map_or(0, Dictionary::held)
    }

    pub(super) fn encoded(&self) -> usize {
        let dictionary = self.dictionary.as_ref().map_or(0, |dictionary| dictionary.values.len() * self.width);
        self.chunk.encoded() + dictionary + self.indices.len() + self.values.len() * self.width
    }

    /// Appends `values`, of which those that `nulls` marks are NULL; `convert` makes them what is stored.
    pub(super) fn write<S: Copy>(&mut self, values: &[S], nulls: Option<&NullBuffer>, convert: impl Fn(S) -> N) -> Result<()> {
        let mut at = 0;
        while at < values.len() {
            let rows = STEP.min(values.len() - at).min(self.limits.page_rows - self.chunk.page_rows());
            let (step, valid) = (&values[at..at + rows], nulls.map(|nulls| nulls.slice(at, rows)));
            let start = self.values.len();
            match valid.as_ref().filter(|valid| valid.null_count() > 0) {
                None => self.values.extend(step.iter().map(|value| convert(*value))),
                Some(valid) => self.values.extend(valid.valid_indices().map(|index| convert(step[index]))),
            }
            let bounds = N::bounds(&self.values[start..]);
            if let Some(dictionary) = &mut self.dictionary {
                if let Some((low, high)) = bounds.filter(|_| dictionary.values.is_empty()) {
                    dictionary.expect(low, high, self.limits.dictionary_bytes);
                }
                self.look_up()?;
            }
            self.page_bounds = both(self.page_bounds, bounds);
            self.chunk.add_rows(rows, valid.as_ref());
            at += rows;
            if self.chunk.page_rows() >= self.limits.page_rows || self.values.len() * self.width >= self.limits.page_bytes {
                self.end_page()?;
            }
        }
        Ok(())
    }

    /// Replaces the values of the step by their indices. When the dictionary has no room for all of them, the page before
    /// them ends, and they begin one without a dictionary.
    fn look_up(&mut self) -> Result<()> {
        let Some(dictionary) = &mut self.dictionary else { return Ok(()) };
        let before = self.indices.len();
        let all = dictionary.index_all(&self.values, &mut self.indices);
        if all && dictionary.values.len() * self.width <= self.limits.dictionary_bytes {
            self.values.clear();
            return Ok(());
        }
        self.indices.truncate(before);
        let values = std::mem::take(&mut self.values);
        self.give_up_dictionary()?;
        self.values = values;
        Ok(())
    }

    /// Ends the page being filled, writes the dictionary, and goes on without one.
    fn give_up_dictionary(&mut self) -> Result<()> {
        if self.chunk.page_rows() > 0 {
            self.end_page()?;
        }
        if let Some(dictionary) = self.dictionary.take().filter(|_| self.chunk.waits()) {
            let width = self.width;
            self.chunk.write_dictionary(dictionary.values.len(), |out| N::plain(&dictionary.values, width, out))?;
            self.deltas = N::IS_WHOLE && self.limits.deltas;
        }
        self.indices = Vec::new();
        Ok(())
    }

    fn end_page(&mut self) -> Result<()> {
        let bounds = self.page_bounds.take();
        self.bounds = both(self.bounds, bounds);
        let (last, width) = (self.last, self.width);
        let page_bounds = bounds.map(|(low, high)| PageBounds {
            low: stored(low, width),
            high: stored(high, width),
            ascending: last.is_none_or(|(last_low, last_high)| !low.is_below(last_low) && !high.is_below(last_high)),
            descending: last.is_none_or(|(last_low, last_high)| !last_low.is_below(low) && !last_high.is_below(high)),
        });
        self.last = bounds.or(last);
        let (values, indices) = (&self.values, &self.indices);
        match &self.dictionary {
            Some(dictionary) => {
                let distinct = dictionary.values.len();
                let bits = bits::width_of((distinct as u32).saturating_sub(1));
                let content = Content { encoding: Encoding::RLE_DICTIONARY, dense: true };
                self.chunk.end_page(content, page_bounds, None, |out| {
                    out.push(bits as u8);
                    bits::hybrid(indices, bits, out);
                })?;
                self.indices.clear();
                if too_many_distinct(distinct, self.chunk.values()) {
                    self.give_up_dictionary()?;
                }
            }
            None if self.deltas => {
                let content = Content { encoding: Encoding::DELTA_BINARY_PACKED, dense: true };
                self.chunk.end_page(content, page_bounds, None, |out| N::deltas(values, out))?;
            }
            None => {
                let content = Content { encoding: Encoding::PLAIN, dense: false };
                self.chunk.end_page(content, page_bounds, None, |out| N::plain(values, width, out))?;
            }
        }
        self.values.clear();
        Ok(())
    }

    pub(super) fn close(mut self) -> Result<(Pieces, ColumnCloseResult)> {
        self.give_up_dictionary()?;
        let signed = self.chunk.descr().sort_order().is_signed();
        let statistics = N::statistics(self.bounds, self.chunk.nulls(), self.width, signed);
        self.chunk.close(statistics)
    }
}

fn stored<N: Number>(value: N, width: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(width);
    N::plain(&[value], width, &mut bytes);
    bytes
}
