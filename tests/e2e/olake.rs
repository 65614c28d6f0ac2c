//! OLake's files, of three of its generations, and its rules for values: as its users have them, and with what it makes of them.
//!
//! The ids, rows and folders that are expected here were made by OLake 0.9.4 itself from the same tables, where it gets that far.

use crate::support::lakeward::{Job, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{count, duckdb};
use serde_json::{Value, json};
use std::path::PathBuf;

fn shop(label: &str) -> Database {
    let database = Server::shared().database(label);
    database.sql(
        r#"CREATE TABLE customers (id int PRIMARY KEY, "Full Name" text, joined date, score numeric(10,2), tags text[], profile jsonb, note text);
        INSERT INTO customers VALUES (1, 'Ada', '2024-02-29', 12.50, '{a,"b c"}', '{"vip": true}', 'n'), (2, 'Bo', '1969-12-31', 10, '{}', 'null', 'm'),
          (3, 'Cy', NULL, 99.99, NULL, NULL, 'o'), (4, 'Di', '2024-03-01', 9.99, NULL, NULL, 'p'), (5, NULL, '2024-01-01', 50, NULL, NULL, NULL);
        CREATE TABLE orders (id bigint PRIMARY KEY, customer int, placed_at timestamptz, updated_at timestamp, total numeric(12,2), state text);
        INSERT INTO orders SELECT i, i % 3, '2024-01-01 10:00:00.5+02'::timestamptz + i * interval '1 day', '2024-01-01'::timestamp + i * interval '1 day', i * 1.10, 'new'
          FROM generate_series(1, 6) i;"#,
    );
    database
}

/// The files of a generation, for `database` and the job's lake.
fn files_of(generation: &str, database: &Database) -> Job {
    let job = Job::new(database);
    for name in ["source.json", "destination.json", "streams.json", "state.json"] {
        let path = format!("{}/tests/configs/olake/{generation}/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut file: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("a fixture")).expect("JSON");
        if name == "source.json" {
            for (key, value) in database.source().as_object().expect("an object").iter().filter(|(key, _)| *key != "max_threads") {
                file[key] = value.clone();
            }
        }
        if name == "destination.json" {
            file["writer"]["local_path"] = json!(job.lake());
        }
        job.write(name, &file);
    }
    job
}

/// Published files of a table by its folder, with the folders between.
fn folders(job: &Job, table: &str) -> Vec<String> {
    let root = job.lake().join(table);
    let mut found: Vec<String> = crate::support::lakeward::published(&root)
        .iter()
        .map(|file| file.parent().expect("a folder").strip_prefix(&root).expect("below the table").display().to_string())
        .collect();
    found.sort();
    found.dedup();
    found
}

fn files(job: &Job, table: &str) -> Vec<PathBuf> {
    crate::support::lakeward::published(&job.lake().join(table))
}

#[test]
fn files_of_0_4_run_to_the_end() {
    let job = files_of("0.4", &shop("olake04"));
    let said = job.resume().succeeded().stderr;
    for key in ["reader_batch_size", "default_mode", "ssh_config.type"] {
        assert!(said.contains(&format!("`{key}` is accepted for compatibility, has no effect")), "{key}: {said}");
    }
    let customers = "postgres_shop_public/customers";
    assert_eq!(folders(&job, customers), ["joined=1969/12", "joined=2024/02", "joined=unknown/default_joined"]);
    let rows = duckdb(
        &files(&job, customers),
        "SELECT id, full_name, epoch_us(joined), score, tags, profile, _olake_id, _op_type, _olake_timestamp > TIMESTAMPTZ '2024-01-01', \
         typeof(score), typeof(joined) FROM read_parquet($1, hive_partitioning = false) ORDER BY id",
    );
    let (double, time) = ("DOUBLE", "TIMESTAMP WITH TIME ZONE");
    assert_eq!(
        rows,
        json!([
            [1, "Ada", 1_709_164_800_000_000_i64, 12.5, "{a,\"b c\"}", "{\"vip\": true}", "1", "r", true, double, time],
            [2, "Bo", -86_400_000_000_i64, 10.0, "{}", "null", "2", "r", true, double, time],
            [3, "Cy", null, 99.99, null, null, "3", "r", true, double, time]
        ])
    );
    // Of the first load OLake has read the chunk below 3; what was updated later is new.
    let orders = files(&job, "postgres_shop_public/orders");
    let rows = duckdb(&orders, "SELECT data, _olake_id, _op_type FROM $files ORDER BY _olake_id");
    let row = |id: u32, day: u32, total: &str| {
        format!(
            r#"{{"id":{id},"customer":{},"placed_at":"2024-01-0{day}T08:00:00.5Z","updated_at":"2024-01-0{day}T00:00:00Z","total":{total},"state":"new"}}"#,
            id % 3
        )
    };
    let expected = [row(3, 4, "3.30"), row(4, 5, "4.40"), row(5, 6, "5.50"), row(6, 7, "6.60")];
    let expected: Vec<Value> = expected.iter().zip(3..).map(|(data, id)| json!([data, id.to_string(), "r"])).collect();
    assert_eq!(rows, json!(expected));
    let state = job.read("state.json");
    assert_eq!(state["streams"][0]["state"], json!({"chunks": [], "updated_at": "2024-01-07T00:00:00.000000000Z"}));
    assert_eq!((&state["type"], &state["version"]), (&json!("STREAM"), &json!(0)), "as the file was");
}

#[test]
fn files_of_0_6_run_to_the_end() {
    let database = shop("olake06");
    let job = files_of("0.6", &database);
    job.resume().succeeded();
    let clients = files(&job, "lake_sales_data/clients");
    let rows = duckdb(&clients, "SELECT * FROM $files ORDER BY full_name");
    let names = duckdb(&clients, "SELECT column_name FROM (DESCRIBE SELECT * FROM $files) ORDER BY 1");
    assert_eq!(names, json!([["_olake_id"], ["_op_type"], ["full_name"], ["note"]]));
    assert_eq!(rows.as_array().map(Vec::len), Some(2), "{rows}");
    assert_eq!(
        duckdb(&clients, "SELECT full_name, note, _olake_id FROM $files ORDER BY _olake_id"),
        json!([["Di", "p", "4"], [null, null, "5"]])
    );
    // The state names no column of the partition, and the catalog selects it for no file.
    assert_eq!(folders(&job, "lake_sales_data/orders"), ["new"]);
    let orders = || duckdb(&files(&job, "lake_sales_data/orders"), "SELECT id, total, _op_type FROM $files ORDER BY id");
    assert_eq!(orders(), json!([[4, 4.4, "u"], [5, 5.5, "u"], [6, 6.6, "u"]]));
    // A column that is new since the catalog was written is taken, as sync_new_columns says; an append-only table goes on.
    database.sql("ALTER TABLE orders ADD COLUMN \"Paid By\" text; INSERT INTO orders VALUES (7, 1, now(), '2024-02-01', 7, NULL, 'card')");
    job.resume().succeeded();
    let newest = duckdb(
        &files(&job, "lake_sales_data/orders"),
        "SELECT id, paid_by FROM read_parquet($1, union_by_name = true) WHERE id > 5 ORDER BY id",
    );
    assert_eq!(newest, json!([[6, null], [7, "card"]]));
    assert_eq!(folders(&job, "lake_sales_data/orders"), ["new", "none"]);
}

#[test]
fn files_of_0_9_run_to_the_end() {
    let database = shop("olake09");
    let job = files_of("0.9", &database);
    job.resume().succeeded();
    let customers = files(&job, "postgres_shop_public/customers");
    let rows = duckdb(
        &customers,
        "SELECT id, \"Full Name\", joined_year, _olake_id, _op_type, _cdc_timestamp, _cdc_lsn FROM read_parquet($1, hive_partitioning = true) ORDER BY id",
    );
    // md5 of `<name>|<id>|`: the columns in the order of their names.
    let ids = [
        "90b371b08d535a321ff82b19200c2208",
        "584821a2415ab6a92612d600f80f23cc",
        "86b0a82923ceb7ea8b320ae44718afa7",
        "24004148b5a183ac6c5aa28761c53d4e",
        "2f56a64524926645d4e997ff711615a6",
    ];
    let years = ["2024", "1969", "", "2024", "2024"];
    for (at, row) in rows.as_array().expect("rows").iter().enumerate() {
        let year = row[2].as_str().map(str::to_owned).or_else(|| row[2].as_i64().map(|year| year.to_string())).unwrap_or_default();
        assert_eq!((row[0].as_u64(), year.as_str()), (Some(at as u64 + 1), years[at]));
        assert_eq!((row[3].as_str(), &row[4], &row[5], &row[6]), (Some(ids[at]), &json!("r"), &json!(null), &json!(null)), "{row}");
    }
    assert!(
        folders(&job, "postgres_shop_public/customers")
            .iter()
            .all(|folder| folder.starts_with("joined_year=") && folder.contains("/id_bucket="))
    );
    let orders = || duckdb(&files(&job, "postgres_shop_public/orders"), "SELECT id, _op_type FROM $files ORDER BY id");
    assert_eq!(orders(), json!([[4, "u"], [5, "u"], [6, "u"]]));
    let state = job.read("state.json");
    assert_eq!(state["global"], json!({"state": null, "streams": ["public.orders"]}));
    let entry = &state["streams"][0]["state"];
    assert_eq!((&entry["updated_at"], &entry["id"]), (&json!("2024-01-07T00:00:00.000000000Z"), &json!(4)), "{entry}");
    job.resume().succeeded();
    assert_eq!(orders(), json!([[4, "u"], [5, "u"], [6, "u"]]), "nothing new, nothing twice");
}

/// Adds OLake's columns to every stream of `streams.json`, and sets its types.
fn as_olake_wrote_it(job: &Job, normalization: bool) {
    job.discover();
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("streams") {
            for (name, property) in entry["stream"]["type_schema"]["properties"].as_object_mut().expect("properties") {
                let source = property["source_type"].as_str().unwrap_or_default().to_owned();
                let ty = match source.as_str() {
                    "boolean" => "boolean",
                    "smallint" | "integer" => "integer_small",
                    "bigint" => "integer",
                    "real" => "number_small",
                    "double precision" => "number",
                    source if source.starts_with("numeric") => "number",
                    source if source == "date" || source.starts_with("timestamp") => "timestamp",
                    source if source.ends_with("[]") => "array",
                    _ => "string",
                };
                *property = json!({"type": ["null", ty], "destination_column_name": name.to_lowercase().replace(' ', "_")});
            }
            entry["stream"]["type_schema"]["properties"]["_olake_id"] = json!({"type": ["null", "string"], "olake_column": true});
        }
        for metadata in file["selected_streams"]["public"].as_array_mut().expect("chosen") {
            metadata["normalization"] = json!(normalization);
            metadata["use_source_column_names"] = json!(false);
            metadata.as_object_mut().expect("an object").remove("selected_columns");
        }
    });
}

