//! The catalog's SQL: nine queries whatever the number of tables, and their rows as plain values.
//!
//! The rim of `catalog`, which gives the rows their meaning. Every query is read-only, names `pg_catalog` in full (a session's
//! search path is not ours), needs no superuser, works on standbys and on PostgreSQL 10 to 18, and is sent without a named statement,
//! so that a pooler in transaction mode does not mind.

use crate::error::{Error, Result};
use crate::types::pg_type::Label;
use std::collections::HashMap;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Row};

/// OIDs below are those of what is built in (`FirstNormalObjectId`).
const FIRST_NORMAL_OID: u32 = 16_384;

/// PostgreSQL's answer about itself.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// `server_version_num`.
    pub version: u32,
    pub database: String,
    pub user: String,
    pub block_size: u64,
    pub in_recovery: bool,
    /// `server_encoding`.
    pub encoding: String,
}

/// How much of a relation the user may select.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Select {
    Nothing,
    /// Each column by a privilege of its own; system columns are not among them.
    Columns,
    Table,
}

/// A row of `pg_class`.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub oid: u32,
    pub namespace: String,
    pub name: String,
    /// `r`, `p`, `v`, `m` or `f`.
    pub kind: char,
    pub partition: bool,
    pub unlogged: bool,
    pub populated: bool,
    /// Negative (or 0 with no pages, before 14) when never analyzed.
    pub rows: f64,
    pub pages: u64,
    pub comment: Option<String>,
    pub usage: bool,
    pub select: Select,
    /// Row security filters what this user sees.
    pub row_security: bool,
    /// Belongs to an extension.
    pub extension: bool,
    /// `pg_relation_filenode`, 0 without storage.
    pub filenode: u32,
}

/// A row of `pg_attribute`.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub relation: u32,
    pub attnum: i16,
    pub name: String,
    pub type_oid: u32,
    pub typmod: i32,
    /// Dimensions that an array is declared with.
    pub dimensions: i32,
    /// As `format_type` prints it under the session's search path.
    pub formatted: String,
    pub not_null: bool,
    pub generated: bool,
    pub identity: bool,
    /// Whether rows that were there before the column may have a value in it.
    pub filled: bool,
    pub comment: Option<String>,
    /// `xmin` of the row.
    pub version: i64,
}

/// A row of `pg_type`.
#[derive(Clone, Debug)]
pub(super) struct TypeRow {
    pub name: String,
    pub namespace: String,
    /// The schema as SQL writes it.
    pub quoted_namespace: String,
    /// On the session's search path, so that `format_type` leaves the schema out.
    pub visible: bool,
    pub typtype: char,
    pub category: char,
    pub element: u32,
    pub base: u32,
    pub typmod: i32,
    /// Dimensions of a domain over an array.
    pub dimensions: i32,
    /// `typdelim`.
    pub delimiter: char,
    /// Whether it has a send function.
    pub sends: bool,
    /// Whether it belongs to an extension.
    pub extension: bool,
    /// Whether a function casts it to json, and it is not built in.
    pub json_cast: bool,
    /// A range's subtype, a multirange's range; 0 for all others.
    pub ranges_over: u32,
    /// A composite type's attributes.
    pub attributes: Vec<AttributeRow>,
    /// An enum's labels, in their order.
    pub labels: Vec<Label>,
}

/// A row of `pg_attribute` of a composite type.
#[derive(Clone, Debug)]
pub(super) struct AttributeRow {
    pub number: i16,
    pub name: String,
    pub type_oid: u32,
    pub typmod: i32,
    pub dimensions: i32,
}

/// Sizes of one heap, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    pub main: u64,
    pub toast: u64,
}

