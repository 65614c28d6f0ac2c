//! What one query reads of a table: a range of its pages, of a key, or of both.
//!
//! Pure. The chunks of a table neither overlap nor leave a gap, however stale the sizes or samples they were planned from: the first
//! has no beginning and the last no end. [`pages`] cuts heaps by physical position, [`keys`] any relation by the values of a key.

pub mod keys;
pub mod pages;

use crate::postgres::quote;
use crate::types::Wire;
use keys::KeyRange;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The page after the last that a heap can have (`InvalidBlockNumber`); OLake's upper end of an open range.
const PAGE_END: u64 = 4_294_967_295;

/// A part of a relation that one query reads. Written to the state file: forms that were ever written must stay readable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Chunk {
    /// Schema of the relation that the query names.
    pub namespace: String,
    /// Relation that the query names: the table, a leaf of it, or the parent when `tree` is set.
    pub relation: String,
    /// `pg_class.oid` of that relation.
    pub oid: u32,
    /// `pg_relation_filenode` at the time of planning, 0 without storage: a heap that was rewritten since has other pages.
    pub filenode: u32,
    /// First page.
    pub from_page: u64,
    /// Page after the last; absent means to the end.
    pub to_page: Option<u64>,
    /// Range of a key, when the relation is not cut by pages alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeyRange>,
    /// Whether the query reads what lies beneath the relation too (partitions, children), rather than `ONLY` its own heap.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tree: bool,
    /// The planner's estimate for this range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_rows: Option<u64>,
    /// Heap and TOAST bytes of this range; TOAST is taken to be spread evenly.
    #[serde(default)]
    pub estimated_bytes: u64,
}

impl Chunk {
    /// The bounds as OLake writes them in its state: of pages with quotes and tuple syntax, `'(0,0)'` and `'(262144,0)'`; of a key as
    /// the value, `null` where there is none.
    pub fn olake_form(&self) -> serde_json::Value {
        if let Some(keys) = &self.keys {
            let bound = |bound: &Option<Vec<String>>| bound.as_ref().map(|values| values.join(","));
            return serde_json::json!({"min": bound(&keys.from), "max": bound(&keys.to)});
        }
        let page = |page: u64| format!("'({page},0)'");
        serde_json::json!({"min": page(self.from_page), "max": page(self.to_page.unwrap_or(PAGE_END))})
    }

    /// For people: `pages 0..8192`, `id 17..99`.
    pub fn describe(&self) -> String {
        let pages = match (self.from_page, self.to_page) {
            (0, None) => None,
            (from, Some(to)) => Some(format!("pages {from}..{to}")),
            (from, None) => Some(format!("pages {from}..")),
        };
        match (&self.keys, pages) {
            (Some(keys), Some(pages)) => format!("{} in {pages}", keys.describe()),
            (Some(keys), None) => keys.describe(),
            (None, Some(pages)) => pages,
            (None, None) => "all pages".to_owned(),
        }
    }

    /// Joins `next` to this chunk, when it begins where this one ends, so that one query reads both. Whether it did.
    pub fn join(&mut self, next: &Chunk) -> bool {
        let same = self.oid == next.oid && self.relation == next.relation && self.namespace == next.namespace && self.tree == next.tree;
        let whole_heap = |chunk: &Chunk| chunk.from_page == 0 && chunk.to_page.is_none();
        let neighbours = match (&mut self.keys, &next.keys) {
            (None, None) => {
                let follows = self.to_page == Some(next.from_page);
                if same && follows {
                    self.to_page = next.to_page;
                }
                follows
            }
            (Some(keys), Some(more)) if whole_heap(next) && self.from_page == 0 && self.to_page.is_none() => {
                let follows = keys.columns == more.columns && keys.to.is_some() && keys.to == more.from;
                if same && follows {
                    keys.to.clone_from(&more.to);
                }
                follows
            }
            _ => false,
        };
        if same && neighbours {
            self.estimated_bytes += next.estimated_bytes;
            self.estimated_rows = self.estimated_rows.zip(next.estimated_rows).map(|(a, b)| a + b);
        }
        same && neighbours
    }

    /// `FROM …`, without conditions.
    pub fn source(&self) -> String {
        let only = if self.tree { "" } else { "ONLY " };
        format!("FROM {only}{}", quote::qualified(&self.namespace, &self.relation))
    }

    /// What selects the chunk's rows, and those of them that `filter` (a condition in SQL) lets through; to be joined with AND.
    pub fn conditions(&self, filter: Option<&str>) -> Vec<String> {
        let from = (self.from_page > 0).then(|| format!("ctid >= '({},0)'::tid", self.from_page));
        let to = self.to_page.map(|to| format!("ctid < '({to},0)'::tid"));
        let keys = self.keys.as_ref().map(KeyRange::conditions).unwrap_or_default();
        from.into_iter().chain(to).chain(keys).chain(filter.map(|filter| format!("({filter})"))).collect()
    }
}

/// The query that sends a chunk by COPY in the given form. `columns` are select expressions; none is allowed and gives rows
/// without fields. `filter` is a condition in SQL.
pub fn query(columns: &[String], chunk: &Chunk, filter: Option<&str>, wire: Wire) -> String {
    let mut query = String::from("COPY (SELECT ");
    if !columns.is_empty() {
        query.push_str(&columns.join(", "));
        query.push(' ');
    }
    query.push_str(&chunk.source());
    query.push_str(&where_all(&chunk.conditions(filter)));
    query.push_str(match wire {
        Wire::Binary => ") TO STDOUT (FORMAT binary)",
        Wire::Text => ") TO STDOUT (FORMAT text)",
    });
    query
}

/// ` WHERE a AND b`, or nothing.
pub fn where_all(conditions: &[String]) -> String {
    if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
