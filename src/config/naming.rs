//! Names in the destination: how a source name becomes one, and that no two become the same.
//!
//! Pure. The rules are OLake's, so that a catalog written for it finds its tables again. What is added is the refusal of
//! collisions: two tables or two columns are never written to one place. It does not know which destination the names are for.

use super::streams::Stream;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Longest name of a file or folder on the usual file systems, in bytes.
const SEGMENT_BYTES_MAX: usize = 255;

/// Lower-cases `name` and turns every character outside `[a-z0-9]` into `_`, one for one.
pub fn reformat(name: &str) -> String {
    name.chars()
        .map(|c| match c.to_lowercase().next() {
            Some(lower) if lower.is_ascii_lowercase() || lower.is_ascii_digit() => lower,
            _ => '_',
        })
        .collect()
}

/// The `destination_database` of a fresh catalog, `<prefix>_<database>:<schema>`; the colon becomes `_` when it is used.
pub fn default_database(prefix: Option<&str>, driver: &str, database: &str, schema: &str) -> String {
    let prefix = prefix.filter(|prefix| !prefix.is_empty()).unwrap_or(driver);
    format!("{}_{}:{}", reformat(prefix), reformat(database), reformat(schema))
}

/// Database and table that `stream` is written to. `fallback` is the destination's own default database, if it has one.
pub fn destination(stream: &Stream, fallback: Option<&str>) -> (String, String) {
    let database = match (stream.destination_database.as_str(), fallback) {
        ("", Some(fallback)) if !fallback.is_empty() => fallback.to_owned(),
        ("", _) => stream.namespace.clone(),
        (database, _) => reformat(database),
    };
    let table = if stream.destination_table.is_empty() { &stream.name } else { &stream.destination_table };
    (database, table.clone())
}

/// The name of a column in the destination.
///
/// `written` is `destination_column_name` of the catalog. A name there that is neither the source's nor its reformatted form is a
/// rename and wins; otherwise `use_source_column_names` chooses between those two, so that flipping the switch acts on a
/// catalog in which discover has already written one of them.
pub fn column(source: &str, written: &str, use_source_column_names: bool) -> String {
    let reformatted = reformat(source);
    if !written.is_empty() && written != source && written != reformatted {
        written.to_owned()
    } else if use_source_column_names {
        source.to_owned()
    } else {
        reformatted
    }
}

/// A short, stable suffix for a name that would otherwise collide: it depends on `source` alone, not on the tables around it.
/// FNV-1a (64 bits) folded to 24 bits, in hexadecimal.
pub fn suffix(source: &str) -> String {
    let hash = source.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{:06x}", (hash ^ (hash >> 24) ^ (hash >> 48)) & 0x00ff_ffff)
}

/// Refuses names that cannot be one segment of a path: empty, too long, or with a separator or control character.
pub fn check_segment(what: &str, name: &str) -> Result<()> {
    let fault = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > SEGMENT_BYTES_MAX {
        format!("has {} bytes; a folder name has at most {SEGMENT_BYTES_MAX}", name.len())
    } else if name == "." || name == ".." {
        "means a folder of its own".to_owned()
    } else if let Some(c) = name.chars().find(|c| matches!(c, '/' | '\\') || c.is_control()) {
        format!("holds the character {c:?}")
    } else {
        return Ok(());
    };
    Err(Error::config(format!("{what} {name:?} cannot be a folder name: it {fault}")))
}

/// Refuses two columns of one stream with the same name in the destination. `columns` holds (source, destination).
pub fn distinct_columns<'a>(stream: &str, columns: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<()> {
    let mut taken = BTreeMap::new();
    for (source, destination) in columns {
        if destination.is_empty() {
            return Err(Error::config(format!("column {source:?} of stream {stream} has an empty name in the destination")));
        }
        if let Some(other) = taken.insert(destination, source) {
            return Err(Error::config(format!("columns {other:?} and {source:?} of stream {stream} are both named {destination:?} in the destination"))
                .hint("set \"use_source_column_names\": true for the stream, give one of them another \"destination_column_name\", or leave one out of \"selected_columns\""));
        }
    }
    Ok(())
}

