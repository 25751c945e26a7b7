"""Files that outlive a power cut: durable writing and temporary names."""

import contextlib
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp-"
# Nothing here takes minutes between making a temporary and renaming it, so an older one is left over. A younger one is
# if its maker, whose host and process are in its name, is known to be dead.
LEFTOVER_AGE_S = 600.0
HOST = platform.node().replace(os.sep, "_")


def write_durably(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` in one step: after a crash there is the old file or the new one, never a part."""
    temporary = temporary_beside(path)
    try:
        write_synced(temporary, data, path)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_synced(temporary: Path, data: bytes, path: Path) -> None:
    """The new file `temporary`, on the disk when this returns; an OSError names `path`, which it is to become."""
    with naming(path), open(temporary, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError from inside that names no file, as a full disk's does, names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def sync(path: Path) -> None:
    """Waits until the file or folder `path` is on the disk. Windows cannot sync folders: skipped there."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` for every file and folder in `folder`, itself last."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def temporary_beside(path: Path) -> Path:
    """A fresh hidden name in the folder of `path`."""
    return path.with_name(f"{TEMPORARY}{path.name}-{HOST}-{os.getpid()}-{secrets.token_hex(4)}")


def remove_leftovers(folder: Path) -> None:
    """Deletes what killed processes left in `folder` under temporary names. Best effort: never raises OSError."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{TEMPORARY}*"):
            if time.time() - path.stat().st_mtime < LEFTOVER_AGE_S and not _is_maker_dead(path.name):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_maker_dead(name: str) -> bool:
    """Whether the process that chose the temporary `name` ran on this machine and has ended."""
    start, pid, _ = name.rsplit("-", 2)
    if os.name == "nt" or not start.endswith(f"-{HOST}"):  # on Windows signal 0 would end the process
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False
