//! The run's memory budget, and how it is held.
//!
//! Two shares are fixed when the run starts: what encoders may hold per part, and receive buffers.
//! The rest is a pool of bytes from which every batch is reserved *before* its first row is decoded.
//! The reservation rides inside the batch (see [`Reservation::attach`]) and returns to the pool when
//! the last reference to the batch is dropped. A reader never asks for memory while it holds an
//! unfinished batch, so readers cannot wait for each other in a circle.
//!
//! What is reserved is not what the process holds: allocators keep freed pages, and encoders are estimated. So the
//! process looks at itself as well ([`Memory::watch`]): near the limit it gives free pages back to the system, and when
//! that is not enough, reading waits until the encoders have caught up.

use crate::error::{Error, Result};
use arrow::array::{RecordBatch, make_array};
use arrow::buffer::Buffer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Granularity of the pool: a semaphore counts in 32 bits, bytes would overflow it.
const UNIT: usize = 4096;

/// How often the process looks at itself.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);
/// Pause between two attempts to give pages back, because each walks the whole heap.
const TRIM_INTERVAL: Duration = Duration::from_millis(100);

/// The pool from which batches are reserved. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Memory {
    pool: Arc<Semaphore>,
    pool_bytes: usize,
    /// The process is too large: nothing more is to be reserved while anything is out.
    tight: Arc<AtomicBool>,
}

/// A number of bytes of the pool; returned when dropped.
#[derive(Debug)]
pub struct Reservation {
    _permit: OwnedSemaphorePermit,
}

impl Memory {
    /// A pool of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { pool: Arc::new(Semaphore::new(units)), pool_bytes: units * UNIT, tight: Arc::default() }
    }

    /// Size of the pool in bytes.
    pub fn pool_bytes(&self) -> usize {
        self.pool_bytes
    }

    /// Waits until `bytes` are free. An amount larger than the pool can never be had and is an error.
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation> {
        if bytes > self.pool_bytes {
            return Err(Error::config(format!(
                "a row needs {} MiB of working memory, and the batch pool has {} MiB",
                bytes.div_ceil(1 << 20),
                self.pool_bytes >> 20
            ))
            .hint("raise --memory-limit"));
        }
        while self.tight.load(Relaxed) && self.pool.available_permits() * UNIT < self.pool_bytes {
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
        let units = u32::try_from(bytes.div_ceil(UNIT)).map_err(|_| Error::bug("a reservation of more than 16 TiB"))?;
        let permit = self.pool.clone().acquire_many_owned(units).await.map_err(|_| Error::bug("the memory pool was closed"))?;
        Ok(Reservation { _permit: permit })
    }
}

impl Memory {
    /// Keeps the whole process below `limit` bytes, for as long as it is polled.
    pub async fn watch(&self, limit: u64) {
        let (trim_at, wait_at) = (limit / 100 * 80, limit / 100 * 88);
        let mut trimmed: Option<Instant> = None;
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            let mut resident = resident_bytes();
            if resident > trim_at && trimmed.is_none_or(|at| at.elapsed() > TRIM_INTERVAL) {
                // Errors of the blocking pool only mean that the process is ending.
                let _ = tokio::task::spawn_blocking(give_back).await;
                trimmed = Some(Instant::now());
                resident = resident_bytes();
            }
            self.tight.store(resident > wait_at, Relaxed);
        }
    }
}

/// Resident memory of this process (`/proc/self/statm`), 0 where that is not to be had.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// A limit from which freed buffers are kept for the next batch.
const ROOMY: u64 = 256 << 20;

/// Tells the allocator what to do with large buffers that are freed. To be called before there are threads.
///
/// With room, they are kept: a column of a batch, a page or a part of it are of some MB, are needed again at once, and fresh pages from the system
/// cost more than what is done with them (rows of 45 kB: 5.4 CPU seconds instead of 10.6, `./build.sh bench toast`). In little
/// memory they are returned at once: glibc would otherwise raise the size from which it does so to 32 MiB, as soon as one
/// such buffer is freed, and a sync of rows of 8 MB in 128 MiB then holds 30 MB more.
pub fn prepare_allocator(limit: u64) {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "mallopt(3) has no safe form; it is called before there is another thread")]
    // SAFETY: both parameters are documented in mallopt(3); the values are sizes in bytes.
    unsafe {
        let (mapped, kept) = if limit < ROOMY { (1 << 20, 8 << 20) } else { (32 << 20, 32 << 20) };
        libc::mallopt(libc::M_MMAP_THRESHOLD, mapped);
        libc::mallopt(libc::M_TRIM_THRESHOLD, kept);
    }
}

fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "malloc_trim(3) has no safe form")]
    // SAFETY: malloc_trim(3) is thread-safe and touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

impl Reservation {
    /// Ties the reservation to the batch: it is released when the batch's memory is.
    pub fn attach(self, batch: RecordBatch) -> Result<RecordBatch> {
        let schema = batch.schema();
        let mut columns = batch.columns().to_vec();
        let mut reservation = Some(self);
        // Fixed-width columns first: rebuilding one is free, rebuilding text checks its UTF-8 again.
        let mut order: Vec<usize> = (0..columns.len()).collect();
        order.sort_by_key(|&i| !columns[i].data_type().is_primitive());
        for index in order {
            let column = &mut columns[index];
            let data = column.to_data();
            let Some(position) = data.buffers().iter().position(|b| !b.is_empty()) else { continue };
            let mut buffers = data.buffers().to_vec();
            let held = Held { buffer: buffers[position].clone(), _reservation: reservation.take() };
            buffers[position] = Buffer::from(bytes::Bytes::from_owner(held));
            let data = data.into_builder().buffers(buffers).build().map_err(|e| Error::bug(format!("rebuild a column: {e}")))?;
            *column = make_array(data);
            break;
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(schema, columns, &options).map_err(|e| Error::bug(format!("rebuild a batch: {e}")))
    }
}

struct Held {
    buffer: Buffer,
    _reservation: Option<Reservation>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    fn batch() -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![1, 2])), Arc::new(StringArray::from(vec!["x", "y"]))])
            .expect("batch")
    }

    #[tokio::test]
    async fn a_reservation_lives_as_long_as_the_last_slice_of_its_batch() {
        let memory = Memory::new(10 * UNIT);
        let held = memory.reserve(8 * UNIT).await.expect("reserve").attach(batch()).expect("attach");
        assert_eq!(held, batch());
        let slice = held.slice(1, 1);
        drop(held);
        assert_eq!(memory.pool.available_permits(), 2);
        drop(slice);
        assert_eq!(memory.pool.available_permits(), 10);
    }

    #[tokio::test]
    async fn more_than_the_pool_is_an_error_that_names_the_remedy() {
        let error = Memory::new(UNIT).reserve(UNIT + 1).await.expect_err("too much");
        assert!(error.advice().is_some_and(|h| h.contains("--memory-limit")));
    }
}
