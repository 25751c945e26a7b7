"""What a cache needs of the place where it lies. A key is a path below the place's root, such as "expr/zarr.json"."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

DIGEST_BYTES = 16


class StorageError(OSError):
    """An object store that cannot be reached or does not allow what is asked; one line: what, where, what to do."""


class Storage(Protocol):
    """A root and the keys below it. Every operation on a missing key but `get` says so without an error."""

    def name(self, key: str = "") -> str:
        """The root, or a key below it, for messages."""

    def below(self, key: str) -> "Storage":
        """The storage whose root is `key`."""

    def get(self, key: str) -> bytes:
        """Raises FileNotFoundError where the key is not there."""

    def get_many(self, keys: Sequence[str]) -> Iterator[bytes | None]:
        """The values of `keys`, in order; None for one that is not there."""

    def size(self, key: str) -> int | None:
        """Bytes; None where the key is not there."""

    def sizes(self, prefixes: Iterable[str]) -> Callable[[str], int | None]:
        """`size` for many keys below `prefixes`: an object store lists them once."""

    def digest(self, key: str) -> tuple[int, str]:
        """Bytes and hexadecimal blake2b; raises FileNotFoundError where the key is not there."""

    def put(self, key: str, data: bytes) -> None:
        """Writes or replaces the whole value in one step, durable on return: nobody sees a part of it."""

    def delete(self, keys: Sequence[str]) -> None:
        """Durable on return."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key below `prefix`, at any depth, in no order."""

    def folders(self, prefix: str = "") -> list[str]:
        """Visible names directly below `prefix` that have keys of their own below them, sorted."""

    def total_bytes(self, prefix: str = "") -> int:
        """Sum of the sizes of all keys below `prefix`."""


def new_digest() -> "hashlib._Hash | Any":
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def digest_of(data: bytes) -> str:
    digest = new_digest()
    digest.update(data)
    return str(digest.hexdigest())
