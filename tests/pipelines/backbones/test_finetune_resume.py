"""A fine-tuning that is stopped or killed resumes, and ends with the bits of an undisturbed one."""

import dataclasses
import json
import signal
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch

from cache.frames import write_frames
from helpers import signalled
from helpers.processes import start
from helpers.small_faces import MODEL, SETTINGS, Given, digest, run
from pipelines.backbones.finetuning import finetune as job
from pipelines.backbones.finetuning import loop
from pipelines.backbones.finetuning.finetune import finetune
from pipelines.backbones.finetuning.request import make_request
from pipelines.backbones.finetuning.result import Finetuned
from pipelines.backbones.task_model import checkpoint_path, history_path
from pipelines.config import Config, read_config
from pipelines.fitting.epochs import Epoch
from pipelines.typed import to_mapping

# Everything that keeps a state or draws random numbers; a third of the faces are drawn anew each epoch.
RECIPE: dict[str, Any] = {
    "epochs": 3,
    "ema": 0.9,
    "mixup": 0.3,
    "erase": 0.3,
    "drop_path": 0.2,
    "accumulate": 2,
    "batch_size": 16,
    "balance": "both",
    "max_faces_per_video": 8,
    "max_faces_per_epoch": 80,
    "layer_decay": 0.8,
    "probe_epochs": 1,
}


# The state is kept after every step.
FINETUNE = ["finetune", "--task", "expr,au", "--model", "test_vit2", "--device", "cpu"]
FINETUNE += ["--set", "finetune.checkpoint_minutes=0"]


class Dead(BaseException):
    """What a killed process cannot catch."""


def dying(monkeypatch: pytest.MonkeyPatch, step: int, death: Callable[[], None]) -> None:
    """`death` happens once, when `step` has been taken."""
    optimiser_step = loop.optimiser_step

    def moved(context: loop.TrainContext, state: loop.FinetuneState, lr: float) -> None:
        optimiser_step(context, state, lr)
        if state.num_steps == step:
            monkeypatch.setattr(loop, "optimiser_step", optimiser_step)
            death()

    monkeypatch.setattr(loop, "optimiser_step", moved)


def die() -> None:
    raise Dead


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def told(result: Finetuned) -> dict[str, Any]:
    """All that `result` says but for times."""
    found = result.to_json()
    for epoch in found["history"]:
        del epoch["seconds"]
    return found


