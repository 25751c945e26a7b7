"""Is it a regular file of a sane size? Asked before any file is opened: a pipe would be waited for without end, a
device has no end, and a file of holes may claim more than the memory.

The lowest of all modules: every reader may call it. Here are also the budgets, one for each kind of file.
"""

import errno
import os
import stat
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
# What people write: mtl.toml, grids, rules for names. The longest grid seen has 4 KiB.
CONFIG_BYTES = 4 * MIB
# JSON that mtl writes itself: run.json and metrics.json are 20 KiB, trials.json of 10,000 trials 30 MiB.
JSON_BYTES = 256 * MIB
# Text and CSV of labels, names or predictions. 2.6 million rows of 16 cells are 260 MiB.
TABLE_BYTES = 4 * GIB
# One face as a file or member, and its pixels. A PNG of 2048 x 2048 noise is 12 MiB; faces of the challenge are 5 KiB.
FACE_BYTES = 64 * MIB
# 4096 x 4096, 48 MiB decoded. Sixteen threads decode at a time.
FACE_PIXELS = 1 << 24
# Members that an archive or video of one person's faces may list: 9 hours at 30 per second.
MAX_MEMBERS = 1_000_000
# What an import may claim to hold; the challenge's largest set has 2.6 million frames, embeddings are to 4,096 wide.
MAX_VECTORS, MAX_WIDTH = 20_000_000, 65_536
# A pickle is held whole: 2.6 million vectors of 1280 float32 are 12.4 GiB.
PICKLE_BYTES = 16 * GIB

# Rules for the names of tensors: 10,000 names take 0.1 s; the longest name seen has 90 characters.
RULES_S, TENSOR_NAME_CHARS = 10.0, 4096

# Opening a pipe to read waits for a writer, unless it is told not to.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def check_regular(path: Path | str, max_bytes: int | None = None) -> int:
    """The size of the file `path` in bytes; links are followed.

    Raises:
        ValueError: it is a folder, a pipe, a device or a socket, a link that leads to itself, or larger than
            `max_bytes`.
        OSError: it is not there, or may not be looked at.
    """
    try:
        return _checked(os.stat(path), path, max_bytes)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"{path}: a link that leads to itself; wanted a regular file") from None
        raise


def open_regular(path: Path | str, max_bytes: int | None = None) -> int:
    """A descriptor of the file `path`, open for reading, which the caller closes. Raises as `check_regular`."""
    check_regular(path, max_bytes)  # a device may do something when it is opened
    descriptor = os.open(path, OPEN_FLAGS)
    try:
        _checked(os.fstat(descriptor), path, max_bytes)  # what was opened, should another have taken the name
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_bytes(path: Path | str, max_bytes: int) -> bytes:
    """All bytes of the file `path`, which may be `max_bytes` at most. Raises as `check_regular`."""
    with open(open_regular(path, max_bytes), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:  # it grew, or is of those under /proc that have no size
        raise ValueError(_too_large(path, "more", max_bytes))
    return data


def read_text(path: Path | str, max_bytes: int, encoding: str = "utf-8") -> str:
    """The text of the file `path`.

    Raises:
        UnicodeDecodeError: it is not in `encoding`; a `ValueError`, whose words are the caller's to choose.
        ValueError, OSError: as `check_regular`.
    """
    return read_bytes(path, max_bytes).decode(encoding)


def size_words(num_bytes: int) -> str:
    """`num_bytes` for one line, such as "20.0 GiB"."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:,.1f} {name}"
    return f"{num_bytes} bytes"


def _checked(status: os.stat_result, path: Path | str, max_bytes: int | None) -> int:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise ValueError(f"{path}: {KINDS.get(kind, 'no file')}; wanted a regular file")
    if max_bytes is not None and status.st_size > max_bytes:
        raise ValueError(_too_large(path, size_words(status.st_size), max_bytes))
    return status.st_size


def _too_large(path: Path | str, size: str, max_bytes: int) -> str:
    return f"{path}: {size}, where at most {size_words(max_bytes)} are read of a file of this kind"
