"""Clients and a user pool that this project did not write, against the local cloud's user pool.

Amplify's client signs in at ours; boto3 makes the same calls at ours and at ministack, whose answers must agree line by
line, except where `EXPLAINED` says why they cannot.
"""

import base64
import hashlib
import hmac
import json
import struct
import subprocess
import time

from harness import ROOT, Failed, clean_environment, main, outcome
from judges import JudgesCloud
from local_cloud import LocalCloud

PASSWORD = "Correct-Horse-7"
NEW_PASSWORD = "Battery-Staple-8"
TEMPORARY = "For-Once-Only-9"
SCRIPT_TIMEOUT_S = 120

# Lines that cannot agree: what the local cloud says, what ministack says, and which one AWS agrees with.
SIGNED_IN = {
    "AuthenticationResult": {
        "AccessToken": "str",
        "ExpiresIn": "int",
        "IdToken": "str",
        "RefreshToken": "str",
        "TokenType": "str",
    }
}
TOO_SHORT = (
    "InvalidPasswordException: Password did not conform with policy: Password not long enough",
    "InvalidPasswordException: Password did not conform with policy: Password must have length greater than or equal to 10",
    "AWS's words",
)
EXPLAINED = {
    "sign-up with a password that is short": TOO_SHORT,
    "a weak password for it": TOO_SHORT,
    "sign-up with the same name": (
        "UsernameExistsException: An account with the given email already exists.",
        "UsernameExistsException: User already exists.",
        "AWS's words where people sign in with their address",
    ),
    "another code for who is confirmed": (
        "InvalidParameterException: User is already confirmed.",
        {"CodeDeliveryDetails": {"AttributeName": "str", "DeliveryMedium": "str", "Destination": "str"}},
        "AWS sends no code that confirms nothing",
    ),
    "a client that is not there": (
        "ResourceNotFoundException: User pool client nope does not exist.",
        "ResourceNotFoundException: Client nope not found.",
        "AWS's words",
    ),
    "verifying what was not associated": (
        "SoftwareTokenMFANotFoundException: Software Token MFA does not exist for the user.",
        "EnableSoftwareTokenMFAException: No software token MFA has been associated for verification.",
        "AWS documents both codes for the call and no case of either; ours has AWS's words for a user without an app",
    ),
    "a secret for the app": (
        {"SecretCode": "str"},
        {"SecretCode": "str", "Session": "str"},
        "AWS gives a session only to who came with one",
    ),
    "a code that is none": (
        "EnableSoftwareTokenMFAException: Code mismatch and fail enable Software Token MFA",
        "EnableSoftwareTokenMFAException: Code mismatch",
        "AWS's words",
    ),
    "sign-in with the app set up, but not on": (
        SIGNED_IN,
        {
            "ChallengeName": "str",
            "ChallengeParameters": {"FRIENDLY_DEVICE_NAME": "str", "USER_ID_FOR_SRP": "str"},
            "Session": "str",
        },
        "where a second factor is optional, AWS asks for it once SetUserMFAPreference has turned it on",
    ),
    "the code of the set-up again": (
        "ExpiredCodeException: Your software token has already been used once.",
        SIGNED_IN,
        "AWS takes each code once",
    ),
    "the same answer again": (
        "NotAuthorizedException: Invalid session for the user, session can only be used once.",
        SIGNED_IN,
        "a challenge is answered once; ministack does not look at the session",
    ),
}


class Ministack(JudgesCloud):
    """The user pool of the judges alone."""

    name = "ministack"

    def _start_store(self):
        pass


