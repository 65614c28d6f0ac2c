//! Puts the rows of the catalog's queries together: who is whose partition, what may be read and how, which type a column has.
//!
//! Pure but for [`describe`], which asks for the details of the relations that were chosen.

use super::catalog::{Access, ColumnInfo, Leaf, RelationKind, TableInfo, qualified};
use super::catalog_query::{self as query, Column, Relation, Select, Server, Size, TypeRow};
use super::scope::{Patterns, Scope};
use crate::error::{Context, Error, Result};
use crate::types::pg_type::{Attribute, PgType, TypeKind};
use postgres_protocol::escape::escape_identifier;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio_postgres::Client;

/// Domains over arrays over domains …: deeper than any real type, and a bound for the recursion.
const TYPE_DEPTH_MAX: usize = 32;
/// OID of `money`, whose values mean nothing without the number of places.
const MONEY: u32 = 790;

/// A heap has fewer blocks than this (`MaxBlockNumber` + 1).
const PAGES_MAX: u64 = u32::MAX as u64;

/// All relations of the database and how they inherit.
pub(super) struct Assembly {
    pub server: Server,
    relations: HashMap<u32, Relation>,
    /// (schema, name) → oid, which also gives the order.
    by_name: BTreeMap<(String, String), u32>,
    parents: HashMap<u32, Vec<u32>>,
    children: HashMap<u32, Vec<u32>>,
}

impl Assembly {
    pub fn new(server: Server, relations: Vec<Relation>, inheritance: Vec<(u32, u32)>) -> Self {
        let by_name = relations.iter().map(|relation| ((relation.namespace.clone(), relation.name.clone()), relation.oid)).collect();
        let relations: HashMap<u32, Relation> = relations.into_iter().map(|relation| (relation.oid, relation)).collect();
        let (mut parents, mut children) = (HashMap::<u32, Vec<u32>>::new(), HashMap::<u32, Vec<u32>>::new());
        for (child, parent) in inheritance {
            if relations.contains_key(&child) && relations.contains_key(&parent) {
                parents.entry(child).or_default().push(parent);
                children.entry(parent).or_default().push(child);
            }
        }
        Self { server, relations, by_name, parents, children }
    }

