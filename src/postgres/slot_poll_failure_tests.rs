//! Polling where something is in the way: refusals, other readers, lost connections, and a pooler that lends its connections.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::tests::{all, confirmed, end_of, kinds, options, poll, rhythm, until};
use super::*;
use crate::error::Retry;
use crate::postgres::connect::{Host, wire};
use crate::postgres::replication::Replication;
use crate::postgres::replication::tests::{is_commit, sql, table};
use crate::postgres::testing::Server;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

#[tokio::test]
async fn refusals_are_the_servers_and_come_with_advice() {
    let server = Server::shared();
    table(&server, "poll_refused", "i int").await;
    let way = server.options(server.unix(), "postgres");
    let start = async |options: &StartOptions| PollStream::start(&way, options, rhythm(100)).await;
    let check = |result: Result<PollStream>, code: &str, text: &str| {
        let error = result.err().expect("a refusal");
        assert_eq!((error.code(), error.kind()), (Some(code), Kind::Source), "{error}");
        assert!(error.to_string().contains(text), "{error}");
        error
    };
    let mut good = options("poll_refused");
    let mut stream = start(&good).await.unwrap();
    let reader = Replication::connect(&way).await.unwrap().start(&good).await.unwrap();
    let error = check(start(&good).await, "55006", "is active for PID");
    assert!(error.advice().unwrap().contains("pg_replication_slots"));
    let error = until(&mut stream, Lsn(u64::MAX)).await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some("55006"), Retry::Never), "{error}");
    assert!(stream.read(&mut |_| Ok(())).await.unwrap_err().to_string().contains("after an error"));
    // The end waits for the other reader.
    let mut stream = {
        drop(reader);
        loop {
            match start(&good).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    all(&server, &mut stream).await;
    let before = confirmed(&server, "poll_refused").await;
    stream.acknowledger().flushed(Lsn(u64::MAX));
    let reader = Replication::connect(&way).await.unwrap().start(&good).await.unwrap();
    let (ended, ()) = tokio::join!(stream.finish(Duration::from_secs(20)), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(reader);
    });
    ended.unwrap();
    assert!(confirmed(&server, "poll_refused").await > before);

    sql(
        &server,
        "SELECT pg_create_logical_replication_slot('poll_foreign', 'test_decoding'), pg_create_physical_replication_slot('poll_phys')",
    )
    .await;
    good.slot = "poll_foreign".to_owned();
    check(start(&good).await, "22023", "proto_version");
    good.slot = "poll_phys".to_owned();
    check(start(&good).await, "55000", "physical");
    sql(&server, "SELECT pg_drop_replication_slot('poll_foreign'), pg_drop_replication_slot('poll_phys')").await;
    good.slot = "poll_nowhere".to_owned();
    check(start(&good).await, "42704", "poll the replication slot poll_nowhere: replication slot \"poll_nowhere\" does not exist");
    let error = PollStream::start(&server.options(server.tcp(), "scram_user"), &options("poll_refused"), rhythm(1)).await;
    let error = check(error, "42501", "");
    assert!(error.advice().unwrap().contains("ALTER ROLE"), "{error}");
    let error = create_slot(&server.options(server.tcp(), "scram_user"), "poll_new", false).await.unwrap_err();
    assert_eq!(error.code(), Some("42501"), "{error}");
    assert_eq!(create_slot(&way, "poll_refused", false).await.unwrap_err().code(), Some("42710"));

    // Dropped in between.
    let mut stream = start(&options("poll_refused")).await.unwrap();
    all(&server, &mut stream).await;
    sql(&server, "SELECT pg_drop_replication_slot('poll_refused')").await;
    let error = until(&mut stream, Lsn(u64::MAX)).await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some("42704"), Retry::Never), "{error}");
    assert!(error.to_string().starts_with("poll the replication slot poll_refused: "), "{error}");
    stream.finish(Duration::from_secs(5)).await.unwrap();

    let standby = Error::source_db("logical decoding cannot be used while in recovery").sqlstate("0A000");
    assert!(explain(standby).advice().unwrap().contains("primary"));
}

