"""C1, C2, C3, C6 and R2: reading a stream of 201 MB against copying its bytes, zarr's indexing and HDF5.

Letters: N frames, D width, W windows, T steps.
"""

import shutil
import statistics
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import zarr

from bench.made_faces import WORK
from bench.measure import Row, Target, interleave, ratios, walls
from bench.rivals import read_dictionary, write_dictionary
from cache.cores import num_cores
from cache.identity import FACE_DIGEST_BYTES, StreamIdentity
from cache.store import Cache
from cache.stream import Stream

NUM_ROWS, WIDTH, SHARD_ROWS = 131_072, 768, 4096  # mtl.toml's own shard_rows
NUM_WINDOWS, STEPS = 256, 64
DICTIONARY_ROWS = 16_384
NAME = "made"


def whole_stream(device: torch.device) -> list[Row]:
    """C1: `Stream.read` into an array that is there, against copying as many bytes from memory."""
    stream = made_stream()
    source, out = stream.read(), torch.zeros(NUM_ROWS, WIDTH, dtype=torch.float16).numpy()  # as training reads
    files = [stream.embedding_file(shard) for shard in range(stream.num_shards)]
    parts = [memoryview(out[slice(*stream.rows(shard))]).cast("B") for shard in range(stream.num_shards)]
    with ThreadPoolExecutor(num_cores()) as threads:
        costs = interleave(
            {
                "copy": lambda: np.copyto(out, source),
                "read": lambda: stream.read(out=out, check=False),
                "checked": lambda: stream.read(out=out),
                "files": lambda: list(threads.map(_read_file, files, parts)),
            },
            rounds=9,
        )
    assert np.array_equal(out.view(np.uint16), source.view(np.uint16))
    copy, read, bare = walls(costs["copy"]), walls(costs["read"]), walls(costs["files"])
    # From the page cache nobody reads faster than the kernel copies its pages, small ones at half the speed.
    bound = statistics.median(ratios(copy, bare))
    target = Target(round(0.95 * min(1, bound), 3))
    note = f"bound {bound:.3f}: the files read by as many threads, nothing else"
    return [
        Row(id="C1", what="reading a stream ÷ memcpy", values=ratios(copy, read), target=target, note=note),
        Row(id="C1b", what="reading a stream ÷ reading its files", values=ratios(bare, read), target=Target(0.9)),
        Row(id="C1c", what="C1 with checksums", values=ratios(copy, walls(costs["checked"]))),
    ]


def _read_file(path: Path, out: memoryview) -> None:
    with open(path, "rb", buffering=0) as file:
        num_read = 0
        while num_read < len(out):
            count = file.readinto(out[num_read:])
            assert count, path
            num_read += count


def windows_of_stream(device: torch.device) -> list[Row]:
    """C2: gathering rows of random windows from the resident stream, into memory that is there as `pipelines` does,
    against a copy of as many bytes."""
    stream = torch.from_numpy(made_stream().read()).to(device)
    rows = torch.from_numpy(window_rows()).to(device)
    source = stream[: rows.numel()].clone()
    out = torch.empty_like(source)
    flat, count = rows.flatten(), 10

    def repeat(action: Callable[[], object]) -> Callable[[], None]:
        def several() -> None:
            for _ in range(count):
                action()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return several

    costs = interleave(
        {
            "copy": repeat(lambda: out.copy_(source)),
            "gather": repeat(lambda: torch.index_select(stream, 0, flat, out=out)),
            "indexed": repeat(lambda: stream[rows]),
        },
        rounds=9,
    )
    copy, target = walls(costs["copy"]), Target(0.5 if device.type == "cpu" else 0.6)
    gather, indexed = ratios(copy, walls(costs["gather"])), ratios(copy, walls(costs["indexed"]))
    name = device.type
    return [
        Row(id="C2", what="gathering 256 windows ÷ memcpy", values=gather, target=target, device=name),
        Row(id="C2c", what="the same into new memory, as indexing does", values=indexed, device=name),
    ]


