"""The scenario, by an app over the daemon's socket: the same script against the local cloud and against other clouds.

Each step gives one line; the lines of two clouds must be equal, except the ones that `EXPLAINED` names with the reason.
"""

import base64
import os

from harness import Failed, outcome
from judges import BUCKET
from tidegate_app import App, Daemon

PASSWORD = "Correct-Horse-7"
NEW_PASSWORD = "Battery-Staple-8"
CLIP_BYTES = 20 * 1024 * 1024 + 12345

STORED = [
    "users/{id}/free/cat.jpg",
    "users/{id}/free/clip-{ulid}.mp4",
    "users/{id}/free/dog-{ulid}.jpg",
    "users/{id}/free/late-{ulid}.jpg",
    "users/{id}/free/raw.jpg",
    "users/{id}/premium/cat-{ulid}.jpg",
    "users/{id}/premium/dog-{ulid}.jpg",
]
# What both sides say.
AGREED = {
    "a weak password is refused": "INVALID_ARGUMENT INVALID_PASSWORD",
    "sign-up sends a code": "OK confirmed=False by EMAIL",
    "the same name again": "ALREADY_EXISTS USER_EXISTS",
    "sign-in before the code": "FAILED_PRECONDITION USER_NOT_CONFIRMED",
    "confirming with a wrong code": "INVALID_ARGUMENT CODE_MISMATCH",
    "confirming with the code": "OK",
    "sign-in with a wrong password": "UNAUTHENTICATED BAD_CREDENTIALS",
    "sign-in of nobody": "UNAUTHENTICATED BAD_CREDENTIALS",
    "sign-in": "OK groups=['free-tier']",
    "signing in again is the same session": "OK True",
    "a photo over the socket to free/": "SUCCEEDED",
    "it lies beneath the identity id": True,
    "its checksum": True,
    "its bytes in the bucket": True,
    "the same key again": "FAILED OBJECT_EXISTS",
    "and with overwrite": "SUCCEEDED",
    "a photo by its path": "SUCCEEDED",
    "its bytes": True,
    "a clip in parts": "SUCCEEDED",
    "the checksum of all parts": True,
    "the bytes of all parts": True,
    "a photo to premium/ while free": "FAILED ACCESS_DENIED",
    "a key with .. segments": "INVALID_ARGUMENT INVALID_KEY",
    "the user's own credentials": "OK",
    "raw: free/": "ok",
    "raw: premium/ while free": "AccessDenied",
    "raw: another user's prefix": "AccessDenied",
    "raw: no prefix": "AccessDenied",
    "nothing is at premium/x": True,
    "raw: reading one's own photo": "AccessDenied",
    "raw: listing": "AccessDenied",
    "raw: deleting": "AccessDenied",
    "raw: a wrong secret key": "SignatureDoesNotMatch",
    "the groups after paying": "OK groups=['paid-tier']",
    "the denied photo, tried again": "SUCCEEDED",
    "a photo to premium/ without a new sign-in": "SUCCEEDED",
    "and still to free/": "SUCCEEDED",
    "signing out": "OK",
    "credentials after signing out": "NOT_FOUND SESSION_NOT_FOUND",
    "uploads after signing out": "NOT_FOUND SESSION_NOT_FOUND",
    "what else the bucket holds": STORED,
}
# Lines that cannot agree: what the local cloud says, what ministack with SeaweedFS says, and why.
EXPLAINED = {
    "the identity id is the user's sub": (
        False,
        True,
        "an identity pool gives ids of its own; direct web identity has none, so the daemon takes the sub",
    ),
    "naming the paid role while free": (
        "refused by the configuration",
        "FAILED_PRECONDITION UPSTREAM_MISCONFIGURED",
        "with an identity pool the daemon names no role; with direct web identity it must, and STS refuses it",
    ),
    "the configuration is changed for the new tier": (
        False,
        True,
        "an identity pool chooses the role from the token; direct web identity is told it by the configuration",
    ),
    "raw: free/../premium/x": (
        "ok",
        "InvalidRequest",
        "S3 takes it as the literal key that it is; SeaweedFS makes paths of keys and so must refuse it",
    ),
    "its literal name is in the bucket": (True, False, "only one of them took it"),
    "raw: a forged session token": (
        "InvalidToken",
        "InvalidAccessKeyId",
        "SeaweedFS reads the access key out of the token, so it misses the key rather than the token",
    ),
}


