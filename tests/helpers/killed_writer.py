"""`killed_writer CACHE N1 N2 ...` extracts the made stream into CACHE again and again.

Each time the process is killed before its N-th change of the disk, at last not. Prints how many were killed.
"""

import os
import sys
from pathlib import Path

from helpers.kills import kill_before
from helpers.made_stream import extract_into


def main() -> None:
    folder, changes = sys.argv[1], [int(text) for text in sys.argv[2:]]
    num_killed = 0
    for change in (*changes, 10**9):
        child = os.fork()  # a fresh interpreter each time would take seconds to import; nothing has started threads yet
        if child == 0:
            kill_before(change, folder)
            extract_into(Path(folder))
            os._exit(0)
        num_killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    print(num_killed)
