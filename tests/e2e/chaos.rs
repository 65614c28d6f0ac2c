//! Seeded chaos: work and changes of shape go on while runs are killed, servers crash, connections break, the store goes away and steps fail; in the
//! end the destination has what the database has.
//!
//! A seed gives a log of rounds, each of which says what is done; the log is played, and kept as a file when it fails (beside the build, its name is
//! in the message), so that it can be played again: `LAKEWARD_CHAOS_LOG=FILE ./build.sh test --test e2e chaos::replay`. Logs in `tests/chaos/` are
//! played by every run of the tests: that is where those belong which have found something. `./build.sh chaos --minutes M` plays seed after seed.

use super::capture;
use super::chaos_log::{Disturbance, Lake, Log, Round};
use crate::support::dice::Dice;
use crate::support::lakeward::{Job, Outcome, exit};
use crate::support::majors::newest;
use crate::support::postgres::{Database, PASSWORD, Server};
use crate::support::proxy::Proxy;
use crate::support::readback::{assert_all_same_in_lakes, python};
use crate::support::s3::ObjectStore;
use crate::support::seaweed::Seaweed;
use crate::support::wait_until;
use crate::support::workload::TABLES;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What falls silent is given up after some seconds, but the server may keep the slot for the old stream for a minute (`wal_sender_timeout`).
const PATIENCE: Duration = Duration::from_secs(300);

/// What the log is played on.
struct World {
    server: Server,
    standby: Option<Server>,
    /// The database on the server that is the primary now.
    database: Arc<Mutex<Database>>,
    proxy: Proxy,
    lake: Lake,
    store: ObjectStore,
    catalog: Option<Seaweed>,
    job: Job,
    kills: usize,
    comparisons: usize,
    /// What happened, by its name.
    happened: BTreeMap<String, usize>,
}

impl World {
    /// None where a server is missing that the log wants.
    fn of(log: &Log) -> Option<Self> {
        let server = if log.standby { Server::start(&newest()?) } else { Server::own() };
        let database = server.database("chaos");
        database.sql(TABLES);
        let name = database.sql("SELECT current_database()");
        database.sql(&format!("ALTER DATABASE {name} SET logical_decoding_work_mem = '64kB'"));
        // Whoever was to end a prepared transaction may not have come through; who waits for its locks gives up.
        database.sql(&format!("ALTER DATABASE {name} SET lock_timeout = '3s'"));
        let failover = if log.standby { ", true" } else { "" };
        database.sql(&format!("SELECT pg_create_logical_replication_slot('chaos', 'pgoutput', false, {}{failover}); CREATE PUBLICATION chaos_pub FOR TABLE a, b, p WITH (publish_via_partition_root = true)", log.two_phase));
        let (proxy, store) = (Proxy::start(database.port), ObjectStore::conditional());
        let catalog = (log.iceberg && log.lake == Lake::Catalog).then(Seaweed::start);
        let keys = || {
            let mut keys = match (log.lake, &catalog) {
                (Lake::Store, _) => store.iceberg_writer(),
                (_, Some(catalog)) => catalog.writer(),
                _ => json!({}),
            };
            keys.as_object_mut().expect("an object").extend(log.writer.as_object().expect("an object").clone());
            keys
        };
        let job = capture::following(Job::on_small_disk(&database), "chaos", log.iceberg.then(keys));
        if !log.iceberg {
            job.write_destination(store.writer());
        }
        job.edit("source.json", |source| {
            let through = database.source_tcp("postgres", PASSWORD);
            source.as_object_mut().expect("an object").extend(through.as_object().expect("an object").clone());
            source["port"] = json!(proxy.port);
            source["update_method"]["on_detach"] = json!("reload");
            source["update_method"]["failover_slot"] = json!(log.standby);
            source["jdbc_url_params"] = json!({"keepalives_idle": "2", "keepalives_interval": "1", "keepalives_count": "2"});
            source["retry_count"] = json!(1);
        });
        // From here on the columns' numbers are known.
        job.sync().succeeded();
        let (database, happened) = (Arc::new(Mutex::new(database)), BTreeMap::new());
        let mut world =
            Self { server, standby: None, database, proxy, lake: log.lake, store, catalog, job, kills: 0, comparisons: 0, happened };
        if log.standby {
            world.stand_by();
        }
        Some(world)
    }