#[test]
fn ids_are_those_that_olake_makes() {
    let database = Server::shared().database("olakeids");
    let tables = [
        (
            "keyed (a text, b timestamptz, c numeric(10,2), note text, PRIMARY KEY (b, a, c))",
            "('x', '2024-01-01 00:00:00.5+00', 1.50, 'n'), ('y|z', '1969-12-31 23:00:00+00', 1000000, NULL)",
            json!(["72db9e1b6e26017724fee6a724be205d", "f578bb6dc9fafe8724361140ab4394ca"]),
        ),
        (
            "heap (a int, b text, c float8, d date, f bool)",
            "(1,'x',0.1,'2024-01-01',true),(NULL,NULL,NULL,NULL,NULL),(2,'',123456789,'1960-05-05',false)",
            json!(["10ca6adb16ec22f8924094ab7c6d72c6", "8cac655844f8bdf061cc9d4dd3230c49", "d34d57ba7413ebc61c2fff34a400b40d"]),
        ),
        ("one (v float8)", "(1.5), (NULL), (1e21)", json!(["1.5", "1e+21", "<nil>"])),
        ("uk (k uuid PRIMARY KEY, n int)", "('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 1)", json!(["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"])),
        (
            "dk (k date PRIMARY KEY, n int)",
            "('2024-02-29', 1), ('0050-01-01', 2)",
            json!(["0050-01-01 00:00:00 +0000 UTC", "2024-02-29 00:00:00 +0000 UTC"]),
        ),
        ("bk (k char(5) PRIMARY KEY, n int)", "('ab', 1)", json!(["ab   "])),
        ("ik (k interval, n int, PRIMARY KEY (k, n))", "('1 year -2 days 03:04:05.5', 1)", json!(["dd6ba1a345c52060181de7d50e5abc51"])),
        ("f4k (k float4 PRIMARY KEY)", "(1.1), (16777216)", json!(["1.1", "1.6777216e+07"])),
    ];
    for (table, rows, _) in &tables {
        let name = table.split(' ').next().expect("a name");
        database.sql(&format!("CREATE TABLE {table}; INSERT INTO {name} VALUES {rows}"));
    }
    for wire in ["binary", "text"] {
        let job = Job::new(&database);
        job.edit("source.json", |source| source["backfill"] = json!({"wire_format": wire}));
        as_olake_wrote_it(&job, true);
        job.sync().succeeded();
        for (table, _, expected) in &tables {
            let name = table.split(' ').next().expect("a name");
            let ids = duckdb(&job.files(&format!("public.{name}")), "SELECT list(_olake_id ORDER BY _olake_id) FROM $files");
            assert_eq!(ids[0][0], *expected, "{name}, {wire}");
        }
    }
}

