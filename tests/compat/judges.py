"""A user pool (ministack) and S3 with STS (SeaweedFS) that this project did not write.

SeaweedFS takes the user pool's ID token itself (direct web identity). It does not know Cognito's policy variables, so
the two roles of the template are written for it with `jwt:sub`, and the group that AWS's identity pool would turn into a
role is a condition of the trust policy: whoever asks for the paid role without being in `paid-tier` is refused by STS.
"""

import base64
import json
import os

from harness import REGION, client, free_port, wait_until

ACCOUNT = "123456789012"
BUCKET = "app-photos"
# ministack makes no random codes.
CODE = "123456"
RESET_CODE = "654321"
# As in deploy/aws/template.yaml.
PASSWORD_POLICY = {
    "MinimumLength": 10,
    "RequireUppercase": True,
    "RequireLowercase": True,
    "RequireNumbers": True,
    "RequireSymbols": False,
}


def role_arn(name):
    return f"arn:aws:iam::{ACCOUNT}:role/{name}"


class JudgesCloud:
    """ministack and SeaweedFS, with a pool, a client, two groups, two roles and a bucket."""

    name = "ministack and SeaweedFS"
    # Direct web identity: the daemon's configuration says which role it asks for, so a new tier needs a new one.
    client_names_role = True

    def __init__(self, bench):
        self.bench = bench
        self._start_user_pool()
        self._start_store()

    def _start_user_pool(self):
        port = free_port()
        self.idp_url = f"http://127.0.0.1:{port}"
        process = self.bench.start(
            "ministack",
            [self.bench.tool("ministack")],
            env={
                "GATEWAY_PORT": str(port),
                "BIND_HOST": "127.0.0.1",
                "STATE_DIR": str(self.bench.dir / "ministack"),
                "AUTH": "true",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
            },
        )
        self.bench.wait_for_port("ministack", process, port)
        self.idp = client("cognito-idp", self.idp_url)
        pool = self.idp.create_user_pool(
            PoolName="app",
            UsernameAttributes=["email"],
            AutoVerifiedAttributes=["email"],
            Policies={"PasswordPolicy": PASSWORD_POLICY},
        )
        self.user_pool_id = pool["UserPool"]["Id"]
        self.client_id = self.idp.create_user_pool_client(
            UserPoolId=self.user_pool_id,
            ClientName="kiosk",
            ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH", "ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
            PreventUserExistenceErrors="ENABLED",
        )["UserPoolClient"]["ClientId"]
        for group, precedence in (("free-tier", 20), ("paid-tier", 10)):
            self.idp.create_group(UserPoolId=self.user_pool_id, GroupName=group, Precedence=precedence)
        self.jwks_url = f"{self.idp_url}/{self.user_pool_id}/.well-known/jwks.json"

    def _start_store(self):
        config = self.bench.dir / "seaweedfs-iam.json"
        config.write_text(json.dumps(self._iam_config()))
        keys = {"AccessKeyId": "admin", "SecretAccessKey": base64.b64encode(os.urandom(24)).decode()}
        identities = self.bench.dir / "seaweedfs-identities.json"
        identities.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": "admin",
                            "credentials": [{"accessKey": "admin", "secretKey": keys["SecretAccessKey"]}],
                            "actions": ["Admin", "Read", "Write", "List"],
                        }
                    ]
                }
            )
        )
        data = self.bench.dir / "seaweedfs"
        data.mkdir()
        port = free_port()
        self.s3_url = self.sts_url = f"http://127.0.0.1:{port}"
        process = self.bench.start(
            "seaweedfs",
            [
                self.bench.tool("weed"), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                f"-s3.port={port}", f"-master.port={free_port()}", f"-volume.port={free_port()}",
                f"-filer.port={free_port()}", "-webdav=false", "-admin.ui=false", f"-s3.config={identities}",
                f"-s3.iam.config={config}",
            ],
        )  # fmt: skip
        self.bench.wait_for_port("seaweedfs", process, port)
        self.admin_s3 = client("s3", self.s3_url, keys)
        wait_until("SeaweedFS making a bucket", lambda: self.admin_s3.create_bucket(Bucket=BUCKET))

    def _iam_config(self):
        issuer = f"https://cognito-idp.{REGION}.amazonaws.com/{self.user_pool_id}"
        tiers = {"free": ("free-tier", ["free"]), "paid": ("paid-tier", ["free", "premium"])}

        def trust(group):
            statement = {
                "Effect": "Allow",
                "Principal": {"Federated": "user-pool"},
                "Action": ["sts:AssumeRoleWithWebIdentity"],
                "Condition": {
                    "StringEquals": {"oidc:aud": self.client_id},
                    "ForAnyValue:StringEquals": {"oidc:cognito:groups": group},
                },
            }
            return {"Version": "2012-10-17", "Statement": [statement]}

        def permissions(folders):
            resources = [f"arn:aws:s3:::{BUCKET}/users/${{jwt:sub}}/{folder}/*" for folder in folders]
            statement = {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": resources}
            return {"Version": "2012-10-17", "Statement": [statement]}

        return {
            "sts": {
                "tokenDuration": "1h",
                "maxSessionLength": "12h",
                "issuer": "seaweedfs",
                "signingKey": base64.b64encode(os.urandom(32)).decode(),
            },
            "providers": [
                {
                    "name": "user-pool",
                    "type": "oidc",
                    "enabled": True,
                    "config": {"issuer": issuer, "clientId": self.client_id, "jwksUri": self.jwks_url},
                }
            ],
            "policy": {"defaultEffect": "Deny", "storeType": "memory"},
            "roles": [
                {
                    "roleName": name,
                    "roleArn": role_arn(name),
                    "trustPolicy": trust(group),
                    "attachedPolicies": [f"{name}-permissions"],
                }
                for name, (group, _) in tiers.items()
            ],
            "policies": [
                {"name": f"{name}-permissions", "document": permissions(folders)}
                for name, (_, folders) in tiers.items()
            ],
        }

    def config(self, tier="free"):
        """The identity and the destination of the daemon's configuration."""
        return f"""
[[identity]]
name = "app"
tiered = true

[identity.tokens]
kind = "cognito_user_pool"
region = "{REGION}"
user_pool_id = "{self.user_pool_id}"
client_id = "{self.client_id}"
endpoint_url = "{self.idp_url}"
issuer = "https://cognito-idp.{REGION}.amazonaws.com/{self.user_pool_id}"
jwks_url = "{self.jwks_url}"

[identity.credentials]
kind = "web_identity"
region = "{REGION}"
endpoint_url = "{self.sts_url}"
role_arn = "{role_arn(tier)}"
allow_client_role_choice = true

[[destination]]
name = "photos"
kind = "s3"
bucket = "{BUCKET}"
region = "{REGION}"
prefix = "users/{{identity_id}}/"
endpoint_url = "{self.s3_url}"
path_style = true
"""

    def code_for(self, username):
        return CODE

    def reset_code_for(self, username):
        return RESET_CODE

    def move_to_tier(self, username, group, other):
        self.idp.admin_add_user_to_group(UserPoolId=self.user_pool_id, Username=username, GroupName=group)
        if other:
            self.idp.admin_remove_user_from_group(UserPoolId=self.user_pool_id, Username=username, GroupName=other)

    def name_paid_role(self, run):
        """A daemon that is configured for the paid role asks for it on behalf of a free user."""
        said = run.restart("paid").aws_credentials(run.session)[1]
        run.restart("free")
        return said

    def keys(self):
        listing = self.admin_s3.list_objects_v2(Bucket=BUCKET)
        return sorted(entry["Key"] for entry in listing.get("Contents", []))

    def read(self, key):
        return self.admin_s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def user_s3(self, credentials):
        return client("s3", self.s3_url, credentials)
