"""Looks at Iceberg tables of the demo with DuckDB: rows, snapshots, and a few rows of each. Called by `./build.sh demo`."""

import glob, importlib, os, sys

import duckdb

warehouse, *tables = sys.argv[1:]
connection = duckdb.connect()
for extension in ("avro", "iceberg"):
    module = os.path.dirname(importlib.import_module(f"duckdb_extension_{extension}").__file__)
    connection.execute(f"LOAD '{glob.glob(module + '/extensions/*/*.duckdb_extension')[0]}'")
for table in tables:
    namespace, name = table.split(".")
    folder, = glob.glob(f"{warehouse}/*{namespace}/{name}")
    rows, = connection.sql(f"SELECT count(*) FROM iceberg_scan('{folder}')").fetchone()
    snapshots, = connection.sql(f"SELECT count(*) FROM iceberg_snapshots('{folder}')").fetchone()
    print(f"\n{table}: {rows:,} rows, {snapshots} snapshot{'s' if snapshots > 1 else ''}\n  {folder}")
    print(connection.sql(f"SELECT * FROM iceberg_scan('{folder}') LIMIT 5"))
