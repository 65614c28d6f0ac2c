//! Heaps cut into ranges of pages.
//!
//! Pure. Within one exported snapshot a row version has one ctid, so ranges of pages neither overlap nor leave a gap. What breaks this
//! is a rewrite of the heap (VACUUM FULL, CLUSTER, TRUNCATE) between two chunks; the locks of the run forbid it (`exported`), and
//! [`Chunk::filenode`] tells a later run whether the heap is still the same.

use super::Chunk;
use crate::postgres::catalog::{Access, Leaf, RelationKind, TableInfo};

/// Range scans on ctid exist from PostgreSQL 14 on; before, each chunk would read the whole table.
pub const TID_RANGE_SCAN: u32 = 140_000;

/// Less than this is not worth a query of its own. In bytes, not pages: a heap of few pages can have much TOAST.
const CHUNK_BYTES_MIN: u64 = 128 * 1024;

/// Chunks of one heap at most; beyond that they grow. Bounds the plan, whatever sizes the server reports.
const CHUNKS_MAX: u64 = 65_536;

/// The chunks of a table, in order. At least one, so that an empty table is read (and found empty) too.
///
/// Heaps are cut into ranges of equal size of about `target_bytes` each. Views, foreign tables, heaps whose ctid may not be read, and
/// everything on servers before 14 are one chunk each.
pub fn plan(table: &TableInfo, server_version: u32, target_bytes: u64) -> Vec<Chunk> {
    let foreign = table.leaves.iter().any(|leaf| leaf.foreign);
    let whole = match table.access {
        Access::Whole => true,
        // A foreign leaf has no ctid to compare.
        Access::Parent => foreign || server_version < TID_RANGE_SCAN,
        Access::Leaves => table.leaves.is_empty(),
    };
    if whole {
        return vec![self::whole(table)];
    }
    if table.access == Access::Parent {
        let pages: Vec<u64> = table.leaves.iter().map(|leaf| leaf.pages).collect();
        let bytes = table.bytes.unwrap_or(0);
        return cut(&pages, bytes, table.estimated_rows, target_bytes)
            .map(|range| range.of(&table.namespace, &table.name, table.oid, filenode(table), true))
            .collect();
    }
    let mut chunks = Vec::new();
    for leaf in &table.leaves {
        let Leaf { namespace, name, oid, filenode, .. } = leaf;
        let target = if leaf.foreign || server_version < TID_RANGE_SCAN { u64::MAX } else { target_bytes };
        chunks.extend(
            cut(&[leaf.pages], leaf.bytes, leaf.estimated_rows, target).map(|range| range.of(namespace, name, *oid, *filenode, false)),
        );
    }
    chunks
}

/// The relation as one chunk.
pub fn whole(table: &TableInfo) -> Chunk {
    // Beneath a partitioned parent without partitions there is nothing, but ONLY would not see one that is added meanwhile.
    let tree = table.access == Access::Parent || table.kind == RelationKind::Partitioned || table.leaves.len() > 1;
    Chunk {
        namespace: table.namespace.clone(),
        relation: table.name.clone(),
        oid: table.oid,
        filenode: filenode(table),
        from_page: 0,
        to_page: None,
        keys: None,
        tree,
        estimated_rows: table.estimated_rows,
        estimated_bytes: table.bytes.unwrap_or(0),
    }
}

/// The chunks of pages `from..to` of one heap (`None`: to its end), for what an earlier run has left unread.
pub fn split(leaf: &Leaf, from: u64, to: Option<u64>, server_version: u32, target_bytes: u64) -> Vec<Chunk> {
    let pages = to.unwrap_or(leaf.pages).saturating_sub(from);
    let of = |whole: u64| if leaf.pages == 0 { 0 } else { share(whole, pages.min(leaf.pages), leaf.pages) };
    let target = if leaf.foreign || server_version < TID_RANGE_SCAN { u64::MAX } else { target_bytes };
    let ranges: Vec<_> = cut(&[pages], of(leaf.bytes), leaf.estimated_rows.map(of), target).collect();
    let shifted = ranges.into_iter().map(|range| Range { from: range.from + from, to: range.to.map(|end| end + from).or(to), ..range });
    shifted.map(|range| range.of(&leaf.namespace, &leaf.name, leaf.oid, leaf.filenode, false)).collect()
}

/// The heap of the relation itself; a parent that is read through has none.
fn filenode(table: &TableInfo) -> u32 {
    table.leaves.iter().find(|leaf| leaf.oid == table.oid).map_or(0, |leaf| leaf.filenode)
}

struct Range {
    from: u64,
    to: Option<u64>,
    rows: Option<u64>,
    bytes: u64,
}

impl Range {
    fn of(self, namespace: &str, relation: &str, oid: u32, filenode: u32, tree: bool) -> Chunk {
        Chunk {
            namespace: namespace.to_owned(),
            relation: relation.to_owned(),
            oid,
            filenode,
            from_page: self.from,
            to_page: self.to,
            keys: None,
            tree,
            estimated_rows: self.rows,
            estimated_bytes: self.bytes,
        }
    }
}