    /// All relations, ordered by schema and name.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.by_name.values().filter_map(|oid| self.relations.get(oid))
    }

    pub fn find(&self, namespace: &str, name: &str) -> Option<&Relation> {
        self.by_name.get(&(namespace.to_owned(), name.to_owned())).and_then(|oid| self.relations.get(oid))
    }

    /// Qualified names, for suggestions.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.by_name.keys().map(|(namespace, name)| qualified(namespace, name))
    }

    /// Whether discover looks at a relation at all; if not, why.
    pub fn covers(&self, scope: &Scope, patterns: &Patterns, relation: &Relation) -> Result<(), String> {
        let Relation { namespace, name, kind, .. } = relation;
        if scope.schemas.is_empty() {
            if is_internal(namespace) {
                return Err(format!("schema {namespace} is internal to an extension"));
            }
        } else if !scope.schemas.contains(namespace) {
            return Err(format!("schema {namespace} is not among the schemas of the source"));
        }
        if !patterns.wants(namespace, name) {
            return Err("the patterns leave it out".into());
        }
        let (wanted, what, key) = match kind {
            'v' => (scope.views, "a view", "views"),
            'm' => (scope.materialized_views, "a materialized view", "materialized_views"),
            'f' => (scope.foreign_tables, "a foreign table", "foreign_tables"),
            _ => return Ok(()),
        };
        if relation.extension {
            Err(format!("it is {what} that belongs to an extension"))
        } else if !wanted {
            Err(format!("it is {what}, and \"{key}\" is not true"))
        } else {
            Ok(())
        }
    }

    /// Whether a relation can be read by this user on this server; if not, why and what mends it.
    pub fn readable(&self, relation: &Relation) -> Result<(), String> {
        let user = escape_identifier(&self.server.user);
        let (namespace, name) = (escape_identifier(&relation.namespace), escape_identifier(&relation.name));
        let mut grants = Vec::new();
        if !relation.usage {
            grants.push(format!("GRANT USAGE ON SCHEMA {namespace} TO {user}"));
        }
        if relation.select == Select::Nothing {
            grants.push(format!("GRANT SELECT ON {namespace}.{name} TO {user}"));
        }
        if !grants.is_empty() {
            return Err(format!("user {} lacks the privilege: {}", self.server.user, grants.join("; ")));
        }
        if relation.kind == 'm' && !relation.populated {
            return Err(format!("the materialized view has never been filled: REFRESH MATERIALIZED VIEW {namespace}.{name}"));
        }
        if relation.unlogged && self.server.in_recovery {
            return Err("an unlogged table has no rows on a standby: read it from the primary".into());
        }
        Ok(())
    }

    /// Whether one of `listed` is above `oid`, so that its rows come with that one.
    pub fn beneath(&self, oid: u32, listed: &BTreeSet<u32>) -> bool {
        // A foreign parent is read alone; see `heaps`.
        let holds = |oid: &u32| listed.contains(oid) && self.relations.get(oid).is_some_and(|relation| relation.kind != 'f');
        walk(oid, &self.parents).into_iter().skip(1).any(|ancestor| holds(&ancestor))
    }

    /// A sentence for each listed relation of which row security hides rows.
    pub fn row_security(&self, listed: &[u32]) -> Vec<String> {
        let relations = listed.iter().filter_map(|oid| self.relations.get(oid)).filter(|relation| relation.row_security);
        let user = &self.server.user;
        relations
            .map(|Relation { namespace, name, .. }| {
                let quoted = escape_identifier(user);
                format!(
                    "row security is active on {}: only the rows that its policies show to user {user} are read \
                     (ALTER ROLE {quoted} BYPASSRLS shows all)",
                    qualified(namespace, name)
                )
            })
            .collect()
    }

    /// Parents of a partition, the nearest first.
    fn partition_of(&self, relation: &Relation) -> Vec<(String, String)> {
        let mut ancestors = Vec::new();
        let mut at = relation;
        while let Some(parent) = self.parents.get(&at.oid).filter(|_| at.partition).and_then(|oids| self.relations.get(oids.first()?)) {
            ancestors.push((parent.namespace.clone(), parent.name.clone()));
            at = parent;
            // A tree has no more levels than relations; a catalog that says otherwise must not hold us here.
            if ancestors.len() > self.relations.len() {
                break;
            }
        }
        ancestors
    }

    /// A hypertable of TimescaleDB: its rows lie in children that nobody lists.
    fn is_hypertable(&self, relation: &Relation) -> bool {
        relation.kind == 'r'
            && !is_internal(&relation.namespace)
            && self
                .children
                .get(&relation.oid)
                .into_iter()
                .flatten()
                .any(|child| self.relations.get(child).is_some_and(|child| is_internal(&child.namespace)))
    }

    /// The relations whose own rows make up a stream, ordered by name; foreign leaves included.
    fn heaps(&self, relation: &Relation, collapse: bool) -> Vec<&Relation> {
        let with_children = relation.kind == 'p' || (relation.kind == 'r' && (collapse || self.is_hypertable(relation)));
        let oids = if with_children { walk(relation.oid, &self.children) } else { vec![relation.oid] };
        let mut heaps: Vec<&Relation> = oids
            .iter()
            .filter_map(|oid| self.relations.get(oid))
            .filter(|heap| matches!(heap.kind, 'r' | 'm') || (heap.kind == 'f' && heap.oid != relation.oid))
            .collect();
        heaps.sort_by_key(|heap| (&heap.namespace, &heap.name));
        heaps
    }

    fn access(&self, relation: &Relation, heaps: &[&Relation]) -> Access {
        if relation.select == Select::Columns || self.is_hypertable(relation) {
            return Access::Whole;
        }
        let same_as_through_parent = |leaf: &&Relation| {
            leaf.oid == relation.oid || (leaf.usage && leaf.select == Select::Table && !leaf.row_security && !relation.row_security)
        };
        if heaps.iter().all(same_as_through_parent) { Access::Leaves } else { Access::Parent }
    }
}

/// Schemas in which an extension keeps what its own tables and views show.
fn is_internal(namespace: &str) -> bool {
    namespace.starts_with("_timescaledb_")
}

