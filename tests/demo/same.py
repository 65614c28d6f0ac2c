"""Compares Iceberg tables of the demo, read by DuckDB, with the database, by sums over their columns. Called by `./build.sh demo`."""

import glob, importlib, os, subprocess, sys

import duckdb

# The same words in both dialects.
SUMS = {
    "shop.orders": "count(*), sum(id), sum(customer_id), sum(shipping), count(delivered_on), sum(length(CAST(status AS text))), sum(tip)",
    "shop.order_lines": "count(*), sum(order_id), sum(line), sum(quantity), sum(unit_price), count(engraving)",
    "shop.customers": "count(*), sum(id), count(born), sum(length(name)), sum(credit_limit)",
    "audit.events": "count(*), sum(id), sum(CAST(floor(extract(epoch FROM happened_at)) AS bigint)), sum(length(action))",
}

warehouse, *psql = sys.argv[1:]
connection = duckdb.connect()
for extension in ("avro", "iceberg"):
    module = os.path.dirname(importlib.import_module(f"duckdb_extension_{extension}").__file__)
    connection.execute(f"LOAD '{glob.glob(module + '/extensions/*/*.duckdb_extension')[0]}'")
different = 0
for table, sums in SUMS.items():
    namespace, name = table.split(".")
    folder, = glob.glob(f"{warehouse}/*{namespace}/{name}")
    found = ["" if value is None else str(value) for value in connection.sql(f"SELECT {sums} FROM iceberg_scan('{folder}')").fetchone()]
    wanted = subprocess.run([*psql, "-XAtq", "-F", "\t", "-c", f"SELECT {sums} FROM {table}"], check=True, capture_output=True, text=True)
    wanted = wanted.stdout.rstrip("\n").split("\t")
    different += found != wanted
    print(f"{table}: {int(found[0]):,} rows, {'the same as' if found == wanted else f'{found} DIFFERENT from {wanted} in'} the database")
sys.exit(different > 0)
