"""What a process holds, read from outside while it runs, and whether that stayed level."""

import os
import pathlib
import statistics
import threading
import time

MIB = 1 << 20
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
INTERVAL_S = 2
# What is still being filled and warmed up: this share of the run does not count.
WARM_UP_SHARE = 0.2
# By how much the middle of the last quarter may be above the middle of the second one.
GROWTH_MAX = {
    "anonymous memory, MiB": 2,
    "memory, MiB": 4,
    "descriptors": 4,
    "threads": 4,
    "journal, MiB": 1,
    "spool files": 12,
}
# The write-ahead log fills and starts over: it has no slope, but a most.
LOG, LOG_MAX_MIB = "journal's log, MiB", 8


class Gauges(threading.Thread):
    """Samples of a daemon, taken every few seconds until `stop`."""

    def __init__(self, pid, state_dir):
        super().__init__(daemon=True)
        self.pid, self.state_dir = pid, state_dir
        self.samples = []
        self.stopped = threading.Event()
        self.start()

    def run(self):
        while not self.stopped.wait(INTERVAL_S):
            self.samples.append(self.sample())

    def sample(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines()
        status = {name: value.split()[0] for name, _, value in (line.partition(":") for line in status) if value.split()}
        return {
            "anonymous memory, MiB": int(status["RssAnon"]) / 1024,
            "memory, MiB": int(status["VmRSS"]) / 1024,
            "descriptors": len(os.listdir(f"/proc/{self.pid}/fd")),
            "threads": int(status["Threads"]),
            "journal, MiB": size_of(self.state_dir / "journal.db") / MIB,
            LOG: size_of(self.state_dir / "journal.db-wal") / MIB,
            "spool files": len(os.listdir(self.state_dir / "spool")),
        }

    def stop(self):
        self.stopped.set()
        self.join()

    def line(self):
        return ", ".join(f"{name} {shown(value)}" for name, value in self.samples[-1].items())


def size_of(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def shown(value):
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def cpu_s(*pids):
    """Seconds of processor time that these processes have used."""
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def verdict(samples):
    """(table, what grew): the middle of the second quarter beside the middle of the last one."""
    samples = samples[int(len(samples) * WARM_UP_SHARE) :]
    quarter = len(samples) // 4
    if quarter < 2:
        return [], ["too few samples for a verdict"]
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    table, grew = [f"  {'':24}{'early':>9}{'late':>9}{'growth':>9}{'bound':>7}{'most':>9}"], []
    for name in samples[0]:
        early, late = (statistics.median(sample[name] for sample in part) for part in (second, last))
        most = max(sample[name] for sample in samples)
        bound = GROWTH_MAX.get(name)
        level = late - early <= bound if name in GROWTH_MAX else most <= LOG_MAX_MIB
        limit = f"{bound}" if name in GROWTH_MAX else f"({LOG_MAX_MIB})"
        table.append(f"  {name:24}{early:9.1f}{late:9.1f}{late - early:+9.1f}{limit:>7}{most:9.1f}{'' if level else '  GREW'}")
        if not level:
            grew.append(f"{name}: {early:.1f}, then {late:.1f}, {most:.1f} at most")
    return table, grew