@pytest.fixture(scope="module")
def undisturbed(faces: Given, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What a training says that nobody stopped, and the digest of its weights."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "mtl.toml").write_text(f"[data]\nfaces = {json.dumps(str(faces[0]))}\n")
    config = dataclasses.replace(read_config(folder / "mtl.toml"), finetune=SETTINGS)
    return told(run(config, faces[1], "expr,au", **RECIPE)), digest(config, "joint")


@pytest.mark.parametrize("step", [1, 3, 4, 8])  # 3 steps an epoch: inside, at its end, inside a later one
def test_stopped_by_ctrl_c_it_ends_with_the_same_bits(
    project: Config, faces: Given, undisturbed: Any, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    dying(monkeypatch, step, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(project, faces[1], "expr,au", **RECIPE)
    kept = checkpoint_path(project.folder, "joint")
    assert list((project.folder / "backbones").iterdir()) == [kept]
    steps: list[int] = []
    monkeypatch.setattr(loop, "backward", counted(loop.backward, steps))
    torch.manual_seed(99)
    assert told(run(project, faces[1], "expr,au", **RECIPE)) == undisturbed[0]
    assert digest(project, "joint") == undisturbed[1]
    assert len(steps) == 2 * (9 - step)
    assert not kept.exists()


def counted(backward: Any, steps: list[int]) -> Any:
    def counting(*arguments: Any) -> bool:
        steps.append(1)
        return bool(backward(*arguments))

    return counting


@pytest.mark.parametrize(("minutes", "lost"), [(10.0, 1), (0.0, 0)])
def test_killed_it_ends_with_the_same_bits(
    project: Config, faces: Given, undisturbed: Any, monkeypatch: pytest.MonkeyPatch, minutes: float, lost: int
) -> None:
    """Without a moment's notice: what was kept after the epoch, or after the step, is where it resumes."""
    dying(monkeypatch, 5, die)
    with pytest.raises(Dead):
        run(project, faces[1], "expr,au", **RECIPE, checkpoint_minutes=minutes)
    steps: list[int] = []
    monkeypatch.setattr(loop, "backward", counted(loop.backward, steps))
    assert told(run(project, faces[1], "expr,au", **RECIPE)) == undisturbed[0]
    assert digest(project, "joint") == undisturbed[1]
    assert len(steps) == 2 * (9 - 4 + lost)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_process_that_is_killed(project: Config, faces: Given, number: signal.Signals, code: int) -> None:
    """The command itself, in a process of its own; after SIGKILL nothing of it runs any more."""
    recipe = dataclasses.replace(project.finetune, **RECIPE)
    write_frames(faces[1], project.folder / "frames.parquet")
    text = (project.folder / "mtl.toml").read_text() + "[finetune]\n"
    values = {key: value for key, value in to_mapping(recipe).items() if value not in ("", [])}
    (project.folder / "mtl.toml").write_text(text + "\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items()))
    moment = (loop.__name__, "optimiser_step", 5, int(number))
    found, _, err = start(signalled.main, *moment, *FINETUNE, cwd=project.folder).end()
    assert found == code, err
    if number != signal.SIGKILL:
        assert "the same command resumes from backbones/joint.checkpoint.safetensors" in err
    assert [path.name for path in (project.folder / "backbones").glob("[a-z]*")] == ["joint.checkpoint.safetensors"]
    config = read_config(project.folder / "mtl.toml")
    run(config, faces[1], "expr,au")
    assert not checkpoint_path(project.folder, "joint").exists()
    resumed = digest(project, "joint")
    run(config, faces[1], "expr,au")
    assert digest(project, "joint") == resumed


def test_a_second_ctrl_c_does_not_wait(project: Config, faces: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        ctrl_c()
        ctrl_c()
        raise AssertionError("the second one was to end it")

    dying(monkeypatch, 2, twice)
    with pytest.raises(KeyboardInterrupt):
        run(project, faces[1], epochs=2)
    assert not checkpoint_path(project.folder, "expr").exists()


def test_stopped_while_it_predicts(
    project: Config, faces: Given, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps of the epoch are not taken again; its averaged weights were in place when the signal came."""
    predict = loop.predict_faces

    def interrupted(*arguments: Any) -> Any:
        monkeypatch.setattr(loop, "predict_faces", predict)
        ctrl_c()
        return predict(*arguments)

    monkeypatch.setattr(loop, "predict_faces", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(project, faces[1], "expr,au", **RECIPE)
    assert told(run(project, faces[1], "expr,au", **RECIPE)) == undisturbed[0]
    assert digest(project, "joint") == undisturbed[1]


def test_a_finished_backbone_gives_way_to_a_finished_one_only(project: Config, faces: Given) -> None:
    def interrupt(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    run(project, faces[1], epochs=1)
    before = {path: path.read_bytes() for path in project.folder.rglob("*.*")}
    with pytest.raises(KeyboardInterrupt):
        run(project, faces[1], watch=interrupt, seed=5)
    checkpoint_path(project.folder, "expr").unlink()
    assert {path: path.read_bytes() for path in project.folder.rglob("*.*")} == before


def test_after_early_stopping_nothing_is_trained_again(
    project: Config, faces: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command dies after its last epoch, before anything was saved."""
    with monkeypatch.context() as patch:
        patch.setattr(job, "finish", lambda *_: die())
        with pytest.raises(Dead):
            run(project, faces[1], lr=1e-30, epochs=9, patience=1)
    epochs: list[Epoch] = []
    result = run(project, faces[1], lr=1e-30, epochs=9, patience=1, watch=epochs.append)
    assert epochs == []
    assert (result.epoch, len(result.history)) == (1, 2)


def test_another_training_does_not_go_on_from_it(project: Config, faces: Given) -> None:
    def interrupt(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(project, faces[1], watch=interrupt)
    with pytest.raises(ValueError, match=r"another training \(then finetune\.lr = 0\.002; now finetune\.lr = 0\.004\)"):
        run(project, faces[1], lr=4e-3)
    relabelled = faces[1].with_columns(expression=pl.lit(3, pl.Int8))
    with pytest.raises(ValueError, match=r"data\.\[data\]\.labels = .*--restart"):
        run(project, relabelled)
    run(project, faces[1], "au", epochs=1)  # a section of another name
    config = dataclasses.replace(project, finetune=dataclasses.replace(project.finetune, lr=4e-3, epochs=1))
    request = make_request(config, config.folder / "mtl.toml", "expr", model=MODEL, device="cpu", restart=True)
    assert len(finetune(config, faces[1], request).history) == 1
    assert not checkpoint_path(project.folder, "expr").exists()


def test_the_history_lies_beside_the_weights(project: Config, faces: Given) -> None:
    result = run(project, faces[1], epochs=2, min_lr=1e-5)
    written = json.loads((project.folder / history_path("expr")).read_text())
    assert written == result.to_json()
    assert [epoch["epoch"] for epoch in written["history"]] == [1, 2]
    assert {"loss", "loss.expr", "expr", "P", "lr", "seconds"} <= set(written["history"][0])
    assert written["history"][1]["lr"] == pytest.approx(1e-5)
