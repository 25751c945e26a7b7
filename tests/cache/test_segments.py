"""Vectors of stretches of time: which row each frame sees, its age, and every way in which times can be wrong."""

from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.exchange.importing import import_stream
from cache.exchange.segments import match_segments
from cache.exchange.sources import SourceOptions
from cache.identity import NO_ROW
from cache.store import Cache

FPS = 10.0
Rows = Sequence[tuple[str, float, float]]


def table_of(rows: Rows, **more: object) -> pl.DataFrame:
    """Keys as a file has them; the vector of row i is [i + 1, i + 1.5]."""
    keys = pl.DataFrame(rows, {"video": pl.String, "start_s": pl.Float64, "end_s": pl.Float64}, orient="row")
    vectors = [[number + 1.0, number + 1.5] for number in range(len(rows))]
    return keys.with_columns(pl.Series("embedding", vectors, pl.List(pl.Float32)), **more)


@pytest.fixture
def bring(cache: Cache, frames: pl.DataFrame, tmp_path: Path) -> Callable[..., tuple]:
    """Imports rows as the stream `text`: the report, the stream, and its rows of the first video (frames 0 to 98)."""

    def call(rows: Rows | Path, **options: object) -> tuple:
        path = rows if isinstance(rows, Path) else tmp_path / "segments.parquet"
        if path is not rows:
            table_of(rows).write_parquet(path)
        chosen = SourceOptions(**options)  # type: ignore[arg-type]
        report = import_stream(cache, "text", path, frames, options=chosen, shard_rows=40, fps=FPS)
        stream = cache.stream("text")
        return report, stream, stream.read()[: (frames["video"] == frames["video"][0]).sum()]

    return call


def test_each_frame_sees_the_row_that_covers_it(bring: Callable[..., tuple], frames: pl.DataFrame) -> None:
    video = frames["video"][0]
    numbers = frames.filter(pl.col("video") == video)["frame"].to_numpy()
    report, stream, found = bring([(video, 0.0, 1.0), (video, 1.0, 2.45), (video, 4.0, 5.0)])
    seen = np.select([numbers < 10, numbers < 24.5, (numbers >= 40) & (numbers < 50)], [1.0, 2.0, 3.0], 0.0)
    np.testing.assert_array_equal(found[:, 0], seen)
    np.testing.assert_array_equal(found[:, 1], np.where(seen > 0, seen + 0.5, 0))
    start = np.select([seen == 1, seen == 2, seen == 3], [0, 10, 40], 0)
    np.testing.assert_array_equal(found[:, 2], np.where(seen > 0, numbers - start, NO_ROW))
    assert stream.valid().all()  # a frame without a row is a step all the same
    assert (stream.width, stream.identity.has_age, stream.identity.preprocessing["fps"]) == (3, True, FPS)
    assert report.num_uncovered == len(frames) - (seen > 0).sum()
    assert (report.num_extra, report.failed) == (0, {})


