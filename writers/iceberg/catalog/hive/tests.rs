//! The real metastore, out of PySpark's jars, with its database in Derby; PyIceberg as the other writer.

use super::*;
use crate::iceberg::testing::{Peer, Running, append, free_port, has, lake, python, rows, spec, subject, wait_for};
use crate::iceberg::{Iceberg, IcebergConfig};
use crate::{Destination, conformance};
use serde_json::{Value as Json, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// What the metastore's own main lacks: tables for locks.
const MAIN: &str = "public class Hms { public static void main(String[] a) throws Throwable {
  org.apache.hadoop.hive.metastore.txn.TxnDbUtil.prepDb(new org.apache.hadoop.hive.conf.HiveConf());
  org.apache.hadoop.hive.metastore.HiveMetaStore.main(a); } }";

struct Metastore {
    _server: Running,
    folder: TempDir,
    port: u16,
}

impl Metastore {
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn start() -> Option<Self> {
        let find = "import importlib.util as u; print(u.find_spec('pyspark').submodule_search_locations[0])";
        let found = Command::new(python()).args(["-c", find]).stderr(Stdio::null()).output().ok().filter(|found| found.status.success());
        let (Some(found), true) = (found, Command::new("java").arg("-version").stderr(Stdio::null()).status().is_ok()) else {
            // Half a gigabyte for one test: nobody has to have it.
            eprintln!("not tested: the Hive metastore, for want of Java or of pyspark==3.5.9 in {}", python().display());
            return None;
        };
        let jars = PathBuf::from(String::from_utf8(found.stdout).expect("a path").trim()).join("jars");
        let folder = TempDir::new().expect("folder");
        let (at, port) = (folder.path().display().to_string(), free_port());
        let properties = [
            ("javax.jdo.option.ConnectionURL", format!("jdbc:derby:;databaseName={at}/derby;create=true")),
            ("javax.jdo.option.ConnectionDriverName", "org.apache.derby.jdbc.EmbeddedDriver".into()),
            ("datanucleus.schema.autoCreateAll", "true".into()),
            ("hive.metastore.schema.verification", "false".into()),
            ("hive.metastore.warehouse.dir", format!("file://{at}/warehouse")),
            ("hive.async.log.enabled", "false".into()),
        ];
        let properties = properties.map(|(name, value)| format!("<property><name>{name}</name><value>{value}</value></property>"));
        std::fs::write(folder.path().join("hive-site.xml"), format!("<configuration>{}</configuration>", properties.concat()))
            .expect("xml");
        std::fs::write(folder.path().join("Hms.java"), MAIN).expect("java");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let mut server = Command::new("java")
            .current_dir(folder.path())
            .args(["-Xmx512m", "--add-opens=java.base/java.net=ALL-UNNAMED", "--add-opens=java.base/java.lang=ALL-UNNAMED", "-cp"])
            .arg(format!("{at}:{}/*", jars.display()))
            .args(["Hms.java", "-p", &port.to_string()])
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("java");
        wait_for(port, &mut server, Duration::from_secs(240));
        Some(Self { _server: Running(server), folder, port })
    }

    fn uri(&self) -> String {
        format!("thrift://127.0.0.1:{}", self.port)
    }

    fn keys(&self) -> Json {
        json!({"catalog_type": "hive", "hive_uri": self.uri(), "iceberg_s3_path": self.folder.path().join("lake"), "hive_clients": 5})
    }

    fn lake_folder(&self) -> PathBuf {
        self.folder.path().join("lake")
    }
}

/// A catalog's folders for the contract, which wants `<database>/<table>` below its root.
async fn contract(metastore: &Metastore) {
    let (root, uri) = (metastore.folder.path().join("contract"), metastore.uri());
    let database = Struct::new([
        (1, Value::text("conformance")),
        (3, Value::text(format!("file://{}/conformance", root.display()))),
        (4, Value::texts([])),
    ]);
    let client = Client::new(&uri).expect("a client");
    assert!(client.create_database(database.clone()).await.expect("a database"));
    assert!(!client.create_database(database).await.expect("it is there"));
    let open = {
        let root = root.clone();
        Arc::new(move |files| {
            let hive = Hive::new(&uri, Some(&format!("file://{}", root.display())), files).expect("a catalog");
            let catalog = super::super::Catalog::Hive(Arc::new(hive));
            Iceberg::at(catalog, IcebergConfig::default().settings().expect("settings"), crate::iceberg::tests::resources())
        })
    };
    conformance::all_but_strange_names(&subject(&root, open)).await;
}

async fn in_turns(metastore: &Metastore) {
    let lake = lake(metastore.keys()).await;
    lake.check().await.expect("check");
    let (ours, theirs) = (spec("ours", "t", ""), spec("theirs", "t", ""));
    append(&lake, &ours, "a", &[1]).await.expect("our table");
    let peer = Peer::open(
        "hive",
        json!({"type": "hive", "uri": metastore.uri(), "warehouse": format!("file://{}", metastore.lake_folder().display()), "hive.hive2-compatible": "true"}),
    );
    let peer = peer.expect("PyIceberg");
    peer.append("ours.t", &[2]);
    append(&lake, &ours, "b", &[3]).await.expect("our table again");
    assert_eq!(peer.rows("ours.t"), [1, 2, 3]);
    peer.ask(json!({"do": "create", "table": "theirs.t"}));
    peer.append("theirs.t", &[1]);
    append(&lake, &theirs, "a", &[2]).await.expect("their table");
    peer.append("theirs.t", &[3]);
    assert_eq!(rows(&lake, &theirs).await, [1, 2, 3]);
    assert_eq!(peer.rows("theirs.t"), [1, 2, 3]);
    all_at_once(metastore, &peer).await;
    lake.drop_table("ours", "t").await.expect("drop");
    assert_eq!(peer.ask(json!({"do": "tables", "namespace": "ours"})), json!([]));
    assert!(!metastore.lake_folder().join("ours.db/t").exists());
}

