//! What the database says about its tables: columns, keys, sizes, partitions, comments.

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
    /// Parent (namespace, name) when this is a partition.
    pub partition_of: Option<(String, String)>,
    /// The heaps to read, one per leaf: the table itself, or the leaves of a partitioned parent.
    /// Empty for views and foreign tables.
    pub leaves: Vec<Leaf>,
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

/// `pg_type.typtype`, as far as decoding cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// Base type.
    Base,
    /// Enum: text on the wire.
    Enum,
    /// Composite.
    Composite,
    /// Range or multirange.
    Range,
    /// Pseudo-type or other.
    Other,
}

/// A column's type with domains resolved to their base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgType {
    /// `pg_type.oid` after resolving domains.
    pub oid: u32,
    /// Type modifier (of the domain if the domain has one), -1 for none.
    pub typmod: i32,
    /// `pg_type.typname` after resolving domains, e.g. `int4`, `_text`, `mood`.
    pub name: String,
    /// Schema of the type.
    pub namespace: String,
    /// What kind of type.
    pub kind: TypeKind,
    /// Element type, domains resolved, for array types (`typelem` with `typcategory = 'A'`).
    pub element: Option<Box<PgType>>,
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
    /// NOT NULL, also through a domain.
    pub not_null: bool,
    /// `pg_attribute.attgenerated`: stored (or virtual) generated column.
    pub generated: bool,
    /// `pg_attribute.attidentity`.
    pub identity: bool,
    /// `COMMENT ON COLUMN`.
    pub comment: Option<String>,
}
