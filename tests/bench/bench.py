"""Lakeward against the server's own limit and against other programs, in one run: `./build.sh bench [--rounds N] [--peers] [CASE ...]`.

For each case (see tables.py) these are measured in turn, and that several times:
  server      (--server-floor) two backends that COPY to /dev/null: the server's work without a socket
  drain       two COPY BINARY streams over halves of the case, read with SO_RCVLOWAT and thrown away
  lakeward    the release binary: to Parquet, two readers, zstd level 1, statistics on
  iceberg     the same, to Iceberg on the embedded catalog
  duckdb ...  (--peers) other programs, see peers.py
and the result is printed as a Markdown table: medians, and the medians of the ratios within a round. Whole processes are measured by the kernel's own
accounting; the server's CPU is read from /proc. Seconds on a shared machine mean little from one day to the next; ratios within one run do.
The case `plan` measures discover and a dry run over 10,000 tables instead.
"""

import argparse, json, os, platform, shutil, statistics, subprocess, sys
import limits, tables
from measure import CORES, Failed, measured, spawn
from peers import PEERS
from server import HOME, Server

HEADINGS = ["wall s", "÷ drain", "÷ lakeward", "client CPU s", "µs/row", "server CPU s", "wall ÷ (CPU/cores)", "peak MB", "out MB", "rows/s", "others"]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--peers", action="store_true", help="measure all other programs as well")
    arguments.add_argument("--peer", action="append", choices=list(PEERS), default=[], help="measure this one as well; may be repeated")
    arguments.add_argument("--server-floor", action="store_true", help="measure COPY to /dev/null by the server as well")
    arguments.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(tables.CASES)}; default lineitem and wide")
    given = arguments.parse_args()
    given.peer = list(PEERS) if given.peers else given.peer
    given.cases = given.cases or ["lineitem", "wide"]
    if unknown := [case for case in given.cases if case not in tables.CASES]:
        arguments.error(f"there is no case {unknown[0]}; there are {', '.join(tables.CASES)}")
    server = Server()
    try:
        for case in given.cases:
            tables.load(server, case)
        print(f"`./build.sh bench {' '.join(sys.argv[3:])}`: {CORES} cores shared with PostgreSQL {server.version()}, {processor()}, medians of {given.rounds} rounds.")
        for case in given.cases:
            Bench(server, case, given).run()
    finally:
        server.stop()


