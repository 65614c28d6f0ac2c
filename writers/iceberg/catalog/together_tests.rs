//! Commits of several tables: against rustberg, which offers them (`./build.sh interop` compiles it), with a proxy in front that loses
//! answers; and against SeaweedFS, which does not offer them.

use super::harness::{Server, append, lake, rows, rustberg, seaweedfs, stage};
use super::proxy::{Asked, Proxy};
use crate::conformance::spec;
use crate::iceberg::{Iceberg, IcebergTable};
use crate::{Commit, Destination, Joint, Kind, Result, Table, Token};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn keys(endpoint: &str, demanded: Option<bool>) -> Value {
    json!({"catalog_type": "rest", "rest_catalog_url": endpoint, "iceberg_db": "conformance", "multi_table_commit": demanded})
}

fn is_joint(asked: &Asked) -> bool {
    asked.method == "POST" && asked.path.ends_with("/transactions/commit")
}

/// What becomes of the next requests, and how many were sent.
#[derive(Clone, Default)]
struct Faults(Arc<Mutex<Vec<&'static str>>>, Arc<AtomicUsize>);

impl Faults {
    fn next(&self, asked: &Asked, kinds: &[&str]) -> Option<&'static str> {
        let mut faults = self.0.lock().expect("faults");
        let fault = faults.last().copied().filter(|fault| is_joint(asked) && kinds.contains(fault))?;
        faults.pop();
        Some(fault)
    }
}

/// A catalog behind a proxy. Faults: `lost` (done, and the answer is a 504), `never` (a 504, and not done), `400`, `409`.
async fn faulty(upstream: &str) -> (String, Faults) {
    let faults = Faults::default();
    let (before, after) = (faults.clone(), faults.clone());
    let error = |code: u16| (code, json!({"error": {"message": "so it is", "type": "E", "code": code}}), Vec::new());
    let proxy = Proxy::start(
        upstream,
        move |asked| {
            before.1.fetch_add(usize::from(is_joint(asked)), SeqCst);
            match before.next(asked, &["never", "400", "409"])? {
                "never" => Some(error(504)),
                status => Some(error(status.parse().expect("a status"))),
            }
        },
        move |asked, answer| if after.next(asked, &["lost"]).is_some() { error(504) } else { answer },
    );
    (proxy.await, faults)
}

async fn open(lake: &Iceberg) -> Vec<IcebergTable> {
    let mut tables = Vec::new();
    for name in NAMES {
        tables.push(lake.open(&spec(name)).await.expect("open"));
    }
    tables
}

/// Appends one row to each.
async fn commit(tables: &mut [IcebergTable], token: &str, row: i64) -> Vec<Result<()>> {
    let mut group = Vec::new();
    for table in tables {
        let parts = vec![stage(table, &format!("g{row}"), &[row]).await];
        group.push(Joint { table, parts, token: Token(token.into()), how: Commit::Append });
    }
    IcebergTable::commit_together(group).await
}

async fn seen(lake: &Iceberg) -> [Vec<i64>; 3] {
    let mut all = Vec::new();
    for name in NAMES {
        all.push(rows(lake, &spec(name)).await.unwrap_or_default());
    }
    all.try_into().expect("three")
}

fn server() -> Option<(Server, TempDir)> {
    let folder = TempDir::new().expect("folder");
    Some((rustberg(folder.path())?, folder))
}

#[tokio::test]
async fn several_tables_change_in_one_request_whatever_becomes_of_its_answer() {
    let Some((server, _folder)) = server() else { return };
    let (proxy, faults) = faulty(&server.endpoint).await;
    let lake = lake(&keys(&proxy, Some(true))).await;
    lake.check().await.expect("it is offered");
    let mut tables = open(&lake).await;
    let mut expected = Vec::new();
    for (row, fault) in (1..).zip(["", "lost", "never", "409"]) {
        faults.0.lock().expect("faults").extend((!fault.is_empty()).then_some(fault));
        let before = faults.1.load(SeqCst);
        for outcome in commit(&mut tables, &format!("t{row}"), row).await {
            outcome.expect(fault);
        }
        expected.push(row);
        assert_eq!(seen(&lake).await, [(); 3].map(|()| expected.clone()), "{fault}");
        let requests = if matches!(fault, "" | "lost") { 1 } else { 2 };
        assert_eq!(faults.1.load(SeqCst) - before, requests, "{fault}");
        for table in &tables {
            assert_eq!(table.committed(), Some(&Token(format!("t{row}"))));
        }
    }
    // The same again does nothing, and nothing is left of its files.
    for outcome in commit(&mut tables, "t4", 9).await {
        outcome.expect("it is there");
    }
    assert_eq!(seen(&lake).await[0], expected);
}

