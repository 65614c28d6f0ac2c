//! Who reads what next. Pure.
//!
//! A reader takes a *job*: as many neighbouring chunks of one table as make one file of the right size, but never more than its share of
//! what is left, so that towards the end of a run jobs become smaller and no reader works alone for long. Tables come in the order
//! of their size, the largest first.

use super::resume::Work;
use crate::chunks::Chunk;
use std::collections::VecDeque;
use writers::{Part, PartName, Stats};

/// What a chunk costs at least, in bytes: a query.
const WEIGHT_MIN: u64 = 64 << 10;
/// Bytes of a row where only the number of rows is known.
const ROW_BYTES: u64 = 128;
/// Bytes in a file for a byte in the heap, before a table has told its own: in the middle of what columns compress to.
const RATIO: f64 = 0.25;
/// Jobs that each reader should still get from what is left.
const SHARE: u64 = 2;

/// What is left to do, and what has been staged.
#[derive(Debug)]
pub struct Board<P> {
    tables: Vec<Pending<P>>,
    /// Tables by size, the largest first.
    order: Vec<usize>,
    readers: u64,
    file_bytes: u64,
    /// Weight of all chunks in the queues.
    left: u64,
}

#[derive(Debug)]
struct Pending<P> {
    generation: String,
    attempt: u32,
    /// Number of the next part.
    sequence: u32,
    queue: VecDeque<Chunk>,
    /// Chunks not yet staged, those being read included.
    remaining: usize,
    parts: Vec<P>,
    failed: bool,
    /// Weight read and bytes stored so far in this attempt.
    read: u64,
    stored: u64,
}

/// What one reader reads into one part.
#[derive(Debug)]
pub struct Job {
    /// Index of the stream.
    pub stream: usize,
    /// Name of the part.
    pub name: PartName,
    /// What is read: neighbours are joined.
    pub pieces: Vec<Chunk>,
    /// The same as it was planned.
    pub planned: Vec<Chunk>,
}

impl Job {
    /// For people.
    pub fn describe(&self) -> String {
        match &self.pieces[..] {
            [one] => one.describe(),
            several => format!("{} chunks", several.len()),
        }
    }
}

impl<P: Part> Board<P> {
    /// The board of `readers` who fill files of about `file_bytes`.
    pub fn new(work: Vec<Work<P>>, readers: usize, file_bytes: u64) -> Self {
        let tables: Vec<Pending<P>> = work
            .into_iter()
            .map(|work| Pending {
                generation: work.generation,
                attempt: work.attempt,
                sequence: 0,
                remaining: work.chunks.len(),
                queue: work.chunks.into(),
                parts: work.kept,
                failed: false,
                read: 0,
                stored: 0,
            })
            .collect();
        let sizes: Vec<u64> = tables.iter().map(|table| table.queue.iter().map(weight).sum()).collect();
        let mut order: Vec<usize> = (0..tables.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(sizes[*index]));
        Self { tables, order, readers: readers.max(1) as u64, file_bytes, left: sizes.iter().sum() }
    }

    /// Chunks that nobody has taken.
    pub fn chunks_left(&self) -> usize {
        self.tables.iter().map(|table| table.queue.len()).sum()
    }

    /// The next job.
    pub fn next_job(&mut self) -> Option<Job> {
        let stream = *self.order.iter().find(|index| !self.tables[**index].queue.is_empty())?;
        let table = &mut self.tables[stream];
        let ratio = if table.stored > 0 { table.stored as f64 / table.read.max(1) as f64 } else { RATIO };
        // As a float it cannot overflow, and the cast saturates.
        let of_one_file = (self.file_bytes as f64 / ratio) as u64;
        let most = of_one_file.min(self.left / (SHARE * self.readers));

        let mut pieces: Vec<Chunk> = Vec::new();
        let mut planned = Vec::new();
        let mut taken = 0;
        while let Some(chunk) = table.queue.front()
            && (taken == 0 || taken + weight(chunk) <= most)
        {
            taken += weight(chunk);
            if !pieces.last_mut().is_some_and(|last| last.join(chunk)) {
                pieces.push(chunk.clone());
            }
            planned.extend(table.queue.pop_front());
        }
        self.left -= taken.min(self.left);
        // Names of an earlier attempt are not used again: a late upload of it must not replace a file of this one.
        let generation = format!("{}-{}", table.generation, table.attempt);
        let name = PartName { generation, sequence: table.sequence };
        table.sequence += 1;
        Some(Job { stream, name, pieces, planned })
    }

    /// Takes what was staged; whether the table is now complete.
    pub fn staged(&mut self, job: &Job, part: P) -> bool {
        let table = &mut self.tables[job.stream];
        let Stats { bytes, .. } = part.stats();
        table.read += job.planned.iter().map(weight).sum::<u64>();
        table.stored += bytes;
        table.parts.push(part);
        table.remaining -= job.planned.len();
        table.remaining == 0 && !table.failed
    }

    /// Gives a table up: nothing more of it is read.
    pub fn abandon(&mut self, stream: usize) {
        let table = &mut self.tables[stream];
        table.failed = true;
        self.left -= table.queue.drain(..).map(|chunk| weight(&chunk)).sum::<u64>().min(self.left);
    }

    /// The parts of a complete table, and the name of its load.
    pub fn take(&mut self, stream: usize) -> (Vec<P>, String) {
        let table = &mut self.tables[stream];
        (std::mem::take(&mut table.parts), table.generation.clone())
    }
}

fn weight(chunk: &Chunk) -> u64 {
    let rows = if chunk.estimated_bytes == 0 { chunk.estimated_rows.unwrap_or(0).saturating_mul(ROW_BYTES) } else { 0 };
    chunk.estimated_bytes.max(rows).max(WEIGHT_MIN)
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
