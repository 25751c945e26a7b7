"""A stream: one backbone's embeddings [N, D] of one view, written a whole shard at a time, read as a whole.

Letters: N frames, D width, R rows of a shard.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cache import marks, shards
from cache.identity import FACE_DIGEST_BYTES
from cache.locks import WHOLE, Part, part_of
from cache.manifests.manifest import Found, Marks
from cache.metadata import BASE_VIEW as BASE_VIEW
from cache.metadata import SCHEMA as SCHEMA
from cache.metadata import read_metadata
from cache.shard_reader import ShardReader, aligned_empty
from cache.storage.base import Storage
from cache.storage.folder import FolderStorage
from cache.storage.local_copy import LocalCopy
from cache.storage.objects import ObjectStorage
from cache.writing.folder_place import FolderPlace
from cache.writing.shard_writer import Place, ShardWriter
from cache.writing.store_place import StorePlace

T = TypeVar("T")


class Stream:
    """A stream of the cache in `cache`; opened by `Cache.stream` and `Cache.create`."""

    def __init__(
        self, cache: Storage, name: str, view: str, read_only: bool = False, local: LocalCopy | None = None
    ) -> None:
        """Reads the metadata, no rows. Shards that are read from an object store are kept in `local`.

        Raises:
            ValueError: the metadata is damaged, or of another version of the format; says what to type.
        """
        self.files, self.name, self.view, self.read_only = cache.below(f"{name}/{view}"), name, view, read_only
        found = read_metadata(cache, name, view)
        self.identity, self.provenance, self.layout = found.identity, found.provenance, found.layout
        # Cache and stream, for errors; and what to type to fill the stream, to make it anew, and to redo damaged
        # shards and nothing else.
        self.where, self.extract_hint = found.wording.where, found.wording.extract
        self.remake_hint, self.repair_hint = found.wording.remake, found.wording.repair
        self._marks = Marks(self.files, self.layout)
        self._writer = ShardWriter(self.files, self.layout, self._marks, _place_of(self.files, self.where, self.layout))
        self._reader = ShardReader(self.files, self.layout, local, self.where, self.repair_hint)

    @property
    def folder(self) -> Path:
        """The folder of a stream in a folder."""
        assert isinstance(self.files, FolderStorage), self.files
        return self.files.path

    @property
    def num_rows(self) -> int:
        return self.layout.num_rows

    @property
    def width(self) -> int:
        return self.layout.width

    @property
    def dtype(self) -> "np.dtype[Any]":
        """What the embeddings are stored in: float16 or float32."""
        return np.dtype(self.layout.dtype)

    @property
    def shard_rows(self) -> int:
        return self.layout.shard_rows

    @property
    def num_shards(self) -> int:
        return self.layout.num_shards

    def rows(self, shard: int) -> tuple[int, int]:
        """[start, stop) of a shard's rows."""
        return self.layout.rows(shard)

    def look(self, part: Part = WHOLE) -> Found:
        """The marks there are now, of manifests those of a `part`, read once: what several questions about one moment
        are asked of."""
        return self._marks.look(None if part == WHOLE else self.layout.groups_of(part_of(part, self.num_shards)))

    def done_shards(self) -> list[int]:
        """Shards with a mark, in order."""
        return self.look().done()

    def missing_shards(self) -> list[int]:
        """Shards without a mark, in order."""
        return sorted(set(range(self.num_shards)) - set(self.done_shards()))

    def is_settled(self, part: Part = WHOLE) -> bool:
        """Whether every shard of `part` has a mark, and none waits to be moved into a manifest."""
        found, own = self.look(part), part_of(part, self.num_shards)
        return not found.unmoved(self.layout, self.layout.groups_of(own)) and set(own).issubset(found.done())

    @property
    def is_complete(self) -> bool:
        return not self.missing_shards()

    def mark(self, shard: int, anew: bool = False) -> marks.Mark:
        """A shard's mark; that of a manifest as it was when it was last read, or `anew`. Raises ValueError where it is
        missing or damaged; says what to type."""
        with self._repairable():
            return self._marks.one(shard, anew)

    @contextlib.contextmanager
    def _repairable(self) -> Iterator[None]:
        """Adds to a ValueError from inside what to type."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{error}; type {self.repair_hint}") from None

    @contextlib.contextmanager
    def writer_lock(self, part: Part = WHOLE) -> Iterator[None]:
        """Makes this process the stream's only writer, or the only one of a `part` of it (`cache.locks`).

        Raises:
            ValueError: another process is writing (names it), or the cache was opened for reading only.
        """
        self._check_writable()
        with self._writer.lock(part):
            yield

    def write_shard(
        self, shard: int, embeddings: np.ndarray, face_digests: np.ndarray, failed: Mapping[int, str]
    ) -> None:
        """Writes a whole shard and marks it done; durable on return. One that is there is replaced.

        Args:
            shard: its number.
            embeddings: [R, D] of the stream's `dtype`.
            face_digests: [R, 16] uint8, `bytes_digest` of each face file, zeros where there is none.
            failed: row in the shard -> why its face could not be used; its embedding is stored as zeros.

        Raises:
            ValueError: another process is writing, or an embedding is not finite.
            OSError: the disk; the shard is not marked and other shards stay as they were.
        """
        self._check_writable()
        start, stop = self.rows(shard)
        assert embeddings.shape == (stop - start, self.width), embeddings.shape
        assert embeddings.dtype == self.dtype, embeddings.dtype
        assert face_digests.shape == (stop - start, FACE_DIGEST_BYTES), face_digests.shape
        assert all(0 <= row < stop - start for row in failed), failed
        embeddings = embeddings.copy()
        embeddings[list(failed)] = 0
        self._check_finite(start, embeddings)
        digests = np.ascontiguousarray(face_digests[:, : marks.KEPT_DIGEST_BYTES])
        reasons = {start + row: reason for row, reason in failed.items()}
        self._writer.write(shard, (start, stop), embeddings, digests, reasons)

    def forget(self, shard_numbers: Sequence[int]) -> None:
        """Removes the marks of shards, so that the next extraction redoes these."""
        self._check_writable()
        self._writer.forget(shard_numbers)

    def rewrite_groups(self, groups: Sequence[int]) -> None:
        """Writes states and face digests of whole groups anew, where those of their rows are not damaged."""
        self._check_writable()
        self._writer.rewrite_groups(groups)

    def read(self, out: np.ndarray | None = None, check: bool = True) -> np.ndarray:
        """All embeddings [N, D], of the stream's `dtype`, into `out` where given; rows of failed faces are zero (see
        `valid`).

        With `check`, every shard is compared with the checksum in its mark, for about a fifth more time. Memory that is
        aligned to 32 bytes, as torch's is, is filled in half the time of numpy's own.

        Raises:
            ValueError: the stream is incomplete, or a shard is missing, short or (with `check`) altered.
        """
        seen = self.look()
        self._require_complete(seen)
        if out is None:
            out = aligned_empty(self.num_rows, self.width, self.dtype)
        assert out.shape == (self.num_rows, self.width), out.shape
        assert out.dtype == self.dtype, out.dtype
        assert out.flags.c_contiguous
        found = list(self._whole_shards(seen))

        def read(shard: int) -> None:
            self._reader.read(shard, out[slice(*self.rows(shard))], found[shard], check)

        # Reading and summing let go of Python's lock. An error is that of the first faulty shard, as one thread's.
        with ThreadPoolExecutor(self._reader.num_threads, thread_name_prefix="readers") as pool:
            for _ in pool.map(read, range(self.num_shards)):
                pass
        return out

    def read_shard(self, shard: int) -> np.ndarray:
        """[R, D] of one shard, checked; raises as `read`."""
        mark = self.mark(shard)
        try:
            return self._read_whole(shard, mark)
        except ValueError:
            again = self.mark(shard, anew=True)
            if again == mark:
                raise
        return self._read_whole(shard, again)  # written anew since its mark was read

    def _read_whole(self, shard: int, mark: marks.Mark) -> np.ndarray:
        start, stop = self.rows(shard)
        out = aligned_empty(stop - start, self.width, self.dtype)
        self._reader.read(shard, out, self._require_whole(shard, mark, self.files.size))
        return out

    def embedding_file(self, shard: int) -> Path:
        """A file of this machine with the embeddings of a shard that is done, whole; of an object store, the one in the
        local copy, fetched where it is not there. Raises ValueError as `read`, or where there is no local copy."""
        return self._reader.file(shard, self.mark)

    def in_parallel(self, task: Callable[[int], T], shard_numbers: Sequence[int]) -> Iterator[T]:
        """`task` of each of some shards, in order; of an object store, several wait for it at once."""
        if isinstance(self.files, FolderStorage):
            yield from map(task, shard_numbers)
            return
        with ThreadPoolExecutor(self._reader.num_threads, thread_name_prefix="readers") as pool:
            yield from pool.map(task, shard_numbers)

    def _whole_shards(self, seen: Found) -> Iterator[marks.Mark]:
        """Marks of all shards, in order. Raises ValueError where the embeddings' file is not there or not of its
        recorded size."""
        size = self.files.sizes([f"{shards.EMBEDDING}/{shards.CHUNKS}"])
        for shard, mark in enumerate(self.read_marks(range(self.num_shards), seen)):
            yield self._require_whole(shard, mark, size)

    def _require_whole(self, shard: int, mark: marks.Mark, size: Callable[[str], int | None]) -> marks.Mark:
        key = shards.shard_file(shards.EMBEDDING, shard)
        fault = mark.file.size_fault(size(key))
        if fault:
            raise ValueError(f"{self.files.name(key)}: the shard {fault}; type {self.repair_hint}")
        return mark

    def require_complete(self) -> None:
        """Raises ValueError where rows are missing: says how many, and what to type."""
        self._require_complete(self.look())

    def _require_complete(self, seen: Found) -> None:
        missing = sorted(set(range(self.num_shards)).difference(seen.done()))
        if missing:
            rows = sum(stop - start for start, stop in map(self.rows, missing))
            raise ValueError(
                f"{self.where}: {rows} of {self.num_rows} rows are not extracted yet; type {self.extract_hint}"
            )

    def valid(self) -> np.ndarray:
        """[N] bool: rows that are done and whose face could be used."""
        valid = np.zeros(self.num_rows, bool)
        for mark in self.done_marks():
            valid[slice(*mark.rows)] = True
            valid[list(mark.failed)] = False
        return valid

    def failed(self) -> dict[int, str]:
        """Row -> why its face could not be used, of the shards done so far."""
        return {row: reason for mark in self.done_marks() for row, reason in mark.failed.items()}

    def done_marks(self) -> Iterator[marks.Mark]:
        """Marks of the shards done so far, in order. Raises ValueError where one is damaged; says what to type."""
        seen = self.look()
        return self.read_marks(seen.done(), seen)

    def read_marks(self, shard_numbers: Sequence[int], seen: Found | None = None) -> Iterator[marks.Mark]:
        """`mark` of each of them, in order, as `look` has `seen` them; of an object store, several are read at once."""
        with self._repairable():
            yield from self._marks.read(shard_numbers, seen)

    def try_marks(self, shard_numbers: Sequence[int], seen: Found) -> Iterator[marks.Mark | ValueError]:
        """As `read_marks`, with the error of a mark that is damaged in its place."""
        return self._marks.try_read(shard_numbers, seen)

    def face_digests(self) -> np.ndarray:
        """[N, 8] uint8: the first half of each face's `bytes_digest`; zeros where there was no file or no row yet."""
        digests = np.zeros((self.num_rows, marks.KEPT_DIGEST_BYTES), np.uint8)
        for shard in self.done_shards():
            start, stop = self.rows(shard)
            digests[start:stop] = self.shard_face_digests(shard)
        return digests

    def shard_face_digests(self, shard: int) -> np.ndarray:
        """[R, 8] uint8, as `face_digests`, of one shard that is done."""
        with self._repairable():
            return self._marks.face_digests(shard)

    def _check_writable(self) -> None:
        if self.read_only:
            raise ValueError(f"{self.where}: the cache was opened for reading only")

    def _check_finite(self, start: int, embeddings: np.ndarray) -> None:
        bad = ~is_finite(embeddings).all(axis=1)
        if bad.any():
            row = start + int(bad.argmax())
            raise ValueError(
                f"{self.where}: the embedding of row {row} is not finite in {self.dtype}; check the weights"
            )


def is_finite(embeddings: np.ndarray) -> np.ndarray:
    """[R, D] bool; numpy's isfinite takes ten times as long on float16 as looking at its exponent."""
    if embeddings.dtype != np.float16:
        return np.isfinite(embeddings)
    found: np.ndarray = embeddings.view(np.uint16) & 0x7C00 != 0x7C00
    return found


def _place_of(files: Storage, where: str, layout: shards.Layout) -> Place:
    if isinstance(files, FolderStorage):
        return FolderPlace(files, where)
    assert isinstance(files, ObjectStorage), files
    return StorePlace(files, where, layout)
