"""Writing to an object store: a PUT for the embeddings, then one for the mark.

A writer killed at any moment leaves whole objects. One without a mark the next writer writes again.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np

from cache import marks, shards
from cache.locks import WHOLE, BeingWritten, Part
from cache.storage.claims import CLAIMS, Claim, claimed
from cache.storage.encoding import encode_shard
from cache.storage.objects import ObjectStorage

MOVING = f"{shards.EMBEDDING}/moving"  # below it the claim of whoever moves marks of a group that parts share
MOVING_S, POLL_S = 120.0, 1.0


class StorePlace:
    """The stream in `files`, which `where` names in errors. A `cache.writing.shard_writer.Place`."""

    def __init__(self, files: ObjectStorage, where: str, layout: shards.Layout) -> None:
        self._files, self._where, self._layout = files, where, layout
        self._claim: Claim | None = None

    @contextlib.contextmanager
    def held(self, part: Part = WHOLE) -> Iterator[None]:
        with claimed(self._files, self._where, part) as self._claim:
            try:
                if any(self._files.below(MOVING).keys(CLAIMS)):  # of a writer that was killed, or moves marks now
                    with contextlib.suppress(BeingWritten), self.moving():
                        pass
                yield
            finally:
                self._claim = None

    @contextlib.contextmanager
    def moving(self) -> Iterator[Callable[[], None]]:
        end_s = time.monotonic() + MOVING_S
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    claim = stack.enter_context(claimed(self._files.below(MOVING), self._where))
                    break
                except BeingWritten:
                    if time.monotonic() > end_s:
                        raise
                    time.sleep(POLL_S)

            def check() -> None:
                self.check()
                claim.require()

            yield check

    def check(self) -> None:
        assert self._claim is not None
        self._claim.require()

    def put_embeddings(self, shard: int, rows: tuple[int, int], values: np.ndarray) -> marks.FileRecord:
        key, shard_rows = shards.shard_file(shards.EMBEDDING, shard), self._layout.shard_rows
        data = encode_shard(values, shard_rows, shards.inner_rows_of(shards.EMBEDDING, shard_rows))
        self._files.put(key, data)
        return marks.FileRecord.of(data)

    def undo(self, shard: int) -> None:
        pass  # whole objects, of which the mark is the last
