//! From what the database holds to `streams.json`: every table a stream, exact types, names that arrive as they are.
//!
//! Pure. The shape is OLake's; where OLake's default is the lesser choice, the better one is written explicitly. The same catalog
//! always gives the same bytes: streams are ordered by schema and name, columns as in the table.

use crate::config::naming;
use crate::config::source::IncrementalTable;
use crate::config::streams::{
    DefaultStreamProperties, Property, SelectedColumns, Stream, StreamEntry, StreamMetadata, StreamsFile, SyncMode, TypeSchema,
};
use crate::error::{Context, Error, Result};
use crate::postgres::catalog::{Catalog, ColumnInfo, RelationKind, TableInfo};
use crate::postgres::scope::closest;
use crate::types::exact_type;
use crate::types::pg_type::{PgType, TypeKind};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What is not in the database but goes into the file.
#[derive(Clone, Debug)]
pub struct DiscoverOptions {
    /// First part of the destination's database names; `None` means the driver's name.
    pub database_prefix: Option<String>,
    /// Name of the driver.
    pub driver: String,
    /// Whether the source is set up for change capture, so that `cdc` is among the supported modes.
    pub cdc_configured: bool,
    /// Tables whose streams are incremental.
    pub incremental: Vec<IncrementalTable>,
    /// Whether views are chosen; a view is a query, and how long it takes is for the user to know.
    pub select_views: bool,
}

impl Default for DiscoverOptions {
    fn default() -> Self {
        Self { database_prefix: None, driver: "postgres".into(), cdc_configured: false, incremental: Vec::new(), select_views: false }
    }
}

/// The catalog file for `catalog`, with every stream chosen for a full refresh.
///
/// Exceptions: a partition whose parent is a stream too is listed but not chosen, because the parent's rows are its partitions'
/// rows, and choosing both would copy them twice; so is a table without columns, which no file can hold. Column names are kept as they are. Table names are reformatted as OLake does; where
/// two would become one, those that are not already in that form get a suffix made from their full name, so that a name does not
/// depend on which other tables exist besides the one it collides with.
pub fn to_streams(catalog: &Catalog, options: &DiscoverOptions) -> Result<StreamsFile> {
    let incremental = incremental(catalog, &options.incremental)?;
    let names = table_names(catalog, options);
    let listed: BTreeSet<(&str, &str)> = catalog.tables.iter().map(|table| (table.namespace.as_str(), table.name.as_str())).collect();
    let mut tables: Vec<_> = catalog.tables.iter().zip(names).collect();
    tables.sort_by_key(|(table, _)| (&table.namespace, &table.name));

    let mut selected: BTreeMap<String, Vec<StreamMetadata>> = BTreeMap::new();
    let mut streams = Vec::with_capacity(tables.len());
    for (table, (database, name)) in tables {
        let comes_with_parent = table.partition_of.iter().any(|(namespace, name)| listed.contains(&(namespace.as_str(), name.as_str())));
        let unwanted_view = table.kind == RelationKind::View && !options.select_views;
        if !comes_with_parent && !unwanted_view && !table.columns.is_empty() {
            let mut metadata = metadata(table);
            metadata.filter_config = incremental.get(&id(table)).and_then(|wanted| since(wanted));
            selected.entry(table.namespace.clone()).or_default().push(metadata);
        }
        let mut stream = stream(table, database, name, options)?;
        if let Some(wanted) = incremental.get(&id(table)) {
            stream.sync_mode = SyncMode::Incremental.name().to_owned();
            stream.cursor_field.clone_from(&wanted.cursor_field);
        }
        streams.push(StreamEntry { stream });
    }
    Ok(StreamsFile { selected_streams: Some(selected), streams })
}

fn id(table: &TableInfo) -> String {
    format!("{}.{}", table.namespace, table.name)
}

/// What the source file says of tables, by table.
fn incremental<'o>(catalog: &Catalog, wanted: &'o [IncrementalTable]) -> Result<BTreeMap<String, &'o IncrementalTable>> {
    let mut tables = BTreeMap::new();
    for (at, entry) in wanted.iter().enumerate() {
        let place = || format!("incremental_tables[{at}]");
        let Some(table) = catalog.tables.iter().find(|table| id(table) == entry.table) else {
            let names = catalog.tables.iter().map(id);
            let near = closest(&entry.table, names).map(|near| format!("did you mean {near:?}?"));
            return Err(Error::config(format!("found the table {:?}, which is not among those that discover finds", entry.table))
                .hint(near.unwrap_or_else(|| "write it as schema.table, and see schemas and include_tables".to_owned())))
            .doing(place);
        };
        let known = |name: &str| table.columns.iter().any(|column| column.name == name);
        if !known(&entry.cursor_field)
            && let Some(unknown) = entry.cursor_field.split(':').find(|name| !known(name))
        {
            return Err(Error::config(format!("cursor_field: the table {} has no column {unknown:?}", entry.table))
                .hint("name a column of the table, or two as primary:secondary"))
            .doing(place);
        }
        tables.insert(entry.table.clone(), entry);
    }
    Ok(tables)
}

