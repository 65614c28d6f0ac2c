//! Databases that only an SSH server can reach: a real OpenSSH stands between. What arrives is the same, and what goes wrong
//! says where.

use crate::support::lakeward::{Job, Outcome, exit};
use crate::support::postgres::{Database, PASSWORD, Server};
use crate::support::proxy::Proxy;
use crate::support::readback::assert_same;
use crate::support::ssh::{self, Bastion, PasswordBastion, user};
use crate::support::{free_port, wait_until};
use russh::MethodKind;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

const ROWS: u64 = 40_000;
const CHECK: [&str; 3] = ["check", "--config", "source.json"];

/// A table of eight leaves, 12 MB on the wire.
fn leaves(database: &Database) {
    database.sql(&format!(
        "CREATE TABLE t (id int NOT NULL, x text) PARTITION BY RANGE (id);
         SELECT format('CREATE TABLE leaf_%s PARTITION OF t FOR VALUES FROM (%s) TO (%s)', k, k * 5000, (k + 1) * 5000) FROM generate_series(0, 7) k \\gexec
         INSERT INTO t SELECT i, repeat(md5(i::text), 9) FROM generate_series(0, {ROWS} - 1) i; CHECKPOINT"
    ));
}

/// A job through an SSH server.
fn job(database: &Database, ssh: &Value) -> Job {
    let job = Job::new(database);
    job.write("source.json", &database.source_tcp("postgres", PASSWORD));
    job.edit("source.json", |source| {
        source["host"] = json!("localhost");
        source["ssh_config"] = ssh.clone();
    });
    job
}

fn set(job: &Job, key: &str, value: Value) {
    job.edit("source.json", |source| source["ssh_config"][key] = value);
}

/// Everything that a run has said and left, without any of these.
#[track_caller]
fn assert_secret(outcome: &Outcome, secrets: &[&str]) {
    for secret in secrets {
        assert!(!outcome.stderr.contains(secret) && !outcome.stdout.contains(secret), "{secret:?} is shown:\n{}", outcome.stderr);
    }
}

fn staged(job: &Job) -> bool {
    std::fs::read_to_string(job.path("state.json")).is_ok_and(|state| state.matches("\"part\"").count() >= 3)
}

#[test]
fn what_comes_through_a_tunnel_is_what_is_there() {
    let database = Server::shared().database("tunnel");
    leaves(&database);
    // New keys with every MiB, which else come after a GiB.
    let Some(bastion) = Bastion::start("RekeyLimit 1M") else { return };
    let job = job(&database, &bastion.config());
    job.edit("source.json", |source| {
        source.as_object_mut().expect("an object").remove("host");
        // The first is not there, as the SSH server finds out.
        source["hosts"] = json!([format!("localhost:{}", free_port()), format!("localhost:{}", database.port)]);
        source["max_threads"] = json!(4);
    });
    job.run(&CHECK).succeeded();
    assert_eq!(bastion.logins(), 1, "{}", bastion.log());
    job.discover();
    assert_eq!(bastion.logins(), 2, "{}", bastion.log());
    job.select(&["public.t"]);
    let outcome = job.sync().succeeded();
    assert!(!outcome.stderr.contains("verified"), "{}", outcome.stderr);
    assert_eq!(assert_same(&job, &database, "public.t").rows, ROWS);
    // One for all ordinary sessions, one for each of three readers.
    assert!((3..=6).contains(&bastion.logins()), "{}", bastion.log());
    job.assert_no_leftovers();
}

