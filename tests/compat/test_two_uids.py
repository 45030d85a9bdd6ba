"""Two users of one machine."""

import os

import two_uids
from harness import Checks, main

PASSWORD = "Correct-Horse-7"
USER = "ada@example.com"


def run(bench, checks: Checks):
    if os.geteuid() != 0:
        checks.skip("two uids", "only root can run clients under other uids")
        return
    # Before this process makes a gRPC channel: its threads would not survive the fork.
    first, second = two_uids.User(two_uids.FIRST_UID), two_uids.User(two_uids.SECOND_UID)
    from local_cloud import LocalCloud
    from tidegate_app import Daemon

    cloud = LocalCloud(bench)
    cloud.make_user(USER, PASSWORD, "free-tier")
    daemon = Daemon(bench, "daemon", cloud.config())
    try:
        two_uids.check(checks, daemon, first, second, USER, PASSWORD)
    finally:
        first.close()
        second.close()
        daemon.stop()


if __name__ == "__main__":
    main("two uids", run)
