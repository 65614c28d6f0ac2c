//! Whether a publication sends what the chosen tables need.
//!
//! Promises: pure; one problem for each thing that is wrong, each with the SQL that mends it and what it means for the data. Statements
//! that change what other consumers get say so. Does not know slots.

use super::finding::Finding;
use super::publication::{ChosenTable, PublicationInfo, Published};
use super::table::{Generated, Persistence, Relation, ReplicaIdentity};
use crate::error::Kind;
use crate::postgres::catalog::RelationKind;
use crate::postgres::quote::{identifier, qualified};

/// Tables that a message names.
pub(super) const NAMED: usize = 5;

/// Something wrong with one table, or with the publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Schema and name of the table; `None` where it is about the publication.
    pub table: Option<(String, String)>,
    /// What is wrong.
    pub finding: Finding,
}

/// Everything that is wrong: first with the publication, then table by table.
///
/// Codes: `operations_missing`, `truncate_missing`; `not_capturable`, `partition_not_capturable`, `partitioned_before_13`,
/// `not_published`, `published_by_partition`, `published_under_root`, `inherited`, `columns_missing`, `generated_column`, `row_filter`,
/// `identity_missing`, `identity_not_key`, `identity_not_published`.
pub fn check(publication: &PublicationInfo, tables: &[ChosenTable]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = operations(publication, tables).into_iter().map(|finding| Problem { table: None, finding }).collect();
    for chosen in tables {
        let relation = &chosen.table.relation;
        let table = Some((relation.namespace.clone(), relation.name.clone()));
        problems.extend(findings(publication, chosen).into_iter().map(|finding| Problem { table: table.clone(), finding }));
    }
    problems
}

fn findings(publication: &PublicationInfo, chosen: &ChosenTable) -> Vec<Finding> {
    if let Some(finding) = not_capturable(publication, chosen) {
        return vec![finding];
    }
    let relation = &chosen.table.relation;
    let mut found = Vec::new();
    match publication.published(&relation.namespace, &relation.name) {
        None => found.push(not_published(publication, chosen)),
        Some(published) => {
            found.extend(columns(publication, chosen, published));
            found.extend(row_filter(publication, chosen, published));
            found.extend(identity_not_published(publication, chosen, published));
        }
    }
    found.extend(partitions(chosen));
    found.extend(inherited(chosen));
    found.extend(identity(publication, chosen));
    found
}

/// As messages name a table.
pub(super) fn display(relation: &Relation) -> String {
    format!("{}.{}", relation.namespace, relation.name)
}

fn sql_name(relation: &Relation) -> String {
    qualified(&relation.namespace, &relation.name)
}

fn operations(publication: &PublicationInfo, tables: &[ChosenTable]) -> Vec<Finding> {
    let name = identifier(&publication.name);
    let updates = tables.iter().any(|chosen| chosen.needs_updates);
    let wanted = [("insert", publication.insert, true), ("update", publication.update, updates), ("delete", publication.delete, updates)];
    let lacking: Vec<&str> = wanted.iter().filter(|(_, sent, wanted)| *wanted && !sent).map(|(word, ..)| *word).collect();
    // What is sent stays.
    let all = |truncate: bool| {
        let words = [("insert", true), ("update", publication.update || updates), ("delete", publication.delete || updates)];
        let mut words: Vec<&str> = words.iter().filter(|(_, on)| *on).map(|(word, _)| *word).collect();
        if truncate {
            words.push("truncate");
        }
        format!("ALTER PUBLICATION {name} SET (publish = '{}')", words.join(", "))
    };
    let knows_truncate = publication.version >= 110_000;
    if !lacking.is_empty() {
        let what = format!(
            "publication {name} does not send {}: such changes are lost, and the destination keeps rows as they were",
            lacking.join(", ")
        );
        let finding = Finding::stop("operations_missing", what).remedy("run as its owner; other consumers of it get these changes, too");
        return vec![finding.run(all(knows_truncate))];
    }
    if publication.truncate || tables.is_empty() {
        return Vec::new();
    }
    let what = format!("publication {name} does not send TRUNCATE: a truncated table keeps its rows at the destination");
    let finding = Finding::warn("truncate_missing", what);
    vec![match knows_truncate {
        true => finding.remedy("run as its owner").run(all(true)),
        false => finding.remedy("PostgreSQL 10 cannot send it: load a table again in full after it was truncated"),
    }]
}

