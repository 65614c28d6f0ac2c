//! A publication: what the server says of it, and the SQL that creates it.
//!
//! Promises: two or three queries for PostgreSQL 10 to 18, which any user may ask. Does not judge; `publication_check` does.
//!
//! A publication, and a table in it, has to be there before the changes are made: the server decodes each change with the catalog of
//! its time. On changes from before a publication was created a stream fails for good up to 17 ("publication does not exist"); 18
//! leaves them out with a warning in the server's log.

use super::table::{CaptureTable, Generated, Persistence};
use crate::error::Result;
use crate::postgres::catalog::RelationKind;
use crate::postgres::connect::Session;
use crate::postgres::quote::{identifier, literal, qualified};
use std::collections::BTreeMap;
use tokio_postgres::types::Type;

/// What a publication sends of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The columns, `None` before 15. Before 18 generated columns are among them, and are not sent.
    pub columns: Option<Vec<String>>,
    /// The condition that a row has to meet; since 15.
    pub row_filter: Option<String>,
}

/// A row of `pg_publication`, and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicationInfo {
    /// `server_version_num` of the server.
    pub version: u32,
    /// Name.
    pub name: String,
    /// Name of the owner.
    pub owner: String,
    /// The user has the owner's rights.
    pub owned: bool,
    /// FOR ALL TABLES.
    pub all_tables: bool,
    /// FOR TABLES IN SCHEMA; since 15.
    pub schemas: Vec<String>,
    /// OIDs of the tables that are named in it, as they are named: a partitioned table is one.
    pub members: Vec<u32>,
    /// By schema and name, the tables under which changes are sent: leaves of partitioned tables or, with `via_root`, the topmost
    /// published parent (`pg_publication_tables`).
    pub tables: BTreeMap<(String, String), Published>,
    /// Sends inserts.
    pub insert: bool,
    /// Sends updates.
    pub update: bool,
    /// Sends deletes.
    pub delete: bool,
    /// Sends TRUNCATE; since 11. With `via_root` the TRUNCATE of a single partition is not sent.
    pub truncate: bool,
    /// Changes of partitions are sent under the name of their parent; since 13.
    pub via_root: bool,
    /// Sends stored generated columns without a column list; since 18.
    pub generated: bool,
}

/// A table that a stream captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenTable {
    /// What the server says of it.
    pub table: CaptureTable,
    /// Columns that the stream wants; dropped ones are not among them.
    pub columns: Vec<String>,
    /// Updates and deletes are applied to the destination's rows, by the primary key.
    pub needs_updates: bool,
}

/// What the user may do with publications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// `current_user`.
    pub user: String,
    /// Database of the session.
    pub database: String,
    /// CREATE on the database, which creating a publication takes.
    pub create: bool,
}

/// Looks for the publication of that name.
///
/// # Errors
/// A failing query.
pub async fn find(session: &Session, name: &str) -> Result<Option<PublicationInfo>> {
    let version = session.server_version();
    let doing = || format!("look for publication {}", identifier(name));
    let ask = async |sql: &str| session.client.query_typed(sql, &[(&name, Type::TEXT)]).await.map_err(|e| session.error(&e).doing(doing()));
    // Columns that came after version 10 are taken from the row as JSON, where a missing one is NULL.
    let schemas = match version {
        150_000.. => {
            "ARRAY(SELECT n.nspname::text FROM pg_catalog.pg_publication_namespace m \
              JOIN pg_catalog.pg_namespace n ON n.oid = m.pnnspid WHERE m.pnpubid = p.oid ORDER BY 1)"
        }
        _ => "ARRAY[]::text[]",
    };
    let sql = format!(
        "SELECT pg_catalog.pg_get_userbyid(p.pubowner)::text, COALESCE(pg_catalog.pg_has_role(p.pubowner, 'USAGE'), false), \
            p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, COALESCE((j.row->>'pubtruncate')::bool, false), \
            COALESCE((j.row->>'pubviaroot')::bool, false), COALESCE(j.row->>'pubgencols', 'n') = 's', {schemas}, \
            ARRAY(SELECT r.prrelid FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid ORDER BY 1) \
         FROM pg_catalog.pg_publication p CROSS JOIN LATERAL (SELECT pg_catalog.to_jsonb(p)) j (row) WHERE p.pubname = $1"
    );
    let found = ask(&sql).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let sent = match version {
        150_000.. => {
            "SELECT t.schemaname::text, t.tablename::text, t.attnames::text[], t.rowfilter FROM pg_catalog.pg_publication_tables t WHERE t.pubname = $1"
        }
        _ => {
            "SELECT t.schemaname::text, t.tablename::text, NULL::text[], NULL::text FROM pg_catalog.pg_publication_tables t WHERE t.pubname = $1"
        }
    };
    let tables = ask(sent).await?;
    let published = |row: &tokio_postgres::Row| ((row.get(0), row.get(1)), Published { columns: row.get(2), row_filter: row.get(3) });
    Ok(Some(PublicationInfo {
        version,
        name: name.to_owned(),
        owner: row.get(0),
        owned: row.get(1),
        all_tables: row.get(2),
        insert: row.get(3),
        update: row.get(4),
        delete: row.get(5),
        truncate: row.get(6),
        via_root: row.get(7),
        generated: row.get(8),
        schemas: row.get(9),
        members: row.get(10),
        tables: tables.iter().map(published).collect(),
    }))
}