/// `start` and everything that `edges` lead to from there, each once.
fn walk(start: u32, edges: &HashMap<u32, Vec<u32>>) -> Vec<u32> {
    let (mut found, mut seen) = (vec![start], BTreeSet::from([start]));
    let mut at = 0;
    while let Some(oid) = found.get(at).copied() {
        found.extend(edges.get(&oid).into_iter().flatten().filter(|next| seen.insert(**next)));
        at += 1;
    }
    found
}

/// Reads the details of `wanted` and puts everything together, in the order of `wanted`.
pub(super) async fn describe(
    client: &Client,
    assembly: &Assembly,
    wanted: &[u32],
    collapse: bool,
    warnings: &mut Vec<String>,
) -> Result<Vec<TableInfo>> {
    let server = &assembly.server;
    let relations: Vec<&Relation> = wanted.iter().filter_map(|oid| assembly.relations.get(oid)).collect();
    let heaps: Vec<Vec<&Relation>> = relations.iter().map(|relation| assembly.heaps(relation, collapse)).collect();
    let heap_oids: BTreeSet<u32> = heaps.iter().flatten().map(|heap| heap.oid).collect();

    let columns = query::columns(client, server, wanted).await.doing(|| "list columns")?;
    let type_oids: BTreeSet<u32> = columns.iter().map(|column| column.type_oid).collect();
    let mut types = query::types(client, server, &type_oids.into_iter().collect::<Vec<_>>()).await.doing(|| "list types")?;
    for ty in types.values_mut().filter(|ty| ty.extension && ty.name == "hstore") {
        // `hstore_send` counts the bytes of a key in the server's encoding and sends them in the client's.
        ty.sends &= matches!(server.encoding.as_str(), "UTF8" | "SQL_ASCII");
    }
    if let Some(money) = types.get_mut(&MONEY) {
        money.typmod = query::money_places(client).await.doing(|| "ask how many places money has")?;
    }
    let keys = query::keys(client, server, wanted).await.doing(|| "list primary keys")?;
    let sizes = query::sizes(client, &heap_oids.into_iter().collect::<Vec<_>>()).await.doing(|| "ask for sizes of tables")?;
    if sizes.is_none() {
        warnings.push("a table is locked, so sizes are estimates from the last VACUUM or ANALYZE".into());
    }

    let mut columns_of: HashMap<u32, Vec<Column>> = HashMap::new();
    for column in columns {
        columns_of.entry(column.relation).or_default().push(column);
    }
    let mut key_of: HashMap<u32, Vec<String>> = HashMap::new();
    for (relation, column) in keys {
        key_of.entry(relation).or_default().push(column);
    }
    relations
        .into_iter()
        .zip(heaps)
        .map(|(relation, heaps)| {
            let leaves: Vec<Leaf> = heaps.iter().map(|heap| leaf(server, heap, sizes.as_ref())).collect();
            // The children of plain inheritance keep neither the parent's key nor, before 18, its NOT NULL.
            let loose = relation.kind == 'r' && leaves.len() > 1 && !assembly.is_hypertable(relation);
            let checked = matches!(relation.kind, 'r' | 'p') && !loose && leaves.iter().all(|leaf| !leaf.foreign);
            let columns = columns_of.remove(&relation.oid).unwrap_or_default();
            Ok(TableInfo {
                oid: relation.oid,
                namespace: relation.namespace.clone(),
                name: relation.name.clone(),
                kind: match relation.kind {
                    'p' => RelationKind::Partitioned,
                    'v' => RelationKind::View,
                    'm' => RelationKind::MaterializedView,
                    'f' => RelationKind::Foreign,
                    _ => RelationKind::Table,
                },
                columns: columns
                    .into_iter()
                    .map(|column| column_info(column, &types, checked))
                    .collect::<Result<_>>()
                    .doing(|| format!("look at {}", qualified(&relation.namespace, &relation.name)))?,
                primary_key: key_of.remove(&relation.oid).filter(|_| !loose).unwrap_or_default(),
                estimated_rows: rows(relation, &leaves),
                bytes: matches!(relation.kind, 'r' | 'p' | 'm')
                    .then(|| leaves.iter().fold(0_u64, |sum, leaf| sum.saturating_add(leaf.bytes))),
                comment: relation.comment.clone(),
                partition_of: assembly.partition_of(relation),
                access: assembly.access(relation, &heaps),
                leaves,
            })
        })
        .collect()
}

