//! One catalog shared with PyIceberg, on SQLite and on PostgreSQL, in both forms of its tables; races; lost connections.

use super::*;
use crate::iceberg::testing::{Peer, Server, append, lake, rows, skip, spec, subject};
use crate::iceberg::{Iceberg, IcebergConfig};
use crate::{Commit, Destination, Table, Token, conformance};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// `iceberg_tables` as it was before views.
const V0: &str = "CREATE TABLE iceberg_tables (catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL, \
                  table_name VARCHAR(255) NOT NULL, metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000), \
                  PRIMARY KEY (catalog_name, table_namespace, table_name))";

fn keys(url: &str, warehouse: &Path) -> Value {
    json!({"catalog_type": "jdbc", "jdbc_url": url, "iceberg_s3_path": warehouse})
}

fn peer(url: &str, warehouse: &Path) -> Option<Peer> {
    let url = url.trim_start_matches("jdbc:").replace("sqlite:/", "sqlite:////").replace("postgresql:", "postgresql+psycopg2:");
    Peer::open("olake_iceberg", json!({"type": "sql", "uri": url, "warehouse": format!("file://{}", warehouse.display())}))
}

fn sql(lake: &Iceberg) -> &Sql {
    match &lake.catalog {
        super::super::Catalog::Sql(sql) => sql,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_contract_is_kept_by_a_catalog_in_sqlite() {
    let folder = TempDir::new().expect("folder");
    let root = folder.path().to_owned();
    let open = Arc::new(move |files| {
        let warehouse = format!("file://{}", root.display());
        let sql = Sql::new(Url::Sqlite(root.join("catalog.db")), "c", &warehouse, files).expect("a catalog");
        let catalog = super::super::Catalog::Sql(Arc::new(sql));
        Iceberg::at(catalog, IcebergConfig::default().settings().expect("settings"), crate::iceberg::tests::resources())
    });
    conformance::all(&subject(folder.path(), open)).await;
}

/// A writer from elsewhere and this one take turns.
async fn in_turns(url: &str, warehouse: &Path, v0: bool) {
    let lake = lake(keys(url, warehouse)).await;
    lake.check().await.expect("check");
    let sql = sql(&lake);
    assert!(sql.database.columns("iceberg_tables").await.expect("columns").is_empty(), "a check leaves nothing behind");
    if v0 {
        sql.database.execute(V0, &[]).await.expect("tables of the old form");
        sql.database.execute(TABLES[1], &[]).await.expect("properties");
    }
    let Some(peer) = peer(url, warehouse) else { return };
    peer.ask(json!({"do": "create", "table": "theirs.t"}));
    let (theirs, ours) = (spec("theirs", "t", ""), spec("ours", "t", ""));
    peer.append("theirs.t", &[1, 2]);
    append(&lake, &theirs, "a", &[3]).await.expect("append to theirs");
    peer.append("theirs.t", &[4]);
    append(&lake, &theirs, "b", &[5, 6]).await.expect("append to theirs again");
    assert_eq!(peer.rows("theirs.t"), [1, 2, 3, 4, 5, 6]);
    assert_eq!(rows(&lake, &theirs).await, [1, 2, 3, 4, 5, 6]);
    append(&lake, &ours, "a", &[1]).await.expect("append to ours");
    peer.append("ours.t", &[2]);
    append(&lake, &ours, "b", &[3]).await.expect("append to ours again");
    assert_eq!(peer.rows("ours.t"), [1, 2, 3]);
    assert_eq!(peer.ask(json!({"do": "namespaces"})), json!(["ours", "theirs"]));
    assert_eq!(peer.ask(json!({"do": "tables", "namespace": "ours"})), json!(["ours.t"]));
    // What others see of a row: which file was current before, and that it is a table.
    assert_eq!(sql.database.columns("iceberg_tables").await.expect("columns").len(), if v0 { 5 } else { 6 });
    let select = "SELECT previous_metadata_location FROM iceberg_tables WHERE table_namespace = $1";
    let before = sql.database.query(select, &["ours"]).await.expect("a row");
    let loaded = lake.catalog.load(&lake.name("ours", "t")).await.expect("load").expect("a table");
    let logged = loaded.metadata.metadata_log().last().map(|entry| entry.metadata_file.clone());
    assert_eq!(before, [[logged]]);
    lake.drop_table("ours", "t").await.expect("drop");
    assert_eq!(peer.ask(json!({"do": "tables", "namespace": "ours"})), json!([]));
    assert!(!warehouse.join("ours/t").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn pyiceberg_and_this_take_turns_on_sqlite() {
    for v0 in [false, true] {
        let folder = TempDir::new().expect("folder");
        in_turns(&format!("jdbc:sqlite:{}", folder.path().join("c.db").display()), folder.path(), v0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pyiceberg_and_this_take_turns_on_postgresql() {
    let Some(server) = Server::start(&[]) else { return };
    let admin = server.connect().await;
    for (database, v0) in [("new", false), ("old", true)] {
        admin.batch_execute(&format!("CREATE DATABASE {database}")).await.expect("a database");
        let folder = TempDir::new().expect("folder");
        in_turns(&server.url(database, ""), folder.path(), v0).await;
    }
}

/// Ten writers of ours and ten appends of PyIceberg, all at once.
async fn all_at_once(url: &str, warehouse: &Path) {
    append(&lake(keys(url, warehouse)).await, &spec("db", "t", ""), "first", &[0]).await.expect("the table");
    let mut running = Vec::new();
    for writer in 0..10_i64 {
        let keys = keys(url, warehouse);
        running.push(tokio::spawn(async move {
            let lake = lake(keys).await;
            let spec = spec("db", "t", &format!("w{writer}"));
            for turn in 0..3 {
                let ids = [100 * writer + turn + 1];
                append(&lake, &spec, &format!("t{turn}"), &ids).await.expect("a commit");
            }
        }));
    }
    let mut wanted: Vec<i64> = (0..10).flat_map(|writer| (1..=3).map(move |turn| 100 * writer + turn)).chain([0]).collect();
    let peer = peer(url, warehouse);
    if let Some(peer) = peer.clone() {
        wanted.extend(10_000..10_010);
        running.push(tokio::task::spawn_blocking(move || (10_000..10_010).for_each(|id| peer.append("db.t", &[id]))));
    }
    for task in running {
        task.await.expect("a writer");
    }
    wanted.sort_unstable();
    assert_eq!(rows(&lake(keys(url, warehouse)).await, &spec("db", "t", "")).await, wanted);
    if let Some(peer) = peer {
        assert_eq!(peer.rows("db.t"), wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_the_same_time_lose_nothing_on_sqlite() {
    let folder = TempDir::new().expect("folder");
    all_at_once(&format!("jdbc:sqlite:{}", folder.path().join("c.db").display()), folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_the_same_time_lose_nothing_on_postgresql() {
    let Some(server) = Server::start(&["default_transaction_isolation=serializable"]) else { return };
    let folder = TempDir::new().expect("folder");
    all_at_once(&server.url("postgres", ""), folder.path()).await;
}

#[tokio::test]
async fn a_database_holds_several_catalogs() {
    let folder = TempDir::new().expect("folder");
    let mut keys = keys(&format!("jdbc:sqlite:{}", folder.path().join("c.db").display()), folder.path());
    let first = lake(keys.clone()).await;
    append(&first, &spec("db", "t", ""), "a", &[1]).await.expect("a table");
    keys["catalog_name"] = "other".into();
    let other = lake(keys).await;
    assert!(other.catalog.load(&other.name("db", "t")).await.expect("load").is_none());
    append(&other, &spec("db", "t", ""), "a", &[2]).await.expect("another table");
    other.drop_table("db", "t").await.expect("drop");
    assert_eq!(rows(&first, &spec("db", "t", "")).await, [1]);
}

#[tokio::test]
async fn who_loses_a_race_leaves_no_metadata_file() {
    let folder = TempDir::new().expect("folder");
    let lake = lake(keys(&format!("jdbc:sqlite:{}", folder.path().join("c.db").display()), folder.path())).await;
    let (mut winner, mut loser) =
        (lake.open(&spec("db", "t", "w")).await.expect("a table"), lake.open(&spec("db", "t", "l")).await.expect("a table"));
    winner.commit(Vec::new(), Token("a".into()), Commit::Append).await.expect("a commit");
    loser.commit(Vec::new(), Token("b".into()), Commit::Append).await.expect("a commit at the second attempt");
    let loaded = lake.catalog.load(&lake.name("db", "t")).await.expect("load").expect("a table");
    let files = std::fs::read_dir(folder.path().join("db/t/metadata")).expect("metadata");
    let files = files.filter(|file| file.as_ref().expect("file").file_name().to_string_lossy().ends_with(".metadata.json")).count();
    assert_eq!(files, loaded.metadata.metadata_log().len() + 1);
}

#[tokio::test]
async fn a_table_that_was_renamed_keeps_its_files() {
    let folder = TempDir::new().expect("folder");
    let lake = lake(keys(&format!("jdbc:sqlite:{}", folder.path().join("c.db").display()), folder.path())).await;
    append(&lake, &spec("db", "t", ""), "a", &[1]).await.expect("the first");
    let rename = "UPDATE iceberg_tables SET table_name = 'renamed' WHERE table_name = 't'";
    sql(&lake).database.execute(rename, &[]).await.expect("rename");
    append(&lake, &spec("db", "t", ""), "a", &[2]).await.expect("the second");
    lake.drop_table("db", "t").await.expect("drop");
    assert_eq!(rows(&lake, &spec("db", "renamed", "")).await, [1]);
    // A view of that name is not written over.
    let view = "INSERT INTO iceberg_tables VALUES ('olake_iceberg', 'db', 'v', 'file:///nowhere', NULL, 'VIEW')";
    sql(&lake).database.execute(view, &[]).await.expect("a view");
    let error = append(&lake, &spec("db", "v", ""), "a", &[3]).await.expect_err("a view");
    assert!(error.to_string().contains("VIEW") && error.advice().is_some(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_during_a_commit_leaves_no_doubt() {
    let Some(server) = Server::start(&[]) else { return };
    let folder = TempDir::new().expect("folder");
    let lake = lake(keys(&server.url("postgres", ""), folder.path())).await;
    append(&lake, &spec("db", "t", ""), "a", &[1]).await.expect("the table");
    let (holder, killer) = (server.connect().await, server.connect().await);
    holder.batch_execute("BEGIN; SELECT * FROM iceberg_tables FOR UPDATE").await.expect("a lock");
    let commit = tokio::spawn(async move {
        let done = append(&lake, &spec("db", "t", ""), "b", &[2]).await;
        (lake, done)
    });
    let waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE iceberg%'";
    while killer.query(waiting, &[]).await.expect("the server").is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    holder.batch_execute("COMMIT").await.expect("the end of the lock");
    let (lake, done) = commit.await.expect("a task");
    done.expect("committed after all");
    assert_eq!(rows(&lake, &spec("db", "t", "")).await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_of_a_catalog_is_reached_as_its_url_says() {
    let folder = TempDir::new().expect("folder");
    let (key, certificate) = (folder.path().join("k.pem"), folder.path().join("c.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        return skip("there is no openssl");
    }
    let Some(server) = Server::start(&[]) else { return };
    let admin = server.connect().await;
    for (file, name) in [(&key, "server.key"), (&certificate, "server.crt")] {
        let text = std::fs::read_to_string(file).expect("pem");
        let to = server.folder().join("data").join(name);
        // Written by the server itself, so that it owns it.
        let copy = format!("COPY (SELECT {text:?}) TO PROGRAM 'umask 077; tr -d ''\"'' > {}'", to.display());
        let copy = copy.replace(&format!("{text:?}"), &format!("unnest(string_to_array($x${}$x$, E'\\n'))", text.trim_end()));
        admin.batch_execute(&copy).await.expect("a file");
    }
    admin.batch_execute("ALTER SYSTEM SET ssl = on").await.expect("ssl");
    admin.batch_execute("CREATE ROLE other LOGIN PASSWORD 'hunter2'; CREATE SCHEMA s AUTHORIZATION other").await.expect("a role");
    let hba = server.folder().join("data/pg_hba.conf");
    let lines =
        "hostssl all other 127.0.0.1/32 scram-sha-256\nhostnossl all other 127.0.0.1/32 reject\nhost all postgres 127.0.0.1/32 trust\n";
    admin
        .batch_execute(&format!("COPY (SELECT unnest(string_to_array($x${lines}$x$, E'\\n'))) TO '{}'", hba.display()))
        .await
        .expect("hba");
    admin.batch_execute("SELECT pg_reload_conf()").await.expect("reload");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let port = server.port;
    let try_with = async |url: String, user: &str, password: &str| {
        let mut keys = keys(&url, folder.path());
        keys["jdbc_username"] = user.into();
        keys["jdbc_password"] = password.into();
        let config: IcebergConfig = serde_json::from_value(keys).expect("keys");
        match Iceberg::open(&config, crate::iceberg::tests::resources()).await {
            Ok(lake) => lake.check().await,
            Err(error) => Err(error),
        }
    };
    let url = |more: &str| format!("jdbc:postgresql://localhost:{port}/postgres?currentSchema=s{more}");
    let ca = format!("&sslrootcert={}", certificate.display());
    for good in [String::new(), "&sslmode=require".into(), format!("&sslmode=verify-ca{ca}"), format!("&sslmode=verify-full{ca}")] {
        try_with(url(&good), "other", "hunter2").await.unwrap_or_else(|e| panic!("{good}: {e}"));
    }
    for (more, word) in [("&sslmode=disable", "pg_hba"), ("&sslmode=verify-ca", "certificate"), ("&sslmode=verify-full", "certificate")] {
        let error = try_with(url(more), "other", "hunter2").await.expect_err(more);
        assert!(error.to_string().contains(word), "{more}: {error}");
    }
    let other_name = url(&format!("&sslmode=verify-full{ca}")).replace("localhost", "127.0.0.1");
    let error = try_with(other_name, "other", "hunter2").await.expect_err("another name");
    assert!(error.to_string().contains("certificate"), "{error}");
    let error = try_with(url(""), "other", "hunter3").await.expect_err("a wrong password");
    assert!(error.to_string().contains("password") && error.advice().is_some_and(|hint| hint.contains("jdbc_password")), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter3"));
    let error = try_with(url("").replace("currentSchema=s", "currentSchema=pg_catalog"), "other", "hunter2").await.expect_err("no right");
    assert!(error.advice().is_some_and(|hint| hint.contains("grant")), "{error}");
}
