"""A hunt for secrets: canaries go through every call of the API while the daemon logs at TRACE, and are then looked for
wherever somebody could find them later: logs, errors, the journal, the state directory, the environments of the daemon and
its children, its memory and a core dump.
"""

import base64
import os
import pathlib
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.parse

import grpc

from harness import Failed, http, main, wait_until
from local_cloud import LocalCloud
from tidegate_app import App, Daemon, account_pb, credential_pb, gateway_pb, new_ulid, session_pb, upload_pb

USER = "ada@example.com"
MODULES = [account_pb, credential_pb, gateway_pb, session_pb, upload_pb]
# A local program of an ordinary uid, for what the kernel keeps from it.
PLAIN_UID = 54_323
APP_CALLBACK = "photos://signed-in"


def config(cloud):
    return f"""{cloud.config()}
[identity.hosted_ui]
domain_url = "{cloud.url}"
redirect_uris = ["{APP_CALLBACK}"]

[telemetry]
log_format = "json"
log_filter = "trace"

[vend]
listen = "127.0.0.1:0"
"""


def canary(name):
    """Like nothing else in the world, and accepted as a password."""
    return f"Canary-{name}-7-{secrets.token_hex(12)}"


class Recorder:
    """Makes calls; keeps what errors said, and which calls were made."""

    def __init__(self, app):
        self.app = app
        self.errors = []
        self.made = set()

    def __call__(self, stub, method, request):
        self.made.add(method)
        try:
            answer = getattr(stub, method)(request, timeout=60)
            return list(answer) if hasattr(answer, "__next__") else answer
        except grpc.RpcError as error:
            trailing = [str(value) for _, value in error.trailing_metadata() or ()]
            self.errors.append(" ".join([str(error.code()), error.details() or "", repr(error), *trailing]))
            return None

    def first_of(self, stub, method, request):
        """The first message of a stream that does not end by itself."""
        self.made.add(method)
        stream = getattr(stub, method)(request, timeout=60)
        try:
            return next(stream)
        except (grpc.RpcError, StopIteration) as error:
            self.errors.append(repr(error))
            return None
        finally:
            stream.cancel()


def every_method():
    """Every call that the API has, by its proto files."""
    found = set()
    for module in MODULES:
        for service in module.DESCRIPTOR.services_by_name.values():
            found |= {method.name for method in service.methods}
    return found


