//! A publication that is not there, or that this user may not make fit: what a run that would create or alter it asks before.
//!
//! Promises: pure; the statement that somebody else has to run is always among what is said. Does not run it.

use super::finding::{Finding, RELOAD};
use super::publication::{ChosenTable, PublicationInfo, Rights, create_sql};
use super::publication_check::{NAMED, display};
use super::publication_sync::steps;
use super::table::Relation;
use crate::error::Kind;
use crate::postgres::quote::identifier;

/// There is no publication of that name. `slot_is_there`: the slot is older than the publication will be.
///
/// The code is `publication_missing`.
pub fn missing(name: &str, tables: &[ChosenTable], version: u32, slot_is_there: bool) -> Finding {
    let what = format!("publication {} does not exist", identifier(name));
    let finding = if slot_is_there {
        Finding::stop(
            "publication_missing",
            format!("{what}, and the slot does: changes that are logged before the publication is there cannot be read with it"),
        )
        .then(format!("drop the slot, have it created again, and {RELOAD}"))
    } else {
        Finding::stop("publication_missing", format!("{what}; no data is affected: nothing is captured yet"))
            .then("create the slot, in this order: changes logged before the publication is there cannot be read with it")
    };
    finding
        .remedy("set update_method.create_if_missing to true, or run as owner of the tables, with CREATE on the database")
        .run(create_sql(name, tables, version))
}

/// Why the user may not create the publication. The code is `publication_not_allowed`.
pub fn may_create(name: &str, tables: &[ChosenTable], version: u32, rights: &Rights) -> Option<Finding> {
    let foreign = foreign_owners(tables.iter().filter(|chosen| chosen.is_publishable(version)));
    if rights.create && foreign.is_empty() {
        return None;
    }
    let mut reasons = Vec::new();
    if !rights.create {
        reasons.push(format!("it has no CREATE on database {}", identifier(&rights.database)));
    }
    reasons.extend(foreign);
    let user = identifier(&rights.user);
    let what = format!("user {user} may not create publication {}: {}; no data is affected", identifier(name), reasons.join(", and "));
    let finding = Finding::stop("publication_not_allowed", what).remedy("run as superuser, or as one who owns the tables");
    Some(finding.run(create_sql(name, tables, version)))
}

/// Why the user may not add what the publication lacks ([`steps`]). The code is `publication_not_allowed`.
pub fn may_alter(publication: &PublicationInfo, tables: &[ChosenTable], rights: &Rights) -> Option<Finding> {
    let steps = steps(publication, tables);
    if steps.is_empty() {
        return None;
    }
    let concerned = |chosen: &&ChosenTable| steps.iter().any(|step| step.table == chosen.table.relation.oid);
    let mut reasons = foreign_owners(tables.iter().filter(concerned));
    if !publication.owned {
        reasons.insert(0, format!("it belongs to {}", identifier(&publication.owner)));
    }
    if reasons.is_empty() {
        return None;
    }
    let (user, name) = (identifier(&rights.user), identifier(&publication.name));
    let what = format!("user {user} may not add to publication {name} what it lacks: {}; no data is affected", reasons.join(", and "));
    let finding = Finding::stop("publication_not_allowed", what).remedy("run as superuser, or as one who owns both");
    Some(steps.into_iter().fold(finding, |finding, step| match &step.sql[..] {
        [one] => finding.run(one),
        several => finding.run("BEGIN").run_all(several.iter().cloned()).run("COMMIT"),
    }))
}

/// A stream is followed already, and the publication lacks its table or some of its columns: adding them now would leave out what was
/// changed before. The code is `published_too_late`.
pub fn too_late(publication: &PublicationInfo, chosen: &ChosenTable) -> Finding {
    let (table, name) = (display(&chosen.table.relation), identifier(&publication.name));
    let lacks = if publication.covers(&chosen.table) { "columns of it" } else { "the table" };
    let what = format!(
        "{table} has been followed, and publication {name} lacks {lacks}, since when is not known: what was changed until they are added is not sent, and would be missing at the destination"
    );
    Finding::stop("published_too_late", what)
        .of(Kind::State)
        .remedy("load the table anew (clear-destination for this stream, then sync): then what is lacking is added first")
}

/// `table public.t belongs to "x"`, the first few.
fn foreign_owners<'a>(tables: impl Iterator<Item = &'a ChosenTable>) -> Vec<String> {
    let foreign: Vec<&Relation> = tables.map(|chosen| &chosen.table.relation).filter(|relation| !relation.owned).collect();
    let mut said: Vec<String> =
        foreign.iter().take(NAMED).map(|each| format!("table {} belongs to {}", display(each), identifier(&each.owner))).collect();
    if foreign.len() > NAMED {
        said.push(format!("{} more tables belong to others", foreign.len() - NAMED));
    }
    said
}
