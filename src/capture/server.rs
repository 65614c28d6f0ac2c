//! What a server allows: the settings, counts and privileges that logical replication depends on, and what is wrong with them.
//!
//! Promises: the same question to PostgreSQL 10 to 18, to standbys and to managed services, answered without superuser; the judgement
//! is pure. Does not know slots and publications by themselves.

use super::finding::Finding;
use crate::error::{Error, Result};
use crate::postgres::connect::Session;
use crate::postgres::lsn::Lsn;
use crate::postgres::quote;
use std::time::Duration;

/// Who runs the server; decides where a setting is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// `ALTER SYSTEM` and a restart, as far as can be seen.
    Plain,
    /// Amazon RDS and Aurora.
    Rds,
    /// Google Cloud SQL.
    CloudSql,
    /// Google AlloyDB.
    AlloyDb,
    /// Azure Database for PostgreSQL.
    Azure,
}

/// Why the user may replicate, or that it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// The role has the attribute REPLICATION, or is a superuser.
    Attribute,
    /// Member of a role that the provider has made for it (`rds_replication`).
    Member,
    /// It may not.
    No,
}

/// What matters of the server (manual, "Replication" in "Server Configuration").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// `server_version_num`.
    pub version: u32,
    /// Database of the session.
    pub database: String,
    /// `current_user`.
    pub user: String,
    /// Whether the user may replicate.
    pub replication: Replication,
    /// Who runs the server.
    pub provider: Provider,
    /// `minimal`, `replica` or `logical`.
    pub wal_level: String,
    /// `max_replication_slots`.
    pub slots_max: u32,
    /// Names of all slots, of whatever kind and database, with whether something reads them.
    pub slots: Vec<(String, bool)>,
    /// `max_wal_senders`.
    pub wal_senders_max: u32,
    /// Rows of `pg_stat_replication`.
    pub wal_senders_used: u32,
    /// Whether the server is a standby.
    pub in_recovery: bool,
    /// Of a standby: whether its primary keeps rows that are needed here.
    pub hot_standby_feedback: bool,
    /// Log that slots may hold back, in bytes; `None` means no limit (and always before 13).
    pub max_slot_wal_keep_size: Option<u64>,
    /// Until where the log is written to memory; of a standby, until where it is replayed.
    pub inserted: Lsn,
    /// Until where the log can be read by a consumer: on disk, or on a standby replayed.
    pub readable: Lsn,
    /// After this time without a reader a slot is invalidated; `None` means never (and always before 18).
    pub idle_replication_slot_timeout: Option<Duration>,
    /// How long the server keeps a consumer that has gone silent; `None` means for ever.
    pub wal_sender_timeout: Option<Duration>,
}

/// Until where a consumer can read.
pub(super) const READABLE: &str =
    "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END";

