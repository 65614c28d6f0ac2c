//! The commands' messages and files, as OLake's users know them.

use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::assert_same;
use serde_json::{Value, json};

fn shop() -> Database {
    let database = Server::shared().database("shop");
    database.sql(
        "CREATE SCHEMA crm; CREATE TABLE orders (id bigint PRIMARY KEY, placed_at timestamptz NOT NULL, total numeric(12,2), note text, point point);
         COMMENT ON TABLE orders IS 'One row per checkout'; CREATE TABLE lines (order_id bigint, line int, PRIMARY KEY (order_id, line));
         CREATE TABLE crm.leads (email text); CREATE TABLE crm.\"Odd Name\" (\"Some Column\" int);
         INSERT INTO orders SELECT i, now(), i, 'note', NULL FROM generate_series(1, 100) i",
    );
    database
}

#[test]
fn check_says_succeeded() {
    let job = Job::new(&shop());
    let succeeded = json!({"type": "CONNECTION_STATUS", "connectionStatus": {"status": "SUCCEEDED"}});
    for arguments in [
        &["check", "--config", "source.json"][..],
        &["check", "--destination", "destination.json"],
        &["check", "--config", "source.json", "--config-only"],
    ] {
        let outcome = job.run(arguments).succeeded();
        assert_eq!(outcome.messages().last(), Some(&succeeded), "{arguments:?}");
    }
}

#[test]
fn config_only_does_not_connect() {
    let job = Job::new(&shop());
    job.edit("source.json", |source| source["host"] = json!("no-such-host.invalid"));
    job.run(&["check", "--config", "source.json", "--config-only"]).succeeded();
}

#[test]
fn discover_prints_and_writes_the_catalog() {
    let job = Job::new(&shop());
    let outcome = job.run(&["discover", "--config", "source.json"]).succeeded();
    let message = outcome.messages().pop().expect("a message");
    assert_eq!(message["type"], "CATALOG");
    let written = job.read("streams.json");
    assert_eq!(message["catalog"], written);
    let mut ids: Vec<String> = Vec::new();
    for entry in written["streams"].as_array().expect("streams") {
        ids.push(format!(
            "{}.{}",
            entry["stream"]["namespace"].as_str().expect("namespace"),
            entry["stream"]["name"].as_str().expect("name")
        ));
    }
    ids.sort();
    assert_eq!(ids, ["crm.Odd Name", "crm.leads", "public.lines", "public.orders"]);
    assert_eq!(written["selected_streams"]["crm"].as_array().map(Vec::len), Some(2));

    let orders = job.stream("public.orders");
    assert_eq!(orders["source_defined_primary_key"], json!(["id"]));
    assert_eq!(job.stream("public.lines")["source_defined_primary_key"], json!(["order_id", "line"]));
    assert_eq!(orders["description"], "One row per checkout");
    assert!(orders["destination_database"].as_str().is_some_and(|d| d.starts_with("postgres_shop_") && d.ends_with("public")), "{orders}");
    assert_eq!(job.stream("crm.Odd Name")["destination_table"], "odd_name");
    // A point has no order: it cannot be a cursor.
    let cursors = orders["available_cursor_fields"].as_array().expect("cursor fields");
    assert!(cursors.contains(&json!("placed_at")) && !cursors.contains(&json!("point")), "{cursors:?}");
    let type_of = |column: &str| orders["type_schema"]["properties"][column]["type"].clone();
    assert_eq!(type_of("total"), json!(["null", "decimal(12,2)"]));
    assert_eq!(type_of("id"), json!(["integer"]));
    assert_eq!(type_of("placed_at"), json!(["timestamptz"]));
}

#[test]
fn two_discovers_are_byte_identical() {
    let job = Job::new(&shop());
    let first = job.run(&["discover", "--config", "source.json"]).succeeded();
    let first_file = std::fs::read(job.path("streams.json")).expect("streams.json");
    // Over the first file (merged with itself), and from nothing.
    for again in [false, true] {
        if again {
            std::fs::remove_file(job.path("streams.json")).expect("remove streams.json");
        }
        let second = job.run(&["discover", "--config", "source.json"]).succeeded();
        assert_eq!(first.stdout, second.stdout);
        assert_eq!(first_file, std::fs::read(job.path("streams.json")).expect("streams.json"));
    }
}

#[test]
fn discover_keeps_what_the_user_chose() {
    let database = shop();
    let job = Job::new(&database);
    job.discover();
    job.select(&["public.orders"]);
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("streams") {
            if entry["stream"]["name"] == "orders" {
                entry["stream"]["destination_table"] = json!("my_orders");
            }
        }
    });
    database.sql("CREATE TABLE brand_new (id int); ALTER TABLE orders ADD COLUMN added int");
    job.run(&["discover", "--config", "source.json", "--streams", "streams.json"]).succeeded();
    let merged = job.read("streams.json");
    assert_eq!(job.stream("public.orders")["destination_table"], "my_orders");
    assert!(job.stream("public.orders")["type_schema"]["properties"]["added"].is_object());
    assert!(job.stream("public.brand_new").is_object());
    let chosen: Vec<&Value> =
        merged["selected_streams"].as_object().expect("selected").values().flat_map(|l| l.as_array().expect("a list")).collect();
    assert_eq!(chosen.len(), 1, "{chosen:?}");
}