def put_through_every_call(daemon, cloud, found):
    """Calls everything, well and badly, and fills `found` with what must never be seen again."""
    app = App(daemon.socket)
    call = Recorder(app)
    found["password"], found["new password"], found["wrong password"] = canary("pw"), canary("new"), canary("wrong")

    def account(method, **fields):
        return call(app.accounts, method, getattr(account_pb, f"{method}Request")(**fields))

    def session(method, **fields):
        return call(app.sessions, method, getattr(session_pb, f"{method}Request")(**fields))

    account("SignUp", username=USER, password=found["password"], attributes={"email": USER})
    account("SignUp", username=USER, password=found["password"], attributes={"email": USER})
    account("ResendConfirmationCode", username=USER)
    found["confirmation code"] = cloud.code_for(USER)
    wrong_code = f"{(int(found['confirmation code']) + 1) % 1000000:06}"
    account("ConfirmSignUp", username=USER, confirmation_code=wrong_code)
    account("ConfirmSignUp", username=USER, confirmation_code=found["confirmation code"])
    account("ConfirmSignUp", username=USER, confirmation_code=found["confirmation code"])
    account("ForgotPassword", username=USER)
    found["reset code"] = cloud.code_for(USER)
    reset = {"username": USER, "confirmation_code": found["reset code"]}
    account("ConfirmForgotPassword", new_password=found["new password"], **{**reset, "confirmation_code": wrong_code})
    account("ConfirmForgotPassword", new_password=found["new password"], **reset)

    session("SignIn", password={"username": USER, "password": found["wrong password"]})
    session("SignIn", password={"username": USER, "password": found["password"]})
    signed_in = session("SignIn", password={"username": USER, "password": found["new password"]}).session
    cloud.move_to_tier(USER, "free-tier", None)
    session("RefreshSession", name=signed_in.name)
    session("GetSession", name=signed_in.name)
    session("ListSessions")
    call.first_of(app.sessions, "WatchSession", session_pb.WatchSessionRequest(name=signed_in.name))

    def tokens_and_keys(of, prefix=""):
        request = credential_pb.GetTokensRequest(session=of, include_access_token=True)
        tokens = call(app.credentials, "GetTokens", request)
        found[f"{prefix}ID token"], found[f"{prefix}access token"] = tokens.id_token, tokens.access_token
        request = credential_pb.GetAwsCredentialsRequest(session=of)
        keys = call(app.credentials, "GetAwsCredentials", request).credentials
        found[f"{prefix}secret key"], found[f"{prefix}session token"] = keys.secret_access_key, keys.session_token

    tokens_and_keys(signed_in.name)
    request = credential_pb.WatchAwsCredentialsRequest(session=signed_in.name)
    call.first_of(app.credentials, "WatchAwsCredentials", request)
    request = credential_pb.CreateCredentialsEndpointRequest(session=signed_in.name)
    endpoint = call(app.credentials, "CreateCredentialsEndpoint", request)
    found["endpoint's token"] = endpoint.authorization_token
    for token in (found["endpoint's token"], canary("endpoint")):
        http(endpoint.url, headers={"Authorization": token})

    # Tokens that the app got by itself: the only way to know a refresh token.
    cloud.idp.sign_up(
        ClientId=cloud.client_id,
        Username="ben@example.com",
        Password=found["password"],
        UserAttributes=[{"Name": "email", "Value": "ben@example.com"}],
    )
    cloud.idp.admin_confirm_sign_up(UserPoolId=cloud.user_pool_id, Username="ben@example.com")
    parameters = {"USERNAME": "ben@example.com", "PASSWORD": found["password"]}
    own = cloud.idp.initiate_auth(
        ClientId=cloud.client_id, AuthFlow="USER_PASSWORD_AUTH", AuthParameters=parameters
    )["AuthenticationResult"]
    found["refresh token"] = own["RefreshToken"]
    handed_in = {"id_token": own["IdToken"], "access_token": own["AccessToken"], "refresh_token": own["RefreshToken"]}
    session("SignIn", tokens={**handed_in, "id_token": own["IdToken"][:-8] + "AAAAAAAA"})
    second = session("SignIn", tokens=handed_in).session
    found["handed-in ID token"], found["handed-in access token"] = own["IdToken"], own["AccessToken"]
    session("RefreshSession", name=second.name)
    tokens_and_keys(second.name, "second ")
    session("SignIn", guest={})

    # TOTP: the secret and the codes.
    associated = cloud.idp.associate_software_token(AccessToken=own["AccessToken"])
    found["TOTP secret"] = associated["SecretCode"]
    code = totp(found["TOTP secret"])
    cloud.idp.verify_software_token(AccessToken=own["AccessToken"], UserCode=code)
    cloud.idp.set_user_mfa_preference(
        AccessToken=own["AccessToken"], SoftwareTokenMfaSettings={"Enabled": True, "PreferredMfa": True}
    )
    asked = session("SignIn", password={"username": "ben@example.com", "password": found["password"]}).challenge
    found["challenge id"] = asked.challenge_id
    answer = session_pb.RespondToChallengeRequest
    call(app.sessions, "RespondToChallenge", answer(challenge_id=canary("id"), responses={"SOFTWARE_TOKEN_MFA_CODE": code}))
    # A code is good once: the next one comes with the next half minute.
    found["TOTP code"] = wait_until("another code", lambda: (new := totp(found["TOTP secret"])) != code and new, 40)
    responses = {"SOFTWARE_TOKEN_MFA_CODE": found["TOTP code"]}
    call(app.sessions, "RespondToChallenge", answer(challenge_id=asked.challenge_id, responses=responses))
    call(app.sessions, "RespondToChallenge", answer(challenge_id=asked.challenge_id, responses=responses))

    # The hosted page: a state that is not ours, then ours, whose code goes to the token endpoint and is refused there.
    begun = call(app.sessions, "BeginFederatedSignIn", session_pb.BeginFederatedSignInRequest())
    asked_for = urllib.parse.parse_qs(urllib.parse.urlsplit(begun.authorize_url).query)
    found["state"], found["nonce"] = begun.state, asked_for["nonce"][0]
    found["authorisation code"], found["foreign state"] = canary("code"), canary("state")
    for state in (found["foreign state"], begun.state):
        url = f"{APP_CALLBACK}?code={found['authorisation code']}&state={state}"
        call(app.sessions, "CompleteFederatedSignIn", session_pb.CompleteFederatedSignInRequest(redirect_url=url))
    if "FEDERATION_CODE_REFUSED" not in call.errors[-1]:
        raise Failed(f"the code did not reach the token endpoint: {call.errors[-1]}")

    uploads(call, app, daemon, signed_in.name)
    call(app.gateway, "GetStatus", gateway_pb.GetStatusRequest())
    call(app.gateway, "Pause", gateway_pb.PauseRequest())
    call(app.gateway, "Resume", gateway_pb.ResumeRequest())
    call(app.gateway, "ReloadConfig", gateway_pb.ReloadConfigRequest())
    session("SignOut", name=second.name, uploads="SIGN_OUT_UPLOADS_CANCEL", everywhere=True)
    session("RefreshSession", name=second.name)
    app.close()
    found["seal key"] = (daemon.dir / "key" / "seal.key").read_bytes()
    return call, signed_in.name