/// Asks what the user may do.
///
/// # Errors
/// A failing query.
pub async fn rights(session: &Session) -> Result<Rights> {
    let sql = "SELECT current_user::text, pg_catalog.current_database()::text, \
               pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')";
    let row = session.row(sql).await.map_err(|e| e.doing("ask for privileges on publications"))?;
    Ok(Rights { user: row.get(0), database: row.get(1), create: row.get(2) })
}

impl PublicationInfo {
    /// What is sent under the name of this table.
    pub fn published(&self, namespace: &str, name: &str) -> Option<&Published> {
        self.tables.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Whether the table is part of it, under whatever name its changes are sent.
    pub fn covers(&self, table: &CaptureTable) -> bool {
        let named = self.members.contains(&table.relation.oid) || self.schemas.contains(&table.relation.namespace);
        let above = |(oid, namespace, _): &(u32, String, String)| self.members.contains(oid) || self.schemas.contains(namespace);
        self.all_tables || named || table.ancestors.iter().any(above)
    }
}

impl ChosenTable {
    /// Whether a publication can have it: an ordinary or partitioned table whose changes are logged. Before 13 no partitioned one.
    pub fn is_publishable(&self, version: u32) -> bool {
        let relation = &self.table.relation;
        let kind = match relation.kind {
            RelationKind::Table => true,
            RelationKind::Partitioned => version >= 130_000,
            _ => false,
        };
        kind && relation.persistence == Persistence::Permanent
    }

    /// Whether the stream wants a stored generated column.
    fn wants_stored(&self) -> bool {
        let stored = self.table.columns.iter().filter(|column| column.generated == Generated::Stored);
        stored.into_iter().any(|column| self.columns.contains(&column.name))
    }

    /// As ADD TABLE names it: those that inherit from an ordinary table are streams of their own.
    pub(super) fn sql(&self) -> String {
        let relation = &self.table.relation;
        let only = if relation.kind == RelationKind::Table && !self.table.descendants.is_empty() { "ONLY " } else { "" };
        format!("{only}{}", qualified(&relation.namespace, &relation.name))
    }
}

/// The statement that creates a publication of these tables, without a semicolon; those that no publication can have are left out.
/// Changes of partitions are sent under their root, and stored generated columns where they are wanted and the server (18) can.
pub fn create_sql(name: &str, tables: &[ChosenTable], version: u32) -> String {
    let mut listed: Vec<String> = tables.iter().filter(|chosen| chosen.is_publishable(version)).map(ChosenTable::sql).collect();
    listed.sort();
    listed.dedup();
    let mut sql = format!("CREATE PUBLICATION {}", identifier(name));
    if !listed.is_empty() {
        sql += &format!(" FOR TABLE {}", listed.join(", "));
    }
    let mut options = Vec::new();
    if version >= 130_000 && tables.iter().any(|chosen| chosen.table.is_partitioned()) {
        options.push("publish_via_partition_root = true");
    }
    if version >= 180_000 && tables.iter().any(ChosenTable::wants_stored) {
        options.push("publish_generated_columns = stored");
    }
    if !options.is_empty() {
        sql += &format!(" WITH ({})", options.join(", "));
    }
    sql
}

/// What a publication is marked with that [`create_marked_sql`] makes.
const MARK: &str = "made by Lakeward, as update_method.create_if_missing says";

/// [`create_sql`], and a comment by which we know it again: whoever is to drop it must not drop one that somebody else has made. To be run as
/// one text, which is one transaction.
pub fn create_marked_sql(name: &str, tables: &[ChosenTable], version: u32) -> String {
    format!("{}; COMMENT ON PUBLICATION {} IS {}", create_sql(name, tables, version), identifier(name), literal(MARK))
}

/// Whether it was made by us and is still ours.
///
/// # Errors
/// A failing query.
pub async fn is_marked(session: &Session, name: &str) -> Result<bool> {
    let sql = "SELECT pg_catalog.pg_has_role(p.pubowner, 'USAGE') AND pg_catalog.obj_description(p.oid, 'pg_publication') = $2 \
               FROM pg_catalog.pg_publication p WHERE p.pubname = $1";
    let rows = session.client.query_typed(sql, &[(&name, Type::TEXT), (&MARK, Type::TEXT)]).await;
    let rows = rows.map_err(|e| session.error(&e).doing(format!("look for publication {}", identifier(name))))?;
    Ok(rows.first().and_then(|row| row.get::<_, Option<bool>>(0)).unwrap_or(false))
}

/// Drops a publication.
pub fn drop_sql(name: &str) -> String {
    format!("DROP PUBLICATION {}", identifier(name))
}

#[cfg(test)]
#[path = "publication_tests.rs"]
mod tests;
