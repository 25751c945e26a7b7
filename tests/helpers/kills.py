"""A process that kills itself at a chosen change of the disk."""

import os
import signal
import sys

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.link")


def kill_before(change: int, folder: str) -> None:
    """SIGKILL at the `change`-th thing this process does to a file in `folder`, in whichever thread."""
    done = 0

    def count(event: str, args: tuple) -> None:
        nonlocal done
        if event in CHANGES and folder in str(args[0]):
            done += 1
            if done == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
