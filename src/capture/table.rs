//! What of a table decides whether its changes can be captured: kind, persistence, partitions, replica identity.
//!
//! Promises: two queries however many tables, for PostgreSQL 10 to 18. Does not know publications, nor what a stream wants.

use crate::error::{Error, Result};
use crate::postgres::catalog::RelationKind;
use crate::postgres::connect::Session;
use std::collections::HashMap;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

/// `pg_class.relreplident` (manual, ALTER TABLE, REPLICA IDENTITY).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key (`d`).
    Default,
    /// A unique index (`i`).
    Index,
    /// The whole old row (`f`).
    Full,
    /// Nothing of the old row (`n`).
    Nothing,
}

/// How a table tells which row was updated or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What is set.
    pub setting: ReplicaIdentity,
    /// Columns whose old values are in the log, in the order of the index; empty for `Full` and `Nothing`, and where the index is
    /// missing, invalid or deferrable: then updates and deletes fail on the server as soon as they are published.
    pub columns: Vec<String>,
    /// An index that could be the identity: unique, valid, not deferrable, not partial, over NOT NULL columns.
    pub candidate: Option<String>,
}

/// `pg_class.relpersistence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Its changes are in the log.
    Permanent,
    /// Its changes are not.
    Unlogged,
    /// Nor are these.
    Temporary,
}

/// One relation, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema name.
    pub namespace: String,
    /// Relation name.
    pub name: String,
    /// What kind of relation.
    pub kind: RelationKind,
    /// Whether its changes are logged.
    pub persistence: Persistence,
    /// How it tells rows apart.
    pub identity: Identity,
    /// Column names of the primary key, in key order, a deferrable one included; empty without one.
    pub primary_key: Vec<String>,
    /// The primary key is looked at after the statement, or the transaction: rows may have each other's keys meanwhile.
    pub deferrable_key: bool,
    /// Name of the owner.
    pub owner: String,
    /// The user has the owner's rights.
    pub owned: bool,
}

/// Whether and how a column is generated (`pg_attribute.attgenerated`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    /// It is not.
    No,
    /// Computed when the row is written; since 12.
    Stored,
    /// Computed when the row is read; since 18, and never in the log.
    Virtual,
}

/// A live column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name as it is.
    pub name: String,
    /// Whether it is generated.
    pub generated: Generated,
    /// A value may be stored apart from its row; an update that leaves it alone does not log it, unless the identity is full.
    pub toastable: bool,
}

/// A table and its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureTable {
    /// The table.
    pub relation: Relation,
    /// Live columns in order of `attnum`.
    pub columns: Vec<Column>,
    /// Of a partition its parents (OID, schema, name), the nearest first; the last is the root.
    pub ancestors: Vec<(u32, String, String)>,
    /// Everything beneath: partitions, themselves partitioned or not; of an ordinary table those that inherit from it.
    pub descendants: Vec<Relation>,
}

impl Identity {
    /// Whether updates and deletes can be published at all.
    pub fn is_usable(&self) -> bool {
        self.setting == ReplicaIdentity::Full || !self.columns.is_empty()
    }
}

impl CaptureTable {
    /// Whether it is a partitioned table.
    pub fn is_partitioned(&self) -> bool {
        self.relation.kind == RelationKind::Partitioned
    }

    /// The relations whose changes are logged under this table's name: its leaves, or it itself.
    pub fn logged(&self) -> impl Iterator<Item = &Relation> {
        let itself = (!self.is_partitioned()).then_some(&self.relation);
        let leaves = self.descendants.iter().filter(|each| self.is_partitioned() && each.kind != RelationKind::Partitioned);
        itself.into_iter().chain(leaves)
    }
}

/// Reads the tables of these OIDs, in their order.
///
/// # Errors
/// Kind `Schema` for an OID that is no relation any more; a failing query.
pub async fn load(session: &Session, oids: &[u32]) -> Result<Vec<CaptureTable>> {
    let beneath = rows(session, &beneath_sql(session.server_version()), oids).await.map_err(|e| e.doing("ask for replica identities"))?;
    let columns =
        rows(session, &columns_sql(session.server_version()), oids).await.map_err(|e| e.doing("ask for the columns of captured tables"))?;
    let above =
        rows(session, &above_sql(session.server_version()), oids).await.map_err(|e| e.doing("ask for the parents of partitions"))?;
    let mut found: HashMap<u32, CaptureTable> = HashMap::with_capacity(oids.len());
    for row in &beneath {
        let relation = relation(row)?;
        match found.get_mut(&row.get(0)) {
            Some(table) => table.descendants.push(relation),
            // The root of each tree comes first.
            None => {
                let table = CaptureTable { relation, columns: Vec::new(), ancestors: Vec::new(), descendants: Vec::new() };
                found.insert(row.get(0), table);
            }
        }
    }
    for row in &columns {
        let generated = match row.get::<_, &str>(2) {
            "" => Generated::No,
            "v" => Generated::Virtual,
            _ => Generated::Stored,
        };
        let column = Column { name: row.get(1), generated, toastable: row.get(3) };
        found.entry(row.get(0)).and_modify(|table| table.columns.push(column));
    }
    for row in &above {
        found.entry(row.get(0)).and_modify(|table| table.ancestors.push((row.get(1), row.get(2), row.get(3))));
    }
    let gone = |oid: &u32| {
        Error::schema(format!("the table of OID {oid} does not exist any more"))
            .hint("it was dropped since the catalog was read: run discover again")
    };
    oids.iter().map(|oid| found.get(oid).cloned().ok_or_else(|| gone(oid))).collect()
}

