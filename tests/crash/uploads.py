"""A real daemon that crashes again and again under a random workload, and is started again on what is left.

Either it is killed with SIGKILL: at random moments, and at every failpoint (`tidegate failpoints`), before and after each
step that changes what the disk holds. Or the power goes: its state lies on an ext4 image, the daemon is stopped with
SIGSTOP, the image is copied while it is mounted, and the copy is what the next start finds. Of a copy, only what was
synced can be relied upon: the file system writes nothing back by itself for as long as a round takes.

The crashes are split into rounds, each with a daemon and a cloud of its own, and several rounds go on at a time.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

ROUND_CRASHES = 50
ROUND_TIMEOUT_S = 900
# A point that the workload did not reach is tried again this often, each time from its first occurrence.
TRIES = 4
# These are reached once in the life of a state directory: with the first start.
FIRST_START = ("journal-migration", "seal-key")
# These are reached while a daemon starts.
STARTING = ("marker-sync", "sweep-remove")
# How often the workload reaches a step within a second or so: the n-th time is drawn up to it.
OFTEN = {"journal-commit": 40, "spool-sync": 8, "spool-directory-sync": 5, "spool-remove": 5}


def step_of(point):
    return point.rsplit(".", 1)[0]


def points_of(tidegate):
    said = subprocess.run([tidegate, "failpoints"], capture_output=True, text=True)
    if said.returncode:
        sys.exit(f"{tidegate} has no failpoints: build it with `cargo build --features failpoints`")
    return said.stdout.split()


def plan_kills(rng, points, times):
    """Every point once, then moments and points by chance: [point, n] or [None, seconds]."""
    crashes = [[point, first_of(rng, point)] for point in points]
    again = [point for point in points if not point.startswith(FIRST_START)]
    while len(crashes) < times:
        if rng.random() < 0.5:
            crashes.append(moment(rng))
        else:
            point = rng.choice(again)
            crashes.append([point, first_of(rng, point)])
    return crashes


def first_of(rng, point):
    return rng.randint(1, OFTEN.get(step_of(point), 1))


def moment(rng):
    """From right after the start to well into the transfers."""
    return [None, rng.uniform(0.02, 1.0)]


def rounds_of(rng, crashes, lanes):
    count = max(-(-len(crashes) // ROUND_CRASHES), min(lanes, len(crashes)))
    rounds = [crashes[number::count] for number in range(count)]
    for crashes_of_round in rounds:
        rng.shuffle(crashes_of_round)
        # What only a fresh state directory reaches comes first.
        crashes_of_round.sort(key=lambda crash: not (crash[0] or "").startswith(FIRST_START))
    return rounds


class Lanes:
    """Rounds in processes of their own, a few at a time."""

    def __init__(self, options, folder):
        self.options = options
        self.folder = folder
        self.running = {}

    def start(self, number, crashes, seed):
        plan = self.folder / f"{number}.plan"
        plan.write_text(json.dumps({"crashes": crashes, "seed": seed, "number": number}))
        argv = [sys.executable, "-B", str(pathlib.Path(__file__).with_name("round.py")), "--plan", str(plan)]
        argv += ["--tidegate", self.options.tidegate]
        argv += ["--power-cuts"] if self.options.power_cuts else []
        argv += ["--without", self.options.without] if self.options.without else []
        with_us = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with open(self.folder / f"{number}.log", "wb") as log:
            child = subprocess.Popen([*with_us, *argv], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.running[number] = (child, time.monotonic())

    def ended(self):
        """(number, its result or None, its output) of rounds that have ended."""
        for number, (child, began) in list(self.running.items()):
            if child.poll() is None and time.monotonic() - began < ROUND_TIMEOUT_S:
                continue
            if child.poll() is None:
                child.kill()
                child.wait()
            del self.running[number]
            said = (self.folder / f"{number}.log").read_text(errors="replace")
            result = self.folder / f"{number}.plan.result"
            yield number, json.loads(result.read_text()) if result.exists() else None, said

    def close(self):
        for child, _ in self.running.values():
            child.kill()
            child.wait()


def campaign(options, crashes, seed, folder):
    """The sum of all rounds' figures, and how often each point was reached."""
    rng = random.Random(seed)
    waiting = collections.deque(enumerate(rounds_of(rng, crashes, options.lanes)))
    rounds, lanes = len(waiting), Lanes(options, folder)
    figures, reached, problems = collections.Counter(), collections.Counter(), []
    startups, done, began = [], 0, time.monotonic()
    try:
        while waiting or lanes.running:
            while waiting and len(lanes.running) < options.lanes:
                number, crashes_of_round = waiting.popleft()
                lanes.start(number, crashes_of_round, rng.randrange(1 << 32))
            time.sleep(0.1)
            for number, result, said in lanes.ended():
                done += 1
                if result is None:
                    problems.append(f"round {number} did not reach its end:\n{said[-6000:]}")
                    continue
                figures.update(result["figures"])
                reached.update(result["reached"])
                startups += result["startups"]
                problems += [f"round {number}: {problem}" for problem in result["problems"]]
                if result["problems"]:
                    print(said[-8000:], flush=True)
                crashed = sum(figures[name] for name in ("kills", "power cuts"))
                print(f"  {done}/{rounds} rounds, {crashed} crashes, {time.monotonic() - began:.0f} s", flush=True)
    finally:
        lanes.close()
    return figures, reached, problems, sorted(startups)


