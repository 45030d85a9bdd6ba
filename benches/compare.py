"""Measures Tidegate and other clients side by side: see benches/compare, which builds what this needs and calls it."""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/compat"))

from harness import Bench, Failed, clean_environment, free_port, unit_environment, wait_until  # noqa: E402
from local_cloud import LocalCloud  # noqa: E402

from peers import Sink, TransferManager, all_peers  # noqa: E402
from plot import draw, size_name  # noqa: E402

SINK_CORE, CLIENT_CORE = 0, 1
USER, PASSWORD = "bench@example.com", "Correct-Horse-7"
GIB = 1024**3
PHOTOS, PHOTO_BYTES = 200, 3 * 1024**2
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
COLD_STARTS = 10
# Sizes of the plot, and how many objects of each: enough that it takes a while, few enough for every client.
SIZES = [1024 * 4**step for step in range(11)]
CURVE_FILES, CURVE_BYTES, CURVE_RUNS = 64, 256 * 1024**2, 2


def pinned(core, argv):
    return ["taskset", "-c", str(core), *argv]


class Figures:
    """wall seconds, core-seconds, bytes of peak memory, bytes sent"""

    def __init__(self, wall_s, cpu_s, peak_bytes, sent_bytes):
        self.wall_s, self.cpu_s, self.peak_bytes, self.sent_bytes = wall_s, cpu_s, peak_bytes, sent_bytes

    @staticmethod
    def median(runs):
        middle = lambda name: statistics.median(getattr(run, name) for run in runs)  # noqa: E731
        return Figures(middle("wall_s"), middle("cpu_s"), middle("peak_bytes"), middle("sent_bytes"))

    def row(self):
        return f"{self.wall_s:8.2f} {self.cpu_s:8.2f} {self.cpu_s * GIB / self.sent_bytes:12.2f} {self.peak_bytes / 1024**2:10.1f}"


class StartedSink(Sink):
    """benches/s3-sink: takes everything over TLS and forgets it, so that the client is what is measured."""

    def __init__(self, bench, program):
        port = free_port()
        tls = bench.dir / "tls"
        process = bench.start("sink", pinned(SINK_CORE, [program, "--tls", str(tls), str(port)]))
        bench.wait_for_port("sink", process, port)
        super().__init__(f"https://localhost:{port}", tls / "ca.pem")

    def bytes_received(self):
        trust = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(f"{self.url}/__stats", context=trust, timeout=10) as reply:
            return json.load(reply)["bytes_received"]


def status_bytes(pid, name):
    """A line of /proc/PID/status that counts memory, or None where the process has none any more."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


class PeakMemory(threading.Thread):
    """Reads a process's own high-water mark until it ends; what wait4 says would count this process's memory before exec."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.bytes = pid, 0
        self.start()

    def run(self):
        while (peak := status_bytes(self.pid, "VmHWM")) is not None:
            self.bytes = peak
            time.sleep(0.01)


