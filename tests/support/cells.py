"""Compares two sets of Parquet files cell by cell with pyarrow, after sorting both by a column.

Standard input: {"left": [...], "right": [...], "key": column}. Standard output: a JSON list of problems.
"""

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq


def sorted_table(files, key):
    table = pa.concat_tables([pq.ParquetFile(f).read() for f in files])
    return table.sort_by(key).combine_chunks()


def same(left, right):
    """Equal to the bit; Arrow's own comparison has NaN differ from NaN and 0 equal to -0."""
    if isinstance(left, pa.ExtensionArray):
        return same(left.storage, right.storage)
    if not left.is_valid().equals(right.is_valid()):
        return False
    if pa.types.is_struct(left.type):
        return all(same(a, b) for a, b in zip(left.flatten(), right.flatten()))
    if pa.types.is_map(left.type):
        pairs = pa.list_(pa.struct([left.type.key_field, left.type.item_field]))
        left, right = left.cast(pairs), right.cast(pairs)
    if pa.types.is_list(left.type):
        return left.value_lengths().equals(right.value_lengths()) and same(left.flatten(), right.flatten())
    if pa.types.is_floating(left.type):
        bits = {16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}[left.type.bit_width]
        left, right = left.view(bits), right.view(bits)
    return left.equals(right)


def main():
    job = json.load(sys.stdin)
    left, right = (sorted_table(job[side], job["key"]) for side in ("left", "right"))
    problems = []
    if left.schema != right.schema:
        problems.append(f"schemas differ: {left.schema} and {right.schema}")
    elif left.num_rows != right.num_rows:
        problems.append(f"{left.num_rows} rows and {right.num_rows} rows")
    else:
        for field in left.schema:
            columns = [side.column(field.name).combine_chunks() for side in (left, right)]
            if not same(*columns):
                keys = left.column(job["key"]).to_pylist()
                rows = (i for i in range(left.num_rows) if not same(*(c.slice(i, 1) for c in columns)))
                problems += [f"{field.name} of row {keys[i]}: {columns[0][i]!r} and {columns[1][i]!r}" for i, _ in zip(rows, range(3))]
    json.dump(problems, sys.stdout)


main()