def uploads(call, app, daemon, session):
    name, content = new_ulid(), os.urandom(50_000)
    spec = upload_pb.UploadSpec(session=session, key="free/one.jpg", wait_for="WAIT_FOR_STORED")

    def stream(upload_id, spec):
        yield upload_pb.UploadRequest(begin={"upload_id": upload_id, "spec": spec})
        yield upload_pb.UploadRequest(chunk=content)
        yield upload_pb.UploadRequest(finish={"total_bytes": len(content)})

    stored = call(app.uploads, "Upload", stream(name, spec))
    if stored is None or stored.upload.state != upload_pb.UPLOAD_STATE_SUCCEEDED:
        raise Failed(f"the photo was not stored: {stored} {call.errors[-1:]}")
    denied = upload_pb.UploadSpec(session=session, key="premium/two.jpg", wait_for="WAIT_FOR_STORED")
    call(app.uploads, "Upload", stream(new_ulid(), denied))
    (daemon.photos / "three.jpg").write_bytes(content)
    spec = upload_pb.UploadSpec(session=session, key="free/three.jpg")
    request = upload_pb.CreateUploadRequest(spec=spec, path=str(daemon.photos / "three.jpg"))
    created = call(app.uploads, "CreateUpload", request)
    call(app.uploads, "GetUpload", upload_pb.GetUploadRequest(name=created.upload.name))
    call(app.uploads, "ListUploads", upload_pb.ListUploadsRequest())
    call.first_of(app.uploads, "WatchUpload", upload_pb.WatchUploadRequest(name=created.upload.name))
    call.first_of(app.uploads, "WatchUploads", upload_pb.WatchUploadsRequest(since={"seconds": 1}))
    call(app.uploads, "RetryUpload", upload_pb.RetryUploadRequest(name=created.upload.name))
    call(app.uploads, "CancelUpload", upload_pb.CancelUploadRequest(name=created.upload.name))


def totp(secret):
    import hashlib
    import hmac
    import struct

    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.new(key, struct.pack(">Q", int(time.time()) // 30), hashlib.sha1).digest()
    start = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[start : start + 4])[0] & 0x7FFFFFFF) % 1_000_000:06}"


def forms(secret):
    """A secret as it is, and as somebody may have written it."""
    plain = secret if isinstance(secret, bytes) else secret.encode()
    yield plain
    yield base64.b64encode(plain).rstrip(b"=")[:-2]
    yield base64.urlsafe_b64encode(plain).rstrip(b"=")[:-2]
    yield plain.hex().encode()
    if isinstance(secret, bytes):
        # As a list of numbers.
        yield ", ".join(str(byte) for byte in plain).encode()


def is_in(secret, text):
    if isinstance(secret, str) and secret.isdigit():
        # Six digits are also in many a number: only alone they are a code.
        return re.search(rb"(?<![\w.:-])" + secret.encode() + rb"(?![\w.-])", text) is not None
    return any(form in text for form in forms(secret))


