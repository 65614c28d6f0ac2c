//! The types that are fuzzed: a sample of each block of the table and of everything that PostgreSQL nests, with every destination
//! type that accepts it.

use super::seeds::SEEDS;
use lakeward::config::column_type::{ColumnType, PLAIN_NAMES};
use lakeward::postgres::catalog::ColumnInfo;
use lakeward::types::pg_type::{Attribute, PgType, TypeKind};
use lakeward::types::special::SpecialValues;
use lakeward::types::{ColumnPlan, exact_type, known_types, plan_column};
use std::sync::LazyLock;

/// A source type on its way into a destination type.
pub struct Case {
    /// Where the case stands in the ring that inputs choose from.
    pub place: u32,
    /// The source type's key in [`SEEDS`], or its name.
    pub key: String,
    /// The source type.
    pub ty: PgType,
    /// The destination type, before a policy changes it.
    pub wanted: ColumnType,
    /// A plan for each of [`SpecialValues::ALL`].
    pub plans: Vec<ColumnPlan>,
    /// How many times larger than its input a value may become in memory.
    pub growth: usize,
}

/// Places that a case can have: three bytes choose one.
const PLACES: u32 = 1 << 24;

/// All cases in the order of their places.
pub static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let mut cases: Vec<Case> = types().into_iter().flat_map(|(key, ty)| cases_of(&key, &ty)).collect();
    cases.sort_by_key(|case| case.place);
    cases
});

/// The case that three bytes choose: the next on the ring, so that a case keeps its inputs when others are added.
pub fn case_at(place: [u8; 3]) -> &'static Case {
    let place = u32::from_be_bytes([0, place[0], place[1], place[2]]);
    let at = CASES.partition_point(|case| case.place < place);
    CASES.get(at).unwrap_or(&CASES[0])
}

/// The source types, with their keys in [`SEEDS`].
pub fn types() -> Vec<(String, PgType)> {
    let mut types: Vec<_> = known_types()
        .map(|(oid, name)| (name.to_owned(), if oid == 0 { PgType::of_extension(name) } else { PgType::built_in(oid, name) }))
        .collect();
    types.extend([numeric(12, 2), numeric(38, 10)]);
    let geometry = PgType { typmod: 4326 << 8, ..find(&types, "geometry") };
    types.push(("geometry with a reference system".to_owned(), geometry));
    let made = |name: &str, kind| (name.to_owned(), PgType { namespace: "public".to_owned(), kind, ..PgType::built_in(70_000, name) });
    types.push(made("mood", TypeKind::Enum(Vec::new())));
    let attribute = |name: &str, ty| Attribute { number: 0, name: name.to_owned(), ty };
    let inner = made("inner_t", TypeKind::Composite(vec![attribute("n", find(&types, "numeric")), attribute("d", find(&types, "date"))])).1;
    let attributes = vec![
        attribute("x", find(&types, "int4")),
        attribute("label", find(&types, "text")),
        attribute("deep", inner),
        attribute("many", array_of("int4[]", find(&types, "int4"), 2)),
    ];
    types.push(made("pair", TypeKind::Composite(attributes)));
    for (name, bound) in
        [("int4range", "int4"), ("numrange", "numeric"), ("daterange", "date"), ("tstzrange", "timestamptz"), ("tr", "text")]
    {
        types.push(made(name, TypeKind::Range(Box::new(find(&types, bound)))));
    }
    for (name, range) in [("int4multirange", "int4range"), ("nummultirange", "numrange")] {
        types.push(made(name, TypeKind::Multirange(Box::new(find(&types, range)))));
    }
    for (name, element) in [("int2vector", "int2"), ("oidvector", "oid")] {
        types.push((name.to_owned(), array_of(name, find(&types, element), 1)));
    }
    for element in [
        "bool",
        "int4",
        "text",
        "numeric",
        "timestamptz",
        "uuid",
        "jsonb",
        "bytea",
        "box",
        "interval",
        "mood",
        "pair",
        "int4range",
        "hstore",
        "regclass",
        "inet",
        "vector",
    ] {
        for dimensions in 1..=3 {
            let name = format!("{element}[]");
            types.push((name.clone(), array_of(&name, find(&types, element), dimensions)));
        }
    }
    // No block of its own, and no binary form.
    types.push(("aclitem".to_owned(), PgType { sends: false, ..PgType::built_in(1033, "aclitem") }));
    types
}

