//! The example files of other tools' documents, run to their end against a real database.
//!
//! Each file of `tests/configs/seeds` is copied into a job as it stands, and only what a user would have to put right is put right: host,
//! port, user, password, database, TLS, names of tables. What is not built yet is refused, with the words that say so.

use crate::support::lakeward::{Job, Outcome, exit, published};
use crate::support::moto::Moto;
use crate::support::postgres::{Database, PASSWORD, Server};
use crate::support::readback::{assert_same, count, duckdb, python};
use crate::support::s3::{ACCESS_KEY, BUCKET, ObjectStore, SECRET_KEY};
use serde_json::{Value, json};
use std::fs;

/// An example as text.
#[track_caller]
fn seed(name: &str) -> String {
    let path = format!("{}/tests/configs/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {path}: {e}"))
}

/// An example in JSON.
#[track_caller]
fn seed_json(name: &str) -> Value {
    serde_json::from_str(&seed(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The text with other words in the place of some, each of which must be there.
#[track_caller]
fn with(text: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not in\n{text}");
        text.replace(from, to)
    })
}

/// The examples that this chapter runs.
#[test]
fn every_example_is_run() {
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/configs/seeds")).expect("list the examples") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        assert!(include_str!("seeds.rs").contains(&format!("\"{name}\"")), "tests/configs/seeds/{name} is not run by tests/e2e/seeds.rs");
    }
}

/// `table_1` of OLake's examples.
fn olake() -> (Database, Job) {
    let database = Server::shared().database("olake");
    database.sql("CREATE TABLE table_1 (id int PRIMARY KEY, name text, done boolean); INSERT INTO table_1 SELECT i, 'name ' || i, NULLIF(i % 3, 0) = 1 FROM generate_series(1, 1000) i");
    let job = Job::new(&database);
    let mut source = seed_json("olake-source.json");
    for (key, value) in [
        ("host", json!("127.0.0.1")),
        ("port", json!(database.port)),
        ("database", json!(database.name)),
        ("username", json!("postgres")),
        ("password", json!(PASSWORD)),
    ] {
        source[key] = value;
    }
    job.write("source.json", &source);
    job.write("destination.json", &seed_json("olake-destination-parquet.json"));
    (database, job)
}

/// OLake's catalog, with the columns where the document has an ellipsis.
fn olake_streams(job: &Job) -> Value {
    job.run(&["discover", "--config", "source.json"]).succeeded();
    let mut streams = seed_json("olake-streams.json");
    streams["streams"][0]["stream"]["type_schema"] = job.read("streams.json")["streams"][0]["stream"]["type_schema"].clone();
    streams
}

const OLAKE_SYNC: [&str; 7] = ["sync", "--config", "source.json", "--catalog", "streams.json", "--destination", "destination.json"];
const OLAKE_RESUME: [&str; 9] =
    ["sync", "--config", "source.json", "--catalog", "streams.json", "--destination", "destination.json", "--state", "state.json"];

/// The published files of `table_1`, for a catalog that names no destination.
fn table_1(job: &Job) -> Vec<std::path::PathBuf> {
    published(&job.path("configs/reader/public/table_1"))
}

/// Panics unless the column `data` of `table_1` holds the rows as JSON.
#[track_caller]
fn assert_rows_as_json(files: &[std::path::PathBuf], database: &Database) {
    let expected: Value = serde_json::from_str(&database.sql("SELECT json_agg(t ORDER BY id) FROM table_1 t")).expect("JSON");
    let found = duckdb(files, "SELECT data::VARCHAR FROM $files ORDER BY (data->>'id')::INT");
    let found = found.as_array().expect("rows").iter();
    let found: Vec<Value> = found.map(|row| serde_json::from_str(row[0].as_str().expect("a text")).expect("JSON")).collect();
    assert_eq!(json!(found), expected);
}

/// The published files of `table_1`, where discover's catalog puts them.
fn files(job: &Job) -> Vec<std::path::PathBuf> {
    let database = job.stream("public.table_1")["destination_database"].as_str().expect("a name").replace(':', "_");
    published(&job.path("configs/reader").join(database).join("table_1"))
}

