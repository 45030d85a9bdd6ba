"""A real daemon under a mixed random load for as long as one likes, at a pace that leaves the machine to others.

The load is that of the crash tests (streams, files, broken streams, repeated calls, cancels, sign-outs) with connections
that come and go, watchers, credential calls, refused calls, lost replies and short outages. Every end comes through one
WatchUploads that is broken off again and again: each object is compared byte for byte when it is told of, and deleted.
"""

import argparse
import collections
import json
import pathlib
import random
import socket
import sys
import threading
import time
import traceback

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "compat"), str(TESTS / "crash")]

import grpc  # noqa: E402
from harness import Bench, http, play, wait_until  # noqa: E402
from judges import BUCKET  # noqa: E402
from local_cloud import LocalCloud  # noqa: E402
from tidegate_app import App, Daemon, credential_pb, gateway_pb, new_ulid, upload_pb  # noqa: E402
from workload import EXTRA, MIB, PASSWORD, RUNNING_STATES, UPLOAD, USERS, Workload  # noqa: E402
from workload import cloud_keys, every_upload, leaked_rows, photo_id, session_of, sessions_of, sign_in, state  # noqa: E402

from gauges import Gauges, cpu_s, verdict  # noqa: E402

STEPS_PER_S, WORKERS = 6, 3
OPERATIONS = {
    "stream": 36,
    "file": 18,
    "break": 3,
    "repeat": 10,
    "cancel": 7,
    "sign out": 1,
    "sign in": 2,
    "watch": 4,
    "credentials": 6,
    "list": 3,
    "refused": 6,
    "reconnect": 4,
}
LARGE_SHARE = 0.06
OUTAGE_EVERY_S, OUTAGE_S = 25, (0.5, 3)
# What goes wrong all the time, besides the outages.
FAULTS = [
    {"operation": f"s3:{name}", "probability": 0.02, "effect": effect}
    for name in ("PutObject", "UploadPart", "CompleteMultipartUpload")
    for effect in ({"kind": "drop_after"}, {"kind": "error", "status": 503, "code": "SlowDown"})
]
FOLLOW_S = (5, 20)
SETTLE_TIMEOUT_S = 120
# The unit lets glibc keep some MiB of freed memory at the heap's top. Whether it does at the moment of a look is chance,
# and hides a growth of that size: here freed memory goes back at once.
ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(128 * 1024)}
CODE = grpc.StatusCode