/// The key is the catalog's, whatever the table's own.
#[test]
fn the_id_follows_the_key_of_the_catalog() {
    let database = Server::shared().database("olakekey");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, code text); INSERT INTO t VALUES (1, 'x')");
    let job = Job::new(&database);
    as_olake_wrote_it(&job, true);
    let key = |key: Value| job.edit("streams.json", |file| file["streams"][0]["stream"]["source_defined_primary_key"] = key);
    key(json!(["code"]));
    job.sync().succeeded();
    assert_eq!(duckdb(&job.files("public.t"), "SELECT _olake_id FROM $files"), json!([["x"]]));
    key(json!(["gone"]));
    job.sync().failed(exit::SCHEMA, &["source_defined_primary_key", "gone", "what to do"]);
}

/// What OLake writes into `data` for the same rows, but for numbers, which keep their digits, and bytes.
#[test]
fn a_row_as_json_follows_the_types_of_the_catalog() {
    let database = Server::shared().database("olakejson");
    database.sql(
        r#"CREATE TABLE t (id int PRIMARY KEY, b bool, n numeric, d date, ts timestamp, tz timestamptz, j json, jb jsonb, a int[], iv interval, "Odd Name" text);
        INSERT INTO t VALUES (1, true, 1234567.50, '2024-02-29', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789012+02', '{"a":  1}', '{"b": [1, 2]}', '{1,2}', '1 day', 'x'),
          (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), (3, false, 0.1, '1969-12-31', '1969-12-31 23:59:59', '1900-01-01Z', 'null', '"x"', '{}', '-1 mons', '');"#,
    );
    let job = Job::new(&database);
    as_olake_wrote_it(&job, false);
    job.sync().succeeded();
    let rows = duckdb(&job.files("public.t"), "SELECT data FROM $files ORDER BY _olake_id");
    let rows: Vec<Value> =
        rows.as_array().expect("rows").iter().map(|row| serde_json::from_str(row[0].as_str().expect("text")).expect("JSON")).collect();
    assert_eq!(
        rows[0],
        json!({"id": 1, "b": true, "n": 1_234_567.5, "d": "2024-02-29T00:00:00Z", "ts": "2024-02-29T12:34:56.789Z", "tz": "2024-02-29T10:34:56.789012Z",
            "j": "{\"a\":  1}", "jb": "{\"b\": [1, 2]}", "a": "{1,2}", "iv": "1 day", "Odd Name": "x"})
    );
    assert!(rows[1].as_object().expect("an object").iter().all(|(key, value)| (key == "id") != value.is_null()), "{}", rows[1]);
    assert_eq!(
        rows[2],
        json!({"id": 3, "b": false, "n": 0.1, "d": "1969-12-31T00:00:00Z", "ts": "1969-12-31T23:59:59Z", "tz": "1900-01-01T00:00:00Z",
            "j": "null", "jb": "\"x\"", "a": "{}", "iv": "-1 mons", "Odd Name": ""})
    );
    // Our own types: json and lists are part of the document.
    let job = Job::new(&database);
    job.discover();
    job.edit("streams.json", |file| file["selected_streams"]["public"][0]["normalization"] = json!(false));
    job.sync().succeeded();
    let rows = duckdb(&job.files("public.t"), "SELECT data FROM $files ORDER BY data->>'id'");
    let first: Value = serde_json::from_str(rows[0][0].as_str().expect("text")).expect("JSON");
    assert_eq!((&first["jb"], &first["a"], &first["d"]), (&json!({"b": [1, 2]}), &json!([1, 2]), &json!("2024-02-29")));
}

/// Names as in the source and as in the destination; columns that are not selected, and rows that are one JSON column.
#[test]
fn rows_are_divided_by_columns_that_are_not_written() {
    let database = Server::shared().database("olakepart");
    database.sql(
        r#"CREATE TABLE t (id int PRIMARY KEY, "Made At" timestamptz, country text, data text);
        INSERT INTO t VALUES (1, '1969-12-31 23:30:00Z', 'a/b', 'x'), (2, NULL, NULL, 'y'), (3, '2024-02-29 00:00Z', '..', NULL)"#,
    );
    let folders_of = |normalization: bool, regex: &str| {
        let job = Job::new(&database);
        as_olake_wrote_it(&job, normalization);
        job.edit("streams.json", |file| {
            let metadata = &mut file["selected_streams"]["public"][0];
            metadata["partition_regex"] = json!(regex);
            metadata["selected_columns"] = json!({"columns": ["id", "_olake_id"], "sync_new_columns": false});
        });
        job.sync().succeeded();
        let names = duckdb(
            &job.files("public.t"),
            "SELECT list(column_name ORDER BY column_name) FROM (DESCRIBE SELECT * FROM read_parquet($1, hive_partitioning = false))",
        );
        let written = if normalization { json!(["_olake_id", "id"]) } else { json!(["_olake_id", "data"]) };
        assert_eq!(names[0][0], written);
        assert_eq!(count(&job.files("public.t")), 3);
        let table = job.table_folder(&job.lake(), "public.t");
        folders(&job, table.strip_prefix(job.lake()).expect("in the lake").to_str().expect("a name"))
    };
    for normalization in [true, false] {
        let by_text = ["1969/a%2Fb", "2024/%2E%2E", "none/default_country"];
        assert_eq!(folders_of(normalization, "/{Made At,'none',YYYY}/{country,,}"), by_text, "{normalization}");
        assert_eq!(folders_of(normalization, "/{made_at,none,YYYY}/{country,,}"), by_text);
        let null = "__HIVE_DEFAULT_PARTITION__";
        let by_field = [
            "Made At_day=1969-12-31/id_bucket=4".to_owned(),
            "Made At_day=2024-02-29/id_bucket=3".to_owned(),
            format!("Made At_day={null}/id_bucket=4"),
        ];
        assert_eq!(folders_of(normalization, "/{Made At, day}/{id, bucket[8]}"), by_field);
        assert_eq!(folders_of(normalization, "/{data,,}"), ["default_data", "x", "y"]);
    }
}

#[test]
fn of_two_filters_the_one_acts_that_acts_in_olake() {
    let database = Server::shared().database("olakefilter");
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 9)");
    for (normalization, rows) in [(true, 2), (false, 4)] {
        let job = Job::new(&database);
        job.discover();
        job.edit("streams.json", |file| {
            let metadata = &mut file["selected_streams"]["public"][0];
            metadata["normalization"] = json!(normalization);
            metadata["filter"] = json!("id <= 4");
            metadata["filter_config"] = json!({"conditions": [{"column": "id", "operator": ">", "value": 7}]});
        });
        let said = job.sync().succeeded().stderr;
        assert!(said.contains("both filter and filter_config are set"), "{said}");
        assert_eq!(count(&job.files("public.t")), rows);
    }
}

