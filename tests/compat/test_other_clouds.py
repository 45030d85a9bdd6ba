"""The daemon does the same scenario against the local cloud and against parts that this project did not write."""

import scenario
from harness import main
from judges import JudgesCloud
from local_cloud import LocalCloud


def run(bench, checks):
    ours, theirs = LocalCloud(bench), JudgesCloud(bench)
    our_lines = scenario.Run(bench, ours, "daemon-local-cloud").go()
    their_lines = scenario.Run(bench, theirs, "daemon-judges").go()
    scenario.compare(checks, our_lines, their_lines, (ours.name, theirs.name))


if __name__ == "__main__":
    main("the daemon on the local cloud and on ministack with SeaweedFS, line by line", run)
