"""The private PostgreSQL server of the benchmark, and what it cost.

It listens on a Unix socket and a free port of 127.0.0.1, runs as a user without rights, and keeps its data between runs, because loading takes
longer than measuring.
"""

import glob, os, shutil, signal, socket, subprocess, time

HOME = "/var/tmp/lakeward-bench"
OPTIONS = ["listen_addresses=127.0.0.1", "shared_buffers=2GB", "max_wal_size=8GB", "max_locks_per_transaction=1024", "autovacuum=off", "jit=off"]


class Server:
    def __init__(self, data="data", options=()):
        self.bin = programs()
        self.data = f"{HOME}/{data}"
        os.makedirs(HOME, exist_ok=True)
        self.user = unprivileged()
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        if not os.path.exists(f"{self.data}/PG_VERSION"):
            command = [f"{self.bin}/initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
            subprocess.run(self.user + command, check=True, stdout=subprocess.DEVNULL, cwd=HOME)
        command = [f"{self.bin}/postgres", "-D", self.data, "-k", HOME, "-p", str(self.port)] + [a for o in [*OPTIONS, *options] for a in ("-c", o)]
        self.process = subprocess.Popen(self.user + command, stdout=open(f"{HOME}/log", "ab"), stderr=subprocess.STDOUT, cwd=HOME)
        for _ in range(200):
            if subprocess.run(self.psql("postgres", "select 1"), capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise SystemExit(f"the server did not start, see {HOME}/log")

    def psql(self, database, sql=None):
        """The command of a psql that runs `sql`, or what it reads."""
        words = ["psql", "-X", "-q", "-A", "-t", "-h", HOME, "-p", str(self.port), "-U", "postgres", "-d", database, "-v", "ON_ERROR_STOP=1"]
        return words + (["-c", sql] if sql else [])

    def sql(self, database, sql):
        return subprocess.run(self.psql(database, sql), check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def script(self, database, sql):
        """Many statements, each a transaction of its own."""
        subprocess.run(self.psql(database), input=sql, check=True, text=True, stdout=subprocess.DEVNULL)

    def url(self, database):
        return f"postgresql://postgres:postgres@127.0.0.1:{self.port}/{database}"

    def version(self):
        return self.sql("postgres", "show server_version").split()[0]

    def cpu(self):
        """CPU seconds of the server's process tree so far, finished backends included."""
        postmaster = self.process.pid  # setpriv has become postgres
        children = open(f"/proc/{postmaster}/task/{postmaster}/children").read().split()
        return times(postmaster, (11, 12, 13, 14)) + sum(times(pid, (11, 12)) for pid in children)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()


def times(pid, fields):
    """The sum of some of the times in /proc/PID/stat, in seconds; of a process that is gone, nothing (its parent has them by then)."""
    try:
        values = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(values[i]) for i in fields) / os.sysconf("SC_CLK_TCK")


def programs():
    """Directory of the newest server's programs."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda p: int(p.split("/")[4]))
    return os.path.dirname(found[-1]) if found else os.path.dirname(shutil.which("initdb"))


def unprivileged():
    """What to put before a command that PostgreSQL refuses to run as root; HOME is given to that user."""
    if os.geteuid() != 0:
        return []
    import pwd
    user = next(u for u in ("postgres", "nobody") if u in {p.pw_name for p in pwd.getpwall()})
    entry = pwd.getpwnam(user)
    os.chown(HOME, entry.pw_uid, entry.pw_gid)
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--pdeathsig", "KILL"]
