#!/usr/bin/env python3
"""A kiosk app: signs a user in, hands a photo over, and watches it until it is in S3.

    pip install grpcio grpcio-tools
    echo "$PASSWORD" | python3 examples/python/kiosk.py --user ada@example.com photo.jpg free/photo.jpg

What to take from it:
- the socket needs `grpc.default_authority`: without it gRPC sends the socket's path as the HTTP/2 authority, which
  servers refuse;
- the client names the upload before it sends a byte, so whatever breaks, the same upload is continued, never a second
  one made;
- the answer to `Upload` means "durable on this device": from then on the photo is Tidegate's, and the app may go away.
"""

import argparse
import os
import pathlib
import sys
import time

import grpc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
CHUNK_BYTES = 256 * 1024
# A stream that ended so is continued: the daemon went away, the stream was cut, or the cut one is still being closed.
BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED)
PAUSE_S = 0.2


def load_api(proto_folder):
    """The messages and the services, made from the .proto files when the program starts."""
    sys.path.insert(0, str(proto_folder))
    session, session_service = grpc.protos_and_services("tidegate/v1/session.proto")
    upload, upload_service = grpc.protos_and_services("tidegate/v1/upload.proto")
    return session, session_service, upload, upload_service


def new_ulid():
    """48 bits of milliseconds and 80 random bits in Crockford's base 32."""
    number = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number >> 5 * i & 31] for i in range(25, -1, -1))


class Kiosk:
    def __init__(self, socket_path, proto_folder=PROTO):
        self.session, session_service, self.upload, upload_service = load_api(proto_folder)
        channel = grpc.insecure_channel(
            f"unix:{socket_path}",
            options=[("grpc.default_authority", "localhost"), ("grpc.max_reconnect_backoff_ms", 1000)],
        )
        self.sessions = session_service.SessionServiceStub(channel)
        self.uploads = upload_service.UploadServiceStub(channel)

    def sign_in(self, username, password):
        request = self.session.SignInRequest(password={"username": username, "password": password})
        answer = self.sessions.SignIn(request, timeout=30)
        if answer.WhichOneof("result") == "challenge":
            raise SystemExit(f"kiosk: the directory asks for {answer.challenge.name}, which this example does not do")
        return answer.session

    def hand_over(self, path, key, session, attempts=10):
        """Streams the file until it is durable on this device; continues where a broken stream ended."""
        size = os.path.getsize(path)
        upload_id = new_ulid()
        name = f"uploads/{upload_id}"
        spec = self.upload.UploadSpec(session=session, key=key, content_type="image/jpeg")
        first = self.upload.UploadRequest(begin={"upload_id": upload_id, "spec": spec})
        offset = 0
        for attempt in range(1, attempts + 1):
            try:
                return self.uploads.Upload(self._messages(path, first, offset, size), timeout=600).upload
            except grpc.RpcError as error:
                if error.code() not in BROKEN or attempt == attempts:
                    raise
                print(f"the stream broke ({error.code().name}), asking how far it got", flush=True)
            time.sleep(PAUSE_S * attempt)
            known = self._find(name)
            if known is None:
                continue
            if known.state != self.upload.UPLOAD_STATE_RECEIVING:
                return known
            offset = known.received_bytes
            first = self.upload.UploadRequest(resume={"name": name, "offset": offset})
            print(f"continuing at byte {offset}", flush=True)
        raise AssertionError("the last attempt returns or raises")

    def _find(self, name):
        """The upload, or None where not even its first message arrived. Waits for a daemon that restarts."""
        try:
            request = self.upload.GetUploadRequest(name=name)
            return self.uploads.GetUpload(request, timeout=30, wait_for_ready=True).upload
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise

    def _messages(self, path, first, offset, size):
        yield first
        with open(path, "rb") as photo:
            photo.seek(offset)
            while chunk := photo.read(CHUNK_BYTES):
                yield self.upload.UploadRequest(chunk=chunk)
        yield self.upload.UploadRequest(finish={"total_bytes": size})

    def watch(self, name):
        """Yields the upload after every change until it has ended."""
        for update in self.uploads.WatchUpload(self.upload.WatchUploadRequest(name=name)):
            yield update.upload

    def state(self, upload):
        return self.upload.UploadState.Name(upload.state).removeprefix("UPLOAD_STATE_")


def main():
    arguments = argparse.ArgumentParser(description="Signs in, hands a photo over, watches it until it is in S3.")
    arguments.add_argument("--socket", default=os.environ.get("TIDEGATE_SOCKET", "/run/tidegate/tidegate.sock"))
    arguments.add_argument("--user", required=True, help="the name to sign in with; the password is read from stdin")
    arguments.add_argument("file")
    arguments.add_argument("key", help="below the destination's prefix, for example free/photo.jpg")
    options = arguments.parse_args()

    kiosk = Kiosk(options.socket)
    session = kiosk.sign_in(options.user, sys.stdin.readline().rstrip("\n"))
    print(f"signed in as {session.username}, groups {', '.join(session.groups) or 'none'}", flush=True)
    upload = kiosk.hand_over(options.file, options.key, session.name)
    print(f"{upload.name} is durable here: {upload.received_bytes} bytes", flush=True)
    for upload in kiosk.watch(upload.name):
        print(f"{kiosk.state(upload)} {upload.stored_bytes}/{upload.total_bytes}", flush=True)
    if upload.state != kiosk.upload.UPLOAD_STATE_SUCCEEDED:
        raise SystemExit(f"kiosk: {upload.failure.reason}: {upload.failure.message}")
    print(f"s3://{upload.object.bucket}/{upload.object.key} crc64nvme {upload.object.checksum_crc64nvme}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        raise SystemExit(f"kiosk: {error.code().name}: {error.details()}") from None