def places(bench, daemon, call):
    """Where somebody could look later: (name, bytes, something that must be there or the search is blind)."""
    yield "the daemon's log at TRACE", bench.log("daemon").encode(), b'"level":"DEBUG"'
    yield "the errors of the calls", "\n".join(call.errors).encode(), b"BAD_CREDENTIALS"
    state = b"".join(path.read_bytes() for path in sorted((daemon.dir / "state").rglob("*")) if path.is_file())
    yield "the state directory", state, b'"sealed"'
    journal = b"".join(path.read_bytes() for path in sorted((daemon.dir / "state").glob("*journal*")))
    yield "the journal", journal, b"SQLite"
    environments = b"\0".join(
        pathlib.Path(f"/proc/{pid}/environ").read_bytes() for pid in [daemon.process.pid, *children(daemon.process.pid)]
    )
    yield "/proc/self/environ of the daemon and its children", environments, b"AWS_REGION"


def children(pid):
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *children(int(child))]
    return found


def cannot_be_read(checks, bench, daemon, clouds_config):
    """The kernel shows the process's memory to nobody of its own uid, and writes no core."""
    limits = pathlib.Path(f"/proc/{daemon.process.pid}/limits").read_text()
    core = re.search(r"Max core file size\s+(\S+)\s+(\S+)", limits).groups()
    checks.equal("the daemon may write no core dump", core, ("0", "0"))
    folder = bench.dir / "undumpable"
    folder.mkdir()
    config = folder / "tidegate.toml"
    config.write_text(
        f'[daemon]\nstate_dir = "{folder}/state"\n[api]\nsocket_path = "{folder}/s.sock"\n'
        f'[session]\nseal_key_file = "{folder}/key/seal.key"\n{clouds_config}'
    )
    as_plain = []
    if os.geteuid() == 0:
        os.chown(folder, PLAIN_UID, PLAIN_UID)
        as_plain = ["setpriv", f"--reuid={PLAIN_UID}", f"--regid={PLAIN_UID}", "--clear-groups"]
    argv = [*as_plain, bench.tidegate, "serve", "--config", str(config)]
    # `setpriv` inside `start` sets the death signal, which a change of uid would clear: it is ended below in any case.
    other = bench.start("undumpable", argv)
    wait_until("the other daemon's socket", (folder / "s.sock").exists)
    sleeper = subprocess.Popen([*as_plain, "sleep", "60"])

    def readable(pid):
        script = f"open('/proc/{pid}/mem', 'rb'); open('/proc/{pid}/environ', 'rb').read(); print('readable')"
        done = subprocess.run([*as_plain, sys.executable, "-c", script], capture_output=True, text=True)
        return "readable" in done.stdout

    wait_until("a process of the same uid that can be read", lambda: readable(sleeper.pid))
    checks.ok("a program of its own uid cannot read its memory or environment", not readable(other.pid))
    sleeper.kill()
    sleeper.wait()
    other.send_signal(signal.SIGABRT)
    other.wait(30)
    status = other.returncode
    checks.equal("a crash ends it by the signal", status, -signal.SIGABRT)
    left = [path.name for path in folder.rglob("*core*")]
    checks.ok("and leaves no core dump", not left, left)


def run(bench, checks):
    parameters = ["--parameter", "HostedDomainPrefix=rehearsal", "--parameter", f"CallbackUrls={APP_CALLBACK}"]
    cloud = LocalCloud(bench, arguments=parameters)
    daemon = Daemon(bench, "daemon", config(cloud))
    found = {}
    call, _ = put_through_every_call(daemon, cloud, found)
    missing = every_method() - call.made
    checks.ok(f"every one of the API's {len(every_method())} calls was made", not missing, sorted(missing))
    empty = [name for name, secret in found.items() if not secret]
    checks.ok(f"{len(found)} secrets were put through them", len(found) >= 12 and not empty, empty)
    for place, text, witness in places(bench, daemon, call):
        checks.ok(f"the search sees {place} ({len(text)} bytes)", witness in text)
        # What is searched for is found where it is: once, in a copy.
        planted = text + b" " + (secret := found["password"]).encode() + b" "
        checks.ok(f"a secret in {place} would be found", is_in(secret, planted))
        seen = [name for name, secret in found.items() if is_in(secret, text)]
        checks.ok(f"none of them is in {place}", not seen, seen)
    checks.equal("the daemon stops in order", daemon.stop(), 0)
    text = bench.log("daemon").encode()
    seen = [name for name, secret in found.items() if is_in(secret, text)]
    checks.ok("nor in its log after the stop", not seen, seen)
    # A daemon that lives for the checks of the kernel's part.
    daemon.start(config(cloud))
    cannot_be_read(checks, bench, daemon, cloud.config())


if __name__ == "__main__":
    main("secrets", run)
