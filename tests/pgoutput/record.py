#!/usr/bin/env python3
"""Records what pgoutput sends for one workload: record.py <programs of the server> <major> <corpus directory>.

Each file is a sequence of messages, each behind its length as four big-endian bytes. Runs as a user other than root.
Walsenders read live, because an aborted transaction is streamed only while it is open.
"""
import os, shutil, socket, struct, subprocess, sys, tempfile, threading, time

BIN, MAJOR, OUT = sys.argv[1], int(sys.argv[2]), sys.argv[3]


class Connection:
    def __init__(self, port, database="postgres", replication=False, encoding="UTF8"):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.data = b""
        options = {"user": "postgres", "database": database, "client_encoding": encoding, "TimeZone": "UTC", "datestyle": "ISO"}
        if replication:
            options["replication"] = "database"
        body = struct.pack("!i", 196608) + b"".join(f"{k}\0{v}\0".encode() for k, v in options.items()) + b"\0"
        self.socket.sendall(struct.pack("!i", len(body) + 4) + body)
        self.until(b"Z")

    def send(self, tag, body):
        self.socket.sendall(tag + struct.pack("!i", len(body) + 4) + body)

    def read(self):
        while True:
            if len(self.data) >= 5:
                n = struct.unpack("!i", self.data[1:5])[0] + 1
                if len(self.data) >= n:
                    tag, body, self.data = self.data[:1], self.data[5:n], self.data[n:]
                    return tag, body
            more = self.socket.recv(1 << 16)
            if not more:
                raise EOFError
            self.data += more

    def until(self, end):
        rows, error = [], None
        while True:
            tag, body = self.read()
            if tag == b"E":
                error = body
                if end != b"Z":
                    raise RuntimeError(error)
            elif tag == b"D":
                row, at = [], 2
                for _ in range(struct.unpack("!h", body[:2])[0]):
                    n = struct.unpack("!i", body[at:at + 4])[0]
                    at += 4
                    row.append(None if n < 0 else body[at:at + n].decode())
                    at += max(n, 0)
                rows.append(row)
            if tag == end:
                if error:
                    raise RuntimeError(error.decode(errors="replace").replace("\0", " "))
                return rows

    def sql(self, text):
        self.send(b"Q", (text.encode() if isinstance(text, str) else text) + b"\0")
        return self.until(b"Z")


