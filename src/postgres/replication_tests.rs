//! Replication commands against real servers: slots, snapshots, and refusals.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::error::{Kind, Retry};
use crate::postgres::connect::wire;
use crate::postgres::replication_stream::{Event, Received};
use crate::postgres::testing::Server;
use std::collections::BTreeSet;

/// Runs SQL as the superuser.
pub(in crate::postgres) async fn sql(server: &Server, text: &str) -> Vec<Vec<Option<String>>> {
    let mut session = wire(&server.options(server.unix(), "postgres")).await.unwrap();
    let rows = session.simple(text).await.unwrap_or_else(|e| panic!("{e} in {text}"));
    session.close().await;
    rows
}

/// The one value of a query.
pub(in crate::postgres) async fn value(server: &Server, text: &str) -> Option<String> {
    sql(server, text).await.into_iter().next()?.into_iter().next()?
}

pub(in crate::postgres) async fn connect(server: &Server) -> Replication {
    Replication::connect(&server.options(server.unix(), "postgres")).await.unwrap()
}

/// Reads `publication` by the slot of the same name, in the best way the server knows.
pub(in crate::postgres) fn options(publication: &str, server_version: u32) -> StartOptions {
    StartOptions {
        slot: publication.to_owned(),
        from: Lsn(0),
        publications: vec![publication.to_owned()],
        protocol: protocol_for(server_version),
        status_interval: Duration::from_secs(1),
        timeout: Duration::from_secs(30),
    }
}

/// A table, a publication of it and a slot, all of the same name.
pub(in crate::postgres) async fn table(server: &Server, name: &str, columns: &str) -> CreatedSlot {
    sql(server, &format!("CREATE TABLE {name} ({columns}); CREATE PUBLICATION {name} FOR TABLE {name}")).await;
    let slot = SlotOptions { name: name.to_owned(), ..SlotOptions::default() };
    connect(server).await.create_slot(&slot).await.unwrap()
}

/// The plugin's messages up to the first for which `last` says so, however large they are.
pub(in crate::postgres) async fn messages(stream: &mut ReplicationStream, mut last: impl FnMut(&[u8]) -> bool) -> Result<Vec<Vec<u8>>> {
    let (mut found, mut end) = (Vec::new(), false);
    while !end {
        let mut sink = |received: Received<'_>| {
            if let Received::Data { payload, .. } = received {
                found.push(payload.to_vec());
                end |= last(payload);
            }
            Ok(())
        };
        let read = stream.read(&mut sink);
        match tokio::time::timeout(Duration::from_secs(60), read).await.expect("something to read")? {
            Event::Data => {}
            Event::Large(bytes) => stream.allow(bytes),
            Event::Done => break,
        }
    }
    Ok(found)
}

pub(in crate::postgres) fn is_commit(message: &[u8]) -> bool {
    message.first() == Some(&b'C')
}

/// Without repetitions, which Type messages may be.
pub(in crate::postgres) fn tags(messages: &[Vec<u8>]) -> String {
    messages.iter().map(|message| char::from(message[0])).collect()
}

#[test]
fn a_server_gets_the_best_it_knows() {
    for (version, number, binary, streaming) in [
        (100_023, 1, false, Streaming::Off),
        (130_000, 1, false, Streaming::Off),
        (140_000, 2, true, Streaming::On),
        (150_018, 3, true, Streaming::On),
        (160_000, 4, true, Streaming::Parallel),
        (190_000, 4, true, Streaming::Parallel),
    ] {
        let protocol = Protocol { version: number, binary, streaming, two_phase: false, messages: false };
        assert_eq!(protocol_for(version), protocol);
    }
}