async fn all_at_once(metastore: &Metastore, peer: &Peer) {
    let mut running = Vec::new();
    for writer in 0..5_i64 {
        let keys = metastore.keys();
        running.push(tokio::spawn(async move {
            let lake = lake(keys).await;
            for turn in 0..2 {
                let spec = spec("theirs", "t", &format!("w{writer}"));
                append(&lake, &spec, &format!("t{turn}"), &[100 * (writer + 1) + turn]).await.expect("a commit");
            }
        }));
    }
    let other = peer.clone();
    running.push(tokio::task::spawn_blocking(move || (1000..1005).for_each(|id| other.append("theirs.t", &[id]))));
    for task in running {
        task.await.expect("a writer");
    }
    let ours = (1..=5).flat_map(|writer| [100 * writer, 100 * writer + 1]);
    let wanted: Vec<i64> = [1, 2, 3].into_iter().chain(ours).chain(1000..1005).collect();
    assert_eq!(peer.rows("theirs.t"), wanted);
}

async fn strange_tables(metastore: &Metastore) {
    let lake = lake(metastore.keys()).await;
    let client = Client::new(&metastore.uri()).expect("a client");
    // What metastores of version 4 have in the place of get_table.
    append(&lake, &spec("db", "t", ""), "a", &[1]).await.expect("a table");
    let plain = client.get_table("db", "t").await.expect("get_table");
    assert_eq!(client.get_table_req("db", "t").await.expect("get_table_req"), plain);
    assert!(client.get_table_req("db", "nothing").await.expect("get_table_req").is_none());
    let parameters = parameters(&plain.expect("a table"));
    assert_eq!(parameters.get("table_type").map(String::as_str), Some("ICEBERG"));
    assert_eq!(parameters.get("EXTERNAL").map(String::as_str), Some("TRUE"));
    assert_eq!(parameters.get("numRows").map(String::as_str), Some("1"));
    assert!(parameters.contains_key(PREVIOUS) && !parameters.keys().any(|key| key.starts_with("lakeward.")), "{parameters:?}");
    // A table of Hive's own.
    let loaded = lake.catalog.load(&lake.name("db", "t")).await.expect("load").expect("a table");
    let hive = TableName { namespace: "db".into(), name: "plain".into() };
    let fields = new_table(&hive, &loaded.metadata, &Parameters::from([("EXTERNAL".to_owned(), "TRUE".to_owned())]), false);
    assert!(client.create_table(fields).await.expect("a table of Hive's own"));
    let error = append(&lake, &spec("db", "plain", ""), "a", &[1]).await.expect_err("not Iceberg");
    assert!(error.to_string().contains("no Iceberg table") && error.advice().is_some(), "{error}");
    let error = append(&lake, &spec("db", "Big", ""), "a", &[1]).await.expect_err("a large letter");
    assert!(error.to_string().contains("\"Big\""), "{error}");
    // A lock that is held by others is waited for.
    let (lock, state) = client.lock("db", "t", "somebody", "else").await.expect("a lock");
    assert_eq!(state, Lock::Acquired);
    let waiting = tokio::spawn(async move { append(&lake, &spec("db", "t", ""), "b", &[2]).await.map(|()| lake) });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished());
    client.unlock(lock).await.expect("unlock");
    let lake = waiting.await.expect("a task").expect("a commit");
    assert_eq!(rows(&lake, &spec("db", "t", "")).await, [1, 2]);
    // Nobody holds it now.
    let (lock, state) = client.lock("db", "t", "somebody", "else").await.expect("a lock");
    assert_eq!(state, Lock::Acquired);
    client.unlock(lock).await.expect("unlock");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_metastore_is_shared_with_pyiceberg() {
    if !has("pyiceberg.catalog.hive, pyarrow") {
        return;
    }
    let Some(metastore) = Metastore::start() else { return };
    strange_tables(&metastore).await;
    in_turns(&metastore).await;
    contract(&metastore).await;
}

#[tokio::test]
async fn what_hive_cannot_do_is_refused() {
    let refused = |keys: Json| {
        let config: IcebergConfig = serde_json::from_value(keys).expect("keys");
        config.validate().expect_err("refused")
    };
    let sasl = refused(json!({"catalog_type": "hive", "hive_uri": "thrift://h:9083", "hive_sasl_enabled": true}));
    assert!(sasl.to_string().contains("hive_sasl_enabled") && sasl.advice().is_some());
    for uri in ["", "h:9083", "thrift://", "thrift://h:x", "thrift://:1", "http://h:9083"] {
        assert!(refused(json!({"catalog_type": "hive", "hive_uri": uri})).to_string().contains("hive_uri"), "{uri}");
    }
    let keys = json!({"catalog_type": "hive", "hive_uri": format!("thrift://127.0.0.1:{}", free_port()), "hive_sasl_enabled": false});
    let error = lake(keys).await.check().await.expect_err("nobody listens");
    assert!(error.advice().is_some_and(|hint| hint.contains("hive_uri")) && error.retry() == crate::Retry::Again, "{error}");
}