class Soak(Workload):
    """The crash tests' model, for a daemon that goes on and forgets its receipts while it runs."""

    def __init__(self, daemon, cloud, seed, memory_s):
        super().__init__(daemon.socket, daemon.photos, seed)
        self.cloud, self.memory_s = cloud, memory_s
        self.by_id = {}
        self.recent = collections.deque()
        self.ends = collections.Counter()
        self.stored = collections.Counter()
        self.damaged = []
        # Whoever looks at the bucket waits until the link is back.
        self.link = threading.Lock()
        self.following, self.stop, self.done = threading.Event(), threading.Event(), threading.Event()

    def begin(self):
        """The follower first: it is to see every end."""
        threads = [self._thread(self._follow)]
        assert self.following.wait(30), "WatchUploads gives no first answer"
        return threads + [self._thread(self._work_on) for _ in range(WORKERS)] + [self._thread(self._outages)]

    def _thread(self, work):
        def guarded(rng):
            try:
                work(rng)
            except Exception:  # noqa: BLE001 - whatever ends a thread ends the run's success
                self._wrong(traceback.format_exc())

        thread = threading.Thread(target=guarded, args=(random.Random(self.random.random()),), daemon=True)
        thread.start()
        return thread

    def _work_on(self, rng):
        app = App(self.socket)
        while not self.stop.wait(rng.expovariate(STEPS_PER_S / WORKERS)):
            kind = rng.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
            if kind == "reconnect":
                app.close()
                app = App(self.socket)
            try:
                self._step(app, rng, {kind: 1})
            except grpc.RpcError as error:
                self._wrong(f"{kind}: {error.code()} {error.details()}")
        app.close()

    def _step(self, app, rng, weights):
        (kind,) = weights
        own = {
            "sign in": self._sign_in_whoever_is_out,
            "watch": self._watch,
            "credentials": self._credentials,
            "list": lambda app, rng: every_upload(app, rng.choice([(), RUNNING_STATES])),
            "refused": self._refused,
            "reconnect": lambda app, rng: app.gateway.GetStatus(gateway_pb.GetStatusRequest(), timeout=60),
        }
        if kind not in own:
            return super()._step(app, rng, weights)
        with self.lock:
            self.calls[kind] += 1
        own[kind](app, rng)

    def _size(self, rng):
        return rng.randrange(5 * MIB, 12 * MIB) if rng.random() < LARGE_SHARE else rng.randrange(1, 256 * 1024)

    def _keep(self, photo):
        self.photos.append(photo)
        self.by_id[photo.id] = photo
        self.recent.append((time.monotonic(), photo))

    def _pick(self, rng):
        """Only of those that the daemon must still know."""
        with self.lock:
            while self.recent and time.monotonic() - self.recent[0][0] > self.memory_s:
                self.recent.popleft()
            known = [photo for _, photo in self.recent if not photo.in_hand]
            return rng.choice(known) if known else None

    def _sign_in_whoever_is_out(self, app, rng):
        for user in USERS:
            if not sessions_of(app, user):
                sign_in(app, user)

    def _watch(self, app, rng):
        photo = self._pick(rng)
        if photo and photo.acknowledged:
            expect_or(CODE.DEADLINE_EXCEEDED, lambda: list(
                app.uploads.WatchUpload(upload_pb.WatchUploadRequest(name=photo.name), timeout=rng.uniform(0.05, 2))
            ))  # fmt: skip

    def _credentials(self, app, rng):
        request = credential_pb.GetAwsCredentialsRequest(session=session_of(app, rng.choice(USERS)))
        # Signed out just now, or signed in while the link is away.
        passing = (CODE.NOT_FOUND, CODE.UNAUTHENTICATED, CODE.UNAVAILABLE)
        expect_or(passing, lambda: app.credentials.GetAwsCredentials(request, timeout=60))

    def _refused(self, app, rng):
        nobodys = f"uploads/{new_ulid()}"
        spec = upload_pb.UploadSpec(session=session_of(app, USERS[0]), key="free/../x")
        create = upload_pb.CreateUploadRequest(spec=spec, path="/etc/hostname")
        resume = [upload_pb.UploadRequest(resume={"name": nobodys, "offset": 0})]
        calls = [
            (app.uploads.CreateUpload, create, (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND)),
            (app.uploads.Upload, iter(resume), (CODE.NOT_FOUND,)),
            (app.uploads.GetUpload, upload_pb.GetUploadRequest(name=nobodys), (CODE.NOT_FOUND,)),
            (app.uploads.GetUpload, upload_pb.GetUploadRequest(name="x" * 2 * MIB), (CODE.RESOURCE_EXHAUSTED,)),
            (app.uploads.ListUploads, upload_pb.ListUploadsRequest(page_size=-1), (CODE.INVALID_ARGUMENT,)),
        ]
        method, request, codes = rng.choice([*calls, (None, None, None)])
        if method is None:
            return self._stranger()
        try:
            method(request, timeout=60)
            self._wrong(f"a bad call was not refused: {str(request)[:200]}")
        except grpc.RpcError as error:
            if error.code() not in codes:
                raise

    def _stranger(self):
        """Somebody who does not speak HTTP/2."""
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(1)
            stranger.connect(str(self.socket))
            try:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                while stranger.recv(4096):
                    pass
            except OSError:
                pass

    def _outages(self, rng):
        while not self.stop.wait(rng.expovariate(1 / OUTAGE_EVERY_S)):
            with self.link:
                put_faults(self.cloud, rng.randrange(1 << 32), offline=True)
                self.stop.wait(rng.uniform(*OUTAGE_S))
                put_faults(self.cloud, rng.randrange(1 << 32), offline=False)
            self.calls["outage"] += 1

    def _follow(self, rng):
        """Every end, once, through streams that are broken off."""
        app, token = App(self.socket), ""
        while not self.done.is_set():
            request = upload_pb.WatchUploadsRequest(resume_token=token)
            try:
                for answer in app.uploads.WatchUploads(request, timeout=rng.uniform(*FOLLOW_S)):
                    token = answer.resume_token
                    self.following.set()
                    if answer.HasField("upload"):
                        self._ended(answer.upload)
            except grpc.RpcError as error:
                if error.code() != CODE.DEADLINE_EXCEEDED:
                    raise
        app.close()

    def _ended(self, upload):
        photo = self.by_id.get(upload.name.removeprefix("uploads/"))
        ended = state(upload).removeprefix("UPLOAD_STATE_")
        self.ends[ended] += 1
        if photo is None:
            return self._wrong(f"an upload that nobody handed over: {upload}")
        if ended == "SUCCEEDED":
            self.stored[photo.id] += 1
            with self.link:
                if self.cloud.read(upload.object.key) != photo.content:
                    self.damaged.append(upload.object.key)
                self.cloud.admin_s3.delete_object(Bucket=BUCKET, Key=upload.object.key)
        elif ended == "CANCELLED":
            # By its app, by whoever signed its user out, or because its stream did not go on.
            if photo.acknowledged and not photo.may_be_cancelled:
                self._wrong(f"nobody cancelled {upload}")
            photo.cancelled = True
        else:
            self._wrong(f"failed: {upload}")
        if photo.path:
            photo.path.unlink()

    def lost(self):
        return [p.name for p in self.photos if p.acknowledged and not p.cancelled and not self.stored[p.id]]

    def settle(self):
        """Everybody signs in, streams that are broken off are given up, and the queue runs dry."""
        app = App(self.socket)
        for user in USERS:
            wait_until(f"{user} signed in", lambda user=user: sign_in(app, user) or sessions_of(app, user))
        for upload in every_upload(app, {"UPLOAD_STATE_RECEIVING"}):
            self.by_id[upload.name.removeprefix("uploads/")].cancelled = True
            app.uploads.CancelUpload(upload_pb.CancelUploadRequest(name=upload.name), timeout=60)
        wait_until("the queue to run dry", lambda: not every_upload(app, RUNNING_STATES), SETTLE_TIMEOUT_S)
        app.close()


