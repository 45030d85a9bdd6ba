"""One round of crashes: a daemon and a cloud of their own, a plan of crashes, and what was found in the end, as JSON."""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "compat"))

import grpc  # noqa: E402
from harness import Bench, Failed, wait_until  # noqa: E402
from local_cloud import LocalCloud  # noqa: E402
from tidegate_app import App, Daemon, new_ulid  # noqa: E402
from uploads import FIRST_START, STARTING, TRIES, step_of  # noqa: E402
from workload import EXTRA, OPERATION_FOR, PASSWORD, UPLOAD, USERS, PartCount, Workload  # noqa: E402
from workload import check_acknowledged, judge, settle, sign_in  # noqa: E402

# How long the workload may take to reach a point.
REACH_S = 4
IMAGE_BYTES = 3 << 30
# The file system writes back by itself only long after the round is over; `writeback` shows what was never written.
MOUNTS = ("commit=600", "commit=600,data=writeback")
SHARED_MEMORY = pathlib.Path("/dev/shm")


class Kills:
    """SIGKILL: what the kernel has is kept."""

    noun = "kills"

    def prepare(self, folder):
        folder.mkdir()

    def crash(self, bench, daemon):
        bench.stop(daemon.process, signal.SIGKILL)

    def recover(self, workload):
        pass

    def close(self):
        pass


class PowerCuts:
    """What was on the disk at that moment: an ext4 image that is copied while the stopped daemon has it mounted."""

    noun = "power cuts"

    def __init__(self, bench, number):
        # In memory where there is room: copying is what takes the time.
        roomy = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > 4 * IMAGE_BYTES
        self.images = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-disk-", dir=SHARED_MEMORY if roomy else bench.dir))
        self.options = MOUNTS[number % len(MOUNTS)]
        self.folder = self.image = self.after = None
        self.number = 0

    def prepare(self, folder):
        self.folder = folder
        folder.mkdir()
        self.image = self.images / "disk-0.img"
        with open(self.image, "wb") as image:
            image.truncate(IMAGE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", str(self.image)], check=True)
        self.mount()

    def mount(self):
        subprocess.run(["mount", "-o", f"loop,{self.options}", str(self.image), str(self.folder)], check=True)

    def crash(self, bench, daemon):
        daemon.process.send_signal(signal.SIGSTOP)
        self.number += 1
        copy = self.images / f"disk-{self.number}.img"
        subprocess.run(["cp", "--sparse=always", str(self.image), str(copy)], check=True)
        bench.stop(daemon.process, signal.SIGKILL)
        self.after = copy

    def recover(self, workload):
        """Once nobody writes to the old disk any more."""
        # A lazy unmount would leave the loop device behind; a file that a worker still has open closes soon.
        wait_until("the old disk being let go", self.unmount)
        self.image.unlink()
        self.image = self.after
        self.mount()
        workload.restore_files()

    def unmount(self):
        return subprocess.run(["umount", str(self.folder)], capture_output=True).returncode == 0

    def close(self):
        if self.folder and os.path.ismount(self.folder):
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)
        shutil.rmtree(self.images, ignore_errors=True)


