//! `stats.json`: OLake's keys in OLake's forms, while a run goes on, at its end and after a failure.

use crate::support::lakeward::{Job, exit};
use crate::support::postgres::Server;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Panics unless every key of OLake's is there, in its form.
#[track_caller]
fn check(stats: &Value) {
    let keys: Vec<&str> = stats.as_object().expect("an object").keys().map(String::as_str).collect();
    let expected = [
        "Writer Threads",
        "Synced Records",
        "Bytes Read",
        "Speed",
        "Seconds Elapsed",
        "Estimated Remaining Time",
        "Memory Usage Bytes",
        "CPU Utilization",
        "streams",
    ];
    assert_eq!(keys, expected);
    for key in ["Writer Threads", "Synced Records", "Bytes Read", "Memory Usage Bytes"] {
        assert!(stats[key].is_u64(), "{key}: {stats}");
    }
    for (key, unit) in [("Speed", " rps"), ("Seconds Elapsed", ""), ("Estimated Remaining Time", " s")] {
        let text = stats[key].as_str().unwrap_or_else(|| panic!("{key}: {stats}"));
        let number = text.strip_suffix(unit).and_then(|number| number.split_once('.'));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let fits = number.is_some_and(|(whole, part)| digits(whole) && digits(part) && part.len() == 2);
        assert!(fits || (key == "Estimated Remaining Time" && text == "Not Determined"), "{key}: {text:?}");
    }
    let cpu = &stats["CPU Utilization"];
    let share = cpu.as_f64().unwrap_or_else(|| panic!("CPU Utilization: {stats}"));
    let decimals = cpu.to_string().split_once('.').map_or(0, |(_, decimals)| decimals.len());
    assert!((0.0..=1.0).contains(&share) && decimals <= 4, "{cpu}");
    assert!(stats["streams"].is_array(), "{stats}");
}

fn number(stats: &Value, key: &str) -> f64 {
    let value = &stats[key];
    value.as_f64().or_else(|| value.as_str()?.split(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{key}: {stats}"))
}

#[test]
fn it_grows_with_the_run_and_is_complete_at_the_end() {
    let database = Server::shared().database("stats");
    database.sql("CREATE TABLE t AS SELECT i, repeat(md5(i::text), 8) AS x FROM generate_series(1, 12000) i; ANALYZE");
    let job = Job::new(&database);
    job.discover();
    job.edit("source.json", |source| source["rate_limit"] = json!({"rows_per_second": 1800}));
    // Rows are counted when their batch is complete.
    let mut running = job.start(&[&Job::SYNC[..], &["--destination-buffer-size", "200"]].concat());
    let mut seen: Vec<Value> = Vec::new();
    let end = Instant::now() + Duration::from_secs(120);
    while !running.is_over() {
        assert!(Instant::now() < end, "the run does not end");
        // A file that is replaced in one step is there or not, and never half of it.
        if let Ok(text) = std::fs::read_to_string(job.path("stats.json")) {
            let stats: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            if seen.last() != Some(&stats) {
                check(&stats);
                seen.push(stats);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    running.finish().succeeded();
    assert!(seen.len() >= 3, "rewritten too seldom: {seen:#?}");
    for two in seen.windows(2) {
        for key in ["Synced Records", "Bytes Read", "Seconds Elapsed"] {
            assert!(number(&two[0], key) <= number(&two[1], key), "{key} shrinks: {two:#?}");
        }
    }
    let early = &seen[0];
    assert!((1000.0..12_000.0).contains(&number(early, "Synced Records")), "{early}");
    assert!(number(early, "Estimated Remaining Time") > 0.5, "{early}");
    assert!(number(early, "CPU Utilization") > 0.0, "{early}");
    assert!(number(&seen[1], "Synced Records") > number(early, "Synced Records"), "{seen:#?}");

    let last = job.read("stats.json");
    check(&last);
    assert_eq!(last["Synced Records"], 12_000);
    assert_eq!(last["Estimated Remaining Time"], "0.00 s");
    assert!((900.0..2500.0).contains(&number(&last, "Speed")), "{last}");
    assert_eq!((&last["streams"][0]["status"], &last["streams"][0]["rows"]), (&json!("done"), &json!(12_000)));
}

#[test]
fn it_is_complete_after_a_failure() {
    let database = Server::shared().database("statsfail");
    database.sql("CREATE VIEW v AS SELECT i, 10 / (i - 500) AS x FROM generate_series(1, 1000) i; CREATE TABLE t AS SELECT 1 AS i");
    let job = Job::new(&database);
    job.edit("source.json", |source| source["include_views"] = json!(true));
    job.discover();
    job.sync().failed(exit::SOURCE, &["public.v", "division by zero"]);
    let stats = job.read("stats.json");
    check(&stats);
    let failed = stats["streams"].as_array().expect("streams").iter().find(|stream| stream["stream"] == "public.v").expect("the view");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("division by zero")), "{failed}");
}
