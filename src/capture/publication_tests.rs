//! Publications and tables as real servers tell of them, and the SQL that we say: Debian's server, and one of each other major.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::super::publication_check::check;
use super::super::publication_rights::{may_alter, may_create};
use super::super::publication_sync::{apply, steps};
use super::super::table::{ReplicaIdentity, load};
use super::*;
use crate::postgres::connect::session;
use crate::postgres::testing::Server;
use std::time::Duration;

async fn chosen(session: &Session, name: &str, columns: &[&str]) -> ChosenTable {
    let row = session.row(&format!("SELECT '{name}'::regclass::oid")).await.unwrap();
    let table = load(session, &[row.get(0)]).await.unwrap().remove(0);
    let all: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    let columns = if columns.is_empty() { all } else { columns.iter().map(|column| (*column).to_owned()).collect() };
    ChosenTable { table, columns, needs_updates: true }
}

/// Codes of all problems, after asking for the publication anew.
async fn codes(session: &Session, publication: &str, tables: &[ChosenTable]) -> Vec<&'static str> {
    let publication = find(session, publication).await.unwrap().unwrap();
    check(&publication, tables).iter().map(|problem| problem.finding.code).collect()
}

/// Runs what the only problem of that code says.
async fn mend(session: &Session, publication: &str, tables: &[ChosenTable], code: &str) {
    let found = find(session, publication).await.unwrap().unwrap();
    let problems = check(&found, tables);
    let problem = problems.iter().find(|problem| problem.finding.code == code).unwrap_or_else(|| panic!("{code}: {problems:?}"));
    assert!(!problem.finding.sql.is_empty(), "{problem:?}");
    for sql in &problem.finding.sql {
        session.execute(sql).await.unwrap();
    }
}

