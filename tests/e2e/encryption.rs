//! Source and destination files encrypted as OLake does it, with a text or with a key in AWS KMS.

use crate::support::free_port;
use crate::support::lakeward::{Job, Outcome, exit, files_under};
use crate::support::moto::{ACCESS_KEY, Moto, SECRET_KEY};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_same, python};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

/// The key, and something in the files that only a decrypted file shows.
const KEY: &str = "correct horse battery staple";
const PLANTED: &str = "hunter2";

/// Runs with a key in the environment.
fn run_with(job: &Job, key: &str, arguments: &[&str]) -> Outcome {
    finish(job.command(arguments).env("LAKEWARD_ENCRYPTION_KEY", key))
}

fn finish(command: &mut Command) -> Outcome {
    let outcome = Outcome::from(command.output().expect("run lakeward"));
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(!text.contains(KEY) && !text.contains(PLANTED), "a secret is in the output: {text}");
    }
    outcome
}

fn orders() -> Database {
    let database = Server::shared().database("encrypted");
    database.sql(
        "CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders SELECT i, md5(i::text) FROM generate_series(1, 1000) i",
    );
    database
}

/// A job whose source and destination hold what nobody is to see.
fn job(database: &Database) -> Job {
    let job = Job::new(database);
    job.edit("source.json", |source| source["password"] = json!(PLANTED));
    job
}

/// Replaces the file of a flag by what `encrypt` makes of it.
fn encrypt(job: &Job, key: &str, flag: &str, name: &str) {
    let encrypted = run_with(job, key, &["encrypt", flag, name]).succeeded().stdout;
    let text: String = serde_json::from_str(&encrypted).expect("a JSON string");
    assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)), "{text}");
    std::fs::write(job.path(name), encrypted).expect("write the encrypted file");
}

#[test]
fn encrypted_files_are_used_like_plain_ones() {
    let database = orders();
    let job = job(&database);
    encrypt(&job, KEY, "--config", "source.json");
    encrypt(&job, KEY, "--destination", "destination.json");
    run_with(&job, KEY, &["check", "--config", "source.json"]).succeeded();
    run_with(&job, KEY, &["check", "--destination", "destination.json"]).succeeded();
    // The flag goes before the environment.
    finish(job.command(&["discover", "--config", "source.json", "--encryption-key", KEY]).env("LAKEWARD_ENCRYPTION_KEY", "another"))
        .succeeded();
    job.edit("streams.json", |file| file["streams"][0]["stream"]["sync_mode"] = json!("full_refresh"));
    run_with(&job, KEY, &Job::SYNC).succeeded();
    assert_eq!(assert_same(&job, &database, "public.orders").rows, 1000);
    run_with(&job, KEY, &Job::RESUME).succeeded();
    let preview = ["preview", "--destination", "destination.json", "--streams", "streams.json"];
    assert!(run_with(&job, KEY, &preview).succeeded().stdout.contains("note"));
    run_with(&job, KEY, &["clear-destination", "--destination", "destination.json", "--streams", "streams.json"]).succeeded();
    for path in files_under(&job.path("")) {
        let bytes = std::fs::read(&path).expect("read a file of the job");
        let has = |secret: &str| bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
        assert!(!has(KEY) && !has(PLANTED), "{} holds a secret", path.display());
    }
}