def test_the_row_that_begins_last_counts(bring: Callable[..., tuple], frames: pl.DataFrame) -> None:
    video = frames["video"][0]
    numbers = frames.filter(pl.col("video") == video)["frame"].to_numpy()
    rows = [(video, 0.0, 5.0), (video, 1.0, 2.0)]
    with pytest.raises(
        ValueError, match=r"row 2 \(video 'v0', 1.0 to 2.0 s\) overlaps the row above it .* 5 s; with --"
    ):
        bring(rows)
    _, _, found = bring(rows, allow_overlaps=True)
    inner = (numbers >= 10) & (numbers < 20)
    np.testing.assert_array_equal(found[:, 0], np.select([inner, numbers < 50], [2.0, 1.0], 0.0))
    assert found[numbers == 20, 2] == 20  # of the first row again


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(0.0, 1.0), (float("nan"), 2.0)], r"row 2 .* is no time"),
        ([(0.0, 1.0), (None, 2.0)], r"row 2 .* is no time"),
        ([(0.0, 1.0), (2.0, 2.0)], r"row 2 .* ends before it begins"),
        ([(3.0, 4.0), (1.0, 2.0)], r"row 2 .* runs backwards: it begins before the row above"),
        ([(-0.5, 1.0)], r"row 1 .* lies outside the video, which begins at 0"),
        (
            [(0.0, 1.0), (500.0, 501.0)],
            r"row 2 .* whose last frame is at .* s \(10 frames per second, .*--allow-outside",
        ),
    ],
)
def test_times_that_cannot_be(bring: Callable[..., tuple], rows: list, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        bring([("v0", *times) for times in rows])


def test_rows_behind_the_end_are_left_out_where_asked(bring: Callable[..., tuple]) -> None:
    report, _, found = bring([("v0", 0.0, 1.0), ("v0", 500.0, 501.0)], allow_outside=True)
    assert (report.num_extra, report.example_extra) == (1, "video 'v0' start_s 500.0")
    assert set(found[:, 0]) == {0.0, 1.0}


def test_files_that_are_not_of_times(bring: Callable[..., tuple], tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    table_of([("v0", 0.0, 1.0)]).drop("end_s").write_parquet(path)
    with pytest.raises(ValueError, match="has times but no end_s; rows of times need video, start_s and end_s"):
        bring(path)
    table_of([("v0", 0.0, 1.0)], frame=pl.lit(1)).write_parquet(path)
    with pytest.raises(ValueError, match="has both frame and start_s"):
        bring(path)
    with pytest.raises(ValueError, match=r"cover no frame of the frames table; the file has video 'x' from 0 to 1 s"):
        bring([("x", 0.0, 1.0)])


def test_hdf5_and_npy_have_times_too(bring: Callable[..., tuple], tmp_path: Path, cache: Cache) -> None:
    rows = [("v0", 0.0, 1.0), ("v1", 0.0, 2.0)]
    table = table_of(rows)
    _, _, wanted = bring(rows)
    cache.remove("text", "base")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["embedding"] = np.array(table["embedding"].to_list())
        file["video"] = table["video"].to_list()
        file["start_s"], file["end_s"] = table["start_s"].to_numpy(), table["end_s"].to_numpy()
    np.testing.assert_array_equal(bring(tmp_path / "a.h5")[2], wanted)
    cache.remove("text", "base")
    np.save(tmp_path / "b.npy", np.array(table["embedding"].to_list()))
    table.drop("embedding").write_parquet(tmp_path / "b.parquet")
    np.testing.assert_array_equal(bring(tmp_path / "b.npy")[2], wanted)


def test_an_import_that_was_killed_is_finished(bring: Callable[..., tuple], cache: Cache, frames: pl.DataFrame) -> None:
    rows = [(video, 0.5, 3.0) for video in frames["video"].unique(maintain_order=True)]
    _, stream, _ = bring(rows)
    whole = stream.read()
    with stream.writer_lock():
        stream.forget([1])
    _, stream, _ = bring(rows)
    np.testing.assert_array_equal(stream.read(), whole)
    with pytest.raises(ValueError, match="differs in: weights"):
        bring([*rows[:-1], (rows[-1][0], 0.5, 4.0)])


@given(
    lengths=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 9)), min_size=1, max_size=6),
    numbers=st.sets(st.integers(0, 60), min_size=1).map(sorted),
)
def test_rows_and_ages_are_those_of_the_definition(lengths: list[tuple[int, int]], numbers: list[int]) -> None:
    """Against a loop over all pairs; times are tenths of a second, frames ten per second."""
    segments, now = [], 0
    for gap, length in lengths:
        segments.append((now + gap, now + gap + length))
        now += gap + length
    keys = table_of([("v", start / 10, end / 10) for start, end in segments]).drop("embedding")
    frames = pl.DataFrame({"video": ["v"] * len(numbers), "frame": numbers})
    wanted = [next((i for i, (a, b) in enumerate(segments) if a <= number < b), -1) for number in numbers]
    if max(wanted) < 0:
        with pytest.raises(ValueError, match="cover no frame"):
            match_segments(keys, frames, FPS, SourceOptions(allow_outside=True), "x")
        return
    rows, ages = match_segments(keys, frames, FPS, SourceOptions(allow_outside=True), "x")
    assert rows.tolist() == wanted
    assert ages.tolist() == [NO_ROW if i < 0 else n - segments[i][0] for i, n in zip(wanted, numbers, strict=True)]
