"""The steps that `python -m bench.scale` measures: the making of each one's input, and what is timed.

Letters: B faces, S side of the input in pixels, D width.
"""

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache.labels import Schema

WIDTH, SHARD_ROWS, VIDEO_FRAMES, HELD_OUT = 8, 4096, 1000, 50
PART_ROWS = 1 << 20
WINDOW, STRIDE, BATCH_WINDOWS = 64, 64, 256
FACE_PX = 8
LINKED_VIDEOS = 1000


def num_windows(size: int) -> int:
    """Of the train split."""
    return (size - 2 * -(-size // HELD_OUT)) // STRIDE


def _tables(size: int, schema: "Schema") -> Iterator[Any]:
    """The frames table in parts, sorted; every `HELD_OUT`-th video is in val, the one behind it in test."""
    import numpy as np
    import polars as pl

    for start in range(0, size, PART_ROWS):
        row = np.arange(start, min(start + PART_ROWS, size))
        video, rng = row // VIDEO_FRAMES, np.random.default_rng(start)
        columns = {"frame": row % VIDEO_FRAMES, "kind": video % HELD_OUT, "number": video}
        labels = {
            name: rng.uniform(-1, 1, len(row)).astype(np.float32)
            if group.kind == "continuous"
            else rng.integers(0, max(len(group.classes), 2), len(row), np.int8)
            for group in schema
            for name in group.columns
        }
        split = pl.when(kind=0).then(pl.lit("val")).when(kind=1).then(pl.lit("test")).otherwise(pl.lit("train"))
        table = pl.DataFrame(columns | labels).with_columns(
            video="v" + pl.col("number").cast(pl.String).str.zfill(6), split=split
        )
        name = pl.col("frame").cast(pl.String).str.zfill(5)
        yield table.with_columns(path=pl.format("{}/{}.jpg", "video", name)).drop("kind", "number")


def _table(folder: Path, size: int) -> Callable[[], str]:
    from cache.frames import SCHEMA_KEY, conform
    from cache.parquet import scan_parquet
    from cache.seals import KEY, MARK, NUM_DIGITS, UNSEALED, digest_of
    from pipelines.config import read_config

    schema = read_config(folder / "mtl.toml").schema

    def run() -> str:
        parts = []
        for number, part in enumerate(_tables(size, schema)):
            parts.append(folder / f"part-{number:04d}.parquet")
            conform(part, "made", schema).write_parquet(parts[-1])
        path = folder / "frames.parquet"
        metadata = {SCHEMA_KEY: json.dumps(schema.to_mapping()), KEY: UNSEALED}
        scan_parquet(parts).sink_parquet(path, maintain_order=True, metadata=metadata)
        data = path.read_bytes()
        with open(path, "r+b") as file:
            file.seek(data.rindex(UNSEALED.encode()) + len(MARK))
            assert file.write(digest_of(data).encode()) == NUM_DIGITS
        for part in parts:
            part.unlink()
        return f"{path.stat().st_size / 1e6:,.0f} MB"

    return run


def _prepare(folder: Path, size: int) -> Callable[[], str]:
    import polars as pl

    from pipelines.cli import program
    from pipelines.config import read_config

    schema = read_config(folder / "mtl.toml").schema
    with open(folder / "labels.csv", "wb") as file:
        for number, part in enumerate(_tables(size, schema)):
            rows = part.select(pl.col("path").alias("image"), "split", *schema.columns)
            rows.write_csv(file, include_header=number == 0)
            _make_faces(folder / "cropped_aligned", part["path"])
    os.chdir(folder)

    def run() -> str:
        sys.argv = ["mtl", "prepare", "--table", "labels.csv", "--no-check-faces"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            program()
        assert Path("frames.parquet").is_file()
        return "mtl prepare --no-check-faces"

    return run


def _make_faces(folder: Path, paths: Iterable[str]) -> None:
    """Empty files; a thousand videos share the files of one, as file systems have fewer files than names."""
    for path in paths:
        file, (video, name) = folder / path, path.split("/")
        number = int(video[1:])
        if name == "00000.jpg":
            file.parent.mkdir(parents=True, exist_ok=True)
        if number % LINKED_VIDEOS == 0:
            file.touch()
        else:
            os.link(folder / f"v{number - number % LINKED_VIDEOS:06d}/{name}", file)


def _stub_faces() -> None:
    """Every module that reads, digests or decodes faces gets a picture in memory instead."""
    import numpy as np

    import extract.engine  # noqa: F401 - all of them are loaded before they are changed
    from extract.faces import decoding, source

    pixels, data = np.full((FACE_PX, FACE_PX, 3), 99, np.uint8), bytes(64)
    digest = decoding.face_digest(data)

    def decode(data: bytes, out: Any = None, **_: object) -> Any:
        if out is None or out.shape != pixels.shape:
            return pixels.copy()
        out[:] = pixels
        return out

    stubs = {"read_face_bytes": lambda folder, path: data, "face_digest": lambda data: digest, "decode": decode}
    for name, stub in stubs.items():
        real = getattr(decoding, name)
        for module in [each for key, each in sys.modules.items() if key.startswith("extract.")]:
            if getattr(module, name, None) is real:
                setattr(module, name, stub)
    source.FaceSource.exists = lambda self, path: True  # type: ignore[method-assign]


def _extract(folder: Path, size: int) -> Callable[[], str]:
    import torch
    from torch import nn

    from cache.frames import open_frames
    from cache.store import Cache
    from extract.backbones.build import Backbone
    from extract.backbones.weights import weights_digest
    from extract.config import BackboneConfig, Preprocessing
    from extract.engine import extract
    from extract.jobs import Settings
    from pipelines.config import read_config

    class Slice(nn.Module):
        """[B, 3, S, S] -> [B, D], the first pixels."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :WIDTH]

    torch.set_num_threads(1)
    module = Slice().eval()
    (folder / "cropped_aligned").mkdir(exist_ok=True)
    _stub_faces()
    backbone = Backbone(
        name="stub",
        config=BackboneConfig(model="stub", weights="random"),
        module=module,
        architecture="stub",
        preprocessing=Preprocessing(size_px=FACE_PX, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        pooling="avg",
        width=WIDTH,
        weights_digest=weights_digest(module),
    )
    config = read_config(folder / "mtl.toml")
    settings = Settings(
        device=torch.device("cpu"), batch_size=512, num_threads=1, shard_rows=SHARD_ROWS, precision="float32"
    )

    def run() -> str:
        frames = open_frames(folder / "frames.parquet", config.schema)
        cache = Cache.open(folder / "cache.zarr", create=True)
        report = extract(frames, folder / "cropped_aligned", cache, [backbone], settings)
        assert (report.num_done + report.num_skipped, report.failed) == (size, [])
        return f"{report.num_done / report.seconds:,.0f} frames/s, {-(-size // SHARD_ROWS):,} shards"

    return run


def _verify(folder: Path, size: int) -> Callable[[], str]:
    from cache.frames import open_frames
    from cache.store import Cache
    from cache.verify import verify_named
    from extract.faces.source import FaceSource
    from pipelines.config import read_config

    _stub_faces()
    config = read_config(folder / "mtl.toml")

    def run() -> str:
        frames = open_frames(folder / "frames.parquet", config.schema)
        cache = Cache.open(folder / "cache.zarr", read_only=True)
        with contextlib.closing(FaceSource(folder / "cropped_aligned")) as source:
            found = verify_named(cache, "stub", "base", frames, source.digests, lambda count: None)
        assert found == [], found[:3]
        return "every shard and the digest of every face"

    return run


def _epoch(folder: Path, size: int) -> Callable[[], str]:
    import torch

    from pipelines.config import read_config
    from pipelines.strategy import strategy_of
    from pipelines.training.run import train_or_find

    torch.set_num_threads(1)
    config = read_config(folder / "mtl.toml")
    shutil.rmtree(folder / "runs", ignore_errors=True)

    def run() -> str:
        result = train_or_find(config, strategy_of(config), "cpu", name="epoch")
        assert not result.found
        return f"{config.train.steps:,} steps of {BATCH_WINDOWS} windows of {WINDOW}"

    return run


def _post(folder: Path, size: int) -> Callable[[], str]:
    from pipelines.config import read_config
    from pipelines.postprocess.run_folders import postprocess_run, read_truth

    config = read_config(folder / "mtl.toml")

    def run() -> str:
        postprocess_run(folder / "runs/epoch", read_truth(config), force=True)
        return "of the selected and held-out rows"

    return run


def _report(folder: Path, size: int) -> Callable[[], str]:
    from pipelines.config import read_config
    from pipelines.report.command import make_report

    config = read_config(folder / "mtl.toml")

    def run() -> str:
        page = make_report(config, folder / "runs/epoch", None, force=True)["page"]
        return f"a page of {Path(page).stat().st_size / 1e6:,.1f} MB"

    return run


def _predict(folder: Path, size: int) -> Callable[[], str]:
    import torch

    from pipelines.config import read_config
    from pipelines.predict.predict import FrameRequest, predict_to_file

    torch.set_num_threads(1)
    config = read_config(folder / "mtl.toml")

    def run() -> str:
        request = FrameRequest(model=folder / "runs/epoch", out=folder / "test.parquet", force=True)
        return f"{predict_to_file(config, request, 'cpu')['num_frames']:,} frames of test"

    return run


# What makes a step's input in a folder for so many frames, and gives what is timed, which returns a note.
RUNS: dict[str, Callable[[Path, int], Callable[[], str]]] = {
    "prepare": _prepare,
    "table": _table,
    "extract": _extract,
    "verify": _verify,
    "epoch": _epoch,
    "post": _post,
    "report": _report,
    "predict": _predict,
}
