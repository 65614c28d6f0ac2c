//! A PostgreSQL type as the catalog describes it, with everything that it is made of.

/// A type with domains resolved to their base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgType {
    /// `pg_type.oid` after resolving domains.
    pub oid: u32,
    /// Type modifier (of the domain if the domain has one), -1 for none. Of `money`, which has none, the number of places
    /// after the point under the database's `lc_monetary`.
    pub typmod: i32,
    /// `pg_type.typname` after resolving domains, e.g. `int4`, `_text`, `mood`.
    pub name: String,
    /// Schema of the type.
    pub namespace: String,
    /// What kind of type, and what it is made of.
    pub kind: TypeKind,
    /// What stands between its values in the text of an array (`typdelim`).
    pub delimiter: u8,
    /// Whether it has a binary form (`typsend`) that can be read; without one, it can only be read as text.
    pub sends: bool,
    /// Whether it belongs to an extension: a type of the user's own can have the name of an extension's.
    pub extension: bool,
    /// Whether there is a function that casts it to json, which `to_json` calls for a type that is not built in.
    pub json_cast: bool,
}

/// `pg_type.typtype` and `typcategory`, as far as decoding cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// Base type.
    Base,
    /// Enum; its labels in their order.
    Enum(Vec<Label>),
    /// Array.
    Array {
        /// Type of the elements.
        element: Box<PgType>,
        /// Declared dimensions, at least 1; PostgreSQL does not hold a value to them.
        dimensions: usize,
    },
    /// Composite type, a table's row type included; its attributes in order, dropped ones left out.
    Composite(Vec<Attribute>),
    /// Range over the subtype.
    Range(Box<PgType>),
    /// Multirange of the range type.
    Multirange(Box<PgType>),
    /// Pseudo-type or other.
    Other,
}

/// A label of an enum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// `pg_enum.oid`, which stays when it gets another name.
    pub oid: u32,
    /// Name.
    pub name: String,
}

/// An attribute of a composite type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// `pg_attribute.attnum`, which tells it from one that is dropped and made again.
    pub number: i16,
    /// Name.
    pub name: String,
    /// Type.
    pub ty: PgType,
}

impl PgType {
    /// A built-in base type.
    pub fn built_in(oid: u32, name: &str) -> Self {
        let (name, namespace) = (name.to_owned(), "pg_catalog".to_owned());
        Self { oid, typmod: -1, name, namespace, kind: TypeKind::Base, delimiter: b',', sends: true, extension: false, json_cast: false }
    }

    /// A base type of an extension.
    pub fn of_extension(name: &str) -> Self {
        Self { namespace: "public".to_owned(), extension: true, ..Self::built_in(0, name) }
    }

    /// The types that this one is made of directly.
    pub fn parts(&self) -> Vec<&Self> {
        match &self.kind {
            TypeKind::Array { element: part, .. } | TypeKind::Range(part) | TypeKind::Multirange(part) => vec![part],
            TypeKind::Composite(attributes) => attributes.iter().map(|attribute| &attribute.ty).collect(),
            TypeKind::Base | TypeKind::Enum(_) | TypeKind::Other => Vec::new(),
        }
    }

    /// This type and all that it is made of.
    pub fn walk(&self) -> Vec<&Self> {
        std::iter::once(self).chain(self.parts().into_iter().flat_map(Self::walk)).collect()
    }
}
