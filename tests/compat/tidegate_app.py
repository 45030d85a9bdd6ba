"""A daemon of its own, and the gRPC calls of an app that talks to it."""

import os
import signal
import sys
import time

import grpc

from harness import ROOT, Failed, error_reason, grpc_channel, unit_environment, wait_until

sys.path.insert(0, str(ROOT / "proto"))
account_pb, account_services = grpc.protos_and_services("tidegate/v1/account.proto")
credential_pb, credential_services = grpc.protos_and_services("tidegate/v1/credential.proto")
gateway_pb, gateway_services = grpc.protos_and_services("tidegate/v1/gateway.proto")
session_pb, session_services = grpc.protos_and_services("tidegate/v1/session.proto")
upload_pb, upload_services = grpc.protos_and_services("tidegate/v1/upload.proto")

CALL_TIMEOUT_S = 60
CHUNK_BYTES = 256 * 1024


def new_ulid():
    number = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number >> 5 * i & 31] for i in range(25, -1, -1))


class Daemon:
    """`tidegate serve` in a folder of its own; can be stopped and started again on the same state."""

    def __init__(self, bench, name, clouds_config, extra="", session="", start=True):
        self.bench = bench
        self.name = name
        self.dir = bench.dir / name
        # Something may be mounted there already.
        self.dir.mkdir(exist_ok=True)
        self.dir.chmod(0o755)
        self.socket = self.dir / "tidegate.sock"
        self.photos = self.dir / "photos"
        self.photos.mkdir()
        self.config_file = self.dir / "tidegate.toml"
        self.process = None
        self.extra = extra
        self.session = session
        if start:
            self.start(clouds_config)

    def spawn(self, clouds_config, env=None):
        """Starts it, and does not wait until it answers."""
        self.config_file.write_text(
            f"""
[daemon]
state_dir = "{self.dir}/state"

[api]
socket_path = "{self.socket}"
socket_mode = "0666"
{self.extra}
[session]
seal_key_file = "{self.dir}/key/seal.key"
{self.session}

[upload]
file_roots = ["{self.photos}"]
{clouds_config}"""
        )
        argv = [self.bench.tidegate, "serve", "--config", str(self.config_file)]
        self.process = self.bench.start(self.name, argv, {**unit_environment(), **(env or {})})

    def start(self, clouds_config, env=None):
        self.spawn(clouds_config, env)

        def ready():
            if self.process.poll() is not None:
                raise Failed(f"the daemon ended with {self.process.returncode}:\n{self.bench.log(self.name)[-3000:]}")
            app = App(self.socket)
            try:
                return app.gateway.GetStatus(gateway_pb.GetStatusRequest(), timeout=1).version
            finally:
                app.close()

        try:
            wait_until("the daemon answering", ready)
        except Failed as error:
            raise Failed(f"{error}\n{self.bench.log(self.name)[-3000:]}") from None

    def restart(self, clouds_config):
        self.stop()
        self.start(clouds_config)

    def stop(self):
        return self.bench.stop(self.process, signal.SIGTERM)


class App:
    """What an app does over the socket; each call answers "OK ..." or "STATUS REASON", so that runs can be compared."""

    def __init__(self, socket_path):
        self.channel = grpc_channel(socket_path)
        self.accounts = account_services.AccountServiceStub(self.channel)
        self.sessions = session_services.SessionServiceStub(self.channel)
        self.credentials = credential_services.CredentialServiceStub(self.channel)
        self.uploads = upload_services.UploadServiceStub(self.channel)
        self.gateway = gateway_services.GatewayServiceStub(self.channel)

    def close(self):
        self.channel.close()

    def call(self, method, request):
        """(answer, "OK") or (None, "STATUS REASON")."""
        try:
            return method(request, timeout=CALL_TIMEOUT_S), "OK"
        except grpc.RpcError as error:
            return None, f"{error.code().name} {error_reason(error)}"

    def sign_up(self, username, password):
        request = account_pb.SignUpRequest(username=username, password=password, attributes={"email": username})
        return self.call(self.accounts.SignUp, request)

    def confirm(self, username, code):
        request = account_pb.ConfirmSignUpRequest(username=username, confirmation_code=code)
        return self.call(self.accounts.ConfirmSignUp, request)

    def sign_in(self, username, password):
        request = session_pb.SignInRequest(password={"username": username, "password": password})
        return self.call(self.sessions.SignIn, request)

    def sign_out(self, session, uploads="SIGN_OUT_UPLOADS_PARK"):
        return self.call(self.sessions.SignOut, session_pb.SignOutRequest(name=session, uploads=uploads))

    def refresh(self, session=""):
        return self.call(self.sessions.RefreshSession, session_pb.RefreshSessionRequest(name=session))

    def aws_credentials(self, session=""):
        """boto3's names of the keys."""
        request = credential_pb.GetAwsCredentialsRequest(session=session)
        answer, said = self.call(self.credentials.GetAwsCredentials, request)
        if answer is None:
            return None, said
        keys = answer.credentials
        return {
            "AccessKeyId": keys.access_key_id,
            "SecretAccessKey": keys.secret_access_key,
            "SessionToken": keys.session_token,
        }, said

    def stream(self, key, content, exact=False, upload_id=None, **spec):
        """Hands bytes over and waits until the upload has ended."""
        spec = upload_pb.UploadSpec(
            key=key, key_policy="KEY_POLICY_EXACT" if exact else "KEY_POLICY_UNIQUE", wait_for="WAIT_FOR_STORED", **spec
        )

        def messages():
            yield upload_pb.UploadRequest(begin={"upload_id": upload_id or new_ulid(), "spec": spec})
            for start in range(0, len(content), CHUNK_BYTES):
                yield upload_pb.UploadRequest(chunk=content[start : start + CHUNK_BYTES])
            yield upload_pb.UploadRequest(finish={"total_bytes": len(content)})

        answer, said = self.call(self.uploads.Upload, messages())
        return (answer.upload, describe(answer.upload)) if answer else (None, said)

    def create(self, key, path, **spec):
        spec = upload_pb.UploadSpec(key=key, wait_for="WAIT_FOR_STORED", **spec)
        request = upload_pb.CreateUploadRequest(spec=spec, path=str(path))
        answer, said = self.call(self.uploads.CreateUpload, request)
        return (answer.upload, describe(answer.upload)) if answer else (None, said)

    def retry(self, name):
        answer, said = self.call(self.uploads.RetryUpload, upload_pb.RetryUploadRequest(name=name))
        return (self.wait(answer.upload.name)) if answer else (None, said)

    def wait(self, name):
        last = None
        for update in self.uploads.WatchUpload(upload_pb.WatchUploadRequest(name=name), timeout=CALL_TIMEOUT_S):
            last = update.upload
        return last, describe(last)


def describe(upload):
    state = upload_pb.UploadState.Name(upload.state).removeprefix("UPLOAD_STATE_")
    return f"{state} {upload.failure.reason}" if upload.failure.reason and state != "SUCCEEDED" else state
