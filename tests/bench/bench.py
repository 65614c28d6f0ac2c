"""Lakeward against the server's own limit, in one run: `./build.sh bench [--rounds N] [--peers] [table ...]`.

For each table it measures, in turn and several times:
  drain      two COPY BINARY streams over halves of the table (ctid ranges), read with SO_RCVLOWAT and thrown away
  lakeward   the release binary: the same table to Parquet, two readers, zstd level 1, statistics on
  duckdb     (--peers) DuckDB's PostgreSQL scanner with two threads to Parquet, zstd level 1
and prints medians and the ratios within a round. Whole processes are measured by the kernel's own accounting (wait4); the server's CPU is read
from /proc. Seconds on a shared machine mean little from one day to the next; ratios within one run do.

The server is private (Unix socket and a port of 127.0.0.1), its data is kept under /var/tmp/lakeward-bench between runs.
"""

import argparse, glob, json, os, resource, shutil, signal, socket, statistics, struct, subprocess, sys, time

HOME = "/var/tmp/lakeward-bench"
LOWAT = 256 << 10

WIDE = """
create table wide as select i::bigint as id, (i::bigint * 7919 % 1000000)::int as a, (i % 100)::smallint as b, i::bigint * 1000003 as c,
  (i * 0.25)::real as f4, sqrt(i::float8) as f8, (i * 1.0001)::numeric(18,4) as n1, case when i % 10 <> 0 then (i / 7.0)::numeric(18,4) end as n2,
  (i * 123.4567)::numeric(18,4) as n3, 'short ' || i % 1000 as s1, md5(i::text) as s2, repeat(md5((i*3)::text), 3) as s3,
  case when i % 10 <> 1 then 'status-' || i % 7 end as s4, jsonb_build_object('id', i, 'tags', array[md5(i::text), md5((i+1)::text)], 'nested',
  jsonb_build_object('x', i % 97, 'text', repeat('y', 180))) as j1, jsonb_build_object('k', i % 50) as j2, md5(i::text)::uuid as u1,
  md5((i*5)::text)::uuid as u2, timestamptz '2024-01-01' + i * interval '1 second' as t1, timestamp '2020-01-01' + i * interval '1 minute' as t2,
  date '2000-01-01' + i % 9000 as d1, time '00:00' + (i % 86400) * interval '1 second' as tm, i % 3 = 0 as bo, array[i, i+1, i+2]::int[] as ai,
  array['a' || i % 10, 'b'] as at, case when i % 10 <> 2 then i end as x1, (i % 1000)::int as x2, repeat('z', i % 200) as s5,
  (i * 11)::bigint as x3, i::float8 / 3 as f9, case when i % 10 <> 3 then md5((i*13)::text) end as s6
  from generate_series(1, {rows}) i"""


def postgres_bin():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda p: int(p.split("/")[4]))
    return os.path.dirname(found[-1]) if found else os.path.dirname(shutil.which("initdb"))


