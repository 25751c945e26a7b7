"""Every Parquet file that is read, with every column of every odd type in turn: a value, or one clear line.

Polars' errors never reach a user, its panics least of all: those are no `Exception`.
"""

import datetime
import decimal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.exceptions import ComputeError, PanicException

from cache.exchange.arrays import open_parquet, read_keys
from cache.exchange.sources import SourceOptions
from cache.frames import read_frames
from cache.names import ACTION_UNITS
from cache.parquet import panics_as_errors
from extract.annotations.readers import read_annotations, read_labels, read_subjects, read_table
from pipelines.cli import OUT_OF_MEMORY, main

NUM = 3
GOOD: dict[str, list[Any]] = {
    "video": ["a", "a", "b"],
    "frame": [1, 2, 1],
    "path": ["a/1.jpg", "a/2.jpg", "b/1.jpg"],
    "split": ["train"] * NUM,
    "valence": [0.1, 0.2, 0.3],
    "arousal": [0.1] * NUM,
    "expression": [0, 1, 2],
    **{name: [0, 1, 0] for name in ACTION_UNITS},
    "subject": ["x", "x", "y"],
}


def odd(values: list[Any]) -> Iterator[tuple[str, pl.Series]]:
    """`values` in types that a column may have in Parquet and should not have here."""
    start, text = datetime.datetime(2020, 1, 1), [str(value) for value in values]
    times = pl.Series([start + datetime.timedelta(days=day) for day in range(NUM)])
    yield "list", pl.Series([[value] for value in values])
    yield "list of lists", pl.Series([[[value]] for value in values])
    yield "empty list", pl.Series([[]] * NUM, dtype=pl.List(pl.Int8))
    yield "array", pl.Series([[value] for value in values]).list.to_array(1)
    yield "struct", pl.Series([{"a": value} for value in values])
    yield "list of structs", pl.Series([[{"a": value}] for value in values])
    yield "binary", pl.Series([each.encode() for each in text])
    yield "binary, no text", pl.Series([b"\xff\xfe" + each.encode() for each in text])
    yield "decimal", pl.Series([decimal.Decimal(each) for each in range(NUM)], dtype=pl.Decimal(38, 0))
    yield "fraction", pl.Series([decimal.Decimal("0.25")] * NUM, dtype=pl.Decimal(10, 2))
    yield "categorical", pl.Series(text, dtype=pl.Categorical)
    yield "enum", pl.Series(text, dtype=pl.Enum(list(dict.fromkeys(text))))
    yield "date", times.dt.date()
    yield "datetime", times
    yield "time zone", times.dt.replace_time_zone("UTC")
    yield "duration", times - start
    yield "time", pl.Series([datetime.time(each) for each in range(NUM)])
    yield "boolean", pl.Series([True, False, True])
    yield "null", pl.Series([None] * NUM)
    yield "unsigned", pl.Series([2**64 - 1] * NUM, dtype=pl.UInt64)
    yield "128 bits", pl.Series([2**100] * NUM, dtype=pl.Int128)
    yield "infinite", pl.Series([float("inf")] * NUM)
    yield "text", pl.Series([f"{each}x" for each in text])


READERS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "frames table": (read_frames, ("video", "frame", "path", "split", "valence", "expression", "AU1", "subject")),
    "table": (read_table, ("video", "frame", "split", "subject")),
    "annotation": (lambda path: read_annotations(path, "train"), ("path", "valence", "expression", "AU1")),
    "labels": (read_labels, ("path", "arousal")),
    "subjects": (read_subjects, ("video", "subject")),
    "keys": (read_keys, ("video", "frame")),
    "keys by path": (read_keys, ("path",)),
}


def refusal(call: Callable[[], object]) -> str:
    """The text of the `ValueError` that `call` raises; empty where it raises none."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", READERS)
def test_a_column_of_an_odd_type_is_read_or_refused_in_a_line(tmp_path: Path, name: str) -> None:
    read, columns = READERS[name]
    path = tmp_path / "t.parquet"
    good = pl.DataFrame({column: GOOD[column] for column in columns})
    good = good.unique("video") if name == "subjects" else good
    good.write_parquet(path)
    read(path)
    refused = 0
    for column in columns:
        for kind, series in odd(GOOD[column]):
            good.with_columns(series.head(good.height).alias(column)).write_parquet(path)
            said = refusal(partial(read, path))
            refused += bool(said)
            assert "\n" not in said, (column, kind)
            assert not said or str(tmp_path) in said, (column, kind, said)
            assert "polars" not in said.lower(), (column, kind, said)
    assert refused >= 4 * len(columns)


def test_a_vector_of_an_odd_type_is_read_or_refused_in_a_line(tmp_path: Path) -> None:
    path, frames = tmp_path / "t.parquet", pl.DataFrame(GOOD)
    vectors = {
        "good": pl.Series([[1.0, 2.0]] * NUM),
        "nulls": pl.Series([[1.0, None], [1.0, 2.0], None]),
        "ragged": pl.Series([[1.0, 2.0], [1.0], [3.0, 4.0]]),
        "decimals": pl.Series([[decimal.Decimal(1)]] * NUM),
        "texts": pl.Series([["a"]] * NUM),
        "booleans": pl.Series([[True]] * NUM),
        "arrays": pl.Series([[[1.0, 2.0]]] * NUM).list.to_array(1),
    }
    for kind, series in [*vectors.items(), *odd(GOOD["expression"])]:
        frames.select("video", "frame").with_columns(series.alias("embedding")).write_parquet(path)
        said = refusal(lambda: open_parquet(path, frames, SourceOptions()).read(np.arange(NUM)))
        assert "\n" not in said, kind
        assert (said == "") if kind == "good" else (str(path) in said or not said), (kind, said)


def test_damage_inside_is_one_line_too(tmp_path: Path) -> None:
    """Bytes of the data pages turned over: Polars refuses, panics, or reads other numbers."""
    path = tmp_path / "t.parquet"
    pl.DataFrame(GOOD).write_parquet(path)
    whole = path.read_bytes()
    for name, (read, _) in READERS.items():
        for place in range(4, len(whole), len(whole) // 30):
            damaged = bytearray(whole)
            damaged[place] ^= 0xFF
            path.write_bytes(damaged)
            assert "\n" not in refusal(partial(read, path)), (name, place)


def test_a_panic_is_an_error_inside() -> None:
    with pytest.raises(ComputeError, match=r"^index out of bounds$"), panics_as_errors():
        raise PanicException("index out of bounds\nnote: run with RUST_BACKTRACE=1")


A_TABLE, MEMORY = "a table cannot be read or written", OUT_OF_MEMORY
RAISED_ELSEWHERE = [
    (PanicException("index out\nof bounds"), A_TABLE),
    (ComputeError("no such\ncolumn"), A_TABLE),
    (type("PanicException", (BaseException,), {})("called on\na None value"), "a library broke off"),
    (MemoryError("Unable to allocate 1 TiB"), MEMORY),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nto allocate"), MEMORY),
    (torch.OutOfMemoryError("CUDA out of memory.\nTried"), MEMORY),
]


@pytest.mark.parametrize(("error", "what"), RAISED_ELSEWHERE)
def test_what_libraries_raise_elsewhere_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, what: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("pipelines.results.score.score_tables", fail)
    monkeypatch.setattr(sys, "argv", ["mtl", "score", "a.parquet", "b.parquet"])
    monkeypatch.delenv("MTL_DEBUG", raising=False)
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said == f"mtl: error: {what}: {str(error).splitlines()[0]}; MTL_DEBUG=1 says where\n"
