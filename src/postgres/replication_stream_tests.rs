//! Replication streams against a real server: what arrives, what is acknowledged, and every way to end.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::error::Retry;
use crate::postgres::connect::{ConnectOptions, Host, SslMode};
use crate::postgres::frame::BUFFER_BYTES;
use crate::postgres::replication::tests::{connect, is_commit, messages, options, sql, table, tags, value};
use crate::postgres::testing::{Server, has_ssh_keygen};
use crate::postgres::tunnel::{self, HostKeys, Tunnel, read_private_key};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

async fn start(server: &Server, name: &str) -> ReplicationStream {
    connect(server).await.start(&options(name, 150_000)).await.unwrap()
}

/// The end of a transaction, from its Commit message.
fn end_of(commit: &[u8]) -> Lsn {
    Lsn(u64::from_be_bytes(*commit[10..].first_chunk().unwrap()))
}

async fn confirmed(server: &Server, slot: &str) -> Lsn {
    let query = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
    value(server, &query).await.unwrap().parse().unwrap()
}

/// Waits until a session is gone, or 10 s.
async fn gone(server: &Server, pid: i32) -> bool {
    for _ in 0..100 {
        if value(server, &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")).await.as_deref() == Some("0") {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

fn tls(server: &Server) -> ConnectOptions {
    let mut tls = server.options(server.tcp(), "postgres");
    tls.tls.mode = SslMode::Require;
    tls
}

#[tokio::test]
async fn transactions_arrive_whole_by_every_way() {
    let server = Server::shared();
    table(&server, "ways", "i int PRIMARY KEY, t text").await;
    for (round, way) in
        [server.options(server.unix(), "postgres"), server.options(server.tcp(), "postgres"), tls(&server)].iter().enumerate()
    {
        let replication = Replication::connect(way).await.unwrap();
        let mut stream = replication.start(&options("ways", 150_000)).await.unwrap();
        sql(&server, &format!("BEGIN; INSERT INTO ways VALUES ({round}, 'a'); UPDATE ways SET t = 'b' WHERE i = {round}; COMMIT")).await;
        let first = messages(&mut stream, is_commit).await.unwrap();
        assert_eq!(tags(&first), "BRIUC");
        // Enough to gather bytes, in transactions that are not streamed; then one that must be seen at once.
        let many = "DO $$ BEGIN FOR n IN 1..3 LOOP INSERT INTO ways SELECT -g - 100000 * n - 1000000 * ROUND, repeat('x', 50) FROM generate_series(1, 100000) g; COMMIT; END LOOP; END $$";
        sql(&server, &many.replace("ROUND", &round.to_string())).await;
        let (mut commits, mut rows, mut gathered) = (0, 0, false);
        while commits < 3 {
            let found = messages(&mut stream, |message| message[0] == b'I' || is_commit(message)).await.unwrap();
            commits += found.iter().filter(|message| is_commit(message)).count();
            rows += found.iter().filter(|message| message[0] == b'I').count();
            gathered |= stream.gathering.is_on();
        }
        assert_eq!((commits, rows), (3, 300_000));
        assert!(gathered, "{round}");
        let idle = tokio::time::timeout(Duration::from_millis(100), messages(&mut stream, is_commit)).await;
        assert!(idle.is_err() && !stream.gathering.is_on());
        let insert = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            sql(&server, &format!("DELETE FROM ways WHERE i = {round}")).await;
        };
        let (last, ()) = tokio::join!(messages(&mut stream, is_commit), insert);
        let last = last.unwrap();
        // A publication that another test creates meanwhile has the table described again.
        assert_eq!(tags(&last).replace('R', ""), "BDC");
        stream.acknowledger().flushed(end_of(last.last().unwrap()));
        stream.finish(Duration::from_secs(20)).await.unwrap().close().await;
    }
    connect(&server).await.drop_slot("ways", Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn the_server_hears_of_a_reader_that_sleeps() {
    let server = Server::shared();
    table(&server, "sleeper", "t text").await;
    for mut way in [server.options(server.unix(), "postgres"), server.options(server.tcp(), "postgres"), tls(&server)] {
        way.parameters.push(("wal_sender_timeout".to_owned(), "2s".to_owned()));
        let mut replication = Replication::connect(&way).await.unwrap();
        assert_eq!(replication.status_interval().await.unwrap(), Duration::from_secs(2) / 3);
        let mut options = options("sleeper", 150_000);
        options.status_interval = Duration::from_millis(600);
        let mut stream = replication.start(&options).await.unwrap();
        sql(&server, "INSERT INTO sleeper SELECT repeat('x', 1000) FROM generate_series(1, 40000)").await;
        // Full buffers on both sides, and a server that waits in the middle of a transaction.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let is_last = |message: &[u8]| is_commit(message) || message[0] == b'c';
        let found = messages(&mut stream, is_last).await.unwrap();
        assert_eq!(found.iter().filter(|message| message[0] == b'I').count(), 40_000);
        // And with nothing to read.
        let idle = tokio::time::timeout(Duration::from_secs(4), messages(&mut stream, is_commit)).await;
        assert!(idle.is_err());
        sql(&server, "INSERT INTO sleeper VALUES ('y')").await;
        let found = messages(&mut stream, is_commit).await.unwrap();
        stream.acknowledger().flushed(end_of(found.last().unwrap()));
        stream.finish(Duration::from_secs(10)).await.unwrap().close().await;
    }
}

/// An SSH server that lets this user in, until it is dropped; `None` where there is none, and the way through it.
fn bastion() -> Option<(Bastion, Tunnel)> {
    const SSHD: &str = "/usr/sbin/sshd";
    if !has_ssh_keygen() || !Path::new(SSHD).exists() {
        assert!(std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: no OpenSSH server is installed");
        return None;
    }
    let home = tempfile::Builder::new().prefix("bastion").tempdir_in("/var/tmp").unwrap();
    let at = home.path().to_str().unwrap();
    for name in ["host", "user"] {
        let key = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(home.path().join(name)).status();
        assert!(key.unwrap().success());
    }
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned();
    if user == "root" {
        std::fs::create_dir_all("/run/sshd").unwrap();
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nAuthorizedKeysFile {at}/user.pub\nStrictModes no\nUsePAM no\nPidFile none\n"
    );
    std::fs::write(home.path().join("sshd_config"), settings).unwrap();
    let key = read_private_key(&std::fs::read_to_string(home.path().join("user")).unwrap(), None).ok().unwrap();
    let mut command = Command::new(SSHD);
    command.args(["-D", "-f", &format!("{at}/sshd_config"), "-E", &format!("{at}/log")]).stdin(Stdio::null());
    let bastion = Bastion(command.spawn().unwrap(), home);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let host_keys = HostKeys::default();
    let way = tunnel::Bastion { host: "127.0.0.1".to_owned(), port, user, password: None, key: Some(Arc::new(key)), host_keys };
    Some((bastion, Tunnel::new(way)))
}

struct Bastion(Child, #[expect(dead_code, reason = "its files")] TempDir);

impl Drop for Bastion {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_reader_behind_a_tunnel_may_sleep_too() {
    let Some((_bastion, tunnel)) = bastion() else { return };
    let server = Server::own();
    sql(&server, "ALTER SYSTEM SET wal_sender_timeout = '2s'").await;
    sql(&server, "SELECT pg_reload_conf()").await;
    table(&server, "tunnelled", "t text").await;
    let mut way = server.options(server.tcp(), "postgres");
    way.tunnel = Some(tunnel);
    let mut options = options("tunnelled", 150_000);
    (options.status_interval, options.timeout) = (Duration::from_millis(600), Duration::from_secs(3));
    let mut stream = Replication::connect(&way).await.unwrap().start(&options).await.unwrap();
    // More than the buffers of two sockets, of the bastion and of the SSH connection.
    sql(&server, "INSERT INTO tunnelled SELECT repeat('x', 1000) FROM generate_series(1, 40000)").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let is_last = |message: &[u8]| is_commit(message) || message[0] == b'c';
    let found = messages(&mut stream, is_last).await.unwrap();
    assert_eq!(found.iter().filter(|message| message[0] == b'I').count(), 40_000);
    let idle = tokio::time::timeout(Duration::from_secs(4), messages(&mut stream, is_commit)).await;
    assert!(idle.is_err());
    sql(&server, "INSERT INTO tunnelled VALUES ('y')").await;
    let found = messages(&mut stream, is_commit).await.unwrap();
    let end = end_of(found.last().unwrap());
    stream.acknowledger().flushed(end);
    stream.finish(Duration::from_secs(10)).await.unwrap().close().await;
    assert_eq!(confirmed(&server, "tunnelled").await, end);
}

#[tokio::test]
async fn a_large_value_waits_for_permission() {
    let server = Server::shared();
    table(&server, "large", "t text").await;
    let mut stream = Replication::connect(&tls(&server)).await.unwrap().start(&options("large", 150_000)).await.unwrap();
    sql(&server, "ALTER TABLE large ALTER t SET STORAGE EXTERNAL; INSERT INTO large SELECT repeat('x', 100000000)").await;
    let (mut lengths, mut large, mut end) = (Vec::new(), 0, false);
    while !end {
        let mut sink = |received: Received<'_>| {
            if let Received::Data { payload, .. } = received {
                lengths.push(payload.len());
                // Large enough to be streamed before its commit.
                end |= payload[0] == b'c';
            }
            Ok(())
        };
        match stream.read(&mut sink).await.unwrap() {
            Event::Large(bytes) => {
                assert!(bytes > 100_000_000);
                assert!(stream.connection.buffer.capacity() <= BUFFER_BYTES);
                large += 1;
                if large > 2 {
                    stream.allow(bytes);
                }
            }
            Event::Data => {}
            Event::Done => panic!("the end"),
        }
    }
    assert_eq!(large, 3);
    assert!(lengths.iter().any(|&n| n > 100_000_000), "{lengths:?}");
    assert_eq!(stream.connection.buffer.capacity(), BUFFER_BYTES);
    // Another one, which nobody wants.
    sql(&server, "INSERT INTO large SELECT repeat('x', 100000000)").await;
    stream.finish(Duration::from_secs(30)).await.unwrap().close().await;
}

#[tokio::test]
async fn the_slot_is_where_it_was_acknowledged() {
    let server = Server::shared();
    let created = table(&server, "acknowledged", "i int").await;
    let mut stream = start(&server, "acknowledged").await;
    let acknowledger = stream.acknowledger();
    let mut ends = Vec::new();
    for i in 0..3 {
        sql(&server, &format!("INSERT INTO acknowledged VALUES ({i})")).await;
        ends.push(end_of(messages(&mut stream, is_commit).await.unwrap().last().unwrap()));
    }
    assert_eq!(confirmed(&server, "acknowledged").await, created.consistent_point);
    acknowledger.flushed(ends[1]);
    acknowledger.applied(ends[0]);
    acknowledger.flushed(ends[0]);
    acknowledger.tell();
    let seen = async {
        while confirmed(&server, "acknowledged").await != ends[1] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_millis(800), seen).await.expect("before the next update is due");
    let query = format!("SELECT write_lsn, flush_lsn, replay_lsn FROM pg_stat_replication WHERE pid = {}", stream.backend_pid());
    let told: Vec<Lsn> = sql(&server, &query).await[0].iter().map(|lsn| lsn.as_ref().unwrap().parse().unwrap()).collect();
    assert!(told[0] >= ends[2] && told[1..] == [ends[1], ends[0]], "{told:?} {ends:?}");
    // Beyond what the stream has brought: nobody can have that.
    acknowledger.flushed(Lsn(u64::MAX));
    let session = stream.finish(Duration::from_secs(10)).await.unwrap();
    assert!(session.start(&options("acknowledged", 150_000)).await.is_err());
    let end = confirmed(&server, "acknowledged").await;
    let current: Lsn = value(&server, "SELECT pg_current_wal_insert_lsn()").await.unwrap().parse().unwrap();
    assert!(end >= ends[2] && end <= current, "{end} {current}");

    // Again from there: what was acknowledged does not come again, and an old position does not move the slot back.
    sql(&server, "INSERT INTO acknowledged VALUES (9)").await;
    let mut stream = start(&server, "acknowledged").await;
    assert_eq!(stream.confirmed(), end);
    stream.acknowledger().flushed(ends[0]);
    let found = messages(&mut stream, is_commit).await.unwrap();
    assert_eq!(tags(&found), "BRIC");
    let mut session = stream.finish(Duration::from_secs(10)).await.unwrap();
    assert_eq!(confirmed(&server, "acknowledged").await, end);
    assert!(session.identify().await.is_ok());
    session.drop_slot("acknowledged", Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_terminated_stream_is_transient_and_a_dropped_one_ends_its_session() {
    let server = Server::shared();
    table(&server, "ended", "t text").await;
    let mut stream = start(&server, "ended").await;
    let pid = stream.backend_pid();
    let kill = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        sql(&server, &format!("SELECT pg_terminate_backend({pid})")).await;
    };
    let (end, ()) = tokio::join!(messages(&mut stream, |_| false), kill);
    let error = end.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some("57P01"), Retry::Again), "{error}");
    assert_eq!(stream.read(&mut |_| Ok(())).await.unwrap_err().retry(), Retry::Again);
    assert!(stream.finish(Duration::from_secs(5)).await.is_err());

    for way in [server.options(server.tcp(), "postgres"), tls(&server)] {
        assert!(gone(&server, pid).await);
        let mut stream = Replication::connect(&way).await.unwrap().start(&options("ended", 150_000)).await.unwrap();
        sql(&server, "INSERT INTO ended SELECT repeat('x', 1000) FROM generate_series(1, 20000)").await;
        stream.read(&mut |_| Ok(())).await.unwrap();
        let (pid, acknowledger) = (stream.backend_pid(), stream.acknowledger());
        drop(stream);
        assert!(gone(&server, pid).await);
        acknowledger.flushed(Lsn(1));
        acknowledger.tell();
    }
    connect(&server).await.drop_slot("ended", Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn an_error_of_the_plugin_is_the_servers() {
    let server = Server::shared();
    table(&server, "lost_publication", "i int").await;
    let mut stream = start(&server, "lost_publication").await;
    sql(&server, "DROP PUBLICATION lost_publication; INSERT INTO lost_publication VALUES (1)").await;
    let error = messages(&mut stream, is_commit).await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some("42704"), Retry::Never), "{error}");
    assert!(error.to_string().contains("lost_publication"), "{error}");
    assert!(stream.read(&mut |_| Ok(())).await.unwrap_err().to_string().contains("ended"));
    drop(stream);
    connect(&server).await.drop_slot("lost_publication", Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn an_error_of_the_sink_comes_back_and_reading_goes_on() {
    let server = Server::shared();
    table(&server, "sunk", "i int").await;
    let mut stream = start(&server, "sunk").await;
    sql(&server, "INSERT INTO sunk VALUES (1)").await;
    let error = loop {
        let mut sink = |received: Received<'_>| match received {
            Received::Data { .. } => Err(Error::schema("no room")),
            Received::Keepalive { .. } => Ok(Flow::More),
        };
        match stream.read(&mut sink).await {
            Ok(event) => assert_eq!(event, Event::Data),
            Err(error) => break error,
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
    assert_eq!(tags(&messages(&mut stream, is_commit).await.unwrap()).replace('R', ""), "IC");
    drop(stream);
    connect(&server).await.drop_slot("sunk", Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_stops_is_transient() {
    for immediate in [true, false] {
        let server = Server::own();
        table(&server, "stopped", "i int").await;
        let mut stream = start(&server, "stopped").await;
        let acknowledger = stream.acknowledger();
        sql(&server, "INSERT INTO stopped VALUES (1)").await;
        let commit = messages(&mut stream, is_commit).await.unwrap();
        acknowledger.flushed(end_of(commit.last().unwrap()));
        acknowledger.tell();
        sql(&server, "INSERT INTO stopped VALUES (2)").await;
        messages(&mut stream, is_commit).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.stop(immediate);
        let begin = Instant::now();
        let mut keepalives = 0;
        let end = async {
            loop {
                let mut sink = |received: Received<'_>| {
                    if let Received::Keepalive { position, .. } = received {
                        keepalives += 1;
                        // A shutdown waits for it.
                        if keepalives > 10 {
                            acknowledger.flushed(position);
                        }
                    }
                    Ok(())
                };
                if let Err(error) = stream.read(&mut sink).await {
                    break error;
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(20), end).await.expect("the end");
        assert_eq!(error.retry(), Retry::Again, "{error}");
        assert_eq!(error.to_string().contains("shutting down"), !immediate, "{error}");
        // Each of the ten was answered at once, not when the next update was due.
        assert!(immediate || keepalives > 10 && begin.elapsed() < Duration::from_secs(6), "{keepalives}, {:?}", begin.elapsed());
    }
}

/// Passes bytes on until told to swallow them.
async fn proxy(port: u16) -> (u16, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (switch, frozen) = tokio::sync::watch::channel(false);
    let near = listener.local_addr().unwrap().port();
    let (stays, later) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let mut frozen = frozen;
        let _stays = stays;
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(forward(client, port, frozen));
            // Only the first is ever frozen.
            frozen = later.clone();
        }
    });
    (near, switch)
}

async fn forward(mut client: TcpStream, port: u16, frozen: tokio::sync::watch::Receiver<bool>) {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let pass = async |from: &mut tokio::net::tcp::ReadHalf<'_>, to: &mut tokio::net::tcp::WriteHalf<'_>| {
        let mut bytes = vec![0; 65536];
        while let Ok(n @ 1..) = from.read(&mut bytes).await {
            if !*frozen.borrow() && to.write_all(&bytes[..n]).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(pass(&mut from_client, &mut to_server), pass(&mut from_server, &mut to_client));
}

/// What passes for a server still takes what is sent, and answers no more: it is asked through another session. The reader looks up all the time, which
/// must not keep it from noticing.
#[tokio::test]
async fn a_stream_that_the_server_does_not_serve_any_more_is_given_up() {
    let server = Server::shared();
    table(&server, "unserved", "i int").await;
    let (port, switch) = proxy(server.port()).await;
    let mut way = server.options(Host::Tcp("127.0.0.1".to_owned(), port), "postgres");
    (way.keepalive.idle, way.keepalive.interval) = (Duration::from_secs(1), Duration::from_secs(1));
    let options = StartOptions { timeout: Duration::from_secs(600), ..options("unserved", 150_000) };
    let mut stream = Replication::connect(&way).await.unwrap().start(&options).await.unwrap();
    let acknowledger = stream.acknowledger();
    let mut wait = async |limit: u64| {
        let end = Instant::now() + Duration::from_secs(limit);
        while Instant::now() < end {
            let read = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut |_| Ok(Flow::Enough))).await;
            match read {
                Ok(Err(error)) => return Some(error),
                Ok(Ok(_)) => {}
                Err(_) => acknowledger.ask(),
            }
        }
        None
    };
    // It answers, and while nobody reads its answers wait.
    assert!(wait(3).await.is_none());
    acknowledger.ask();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(wait(2).await.is_none());
    switch.send(true).unwrap();
    let error = wait(30).await.expect("given up");
    assert!(error.to_string().contains("does not work on it any more") && error.retry() == Retry::Again, "{error}");
}

#[tokio::test]
async fn a_silent_server_is_asked_and_then_given_up() {
    let server = Server::shared();
    table(&server, "silent", "i int").await;
    let (port, switch) = proxy(server.port()).await;
    let way = server.options(Host::Tcp("127.0.0.1".to_owned(), port), "postgres");
    let mut options = options("silent", 150_000);
    options.timeout = Duration::from_secs(1);
    let mut stream = Replication::connect(&way).await.unwrap().start(&options).await.unwrap();
    // Alive, though nothing happens and its own clock gives it no reason to speak.
    let idle = tokio::time::timeout(Duration::from_secs(4), messages(&mut stream, is_commit)).await;
    assert!(idle.is_err());
    switch.send(true).unwrap();
    let begin = Instant::now();
    let error = messages(&mut stream, is_commit).await.unwrap_err();
    assert!(error.to_string().contains("nothing was received") && error.retry() == Retry::Again, "{error}");
    let waited = begin.elapsed();
    assert!(waited > Duration::from_millis(500) && waited < Duration::from_secs(3), "{waited:?}");
}

#[test]
fn messages_that_are_none_are_refused() {
    let good = [&b"w\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02"[..], b"B"].concat();
    assert_eq!(Received::parse(&good).unwrap(), Received::Data { position: Lsn(1), sent: 2, payload: b"B" });
    let keepalive = b"k\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\x01";
    assert_eq!(Received::parse(keepalive).unwrap(), Received::Keepalive { position: Lsn(1), sent: 2, asked: true });
    for bad in [&b""[..], b"w", &good[..24], b"k", &keepalive[..17], b"r", b"\xff"] {
        assert!(Received::parse(bad).is_err(), "{}", bad.escape_ascii());
    }
}
