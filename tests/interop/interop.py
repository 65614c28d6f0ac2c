"""Iceberg tables that Lakeward wrote, read by everyone else: Spark with Apache's own runtime, DuckDB, ClickHouse (chdb), PyIceberg.

Called by `./build.sh interop`. For each way of taking rows away, with and without partitions, a table is loaded and changed through the
program itself, and each reader's rows are compared with PostgreSQL's, one by one. Then Spark compacts and changes tables between our commits.
Prints the compatibility table of docs/iceberg.md; ends with an error when a reader does better or worse than KNOWN says.
"""

import argparse, datetime as dt, decimal, glob, importlib, json, os, shutil, subprocess, sys, tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench"))
os.environ["TZ"] = "UTC"

# What a reader is known not to do: (reader, kind of delete, partitioned) → how it ends. "wrong" is said in the documentation in bold letters.
KNOWN = {
    ("pyiceberg", "equality", False): "refuses",
    ("pyiceberg", "equality", True): "refuses",
    ("chdb", "equality", True): "wrong",
    ("chdb", "deletion_vector", False): "refuses",
    ("chdb", "deletion_vector", True): "refuses",
}
MODES = ["equality", "position", "deletion_vector"]
COLUMNS = "id, city, amount, price, moment, born, flag, note, tags"


def plain(value):
    """One form for what the readers' libraries give."""
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None).isoformat(sep=" ")
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def rows(values):
    return sorted([plain(v) for v in row] for row in values)


class DuckDb:
    name = "duckdb"

    def __init__(self):
        import duckdb
        self.connection = duckdb.connect()
        for extension in ("avro", "httpfs", "iceberg"):
            module = os.path.dirname(importlib.import_module(f"duckdb_extension_{extension}").__file__)
            self.connection.execute(f"LOAD '{glob.glob(module + '/extensions/*/*.duckdb_extension')[0]}'")
        self.connection.execute("SET TimeZone = 'UTC'")
        self.version = duckdb.__version__

    def read(self, folder):
        table = self.connection.sql(f"SELECT {COLUMNS} FROM iceberg_scan('{folder}')").to_arrow_table()
        return zip(*(table.column(i).to_pylist() for i in range(table.num_columns)))


class PyIceberg:
    name = "pyiceberg"

    def __init__(self):
        import pyiceberg
        self.version = pyiceberg.__version__

    def read(self, folder):
        from pyiceberg.table import StaticTable
        hint = open(f"{folder}/metadata/version-hint.text").read().strip()
        table = StaticTable.from_metadata(f"file://{folder}/metadata/v{hint}.metadata.json").scan().to_arrow().select(COLUMNS.split(", "))
        return zip(*(table.column(i).to_pylist() for i in range(table.num_columns)))


class ClickHouse:
    name = "chdb"

    def __init__(self):
        import chdb
        os.chdir("/")  # it reads nothing outside of the folder that it was started in
        self.chdb, self.version = chdb, chdb.__version__

    def read(self, folder):
        # An array is never NULL there; these tables have no empty ones.
        columns = COLUMNS.replace("tags", "if(empty(tags), NULL, toJSONString(tags)) AS tags")
        result = self.chdb.query(f"SELECT {columns} FROM icebergLocal('{folder}')", "ArrowTable")
        rows = zip(*(result.column(i).to_pylist() for i in range(result.num_columns)))
        return ([*row[:-1], None if row[-1] is None else json.loads(row[-1])] for row in rows)