#[test]
fn keys_of_every_kind_open_it() {
    let database = Server::shared().database("keys");
    let Some(bastion) = Bastion::start("") else { return };
    let job = job(&database, &bastion.config());
    let text = |path: &std::path::Path| std::fs::read_to_string(path).expect("read a key");
    for (name, options) in [("rsa", &["-t", "rsa", "-b", "3072"][..]), ("ecdsa", &["-t", "ecdsa"]), ("pem", &["-t", "rsa", "-m", "PEM"])] {
        let path = bastion.key(name, options, "");
        bastion.let_in(name);
        set(&job, "private_key", json!(path));
        job.run(&CHECK).succeeded();
        set(&job, "private_key", json!(text(&path)));
        job.run(&CHECK).succeeded();
    }
    let path = bastion.key("locked", &["-t", "ed25519"], "open sesame");
    bastion.let_in("locked");
    set(&job, "private_key", json!(path));
    job.run(&CHECK).failed(exit::CONFIG, &["ssh_config.passphrase", "the private key is encrypted"]);
    set(&job, "passphrase", json!("wrong sesame"));
    assert_secret(&job.run(&CHECK).failed(exit::CONFIG, &["does not open the private key"]), &["wrong sesame"]);
    set(&job, "passphrase", json!("open sesame"));
    assert_secret(&job.run(&CHECK).succeeded(), &["open sesame"]);

    let path = bastion.key("stranger", &["-t", "ed25519"], "");
    set(&job, "private_key", json!(path));
    let outcome = job.run(&CHECK).failed(
        exit::SOURCE,
        &[
            "open the SSH tunnel through",
            "does not let the user",
            &user(),
            "publickey with ssh-ed25519 SHA256:",
            "it takes publickey",
            "authorized_keys",
        ],
    );
    job.edit("source.json", |source| {
        let ssh = source["ssh_config"].as_object_mut().expect("an object");
        ssh.remove("private_key");
        ssh.insert("password".to_owned(), json!("no sesame"));
    });
    assert_secret(&job.run(&CHECK).failed(exit::SOURCE, &["tried password; it takes publickey", "takes no password"]), &["no sesame"]);
    let secret = text(&path);
    assert_secret(&outcome, &[secret.lines().nth(2).expect("a line")]);
    assert_eq!(outcome.messages().last().expect("a message")["connectionStatus"]["status"], "FAILED");
}

#[test]
fn a_server_with_another_host_key_is_refused() {
    let database = Server::shared().database("hostkey");
    let Some(bastion) = Bastion::start("") else { return };
    let Some(other) = Bastion::start("") else { return };
    let job = job(&database, &bastion.config());
    let found = bastion.fingerprint("ed25519");
    for pinned in [other.host_key("ed25519"), other.fingerprint("ed25519"), other.host_key("rsa")] {
        set(&job, "host_key", json!(pinned));
        // Where an RSA key is pinned, the server is asked for its RSA key.
        let found = if pinned.contains("ssh-rsa") { bastion.fingerprint("rsa") } else { found.clone() };
        let words = ["open the SSH tunnel", "the host key of the SSH server", &found, "does not accept", "\"host_key\": "];
        job.run(&CHECK).failed(exit::SOURCE, &words);
    }
    assert_eq!(bastion.logins(), 0, "{}", bastion.log());
    let known = job.path("known hosts");
    let line = |key: String| format!("[127.0.0.1]:{} {key}\n", bastion.port);
    let silent = |outcome: Outcome| assert!(!outcome.stderr.contains("host_key"), "{}", outcome.stderr);
    for pinned in [bastion.host_key("ed25519"), found.clone(), bastion.host_key("rsa")] {
        set(&job, "host_key", json!(pinned));
        silent(job.run(&CHECK).succeeded());
    }
    set(&job, "host_key", Value::Null);
    for kind in ["ed25519", "rsa"] {
        std::fs::write(&known, line(bastion.host_key(kind))).expect("write known_hosts");
        set(&job, "known_hosts", json!(known));
        silent(job.run(&CHECK).succeeded());
        set(&job, "known_hosts", json!(line(bastion.host_key(kind))));
        silent(job.run(&CHECK).succeeded());
    }
    set(&job, "known_hosts", json!(line(other.host_key("ed25519"))));
    job.run(&CHECK).failed(exit::SOURCE, &[&found, "does not accept"]);
    set(&job, "known_hosts", json!(format!("elsewhere {}", bastion.host_key("ed25519"))));
    job.run(&CHECK)
        .failed(exit::CONFIG, &["ssh_config.known_hosts", "holds no key", &format!("ssh-keyscan -p {} 127.0.0.1", bastion.port)]);
    // OLake looks at no key. We say so, once, and how to change it.
    set(&job, "known_hosts", Value::Null);
    database.sql("CREATE TABLE t AS SELECT generate_series(1, 10) a");
    job.discover();
    let outcome = job.sync().succeeded();
    assert_eq!(outcome.stderr.matches(&format!("\"host_key\": \"{found}\"")).count(), 1, "{}", outcome.stderr);
}