/// Refuses two streams that are written to one table. `tables` holds (stream, database, table). Names that differ only in case
/// count as one, because they are one folder on file systems that ignore case and one table in catalogs that do.
pub fn distinct_tables<'a>(tables: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) -> Result<()> {
    let mut taken = BTreeMap::new();
    for (stream, database, table) in tables {
        if let Some(other) = taken.insert((database.to_lowercase(), table.to_lowercase()), stream) {
            return Err(Error::config(format!("streams {other} and {stream} would both be written to {database}.{table}"))
                .hint("give one of them another \"destination_table\" or \"destination_database\" in the catalog; names that differ only in case count as the same"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn reformat_keeps_letters_and_digits_only() {
        for (name, expected) in [
            ("orders", "orders"),
            ("OrderItems", "orderitems"),
            ("a b-c.d$", "a_b_c_d_"),
            ("_x9", "_x9"),
            ("größe", "gr__e"),
            ("日本", "__"),
            // One character stays one character, also where lower case has two.
            ("İx", "ix"),
            ("", ""),
        ] {
            assert_eq!(reformat(name), expected, "{name}");
        }
    }

    #[test]
    fn destination_follows_the_catalog_then_the_fallback_then_the_source() {
        let stream = |database: &str, table: &str| Stream {
            name: "Orders".into(),
            namespace: "Sales".into(),
            destination_database: database.into(),
            destination_table: table.into(),
            ..Stream::default()
        };
        for (database, table, fallback, expected) in [
            ("postgres_shop:public", "orders", Some("lake"), ("postgres_shop_public", "orders")),
            ("", "orders", Some("lake"), ("lake", "orders")),
            ("", "", Some(""), ("Sales", "Orders")),
            ("", "", None, ("Sales", "Orders")),
            ("X Y", "Keep Me", None, ("x_y", "Keep Me")),
        ] {
            let (db, name) = destination(&stream(database, table), fallback);
            assert_eq!((db.as_str(), name.as_str()), expected);
        }
        assert_eq!(default_database(None, "postgres", "My Shop", "public"), "postgres_my_shop:public");
        assert_eq!(default_database(Some("My Lake"), "postgres", "shop", "S1"), "my_lake_shop:s1");
    }

    #[test]
    fn column_names_follow_the_switch_unless_renamed() {
        for (source, written, keep, expected) in [
            ("Order No", "", true, "Order No"),
            ("Order No", "", false, "order_no"),
            ("Order No", "order_no", true, "Order No"),
            ("Order No", "Order No", false, "order_no"),
            ("Order No", "number", true, "number"),
            ("Order No", "number", false, "number"),
        ] {
            assert_eq!(column(source, written, keep), expected, "{source} {written} {keep}");
        }
    }

    #[test]
    fn segments() {
        check_segment("table", "ünïcode name").unwrap();
        check_segment("table", &"x".repeat(255)).unwrap();
        for (name, expected) in
            [("", "is empty"), ("a/b", "'/'"), ("..", "folder of its own"), ("a\nb", "'\\n'"), (&"é".repeat(128), "256 bytes")]
        {
            let error = check_segment("table", name).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn collisions_name_both() {
        distinct_columns("public.t", [("a", "a"), ("A", "A")]).unwrap();
        let error = distinct_columns("public.t", [("a b", "a_b"), ("a", "a"), ("a-b", "a_b")]).unwrap_err();
        assert_eq!(error.to_string(), r#"columns "a b" and "a-b" of stream public.t are both named "a_b" in the destination"#);
        distinct_tables([("s.t", "d", "t"), ("s.u", "d", "u"), ("r.t", "e", "t")]).unwrap();
        let error = distinct_tables([("s.T", "d", "T"), ("s.u", "d", "u"), ("s.t", "D", "t")]).unwrap_err();
        assert_eq!(error.to_string(), "streams s.T and s.t would both be written to D.t");
    }

    #[test]
    fn suffixes_are_stable() {
        assert_eq!(suffix("public.Orders"), suffix("public.Orders"));
        assert_ne!(suffix("public.Orders"), suffix("public.orders"));
        assert_eq!(suffix("").len(), 6);
    }
}
