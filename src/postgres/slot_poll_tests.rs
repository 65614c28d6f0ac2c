//! Polling against real servers: the same changes as a stream, each once, and every refusal.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::postgres::frame::BUFFER_BYTES;
use crate::postgres::replication::Protocol;
use crate::postgres::replication::tests::{connect, is_commit, sql, table, tags, value};
use crate::postgres::replication::{Replication, Streaming};
use crate::postgres::testing::Server;
use std::collections::BTreeSet;

/// How a slot is read by the program.
pub(super) fn options(name: &str) -> StartOptions {
    let protocol = Protocol { version: 1, binary: false, streaming: Streaming::Off, two_phase: false, messages: false };
    StartOptions { protocol, ..crate::postgres::replication::tests::options(name, 130_000) }
}

pub(super) fn rhythm(rows: u32) -> Rhythm {
    Rhythm { interval: Duration::from_millis(20), rows }
}

pub(super) async fn poll(server: &Server, name: &str, rows: u32) -> PollStream {
    PollStream::start(&server.options(server.unix(), "postgres"), &options(name), rhythm(rows)).await.unwrap()
}

/// The end of a transaction, from its Commit message.
pub(super) fn end_of(commit: &[u8]) -> Lsn {
    Lsn(u64::from_be_bytes(*commit[10..].first_chunk().unwrap()))
}

pub(super) async fn confirmed(server: &Server, slot: &str) -> Lsn {
    let query = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
    value(server, &query).await.unwrap().parse().unwrap()
}

async fn log_end(server: &Server) -> Lsn {
    value(server, "SELECT pg_current_wal_insert_lsn()").await.unwrap().parse().unwrap()
}