async fn rows(client: &Client, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>> {
    client.query_typed(sql, parameters).await.map_err(failed)
}

/// The server's own words and code, without the client library's around them.
fn failed(error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => Error::source_db(db.message()).sqlstate(db.code().code()),
        None if error.is_closed() => Error::source_db(error.to_string()).transient(),
        None => Error::source_db(error.to_string()),
    }
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T> {
    row.try_get(at).map_err(failed)
}

/// A value of type "char", sent as text.
fn letter(row: &Row, at: usize) -> Result<char> {
    Ok(get::<&str>(row, at)?.chars().next().unwrap_or('\0'))
}

fn unsigned(row: &Row, at: usize) -> Result<u64> {
    Ok(u64::try_from(get::<i64>(row, at)?).unwrap_or(0))
}

pub(super) async fn server(client: &Client) -> Result<Server> {
    let sql = "SELECT pg_catalog.current_setting('server_version_num')::int4, pg_catalog.current_database()::text, \
               current_user::text, pg_catalog.current_setting('block_size')::int8, pg_catalog.pg_is_in_recovery(), \
               pg_catalog.current_setting('server_encoding')";
    let rows = rows(client, sql, &[]).await?;
    let row = rows.first().ok_or_else(|| Error::source_db("the server says nothing about itself"))?;
    Ok(Server {
        version: u32::try_from(get::<i32>(row, 0)?).unwrap_or(0),
        database: get(row, 1)?,
        user: get(row, 2)?,
        block_size: unsigned(row, 3)?.max(1),
        in_recovery: get(row, 4)?,
        encoding: get(row, 5)?,
    })
}

/// Names of all schemas but the system's.
pub(super) async fn namespaces(client: &Client) -> Result<Vec<String>> {
    let sql = "SELECT nspname::text FROM pg_catalog.pg_namespace \
               WHERE pg_catalog.left(nspname::text, 3) <> 'pg_' AND nspname <> 'information_schema' ORDER BY 1";
    rows(client, sql, &[]).await?.iter().map(|row| get(row, 0)).collect()
}

/// All relations that can hold rows, outside of the system's and of temporary schemas.
pub(super) async fn relations(client: &Client) -> Result<Vec<Relation>> {
    let sql = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relispartition, c.relpersistence = 'u', \
            c.relispopulated, c.reltuples::float8, c.relpages::int8, d.description, \
            COALESCE(pg_catalog.has_schema_privilege(n.oid, 'USAGE'), false), \
            CASE WHEN pg_catalog.has_table_privilege(c.oid, 'SELECT') THEN 2 \
                 WHEN pg_catalog.has_any_column_privilege(c.oid, 'SELECT') AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a \
                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
                        AND NOT pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')) THEN 1 \
                 ELSE 0 END::int4, \
            c.relrowsecurity AND pg_catalog.row_security_active(c.oid), \
            EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
                      AND e.objid = c.oid AND e.objsubid = 0 AND e.deptype = 'e'), \
            COALESCE(pg_catalog.pg_relation_filenode(c.oid), 0) \
        FROM pg_catalog.pg_class c \
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        LEFT JOIN pg_catalog.pg_description d ON d.objoid = c.oid AND d.objsubid = 0 \
            AND d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass \
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' \
          AND pg_catalog.left(n.nspname::text, 3) <> 'pg_' AND n.nspname <> 'information_schema'";
    rows(client, sql, &[])
        .await?
        .iter()
        .map(|row| {
            Ok(Relation {
                oid: get(row, 0)?,
                namespace: get(row, 1)?,
                name: get(row, 2)?,
                kind: letter(row, 3)?,
                partition: get(row, 4)?,
                unlogged: get(row, 5)?,
                populated: get(row, 6)?,
                rows: get(row, 7)?,
                pages: unsigned(row, 8)?,
                comment: get(row, 9)?,
                usage: get(row, 10)?,
                select: match get::<i32>(row, 11)? {
                    2 => Select::Table,
                    1 => Select::Columns,
                    _ => Select::Nothing,
                },
                row_security: get(row, 12)?,
                extension: get(row, 13)?,
                filenode: get(row, 14)?,
            })
        })
        .collect()
}

/// (child, parent) of all relations. A partition that is being detached no longer belongs to its parent.
pub(super) async fn inheritance(client: &Client, server: &Server) -> Result<Vec<(u32, u32)>> {
    let attached = if server.version >= 140_000 { "AND NOT i.inhdetachpending" } else { "" };
    let sql = format!(
        "SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i \
         JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'p', 'f') {attached}"
    );
    rows(client, &sql, &[]).await?.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect()
}

