"""boto3 and the AWS CLI do the whole scenario with nothing but AWS_ENDPOINT_URL set to the local cloud."""

import contextlib
import json
import os
import subprocess

from harness import clean_environment, main, outcome
from judges import BUCKET
from local_cloud import LocalCloud

PASSWORD = "Correct-Horse-7"


def environment(cloud):
    """What any AWS user has (a region and keys), and the one variable more."""
    return {
        **clean_environment(),
        "AWS_ENDPOINT_URL": cloud.url,
        "AWS_ACCESS_KEY_ID": cloud.operator["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": cloud.operator["SecretAccessKey"],
    }


@contextlib.contextmanager
def aws_environment(cloud):
    """`environment` as this process's own, which is where boto3 looks."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment(cloud))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def with_boto3(checks, cloud):
    import boto3

    user = "boto3@example.com"
    say = lambda what, got, wanted: checks.equal(f"boto3: {what}", got, wanted)  # noqa: E731
    with aws_environment(cloud):
        idp, identity, sts = boto3.client("cognito-idp"), boto3.client("cognito-identity"), boto3.client("sts")
        app = {"ClientId": cloud.client_id, "Username": user}
        pool = {"UserPoolId": cloud.user_pool_id, "Username": user}
        attributes = [{"Name": "email", "Value": user}]

        weak, message = outcome(idp.sign_up, **app, Password="short", UserAttributes=attributes)
        say("a weak password", weak, "InvalidPasswordException")
        said, answer = outcome(idp.sign_up, **app, Password=PASSWORD, UserAttributes=attributes)
        say("sign-up", (said, answer["UserConfirmed"]), ("ok", False))
        say("the same name", outcome(idp.sign_up, **app, Password=PASSWORD)[0], "UsernameExistsException")

        def sign_in(password=PASSWORD):
            return outcome(
                idp.initiate_auth,
                ClientId=cloud.client_id,
                AuthFlow="USER_PASSWORD_AUTH",
                AuthParameters={"USERNAME": user, "PASSWORD": password},
            )

        say("sign-in before the code", sign_in()[0], "UserNotConfirmedException")
        say("a wrong code", outcome(idp.confirm_sign_up, **app, ConfirmationCode="000000")[0], "CodeMismatchException")
        code = cloud.code_for(user)
        say("the code from the outbox", outcome(idp.confirm_sign_up, **app, ConfirmationCode=code)[0], "ok")
        say("a wrong password", sign_in("Wrong-Horse-7")[0], "NotAuthorizedException")
        said, _ = outcome(idp.admin_add_user_to_group, **pool, GroupName="free-tier")
        say("the group free-tier", said, "ok")
        said, answer = sign_in()
        say("sign-in", said, "ok")
        tokens = answer["AuthenticationResult"]

        def credentials(id_token, **more):
            logins = {cloud.provider: id_token}
            said, answer = outcome(identity.get_id, IdentityPoolId=cloud.identity_pool_id, Logins=logins)
            if said != "ok":
                return said, None, None
            identity_id = answer["IdentityId"]
            said, answer = outcome(identity.get_credentials_for_identity, IdentityId=identity_id, Logins=logins, **more)
            return said, identity_id, answer["Credentials"] if said == "ok" else None

        said, identity_id, keys = credentials(tokens["IdToken"])
        say("credentials from the identity pool", said, "ok")
        say("the identity id is stable", credentials(tokens["IdToken"])[1], identity_id)
        say("a forged ID token", credentials(tokens["IdToken"][:-6] + "AAAAAA")[0], "NotAuthorizedException")
        paid = next(role for role in cloud.role_arns() if "Paid" in role)
        say("naming the paid role while free", credentials(tokens["IdToken"], CustomRoleArn=paid)[0],
            "NotAuthorizedException")  # fmt: skip
        said, _ = outcome(identity.get_open_id_token, IdentityId=identity_id, Logins={cloud.provider: tokens["IdToken"]})
        say("the basic flow is off", said, "InvalidParameterException")
        said, _ = outcome(
            sts.assume_role_with_web_identity,
            RoleArn=paid, RoleSessionName="tide", WebIdentityToken=tokens["IdToken"],
        )  # fmt: skip
        checks.ok(f"boto3: STS takes no user pool's token for the paid role ({said})", said != "ok")

        def s3_of(keys):
            return boto3.session.Session(
                aws_access_key_id=keys["AccessKeyId"],
                aws_secret_access_key=keys["SecretKey"],
                aws_session_token=keys["SessionToken"],
            )

        session = s3_of(keys)
        said, who = outcome(session.client("sts").get_caller_identity)
        say("who am I", (said, "assumed-role/" in who["Arn"] and "Free" in who["Arn"]), ("ok", True))
        s3 = session.client("s3")
        put = lambda key, **more: outcome(s3.put_object, Bucket=BUCKET, Key=key, Body=b"photo", **more)[0]  # noqa: E731
        own = f"users/{identity_id}"
        say("free/", put(f"{own}/free/a.jpg"), "ok")
        say("free/ with CRC64NVME", put(f"{own}/free/b.jpg", ChecksumAlgorithm="CRC64NVME"), "ok")
        say("free/ again with If-None-Match", put(f"{own}/free/a.jpg", IfNoneMatch="*"), "PreconditionFailed")
        say("premium/ while free", put(f"{own}/premium/a.jpg"), "AccessDenied")
        say("another user's prefix", put("users/us-east-1:00000000-0000-0000-0000-000000000000/free/a.jpg"), "AccessDenied")
        say("free/../premium/x, literally", put(f"{own}/free/../premium/x"), "ok")
        say("reading", outcome(s3.get_object, Bucket=BUCKET, Key=f"{own}/free/a.jpg")[0], "AccessDenied")
        say("a clip in parts", multipart(s3, f"{own}/free/clip.mp4"), "ok")
        say("the keys without their session token",
            outcome(boto3.client("s3", aws_access_key_id=keys["AccessKeyId"], aws_secret_access_key=keys["SecretKey"])
                    .put_object, Bucket=BUCKET, Key=f"{own}/free/c.jpg", Body=b"")[0], "InvalidAccessKeyId")  # fmt: skip

        idp.admin_add_user_to_group(**pool, GroupName="paid-tier")
        idp.admin_remove_user_from_group(**pool, GroupName="free-tier")
        say("premium/ with the old credentials", put(f"{own}/premium/a.jpg"), "AccessDenied")
        said, answer = outcome(
            idp.initiate_auth,
            ClientId=cloud.client_id,
            AuthFlow="REFRESH_TOKEN_AUTH",
            AuthParameters={"REFRESH_TOKEN": tokens["RefreshToken"]},
        )
        say("new tokens by the refresh token", said, "ok")
        said, same, keys = credentials(answer["AuthenticationResult"]["IdToken"])
        say("new credentials, same identity id", (said, same), ("ok", identity_id))
        s3 = s3_of(keys).client("s3")
        say("premium/ after paying", put(f"{own}/premium/a.jpg"), "ok")
        say("nothing at premium/x", f"{own}/premium/x" in cloud.keys(), False)

        say("revoking the refresh token", outcome(idp.revoke_token, ClientId=cloud.client_id, Token=tokens["RefreshToken"])[0], "ok")
        said, _ = outcome(
            idp.initiate_auth,
            ClientId=cloud.client_id,
            AuthFlow="REFRESH_TOKEN_AUTH",
            AuthParameters={"REFRESH_TOKEN": tokens["RefreshToken"]},
        )
        say("the refresh token afterwards", said, "NotAuthorizedException")
        say("a forgotten password", outcome(idp.forgot_password, **app)[0], "ok")
        said, _ = outcome(idp.confirm_forgot_password, **app, ConfirmationCode=cloud.code_for(user), Password="Battery-Staple-8")
        say("its reset with the code", said, "ok")
        say("the old password", sign_in()[0], "NotAuthorizedException")
        say("the new password", sign_in("Battery-Staple-8")[0], "ok")


def multipart(s3, key):
    part = os.urandom(5 * 1024 * 1024)
    where = {"Bucket": BUCKET, "Key": key}
    said, answer = outcome(s3.create_multipart_upload, **where, ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT")
    if said != "ok":
        return said
    where["UploadId"] = answer["UploadId"]
    parts = []
    for number, body in enumerate((part, b"the rest"), 1):
        said, answer = outcome(s3.upload_part, **where, PartNumber=number, Body=body, ChecksumAlgorithm="CRC64NVME")
        if said != "ok":
            return said
        parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC64NVME": answer["ChecksumCRC64NVME"]})
    return outcome(s3.complete_multipart_upload, **where, MultipartUpload={"Parts": parts})[0]


class Cli:
    """The `aws` program, with nothing but the environment."""

    def __init__(self, bench, cloud, **keys):
        self.program = bench.tool("aws")
        self.dir = bench.dir
        self.environment = {**environment(cloud), **keys}

    def __call__(self, *arguments):
        """("ok", JSON or text) or (AWS error code, what it printed)."""
        done = subprocess.run(
            [self.program, *arguments], env=self.environment, cwd=self.dir, capture_output=True, text=True, timeout=60
        )
        if done.returncode == 0:
            return "ok", json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout
        start = done.stderr.find("(")
        return done.stderr[start + 1 : done.stderr.find(")", start)] if start >= 0 else done.stderr.strip(), done.stderr


def with_cli(checks, bench, cloud):
    user = "cli@example.com"
    say = lambda what, got, wanted: checks.equal(f"aws: {what}", got, wanted)  # noqa: E731
    aws = Cli(bench, cloud)
    photo = bench.dir / "photo.jpg"
    photo.write_bytes(os.urandom(100_000))
    clip = bench.dir / "clip.mp4"
    clip.write_bytes(os.urandom(9 * 1024 * 1024))
    pool = ("--user-pool-id", cloud.user_pool_id, "--username", user)
    client = ("--client-id", cloud.client_id)

    said, answer = aws("cognito-idp", "sign-up", *client, "--username", user, "--password", PASSWORD,
                       "--user-attributes", f"Name=email,Value={user}")  # fmt: skip
    say("sign-up", (said, answer and answer["UserConfirmed"]), ("ok", False))
    confirm = ("cognito-idp", "confirm-sign-up", *client, "--username", user, "--confirmation-code")
    say("a wrong code", aws(*confirm, "000000")[0], "CodeMismatchException")
    say("the code", aws(*confirm, cloud.code_for(user))[0], "ok")
    say("the group free-tier", aws("cognito-idp", "admin-add-user-to-group", *pool, "--group-name", "free-tier")[0], "ok")

    def sign_in():
        said, answer = aws("cognito-idp", "initiate-auth", *client, "--auth-flow", "USER_PASSWORD_AUTH",
                           "--auth-parameters", f"USERNAME={user},PASSWORD={PASSWORD}")  # fmt: skip
        return said, answer["AuthenticationResult"] if said == "ok" else None

    def user_cli(id_token):
        logins = ("--logins", f"{cloud.provider}={id_token}")
        said, answer = aws("cognito-identity", "get-id", "--identity-pool-id", cloud.identity_pool_id, *logins)
        identity_id = answer["IdentityId"]
        said, answer = aws("cognito-identity", "get-credentials-for-identity", "--identity-id", identity_id, *logins)
        keys = answer["Credentials"]
        return said, identity_id, Cli(bench, cloud, AWS_ACCESS_KEY_ID=keys["AccessKeyId"],
                                      AWS_SECRET_ACCESS_KEY=keys["SecretKey"],
                                      AWS_SESSION_TOKEN=keys["SessionToken"])  # fmt: skip

    said, tokens = sign_in()
    say("sign-in", said, "ok")
    said, identity_id, own = user_cli(tokens["IdToken"])
    say("credentials", said, "ok")
    to = f"s3://{BUCKET}/users/{identity_id}"
    say("who am I", own("sts", "get-caller-identity")[0], "ok")
    say("s3 cp to free/", own("s3", "cp", str(photo), f"{to}/free/photo.jpg")[0], "ok")
    say("s3 cp of a clip in parts", own("s3", "cp", str(clip), f"{to}/free/clip.mp4")[0], "ok")
    say("s3 cp to premium/ while free", own("s3", "cp", str(photo), f"{to}/premium/photo.jpg")[0], "AccessDenied")
    other = f"s3://{BUCKET}/users/somebody-else/free/photo.jpg"
    say("s3 cp to another user's prefix", own("s3", "cp", str(photo), other)[0], "AccessDenied")
    say("s3 ls", own("s3", "ls", f"s3://{BUCKET}/")[0], "AccessDenied")
    say("to the group paid-tier", aws("cognito-idp", "admin-add-user-to-group", *pool, "--group-name", "paid-tier")[0], "ok")
    say("from the group free-tier", aws("cognito-idp", "admin-remove-user-from-group", *pool, "--group-name", "free-tier")[0], "ok")
    _, tokens = sign_in()
    _, same, own = user_cli(tokens["IdToken"])
    say("the same identity id", same, identity_id)
    say("s3 cp to premium/ after paying", own("s3", "cp", str(photo), f"{to}/premium/photo.jpg")[0], "ok")
    listing = aws("s3", "ls", "--recursive", f"{to}/")[1].split()[3::4]
    say("what the operator lists", listing, [f"users/{identity_id}/{key}" for key in ("free/clip.mp4", "free/photo.jpg", "premium/photo.jpg")])
    back = bench.dir / "back.mp4"
    say("the operator reads the clip", aws("s3", "cp", f"{to}/free/clip.mp4", str(back))[0], "ok")
    checks.ok("aws: and it is the same", back.exists() and back.read_bytes() == clip.read_bytes())


def run(bench, checks):
    cloud = LocalCloud(bench)
    with_boto3(checks, cloud)
    with_cli(checks, bench, cloud)


if __name__ == "__main__":
    main("boto3 and the AWS CLI on the local cloud", run)