class Recorder:
    def __init__(self, port, name, slot, options, database="postgres", encoding="UTF8"):
        self.name, self.messages = name, []
        self.streams = "streaming" in options
        self.connection = Connection(port, database, replication=True, encoding=encoding)
        text = ", ".join(f"{k} '{v}'" for k, v in options.items())
        self.connection.send(b"Q", f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({text})\0".encode())
        self.connection.until(b"W")
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                tag, body = self.connection.read()
            except (EOFError, OSError):
                return
            if tag == b"d" and body[:1] == b"w":
                self.messages.append(body[25:])
            elif tag == b"d" and body[17:18] == b"\1":
                self.connection.send(b"d", b"r" + struct.pack("!qqqqb", 0, 0, 0, 0, 0))
            elif tag == b"E":
                print(self.name, body, file=sys.stderr)
                return

    def count(self, kind):
        return sum(m[:1] == kind for m in self.messages)

    def save(self):
        os.makedirs(f"{OUT}/{MAJOR}", exist_ok=True)
        with open(f"{OUT}/{MAJOR}/{self.name}", "wb") as file:
            for m in self.messages:
                file.write(struct.pack("!I", len(m)) + m)


def wait(what, condition):
    for _ in range(400):
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError(what)


def settled(recorder):
    """Parts streamed so far, when no more of them come."""
    while True:
        before = len(recorder.messages)
        time.sleep(0.1)
        if len(recorder.messages) == before:
            return recorder.count(b"E")


BALLAST = "INSERT INTO ballast SELECT g FROM generate_series(1, 1200) g"
BIG = "repeat('0123456789', 210)"

SETUP = [
    'CREATE SCHEMA "Größe"',
    "CREATE TYPE mood AS ENUM ('sad', 'ok')", "CREATE DOMAIN score AS int", "CREATE TYPE pair AS (a int, b text)",
    "CREATE TABLE plain (id int PRIMARY KEY, v text, m mood, s score, p pair, n numeric(12,2), at timestamptz, raw bytea)",
    "CREATE TABLE full_ri (id int, v text, big text)", "ALTER TABLE full_ri ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL",
    "CREATE TABLE index_ri (a int NOT NULL, b int, v text)", "CREATE UNIQUE INDEX by_a ON index_ri (a)",
    "ALTER TABLE index_ri REPLICA IDENTITY USING INDEX by_a",
    "CREATE TABLE nothing_ri (id int, v text)", "ALTER TABLE nothing_ri REPLICA IDENTITY NOTHING",
    "CREATE TABLE toasted (id int PRIMARY KEY, n int, big text)", "ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL",
    'CREATE TABLE "Größe"."naïve ""t""" ("Ключ" int PRIMARY KEY, "sp ace" text)',
    "CREATE TABLE parent (id serial PRIMARY KEY)", "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent)",
    "CREATE TABLE part (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY RANGE (k)",
    "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20)",
    "CREATE TABLE no_columns ()", "CREATE TABLE ballast (x int)",
    f"INSERT INTO toasted VALUES (1, 1, {BIG})", f"INSERT INTO full_ri VALUES (1, 'a', {BIG})",
    "SELECT pg_replication_origin_create('upström')",
    "CREATE TABLE pg_catalog.in_catalog (id int PRIMARY KEY)",
    "CREATE PUBLICATION p FOR TABLE plain, full_ri, index_ri, nothing_ri, toasted, \"Größe\".\"naïve \"\"t\"\"\", parent, child, "
    + ("part" if MAJOR >= 13 else "part_1, part_2") + ", no_columns, pg_catalog.in_catalog"
    + (" WITH (publish_via_partition_root = true)" if MAJOR >= 13 else ""),
]
if MAJOR >= 15:
    SETUP += ["CREATE TABLE filtered (id int PRIMARY KEY, hidden text, v int)",
              "ALTER PUBLICATION p ADD TABLE filtered (id, v) WHERE (id > 10)"]
if MAJOR >= 18:
    SETUP += ["CREATE TABLE made (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)", "ALTER PUBLICATION p ADD TABLE made",
              "ALTER PUBLICATION p SET (publish_generated_columns = stored)"]

PLAIN = [
    # 1: every kind of change.
    "BEGIN", "INSERT INTO plain VALUES (1, 'one', 'ok', 3, (1, 'x'), 12.5, '2024-02-29 12:34:56.789012+00', '\\x00ff')",
    "INSERT INTO plain (id) VALUES (2)", "INSERT INTO plain (id, v) VALUES (3, '')",
    "UPDATE plain SET v = 'uno' WHERE id = 1", "UPDATE plain SET id = 20 WHERE id = 2", "DELETE FROM plain WHERE id = 3", "COMMIT",
    # 2: replica identities and TOAST.
    "BEGIN", "UPDATE full_ri SET v = 'b' WHERE id = 1", "INSERT INTO full_ri VALUES (2, NULL, 'small')", "DELETE FROM full_ri WHERE id = 2",
    "INSERT INTO index_ri VALUES (1, 10, 'a')", "UPDATE index_ri SET v = 'b'", "UPDATE index_ri SET a = 2", "DELETE FROM index_ri",
    "INSERT INTO nothing_ri VALUES (1, 'n')", "UPDATE toasted SET n = 2", "UPDATE toasted SET id = 2", "DELETE FROM toasted", "COMMIT",
    # 3: logical messages; only the one outside of the transaction survives the rollback.
    "BEGIN", "SELECT pg_logical_emit_message(true, 'lw', 'inside')", "INSERT INTO plain (id) VALUES (30)", "COMMIT",
    "BEGIN", "SELECT pg_logical_emit_message(false, 'lw', 'outside')", "INSERT INTO plain (id) VALUES (31)", "ROLLBACK",
    # 4: DDL.
    "BEGIN", "INSERT INTO plain (id) VALUES (40)", "ALTER TABLE plain ADD added int DEFAULT 7", "INSERT INTO plain (id) VALUES (41)",
    "ALTER TABLE plain RENAME v TO w", "INSERT INTO plain (id, w) VALUES (42, 'w')", "COMMIT",
    # 5: truncation.
    "INSERT INTO parent DEFAULT VALUES", "INSERT INTO child VALUES (1, 1)", "TRUNCATE parent RESTART IDENTITY CASCADE", "TRUNCATE child RESTART IDENTITY",
    # 6: partitions.
    "BEGIN", "INSERT INTO part VALUES (1, 1, 'p')", "UPDATE part SET k = 11", "DELETE FROM part", "INSERT INTO part_1 VALUES (2, 2, 'q')",
    "TRUNCATE part", "COMMIT",
    # 7: names.
    'INSERT INTO "Größe"."naïve ""t""" VALUES (1, \'ünï\')', "INSERT INTO no_columns DEFAULT VALUES", "INSERT INTO in_catalog VALUES (1)",
    # 8: savepoints and nothing to publish.
    "BEGIN", "INSERT INTO plain (id) VALUES (80)", "SAVEPOINT a", "INSERT INTO plain (id) VALUES (81)", "ROLLBACK TO a",
    "SAVEPOINT b", "INSERT INTO plain (id) VALUES (82)", "RELEASE b", "COMMIT", "INSERT INTO ballast VALUES (1)",
    # 9: origin.
    "SELECT pg_replication_origin_session_setup('upström')", "BEGIN",
    "SELECT pg_replication_origin_xact_setup('16/B374D848', '2024-02-29 12:00:00+00')", "INSERT INTO plain (id) VALUES (90)", "COMMIT",
    "SELECT pg_replication_origin_session_reset()",
]
if MAJOR >= 15:
    # 10: rows that move across the filter become inserts and deletes.
    PLAIN += ["INSERT INTO filtered VALUES (1, 'h', 1), (11, 'h', 2)", "UPDATE filtered SET id = 12 WHERE id = 1", "UPDATE filtered SET id = 2 WHERE id = 11"]
if MAJOR >= 18:
    PLAIN += ["INSERT INTO made VALUES (4)"]

# STREAM waits until every walsender that streams has begun one more part.
STREAMED = [
    "BEGIN", "INSERT INTO plain (id) VALUES (100)", BALLAST, "STREAM", "SAVEPOINT a", "INSERT INTO plain (id) VALUES (101)", BALLAST, "STREAM",
    "ROLLBACK TO a", "SAVEPOINT b", "ALTER TABLE plain ADD late text", "INSERT INTO plain (id, late) VALUES (102, 'late')",
    "UPDATE plain SET id = 103 WHERE id = 102", "DELETE FROM plain WHERE id = 103", "TRUNCATE parent, child",
    "SELECT pg_logical_emit_message(true, 'lw', 'streamed')", BALLAST, "STREAM", "COMMIT",
    # All of it is void.
    "BEGIN", "INSERT INTO plain (id) VALUES (110)", BALLAST, "STREAM", "ROLLBACK",
    # With an origin.
    "SELECT pg_replication_origin_session_setup('upström')", "BEGIN",
    "SELECT pg_replication_origin_xact_setup('16/B374D850', '2024-02-29 12:00:01+00')", "INSERT INTO plain (id) VALUES (120)", BALLAST, "STREAM", "COMMIT",
    "SELECT pg_replication_origin_session_reset()",
]

TWO_PHASE = [
    "BEGIN", "INSERT INTO plain (id) VALUES (200)", "PREPARE TRANSACTION 'gid é 1'", "COMMIT PREPARED 'gid é 1'",
    "BEGIN", "INSERT INTO plain (id) VALUES (201)", "PREPARE TRANSACTION 'gid 2'", "ROLLBACK PREPARED 'gid 2'",
    "BEGIN", "INSERT INTO plain (id) VALUES (202)", BALLAST, "STREAM", "PREPARE TRANSACTION 'gid 3'", "COMMIT PREPARED 'gid 3'",
    "BEGIN", "INSERT INTO plain (id) VALUES (203)", BALLAST, "STREAM", "PREPARE TRANSACTION 'gid 4'", "ROLLBACK PREPARED 'gid 4'",
]
END = ["INSERT INTO plain (id, w) VALUES (999, 'the end')"]


def configurations():
    v1 = {"proto_version": 1, "publication_names": "p"}
    if MAJOR >= 14:
        v1["messages"] = "true"
    found = {"v1-text": (v1, False)}
    if MAJOR == 14:
        found["v2-streaming-binary"] = ({**v1, "proto_version": 2, "streaming": "on", "binary": "true"}, False)
    if MAJOR == 15:
        found["v3-two-phase-text"] = ({**v1, "proto_version": 3, "streaming": "on", "two_phase": "on"}, True)
    if MAJOR >= 16:
        found["v4-parallel-binary"] = ({**v1, "proto_version": 4, "streaming": "parallel", "binary": "true", "two_phase": "on"}, True)
    return found


def workload(port, work):
    sql = Connection(port)
    for text in SETUP:
        sql.sql(text)
    recorders = []
    for number, (name, (options, two_phase)) in enumerate(configurations().items()):
        sql.sql(f"SELECT pg_create_logical_replication_slot('s{number}', 'pgoutput'{', false, true' if two_phase else ''})")
        recorders.append(Recorder(port, name, f"s{number}", options))
    sql.sql("SELECT pg_create_logical_replication_slot('polled', 'pgoutput')")
    for text in work:
        if text == "STREAM":
            for r in [r for r in recorders if r.streams]:
                wait(f"{r.name}: stream", lambda: seen[r.name] < r.count(b"E"))
                seen[r.name] = settled(r)
        else:
            try:
                sql.sql(text)
            except RuntimeError as error:
                raise RuntimeError(f"{text}: {error}")
            if text == "BEGIN":
                seen = {r.name: settled(r) for r in recorders}
    for r in recorders:
        wait(f"{r.name}: end", lambda: r.messages and r.messages[-1][:1] == b"C" and b"the end" in r.messages[-2])
        r.save()
    options = ", ".join(f"'{k}', '{v}'" for k, v in configurations()["v1-text"][0].items())
    rows = sql.sql(f"SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('polled', NULL, NULL, {options})")
    polled = [bytes.fromhex(row[0]) for row in rows]
    # Relations and types are repeated when caches happen to be emptied.
    rest = [[m for m in messages if m[:1] not in (b"R", b"Y")] for messages in (polled, recorders[0].messages)]
    print(MAJOR, "polled equals live:", polled == recorders[0].messages, "without R and Y:", rest[0] == rest[1])
    for r in recorders:
        kinds = {}
        for m in r.messages:
            kinds[chr(m[0])] = kinds.get(chr(m[0]), 0) + 1
        print(MAJOR, r.name, sum(len(m) + 4 for m in r.messages), kinds)


def other_encoding(port, encoding, raw):
    name = f"other_{encoding.lower()}"
    sql = Connection(port)
    sql.sql(f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    sql = Connection(port, name, encoding="SQL_ASCII" if encoding == "SQL_ASCII" else "LATIN1")
    sql.sql(b"CREATE TABLE t" + raw + b" (id int PRIMARY KEY, v text); CREATE PUBLICATION p FOR TABLE t" + raw)
    sql.sql(f"SELECT pg_create_logical_replication_slot('{encoding.lower()}', 'pgoutput')")
    # With UTF8 as the client's encoding, the walsender of a database without one stops with an error (22021).
    client = "SQL_ASCII" if encoding == "SQL_ASCII" else "UTF8"
    r = Recorder(port, f"v1-{encoding.lower()}", encoding.lower(), {"proto_version": 1, "publication_names": "p"}, name, client)
    sql.sql(b"INSERT INTO t" + raw + b" VALUES (1, '" + raw + b"')")
    wait(r.name, lambda: r.count(b"C") == 1)
    r.save()


def main():
    place = tempfile.mkdtemp(prefix="record")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subprocess.run([f"{BIN}/initdb", "-D", f"{place}/data", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"], check=True, stdout=subprocess.DEVNULL)
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": place, "fsync": "off", "wal_level": "logical",
                "max_prepared_transactions": 10, "max_replication_slots": 20, "max_wal_senders": 20, "autovacuum": "off", "wal_writer_delay": "10ms", "allow_system_table_mods": "on"}
    if MAJOR >= 13:
        settings["logical_decoding_work_mem"] = "64kB"
    log = open(f"{place}/log", "w")
    server = subprocess.Popen([f"{BIN}/postgres", "-D", f"{place}/data"] + [x for k, v in settings.items() for x in ("-c", f"{k}={v}")], stdout=log, stderr=log)
    try:
        def up():
            try:
                Connection(port)
                return True
            except (OSError, EOFError, RuntimeError):
                return False
        wait("server", up)
        workload(port, PLAIN + STREAMED + TWO_PHASE + END)
        if MAJOR == 15:
            other_encoding(port, "SQL_ASCII", b"\xe9")
            other_encoding(port, "LATIN1", b"\xe9")
    except BaseException:
        print("\n".join(line for line in open(f"{place}/log").read().split("\n") if "ERROR" in line), file=sys.stderr)
        raise
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(place)


main()
