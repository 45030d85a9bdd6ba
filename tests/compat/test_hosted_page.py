"""The hosted sign-in page in headless Chromium, and an OpenID provider that this project did not write; then the same by
`tidegate sign-in --provider`, with a daemon that waits for the browser.

Screenshots stay in target/tests-run for people to look at.
"""

import json
import shutil
import subprocess

from harness import ROOT, clean_environment, free_port, http, main
from local_cloud import LocalCloud
from tidegate_app import Daemon

PASSWORD = "Correct-Horse-7"
BROWSER_TIMEOUT_S = 300
LAST_PROVIDER = "        - !If [WithApple, !Ref AppleProvider, !Ref AWS::NoValue]\n"


def template(bench, issuer):
    """The template that a team deploys, with a provider of the team's own."""
    text = (ROOT / "deploy/aws/template.yaml").read_text()
    provider = f"""  CorpProvider:
    Type: AWS::Cognito::UserPoolIdentityProvider
    Properties:
      UserPoolId: !Ref UserPool
      ProviderName: Corp
      ProviderType: OIDC
      ProviderDetails:
        client_id: corp-client
        client_secret: corp-secret
        attributes_request_method: GET
        oidc_issuer: {issuer}
        authorize_scopes: openid email
      AttributeMapping:
        username: sub
        email: email
        email_verified: email_verified

"""
    text = text.replace("  # ---------------------------------------------------------------- tiers", provider + "  # tiers", 1)
    text = text.replace(LAST_PROVIDER, LAST_PROVIDER + "        - !Ref CorpProvider\n", 1)
    path = bench.dir / "template.yaml"
    path.write_text(text)
    return path


def run(bench, checks):
    chromium = shutil.which("chromium")
    if not chromium:
        checks.skip("the hosted page in a browser", "no chromium here; on Debian: apt-get install chromium")
        return
    app, mock, landing = free_port(), free_port(), free_port()
    daemons = f"http://127.0.0.1:{landing}/callback"
    callback, signed_out = f"http://127.0.0.1:{app}/callback", f"http://127.0.0.1:{app}/signed-out"
    parameters = {
        "HostedDomainPrefix": "rehearsal",
        "CallbackUrls": f"{callback},{daemons}",
        "SignedOutUrls": signed_out,
        "GoogleClientId": "google-client",
        "AppleServicesId": "apple-client",
    }
    arguments = ["--seed", str(template(bench, f"http://127.0.0.1:{mock}"))]
    for name, value in parameters.items():
        arguments += ["--parameter", f"{name}={value}"]
    cloud = LocalCloud(bench, arguments=arguments)
    page = f"""
[identity.hosted_ui]
domain_url = "{cloud.url}"
redirect_uris = ["{daemons}"]
sign_out_uri = "{signed_out}"
"""
    daemon = Daemon(bench, "daemon", cloud.config() + page)
    email = [{"Name": "email", "Value": "ana@example.com"}, {"Name": "email_verified", "Value": "true"}]
    person = {"UserPoolId": cloud.user_pool_id, "Username": "ana@example.com"}
    cloud.idp.admin_create_user(**person, UserAttributes=email, MessageAction="SUPPRESS")
    cloud.idp.admin_set_user_password(**person, Password=PASSWORD, Permanent=True)

    artefacts = ROOT / "target/tests-run"
    artefacts.mkdir(parents=True, exist_ok=True)
    given = {
        "url": cloud.url,
        "client": cloud.client_id,
        "callback": callback,
        "signedOut": signed_out,
        "judges": str(bench.judges.parent / "node"),
        "artefacts": str(artefacts),
        "chromium": chromium,
        "mockPort": mock,
        "tidegate": bench.tidegate,
        "socket": str(daemon.socket),
        "daemons": daemons,
    }
    script = ROOT / "tests/compat/hosted_page.mjs"
    environment = {**clean_environment(), "HOME": str(bench.dir)}
    done = subprocess.run(
        ["node", str(script), json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=BROWSER_TIMEOUT_S,
        env=environment,
    )
    for text in done.stdout.splitlines():
        found = json.loads(text)
        checks.ok(found["what"], found["holds"], found["detail"][-2000:])
    checks.equal(f"the browser's script reached its end {done.stderr[-2000:]}", done.returncode, 0)
    for name in ("hosted-sign-in.png", "hosted-sign-in-kiosk.png", "signed-in-at-the-daemon.png"):
        picture = artefacts / name
        checks.ok(f"{name} is kept", picture.exists() and picture.stat().st_size > 5_000)

    log = bench.log("local-cloud") + http(f"{cloud.url}/_tidegate/requests")[1].decode()
    checks.ok("the request log names the pages", "hosted-ui:Login" in log and "oidc-google:Authorize" in log)
    checks.ok("the logs hold no password", PASSWORD not in log and "Wrong-Horse-7" not in log)
    checks.ok("the daemon's log holds no code and no state", "code=" not in bench.log("daemon") and "state=" not in bench.log("daemon"))


main("the hosted sign-in page in Chromium", run)