#[test]
fn discover_of_nothing_is_an_error() {
    let job = Job::new(&Server::shared().database("nothing"));
    job.run(&["discover", "--config", "source.json"]).failed(exit::SOURCE, &["no "]);
}

#[test]
fn sync_leaves_state_and_statistics_beside_the_configuration() {
    let job = Job::new(&shop());
    job.discover();
    let outcome = job.sync().succeeded();
    assert_eq!(
        outcome.stdout.lines().filter(|l| l.starts_with('{')).count(),
        outcome.stdout.lines().count(),
        "stdout holds talk: {}",
        outcome.stdout
    );
    assert!(outcome.stderr.contains("orders") && outcome.stderr.contains("100"), "no summary: {}", outcome.stderr);
    let state = job.read("state.json");
    assert!(state["version"].is_u64(), "{state}");
    let stats = job.read("stats.json");
    assert_eq!(stats["Synced Records"], 100, "{stats}");
    for key in ["Writer Threads", "Speed", "Seconds Elapsed"] {
        assert!(stats.get(key).is_some(), "{key} is not in {stats}");
    }
}

#[test]
fn no_save_writes_nothing_beside_the_configuration() {
    let job = Job::new(&shop());
    job.run(&["discover", "--config", "source.json", "--no-save"]).succeeded();
    assert!(!job.path("streams.json").exists());
}

#[test]
fn talk_can_be_json() {
    let job = Job::new(&shop());
    job.discover();
    let mut arguments = Job::SYNC.to_vec();
    arguments.extend(["--log-format", "json"]);
    let outcome = job.run(&arguments).succeeded();
    for line in outcome.stderr.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok_and(|v| v.is_object()), "not JSON: {line}");
    }
    assert!(!outcome.stderr.is_empty());
}

/// How large batches are is nothing that anybody sees in the tables.
#[test]
fn batches_of_a_few_rows_land_the_same() {
    let database = shop();
    let job = Job::new(&database);
    job.discover();
    for rows in ["1", "7", "10000"] {
        let mut arguments = Job::SYNC.to_vec();
        arguments.extend(["--destination-buffer-size", rows]);
        let outcome = job.run(&arguments).succeeded();
        assert!(!outcome.stderr.contains("has no effect"), "{}", outcome.stderr);
        assert_eq!(assert_same(&job, &database, "public.orders").rows, 100);
    }
    for wrong in ["0", "-1", "many", "1.5"] {
        let wrong = format!("--destination-buffer-size={wrong}");
        job.run(&["sync", &wrong]).failed(exit::USAGE, &["--destination-buffer-size", "a number of rows, 1 or more"]);
    }
    let help = job.run(&["sync", "--help"]).succeeded().stdout;
    assert!(help.contains("--destination-buffer-size") && !help.contains("--max-discover-threads"), "{help}");
}

#[test]
fn a_flag_without_effect_is_named_once() {
    let job = Job::new(&shop());
    let outcome = job.run(&["discover", "--config", "source.json", "--max-discover-threads", "7"]).succeeded();
    let told = "--max-discover-threads is accepted for compatibility, has no effect";
    assert_eq!(outcome.stderr.matches(told).count(), 1, "{}", outcome.stderr);
}

#[test]
fn preview_shows_rows_read_back() {
    let job = Job::new(&shop());
    job.discover();
    job.sync().succeeded();
    let outcome = job
        .run(&["preview", "--destination", "destination.json", "--streams", "streams.json", "--stream", "public.orders", "--rows", "3"])
        .succeeded();
    assert_eq!(outcome.stdout.matches("note").count(), 4, "a header and three rows:\n{}", outcome.stdout);
    assert!(outcome.stdout.contains("placed_at"), "{}", outcome.stdout);
}

#[test]
fn clear_destination_removes_what_was_synced() {
    let job = Job::new(&shop());
    job.discover();
    job.sync().succeeded();
    assert!(!job.files("public.orders").is_empty());
    job.run(&["clear-destination", "--destination", "destination.json", "--streams", "streams.json"]).succeeded();
    assert!(job.files("public.orders").is_empty());
    job.assert_no_leftovers();
    job.sync().succeeded();
    assert!(!job.files("public.orders").is_empty());
}

#[test]
fn spec_is_a_schema() {
    let job = Job::new(&shop());
    let outcome = job.run(&["spec"]).succeeded();
    let text = outcome.stdout;
    assert!(text.contains("max_threads") && text.contains("jsonschema"), "{text}");
    job.run(&["spec", "--destination-type", "parquet"]).succeeded();
}

#[test]
fn help_and_version() {
    let job = Job::new(&shop());
    let help = job.run(&["--help"]).succeeded().stdout;
    for command in ["spec", "check", "discover", "sync", "preview", "clear-destination"] {
        assert!(help.contains(command), "{command} is not in the help:\n{help}");
    }
    assert!(job.run(&["--version"]).succeeded().stdout.contains(env!("CARGO_PKG_VERSION")));
}