#[test]
fn json_keys_become_columns_where_the_catalog_says_so() {
    let database = Server::shared().database("flatten");
    database.sql(
        r#"CREATE TABLE t (id int PRIMARY KEY, "Doc" jsonb, raw json);
        INSERT INTO t VALUES (1, '{"id": 9007199254740993, "Kind Of": "a", "deep": {"x": [1]}, "amount": 1.25, "on": true, "at": "2024-02-29T01:02:03Z"}', '{"k": 1, "k": 2}'),
          (2, '[1]', NULL), (3, NULL, '"text"'), (4, '{"id": null, "late": 1}', '{}')"#,
    );
    let flatten = |flatten: Value| {
        let job = Job::new(&database);
        job.discover();
        job.edit("streams.json", |file| {
            file["selected_streams"]["public"][0]["flatten"] = flatten;
            file["selected_streams"]["public"][0]["use_source_column_names"] = json!(false);
        });
        job
    };
    let keys =
        json!({"id": "integer", "Kind Of": "string", "deep": "json", "amount": "decimal(10,2)", "on": "boolean", "at": "timestamptz"});
    let job = flatten(json!({"Doc": keys, "raw": {"k": "integer_small"}}));
    job.sync().succeeded();
    let rows = duckdb(
        &job.files("public.t"),
        "SELECT id, doc_id, doc_kind_of, doc_deep, doc_amount::varchar, doc_on, epoch(doc_at)::bigint, raw_k, doc IS NULL FROM $files ORDER BY id",
    );
    assert_eq!(
        rows,
        json!([
            [1, 9_007_199_254_740_993_i64, "a", "{\"x\": [1]}", "1.25", true, 1_709_168_523, 2, false],
            [2, null, null, null, null, null, null, null, false],
            [3, null, null, null, null, null, null, null, true],
            [4, null, null, null, null, null, null, null, false]
        ])
    );
    // Every key that is there, as text.
    let job = flatten(json!({"Doc": "*"}));
    job.sync().succeeded();
    let names = duckdb(&job.files("public.t"), "SELECT list(column_name ORDER BY column_name) FROM (DESCRIBE SELECT * FROM $files)");
    assert_eq!(names[0][0], json!(["doc", "doc_amount", "doc_at", "doc_deep", "doc_id", "doc_kind_of", "doc_late", "doc_on", "id", "raw"]));
    assert_eq!(
        duckdb(&job.files("public.t"), "SELECT doc_id, doc_deep FROM $files WHERE id = 1"),
        json!([["9007199254740993", "{\"x\": [1]}"]])
    );
    for (wrong, code, words) in [
        (json!({"id": "*"}), exit::SCHEMA, vec!["flatten names column \"id\"", "only json and jsonb"]),
        (json!({"nope": "*"}), exit::CONFIG, vec!["streams.json", "flatten", "unknown column \"nope\""]),
        (json!({"Doc": {"id": "list<string>"}}), exit::CONFIG, vec!["streams.json", "flatten: Doc: id", "what to do"]),
        (json!({"Doc": {"Kind Of": "string", "kind_of": "string"}}), exit::CONFIG, vec!["both named \"doc_kind_of\""]),
    ] {
        flatten(wrong).sync().failed(code, &words);
    }
    // A value that is no number is an error, and nothing is written.
    let job = flatten(json!({"Doc": {"Kind Of": "integer"}}));
    job.sync().failed(exit::SOURCE, &["invalid input syntax", "public.t"]);
    assert!(job.files("public.t").is_empty());
}

