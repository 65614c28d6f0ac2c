//! REST catalogs against SeaweedFS, which gives tokens and credentials and looks at signatures, and against rustberg; read and written
//! with PyIceberg as well.
//!
//! Answers that are lost, late or refused come from a proxy in front of SeaweedFS.

use super::harness::{
    Fresh, SEAWEED_KEY, Seaweed, Tried, append, keeps_the_promises, lake, lake_with, pyiceberg, rows, rustberg, seaweedfs, stage,
    writers_race,
};
use super::proxy::{Asked, Proxy};
use super::{Catalog, TableName};
use crate::conformance::spec;
use crate::iceberg::io::Files;
use crate::storage::{S3Credentials, S3Options, StoreOptions};
use crate::{Commit, Destination, Kind, Secret, Table, TableSpec, Token};
use futures::FutureExt;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// Of a catalog that admits everybody.
fn keys(endpoint: &str) -> Value {
    json!({"catalog_type": "rest", "rest_catalog_url": endpoint, "iceberg_db": "conformance"})
}

/// Of a SeaweedFS that admits everybody, maybe behind a proxy. Nobody looks at the keys of the store.
fn open_keys(server: &Seaweed, endpoint: &str) -> Value {
    json!({
        "catalog_type": "lakekeeper", "rest_catalog_url": endpoint, "iceberg_s3_path": "s3://lake", "iceberg_db": "conformance",
        "s3_endpoint": server.store, "aws_region": "us-east-1", "aws_access_key": "any", "aws_secret_key": "key",
    })
}

/// Of a strict SeaweedFS. Without a word of S3: all of that comes from the catalog.
fn strict_keys(endpoint: &str) -> Value {
    json!({
        "catalog_type": "polaris", "rest_catalog_url": endpoint, "iceberg_s3_path": "s3://lake", "iceberg_db": "conformance",
        "credential": format!("{}:{}", SEAWEED_KEY.0, SEAWEED_KEY.1), "scope": "PRINCIPAL_ROLE:ALL",
    })
}

/// The whole store, as its owner sees it.
fn everything(server: &Seaweed) -> Files {
    let (access, secret) = (Secret::new(SEAWEED_KEY.0), Secret::new(SEAWEED_KEY.1));
    Files::new(StoreOptions {
        s3: Some(S3Options {
            bucket: String::new(),
            region: "us-east-1".into(),
            prefix: String::new(),
            endpoint: Some(server.store.clone()),
            path_style: true,
            credentials: S3Credentials::Keys { access, secret, session: Secret::default() },
            retries: 0,
        }),
        ..StoreOptions::default()
    })
}

fn fresh(keys: Value) -> Fresh {
    Arc::new(move |dying: Option<Files>| {
        let keys = keys.clone();
        async move {
            lake_with(&keys, |catalog| {
                if let (Catalog::Rest(rest), Some(dying)) = (catalog, dying) {
                    Arc::get_mut(rest).expect("nobody else has it").misbehave(dying);
                }
            })
            .await
        }
        .boxed()
    })
}

/// OAuth2 tokens, and credentials for one table each.
#[tokio::test]
async fn the_contract_is_kept_with_seaweedfs() {
    let Some(server) = seaweedfs(true).await else { return };
    let fresh = fresh(strict_keys(&server.catalog));
    writers_race(&fresh, "raced").await;
    let files = everything(&server);
    let place = move |spec: &TableSpec| Some((files.clone(), format!("s3://lake/{}/{}", spec.database, spec.name)));
    keeps_the_promises(fresh, Tried::Alive, place).await;
}

#[tokio::test]
async fn the_contract_is_kept_with_rustberg() {
    let folder = TempDir::new().expect("folder");
    let Some(server) = rustberg(folder.path()) else { return };
    let fresh = fresh(keys(&server.endpoint));
    writers_race(&fresh, "raced").await;
    let root = format!("file://{}", folder.path().display());
    let place = move |spec: &TableSpec| Some((Files::new(StoreOptions::default()), format!("{root}/{}/{}", spec.database, spec.name)));
    keeps_the_promises(fresh, Tried::All, place).await;
}

