//! Partitions that came or went without a word in the log.
//!
//! `ATTACH PARTITION` brings the rows that a table has, `DETACH` and `DROP` take them away; neither is logged as changes. A partition that was
//! created as one was empty then, and all its rows are in the log. Published through their root, a TRUNCATE of one is not logged either.
//! Promises: a partition counts as created only where the catalog proves it: its place in the tree was written by the transaction that made
//! its row type, and none of that transaction's rows is older. One whose file is another counts as truncated, unless there is a row in it that was there
//! before: `VACUUM FULL` and its like take the rows along, as they are.

use crate::error::Result;
use crate::postgres::connect::Session;
use crate::postgres::quote;
use crate::state::captured::Heaps;
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
    /// `pg_relation_filenode`.
    file: Option<u32>,
    /// `xmin` of its row in `pg_class`: the transaction that has given it the file, or a later one.
    version: String,
    /// Whether its rows may be read.
    readable: bool,
}

async fn links(session: &Session, root: u32) -> Result<Vec<Link>> {
    let query = format!(
        "WITH RECURSIVE tree AS (SELECT inhrelid, inhparent, xmin::text AS x, cmin::text AS c FROM pg_catalog.pg_inherits WHERE inhparent = {root} \
           UNION ALL SELECT i.inhrelid, i.inhparent, i.xmin::text, i.cmin::text FROM pg_catalog.pg_inherits i JOIN tree ON i.inhparent = tree.inhrelid) \
         SELECT inhrelid, inhparent, n.nspname::text, c.relname::text, x = t.xmin::text, x, tree.c, c.relkind <> 'p', \
           pg_catalog.pg_relation_filenode(c.oid), c.xmin::text, \
           pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') FROM tree \
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
        file: row.get(8),
        version: row.get(9),
        readable: row.get(10),
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

/// A TRUNCATE of the whole table that the log has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its transaction, as far as there was one.
    pub transaction: Option<u32>,
    /// Whether it may have been a subtransaction of that one, which the log does not tell: all partitions were truncated at once then, soon after the
    /// transaction began.
    pub or_below: bool,
}

impl Told {
    fn is(self, link: &Link, links: &[Link]) -> bool {
        /// Transactions of one that has as many of its own as anybody has.
        const NEAR: u32 = 1 << 16;
        let (Some(transaction), Ok(version)) = (self.transaction, link.version.parse::<u32>()) else { return false };
        let at_once = || links.iter().filter(|other| other.leaf).all(|other| other.version == link.version);
        version == transaction || (self.or_below && version.wrapping_sub(transaction) < NEAR && at_once())
    }
}

/// Names of the partitions that were truncated since they had these files, otherwise than is told.
pub async fn emptied(session: &Session, root: u32, heaps: &Heaps, told: Told) -> Result<Vec<String>> {
    let links = links(session, root).await?;
    let mut emptied = Vec::new();
    for link in changed(&links, heaps, told) {
        if !has_rows_of_before(session, link, heaps.horizon).await? {
            emptied.push(link.name.clone());
        }
    }
    Ok(emptied)
}

/// Leaves that have another file than before, or, where they were not there, than they were made with (whose number is theirs).
fn changed<'l>(links: &'l [Link], heaps: &Heaps, told: Told) -> Vec<&'l Link> {
    let is_other = |link: &&Link| {
        let before = heaps.files.get(&link.child).copied().unwrap_or(link.child);
        link.file.is_some_and(|file| file != 0 && file != before) && !told.is(link, links)
    };
    links.iter().filter(|link| link.leaf).filter(is_other).collect()
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

/// Whether there is a row in a partition that was written before the horizon. Where nobody lets us look, there may be none.
async fn has_rows_of_before(session: &Session, link: &Link, horizon: i64) -> Result<bool> {
    if !link.readable {
        return Ok(false);
    }
    // The lower half is what a row has.
    let xid = horizon as u32;
    let query = format!("SELECT EXISTS (SELECT FROM ONLY {} WHERE pg_catalog.age(xmin) > pg_catalog.age('{xid}'::xid))", link.name);
    let found = session.row(&query).await.map_err(|e| e.doing(format!("look whether {} was truncated", link.name)))?;
    Ok(found.get(0))
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
            file: None,
            version: String::new(),
            readable: true,
        };
        // 1 ─ 2 (known leaf), 3 ─ 4 (known leaf), 3 ─ 5, 6 ─ 7
        let links = [link(2, 1, true), link(3, 1, false), link(4, 3, true), link(5, 3, true), link(6, 1, false), link(7, 6, true)];
        let found: Vec<u32> = newcomers(&links, &BTreeSet::from([2, 4])).iter().map(|link| link.child).collect();
        assert_eq!(found, [5, 6, 7]);
    }

    #[test]
    fn a_file_is_another_one_than_it_was_or_than_it_began_with() {
        let link = |child, file, version: &str| Link {
            child,
            parent: 1,
            name: child.to_string(),
            at_once: true,
            written: (String::new(), String::new()),
            leaf: true,
            file,
            version: version.to_owned(),
            readable: true,
        };
        let links = [
            link(2, Some(2), "7"),
            link(3, Some(30), "7"),
            link(4, Some(40), "9"),
            link(5, Some(5), "7"),
            link(6, Some(60), "7"),
            link(7, None, "7"),
        ];
        let heaps = Heaps { files: [(2, 2), (3, 3), (4, 4)].into(), horizon: 1 };
        let found = |links: &[Link], transaction, or_below| -> Vec<u32> {
            changed(links, &heaps, Told { transaction: Some(transaction), or_below }).iter().map(|link| link.child).collect()
        };
        assert_eq!(found(&links, 9, false), [3, 6]);
        // In a subtransaction of 5, all of them.
        assert!(found(&links[..2], 5, true).is_empty());
        assert_eq!(found(&links[..2], 5, false), [3]);
        assert_eq!(found(&links, 5, true), [3, 4, 6]);
        assert_eq!(found(&links[..2], 8, true), [3]);
    }
}