fn incremental(database: &Database, cursor: &str) -> Job {
    let job = Job::new(database);
    as_olake_wrote_it(&job, true);
    job.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().expect("streams") {
            entry["stream"]["sync_mode"] = json!("incremental");
            entry["stream"]["cursor_field"] = json!(cursor);
            entry["stream"]["type_schema"]["properties"]["_op_type"] = json!({"type": ["null", "string"], "olake_column": true});
        }
    });
    job
}

/// A first load that OLake has not finished: the chunks it has left, and what is newer than its cursor; nothing else.
#[test]
fn chunks_that_olake_left_are_read_and_no_others() {
    let database = Server::shared().database("olakechunks");
    database
        .sql("CREATE TABLE t (id int PRIMARY KEY, filler text); INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 1000) i");
    let cases = [
        (
            json!([{"min": "'(0,0)'", "max": "'(10,0)'"}, {"min": "'(30,0)'", "max": "'(40,0)'"}]),
            "(ctid >= '(0,0)' AND ctid < '(10,0)') OR (ctid >= '(30,0)' AND ctid < '(40,0)')",
        ),
        (json!([{"min": "'(20,0)'", "max": "'(4294967295,0)'"}]), "ctid >= '(20,0)'"),
        (json!([{"min": 1, "max": 101}, {"min": 901, "max": null}]), "id < 101 OR id >= 901"),
    ];
    for (chunks, expected) in cases {
        let job = incremental(&database, "id");
        job.edit("streams.json", |file| file["selected_streams"]["public"][0]["chunk_column"] = json!("id"));
        let entry = json!({"stream": "t", "namespace": "public", "sync_mode": "", "state": {"id": 995, "chunks": chunks}});
        job.write("state.json", &json!({"type": "STREAM", "version": 5, "streams": [entry]}));
        let said = job.resume().succeeded().stderr;
        assert!(said.contains("that OLake has left of a first load"), "{said}");
        let wanted = database
            .sql(&format!("SELECT id || CASE WHEN {expected} THEN 'r' ELSE 'u' END FROM t WHERE {expected} OR id > 995 ORDER BY id"));
        let found = duckdb(&job.files("public.t"), "SELECT id || _op_type FROM $files ORDER BY id");
        let found: Vec<&str> = found.as_array().expect("rows").iter().filter_map(|row| row[0].as_str()).collect();
        assert_eq!(found, wanted.lines().collect::<Vec<_>>(), "{chunks}");
        let state = job.read("state.json");
        assert_eq!(state["streams"][0]["state"], json!({"chunks": [], "id": 1000}));
        job.resume().succeeded();
        assert_eq!(count(&job.files("public.t")) as usize, found.len());
    }
    // Values without the column that they are about.
    let job = incremental(&database, "id");
    let entry = json!({"stream": "t", "namespace": "public", "sync_mode": "", "state": {"id": 995, "chunks": [{"min": 1, "max": null}]}});
    job.write("state.json", &json!({"type": "STREAM", "version": 5, "streams": [entry]}));
    job.resume().failed(exit::STATE, &["public.t", "chunk_column", "what to do"]);
}