    /// The database on the server that is the primary now.
    fn database(&self) -> Database {
        self.database.lock().expect("the database").clone()
    }

    /// A standby is there, and has the slot. A copy of a slot counts once the slot has moved beyond where it began.
    fn stand_by(&mut self) {
        let standby = self.standby.get_or_insert_with(|| self.server.successor());
        wait_until("the standby has the slot", 120, || {
            self.job.resume().succeeded();
            standby.has_slot("chaos")
        });
    }

    fn arguments(&self, follow: bool) -> Vec<&'static str> {
        let mut arguments = if self.job.path("state.json").exists() { Job::RESUME.to_vec() } else { Job::SYNC.to_vec() };
        if follow {
            arguments.extend(Job::FOLLOW);
        }
        arguments
    }

    fn play(&mut self, round: &Round, iceberg: bool, standby: bool) {
        let work = round.sessions.clone().map(|statements| {
            let database = self.database.clone();
            // What fails because the server is away is work that was not done.
            std::thread::spawn(move || {
                for sql in statements {
                    let database = database.lock().expect("the database").clone();
                    drop(database.run(&sql));
                }
            })
        });
        let mut command = self.job.command(&self.arguments(round.follow));
        command.env("LAKEWARD_FAULTS", &round.faults);
        let mut running = self.job.start_command(command);
        std::thread::sleep(Duration::from_millis(round.after_ms));
        self.disturb(round.disturbance, round.after_ms % 400);
        std::thread::sleep(Duration::from_millis(if round.ends { 500 } else { 0 }));
        self.heal();
        if round.ends && round.follow {
            running.signal_if_running("TERM");
        }
        let outcome = if round.ends { running.finish_within(PATIENCE) } else { running.kill() };
        self.kills += usize::from(outcome.code.is_none());
        bearable(&outcome, round);
        work.into_iter().for_each(|thread| thread.join().expect("the work"));
        if round.compare {
            self.come_to_rest();
            self.compare(iceberg);
            if standby {
                self.stand_by();
            }
        }
    }

    /// `room`: what a full disk has left, in KiB.
    fn disturb(&mut self, mut disturbance: Disturbance, room: u64) {
        if disturbance == Disturbance::Promotion && !self.standby.as_ref().is_some_and(|standby| standby.has_slot("chaos")) {
            disturbance = Disturbance::ServerCrash;
        }
        *self.happened.entry(format!("{disturbance:?}")).or_default() += 1;
        match disturbance {
            Disturbance::None => {}
            Disturbance::ServerCrash => self.server.crash(),
            Disturbance::ServerRestart => self.server.control("restart -m fast"),
            Disturbance::Promotion => self.take_over(),
            Disturbance::NetworkEnds => self.proxy.end(),
            Disturbance::NetworkSilent => self.proxy.cut(),
            Disturbance::NetworkSlow => {
                self.proxy.slow(true);
                std::thread::sleep(Duration::from_millis(700));
            }
            Disturbance::NetworkAway => {
                self.proxy.away(true);
                std::thread::sleep(Duration::from_millis(1500));
            }
            Disturbance::Terminated => drop(self.database().run(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE client_addr IS NOT NULL AND pid <> pg_backend_pid()",
            )),
            Disturbance::StoreAway => {
                self.store.go_down();
                self.catalog.iter().for_each(Seaweed::halt);
                std::thread::sleep(Duration::from_millis(1500));
            }
            Disturbance::StoreDies => {
                self.store.die();
                self.catalog.iter().for_each(Seaweed::die);
                std::thread::sleep(Duration::from_millis(500));
            }
            Disturbance::DiskFull => {
                if let Some(disk) = self.job.disk() {
                    disk.leave_kib(room);
                    std::thread::sleep(Duration::from_millis(1500));
                }
            }
        }
    }

    /// The standby takes the place of the server, which never comes back.
    fn take_over(&mut self) {
        let standby = self.standby.take().expect("a standby");
        self.server.control("stop -m immediate");
        standby.promote();
        let database = standby.same(&self.database());
        self.proxy.redirect(database.port);
        *self.database.lock().expect("the database") = database;
        self.server = standby;
    }

    fn heal(&self) {
        self.proxy.slow(false);
        self.proxy.away(false);
        self.store.recover();
        self.catalog.iter().for_each(Seaweed::revive);
        if let Some(disk) = self.job.disk() {
            disk.clear();
        }
    }

    /// Nothing is open any more, and a run without any disturbance comes to its end.
    fn come_to_rest(&self) {
        // The server waits a minute for those who have fallen silent.
        self.proxy.end();
        let decided = "SELECT format('COMMIT PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = current_database() \\gexec";
        wait_until("the server takes part again", 60, || self.database().run(decided).is_ok());
        let outcome = self.job.run(&self.arguments(false));
        assert_eq!(outcome.code, Some(exit::DONE), "an undisturbed run: {}", outcome.stderr);
    }

    /// An Iceberg table, as readers find it.
    fn table(&self, stream: &str) -> Value {
        let folder = |root: &Path| self.job.table_folder(root, stream);
        match (self.lake, &self.catalog) {
            (Lake::Store, _) => self.store.lake(&folder(&self.store.files_root())),
            (_, Some(catalog)) => {
                let place = folder(Path::new(""));
                let mut names = place.iter().map(|name| name.to_str().expect("UTF-8"));
                catalog.lake(names.next().expect("a namespace"), names.next().expect("a table"))
            }
            _ => json!(folder(&self.job.lake())),
        }
    }

    fn compare(&mut self, iceberg: bool) {
        self.comparisons += 1;
        let catalog = self.job.read("streams.json");
        if iceberg {
            // What the columns are called now; the chosen streams stay as they are.
            std::fs::remove_file(self.job.path("streams.json")).expect("remove");
            self.job.discover();
            assert_all_same_in_lakes(&self.job, &self.database(), &["public.a", "public.b", "public.p"], |stream| self.table(stream));
            self.job.write("streams.json", &catalog);
            return;
        }
        for (table, key) in [("a", "id"), ("b", "k1, k2")] {
            let columns = if table == "a" { "id, v, n::text, big" } else { "k1, k2, x::text" };
            let order = if table == "a" { "id" } else { "k1, k2 COLLATE \"C\"" };
            let sql = format!("SELECT coalesce(json_agg(json_build_array({columns}) ORDER BY {order}), '[]') FROM {table}");
            let expected: Value = serde_json::from_str(&self.database().sql(&sql)).expect("JSON");
            let files = crate::support::lakeward::published(&self.job.table_folder(&self.store.files_root(), &format!("public.{table}")));
            let key: Vec<&str> = key.split(", ").collect();
            let names: Vec<&str> = columns.split(", ").map(|column| column.trim_end_matches("::text")).collect();
            let found = python(FOLD, &json!({"files": files, "key": key, "columns": names}));
            assert_eq!(found["twice"], json!([]), "changes of {table} that came twice");
            assert_eq!(found["rows"], expected, "{table}");
        }
    }
}

