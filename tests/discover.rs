//! Discover against a private PostgreSQL: what it finds, what it leaves out, how a table is split.

#![expect(clippy::unwrap_used, reason = "tests")]

use futures::TryStreamExt;
use lakeward::chunks::{self, pages::plan};
use lakeward::config::merge::merge;
use lakeward::config::selection::{Chosen, choose, where_clause};
use lakeward::config::streams::StreamsFile;
use lakeward::discover::{DiscoverOptions, to_streams};
use lakeward::error::Kind;
use lakeward::postgres::catalog::{Access, Catalog, RelationKind, TableInfo, load, load_tables};
use lakeward::postgres::scope::Scope;
use lakeward::types::Wire;
use lakeward::types::pg_type::{PgType, TypeKind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, Config, NoTls};

/// A server of one test, stopped when the test ends.
struct Server {
    child: Child,
    home: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binaries() -> PathBuf {
    if let Some(folder) = std::env::var_os("LAKEWARD_PG_BIN") {
        return folder.into();
    }
    let mut majors: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql").unwrap().map(|entry| entry.unwrap().path()).collect();
    majors.sort();
    majors.pop().unwrap().join("bin")
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    let is_root = String::from_utf8(Command::new("id").arg("-u").output().unwrap().stdout).unwrap().trim() == "0";
    if !is_root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

impl Server {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        // Not when we are not root: then the folder is already ours.
        let _ = Command::new("chown").arg("postgres").arg(home.path()).stderr(Stdio::null()).status();
        let data = home.path().join("data");
        let made = as_postgres(&binaries().join("initdb"))
            .args(["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data)
            .current_dir("/")
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let child = as_postgres(&binaries().join("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(home.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "autovacuum=off", "-c", "max_locks_per_transaction=4096"])
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, home }
    }

    async fn connect(&self, user: &str) -> Client {
        let started = Instant::now();
        loop {
            let mut config = Config::new();
            config.host_path(self.home.path()).user(user).dbname("postgres");
            match config.connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(error) if started.elapsed() > Duration::from_secs(30) => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn server(sql: &str) -> (Server, Client) {
    let server = Server::start();
    let client = server.connect("postgres").await;
    client.batch_execute(sql).await.unwrap();
    (server, client)
}

fn everything() -> Scope {
    Scope { views: true, materialized_views: true, foreign_tables: true, ..Scope::default() }
}

fn names(catalog: &Catalog) -> Vec<String> {
    catalog.tables.iter().map(|table| format!("{}.{}", table.namespace, table.name)).collect()
}

fn table<'a>(catalog: &'a Catalog, name: &str) -> &'a TableInfo {
    catalog.tables.iter().find(|table| table.name == name).unwrap()
}

fn streams(catalog: &Catalog) -> StreamsFile {
    to_streams(catalog, &DiscoverOptions::default()).unwrap()
}

fn text(file: &StreamsFile) -> String {
    serde_json::to_string_pretty(file).unwrap()
}

fn chosen(file: &StreamsFile) -> Vec<String> {
    choose(file, None).unwrap().iter().map(|chosen| chosen.stream.id()).collect()
}

/// Rows that all chunks of a table have together, read the way a sync reads them but for the format.
async fn rows(client: &Client, table: &TableInfo, target_bytes: u64) -> (usize, i64) {
    let chunks = plan(table, 150_000, target_bytes);
    let mut sum = 0;
    for chunk in &chunks {
        let copy = chunks::query(&[], chunk, None, Wire::Binary);
        let select = copy.strip_prefix("COPY (").unwrap().strip_suffix(") TO STDOUT (FORMAT binary)").unwrap();
        sum += client.query_one(&format!("SELECT count(*) FROM ({select}) t"), &[]).await.unwrap().get::<_, i64>(0);
    }
    (chunks.len(), sum)
}

const KINDS: &str = r#"
    CREATE SCHEMA sales;
    CREATE TABLE plain (a int, dropped text, id bigint GENERATED ALWAYS AS IDENTITY, twice int GENERATED ALWAYS AS (a * 2) STORED,
        b numeric(12,2) NOT NULL, PRIMARY KEY (b, id));
    ALTER TABLE plain DROP COLUMN dropped;
    COMMENT ON TABLE plain IS 'A table';
    COMMENT ON COLUMN plain.b IS 'It''s a column';
    CREATE VIEW sales.v AS SELECT a, b FROM plain;
    CREATE MATERIALIZED VIEW sales.mv AS SELECT 1::int8 AS one, now() AS at;
    CREATE MATERIALIZED VIEW sales.unfilled AS SELECT 1 AS one WITH NO DATA;
    CREATE TABLE none ();
    CREATE TEMP TABLE temporary (a int);
    CREATE EXTENSION pg_stat_statements;
    CREATE EXTENSION file_fdw;
    CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
    CREATE FOREIGN TABLE sales.remote (a int NOT NULL) SERVER files OPTIONS (program 'echo 7', format 'csv');
"#;

#[tokio::test]
async fn kinds_of_relations() {
    let (_server, client) = server(KINDS).await;
    let all = load(&client, &everything()).await.unwrap();
    assert_eq!(names(&all), ["public.none", "public.plain", "sales.mv", "sales.remote", "sales.v"]);
    assert_eq!(all.skipped.len(), 1);
    assert_eq!(all.skipped[0].0, "sales.unfilled");
    assert!(all.skipped[0].1.contains("REFRESH MATERIALIZED VIEW \"sales\".\"unfilled\""), "{:?}", all.skipped);
    assert!(all.warnings.is_empty() && all.server_version >= 100_000 && all.database == "postgres");

    let plain = table(&all, "plain");
    let columns: Vec<_> = plain.columns.iter().map(|column| (column.name.as_str(), column.attnum, column.declared.as_str())).collect();
    assert_eq!(columns, [("a", 1, "integer"), ("id", 3, "bigint"), ("twice", 4, "integer"), ("b", 5, "numeric(12,2)")]);
    assert_eq!(plain.columns.iter().map(|column| column.not_null).collect::<Vec<_>>(), [false, true, false, true]);
    assert!(plain.columns[1].identity && plain.columns[2].generated && !plain.columns[0].generated && !plain.columns[0].identity);
    assert_eq!(plain.primary_key, ["b", "id"]);
    assert_eq!((plain.comment.as_deref(), plain.columns[3].comment.as_deref()), (Some("A table"), Some("It's a column")));
    assert_eq!(plain.leaves.len(), 1);
    assert_ne!(plain.leaves[0].filenode, 0);
    assert_eq!(table(&all, "v").kind, RelationKind::View);
    assert_eq!((table(&all, "mv").kind, table(&all, "mv").leaves.len()), (RelationKind::MaterializedView, 1));
    assert!(!table(&all, "remote").columns[0].not_null, "nobody checks it");
    // Header and trailer of the format, and a row without fields.
    let copy = chunks::query(&[], &plan(table(&all, "mv"), all.server_version, 1 << 20)[0], None, Wire::Binary);
    let sent: Vec<_> = client.copy_out(&copy).await.unwrap().try_collect().await.unwrap();
    assert_eq!(sent.concat(), b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\0\xff\xff");
    for (name, expected) in [("plain", 0), ("v", 0), ("mv", 1), ("remote", 1), ("none", 0)] {
        assert_eq!(rows(&client, table(&all, name), 1 << 20).await, (1, expected), "{name}");
    }

    let tables = load(&client, &Scope::default()).await.unwrap();
    assert_eq!(names(&tables), ["public.none", "public.plain"]);
    assert!(tables.skipped.is_empty());
}

#[tokio::test]
async fn types_are_resolved() {
    let (_server, client) = server(
        "CREATE SCHEMA other; CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE other.pair AS (a int, b text[][]);
         CREATE DOMAIN money2 AS numeric(12,2) NOT NULL; CREATE DOMAIN price AS money2 CHECK (VALUE > 0);
         CREATE DOMAIN tags AS text[]; CREATE DOMAIN code AS varchar(8);
         CREATE TABLE t (price price, prices price[], tags tags, moods mood[], pair other.pair, r int4range, n numeric(10,3)[], v code,
             mood mood, matrix int[][], vec int2vector, p point, j jsonb, amount money, mr int4multirange, acl aclitem, boxes box[])",
    )
    .await;
    let catalog = load(&client, &Scope::default()).await.unwrap();
    let shown: Vec<String> = table(&catalog, "t")
        .columns
        .iter()
        .map(|column| format!("{}: {} = {}.{}", column.name, column.declared, column.ty.namespace, made_of(&column.ty)))
        .collect();
    assert_eq!(
        shown,
        [
            "price: public.price = pg_catalog.numeric/786438",
            "prices: public.price[] = public._price/-1 [1 × numeric/786438]",
            "tags: public.tags = pg_catalog._text/-1 [1 × text/-1]",
            "moods: public.mood[] = public._mood/-1 [1 × mood/-1 enum]",
            "pair: other.pair = other.pair/-1 (a int4/-1, b _text/-1 [2 × text/-1])",
            "r: int4range = pg_catalog.int4range/-1 range of int4/-1",
            "n: numeric(10,3)[] = pg_catalog._numeric/655367 [1 × numeric/655367]",
            "v: public.code = pg_catalog.varchar/12",
            "mood: public.mood = public.mood/-1 enum",
            "matrix: integer[] = pg_catalog._int4/-1 [2 × int4/-1]",
            "vec: int2vector = pg_catalog.int2vector/-1 [1 × int2/-1]",
            "p: point = pg_catalog.point/-1",
            "j: jsonb = pg_catalog.jsonb/-1",
            "amount: money = pg_catalog.money/2",
            "mr: int4multirange = pg_catalog.int4multirange/-1 multirange of int4range/-1 range of int4/-1",
            "acl: aclitem = pg_catalog.aclitem/-1 without binary form",
            "boxes: box[] = pg_catalog._box/-1 [1 × box/-1 delimited by ;] delimited by ;",
        ]
    );
    assert!(table(&catalog, "t").columns.iter().all(|column| !column.not_null), "the NOT NULL of a domain has holes");
    // The declared type is the same whatever the search path.
    client.batch_execute("SET search_path = ''").await.unwrap();
    assert_eq!(load(&client, &Scope::default()).await.unwrap().tables[0].columns, catalog.tables[0].columns);
}

/// A type with its modifier and what it is made of.
fn made_of(ty: &PgType) -> String {
    let parts: Vec<String> = ty.parts().into_iter().map(made_of).collect();
    let more = match &ty.kind {
        TypeKind::Base | TypeKind::Other => String::new(),
        TypeKind::Enum(_) => " enum".to_owned(),
        TypeKind::Array { dimensions, .. } => format!(" [{dimensions} × {}]", parts.concat()),
        TypeKind::Composite(attributes) => {
            let attributes: Vec<_> = attributes.iter().zip(parts).map(|(attribute, part)| format!("{} {part}", attribute.name)).collect();
            format!(" ({})", attributes.join(", "))
        }
        TypeKind::Range(_) => format!(" range of {}", parts.concat()),
        TypeKind::Multirange(_) => format!(" multirange of {}", parts.concat()),
    };
    let delimiter = if ty.delimiter == b',' { String::new() } else { format!(" delimited by {}", char::from(ty.delimiter)) };
    let form = if ty.sends { "" } else { " without binary form" };
    format!("{}/{}{more}{delimiter}{form}", ty.name, ty.typmod)
}

const PARTITIONS: &str = r#"
    CREATE SCHEMA parts;
    CREATE TABLE events (id int NOT NULL, at date NOT NULL, note text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
    CREATE TABLE parts.y1 PARTITION OF events FOR VALUES FROM ('2001-01-01') TO ('2002-01-01') PARTITION BY RANGE (id);
    CREATE TABLE parts.y1a PARTITION OF parts.y1 FOR VALUES FROM (0) TO (10000);
    CREATE TABLE parts.y1b PARTITION OF parts.y1 FOR VALUES FROM (10000) TO (20000);
    CREATE TABLE parts.y2 PARTITION OF events FOR VALUES FROM ('2002-01-01') TO ('2003-01-01');
    INSERT INTO events SELECT i, '2001-05-05', repeat('x', 100) FROM generate_series(0, 19999) i;
    INSERT INTO events SELECT i, '2002-05-05', 'y' FROM generate_series(0, 99) i;
    CREATE TABLE base (a int PRIMARY KEY); CREATE TABLE child (b int) INHERITS (base); CREATE TABLE grandchild () INHERITS (child);
    INSERT INTO base VALUES (1); INSERT INTO child VALUES (2, 2); INSERT INTO grandchild VALUES (3, 3);
    ANALYZE;
"#;

#[tokio::test]
async fn partitions_and_inheritance() {
    let (_server, client) = server(PARTITIONS).await;
    let catalog = load(&client, &Scope::default()).await.unwrap();
    let expected = ["public.base", "public.child", "public.events", "public.grandchild", "parts.y1", "parts.y1a", "parts.y1b", "parts.y2"];
    let mut sorted = expected;
    sorted.sort_unstable();
    assert_eq!(names(&catalog), sorted);
    let events = table(&catalog, "events");
    assert_eq!((events.kind, events.access), (RelationKind::Partitioned, Access::Leaves));
    assert_eq!(events.leaves.iter().map(|leaf| leaf.name.as_str()).collect::<Vec<_>>(), ["y1a", "y1b", "y2"]);
    assert_eq!(events.estimated_rows, Some(20_100));
    assert_eq!(events.bytes.unwrap(), events.leaves.iter().map(|leaf| leaf.bytes).sum::<u64>());
    assert_eq!(table(&catalog, "y1a").partition_of, [("parts".into(), "y1".into()), ("public".into(), "events".into())]);
    let (chunks, found) = rows(&client, events, 200_000).await;
    assert!(chunks > 10, "{chunks}");
    assert_eq!(found, 20_100);
    // The default reads each row once: no partition beside its parent, and parents of plain inheritance alone.
    let file = streams(&catalog);
    assert_eq!(file.streams.len(), 8);
    assert_eq!(chosen(&file), ["public.base", "public.child", "public.events", "public.grandchild"]);
    assert_eq!(rows(&client, table(&catalog, "base"), 1 << 20).await.1, 1);
    assert_eq!(table(&catalog, "base").primary_key, ["a"]);

    let scope = Scope { collapse_partitions: true, ..Scope::default() };
    let collapsed = load(&client, &scope).await.unwrap();
    assert_eq!(names(&collapsed), ["public.base", "public.events"]);
    let base = table(&collapsed, "base");
    assert_eq!(rows(&client, base, 1 << 20).await, (3, 3));
    assert!(base.primary_key.is_empty() && !base.columns[0].not_null, "the children do not have the key");
    // A partition of which the parent is not listed stands for itself.
    let scope = Scope { exclude: vec!["events".into()], schemas: vec!["parts".into(), "public".into()], ..scope };
    assert_eq!(names(&load(&client, &scope).await.unwrap()), ["parts.y1", "parts.y2", "public.base"]);

    let wanted = [("parts".to_owned(), "y1".to_owned()), ("public".to_owned(), "base".to_owned())];
    let tables = load_tables(&client, &wanted, true).await.unwrap();
    assert_eq!((tables[0].leaves.len(), tables[1].leaves.len()), (2, 3));
    assert_eq!(load_tables(&client, &wanted, false).await.unwrap()[1].leaves.len(), 1);
}

#[tokio::test]
async fn leaves_are_read_as_the_parent_shows_them() {
    let (server, client) = server(&format!(
        "{PARTITIONS}
         CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA parts TO reader; GRANT SELECT ON events TO reader;
         CREATE TABLE mixed (a int NOT NULL) PARTITION BY LIST (a); CREATE TABLE mixed1 PARTITION OF mixed FOR VALUES IN (1);
         INSERT INTO mixed VALUES (1); CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
         CREATE FOREIGN TABLE mixed7 PARTITION OF mixed FOR VALUES IN (7) SERVER files OPTIONS (program 'echo 7', format 'csv');
         CREATE SCHEMA _timescaledb_internal; CREATE TABLE hyper (a int); INSERT INTO hyper VALUES (0);
         CREATE TABLE _timescaledb_internal.chunk1 () INHERITS (hyper); INSERT INTO _timescaledb_internal.chunk1 VALUES (1);"
    ))
    .await;
    let catalog = load(&client, &Scope::default()).await.unwrap();
    let mixed = table(&catalog, "mixed");
    assert_eq!(mixed.leaves.iter().map(|leaf| leaf.foreign).collect::<Vec<_>>(), [false, true]);
    assert!(!mixed.columns[0].not_null);
    assert_eq!(rows(&client, mixed, 1 << 20).await, (2, 2));
    assert_eq!(table(&catalog, "hyper").access, Access::Whole);
    assert_eq!(rows(&client, table(&catalog, "hyper"), 1 << 20).await, (1, 2));
    assert!(!names(&catalog).contains(&"_timescaledb_internal.chunk1".to_owned()));

    // Only the parent may be selected from: its leaves are read through it, still by page ranges.
    let reader = server.connect("reader").await;
    let catalog =
        load(&reader, &Scope { schemas: vec!["public".into()], include: vec!["events".into()], ..Scope::default() }).await.unwrap();
    let events = table(&catalog, "events");
    assert_eq!(events.access, Access::Parent);
    let (chunks, found) = rows(&reader, events, 200_000).await;
    assert!(chunks > 5, "{chunks}");
    assert_eq!(found, 20_100);

    // Row security of one leaf does not hold for the parent, so the leaf is not read by itself.
    client
        .batch_execute(
            "GRANT SELECT ON ALL TABLES IN SCHEMA parts TO reader; ALTER TABLE parts.y2 ENABLE ROW LEVEL SECURITY;
             CREATE TABLE secret (a int); INSERT INTO secret VALUES (1), (2); GRANT SELECT ON secret TO reader;
             ALTER TABLE secret ENABLE ROW LEVEL SECURITY; CREATE POLICY visible ON secret USING (a = 1)",
        )
        .await
        .unwrap();
    let catalog = load(&reader, &Scope { schemas: vec!["public".into()], ..Scope::default() }).await.unwrap();
    assert_eq!(rows(&reader, table(&catalog, "events"), 200_000).await.1, 20_100);
    assert_eq!(catalog.warnings.len(), 1);
    assert!(catalog.warnings[0].starts_with("row security is active on public.secret"), "{:?}", catalog.warnings);
    assert!(load(&client, &Scope::default()).await.unwrap().warnings.is_empty(), "a superuser sees all");
}

#[tokio::test]
async fn privileges() {
    let (server, client) = server(
        "CREATE SCHEMA closed; CREATE TABLE closed.t (a int); CREATE TABLE denied (a int); CREATE TABLE partly (a int, b int);
         CREATE TABLE fully (a int, b int); INSERT INTO fully SELECT i, i FROM generate_series(1, 100000) i;
         CREATE ROLE \"Mr \"\"X\"\"\" LOGIN; GRANT SELECT ON closed.t TO \"Mr \"\"X\"\"\"; GRANT SELECT (a) ON partly TO \"Mr \"\"X\"\"\";
         GRANT SELECT (a, b) ON fully TO \"Mr \"\"X\"\"\"; ALTER TABLE fully ADD COLUMN c int; ALTER TABLE fully DROP COLUMN c",
    )
    .await;
    let user = server.connect("Mr \"X\"").await;
    let catalog = load(&user, &Scope::default()).await.unwrap();
    assert_eq!(names(&catalog), ["public.fully"]);
    assert_eq!(table(&catalog, "fully").access, Access::Whole, "ctid has a privilege of its own");
    assert_eq!(rows(&user, table(&catalog, "fully"), 1).await, (1, 100_000));
    assert_eq!(catalog.skipped.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["closed.t", "public.denied", "public.partly"]);
    // The remedies are SQL that works.
    for (_, reason) in &catalog.skipped {
        client.batch_execute(reason.split_once("privilege: ").unwrap().1).await.unwrap();
    }
    assert_eq!(names(&load(&user, &Scope::default()).await.unwrap()).len(), 4);

    client.batch_execute("REVOKE SELECT ON denied FROM \"Mr \"\"X\"\"\"").await.unwrap();
    let error = load_tables(&user, &[("public".into(), "denied".into())], false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains("GRANT SELECT ON \"public\".\"denied\" TO \"Mr \"\"X\"\"\""), "{error}");
}

#[tokio::test]
async fn scopes() {
    let (_server, client) = server(
        "CREATE SCHEMA sales; CREATE SCHEMA empty; CREATE TABLE orders (a int); CREATE TABLE order_items (a int); CREATE TABLE sales.orders (a int);
         CREATE TABLE sales.tmp_1 (a int); CREATE VIEW v AS SELECT 1 AS a",
    )
    .await;
    let scope = |schemas: &[&str], include: &[&str], exclude: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Scope { schemas: owned(schemas), include: owned(include), exclude: owned(exclude), ..Scope::default() }
    };
    for (schemas, include, exclude, expected) in [
        (&[][..], &[][..], &["sales.tmp_*"][..], &["public.order_items", "public.orders", "sales.orders"][..]),
        (&["sales"], &[], &[], &["sales.orders", "sales.tmp_1"]),
        (&["empty"], &[], &[], &[]),
        (&[], &["orders", "sales.t*"], &[], &["public.orders", "sales.tmp_1"]),
        (&[], &["orders", "sales.*"], &["*.orders"], &["sales.tmp_1"]),
        (&[], &["nothing_like_it*"], &[], &[]),
    ] {
        assert_eq!(names(&load(&client, &scope(schemas, include, exclude)).await.unwrap()), expected);
    }
    for (schemas, include, expected, hint) in [
        (&["sale"][..], &[][..], "schema \"sale\" does not exist", "sales"),
        (&[], &["Orders"], "include \"Orders\" names nothing: there is no public.Orders", "public.orders"),
        (&[], &["v"], "it is a view, and \"views\" is not true", ""),
        (&["sales"], &["orders"], "schema public is not among", ""),
        (&[], &["a.b.c"], "include[0]: the pattern", "accepted are"),
    ] {
        let error = load(&client, &scope(schemas, include, &[])).await.unwrap_err();
        assert!(error.kind() == Kind::Config && error.to_string().contains(expected), "{error}");
        assert!(error.advice().unwrap_or_default().contains(hint), "{:?}", error.advice());
    }
    let error = load_tables(&client, &[("public".into(), "order".into())], false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Schema);
    assert_eq!(error.to_string(), "table public.order does not exist in database postgres");
    assert!(error.advice().unwrap().contains("run discover again") && error.advice().unwrap().contains("public.orders"));
}

#[tokio::test]
async fn hostile_names() {
    let hostile =
        ["Mixed Case", "quote\"s 'and' \\", "日本語", "select", "a.b", "tab\there", &"é".repeat(31), &"x".repeat(63), "%s $1 {}", "*"];
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut sql = String::new();
    for name in hostile {
        let columns: Vec<String> = hostile.iter().map(|name| format!("{} int", quoted(name))).collect();
        let name = quoted(name);
        sql.push_str(&format!(
            "CREATE SCHEMA {name}; CREATE TABLE {name}.{name} ({}); INSERT INTO {name}.{name} VALUES (1), (2);",
            columns.join(", ")
        ));
    }
    let (_server, client) = server(&sql).await;
    let catalog = load(&client, &Scope::default()).await.unwrap();
    assert_eq!(catalog.tables.len(), hostile.len());
    let file = streams(&catalog);
    let file: StreamsFile = serde_json::from_str(&text(&file)).unwrap();
    let chosen = choose(&file, None).unwrap();
    for Chosen { stream, columns, .. } in &chosen {
        assert_eq!(columns.iter().map(|column| column.destination.as_str()).collect::<Vec<_>>(), hostile, "{}", stream.id());
    }
    let wanted: Vec<_> = chosen.iter().map(|chosen| (chosen.stream.namespace.clone(), chosen.stream.name.clone())).collect();
    for found in load_tables(&client, &wanted, false).await.unwrap() {
        assert_eq!(rows(&client, &found, 1 << 20).await, (1, 2));
        let include = vec![format!("{}.{}", quoted(&found.namespace), quoted(&found.name))];
        assert_eq!(load(&client, &Scope { include, ..Scope::default() }).await.unwrap().tables.len(), 1);
    }
}

#[tokio::test]
async fn filters_compare_in_the_type_of_the_column() {
    let (_server, client) = server(
        "CREATE DOMAIN price AS numeric(12,2); CREATE TYPE mood AS ENUM ('sad', 'glad');
         CREATE TABLE t (\"Id\" int, price price, mood mood, note text, at timestamptz, c char(4));
         INSERT INTO t VALUES (1, 10, 'sad', 'it''s', '2024-01-01Z', 'ab'), (2, 10.01, 'glad', NULL, '2024-06-01Z', 'c'), (10, 2, 'glad', 'x', NULL, 'ab')",
    )
    .await;
    let found = load(&client, &Scope::default()).await.unwrap().tables.remove(0);
    for (filter, expected) in [
        ("Id < 10", 2),
        ("price > 10.005", 1),
        ("mood = glad and note != null", 1),
        ("note = \"it's\" or at >= 2024-05-01", 2),
        ("c = ab", 2),
        ("note = null", 1),
    ] {
        let mut file = streams(&load(&client, &Scope::default()).await.unwrap());
        file.selected_streams.as_mut().unwrap().get_mut("public").unwrap()[0].filter = filter.into();
        let condition = where_clause(&choose(&file, None).unwrap()[0], &found).unwrap().unwrap();
        let count: i64 = client.query_one(&format!("SELECT count(*) FROM t WHERE {condition}"), &[]).await.unwrap().get(0);
        assert_eq!(count, expected, "{condition}");
    }
}

#[tokio::test]
async fn two_discovers_are_byte_identical_and_merging_keeps_choices() {
    let (_server, client) = server(&format!("{PARTITIONS} CREATE TABLE zebra (a int, b date); CREATE TABLE \"Zebra\" (a int)")).await;
    let first = streams(&load(&client, &everything()).await.unwrap());
    let second = streams(&load(&client, &everything()).await.unwrap());
    assert_eq!(text(&first), text(&second));
    assert_eq!(text(&merge(&first, second)), text(&first));

    let mut edited: StreamsFile = serde_json::from_str(&text(&first)).unwrap();
    edited.selected_streams.as_mut().unwrap().get_mut("public").unwrap().retain(|chosen| chosen.stream_name == "zebra");
    client
        .batch_execute("ALTER TABLE zebra ADD COLUMN c text; ALTER TABLE zebra ALTER a TYPE int8; CREATE TABLE fresh (a int)")
        .await
        .unwrap();
    let merged = merge(&edited, streams(&load(&client, &everything()).await.unwrap()));
    let kept = choose(&merged, None).unwrap();
    assert_eq!(kept.len(), 1);
    let columns: Vec<_> = kept[0].columns.iter().map(|column| (column.source.as_str(), column.types.last().unwrap().as_str())).collect();
    assert_eq!(columns, [("a", "integer"), ("b", "date"), ("c", "string")]);
    assert!(merged.streams.iter().any(|entry| entry.stream.name == "fresh"));
}

#[tokio::test]
async fn two_thousand_tables_take_no_longer_than_a_breath() {
    let (_server, client) = server(
        "DO $$ BEGIN FOR i IN 1..2000 LOOP
           EXECUTE format('CREATE TABLE t%s (id bigint PRIMARY KEY, a text, b numeric(10,2), c timestamptz, d text[], e jsonb, f date, g uuid)', i);
         END LOOP; END $$",
    )
    .await;
    load(&client, &Scope::default()).await.unwrap();
    let started = Instant::now();
    let catalog = load(&client, &Scope::default()).await.unwrap();
    let took = started.elapsed();
    assert_eq!((catalog.tables.len(), catalog.tables[7].columns.len()), (2000, 8));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_locked_table_does_not_hold_up_discover() {
    let (server, client) = server("CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) i; ANALYZE t").await;
    let other = server.connect("postgres").await;
    other.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.unwrap();
    client.batch_execute("SET lock_timeout = '100ms'").await.unwrap();
    let catalog = load(&client, &Scope::default()).await.unwrap();
    assert_eq!(catalog.warnings.len(), 1);
    assert!(catalog.tables[0].bytes.unwrap() > 100_000, "{:?}", catalog.tables[0].bytes);
    assert_ne!(catalog.tables[0].leaves[0].filenode, 0);
}

#[tokio::test]
async fn a_not_null_that_was_never_checked_is_no_promise() {
    let (_server, client) = server("CREATE TABLE t (a int, b int NOT NULL); INSERT INTO t VALUES (NULL, 1)").await;
    // NOT NULL constraints that are NOT VALID came with PostgreSQL 18.
    if load(&client, &Scope::default()).await.unwrap().server_version < 180_000 {
        return;
    }
    client.batch_execute("ALTER TABLE t ADD CONSTRAINT n NOT NULL a NOT VALID").await.unwrap();
    let catalog = load(&client, &Scope::default()).await.unwrap();
    assert_eq!(catalog.tables[0].columns.iter().map(|column| column.not_null).collect::<Vec<_>>(), [false, true]);
}