/// Live columns of `relations`, by relation and attnum.
pub(super) async fn columns(client: &Client, server: &Server, relations: &[u32]) -> Result<Vec<Column>> {
    let generated = if server.version >= 120_000 { "a.attgenerated <> ''" } else { "false" };
    let missing = if server.version >= 110_000 { "OR a.atthasmissing" } else { "" };
    // A NOT NULL that is NOT VALID says nothing about the rows that were there before it.
    let validated = if server.version >= 180_000 {
        "AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'n' \
             AND NOT k.convalidated AND k.conkey = ARRAY[a.attnum])"
    } else {
        ""
    };
    let sql = format!(
        "SELECT a.attrelid, a.attnum, a.attname::text, a.atttypid, a.atttypmod, pg_catalog.format_type(a.atttypid, a.atttypmod), \
             a.attnotnull {validated}, {generated}, a.attidentity <> '', a.atthasdef {missing} OR a.attidentity <> '', d.description, a.attndims::int4, \
             a.xmin::text::int8 \
         FROM pg_catalog.pg_attribute a \
         LEFT JOIN pg_catalog.pg_description d ON d.objoid = a.attrelid AND d.objsubid = a.attnum \
             AND d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass \
         WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped \
         ORDER BY a.attrelid, a.attnum"
    );
    rows(client, &sql, &[(&relations, Type::OID_ARRAY)])
        .await?
        .iter()
        .map(|row| {
            Ok(Column {
                relation: get(row, 0)?,
                attnum: get(row, 1)?,
                name: get(row, 2)?,
                type_oid: get(row, 3)?,
                typmod: get(row, 4)?,
                formatted: get(row, 5)?,
                not_null: get(row, 6)?,
                generated: get(row, 7)?,
                identity: get(row, 8)?,
                filled: get(row, 9)?,
                comment: get(row, 10)?,
                dimensions: get(row, 11)?,
                version: get(row, 12)?,
            })
        })
        .collect()
}

/// `oids` and every type that they are made of: bases of domains, elements of arrays, subtypes of ranges, ranges of multiranges,
/// attributes of composite types.
pub(super) async fn types(client: &Client, server: &Server, oids: &[u32]) -> Result<HashMap<u32, TypeRow>> {
    // Multiranges came with 14.
    let of_multirange = if server.version >= 140_000 { "OR r.rngmultitypid = t.oid" } else { "" };
    let ranges_over = format!(
        "(SELECT CASE WHEN r.rngtypid = t.oid THEN r.rngsubtype ELSE r.rngtypid END FROM pg_catalog.pg_range r \
          WHERE r.rngtypid = t.oid {of_multirange})"
    );
    let sql = format!(
        "WITH RECURSIVE wanted (oid) AS ( \
            SELECT pg_catalog.unnest($1) \
            UNION \
            SELECT part.oid FROM wanted w JOIN pg_catalog.pg_type t ON t.oid = w.oid \
            CROSS JOIN LATERAL ( \
                VALUES (t.typbasetype), (t.typelem), (CASE WHEN t.typtype IN ('r', 'm') THEN {ranges_over} END) \
                UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
                    WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) part (oid) \
            WHERE part.oid <> 0) \
        SELECT t.oid, t.typname::text, n.nspname::text, pg_catalog.quote_ident(n.nspname::text), pg_catalog.pg_type_is_visible(t.oid), \
            t.typtype::text, t.typcategory::text, t.typelem, t.typbasetype, t.typtypmod, t.typndims, t.typdelim::text, t.typsend <> 0, \
            CASE WHEN t.typtype IN ('r', 'm') THEN {ranges_over} END, \
            EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_type'::pg_catalog.regclass \
                      AND e.objid = t.oid AND e.objsubid = 0 AND e.deptype = 'e'), \
            t.oid >= {FIRST_NORMAL_OID} AND EXISTS (SELECT FROM pg_catalog.pg_cast k WHERE k.castsource = t.oid \
                      AND k.casttarget = 'pg_catalog.json'::pg_catalog.regtype AND k.castmethod = 'f') \
        FROM wanted w JOIN pg_catalog.pg_type t ON t.oid = w.oid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace"
    );
    let found = rows(client, &sql, &[(&oids, Type::OID_ARRAY)]).await?;
    let mut types = HashMap::with_capacity(found.len());
    for row in &found {
        let ty = TypeRow {
            name: get(row, 1)?,
            namespace: get(row, 2)?,
            quoted_namespace: get(row, 3)?,
            visible: get::<Option<bool>>(row, 4)?.unwrap_or(false),
            typtype: letter(row, 5)?,
            category: letter(row, 6)?,
            element: get(row, 7)?,
            base: get(row, 8)?,
            typmod: get(row, 9)?,
            dimensions: get(row, 10)?,
            delimiter: letter(row, 11)?,
            sends: get(row, 12)?,
            ranges_over: get::<Option<u32>>(row, 13)?.unwrap_or(0),
            extension: get(row, 14)?,
            json_cast: get(row, 15)?,
            attributes: Vec::new(),
            labels: Vec::new(),
        };
        types.insert(get(row, 0)?, ty);
    }
    let composites: Vec<u32> = types.iter().filter(|(_, ty): &(&u32, &TypeRow)| ty.typtype == 'c').map(|(oid, _)| *oid).collect();
    for (oid, attribute) in attributes(client, &composites).await? {
        types.entry(oid).and_modify(|ty| ty.attributes.push(attribute));
    }
    let enums: Vec<u32> = types.iter().filter(|(_, ty): &(&u32, &TypeRow)| ty.typtype == 'e').map(|(oid, _)| *oid).collect();
    for (oid, label) in labels(client, &enums).await? {
        types.entry(oid).and_modify(|ty| ty.labels.push(label));
    }
    Ok(types)
}

