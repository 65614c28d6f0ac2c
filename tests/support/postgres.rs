//! A private PostgreSQL server as a child of the test process.
//!
//! Promises: it is ready in a second or two, runs as a user without rights, listens on a Unix socket and on one free port of
//! 127.0.0.1 (socket: trusted; port: SCRAM password), and is gone with all its files when the test process ends, however it ends.
//! SQL goes through `psql`, so that what the tests know about the data does not come from the code under test.

use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The server's keeper. It holds a pipe from the test process as standard input; the pipe closes when that process ends,
/// even by `kill -9`, and then the keeper stops the server and removes its home. Each line that comes before that crashes the server
/// (what `pg_ctl stop -m immediate` does) and starts it again.
const KEEPER: &str = r#"
trap '' INT
home=$1; bin=$2; port=$3
cd "$home"
[ -n "$4" ] || "$bin/initdb" -D data -U postgres --auth-local=trust --auth-host=scram-sha-256 -N -E UTF8 --locale=C.UTF-8 --pwfile=password >log 2>&1
[ "$5" != copy ] || mv "$4" data
[ -z "$4" ] || [ "$5" = copy ] || { "$bin/pg_basebackup" -D data -h "$4" -p "$5" -U postgres -c fast -R >log 2>&1; chmod 700 data; }
"$bin/postgres" -D "$home/data" -k "$home" -p "$port" -c listen_addresses=127.0.0.1 -c fsync=off -c full_page_writes=off -c autovacuum=off \
    -c wal_level=logical -c max_replication_slots=400 -c max_wal_senders=100 -c max_prepared_transactions=20 -c max_connections=200 -c shared_buffers=128MB \
    -c log_line_prefix='%d|' -c timezone=Asia/Kolkata -c max_standby_streaming_delay=0 >>log 2>&1 &
read -r _
# Not the child of above, if a test has restarted the server.
server=$(head -n 1 data/postmaster.pid) && kill -QUIT $server
wait
for _ in $(seq 100); do kill -0 $server 2>/dev/null || break; sleep 0.05; done
cd /
rm -rf "$home"
"#;

/// The superuser's password on the TCP port.
pub const PASSWORD: &str = "s3cret of the test";

/// A running server.
pub struct Server {
    home: PathBuf,
    /// Its programs.
    bin: PathBuf,
    port: u16,
    keeper: Child,
    alive: Option<ChildStdin>,
}

/// A database of its own for one test.
#[derive(Clone, Debug)]
pub struct Database {
    /// Directory of the Unix socket.
    pub home: PathBuf,
    /// Port, on the socket and on 127.0.0.1.
    pub port: u16,
    /// Its name.
    pub name: String,
}

