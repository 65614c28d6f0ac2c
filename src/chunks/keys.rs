//! Relations cut by the values of a key: views, foreign tables, servers without ranges of ctid, and wherever `chunk_column` asks for it.
//!
//! Pure. Bounds are taken from a sample of the key itself, never from equal steps between its least and greatest value, so that gaps
//! and crowds do not matter. A bound is text as the server prints it, and is compared by the server, in the column's own order: any
//! type that can be sorted can be a key. A range reads `from <= key < to`; rows without a key belong to the range without a beginning.

use super::{Chunk, where_all};
use crate::postgres::quote;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rows of the sample that describe one chunk.
const QUANTILES_PER_CHUNK: u64 = 16;
/// Blocks to look at for each chunk: rows of a block are often neighbours in the key as well, so that blocks count and not rows.
const BLOCKS_PER_CHUNK: u64 = 64;
/// A sample of fewer blocks is not worth being one.
const BLOCKS_MIN: u64 = 1000;
/// Chunks of one relation at most.
const CHUNKS_MAX: u64 = 4096;

/// The columns by whose values a relation is cut, compared as a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Names, in order. Of several none can be NULL.
    pub columns: Vec<String>,
    /// Whether the only column can be NULL.
    pub nullable: bool,
}

/// A range of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRange {
    /// The key's columns.
    pub columns: Vec<String>,
    /// Whether the key can be NULL; such rows belong to the range without `from`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nullable: bool,
    /// The least key of the range, a text for each column; absent: from the beginning.
    pub from: Option<Vec<String>>,
    /// The least key after the range; absent: to the end.
    pub to: Option<Vec<String>>,
}

impl KeyRange {
    /// What selects the rows of the range.
    pub(super) fn conditions(&self) -> Vec<String> {
        let key = row(self.columns.iter().map(|name| quote::identifier(name)));
        // A constant without a type takes the type of the column that it is compared with.
        let bound = |values: &[String]| row(values.iter().map(|value| quote::literal(value)));
        let from = self.from.as_deref().map(|from| format!("{key} >= {}", bound(from)));
        let to = self.to.as_deref().map(|to| match self.nullable && self.from.is_none() {
            true => format!("({key} < {} OR {key} IS NULL)", bound(to)),
            false => format!("{key} < {}", bound(to)),
        });
        from.into_iter().chain(to).collect()
    }

    /// For people: `id 17..99`.
    pub(super) fn describe(&self) -> String {
        let bound = |bound: &Option<Vec<String>>| bound.as_ref().map(|values| values.join(",")).unwrap_or_default();
        format!("{} {}..{}", self.columns.join(","), bound(&self.from), bound(&self.to))
    }
}

fn row(items: impl ExactSizeIterator<Item = String>) -> String {
    let single = items.len() == 1;
    let items = items.collect::<Vec<_>>().join(", ");
    if single { items } else { format!("({items})") }
}

/// How large chunks should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// In bytes, for relations that have a size.
    pub bytes: u64,
    /// In rows, for the others.
    pub rows: u64,
}

/// How a relation is looked at before it is cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The query: rows of the relation that were looked at, then the key's columns as text; in the key's order.
    pub query: String,
    /// Chunks to make, if the relation's size tells that.
    chunks: Option<u64>,
    /// Rows of a chunk, if it does not.
    chunk_rows: u64,
}

impl Sample {
    /// A sample for cutting `whole` into chunks of about `size`. `pages` are those of its heaps, `None` for what has none that
    /// can be sampled: then every key is looked at. No sample when one chunk is enough.
    pub fn of(whole: &Chunk, key: &Key, filter: Option<&str>, pages: Option<u64>, size: Size) -> Option<Self> {
        let chunks = pages.map(|_| whole.estimated_bytes.div_ceil(size.bytes.max(1)).clamp(1, CHUNKS_MAX));
        if chunks == Some(1) {
            return None;
        }
        let wanted = chunks.map_or(u64::MAX, |chunks| (chunks * BLOCKS_PER_CHUNK).max(BLOCKS_MIN));
        let sampled = match pages {
            // Looking at most of it is no cheaper than looking at all of it.
            Some(pages) if wanted < pages / 2 => {
                format!(" TABLESAMPLE SYSTEM ({:.6}) REPEATABLE (0)", 100.0 * wanted as f64 / pages as f64)
            }
            _ => String::new(),
        };
        let names: Vec<_> = key.columns.iter().map(|name| quote::identifier(name)).collect();
        let inner: Vec<_> = names.iter().enumerate().map(|(at, name)| format!("{name} AS key_{at}")).collect();
        let outer: Vec<_> = (0..names.len()).map(|at| format!("key_{at}::text")).collect();
        let mut conditions: Vec<_> = key.nullable.then(|| format!("{} IS NOT NULL", names[0])).into_iter().collect();
        conditions.extend(whole.conditions(filter));
        let query = format!(
            "SELECT rows, {} FROM (SELECT {}, row_number() OVER (ORDER BY {}) AS place, count(*) OVER () AS rows {}{sampled}{}) looked_at \
             WHERE place % greatest(1, rows / {}) = 0 ORDER BY place",
            outer.join(", "),
            inner.join(", "),
            names.join(", "),
            whole.source(),
            where_all(&conditions),
            chunks.unwrap_or(CHUNKS_MAX) * QUANTILES_PER_CHUNK,
        );
        Some(Self { query, chunks, chunk_rows: size.rows.max(1) })
    }

