//! Opening sessions of both clients against a real server: sslmodes, passwords, hosts, refusals.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::error::Kind;
use crate::postgres::testing::{PASSWORD, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Opens a session with each client; both must agree. Answers whether it is encrypted.
async fn both(options: &ConnectOptions) -> Result<bool> {
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let ours = async {
        let mut c = wire(options).await?;
        let rows = c.simple(sql).await?;
        assert_eq!(c.is_tls(), rows[0][0].as_deref() == Some("t"));
        Ok::<bool, Error>(c.is_tls())
    };
    let theirs = async {
        let session = session(options).await?;
        let row = session.client.query_one(sql, &[]).await.map_err(|e| sql_error(&e))?;
        session.close().await;
        Ok::<bool, Error>(row.get(0))
    };
    match (ours.await, theirs.await) {
        (Ok(a), Ok(b)) => {
            assert_eq!(a, b);
            Ok(a)
        }
        (Err(a), Err(b)) => {
            assert_eq!((a.to_string(), a.code(), a.retry(), a.advice()), (b.to_string(), b.code(), b.retry(), b.advice()));
            assert!(!format!("{a} {a:?} {:?} {options:?}", a.advice()).contains(PASSWORD), "{a}");
            assert_eq!(a.kind(), Kind::Source);
            Err(a)
        }
        (a, b) => panic!("ours: {a:?}, theirs: {b:?}"),
    }
}

fn with(server: &Server, user: &str, mode: SslMode) -> ConnectOptions {
    let mut options = server.options(server.tcp(), user);
    options.tls.mode = mode;
    options
}

#[tokio::test]
async fn every_password_method_with_and_without_tls() {
    let server = Server::shared();
    for user in ["postgres", "scram_user", "md5_user", "clear_user"] {
        for mode in [SslMode::Disable, SslMode::Require] {
            let options = with(&server, user, mode);
            assert_eq!(both(&options).await.ok(), Some(mode == SslMode::Require), "{user}");
            if user != "postgres" {
                let wrong = ConnectOptions { password: Some(Secret::new("wrong horse")), ..options.clone() };
                let error = both(&wrong).await.unwrap_err();
                assert_eq!((error.code(), error.retry()), (Some("28P01"), Retry::Never));
                assert!(
                    error.to_string().starts_with(&format!("connect to 127.0.0.1:{}: password authentication failed", server.port())),
                    "{error}"
                );
                assert!(error.advice().unwrap().contains("password"));
                assert!(!format!("{error:?}").contains("horse"));
                for password in [None, Some(Secret::new(""))] {
                    let error = both(&ConnectOptions { password, ..options.clone() }).await.unwrap_err();
                    assert!(error.to_string().contains("none is configured"), "{error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn channel_binding_is_used_where_it_can_be() {
    let server = Server::shared();
    let stream =
        transport::open(&server.tcp(), None, Encryption::Required, &with(&server, "", SslMode::Require).tls, Keepalive::default(), None)
            .await
            .unwrap();
    assert!(stream.certificate().and_then(tls::channel_binding).is_some());
    // The server compares the hash with its own certificate's, and refuses a login that has another.
    assert_eq!(both(&with(&server, "scram_user", SslMode::Require)).await.ok(), Some(true));
}

#[tokio::test]
async fn sslmodes_do_what_libpq_does() {
    use SslMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
    let server = Server::shared();
    let foreign = crate::postgres::testing::Authority::new().pem;
    let check = async |user: &str, mode, ca: Option<&str>, host: &str, expected: Result<bool, &str>| {
        let mut options = with(&server, user, mode);
        options.tls.server_ca = ca.map(str::to_owned);
        options.hosts = vec![Host::Tcp(host.to_owned(), server.port())];
        match (both(&options).await, expected) {
            (Ok(found), Ok(tls)) => assert_eq!(found, tls, "{user} {mode:?}"),
            (Err(error), Err(text)) => assert!(error.to_string().contains(text) && error.advice().is_some(), "{user} {mode:?}: {error}"),
            (found, expected) => panic!("{user} {mode:?} {host}: {found:?} instead of {expected:?}"),
        }
    };
    let ip = "127.0.0.1";
    let ca = Some(server.authority().pem.as_str());
    for (mode, tls) in [(Disable, false), (Allow, false), (Prefer, true), (Require, true)] {
        check("scram_user", mode, None, ip, Ok(tls)).await;
    }
    // Refused without TLS.
    check("tls_only", Disable, None, ip, Err("no pg_hba.conf entry")).await;
    for mode in [Allow, Prefer, Require] {
        check("tls_only", mode, None, ip, Ok(true)).await;
    }
    // Refused with TLS.
    for mode in [Disable, Allow, Prefer] {
        check("plain_only", mode, None, ip, Ok(false)).await;
    }
    check("plain_only", Require, None, ip, Err("no pg_hba.conf entry")).await;
    // Refused both ways.
    for mode in [Allow, Prefer] {
        check("nobody", mode, None, ip, Err("no pg_hba.conf entry")).await;
    }
    check("scram_user", VerifyCa, ca, ip, Ok(true)).await;
    check("scram_user", VerifyCa, Some(&foreign), ip, Err("trusted authority")).await;
    check("scram_user", VerifyCa, None, ip, Err("trusted authority")).await;
    check("scram_user", VerifyFull, ca, "localhost", Ok(true)).await;
    check("scram_user", VerifyFull, ca, ip, Err("another name")).await;
    check("scram_user", Require, ca, ip, Ok(true)).await;
    check("scram_user", Require, Some(&foreign), ip, Err("trusted authority")).await;
    check("scram_user", Prefer, Some(&foreign), ip, Ok(true)).await;
}

#[tokio::test]
async fn client_certificates_are_presented() {
    let server = Server::shared();
    let mut options = with(&server, "cert_user", SslMode::Require);
    let error = both(&options).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let mine = server.authority().issue("cert_user", Some("basicConstraints=CA:FALSE"));
    options.tls.client_cert = Some(mine.pem);
    options.tls.client_key = Some(Secret::new(mine.key));
    assert_eq!(both(&options).await.ok(), Some(true));
    let other = server.authority().issue("somebody_else", Some("basicConstraints=CA:FALSE"));
    options.tls.client_cert = Some(other.pem);
    options.tls.client_key = Some(Secret::new(other.key));
    assert_eq!(both(&options).await.unwrap_err().code(), Some("28000"));
    let foreign = crate::postgres::testing::Authority::new().issue("cert_user", Some("basicConstraints=CA:FALSE"));
    options.tls.client_cert = Some(foreign.pem);
    options.tls.client_key = Some(Secret::new(foreign.key));
    let error = both(&options).await.unwrap_err();
    assert!(error.to_string().contains("alert UnknownCA"), "{error}");
}

#[tokio::test]
async fn refusals_name_the_place_the_reason_and_the_remedy() {
    let server = Server::shared();
    let options = server.options(server.unix(), "postgres");
    let check = async |options: &ConnectOptions, retry, text: &str, hint: &str| {
        let error = both(options).await.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.advice().unwrap_or("").contains(hint), "{error}: {:?}", error.advice());
        assert!(error.to_string().starts_with(&format!("connect to {}: ", options.hosts[0])), "{error}");
        assert_eq!(error.retry(), retry, "{error}");
    };
    let at = |host: Host| ConnectOptions { hosts: vec![host], ..options.clone() };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    check(&at(Host::Tcp("127.0.0.1".into(), free)), Retry::Again, "refused", "host and port").await;
    check(&at(Host::Unix("/no/such/folder".into(), 5432)), Retry::Again, "no such socket", "unix_socket_directories").await;
    let error = both(&at(Host::Tcp("no-such-host.invalid".into(), 5432))).await.unwrap_err();
    assert!(error.to_string().contains("no-such-host.invalid cannot be resolved"), "{error}");
    check(&ConnectOptions { database: "nowhere".into(), ..options.clone() }, Retry::Never, "\"nowhere\" does not exist", "database name")
        .await;
    check(&ConnectOptions { user: "nobody".into(), ..options.clone() }, Retry::Never, "\"nobody\" does not exist", "user").await;
    let parameter = |name: &str, value: &str| ConnectOptions { parameters: vec![(name.to_owned(), value.to_owned())], ..options.clone() };
    check(&parameter("no_such_parameter", "1"), Retry::Never, "no_such_parameter", "").await;
    let error = wire(&server.options(server.tcp(), "gss_user")).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("GSSAPI"), "{error}");
    assert!(error.advice().unwrap().contains("scram-sha-256"));
}

#[tokio::test]
async fn settings_hold_in_both_clients() {
    let server = Server::shared();
    let options = ConnectOptions {
        statement_timeout: Duration::from_millis(12_345),
        lock_timeout: Duration::from_secs(60),
        parameters: vec![
            ("work_mem".into(), "7MB".into()),
            ("my.own".into(), "it's \\ ü".into()),
            ("options".into(), "-c log_disconnections=on -c enable_sort=off".into()),
        ],
        ..server.options(server.unix(), "postgres")
    };
    let expected = [
        ("statement_timeout", "12345ms"),
        ("lock_timeout", "1min"),
        ("idle_in_transaction_session_timeout", "0"),
        ("client_encoding", "UTF8"),
        ("TimeZone", "UTC"),
        ("DateStyle", "ISO, MDY"),
        ("IntervalStyle", "postgres"),
        ("extra_float_digits", "3"),
        ("bytea_output", "hex"),
        ("application_name", "lakeward test"),
        ("work_mem", "7MB"),
        ("my.own", "it's \\ ü"),
        ("enable_sort", "off"),
    ];
    let mut ours = wire(&options).await.unwrap();
    let theirs = session(&options).await.unwrap();
    assert_eq!(theirs.server_version(), ours.server_version());
    assert!(ours.server_version() >= 100_000);
    for (name, value) in expected {
        let sql = format!("SELECT current_setting('{name}')");
        assert_eq!(ours.simple(&sql).await.unwrap()[0][0].as_deref(), Some(value), "{name}");
        assert_eq!(theirs.client.query_one(&sql, &[]).await.unwrap().get::<_, &str>(0), value, "{name}");
    }
    let local = startup::settings(&options, 150_000, Hold::Transaction, false);
    ours.simple(&format!("SET work_mem = '9MB'; BEGIN; {local}")).await.unwrap();
    assert_eq!(ours.simple("SHOW work_mem").await.unwrap()[0][0].as_deref(), Some("7MB"));
    assert_eq!(ours.simple("COMMIT; SHOW work_mem").await.unwrap()[0][0].as_deref(), Some("9MB"));
}

#[tokio::test]
async fn a_lost_session_says_why_and_is_transient() {
    let server = Server::shared();
    let lost = session(&server.options(server.tcp(), "postgres")).await.unwrap();
    let killer = session(&server.options(server.unix(), "postgres")).await.unwrap();
    let pid: i32 = lost.client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    killer.client.execute("SELECT pg_terminate_backend($1, 5000)", &[&pid]).await.unwrap();
    // Whoever speaks before it has heard why may be cut off, and the reason with it.
    for _ in 0..500 {
        if lost.ended().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let first = lost.client.query_one("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(sql_error(&first).retry(), Retry::Again, "{first}");
    let second = lost.client.query_one("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(sql_error(&second).retry(), Retry::Again, "{second}");
    assert!(lost.error(&second).to_string().contains("terminating connection"), "{}", lost.error(&second));
    let error = killer.error(&killer.client.query_one("SELECT * FROM nowhere", &[]).await.unwrap_err());
    assert_eq!((error.code(), error.retry()), (Some("42P01"), Retry::Never));
}

/// A server that answers every connection with `answer` and then keeps silent.
async fn answering(answer: &'static [u8]) -> Host {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer).await;
                while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    Host::Tcp("127.0.0.1".to_owned(), port)
}

#[tokio::test]
async fn servers_that_are_none_are_told_apart() {
    let options = |host, mode| ConnectOptions {
        hosts: vec![host],
        database: "d".into(),
        user: "u".into(),
        password: Some(Secret::new(PASSWORD)),
        tls: TlsOptions { mode, server_ca: None, client_cert: None, client_key: None },
        application_name: String::new(),
        connect_timeout: Duration::from_millis(300),
        statement_timeout: Duration::ZERO,
        lock_timeout: Duration::ZERO,
        keepalive: Keepalive::default(),
        tunnel: None,
        parameters: Vec::new(),
    };
    let check = async |answer, mode, expected: &str| {
        let error = wire(&options(answering(answer).await, mode)).await.map(drop).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.advice().is_some(), "{error}");
    };
    check(b"HTTP/1.1 400 Bad Request\r\n\r\n", SslMode::Require, "0x48").await;
    check(b"HTTP/1.1 400 Bad Request\r\n\r\n", SslMode::Disable, "protocol").await;
    check(b"N", SslMode::Require, "does not offer TLS").await;
    check(b"SHTTP/1.1 400 Bad Request", SslMode::Require, "TLS failed").await;
    // Bytes stuffed in before the handshake are never taken for the server's.
    check(b"SR\0\0\0\x08\0\0\0\0", SslMode::Require, "TLS failed").await;
    check(b"Esecret text\0", SslMode::Prefer, "with an error").await;
    check(b"", SslMode::Disable, "no answer within 300ms").await;
    check(b"R\0\0\0\x04", SslMode::Disable, "too short").await;
    check(b"R\0\0\0\x08\0\0\0\x63", SslMode::Disable, "unknown method").await;
    check(b"R\0\0\0\x09\0\0\0\x0a\0", SslMode::Disable, "no authentication method").await;
    // A server that wants to be believed without SCRAM's proof.
    check(b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0R\0\0\0\x08\0\0\0\0", SslMode::Disable, "middle of SCRAM").await;
    check(b"Z\xff\xff\xff\xff", SslMode::Disable, "length").await;
}

#[tokio::test]
async fn of_several_hosts_the_first_primary_is_used() {
    let server = Server::shared();
    let dead = Host::Tcp("127.0.0.1".into(), std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let mut options = server.options(dead.clone(), "postgres");
    options.hosts = vec![dead.clone(), server.tcp(), server.unix()];
    assert_eq!(both(&options).await.ok(), Some(false));
    options.hosts = vec![dead, server.tcp()];
    options.database = "nowhere".into();
    let error = both(&options).await.unwrap_err().to_string();
    assert!(error.contains("refused") && error.contains("does not exist") && error.contains("none of the hosts"), "{error}");
    let check = |answer| primary(&options, answer).is_ok();
    assert_eq!([Some("t"), None, Some("f")].map(check), [false, false, true]);
    options.hosts.clear();
    assert_eq!(wire(&options).await.map(drop).unwrap_err().kind(), Kind::Config);
}

/// Readers are spawned: everything they await must be able to move between threads.
#[test]
fn sessions_can_be_opened_and_read_in_spawned_tasks() {
    fn send<T: Send + 'static>(_: impl FnOnce(ConnectOptions) -> T) {}
    send(|options| async move { session(&options).await.map(drop) });
    send(|options| async move {
        let mut connection = wire(&options).await?;
        let mut copy = connection.copy_out("").await?;
        copy.read(&mut |_: &[u8]| Ok(())).await
    });
}
