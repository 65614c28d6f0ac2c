//! Metadata from the future: written by a machine whose clock was ahead, or read by one whose clock is behind.
//!
//! A table's metadata must not be older than what its logs say (`TableMetadata` refuses it), and Iceberg's library takes this machine's time for a
//! change without a snapshot. So such a change is made to a table whose times are set back, and what was there gets its own times again. Pure.

use iceberg::spec::TableMetadata;
use serde_json::{Value, json};

const UPDATED: &str = "last-updated-ms";
const TIME: &str = "timestamp-ms";
/// The logs, and what tells their entries apart.
const LOGS: [(&str, &str); 2] = [("snapshot-log", "snapshot-id"), ("metadata-log", "metadata-file")];

/// The same table, as if nothing in it were younger than `now` (milliseconds since 1970).
pub(super) fn set_back(metadata: &TableMetadata, now: i64) -> Result<TableMetadata, serde_json::Error> {
    let mut json = serde_json::to_value(metadata)?;
    let limit = |time: &mut Value| {
        if time.as_i64().is_some_and(|time| time > now) {
            *time = json!(now);
        }
    };
    limit(&mut json[UPDATED]);
    for (log, _) in LOGS {
        json[log].as_array_mut().into_iter().flatten().for_each(|entry| limit(&mut entry[TIME]));
    }
    serde_json::from_value(json)
}

/// What has become of a table that was [`set_back`], with the times of `before`; what is new is as young as that.
pub(super) fn set_forward(metadata: &TableMetadata, before: &TableMetadata) -> Result<TableMetadata, serde_json::Error> {
    let (mut json, before) = (serde_json::to_value(metadata)?, serde_json::to_value(before)?);
    let youngest = before[UPDATED].as_i64().unwrap_or_default();
    let later = |time: &mut Value| *time = json!(time.as_i64().unwrap_or_default().max(youngest));
    later(&mut json[UPDATED]);
    for (log, name) in LOGS {
        // Entries go at the front and come at the end; one snapshot may be named twice.
        let mut known = before[log].as_array().into_iter().flatten();
        for entry in json[log].as_array_mut().into_iter().flatten() {
            match known.find(|known| known[name] == entry[name]) {
                Some(known) => entry[TIME] = known[TIME].clone(),
                None => later(&mut entry[TIME]),
            }
        }
    }
    serde_json::from_value(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back() {
        let of = |updated: i64, snapshots: &[(i64, i64)], files: &[(&str, i64)]| -> TableMetadata {
            let all: Vec<Value> = snapshots
                .iter()
                .map(|(id, _)| json!({"snapshot-id": id, "sequence-number": 1, TIME: 5, "manifest-list": "l", "summary": {"operation": "append"}}))
                .collect();
            let snapshot_log: Vec<Value> = snapshots.iter().map(|(id, time)| json!({"snapshot-id": id, TIME: time})).collect();
            let metadata_log: Vec<Value> = files.iter().map(|(file, time)| json!({"metadata-file": file, TIME: time})).collect();
            serde_json::from_value(json!({
                "format-version": 2, "table-uuid": "01a22336-e287-7366-bae9-ea863b450955", "location": "file:///t", "last-sequence-number": 9, UPDATED: updated,
                "last-column-id": 1, "current-schema-id": 0, "default-spec-id": 0, "last-partition-id": 999, "default-sort-order-id": 0,
                "schemas": [{"schema-id": 0, "type": "struct", "fields": [{"id": 1, "name": "a", "required": true, "type": "int"}]}],
                "partition-specs": [{"spec-id": 0, "fields": []}], "sort-orders": [{"order-id": 0, "fields": []}],
                "current-snapshot-id": snapshots.last().map_or(-1, |(id, _)| *id), "snapshots": all,
                "snapshot-log": snapshot_log, "metadata-log": metadata_log,
            }))
            .expect("metadata")
        };
        let before = of(900_000_000, &[(1, 5), (2, 899_000_000)], &[("a", 5), ("b", 880_000_000)]);
        let back = set_back(&before, 1000).expect("set back");
        assert_eq!(back, of(1000, &[(1, 5), (2, 1000)], &[("a", 5), ("b", 1000)]));
        assert_eq!(set_forward(&back, &before).expect("set forward"), before);
        let changed = of(1000, &[(2, 1000), (3, 1001)], &[("b", 1000), ("c", 1000)]);
        let wanted = of(900_000_000, &[(2, 899_000_000), (3, 900_000_000)], &[("b", 880_000_000), ("c", 900_000_000)]);
        assert_eq!(set_forward(&changed, &before).expect("set forward"), wanted);
    }
}