/// A text with another length and another shape: YAML, with something from the environment in it.
#[test]
fn what_is_decrypted_is_read_like_a_file() {
    let database = orders();
    let job = job(&database);
    let text = format!("host: {}\nport: {}\ndatabase: ${{NAME}}\nusername: postgres\n", database.home.display(), database.port);
    std::fs::write(job.path("source.yaml"), text).expect("write source.yaml");
    encrypt(&job, KEY, "--config", "source.yaml");
    let check =
        |name: &str| finish(job.command(&["check", "--config", "source.yaml"]).env("LAKEWARD_ENCRYPTION_KEY", KEY).env("NAME", name));
    check(&database.name).succeeded();
    check("nowhere").failed(exit::SOURCE, &["nowhere"]);
    run_with(&job, KEY, &["check", "--config", "source.yaml"]).failed(exit::CONFIG, &["source.yaml", "`database`", "NAME"]);

    std::fs::write(job.path("typo.json"), r#"{"host": "h", "pasword": "hunter2"}"#).expect("write typo.json");
    encrypt(&job, KEY, "--config", "typo.json");
    run_with(&job, KEY, &["check", "--config", "typo.json"]).failed(exit::CONFIG, &["typo.json", "pasword", "did you mean"]);
}

#[test]
fn mistakes_are_explained() {
    let job = job(&orders());
    let source = std::fs::read_to_string(job.path("source.json")).expect("read source.json");
    encrypt(&job, KEY, "--config", "source.json");
    let encrypted = job.read("source.json").as_str().expect("a string").to_owned();
    let check = |key: &str, content: &str, words: &[&str]| {
        std::fs::write(job.path("source.json"), content).expect("write source.json");
        let outcome = run_with(&job, key, &["check", "--config", "source.json", "--config-only"]).failed(exit::CONFIG, &["source.json"]);
        let status = outcome.messages().pop().expect("a message");
        assert_eq!(status["connectionStatus"]["status"], "FAILED");
        outcome.failed(exit::CONFIG, words).failed(exit::CONFIG, &["what to do"]);
    };
    let quoted = format!("\"{encrypted}\"");
    check(KEY, &source, &["not encrypted", "--encryption-key", "LAKEWARD_ENCRYPTION_KEY"]);
    for none in ["", "  "] {
        check(none, &quoted, &["encrypted", "no key", "--encryption-key", "LAKEWARD_ENCRYPTION_KEY"]);
    }
    check("wrong", &quoted, &["another key", "damaged"]);
    check(&format!("{KEY}\n"), &quoted, &["another key", "line end"]);
    check(KEY, &quoted.replacen(&encrypted[20..24], "AAAA", 1), &["another key", "damaged"]);
    check(KEY, &format!("\"{}\"", &encrypted[..32]), &["too short", "28"]);
    check(KEY, "\"not base64!\"", &["not base64", "lakeward encrypt"]);
    check("arn:aws:kms:eu-west-1", &quoted, &["KMS", "arn:aws:kms:REGION:ACCOUNT:key/ID"]);

    // What only another program, or a careless one, would encrypt: made here by a third hand.
    let sealed = |text: &[u8]| {
        let script = "
import base64, hashlib, json, os, sys
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
job = json.load(sys.stdin)
nonce = os.urandom(12)
sealed = AESGCM(hashlib.sha256(job['key'].encode()).digest()).encrypt(nonce, bytes(job['text']), None)
print(json.dumps(base64.b64encode(nonce + sealed).decode()))";
        python(script, &json!({"key": KEY, "text": text})).to_string()
    };
    check(KEY, &sealed(b"{\"password\": \"hunter2\xff\"}"), &["not UTF-8", "lakeward encrypt"]);
    check(KEY, &sealed(quoted.as_bytes()), &["single string", "twice"]);
    std::fs::write(job.path("source.json"), sealed(b"{\"password\": \"hunter2\" \"port\": 1}")).expect("write source.json");
    run_with(&job, KEY, &["check", "--config", "source.json"]).failed(exit::CONFIG, &["source.json", "line 1, column 24"]);
    std::fs::write(job.path("source.json"), sealed(b" \n")).expect("write source.json");
    run_with(&job, KEY, &["check", "--config", "source.json"]).failed(exit::CONFIG, &["source.json", "empty"]);

    // A blank key means none.
    std::fs::write(job.path("source.json"), &source).expect("write source.json");
    run_with(&job, " ", &["check", "--config", "source.json", "--config-only"]).succeeded();
}

#[test]
fn what_encrypt_does_not_take() {
    let job = job(&orders());
    let check = |key: &str, arguments: &[&str], words: &[&str]| {
        let outcome = run_with(&job, key, arguments).failed(exit::CONFIG, words);
        assert_eq!(outcome.stdout, "");
    };
    check(KEY, &["encrypt"], &["one file", "--config or --destination"]);
    check(KEY, &["encrypt", "--config", "source.json", "--destination", "destination.json"], &["one file"]);
    check("", &["encrypt", "--config", "source.json"], &["--encryption-key is missing"]);
    check(KEY, &["encrypt", "--config", "destination.json"], &["looks like a destination file"]);
    check(KEY, &["encrypt", "--config", "nowhere.json"], &["nowhere.json", "no such file"]);
    encrypt(&job, KEY, "--config", "source.json");
    check(KEY, &["encrypt", "--config", "source.json"], &["encrypted already"]);
    let help = job.run(&["--help"]).succeeded().stdout;
    assert!(help.contains("--encryption-key") && help.contains("LAKEWARD_ENCRYPTION_KEY"), "{help}");
    assert!(!run_with(&job, KEY, &["--help"]).succeeded().stdout.contains(KEY));
}

#[test]
fn a_key_in_kms() {
    let moto = Moto::start();
    let database = orders();
    let job = job(&database);
    let made = moto.ask(
        "kms = client('kms')
arns = [kms.create_key()['KeyMetadata']['Arn'] for _ in range(2)]
kms.create_alias(AliasName='alias/lake', TargetKeyId=arns[0])
blob = lambda text: base64.b64encode(kms.encrypt(KeyId=arns[0], Plaintext=text.encode())['CiphertextBlob']).decode()
answer = {'arns': arns, 'source': blob(job['source']), 'bytes': blob('x')}",
        &json!({"source": job.read("source.json").to_string()}),
    );
    let arn = |index: usize| made["arns"][index].as_str().expect("an ARN").to_owned();
    // The region is the key's, whatever the machine's is.
    let run = |key: &str, arguments: &[&str]| {
        finish(moto.serve(&mut job.command(arguments)).env("AWS_REGION", "us-west-2").env("LAKEWARD_ENCRYPTION_KEY", key))
    };
    let alias = arn(0).replace(&arn(0)[arn(0).find("key/").expect("key/")..], "alias/lake");

    // One file encrypted by AWS's own client, one by ours.
    job.write("source.json", &made["source"]);
    let encrypted = run(&arn(0), &["encrypt", "--destination", "destination.json"]).succeeded().stdout;
    std::fs::write(job.path("destination.json"), encrypted).expect("write the encrypted file");
    run(&arn(0), &["discover", "--config", "source.json"]).succeeded();
    job.edit("streams.json", |file| file["streams"][0]["stream"]["sync_mode"] = json!("full_refresh"));
    run(&arn(0), &Job::SYNC).succeeded();
    assert_eq!(assert_same(&job, &database, "public.orders").rows, 1000);
    let check = ["check", "--config", "source.json", "--config-only"];
    run(&alias, &check).succeeded();

    // KMS would find the right key by itself; the one that was named is meant.
    run(&arn(1), &check).failed(exit::CONFIG, &["source.json", "AWS KMS refused kms:Decrypt", "another key"]);
    let unknown = arn(0).replace(&arn(0)[arn(0).find("key/").expect("key/")..], "key/00000000-0000-0000-0000-000000000000");
    run(&unknown, &check).failed(exit::CONFIG, &["source.json", "NotFoundException", "there is no key"]);
    run(KEY, &check).failed(exit::CONFIG, &["source.json", "another key"]);
    job.write("source.json", &json!("bm90IGZyb20gS01TIGJ1dCBsb25nIGVub3VnaA=="));
    run(&arn(0), &check).failed(exit::CONFIG, &["source.json", "InvalidCiphertextException", "not encrypted by KMS"]);
    job.write("source.json", &made["bytes"]);
    run(&arn(0), &check).failed(exit::CONFIG, &["source.json", "single string"]);
    job.write("large.json", &json!({"host": "h", "password": PLANTED.repeat(1000)}));
    run(&arn(0), &["encrypt", "--config", "large.json"]).failed(exit::CONFIG, &["large.json", "4096", "text as key"]);

    // Nobody there, and nobody to ask as.
    job.write("source.json", &made["source"]);
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let key = arn(0);
    let mut command = job.command(&check);
    moto.serve(&mut command).env("AWS_ENDPOINT_URL_KMS", nowhere).env("LAKEWARD_ENCRYPTION_KEY", &key);
    finish(&mut command)
        .failed(exit::CONFIG, &["source.json", "AWS KMS in eu-west-1 cannot be reached", "refused", "AWS_ENDPOINT_URL_KMS"]);
    let mut command = job.command(&check);
    command.env("AWS_ENDPOINT_URL", moto.endpoint()).env("LAKEWARD_ENCRYPTION_KEY", &key).env("HOME", job.path(""));
    finish(&mut command).failed(exit::CONFIG, &["source.json", "no AWS credentials", "AWS_ACCESS_KEY_ID"]);
}

/// Answers every request with one and the same, as long as the process lives. Gives the address.
fn always(status: &str, body: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = format!("http://{}", listener.local_addr().expect("the address"));
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut request = Vec::new();
            // The body is JSON without a line end, and ends with its brace.
            while !request.ends_with(b"}") {
                let mut some = [0; 4096];
                match socket.read(&mut some) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => request.extend_from_slice(&some[..n]),
                }
            }
            let _ = socket.write_all(answer.as_bytes());
        }
    });
    address
}

