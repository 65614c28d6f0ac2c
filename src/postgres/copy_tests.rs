//! COPY against a real server: rows of all sizes, the end of the command however it comes.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::error::Retry;
use crate::postgres::connect::{ConnectOptions, SslMode, wire};
use crate::postgres::frame::BUFFER_BYTES;
use crate::postgres::testing::Server;
use std::time::{Duration, Instant};

/// All payloads of a COPY, joined; large ones are allowed.
async fn drain(c: &mut Connection, sql: &str) -> Result<(Vec<u8>, u64)> {
    let mut copy = c.copy_out(sql).await?;
    let mut bytes = Vec::new();
    loop {
        let mut sink = |payload: &[u8]| {
            bytes.extend_from_slice(payload);
            Ok(())
        };
        let event = copy.read(&mut sink);
        match event.await? {
            Event::Data => {}
            Event::Large(n) => copy.allow(n),
            Event::Done { rows } => return Ok((bytes, rows)),
        }
    }
}

/// The three ways to a server.
fn ways(server: &Server) -> [ConnectOptions; 3] {
    let mut tls = server.options(server.tcp(), "postgres");
    tls.tls.mode = SslMode::Require;
    [server.options(server.unix(), "postgres"), server.options(server.tcp(), "postgres"), tls]
}

