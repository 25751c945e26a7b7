"""Training a backbone on faces whose labels are plain to see."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from cache.frames import conform
from cache.labels import ABAW
from cache.locks import alone
from cache.names import ACTION_UNITS
from cache.store import Cache
from extract.backbones import passes
from extract.backbones.build import load_backbone
from extract.backbones.origin import file_digest, origin_of
from extract.backbones.transforms import normalise
from extract.backbones.weights import read_weights, weights_digest
from extract.config import Preprocessing
from extract.engine import extract
from extract.jobs import Settings
from helpers.small_faces import MODEL, SETTINGS, SIDE, Given, digest, load_trained, run
from pipelines.backbones import precision
from pipelines.backbones.data import Faces
from pipelines.backbones.finetuning import finetune as job
from pipelines.backbones.finetuning import loop
from pipelines.backbones.finetuning.context import TrainContext
from pipelines.backbones.finetuning.facesets import gather
from pipelines.backbones.finetuning.finetune import finetune
from pipelines.backbones.finetuning.finetune_state import FinetuneState
from pipelines.backbones.finetuning.request import FinetuneRequest, make_request, parse_tasks
from pipelines.config import Config, read_config
from pipelines.fitting.epochs import Epoch
from pipelines.labels import as_tensors, labelled_any, labels_of
from pipelines.metrics.challenge import score
from pipelines.splits import resolve_split

PREPROCESSING = Preprocessing(size_px=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def hide(frames: pl.DataFrame, column: str, condition: pl.Expr) -> pl.DataFrame:
    return frames.with_columns(pl.when(condition).then(None).otherwise(pl.col(column)).alias(column))


def test_it_learns_all_tasks_at_once(project: Config, faces: Given) -> None:
    result = run(project, faces[1], "va,expr,au", epochs=12)
    assert result.metrics["expr.f1_macro"] > 0.5  # 0.125 by chance
    assert result.metrics["au.f1.AU12"] > 0.8
    assert result.metrics["va.ccc_valence"] > 0.4
    section = read_config(project.folder / "mtl.toml").backbones["joint"]
    assert (section.model, section.weights, section.size_px) == (MODEL, "backbones/joint.safetensors", SIDE)
    assert section.tasks == ("va", "expr", "au")
    json.dumps(result.to_json(), allow_nan=False)


def test_the_file_scores_what_was_measured(project: Config, faces: Given) -> None:
    frames = faces[1]
    result = run(project, frames, "va,expr,au", epochs=3)
    model, preprocessing = load_trained(read_config(project.folder / "mtl.toml"), "joint")
    rows = np.flatnonzero(resolve_split(frames, project.split).select & labelled_any(labels_of(frames)))
    used = frames[rows]
    with Faces(faces[0], used["path"].to_list(), preprocessing) as reader:
        context = TrainContext(
            model=model,
            loss=SimpleNamespace(tasks=model.tasks),  # type: ignore[arg-type]
            faces=reader,
            targets=as_tensors(labels_of(used)),
            labels=labels_of(used),
            pool=None,  # type: ignore[arg-type]
            select=np.arange(len(rows)),
            tasks=tuple(model.tasks),
            schema=ABAW,
            config=dataclasses.replace(SETTINGS, batch_size=7),
            device=torch.device("cpu"),
            precision="float32",
            name="again",
        )
        again = loop.predict_faces(context, context.select, lambda count: None)
    rescored, measured = score(again.decide(), labels_of(used), model.tasks), dict(result.metrics)
    for listed in ("undefined", "unscored"):
        assert rescored.pop(listed) == measured.pop(listed)
    assert rescored == pytest.approx(measured, abs=1e-5)


def test_best_are_the_weights_that_earned_the_score(
    project: Config, faces: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    wished = iter([0.1, 0.9, 0.3, 0.2])
    evaluated = loop.evaluate

    def evaluate(context: TrainContext, predictions: Any) -> dict[str, Any]:
        seen.append(weights_digest(context.model))
        return evaluated(context, predictions) | {"expr.f1_macro": next(wished)}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    result = run(project, faces[1], epochs=4)
    assert result.epoch == 2
    assert len(set(seen)) == 4
    assert digest(project) == seen[1]
    saved = read_weights(project.folder / result.weights)[1]
    assert json.loads(saved["epoch"]) == 2
    assert json.loads(saved["select"]) == result.metrics


def test_same_seed_same_weights(project: Config, faces: Given) -> None:
    digests = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(digests))  # the caller's own random numbers must not matter
        run(project, faces[1], "expr,au", epochs=1, seed=seed)
        digests.append(digest(project, "joint"))
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


@pytest.mark.parametrize("changes", [{}, {"rand_augment": "rand-m9-n2", "erase": 0.5, "mixup": 0.2}])
def test_faces_decoded_ahead_give_the_same(
    project: Config, faces: Given, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    loads: list[int] = []
    load = Faces.load
    monkeypatch.setattr(Faces, "load", lambda self, *rest: (loads.append(1), load(self, *rest)))
    run(project, faces[1], epochs=1)
    plain = digest(project)
    run(project, faces[1], epochs=1, **changes)
    resident = digest(project)
    assert (resident != plain) == bool(changes)
    monkeypatch.setattr(job, "memory_for_faces", lambda: 0)
    run(project, faces[1], epochs=1, **changes)
    assert digest(project) == resident
    assert loads == [1, 1]


def test_no_other_row_is_looked_at(project: Config, faces: Given, tmp_path: Path) -> None:
    frames = faces[1]
    run(project, frames, epochs=1)
    before = digest(project)
    unused = pl.col("expression").is_null() | ~pl.col("split").is_in(["train", "val"])
    elsewhere = frames.with_columns(
        pl.when(unused).then(pl.lit("no/such.jpg")).otherwise(pl.col("path")).alias("path"),
        # An AU is no label for a backbone of the expression, and test rows choose nothing.
        pl.lit(1, pl.Int8).alias("AU1"),
        pl.when(pl.col("split") == "test").then(0).otherwise(pl.col("expression")).cast(pl.Int8).alias("expression"),
    )
    result = run(project, elsewhere, epochs=1)
    assert digest(project) == before
    assert result.unreadable == ()


def test_a_task_learns_nothing_from_rows_of_another(project: Config, faces: Given) -> None:
    """An AU that is labelled nowhere gets no gradient: its bias stays where it was drawn."""
    result = run(project, faces[1], "expr,au", epochs=1)
    after = read_weights(project.folder / result.output)[0]
    request = make_request(project, project.folder / "mtl.toml", "expr,au", model=MODEL)
    start = job.build(project, request)[0].trainable.output.bias.detach().split([8, 12])[1]
    labelled = [name == "AU12" for name in ACTION_UNITS]
    assert ((after["au.bias"] != start).tolist()) == labelled


def test_an_unreadable_face_is_a_row_without_labels(project: Config, faces: Given) -> None:
    frames = faces[1]
    bad = frames.filter(pl.col("expression").is_not_null(), pl.col("split") == "train")["path"][3]
    data = (faces[0] / bad).read_bytes()
    try:
        (faces[0] / bad).write_bytes(data[:200])
        result = run(project, frames, epochs=1)
    finally:
        (faces[0] / bad).write_bytes(data)
    assert [path for path, _ in result.unreadable] == [bad]
    assert "damaged" in result.unreadable[0][1]
    without = digest(project)
    assert run(project, frames, epochs=1).unreadable == ()
    assert digest(project) != without


def test_weights_of_classes_come_from_training_rows(
    project: Config, faces: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let every AU12 be a positive on the rows that choose: the loss must not know."""
    frames = faces[1]
    chosen = frames.with_columns(
        pl.when((pl.col("split") == "val") & pl.col("AU12").is_not_null())
        .then(1)
        .otherwise(pl.col("AU12"))
        .alias("AU12")
    )
    seen: list[TrainContext] = []

    def train_epoch(context: TrainContext, state: FinetuneState, *rest: Any) -> None:
        seen.append(context)
        state.sums[-1] = 1

    monkeypatch.setattr(loop, "train_epoch", train_epoch)
    for table in (frames, chosen):
        run(project, conform(table, "test"), "expr,au", epochs=1)
    labels, smile = labels_of(frames.filter(pl.col("split") == "train")), ACTION_UNITS.index("AU12")
    au, known = labels.values["au"], labels.masks["au"]
    positives = (au * known)[:, smile].sum()
    wanted = (known[:, smile].sum() - positives) / positives
    for context in seen:
        assert context.loss.constants.weight_au[0, smile].item() == pytest.approx(wanted)
    assert torch.equal(seen[0].loss.constants.weight_expr, seen[1].loss.constants.weight_expr)


