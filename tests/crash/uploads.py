"""A real daemon that crashes again and again under a random workload, and is started again on what is left.

Either it is killed with SIGKILL, or the power goes: its state lies on an ext4 image, the daemon is stopped with SIGSTOP,
the image is copied while it is mounted, and the copy is what the next start finds. Of a copy, only what was synced can be
relied upon.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "compat"))

from harness import Bench, Checks  # noqa: E402
from local_cloud import LocalCloud  # noqa: E402
from tidegate_app import App, Daemon  # noqa: E402
from workload import EXTRA, PASSWORD, UPLOAD, USERS, PartCount, Workload  # noqa: E402
from workload import check_acknowledged, judge, settle, sign_in  # noqa: E402

# From right after the start to well into the transfers.
CRASH_AFTER_S = (0.02, 1.5)
IMAGE_BYTES = 3 << 30


class Kills:
    """SIGKILL: what the kernel has is kept."""

    noun = "kills"

    def prepare(self, bench, folder):
        pass

    def crash(self, bench, daemon):
        bench.stop(daemon.process, signal.SIGKILL)

    def recover(self):
        pass

    def close(self):
        pass


class PowerCuts:
    """What was on the disk at that moment: an ext4 image that is copied while the stopped daemon has it mounted."""

    noun = "power cuts"

    def __init__(self):
        self.folder = self.image = self.after = None
        self.number = 0

    def prepare(self, bench, folder):
        self.folder = folder
        folder.mkdir()
        self.image = bench.dir / "disk-0.img"
        with open(self.image, "wb") as image:
            image.truncate(IMAGE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", str(self.image)], check=True)
        self.mount()

    def mount(self):
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.folder)], check=True)

    def crash(self, bench, daemon):
        daemon.process.send_signal(signal.SIGSTOP)
        self.number += 1
        copy = bench.dir / f"disk-{self.number}.img"
        subprocess.run(["cp", "--sparse=always", str(self.image), str(copy)], check=True)
        bench.stop(daemon.process, signal.SIGKILL)
        self.after = copy

    def recover(self):
        """Once nobody writes to the old disk any more."""
        subprocess.run(["umount", str(self.folder)], check=True)
        self.image.unlink()
        self.image = self.after
        self.mount()

    def close(self):
        if self.folder and os.path.ismount(self.folder):
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


def run(bench, checks, disaster, times, seed):
    rng = random.Random(seed)
    cloud = LocalCloud(bench)
    for user in USERS:
        cloud.make_user(user, PASSWORD, "free-tier")
    config = UPLOAD + cloud.config()
    disaster.prepare(bench, bench.dir / "daemon")
    daemon = Daemon(bench, "daemon", config, EXTRA)
    app = App(daemon.socket)
    for user in USERS:
        sign_in(app, user)
    app.close()
    workload = Workload(daemon.socket, daemon.photos, rng.random())
    parts, lost, startup_s = PartCount(cloud), [], []
    for number in range(1, times + 1):
        stop = threading.Event()
        threads = workload.run(stop)
        time.sleep(rng.uniform(*CRASH_AFTER_S))
        disaster.crash(bench, daemon)
        stop.set()
        for thread in threads:
            thread.join()
        disaster.recover()
        workload.restore_files()
        parts.read()
        began = time.monotonic()
        daemon.start(config)
        startup_s.append(time.monotonic() - began)
        app = App(daemon.socket)
        check_acknowledged(app, workload, lost)
        app.close()
        if number % 10 == 0:
            acknowledged = sum(photo.acknowledged for photo in workload.photos)
            print(f"  {number} {disaster.noun}: {len(workload.photos)} photos, {acknowledged} acknowledged", flush=True)
    settle(daemon, workload)
    parts.read()
    judge(checks, cloud, daemon, workload, parts, lost, times, config)
    startup_s.sort()
    print(f"  restarts took {startup_s[len(startup_s) // 2]:.2f} s in the middle, {startup_s[-1]:.2f} s at most")
    print(f"  the workload: {dict(workload.calls)}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tidegate", required=True, help="the program under test")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--kills", type=int, help="crash this often by SIGKILL")
    how.add_argument("--power-cuts", type=int, help="crash this often by a power cut; needs root for mounts")
    parser.add_argument("--seed", type=int, default=None, help="repeats a workload, as far as the kernel lets it")
    options = parser.parse_args()
    times = options.kills or options.power_cuts
    disaster = Kills() if options.kills else PowerCuts()
    title = f"uploads under {times} {disaster.noun}"
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"{title}, seed {seed}", flush=True)
    bench, checks = Bench(options.tidegate), Checks()
    if options.power_cuts and (os.geteuid() != 0 or not shutil.which("mkfs.ext4")):
        checks.skip(title, "mounting an ext4 image needs root and mkfs.ext4")
    else:
        try:
            run(bench, checks, disaster, times, seed)
        except Exception:  # noqa: BLE001 - whatever it was, the count must come
            checks.ok("the run reached its end", False, traceback.format_exc())
    if checks.failed:
        print(f"---- the end of the daemon's log\n{bench.log('daemon')[-6000:]}")
    for _, process in bench.processes:
        bench.stop(process)
    disaster.close()
    bench.close()
    print(f"compat: {title}: {checks.passed} passed, {checks.failed} failed, {checks.skipped} skipped")
    sys.exit(checks.failed != 0)


if __name__ == "__main__":
    main()