class Spark:
    """Runs in its own environment, because its pins contradict the others'."""
    name = "spark"

    def __init__(self, python):
        self.process = subprocess.Popen([python, os.path.join(os.path.dirname(os.path.abspath(__file__)), "spark.py")],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open("/dev/null", "w"), text=True)
        self.version = self.ask({"do": "version"})

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("Spark has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["answer"]

    def read(self, folder):
        return self.ask({"do": "read", "folder": folder, "columns": COLUMNS})

    def sql(self, folder, statement):
        return self.ask({"do": "sql", "folder": folder, "sql": statement})


class Lake:
    """One table, written through the program."""

    def __init__(self, binary, server, home, mode, partitioned):
        self.binary, self.server = binary, server
        self.database = f"interop_{mode}_{'parts' if partitioned else 'whole'}"
        self.home = os.path.join(home, self.database)
        os.makedirs(self.home)
        server.sql("postgres", f"CREATE DATABASE {self.database}")
        self.sql("""CREATE TABLE t (id bigint PRIMARY KEY, city text, amount numeric(12,2), price float8, moment timestamptz, born date, flag bool, note text, tags text[], updated int);
            INSERT INTO t SELECT i, 'c' || i % 5, i / 7.0, i / 3.0, '1969-12-01Z'::timestamptz + i * interval '37 minutes', '1960-01-01'::date + i, i % 3 = 0,
                nullif('note ' || i % 10, 'note 0'), ARRAY['a' || i, NULL], i FROM generate_series(1, 5000) i""")
        self.write("source.json", {"host": server.home, "port": server.port, "database": self.database, "username": "postgres"})
        self.write("destination.json", {"type": "ICEBERG", "writer": {"catalog_type": "filesystem", "iceberg_s3_path": f"{self.home}/lake", "delete_files": mode}})
        self.run("discover", "--config", "source.json", "--streams", "streams.json")
        streams = json.load(open(f"{self.home}/streams.json"))
        for entry in streams["streams"]:
            entry["stream"].update(sync_mode="incremental", cursor_field="updated")
        for entry in streams["selected_streams"]["public"]:
            entry["partition_regex"] = "/{city, identity}/{moment, month}/{id, bucket[2]}" if partitioned else ""
        self.write("streams.json", streams)
        self.round = 0
        stream = streams["streams"][0]["stream"]
        self.folder = f"{self.home}/lake/{stream['destination_database'].replace(':', '_')}/{stream['destination_table']}"

    def write(self, name, value):
        json.dump(value, open(f"{self.home}/{name}", "w"))

    def sql(self, statement):
        return self.server.sql(self.database, statement)

    def run(self, *arguments):
        done = subprocess.run([self.binary, *arguments], cwd=self.home, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"lakeward {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")

    def sync(self):
        self.run("sync", "--config", "source.json", "--streams", "streams.json", "--destination", "destination.json", "--state", "state.json")

    def change(self):
        self.round += 1
        r = self.round
        self.sql(f"""UPDATE t SET city = 'c' || (id + {r}) % 5, amount = amount + {r}, note = 'round {r}', moment = moment + interval '40 days', updated = 1000000 * {r} + id WHERE id % 7 = {r};
            INSERT INTO t (id, city, updated) SELECT 100000 + {r} * 100 + i, 'new', 1000000 * {r} + i FROM generate_series(1, 20) i""")
        self.sync()

    def truth(self):
        fields = self.sql(f"SELECT json_build_array({COLUMNS.replace('moment,', 'moment AT TIME ZONE $$UTC$$,').replace('amount,', 'amount::text,').replace('price,', 'price::text,')}) FROM t").splitlines()
        result = []
        for line in fields:
            row = json.loads(line)
            row[3] = None if row[3] is None else float(row[3])
            row[4] = None if row[4] is None else dt.datetime.fromisoformat(row[4])
            result.append(row)
        return rows(result)


def judge(reader, folder, expected):
    try:
        found = rows(reader.read(folder))
    except Exception as e:  # whatever a reader says, it does not read the table
        return "refuses", f"{type(e).__name__}: {str(e).splitlines()[0][:160] if str(e) else ''}"
    if found == expected:
        return "ok", ""
    return "wrong", f"{len(found)} rows instead of {len(expected)}; first difference: {next((p for p in zip(found, expected) if p[0] != p[1]), None)}"


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--binary", required=True)
    options.add_argument("--spark-python", required=True)
    options = options.parse_args()
    import server as servers
    home = tempfile.mkdtemp(prefix="lakeward-interop-", dir="/var/tmp")
    os.chmod(home, 0o755)
    servers.HOME = os.path.join(home, "postgres")
    os.makedirs(servers.HOME)
    server = servers.Server()
    server.home = servers.HOME
    problems = []
    try:
        readers = [Spark(options.spark_python), DuckDb(), ClickHouse(), PyIceberg()]
        table = {}
        for mode in MODES:
            for partitioned in (False, True):
                lake = Lake(options.binary, server, home, mode, partitioned)
                lake.sync()
                for step in range(4):
                    if step:
                        lake.change()
                    expected = lake.truth()
                    for reader in readers:
                        verdict, why = judge(reader, lake.folder, expected)
                        known = KNOWN.get((reader.name, mode, partitioned), "ok") if step else "ok"
                        where = f"{reader.name} {reader.version}, {mode}, {'partitioned' if partitioned else 'unpartitioned'}, after {step} changes"
                        if verdict != known:
                            problems.append(f"{where}: {verdict}, expected {known}: {why}")
                        print(f"{where}: {verdict} {why if verdict == known else '<<< ' + why}", flush=True)
                        table[(reader.name, mode, partitioned)] = verdict
                # Others write between our commits.
                spark = readers[0]
                spark.sql(lake.folder, "DELETE FROM $table WHERE id BETWEEN 4000 AND 4100")
                lake.sql("DELETE FROM t WHERE id BETWEEN 4000 AND 4100")
                spark.sql(lake.folder, "CALL $catalog.system.rewrite_data_files(table => '$name', options => map('rewrite-all', 'true'))")
                lake.change()
                expected = lake.truth()
                for reader in readers:
                    verdict, why = judge(reader, lake.folder, expected)
                    known = KNOWN.get((reader.name, mode, partitioned), "ok")
                    if verdict != known:
                        problems.append(f"{reader.name}, {mode}, after Spark's DELETE and compaction and our next change: {verdict}, expected {known}: {why}")
        print("\n| reader | version | " + " | ".join(f"{m}{', partitioned' if p else ''}" for m in MODES for p in (False, True)) + " |")
        print("|---|---|" + "---|" * 6)
        for reader in readers:
            print(f"| {reader.name} | {reader.version} | " + " | ".join(table[(reader.name, m, p)] for m in MODES for p in (False, True)) + " |")
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


main()
