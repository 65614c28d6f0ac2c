//! Our client against a real server: answers, errors that leave the session usable, cancelling.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::error::{Kind, Retry};
use crate::postgres::connect::wire;
use crate::postgres::quote;
use crate::postgres::testing::Server;
use std::time::Duration;

#[tokio::test]
async fn answers_are_the_rows_of_the_last_statement_that_has_rows() {
    let server = Server::shared();
    for host in [server.unix(), server.tcp()] {
        let mut c = wire(&server.options(host, "postgres")).await.unwrap();
        let row = |values: &[Option<&str>]| values.iter().map(|v| v.map(str::to_owned)).collect::<Vec<_>>();
        let rows = c.simple("SELECT 1; BEGIN; SELECT 'a', NULL, '' UNION ALL SELECT 'ü', 'b', 'c'; COMMIT").await.unwrap();
        assert_eq!(rows, [row(&[Some("a"), None, Some("")]), row(&[Some("ü"), Some("b"), Some("c")])]);
        assert_eq!(c.simple("").await.unwrap(), Vec::<Vec<_>>::new());
        assert_eq!(c.simple("SELECT pg_backend_pid()").await.unwrap(), [row(&[Some(&c.backend_pid().to_string())])]);
        let version = c.simple("SHOW server_version_num").await.unwrap();
        assert_eq!(version, [row(&[Some(&c.server_version().to_string())])]);
        assert_eq!(c.parameter("client_encoding"), Some("UTF8"));
        assert_eq!(c.parameter("TimeZone"), Some("UTC"));
        assert_eq!(c.parameter("no such thing"), None);
        assert_eq!(c.simple("SELECT repeat('x', 5000000)").await.unwrap()[0][0].as_ref().unwrap().len(), 5_000_000);
        assert_eq!(c.buffer.capacity(), super::BUFFER_BYTES);
        c.close().await;
    }
}

#[tokio::test]
async fn hostile_names_and_values_travel_unchanged() {
    let server = Server::shared();
    let mut c = wire(&server.options(server.unix(), "postgres")).await.unwrap();
    for setting in ["on", "off"] {
        c.simple(&format!("SET standard_conforming_strings = {setting}; SET escape_string_warning = off")).await.unwrap();
        for text in quote::tests::HOSTILE {
            let rows = c.simple(&format!("SELECT {}", quote::literal(text))).await.unwrap();
            assert_eq!(rows[0][0].as_deref(), Some(text));
            if !text.is_empty() {
                let sql = format!("SELECT row_to_json(t) ->> {} FROM (SELECT 7 AS {}) t", quote::literal(text), quote::identifier(text));
                assert_eq!(c.simple(&sql).await.unwrap()[0][0].as_deref(), Some("7"), "{text}");
            }
        }
    }
    assert_eq!(c.simple("SELECT 'a\0b'").await.unwrap_err().kind(), Kind::Config);
    assert!(c.simple("SELECT 1").await.is_ok());
}

#[tokio::test]
async fn an_error_leaves_the_session_usable() {
    let server = Server::shared();
    let mut c = wire(&server.options(server.tcp(), "postgres")).await.unwrap();
    let check = |error: crate::error::Error, code: &str, retry: Retry| {
        assert_eq!((error.code(), error.retry(), error.kind()), (Some(code), retry, Kind::Source), "{error}");
    };
    check(c.simple("SELECT 1/0").await.unwrap_err(), "22012", Retry::Never);
    check(c.simple("SELECT 1/(g-3) FROM generate_series(1,9) g").await.unwrap_err(), "22012", Retry::Never);
    let missing = c.simple("SELECT * FROM no_such_table").await.unwrap_err();
    assert!(missing.advice().unwrap().contains("discover"));
    check(missing, "42P01", Retry::Never);
    check(c.simple("SET statement_timeout = 50; SELECT pg_sleep(5)").await.unwrap_err(), "57014", Retry::Never);
    check(c.copy_out("COPY no_such_table TO STDOUT").await.map(drop).unwrap_err(), "42P01", Retry::Never);
    assert_eq!(c.copy_out("SELECT 1").await.map(drop).unwrap_err().kind(), Kind::Bug);
    c.simple("DO $$ BEGIN RAISE WARNING 'a'; RAISE NOTICE 'b'; END $$").await.unwrap();
    assert_eq!(c.simple("SELECT 1").await.unwrap()[0][0].as_deref(), Some("1"));
    let too_large = c.simple("SELECT repeat('x', 40000000) FROM generate_series(1, 2)").await.unwrap_err();
    assert!(too_large.to_string().contains("64 MiB"), "{too_large}");
    assert!(c.simple("SELECT 1").await.is_ok());
    assert!(c.simple("COPY pg_class FROM STDIN").await.is_err());
    assert_eq!(c.simple("SELECT 1").await.unwrap_err().retry(), Retry::Again);
}

#[tokio::test]
async fn a_terminated_session_is_transient_and_stays_closed() {
    let server = Server::shared();
    let mut c = wire(&server.options(server.tcp(), "postgres")).await.unwrap();
    let mut killer = wire(&server.options(server.unix(), "postgres")).await.unwrap();
    killer.simple(&format!("SELECT pg_terminate_backend({}, 5000)", c.backend_pid())).await.unwrap();
    let error = c.simple("SELECT 1").await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some("57P01"), Retry::Again), "{error}");
    let error = c.simple("SELECT 1").await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.retry()), ("the connection is closed", Retry::Again));
}

#[tokio::test]
async fn a_command_is_cancelled_from_outside() {
    let server = Server::shared();
    for (user, mode) in [("postgres", crate::postgres::connect::SslMode::Disable), ("tls_only", crate::postgres::connect::SslMode::Require)]
    {
        let mut options = server.options(server.tcp(), user);
        options.tls.mode = mode;
        let mut c = wire(&options).await.unwrap();
        let token = c.cancel_token();
        let cancel = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            token.cancel().await
        };
        let (answer, cancelled) = tokio::join!(c.simple("SELECT pg_sleep(30)"), cancel);
        cancelled.unwrap();
        assert_eq!(answer.unwrap_err().code(), Some("57014"));
        assert!(c.simple("SELECT 1").await.is_ok());
    }
}
