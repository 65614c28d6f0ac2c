//! Problems that no server is needed for: what the messages say, and whom they spare.

use super::super::finding::Weight;
use super::super::publication_rights::missing;
use super::super::table::{CaptureTable, Column, Identity};
use super::*;
use std::collections::BTreeMap;

fn relation(name: &str, kind: RelationKind, identity: (ReplicaIdentity, &[&str])) -> Relation {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Relation {
        oid: 100 + name.len() as u32,
        namespace: "public".into(),
        name: name.into(),
        kind,
        persistence: Persistence::Permanent,
        identity: Identity { setting: identity.0, columns: owned(identity.1), candidate: None },
        primary_key: owned(identity.1),
        deferrable_key: false,
        owner: "lake".into(),
        owned: true,
    }
}

fn table(name: &str) -> ChosenTable {
    let column = |name: &str| Column { name: name.into(), generated: Generated::No, toastable: false };
    let relation = relation(name, RelationKind::Table, (ReplicaIdentity::Default, &["id"]));
    let table = CaptureTable { relation, columns: vec![column("id"), column("v")], ancestors: Vec::new(), descendants: Vec::new() };
    ChosenTable { table, columns: vec!["id".into(), "v".into()], needs_updates: true }
}

fn publication(tables: &[&str]) -> PublicationInfo {
    let published = |name: &&str| (("public".to_owned(), (*name).to_owned()), Published::default());
    PublicationInfo {
        version: 150_000,
        name: "p".into(),
        owner: "lake".into(),
        owned: true,
        all_tables: false,
        schemas: Vec::new(),
        members: tables.iter().map(|name| 100 + name.len() as u32).collect(),
        tables: tables.iter().map(published).collect::<BTreeMap<_, _>>(),
        insert: true,
        update: true,
        delete: true,
        truncate: true,
        via_root: false,
        generated: false,
    }
}

fn found(publication: &PublicationInfo, tables: &[ChosenTable]) -> Vec<(Option<String>, &'static str, Weight)> {
    let table = |problem: &Problem| problem.table.as_ref().map(|(_, name)| name.clone());
    check(publication, tables).iter().map(|problem| (table(problem), problem.finding.code, problem.finding.weight)).collect()
}

#[test]
fn operations_are_asked_for_as_far_as_they_are_needed() {
    assert_eq!(found(&publication(&["t"]), &[table("t")]), []);
    let inserts = PublicationInfo { update: false, delete: false, truncate: false, ..publication(&["t"]) };
    assert_eq!(found(&inserts, &[table("t")]), [(None, "operations_missing", Weight::Stop)]);
    let log = ChosenTable { needs_updates: false, ..table("t") };
    assert_eq!(found(&inserts, &[log]), [(None, "truncate_missing", Weight::Warn)]);
    let problem = check(&inserts, &[table("t")]).remove(0);
    assert!(problem.finding.message.contains("does not send update, delete: such changes are lost"), "{problem:?}");
    assert_eq!(problem.finding.sql, ["ALTER PUBLICATION \"p\" SET (publish = 'insert, update, delete, truncate');"]);
    let old = PublicationInfo { version: 100_023, truncate: false, ..publication(&["t"]) };
    assert!(check(&old, &[table("t")])[0].finding.sql.is_empty());
}

#[test]
fn each_problem_is_of_its_own_table() {
    let tables = [table("t"), table("uu")];
    assert_eq!(found(&publication(&["t"]), &tables), [(Some("uu".into()), "not_published", Weight::Stop)]);
    assert_eq!(alter_sql_of(&publication(&["t"]), &tables).as_deref(), Some("ALTER PUBLICATION \"p\" ADD TABLE \"public\".\"uu\""));
    let all = PublicationInfo { all_tables: true, ..publication(&["t"]) };
    assert_eq!(alter_sql_of(&all, &tables), None);
}

fn alter_sql_of(publication: &PublicationInfo, tables: &[ChosenTable]) -> Option<String> {
    super::super::publication_sync::steps(publication, tables).first().map(|step| step.sql[0].clone())
}

#[test]
fn an_identity_is_needed_where_updates_are_published() {
    let mut log = table("t");
    (log.table.relation.identity.columns, log.table.relation.primary_key) = (Vec::new(), Vec::new());
    assert_eq!(found(&publication(&["t"]), std::slice::from_ref(&log)), [(Some("t".into()), "identity_missing", Weight::Stop)]);
    log.needs_updates = false;
    assert_eq!(found(&publication(&["t"]), std::slice::from_ref(&log)), [(Some("t".into()), "identity_missing", Weight::Warn)]);
    let inserts = PublicationInfo { update: false, delete: false, ..publication(&["t"]) };
    assert_eq!(found(&inserts, std::slice::from_ref(&log)), []);
    let said = check(&publication(&["t"]), &[log]).remove(0).finding;
    assert!(said.message.contains("there is no primary key") && said.message.contains("for the application as well"), "{said}");
    assert_eq!(said.sql, ["ALTER TABLE \"public\".\"t\" REPLICA IDENTITY FULL;"]);
    let mut nullable = table("t");
    nullable.table.relation.identity = Identity { setting: ReplicaIdentity::Nothing, columns: Vec::new(), candidate: Some("i".into()) };
    nullable.table.relation.primary_key = Vec::new();
    let said = check(&publication(&["t"]), &[nullable]).remove(0).finding;
    assert_eq!(said.sql, ["ALTER TABLE \"public\".\"t\" REPLICA IDENTITY USING INDEX \"i\";"]);
}

#[test]
fn partitions_without_changes_in_the_log_are_named() {
    let mut root = table("t");
    root.table.relation.kind = RelationKind::Partitioned;
    let identity = (ReplicaIdentity::Default, &["id"][..]);
    root.table.descendants = (0..8).map(|n| relation(&format!("remote_{n}"), RelationKind::Foreign, identity)).collect();
    root.table.descendants.push(Relation { persistence: Persistence::Unlogged, ..relation("zz", RelationKind::Table, identity) });
    let problem = check(&publication(&["t"]), &[root]).remove(0);
    assert_eq!(problem.finding.code, "partition_not_capturable");
    assert!(problem.finding.message.contains("public.remote_4, 4 more;"), "{problem:?}");
    assert_eq!(problem.finding.sql, ["ALTER TABLE \"public\".\"zz\" SET LOGGED;"]);
}

#[test]
fn a_deferrable_key_does_not_say_which_row_is_meant() {
    let mut table = table("t");
    table.table.relation.deferrable_key = true;
    table.table.relation.identity.setting = ReplicaIdentity::Full;
    let codes = |table: &ChosenTable| {
        let problems = check(&publication(&["t"]), std::slice::from_ref(table));
        problems.into_iter().map(|problem| problem.finding.code).collect::<Vec<_>>()
    };
    assert_eq!(codes(&table), ["key_deferrable"]);
    table.needs_updates = false;
    assert!(codes(&table).is_empty(), "a change log has every change");
}

#[test]
fn a_missing_publication_is_older_than_its_slot_or_not() {
    let tables = [table("t")];
    let first = missing("p", &tables, 150_000, false);
    assert_eq!(first.sql, ["CREATE PUBLICATION \"p\" FOR TABLE \"public\".\"t\";"]);
    assert!(first.message.contains("no data is affected"), "{first}");
    let later = missing("p", &tables, 150_000, true);
    assert!(later.message.contains("cannot be read with it") && later.then.contains("drop the slot"), "{later}");
    assert_eq!((first.code, later.code), ("publication_missing", "publication_missing"));
}