#[test]
fn olake_source_and_its_local_destination() {
    let (database, job) = olake();
    let outcome = job.run(&["discover", "--config", "source.json"]).succeeded();
    for key in ["reader_batch_size", "default_mode", "split-region"] {
        assert!(outcome.stderr.contains(&format!("`{key}` is accepted for compatibility")), "{key}: {}", outcome.stderr);
    }
    // The source is meant for change data capture.
    assert!(job.stream("public.table_1")["supported_sync_modes"].as_array().is_some_and(|modes| modes.contains(&json!("cdc"))));
    // It names no publication: its slot is of the plugin wal2json, which OLake has given up as well.
    change_capture(&job);
    job.run(&OLAKE_SYNC).failed(exit::CONFIG, &["`update_method.publication`", "create_if_missing"]);
    assert!(!job.path("configs").exists(), "something was written");
    let slot = job.read("source.json")["update_method"]["replication_slot"].clone();
    job.edit("source.json", |source| {
        source["update_method"]["replication_slot"] = json!(database.name);
        source["update_method"]["create_if_missing"] = json!(true);
    });
    job.run(&OLAKE_SYNC).succeeded();
    database.sql("UPDATE table_1 SET name = 'changed' WHERE id = 1; DELETE FROM table_1 WHERE id = 2");
    job.run(&OLAKE_RESUME).succeeded();
    let ops = duckdb(&files(&job), "SELECT _op_type, count(*) FROM $files GROUP BY ALL ORDER BY ALL");
    assert_eq!(ops, json!([["d", 1], ["r", 1000], ["u", 1]]));
    database.sql(&format!("SELECT pg_drop_replication_slot('{}'); UPDATE table_1 SET name = 'name 1' WHERE id = 1; INSERT INTO table_1 VALUES (2, 'name 2', true)", database.name));
    fs::remove_dir_all(job.path("configs")).expect("remove");
    job.edit("source.json", |source| source["update_method"] = json!({"replication_slot": slot, "intial_wait_time": 10}));
    job.discover();
    job.run(&OLAKE_SYNC).succeeded();
    fs::create_dir_all(job.lake()).expect("a folder");
    assert_eq!(count(&files(&job)), 1000);
    job.write_destination(json!({"normalization": true, "local_path": job.lake()}));
    job.run(&OLAKE_SYNC).succeeded();
    assert_same(&job, &database, "public.table_1");
}