@pytest.mark.parametrize(
    ("split", "says"), [("train", "fewer than two faces to train on"), ("val", "choose the epoch")]
)
def test_no_readable_face(project: Config, faces: Given, split: str, says: str) -> None:
    lost = faces[1].with_columns(
        pl.when(pl.col("split") == split).then(pl.lit("no/such.jpg")).otherwise(pl.col("path")).alias("path")
    )
    with pytest.raises(ValueError, match=rf"{says}.*no/such\.jpg: no such file"):
        run(project, lost)
    assert sorted(path.name for path in project.folder.iterdir()) == ["mtl.toml"]


@pytest.mark.parametrize(("split", "where"), [("train", "no labelled frame in train"), ("val", "in val, whose frames")])
def test_no_label_of_a_task(project: Config, faces: Given, split: str, where: str) -> None:
    frames = hide(faces[1], "AU12", pl.col("split") == split)
    with pytest.raises(ValueError, match=f"task au: .*{where}"):
        run(project, frames, "expr,au")


def test_patience_and_divergence(project: Config, faces: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[Epoch] = []
    run(project, faces[1], lr=1e-30, epochs=9, patience=2, watch=epochs.append)
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    with monkeypatch.context() as patched:
        patched.setattr(loop, "lr_at", lambda config, progress: float("nan"))
        with pytest.raises(ValueError, match=r"epoch 1; lower finetune\.lr"):
            run(project, faces[1], epochs=2)
    epochs.clear()
    finite = iter([True, True, False])
    monkeypatch.setattr(loop, "is_finite", lambda predictions: next(finite))
    assert run(project, faces[1], epochs=9, watch=epochs.append).epoch <= 2
    assert len(epochs) == 2


def test_init_from_a_file(project: Config, faces: Given) -> None:
    first = run(project, faces[1], epochs=2)
    weights = project.folder / first.weights
    start = weights_digest(load_trained(read_config(project.folder / "mtl.toml"), "expr")[0].trainable.backbone)
    run(project, faces[1], "au", init=str(first.weights), lr=1e-30, epochs=1)
    again = load_trained(read_config(project.folder / "mtl.toml"), "au")[0].trainable.backbone
    assert weights_digest(again) == start
    request = FinetuneRequest(
        tasks=("expr",),
        model="test_convnext",
        section="other",
        init=str(weights),
        config_path=project.folder / "mtl.toml",
    )
    with pytest.raises(ValueError, match="match test_convnext"):
        finetune(project, faces[1], request)


@pytest.mark.parametrize("crop_pct", [None, 0.875, 0.6])  # None: nothing set
def test_the_engine_extracts_what_was_trained(
    project: Config, faces: Given, tmp_path: Path, crop_pct: float | None
) -> None:
    folder, frames = faces
    run(project, frames, epochs=1, **({} if crop_pct is None else {"crop_pct": crop_pct}))
    config = read_config(project.folder / "mtl.toml")
    backbone = load_backbone("expr", config.backbones["expr"], config.folder)
    wanted_crop = 1.0 if crop_pct is None else crop_pct
    assert config.backbones["expr"].crop_pct == backbone.preprocessing.crop_pct == wanted_crop
    assert json.loads(read_weights(project.folder / "backbones/expr.safetensors")[1]["preprocessing"])["crop_pct"] == (
        wanted_crop
    )
    cache = Cache.open(tmp_path / "cache.zarr", create=True)
    settings = Settings(device=torch.device("cpu"), batch_size=64, num_threads=1, shard_rows=128)
    report = extract(frames, folder, cache, [backbone], settings)
    assert report.failed == []
    assert cache.stream("expr").identity.preprocessing["crop_pct"] == wanted_crop
    embeddings = torch.from_numpy(cache.stream("expr").read().astype(np.float32))
    model, preprocessing = load_trained(config, "expr")
    with Faces(folder, frames["path"].to_list(), preprocessing) as reader, torch.no_grad():
        batch = next(iter(reader.batches([np.arange(5, 12)])))
        wanted = model.trainable.backbone(normalise(batch.faces, preprocessing, torch.float32))
    torch.testing.assert_close(embeddings[5:12], wanted, atol=2e-3, rtol=2e-3)


def test_a_section_without_crop_pct_has_that_of_its_weights(project: Config, faces: Given) -> None:
    """It travels in the file."""
    run(project, faces[1], epochs=1, crop_pct=0.875)
    path = project.folder / "mtl.toml"
    before = load_backbone("expr", read_config(path).backbones["expr"], project.folder)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("crop_pct")))
    assert read_config(path).backbones["expr"].crop_pct is None
    after = load_backbone("expr", read_config(path).backbones["expr"], project.folder)
    assert after.identity("frames", 1) == before.identity("frames", 1)


