"""What many small commits to one Iceberg table cost, first and last: `./build.sh bench commits [--commits N] [--delete-files KIND ...]`.

A table is loaded, then changed and synced N times by the program itself, a process for each time, as a scheduler would do it. Printed for every tenth
of the way: the time of a run, the sizes of what a commit writes and a reader plans with, files, and how long PyIceberg takes to plan a scan. What has to stay
bounded is metadata and planning per file; data and delete files grow with every commit until a table is compacted.
"""

import argparse, glob, json, os, shutil, statistics, subprocess, time
from server import HOME, Server

KINDS = ["append", "equality", "position", "deletion_vector"]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--commits", type=int, default=1000)
    arguments.add_argument("--delete-files", choices=KINDS, action="append", default=[], help="default: append and equality")
    given = arguments.parse_args()
    server = Server()
    try:
        for kind in given.delete_files or ["append", "equality"]:
            table = Table(given.binary, server, kind)
            print(f"\n**{kind}**, {given.commits:,} commits of 20 rows\n\n{HEAD}", flush=True)
            for tenth in range(10):
                times = [table.commit() for _ in range(max(1, given.commits // 10))]
                print(table.line(times), flush=True)
            table.check()
    finally:
        server.stop()


HEAD = """| commits | run ms | metadata kB | snapshots | manifests | manifests kB | data files | delete files | files in metadata/ | PyIceberg plans, ms |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


class Table:
    def __init__(self, binary, server, kind):
        self.binary, self.server, self.kind, self.round = binary, server, kind, 0
        self.database, self.home = f"commits_{kind}", f"{HOME}/run/commits_{kind}"
        shutil.rmtree(self.home, ignore_errors=True)
        os.makedirs(self.home)
        server.sql("postgres", f"DROP DATABASE IF EXISTS {self.database}")
        server.sql("postgres", f"CREATE DATABASE {self.database}")
        self.sql("CREATE TABLE t (id bigint PRIMARY KEY, city text, amount numeric(12,2), moment timestamptz, updated bigint);"
                 "INSERT INTO t SELECT i, 'c' || i % 5, i / 7.0, now(), i FROM generate_series(1, 5000) i")
        writer = {"catalog_type": "filesystem", "iceberg_s3_path": f"{self.home}/lake", "index_path": f"{self.home}/index"}
        if kind != "append":
            writer["delete_files"] = kind
        self.write("source", {"host": HOME, "port": server.port, "database": self.database, "username": "postgres"})
        self.write("destination", {"type": "ICEBERG", "writer": writer})
        self.run("discover", "--config", "source.json", "--streams", "streams.json")
        streams = json.load(open(f"{self.home}/streams.json"))
        for entry in streams["streams"]:
            entry["stream"].update(sync_mode="incremental", cursor_field="updated")
        for entry in streams["selected_streams"]["public"]:
            entry["append_mode"] = kind == "append"
        self.write("streams", streams)
        self.sync()
        self.folder = os.path.dirname(glob.glob(f"{self.home}/lake/*/t/metadata")[0])

    def write(self, name, value):
        with open(f"{self.home}/{name}.json", "w") as f:
            json.dump(value, f)

    def sql(self, statement):
        return self.server.sql(self.database, statement)

    def run(self, *words):
        done = subprocess.run([self.binary, *words], cwd=self.home, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"lakeward {words[0]} ended with {done.returncode}: {done.stderr[-2000:]}")

    def sync(self):
        self.run("sync", *(f"--{key}={name}.json" for key, name in [("config", "source"), ("streams", "streams"), ("destination", "destination"), ("state", "state")]))

    def commit(self):
        """Seconds of one run."""
        self.round += 1
        self.sql(f"UPDATE t SET amount = amount + 1, updated = {self.round} * 1000000 + id WHERE id % 250 = {self.round} % 250")
        started = time.monotonic()
        self.sync()
        return time.monotonic() - started

    def metadata(self):
        from pyiceberg.table import StaticTable
        hint = open(f"{self.folder}/metadata/version-hint.text").read().strip()
        return StaticTable.from_metadata(f"file://{self.folder}/metadata/v{hint}.metadata.json")

    def line(self, times):
        started = time.monotonic()
        table = self.metadata()
        snapshot = table.current_snapshot()
        manifests = snapshot.manifests(table.io)
        files = [entry.data_file.content.name for manifest in manifests for entry in manifest.fetch_manifest_entry(table.io)]
        planned = time.monotonic() - started
        data = files.count("DATA")
        return (f"| {self.round:,} | {statistics.median(times) * 1000:.0f} | {os.path.getsize(table.metadata_location.removeprefix('file://')) / 1e3:.0f} "
                f"| {len(table.metadata.snapshots)} | {len(manifests)} | {sum(manifest.manifest_length for manifest in manifests) / 1e3:.0f} | {data} "
                f"| {len(files) - data} | {len(os.listdir(self.folder + '/metadata'))} | {planned * 1000:.0f} |")

    def check(self):
        """A measurement of a wrong table is worth nothing."""
        if self.kind in ("append", "position"):
            found = self.metadata().scan().to_arrow()
            rows, total = found.num_rows, sum(found["amount"].to_pylist())
            expected = self.sql("SELECT count(*), sum(amount) FROM t").split("|")
            if self.kind == "position" and [str(rows), str(total)] != expected:
                raise SystemExit(f"{rows} rows with {total} arrived of {expected}")
            if self.kind == "append" and rows != 5000 + 20 * self.round:
                raise SystemExit(f"{rows} rows arrived of {5000 + 20 * self.round}")


main()