#[test]
fn what_the_ssh_server_cannot_do_is_told_apart() {
    let database = Server::shared().database("refusals");
    let Some(strict) = Bastion::start("AllowTcpForwarding no") else { return };
    let Some(bastion) = Bastion::start("") else { return };
    let job = job(&database, &strict.config());
    let to = format!("localhost:{}", database.port);
    job.run(&CHECK).failed(
        exit::SOURCE,
        &["connect to", "refuses to forward connections to", &to, "administratively prohibited", "AllowTcpForwarding"],
    );

    job.edit("source.json", |source| source["ssh_config"] = bastion.config());
    let nobody = free_port();
    job.edit("source.json", |source| source["port"] = json!(nobody));
    job.run(&CHECK).failed(
        exit::SOURCE,
        &[&format!("the SSH server cannot reach localhost:{nobody} (Connection refused)"), "as the SSH server sees them"],
    );
    job.edit("source.json", |source| source["host"] = json!("no.such.host.invalid"));
    job.run(&CHECK).failed(exit::SOURCE, &["the SSH server cannot reach no.such.host.invalid:"]);
    job.edit("source.json", |source| {
        source["host"] = json!("localhost");
        source["port"] = json!(database.port);
        source["password"] = json!("wrong");
    });
    job.run(&CHECK).failed(exit::SOURCE, &["connect to localhost:", "password authentication failed"]);

    set(&job, "port", json!(nobody));
    job.run(&CHECK)
        .failed(exit::SOURCE, &["open the SSH tunnel through", "cannot be reached: the connection was refused", "ssh_config.port"]);
    set(&job, "host", json!("no.such.host.invalid"));
    job.run(&CHECK).failed(exit::SOURCE, &["the name of the SSH server cannot be resolved", "ssh_config.host"]);
    // Somebody who takes connections and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    set(&job, "host", json!("127.0.0.1"));
    set(&job, "port", json!(listener.local_addr().expect("an address").port()));
    job.edit("source.json", |source| source["connect_timeout_s"] = json!(1));
    job.run(&CHECK).failed(exit::SOURCE, &["the SSH server has not let us in within 1s", "connect_timeout_s"]);
    // A socket is on this machine, and the tunnel leads to another one.
    job.edit("source.json", |source| source["host"] = json!(database.home));
    job.run(&CHECK).failed(exit::CONFIG, &["`host`", "Unix socket beside `ssh_config`"]);
}

#[test]
fn a_password_opens_it_by_either_method() {
    let database = Server::shared().database("password");
    for method in [MethodKind::Password, MethodKind::KeyboardInteractive] {
        let bastion = PasswordBastion::start(method);
        let job = job(&database, &bastion.config());
        assert_secret(&job.run(&CHECK).succeeded(), &[ssh::PASSWORD]);
        set(&job, "password", json!("wrong words"));
        let outcome =
            job.run(&CHECK).failed(exit::SOURCE, &["does not let the user ann in", "tried ", <&str>::from(&method), "ssh_config.password"]);
        assert_secret(&outcome, &["wrong words"]);
    }
}

#[test]
fn a_bastion_that_dies_in_the_middle() {
    let database = Server::shared().database("dies");
    leaves(&database);
    let Some(mut bastion) = Bastion::start("") else { return };
    let job = job(&database, &bastion.config());
    job.discover();
    job.select(&["public.t"]);
    job.edit("source.json", |source| source["rate_limit"] = json!({"rows_per_second": 10_000}));
    let mut dies = |retries: u32| {
        let _ = std::fs::remove_file(job.path("state.json"));
        job.edit("source.json", |source| source["retry_count"] = json!(retries));
        let run = job.start(&Job::SYNC);
        wait_until("some chunks are staged", 60, || staged(&job));
        bastion.kill();
        std::thread::sleep(Duration::from_millis(500));
        bastion.start_again();
        run.finish()
    };
    let outcome = dies(4).succeeded();
    assert!(outcome.stderr.contains("the SSH tunnel was lost"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("attempt 1 of 4"), "{}", outcome.stderr);
    assert_eq!(assert_same(&job, &database, "public.t").rows, ROWS);
    dies(0).failed(exit::SOURCE, &["--state"]);
    job.resume().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, ROWS);
    job.assert_no_leftovers();
}

