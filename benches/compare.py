"""Measures Tidegate and other clients side by side: see benches/compare, which builds what this needs and calls it."""

import argparse
import json
import os
import pathlib
import shlex
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

from harness import Bench, Failed, clean_environment, free_port, wait_until  # noqa: E402
from local_cloud import LocalCloud  # noqa: E402

SINK_CORE, CLIENT_CORE = 0, 1
USER, PASSWORD = "bench@example.com", "Correct-Horse-7"
GIB = 1024**3
PHOTOS, PHOTO_BYTES = 200, 3 * 1024**2
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
COLD_STARTS = 10


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


class Sink:
    """benches/s3-sink: takes everything over TLS and forgets it, so that the client is what is measured."""

    def __init__(self, bench, program):
        port = free_port()
        tls = bench.dir / "tls"
        self.ca = tls / "ca.pem"
        process = bench.start("sink", pinned(SINK_CORE, [program, "--tls", str(tls), str(port)]))
        bench.wait_for_port("sink", process, port)
        self.url = f"https://localhost:{port}"

    def bytes_received(self):
        trust = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(f"{self.url}/__stats", context=trust, timeout=10) as reply:
            return json.load(reply)["bytes_received"]

    def environment(self):
        return {
            **clean_environment(),
            "SSL_CERT_FILE": str(self.ca),
            "AWS_CA_BUNDLE": str(self.ca),
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "y",
        }


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


def run_program(sink, argv, sent_bytes):
    """A client that starts, sends and ends: its own times and memory, start-up included."""
    start = time.monotonic()
    process = subprocess.Popen(
        pinned(CLIENT_CORE, argv), env=sink.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
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

    def __init__(self, bench, cloud, sink, options, photos):
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
file_roots = ["{photos}"]
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
        self.process = self.bench.start("daemon", argv)
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
        """Core-seconds and memory of the daemon's process for one batch of files."""
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # the peak starts anew
        before = self.cpu_s()
        answer = self.drive(how, "free", *files)
        sent = sum(os.path.getsize(file) for file in files)
        return Figures(answer["wall_s"], self.cpu_s() - before, status_bytes(self.process.pid, "VmHWM"), sent)


def make_files(folder):
    """One file of 1 GiB and 200 photos, of bytes that do not compress, warm in the page cache."""
    folder.mkdir()
    block = os.urandom(8 * 1024**2)
    large = folder / "large.bin"
    with open(large, "wb") as file:
        for number in range(GIB // len(block)):
            file.write(number.to_bytes(8, "big") + block[8:])
    photos = folder / "photos"
    photos.mkdir()
    for number in range(PHOTOS):
        (photos / f"photo-{number:03}.jpg").write_bytes(number.to_bytes(8, "big") + block[8:PHOTO_BYTES])
    return large, sorted(photos.iterdir())


def run(bench, options):
    large, photos = make_files(bench.dir / "files")
    sink = Sink(bench, options.sink)
    cloud = LocalCloud(bench)
    cloud.make_user(USER, PASSWORD, "free-tier")
    gateway = Gateway(bench, cloud, sink, options, bench.dir / "files")
    aws_config = bench.dir / "aws-config"
    aws_config.write_text("[default]\ns3 =\n    preferred_transfer_client = crt\n")
    s5cmd = [bench.tool("s5cmd"), "--no-verify-ssl", "--endpoint-url", sink.url]
    aws = ["env", f"AWS_CONFIG_FILE={aws_config}", bench.tool("aws"), "s3"]
    folder = photos[0].parent
    photo_bytes = PHOTOS * PHOTO_BYTES

    one = {
        "tidegate, by path": lambda: gateway.measure("create", [large]),
        "tidegate, by stream": lambda: gateway.measure("stream", [large]),
        "s5cmd": lambda: run_program(sink, [*s5cmd, "cp", str(large), "s3://bench/large"], GIB),
        "aws cli with crt": lambda: run_program(sink, [*aws, "cp", str(large), "s3://bench/large", "--quiet"], GIB),
    }
    many = {
        "tidegate, by path": lambda: gateway.measure("create", photos),
        "tidegate, by stream": lambda: gateway.measure("stream", photos),
        "s5cmd": lambda: run_program(sink, [*s5cmd, "cp", f"{folder}/*", "s3://bench/photos/"], photo_bytes),
        "aws cli with crt": lambda: run_program(
            sink, [*aws, "cp", "--recursive", str(folder), "s3://bench/photos", "--quiet"], photo_bytes
        ),
    }
    for peer in options.peer:
        name, _, command = peer.partition("=")
        one[name] = lambda c=command: run_program(sink, [*shlex.split(c), str(large)], GIB)
        many[name] = lambda c=command: run_program(sink, [*shlex.split(c), *map(str, photos)], photo_bytes)

    for title, clients in (("one file of 1 GiB", one), (f"{PHOTOS} photos of 3 MiB", many)):
        runs = {name: [] for name in clients}
        for _ in range(options.runs):
            for name, measure in clients.items():
                before = sink.bytes_received()
                figures = measure()
                received = sink.bytes_received() - before
                if received != figures.sent_bytes:
                    raise Failed(f"{name} was to send {figures.sent_bytes} bytes, {received} arrived")
                runs[name].append(figures)
        print(f"\n{title:<24} {'wall s':>8} {'cores s':>8} {'cores s/GiB':>12} {'peak MiB':>10}   median of {options.runs}")
        for name, figures in runs.items():
            print(f"  {name:<22} {Figures.median(figures).row()}", flush=True)

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
    for needed in ("tidegate", "gateway", "sink"):
        arguments.add_argument(f"--{needed}", required=True)
    arguments.add_argument("--profile", default="release", help="of the builds; a debug build says nothing about speed")
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--peer", action="append", default=[], help="NAME=COMMAND; the files are appended")
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
