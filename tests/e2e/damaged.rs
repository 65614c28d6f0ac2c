//! Damaged files of each kind: refused with their place and what to do, and nothing is rewritten.
//!
//! One job has synced once; each of its files is cut, swapped, filled with something else or changed at every value. A run then either
//! refuses, and leaves every byte of the job as it was, or does what an undamaged one does. It never panics.

use crate::support::damage::{Synced, UNREADABLE, cuts, places, replacements};
use crate::support::lakeward::{Job, exit};
use serde_json::{Value, json};

/// Cut anywhere, a file is refused with the place; what is whole by chance does what the whole file does.
#[test]
fn cut_files() {
    let synced = Synced::new("cut");
    for file in ["source.json", "destination.json", "streams.json", "state.json"] {
        let whole = synced.text(file);
        for cut in cuts(&whole) {
            synced.write(file, cut.as_bytes());
            synced.refuses_or_works(file, &format!("{file} cut at {} of {} bytes", cut.len(), whole.len()));
        }
    }
    synced.assert_what_worked();
}

/// A text in YAML has no end of its own: where a cut leaves a whole file, that one counts.
#[test]
fn cut_yaml() {
    let synced = Synced::new("cutyaml");
    let source: Value = serde_json::from_str(&synced.text("source.json")).expect("JSON");
    let yaml: Vec<String> = source.as_object().expect("an object").iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
    let whole = yaml.concat();
    for cut in cuts(&whole) {
        synced.write("source.json", cut.as_bytes());
        let outcome = synced.job.run(&Synced::CHECK);
        assert!(
            matches!(outcome.code, Some(exit::DONE | exit::CONFIG)) && !outcome.stderr.contains("panicked"),
            "{cut}\n{}",
            outcome.stderr
        );
        if outcome.code == Some(exit::CONFIG) {
            synced.assert_refused(&outcome, "source.json", &format!("source.json as YAML cut at {} of {} bytes", cut.len(), whole.len()));
        }
    }
}

#[test]
fn files_that_are_no_configuration_at_all() {
    let synced = Synced::new("rubbish");
    let texts: Vec<String> = FILES.iter().map(|file| synced.text(file)).collect();
    for (at, file) in FILES.iter().enumerate() {
        let utf16: Vec<u8> = [0xFF, 0xFE].into_iter().chain(texts[at].encode_utf16().flat_map(u16::to_le_bytes)).collect();
        let list = format!("[{}]", texts[at]);
        let mut bad: Vec<(&str, &[u8])> = UNREADABLE.to_vec();
        bad.extend([("UTF-16", &utf16[..]), ("a list", list.as_bytes())]);
        // The wrong file: each of the others.
        bad.extend(FILES.iter().zip(&texts).filter(|(other, _)| *other != file).map(|(other, text)| (*other, text.as_bytes())));
        for (what, bytes) in bad {
            synced.write(file, bytes);
            let outcome = synced.job.resume();
            synced.assert_refused(&outcome, file, &format!("{what} in the place of {file}"));
        }
    }
}

const FILES: [&str; 4] = ["source.json", "destination.json", "streams.json", "state.json"];

/// The second of two equal keys would win in silence.
#[test]
fn the_same_key_twice() {
    let synced = Synced::new("twice");
    for (file, key) in [
        ("source.json", "\"database\": \"another\","),
        ("destination.json", "\"type\": \"PARQUET\","),
        ("streams.json", "\"streams\": [],"),
        ("state.json", "\"streams\": [],"),
        ("state.json", "\"lakeward\": {\"version\": 1},"),
    ] {
        let text = synced.text(file).replacen('{', &format!("{{{key}"), 1);
        synced.write(file, text.as_bytes());
        let outcome = synced.job.resume();
        synced.assert_refused(&outcome, file, key);
        assert!(outcome.stderr.contains("twice") && outcome.stderr.contains("line "), "{}", outcome.stderr);
    }
}