def test_the_section_tells_where_the_weights_are_from(project: Config, faces: Given, tmp_path: Path) -> None:
    result = run(project, faces[1], epochs=2, licence="research only")
    section = read_config(project.folder / "mtl.toml").backbones["expr"]
    assert section.licence == "research only"
    assert section.score == f"expr {result.metrics['expr.f1_macro']:.4f} on the selection frames, epoch {result.epoch}"
    assert section.file_digest == file_digest(project.folder / result.weights)
    metadata = read_weights(project.folder / result.weights)[1]
    assert metadata["licence"] == "research only"
    assert json.loads(metadata["data"])[0]["set"] == "[data]"
    plain = dataclasses.replace(section, licence="", score="", file_digest="")
    assert origin_of(section, project.folder) == origin_of(plain, project.folder)  # notes are not the stream's


def test_weights_that_were_changed_afterwards_are_refused(project: Config, faces: Given) -> None:
    weights = project.folder / run(project, faces[1], epochs=1).weights
    trained = weights.read_bytes()
    config = read_config(project.folder / "mtl.toml")
    run(project, faces[1], epochs=1, seed=1)
    later, weights_now = read_config(project.folder / "mtl.toml"), weights.read_bytes()
    weights.write_bytes(trained)
    with pytest.raises(ValueError, match=r"\[backbones\.expr\]: .*expr\.safetensors is not the file .*file_digest"):
        load_backbone("expr", later.backbones["expr"], later.folder)
    load_backbone("expr", config.backbones["expr"], config.folder)
    weights.write_bytes(weights_now)
    load_backbone("expr", later.backbones["expr"], later.folder)


