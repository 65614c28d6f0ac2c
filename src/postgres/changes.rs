//! The changes of a slot, however they are read: in a replication connection as they happen, or asked for by SQL.
//!
//! Promises: the same calls, the same messages, the same acknowledgements. What is different is said with each function of
//! [`super::replication_stream`] and [`super::slot_poll`].

use super::connect::ConnectOptions;
use super::copy_data::Flow;
use super::lsn::Lsn;
use super::replication::{Replication, SlotOptions, StartOptions};
use super::replication_status::Acknowledger;
use super::replication_stream::{Event, Received, ReplicationStream};
use super::slot_poll::{self, PollStream, Rhythm};
use crate::error::Result;
use std::time::Duration;

/// How a slot is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A replication connection.
    Stream,
    /// SQL functions.
    Poll(Rhythm),
}

/// A slot that is being read.
pub enum Changes {
    /// A replication connection.
    Stream(Box<ReplicationStream>),
    /// SQL functions.
    Poll(Box<PollStream>),
}

impl Way {
    /// Creates a slot for the plugin `pgoutput`, which standbys keep too if it is for `failover` (PostgreSQL 17 and later); gives its first
    /// position. Waits until the transactions that have written something have ended.
    pub async fn create_slot(self, options: &ConnectOptions, name: &str, failover: bool) -> Result<Lsn> {
        match self {
            Self::Stream => {
                let mut replication = Replication::connect(options).await?;
                let created = replication.create_slot(&SlotOptions { name: name.to_owned(), failover, ..SlotOptions::default() }).await?;
                replication.close().await;
                Ok(created.consistent_point)
            }
            Self::Poll(_) => slot_poll::create_slot(options, name, failover).await,
        }
    }

    /// Starts to read. The status interval in `start` is the longest one: where the server is to hear of us more often, it is
    /// what the server needs.
    pub async fn open(self, options: &ConnectOptions, start: &StartOptions) -> Result<Changes> {
        match self {
            Self::Stream => {
                let mut replication = Replication::connect(options).await?;
                let status_interval = replication.status_interval().await?.min(start.status_interval);
                let stream = replication.start(&StartOptions { status_interval, ..start.clone() }).await?;
                Ok(Changes::Stream(Box::new(stream)))
            }
            Self::Poll(rhythm) => Ok(Changes::Poll(Box::new(PollStream::start(options, start, rhythm).await?))),
        }
    }
}

impl Changes {
    /// Tells the server how far we are.
    pub fn acknowledger(&self) -> Acknowledger {
        match self {
            Self::Stream(stream) => stream.acknowledger(),
            Self::Poll(stream) => stream.acknowledger(),
        }
    }

    /// What the slot had confirmed at the start.
    pub fn confirmed(&self) -> Lsn {
        match self {
            Self::Stream(stream) => stream.confirmed(),
            Self::Poll(stream) => stream.confirmed(),
        }
    }

    /// Permits one message of up to `bytes`; afterwards the buffer shrinks back.
    pub fn allow(&mut self, bytes: usize) {
        match self {
            Self::Stream(stream) => stream.allow(bytes),
            Self::Poll(stream) => stream.allow(bytes),
        }
    }

    /// Waits for messages and hands them to `sink`. May be given up at any await, and called again.
    pub async fn read<F: Into<Flow>>(&mut self, sink: &mut impl FnMut(Received<'_>) -> Result<F>) -> Result<Event> {
        match self {
            Self::Stream(stream) => stream.read(sink).await,
            Self::Poll(stream) => stream.read(sink).await,
        }
    }

    /// Ends reading and the session; then the server has what was acknowledged. It is a transient error if that takes longer
    /// than `limit`.
    pub async fn finish(self, limit: Duration) -> Result<()> {
        match self {
            Self::Stream(stream) => {
                stream.finish(limit).await?.close().await;
                Ok(())
            }
            Self::Poll(stream) => stream.finish(limit).await,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::postgres::replication::tests::{sql, value};
    use crate::postgres::replication::{Protocol, Streaming};
    use crate::postgres::testing::Server;

    #[tokio::test]
    async fn both_ways_are_called_alike() {
        let server = Server::shared();
        let options = server.options(server.unix(), "postgres");
        sql(&server, "CREATE TABLE both_ways (i int); CREATE PUBLICATION both_ways FOR TABLE both_ways").await;
        let rhythm = Rhythm { interval: Duration::from_millis(20), rows: 1 };
        for (way, slot) in [(Way::Stream, "both_stream"), (Way::Poll(rhythm), "both_poll")] {
            let created = way.create_slot(&options, slot, false).await.unwrap();
            let start = StartOptions {
                slot: slot.to_owned(),
                from: Lsn(0),
                publications: vec!["both_ways".to_owned()],
                protocol: Protocol { version: 1, binary: false, streaming: Streaming::Off, two_phase: false, messages: false },
                status_interval: Duration::from_secs(1),
                timeout: Duration::from_secs(30),
            };
            let mut changes = way.open(&options, &start).await.unwrap();
            assert_eq!(changes.confirmed(), created);
            sql(&server, "INSERT INTO both_ways VALUES (1), (2)").await;
            let (mut seen, mut end) = (String::new(), Lsn::default());
            while !seen.ends_with('C') {
                let mut sink = |received: Received<'_>| {
                    if let Received::Data { payload, position, .. } = received {
                        seen.push(char::from(payload[0]));
                        end = position;
                    }
                    Ok(())
                };
                match tokio::time::timeout(Duration::from_secs(20), changes.read(&mut sink)).await.expect("changes").unwrap() {
                    Event::Large(bytes) => changes.allow(bytes),
                    event => assert_eq!(event, Event::Data),
                }
            }
            assert_eq!(seen, "BRIIC");
            let acknowledger = changes.acknowledger();
            acknowledger.flushed(end);
            acknowledger.tell();
            changes.finish(Duration::from_secs(20)).await.unwrap();
            let query = format!(
                "SELECT confirmed_flush_lsn, pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"
            );
            assert_eq!(value(&server, &query).await.unwrap(), end.to_string());
        }
    }
}
