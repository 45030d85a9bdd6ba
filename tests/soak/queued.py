"""A device that was offline for weeks: tens of thousands of uploads wait, all taken over the API. How long a start takes
then, how much memory the daemon needs, and how long each page of a listing takes, whatever it is filtered by."""

import argparse
import os
import pathlib
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
import traceback

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "compat"), str(TESTS / "crash")]

import grpc  # noqa: E402
from harness import Bench, http, play  # noqa: E402
from local_cloud import LocalCloud  # noqa: E402
from tidegate_app import App, Daemon, gateway_pb, new_ulid, upload_pb  # noqa: E402
from workload import PASSWORD, USERS, sign_in  # noqa: E402

MIB = 1 << 20
# The bounds for 100,000.
READY_MAX_S, MEMORY_MAX_BYTES, PAGE_MAX_MS = 1.0, 64 * MIB, 10.0
CALLERS = 8
# This share is streamed, so that the spool holds files; the rest are files on the device.
STREAMED_SHARE = 0.5
PHOTO_BYTES = 1000
EXTRA = '[telemetry]\nlog_filter = "warn"\n'
# In memory where that can be: what the disk's syncs cost is no question of this run.
SHARED_MEMORY = pathlib.Path("/dev/shm")
LIST = "/tidegate.v1.UploadService/ListUploads"


def hand_over(daemon, count):
    """Takes all of them, a few callers at a time; answers how many a second."""
    photo = daemon.photos / "photo.jpg"
    photo.write_bytes(random.randbytes(PHOTO_BYTES))
    content, numbers, lock, wrong = photo.read_bytes(), iter(range(count)), threading.Lock(), []

    def caller():
        app = App(daemon.socket)
        try:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    break
                spec = upload_pb.UploadSpec(key=f"free/day-{number // 1000}/photo-{number}.jpg")
                if number < count * STREAMED_SHARE:
                    messages = [
                        upload_pb.UploadRequest(begin={"upload_id": new_ulid(), "spec": spec}),
                        upload_pb.UploadRequest(chunk=content),
                        upload_pb.UploadRequest(finish={"total_bytes": len(content)}),
                    ]
                    app.uploads.Upload(iter(messages), timeout=60)
                else:
                    request = upload_pb.CreateUploadRequest(upload_id=new_ulid(), spec=spec, path=str(photo))
                    app.uploads.CreateUpload(request, timeout=60)
        except Exception:  # noqa: BLE001 - shown by the check
            wrong.append(traceback.format_exc())
        app.close()

    began = time.monotonic()
    callers = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    if wrong:
        raise AssertionError(wrong[0])
    return count / (time.monotonic() - began)


def start(daemon, config):
    """Seconds from the start of the process to its first answer."""
    began = time.monotonic()
    daemon.spawn(config)
    app = App(daemon.socket)
    while True:
        try:
            # The lightest call that needs the journal.
            app.uploads.GetUpload(upload_pb.GetUploadRequest(name=f"uploads/{new_ulid()}"), timeout=5)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                break
            if daemon.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {daemon.process.returncode}") from error
        # A new channel: one that was refused waits before it tries again.
        app.close()
        time.sleep(0.005)
        app = App(daemon.socket)
    took = time.monotonic() - began
    app.close()
    return took


def list_all(app, **filters):
    """(milliseconds of each page, uploads seen); the answers are parsed outside of the time."""
    call, token, times, names = app.channel.unary_unary(LIST), "", [], set()
    while True:
        request = upload_pb.ListUploadsRequest(page_token=token, **filters).SerializeToString()
        began = time.perf_counter()
        answer = call(request, timeout=60)
        times.append((time.perf_counter() - began) * 1000)
        page = upload_pb.ListUploadsResponse.FromString(answer)
        names.update(upload.name for upload in page.uploads)
        token = page.next_page_token
        if not token:
            return times, len(names)


def p99(times):
    return sorted(times)[min(len(times) - 1, int(len(times) * 0.99))]


