"""What every storage must do: a folder and an object store alike."""

import hashlib
from pathlib import Path

import pytest

from cache.storage.base import Storage
from cache.storage.folder import FolderStorage
from cache.storage.objects import ObjectStorage
from helpers.processes import python


@pytest.fixture(params=["folder", "store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """With the folders that a stream has."""
    if request.param == "store":
        return ObjectStorage(request.getfixturevalue("s3_url"))
    for name in ("a/b", "a/bc", ".hidden"):
        (tmp_path / "root" / name).mkdir(parents=True)
    return FolderStorage(tmp_path / "root")


def test_values(storage: Storage) -> None:
    storage.put("a/b/x", b"one")
    assert (storage.get("a/b/x"), storage.size("a/b/x")) == (b"one", 3)
    storage.put("a/b/x", b"")
    assert (storage.get("a/b/x"), storage.size("a/b/x")) == (b"", 0)
    storage.put("a/b/x", b"three")
    assert storage.digest("a/b/x") == (5, hashlib.blake2b(b"three", digest_size=16).hexdigest())


def test_keys_that_are_not_there(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        storage.get("a/b/x")
    assert storage.name("a/b/x") in str(caught.value)
    with pytest.raises(FileNotFoundError):
        storage.digest("a/b/x")
    assert storage.size("a/b/x") is None
    assert storage.sizes(["a"])("a/b/x") is None
    assert list(storage.keys("nowhere")) == []
    assert storage.folders("nowhere") == []
    storage.delete(["a/b/x"])


def test_many(storage: Storage) -> None:
    for number in range(5):
        storage.put(f"a/b/{number}", bytes(number))
    assert list(storage.get_many(["a/b/3", "a/b/9", "a/b/1"])) == [bytes(3), None, bytes(1)]
    size = storage.sizes(["a/b"])
    assert [size(f"a/b/{number}") for number in range(6)] == [0, 1, 2, 3, 4, None]
    assert storage.total_bytes("a") == 10
    storage.delete(["a/b/0", "a/b/9", "a/b/3"])
    assert sorted(storage.keys("a")) == ["a/b/1", "a/b/2", "a/b/4"]


def test_a_name_that_begins_with_another(storage: Storage) -> None:
    storage.put("a/b/x", b"1")
    storage.put("a/bc/x", b"22")
    assert list(storage.keys("a/b")) == ["a/b/x"]
    assert storage.total_bytes("a/b") == 1
    assert storage.folders("a") == ["b", "bc"]


def test_below(storage: Storage) -> None:
    storage.put("a/b/x", b"1")
    storage.put(".hidden/x", b"1")
    below = storage.below("a").below("b")
    assert below.get("x") == b"1"
    assert list(below.keys("")) == ["x"]
    assert below.name("x") == storage.name("a/b/x")
    assert storage.folders() == ["a"]


def test_nothing_is_imported_before_it_is_needed() -> None:
    """`mtl --help` and caches in folders load no obstore."""
    python("-c", "import sys, pipelines.cli, cache.store; assert 'obstore' not in sys.modules")
