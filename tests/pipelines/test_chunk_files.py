"""Chunks of long work: kept across processes, and only what is whole and of the same origin."""

from pathlib import Path

import pytest

from pipelines.chunk_files import ChunkFolder

ORIGIN = {"video": "a", "size_px": 112}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = ChunkFolder(tmp_path / "work", ORIGIN)
    for number in range(3):
        folder.append(b"chunk %d" % number)
    return tmp_path / "work"


def test_chunks_are_there_again(work: Path) -> None:
    again = ChunkFolder(work, ORIGIN)
    assert [again.path(index).read_bytes() for index in range(len(again))] == [b"chunk 0", b"chunk 1", b"chunk 2"]
    assert again.ended is None
    again.end({"why": "over"})
    assert ChunkFolder(work, ORIGIN).ended == {"why": "over"}
    again.remove()
    assert not work.exists()


def test_chunks_of_another_origin_are_removed(work: Path) -> None:
    assert not len(ChunkFolder(work, {**ORIGIN, "size_px": 96}))
    assert not len(ChunkFolder(work, ORIGIN))


@pytest.mark.parametrize("damage", ["changed", "missing", "cut short"])
def test_what_lies_behind_damage_is_removed(work: Path, damage: str) -> None:
    ChunkFolder(work, ORIGIN).end({})
    (path,) = work.glob("00001-*")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"chunk 7" if damage == "changed" else b"chu")
    again = ChunkFolder(work, ORIGIN)
    assert (len(again), again.ended) == (1, None)
    again.append(b"new")
    assert [again.path(index).read_bytes() for index in range(2)] == [b"chunk 0", b"new"]
    assert len(list(work.glob("0000*"))) == 2
