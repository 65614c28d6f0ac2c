//! Glue and S3 Tables against moto, read with PyIceberg.

use super::harness::{
    Fresh, REGION, Server, Tried, append, boto3, keeps_the_promises, lake, lake_with, moto, pyiceberg, rows, writers_race,
};
use super::proxy::{Asked, Proxy};
use super::{Catalog, TableName};
use crate::conformance::spec;
use crate::iceberg::Iceberg;
use crate::iceberg::io::Files;
use crate::storage::StoreOptions;
use crate::{Commit, Destination, Kind, Table, TableSpec, Token};
use futures::FutureExt;
use reqwest::Url;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

fn glue_keys(endpoint: &str, warehouse: &str) -> Value {
    json!({
        "catalog_type": "glue", "iceberg_s3_path": warehouse, "iceberg_db": "conformance", "s3_endpoint": endpoint,
        "aws_region": REGION, "aws_access_key": "AK", "aws_secret_key": "SK",
        "glue_additional_config": true, "glue_endpoint": endpoint,
    })
}

fn fresh(keys: Value) -> Fresh {
    Arc::new(move |dying: Option<Files>| {
        let keys = keys.clone();
        async move {
            lake_with(&keys, |catalog| {
                if let (Catalog::Glue(glue), Some(dying)) = (catalog, dying) {
                    Arc::get_mut(glue).expect("nobody else has it").files = dying;
                }
            })
            .await
        }
        .boxed()
    })
}

/// moto takes every update; a proxy in front of it refuses those of a version that is not the current one, as Glue does.
async fn strict(server: &Server) -> String {
    let next: Mutex<HashMap<String, u64>> = Mutex::default();
    let refuse = move |asked: &Asked| {
        let action = asked.target.as_deref().and_then(|target| target.strip_prefix("AWSGlue.")).unwrap_or_default();
        if !["CreateTable", "UpdateTable"].contains(&action) {
            return None;
        }
        let body: Value = serde_json::from_slice(&asked.body).expect("JSON");
        let name = format!("{}.{}", body["DatabaseName"], body["TableInput"]["Name"]);
        let mut next = next.lock().expect("versions");
        if action == "CreateTable" {
            next.remove(&name);
            return None;
        }
        let version: u64 = body["VersionId"].as_str().expect("the version that was looked at").parse().expect("a number");
        if next.get(&name).is_some_and(|next| *next != version) {
            let error =
                json!({"__type": "ConcurrentModificationException", "Message": "Update table failed due to concurrent modifications."});
            return Some((400, error, Vec::new()));
        }
        next.insert(name, version + 1);
        None
    };
    Proxy::start(&server.endpoint, refuse, |_, answer| answer).await
}

#[tokio::test]
async fn the_contract_is_kept_with_glue() {
    let Some(server) = moto(None) else { return };
    let folder = TempDir::new().expect("folder");
    let root = format!("file://{}", folder.path().display());
    let fresh = fresh(glue_keys(&strict(&server).await, &root));
    writers_race(&fresh, "raced").await;
    let place = move |spec: &TableSpec| Some((Files::new(StoreOptions::default()), format!("{root}/{}.db/{}", spec.database, spec.name)));
    keeps_the_promises(fresh, Tried::All, place).await;
}

