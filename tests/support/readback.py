"""Reads Parquet files with pyarrow and with DuckDB and compares their rows with what psql gave.

Standard input: a list of {"files": [...], "columns": [{"name": ..., "kind": ...}], "expected": "path of a file with one JSON list per row"};
instead of files, "iceberg" may be a lake (lakes.py).
Standard output: for each of them {"rows": n, "schema": {column: Arrow type}, "problems": [...]}; no problems means that both readers saw
exactly the expected rows, each as often as expected, in any order.

A value is compared in its canonical form, which canonical.rs asks of psql as well: numbers as decimal digits, floats as the hex of
their bits, dates as days and times as microseconds since 1970 (never as Python's, which end with the year 9999), uuid and bytes as
hex, structs as lists of their fields, arrays as their dimensions and their flat elements, maps as sorted pairs.
"""

import collections
import json
import sys
import uuid

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from lakes import duckdb_for, pyiceberg_of


def canonical(array, kind):
    """The canonical form (or None) of each value of an Arrow array."""
    if isinstance(array, pa.ChunkedArray):
        return [form for chunk in array.chunks for form in canonical(chunk, kind)]
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(kind, dict):
        ((nesting, inner),) = kind.items()
        return {"struct": structs, "list": lists, "array": arrays, "map": maps}[nesting](array, inner)
    allowed, convert, view = SCALARS[kind]
    if not allowed(array.type):
        raise TypeError(f"a value of kind {kind} arrived as {array.type}")
    if view:
        array = array.view(view)
    return [None if v is None else convert(v) for v in array.to_pylist()]


# Kind: the Arrow types that it may have, its canonical text, and the integers that it is read as.
SCALARS = {
    "int": (pa.types.is_integer, str, None),
    "bool": (pa.types.is_boolean, lambda v: "true" if v else "false", None),
    "float4": (pa.types.is_float32, "{:08x}".format, pa.uint32()),
    "float8": (pa.types.is_float64, "{:016x}".format, pa.uint64()),
    # A number that no decimal holds travels as text; then it is the text itself.
    "decimal": (lambda t: pa.types.is_decimal(t) or pa.types.is_string(t) or pa.types.is_large_string(t), lambda v: v if isinstance(v, str) else format(v, "f"), None),
    # PyIceberg says large_string of a table without rows.
    "text": (lambda t: pa.types.is_string(t) or pa.types.is_large_string(t), str, None),
    "bytes": (lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_fixed_size_binary(t), bytes.hex, None),
    "uuid": (lambda t: not pa.types.is_nested(t), lambda v: v.hex() if isinstance(v, bytes) else uuid.UUID(v).hex, None),
    "date": (pa.types.is_date32, str, pa.int32()),
    "time": (lambda t: t == pa.time64("us"), str, pa.int64()),
    "timestamp": (lambda t: t == pa.timestamp("us"), str, pa.int64()),
    # A reader may name the zone of its session; the instant is what counts.
    "timestamptz": (lambda t: pa.types.is_timestamp(t) and t.unit == "us" and t.tz is not None, str, pa.int64()),
}


def structs(array, fields):
    names = [name for name, _ in fields]
    if not pa.types.is_struct(array.type) or [array.type.field(i).name for i in range(array.type.num_fields)] != names:
        raise TypeError(f"a struct of {names} arrived as {array.type}")
    children = [canonical(child, kind) for child, (_, kind) in zip(array.flatten(), fields)]
    return [list(values) if valid else None for valid, values in zip(array.is_valid().to_pylist(), zip(*children))]


def lists(array, inner):
    if not pa.types.is_list(array.type):
        raise TypeError(f"a list arrived as {array.type}")
    values, result, at = canonical(array.flatten(), inner), [], 0
    for length in array.value_lengths().to_pylist():
        result.append(None if length is None else values[at : at + length])
        at += length or 0
    return result


def arrays(array, inner):
    depth, element = inner
    kind = element
    for _ in range(depth):
        kind = {"list": kind}
    return [None if v is None else shaped(v, depth) for v in canonical(array, kind)]


