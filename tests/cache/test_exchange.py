"""Import and export: every format there and back, every kind of source, and each way in which one can be wrong."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

from cache.exchange.exporting import WRITERS, export_stream
from cache.exchange.importing import NOT_FINITE, SOURCES, import_stream
from cache.exchange.sources import SourceOptions, in_blocks
from cache.store import Cache
from cache.stream import Stream
from cache.verify import verify
from helpers import big_exchange
from helpers.processes import program

MISSING = "not in the imported file"
VIDEOS = ("v0", "v1", "v2")


@pytest.fixture
def vectors() -> np.ndarray:
    """[150, 3] float32, row i made of i: no two alike, exact in float16."""
    return np.arange(150, dtype=np.float32)[:, None] + np.array([0, 0.25, 0.5], np.float32)


@pytest.fixture
def bring(cache: Cache, frames: pl.DataFrame) -> Callable[..., tuple]:
    """Imports a path as the stream `new`: the report, and the stream."""

    def call(path: Path, shard_rows: int = 40, view: str = "base", **options: object) -> tuple:
        chosen = SourceOptions(**options)  # type: ignore[arg-type]
        report = import_stream(cache, "new", path, frames, view=view, options=chosen, shard_rows=shard_rows)
        return report, cache.stream("new", view)

    return call


def write_frames_hdf5(path: Path, frames: pl.DataFrame, vectors: np.ndarray, digits: int = 5) -> Path:
    """`/<frame>/<video>`, as the paper's code has it."""
    with h5py.File(path, "w") as file:
        for (video, frame), vector in zip(frames.select("video", "frame").rows(), vectors, strict=True):
            file[f"{frame:0{digits}d}/{video}"] = vector
    return path


def write_folder(folder: Path, vectors: np.ndarray, suffix: str = "") -> Path:
    folder.mkdir()
    for index, video in enumerate(VIDEOS):
        np.save(folder / f"{video}{suffix}.npy", vectors[index * 50 : index * 50 + 50])
    return folder


@pytest.mark.parametrize("kind", list(WRITERS))
def test_what_is_exported_comes_back_the_same(
    kind: str, stream: Stream, cache: Cache, frames: pl.DataFrame, tmp_path: Path
) -> None:
    target = tmp_path / f"out{kind}"
    counted: list[int] = []
    files = export_stream(stream, frames, target, per_video=not kind, advance=counted.append)
    assert all(path.exists() for path in files)
    assert sum(counted) == 150
    report = import_stream(cache, "new", target, frames, shard_rows=64)
    new = cache.stream("new")
    np.testing.assert_array_equal(new.read(), stream.read())
    np.testing.assert_array_equal(new.valid(), stream.valid())
    assert (report.num_valid, report.num_extra, report.width, report.in_order) == (148, 0, 12, False)
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("kind", list(WRITERS))
def test_export_overwrites_only_with_force_and_whole(
    kind: str, stream: Stream, frames: pl.DataFrame, tmp_path: Path
) -> None:
    target = tmp_path / f"out{kind}"
    export_stream(stream, frames, target, per_video=not kind)
    before = {path: path.read_bytes() for path in tmp_path.rglob("out*") if path.is_file()}
    with pytest.raises(ValueError, match="is there already; add --force"):
        export_stream(stream, frames, target, per_video=not kind)
    (stream.folder / "embedding/c/2/0").unlink()
    with pytest.raises(ValueError, match="the shard is missing"):
        export_stream(stream, frames, target, per_video=not kind, force=True)
    assert {path: path.read_bytes() for path in before} == before
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_flipped_bit_is_not_exported(stream: Stream, frames: pl.DataFrame, tmp_path: Path) -> None:
    path = stream.folder / "embedding/c/1/0"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="the shard has changed since extraction"):
        export_stream(stream, frames, tmp_path / "out.h5")
    assert not list(tmp_path.glob("*out*"))