def test_a_name_is_trained_by_one_process(project: Config, faces: Given) -> None:
    with alone(project.folder / ".lock-expr", "another"):
        with pytest.raises(ValueError, match=r"^the backbone expr is being written by process \d+; wait until it ends"):
            run(project, faces[1], epochs=1)
        run(project, faces[1], "au", epochs=1)
    assert sorted(path.name for path in project.folder.glob("backbones/*.safetensors")) == [
        "au.output.safetensors",
        "au.safetensors",
    ]


def test_outputs_of_other_weights_are_refused(project: Config, faces: Given) -> None:
    run(project, faces[1], epochs=1)
    result = run(project, faces[1], "au", epochs=1)
    (project.folder / result.output).replace(project.folder / "backbones" / "expr.output.safetensors")
    with pytest.raises(ValueError, match=r"belong to other weights than \[backbones\.expr\]"):
        digest(project)


@pytest.mark.parametrize("model", ["test_efficientnet", "test_convnext3"])
def test_other_architectures(project: Config, faces: Given, model: str) -> None:
    """Batch normalisation has its running means, and an epoch may end in a small batch."""
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=16, max_faces_per_epoch=33)
    config = dataclasses.replace(project, finetune=settings)
    result = finetune(config, faces[1], make_request(config, config.folder / "mtl.toml", "expr", model=model))
    assert len(result.history) == 1
    digest(project)