#[tokio::test]
async fn a_table_in_glue_is_shared_with_others() {
    let Some(server) = moto(None) else { return };
    boto3(
        &server,
        "client('s3').create_bucket(Bucket='lake')
client('glue').create_database(DatabaseInput={'Name': 'placed', 'LocationUri': 's3://lake/elsewhere/'})
client('glue').create_table(DatabaseName='placed', TableInput={'Name': 'hive', 'TableType': 'EXTERNAL_TABLE'})",
    );
    let keys = glue_keys(&server.endpoint, "s3://lake/warehouse");
    let lake = lake(&keys).await;
    lake.check().await.expect("check");
    append(&lake, &spec("shared"), "a", &[1, 2]).await;
    let described = boto3(
        &server,
        "g = client('glue')
t = g.get_table(DatabaseName='conformance', Name='shared')['Table']
t['Parameters']['owner-team'] = 'lake'
g.update_table(DatabaseName='conformance', SkipArchive=True, TableInput={k: t[k] for k in ('Name', 'TableType', 'Parameters', 'StorageDescriptor')})
answer = t",
    );
    assert_eq!(described["TableType"], "EXTERNAL_TABLE");
    assert_eq!(described["StorageDescriptor"]["Location"], "s3://lake/warehouse/conformance.db/shared");
    let column = json!({"Name": "id", "Type": "bigint", "Parameters": {
        "iceberg.field.id": "1", "iceberg.field.optional": "true", "iceberg.field.current": "true"}});
    assert_eq!(described["StorageDescriptor"]["Columns"], json!([column]));

    // PyIceberg reads it, writes to it, and is read.
    let properties = json!({
        "type": "glue", "glue.endpoint": server.endpoint, "glue.region": REGION, "glue.access-key-id": "AK", "glue.secret-access-key": "SK",
        "s3.endpoint": server.endpoint, "s3.region": REGION, "s3.access-key-id": "AK", "s3.secret-access-key": "SK",
    });
    // This one has looked before, and has to look again.
    let mut late = lake.open(&spec("shared")).await.expect("open");
    let part = super::harness::stage(&late, "late", &[4]).await;
    let seen = pyiceberg(&properties, "before = rows('conformance.shared')\nappend('conformance.shared', 3)\nanswer = before");
    late.commit(vec![part], Token("late".into()), Commit::Append).await.expect("commit on what another has written");
    if let Some(seen) = seen {
        assert_eq!(seen, json!([1, 2]));
        assert_eq!(rows(&lake, &spec("shared")).await, Some(vec![1, 2, 3, 4]));
        assert_eq!(pyiceberg(&properties, "answer = rows('conformance.shared')"), Some(json!([1, 2, 3, 4])));
    }
    let kept = boto3(&server, "answer = client('glue').get_table(DatabaseName='conformance', Name='shared')['Table']['Parameters']");
    assert_eq!((&kept["owner-team"], &kept["table_type"]), (&json!("lake"), &json!("ICEBERG")));
    assert!(kept["previous_metadata_location"].is_string(), "{kept}");

    // A database's own location is honoured, and a table of another kind is left alone.
    append(&lake, &TableSpec { database: "placed".into(), ..spec("here") }, "a", &[1]).await;
    let here = TableName { namespace: "placed".into(), name: "here".into() };
    let loaded = lake.catalog.load(&here).await.expect("load").expect("a table");
    assert_eq!(loaded.metadata.location(), "s3://lake/elsewhere/here");
    let hive = TableSpec { database: "placed".into(), ..spec("hive") };
    let error = lake.open(&hive).await.err().expect("no Iceberg table");
    assert!(error.kind() == Kind::Config && error.to_string().contains("no Iceberg table"), "{error}");
    lake.drop_table("placed", "hive").await.expect_err("not ours to drop");
    lake.drop_table("conformance", "shared").await.expect("drop");
    let left = boto3(&server, "answer = client('s3').list_objects_v2(Bucket='lake', Prefix='warehouse/').get('KeyCount')");
    assert_eq!(left, json!(0));
    let error = lake.open(&spec("Shared")).await.err().expect("Glue would fold the name");
    assert!(error.to_string().contains("upper-case"), "{error}");
}