/// Cuts heaps that are read side by side, page n of all of them together, into ranges with an equal number of pages in sum.
fn cut(pages: &[u64], bytes: u64, rows: Option<u64>, target_bytes: u64) -> impl Iterator<Item = Range> {
    let mut sorted = pages.to_vec();
    sorted.sort_unstable();
    let longest = sorted.last().copied().unwrap_or(0);
    let total: u64 = sorted.iter().sum();
    let count = bytes.div_ceil(target_bytes.max(CHUNK_BYTES_MIN)).min(longest).clamp(1, CHUNKS_MAX);

    let mut starts: Vec<u64> = (0..count).map(|at| page_at(&sorted, share(total, at, count))).collect();
    // Many heaps of few pages: several shares can fall into one page.
    starts.dedup();
    (0..starts.len()).map(move |at| {
        let (from, to) = (starts[at], starts.get(at + 1).copied());
        let (before, after) = (pages_before(&sorted, from), to.map_or(total, |to| pages_before(&sorted, to)));
        let part = |of: u64| if total == 0 { of } else { share(of, after, total) - share(of, before, total) };
        Range { from, to, rows: rows.map(part), bytes: part(bytes) }
    })
}

/// `of * part / whole` without overflow.
fn share(of: u64, part: u64, whole: u64) -> u64 {
    // At most `of`, because `part` is at most `whole`.
    (u128::from(of) * u128::from(part) / u128::from(whole)) as u64
}

/// How many pages lie before page `end`, over all heaps.
fn pages_before(sorted: &[u64], end: u64) -> u64 {
    sorted.iter().map(|pages| end.min(*pages)).sum()
}

