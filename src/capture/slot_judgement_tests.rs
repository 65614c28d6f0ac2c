//! Every verdict on every kind of slot, without a server.

use super::super::server::{Provider, Replication};
use super::super::slot::{Invalidation, Reader};
use super::*;
use crate::error::Retry;
use std::time::Duration;

fn wanted() -> Wanted {
    Wanted {
        name: "mine".into(),
        plugin: "pgoutput".into(),
        database: "shop".into(),
        two_phase: false,
        saved: None,
        create_if_missing: false,
        wal_sender: true,
        max_slot_lag_bytes: None,
        on_slot_lag: OnSlotLag::Stop,
    }
}

/// A change to the case where all is well.
type Change = fn(&mut SlotInfo, &mut ServerSettings, &mut Wanted);

fn judged(there: bool, change: Change) -> Result<Verdict, Finding> {
    let (mut slot, mut server, mut wanted) = (SlotInfo::fine(), ServerSettings::fine(), wanted());
    change(&mut slot, &mut server, &mut wanted);
    verdict(there.then_some(&slot), &server, &wanted)
}

/// The finding, and that its parts say these things.
fn refused(there: bool, code: &str, kind: Kind, says: &[&str], change: Change) -> Finding {
    let finding = judged(there, change).expect_err(code);
    assert_eq!((finding.code, finding.kind, finding.weight), (code, kind, Weight::Stop), "{finding}");
    let all = format!("{finding} {}", finding.advice().expect("advice"));
    for text in says {
        assert!(all.contains(text), "{code}: `{text}` is not in: {all}");
    }
    finding
}

fn codes(verdict: &Verdict) -> Vec<&'static str> {
    match verdict {
        Verdict::Create { warnings } | Verdict::Use { warnings, .. } => warnings.iter().map(|finding| finding.code).collect(),
        Verdict::Drop { because } => vec![because.code],
    }
}

#[test]
fn a_good_slot_is_read_from_what_is_saved() {
    let start = |change: Change| match judged(true, change) {
        Ok(Verdict::Use { start, warnings }) if warnings.is_empty() => start,
        other => panic!("{other:?}"),
    };
    assert_eq!(start(|_, _, _| {}), Lsn(0x2000));
    // What is saved is never less than what was acknowledged; more is usual after a crash between the two.
    assert_eq!(start(|_, _, wanted| wanted.saved = Some(Lsn(0x2000))), Lsn(0x2000));
    assert_eq!(start(|_, _, wanted| wanted.saved = Some(Lsn(0x2001))), Lsn(0x2001));
    assert_eq!(start(|_, server, wanted| wanted.saved = Some(server.inserted)), Lsn(10 << 20));
    // A promoted standby keeps the mark of the copy.
    assert_eq!(start(|slot, _, _| slot.synced = true), Lsn(0x2000));
    assert_eq!(start(|slot, _, wanted| (slot.two_phase, wanted.two_phase) = (true, true)), Lsn(0x2000));
    assert_eq!(start(|_, server, wanted| (server.wal_senders_used, wanted.wal_sender) = (10, false)), Lsn(0x2000));
    assert_eq!(start(|_, server, _| server.slots_max = 1), Lsn(0x2000));
    assert_eq!(start(|slot, _, wanted| (slot.lag_bytes, wanted.max_slot_lag_bytes) = (Some(5), Some(5))), Lsn(0x2000));
    assert_eq!(start(|slot, server, _| (slot.wal_status, server.version) = (None, 120_000)), Lsn(0x2000));
}

