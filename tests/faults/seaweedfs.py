"""Runs a command beside a SeaweedFS that has a bucket, an administrator, somebody who may only write, and somebody who
may read as well: the fault tests find it in their environment.
"""

import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "compat"))

from harness import Bench, client, free_port, wait_until  # noqa: E402

BUCKET = "photos"
ACTIONS = {
    "admin": ["Admin", "Read", "Write", "List"],
    "put-only": [f"Write:{BUCKET}"],
    "reader": [f"Read:{BUCKET}", f"Write:{BUCKET}", f"List:{BUCKET}"],
}


def secret(name):
    """Of a store on loopback that ends with this process; the tests know it too."""
    return f"{name}-secret"


def start(bench):
    identities = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": secret(name)}], "actions": actions}
        for name, actions in ACTIONS.items()
    ]
    config = bench.dir / "identities.json"
    config.write_text(json.dumps({"identities": identities}))
    data = bench.dir / "data"
    data.mkdir()
    port = free_port()
    process = bench.start(
        "seaweedfs",
        [
            bench.tool("weed"), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={port}",
            f"-master.port={free_port()}", f"-volume.port={free_port()}", f"-filer.port={free_port()}",
            "-webdav=false", "-admin.ui=false", f"-s3.config={config}",
        ],
    )  # fmt: skip
    bench.wait_for_port("seaweedfs", process, port)
    url = f"http://127.0.0.1:{port}"
    keys = {"AccessKeyId": "admin", "SecretAccessKey": secret("admin")}
    wait_until("SeaweedFS making a bucket", lambda: client("s3", url, keys).create_bucket(Bucket=BUCKET))
    return url


def main():
    # It starts no daemon: the tests bring their own.
    bench = Bench(sys.executable)
    try:
        url = start(bench)
        environment = {**os.environ, "TIDEGATE_FAULTS_S3_URL": url, "TIDEGATE_FAULTS_S3_BUCKET": BUCKET}
        done = subprocess.run(sys.argv[1:], env=environment)
        if done.returncode:
            print(f"---- the end of seaweedfs.log\n{bench.log('seaweedfs')[-2000:]}")
    finally:
        bench.close()
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
