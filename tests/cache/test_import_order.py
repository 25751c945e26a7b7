"""Imports: the vector of a frame is stated, never guessed; nothing leads out of the file, and no claim is believed."""

import itertools
import os
import pickle
import struct
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest

from cache.exchange.exporting import export_stream
from cache.exchange.importing import import_stream
from cache.exchange.sources import SourceOptions
from cache.frames import conform
from cache.store import Cache
from cache.verify import verify

InTime = Callable[[Callable[[], Any]], Any]


def table(videos: dict[str, list[int]]) -> pl.DataFrame:
    rows = [(video, frame, f"{video}/{frame:05d}.jpg") for video, frames in sorted(videos.items()) for frame in frames]
    return conform(pl.DataFrame(rows, schema=["video", "frame", "path"], orient="row"), "a test")


def of(video: str, frame: int) -> np.ndarray:
    """The vector [3] of a frame, no two alike, exact in float16."""
    return np.array([hash_of(video), frame, 1], np.float32)


def hash_of(video: str) -> float:
    return float(sum(map(ord, video)))


def bring(folder: Path, path: Path, frames: pl.DataFrame, dtype: str = "float16", **options: Any) -> Any:
    cache = Cache.open(folder / "cache.zarr", create=True)
    report = import_stream(
        cache, "new", path, frames, options=SourceOptions(**options), shard_rows=4, dtype=dtype
    )  # fmt: skip
    return report, cache.stream("new")


def check(stream: Any, frames: pl.DataFrame) -> None:
    wanted = np.stack([of(*key) for key in frames.select("video", "frame").rows()])
    np.testing.assert_array_equal(stream.read(), wanted)


VIDEOS: dict[str, dict[str, list[int]]] = {
    "numbers": {str(video): [1, 2, 3, 4, 5] for video in range(1, 6)},
    "more frames than videos": {str(video): list(range(1, 31)) for video in range(1, 4)},
    "words": {"140-30-632x360": [1, 5], "video45_1": [2, 7], "46-30-484x360_left": [1, 2]},
    "folders": {"a/b": [1, 2], "a/c": [1], "d": [4, 5]},
    "numbers with zeros": {"00001": [1, 2], "00002": [1, 2]},
}


def names(form: str, frames: pl.DataFrame, digits: int = 5, suffix: str = "") -> list[tuple[str, tuple[str, int]]]:
    return [
        (
            f"{video}/{frame:0{digits}d}{suffix}" if form == "video/frame" else f"{frame:0{digits}d}/{video}",
            (video, frame),
        )
        for video, frame in frames.select("video", "frame").rows()
    ]


@pytest.mark.parametrize(
    ("kind", "form", "said"), [*itertools.product(VIDEOS, ("video/frame", "frame/video"), (True, False))]
)
def test_each_frame_gets_its_own_vector_or_the_file_is_refused(
    tmp_path: Path, kind: str, form: str, said: bool
) -> None:
    frames = table(VIDEOS[kind])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, key in names(form, frames, digits=1):
            file[name] = of(*key)
    options = {"names": form} if said else {}
    if kind.startswith("numbers") and not said:
        symmetric = {(v, f) for v, fs in VIDEOS[kind].items() for f in fs}
        both = all((str(f), int(v)) in symmetric for v, f in symmetric)
        if both:
            with pytest.raises(ValueError, match=r"may be video '\w+' frame \w+ or video .*--names video/frame or"):
                bring(tmp_path, tmp_path / "x.h5", frames, **options)
            return
    _, stream = bring(tmp_path, tmp_path / "x.h5", frames, **options)
    check(stream, frames)


def test_a_form_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    frames = table(VIDEOS["words"])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, key in names("video/frame", frames, suffix=".jpg"):
            file[name] = of(*key)
    check(bring(tmp_path, tmp_path / "x.h5", frames)[1], frames)
    with pytest.raises(ValueError, match=r"has no frame's number in its place; wanted /FRAME/VIDEO"):
        bring(tmp_path, tmp_path / "x.h5", frames, names="frame/video")


@pytest.mark.parametrize("form", ["top", "group", "index", "numbered"])
def test_one_matrix_a_video(tmp_path: Path, form: str) -> None:
    frames = table({"b": [3, 5, 7], "a/c": [1, 2], "7": [9]})
    options = {}
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for (video,), part in frames.group_by("video"):
            numbers = part["frame"].to_list()
            if form == "index":
                numbers = [*numbers[::-1], 100]
                file[f"{video}/frame"] = numbers
            if form == "numbered":
                numbers = list(range(1, 11))
                options = {"first_frame": 1}
            matrix = np.stack([of(str(video), number) for number in numbers])
            file[f"{video}/features" if form in ("group", "index") else str(video)] = matrix
    report, stream = bring(tmp_path, tmp_path / "x.h5", frames, **options)
    check(stream, frames)
    assert not report.in_order


