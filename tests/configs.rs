//! The files in `configs/`, `schemas/` and `tests/configs/`: examples load, mistakes get the message that is written beside
//! them, schemas are what the structs say.
//!
//! After an intended change: `UPDATE_EXPECTED=1 UPDATE_SCHEMAS=1 cargo test --test configs`, then read the diff.
#![expect(clippy::unwrap_used, reason = "tests")]

use lakeward::config::encryption;
use lakeward::config::expand::Lookup;
use lakeward::config::load::Text;
use lakeward::config::streams::StreamsFile;
use lakeward::config::{Destination, FileKind, Loaded, Source, load_with};
use lakeward::error::{Context, Error, Result};
use lakeward::postgres::connect::{Host, SslMode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use writers::Secret;

/// A planted secret: it stands in every mistaken file where a secret can, and in no message.
const PLANTED: &str = "hunter2";

fn environment() -> Lookup<'static> {
    Lookup {
        variable: &|name| match name {
            "DATABASE_HOST" => Some("db.example.com".to_owned()),
            "DATABASE_PORT" => Some("6543".to_owned()),
            "DATABASE_USER" | "DATABASE_NAME" => Some("taxi".to_owned()),
            "PGPASSWORD" | "DATABASE_PASSWORd" | "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" | "PLANTED" => Some(PLANTED.to_owned()),
            _ => None,
        },
        file: &|_| Err(std::io::ErrorKind::NotFound.into()),
    }
}

fn source(path: &str) -> Loaded<Source> {
    load_with(Path::new(path), FileKind::Source, false, &environment()).unwrap()
}

fn destination(path: &str) -> Loaded<Destination> {
    load_with(Path::new(path), FileKind::Destination, false, &environment()).unwrap()
}

fn streams(path: &str) -> Loaded<StreamsFile> {
    load_with(Path::new(path), FileKind::Streams, false, &environment()).unwrap()
}

fn files(directory: &str) -> BTreeSet<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Loads and resolves a file as the kind that its name tells.
fn run(path: &Path, lenient: bool) -> Result<Vec<String>> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let context = |kind| move || format!("read {kind} file {}", path.display());
    if name.starts_with("destination") {
        let loaded = load_with::<Destination>(path, FileKind::Destination, lenient, &environment())?;
        loaded.value.validate().doing(context(FileKind::Destination))?;
        Ok(loaded.notes)
    } else if name.starts_with("streams") {
        Ok(load_with::<StreamsFile>(path, FileKind::Streams, lenient, &environment())?.notes)
    } else if name.starts_with("state") {
        lakeward::state::file::load(path).map(|_| Vec::new())
    } else {
        let loaded = load_with::<Source>(path, FileKind::Source, lenient, &environment())?;
        loaded.value.resolve().doing(context(FileKind::Source))?;
        Ok(loaded.notes)
    }
}

fn message(error: &Error) -> String {
    match error.advice() {
        Some(hint) => format!("{error}\nhint: {hint}\n"),
        None => format!("{error}\n"),
    }
}

#[test]
fn examples_load_without_remarks() {
    for directory in files("configs") {
        for path in files(directory.to_str().unwrap()) {
            assert_eq!(run(&path, false).unwrap(), Vec::<String>::new(), "{}", path.display());
        }
    }
}