fn not_capturable(publication: &PublicationInfo, chosen: &ChosenTable) -> Option<Finding> {
    let relation = &chosen.table.relation;
    let name = display(relation);
    let another = "choose full_refresh or incremental as sync_mode of the stream";
    let what = match relation.kind {
        RelationKind::View => "a view",
        RelationKind::MaterializedView => "a materialized view",
        RelationKind::Foreign => "a foreign table",
        RelationKind::Partitioned if publication.version < 130_000 => {
            let what = format!(
                "{name} is a partitioned table, which a publication of PostgreSQL {} cannot have; no data is affected",
                publication.version / 10_000
            );
            let finding = Finding::stop("partitioned_before_13", what).of(Kind::Config);
            return Some(
                finding.remedy(format!("choose its partitions as streams (discover them with collapse_partitions: false), or {another}")),
            );
        }
        RelationKind::Table | RelationKind::Partitioned => match relation.persistence {
            Persistence::Permanent => return None,
            Persistence::Temporary => "a temporary table",
            Persistence::Unlogged => {
                let what = format!("{name} is an unlogged table: its changes are not in the log and cannot be captured");
                let finding = Finding::stop("not_capturable", what).of(Kind::Config);
                let how = format!("{another}, or have it logged, which rewrites the table under an exclusive lock");
                return Some(finding.remedy(how).run(format!("ALTER TABLE {} SET LOGGED", sql_name(relation))));
            }
        },
    };
    Some(
        Finding::stop("not_capturable", format!("{name} is {what}: it has no changes in the log that could be captured"))
            .of(Kind::Config)
            .remedy(another),
    )
}

/// The table's name does not come up in what is sent.
fn not_published(publication: &PublicationInfo, chosen: &ChosenTable) -> Finding {
    let relation = &chosen.table.relation;
    let (name, of) = (display(relation), identifier(&publication.name));
    let add = format!("ALTER PUBLICATION {of} ADD TABLE {}", sql_name(relation));
    let via_root = |on: bool| format!("ALTER PUBLICATION {of} SET (publish_via_partition_root = {on})");
    let others = "run as owner of the publication; other consumers of it see the change, too";
    let published = |namespace: &str, name: &str| publication.published(namespace, name).is_some();
    if let Some((_, namespace, parent)) = chosen.table.ancestors.iter().find(|(_, namespace, name)| published(namespace, name)) {
        let what =
            format!("changes of partition {name} are sent under the name of {namespace}.{parent}, and would be missed under its own");
        let how = format!("choose {namespace}.{parent} as stream instead, or have partitions sent under their own names: {others}");
        return Finding::stop("published_under_root", what).remedy(how).run(via_root(false));
    }
    if chosen.table.is_partitioned() && chosen.table.descendants.iter().any(|each| published(&each.namespace, &each.name)) {
        let what = format!("changes of {name} are sent under the names of its partitions, and would be missed under its own");
        let finding = Finding::stop("published_by_partition", what);
        let finding = finding.remedy(format!("choose the partitions as streams instead, or have them sent under the root: {others}"));
        let finding = if publication.covers(&chosen.table) { finding } else { finding.run(add) };
        return if publication.via_root { finding } else { finding.run(via_root(true)) };
    }
    let what = format!(
        "{name} is not in publication {of}: none of its changes are sent. Those made before it is added are not sent afterwards either"
    );
    let finding = Finding::stop("not_published", what);
    if publication.covers(&chosen.table) {
        // It is named in it, and yet nothing is sent: a partitioned table without partitions.
        return match chosen.table.is_partitioned() && !publication.via_root {
            true => finding.remedy(others).run(via_root(true)),
            false => finding.remedy("the server leaves it out: see pg_publication_tables"),
        };
    }
    let finding = finding.remedy("set update_method.sync_publication to true, or run as owner of both").run(add);
    let finding = if chosen.table.is_partitioned() && !publication.via_root { finding.run(via_root(true)) } else { finding };
    finding.then("load this table again in full, if it was captured before")
}

/// Drops the table from the publication and adds it again, whole; in one transaction nothing falls between.
fn add_again(finding: Finding, publication: &PublicationInfo, chosen: &ChosenTable) -> Finding {
    let relation = &chosen.table.relation;
    let above = chosen.table.ancestors.iter().find(|(oid, ..)| publication.members.contains(oid));
    let member = match above {
        Some((_, namespace, name)) if !publication.members.contains(&relation.oid) => qualified(namespace, name),
        _ => sql_name(relation),
    };
    let of = identifier(&publication.name);
    finding
        .remedy("run as owner of both; other consumers of the publication get them, too")
        .run("BEGIN")
        .run(format!("ALTER PUBLICATION {of} DROP TABLE {member}"))
        .run(format!("ALTER PUBLICATION {of} ADD TABLE {member}"))
        .run("COMMIT")
}