/// Nothing comes from the SSH server, and nothing says that it is gone.
#[test]
fn a_bastion_that_falls_silent() {
    let database = Server::shared().database("silence");
    leaves(&database);
    let Some(bastion) = Bastion::start("") else { return };
    let proxy = Proxy::start(bastion.port);
    let job = job(&database, &bastion.config());
    set(&job, "port", json!(proxy.port));
    job.discover();
    job.select(&["public.t"]);
    job.edit("source.json", |source| {
        source["rate_limit"] = json!({"rows_per_second": 10_000});
        source["jdbc_url_params"] = json!({"keepalives_idle": "2", "keepalives_interval": "1", "keepalives_count": "2"});
        source["retry_count"] = json!(2);
    });
    let run = job.start(&Job::SYNC);
    wait_until("some chunks are staged", 60, || staged(&job));
    proxy.cut();
    let cut = Instant::now();
    let outcome = run.finish().succeeded();
    assert!(cut.elapsed() < Duration::from_secs(40), "{:?}: {}", cut.elapsed(), outcome.stderr);
    assert_eq!(assert_same(&job, &database, "public.t").rows, ROWS);
}

/// Readers that wait for memory do not keep bytes from those that have it.
#[test]
fn readers_that_wait_for_each_other() {
    let database = Server::shared().database("waiting");
    let Some(bastion) = Bastion::start("") else { return };
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        database.sql(&format!(
            "CREATE TABLE {name} (id int, x text); ALTER TABLE {name} ALTER x SET STORAGE EXTERNAL;
             INSERT INTO {name} SELECT i, repeat(md5(i::text), 100000) FROM generate_series(1, 10) i"
        ));
    }
    let job = job(&database, &bastion.config());
    job.edit("source.json", |source| source["max_threads"] = json!(7));
    job.discover();
    let mut arguments = Job::SYNC.to_vec();
    arguments.extend(["--memory-limit", "128MiB"]);
    let mut run = job.start(&arguments);
    wait_until("the run is over", 240, || run.is_over());
    run.finish().succeeded();
    for name in names {
        assert_eq!(assert_same(&job, &database, &format!("public.{name}")).rows, 10);
    }
}

/// The certificate is compared with the name of the database, not of the SSH server.
#[test]
fn tls_inside_the_tunnel() {
    let server = Server::own();
    let database = server.database("tls");
    let Some(bastion) = Bastion::start("") else { return };
    let (key, cert) = (database.home.join("server.key"), database.home.join("server.crt"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=db",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]);
    assert!(openssl.arg("-keyout").arg(&key).arg("-out").arg(&cert).output().expect("run openssl").status.success());
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&database.home).expect("the server's home"));
    std::os::unix::fs::chown(&key, Some(owner), None).expect("give the key to the server");
    for (name, path) in [("ssl_key_file", &key), ("ssl_cert_file", &cert)] {
        database.sql(&format!("ALTER SYSTEM SET {name} = '{}'", path.display()));
    }
    database.sql("ALTER SYSTEM SET ssl = on");
    server.control("restart -m fast");
    let job = job(&database, &bastion.config());
    job.edit("source.json", |source| source["ssl"] = json!({"mode": "verify-full", "server_ca": cert}));
    job.run(&CHECK).succeeded();
    database.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) a");
    job.discover();
    job.sync().succeeded();
    assert_eq!(assert_same(&job, &database, "public.t").rows, 1000);
    job.edit("source.json", |source| source["host"] = json!("127.0.0.1"));
    job.run(&CHECK).failed(exit::SOURCE, &["the server's certificate is for another name"]);
}