async fn rows(session: &Session, sql: &str, oids: &[u32]) -> Result<Vec<Row>> {
    session.client.query_typed(sql, &[(&oids, Type::OID_ARRAY)]).await.map_err(|e| session.error(&e))
}

/// A partition that is being detached no longer belongs to its parent.
fn attached(version: u32) -> &'static str {
    if version >= 140_000 { "AND NOT i.inhdetachpending" } else { "" }
}

/// Each table and what is beneath it: the table first, then by name.
fn beneath_sql(version: u32) -> String {
    let attached = attached(version);
    // Included columns came with 11.
    let key_columns = if version >= 110_000 { "i.indnkeyatts" } else { "i.indnatts" };
    let names = |index: &str| {
        format!(
            "ARRAY(SELECT a.attname::text FROM pg_catalog.pg_index i \
             CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, position) \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
             WHERE i.indrelid = c.oid AND i.indisvalid AND k.position <= {key_columns} AND {index} ORDER BY k.position)"
        )
    };
    let identity =
        names("i.indimmediate AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END");
    let primary_key = names("i.indisprimary");
    format!(
        "WITH RECURSIVE tree (root, oid, depth) AS ( \
            SELECT o, o, 0 FROM pg_catalog.unnest($1) o \
            UNION SELECT t.root, i.inhrelid, t.depth + 1 FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid {attached} \
         ), once (root, oid, depth) AS (SELECT root, oid, pg_catalog.min(depth) FROM tree GROUP BY root, oid) \
         SELECT t.root, c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text, \
            {identity}, {primary_key}, \
            (SELECT x.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid \
                WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL \
                  AND NOT EXISTS (SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, position) \
                      JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
                      WHERE k.position <= {key_columns} AND NOT a.attnotnull) \
                ORDER BY i.indisprimary DESC, i.indnatts, x.relname LIMIT 1), \
            pg_catalog.pg_get_userbyid(c.relowner)::text, COALESCE(pg_catalog.pg_has_role(c.relowner, 'USAGE'), false), \
            EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND NOT i.indimmediate) \
         FROM once t JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         ORDER BY t.root, t.depth > 0, n.nspname, c.relname"
    )
}

fn columns_sql(version: u32) -> String {
    let generated = if version >= 120_000 { "a.attgenerated::text" } else { "''" };
    format!(
        "SELECT a.attrelid, a.attname::text, {generated}, a.attlen = -1 AND a.attstorage <> 'p' FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum"
    )
}

/// Parents of partitions, the nearest first. A partition has one parent.
fn above_sql(version: u32) -> String {
    let attached = attached(version);
    format!(
        "WITH RECURSIVE above (child, oid, depth) AS ( \
            SELECT o, o, 0 FROM pg_catalog.unnest($1) o \
            UNION SELECT t.child, i.inhparent, t.depth + 1 FROM above t \
                JOIN pg_catalog.pg_class c ON c.oid = t.oid AND c.relispartition \
                JOIN pg_catalog.pg_inherits i ON i.inhrelid = t.oid {attached}) \
         SELECT t.child, c.oid, n.nspname::text, c.relname::text FROM above t \
         JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE t.depth > 0 ORDER BY t.child, t.depth"
    )
}

fn relation(row: &Row) -> Result<Relation> {
    let letter = |at: usize| row.get::<_, &str>(at);
    let unknown = |what: &str, found: &str, accepted: &str| {
        Error::source_db(format!("pg_class.{what} of OID {}: found `{}`, accepted: {accepted}", row.get::<_, u32>(1), found.escape_debug()))
    };
    Ok(Relation {
        oid: row.get(1),
        namespace: row.get(2),
        name: row.get(3),
        kind: match letter(4) {
            "r" => RelationKind::Table,
            "p" => RelationKind::Partitioned,
            "v" => RelationKind::View,
            "m" => RelationKind::MaterializedView,
            "f" => RelationKind::Foreign,
            other => return Err(unknown("relkind", other, "r, p, v, m, f")),
        },
        persistence: match letter(5) {
            "p" => Persistence::Permanent,
            "u" => Persistence::Unlogged,
            "t" => Persistence::Temporary,
            other => return Err(unknown("relpersistence", other, "p, u, t")),
        },
        identity: Identity {
            setting: match letter(6) {
                "d" => ReplicaIdentity::Default,
                "i" => ReplicaIdentity::Index,
                "f" => ReplicaIdentity::Full,
                "n" => ReplicaIdentity::Nothing,
                other => return Err(unknown("relreplident", other, "d, i, f, n")),
            },
            columns: row.get(7),
            candidate: row.get(9),
        },
        primary_key: row.get(8),
        deferrable_key: row.get(12),
        owner: row.get(10),
        owned: row.get(11),
    })
}
