//! One chunk: COPY bytes in, Arrow batches out, cut by size and paid for from the memory pool.

use super::meter::Meter;
use super::pace::Pace;
use super::plan::StreamPlan;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::postgres::copy::{Event, Flow};
use crate::postgres::decode::Decoder;
use crate::postgres::wire::Connection;
use crate::types::Wire;
use arrow::array::RecordBatch;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::mpsc::Sender;

/// Memory per byte of a large row: its message, its decoded form, its pages in the encoder and their compressed form.
const LARGE_ROW_FACTOR: usize = 5;
/// The same for a row in text, whose escapes are resolved into a copy of it.
const LARGE_LINE_FACTOR: usize = 6;
/// What a batch may hold beyond its target: its last row, unless that is a large one.
pub const OVERSHOOT: usize = 1 << 20;

/// How big batches are, and where their memory comes from.
#[derive(Clone, Debug)]
pub struct BatchLimits {
    /// The pool.
    pub memory: Memory,
    /// A batch is cut when it holds this many bytes.
    pub batch_bytes: usize,
    /// A batch is cut when it holds this many rows; each comes in a message of its own (manual, "COPY Operations").
    pub batch_rows: usize,
    /// How fast rows may come.
    pub pace: Pace,
}

impl BatchLimits {
    /// Whether the batch under construction takes another row.
    fn have_room_after(&self, decoder: &Decoder) -> bool {
        decoder.bytes() < self.batch_bytes && decoder.rows() < self.batch_rows
    }
}

/// Runs `sql` (a COPY … TO STDOUT in the plan's form) and sends its rows as batches. Returns the number of rows.
///
/// When the other side has hung up (the writer failed and says why itself) it stops early without an error.
pub async fn read_chunk(
    connection: &mut Connection,
    sql: &str,
    plan: &StreamPlan,
    limits: &BatchLimits,
    meter: &Meter,
    batches: &Sender<Result<RecordBatch>>,
) -> Result<u64> {
    let factor = if plan.wire == Wire::Text { LARGE_LINE_FACTOR } else { LARGE_ROW_FACTOR };
    // Builders grow by doubling, so a batch may occupy twice what it holds.
    let usual = 2 * limits.batch_bytes + OVERSHOOT;
    let mut decoder = Decoder::new(&plan.columns, &plan.id, plan.wire);
    let mut reservation = Some(limits.memory.reserve(usual).await?);
    let mut copy = connection.copy_out(sql).await?;
    let mut rows: u64 = 0;
    let mut large = false;
    loop {
        let mut received: u64 = 0;
        let before = decoder.rows();
        let event = copy
            .read(&mut |payload: &[u8]| {
                received += payload.len() as u64;
                decoder.push(payload)?;
                // Some types grow when they are decoded: `1e131000` is 16 bytes on the wire and 131 kB as text.
                Ok(if limits.have_room_after(&decoder) { Flow::More } else { Flow::Enough })
            })
            .await?;
        meter.bytes_read.fetch_add(received, Relaxed);
        limits.pace.spend((decoder.rows() - before) as u64, received).await;
        let (flush, next) = match event {
            Event::Data if !large && limits.have_room_after(&decoder) => continue,
            Event::Data => (true, Some(usual)),
            Event::Large(bytes) => (true, Some(bytes.saturating_mul(factor).max(usual))),
            Event::Done { .. } => (true, None),
        };
        if flush && decoder.rows() > 0 {
            rows += decoder.rows() as u64;
            meter.rows_read.fetch_add(decoder.rows() as u64, Relaxed);
            let mut batch = decoder.finish_batch()?;
            if let Some(reservation) = reservation.take() {
                batch = reservation.attach(batch)?;
            }
            if batches.send(Ok(batch)).await.is_err() {
                return Ok(rows);
            }
        }
        match (event, next) {
            (Event::Done { rows: told }, _) => {
                decoder.finish()?;
                if told != rows {
                    return Err(Error::source_db(format!("the server says it sent {told} rows, and {rows} were decoded"))
                        .doing(format!("read {}", plan.id)));
                }
                return Ok(rows);
            }
            (Event::Large(bytes), Some(needed)) => {
                // Nothing is held while waiting for more, so readers cannot wait for each other in a circle.
                drop(reservation.take());
                reservation =
                    Some(limits.memory.reserve(needed).await.map_err(|e| e.doing(format!("read a row of {bytes} bytes of {}", plan.id)))?);
                copy.allow(bytes);
                large = true;
            }
            (_, Some(needed)) => {
                drop(reservation.take());
                reservation = Some(limits.memory.reserve(needed).await?);
                large = false;
            }
            (Event::Data, None) => {}
            (Event::Large(_), None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::selection::choose;
    use crate::discover::{DiscoverOptions, to_streams};
    use crate::postgres::scope::Scope;
    use crate::postgres::testing::Server;
    use crate::postgres::{catalog, connect};
    use crate::sync::advance::Aim;
    use crate::sync::plan::Terms;
    use crate::sync::{Planner, adapt};

    /// Rows of each batch of 100 rows of about 110 bytes.
    async fn batches(server: &Server, batch_bytes: usize, batch_rows: usize, wire: Wire) -> Vec<usize> {
        let options = server.options(server.unix(), "postgres");
        let session = connect::session(&options).await.unwrap();
        let create = "DROP TABLE IF EXISTS batches; CREATE TABLE batches AS SELECT i, repeat('x', 100) AS x FROM generate_series(1, 100) i";
        session.client.batch_execute(create).await.unwrap();
        let found = catalog::load(&session.client, &Scope::default()).await.unwrap();
        let mut streams = to_streams(&found, &DiscoverOptions::default()).unwrap();
        streams.streams.iter_mut().for_each(|entry| entry.stream.sync_mode = "full_refresh".to_owned());
        let chosen: Vec<_> = choose(&streams, None).unwrap().into_iter().filter(|chosen| chosen.stream.name == "batches").collect();
        let terms = Terms { wire, ..Terms::default() };
        let planner = Planner { options: options.clone(), collapse_partitions: false, terms };
        let (plan, _) = planner.plan(&chosen, &adapt::Known::new(), &|_| false).await.unwrap().0.remove(0);
        let format = if wire == Wire::Text { "text" } else { "binary" };
        let sql = format!("COPY (SELECT {} FROM batches) TO STDOUT (FORMAT {format})", plan.select(&Aim::everything(None)).join(", "));
        let limits = BatchLimits { memory: Memory::new(1 << 30), batch_bytes, batch_rows, pace: Pace::default() };
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1000);
        let mut connection = connect::wire(&options).await.unwrap();
        assert_eq!(read_chunk(&mut connection, &sql, &plan, &limits, &Meter::new("batches"), &sender).await.unwrap(), 100);
        let mut sizes = Vec::new();
        while let Ok(batch) = receiver.try_recv() {
            sizes.push(batch.unwrap().num_rows());
        }
        sizes
    }

    #[tokio::test]
    async fn batches_are_cut_by_bytes_and_by_rows() {
        let server = Server::shared();
        for wire in [Wire::Binary, Wire::Text] {
            assert_eq!(batches(&server, 1 << 20, usize::MAX, wire).await, [100]);
            assert_eq!(batches(&server, 1 << 20, 100, wire).await, [100]);
            assert_eq!(batches(&server, 1 << 20, 30, wire).await, [30, 30, 30, 10]);
            assert_eq!(batches(&server, 1 << 20, 1, wire).await, [1; 100]);
            // Whichever comes first.
            assert!(batches(&server, 500, 30, wire).await.iter().all(|rows| *rows < 10));
        }
    }
}
