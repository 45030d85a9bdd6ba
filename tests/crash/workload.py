"""A random workload over a real daemon, and what must be true of it however often the daemon was interrupted.

The workload streams photos, hands over files, breaks streams off, repeats calls, cancels, and signs users out and in. A
model remembers what was acknowledged. After every interruption the daemon must still know all of it; in the end every
object must be in the bucket, once and byte for byte, with nothing left in the spool or in the journal that nobody needs.
"""

import collections
import hashlib
import json
import pathlib
import random
import sqlite3
import sys
import threading
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "compat"))

import grpc  # noqa: E402
from harness import http, wait_until  # noqa: E402
from judges import BUCKET  # noqa: E402
from tidegate_app import App, new_ulid, session_pb, upload_pb  # noqa: E402

PASSWORD = "Correct-Horse-7"
# Whoever signs Cleo out may cancel what is not sent yet: what becomes of each photo is the daemon's to say.
CANCELLING = "cleo@example.com"
USERS = ["ada@example.com", "ben@example.com", CANCELLING]
OPERATIONS = {"stream": 40, "file": 20, "break": 15, "repeat": 10, "cancel": 8, "sign out": 7}
# What the workload does more often, so that a step is reached soon.
OPERATION_FOR = {
    "spool-cut": "repeat",
    "source-sync": "file",
    "source-directory-sync": "file",
    "session-sync": "sign out",
    "session-rename": "sign out",
    "session-directory-sync": "sign out",
    "session-remove": "sign out",
}
MORE_OFTEN = 8
MIB = 1 << 20
PART_BYTES = 5 * MIB
PARTS_IN_FLIGHT, UPLOADS_IN_FLIGHT = 4, 4
WORKERS = 3
SETTLE_TIMEOUT_S = 180
CHUNK_BYTES = 256 * 1024
# SUCCEEDED, FAILED and CANCELLED in the journal.
ENDED_PHASES = (2, 3, 4)
RUNNING_STATES = {"UPLOAD_STATE_RECEIVING", "UPLOAD_STATE_QUEUED", "UPLOAD_STATE_RUNNING", "UPLOAD_STATE_WAITING"}
EXTRA = """max_connections_per_uid = 200

[telemetry]
log_filter = "info"
"""
UPLOAD = f"""
part_size_bytes = {PART_BYTES}
single_put_max_bytes = {PART_BYTES}
max_parts_in_flight = {PARTS_IN_FLIGHT}
max_uploads_in_flight = {UPLOADS_IN_FLIGHT}
backoff_initial_ms = 50
backoff_max_ms = 500
spool_sync_interval_bytes = 1048576
"""


class Photo:
    """What one upload is about, as the app knows it."""

    def __init__(self, user, size, seed):
        self.id = new_ulid()
        self.user = user
        self.size = size
        self.seed = seed
        self.path = None
        self.key = f"free/{self.id.lower()}.jpg"
        self.acknowledged = False
        self.cancelled = False
        # The program that made it is handing it over for the first time: no other has it to repeat.
        self.in_hand = True
        # The app stopped trying: whether it was accepted is open.
        self.given_up = False

    @property
    def name(self):
        return f"uploads/{self.id}"

    @property
    def content(self):
        """Made again every time: thousands of photos are not kept in memory."""
        return random.Random(self.seed).randbytes(self.size)

    @property
    def may_be_cancelled(self):
        return self.cancelled or self.user == CANCELLING


