"""Embeddings gathered into whole shards and written by a thread of their own, one shard behind the backbones.

Letters: B faces, D width, R rows of a shard.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cache.identity import FACE_DIGEST_BYTES
from cache.rounding import Rounding, too_large
from cache.stream import Stream, is_finite
from extract.loading import Batch

StreamKey = tuple[str, str]  # (name, view)
SAMPLED_ROWS = 4  # of a batch, from which it is told whether values are too small
IS_NAN = "its embedding by {name} is not a number; the backbone's weights, not the face"
TOO_LARGE = "its embedding by {name} is too large for {dtype}; the backbone, not the face"


@dataclass(frozen=True, slots=True, eq=False)
class OpenShard:
    """A shard being filled: `embeddings[key]` [R, D], `digests` [R, 16], `failed[key]` row in shard -> reason."""

    number: int
    start: int
    stop: int
    embeddings: dict[StreamKey, np.ndarray]
    digests: np.ndarray
    failed: dict[StreamKey, dict[int, str]]


class ShardBuffer:
    """Collects batches, in order, into whole shards; `streams` share their shards' bounds.

    At most one shard is being written while another fills. `finish` waits until all is durable; `close` ends the
    thread, also after an error, and lets a shard in its hands come to an end.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = {(stream.name, stream.view): stream for stream in streams}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._writing: Future[None] | None = None
        self._open: OpenShard | None = None
        self._rounding = {key: Rounding(stream.dtype.name) for key, stream in self._streams.items()}
        self._faults: dict[StreamKey, Counter[str]] = {key: Counter() for key in self._streams}

    def add(
        self,
        batch: Batch,
        digests: np.ndarray,
        failed: Mapping[int, str],
        embeddings: Mapping[StreamKey, np.ndarray],
    ) -> None:
        """Adds a batch: `digests` [B, 16], `failed` row in batch -> reason, `embeddings[key]` [B, D].

        Raises:
            OSError: an earlier shard could not be written.
        """
        if self._writing is not None and self._writing.done():
            self._writing.result()
        if self._open is None or self._open.number != batch.shard:
            self._open = self._new_shard(batch.shard, embeddings)
        shard = self._open
        first, count = batch.start - shard.start, batch.stop - batch.start
        shard.digests[first : first + count] = digests[:count]
        for key, rows in embeddings.items():
            shard.embeddings[key][first : first + count] = rows
            reasons = self._reasons(key, rows, failed)
            shard.failed[key].update({first + row: reason for row, reason in (reasons | dict(failed)).items()})
        if batch.stop == shard.stop:
            self._open = None
            self.finish()
            self._writing = self._thread.submit(self._write, shard)

    def notes(self) -> list[str]:
        """Lines on embeddings that are none, or lost their meaning: the backbones' doing, not the faces'."""
        found = []
        for (name, _), faults, rounding in zip(
            self._faults, self._faults.values(), self._rounding.values(), strict=True
        ):
            if faults[IS_NAN]:
                found.append(f"{name}: {faults[IS_NAN]:,} of its embeddings are not numbers; check its weights")
            if faults[TOO_LARGE]:
                found.append(too_large(name, faults[TOO_LARGE], rounding.dtype))
            found += [note] if (note := rounding.note(name)) else []
        return list(dict.fromkeys(found))

    def _reasons(self, key: StreamKey, rows: np.ndarray, failed: Mapping[int, str]) -> dict[int, str]:
        """Row in the batch -> why its embedding is none; faces that `failed` have none to check."""
        good = is_finite(rows).all(axis=1)
        self._rounding[key].add_stored(rows[:: max(1, len(rows) // SAMPLED_ROWS)])
        reasons = {}
        for row in np.flatnonzero(~good).tolist():
            fault = IS_NAN if np.isnan(rows[row]).any() else TOO_LARGE
            self._faults[key][fault] += row not in failed
            reasons[row] = fault.format(name=key[0], dtype=rows.dtype.name)
        return reasons

    def finish(self) -> None:
        """Waits for the shard being written. Raises OSError where it could not be."""
        if self._writing is not None:
            self._writing.result()

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _new_shard(self, number: int, embeddings: Mapping[StreamKey, np.ndarray]) -> OpenShard:
        start, stop = next(iter(self._streams.values())).rows(number)
        return OpenShard(
            number=number,
            start=start,
            stop=stop,
            embeddings={key: np.empty((stop - start, rows.shape[1]), rows.dtype) for key, rows in embeddings.items()},
            digests=np.zeros((stop - start, FACE_DIGEST_BYTES), np.uint8),
            failed={key: {} for key in embeddings},
        )

    def _write(self, shard: OpenShard) -> None:
        for key, embeddings in shard.embeddings.items():
            embeddings[list(shard.failed[key])] = 0
            self._streams[key].write_shard(shard.number, embeddings, shard.digests, shard.failed[key])
