"""How fast `sync` follows the log, beside the server's own client: `./build.sh bench drain [--changes N] [--rounds N] [--destination KIND]`.

For each case (CASES) a table is loaded, and changes are written into the log; then these read the same part of it in turn, several times, over TCP on
127.0.0.1, each through a fresh copy of one slot:
  pg_recvlogical   pgoutput's messages to /dev/null: the server's decoding, and a client that does nothing with it
  parquet          the release binary, to a change log in Parquet, zstd level 1
  iceberg          the same, to an Iceberg table on the embedded catalog to which the changes are applied by key
Lakeward goes on from copies of the state file and the destination as they were before the changes. Its wall time is that of the whole process, with start
and commit. Medians are printed; a run that has not brought every change is refused. With --perf, one more run of each case is recorded.
"""

import argparse, json, os, re, shutil, statistics, subprocess, sys, time
from bench import markdown, peers_file, processor
from measure import CORES, Failed, measured, spawn
from server import HOME, Server

NAME, FOLDER = "drain", f"{HOME}/run/drain"
TABLE = """SET client_min_messages = warning; DROP PUBLICATION IF EXISTS drain; DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE t (id bigint PRIMARY KEY, number int, name text, amount numeric(12,2), moment timestamptz, flag bool,
    token uuid, document jsonb, day date, ratio double precision)"""
ROWS = """SELECT i, (i * 7919 % 100003)::int, 'customer ' || i % 5000, (i * 31 % 1000000) / 100.0, '2026-01-01Z'::timestamptz + i * interval '1 second', i % 3 = 0,
    md5(i::text)::uuid, jsonb_build_object('kind', i % 10, 'tags', jsonb_build_array('a', i % 100)), date '2020-01-01' + (i % 2000)::int, i / 7.0::double precision
    FROM generate_series((LOW)::bigint, (HIGH)::bigint) i"""
INSERT = "INSERT INTO t " + ROWS
# What one transaction does with the keys from LOW to HIGH, how many it has (None: all), and whether they are there before.
CASES = {
    "insert-1": (INSERT, 1, False),
    "insert-1000": (INSERT, 1000, False),
    "insert-all": (INSERT, None, False),
    "insert-beside-1000": (INSERT, 1000, False),
    "update-1000": ("UPDATE t SET number = number + 1, name = name || '.', moment = now() WHERE id BETWEEN LOW AND HIGH", 1000, True),
    "delete-1000": ("DELETE FROM t WHERE id BETWEEN LOW AND HIGH", 1000, True),
}
HEADINGS = ["wall s", "changes/s", "recvlogical ÷", "client CPU s", "µs/change", "server CPU s", "peak MB", "others"]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--changes", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--destination", choices=["parquet", "iceberg", "both"], default="both")
    arguments.add_argument("--memory-limit", metavar="SIZE", help="of sync, such as 256MiB")
    arguments.add_argument("--perf", metavar="FOLDER", help="record one more run of each with perf, into this folder")
    arguments.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default all")
    given = arguments.parse_args()
    given.kinds = ["parquet", "iceberg"] if given.destination == "both" else [given.destination]
    if unknown := [case for case in given.cases if case not in CASES]:
        arguments.error(f"there is no case {unknown[0]}; there are {', '.join(CASES)}")
    # A log that slots have kept is of no use to the next run.
    shutil.rmtree(f"{HOME}/{NAME}", ignore_errors=True)
    server = Server(NAME, ["wal_level=logical", "synchronous_commit=off"])
    try:
        server.sql("postgres", f"CREATE DATABASE {NAME}")
        print(f"`./build.sh bench drain {' '.join(sys.argv[3:])}`: {CORES} cores shared with PostgreSQL {server.version()}, {processor()}, "
              f"{given.changes:,} changes, medians of {given.rounds} rounds.")
        for case in given.cases or CASES:
            Drain(server, case, given).run()
    finally:
        server.stop()
        shutil.rmtree(server.data, ignore_errors=True)


def between(statement, low, high):
    return statement.replace("LOW", str(low)).replace("HIGH", str(high))


# Tables that are followed as well and do not change.
BESIDE = {"insert-beside-1000": 1000}


