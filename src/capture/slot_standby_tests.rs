//! Slots of a standby: Debian's server, and one of each major that decodes there where they have been fetched.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::super::server::settings;
use super::super::slot_judgement::{OnSlotLag, Verdict, Wanted, verdict};
use super::*;
use crate::postgres::connect::{Host, session};
use crate::postgres::testing::Server;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// A physical standby of a server, in its directory.
struct Standby {
    process: Child,
    host: Host,
    log: PathBuf,
}

impl Standby {
    async fn of(server: &Server, primary: &Session) -> Self {
        let data: String = primary.row("SHOW data_directory").await.unwrap().get(0);
        let bin: String = primary.row("SELECT setting FROM pg_config WHERE name = 'BINDIR'").await.unwrap().get(0);
        let (data, bin) = (PathBuf::from(data), PathBuf::from(bin));
        let root = data.parent().unwrap();
        let hba = std::fs::read_to_string(data.join("pg_hba.conf")).unwrap();
        std::fs::write(data.join("pg_hba.conf"), format!("local replication all trust\n{hba}")).unwrap();
        primary.execute("SELECT pg_reload_conf()").await.unwrap();
        let socket = format!("host={} port={} user=postgres dbname=postgres", root.display(), server.port());
        // The manual's "Making a Base Backup Using the Low Level API"; only Debian's server comes with pg_basebackup.
        let copy = root.join("standby");
        primary.execute("SELECT pg_create_physical_replication_slot('physical', true), pg_backup_start('test', true)").await.unwrap();
        assert!(as_server(Path::new("cp")).arg("-a").arg(&data).arg(&copy).status().unwrap().success());
        let label: String = primary.row("SELECT labelfile FROM pg_backup_stop(false)").await.unwrap().get(0);
        for (name, content) in [("backup_label", label.as_str()), ("standby.signal", "")] {
            std::fs::write(copy.join(name), content).unwrap();
            // The server opens them for writing, and they are ours.
            std::fs::set_permissions(copy.join(name), std::fs::Permissions::from_mode(0o666)).unwrap();
        }
        std::fs::remove_file(copy.join("postmaster.pid")).unwrap();
        std::fs::remove_dir_all(copy.join("pg_replslot/physical")).unwrap();
        let port = server.port() ^ 1;
        let mut command = as_server(&bin.join("postgres"));
        command.arg("-D").arg(&copy);
        for setting in [
            &format!("port={port}"),
            "listen_addresses=",
            &format!("unix_socket_directories={}", root.display()),
            "fsync=off",
            "wal_level=logical",
            "max_wal_senders=30",
            "max_replication_slots=30",
            // The name of the database is in it since 17, where slots are kept in step through it.
            &format!("primary_conninfo={socket}"),
            "primary_slot_name=physical",
        ] {
            command.args(["-c", setting]);
        }
        let log = std::fs::File::create(root.join("standby.log")).unwrap();
        let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Self { process, host: Host::Unix(root.to_owned(), port), log: root.join("standby.log") }
    }