/// The rows of binary COPY of one bytea or text column (manual, COPY, "Binary Format").
fn values(mut bytes: &[u8]) -> Vec<&[u8]> {
    bytes = bytes.strip_prefix(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0").expect("header");
    let mut found = Vec::new();
    loop {
        let (count, rest) = bytes.split_at(2);
        if count == [0xff, 0xff] {
            assert!(rest.is_empty());
            return found;
        }
        assert_eq!(count, [0, 1]);
        let (length, rest) = rest.split_at(4);
        let (value, rest) = rest.split_at(u32::from_be_bytes(length.try_into().unwrap()) as usize);
        found.push(value);
        bytes = rest;
    }
}

#[tokio::test]
async fn rows_of_one_byte_to_20_megabytes_arrive_whole_and_in_order() {
    let sizes = [1, 2, 20_000_000, 1, 600_000, 524_270, 524_280, 524_290, 3, 5_000_000, 5_000_001, 1];
    let list = sizes.map(|n| n.to_string()).join(",");
    let sql = format!(
        "COPY (SELECT repeat(chr(64 + i::int), n) FROM unnest('{{{list}}}'::int[]) WITH ORDINALITY AS t(n, i) ORDER BY i) TO STDOUT (FORMAT binary)"
    );
    let server = Server::shared();
    for options in ways(&server) {
        let mut c = wire(&options).await.unwrap();
        for _ in 0..2 {
            let (bytes, rows) = drain(&mut c, &sql).await.unwrap();
            assert_eq!(rows, sizes.len() as u64);
            let found = values(&bytes);
            assert_eq!(found.len(), sizes.len());
            for (i, (value, size)) in found.iter().zip(sizes).enumerate() {
                assert!(value.len() == size && value.iter().all(|&b| usize::from(b) == 65 + i), "row {i}");
            }
            assert_eq!(c.buffer.capacity(), BUFFER_BYTES);
        }
    }
}

#[tokio::test]
async fn a_large_row_waits_for_permission() {
    let server = Server::shared();
    let mut c = wire(&server.options(server.tcp(), "postgres")).await.unwrap();
    let mut copy = c.copy_out("COPY (SELECT repeat('x', 2000000) FROM generate_series(1, 2)) TO STDOUT").await.unwrap();
    assert!(!copy.is_binary());
    assert_eq!(copy.columns(), 1);
    let mut lengths = Vec::new();
    let mut sink = |payload: &[u8]| {
        lengths.push(payload.len());
        Ok(())
    };
    for _ in 0..2 {
        assert_eq!(copy.read(&mut sink).await.unwrap(), Event::Large(2_000_001));
        copy.allow(2_000_000);
        assert_eq!(copy.read(&mut sink).await.unwrap(), Event::Large(2_000_001));
        assert!(copy.connection.buffer.capacity() <= BUFFER_BYTES);
        copy.allow(2_000_001);
        assert_eq!(copy.read(&mut sink).await.unwrap(), Event::Data);
        assert_eq!(copy.connection.buffer.capacity(), BUFFER_BYTES);
    }
    assert_eq!(copy.read(&mut sink).await.unwrap(), Event::Done { rows: 2 });
    drop(copy);
    assert_eq!(lengths, [2_000_001; 2]);
    assert!(c.simple("SELECT 1").await.is_ok());
}

#[tokio::test]
async fn many_rows_arrive_by_every_way() {
    let server = Server::shared();
    for options in ways(&server) {
        let mut c = wire(&options).await.unwrap();
        let (bytes, rows) = drain(&mut c, "COPY (SELECT g FROM generate_series(1, 1000000) g) TO STDOUT").await.unwrap();
        assert_eq!(rows, 1_000_000);
        let expected: String = (1..=1_000_000).map(|g| format!("{g}\n")).collect();
        assert!(bytes == expected.as_bytes());
    }
}

#[tokio::test]
async fn no_rows_are_no_error() {
    let server = Server::shared();
    let mut c = wire(&server.options(server.tcp(), "postgres")).await.unwrap();
    assert_eq!(drain(&mut c, "COPY (SELECT 1 WHERE false) TO STDOUT").await.unwrap(), (vec![], 0));
    let (bytes, rows) = drain(&mut c, "COPY (SELECT 1 WHERE false) TO STDOUT (FORMAT binary)").await.unwrap();
    assert_eq!((values(&bytes).len(), rows), (0, 0));
    assert_eq!(
        drain(&mut c, "BEGIN; SELECT 1; COPY (SELECT FROM generate_series(1,3)) TO STDOUT; COMMIT").await.unwrap(),
        (b"\n\n\n".to_vec(), 3)
    );
}

/// A slow trickle after a fast megabyte must not wait until 256 KiB have gathered.
#[tokio::test]
async fn bytes_below_the_mark_are_read_in_time() {
    let server = Server::shared();
    for options in ways(&server) {
        let mut c = wire(&options).await.unwrap();
        let sql = "COPY (SELECT repeat('x', 9000), pg_sleep(CASE WHEN g > 1000 THEN 0.3 ELSE 0 END)::text FROM generate_series(1, 1004) g) TO STDOUT";
        let mut copy = c.copy_out(sql).await.unwrap();
        let (mut rows, mut arrivals) = (0, Vec::new());
        loop {
            let mut sink = |_: &[u8]| {
                rows += 1;
                Ok(())
            };
            let event = copy.read(&mut sink);
            match event.await.unwrap() {
                Event::Data => arrivals.push((rows, Instant::now())),
                Event::Large(n) => panic!("{n}"),
                Event::Done { rows: found } => break assert_eq!((found, rows), (1004, 1004)),
            }
        }
        let (first, last) = (arrivals.iter().find(|a| a.0 >= 1000).unwrap().1, arrivals.last().unwrap().1);
        assert!(last - first > Duration::from_millis(500), "the trickle came in one piece");
    }
}

#[tokio::test]
async fn an_error_in_the_middle_ends_the_copy_and_keeps_the_session() {
    let server = Server::shared();
    for options in ways(&server) {
        let mut c = wire(&options).await.unwrap();
        for (sql, code) in [
            ("COPY (SELECT g, 1/(100000 - g) FROM generate_series(1, 200000) g) TO STDOUT (FORMAT binary)", "22012"),
            ("SET LOCAL statement_timeout = 300; COPY (SELECT g, pg_sleep(0.01) FROM generate_series(1, 2000) g) TO STDOUT", "57014"),
        ] {
            let mut rows = 0;
            let mut copy = c.copy_out(sql).await.unwrap();
            let error = loop {
                let mut sink = |_: &[u8]| {
                    rows += 1;
                    Ok(())
                };
                let event = copy.read(&mut sink);
                match event.await {
                    Ok(Event::Data) => {}
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => break error,
                }
            };
            drop(copy);
            assert_eq!((error.code(), error.retry()), (Some(code), Retry::Never), "{error}");
            assert!(code != "22012" || rows == 99_999, "{rows}");
            assert_eq!(c.simple("SELECT 1").await.unwrap()[0][0].as_deref(), Some("1"));
        }
    }
}

#[tokio::test]
async fn a_terminated_copy_is_transient_and_never_done() {
    let server = Server::shared();
    for options in ways(&server) {
        let mut c = wire(&options).await.unwrap();
        let mut killer = wire(&server.options(server.unix(), "postgres")).await.unwrap();
        let kill = format!("SELECT pg_terminate_backend({}, 5000)", c.backend_pid());
        let mut copy = c.copy_out("COPY (SELECT g, repeat('x', 1000) FROM generate_series(1, 100000000) g) TO STDOUT").await.unwrap();
        for _ in 0..20 {
            assert_eq!(copy.read(&mut |_| Ok(())).await.unwrap(), Event::Data);
        }
        let drained = async {
            loop {
                match copy.read(&mut |_| Ok(())).await {
                    Ok(Event::Data) => {}
                    other => break other,
                }
            }
        };
        let (end, killed) = tokio::join!(drained, killer.simple(&kill));
        killed.unwrap();
        let error = end.unwrap_err();
        assert_eq!(error.retry(), Retry::Again, "{error}");
        drop(copy);
        assert_eq!(c.simple("SELECT 1").await.unwrap_err().retry(), Retry::Again);
    }
}

#[tokio::test]
async fn a_copy_that_is_given_up_cannot_be_mistaken_for_another_answer() {
    let server = Server::shared();
    let mut c = wire(&server.options(server.tcp(), "postgres")).await.unwrap();
    let mut copy = c.copy_out("COPY (SELECT generate_series(1, 1000000)) TO STDOUT").await.unwrap();
    let error = copy.read(&mut |_| Err::<(), _>(Error::schema("enough"))).await.unwrap_err();
    assert_eq!(error.to_string(), "enough");
    // Going on after an error of the sink: no payload is missing but the one it had.
    let mut rows = 1;
    while let Event::Data = copy
        .read(&mut |_| {
            rows += 1;
            Ok(())
        })
        .await
        .unwrap()
    {}
    assert_eq!(rows, 1_000_000);
    drop(copy);
    drop(c.copy_out("COPY (SELECT generate_series(1, 1000000)) TO STDOUT").await.unwrap());
    assert!(c.simple("SELECT 1").await.unwrap_err().to_string().contains("busy"));
}