def crc64nvme(content):
    from awscrt import checksums

    return base64.b64encode(checksums.crc64nvme(content).to_bytes(8, "big")).decode()


class Run:
    """One run of the scenario against one cloud; `lines` maps a step's title to its outcome."""

    def __init__(self, bench, cloud, name):
        self.bench = bench
        self.cloud = cloud
        self.lines = {}
        self.user = "ada@example.com"
        self.daemon = Daemon(bench, name, cloud.config("free"))
        self.app = App(self.daemon.socket)

    def line(self, title, said):
        if title in self.lines:
            raise Failed(f"two steps are called {title!r}")
        self.lines[title] = said

    def restart(self, tier):
        """The daemon with the configuration for this tier, on the same state; sessions must survive it."""
        self.app.close()
        self.daemon.restart(self.cloud.config(tier))
        self.app = App(self.daemon.socket)
        return self.app

    def go(self):
        self._account()
        self._free()
        self._denied()
        self._paid()
        self._end()
        self.app.close()
        self.daemon.stop()
        return self.lines

    def _account(self):
        app, line = self.app, self.line
        line("a weak password is refused", app.sign_up(self.user, "short")[1])
        answer, said = app.sign_up(self.user, PASSWORD)
        medium = answer.code_delivery.medium if answer else None
        line("sign-up sends a code", f"{said} confirmed={answer and answer.confirmed} by {medium}")
        line("the same name again", app.sign_up(self.user, PASSWORD)[1])
        line("sign-in before the code", app.sign_in(self.user, PASSWORD)[1])
        line("confirming with a wrong code", app.confirm(self.user, "000000")[1])
        line("confirming with the code", app.confirm(self.user, self.cloud.code_for(self.user))[1])
        line("sign-in with a wrong password", app.sign_in(self.user, "Wrong-Horse-7")[1])
        line("sign-in of nobody", app.sign_in("nobody@example.com", PASSWORD)[1])
        self.cloud.move_to_tier(self.user, "free-tier", None)

    def _free(self):
        app, line = self.app, self.line
        answer, said = app.sign_in(self.user, PASSWORD)
        if answer is None:
            raise Failed(f"sign-in: {said}")
        self.session = answer.session.name
        line("sign-in", f"{said} groups={list(answer.session.groups)}")
        again, said = app.sign_in(self.user, PASSWORD)
        line("signing in again is the same session", f"{said} {again is not None and again.session.name == self.session}")

        content = os.urandom(3 * 1024 * 1024)
        upload, said = app.stream("free/cat.jpg", content, exact=True, content_type="image/jpeg")
        line("a photo over the socket to free/", said)
        self.prefix = upload.object.key.removesuffix("free/cat.jpg")
        line("it lies beneath the identity id", self.prefix == f"users/{again.session.identity_id}/")
        line("the identity id is the user's sub", again.session.identity_id == again.session.subject)
        line("its checksum", upload.object.checksum_crc64nvme == crc64nvme(content))
        line("its bytes in the bucket", self.cloud.read(upload.object.key) == content)
        line("the same key again", app.stream("free/cat.jpg", b"other", exact=True)[1])
        line("and with overwrite", app.stream("free/cat.jpg", b"other", exact=True, overwrite=True)[1])

        path = self.daemon.photos / "dog.jpg"
        path.write_bytes(content[:1_000_000])
        upload, said = app.create("free/dog.jpg", path)
        line("a photo by its path", said)
        line("its bytes", self.cloud.read(upload.object.key) == content[:1_000_000])

        clip = os.urandom(CLIP_BYTES)
        upload, said = app.stream("free/clip.mp4", clip)
        line("a clip in parts", said)
        line("the checksum of all parts", upload.object.checksum_crc64nvme == crc64nvme(clip))
        line("the bytes of all parts", self.cloud.read(upload.object.key) == clip)

    def _denied(self):
        line = self.line
        self.premium, said = self.app.stream("premium/cat.jpg", b"premium bytes")
        line("a photo to premium/ while free", said)
        line("naming the paid role while free", self.cloud.name_paid_role(self))
        app = self.app
        line("a key with .. segments", app.stream("free/../premium/x", b"x", exact=True)[1])

        keys, said = app.aws_credentials(self.session)
        line("the user's own credentials", said)
        s3 = self.cloud.user_s3(keys)

        def put(key):
            return outcome(s3.put_object, Bucket=BUCKET, Key=key, Body=b"raw")[0]

        line("raw: free/", put(f"{self.prefix}free/raw.jpg"))
        line("raw: premium/ while free", put(f"{self.prefix}premium/raw.jpg"))
        line("raw: another user's prefix", put("users/somebody-else/free/raw.jpg"))
        line("raw: no prefix", put("raw.jpg"))
        line("raw: free/../premium/x", put(f"{self.prefix}free/../premium/x"))
        line("nothing is at premium/x", f"{self.prefix}premium/x" not in self.cloud.keys())
        line("its literal name is in the bucket", f"{self.prefix}free/../premium/x" in self.cloud.keys())
        line("raw: reading one's own photo", outcome(s3.get_object, Bucket=BUCKET, Key=f"{self.prefix}free/raw.jpg")[0])
        line("raw: listing", outcome(s3.list_objects_v2, Bucket=BUCKET)[0])
        line("raw: deleting", outcome(s3.delete_object, Bucket=BUCKET, Key=f"{self.prefix}free/raw.jpg")[0])
        forged = self.cloud.user_s3({**keys, "SessionToken": keys["SessionToken"][:-8] + "AAAAAAAA"})
        line("raw: a forged session token", outcome(forged.put_object, Bucket=BUCKET, Key=f"{self.prefix}free/f", Body=b"")[0])
        stolen = self.cloud.user_s3({**keys, "SecretAccessKey": "A" * 40})
        line("raw: a wrong secret key", outcome(stolen.put_object, Bucket=BUCKET, Key=f"{self.prefix}free/s", Body=b"")[0])

    def _paid(self):
        app, line = self.app, self.line
        self.cloud.move_to_tier(self.user, "paid-tier", "free-tier")
        line("the configuration is changed for the new tier", self.cloud.client_names_role)
        if self.cloud.client_names_role:
            app = self.restart("paid")
        answer, said = app.refresh(self.session)
        line("the groups after paying", f"{said} groups={answer and list(answer.session.groups)}")
        line("the denied photo, tried again", app.retry(self.premium.name)[1])
        upload, said = app.stream("premium/dog.jpg", b"premium bytes")
        line("a photo to premium/ without a new sign-in", said)
        line("and still to free/", app.stream("free/late.jpg", b"late")[1])

    def _end(self):
        app, line = self.app, self.line
        line("signing out", app.sign_out(self.session)[1])
        line("credentials after signing out", app.aws_credentials(self.session)[1])
        line("uploads after signing out", app.stream("free/after.jpg", b"x", session=self.session)[1])
        line("what else the bucket holds", sorted(self._plain(key) for key in self.cloud.keys() if "/../" not in key))

    def _plain(self, key):
        """Without the identity and without the upload's ULID, which differ from run to run."""
        key = key.replace(self.prefix, "users/{id}/")
        stem, dot, ending = key.rpartition(".")
        folder, dash, last = stem.rpartition("-")
        return f"{folder}-{{ulid}}.{ending}" if dash and len(last) == 26 and last.isalnum() else key


def compare(checks, ours, theirs, names):
    """A check per line; `ours` and `theirs` are the lines of two runs."""
    for title in dict.fromkeys([*ours, *theirs, *AGREED, *EXPLAINED]):
        said = ours.get(title, "(no such line)"), theirs.get(title, "(no such line)")
        if title in EXPLAINED:
            *wanted, why = EXPLAINED[title]
            text = f"{title}: {names[0]} {wanted[0]!r}, {names[1]} {wanted[1]!r}, because {why}"
        else:
            wanted = [AGREED.get(title)] * 2
            text = f"{title}: {wanted[0]}"
        checks.equal(text, said, tuple(wanted))