    async fn open(&self, server: &Server) -> Session {
        for _ in 0..200 {
            if let Ok(session) = session(&server.options(self.host.clone(), "postgres")).await {
                return session;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the standby did not start: {}", std::fs::read_to_string(&self.log).unwrap());
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-QUIT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

fn as_server(program: &Path) -> Command {
    if Command::new("id").arg("-u").output().unwrap().stdout != b"0\n" {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program).current_dir("/");
    command
}

async fn judged(standby: &Session, name: &str) -> &'static str {
    let (slot, server) = (find(standby, name).await.unwrap(), settings(standby).await.unwrap());
    let wanted = Wanted {
        name: name.to_owned(),
        plugin: "pgoutput".into(),
        database: "postgres".into(),
        two_phase: false,
        saved: None,
        create_if_missing: true,
        wal_sender: true,
        max_slot_lag_bytes: None,
        on_slot_lag: OnSlotLag::Stop,
    };
    match verdict(slot.as_ref(), &server, &wanted) {
        Ok(Verdict::Use { warnings, .. }) => warnings.first().map_or("use", |finding| finding.code),
        Ok(Verdict::Create { warnings }) => warnings.first().map_or("create", |finding| finding.code),
        Ok(Verdict::Drop { .. }) => "drop",
        Err(finding) => finding.code,
    }
}

/// Sets it, and waits until it is so.
async fn feedback(standby: &Session, on: bool) {
    standby.execute(&format!("ALTER SYSTEM SET hot_standby_feedback = {on}")).await.unwrap();
    standby.execute("SELECT pg_reload_conf()").await.unwrap();
    for _ in 0..100 {
        if settings(standby).await.unwrap().hot_standby_feedback == on {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn slots_of_standbys_are_judged_by_what_the_standby_can_do() {
    let majors = Server::majors().filter(|(major, _)| *major >= 16).map(|(_, server)| server);
    for server in std::iter::once_with(Server::own).chain(majors) {
        let primary = session(&server.options(server.unix(), "postgres")).await.unwrap();
        let running = Standby::of(&server, &primary).await;
        let standby = running.open(&server).await;
        let told = settings(&standby).await.unwrap();
        assert!(told.in_recovery && told.readable > Lsn(0) && told.inserted == told.readable, "{told:?}");
        let create = create_sql("mine", "pgoutput");
        if primary.server_version() < 160_000 {
            assert_eq!(judged(&standby, "mine").await, "standby_too_old");
            assert!(standby.execute(&create).await.unwrap_err().to_string().contains("recovery"));
            continue;
        }
        assert_eq!(judged(&standby, "mine").await, "no_hot_standby_feedback");
        feedback(&standby, true).await;
        assert_eq!(judged(&standby, "mine").await, "slot_waits_for_primary");
        // The primary writes down its transactions while the slot waits.
        let made = running.open(&server).await;
        let making = tokio::spawn(async move { made.execute(&create).await });
        while !making.is_finished() {
            primary.execute("SELECT pg_log_standby_snapshot()").await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        making.await.unwrap().unwrap();
        assert_eq!(judged(&standby, "mine").await, "use");
        if primary.server_version() >= 170_000 {
            copied(&primary, &standby).await;
        }
        feedback(&standby, false).await;
        assert_eq!(judged(&standby, "mine").await, "no_hot_standby_feedback");
        invalidated(&primary, &standby).await;
    }
}

/// The copy of a failover slot is not read on a standby: the server says so, too.
async fn copied(primary: &Session, standby: &Session) {
    primary.execute("SELECT pg_create_logical_replication_slot('kept', 'pgoutput', false, false, true)").await.unwrap();
    let mut outcome = Ok(());
    for _ in 0..100 {
        primary.execute("SELECT pg_log_standby_snapshot(), pg_replication_slot_advance('kept', pg_current_wal_flush_lsn())").await.unwrap();
        outcome = standby.execute("SELECT pg_sync_replication_slots()").await;
        if find(standby, "kept").await.unwrap().is_some_and(|slot| slot.synced && !slot.temporary) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let slot = find(standby, "kept").await.unwrap().unwrap_or_else(|| panic!("{outcome:?}"));
    assert!(slot.synced && slot.failover, "{slot:?}");
    assert_eq!(judged(standby, "kept").await, "slot_synced");
    let peek = "SELECT pg_logical_slot_peek_binary_changes('kept', NULL, 1, 'proto_version', '1', 'publication_names', 'p')";
    let error = standby.execute(peek).await.unwrap_err();
    assert!(error.to_string().contains("synchronized"), "{error}");
    // It would keep on the primary what the next test wants to be removed.
    primary.execute(&drop_sql("kept")).await.unwrap();
}

/// Without feedback, vacuum on the primary takes the rows away that the slot needs.
async fn invalidated(primary: &Session, standby: &Session) {
    for _ in 0..200 {
        primary.execute("CREATE TABLE churn (a int)").await.unwrap();
        primary.execute("DROP TABLE churn").await.unwrap();
        for table in ["pg_class", "pg_attribute", "pg_type"] {
            primary.execute(&format!("VACUUM {table}")).await.unwrap();
        }
        if find(standby, "mine").await.unwrap().unwrap().invalidation.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let slot = find(standby, "mine").await.unwrap().unwrap();
    let expected = if primary.server_version() >= 170_000 { Invalidation::RowsRemoved } else { Invalidation::Conflict };
    assert_eq!(slot.invalidation, Some(expected), "{slot:?}");
    assert_eq!(judged(standby, "mine").await, "slot_invalidated");
}
