"""Answers queries about tables with DuckDB, one line of JSON each, for as long as somebody asks.

A question is {"query": "… FROM $table …", and one of "files": [Parquet files], "iceberg": a lake (lakes.py), "sqlite": [file of an SQL catalog,
name of the table]}. The answer is a list of rows, or {"error": text}. A connection serves one question, so that nothing is remembered of
files that have changed since.
"""

import json
import sqlite3
import sys

import duckdb
from lakes import duckdb_for


def answer(question):
    query = question["query"]
    if "files" in question:
        if not question["files"]:
            return []
        connection = duckdb.connect()
        connection.sql("SET enable_progress_bar = false")
        table, place = "read_parquet($1, union_by_name = true, hive_partitioning = false)", question["files"]
    else:
        lake = question.get("iceberg")
        if "sqlite" in question:
            file, name = question["sqlite"]
            (location,) = sqlite3.connect(file).execute("SELECT metadata_location FROM iceberg_tables WHERE table_name = ?", [name]).fetchone()
            lake = {"metadata": location, "properties": {}}
        table, (connection, place) = "iceberg_scan($1)", duckdb_for(lake)
    return connection.sql(query.replace("$table", table), params=[place]).fetchall()


for line in sys.stdin:
    try:
        said = answer(json.loads(line))
    except Exception as e:
        said = {"error": f"{type(e).__name__}: {e}"}
    print(json.dumps(said, default=str), flush=True)
