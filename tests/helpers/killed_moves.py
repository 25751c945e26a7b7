"""`killed_moves ACTION PLACE FIRST STEP LAST`: a cache below PLACE for every STEP-th number, on which ACTION is killed.

The number is that of the change of the disk, or of the request, before which the process is killed; then the same
action runs to its end. `part` writes the second half of the made stream, whose first half is there, `repair` finds and
redoes damage. Ends where an action is no longer hit; prints the numbers as JSON.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cache.store import Cache
from cache.verify import repair, verify
from helpers import made_stream as made
from helpers.killed_store import kill_before_request
from helpers.kills import kill_before

DAMAGED = ("embedding/c/1/0", "state/c/1")


def at(place: str) -> Path | str:
    return place if "://" in place else Path(place)


def write_damage(place: str) -> None:
    """A shard and what only repeats marks."""
    files = made.extract_into(at(place)).files
    for key in DAMAGED:
        data = bytearray(files.get(key))
        data[3] ^= 1
        files.put(key, bytes(data))


def repair_all(place: str) -> None:
    stream = Cache.open(at(place)).stream("expr")
    repair(stream, verify(stream, None, None, lambda count: None))
    made.fill(stream)


ACTIONS: dict[str, tuple[Callable[[str], object], Callable[[str], object]]] = {
    "part": (
        lambda place: made.extract_into(at(place), part=(1, 2)),
        lambda place: made.extract_into(at(place), part=(2, 2)),
    ),
    "repair": (write_damage, repair_all),
}


def in_child(action: Callable[[], object]) -> bool:
    """Runs it in a process of its own, so that no thread of a store outlives a fork; whether it was killed."""
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0, status
    return os.WIFSIGNALED(status)


def main() -> None:
    prepare, act = ACTIONS[sys.argv[1]]
    found = []
    for number in range(*map(int, (sys.argv[3], sys.argv[5], sys.argv[4]))):
        place = f"{sys.argv[2]}/{number}.zarr"

        def killed(place: str = place, number: int = number) -> None:
            if "://" in place:
                kill_before_request(number)
            else:
                kill_before(number, place)
            act(place)

        in_child(lambda place=place: prepare(place))
        was_hit = in_child(killed)
        in_child(lambda place=place: act(place))
        found.append(number)
        if not was_hit:
            break
    print(json.dumps(found))