impl Server {
    /// The newest server installed on this machine, started once for all tests of the process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&installed().expect("no PostgreSQL server found: ./build.sh test installs one")))
    }

    /// Starts the server whose programs are in `bin`.
    pub fn start(bin: &Path) -> Self {
        Self::launch(bin, ["".as_ref(), "".as_ref()])
    }

    /// Starts a server of the newest version for one test alone, which may stop it.
    pub fn own() -> Self {
        Self::start(&installed().expect("no PostgreSQL server found: ./build.sh test installs one"))
    }

    /// Starts a streaming standby of this server, which cancels its readers at once where they are in the way of replay.
    pub fn standby(&self) -> Self {
        let bin = installed().expect("no PostgreSQL server found");
        Self::launch(&bin, [self.home.as_ref(), self.port.to_string().as_ref()])
    }

    /// Starts a standby of this server that keeps failover slots in step and can take over from it (PostgreSQL 17 and later); this server tells nobody
    /// of changes that the standby does not have.
    pub fn successor(&self) -> Self {
        let mut session = self.at("postgres").session();
        session.sql("SELECT pg_create_physical_replication_slot('successor', true)");
        // The manual's "Making a Base Backup Using the Low Level API": only Debian's server comes with pg_basebackup.
        session.sql("SELECT pg_backup_start('successor', true)");
        let copy = self.home.join("copy");
        let script = "cp -a \"$1/data\" \"$1/copy\" && cd \"$1/copy\" && rm -rf postmaster.pid pg_replslot/* && touch backup_label standby.signal && chmod 666 backup_label postgresql.auto.conf";
        let mut command = as_server("sh".as_ref());
        let copied = command.args(["-c", script, "sh"]).arg(&self.home).current_dir("/").status();
        assert!(copied.expect("run cp").success(), "the data were not copied");
        let label = session.sql("SELECT labelfile FROM pg_backup_stop(false)");
        fs::write(copy.join("backup_label"), label.trim_end_matches('\n').to_owned() + "\n").expect("write the label");
        let settings = format!(
            "primary_conninfo = 'host={} port={} user=postgres dbname=postgres'\nprimary_slot_name = 'successor'\nsync_replication_slots = on\nhot_standby_feedback = on\n",
            self.home.display(),
            self.port
        );
        fs::write(copy.join("postgresql.auto.conf"), settings).expect("write the settings");
        let standby = Self::launch(&self.bin, [copy.as_ref(), "copy".as_ref()]);
        session.sql("ALTER SYSTEM SET synchronized_standby_slots = 'successor'");
        session.sql("SELECT pg_reload_conf()");
        standby
    }

    fn launch(bin: &Path, primary: [&OsStr; 2]) -> Self {
        // Not $TMPDIR: the path of a socket must be short, and the server's user must get there.
        let home = tempfile::Builder::new().prefix("lakeward-pg-").tempdir_in("/var/tmp").expect("make the server's home").keep();
        fs::write(home.join("password"), PASSWORD).expect("write the password file");
        if let Some((uid, gid)) = unprivileged() {
            chown(&home, Some(uid), Some(gid)).expect("give the home to the server's user");
        }
        let mut command = as_server("bash".as_ref());
        let port = super::free_port();
        let mut keeper = command
            .args(["-c", KEEPER, "keeper"])
            .args([&home, bin])
            .arg(port.to_string())
            .args(primary)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the server's keeper");
        let alive = keeper.stdin.take();
        let server = Self { home, bin: bin.to_owned(), port, keeper, alive };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&self) {
        let postgres = self.at("postgres");
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while postgres.run("SELECT 1").is_err() {
            assert!(std::time::Instant::now() < end, "PostgreSQL did not start:\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Runs `pg_ctl` with arguments such as `restart -m fast`, and waits.
    #[track_caller]
    pub fn control(&self, arguments: &str) {
        let mut command = as_server(&self.bin.join("pg_ctl"));
        command.args(arguments.split_whitespace()).arg("-D").arg(self.home.join("data")).arg("-l").arg(self.home.join("log"));
        let status = command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("run pg_ctl").success(), "pg_ctl {arguments}:\n{}", self.log());
    }

    /// Whether this standby has a slot by this name, in step and for good.
    pub fn has_slot(&self, name: &str) -> bool {
        let sql = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}' AND synced AND NOT temporary");
        self.at("postgres").run(&sql).is_ok_and(|count| count == "1")
    }

    /// Takes the place of the primary, which is gone.
    pub fn promote(&self) {
        self.at("postgres").sql("SELECT pg_promote()");
    }

    /// The database of the same name on this server: a standby, or what became of one.
    pub fn same(&self, database: &Database) -> Database {
        self.at(&database.name)
    }

    /// Ends the server without a checkpoint or a word to anybody, and starts it again; comes back when it has recovered.
    pub fn crash(&self) {
        self.control("restart -m immediate");
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.home.join("log")).unwrap_or_default()).into_owned()
    }

    /// A new folder that the server can read and write.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.home.join(name);
        fs::create_dir(&folder).expect("make a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("let the server in");
        folder
    }

    /// A new, empty database. `label` shows in its name.
    pub fn database(&self, label: &str) -> Database {
        self.create(label, "")
    }

    /// A database in another encoding than UTF-8; one in SQL_ASCII takes any bytes for text.
    pub fn database_in(&self, encoding: &str, label: &str) -> Database {
        self.create(label, &format!("ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"))
    }

    fn create(&self, label: &str, options: &str) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{label}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.at("postgres").sql(&format!("CREATE DATABASE {name} TEMPLATE template0 {options}"));
        self.at(&name)
    }

    /// A database that is there.
    pub fn at(&self, name: &str) -> Database {
        Database { home: self.home.clone(), port: self.port, name: name.to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.alive.take());
        self.keeper.wait().expect("wait for the server's keeper");
    }
}

