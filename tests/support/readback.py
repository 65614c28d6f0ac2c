"""Reads Parquet files with pyarrow and with DuckDB and compares their rows with what psql gave.

Standard input: {"files": [...], "columns": [{"name": ..., "kind": ...}], "expected": "path of a file with one JSON list per row"}.
Standard output: {"rows": n, "schema": {column: Arrow type}, "problems": [...]}; no problems means that both readers saw exactly
the expected rows, each as often as expected, in any order.

A value is compared as its canonical text, which readback.rs asks of psql in the same form: numbers as decimal digits, floats as the
hex of their bits, dates as days and times as microseconds since 1970, uuid and bytes as hex, lists as JSON lists of canonical texts.
"""

import collections
import json
import struct
import sys
import uuid

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq


def canonical(array, kind):
    """One canonical text (or None) per value of an Arrow array."""
    if isinstance(array, pa.ChunkedArray):
        return [text for chunk in array.chunks for text in canonical(chunk, kind)]
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if kind.startswith("list<"):
        inner = kind[len("list<") : -1]
        if pa.types.is_string(array.type):  # a list that travelled as text: Postgres' own form is compared elsewhere
            raise TypeError("a list arrived as text")
        texts, result, at = canonical(array.flatten(), inner), [], 0
        for length in array.value_lengths().to_pylist():
            if length is None:
                result.append(None)
            else:
                result.append(json.dumps(texts[at : at + length], ensure_ascii=False))
                at += length
        return result
    if kind in ("date", "time", "timestamp"):
        if kind == "date" and not pa.types.is_date32(array.type):
            raise TypeError(f"a date arrived as {array.type}")
        if kind == "time" and array.type != pa.time64("us"):
            raise TypeError(f"a time arrived as {array.type}")
        if kind == "timestamp" and (not pa.types.is_timestamp(array.type) or array.type.unit != "us"):
            raise TypeError(f"a timestamp arrived as {array.type}")
        array = array.view(pa.int32() if kind == "date" else pa.int64())
        return [None if v is None else str(v) for v in array.to_pylist()]
    one = {
        "int": str,
        "bool": lambda v: "true" if v is True else "false" if v is False else fail(v),
        "float4": lambda v: struct.pack(">f", v).hex(),
        "float8": lambda v: struct.pack(">d", v).hex(),
        # numeric without a precision travels as text; then it is the text itself
        "decimal": lambda v: v if isinstance(v, str) else format(v, "f"),
        "text": lambda v: v if isinstance(v, str) else fail(v),
        "bytes": lambda v: v.hex(),
        "uuid": lambda v: v.hex() if isinstance(v, bytes) else v.hex if isinstance(v, uuid.UUID) else v.replace("-", ""),
    }[kind]
    if kind == "int" and not pa.types.is_integer(array.type):
        raise TypeError(f"an integer arrived as {array.type}")
    return [None if v is None else one(v) for v in array.to_pylist()]


def fail(value):
    raise TypeError(f"unexpected {value!r}")


def by_pyarrow(files):
    tables = [pq.ParquetFile(f).read() for f in files]
    return pa.concat_tables(tables)


def by_duckdb(files):
    result = duckdb.sql("SELECT * FROM read_parquet($1, hive_partitioning = false, union_by_name = true)", params=[files])
    return result.to_arrow_table()


def rows_of(table, columns):
    texts = [canonical(table.column(c["name"]), c["kind"]) for c in columns]
    return zip(*texts) if texts else ([],) * table.num_rows


def main():
    job = json.load(sys.stdin)
    columns = job["columns"]
    with open(job["expected"], encoding="utf-8", newline="\n") as lines:
        expected = collections.Counter(tuple(json.loads(line)) for line in lines)
    problems, rows, schema = [], 0, {}
    for reader in (by_pyarrow, by_duckdb) if job["files"] else ():
        table = reader(job["files"])
        found = collections.Counter(rows_of(table, columns))
        if reader is by_pyarrow:
            rows, schema = table.num_rows, {f.name: str(f.type) for f in table.schema}
        for what, rest in (("missing", expected - found), ("too many", found - expected)):
            if rest:
                problems.append(f"{reader.__name__}: {what}: {sum(rest.values())} rows, such as {list(rest)[:3]}")
    if not job["files"] and expected:
        problems.append(f"no file, and {sum(expected.values())} rows expected")
    json.dump({"rows": rows, "schema": schema, "problems": problems}, sys.stdout)


main()