/// Labels of enums, each with its type's OID, in order.
async fn labels(client: &Client, types: &[u32]) -> Result<Vec<(u32, Label)>> {
    if types.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT enumtypid, oid, enumlabel::text FROM pg_catalog.pg_enum WHERE enumtypid = ANY ($1) ORDER BY enumtypid, enumsortorder";
    let found = rows(client, sql, &[(&types, Type::OID_ARRAY)]).await?;
    found.iter().map(|row| Ok((get(row, 0)?, Label { oid: get(row, 1)?, name: get(row, 2)? }))).collect()
}

/// Attributes of composite types, each with its type's OID, in order.
async fn attributes(client: &Client, types: &[u32]) -> Result<Vec<(u32, AttributeRow)>> {
    if types.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT t.oid, a.attname::text, a.atttypid, a.atttypmod, a.attndims::int4, a.attnum FROM pg_catalog.pg_type t \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped \
         WHERE t.oid = ANY ($1) ORDER BY t.oid, a.attnum";
    let found = rows(client, sql, &[(&types, Type::OID_ARRAY)]).await?;
    let attribute = |row: &Row| {
        let (name, type_oid, typmod, dimensions, number) = (get(row, 1)?, get(row, 2)?, get(row, 3)?, get(row, 4)?, get(row, 5)?);
        Ok((get(row, 0)?, AttributeRow { number, name, type_oid, typmod, dimensions }))
    };
    found.iter().map(attribute).collect()
}

/// How many places after the point `money` has under the session's `lc_monetary`, which the database's owner has chosen.
pub(super) async fn money_places(client: &Client) -> Result<i32> {
    // A sum of money is stored as a whole number of the smallest unit; the cast divides it.
    let rows = rows(client, "SELECT pg_catalog.scale('1'::pg_catalog.money::pg_catalog.numeric)", &[]).await?;
    rows.first().map_or(Ok(2), |row| get(row, 0))
}

/// (relation, column) of the primary keys of `relations`, in key order. An invalid key (of a partitioned parent whose partitions do
/// not all have it) proves nothing and is left out.
pub(super) async fn keys(client: &Client, server: &Server, relations: &[u32]) -> Result<Vec<(u32, String)>> {
    let key_columns = if server.version >= 110_000 { "i.indnkeyatts" } else { "i.indnatts" };
    let sql = format!(
        "SELECT i.indrelid, a.attname::text FROM pg_catalog.pg_index i \
         CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, position) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         WHERE i.indisprimary AND i.indisvalid AND i.indrelid = ANY ($1) AND k.position <= {key_columns} \
         ORDER BY i.indrelid, k.position"
    );
    rows(client, &sql, &[(&relations, Type::OID_ARRAY)]).await?.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect()
}

/// Sizes of the heaps among `relations`; `None` when a table is locked so that even its size cannot be asked for.
pub(super) async fn sizes(client: &Client, relations: &[u32]) -> Result<Option<HashMap<u32, Size>>> {
    let sql = "SELECT c.oid, COALESCE(pg_catalog.pg_relation_size(c.oid), 0), \
            COALESCE(pg_catalog.pg_relation_size(NULLIF(c.reltoastrelid, 0)), 0) \
        FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1) AND c.relkind IN ('r', 'm')";
    let found = match rows(client, sql, &[(&relations, Type::OID_ARRAY)]).await {
        Ok(found) => found,
        Err(error) if error.code() == Some(SqlState::LOCK_NOT_AVAILABLE.code()) => return Ok(None),
        Err(error) => return Err(error),
    };
    found.iter().map(|row| Ok((get(row, 0)?, Size { main: unsigned(row, 1)?, toast: unsigned(row, 2)? }))).collect::<Result<_>>().map(Some)
}
