//! Every key of the user's files and every flag has a test that fails if it stops acting; `tests/keys/table.txt` says which. Every promise of
//! `docs/guarantees.md` has tests that show it.
#![allow(missing_docs, reason = "a test binary")]
#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The paths of all keys that a schema knows, those included that are refused so far.
fn keys(root: &Value, schema: &Value, path: &str, depth: usize, found: &mut BTreeSet<String>) {
    if depth > 12 {
        return;
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        keys(root, &root["$defs"][name], path, depth + 1, found);
    }
    for branch in ["anyOf", "oneOf"].iter().filter_map(|key| schema[key].as_array()).flatten() {
        keys(root, branch, path, depth + 1, found);
    }
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let here = below(name);
        let before = found.len();
        keys(root, property, &here, depth + 1, found);
        // An object acts by its keys.
        if found.len() == before {
            found.insert(here);
        }
    }
    found.extend(schema["x-not-built"].as_array().into_iter().flatten().filter_map(Value::as_str).map(below));
    if schema["items"].is_object() {
        keys(root, &schema["items"], &format!("{path}[]"), depth + 1, found);
    }
    if schema["additionalProperties"].is_object() {
        keys(root, &schema["additionalProperties"], &format!("{path}.*"), depth + 1, found);
    }
}

/// The flags in the help of a command.
fn flags(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_lakeward")).args(arguments).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let flag = |line: &str| {
        let word = line.trim_start().trim_start_matches("-h, ").trim_start_matches("-V, ");
        let name: String = word.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        (name.starts_with("--") && line.starts_with(' ')).then_some(name)
    };
    text.lines().filter_map(flag).collect()
}

/// Names of all test functions of the project.
fn tests(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut marked = false;
            for line in text.lines().map(str::trim_start) {
                match line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ") {
                    Some(rest) if marked => {
                        found.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
                        marked = false;
                    }
                    Some(_) => {}
                    None => marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test"),
                }
            }
        }
    }
}

fn all_tests() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    ["src", "writers", "tests"].iter().for_each(|folder| tests(Path::new(folder), &mut known));
    known
}

/// The entry of a key: its own, or that of the nearest object above it.
fn entry<'t>(table: &'t [(String, String)], key: &str) -> Option<&'t (String, String)> {
    let own = table.iter().find(|(name, _)| name == key);
    let above = |(name, _): &&(String, String)| {
        name.strip_suffix('*').is_some_and(|start| {
            // `source: rate_limit.*` stands for `source: rate_limit` and `source: rate_limit.rows_per_second`, and for the elements of a list.
            key.starts_with(start) || key == start.trim_end_matches('.') || key.starts_with(&format!("{}[]", start.trim_end_matches('.')))
        })
    };
    own.or_else(|| table.iter().filter(above).max_by_key(|(name, _)| name.len()))
}

#[test]
fn every_key_and_flag_has_a_test_that_fails_without_it() {
    let text = fs::read_to_string("tests/keys/table.txt").unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let table: Vec<(String, String)> = lines
        .map(|line| line.split_once(" = ").unwrap_or_else(|| panic!("{line}: not `key = test`")))
        .map(|(key, test)| (key.to_owned(), test.to_owned()))
        .collect();
    let mut wanted = BTreeSet::new();
    for (file, schema) in lakeward::config::schemas() {
        let mut found = BTreeSet::new();
        keys(&schema, &schema, "", 0, &mut found);
        wanted.extend(found.into_iter().map(|key| format!("{file}: {key}")));
    }
    for command in [
        &[][..],
        &["sync"],
        &["check"],
        &["discover"],
        &["preview"],
        &["clear-destination"],
        &["spec"],
        &["state", "show"],
        &["state", "repair"],
    ] {
        wanted.extend(flags(command).into_iter().map(|flag| format!("flag: {flag}")));
    }
    assert!(wanted.len() > 200, "only {} keys and flags were found", wanted.len());
    let mut used = BTreeSet::new();
    let mut without = Vec::new();
    for key in &wanted {
        match entry(&table, key) {
            Some((name, _)) => {
                used.insert(name.clone());
            }
            None => without.push(key.clone()),
        }
    }
    assert_eq!(without, Vec::<String>::new(), "no test is named for these");
    // Flags that help does not show are in the table by themselves.
    let hidden = ["flag: --max-discover-threads"];
    let gone: Vec<_> = table.iter().map(|(key, _)| key).filter(|key| !used.contains(*key) && !hidden.contains(&key.as_str())).collect();
    assert!(gone.is_empty(), "no such keys: {gone:?}");
    let known = all_tests();
    let unknown: Vec<_> = table.iter().filter(|(_, test)| !known.contains(test)).collect();
    assert!(unknown.is_empty(), "no such tests: {unknown:?}");
}

#[test]
fn every_promise_has_tests_that_exist() {
    let text = fs::read_to_string("docs/guarantees.md").unwrap();
    let known = all_tests();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise"));
    let mut promises = 0;
    for row in rows {
        let shown = row.trim_end_matches('|').rsplit_once('|').unwrap().1;
        let named: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "nothing shows this: {row}");
        let unknown: Vec<_> = named.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unknown.is_empty(), "no such tests: {unknown:?}");
        promises += 1;
    }
    assert!(promises > 20, "only {promises} promises were found");
}