/// The catalog as OLake writes it, in its own mode (change data capture), then in the other two. `normalization` is false in it.
#[test]
fn olake_catalog_in_each_mode() {
    let (database, job) = olake();
    let mut streams = olake_streams(&job);
    job.write("streams.json", &streams);
    let source = job.read("source.json");
    job.edit("source.json", |source| {
        source["update_method"]["replication_slot"] = json!(database.name);
        source["update_method"]["create_if_missing"] = json!(true);
    });
    job.run(&OLAKE_SYNC).succeeded();
    assert_rows_as_json(&table_1(&job), &database);
    database.sql("UPDATE table_1 SET name = 'the \"first\"', done = NULL WHERE id = 1; DELETE FROM table_1 WHERE id = 2; INSERT INTO table_1 VALUES (2000, 'é', true)");
    job.run(&OLAKE_RESUME).succeeded();
    let log = duckdb(&table_1(&job), "SELECT _op_type, data::VARCHAR FROM $files WHERE _op_type <> 'r' ORDER BY _cdc_order");
    let expected = json!([
        ["u", r#"{"id":1,"name":"the \"first\"","done":null}"#],
        ["d", r#"{"id":2,"name":null,"done":null}"#],
        ["c", r#"{"id":2000,"name":"é","done":true}"#],
    ]);
    assert_eq!(log, expected);
    database.sql(&format!("SELECT pg_drop_replication_slot('{}')", database.name));
    job.run(&["clear-destination", "--config", "source.json", "--catalog", "streams.json", "--destination", "destination.json"])
        .succeeded();
    job.write("source.json", &source);
    fs::remove_file(job.path("state.json")).expect("remove the state");

    let stream = |streams: &mut Value, mode: &str| streams["streams"][0]["stream"]["sync_mode"] = json!(mode);
    stream(&mut streams, "full_refresh");
    job.write("streams.json", &streams);
    for _ in 0..2 {
        job.run(&OLAKE_SYNC).succeeded();
        assert_rows_as_json(&table_1(&job), &database);
        database.sql("UPDATE table_1 SET name = name || '!' WHERE id % 2 = 0; DELETE FROM table_1 WHERE id = 3");
    }

    job.run(&["clear-destination", "--config", "source.json", "--catalog", "streams.json", "--destination", "destination.json"])
        .succeeded();
    assert_eq!(table_1(&job).len(), 0);
    stream(&mut streams, "incremental");
    streams["streams"][0]["stream"]["cursor_field"] = streams["streams"][0]["stream"]["available_cursor_fields"][0].clone();
    job.write("streams.json", &streams);
    job.run(&OLAKE_SYNC).succeeded();
    assert_rows_as_json(&table_1(&job), &database);
    let before = table_1(&job);
    database.sql("INSERT INTO table_1 SELECT i, 'new', true FROM generate_series(2001, 2010) i");
    job.run(&OLAKE_RESUME).succeeded();
    assert_rows_as_json(&table_1(&job), &database);
    let added: Vec<_> = table_1(&job).into_iter().filter(|file| !before.contains(file)).collect();
    assert_eq!(count(&added), 10, "the second run reads only what is new");
}

/// `normalization` of the writer acts on streams that do not say: both values, as the two Parquet examples have them.
#[test]
fn olake_writers_and_normalization() {
    let (database, job) = olake();
    let mut streams = olake_streams(&job);
    streams["streams"][0]["stream"]["sync_mode"] = json!("full_refresh");
    streams["selected_streams"]["public"][0].as_object_mut().expect("a stream").remove("normalization");
    job.write("streams.json", &streams);
    job.run(&OLAKE_SYNC).succeeded();
    let rows = duckdb(&table_1(&job), "SELECT count(*), count(DISTINCT id), count(name), sum(done::INT) FROM $files");
    assert_eq!(rows, json!([[1000, 1000, 1000, 334]]), "columns");

    let store = ObjectStore::start();
    let mut destination = seed_json("olake-destination-parquet-s3.json");
    assert_eq!(destination["writer"]["normalization"], false);
    for (key, value) in store.writer().as_object().expect("an object") {
        destination["writer"][key] = value.clone();
    }
    job.write("destination.json", &destination);
    job.run(&["check", "--destination", "destination.json"]).succeeded();
    job.run(&OLAKE_SYNC).succeeded();
    assert_rows_as_json(&published(&store.files_root().join("public/table_1")), &database);
}

/// OLake's state of a run with change data capture outlives a full refresh: its position in the log is not ours to forget.
#[test]
fn olake_state_survives_a_full_refresh() {
    let (database, job) = olake();
    let mut streams = olake_streams(&job);
    streams["streams"][0]["stream"]["sync_mode"] = json!("full_refresh");
    job.write("streams.json", &streams);
    let state = seed_json("olake-state.json");
    job.write("state.json", &state);
    for _ in 0..2 {
        job.run(&OLAKE_RESUME).succeeded();
        assert_rows_as_json(&table_1(&job), &database);
        let after = job.read("state.json");
        for key in ["type", "global", "streams"] {
            assert_eq!(after[key], state[key], "{key} of the state: {after:#}");
        }
    }
}

/// Sets the stream to change data capture.
fn change_capture(job: &Job) {
    job.edit("streams.json", |file| file["streams"][0]["stream"]["sync_mode"] = json!("cdc"));
}

/// Runs `discover` and a full refresh of what it selected with `source` as the file of the source, and compares `streams`.
#[track_caller]
fn run(database: &Database, file: &str, source: &str, environment: &[(&str, String)], streams: &[&str]) -> (Job, Outcome) {
    let job = Job::new(database);
    fs::write(job.path(file), source).expect("write the source's file");
    let command = |arguments: &[&str]| {
        let mut command = job.command(arguments);
        command.envs(environment.iter().map(|(name, value)| (*name, value)));
        Outcome::from(command.output().expect("run lakeward"))
    };
    let discovered = command(&["discover", "--config", file]).succeeded();
    job.edit("streams.json", |streams| {
        for entry in streams["streams"].as_array_mut().expect("a list") {
            entry["stream"]["sync_mode"] = json!("full_refresh");
        }
    });
    let mut found: Vec<String> = Vec::new();
    for entry in job.read("streams.json")["streams"].as_array().expect("a list") {
        found.push(format!(
            "{}.{}",
            entry["stream"]["namespace"].as_str().expect("a name"),
            entry["stream"]["name"].as_str().expect("a name")
        ));
    }
    found.sort();
    assert_eq!(found, streams, "what discover found");
    command(&["sync", "--config", file, "--streams", "streams.json", "--destination", "destination.json"]).succeeded();
    for stream in streams {
        assert_same(&job, database, stream);
    }
    (job, discovered)
}

#[test]
fn transferia_source_and_transfer() {
    let database = Server::shared().database("transferia");
    database.sql(
        "CREATE TABLE table1 (id int PRIMARY KEY, x text); INSERT INTO table1 SELECT i, md5(i::text) FROM generate_series(1, 500) i;
         CREATE TABLE table2 (id int, created_at timestamptz); INSERT INTO table2 VALUES (1, now()); CREATE TABLE table3 (id int); CREATE TABLE table4 (id int)",
    );
    let mut source = seed_json("transferia-source.json");
    for (key, value) in [
        ("Hosts", json!(["127.0.0.1"])),
        ("Port", json!(database.port)),
        ("Database", json!(database.name)),
        ("User", json!("postgres")),
        ("Password", json!(PASSWORD)),
        ("TLSFile", json!("")),
    ] {
        source[key] = value;
    }
    let (_, discovered) = run(&database, "source.json", &source.to_string(), &[], &["public.table1", "public.table2"]);
    for key in ["BatchSize", "ShardingKeyFields", "PgDumpCommand"] {
        assert!(discovered.stderr.contains(&format!("`{key}` is accepted for compatibility")), "{key}: {}", discovered.stderr);
    }

    let transfer = with(
        &seed("transferia-transfer.yaml"),
        &[
            ("\"Hosts\": [\"localhost\"],\n      \"User\"", "\"Hosts\": [\"127.0.0.1\"],\n      \"User\""),
            ("\"Password\": \"password\"", &format!("\"Password\": \"{PASSWORD}\"")),
            ("\"mydb\"", &format!("\"{}\"", database.name)),
            ("\"Port\": 5432", &format!("\"Port\": {}", database.port)),
        ],
    );
    let all = ["public.table1", "public.table2", "public.table3", "public.table4"];
    let (job, discovered) = run(&database, "transfer.yaml", &transfer, &[], &all);
    assert!(discovered.stderr.contains("`dst` is accepted for compatibility"), "{}", discovered.stderr);
    // The other half of the file names a destination that is not built.
    job.run(&["check", "--destination", "transfer.yaml"]).failed(exit::CONFIG, &["transfer.yaml", "`dst`", "CLICKHOUSE", "not built yet"]);
}

#[test]
fn conduit_source() {
    let database = Server::shared().database("conduit");
    database.sql("CREATE TABLE records (id int PRIMARY KEY, payload jsonb); INSERT INTO records SELECT i, jsonb_build_object('n', i) FROM generate_series(1, 200) i; CREATE TABLE other (id int)");
    let mut source = seed_json("conduit-source.json");
    source["url"] = json!(format!(
        "postgres://postgres:{}@127.0.0.1:{}/{}?sslmode=disable",
        PASSWORD.replace(' ', "%20"),
        database.port,
        database.name
    ));
    let (job, discovered) = run(&database, "source.json", &source.to_string(), &[], &["public.records"]);
    assert!(discovered.stderr.contains("`cdcMode` is accepted for compatibility"), "{}", discovered.stderr);
    // It names a slot, so the streams can be meant for change data capture.
    assert!(job.stream("public.records")["supported_sync_modes"].as_array().is_some_and(|modes| modes.contains(&json!("cdc"))));
    change_capture(&job);
    job.sync().succeeded();
    database.sql("INSERT INTO records VALUES (201, '{}')");
    job.resume().succeeded();
    assert_eq!(
        duckdb(&job.files("public.records"), "SELECT count(*), count(*) FILTER (WHERE _op_type = 'c') FROM $files"),
        json!([[201, 1]])
    );
    database.sql("SELECT pg_drop_replication_slot('meroxademo')");
}

/// Its two documents are parts of one file; the connection comes from the environment.
#[test]
fn blink_source_and_service() {
    let database = Server::shared().database("blink");
    database.sql(
        "CREATE TABLE taxi_rides (log_id int PRIMARY KEY, \"timestamp\" varchar, driver_id numeric NOT NULL);
         INSERT INTO taxi_rides SELECT i, 'noon ' || i, i / 4.0 FROM generate_series(1, 300) i; CREATE TABLE drivers (id int); CREATE SCHEMA crm; CREATE TABLE crm.leads (id int)",
    );
    let environment = [
        ("DATABASE_HOST", "127.0.0.1".to_owned()),
        ("DATABASE_PORT", database.port.to_string()),
        ("DATABASE_USER", "postgres".to_owned()),
        ("DATABASE_NAME", database.name.clone()),
        ("DATABASE_PASSWORd", PASSWORD.to_owned()),
    ];
    run(&database, "blink.yaml", &seed("blink-source.yaml"), &environment, &["public.drivers", "public.taxi_rides"]);
    let whole = seed("blink-service.yaml") + &seed("blink-source.yaml");
    let (job, discovered) = run(&database, "blink.yaml", &whole, &environment, &["public.taxi_rides"]);
    assert!(discovered.stderr.contains("`service.stream_schema[].columns` is accepted for compatibility"), "{}", discovered.stderr);
    // Without the environment the variable is named, and nothing is connected to.
    job.run(&["discover", "--config", "blink.yaml"]).failed(exit::CONFIG, &["blink.yaml", "DATABASE_HOST", "what to do"]);
}

fn users(label: &str) -> Database {
    let database = Server::shared().database(label);
    database.sql(
        "CREATE TABLE users (id int PRIMARY KEY, name text, updated_at timestamptz NOT NULL);
         INSERT INTO users SELECT i, 'user ' || i, '2022-12-31T12:00:00Z'::timestamptz + i * interval '1 hour' FROM generate_series(1, 100) i;
         CREATE TABLE other (id int); CREATE SCHEMA crm; CREATE TABLE crm.leads (id int)",
    );
    database
}

/// The connection of the examples, for this database.
fn noesis(database: &Database) -> String {
    with(
        &seed("noesis-source.yaml"),
        &[
            ("localhost", "127.0.0.1"),
            ("5432", &database.port.to_string()),
            ("mydb", &database.name),
            ("secret", PASSWORD),
            ("sslmode: require", "sslmode: disable"),
        ],
    )
}

#[test]
fn noesis_source_with_everything_beside_it() {
    let database = users("noesis");
    run(&database, "source.yaml", &noesis(&database), &[], &["public.other", "public.users"]);
    let parts = ["noesis-pool.yaml", "noesis-batch-size.yaml", "noesis-log-level.yaml"].map(seed).concat();
    let mode = seed_json("noesis-full-table.json");
    let whole = format!("{}\n{parts}\nmode: {}\n", noesis(&database), mode["mode"]);
    let (job, discovered) = run(&database, "source.yaml", &whole, &[], &["public.users"]);
    for key in ["batch_size", "idle_timeout", "log_level"] {
        assert!(discovered.stderr.contains(&format!("`{key}` is accepted for compatibility")), "{key}: {}", discovered.stderr);
    }
    // The document asks for TLS, which this server has not: that is not passed over.
    fs::write(job.path("source.yaml"), whole.replace("sslmode: disable", "sslmode: require")).expect("write the source's file");
    job.run(&["check", "--config", "source.yaml"]).failed(exit::SOURCE, &["TLS"]);
}

/// The mode becomes an incremental stream with a filter; the second run reads only what is new.
#[test]
fn noesis_incremental() {
    let database = users("noesisinc");
    let job = Job::new(&database);
    let mode = seed_json("noesis-incremental.json");
    fs::write(job.path("source.yaml"), format!("{}\nmode: {}\n", noesis(&database), mode["mode"])).expect("write the source's file");
    job.run(&["discover", "--config", "source.yaml"]).succeeded();
    let stream = job.stream("public.users");
    assert_eq!((&stream["sync_mode"], &stream["cursor_field"]), (&json!("incremental"), &json!("updated_at")));
    let streams = job.read("streams.json");
    assert_eq!(streams["streams"].as_array().map(Vec::len), Some(1));
    assert!(streams["selected_streams"].to_string().contains("2023-01-01T00:00:00Z"), "{}", streams["selected_streams"]);

    let arguments =
        ["sync", "--config", "source.yaml", "--streams", "streams.json", "--destination", "destination.json", "--state", "state.json"];
    let ids = || duckdb(&job.files("public.users"), "SELECT count(*), count(DISTINCT id), min(id), max(id) FROM $files");
    job.run(&arguments).succeeded();
    // The twelfth is the instant itself, and is not after it.
    assert_eq!(ids(), json!([[88, 88, 13, 100]]));
    let before = job.files("public.users");
    database.sql("INSERT INTO users SELECT i, 'new', now() FROM generate_series(101, 107) i; INSERT INTO users VALUES (900, 'too old', '2020-01-01Z')");
    job.run(&arguments).succeeded();
    assert_eq!(ids(), json!([[95, 95, 13, 107]]));
    let added: Vec<_> = job.files("public.users").into_iter().filter(|file| !before.contains(file)).collect();
    assert_eq!(count(&added), 7);
}

/// The full load of `table_1`, for an Iceberg destination; the catalog names no database, so the destination's own counts.
fn to_iceberg(job: &Job, destination: &Value) {
    let mut streams = olake_streams(job);
    streams["streams"][0]["stream"]["sync_mode"] = json!("full_refresh");
    job.write("streams.json", &streams);
    job.write("destination.json", destination);
}

/// What PyIceberg reads of `olake_iceberg.table_1` in a catalog that is opened with these properties.
#[track_caller]
fn assert_rows_in_iceberg(properties: &Value, database: &Database) {
    let script = "
import json, sys
from pyiceberg.catalog import load_catalog
rows = load_catalog('olake_iceberg', **json.load(sys.stdin)).load_table('olake_iceberg.table_1').scan().to_arrow()
print(json.dumps(sorted((json.loads(text) for text in rows['data'].to_pylist()), key=lambda row: row['id'])))";
    let expected: Value = serde_json::from_str(&database.sql("SELECT json_agg(t ORDER BY id) FROM table_1 t")).expect("JSON");
    assert_eq!(python(script, properties), expected);
}

/// The catalog in a database, the tables in a store.
#[test]
fn olake_iceberg_destination_with_a_catalog_in_a_database() {
    let (database, job) = olake();
    let (catalog, store) = (Server::shared().database("icecatalog"), ObjectStore::start());
    let endpoint = store.writer()["s3_endpoint"].clone();
    let mut destination = seed_json("olake-destination-iceberg-jdbc.json");
    for (key, value) in [
        ("jdbc_url", json!(format!("jdbc:postgresql://127.0.0.1:{}/{}", catalog.port, catalog.name))),
        ("jdbc_username", json!("postgres")),
        ("jdbc_password", json!(PASSWORD)),
        ("iceberg_s3_path", json!(format!("s3a://{BUCKET}/warehouse"))),
        ("s3_endpoint", endpoint.clone()),
        ("aws_access_key", json!(ACCESS_KEY)),
        ("aws_secret_key", json!(SECRET_KEY)),
    ] {
        destination["writer"][key] = value;
    }
    to_iceberg(&job, &destination);
    job.run(&["check", "--destination", "destination.json"]).succeeded();
    for _ in 0..2 {
        job.run(&OLAKE_SYNC).succeeded();
        let properties = json!({
            "type": "sql", "uri": format!("postgresql+psycopg2://postgres:{PASSWORD}@127.0.0.1:{}/{}", catalog.port, catalog.name),
            "s3.endpoint": endpoint, "s3.access-key-id": ACCESS_KEY, "s3.secret-access-key": SECRET_KEY, "s3.region": "us-east-1",
        });
        assert_rows_in_iceberg(&properties, &database);
        database.sql("UPDATE table_1 SET name = name || '!' WHERE id % 2 = 0; DELETE FROM table_1 WHERE id = 3");
    }
}

/// The older keys, and AWS for all of it.
#[test]
fn olake_iceberg_destination_in_glue() {
    let (database, job) = olake();
    let moto = Moto::start();
    moto.ask(
        "given['client']['region_name'] = 'ap-south-1'; client('s3').create_bucket(Bucket='lake', CreateBucketConfiguration={'LocationConstraint': 'ap-south-1'}); answer = 0",
        &Value::Null,
    );
    let mut destination = seed_json("olake-destination-iceberg-glue.json");
    destination["writer"]["s3_path"] = json!("s3://lake/olake/");
    destination["writer"]["s3_endpoint"] = json!(moto.endpoint());
    to_iceberg(&job, &destination);
    for _ in 0..2 {
        Outcome::from(moto.serve(&mut job.command(&OLAKE_SYNC)).output().expect("run lakeward")).succeeded();
        let properties = json!({
            "type": "glue", "glue.endpoint": moto.endpoint(), "glue.region": "ap-south-1", "s3.endpoint": moto.endpoint(), "s3.region": "ap-south-1",
            "client.access-key-id": "XXX", "client.secret-access-key": "XXX",
        });
        assert_rows_in_iceberg(&properties, &database);
        database.sql("UPDATE table_1 SET name = name || '!' WHERE id % 2 = 0; DELETE FROM table_1 WHERE id = 3");
    }
}
