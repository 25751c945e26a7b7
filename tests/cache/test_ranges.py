"""Rows of a stream read by ranges: the same as of the whole stream, and faults are named."""

import os
from pathlib import Path

import numpy as np
import pytest

from cache import ranges, shards
from cache.ranges import RowReader, check_shards
from cache.store import Cache
from helpers import made_stream as made


@pytest.fixture
def reader(complete: Path) -> RowReader:
    return RowReader(Cache.open(complete).stream("expr"))


def rows_of(reader: RowReader, rows: np.ndarray) -> np.ndarray:
    out = np.full((len(rows), reader.stream.width), np.nan, reader.stream.dtype)
    reader.read(rows, out)
    return out


@pytest.mark.parametrize("most_open", [1, 256])
def test_rows_in_any_order(reader: RowReader, monkeypatch: pytest.MonkeyPatch, most_open: int) -> None:
    monkeypatch.setattr(ranges, "MAX_OPEN", most_open)
    expected, num_rows = made.expected_rows(), reader.stream.num_rows
    rng = np.random.default_rng(0)
    for rows in (
        np.arange(num_rows),
        np.arange(num_rows)[::-1],
        rng.integers(0, num_rows, 100),
        np.array([num_rows - 1]),
        np.array([3, 3, 3]),
        np.zeros(0, np.int64),
    ):
        assert np.array_equal(rows_of(reader, rows), expected[rows])


def test_neighbouring_rows_of_a_shard_are_one_read(reader: RowReader, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *given: calls.append(given[2]) or real(*given))
    first = reader.stream.shard_rows
    rows_of(reader, np.arange(first - 3, first + 5))
    assert len(calls) == 2


def test_shards_that_only_zarr_can_read(reader: RowReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "is_in_line", lambda *given: False)
    rows = np.array([5, 6, 7, 100, 2])
    assert np.array_equal(rows_of(reader, rows), made.expected_rows()[rows])


def test_a_missing_and_a_short_shard(cache: Cache) -> None:
    made.extract_into(cache.path)
    reader = RowReader(cache.stream("expr"))
    path = reader.stream.folder / shards.shard_file(shards.EMBEDDING, 1)
    start, _ = reader.stream.rows(1)
    rows_of(reader, np.array([start]))
    os.truncate(path, 4)  # while the file is open
    with pytest.raises(ValueError, match=r"embedding/c/1/0: the shard ends too soon; type `mtl cache verify"):
        rows_of(reader, np.array([start + 1]))
    reader.close()
    path.unlink()
    with pytest.raises(ValueError, match=r"embedding/c/1/0: the shard is missing; type `mtl cache verify"):
        rows_of(reader, np.array([start]))


def test_the_check_finds_a_changed_a_missing_and_an_unfinished_shard(cache: Cache) -> None:
    made.extract_into(cache.path)
    stream = cache.stream("expr")
    check_shards(stream)
    path = stream.folder / shards.shard_file(shards.EMBEDDING, 2)
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"embedding/c/2/0: the shard has changed since extraction"):
        check_shards(stream)
    path.unlink()
    with pytest.raises(ValueError, match=r"embedding/c/2/0: the shard is missing"):
        check_shards(stream)
    stream.forget([2])
    with pytest.raises(ValueError, match="are not extracted yet"):
        check_shards(stream)
