"""Writes docs/proof.md from what the machinery of proof has counted: `./build.sh proof` runs that machinery and then this.

Argument: the folder with crashes-*.json (tests/e2e/crashes.rs), chaos.json (tests/e2e/chaos.rs) and fuzz.log (build.sh fuzz). What is not there
is said to be not counted.
"""

import collections
import glob
import json
import os
import re
import sys

MODES = {
    "FullRefresh": "full refresh",
    "Incremental": "incremental",
    "Load": "first copy of a followed table",
    "Changes": "changes",
    "Evolution": "changes with a new column",
}
TARGETS = {"Parquet": "Parquet", "ParquetS3": "Parquet on S3", "Iceberg": "Iceberg, folders", "IcebergSql": "Iceberg, SQL catalog",
           "IcebergRest": "Iceberg, REST catalog on S3"}


def load(folder, name):
    path = os.path.join(folder, name)
    return json.load(open(path)) if os.path.exists(path) else None


def crashes(folder):
    reports = [json.load(open(file)) for file in sorted(glob.glob(f"{folder}/crashes-*.json"))]
    died, tried, steps = collections.Counter(), 0, collections.defaultdict(collections.Counter)
    for report in reports:
        for cell in report["cells"]:
            died[report["mode"], report["target"]] += cell["died"]
            tried += cell["tried"]
            steps[cell["step"]][report["mode"]] += cell["died"]
    yield "## Crash matrix"
    yield ""
    if not reports:
        yield "Not counted."
        return
    yield f"A run was made to die {sum(died.values())} times, at {len(steps)} steps, in {len(died)} combinations of mode and destination; each time the next run"
    yield "came to its end, and an independent reader found what the database had: no row lost, doubled or altered."
    yield ""
    yield "| mode | " + " | ".join(TARGETS.values()) + " |"
    yield "|---" * (len(TARGETS) + 1) + "|"
    for mode, name in MODES.items():
        yield f"| {name} | " + " | ".join(str(died[mode, target] or "—") for target in TARGETS) + " |"
    yield ""
    yield "Deaths by step; a name that ends in `.done` is the moment after it took effect:"
    yield ""
    yield "| step | " + " | ".join(MODES.values()) + " |"
    yield "|---" * (len(MODES) + 1) + "|"
    for step in sorted(steps):
        yield f"| `{step}` | " + " | ".join(str(steps[step][mode] or "—") for mode in MODES) + " |"


def chaos(folder):
    told = load(folder, "chaos.json")
    yield "## Seeded chaos"
    yield ""
    if not told:
        yield "Not counted."
        return
    yield f"{told['minutes']} minutes, {told['seeds']} seeds from {told['first_seed']} on, {told['rounds']} rounds, {told['deaths']} deaths of runs,"
    yield f"{told['comparisons']} comparisons with the database, all equal. What else happened: "
    yield ", ".join(f"{times} × {name}" for name, times in told["disturbances"].items() if name != "None") + "."


def fuzzed(log):
    """Executions of each target, as libFuzzer counts them."""
    told, target = {}, None
    for line in open(log, errors="replace") if os.path.exists(log) else ():
        if found := re.match(r"fuzzing (\w+)", line):
            target = found[1]
        elif found := re.match(r"Done (\d+) runs in", line):
            told[target] = int(found[1])
    return told


def fuzzing(folder):
    told = fuzzed(os.path.join(folder, "fuzz.log"))
    yield "## Fuzzing"
    yield ""
    if not told:
        yield "Not counted."
        return
    yield "| target | executions |"
    yield "|---|---|"
    for target, runs in told.items():
        yield f"| `{target}` | {runs:,} |"


def bad_input():
    configs = len(glob.glob("tests/configs/invalid/*.expected"))
    lake = sum(not line.startswith(" ") for line in open("tests/damaged_lake.expected"))
    yield "## Bad input"
    yield ""
    yield f"{configs} damaged source, destination, streams and state files with the message that each gets (`tests/configs/invalid`), and {lake} damaged files of"
    yield "tables in a destination with what the run says that meets them (`tests/damaged_lake.expected`). `tests/e2e/damaged.rs` cuts each file at every place, and changes"
    yield "every value."


def foreign(folder):
    database, scripts, sessions = (load(folder, name) for name in ("regression.json", "scripts.json", "sessions.json"))
    yield "## Foreign cases"
    yield ""
    if database:
        yield f"The database that PostgreSQL's own regression suite leaves: {database['same']} streams arrived as they are, to Parquet and to Iceberg, value by value;"
        yield f"{database['refused']} were refused with the row and the reason (infinite times, NaN among decimals, arrays of several dimensions)."
        yield ""
    if scripts and sessions:
        yield f"PostgreSQL's own scenarios of logical decoding (`contrib/test_decoding`): {scripts['played']} scripts and {sessions['played']} orders of sessions beside one another, followed by"
        yield f"{scripts['runs'] + sessions['runs']} runs into Iceberg; {scripts['tables'] + sessions['tables']} tables were the same in the end. {scripts['stopped'] + sessions['stopped']} were stopped by a change of a type that the table there cannot"
        yield "take, with that reason, and were the same after they had been loaded anew."
        yield ""
    yield "`./build.sh foreign` runs both, and also holds a change log against what Debezium's engine says of the same changes, one by one and in their order, while runs are"
    yield "killed; that prints its own counts, and is no part of `proof`."


def main(folder):
    parts = [crashes(folder), chaos(folder), fuzzing(folder), bad_input(), foreign(folder)]
    print("# What was counted\n")
    print("Written by `./build.sh proof`, which repeats all of it; [guarantees.md](guarantees.md) says what is promised, and names the tests.\n")
    print("\n\n".join("\n".join(part) for part in parts))


main(sys.argv[1])