/// Asks the server.
///
/// # Errors
/// A failing query.
pub async fn settings(session: &Session) -> Result<ServerSettings> {
    // `current_setting(…, true)` is NULL for what this version does not know. `pg_settings` gives numbers in the setting's unit.
    let sql = format!(
        "SELECT pg_catalog.current_database()::text, current_user::text, \
            COALESCE((SELECT r.rolsuper OR r.rolreplication FROM pg_catalog.pg_roles r WHERE r.rolname = current_user), false), \
            EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = 'rds_replication' AND pg_catalog.pg_has_role(r.oid, 'USAGE')), \
            CASE WHEN pg_catalog.current_setting('rds.logical_replication', true) IS NOT NULL \
                   OR pg_catalog.current_setting('rds.extensions', true) IS NOT NULL THEN 1 \
                 WHEN pg_catalog.current_setting('alloydb.logical_decoding', true) IS NOT NULL THEN 3 \
                 WHEN pg_catalog.current_setting('cloudsql.logical_decoding', true) IS NOT NULL THEN 2 \
                 WHEN pg_catalog.current_setting('azure.extensions', true) IS NOT NULL THEN 4 ELSE 0 END::int4, \
            pg_catalog.current_setting('wal_level'), \
            pg_catalog.current_setting('max_replication_slots')::int4, \
            pg_catalog.current_setting('max_wal_senders')::int4, \
            (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication)::int4, \
            pg_catalog.pg_is_in_recovery(), \
            pg_catalog.current_setting('hot_standby_feedback')::bool, \
            (SELECT s.setting::int8 FROM pg_catalog.pg_settings s WHERE s.name = 'max_slot_wal_keep_size'), \
            (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                  ELSE pg_catalog.pg_current_wal_insert_lsn() END)::text, \
            ({READABLE})::text, \
            (SELECT s.setting::int8 * CASE s.unit WHEN 'min' THEN 60 WHEN 's' THEN 1 ELSE 0 END FROM pg_catalog.pg_settings s \
                WHERE s.name = 'idle_replication_slot_timeout'), \
            (SELECT s.setting::int8 FROM pg_catalog.pg_settings s WHERE s.name = 'wal_sender_timeout'), \
            ARRAY(SELECT s.slot_name::text FROM pg_catalog.pg_replication_slots s WHERE s.active ORDER BY 1), \
            ARRAY(SELECT s.slot_name::text FROM pg_catalog.pg_replication_slots s WHERE NOT s.active ORDER BY 1)"
    );
    let row = session.row(&sql).await.map_err(|e| e.doing("ask the server for its replication settings"))?;
    let number = |at: usize| u32::try_from(row.get::<_, i32>(at)).unwrap_or(0);
    let slots = |at: usize, active: bool| row.get::<_, Vec<String>>(at).into_iter().map(move |name| (name, active));
    Ok(ServerSettings {
        version: session.server_version(),
        database: row.get(0),
        user: row.get(1),
        replication: match (row.get(2), row.get(3)) {
            (true, _) => Replication::Attribute,
            (false, true) => Replication::Member,
            (false, false) => Replication::No,
        },
        provider: match row.get::<_, i32>(4) {
            1 => Provider::Rds,
            2 => Provider::CloudSql,
            3 => Provider::AlloyDb,
            4 => Provider::Azure,
            _ => Provider::Plain,
        },
        wal_level: row.get(5),
        slots_max: number(6),
        wal_senders_max: number(7),
        wal_senders_used: number(8),
        in_recovery: row.get(9),
        hot_standby_feedback: row.get(10),
        // In megabytes; -1 is no limit.
        max_slot_wal_keep_size: row.get::<_, Option<i64>>(11).and_then(|mb| u64::try_from(mb).ok()).map(|mb| mb << 20),
        inserted: lsn(row.get(12))?.unwrap_or_default(),
        readable: lsn(row.get(13))?.unwrap_or_default(),
        idle_replication_slot_timeout: positive(row.get(14)).map(Duration::from_secs),
        wal_sender_timeout: positive(row.get(15)).map(Duration::from_millis),
        slots: slots(16, true).chain(slots(17, false)).collect(),
    })
}

/// A position that the server has written as text.
pub(super) fn lsn(text: Option<&str>) -> Result<Option<Lsn>> {
    text.map(|text| text.parse().map_err(|e: Error| e.for_kind(crate::error::Kind::Source))).transpose()
}

fn positive(number: Option<i64>) -> Option<u64> {
    number.and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0)
}

/// What a run is going to do, as far as the server must allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// A slot is to be created.
    pub slot: bool,
    /// Changes come over a replication connection, not by SQL (`capture: poll`).
    pub wal_sender: bool,
}

/// What the server does not allow, the gravest first; empty if all is well.
pub fn prerequisites(server: &ServerSettings, needs: Needs) -> Vec<Finding> {
    let found = [
        standby_version(server),
        wal_level(server),
        privilege(server),
        (needs.slot).then(|| free_slot(server)).flatten(),
        (needs.wal_sender).then(|| free_wal_sender(server)).flatten(),
        feedback(server, needs),
    ];
    found.into_iter().flatten().collect()
}

