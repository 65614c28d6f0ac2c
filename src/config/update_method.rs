//! `update_method` of `source.json`: how changes are captured.

use super::seconds::Seconds;
use crate::capture::slot_judgement::OnSlotLag;
use crate::error::{Error, Result};
use crate::postgres::changes::Way;
use crate::postgres::slot_poll::Rhythm;
use crate::sync::capture;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::num::NonZeroU32;
use std::time::Duration;

/// Between two polls, unless the file says otherwise.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Changes of a poll, unless the file says otherwise.
const POLL_ROWS: u32 = 100_000;
/// Between two commits of changes, unless the file says otherwise.
const COMMIT_INTERVAL: Duration = Duration::from_secs(10);
/// What `max_slot_lag_bytes` is by default: more than a job that runs now and then leaves, less than most disks have.
const SLOT_LAG_BYTES: u64 = 50 << 30;

/// How a slot is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CaptureMode {
    /// In a replication connection. The default.
    #[default]
    Stream,
    /// By SQL functions, where a pooler or a host does not let replication connections through. The server decodes from the slot's position for each poll.
    Poll,
}

/// What a TRUNCATE of a followed table does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTruncate {
    /// The rows go; in a change log it is a row of its own. The default.
    #[default]
    Apply,
    /// Nothing: the rows stay, as in OLake.
    Ignore,
    /// The table stops, with an error.
    Fail,
}

/// What becomes of the rows of a partition that is detached or dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDetach {
    /// They stay, and the run says so: a partition that is dropped because it is old is history. The default.
    #[default]
    Keep,
    /// The table is copied again.
    Reload,
}

/// Change data capture.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-not-built" = [
    "plugin", "max_changes", "idle_timeout_s"
]))]
pub struct UpdateMethod {
    /// Logical replication slot.
    pub replication_slot: Option<String>,
    /// Publication that the slot reads. Absent with `create_if_missing`: the slot's name.
    pub publication: Option<String>,
    /// Ours: create the slot, and the publication with the chosen tables, if they are missing. Default false: what is missing is an error.
    pub create_if_missing: bool,
    /// Ours: with `--follow`, the time between two commits of changes; so old is what readers see at most, beside the time that a commit takes. Default 10.
    pub commit_interval_s: Option<Seconds>,
    /// Ours: with `--follow`, the time between two empty messages that are written into the log (`pg_logical_emit_message`), for hosts where a log that
    /// stands still is a trouble. Default 0: none. A slot of an idle database in a busy server moves without.
    pub heartbeat_s: Option<Seconds>,
    /// Ours: how the slot is read.
    pub capture: CaptureMode,
    /// Ours: with `capture` poll, the time in milliseconds between two polls, once there is nothing left to read. Default 1000.
    pub poll_interval_ms: Option<u64>,
    /// Ours: with `capture` poll, how many changes to ask for at once; the transaction in which that many are reached comes whole. Default 100000.
    pub poll_rows: Option<NonZeroU32>,
    /// Ours: what a TRUNCATE of a followed table does.
    pub on_truncate: OnTruncate,
    /// Ours: what becomes of the rows of a partition that is detached or dropped, of which the log says nothing.
    pub on_detach: OnDetach,
    /// Ours: a slot that `create_if_missing` makes is one that standbys keep in step (PostgreSQL 17 and later; see the manual on `sync_replication_slots`), so that following goes on after a fail-over. Default false.
    pub failover_slot: bool,
    /// Ours: add to the publication, before the slot is read, the chosen tables that it does not have and the chosen columns that its column lists leave out. Nothing is ever taken out of it, and one FOR ALL TABLES needs nothing. Takes the rights of an owner, and holds up writing to a table for half a second at most at a time. Default false: what is lacking is an error.
    pub sync_publication: bool,
    /// Ours: `clear-destination` with `--config` also drops the slot when no stream of the state is followed any more, and the publication if `create_if_missing` has made it. Default false: both stay, and the server keeps the log for the slot.
    pub drop_on_clear: bool,
    /// Ours: bytes of log that the slot may hold back on the server. Judged when a run begins. Default 53687091200 (50 GiB); 0: any number.
    pub max_slot_lag_bytes: Option<u64>,
    /// Ours: what to do when it holds back more.
    pub on_slot_lag: OnSlotLag,
    /// How long OLake waits for the first change, in seconds. A run here ends where the log ended when it began, however long ago the last change was.
    pub initial_wait_time: Option<u64>,
    /// `initial_wait_time` as OLake's documentation spells it.
    pub intial_wait_time: Option<u64>,
    /// OLake's, dead.
    #[serde(rename = "type")]
    #[schemars(extend("x-no-effect" = "the presence of `replication_slot` decides"))]
    kind: Option<Value>,
}

impl UpdateMethod {
    fn way(&self) -> Result<Way> {
        let polls = self.capture == CaptureMode::Poll;
        for (key, given) in [("poll_interval_ms", self.poll_interval_ms.is_some()), ("poll_rows", self.poll_rows.is_some())] {
            if given && !polls {
                return Err(Error::config(format!("`update_method.{key}`: has no effect without \"capture\": \"poll\""))
                    .hint("remove it, or set capture"));
            }
        }
        let interval = self.poll_interval_ms.map_or(POLL_INTERVAL, Duration::from_millis);
        let rows = self.poll_rows.map_or(POLL_ROWS, NonZeroU32::get);
        Ok(if polls { Way::Poll(Rhythm { interval, rows }) } else { Way::Stream })
    }

    /// The time between two commits of a run without end.
    pub fn commit_interval(&self) -> Duration {
        self.commit_interval_s.map_or(COMMIT_INTERVAL, |Seconds(interval)| interval)
    }

    /// The slot, and what it is read through.
    ///
    /// # Errors
    /// An empty name of the slot, or none of the publication.
    pub fn terms(&self) -> Result<capture::Terms> {
        let given = |name: &Option<String>| name.as_deref().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        let missing = |key: &str, what: &str| {
            Error::config(format!("`update_method.{key}`: found nothing, accepted: the name of a {what}"))
                .hint("name it; with \"create_if_missing\": true what is not there is created, and the publication is called like the slot")
        };
        let slot = given(&self.replication_slot).ok_or_else(|| missing("replication_slot", "slot"))?;
        let own = || Some(slot.clone()).filter(|_| self.create_if_missing);
        let publication = given(&self.publication).or_else(own).ok_or_else(|| missing("publication", "publication"))?;
        let heartbeat = self.heartbeat_s.map_or(Duration::ZERO, |Seconds(time)| time);
        let max_slot_lag_bytes = self.max_slot_lag_bytes.unwrap_or(SLOT_LAG_BYTES);
        Ok(capture::Terms {
            slot,
            publication,
            create_if_missing: self.create_if_missing,
            heartbeat,
            on_truncate: self.on_truncate,
            on_detach: self.on_detach,
            way: self.way()?,
            failover: self.failover_slot,
            sync_publication: self.sync_publication,
            max_slot_lag_bytes: Some(max_slot_lag_bytes).filter(|limit| *limit > 0),
            on_slot_lag: self.on_slot_lag,
        })
    }
}
