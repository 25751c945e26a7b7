"""`mtl export`: a bundle predicts what torch does, whatever the heads; and what it refuses."""

import dataclasses
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache.identity import IMPORTED, SOUND, StreamIdentity
from cache.labels import schema_of
from cache.seals import sealed_json
from extract.config import FOLLOWED, ORIENTATION
from extract.view_names import stream_title
from helpers.cli import call, refused
from pipelines.config import Config, read_config
from pipelines.export import checking, write
from pipelines.export.checking import LARGEST, made_rows, torch_predictions
from pipelines.export.heads import head_graph
from pipelines.export.readme import readme_text
from pipelines.export.write import ExportRequest, write_bundle
from pipelines.json_files import read_json
from pipelines.postprocess.apply import Parameters
from pipelines.postprocess.outside import Outside
from pipelines.postprocess.smoothing import Smoothing
from pipelines.predict.face_model import follows_orientation
from pipelines.predict.predictor import Predictor, WeightedRun, load_predictor
from pipelines.training.run import load_run
from runtime.mtl_runtime import FORMAT, Bundle, is_bundle

CPU = torch.device("cpu")
# Every fusion, kind of block in temporal encoders, kind of inputs and method.
RUNS = {
    "gru": ("--fusion", "concat", "--temporal", "gru"),
    "tcn": (
        *("--fusion", "sum", "--temporal", "tcn", "--method", "separate", "--tasks", "valence,expr"),
        *("--set", "head.inputs=deviation", "--set", "task.expr.temporal=gru", "--set", "task.expr.window=40"),
        *("--set", "task.valence.stride=3"),
    ),
    "transformer": (
        *("--fusion", "gated", "--temporal", "transformer", "--method", "progressive", "--tasks", "expr,au"),
        *("--set", "head.inputs=both", "--set", "head.mean_frames=25", "--set", "train.frozen_steps=1"),
        *("--set", "train.window=11", "--set", "train.stride=4", "--set", "train.max_gap=40"),
        *("--set", "task.au.width=8", "--set", "task.au.temporal=tcn", "--set", "task.au.window=30"),
    ),
    "lstm": (
        *("--fusion", "attention", "--temporal", "lstm", "--tasks", "au", "--set", "head.inputs=both"),
        *("--set", 'head.streams=["au", "va"]'),
    ),
    "ssm": ("--fusion", "cross-attention", "--temporal", "ssm", "--set", "head.causal=true", "--tasks", "arousal"),
    "none": ("--temporal", "none", "--tasks", "va"),
}
WEIGHTS = {
    "gru": {"valence": 0.25, "arousal": 0.25, "expr": 0.5, "au": 0.5},
    "tcn": {"valence": 0.75, "expr": 0.2},
    "transformer": {"expr": 0.3, "au": 0.125},
    "lstm": {"au": 0.375},
    "ssm": {"arousal": 0.5},
    "none": {"arousal": 0.25},
}
JUDGE = StreamIdentity(
    backbone="judge",
    weights="w",
    preprocessing={"classes": ["surprise", "Contempt", "Anger", "Neutral"]},
    pooling="logits",
    dtype="float16",
    view="base",
    frames="",
    num_frames=0,
    width=6,
)
STRONG = Parameters(
    smoothing={"va": Smoothing("box", 5.0), "expr": Smoothing("median", 9), "au": Smoothing("gaussian", 4.0)},
    affine={"va": ((1.4, 0.1), (0.8, -0.2))},
    offsets={"expr": (0.0, 1.0, 0.0, -0.5, 0.0, 0.3, 0.0, -0.5)},
    thresholds={"au": (0.3, 0.7, *[0.45] * 10)},
    outside={"expr": Outside(stream="judge", threshold=0.3, identity=JUDGE)},
)


@pytest.fixture(scope="module")
def trained(shared: Path) -> Path:
    """A project with the runs `RUNS`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared)
        for name, words in RUNS.items():
            call("train-head", "--name", name, *words)
    return shared


@pytest.fixture(scope="module")
def config(trained: Path) -> Config:
    return read_config(trained / "mtl.toml")


@pytest.fixture(scope="module")
def ensemble(trained: Path) -> Predictor:
    """Every run, each for some of the tasks, and one more in another view."""
    runs = [
        WeightedRun(run=load_run(trained / "runs" / name, CPU), weights=weights) for name, weights in WEIGHTS.items()
    ]
    runs.append(WeightedRun(run=runs[-1].run.in_view("hflip"), weights={"valence": 0.125}))
    return Predictor(folder=trained / "ensembles" / "all", kind="ensemble", runs=tuple(runs), parameters=STRONG)


@pytest.fixture(scope="module")
def exported(trained: Path, config: Config, ensemble: Predictor) -> tuple[Path, dict[str, Any]]:
    """The bundle of `ensemble`, and what its export says."""
    out = trained / "bundles" / "all"
    return out, write_bundle(ensemble, config, ExportRequest(model=ensemble.folder, out=out, heads_only=True), "", None)


@pytest.fixture
def project(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


@pytest.fixture(scope="module")
def zipped(trained: Path) -> tuple[Path, dict[str, Any]]:
    """The bundle of a small run in one file, and what its export says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        words = ("export", "none", "--onnx", "deep/one.zip", "--heads-only", "--json")
        return trained / "deep/one.zip", json.loads(call(*words))