def test_force_replaces_a_folder_of_arrays_and_no_other(stream: Stream, frames: pl.DataFrame, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "out", np.zeros((150, 3)), "_old")
    export_stream(stream, frames, folder, per_video=True, force=True)
    assert sorted(path.name for path in folder.iterdir()) == ["v0.npy", "v1.npy", "v2.npy"]
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds more than \.npy files"):
        export_stream(stream, frames, folder, per_video=True, force=True)
    assert (folder / "thesis.tex").exists()


def test_exports_are_plain_files(stream: Stream, frames: pl.DataFrame, tmp_path: Path) -> None:
    for kind in (".h5", ".npy"):
        export_stream(stream, frames, tmp_path / f"out{kind}")
    expected = stream.read()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    assert pl.read_parquet(tmp_path / "out.parquet").columns == ["video", "frame", "valid"]
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["embedding"].dtype == np.float16
        assert file["video"].asstr()[149] == "v2"
        assert int((~file["valid"][:]).sum()) == 2
        assert stream.identity.weights in file.attrs["identity"]


def test_export_of_another_frames_table_or_format(stream: Stream, frames: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="made for another frames table"):
        export_stream(stream, frames[:-1], tmp_path / "out.h5")
    with pytest.raises(ValueError, match=r"known: .h5, .hdf5, .npy, .parquet, and a folder"):
        export_stream(stream, frames, tmp_path / "out.csv")
    with pytest.raises(ValueError, match="and a folder with --per-video"):
        export_stream(stream, frames, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("digits", [1, 5])
def test_one_dataset_a_frame(
    digits: int, bring: Callable[..., tuple], frames: pl.DataFrame, vectors: np.ndarray, tmp_path: Path
) -> None:
    path = write_frames_hdf5(tmp_path / "a.h5", frames, vectors, digits)
    with h5py.File(path, "a") as file:
        del file[f"{60:0{digits}d}/v1"]
        file[f"{60:0{digits}d}/v10"] = vectors[0]  # a prefix is not the video
    report, stream = bring(path)
    assert stream.failed() == {60: MISSING}
    np.testing.assert_array_equal(np.delete(stream.read(), 60, 0), np.delete(vectors, 60, 0))
    assert (report.num_extra, report.example_extra) == (1, "video 'v10' frame 60")


def test_a_matrix_in_order_must_have_as_many_rows(
    bring: Callable[..., tuple], vectors: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", vectors)
    report, stream = bring(tmp_path / "a.npy")
    assert report.in_order
    np.testing.assert_array_equal(stream.read(), vectors)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["features"] = vectors[:-1]
    with pytest.raises(ValueError, match="has 149 rows and the frames table 150; put datasets video and frame"):
        bring(tmp_path / "b.h5")


def test_a_matrix_with_named_rows_in_any_order(
    bring: Callable[..., tuple], frames: pl.DataFrame, vectors: np.ndarray, tmp_path: Path
) -> None:
    order = np.random.default_rng(0).permutation(150)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["b"] = vectors[order], vectors
        file["video"] = frames["video"].gather(order).to_list()
        file["frame"] = frames["frame"].gather(order).to_numpy()
    with pytest.raises(ValueError, match=r"several matrices \(a, b\); choose with --dataset"):
        bring(tmp_path / "a.h5")
    np.testing.assert_array_equal(bring(tmp_path / "a.h5", dataset="a")[1].read(), vectors)


@pytest.mark.parametrize("columns", ["video", "path"])
def test_a_matrix_with_keys(
    columns: str, bring: Callable[..., tuple], frames: pl.DataFrame, vectors: np.ndarray, tmp_path: Path
) -> None:
    order = np.random.default_rng(0).permutation(150)
    keys = frames.select("video", frame=pl.col("frame").cast(pl.String))[order]
    if columns == "path":
        keys = frames.select(image_path="/data/x/" + pl.col("path"))[order]
    np.save(tmp_path / "a.npy", vectors[order])
    keys.write_parquet(tmp_path / "keys.parquet")
    _, stream = bring(tmp_path / "a.npy", keys=tmp_path / "keys.parquet")
    np.testing.assert_array_equal(stream.read(), vectors)
    keys[:-1].write_parquet(tmp_path / "keys.parquet")
    with pytest.raises(ValueError, match=r"names 149 rows, .* has 150"):
        bring(tmp_path / "a.npy", keys=tmp_path / "keys.parquet")


def test_a_folder_of_arrays(bring: Callable[..., tuple], vectors: np.ndarray, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "out", vectors, "_rgb")
    np.save(folder / "v0_fps.npy", np.float64(25))
    np.save(folder / "v9_rgb.npy", vectors)
    report, stream = bring(folder, suffix="_rgb")
    np.testing.assert_array_equal(stream.read(), vectors)
    assert report.num_extra == 1


def test_a_folder_of_other_lengths_needs_numbers(
    bring: Callable[..., tuple], vectors: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    np.save(folder / "v1.npy", vectors[:30])
    with pytest.raises(ValueError, match="number the rows by --first-frame and --step"):
        bring(folder)
    report, stream = bring(folder, first_frame=52, step=2)  # frames 52, 54 .. 110, of which 50 to 99 are v1's
    assert np.flatnonzero(stream.valid()).tolist() == list(range(52, 100, 2))
    np.testing.assert_array_equal(stream.read()[52:100:2], vectors[:24])
    assert report.num_extra == 6
    with pytest.raises(ValueError, match="differs in: preprocessing first_frame"):
        bring(folder, first_frame=50, step=2)


@pytest.mark.parametrize("paired", [True, False])
def test_a_pickle_only_when_allowed(
    paired: bool, bring: Callable[..., tuple], frames: pl.DataFrame, vectors: np.ndarray, tmp_path: Path
) -> None:
    rows = frames.select("video", "frame").rows()
    table = {key if paired else f"{key[0]}/{key[1]:05d}": vector for key, vector in zip(rows, vectors, strict=True)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(table))
    with pytest.raises(ValueError, match="runs code from the file; if you trust it, add --allow-pickle"):
        bring(tmp_path / "a.pkl")
    np.testing.assert_array_equal(bring(tmp_path / "a.pkl", allow_pickle=True)[1].read(), vectors)


class Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["MTL_TEST_BOMB"],)


@pytest.mark.parametrize("name", ["a.npy", "a.pkl"])
def test_nothing_is_unpickled_unasked(
    name: str, bring: Callable[..., tuple], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTL_TEST_BOMB", str(tmp_path / "gone off"))
    if name == "a.npy":
        np.save(tmp_path / name, np.array([Bomb()], object), allow_pickle=True)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=name):
        bring(tmp_path / name)
    assert not (tmp_path / "gone off").exists()


def test_values_that_float16_cannot_hold_fail(bring: Callable[..., tuple], vectors: np.ndarray, tmp_path: Path) -> None:
    wide = vectors.astype(np.float64)
    wide[3, 1], wide[50, 0], wide[99, 2] = np.nan, 1e6, -np.inf
    np.save(tmp_path / "a.npy", wide)
    report, stream = bring(tmp_path / "a.npy")
    assert stream.failed() == {3: NOT_FINITE, 50: "too large for float16", 99: NOT_FINITE}
    assert report.failed == {NOT_FINITE: 2, "too large for float16": 1}
    assert not stream.read()[[3, 50, 99]].any()


def test_differing_widths_name_the_row_and_leave_no_stream(
    bring: Callable[..., tuple], cache: Cache, frames: pl.DataFrame, vectors: np.ndarray, tmp_path: Path
) -> None:
    path = write_frames_hdf5(tmp_path / "a.h5", frames, vectors)
    with h5py.File(path, "a") as file:
        del file["00140/v2"]
        file["00140/v2"] = np.zeros(4)
    with pytest.raises(ValueError, match="/00140/v2: is 4 wide, the first vector 3"):
        bring(path)
    assert cache.streams() == []
    table = pl.DataFrame({"video": ["v0", "v0"], "frame": [0, 1], "embedding": [[1.0, 2.0], [1.0]]})
    table.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="row 2: is 1 wide, the first vector 2"):
        bring(tmp_path / "a.parquet")


def test_nothing_that_matches_and_two_for_a_frame(
    bring: Callable[..., tuple], cache: Cache, frames: pl.DataFrame, vectors: np.ndarray, tmp_path: Path
) -> None:
    path = write_frames_hdf5(tmp_path / "a.h5", frames.with_columns(video="w" + pl.col("video")), vectors)
    with pytest.raises(ValueError, match="the file has video 'wv0' frame 0, the table has video 'v0' frame 0"):
        bring(path)
    path = write_frames_hdf5(tmp_path / "b.h5", frames, vectors)
    with h5py.File(path, "a") as file:
        file["7/v0"] = vectors[0]
    with pytest.raises(ValueError, match="two vectors for video 'v0' frame 7"):
        bring(path)
    assert cache.streams() == []


def test_the_same_file_finishes_what_was_begun_and_another_is_refused(
    bring: Callable[..., tuple], vectors: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", vectors)
    _, stream = bring(tmp_path / "a.npy")
    with stream.writer_lock():
        stream.forget([1])
    with pytest.raises(ValueError, match="type `mtl cache import new FILE`"):
        stream.read()
    np.testing.assert_array_equal(bring(tmp_path / "a.npy")[1].read(), vectors)
    np.save(tmp_path / "a.npy", vectors + 1)
    with pytest.raises(ValueError, match="differs in: weights"):
        bring(tmp_path / "a.npy")
    np.testing.assert_array_equal(stream.read(), vectors)


def test_verify_asks_no_faces_of_an_imported_stream(
    bring: Callable[..., tuple], frames: pl.DataFrame, vectors: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", vectors)
    _, stream = bring(tmp_path / "a.npy")
    counted: list[int] = []
    assert verify(stream, frames, lambda paths: [bytes(16)] * len(paths), counted.append) == []
    assert sum(counted) == 300


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind.startswith(".")])
def test_a_file_of_another_kind_is_one_line(kind: str, bring: Callable[..., tuple], tmp_path: Path) -> None:
    (tmp_path / f"a{kind}").write_bytes(b"neither this nor that")
    with pytest.raises(ValueError, match=f"a{kind}: ") as caught:
        bring(tmp_path / f"a{kind}", allow_pickle=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gone.h5", {}, "no such file or folder"),
        ("a.csv", {}, r"unknown kind of file; known: a folder, \.h5, \.hdf5, \.npy, \.parquet, \.pkl, \.pickle$"),
        ("noend", {}, "unknown kind of file"),
        ("", {"dataset": "x"}, "--dataset does not go with"),
        ("a.npy", {"suffix": "_rgb"}, "--suffix does not go with"),
        ("", {"step": 2}, "--step needs --first-frame"),
    ],
)
def test_options_and_paths(
    name: str, options: dict[str, object], message: str, bring: Callable[..., tuple], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").touch()
    (tmp_path / "noend").touch()
    (tmp_path / "a.npy").touch()
    with pytest.raises(ValueError, match=message):
        bring(tmp_path / name, **options)


def test_blocks_are_read_once_each_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.exchange.sources.BLOCK_ROWS", 10)
    matrix, asked = np.arange(35.0)[:, None], []

    def read_range(start: int, stop: int) -> np.ndarray:
        asked.append((start, stop))
        return matrix[start:stop]

    indices = np.array([34, 3, 5, 31, 3])
    np.testing.assert_array_equal(in_blocks(read_range, 35, 1)(indices), matrix[indices])
    assert asked == [(0, 10), (30, 35)]


# Views


def test_a_view_comes_in_and_goes_out(
    bring: Callable[..., tuple], cache: Cache, frames: pl.DataFrame, vectors: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", vectors)
    np.save(tmp_path / "b.npy", -vectors)
    bring(tmp_path / "a.npy")
    report, flipped = bring(tmp_path / "b.npy", view="hflip")
    assert (report.stream, report.view, flipped.identity.view) == ("new", "hflip", "hflip")
    assert cache.streams() == [("new", "base"), ("new", "hflip")]
    np.testing.assert_array_equal(flipped.read(), -vectors)
    np.testing.assert_array_equal(cache.stream("new").read(), vectors)
    export_stream(flipped, frames, tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), -vectors)
    with flipped.writer_lock():
        flipped.forget([1])
    with pytest.raises(ValueError, match="type `mtl cache import new FILE --view hflip`"):
        export_stream(flipped, frames, tmp_path / "again.npy")
    with pytest.raises(ValueError, match="rm new --view hflip`, then `mtl cache import new FILE --view hflip`"):
        bring(tmp_path / "a.npy", view="hflip")


def test_a_view_that_fails_leaves_the_others(
    bring: Callable[..., tuple], cache: Cache, vectors: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", vectors)
    bring(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", vectors[:, :2])
    with pytest.raises(ValueError, match=r"b.npy: its vectors are 2 wide, those of new \(view base\) 3"):
        bring(tmp_path / "b.npy", view="hflip")
    with pytest.raises(ValueError, match=r"view '\.\./up': a name has letters"):
        bring(tmp_path / "a.npy", view="../up")
    assert cache.streams() == [("new", "base")]


def test_a_view_that_fails_half_way_is_removed_alone(
    bring: Callable[..., tuple], cache: Cache, frames: pl.DataFrame, vectors: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", vectors)
    bring(tmp_path / "a.npy")
    path = write_frames_hdf5(tmp_path / "b.h5", frames, vectors)
    with h5py.File(path, "a") as file:
        del file["00140/v2"]
        file["00140/v2"] = np.zeros(4)
    with pytest.raises(ValueError, match="/00140/v2: is 4 wide, the first vector 3"):
        bring(path, view="hflip")
    assert cache.streams() == [("new", "base")]


def test_a_view_of_an_extracted_stream_is_refused(
    stream: Stream, cache: Cache, frames: pl.DataFrame, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", stream.read())
    with pytest.raises(ValueError, match=r"stream expr \(view base\) was extracted; import under another name"):
        import_stream(cache, "expr", tmp_path / "a.npy", frames, view="hflip", shard_rows=40)
    assert cache.streams() == [("expr", "base")]


# What other programs write


def test_a_folder_without_the_suffix_says_which_there_are(
    bring: Callable[..., tuple], vectors: np.ndarray, tmp_path: Path
) -> None:
    """As video_features leaves it: features, frame rate and times of each video."""
    folder = write_folder(tmp_path / "out", vectors, "_rgb")
    for video in VIDEOS:
        np.save(folder / f"{video}_fps.npy", np.float64(25))
        np.save(folder / f"{video}_timestamps_ms.npy", np.arange(50) * 40.0)
    with pytest.raises(ValueError, match="its files have _fps, _rgb, _timestamps_ms; choose with --suffix"):
        bring(folder)
    with pytest.raises(ValueError, match=r"v0_fps.npy: not a matrix \[rows, width\] of numbers"):
        bring(folder, suffix="_fps")
    np.testing.assert_array_equal(bring(folder, suffix="_rgb")[1].read(), vectors)


def test_a_folder_of_other_videos_gives_an_example(bring: Callable[..., tuple], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "out/w7.npy", np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"there is w7.npy, and the table has video 'v0'"):
        bring(tmp_path / "out")
    with pytest.raises(ValueError, match=r"no files \*_rgb.npy"):
        bring(tmp_path / "out", suffix="_rgb")


def write_parts(folder: Path, frames: pl.DataFrame, vectors: np.ndarray, name: str = "img_emb") -> Path:
    """As clip-retrieval leaves it: parts of 60, 60 and 30 rows, in another order than the frames table's."""
    order = np.random.default_rng(0).permutation(150)
    for each in (name, "metadata"):
        (folder / each).mkdir(parents=True, exist_ok=True)
    for part, start in enumerate(range(0, 150, 60)):
        rows = order[start : start + 60]
        np.save(folder / f"{name}/{name}_{part:02d}.npy", vectors[rows].astype(np.float16))
        keys = frames[rows].select(image_path="/data/faces/" + pl.col("path"), caption=pl.lit("a face"))
        keys.write_parquet(folder / f"metadata/metadata_{part:02d}.parquet")
    return folder


def test_numbered_parts(bring: Callable[..., tuple], frames: pl.DataFrame, vectors: np.ndarray, tmp_path: Path) -> None:
    report, stream = bring(write_parts(tmp_path / "out", frames, vectors))
    np.testing.assert_array_equal(stream.read(), vectors)
    assert (report.num_extra, report.in_order) == (0, False)


def test_numbered_parts_of_two_names(
    bring: Callable[..., tuple], frames: pl.DataFrame, vectors: np.ndarray, tmp_path: Path
) -> None:
    folder = write_parts(tmp_path / "out", frames, vectors)
    write_parts(folder, frames, vectors * 2, "text_emb")
    with pytest.raises(ValueError, match="names there: img_emb, text_emb; choose with --dataset"):
        bring(folder)
    with pytest.raises(ValueError, match="arrays clip_NUMBER: not there; names there: img_emb, text_emb"):
        bring(folder, dataset="clip")
    with pytest.raises(ValueError, match="--suffix does not go with"):
        bring(folder, suffix="_rgb")
    np.testing.assert_array_equal(bring(folder, dataset="img_emb")[1].read(), vectors)
    with pytest.raises(ValueError, match=r"differs in: weights .*preprocessing dataset"):
        bring(folder, dataset="text_emb")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda out: (out / "img_emb/img_emb_01.npy").unlink(),
            r"part 1 is among metadata_\*.parquet and not among img_",
        ),
        (
            lambda out: (out / "metadata/metadata_02.parquet").unlink(),
            r"part 2 is among img_emb_\*.npy and not among me",
        ),
        (
            lambda out: np.save(out / "img_emb/img_emb_02.npy", np.zeros((9, 3))),
            "names 30 rows, .*img_emb_02.npy has 9",
        ),
        (
            lambda out: np.save(out / "img_emb/img_emb_01.npy", np.zeros((60, 4))),
            "img_emb_01.npy: is 4 wide, the first",
        ),
        (lambda out: np.save(out / "img_emb_2.npy", np.zeros((30, 3))), "is part 2 already; keep one of them"),
        (
            lambda out: shutil.copy(out / "metadata/metadata_00.parquet", out / "x_0.parquet"),
            "there: metadata, x; keep",
        ),
    ],
)
def test_numbered_parts_that_do_not_fit(
    spoil: Callable[[Path], object],
    says: str,
    bring: Callable[..., tuple],
    cache: Cache,
    frames: pl.DataFrame,
    vectors: np.ndarray,
    tmp_path: Path,
) -> None:
    spoil(write_parts(tmp_path / "out", frames, vectors))
    with pytest.raises(ValueError, match=says):
        bring(tmp_path / "out")
    assert cache.streams() == []


# Size


def exchanged(folder: Path, *words: str) -> dict[str, float]:
    """What `big_exchange` prints."""
    return json.loads(program(big_exchange.main, folder, *words))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("kind", [".h5", "", ".npy"])
def test_memory_does_not_grow_with_the_file(kind: str, tmp_path: Path) -> None:
    """210 MB of embeddings: the way in takes a few shards of 2048 rows as float64, 17 MB each, the way out fewer."""
    try:
        big_exchange.make(tmp_path, kind)
        assert exchanged(tmp_path, "import", kind)["grown_bytes"] < 160e6
        assert exchanged(tmp_path, "export", kind)["grown_bytes"] < 90e6
        if kind == ".h5":
            assert exchanged(tmp_path, "export", ".parquet")["grown_bytes"] < 160e6
    finally:
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
