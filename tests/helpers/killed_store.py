"""`killed_store URL N1 N2 ...` extracts the made stream into the cache at URL again and again.

Each time the process is killed before its N-th request, at last not. Prints how many were killed.
"""

import os
import signal
import sys

from cache.storage.objects import ObjectStorage
from helpers.made_stream import extract_into


def kill_before_request(number: int) -> None:
    """SIGKILL at the `number`-th request of this process, in whichever thread."""
    done = 0
    ask = ObjectStorage._ask

    def count(self: ObjectStorage, *words: object, **options: object) -> object:
        nonlocal done
        done += 1
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return ask(self, *words, **options)

    ObjectStorage._ask = count


def main() -> None:
    url, numbers = sys.argv[1], [int(text) for text in sys.argv[2:]]
    num_killed = 0
    for number in (*numbers, 10**9):
        child = os.fork()  # a fresh interpreter each time would take seconds to import; nothing has started threads yet
        if child == 0:
            kill_before_request(number)
            extract_into(url)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        num_killed += os.WIFSIGNALED(status)
    assert status == 0, status
    print(num_killed)
