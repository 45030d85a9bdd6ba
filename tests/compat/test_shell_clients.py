"""grpcurl over the socket, and the two programs of examples/, as their users run them."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import threading

from harness import ROOT, clean_environment, main
from local_cloud import LocalCloud
from tidegate_app import Daemon, new_ulid

PASSWORD = "Correct-Horse-7"
USER = "ada@example.com"
SERVICES = ["Account", "Credential", "Gateway", "Session", "Upload"]


class Grpcurl:
    def __init__(self, bench, daemon):
        self.base = [bench.tool("grpcurl"), "-plaintext", "-unix", "-authority", "localhost"]
        self.socket = str(daemon.socket)

    def __call__(self, method, data=None, stdin=None):
        """(exit code, stdout, stderr)"""
        argv = list(self.base)
        if stdin is not None:
            argv += ["-d", "@"]
        elif data is not None:
            argv += ["-d", json.dumps(data)]
        done = subprocess.run([*argv, self.socket, *method.split()], input=stdin, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr


def with_grpcurl(checks, bench, daemon, cloud):
    grpcurl = Grpcurl(bench, daemon)
    code, out, err = grpcurl("list")
    checks.equal("grpcurl: list leaves with 0", (code, err), (0, ""))
    for service in SERVICES:
        checks.ok(f"grpcurl: lists {service}Service", f"tidegate.v1.{service}Service" in out, out)
    checks.ok("grpcurl: lists the health service", "grpc.health.v1.Health" in out, out)
    code, out, err = grpcurl("describe tidegate.v1.UploadSpec")
    checks.ok("grpcurl: describes a message", "string key = 3;" in out, out + err)
    code, out, err = grpcurl("grpc.health.v1.Health/Check", {})
    checks.ok("grpcurl: healthy", json.loads(out or "{}").get("status") == "SERVING", out + err)

    code, out, err = grpcurl("tidegate.v1.SessionService/SignIn", {"password": {"username": USER, "password": "Wrong-Horse-7"}})
    checks.ok("grpcurl: a wrong password says its reason", code != 0 and "BAD_CREDENTIALS" in err, err)
    code, out, err = grpcurl("tidegate.v1.SessionService/SignIn", {"password": {"username": USER, "password": PASSWORD}})
    checks.ok("grpcurl: signs in", json.loads(out or "{}").get("session", {}).get("name", "").startswith("sessions/"), out + err)

    path = daemon.photos / "grpcurl.jpg"
    path.write_bytes(os.urandom(300_000))
    spec = {"key": "free/grpcurl.jpg", "keyPolicy": "KEY_POLICY_EXACT", "waitFor": "WAIT_FOR_STORED"}
    code, out, err = grpcurl("tidegate.v1.UploadService/CreateUpload", {"spec": spec, "path": str(path)})
    upload = json.loads(out or "{}").get("upload", {})
    checks.equal(f"grpcurl: CreateUpload {err}", upload.get("state"), "UPLOAD_STATE_SUCCEEDED")
    checks.equal("grpcurl: its bytes", cloud.read(upload["object"]["key"]), path.read_bytes())

    content = os.urandom(700_000)
    spec["key"] = "free/streamed.jpg"
    chunks = [content[start : start + 262_144] for start in range(0, len(content), 262_144)]
    messages = [{"begin": {"uploadId": new_ulid(), "spec": spec}}]
    messages += [{"chunk": base64.b64encode(chunk).decode()} for chunk in chunks]
    messages += [{"finish": {"totalBytes": len(content)}}]
    code, out, err = grpcurl("tidegate.v1.UploadService/Upload", stdin="\n".join(map(json.dumps, messages)))
    upload = json.loads(out or "{}").get("upload", {})
    checks.equal(f"grpcurl: Upload with -d @ {err}", upload.get("state"), "UPLOAD_STATE_SUCCEEDED")
    checks.equal("grpcurl: its bytes", cloud.read(upload["object"]["key"]), content)


def with_shell_example(checks, bench, daemon, cloud):
    environment = {
        **clean_environment(),
        "TIDEGATE_SOCKET": str(daemon.socket),
        "GRPCURL": bench.tool("grpcurl"),
        "AWS": bench.tool("aws"),
        "AWS_ENDPOINT_URL": cloud.url,
    }

    def kiosk(*arguments, stdin=""):
        done = subprocess.run([str(ROOT / "examples/shell/kiosk.sh"), *arguments], input=stdin, env=environment,
                              capture_output=True, text=True, timeout=120)  # fmt: skip
        return done.returncode, done.stdout.strip(), done.stderr

    code, out, err = kiosk("services")
    checks.ok("shell example: services", code == 0 and "tidegate.v1.UploadService" in out, out + err)
    code, out, err = kiosk("sign-in", USER, stdin=PASSWORD + "\n")
    checks.ok("shell example: sign-in", code == 0 and re.fullmatch(r"sessions/\w+", out), out + err)
    photo = daemon.photos / "from shell.jpg"
    photo.write_bytes(os.urandom(600_000))
    for how in ("hand-over", "stream"):
        code, name, err = kiosk(how, str(photo), f"free/{how}.jpg")
        checks.ok(f"shell example: {how}", code == 0 and re.fullmatch(r"uploads/[0-9A-Z]{26}", name), name + err)
        code, out, err = kiosk("watch", name)
        checks.ok(f"shell example: {how} is stored", "UPLOAD_STATE_SUCCEEDED" in out, out + err)
        key = next((key for key in cloud.keys() if f"/free/{how}-" in key), None)
        checks.ok(f"shell example: {how}, the bytes", key and cloud.read(key) == photo.read_bytes(), key)
    code, out, err = kiosk("aws", "sts", "get-caller-identity")
    checks.ok("shell example: aws sts get-caller-identity", code == 0 and "assumed-role" in out, out + err)
    prefix = next(key for key in cloud.keys() if "/free/stream-" in key).partition("/free/")[0]
    code, out, err = kiosk("aws", "s3", "cp", str(photo), f"s3://app-photos/{prefix}/free/by-aws.jpg")
    checks.ok("shell example: aws s3 cp to free/", code == 0, out + err)
    code, out, err = kiosk("aws", "s3", "cp", str(photo), f"s3://app-photos/{prefix}/premium/by-aws.jpg")
    checks.ok("shell example: aws s3 cp to premium/ is denied", code != 0 and "AccessDenied" in err, out + err)


class CuttingProxy:
    """A socket before the daemon's that cuts its first long connection after `cut_after` bytes from the client."""

    def __init__(self, path, target, cut_after):
        self.path, self.target, self.cut_after = str(path), str(target), cut_after
        self.cuts = 0
        self.lock = threading.Lock()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.target)
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source, sink, upwards):
        passed = 0
        try:
            while data := source.recv(65536):
                sink.sendall(data)
                passed += len(data)
                if upwards and passed > self.cut_after:
                    with self.lock:
                        cut = self.cuts == 0
                        self.cuts += cut
                    if cut:
                        break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()