#[test]
fn a_missing_slot_is_created_only_where_nothing_is_lost() {
    let created = judged(false, |_, _, wanted| wanted.create_if_missing = true);
    assert_eq!(created, Ok(Verdict::Create { warnings: Vec::new() }));
    let says = &[
        "\"mine\" does not exist",
        "no data is affected",
        "create_if_missing",
        "SELECT pg_create_logical_replication_slot('mine', 'pgoutput');",
    ];
    refused(false, "slot_missing", Kind::Source, says, |_, _, _| {});
    refused(false, "slot_missing", Kind::Source, &["there is \"mine2\""], |_, server, _| server.slots.push(("mine2".into(), true)));
    let says = &["up to 0/2000", "missing at the destination", "failover", "load the cdc streams again in full"];
    let by_hand = refused(false, "slot_lost_with_position", Kind::State, says, |_, _, wanted| wanted.saved = Some(Lsn(0x2000)));
    assert_eq!(by_hand.sql.len(), 1);
    // Even then: a new slot would begin where it is made.
    let by_us = refused(false, "slot_lost_with_position", Kind::State, says, |_, _, wanted| {
        (wanted.saved, wanted.create_if_missing) = (Some(Lsn(0x2000)), true);
    });
    assert!(by_us.sql.is_empty(), "{by_us:?}");
    for create in [false, true] {
        let change: Change =
            if create { |_, _, w| (w.name, w.create_if_missing) = ("Mine".into(), true) } else { |_, _, w| w.name = "a-b".into() };
        refused(false, "slot_name_invalid", Kind::Config, &["lower-case letters"], change);
    }
}

#[test]
fn slots_of_another_kind_are_refused() {
    refused(true, "slot_physical", Kind::Config, &["physical"], |slot, _, _| {
        (slot.logical, slot.plugin, slot.database) = (false, None, None)
    });
    refused(true, "slot_of_other_database", Kind::Config, &["belongs to database \"crm\"", "in \"shop\""], |slot, _, _| {
        slot.database = Some("crm".into());
    });
    let says = &["found" as &str; 0];
    let plugin = refused(true, "slot_wrong_plugin", Kind::Config, says, |slot, _, _| slot.plugin = Some("wal2json".into()));
    assert!(plugin.message.contains("\"wal2json\", accepted: \"pgoutput\"") && plugin.then.is_empty(), "{plugin:?}");
    assert_eq!(plugin.sql, ["SELECT pg_drop_replication_slot('mine');", "SELECT pg_create_logical_replication_slot('mine', 'pgoutput');"]);
    let with_position: Change = |slot, _, wanted| (slot.plugin, wanted.saved) = (Some("wal2json".into()), Some(Lsn(0x2000)));
    assert!(!refused(true, "slot_wrong_plugin", Kind::Config, &[], with_position).then.is_empty());
    refused(true, "slot_temporary", Kind::Config, &["ends with the session", "process 7"], |slot, _, _| {
        (slot.temporary, slot.reader) = (true, Some(Reader { pid: 7, ..Reader::default() }));
    });
    refused(true, "slot_synced", Kind::Config, &["promoted", "primary as host"], |slot, server, _| {
        (slot.synced, server.in_recovery, server.hot_standby_feedback) = (true, true, true);
    });
    refused(true, "slot_two_phase", Kind::Config, &["prepared"], |slot, _, _| slot.two_phase = true);
    refused(true, "slot_unfinished", Kind::Source, &["not ended"], |slot, _, _| slot.confirmed_flush = None);
    // Another run creates it at this moment.
    refused(true, "slot_in_use", Kind::Source, &["process 7"], |slot, _, _| {
        (slot.plugin, slot.confirmed_flush, slot.reader) = (Some(String::new()), None, Some(Reader { pid: 7, ..Reader::default() }));
    });
}

#[test]
fn a_slot_in_use_names_its_reader() {
    let reader = Reader {
        pid: 4711,
        user: Some("etl".into()),
        application: Some("other tool".into()),
        client: Some("10.0.0.1:5000".into()),
        since: Some("2026-01-01 00:00:00 UTC".into()),
    };
    assert_eq!(
        reader.to_string(),
        "process 4711 (user \"etl\", application \"other tool\", from 10.0.0.1:5000, since 2026-01-01 00:00:00 UTC)"
    );
    assert_eq!(Reader { pid: 5, ..Reader::default() }.to_string(), "process 5");
    let says = &["process 9 (user \"etl\")", "no data is lost by waiting", "wal_sender_timeout, which is 60 s", "pg_terminate_backend(9)"];
    let finding = refused(true, "slot_in_use", Kind::Source, says, |slot, _, _| {
        slot.reader = Some(Reader { pid: 9, user: Some("etl".into()), ..Reader::default() });
    });
    // The rest of a dead run goes away by itself.
    assert_eq!(Error::from(finding).retry(), Retry::Again);
    refused(true, "slot_in_use", Kind::Source, &["wal_sender_timeout is 0"], |slot, server, _| {
        (slot.reader, server.wal_sender_timeout) = (Some(Reader::default()), None);
    });
}

