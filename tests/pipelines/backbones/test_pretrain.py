"""Masked pretraining: what is trained on, exact resume, what the encoder is good for afterwards."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import timm
import torch
from safetensors.torch import load_file

from cache.frames import read_frames, write_frames
from cache.locks import alone
from extract.backbones.build import build_trainable, load_backbone
from extract.backbones.mae import draw_orders
from extract.backbones.weights import read_weights
from extract.config import BackboneConfig
from helpers import signalled
from helpers.made_faces import make_project
from helpers.processes import start, world
from pipelines.backbones.pretraining import loop as pretrain_loop
from pipelines.backbones.pretraining.pretrain import Pretrained, pretrain
from pipelines.backbones.pretraining.pretrain_plan import PretrainRequest, make_plan, make_request, memory_bytes
from pipelines.backbones.pretraining.pretrain_state import EpochLog, PretrainContext
from pipelines.backbones.pretraining.unlabelled import choose_faces, hold_out, parse_splits
from pipelines.cli import main
from pipelines.config import Config, read_config
from pipelines.fitting.checkpoint import identity_of, read_checkpoint, write_checkpoint

MODEL = "test_vit"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_project(folder)
    return folder


@pytest.fixture
def project(tmp_path: Path, made: Path) -> Path:
    """A working folder with faces of its own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Pretrained:
    """A pretraining that nothing stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return run(folder)


def settings(folder: Path, **changes: Any) -> Config:
    config = read_config(folder / "mtl.toml")
    return dataclasses.replace(config, pretrain=dataclasses.replace(config.pretrain, **changes))


def requested(config: Config, **changes: Any) -> PretrainRequest:
    return dataclasses.replace(make_request(config, MODEL, "mae", device="cpu"), **changes)


def run(folder: Path, watch: Any = None, request: dict[str, Any] | None = None, **changes: Any) -> Pretrained:
    config = settings(folder, **changes)
    return pretrain(config, requested(config, **(request or {})), watch)


def losses(result: Pretrained) -> list[tuple[float, float | None]]:
    return [(log.loss, log.held_out) for log in result.history]


def weights(result: Pretrained) -> dict[str, torch.Tensor]:
    return load_file(result.plan.paths.weights)


def same(one: Pretrained, other: Pretrained) -> bool:
    """Whether two trainings ended with the same bits."""
    first, second = weights(one), weights(other)
    return (
        losses(one) == losses(other)
        and first.keys() == second.keys()
        and all(torch.equal(first[key], second[key]) for key in first)
    )


class Killed(BaseException):
    """What no code expects, like SIGKILL."""


def after_steps(monkeypatch: pytest.MonkeyPatch, number: int, happens: Any) -> None:
    """`happens()` at the end of that step of the training, counted from 1."""
    train_step, done = pretrain_loop.train_step, []

    def step(*arguments: Any) -> None:
        train_step(*arguments)
        done.append(1)
        if len(done) == number:
            happens()

    monkeypatch.setattr(pretrain_loop, "train_step", step)


def test_the_loss_falls(project: Path) -> None:
    result = run(project, epochs=8)
    first, last = result.history[0], result.history[-1]
    assert last.loss < 0.9 * first.loss
    assert last.held_out is not None
    assert first.held_out is not None
    assert last.held_out < first.held_out


def test_same_seed_same_numbers(project: Path, undisturbed: Pretrained) -> None:
    assert same(run(project), undisturbed)
    assert losses(run(project, seed=1, request={"name": "other"})) != losses(undisturbed)


def test_what_it_writes(undisturbed: Pretrained) -> None:
    folder = undisturbed.plan.paths.report
    assert {path.name for path in folder.iterdir()} == {
        "history.csv",
        "history.json",
        "reconstructions.png",
        "report.html",
    }  # and no checkpoint any more
    table = pl.read_csv(folder / "history.csv")
    assert table["loss"].to_list() == pytest.approx([log.loss for log in undisturbed.history])
    about = json.loads((folder / "history.json").read_text())
    assert (about["num_faces"], about["num_held_out"], about["num_left_out"]) == (36, 6, 6)
    assert len(about["history"]) == 3
    page = (folder / "report.html").read_text()
    assert page.count('<img src="data:image/png') == 4 * (6 + 4)  # held out, trained on
    assert "6 faces of videos that are scored" in page


def test_the_file_loads_in_timm_and_here(undisturbed: Pretrained) -> None:
    path = undisturbed.plan.paths.weights
    plain = timm.create_model(MODEL, num_classes=0, img_size=64)
    plain.load_state_dict(load_file(path), strict=True)
    trainable, preprocessing = build_trainable(MODEL, 3, None, str(path))
    assert preprocessing == undisturbed.plan.preprocessing
    extracting = load_backbone("mae", BackboneConfig(model=MODEL, weights=str(path)), Path())
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = plain.eval()(pixels)
    assert torch.equal(trainable.backbone.eval()(pixels), expected)
    assert torch.equal(extracting.module(pixels), expected)
    start = make_plan(settings(undisturbed.plan.paths.folder), undisturbed.plan.request).model.encoder
    assert not torch.equal(start.eval()(pixels), expected)


def test_it_begins_from_weights(project: Path, undisturbed: Pretrained) -> None:
    init = str(undisturbed.plan.paths.weights)
    plan = make_plan(settings(project), requested(settings(project), init=init))
    assert plan.matched is not None
    assert plan.matched.is_whole
    for name, tensor in load_file(init).items():
        assert torch.equal(plan.model.encoder.state_dict()[name], tensor)


def test_it_sees_all_of_a_face_unless_told_otherwise(project: Path, undisturbed: Pretrained) -> None:
    """What the encoder was shown is kept with it; fine-tuning from it goes by [finetune]."""
    assert undisturbed.plan.preprocessing.crop_pct == 1.0
    cropped = run(project, epochs=1, crop_pct=0.875, request={"name": "cropped"})
    for path, crop_pct in ((undisturbed.plan.paths.weights, 1.0), (cropped.plan.paths.weights, 0.875)):
        found = load_backbone("mae", BackboneConfig(model=MODEL, weights=str(path)), Path()).preprocessing
        assert found.crop_pct == crop_pct
        assert build_trainable(MODEL, 3, None, str(path), crop_pct=1.0)[1].crop_pct == 1.0
    for value in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"pretrain\.crop_pct"):
            make_plan(settings(project, crop_pct=value), undisturbed.plan.request)


def test_in_bfloat16(project: Path, undisturbed: Pretrained) -> None:
    result = run(project, precision="bfloat16")
    assert result.precision == "bfloat16"
    assert losses(result) != losses(undisturbed)
    np.testing.assert_allclose([a for a, _ in losses(result)], [a for a, _ in losses(undisturbed)], rtol=0.03)
    assert all(tensor.dtype == torch.float32 for tensor in weights(result).values())


# Resume.


@pytest.mark.parametrize("step", [1, 4, 5])  # within the first epoch, within the second, between two steps of it
def test_killed_and_resumed_is_undisturbed(
    project: Path, undisturbed: Pretrained, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    def kill() -> None:
        raise Killed

    after_steps(monkeypatch, step + 1, kill)
    with pytest.raises(Killed):
        run(project, checkpoint_minutes=0.0)
    monkeypatch.undo()
    assert not (project / "backbones" / "mae.safetensors").exists()
    result = run(project, checkpoint_minutes=10.0)
    assert result.resumed
    assert same(result, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_step(
    project: Path, undisturbed: Pretrained, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    received: list[int] = []

    def handler(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {each: signal.signal(each, handler) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        after_steps(monkeypatch, 2, lambda: os.kill(os.getpid(), number))
        with pytest.raises(KeyboardInterrupt):
            run(project)
    finally:
        for each, old in before.items():
            signal.signal(each, old)
    assert received == [number]
    monkeypatch.undo()
    kept = load_file(project / "backbones/mae.pretraining/checkpoint.safetensors")
    assert float(kept["optimiser.steps.encoder.norm.weight"]) == 2
    result = run(project)
    assert result.resumed
    assert same(result, undisturbed)


@pytest.mark.slow
def test_sigkill_of_the_command(project: Path, undisturbed: Pretrained) -> None:
    words = ("pretrain", "--model", MODEL, "--device", "cpu", "--set", "pretrain.checkpoint_minutes=0")
    moment = (pretrain_loop.__name__, "train_step", 2, int(signal.SIGKILL))
    assert start(signalled.main, *moment, *words, cwd=project).end()[0] == -signal.SIGKILL
    assert (project / "backbones/mae.pretraining/checkpoint.safetensors").exists()
    assert not (project / "backbones/mae.safetensors").exists()
    result = run(project)
    assert result.resumed
    assert same(result, undisturbed)


def test_finished_is_finished(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(project, epochs=1)
    after_steps(monkeypatch, 1, lambda: pytest.fail("it trained again"))
    again = run(project, epochs=1)
    assert again.was_finished
    assert again.history == first.history
    with pytest.raises(ValueError, match=r"then pretrain.epochs = 1; now pretrain.epochs = 2\); choose another --name"):
        run(project, epochs=2)
    monkeypatch.undo()
    assert len(run(project, epochs=2, request={"restart": True}).history) == 2


def test_begun_anew_and_stopped_it_resumes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(project, epochs=1)
    expected = run(project, request={"name": "other"}, epochs=2)
    after_steps(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(project, request={"restart": True}, epochs=2)
    monkeypatch.undo()
    result = run(project, epochs=2)
    assert result.resumed
    assert same(result, expected)


def test_another_training_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after_steps(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(project)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"then pretrain.base_lr = 0.03; now pretrain.base_lr = 0.01\); --restart"):
        run(project, base_lr=0.01)
    (project / "faces/v0/00077.png").write_bytes((project / "faces/v0/00000.png").read_bytes())
    with pytest.raises(ValueError, match="num_faces = 36; now"):
        run(project, request={"faces": project / "faces"})
    checkpoint = project / "backbones/mae.pretraining/checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole checkpoint; --restart begins anew"):
        run(project)
    assert not run(project, request={"restart": True}).resumed


def test_a_name_is_pretrained_by_one_process(project: Path) -> None:
    with (
        alone(project / ".lock-mae", "another"),
        pytest.raises(ValueError, match=r"^the backbone mae is being written by process \d+; wait until it ends"),
    ):
        run(project)
    assert not (project / "backbones").exists()


def test_weights_of_something_else_stay(project: Path) -> None:
    from extract.backbones.build import save_backbone

    trainable, preprocessing = build_trainable(MODEL, 1, 64, "random")
    path = project / "backbones/mae.safetensors"
    save_backbone(path, trainable.backbone, MODEL, preprocessing, {})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="no pretraining wrote it; choose another --name"):
        run(project, request={"restart": True})
    assert path.read_bytes() == before


def test_a_loss_that_is_no_number(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.backbones.pretraining.loop.lr_at", lambda config, train, progress: 1e12)
    with pytest.raises(ValueError, match=r"no finite number in epoch \d, step \d+; lower pretrain.base_lr"):
        run(project, warmup_epochs=0.0, checkpoint_minutes=0.0)
    checkpoint = project / "backbones/mae.pretraining/checkpoint.safetensors"
    if checkpoint.exists():  # of a step before
        assert all(tensor.isfinite().all() for tensor in load_file(checkpoint).values())
    assert not (project / "backbones/mae.safetensors").exists()


def test_a_checkpoint_is_a_start_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the error about a broken loss promises."""
    after_steps(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(project)
    checkpoint = project / "backbones/mae.pretraining/checkpoint.safetensors"
    plan = make_plan(settings(project), requested(settings(project), init=str(checkpoint)))
    kept = load_file(checkpoint)
    for name, tensor in plan.model.encoder.state_dict().items():
        assert torch.equal(tensor, kept[f"encoder.{name}"])


# Steps.


def test_accumulated_batches_are_one(project: Path, undisturbed: Pretrained) -> None:
    other = run(project, batch_size=4, accumulate=3, request={"name": "other"})
    np.testing.assert_allclose([a for a, _ in losses(other)], [a for a, _ in losses(undisturbed)], rtol=1e-5)
    for name, tensor in weights(undisturbed).items():
        torch.testing.assert_close(weights(other)[name], tensor, rtol=1e-3, atol=1e-4)


def test_accumulation_is_a_mean_over_faces_that_can_be_read(project: Path) -> None:
    """Batches of unequal size: with faces missing, each of the others still counts the same."""
    for frame in (0, 1, 2, 3):
        (project / f"faces/v0/{frame:05d}.png").write_bytes(b"no picture")
    one, other = run(project), run(project, batch_size=4, accumulate=3, request={"name": "other"})
    assert len(one.unreadable) == 4
    np.testing.assert_allclose([a for a, _ in losses(other)], [a for a, _ in losses(one)], rtol=1e-5)


def test_every_face_of_an_epoch_is_shown_once_and_videos_are_capped(project: Path) -> None:
    plan = make_plan(settings(project), requested(settings(project)))
    context = context_of(plan)
    for epoch in (1, 2):
        assert sorted(np.concatenate(context.steps(epoch))) == sorted(plan.faces.train)
    assert [len(step) for step in context.steps(1)] == [12, 12, 12]
    assert not np.array_equal(context.steps(1)[0], context.steps(2)[0])
    capped = context_of(plan, max_faces_per_video=2)
    rows = [np.concatenate(capped.steps(epoch)) for epoch in (1, 2)]
    assert all(np.bincount(plan.faces.videos[each]).max() == 2 for each in rows)
    assert set(rows[0]) != set(rows[1])
    assert make_plan(settings(project, max_faces_per_video=2), requested(settings(project))).num_steps == 3


def context_of(plan: Any, **changes: Any) -> PretrainContext:
    return PretrainContext(
        model=plan.model,
        faces=None,  # type: ignore[arg-type]
        train=plan.faces.train,
        held_out=plan.faces.held_out,
        videos=plan.faces.videos,
        config=dataclasses.replace(plan.config, **changes),
        device=torch.device("cpu"),
        precision="float32",
        name="test",
    )


def test_the_masks_are_new_each_step_and_the_same_each_time(project: Path) -> None:
    context = context_of(make_plan(settings(project), requested(settings(project))))
    drawn = [draw_orders(4, 16, context.rng(epoch, step)).tolist() for epoch, step in ((1, 0), (1, 1), (2, 0), (1, 0))]
    assert drawn[0] == drawn[3]
    assert drawn[0] != drawn[1]
    assert drawn[0] != drawn[2]
    assert all(sorted(request) == list(range(16)) for request in drawn[0])


@pytest.mark.slow
def test_two_processes_train_as_one(project: Path, undisturbed: Pretrained) -> None:
    (project / "faces/v0/00000.png").write_bytes(b"no picture")  # parts of unequal size
    one = run(project, request={"name": "one"})
    words = ("pretrain", "--model", MODEL, "--device", "cpu")
    first, second = [each.end() for each in [start(main, *words, cwd=project, env=env) for env in world(2)]]
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert first[1].startswith("loss ")
    assert second[1] == ""
    history = json.loads((project / "backbones/mae.pretraining/history.json").read_text())["history"]
    np.testing.assert_allclose([(e["loss"], e["held_out"]) for e in history], losses(one), rtol=1e-5)
    for name, tensor in load_file(project / "backbones/mae.safetensors").items():
        torch.testing.assert_close(tensor, weights(one)[name], rtol=1e-3, atol=1e-4)


# Faces.


def test_held_out_and_scored_faces_are_never_trained_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: set[str] = set()
    train_step = pretrain_loop.train_step

    def step(context: Any, model: Any, state: Any, rows: np.ndarray, *rest: Any) -> None:
        trained.update(context.faces.paths[row] for row in rows)
        train_step(context, model, state, rows, *rest)

    monkeypatch.setattr(pretrain_loop, "train_step", step)
    plan = run(project, epochs=1).plan
    held_out = {plan.faces.paths[row].partition("/")[0] for row in plan.faces.held_out}
    videos = {path.partition("/")[0] for path in trained}
    assert len(held_out) == 1
    assert len(trained) == 36
    assert not videos & held_out
    assert "v7" not in videos | held_out  # split test


def test_which_faces_by_default_and_when_asked(project: Path) -> None:
    def videos(faces: Any) -> set[str]:
        return {path.partition("/")[0] for path in faces.paths}

    config = settings(project)
    everything = {f"v{number}" for number in range(8)}
    assert videos(choose_faces(config)) == everything - {"v7"}
    assert choose_faces(config).num_scored == 6
    assert videos(choose_faces(config, splits="train,val,test")) == everything
    assert videos(choose_faces(config, splits="train")) == everything - {"v6", "v7"}
    # The same folder named outright is the same folder, and its test faces stay test faces.
    assert videos(choose_faces(config, project / "faces")) == everything - {"v7"}
    assert videos(choose_faces(config, project / "faces/../faces", "test")) == {"v7"}
    with pytest.raises(ValueError, match="'tset' is no split"):
        choose_faces(config, splits="tset")
    assert parse_splits(" train, val ") == ("train", "val")


def test_without_labels_in_test_half_of_val_is_scored(project: Path) -> None:
    frames = read_frames(project / "frames.parquet")
    val = pl.when(pl.col("video").is_in(["v4", "v5", "v6"])).then(pl.lit("val")).otherwise(pl.col("split"))
    unlabelled = pl.when(pl.col("split") == "test").then(None).otherwise(pl.col("expression"))
    write_frames(frames.with_columns(split=val, expression=unlabelled), project / "frames.parquet")
    faces = choose_faces(settings(project))
    assert faces.num_scored in (12, 18)  # test, and one or two videos of val


def test_a_person_stands_on_one_side(project: Path) -> None:
    frames = read_frames(project / "frames.parquet")
    person = pl.when(pl.col("video").is_in(["v0", "v7"])).then(pl.lit("a")).otherwise(pl.lit(None)).alias("subject")
    write_frames(frames.with_columns(person), project / "frames.parquet")
    for faces in (choose_faces(settings(project)), choose_faces(settings(project), project / "faces")):
        assert not any(path.startswith(("v0/", "v7/")) for path in faces.paths)
        assert faces.num_scored == 12


def test_any_folder_of_faces_with_archives(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    for number in range(3):
        shutil.copytree(project / f"faces/v{number}", other / f"w{number}")
    shutil.make_archive(str(other / "w3"), "zip", project / "faces/v3")
    faces = choose_faces(settings(project), other)
    assert len(faces.paths) == 24
    assert (faces.num_scored, faces.splits) == (0, "none")
    with pytest.raises(ValueError, match="no splits"):
        choose_faces(settings(project), other, "train")
    result = run(project, request={"faces": other}, epochs=1)
    assert not result.unreadable
    assert len(result.plan.faces.train) == 18


def test_hold_out_keeps_videos_whole() -> None:
    groups = np.repeat([f"g{number:02d}" for number in range(30)], 10)
    train, held_out, unused = hold_out(groups, 15, seed=0)
    assert (len(train), len(held_out), unused) == (280, 15, 5)
    assert not set(groups[train]) & set(groups[held_out])
    assert set(hold_out(groups, 15, seed=1)[1]) != set(held_out)
    long = np.array(["long"] * 90 + ["short"] * 20)
    assert set(long[hold_out(long, 8, seed=0)[1]]) == {"short"}
    assert len(hold_out(np.array(["only"] * 9), 8, seed=0)[1]) == 0
    assert len(hold_out(groups, 0, seed=0)[1]) == 0


def test_without_held_out_faces(project: Path) -> None:
    result = run(project, epochs=1, held_out_faces=0)
    assert result.history[0].held_out is None
    page = (result.plan.paths.report / "report.html").read_text()
    assert "Faces it was trained on" in page
    assert "Held-out" not in page


def test_raw_pixels_as_targets(project: Path) -> None:
    result = run(project, epochs=1, normalise_targets=False)
    page = (result.plan.paths.report / "report.html").read_text()
    assert "means alone" not in page
    assert np.isfinite(result.history[0].loss)


def test_faces_that_cannot_be_read_are_reported(project: Path) -> None:
    (project / "faces/v0/00003.png").write_bytes(b"")
    result = run(project, epochs=1)
    assert [path for path, _ in result.unreadable] == ["v0/00003.png"]
    for path in (project / "faces").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no face to train on can be read; .*empty file"):
        run(project, epochs=1, request={"name": "none"})


def test_what_it_is_watched_by(project: Path) -> None:
    notes: list[EpochLog] = []
    result = run(project, notes.append, epochs=2)
    assert tuple(notes) == result.history
    assert [log.epoch for log in notes] == [1, 2]


def test_the_estimate_of_memory_grows_with_the_batch(project: Path) -> None:
    few, many = (
        memory_bytes(make_plan(settings(project, batch_size=size), requested(settings(project)))) for size in (4, 32)
    )
    assert few < many


# Checkpoints.


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path, identity = tmp_path / "new/c.safetensors", identity_of({"lr": 0.1, "part": {"depth": 2}})
    tensors = {
        "conv": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "count": torch.zeros((), dtype=torch.float64),
        "none": torch.zeros(0),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }
    assert read_checkpoint(path, identity) is None
    write_checkpoint(path, tensors, {"identity": identity, "history": [0.1, 1 / 3]})
    kept = read_checkpoint(path, identity)
    assert kept is not None
    assert all(torch.equal(kept[0][name], tensor) for name, tensor in tensors.items())
    assert kept[1] == {"identity": identity, "history": [0.1, 1 / 3]}
    with pytest.raises(ValueError, match=r"another training \(then part.depth = 2; now part.depth = 3\); --restart"):
        read_checkpoint(path, identity_of({"lr": 0.1, "part": {"depth": 3}}))
    with pytest.raises(ValueError, match="another training; --restart"):
        read_checkpoint(path, "plain words")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_checkpoint_is_no_checkpoint(tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "c.safetensors"
    write_checkpoint(path, {"w": torch.randn(100)}, {"identity": "i"})
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-3], "flipped": whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]}.get(damage, b""))
    if damage == "foreign":
        save_file({"w": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"c.safetensors: not a whole checkpoint; --restart begins anew"):
        read_checkpoint(path, "i")


def test_one_bit_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    """Of its counters as of its numbers: an epoch or a step that says another would train another model."""
    path, about = tmp_path / "c.safetensors", {"identity": "i", "epoch": 12, "step": 345, "history": [{"loss": 0.25}]}
    write_checkpoint(path, {"w": torch.randn(30), "n": torch.zeros((), dtype=torch.float64)}, about)
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"c\.safetensors: not a whole checkpoint; --restart begins anew$"):
            read_checkpoint(path, "i")


def test_the_weights_say_how_they_came_about(undisturbed: Pretrained) -> None:
    _, metadata = read_weights(undisturbed.plan.paths.weights)
    assert json.loads(metadata["pretraining"])["pretrain"]["mask_ratio"] == 0.75
    assert json.loads(metadata["preprocessing"])["size_px"] == 64
    assert metadata["model"] == MODEL