def with_python_example(checks, bench, daemon, cloud):
    photo = bench.dir / "large.jpg"
    photo.write_bytes(os.urandom(12 * 1024 * 1024))

    def kiosk(socket_path, key, password=PASSWORD):
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples/python/kiosk.py"), "--socket", str(socket_path), "--user", USER,
             str(photo), key],
            input=password + "\n", env=clean_environment(), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    code, out, err = kiosk(daemon.socket, "free/whole.jpg")
    stored = re.search(r"^s3://app-photos/(\S+) crc64nvme \S+$", out, re.M)
    checks.ok("python example: stores a photo", code == 0 and stored, out + err)
    checks.ok("python example: its bytes", stored and cloud.read(stored[1]) == photo.read_bytes())

    proxy = CuttingProxy(bench.dir / "cut.sock", daemon.socket, 5 * 1024 * 1024)
    code, out, err = kiosk(proxy.path, "free/cut.jpg")
    proxy.close()
    resumed = re.search(r"^continuing at byte (\d+)$", out, re.M)
    stored = re.search(r"^s3://app-photos/(\S+) crc64nvme \S+$", out, re.M)
    checks.ok("python example: a cut stream is continued", code == 0 and proxy.cuts == 1 and resumed, out + err)
    checks.ok("python example: not from its beginning", resumed and int(resumed[1]) > 0, out)
    checks.ok("python example: the bytes are whole", stored and cloud.read(stored[1]) == photo.read_bytes(), out)
    checks.equal("python example: one object", sum("/free/cut-" in key for key in cloud.keys()), 1)

    code, out, err = kiosk(daemon.socket, "premium/x.jpg")
    checks.ok("python example: a denied photo says why", code != 0 and "ACCESS_DENIED" in err, out + err)
    code, out, err = kiosk(daemon.socket, "free/x.jpg", "Wrong-Horse-7")
    checks.ok("python example: a wrong password says so", code != 0 and "UNAUTHENTICATED" in err, out + err)


def run(bench, checks):
    cloud = LocalCloud(bench)
    cloud.make_user(USER, PASSWORD, "free-tier")
    daemon = Daemon(bench, "daemon", cloud.config())
    with_grpcurl(checks, bench, daemon, cloud)
    with_shell_example(checks, bench, daemon, cloud)
    with_python_example(checks, bench, daemon, cloud)
    checks.equal("the daemon leaves with 0 on SIGTERM", daemon.stop(), 0)


if __name__ == "__main__":
    main("grpcurl and the examples", run)