#[test]
fn an_invalidated_slot_says_why_and_what_is_lost() {
    let kept = &[
        "wal_removed",
        "max_slot_wal_keep_size",
        "(it is 64.0 MB now)",
        "'1024MB'",
        "pg_reload_conf",
        "up to 0/2000",
        "missing at the destination",
        "again in full",
    ];
    let finding = refused(true, "slot_invalidated", Kind::State, kept, |slot, server, wanted| {
        slot.invalidation = Some(Invalidation::WalRemoved);
        (server.max_slot_wal_keep_size, wanted.saved) = (Some(64 << 20), Some(Lsn(0x2000)));
    });
    assert_eq!(finding.sql.last().map(String::as_str), Some("SELECT pg_create_logical_replication_slot('mine', 'pgoutput');"));
    let finding = refused(true, "slot_invalidated", Kind::Source, &["wal_removed", "no data is affected"], |slot, _, wanted| {
        (slot.wal_status, slot.confirmed_flush, wanted.create_if_missing) = (Some(WalStatus::Lost), None, true);
    });
    assert_eq!(finding.sql, ["SELECT pg_drop_replication_slot('mine');"]);
    assert!(finding.then.is_empty());
    refused(true, "slot_invalidated", Kind::Source, &["rows_removed", "ALTER SYSTEM SET hot_standby_feedback = 'on';"], |slot, _, _| {
        slot.invalidation = Some(Invalidation::RowsRemoved);
    });
    refused(true, "slot_invalidated", Kind::Source, &["wal_level_insufficient", "below logical"], |slot, _, _| {
        slot.invalidation = Some(Invalidation::WalLevelInsufficient);
    });
    refused(
        true,
        "slot_invalidated",
        Kind::Source,
        &["idle_timeout", "(it is 2 h now)", "idle_replication_slot_timeout = '0'"],
        |slot, server, _| {
            (slot.invalidation, server.idle_replication_slot_timeout) = (Some(Invalidation::IdleTimeout), Some(Duration::from_secs(7200)));
        },
    );
    refused(true, "slot_invalidated", Kind::Source, &["conflicting"], |slot, _, _| slot.invalidation = Some(Invalidation::Conflict));
    refused(true, "slot_invalidated", Kind::Source, &["(moon_phase)"], |slot, _, _| {
        slot.invalidation = Some(Invalidation::Other("moon_phase".into()))
    });
    refused(true, "slot_invalidated", Kind::Source, &["parameter group"], |slot, server, _| {
        (slot.invalidation, server.provider) = (Some(Invalidation::RowsRemoved), Provider::Rds);
    });
}

#[test]
fn positions_that_contradict_each_other_stop_the_run() {
    let says = &[
        "acknowledged everything up to 0/2000",
        "only up to 0/1FFF",
        "(1 bytes of log)",
        "never sent again",
        "newer state file",
        "again in full",
    ];
    let finding = refused(true, "slot_ahead_of_position", Kind::State, says, |_, _, wanted| wanted.saved = Some(Lsn(0x1FFF)));
    // Nothing on the source mends it.
    assert!(finding.sql.is_empty());
    let beyond: Change = |_, server, wanted| wanted.saved = Some(Lsn(server.inserted.0 + 1));
    for there in [true, false] {
        refused(there, "position_beyond_server", Kind::State, &["log ends at 0/A00000", "another server"], beyond);
    }
    let finding = refused(true, "standby_behind", Kind::Source, &["replayed only up to 0/A00000"], |_, server, wanted| {
        (server.in_recovery, server.hot_standby_feedback, wanted.saved) = (true, true, Some(Lsn(11 << 20)));
    });
    assert!(finding.passing);
}