/// What a reader makes of a log: rows in the order of the log, large values that a change left as they were from the row before.
const FOLD: &str = "
import json, sys, collections
import pyarrow as pa, pyarrow.parquet as pq
job = json.load(sys.stdin)
log = pa.concat_tables([pq.read_table(file) for file in job['files']], promote_options='default').to_pylist()
log.sort(key=lambda row: row['_cdc_order'])
orders = collections.Counter(row['_cdc_order'] for row in log if row['_op_type'] != 'r')
table, gone = {}, None
for row in log:
    key = tuple(row[name] for name in job['key'])
    if row['_op_type'] == 't':
        table.clear()
    elif row['_op_type'] == 'd':
        gone = table.pop(key)
    else:
        kept = row['_unchanged_columns']
        before = (gone if row['_op_type'] == 'c' else table[key]) if kept else None
        table[key] = row | {name: before[name] for name in kept.split(',')} if kept else row
say = lambda value: value if value is None or isinstance(value, (int, str)) else format(value, 'f')
print(json.dumps({'twice': [order for order, times in orders.items() if times > 1][:5],
                  'rows': [[say(table[key][name]) for name in job['columns']] for key in sorted(table)]}))";

/// A run that was disturbed may fail, and says why; it must not take itself for broken, nor the destination, the state or the configuration.
fn bearable(outcome: &Outcome, round: &Round) {
    let codes = [None, Some(exit::DONE), Some(exit::SOURCE), Some(exit::DESTINATION), Some(exit::INTERRUPTED)];
    // A step that saves the state is made to fail as one of the destination; a full disk is a matter of the state as well.
    let is_full =
        outcome.code == Some(exit::STATE) && round.disturbance == Disturbance::DiskFull && outcome.stderr.contains("No space left");
    let fine = (codes.contains(&outcome.code) || is_full)
        && !outcome.stderr.contains("panicked")
        && !outcome.stderr.contains("lose rows or double");
    assert!(fine, "code {:?} in {round:?}: {}", outcome.code, outcome.stderr);
}