#[tokio::test]
async fn changes_that_somebody_else_takes_are_missed_aloud() {
    let server = Server::shared();
    let way = server.options(server.unix(), "postgres");
    sql(&server, "CREATE TABLE taken (i int); CREATE PUBLICATION taken FOR TABLE taken").await;
    let created = create_slot(&way, "taken", false).await.unwrap();
    assert_eq!(confirmed(&server, "taken").await, created);
    let mut stream = poll(&server, "taken", 100).await;
    sql(&server, "INSERT INTO taken VALUES (1)").await;
    assert_eq!(kinds(&all(&server, &mut stream).await), "BIC");
    let take =
        "SELECT count(*) FROM pg_logical_slot_get_binary_changes('taken', NULL, NULL, 'proto_version', '1', 'publication_names', 'taken')";
    // What we have already may go.
    sql(
        &server,
        "SELECT pg_replication_slot_advance('taken', (SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'taken') + 8)",
    )
    .await;
    sql(&server, "INSERT INTO taken VALUES (2)").await;
    let found = all(&server, &mut stream).await;
    assert_eq!(kinds(&found), "BIC");
    sql(&server, "INSERT INTO taken VALUES (3)").await;
    sql(&server, take).await;
    sql(&server, "INSERT INTO taken VALUES (4)").await;
    let acknowledger = stream.acknowledger();
    acknowledger.flushed(end_of(found.last().unwrap()));
    let error = until(&mut stream, Lsn(u64::MAX)).await.unwrap_err();
    assert!(error.kind() == Kind::State && error.to_string().contains("somebody else"), "{error}");
    // The slot is not moved back.
    let now = confirmed(&server, "taken").await;
    stream.finish(Duration::from_secs(5)).await.unwrap();
    assert_eq!(confirmed(&server, "taken").await, now);

    // Between the look at the slot and the look into it.
    let mut stream = poll(&server, "taken", 100).await;
    let reached = stream.sieve.reached();
    sql(&server, "INSERT INTO taken VALUES (5)").await;
    sql(&server, take).await;
    let Phase::Resting(mut connection, _) = std::mem::replace(&mut stream.phase, Phase::Over) else { panic!("not resting") };
    let status = status(&mut connection, &stream.statements).await.unwrap();
    assert!(status.confirmed.unwrap() > reached);
    let copying = connection.begin_copy(&stream.statements.peek(status.end, None)).await.unwrap();
    stream.sieve.begin();
    stream.phase = Phase::Reading(connection, copying, Asked { status, limit: None });
    let error = stream.read(&mut |_| Ok(())).await.unwrap_err();
    assert!(error.kind() == Kind::State && error.to_string().contains("somebody else"), "{error}");
    drop(stream);
    sql(&server, "SELECT pg_drop_replication_slot('taken')").await;
}

#[tokio::test]
async fn a_lost_connection_is_transient() {
    let server = Server::shared();
    table(&server, "poll_lost", "i int").await;
    let mut stream = poll(&server, "poll_lost", 100).await;
    sql(&server, "INSERT INTO poll_lost VALUES (1)").await;
    let found = all(&server, &mut stream).await;
    stream.acknowledger().flushed(end_of(found.last().unwrap()));
    let Phase::Resting(connection, _) = &stream.phase else { panic!("not resting") };
    sql(&server, &format!("SELECT pg_terminate_backend({})", connection.backend_pid())).await;
    let error = until(&mut stream, Lsn(u64::MAX)).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Again, "{error}");
    assert_eq!(stream.read(&mut |_| Ok(())).await.unwrap_err().retry(), Retry::Again);
    // What was acknowledged gets there all the same.
    stream.finish(Duration::from_secs(5)).await.unwrap();
    assert_eq!(confirmed(&server, "poll_lost").await, end_of(found.last().unwrap()));
    sql(&server, "SELECT pg_drop_replication_slot('poll_lost')").await;
}

/// A pgBouncer that lends one of three server connections for each transaction, in turns.
struct Pooler {
    process: Child,
    port: u16,
    _home: TempDir,
}