def report(options, title, crashes, points, figures, reached, problems, startups):
    passed = failed = 0

    def check(what, holds, detail=""):
        nonlocal passed, failed
        passed, failed = passed + bool(holds), failed + (not holds)
        print(f"  ok       {what}" if holds else f"  FAILED   {what}: {detail}")

    crashed = figures["kills"] + figures["power cuts"]
    check(f"{crashed} {'power cuts' if options.power_cuts else 'kills'}", crashed >= len(crashes), crashed)
    check("every round reached its end, and no call was answered in an unexpected way", not problems, problems[:5])
    what = f"of {figures['acknowledged']} acknowledged uploads ({figures['photos']} photos)"
    check(f"{figures['lost']} {what} are lost", figures["lost"] == 0)
    check(f"{figures['failed']} of them neither SUCCEEDED nor were cancelled", figures["failed"] == 0)
    check(f"{figures['corrupt']} objects are damaged", figures["corrupt"] == 0)
    check(f"{figures['duplicate']} objects are there twice, or were put twice", figures["duplicate"] == 0)
    check(f"{figures['strangers']} objects are nobody's", figures["strangers"] == 0)
    check(f"{figures['leaked files']} spool files and {figures['leaked rows']} rows are left",
          figures["leaked files"] + figures["leaked rows"] == 0)  # fmt: skip
    check(f"{figures['resent']} parts were sent again, {figures['in flight']} could be in flight at the crashes",
          figures["resent"] <= figures["in flight"])  # fmt: skip
    check(f"{figures['open']} multipart uploads are left to the lifecycle rule, {figures['begun']} could just have begun",
          figures["open"] <= figures["begun"])  # fmt: skip
    if points:
        never = [point for point in points if not reached[point]]
        check(f"every one of {len(points)} failpoints was reached and killed it", not never, f"never: {never}")
        print("  killed at: " + ", ".join(f"{point} {reached[point]}" for point in points))
    if startups:
        print(f"  restarts took {startups[len(startups) // 2]:.2f} s in the middle, {startups[-1]:.2f} s at most")
    calls = {name.removeprefix("call "): count for name, count in figures.items() if name.startswith("call ")}
    print(f"  the workload: {calls}; {figures['swept']} spool files were swept by starts")
    print(f"compat: {title}: {passed} passed, {failed} failed, 0 skipped")
    return failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tidegate", required=True, help="the program under test")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--kills", type=int, help="crash this often by SIGKILL, at least once at every failpoint")
    how.add_argument("--power-cuts", type=int, help="crash this often by a power cut; needs root for mounts")
    parser.add_argument("--without", metavar="STEP", help="leave this step out: the run must notice what that loses")
    parser.add_argument("--point", action="append", help="kill at this failpoint only; may be repeated")
    parser.add_argument("--lanes", type=int, default=(os.cpu_count() or 1) + 1, help="rounds at a time")
    parser.add_argument("--seed", type=int, default=None, help="repeats a workload, as far as the kernel lets it")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    points = []
    if options.kills:
        points = options.point or points_of(options.tidegate)
        crashes = plan_kills(rng, points, options.kills)
    else:
        crashes = [moment(rng) for _ in range(options.power_cuts)]
    title = f"uploads under {len(crashes)} {'kills' if options.kills else 'power cuts'}"
    print(f"{title}, seed {seed}", flush=True)
    if options.power_cuts and (os.geteuid() != 0 or not shutil.which("mkfs.ext4")):
        print(f"  skipped  {title}: mounting an ext4 image needs root and mkfs.ext4")
        print(f"compat: {title}: 0 passed, 0 failed, 1 skipped")
        return
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-crash-"))
    try:
        figures, reached, problems, startups = campaign(options, crashes, seed, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.without:
        found = figures["lost"] + figures["failed"] + figures["corrupt"] + len(problems)
        verdict = "noticed" if found else "NOT noticed"
        print(f"  that {options.without} was left out was {verdict}: {figures['lost']} lost, {figures['failed']} failed, "
              f"{figures['corrupt']} damaged, {len(problems)} other problems")  # fmt: skip
        print(f"compat: {title} without {options.without}: {int(found > 0)} passed, {int(found == 0)} failed, 0 skipped")
        sys.exit(found == 0)
    sys.exit(report(options, title, crashes, points, figures, reached, problems, startups) != 0)


if __name__ == "__main__":
    main()
