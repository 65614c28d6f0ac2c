//! What the database says about its tables: columns, keys, sizes, partitions, comments.
//!
//! The queries are in `catalog_query`, putting their rows together in `catalog_assembly`; here are the values and the
//! two questions that are asked of them: what is there ([`load`]), and what are these tables now ([`load_tables`]).

use super::catalog_assembly::{Assembly, describe};
use super::catalog_query as query;
use super::scope::{Patterns, Scope, closest};
use crate::error::{Context, Error, Result};
use crate::types::pg_type::PgType;
use tokio_postgres::Client;

/// What discover finds.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// Relations that can be streams, ordered by schema and name.
    pub tables: Vec<TableInfo>,
    /// Relations in scope that cannot be read: qualified name, and the reason with what mends it.
    pub skipped: Vec<(String, String)>,
    /// What a reader of the tables should know, one sentence each.
    pub warnings: Vec<String>,
    /// `server_version_num`, e.g. 150018.
    pub server_version: u32,
    /// Name of the database.
    pub database: String,
}

/// Reads what `scope` covers. A handful of queries, however many tables.
///
/// Hidden are the system's schemas, temporary tables, TimescaleDB's internal schemas (unless named in `schemas`) and views, materialized
/// views and foreign tables that belong to an extension. A relation in scope that cannot be read is in `skipped`.
///
/// # Errors
/// A faulty pattern; a schema, or an include without a star, that names nothing that can be listed; a failing query.
pub async fn load(client: &Client, scope: &Scope) -> Result<Catalog> {
    let patterns = Patterns::parse(scope)?;
    let assembly = read(client).await?;
    check_schemas(client, scope, &assembly).await?;

    let mut listed = Vec::new();
    let mut skipped = Vec::new();
    for relation in assembly.relations().filter(|relation| assembly.covers(scope, &patterns, relation).is_ok()) {
        match assembly.readable(relation) {
            Ok(()) => listed.push(relation.oid),
            Err(reason) => skipped.push((qualified(&relation.namespace, &relation.name), reason)),
        }
    }
    check_named(scope, &patterns, &assembly)?;
    if scope.collapse_partitions {
        let all = listed.iter().copied().collect();
        listed.retain(|oid| !assembly.beneath(*oid, &all));
    }
    let mut warnings = assembly.row_security(&listed);
    let tables = describe(client, &assembly, &listed, scope.collapse_partitions, &mut warnings).await?;
    Ok(Catalog { tables, skipped, warnings, server_version: assembly.server.version, database: assembly.server.database })
}

/// Reads the named tables (schema, name) as they are now, in the given order. `collapse_partitions` as in [`Scope`]: it decides whether
/// a parent of plain inheritance is read with its children. A partitioned parent always is.
///
/// # Errors
/// A table that is missing (kind `Schema`) or that cannot be read (kind `Source`), with what mends it; a failing query.
pub async fn load_tables(client: &Client, names: &[(String, String)], collapse_partitions: bool) -> Result<Vec<TableInfo>> {
    let assembly = read(client).await?;
    let mut wanted = Vec::with_capacity(names.len());
    for (namespace, name) in names {
        let Some(relation) = assembly.find(namespace, name) else {
            let error =
                Error::schema(format!("table {} does not exist in database {}", qualified(namespace, name), assembly.server.database));
            let again = "run discover again, or take the stream out of the selection";
            return Err(match closest(&qualified(namespace, name), assembly.names()) {
                Some(near) => error.hint(format!("{again}; there is a {near}")),
                None => error.hint(again),
            });
        };
        assembly
            .readable(relation)
            .map_err(|reason| Error::source_db(format!("table {} cannot be read: {reason}", qualified(namespace, name))))?;
        wanted.push(relation.oid);
    }
    describe(client, &assembly, &wanted, collapse_partitions, &mut Vec::new()).await
}

async fn read(client: &Client) -> Result<Assembly> {
    let server = query::server(client).await.doing(|| "ask the server for its version")?;
    let relations = query::relations(client).await.doing(|| "list tables")?;
    let inheritance = query::inheritance(client, &server).await.doing(|| "list partitions")?;
    Ok(Assembly::new(server, relations, inheritance))
}

/// As messages name a table.
pub(super) fn qualified(namespace: &str, name: &str) -> String {
    format!("{namespace}.{name}")
}

async fn check_schemas(client: &Client, scope: &Scope, assembly: &Assembly) -> Result<()> {
    if scope.schemas.iter().all(|schema| assembly.relations().any(|relation| relation.namespace == *schema)) {
        return Ok(());
    }
    let known = query::namespaces(client).await.doing(|| "list schemas")?;
    let Some(schema) = scope.schemas.iter().find(|schema| !known.contains(schema)) else { return Ok(()) };
    let error = Error::config(format!("schema {schema:?} does not exist in database {}", assembly.server.database));
    Err(match closest(schema, known.iter().cloned()) {
        Some(near) => error.hint(format!("did you mean {near:?}?")),
        None => error.hint(format!("there are {}", known.join(", "))),
    })
}

