//! Slots and settings as real servers tell of them: Debian's, and one of each other major where they have been fetched.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::super::server::{Replication, ServerSettings, settings};
use super::super::slot_judgement::{OnSlotLag, Verdict, Wanted, judge, verdict};
use super::*;
use crate::postgres::connect::session;
use crate::postgres::testing::Server;
use std::time::Duration;

fn servers() -> impl Iterator<Item = Server> {
    std::iter::once_with(Server::own).chain(Server::majors().map(|(_, server)| server))
}

async fn open(server: &Server, user: &str, database: &str) -> Session {
    let mut options = server.options(server.unix(), user);
    options.database = database.to_owned();
    session(&options).await.unwrap()
}

fn wanted(name: &str) -> Wanted {
    Wanted {
        name: name.to_owned(),
        plugin: "pgoutput".into(),
        database: "postgres".into(),
        two_phase: false,
        saved: None,
        create_if_missing: true,
        wal_sender: true,
        max_slot_lag_bytes: None,
        on_slot_lag: OnSlotLag::Stop,
    }
}

/// The verdict's code, or what it is.
async fn judged(admin: &Session, name: &str) -> &'static str {
    let (slot, server) = (find(admin, name).await.unwrap(), settings(admin).await.unwrap());
    match verdict(slot.as_ref(), &server, &wanted(name)) {
        Ok(Verdict::Use { .. }) => "use",
        Ok(Verdict::Create { .. }) => "create",
        Ok(Verdict::Drop { .. }) => "drop",
        Err(finding) => finding.code,
    }
}

/// The server's own code for what it does not do.
async fn code_of(admin: &Session, sql: &str) -> Option<String> {
    admin.execute(sql).await.unwrap_err().code().map(str::to_owned)
}

async fn write_log(admin: &Session, segments: usize) {
    for _ in 0..segments {
        admin.execute("SELECT pg_logical_emit_message(false, 'test', 'x')").await.unwrap();
        admin.execute("SELECT pg_switch_wal()").await.unwrap();
    }
}

#[tokio::test]
async fn slots_are_found_and_judged_on_every_major() {
    for server in servers() {
        let admin = open(&server, "postgres", "postgres").await;
        let version = admin.server_version();
        found_settings(&admin, &settings(&admin).await.unwrap());
        assert_eq!(find(&admin, "mine").await.unwrap(), None);
        assert_eq!(judged(&admin, "mine").await, "create");

        admin.execute(&create_sql("mine", "pgoutput")).await.unwrap();
        let slot = find(&admin, "mine").await.unwrap().unwrap();
        assert!(slot.restart_lsn.unwrap() <= slot.confirmed_flush.unwrap() && slot.lag_bytes.is_some(), "{slot:?}");
        let expected = SlotInfo {
            database: Some("postgres".into()),
            restart_lsn: slot.restart_lsn,
            confirmed_flush: slot.confirmed_flush,
            wal_status: (version >= 130_000).then_some(WalStatus::Reserved),
            lag_bytes: slot.lag_bytes,
            unread_bytes: slot.unread_bytes,
            ..SlotInfo::fine()
        };
        assert_eq!(slot, expected, "{version}");
        let told = settings(&admin).await.unwrap();
        match judge(Some(&slot), &told, &wanted("mine")).unwrap() {
            Verdict::Use { start, warnings } => assert_eq!((Some(start), warnings.len()), (slot.confirmed_flush, 0)),
            other => panic!("{other:?}"),
        }
        others(&server, &admin).await;
        positions(&admin).await;
        limits(&server, &admin).await;
        in_use(&server, &admin).await;
        lost(&admin).await;
    }
}

fn found_settings(admin: &Session, told: &ServerSettings) {
    let fine = ServerSettings::fine();
    let expected = ServerSettings {
        version: admin.server_version(),
        database: "postgres".into(),
        user: "postgres".into(),
        slots_max: 30,
        slots: Vec::new(),
        wal_senders_max: 30,
        wal_senders_used: 0,
        inserted: told.inserted,
        readable: told.readable,
        ..fine
    };
    assert_eq!(*told, expected);
    assert!(told.readable > Lsn(0) && told.readable <= told.inserted, "{told:?}");
}

