"""`many_frames FOLDER NUM_FRAMES WIDTH BATCH_SIZE` measures the memory of one extraction.

The first run only makes the frames table: what that frees is not measured.

The frames name eight small faces again and again; reading and decoding one is a copy from memory, the backbone a slice
of its input, so that millions take seconds. Buffers, threads, shards and marks are the engine's own. Prints as JSON, in
bytes: `table`, what the frames table takes, and `extraction`, the peak above that; and the seconds.
"""

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from cache.frames import conform, read_frames, write_frames
from extract.faces import decoding as faces
from helpers import made_extraction as made

NUM_FACES, SHARD_ROWS, VIDEO_FRAMES = 8, 4096, 5000


class Slice(nn.Module):
    """[B, 3, S, S] -> [B, D], the input's first values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : self.width]


def stub_decoding(face_bytes: bytes) -> None:
    """Every room that reads, digests or decodes faces gets new memory of the right size instead, filled."""
    face, digest = faces.decode(face_bytes), faces.face_digest(face_bytes)

    def decode(data: bytes, out: np.ndarray | None = None, **_: object) -> np.ndarray:
        if out is None or out.shape != face.shape:
            return face.copy()
        out[:] = face
        return out

    stubs = {
        "read_face_bytes": lambda folder, path: bytes(len(face_bytes)),
        "face_digest": lambda data: digest,
        "decode": decode,
    }
    for name, stub in stubs.items():
        real = getattr(faces, name)
        for module in [each for key, each in sys.modules.items() if key.startswith("extract.")]:
            if getattr(module, name, None) is real:
                setattr(module, name, stub)


def memory(name: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at the peak since `forget_peak`."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(name)]
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def make_frames(folder: Path, num_frames: int) -> None:
    few = made.make_faces(folder / "faces", NUM_FACES)["path"]
    row = pl.int_range(num_frames, eager=True)
    video = (row // VIDEO_FRAMES).cast(pl.String).str.zfill(4)
    table = pl.DataFrame({"video": video, "frame": row % VIDEO_FRAMES, "path": few.gather(row % NUM_FACES)})
    write_frames(conform(table, "made"), folder / "frames.parquet")


def main() -> None:
    folder, num_frames, width, batch_size = Path(sys.argv[1]), *map(int, sys.argv[2:])
    if not (folder / "frames.parquet").exists():
        make_frames(folder, num_frames)
        print("{}")
        return
    torch.set_num_threads(1)
    (folder / "warm").mkdir()
    frames = made.make_faces(folder / "warm" / "faces", 512)
    stub_decoding((folder / "warm" / "faces" / frames["path"][0]).read_bytes())
    backbone = replace(made.tiny(width=width), module=Slice(width))
    made.run(frames, folder / "warm", backbone, shard_rows=256)
    before = memory("VmRSS")
    frames = read_frames(folder / "frames.parquet")
    table = memory("VmRSS") - before
    forget_peak()
    start = time.monotonic()
    report = made.run(frames, folder, backbone, shard_rows=SHARD_ROWS, batch_size=batch_size)
    seconds = time.monotonic() - start
    extraction = memory("VmHWM") - before - table
    assert report.num_done == num_frames
    assert report.failed == []
    shutil.rmtree(folder / "cache.zarr")
    print(json.dumps({"table": table, "extraction": extraction, "seconds": round(seconds, 1)}))
