//! Keys of json values beside what the server's operators and casts make of them.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::postgres::connect::{Session, session};
use crate::postgres::testing::Server;
use crate::values::samples::{damaged, hex};
use tokio_postgres::SimpleQueryMessage;

fn key(key: &str, want: Want, jsonb: bool) -> Key {
    Key { column: "doc".into(), key: key.into(), want, jsonb }
}

/// What a key comes to, as text; `None` is NULL.
fn text(json: &str, name: &str, want: Want) -> Step<Option<String>> {
    let mut scratch = Vec::new();
    Ok(match key(name, want, false).value(json.as_bytes(), false, &mut scratch)? {
        Value::Null => None,
        Value::Text(text) | Value::Binary(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
    })
}

async fn ask(session: &Session, sql: &str) -> Result<Vec<Option<String>>, String> {
    let answer = session.client.simple_query(sql).await.map_err(|e| session.error(&e).to_string())?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()),
        _ => None,
    });
    Ok(row.unwrap())
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

const DOCUMENTS: &[&str] = &[
    r#"{"k": 1}"#,
    r#"{"k":1.50,"k" : "last"}"#,
    r#"{"k": "first", "other": {"k": 3}, "K": 4}"#,
    r#" { "a" : [1,{"k":2}] , "k" : { "x" : [ 1 , 2 ] , "k":"}" } } "#,
    "{\n\t\"k\"\r\n:\t[ ]\n}",
    r#"{"k": null}"#,
    r#"{"k": true, "l": false}"#,
    r#"{"\u006b": "by its number", "é": 1}"#,
    r#"{"k": "a \"b\" \\ \/ \b\f\n\r\t \u00e9 \ud83d\ude00 é 😀"}"#,
    r#"{"k": ""}"#,
    r#"{"k": "{\"k\": 1}", "": 7}"#,
    r#"{"k": -1.5e-10}"#,
    r#"{"k": 12345678901234567890.123456789}"#,
    "{}",
    "[]",
    r#"[{"k": 1}]"#,
    r#""k""#,
    "17",
    "null",
    r#"{"it's": 1, "a b": "x"}"#,
];

