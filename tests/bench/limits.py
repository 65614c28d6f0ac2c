"""What no client can beat: the answer of COPY thrown away, and the server's work without anybody to send it to."""

import os, select, socket, struct, subprocess, time

# The reader is woken once for so many bytes and not for each message, which costs the server less as well.
LOWAT = 256 << 10
READY = b"Z\0\0\0\x05I"


def drain(server, case, halves):
    """COPY BINARY over two connections, read and thrown away."""
    return two_processes(halves, lambda queries: drain_stream(server.port, case, queries))


def floor(server, case, halves):
    """COPY BINARY to /dev/null by two backends: their work without a socket."""
    started = time.monotonic()
    sessions = []
    for queries in halves:
        session = subprocess.Popen(server.psql(case), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        session.stdin.write("".join(f"copy ({query}) to '/dev/null' (format binary);\n" for query in queries))
        session.stdin.close()
        sessions.append(session)
    for session in sessions:
        if session.wait() != 0:
            raise SystemExit("a COPY to /dev/null failed")
    return time.monotonic() - started, 0.0, 0.0


def two_processes(halves, work):
    started = time.monotonic()
    pids = []
    for queries in halves:
        pid = os.fork()
        if pid == 0:
            work(queries)
            os._exit(0)
        pids.append(pid)
    cpu = 0.0
    for pid in pids:
        _, status, usage = os.wait4(pid, 0)
        if status != 0:
            raise SystemExit("a drain failed")
        cpu += usage.ru_utime + usage.ru_stime
    return time.monotonic() - started, cpu, 0.0


def drain_stream(port, database, queries):
    s = socket.create_connection(("127.0.0.1", port))
    startup = b"user\0postgres\0database\0%s\0\0" % database.encode()
    s.sendall(struct.pack("!ii", len(startup) + 8, 196608) + startup)
    seen = b""
    while not seen.endswith(READY):
        seen += s.recv(65536)
    if len(queries) == 1:  # many short answers would wait for the mark
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, LOWAT)
    s.setblocking(False)
    poll = select.poll()
    poll.register(s, select.POLLIN)
    buffer = bytearray(1 << 20)
    for query in queries:
        sql = f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()
        s.sendall(b"Q" + struct.pack("!i", len(sql) + 5) + sql + b"\0")
        tail = b""
        while not tail.endswith(READY):
            # The rest of an answer may be less than the mark.
            poll.poll(10)
            try:
                n = s.recv_into(buffer)
            except BlockingIOError:
                continue
            tail = (tail + buffer[max(0, n - 16):n])[-16:]
