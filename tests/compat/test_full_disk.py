"""A disk that fills up: what was acknowledged stays, what does not fit is refused with a typed error before it is accepted,
and work goes on as soon as there is room.
"""

import contextlib
import os
import subprocess

from harness import Failed, main
from local_cloud import LocalCloud
from tidegate_app import App, Daemon, gateway_pb, new_ulid, upload_pb

USER, PASSWORD = "ada@example.com", "Correct-Horse-7"
MIB = 1 << 20
DISK_BYTES = 48 * MIB
FLOOR_BYTES = 16 * MIB
PHOTO_BYTES = 3 * MIB
UPLOAD = """
backoff_initial_ms = 50
backoff_max_ms = 500
spool_sync_interval_bytes = 1048576
disk_free_floor_bytes = {floor}
"""


class Disk:
    """A tmpfs of a known size at a folder."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self._run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0755", "tidegate-test", str(folder))

    def close(self):
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)

    @staticmethod
    def _run(*argv):
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{' '.join(argv)}: {done.stderr}")


def hand_over(app, content, upload_id=None):
    """(what the app was told, the upload's name)."""
    upload_id = upload_id or new_ulid()
    spec = upload_pb.UploadSpec(key=f"free/{upload_id.lower()}.jpg")

    def messages():
        yield upload_pb.UploadRequest(begin={"upload_id": upload_id, "spec": spec})
        for start in range(0, len(content), 256 * 1024):
            yield upload_pb.UploadRequest(chunk=content[start : start + 256 * 1024])
        yield upload_pb.UploadRequest(finish={"total_bytes": len(content)})

    return app.call(app.uploads.Upload, messages())[1], upload_id


def fill(app, kept):
    """Photos until one is refused; what was told then."""
    for _ in range(DISK_BYTES // PHOTO_BYTES + 2):
        content = os.urandom(PHOTO_BYTES)
        said, upload_id = hand_over(app, content)
        if said != "OK":
            return said
        kept[upload_id] = content
    return "never refused"


def all_stored(cloud, app, kept):
    for upload_id, content in kept.items():
        last, said = app.wait(f"uploads/{upload_id}")
        if said != "SUCCEEDED" or cloud.read(last.object.key) != content:
            return f"uploads/{upload_id}: {said} {last.failure.message}"
    return True


def work_goes_on(checks, cloud, app):
    later = os.urandom(PHOTO_BYTES)
    said, upload_id = hand_over(app, later)
    checks.equal("with room again a photo is taken", said, "OK")
    checks.equal("and stored", all_stored(cloud, app, {upload_id: later}), True)


def pause(app):
    app.call(app.gateway.Pause, gateway_pb.PauseRequest())


def resume(app):
    app.call(app.gateway.Resume, gateway_pb.ResumeRequest())


def floor(bench, checks, cloud):
    """The floor of free space is reached: refused before a byte is kept."""
    disk = Disk(bench.dir / "floor")
    daemon = Daemon(bench, "floor", UPLOAD.format(floor=FLOOR_BYTES) + cloud.config())
    app = App(daemon.socket)
    try:
        checks.equal("sign-in", app.sign_in(USER, PASSWORD)[1], "OK")
        pause(app)
        kept = {}
        checks.equal("at the floor", fill(app, kept), "RESOURCE_EXHAUSTED DISK_FLOOR_REACHED")
        free = os.statvfs(disk.folder).f_bavail * os.statvfs(disk.folder).f_frsize
        checks.ok(f"{len(kept)} photos were taken first", len(kept) >= 5, len(kept))
        checks.ok("the floor is kept, but for one photo", free > FLOOR_BYTES - PHOTO_BYTES - MIB, free)
        resume(app)
        checks.equal("all of them are stored, byte for byte", all_stored(cloud, app, kept), True)
        work_goes_on(checks, cloud, app)
    finally:
        app.close()
        daemon.stop()
        disk.close()


def full(bench, checks, cloud):
    """Somebody else fills the disk to the last byte (ENOSPC), with no floor to warn."""
    disk = Disk(bench.dir / "full")
    daemon = Daemon(bench, "full", UPLOAD.format(floor=0) + cloud.config())
    app = App(daemon.socket)
    try:
        checks.equal("sign-in", app.sign_in(USER, PASSWORD)[1], "OK")
        pause(app)
        kept = {}
        said = fill(app, kept)
        checks.equal("a full disk", said, "RESOURCE_EXHAUSTED DISK_FLOOR_REACHED")
        filler = disk.folder / "filler"
        # Without a buffer: closing the file would try again to write what is left in it.
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(64 * 1024))
        said, refused = hand_over(app, os.urandom(PHOTO_BYTES))
        typed = {"RESOURCE_EXHAUSTED DISK_FLOOR_REACHED", "INTERNAL STORAGE_FAILED"}
        checks.ok("not a byte left: refused with a typed error", said in typed, said)
        filler.unlink()
        # Where the journal could not be written the daemon has stopped, as it must, and systemd starts it again.
        if daemon.process.poll() is not None:
            daemon.start(UPLOAD.format(floor=0) + cloud.config())
        resume(app)
        checks.equal("what was acknowledged is stored, byte for byte", all_stored(cloud, app, kept), True)
        work_goes_on(checks, cloud, app)
        daemon.stop()
        daemon.start(UPLOAD.format(floor=0) + cloud.config())
        left = [path.name for path in (daemon.dir / "state" / "spool").rglob("*") if path.is_file()]
        checks.ok("nothing but the refused photo may be in the spool", len(left) <= 1 + (refused in left), left)
    finally:
        app.close()
        daemon.stop()
        disk.close()


def run(bench, checks):
    if os.geteuid() != 0:
        checks.skip("a full disk", "mounting a tmpfs needs root")
        return
    cloud = LocalCloud(bench)
    cloud.make_user(USER, PASSWORD, "free-tier")
    floor(bench, checks, cloud)
    full(bench, checks, cloud)


if __name__ == "__main__":
    main("a disk that fills up", run)
