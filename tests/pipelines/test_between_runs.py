"""Latents, coupling, subjects and class embeddings all the way: mtl.toml, grid, stack, run folder, ONNX file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from heads.model import build_head
from heads.tasks import ABAW_TASKS
from helpers.cli import refused
from pipelines.class_embeddings import read_class_embeddings
from pipelines.config import parse_config
from pipelines.export.heads import head_graph
from pipelines.fitting.runs import Spec
from pipelines.strategy import problem_of, strategy_of
from pipelines.training.manifest import digest_on
from pipelines.training.packing import stack_key
from pipelines.training.run import load_run, predict_run, train_run
from pipelines.training.train import TrainRequest, train_strategies, train_strategy

SHORT = {"steps": 6, "eval_steps": 3, "warmup_steps": 0, "temporal": "gru"}
ALL = {"latent": 4, "latent_va": "beside", "coupling": "gated", "classes_from": "both"}
LOSSES = {"latent_warmup_steps": 4, "latent_smoothness": 0.1, "subject_adversarial": 0.5}


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """Eight embeddings of width 5."""
    path = tmp_path / "names.npy"
    np.save(path, np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32))
    return path


def values(names: Path, **more) -> dict:
    return {**SHORT, **ALL, **LOSSES, "class_embeddings": str(names), **more}


def test_a_run_of_everything_comes_back_as_it_was(small, made, names, tmp_path: Path) -> None:
    dataset, strategy = made.dataset(), strategy_of(small).replace(values(names), "test")
    train_run(small, dataset, strategy, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.strategy == strategy
    assert run.manifest["class_embeddings"] == read_class_embeddings(names, small.schema, ("expr",)).digest
    select = dataset.split(small.split, strategy.train.fold).select
    again, trained = predict_run(run, dataset, select), train_strategy(small, dataset, strategy)
    for task, part in trained.predictions["select"].probabilities.parts.items():
        np.testing.assert_allclose(again.probabilities.parts[task], part, atol=1e-6)


@pytest.mark.parametrize("method", ["separate", "progressive"])
def test_models_by_task_have_latents_and_losses_of_their_own(small, made, names, method) -> None:
    chosen = values(names, method=method, coupling="none", classes_from="features", frozen_steps=3)
    found = train_strategy(small, made.dataset(), strategy_of(small).replace(chosen, "test"))
    assert np.isfinite(found.metrics["select"]["P"])
    assert all("latent" in " ".join(model.module.state_dict()) for model in found.models if model.spec.name != "va")


def test_a_stack_trains_each_as_alone(small, made, names) -> None:
    """Of other numbers, seeds and folds, whose subjects differ; the third stops early."""
    base = strategy_of(small).replace(values(names, fold=0), "test")
    changes = [
        {"seed": 0},
        {"seed": 1, "fold": 1, "latent_kl": 0.5, "subject_adversarial": 2.0},
        {"seed": 2, "lr": 0.01, "class_embeddings_weight": 0.1, "latent_warmup_steps": 0, "patience": 1},
    ]
    strategies = [base.replace(change, "test") for change in changes]
    assert len({stack_key(one, small) for one in strategies}) == 1
    stacked = train_strategies(small, made.dataset(), [TrainRequest(strategy=one) for one in strategies])
    for strategy, one in zip(strategies, stacked, strict=True):
        alone = train_strategy(small, made.dataset(), strategy)
        for note, other in zip(one.history, alone.history, strict=True):
            assert note.losses == pytest.approx(other.losses, rel=1e-4)
        for name, value in one.models[0].module.state_dict().items():
            torch.testing.assert_close(value, alone.models[0].module.state_dict()[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    "change",
    [{"latent": 8}, {"coupling": "gated"}, {"subject_adversarial": 1.0}, {"class_embeddings": "x.npy"}, {"latent": 0}],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_shapes_is_no_stack(small, change) -> None:
    base = strategy_of(small)
    same = stack_key(base.replace(change, "test"), small) == stack_key(base, small)
    assert same is (change == {"latent": 0})


def test_the_onnx_file_predicts_the_posterior_mean() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    generator, parts = torch.Generator().manual_seed(0), {"a": 6, "b": 10}
    config = (
        strategy_of(parse_config({}, Path(), "mtl.toml")).replace({**ALL, "width": 16, "temporal": "none"}, "").head
    )
    module = build_head(config, parts).eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    spec = Spec(name="joint", kind="head", tasks=config.tasks, parts={"joint": parts})
    session = onnxruntime.InferenceSession(head_graph(spec, module, "a head"))
    streams = {name: torch.randn(3, 7, width, generator=generator) for name, width in parts.items()}
    valid, times = torch.rand(3, 7, generator=generator) > 0.3, torch.arange(7).expand(3, 7).contiguous()
    feed = {f"stream_{name}": x.numpy() for name, x in streams.items()} | {"valid": valid.numpy()}
    feed |= {"times": times.numpy()}
    asked = {one.name for one in session.get_inputs()}
    found = session.run(list(config.tasks), {name: x for name, x in feed.items() if name in asked})
    with torch.no_grad():
        wanted = module({name: x[None] for name, x in streams.items()}, valid[None], times[None])
    for name, array in zip(config.tasks, found, strict=True):
        expected = ABAW_TASKS[name].probabilities(wanted[name][0])
        np.testing.assert_allclose(array[valid.numpy()], expected[valid].numpy(), atol=1e-5)


def test_a_changed_file_of_embeddings_is_another_run(small, made, names) -> None:
    dataset, strategy = made.dataset(), strategy_of(small).replace(values(names), "test")
    first = digest_on(dataset, small, strategy)
    assert digest_on(dataset, small, strategy) == first
    save_file({"names": np.load(names) + 1}, names.with_suffix(".safetensors"))
    other = strategy.replace({"class_embeddings": str(names.with_suffix(".safetensors"))}, "test")
    np.save(names, np.load(names) + 1)
    assert digest_on(dataset, small, strategy) != first
    np.testing.assert_array_equal(
        read_class_embeddings(names, small.schema, ("expr",)).values,
        read_class_embeddings(Path(other.loss.class_embeddings), small.schema, ("expr",)).values,
    )


def written(path: Path, content) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        save_file(content, path)
    elif content is not None:
        np.save(path, content)
    return path


EIGHT = np.ones((8, 4), np.float32)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.npy", None, "no such file"),
        ("words.npy", b"no array", "it cannot be read as a .npy file"),
        ("cut.safetensors", b"\x08", "it cannot be read as a .safetensors file"),
        ("seven.npy", EIGHT[:7], "it has 7 rows, and one per class is needed (8 of expr)"),
        ("flat.npy", EIGHT[0], "one array of floating-point numbers [classes, width] is expected, found (4,)"),
        ("whole.npy", EIGHT.astype(np.int64), "one array of floating-point numbers"),
        ("two.safetensors", {"a": EIGHT, "b": EIGHT}, "one array of floating-point numbers"),
        ("nan.npy", EIGHT * np.nan, "a row holds no finite numbers"),
        ("zero.npy", EIGHT * 0, "a row holds no finite numbers, or zeros alone"),
        ("objects.npy", np.array([[None]], object), "it cannot be read as a .npy file"),
        ("words.txt", b"no array", "neither a .npy nor a .safetensors file"),
    ],
)
def test_a_file_that_cannot_be_is_one_line(small, tmp_path: Path, name, content, words) -> None:
    path = written(tmp_path / name, content)
    found = problem_of(strategy_of(small).replace({"class_embeddings": str(path)}, "test"), small)
    assert found is not None
    assert words in found
    assert str(path) in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": ["va"], "class_embeddings": "NAMES"}, "no task of classes among va"),
        ({"tasks": ["va"], "coupling": "gated"}, "a head of the task va alone has none to couple it with"),
        ({"tasks": ["va", "au"], "classes_from": "both"}, "a task of classes and one that is none are needed"),
        ({"method": "separate", "coupling": "gated"}, "its models have a task each, so coupling = 'gated'"),
        ({"method": "progressive", "classes_from": "both"}, "its models have a task each, so classes_from = 'both'"),
    ],
)
def test_values_that_do_not_go_together(small, names, change, words) -> None:
    change = {key: str(names) if value == "NAMES" else value for key, value in change.items()}
    assert words in (problem_of(strategy_of(small).replace(change, "test"), small) or "")


def test_the_command_says_so_in_one_line(project: Path) -> None:
    assert "gone.npy" in refused("train-head", "--set", "loss.class_embeddings=gone.npy")
    assert not (project / "runs").exists()