#[test]
fn each_mistake_gets_its_message() {
    let mut seen = 0;
    let mut passed = Vec::new();
    for path in files("tests/configs/invalid").into_iter().filter(|path| path.extension().is_none_or(|ext| ext != "expected")) {
        let Err(error) = run(&path, false) else {
            passed.push(path);
            continue;
        };
        let text = message(&error);
        assert!(!text.contains(PLANTED) && !format!("{error:?}").contains(PLANTED), "{}: {text}", path.display());
        let expected = path.with_extension("expected");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected, &text).unwrap();
        }
        assert_eq!(text, fs::read_to_string(&expected).unwrap_or_default(), "{}", path.display());
        seen += 1;
    }
    assert!(passed.is_empty(), "nothing is said of {passed:?}");
    assert!(seen >= 300, "only {seen} mistakes are covered");
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: &[u8], expected: &str| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        match load_with::<Source>(&path, FileKind::Source, false, &environment()) {
            Ok(loaded) => assert_eq!(loaded.value.host.as_deref(), Some(expected), "{name}"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(expected) && text.contains(name) && !text.contains(PLANTED), "{name}: {text}");
            }
        }
    };
    check("bom.json", b"\xEF\xBB\xBF{\"host\": \"h\"}", "h");
    check("yaml-in-json.json", b"host: h\n", "h");
    check("json-in-yaml.yaml", b"{\n\t\"host\": \"h\"\n}", "h");
    check("norway.yaml", b"host: no\n", "no");
    check("flow.yaml", b"{host: h, port: 5}", "h");
    check("utf16.json", b"\xFF\xFE{\0", "UTF-16");
    check("latin1.json", b"{\n\"host\": \"caf\xE9\"}", "line 2: byte 14 of the file is not valid UTF-8");
    check("empty.json", b"  \n", "the file is empty");
    check("list.json", b"[1]", "found a list");
    check("scalar.yaml", b"hunter2", "single string");
    check("encrypted.json", b"\"aHVudGVyMg==\"", "it is encrypted, and no key is given");
    check("twice.json", b"{\"host\": \"a\",\n \"host\": \"b\"}", "line 2, column 7: the same key twice: `host`");
    check("twice.yaml", b"host: a\nhost: b\n", "the same key twice: `host`");
    check("tab.yaml", b"host: h\nssl:\n\t password: hunter2\n", "line 3, column");
    check("open.yaml", b"host: 'hunter2\nport: 1\n", "line");
    check("alias.yaml", b"host: *hunter2\n", "line 1");
    check("quoted.json", b"{\"password\": \"hunter2\" \"port\": 1}", "line 1, column 24: expected `,` or `}`");
    check("cut.json", b"{\"password\": \"hunter2", "line 1, column 21: EOF while parsing a string");

    let missing = load_with::<Source>(&folder.path().join("none.json"), FileKind::Source, false, &environment()).unwrap_err();
    assert!(missing.to_string().ends_with("none.json: there is no such file"), "{missing}");
    let directory = load_with::<Source>(folder.path(), FileKind::Source, false, &environment()).unwrap_err();
    assert!(directory.to_string().ends_with("this is a directory, not a file"), "{directory}");
}

/// An encrypted file of each mistake gets the message of the plain one: nothing of what was decrypted is in it, nor the key.
#[test]
fn mistakes_in_encrypted_files_get_the_same_message() {
    const KEY: &str = "the key of the files";
    let folder = tempfile::tempdir().unwrap();
    let key = Secret::new(KEY);
    for path in files("tests/configs/invalid").into_iter().filter(|path| path.extension().is_none_or(|ext| ext != "expected")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if ["destination", "streams", "state"].iter().any(|kind| name.starts_with(kind)) {
            continue;
        }
        let written = folder.path().join(name);
        fs::write(&written, encryption::file(&encryption::seal(&fs::read(&path).unwrap(), &key).unwrap())).unwrap();
        let load = |key: &Secret| -> Result<()> {
            let text = Text::read(&written)?;
            let opened = encryption::open(&text.encrypted()?, key)?;
            let loaded = text.decrypted(opened)?.load::<Source>(FileKind::Source, false, &environment())?;
            loaded.value.resolve().map(drop)
        };
        let text = message(&load(&key).unwrap_err().doing(format!("read source file {}", path.display())));
        assert_eq!(text, fs::read_to_string(path.with_extension("expected")).unwrap(), "{name}");
        let refused = load(&Secret::new("another key")).unwrap_err();
        assert!(!format!("{refused:?} {}", message(&refused)).contains(KEY), "{refused:?}");
        assert!(!text.contains(PLANTED) && !text.contains(KEY), "{text}");
    }
    let plain = Text::read(Path::new("configs/postgres-to-parquet/source.json")).unwrap();
    assert!(plain.encrypted().unwrap_err().to_string().contains("not encrypted"));
}