fn leaf(server: &Server, heap: &Relation, sizes: Option<&HashMap<u32, Size>>) -> Leaf {
    let foreign = heap.kind == 'f';
    let estimate = Size { main: heap.pages.saturating_mul(server.block_size), toast: 0 };
    let size = match sizes {
        _ if foreign => Size::default(),
        Some(sizes) => sizes.get(&heap.oid).copied().unwrap_or_default(),
        None => estimate,
    };
    let pages = (size.main / server.block_size).min(PAGES_MAX);
    Leaf {
        oid: heap.oid,
        namespace: heap.namespace.clone(),
        name: heap.name.clone(),
        filenode: heap.filenode,
        pages,
        bytes: size.main.saturating_add(size.toast),
        estimated_rows: if foreign { (heap.rows > 0.0).then_some(heap.rows as u64) } else { heap_rows(heap, pages) },
        foreign,
    }
}

/// As the planner does it: rows per page as last seen, times the pages there are now.
fn heap_rows(heap: &Relation, pages: u64) -> Option<u64> {
    if pages == 0 {
        Some(0)
    } else if heap.rows < 0.0 || heap.pages == 0 {
        None
    } else {
        Some((heap.rows / heap.pages as f64 * pages as f64).round() as u64)
    }
}

fn rows(relation: &Relation, leaves: &[Leaf]) -> Option<u64> {
    match relation.kind {
        'v' => None,
        'f' => (relation.rows > 0.0).then_some(relation.rows as u64),
        _ => leaves.iter().try_fold(0_u64, |sum, leaf| Some(sum.saturating_add(leaf.estimated_rows?))),
    }
}

fn column_info(column: Column, types: &HashMap<u32, TypeRow>, checked: bool) -> Result<ColumnInfo> {
    Ok(ColumnInfo {
        logged: (column.type_oid, column.typmod),
        version: column.version,
        ty: resolve(types, column.type_oid, column.typmod, column.dimensions, 0)
            .doing(|| format!("resolve the type of column {}", column.name))?,
        declared: declared(types, &column),
        name: column.name,
        attnum: column.attnum,
        not_null: column.not_null && checked,
        generated: column.generated,
        identity: column.identity,
        filled: column.filled,
        comment: column.comment,
    })
}

/// `format_type` leaves out the schema of a type on the search path; the declared type must not depend on that.
fn declared(types: &HashMap<u32, TypeRow>, column: &Column) -> String {
    let own = types.get(&column.type_oid);
    let shown = own.and_then(|ty| is_array(ty).then(|| types.get(&ty.element)).flatten()).or(own);
    match shown {
        Some(ty) if ty.visible && ty.namespace != "pg_catalog" => format!("{}.{}", ty.quoted_namespace, column.formatted),
        _ => column.formatted.clone(),
    }
}

fn is_array(ty: &TypeRow) -> bool {
    ty.category == 'A' && ty.element != 0
}

