//! What chaos does, as a log that can be kept and played again (`chaos.rs`); a seed makes one.

use crate::support::dice::Dice;
use crate::support::workload::{Shapes, transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// What a log says: where to, and what is done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Log {
    pub seed: u64,
    /// Iceberg tables that follow, or a log of changes in an object store.
    pub iceberg: bool,
    /// Where the Iceberg tables are.
    #[serde(default)]
    pub lake: Lake,
    /// Keys of the destination's writer.
    pub writer: Value,
    /// Whether the slot sends transactions when they are prepared.
    pub two_phase: bool,
    /// Whether a standby is there that can take over.
    #[serde(default)]
    pub standby: bool,
    pub rounds: Vec<Round>,
}

/// Where Iceberg tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lake {
    /// In folders of a small disk.
    #[default]
    Disk,
    /// In folders of an object store.
    Store,
    /// In a REST catalog with an object store of its own.
    Catalog,
}

/// A run, what goes on in the database meanwhile, and what happens to it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Round {
    /// Two sessions' statements.
    pub sessions: [Vec<String>; 2],
    /// Whether the run goes on until it is told to stop.
    pub follow: bool,
    /// Steps that fail (`writers/faults.rs`).
    pub faults: String,
    /// From the start of the run, in milliseconds.
    pub after_ms: u64,
    pub disturbance: Disturbance,
    /// Whether the run comes to its end, or is killed.
    pub ends: bool,
    /// Whether everything is brought to rest then, and compared.
    pub compare: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disturbance {
    None,
    /// PostgreSQL dies and recovers.
    ServerCrash,
    /// PostgreSQL is restarted in order.
    ServerRestart,
    /// PostgreSQL dies, and its standby takes over if it has the slot.
    Promotion,
    /// All connections end.
    NetworkEnds,
    /// All connections fall silent.
    NetworkSilent,
    /// Every answer takes some milliseconds.
    NetworkSlow,
    /// No connection can be made for a while.
    NetworkAway,
    /// The sessions of the source are ended by an administrator.
    Terminated,
    /// The object store says for a while that it cannot answer; the catalog and its store say nothing.
    StoreAway,
    /// The object store or the catalog dies in the middle of what it does, and comes back.
    StoreDies,
    /// The disk of the destination and the state is full for a while.
    DiskFull,
}

const DISTURBANCES: [Disturbance; 16] = [
    Disturbance::None,
    Disturbance::None,
    Disturbance::None,
    Disturbance::ServerCrash,
    Disturbance::ServerRestart,
    Disturbance::NetworkEnds,
    Disturbance::NetworkEnds,
    Disturbance::NetworkSilent,
    Disturbance::NetworkSlow,
    Disturbance::NetworkAway,
    Disturbance::Terminated,
    Disturbance::StoreAway,
    Disturbance::StoreDies,
    Disturbance::StoreDies,
    Disturbance::DiskFull,
    Disturbance::DiskFull,
];

/// Those that need a standby; one of them is done instead, now and then.
const WITH_STANDBY: [Disturbance; 3] = [Disturbance::Promotion, Disturbance::Promotion, Disturbance::ServerCrash];

/// Steps that are made to fail; what a run reaches is found by the crash matrix (`crashes.rs`).
const STEPS: [&str; 16] = [
    "storage.upload",
    "storage.finish",
    "storage.finish.done",
    "storage.put",
    "storage.put.done",
    "storage.create",
    "storage.create.done",
    "storage.get",
    "storage.list",
    "catalog.load",
    "catalog.commit",
    "catalog.commit.done",
    "state.save",
    "state.save.done",
    "source.acknowledge",
    "source.snapshot",
];

impl Log {
    /// One that was kept.
    pub fn read(path: &Path) -> Self {
        serde_json::from_slice(&std::fs::read(path).expect("read the log")).expect("a log of chaos")
    }

    /// The log that a seed gives.
    pub fn of(seed: u64, rounds: usize) -> Self {
        let mut dice = Dice::new(seed);
        let iceberg = !dice.one_in(3);
        let writer = match iceberg {
            true => json!({"delete_files": *dice.pick(&["equality", "position", "position"])}),
            false => json!({}),
        };
        let lake = *dice.pick(&[Lake::Disk, Lake::Disk, Lake::Store, Lake::Catalog]);
        let two_phase = dice.one_in(2);
        let standby = dice.one_in(2);
        let mut shapes = Shapes::new("chaos");
        let round = |number| {
            let mut round = Round::of(&mut dice, &mut shapes, iceberg, number);
            if standby && dice.one_in(3) {
                round.disturbance = *dice.pick(&WITH_STANDBY);
            }
            if round.compare {
                shapes.seen();
            }
            round
        };
        let rounds = (0..rounds).map(round).collect();
        Self { seed, iceberg, lake, writer, two_phase, standby, rounds }
    }
}

impl Round {
    fn of(dice: &mut Dice, shapes: &mut Shapes, iceberg: bool, number: usize) -> Self {
        let mut first = Vec::new();
        for _ in 0..=dice.below(4) {
            first.extend((0..dice.below(6)).map(|_| transaction(dice)));
            // What a log cannot say (a default for rows that are there) stops it: that is told elsewhere.
            if iceberg && number > 0 {
                first.extend(shapes.next(dice));
            }
        }
        first.extend(shapes.decide(dice));
        let second = (0..dice.below(20)).map(|_| transaction(dice)).collect();
        let faults = match dice.below(3) {
            0 => {
                let fault = *dice.pick(&["crash", "crash", "fail", "refuse", "slow:300"]);
                format!("{}#{}={fault}", dice.pick(&STEPS), 1 + dice.below(6))
            }
            _ => String::new(),
        };
        let follow = number > 0 && dice.one_in(2);
        Self {
            sessions: [first, second],
            follow,
            faults,
            after_ms: dice.below(if follow { 3000 } else { 1500 }) as u64,
            disturbance: *dice.pick(&DISTURBANCES),
            ends: dice.one_in(3),
            compare: number % 4 == 3,
        }
    }
}