/// Messages with their positions, up to a keepalive that is as far as `end`; reading is given up again and again.
pub(super) async fn until(stream: &mut PollStream, end: Lsn) -> Result<Vec<(Lsn, Vec<u8>)>> {
    let (mut found, mut reached) = (Vec::new(), Lsn::default());
    let begun = Instant::now();
    while reached < end {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing more comes: {reached} of {end}");
        let mut sink = |received: Received<'_>| {
            match received {
                Received::Data { position, payload, .. } => found.push((position, payload.to_vec())),
                Received::Keepalive { position, .. } => reached = position,
            }
            Ok(())
        };
        match tokio::time::timeout(Duration::from_millis(3), stream.read(&mut sink)).await {
            Err(_) | Ok(Ok(Event::Data)) => {}
            Ok(Ok(Event::Large(bytes))) => stream.allow(bytes),
            Ok(Ok(Event::Done)) => panic!("the end"),
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(found)
}

/// The same, with the end of the log as it is now, and without positions.
pub(super) async fn all(server: &Server, stream: &mut PollStream) -> Vec<Vec<u8>> {
    // A commit is on the disk before it is answered, but what follows it may not be.
    sql(server, "CHECKPOINT").await;
    let end = value(server, "SELECT pg_current_wal_flush_lsn()").await.unwrap().parse().unwrap();
    until(stream, end).await.unwrap().into_iter().map(|(_, message)| message).collect()
}

/// Without descriptions of relations and types.
fn changes(messages: &[(Lsn, Vec<u8>)]) -> Vec<(Lsn, Vec<u8>)> {
    messages.iter().filter(|(_, message)| !matches!(message[0], b'R' | b'Y')).cloned().collect()
}

/// What they are, without descriptions: any publication that another test creates has them sent again.
pub(super) fn kinds(messages: &[Vec<u8>]) -> String {
    tags(messages).replace('R', "")
}

/// All kinds of changes, in ten transactions that concern the publication.
const WORKLOAD: &[&str] = &[
    "INSERT INTO {t} SELECT g, repeat('x', g), '2024-02-01', '1 day 2 h', 0.1, 'ä€', 'b' FROM generate_series(1, 40) g",
    "BEGIN; UPDATE {t} SET t = 'y' WHERE i = 3; UPDATE {t} SET i = 1000 WHERE i = 4; DELETE FROM {t} WHERE i = 5; COMMIT",
    "BEGIN; INSERT INTO {t} VALUES (50); SAVEPOINT s; INSERT INTO {t} VALUES (51); ROLLBACK TO s; INSERT INTO {t} VALUES (52); COMMIT",
    "BEGIN; INSERT INTO {t} VALUES (53); ROLLBACK",
    "INSERT INTO {t}_other SELECT generate_series(1, 5)",
    "BEGIN; INSERT INTO {t} VALUES (60, repeat('z', 100000)); UPDATE {t} SET f = 2 WHERE i = 60; COMMIT",
    "ALTER TABLE {t} ADD COLUMN more int DEFAULT 7; ALTER TABLE {t} ALTER t SET STORAGE EXTERNAL",
    "INSERT INTO {t} (i, t) VALUES (70, repeat('toast', 20000))",
    "UPDATE {t} SET f = 3 WHERE i = 70",
    "BEGIN; ALTER TABLE {t} RENAME more TO less; INSERT INTO {t} (i, less) VALUES (80, 8); COMMIT",
    "ALTER TABLE {t} REPLICA IDENTITY FULL; UPDATE {t} SET f = 4 WHERE i < 3",
    "TRUNCATE {t}",
    "INSERT INTO {t} (i) VALUES (1)",
];

/// Reads the same by a stream and by polls, of more or fewer rows.
async fn compare(server: &Server, name: &str) {
    sql(server, "SET client_min_messages = warning; DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('a', 'b')").await;
    let columns = "i int PRIMARY KEY, t text, d timestamptz, v interval, f float8, u text, m mood, b bytea DEFAULT '\\xff'";
    table(server, name, columns).await;
    sql(server, &format!("CREATE TABLE {name}_other (i int)")).await;
    sql(server, "ALTER DATABASE postgres SET DateStyle = 'SQL, DMY'").await;
    sql(server, "ALTER DATABASE postgres SET bytea_output = 'escape'").await;
    for statement in WORKLOAD {
        sql(server, &statement.replace("{t}", name)).await;
    }
    for rows in [1, 7, 1_000_000] {
        sql(server, &format!("SELECT pg_copy_logical_replication_slot('{name}', '{name}_{rows}')")).await;
    }
    sql(server, "CHECKPOINT").await;
    let end = log_end(server).await;

    let way = server.options(server.unix(), "postgres");
    let mut stream = Replication::connect(&way).await.unwrap().start(&options(name)).await.unwrap();
    let (mut expected, mut reached) = (Vec::new(), Lsn::default());
    while reached < end {
        let mut sink = |received: Received<'_>| {
            match received {
                Received::Data { position, payload, .. } => expected.push((position, payload.to_vec())),
                Received::Keepalive { position, .. } => reached = position,
            }
            Ok(())
        };
        if tokio::time::timeout(Duration::from_millis(20), stream.read(&mut sink)).await.map(Result::unwrap).is_err() {
            stream.acknowledger().ask();
        }
    }
    stream.finish(Duration::from_secs(10)).await.unwrap().close().await;
    let commits = expected.iter().filter(|(_, message)| is_commit(message)).count();
    assert!(commits >= 10 && expected.len() > 80, "{commits} {}", expected.len());

    for rows in [1, 7, 1_000_000] {
        let mut options = options(name);
        options.slot = format!("{name}_{rows}");
        let mut stream = PollStream::start(&way, &options, rhythm(rows)).await.unwrap();
        let found = until(&mut stream, end).await.unwrap();
        // However many polls: what is old is in each answer, and so are the descriptions that were in it.
        assert!(found.iter().map(|(_, message)| message).eq(expected.iter().map(|(_, message)| message)), "{rows}");
        // Only the positions of descriptions are the plugin's in one and zero in the other.
        assert!(changes(&found) == changes(&expected), "{rows}");
        let mut last = end_of(&expected.last().unwrap().1);
        if rows > 7 {
            // On from a position that is no end of a transaction.
            stream.acknowledger().flushed(Lsn(u64::MAX));
            sql(server, &format!("INSERT INTO {name} (i) VALUES (2)")).await;
            let found = all(server, &mut stream).await;
            assert_eq!(kinds(&found).replace('Y', ""), "BIC");
            assert!(confirmed(server, &options.slot).await > last);
            last = end_of(found.last().unwrap());
        }
        stream.acknowledger().flushed(last);
        stream.finish(Duration::from_secs(10)).await.unwrap();
        assert_eq!(confirmed(server, &options.slot).await, last);
        sql(server, &format!("SELECT pg_drop_replication_slot('{}')", options.slot)).await;
    }
    sql(server, &format!("SELECT pg_drop_replication_slot('{name}')")).await;
}

