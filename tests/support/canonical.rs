//! The type of every column as the server's own catalog has it, and the SQL that brings its values into a canonical form.
//!
//! The form loses nothing and both sides compute the same one (`readback.py` has the other half): a scalar is a text, NULL is null,
//! a composite or a range is the list of its fields, a multirange a list of ranges, an array is its dimensions and the flat list of
//! its elements, an hstore the sorted list of its pairs. Domains are followed down to their base.

use super::postgres::Database;
use super::readback::ident;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;

/// A column in the source.
pub struct Column {
    /// Its name.
    pub name: String,
    /// What `readback.py` needs to know of its type.
    pub kind: Value,
    /// SQL of type json that gives the canonical form; the relation is called `"#"`.
    pub form: String,
}

/// A row of `pg_type` with what belongs to it.
#[derive(Deserialize)]
struct Type {
    id: u32,
    name: String,
    schema: String,
    /// For casts: without a length or precision.
    sql: String,
    /// b, c, d, e, m, r.
    sort: char,
    /// What an array holds (int2vector and oidvector are such); null for types that can only be subscripted (point).
    element: Option<u32>,
    /// What a domain is made of.
    base: u32,
    dimensions: usize,
    modifier: i32,
    subtype: Option<u32>,
    /// The range that a multirange holds.
    range: Option<u32>,
    fields: Option<Vec<Attribute>>,
}

/// Name, type, declared dimensions and type modifier.
type Attribute = (String, u32, usize, i32);

/// All types that the columns of a relation are made of.
struct Types(HashMap<u32, Type>);

/// The columns of a relation in their order.
pub fn columns(database: &Database, namespace: &str, name: &str) -> Vec<Column> {
    let relation = format!("'{}'::regclass", format!("{}.{}", ident(namespace), ident(name)).replace('\'', "''"));
    let attributes = database.sql(&format!(
        "SELECT json_build_array(attname, atttypid::int8, attndims, atttypmod) FROM pg_attribute
         WHERE attrelid = {relation} AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    ));
    let types = Types::of(database, &relation);
    let column = |line: &str| {
        let (name, id, dimensions, modifier): Attribute = serde_json::from_str(line).expect("a column of the catalog");
        let (kind, form) = types.form(id, dimensions, modifier, &format!("\"#\".{}", ident(&name)), 0);
        Column { name, kind, form }
    };
    attributes.lines().map(column).collect()
}

impl Types {
    fn of(database: &Database, relation: &str) -> Self {
        // A row of pg_range as JSON, because majors before 14 have no column for multiranges.
        let rows = database.sql(&format!(
            "WITH RECURSIVE reach(id) AS (
                 SELECT atttypid FROM pg_attribute WHERE attrelid = {relation} AND attnum > 0 AND NOT attisdropped
               UNION
                 SELECT child FROM reach JOIN pg_type t ON t.oid = id CROSS JOIN LATERAL (
                     SELECT typelem UNION ALL SELECT typbasetype
                     UNION ALL SELECT rngsubtype FROM pg_range WHERE rngtypid = id
                     UNION ALL SELECT rngtypid FROM pg_range r WHERE (to_json(r)->>'rngmultitypid')::oid = id
                     UNION ALL SELECT atttypid FROM pg_attribute WHERE typtype = 'c' AND attrelid = typrelid AND attnum > 0 AND NOT attisdropped
                 ) c(child) WHERE child <> 0)
             SELECT json_build_object('id', id::int8, 'name', typname, 'schema', quote_ident(nspname), 'sql', format_type(id, -1), 'sort', typtype,
                 'element', coalesce((SELECT oid FROM pg_type e WHERE e.typarray = id), CASE WHEN id IN (22, 30) THEN typelem END)::int8, 'base', typbasetype::int8, 'dimensions', typndims, 'modifier', typtypmod,
                 'subtype', (SELECT rngsubtype::int8 FROM pg_range WHERE rngtypid = id),
                 'range', (SELECT rngtypid::int8 FROM pg_range r WHERE (to_json(r)->>'rngmultitypid')::oid = id),
                 'fields', (SELECT json_agg(json_build_array(attname, atttypid::int8, attndims, atttypmod) ORDER BY attnum) FROM pg_attribute
                            WHERE typtype = 'c' AND attrelid = typrelid AND attnum > 0 AND NOT attisdropped))
             FROM reach JOIN pg_type t ON t.oid = id JOIN pg_namespace n ON n.oid = typnamespace"
        ));
        let parse = |line: &str| serde_json::from_str::<Type>(line).expect("a type of the catalog");
        Self(rows.lines().map(parse).map(|t| (t.id, t)).collect())
    }

    /// Kind and canonical form of `value`, an SQL expression of type `id`; `level` keeps the names of subqueries apart.
    fn form(&self, id: u32, dimensions: usize, modifier: i32, value: &str, level: usize) -> (Value, String) {
        let t = &self.0[&id];
        if let Some(element) = t.element {
            return self.array((element, modifier), dimensions.max(1), value, level);
        }
        match t.sort {
            'd' => self.form(t.base, t.dimensions, t.modifier, &format!("CAST({value} AS {})", self.0[&t.base].sql), level),
            'c' => self.composite(t.fields.as_deref().unwrap_or_default(), value, level),
            'r' => self.range(t.subtype.expect("a range has a subtype"), value, level),
            'm' => {
                let (kind, form) = self.form(t.range.expect("a multirange has a range"), 0, -1, &format!("\"#{level}\".e"), level + 1);
                let list = format!("(SELECT coalesce(json_agg({form} ORDER BY e), '[]') FROM (SELECT unnest({value}) AS e) \"#{level}\")");
                (json!({"list": kind}), present(value, &list))
            }
            _ if t.name == "hstore" => {
                let pairs =
                    format!("SELECT json_agg(json_build_array(key, value) ORDER BY key COLLATE \"C\") FROM {}.each({value})", t.schema);
                (json!({"map": "text"}), present(value, &format!("coalesce(({pairs}), '[]')")))
            }
            _ if matches!(t.name.as_str(), "vector" | "halfvec") => {
                let (kind, form) = (json!({"list": "float4"}), format!("encode(float4send(\"#{level}\".e), 'hex')"));
                let elements = format!("FROM unnest(CAST({value} AS real[])) WITH ORDINALITY \"#{level}\"(e, o)");
                (kind, present(value, &format!("(SELECT json_agg({form} ORDER BY o) {elements})")))
            }
            _ => {
                let (kind, text) = scalar(t, modifier, value);
                (json!(kind), format!("to_json({text})"))
            }
        }
    }

    fn array(&self, (element, modifier): (u32, i32), dimensions: usize, value: &str, level: usize) -> (Value, String) {
        let (kind, form) = self.form(element, 0, modifier, &format!("\"#{level}\".e"), level + 1);
        let count = format!("CASE WHEN cardinality({value}) > 0 THEN array_ndims({value}) END");
        let lengths = format!("(SELECT json_agg(array_length({value}, d) ORDER BY d) FROM generate_series(1, {count}) \"#{level}\"(d))");
        // unnest stands in the list of columns, because in FROM it would take composites apart.
        let elements = format!(
            "(SELECT json_agg({form} ORDER BY o) FROM (SELECT unnest({value}) AS e, generate_series(1, cardinality({value})) AS o) \"#{level}\")"
        );
        (json!({"array": [dimensions, kind]}), present(value, &format!("json_build_array({lengths}, {elements})")))
    }

    fn composite(&self, fields: &[Attribute], value: &str, level: usize) -> (Value, String) {
        let form = |(name, id, dimensions, modifier): &Attribute| {
            let (kind, form) = self.form(*id, *dimensions, *modifier, &format!("({value}).{}", ident(name)), level);
            (json!([name, kind]), form)
        };
        let (kinds, forms): (Vec<Value>, Vec<String>) = fields.iter().map(form).unzip();
        (json!({"struct": kinds}), present(value, &list(&forms)))
    }

    fn range(&self, subtype: u32, value: &str, level: usize) -> (Value, String) {
        let (kind, lower) = self.form(subtype, 0, -1, &format!("pg_catalog.lower({value})"), level);
        let (_, upper) = self.form(subtype, 0, -1, &format!("pg_catalog.upper({value})"), level);
        let flags = ["lower_inc", "upper_inc", "isempty"].map(|f| format!("to_json({f}({value})::text)"));
        let kinds = [("lower", &kind), ("upper", &kind)].map(|(name, kind)| json!([name, kind]));
        let flag_kinds = ["lower_inclusive", "upper_inclusive", "empty"].map(|name| json!([name, "bool"]));
        let (kinds, forms) = ([&kinds[..], &flag_kinds].concat(), [&[lower, upper][..], &flags].concat());
        (json!({"struct": kinds}), present(value, &list(&forms)))
    }
}