/// What OLake would find, if it went on from our file: nothing of a load that is not committed, all of one that is.
#[test]
fn olake_finds_a_state_that_it_can_go_on_from() {
    let database = Server::shared().database("olakeback");
    database.sql("CREATE TABLE t (id int PRIMARY KEY, at timestamptz, hold regdictionary); INSERT INTO t VALUES (1, '2024-01-01Z', 'simple'), (7, NULL, NULL)");
    let job = incremental(&database, "at:id");
    let of_olake = |job: &Job| {
        let mut state = job.read("state.json");
        state.as_object_mut().expect("an object").remove("lakeward");
        state
    };
    job.write("state.json", &json!({"type": "GLOBAL", "version": 2}));
    let gate = database.gate();
    let run = job.start(&Job::RESUME);
    gate.wait_for_reader();
    std::thread::sleep(std::time::Duration::from_millis(500));
    run.kill();
    gate.open();
    assert_eq!(of_olake(&job)["streams"], json!([]), "nothing is in the destination yet");
    job.resume().succeeded();
    let state = of_olake(&job);
    assert_eq!(state["global"], json!({"state": null, "streams": ["public.t"]}));
    assert_eq!(
        state["streams"],
        json!([{"stream": "t", "namespace": "public", "sync_mode": "", "state": {"chunks": [], "at": "2024-01-01T00:00:00.000000000Z", "id": 7}}])
    );
    // And goes on itself from what OLake would leave of it.
    job.write("state.json", &state);
    database.sql("INSERT INTO t VALUES (2, '2024-01-02Z', NULL), (8, NULL, NULL)");
    job.resume().succeeded();
    assert_eq!(duckdb(&job.files("public.t"), "SELECT list(id ORDER BY id) FROM $files"), json!([[[1, 2, 7, 8]]]));
}
