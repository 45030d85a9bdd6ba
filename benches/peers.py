"""The clients that Tidegate is measured beside: how each is told to send files to the sink. See benches/compare."""

import os
import shutil
import subprocess

from harness import Failed, clean_environment

# As many photos as the client of benches/gateway.rs has on their way at once.
FILES_AT_ONCE = 8


class Sink:
    """Where they send to, as they need to know it."""

    def __init__(self, url, ca):
        self.url, self.ca = url, ca

    def environment(self):
        return {
            **clean_environment(),
            "SSL_CERT_FILE": str(self.ca),
            "AWS_CA_BUNDLE": str(self.ca),
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "y",
        }


class S5cmd:
    name = "s5cmd"

    def __init__(self, program):
        self.program = program

    def version(self):
        return f"s5cmd {said(self.program, 'version').removeprefix('v').partition('-')[0]}"

    def command(self, sink, folder, files):
        what = f"{folder}/*" if len(files) > 1 else str(files[0])
        return [self.program, "--no-verify-ssl", "--endpoint-url", sink.url, "cp", what, "s3://bench/s5cmd/"]

    def environment(self, sink):
        return sink.environment()


class AwsCli:
    name = "aws cli with crt"

    def __init__(self, program, config):
        self.program, self.config = program, config
        config.write_text("[default]\ns3 =\n    preferred_transfer_client = crt\n")

    def version(self):
        return said(self.program, "--version").partition(" ")[0]

    def command(self, sink, folder, files):
        if len(files) > 1:
            return [self.program, "s3", "cp", "--recursive", str(folder), "s3://bench/aws", "--quiet"]
        return [self.program, "s3", "cp", str(files[0]), "s3://bench/aws/one", "--quiet"]

    def environment(self, sink):
        return {**sink.environment(), "AWS_CONFIG_FILE": str(self.config)}


class Rclone:
    name = "rclone"

    def __init__(self, program):
        self.program = program

    def version(self):
        return said(self.program, "version").splitlines()[0]

    def command(self, sink, folder, files):
        # What it compares afterwards is an MD5 as the ETag, which the sink cannot know.
        options = ["--config", os.devnull, "--ca-cert", str(sink.ca), "--s3-no-check-bucket", "--ignore-checksum"]
        if len(files) > 1:
            many = ["--transfers", str(FILES_AT_ONCE), "copy", str(folder), "sink:bench/rclone"]
            return [self.program, *options, *many]
        return [self.program, *options, "copyto", str(files[0]), "sink:bench/rclone/one"]

    def environment(self, sink):
        environment = sink.environment()
        # Its own --ca-cert and this together are more than it can do.
        del environment["AWS_CA_BUNDLE"]
        settings = {"TYPE": "s3", "PROVIDER": "Other", "ENV_AUTH": "true", "ENDPOINT": sink.url, "REGION": "us-east-1"}
        return {**environment, **{f"RCLONE_CONFIG_SINK_{name}": value for name, value in settings.items()}}


class TransferManager:
    name = "rust transfer manager"

    def __init__(self, program):
        self.program = program

    def version(self):
        return "aws-sdk-s3-transfer-manager 0.3.1"

    def command(self, sink, folder, files):
        return [self.program, "--at-once", str(FILES_AT_ONCE), "bench", *map(str, files)]

    def environment(self, sink):
        return sink.environment()


def said(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, env=clean_environment(), timeout=60)
    if done.returncode != 0:
        raise Failed(f"{argv[0]} does not run: {done.stderr[-300:]}")
    return done.stdout.strip()


def all_peers(bench, transfer_manager):
    """Every peer; rclone only where it is installed."""
    peers = [
        TransferManager(transfer_manager),
        S5cmd(bench.tool("s5cmd")),
        AwsCli(bench.tool("aws"), bench.dir / "aws-config"),
    ]
    rclone = shutil.which("rclone")
    if rclone is None:
        print("rclone is not installed (Debian: apt-get install rclone): measured without it")
    else:
        peers.append(Rclone(rclone))
    return peers