#[tokio::test]
async fn a_table_of_a_rest_catalog_is_shared_with_others() {
    let Some(server) = seaweedfs(true).await else { return };
    let lake = lake(&strict_keys(&server.catalog)).await;
    append(&lake, &spec("shared"), "a", &[1, 2]).await;
    let mut late = lake.open(&spec("shared")).await.expect("open");
    let part = stage(&late, "late", &[4]).await;
    let properties = json!({"type": "rest", "uri": server.catalog, "warehouse": "s3://lake",
        "credential": format!("{}:{}", SEAWEED_KEY.0, SEAWEED_KEY.1)});
    let seen = pyiceberg(&properties, "answer = rows('conformance.shared')\nappend('conformance.shared', 3)");
    late.commit(vec![part], Token("late".into()), Commit::Append).await.expect("commit on what another has written");
    if let Some(seen) = seen {
        assert_eq!(seen, json!([1, 2]));
        assert_eq!(rows(&lake, &spec("shared")).await, Some(vec![1, 2, 3, 4]));
        assert_eq!(pyiceberg(&properties, "answer = rows('conformance.shared')"), Some(json!([1, 2, 3, 4])));
    }
    for name in ["", ".", ".."] {
        let error = lake.open(&spec(name)).await.err().expect("no name");
        assert_eq!(error.kind(), Kind::Config, "{error}");
    }
    lake.check().await.expect("check");
    lake.drop_table("conformance", "shared").await.expect("drop");
    lake.drop_table("nowhere", "shared").await.expect("a table that is not there is fine");
}

#[tokio::test]
async fn who_is_not_admitted_is_told() {
    let Some(server) = seaweedfs(true).await else { return };
    let refused = async |change: &[(&str, Value)]| {
        let mut keys = strict_keys(&server.catalog);
        for (key, value) in change {
            keys[*key] = value.clone();
        }
        let error = lake(&keys).await.check().await.expect_err("not admitted");
        assert!(!format!("{error} {:?}", error.advice()).contains("hunter2"), "{error}");
        error
    };
    let error = refused(&[("credential", json!("AKIASEAWEED:hunter2"))]).await;
    assert!(error.kind() == Kind::Config && error.advice().is_some_and(|hint| hint.contains("`credential`")), "{error}");
    refused(&[("credential", json!(null)), ("token", json!("hunter2"))]).await;
    refused(&[("credential", json!(null))]).await;
    let signed = |secret: &str| {
        [
            ("credential", json!(null)),
            ("rest_signing_v_4", json!(true)),
            ("rest_signing_name", json!("s3tables")),
            ("aws_region", json!("us-east-1")),
            ("aws_access_key", json!(SEAWEED_KEY.0)),
            ("aws_secret_key", json!(secret)),
        ]
    };
    refused(&signed("hunter2")).await;
    let mut keys = strict_keys(&server.catalog);
    for (key, value) in signed(SEAWEED_KEY.1) {
        keys[key] = value;
    }
    let lake = lake(&keys).await;
    append(&lake, &spec("signed"), "a", &[1]).await;
    assert_eq!(rows(&lake, &spec("signed")).await, Some(vec![1]));
}

#[tokio::test]
async fn a_place_that_is_no_catalog_is_said() {
    let error = lake(&keys("http://127.0.0.1:1")).await.check().await.expect_err("nobody listens");
    assert!(error.kind() == Kind::Storage && error.to_string().contains("cannot be reached"), "{error}");
    let proxy = Proxy::start("http://127.0.0.1:1", |_| Some((404, json!(null), Vec::new())), |_, answer| answer).await;
    let error = lake(&keys(&proxy)).await.check().await.expect_err("no catalog");
    assert!(error.advice().is_some_and(|hint| hint.contains("/v1/config")), "{error}: {:?}", error.advice());
}