def totp(secret, steps):
    """RFC 6238 for the step that many steps from now."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    mac = hmac.new(key, struct.pack(">Q", int(time.time() // 30) + steps), hashlib.sha1).digest()
    at = mac[-1] & 15
    return f"{(struct.unpack('>I', mac[at : at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06d}"


def shape(value):
    """The names in an answer, and the kinds of their values. What is empty says as much as what is not there."""
    if isinstance(value, dict):
        told = {key: inner for key, inner in sorted(value.items()) if inner not in ("", [], {})}
        told.pop("ResponseMetadata", None)
        return {key: shape(inner) for key, inner in told.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


class Lines:
    """One run of the calls at one user pool; `said` maps a line's title to its outcome."""

    def __init__(self, cloud):
        self.cloud = cloud
        self.idp = cloud.idp
        self.said = {}
        self.user = "ada@example.com"
        self.app = {"ClientId": cloud.client_id, "Username": self.user}
        self.pool = {"UserPoolId": cloud.user_pool_id, "Username": self.user}

    def line(self, title, call, **fields):
        """A refusal's code and words, or the shape of the answer."""
        if title in self.said:
            raise Failed(f"two lines are called {title!r}")
        code, answer = outcome(call, **fields)
        self.said[title] = shape(answer) if code == "ok" else f"{code}: {answer}"
        return answer if code == "ok" else {}

    def auth(self, title, password=PASSWORD, user=None):
        parameters = {"USERNAME": user or self.user, "PASSWORD": password}
        return self.line(title, self.idp.initiate_auth, ClientId=self.cloud.client_id,
                         AuthFlow="USER_PASSWORD_AUTH", AuthParameters=parameters)  # fmt: skip

    def answer(self, title, asked, **responses):
        return self.line(title, self.idp.respond_to_auth_challenge, ClientId=self.cloud.client_id,
                         ChallengeName=asked.get("ChallengeName", "none"), Session=asked.get("Session", "x" * 20),
                         ChallengeResponses={"USERNAME": self.user, **responses})  # fmt: skip

    def accounts(self):
        idp, app, pool = self.idp, self.app, self.pool
        attributes = [{"Name": "email", "Value": self.user}]
        for title, password in [
            ("that is short", "Ab1"),
            ("without an upper-case letter", "correct-horse-7"),
            ("without a lower-case letter", "CORRECT-HORSE-7"),
            ("without a digit", "Correct-Horse-x"),
        ]:
            self.line(f"sign-up with a password {title}", idp.sign_up, **app, Password=password)
        self.line("sign-up", idp.sign_up, **app, Password=PASSWORD, UserAttributes=attributes)
        self.line("sign-up with the same name", idp.sign_up, **app, Password=PASSWORD, UserAttributes=attributes)
        self.auth("sign-in before the code")
        self.line("a wrong code", idp.confirm_sign_up, **app, ConfirmationCode="000000")
        self.line("another code", idp.resend_confirmation_code, **app)
        self.line("the code", idp.confirm_sign_up, **app, ConfirmationCode=self.cloud.code_for(self.user))
        self.line("the code once more", idp.confirm_sign_up, **app, ConfirmationCode="000000")
        self.line("another code for who is confirmed", idp.resend_confirmation_code, **app)
        self.auth("a wrong password", "Wrong-Horse-7")
        self.auth("nobody", user="no@example.com")
        self.line("a client that is not there", idp.sign_up, ClientId="nope", Username="x@example.com",
                  Password=PASSWORD)  # fmt: skip
        self.line("a user who is not there", idp.admin_get_user, UserPoolId=self.cloud.user_pool_id,
                  Username="no@example.com")  # fmt: skip
        self.line("a user", idp.admin_get_user, **pool)

    def tokens(self):
        idp = self.idp
        signed_in = self.auth("sign-in").get("AuthenticationResult", {})
        access = {"AccessToken": signed_in.get("AccessToken", "none")}
        self.line("who I am", idp.get_user, **access)
        self.line("who nobody is", idp.get_user, AccessToken="a.b.c")
        client = {"ClientId": self.cloud.client_id}
        refresh = signed_in.get("RefreshToken", "none")
        self.line("refresh by the flow", idp.initiate_auth, **client, AuthFlow="REFRESH_TOKEN_AUTH",
                  AuthParameters={"REFRESH_TOKEN": refresh})  # fmt: skip
        self.line("refresh", idp.get_tokens_from_refresh_token, **client, RefreshToken=refresh)
        self.line("refresh with nonsense", idp.get_tokens_from_refresh_token, **client, RefreshToken="nonsense")
        self.line("revoking", idp.revoke_token, **client, Token=refresh)
        self.line("refresh after it", idp.get_tokens_from_refresh_token, **client, RefreshToken=refresh)
        self.line("who I am after it", idp.get_user, **access)

    def second_factor(self):
        idp = self.idp
        mfa = {"SoftwareTokenMfaConfiguration": {"Enabled": True}, "MfaConfiguration": "OPTIONAL"}
        pool = {"UserPoolId": self.cloud.user_pool_id}
        self.line("turning authenticator apps on", idp.set_user_pool_mfa_config, **pool, **mfa)
        self.line("the pool's second factors", idp.get_user_pool_mfa_config, **pool)
        signed_in = self.auth("sign-in without one")["AuthenticationResult"]
        access = {"AccessToken": signed_in["AccessToken"]}
        self.line("verifying what was not associated", idp.verify_software_token, **access, UserCode="000000")
        secret = self.line("a secret for the app", idp.associate_software_token, **access)["SecretCode"]
        self.line("a code that is none", idp.verify_software_token, **access, UserCode="000000")
        code = {"UserCode": totp(secret, 0), "FriendlyDeviceName": "app"}
        self.line("the app's code", idp.verify_software_token, **access, **code)
        self.auth("sign-in with the app set up, but not on")
        settings = {"Enabled": True, "PreferredMfa": True}
        self.line("turning it on", idp.set_user_mfa_preference, **access, SoftwareTokenMfaSettings=settings)
        self.line("who I am with it", idp.get_user, **access)
        asked = self.auth("sign-in with it")
        self.said["what is asked for"] = asked.get("ChallengeName")
        self.answer("a wrong one", asked, SOFTWARE_TOKEN_MFA_CODE="000000")
        self.answer("the code of the set-up again", asked, SOFTWARE_TOKEN_MFA_CODE=code["UserCode"])
        asked = self.auth("sign-in once more")
        self.answer("the right one", asked, SOFTWARE_TOKEN_MFA_CODE=totp(secret, 1))
        self.answer("the same answer again", asked, SOFTWARE_TOKEN_MFA_CODE=totp(secret, 1))
        off = {"SoftwareTokenMfaSettings": {"Enabled": False}}
        self.line("an administrator turns it off", idp.admin_set_user_mfa_preference, **self.pool, **off)
        self.auth("sign-in without it again")

    def passwords(self):
        idp, app, pool = self.idp, self.app, self.pool
        access = {"AccessToken": self.auth("sign-in for a change")["AuthenticationResult"]["AccessToken"]}
        change = {"PreviousPassword": PASSWORD, "ProposedPassword": NEW_PASSWORD}
        wrong = {**change, "PreviousPassword": "Wrong-Horse-7"}
        self.line("changing it without knowing the old one", idp.change_password, **access, **wrong)
        self.line("changing the password", idp.change_password, **access, **change)
        self.auth("the old password", PASSWORD)
        self.line("a forgotten password", idp.forgot_password, **app)
        self.line("a forgotten password of nobody", idp.forgot_password, ClientId=self.cloud.client_id,
                  Username="no@example.com")  # fmt: skip
        code = self.cloud.reset_code_for(self.user)
        self.line("a wrong code for it", idp.confirm_forgot_password, **app, ConfirmationCode="000000",
                  Password=PASSWORD)  # fmt: skip
        self.line("a weak password for it", idp.confirm_forgot_password, **app, ConfirmationCode=code,
                  Password="Ab1")  # fmt: skip
        self.line("a new password", idp.confirm_forgot_password, **app, ConfirmationCode=code, Password=PASSWORD)
        self.auth("the new password")
        self.line("a temporary one", idp.admin_set_user_password, **pool, Password=TEMPORARY, Permanent=False)
        asked = self.auth("sign-in with it the first time", TEMPORARY)
        self.said["what is asked for then"] = asked.get("ChallengeName")
        self.answer("a password of one's own", asked, NEW_PASSWORD=PASSWORD)
        access = {"AccessToken": self.auth("sign-in with one's own")["AuthenticationResult"]["AccessToken"]}
        self.line("signing out everywhere", idp.global_sign_out, **access)
        self.line("who I am then", idp.get_user, **access)
        self.line("disabling", idp.admin_disable_user, **pool)
        self.auth("sign-in while disabled")
        self.line("deleting", idp.admin_delete_user, **pool)
        self.auth("sign-in when deleted")

    def go(self):
        self.accounts()
        self.tokens()
        self.second_factor()
        self.passwords()
        return self.said


