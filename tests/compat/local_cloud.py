"""`tidegate local-cloud` on a free port, found the way that any AWS user finds things: by listing them."""

import json
import re
import subprocess
import urllib.parse

from harness import REGION, Failed, client, http, wait_until
from judges import BUCKET


class LocalCloud:
    name = "the local cloud"
    client_names_role = False

    def __init__(self, bench, name="local-cloud", arguments=()):
        self.bench = bench
        data = bench.dir / f"{name}-data"
        argv = [bench.tidegate, "local-cloud", "--listen", "127.0.0.1:0", "--data-dir", str(data), *arguments]
        self.process = bench.start(name, argv)
        self.url = self._announced(name, r"Local cloud at (http://\S+)")
        # The operator's keys, as the start-up message gives them.
        self.operator = {
            "AccessKeyId": self._announced(name, r"AWS_ACCESS_KEY_ID=(\S+)"),
            "SecretAccessKey": self._announced(name, r"AWS_SECRET_ACCESS_KEY=(\S+)"),
        }
        self.idp = client("cognito-idp", self.url, self.operator)
        self.identity = client("cognito-identity", self.url, self.operator)
        self.admin_s3 = client("s3", self.url, self.operator)
        self.user_pool_id = self.idp.list_user_pools(MaxResults=10)["UserPools"][0]["Id"]
        clients = self.idp.list_user_pool_clients(UserPoolId=self.user_pool_id, MaxResults=10)
        self.client_id = clients["UserPoolClients"][0]["ClientId"]
        self.identity_pool_id = self.identity.list_identity_pools(MaxResults=10)["IdentityPools"][0]["IdentityPoolId"]

    def _announced(self, name, pattern):
        """A value of the start-up message."""

        def probe():
            if self.process.poll() is not None:
                raise Failed(f"it ended with {self.process.returncode}: {self.bench.log(name)[-1000:]}")
            return re.search(pattern, self.bench.log(name))

        return wait_until(f"the local cloud saying {pattern!r}", probe)[1]

    @property
    def provider(self):
        return f"cognito-idp.{REGION}.amazonaws.com/{self.user_pool_id}"

    def config(self, tier=None):
        """The identity and the destination of the daemon's configuration; the tier is nothing that it could say."""
        return f"""
[[identity]]
name = "app"
tiered = true

[identity.tokens]
kind = "cognito_user_pool"
region = "{REGION}"
user_pool_id = "{self.user_pool_id}"
client_id = "{self.client_id}"
endpoint_url = "{self.url}"

[identity.credentials]
kind = "cognito_identity_pool"
region = "{REGION}"
identity_pool_id = "{self.identity_pool_id}"
endpoint_url = "{self.url}"

[[destination]]
name = "photos"
kind = "s3"
bucket = "{BUCKET}"
region = "{REGION}"
prefix = "users/{{identity_id}}/"
endpoint_url = "{self.url}"
path_style = true
"""

    def code_for(self, username):
        """The code of the latest message to this user, read from the outbox."""
        status, body = http(f"{self.url}/_tidegate/outbox?to={urllib.parse.quote(username)}")
        messages = json.loads(body)["messages"] if status == 200 else []
        if not messages:
            raise Failed(f"the outbox holds no code for {username}: {status} {body[:300]!r}")
        return messages[-1]["code"]

    def reset_code_for(self, username):
        return self.code_for(username)

    def make_user(self, username, password, group):
        """A confirmed user, made the short way for files that are about something else."""
        attributes = [{"Name": "email", "Value": username}]
        self.idp.sign_up(ClientId=self.client_id, Username=username, Password=password, UserAttributes=attributes)
        self.idp.admin_confirm_sign_up(UserPoolId=self.user_pool_id, Username=username)
        self.move_to_tier(username, group, None)

    def move_to_tier(self, username, group, other):
        self.idp.admin_add_user_to_group(UserPoolId=self.user_pool_id, Username=username, GroupName=group)
        if other:
            self.idp.admin_remove_user_from_group(UserPoolId=self.user_pool_id, Username=username, GroupName=other)

    def name_paid_role(self, run):
        """There is no way to: a tiered identity refuses the kinds of credentials that name a role."""
        paid = next(role for role in self.role_arns() if "Paid" in role)
        file = run.daemon.dir / "names-a-role.toml"
        kind = f'kind = "web_identity"\nrole_arn = "{paid}"'
        file.write_text(self.config().replace('kind = "cognito_identity_pool"', kind))
        done = subprocess.run([self.bench.tidegate, "check-config", str(file)], capture_output=True, text=True)
        refused = done.returncode != 0 and "tiered" in done.stdout + done.stderr
        return "refused by the configuration" if refused else f"{done.returncode}: {done.stdout}{done.stderr}"

    def role_arns(self):
        groups = self.idp.list_groups(UserPoolId=self.user_pool_id)["Groups"]
        return [group["RoleArn"] for group in groups if "RoleArn" in group]

    def keys(self):
        listing = self.admin_s3.list_objects_v2(Bucket=BUCKET)
        return sorted(entry["Key"] for entry in listing.get("Contents", []))

    def read(self, key):
        return self.admin_s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def user_s3(self, credentials):
        return client("s3", self.url, credentials)