/// Commits are answered wrongly, late or not at all by a proxy.
#[tokio::test]
async fn a_commit_happens_once_whatever_becomes_of_the_answer() {
    let Some(server) = seaweedfs(false).await else { return };
    let faults = Arc::new(Mutex::new(Vec::new()));
    let (before, after) = (faults.clone(), faults.clone());
    let is_commit = |asked: &Asked| asked.method == "POST" && asked.path.contains("/tables/");
    let proxy = Proxy::start(
        &server.catalog,
        move |asked| {
            let mut faults = before.lock().expect("faults");
            match faults.last() {
                Some(&fault @ ("conflict" | "refuse" | "busy")) if is_commit(asked) => {
                    faults.pop();
                    let error = |code: u16, message: &str| json!({"error": {"message": message, "type": "E", "code": code}});
                    Some(match fault {
                        "conflict" => (409, error(409, "stale"), Vec::new()),
                        "busy" => (429, error(429, "slow down"), vec![("retry-after", "1".to_owned())]),
                        _ => (400, error(400, "the table is under maintenance"), Vec::new()),
                    })
                }
                _ => None,
            }
        },
        move |asked, answer| {
            let mut faults = after.lock().expect("faults");
            match faults.last() {
                Some(&fault @ ("done-500" | "done-503")) if is_commit(asked) => {
                    faults.pop();
                    (fault[5..].parse().expect("status"), json!({"error": {"message": "late", "type": "E", "code": 500}}), Vec::new())
                }
                _ => answer,
            }
        },
    )
    .await;
    let lake = lake(&open_keys(&server, &proxy)).await;
    append(&lake, &spec("faulty"), "start", &[0]).await;
    for (value, fault) in (1..).zip(["done-500", "done-503", "conflict", "busy"]) {
        faults.lock().expect("faults").push(fault);
        append(&lake, &spec("faulty"), fault, &[value]).await;
        assert!(faults.lock().expect("faults").is_empty(), "{fault} was used");
        assert_eq!(rows(&lake, &spec("faulty")).await, Some((0..=value).collect()), "{fault}");
    }
    faults.lock().expect("faults").push("refuse");
    let mut table = lake.open(&spec("faulty")).await.expect("open");
    let part = stage(&table, "refused", &[9]).await;
    let error = table.commit(vec![part], Token("refused".into()), Commit::Append).await.expect_err("refused");
    assert!(error.to_string().contains("under maintenance"), "{error}");
    assert_eq!(rows(&lake, &spec("faulty")).await, Some((0..=4).collect()));
}

/// The proxy gives the tokens, because SeaweedFS' last an hour, and looks whether they are used.
#[tokio::test]
async fn tokens_are_asked_for_and_renewed() {
    let Some(server) = seaweedfs(false).await else { return };
    let (given, refused, strange) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (given.clone(), refused.clone(), strange.clone());
    let proxy = Proxy::start(
        &server.catalog,
        move |asked| {
            if asked.path == "/v1/oauth/tokens" {
                let form = String::from_utf8_lossy(&asked.body).into_owned();
                for part in ["grant_type=client_credentials", "client_id=me", "client_secret=a%26b%3Ac", "scope=PRINCIPAL_ROLE%3AALL"] {
                    counts.2.fetch_add(usize::from(!form.contains(part)), SeqCst);
                }
                let number = counts.0.fetch_add(1, SeqCst) + 1;
                // The first one lasts; it is refused all the same, once it has been used for a commit.
                let life = if number == 1 { 3600 } else { 1 };
                return Some((
                    200,
                    json!({"access_token": format!("proxy-{number}"), "token_type": "bearer", "expires_in": life}),
                    Vec::new(),
                ));
            }
            let current = format!("Bearer proxy-{}", counts.0.load(SeqCst));
            counts.2.fetch_add(usize::from(asked.authorization.as_deref() != Some(current.as_str())), SeqCst);
            let commit = asked.method == "POST" && asked.path.contains("/tables/");
            if commit && current == "Bearer proxy-1" {
                counts.1.fetch_add(1, SeqCst);
                let error = json!({"error": {"message": "expired", "type": "AuthenticationTimeoutException", "code": 419}});
                return Some((419, error, Vec::new()));
            }
            None
        },
        |_, answer| answer,
    )
    .await;
    let mut keys = open_keys(&server, &proxy);
    keys["credential"] = json!("me:a&b:c");
    keys["scope"] = json!("PRINCIPAL_ROLE:ALL");
    let lake = lake(&keys).await;
    append(&lake, &spec("admitted"), "a", &[1]).await;
    assert_eq!((refused.load(SeqCst), given.load(SeqCst) >= 2), (1, true), "refused once, and another was asked for");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = given.load(SeqCst);
    append(&lake, &spec("admitted"), "b", &[2]).await;
    assert!(given.load(SeqCst) > before, "what had ended was renewed");
    assert_eq!(rows(&lake, &spec("admitted")).await, Some(vec![1, 2]));
    assert_eq!(strange.load(SeqCst), 0, "every request had the token that was given last, every form what belongs there");
}

