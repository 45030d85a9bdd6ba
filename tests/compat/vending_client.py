"""An app on boto3 that knows nothing of Tidegate: puts an object per line of stdin, with what boto3 finds by itself."""

import json
import sys

import boto3
from botocore.config import Config

# A call that fails must be seen: nothing is tried twice.
config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
bucket = sys.argv[1]
s3 = None
for line in sys.stdin:
    key = line.strip()
    try:
        s3 = s3 or boto3.client("s3", config=config)
        s3.put_object(Bucket=bucket, Key=key, Body=b"by boto3")
        error = None
    except Exception as failure:  # noqa: BLE001 - whatever the SDK says
        error = f"{type(failure).__name__}: {failure}"
    print(json.dumps({"key": key, "error": error}), flush=True)