const TABLES: &str = r#"
    CREATE SCHEMA "a b";
    CREATE TABLE "a b"."T""1" (id int PRIMARY KEY, v text, n numeric, fixed int NOT NULL, UNIQUE (fixed, id));
    CREATE TABLE no_key (v text);
    CREATE TABLE late_key (id int PRIMARY KEY DEFERRABLE, v text);
    CREATE UNLOGGED TABLE volatile (id int PRIMARY KEY);
    CREATE VIEW seen AS SELECT 1 AS id;
    CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent);
    CREATE TABLE root (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE leaf_1 PARTITION OF root FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    CREATE TABLE mid PARTITION OF root FOR VALUES FROM ('2021-01-01') TO ('2022-01-01') PARTITION BY RANGE (at);
    CREATE TABLE leaf_2 PARTITION OF mid FOR VALUES FROM ('2021-01-01') TO ('2021-07-01');
    CREATE TABLE computed (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)"#;

#[tokio::test]
async fn publications_are_found_and_mended_on_every_major() {
    for server in std::iter::once_with(Server::own).chain(Server::majors().map(|(_, server)| server)) {
        let options = server.options(server.unix(), "postgres");
        let admin = session(&options).await.unwrap();
        admin.execute(TABLES).await.unwrap();
        let version = admin.server_version();
        assert_eq!(find(&admin, "p").await.unwrap(), None);
        facts(&admin).await;
        ordinary(&admin).await;
        identities(&admin).await;
        partitions(&admin, version).await;
        if version >= 150_000 {
            lists_and_filters(&admin).await;
        }
        generated(&admin, version).await;
        foreign(&server, &admin).await;
    }
}

/// What has to be added, as one text.
fn alter_sql(publication: &PublicationInfo, tables: &[ChosenTable]) -> Option<String> {
    let sql: Vec<String> = steps(publication, tables).into_iter().flat_map(|step| step.sql).collect();
    (!sql.is_empty()).then(|| sql.join("; "))
}

async fn facts(admin: &Session) {
    let first = chosen(admin, r#""a b"."T""1""#, &[]).await.table;
    assert_eq!((first.relation.namespace.as_str(), first.relation.name.as_str()), ("a b", "T\"1"));
    assert_eq!(
        (first.relation.identity.setting, first.relation.identity.columns.as_slice()),
        (ReplicaIdentity::Default, &["id".to_owned()][..])
    );
    let toastable: Vec<bool> = first.columns.iter().map(|column| column.toastable).collect();
    assert_eq!(toastable, [false, true, true, false]);
    let late = chosen(admin, "late_key", &[]).await.table.relation;
    assert_eq!((late.primary_key.as_slice(), late.identity.is_usable()), (&["id".to_owned()][..], false));
    let root = chosen(admin, "root", &[]).await.table;
    let beneath: Vec<&str> = root.descendants.iter().map(|each| each.name.as_str()).collect();
    let logged: Vec<&str> = root.logged().map(|each| each.name.as_str()).collect();
    assert_eq!((beneath, logged), (vec!["leaf_1", "leaf_2", "mid"], vec!["leaf_1", "leaf_2"]));
    let leaf = chosen(admin, "leaf_2", &[]).await.table;
    assert_eq!(leaf.ancestors.iter().map(|(.., name)| name.as_str()).collect::<Vec<_>>(), ["mid", "root"]);
    assert!(chosen(admin, "child", &[]).await.table.ancestors.is_empty());
    let gone = load(admin, &[first.relation.oid, 4_000_000_000]).await.unwrap_err();
    assert!(gone.to_string().contains("4000000000"), "{gone}");
}

async fn ordinary(admin: &Session) {
    let tables = [chosen(admin, r#""a b"."T""1""#, &[]).await, chosen(admin, "volatile", &[]).await, chosen(admin, "seen", &[]).await];
    let sql = create_sql("p\"1", &tables, admin.server_version());
    assert_eq!(sql, r#"CREATE PUBLICATION "p""1" FOR TABLE "a b"."T""1""#);
    admin.execute(&sql).await.unwrap();
    let found = find(admin, "p\"1").await.unwrap().unwrap();
    assert!(found.owned && found.insert && found.update && found.delete && found.truncate && !found.via_root && !found.all_tables);
    assert_eq!(codes(admin, "p\"1", &tables).await, ["not_capturable", "not_capturable"]);
    assert_eq!(alter_sql(&found, &tables), None);
    // The server agrees about what cannot be published.
    for name in ["volatile", "seen"] {
        assert!(admin.execute(&format!("CREATE PUBLICATION q FOR TABLE {name}")).await.is_err(), "{name}");
    }
    let more = [tables[0].clone(), chosen(admin, "parent", &[]).await];
    assert_eq!(codes(admin, "p\"1", &more).await, ["not_published", "inherited"]);
    assert_eq!(alter_sql(&found, &more).unwrap(), r#"ALTER PUBLICATION "p""1" ADD TABLE ONLY "public"."parent""#);
    apply(admin, "p\"1", &steps(&found, &more), Duration::ZERO).await.unwrap();
    assert_eq!(codes(admin, "p\"1", &more).await, ["inherited"]);
    admin.execute(r#"ALTER PUBLICATION "p""1" SET (publish = 'insert, delete')"#).await.unwrap();
    assert_eq!(codes(admin, "p\"1", &tables[..1]).await, ["operations_missing"]);
    mend(admin, "p\"1", &tables[..1], "operations_missing").await;
    admin.execute(r#"ALTER PUBLICATION "p""1" SET (publish = 'insert, update, delete')"#).await.unwrap();
    assert_eq!(codes(admin, "p\"1", &tables[..1]).await, ["truncate_missing"]);
    mend(admin, "p\"1", &tables[..1], "truncate_missing").await;
    assert!(codes(admin, "p\"1", &tables[..1]).await.is_empty());
    admin.execute(r#"DROP PUBLICATION "p""1"; CREATE PUBLICATION p FOR ALL TABLES"#).await.unwrap();
    let all = find(admin, "p").await.unwrap().unwrap();
    assert!(all.all_tables && all.published("a b", "T\"1").is_some() && all.published("public", "volatile").is_none());
    assert_eq!(alter_sql(&all, &more), None);
}

/// Where we say that updates fail, they fail; with what we say, they do not.
async fn identities(admin: &Session) {
    let update = async |table: &str| code_of(admin, &format!("UPDATE {table} SET v = 'x'")).await;
    let id = r#""a b"."T""1""#;
    admin
        .execute(&format!("INSERT INTO {id} VALUES (1, 'a', 1, 1); INSERT INTO no_key VALUES ('a'); INSERT INTO late_key VALUES (1, 'a')"))
        .await
        .unwrap();
    for table in ["no_key", "late_key"] {
        let mut tables = [chosen(admin, table, &[]).await];
        assert_eq!(update(table).await.as_deref(), Some("55000"), "{table}");
        assert_eq!(codes(admin, "p", &tables).await, ["identity_missing"]);
        mend(admin, "p", &tables, "identity_missing").await;
        assert_eq!(update(table).await, None, "{table}");
        tables[0] = chosen(admin, table, &[]).await;
        // The server is content with it; a reader by keys is not.
        let left: &[&str] = if table == "late_key" { &["key_deferrable"] } else { &[] };
        assert_eq!(codes(admin, "p", &tables).await, left);
    }
    for (identity, expected, fails) in
        [("NOTHING", vec!["identity_missing"], true), ("FULL", vec![], false), (r#"USING INDEX "T""1_fixed_id_key""#, vec![], false)]
    {
        admin.execute(&format!("ALTER TABLE {id} REPLICA IDENTITY {identity}")).await.unwrap();
        assert_eq!(codes(admin, "p", &[chosen(admin, id, &[]).await]).await, expected, "{identity}");
        assert_eq!(update(id).await.is_some(), fails, "{identity}");
    }
    // The index that the identity was is dropped.
    admin.execute(&format!(r#"ALTER TABLE {id} DROP CONSTRAINT "T""1_fixed_id_key""#)).await.unwrap();
    assert_eq!(codes(admin, "p", &[chosen(admin, id, &[]).await]).await, ["identity_missing"]);
    assert_eq!(update(id).await.as_deref(), Some("55000"));
    mend(admin, "p", &[chosen(admin, id, &[]).await], "identity_missing").await;
    assert_eq!(update(id).await, None);
    // An identity that is not the key.
    admin
        .execute(&format!("CREATE UNIQUE INDEX other ON {id} (fixed); ALTER TABLE {id} REPLICA IDENTITY USING INDEX other"))
        .await
        .unwrap();
    assert_eq!(codes(admin, "p", &[chosen(admin, id, &[]).await]).await, ["identity_not_key"]);
    mend(admin, "p", &[chosen(admin, id, &[]).await], "identity_not_key").await;
    assert!(codes(admin, "p", &[chosen(admin, id, &[]).await]).await.is_empty());
    admin.execute("DROP PUBLICATION p").await.unwrap();
}

async fn code_of(admin: &Session, sql: &str) -> Option<String> {
    admin.execute(sql).await.err().map(|error| error.code().unwrap_or("none").to_owned())
}

async fn partitions(admin: &Session, version: u32) {
    let root = [chosen(admin, "root", &[]).await];
    let leaf = [chosen(admin, "leaf_2", &[]).await];
    if version < 130_000 {
        assert_eq!(create_sql("p", &root, version), "CREATE PUBLICATION \"p\"");
        assert!(admin.execute("CREATE PUBLICATION q FOR TABLE root").await.is_err());
        admin.execute("CREATE PUBLICATION p FOR ALL TABLES").await.unwrap();
        assert_eq!(codes(admin, "p", &root).await, ["partitioned_before_13"]);
        assert!(codes(admin, "p", &leaf).await.is_empty());
        admin.execute("DROP PUBLICATION p").await.unwrap();
        return;
    }
    // As we create it.
    admin.execute(&create_sql("p", &root, version)).await.unwrap();
    assert!(codes(admin, "p", &root).await.is_empty());
    assert_eq!(codes(admin, "p", &leaf).await, ["published_under_root"]);
    let found = find(admin, "p").await.unwrap().unwrap();
    assert!(found.via_root && alter_sql(&found, &leaf).is_none());
    mend(admin, "p", &leaf, "published_under_root").await;
    assert!(codes(admin, "p", &leaf).await.is_empty());
    // As others do: for all tables, for the root, for a leaf.
    for sql in ["FOR ALL TABLES", "FOR TABLE root", "FOR TABLE leaf_1", "FOR TABLE mid"] {
        admin.execute(&format!("DROP PUBLICATION p; CREATE PUBLICATION p {sql}")).await.unwrap();
        assert_eq!(codes(admin, "p", &root).await, ["published_by_partition"], "{sql}");
        mend(admin, "p", &root, "published_by_partition").await;
        assert!(codes(admin, "p", &root).await.is_empty(), "{sql}");
    }
    admin.execute("DROP PUBLICATION p; CREATE PUBLICATION p").await.unwrap();
    assert_eq!(codes(admin, "p", &root).await, ["not_published"]);
    mend(admin, "p", &root, "not_published").await;
    assert!(codes(admin, "p", &root).await.is_empty());
    // A leaf has an identity of its own.
    admin.execute("ALTER TABLE leaf_1 REPLICA IDENTITY NOTHING").await.unwrap();
    let root = [chosen(admin, "root", &[]).await];
    let found = find(admin, "p").await.unwrap().unwrap();
    let problems = check(&found, &root);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].finding.message.contains("public.leaf_1 has no replica identity"), "{problems:?}");
    mend(admin, "p", &root, "identity_missing").await;
    assert!(codes(admin, "p", &[chosen(admin, "root", &[]).await]).await.is_empty());
    admin.execute("DROP PUBLICATION p").await.unwrap();
}

async fn lists_and_filters(admin: &Session) {
    let id = r#""a b"."T""1""#;
    let tables = [chosen(admin, id, &[]).await];
    admin.execute(&format!("CREATE PUBLICATION p FOR TABLE {id} (id, v) WHERE (id > 5)")).await.unwrap();
    assert_eq!(codes(admin, "p", &tables).await, ["columns_missing", "row_filter"]);
    assert_eq!(codes(admin, "p", &[chosen(admin, id, &["id", "v"]).await]).await, ["row_filter"]);
    let found = find(admin, "p").await.unwrap().unwrap();
    let said: Vec<String> = check(&found, &tables).iter().map(|problem| problem.finding.to_string()).collect();
    assert!(said[0].contains("leaves out \"n\", \"fixed\"") && said[1].contains("(id > 5)"), "{said:?}");
    // What others have asked for stays.
    let longer = steps(&found, &tables);
    assert_eq!(longer[0].sql[1], r#"ALTER PUBLICATION "p" ADD TABLE "a b"."T""1" ("id", "v", "n", "fixed") WHERE ((id > 5))"#);
    apply(admin, "p", &longer, Duration::ZERO).await.unwrap();
    assert_eq!(codes(admin, "p", &tables).await, ["row_filter"]);
    admin.execute(&format!("ALTER PUBLICATION p SET TABLE {id} (id, v)")).await.unwrap();
    mend(admin, "p", &tables, "columns_missing").await;
    assert!(codes(admin, "p", &tables).await.is_empty());
    // Updates fail on the server if the identity is not in the list.
    admin.execute(&format!("DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE {id} (v, n, fixed)")).await.unwrap();
    assert_eq!(code_of(admin, &format!("UPDATE {id} SET v = 'y'")).await.as_deref(), Some("42P10"));
    assert_eq!(codes(admin, "p", &[chosen(admin, id, &["v"]).await]).await, ["identity_not_published"]);
    mend(admin, "p", &tables, "identity_not_published").await;
    assert_eq!(code_of(admin, &format!("UPDATE {id} SET v = 'y'")).await, None);
    // By schema.
    admin.execute(r#"DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLES IN SCHEMA "a b""#).await.unwrap();
    assert!(codes(admin, "p", &tables).await.is_empty());
    let found = find(admin, "p").await.unwrap().unwrap();
    assert_eq!((found.schemas.as_slice(), alter_sql(&found, &tables)), (&["a b".to_owned()][..], None));
    // With via_root the list is that of the root, wherever it is named.
    admin.execute("DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE root (id, at) WITH (publish_via_partition_root)").await.unwrap();
    let root = [chosen(admin, "root", &[]).await];
    assert_eq!(codes(admin, "p", &root).await, ["columns_missing"]);
    let found = find(admin, "p").await.unwrap().unwrap();
    apply(admin, "p", &steps(&found, &root), Duration::ZERO).await.unwrap();
    assert!(codes(admin, "p", &root).await.is_empty());
    admin.execute("DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE root (id, at) WITH (publish_via_partition_root)").await.unwrap();
    mend(admin, "p", &root, "columns_missing").await;
    assert!(codes(admin, "p", &root).await.is_empty());
    admin.execute("DROP PUBLICATION p").await.unwrap();
}

async fn generated(admin: &Session, version: u32) {
    let tables = [chosen(admin, "computed", &[]).await];
    admin.execute("CREATE PUBLICATION p FOR TABLE computed").await.unwrap();
    assert_eq!(codes(admin, "p", &tables).await, ["generated_column"]);
    assert!(codes(admin, "p", &[chosen(admin, "computed", &["id"]).await]).await.is_empty());
    if version >= 180_000 {
        mend(admin, "p", &tables, "generated_column").await;
        assert!(codes(admin, "p", &tables).await.is_empty());
        admin.execute("DROP PUBLICATION p").await.unwrap();
        admin.execute(&create_sql("p", &tables, version)).await.unwrap();
        assert!(codes(admin, "p", &tables).await.is_empty());
        admin.execute("CREATE TABLE lazily (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL); ALTER PUBLICATION p ADD TABLE lazily").await.unwrap();
        let found = find(admin, "p").await.unwrap().unwrap();
        let problems = check(&found, &[chosen(admin, "lazily", &[]).await]);
        assert!(problems.len() == 1 && problems[0].finding.sql.is_empty(), "{problems:?}");
    }
    admin.execute("DROP PUBLICATION p").await.unwrap();
}

/// Who may not create or alter is told so before, and the server agrees.
async fn foreign(server: &Server, admin: &Session) {
    admin
        .execute(
            "CREATE ROLE plain LOGIN; CREATE TABLE theirs (id int PRIMARY KEY); ALTER TABLE theirs OWNER TO plain; CREATE PUBLICATION p",
        )
        .await
        .unwrap();
    let plain = session(&server.options(server.unix(), "plain")).await.unwrap();
    let version = plain.server_version();
    let own = [chosen(&plain, "theirs", &[]).await];
    let both = [own[0].clone(), chosen(&plain, "no_key", &[]).await];
    let told = rights(&plain).await.unwrap();
    assert!(!told.create && rights(admin).await.unwrap().create);
    let finding = may_create("q", &own, version, &told).unwrap();
    assert!(finding.message.contains("no CREATE on database \"postgres\""), "{finding}");
    assert_eq!(code_of(&plain, &create_sql("q", &own, version)).await.as_deref(), Some("42501"));
    admin.execute("GRANT CREATE ON DATABASE postgres TO plain").await.unwrap();
    let told = rights(&plain).await.unwrap();
    assert_eq!(may_create("q", &own, version, &told), None);
    let finding = may_create("q", &both, version, &told).unwrap();
    assert!(finding.message.contains("table public.no_key belongs to \"postgres\""), "{finding}");
    assert_eq!(code_of(&plain, &create_sql("q", &both, version)).await.as_deref(), Some("42501"));
    plain.execute(&create_sql("q", &own, version)).await.unwrap();
    let found = find(&plain, "q").await.unwrap().unwrap();
    assert!(found.owned && may_alter(&found, &own, &told).is_none());
    assert!(may_alter(&found, &both, &told).unwrap().message.contains("no_key belongs to"));
    assert_eq!(code_of(&plain, &alter_sql(&found, &both).unwrap()).await.as_deref(), Some("42501"));
    let found = find(&plain, "p").await.unwrap().unwrap();
    assert!(!found.owned && may_alter(&found, &own, &told).unwrap().message.contains("it belongs to \"postgres\""));
    plain.close().await;
}
