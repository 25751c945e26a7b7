"""C4 and B5: streams that stay in the cache against streams in memory. Files are in the system's page cache.

Letters: N frames, D width, W windows, T steps.
"""

import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from bench.cache_reading import NUM_WINDOWS, STEPS, made_stream, window_rows
from bench.made_faces import WORK
from bench.measure import Row, cpus, interleave, ratios, walls
from bench.training import data_of, make_stack, one_pass, own_orders
from cache.identity import FACE_DIGEST_BYTES
from cache.ranges import RowReader, check_shards
from cache.store import Cache
from pipelines.training.dataset import Dataset
from pipelines.training.stored import StoredRows

SHARD_ROWS, REPEATS = 512, 10


def gathering(device: torch.device) -> list[Row]:
    """C4: the windows of C2 read by ranges of shards' files, against the gather from memory."""
    stream = made_stream()
    check_shards(stream)
    resident, reader = torch.from_numpy(stream.read()), RowReader(stream)
    rows = torch.from_numpy(window_rows()).flatten()
    out = torch.empty(len(rows), stream.width, dtype=resident.dtype)
    found = torch.empty_like(out)

    def by_ranges() -> None:
        for _ in range(REPEATS):  # one alone is too short to time
            reader.read(rows.numpy(), found.numpy())

    def by_index() -> None:
        for _ in range(REPEATS):
            torch.index_select(resident, 0, rows, out=out)

    costs = interleave({"ranges": by_ranges, "index": by_index}, rounds=9)
    assert torch.equal(found.view(torch.int16), out.view(torch.int16))
    what, note = "windows by ranges ÷ from memory, CPU time", f"{NUM_WINDOWS} windows of {STEPS} frames"
    return [Row(id="C4", what=what, values=ratios(cpus(costs["ranges"]), cpus(costs["index"])), note=note)]


def training(device: torch.device) -> list[Row]:
    """B5: a training step whose streams stay in the cache, against one whose streams lie in memory."""
    config, dataset = data_of(device, 6)
    stored, rows = _stored(dataset), []
    for name, temporal in (("B5", "gru"), ("B5n", "none")):
        strategies = own_orders(config, 1, {"temporal": temporal})
        stacks = {"stored": make_stack(config, stored, strategies), "resident": make_stack(config, dataset, strategies)}
        costs = interleave({key: functools.partial(one_pass, stack) for key, stack in stacks.items()})
        what = "training step from the cache ÷ from memory"
        for suffix, words, clock in (("", "", walls), ("c", ", CPU time", cpus)):
            values = ratios(clock(costs["stored"]), clock(costs["resident"]))
            rows.append(Row(id=name + suffix, what=what + words, values=values, note=f"{temporal}, one head"))
    return rows


def _stored(dataset: Dataset) -> Dataset:
    """The same data, its streams written to a cache and left there."""
    folder = WORK / "stored.zarr"
    shutil.rmtree(folder, ignore_errors=True)
    cache, streams = Cache.open(folder, create=True), {}
    for (name, view), rows in dataset.resident.streams.items():
        assert isinstance(rows, torch.Tensor)
        stream = cache.create(name, dataset.resident.identities[name, view], SHARD_ROWS, {})
        for shard in range(stream.num_shards):
            start, stop = stream.rows(shard)
            stream.write_shard(
                shard, rows[start:stop].numpy(), np.zeros((stop - start, FACE_DIGEST_BYTES), np.uint8), {}
            )
        streams[name, view] = StoredRows(RowReader(stream))
    return replace(dataset, resident=replace(dataset.resident, streams=streams), _kept={})


ROWS: Mapping[str, Callable[[torch.device], list[Row]]] = {"C4": gathering, "B5": training}
ON_CUDA = ()