def status_bytes(pid, name):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def run(bench, checks, options, folder):
    count, slack = options.uploads, options.times
    # Much of such a build's memory is the program itself.
    memory_max = MEMORY_MAX_BYTES * (1 if slack == 1 else 2)
    cloud = LocalCloud(bench, arguments=["--log-filter", "warn"])
    cloud.make_user(USERS[0], PASSWORD, "free-tier")
    os.symlink(folder, bench.dir / "daemon")
    config = "spool_max_bytes_per_uid = 10737418240\n" + cloud.config()
    daemon = Daemon(bench, "daemon", config, EXTRA)
    app = App(daemon.socket)
    sign_in(app, USERS[0])
    app.close()
    status, body = http(f"{cloud.url}/_tidegate/faults", "PUT", b'{"offline": true}')
    assert status == 200, body
    rate = hand_over(daemon, count)
    journal = (folder / "state" / "journal.db").stat().st_size
    print(f"  {count} uploads taken at {rate:.0f} a second, a journal of {journal / MIB:.0f} MiB", flush=True)
    held = status_bytes(daemon.process.pid, "VmHWM")
    checks.ok(f"taking them needs {held / MIB:.1f} MiB", held <= memory_max, f"at most {memory_max / MIB:.0f}")
    for how in ("an orderly stop", "a kill"):
        if how == "a kill":
            bench.stop(daemon.process, signal.SIGKILL)
        else:
            daemon.stop()
        took = start(daemon, config)
        checks.ok(f"ready {took:.2f} s after {how}", took <= READY_MAX_S * slack, f"at most {READY_MAX_S} s")
    app, pid = App(daemon.socket), daemon.process.pid
    session = app.uploads.ListUploads(upload_pb.ListUploadsRequest(page_size=1)).uploads[0].session
    listings = {
        "all": ({}, count),
        "all of the session": ({"session": session}, count),
        "those that wait": ({"states": ["UPLOAD_STATE_QUEUED", "UPLOAD_STATE_WAITING"]}, None),
        "those that succeeded": ({"states": ["UPLOAD_STATE_SUCCEEDED"]}, 0),
        "those that are on their way": ({"states": ["UPLOAD_STATE_RUNNING"]}, None),
        "those of another session": ({"session": f"sessions/{new_ulid()}"}, 0),
    }
    for page_size in (100, 1000):
        for what, (filters, expected) in listings.items():
            times, seen = list_all(app, page_size=page_size, **filters)
            slow = p99(times)
            tenth = max(1, len(times) // 10)
            first, last = statistics.median(times[:tenth]), statistics.median(times[-tenth:])
            said = f"{what}, {len(times)} pages of {page_size}: p99 {slow:.1f} ms (first {first:.1f}, last {last:.1f})"
            checks.ok(said, slow <= PAGE_MAX_MS * slack and expected in (None, seen), f"{seen} uploads")
    began = time.perf_counter()
    app.gateway.GetStatus(gateway_pb.GetStatusRequest(), timeout=60)
    print(f"  GetStatus took {(time.perf_counter() - began) * 1000:.1f} ms")
    app.close()
    held, now = status_bytes(pid, "VmHWM"), status_bytes(pid, "VmRSS")
    said = f"start and listings need {held / MIB:.1f} MiB at most, {now / MIB:.1f} MiB now"
    checks.ok(said, held <= memory_max, f"at most {memory_max / MIB:.0f}")
    checks.equal("the daemon stops in order", daemon.stop(), 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tidegate", required=True, help="the program under test")
    parser.add_argument("--queued", dest="uploads", type=int, required=True, help="how many uploads wait")
    parser.add_argument("--times", type=float, default=1, help="a build for debugging may take so much longer")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-queued-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None))
    title = f"{options.uploads} queued uploads"
    try:
        play(title, Bench(options.tidegate), lambda bench, checks: run(bench, checks, options, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