impl Pooler {
    /// `None` where there is no pgBouncer and none is required.
    fn before(server: &Server) -> Option<Self> {
        let program = Path::new("/usr/sbin/pgbouncer");
        if !program.exists() {
            assert!(std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: no pgbouncer is installed");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\nserver_round_robin = 1\nlogfile = {}\n",
            server.port(),
            home.path().join("log").display()
        );
        let file = home.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new(program);
        if Command::new("id").arg("-u").output().unwrap().stdout == b"0\n" {
            // It refuses to run as root.
            assert!(Command::new("chown").args(["-R", "postgres"]).arg(home.path()).status().unwrap().success());
            command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program).current_dir("/");
        }
        let process = command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pooler = Self { process, port, _home: home };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(pooler)
    }

    fn options(&self, server: &Server) -> ConnectOptions {
        server.options(Host::Tcp("127.0.0.1".to_owned(), self.port), "postgres")
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_pooler_may_lend_another_connection_for_each_statement() {
    let server = Server::own();
    let Some(pooler) = Pooler::before(&server) else { return };
    for setting in ["DateStyle = 'SQL, DMY'", "statement_timeout = '300ms'"] {
        sql(&server, &format!("ALTER DATABASE postgres SET {setting}")).await;
    }
    sql(&server, "CREATE TABLE pooled (i int, d date); CREATE PUBLICATION pooled FOR TABLE pooled").await;
    let way = pooler.options(&server);
    // All three are open.
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = wire(&way).await.unwrap();
        other.simple("BEGIN").await.unwrap();
        others.push(other);
    }
    for other in &mut others {
        other.simple("COMMIT").await.unwrap();
    }
    // Waits for longer than a statement may take by the database's setting.
    let mut writer = wire(&server.options(server.unix(), "postgres")).await.unwrap();
    writer.simple("BEGIN; INSERT INTO pooled VALUES (0)").await.unwrap();
    let (created, ()) = tokio::join!(create_slot(&way, "pooled", false), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        writer.simple("COMMIT").await.unwrap();
    });
    let created = created.unwrap();
    let mut stream = PollStream::start(&way, &options("pooled"), rhythm(5)).await.unwrap();
    assert_eq!(stream.confirmed(), created);
    let (mut last, mut lent) = (Lsn::default(), BTreeSet::new());
    for round in 1..=10 {
        for _ in 0..round {
            sql(&server, "INSERT INTO pooled VALUES (1, '01/02/2024')").await;
        }
        let found = all(&server, &mut stream).await;
        assert_eq!(found.iter().filter(|message| is_commit(message)).count(), round);
        let insert = found.iter().find(|message| message[0] == b'I').unwrap();
        assert!(insert.ends_with(b"t\0\0\0\x0a2024-02-01"), "{}", insert.escape_ascii());
        last = end_of(found.last().unwrap());
        stream.acknowledger().flushed(last);
        let Phase::Resting(connection, _) = &mut stream.phase else { panic!("not resting") };
        lent.insert(connection.simple("SELECT pg_backend_pid()").await.unwrap());
    }
    // More than the server does in the time that a statement may take by the database's setting.
    sql(&server, "SET statement_timeout = 0; INSERT INTO pooled SELECT g FROM generate_series(1, 400000) g").await;
    let found = all(&server, &mut stream).await;
    assert_eq!(found.iter().filter(|message| message[0] == b'I').count(), 400_000);
    assert_eq!(confirmed(&server, "pooled").await, last);
    let last = end_of(found.last().unwrap());
    stream.acknowledger().flushed(last);
    // In the middle of an answer.
    sql(&server, "SET statement_timeout = 0; INSERT INTO pooled SELECT g FROM generate_series(1, 400000) g").await;
    let mut one = 0;
    while one == 0 {
        let mut sink = |received: Received<'_>| {
            one += usize::from(matches!(received, Received::Data { .. }));
            Ok(if one > 0 { Flow::Enough } else { Flow::More })
        };
        stream.read(&mut sink).await.unwrap();
    }
    stream.finish(Duration::from_secs(30)).await.unwrap();
    assert_eq!(confirmed(&server, "pooled").await, last);
    assert!(lent.len() > 1, "{lent:?}");
    // What was set was for our transactions.
    for other in &mut others {
        assert_eq!(other.simple("SHOW DateStyle").await.unwrap()[0][0].as_deref(), Some("SQL, DMY"));
    }
}
