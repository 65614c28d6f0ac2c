//! Tables on Azure, by its emulator (azurite), and on Google Cloud Storage, by a server that speaks enough of its protocol.

use super::config::IcebergConfig;
use super::testing::{Peer, Running, append, cache, free_port, lake, python, rows, skip, spec, wait_for};
use crate::storage::tests::S3Server;
use crate::storage::{AzureOptions, parse};
use crate::{Destination, Secret};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Azurite's account, which is in its documentation.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Creates a container and prints a shared access signature of the account, with nothing but Python.
const PREPARE: &str = r#"
import base64, datetime, email.utils, hashlib, hmac, sys, urllib.parse, urllib.request
port, account, key = sys.argv[1], sys.argv[2], base64.b64decode(sys.argv[3])
sign = lambda text: base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
now = email.utils.formatdate(usegmt=True)
text = f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{now}\nx-ms-version:2021-08-06\n/{account}/{account}/lake\nrestype:container"
request = urllib.request.Request(f"http://127.0.0.1:{port}/{account}/lake?restype=container", method="PUT", data=b"")
for name, value in {"x-ms-date": now, "x-ms-version": "2021-08-06", "Authorization": f"SharedKey {account}:{sign(text)}"}.items():
    request.add_header(name, value)
request.remove_header("Content-type"); request.add_unredirected_header("Content-type", "")
urllib.request.urlopen(request).read()
end = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
parts = [account, "rwdlac", "b", "sco", "", end, "", "", "2021-08-06", "", ""]
pairs = {"sv": "2021-08-06", "ss": "b", "srt": "sco", "sp": "rwdlac", "se": end, "sig": sign("\n".join(parts))}
print(urllib.parse.urlencode(pairs))
"#;

struct Azurite {
    _server: Running,
    _folder: TempDir,
    port: u16,
    sas: String,
}

