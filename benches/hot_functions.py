"""The functions that a daemon runs: see benches/hot-functions."""

import argparse
import os
import pathlib
import re
import shlex
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/compat"))

from compare import StartedSink  # noqa: E402
from harness import Bench, Failed  # noqa: E402
from local_cloud import LocalCloud  # noqa: E402
from tidegate_app import App, Daemon, credential_pb, upload_pb  # noqa: E402

USERS = [f"user{number}@example.com" for number in range(3)]
PASSWORD = "Correct-Horse-7"
PHOTO_BYTES, LARGE_BYTES = 3 << 20, 40 << 20
# What the optimiser adds to the symbol of a function that it has moved: another number with every change.
MOVED = re.compile(r"\.llvm\.\d+$")
HEAD = """\
# The functions that a daemon runs, by their symbols and in the order in which they first ran; build.rs says what for.
# Written by benches/hot-functions; do not edit.
"""


def tracing_program(bench, program):
    """`tidegate`, of which every daemon writes down what ran in it."""
    wrapper = bench.dir / "tidegate-traced"
    trace = shlex.join([sys.executable, str(ROOT / "benches/ran.py")])
    wrapper.write_text(
        f'#!/bin/sh\nif [ "$1" = serve ]; then exec {trace} {bench.dir}/ran.$$ {program} "$@"; fi\nexec {program} "$@"\n'
    )
    wrapper.chmod(0o755)
    return str(wrapper)


def expect_ok(answer_and_said):
    answer, said = answer_and_said
    if not said.startswith("OK") and "SUCCEEDED" not in said:
        raise Failed(f"the work of the daemon that is looked at failed: {said}")
    return answer


def work(daemon, sessions):
    """What a daemon does all day."""
    app = App(daemon.socket)
    for session in sessions:
        expect_ok(app.call(app.credentials.GetAwsCredentials, credential_pb.GetAwsCredentialsRequest(session=session)))
        expect_ok(app.call(app.credentials.GetTokens, credential_pb.GetTokensRequest(session=session)))
    for name, size in (("large.bin", LARGE_BYTES), ("photo-1.jpg", PHOTO_BYTES), ("photo-2.jpg", PHOTO_BYTES)):
        content = os.urandom(size)
        expect_ok(app.stream(f"free/streamed/{name}", content, session=sessions[0]))
        file = daemon.photos / name
        file.write_bytes(content)
        expect_ok(app.create(f"free/files/{name}", file, session=sessions[0]))
    expect_ok(app.call(app.uploads.ListUploads, upload_pb.ListUploadsRequest()))
    app.close()


def run_daemon(bench, sink_program):
    """Sign-ins, credentials, uploads over TLS, and all of it again after a restart."""
    sink, cloud = StartedSink(bench, sink_program), LocalCloud(bench)
    identity, _, destination = cloud.config().partition("[[destination]]")
    destination = destination.replace(f'endpoint_url = "{cloud.url}"', f'endpoint_url = "{sink.url}"')
    config = f'{identity}[[destination]]{destination}ca_file = "{sink.ca}"\n'
    daemon = Daemon(bench, "daemon", config)
    app, sessions = App(daemon.socket), []
    for user in USERS:
        cloud.make_user(user, PASSWORD, "free-tier")
        sessions.append(expect_ok(app.sign_in(user, PASSWORD)).session.name)
    app.close()
    work(daemon, sessions)
    daemon.restart(config)
    work(daemon, sessions)
    if daemon.stop() != 0:
        raise Failed(f"the daemon did not stop well:\n{bench.log('daemon')[-2000:]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tidegate", required=True, help="with its symbols")
    parser.add_argument("--sink", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    bench = Bench(options.tidegate)
    try:
        bench.tidegate = tracing_program(bench, os.path.realpath(options.tidegate))
        run_daemon(bench, options.sink)
        files = sorted(bench.dir.glob("ran.*"), key=lambda file: file.stat().st_mtime_ns)
        ran = dict.fromkeys(MOVED.sub(".llvm.*", name) for file in files for name in file.read_text().split())
    finally:
        bench.close()
    pathlib.Path(options.out).write_text(HEAD + "".join(f"{name}\n" for name in ran))
    print(f"{len(ran)} functions in {options.out}")


if __name__ == "__main__":
    main()