    /// The chunks of `whole`, from the answer: the number of rows that were looked at, and keys that divide these into equal shares, in
    /// their order. Beside each the number of chunks that it should be: more than one for a value that is more frequent than that.
    pub fn cut(&self, whole: &Chunk, key: &Key, rows: u64, quantiles: &[Vec<String>]) -> Vec<(Chunk, u64)> {
        let chunks = self.chunks.unwrap_or_else(|| rows.div_ceil(self.chunk_rows).clamp(1, CHUNKS_MAX));
        let total = quantiles.len() as u64;
        let target = total.div_ceil(chunks).max(1);
        let known_rows = whole.estimated_rows.or_else(|| self.chunks.is_none().then_some(rows));
        let chunk = |range: Range<'_>| {
            let share = |of: u64| if total == 0 { of } else { (u128::from(of) * u128::from(range.weight) / u128::from(total)) as u64 };
            let keys = KeyRange {
                columns: key.columns.clone(),
                nullable: key.nullable,
                from: range.from.map(<[String]>::to_vec),
                to: range.to.map(<[String]>::to_vec),
            };
            let (estimated_rows, estimated_bytes) = (known_rows.map(share), share(whole.estimated_bytes));
            (Chunk { keys: Some(keys), estimated_rows, estimated_bytes, ..whole.clone() }, ((range.weight + target / 2) / target).max(1))
        };
        ranges(quantiles, target).into_iter().map(chunk).collect()
    }
}

/// The query for pages that divide the rows of `chunk` into `pieces`: rows of one value can lie anywhere in the heap.
pub fn pages_query(chunk: &Chunk, filter: Option<&str>, pieces: u64) -> String {
    format!(
        "SELECT page FROM (SELECT (ctid::text::point)[0]::bigint AS page, row_number() OVER (ORDER BY ctid) AS place, count(*) OVER () AS rows {}{}) \
         looked_at WHERE place % greatest(1, rows / {pieces}) = 0 ORDER BY place",
        chunk.source(),
        where_all(&chunk.conditions(filter))
    )
}

/// `chunk` in pieces that begin at these pages, which are in order.
pub fn by_pages(chunk: &Chunk, pieces: u64, pages: &[u64]) -> Vec<Chunk> {
    let mut starts = vec![0];
    // The last is where the rows end.
    starts.extend(pages.iter().take(pages.len().saturating_sub(1)).filter(|page| **page > 0));
    starts.dedup();
    let piece = |at: usize| Chunk {
        from_page: starts[at],
        to_page: starts.get(at + 1).copied(),
        estimated_rows: chunk.estimated_rows.map(|rows| rows / pieces),
        estimated_bytes: chunk.estimated_bytes / pieces,
        ..chunk.clone()
    };
    (0..starts.len()).map(piece).collect()
}

/// Keys `from..to`, and how many of the quantiles they have.
struct Range<'q> {
    from: Option<&'q [String]>,
    to: Option<&'q [String]>,
    weight: u64,
}

