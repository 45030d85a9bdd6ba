"""Programs that know nothing of Tidegate live on a session's credentials: boto3, AWS's SDK for JavaScript and the AWS CLI,
each over the container-credentials endpoint and by `credential_process`, across rotations.

Credentials last LIFETIME_S here, an hour in AWS: every set ends while the programs run, and S3 refuses what has ended. So
a program that kept what was rotated away would fail, and no call may. All SDKs ask again well before an end (boto3 ten to
fifteen minutes, JavaScript five), so here they ask before every call: what is seen is the daemon's own schedule.
"""

import json
import os
import stat
import subprocess
import sys
import threading
import time

from harness import REGION, ROOT, clean_environment, free_port, http, main
from judges import BUCKET
from local_cloud import LocalCloud
from tidegate_app import App, Daemon

USER = "vending@example.com"
PASSWORD = "Correct-Horse-7"
LIFETIME_S = 12
# The first set, and two rotations.
SETS = 3
DEADLINE_S = 120
CLIENT_TIMEOUT_S = 30


class Lines:
    """A program that answers each line with one; stays until it is closed."""

    def __init__(self, argv, env):
        self.process = subprocess.Popen(
            argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def put(self, key):
        watchdog = threading.Timer(CLIENT_TIMEOUT_S, self.process.kill)
        watchdog.start()
        try:
            self.process.stdin.write(key + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        return json.loads(line)["error"] if line else "it ended"

    def close(self):
        self.process.kill()
        self.process.wait()


class AwsCli:
    """The `aws` program, started anew for every object."""

    def __init__(self, program, env, photo):
        self.program, self.env, self.photo = program, {**env, "AWS_MAX_ATTEMPTS": "1"}, photo

    def put(self, key):
        argv = [self.program, "s3", "cp", "--only-show-errors", str(self.photo), f"s3://{BUCKET}/{key}"]
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S)
        return None if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"

    def close(self):
        pass


def clients(bench, env):
    """One of each kind in this environment."""
    photo = bench.dir / "photo.jpg"
    photo.write_bytes(os.urandom(20_000))
    node = bench.judges.parent / "node"
    return {
        "boto3": Lines([sys.executable, "-B", str(ROOT / "tests/compat/vending_client.py"), BUCKET], env),
        "JavaScript": Lines(["node", str(ROOT / "tests/compat/vending_client.mjs"), BUCKET, str(node)], env),
        "AWS CLI": AwsCli(bench.tool("aws"), env, photo),
    }


def tidegate(bench, daemon, *arguments):
    argv = [bench.tidegate, "--socket", str(daemon.socket), *arguments]
    done = subprocess.run(argv, env=clean_environment(), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def endpoint_variables(bench, checks, daemon):
    """What the two printed lines set, in a shell."""
    file = bench.dir / "a folder" / "token"
    file.parent.mkdir()
    code, out, err = tidegate(bench, daemon, "credentials", "--endpoint", "--token-file", str(file))
    lines = out.splitlines()
    checks.ok("--endpoint prints two lines", code == 0 and len(lines) == 2, f"{code} {out} {err}")
    script = out + 'printf "%s\\n%s" "$AWS_CONTAINER_CREDENTIALS_FULL_URI" "$AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"'
    url, path = subprocess.run(["sh", "-c", script], capture_output=True, text=True).stdout.split("\n")
    token = file.read_bytes()
    checks.equal("the token's file is where it was wanted", path, str(file))
    checks.equal("only its owner reads it", stat.S_IMODE(file.stat().st_mode), 0o600)
    checks.ok("it has no newline", len(token) == 43 and token.strip() == token)
    checks.ok("the token is not printed", token.decode() not in out + err)
    return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": path}


def process_profile(bench, daemon, session):
    config = bench.dir / "aws-config"
    config.write_text(
        f"[default]\nregion = {REGION}\n"
        f"credential_process = {bench.tidegate} --socket {daemon.socket} credentials --session {session}\n"
    )
    return {"AWS_CONFIG_FILE": str(config)}


def credential_process(bench, checks, daemon):
    code, out, err = tidegate(bench, daemon, "credentials")
    said = json.loads(out or "{}")
    keys = {"Version", "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"}
    checks.ok("credential_process: the JSON and nothing else", code == 0 and not err and set(said) == keys, f"{code} {err}")
    checks.ok("credential_process: version 1", said.get("Version") == 1)
    code, out, err = tidegate(bench, daemon, "credentials", "--format", "env")
    names = [line.partition("=")[0] for line in out.splitlines()]
    wanted = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CREDENTIAL_EXPIRATION"]
    checks.equal("--format env", names, [f"export {name}" for name in wanted])
    code, out, err = tidegate(bench, daemon, "credentials", "--session", "01JD8Q4Z6M3N5P7R9T1V3X5Z7B")
    checks.ok("credential_process: no such session: exit code 5, said on stderr", code == 5 and not out and "SESSION_NOT_FOUND" in err, err)


def live(cloud, prefix, ways):
    """Every client of every way puts objects until it has used SETS sets; {(way, name): (errors, sets used)}."""
    results = {}

    def run(way, name, client):
        errors, used, count = [], [], 0
        end = time.monotonic() + DEADLINE_S
        while len(used) < SETS and time.monotonic() < end and not errors:
            count += 1
            key = f"{prefix}free/{way}-{name}-{count}".replace(" ", "-")
            error = client.put(key)
            if error:
                errors.append(f"call {count}: {error}")
                break
            access_key = signer(cloud, key)
            if access_key not in used:
                used.append(access_key)
            time.sleep(0.2)
        results[way, name] = errors, used, count

    threads = [
        threading.Thread(target=run, args=(way, name, client))
        for way, clients_of_way in ways.items()
        for name, client in clients_of_way.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def signer(cloud, key):
    """The access key that the cloud saw on the request for this object."""
    _, body = http(f"{cloud.url}/_tidegate/requests?operation=s3:PutObject")
    return next(record["access_key_id"] for record in reversed(json.loads(body)["requests"]) if record["key"] == key)


def run(bench, checks):
    cloud = LocalCloud(bench, arguments=["--longest-credentials-s", str(LIFETIME_S)])
    cloud.make_user(USER, PASSWORD, "free-tier")
    daemon = Daemon(bench, "daemon", cloud.config(), extra=f'\n[vend]\nlisten = "127.0.0.1:{free_port()}"\n')
    app = App(daemon.socket)
    answer, said = app.sign_in(USER, PASSWORD)
    checks.equal("signed in", said, "OK")
    session, prefix = answer.session.name, f"users/{answer.session.identity_id}/"
    credential_process(bench, checks, daemon)
    base = {**clean_environment(), "AWS_ENDPOINT_URL": cloud.url}
    endpoint = {**base, **endpoint_variables(bench, checks, daemon)}
    process = {**base, **process_profile(bench, daemon, session)}

    ways = {"endpoint": clients(bench, endpoint), "process": clients(bench, process)}
    for (way, name), (errors, used, count) in sorted(live(cloud, prefix, ways).items()):
        what = f"{name} over the {way}: {count} objects, {len(used) - 1} rotations"
        checks.ok(f"{what}, no failed call", not errors and len(used) >= SETS, errors or used)

    # The port is fixed and the token kept: what was set before a restart is good after it.
    daemon.restart(cloud.config())
    for name, client in clients(bench, endpoint).items():
        checks.equal(f"{name} over the endpoint after a restart of the daemon", client.put(f"{prefix}free/{name[0]}-again"), None)
        client.close()

    checks.equal("signed out", App(daemon.socket).sign_out(session)[1], "OK")
    for way, clients_of_way in ways.items():
        for client in clients_of_way.values():
            client.close()
        environment = {"endpoint": endpoint, "process": process}[way]
        shown = {"endpoint": "signed out", "process": "SESSION_NOT_FOUND"}[way]
        for name, client in clients(bench, environment).items():
            error = client.put(f"{prefix}free/late")
            # The JavaScript SDK keeps what a process writes to stderr to itself.
            told = shown in (error or "") or (name == "JavaScript" and way == "process" and error)
            checks.ok(f"{name} over the {way} after the sign-out is refused and says why", told, error)
            client.close()
    log = bench.log("daemon")
    token = open(endpoint["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).read()
    checks.ok("the daemon's log has no token", token not in log and "SecretAccessKey" not in log)


main("AWS SDKs on vended credentials", run)
