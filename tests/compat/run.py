"""Runs every compat file, each in a process and a network namespace of its own: nothing listens where others could reach
it, and no port is taken. Where namespaces are not to be had, it runs on the machine's own loopback and says so.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
FILE_TIMEOUT_S = 600
IN_NAMESPACE = 'ip link set lo up && exec "$@"'


def isolation():
    """The words before a command that give it a network of its own, or nothing."""
    for words in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        prefix = [*words, "sh", "-c", IN_NAMESPACE, "sh"]
        try:
            if subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
                return prefix
        except FileNotFoundError:
            break
    return []


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--tidegate", required=True, help="the program under test")
    arguments.add_argument("files", nargs="*", help="only these, for example test_two_uids")
    options = arguments.parse_args()
    prefix = isolation()
    if not prefix:
        print("no network namespaces here: the parts listen on this machine's loopback")
    names = options.files or sorted(path.stem for path in HERE.glob("test_*.py"))
    counts = [0, 0, 0]
    for name in names:
        argv = [*prefix, sys.executable, "-B", str(HERE / f"{name}.py"), "--tidegate", options.tidegate]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        summary = None
        watchdog = threading.Timer(FILE_TIMEOUT_S, child.kill)
        watchdog.start()
        for text in child.stdout:
            if found := re.match(r"compat: .*: (\d+) passed, (\d+) failed, (\d+) skipped$", text):
                summary = [int(count) for count in found.groups()]
            print(text, end="", flush=True)
        child.wait()
        watchdog.cancel()
        if summary is None:
            print(f"compat: {name}: 0 passed, 1 failed, 0 skipped")
            summary = [0, 1, 0]
        counts = [total + count for total, count in zip(counts, summary)]
    print(f"all compat runs: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped")
    sys.exit(counts[1] != 0)


if __name__ == "__main__":
    main()
