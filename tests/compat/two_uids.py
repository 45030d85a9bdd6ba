"""A second user of the machine cannot see, use or end what the first one has.

The calls of each user come from a process of its own that runs under that uid: it loads everything first, then drops
its privileges for good, so it needs no access to this folder.
"""

import multiprocessing
import os

from tidegate_app import App, credential_pb, describe, gateway_pb, session_pb, upload_pb

FIRST_UID = 61001
SECOND_UID = 61002



class User:
    """An `App` in a process under another uid."""

    def __init__(self, uid):
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, uid), daemon=True)
        self.process.start()
        theirs.close()

    def connect(self, socket_path):
        self.pipe.send(str(socket_path))

    def __call__(self, function, *args):
        self.pipe.send((function.__name__, args))
        return self.pipe.recv()

    def close(self):
        self.pipe.close()
        self.process.join(10)


def _serve(pipe, uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    app = App(pipe.recv())
    while True:
        try:
            name, args = pipe.recv()
        except EOFError:
            os._exit(0)
        pipe.send(globals()[name](app, *args))


def sign_in(app, username, password):
    answer, said = app.sign_in(username, password)
    return (answer.session.name if answer else None, said)


def list_sessions(app):
    answer, said = app.call(app.sessions.ListSessions, session_pb.ListSessionsRequest())
    return [session.name for session in answer.sessions] if answer else said


def get_session(app, name):
    return app.call(app.sessions.GetSession, session_pb.GetSessionRequest(name=name))[1]


def watch_session(app, name):
    return app.call(lambda request, timeout: next(app.sessions.WatchSession(request, timeout=timeout)),
                    session_pb.WatchSessionRequest(name=name))[1]  # fmt: skip


def refresh_session(app, name):
    return app.refresh(name)[1]


def sign_out(app, name):
    return app.sign_out(name)[1]


def aws_credentials(app, name):
    return app.aws_credentials(name)[1]


def watch_aws_credentials(app, name):
    return app.call(lambda request, timeout: next(app.credentials.WatchAwsCredentials(request, timeout=timeout)),
                    credential_pb.WatchAwsCredentialsRequest(session=name))[1]  # fmt: skip


def tokens(app, name):
    return app.call(app.credentials.GetTokens, credential_pb.GetTokensRequest(session=name))[1]


def stream(app, key, session):
    upload, said = app.stream(key, b"photo", session=session)
    return (upload.name if upload else None, said)


def create(app, key, path):
    upload, said = app.create(key, path)
    return (upload.name if upload else None, said)


def get_upload(app, name):
    return app.call(app.uploads.GetUpload, upload_pb.GetUploadRequest(name=name))[1]


def list_uploads(app):
    answer, said = app.call(app.uploads.ListUploads, upload_pb.ListUploadsRequest())
    return [upload.name for upload in answer.uploads] if answer else said


def watch_upload(app, name):
    return app.call(lambda request, timeout: describe(next(app.uploads.WatchUpload(request, timeout=timeout)).upload),
                    upload_pb.WatchUploadRequest(name=name))[1]  # fmt: skip


def cancel_upload(app, name):
    return app.call(app.uploads.CancelUpload, upload_pb.CancelUploadRequest(name=name))[1]


def retry_upload(app, name):
    return app.retry(name)[1]


def reuse_upload_id(app, name):
    return app.stream("free/mine.jpg", b"photo", upload_id=name.removeprefix("uploads/"))[1]


def resume_upload(app, name):
    def messages():
        yield upload_pb.UploadRequest(resume={"name": name, "offset": 0})
        yield upload_pb.UploadRequest(finish={"total_bytes": 0})

    return app.call(app.uploads.Upload, messages())[1]


def count(app):
    answer, said = app.call(app.gateway.GetStatus, gateway_pb.GetStatusRequest())
    return (answer.session_count, sum(answer.upload_counts.values()), answer.all_uids) if answer else said


def pause(app):
    return app.call(app.gateway.Pause, gateway_pb.PauseRequest())[1]


def check(checks, daemon, first, second, username, password):
    first.connect(daemon.socket)
    second.connect(daemon.socket)
    session, said = first(sign_in, username, password)
    checks.equal("the first uid signs in", said, "OK")
    upload, said = first(stream, "free/first.jpg", session)
    checks.equal("the first uid uploads", said, "SUCCEEDED")
    denied, said = first(stream, "premium/first.jpg", session)
    checks.equal("the first uid has a failed upload", said, "FAILED ACCESS_DENIED")

    checks.equal("the second uid lists no sessions", second(list_sessions), [])
    checks.equal("the second uid lists no uploads", second(list_uploads), [])
    checks.equal("the second uid counts nothing", second(count), (0, 0, False))
    nobody, unknown_session, unknown_upload = "NOT_FOUND NO_SESSION", "NOT_FOUND SESSION_NOT_FOUND", "NOT_FOUND UPLOAD_NOT_FOUND"
    for call in (get_session, watch_session, refresh_session, sign_out, aws_credentials, watch_aws_credentials, tokens):
        checks.equal(f"the second uid: {call.__name__} of the first's session", second(call, session), unknown_session)
    checks.equal("the second uid: credentials without a name", second(aws_credentials, ""), nobody)
    checks.equal("the second uid: an upload into the first's session", second(stream, "free/x.jpg", session)[1], unknown_session)
    for call in (get_upload, watch_upload, cancel_upload, resume_upload):
        checks.equal(f"the second uid: {call.__name__} of the first's upload", second(call, upload), unknown_upload)
    checks.equal("the second uid: retry_upload of the first's upload", second(retry_upload, denied), unknown_upload)
    checks.equal("the second uid may not pause", second(pause), "PERMISSION_DENIED NOT_ADMIN")

    own, said = second(sign_in, username, password)
    checks.equal("the same person signs in under the second uid", said, "OK")
    checks.ok("and has another session", own != session, own)
    checks.equal("still no uploads of the first", second(list_uploads), [])
    checks.equal("each lists its own session", (first(list_sessions), second(list_sessions)), ([session], [own]))
    said = second(reuse_upload_id, upload)
    checks.ok("the first's upload id gives nothing of the first", said in ("SUCCEEDED", "ALREADY_EXISTS UPLOAD_ID_REUSED"), said)

    private = daemon.photos / "private.jpg"
    private.write_bytes(b"of the first")
    os.chown(private, FIRST_UID, FIRST_UID)
    private.chmod(0o600)
    checks.equal("a private file: its owner may hand it over", first(create, "free/private.jpg", str(private))[1], "SUCCEEDED")
    checks.equal(
        "a private file: another uid may not",
        second(create, "free/private.jpg", str(private))[1],
        "PERMISSION_DENIED FILE_NOT_READABLE_BY_CALLER",
    )
    checks.equal("the second signs out", second(sign_out, own), "OK")
    checks.equal("the first is still signed in", first(aws_credentials, session), "OK")
