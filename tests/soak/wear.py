"""What uploads cost the device's flash: bytes that the daemon writes to its state directory, which lies on a disk of its
own (an ext4 image), for photos of several sizes, streamed and as files.

Two counts: what the process has written, as the kernel accounts it (whole pages, so a little more than the bytes), and
what reached the disk with everything that the file system adds. The bounds are for the first one: streamed 1.1 times the
bytes and 64 KiB; files 64 KiB, or a hundredth of the bytes where that is more (each part is noted in a commit of its own).
"""

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "compat"), str(TESTS / "crash")]

from harness import Bench, play, wait_until  # noqa: E402
from judges import BUCKET  # noqa: E402
from local_cloud import LocalCloud  # noqa: E402
from tidegate_app import App, Daemon  # noqa: E402
from workload import PASSWORD, USERS, sign_in  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
# Size and how many of them.
CASES = [(KIB, 200), (3 * MIB, 40), (40 * MIB, 5), (64 * MIB, 4), (256 * MIB, 2)]
QUICK_CASES = [(KIB, 80), (3 * MIB, 12), (40 * MIB, 3), (64 * MIB, 1)]
FLAT_BYTES = 64 * KIB
IMAGE_BYTES = 2 << 30
SHARED_MEMORY = pathlib.Path("/dev/shm")
SECTOR_BYTES = 512
EXTRA = '[telemetry]\nlog_filter = "warn"\n'


class Disk:
    """A disk of its own, whose writes can be counted."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True)
        roomy = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > 2 * IMAGE_BYTES
        self.images = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-wear-", dir=SHARED_MEMORY if roomy else None))
        image = self.images / "disk.img"
        with open(image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        # Nothing is left for the kernel to initialise later.
        lazy = "lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", lazy, str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
        device = subprocess.run(["findmnt", "-no", "SOURCE", str(folder)], check=True, capture_output=True, text=True)
        self.stat = pathlib.Path("/sys/block") / pathlib.Path(device.stdout.strip()).name / "stat"

    def written(self):
        """Bytes that have reached the disk, once everything is written back."""
        subprocess.run(["sync", "-f", str(self.folder)], check=True)
        return int(self.stat.read_text().split()[6]) * SECTOR_BYTES

    def close(self):
        wait_until("the disk being let go", lambda: subprocess.run(["umount", str(self.folder)]).returncode == 0)
        shutil.rmtree(self.images, ignore_errors=True)


def process_wrote(pid):
    lines = pathlib.Path(f"/proc/{pid}/io").read_text().splitlines()
    counts = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    return counts["write_bytes"] - counts["cancelled_write_bytes"]


def shown(size):
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def run(bench, checks, options):
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        return checks.skip("bytes written for each byte uploaded", "mounting an ext4 image needs root and mkfs.ext4")
    cloud = LocalCloud(bench, arguments=["--log-filter", "warn"])
    cloud.make_user(USERS[0], PASSWORD, "free-tier")
    disk = Disk(bench.dir / "daemon" / "state")
    try:
        daemon = Daemon(bench, "daemon", cloud.config(), EXTRA)
        app = App(daemon.socket)
        sign_in(app, USERS[0])
        app.close()
        print(f"  {'':22}{'uploads':>8}{'each, process':>16}{'factor':>9}{'each, disk':>14}")
        for size, count in QUICK_CASES if options.quick else CASES:
            for how in ("stream", "file"):
                measure(checks, cloud, daemon, disk, size, count, how)
        checks.equal("the daemon stops in order", daemon.stop(), 0)
    finally:
        for _, process in bench.processes:
            bench.stop(process)
        disk.close()


def measure(checks, cloud, daemon, disk, size, count, how):
    path, content = daemon.photos / "photo.jpg", os.urandom(size)
    path.write_bytes(content)
    # The photo lies on another disk: its own write-back must be over, or the daemon's sync of it would do it.
    os.sync()
    daemon.restart(cloud.config())
    pid, app = daemon.process.pid, App(daemon.socket)
    # What a start costs, with new credentials, is not an upload's.
    app.stream("free/first.jpg", b"photo")
    before, disk_before = process_wrote(pid), disk.written()
    for number in range(count):
        key = f"free/{how}-{size}-{number}.jpg"
        _, said = app.create(key, path) if how == "file" else app.stream(key, content)
        if said != "SUCCEEDED":
            raise AssertionError(f"{key}: {said}")
    app.close()
    # To the end of the process: what the journal's log holds is written into the journal with it.
    daemon.process.send_signal(signal.SIGTERM)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    each, on_disk = (process_wrote(pid) - before) / count, (disk.written() - disk_before) / count
    daemon.start(cloud.config())
    for key in cloud.keys():
        cloud.admin_s3.delete_object(Bucket=BUCKET, Key=key)
    bound = 1.1 * size + FLAT_BYTES if how == "stream" else max(FLAT_BYTES, 0.01 * size)
    print(f"  {how:8}{shown(size):>14}{count:>8}{each / KIB:12.0f} KiB{each / size:9.3f}{on_disk / KIB:10.0f} KiB", flush=True)
    checks.ok(f"{how} of {shown(size)}: {each / KIB:.0f} KiB written", each <= bound, f"at most {bound / KIB:.0f} KiB")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tidegate", required=True, help="the program under test")
    parser.add_argument("--wear", action="store_true", help="(how tests/soak/run finds this)")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller uploads")
    options = parser.parse_args()
    play("wear", Bench(options.tidegate), lambda bench, checks: run(bench, checks, options))


if __name__ == "__main__":
    main()