#[test]
fn lag_over_the_limit_does_what_was_asked_for() {
    let over: Change = |slot, _, wanted| {
        (slot.lag_bytes, slot.unread_bytes, wanted.max_slot_lag_bytes) = (Some(3 << 30), Some(3 << 30), Some(1 << 30));
    };
    let says = &["holds back 3.0 GB", "max_slot_lag_bytes (1.0 GB)", "no data is lost", "on_slot_lag: warn", "pg_drop_replication_slot"];
    refused(true, "slot_lag", Kind::Source, says, over);
    let (mut slot, server, mut asked) = (SlotInfo::fine(), ServerSettings::fine(), wanted());
    over(&mut slot, &mut ServerSettings::fine(), &mut asked);
    asked.on_slot_lag = OnSlotLag::Warn;
    let warned = verdict(Some(&slot), &server, &asked).expect("a warning");
    assert_eq!(codes(&warned), ["slot_lag"]);
    asked.on_slot_lag = OnSlotLag::DropSlot;
    match verdict(Some(&slot), &server, &asked) {
        Ok(Verdict::Drop { because }) => {
            assert_eq!((because.code, because.kind, because.weight), ("slot_lag", Kind::State, Weight::Stop));
            assert!(because.message.contains("changes made after 0/2000") && !because.then.is_empty(), "{because}");
        }
        other => panic!("{other:?}"),
    }
    // A slot that another reads is not dropped.
    slot.reader = Some(Reader { pid: 1, ..Reader::default() });
    assert_eq!(verdict(Some(&slot), &server, &asked).map_err(|finding| finding.code), Err("slot_in_use"));
    // What an open transaction holds back is not read away.
    refused(true, "slot_lag", Kind::Source, &["only 1.0 MB of it are unread", "pg_prepared_xacts", "xact_start"], |slot, _, wanted| {
        (slot.lag_bytes, slot.unread_bytes, wanted.max_slot_lag_bytes) = (Some(3 << 30), Some(1 << 20), Some(1 << 30));
    });
}

#[test]
fn what_will_go_wrong_is_told_before() {
    let warned = |there: bool, change: Change| codes(&judged(there, change).expect("a verdict"));
    assert_eq!(warned(true, |slot, _, _| slot.wal_status = Some(WalStatus::Unreserved)), ["slot_running_out"]);
    assert_eq!(
        warned(true, |slot, server, _| (slot.safe_wal_size, server.max_slot_wal_keep_size) = (Some(19), Some(100))),
        ["slot_running_out"]
    );
    assert!(warned(true, |slot, server, _| (slot.safe_wal_size, server.max_slot_wal_keep_size) = (Some(20), Some(100))).is_empty());
    assert_eq!(
        warned(true, |slot, server, _| (slot.safe_wal_size, server.max_slot_wal_keep_size) = (Some(-1), Some(100))),
        ["slot_running_out"]
    );
    for there in [true, false] {
        let idle: Change = |_, server, wanted| {
            (server.idle_replication_slot_timeout, wanted.create_if_missing) = (Some(Duration::from_secs(60)), true);
        };
        assert_eq!(warned(there, idle), ["slot_idle_timeout"]);
    }
    let standby: Change = |_, server, wanted| {
        (server.in_recovery, server.hot_standby_feedback, wanted.create_if_missing) = (true, true, true);
    };
    assert_eq!(warned(false, standby), ["slot_waits_for_primary"]);
    // One that is there is the user's own decision.
    assert_eq!(warned(true, |_, server, _| server.in_recovery = true), ["no_hot_standby_feedback"]);
}

#[test]
fn the_server_is_asked_first_and_what_passes_is_told_last() {
    refused(true, "wal_level_not_logical", Kind::Source, &[], |slot, server, _| {
        (slot.temporary, server.wal_level) = (true, "replica".into());
    });
    refused(true, "no_replication_privilege", Kind::Source, &[], |_, server, _| server.replication = Replication::No);
    refused(false, "no_free_slot", Kind::Source, &[], |_, server, wanted| (server.slots_max, wanted.create_if_missing) = (1, true));
    refused(true, "no_free_wal_sender", Kind::Source, &[], |_, server, _| server.wal_senders_used = 10);
    refused(false, "no_free_wal_sender", Kind::Source, &[], |_, server, wanted| {
        (server.wal_senders_used, wanted.create_if_missing) = (10, true)
    });
    refused(true, "slot_physical", Kind::Config, &[], |slot, server, _| (slot.logical, server.wal_senders_used) = (false, 10));
    let error = judge(None, &ServerSettings::fine(), &wanted()).expect_err("no slot");
    assert!(error.to_string().ends_with("[slot_missing]"), "{error}");
}