#[tokio::test]
async fn who_lost_a_race_tries_again_with_all() {
    let Some((server, _folder)) = server() else { return };
    let (proxy, faults) = faulty(&server.endpoint).await;
    let lake = lake(&keys(&proxy, None)).await;
    let mut tables = open(&lake).await;
    let mut other = spec("b");
    other.writer = "other".into();
    append(&lake, &other, "o", &[100]).await;
    for outcome in commit(&mut tables, "t", 1).await {
        outcome.expect("commit");
    }
    assert_eq!(seen(&lake).await, [vec![1], vec![1, 100], vec![1]]);
    assert_eq!(faults.1.load(SeqCst), 2, "the first request changed nothing");
}

#[tokio::test]
async fn a_table_with_a_reason_of_its_own_is_left_out() {
    let Some((server, _folder)) = server() else { return };
    let lake = lake(&keys(&server.endpoint, None)).await;
    let mut tables = open(&lake).await;
    // Another run of the same stream.
    append(&lake, &spec("a"), "other", &[100]).await;
    lake.drop_table("conformance", "c").await.expect("drop");
    let outcomes = commit(&mut tables, "t", 1).await;
    assert_eq!(outcomes[0].as_ref().expect_err("another run").kind(), Kind::Conflict);
    assert!(outcomes[1].is_ok(), "{outcomes:?}");
    assert_eq!(outcomes[2].as_ref().expect_err("dropped").kind(), Kind::Conflict);
    assert_eq!(seen(&lake).await, [vec![100], vec![1], vec![]]);
}

#[tokio::test]
async fn a_refusal_is_one_of_the_request_and_not_of_the_tables() {
    let Some((server, _folder)) = server() else { return };
    let (proxy, faults) = faulty(&server.endpoint).await;
    let demanding = lake(&keys(&proxy, Some(true))).await;
    let mut tables = open(&demanding).await;
    faults.0.lock().expect("faults").push("400");
    for outcome in commit(&mut tables, "t1", 1).await {
        let error = outcome.expect_err("refused");
        assert!(error.to_string().contains("so it is"), "{error}");
    }
    assert_eq!(seen(&demanding).await, [(); 3].map(|()| Vec::<i64>::new()));
    let easy = lake(&keys(&proxy, None)).await;
    let mut tables = open(&easy).await;
    faults.0.lock().expect("faults").push("400");
    for outcome in commit(&mut tables, "t2", 2).await {
        outcome.expect("each by itself");
    }
    assert_eq!(seen(&easy).await, [vec![2], vec![2], vec![2]]);
    assert_eq!(faults.1.load(SeqCst), 2);
}

/// SeaweedFS offers none. A catalog that says it does, and does not, gets each table by itself.
#[tokio::test]
async fn a_catalog_that_does_not_offer_it_commits_each_table_by_itself() {
    let Some(server) = seaweedfs(false).await else { return };
    let keys = |endpoint: &str, demanded: Option<bool>| {
        json!({"catalog_type": "rest", "rest_catalog_url": endpoint, "iceberg_s3_path": "s3://lake", "iceberg_db": "conformance",
            "s3_endpoint": server.store, "aws_region": "us-east-1", "aws_access_key": "any", "aws_secret_key": "key", "multi_table_commit": demanded})
    };
    let demanding = lake(&keys(&server.catalog, Some(true))).await;
    for error in [demanding.check().await.expect_err("not offered"), demanding.open(&spec("a")).await.err().expect("not offered")] {
        assert!(error.kind() == Kind::Config && error.to_string().contains("does not offer"), "{error}");
    }
    let modest = lake(&keys(&server.catalog, None)).await;
    assert!(open(&modest).await.iter().all(|table| !table.commits_together()));
    let boasts = |asked: &Asked, (status, mut body, headers): (u16, Value, Vec<(&'static str, String)>)| {
        if asked.path == "/v1/config" {
            body["endpoints"] = json!(["POST /v1/{prefix}/transactions/commit"]);
        }
        (status, body, headers)
    };
    let boasting = Proxy::start(&server.catalog, |_| None, boasts).await;
    let reluctant = lake(&keys(&boasting, Some(false))).await;
    assert!(open(&reluctant).await.iter().all(|table| !table.commits_together()));
    let lake = lake(&keys(&boasting, None)).await;
    let mut tables = open(&lake).await;
    assert!(tables.iter().all(Table::commits_together));
    for outcome in commit(&mut tables, "t", 1).await {
        outcome.expect("each by itself");
    }
    assert_eq!(seen(&lake).await, [vec![1], vec![1], vec![1]]);
}