/// The filter that leaves out what is older.
fn since(wanted: &IncrementalTable) -> Option<Value> {
    let value = wanted.since.as_ref()?;
    let column = wanted.cursor_field.split(':').next().unwrap_or_default();
    Some(json!({"conditions": [{"column": column, "operator": ">", "value": value}]}))
}

/// Destination database and table of each table, no two alike.
fn table_names(catalog: &Catalog, options: &DiscoverOptions) -> Vec<(String, String)> {
    let database = |table: &TableInfo| {
        naming::default_database(options.database_prefix.as_deref(), &options.driver, &catalog.database, &table.namespace)
    };
    let mut wanted: Vec<(String, String)> = catalog.tables.iter().map(|table| (database(table), naming::reformat(&table.name))).collect();
    let mut takers: BTreeMap<(String, String), usize> = BTreeMap::new();
    for name in &wanted {
        *takers.entry(name.clone()).or_default() += 1;
    }
    for (table, name) in catalog.tables.iter().zip(&mut wanted) {
        // Both parts: tables of the schemas `Sales` and `sales` share one destination database.
        let is_plain = table.name == name.1 && naming::reformat(&table.namespace) == table.namespace;
        if takers.get(name).is_some_and(|takers| *takers > 1) && !is_plain {
            name.1 = format!("{}_{}", name.1, naming::suffix(&format!("{}.{}", table.namespace, table.name)));
        }
    }
    wanted
}

fn metadata(table: &TableInfo) -> StreamMetadata {
    StreamMetadata {
        stream_name: table.name.clone(),
        normalization: Some(true),
        use_source_column_names: true,
        selected_columns: Some(SelectedColumns {
            columns: table.columns.iter().map(|column| column.name.clone()).collect(),
            sync_new_columns: true,
        }),
        ..StreamMetadata::default()
    }
}

fn stream(table: &TableInfo, destination_database: String, destination_table: String, options: &DiscoverOptions) -> Result<Stream> {
    let cursors = cursor_fields(table);
    Ok(Stream {
        name: table.name.clone(),
        namespace: table.namespace.clone(),
        type_schema: TypeSchema { properties: table.columns.iter().map(property).collect::<Result<Map<_, _>>>()? },
        supported_sync_modes: sync_modes(table, &cursors, options).map(|mode| mode.name().to_owned()).collect(),
        source_defined_primary_key: table.primary_key.clone(),
        available_cursor_fields: cursors,
        sync_mode: if has_changes(table, options) { SyncMode::Cdc } else { SyncMode::FullRefresh }.name().to_owned(),
        destination_database,
        destination_table,
        default_stream_properties: Some(DefaultStreamProperties { normalization: true, append_mode: false }),
        kind: kind(table.kind).to_owned(),
        description: table.comment.clone().unwrap_or_default(),
        estimated_rows: table.estimated_rows,
        estimated_bytes: table.bytes,
        ..Stream::default()
    })
}

fn property(column: &ColumnInfo) -> Result<(String, Value)> {
    let null = (!column.not_null).then(|| "null".to_owned());
    let property = Property {
        types: null.into_iter().chain([exact_type(&column.ty).to_string()]).collect(),
        destination_column_name: column.name.clone(),
        olake_column: false,
        source_type: column.declared.clone(),
        description: column.comment.clone().unwrap_or_default(),
    };
    let value = serde_json::to_value(property).map_err(|error| Error::bug(error.to_string()))?;
    Ok((column.name.clone(), value))
}

/// Whether a table's changes can be followed, in a source that is meant for it. Views, materialized views and foreign tables have none in the WAL.
fn has_changes(table: &TableInfo, options: &DiscoverOptions) -> bool {
    options.cdc_configured && matches!(table.kind, RelationKind::Table | RelationKind::Partitioned)
}

fn sync_modes(table: &TableInfo, cursors: &[String], options: &DiscoverOptions) -> impl Iterator<Item = SyncMode> {
    let by_cursor = !cursors.is_empty();
    let by_wal = has_changes(table, options);
    SyncMode::ALL.into_iter().filter(move |mode| match mode {
        SyncMode::FullRefresh => true,
        SyncMode::Incremental => by_cursor,
        SyncMode::Cdc | SyncMode::StrictCdc => by_wal,
    })
}