/// Ranges of about `target` quantiles each; a value that is as frequent as that stands alone.
fn ranges(quantiles: &[Vec<String>], target: u64) -> Vec<Range<'_>> {
    let mut ranges: Vec<Range<'_>> = Vec::new();
    let mut open = Range { from: None, to: None, weight: 0 };
    let mut alone = false;
    for run in quantiles.chunk_by(|a, b| a == b) {
        let weight = run.len() as u64;
        let fits = open.weight + weight <= target + target / 4;
        if open.weight > 0 && (alone || open.weight >= target || !fits) {
            let next = Range { from: Some(&run[0]), to: None, weight: 0 };
            let done = std::mem::replace(&mut open, next);
            ranges.push(Range { to: Some(&run[0]), ..done });
        }
        open.weight += weight;
        alone = weight >= target && target > 1;
    }
    ranges.push(open);
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: u64) -> Chunk {
        Chunk {
            namespace: "public".into(),
            relation: "t".into(),
            oid: 1,
            filenode: 2,
            from_page: 0,
            to_page: None,
            keys: None,
            tree: false,
            estimated_rows: Some(bytes / 100),
            estimated_bytes: bytes,
        }
    }

    fn key(columns: &[&str], nullable: bool) -> Key {
        Key { columns: columns.iter().map(|name| (*name).to_owned()).collect(), nullable }
    }

    fn values(values: impl IntoIterator<Item = u32>) -> Vec<Vec<String>> {
        values.into_iter().map(|value| vec![value.to_string()]).collect()
    }

    #[test]
    fn a_range_says_who_belongs_to_it() {
        let range = |nullable, from: Option<&str>, to: Option<&str>| KeyRange {
            columns: vec!["k".into()],
            nullable,
            from: from.map(|text| vec![text.to_owned()]),
            to: to.map(|text| vec![text.to_owned()]),
        };
        assert!(range(true, None, None).conditions().is_empty());
        assert_eq!(range(false, None, Some("5")).conditions(), ["\"k\" < '5'"]);
        assert_eq!(range(true, None, Some("5")).conditions(), ["(\"k\" < '5' OR \"k\" IS NULL)"]);
        assert_eq!(range(true, Some("it's"), Some("z")).conditions(), ["\"k\" >= 'it''s'", "\"k\" < 'z'"]);
        let pair = KeyRange { columns: vec!["a".into(), "b".into()], nullable: false, from: Some(vec!["1".into(), "x".into()]), to: None };
        assert_eq!(pair.conditions(), ["(\"a\", \"b\") >= ('1', 'x')"]);
        assert_eq!(pair.describe(), "a,b 1,x..");
    }

    #[test]
    fn ranges_follow_the_sample_and_not_the_values() {
        // A gap of a billion, and a crowd.
        let quantiles = values((1..=100).chain(1_000_000_000..1_000_000_100).chain(2_000_000_000..2_000_000_040));
        let ranges = ranges(&quantiles, 30);
        assert_eq!(ranges.iter().map(|range| range.weight).sum::<u64>(), 240);
        assert!(ranges.iter().all(|range| range.weight <= 37), "{:?}", ranges.iter().map(|r| r.weight).collect::<Vec<_>>());
        assert!(ranges[0].from.is_none() && ranges[ranges.len() - 1].to.is_none());
        for pair in ranges.windows(2) {
            assert!(pair[0].to.is_some() && pair[0].to == pair[1].from);
        }
    }

    #[test]
    fn a_frequent_value_stands_alone_and_is_cut_by_pages() {
        let quantiles = values((0..50).chain(std::iter::repeat_n(50, 100)).chain(51..101));
        let sample = Sample { query: String::new(), chunks: Some(10), chunk_rows: 1 };
        let chunks = sample.cut(&whole(10_000), &key(&["k"], false), 1000, &quantiles);
        let frequent: Vec<_> = chunks.iter().filter(|(_, pieces)| *pieces > 1).collect();
        assert_eq!(frequent.len(), 1);
        let (chunk, pieces) = frequent[0];
        assert_eq!((chunk.keys.as_ref().and_then(|keys| keys.from.clone()), *pieces), (Some(vec!["50".into()]), 5));
        assert_eq!(chunks.iter().map(|(chunk, _)| chunk.estimated_bytes).sum::<u64>(), 10_000);
        let ranges = |pages: &[u64]| by_pages(chunk, 5, pages).iter().map(|piece| (piece.from_page, piece.to_page)).collect::<Vec<_>>();
        assert_eq!(ranges(&[0, 90, 90, 95, 99]), [(0, Some(90)), (90, Some(95)), (95, None)]);
        assert_eq!(ranges(&[]), [(0, None)]);
    }

    #[test]
    fn nothing_to_look_at_is_one_chunk() {
        assert_eq!(Sample::of(&whole(10), &key(&["k"], true), None, Some(1), Size { bytes: 100, rows: 1 }), None);
        let sample = Sample::of(&whole(0), &key(&["k"], true), None, None, Size { bytes: 100, rows: 5 }).expect("of unknown size");
        let chunks = sample.cut(&whole(0), &key(&["k"], true), 0, &[]);
        assert_eq!(chunks.len(), 1);
        assert!(chunks[0].0.conditions(None).is_empty());
    }

    #[test]
    fn samples() {
        let of = |key: Key, filter, pages| {
            Sample::of(&whole(100 << 20), &key, filter, pages, Size { bytes: 10 << 20, rows: 5 }).expect("a sample").query
        };
        assert_eq!(
            of(key(&["a", "b"], false), None, Some(100_000)),
            "SELECT rows, key_0::text, key_1::text FROM (SELECT \"a\" AS key_0, \"b\" AS key_1, row_number() OVER (ORDER BY \"a\", \"b\") AS place, \
             count(*) OVER () AS rows FROM ONLY \"public\".\"t\" TABLESAMPLE SYSTEM (1.000000) REPEATABLE (0)) looked_at \
             WHERE place % greatest(1, rows / 160) = 0 ORDER BY place"
        );
        assert!(of(key(&["a"], true), Some("x > 1"), Some(1_500)).contains("\"t\" WHERE \"a\" IS NOT NULL AND (x > 1)) looked_at"));
    }
}