/// Standbys decode since 16.
fn standby_version(server: &ServerSettings) -> Option<Finding> {
    (server.in_recovery && server.version < 160_000).then(|| {
        let major = server.version / 10_000;
        Finding::stop("standby_too_old", format!("the server is a standby, and PostgreSQL {major} can only read changes on a primary; no data is affected"))
            .remedy("give the address of the primary as host (rows can still be read from this one: replica_hosts), or upgrade to PostgreSQL 16 or later")
    })
}

fn wal_level(server: &ServerSettings) -> Option<Finding> {
    if server.wal_level == "logical" {
        return None;
    }
    let at = if server.in_recovery { "on the standby and on its primary" } else { "on the server" };
    let finding = Finding::stop(
        "wal_level_not_logical",
        format!("the server writes its log with wal_level = {}, from which changes cannot be read; no data is affected", server.wal_level),
    );
    Some(match setting_place(server.provider, "wal_level") {
        Some(place) => finding.remedy(format!("{place}, and restart the instance; changes made before that cannot be captured")),
        None => finding
            .remedy(format!(
                "run {at} as superuser, and restart the server (a reload does not do); changes made before that cannot be captured"
            ))
            .run("ALTER SYSTEM SET wal_level = 'logical'"),
    })
}

/// Where a managed service keeps a setting; `None` where SQL sets it.
fn setting_place(provider: Provider, setting: &str) -> Option<String> {
    let (place, name) = match (provider, setting) {
        (Provider::Plain, _) => return None,
        (Provider::Rds, "wal_level") => ("the DB parameter group", "rds.logical_replication = 1"),
        (Provider::CloudSql, "wal_level") => ("the database flags", "cloudsql.logical_decoding = on"),
        (Provider::AlloyDb, "wal_level") => ("the database flags", "alloydb.logical_decoding = on"),
        (Provider::Azure, "wal_level") => ("the server parameters", "wal_level = logical"),
        (Provider::Rds, _) => ("the DB parameter group", setting),
        (Provider::CloudSql | Provider::AlloyDb, _) => ("the database flags", setting),
        (Provider::Azure, _) => ("the server parameters", setting),
    };
    Some(format!("change {name} in {place}"))
}

/// Adds how a setting is changed that needs no restart: the statements, or the place where the provider keeps it.
pub(super) fn with_setting(finding: Finding, server: &ServerSettings, name: &str, value: &str) -> Finding {
    match setting_place(server.provider, &format!("{name} = {value}")) {
        Some(place) => {
            let remedy = format!("{}; {place}", finding.remedy);
            finding.remedy(remedy)
        }
        None => finding.run(format!("ALTER SYSTEM SET {name} = {}", quote::literal(value))).run("SELECT pg_reload_conf()"),
    }
}

fn privilege(server: &ServerSettings) -> Option<Finding> {
    if server.replication != Replication::No {
        return None;
    }
    let user = quote::identifier(&server.user);
    let finding = Finding::stop("no_replication_privilege", format!("user {user} may not replicate; no data is affected"));
    Some(match server.provider {
        Provider::Rds => finding.remedy("run as a member of rds_superuser").run(format!("GRANT rds_replication TO {user}")),
        Provider::CloudSql => finding.remedy("run as a member of cloudsqlsuperuser").run(format!("ALTER ROLE {user} WITH REPLICATION")),
        Provider::AlloyDb => finding.remedy("run as a member of alloydbsuperuser").run(format!("ALTER ROLE {user} WITH REPLICATION")),
        Provider::Azure => finding.remedy("run as the server's administrator").run(format!("ALTER ROLE {user} WITH REPLICATION")),
        Provider::Plain => finding.remedy("run as superuser").run(format!("ALTER ROLE {user} WITH REPLICATION")),
    })
}

/// Slots that a message names.
const NAMED: usize = 5;