fn columns(publication: &PublicationInfo, chosen: &ChosenTable, published: &Published) -> Vec<Finding> {
    let name = display(&chosen.table.relation);
    let sent = |column: &str| published.columns.as_ref().map(|columns| columns.iter().any(|each| each == column));
    let generated =
        |column: &str| chosen.table.columns.iter().find(|each| each.name == *column).map_or(Generated::No, |each| each.generated);
    let mut found = Vec::new();
    let absent: Vec<&String> =
        chosen.columns.iter().filter(|column| generated(column) == Generated::No && sent(column) == Some(false)).collect();
    if !absent.is_empty() {
        let what = format!(
            "the publication's column list for {name} leaves out {}: changes come without them, and the destination would get NULL",
            list(&absent)
        );
        let finding = add_again(Finding::stop("columns_missing", what), publication, chosen);
        found.push(Finding { remedy: format!("take these columns out of the stream's selection, or {}", finding.remedy), ..finding });
    }
    // They are sent since 18; 15 to 17 list them in pg_publication_tables all the same.
    let computed = |column: &&String| generated(column) != Generated::No;
    let sends = |column: &&String| publication.version >= 180_000 && sent(column) == Some(true);
    let absent: Vec<&String> = chosen.columns.iter().filter(computed).filter(|column| !sends(column)).collect();
    if !absent.is_empty() {
        let what = format!("changes of {name} come without its generated columns {}: the destination would get NULL", list(&absent));
        let finding = Finding::stop("generated_column", what).of(Kind::Config);
        let deselect = "take them out of the stream's selection";
        let stored = absent.iter().all(|column| generated(column) == Generated::Stored);
        found.push(match publication.version >= 180_000 && stored {
            true => finding
                .remedy(format!("{deselect}, or run as owner of the publication"))
                .run(format!("ALTER PUBLICATION {} SET (publish_generated_columns = stored)", identifier(&publication.name))),
            false => finding.remedy(deselect),
        });
    }
    found
}

fn list(names: &[&String]) -> String {
    names.iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", ")
}

fn row_filter(publication: &PublicationInfo, chosen: &ChosenTable, published: &Published) -> Option<Finding> {
    let filter = published.row_filter.as_ref()?;
    let name = display(&chosen.table.relation);
    let what = format!(
        "the publication sends changes of {name} only where {filter}, and a full load reads all rows: rows that do not meet it stay at the destination as they were when they were loaded, \
         and a row that ceases to meet it is deleted there"
    );
    let finding = add_again(Finding::warn("row_filter", what), publication, chosen);
    Some(Finding { remedy: format!("set the same condition as filter of the stream, or send all rows: {}", finding.remedy), ..finding })
}

/// The server refuses updates and deletes of a table whose identity is not among the published columns.
fn identity_not_published(publication: &PublicationInfo, chosen: &ChosenTable, published: &Published) -> Option<Finding> {
    let (relation, sent) = (&chosen.table.relation, published.columns.as_ref()?);
    let everything: Vec<String>;
    let needed = match relation.identity.setting {
        ReplicaIdentity::Full => {
            let stored = chosen.table.columns.iter().filter(|column| column.generated == Generated::No);
            everything = stored.map(|column| column.name.clone()).collect();
            &everything
        }
        _ => &relation.identity.columns,
    };
    let absent: Vec<&String> = needed.iter().filter(|column| !sent.contains(column)).collect();
    if absent.is_empty() || !(publication.update || publication.delete) {
        return None;
    }
    let what = format!(
        "the publication's column list for {} leaves out {} of its replica identity: every UPDATE and DELETE of the table fails on the server, for the application as well",
        display(relation),
        list(&absent)
    );
    Some(add_again(Finding::stop("identity_not_published", what), publication, chosen))
}

/// Foreign and unlogged partitions have no changes in the log.
fn partitions(chosen: &ChosenTable) -> Option<Finding> {
    let table = chosen.table.is_partitioned().then_some(&chosen.table)?;
    let silent = |each: &&Relation| each.kind == RelationKind::Foreign || each.persistence != Persistence::Permanent;
    let silent: Vec<&Relation> = table.logged().filter(silent).collect();
    let what = format!(
        "{} has partitions whose changes are not in the log (foreign or unlogged): {}; they would be missing at the destination",
        display(&table.relation),
        some(&silent)
    );
    let unlogged = silent.iter().filter(|each| each.persistence == Persistence::Unlogged && each.kind == RelationKind::Table);
    (!silent.is_empty()).then(|| {
        Finding::stop("partition_not_capturable", what)
            .of(Kind::Config)
            .remedy("choose full_refresh or incremental as sync_mode of the stream; an unlogged partition can be logged, which rewrites it under an exclusive lock")
            .run_all(unlogged.map(|each| format!("ALTER TABLE {} SET LOGGED", sql_name(each))))
    })
}