def windows_by_zarr(device: torch.device) -> list[Row]:
    """C3: the gather of C2 against zarr, a slice a window, from the same store."""
    stream = made_stream()
    resident, rows = torch.from_numpy(stream.read()), torch.from_numpy(window_rows())
    array = zarr.open_array(str(stream.folder / "embedding"), mode="r")
    flat, gathered, count = rows.flatten(), torch.empty(rows.numel(), WIDTH, dtype=torch.float16), 10
    found: dict[str, np.ndarray] = {}

    def by_zarr() -> None:
        found["rows"] = np.concatenate([array[start : start + STEPS] for start in rows[:, 0].tolist()])

    def by_index() -> None:
        for _ in range(count):  # one alone is too short to time
            torch.index_select(resident, 0, flat, out=gathered)

    costs = interleave({"zarr": by_zarr, "index": by_index})
    assert np.array_equal(found["rows"], gathered.numpy())
    times = [count * value for value in ratios(walls(costs["zarr"]), walls(costs["index"]))]
    return [Row(id="C3", what="zarr's own slices ÷ that gather", values=times, target=Target(100))]


def bytes_on_disk(device: torch.device) -> list[Row]:
    """C6: everything in the stream's folder, marks and metadata too."""
    num_bytes = sum(path.stat().st_size for path in made_stream().folder.rglob("*") if path.is_file())
    share = num_bytes / (NUM_ROWS * WIDTH * 2)
    return [Row(id="C6", what="bytes on disk ÷ payload", values=[share], target=Target(1.01, at_most=True))]


def against_dictionary(device: torch.device) -> list[Row]:
    """R2: a frame's share of reading, the paper's HDF5 dictionary of the first frames against the whole stream."""
    stream, path = made_stream(), WORK / f"dictionary-{DICTIONARY_ROWS}.h5"
    if not path.exists():
        partial = path.with_suffix(".partial")
        write_dictionary(partial, stream.read()[:DICTIONARY_ROWS])
        partial.rename(path)
    costs = interleave({"hdf5": lambda: read_dictionary(path), "stream": stream.read})
    times = ratios(walls(costs["hdf5"]), walls(costs["stream"]))
    a_frame = [value * NUM_ROWS / DICTIONARY_ROWS for value in times]
    note = f"HDF5 of {DICTIONARY_ROWS:,} frames, stream of {NUM_ROWS:,} with checksums, into new memory"
    return [Row(id="R2", what="HDF5 dictionary ÷ Stream.read, a frame", values=a_frame, note=note)]


def made_stream(folder: Path = WORK / "reading.zarr") -> Stream:
    """The stream [N, D] of random numbers; written once, and anew where the cache's format has changed."""
    identity = StreamIdentity(
        backbone="made",
        weights="0" * 32,
        preprocessing={"size_px": 112},
        pooling="avg",
        dtype="float16",
        view="base",
        frames="0" * 32,
        num_frames=NUM_ROWS,
        width=WIDTH,
    )
    try:
        stream = Cache.open(folder, create=True).create(NAME, identity, SHARD_ROWS, {"made": True})
    except ValueError:
        shutil.rmtree(folder)
        stream = Cache.open(folder, create=True).create(NAME, identity, SHARD_ROWS, {"made": True})
    with stream.writer_lock():
        for shard in stream.missing_shards():
            start, stop = stream.rows(shard)
            rng = np.random.default_rng(shard)
            rows = rng.standard_normal((stop - start, WIDTH), np.float32).astype(np.float16)
            digests = rng.integers(0, 256, (stop - start, FACE_DIGEST_BYTES), np.uint8)
            stream.write_shard(shard, rows, digests, {})
    return stream


def window_rows() -> np.ndarray:
    """[W, T] int64: windows of neighbouring rows, from anywhere in the stream."""
    starts = np.random.default_rng(0).integers(0, NUM_ROWS - STEPS, NUM_WINDOWS)
    return starts[:, None] + np.arange(STEPS)


ROWS: Mapping[str, Callable[[torch.device], list[Row]]] = {
    "C1": whole_stream,
    "C2": windows_of_stream,
    "C3": windows_by_zarr,
    "C6": bytes_on_disk,
    "R2": against_dictionary,
}
ON_CUDA = ("C2",)