#[test]
fn names_stay_inside_their_quotes() {
    let mut options = options("a", 130_000);
    options.slot = "A\"b".to_owned();
    options.from = Lsn(0x1_0000_00AB);
    options.publications = ["Plain", "a,b", "q\"'\\"].map(str::to_owned).into();
    let names = r#"publication_names '"Plain","a,b","q""''\"'"#;
    assert_eq!(start_command(&options), format!(r#"START_REPLICATION SLOT "A""b" LOGICAL 1/AB (proto_version '1', {names})"#));
    options.protocol = Protocol { version: 4, binary: true, streaming: Streaming::Parallel, two_phase: true, messages: true };
    let all = "binary 'true', two_phase 'true', messages 'true', streaming 'parallel'";
    assert!(start_command(&options).ends_with(&format!("(proto_version '4', {names}, {all})")));
}

#[tokio::test]
async fn what_an_older_server_lacks_is_refused_before_it_is_asked() {
    let plain = SlotOptions { name: "S".to_owned(), ..SlotOptions::default() };
    let two_phase = SlotOptions { two_phase: true, ..plain.clone() };
    let all = SlotOptions { failover: true, temporary: true, ..two_phase.clone() };
    let error = create_command(&two_phase, 149_999).unwrap_err();
    assert!(
        error.kind() == Kind::Config && error.to_string().contains("needs PostgreSQL 15") && error.to_string().contains("PostgreSQL 14")
    );
    assert!(create_command(&all, 160_000).unwrap_err().to_string().contains("needs PostgreSQL 17"));
    for (slot, version, expected) in [
        (&plain, 140_000, r#"CREATE_REPLICATION_SLOT "S" LOGICAL pgoutput EXPORT_SNAPSHOT"#),
        (&plain, 150_000, r#"CREATE_REPLICATION_SLOT "S" LOGICAL pgoutput (SNAPSHOT 'export')"#),
        (&all, 170_000, r#"CREATE_REPLICATION_SLOT "S" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export', TWO_PHASE true, FAILOVER true)"#),
    ] {
        assert_eq!(create_command(slot, version).unwrap(), expected);
    }
}

/// A slot, its snapshot in another session, and the first changes after it.
async fn slot_and_stream(server: &Server) {
    sql(server, "CREATE TABLE t (i int PRIMARY KEY, d date); CREATE PUBLICATION \"P,\"\"'\\\" FOR TABLE t; INSERT INTO t VALUES (1)").await;
    sql(server, "ALTER DATABASE postgres SET DateStyle = 'SQL, DMY'").await;
    let mut replication = connect(server).await;
    let version = replication.server_version();
    let identity = replication.identify().await.unwrap();
    assert_eq!(Some(identity.system_id.to_string()), value(server, "SELECT system_identifier FROM pg_control_system()").await);
    assert_eq!((identity.timeline, identity.database.as_str()), (1, "postgres"));
    assert_eq!(replication.status_interval().await.unwrap(), STATUS_INTERVAL_MAX);
    let mut slot = SlotOptions { name: "s".to_owned(), ..SlotOptions::default() };
    (slot.two_phase, slot.failover) = (version >= 150_000, version >= 170_000);
    let created = replication.create_slot(&slot).await.unwrap();
    assert!(created.consistent_point >= identity.position, "{created:?} {identity:?}");
    sql(server, "INSERT INTO t VALUES (2, '2024-02-01')").await;
    let adopt = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT {}", quote::literal(&created.snapshot));
    assert_eq!(value(server, &format!("{adopt}; SELECT count(*) FROM t")).await.as_deref(), Some("1"));
    // The next command ends it.
    replication.identify().await.unwrap();
    let mut late = wire(&server.options(server.unix(), "postgres")).await.unwrap();
    assert!(late.simple(&adopt).await.is_err());

    let mut options = options("P,\"'\\", version);
    options.slot = "s".to_owned();
    let mut stream = replication.start(&options).await.unwrap();
    assert_eq!(stream.confirmed(), created.consistent_point);
    let found = messages(&mut stream, is_commit).await.unwrap();
    assert_eq!(tags(&found), "BRIC", "PostgreSQL {version}");
    let date: &[u8] = if options.protocol.binary { b"b\0\0\0\x04\0\0\x22\x5d" } else { b"t\0\0\0\x0a2024-02-01" };
    assert!(found[2].ends_with(date), "PostgreSQL {version}: {}", found[2].escape_ascii());
    let mut replication = stream.finish(Duration::from_secs(10)).await.unwrap();
    replication.drop_slot("s", Duration::ZERO).await.unwrap();
    let error = replication.drop_slot("s", Duration::from_secs(60)).await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some("42704"), Retry::Never), "{error}");
    replication.close().await;
}

#[tokio::test]
async fn slots_and_streams_on_every_major() {
    slot_and_stream(&Server::own()).await;
    let mut tried = BTreeSet::new();
    for (major, server) in Server::majors() {
        slot_and_stream(&server).await;
        tried.insert(major);
    }
    let missing: Vec<_> = (12..=18).filter(|major| !tried.contains(major)).collect();
    assert!(missing.is_empty() || std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: majors {missing:?}");
}

#[tokio::test]
async fn refusals_are_the_servers_and_come_with_advice() {
    let server = Server::shared();
    table(&server, "refused", "i int").await;
    let start = async |options: StartOptions| connect(&server).await.start(&options).await;
    let check = |result: Result<ReplicationStream>, code: &str, text: &str| {
        let error = result.err().expect("a refusal");
        assert_eq!((error.code(), error.kind()), (Some(code), Kind::Source), "{error}");
        assert!(error.to_string().contains(text), "{error}");
        error
    };
    let mut good = options("refused", 150_000);
    let reader = start(good.clone()).await.unwrap();
    let error = check(start(good.clone()).await, "55006", "is active for PID");
    assert!(error.advice().unwrap().contains("pg_replication_slots"));
    let mut session = connect(&server).await;
    let begin = Instant::now();
    assert_eq!(session.drop_slot("refused", Duration::from_millis(500)).await.unwrap_err().code(), Some("55006"));
    assert!(begin.elapsed() >= Duration::from_millis(500));
    let (dropped, ()) = tokio::join!(session.drop_slot("refused", Duration::from_secs(20)), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(reader);
    });
    dropped.unwrap();
    check(start(good.clone()).await, "42704", "read the replication slot refused: replication slot \"refused\" does not exist");

    sql(&server, "SELECT pg_create_logical_replication_slot('foreign_plugin', 'test_decoding')").await;
    good.slot = "foreign_plugin".to_owned();
    check(start(good.clone()).await, "22023", "proto_version");
    sql(&server, "SELECT pg_drop_replication_slot('foreign_plugin'), pg_create_logical_replication_slot('too_new', 'pgoutput')").await;
    (good.slot, good.protocol.version) = ("too_new".to_owned(), 99);
    check(start(good).await, "0A000", "proto_version");
    sql(&server, "SELECT pg_drop_replication_slot('too_new')").await;

    let slot = SlotOptions { name: "Not A Name".to_owned(), ..SlotOptions::default() };
    assert_eq!(session.create_slot(&slot).await.unwrap_err().code(), Some("42602"));
    session.identify().await.unwrap();
    let error = Replication::connect(&server.options(server.tcp(), "scram_user")).await.err().expect("no right to");
    assert_eq!(error.code(), Some("42501"), "{error}");
    assert!(error.advice().unwrap().contains("ALTER ROLE"));
}

#[tokio::test]
async fn creating_a_slot_waits_for_writers_and_can_be_cancelled() {
    // Not the shared server: everybody else's slots would wait too.
    let server = Server::own();
    let mut writer = wire(&server.options(server.unix(), "postgres")).await.unwrap();
    writer.simple("CREATE TABLE w (i int); BEGIN; INSERT INTO w VALUES (1)").await.unwrap();
    let mut session = connect(&server).await;
    let (cancel, slot) = (session.cancel_token(), SlotOptions { name: "waiting".to_owned(), temporary: true, ..SlotOptions::default() });
    {
        let creating = session.create_slot(&slot);
        tokio::pin!(creating);
        assert!(tokio::time::timeout(Duration::from_millis(500), &mut creating).await.is_err());
        cancel.cancel().await.unwrap();
        assert_eq!(creating.await.unwrap_err().code(), Some("57014"));
    }
    let (created, ()) = tokio::join!(session.create_slot(&slot), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        writer.simple("COMMIT").await.unwrap();
    });
    let adopt = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{}'", created.unwrap().snapshot);
    assert_eq!(value(&server, &format!("{adopt}; SELECT count(*) FROM w")).await.as_deref(), Some("1"));
    session.close().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(value(&server, "SELECT count(*) FROM pg_replication_slots").await.as_deref(), Some("0"));
}

#[test]
fn the_history_of_a_timeline_is_read() {
    let content = "1\t0/3000060\tno recovery target specified\n\n# a comment\n  2\t1/A0\tbefore 2000-01-01\n";
    assert_eq!(branches(content), Some(vec![(1, Lsn(0x300_0060)), (2, Lsn(0x1_0000_00A0))]));
    assert_eq!(branches(""), Some(Vec::new()));
    for broken in ["1", "one\t0/1\tx", "1\tzero\tx", "-1\t0/1"] {
        assert_eq!(branches(broken), None, "{broken}");
    }
}
