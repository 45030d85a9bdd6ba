"""An app over the daemon's socket, with an authenticator app written from the RFC, at pools that ask for more than a
password: what the daemon and the local cloud make of it together.
"""

from harness import main
from local_cloud import LocalCloud
from test_cognito_clients import totp
from tidegate_app import App, Daemon, session_pb

PASSWORD = "Correct-Horse-7"
TEMPORARY = "For-Once-Only-9"


def answer(app, asked, **responses):
    """What came of it: the session or the next challenge, or the refusal."""
    request = session_pb.RespondToChallengeRequest(challenge_id=asked.challenge_id, responses=responses)
    return result(app.call(app.sessions.RespondToChallenge, request))


def result(called):
    """(what is asked next, if anything; the outcome in words)"""
    reply, said = called
    if reply is None:
        return None, said
    if reply.WhichOneof("result") == "challenge":
        return reply.challenge, reply.challenge.name
    return None, "signed in"


def sign_in(app, user, password=PASSWORD):
    return result(app.sign_in(user, password))


def turn_on_app(cloud, user):
    """Sets up an authenticator app beside the daemon, as on the user's phone; its secret, and the code that is used."""
    signed_in = cloud.idp.initiate_auth(ClientId=cloud.client_id, AuthFlow="USER_PASSWORD_AUTH",
                                        AuthParameters={"USERNAME": user, "PASSWORD": PASSWORD})  # fmt: skip
    access = {"AccessToken": signed_in["AuthenticationResult"]["AccessToken"]}
    secret = cloud.idp.associate_software_token(**access)["SecretCode"]
    used = totp(secret, 0)
    cloud.idp.verify_software_token(**access, UserCode=used)
    settings = {"Enabled": True, "PreferredMfa": True}
    cloud.idp.set_user_mfa_preference(**access, SoftwareTokenMfaSettings=settings)
    return secret, used


def at_a_pool_that_remembers(bench, checks):
    user = "ana@example.com"
    cloud = LocalCloud(bench, "remembering-cloud", ["--parameter", "RememberDevices=always"])
    cloud.make_user(user, PASSWORD, "free-tier")
    kiosk = App(Daemon(bench, "kiosk", cloud.config()).socket)
    checks.equal("the first sign-in", sign_in(kiosk, user)[1], "signed in")
    checks.equal("its tokens are refreshed together with the device", kiosk.refresh()[1], "OK")
    secret, used = turn_on_app(cloud, user)
    kiosk.sign_out("")
    checks.equal("the remembered device needs no code", sign_in(kiosk, user)[1], "signed in")

    camera_daemon = Daemon(bench, "camera", cloud.config())
    camera = App(camera_daemon.socket)
    asked, said = sign_in(camera, user)
    checks.equal("another device is asked for one", said, "SOFTWARE_TOKEN_MFA")
    checks.equal("a wrong one", answer(camera, asked, SOFTWARE_TOKEN_MFA_CODE="000000")[1], "INVALID_ARGUMENT CODE_MISMATCH")
    checks.equal("one that was used", answer(camera, asked, SOFTWARE_TOKEN_MFA_CODE=used)[1], "FAILED_PRECONDITION CODE_EXPIRED")
    fresh = totp(secret, 1)
    checks.equal("a fresh one", answer(camera, asked, SOFTWARE_TOKEN_MFA_CODE=fresh)[1], "signed in")
    again = answer(camera, asked, SOFTWARE_TOKEN_MFA_CODE=fresh)[1]
    checks.equal("the same answer again", again, "FAILED_PRECONDITION CHALLENGE_ANSWERED")
    checks.equal("credentials", camera.aws_credentials()[1], "OK")
    camera_daemon.restart(cloud.config())
    camera = App(camera_daemon.socket)
    checks.equal("the device survives a restart", camera.refresh()[1], "OK")

    person = {"UserPoolId": cloud.user_pool_id, "Username": user}
    devices = cloud.idp.admin_list_devices(**person)["Devices"]
    checks.equal("the pool knows both", len(devices), 2)
    for device in devices:
        cloud.idp.admin_forget_device(**person, DeviceKey=device["DeviceKey"])
    checks.equal("a forgotten device's session", camera.refresh()[1], "UNAUTHENTICATED NEEDS_SIGN_IN")
    checks.equal("it is asked for a code again", sign_in(camera, user)[1], "SOFTWARE_TOKEN_MFA")


def at_a_pool_that_insists(bench, checks):
    user, invited = "cleo@example.com", "dora@example.com"
    cloud = LocalCloud(bench, "insisting-cloud", ["--parameter", "SecondFactor=ON"])
    cloud.make_user(user, PASSWORD, "free-tier")
    app = App(Daemon(bench, "strict", cloud.config()).socket)
    asked, said = sign_in(app, user)
    checks.equal("an authenticator app is set up first", said, "MFA_SETUP")
    secret = asked.parameters["SECRET_CODE"]
    checks.equal("a wrong code", answer(app, asked, SOFTWARE_TOKEN_MFA_CODE="000000")[1], "INVALID_ARGUMENT CODE_MISMATCH")
    checks.equal("the app's code", answer(app, asked, SOFTWARE_TOKEN_MFA_CODE=totp(secret, 0))[1], "signed in")
    app.sign_out("")
    asked, said = sign_in(app, user)
    checks.equal("which is asked for from then on", said, "SOFTWARE_TOKEN_MFA")
    checks.equal("the next code", answer(app, asked, SOFTWARE_TOKEN_MFA_CODE=totp(secret, 1))[1], "signed in")

    cloud.idp.admin_create_user(UserPoolId=cloud.user_pool_id, Username=invited, TemporaryPassword=TEMPORARY)
    asked, said = sign_in(app, invited, TEMPORARY)
    checks.equal("a temporary password has to be replaced", said, "NEW_PASSWORD_REQUIRED")
    checks.equal("a weak one", answer(app, asked, NEW_PASSWORD="short")[1], "INVALID_ARGUMENT INVALID_PASSWORD")
    asked, said = answer(app, asked, NEW_PASSWORD=PASSWORD)
    checks.equal("then the app is set up", said, "MFA_SETUP")
    code = totp(asked.parameters["SECRET_CODE"], 0)
    checks.equal("and signs in", answer(app, asked, SOFTWARE_TOKEN_MFA_CODE=code)[1], "signed in")


def run(bench, checks):
    at_a_pool_that_remembers(bench, checks)
    at_a_pool_that_insists(bench, checks)


if __name__ == "__main__":
    main("the daemon at pools that ask for more than a password", run)