/// Follows domains to their base, and types into what they are made of. `dimensions` is what the column declares.
fn resolve(types: &HashMap<u32, TypeRow>, mut oid: u32, mut typmod: i32, mut dimensions: i32, depth: usize) -> Result<PgType> {
    for _ in depth..TYPE_DEPTH_MAX {
        let ty = types.get(&oid).ok_or_else(|| Error::source_db(format!("type {oid} was dropped meanwhile")).transient())?;
        if ty.typtype == 'd' {
            if ty.typmod != -1 {
                typmod = ty.typmod;
            }
            dimensions = dimensions.max(ty.dimensions);
            oid = ty.base;
            continue;
        }
        let part = |oid: u32, typmod: i32, dimensions: i32| resolve(types, oid, typmod, dimensions, depth + 1);
        let kind = match ty.typtype {
            'b' if is_array(ty) => TypeKind::Array {
                // The modifier of numeric(12,2)[] is that of its elements.
                element: Box::new(part(ty.element, typmod, 0)?),
                dimensions: usize::try_from(dimensions).unwrap_or(0).max(1),
            },
            'b' => TypeKind::Base,
            'e' => TypeKind::Enum(ty.labels.clone()),
            'c' => TypeKind::Composite(
                ty.attributes
                    .iter()
                    .map(|a| Ok(Attribute { number: a.number, name: a.name.clone(), ty: part(a.type_oid, a.typmod, a.dimensions)? }))
                    .collect::<Result<_>>()?,
            ),
            'r' if ty.ranges_over != 0 => TypeKind::Range(Box::new(part(ty.ranges_over, -1, 0)?)),
            'm' if ty.ranges_over != 0 => TypeKind::Multirange(Box::new(part(ty.ranges_over, -1, 0)?)),
            _ => TypeKind::Other,
        };
        return Ok(PgType {
            oid,
            typmod: if oid == MONEY { ty.typmod } else { typmod },
            name: ty.name.clone(),
            namespace: ty.namespace.clone(),
            kind,
            delimiter: u8::try_from(ty.delimiter).unwrap_or(b','),
            sends: ty.sends,
            extension: ty.extension,
            json_cast: ty.json_cast,
        });
    }
    Err(Error::source_db(format!("type {oid} is nested more than {TYPE_DEPTH_MAX} levels deep")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ty(typtype: char, category: char, element: u32, base: u32, typmod: i32) -> TypeRow {
        let (name, namespace) = (format!("{typtype}{category}"), "s".to_owned());
        TypeRow {
            name,
            quoted_namespace: namespace.clone(),
            namespace,
            visible: false,
            typtype,
            category,
            element,
            base,
            typmod,
            dimensions: 0,
            delimiter: ',',
            sends: true,
            extension: false,
            json_cast: false,
            ranges_over: 0,
            attributes: Vec::new(),
            labels: Vec::new(),
        }
    }

    #[test]
    fn the_nearest_modifier_of_a_domain_wins() {
        // 3 is a domain over 2, a domain with a modifier over 1; 4 is an array of 3, 5 a domain over 4.
        let types = HashMap::from([
            (1, ty('b', 'N', 0, 0, -1)),
            (2, ty('d', 'N', 0, 1, 99)),
            (3, ty('d', 'N', 0, 2, -1)),
            (4, ty('b', 'A', 3, 0, -1)),
            (5, ty('d', 'A', 0, 4, -1)),
        ]);
        let found = |oid, typmod| {
            resolve(&types, oid, typmod, 0, 0)
                .map(|ty| (ty.oid, ty.typmod, ty.parts().first().map(|element| (element.oid, element.typmod))))
        };
        assert_eq!(found(1, 7).expect("a base type"), (1, 7, None));
        assert_eq!(found(3, -1).expect("a domain"), (1, 99, None));
        assert_eq!(found(5, -1).expect("a domain over an array of domains"), (4, -1, Some((1, 99))));
    }

    #[test]
    fn types_that_contain_themselves_or_are_gone_are_errors() {
        let types = HashMap::from([(1, ty('d', 'N', 0, 1, -1)), (2, ty('b', 'A', 2, 0, -1)), (3, ty('d', 'A', 0, 9, -1))]);
        for oid in [1, 2, 3] {
            assert!(resolve(&types, oid, -1, 0, 0).is_err(), "{oid}");
        }
    }

    #[test]
    fn estimates_follow_the_size_as_it_is_now() {
        let heap = |rows, pages| Relation {
            oid: 1,
            namespace: String::new(),
            name: String::new(),
            kind: 'r',
            partition: false,
            unlogged: false,
            populated: true,
            rows,
            pages,
            comment: None,
            usage: true,
            select: Select::Table,
            row_security: false,
            extension: false,
            filenode: 1,
        };
        for (rows, pages, now, expected) in [
            (100.0, 10, 20, Some(200)),
            (100.0, 10, 0, Some(0)),
            // Never analyzed: -1 from 14 on, 0 rows in 0 pages before.
            (-1.0, 0, 5, None),
            (0.0, 0, 5, None),
            (f64::NAN, 1, 5, Some(0)),
        ] {
            assert_eq!(heap_rows(&heap(rows, pages), now), expected, "{rows} {pages} {now}");
        }
    }

    #[test]
    fn a_walk_ends_where_the_graph_does_not() {
        let edges = HashMap::from([(1, vec![2, 3]), (2, vec![4]), (3, vec![4]), (4, vec![1])]);
        assert_eq!(walk(1, &edges), [1, 2, 3, 4]);
    }
}