/// The proxy replaces the first credentials that SeaweedFS gives by others that do not work and are about to end: they must be renewed
/// before the first file is read.
#[tokio::test]
async fn credentials_that_came_with_a_table_are_renewed() {
    let Some(server) = seaweedfs(true).await else { return };
    for endpoint in [true, false] {
        let (asked_for, loads, unasked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (asked_for.clone(), loads.clone(), unasked.clone());
        let given: Arc<Mutex<Value>> = Arc::default();
        let kept = given.clone();
        let grant = |config: &Value| json!([{"prefix": "s3://lake/", "config": config}, {"prefix": "s3://other", "config": {}}]);
        let proxy = Proxy::start(
            &server.catalog,
            move |asked| {
                if !asked.path.ends_with("/credentials") {
                    return None;
                }
                counts.0.fetch_add(1, SeqCst);
                Some((200, json!({"storage-credentials": grant(&given.lock().expect("given"))}), Vec::new()))
            },
            move |asked, (status, mut body, headers)| {
                if asked.path == "/v1/config" && endpoint {
                    body["endpoints"] = json!(["GET /v1/{prefix}/namespaces/{namespace}/tables/{table}/credentials"]);
                } else if body.get("metadata").is_some() && (asked.method == "GET" || asked.path.ends_with("/tables")) {
                    counts.2.fetch_add(usize::from(asked.delegation.as_deref() != Some("vended-credentials")), SeqCst);
                    let number = counts.1.fetch_add(1, SeqCst);
                    // Without an endpoint of their own, every second load has good ones.
                    if endpoint || number % 2 == 0 {
                        let good = body["config"].take();
                        let end = SystemTime::now().duration_since(UNIX_EPOCH).expect("now").as_millis() + 60_000;
                        let mut gone = good.clone();
                        gone["s3.access-key-id"] = json!("AKIAGONE");
                        gone["s3.session-token-expires-at-ms"] = json!(end.to_string());
                        body["storage-credentials"] = grant(&gone);
                        *kept.lock().expect("given") = good;
                    }
                }
                (status, body, headers)
            },
        )
        .await;
        let mut keys = strict_keys(&proxy);
        keys["aws_access_key"] = json!("AKIAWRONG");
        keys["aws_secret_key"] = json!("not the secret");
        keys["s3_endpoint"] = json!("http://127.0.0.1:1");
        let lake = lake(&keys).await;
        append(&lake, &spec("vended"), "a", &[1]).await;
        append(&lake, &spec("vended"), "b", &[2]).await;
        assert_eq!(rows(&lake, &spec("vended")).await, Some(vec![1, 2]));
        assert_eq!(asked_for.load(SeqCst) > 0, endpoint, "the endpoint is used where there is one");
        assert_eq!(unasked.load(SeqCst), 0, "credentials are asked for");
        lake.drop_table("conformance", "vended").await.expect("drop");
        assert!(lake.catalog.load(&TableName { namespace: "conformance".into(), name: "vended".into() }).await.expect("load").is_none());
    }
}

/// The proxy plays Google: OpenSSL looks at the signature of what it is sent, and it gives a token for that.
#[tokio::test]
async fn a_google_service_account_is_exchanged_for_a_token() {
    let folder = TempDir::new().expect("folder");
    let Some(server) = seaweedfs(false).await else { return };
    let at = |name: &str| folder.path().join(name).display().to_string();
    let openssl =
        |arguments: &[&str]| std::process::Command::new("openssl").args(arguments).output().is_ok_and(|done| done.status.success());
    let (key, public) = (at("key.pem"), at("public.pem"));
    if !openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", &key]) {
        let _: Option<()> = super::harness::skipped("a service account (no openssl)");
        return;
    }
    assert!(openssl(&["pkey", "-in", &key, "-pubout", "-out", &public]));
    let (seen, strange) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicUsize::new(0)));
    let (sent, odd) = (seen.clone(), strange.clone());
    let proxy = Proxy::start(
        &server.catalog,
        move |asked| {
            if asked.path == "/token" {
                *sent.lock().expect("seen") = String::from_utf8_lossy(&asked.body).into_owned();
                return Some((200, json!({"access_token": "proxy-g", "expires_in": 3599}), Vec::new()));
            }
            let fits = asked.authorization.as_deref() == Some("Bearer proxy-g") && asked.project.as_deref() == Some("billed");
            odd.fetch_add(usize::from(!fits), SeqCst);
            None
        },
        |_, answer| answer,
    )
    .await;
    let file = json!({"type": "service_account", "client_email": "me@p.iam.gserviceaccount.com", "private_key_id": "k1",
        "private_key": std::fs::read_to_string(&key).expect("key"), "token_uri": format!("{proxy}/token")});
    let mut keys = open_keys(&server, &proxy);
    keys["catalog_type"] = json!("biglake");
    keys["gcp_service_account_json"] = json!(file.to_string());
    keys["gcp_project_id"] = json!("billed");
    let lake = lake(&keys).await;
    append(&lake, &spec("billed"), "a", &[1]).await;
    assert_eq!(rows(&lake, &spec("billed")).await, Some(vec![1]));
    assert_eq!(strange.load(SeqCst), 0, "every request had the token and the project");

    let form = seen.lock().expect("seen").clone();
    assert!(form.contains("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"), "{form}");
    let assertion = form.split('&').find_map(|field| field.strip_prefix("assertion=")).expect("an assertion");
    let (text, signature) = assertion.rsplit_once('.').expect("a signature");
    let decode = |part: &str| base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, part).expect("base64");
    std::fs::write(at("text"), text).expect("write");
    std::fs::write(at("signature"), decode(signature)).expect("write");
    assert!(openssl(&["dgst", "-sha256", "-verify", &public, "-signature", &at("signature"), &at("text")]), "the signature is right");
    let (header, claims) = text.split_once('.').expect("header and claims");
    let read = |part: &str| serde_json::from_slice::<Value>(&decode(part)).expect("JSON");
    assert_eq!((&read(header)["alg"], &read(header)["kid"]), (&json!("RS256"), &json!("k1")));
    let claims = read(claims);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("me@p.iam.gserviceaccount.com"), &json!(format!("{proxy}/token"))));
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/cloud-platform");
}

#[tokio::test]
async fn a_server_that_is_busy_is_waited_for() {
    let Some(server) = seaweedfs(false).await else { return };
    let count = Arc::new(AtomicUsize::new(0));
    let proxy = Proxy::start(
        &server.catalog,
        move |_| match count.fetch_add(1, SeqCst) {
            0 => Some((503, json!({}), vec![("retry-after", "1".to_owned())])),
            1 => Some((502, json!({}), Vec::new())),
            _ => None,
        },
        |_, answer| answer,
    )
    .await;
    let begun = Instant::now();
    lake(&open_keys(&server, &proxy)).await.check().await.expect("check");
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
}