@pytest.fixture
def unpacked(zipped: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """The same as a folder, to be damaged."""
    with zipfile.ZipFile(zipped[0]) as archive:
        archive.extractall(tmp_path / "bundle")
    return tmp_path / "bundle"


def predicted(bundle: Bundle, rows: checking.MadeRows, order: np.ndarray | None = None, **options: Any) -> Any:
    order = np.arange(len(rows.frames)) if order is None else order
    return bundle.predict(
        rows.frames["video"].to_numpy()[order],
        rows.frames["frame"].to_numpy()[order],
        {stream_title(*key): values[order] for key, values in rows.values.items()},
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize("post", [True, False])
def test_a_bundle_predicts_what_torch_does(
    exported: tuple[Path, dict[str, Any]], ensemble: Predictor, post: bool
) -> None:
    """Videos of 1, 2, about one and several windows, with gaps, rows without a face and a video without any."""
    predictor = ensemble if post else dataclasses.replace(ensemble, parameters=None)
    rows = made_rows(predictor, seed=7)
    wanted = torch_predictions(predictor, rows)
    order = np.random.default_rng(0).permutation(len(rows.frames))
    found = predicted(Bundle(exported[0]), rows, order, post=post)
    assert list(found.raw) == ["va", "expr", "au"]
    for name in found.raw:
        assert np.abs(found.raw[name] - wanted.raw.parts[name][order]).max() <= LARGEST
        assert np.abs(found.processed[name] - wanted.probabilities.parts[name][order]).max() <= LARGEST
    back = np.argsort(order)
    assert not checking.num_unexplained({name: each[back] for name, each in found.decided.items()}, wanted)
    assert np.array_equal(found.valid, wanted.valid[order])
    assert np.array_equal(found.known, wanted.known[order])
    assert not found.known.all()
    assert 0 < found.valid.sum() < found.known.sum()


@pytest.mark.slow
def test_what_stands_where_there_is_no_face_changes_nothing(
    exported: tuple[Path, dict[str, Any]], ensemble: Predictor
) -> None:
    bundle, rows = Bundle(exported[0]), made_rows(ensemble)
    valid = np.logical_and.reduce(list(rows.valid.values()))
    results = []
    for junk in (np.nan, 1e30):
        values = {key: np.where(valid[:, None], each.astype(np.float32), junk) for key, each in rows.values.items()}
        results.append(predicted(bundle, dataclasses.replace(rows, values=values), valid=valid))
    for name in results[0].processed:
        assert np.array_equal(results[0].processed[name], results[1].processed[name])


@pytest.mark.slow
def test_what_an_export_says(exported: tuple[Path, dict[str, Any]]) -> None:
    out, done = exported
    assert 0 < done["differences"]["predictions"] <= 1e-5
    assert done["differences"]["decisions"] == 0
    assert (done["tasks"], done["face_px"], done["num_models"]) == (["va", "expr", "au"], None, 7)
    record = read_json(out / "bundle.json")
    assert record["check"]["predictions"] == done["differences"]["predictions"]
    assert set(record["files"]) == {path.name for path in out.iterdir()} - {"bundle.json"}
    assert is_bundle(out)
    bundle = Bundle(out)
    assert schema_of(bundle.schema, "bundle").digest == schema_of(record["schema"], "record").digest
    with pytest.raises(ValueError, match="takes embeddings of the stream va"):
        bundle.embed(np.zeros((1, 8, 8, 3), np.uint8))


def test_a_bundle_that_differs_from_torch_is_not_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One output's weights are changed on the way into the file."""

    def changed(spec: Any, module: Any, what: str) -> bytes:
        with torch.no_grad():
            next(module.outputs.parameters()).mul_(1.01)
            data = head_graph(spec, module, what)
            next(module.outputs.parameters()).div_(1.01)
        return data

    monkeypatch.setattr(write, "head_graph", changed)
    line = refused("export", "none", "--onnx", "wrong", "--heads-only")
    assert "differs from torch by more than 0.0001" in line
    assert not Path("wrong").exists()
    assert not list(Path().glob(".tmp-*"))


def test_the_command_and_a_single_file(project: Path, zipped: tuple[Path, dict[str, Any]]) -> None:
    path, done = zipped
    assert (done["run"], done["out"], done["num_bytes"]) == ("runs/none", "deep/one.zip", path.stat().st_size)
    predictor = load_predictor(Path("runs/none"), CPU)
    rows = made_rows(predictor)
    wanted = torch_predictions(predictor, rows)
    found = predicted(Bundle(path), rows)
    assert np.abs(found.processed["va"] - wanted.probabilities.parts["va"]).max() <= LARGEST
    assert "deep/one.zip is there already; --force" in refused("export", "none", "--onnx", "deep/one.zip")
    assert "mtl.toml is no folder; name another place" in refused("export", "none", "--onnx", "mtl.toml/one.zip")
    Path("notes.zip").write_text("mine")
    Path("mine").mkdir()
    for other in ("notes.zip", "mine"):
        assert "not a bundle of this kind" in refused("export", "none", "--onnx", other, "--force")


def test_force_replaces_a_bundle(project: Path, unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = (unpacked / "head-1.onnx").read_bytes()
    monkeypatch.setattr(write, "head_graph", lambda *about: head)
    (unpacked / "of before").touch()
    text = call("export", "none", "--onnx", unpacked, "--heads-only", "--force")
    assert "largest difference from torch: predictions" in text
    assert not (unpacked / "of before").exists()
    assert Bundle(unpacked).streams == {"va": 24, "expr": 20, "au": 16}


def test_an_imported_stream_has_no_backbone(
    project: Path, config: Config, unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heads are exported by themselves, without being asked for so."""
    head = (unpacked / "head-1.onnx").read_bytes()
    monkeypatch.setattr(write, "head_graph", lambda *about: head)
    predictor = load_predictor(Path("runs/none"), CPU)
    run = predictor.runs[0].run
    identities = {name: dataclasses.replace(each, pooling=IMPORTED) for name, each in run.identities.items()}
    one = dataclasses.replace(predictor.runs[0], run=dataclasses.replace(run, identities=identities))
    out = tmp_path / "imported"
    request = ExportRequest(model=predictor.folder, out=out)
    done = write_bundle(dataclasses.replace(predictor, runs=(one,)), config, request, "", None)
    assert done["face_px"] is None
    assert Bundle(out).face_px is None
    assert "takes embeddings, va [N, 24]" in (out / "README.md").read_text().replace("\n", " ")
    record = json.loads((out / "bundle.json").read_text())
    for kind in ("run", "ensemble", "refit"):
        assert f"the {kind} `{record['name']}` as ONNX files" in readme_text({**record, "kind": kind})


def test_streams_of_faces_alone_say_whether_these_were_turned(project: Path) -> None:
    predictor = load_predictor(Path("runs/none"), CPU)
    run = predictor.runs[0].run
    va, expr, au = run.identities.values()

    def turned(*identities: StreamIdentity) -> bool:
        named = {str(number): identity for number, identity in enumerate(identities)}
        one = dataclasses.replace(predictor.runs[0], run=dataclasses.replace(run, identities=named))
        return follows_orientation(dataclasses.replace(predictor, runs=(one,)))

    upright = [dataclasses.replace(each, preprocessing={ORIENTATION: FOLLOWED}) for each in (va, expr)]
    others = [dataclasses.replace(au, pooling=kind, preprocessing={}) for kind in (IMPORTED, SOUND)]
    assert turned(*upright, *others)
    assert not turned(va, *others)
    with pytest.raises(ValueError, match="some of its streams took faces upright, others as stored"):
        turned(upright[0], va)


def test_a_package_that_is_not_installed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    line = refused("export", "none", "--onnx", "never", "--heads-only")
    assert line == (
        'mtl: error: writing ONNX needs onnxscript, which is not installed; type pip install "mtl-affect[export]"\n'
    )
    assert not Path("never").exists()


def test_a_damaged_or_newer_bundle_is_refused(unpacked: Path) -> None:
    head = unpacked / "head-1.onnx"
    data = head.read_bytes()
    head.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"head-1\.onnx is damaged or was changed; export it again"):
        Bundle(unpacked)
    head.unlink()
    with pytest.raises(ValueError, match=r"head-1\.onnx is missing"):
        Bundle(unpacked)
    record = read_json(unpacked / "bundle.json")
    newer = {key: value for key, value in record.items() if key != "seal"} | {"format": FORMAT + 1}
    (unpacked / "bundle.json").write_bytes(sealed_json(newer))
    with pytest.raises(ValueError, match=f"a bundle of format {FORMAT + 1}, and this runner reads {FORMAT}"):
        Bundle(unpacked)
    text = (unpacked / "bundle.json").read_text()
    (unpacked / "bundle.json").write_text(text.replace('"window": 16', '"window": 17'))
    with pytest.raises(ValueError, match=r"bundle\.json is damaged or was changed"):
        Bundle(unpacked)
    assert is_bundle(unpacked)
    (unpacked / "bundle.json").unlink()
    assert not is_bundle(unpacked)
    with pytest.raises(ValueError, match="not a bundle"):
        Bundle(unpacked)
    (unpacked / "short.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"neither a folder nor a whole \.zip"):
        Bundle(unpacked / "short.zip")


def test_a_backbone_that_is_another_or_gone_is_refused(project: Path) -> None:
    """The streams of the made data were made by no backbone of mtl.toml."""
    line = refused("export", "none", "--onnx", "faces", "--face-px", "64", "--set", 'backbones.va.weights="gone.pt"')
    assert "gone.pt" in line
    words = ("--set", 'backbones.va.weights="random"', "--set", "backbones.va.size_px=32")
    line = refused("export", "none", "--onnx", "faces", "--face-px", "64", *words)
    assert "[backbones.va] is not the backbone of its stream va" in line
    assert "or say how large the faces are: --face-px" in refused("export", "none", "--onnx", "faces")
    assert not Path("faces").exists()
