"""Answers queries about tables with DuckDB, one line of JSON each, for as long as somebody asks.

A question is {"query": "… FROM $table …", and one of "files": [Parquet files], "iceberg": folder of a table in the layout of Hadoop's catalog,
"sqlite": [file of an SQL catalog, name of the table]}. The answer is a list of rows, or {"error": text}. A connection serves one question,
so that nothing is remembered of files that have changed since.
"""

import glob
import importlib
import json
import os
import sqlite3
import sys

import duckdb


def connection():
    connection = duckdb.connect()
    connection.sql("SET enable_progress_bar = false")
    return connection


def iceberg():
    opened = connection()
    for name in ("avro", "httpfs", "iceberg"):
        module = os.path.dirname(importlib.import_module(f"duckdb_extension_{name}").__file__)
        opened.sql(f"LOAD '{glob.glob(module + '/extensions/*/*.duckdb_extension')[0]}'")
    return opened


def answer(question):
    query = question["query"]
    if "files" in question:
        if not question["files"]:
            return []
        table = "read_parquet($1, union_by_name = true, hive_partitioning = false)"
        rows = connection().sql(query.replace("$table", table), params=[question["files"]]).fetchall()
    elif "sqlite" in question:
        file, name = question["sqlite"]
        (location,) = sqlite3.connect(file).execute("SELECT metadata_location FROM iceberg_tables WHERE table_name = ?", [name]).fetchone()
        rows = iceberg().sql(query.replace("$table", "iceberg_scan($1)"), params=[location.removeprefix("file://")]).fetchall()
    else:
        rows = iceberg().sql(query.replace("$table", "iceberg_scan($1)"), params=[question["iceberg"]]).fetchall()
    return rows


for line in sys.stdin:
    try:
        said = answer(json.loads(line))
    except Exception as e:
        said = {"error": f"{type(e).__name__}: {e}"}
    print(json.dumps(said, default=str), flush=True)