impl Azurite {
    fn start() -> Option<Self> {
        let program =
            std::env::var_os("LAKEWARD_AZURITE").map_or_else(|| cache().join("azurite/node_modules/.bin/azurite-blob"), PathBuf::from);
        if !program.exists() {
            skip(&format!("there is no azurite at {}", program.display()));
            return None;
        }
        let (folder, port) = (TempDir::new().expect("folder"), free_port());
        let mut server = Command::new("node")
            .arg(program)
            .args([
                "--silent",
                "--skipApiVersionCheck",
                "--disableTelemetry",
                "--blobHost",
                "127.0.0.1",
                "--blobPort",
                &port.to_string(),
                "-l",
            ])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("node");
        wait_for(port, &mut server, Duration::from_secs(60));
        let made = Command::new(python()).args(["-c", PREPARE, &port.to_string(), ACCOUNT, KEY]).output();
        let made =
            made.or_else(|_| Command::new("python3").args(["-c", PREPARE, &port.to_string(), ACCOUNT, KEY]).output()).expect("python");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let sas = String::from_utf8(made.stdout).expect("a signature").trim().to_owned();
        Some(Self { _server: Running(server), _folder: folder, port, sas })
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    fn keys(&self, more: Value) -> Value {
        let mut keys = json!({
            "catalog_type": "filesystem",
            "iceberg_s3_path": format!("abfss://lake@{ACCOUNT}.dfs.core.windows.net/some/where"),
            "azure_endpoint": self.endpoint(),
        });
        for (key, value) in more.as_object().expect("keys") {
            keys[key] = value.clone();
        }
        keys
    }
}

async fn refused(keys: Value) -> (String, String) {
    let error = lake(keys).await.check().await.expect_err("refused");
    let hint = error.advice().unwrap_or_default().to_owned();
    assert!(!format!("{error} {hint}").contains("s3_endpoint") && !format!("{error:?}").contains(KEY), "{error}: {hint}");
    (error.to_string(), hint)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_azure_reaches_the_store() {
    let Some(azurite) = Azurite::start() else { return };
    let keys = azurite.keys(json!({"azure_account_key": KEY}));
    let by_key = lake(keys.clone()).await;
    by_key.check().await.expect("check");
    append(&by_key, &spec("db", "t", ""), "a", &[1, 2]).await.expect("a commit");
    let by_sas = lake(azurite.keys(json!({"azure_sas_token": format!("?{}", azurite.sas)}))).await;
    append(&by_sas, &spec("db", "t", ""), "b", &[3]).await.expect("a second commit");
    // The same files by a shorter name, in the account that is configured.
    let short = json!({"azure_account_key": KEY, "azure_account_name": ACCOUNT, "iceberg_s3_path": "az://lake/some/where"});
    assert_eq!(rows(&lake(azurite.keys(short)).await, &spec("db", "t", "")).await, [1, 2, 3]);
    // A file of several blocks.
    let options = AzureOptions { account_key: Some(Secret::new(KEY)), endpoint: Some(azurite.endpoint()), ..AzureOptions::default() };
    let store = options.container(&format!("lake@{ACCOUNT}.dfs.core.windows.net")).expect("a container");
    let (path, mut upload) = (parse("large").expect("path"), store.upload(&parse("large").expect("path")).await.expect("upload"));
    for part in 0..40_u8 {
        upload.write(vec![part; 1 << 20].into()).await.expect("write");
    }
    upload.finish().await.expect("finish");
    assert_eq!(store.size(&path).await.expect("size"), Some(40 << 20));
    assert_eq!(store.get_range(&path, (7 << 20) - 1..(7 << 20) + 1).await.expect("range").as_ref(), [6, 7]);
    // Read by a reader that others wrote, from a catalog in SQL.
    let folder = TempDir::new().expect("folder");
    let file = folder.path().join("c.db");
    let sql = json!({
        "catalog_type": "jdbc",
        "jdbc_url": format!("jdbc:sqlite:{}", file.display()),
        // The form that this reader knows.
        "iceberg_s3_path": "abfss://lake/some/where",
        "azure_account_name": ACCOUNT,
        "azure_account_key": KEY,
    });
    append(&lake(azurite.keys(sql)).await, &spec("db", "s", ""), "a", &[7]).await.expect("a commit");
    let theirs = json!({
        "type": "sql",
        "uri": format!("sqlite:///{}", file.display()),
        "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
        "adls.account-name": ACCOUNT,
        "adls.account-key": KEY,
        "adls.blob-storage-authority": format!("127.0.0.1:{}", azurite.port),
        "adls.blob-storage-scheme": "http",
    });
    if let Some(peer) = Peer::open("olake_iceberg", theirs) {
        assert_eq!(peer.rows("db.s"), [7]);
    }
    by_key.drop_table("db", "t").await.expect("drop");
    assert_eq!(
        store.list(&parse("some/where/db").expect("path")).await.expect("list").len(),
        store.list(&parse("some/where/db/s").expect("path")).await.expect("list").len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_azure_refuses_is_said_in_its_terms() {
    let Some(azurite) = Azurite::start() else { return };
    let other_key = KEY.replace("Eby8", "Fby8");
    let (error, hint) = refused(azurite.keys(json!({"azure_account_key": other_key}))).await;
    assert!(hint.contains("azure_account_key") || hint.contains("Storage Blob Data"), "{error}: {hint}");
    let elsewhere = format!("abfss://nowhere@{ACCOUNT}.dfs.core.windows.net/x");
    let (error, hint) = refused(azurite.keys(json!({"azure_account_key": KEY, "iceberg_s3_path": elsewhere}))).await;
    assert!(error.contains("container does not exist"), "{error}: {hint}");
    let (error, hint) = refused(azurite.keys(json!({"azure_account_key": KEY, "iceberg_s3_path": "az://lake/x"}))).await;
    assert!(error.contains("storage account") && hint.contains("azure_account_name"), "{error}: {hint}");
    let (error, hint) = refused(azurite.keys(json!({"azure_account_key": "no base64!"}))).await;
    assert!(hint.contains("azure_account_key"), "{error}: {hint}");
    let invalid = |keys: Value| {
        let config: IcebergConfig = serde_json::from_value(keys).expect("keys");
        config.validate().expect_err("refused").to_string()
    };
    assert!(invalid(json!({"catalog_type": "filesystem", "azure_client_id": "a", "azure_tenant_id": "b"})).contains("azure_client_secret"));
    assert!(invalid(json!({"catalog_type": "filesystem", "azure_account_key": "a", "azure_sas_token": "b"})).contains("azure_sas_token"));
}

/// A server that keeps the requests it gets, and answers all of them with a token.
async fn tokens() -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("address"));
    let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = vec![0; 64 << 10];
            let mut length = socket.read(&mut request).await.expect("a request");
            // Head and body can come one after the other.
            if let Ok(Ok(more)) = tokio::time::timeout(Duration::from_millis(200), socket.read(&mut request[length..])).await {
                length += more;
            }
            seen.send(String::from_utf8_lossy(&request[..length]).into_owned()).ok();
            let body = r#"{"token_type":"Bearer","expires_in":3600,"ext_expires_in":3600,"access_token":"the-token"}"#;
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            socket.write_all(format!("{head}{body}").as_bytes()).await.ok();
        }
    });
    (address, requests)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_of_azure_is_asked_for_a_token() {
    let (address, mut requests) = tokens().await;
    let keys =
        json!({"azure_client_id": "the-id", "azure_client_secret": "hunter2", "azure_tenant_id": "the-tenant", "azure_endpoint": address});
    let config: IcebergConfig = serde_json::from_value(keys).expect("keys");
    let options = AzureOptions { authority: Some(address), ..config.azure() };
    let store = options.container("lake@account.dfs.core.windows.net").expect("a container");
    store.get(&parse("x").expect("path")).await.ok();
    let token = requests.recv().await.expect("a request for a token");
    assert!(token.starts_with("POST /the-tenant/oauth2/v2.0/token") && token.contains("client_id=the-id"), "{token}");
    assert!(token.contains("client_secret=hunter2"), "{token}");
    let file = requests.recv().await.expect("a request for a file");
    assert!(file.starts_with("GET /lake/x") && file.to_lowercase().contains("authorization: bearer the-token"), "{file}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_on_google_cloud_storage() {
    // Google's XML protocol is S3's but for authentication and conditions.
    let server = S3Server::open().await;
    let account = json!({"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}).to_string();
    let folder = TempDir::new().expect("folder");
    let keys = json!({
        "catalog_type": "jdbc",
        "jdbc_url": format!("jdbc:sqlite:{}", folder.path().join("c.db").display()),
        "iceberg_s3_path": "gs://lake/some/where",
        "gcs_endpoint": server.endpoint,
        "gcp_service_account_json": account,
    });
    let catalog = lake(keys.clone()).await;
    catalog.check().await.expect("check");
    append(&catalog, &spec("db", "t", ""), "a", &[1, 2]).await.expect("a commit");
    append(&catalog, &spec("db", "t", ""), "b", &[3]).await.expect("a second commit");
    assert_eq!(rows(&catalog, &spec("db", "t", "")).await, [1, 2, 3]);
    assert!(server.folder.path().join("lake/some/where/db/t/metadata").is_dir());
    catalog.drop_table("db", "t").await.expect("drop");
    // This server ignores Google's condition: two writers could overwrite each other.
    let mut unsafe_keys = keys.clone();
    unsafe_keys["catalog_type"] = "filesystem".into();
    let (error, hint) = refused(unsafe_keys).await;
    assert!(error.contains("conditional writes") && hint.contains("jdbc"), "{error}");
    let mut elsewhere = keys.clone();
    elsewhere["iceberg_s3_path"] = "gs://nowhere/x".into();
    let (error, hint) = refused(elsewhere).await;
    assert!(error.contains("bucket does not exist") && hint.contains("iceberg_s3_path"), "{error}: {hint}");
    let mut wrong = keys;
    wrong["gcp_service_account_json"] = "hunter2".into();
    let (error, hint) = refused(wrong).await;
    assert!(hint.contains("gcp_service_account_json") && !error.contains("hunter2"), "{error}: {hint}");
}
