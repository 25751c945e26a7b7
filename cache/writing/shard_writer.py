"""Writing a shard: its embeddings, made durable, then the mark; the marks of a whole group move into its manifest.

So a mark means that all the shard's rows are kept, and killing the writer at any moment costs the shard in hand and
nothing else. Letters: R rows of a shard, D width.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np

from cache import marks
from cache.locks import WHOLE, BeingWritten, Part, part_of
from cache.manifests.manifest import Marks
from cache.manifests.moving import gather_marks, remove_marks
from cache.shards import Layout
from cache.storage.base import Storage


class Place(Protocol):
    """What writing needs of a folder or an object store."""

    def held(self, part: Part) -> AbstractContextManager[None]:
        """Keeps other writers of `part` out. Raises BeingWritten where another process is writing; names it."""

    def moving(self) -> AbstractContextManager[Callable[[], None]]:
        """Keeps writers of other parts from moving marks, and waits for one that does; gives what `check` is then.
        Raises BeingWritten where that takes too long."""

    def check(self) -> None:
        """Raises BeingWritten where this process stood still for so long that another took over."""

    def put_embeddings(self, shard: int, rows: tuple[int, int], values: np.ndarray) -> marks.FileRecord:
        """Writes a shard's embeddings [R, D], rows [start, stop) of the stream; durable on return."""

    def undo(self, shard: int) -> None:
        """Removes what a write that failed left; never raises OSError."""


class ShardWriter:
    """Writes shards of the stream in `files`, whose marks are `found`."""

    def __init__(self, files: Storage, layout: Layout, found: Marks, place: Place) -> None:
        self._files, self._layout, self._found, self._place = files, layout, found, place
        self._own: range | None = None  # the shards of the part that is held
        self._done: set[int] = set()  # of these, those with a mark

    @contextlib.contextmanager
    def lock(self, part: Part = WHOLE) -> Iterator[None]:
        """Keeps other writers of `part` out; ends what a killed one left unfinished. May be nested.

        Raises:
            BeingWritten: another process is writing; names it.
        """
        if self._own is not None:
            yield
            return
        with self._place.held(part):
            own = part_of(part, self._layout.num_shards)
            groups = self._layout.groups_of(own)
            found = self._found.look(groups)
            self._own, self._done = own, set(found.done()).intersection(own)
            try:
                for group in found.unmoved(self._layout, groups):
                    self._move(group)
                yield
            finally:
                self._own = None

    def write(
        self,
        shard: int,
        rows: tuple[int, int],
        embeddings: np.ndarray,
        face_digests: np.ndarray,
        failed: dict[int, str],
    ) -> None:
        """Writes `embeddings` [R, D] as rows [start, stop), and marks the shard with `face_digests` [R, 8]; durable on
        return.

        Raises:
            BeingWritten: another process took over.
            OSError: the disk or the store; the shard is not marked, and other shards stay as they were.
        """
        with self.lock():
            self._place.check()
            if shard in self._done:
                self._unmark([shard])
            try:
                record = self._place.put_embeddings(shard, rows, embeddings)
                mark = marks.Mark(
                    rows=rows,
                    checksum=marks.checksum(embeddings),
                    file=record,
                    faces=marks.faces_digest(face_digests),
                    failed=failed,
                )
                self._place.check()
                marks.write_mark(self._files, shard, mark, face_digests)
            except BaseException:
                self._place.undo(shard)
                raise
            self._done.add(shard)
            self._move_if_last(self._layout.group_of(shard))

    def forget(self, shard_numbers: Sequence[int]) -> None:
        """Removes the marks of shards, so that the next extraction redoes these."""
        with self.lock():
            self._place.check()
            self._unmark(shard_numbers)

    def rewrite_groups(self, groups: Sequence[int]) -> None:
        """Writes what lies beside the marks of whole groups anew, from these."""
        with self.lock():
            for group in groups:
                self._move(group)

    def _unmark(self, shard_numbers: Sequence[int]) -> None:
        for group in sorted({self._layout.group_of(shard) for shard in shard_numbers}):
            mine = [shard for shard in shard_numbers if self._layout.group_of(shard) == group]
            with self._alone(group) as check:
                remove_marks(self._files, self._layout, mine, check)
            self._done.difference_update(mine)
        self._found.forget()

    def _move_if_last(self, group: int) -> None:
        """Moves the marks of a group when its last one was written, by this process or by that of another part."""
        own, shards = self._own, self._layout.group(group)
        assert own is not None
        if not self._done.issuperset(shard for shard in shards if shard in own):
            return
        if self._is_inside(group) or self._found.look([group]).is_complete(self._layout, group):
            self._move(group)

    def _move(self, group: int) -> None:
        with contextlib.suppress(BeingWritten), self._alone(group) as check:  # then the next writer moves them
            gather_marks(self._files, self._layout, group, check)

    def _alone(self, group: int) -> AbstractContextManager[Callable[[], None]]:
        return nullcontext(self._place.check) if self._is_inside(group) else self._place.moving()

    def _is_inside(self, group: int) -> bool:
        """Whether no other part has a shard of the group."""
        own, shards = self._own, self._layout.group(group)
        assert own is not None
        return shards.start in own and shards[-1] in own