def expect_or(codes, call):
    try:
        return call()
    except grpc.RpcError as error:
        if error.code() not in (codes if isinstance(codes, tuple) else (codes,)):
            raise


def put_faults(cloud, seed, offline):
    plan = json.dumps({"rules": FAULTS, "seed": seed, "offline": offline}).encode()
    status, body = http(f"{cloud.url}/_tidegate/faults", "PUT", plan)
    assert status == 200, body


def soak(bench, checks, options, seed):
    # Receipts and abandoned streams are forgotten many times in a long run.
    keep_s = max(60, options.seconds // 24)
    cloud = LocalCloud(bench, arguments=["--log-filter", "warn"])
    for user in USERS:
        cloud.make_user(user, PASSWORD, "free-tier")
    forget = f"receipt_retention_s = {keep_s}\nreceiving_idle_max_s = {keep_s}\n"
    daemon = Daemon(bench, "daemon", "", EXTRA, start=False)
    daemon.start(UPLOAD + forget + cloud.config(), ENVIRONMENT)
    state_dir = daemon.dir / "state"
    app = App(daemon.socket)
    for user in USERS:
        sign_in(app, user)
    app.close()
    load = Soak(daemon, cloud, seed, keep_s / 2)
    put_faults(cloud, seed, offline=False)
    gauges, leaked = Gauges(daemon.process.pid, state_dir), []
    threads = load.begin()
    began, line_at = time.monotonic(), 60
    while (passed := time.monotonic() - began) < options.seconds and not load.wrong:
        time.sleep(min(1, options.seconds - passed))
        if options.leak:
            leaked.append(App(daemon.socket))
            leaked[-1].gateway.GetStatus(gateway_pb.GetStatusRequest(), timeout=60)
        if time.monotonic() - began >= line_at:
            print(f"  {line_at // 60:4} min  {len(load.photos)} uploads, {gauges.line()}", flush=True)
            line_at += 60
    spent_s = [cpu_s(daemon.process.pid), cpu_s(cloud.process.pid), time.process_time()]
    gauges.stop()
    load.stop.set()
    for thread in threads[1:]:
        thread.join()
    http(f"{cloud.url}/_tidegate/faults", "DELETE")
    load.settle()
    wait_until("the last ends being told", lambda: not load.lost() or not threads[0].is_alive())
    load.done.set()
    for idle in leaked:
        idle.close()
    threads[0].join()
    judge(checks, options, daemon, cloud, load, gauges, spent_s)


def judge(checks, options, daemon, cloud, load, gauges, spent_s):
    state_dir, cases = daemon.dir / "state", []
    # Nothing is restarted here: what is left over is left by the daemon at work, not by a start's sweep.
    known = {photo.id for photo in load.photos}
    rows = wait_gone(lambda: leaked_rows(state_dir / "journal.db", known))
    files = wait_gone(lambda: [path.name for path in (state_dir / "spool").iterdir()])
    lost, twice = load.lost(), [name for name, times in load.stored.items() if times > 1]
    # One that was cancelled while its last request was on its way may have been stored all the same.
    twice += [key for key in cloud_keys(cloud) if not load.by_id[photo_id(key).upper()].cancelled]
    table, grew = verdict(gauges.samples)
    print(*table, sep="\n")
    share = ", ".join(f"{who} {100 * s / options.seconds:.0f} %" for who, s in zip(("daemon", "cloud", "load"), spent_s))
    print(f"  of one core: {share}; ends: {dict(load.ends)}\n  calls: {dict(load.calls)}")
    checks.ok("every call was answered as expected", not load.wrong, load.wrong[:5])
    acknowledged = sum(photo.acknowledged for photo in load.photos)
    checks.ok(f"of {acknowledged} acknowledged uploads none is lost", acknowledged and not lost, lost[:5])
    checks.ok("no object is damaged", not load.damaged, load.damaged[:5])
    checks.ok("none is stored twice", not twice, twice[:5])
    checks.ok("no spool file and no row is left behind", not files + rows, (files + rows)[:5])
    if options.leak:
        checks.ok(f"the leak was noticed: {grew}", any("descriptors" in what for what in grew))
    else:
        checks.ok("what the daemon holds does not grow", not grew, grew)
    checks.equal("the daemon stops in order", daemon.stop(), 0)
    counts = f"{len(lost)} lost, {len(load.damaged)} damaged, {len(twice)} twice, {len(files + rows)} left behind"
    print(f"soak: {options.seconds} s, {len(load.photos)} uploads, {counts}: {'GREW' if grew else 'flat'}")


def wait_gone(found):
    """What is still there after a housekeeping round: an abort may have met an outage."""
    end = time.monotonic() + 90
    while (left := found()) and time.monotonic() < end:
        time.sleep(0.2)
    return left


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tidegate", required=True, help="the program under test")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=None, help="repeats the choices, as far as the kernel lets it")
    parser.add_argument("--leak", action="store_true", help="keep connections: the run must notice")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    title = f"soak for {options.seconds} s{' with a leak' if options.leak else ''}"
    play(title, Bench(options.tidegate), lambda bench, checks: soak(bench, checks, options, seed), seed)


if __name__ == "__main__":
    main()
