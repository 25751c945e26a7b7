"""Seals: every change of a sealed file is found, whatever it is and wherever it lies."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cache.frames import conform, read_frames, write_frames
from cache.parquet import parquet_bytes
from cache.seals import MARK, NUM_DIGITS, UNSEALED, has_seal, is_whole, read_sealed_json, sealed, sealed_json

REMEDY = "make it again"


def table(num_rows: int = 300) -> pl.DataFrame:
    rows = {"video": ["v"] * num_rows, "frame": range(num_rows), "path": [f"v/{n}.jpg" for n in range(num_rows)]}
    labels = {"valence": np.linspace(-1, 1, num_rows), "split": ["train"] * num_rows}
    return conform(pl.DataFrame(rows | labels), "made")


DATA = {
    "JSON": sealed_json({"name": "ä–", "values": [1, 2.5, None], "seal of": "something else"}),
    "Parquet": sealed(parquet_bytes(table(), {"seal": UNSEALED})),
    "nothing else": sealed(UNSEALED.encode()),
}


@pytest.mark.parametrize("kind", DATA)
def test_every_bit_counts(kind: str) -> None:
    data = DATA[kind]
    assert is_whole(data)
    places = sorted({0, len(data) - 1, *np.random.default_rng(0).integers(0, len(data), 400).tolist()})
    for place in places:
        for bit in (0, 7):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            assert not is_whole(bytes(changed)), (place, bit)


@pytest.mark.parametrize("kind", DATA)
def test_no_part_is_the_whole(kind: str) -> None:
    data = DATA[kind]
    for size in {0, 1, len(data) // 2, len(data) - 1}:
        assert not is_whole(data[:size])
    assert not is_whole(data + b"\n")
    assert not is_whole(data + data)
    assert not is_whole(data.replace(MARK, b"") if kind != "JSON" else b"{}")


def test_a_seal_in_a_text_of_the_users_is_no_seal() -> None:
    data = sealed_json({"name": UNSEALED, "other": "mtl-seal:" + "f" * NUM_DIGITS})
    assert is_whole(data)
    assert json.loads(data)["name"] == UNSEALED
    assert not is_whole(json.dumps({"name": UNSEALED}).encode())


def test_json_comes_back_without_its_seal(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"name": "ä–", "values": [1, 2.5, None]}
    path.write_bytes(sealed_json(value))
    assert read_sealed_json(path, REMEDY) == value
    with pytest.raises(ValueError, match="Out of range float values"):
        sealed_json({"a": float("nan")})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "no such file"),
        (b"", "no seal"),
        (b"\xff\xfe", "no seal"),
        (b'{"format": 1}', "not written by this program"),
        (DATA["JSON"].replace(b"2.5", b"2.6"), "damaged or changed"),
        (DATA["JSON"][:-4], "damaged or changed"),
        (MARK, "damaged or changed"),
    ],
)
def test_anything_else_is_one_line_with_the_remedy(tmp_path: Path, data: bytes | None, says: str) -> None:
    path = tmp_path / "a.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.json: .*{says}.*; make it again$"):
        read_sealed_json(path, REMEDY)


def test_a_frames_table_is_what_was_written_or_refused(tmp_path: Path) -> None:
    path, frames = tmp_path / "frames.parquet", table()
    write_frames(frames, path)
    assert read_frames(path).equals(frames)
    data = path.read_bytes()
    generator = np.random.default_rng(1)
    for place in {0, len(data) - 1, data.rindex(MARK), *generator.integers(0, len(data), 200).tolist()}:
        changed = bytearray(data)
        changed[place] ^= 1 << int(generator.integers(0, 8))
        path.write_bytes(changed)
        if has_seal(bytes(changed)):
            with pytest.raises(ValueError, match=r"damaged or changed since `mtl prepare` wrote it"):
                read_frames(path)
        else:  # the mark of the seal itself was hit, and nothing else
            assert read_frames(path).equals(frames)


def test_a_table_of_ones_own_needs_no_seal(tmp_path: Path) -> None:
    path = tmp_path / "frames.parquet"
    table().write_parquet(path)
    assert not has_seal(path.read_bytes())
    assert read_frames(path).equals(table())
    written = tmp_path / "again.parquet"
    write_frames(read_frames(path), written)
    pl.read_parquet(written).write_parquet(path)  # as any program would write it again
    assert read_frames(path).equals(table())