def run_program(argv, environment, sent_bytes):
    """A client that starts, sends and ends: its own times and memory, start-up included."""
    start = time.monotonic()
    process = subprocess.Popen(
        pinned(CLIENT_CORE, argv), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    memory = PeakMemory(process.pid)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Failed(f"{argv[0]} left with {process.returncode}: {said[-500:]!r}")
    memory.join()
    return Figures(wall_s, usage.ru_utime + usage.ru_stime, memory.bytes, sent_bytes)


class Gateway:
    """A daemon on the client's core whose destination is the sink, and the small client that drives it."""

    def __init__(self, bench, cloud, sink, options, files):
        self.bench, self.client = bench, options.gateway
        self.tidegate = bench.tidegate
        self.dir = bench.dir / "daemon"
        self.dir.mkdir()
        self.socket = self.dir / "tidegate.sock"
        config = cloud.config()
        # Identity from the local cloud, bytes to the sink.
        identity, _, destination = config.partition("[[destination]]")
        destination = destination.replace(f'endpoint_url = "{cloud.url}"', f'endpoint_url = "{sink.url}"')
        (self.dir / "tidegate.toml").write_text(
            f"""
[daemon]
state_dir = "{self.dir}/state"

[api]
socket_path = "{self.socket}"

[session]
seal_key_file = "{self.dir}/key/seal.key"

[telemetry]
log_filter = "warn"

[upload]
file_roots = ["{files}"]
{identity}[[destination]]{destination}ca_file = "{sink.ca}"
"""
        )
        self.start()
        self.drive("sign-in", USER, PASSWORD)

    def start(self):
        """Seconds from the start of the process to the first answer on its socket."""
        self.socket.unlink(missing_ok=True)
        start = time.monotonic()
        argv = pinned(CLIENT_CORE, [self.tidegate, "serve", "--config", str(self.dir / "tidegate.toml")])
        self.process = self.bench.start("daemon", argv, unit_environment())
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(self.socket))
                    break
                except OSError:
                    if self.process.poll() is not None or time.monotonic() - start > 30:
                        raise Failed(f"the daemon did not start:\n{self.bench.log('daemon')[-2000:]}") from None
                    time.sleep(0.0005)
        return time.monotonic() - start

    def stop(self):
        self.bench.stop(self.process, signal.SIGTERM)

    def drive(self, *arguments):
        argv = pinned(CLIENT_CORE, [self.client, str(self.socket), *map(str, arguments)])
        done = subprocess.run(argv, capture_output=True, text=True, env=clean_environment(), timeout=900)
        if done.returncode != 0:
            raise Failed(f"{arguments[0]}: {done.stderr[-1000:]}\n{self.bench.log('daemon')[-2000:]}")
        return json.loads(done.stdout)

    def cpu_s(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def measure(self, how, files):
        """Core-seconds and memory of the daemon's process for one batch of files. It is a new process for each, as every
        other client is; its start is not counted."""
        self.stop()
        self.start()
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # the peak starts anew
        before = self.cpu_s()
        answer = self.drive(how, "free", *files)
        peak = status_bytes(self.process.pid, "VmHWM")
        return Figures(answer["wall_s"], self.cpu_s() - before, peak, total_bytes(files))


def make_files(folder, size, count):
    """Files of bytes that do not compress, no two alike, warm in the page cache."""
    folder.mkdir(parents=True)
    block = os.urandom(min(size, 8 * 1024**2))
    for number in range(count):
        with open(folder / f"{number:03}.jpg", "wb") as file:
            for at in range(0, size, len(block)):
                head = (number << 32 | at // len(block)).to_bytes(8, "big")
                file.write((head + block[8:])[: size - at])
    return sorted(folder.iterdir())


class Contest:
    """Everybody sends the same files, in turn."""

    def __init__(self, sink, gateway, peers):
        self.sink = sink
        self.clients = {
            "tidegate, by path": lambda files: gateway.measure("create", files),
            "tidegate, by stream": lambda files: gateway.measure("stream", files),
        }
        for peer in peers:
            self.clients[peer.name] = lambda files, peer=peer: run_program(
                peer.command(sink, files[0].parent, files), peer.environment(sink), total_bytes(files)
            )

    def add(self, name, command):
        """A client of the caller's; the files are appended to its command."""
        self.clients[name] = lambda files: run_program(
            [*shlex.split(command), *map(str, files)], self.sink.environment(), total_bytes(files)
        )

    def measure(self, name, files):
        before = self.sink.bytes_received()
        figures = self.clients[name](files)
        received = self.sink.bytes_received() - before
        if received != figures.sent_bytes:
            raise Failed(f"{name} was to send {figures.sent_bytes} bytes, {received} arrived")
        return figures

    def table(self, title, files, runs):
        """Measures everybody `runs` times and prints the medians."""
        measured = {name: [] for name in self.clients}
        for _ in range(runs):
            for name, kept in measured.items():
                kept.append(self.measure(name, files))
        print(f"\n{title:<24} {'wall s':>8} {'cores s':>8} {'cores s/GiB':>12} {'peak MiB':>10}   median of {runs}")
        medians = {name: Figures.median(kept) for name, kept in measured.items()}
        for name, figures in medians.items():
            print(f"  {name:<22} {figures.row()}", flush=True)
        return medians

    def curve(self, folder, large, runs):
        """MiB/s of everybody against the size of an object: as many at once as each client does by itself."""
        lines = {name: [] for name in self.clients}
        for size in SIZES:
            count = max(1, min(CURVE_FILES, CURVE_BYTES // size))
            files = [large] if size == GIB else make_files(folder / str(size), size, count)
            for name, points in lines.items():
                best_s = min(self.measure(name, files).wall_s for _ in range(runs))
                points.append((size, total_bytes(files) / best_s / 1024**2))
            if size != GIB:
                shutil.rmtree(folder / str(size))
        print(f"\n{'MiB/s':<24}" + "".join(f"{size_name(size):>9}" for size in SIZES))
        for name, points in lines.items():
            print(f"  {name:<22}" + "".join(f"{rate:9.1f}" for _, rate in points), flush=True)
        return lines


def total_bytes(files):
    return sum(os.path.getsize(file) for file in files)


def print_bounds(one, many):
    """What the design asks for, beside what was measured."""
    by_path, by_stream, manager = one["tidegate, by path"], one["tidegate, by stream"], one[TransferManager.name]
    ratio = by_path.cpu_s / manager.cpu_s
    bounds = [
        ("1 GiB by path: core-seconds, of the transfer manager's", ratio, 0.8, ""),
        ("1 GiB by path: memory", by_path.peak_bytes / 1024**2, 32, " MiB"),
        ("1 GiB by stream: core-seconds", by_stream.cpu_s, 1.25, " s"),
        ("1 GiB by stream: memory", by_stream.peak_bytes / 1024**2, 40, " MiB"),
        ("photos by path: wall, beside the transfer manager", many["tidegate, by path"].wall_s, many[TransferManager.name].wall_s, " s"),
    ]
    print("\nbounds")
    for what, value, bound, unit in bounds:
        print(f"  {what:<56} {value:8.2f}{unit:<4} at most {bound:8.2f}{unit:<4} {'met' if value <= bound else 'NOT MET'}")


def run(bench, options):
    files = bench.dir / "files"
    [large] = make_files(files / "large", GIB, 1)
    photos = make_files(files / "photos", PHOTO_BYTES, PHOTOS)
    sink = StartedSink(bench, options.sink)
    cloud = LocalCloud(bench)
    cloud.make_user(USER, PASSWORD, "free-tier")
    gateway = Gateway(bench, cloud, sink, options, files)
    peers = all_peers(bench, options.transfer_manager)
    print("beside: " + ", ".join(peer.version() for peer in peers))
    contest = Contest(sink, gateway, peers)
    for peer in options.peer:
        contest.add(*peer.split("=", 1))

    one = contest.table("one file of 1 GiB", [large], options.runs)
    many = contest.table(f"{PHOTOS} photos of 3 MiB", photos, options.runs)
    print_bounds(one, many)
    if options.plot:
        lines = contest.curve(files / "curve", large, min(options.runs, CURVE_RUNS))
        note = f"one core for the client, another for the sink over TLS on loopback; programs with their start; {' · '.join(peer.version() for peer in peers)}"
        pathlib.Path(options.plot).write_text(draw("Throughput against object size", note, lines))

    credentials = gateway.drive("credentials")
    print("\ncredentials from the cache, over the socket")
    print(f"  one caller             p50 {credentials['p50_us']} us, p99 {credentials['p99_us']} us")
    print(f"  64 callers             {credentials['calls_per_s']:.0f} calls/s")

    starts = []
    for _ in range(COLD_STARTS):
        gateway.stop()
        starts.append(gateway.start())
    wait_until("the daemon at rest", lambda: time.sleep(2) is None)
    idle = status_bytes(gateway.process.pid, "VmRSS")
    gateway.stop()
    print("\nthe daemon itself")
    print(f"  cold start to ready    {statistics.median(starts) * 1000:.1f} ms (median of {COLD_STARTS})")
    print(f"  idle memory            {idle / 1024**2:.1f} MiB")
    print(f"  size of the program    {os.path.getsize(bench.tidegate) / 1024**2:.1f} MiB")


def main():
    arguments = argparse.ArgumentParser()
    for needed in ("tidegate", "gateway", "sink", "transfer-manager"):
        arguments.add_argument(f"--{needed}", required=True)
    arguments.add_argument("--profile", default="release", help="of the builds; a debug build says nothing about speed")
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--peer", action="append", default=[], help="NAME=COMMAND; the files are appended")
    arguments.add_argument("--plot", help="also measures sizes from 1 KiB to 1 GiB, and draws them into this SVG")
    options = arguments.parse_args()
    bench = Bench(options.tidegate)
    try:
        if options.profile != "release":
            print(f"profile {options.profile}: these figures say nothing about speed")
        run(bench, options)
    except Failed as error:
        sys.exit(f"benches/compare: {error}")
    finally:
        bench.close()


if __name__ == "__main__":
    main()