/// A JSON list of expressions of type json, of any number.
pub fn list(forms: &[String]) -> String {
    format!("json_build_array(VARIADIC ARRAY[{}]::json[])", forms.join(","))
}

/// `form` unless `value` itself is NULL. A composite whose fields are all NULL `IS NULL` as well; this test tells them apart.
fn present(value: &str, form: &str) -> String {
    format!("CASE WHEN {value} IS DISTINCT FROM NULL THEN {form} END")
}

/// The number in eight bytes.
fn int8(bytes: &str) -> String {
    format!("('x' || encode({bytes}, 'hex'))::bit(64)::bigint::numeric")
}

/// Kind and canonical text of a scalar value; a type that is not listed is expected as the server's own text.
fn scalar(t: &Type, modifier: i32, value: &str) -> (&'static str, String) {
    match t.name.as_str() {
        "int2" | "int4" | "int8" | "oid" | "xid" | "cid" => ("int", format!("{value}::text")),
        "bool" => ("bool", format!("{value}::text")),
        "float4" => ("float4", format!("encode(float4send({value}), 'hex')")),
        "float8" => ("float8", format!("encode(float8send({value}), 'hex')")),
        "numeric" | "xid8" => ("decimal", format!("{value}::text")),
        "money" => ("decimal", format!("{value}::numeric::text")),
        "bytea" => ("bytes", format!("encode({value}, 'hex')")),
        "uuid" => ("uuid", format!("replace({value}::text, '-', '')")),
        "date" => ("date", format!("({value} - date '1970-01-01')::text")),
        "time" => ("time", format!("(extract(epoch FROM {value}) * 1000000)::bigint::text")),
        // Not extract(epoch …), which is rounded near the end.
        "timestamp" => ("timestamp", format!("({} + 946684800000000)::text", int8(&format!("timestamp_send({value})")))),
        "timestamptz" => ("timestamptz", format!("({} + 946684800000000)::text", int8(&format!("timestamptz_send({value})")))),
        // Geometries of any reference system carry it in their bytes; else it is declared in the modifier's bits.
        "geometry" if modifier == -1 || modifier & 0x0fff_ff00 == 0 => ("bytes", format!("encode({}.ST_AsEWKB({value}), 'hex')", t.schema)),
        "geometry" | "geography" => ("bytes", format!("encode({}.ST_AsBinary({value}), 'hex')", t.schema)),
        // What psql shows: the output function, where a cast to text may differ (char(5) padded, inet without its /32).
        _ => ("text", format!("CASE WHEN {value} IS NOT NULL THEN format('%s', {value}) END")),
    }
}
