"""What is measured: one database for each case, loaded once and kept.

A database of its own, because some peers read the whole catalog of the one they are connected to.
"""

import glob, os, subprocess, sys
from server import HOME

WIDE = """
create table wide as select i::bigint as id, (i::bigint * 7919 % 1000000)::int as a, (i % 100)::smallint as b, i::bigint * 1000003 as c,
  (i * 0.25)::real as f4, sqrt(i::float8) as f8, (i * 1.0001)::numeric(18,4) as n1, case when i % 10 <> 0 then (i / 7.0)::numeric(18,4) end as n2,
  (i * 123.4567)::numeric(18,4) as n3, 'short ' || i % 1000 as s1, md5(i::text) as s2, repeat(md5((i*3)::text), 3) as s3,
  case when i % 10 <> 1 then 'status-' || i % 7 end as s4, jsonb_build_object('id', i, 'tags', array[md5(i::text), md5((i+1)::text)], 'nested',
  jsonb_build_object('x', i % 97, 'text', repeat('y', 180))) as j1, jsonb_build_object('k', i % 50) as j2, md5(i::text)::uuid as u1,
  md5((i*5)::text)::uuid as u2, timestamptz '2024-01-01' + i * interval '1 second' as t1, timestamp '2020-01-01' + i * interval '1 minute' as t2,
  date '2000-01-01' + i % 9000 as d1, time '00:00' + (i % 86400) * interval '1 second' as tm, i % 3 = 0 as bo, array[i, i+1, i+2]::int[] as ai,
  array['a' || i % 10, 'b'] as at, case when i % 10 <> 2 then i end as x1, (i % 1000)::int as x2, repeat('z', i % 200) as s5,
  (i * 11)::bigint as x3, i::float8 / 3 as f9, case when i % 10 <> 3 then md5((i*13)::text) end as s6
  from generate_series(1, 1000000) i;
"""

LINEITEM = """
create table lineitem (l_orderkey bigint not null, l_partkey bigint not null, l_suppkey bigint not null, l_linenumber bigint not null,
  l_quantity numeric(15,2) not null, l_extendedprice numeric(15,2) not null, l_discount numeric(15,2) not null, l_tax numeric(15,2) not null,
  l_returnflag text not null, l_linestatus text not null, l_shipdate date not null, l_commitdate date not null, l_receiptdate date not null,
  l_shipinstruct text not null, l_shipmode text not null, l_comment text not null);
"""

# Scale factor 1. In a process of its own: DuckDB's memory must not count for the programs that are started later.
DBGEN = """
import duckdb, duckdb_extension_tpch as tpch, glob, os, sys
db = duckdb.connect()
db.execute("LOAD '%s'" % glob.glob(os.path.dirname(tpch.__file__) + "/extensions/*/*.duckdb_extension")[0])
db.execute("CALL dbgen(sf=1)")
db.execute(f"COPY lineitem TO '{sys.argv[1]}' (HEADER false, DELIMITER '|')")
"""

MANY = """
select format('create table t%s (id bigint primary key, name text not null, amount numeric(12,2), at timestamptz, ok boolean);
  insert into t%s select i, ''name '' || i, i * 1.25, timestamptz ''2024-01-01'' + i * interval ''1 hour'', i %% 3 = 0 from generate_series(1, 100) i', k, k)
from generate_series(1, 1000) k \\gexec
"""

# Slices of two pools of 16 MB: bytes that nothing compresses, and lines of a log that everything does. The pools are kept uncompressed, so that
# a slice costs what it is long.
TOAST = """
create temp table pool (noise bytea, log bytea);
alter table pool alter noise set storage external, alter log set storage external;
insert into pool select (select string_agg(decode(md5(i::text), 'hex'), '') from generate_series(1, 1100000) i),
  (select string_agg(convert_to(format(E'2026-01-01 %s INFO worker-%s request %s served in %s us\\n', time '00:00' + i * interval '1 ms', i % 16, md5(i::text),
    i * 7919 % 100000), 'UTF8'), '') from generate_series(1, 210000) i);
create table toast (id bigint primary key, at timestamptz not null, body text, noise bytea, doc jsonb);
insert into toast select i, timestamptz '2024-01-01' + i * interval '1 second',
  case when i % 20 <> 0 then convert_from(substr(log, 1 + (i * 7919::bigint % 16000000)::int, 8000 + i % 9 * 3000), 'UTF8') end,
  substr(noise, 1 + (i * 104729::bigint % 16000000)::int, 12000 + i % 7 * 3000),
  jsonb_build_object('id', i, 'log', convert_from(substr(log, 1 + (i * 15485863::bigint % 16000000)::int, 2000 + i % 5 * 2000), 'UTF8'),
    'items', (select jsonb_agg(jsonb_build_object('sku', md5((i + k)::text), 'price', k * 1.25)) from generate_series(1, 20 + i % 30) k))
  from generate_series(1, 40000) i, pool;
"""

EMPTY = """
select format('create table t%s (id bigint primary key, name text not null, amount numeric(12,2), at timestamptz, ok boolean)', k)
from generate_series(1, 10000) k \\gexec
"""

# Case → (what it is, what makes it)
CASES = {
    "lineitem": ("TPC-H lineitem at scale factor 1, 16 columns", LINEITEM),
    "wide": ("30 columns of many types", WIDE),
    "many": ("1,000 tables of 100 rows", MANY),
    "toast": ("five columns, 45 kB a row, out of line", TOAST),
    "plan": ("10,000 empty tables", EMPTY),
}


def load(server, case):
    """Makes the case's database unless it is there."""
    if server.sql("postgres", f"select count(*) from pg_database where datname = '{case}'") == "1":
        return
    print(f"loading {case} (once) ...", file=sys.stderr, flush=True)
    # Under another name until it is complete.
    server.script("postgres", "set client_min_messages = warning; drop database if exists loading; create database loading;")
    server.script("loading", "set synchronous_commit = off; set client_min_messages = warning;" + CASES[case][1])
    if case == "lineitem":
        path = f"{HOME}/lineitem.csv"
        subprocess.run([sys.executable, "-c", DBGEN, path], check=True)
        server.sql("loading", f"\\copy lineitem from '{path}' (format csv, delimiter '|')")
        os.remove(path)
    server.script("loading", "vacuum (freeze, analyze); checkpoint;")
    server.script("postgres", f"alter database loading rename to {case};")


def names(server, case):
    """The case's tables."""
    return server.sql(case, "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace order by oid").split()


def rows(server, case, tables):
    """Rows of all tables; counting them reads them into the cache, their TOAST as well."""
    count = 0
    for some in (tables[i:i + 100] for i in range(0, len(tables), 100)):
        count += int(server.sql(case, "select " + " + ".join(f"(select count(t::text) from {table} t)" for table in some)))
    return count


def halves(server, case, tables):
    """The tables' rows as two lists of queries: half of the pages of a single table, half of several tables."""
    if len(tables) > 1:
        return [[f"select * from {table}" for table in tables[start::2]] for start in (0, 1)]
    middle = int(server.sql(case, f"select pg_relation_size('{tables[0]}') / 8192")) // 2
    return [[f"select * from {tables[0]} where ctid {operator} '({middle},0)'"] for operator in ("<", ">=")]