class Workload:
    """Several programs at a time; all they know is what the daemon told them."""

    def __init__(self, socket, photos_dir, seed):
        self.socket = socket
        self.photos_dir = photos_dir
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.photos = []
        # Files that a crash may still change: each is looked at until it was whole and acknowledged twice.
        self.files = {}
        self.wrong = []
        self.calls = collections.Counter()

    def run(self, stop, more_often=None):
        """Until `stop`, or until the daemon is gone; one operation may come more often than the others."""
        weights = {**OPERATIONS, **({more_often: OPERATIONS[more_often] * MORE_OFTEN} if more_often else {})}
        threads = [
            threading.Thread(target=self._work, args=(random.Random(self.random.random()), stop, weights))
            for _ in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _work(self, rng, stop, weights):
        app = App(self.socket)
        try:
            while not stop.is_set():
                self._step(app, rng, weights)
        except grpc.RpcError as error:
            # The crash; anything else is an answer that the model did not expect.
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                self._wrong(f"{error.code()} {error.details()}")
        except Exception:  # noqa: BLE001 - a bug of this script must not look like a pass
            self._wrong(traceback.format_exc())
        finally:
            app.close()

    def _step(self, app, rng, weights):
        kind = rng.choices(list(weights), list(weights.values()))[0]
        with self.lock:
            self.calls[kind] += 1
        if kind in ("stream", "file", "break"):
            photo = self._new_photo(rng, kind)
            try:
                self.hand_over(app, photo, rng.random() if kind == "break" else None)
            except grpc.RpcError as error:
                # Signed out in the middle, or no session: the app tries later. Or the sign-out cancelled it.
                expected = [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED]
                expected += [grpc.StatusCode.FAILED_PRECONDITION] if photo.may_be_cancelled else []
                if error.code() not in expected:
                    raise
            finally:
                photo.in_hand = False
        elif kind == "repeat":
            photo = self._pick(rng)
            if photo and not photo.cancelled and not photo.given_up:
                self.hand_over_again(app, photo)
        elif kind == "cancel":
            photo = self._pick(rng)
            if photo and photo.acknowledged:
                self.cancel(app, photo)
        else:
            self.sign_out_and_in(app, rng, rng.choice(USERS))

    def _new_photo(self, rng, kind):
        size = self._size(rng)
        photo = Photo(rng.choice(USERS), size, rng.random())
        if kind == "file":
            photo.path = self.photos_dir / f"{photo.id}.jpg"
            photo.path.write_bytes(photo.content)
        with self.lock:
            self._keep(photo)
        return photo

    def _size(self, rng):
        return rng.randrange(1, 512 * 1024) if rng.random() < 0.8 else rng.randrange(4 * MIB, 14 * MIB)

    def _keep(self, photo):
        """Under the lock."""
        self.photos.append(photo)
        if photo.path:
            self.files[photo.id] = (photo, 0)

    def restore_files(self):
        """A camera that lost power writes again what nobody has acknowledged; what was acknowledged must be whole."""
        for photo, seen in list(self.files.values()):
            whole = photo.path.exists() and photo.path.read_bytes() == photo.content
            if not whole and photo.acknowledged:
                self._wrong(f"{photo.path} was acknowledged, and is not whole after a crash")
            elif not whole:
                photo.path.write_bytes(photo.content)
            seen += photo.acknowledged
            if seen < 2:
                self.files[photo.id] = (photo, seen)
            else:
                del self.files[photo.id]

    def _pick(self, rng):
        with self.lock:
            known = [photo for photo in self.photos if not photo.in_hand]
            return rng.choice(known) if known else None

    def _wrong(self, text):
        with self.lock:
            self.wrong.append(text)

    def spec(self, app, photo):
        return upload_pb.UploadSpec(session=session_of(app, photo.user), key=photo.key, metadata={"photo": photo.id})

    def hand_over(self, app, photo, break_at=None):
        """Hands the bytes over from the start; `break_at` is the share after which the stream is broken off."""
        spec = self.spec(app, photo)
        if photo.path:
            request = upload_pb.CreateUploadRequest(upload_id=photo.id, spec=spec, path=str(photo.path))
            app.uploads.CreateUpload(request, timeout=60)
            photo.acknowledged = True
            return
        begin = upload_pb.UploadRequest(begin={"upload_id": photo.id, "spec": spec})
        self._stream(app, photo, begin, 0, break_at)

    def _stream(self, app, photo, first, offset, break_at=None):
        content = photo.content
        end = len(content) if break_at is None else offset + int((len(content) - offset) * break_at)

        def messages():
            yield first
            for start in range(offset, end, CHUNK_BYTES):
                yield upload_pb.UploadRequest(chunk=content[start : min(start + CHUNK_BYTES, end)])
            if break_at is None:
                yield upload_pb.UploadRequest(finish={"total_bytes": len(content)})

        try:
            app.uploads.Upload(messages(), timeout=60)
            photo.acknowledged = True
        except grpc.RpcError as error:
            if break_at is None or error.code() != grpc.StatusCode.INVALID_ARGUMENT:
                raise

    def hand_over_again(self, app, photo):
        """The app does not know what became of it, or repeats itself: the same id must be the same upload."""
        try:
            seen = app.uploads.GetUpload(upload_pb.GetUploadRequest(name=photo.name), timeout=60).upload
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            if photo.acknowledged:
                self._wrong(f"{photo.name} was acknowledged and is not known")
            seen = None
        if seen is not None and state(seen) == "UPLOAD_STATE_CANCELLED" and photo.may_be_cancelled:
            return
        try:
            if seen is not None and state(seen) == "UPLOAD_STATE_RECEIVING":
                if seen.received_bytes > photo.size:
                    self._wrong(f"{photo.name} has received more than was sent: {seen.received_bytes}")
                resume = {"name": photo.name, "offset": seen.received_bytes}
                self._stream(app, photo, upload_pb.UploadRequest(resume=resume), seen.received_bytes)
            else:
                self.hand_over(app, photo)
        except grpc.RpcError as error:
            # Another program of the workload has it in hand, or the user is signed out just now.
            passing = (grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT and photo.may_be_cancelled:
                # Cancelled between the question and the call: fewer bytes are there than the app says.
                return
            if error.code() not in (*passing, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.ALREADY_EXISTS):
                raise
            if error.code() == grpc.StatusCode.ALREADY_EXISTS and "UPLOAD_ID_REUSED" in (error.details() or ""):
                self._wrong(f"{photo.name} repeated: {error.details()}")

    def cancel(self, app, photo):
        photo.cancelled = True
        try:
            app.uploads.CancelUpload(upload_pb.CancelUploadRequest(name=photo.name), timeout=60)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
                raise

    def sign_out_and_in(self, app, rng, user):
        what = ["SIGN_OUT_UPLOADS_PARK", "SIGN_OUT_UPLOADS_DRAIN"]
        what = "SIGN_OUT_UPLOADS_CANCEL" if user == CANCELLING and rng.random() < 0.5 else rng.choice(what)
        try:
            request = session_pb.SignOutRequest(name=session_of(app, user), uploads=what)
            app.sessions.SignOut(request, timeout=60)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
        sign_in(app, user)


def state(upload):
    return upload_pb.UploadState.Name(upload.state)


def sessions_of(app, user):
    """The names of the user's sessions now."""
    listed = app.sessions.ListSessions(session_pb.ListSessionsRequest(), timeout=60).sessions
    return [session.name for session in listed if session.username == user]


def session_of(app, user):
    """The user's session now; a name that is nobody's while there is none."""
    return next(iter(sessions_of(app, user)), f"sessions/{new_ulid()}")


def sign_in(app, user):
    try:
        request = session_pb.SignInRequest(password={"username": user, "password": PASSWORD})
        app.sessions.SignIn(request, timeout=60)
    except grpc.RpcError as error:
        # The process-wide limit on calls, or too many sign-ins of one uid: another program is at it.
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED) or "socket" in str(
            error.details()
        ):
            raise


def every_upload(app, states=()):
    token, found = "", []
    while True:
        request = upload_pb.ListUploadsRequest(page_size=1000, page_token=token, states=list(states))
        page = app.uploads.ListUploads(request, timeout=60)
        found.extend(page.uploads)
        token = page.next_page_token
        if not token:
            return found


class PartCount:
    """How often parts were sent, by key; the cloud's log of requests is bounded, so it is read as the run goes."""

    def __init__(self, cloud):
        self.cloud = cloud
        self.after = 0
        self.by_key = collections.Counter()
        self.puts = collections.Counter()

    def read(self):
        status, body = http(f"{self.cloud.url}/_tidegate/requests?after={self.after}")
        for record in json.loads(body)["requests"]:
            self.after = record["sequence"]
            if record["status"] != 200:
                continue
            if record["operation"] == "s3:UploadPart":
                self.by_key[record["key"]] += 1
            elif record["operation"] == "s3:PutObject":
                self.puts[record["key"]] += 1


def parts_of(size):
    return 0 if size <= PART_BYTES else -(-size // PART_BYTES)


def check_acknowledged(app, workload, wrong):
    """Every upload that was acknowledged is known, whatever happened."""
    known = {upload.name: upload for upload in every_upload(app)}
    for photo in workload.photos:
        if photo.acknowledged and photo.name not in known:
            wrong.append(f"{photo.name} ({photo.size} bytes) was acknowledged and is lost")
    return known


def settle(daemon, workload):
    """The apps come back: who was interrupted goes on or gives up, everybody is signed in, and the queue runs dry."""
    app = App(daemon.socket)
    for user in USERS:
        wait_until(f"{user} signed in", lambda user=user: sign_in(app, user) or sessions_of(app, user))
    for index, photo in enumerate(workload.photos):
        if photo.acknowledged or photo.cancelled:
            continue
        if index % 3 == 0:
            photo.given_up = True
            try:
                app.uploads.CancelUpload(upload_pb.CancelUploadRequest(name=photo.name), timeout=60)
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                    raise
        else:
            workload.hand_over_again(app, photo)
    # Cancelled before it was over: what became of it is the daemon's to say.
    wait_until("the queue to run dry", lambda: not every_upload(app, RUNNING_STATES), SETTLE_TIMEOUT_S)
    app.close()


def judge(cloud, daemon, workload, parts, lost, crashes, config):
    """(figures, what else is wrong): what the promises count, and every case for a person to read."""
    app = App(daemon.socket)
    known = check_acknowledged(app, workload, lost)
    app.close()
    objects = collections.defaultdict(list)
    for key in cloud_keys(cloud):
        objects[photo_id(key)].append(key)
    corrupt, missing, duplicate, resent, failed = [], [], [], 0, []
    by_id = {photo.id.lower(): photo for photo in workload.photos}
    for photo in workload.photos:
        keys = objects.get(photo.id.lower(), [])
        if len(keys) > 1 or sum(parts.puts[key] for key in keys) > 1:
            duplicate.append(f"{photo.name}: {keys}, {[parts.puts[key] for key in keys]} puts")
        shown = known.get(photo.name)
        shown_state = None if shown is None else state(shown)
        cancelled = photo.cancelled or (photo.may_be_cancelled and shown_state == "UPLOAD_STATE_CANCELLED")
        if photo.acknowledged and not cancelled:
            if shown_state != "UPLOAD_STATE_SUCCEEDED":
                failed.append(f"{photo.name}: {shown}")
            if not keys:
                missing.append(f"{photo.name} is not in the bucket")
        for key in keys:
            if hashlib.sha256(cloud.read(key)).digest() != hashlib.sha256(photo.content).digest():
                corrupt.append(key)
            resent += max(0, parts.by_key[key] - parts_of(photo.size))
    strangers = [key for key in sum(objects.values(), []) if photo_id(key) not in by_id]
    # A start sweeps the spool; whatever is left then has leaked.
    daemon.restart(config)
    files = sorted(path.name for path in (daemon.dir / "state" / "spool").rglob("*") if path.is_file())
    problems = workload.wrong
    if (stopped := daemon.stop()) != 0:
        problems.append(f"the daemon was to stop in order and ended with {stopped}")
    rows = leaked_rows(daemon.dir / "state" / "journal.db", {photo.id for photo in workload.photos})
    # Who is killed between S3's answer to CreateMultipartUpload and the journal never learns the id; the bucket's
    # lifecycle rule is for these.
    opened = cloud.admin_s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    figures = collections.Counter(
        {
            "photos": len(workload.photos),
            "acknowledged": sum(photo.acknowledged for photo in workload.photos),
            "lost": len(lost) + len(missing),
            "failed": len(failed),
            "corrupt": len(corrupt),
            "duplicate": len(duplicate),
            "strangers": len(strangers),
            "resent": resent,
            "in flight": crashes * PARTS_IN_FLIGHT,
            "leaked files": len(files),
            "leaked rows": len(rows),
            "open": len(opened),
            "begun": crashes * UPLOADS_IN_FLIGHT,
        }
    )
    figures.update({f"call {name}": count for name, count in workload.calls.items()})
    cases = lost + missing + failed + corrupt + duplicate + strangers + files + rows
    return figures, [*problems, *cases]


def leaked_rows(journal, known):
    """Rows that nobody needs once everything has ended, read from the file of a daemon that has stopped."""
    database = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
    try:
        leaked = [f"{count} rows in parts" for (count,) in database.execute("SELECT count(*) FROM parts") if count]
        leaked += [f"{count} rows in aborts" for (count,) in database.execute("SELECT count(*) FROM aborts") if count]
        names = {number_of(photo) for photo in known}
        for key, phase in database.execute("SELECT id, phase FROM uploads"):
            if key not in names:
                leaked.append(f"an upload that nobody handed over: {key.hex()}")
            elif phase not in ENDED_PHASES:
                leaked.append(f"an upload in phase {phase}: {key.hex()}")
        return leaked
    finally:
        database.close()


def number_of(ulid):
    number = 0
    for letter in ulid:
        number = number << 5 | "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(letter)
    return number.to_bytes(16)


def cloud_keys(cloud):
    pages = cloud.admin_s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def photo_id(key):
    return key.rsplit("/", 1)[1].split(".")[0].split("-")[0]
