"""Run as a script: `killed_writer.py CACHE N1 N2 ...` extracts the made stream into CACHE again and again.

Each time the process is killed before its N-th change of the disk, at last not. Prints how many were killed.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.link")


def kill_before(change: int, folder: str) -> None:
    """SIGKILL on the `change`-th thing this process does to a file in `folder`."""
    done = 0

    def count(event: str, args: tuple) -> None:
        nonlocal done
        if event in CHANGES and folder in str(args[0]):
            done += 1
            if done == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def main() -> None:
    folder, changes = sys.argv[1], [int(text) for text in sys.argv[2:]]
    module = runpy.run_path(str(Path(__file__).with_name("made_stream.py")))
    num_killed = 0
    for change in (*changes, 10**9):
        child = os.fork()  # a fresh interpreter each time would take seconds to import; nothing has started threads yet
        if child == 0:
            kill_before(change, folder)
            module["extract_into"](Path(folder))
            os._exit(0)
        num_killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    print(num_killed)


if __name__ == "__main__":
    main()
