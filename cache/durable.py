"""Files that outlive a power cut: durable writing and temporary names."""

import contextlib
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator
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


def write_whole(path: Path, data: bytes) -> None:
    """As `write_durably` for what can be made again: nobody sees a part, but it is not synced."""
    temporary = temporary_beside(path)
    try:
        with naming(path):
            temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def replace_folder(made: Path, folder: Path, manifest: str = "") -> None:
    """Puts the folder `made`, whole and on the disk, in the place of `folder`; where every folder of its kind has the
    file `manifest`, one without it is not replaced.

    No folder can be renamed over another, so `folder` steps aside first. Stopped between any two of the steps,
    `recover_folder` finishes them: neither the old folder nor the new one is lost.

    Raises:
        ValueError: what is at `folder` is of another kind, or no folder: it stays.
    """
    if manifest:
        check_replaceable(folder, manifest)
    recover_folder(folder)
    new, old = _beside(folder)
    os.rename(made, new)
    sync(folder.parent)
    _finish(folder, new, old)


def place_folder(folder: Path, manifest: str, fill: Callable[[Path], None]) -> None:
    """Puts what `fill` writes into the new folder it is given at `folder`, after all of it is on the disk.

    Replaces what is there if it has the file `manifest`; raises ValueError as `replace_folder`.
    """
    check_replaceable(folder, manifest)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    made = temporary_beside(folder)
    try:
        with naming(folder):
            made.mkdir()
            fill(made)
            sync_tree(made)
        replace_folder(made, folder, manifest)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Finishes what a killed `replace_folder` began at `folder`, where it began anything."""
    new, old = _beside(folder)
    if new.is_dir():
        _finish(folder, new, old)
    elif old.is_dir():
        if folder.exists():
            shutil.rmtree(old)
        else:
            os.rename(old, folder)


def check_replaceable(folder: Path, manifest: str) -> None:
    """Raises `ValueError` where something at `folder` is no folder with the file `manifest`."""
    if (folder.exists() or folder.is_symlink()) and not (folder / manifest).is_file():
        raise ValueError(
            f"{folder}: is there and has no {manifest}, so it is not replaced; move it away or name another"
        )


def _finish(folder: Path, new: Path, old: Path) -> None:
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(new, folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where the new folder waits, whole, and where the old one steps aside."""
    return folder.with_name(f".new-{folder.name}"), folder.with_name(f".old-{folder.name}")


def remove_leftovers(folder: Path) -> None:
    """Deletes what killed processes left in `folder` under temporary names. Best effort: never raises OSError."""
    with contextlib.suppress(OSError):
        now = folder.stat().st_mtime  # of the clock that files have: this machine's may be an hour off
        for path in folder.glob(f"{TEMPORARY}*"):
            if now - path.stat().st_mtime < LEFTOVER_AGE_S and not _is_maker_dead(path.name):
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