/// Plain inheritance: the server knows no root there.
fn inherited(chosen: &ChosenTable) -> Option<Finding> {
    let table = &chosen.table;
    if table.is_partitioned() || table.descendants.is_empty() {
        return None;
    }
    let children: Vec<&Relation> = table.descendants.iter().collect();
    let what = format!(
        "tables inherit from {}: {}; their changes are sent under their own names, and would be missed under this one",
        display(&table.relation),
        some(&children)
    );
    Some(
        Finding::warn("inherited", what)
            .remedy("choose them as streams of their own, and read this one without them (collapse_partitions: false)"),
    )
}

/// The first few names.
fn some(relations: &[&Relation]) -> String {
    let mut names: Vec<String> = relations.iter().take(NAMED).map(|each| display(each)).collect();
    if relations.len() > NAMED {
        names.push(format!("{} more", relations.len() - NAMED));
    }
    names.join(", ")
}

/// Whether updates and deletes say which row they are about.
fn identity(publication: &PublicationInfo, chosen: &ChosenTable) -> Vec<Finding> {
    let publishes = publication.update || publication.delete;
    if !publishes {
        return Vec::new();
    }
    let table = &chosen.table;
    let unusable: Vec<&Relation> = table.logged().filter(|each| !each.identity.is_usable()).collect();
    if !unusable.is_empty() {
        return vec![identity_missing(chosen, &unusable)];
    }
    if chosen.needs_updates && table.relation.deferrable_key {
        return vec![key_deferrable(&table.relation)];
    }
    // What is logged is the identity of each leaf; what the message calls the key is that of the table it is sent under.
    let key = &table.relation.primary_key;
    let lacks_key = |each: &&Relation| {
        each.identity.setting != ReplicaIdentity::Full && key.iter().any(|column| !each.identity.columns.contains(column))
    };
    let others: Vec<&Relation> = table.logged().filter(lacks_key).collect();
    if others.is_empty() || !chosen.needs_updates {
        return Vec::new();
    }
    let what = format!(
        "the replica identity of {} does not have the primary key's columns ({}): a delete, or an update that changes the key, does not say which row of the destination it is about",
        some(&others),
        list(&key.iter().collect::<Vec<_>>())
    );
    let mend = others.iter().map(|each| format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT", sql_name(each)));
    vec![
        Finding::stop("identity_not_key", what)
            .remedy(
                "run as owner; a short exclusive lock; other consumers get the new identity. Changes logged before that keep the old one",
            )
            .run_all(mend),
    ]
}

/// `UPDATE t SET id = id + 1` is logged as 1 to 2, 2 to 3: which row 2 it is that becomes 3, a reader by keys cannot tell.
fn key_deferrable(relation: &Relation) -> Finding {
    let what = format!(
        "the primary key of {} is deferrable: a row may get the key that another one still has, and which of them a later change is about is not in the log",
        display(relation)
    );
    Finding::stop("key_deferrable", what).remedy(
        "drop the primary key and add it again without DEFERRABLE; or set append_mode for the stream, which makes its changes a log",
    )
}

fn identity_missing(chosen: &ChosenTable, unusable: &[&Relation]) -> Finding {
    let why = match unusable.first() {
        Some(first) => match first.identity.setting {
            ReplicaIdentity::Nothing => "it is set to NOTHING",
            ReplicaIdentity::Index => "the index that it is set to is gone or invalid",
            _ if !first.primary_key.is_empty() => "the primary key is deferrable, which does not count",
            _ => "there is no primary key",
        },
        None => "",
    };
    let server = "every UPDATE and DELETE fails on the server while the table is published, for the application as well";
    let what = format!("{} has no replica identity ({why}): {server}; rows that are only inserted are captured", some(unusable));
    let finding = if chosen.needs_updates { Finding::stop("identity_missing", what) } else { Finding::warn("identity_missing", what) };
    let sql = unusable.iter().map(|each| {
        let alter = format!("ALTER TABLE {} REPLICA IDENTITY", sql_name(each));
        match &each.identity.candidate {
            Some(_) if !each.primary_key.is_empty() && each.identity.setting != ReplicaIdentity::Default => format!("{alter} DEFAULT"),
            Some(index) => format!("{alter} USING INDEX {}", identifier(index)),
            None => format!("{alter} FULL"),
        }
    });
    finding
        .remedy("run as owner; a short exclusive lock; FULL writes the whole old row to the log with each update and delete; or add a primary key")
        .run_all(sql)
}

#[cfg(test)]
#[path = "publication_check_tests.rs"]
mod tests;
