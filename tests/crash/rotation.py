"""Kills the daemon again and again while it rotates a refresh token.

Where the restart and the link are back within the pool's grace, nobody is ever signed out. Later the session says
NEEDS_SIGN_IN, its queue is parked, and nothing else happens: the same user signs in and the photo arrives.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "compat"))

import grpc  # noqa: E402
from harness import ROOT, Bench, http, play, wait_until  # noqa: E402
from local_cloud import LocalCloud  # noqa: E402
from tidegate_app import App, Daemon, describe, new_ulid, session_pb, upload_pb  # noqa: E402

USER, PASSWORD = "ada@example.com", "Correct-Horse-7"
LONG_GRACE_S, SHORT_GRACE_S = 60, 1
REFRESH = "GetTokensFromRefreshToken"
UPLOAD = """
backoff_initial_ms = 50
backoff_max_ms = 500
"""
# When the process is killed, and how often each is tried.
MOMENTS = {
    "at any moment of the refresh": 4,
    "after the pool has rotated, before its reply": 3,
    "while it notes that a refresh is under way": 2,
    "while it writes the new token": 3,
    "after the new token has its name": 2,
    "and the link is away at the restart": 1,
}


def template(folder, grace_s):
    """The template, with rotation turned on as its comment says."""
    text = (ROOT / "deploy/aws/template.yaml").read_text()
    on = f"RefreshTokenRotation:\n        Feature: ENABLED\n        RetryGracePeriodSeconds: {grace_s}"
    text = text.replace("RefreshTokenRotation:\n        Feature: DISABLED", on)
    text = text.replace("        - ALLOW_REFRESH_TOKEN_AUTH\n", "")
    assert on in text and "ALLOW_REFRESH_TOKEN_AUTH\n" not in text, "the template reads differently now"
    path = folder / f"rotating-{grace_s}.yaml"
    path.write_text(text)
    return path


class Rotating:
    """A cloud whose pool rotates refresh tokens, and what it is asked."""

    def __init__(self, bench, grace_s):
        name = f"rotating-{grace_s}"
        self.cloud = LocalCloud(bench, name, ["--seed", str(template(bench.dir, grace_s))])
        self.cloud.make_user(USER, PASSWORD, "free-tier")
        self.config = UPLOAD + self.cloud.config()
        self.daemon = Daemon(bench, f"daemon-{grace_s}", self.config, "")
        self.bench = bench
        self.after = 0
        self.session = self.sign_in()

    def fault(self, operation, effect, latency_ms=0):
        rule = {"operation": operation, "effect": effect, "latency_ms": latency_ms}
        status, body = http(f"{self.cloud.url}/_tidegate/faults", "POST", json.dumps(rule).encode())
        assert status == 200, body

    def offline(self, offline):
        plan = json.dumps({"offline": offline}).encode()
        status, body = http(f"{self.cloud.url}/_tidegate/faults", "PUT", plan)
        assert status == 200, body

    def fine(self):
        http(f"{self.cloud.url}/_tidegate/faults", "DELETE")

    def refreshes(self):
        """What the pool has answered to refreshes since the last question."""
        status, body = http(f"{self.cloud.url}/_tidegate/requests?after={self.after}")
        records = json.loads(body)["requests"]
        self.after = max([self.after, *(record["sequence"] for record in records)])
        return [record for record in records if record["operation"].endswith(REFRESH)]

    def sign_in(self):
        app = App(self.daemon.socket)
        request = session_pb.SignInRequest(password={"username": USER, "password": PASSWORD})
        session = app.sessions.SignIn(request, timeout=60).session.name
        app.close()
        return session

    def begin_refresh(self):
        """A refresh by hand, whose answer nobody waits for."""
        app = App(self.daemon.socket)

        def refresh():
            try:
                app.sessions.RefreshSession(session_pb.RefreshSessionRequest(name=self.session), timeout=60)
            except grpc.RpcError:
                pass
            app.close()

        thread = threading.Thread(target=refresh)
        thread.start()
        return thread

    def sealed(self, suffix):
        return self.daemon.dir / "state" / "sessions" / f"{self.session.removeprefix('sessions/')}.{suffix}"

    def kill(self):
        self.bench.stop(self.daemon.process, signal.SIGKILL)

    def state(self):
        app = App(self.daemon.socket)
        session = app.sessions.GetSession(session_pb.GetSessionRequest(name=self.session), timeout=60).session
        app.close()
        return session_pb.SessionState.Name(session.state).removeprefix("SESSION_STATE_"), session.last_error


def spin_until(what, seen, timeout_s=10):
    """Without a pause: a file that is there for a millisecond must be seen."""
    end = time.monotonic() + timeout_s
    while not seen():
        if time.monotonic() > end:
            return False
    return True


def kill_at(rotating, moment, rng):
    """Begins a rotation and kills the daemon in it. False where the moment did not come."""
    new, whole = rotating.sealed("new"), rotating.sealed("session")
    came = True
    if moment == "after the pool has rotated, before its reply":
        rotating.fault(REFRESH, {"kind": "drop_after"})
    before = os.stat(whole).st_ino
    rotating.refreshes()
    thread = rotating.begin_refresh()
    if moment in ("at any moment of the refresh", "and the link is away at the restart"):
        time.sleep(rng.uniform(0, 0.06))
    elif moment == "after the pool has rotated, before its reply":
        came = spin_until(moment, lambda: any(record["status"] is None for record in rotating.refreshes()))
    elif moment == "while it notes that a refresh is under way":
        came = spin_until(moment, new.exists)
    else:
        # The first new file is the note, the second one the new token.
        noted = spin_until(moment, lambda: os.stat(whole).st_ino != before)
        note = os.stat(whole).st_ino
        if moment == "while it writes the new token":
            came = noted and spin_until(moment, lambda: new.exists() or os.stat(whole).st_ino != note)
        else:
            came = noted and spin_until(moment, lambda: os.stat(whole).st_ino != note)
    rotating.kill()
    thread.join()
    return came


def within_the_grace(bench, checks, kills, rng):
    rotating = Rotating(bench, LONG_GRACE_S)
    moments = [moment for moment, weight in MOMENTS.items() for _ in range(weight)]
    done, missed, signed_out, refused = collections.Counter(), collections.Counter(), [], []
    slowest = 0.0
    for number in range(kills):
        moment = moments[number % len(moments)]
        (done if kill_at(rotating, moment, rng) else missed)[moment] += 1
        rotating.refreshes()
        rotating.fine()
        away = moment == "and the link is away at the restart"
        if away:
            rotating.offline(True)
        began = time.monotonic()
        rotating.daemon.start(rotating.config)
        if away:
            time.sleep(rng.uniform(1, 4))
            rotating.fine()
        # The queue goes on by itself: nobody signs in, nobody refreshes by hand.
        app = App(rotating.daemon.socket)
        upload, said = app.stream(f"free/{number}.jpg", rng.randbytes(1000))
        app.close()
        state, error = rotating.state()
        slowest = max(slowest, time.monotonic() - began)
        if state != "ACTIVE":
            signed_out.append(f"kill {number} {moment}: {state} {error}")
        if said != "SUCCEEDED":
            refused.append(f"kill {number} {moment}: {said}")
        refused += [f"{number}: {r['code']}" for r in rotating.refreshes() if r["code"]]
        if (number + 1) % 25 == 0:
            print(f"  {number + 1} kills", flush=True)
    checks.ok(f"0 of {kills} kills within the grace of {LONG_GRACE_S} s signed the user out", not signed_out, signed_out[:5])
    checks.ok("every photo after them was stored, and no refresh was refused", not refused, refused[:5])
    checks.ok("the slowest was back long before the grace was over", slowest < LONG_GRACE_S / 2, f"{slowest:.1f} s")
    hit = sum(done.values())
    checks.ok(f"{hit} kills came at their moment", hit >= kills * 0.8, f"missed: {dict(missed)}")
    for moment, count in done.items():
        print(f"           {count:4} kills {moment}")
    print(f"           from the restart to a stored photo: at most {slowest:.1f} s")
    checks.equal("the daemon stops in order", rotating.daemon.stop(), 0)


def after_the_grace(bench, checks, kills, rng):
    rotating = Rotating(bench, SHORT_GRACE_S)
    wrong = []
    for number in range(kills):
        # A photo that is accepted and cannot be sent yet.
        rotating.fault("s3:PutObject", {"kind": "error", "status": 503, "code": "SlowDown"})
        app = App(rotating.daemon.socket)
        photo = new_ulid()
        spec = upload_pb.UploadSpec(key=f"free/{number}.jpg")
        messages = [
            upload_pb.UploadRequest(begin={"upload_id": photo, "spec": spec}),
            upload_pb.UploadRequest(chunk=rng.randbytes(1000)),
            upload_pb.UploadRequest(finish={"total_bytes": 1000}),
        ]
        app.uploads.Upload(iter(messages), timeout=60)
        app.close()
        if not kill_at(rotating, "after the pool has rotated, before its reply", rng):
            wrong.append(f"kill {number} did not come at its moment")
        # The device is down for longer than the grace.
        time.sleep(SHORT_GRACE_S + 0.2)
        rotating.fine()
        rotating.daemon.start(rotating.config)
        wait_until("the session asking for a sign-in", lambda: rotating.state()[0] == "NEEDS_SIGN_IN")
        app = App(rotating.daemon.socket)

        def upload():
            return app.uploads.GetUpload(upload_pb.GetUploadRequest(name=f"uploads/{photo}"), timeout=60).upload

        wait_until("the queue being parked", lambda: upload().wait_reason == upload_pb.WAIT_REASON_SIGN_IN)
        refused, said = app.aws_credentials(rotating.session)
        if said != "UNAUTHENTICATED NEEDS_SIGN_IN" or refused:
            wrong.append(f"kill {number}: credentials: {said}")
        again = rotating.sign_in()
        if again != rotating.session:
            wrong.append(f"kill {number}: {again} instead of {rotating.session}")
        stored, said = app.wait(f"uploads/{photo}")
        if said != "SUCCEEDED":
            wrong.append(f"kill {number}: {describe(stored)}")
        app.close()
    what = f"{kills} kills and a restart after the grace: NEEDS_SIGN_IN, the queue parked; then the same session, and the photo"
    checks.ok(what, not wrong, wrong[:5])
    checks.equal("the daemon stops in order", rotating.daemon.stop(), 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tidegate", required=True, help="the program under test")
    parser.add_argument("--rotations", type=int, required=True, help="kill this often")
    parser.add_argument("--seed", type=int, default=None, help="repeats the choices, as far as the kernel lets it")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    rng, later = random.Random(seed), max(2, options.rotations // 10)

    def run(bench, checks):
        within_the_grace(bench, checks, options.rotations - later, rng)
        after_the_grace(bench, checks, later, rng)

    play(f"rotations under {options.rotations} kills", Bench(options.tidegate), run, seed)


if __name__ == "__main__":
    main()