class Round:
    def __init__(self, bench, disaster, plan, without):
        self.bench = bench
        self.disaster = disaster
        self.rng = random.Random(plan["seed"])
        self.crashes = collections.deque((point, at, 1) for point, at in plan["crashes"])
        self.reached = collections.Counter()
        self.startups = []
        self.crashed = 0
        self.env = {"TIDEGATE_FAILPOINT": f"{without}.before:1:skip"} if without else {}
        self.cloud = LocalCloud(bench)
        for user in USERS:
            self.cloud.make_user(user, PASSWORD, "free-tier")
        self.config = UPLOAD + self.cloud.config()
        disaster.prepare(bench.dir / "daemon")

    def run(self):
        self.daemon = Daemon(self.bench, "daemon", self.config, EXTRA, start=False)
        while self.crashes and (self.crashes[0][0] or "").startswith(FIRST_START):
            point, at, _ = self.crashes.popleft()
            # There is nothing to lose yet.
            for old in ("state", "key"):
                shutil.rmtree(self.daemon.dir / old, ignore_errors=True)
            self.dies_starting(point, at)
        self.daemon.start(self.config, self.env)
        app = App(self.daemon.socket)
        for user in USERS:
            sign_in(app, user)
        app.close()
        workload = Workload(self.daemon.socket, self.daemon.photos, self.rng.random())
        parts, lost = PartCount(self.cloud), []
        self.disaster.crash(self.bench, self.daemon)
        self.disaster.recover(workload)
        while self.crashes:
            point, at, tries = self.crashes.popleft()
            if point and step_of(point) in STARTING:
                if step_of(point) == "sweep-remove":
                    (self.daemon.dir / "state" / "spool" / new_ulid()).write_bytes(b"nobody's")
                self.dies_starting(point, at)
            elif self.start_and_check(workload, lost, point, at):
                self.crash_under_load(workload, point, at, tries)
                self.disaster.recover(workload)
            parts.read()
        self.start_and_check(workload, lost)
        settle(self.daemon, workload)
        parts.read()
        figures, problems = judge(self.cloud, self.daemon, workload, parts, lost, self.crashed, self.config)
        figures[self.disaster.noun] = self.crashed
        swept = re.findall(r'"orphan_files":(\d+)', self.bench.log("daemon"))
        figures["swept"] = sum(map(int, swept))
        return {"figures": figures, "problems": problems, "reached": self.reached, "startups": self.startups}

    def start_and_check(self, workload, lost, point=None, at=None):
        """Starts on what is left; False where the point was reached before the workload went on."""
        env = {"TIDEGATE_FAILPOINT": f"{point}:{at}"} if point else self.env
        began = time.monotonic()
        app = None
        try:
            self.daemon.start(self.config, env)
            self.startups.append(time.monotonic() - began)
            app = App(self.daemon.socket)
            check_acknowledged(app, workload, lost)
            return True
        except (Failed, grpc.RpcError):
            wait_until("the end of a daemon that does not answer", lambda: self.daemon.process.poll() is not None)
            if not point or self.daemon.process.poll() != -signal.SIGKILL:
                raise
            self.reached[point] += 1
            self.crashed += 1
            return False
        finally:
            if app:
                app.close()

    def dies_starting(self, point, at):
        self.daemon.spawn(self.config, {"TIDEGATE_FAILPOINT": f"{point}:{at}"})
        ended = self.daemon.process.wait(30)
        if ended != -signal.SIGKILL:
            raise Failed(f"a start that was to die at {point} ended with {ended}:\n{self.bench.log('daemon')[-2000:]}")
        self.reached[point] += 1
        self.crashed += 1

    def crash_under_load(self, workload, point, at, tries):
        stop = threading.Event()
        threads = workload.run(stop, OPERATION_FOR.get(step_of(point)) if point else None)
        if point is None:
            time.sleep(at)
        else:
            end = time.monotonic() + REACH_S
            while self.daemon.process.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
        ended = self.daemon.process.poll()
        if point and ended == -signal.SIGKILL:
            self.reached[point] += 1
        elif ended is not None:
            raise Failed(f"the daemon ended by itself with {ended}")
        elif point and tries < TRIES:
            self.crashes.append((point, 1, tries + 1))
        self.disaster.crash(self.bench, self.daemon)
        self.crashed += 1
        stop.set()
        for thread in threads:
            thread.join()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tidegate", required=True)
    parser.add_argument("--plan", required=True, type=pathlib.Path)
    parser.add_argument("--power-cuts", action="store_true")
    parser.add_argument("--without")
    options = parser.parse_args()
    plan = json.loads(options.plan.read_text())
    bench, result = Bench(options.tidegate), None
    disaster = PowerCuts(bench, plan["number"]) if options.power_cuts else Kills()
    try:
        result = Round(bench, disaster, plan, options.without).run()
    except Exception:  # noqa: BLE001 - whatever it was, the log must come
        traceback.print_exc()
    if result is None or result["problems"]:
        print(f"---- the end of the daemon's log\n{bench.log('daemon')[-4000:]}")
    for _, process in bench.processes:
        bench.stop(process)
    disaster.close()
    bench.close()
    if result is not None:
        options.plan.with_name(f"{options.plan.name}.result").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