class Bench:
    """One case."""

    def __init__(self, server, case, given):
        self.server, self.case, self.given = server, case, given
        self.folder = f"{HOME}/run/{case}"
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.tables = tables.names(server, case)
        self.halves = tables.halves(server, case, self.tables)
        self.rows = tables.rows(server, case, self.tables)
        self.notes = {}
        self.configure()

    def configure(self):
        host = os.environ.get("LAKEWARD_BENCH_HOST", "127.0.0.1")
        source = {"host": host, "port": self.server.port, "database": self.case, "username": "postgres", "max_threads": 3}
        writer = {"local_path": f"{self.folder}/out", "compression": "zstd", "compression_level": 1}
        self.write("source", source)
        self.write("destination", {"type": "PARQUET", "writer": writer})
        writer = {"catalog_type": "filesystem", "iceberg_s3_path": f"{self.folder}/out", "table_properties": {"write.parquet.compression-level": "1", "write.parquet.compression-codec": "zstd"}}
        self.write("iceberg", {"type": "ICEBERG", "writer": writer})
        self.write("peers", {"url": self.server.url(self.case), "out": f"{self.folder}/out", "scratch": f"{self.folder}/scratch", "tables": self.tables,
                             "halves": self.halves})
        self.discover()

    def write(self, name, value):
        with open(f"{self.folder}/{name}.json", "w") as f:
            json.dump(value, f)

    def lakeward(self, *command, destination="destination"):
        files = [f"--{key}={self.folder}/{key}.json" for key in (["config"] if command[0] == "discover" else ["config", "streams", "destination"])]
        files[0] = f"--config={self.folder}/source.json"
        files[2:] = [f"--destination={self.folder}/{destination}.json"] if files[2:] else []
        return spawn([self.given.binary, *command, *files], f"{self.folder}/{command[0]}.log")

    def discover(self):
        return self.lakeward("discover")

    def peer(self, name):
        return spawn([sys.executable, peers_file(), name, f"{self.folder}/peers.json"], f"{self.folder}/{name}.log")

    def contenders(self):
        if self.rows == 0:
            return {"discover": self.discover, "sync --dry-run": lambda: self.lakeward("sync", "--dry-run")}
        chosen = {}
        if self.given.server_floor:
            chosen["server"] = lambda: limits.floor(self.server, self.case, self.halves)
        chosen["drain"] = lambda: limits.drain(self.server, self.case, self.halves)
        chosen["lakeward"] = lambda: self.lakeward("sync")
        chosen["iceberg"] = lambda: self.lakeward("sync", destination="iceberg")
        for name in self.given.peer:
            chosen[name] = lambda name=name: self.peer(name)
        return chosen

    def run(self):
        rounds = []
        for number in range(self.given.rounds):
            costs = {}
            for name, run in self.contenders().items():
                if name in self.notes:
                    continue
                print(f"{self.case}: round {number + 1}, {name}", file=sys.stderr, flush=True)
                for folder in ("out", "scratch"):
                    shutil.rmtree(f"{self.folder}/{folder}", ignore_errors=True)
                    os.makedirs(f"{self.folder}/{folder}")
                try:
                    costs[name] = measured(self.server, run)
                    costs[name].out = self.check(name)
                except Failed as failure:
                    if name not in PEERS:
                        raise SystemExit(f"{name} failed: {failure}")
                    costs.pop(name, None)
                    self.notes[name] = f"n/a: {failure}"
            rounds.append(costs)
        shutil.rmtree(f"{self.folder}/out")
        self.report(rounds)

    def check(self, name):
        """Refuses an output in which not every row has arrived. Gives its size in MB."""
        if self.rows == 0 or name in ("server", "drain"):
            return 0.0
        command = [sys.executable, peers_file(), "count", f"{self.folder}/out"]
        rows, size = map(int, subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.split())
        if rows != self.rows:
            raise Failed(f"{rows:,} rows arrived of {self.rows:,}")
        return size / 1e6

    def report(self, rounds):
        size = f", {self.rows:,} rows" if self.rows else ""
        lines = [[self.case] + HEADINGS]
        for name in self.contenders():
            costs = [costs[name] for costs in rounds if name in costs]
            lines.append([name] + ([self.notes[name]] if name in self.notes else self.line(name, costs, rounds)))
        print(f"\n**{self.case}**: {tables.CASES[self.case][0]}{size}\n\n{markdown(lines)}", flush=True)

    def line(self, name, costs, rounds):
        middle = lambda of: statistics.median(map(of, costs))
        def ratio(base):
            pairs = [round_[name].wall / round_[base].wall for round_ in rounds if name in round_ and base in round_]
            return f"{statistics.median(pairs):.2f}" if pairs else ""
        wall, client = middle(lambda c: c.wall), middle(lambda c: c.client)
        per_row = [f"{client / self.rows * 1e6:.3f}", f"{self.rows / wall:,.0f}"] if self.rows else ["", ""]
        efficiency = middle(lambda c: c.wall / ((c.client + c.server) / CORES))
        return [f"{wall:.2f}", ratio("drain"), ratio("lakeward"), f"{client:.2f}", per_row[0], f"{middle(lambda c: c.server):.2f}", f"{efficiency:.2f}",
                blank_zero(middle(lambda c: c.peak)), blank_zero(middle(lambda c: c.out)), per_row[1], f"{middle(lambda c: c.others):.2f}"]


def blank_zero(megabytes):
    return f"{megabytes:,.0f}" if megabytes else ""


def peers_file():
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers.py")


def processor():
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.machine()


def markdown(lines):
    """A table that can be read as it is. A line that is too short has a note in place of its numbers."""
    whole = [line for line in lines if len(line) == len(lines[0])]
    empty = {i for i in range(1, len(lines[0])) if not any(line[i] for line in whole[1:])}
    lines = [[cell for i, cell in enumerate(line) if i not in empty] if line in whole else line for line in lines]
    whole = [line for line in lines if len(line) == len(lines[0])]
    widths = [max(len(line[i]) for line in whole) for i in range(len(lines[0]))]
    widths[0] = max(len(line[0]) for line in lines)
    out = []
    for line in lines:
        cells = [line[0].ljust(widths[0])] + ([cell.rjust(width) for cell, width in zip(line[1:], widths[1:])] if line in whole else [line[1]])
        out.append("| " + " | ".join(cells) + " |")
    out.insert(1, "|" + "|".join(["-" * (widths[0] + 2)] + ["-" * (width + 1) + ":" for width in widths[1:]]) + "|")
    return "\n".join(out)


if __name__ == "__main__":
    main()
