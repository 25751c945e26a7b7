"""A frames table read by ranges answers as the table in memory does."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cache import frames as frames_module
from cache import frames_file
from cache.frames import conform, frames_digest, labels_digest, open_frames, read_frames, write_frames
from cache.frames_file import FramesFile
from cache.labels import ABAW, SCHEMAS
from cache.names import SPLITS
from cache.store import Cache
from cache.verify import verify
from helpers import made_stream as made

NUM_ROWS = 50


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "LARGE_ROWS", 20)
    monkeypatch.setattr(frames_module, "HASH_ROWS", 7)
    monkeypatch.setattr(frames_file, "BLOCK_ROWS", 7)


def table(num_rows: int = NUM_ROWS, **more: object) -> pl.DataFrame:
    row = np.arange(num_rows)
    columns = {
        "video": [f"v{each // 9:02d}" for each in row],
        "frame": row,
        "split": [SPLITS[each // 9 % 3] for each in row],
        "valence": [None if each % 4 == 0 else each / num_rows for each in row],
        "expression": [None if each % 3 == 0 else each % 8 for each in row],
    }
    found = pl.DataFrame(columns | more).with_columns(path=pl.format("{}/é{}.jpg", "video", "frame"))
    return conform(found, "made")


@pytest.fixture(params=[{}, {"subject": [None if each < 20 else f"s{each // 18}" for each in range(NUM_ROWS)]}])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[pl.DataFrame, FramesFile]:
    """The same table, in memory and in its file, with and without subjects."""
    write_frames(table(**request.param), tmp_path / "frames.parquet")
    opened = open_frames(tmp_path / "frames.parquet")
    assert isinstance(opened, FramesFile)
    return read_frames(tmp_path / "frames.parquet"), opened


def test_columns(both: tuple[pl.DataFrame, FramesFile]) -> None:
    whole, file = both
    assert (len(file), file.columns) == (len(whole), whole.columns)
    rng = np.random.default_rng(0)
    for name in whole.columns:
        column, expected = file[name], whole[name]
        assert len(column) == NUM_ROWS
        for start, length in [(0, NUM_ROWS), (0, 7), (6, 2), (7, 7), (13, 30), (49, 9), (20, 0)]:
            assert column.slice(start, length).equals(expected.slice(start, length))
        assert column[3:41].equals(expected[3:41])
        assert [column[row] for row in (0, 49, 6, 7)] == [expected[row] for row in (0, 49, 6, 7)]
        for rows in (rng.integers(0, NUM_ROWS, 30), np.zeros(0, np.int64), np.array([49, 0, 49])):
            assert column[rows].equals(expected.gather(rows))
    assert file[[9, 3, 44]].equals(whole[[9, 3, 44]])
    with pytest.raises(KeyError):
        file["nothing"]


def test_digests(both: tuple[pl.DataFrame, FramesFile]) -> None:
    whole, file = both
    assert frames_digest(file) == frames_digest(whole)
    assert labels_digest(file) == labels_digest(whole)
    changed = whole.with_columns(pl.col("valence").fill_null(0.5))
    assert labels_digest(file) != labels_digest(changed)


def test_few_blocks_are_kept(both: tuple[pl.DataFrame, FramesFile]) -> None:
    _, file = both
    for row in range(NUM_ROWS):
        file["path"][row]
    assert len(file["path"]._blocks) == frames_file.MAX_BLOCKS


def test_compact_for_training(both: tuple[pl.DataFrame, FramesFile]) -> None:
    whole, file = both
    compact = file.compact(SPLITS)
    texts = [name for name in ("video", "split", "subject") if name in whole.columns]
    assert compact.columns == [name for name in ("video", "frame", "split", "subject") if name in whole.columns]
    assert compact.with_columns(pl.col(texts).cast(pl.String)).equals(whole.select(compact.columns))
    parts = list(file.tables(["valence", "frame"]))
    assert [len(part) for part in parts] == [7] * 7 + [1]
    assert pl.concat(parts).equals(whole.select("valence", "frame"))


def test_what_is_read_whole(tmp_path: Path) -> None:
    """Small tables, those of one's own making and damaged ones: these are checked row by row, or refused."""
    path = tmp_path / "frames.parquet"
    with pytest.raises(ValueError, match="no frames table; `mtl prepare` writes one"):
        open_frames(path)
    write_frames(table(19), path)
    assert isinstance(open_frames(path), pl.DataFrame)
    table().write_parquet(path)
    assert isinstance(open_frames(path), pl.DataFrame)
    table().with_columns(valence=pl.lit(3.0)).write_parquet(path)
    with pytest.raises(ValueError, match="valence"):
        open_frames(path)
    path.write_bytes(b"no table")
    with pytest.raises(ValueError, match="not a Parquet file"):
        open_frames(path)
    write_frames(table(), path)
    with pytest.raises(ValueError, match="labels of another schema"):
        open_frames(path, SCHEMAS["disfa"])
    assert isinstance(open_frames(path, ABAW), FramesFile)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged or changed since"):
        open_frames(path)


def test_verification_against_the_file(both: tuple[pl.DataFrame, FramesFile], tmp_path: Path) -> None:
    whole, file = both
    stream = Cache.open(tmp_path / "cache.zarr", create=True).create("expr", made.make_identity(whole), 8, {})
    for shard in range(stream.num_shards):
        start, stop = stream.rows(shard)
        stream.write_shard(shard, made.embeddings_of(start, stop), made.digests_of(start, stop), {})
    asked: list[str] = []

    def digests(paths: list[str]) -> list[bytes]:
        asked.extend(paths)
        return [b"0" * 16] * len(paths)

    found = verify(stream, file, digests, lambda count: None)
    assert asked == whole["path"].to_list()
    assert found == verify(stream, whole, digests, lambda count: None)
    assert len(found) == NUM_ROWS


def test_the_end_of_the_file_is_read_once(both: tuple[pl.DataFrame, FramesFile]) -> None:
    """It grows with the table, so reading it for every block would cost the square of the number of frames."""
    table, opened = both
    before = opened.path.stat()
    with open(opened.path, "r+b") as file:
        file.seek(-8, 2)  # the length of the metadata and Parquet's mark
        file.write(bytes(8))
    os.utime(opened.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert pl.concat(opened["path"].blocks(10)).equals(table["path"])
    assert pl.concat(opened.tables(["frame"])).equals(table.select("frame"))


@pytest.mark.parametrize("num_rows", [30, NUM_ROWS, 90])
def test_a_table_that_is_replaced_is_read_no_further(both: tuple[pl.DataFrame, FramesFile], num_rows: int) -> None:
    _, opened = both
    assert opened["frame"][0] == 0
    write_frames(table(num_rows), opened.path)
    for read in (lambda: opened["frame"][20], lambda: opened.compact(SPLITS), lambda: list(opened.tables(["path"]))):
        with pytest.raises(ValueError, match="replaced while it was read; type the command again"):
            read()