#[test]
fn unknown_keys_are_only_noted_when_lenient() {
    let notes = run(Path::new("tests/configs/invalid/typo-key.json"), true).unwrap();
    assert_eq!(notes, ["`pasword`: unknown key, ignored; did you mean `password`?"]);
}

#[test]
fn debug_output_shows_no_secret() {
    let source = source("configs/postgres-to-parquet/source.yaml").value;
    let text = format!("{source:?} {:?}", source.resolve().unwrap());
    assert!(!text.contains(PLANTED) && text.contains("***"), "{text}");
    assert_eq!(source.resolve().unwrap().password.unwrap().expose(), PLANTED);
}

#[test]
fn olake_files_mean_what_they_mean_there() {
    let Loaded { value, notes } = source("tests/configs/seeds/olake-source.json");
    let options = value.resolve().unwrap();
    assert_eq!(options.hosts, [Host::Tcp("postgres-host".to_owned(), 5432)]);
    assert_eq!((options.database.as_str(), options.user.as_str()), ("postgres_db", "postgres_user"));
    assert_eq!(options.tls.mode, SslMode::Disable);
    assert_eq!(value.connections(), 50);
    assert!(value.wants_cdc());
    assert_eq!(value.update_method.unwrap().intial_wait_time, Some(10));
    let named: Vec<&str> = notes.iter().filter_map(|note| note.split('`').nth(1)).collect();
    assert_eq!(named, ["reader_batch_size", "default_mode", "split-region", "update_method.intial_wait_time"]);

    // The document leaves the columns out; its dots are no column, and the refusal names their place.
    let refused = load_with::<StreamsFile>(Path::new("tests/configs/seeds/olake-streams.json"), FileKind::Streams, false, &environment());
    assert!(refused.unwrap_err().to_string().contains("`streams[0].stream.type_schema.properties....`: found \"...\""));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("streams.json");
    let text = fs::read_to_string("tests/configs/seeds/olake-streams.json").unwrap();
    fs::write(&path, text.replace(r#""...": "...""#, r#""id": {"type": ["integer"]}"#)).unwrap();
    let file = streams(path.to_str().unwrap()).value;
    assert_eq!(file.streams[0].stream.sync_mode, "cdc");
    let local = destination("tests/configs/seeds/olake-destination-parquet.json").value;
    assert!(matches!(local, Destination::Parquet(config) if config.local_path == "./configs/reader"));
    let bucket = destination("tests/configs/seeds/olake-destination-parquet-s3.json").value;
    assert!(matches!(bucket, Destination::Parquet(config) if config.s3_bucket == "olake"));
    for name in ["glue", "jdbc"] {
        let iceberg = destination(&format!("tests/configs/seeds/olake-destination-iceberg-{name}.json")).value;
        iceberg.validate().unwrap();
        assert!(matches!(iceberg, Destination::Iceberg(config) if config.catalog_type.as_deref().unwrap_or("glue") == name));
    }
}

#[test]
fn transferia_files_are_translated() {
    let Loaded { value, notes } = source("tests/configs/seeds/transferia-source.json");
    assert_eq!(value.hosts, ["host1", "host2"]);
    assert_eq!(value.include_tables, ["public.table1", "public.table2"]);
    assert_eq!(value.exclude_tables, ["public.table3"]);
    assert!(value.collapse_partitions && value.wants_cdc());
    assert_eq!(value.connections(), 5);
    let ssl = value.ssl.as_ref().unwrap();
    assert_eq!((ssl.mode.as_str(), ssl.server_ca.as_deref()), ("verify-full", Some("/path/to/tls/file")));
    assert!(value.resolve().unwrap_err().to_string().contains("`ssl.server_ca`: found neither PEM text nor a file"));
    let named: BTreeSet<&str> = notes.iter().filter_map(|note| note.split('`').nth(1)).collect();
    assert_eq!(named.len(), notes.len(), "each key is reported once");
    for key in ["BatchSize", "KeeperSchema", "IgnoreUserTypes", "ShardingKeyFields", "PgDumpCommand", "PreSteps"] {
        assert!(named.contains(key), "{key} is not reported");
    }

    let Loaded { value, notes } = source("tests/configs/seeds/transferia-transfer.yaml");
    let options = value.resolve().unwrap();
    assert_eq!(options.hosts, [Host::Tcp("localhost".to_owned(), 5432)]);
    assert_eq!((options.database.as_str(), options.user.as_str()), ("mydb", "postgres"));
    assert_eq!(options.password.unwrap().expose(), "password");
    assert!(notes.len() == 1 && notes[0].starts_with("`dst` is accepted"), "{notes:?}");
}

#[test]
fn conduit_blink_and_noesis_files_are_translated() {
    let Loaded { value, .. } = source("tests/configs/seeds/conduit-source.json");
    assert_eq!(value.url.as_ref().unwrap().expose(), "url");
    assert_eq!(value.include_tables, ["public.records"]);
    let method = value.update_method.as_ref().unwrap();
    assert_eq!((method.replication_slot.as_deref(), method.publication.as_deref()), (Some("meroxademo"), Some("meroxademo")));
    assert!(value.resolve().unwrap_err().to_string().contains("`url`: neither a URL"));

    let value = source("tests/configs/seeds/blink-source.yaml").value;
    let options = value.resolve().unwrap();
    assert_eq!(options.hosts, [Host::Tcp("db.example.com".to_owned(), 6543)]);
    assert_eq!((options.database.as_str(), options.user.as_str()), ("taxi", "taxi"));
    assert_eq!((value.schemas.len(), options.password.unwrap().expose()), (1, PLANTED));
    let Loaded { value, notes } = source("tests/configs/seeds/blink-service.yaml");
    assert_eq!(value.include_tables, ["public.taxi_rides"]);
    assert!(notes.iter().any(|note| note.contains("service.stream_schema[].columns")), "{notes:?}");

    let value = source("tests/configs/seeds/noesis-source.yaml").value;
    let options = value.resolve().unwrap();
    assert_eq!((options.tls.mode, &value.schemas[..]), (SslMode::Require, &["public".to_owned()][..]));
    assert_eq!((options.connect_timeout, options.statement_timeout), (Duration::from_secs(30), Duration::from_secs(300)));
    assert_eq!(source("tests/configs/seeds/noesis-full-table.json").value.include_tables, ["public.users"]);
    assert_eq!(source("tests/configs/seeds/noesis-pool.yaml").value.connections(), 10);
    assert_eq!(source("tests/configs/seeds/noesis-batch-size.yaml").notes.len(), 1);
    assert_eq!(source("tests/configs/seeds/noesis-log-level.yaml").notes.len(), 1);
    let value = source("tests/configs/seeds/noesis-incremental.json").value;
    assert_eq!(value.include_tables, ["public.users"]);
    let incremental = &value.incremental_tables[0];
    assert_eq!((incremental.table.as_str(), incremental.cursor_field.as_str()), ("public.users", "updated_at"));
    assert_eq!(incremental.since.as_deref(), Some("2023-01-01T00:00:00Z"));
}

#[test]
fn schemas_are_what_the_structs_say() {
    for (name, schema) in lakeward::config::schemas() {
        let path = format!("schemas/{name}.schema.json");
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, fs::read_to_string(&path).unwrap_or_default(), "{path}: run with UPDATE_SCHEMAS=1");
    }
}

/// The properties of a schema that carry one of the marks, each by its path.
fn marked(root: &Value, node: &Value, at: &[String], found: &mut Vec<(Vec<String>, &'static str)>) {
    let target = node["$ref"].as_str().and_then(|target| root.pointer(target.strip_prefix('#')?));
    let node = target.unwrap_or(node);
    for branch in ["anyOf", "oneOf"].into_iter().filter_map(|key| node[key].as_array()).flatten() {
        marked(root, branch, at, found);
    }
    let below = |name: &str| at.iter().cloned().chain([name.to_owned()]).collect::<Vec<_>>();
    for (name, property) in node["properties"].as_object().into_iter().flatten() {
        let path = below(name);
        let mark = ["x-no-effect", "x-not-built"].into_iter().find(|mark| property.get(*mark).is_some());
        found.extend(mark.map(|mark| (path.clone(), mark)));
        marked(root, property, &path, found);
    }
    for name in node["x-not-built"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        found.push((below(name), "x-not-built"));
    }
}

#[test]
fn every_key_without_effect_is_reported_and_every_key_to_come_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, schema) in lakeward::config::schemas().into_iter().filter(|(kind, _)| ["source", "destination"].contains(kind)) {
        let mut found = Vec::new();
        marked(&schema, &schema, &[], &mut found);
        assert!(found.len() >= 5, "{kind}: {found:?}");
        for (path, mark) in found {
            let key = path.join(".");
            let mut value = path.iter().rev().fold(json!("on"), |value, name| json!({name: value}));
            if key == "writer.arrow_writes" {
                value = json!({"writer": {"arrow_writes": true}});
            }
            if kind == "destination" {
                value["type"] = json!("ICEBERG");
            }
            let file = folder.path().join(format!("{kind}.json"));
            fs::write(&file, value.to_string()).unwrap();
            let outcome = match kind {
                "source" => load_with::<Source>(&file, FileKind::Source, false, &environment()).map(|loaded| loaded.notes),
                _ => load_with::<Destination>(&file, FileKind::Destination, false, &environment()).map(|loaded| loaded.notes),
            };
            match (mark, outcome) {
                ("x-no-effect", Ok(notes)) => {
                    let note = format!("`{key}` is accepted for compatibility, has no effect: ");
                    assert!(notes.iter().any(|said| said.starts_with(&note)), "{key}: {notes:?}");
                }
                ("x-not-built", Err(error)) => {
                    let text = error.to_string();
                    assert!(text.contains(&format!("`{key}`: ")) && text.contains("is not built yet in this version"), "{text}");
                }
                (_, outcome) => panic!("{key}: {outcome:?}"),
            }
        }
    }
}