def test_a_matrix_of_another_length_leads_to_a_line(tmp_path: Path) -> None:
    frames = table({"b": [3, 5, 7], "c": [1]})
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["b"], file["c"] = np.zeros((2, 3)), np.zeros((1, 3))
    with pytest.raises(ValueError, match=r"/b: has 2 rows and the frames table 3 frames of video 'b'; number the rows"):
        bring(tmp_path, tmp_path / "x.h5", frames)
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["x"], file["y"] = np.zeros((2, 3)), np.zeros((1, 3))
    with pytest.raises(ValueError, match="choose with --dataset, or name each as a video of the table, such as 'b'"):
        bring(tmp_path, tmp_path / "y.h5", frames)


# --- links -------------------------------------------------------------------------------------------------------


def external(file: Any, tmp_path: Path) -> None:
    file["a/00001"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/vector")


def external_group(file: Any, tmp_path: Path) -> None:
    file["a"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")


def soft_through_external(file: Any, tmp_path: Path) -> None:
    file["hidden"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    file["a/00001"] = h5py.SoftLink("/hidden/vector")


def external_storage(file: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(range(64)))
    file.create_dataset("a/00001", (3,), np.uint8, external=[(str(tmp_path / "secret"), 0, 3)])


def virtual(file: Any, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((3,), np.float32)
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "vector", (3,))
    file.create_virtual_dataset("a/00001", layout)


def to_a_pipe(file: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    file["a/00001"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/vector")


def round_and_round(file: Any, tmp_path: Path) -> None:
    file["a/00001"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a/00001")


@pytest.mark.parametrize(
    "make", [external, external_group, soft_through_external, external_storage, virtual, to_a_pipe, round_and_round]
)
def test_nothing_leads_out_of_the_file(tmp_path: Path, make: Callable[[Any, Path], None], in_time: InTime) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["vector"] = np.ones(3, np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        make(file, tmp_path)
    with pytest.raises(ValueError, match=r"links to another file|numbers in another file|leads round"):
        in_time(lambda: bring(tmp_path, tmp_path / "x.h5", table({"a": [1], "b": [1]})))
    assert not Cache.open(tmp_path / "cache.zarr").streams()


def test_a_link_inside_the_file_is_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/00001"] = of("a", 1)
        file["a/00002"] = h5py.SoftLink("00001")
    _, stream = bring(tmp_path, tmp_path / "x.h5", table({"a": [1, 2]}))
    np.testing.assert_array_equal(stream.read(), np.stack([of("a", 1)] * 2))


# --- claims and odd kinds ----------------------------------------------------------------------------------------


def big_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("embedding", (10**9, 8), np.float32, chunks=(1024, 8))
        file.create_dataset("frame", (10**9,), np.int64, chunks=(1024,))
        file.create_dataset("video", (10**9,), h5py.string_dtype(), chunks=(1024,))


def wide_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("embedding", (3, 10**9), np.float32, chunks=(1, 1024))


def big_chunks(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("embedding", (3, 60_000), np.float64, chunks=(3, 60_000), maxshape=(None, None))
        file.create_dataset("frame", (3, 1 << 28), np.float64, chunks=(1, 1 << 28))
        file.create_dataset("video", (3,), h5py.string_dtype())


def npy(shape: str, dtype: str = "'<f4'") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(36))

    return make


def parquet(dtype: Any, values: list[Any], column: str = "embedding") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        columns = {"video": ["a", "a", "b"], "frame": [1, 2, 1], "embedding": [[1.0, 2.0]] * 3}
        data = pl.DataFrame({key: each for key, each in columns.items() if key != column})
        data.with_columns(pl.Series(column, values, dtype)).write_parquet(path)

    return make


def archive(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), a=np.ones(3))
    path.with_suffix(".npz").rename(path)


LISTS = "embedding is not a column of lists"
CLAIMS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "rows": ("x.h5", big_hdf5, "claims 1,000,000,000 vectors"),
    "width": ("x.h5", wide_hdf5, "claims 3 vectors 1,000,000,000 wide"),
    "chunks": ("x.h5", big_chunks, r"/frame has chunks of 2.0 GiB"),
    "negative": ("x.npy", npy("(-3, 3)"), "cannot be read as .npy|not a matrix"),
    "both negative": ("x.npy", npy("(-3, -3)"), "cannot be read as .npy|not a matrix"),
    "huge": ("x.npy", npy("(1000000000000, 3)"), "cannot be read as .npy"),
    "beyond any number": ("x.npy", npy("(99999999999999999999999, 3)"), "cannot be read as .npy"),
    "nested": ("x.npy", npy("(" * 60), "cannot be read as .npy"),
    "objects": ("x.npy", npy("(3, 3)", "'|O'"), "cannot be read as .npy"),
    "text": ("x.npy", npy("(3, 3)", "'<U1'"), "not a matrix"),
    "no shape": ("x.npy", npy("3"), "cannot be read as .npy"),
    "archive": ("x.npy", archive, "an archive of several arrays"),
    "differing": ("x.parquet", parquet(pl.List(pl.Float32), [[1, 2], [1, 2], [1]]), "row 3: is 1 wide"),
    "structs": ("x.parquet", parquet(pl.Struct({"x": pl.Int8}), [{"x": 1}] * 3), LISTS),
    "structs in lists": (
        "x.parquet", parquet(pl.List(pl.Struct({"x": pl.Int8})), [[{"x": 1}]] * 3), LISTS,
    ),
    "decimals": (
        "x.parquet", parquet(pl.List(pl.Decimal(9, 2)), [[Decimal("1.5")]] * 3), LISTS,
    ),
    "texts": ("x.parquet", parquet(pl.List(pl.String), [["1"]] * 3), LISTS),
    "null vector": ("x.parquet", parquet(pl.List(pl.Float32), [None, [1, 2], [1, 2]]), "no vector in its first row"),
    "later null vector": ("x.parquet", parquet(pl.List(pl.Float32), [[1, 2], None, [1, 2]]), "row 2: is 0 wide"),
    "decimal frames": (
        "x.parquet", parquet(pl.Decimal(9, 2), [Decimal("1.5"), Decimal(2), Decimal(1)], "frame"), "whole numbers",
    ),
    "true frames": ("x.parquet", parquet(pl.Boolean, [True, False, True], "frame"), "wanted whole numbers"),
    "lists of videos": ("x.parquet", parquet(pl.List(pl.String), [["a"], ["a"], ["b"]], "video"), "wanted names"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", CLAIMS)
def test_no_claim_is_believed_and_no_kind_is_a_traceback(tmp_path: Path, kind: str, in_time: InTime) -> None:
    name, make, words = CLAIMS[kind]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=words) as caught:
        in_time(lambda: bring(tmp_path, tmp_path / name, table({"a": [1, 2], "b": [1]})))
    assert "\n" not in str(caught.value)
    assert not Cache.open(tmp_path / "cache.zarr").streams()


@pytest.mark.parametrize(
    "dtype", [pl.List(pl.Float64), pl.Array(pl.Float32, 2), pl.List(pl.Int16), pl.Array(pl.UInt8, 2)]
)
def test_every_kind_of_number_in_parquet(tmp_path: Path, dtype: Any) -> None:
    parquet(dtype, [[1, 2], [3, 4], [5, 6]])(tmp_path / "x.parquet")
    _, stream = bring(tmp_path, tmp_path / "x.parquet", table({"a": [1, 2], "b": [1]}))
    np.testing.assert_array_equal(stream.read(), [[1, 2], [3, 4], [5, 6]])


def test_a_null_inside_a_vector_is_a_missing_step(tmp_path: Path) -> None:
    parquet(pl.List(pl.Float32), [[1, 2], [3, None], [5, 6]])(tmp_path / "x.parquet")
    report, stream = bring(tmp_path, tmp_path / "x.parquet", table({"a": [1, 2], "b": [1]}))
    assert report.failed == {"not finite in the imported file": 1}
    assert stream.valid().tolist() == [True, False, True]


@pytest.mark.parametrize("name", ["x.h5", "x.npy", "x.parquet", "x.pkl", "a.npy", "x.unknown"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_sources_that_have_no_end(tmp_path: Path, name: str, kind: str, in_time: InTime) -> None:
    place = tmp_path / "folder" / name if name == "a.npy" else tmp_path / name
    place.parent.mkdir(exist_ok=True)
    os.mkfifo(place) if kind == "pipe" else place.symlink_to("/dev/zero")
    source = place.parent if name == "a.npy" else place
    with pytest.raises(ValueError, match=f"a {kind}; wanted a regular file"):
        in_time(lambda: bring(tmp_path, source, table({"a": [1]}), allow_pickle=name == "x.pkl"))


# --- HSEmotion's pickle ------------------------------------------------------------------------------------------


@pytest.fixture
def hsemotion(tmp_path: Path) -> Path:
    """{"v/00001.jpg": (features [5], scores [2])}"""
    values = {f"v/{frame:05d}.jpg": (np.full(5, frame, np.float32), np.full(2, -frame)) for frame in (1, 2)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(values))
    return tmp_path / "x.pkl"


@pytest.mark.parametrize(("part", "width", "sign"), [("0", 5, 1), ("features", 5, 1), ("1", 2, -1), ("scores", 2, -1)])
def test_each_part_of_a_pickle_has_a_name(tmp_path: Path, hsemotion: Path, part: str, width: int, sign: int) -> None:
    _, stream = bring(tmp_path, hsemotion, table({"v": [1, 2]}), allow_pickle=True, part=part)
    np.testing.assert_array_equal(stream.read(), sign * np.repeat([[1.0], [2.0]], width, axis=1))
    assert stream.identity.preprocessing == {"part": part}


def test_a_pickle_of_several_parts_names_them(tmp_path: Path, hsemotion: Path) -> None:
    frames = table({"v": [1, 2]})
    with pytest.raises(
        ValueError, match=r"several arrays; choose with --part: 0 \(5 numbers\), 1 .*features \(5 numbers"
    ):
        bring(tmp_path, hsemotion, frames, allow_pickle=True)
    with pytest.raises(ValueError, match="no part logits; choose with --part"):
        bring(tmp_path, hsemotion, frames, allow_pickle=True, part="logits")
    (tmp_path / "y.pkl").write_bytes(
        pickle.dumps({("v", 1): {"x": [1, 2], "y": [3]}, ("v", 2): {"x": [4, 5], "y": [6]}})
    )
    np.testing.assert_array_equal(
        bring(tmp_path, tmp_path / "y.pkl", frames, allow_pickle=True, part="x")[1].read(), [[1, 2], [4, 5]]
    )
    (tmp_path / "z.pkl").write_bytes(pickle.dumps({("v", 1): (1.0, 2.0), ("v", 2): [3, 4]}))
    with pytest.raises(ValueError, match="it is one vector and has no parts"):
        bring(tmp_path, tmp_path / "z.pkl", frames, allow_pickle=True, part="0")


# --- float16 and float32 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (1.0, ""),
        (1e-9, "stream new: 100% of its values are too small for float16 and lose their meaning; set dtype = "),
        (1e-6, "stream new: 100% of its values are too small for float16"),
        (3e4, "stream new: 3 of its embeddings are too large for float16; set dtype = "),
    ],
)
def test_what_float16_cannot_hold_is_said_and_float32_holds_it(tmp_path: Path, scale: float, words: str) -> None:
    frames, vectors = table({"a": [1, 2], "b": [1, 4]}), (np.arange(12).reshape(4, 3) / 4 + 1) * scale
    np.save(tmp_path / "x.npy", vectors)
    report, _ = bring(tmp_path, tmp_path / "x.npy", frames)
    assert bool(report.notes) == bool(words)
    assert not words or report.notes[0].startswith(words)
    (tmp_path / "second").mkdir()
    report, stream = bring(tmp_path / "second", tmp_path / "x.npy", frames, dtype="float32")
    assert not report.notes
    assert report.num_valid == 4
    assert stream.identity.dtype == "float32"
    np.testing.assert_array_equal(stream.read(), vectors.astype(np.float32))
    np.testing.assert_array_equal(stream.read_shard(0), vectors.astype(np.float32))
    assert not verify(stream, frames, None, lambda count: None)


def test_a_file_of_which_nothing_can_be_kept_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((2, 3), 1e6))
    with pytest.raises(ValueError, match='no vector of it can be kept: 2 too large for float16; set dtype = "float32"'):
        bring(tmp_path, tmp_path / "x.npy", table({"a": [1, 2]}))
    np.save(tmp_path / "x.npy", np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match=r"no vector of it can be kept: 2 not finite in the imported file$"):
        bring(tmp_path, tmp_path / "x.npy", table({"a": [1, 2]}))
    assert not Cache.open(tmp_path / "cache.zarr").streams()


@pytest.mark.parametrize("target", ["y.h5", "y.npy", "y.parquet", "y"])
def test_float32_goes_out_and_comes_back(tmp_path: Path, target: str) -> None:
    frames, vectors = table({"a": [1, 2], "b": [1]}), np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", vectors)
    _, stream = bring(tmp_path, tmp_path / "x.npy", frames, dtype="float32")
    export_stream(stream, frames, tmp_path / target, per_video=target == "y")
    (tmp_path / "second").mkdir()
    _, again = bring(tmp_path / "second", tmp_path / target, frames, dtype="float32")
    np.testing.assert_array_equal(again.read(), vectors)


def test_another_dtype_is_another_stream(tmp_path: Path) -> None:
    frames = table({"a": [1, 2]})
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    bring(tmp_path, tmp_path / "x.npy", frames)
    with pytest.raises(ValueError, match=r"dtype \(cached float16, wanted float32\)"):
        bring(tmp_path, tmp_path / "x.npy", frames, dtype="float32")