/// Valid values of a case: the bytes in the binary form, if its column reads it, and the text.
pub fn seeds_of(case: &Case) -> impl Iterator<Item = (Option<Vec<u8>>, &'static str)> {
    let key = match case.key.as_str() {
        "geometry with a reference system" => "geometry",
        // The names of other things look the same.
        key if key.starts_with("reg") && !key.ends_with("[]") => "regclass",
        key => key,
    };
    SEEDS.iter().filter(move |(name, _, _)| *name == key).map(|(_, text, hex)| {
        let bytes = (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hexadecimal digits")).collect();
        (if hex.is_empty() { None } else { Some(bytes) }, *text)
    })
}

/// Plans a column as `public.t` of the checks has it.
pub fn plan(name: &str, ty: &PgType, wanted: &ColumnType, special: SpecialValues) -> Option<ColumnPlan> {
    plan_column(&ColumnInfo::of_type(name, ty.clone()), name, wanted, special).ok()
}

fn cases_of(key: &str, ty: &PgType) -> Vec<Case> {
    let mut wanted: Vec<ColumnType> = vec![exact_type(ty)];
    for other in destinations(ty) {
        if !wanted.contains(&other) {
            wanted.push(other);
        }
    }
    let case = |wanted: ColumnType| {
        let plans: Option<Vec<_>> = SpecialValues::ALL.iter().map(|special| plan("c", ty, &wanted, *special)).collect();
        let dimensions = if let TypeKind::Array { dimensions, .. } = ty.kind { dimensions } else { 0 };
        let place = hash(&format!("{key} {dimensions} {wanted}"));
        Some(Case { place, key: key.to_owned(), ty: ty.clone(), plans: plans?, growth: growth(ty, &wanted), wanted })
    };
    wanted.into_iter().filter_map(case).collect()
}

/// What might be asked for; what no route leads into is dropped later.
fn destinations(ty: &PgType) -> Vec<ColumnType> {
    let parse = |name: &str| name.parse::<ColumnType>().expect(name);
    let mut all: Vec<ColumnType> = PLAIN_NAMES.iter().map(|(_, ty)| ty.clone()).collect();
    all.extend(["decimal(38,10)", "decimal(38,0)", "decimal(20,0)", "decimal(19,2)", "decimal(14,3)"].map(parse));
    all.extend(
        [
            "struct<x:number,y:number>",
            "struct<a:number,b:number,c:number>",
            "struct<x1:number,y1:number,x2:number,y2:number>",
            "struct<x:number,y:number,radius:number>",
            "struct<months:integer_small,days:integer_small,microseconds:integer>",
            "list<number>",
        ]
        .map(parse),
    );
    if let TypeKind::Array { element, dimensions: 1 } = &ty.kind {
        let lists = destinations(element).into_iter().map(|inner| ColumnType::List(Box::new(inner)));
        all.extend(lists.collect::<Vec<_>>());
    }
    all
}

/// A value takes at most this many times the bytes that it has on the wire, and a constant.
///
/// What is small on the wire is an element that is NULL or a flag (2 bytes of text, 4 of binary) and takes 16 bytes for every column in
/// it, in vectors that have grown by doubling: 64 for each column. Text is at most 8 digits for a byte (bit strings). The exception is
/// numeric as text or on its way through text: 8 bytes are 131,072 digits before the point and 16,383 behind it, 18,433 for each byte,
/// and three times that while a vector grows.
fn growth(ty: &PgType, wanted: &ColumnType) -> usize {
    let numeric = ty.walk().iter().any(|part| part.name == "numeric") && wanted.to_string() != "string";
    let prints = ty.name == "numeric" || numeric;
    columns_in(wanted) * 64 + if prints { 60_000 } else { 0 }
}

fn columns_in(ty: &ColumnType) -> usize {
    match ty {
        ColumnType::List(inner) => 1 + columns_in(inner),
        ColumnType::Struct(parts) => 1 + parts.iter().map(|(_, part)| columns_in(part)).sum::<usize>(),
        ColumnType::Map => 3,
        _ => 1,
    }
}

fn numeric(precision: i32, scale: i32) -> (String, PgType) {
    (format!("numeric({precision},{scale})"), PgType { typmod: (precision << 16 | scale) + 4, ..PgType::built_in(1700, "numeric") })
}

fn array_of(name: &str, element: PgType, dimensions: usize) -> PgType {
    let delimiter = if element.name == "box" { b';' } else { b',' };
    let element = Box::new(PgType { delimiter, ..element });
    PgType { kind: TypeKind::Array { element, dimensions }, ..PgType::built_in(71_000, name) }
}

fn find(types: &[(String, PgType)], key: &str) -> PgType {
    types.iter().find(|(name, _)| name == key).map(|(_, ty)| ty.clone()).expect(key)
}

/// FNV-1a, folded to a place.
fn hash(text: &str) -> u32 {
    let hash = text.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    (hash ^ hash >> 32) as u32 % PLACES
}