/// Every value of every example is replaced by every kind of value: the file loads or is refused, nothing panics, and no
/// message shows what an expansion gave.
#[test]
fn any_value_anywhere_is_read_or_refused_without_a_leak() {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("${PLANTED}"),
        json!("a/${PLANTED}: {"),
        json!("postgres://u:${PLANTED}@h:${PLANTED}/d?sslmode=${PLANTED}"),
        json!([]),
        json!(["${PLANTED}", null, {}]),
        json!({"${PLANTED}": "${PLANTED}", "host": "${PLANTED}"}),
    ];
    let folder = tempfile::tempdir().unwrap();
    let examples = files("tests/configs/seeds")
        .into_iter()
        .chain(files("configs/postgres-to-parquet").into_iter().chain(files("configs/postgres-to-iceberg")));
    let mut tried = 0;
    for path in examples.filter(|path| path.extension().is_some_and(|ext| ext == "json")) {
        let name = path.file_name().unwrap().to_str().unwrap().trim_start_matches("olake-");
        let example: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for place in places(&example) {
            for value in &odd {
                let mut changed = example.clone();
                *changed.pointer_mut(&place).unwrap() = value.clone();
                let file = folder.path().join(name);
                fs::write(&file, changed.to_string()).unwrap();
                let text = match run(&file, false) {
                    Ok(notes) => notes.join("\n"),
                    Err(error) => message(&error),
                };
                // Writing over a file makes some file systems flush it, thousands of times here; a new file does not.
                fs::remove_file(&file).unwrap();
                // The writer quotes what it takes for the name of a bucket, of a path in it, or of a kind of catalog.
                let quotable =
                    ["/s3_bucket", "/s3_path", "/iceberg_s3_path", "/hive_uri", "/catalog_type"].iter().any(|key| place.ends_with(key));
                assert!(quotable || !text.contains(PLANTED), "{name}{place} = {value}: {text}");
                tried += 1;
            }
        }
    }
    assert!(tried > 1000, "only {tried} changes tried");
}

/// JSON pointers of all values in `value`.
fn places(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect(),
        Value::Object(map) => map.iter().map(|(key, item)| (key.replace('~', "~0").replace('/', "~1"), item)).collect(),
        _ => Vec::new(),
    };
    let below = children.into_iter().flat_map(|(key, child)| places(child).into_iter().map(move |place| format!("/{key}{place}")));
    std::iter::once(String::new()).chain(below).collect()
}
