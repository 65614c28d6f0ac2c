//! Partitions that came or went without a word in the log.
//!
//! `ATTACH PARTITION` brings the rows that a table has, `DETACH` and `DROP` take them away; neither is logged as changes. A partition that was
//! created as one was empty then, and all its rows are in the log. Promises: a partition counts as created only where the catalog proves
//! it: its place in the tree was written by the transaction that made its row type, and none of that transaction's rows is older.

use crate::error::Result;
use crate::postgres::connect::Session;
use crate::postgres::quote;
use std::collections::BTreeSet;

/// What has become of a table's partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Names of those whose rows were there before they were partitions of it.
    pub attached: Vec<String>,
    /// How many are not partitions of it any more.
    pub gone: usize,
}

/// A place in the tree below a table.
#[derive(Clone, Debug)]
struct Link {
    child: u32,
    parent: u32,
    name: String,
    /// Whether one transaction made the relation and put it in its place.
    at_once: bool,
    /// Transaction and command that put it there.
    written: (String, String),
    leaf: bool,
}

async fn links(session: &Session, root: u32) -> Result<Vec<Link>> {
    let query = format!(
        "WITH RECURSIVE tree AS (SELECT inhrelid, inhparent, xmin::text AS x, cmin::text AS c FROM pg_catalog.pg_inherits WHERE inhparent = {root} \
           UNION ALL SELECT i.inhrelid, i.inhparent, i.xmin::text, i.cmin::text FROM pg_catalog.pg_inherits i JOIN tree ON i.inhparent = tree.inhrelid) \
         SELECT inhrelid, inhparent, n.nspname::text, c.relname::text, x = t.xmin::text, x, tree.c, c.relkind <> 'p' FROM tree \
         JOIN pg_catalog.pg_class c ON c.oid = inhrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_type t ON t.oid = c.reltype"
    );
    let rows = session.client.query(&query, &[]).await.map_err(|e| session.error(&e).doing("look at partitions"))?;
    let link = |row: &tokio_postgres::Row| Link {
        child: row.get(0),
        parent: row.get(1),
        name: quote::qualified(row.get(2), row.get(3)),
        at_once: row.get(4),
        written: (row.get(5), row.get(6)),
        leaf: row.get(7),
    };
    Ok(rows.iter().map(link).collect())
}

/// The partitions that came and went since `known` (leaves, by OID) were all.
pub async fn moves(session: &Session, root: u32, known: &BTreeSet<u32>) -> Result<Moves> {
    let links = links(session, root).await?;
    let leaves: BTreeSet<u32> = links.iter().filter(|link| link.leaf).map(|link| link.child).collect();
    let mut moves = Moves { attached: Vec::new(), gone: known.difference(&leaves).count() };
    for link in newcomers(&links, known) {
        if !link.at_once || (link.leaf && is_filled_before(session, link).await?) {
            moves.attached.push(link.name.clone());
        }
    }
    Ok(moves)
}

/// Places that a new leaf has come with: its own, and those above it below which nothing is known.
fn newcomers<'l>(links: &'l [Link], known: &BTreeSet<u32>) -> Vec<&'l Link> {
    let above = |child: u32| links.iter().find(|link| link.child == child);
    let mut old = BTreeSet::new();
    for leaf in known {
        let mut at = above(*leaf);
        while let Some(link) = at {
            old.insert(link.child);
            at = above(link.parent);
        }
    }
    links.iter().filter(|link| !old.contains(&link.child)).collect()
}

/// Whether the transaction that made a partition filled it before it was one. Its first rows are where a table begins.
async fn is_filled_before(session: &Session, link: &Link) -> Result<bool> {
    let (transaction, command) = &link.written;
    let pages: Vec<String> = (1..=290).map(|line| format!("'(0,{line})'")).collect();
    let query = format!(
        "SELECT EXISTS (SELECT FROM ONLY {} WHERE ctid = ANY (ARRAY[{}]::tid[]) AND xmin::text = '{transaction}' AND cmin::text::bigint < {command})",
        link.name,
        pages.join(",")
    );
    Ok(session.row(&query).await?.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_nothing_known_below_it_is_new() {
        let link = |child, parent, leaf| Link {
            child,
            parent,
            name: child.to_string(),
            at_once: true,
            written: (String::new(), String::new()),
            leaf,
        };
        // 1 ─ 2 (known leaf), 3 ─ 4 (known leaf), 3 ─ 5, 6 ─ 7
        let links = [link(2, 1, true), link(3, 1, false), link(4, 3, true), link(5, 3, true), link(6, 1, false), link(7, 6, true)];
        let found: Vec<u32> = newcomers(&links, &BTreeSet::from([2, 4])).iter().map(|link| link.child).collect();
        assert_eq!(found, [5, 6, 7]);
    }
}
