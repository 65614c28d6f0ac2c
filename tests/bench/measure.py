"""What a run cost: wall time, CPU and memory of the whole process tree, and what others took of the machine meanwhile."""

import os, subprocess, threading, time
from dataclasses import dataclass

CORES = os.cpu_count()
# Often enough to see a tree at its largest, rarely enough to cost nothing.
LOOK_EVERY = 0.05


@dataclass
class Cost:
    wall: float
    client: float
    server: float
    peak: float  # MB
    others: float  # cores
    out: float = 0.0  # MB of Parquet


class Failed(Exception):
    """A program that ended with an error: the last line of what it said."""


def measured(server, run):
    """Runs `run`, which gives (wall, client CPU, peak MB)."""
    ticks, own, before = busy(), sum(os.times()[:4]), server.cpu()
    wall, client, peak = run()
    ticks, own = busy() - ticks, sum(os.times()[:4]) - own - client
    time.sleep(0.3)  # backends end a moment after their clients
    cost = server.cpu() - before
    return Cost(wall, client, cost, peak, max(0.0, ticks - client - cost - own) / wall)


def busy():
    """CPU seconds that the machine has worked since it started."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(n) for n in open("/proc/stat").readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def spawn(command, log, **how):
    """Runs a program to its end: (wall, CPU, peak MB). The kernel's accounting (wait4) has the CPU of children that were waited for too, and the
    largest process; the sum over a tree is looked at from outside."""
    started = time.monotonic()
    with open(log, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **how)
    peaks, over = [0], threading.Event()
    watcher = threading.Thread(target=watch, args=(process.pid, peaks, over))
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    over.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        said = [line for line in open(log, errors="replace").read().splitlines() if line.strip()]
        raise Failed(said[-1].strip()[:300] if said else f"ended with {process.returncode}")
    return wall, usage.ru_utime + usage.ru_stime, max(usage.ru_maxrss, peaks[0]) / 1024


def watch(pid, peaks, over):
    """The largest sum of the resident sizes of a process and its descendants, while it has any."""
    while not over.wait(LOOK_EVERY):
        tree = descendants(pid)
        if len(tree) > 1:
            peaks[0] = max(peaks[0], sum(map(resident, tree)))


def descendants(pid):
    tree = [pid]
    for parent in tree:
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                tree += [int(child) for child in open(f"/proc/{parent}/task/{thread}/children").read().split()]
        except OSError:
            pass
    return tree


def resident(pid):
    """KiB."""
    try:
        return int(open(f"/proc/{pid}/statm").read().split()[1]) * 4
    except OSError:
        return 0
