//! What each kind of server does not allow, without a server; asking one is tested beside the slots.

use super::super::finding::Weight;
use super::*;

const ALL: Needs = Needs { slot: true, wal_sender: true };

/// A change to the case where all is well.
type Change = fn(&mut ServerSettings);

fn found(needs: Needs, change: Change) -> Vec<Finding> {
    let mut server = ServerSettings::fine();
    change(&mut server);
    prerequisites(&server, needs)
}

fn one(code: &str, says: &[&str], change: Change) -> Finding {
    let mut found = found(ALL, change);
    assert_eq!(found.iter().map(|finding| finding.code).collect::<Vec<_>>(), [code]);
    let finding = found.remove(0);
    let all = format!("{finding} {}", finding.advice().expect("advice"));
    for text in says {
        assert!(all.contains(text), "{code}: `{text}` is not in: {all}");
    }
    finding
}

#[test]
fn a_server_that_allows_everything_has_no_findings() {
    assert_eq!(found(ALL, |_| {}), []);
    assert_eq!(found(ALL, |server| server.replication = Replication::Member), []);
    assert_eq!(found(ALL, |server| (server.in_recovery, server.hot_standby_feedback) = (true, true)), []);
}

#[test]
fn each_refusal_is_mended_where_its_setting_is_kept() {
    let says = &["wal_level = replica", "restart", "ALTER SYSTEM SET wal_level = 'logical';", "no data is affected"];
    one("wal_level_not_logical", says, |server| server.wal_level = "replica".into());
    for (provider, place) in [
        (Provider::Rds, "rds.logical_replication = 1"),
        (Provider::CloudSql, "cloudsql.logical_decoding = on"),
        (Provider::AlloyDb, "alloydb.logical_decoding = on"),
        (Provider::Azure, "wal_level = logical in the server parameters"),
    ] {
        let server = ServerSettings { provider, wal_level: "replica".into(), ..ServerSettings::fine() };
        let finding = prerequisites(&server, ALL).remove(0);
        assert!(finding.remedy.contains(place) && finding.sql.is_empty(), "{finding:?}");
    }
    one("no_replication_privilege", &["user \"o\"\"k\"", "ALTER ROLE \"o\"\"k\" WITH REPLICATION;"], |server| {
        (server.replication, server.user) = (Replication::No, "o\"k".into());
    });
    one("no_replication_privilege", &["GRANT rds_replication TO \"lake\";"], |server| {
        (server.replication, server.provider) = (Replication::No, Provider::Rds);
    });
    let says = &["1 are there and max_replication_slots is 1", "nothing reads mine", "max_replication_slots = 10"];
    assert!(!one("no_free_slot", says, |server| server.slots_max = 1).passing);
    one("no_free_slot", &["all of them are being read"], |server| (server.slots_max, server.slots[0].1) = (1, true));
    one("no_free_slot", &["nothing reads s0, s1, s2, s3, s4 and 2 more"], |server| {
        (server.slots_max, server.slots) = (7, (0..7).map(|n| (format!("s{n}"), false)).collect());
    });
    assert!(one("no_free_wal_sender", &["10 are open", "max_wal_senders = 20"], |server| server.wal_senders_used = 10).passing);
    assert!(!one("no_free_wal_sender", &[], |server| (server.wal_senders_used, server.wal_senders_max) = (0, 0)).passing);
    let nothing = Needs { slot: false, wal_sender: false };
    assert_eq!(found(nothing, |server| (server.slots_max, server.wal_senders_max) = (0, 0)), []);
}

#[test]
fn standbys_are_refused_where_they_lose_changes() {
    one("standby_too_old", &["PostgreSQL 15", "primary"], |server| (server.in_recovery, server.version) = (true, 150_018));
    let says = &["hot_standby_feedback", "primary_slot_name", "ALTER SYSTEM SET hot_standby_feedback = 'on'; SELECT pg_reload_conf();"];
    assert_eq!(one("no_hot_standby_feedback", says, |server| server.in_recovery = true).weight, Weight::Stop);
    let found = found(Needs { slot: false, wal_sender: true }, |server| server.in_recovery = true);
    assert_eq!(found.iter().map(|finding| (finding.code, finding.weight)).collect::<Vec<_>>(), [("no_hot_standby_feedback", Weight::Warn)]);
}
