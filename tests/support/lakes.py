"""Iceberg tables as readers that we did not write find them.

A lake is the folder of a table in the layout of Hadoop's catalog, as text; or {"catalog": properties of PyIceberg's, "table": "namespace.name"};
or {"metadata": URI of a metadata file, "properties": those of its store}.
"""

import glob
import importlib
import os

import duckdb


def metadata_of(folder):
    """The newest metadata file of a table in the layout of Hadoop's catalog, found as any reader finds it."""
    with open(f"{folder}/metadata/version-hint.text") as hint:
        return f"file://{folder}/metadata/v{hint.read().strip()}.metadata.json"


def find(lake):
    """The metadata file of a table, and the properties of its store."""
    if isinstance(lake, str):
        return metadata_of(lake), {}
    if "metadata" in lake:
        return lake["metadata"], lake["properties"]
    from pyiceberg.catalog import load_catalog

    return load_catalog("lake", **lake["catalog"]).load_table(lake["table"]).metadata_location, lake["catalog"]


def duckdb_for(lake):
    """A connection of DuckDB, and what its `iceberg_scan` wants to know."""
    connection = duckdb.connect()
    # A slow query would draw its progress into our answer.
    connection.sql("SET enable_progress_bar = false")
    for name in ("avro", "httpfs", "iceberg"):
        module = os.path.dirname(importlib.import_module(f"duckdb_extension_{name}").__file__)
        connection.sql(f"LOAD '{glob.glob(module + '/extensions/*/*.duckdb_extension')[0]}'")
    if isinstance(lake, str):
        return connection, lake
    location, properties = find(lake)
    if "s3.endpoint" in properties:
        names = {"KEY_ID": "s3.access-key-id", "SECRET": "s3.secret-access-key", "REGION": "s3.region"}
        keys = ", ".join(f"{name} '{properties[key]}'" for name, key in names.items())
        endpoint = properties["s3.endpoint"].removeprefix("http://")
        connection.sql(f"CREATE SECRET (TYPE s3, {keys}, ENDPOINT '{endpoint}', URL_STYLE 'path', USE_SSL false)")
    return connection, location.removeprefix("file://")


def pyiceberg_of(lake):
    """The table as PyIceberg has it."""
    from pyiceberg.table import StaticTable

    location, properties = find(lake)
    return StaticTable.from_metadata(location, properties)
