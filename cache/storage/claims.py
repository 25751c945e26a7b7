"""Who may write a stream of an object store: the holder of a claim, an object beside the stream's marks.

A claim is made by a conditional create, so that of any number of processes one has it, and written again every
HEARTBEAT_S while it is held. It is dead when its process is known to have ended, or when it was not written for
EXPIRY_S by the store's own clock or by that of whoever waits: no two machines' clocks are compared. The claim that
takes its place has the next number.
"""

import contextlib
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from cache.locks import WHOLE, BeingWritten, Part, overlap
from cache.storage.objects import ObjectStorage
from cache.storage.owner import Owner

CLAIMS = "embedding/claims"  # where a listing of the Zarr group does not come upon them
NAME = re.compile(r"(\d+)-of-(\d+)\.(\d+)\.json")
HEARTBEAT_S, EXPIRY_S = 10.0, 60.0
POLL_S = 1.0  # between two looks at a claim that may be dead
END_S = 5.0  # how long the end of a command waits for a store that does not answer
COLLISION_S = 0.5  # a claim that is withdrawn at once is gone by then
CLOCK = getattr(time, "CLOCK_BOOTTIME", None)
MAX_COLLISIONS = 8  # of two processes that claim overlapping parts at the same moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A claim that is there: its part, its number, and when it was last written by the store's clock."""

    key: str
    part: Part
    number: int
    modified_s: float


class Claim:
    """The claim of a `part`, held; `what` is the stream for errors."""

    def __init__(self, files: ObjectStorage, what: str, part: Part, number: int, owner: Owner, dead: set[str]) -> None:
        self._files, self._what, self._part, self._number, self._owner = files, what, part, number, owner
        self._dead = dead
        self.key = f"{CLAIMS}/{part[0]}-of-{part[1]}.{number:06d}.json"
        self._written_s = _now_s()
        self._is_lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)

    def create(self) -> bool:
        """Whether the claim is there now, and this process's."""
        return self._files.create(self.key, self._owner.to_bytes())

    def require(self) -> None:
        """Raises BeingWritten where the claim is, or may be, another's by now: this process was stopped for so long, or
        the store away."""
        if _now_s() - self._written_s > EXPIRY_S / 2:
            self.renew()
        if self._is_lost:
            raise BeingWritten(
                f"{self._what} is being written by another process, which took over while this one stood still; "
                "finished shards are kept"
            )

    def renew(self) -> None:
        """Writes the claim again, if it is still this process's: the key may be that of a third by now."""
        own, now_s = self._owner.to_bytes(), _now_s()
        if next(self._files.get_many([self.key])) != own:
            self._is_lost = True
            return
        there = {each.key for each in _rivals(self._files)}
        self._files.delete(sorted(there & self._dead))  # an owner taken for dead that woke up
        self._files.put(self.key, own)
        self._written_s = now_s

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(END_S)
        if not self._is_lost:
            self.withdraw()

    def withdraw(self) -> None:
        """Removes the claim; where the store does not answer, it expires."""
        with contextlib.suppress(OSError):
            self._files.delete([self.key])

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S) and not self._is_lost:
            with contextlib.suppress(OSError):  # `require` sees that it was not written
                self.renew()


@contextlib.contextmanager
def claimed(files: ObjectStorage, what: str, part: Part = WHOLE) -> Iterator[Claim]:
    """Holds the claim of a part of the stream in `files`; waits for one that may be dead until that is known.

    Raises:
        BeingWritten: another process writes an overlapping part; says `what` it is busy with and the process.
    """
    claim = _acquire(files, what, part)
    claim.start()
    try:
        yield claim
    finally:
        claim.end()


def _acquire(files: ObjectStorage, what: str, part: Part) -> Claim:
    watch, num_tries = Watch(files), 0
    while num_tries < MAX_COLLISIONS:
        rivals = _overlapping(files, part)
        living = [each for each in rivals if not watch.is_dead(each)]
        if living and num_tries:
            watch.refuse_living(living, what)
            time.sleep(POLL_S)
            continue
        num_tries += 1
        number = 1 + max((each.number for each in rivals if each.part == part), default=0)
        claim = Claim(files, what, part, number, Owner.new(), {each.key for each in rivals})
        try:
            if claim.create() and _is_alone(claim, watch, part):
                return claim
        except OSError:
            claim.withdraw()
            raise
        time.sleep(random.random())
    raise BeingWritten(f"{what} is being written by another process that began at the same moment; try again")


def _is_alone(claim: Claim, watch: "Watch", part: Part) -> bool:
    """Whether a claim just made has no living rival, so that it is held; else it is withdrawn."""
    rivals = {each.key: each for each in _overlapping(watch.files, part)}
    own = rivals.pop(claim.key, None)
    if own is not None:
        watch.set_clock(own.modified_s)
    if own is None or not all(watch.is_dead(each) for each in rivals.values()):
        watch.files.delete([claim.key])
        return False
    watch.files.delete(list(rivals))
    return True


class Watch:
    """What is known of the claims of others, by the store's clock and by how long they have stood still."""

    def __init__(self, files: ObjectStorage) -> None:
        self.files = files
        self._first: dict[str, tuple[float, float]] = {}  # key -> when last written, and since when it is known here
        self._clock: tuple[float, float] | None = None  # of the store, and of this machine at that moment

    def set_clock(self, store_s: float) -> None:
        self._clock = store_s, _now_s()

    def is_dead(self, rival: Rival) -> bool:
        modified_s, since_s = self._first.setdefault(rival.key, (rival.modified_s, _now_s()))
        if rival.modified_s == modified_s and _now_s() - since_s > EXPIRY_S:
            return True
        if self._clock is not None:
            store_s, here_s = self._clock
            if store_s + _now_s() - here_s - rival.modified_s > EXPIRY_S:
                return True
        owner = self._owner(rival)
        return owner is not None and owner.has_ended

    def refuse_living(self, rivals: list[Rival], what: str) -> None:
        """Raises BeingWritten where one is seen to live, for longer than two that collide see each other."""
        for rival in rivals:
            owner = self._owner(rival)
            modified_s, since_s = self._first[rival.key]
            is_local = owner is not None and owner.is_local and _now_s() - since_s > COLLISION_S
            if owner is not None and (is_local or rival.modified_s != modified_s):
                raise BeingWritten(f"{what} is being written by {owner}; wait until it ends or stop it")

    def _owner(self, rival: Rival) -> Owner | None:
        """None where the claim is gone by now, or no claim."""
        try:
            return Owner.from_bytes(self.files.get(rival.key))
        except FileNotFoundError:
            return None


def _overlapping(files: ObjectStorage, part: Part) -> list[Rival]:
    return [each for each in _rivals(files) if overlap(part, each.part)]


def _rivals(files: ObjectStorage) -> list[Rival]:
    found = []
    for entry in files.entries(CLAIMS):
        name = NAME.fullmatch(entry.key.rpartition("/")[2])
        if name:
            part = (int(name[1]), int(name[2]))
            found.append(Rival(key=entry.key, part=part, number=int(name[3]), modified_s=entry.modified_s))
    return found


def _now_s() -> float:
    """Seconds that go on while the machine sleeps, where the system has them."""
    return time.clock_gettime(CLOCK) if CLOCK is not None else time.monotonic()