#[tokio::test]
async fn a_poll_brings_what_a_stream_brings_on_every_major() {
    compare(&Server::own(), "same").await;
    let mut tried = BTreeSet::new();
    for (major, server) in Server::majors() {
        compare(&server, "same").await;
        tried.insert(major);
    }
    let missing: Vec<_> = (12..=18).filter(|major| !tried.contains(major)).collect();
    assert!(missing.is_empty() || std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: majors {missing:?}");
}

#[tokio::test]
async fn what_is_not_acknowledged_comes_once_all_the_same() {
    let server = Server::shared();
    table(&server, "once", "i int").await;
    let mut stream = poll(&server, "once", 10).await;
    for i in 0..30 {
        sql(&server, &format!("INSERT INTO once VALUES ({i})")).await;
    }
    sql(&server, "INSERT INTO once SELECT g FROM generate_series(1, 100000) g").await;
    for i in 0..30 {
        sql(&server, &format!("INSERT INTO once VALUES ({i})")).await;
    }
    let found = all(&server, &mut stream).await;
    let count = |found: &[Vec<u8>], tag: u8| found.iter().filter(|message| message[0] == tag).count();
    assert_eq!((count(&found, b'B'), count(&found, b'I'), count(&found, b'C')), (61, 100_060, 61));
    assert!(matches!(&stream.phase, Phase::Resting(connection, _) if connection.buffer.capacity() == BUFFER_BYTES));
    // Again from the start of the slot, with nothing new in it; then with something.
    assert_eq!(all(&server, &mut stream).await.len(), 0);
    sql(&server, "INSERT INTO once VALUES (1)").await;
    assert_eq!(kinds(&all(&server, &mut stream).await), "BIC");
    assert_eq!(confirmed(&server, "once").await, stream.confirmed());

    // A part is acknowledged, and the rest still comes no second time; the relation is described anew.
    sql(&server, "INSERT INTO once VALUES (2)").await;
    let first = end_of(found.iter().find(|message| is_commit(message)).unwrap());
    stream.acknowledger().flushed(first);
    assert_eq!(kinds(&all(&server, &mut stream).await), "BIC");
    assert_eq!(confirmed(&server, "once").await, first);
    let end = log_end(&server).await;
    stream.acknowledger().flushed(Lsn(u64::MAX));
    sql(&server, "INSERT INTO once VALUES (3)").await;
    assert_eq!(kinds(&all(&server, &mut stream).await), "BIC");
    assert!(confirmed(&server, "once").await <= end);
    stream.finish(Duration::from_secs(10)).await.unwrap();

    // Another reader has some of it: by its position, however the slot lags behind.
    let mut options = options("once");
    options.from = log_end(&server).await;
    let mut stream = PollStream::start(&server.options(server.unix(), "postgres"), &options, rhythm(1)).await.unwrap();
    sql(&server, "INSERT INTO once VALUES (4)").await;
    assert_eq!(kinds(&all(&server, &mut stream).await), "BIC");
    drop(stream);
    sql(&server, "SELECT pg_drop_replication_slot('once')").await;
}

#[tokio::test]
async fn an_idle_slot_moves_while_other_tables_are_written() {
    let server = Server::shared();
    table(&server, "quiet", "i int").await;
    sql(&server, "CREATE TABLE busy (i int)").await;
    let mut stream = poll(&server, "quiet", 100).await;
    let acknowledger = stream.acknowledger();
    for round in 0..3 {
        sql(&server, "INSERT INTO busy SELECT generate_series(1, 1000)").await;
        let end = log_end(&server).await;
        let before = confirmed(&server, "quiet").await;
        assert!(before < end);
        let mut reached = Lsn::default();
        while reached < end {
            let mut sink = |received: Received<'_>| {
                match received {
                    Received::Keepalive { position, .. } => reached = position,
                    // A server before 15 tells of empty transactions.
                    Received::Data { payload, .. } => assert!(matches!(payload[0], b'B' | b'C')),
                }
                Ok(())
            };
            stream.read(&mut sink).await.unwrap();
            sql(&server, "CHECKPOINT").await;
        }
        acknowledger.flushed(reached);
        acknowledger.tell();
        if round < 2 {
            stream.read(&mut |_| Ok(())).await.unwrap();
            assert!(confirmed(&server, "quiet").await >= end);
        } else {
            stream.finish(Duration::from_secs(10)).await.unwrap();
            assert_eq!(confirmed(&server, "quiet").await, reached);
            break;
        }
    }
    sql(&server, "SELECT pg_drop_replication_slot('quiet')").await;
}

