"""Several processes at one stream: parts, their locks, and shards that are made again by themselves."""

from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cache.locks import part_of
from cache.store import Cache
from cache.stream import Stream
from extract.engine import Extraction
from extract.jobs import Settings, todo_of
from helpers import made_extraction as made


@pytest.fixture
def frames(tmp_path: Path) -> pl.DataFrame:
    return made.make_faces(tmp_path / "faces")


def stream_of(folder: Path) -> Stream:
    return Cache.open(folder / "cache.zarr").stream("expr")


def files_of(folder: Path) -> dict[str, bytes]:
    root = folder / "cache.zarr"
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("num_items", [0, 1, 5, 64, 101])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 200])
def test_parts_are_all_of_it_once(num_items: int, count: int) -> None:
    found = [item for number in range(1, count + 1) for item in part_of((number, count), num_items)]
    assert found == list(range(num_items))


def test_a_part_of_a_part_is_within_it() -> None:
    for num_items in range(40):
        whole = [*part_of((3, 8), num_items), *part_of((4, 8), num_items)]
        assert whole == list(part_of((2, 4), num_items))


def test_parts_make_the_whole(tmp_path: Path, frames: pl.DataFrame) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "faces").symlink_to(tmp_path / "faces")
    made.run(frames, tmp_path / "whole", made.tiny())
    reports = [made.run(frames, tmp_path, made.tiny(), part=(number, 3)) for number in (3, 1, 2)]
    assert sum(report.num_done for report in reports) == len(frames)
    assert [report.num_elsewhere for report in reports] == [48 - 16 + 16, 32, 0]
    assert [report.num_skipped for report in reports] == [0, 22, 70 - reports[2].num_done]
    assert files_of(tmp_path) == files_of(tmp_path / "whole")
    again = made.run(frames, tmp_path, made.tiny(dying=True), part=(2, 3))
    assert (again.num_done, again.num_skipped, again.num_elsewhere) == (0, len(frames), 0)


def test_parts_of_one_extraction(tmp_path: Path, frames: pl.DataFrame) -> None:
    """Opened once and filled part after part, one of them twice: the bytes of a whole one."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "faces").symlink_to(tmp_path / "faces")
    made.run(frames, tmp_path / "whole", made.tiny())
    cache = Cache.open(tmp_path / "cache.zarr", create=True)
    settings = Settings(device=torch.device("cpu"), batch_size=5, num_threads=2, shard_rows=made.SHARD_ROWS)
    with closing(Extraction(frames, tmp_path / "faces", cache, [made.tiny()], settings)) as extraction:
        reports = [extraction.run((number, 3)) for number in (2, 3, 1, 1)]
        assert extraction.streams[0].is_complete
    assert [report.num_done for report in reports] == [32, 22, 16, 0]
    assert files_of(tmp_path) == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("held", "asked", "refused"),
    [
        ((1, 1), (1, 2), True),
        ((1, 2), (1, 1), True),
        ((1, 2), (1, 2), True),
        ((1, 2), (2, 2), False),
        ((1, 2), (1, 3), True),
        ((1, 2), (2, 3), True),
        ((1, 2), (3, 3), False),
        ((3, 4), (1, 2), False),
        ((2, 4), (1, 2), True),
    ],
)
def test_locks_of_parts(
    tmp_path: Path,
    frames: pl.DataFrame,
    held: tuple[int, int],
    asked: tuple[int, int],
    refused: bool,
) -> None:
    made.run(frames, tmp_path, made.tiny())
    with stream_of(tmp_path).writer_lock(held):
        if refused:
            with pytest.raises(ValueError, match=r"is being written by process \d+"):
                made.run(frames, tmp_path, made.tiny(), part=asked)
        else:
            made.run(frames, tmp_path, made.tiny(), part=asked)
    made.run(frames, tmp_path, made.tiny(), part=asked)


def test_a_view_of_what_is_left(tmp_path: Path, frames: pl.DataFrame) -> None:
    made.run(frames, tmp_path, made.tiny(), part=(2, 5))

    class Missing:
        stream = stream_of(tmp_path)

    todo = todo_of([Missing()], len(frames), (1, 5))  # type: ignore[list-item]
    assert (todo.num_missing, todo.num_elsewhere) == (16, 70 - 32)
    assert not (todo.missing & todo.elsewhere).any()


@pytest.mark.parametrize(
    ("name", "is_deleted", "redone"),
    [
        ("embedding/c/2/0", True, (1, 16, 54)),
        ("embedding/c/2/0", False, (1, 16, 54)),
        ("embedding/marks/manifest-00000.jsonl", False, (1, 6, 64)),
        ("embedding/marks/manifest-00000.jsonl", True, (0, 70, 0)),
        ("face_digest/c/0/0", False, (5, 70, 0)),
        ("state/c/0", True, (0, 0, 70)),
        ("state/c/0", False, (0, 0, 70)),
    ],
)
def test_lost_files_are_made_again(
    tmp_path: Path, frames: pl.DataFrame, name: str, is_deleted: bool, redone: tuple[int, int, int]
) -> None:
    """Of the last shard the line of a manifest that was cut short; all of it where digests or marks are gone; of
    states, which marks tell too, none."""
    made.run(frames, tmp_path, made.tiny())
    before, stream = files_of(tmp_path), stream_of(tmp_path)
    path = stream.folder / name
    if is_deleted:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    others = {name: (stream.folder / name).stat().st_mtime_ns for name in ("embedding/c/1/0", "embedding/c/3/0")}
    report = made.run(frames, tmp_path, made.tiny())
    assert (report.num_redone, report.num_done, report.num_skipped) == redone
    assert files_of(tmp_path) == before
    if redone[1] < 70:
        assert {name: (stream.folder / name).stat().st_mtime_ns for name in others} == others
    assert np.isfinite(stream.read()).all()