@pytest.mark.parametrize(
    ("given", "tasks"), [("au", ("au",)), ("expr,va", ("va", "expr")), (" au , va,expr", ("va", "expr", "au"))]
)
def test_tasks_come_in_one_order(given: str, tasks: tuple[str, ...]) -> None:
    assert parse_tasks(given) == tasks


@pytest.mark.parametrize("given", ["", ",", "expression", "va;au"])
def test_unknown_tasks(given: str) -> None:
    with pytest.raises(ValueError, match=r"--task .*va, valence, arousal, expr, au"):
        parse_tasks(given)


def test_what_the_order_takes_from_the_config(tmp_path: Path) -> None:
    path = tmp_path / "mtl.toml"
    path.write_text('[backbones.au]\nmodel = "test_resnet"\n[finetune]\ninit = "start/mae.safetensors"\n')
    config = read_config(path)
    request = make_request(config, path, "au")
    assert (request.model, request.section, request.init) == (
        "test_resnet",
        "au",
        str(tmp_path / "start/mae.safetensors"),
    )
    assert make_request(config, path, "au,va", model="m").section == "joint"
    assert make_request(config, path, "au", init="here.pt", name="x", model="m").init == "here.pt"
    with pytest.raises(ValueError, match=r"--model: .*no \[backbones\.expr\]"):
        make_request(config, path, "expr")


def test_rows_of_the_two_sides_never_meet(faces: Given, project: Config) -> None:
    folder, frames = faces
    dataset = gather(project, frames, ("expr",))
    split = dict(frames.select("path", "split").rows())
    assert dataset.folder == folder
    assert {split[dataset.paths[row]] for row in dataset.pool.rows} == {"train"}
    assert {split[dataset.paths[row]] for row in dataset.select} == {"val"}
    assert len(dataset.pool.rows) + len(dataset.select) == len(dataset.paths)
    assert dataset.labels.masks["expr"].all()
    assert not dataset.labels.masks["au"].any()


@pytest.mark.parametrize(
    ("native", "slow", "wanted"), [(True, 3.0, "bfloat16"), (True, 1.2, "float32"), (False, 3.0, "float32")]
)
def test_bfloat16_only_where_it_pays(monkeypatch: pytest.MonkeyPatch, native: bool, slow: float, wanted: str) -> None:
    monkeypatch.setattr(passes, "native_bfloat16", lambda: native)
    monkeypatch.setattr(precision, "_step_s", lambda model, pixels, kind: slow if kind == "float32" else 1.0)
    assert precision.choose_precision(torch.nn.Identity(), PREPROCESSING, torch.device("cpu")) == wanted


def test_measuring_leaves_the_model_alone() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"expr": self.layers(x)}

    model = Model().eval()
    before, state = weights_digest(model), torch.random.get_rng_state()
    precision.choose_precision(model, PREPROCESSING, torch.device("cpu"))
    assert weights_digest(model) == before
    assert not model.training
    assert torch.equal(torch.random.get_rng_state(), state)