/// Plays a log; one that fails is kept.
fn play(log: &Log) -> Option<World> {
    let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}.json", log.seed));
    std::fs::write(&kept, serde_json::to_vec_pretty(log).expect("JSON")).expect("keep the log");
    eprintln!("chaos: seed {}, its log is {}", log.seed, kept.display());
    let mut world = World::of(log)?;
    for round in &log.rounds {
        world.play(round, log.iceberg, log.standby);
    }
    std::fs::remove_file(kept).expect("remove the log");
    Some(world)
}

/// Two seeds for ever, and one that nobody has seen.
#[test]
fn seeds_pass() {
    for seed in [1, 2, Dice::seed()] {
        play(&Log::of(seed, 8));
    }
}

/// Logs that have found something once.
#[test]
fn kept_logs_pass() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos"));
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        play(&Log::read(&entry.expect("an entry").path()));
    }
}

/// Plays the log that LAKEWARD_CHAOS_LOG names.
#[test]
fn replay() {
    if let Some(path) = std::env::var_os("LAKEWARD_CHAOS_LOG") {
        play(&Log::read(Path::new(&path)));
    }
}

/// Plays seed after seed for LAKEWARD_CHAOS_MINUTES; with LAKEWARD_PROOF=FOLDER what was survived is counted there.
#[test]
fn for_minutes() {
    let Some(minutes) = std::env::var("LAKEWARD_CHAOS_MINUTES").ok().and_then(|minutes| minutes.parse::<u64>().ok()) else { return };
    let (begun, first) = (Instant::now(), Dice::seed());
    let (mut seeds, mut kills, mut comparisons, mut rounds) = (0, 0, 0, 0);
    let mut disturbances = BTreeMap::<String, usize>::new();
    while begun.elapsed() < Duration::from_secs(60 * minutes) {
        let log = Log::of(first + seeds, 12);
        let world = play(&log).expect("all servers are there");
        seeds += 1;
        (kills, comparisons, rounds) = (kills + world.kills, comparisons + world.comparisons, rounds + log.rounds.len());
        for (name, times) in world.happened {
            *disturbances.entry(name).or_default() += times;
        }
        eprintln!("seed {} survived: {} of {minutes} minutes", first + seeds - 1, begun.elapsed().as_secs() / 60);
    }
    if let Some(folder) = std::env::var_os("LAKEWARD_PROOF") {
        let report = json!({"minutes": begun.elapsed().as_secs() / 60, "first_seed": first, "seeds": seeds, "rounds": rounds, "deaths": kills,
                            "comparisons": comparisons, "disturbances": disturbances});
        std::fs::write(Path::new(&folder).join("chaos.json"), report.to_string()).expect("write the report");
    }
}