fn free_slot(server: &ServerSettings) -> Option<Finding> {
    let used = server.slots.len();
    if used < usize::try_from(server.slots_max).unwrap_or(usize::MAX) {
        return None;
    }
    let mut idle: Vec<&str> = server.slots.iter().filter(|(_, active)| !active).map(|(name, _)| name.as_str()).collect();
    let more = idle.len().saturating_sub(NAMED);
    idle.truncate(NAMED);
    let idle = match (idle.len(), more) {
        (0, _) => "all of them are being read".to_owned(),
        (_, 0) => format!("nothing reads {}", idle.join(", ")),
        (_, more) => format!("nothing reads {} and {more} more", idle.join(", ")),
    };
    let finding = Finding::stop(
        "no_free_slot",
        format!(
            "a replication slot cannot be created: {used} are there and max_replication_slots is {} ({idle}); no data is affected",
            server.slots_max
        ),
    );
    let drop = "drop a slot that nobody needs any more (its consumer loses its place), or";
    Some(match setting_place(server.provider, "max_replication_slots") {
        Some(place) => finding.remedy(format!("{drop} {place}, and restart the instance")),
        None => finding
            .remedy(format!("{drop} raise the limit and restart the server"))
            .run(format!("ALTER SYSTEM SET max_replication_slots = {}", server.slots_max.saturating_mul(2).max(10))),
    })
}

fn free_wal_sender(server: &ServerSettings) -> Option<Finding> {
    if server.wal_senders_used < server.wal_senders_max {
        return None;
    }
    let finding = Finding::stop(
        "no_free_wal_sender",
        format!(
            "the server has no place for another replication connection: {} are open and max_wal_senders is {}; no data is affected",
            server.wal_senders_used, server.wal_senders_max
        ),
    );
    let finding = if server.wal_senders_max > 0 { finding.passing() } else { finding };
    Some(match setting_place(server.provider, "max_wal_senders") {
        Some(place) => finding.remedy(format!("see pg_stat_replication for who holds them; or {place}, and restart the instance")),
        None => finding
            .remedy("see pg_stat_replication for who holds them; or raise the limit and restart the server")
            .run(format!("ALTER SYSTEM SET max_wal_senders = {}", server.wal_senders_max.saturating_mul(2).max(10))),
    })
}

/// Without it the primary's vacuum invalidates a standby's slots (manual, "Replication Slots" in "Logical Decoding").
fn feedback(server: &ServerSettings, needs: Needs) -> Option<Finding> {
    if !server.in_recovery || server.hot_standby_feedback || server.version < 160_000 {
        return None;
    }
    let message = "the server is a standby without hot_standby_feedback: the primary's next vacuum of its catalog can invalidate the slot, and changes not read by then are lost to capture";
    let finding =
        if needs.slot { Finding::stop("no_hot_standby_feedback", message) } else { Finding::warn("no_hot_standby_feedback", message) };
    let between =
        "and have a physical slot between primary and standby (primary_slot_name), or the same happens while they are disconnected";
    let at = if server.provider == Provider::Plain { "run on the standby" } else { "on the standby" };
    Some(with_setting(finding.remedy(format!("{at}, {between}")), server, "hot_standby_feedback", "on"))
}

/// Settings under which all is well, for tests.
#[cfg(test)]
impl ServerSettings {
    pub(crate) fn fine() -> Self {
        Self {
            version: 170_000,
            database: "shop".into(),
            user: "lake".into(),
            replication: Replication::Attribute,
            provider: Provider::Plain,
            wal_level: "logical".into(),
            slots_max: 10,
            slots: vec![("mine".into(), false)],
            wal_senders_max: 10,
            wal_senders_used: 1,
            in_recovery: false,
            hot_standby_feedback: false,
            max_slot_wal_keep_size: None,
            inserted: Lsn(10 << 20),
            readable: Lsn(10 << 20),
            idle_replication_slot_timeout: None,
            wal_sender_timeout: Some(Duration::from_secs(60)),
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