/// Slots that cannot be used, as the server makes them, and that it refuses them as well.
async fn others(server: &Server, admin: &Session) {
    let version = admin.server_version();
    admin.execute("SELECT pg_create_physical_replication_slot('physical', true)").await.unwrap();
    assert_eq!(judged(admin, "physical").await, "slot_physical");
    admin.execute("CREATE DATABASE other").await.unwrap();
    let other = open(server, "postgres", "other").await;
    other.execute(&create_sql("of_other", "pgoutput")).await.unwrap();
    assert_eq!(judged(admin, "of_other").await, "slot_of_other_database");
    let peek = "SELECT pg_logical_slot_peek_binary_changes('of_other', NULL, 1, 'proto_version', '1', 'publication_names', 'p')";
    let refusal = admin.execute(peek).await.unwrap_err();
    assert!(refusal.to_string().contains("not created in this database"), "{refusal}");
    other.execute("SELECT pg_create_logical_replication_slot('passing', 'pgoutput', true)").await.unwrap();
    let passing = find(admin, "passing").await.unwrap().unwrap();
    assert!(passing.temporary && passing.reader.as_ref().is_some_and(|reader| reader.pid > 0), "{passing:?}");
    let here = Some("postgres".to_owned());
    let told = settings(admin).await.unwrap();
    let refusal = verdict(Some(&SlotInfo { database: here, ..passing }), &told, &wanted("passing")).unwrap_err();
    assert_eq!(refusal.code, "slot_temporary");
    if admin.execute(&create_sql("textual", "test_decoding")).await.is_ok() {
        assert_eq!(judged(admin, "textual").await, "slot_wrong_plugin");
        admin.execute(&drop_sql("textual")).await.unwrap();
    }
    if version >= 140_000 {
        admin.execute("SELECT pg_create_logical_replication_slot('prepared', 'pgoutput', false, true)").await.unwrap();
        assert_eq!(judged(admin, "prepared").await, "slot_two_phase");
        admin.execute(&drop_sql("prepared")).await.unwrap();
    }
    if version >= 170_000 {
        admin.execute("SELECT pg_create_logical_replication_slot('kept', 'pgoutput', false, false, true)").await.unwrap();
        let kept = find(admin, "kept").await.unwrap().unwrap();
        assert!(kept.failover && !kept.synced, "{kept:?}");
        assert_eq!(judged(admin, "kept").await, "use");
        admin.execute(&drop_sql("kept")).await.unwrap();
    }
    for name in ["physical", "of_other"] {
        admin.execute(&drop_sql(name)).await.unwrap();
    }
    for name in ["Upper", "with-dash", "", "ünicode"] {
        assert!(!is_valid_name(name));
        assert_eq!(code_of(admin, &create_sql(name, "pgoutput")).await.as_deref(), Some("42602"), "{name}");
    }
    let longest = "a".repeat(63);
    assert!(is_valid_name(&longest) && !is_valid_name(&"a".repeat(64)));
    admin.execute(&create_sql(&longest, "pgoutput")).await.unwrap();
    admin.execute(&drop_sql(&longest)).await.unwrap();
    other.close().await;
}

/// What a slot has acknowledged, and how much log it holds back.
async fn positions(admin: &Session) {
    let before = find(admin, "mine").await.unwrap().unwrap();
    write_log(admin, 3).await;
    let lagging = find(admin, "mine").await.unwrap().unwrap();
    assert!(lagging.lag_bytes.unwrap() > before.lag_bytes.unwrap() + (32 << 20), "{lagging:?}");
    let told = settings(admin).await.unwrap();
    let mut asked = Wanted { max_slot_lag_bytes: Some(32 << 20), ..wanted("mine") };
    assert_eq!(verdict(Some(&lagging), &told, &asked).unwrap_err().code, "slot_lag");
    admin.execute("SELECT pg_replication_slot_advance('mine', pg_current_wal_flush_lsn())").await.unwrap();
    let advanced = find(admin, "mine").await.unwrap().unwrap();
    assert!(advanced.confirmed_flush > before.confirmed_flush && advanced.unread_bytes.unwrap() < 16 << 20, "{advanced:?}");
    asked = Wanted { saved: before.confirmed_flush, ..wanted("mine") };
    assert_eq!(verdict(Some(&advanced), &told, &asked).unwrap_err().code, "slot_ahead_of_position");
    asked.saved = advanced.confirmed_flush;
    let told = settings(admin).await.unwrap();
    assert!(verdict(Some(&advanced), &told, &asked).is_ok());
}

/// Privileges and counts: what we refuse, the server refuses.
async fn limits(server: &Server, admin: &Session) {
    admin.execute("CREATE ROLE plain LOGIN; CREATE ROLE sender LOGIN REPLICATION; CREATE ROLE rds_replication").await.unwrap();
    let replication = async |user: &str| {
        let theirs = open(server, user, "postgres").await;
        let told = settings(&theirs).await.unwrap();
        assert_eq!(told.user, user);
        // Everything but who reads the slot is seen without privileges.
        assert!(find(&theirs, "mine").await.unwrap().is_some());
        theirs.close().await;
        told.replication
    };
    assert_eq!(replication("plain").await, Replication::No);
    assert_eq!(replication("sender").await, Replication::Attribute);
    let plain = open(server, "plain", "postgres").await;
    assert_eq!(code_of(&plain, &create_sql("theirs", "pgoutput")).await.as_deref(), Some("42501"));
    assert_eq!(judged(&plain, "mine").await, "no_replication_privilege");
    admin.execute("GRANT rds_replication TO plain").await.unwrap();
    assert_eq!(replication("plain").await, Replication::Member);
    plain.close().await;
    for n in 1..30 {
        assert_eq!(judged(admin, "another").await, "create");
        admin.execute(&format!("SELECT pg_create_physical_replication_slot('full_{n}')")).await.unwrap();
    }
    assert_eq!(judged(admin, "another").await, "no_free_slot");
    assert_eq!(judged(admin, "mine").await, "use");
    assert_eq!(code_of(admin, &create_sql("another", "pgoutput")).await.as_deref(), Some("53400"));
    admin.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'full%'").await.unwrap();
}

