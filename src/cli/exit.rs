//! How a run ends: one table from the kind of an error to an exit status. README shows the same table.

use crate::error::{Error, Kind};
use std::process::ExitCode;

/// Exit statuses; stable.
pub const TABLE: [(u8, &str); 9] = [
    (0, "done"),
    (1, "a mistake in Lakeward"),
    (2, "wrong use of the command line"),
    (3, "configuration: a file or flag is wrong"),
    (4, "source: PostgreSQL refused, failed or cannot be reached"),
    (5, "destination: it refused, failed or cannot be reached"),
    (6, "state conflict: state file, destination and source contradict each other, or another run is active"),
    (7, "schema conflict: a table's shape does not fit the catalog or the destination"),
    (8, "interrupted; the same command with --state goes on"),
];

/// The exit status of an error of `kind`.
pub fn status(kind: Kind) -> u8 {
    match kind {
        Kind::Bug => 1,
        Kind::Config => 3,
        Kind::Source => 4,
        Kind::Destination => 5,
        Kind::State => 6,
        Kind::Schema => 7,
        Kind::Interrupted => 8,
    }
}

/// The exit code of a finished command.
pub fn code(outcome: &Result<(), Error>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(status(error.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_row_of_its_own() {
        let kinds = [Kind::Bug, Kind::Config, Kind::Source, Kind::Destination, Kind::State, Kind::Schema, Kind::Interrupted];
        let mut found: Vec<_> = kinds.into_iter().map(status).collect();
        found.dedup();
        assert_eq!(found.len(), kinds.len());
        assert!(found.iter().all(|s| TABLE.iter().any(|(row, _)| row == s)));
    }
}