def compare(checks, ours, theirs):
    checks.equal("the same lines", list(ours), list(theirs))
    for title, said in ours.items():
        other = theirs.get(title)
        if title in EXPLAINED:
            mine, judge, why = EXPLAINED[title]
            checks.equal(f"{title} ({why})", (said, other), (mine, judge))
        else:
            checks.equal(title, said, other)


def amplify(bench, checks, cloud):
    strict = LocalCloud(bench, "strict-cloud", ["--parameter", "SecondFactor=ON"])
    users = {"ana": "ana@example.com", "ben": "ben@example.com", "cleo": "cleo@example.com"}
    cloud.make_user(users["ana"], PASSWORD, "free-tier")
    strict.make_user(users["cleo"], PASSWORD, "free-tier")
    cloud.idp.admin_create_user(UserPoolId=cloud.user_pool_id, Username=users["ben"], TemporaryPassword=TEMPORARY)
    where = lambda at: {"url": at.url, "pool": at.user_pool_id, "client": at.client_id}  # noqa: E731
    given = {
        **where(cloud),
        "strict": where(strict),
        "judges": str(bench.judges.parent / "node"),
        "users": {**users, "password": PASSWORD, "temporary": TEMPORARY},
    }
    script = ROOT / "tests/compat/cognito_client.mjs"
    done = subprocess.run(
        ["node", str(script), json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=SCRIPT_TIMEOUT_S,
        env={**clean_environment(), "HOME": str(bench.dir)},
    )
    for text in done.stdout.splitlines():
        found = json.loads(text)
        checks.ok(f"amplify: {found['what']}", found["holds"], found["detail"][-2000:])
    checks.equal(f"amplify: the script reached its end {done.stderr[-2000:]}", done.returncode, 0)


def run(bench, checks):
    compare(checks, Lines(LocalCloud(bench)).go(), Lines(Ministack(bench)).go())
    amplify(bench, checks, LocalCloud(bench, "amplify-cloud", ["--parameter", "RememberDevices=ask"]))


if __name__ == "__main__":
    main("Amplify's client and boto3 at the local cloud's user pool, and boto3 at ministack's", run)