/// The page before which `wanted` pages lie, over all heaps; rounded down.
fn page_at(sorted: &[u64], wanted: u64) -> u64 {
    let (mut page, mut before) = (0, 0);
    for (at, end) in sorted.iter().enumerate() {
        let heaps = (sorted.len() - at) as u64;
        let reach = before + (end - page) * heaps;
        if wanted < reach {
            return page + (wanted - before) / heaps;
        }
        (page, before) = (*end, reach);
    }
    page
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_gap_is_split_within_its_bounds() {
        let check = |from, to, expected: &[(u64, Option<u64>)]| {
            let chunks = split(&leaf("t", 1000), from, to, 150_000, 400 * PAGE);
            let ranges: Vec<_> = chunks.iter().map(|chunk| (chunk.from_page, chunk.to_page)).collect();
            assert_eq!(ranges, expected);
        };
        check(0, None, &[(0, Some(333)), (333, Some(666)), (666, None)]);
        check(200, Some(1000), &[(200, Some(600)), (600, Some(1000))]);
        check(900, None, &[(900, None)]);
        // The heap may have shrunk since.
        check(1500, None, &[(1500, None)]);
    }

    const PAGE: u64 = 8192;

    fn leaf(name: &str, pages: u64) -> Leaf {
        Leaf {
            oid: 100,
            namespace: "public".into(),
            name: name.into(),
            filenode: 7,
            pages,
            bytes: pages * PAGE,
            estimated_rows: Some(pages * 10),
            foreign: false,
        }
    }

    fn table(kind: RelationKind, access: Access, leaves: Vec<Leaf>) -> TableInfo {
        TableInfo {
            oid: 1,
            namespace: "public".into(),
            name: "t".into(),
            kind,
            columns: Vec::new(),
            primary_key: Vec::new(),
            estimated_rows: Some(leaves.iter().filter_map(|leaf| leaf.estimated_rows).sum()),
            bytes: (!leaves.is_empty()).then(|| leaves.iter().map(|leaf| leaf.bytes).sum()),
            comment: None,
            partition_of: Vec::new(),
            leaves,
            access,
        }
    }

    fn ranges(chunks: &[Chunk]) -> Vec<(&str, u64, Option<u64>)> {
        chunks.iter().map(|chunk| (chunk.relation.as_str(), chunk.from_page, chunk.to_page)).collect()
    }

    #[test]
    fn equal_ranges_without_gap_or_overlap() {
        for (pages, target_pages) in [(0, 100), (1, 100), (100, 100), (101, 100), (1000, 64), (12_345, 777), (40, 1)] {
            let table = table(RelationKind::Table, Access::Leaves, vec![leaf("t", pages)]);
            let chunks = plan(&table, 150_000, target_pages * PAGE);
            assert_eq!(chunks.len() as u64, pages.div_ceil(target_pages.max(16)).max(1), "{pages}/{target_pages}");
            assert_eq!(chunks[0].from_page, 0);
            assert_eq!(chunks[chunks.len() - 1].to_page, None);
            for pair in chunks.windows(2) {
                assert_eq!(pair[0].to_page, Some(pair[1].from_page));
            }
            let lengths: Vec<u64> = chunks.iter().map(|chunk| chunk.to_page.unwrap_or(pages) - chunk.from_page).collect();
            assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1, "{lengths:?}");
            assert_eq!(chunks.iter().map(|chunk| chunk.estimated_bytes).sum::<u64>(), pages * PAGE);
            assert_eq!(chunks.iter().filter_map(|chunk| chunk.estimated_rows).sum::<u64>(), pages * 10);
        }
    }

    #[test]
    fn toast_counts_for_the_size_of_a_chunk() {
        let mut toasted = leaf("t", 100);
        toasted.bytes = 1000 * PAGE;
        let chunks = plan(&table(RelationKind::Table, Access::Leaves, vec![toasted]), 150_000, 250 * PAGE);
        assert_eq!(ranges(&chunks), [("t", 0, Some(25)), ("t", 25, Some(50)), ("t", 50, Some(75)), ("t", 75, None)]);
        assert_eq!(chunks[1].estimated_bytes, 250 * PAGE);
    }

    #[test]
    fn a_small_heap_with_much_toast_is_cut_down_to_pages() {
        let mut toasted = leaf("t", 3);
        toasted.bytes = 1 << 30;
        let chunks = plan(&table(RelationKind::Table, Access::Leaves, vec![toasted]), 150_000, 1 << 20);
        assert_eq!(ranges(&chunks), [("t", 0, Some(1)), ("t", 1, Some(2)), ("t", 2, None)]);
    }

    #[test]
    fn sizes_from_the_server_bound_nothing_but_the_plan() {
        let mut huge = leaf("t", u32::MAX.into());
        huge.bytes = u64::MAX;
        let chunks = plan(&table(RelationKind::Table, Access::Leaves, vec![huge]), 150_000, 1);
        assert_eq!(chunks.len() as u64, CHUNKS_MAX);
    }

    #[test]
    fn whole_where_ctid_does_not_help() {
        let whole = |kind, access, leaves, version| {
            let chunks = plan(&table(kind, access, leaves), version, PAGE);
            chunks.into_iter().map(|chunk| (chunk.relation.clone(), chunk.tree, !chunk.conditions(None).is_empty())).collect::<Vec<_>>()
        };
        let one = |name: &str, tree| vec![(name.to_owned(), tree, false)];
        assert_eq!(whole(RelationKind::View, Access::Leaves, vec![], 150_000), one("t", false));
        assert_eq!(whole(RelationKind::Foreign, Access::Leaves, vec![], 150_000), one("t", false));
        assert_eq!(whole(RelationKind::Partitioned, Access::Leaves, vec![], 150_000), one("t", true));
        assert_eq!(whole(RelationKind::Table, Access::Leaves, vec![leaf("t", 900)], 130_000), one("t", false));
        assert_eq!(whole(RelationKind::Table, Access::Whole, vec![leaf("t", 900)], 150_000), one("t", false));
        assert_eq!(whole(RelationKind::Partitioned, Access::Whole, vec![leaf("a", 900)], 150_000), one("t", true));
        assert_eq!(whole(RelationKind::Partitioned, Access::Parent, vec![leaf("a", 900)], 130_000), one("t", true));
        let foreign = Leaf { foreign: true, pages: 0, ..leaf("b", 900) };
        assert_eq!(whole(RelationKind::Partitioned, Access::Parent, vec![leaf("a", 900), foreign.clone()], 150_000), one("t", true));
        assert_eq!(whole(RelationKind::Partitioned, Access::Leaves, vec![foreign], 150_000), one("b", false));
    }

    #[test]
    fn a_partitioned_parent_is_read_leaf_by_leaf() {
        let parent = table(RelationKind::Partitioned, Access::Leaves, vec![leaf("a", 40), leaf("b", 0), leaf("c", 20)]);
        let chunks = plan(&parent, 150_000, 20 * PAGE);
        assert_eq!(ranges(&chunks), [("a", 0, Some(20)), ("a", 20, None), ("b", 0, None), ("c", 0, None)]);
        assert!(chunks.iter().all(|chunk| !chunk.tree));
    }

    #[test]
    fn leaves_that_may_not_be_read_themselves_are_read_through_the_parent() {
        let parent = table(RelationKind::Partitioned, Access::Parent, vec![leaf("a", 400), leaf("b", 100), leaf("c", 100)]);
        let chunks = plan(&parent, 150_000, 200 * PAGE);
        // 600 pages in three parts of 200: three heaps up to page 66, then one heap alone from page 100 on.
        assert_eq!(ranges(&chunks), [("t", 0, Some(66)), ("t", 66, Some(200)), ("t", 200, None)]);
        assert!(chunks.iter().all(|chunk| chunk.tree && chunk.filenode == 0));
        assert_eq!(chunks.iter().map(|chunk| chunk.estimated_bytes).sum::<u64>(), 600 * PAGE);
        let many = table(RelationKind::Partitioned, Access::Parent, (0..100).map(|_| leaf("a", 2)).collect());
        assert_eq!(ranges(&plan(&many, 150_000, PAGE)), [("t", 0, Some(1)), ("t", 1, None)]);
    }
}
