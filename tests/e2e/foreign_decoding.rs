//! Scenarios of logical decoding that PostgreSQL's own tests play: scripts of one session, and sessions that go on beside one another in every order
//! that once found a fault of the server. What they read from a slot is read by a run here; in the end the destination has what the database has.
//!
//! The scenarios are not kept here: `LAKEWARD_POSTGRES_SOURCE` names PostgreSQL's source, `./build.sh foreign` fetches what is needed of it.

use super::capture;
use crate::support::lakeward::{Job, Outcome, Running, exit};
use crate::support::postgres::{Database, Server};
use crate::support::readback::{assert_all_same_iceberg_as, ident, python};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// How long a statement may take that waits for nobody.
const AT_ONCE: Duration = Duration::from_millis(300);
/// How long a run may take that waits for nobody.
const SOON: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);

fn folder(name: &str) -> Option<PathBuf> {
    std::env::var_os("LAKEWARD_POSTGRES_SOURCE").map(|root| PathBuf::from(root).join("contrib/test_decoding").join(name))
}

/// The files of a folder, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("list the scenarios").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// One session of a scenario. A statement that waits for another session is waited for no longer than a moment.
struct Actor {
    say: Sender<String>,
    done: Receiver<()>,
    waiting: usize,
}

impl Actor {
    fn new(database: &Database) -> Self {
        const END: &str = "\u{1}end";
        let (say, said) = channel::<String>();
        let (over, done) = channel();
        let mut psql = database.psql();
        psql.args(["-v", "ON_ERROR_STOP=0"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = psql.spawn().expect("start psql");
        let (mut input, output) = (child.stdin.take().expect("an input"), child.stdout.take().expect("an output"));
        std::thread::spawn(move || {
            let mut lines = BufReader::new(output).split(b'\n');
            for sql in said {
                // A session that was ended says nothing any more.
                let _ = writeln!(input, "{sql}\n;\\echo {END}");
                lines.find(|line| line.as_ref().is_ok_and(|line| line == END.as_bytes()));
                let _ = over.send(());
            }
            drop(input);
            let _ = child.wait();
        });
        Self { say, done, waiting: 0 }
    }

    fn settle(&mut self, within: Duration) {
        while self.waiting > 0 && self.done.recv_timeout(within).is_ok() {
            self.waiting -= 1;
        }
    }

    fn run(&mut self, sql: &str) {
        self.settle(PATIENCE);
        self.say.send(sql.to_owned()).expect("a session");
        self.waiting += 1;
        self.settle(AT_ONCE);
    }
}

/// What a scenario is played on.
struct Stage {
    database: Database,
    job: Job,
    /// A run that waits for somebody.
    running: Option<Running>,
    runs: usize,
    /// Streams that a run could not go on with, and why.
    stopped: BTreeMap<String, String>,
}

impl Stage {
    fn new(server: &Server, name: &str) -> Self {
        let database = server.database(name);
        database.sql("ALTER SYSTEM SET logical_decoding_work_mem = '64kB'; SELECT pg_reload_conf()");
        let job = Job::new(&database);
        job.edit("source.json", |source| {
            source["update_method"] =
                json!({"replication_slot": database.name, "publication": format!("{}_pub", database.name), "create_if_missing": true, "sync_publication": true});
        });
        job.write("destination.json", &json!({"type": "ICEBERG", "writer": {"catalog_type": "filesystem", "iceberg_s3_path": job.lake()}}));
        Self { database, job, running: None, runs: 0, stopped: BTreeMap::new() }
    }

    /// Where the scenario reads from its slot: a run to where the database is now, with the tables that are there now. One that waits for a transaction
    /// is left alone until the next.
    fn read(&mut self) {
        // Rows without a key have one from here on; what names no columns still fits.
        let keyless = "SELECT format('ALTER TABLE %I ADD lakeward_key bigserial; ALTER TABLE %1$I ADD PRIMARY KEY (%slakeward_key)', relname,
              (SELECT string_agg(quote_ident(attname) || ', ', '' ORDER BY attnum) FROM pg_partitioned_table p JOIN pg_attribute a ON attrelid = partrelid
               WHERE partrelid = c.oid AND attnum = ANY (partattrs)))
            FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND relpersistence = 'p'
            AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary) \\gexec";
        // What a run would refuse to follow, with this statement for advice.
        let unnamed = "SELECT format('ALTER TABLE %I REPLICA IDENTITY DEFAULT', relname) FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
             AND relreplident IN ('n', 'i') AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisreplident AND indisprimary) \\gexec";
        let _ = self.database.run(&format!("\\set ON_ERROR_STOP 0\nSET lock_timeout = '1s';\n{keyless}\n{unnamed}"));
        if self.running.as_mut().is_some_and(|running| !running.is_over())
            || self.database.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"
        {
            return;
        }
        self.settle();
        // Tables that are new are chosen, too.
        let _ = std::fs::remove_file(self.job.path("streams.json"));
        self.job.run(&["discover", "--config", "source.json"]).succeeded();
        capture::follow(&self.job);
        let arguments = if self.job.path("state.json").exists() { Job::RESUME.to_vec() } else { Job::SYNC.to_vec() };
        let mut running = self.job.start(&arguments);
        let begun = Instant::now();
        while !running.is_over() && begun.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.running = Some(running);
        if self.running.as_mut().is_some_and(Running::is_over) {
            self.settle();
        }
    }

    fn settle(&mut self) {
        if let Some(running) = self.running.take() {
            self.runs += 1;
            let outcome = running.finish_within(PATIENCE);
            self.bearable(&outcome);
        }
    }

    /// A run ends, or says of which stream why it cannot go on.
    fn bearable(&mut self, outcome: &Outcome) {
        // A value that was logged before its composite type changed, in a transaction that was open then, is one that the server should not have sent.
        let is_told = outcome.code == Some(exit::SOURCE) && outcome.stderr.contains("was its type changed?");
        let fine = is_told || matches!(outcome.code, Some(exit::DONE | exit::SCHEMA));
        assert!(fine, "code {:?}: {}", outcome.code, outcome.stderr);
        for line in outcome.stderr.lines().filter(|line| line.contains(" ERROR ")) {
            for stream in self.tables().into_iter().filter(|stream| line.contains(stream.as_str())) {
                self.stopped.insert(stream, line.to_owned());
            }
        }
    }

    /// The streams that are chosen.
    fn tables(&self) -> Vec<String> {
        if !self.job.path("streams.json").exists() {
            return Vec::new();
        }
        let chosen = self.job.read("streams.json")["selected_streams"]["public"].clone();
        let name = |entry: &serde_json::Value| format!("public.{}", entry["stream_name"].as_str().expect("a name"));
        chosen.as_array().map(|list| list.iter().map(name).collect()).unwrap_or_default()
    }

    /// Nothing goes on any more; the destination has what the database has.
    fn compare(&mut self) -> usize {
        let gone = "SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = current_database() \\gexec";
        self.database.sql(gone);
        self.settle();
        self.read();
        self.settle();
        // What was stopped is loaded anew, as its message says.
        if !self.stopped.is_empty() {
            for table in self.stopped.keys() {
                std::fs::remove_dir_all(self.job.table_folder(&self.job.lake(), table)).expect("remove a table");
            }
            let mut arguments = Job::RESUME.to_vec();
            self.stopped.keys().for_each(|table| arguments.extend(["--reload", table]));
            self.job.run(&arguments).succeeded();
        }
        let pairs: Vec<_> = self.tables().into_iter().map(|stream| (stream.clone(), self.expected(&stream))).collect();
        assert_all_same_iceberg_as(&self.job, &self.database, &pairs);
        pairs.len()
    }

    /// A view of what a table in the destination is to have: a column that has been text there stays text.
    fn expected(&self, stream: &str) -> String {
        let (_, name) = stream.split_once('.').expect("a dot");
        let script = "import json, sys, pyiceberg.table as t
print(json.dumps([field.name for field in t.StaticTable.from_metadata(json.load(sys.stdin)).schema().fields if str(field.field_type) == 'string']))";
        let texts = python(script, &json!(self.job.table_folder(&self.job.lake(), stream)));
        let has = |column: &str| texts.as_array().expect("a list").iter().any(|text| text == column);
        let columns = self.database.sql(&format!(
            "CREATE SCHEMA IF NOT EXISTS expected; SELECT attname || '|' || format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = '{stream}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        ));
        let column = |line: &str| {
            let (column, ty) = line.split_once('|').expect("two columns");
            let cast = if has(column) && ["integer", "bigint", "boolean"].contains(&ty) { "::text" } else { "" };
            format!("{0}{cast} AS {0}", ident(column))
        };
        let columns: Vec<_> = columns.lines().map(column).collect();
        let is_parted = self.database.sql(&format!("SELECT relkind = 'p' FROM pg_class WHERE oid = '{stream}'::regclass")) == "t";
        let only = if is_parted { "" } else { "ONLY" };
        self.database.sql(&format!("CREATE VIEW expected.{0} AS SELECT {1} FROM {only} public.{0}", ident(name), columns.join(", ")));
        format!("expected.{name}")
    }
}

/// What was played, for the report of `./build.sh proof`.
#[derive(Default)]
struct Counts {
    played: usize,
    runs: usize,
    tables: usize,
    /// Tables that a run has stopped, and that were loaded anew.
    stopped: usize,
}

impl Counts {
    fn add(&mut self, name: &str, stage: &mut Stage) {
        let tables = stage.compare();
        eprintln!("{name}: {} runs, {tables} tables are the same, stopped: {:?}", stage.runs, stage.stopped.keys());
        self.played += 1;
        self.runs += stage.runs;
        self.tables += tables;
        self.stopped += stage.stopped.len();
    }

    fn keep(&self, name: &str) {
        if let Some(folder) = std::env::var_os("LAKEWARD_PROOF") {
            let report = json!({"played": self.played, "runs": self.runs, "tables": self.tables, "stopped": self.stopped});
            std::fs::write(Path::new(&folder).join(format!("{name}.json")), report.to_string()).expect("write the report");
        }
    }
}

/// Whether a statement speaks to a slot. What the scenario makes of changes that it has read is not for us.
fn reads(sql: &str) -> bool {
    ["pg_logical_slot_", "pg_create_logical_replication_slot", "pg_drop_replication_slot", "pg_replication_slot_advance"]
        .iter()
        .any(|name| sql.contains(name))
}

/// The statements of a script, each with the lines that it has there.
fn statements(script: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    let mut body: Option<&str> = None;
    for line in script.lines() {
        let last = statements.last_mut().expect("one");
        last.push_str(line);
        last.push('\n');
        // A quote in dollars, or rows that follow.
        for tag in line.split('$').skip(1).step_by(2).filter(|tag| tag.chars().all(|c| c.is_ascii_alphabetic())) {
            match body {
                None => body = Some(tag),
                Some(open) if open == tag => body = None,
                Some(_) => {}
            }
        }
        let code = if line.starts_with("--") { "" } else { line.split(" --").next().unwrap_or_default().trim_end() };
        let is_remark = ["/*", "*"].iter().any(|mark| code.trim_start().starts_with(mark));
        let is_quote = !is_remark && code.matches('\'').count() % 2 == 1;
        match line {
            "\\." => body = None,
            _ if body.is_none() && is_quote => body = Some("'"),
            _ if body == Some("'") && is_quote => body = None,
            _ if line.trim_end_matches(';').to_lowercase().ends_with("from stdin") => body = Some("\\."),
            _ => {}
        }
        if body.is_none() && (code.ends_with(';') || code.starts_with('\\') || code.ends_with("\\gexec")) {
            statements.push(String::new());
        }
    }
    statements
}

#[test]
fn scripts_of_logical_decoding() {
    let Some(folder) = folder("sql") else { return };
    let (server, mut counts) = (Server::own(), Counts::default());
    for file in files(&folder) {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let script = std::fs::read_to_string(&file).expect("read a script");
        let mut stage = Stage::new(&server, &name);
        let mut actor = Actor::new(&stage.database);
        for statement in statements(&script) {
            if reads(&statement) {
                stage.read();
            } else if !statement.contains("DROP TABLE") {
                actor.run(&statement);
            }
        }
        drop(actor);
        counts.add(&name, &mut stage);
    }
    counts.keep("scripts");
}

/// A scenario of several sessions, as `isolationtester` reads it (src/test/isolation/README): blocks of SQL, and orders of them.
#[derive(Default)]
struct Scenario {
    setup: Vec<String>,
    /// Sessions with what each begins with.
    sessions: Vec<Vec<String>>,
    /// Steps by name: the session that takes it, and what it does.
    steps: BTreeMap<String, (usize, String)>,
    permutations: Vec<Vec<String>>,
}

impl Scenario {
    fn of(text: &str) -> Self {
        let mut scenario = Self::default();
        // A comment may hold anything; none of the scenarios has `#` in its SQL.
        let text: String = text.lines().map(|line| line.split('#').next().unwrap_or_default().to_owned() + "\n").collect();
        let mut rest = text.as_str();
        loop {
            rest = rest.trim_start();
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            let body = |after: &'_ str| {
                let (before, after) = after.split_once('{').expect("a block");
                let (sql, after) = after.split_once('}').expect("the end of a block");
                (before.trim().trim_matches('"').to_owned(), sql.to_owned(), after.len())
            };
            let left = |length: usize| &text[text.len() - length..];
            match word {
                "" => return scenario,
                "session" => {
                    scenario.sessions.push(Vec::new());
                    let after = after.trim_start();
                    rest = after.trim_start_matches(|c: char| !c.is_whitespace());
                }
                "setup" | "teardown" | "step" => {
                    let (name, sql, length) = body(after);
                    match (word, scenario.sessions.last_mut()) {
                        ("step", _) => drop(scenario.steps.insert(name, (scenario.sessions.len() - 1, sql))),
                        ("setup", Some(session)) => session.push(sql),
                        ("setup", None) => scenario.setup.push(sql),
                        _ => {}
                    }
                    rest = left(length);
                }
                "permutation" => {
                    let end =
                        ["\npermutation", "\nstep", "\nsession"].iter().filter_map(|next| after.find(next)).min().unwrap_or(after.len());
                    // What a step waits for, in parentheses, is seen here by itself.
                    let names =
                        after[..end].split_whitespace().map(|name| name.split('(').next().unwrap_or_default().trim_matches('"').to_owned());
                    scenario.permutations.push(names.collect());
                    rest = &after[end..];
                }
                other => panic!("{other:?} is not known in a scenario"),
            }
        }
    }

    fn play(&self, order: &[String], stage: &mut Stage) {
        // A table that is dropped first is not there yet.
        for sql in &self.setup {
            stage.database.run(&format!("\\set ON_ERROR_STOP 0\n{sql}")).expect("set up");
        }
        stage.read();
        let mut actors: Vec<_> = self.sessions.iter().map(|_| Actor::new(&stage.database)).collect();
        for (actor, setup) in actors.iter_mut().zip(&self.sessions) {
            setup.iter().for_each(|sql| actor.run(sql));
        }
        for name in order {
            let (session, sql) = self.steps.get(name).unwrap_or_else(|| panic!("there is no step {name}"));
            if reads(sql) { stage.read() } else { actors[*session].run(sql) }
        }
    }
}

#[test]
fn sessions_beside_one_another() {
    let Some(folder) = folder("specs") else { return };
    let (server, mut counts) = (Server::own(), Counts::default());
    for file in files(&folder) {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let scenario = Scenario::of(&std::fs::read_to_string(&file).expect("read a scenario"));
        assert!(!scenario.permutations.is_empty() && !scenario.steps.is_empty(), "{name} is read wrongly");
        for (number, order) in scenario.permutations.iter().enumerate() {
            let mut stage = Stage::new(&server, &name);
            scenario.play(order, &mut stage);
            counts.add(&format!("{name} {number}"), &mut stage);
        }
    }
    counts.keep("sessions");
}
