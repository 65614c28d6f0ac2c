//! Where our tokens are in a table: in the summary of the snapshot that holds the data, and as a table property for when that snapshot
//! has expired. Pure.

use crate::Token;
use iceberg::spec::{SnapshotRef, TableMetadata};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Summary key and table property: the token. The property has the writer's name after it.
const TOKEN: &str = "lakeward.token";
/// Summary key: who wrote it.
const WRITER: &str = "lakeward.writer";
/// Summary key and table property: a snapshot without data, which makes commits of an older run fail, and the run that made it. The property has
/// the writer's name after it.
const FENCE: &str = "lakeward.fence";

/// A token as a table property.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    token: String,
    snapshot: i64,
}

/// The name of the property for one writer.
fn property(key: &str, writer: &str) -> String {
    match writer {
        "" => key.to_owned(),
        writer => format!("{key}.{writer}"),
    }
}

/// The properties that a commit sets.
pub(crate) fn properties(writer: &str, token: &Token, snapshot: i64) -> HashMap<String, String> {
    let kept = serde_json::to_string(&Kept { token: token.0.clone(), snapshot }).unwrap_or_default();
    HashMap::from([(property(TOKEN, writer), kept)])
}

/// The properties that a fence sets.
pub(crate) fn fence_properties(writer: &str, session: &str) -> HashMap<String, String> {
    HashMap::from([(property(FENCE, writer), session.to_owned())])
}

/// What a commit's summary says.
pub(crate) fn summary(writer: &str, token: &Token) -> HashMap<String, String> {
    HashMap::from([(TOKEN.to_owned(), token.0.clone()), (WRITER.to_owned(), writer.to_owned())])
}

/// What the summary of a fence says.
pub(crate) fn fence(writer: &str, session: &str) -> HashMap<String, String> {
    HashMap::from([(FENCE.to_owned(), session.to_owned()), (WRITER.to_owned(), writer.to_owned())])
}

/// The token of this writer that the current snapshot holds.
pub(crate) fn committed(metadata: &TableMetadata, writer: &str) -> Option<Token> {
    let mut last = None;
    for snapshot in ancestors(metadata) {
        let summary = &snapshot.summary().additional_properties;
        if summary.get(WRITER).is_some_and(|of| of == writer)
            && let Some(token) = summary.get(TOKEN)
        {
            return Some(Token(token.clone()));
        }
        last = Some(snapshot);
    }
    // The line ends at the first snapshot ever: there is none.
    if last.is_some_and(|oldest| oldest.parent_snapshot_id().is_none()) {
        return None;
    }
    let kept: Kept = serde_json::from_str(metadata.properties().get(&property(TOKEN, writer))?).ok()?;
    // A snapshot that is still there but is no ancestor was rolled back.
    metadata.snapshot_by_id(kept.snapshot).is_none().then_some(Token(kept.token))
}

/// Whether, since the table was `before`, another run of this writer has taken over: a fence that is not `session`'s.
pub(crate) fn fenced(before: &TableMetadata, now: &TableMetadata, writer: &str, session: &str) -> bool {
    let fence = |metadata: &TableMetadata| metadata.properties().get(&property(FENCE, writer)).cloned();
    let by = fence(now);
    by.as_deref().is_some_and(|by| by != session) && by != fence(before)
}

/// The current snapshot and those before it, as far as they are known.
pub(crate) fn ancestors(metadata: &TableMetadata) -> impl Iterator<Item = &SnapshotRef> {
    metadata.current_snapshot_id().into_iter().flat_map(|id| ancestors_of(metadata, id))
}

/// A snapshot and those before it, as far as they are known.
pub(crate) fn ancestors_of(metadata: &TableMetadata, id: i64) -> impl Iterator<Item = &SnapshotRef> {
    let next = |snapshot: &&SnapshotRef| metadata.snapshot_by_id(snapshot.parent_snapshot_id()?);
    std::iter::successors(metadata.snapshot_by_id(id), next)
}