/// What moto does not say: answers in the form of the KMS API Reference, and one of something else on the way.
#[test]
fn a_no_of_kms_is_explained() {
    let job = job(&orders());
    job.write("source.json", &json!("bm90IGZyb20gS01TIGJ1dCBsb25nIGVub3VnaA=="));
    let arn = "arn:aws:kms:eu-west-1:111122223333:key/1234";
    let check = |status: &str, body: &str, words: &[&str]| {
        let mut command = job.command(&["check", "--config", "source.json", "--config-only"]);
        command.env("AWS_ENDPOINT_URL_KMS", always(status, body)).env("LAKEWARD_ENCRYPTION_KEY", arn);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        let outcome = finish(&mut command).failed(exit::CONFIG, &["source.json"]).failed(exit::CONFIG, words);
        assert!(!outcome.stderr.contains(SECRET_KEY), "{}", outcome.stderr);
    };
    check(
        "400 Bad Request",
        r#"{"__type":"AccessDeniedException","Message":"User: arn:aws:iam::1:user/ann is not authorized to perform: kms:Decrypt"}"#,
        &["AWS KMS refused kms:Decrypt", "user/ann is not authorized", &format!("allow kms:Decrypt on {arn}")],
    );
    check(
        "400 Bad Request",
        r#"{"__type":"IncorrectKeyException","message":"The key ID in the request does not identify a CMK that can perform this operation."}"#,
        &["IncorrectKeyException", "the key that the file was encrypted with"],
    );
    check(
        "400 Bad Request",
        r#"{"__type":"com.amazonaws.kms#DisabledException","message":"it is disabled"}"#,
        &["DisabledException", &format!("enable {arn}")],
    );
    check(
        "400 Bad Request",
        r#"{"__type":"UnrecognizedClientException","message":"The security token included in the request is invalid."}"#,
        &["UnrecognizedClientException", "AWS_ACCESS_KEY_ID"],
    );
    check("403 Forbidden", "<html>the proxy says no</html>", &["cannot be reached", "not KMS (HTTP status 403)"]);
}
