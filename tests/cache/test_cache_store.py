"""The embedding store: round trip, identity, formats, locks, and what a reader must refuse."""

import errno
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

from cache import durable, locks, marks, shards, store
from cache.identity import StreamIdentity
from cache.storage.folder import FolderStorage
from cache.store import Cache
from cache.stream import SCHEMA, Stream
from cache.writing import folder_place
from helpers import killed_writer
from helpers import made_stream as made
from helpers.processes import program, python

Reopen = Callable[[], Stream]
NEEDS_FORK = pytest.mark.skipif(sys.platform == "win32", reason="no fork, no SIGKILL")


def embedding_file(stream: Stream, shard: int) -> Path:
    return stream.folder / shards.shard_file("embedding", shard)


def flip_bit(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


# ---- round trip


def test_round_trip(stream: Stream, reopen: Reopen) -> None:
    again = reopen()
    assert np.array_equal(again.read(), made.expected_rows())
    assert again.failed() == made.FAILED
    assert np.flatnonzero(~again.valid()).tolist() == sorted(made.FAILED)
    assert np.array_equal(again.face_digests(), made.digests_of(0, made.NUM_ROWS)[:, :8])
    assert again.provenance == {"precision": "float32", "torch": "2.6"}
    assert again.identity.digest == stream.identity.digest
    assert again.is_complete


def test_reading_into_a_given_array(stream: Stream) -> None:
    out = np.full((made.NUM_ROWS, made.WIDTH), 9, np.float16)
    assert stream.read(out=out) is out
    assert np.array_equal(out, made.expected_rows())


def test_memory_is_aligned(stream: Stream) -> None:
    """The kernel fills it in half the time then."""
    assert stream.read().ctypes.data % 64 == stream.read_shard(3).ctypes.data % 64 == 0


def test_any_zarr_reader_reads_the_same(stream: Stream, cache: Cache) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # zarr warns of files in a group that it cannot name
        group = zarr.open_group(cache.path, mode="r")
        members = dict(group.members(max_depth=None))
    assert sorted(members) == [
        "expr",
        "expr/base",
        *(f"expr/base/{name}" for name in ("embedding", "face_digest", "state")),
    ]
    assert np.array_equal(members["expr/base/embedding"][:], made.expected_rows())
    state = members["expr/base/state"][:]
    assert np.flatnonzero(state == shards.FAILED).tolist() == sorted(made.FAILED)
    assert set(state) == {shards.DONE, shards.FAILED}
    assert members["expr/base"].attrs["schema"] == SCHEMA


@pytest.mark.parametrize("num_rows", [1, 39, 40, 41, 64, 65, 200])
@pytest.mark.parametrize("shard_rows", [1, 37, 64, 128, 4096])
def test_every_length_of_the_last_shard(cache: Cache, num_rows: int, shard_rows: int) -> None:
    frames = made.make_frames(num_rows)
    stream = cache.create("expr", made.make_identity(frames, width=3), shard_rows, {})
    for shard in (stream.num_shards - 1, *range(stream.num_shards - 1))[:3]:
        start, stop = stream.rows(shard)
        stream.write_shard(shard, made.embeddings_of(start, stop, 3), made.digests_of(start, stop), {})
        assert np.array_equal(stream.read_shard(shard), made.embeddings_of(start, stop, 3))


def test_the_fast_path_is_taken(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "read_through_zarr", None)
    stream.read()


def test_all_zero_rows_are_written(empty: Stream) -> None:
    """zarr leaves out chunks of zeros unless told otherwise, and then a shard has no file."""
    for shard in range(empty.num_shards):
        start, stop = empty.rows(shard)
        zeros = np.zeros((stop - start, made.WIDTH), np.float16)
        empty.write_shard(shard, zeros, np.zeros((stop - start, 16), np.uint8), {})
        assert embedding_file(empty, shard).is_file()
    assert not empty.read().any()


def test_no_rows_at_all(cache: Cache) -> None:
    stream = cache.create("expr", made.make_identity(made.make_frames(1)[:0], num_frames=0), 40, {})
    assert stream.read().shape == (0, made.WIDTH)
    assert stream.valid().shape == (0,)


def test_little_more_on_disk_than_the_embeddings(cache: Cache) -> None:
    num_rows, width = 8192 + 500, 768
    stream = cache.create("expr", made.make_identity(made.make_frames(num_rows), width=width), 4096, {})
    for shard in range(stream.num_shards):
        start, stop = stream.rows(shard)
        size = stop - start
        stream.write_shard(shard, np.ones((size, width), np.float16), np.ones((size, 16), np.uint8), {})
    on_disk = sum(path.stat().st_size for path in cache.path.rglob("*") if path.is_file())
    assert on_disk / (num_rows * width * 2) <= 1.01


def test_moved_folder(stream: Stream, cache: Cache, tmp_path: Path) -> None:
    shutil.move(cache.path, tmp_path / "elsewhere")
    assert np.array_equal(Cache.open(tmp_path / "elsewhere").stream("expr").read(), made.expected_rows())


def test_read_only_folder(stream: Stream, cache: Cache) -> None:
    for path in [*cache.path.rglob("*"), cache.path]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = made.files_of(cache.path)
    try:
        opened = Cache.open(cache.path, read_only=True)
        assert np.array_equal(opened.stream("expr").read(), made.expected_rows())
        with pytest.raises(ValueError, match="for reading only"):
            made.fill(opened.stream("expr"), [0])
        with pytest.raises(ValueError, match="for reading only"):
            opened.remove("expr")
    finally:
        for path in [cache.path, *cache.path.rglob("*")]:
            path.chmod(0o755)
    assert made.files_of(cache.path) == before


def test_embeddings_that_are_not_finite_are_refused(empty: Stream) -> None:
    start, stop = empty.rows(1)
    embeddings = made.embeddings_of(start, stop)
    embeddings[3, 2] = np.inf
    with pytest.raises(ValueError, match="embedding of row 43 is not finite in float16"):
        empty.write_shard(1, embeddings, made.digests_of(start, stop), {})
    empty.write_shard(1, embeddings, made.digests_of(start, stop), {3: "face too dark"})
    assert empty.failed() == {43: "face too dark"}


def test_a_shard_can_be_written_again(stream: Stream, frames: pl.DataFrame) -> None:
    before = made.files_of(stream.folder)
    start, stop = stream.rows(3)
    stream.write_shard(3, np.ones((stop - start, made.WIDTH), np.float16), made.digests_of(start, stop), {})
    assert (stream.read()[start:stop] == 1).all()
    made.fill(stream, [3])
    assert made.files_of(stream.folder) == before


def test_a_shard_is_unmarked_while_it_is_written_again(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    with stream.writer_lock():
        monkeypatch.setattr(folder_place, "sync", lambda path: seen.append(stream.missing_shards()))
        made.fill(stream, [1])
    assert seen
    assert all(missing == [1] for missing in seen)


def test_the_mark_comes_after_everything_is_on_the_disk(empty: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[Path | str] = []
    write_mark = marks.write_mark
    with empty.writer_lock():
        monkeypatch.setattr(folder_place, "sync", lambda path: order.append(path.relative_to(empty.folder)))
        monkeypatch.setattr(marks, "write_mark", lambda *given: (order.append("mark"), write_mark(*given)))
        made.fill(empty, [1])
    assert [str(each) for each in order] == ["embedding/c/1/0", "embedding/c/1", "embedding/c", "mark"]


# ---- killed and interrupted writers


def check_killed(folder: Path, changes: Iterable[int], min_kills: int) -> None:
    """A stream extracted by processes killed before these changes of the disk, against an undisturbed one."""
    undisturbed, killed = folder / "undisturbed.zarr", folder / "killed.zarr"
    made.extract_into(undisturbed)
    assert int(program(killed_writer.main, killed, *changes)) >= min_kills
    assert made.files_of(killed) == made.files_of(undisturbed)


@NEEDS_FORK
def test_a_killed_writer_leaves_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    check_killed(tmp_path, (2, 9, 21, 35, 50, 65, 80, 95), min_kills=6)


@pytest.mark.slow
@NEEDS_FORK
@pytest.mark.parametrize("first", range(5))
def test_killed_before_each_change_in_turn(tmp_path: Path, first: int) -> None:
    check_killed(tmp_path, range(1 + first, 140, 5), min_kills=10)


def test_a_shard_without_a_mark_does_not_count(stream: Stream, reopen: Reopen) -> None:
    stream.forget([2])
    again = reopen()
    assert again.missing_shards() == [2]
    assert again.valid().sum() == made.NUM_ROWS - 40 - len(made.FAILED)
    with pytest.raises(ValueError, match="40 of 150 rows are not extracted yet; type `mtl extract --backbone expr`"):
        again.read()
    embedding_file(again, 2).write_bytes(b"half")  # what a power cut may leave
    made.fill(again)
    assert np.array_equal(again.read(), made.expected_rows())


class Full:
    """Stands for a function that finds the disk full from its `after`-th call on."""

    def __init__(self, function: Callable, after: int) -> None:
        self.function, self.left = function, after

    def __call__(self, *args: object, **options: object) -> object:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.function(*args, **options)


@pytest.mark.parametrize("after", range(6))
def test_a_full_disk_at_any_sync(empty: Stream, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    made.fill(empty, [0])
    before = made.files_of(empty.folder)
    monkeypatch.setattr(durable.os, "fsync", Full(os.fsync, after))
    with pytest.raises(OSError, match="No space left"):
        made.fill(empty, [1])
    monkeypatch.undo()
    assert empty.missing_shards() == [1, 2, 3]
    assert made.files_of(empty.folder) == before
    made.fill(empty)
    assert np.array_equal(empty.read(), made.expected_rows())


@pytest.mark.parametrize("after", range(6, 14))
def test_a_full_disk_while_marks_move(empty: Stream, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """What was written counts; the next writer moves its mark."""
    made.fill(empty, [0, 1])
    monkeypatch.setattr(durable.os, "fsync", Full(os.fsync, after))
    with pytest.raises(OSError, match="No space left"):
        made.fill(empty, [2])
    monkeypatch.undo()
    assert empty.missing_shards() == [3]
    assert np.array_equal(empty.read_shard(2), made.expected_rows()[80:120])
    assert empty.is_settled((1, 2)) == (after == 13)  # the small files are gone then
    with empty.writer_lock():
        pass
    assert not list(empty.files.keys("embedding/marks/0"))
    assert [key for key in empty.files.keys("") if key.endswith(".mark") or ".tmp-" in key] == []
    made.fill(empty)
    assert empty.is_settled()
    assert np.array_equal(empty.read(), made.expected_rows())


def test_a_full_disk_while_zarr_writes(empty: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    made.fill(empty, [0])
    before = made.files_of(empty.folder)
    monkeypatch.setattr(zarr.storage._local, "_put", Full(zarr.storage._local._put, 0))
    with pytest.raises(OSError, match="No space left"):
        made.fill(empty, [1])
    monkeypatch.undo()
    assert made.files_of(empty.folder) == before
    made.fill(empty)
    assert np.array_equal(empty.read(), made.expected_rows())


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_file_size_limit_in_a_process_of_its_own(empty: Stream) -> None:
    """The system itself refuses the write half-way."""
    code = (
        "import resource, sys; from pathlib import Path; from helpers.made_stream import extract_into\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))\n"
        "extract_into(Path(sys.argv[1]))\n"
    )
    ended = python("-c", code, empty.folder.parent.parent, check=False)
    assert "File too large" in ended.stderr.splitlines()[-1]
    assert empty.missing_shards() == [0, 1, 2, 3]
    assert not list(empty.folder.rglob("*.partial"))
    made.fill(empty)
    assert np.array_equal(empty.read(), made.expected_rows())


# ---- creating and removing


@pytest.mark.parametrize("after", range(4))
def test_creation_that_fails_leaves_nothing(
    cache: Cache, frames: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    before = made.files_of(cache.path)
    monkeypatch.setattr(zarr.storage._local, "_put", Full(zarr.storage._local._put, after))
    with pytest.raises(OSError, match="No space left"):
        cache.create("expr", made.make_identity(frames), made.SHARD_ROWS, {})
    assert cache.streams() == []
    assert made.files_of(cache.path) == before


def test_leftovers_of_a_killed_creation_are_ignored_and_cleaned(cache: Cache, frames: pl.DataFrame) -> None:
    old, young = (durable.temporary_beside(cache.path / "expr") for _ in range(2))
    dead = Path(str(young).replace(f"-{os.getpid()}-", "-999999999-"))
    for folder in (old, young, dead):
        (folder / "base").mkdir(parents=True)
    os.utime(old, (0, 0))
    assert cache.streams() == []
    cache.create("expr", made.make_identity(frames), made.SHARD_ROWS, {})
    assert cache.streams() == [("expr", "base")]
    assert not old.exists()
    assert not dead.exists()
    assert young.exists()  # its maker is at it


def test_a_clock_that_is_an_hour_off_removes_nothing_of_a_live_writer(
    cache: Cache, frames: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder that several machines share: files have the clock of one, their reader may have another."""
    other = cache.path / durable.temporary_beside(cache.path / "au").name.replace(durable.HOST, "elsewhere")
    other.mkdir()
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 3600)
    cache.create("expr", made.make_identity(frames), made.SHARD_ROWS, {})
    assert other.exists()


def test_a_killed_creation_of_the_cache_itself_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "cache.zarr"
    path.mkdir()
    durable.temporary_beside(path / "zarr.json").write_bytes(b"{")
    Cache.open(path, create=True)
    assert Cache.open(path).streams() == []


def test_creating_again_opens_what_is_there(stream: Stream, cache: Cache, frames: pl.DataFrame) -> None:
    again = cache.create("expr", made.make_identity(frames), 9999, {"precision": "bfloat16"})
    assert again.is_complete
    assert again.shard_rows == made.SHARD_ROWS
    assert again.provenance["precision"] == "float32"


def test_views_of_one_stream(stream: Stream, cache: Cache, frames: pl.DataFrame) -> None:
    flipped = cache.create("expr", made.make_identity(frames, view="hflip"), made.SHARD_ROWS, {})
    assert cache.streams() == [("expr", "base"), ("expr", "hflip")]
    with pytest.raises(ValueError, match="`mtl extract --backbone expr --views hflip`"):
        flipped.read()
    cache.remove("expr", "hflip")
    assert cache.streams() == [("expr", "base")]
    assert np.array_equal(cache.stream("expr").read(), made.expected_rows())


def test_remove(stream: Stream, cache: Cache) -> None:
    cache.remove("expr")
    assert cache.streams() == []
    assert [path.name for path in cache.path.iterdir()] == ["zarr.json"]
    with pytest.raises(ValueError, match=r"no stream 'expr' \(there: none\)"):
        cache.remove("expr")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a\\b", "a b"])
def test_names_that_cannot_be_folders(cache: Cache, frames: pl.DataFrame, name: str) -> None:
    with pytest.raises(ValueError, match=r"a name (has letters|begins with)"):
        cache.create(name, made.make_identity(frames), 40, {})
    with pytest.raises(ValueError, match="no stream"):
        cache.stream(name)


def test_opening_what_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no cache here; `mtl extract` makes one"):
        Cache.open(tmp_path / "none.zarr")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="this is not an embedding cache"):
        Cache.open(tmp_path, create=True)
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(ValueError, match="this is not an embedding cache"):
        Cache.open(tmp_path / "other.zarr", create=True)


# ---- identity and format


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"weights": "0" * 32},
            r"differs in: weights \(cached [0-9a-f]{12}, wanted 000000000000\); type `mtl cache rm",
        ),
        ({"preprocessing": {"size_px": 224, "mean": [0.5, 0.5, 0.5]}}, r"size_px \(cached 112, wanted 224\)"),
        ({"preprocessing": {}}, r"interpolation \(cached bicubic, wanted nothing\)"),
        ({"pooling": "avg"}, r"pooling \(cached token, wanted avg\)"),
        ({"backbone": "resnet18", "width": 512}, r"backbone \(cached vit_tiny, wanted resnet18\); width \(cached 12"),
        ({"frames": "1" * 32}, r"frame list \(150 frames in both, but other videos, frame numbers or paths\)"),
        ({"frames": "1" * 32, "num_frames": 7}, r"frame list \(cached 150 frames, wanted 7\)"),
    ],
)
def test_another_identity_is_refused(
    stream: Stream, cache: Cache, frames: pl.DataFrame, changes: dict, said: str
) -> None:
    wanted = made.make_identity(frames, **changes)
    for opening in (lambda: cache.stream("expr", expected=wanted), lambda: cache.create("expr", wanted, 40, {})):
        with pytest.raises(ValueError, match=said) as caught:
            opening()
        assert "`mtl cache rm expr`, then `mtl extract --backbone expr`" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert np.array_equal(cache.stream("expr").read(), made.expected_rows())


def test_identity_survives_json(frames: pl.DataFrame) -> None:
    identity = made.make_identity(frames, preprocessing={"mean": (0.485, 0.456, 0.406), "size_px": 112})
    again = StreamIdentity.from_json(json.loads(json.dumps(identity.to_json())))
    assert again.digest == identity.digest
    assert again.differences(identity) == []
    turned = made.make_identity(frames, preprocessing={"size_px": 112, "mean": [0.485, 0.456, 0.406]})
    assert turned.digest == identity.digest


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (SCHEMA + 1, "has format 3, this mtl knows formats up to 2; update mtl"),
        (0, "has the old format 0, this mtl's is 2; type `mtl cache rm expr`"),
        (None, "has the old format None"),
    ],
)
def test_other_formats_are_named(stream: Stream, reopen: Reopen, schema: int | None, said: str) -> None:
    edit_json(stream.folder / "zarr.json", lambda document: document["attributes"].update(schema=schema))
    with pytest.raises(ValueError, match=said):
        reopen()


@pytest.mark.parametrize("name", ["zarr.json", "embedding/zarr.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b'{"attributes": {"schema": 2}}'])
def test_damaged_metadata_says_what_to_type(stream: Stream, reopen: Reopen, name: str, content: bytes | None) -> None:
    path = stream.folder / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"damaged metadata: .*; type `mtl cache rm expr`, then `mtl extract"
    ) as caught:
        reopen()
    assert "\n" not in str(caught.value)


def test_array_of_another_shape(stream: Stream, reopen: Reopen) -> None:
    edit_json(stream.folder / "embedding/zarr.json", lambda document: document.update(shape=[151, 12]))
    with pytest.raises(ValueError, match="has other shards than the embeddings"):
        reopen()


# ---- damage


def delete(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (delete, "the shard is missing"),
        (shorten, "bytes long, not"),
        (zero, "cannot read rows 40 to 79|has changed since extraction"),
        (lambda path: flip_bit(path, 0), "has changed since extraction"),
        (lambda path: flip_bit(path, 500), "has changed since extraction"),
        (lambda path: flip_bit(path, path.stat().st_size - 10), "cannot read rows 40 to 79"),
    ],
)
def test_damaged_shards_are_found_before_any_data_is_used(
    stream: Stream, reopen: Reopen, harm: Callable[[Path], None], said: str
) -> None:
    harm(embedding_file(stream, 1))
    if "changed" not in said:
        with pytest.raises(ValueError, match=said):
            reopen().read(check=False)
    with pytest.raises(ValueError, match=said) as caught:
        reopen().read()
    assert "type `mtl cache verify expr --repair`, then `mtl extract --backbone expr`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_swapped_shards_are_found(stream: Stream) -> None:
    first, second = embedding_file(stream, 0), embedding_file(stream, 1)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(ValueError, match="has changed since extraction"):
        stream.read()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]\n", b'{"rows":[0,40],"digest":"00"}'])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("embedding/marks/manifest-00000.jsonl", r"manifest-00000\.jsonl: the mark of shard 0 is damaged"),
        ("embedding/marks/00000001.mark", r"00000001\.mark: the shard's mark is damaged"),
    ],
)
def test_damaged_marks(stream: Stream, name: str, said: str, content: bytes) -> None:
    (stream.folder / name).write_bytes(content)
    for reading in (stream.read, stream.valid, stream.failed):
        with pytest.raises(ValueError, match=rf"{said}; type `mtl cache verify expr --repair`"):
            reading()


def test_a_mark_of_another_shard(stream: Stream) -> None:
    marks.write_mark(stream.files, 1, stream.mark(0), stream.shard_face_digests(0))
    with pytest.raises(ValueError, match="the mark is of another shard"):
        stream.read()


# ---- arrays that are not raw rows


def replace_array(stream: Stream, **options: object) -> Stream:
    """The stream with its embedding array made anew, otherwise than the store makes it, and refilled."""
    stream.forget(range(stream.num_shards))
    path = stream.folder / "embedding"
    shutil.rmtree(path)
    zarr.create_array(path, shape=(stream.num_rows, stream.width), dtype="float16", fill_value=0, **options)
    return Stream(FolderStorage(stream.folder.parent.parent), "expr", "base")


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (10, 12), "shards": (40, 12), "compressors": zarr.codecs.ZstdCodec()},
        {"chunks": (10, 6), "shards": (40, 12), "compressors": None},
        {"chunks": (40, 12), "compressors": None},
        {"chunks": (40, 12), "compressors": zarr.codecs.GzipCodec()},
        {
            "chunks": (10, 12),
            "shards": (40, 12),
            "compressors": None,
            "serializer": zarr.codecs.BytesCodec(endian="big"),
        },
    ],
)
def test_other_layouts_are_read_through_zarr(stream: Stream, options: dict) -> None:
    foreign = replace_array(stream, **options)
    assert foreign.layout.inner_rows is None
    made.fill(foreign)
    assert np.array_equal(foreign.read(), made.expected_rows())
    embedding_file(foreign, 2).unlink()
    with pytest.raises(ValueError, match="the shard is missing"):  # zarr alone gives zeros
        foreign.read()


def test_inner_chunks_out_of_line_are_read_through_zarr(stream: Stream) -> None:
    """Metadata promise raw rows, but the chunks lie in another order: only the shard's own index tells."""
    stream = replace_array(stream, chunks=(10, 12), shards=(40, 12), compressors=None)
    made.fill(stream)
    path, chunk = embedding_file(stream, 0), 10 * 12 * 2
    data = path.read_bytes()
    index = np.frombuffer(data[4 * chunk : -4], "<u8").reshape(4, 2).copy()
    index[[0, 1], 0] = index[[1, 0], 0]
    import google_crc32c

    table = index.tobytes()
    rows = data[chunk : 2 * chunk] + data[:chunk] + data[2 * chunk : 4 * chunk]
    path.write_bytes(rows + table + google_crc32c.value(table).to_bytes(4, "little"))
    assert np.array_equal(stream.read(), made.expected_rows())


# ---- one writer


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_the_second_writer_is_told_of_the_first(empty: Stream, reopen: Reopen) -> None:
    with empty.writer_lock():
        made.fill(empty, [0])  # the holder itself may nest
        other = reopen()
        for busy in (
            lambda: made.fill(other),
            lambda: other.forget([0]),
            lambda: store.Cache(other.folder.parent.parent).remove("expr"),
        ):
            with pytest.raises(ValueError, match=f"stream 'expr' is being written by process {os.getpid()}"):
                busy()
    made.fill(reopen())
    assert empty.is_complete


def test_without_flock_writing_still_works(empty: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    made.fill(empty)
    assert np.array_equal(empty.read(), made.expected_rows())


def test_a_view_that_is_not_there_says_how_to_make_it(stream: Stream, cache: Cache) -> None:
    with pytest.raises(ValueError, match=r"no stream .*'hflip'.*type `mtl extract --backbone expr --views hflip`"):
        cache.stream("expr", "hflip")
