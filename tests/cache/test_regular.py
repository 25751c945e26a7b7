"""No file is opened that has no end: pipes, devices, folders, sockets, links to themselves, and files of holes."""

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache import regular


def make_sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(20 * regular.GIB)


def make_socket(path: Path) -> None:
    place = os.getcwd()
    os.chdir(path.parent)  # a socket's name has 107 bytes at most
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(place)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (lambda path: os.mkfifo(path), "a pipe; wanted a regular file"),
    "folder": (lambda path: path.mkdir(), "a folder; wanted a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device; wanted a regular file"),
    "socket": (make_socket, "a socket; wanted a regular file"),
    "link to itself": (lambda path: path.symlink_to(path.name), "a link that leads to itself"),
    "holes": (make_sparse, "20.0 GiB, where at most 4.0 MiB are read"),
}
READERS = {
    "check_regular": lambda path: regular.check_regular(path, regular.CONFIG_BYTES),
    "open_regular": lambda path: regular.open_regular(path, regular.CONFIG_BYTES),
    "read_bytes": lambda path: regular.read_bytes(path, regular.CONFIG_BYTES),
    "read_text": lambda path: regular.read_text(path, regular.CONFIG_BYTES),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ODD)
def test_what_has_no_end_is_refused_with_its_name(
    tmp_path: Path, kind: str, reader: str, in_time: Callable[[Callable[[], Any]], Any]
) -> None:
    make, words = ODD[kind]
    path = tmp_path / "odd"
    make(path)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {words}")):
        in_time(lambda: READERS[reader](path))


def test_a_regular_file_is_read_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    for path in (tmp_path / "file", tmp_path / "link", str(tmp_path / "file")):
        assert regular.check_regular(path) == 3
        assert regular.read_bytes(path, 3) == b"abc"
        assert regular.read_text(path, 10) == "abc"
    with pytest.raises(ValueError, match="3 bytes, where at most 2 bytes are read"):
        regular.read_bytes(tmp_path / "file", 2)
    with pytest.raises(FileNotFoundError):
        regular.read_bytes(tmp_path / "absent", 3)


def test_a_file_without_a_size_is_read_up_to_the_budget() -> None:
    path = Path("/proc/self/status")
    if not path.exists():
        pytest.skip("no /proc here")
    assert path.stat().st_size == 0
    assert regular.read_bytes(path, regular.CONFIG_BYTES)
    with pytest.raises(ValueError, match="more, where at most 10 bytes"):
        regular.read_bytes(path, 10)
