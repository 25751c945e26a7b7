"""Who may write: a stream one process the whole of it, or several a part each; a folder or a file one process.

The system lets go of all locks of a process that dies.

A part (i, n) is the i-th of n runs of shards, so writers of parts that do not overlap need not wait for one another.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no flock; writers are not kept apart there
    fcntl = None  # type: ignore[assignment]

Part = tuple[int, int]
WHOLE: Part = (1, 1)
LOCK_FILE = "writer.lock"
PART_FILE = re.compile(r"writer-(\d+)-of-(\d+)\.lock")
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # file systems that keep none


class BeingWritten(ValueError):
    """Another process writes the same."""


@contextlib.contextmanager
def writing(folder: Path, what: str, part: Part = WHOLE) -> Iterator[None]:
    """Holds the locks in `folder` that writing `part` needs.

    Raises:
        BeingWritten: another process writes the same; says `what` it is busy with and the process.
    """
    number, count = part
    assert 1 <= number <= count, part
    if part == WHOLE:
        with locked(folder / LOCK_FILE, what):
            yield
        return
    own = f"writer-{number}-of-{count}.lock"
    with locked(folder / LOCK_FILE, what, shared=True), locked(folder / own, f"{what}, part {number}/{count},"):
        for path in sorted(folder.iterdir()):
            found = PART_FILE.fullmatch(path.name)
            other = (int(found[1]), int(found[2])) if found else part
            if other != part and overlap(part, other):
                with locked(path, f"{what}, part {other[0]}/{other[1]},"):
                    pass
        yield


def part_of(part: Part, num_items: int) -> range:
    """The items, 0 to `num_items` - 1, of a part; the parts of any n are all of them, each once."""
    number, count = part
    return range(num_items * (number - 1) // count, num_items * number // count)


def overlap(one: Part, other: Part) -> bool:
    """Whether two parts, possibly of different n, can have an item in common."""
    return (one[0] - 1) * other[1] < other[0] * one[1] and (other[0] - 1) * one[1] < one[0] * other[1]


@contextlib.contextmanager
def locked(path: Path, what: str, shared: bool = False) -> Iterator[int]:
    """Holds the lock file `path`, alone or with others who share it; yields its file descriptor.

    Raises:
        BeingWritten: another process holds it; says `what` it is busy with and the process.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            _flock(descriptor, what, shared)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        try:
            yield descriptor
        finally:
            if not shared:
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file `path` for work after which it is gone.

    Raises:
        BeingWritten: another process holds it; says `what` it is busy with and the process.
    """
    while True:
        with locked(path, what) as descriptor:
            try:
                is_current = os.path.samestat(os.fstat(descriptor), path.stat())
            except FileNotFoundError:
                is_current = False
            if not is_current:  # its last holder removed it after it was opened here, and a third may hold a new one
                continue
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
            return


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """One process at a time, each waiting for the one before it; the lock lies on the folder itself, so no lock file is
    left behind. Without effect on Windows."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def in_turn_by(path: Path) -> Iterator[None]:
    """As `in_turn`, by the lock file `path`, which stays: a file system of a network may lock no folder."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, what: str, shared: bool) -> None:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
        raise BeingWritten(f"{what} is being written by process {pid}; wait until it ends or stop it") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