/// Every value of every configuration file in turn becomes something else. Much of it is fine; what is not names the key.
#[test]
fn other_values_in_the_configuration() {
    let synced = Synced::new("values");
    let mut refused = 0;
    for file in ["source.json", "destination.json", "streams.json"] {
        let whole: Value = serde_json::from_str(&synced.text(file)).expect("JSON");
        for place in places(&whole) {
            for value in replacements() {
                let mut changed = whole.clone();
                *changed.pointer_mut(&place).expect("a place") = value.clone();
                synced.write(file, changed.to_string().as_bytes());
                let what = format!("{value} at {place} of {file}");
                let outcome = synced.job.run(&Synced::CHECK);
                if outcome.code != Some(exit::DONE) {
                    synced.assert_refused_at(&outcome, file, &place, &what);
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 100, "only {refused} values were refused");
}

/// What the catalog alone does not show: values that only the database can judge.
#[test]
fn other_values_in_the_catalog_before_the_database() {
    let synced = Synced::new("judged");
    let whole: Value = serde_json::from_str(&synced.text("streams.json")).expect("JSON");
    for place in places(&whole).into_iter().filter(|place| place.starts_with("/selected_streams/public/0") || place.ends_with("/type/0")) {
        for value in [json!("nonsense"), json!(["id"]), json!("")] {
            let mut changed = whole.clone();
            *changed.pointer_mut(&place).expect("a place") = value.clone();
            synced.write("streams.json", changed.to_string().as_bytes());
            if synced.job.run(&Synced::CHECK).code != Some(exit::DONE) {
                continue;
            }
            let what = format!("{value} at {place} of streams.json");
            let outcome = synced.job.run(&[&Job::RESUME[..], &["--dry-run"]].concat());
            if outcome.code != Some(exit::DONE) {
                synced.assert_refused(&outcome, "public.", &what);
            }
        }
    }
}

/// Every value of the state in turn becomes something else: refused, or what comes of it is the tables as they are in the source.
#[test]
fn other_values_in_the_state() {
    let synced = Synced::new("state");
    let whole: Value = serde_json::from_str(&synced.text("state.json")).expect("JSON");
    let mut refused = 0;
    for place in places(&whole) {
        for value in replacements() {
            let mut changed = whole.clone();
            *changed.pointer_mut(&place).expect("a place") = value.clone();
            // A cursor in OLake's part is the word of whoever wrote last: OLake, or a user who wants to read again from there.
            let is_cursor = place.ends_with("/state/id") && (value.is_number() || value.is_string());
            if changed == whole || is_cursor {
                continue;
            }
            synced.write("state.json", changed.to_string().as_bytes());
            let what = format!("{value} at {place} of state.json");
            let outcome = synced.job.resume();
            if outcome.code == Some(exit::DONE) {
                synced.keep(outcome, &what);
            } else {
                synced.assert_refused_at(&outcome, "state.json", &place, &what);
                refused += 1;
            }
        }
    }
    assert!(refused > 30, "only {refused} values were refused");
    synced.assert_what_worked();
}

#[test]
fn versions_of_programs_to_come() {
    let synced = Synced::new("newer");
    for (place, words) in [("/version", ["version: found 99", "newer"]), ("/lakeward/version", ["lakeward.version: found 99", "newer"])] {
        let mut state: Value = serde_json::from_str(&synced.text("state.json")).expect("JSON");
        *state.pointer_mut(place).expect("a version") = json!(99);
        // Its shape is not ours to judge either.
        state["of_the_future"] = json!([{}]);
        state["lakeward"]["cursors"] = json!([]);
        synced.write("state.json", state.to_string().as_bytes());
        let outcome = synced.job.resume();
        synced.assert_refused(&outcome, "state.json", place);
        outcome.failed(exit::STATE, &words);
    }
}

/// What a selection can say against itself or against the list of streams.
#[test]
fn contradictory_selections() {
    let synced = Synced::new("contradictions");
    type Change = fn(&mut Value);
    let cases: &[(&str, Change, &[&str])] = &[
        (
            "twice",
            |f| push(f, json!({"stream_name": "items", "normalization": false})),
            &["selected_streams.public[2]", "twice", "public[0]"],
        ),
        (
            "not listed",
            |f| push(f, json!({"stream_name": "item"})),
            &["selected_streams.public[2]", "not listed", "did you mean public.items"],
        ),
        (
            "another namespace",
            |f| f["selected_streams"]["crm"] = json!([{"stream_name": "items"}]),
            &["selected_streams.crm[0]", "not listed"],
        ),
        ("listed twice", |f| repeat_stream(f), &["streams[2]", "already listed as streams[0]"]),
        ("nothing", |f| f["selected_streams"] = json!({}), &["no stream is chosen"]),
        ("one table", |f| stream(f, 1)["destination_table"] = json!("ITEMS"), &["public.items", "public.places", "destination_table"]),
        ("no folder", |f| stream(f, 1)["destination_table"] = json!("../up"), &["streams[1]", "folder name"]),
        (
            "unknown column",
            |f| chosen(f)["selected_columns"]["columns"] = json!(["id", "nam"]),
            &["columns[1]", "\"nam\"", "did you mean \"name\""],
        ),
        ("column twice", |f| chosen(f)["selected_columns"]["columns"] = json!(["id", "id"]), &["columns[1]", "twice"]),
        ("one name", |f| property(f, "name")["destination_column_name"] = json!("at"), &["\"name\"", "\"at\"", "both named"]),
        ("unknown mode", |f| stream(f, 0)["sync_mode"] = json!("cdcc"), &["streams[0].stream.sync_mode", "\"cdcc\"", "strict_cdc"]),
        (
            "unknown cursor",
            |f| stream(f, 0)["cursor_field"] = json!("idd"),
            &["streams[0].stream.cursor_field", "\"idd\"", "did you mean \"id\""],
        ),
        ("no cursor", |f| drop(stream(f, 0).as_object_mut().expect("a stream").remove("cursor_field")), &["public.items", "cursor_field"]),
        ("three cursors", |f| stream(f, 0)["cursor_field"] = json!("id:name:at"), &["public.items", "cursor_field"]),
        ("unknown key", |f| chosen(f)["chunk_column"] = json!("nope"), &["selected_streams.public[0].chunk_column", "\"nope\""]),
        ("unknown partition", |f| chosen(f)["partition_regex"] = json!("/{nope,,}"), &["public.items", "partition_regex", "nope"]),
        ("broken partition", |f| chosen(f)["partition_regex"] = json!("/{id"), &["public.items", "partition_regex", "{id"]),
        ("unknown filter", |f| chosen(f)["filter"] = json!("nope > 5"), &["selected_streams.public[0]", "filter", "\"nope\""]),
        ("broken filter", |f| chosen(f)["filter"] = json!("id >"), &["selected_streams.public[0]", "filter"]),
        ("long filter", |f| chosen(f)["filter"] = json!("id > 1 and id > 2 and id > 3"), &["selected_streams.public[0]", "filter"]),
        (
            "unknown condition",
            |f| condition(f, json!({"column": "nope", "operator": ">", "value": 5})),
            &["selected_streams.public[0]", "\"nope\""],
        ),
        ("broken condition", |f| condition(f, json!({"column": "id", "operator": "~", "value": 5})), &["filter_config", "\"~\"", "\"<=\""]),
        ("half a condition", |f| condition(f, json!({"column": "id"})), &["filter_config", "operator"]),
        ("no condition", |f| chosen(f)["filter_config"] = json!(7), &["filter_config"]),
        ("a filter of the wrong type", |f| chosen(f)["filter"] = json!("id > abc"), &["public.items", "filter", "abc"]),
        (
            "unknown type",
            |f| chosen(f)["column_types"] = json!({"name": "decimal(99,1)"}),
            &["selected_streams.public[0].column_types.name"],
        ),
        ("unknown type in the schema", |f| property(f, "name")["type"] = json!(["txt"]), &["public.items", "\"name\"", "txt"]),
        ("type of nothing", |f| chosen(f)["column_types"] = json!({"nope": "string"}), &["selected_streams.public[0].column_types.nope"]),
        ("flatten of nothing", |f| chosen(f)["flatten"] = json!({"nope": "*"}), &["selected_streams.public[0].flatten", "nope"]),
        ("gone table", |f| rename(f, "gone"), &["public.gone"]),
    ];
    for (what, change, words) in cases {
        let mut file: Value = serde_json::from_str(&synced.text("streams.json")).expect("JSON");
        change(&mut file);
        synced.write("streams.json", format!("{file:#}").as_bytes());
        let outcome = synced.job.resume();
        synced.assert_refused(&outcome, "streams.json", what);
        for word in *words {
            assert!(outcome.stderr.contains(word), "{what}: {word:?} is not in\n{}", outcome.stderr);
        }
    }
}

fn chosen(file: &mut Value) -> &mut Value {
    &mut file["selected_streams"]["public"][0]
}

fn push(file: &mut Value, metadata: Value) {
    file["selected_streams"]["public"].as_array_mut().expect("a list").push(metadata);
}

fn stream(file: &mut Value, at: usize) -> &mut Value {
    &mut file["streams"][at]["stream"]
}

fn repeat_stream(file: &mut Value) {
    let first = file["streams"][0].clone();
    file["streams"].as_array_mut().expect("a list").push(first);
}

fn property<'f>(file: &'f mut Value, column: &str) -> &'f mut Value {
    &mut stream(file, 0)["type_schema"]["properties"][column]
}

fn condition(file: &mut Value, condition: Value) {
    chosen(file)["filter_config"] = json!({"logical_operator": "and", "conditions": [condition]});
}

fn rename(file: &mut Value, name: &str) {
    chosen(file)["stream_name"] = json!(name);
    stream(file, 0)["name"] = json!(name);
}

/// A destination of an unknown type, and one that is not built.
#[test]
fn unknown_destinations() {
    let synced = Synced::new("destinations");
    for (kind, words) in [("PARKET", ["`type`", "did you mean `PARQUET`"]), ("CLICKHOUSE", ["`type`", "not built yet"])] {
        synced.write("destination.json", json!({"type": kind, "writer": {"local_path": "lake"}}).to_string().as_bytes());
        let outcome = synced.job.resume();
        synced.assert_refused(&outcome, "destination.json", kind);
        outcome.failed(exit::CONFIG, &words);
    }
}

/// A state whose lakehouse is another one, or gone, is refused before a row is added.
#[test]
fn a_state_of_another_lakehouse() {
    let synced = Synced::new("elsewhere");
    synced.job.edit("destination.json", |file| file["writer"]["local_path"] = json!(synced.job.path("elsewhere")));
    let outcome = synced.job.resume();
    assert_eq!(
        synced.job.read("state.json").to_string(),
        serde_json::from_str::<Value>(&synced.text("state.json")).expect("JSON").to_string()
    );
    outcome.failed(exit::STATE, &["public.items", "state.json", "clear-destination"]);
}