def shaped(nested, depth):
    """Dimensions and flat elements of nested lists; both are None for an empty array."""
    lengths, flat = [len(nested)], nested
    for _ in range(depth - 1):
        inner = {None if v is None else len(v) for v in flat}
        if len(inner) > 1 or None in inner:
            raise TypeError(f"an array whose lists have different lengths: {nested}")
        lengths += inner
        flat = [v for values in flat for v in values]
    return [lengths, flat] if nested else [None, None]


def maps(array, inner):
    if not pa.types.is_map(array.type):
        raise TypeError(f"a map arrived as {array.type}")
    pair = [array.type.key_field, array.type.item_field]
    pairs = lists(array.cast(pa.list_(pa.struct(pair))), {"struct": [[field.name, inner] for field in pair]})
    return [None if v is None else sorted(v, key=lambda pair: pair[0]) for v in pairs]


def by_pyarrow(files):
    return pa.concat_tables([pq.ParquetFile(f).read() for f in files])


def by_duckdb(files):
    # A slow query would draw its progress into our answer.
    duckdb.sql("SET enable_progress_bar = false")
    result = duckdb.sql("SELECT * FROM read_parquet($1, hive_partitioning = false, union_by_name = true)", params=[files])
    return result.to_arrow_table()


def by_pyiceberg(lake):
    try:
        table = pyiceberg_of(lake).scan().to_arrow()
    except ValueError as e:
        if "equality deletes" in str(e):
            return None  # it says itself that it does not read them
        raise
    # Of a list of structs that is NULL, PyIceberg 0.12 makes a list.
    return None if any(pa.types.is_list(t) and pa.types.is_struct(t.value_type) for t in table.schema.types) else table


def by_iceberg_scan(lake):
    connection, place = duckdb_for(lake)
    return connection.sql("SELECT * FROM iceberg_scan($1)", params=[place]).to_arrow_table()


def rows_of(table, columns):
    """Every row as one text, so that rows can be counted."""
    forms = []
    for column in columns:
        try:
            forms.append(canonical(table.column(column["name"]), column["kind"]))
        except (TypeError, KeyError) as e:
            raise TypeError(f"column {column['name']}: {e}") from e
    return map(json.dumps, zip(*forms))


def differences(columns, missing, surplus):
    """Where rows differ, by column, as far as their first columns tell which row was meant to be which."""
    found, seen = {json.loads(row)[0]: json.loads(row) for row in surplus}, collections.Counter()
    for row in map(json.loads, missing):
        for column, want, have in zip(columns, row, found.get(row[0], row)):
            if want != have:
                seen[column["name"]] += 1
                if seen[column["name"]] <= 3:
                    yield f"{column['name']} of row {row[0]}: expected {clip(want)}, found {clip(have)}"


def clip(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


def compare(job):
    columns = job["columns"]
    with open(job["expected"], encoding="utf-8", newline="\n") as lines:
        expected = collections.Counter(json.dumps(json.loads(line)) for line in lines)
    problems, rows, schema = [], 0, {}
    iceberg = job.get("iceberg")
    readers = (by_iceberg_scan, by_pyiceberg) if iceberg else (by_pyarrow, by_duckdb) if job["files"] else ()
    for reader in readers:
        table = reader(iceberg or job["files"])
        if table is None:
            continue
        found = collections.Counter(rows_of(table, columns))
        if reader is readers[0]:
            rows, schema = table.num_rows, {f.name: str(f.type) for f in table.schema}
        missing, surplus = expected - found, found - expected
        for what, rest in (("missing", missing), ("too many", surplus)):
            if rest:
                problems.append(f"{reader.__name__}: {what}: {sum(rest.values())} rows, such as {[clip(json.loads(r)) for r in list(rest)[:2]]}")
        problems += [f"{reader.__name__}: {text}" for text in differences(columns, missing, surplus)]
    if not readers and expected:
        problems.append(f"no file, and {sum(expected.values())} rows expected")
    return {"rows": rows, "schema": schema, "problems": problems}


json.dump([compare(job) for job in json.load(sys.stdin)], sys.stdout)