#[tokio::test]
async fn signatures_are_those_that_aws_computes() {
    let Some(server) = moto(Some(4)) else { return };
    let key = boto3(
        &server,
        "i = client('iam')
i.create_user(UserName='u')
i.put_user_policy(UserName='u', PolicyName='all', PolicyDocument=json.dumps(
    {'Version': '2012-10-17', 'Statement': [{'Effect': 'Allow', 'Action': '*', 'Resource': '*'}]}))
k = i.create_access_key(UserName='u')['AccessKey']
answer = [k['AccessKeyId'], k['SecretAccessKey']]",
    );
    let folder = TempDir::new().expect("folder");
    let mut keys = glue_keys(&server.endpoint, &format!("file://{}", folder.path().display()));
    // The last call that is free.
    let _ = lake(&keys).await.check().await;
    keys["glue_access_key"] = key[0].clone();
    keys["glue_secret_key"] = json!("another secret");
    let error = lake(&keys).await.check().await.expect_err("a wrong secret");
    assert!(!error.to_string().contains("another secret"), "{error}");
    keys["glue_secret_key"] = key[1].clone();
    let lake = lake(&keys).await;
    lake.check().await.expect("the signature is right");
    append(&lake, &spec("signed"), "a", &[1]).await;
    assert_eq!(rows(&lake, &spec("signed")).await, Some(vec![1]));

    // An ARN in a path is where signatures of REST calls go wrong.
    let said = async |secret: &Value| {
        table_bucket(&server, &json!(NOWHERE), (&key[0], secret)).await.check().await.expect_err("no such bucket").to_string()
    };
    assert!(said(&json!("another secret")).await.contains("HTTP 403"));
    let right = said(&key[1]).await;
    assert!(right.contains("HTTP 404"), "{right}");
}

/// A table bucket that nobody has made.
const NOWHERE: &str = "arn:aws:s3tables:us-east-1:123456789012:bucket/nowhere";

async fn table_bucket(server: &Server, arn: &Value, key: (&Value, &Value)) -> Iceberg {
    let keys = json!({
        "catalog_type": "s3tables", "iceberg_s3_path": arn, "s3_endpoint": server.endpoint, "aws_access_key": key.0, "aws_secret_key": key.1,
    });
    let url = Url::parse(&server.endpoint).expect("url");
    lake_with(&keys, |catalog| {
        let Catalog::S3Tables(catalog) = catalog else { panic!("another catalog") };
        Arc::get_mut(catalog).expect("nobody else has it").url = url;
    })
    .await
}

#[tokio::test]
async fn the_contract_is_kept_with_s3_tables() {
    let Some(server) = moto(None) else { return };
    let server = Arc::new(server);
    let arn = boto3(&server, "answer = client('s3tables').create_table_bucket(name='tables')['arn']");
    let fresh: Fresh = {
        let (server, arn) = (server.clone(), arn.clone());
        Arc::new(move |_| {
            let (server, arn) = (server.clone(), arn.clone());
            async move { table_bucket(&server, &arn, (&json!("AK"), &json!("SK"))).await }.boxed()
        })
    };
    writers_race(&fresh, "raced").await;
    keeps_the_promises(fresh.clone(), Tried::Kept, |_| None).await;

    let lake = fresh(None).await;
    append(&lake, &spec("read"), "a", &[1, 2]).await;
    append(&lake, &spec("read"), "b", &[3]).await;
    let place = boto3(
        &server,
        &format!("answer = client('s3tables').get_table_metadata_location(tableBucketARN={arn}, namespace='conformance', name='read')"),
    );
    let read = format!(
        "from pyiceberg.table import StaticTable
t = StaticTable.from_metadata({}, given)
answer = sorted(t.scan().to_arrow()['id'].to_pylist())",
        place["metadataLocation"]
    );
    let properties = json!({
        "s3.endpoint": server.endpoint, "s3.region": REGION, "s3.access-key-id": "AK", "s3.secret-access-key": "SK",
    });
    if let Some(seen) = pyiceberg(&properties, &read) {
        assert_eq!(seen, json!([1, 2, 3]));
    }
    let error = lake.open(&spec("with-dash")).await.err().expect("the service takes no such name");
    assert!(error.kind() == Kind::Config, "{error}");
}

#[tokio::test]
async fn a_table_bucket_that_is_not_there_is_said() {
    let Some(server) = moto(None) else { return };
    let error = table_bucket(&server, &json!(NOWHERE), (&json!("AK"), &json!("SK"))).await.check().await.expect_err("no bucket");
    assert!(error.advice().is_some_and(|hint| hint.contains("ARN")), "{error}: {:?}", error.advice());
}
