"""The local copy of a cache in an object store: a folder that cannot be used is named with its setting."""

from pathlib import Path

import pytest

from cache.storage.base import digest_of
from cache.storage.local_copy import LocalCopy

DATA = b"a shard"


def test_a_file_is_fetched_once(tmp_path: Path) -> None:
    copy, fetched = LocalCopy(tmp_path / "local", 100), []
    for _ in range(2):
        path = copy.path(digest_of(DATA), len(DATA), lambda: fetched.append(1) or DATA)  # type: ignore[func-returns-value]
        assert path is not None
        assert path.read_bytes() == DATA
    assert fetched == [1]


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^\[cache\] local = .*file: not a directory; name a folder"):
        LocalCopy(tmp_path / "file", 100).path(digest_of(DATA), len(DATA), lambda: DATA)


def test_an_object_that_is_gone_is_not_blamed_on_the_folder(tmp_path: Path) -> None:
    def gone() -> bytes:
        raise FileNotFoundError(2, "no such object", "s3://bucket/key")

    with pytest.raises(FileNotFoundError, match="no such object"):
        LocalCopy(tmp_path / "local", 100).path(digest_of(DATA), len(DATA), gone)