/// A slot that is being created waits for open transactions; its maker is seen as its reader.
async fn in_use(server: &Server, admin: &Session) {
    let blocker = open(server, "postgres", "postgres").await;
    blocker.execute("BEGIN; SELECT txid_current()").await.unwrap();
    let maker = open(server, "postgres", "postgres").await;
    let pid: i32 = maker.row("SELECT pg_backend_pid()").await.unwrap().get(0);
    let making = tokio::spawn(async move { maker.execute(&create_sql("unborn", "pgoutput")).await });
    let mut seen = None;
    for _ in 0..200 {
        seen = find(admin, "unborn").await.unwrap();
        if seen.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let slot = seen.unwrap();
    let reader = slot.reader.clone().unwrap();
    assert_eq!((reader.pid, reader.user.as_deref(), reader.application.as_deref()), (pid, Some("postgres"), Some("lakeward test")));
    assert!(reader.client.is_none() && reader.since.is_some() && slot.confirmed_flush.is_none(), "{slot:?}");
    assert_eq!(judged(admin, "unborn").await, "slot_in_use");
    blocker.execute("COMMIT").await.unwrap();
    making.await.unwrap().unwrap();
    assert_eq!(judged(admin, "unborn").await, "use");
    admin.execute(&drop_sql("unborn")).await.unwrap();
    blocker.close().await;
}

/// Log that is held back for too long is removed; since 13.
async fn lost(admin: &Session) {
    if admin.server_version() < 130_000 {
        return;
    }
    admin.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '64MB'").await.unwrap();
    admin.execute("SELECT pg_reload_conf()").await.unwrap();
    for _ in 0..200 {
        if settings(admin).await.unwrap().max_slot_wal_keep_size == Some(64 << 20) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = settings(admin).await.unwrap();
    assert_eq!(told.max_slot_wal_keep_size, Some(64 << 20));
    // Segments of 16 MB: the slot comes close to the limit, and then goes over it.
    let warned = async || {
        let (slot, told) = (find(admin, "mine").await.unwrap().unwrap(), settings(admin).await.unwrap());
        match verdict(Some(&slot), &told, &wanted("mine")) {
            Ok(Verdict::Use { warnings, .. }) => (warnings.iter().map(|finding| finding.code).collect::<Vec<_>>(), slot),
            other => panic!("{other:?}"),
        }
    };
    let (none, slot) = warned().await;
    assert!(none.is_empty() && slot.safe_wal_size.unwrap() > 0, "{slot:?}");
    write_log(admin, 8).await;
    let (codes, slot) = warned().await;
    assert_eq!(codes, ["slot_running_out"], "{slot:?}");
    let saved = slot.confirmed_flush;
    admin.execute("CHECKPOINT").await.unwrap();
    let slot = find(admin, "mine").await.unwrap().unwrap();
    assert_eq!((slot.wal_status, &slot.invalidation), (Some(WalStatus::Lost), &Some(Invalidation::WalRemoved)), "{slot:?}");
    let told = settings(admin).await.unwrap();
    let error = judge(Some(&slot), &told, &Wanted { saved, ..wanted("mine") }).unwrap_err();
    assert!(error.to_string().contains("wal_removed") && error.to_string().contains("(it is 64.0 MB now)"), "{error}");
    assert_eq!(error.kind(), crate::error::Kind::State);
    let peek = "SELECT pg_logical_slot_peek_binary_changes('mine', NULL, 1, 'proto_version', '1', 'publication_names', 'p')";
    assert_eq!(code_of(admin, peek).await.as_deref(), Some("55000"));
    // The statements of the remedy are statements.
    for statement in ["ALTER SYSTEM SET max_slot_wal_keep_size = '1024MB'", &drop_sql("mine"), &create_sql("mine", "pgoutput")] {
        assert!(error.advice().unwrap().contains(statement) || statement.contains("create"), "{error}");
        admin.execute(statement).await.unwrap();
    }
    assert_eq!(judged(admin, "mine").await, "use");
}
