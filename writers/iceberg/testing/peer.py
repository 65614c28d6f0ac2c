"""PyIceberg, asked by lines of JSON: `{"do": …}` on standard input, one answer per line on standard output."""
import json
import sys
import time

import pyarrow as pa
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import CommitFailedException, NamespaceAlreadyExistsError

SCHEMA = pa.schema([pa.field("id", pa.int64())])
catalog = None


def append(name, ids):
    for attempt in range(200):
        try:
            catalog.load_table(name).append(pa.table({"id": pa.array(ids, pa.int64())}, schema=SCHEMA))
            return attempt
        except CommitFailedException:
            time.sleep(0.01 * (attempt % 10))
    raise RuntimeError("no attempt came through")


def answer(ask):
    global catalog
    name = ask.get("table")
    match ask["do"]:
        case "open":
            catalog = load_catalog(ask["name"], **ask["properties"])
        case "create":
            try:
                catalog.create_namespace(name.split(".")[0])
            except NamespaceAlreadyExistsError:
                pass
            return catalog.create_table(name, SCHEMA).metadata_location
        case "append":
            return append(name, ask["ids"])
        case "rows":
            return sorted(catalog.load_table(name).scan().to_arrow()["id"].to_pylist())
        case "rename":
            return catalog.rename_table(name, ask["to"]).metadata.location
        case "drop":
            catalog.drop_table(name)
        case "tables":
            return sorted(".".join(identifier) for identifier in catalog.list_tables(ask["namespace"]))
        case "namespaces":
            return sorted(".".join(identifier) for identifier in catalog.list_namespaces())
        case other:
            raise ValueError(other)


for line in sys.stdin:
    try:
        result = {"ok": answer(json.loads(line))}
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result), flush=True)