class Drain:
    """One case."""

    def __init__(self, server, case, given):
        self.server, self.case, self.given = server, case, given
        self.statement, self.size, self.there = CASES[case]
        self.rows = given.changes if self.there else 1000
        shutil.rmtree(FOLDER, ignore_errors=True)
        self.sql(TABLE)
        self.sql("DO $$ BEGIN FOR j IN 1 .. %d LOOP EXECUTE 'CREATE TABLE beside_' || j || ' (id int PRIMARY KEY)'; END LOOP; END $$" % BESIDE.get(case, 0))
        self.sql(between(INSERT, 1, self.rows))
        for kind in given.kinds:
            self.load(kind)
        # The table's publication and the point from which all go on.
        self.sql(f"CREATE PUBLICATION {NAME} FOR TABLES IN SCHEMA public")
        self.slot("base")
        for kind in given.kinds:
            self.lakeward(kind)()
            shutil.move(f"{self.home(kind)}/out", f"{self.home(kind)}/out.before")
            shutil.move(f"{self.home(kind)}/state.json", f"{self.home(kind)}/state.before")
        self.change()

    def load(self, kind):
        os.makedirs(self.home(kind))
        writer = {"local_path": f"{self.home(kind)}/out", "compression": "zstd", "compression_level": 1}
        if kind == "iceberg":
            writer = {"catalog_type": "filesystem", "iceberg_s3_path": f"{self.home(kind)}/out", "index_path": f"{self.home(kind)}/out/.index",
                      "table_properties": {"write.parquet.compression-level": "1", "write.parquet.compression-codec": "zstd"}}
        self.write(kind, "config", {"host": "127.0.0.1", "port": self.server.port, "database": NAME, "username": "postgres",
                                    "update_method": {"replication_slot": "lakeward", "publication": NAME}})
        self.write(kind, "destination", {"type": kind.upper(), "writer": writer})
        self.spawn(kind, "discover", ["config", "streams"])
        streams = json.load(open(f"{self.home(kind)}/streams.json"))
        for entry in streams["streams"]:
            entry["stream"]["sync_mode"] = "cdc"
        self.write(kind, "streams", streams)

    def change(self):
        """Writes the changes, and one row more: behind the last transaction that is measured, a client has to see that it is over."""
        size, changes, low = self.size or self.given.changes, self.given.changes, 0 if self.there else self.rows
        step = between(self.statement, f"{low} + j * {size} + 1", f"{low} + least((j + 1) * {size}, {changes})")
        self.sql(f"DO $$ BEGIN FOR j IN 0 .. {(changes - 1) // size} LOOP {step}; COMMIT; END LOOP; END $$")
        self.sql("CHECKPOINT")
        self.end = self.sql("SELECT pg_current_wal_flush_lsn()")
        self.sql(between(INSERT, 10**12, 10**12))
        self.bytes = int(self.sql(f"SELECT '{self.end}'::pg_lsn - confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'base'"))

    def home(self, kind):
        return f"{FOLDER}/{kind}"

    def write(self, kind, name, value):
        with open(f"{self.home(kind)}/{name}.json", "w") as f:
            json.dump(value, f)

    def sql(self, statement):
        return self.server.sql(NAME, statement)

    def slot(self, name):
        """A slot of this name that stands where `base` stands, or where the log ends for `base` itself."""
        for _ in range(100):  # a walsender ends a moment after its client
            if self.sql(f"SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = '{name}'") == "0":
                break
            time.sleep(0.1)
        self.sql(f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{name}'")
        make = "pg_create_logical_replication_slot('base', 'pgoutput')" if name == "base" else f"pg_copy_logical_replication_slot('base', '{name}')"
        self.sql(f"SELECT {make}")

    def spawn(self, kind, command, files, before=()):
        words = [f"--{name}={self.home(kind)}/{name}.json" for name in files]
        if self.given.memory_limit and command == "sync":
            words.append(f"--memory-limit={self.given.memory_limit}")
        return spawn([*before, self.given.binary, command, *words], f"{self.home(kind)}/{command}.log")

    def lakeward(self, kind, before=()):
        self.slot("lakeward")
        return lambda: self.spawn(kind, "sync", ["config", "streams", "destination", "state"], before)

    def contender(self, name, before=()):
        """What to measure, ready to run."""
        if name == "pg_recvlogical":
            self.slot("peer")
            command = [f"{self.server.bin}/pg_recvlogical", "-h", "127.0.0.1", "-p", str(self.server.port), "-U", "postgres", "-d", NAME, "--slot=peer", "--start",
                       "--no-loop", "-o", "proto_version=1", "-o", f"publication_names={NAME}", f"--endpos={self.end}", "--file=/dev/null"]
            return lambda: spawn(command, f"{FOLDER}/{name}.log")
        shutil.rmtree(f"{self.home(name)}/out", ignore_errors=True)
        shutil.copytree(f"{self.home(name)}/out.before", f"{self.home(name)}/out")
        shutil.copy(f"{self.home(name)}/state.before", f"{self.home(name)}/state.json")
        return self.lakeward(name, before)

    def check(self, name):
        """A measurement of changes that did not arrive is worth nothing."""
        if name == "pg_recvlogical":
            return
        said = open(f"{self.home(name)}/sync.log").read()
        found = sum(int(number) for number in re.findall(r": (\d+) changes up to", said))
        if name == "parquet":
            count = subprocess.run([sys.executable, peers_file(), "count", f"{self.home(name)}/out"], check=True, stdout=subprocess.PIPE)
            found = min(found, int(count.stdout.split()[0]) - self.rows)
        if found != self.given.changes + 1:
            raise Failed(f"{found:,} changes arrived of {self.given.changes + 1:,}")

    def run(self):
        names = ["pg_recvlogical", *self.given.kinds]
        rounds = []
        for number in range(self.given.rounds):
            rounds.append({})
            for name in names if number % 2 == 0 else reversed(names):
                print(f"{self.case}: round {number + 1}, {name}", file=sys.stderr, flush=True)
                rounds[-1][name] = measured(self.server, self.contender(name))
                self.check(name)
        lines = [[self.case] + HEADINGS] + [[name] + self.line(name, rounds) for name in names]
        print(f"\n**{self.case}**: {self.bytes / 1e6:,.0f} MB of log\n\n{markdown(lines)}", flush=True)
        for kind in self.given.kinds if self.given.perf else []:
            os.makedirs(self.given.perf, exist_ok=True)
            record = ["perf", "record", "-q", "-F", "999", "-e", "cpu-clock", "-g", "-o", f"{self.given.perf}/{self.case}-{kind}.data"]
            self.contender(kind, record)()

    def line(self, name, rounds):
        middle = lambda of: statistics.median(of(costs[name]) for costs in rounds)
        ratio = statistics.median(costs["pg_recvlogical"].wall / costs[name].wall for costs in rounds)
        wall, client = middle(lambda c: c.wall), middle(lambda c: c.client)
        return [f"{wall:.2f}", f"{self.given.changes / wall:,.0f}", f"{ratio:.2f}", f"{client:.2f}", f"{client / self.given.changes * 1e6:.3f}",
                f"{middle(lambda c: c.server):.2f}", f"{middle(lambda c: c.peak):,.0f}", f"{middle(lambda c: c.others):.2f}"]


if __name__ == "__main__":
    main()
