"""The runner's NumPy is mtl's own: windows, overlaps, nearest rows, means, smoothing, decisions; and its files."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cache.labels import ABAW
from pipelines.metrics.predictions import Probabilities
from pipelines.nearest import NO_ROW
from pipelines.nearest import nearest_rows as nearest_of_mtl
from pipelines.postprocess.affine import match
from pipelines.postprocess.apply import Parameters, smooth_task
from pipelines.postprocess.outside import class_columns, class_probabilities, take_surer
from pipelines.postprocess.smoothing import KERNELS, Smoothing
from pipelines.training.inputs import StreamInput, running_means, video_means
from pipelines.training.windows import PADDING
from pipelines.training.windows import make_windows as windows_of_mtl
from pipelines.training.windows import overlaps as overlaps_of_mtl
from runtime import mtl_runtime as runner

SEEDS = range(6)


def made_rows(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
    """Codes of videos and frame numbers of sorted rows, with gaps, and which are valid; one video has no valid row."""
    rng = np.random.default_rng(seed)
    lengths = [1, 2, 7, 8, 9, 40, 3]
    videos = np.repeat(np.arange(len(lengths)), lengths)
    frames = np.concatenate([np.cumsum(rng.choice([1, 2, 60], length, p=[0.7, 0.2, 0.1])) for length in lengths])
    return videos, frames, (rng.random(len(videos)) < 0.7) & (videos != 6), rng


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("window", "stride", "max_gap"), [(8, 4, 50), (8, 8, 1), (8, 3, 1000), (1, 1, 5), (50, 90, 50)]
)
def test_windows_and_where_rows_are_in_them(seed: int, window: int, stride: int, max_gap: int) -> None:
    videos, frames, _, _ = made_rows(seed)
    ours = runner.make_windows(videos, frames, window, stride, max_gap)
    theirs = windows_of_mtl(videos, frames, np.ones(len(videos), bool), window=window, stride=stride, max_gap=max_gap)
    assert PADDING == -1
    assert np.array_equal(ours, theirs)
    covered, places = overlaps_of_mtl(theirs)
    assert np.array_equal(covered, np.arange(len(videos)))
    assert np.array_equal(runner.overlaps(ours, len(videos)), places)


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_without_a_face_take_the_nearest(seed: int) -> None:
    videos, frames, valid, _ = made_rows(seed)
    theirs = nearest_of_mtl(videos, frames, np.flatnonzero(valid), np.arange(len(videos)))
    assert np.array_equal(runner.nearest_rows(videos, frames, valid), np.where(theirs == NO_ROW, len(videos), theirs))
    nothing = np.zeros(len(videos), bool)
    assert (runner.nearest_rows(videos, frames, nothing) == len(videos)).all()


@pytest.mark.parametrize("num_frames", [0, 1, 7, 10_000])
@pytest.mark.parametrize("choice", ["deviation", "both"])
def test_inputs_are_those_of_training(num_frames: int, choice: str) -> None:
    videos, frames, valid, rng = made_rows(0)
    stream = torch.from_numpy(rng.normal(3, 2, (len(videos), 5)).astype(np.float32))
    stream[~torch.from_numpy(valid)] = torch.nan
    means = (
        running_means(stream, valid, videos, frames, num_frames) if num_frames else video_means(stream, valid, videos)
    )
    theirs = StreamInput(stream=stream, choice=choice, means=means).rows(torch.arange(len(videos))).numpy()
    rows = runner._Rows.of(videos.tolist(), frames)
    ours = runner._inputs(stream.numpy(), runner._means(rows, stream.numpy(), valid, num_frames), choice)
    assert np.allclose(ours[valid], theirs[valid], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("width", [0.0, 2.0, 9.5])
@pytest.mark.parametrize("task", ABAW.names)
def test_smoothing(kernel: str, width: float, task: str) -> None:
    videos, frames, _, rng = made_rows(1)
    order = rng.permutation(len(videos))  # rows may come in any order
    videos, frames = videos[order], frames[order]
    scored = ABAW.tasks[task]
    values = rng.random((len(videos), scored.num_outputs))
    values /= values.sum(axis=1, keepdims=True)
    theirs = smooth_task(scored, values, videos, frames, Smoothing(kernel, width))
    words = {"kind": scored.group.kind, "smoothing": {"kernel": kernel, "width": width}}
    assert np.array_equal(runner.smooth_task(words, values, videos, frames), theirs)


@pytest.mark.parametrize("affine", [((1.3, -0.2), (0.5, 0.9)), ((1.0, 0.0), (1.0, 0.0))])
def test_affine_match(affine: tuple[tuple[float, float], ...]) -> None:
    values = np.random.default_rng(0).normal(size=(200, 2))
    theirs = match(values, np.array(affine), ABAW.group("va"))
    task = {"affine": affine, "range": [-1, 1]}
    assert np.array_equal(runner.match_task(task, values), theirs)
    assert runner.match_task({"affine": None, "range": None}, values) is values


def test_outside_classifiers() -> None:
    rng, names, group = np.random.default_rng(0), ["fear", "Contempt", "Anger"], ABAW.group("expr")
    scores, valid = rng.normal(scale=3, size=(200, 5)).astype(np.float32), rng.random(200) < 0.8
    scores[~valid] = np.nan
    offsets = rng.normal(size=8)
    words = {"stream": "s", "columns": class_columns(names, group), "num_classes": 3, "threshold": 0.6}
    task = {"outside": words, "cuts": offsets.tolist()}
    said = runner.outside_of(task, {"s": scores}, np.ones(200, bool))
    assert np.array_equal(said, class_probabilities(scores, valid, names, group))
    own = rng.dirichlet(np.ones(8), 200)
    assert np.array_equal(runner.take_surer(task, own, said), take_surer(own, said, 0.6, offsets))


def test_decisions() -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.random((200, ABAW.group(name).num_outputs)) for name in ABAW.names}
    values["au"][0] = 0.5
    for offsets, thresholds in (((0.0,) * 8, (0.5,) * 12), (tuple(rng.normal(size=8)), tuple(rng.random(12)))):
        cuts = {"va": [], "expr": list(offsets), "au": list(thresholds)}
        tasks = [{"name": group.name, "kind": group.kind, "cuts": cuts[group.name]} for group in ABAW]
        theirs = Parameters(offsets={"expr": offsets}, thresholds={"au": thresholds}).decide(
            Probabilities(parts=values)
        )
        for name, decided in runner.decide(tasks, values).items():
            assert np.array_equal(decided, theirs.parts[name])


def test_rows_are_refused_that_are_none() -> None:
    for videos, frames, words in (
        (["a", "a"], [1], "found 2"),
        (["a"], [0.5], "whole numbers"),
        (["a", "b", "a"], [3, 3, 3], "frame 3 of the video 'a' stands there twice"),
    ):
        with pytest.raises(ValueError, match=words):
            runner._Rows.of(videos, np.array(frames))


def test_faces_are_found_in_arrays_and_folders(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.zeros((3, 8, 8, 3), np.uint8))
    (tmp_path / "a").mkdir()
    for name in ("00010.jpg", "2.png", "notes.txt", "cover.jpg"):
        (tmp_path / "a" / name).touch()
    found = runner.find_faces(tmp_path)
    assert [(video, numbers.tolist()) for video, numbers, _ in found] == [("b", [1, 2, 3]), ("a", [2, 10])]
    assert runner.find_faces(tmp_path / "b.npy")[0][0] == "b"
    assert runner.find_faces(tmp_path / "gone") == []
    np.save(tmp_path / "flat.npy", np.zeros(4))
    assert runner.find_faces(tmp_path / "flat.npy") == []


def test_cells_are_written_as_mtl_predict_writes_them() -> None:
    file = io.StringIO()
    columns = {"video": ["a,b", "c"], "frame": [1, 2], "valid": [True, False], "p_A": np.float32([0.1, 1 / 3])}
    runner._write(file, iter([{name: np.array(values) for name, values in columns.items()}]))
    assert file.getvalue() == 'video,frame,valid,p_A\n"a,b",1,true,0.1\nc,2,false,0.33333334\n'


@pytest.mark.parametrize("data", [b"", b"hello", b"\x93NUMPY\x01"])
def test_an_array_that_is_not_whole_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "faces.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"faces\.npy: not a whole \.npy file"):
        runner.find_faces(tmp_path / "faces.npy")


def test_no_faces_and_two_of_one_frame(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8, 3), np.uint8))
    assert runner.find_faces(tmp_path / "none.npy") == []
    for name in ("1.png", "00001.png"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="frame 1 stands there twice"):
        runner.find_faces(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("flag_bits", 1), ("compress_type", 99), ("CRC", 5)])
def test_a_zip_file_whose_record_cannot_be_read_is_a_damaged_bundle(tmp_path: Path, field: str, value: int) -> None:
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(runner.RECORD, b"{}")
        setattr(archive.getinfo(runner.RECORD), field, value)
    assert runner.is_bundle(path)
    with pytest.raises(ValueError, match=r"bundle\.json is damaged"):
        runner.Bundle(path)


def test_the_runner_needs_numpy_and_onnxruntime_alone() -> None:
    """Imported with everything else out of reach, and without onnxruntime until a bundle is opened."""
    code = (
        "import sys, importlib.util\n"
        "allowed = {'numpy', 'mtl_runtime'}\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.partition('.')[0]\n"
        "        if top not in sys.stdlib_module_names and top not in allowed: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import mtl_runtime\n"
    )
    folder = str(Path(runner.__file__).parent)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_onnxruntime_is_told_to_gather_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    with pytest.raises(ValueError, match=r"a\.onnx: onnxruntime .* cannot load it"):
        runner._session(b"", "a.onnx", 1)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_columns_are_named_as_in_tables_of_predictions() -> None:
    tasks = (
        {"name": "expr", "kind": "classes", "columns": ["expression"], "outputs": ["p_A", "p_B"], "cuts": []},
        {"name": "va", "kind": "continuous", "columns": ["valence"], "outputs": ["valence"], "cuts": []},
    )
    raw = {"expr": np.array([[0.2, 0.8]]), "va": np.array([[0.5]])}
    smoothed = {"expr": np.array([[0.7, 0.3]]), "va": np.array([[0.25]])}
    there = np.ones(1, bool)
    found = runner.Predictions(tasks, raw, smoothed, runner.decide(tasks, smoothed), there, there)
    table = pl.DataFrame(found.columns())
    assert table.rows() == [(0, pytest.approx(0.7), pytest.approx(0.3), 0.25)]
    assert table.dtypes == [pl.Int8, pl.Float32, pl.Float32, pl.Float32]
    assert pl.DataFrame(found.columns(raw=True))["expression"][0] == 1