#[tokio::test]
async fn nothing_is_asked_of_a_log_that_has_not_grown() {
    let server = Server::own();
    table(&server, "still", "i int").await;
    sql(&server, "ALTER SYSTEM SET autovacuum = off").await;
    sql(&server, "SELECT pg_reload_conf()").await;
    let mut stream = poll(&server, "still", 100).await;
    all(&server, &mut stream).await;
    // Even to look writes to the log at first: it tidies the catalog.
    let mut still = 0;
    while still < 10 {
        let before = stream.complete;
        stream.read(&mut |_| Ok(())).await.unwrap();
        still = if stream.complete > before { 0 } else { still + 1 };
    }
    // Any look into the slot would be refused.
    let reader = connect(&server).await.start(&options("still")).await.unwrap();
    for _ in 0..10 {
        stream.read(&mut |_| Ok(())).await.unwrap();
    }
    sql(&server, "INSERT INTO still VALUES (1)").await;
    assert_eq!(until(&mut stream, Lsn(u64::MAX)).await.unwrap_err().code(), Some("55006"));
    drop(reader);
}

#[tokio::test]
async fn the_end_stops_what_the_server_is_doing() {
    let server = Server::own();
    table(&server, "stopped", "i int").await;
    sql(&server, "INSERT INTO stopped SELECT generate_series(1, 500000)").await;
    let mut stream = poll(&server, "stopped", 100).await;
    let began = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut |_| Ok(()))).await;
    assert!(began.is_err());
    stream.finish(Duration::from_secs(10)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let busy =
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    assert_eq!(value(&server, busy).await.unwrap(), "0");
}

#[tokio::test]
async fn a_large_value_waits_for_permission_and_is_passed_over_when_it_is_old() {
    let server = Server::shared();
    table(&server, "bulky", "t text").await;
    let mut stream = poll(&server, "bulky", 1).await;
    sql(&server, "ALTER TABLE bulky ALTER t SET STORAGE EXTERNAL; INSERT INTO bulky SELECT repeat('x', 50000000)").await;
    let (mut lengths, mut large) = (Vec::new(), 0);
    while lengths.len() < 4 {
        let mut sink = |received: Received<'_>| {
            if let Received::Data { payload, .. } = received {
                lengths.push(payload.len());
            }
            Ok(())
        };
        if let Event::Large(bytes) = stream.read(&mut sink).await.unwrap() {
            assert!(bytes > 50_000_000);
            assert!(matches!(&stream.phase, Phase::Reading(connection, ..) if connection.buffer.capacity() <= BUFFER_BYTES));
            large += 1;
            if large > 1 {
                stream.allow(bytes);
            }
        }
    }
    assert!(large == 2 && lengths[2] > 50_000_000, "{large} {lengths:?}");
    sql(&server, "INSERT INTO bulky VALUES ('y')").await;
    let mut found = Vec::new();
    while !found.last().is_some_and(|message: &Vec<u8>| is_commit(message)) {
        let mut sink = |received: Received<'_>| {
            if let Received::Data { payload, .. } = received {
                found.push(payload.to_vec());
            }
            Ok(())
        };
        assert_eq!(stream.read(&mut sink).await.unwrap(), Event::Data);
    }
    assert_eq!(kinds(&found), "BIC");
    // One that nobody wants, in the middle of which it ends.
    sql(&server, "INSERT INTO bulky SELECT repeat('x', 50000000)").await;
    stream.acknowledger().flushed(end_of(found.last().unwrap()));
    while stream.read(&mut |_| Ok(())).await.unwrap() == Event::Data {}
    stream.finish(Duration::from_secs(20)).await.unwrap();
    assert_eq!(confirmed(&server, "bulky").await, end_of(found.last().unwrap()));
    sql(&server, "SELECT pg_drop_replication_slot('bulky')").await;
}

#[tokio::test]
async fn an_error_of_the_sink_comes_back_and_reading_goes_on() {
    let server = Server::shared();
    table(&server, "poll_sunk", "i int").await;
    let mut stream = poll(&server, "poll_sunk", 100).await;
    sql(&server, "INSERT INTO poll_sunk VALUES (1)").await;
    let error = loop {
        let mut sink = |received: Received<'_>| match received {
            Received::Data { .. } => Err(Error::schema("no room")),
            Received::Keepalive { .. } => Ok(Flow::More),
        };
        if let Err(error) = stream.read(&mut sink).await {
            break error;
        }
    };
    assert_eq!(error.to_string(), "no room");
    let mut one = Vec::new();
    while one.is_empty() {
        let mut sink = |received: Received<'_>| {
            if let Received::Data { payload, .. } = received {
                one.push(payload[0]);
                return Ok(Flow::Enough);
            }
            Ok(Flow::More)
        };
        stream.read(&mut sink).await.unwrap();
    }
    assert_eq!(one, b"R");
    assert_eq!(kinds(&all(&server, &mut stream).await), "IC");
    drop(stream);
    sql(&server, "SELECT pg_drop_replication_slot('poll_sunk')").await;
}