/// Columns whose order follows time or number: integers, numeric, dates, timestamps. Not floats (equal values that do not
/// compare equal), not text and uuid (their order says nothing about what came later, and text depends on a collation).
/// Columns of the primary key come first.
fn cursor_fields(table: &TableInfo) -> Vec<String> {
    let candidates = table.columns.iter().filter(|column| grows(&column.ty)).map(|column| &column.name);
    let (keys, others): (Vec<_>, Vec<_>) = candidates.partition(|name| table.primary_key.contains(name));
    keys.into_iter().chain(others).cloned().collect()
}

fn grows(ty: &PgType) -> bool {
    ty.kind == TypeKind::Base
        && ty.namespace == "pg_catalog"
        && matches!(ty.name.as_str(), "int2" | "int4" | "int8" | "numeric" | "date" | "timestamp" | "timestamptz")
}

fn kind(kind: RelationKind) -> &'static str {
    match kind {
        RelationKind::Table => "table",
        RelationKind::Partitioned => "partitioned",
        RelationKind::View => "view",
        RelationKind::MaterializedView => "materialized_view",
        RelationKind::Foreign => "foreign",
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::config::selection::choose;
    use crate::postgres::catalog::Access;

    fn column(name: &str, ty: &str, not_null: bool) -> ColumnInfo {
        let oid = [("int4", 23), ("int8", 20), ("text", 25), ("timestamptz", 1184)]
            .iter()
            .find(|(name, _)| *name == ty)
            .map_or(0, |(_, oid)| *oid);
        let ty = PgType::built_in(oid, ty);
        ColumnInfo { attnum: 1, declared: format!("declared {}", ty.name), not_null, ..ColumnInfo::of_type(name, ty) }
    }

    fn table(namespace: &str, name: &str, columns: Vec<ColumnInfo>) -> TableInfo {
        TableInfo {
            oid: 1,
            namespace: namespace.into(),
            name: name.into(),
            kind: RelationKind::Table,
            columns,
            primary_key: vec!["id".into()],
            estimated_rows: Some(5),
            bytes: Some(8192),
            comment: Some("a comment".into()),
            partition_of: Vec::new(),
            leaves: Vec::new(),
            access: Access::Leaves,
        }
    }

    fn file(tables: Vec<TableInfo>, options: &DiscoverOptions) -> StreamsFile {
        let catalog = Catalog { tables, skipped: Vec::new(), warnings: Vec::new(), server_version: 150_000, database: "My Shop".into() };
        to_streams(&catalog, options).unwrap()
    }

    #[test]
    fn a_table_as_it_is_written() {
        let columns = vec![column("Note", "text", false), column("at", "timestamptz", false), column("id", "int4", true)];
        let file = file(vec![table("public", "Orders", columns)], &DiscoverOptions::default());
        let expected = r#"{"selected_streams":{"public":[{"partition_regex":"","stream_name":"Orders","normalization":true,"use_source_column_names":true,"selected_columns":{"columns":["Note","at","id"],"sync_new_columns":true}}]},"streams":[{"stream":{"name":"Orders","namespace":"public","type_schema":{"properties":{"Note":{"type":["null","string"],"destination_column_name":"Note","source_type":"declared text"},"at":{"type":["null","timestamptz"],"destination_column_name":"at","source_type":"declared timestamptz"},"id":{"type":["integer_small"],"destination_column_name":"id","source_type":"declared int4"}}},"supported_sync_modes":["full_refresh","incremental"],"source_defined_primary_key":["id"],"available_cursor_fields":["id","at"],"sync_mode":"full_refresh","destination_database":"postgres_my_shop:public","destination_table":"orders","default_stream_properties":{"normalization":true,"append_mode":false},"kind":"table","description":"a comment","estimated_rows":5,"estimated_bytes":8192}}]}"#;
        assert_eq!(serde_json::to_string(&file).unwrap(), expected);
        let chosen = choose(&file, None).unwrap();
        assert_eq!(chosen[0].columns[0].destination, "Note");
        assert_eq!(chosen[0].destination_database, "postgres_my_shop_public");
    }

    #[test]
    fn modes_follow_what_the_relation_can_do() {
        let modes = |kind, cdc_configured, columns| {
            let options = DiscoverOptions { cdc_configured, ..DiscoverOptions::default() };
            file(vec![TableInfo { kind, ..table("s", "t", columns) }], &options).streams[0].stream.supported_sync_modes.join(" ")
        };
        let id = || vec![column("id", "int8", true)];
        assert_eq!(modes(RelationKind::Table, true, id()), "full_refresh incremental cdc strict_cdc");
        assert_eq!(modes(RelationKind::Partitioned, false, id()), "full_refresh incremental");
        assert_eq!(modes(RelationKind::View, true, id()), "full_refresh incremental");
        assert_eq!(modes(RelationKind::MaterializedView, true, vec![column("x", "text", false)]), "full_refresh");
    }

    #[test]
    fn what_the_source_file_says_of_tables_is_written() {
        let entry = |table: &str, cursor_field: &str| IncrementalTable {
            table: table.into(),
            cursor_field: cursor_field.into(),
            since: Some("2023-01-01".into()),
        };
        let discovered = |entry: IncrementalTable| {
            let tables = vec![table("public", "users", vec![column("id", "int4", true), column("at", "timestamptz", false)])];
            let catalog = Catalog { tables, skipped: Vec::new(), warnings: Vec::new(), server_version: 150_000, database: "d".into() };
            to_streams(&catalog, &DiscoverOptions { incremental: vec![entry], ..DiscoverOptions::default() })
        };
        let file = discovered(entry("public.users", "at:id")).unwrap();
        let stream = &file.streams[0].stream;
        assert_eq!((stream.sync_mode.as_str(), stream.cursor_field.as_str()), ("incremental", "at:id"));
        assert!(choose(&file, None).unwrap()[0].filter.is_some());
        let error = |entry| discovered(entry).unwrap_err().to_string();
        assert!(error(entry("public.user", "at")).contains("incremental_tables[0]: found the table \"public.user\""));
        assert!(error(entry("public.users", "at:nope")).contains("has no column \"nope\""));
    }

    #[test]
    fn partitions_are_listed_but_come_with_their_parent() {
        let parent = TableInfo { kind: RelationKind::Partitioned, ..table("s", "events", vec![column("id", "int4", true)]) };
        let under = |name: &str, parents: &[&str]| TableInfo {
            partition_of: parents.iter().map(|name| ("s".to_owned(), (*name).to_owned())).collect(),
            ..table("s", name, vec![column("id", "int4", true)])
        };
        // `mid` is not listed itself, and `orphan` has a parent that is not listed.
        let file = file(vec![under("leaf", &["mid", "events"]), parent, under("orphan", &["elsewhere"])], &DiscoverOptions::default());
        let names = |file: &StreamsFile| file.streams.iter().map(|entry| entry.stream.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&file), ["events", "leaf", "orphan"]);
        let selected: Vec<_> = file.selected_streams.unwrap()["s"].iter().map(|metadata| metadata.stream_name.clone()).collect();
        assert_eq!(selected, ["events", "orphan"]);
    }

    #[test]
    fn a_table_without_columns_is_listed_and_not_chosen() {
        let file = file(vec![table("s", "none", vec![]), table("s", "one", vec![column("id", "int4", true)])], &DiscoverOptions::default());
        assert_eq!(file.streams.len(), 2);
        assert_eq!(file.selected_streams.unwrap()["s"].iter().map(|metadata| metadata.stream_name.as_str()).collect::<Vec<_>>(), ["one"]);
    }

    #[test]
    fn colliding_tables_are_told_apart_and_the_plain_name_keeps_its_place() {
        let tables = || {
            ["orders", "Orders", "ORDERS", "日本", "中国", "alone"]
                .map(|name| table("public", name, vec![column("id", "int4", true)]))
                .to_vec()
        };
        let mut tables = tables();
        tables.push(table("Public", "orders", vec![column("id", "int4", true)]));
        let file = file(tables, &DiscoverOptions { database_prefix: Some("lake".into()), ..DiscoverOptions::default() });
        let name = |namespace: &str, name: &str| {
            let entry = file.streams.iter().find(|entry| entry.stream.namespace == namespace && entry.stream.name == name).unwrap();
            assert_eq!(entry.stream.destination_database, "lake_my_shop:public");
            entry.stream.destination_table.clone()
        };
        assert_eq!(name("public", "orders"), "orders");
        assert_eq!(name("public", "alone"), "alone");
        assert_eq!(name("public", "Orders"), format!("orders_{}", naming::suffix("public.Orders")));
        assert_eq!(name("public", "日本"), format!("___{}", naming::suffix("public.日本")));
        assert_eq!(name("Public", "orders"), format!("orders_{}", naming::suffix("Public.orders")));
        assert_eq!(choose(&file, None).unwrap().len(), 7, "no two tables collide");
    }
}