impl Database {
    /// Runs SQL and gives its output: one line per row, columns separated by `|`, NULL as nothing.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        match self.run(sql) {
            Ok(output) => output,
            Err(problem) => panic!("psql: {problem}\nin: {}", &sql[..sql.len().min(2000)]),
        }
    }

    /// Runs SQL that may fail.
    pub fn run(&self, sql: &str) -> Result<String, String> {
        let mut child = self.psql().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start psql");
        let mut stdin = child.stdin.take().expect("psql has a standard input");
        let sql = sql.to_owned();
        // A thread, because psql may fill its output before it has read all its input.
        let writer = std::thread::spawn(move || stdin.write_all(sql.as_bytes()));
        let output = child.wait_with_output().expect("run psql");
        let written = writer.join().expect("write to psql");
        if output.status.success() && written.is_ok() {
            Ok(String::from_utf8(output.stdout).expect("psql prints UTF-8").trim_end_matches('\n').to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Installs an extension; false if the server has none of that name. Debian's package has those of contrib.
    pub fn extension(&self, name: &str) -> bool {
        let available = self.sql(&format!("SELECT count(*) FROM pg_available_extensions WHERE name = '{name}'")) == "1";
        if available {
            self.sql(&format!("CREATE EXTENSION {name}"));
        } else if !matches!(name, "vector" | "postgis") {
            assert!(std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: extension {name}");
            super::skip(&format!("extension {name}"));
        }
        available
    }

    /// `psql` on this database, not started, reading from its standard input.
    pub fn psql(&self) -> Command {
        let mut command = Command::new("psql");
        command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]).arg(&self.home).arg("-p").arg(self.port.to_string());
        command
            .args(["-d", &self.name])
            .env("PGOPTIONS", "-c client_min_messages=warning")
            .env("PGTZ", "UTC")
            .env("PGCLIENTENCODING", "UTF8");
        command
    }

    /// `source.json` for this database, through the socket, with two readers.
    pub fn source(&self) -> Value {
        json!({"host": self.home, "port": self.port, "database": self.name, "username": "postgres", "max_threads": 3})
    }

    /// `source.json` for this database, through TCP with a password.
    pub fn source_tcp(&self, user: &str, password: &str) -> Value {
        json!({"host": "127.0.0.1", "port": self.port, "database": self.name, "username": user, "password": password})
    }

    /// Lines of the server's log that concern this database.
    pub fn log_lines(&self) -> Vec<String> {
        let file = fs::File::open(self.home.join("log")).expect("open the server's log");
        let prefix = format!("{}|", self.name);
        // split, not lines: a statement in the log may hold any bytes.
        let lines =
            BufReader::new(file).split(b'\n').map(|line| String::from_utf8_lossy(&line.expect("read the server's log")).into_owned());
        lines.filter(|line| line.starts_with(&prefix)).collect()
    }

    /// A lock that stops any reader of a value of type `regdictionary` while it is held, because its output function looks the name up
    /// in the catalog of dictionaries. (Their binary form being a number, Lakeward reads such values as text.) NULL passes.
    pub fn gate(&self) -> Gate {
        let mut holder = self.session();
        holder.sql("BEGIN; LOCK TABLE pg_catalog.pg_ts_dict IN ACCESS EXCLUSIVE MODE");
        // The lock has left a record in the WAL that nobody waits for; chunks of a snapshot after it would not count as safe on disk.
        self.sql("SELECT FROM pg_logical_emit_message(true, 'gate', 'closed')");
        Gate { database: self.clone(), _holder: holder }
    }

    /// A session that stays open, for transactions that last.
    pub fn session(&self) -> Session {
        let mut child = self.psql().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start psql");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("psql has a standard output"));
        Session { child, input, output }
    }
}

/// A session that stays open; what it has not committed is rolled back when it is dropped.
pub struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// Runs SQL to its end and gives its output. A session that has ended by an error panics here.
    #[track_caller]
    pub fn sql(&mut self, sql: &str) -> String {
        const END: &str = "\u{1}end";
        let input = self.input.as_mut().expect("open");
        writeln!(input, "{sql};\n\\echo {END}").expect("write to psql");
        let mut text = String::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("read from psql");
            assert_ne!(read, 0, "psql has ended in: {sql}");
            if line.trim_end() == END {
                return text;
            }
            text.push_str(&line);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        self.child.wait().expect("wait for psql");
    }
}

/// A closed gate; see [`Database::gate`]. Opens when dropped.
pub struct Gate {
    database: Database,
    _holder: Session,
}

impl Gate {
    /// Waits until a reader stands before the gate and every other session of the database has come to rest.
    pub fn wait_for_reader(&self) {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'relation'";
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                    AND state = 'active' AND wait_event IS DISTINCT FROM 'relation' AND query LIKE 'COPY%'";
        super::wait_until("a reader stands before the gate", 60, || self.database.sql(waiting) != "0");
        super::wait_until("all other readers have finished", 60, || self.database.sql(busy) == "0");
    }

    /// Lets readers pass.
    pub fn open(self) {}
}

/// A program as the user that the servers run as.
fn as_server(program: &Path) -> Command {
    let Some((uid, gid)) = unprivileged() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]).arg(program);
    command
}

/// Directory of the programs of the newest server on this machine.
pub fn installed() -> Option<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin")).collect();
    let major = |dir: &PathBuf| dir.parent().and_then(Path::file_name).and_then(|n| n.to_str()).and_then(|n| n.parse::<u32>().ok());
    dirs.sort_by_key(|dir| std::cmp::Reverse(major(dir)));
    dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    dirs.into_iter().find(|dir| dir.join("postgres").exists() && dir.join("initdb").exists())
}

/// Are we root?
pub fn is_root() -> bool {
    fs::metadata("/proc/self").expect("read /proc").uid() == 0
}

/// The user and group for the server, when we are root: PostgreSQL refuses to run as root.
pub fn unprivileged() -> Option<(u32, u32)> {
    if !is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).unwrap_or((65534, 65534)))
}