/// An include that names one relation must find it.
fn check_named(scope: &Scope, patterns: &Patterns, assembly: &Assembly) -> Result<()> {
    for (text, namespace, name) in patterns.named() {
        let Some(relation) = assembly.find(&namespace, &name) else {
            let error = Error::config(format!(
                "include {text:?} names nothing: there is no {} in database {}",
                qualified(&namespace, &name),
                assembly.server.database
            ));
            return Err(match closest(&qualified(&namespace, &name), assembly.names()) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error.hint("a name without a schema is looked for in public; names are case-sensitive"),
            });
        };
        assembly
            .covers(scope, patterns, relation)
            .map_err(|reason| Error::config(format!("include {text:?} names what is not listed: {reason}")))?;
        assembly.readable(relation).map_err(|reason| Error::source_db(format!("include {text:?} names what cannot be read: {reason}")))?;
    }
    Ok(())
}

/// What kind of relation a stream reads (`pg_class.relkind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// Ordinary table (`r`), a partition included.
    Table,
    /// Partitioned parent (`p`).
    Partitioned,
    /// View (`v`).
    View,
    /// Materialized view (`m`).
    MaterializedView,
    /// Foreign table (`f`).
    Foreign,
}

/// One relation that can be a stream.
#[derive(Clone, Debug)]
pub struct TableInfo {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema name.
    pub namespace: String,
    /// Relation name.
    pub name: String,
    /// What kind of relation.
    pub kind: RelationKind,
    /// Live columns in order of `attnum`; dropped columns are not here.
    pub columns: Vec<ColumnInfo>,
    /// Column names of the primary key, in key order; empty without one.
    pub primary_key: Vec<String>,
    /// Planner's row estimate, summed over leaves; `None` when never analyzed.
    pub estimated_rows: Option<u64>,
    /// Heap and TOAST bytes, summed over leaves; `None` for relations without storage.
    pub bytes: Option<u64>,
    /// `COMMENT ON TABLE`.
    pub comment: Option<String>,
    /// Parents (namespace, name) when this is a partition, the nearest first; empty otherwise.
    pub partition_of: Vec<(String, String)>,
    /// The heaps to read, one per leaf: the table itself, or the leaves of a partitioned parent, ordered by name.
    /// Empty for views and foreign tables.
    pub leaves: Vec<Leaf>,
    /// How the heaps may be read.
    pub access: Access,
}

/// How the heaps of a relation may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Each leaf by itself, by ranges of ctid. The usual case.
    Leaves,
    /// By ranges of ctid, but through the parent: a leaf has fewer privileges or other row security than its parent.
    Parent,
    /// By one query for everything: privileges are on columns and ctid is not among them, or ctid means nothing here.
    Whole,
}

/// One heap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema name.
    pub namespace: String,
    /// Relation name.
    pub name: String,
    /// `pg_relation_filenode`: changes when the heap is rewritten or truncated.
    pub filenode: u32,
    /// Main fork, in blocks of the server's block size.
    pub pages: u64,
    /// Main fork and TOAST, in bytes.
    pub bytes: u64,
    /// Planner's row estimate; `None` when never analyzed.
    pub estimated_rows: Option<u64>,
    /// A foreign table as a partition has no ctid; it is read whole.
    pub foreign: bool,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Name as it is.
    pub name: String,
    /// `pg_attribute.attnum`.
    pub attnum: i16,
    /// Declared type as `format_type` prints it, for people and fingerprints: `numeric(12,2)`, `public.mood`.
    pub declared: String,
    /// Type after domains.
    pub ty: PgType,
    /// `atttypid` and `atttypmod`, before domains: as the log names the type.
    pub logged: (u32, i32),
    /// `xmin` of its row in `pg_attribute`, which is another one after whatever has altered the column.
    pub version: i64,
    /// No row can be NULL: a validated NOT NULL of a table. Not that of a domain, which PostgreSQL does not hold to in all cases
    /// (manual, CREATE DOMAIN, notes), nor that of a foreign table, which it does not check.
    pub not_null: bool,
    /// `pg_attribute.attgenerated`: stored (or virtual) generated column.
    pub generated: bool,
    /// `pg_attribute.attidentity`.
    pub identity: bool,
    /// Whether rows that were there before the column may have a value in it that no change in the log has told: it has a default, or is generated.
    pub filled: bool,
    /// `COMMENT ON COLUMN`.
    pub comment: Option<String>,
}

impl ColumnInfo {
    /// A nullable column of which no more is known than its type.
    pub fn of_type(name: &str, ty: PgType) -> Self {
        Self {
            name: name.to_owned(),
            attnum: 0,
            declared: ty.name.clone(),
            logged: (ty.oid, ty.typmod),
            version: 0,
            ty,
            not_null: false,
            generated: false,
            identity: false,
            filled: false,
            comment: None,
        }
    }
}

#[cfg(test)]
impl TableInfo {
    /// A table `public.t` with nullable columns of built-in types, for tests.
    pub(crate) fn of_columns(columns: &[(&str, &str)]) -> Self {
        let column = |(at, (name, ty)): (usize, &(&str, &str))| ColumnInfo {
            attnum: at as i16 + 1,
            ..ColumnInfo::of_type(name, PgType::built_in(0, ty))
        };
        Self {
            oid: 1,
            namespace: "public".into(),
            name: "t".into(),
            kind: RelationKind::Table,
            columns: columns.iter().enumerate().map(column).collect(),
            primary_key: Vec::new(),
            estimated_rows: None,
            bytes: None,
            comment: None,
            partition_of: Vec::new(),
            leaves: Vec::new(),
            access: Access::Leaves,
        }
    }
}