class Server:
    def __init__(self):
        self.bin = postgres_bin()
        os.makedirs(HOME, exist_ok=True)
        self.user = []
        if os.geteuid() == 0:
            import pwd
            user = next(u for u in ("postgres", "nobody") if u in {p.pw_name for p in pwd.getpwall()})
            entry = pwd.getpwnam(user)
            os.chown(HOME, entry.pw_uid, entry.pw_gid)
            self.user = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--pdeathsig", "KILL"]
        self.data = f"{HOME}/data"
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        if not os.path.exists(f"{self.data}/PG_VERSION"):
            subprocess.run(self.user + [f"{self.bin}/initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"],
                           check=True, stdout=subprocess.DEVNULL, cwd=HOME)
        options = ["shared_buffers=2GB", "listen_addresses=127.0.0.1", "max_wal_size=8GB", "autovacuum=off", "jit=off"]
        self.process = subprocess.Popen(
            self.user + [f"{self.bin}/postgres", "-D", self.data, "-k", HOME, "-p", str(self.port)] + [a for o in options for a in ("-c", o)],
            stdout=open(f"{HOME}/log", "ab"), stderr=subprocess.STDOUT, cwd=HOME)
        for _ in range(200):
            if subprocess.run(self.psql("select 1"), capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise SystemExit(f"the server did not start, see {HOME}/log")

    def psql(self, sql):
        return ["psql", "-X", "-q", "-A", "-t", "-h", HOME, "-p", str(self.port), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-c", sql]

    def sql(self, sql, **kw):
        return subprocess.run(self.psql(sql), check=True, stdout=subprocess.PIPE, text=True, **kw).stdout.strip()

    def cpu(self):
        """CPU seconds of the server's process tree, finished children included."""
        total, tick = 0.0, os.sysconf("SC_CLK_TCK")
        children = subprocess.run(["pgrep", "-P", str(self.pid())], capture_output=True, text=True).stdout.split()
        for pid in [str(self.pid())] + children:
            try:
                fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
                total += sum(int(fields[i]) for i in ((11, 12, 13, 14) if pid == str(self.pid()) else (11, 12))) / tick
            except FileNotFoundError:
                pass
        return total

    def pid(self):
        return int(open(f"{self.data}/postmaster.pid").readline())

    def stop(self):
        if self.process.poll() is None:
            os.kill(self.pid(), signal.SIGINT)
            self.process.wait()


def load(server, table):
    if server.sql(f"select to_regclass('{table}') is not null") == "t":
        return
    print(f"loading {table} (once) ...", file=sys.stderr, flush=True)
    if table == "lineitem":
        import duckdb, duckdb_extension_tpch
        db = duckdb.connect()
        extension = glob.glob(os.path.dirname(duckdb_extension_tpch.__file__) + "/extensions/*/*.duckdb_extension")[0]
        db.execute(f"LOAD '{extension}'")
        db.execute("CALL dbgen(sf=1)")
        path = f"{HOME}/lineitem.csv"
        db.execute(f"COPY lineitem TO '{path}' (HEADER false, DELIMITER '|')")
        server.sql("""create table lineitem (l_orderkey bigint not null, l_partkey bigint not null, l_suppkey bigint not null, l_linenumber bigint not null,
            l_quantity numeric(15,2) not null, l_extendedprice numeric(15,2) not null, l_discount numeric(15,2) not null, l_tax numeric(15,2) not null,
            l_returnflag text not null, l_linestatus text not null, l_shipdate date not null, l_commitdate date not null, l_receiptdate date not null,
            l_shipinstruct text not null, l_shipmode text not null, l_comment text not null)""")
        server.sql(f"\\copy lineitem from '{path}' (format csv, delimiter '|')")
        os.remove(path)
    elif table == "wide":
        server.sql(WIDE.format(rows=1_000_000))
    else:
        raise SystemExit(f"unknown table {table}; known are lineitem and wide")
    server.sql(f"vacuum (freeze, analyze) {table}")


def drain_stream(port, sql):
    """Reads the answer of a COPY and throws it away: what no client can beat."""
    s = socket.create_connection(("127.0.0.1", port))
    startup = b"user\0postgres\0database\0postgres\0\0"
    s.sendall(struct.pack("!ii", len(startup) + 8, 196608) + startup)
    seen = b""
    while not (seen.endswith(b"Z\0\0\0\x05I")):
        seen += s.recv(65536)
    s.sendall(b"Q" + struct.pack("!i", len(sql) + 5) + sql.encode() + b"\0")
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, LOWAT)
    s.setblocking(False)
    import select
    poll = select.poll()
    poll.register(s, select.POLLIN)
    buffer = bytearray(1 << 20)
    tail = b""
    while True:
        poll.poll(10)
        try:
            n = s.recv_into(buffer)
        except BlockingIOError:
            continue
        tail = (tail + bytes(buffer[max(0, n - 16):n]))[-16:]
        if tail.endswith(b"Z\0\0\0\x05I"):
            return


def drain(server, table):
    pages = int(server.sql(f"select pg_relation_size('{table}') / 8192"))
    half = pages // 2
    ranges = [f"ctid < '({half},0)'", f"ctid >= '({half},0)'"]
    pids = []
    started = time.monotonic()
    for condition in ranges:
        pid = os.fork()
        if pid == 0:
            drain_stream(server.port, f"COPY (SELECT * FROM {table} WHERE {condition}) TO STDOUT (FORMAT binary)")
            os._exit(0)
        pids.append(pid)
    cpu = 0.0
    for pid in pids:
        _, status, usage = os.wait4(pid, 0)
        assert status == 0, "a drain failed"
        cpu += usage.ru_utime + usage.ru_stime
    return time.monotonic() - started, cpu, 0


def spawn(command, log):
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status != 0:
        raise SystemExit(f"{command[0]} failed, see {log.name}:\n" + open(log.name).read()[-2000:])
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def prepare(server, binary, table):
    folder = f"{HOME}/run/{table}"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    host = os.environ.get("LAKEWARD_BENCH_HOST", "127.0.0.1")
    source = {"host": host, "port": server.port, "database": "postgres", "username": "postgres", "max_threads": 3, "include_tables": [table]}
    destination = {"type": "PARQUET", "writer": {"local_path": f"{folder}/out", "compression": "zstd", "compression_level": 1}}
    for name, value in (("source", source), ("destination", destination)):
        with open(f"{folder}/{name}.json", "w") as f:
            json.dump(value, f)
    with open(f"{folder}/discover.log", "w") as log:
        spawn([binary, "discover", "--config", f"{folder}/source.json"], log)
    return [binary, "sync", "--config", f"{folder}/source.json", "--streams", f"{folder}/streams.json", "--destination", f"{folder}/destination.json"], folder


DUCKDB = """
import duckdb, duckdb_extension_postgres_scanner as x, glob, os
d = duckdb.connect(config={{"threads": 2}})
d.execute("LOAD '%s'" % glob.glob(os.path.dirname(x.__file__) + "/extensions/*/*.duckdb_extension")[0])
d.execute("ATTACH 'host=127.0.0.1 port={port} user=postgres dbname=postgres' AS pg (TYPE postgres, READ_ONLY)")
d.execute("SET pg_connection_limit=2")
d.execute("COPY (SELECT * FROM pg.public.{table}) TO '{out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")
"""


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--peers", action="store_true", help="measure DuckDB's scanner as well")
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("tables", nargs="*", default=["lineitem", "wide"])
    given = arguments.parse_args()
    server = Server()
    try:
        for table in given.tables:
            load(server, table)
        for table in given.tables:
            measure(server, table, given)
    finally:
        server.stop()


def measure(server, table, given):
    rows = int(server.sql(f"select count(*) from {table}"))
    command, folder = prepare(server, given.binary, table)
    server.sql(f"select count(*) from {table} where {table}::text is null")  # into the cache
    results = {}
    for round_ in range(given.rounds):
        contenders = [("drain", lambda: drain(server, table)), ("lakeward", lambda: spawn(command, open(f"{folder}/sync.log", "w")))]
        if given.peers:
            script = DUCKDB.format(port=server.port, table=table, out=f"{folder}/duckdb.parquet")
            contenders.append(("duckdb", lambda: spawn([sys.executable, "-c", script], open(f"{folder}/duckdb.log", "w"))))
        for name, run in contenders:
            before = server.cpu()
            wall, cpu, rss = run()
            time.sleep(0.3)
            results.setdefault(name, []).append((wall, cpu, rss, server.cpu() - before))
    print(f"\n{table}: {rows:,} rows, medians of {given.rounds} rounds, {os.cpu_count()} cores shared with the server")
    print(f"{'':10} {'wall s':>8} {'client CPU s':>13} {'server CPU s':>13} {'CPU us/row':>11} {'peak MB':>8} {'rows/s':>11} {'wall/drain':>11}")
    for name, runs in results.items():
        wall, cpu, rss, server_cpu = (statistics.median(r[i] for r in runs) for i in range(4))
        ratio = statistics.median(r[0] / d[0] for r, d in zip(runs, results["drain"]))
        print(f"{name:10} {wall:8.2f} {cpu:13.2f} {server_cpu:13.2f} {cpu / rows * 1e6:11.3f} {rss:8.0f} {rows / wall:11,.0f} {ratio:11.2f}", flush=True)


if __name__ == "__main__":
    main()