#[tokio::test]
async fn keys_are_the_servers() {
    let server = Server::shared();
    let session = session(&server.options(server.unix(), "postgres")).await.unwrap();
    for document in DOCUMENTS {
        for ty in ["json", "jsonb"] {
            let stored =
                ask(&session, &format!("SELECT {}::{ty}, encode({ty}_send({}::{ty}), 'hex')", literal(document), literal(document)))
                    .await
                    .unwrap();
            let (printed, sent) = (stored[0].clone().unwrap(), hex(stored[1].as_deref().unwrap()));
            for name in ["k", "K", "é", "", "it's", "a b", "x", "nope"] {
                let (value, name_sql) = (format!("{}::{ty}", literal(document)), literal(name));
                let expected = ask(&session, &format!("SELECT {value} -> {name_sql}, {value} ->> {name_sql}")).await.unwrap();
                for (want, expected) in [(Want::Json, &expected[0]), (Want::Text, &expected[1])] {
                    assert_eq!(text(&printed, name, want).unwrap(), *expected, "{want:?} {name:?} of {printed}");
                    let mut scratch = Vec::new();
                    let binary = key(name, want, ty == "jsonb");
                    let found = match binary.value(&sent, true, &mut scratch).unwrap() {
                        Value::Null => None,
                        Value::Text(text) | Value::Binary(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
                    };
                    assert_eq!(found, *expected, "{want:?} {name:?} of {printed} in binary");
                }
            }
        }
    }
}

#[tokio::test]
async fn casts_are_the_servers() {
    let server = Server::shared();
    let session = session(&server.options(server.unix(), "postgres")).await.unwrap();
    // Values, and whether those that the server reads are all to be read here.
    let cases: &[(Cast, &str, &str, &[&str])] = &[
        (
            Cast::Number,
            "int8",
            "int8send",
            &["1", "-9223372036854775808", "\" 12 \"", "\"+5\"", "1.0", "1e3", "\"x\"", "\"\"", "9223372036854775808"],
        ),
        (Cast::Number, "float8", "float8send", &["1", "1.5e10", "-0", "\" 2.5\"", "1e-300", "\"NaN\"", "\"x\"", "0.1"]),
        (
            Cast::Numeric,
            "numeric",
            "numeric_send",
            &[
                "1",
                "-1.50",
                "1.5e3",
                "15e-4",
                "0e5",
                "1E+2",
                "\" .5 \"",
                "\"5.\"",
                "\"+7\"",
                "\"NaN\"",
                "\"nan\"",
                "\"1e\"",
                "\".\"",
                "\"\"",
                "12345678901234567890.1234567890",
                "1.23e-20",
                "\"1 2\"",
            ],
        ),
        (
            Cast::Boolean,
            "bool",
            "boolsend",
            &["true", "false", "\"t\"", "\"YES\"", "\" on \"", "\"of\"", "\"o\"", "\"n\"", "1", "0", "2", "\"tru\"", "\"truex\"", "\"\""],
        ),
        (
            Cast::Date,
            "date",
            "date_send",
            &[
                "\"2024-02-29\"",
                "\"2024-02-29T12:34:56Z\"",
                "\"2024-02-29 23:30:00-05\"",
                "\"2023-02-29\"",
                "\"infinity\"",
                "\"-Infinity\"",
                "\"2024-02-29T12:34:56.7891239+0530\"",
                "\"2024-13-01\"",
                "\"x\"",
            ],
        ),
        (
            Cast::Time,
            "time",
            "time_send",
            &[
                "\"12:34\"",
                "\"12:34:56\"",
                "\"12:34:56.7\"",
                "\"12:34:56.1234567\"",
                "\"23:59:59.9999999\"",
                "\"12:34:56+02\"",
                "\"25:00\"",
                "\"x\"",
            ],
        ),
        (
            Cast::Timestamp,
            "timestamp",
            "timestamp_send",
            &[
                "\"2024-02-29\"",
                "\"2024-02-29T12:34\"",
                "\"2024-02-29T12:34:56Z\"",
                "\"2024-02-29 12:34:56.123456789+02:00\"",
                "\"2024-02-29T12:34:59.9999999\"",
                "\"2024-02-29T12:34:56.0000005\"",
                "\"2024-02-29T12:34:56.0000015\"",
                "\"infinity\"",
                "\"2024-02-29T12:60\"",
                "\"1999-12-31T23:59:59.5\"",
            ],
        ),
        (
            Cast::Timestamptz,
            "timestamptz",
            "timestamptz_send",
            &[
                "\"2024-02-29\"",
                "\"2024-02-29T12:34:56Z\"",
                "\"2024-02-29T12:34:56.5+0530\"",
                "\"2024-02-29T12:34:56-08:00\"",
                "\"2024-02-29T12:34:56+02:30:15\"",
                "\"2024-02-29T12:34:56\"",
                "\"2024-02-29T12:34+01\"",
                "\"x\"",
            ],
        ),
        (
            Cast::Uuid,
            "uuid",
            "uuid_send",
            &[
                "\"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11\"",
                "\"{a0eebc999c0b4ef8bb6d6bb9bd380a11}\"",
                "\"a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11\"",
                "\"a0eebc99\"",
                "\"a0e-ebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"",
            ],
        ),
    ];
    let mut read = 0;
    for (to, ty, send, values) in cases {
        for value in *values {
            let document = format!("{{\"k\": {value}}}");
            let sql = format!("SELECT encode({send}(({}::json ->> 'k')::{ty}), 'hex')", literal(&document));
            let mut scratch = Vec::new();
            let found = key("k", Want::Cast(*to), false).value(document.as_bytes(), false, &mut scratch);
            let found = match found {
                Ok(Value::Text(text)) => {
                    let text = String::from_utf8(text.to_vec()).unwrap();
                    // A column reads whole numbers and floats, and refuses what is none.
                    ask(&session, &format!("SELECT encode({send}({}::{ty}), 'hex')", literal(&text)))
                        .await
                        .ok()
                        .map(|row| row[0].clone().unwrap())
                }
                Ok(Value::Binary(bytes)) => Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
                Ok(Value::Null) => panic!("{value} is NULL"),
                Err(_) => None,
            };
            let expected = ask(&session, &sql).await.ok().map(|row| row[0].clone().unwrap());
            assert_eq!(found, expected, "{value} as {ty}");
            read += usize::from(expected.is_some());
        }
    }
    assert!(read > 50, "{read}");
}

#[test]
fn what_is_no_text_is_an_error() {
    for document in [
        r#"{"k": "\u0000"}"#,
        r#"{"k": "\ud800"}"#,
        r#"{"k": "\ud800x"}"#,
        r#"{"k": "\udc00"}"#,
        r#"{"k" 1}"#,
        r#"{"k": 1"#,
        r#"{"k": "#,
        r#"{"k": "x"#,
        "{k: 1}",
        r#"{"k": [1}"#,
    ] {
        assert!(text(document, "k", Want::Text).is_err(), "{document}");
    }
    assert!(key("k", Want::Text, true).value(b"\x02{}", true, &mut Vec::new()).is_err());
    assert!(key("k", Want::Text, true).value(b"", true, &mut Vec::new()).is_err());
}

#[test]
fn depth_and_damage_are_no_matter() {
    let deep = format!("{{\"a\": {}{}, \"k\": 5}}", "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(text(&deep, "k", Want::Text).unwrap().as_deref(), Some("5"));
    for document in DOCUMENTS {
        damaged(document.as_bytes(), |field| {
            for want in [Want::Json, Want::Text, Want::Cast(Cast::Timestamp), Want::Cast(Cast::Numeric), Want::Cast(Cast::Uuid)] {
                let _ = key("k", want, true).value(field, false, &mut Vec::new());
            }
        });
    }
}
